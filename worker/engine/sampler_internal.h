/* From a row of logits to a token and its log-probabilities. Thread: each thread has its own. */
#ifndef JOUST_WORKER_ENGINE_SAMPLER_INTERNAL_H
#define JOUST_WORKER_ENGINE_SAMPLER_INTERNAL_H

#include "proto/base/random.h"
#include "proto/base/settings.h"
#include "proto/base/status.h"
#include "worker/engine/generate.h"
#include "worker/engine/kernels/kernels_internal.h"

typedef struct joust_sampler {
    const joust_kernels *kernels;
    uint32_t n;           /* vocabulary */
    float *weights;       /* (n) exp of the scaled logits, 0 where left out */
    uint32_t *candidates; /* (n) a heap: likeliest first, ties to the lowest id */
    double *marks;        /* the running sum of weights now and then */
    float *edited;        /* (n) logits after penalties and masks; made when first needed */
    uint64_t *seen;       /* (n) bits; likewise */
} joust_sampler;

typedef struct joust_draw {
    uint32_t token;
    float raw_logp, logp;
    bool none; /* no token is allowed: the rest isn't set */
} joust_draw;

/* What else decides about a token, beside the settings of sampling. */
typedef struct joust_draw_rules {
    const uint32_t *prompt, *tokens; /* (n_prompt), (n) before it: the penalty's */
    uint32_t n_prompt, n;
    const uint32_t *banned; /* (n_banned) tokens not allowed here */
    uint32_t n_banned;
    joust_guide_fn *guide; /* may be NULL */
    void *context;
    uint32_t request, sample;
} joust_draw_rules;

/* Errors: JOUST_INVALID, naming the field. */
JOUST_MUST_USE joust_status joust_sampling_check(const joust_sampling *s, joust_error *err);
/* Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_sampler_init(joust_sampler *s, const joust_kernels *kernels,
                                               uint32_t n, joust_error *err);
void joust_sampler_fini(joust_sampler *s);
/* Draws by uniform, in [0, 1). rules may be NULL. Errors: JOUST_NOT_FINITE, JOUST_NOMEM, the
 * guide's. */
JOUST_MUST_USE joust_status joust_sampler_draw(joust_sampler *s, const float *logits,
                                               const joust_draw_rules *rules,
                                               const joust_sampling *sampling, float uniform,
                                               joust_draw *ret, joust_error *err);
/* The log-probability of a token, the same way everywhere. */
float joust_logp(const float *logits, joust_log_sum sum, uint32_t token);
/* JOUST_OK, or JOUST_NOT_FINITE. */
JOUST_MUST_USE joust_status joust_log_sum_check(joust_log_sum sum, joust_error *err);

#endif
