/* What must always hold, looked at from outside: the disk, the messages that leave, the core's own views. */
#include <string.h>

#include "coordinator/simulation/world_internal.h"
#include "proto/base/alloc.h"

#define UNIT            "unit %u/%u/%llu"
#define UNIT_ARGS(unit) (unit)->round, (unit)->stage, (unsigned long long)(unit)->position

static void check_leases(sim_world *w, const sim_coordinator *c)
{
    uint32_t n = joust_core_leases(c->core);
    for (uint32_t i = 0; i < n; i++) {
        joust_core_lease_view lease = joust_core_lease(c->core, i);
        if (lease.deadline_ms > w->now_ms + SIM_LEASE_MS || lease.deadline_ms <= c->tick_ms)
            sim_violate(w, UNIT " is leased until %lld ms, which is out of bounds",
                        UNIT_ARGS(&lease.id.unit), (long long)lease.deadline_ms);
        if (joust_core_unit(c->core, &lease.id.unit) != JOUST_UNIT_LEASED)
            sim_violate(w, UNIT " has a lease but isn't leased", UNIT_ARGS(&lease.id.unit));
    }
}

static void check_credit(sim_world *w, const sim_coordinator *c)
{
    for (uint32_t i = 0; i < joust_core_peers(c->core); i++) {
        joust_core_peer_view peer = joust_core_peer(c->core, i);
        if (peer.outstanding > peer.credit)
            sim_violate(w, "%s has %u units out with a credit of %u", peer.name, peer.outstanding,
                        peer.credit);
    }
    for (uint32_t i = 0; i < w->n_peers; i++) {
        uint32_t used = 0;
        for (uint32_t j = 0; j < SIM_CREDIT; j++)
            used += w->peers[i].slots[j].used;
        if (w->peers[i].alive && used + w->peers[i].free_credit != SIM_CREDIT)
            sim_violate(w, "peer %u holds %u units and has %u free: credit of %u is lost", i, used,
                        w->peers[i].free_credit, (unsigned)SIM_CREDIT);
    }
}

void sim_check_step(sim_world *w, const sim_coordinator *c)
{
    check_leases(w, c);
    check_credit(w, c);
}

static uint64_t encoded(sim_world *w, const joust_core *core)
{
    joust_buf bytes = {0};
    joust_error err;
    if (joust_core_encode(core, &bytes, &err) != JOUST_OK)
        sim_violate(w, "%s", err.text);
    uint64_t sum = sim_mix(bytes.data, bytes.n);
    joust_buf_fini(&bytes);
    return sum;
}

static bool make_room(sim_world *w, uint64_t n)
{
    if (n < w->history_capacity)
        return true;
    uint64_t capacity = (n + 1) * 2;
    uint64_t *history = joust_realloc_array(w->history, capacity, sizeof(*history));
    if (!history) {
        sim_violate(w, "out of memory for %llu states", (unsigned long long)capacity);
        return false;
    }
    memset(history + w->history_capacity, 0, (capacity - w->history_capacity) * sizeof(*history));
    w->history = history;
    w->history_capacity = capacity;
    return true;
}

/* The live state, the one that lives by replay alone, and the one of the same event in an earlier life are one. */
void sim_check_replay(sim_world *w, const joust_core *core)
{
    uint64_t n = joust_core_events(core), state = encoded(w, core);
    if (n != w->disk.n_events)
        sim_violate(w, "the state is of %llu events, the disk has %llu", (unsigned long long)n,
                    (unsigned long long)w->disk.n_events);
    if (encoded(w, w->mirror) != state)
        sim_violate(w, "after event %llu the replayed state isn't the live one",
                    (unsigned long long)n);
    if (make_room(w, n))
        w->history[n] = state;
}

static void check_judged(sim_world *w, const joust_unit_key *unit, const sim_record *record)
{
    joust_unit_key of = *unit;
    of.stage = w->plan->stages[unit->stage].of;
    const sim_cell *group = sim_disk_cell(w, &of);
    if (!group->present) {
        sim_violate(w, UNIT " judges a group that isn't there", UNIT_ARGS(unit));
        return;
    }
    for (uint32_t i = 0; i < record->n; i++) {
        if (record->text[i] != group->record.text[i])
            sim_violate(w, UNIT " judges a stale trajectory %u", UNIT_ARGS(unit), i);
    }
}

/* One side of a pair: judged by all, and by the policy of this round. */
static void check_side(sim_world *w, const joust_unit_key *unit, const sim_record *pair, uint32_t i)
{
    const joust_stage *stage = &w->plan->stages[unit->stage];
    joust_unit_key key = *unit;
    key.stage = i == 0 ? stage->of : stage->of_rejected;
    const sim_cell *group = sim_disk_cell(w, &key);
    uint64_t version = joust_core_model_version(w->mirror, key.stage);
    if (!group->present || pair->sample[i] >= group->record.n ||
        group->record.text[pair->sample[i]] != pair->text[i])
        sim_violate(w, UNIT ": side %u of the pair is no trajectory", UNIT_ARGS(unit), i);
    else if (group->record.version != version ||
             group->record.weights != w->disk.models[version].weights)
        sim_violate(w, UNIT ": side %u of the pair is of policy %llu, the round's is %llu",
                    UNIT_ARGS(unit), i, (unsigned long long)group->record.version,
                    (unsigned long long)version);
    for (uint32_t j = key.stage + 1, of = key.stage; j < unit->stage; j++) {
        const joust_stage *judge = &w->plan->stages[j];
        key.stage = j;
        if (judge->kind != JOUST_STAGE_JUDGE || judge->of != of)
            continue;
        const sim_cell *verdicts = sim_disk_cell(w, &key);
        if (!verdicts->present || !verdicts->record.value[pair->sample[i]].has)
            sim_violate(w, UNIT ": side %u of the pair was not judged", UNIT_ARGS(unit), i);
    }
}

