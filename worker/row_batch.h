/* Supervised rows in training order, a batch at a time: row i of the endless order in which each
 * pass goes through the file, in file order or by the permutation of (job seed, stage, round,
 * pass). Thread: the compute thread. */
#ifndef JOUST_WORKER_ROW_BATCH_H
#define JOUST_WORKER_ROW_BATCH_H

#include "proto/plan.h"
#include "worker/engine/train/train.h"

typedef struct joust_row_batch joust_row_batch;

/* rows is kept until close. Errors: JOUST_INVALID (no rows, or more than 2^32 - 1 of them to
 * shuffle), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_row_batch_open(joust_rows *rows, joust_order order, uint64_t seed,
                                                 const joust_unit_key *unit, joust_row_batch **ret,
                                                 joust_error *err);
void joust_row_batch_close(joust_row_batch **batch);
/* Rows first .. first + n - 1: *ret_rows (n), and *ret_lines (n) their places in the file. Views,
 * valid until the next call. Errors: those of joust_rows_get, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_row_batch_get(joust_row_batch *batch, uint64_t first, uint32_t n,
                                                const joust_sft_row **ret_rows,
                                                const uint64_t **ret_lines, joust_error *err);

#endif
