/* The core in words and figures: what it waits for, and a snapshot for displays and checks. */
#include <stdio.h>

#include "coordinator/core_internal.h"
#include "proto/base/text.h"

#define EMPTY_JOB                                                                                  \
    "a round without a single decided group has nothing to train on, and no round had one: the "   \
    "warnings of its judges and pairs say why, and `joust verdicts stats` counts what judges said"

uint64_t joust_core_events(const joust_core *core)
{
    return core->n_events;
}

uint64_t joust_core_epoch(const joust_core *core)
{
    return core->epoch;
}

uint32_t joust_core_round(const joust_core *core)
{
    return core->round;
}

const uint64_t *joust_core_coverage(const joust_core *core)
{
    return core->coverage;
}

/* All rounds are over, they were to make pairs, and made none. */
static bool came_to_nothing(const joust_core *core)
{
    if (core->round <= core->job->rounds || core->n_pairs || !core->job->rounds)
        return false;
    for (uint32_t i = 0; i < core->plan->n_stages; i++) {
        if (core->plan->stages[i].kind == JOUST_STAGE_PAIR)
            return true;
    }
    return false;
}

const char *joust_core_failure(const joust_core *core)
{
    return core->failure[0] ? core->failure : came_to_nothing(core) ? EMPTY_JOB : "";
}

joust_core_phase joust_core_get_phase(const joust_core *core)
{
    if (core->superseded)
        return JOUST_CORE_SUPERSEDED;
    if (core->stopped)
        return JOUST_CORE_STOPPED;
    if (joust_core_failure(core)[0])
        return JOUST_CORE_JOB_FAILED;
    return core->round > core->job->rounds ? JOUST_CORE_COMPLETE : JOUST_CORE_RUNNING;
}

joust_unit_state joust_core_unit(const joust_core *core, const joust_unit_key *unit)
{
    if (joust_core_is_unit(core, unit))
        return (joust_unit_state)core->runs[unit->stage].units[unit->position].state;
    return unit->round < core->round &&
                   unit->position < joust_core_positions(core, unit->round, unit->stage)
               ? JOUST_UNIT_DONE
               : JOUST_UNIT_WAITING;
}

uint32_t joust_core_peers(const joust_core *core)
{
    return core->n_peers;
}

joust_core_peer_view joust_core_peer(const joust_core *core, uint32_t i)
{
    const joust_peer *peer = &core->peers[i];
    return (joust_core_peer_view){.peer = peer->handle,
                                  .name = peer->name,
                                  .role = peer->role,
                                  .credit = peer->credit,
                                  .outstanding = peer->n_leases,
                                  .quarantined = peer->quarantined};
}

uint32_t joust_core_leases(const joust_core *core)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < core->n_peers; i++)
        n += core->peers[i].n_leases;
    return n;
}

joust_core_lease_view joust_core_lease(const joust_core *core, uint32_t i)
{
    const joust_peer *peer = core->peers;
    while (i >= peer->n_leases)
        i -= (peer++)->n_leases;
    return (joust_core_lease_view){.id = peer->leases[i].id,
                                   .peer = peer->handle,
                                   .granted_ms = peer->leases[i].granted_ms,
                                   .deadline_ms = peer->leases[i].deadline_ms};
}

void joust_core_unit_text(const joust_core *core, const joust_unit_key *unit, char to[160])
{
    snprintf(to, 160, "group %llu of %s in round %u", (unsigned long long)unit->position,
             unit->stage < core->plan->n_stages ? core->plan->stages[unit->stage].name : "no stage",
             unit->round);
}

static const char *role_name(joust_peer_role role)
{
    return role == JOUST_PEER_JUDGE ? "judge" : "worker";
}

static uint32_t count_role(const joust_core *core, joust_peer_role role, bool trains)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < core->n_peers; i++)
        n += !core->peers[i].quarantined && core->peers[i].role == role &&
             (!trains || core->peers[i].can_train);
    return n;
}

