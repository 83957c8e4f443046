/* From verdicts to figures: accuracy, win rate, the health of a judge, and whether a round is promoted. Pure; counts are
 * integers and sums run in position order, so the same verdicts give the same bits. Thread: any. */
#ifndef JOUST_COORDINATOR_MEASURE_H
#define JOUST_COORDINATOR_MEASURE_H

#include "coordinator/rewards.h"

/* A judge's values in key order (position, then sample). One is "positive" when above `threshold`: see joust_measure_threshold. */
typedef struct joust_scores {
    uint64_t n;
    const joust_reward *items; /* (n), borrowed; NULL with n = 0: not measured */
    double threshold;
} joust_scores;

/* What counts as a yes: log-odds above 0 for yes-no and random judges, a value above 1/2 for the others. */
double joust_measure_threshold(joust_judge_kind kind);

typedef struct joust_measure_input {
    joust_scores greedy;  /* by the measure's judge, one a prompt */
    joust_scores sampled; /* by the same judge; n = 0: none */
    joust_scores
        judged_by; /* of the sampled answers, by the judge under test, in the same order; n = 0: none */
    joust_scores base;     /* greedy of the baseline (round 0); n = 0: no comparison */
    joust_scores previous; /* greedy of the round before; n = 0: no comparison */
} joust_measure_input;

#define JOUST_MEASURE_METRICS 8u /* at most so many figures */

/* Figures of an evaluation, named by storage/metrics.h: greedy_accuracy and sampled_accuracy (Wilson),
 * win_rate_base and win_rate_previous (paired by prompt, wins + ties / 2), judge_accuracy (Wilson) and judge_auc. What can't
 * be computed is left out. An answer without a value counts as not positive, and is left out of comparisons of two judges.
 * Memory:  overwrites ret (JOUST_MEASURE_METRICS); *ret_n: how many.
 * Errors:  JOUST_INVALID if two lists that go together differ in length; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_measure(const joust_measure_input *in, joust_metric *ret,
                                          uint32_t *ret_n, joust_error *err);

/* candidate - best in positives, paired by prompt, with its 95 % interval; both lists are of the same prompts.
 * name: of the metric. Errors: JOUST_INVALID if they differ in length. */
JOUST_MUST_USE joust_status joust_measure_difference(const joust_scores *candidate,
                                                     const joust_scores *best, const char *name,
                                                     joust_metric *ret, joust_error *err);

typedef struct joust_gate_input {
    joust_unit_key key;        /* of the PROMOTE unit */
    uint64_t candidate, best;  /* versions */
    bool has_best;             /* false on the first: it is promoted */
    bool gate;                 /* false: promoted whatever the figures say */
    joust_scores of_candidate; /* greedy, by the gate's judge */
    joust_scores of_best;      /* the best's, same prompts; n = 0 without has_best */
} joust_gate_input;

/* The promotion gate: promoted unless the candidate is worse than the best beyond the interval, that is unless even the
 * upper end of the paired difference is below zero. Errors: JOUST_INVALID as above. */
JOUST_MUST_USE joust_status joust_gate_decide(const joust_gate_input *in, joust_promotion *ret,
                                              joust_error *err);

#endif
