/* A TRAIN unit under way, as its parts share it. */
#ifndef JOUST_WORKER_TRAINER_INTERNAL_H
#define JOUST_WORKER_TRAINER_INTERNAL_H

#include "worker/engine/generate.h"
#include "worker/engine/train/train.h"
#include "worker/pair_feed.h"
#include "worker/row_batch.h"
#include "worker/trainer.h"

/* Reference log-probabilities of a pair, or of an answer without another: sums in nats. */
typedef struct joust_pair_score {
    uint64_t ordinal;
    double chosen, rejected;
} joust_pair_score;

/* Those of the rows of the first pass, by ordinal, and the comparison with what rollouts recorded. */
typedef struct joust_pair_scores {
    joust_pair_score *rows; /* (n) */
    size_t n;
    double max_gap;
    uint64_t n_compared;              /* tokens */
    uint32_t row_tokens, row_answers; /* of the longest rows: the prompt once, and its answers */
} joust_pair_scores;

/* Raises *max_gap to the largest difference of n recorded log-probs from those that training computes. Errors: JOUST_NOT_FINITE. */
JOUST_MUST_USE joust_status joust_logp_gap(const float *recorded, const float *computed, uint32_t n,
                                           double *max_gap, joust_error *err);

void joust_pair_scores_fini(joust_pair_scores *s);
/* View; NULL: the first pass had no such row. */
const joust_pair_score *joust_pair_scores_find(const joust_pair_scores *s, uint64_t ordinal);
/* What pairs are measured against. */
typedef struct joust_pair_reference {
    joust_model *model; /* NULL: the model that the trainer starts from, or none is asked for */
    bool base_alone;    /* without its adapter */
} joust_pair_reference;
/* Scores rows [0, n) of the feed, which holds n_pairs pairs, before any step. Errors: JOUST_NOT_FINITE, JOUST_INTERRUPTED, those
 * of the feed and the engine. */
JOUST_MUST_USE joust_status joust_pair_scores_compute(
    const joust_training *t, const joust_lease_unit *unit, joust_trainer *trainer,
    const joust_job_train *params, joust_pair_reference reference, joust_pair_feed *feed,
    uint64_t n, joust_pair_scores *ret, joust_error *err);

/* A version's model, from the cache. Errors: of fetching and loading; err names the version. */
JOUST_MUST_USE joust_status joust_training_load(const joust_training *t, const joust_model_ref *ref,
                                                joust_model **ret, joust_error *err);
/* Saves the model as the unit's out_version, uploads it, and fills ret->model. */
JOUST_MUST_USE joust_status joust_version_publish(const joust_training *t,
                                                  const joust_lease_unit *unit,
                                                  const joust_model *model, uint32_t n_steps,
                                                  joust_unit_result *ret, joust_error *err);
/* Uploads the trainer's state and returns once it and the steps are durable at the coordinator. */
JOUST_MUST_USE joust_status joust_state_publish(const joust_training *t,
                                                const joust_lease_unit *unit,
                                                const joust_trainer *trainer,
                                                const joust_train_step *steps, uint32_t n_steps,
                                                joust_error *err);
/* The same of a folder that holds whatever goes on after `step` steps. */
JOUST_MUST_USE joust_status joust_progress_publish(const joust_training *t,
                                                   const joust_lease_unit *unit, const char *dir,
                                                   uint32_t step, const joust_train_step *steps,
                                                   uint32_t n_steps, joust_error *err);
/* Brings the trainer to the unit's resume state. */
JOUST_MUST_USE joust_status joust_state_restore(const joust_training *t,
                                                const joust_lease_unit *unit,
                                                joust_trainer *trainer, joust_error *err);

#endif