/* The oldest lease of the stage: whom to look at. */
static const joust_lease *oldest_lease(const joust_core *core, uint32_t stage,
                                       const joust_peer **ret_peer)
{
    const joust_lease *oldest = NULL;
    for (uint32_t i = 0; i < core->n_peers; i++) {
        for (uint32_t j = 0; j < core->peers[i].n_leases; j++) {
            const joust_lease *lease = &core->peers[i].leases[j];
            if (lease->id.unit.stage == stage &&
                (!oldest || lease->granted_ms < oldest->granted_ms)) {
                oldest = lease;
                *ret_peer = &core->peers[i];
            }
        }
    }
    return oldest;
}

static void why_of_stage(const joust_core *core, uint32_t stage, int64_t now_ms, joust_buf *to)
{
    const joust_stage_run *run = &core->runs[stage];
    const joust_stage *s = &core->plan->stages[stage];
    joust_peer_role role = joust_stage_role(s->kind);
    bool trains = s->kind == JOUST_STAGE_TRAIN || s->kind == JOUST_STAGE_INIT;
    const joust_peer *peer = NULL;
    const joust_lease *lease = oldest_lease(core, stage, &peer);
    joust_buf_format(to, "round %u of %u, %s: ", core->round, core->job->rounds, s->name);
    if (s->kind == JOUST_STAGE_TRAIN)
        joust_buf_format(to, "step %u of %u", run->resume_step, s->train.max_steps);
    else
        joust_buf_format(to, "%llu of %llu done", (unsigned long long)run->n_done,
                         (unsigned long long)run->n);
    if (lease)
        joust_buf_format(to, "; %llu with peers, the longest with %s for %lld ms",
                         (unsigned long long)run->n_leased, peer->name,
                         (long long)(now_ms - lease->granted_ms));
    else if (joust_stage_is_local(s->kind))
        joust_buf_text(to, "; the coordinator computes it");
    if (!run->n_queued || joust_stage_is_local(s->kind))
        return;
    joust_buf_format(to, "; %llu queued", (unsigned long long)run->n_queued);
    if (!count_role(core, role, trains))
        joust_buf_format(to, ", and no %s%s is connected: start one", role_name(role),
                         trains ? " that can train" : "");
    else if (s->kind == JOUST_STAGE_GENERATE &&
             joust_core_groups_pending(core, stage) >= core->options.max_pending_groups)
        joust_buf_format(to, ", held back because %llu groups wait for a judge (%u connected)",
                         (unsigned long long)joust_core_groups_pending(core, stage),
                         count_role(core, JOUST_PEER_JUDGE, false));
    else
        joust_buf_format(to, " until one of %u %ss has room", count_role(core, role, trains),
                         role_name(role));
}

void joust_core_why(const joust_core *core, int64_t now_ms, joust_buf *to)
{
    switch (joust_core_get_phase(core)) {
    case JOUST_CORE_COMPLETE:
        joust_buf_text(to, "the job is complete");
        return;
    case JOUST_CORE_JOB_FAILED:
        joust_buf_format(to, "the job failed: %s", joust_core_failure(core));
        return;
    case JOUST_CORE_STOPPED:
        joust_buf_text(to, "the coordinator has been stopped; the same command resumes");
        return;
    case JOUST_CORE_SUPERSEDED:
        joust_buf_text(to, "a newer coordinator runs this job");
        return;
    case JOUST_CORE_RUNNING:
        break;
    }
    /* The first stage with work in hand or to give out holds up the rest. */
    for (uint32_t i = 0; i < core->plan->n_stages; i++) {
        if (core->runs[i].runs && !core->runs[i].complete &&
            core->runs[i].n_queued + core->runs[i].n_leased) {
            why_of_stage(core, i, now_ms, to);
            return;
        }
    }
    joust_buf_format(to, "round %u waits for the store", core->round);
}

static const char *phase_name(joust_core_phase phase)
{
    static const char *const names[] = {"running", "complete", "failed", "stopped", "superseded"};
    return names[phase];
}

static void text_field(joust_buf *to, const char *key, const char *text)
{
    size_t n = 0;
    while (text[n])
        n++;
    joust_buf_format(to, "\"%s\":", key);
    joust_json_string(to, text, n);
}

