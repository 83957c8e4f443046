/* Events of peers and of the shell, one handler each. The unit table decides; the handlers carry it out. */
#include "coordinator/core.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "coordinator/core_internal.h"
#include "proto/base/alloc.h"

static uint32_t or_default(uint32_t value, uint32_t standard)
{
    return value ? value : standard;
}

static void fill_options(joust_core_options *o)
{
    o->lease_ms = or_default(o->lease_ms, 60000);
    o->peer_timeout_ms = or_default(o->peer_timeout_ms, 15000);
    o->max_failures = or_default(o->max_failures, 3);
    o->max_peer_failures = or_default(o->max_peer_failures, 8);
    o->max_pending_groups = or_default(o->max_pending_groups, 1024);
    o->max_local = or_default(o->max_local, 256);
    o->snapshot_every = or_default(o->snapshot_every, 4096);
}

static joust_status check_prompts(const joust_job *job, const joust_plan *plan,
                                  const uint64_t *n_prompts, joust_error *err)
{
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const joust_stage *stage = &plan->stages[i];
        if (stage->kind == JOUST_STAGE_GENERATE && !n_prompts[stage->set])
            return joust_fail(err, JOUST_INVALID, "stage %s: its prompts, %s, are empty",
                              stage->name, job->sets[stage->set].name);
    }
    return JOUST_OK;
}

joust_status joust_core_create(const joust_job *job, const joust_plan *plan,
                               const uint64_t *n_prompts, const joust_core_options *options,
                               joust_core **ret, joust_error *err)
{
    joust_status st = check_prompts(job, plan, n_prompts, err);
    if (st != JOUST_OK)
        return st;
    joust_core *core = joust_calloc(1, sizeof(*core));
    if (!core)
        return joust_fail(err, JOUST_NOMEM, "coordinator core: out of memory");
    core->job = job;
    core->plan = plan;
    if (options)
        core->options = *options;
    fill_options(&core->options);
    core->n_prompts = joust_calloc(job->n_sets, sizeof(*core->n_prompts));
    core->lineages = joust_calloc(job->n_models, sizeof(*core->lineages));
    core->runs = joust_calloc(plan->n_stages, sizeof(*core->runs));
    if (!core->n_prompts || !core->lineages || !core->runs)
        st = joust_fail(err, JOUST_NOMEM, "coordinator core: %u stages", plan->n_stages);
    if (st == JOUST_OK && job->n_sets)
        memcpy(core->n_prompts, n_prompts, job->n_sets * sizeof(*n_prompts));
    if (st == JOUST_OK)
        st = joust_core_begin_round(core, NULL, err);
    core->stage_ended = false;
    if (st != JOUST_OK)
        joust_core_free(&core);
    else
        *ret = core;
    return st;
}

void joust_core_free(joust_core **core)
{
    joust_core *c = *core;
    if (!c)
        return;
    for (uint32_t i = 0; i < c->n_peers; i++)
        joust_free(c->peers[i].leases);
    for (uint32_t i = 0; c->runs && i < c->plan->n_stages; i++)
        joust_free(c->runs[i].units);
    joust_free(c->peers);
    joust_free(c->runs);
    joust_free(c->lineages);
    joust_free(c->n_prompts);
    joust_free(c);
    *core = NULL;
}

joust_status joust_step_record(const joust_step *s, const joust_fold *fold, bool records)
{
    joust_core *core = s->core;
    joust_buf bytes = {0};
    size_t at = s->out->n;
    joust_fold_encode(fold, &bytes);
    joust_status st = joust_buf_status(&bytes, s->err);
    if (st == JOUST_OK) {
        joust_actions_add(s->out, JOUST_ACTION_WRITE)->records = records;
        joust_actions_set_bytes(s->out, bytes.data, bytes.n);
        st = joust_core_fold(core, fold, s->out, s->err);
    }
    joust_buf_fini(&bytes);
    if (st == JOUST_OK && at < s->out->n)
        s->out->items[at].snapshot =
            core->stage_ended || core->n_events % core->options.snapshot_every == 0;
    core->stage_ended = false;
    return st;
}

