#include "coordinator/rewards.h"

#include "proto/base/alloc.h"

typedef struct sum {
    double total;
    uint32_t n;
} sum;

joust_status joust_rewards_score(const joust_verdict *verdicts, uint32_t n_verdicts, uint32_t n,
                                 joust_reward *ret, joust_error *err)
{
    sum *sums = joust_calloc(n, sizeof(*sums));
    if (!sums)
        return joust_fail(err, JOUST_NOMEM, "rewards of %u trajectories", n);
    for (uint32_t i = 0; i < n_verdicts; i++) {
        const joust_verdict *v = &verdicts[i];
        if (v->sample >= n || (v->other != JOUST_NONE && v->other >= n)) {
            joust_free(sums);
            return joust_fail(err, JOUST_INVALID,
                              "verdict %u of judge %s is about samples %u and %u of a group of %u",
                              i, v->judge, v->sample, v->other, n);
        }
        if (!v->has_value)
            continue;
        sums[v->sample].total += v->value;
        sums[v->sample].n++;
        if (v->other == JOUST_NONE)
            continue;
        sums[v->other].total += 1 - v->value;
        sums[v->other].n++;
    }
    for (uint32_t i = 0; i < n; i++)
        ret[i] = (joust_reward){.has = sums[i].n > 0,
                                .value = sums[i].n ? sums[i].total / sums[i].n : 0};
    joust_free(sums);
    return JOUST_OK;
}

static joust_reward combine_one(joust_combine combine, const joust_reward *scores,
                                uint32_t n_judges, uint32_t stride)
{
    joust_reward reward = scores[0];
    for (uint32_t j = 1; j < n_judges && reward.has; j++) {
        const joust_reward *score = &scores[(size_t)j * stride];
        reward.has = score->has;
        switch (combine) {
        case JOUST_COMBINE_MEAN:
            reward.value += score->value;
            break;
        case JOUST_COMBINE_MIN:
            reward.value = score->value < reward.value ? score->value : reward.value;
            break;
        case JOUST_COMBINE_MAX:
            reward.value = score->value > reward.value ? score->value : reward.value;
            break;
        }
    }
    if (combine == JOUST_COMBINE_MEAN)
        reward.value /= n_judges;
    return reward.has ? reward : (joust_reward){0};
}

void joust_rewards_combine(joust_combine combine, const joust_reward *scores, uint32_t n_judges,
                           uint32_t n, joust_reward *ret)
{
    for (uint32_t i = 0; i < n; i++)
        ret[i] = combine_one(combine, scores + i, n_judges, n);
}
