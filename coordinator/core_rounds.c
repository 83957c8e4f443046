/* The durable half of the core as a fold over events: units, stages, rounds, versions. Nothing here knows peers or time. */
#include <assert.h>
#include <string.h>

#include "coordinator/core_internal.h"
#include "proto/base/alloc.h"

bool joust_stage_is_local(joust_stage_kind kind)
{
    return kind == JOUST_STAGE_PAIR || kind == JOUST_STAGE_MEASURE || kind == JOUST_STAGE_PROMOTE;
}

joust_peer_role joust_stage_role(joust_stage_kind kind)
{
    return kind == JOUST_STAGE_JUDGE ? JOUST_PEER_JUDGE : JOUST_PEER_WORKER;
}

bool joust_core_is_unit(const joust_core *core, const joust_unit_key *unit)
{
    return unit->round == core->round && unit->stage < core->plan->n_stages &&
           core->runs[unit->stage].runs && unit->position < core->runs[unit->stage].n;
}

joust_unit_answer joust_core_move(joust_core *core, const joust_unit_key *unit,
                                  joust_unit_event event)
{
    assert(joust_core_is_unit(core, unit));
    joust_stage_run *run = &core->runs[unit->stage];
    joust_core_unit_cell *cell = &run->units[unit->position];
    joust_unit_state from = (joust_unit_state)cell->state;
    joust_unit_cell to = joust_unit_look_up(from, event);
    core->coverage[(size_t)from * JOUST_UNIT_EVENTS + (size_t)event]++;
    assert(to.answer != JOUST_ANSWER_BUG);
    if (to.next == from)
        return (joust_unit_answer)to.answer;
    run->n_queued -= from == JOUST_UNIT_QUEUED;
    run->n_leased -= from == JOUST_UNIT_LEASED;
    cell->state = to.next;
    run->n_queued += to.next == JOUST_UNIT_QUEUED;
    run->n_leased += to.next == JOUST_UNIT_LEASED;
    run->n_done += to.next == JOUST_UNIT_DONE;
    if (to.next == JOUST_UNIT_QUEUED && unit->position < run->cursor)
        run->cursor = unit->position;
    return (joust_unit_answer)to.answer;
}

static uint64_t positions_of(const joust_core *core, const joust_stage *stage)
{
    switch (stage->kind) {
    case JOUST_STAGE_GENERATE:
        return joust_plan_positions(core->job, stage, core->n_prompts[stage->set]);
    case JOUST_STAGE_JUDGE:
    case JOUST_STAGE_PAIR:
        return positions_of(core, &core->plan->stages[stage->of]);
    default:
        return 1;
    }
}

uint64_t joust_core_positions(const joust_core *core, uint32_t round, uint32_t stage)
{
    if (stage >= core->plan->n_stages || !joust_stage_runs(&core->plan->stages[stage], round))
        return 0;
    return positions_of(core, &core->plan->stages[stage]);
}

/* The lineage's version as the stages before `stage` have left it. */
uint64_t joust_core_version_at(const joust_core *core, uint32_t model, uint32_t stage)
{
    uint64_t version = core->lineages[model].start;
    for (uint32_t i = 0; i < stage; i++) {
        joust_stage_kind kind = core->plan->stages[i].kind;
        if (core->runs[i].complete && core->plan->stages[i].model == model &&
            (kind == JOUST_STAGE_TRAIN || kind == JOUST_STAGE_PROMOTE))
            version = core->runs[i].version;
    }
    return version;
}

uint64_t joust_core_model_version(const joust_core *core, uint32_t stage)
{
    const joust_stage *s = &core->plan->stages[stage];
    if (s->model == JOUST_NONE || s->version == JOUST_PICK_INITIAL)
        return 0;
    return s->version == JOUST_PICK_ROUND_START ? core->lineages[s->model].start
                                                : joust_core_version_at(core, s->model, stage);
}

static joust_unit_state state_of(const joust_core *core, uint32_t stage, uint64_t position)
{
    return (joust_unit_state)core->runs[stage].units[position].state;
}

/* Whether JUDGE stage `judge` scores what PAIR stage `pair` chooses from. */
static bool feeds(const joust_core *core, uint32_t judge, uint32_t pair)
{
    const joust_stage *stages = core->plan->stages;
    return stages[pair].kind == JOUST_STAGE_PAIR &&
           joust_stage_rewards(core->job, &stages[judge], &stages[pair]);
}

/* Whether one unit of an open stage has what it reads. */
static bool unit_can_start(const joust_core *core, uint32_t stage, uint64_t position)
{
    const joust_stage *s = &core->plan->stages[stage];
    if (s->kind == JOUST_STAGE_JUDGE)
        return state_of(core, s->of, position) == JOUST_UNIT_DONE;
    if (s->kind != JOUST_STAGE_PAIR)
        return true;
    for (uint32_t i = 0; i < stage; i++) {
        if (feeds(core, i, stage) && state_of(core, i, position) != JOUST_UNIT_DONE)
            return false;
    }
    return true;
}

