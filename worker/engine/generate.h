/* Batched generation and scoring. The batch is the engine's business: any split of the same requests gives the same bits. */
#ifndef JOUST_WORKER_ENGINE_GENERATE_H
#define JOUST_WORKER_ENGINE_GENERATE_H

#include "proto/base/random.h"
#include "proto/base/settings.h"
#include "worker/engine/model.h"

typedef struct joust_generate_request {
    const uint32_t *prompt; /* (n_prompt) token ids, n_prompt >= 1 */
    uint32_t n_prompt;
    uint32_t n_samples;
    const joust_stream *streams; /* (n_samples); token position i of the response draws number i */
    joust_sampling sampling;
    bool ignore_end; /* end tokens don't stop it (benchmarks) */
} joust_generate_request;

typedef struct joust_generated { /* views, valid during the callback */
    const uint32_t *tokens;      /* (n) with the end token when finish is STOP */
    const float *raw_logps;      /* (n) nats, unscaled model */
    const float *logps; /* (n) nats, after temperature, top-k, top-p, min-p; 0 for greedy */
    uint32_t n;
    joust_finish finish;
} joust_generated;

/* Called once for each (request, sample), in any order. A status other than OK ends joust_generate with it. */
typedef joust_status joust_generated_fn(void *context, uint32_t request, uint32_t sample,
                                        const joust_generated *result, joust_error *err);
/* Called now and then between steps (may be NULL): a status other than OK ends generation with it (JOUST_INTERRUPTED).
 * n_tokens: tokens computed so far. */
typedef joust_status joust_step_fn(void *context, uint64_t n_tokens, joust_error *err);

/* Continuous batching over requests; a group's prompt is computed once. Errors: JOUST_INVALID (a token outside the
 * vocabulary, an empty prompt, a prompt that leaves no room in the context), JOUST_NOMEM, JOUST_NOT_FINITE. */
JOUST_MUST_USE joust_status joust_generate(joust_engine *engine, joust_model *model,
                                           const joust_generate_request *requests,
                                           uint32_t n_requests, joust_generated_fn *done,
                                           joust_step_fn *step, void *context, joust_error *err);

typedef struct joust_score_request {
    const uint32_t *tokens; /* (n) */
    uint32_t n;
    uint32_t first; /* score tokens first .. n-1, 1 <= first <= n */
    float *
        ret_logps; /* (n - first) nats each, caller's memory; the same bits as generation's raw_logps */
    /* and, at the last position, log-probabilities of these next tokens (n_next may be 0) */
    const uint32_t *next;
    uint32_t n_next;
    float *ret_next_logps; /* (n_next) */
} joust_score_request;

/* Forced likelihood. Errors as joust_generate. */
JOUST_MUST_USE joust_status joust_score(joust_engine *engine, joust_model *model,
                                        joust_score_request *requests, uint32_t n_requests,
                                        joust_step_fn *step, void *context, joust_error *err);

#endif
