/* Units that the coordinator computes itself, from what is durable: pairs of a group, figures, promotion. */
#include <string.h>

#include "coordinator/coordinator_internal.h"
#include "coordinator/graded.h"
#include "coordinator/measure.h"
#include "coordinator/pairing.h"
#include "proto/base/alloc.h"
#include "proto/base/log.h"
#include "proto/codec.h"
#include "storage/lineage.h"
#include "storage/tables.h"

/* Pairs ---------------------------------------------------------------------------------------- */

typedef struct pair_records {
    joust_pair pair;
    bool decided;
} pair_records;

static joust_status put_pair(joust_coordinator *c, void *records, joust_error *err)
{
    pair_records *r = records;
    return r->decided ? joust_batch_put_pair(joust_committer_batch(c->committer), &r->pair, err)
                      : JOUST_OK;
}

static joust_status build_pair(joust_coordinator *c, const joust_unit_key *unit,
                               const joust_graded *chosen, const joust_graded *rejected,
                               const joust_said *all, pair_records *ret, joust_error *err)
{
    joust_pairing pairing;
    joust_group best = {.n = chosen->n, .texts = chosen->texts, .rewards = chosen->rewards};
    joust_group worst = {.n = rejected->n, .texts = rejected->texts, .rewards = rejected->rewards};
    joust_status st = joust_pairing_decide(&c->job->pairs, &best, &worst, &pairing, err);
    if (st == JOUST_OK)
        joust_coordinator_count_pairing(c, unit, &pairing);
    if (st != JOUST_OK || pairing.outcome != JOUST_PAIRING_DECIDED)
        return st;
    joust_pair_source source = {.key = *unit,
                                .chosen = &chosen->trajectories[pairing.chosen],
                                .rejected = &rejected->trajectories[pairing.rejected]};
    st = joust_verdicts_digest(all->verdicts, all->n, &source.verdicts, err);
    if (st == JOUST_OK)
        st = joust_trajectory_digest(source.chosen, &source.chosen_digest, err);
    if (st == JOUST_OK)
        st = joust_trajectory_digest(source.rejected, &source.rejected_digest, err);
    if (st == JOUST_OK) {
        joust_pairing_record(&c->job->pairs, &pairing, &source, &ret->pair);
        ret->decided = true;
    }
    return st;
}

/* Nobody asks for a group and its verdicts once it is paired. */
static void drop_recent(joust_coordinator *c, const joust_unit_key *pair)
{
    const joust_stage *stage = &c->plan.stages[pair->stage];
    for (uint32_t s = 0; s < pair->stage; s++) {
        joust_unit_key unit = {.round = pair->round, .stage = s, .position = pair->position};
        if (s == stage->of || s == stage->of_rejected ||
            joust_stage_rewards(c->job, &c->plan.stages[s], stage))
            joust_recent_drop(c->recent, &unit);
    }
}

/* How many answers a policy loss has to train on. */
static joust_status count_credit(const joust_stage *stage, const joust_graded *group, uint64_t *ret,
                                 joust_error *err)
{
    bool decided;
    joust_credit *credit = NULL;
    joust_status st = joust_graded_credit(group, stage, &credit, &decided, err);
    for (uint32_t i = 0; st == JOUST_OK && decided && i < group->n; i++)
        *ret += credit[i].used;
    joust_free(credit);
    return st;
}