void joust_core_open_units(joust_core *core, uint32_t stage)
{
    joust_stage_run *run = &core->runs[stage];
    run->open = true;
    for (uint64_t i = 0; i < run->n; i++) {
        joust_unit_key unit = {.round = core->round, .stage = stage, .position = i};
        if (run->units[i].state == JOUST_UNIT_WAITING && unit_can_start(core, stage, i))
            joust_core_move(core, &unit, JOUST_UNIT_READY);
    }
}

/* Whether everything is complete that the stage as a whole waits for. */
static bool stage_can_open(const joust_core *core, uint32_t stage)
{
    const joust_stage *s = &core->plan->stages[stage];
    bool newest = s->version == JOUST_PICK_LATEST || s->kind == JOUST_STAGE_TRAIN ||
                  s->kind == JOUST_STAGE_PROMOTE;
    for (uint32_t i = 0; i < stage && s->model != JOUST_NONE; i++) {
        const joust_stage *before = &core->plan->stages[i];
        bool makes =
            before->kind == JOUST_STAGE_INIT ||
            (newest && (before->kind == JOUST_STAGE_TRAIN || before->kind == JOUST_STAGE_PROMOTE));
        if (makes && before->model == s->model && core->runs[i].runs && !core->runs[i].complete)
            return false;
    }
    const uint32_t reads[] = {s->kind == JOUST_STAGE_TRAIN ? s->pairs : JOUST_NONE,
                              joust_stage_is_local(s->kind) ? s->judge : JOUST_NONE,
                              s->judge_sampled, s->judged_by};
    for (size_t i = 0; i < sizeof reads / sizeof *reads; i++) {
        if (reads[i] != JOUST_NONE && !core->runs[reads[i]].complete)
            return false;
    }
    return true;
}

static void announce(joust_core *core, uint32_t stage, joust_actions *out)
{
    core->stage_ended = true;
    if (!out)
        return;
    joust_action *action = joust_actions_add(out, JOUST_ACTION_STAGE_DONE);
    action->id.unit = (joust_unit_key){.round = core->round, .stage = stage};
    action->skipped = core->runs[stage].skipped;
}

static void complete_stage(joust_core *core, uint32_t stage, joust_actions *out)
{
    joust_stage_run *run = &core->runs[stage];
    joust_stage_kind kind = core->plan->stages[stage].kind;
    run->complete = true;
    if (kind == JOUST_STAGE_TRAIN && !run->skipped)
        run->version = joust_plan_out_version(core->plan, core->round, stage);
    if (kind == JOUST_STAGE_PAIR)
        core->n_pairs += run->n_pairs;
    announce(core, stage, out);
}

static void open_stage(joust_core *core, uint32_t stage, joust_actions *out)
{
    const joust_stage *s = &core->plan->stages[stage];
    joust_stage_run *run = &core->runs[stage];
    if (s->kind != JOUST_STAGE_TRAIN || s->pairs == JOUST_NONE || core->runs[s->pairs].n_pairs) {
        joust_core_open_units(core, stage);
        return;
    }
    run->open = run->skipped = true;
    run->version = joust_core_version_at(core, s->model, stage);
    if (out) {
        joust_actions_add(out, JOUST_ACTION_WARN);
        joust_actions_set_text(
            out,
            "round %u: no group was decided, so %s is skipped and the model stays "
            "at version %llu; the warnings of its judges and pairs say why",
            core->round, s->name, (unsigned long long)run->version);
    }
}

joust_status joust_core_make_runs(joust_core *core, joust_error *err)
{
    for (uint32_t i = 0; i < core->plan->n_stages; i++) {
        joust_stage_run *run = &core->runs[i];
        joust_free(run->units);
        *run = (joust_stage_run){0};
        if (core->round <= core->job->rounds)
            run->n = joust_core_positions(core, core->round, i);
        run->runs = run->n > 0;
        if (!run->runs)
            continue;
        run->units = joust_calloc(run->n, sizeof(*run->units));
        if (!run->units)
            return joust_fail(err, JOUST_NOMEM, "round %u: %llu units of stage %s", core->round,
                              (unsigned long long)run->n, core->plan->stages[i].name);
    }
    return JOUST_OK;
}

static void end_round(joust_core *core, joust_actions *out)
{
    for (uint32_t i = 0; i < core->job->n_models; i++)
        core->lineages[i].start = joust_core_version_at(core, i, core->plan->n_stages);
    if (out) {
        joust_action *action = joust_actions_add(out, JOUST_ACTION_ROUND_DONE);
        action->id.unit.round = core->round;
    }
    core->round++;
}

/* Opens and completes stages until nothing moves; true if the whole round is complete. */
static bool settle(joust_core *core, joust_actions *out)
{
    bool moved = true, over = true;
    while (moved) {
        moved = false;
        over = true;
        for (uint32_t i = 0; i < core->plan->n_stages; i++) {
            joust_stage_run *run = &core->runs[i];
            if (!run->runs || run->complete)
                continue;
            if (!run->open && stage_can_open(core, i)) {
                open_stage(core, i, out);
                moved = true;
            }
            if (run->open && (run->skipped || run->n_done == run->n)) {
                complete_stage(core, i, out);
                moved = true;
            }
            over = over && run->complete;
        }
    }
    return over;
}

