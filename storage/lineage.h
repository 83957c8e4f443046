/* A pair with all that it came from and went into. Thread: any. */
#ifndef JOUST_STORAGE_LINEAGE_H
#define JOUST_STORAGE_LINEAGE_H

#include "proto/plan.h"
#include "storage/tables.h"

typedef struct joust_lineage {
    joust_pair pair;
    joust_prompt prompt;
    joust_trajectory chosen, rejected;
    uint32_t n_verdicts;
    joust_verdict *
        verdicts; /* (n_verdicts) all that the reward judges gave to the prompt's groups, in key order */
} joust_lineage;

/* Loads what the pair refers to. Errors: JOUST_NOT_FOUND or JOUST_CORRUPT naming the key. */
JOUST_MUST_USE joust_status joust_lineage_load(joust_store *store, const joust_plan *plan,
                                               const joust_pair *pair, joust_lineage *ret,
                                               joust_error *err);
void joust_lineage_fini(joust_lineage *lineage); /* frees and zeroes */
/* Whether a verdict is about the chosen or the rejected one. */
bool joust_lineage_concerns(const joust_lineage *lineage, const joust_verdict *verdict);

/* The verdicts that a PAIR stage considers for one prompt: of every JUDGE stage that rewards the rollouts it
 * pairs, in key order (stage, sample, other, order, vote). Free with joust_verdicts_free.
 * Errors: JOUST_INVALID if the stage is no PAIR stage of the plan. */
JOUST_MUST_USE joust_status joust_lineage_get_verdicts(joust_store *store, const joust_plan *plan,
                                                       const joust_unit_key *pair_unit,
                                                       joust_verdict **ret, uint32_t *ret_n,
                                                       joust_error *err);

/* One use of a pair by the trainer. */
typedef struct joust_use {
    uint32_t round, stage, step;
} joust_use;
/* The first `max` training steps that used the pair; *ret_n counts all. */
JOUST_MUST_USE joust_status joust_lineage_get_uses(joust_store *store, const joust_plan *plan,
                                                   const joust_pair *pair, uint32_t max,
                                                   joust_use *ret, uint32_t *ret_n,
                                                   joust_error *err);
/* The same of whatever a PAIR stage gives its TRAIN stages, by ordinal: an answer's is position * samples + sample. */
JOUST_MUST_USE joust_status joust_lineage_get_row_uses(joust_store *store, const joust_plan *plan,
                                                       uint32_t round, uint32_t pair_stage,
                                                       uint64_t ordinal, uint32_t max,
                                                       joust_use *ret, uint32_t *ret_n,
                                                       joust_error *err);
/* What PPO's critic gave the answer of that ordinal, as the first step that used it tells. Zero-initialise; free advantages
 * and returns. */
typedef struct joust_token_credit {
    uint32_t n; /* tokens; 0: nobody told (another loss, not trained on, an older store) */
    float *advantages, *returns; /* (n) */
} joust_token_credit;
JOUST_MUST_USE joust_status joust_lineage_get_credit(joust_store *store, const joust_plan *plan,
                                                     uint32_t round, uint32_t pair_stage,
                                                     uint64_t ordinal, joust_token_credit *ret,
                                                     joust_error *err);

#endif
