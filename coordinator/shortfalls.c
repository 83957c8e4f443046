/* Warnings about judge and pair stages that gave little: with counts, and what the job could change. */
#include "coordinator/coordinator_internal.h"
#include "proto/base/log.h"
#include "proto/base/text.h"

void joust_shortfall_of_verdicts(const joust_coordinator *c, uint32_t round, uint32_t stage,
                                 const joust_verdict_count *count)
{
    const uint64_t *outcomes = count->outcomes;
    uint64_t n = 0, failed = 0;
    joust_outcome most = JOUST_OUTCOME_DISAGREE;
    for (joust_outcome i = JOUST_OUTCOME_OK; i <= JOUST_OUTCOME_SKIPPED; i++) {
        n += outcomes[i];
        if (i == JOUST_OUTCOME_OK || i == JOUST_OUTCOME_TIE)
            continue;
        failed += outcomes[i];
        most = outcomes[i] > outcomes[most] ? i : most;
    }
    if (2 * failed <= n)
        return;
    joust_buf text = {0};
    joust_buf_format(&text, "round %u %s: %llu verdicts", round, c->plan.stages[stage].name,
                     (unsigned long long)n);
    for (joust_outcome i = JOUST_OUTCOME_DISAGREE; i <= JOUST_OUTCOME_SKIPPED; i++) {
        if (outcomes[i])
            joust_buf_format(&text, ", %llu %s", (unsigned long long)outcomes[i],
                             joust_outcome_name(i));
    }
    if (*count->reasons[most])
        joust_buf_format(&text, ": %s", count->reasons[most]);
    if (joust_buf_ok(&text))
        joust_log_warn("stage", "%s", (const char *)text.data);
    joust_buf_fini(&text);
}

void joust_coordinator_count_pairing(joust_coordinator *c, const joust_unit_key *unit,
                                     const joust_pairing *pairing)
{
    joust_pairing_count *count = &c->pairings[unit->stage];
    if (count->round != unit->round)
        *count = (joust_pairing_count){.round = unit->round};
    count->groups++;
    count->outcomes[pairing->outcome]++;
    if (pairing->outcome == JOUST_PAIRING_NO_REWARD)
        return;
    if (!count->compared || pairing->chosen_reward > count->best)
        count->best = pairing->chosen_reward;
    if (!count->compared || pairing->rejected_reward < count->worst)
        count->worst = pairing->rejected_reward;
    count->compared++;
}

/* "60 without a reward, 40 below pairs.min_chosen". */
static void add_outcomes(const joust_pairing_count *count, joust_buf *to)
{
    static const char *const words[JOUST_PAIRING_OUTCOMES] = {
        [JOUST_PAIRING_NO_REWARD] = "without a reward",
        [JOUST_PAIRING_NO_MARGIN] = "with rewards as good (pairs.min_margin)",
        [JOUST_PAIRING_CHOSEN_FLOOR] = "below pairs.min_chosen",
        [JOUST_PAIRING_REJECTED_FLOOR] = "above pairs.max_rejected",
        [JOUST_PAIRING_IDENTICAL] = "with identical answers"};
    const char *between = ": ";
    for (uint32_t i = 0; i < JOUST_PAIRING_OUTCOMES; i++) {
        if (!words[i] || !count->outcomes[i])
            continue;
        joust_buf_format(to, "%s%llu %s", between, (unsigned long long)count->outcomes[i],
                         words[i]);
        between = ", ";
    }
}

void joust_shortfall_of_pairs(const joust_coordinator *c, uint32_t round, uint32_t stage)
{
    const joust_pairing_count *count = &c->pairings[stage];
    const joust_job_pairs *rule = &c->job->pairs;
    uint64_t undecided = count->groups - count->outcomes[JOUST_PAIRING_DECIDED];
    if (count->round != round || 2 * undecided <= count->groups)
        return;
    joust_buf text = {0};
    joust_buf_format(&text, "round %u %s: %llu of %llu groups gave no pair", round,
                     c->plan.stages[stage].name, (unsigned long long)undecided,
                     (unsigned long long)count->groups);
    add_outcomes(count, &text);
    if (count->compared && count->best < rule->min_chosen)
        joust_buf_format(&text, "; no reward reached pairs.min_chosen %g; the largest was %g",
                         rule->min_chosen, count->best);
    if (count->compared && count->worst > rule->max_rejected)
        joust_buf_format(&text,
                         "; no reward was as low as pairs.max_rejected %g; the smallest was %g",
                         rule->max_rejected, count->worst);
    if (joust_buf_ok(&text))
        joust_log_warn("stage", "%s", (const char *)text.data);
    joust_buf_fini(&text);
}