joust_status joust_core_begin_round(joust_core *core, joust_actions *out, joust_error *err)
{
    for (;;) {
        joust_status st = joust_core_make_runs(core, err);
        if (st != JOUST_OK || core->round > core->job->rounds)
            return st;
        if (!settle(core, out))
            return JOUST_OK;
        end_round(core, out); /* nothing runs in it: a baseline without evaluation */
    }
}

static void decide_promotion(joust_core *core, const joust_unit_key *unit, bool promoted)
{
    uint32_t model = core->plan->stages[unit->stage].model;
    joust_lineage *lineage = &core->lineages[model];
    uint64_t candidate = joust_core_version_at(core, model, unit->stage);
    if (promoted || !lineage->has_best) {
        lineage->has_best = true;
        lineage->best = candidate;
        lineage->best_round = unit->round;
    }
    core->runs[unit->stage].version = lineage->best;
}

/* Units of other stages that this one may have been the last to hold up. */
static void wake(joust_core *core, const joust_unit_key *unit)
{
    for (uint32_t i = unit->stage + 1; i < core->plan->n_stages; i++) {
        const joust_stage *s = &core->plan->stages[i];
        bool reads =
            feeds(core, unit->stage, i) || (s->kind == JOUST_STAGE_JUDGE && s->of == unit->stage);
        joust_unit_key next = {.round = unit->round, .stage = i, .position = unit->position};
        if (reads && core->runs[i].open &&
            state_of(core, i, unit->position) == JOUST_UNIT_WAITING &&
            unit_can_start(core, i, unit->position))
            joust_core_move(core, &next, JOUST_UNIT_READY);
    }
}

static joust_status fold_unit_done(joust_core *core, const joust_fold *fold, joust_actions *out,
                                   joust_error *err)
{
    const joust_unit_key *unit = &fold->unit;
    if (!joust_core_is_unit(core, unit) ||
        (state_of(core, unit->stage, unit->position) != JOUST_UNIT_QUEUED &&
         state_of(core, unit->stage, unit->position) != JOUST_UNIT_LEASED))
        return joust_fail(
            err, JOUST_CORRUPT,
            "event %llu finishes unit %u/%u/%llu, which can't be under way in round %u: "
            "an event before it is missing or damaged",
            (unsigned long long)core->n_events + 1, unit->round, unit->stage,
            (unsigned long long)unit->position, core->round);
    joust_stage_run *run = &core->runs[unit->stage];
    joust_stage_kind kind = core->plan->stages[unit->stage].kind;
    joust_core_move(core, unit, JOUST_UNIT_RESULT);
    if (kind == JOUST_STAGE_PAIR)
        run->n_pairs += fold->n_pairs;
    if (kind == JOUST_STAGE_PROMOTE)
        decide_promotion(core, unit, fold->promoted);
    wake(core, unit);
    if (run->n_done < run->n || !settle(core, out))
        return JOUST_OK;
    end_round(core, out);
    return joust_core_begin_round(core, out, err);
}

static joust_status fold_progress(joust_core *core, const joust_fold *fold, joust_error *err)
{
    if (!joust_core_is_unit(core, &fold->unit))
        return joust_fail(err, JOUST_CORRUPT,
                          "event %llu: training progress of no unit of round %u",
                          (unsigned long long)core->n_events + 1, core->round);
    core->runs[fold->unit.stage].resume_step = fold->step;
    core->runs[fold->unit.stage].resume = fold->digest;
    return JOUST_OK;
}

joust_status joust_core_fold(joust_core *core, const joust_fold *fold, joust_actions *out,
                             joust_error *err)
{
    joust_status st = JOUST_OK;
    switch (fold->kind) {
    case JOUST_FOLD_STARTED:
        core->epoch = fold->epoch;
        core->failure[0] = 0; /* whoever starts again wants it tried again */
        break;
    case JOUST_FOLD_CLASS:
        memcpy(core->numeric_class, fold->text, sizeof core->numeric_class);
        core->numeric_class[sizeof core->numeric_class - 1] = 0;
        break;
    case JOUST_FOLD_UNIT_DONE:
        st = fold_unit_done(core, fold, out, err);
        break;
    case JOUST_FOLD_PROGRESS:
        st = fold_progress(core, fold, err);
        break;
    case JOUST_FOLD_JOB_FAILED:
        memcpy(core->failure, fold->text, sizeof core->failure);
        break;
    }
    if (st == JOUST_OK)
        core->n_events++;
    return st;
}

uint64_t joust_core_groups_pending(const joust_core *core, uint32_t stage)
{
    const joust_stage_run *run = &core->runs[stage];
    uint64_t judged = UINT64_MAX;
    for (uint32_t i = stage + 1; i < core->plan->n_stages; i++) {
        if (core->plan->stages[i].kind == JOUST_STAGE_JUDGE && core->plan->stages[i].of == stage &&
            core->runs[i].runs && core->runs[i].n_done < judged)
            judged = core->runs[i].n_done;
    }
    return judged == UINT64_MAX ? 0 : run->n_done + run->n_leased - judged;
}
