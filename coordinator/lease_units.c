#include "coordinator/lease_units.h"

#include <stdio.h>
#include <string.h>

#include "coordinator/training_rows.h"
#include "proto/base/alloc.h"
#include "storage/metrics.h"
#include "storage/tables.h"

void joust_lease_sources_fini(joust_lease_sources *s)
{
    for (uint32_t i = 0; i < JOUST_MAX_SETS; i++)
        joust_free(s->orders[i].lines);
    memset(s->orders, 0, sizeof(s->orders));
}

joust_status joust_lease_model(joust_lease_sources *s, uint32_t lineage, uint64_t version,
                               joust_model_ref *ret, joust_error *err)
{
    const joust_job_model *model = &s->job->models[lineage];
    if (s->model.version == version && !strcmp(s->model.lineage, model->name)) {
        *ret = s->model; /* a version never changes */
        return JOUST_OK;
    }
    joust_model_version record;
    joust_status st = joust_store_get_model_version(s->store, model->name, version, &record, err);
    if (st == JOUST_OK) {
        *ret = s->model = record.model;
    } else if (st == JOUST_NOT_FOUND && version == 0 && joust_job_model_is_made(model)) {
        *ret = (joust_model_ref){.version = 0, .manifest = model->content};
        snprintf(ret->lineage, sizeof(ret->lineage), "%s", model->name);
        st = JOUST_OK;
    }
    return st;
}

/* Line in the set's file, through the pass's permutation where the set is shuffled. */
static joust_status find_line(joust_lease_sources *s, uint32_t set, const joust_unit_key *unit,
                              uint64_t *ret, joust_error *err)
{
    const joust_job_set *from = &s->job->sets[set];
    uint64_t n = s->n_prompts[set];
    uint64_t place = joust_plan_line(from, n, unit->round, unit->position);
    if (from->order != JOUST_ORDER_SHUFFLE) {
        *ret = place;
        return JOUST_OK;
    }
    uint64_t pass = joust_plan_pass(from, n, unit->round, unit->position);
    struct joust_shuffled_set *order = &s->orders[set];
    if (!order->lines || order->pass != pass) {
        if (!order->lines && !(order->lines = joust_calloc(n, sizeof(*order->lines))))
            return joust_fail(err, JOUST_NOMEM, "order of %llu prompts", (unsigned long long)n);
        joust_plan_order(s->job, set, pass, order->lines, (uint32_t)n);
        order->pass = pass;
    }
    *ret = order->lines[place];
    return JOUST_OK;
}

joust_status joust_lease_prompt(joust_lease_sources *s, const joust_unit_key *unit,
                                joust_prompt *ret, joust_error *err)
{
    uint32_t set = s->plan->stages[unit->stage].set;
    uint64_t line = 0;
    joust_status st = find_line(s, set, unit, &line, err);
    return st == JOUST_OK ? joust_store_get_prompt(s->store, set, line, ret, err) : st;
}

static joust_status fill_judge(joust_lease_sources *s, const joust_stage *stage,
                               joust_lease_unit *u, bool *ret_lent, joust_error *err)
{
    joust_unit_key of = {.round = u->unit.round, .stage = stage->of, .position = u->unit.position};
    const joust_recent_unit *recent = joust_recent_find(s->recent, &of);
    joust_status st = joust_lease_prompt(s, &of, &u->prompt, err);
    if (st == JOUST_OK && recent) {
        u->trajectories = recent->trajectories;
        u->n_trajectories = recent->n_trajectories;
        *ret_lent = true;
    } else if (st == JOUST_OK) {
        st = joust_store_get_group(s->store, &of, &u->trajectories, &u->n_trajectories, err);
    }
    if (st == JOUST_OK && u->n_trajectories != s->plan->stages[stage->of].samples)
        st = joust_fail(err, JOUST_CORRUPT, "round %u stage %u position %llu: %u of %u answers",
                        of.round, of.stage, (unsigned long long)of.position, u->n_trajectories,
                        s->plan->stages[stage->of].samples);
    return st;
}

