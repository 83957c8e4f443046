/* Folders of a test's own, with files in them. */
#ifndef JOUST_TESTS_COORDINATOR_SCRATCH_H
#define JOUST_TESTS_COORDINATOR_SCRATCH_H

#include "check.h"

#include <stdlib.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"

/* In memory where that is, else in /tmp. Returns owned; scratch_remove removes and frees it. */
static inline char *scratch_make(void)
{
    char *dir =
        joust_strdup(joust_dir_exists("/dev/shm") ? "/dev/shm/joust-XXXXXX" : "/tmp/joust-XXXXXX");
    assert_non_null(dir);
    assert_non_null(mkdtemp(dir));
    return dir;
}

static inline void scratch_remove(char **dir)
{
    joust_error err;
    check_ok(joust_dir_remove(*dir, &err));
    joust_free(*dir);
    *dir = NULL;
}

/* Writes dir/name; returns its path, owned. */
static inline char *scratch_write(const char *dir, const char *name, const void *data, size_t n)
{
    joust_error err;
    char *path = joust_path_join(dir, name);
    assert_non_null(path);
    check_ok(joust_file_write(path, data, n, &err));
    return path;
}

#endif
