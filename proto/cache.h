/* Folders fetched from the coordinator, kept on disk within a bound. Thread: the compute thread. */
#ifndef JOUST_PROTO_CACHE_H
#define JOUST_PROTO_CACHE_H

#include "proto/upstream.h"

/* Folders fetched so far, at <dir>/<manifest digest in hex>/. The folder belongs to one process. */
typedef struct joust_cache joust_cache;

/* Empties dir (made if absent). max_bytes: folders beyond it are removed, longest unused first; the
 * one fetched last always stays. Errors: JOUST_IO, JOUST_DENIED, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_cache_create(const char *dir, uint64_t max_bytes,
                                               joust_cache **ret, joust_error *err);
/* Frees the list; the folders stay on disk. */
void joust_cache_free(joust_cache **cache);
/* The folder of a manifest, fetched if it isn't there. *ret_dir: view of
 * cache, valid until the next call, which may remove the folder. Errors: as joust_fetch_dir. */
JOUST_MUST_USE joust_status joust_cache_fetch(joust_cache *cache, const joust_upstream *up,
                                              const joust_digest *manifest, const char **ret_dir,
                                              joust_error *err);
/* A path below the cache's folder for a caller's own files, emptied: returns owned. Errors:
 * JOUST_IO, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_cache_scratch(const joust_cache *cache, const char *name,
                                                char **ret, joust_error *err);

#endif
