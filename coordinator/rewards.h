/* From verdicts to rewards: what the job's judges said about a group's trajectories, combined to one number each.
 * Pure; sums in verdict order, so the same verdicts give the same bits. Thread: any. */
#ifndef JOUST_COORDINATOR_REWARDS_H
#define JOUST_COORDINATOR_REWARDS_H

#include "proto/job.h"

/* One per sample of a group. Without a value there is no reward: a failed verdict is never a zero. */
typedef struct joust_reward {
    bool has;
    double value;
} joust_reward;

/* One judge's scores of a group of n trajectories, from its verdicts in key order.
 *   verdicts about one trajectory: the mean of those with a value
 *   comparisons: the mean preference; value is P(subject better), so the other one gets 1 - value
 * A sample without any valued verdict has no score.
 * Memory:  borrows verdicts; overwrites ret (n).
 * Errors:  JOUST_INVALID if a verdict names a sample outside the group; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_rewards_score(const joust_verdict *verdicts, uint32_t n_verdicts,
                                                uint32_t n, joust_reward *ret, joust_error *err);

/* Combines the scores of the reward judges: scores[j * n + i] is judge j's of sample i. A sample that any judge could
 * not score has no reward: a mean over those who answered would favour whom the strict judge skipped.
 * Memory: overwrites ret (n). n_judges >= 1. */
void joust_rewards_combine(joust_combine combine, const joust_reward *scores, uint32_t n_judges,
                           uint32_t n, joust_reward *ret);

#endif
