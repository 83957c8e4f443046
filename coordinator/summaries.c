/* Figures of a finished stage, from what the store holds: the same whenever they are computed. */
#include <stdio.h>
#include <string.h>

#include "coordinator/coordinator_internal.h"
#include "coordinator/graded.h"
#include "proto/base/alloc.h"
#include "proto/base/log.h"
#include "storage/metrics.h"
#include "storage/tables.h"

typedef struct figures {
    joust_metric metrics[16];
    uint32_t n;
} figures;

static void set_metric(joust_metric *m, const char *name, double value, uint64_t n)
{
    *m = (joust_metric){.value = value, .low = value, .high = value, .n = n};
    snprintf(m->name, sizeof(m->name), "%s", name);
}

static void add(figures *f, const char *name, double value, uint64_t n)
{
    set_metric(&f->metrics[f->n++], name, value, n);
}

static double share(double sum, uint64_t n)
{
    return n ? sum / (double)n : 0;
}

/* One group more: its trajectories. */
static void count_group(joust_generate_count *c, const joust_trajectory *group, uint32_t n)
{
    const bool refused = n > 0 && group[0].n_tokens == 0 && group[0].finish == JOUST_FINISH_LENGTH;
    bool same = n > 1;
    for (uint32_t i = 0; i < n; i++) {
        c->empty += !refused && !group[i].text[0];
        same = same && !strcmp(group[i].text, group[0].text);
        c->tokens += group[i].n_tokens;
        c->stopped +=
            group[i].finish == JOUST_FINISH_STOP || group[i].finish == JOUST_FINISH_STOP_STRING;
    }
    c->cut += n > 0 && group[0].n_cut > 0;
    c->refused += refused;
    c->groups++;
    c->trajectories += n;
    c->identical += same;
}

void joust_coordinator_count(joust_coordinator *c, const joust_unit_result *r)
{
    joust_generate_count *count = &c->counts[r->id.unit.stage];
    if (!r->n_trajectories)
        return;
    if (count->round != r->id.unit.round)
        *count = (joust_generate_count){.round = r->id.unit.round};
    count_group(count, r->trajectories, r->n_trajectories);
}

/* From the store: groups that came before this process are in no count of its own. */
static joust_status recount(joust_coordinator *c, uint32_t round, uint32_t stage,
                            joust_generate_count *ret, joust_error *err)
{
    joust_generate_count count = {.round = round};
    joust_unit_key unit = {.round = round, .stage = stage};
    uint64_t n = joust_core_positions(c->core, round, stage);
    joust_status st = JOUST_OK;
    for (; st == JOUST_OK && unit.position < n; unit.position++) {
        joust_trajectory *group;
        uint32_t n_group;
        st = joust_store_get_group(c->store, &unit, &group, &n_group, err);
        if (st != JOUST_OK || !n_group)
            continue;
        count_group(&count, group, n_group);
        joust_trajectories_free(group, n_group);
    }
    *ret = count;
    return st;
}

/* What servers were asked for the stage: from the store, which has every lease and every result. */
static joust_status count_served(joust_coordinator *c, uint32_t round, uint32_t stage, figures *f,
                                 joust_error *err)
{
    joust_lease_count n;
    joust_status st = joust_store_count_leases(c->store, round, stage, &n, err);
    if (st != JOUST_OK)
        return st;
    uint32_t each = joust_served_requests_a_unit(c, stage);
    add(f, JOUST_METRIC_REQUESTS, (double)(n.leases * each), n.leases);
    add(f, JOUST_METRIC_REASKED, (double)((n.leases - n.units) * each), n.leases);
    add(f, JOUST_METRIC_RETRIES, (double)(n.tries - n.requests), n.requests);
    return st;
}

static joust_status count_generate(joust_coordinator *c, uint32_t round, uint32_t stage, figures *f,
                                   joust_error *err)
{
    joust_generate_count n = c->counts[stage];
    joust_status st = JOUST_OK;
    if (n.round != round || n.groups != joust_core_positions(c->core, round, stage))
        st = recount(c, round, stage, &n, err);
    add(f, JOUST_METRIC_GROUPS, (double)n.groups, n.groups);
    add(f, JOUST_METRIC_TRAJECTORIES, (double)n.trajectories, n.trajectories);
    add(f, JOUST_METRIC_MEAN_TOKENS, share((double)n.tokens, n.trajectories), n.trajectories);
    add(f, JOUST_METRIC_STOPPED, share((double)n.stopped, n.trajectories), n.trajectories);
    add(f, JOUST_METRIC_IDENTICAL_GROUPS, (double)n.identical, n.groups);
    if (st == JOUST_OK && joust_served_stage(c, stage))
        st = count_served(c, round, stage, f, err);
    if (n.refused)
        add(f, JOUST_METRIC_REFUSED_PROMPTS, (double)n.refused, n.groups);
    if (n.cut)
        add(f, JOUST_METRIC_CUT_PROMPTS, (double)n.cut, n.groups);
    if (n.empty)
        add(f, JOUST_METRIC_EMPTY_ANSWERS, (double)n.empty, n.trajectories);
    if (st == JOUST_OK && n.refused)
        joust_log_warn("stage",
                       "round %u %s: %llu of %llu prompts are too long: their responses "
                       "have no token (rollout.long_prompts: cut keeps their ends)",
                       round, c->plan.stages[stage].name, (unsigned long long)n.refused,
                       (unsigned long long)n.groups);
    if (st == JOUST_OK && n.identical)
        joust_log_warn("stage", "round %u %s: %llu of %llu groups have only identical answers",
                       round, c->plan.stages[stage].name, (unsigned long long)n.identical,
                       (unsigned long long)n.groups);
    return st;
}

