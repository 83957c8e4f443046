/* From rewards to preference pairs, one group at a time. Pure: a pair is a function of the group's trajectories and
 * rewards and of the job's rule. Thread: any. */
#ifndef JOUST_COORDINATOR_PAIRING_H
#define JOUST_COORDINATOR_PAIRING_H

#include "coordinator/rewards.h"

/* The trajectories of one group with their rewards, by sample. All arrays are (n), borrowed. */
typedef struct joust_group {
    uint32_t n;
    const char *const *texts;
    const joust_reward *rewards;
} joust_group;

typedef enum joust_pairing_outcome {
    JOUST_PAIRING_DECIDED,
    JOUST_PAIRING_NO_REWARD,      /* chosen's or rejected's side has no sample with a reward */
    JOUST_PAIRING_NO_MARGIN,      /* best and worst are as good, or closer than min_margin */
    JOUST_PAIRING_CHOSEN_FLOOR,   /* the best is below min_chosen */
    JOUST_PAIRING_REJECTED_FLOOR, /* the worst is above max_rejected */
    JOUST_PAIRING_IDENTICAL,      /* best and worst are the same text */
    JOUST_PAIRING_OUTCOMES
} joust_pairing_outcome;

typedef struct joust_pairing {
    joust_pairing_outcome outcome;
    uint32_t chosen, rejected;                     /* samples; valid if DECIDED */
    double chosen_reward, rejected_reward, margin; /* margin = chosen - rejected > 0 */
} joust_pairing;

/* best-worst: chosen is the best of `chosen`, rejected the worst of `rejected` (the same group, or another policy's
 * answers to the same prompt); ties go to the lowest sample index.
 * Errors: JOUST_UNSUPPORTED if rule->build isn't "best-worst" (err names it). */
JOUST_MUST_USE joust_status joust_pairing_decide(const joust_job_pairs *rule,
                                                 const joust_group *chosen,
                                                 const joust_group *rejected, joust_pairing *ret,
                                                 joust_error *err);

/* What a record needs beside the decision. Borrowed. */
typedef struct joust_pair_source {
    joust_unit_key key; /* of the PAIR stage's unit */
    const joust_trajectory *chosen, *rejected;
    joust_digest chosen_digest, rejected_digest; /* of their canonical bytes */
    joust_digest verdicts;                       /* see joust_pair */
} joust_pair_source;

/* The decided group's record, pair 0 of its prompt. */
void joust_pairing_record(const joust_job_pairs *rule, const joust_pairing *pairing,
                          const joust_pair_source *source, joust_pair *ret);

/* Whether all answers of the group are the same text (worth a warning: nothing can be learnt from it). n >= 2. */
bool joust_group_is_identical(const joust_group *group);
const char *
joust_pairing_outcome_name(joust_pairing_outcome outcome); /* "decided", "no reward" … */

#endif