joust_action *joust_step_send(const joust_step *s, joust_action_kind kind, const joust_unit_id *id)
{
    joust_action *action = joust_actions_add(s->out, kind);
    action->peer = s->event->peer;
    if (id)
        action->id = *id;
    return action;
}

void joust_step_tell(const joust_step *s, joust_action_kind kind, joust_status status,
                     const char *format, ...)
{
    char text[JOUST_CORE_TEXT_BYTES];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    joust_text_ellipsis(text, sizeof text, n);
    joust_step_send(s, kind, NULL)->status = status;
    joust_actions_set_text(s->out, "%s", text);
}

static joust_status fail_job(const joust_step *s, const char *text)
{
    joust_fold fold = {.kind = JOUST_FOLD_JOB_FAILED};
    snprintf(fold.text, sizeof fold.text, "%s", text);
    return joust_step_record(s, &fold, false);
}

void joust_step_fence(const joust_step *s)
{
    s->core->superseded = true;
    joust_actions_add(s->out, JOUST_ACTION_FENCED);
    joust_actions_set_text(s->out,
                           "a peer has seen coordinator epoch %llu, this one is %llu: a newer "
                           "coordinator runs the job",
                           (unsigned long long)s->event->epoch, (unsigned long long)s->core->epoch);
}

/* A unit's failure is the job's after the last attempt, and its peer's if that fails at everything. */
static joust_status note_failure(const joust_step *s, joust_peer *peer, const joust_unit_key *unit,
                                 bool counts, const char *why)
{
    joust_core *core = s->core;
    char name[160], text[JOUST_CORE_TEXT_BYTES], which[64] = "";
    peer->failed = *unit;
    peer->failures++;
    uint32_t doublings = peer->failures < 8 ? peer->failures - 1 : 7;
    peer->retry_ms = s->now_ms + (100 << doublings);
    joust_lease *lease = joust_core_is_unit(core, unit) ? joust_peer_find_lease(peer, unit) : NULL;
    joust_status st = JOUST_OK;
    if (lease) {
        joust_core_unit_cell *cell = &core->runs[unit->stage].units[unit->position];
        cell->failures += counts;
        joust_peer_drop_lease(peer, (uint32_t)(lease - peer->leases));
        bool last = cell->failures >= core->options.max_failures;
        joust_core_move(core, unit, last ? JOUST_UNIT_GIVE_UP : JOUST_UNIT_RELEASE);
        joust_core_unit_text(core, unit, name);
        if (counts)
            snprintf(which, sizeof which, ", failure %u of %u", cell->failures,
                     core->options.max_failures);
        int n = snprintf(text, sizeof text, "%s failed on %s%s: %s", name, peer->name, which, why);
        joust_text_ellipsis(text, sizeof text, n);
        joust_actions_add(s->out, JOUST_ACTION_WARN);
        joust_actions_set_text(s->out, "%s", text);
        if (last)
            st = fail_job(s, text);
    }
    if (peer->failures >= core->options.max_peer_failures && st == JOUST_OK) {
        int n =
            snprintf(text, sizeof text, "%u failures in a row, the last: %s", peer->failures, why);
        joust_text_ellipsis(text, sizeof text, n);
        joust_core_quarantine(core, peer, text, s->out);
    }
    return st;
}

static joust_status refuse(const joust_step *s, joust_peer *peer, const joust_unit_id *id,
                           const char *why)
{
    joust_step_tell(s, JOUST_ACTION_ERROR, JOUST_INVALID, "unit %u/%u/%llu: %s", id->unit.round,
                    id->unit.stage, (unsigned long long)id->unit.position, why);
    joust_step_send(s, JOUST_ACTION_REVOKE, id);
    return note_failure(s, peer, &id->unit, true, why);
}

