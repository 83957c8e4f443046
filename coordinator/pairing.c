#include "coordinator/pairing.h"

#include <stdio.h>
#include <string.h>

/* The sample whose reward times sign is greatest, the lowest index among equals; JOUST_NONE if none has a reward. */
static uint32_t extreme(const joust_group *group, double sign)
{
    uint32_t best = JOUST_NONE;
    for (uint32_t i = 0; i < group->n; i++) {
        if (group->rewards[i].has && (best == JOUST_NONE || sign * group->rewards[i].value >
                                                                sign * group->rewards[best].value))
            best = i;
    }
    return best;
}

static joust_pairing_outcome judge_pair(const joust_job_pairs *rule, const joust_group *chosen,
                                        const joust_group *rejected, const joust_pairing *p)
{
    if (!(p->margin > 0) || !(p->margin > rule->min_margin))
        return JOUST_PAIRING_NO_MARGIN;
    if (p->chosen_reward < rule->min_chosen)
        return JOUST_PAIRING_CHOSEN_FLOOR;
    if (p->rejected_reward > rule->max_rejected)
        return JOUST_PAIRING_REJECTED_FLOOR;
    if (strcmp(chosen->texts[p->chosen], rejected->texts[p->rejected]) == 0)
        return JOUST_PAIRING_IDENTICAL;
    return JOUST_PAIRING_DECIDED;
}

joust_status joust_pairing_decide(const joust_job_pairs *rule, const joust_group *chosen,
                                  const joust_group *rejected, joust_pairing *ret, joust_error *err)
{
    if (rule->build && strcmp(rule->build, "best-worst") != 0)
        return joust_fail(err, JOUST_UNSUPPORTED, "pairs.build: %s; known is best-worst",
                          rule->build);
    joust_pairing pairing = {.outcome = JOUST_PAIRING_NO_REWARD,
                             .chosen = extreme(chosen, 1),
                             .rejected = extreme(rejected, -1)};
    if (pairing.chosen != JOUST_NONE && pairing.rejected != JOUST_NONE) {
        pairing.chosen_reward = chosen->rewards[pairing.chosen].value;
        pairing.rejected_reward = rejected->rewards[pairing.rejected].value;
        pairing.margin = pairing.chosen_reward - pairing.rejected_reward;
        pairing.outcome = judge_pair(rule, chosen, rejected, &pairing);
    }
    *ret = pairing;
    return JOUST_OK;
}

static joust_trajectory_ref refer(const joust_trajectory *trajectory, const joust_digest *digest)
{
    return (joust_trajectory_ref){.round = trajectory->key.round,
                                  .stage = trajectory->key.stage,
                                  .position = trajectory->key.position,
                                  .sample = trajectory->sample,
                                  .digest = *digest};
}

void joust_pairing_record(const joust_job_pairs *rule, const joust_pairing *pairing,
                          const joust_pair_source *source, joust_pair *ret)
{
    *ret = (joust_pair){.key = source->key,
                        .prompt = source->chosen->prompt,
                        .prompt_occurrence = source->chosen->prompt_occurrence,
                        .chosen = refer(source->chosen, &source->chosen_digest),
                        .rejected = refer(source->rejected, &source->rejected_digest),
                        .chosen_reward = pairing->chosen_reward,
                        .rejected_reward = pairing->rejected_reward,
                        .margin = pairing->margin,
                        .verdicts = source->verdicts,
                        .policy = source->chosen->policy};
    snprintf(ret->rule, sizeof ret->rule, "%s", rule->build ? rule->build : "best-worst");
}

bool joust_group_is_identical(const joust_group *group)
{
    for (uint32_t i = 1; i < group->n; i++) {
        if (strcmp(group->texts[i], group->texts[0]) != 0)
            return false;
    }
    return group->n >= 2;
}

const char *joust_pairing_outcome_name(joust_pairing_outcome outcome)
{
    static const char *const names[JOUST_PAIRING_OUTCOMES] = {
        "decided", "no reward", "no margin", "chosen floor", "rejected floor", "identical"};
    return outcome < JOUST_PAIRING_OUTCOMES ? names[outcome] : "unknown";
}
