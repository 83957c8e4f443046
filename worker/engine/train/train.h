/* Training: losses, backward pass, AdamW, schedules, exact resume.
 * Gradients are summed by a pairwise tree over row index with a micro-batch of one row, so that the sum doesn't depend
 * on who computes which subtree. The forward pass here gives the same log-probabilities as generation, to the last bit. */
#ifndef JOUST_WORKER_ENGINE_TRAIN_TRAIN_H
#define JOUST_WORKER_ENGINE_TRAIN_TRAIN_H

#include "proto/base/settings.h"
#include "worker/engine/generate.h"
#include "worker/engine/model.h"
#include "worker/engine/text/tokenizer.h"

/* One preference pair as tokens; log-probabilities are sums over response tokens, in nats. */
typedef struct joust_pair_row {
    const uint32_t *prompt, *chosen, *rejected; /* end tokens included where they were generated */
    uint32_t n_prompt, n_chosen, n_rejected;
    double ref_chosen,
        ref_rejected; /* joust_response_sum of log-probs under the reference policy */
    double margin;    /* of the pair's rewards: dno, rebel */
    const uint8_t *chosen_forced,
        *rejected_forced; /* a flag for each token that weighs nothing; NULL: all weigh */
} joust_pair_row;

/* Tokens that both answers have; those beyond weigh objective.ld_alpha. */
uint32_t joust_pair_shared(uint32_t n_chosen, uint32_t n_rejected);
/* Sum of n log-probs in order, those from `shared` on times alpha, those with a flag left out (forced NULL: none). */
double joust_response_sum(const float *logps, const uint8_t *forced, uint32_t n, uint32_t shared,
                          double alpha);
/* Tokens that weigh: those without a flag; forced may be NULL. */
uint32_t joust_response_weighed(const uint8_t *forced, uint32_t n);

/* One target of a row of supervised training: cross-entropy of `token` at `position` (predicted from tokens[0..position-1];
 * position n = after the last), over the whole vocabulary (n_among = 0) or over the tokens among[] alone. */
typedef struct joust_target {
    uint32_t position, token;
    float weight;
    uint32_t n_among;
    const uint32_t *among;
} joust_target;

typedef struct joust_sft_row {
    const uint32_t *tokens;
    uint32_t n;
    const joust_target *targets;
    uint32_t n_targets;
} joust_sft_row;

/* One answer for policy gradients; arrays of n_response, as in joust_policy_tokens. */
typedef struct joust_policy_row {
    const uint32_t *prompt, *response;
    uint32_t n_prompt, n_response;
    const float *old_logps, *ref_logps, *sampler_logps; /* each may be NULL */
    const double *advantages;
    const uint8_t *forced; /* may be NULL */
} joust_policy_row;

/* One answer for the value loss of a critic; arrays of n_response, as in joust_value_tokens. */
typedef struct joust_value_row {
    const uint32_t *prompt, *response;
    uint32_t n_prompt, n_response;
    const float *old_values; /* may be NULL */
    const double *returns;
    const uint8_t *forced; /* may be NULL */
} joust_value_row;

typedef struct joust_step_report {
    uint32_t step; /* index of the step just done, from 0 */
    double loss, gradient_norm, learning_rate;
    double accuracy; /* pairs: share with chosen - rejected implicit reward > 0; else 0 */
    double chosen_reward, rejected_reward; /* means of beta * (logp - ref), or of scores */
    /* policy gradients, means over tokens: */
    double entropy, kl, ratio, clipped; /* entropy only where it weighs; clipped: share */
} joust_step_report;

typedef struct joust_trainer joust_trainer;

/* Trains model in place, on the engine's device if it has one, its adapter alone if it has one (worker/engine/lora.h; keeps model until joust_trainer_free). params is copied. loss = mean over rows of:
 *   a loss on pairs: KERNELS.md, "Losses"; dpo, for one:
 *     -log sigmoid(beta * ((logp_c - ref_c) - (logp_r - ref_r))) - sft_weight * logp_c / n_chosen
 *   sft: sum over targets of weight * -log p(token); of pairs: -(sum of the step's chosen log-probs) / (its chosen tokens)
 *   policy: worker/engine/train/policy_gradient.h, of its settings' aggregation
 *   of a scalar head: bradley_terry, bradley_terry_margin, margin on the scores after each answer's last token; value
 * kto: mean over answers. An answer without tokens has log-probability 0 and no gradient; not both of a row. Errors: JOUST_INVALID (a setting by name), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_trainer_create(joust_engine *engine, joust_model *model,
                                                 const joust_train_settings *params,
                                                 joust_trainer **ret, joust_error *err);
void joust_trainer_free(joust_trainer **trainer);
/* Takes a reference of the trainer's own, for settings where joust_needs_live_reference: before the first step and before
 * joust_trainer_restore. With reference_sync_steps the rows' ref_chosen and ref_rejected are then computed here, under a
 * reference that moves. Errors: JOUST_INVALID (another shape; *reference stays the caller's). */
