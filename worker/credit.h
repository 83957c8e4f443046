/* What a policy round's answers bring to every step, found once before the first: for each answer, by ordinal, a number a
 * token.
 *
 *   served:  log-probs of the model that training starts from, beside those that the server gave
 *   PPO:     values of the critic as the round began ─┐
 *            −kl_weight (log-prob − reference's) a token, the judges' reward at the last ─▶ generalised advantages, returns
 *
 * Only tokens that were drawn count: forced ones have no credit, and what comes after them is what came before. Formulas:
 * KERNELS.md, "Policy gradients". Thread: the compute thread. */
#ifndef JOUST_WORKER_CREDIT_H
#define JOUST_WORKER_CREDIT_H

#include "worker/engine/train/train.h"
#include "worker/pair_feed.h"
#include "worker/trainer.h"

/* Memory a token of the round; the arrays grow by doubling. */
#define JOUST_CREDIT_TOKEN_BYTES     5u
#define JOUST_CREDIT_PPO_TOKEN_BYTES 37u /* what its steps record included */

/* Where answers and models come from; all borrowed. */
typedef struct joust_policy_source {
    const joust_training *training;
    const joust_lease_unit *unit;
    joust_pair_feed *feed;
    joust_model *model;     /* the one trained */
    bool reference_is_base; /* of its adapter: no other model is needed */
    bool served;            /* servers drew the answers: the log-probs recorded are theirs */
    bool of_critic;         /* the one trained is PPO's critic */
} joust_policy_source;

typedef struct joust_credit joust_credit;

/* of_ppo: values, advantages and returns are wanted. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_credit_create(bool of_ppo, joust_credit **ret, joust_error *err);
void joust_credit_free(joust_credit **credit);
/* Adds the feed's next answer; forced, logps (n_chosen) are copied: logps of the policy as the round began. Errors:
 * JOUST_NOMEM, JOUST_TOO_LARGE. */
JOUST_MUST_USE joust_status joust_credit_add(joust_credit *c, const joust_train_row_pair *row,
                                             const uint8_t *forced, const float *logps,
                                             joust_error *err);

typedef struct joust_credit_figures { /* of PPO, over tokens that count */
    double value_loss; /* ½ mean (value − return)², of the critic as the round began */
    double
        explained_variance; /* 1 − variance(return − value) / variance(return); 0 where returns don't differ */
    double kl; /* mean log-ratio to the reference, where rewards have it; else 0 */
    uint64_t n;
} joust_credit_figures;
/* After the last answer: reads them again for what is still wanted, and makes all of them ready to be found. Errors: of the
 * feed, of fetching and loading models, of scoring; JOUST_NOT_FINITE; JOUST_INTERRUPTED. */
JOUST_MUST_USE joust_status joust_credit_complete(joust_credit *c, const joust_policy_source *from,
                                                  joust_credit_figures *ret, joust_error *err);

/* Views of one answer's arrays, (n) each; those of PPO else NULL. */
typedef struct joust_credit_tokens {
    uint32_t n;
    const uint8_t *forced;
    const float *logps, *values;
    const double *advantages, *returns;
} joust_credit_tokens;
/* Errors: JOUST_MALFORMED (no answer of that ordinal, or of another length). */
JOUST_MUST_USE joust_status joust_credit_find(const joust_credit *c, uint64_t ordinal, uint32_t n,
                                              joust_credit_tokens *ret, joust_error *err);

#endif