static joust_status run_pair(joust_coordinator *c, const joust_unit_key *unit, joust_error *err)
{
    const joust_stage *stage = &c->plan.stages[unit->stage];
    const joust_graded_sources sources = {c->store, c->job, &c->plan, c->recent};
    bool two = stage->of_rejected != JOUST_NONE && stage->of_rejected != stage->of;
    joust_graded chosen = {0}, rejected = {0};
    pair_records records = {0};
    joust_core_local done = {.unit = *unit};
    joust_said all;
    joust_status st = joust_said_read(&sources, unit, &all, err);
    if (st != JOUST_OK)
        return st;
    st = joust_graded_read(&sources, unit, stage->of, &all, &chosen, err);
    if (st == JOUST_OK && two)
        st = joust_graded_read(&sources, unit, stage->of_rejected, &all, &rejected, err);
    if (st == JOUST_OK && stage->advantage)
        st = count_credit(stage, &chosen, &done.n_pairs, err);
    else if (st == JOUST_OK)
        st = build_pair(c, unit, &chosen, two ? &rejected : &chosen, &all, &records, err);
    joust_said_fini(&all);
    joust_graded_fini(&chosen);
    joust_graded_fini(&rejected);
    if (st != JOUST_OK)
        return st;
    drop_recent(c, unit);
    if (records.decided)
        done.n_pairs = 1;
    joust_core_event event = {.kind = JOUST_EVENT_LOCAL_DONE};
    event.u.local = done;
    joust_coordinator_step(c, &event, put_pair, &records);
    return JOUST_OK;
}

/* Figures -------------------------------------------------------------------------------------- */

/* A judge's values over a whole stage, in key order. *ret owns its items. stage JOUST_NONE, or a round in which the stage
 * doesn't run: nothing. */
static joust_status read_scores(joust_coordinator *c, uint32_t round, uint32_t stage,
                                joust_scores *ret, joust_error *err)
{
    *ret = (joust_scores){0};
    if (stage == JOUST_NONE || !joust_stage_runs(&c->plan.stages[stage], round))
        return JOUST_OK;
    ret->threshold = joust_measure_threshold(c->job->judges[c->plan.stages[stage].judge].kind);
    joust_key_range range = joust_range_stage(round, stage);
    joust_cursor *cursor;
    joust_status st = joust_cursor_open(c->store, JOUST_FAMILY_VERDICTS, &range, &cursor, err);
    if (st != JOUST_OK)
        return st;
    joust_buf items = {0};
    joust_verdict v;
    while ((st = joust_cursor_next_verdict(cursor, &v, err)) == JOUST_OK) {
        joust_reward reward = {.has = v.has_value, .value = v.has_value ? v.value : 0};
        joust_buf_add(&items, &reward, sizeof(reward));
        joust_verdict_fini(&v);
    }
    joust_cursor_close(&cursor);
    st = st == JOUST_END ? joust_buf_status(&items, err) : st;
    ret->n = items.n / sizeof(joust_reward);
    ret->items = (const joust_reward *)(const void *)joust_buf_take(&items, NULL);
    if (st != JOUST_OK) {
        joust_free((void *)(uintptr_t)ret->items);
        *ret = (joust_scores){0};
    }
    return st;
}

static void scores_fini(joust_scores *s)
{
    joust_free((void *)(uintptr_t)s->items);
}

static joust_status put_summary(joust_coordinator *c, void *records, joust_error *err)
{
    return joust_batch_put_stage_summary(joust_committer_batch(c->committer), records, err);
}

