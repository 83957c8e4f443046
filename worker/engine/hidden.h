/* What a model makes of texts before its head: hidden states, and a scalar head's score (a reward model). The same bits
 * whatever else is asked for, on any number of threads. */
#ifndef JOUST_WORKER_ENGINE_HIDDEN_H
#define JOUST_WORKER_ENGINE_HIDDEN_H

#include "worker/engine/generate.h"

typedef struct joust_hidden_request {
    const uint32_t *tokens; /* (n) token ids, 1 <= n <= context */
    uint32_t n;
    uint32_t first;    /* states and scores of tokens first .. n-1 */
    float *ret_states; /* (n - first, d_model) the final norm's output; caller's memory, or NULL */
    float *
        ret_scores; /* (n - first) the scalar head after each: a critic's values; caller's memory, or NULL */
    float *ret_score; /* the scalar head after the last token; caller's memory, or NULL */
} joust_hidden_request;

/* Fills in every request. step as in joust_generate, by tokens computed. Errors: JOUST_INVALID (tokens, first),
 * JOUST_UNSUPPORTED (a score is asked of a model without a scalar head), JOUST_NOT_FINITE, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_hidden(joust_engine *engine, joust_model *model,
                                         const joust_hidden_request *requests, uint32_t n_requests,
                                         joust_step_fn *step, void *context, joust_error *err);

#endif
