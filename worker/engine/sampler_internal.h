/* From a row of logits to a token and its log-probabilities. Thread: each thread has its own. */
#ifndef JOUST_WORKER_ENGINE_SAMPLER_INTERNAL_H
#define JOUST_WORKER_ENGINE_SAMPLER_INTERNAL_H

#include "kernels_internal.h"
#include "proto/base/random.h"
#include "proto/base/settings.h"
#include "proto/base/status.h"

typedef struct joust_sampler {
    const joust_kernels *kernels;
    uint32_t n;           /* vocabulary */
    float *weights;       /* (n) exp of the scaled logits, 0 where left out */
    uint32_t *candidates; /* (n) a heap: likeliest first, ties to the lowest id */
} joust_sampler;

typedef struct joust_draw {
    uint32_t token;
    float raw_logp, logp;
} joust_draw;

/* Errors: JOUST_INVALID, naming the field. */
JOUST_MUST_USE joust_status joust_sampling_check(const joust_sampling *s, joust_error *err);
/* Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_sampler_init(joust_sampler *s, const joust_kernels *kernels,
                                               uint32_t n, joust_error *err);
void joust_sampler_fini(joust_sampler *s);
/* Draws by uniform, in [0, 1). Errors: JOUST_NOT_FINITE. */
JOUST_MUST_USE joust_status joust_sampler_draw(joust_sampler *s, const float *logits,
                                               const joust_sampling *sampling, float uniform,
                                               joust_draw *ret, joust_error *err);
/* The log-probability of a token, the same way everywhere. */
float joust_logp(const float *logits, joust_log_sum sum, uint32_t token);
/* JOUST_OK, or JOUST_NOT_FINITE. */
JOUST_MUST_USE joust_status joust_log_sum_check(joust_log_sum sum, joust_error *err);

#endif
