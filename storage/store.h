/* The store of one job: read this first. One folder holds everything that is true about a job:
 *   DIR/db      records, events and snapshots (storage/db.h, storage/LAYOUT.md)
 *   DIR/blobs   checkpoints and files by content (storage/blobs.h)
 * Only the coordinator opens it for writing. It works in batches: joust_batch_create, typed puts
 * (storage/tables.h), joust_batch_append_event, joust_store_commit; an acknowledgement leaves after a synced
 * commit. Readers (verbs, query) see a fixed view and never disturb the writer.
 *
 * Thread: any thread may read; a batch belongs to one thread at a time; one thread at a time commits. A batch may be
 * filled on one thread while another commits an earlier one. */
#ifndef JOUST_STORAGE_STORE_H
#define JOUST_STORAGE_STORE_H

#include "proto/base/bytes.h"
#include "proto/job.h"
#include "proto/records.h"

#define JOUST_STORE_FORMAT       1u /* of LAYOUT.md as a whole */
#define JOUST_MAX_EVENT_BYTES    (1u << 20)
#define JOUST_MAX_SNAPSHOT_BYTES (1u << 30)

typedef struct joust_store joust_store;
typedef struct joust_batch joust_batch;

/* A store may be made or be found in dir. Errors: JOUST_EXISTS if dir holds files and is no store. */
JOUST_MUST_USE joust_status joust_store_check_place(const char *dir, joust_error *err);
/* Opens the store in dir for writing, making it if there is none, and records the job. On an existing store the
 * job must have the same identity; name, cluster and paths may differ, rounds may grow: what differs is recorded.
 * Errors: JOUST_CONFLICT naming the key that differs, with both values; JOUST_VERSION for another format;
 * JOUST_LOCKED if another coordinator has it; those of joust_store_check_place; JOUST_DISK_FULL, JOUST_CORRUPT, JOUST_IO, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_store_open(const char *dir, const joust_job *job,
                                             joust_store **ret, joust_error *err);
/* Opens it for reading: a fixed view of what was committed, also while a coordinator writes.
 * Errors: JOUST_NOT_FOUND if dir holds no store; JOUST_VERSION; JOUST_CORRUPT, JOUST_IO. */
JOUST_MUST_USE joust_status joust_store_open_read(const char *dir, joust_store **ret,
                                                  joust_error *err);
/* The process on this machine that has the store in `dir` open for writing; 0: none; -1: it can't be told. Not for a process
 * that has it open itself: closing the lock's file lets go of it. */
int64_t joust_store_holder(const char *dir);
void joust_store_close(joust_store **store); /* NULL is fine; NULLs it */

const joust_job *
joust_store_job(const joust_store *store); /* as recorded last; view of the store */
const char *joust_store_dir(const joust_store *store);

/* Raises the coordinator's epoch by one, durably, and returns it. Batches of lower epochs are refused from here on. */
JOUST_MUST_USE joust_status joust_store_begin_epoch(joust_store *store, uint64_t *ret_epoch,
                                                    joust_error *err);
uint64_t joust_store_epoch(const joust_store *store); /* 0 before the first */

/* An empty batch that writes as coordinator `epoch`. Free it before the store is closed. */
JOUST_MUST_USE joust_status joust_batch_create(joust_store *store, uint64_t epoch,
                                               joust_batch **ret, joust_error *err);
void joust_batch_free(joust_batch **batch);
void joust_batch_clear(joust_batch *batch);
size_t joust_batch_bytes(const joust_batch *batch);     /* about what the commit writes */
uint32_t joust_batch_records(const joust_batch *batch); /* puts so far; 0: nothing to commit */

/* Appends an event (opaque bytes, n <= JOUST_MAX_EVENT_BYTES). Sequences start at 1 and have no gaps: within a batch
 * that is checked here, towards what is stored at the commit. Errors: JOUST_INVALID, JOUST_TOO_LARGE. */
JOUST_MUST_USE joust_status joust_batch_append_event(joust_batch *batch, uint64_t sequence,
                                                     const void *data, size_t n, joust_error *err);
/* State of the coordinator's core after event `sequence` (0: before the first). The two newest snapshots are kept.
 * Errors: JOUST_TOO_LARGE. */
JOUST_MUST_USE joust_status joust_batch_put_snapshot(joust_batch *batch, uint64_t sequence,
                                                     const void *data, size_t n, joust_error *err);

/* Writes the whole batch or nothing; with sync it is durable on return, and so are all earlier commits.
 * Clears the batch on success. Errors: JOUST_FENCED if a newer epoch has begun; JOUST_INVALID if its
 * events don't follow the stored ones; JOUST_DISK_FULL, JOUST_IO: nothing was acknowledged, close the store. */
JOUST_MUST_USE joust_status joust_store_commit(joust_store *store, joust_batch *batch, bool sync,
                                               joust_error *err);

/* Sequence of the last committed event; 0 if there is none. */
uint64_t joust_store_last_event(const joust_store *store);
/* Calls see(user, sequence, data, n, err) for each stored event after `after`, in order; stops at the first
 * that doesn't return JOUST_OK and returns its status. Errors: JOUST_CORRUPT for a gap or a damaged event. */
typedef joust_status joust_event_see(void *user, uint64_t sequence, const void *data, size_t n,
                                     joust_error *err);
JOUST_MUST_USE joust_status joust_store_replay(joust_store *store, uint64_t after,
                                               joust_event_see *see, void *user, joust_error *err);
/* The newest snapshot, or, where that is damaged, the one before (logged). to is cleared first.
 * Errors: JOUST_NOT_FOUND if there is none; JOUST_CORRUPT if none is whole. */
JOUST_MUST_USE joust_status joust_store_get_snapshot(joust_store *store, uint64_t *ret_sequence,
                                                     joust_buf *to, joust_error *err);

/* Read mode: moves on to what the writer has committed by now. */
JOUST_MUST_USE joust_status joust_store_refresh(joust_store *store, joust_error *err);

#endif