joust_status joust_step_hold(const joust_step *s, joust_peer *peer, const joust_unit_key *unit,
                             bool renew)
{
    joust_core *core = s->core;
    joust_unit_id id = {.unit = *unit};
    joust_lease *lease = NULL;
    if (!joust_core_is_unit(core, unit)) {
        joust_step_send(s, JOUST_ACTION_REVOKE, &id);
        return JOUST_OK;
    }
    joust_stage_kind kind = core->plan->stages[unit->stage].kind;
    bool fits = !joust_stage_is_local(kind) && joust_stage_role(kind) == peer->role;
    bool queued = joust_core_unit(core, unit) == JOUST_UNIT_QUEUED;
    lease = joust_peer_find_lease(peer, unit);
    if (lease)
        id = lease->id;
    if (queued && fits && peer->n_leases < peer->credit)
        return joust_core_grant(core, peer, unit, JOUST_UNIT_HOLDING, s->now_ms, &lease, s->err);
    if (!queued)
        joust_core_move(core, unit, JOUST_UNIT_HOLDING);
    if (!lease)
        joust_step_send(s, JOUST_ACTION_REVOKE, &id);
    else if (renew)
        lease->deadline_ms = s->now_ms + core->options.lease_ms;
    return JOUST_OK;
}

static joust_status on_heartbeat(const joust_step *s, joust_peer *peer)
{
    const joust_msg_heartbeat *beat = &s->event->u.heartbeat;
    uint64_t sum = 0;
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < beat->n_progress; i++)
        sum += beat->progress[i].done;
    bool moved = sum != peer->progress;
    peer->progress = sum;
    for (uint32_t i = 0; i < beat->n_progress && st == JOUST_OK; i++)
        st = joust_step_hold(s, peer, &beat->progress[i].unit, moved);
    return st;
}

/* A unit of an earlier round is done, as all were that it had. */
static bool is_past(const joust_core *core, const joust_unit_key *unit)
{
    return unit->round < core->round &&
           unit->position < joust_core_positions(core, unit->round, unit->stage);
}

/* Why the result can't be right, or NULL. */
static const char *find_fault(const joust_step *s, const joust_peer *peer)
{
    const joust_core_result *result = &s->event->u.result;
    const joust_unit_key *unit = &result->id.unit;
    if (!joust_core_is_unit(s->core, unit) && !is_past(s->core, unit))
        return "the job has no such unit, or not yet";
    const joust_stage *stage = &s->core->plan->stages[unit->stage];
    if (joust_stage_is_local(stage->kind) || joust_stage_role(stage->kind) != peer->role)
        return "such a unit isn't this role's work";
    if (stage->kind == JOUST_STAGE_GENERATE && result->n_trajectories != stage->samples)
        return "the number of trajectories isn't the stage's number of samples";
    if ((stage->kind == JOUST_STAGE_TRAIN || stage->kind == JOUST_STAGE_INIT) &&
        result->version != joust_plan_out_version(s->core->plan, unit->round, unit->stage))
        return "the model's version isn't the one that was asked for";
    return NULL;
}

/* Takes the unit's lease from whoever holds it; anyone but the sender may stop computing. */
static void take_lease(const joust_step *s, const joust_peer *sender, const joust_unit_key *unit)
{
    uint32_t lease;
    joust_peer *holder = joust_core_holder(s->core, unit, &lease);
    if (!holder)
        return;
    if (holder != sender) {
        joust_action *revoke = joust_actions_add(s->out, JOUST_ACTION_REVOKE);
        revoke->peer = holder->handle;
        revoke->id = holder->leases[lease].id;
    }
    joust_peer_drop_lease(holder, lease);
}

static joust_status on_result(const joust_step *s, joust_peer *peer)
{
    const joust_core_result *result = &s->event->u.result;
    const joust_unit_key *unit = &result->id.unit;
    const char *fault = find_fault(s, peer);
    joust_unit_state state = joust_core_unit(s->core, unit);
    if (fault)
        return refuse(s, peer, &result->id, fault);
    switch (joust_unit_look_up(state, JOUST_UNIT_RESULT).answer) {
    case JOUST_ANSWER_CHECK:
        if (joust_core_is_unit(s->core, unit))
            joust_core_move(s->core, unit, JOUST_UNIT_RESULT);
        joust_step_send(s, JOUST_ACTION_CHECK_SAME, &result->id)->content = result->content;
        return JOUST_OK;
    case JOUST_ANSWER_WRITE:
        break;
    default:
        joust_core_move(s->core, unit, JOUST_UNIT_RESULT);
        return refuse(s, peer, &result->id, "what it was computed from isn't complete");
    }
    take_lease(s, peer, unit);
    peer->failures = peer->full = 0;
    joust_status st =
        joust_step_record(s, &(joust_fold){.kind = JOUST_FOLD_UNIT_DONE, .unit = *unit}, true);
    joust_step_send(s, JOUST_ACTION_ACK, &result->id);
    return st;
}

