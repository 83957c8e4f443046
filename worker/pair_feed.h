/* Preference pairs, or answers with advantages, in training order, streamed from the coordinator: row i of the endless
 * order in which each pass is a permutation of the round's rows. Memory: the rows asked for and at most
 * JOUST_PAIR_FEED_AHEAD beyond them. Thread: the compute thread. */
#ifndef JOUST_WORKER_PAIR_FEED_H
#define JOUST_WORKER_PAIR_FEED_H

#include "proto/upstream.h"

#define JOUST_PAIR_FEED_AHEAD 64u

typedef struct joust_pair_feed joust_pair_feed;

/* unit: a TRAIN unit (borrowed). Rows at `end` and beyond are never asked for; one whose ordinal isn't below n_ordinals is refused. Errors:
 * JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_pair_feed_open(const joust_upstream *up,
                                                 const joust_lease_unit *unit,
                                                 uint64_t n_ordinals, uint64_t end,
                                                 joust_pair_feed **ret, joust_error *err);
void joust_pair_feed_close(joust_pair_feed **feed);
/* Brings rows first .. first + n - 1 here (first + n <= end) and lets go of those before first.
 * Errors: JOUST_INTERRUPTED, JOUST_MALFORMED (what came is no row of this unit), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_pair_feed_need(joust_pair_feed *feed, uint64_t first, uint32_t n,
                                                 joust_error *err);
/* A row that is here. View, valid until the next need. */
const joust_train_row_pair *joust_pair_feed_row(const joust_pair_feed *feed, uint64_t i);

#endif