static void status_of_stage(const joust_core *core, uint32_t stage, joust_buf *to)
{
    const joust_stage_run *run = &core->runs[stage];
    const joust_stage *s = &core->plan->stages[stage];
    const char *state = run->skipped    ? "skipped"
                        : run->complete ? "complete"
                        : run->open     ? "open"
                                        : "waiting";
    joust_buf_format(to, "{\"stage\":%u,", stage);
    text_field(to, "name", s->name);
    joust_buf_format(to,
                     ",\"kind\":\"%s\",\"state\":\"%s\",\"units\":%llu,\"done\":%llu,"
                     "\"leased\":%llu,\"queued\":%llu",
                     joust_stage_kind_name(s->kind), state, (unsigned long long)run->n,
                     (unsigned long long)run->n_done, (unsigned long long)run->n_leased,
                     (unsigned long long)run->n_queued);
    if (s->kind == JOUST_STAGE_PAIR)
        joust_buf_format(to, ",\"pairs\":%llu", (unsigned long long)run->n_pairs);
    if (s->kind == JOUST_STAGE_TRAIN)
        joust_buf_format(to, ",\"durable_step\":%u,\"max_steps\":%u", run->resume_step,
                         s->train.max_steps);
    if (s->kind == JOUST_STAGE_GENERATE)
        joust_buf_format(to, ",\"unjudged\":%llu",
                         (unsigned long long)joust_core_groups_pending(core, stage));
    joust_buf_text(to, "}");
}

static void status_of_peer(const joust_peer *peer, int64_t now_ms, joust_buf *to)
{
    int64_t oldest_ms = 0;
    for (uint32_t i = 0; i < peer->n_leases; i++) {
        if (now_ms - peer->leases[i].granted_ms > oldest_ms)
            oldest_ms = now_ms - peer->leases[i].granted_ms;
    }
    joust_buf_text(to, "{");
    text_field(to, "name", peer->name);
    joust_buf_format(to,
                     ",\"role\":\"%s\",\"credit\":%u,\"outstanding\":%u,\"oldest_lease_ms\":%lld,"
                     "\"silent_ms\":%lld,\"connected_ms\":%lld,\"can_train\":%s,"
                     "\"quarantined\":%s}",
                     role_name(peer->role), peer->credit, peer->n_leases, (long long)oldest_ms,
                     (long long)(now_ms - peer->heard_ms), (long long)(now_ms - peer->joined_ms),
                     peer->can_train ? "true" : "false", peer->quarantined ? "true" : "false");
}

void joust_core_status(const joust_core *core, int64_t now_ms, const char *why, joust_buf *to)
{
    uint32_t rounds = core->job->rounds;
    joust_buf own = {0};
    if (!why)
        joust_core_why(core, now_ms, &own);
    joust_buf_text(to, "{");
    text_field(to, "phase", phase_name(joust_core_get_phase(core)));
    joust_buf_format(to, ",\"round\":%u,\"rounds\":%u,\"epoch\":%llu,\"events\":%llu,",
                     core->round < rounds ? core->round : rounds, rounds,
                     (unsigned long long)core->epoch, (unsigned long long)core->n_events);
    text_field(to, "numeric_class", core->numeric_class);
    joust_buf_text(to, ",");
    text_field(to, "why", why ? why : own.data ? (const char *)own.data : "");
    joust_buf_fini(&own);
    joust_buf_text(to, ",\"stages\":[");
    bool first = true;
    for (uint32_t i = 0; i < core->plan->n_stages; i++) {
        if (!core->runs[i].runs)
            continue;
        joust_buf_text(to, first ? "" : ",");
        status_of_stage(core, i, to);
        first = false;
    }
    joust_buf_text(to, "],\"peers\":[");
    for (uint32_t i = 0; i < core->n_peers; i++) {
        joust_buf_text(to, i ? "," : "");
        status_of_peer(&core->peers[i], now_ms, to);
    }
    joust_buf_text(to, "]}");
}
