/* Generation and scoring in one batch, over paged key-value memory. What is batched with what, which
 * prefix is shared, who waits for memory and on which thread a row is computed is the engine's
 * business: any split of the same requests gives the same bits. */
#ifndef JOUST_WORKER_ENGINE_GENERATE_H
#define JOUST_WORKER_ENGINE_GENERATE_H

#include "proto/base/random.h"
#include "proto/base/settings.h"
#include "worker/engine/model.h"

/* Guided decoding: called before each draw, with the response so far; may change logits, (n_vocab),
 * in place: -INFINITY forbids a token. It sees them after the repetition penalty, before
 * min_tokens and temperature. If nothing is left, the response ends as ABORTED.
 * The same arguments must have the same effect, or the bytes depend on more than the job.
 * Thread: the engine's, several samples at a time. A status other than OK ends the batch. */
typedef joust_status joust_guide_fn(void *context, uint32_t request, uint32_t sample,
                                    const uint32_t *tokens, uint32_t n, float *logits,
                                    uint32_t n_vocab, joust_error *err);

/* Early stop: called after each token that was drawn and is no end token, unless min_tokens aren't
 * reached. *ret_finish is 0: if it is set, the response ends here for that reason.
 * Thread: the caller's. A status other than OK ends the batch. */
typedef joust_status joust_watch_fn(void *context, uint32_t request, uint32_t sample,
                                    const uint32_t *tokens, uint32_t n, joust_finish *ret_finish,
                                    joust_error *err);

typedef struct joust_generate_request {
    const uint32_t *prompt; /* (n_prompt) token ids, n_prompt >= 1 */
    uint32_t n_prompt;
    const uint32_t *forced; /* (n_forced) tokens that each response begins with: not drawn */
    uint32_t n_forced;
    uint32_t n_samples;
    const joust_stream *streams; /* (n_samples); token position i of the response draws number i */
    joust_sampling sampling;     /* max_tokens and min_tokens count forced tokens too */
    bool ignore_end;             /* end tokens don't stop it (benchmarks) */
    joust_guide_fn *guide;       /* may be NULL */
    joust_watch_fn *watch;       /* may be NULL */
    void *context;               /* of both */
} joust_generate_request;

typedef struct joust_generated { /* views, valid during the callback */
    const uint32_t *tokens;      /* (n) forced ones first, with the end token when finish is STOP */
    const float *raw_logps;      /* (n) nats, unscaled model */
    const float *logps; /* (n) nats, of the distribution drawn from; 0 for greedy and forced */
    uint32_t n;         /* 0 only with ABORTED */
    joust_finish finish;
} joust_generated;

/* Called once for each (request, sample), in any order. A status other than OK ends the batch with
 * it. Thread: the caller's. */
typedef joust_status joust_generated_fn(void *context, uint32_t request, uint32_t sample,
                                        const joust_generated *result, joust_error *err);
/* Called between steps: a status other than OK ends the batch with it (JOUST_INTERRUPTED).
 * n_tokens: rows computed so far. Thread: the caller's. */
typedef joust_status joust_step_fn(void *context, uint64_t n_tokens, joust_error *err);

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

/* Called once for each scored request. Thread and errors: as joust_generated_fn. */
typedef joust_status joust_scored_fn(void *context, uint32_t request, joust_error *err);

typedef struct joust_batch {
    const joust_generate_request *requests; /* (n_requests) */
    uint32_t n_requests;
    joust_generated_fn *done;
    joust_score_request *scores; /* (n_scores) forced likelihood */
    uint32_t n_scores;
    joust_scored_fn *scored; /* may be NULL */
    joust_step_fn *step;     /* may be NULL */
    void *context;           /* of the three */
} joust_batch;

/* Continuous batching: sequences join and leave between passes over the model. A group's prompt is
 * computed once; prompts that begin alike share the pages of what they have in common, with
 * earlier calls too; long prompts are computed in pieces beside the others' next tokens. When the
 * key-value memory is full, what nobody uses goes first, then the youngest sequence gives up its
 * pages and is computed again later; requests wait, in order, and none fails for it.
 * Errors: JOUST_INVALID (a token outside the vocabulary, an empty prompt, a prompt and forced
 * tokens that leave no room in the context or in max_tokens), JOUST_NOMEM (also: one sequence
 * alone needs more than cache_bytes), JOUST_NOT_FINITE; callbacks' statuses. */
JOUST_MUST_USE joust_status joust_batch_run(joust_engine *engine, joust_model *model,
                                            const joust_batch *batch, joust_error *err);

/* A batch of generation alone. step may be NULL. */
JOUST_MUST_USE joust_status joust_generate(joust_engine *engine, joust_model *model,
                                           const joust_generate_request *requests,
                                           uint32_t n_requests, joust_generated_fn *done,
                                           joust_step_fn *step, void *context, joust_error *err);

/* A batch of scoring alone. step may be NULL. */
JOUST_MUST_USE joust_status joust_score(joust_engine *engine, joust_model *model,
                                        joust_score_request *requests, uint32_t n_requests,
                                        joust_step_fn *step, void *context, joust_error *err);

#endif