void sim_check_put(sim_world *w, const joust_unit_key *unit, const sim_record *record)
{
    joust_stage_kind kind = w->plan->stages[unit->stage].kind;
    if (sim_disk_cell(w, unit)->present)
        sim_violate(w, UNIT " is recorded twice", UNIT_ARGS(unit));
    if (kind == JOUST_STAGE_JUDGE)
        check_judged(w, unit, record);
    if (kind != JOUST_STAGE_PAIR || !record->n)
        return;
    check_side(w, unit, record, 0);
    check_side(w, unit, record, 1);
    if (!(record->value[0].value > record->value[1].value))
        sim_violate(w, UNIT ": chosen isn't better than rejected", UNIT_ARGS(unit));
    if (record->text[0] == record->text[1])
        sim_violate(w, UNIT ": chosen and rejected are the same text", UNIT_ARGS(unit));
}

/* An acknowledged unit is durable, and holds what its peer sent. */
static void check_acknowledged(sim_world *w, const joust_unit_key *unit)
{
    joust_stage_kind kind = w->plan->stages[unit->stage].kind;
    sim_cell *cell = sim_disk_cell(w, unit);
    if (!cell->present || cell->batch > w->disk.durable) {
        sim_violate(w, UNIT " is acknowledged but not durable", UNIT_ARGS(unit));
        return;
    }
    joust_digest content = sim_content(&cell->record, kind);
    if (!joust_digest_equal(&content, &cell->expected))
        sim_violate(w, UNIT " is acknowledged but not what was sent", UNIT_ARGS(unit));
    cell->acknowledged = true;
}

void sim_check_send(sim_world *w, const sim_coordinator *c, const joust_action *action,
                    uint64_t batch)
{
    if (batch > w->disk.durable && w->disk.epoch == c->epoch)
        sim_violate(w, "a %s leaves before its batch %llu is durable (%llu is)",
                    joust_action_name(action->kind), (unsigned long long)batch,
                    (unsigned long long)w->disk.durable);
    if (action->kind == JOUST_ACTION_ACK && !action->step)
        check_acknowledged(w, &action->id.unit);
}

void sim_check_durable(sim_world *w)
{
    const sim_disk *d = &w->disk;
    for (uint32_t round = 0; round <= w->options->rounds; round++) {
        for (uint32_t stage = 0; stage < w->plan->n_stages; stage++) {
            joust_stage_kind kind = w->plan->stages[stage].kind;
            if (!joust_stage_runs(&w->plan->stages[stage], round))
                continue;
            joust_unit_key unit = {.round = round, .stage = stage};
            for (; unit.position < w->options->groups; unit.position++) {
                const sim_cell *cell = sim_disk_cell(w, &unit);
                if (cell->acknowledged && !cell->present)
                    sim_violate(w, UNIT " was acknowledged and is lost", UNIT_ARGS(&unit));
                if (cell->present && cell->batch <= d->durable &&
                    (kind == JOUST_STAGE_TRAIN || kind == JOUST_STAGE_INIT) &&
                    !d->models[cell->record.version].synced)
                    sim_violate(w, "model version %llu counts before its weights are synced",
                                (unsigned long long)cell->record.version);
            }
        }
    }
}

static bool is_skipped(sim_world *w, const joust_unit_key *unit)
{
    const joust_stage *stage = &w->plan->stages[unit->stage];
    if (stage->kind != JOUST_STAGE_TRAIN)
        return false;
    for (uint64_t i = 0; i < w->options->groups; i++) {
        joust_unit_key pair = {.round = unit->round, .stage = stage->pairs, .position = i};
        if (sim_disk_cell(w, &pair)->record.n)
            return false;
    }
    return true;
}

/* Everything is there; its digest is the job's result. */
void sim_check_end(sim_world *w)
{
    joust_hasher h;
    joust_hasher_init(&h);
    for (uint32_t round = 0; round <= w->options->rounds; round++) {
        for (uint32_t stage = 0; stage < w->plan->n_stages; stage++) {
            uint64_t n = joust_core_positions(w->mirror, round, stage);
            joust_stage_kind kind = w->plan->stages[stage].kind;
            joust_unit_key unit = {.round = round, .stage = stage};
            for (; unit.position < n; unit.position++) {
                const sim_cell *cell = sim_disk_cell(w, &unit);
                if (!cell->present && !is_skipped(w, &unit))
                    sim_violate(w, "the job is over without " UNIT, UNIT_ARGS(&unit));
                joust_digest content = sim_content(&cell->record, kind);
                joust_hasher_field(&h, content.bytes, sizeof content.bytes);
                w->result->n_pairs += kind == JOUST_STAGE_PAIR ? cell->record.n : 0;
            }
        }
    }
    w->result->pairs = joust_hasher_end(&h);
}
