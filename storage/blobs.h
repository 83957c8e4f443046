/* Content-addressed files below STORE/blobs: chunks of checkpoints and files, and the manifests that list them.
 * A blob's name is its digest: DIR/blobs/aa/<64 hex digits>. A blob that is there is whole and durable.
 * Thread: any; several processes may read while one writes. */
#ifndef JOUST_STORAGE_BLOBS_H
#define JOUST_STORAGE_BLOBS_H

#include "proto/base/bytes.h"
#include "proto/records.h"

#define JOUST_MAX_BLOB_BYTES (64u << 20) /* a manifest of many chunks is the largest */

typedef struct joust_blobs joust_blobs;

/* Opens STORE/blobs below the store folder. create: makes it, and removes what a killed writer left half-written, so that there
 * must be no other writer. Errors: JOUST_NOT_FOUND, JOUST_IO, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_blobs_open(const char *store_dir, bool create, joust_blobs **ret,
                                             joust_error *err);
void joust_blobs_close(joust_blobs **blobs); /* NULL is fine */

/* Stores data under digest, durably; a blob that is there already is a no-op.
 * Errors: JOUST_MALFORMED if data has another digest; JOUST_TOO_LARGE; JOUST_DISK_FULL, JOUST_IO. */
JOUST_MUST_USE joust_status joust_blobs_put(joust_blobs *blobs, const joust_digest *digest,
                                            const void *data, size_t n, joust_error *err);
/* Reads it into to (cleared first), verified. Errors: JOUST_NOT_FOUND; JOUST_CORRUPT naming the file. */
JOUST_MUST_USE joust_status joust_blobs_get(joust_blobs *blobs, const joust_digest *digest,
                                            joust_buf *to, joust_error *err);
bool joust_blobs_has(joust_blobs *blobs, const joust_digest *digest);

/* Manifest by digest; ret is freed with joust_manifest_fini. Errors: as get, and JOUST_CORRUPT if it doesn't decode. */
JOUST_MUST_USE joust_status joust_blobs_get_manifest(joust_blobs *blobs, const joust_digest *digest,
                                                     joust_manifest *ret, joust_error *err);
/* Whether the manifest and every chunk it lists are there (not read); ret_missing (may be NULL) gets the first
 * that isn't. */
JOUST_MUST_USE joust_status joust_blobs_complete(joust_blobs *blobs, const joust_digest *manifest,
                                                 bool *ret, joust_digest *ret_missing,
                                                 joust_error *err);
/* Reads and verifies the manifest, every chunk and every file's digest. Errors: JOUST_CORRUPT, JOUST_NOT_FOUND, each
 * naming the file. */
JOUST_MUST_USE joust_status joust_blobs_verify(joust_blobs *blobs, const joust_digest *manifest,
                                               joust_error *err);
/* Stores the files of a manifest that describes dir, and the manifest. Errors: JOUST_CORRUPT (a file has changed),
 * JOUST_NOT_FOUND, JOUST_IO, JOUST_DISK_FULL. */
JOUST_MUST_USE joust_status joust_blobs_put_files(joust_blobs *blobs, const char *dir,
                                                  const joust_manifest *m,
                                                  joust_digest *ret_manifest, joust_error *err);
/* Stores the folder's regular files (or the one file, if path is a file) as chunks and a manifest. Names that begin
 * with '.' and folders are left out. Errors: JOUST_INVALID if nothing is left; JOUST_NOT_FOUND, JOUST_IO. */
JOUST_MUST_USE joust_status joust_blobs_import(joust_blobs *blobs, const char *path,
                                               joust_digest *ret_manifest, joust_error *err);
/* Makes dir hold the manifest's files: written beside it, verified, synced, renamed; so dir is whole or absent. A dir
 * that holds them already is a no-op. Errors: JOUST_EXISTS if it holds something else; as verify; JOUST_DISK_FULL. */
JOUST_MUST_USE joust_status joust_blobs_export(joust_blobs *blobs, const joust_digest *manifest,
                                               const char *dir, joust_error *err);

/* Reads every file below the folder, by name, and calls see(user, path, wrong, err): wrong is NULL for a blob that matches its
 * name, else what is wrong with the file. Left-over temporary files of a killed writer are passed over. Stops at the
 * first call that doesn't return JOUST_OK, with its status. */
typedef joust_status joust_blob_see(void *user, const char *path, const char *wrong,
                                    joust_error *err);
JOUST_MUST_USE joust_status joust_blobs_walk(joust_blobs *blobs, joust_blob_see *see, void *user,
                                             joust_error *err);

#endif
