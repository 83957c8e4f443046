/* The volatile half of the core: peers, the leases that they hold, and who gets what next. */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "coordinator/core_internal.h"
#include "proto/base/alloc.h"

joust_peer *joust_core_find_peer(joust_core *core, uint64_t handle)
{
    for (uint32_t i = 0; i < core->n_peers; i++) {
        if (core->peers[i].handle == handle)
            return &core->peers[i];
    }
    return NULL;
}

joust_lease *joust_peer_find_lease(joust_peer *peer, const joust_unit_key *unit)
{
    for (uint32_t i = 0; i < peer->n_leases; i++) {
        if (joust_unit_key_equal(&peer->leases[i].id.unit, unit))
            return &peer->leases[i];
    }
    return NULL;
}

joust_peer *joust_core_holder(joust_core *core, const joust_unit_key *unit, uint32_t *ret_lease)
{
    for (uint32_t i = 0; i < core->n_peers; i++) {
        joust_lease *lease = joust_peer_find_lease(&core->peers[i], unit);
        if (lease) {
            *ret_lease = (uint32_t)(lease - core->peers[i].leases);
            return &core->peers[i];
        }
    }
    return NULL;
}

void joust_peer_drop_lease(joust_peer *peer, uint32_t lease)
{
    assert(lease < peer->n_leases);
    memmove(&peer->leases[lease], &peer->leases[lease + 1],
            (peer->n_leases - lease - 1) * sizeof(*peer->leases));
    peer->n_leases--;
}

void joust_core_release(joust_core *core, joust_peer *peer, uint32_t lease)
{
    joust_unit_key unit = peer->leases[lease].id.unit;
    joust_peer_drop_lease(peer, lease);
    joust_core_move(core, &unit, JOUST_UNIT_RELEASE);
}

void joust_core_release_all(joust_core *core, joust_peer *peer)
{
    while (peer->n_leases)
        joust_core_release(core, peer, peer->n_leases - 1);
}

joust_status joust_core_add_peer(joust_core *core, joust_peer **ret, joust_error *err)
{
    if (!joust_grow(&core->peers, core->n_peers, &core->peer_capacity, sizeof(*core->peers)))
        return joust_fail(err, JOUST_NOMEM, "peers: more than %u of them", core->n_peers);
    *ret = &core->peers[core->n_peers++];
    **ret = (joust_peer){.failed = {.stage = JOUST_NONE}};
    return JOUST_OK;
}

void joust_core_remove_peer(joust_core *core, joust_peer *peer)
{
    joust_core_release_all(core, peer);
    joust_free(peer->leases);
    *peer = core->peers[--core->n_peers];
}

joust_status joust_core_grant(joust_core *core, joust_peer *peer, const joust_unit_key *unit,
                              joust_unit_event how, int64_t now_ms, joust_lease **ret,
                              joust_error *err)
{
    assert(peer->n_leases < peer->credit);
    if (!joust_grow(&peer->leases, peer->n_leases, &peer->capacity, sizeof(*peer->leases)))
        return joust_fail(err, JOUST_NOMEM, "%s: more than %u leases", peer->name, peer->n_leases);
    joust_core_unit_cell *cell = &core->runs[unit->stage].units[unit->position];
    joust_core_move(core, unit, how);
    cell->attempts += cell->attempts < UINT16_MAX;
    joust_lease *lease = &peer->leases[peer->n_leases++];
    *lease = (joust_lease){
        .id = {.unit = *unit,
               .lease = core->epoch << 40 | ++core->n_granted, /* unique in the job's life */
               .attempt = cell->attempts},
        .granted_ms = now_ms,
        .deadline_ms = now_ms + core->options.lease_ms};
    *ret = lease;
    return JOUST_OK;
}

void joust_core_quarantine(joust_core *core, joust_peer *peer, const char *reason,
                           joust_actions *out)
{
    joust_core_release_all(core, peer);
    peer->quarantined = true;
    joust_actions_add(out, JOUST_ACTION_WARN);
    joust_actions_set_text(out, "%s is sent away: %s", peer->name, reason);
    joust_action *bye = joust_actions_add(out, JOUST_ACTION_GOODBYE);
    bye->peer = peer->handle;
    bye->status = JOUST_DENIED;
    joust_actions_set_text(out, "%s", reason);
}

