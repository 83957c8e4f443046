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
/* Opens a regular file for reading; *ret_bytes is its length now. Errors: JOUST_NOT_FOUND, JOUST_INVALID for what is no
 * regular file (a FIFO is not waited for), JOUST_IO. */
JOUST_MUST_USE joust_status joust_file_open(const char *path, int *ret, uint64_t *ret_bytes,
                                            joust_error *err);
/* Writes to a temporary name in the same folder, syncs, renames, syncs the folder.
 * Errors: JOUST_IO, JOUST_DISK_FULL, JOUST_NOMEM; path is untouched then. */
JOUST_MUST_USE joust_status joust_file_write(const char *path, const void *data, uint64_t n,
                                             joust_error *err);
/* The same in pieces, for what is too large to hold twice: open, add any number of times, then commit, which syncs,
 * renames and frees the writer whatever happens; or abort. Without a commit path stays untouched.
 * After an error only commit (which gives that error again) or abort may follow. */
typedef struct joust_file_writer joust_file_writer;
JOUST_MUST_USE joust_status joust_file_writer_open(const char *path, joust_file_writer **ret,
                                                   joust_error *err);
JOUST_MUST_USE joust_status joust_file_writer_add(joust_file_writer *w, const void *data,
                                                  uint64_t n, joust_error *err);
JOUST_MUST_USE joust_status joust_file_writer_commit(joust_file_writer **w, joust_error *err);
void joust_file_writer_abort(joust_file_writer **w); /* NULL is fine */
/* Syncs a folder's entries to disk. */
JOUST_MUST_USE joust_status joust_dir_sync(const char *path, joust_error *err);
/* Makes path and its missing parents, mode 0777 less umask; fine if it exists as a folder. */
JOUST_MUST_USE joust_status joust_dir_make(const char *path, joust_error *err);
/* The files of the folder `from` in the new folder `to` as well, without copies (hard links; not those whose names begin
 * with a dot). What `to` was before is removed. Errors: JOUST_IO (other file systems, folders within), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_dir_link(const char *from, const char *to, joust_error *err);
/* Removes path and what is below it; does not follow links out of it. Fine if absent. */
JOUST_MUST_USE joust_status joust_dir_remove(const char *path, joust_error *err);
bool joust_file_exists(const char *path);
bool joust_dir_exists(const char *path);
/* True also if there is nothing at path. */
bool joust_dir_is_empty(const char *path);
/* "a/b" from "a" and "b"; b alone if it is absolute or a is "" or NULL. Returns owned; NULL when out of memory. */
char *joust_path_join(const char *a, const char *b);
/* Replaces the owned *path of something that exists by its absolute form without links. Errors: JOUST_IO, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_path_absolute(char **path, joust_error *err);
/* "a" from "a/b", "." from "b", "/" from "/b". Returns owned; NULL when out of memory. */
char *joust_path_parent(const char *path);
/* The status for an errno value: ENOENT is NOT_FOUND, ENOSPC and EDQUOT are DISK_FULL, else IO. */
joust_status joust_status_of_errno(int number);

#endif