/* The peer had no room: leases cross a second HELLO where either end was slow, and name units beside those that the peer holds by
 * the first. The unit's turn comes again, and nobody is charged: a slow machine must not be sent away for it. */
static joust_status note_full(const joust_step *s, joust_peer *peer, const joust_unit_key *unit,
                              const char *why)
{
    char name[160];
    joust_lease *lease = joust_peer_find_lease(peer, unit);
    joust_core_unit_text(s->core, unit, name);
    joust_peer_drop_lease(peer, (uint32_t)(lease - peer->leases));
    joust_core_move(s->core, unit, JOUST_UNIT_RELEASE);
    peer->retry_ms = s->now_ms + (100 << (peer->full < 7 ? peer->full : 7));
    peer->full++;
    joust_actions_add(s->out, JOUST_ACTION_WARN);
    joust_actions_set_text(s->out, "%s is given out again: %s: %s", name, peer->name, why);
    return JOUST_OK;
}

static joust_status on_failed(const joust_step *s, joust_peer *peer)
{
    const joust_msg_failed *failed = &s->event->u.failed;
    const char *why = failed->text ? failed->text : "no reason given";
    joust_step_send(s, JOUST_ACTION_REVOKE, &failed->id); /* the peer may forget it */
    if (!joust_core_is_unit(s->core, &failed->id.unit))
        return JOUST_OK;
    joust_core_move(s->core, &failed->id.unit, JOUST_UNIT_FAILURE);
    if (!joust_peer_find_lease(peer, &failed->id.unit))
        return JOUST_OK;
    if (failed->code == JOUST_FULL)
        return note_full(s, peer, &failed->id.unit, why);
    bool counts = joust_status_scope((joust_status)failed->code) != JOUST_SCOPE_NONE;
    return note_failure(s, peer, &failed->id.unit, counts, why);
}

static joust_status on_progress(const joust_step *s, joust_peer *peer)
{
    const joust_msg_train_progress *progress = &s->event->u.progress;
    joust_core *core = s->core;
    const joust_unit_key *unit = &progress->id.unit;
    if (is_past(core, unit)) {
        joust_step_send(s, JOUST_ACTION_ACK, &progress->id)->step = progress->step;
        return JOUST_OK;
    }
    if (!joust_core_is_unit(core, unit) ||
        core->plan->stages[unit->stage].kind != JOUST_STAGE_TRAIN)
        return refuse(s, peer, &progress->id, "no such training is under way");
    joust_unit_answer answer = joust_core_move(core, unit, JOUST_UNIT_PROGRESS);
    if (answer == JOUST_ANSWER_REFUSE)
        return refuse(s, peer, &progress->id, "what it trains on isn't complete");
    joust_lease *lease = joust_peer_find_lease(peer, unit);
    joust_status st = JOUST_OK;
    if (lease)
        lease->deadline_ms = s->now_ms + core->options.lease_ms;
    if (answer == JOUST_ANSWER_WRITE && progress->step > core->runs[unit->stage].resume_step)
        st = joust_step_record(s,
                               &(joust_fold){.kind = JOUST_FOLD_PROGRESS,
                                             .unit = *unit,
                                             .step = progress->step,
                                             .digest = progress->state},
                               true);
    joust_step_send(s, JOUST_ACTION_ACK, &progress->id)->step = progress->step;
    return st;
}

