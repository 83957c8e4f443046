/* Folders of files by digest, both ways: fetched chunk by chunk from the coordinator, and uploaded
 * as the chunks that it lacks. Every chunk is checked against its digest; a folder appears whole or
 * not at all. A few requests are under way at a time, so that a link's round trip doesn't set the
 * speed. Thread: the compute thread. */
#ifndef JOUST_PROTO_TRANSFER_H
#define JOUST_PROTO_TRANSFER_H

#include "proto/upstream.h"

#define JOUST_TRANSFER_WINDOW 4u /* chunks under way */

/* The files of a manifest into the new folder dir, by way of the folder part (made; not cleaned up
 * after a failure). A file that one of the n_near folders has, whole and under its name, is that one by another
 * name (a hard link) and isn't fetched: of a policy that is an adapter the base travels once. *ret_bytes: of all
 * files. Errors: JOUST_NOT_FOUND (the coordinator lacks a
 * chunk), JOUST_CORRUPT, JOUST_INTERRUPTED, JOUST_EXISTS (dir), JOUST_DISK_FULL, JOUST_IO,
 * JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_fetch_dir(const joust_upstream *up, const joust_digest *manifest,
                                            const char *part, const char *dir,
                                            const char *const *near, uint32_t n_near,
                                            uint64_t *ret_bytes, joust_error *err);

/* Sends the chunks of dir's files that the coordinator lacks, and last the manifest, and returns
 * once all are durable there. Errors: JOUST_INTERRUPTED, JOUST_NOT_FOUND, JOUST_IO, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_upload_dir(const joust_upstream *up, const char *dir,
                                             joust_digest *ret_manifest, joust_error *err);

/* One blob by digest, checked, into to (cleared first). Errors: as joust_fetch_dir. */
JOUST_MUST_USE joust_status joust_fetch_blob(const joust_upstream *up, const joust_digest *digest,
                                             joust_buf *to, joust_error *err);

#endif
