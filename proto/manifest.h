/* Manifests: a folder of files as names, sizes and chunk digests, so that weights and data travel
 * as content-addressed chunks and arrive whole or not at all. Canonical bytes and digest:
 * proto/codec.h; the record: proto/records.h. Errors name the file. Thread: any. */
#ifndef JOUST_PROTO_MANIFEST_H
#define JOUST_PROTO_MANIFEST_H

#include <stdbool.h>

#include "proto/base/bytes.h"
#include "proto/records.h"

/* Whether the file called name belongs in; NULL takes every regular file that doesn't begin with
 * '.'. */
typedef bool (*joust_manifest_filter)(void *arg, const char *name);

/* Reads the regular files directly in dir (subfolders are passed over), sorted by name, by chunks.
 * *ret is owned. Errors: JOUST_NOT_FOUND (also: no file at all), JOUST_IO, JOUST_TOO_LARGE,
 * JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_manifest_of_dir(const char *dir, joust_manifest_filter filter,
                                                  void *arg, joust_manifest *ret, joust_error *err);
/* One file, under the last part of its path. */
JOUST_MUST_USE joust_status joust_manifest_of_file(const char *path, joust_manifest *ret,
                                                   joust_error *err);

uint64_t joust_manifest_bytes(const joust_manifest *m);  /* of all files */
uint64_t joust_manifest_chunks(const joust_manifest *m); /* of all files */
uint32_t joust_manifest_chunk_bytes(const joust_manifest_file *file,
                                    uint32_t chunk); /* of one chunk */
/* The file called name, or NULL. View of m. */
const joust_manifest_file *joust_manifest_find(const joust_manifest *m, const char *name);

/* Digest that stands for a checkpoint's weights, in records and in `joust model info`: of its
 * *.safetensors files (name and digest of each, in name order). Zero if it has none. */
joust_digest joust_manifest_weights(const joust_manifest *m);

/* Whether dir/file->name has the size and chunks that file says. Errors: JOUST_NOT_FOUND,
 * JOUST_CORRUPT, JOUST_IO. */
JOUST_MUST_USE joust_status joust_manifest_check_file(const char *dir,
                                                      const joust_manifest_file *file,
                                                      joust_error *err);
/* All of m. */
JOUST_MUST_USE joust_status joust_manifest_check_dir(const char *dir, const joust_manifest *m,
                                                     joust_error *err);

/* One chunk of dir/file->name into to (cleared first), checked against its digest. Errors as
 * check_file. */
JOUST_MUST_USE joust_status joust_manifest_read_chunk(const char *dir,
                                                      const joust_manifest_file *file,
                                                      uint32_t chunk, joust_buf *to,
                                                      joust_error *err);
/* Puts a chunk at its place in dir/file->name (made if absent), after checking it. Any order; not
 * durable yet. Errors: JOUST_CORRUPT (another size or digest), JOUST_IO, JOUST_DISK_FULL. */
JOUST_MUST_USE joust_status joust_manifest_write_chunk(const char *dir,
                                                       const joust_manifest_file *file,
                                                       uint32_t chunk, const void *data, size_t n,
                                                       joust_error *err);
/* Turns the folder `from`, filled by write_chunk, into `to` (which must not exist): checks every
 * file, syncs, renames, syncs the parent. Errors: JOUST_EXISTS, and as check_file. */
JOUST_MUST_USE joust_status joust_manifest_publish(const char *from, const joust_manifest *m,
                                                   const char *to, joust_error *err);

#endif
