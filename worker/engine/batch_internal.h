/* Inside of a batch: who is at work, who waits, and what each thread computes in a step. */
#ifndef JOUST_WORKER_ENGINE_BATCH_INTERNAL_H
#define JOUST_WORKER_ENGINE_BATCH_INTERNAL_H

#include "sampler_internal.h"
#include "sequence_internal.h"
#include "worker/engine/device.h"

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
    const joust_device_pass *answers; /* of a device, or NULL: then all comes from logits */
    uint32_t first_wanted, at_wanted; /* in answers: of this lane; the one in use */
    uint32_t next_draw, next_pick;    /* not yet used */
    joust_status status;
    joust_error error;
} joust_lane;

/* Whether a device's draw follows the request's settings for response token n: else its logits are drawn from here. */
bool joust_lane_device_draws(const joust_model_config *config,
                             const joust_generate_request *request, uint32_t n);

/* Uses the logits of a lane's pass: samples draw, scores are written. Touches only the sequences
 * named in `wanted`. Errors: JOUST_NOMEM, JOUST_NOT_FINITE, a guide's. */
JOUST_MUST_USE joust_status joust_lane_use(joust_lane *lane, joust_error *err);

typedef struct joust_batch_state {
    joust_engine *engine;
    joust_model *model;
    const joust_batch *of;
    joust_paged *paged;
    joust_lane *lanes;
    uint32_t n_lanes;
    joust_sequence **active;                   /* by age */
    uint32_t n_active, active_room, n_samples; /* of which samples */
    joust_sequence *waiting;                   /* by age */
    joust_group *parked, *groups;
    uint32_t next_request, next_score, n_opened;
    uint64_t n_tokens;
    bool starved;                     /* the last step had too few pages for who was at work */
    struct joust_device_lists *lists; /* on a device: batch_device.c */
} joust_batch_state;

/* On a device. Makes lanes, whose rows it computes as one pass. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_batch_device_create(joust_batch_state *b, joust_error *err);
/* Computes all lanes' rows and lets each lane use what it asked for. Errors: the device's, the lanes'; JOUST_NOMEM where
 * not one row can be computed. */
JOUST_MUST_USE joust_status joust_batch_device_run(joust_batch_state *b, joust_error *err);
void joust_batch_device_free(joust_batch_state *b);
/* The first lane's error. */
JOUST_MUST_USE joust_status joust_batch_lanes_status(const joust_batch_state *b, joust_error *err);

/* Errors: those of joust_batch_run that are known before anything runs. */
JOUST_MUST_USE joust_status joust_batch_check(const joust_batch_state *b, joust_error *err);
/* Opens the next request, whose prompt or score then waits; *ret_any is false if there is none.
 * Errors: JOUST_NOMEM, `scored`'s (a score of nothing ends here). */
JOUST_MUST_USE joust_status joust_batch_open(joust_batch_state *b, bool *ret_any, joust_error *err);
/* Puts a sequence among those that wait, by age. */
void joust_batch_wait(joust_batch_state *b, joust_sequence *s);
/* A group's prompt, if it is parked, lets go of its pages. */
void joust_batch_unpark(joust_batch_state *b, joust_group *o);
void joust_group_free(joust_batch_state *b, joust_group *o);
void joust_score_free(joust_batch_state *b, joust_sequence *s);
/* Tells the caller that a request is scored. */
JOUST_MUST_USE joust_status joust_batch_scored(joust_batch_state *b, uint32_t index,
                                               joust_error *err);

#endif
