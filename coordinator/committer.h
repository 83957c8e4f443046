/* Group commit: records and events of many steps gather in one batch; a commit thread syncs it while the next one fills.
 *
 *   loop thread:    put … put … flush ──post──▶ commit thread: joust_store_commit(sync)
 *                   ◀── done(sequence) ───────┘        one at a time, in order
 *
 * Batches are numbered from 1; joust_committer_sequence is the number of the one being filled.
 * Thread: the loop's. */
#ifndef JOUST_COORDINATOR_COMMITTER_H
#define JOUST_COORDINATOR_COMMITTER_H

#include "proto/loop.h"
#include "storage/store.h"

typedef struct joust_committer joust_committer;

/* status OK: all batches up to `sequence` are durable. Else nothing of that batch was acknowledged; err says why. */
typedef void joust_committed_fn(void *arg, uint64_t sequence, joust_status status,
                                const joust_error *err);

typedef struct joust_commit_stats {
    uint64_t commits, records, bytes;
    int64_t last_us, worst_us, total_us; /* of a synced commit */
} joust_commit_stats;

/* keeps loop and store. */
JOUST_MUST_USE joust_status joust_committer_create(joust_loop *loop, joust_store *store,
                                                   uint64_t epoch, joust_committed_fn *done,
                                                   void *arg, joust_committer **ret,
                                                   joust_error *err);
void joust_committer_free(joust_committer **committer); /* waits for the commit under way */
/* The batch being filled; view until the next flush. */
joust_batch *joust_committer_batch(joust_committer *committer);
uint64_t joust_committer_sequence(const joust_committer *committer);
/* Starts a commit unless one is under way (then it follows) or there is nothing to write. */
JOUST_MUST_USE joust_status joust_committer_flush(joust_committer *committer, joust_error *err);
bool joust_committer_idle(const joust_committer *committer); /* nothing to write or under way */
joust_commit_stats joust_committer_stats(const joust_committer *committer);

#endif