static joust_status count_judge(joust_coordinator *c, uint32_t round, uint32_t stage,
                                joust_cursor *cursor, figures *f, joust_error *err)
{
    uint64_t n = 0, failed = 0, groups = 0, position = 0;
    joust_verdict_count count = {0};
    double sum = 0;
    joust_verdict v;
    joust_status st;
    while ((st = joust_cursor_next_verdict(cursor, &v, err)) == JOUST_OK) {
        groups += n == 0 || v.key.position != position;
        position = v.key.position;
        n++;
        if (v.has_value)
            sum += v.value;
        else
            failed++;
        if (!count.outcomes[v.outcome]++)
            snprintf(count.reasons[v.outcome], sizeof(count.reasons[0]), "%s",
                     v.text ? v.text : "");
        joust_verdict_fini(&v);
    }
    add(f, JOUST_METRIC_GROUPS, (double)groups, groups);
    add(f, JOUST_METRIC_VERDICTS, (double)n, n);
    add(f, JOUST_METRIC_FAILED_VERDICTS, (double)failed, n);
    add(f, JOUST_METRIC_MEAN_VALUE, share(sum, n - failed), n - failed);
    joust_shortfall_of_verdicts(c, round, stage, &count);
    if (st == JOUST_END && joust_served_stage(c, stage)) {
        joust_status counted = count_served(c, round, stage, f, err);
        st = counted == JOUST_OK ? st : counted;
    }
    return st;
}

static joust_status count_pairs(joust_cursor *cursor, uint64_t positions, figures *f,
                                joust_error *err)
{
    uint64_t n = 0, decided = 0, position = 0;
    double margin = 0, chosen = 0, rejected = 0;
    joust_pair p;
    joust_status st;
    while ((st = joust_cursor_next_pair(cursor, &p, err)) == JOUST_OK) {
        decided += n == 0 || p.key.position != position;
        position = p.key.position;
        n++;
        margin += p.margin;
        chosen += p.chosen_reward;
        rejected += p.rejected_reward;
    }
    add(f, JOUST_METRIC_GROUPS, (double)positions, positions);
    add(f, JOUST_METRIC_PAIRS, (double)n, positions);
    add(f, JOUST_METRIC_UNDECIDED_GROUPS, (double)(positions - decided), positions);
    add(f, JOUST_METRIC_MEAN_MARGIN, share(margin, n), n);
    add(f, JOUST_METRIC_MEAN_CHOSEN, share(chosen, n), n);
    add(f, JOUST_METRIC_MEAN_REJECTED, share(rejected, n), n);
    return st;
}

/* Of groups whose answers get advantages. */
typedef struct graded_count {
    const joust_stage *stage;
    uint64_t groups, decided, answers, rewarded;
    double sum;
} graded_count;

static joust_status count_graded(void *context, uint64_t position, const joust_graded *group,
                                 joust_error *err)
{
    graded_count *n = context;
    bool decided = false;
    (void)position;
    joust_credit *credit = NULL;
    joust_status st = joust_graded_credit(group, n->stage, &credit, &decided, err);
    for (uint32_t i = 0; st == JOUST_OK && i < group->n; i++) {
        n->answers += credit[i].used;
        n->rewarded += group->rewards[i].has;
        n->sum += group->rewards[i].has ? group->rewards[i].value : 0;
    }
    n->groups++;
    n->decided += decided;
    joust_free(credit);
    return st;
}

static joust_status count_answers(joust_coordinator *c, uint32_t round, const joust_stage *stage,
                                  figures *f, joust_error *err)
{
    const joust_graded_sources sources = {c->store, c->job, &c->plan, c->recent};
    graded_count n = {.stage = stage};
    joust_status st = joust_graded_each(&sources, round, stage->index, count_graded, &n, err);
    add(f, JOUST_METRIC_GROUPS, (double)n.groups, n.groups);
    add(f, JOUST_METRIC_ANSWERS, (double)n.answers, n.groups);
    add(f, JOUST_METRIC_UNDECIDED_GROUPS, (double)(n.groups - n.decided), n.groups);
    add(f, JOUST_METRIC_MEAN_REWARD, share(n.sum, n.rewarded), n.rewarded);
    if (st == JOUST_OK && 2 * (n.groups - n.decided) > n.groups)
        joust_log_warn("stage",
                       "round %u %s: %llu of %llu groups have no two different rewards; "
                       "%llu answers have one, the mean is %g",
                       round, stage->name, (unsigned long long)(n.groups - n.decided),
                       (unsigned long long)n.groups, (unsigned long long)n.rewarded,
                       share(n.sum, n.rewarded));
    return st;
}

