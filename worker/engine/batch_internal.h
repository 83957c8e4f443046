/* Inside of a batch: who is at work, who waits, and what each thread computes in a step. */
#ifndef JOUST_WORKER_ENGINE_BATCH_INTERNAL_H
#define JOUST_WORKER_ENGINE_BATCH_INTERNAL_H

#include "sampler_internal.h"
#include "sequence_internal.h"

/* A row of a lane's pass whose logits are wanted. */
typedef struct joust_wanted {
    joust_sequence *sequence;
    uint32_t position;
} joust_wanted;

/* One thread's share of a step. */
typedef struct joust_lane {
    const joust_model *model;
    joust_pass *pass;
    const float *logits; /* of its rows that want them */
    joust_sampler sampler;
    joust_wanted wanted[JOUST_PASS_ROWS]; /* in order of the pass's logits */
    uint32_t n_wanted;
    joust_status status;
    joust_error error;
} joust_lane;

/* Uses the logits of a lane's pass: samples draw, scores are written. Touches only the sequences
 * named in `wanted`. Errors: JOUST_NOMEM, JOUST_NOT_FINITE, a guide's. */
JOUST_MUST_USE joust_status joust_lane_use(joust_lane *lane, joust_error *err);

#endif