JOUST_MUST_USE joust_status joust_trainer_take_reference(joust_trainer *t, joust_model **reference,
                                                         joust_error *err);
/* The same where the reference is the policy's model without its adapter: no second copy. Errors: JOUST_INVALID (it has no
 * adapter). */
JOUST_MUST_USE joust_status joust_trainer_reference_is_base(joust_trainer *t, joust_error *err);
/* One optimiser step over n rows (n >= 1). Errors: JOUST_INVALID (row, position), JOUST_NOT_FINITE (the step and row are
 * named, weights untouched), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_trainer_step_pairs(joust_trainer *t, const joust_pair_row *rows,
                                                     uint32_t n, joust_step_report *ret,
                                                     joust_error *err);
JOUST_MUST_USE joust_status joust_trainer_step_rows(joust_trainer *t, const joust_sft_row *rows,
                                                    uint32_t n, joust_step_report *ret,
                                                    joust_error *err);
/* Settings' loss JOUST_LOSS_POLICY. Errors: the same; JOUST_INVALID where kl_weight > 0 and a row has no ref_logps. */
JOUST_MUST_USE joust_status joust_trainer_step_policy(joust_trainer *t,
                                                      const joust_policy_row *rows, uint32_t n,
                                                      joust_step_report *ret, joust_error *err);
/* Settings' loss JOUST_LOSS_VALUE, of a model with a scalar head (PPO's critic); the loss is the mean over all tokens that count.
 * Errors: the same. */
JOUST_MUST_USE joust_status joust_trainer_step_values(joust_trainer *t, const joust_value_row *rows,
                                                      uint32_t n, joust_step_report *ret,
                                                      joust_error *err);
/* The critic's value before each response token, ret_values (n_response), by the training pass; the row's old_values and
 * returns aren't read. Errors: JOUST_INVALID, JOUST_UNSUPPORTED (no scalar head), JOUST_NOT_FINITE, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_trainer_values(joust_trainer *t, const joust_value_row *row,
                                                 float *ret_values, joust_error *err);
/* Token log-probs of tokens[first .. n-1] by the forward pass that keeps activations for the backward pass. */
JOUST_MUST_USE joust_status joust_trainer_logps(joust_trainer *t, const uint32_t *tokens,
                                                uint32_t n, uint32_t first, float *ret_logps,
                                                joust_error *err);
/* Token log-probs of a pair's responses by the very pass that joust_trainer_step_pairs computes for it, the prompt shared:
 * ret_chosen (n_chosen), ret_rejected (n_rejected). Errors: as joust_trainer_step_pairs. */
JOUST_MUST_USE joust_status joust_trainer_pair_logps(joust_trainer *t, const joust_pair_row *row,
                                                     float *ret_chosen, float *ret_rejected,
                                                     joust_error *err);
/* Where the engine computes on a device, weights and moments lie there while a model is trained: brings the weights to the model,
 * before it is read or saved; nothing else reads stale ones. On a CPU there is nothing to do. Errors: JOUST_IO. */
JOUST_MUST_USE joust_status joust_trainer_finish(joust_trainer *t, joust_error *err);
/* Gradients of runs of rows held at a time, at most; 0: as many as are fast. Changes no bit. Before the first step. */
void joust_trainer_limit_sums(joust_trainer *t, uint32_t max_sums);
/* Called after each row of a step with the row's number, so that a long step can tell that it moves: a status other than OK ends
 * the step with it, the weights as they were. NULL: nobody. Thread: the engine's, several at a time. */
void joust_trainer_watch(joust_trainer *t, joust_step_fn *watch, void *context);
uint32_t joust_trainer_steps_done(const joust_trainer *t);
/* Whole state (weights, moments, step) as one file, complete and durable or absent; and back, into a trainer made with
 * the same config and params. Neither holds the file in memory. Errors: JOUST_CORRUPT, JOUST_CONFLICT (another shape):
 * the trainer is as it was; JOUST_IO: it may not be. */
JOUST_MUST_USE joust_status joust_trainer_save(const joust_trainer *t, const char *path,
                                               joust_error *err);
JOUST_MUST_USE joust_status joust_trainer_restore(joust_trainer *t, const char *path,
                                                  joust_error *err);

/* A JSONL file of supervised rows, by an index of its lines. Format: worker/engine/train/rows.h. Keeps tokenizer until closed.
 * Errors are "file:line: place: …". */
typedef struct joust_rows joust_rows;
JOUST_MUST_USE joust_status joust_rows_open(const char *path, const joust_tokenizer *tokenizer,
                                            joust_rows **ret, joust_error *err);
uint64_t joust_rows_count(const joust_rows *r);
/* Row i (line i + 1) as a view valid until the next call. */
JOUST_MUST_USE joust_status joust_rows_get(joust_rows *r, uint64_t i, joust_sft_row *ret,
                                           joust_error *err);
void joust_rows_close(joust_rows **r);

#endif