/* What the PAIR stage's figures say of its answers; JOUST_NOT_FOUND where they aren't durable yet. */
static joust_status answers_counted(const joust_lease_sources *s, uint32_t round, uint32_t pair,
                                    uint64_t *ret, joust_error *err)
{
    joust_stage_summary summary;
    joust_status st = joust_store_get_stage_summary(s->store, round, pair, &summary, err);
    if (st != JOUST_OK)
        return st;
    st = JOUST_NOT_FOUND;
    for (uint32_t i = 0; i < summary.n_metrics; i++) {
        if (strcmp(summary.metrics[i].name, JOUST_METRIC_ANSWERS) != 0)
            continue;
        *ret = (uint64_t)summary.metrics[i].value;
        st = JOUST_OK;
    }
    joust_stage_summary_fini(&summary);
    return st;
}

/* The core counts answers of decided groups; those of the others are trained on too without dynamic sampling. */
static joust_status count_answers(const joust_lease_sources *s, const joust_unit_key *unit,
                                  uint32_t pair, uint64_t *ret, joust_error *err)
{
    joust_training_rows *rows;
    joust_status st = answers_counted(s, unit->round, pair, ret, err);
    if (st != JOUST_NOT_FOUND)
        return st;
    st = joust_training_rows_open(s->store, s->job, s->plan, unit, &rows, err);
    if (st != JOUST_OK)
        return st;
    *ret = joust_training_rows_count(rows);
    joust_training_rows_close(&rows);
    return JOUST_OK;
}

static joust_status fill_train(joust_lease_sources *s, const joust_stage *stage,
                               const joust_lease_order *order, joust_lease_unit *u,
                               joust_error *err)
{
    u->out_version = order->out_version;
    u->n_rows = order->n_rows;
    u->resume_step = order->resume_step;
    u->resume = order->resume;
    if (stage->kind == JOUST_STAGE_INIT)
        return JOUST_OK;
    if (stage->pairs == JOUST_NONE)
        u->data = stage->train.data_content;
    else if (s->plan->stages[stage->pairs].advantage &&
             !s->plan->stages[stage->pairs].dynamic_sampling) {
        joust_status st = count_answers(s, &u->unit, stage->pairs, &u->n_rows, err);
        if (st != JOUST_OK)
            return st;
    }
    u->has_partner = stage->partner != JOUST_NONE;
    joust_status st = JOUST_OK;
    if (u->has_partner)
        st = joust_lease_model(s, stage->partner, order->partner_version, &u->partner, err);
    return st == JOUST_OK ? joust_lease_model(s, stage->reference_model, order->reference_version,
                                              &u->reference, err)
                          : st;
}

joust_status joust_lease_fill(joust_lease_sources *s, const joust_action *action,
                              joust_lease_unit *ret, bool *ret_lent, joust_error *err)
{
    const joust_stage *stage = &s->plan->stages[action->id.unit.stage];
    const joust_lease_order *order = &action->u.lease;
    joust_lease_unit u = {.unit = action->id.unit,
                          .lease = action->id.lease,
                          .attempt = action->id.attempt,
                          .deadline_ms = order->deadline_ms};
    bool lent = false;
    joust_status st = JOUST_OK;
    if (order->model != JOUST_NONE)
        st = joust_lease_model(s, order->model, order->model_version, &u.model, err);
    if (st == JOUST_OK) {
        switch (stage->kind) {
        case JOUST_STAGE_GENERATE:
            u.samples = stage->samples;
            st = joust_lease_prompt(s, &u.unit, &u.prompt, err);
            break;
        case JOUST_STAGE_JUDGE:
            st = fill_judge(s, stage, &u, &lent, err);
            break;
        case JOUST_STAGE_INIT:
        case JOUST_STAGE_TRAIN:
            st = fill_train(s, stage, order, &u, err);
            break;
        default:
            st = joust_fail(err, JOUST_BUG, "stage %s is not leased", stage->name);
        }
    }
    if (st == JOUST_OK) {
        *ret = u;
        *ret_lent = lent;
        return st;
    }
    if (lent) {
        u.trajectories = NULL;
        u.n_trajectories = 0;
    }
    joust_lease_unit_fini(&u);
    return st;
}
