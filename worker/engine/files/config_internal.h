/* What reading and writing config.json share. */
#ifndef JOUST_WORKER_ENGINE_FILES_CONFIG_INTERNAL_H
#define JOUST_WORKER_ENGINE_FILES_CONFIG_INTERNAL_H

#include <jansson.h>

#include "proto/base/bytes.h"
#include "worker/engine/model.h"

#define JOUST_MAX_CONFIG_BYTES (1u << 20)

/* "llama": the family's model_type. */
const char *joust_model_family_type(joust_family family);
/* The text of config.json for weights of this dtype ("float32"); the keys of source (NULL: none) that the engine doesn't
 * read follow, in their order. The same input gives the same bytes. Errors: JOUST_INVALID (config), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_model_config_format(const joust_model_config *config,
                                                      const json_t *source, const char *dtype,
                                                      joust_buf *to, joust_error *err);

#endif
