/* What a TRAIN stage takes of a PAIR stage, in the order in which it uses it: row i of an endless sequence of passes, each a
 * permutation keyed by (job seed, stage, round, pass). Pairs, and answers with labels (JOUST_ADVANTAGE_LABEL), are permuted one by one; a policy loss takes answers with
 * their advantages, whose groups are permuted and stay whole. Read from the store a window at a time.
 * Memory: 16 bytes a pair of the round or 24 an answer, 4 more for the pass under way. Thread: one at a time. */
#ifndef JOUST_COORDINATOR_TRAINING_ROWS_H
#define JOUST_COORDINATOR_TRAINING_ROWS_H

#include "proto/messages.h"
#include "proto/plan.h"
#include "storage/store.h"

typedef struct joust_training_rows joust_training_rows;

/* store, job and plan are kept. unit: of the TRAIN stage. Errors: JOUST_INVALID (the stage trains on no rollouts),
 * JOUST_NOT_FOUND (there is nothing to train on), those of the store. */
JOUST_MUST_USE joust_status joust_training_rows_open(joust_store *store, const joust_job *job,
                                                     const joust_plan *plan,
                                                     const joust_unit_key *unit,
                                                     joust_training_rows **ret, joust_error *err);
void joust_training_rows_close(joust_training_rows **rows);
const joust_unit_key *joust_training_rows_unit(const joust_training_rows *rows);
uint64_t joust_training_rows_count(const joust_training_rows *rows);
/* A pair's ordinal is its place among the stage's pairs in key order; an answer's is position * samples + sample. */
/* Rows first .. first + n - 1 (n <= JOUST_MAX_UNITS), fewer if they get large; at least one. Fills ret->first, n, rows
 * (owned: joust_message_fini of the message that holds it). */
JOUST_MUST_USE joust_status joust_training_rows_get(joust_training_rows *rows, uint64_t first,
                                                    uint32_t n, joust_msg_rows *ret,
                                                    joust_error *err);

#endif
