/* The key-value database below the store: the only file that knows RocksDB. Values are framed here:
 * 1 byte format, 8 bytes checksum over family, key and payload, payload (storage/LAYOUT.md); what comes out
 * was verified. Thread: reads and scans from any thread; commits from one thread at a time. */
#ifndef JOUST_STORAGE_DB_H
#define JOUST_STORAGE_DB_H

#include "storage/keys.h"

typedef enum joust_db_mode {
    JOUST_DB_WRITE, /* creates what is missing; holds the lock */
    JOUST_DB_READ   /* a fixed view of a database that may be live; see joust_db_refresh */
} joust_db_mode;

typedef struct joust_db joust_db;
typedef struct joust_db_batch joust_db_batch;
typedef struct joust_db_scan joust_db_scan;

/* Opens the database in folder path. Bounded memory: at most 150 MB of buffers and cache whatever the size.
 * Errors: JOUST_LOCKED if another process writes there, JOUST_NOT_FOUND (read) if there is none,
 * JOUST_DISK_FULL, JOUST_CORRUPT, JOUST_IO, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_db_open(const char *path, joust_db_mode mode, joust_db **ret,
                                          joust_error *err);
void joust_db_close(joust_db **db); /* NULL is fine; NULLs it. Scans and batches must be gone. */
/* Read mode: moves the view to what the writer has committed by now. Scans that are open keep the old one. */
JOUST_MUST_USE joust_status joust_db_refresh(joust_db *db, joust_error *err);

/* Payload of a key into to (cleared first). Errors: JOUST_NOT_FOUND, JOUST_CORRUPT naming the key. */
JOUST_MUST_USE joust_status joust_db_get(joust_db *db, joust_family family, const joust_key *key,
                                         joust_buf *to, joust_error *err);

JOUST_MUST_USE joust_status joust_db_batch_create(joust_db *db, joust_db_batch **ret,
                                                  joust_error *err);
void joust_db_batch_free(joust_db_batch **batch);
void joust_db_batch_clear(joust_db_batch *batch);
void joust_db_batch_put(joust_db_batch *batch, joust_family family, const joust_key *key,
                        joust_span payload);
/* Only if the key has no value then: the first write wins, without reading. Family PROVENANCE only. */
void joust_db_batch_put_first(joust_db_batch *batch, joust_family family, const joust_key *key,
                              joust_span payload);
/* Removes first <= key < before. */
void joust_db_batch_remove(joust_db_batch *batch, joust_family family, const joust_key *first,
                           const joust_key *before);
size_t joust_db_batch_bytes(const joust_db_batch *batch);
uint32_t joust_db_batch_records(const joust_db_batch *batch);
/* All of the batch or nothing. sync: durable when it returns; without, a later synced commit or a clean
 * close makes it so. The batch stays as it is. Errors: JOUST_DISK_FULL, JOUST_IO, JOUST_CORRUPT. */
JOUST_MUST_USE joust_status joust_db_commit(joust_db *db, joust_db_batch *batch, bool sync,
                                            joust_error *err);

/* Walks a range in key order on a consistent view. The cache isn't disturbed. */
JOUST_MUST_USE joust_status joust_db_scan_open(joust_db *db, joust_family family,
                                               const joust_key_range *range, joust_db_scan **ret,
                                               joust_error *err);
/* Next record; ret_key and ret_payload are views until the next call. Errors: JOUST_END after the last; JOUST_CORRUPT
 * naming the key: ret_key is set all the same, and the next call goes on behind it. */
JOUST_MUST_USE joust_status joust_db_scan_next(joust_db_scan *scan, joust_span *ret_key,
                                               joust_span *ret_payload, joust_error *err);
void joust_db_scan_close(joust_db_scan **scan);
/* The last key of a family. Errors: JOUST_NOT_FOUND if it has none. */
JOUST_MUST_USE joust_status joust_db_last_key(joust_db *db, joust_family family, joust_key *ret,
                                              joust_error *err);
/* Records in a range, by walking its keys. */
JOUST_MUST_USE joust_status joust_db_count(joust_db *db, joust_family family,
                                           const joust_key_range *range, uint64_t *ret,
                                           joust_error *err);

#endif
