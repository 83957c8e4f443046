/* Batches for a policy loss, or for the value loss of PPO's critic: the feed's answers with what each token is worth, and what
 * they are compared with.
 *
 *   feed ─▶ answer: tokens, log-probs as they were drawn ─▶ old_logps
 *                   advantage (the row's margin)          ─▶ advantages, the same for each token that was drawn
 *           servers' answers: log-probs before the first step ─▶ old_logps, those of the draw ─▶ sampler_logps
 *           PPO: worker/credit.h                              ─▶ advantages; of the critic: old_values, returns
 *           reference's log-probs: those of the draw where the reference drew it, else computed here a batch at a time
 *
 * Memory: a batch's answers, and a reference model if one is needed; the round's credit. Thread: the compute thread. */
#ifndef JOUST_WORKER_POLICY_BATCH_H
#define JOUST_WORKER_POLICY_BATCH_H

#include "worker/credit.h"

typedef struct joust_policy_batch joust_policy_batch;

/* Everything is borrowed until the close. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_policy_batch_open(const joust_policy_source *source,
                                                    joust_policy_batch **ret, joust_error *err);
void joust_policy_batch_close(joust_policy_batch **batch);

typedef struct joust_policy_survey {
    double max_gap;      /* between recorded log-probs and those of the training forward pass */
    uint64_t n_compared; /* tokens */
    uint32_t row_tokens, row_answers; /* of the longest row: with its prompt; alone */
    /* Of the weights of what servers drew, before the cap: mean, largest, share above the cap; n of them. */
    double mean_weight, max_weight, truncated;
    uint64_t n_weights;
    joust_credit_figures ppo; /* n is 0 for other losses */
} joust_policy_survey;
/* Looks at rows [0, n) before any step: their lengths, the log-probs that rollouts of the unit's model recorded, and what
 * every step needs to know of them. Errors: JOUST_NOT_FINITE, JOUST_INTERRUPTED, JOUST_INVALID (a server gave no
 * log-probs), those of the feed and the engine. */
JOUST_MUST_USE joust_status joust_policy_batch_survey(joust_policy_batch *batch,
                                                      joust_trainer *trainer, uint64_t n,
                                                      joust_policy_survey *ret, joust_error *err);

/* Rows first .. first + n - 1 (n <= train.batch_size), views until the next call; ret_ordinals (n).
 * Errors: those of the feed, of fetching and loading the reference, and of scoring. */
JOUST_MUST_USE joust_status joust_policy_batch_get(joust_policy_batch *batch, uint64_t first,
                                                   uint32_t n, const joust_policy_row **ret_rows,
                                                   uint64_t *ret_ordinals, joust_error *err);
/* PPO: the critic's returns of an answer that the last call gave, (n) a token. View. Errors: those of joust_credit_find. */
JOUST_MUST_USE joust_status joust_policy_batch_returns(const joust_policy_batch *batch,
                                                       uint64_t ordinal, uint32_t n,
                                                       const double **ret, joust_error *err);
/* The same for the critic. */
JOUST_MUST_USE joust_status joust_policy_batch_values(joust_policy_batch *batch, uint64_t first,
                                                      uint32_t n, const joust_value_row **ret_rows,
                                                      uint64_t *ret_ordinals, joust_error *err);

#endif