static void expire_leases(joust_core *core, joust_peer *peer, int64_t now_ms, joust_actions *out)
{
    for (uint32_t i = peer->n_leases; i-- > 0;) {
        joust_unit_id id = peer->leases[i].id;
        char text[160];
        if (peer->leases[i].deadline_ms > now_ms)
            continue;
        joust_core_unit_text(core, &id.unit, text);
        joust_core_release(core, peer, i);
        joust_action *revoke = joust_actions_add(out, JOUST_ACTION_REVOKE);
        revoke->peer = peer->handle;
        revoke->id = id;
        joust_actions_add(out, JOUST_ACTION_WARN);
        joust_actions_set_text(out, "%s has shown no progress on %s for %u ms: it goes to another",
                               peer->name, text, core->options.lease_ms);
    }
}

void joust_core_expire(joust_core *core, int64_t now_ms, joust_actions *out)
{
    for (uint32_t i = core->n_peers; i-- > 0;) {
        joust_peer *peer = &core->peers[i];
        if (!peer->quarantined && peer->heard_ms + core->options.peer_timeout_ms <= now_ms) {
            joust_actions_add(out, JOUST_ACTION_WARN);
            joust_actions_set_text(out, "%s has been silent for %lld ms: its %u units go to others",
                                   peer->name, (long long)(now_ms - peer->heard_ms),
                                   peer->n_leases);
            joust_core_remove_peer(core, peer);
            continue;
        }
        expire_leases(core, peer, now_ms, out);
    }
}

/* Whether the peer could take a unit of the stage, credit aside. */
static bool fits(const joust_core *core, const joust_peer *peer, uint32_t stage)
{
    joust_stage_kind kind = core->plan->stages[stage].kind;
    bool trains = kind == JOUST_STAGE_TRAIN || kind == JOUST_STAGE_INIT;
    return !peer->quarantined && peer->role == joust_stage_role(kind) &&
           (!trains || peer->can_train);
}

/* Whether a peer that has not just failed this unit, as `peer` has, could take it. */
static bool somebody_else(const joust_core *core, const joust_peer *peer, uint32_t stage)
{
    for (uint32_t i = 0; i < core->n_peers; i++) {
        if (fits(core, &core->peers[i], stage) &&
            !joust_unit_key_equal(&core->peers[i].failed, &peer->failed))
            return true;
    }
    return false;
}

/* The lowest queued unit of the stage; not `avoid` (may be NULL) unless it is none else's. */
static bool next_queued(joust_core *core, uint32_t stage, const joust_unit_key *avoid,
                        joust_unit_key *ret)
{
    joust_stage_run *run = &core->runs[stage];
    if (!run->n_queued)
        return false;
    while (run->units[run->cursor].state != JOUST_UNIT_QUEUED)
        run->cursor++;
    for (uint64_t i = run->cursor; i < run->n; i++) {
        *ret = (joust_unit_key){.round = core->round, .stage = stage, .position = i};
        if (run->units[i].state == JOUST_UNIT_QUEUED &&
            !(avoid && joust_unit_key_equal(avoid, ret)))
            return true;
    }
    return false;
}

static void add_lease_action(const joust_core *core, const joust_peer *peer,
                             const joust_lease *lease, joust_actions *out)
{
    uint32_t stage = lease->id.unit.stage;
    const joust_stage *s = &core->plan->stages[stage];
    joust_action *action = joust_actions_add(out, JOUST_ACTION_LEASE);
    joust_lease_order *order = &action->u.lease;
    action->peer = peer->handle;
    action->id = lease->id;
    order->deadline_ms = core->options.lease_ms;
    order->model = s->model;
    order->model_version = joust_core_model_version(core, stage);
    if (s->kind != JOUST_STAGE_TRAIN)
        return;
    order->out_version = joust_plan_out_version(core->plan, core->round, stage);
    order->reference_version =
        s->train.reference == JOUST_PICK_INITIAL ? 0 : core->lineages[s->reference_model].start;
    order->partner_version = s->partner == JOUST_NONE ? 0 : core->lineages[s->partner].start;
    order->n_rows = s->pairs == JOUST_NONE ? 0 : core->runs[s->pairs].n_pairs;
    order->resume_step = core->runs[stage].resume_step;
    order->resume = core->runs[stage].resume;
}

static void warn_of_losses(const joust_core *core, const joust_lease *lease, joust_actions *out)
{
    uint32_t attempt = lease->id.attempt;
    char text[160];
    if (attempt < 8 || attempt & (attempt - 1))
        return; /* 8, 16, 32 … */
    joust_core_unit_text(core, &lease->id.unit, text);
    joust_actions_add(out, JOUST_ACTION_WARN);
    joust_actions_set_text(out, "%s is given out for the %uth time: it may be what ends its peers",
                           text, attempt);
}

