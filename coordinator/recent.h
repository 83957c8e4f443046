/* Units that were just written, decoded: what a judge is to judge and what is to be paired need not be read back. Within
 * a bound of bytes, the oldest leave first; the store has the truth, and whoever doesn't find a unit here reads it there.
 * Thread: the loop's. */
#ifndef JOUST_COORDINATOR_RECENT_H
#define JOUST_COORDINATOR_RECENT_H

#include "proto/messages.h"

typedef struct joust_recent joust_recent;

typedef struct joust_recent_unit {
    joust_unit_key key;
    uint32_t n_trajectories, n_verdicts;
    joust_trajectory *trajectories; /* (n_trajectories) by sample */
    joust_verdict *verdicts;        /* (n_verdicts) in key order */
} joust_recent_unit;

/* Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_recent_create(uint64_t max_bytes, joust_recent **ret,
                                                joust_error *err);
void joust_recent_free(joust_recent **recent); /* NULL is fine */
/* Takes the trajectories and verdicts of a result whose records are in a batch. One that is too large, or for which there
 * is no memory, stays the caller's. */
void joust_recent_keep(joust_recent *recent, joust_unit_result *result);
/* View until the next keep, whatever is dropped meanwhile; NULL if it isn't here. */
const joust_recent_unit *joust_recent_find(const joust_recent *recent, const joust_unit_key *unit);
void joust_recent_drop(joust_recent *recent,
                       const joust_unit_key *unit); /* fine if it isn't here */

#endif