static joust_status on_local(const joust_step *s)
{
    const joust_core_local *local = &s->event->u.local;
    const joust_unit_key *unit = &local->unit;
    joust_core *core = s->core;
    char name[160], text[JOUST_CORE_TEXT_BYTES];
    if (!joust_core_is_unit(core, unit) || joust_core_unit(core, unit) != JOUST_UNIT_LEASED ||
        !joust_stage_is_local(core->plan->stages[unit->stage].kind))
        return joust_fail(s->err, JOUST_BUG, "unit %u/%u/%llu was not to be computed here",
                          unit->round, unit->stage, (unsigned long long)unit->position);
    core->n_local--;
    if (s->event->kind == JOUST_EVENT_LOCAL_DONE)
        return joust_step_record(s,
                                 &(joust_fold){.kind = JOUST_FOLD_UNIT_DONE,
                                               .unit = *unit,
                                               .n_pairs = local->n_pairs,
                                               .promoted = local->promoted},
                                 true);
    joust_core_move(core, unit, JOUST_UNIT_GIVE_UP);
    joust_core_unit_text(core, unit, name);
    int n = snprintf(text, sizeof text, "%s: %s", name, s->event->text ? s->event->text : "failed");
    joust_text_ellipsis(text, sizeof text, n);
    return fail_job(s, text);
}

static joust_status on_start(const joust_step *s)
{
    uint64_t epoch = s->event->epoch ? s->event->epoch : s->core->epoch + 1;
    if (s->core->started)
        return joust_fail(s->err, JOUST_BUG, "core: started twice in one life");
    if (s->core->epoch)
        s->core->settled_ms = s->now_ms + 2 * (int64_t)s->core->job->cluster.heartbeat_ms;
    s->core->started = true;
    if (epoch <= s->core->epoch)
        return joust_fail(s->err, JOUST_FENCED, "epoch %llu is not above %llu, which has begun",
                          (unsigned long long)epoch, (unsigned long long)s->core->epoch);
    return joust_step_record(s, &(joust_fold){.kind = JOUST_FOLD_STARTED, .epoch = epoch}, false);
}

/* Events that only a peer in good standing may cause. */
static joust_status on_peer_event(const joust_step *s)
{
    joust_core *core = s->core;
    joust_peer *peer = joust_core_find_peer(core, s->event->peer);
    if (s->event->epoch > core->epoch) {
        joust_step_fence(s);
        return JOUST_OK;
    }
    if (peer && peer->quarantined) {
        joust_step_tell(s, JOUST_ACTION_GOODBYE, JOUST_DENIED, "%s was sent away", peer->name);
        return JOUST_OK;
    }
    if (!peer || s->event->epoch < core->epoch) {
        joust_step_tell(s, JOUST_ACTION_ERROR, JOUST_STALE,
                        "say HELLO: this is coordinator epoch %llu",
                        (unsigned long long)core->epoch);
        return JOUST_OK;
    }
    peer->heard_ms = s->now_ms;
    switch (s->event->kind) {
    case JOUST_EVENT_HEARTBEAT:
        return on_heartbeat(s, peer);
    case JOUST_EVENT_CREDIT:
        peer->credit = s->event->u.credit.credit < JOUST_CORE_MAX_CREDIT ? s->event->u.credit.credit
                                                                         : JOUST_CORE_MAX_CREDIT;
        return JOUST_OK;
    case JOUST_EVENT_RESULT:
        return on_result(s, peer);
    case JOUST_EVENT_FAILED:
        return on_failed(s, peer);
    default:
        return on_progress(s, peer);
    }
}

static void on_departure(const joust_step *s)
{
    joust_peer *peer = joust_core_find_peer(s->core, s->event->peer);
    if (peer && !peer->quarantined)
        joust_core_remove_peer(s->core, peer);
}

static void on_bad_peer(const joust_step *s)
{
    joust_peer *peer = joust_core_find_peer(s->core, s->event->peer);
    const char *why = s->event->text ? s->event->text : "its messages can't be right";
    if (!peer)
        joust_step_tell(s, JOUST_ACTION_GOODBYE, JOUST_DENIED, "%s", why);
    else if (!peer->quarantined)
        joust_core_quarantine(s->core, peer, why, s->out);
}

static void say_goodbye(const joust_step *s, joust_status status, const char *text)
{
    for (uint32_t i = 0; i < s->core->n_peers; i++) {
        joust_action *bye = joust_actions_add(s->out, JOUST_ACTION_GOODBYE);
        bye->peer = s->core->peers[i].handle;
        bye->status = status;
        joust_actions_set_text(s->out, "%s", text);
    }
}

