/* Policy gradients: a clipped surrogate over a dense map of credit, one number a token. REINFORCE, RLOO, GRPO, GSPO, DAPO,
 * Dr. GRPO and CISPO are settings of it. Formulas: KERNELS.md, "Policy gradients". Pure; thread: any. */
#ifndef JOUST_WORKER_ENGINE_TRAIN_POLICY_GRADIENT_H
#define JOUST_WORKER_ENGINE_TRAIN_POLICY_GRADIENT_H

#include "proto/base/settings.h"

/* Log-probs of one answer's n tokens, in nats, and what each is worth. */
typedef struct joust_policy_tokens {
    uint32_t n;
    const double *logps;    /* under the policy now */
    const float *old_logps; /* under the policy that the step began from; NULL: the policy now */
    const float *ref_logps; /* under the reference; NULL where kl_weight is 0 */
    const float *sampler_logps; /* as an external sampler computed them; NULL: as old_logps */
    const double *advantages;
    const uint8_t *
        forced; /* a flag for each token that was no choice: it counts in nothing; NULL: all count */
} joust_policy_tokens;

/* Shares of a token in the step's loss. */
typedef struct joust_policy_shares {
    double of_row;  /* of the surrogate and the KL term: by the aggregation */
    double of_step; /* of the entropy: 1 / tokens of the step */
} joust_policy_shares;

typedef struct joust_policy_report {
    double loss;        /* the row's part of the step's loss, without entropy */
    double kl, ratio;   /* sums over tokens: of the KL estimates, of the ratios */
    uint32_t n_clipped; /* tokens whose gradient the clip removed */
} joust_policy_report;

/* Errors: JOUST_INVALID (a setting by name). */
JOUST_MUST_USE joust_status joust_policy_settings_check(const joust_policy_settings *p,
                                                        joust_error *err);
/* Shares of a row of n_tokens among n_rows rows of n_all tokens, those that count. */
joust_policy_shares joust_policy_shares_of(const joust_policy_settings *p, uint32_t n_tokens,
                                           uint32_t n_rows, uint64_t n_all);
/* The weight of what an external sampler drew: min(e^(old - sampler), cap) of token i, or, where `importance` is by the
 * answer, of the sums over all its tokens that count; 1 without sampler_logps or sampler_cap. */
double joust_sampler_weight(const joust_policy_settings *p, const joust_policy_tokens *tokens,
                            uint32_t i);
/* slopes (n): d loss / d logps. */
joust_policy_report joust_policy_objective(const joust_policy_settings *p,
                                           const joust_policy_tokens *tokens, double share,
                                           double *slopes);

/* Values of the states before each of one answer's n tokens, as a critic with a scalar head gives them. */
typedef struct joust_value_tokens {
    uint32_t n;
    const double *values;    /* now */
    const float *old_values; /* when the step's data was made; NULL: no clip */
    const double *returns;
    const uint8_t *forced; /* as above */
} joust_value_tokens;
typedef struct joust_value_report {
    double loss;        /* the row's part of the step's loss */
    uint32_t n_clipped; /* tokens whose gradient the clip removed */
} joust_value_report;
/* PPO's clipped value loss; slopes (n): d loss / d values. */
joust_value_report joust_value_objective(const joust_policy_settings *p,
                                         const joust_value_tokens *tokens, double share,
                                         double *slopes);
/* Generalised advantages and returns (advantage + value) of one answer's n tokens, (n) each, from rewards and the values
 * before each token; the value after the last is 0. */
void joust_gae(const double *rewards, const float *values, uint32_t n, double gamma, double lambda,
               double *ret_advantages, double *ret_returns);

#endif