static joust_family family_of(joust_stage_kind kind)
{
    return kind == JOUST_STAGE_JUDGE ? JOUST_FAMILY_VERDICTS : JOUST_FAMILY_PAIRS;
}

static joust_status count(joust_coordinator *c, uint32_t round, const joust_stage *stage,
                          figures *f, joust_error *err)
{
    if (stage->kind == JOUST_STAGE_GENERATE)
        return count_generate(c, round, stage->index, f, err);
    if (stage->advantage)
        return count_answers(c, round, stage, f, err);
    joust_key_range range = joust_range_stage(round, stage->index);
    joust_cursor *cursor;
    joust_status st = joust_cursor_open(c->store, family_of(stage->kind), &range, &cursor, err);
    if (st != JOUST_OK)
        return st;
    if (stage->kind == JOUST_STAGE_JUDGE)
        st = count_judge(c, round, stage->index, cursor, f, err);
    else
        st = count_pairs(cursor, joust_core_positions(c->core, round, stage->index), f, err);
    if (stage->kind == JOUST_STAGE_PAIR)
        joust_shortfall_of_pairs(c, round, stage->index);
    joust_cursor_close(&cursor);
    return st == JOUST_END ? JOUST_OK : st;
}

joust_status joust_coordinator_summarise(joust_coordinator *c, uint32_t round, uint32_t stage,
                                         joust_error *err)
{
    const joust_stage *s = &c->plan.stages[stage];
    if (s->kind != JOUST_STAGE_GENERATE && s->kind != JOUST_STAGE_JUDGE &&
        s->kind != JOUST_STAGE_PAIR)
        return JOUST_OK; /* the others' figures come with their results */
    joust_stage_summary summary;
    joust_status st = joust_store_get_stage_summary(c->store, round, stage, &summary, err);
    if (st == JOUST_OK) {
        joust_stage_summary_fini(&summary);
        return JOUST_OK;
    }
    figures f = {0};
    if (st == JOUST_NOT_FOUND)
        st = count(c, round, s, &f, err);
    if (st != JOUST_OK)
        return st;
    summary = (joust_stage_summary){
        .round = round, .stage = stage, .n_metrics = f.n, .metrics = f.metrics};
    return joust_batch_put_stage_summary(joust_committer_batch(c->committer), &summary, err);
}

/* Loss of a step that came with this result, or with progress before it. */
static joust_status find_loss(joust_coordinator *c, const joust_unit_result *r, uint32_t step,
                              double *ret, joust_error *err)
{
    for (uint32_t i = 0; i < r->n_steps; i++) {
        if (r->steps[i].step == step) {
            *ret = r->steps[i].loss;
            return JOUST_OK;
        }
    }
    joust_train_step stored;
    joust_status st = joust_store_get_train_step(c->store, r->id.unit.round, r->id.unit.stage, step,
                                                 &stored, err);
    if (st == JOUST_OK) {
        *ret = stored.loss;
        joust_train_step_fini(&stored);
    }
    return st;
}

joust_status joust_coordinator_put_train_summary(joust_coordinator *c, const joust_unit_result *r,
                                                 joust_error *err)
{
    uint32_t n_steps = r->model.n_steps;
    joust_metric *metrics = joust_calloc(r->n_metrics + 3, sizeof(*metrics));
    if (!metrics)
        return joust_fail(err, JOUST_NOMEM, "summary: out of memory");
    joust_stage_summary summary = {
        .round = r->id.unit.round, .stage = r->id.unit.stage, .metrics = metrics};
    if (r->n_metrics)
        memcpy(metrics, r->metrics, r->n_metrics * sizeof(*metrics));
    summary.n_metrics = r->n_metrics;
    double first = 0, last = 0;
    joust_status st = JOUST_OK;
    if (n_steps) {
        st = find_loss(c, r, 0, &first, err);
        if (st == JOUST_OK)
            st = find_loss(c, r, n_steps - 1, &last, err);
        set_metric(&metrics[summary.n_metrics++], JOUST_METRIC_STEPS, n_steps, n_steps);
        set_metric(&metrics[summary.n_metrics++], JOUST_METRIC_FIRST_LOSS, first, n_steps);
        set_metric(&metrics[summary.n_metrics++], JOUST_METRIC_LAST_LOSS, last, n_steps);
    }
    if (st == JOUST_OK)
        st = joust_batch_put_stage_summary(joust_committer_batch(c->committer), &summary, err);
    joust_free(metrics);
    return st;
}