/* How many leases a peer may have to be given one more of the stage. Of a served model no more units are given out than
 * keep its servers busy twice over: what a peer only holds would have to be asked again after its death, and could be another's. */
static uint32_t credit_for(const joust_core *core, const joust_peer *peer, uint32_t stage)
{
    const joust_stage *s = &core->plan->stages[stage];
    if (!joust_stage_is_served(core->job, s))
        return peer->credit;
    const joust_job_endpoint *e = &core->job->models[s->model].endpoint;
    uint64_t requests = joust_stage_requests(core->job, s);
    uint64_t units = (2ull * e->concurrency * e->n_urls + requests - 1) / requests;
    return units < peer->credit ? (uint32_t)units : peer->credit;
}

/* One unit of the stage to the peer, if it may have one. */
static joust_status serve(joust_core *core, joust_peer *peer, uint32_t stage, int64_t now_ms,
                          joust_actions *out, bool *ret_served, joust_error *err)
{
    joust_unit_key unit;
    joust_lease *lease;
    *ret_served = false;
    if (!fits(core, peer, stage) || peer->n_leases >= credit_for(core, peer, stage) ||
        peer->retry_ms > now_ms)
        return JOUST_OK;
    bool avoids = peer->failed.stage == stage && somebody_else(core, peer, stage);
    if (!next_queued(core, stage, avoids ? &peer->failed : NULL, &unit))
        return JOUST_OK;
    joust_status st = joust_core_grant(core, peer, &unit, JOUST_UNIT_LEASE, now_ms, &lease, err);
    if (st != JOUST_OK)
        return st;
    add_lease_action(core, peer, lease, out);
    warn_of_losses(core, lease, out);
    *ret_served = true;
    return JOUST_OK;
}

/* Rollouts pause while too many groups wait for their judges; those of servers also after a restart, until workers had the
 * time to say what they hold: what is asked twice is paid twice. */
static bool held_back(const joust_core *core, uint32_t stage, int64_t now_ms)
{
    const joust_stage *s = &core->plan->stages[stage];
    if (now_ms < core->settled_ms && joust_stage_is_served(core->job, s))
        return true;
    return s->kind == JOUST_STAGE_GENERATE &&
           joust_core_groups_pending(core, stage) >= core->options.max_pending_groups;
}

/* Turn by turn, a unit each, so that nobody starves; the turn goes on where it stopped. */
static joust_status serve_stage(joust_core *core, uint32_t stage, int64_t now_ms,
                                joust_actions *out, joust_error *err)
{
    uint32_t idle = 0;
    while (idle < core->n_peers && core->runs[stage].n_queued && !held_back(core, stage, now_ms)) {
        bool served;
        core->turn = (core->turn + 1) % core->n_peers;
        joust_status st = serve(core, &core->peers[core->turn], stage, now_ms, out, &served, err);
        if (st != JOUST_OK)
            return st;
        idle = served ? 0 : idle + 1;
    }
    return JOUST_OK;
}

static void run_local(joust_core *core, uint32_t stage, joust_actions *out)
{
    const joust_stage *s = &core->plan->stages[stage];
    joust_unit_key unit;
    while (core->n_local < core->options.max_local && next_queued(core, stage, NULL, &unit)) {
        joust_core_move(core, &unit, JOUST_UNIT_LEASE);
        core->n_local++;
        joust_action *action = joust_actions_add(out, JOUST_ACTION_RUN_LOCAL);
        action->id.unit = unit;
        action->u.local.model = s->model;
        if (s->model == JOUST_NONE)
            continue;
        const joust_lineage *lineage = &core->lineages[s->model];
        action->u.local.candidate = joust_core_version_at(core, s->model, stage);
        action->u.local.has_best = lineage->has_best;
        action->u.local.best = lineage->best;
        action->u.local.best_round = lineage->best_round;
    }
}

joust_status joust_core_dispatch(joust_core *core, int64_t now_ms, joust_actions *out,
                                 joust_error *err)
{
    for (uint32_t i = 0; i < core->plan->n_stages; i++) {
        if (!core->runs[i].n_queued)
            continue;
        if (joust_stage_is_local(core->plan->stages[i].kind)) {
            run_local(core, i, out);
            continue;
        }
        joust_status st = serve_stage(core, i, now_ms, out, err);
        if (st != JOUST_OK)
            return st;
    }
    return JOUST_OK;
}
