/* Losses of one row: forward pass, loss, and gradient with respect to the logits (left in the
 * tape's d_logits). `share` is 1 / rows of the step. Formulas: KERNELS.md, "Losses". Thread: as
 * the tape. */
#ifndef JOUST_WORKER_ENGINE_TRAIN_LOSSES_INTERNAL_H
#define JOUST_WORKER_ENGINE_TRAIN_LOSSES_INTERNAL_H

#include "tape_internal.h"
#include "worker/engine/train/policy_gradient.h"
#include "worker/engine/train/train.h"

typedef struct joust_row_report {
    double loss, chosen_reward, rejected_reward; /* not multiplied by share */
    double entropy, kl, ratio, n_clipped;        /* policy gradients: sums over tokens */
} joust_row_report;

/* What a step's rows have in common. */
typedef struct joust_pair_step {
    const joust_train_settings *settings;
    double share;    /* 1 / rows, or / answers where they count by themselves */
    double baseline; /* KTO's */
    double sft_mean; /* rows / chosen tokens */
} joust_pair_step;

/* Errors of these: JOUST_INVALID; name is the row's number in the step. */
JOUST_MUST_USE joust_status joust_pair_row_check(const joust_model_config *c,
                                                 const joust_pair_row *row, uint32_t name,
                                                 joust_error *err);
JOUST_MUST_USE joust_status joust_sft_row_check(const joust_model_config *c,
                                                const joust_sft_row *row, uint32_t name,
                                                joust_error *err);
JOUST_MUST_USE joust_status joust_policy_row_check(const joust_model_config *c,
                                                   const joust_policy_row *row,
                                                   const joust_policy_settings *p, uint32_t name,
                                                   joust_error *err);
/* The report's loss is the row's part of the step's. Errors: as below. */
JOUST_MUST_USE joust_status joust_policy_row_loss(joust_tape *t, const joust_policy_row *row,
                                                  const joust_policy_settings *p,
                                                  joust_policy_shares shares, joust_row_report *ret,
                                                  joust_error *err);
/* Errors of both: JOUST_NOMEM, JOUST_NOT_FINITE. */
JOUST_MUST_USE joust_status joust_pair_row_loss(joust_tape *t, const joust_pair_row *row,
                                                const joust_pair_step *step, joust_row_report *ret,
                                                joust_error *err);
JOUST_MUST_USE joust_status joust_sft_row_loss(joust_tape *t, const joust_sft_row *row,
                                               double share, joust_row_report *ret,
                                               joust_error *err);

/* The same of a scalar head: losses on the scores of a pair's answers, and the value loss. Errors: the same. */
JOUST_MUST_USE joust_status joust_scores_row_loss(joust_tape *t, const joust_pair_row *row,
                                                  const joust_pair_step *step,
                                                  joust_row_report *ret, joust_error *err);
JOUST_MUST_USE joust_status joust_value_row_check(const joust_model_config *c,
                                                  const joust_value_row *row, uint32_t name,
                                                  joust_error *err);
JOUST_MUST_USE joust_status joust_value_row_loss(joust_tape *t, const joust_value_row *row,
                                                 const joust_policy_settings *p, double share,
                                                 joust_row_report *ret, joust_error *err);
/* ret (n_response): the head's output before each response token. */
JOUST_MUST_USE joust_status joust_value_row_values(joust_tape *t, const joust_value_row *row,
                                                   double *ret, joust_error *err);

/* The forward pass of joust_pair_row_loss alone: ret_chosen (n_chosen), ret_rejected (n_rejected).
 * */
JOUST_MUST_USE joust_status joust_pair_row_logps(joust_tape *t, const joust_pair_row *row,
                                                 float *ret_chosen, float *ret_rejected,
                                                 joust_error *err);

/* Whether prompt and response fit the model. Errors: JOUST_INVALID. */
JOUST_MUST_USE joust_status joust_answer_check(const joust_model_config *c, uint32_t name,
                                               const uint32_t *prompt, uint32_t n_prompt,
                                               const char *what, const uint32_t *response,
                                               uint32_t n_response, joust_error *err);

#endif