/* Says once that the job is over. */
static void announce_end(const joust_step *s)
{
    joust_core *core = s->core;
    joust_core_phase phase = joust_core_get_phase(core);
    if (core->announced || (phase != JOUST_CORE_COMPLETE && phase != JOUST_CORE_JOB_FAILED))
        return;
    const char *why = joust_core_failure(core);
    core->announced = true;
    say_goodbye(s, JOUST_OK, phase == JOUST_CORE_COMPLETE ? "the job is complete" : why);
    joust_action *done = joust_actions_add(s->out, JOUST_ACTION_JOB_DONE);
    done->status = phase == JOUST_CORE_COMPLETE ? JOUST_OK : JOUST_INVALID;
    joust_actions_set_text(s->out, "%s", why);
}

/* What can still be done once the job is over or this process is leaving. */
static joust_status step_after_end(const joust_step *s)
{
    joust_core *core = s->core;
    if (core->superseded)
        return JOUST_OK;
    if (s->event->kind == JOUST_EVENT_STOP) {
        core->stopped = true;
    } else if (s->event->kind == JOUST_EVENT_START && !core->stopped) {
        return on_start(s);
    } else if (s->event->kind == JOUST_EVENT_RESULT && s->event->epoch == core->epoch &&
               is_past(core, &s->event->u.result.id.unit)) {
        joust_step_send(s, JOUST_ACTION_CHECK_SAME, &s->event->u.result.id)->content =
            s->event->u.result.content; /* its acknowledgement was lost */
    } else if (s->event->kind == JOUST_EVENT_HELLO || s->event->kind == JOUST_EVENT_HEARTBEAT ||
               s->event->kind == JOUST_EVENT_RESULT || s->event->kind == JOUST_EVENT_FAILED ||
               s->event->kind == JOUST_EVENT_PROGRESS || s->event->kind == JOUST_EVENT_CREDIT) {
        joust_step_tell(s, JOUST_ACTION_GOODBYE, JOUST_OK, "%s",
                        core->stopped ? "the coordinator has been stopped" : "the job is over");
    }
    return JOUST_OK;
}

static joust_status step_running(const joust_step *s)
{
    switch (s->event->kind) {
    case JOUST_EVENT_START:
        return on_start(s);
    case JOUST_EVENT_HELLO:
        return joust_step_hello(s);
    case JOUST_EVENT_HEARTBEAT:
    case JOUST_EVENT_CREDIT:
    case JOUST_EVENT_RESULT:
    case JOUST_EVENT_FAILED:
    case JOUST_EVENT_PROGRESS:
        return on_peer_event(s);
    case JOUST_EVENT_GOODBYE:
    case JOUST_EVENT_PEER_LOST:
        on_departure(s);
        return JOUST_OK;
    case JOUST_EVENT_PEER_BAD:
        on_bad_peer(s);
        return JOUST_OK;
    case JOUST_EVENT_LOCAL_DONE:
    case JOUST_EVENT_LOCAL_FAILED:
        return on_local(s);
    case JOUST_EVENT_TICK:
        joust_core_expire(s->core, s->now_ms, s->out);
        return JOUST_OK;
    case JOUST_EVENT_STOP:
        s->core->stopped = true;
        say_goodbye(s, JOUST_INTERRUPTED, "the coordinator has been stopped");
        return JOUST_OK;
    case JOUST_EVENT_KINDS:
        break;
    }
    return joust_fail(s->err, JOUST_BUG, "core: event %u is unknown", (unsigned)s->event->kind);
}

joust_status joust_core_step(joust_core *core, const joust_core_event *event, int64_t now_ms,
                             joust_actions *out, joust_error *err)
{
    joust_step s = {.core = core, .event = event, .now_ms = now_ms, .out = out, .err = err};
    bool running = joust_core_get_phase(core) == JOUST_CORE_RUNNING ||
                   (event->kind == JOUST_EVENT_START && core->failure[0]);
    joust_status st = running ? step_running(&s) : step_after_end(&s);
    if (st == JOUST_OK && core->epoch && joust_core_get_phase(core) == JOUST_CORE_RUNNING)
        st = joust_core_dispatch(core, now_ms, out, err);
    if (st == JOUST_OK && core->epoch)
        announce_end(&s);
    return st == JOUST_OK ? joust_actions_status(out, err) : st;
}
