/* Whole files: bounded reading, and writing that is either complete and durable or absent. Thread: any. */
#ifndef JOUST_PROTO_BASE_FILE_H
#define JOUST_PROTO_BASE_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/bytes.h"
#include "proto/base/status.h"

/* Reads path whole into to (cleared first). Errors name the path: JOUST_NOT_FOUND, JOUST_IO,
 * JOUST_TOO_LARGE above max_bytes, JOUST_INVALID if it is not a regular file. */
JOUST_MUST_USE joust_status joust_file_read(const char *path, uint64_t max_bytes, joust_buf *to,
                                            joust_error *err);
/* Writes to a temporary name in the same folder, syncs, renames, syncs the folder.
 * Errors: JOUST_IO, JOUST_DISK_FULL; path is untouched then. */
JOUST_MUST_USE joust_status joust_file_write(const char *path, const void *data, uint64_t n,
                                             joust_error *err);
/* Syncs a folder's entries to disk. */
JOUST_MUST_USE joust_status joust_dir_sync(const char *path, joust_error *err);
/* Makes path and its missing parents, mode 0777 less umask; fine if it exists as a folder. */
JOUST_MUST_USE joust_status joust_dir_make(const char *path, joust_error *err);
/* Removes path and what is below it; does not follow links out of it. Fine if absent. */
JOUST_MUST_USE joust_status joust_dir_remove(const char *path, joust_error *err);
bool joust_file_exists(const char *path);
bool joust_dir_exists(const char *path);
/* "a/b" from "a" and "b"; b alone if it is absolute or a is "" or NULL. Returns owned; NULL when out of memory. */
char *joust_path_join(const char *a, const char *b);
/* The status for an errno value: ENOENT is NOT_FOUND, ENOSPC and EDQUOT are DISK_FULL, else IO. */
joust_status joust_status_of_errno(int number);

#endif
