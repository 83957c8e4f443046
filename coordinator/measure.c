#include "coordinator/measure.h"

#include <stdio.h>

#include "proto/base/alloc.h"
#include "proto/base/stats.h"
#include "storage/metrics.h"

double joust_measure_threshold(joust_judge_kind kind)
{
    return kind == JOUST_JUDGE_YES_NO || kind == JOUST_JUDGE_RANDOM ? 0 : 0.5;
}

static bool positive(const joust_scores *scores, uint64_t i)
{
    return scores->items[i].has && scores->items[i].value > scores->threshold;
}

static uint64_t count_positive(const joust_scores *scores)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < scores->n; i++)
        n += positive(scores, i);
    return n;
}

static joust_metric metric_of(const char *name, joust_interval interval)
{
    joust_metric metric = {
        .value = interval.mean, .low = interval.low, .high = interval.high, .n = interval.n};
    snprintf(metric.name, sizeof metric.name, "%s", name);
    return metric;
}

static joust_metric share(const char *name, const joust_scores *scores)
{
    return metric_of(name, joust_wilson(count_positive(scores), scores->n));
}

joust_status joust_measure_difference(const joust_scores *candidate, const joust_scores *best,
                                      const char *name, joust_metric *ret, joust_error *err)
{
    uint64_t lost = 0, won = 0;
    if (candidate->n != best->n)
        return joust_fail(err, JOUST_INVALID,
                          "%s: %llu answers against %llu, but they are compared prompt by prompt",
                          name, (unsigned long long)candidate->n, (unsigned long long)best->n);
    for (uint64_t i = 0; i < best->n; i++) {
        won += positive(candidate, i) && !positive(best, i);
        lost += !positive(candidate, i) && positive(best, i);
    }
    *ret = metric_of(name, joust_paired_difference(lost, best->n - won - lost, won));
    return JOUST_OK;
}

/* A difference in -1 .. 1 as a win rate in 0 .. 1: wins + ties / 2 over all. */
static joust_status win_rate(const joust_scores *candidate, const joust_scores *other,
                             const char *name, joust_metric *ret, joust_error *err)
{
    joust_status st = joust_measure_difference(candidate, other, name, ret, err);
    if (st != JOUST_OK)
        return st;
    ret->value = (ret->value + 1) / 2;
    ret->low = (ret->low + 1) / 2;
    ret->high = (ret->high + 1) / 2;
    return JOUST_OK;
}

/* How the judge under test agrees with the measure's judge on answers that both gave a value. */
static joust_status judge_health(const joust_scores *truth, const joust_scores *tested,
                                 joust_metric *ret, uint32_t *n, joust_error *err)
{
    if (truth->n != tested->n)
        return joust_fail(err, JOUST_INVALID, "judge accuracy: %llu answers against %llu",
                          (unsigned long long)truth->n, (unsigned long long)tested->n);
    double *scores = joust_calloc(truth->n, sizeof(*scores));
    uint8_t *labels = joust_calloc(truth->n, sizeof(*labels));
    uint64_t both = 0, agreed = 0;
    double auc = -1;
    for (uint64_t i = 0; scores && labels && i < truth->n; i++) {
        if (!truth->items[i].has || !tested->items[i].has)
            continue;
        agreed += positive(truth, i) == positive(tested, i);
        labels[both] = positive(truth, i);
        scores[both++] = tested->items[i].value;
    }
    if (scores && labels)
        auc = joust_auc(scores, labels, (size_t)both);
    joust_free(scores);
    joust_free(labels);
    if (auc == -1)
        return joust_fail(err, JOUST_NOMEM, "judge accuracy over %llu answers",
                          (unsigned long long)truth->n);
    if (both)
        ret[(*n)++] = metric_of(JOUST_METRIC_JUDGE_ACCURACY, joust_wilson(agreed, both));
    if (auc == auc) /* not NaN: both classes are there */
        ret[(*n)++] = metric_of(JOUST_METRIC_JUDGE_AUC,
                                (joust_interval){.mean = auc, .low = auc, .high = auc, .n = both});
    return JOUST_OK;
}

joust_status joust_measure(const joust_measure_input *in, joust_metric *ret, uint32_t *ret_n,
                           joust_error *err)
{
    uint32_t n = 0;
    joust_status st = JOUST_OK;
    ret[n++] = share(JOUST_METRIC_GREEDY_ACCURACY, &in->greedy);
    if (in->sampled.n)
        ret[n++] = share(JOUST_METRIC_SAMPLED_ACCURACY, &in->sampled);
    if (in->base.n)
        st = win_rate(&in->greedy, &in->base, JOUST_METRIC_WIN_RATE_BASE, &ret[n++], err);
    if (st == JOUST_OK && in->previous.n)
        st = win_rate(&in->greedy, &in->previous, JOUST_METRIC_WIN_RATE_PREVIOUS, &ret[n++], err);
    if (st == JOUST_OK && in->judged_by.n)
        st = judge_health(&in->sampled, &in->judged_by, ret, &n, err);
    if (st == JOUST_OK)
        *ret_n = n;
    return st;
}

joust_status joust_gate_decide(const joust_gate_input *in, joust_promotion *ret, joust_error *err)
{
    joust_promotion decision = {.round = in->key.round,
                                .stage = in->key.stage,
                                .candidate = in->candidate,
                                .best = in->has_best ? in->best : in->candidate,
                                .promoted = true};
    joust_metric mine = share("candidate", &in->of_candidate);
    const joust_scores *best = in->has_best ? &in->of_best : &in->of_candidate;
    joust_status st = joust_measure_difference(&in->of_candidate, best, "candidate - best",
                                               &decision.difference, err);
    if (st != JOUST_OK)
        return st;
    decision.candidate_value = mine.value;
    decision.best_value = share("best", best).value;
    if (in->has_best && in->gate)
        decision.promoted = decision.difference.high >= 0;
    decision.next = decision.promoted ? in->candidate : decision.best;
    *ret = decision;
    return JOUST_OK;
}
