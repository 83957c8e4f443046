/* What the tests of the engine's files share: a folder of their own, small files in it, shared test data.
 * Included after tests/check.h. */
#ifndef JOUST_TESTS_ENGINE_FILES_FIXTURE_H
#define JOUST_TESTS_ENGINE_FILES_FIXTURE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/bytes.h"
#include "proto/base/status.h"
#include "tests/oom.h"
#include "worker/engine/model.h"

/* A fresh folder under the build folder; the caller removes it by scratch_remove. Returns owned. */
char *scratch_make(void);
void scratch_remove(char **dir);
/* dir/name holds exactly these bytes afterwards. */
void scratch_write(const char *dir, const char *name, const void *data, size_t n);
/* The bytes of dir/name, which must be there. */
joust_buf scratch_read(const char *dir, const char *name);

/* Path of shared/data/name beside the checkout, or NULL after a line that says so: then the test returns. Owned. */
char *shared_data(const char *name);
/* Bytes of a file that gzip can unpack. */
joust_buf unpack(const char *path);

/* err's text must hold this. */
void check_text(const joust_error *err, const char *part);

/* A small valid config: 2 layers, width 16, 4 heads with 2 for keys, ffn 24, vocabulary 20. */
joust_model_config small_config(bool tied);

#endif