static joust_status run_measure(joust_coordinator *c, const joust_unit_key *unit, joust_error *err)
{
    const joust_stage *stage = &c->plan.stages[unit->stage];
    const joust_job_evaluate *evaluate = &c->job->evaluate;
    joust_measure_input in = {0};
    joust_metric metrics[JOUST_MEASURE_METRICS];
    uint32_t n = 0;
    joust_status st = read_scores(c, unit->round, stage->judge, &in.greedy, err);
    if (st == JOUST_OK)
        st = read_scores(c, unit->round, stage->judge_sampled, &in.sampled, err);
    if (st == JOUST_OK)
        st = read_scores(c, unit->round, stage->judged_by, &in.judged_by, err);
    if (st == JOUST_OK && unit->round && evaluate->against_base)
        st = read_scores(c, 0, stage->judge, &in.base, err);
    if (st == JOUST_OK && unit->round && evaluate->against_previous)
        st = read_scores(c, unit->round - 1, stage->judge, &in.previous, err);
    if (st == JOUST_OK)
        st = joust_measure(&in, metrics, &n, err);
    scores_fini(&in.greedy);
    scores_fini(&in.sampled);
    scores_fini(&in.judged_by);
    scores_fini(&in.base);
    scores_fini(&in.previous);
    if (st != JOUST_OK)
        return st;
    joust_stage_summary summary = {
        .round = unit->round, .stage = unit->stage, .n_metrics = n, .metrics = metrics};
    joust_core_event event = {.kind = JOUST_EVENT_LOCAL_DONE};
    event.u.local = (joust_core_local){.unit = *unit};
    for (uint32_t i = 0; i < n; i++)
        joust_log_info("measure", "round %u %s %.4f (%.4f to %.4f)", unit->round, metrics[i].name,
                       metrics[i].value, metrics[i].low, metrics[i].high);
    joust_coordinator_step(c, &event, put_summary, &summary);
    return JOUST_OK;
}

/* Promotion ------------------------------------------------------------------------------------ */

static joust_status put_promotion(joust_coordinator *c, void *records, joust_error *err)
{
    return joust_batch_put_promotion(joust_committer_batch(c->committer), records, err);
}

static joust_status run_promote(joust_coordinator *c, const joust_unit_key *unit,
                                const joust_local_order *order, joust_error *err)
{
    const joust_stage *stage = &c->plan.stages[unit->stage];
    joust_gate_input in = {.key = *unit,
                           .candidate = order->candidate,
                           .best = order->best,
                           .has_best = order->has_best,
                           .gate = c->job->promote.gate};
    joust_promotion promotion;
    joust_status st = read_scores(c, unit->round, stage->judge, &in.of_candidate, err);
    if (st == JOUST_OK && order->has_best)
        st = read_scores(c, order->best_round, stage->judge, &in.of_best, err);
    if (st == JOUST_OK)
        st = joust_gate_decide(&in, &promotion, err);
    scores_fini(&in.of_candidate);
    scores_fini(&in.of_best);
    if (st != JOUST_OK)
        return st;
    joust_log_info("promote", "round %u version %llu %s: %.4f, best so far %.4f", unit->round,
                   (unsigned long long)promotion.candidate,
                   promotion.promoted ? "promoted" : "blocked", promotion.candidate_value,
                   promotion.best_value);
    joust_core_event event = {.kind = JOUST_EVENT_LOCAL_DONE};
    event.u.local = (joust_core_local){.unit = *unit, .promoted = promotion.promoted};
    joust_coordinator_step(c, &event, put_promotion, &promotion);
    return JOUST_OK;
}

void joust_coordinator_run_local(joust_coordinator *c, const joust_action *action)
{
    joust_error err;
    const joust_unit_key unit = action->id.unit;
    const joust_local_order order = action->u.local; /* stepping may move the action */
    joust_status st;
    switch (c->plan.stages[unit.stage].kind) {
    case JOUST_STAGE_PAIR:
        st = run_pair(c, &unit, &err);
        break;
    case JOUST_STAGE_MEASURE:
        st = run_measure(c, &unit, &err);
        break;
    case JOUST_STAGE_PROMOTE:
        st = run_promote(c, &unit, &order, &err);
        break;
    default:
        st = joust_fail(&err, JOUST_BUG, "stage %s is not computed here",
                        c->plan.stages[unit.stage].name);
    }
    if (st == JOUST_OK)
        return;
    if (joust_status_scope(st) == JOUST_SCOPE_PROCESS || st == JOUST_NOT_FOUND) {
        joust_coordinator_fail(c, st, &err);
        return;
    }
    joust_core_event event = {.kind = JOUST_EVENT_LOCAL_FAILED, .text = err.text};
    event.u.local.unit = unit;
    joust_coordinator_step(c, &event, NULL, NULL);
}
