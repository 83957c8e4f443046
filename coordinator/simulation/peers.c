/* Workers, judges and trainers: they hold units under credit, compute one at a time, keep results until they are
 * acknowledged, and answer with digests of what they were asked. */
#include <string.h>

#include "coordinator/simulation/world_internal.h"

static joust_stage_kind kind_of(const sim_world *w, const joust_unit_key *unit)
{
    return w->plan->stages[unit->stage].kind;
}

static sim_slot *find_slot(sim_peer *p, const joust_unit_key *unit)
{
    for (uint32_t i = 0; i < SIM_CREDIT; i++) {
        if (p->slots[i].used && memcmp(&p->slots[i].id.unit, unit, sizeof(*unit)) == 0)
            return &p->slots[i];
    }
    return NULL;
}

static sim_message message_of(const sim_world *w, uint32_t peer, joust_message_type type)
{
    return (sim_message){.type = type,
                         .peer = peer,
                         .instance = w->peers[peer].instance,
                         .epoch = w->peers[peer].epoch};
}

void sim_peer_start(sim_world *w, uint32_t peer)
{
    sim_peer *p = &w->peers[peer];
    joust_peer_role role = p->role;
    *p = (sim_peer){.role = role,
                    .alive = true,
                    .instance = ++w->lives,
                    .cut_until_ms = p->cut_until_ms,
                    .heard_ms = w->now_ms,
                    .free_credit = SIM_CREDIT};
    sim_after(w, 1 + peer % 7,
              &(sim_event){.what = SIM_PEER_BEAT, .who = peer, .life = p->instance});
}

void sim_peer_kill(sim_world *w, uint32_t peer)
{
    w->peers[peer].alive = false;
    sim_upset(w, JOUST_UPSET_PEER_KILL);
    sim_after(w, 20 + (int64_t)sim_draw(w, 300),
              &(sim_event){.what = SIM_PEER_RESTART, .who = peer});
}

/* 64 bits that depend on all that a unit's result may depend on. */
static uint64_t digest_of(const sim_world *w, const sim_slot *slot, uint64_t a, uint64_t b)
{
    const joust_unit_key *unit = &slot->id.unit;
    uint64_t words[] = {
        w->job->seed, unit->round, unit->stage, unit->position, a, slot->order.weights, b};
    return sim_mix(words, sizeof words);
}

static void generate(const sim_world *w, sim_slot *slot)
{
    sim_record *r = &slot->result;
    r->n = w->plan->stages[slot->id.unit.stage].samples;
    for (uint32_t i = 0; i < r->n; i++)
        r->text[i] = digest_of(w, slot, i, 0) % 16; /* few words: answers may be equal */
}

static void judge(const sim_world *w, sim_slot *slot)
{
    sim_record *r = &slot->result;
    r->n = slot->order.record.n;
    for (uint32_t i = 0; i < r->n; i++) {
        uint64_t x = digest_of(w, slot, 0, slot->order.record.text[i]);
        r->text[i] = slot->order.record.text[i];
        r->value[i] = (joust_reward){.has = x % 16 != 0, .value = (double)(x / 16 % 9) - 4};
        if (!r->value[i].has)
            r->value[i].value = 0;
    }
}

static void send_result(sim_world *w, uint32_t peer, sim_slot *slot)
{
    sim_message m = message_of(w, peer, JOUST_MSG_RESULT);
    m.id = slot->id;
    m.record = slot->result;
    slot->sent_ms = w->now_ms;
    sim_send(w, &m, false);
}

/* One step of training; now and then its state is made durable. */
static bool train(sim_world *w, uint32_t peer, sim_slot *slot)
{
    slot->order.state = digest_of(w, slot, slot->order.step, slot->order.state);
    slot->order.step++;
    if (slot->order.step < SIM_TRAIN_STEPS && slot->order.step % 2 == 0) {
        sim_message m = message_of(w, peer, JOUST_MSG_TRAIN_PROGRESS);
        m.id = slot->id;
        m.step = slot->order.step;
        m.state = slot->order.state;
        sim_send(w, &m, false);
    }
    slot->result.n = 1;
    slot->result.version = slot->order.order.out_version;
    slot->result.weights = slot->order.state;
    return slot->order.step >= SIM_TRAIN_STEPS;
}

static bool compute(sim_world *w, uint32_t peer, sim_slot *slot)
{
    joust_stage_kind kind = kind_of(w, &slot->id.unit);
    slot->progress++;
    slot->result.version = slot->order.order.model_version;
    slot->result.weights = slot->order.weights;
    switch (kind) {
    case JOUST_STAGE_TRAIN:
        return train(w, peer, slot);
    case JOUST_STAGE_INIT:
        slot->result = (sim_record){.n = 1, .weights = digest_of(w, slot, 0, 0)};
        return true;
    case JOUST_STAGE_GENERATE:
        generate(w, slot);
        return true;
    default:
        judge(w, slot);
        return true;
    }
}

static void work_later(sim_world *w, uint32_t peer)
{
    sim_peer *p = &w->peers[peer];
    bool work = false;
    for (uint32_t i = 0; i < SIM_CREDIT; i++)
        work = work ||
               (p->slots[i].used && !p->slots[i].finished && p->slots[i].wakes_ms <= w->now_ms);
    if (p->working || !work)
        return;
    p->working = true;
    sim_after(w, 2 + (int64_t)sim_draw(w, 25),
              &(sim_event){.what = SIM_PEER_WORK, .who = peer, .life = p->instance});
}

static void free_slot(sim_world *w, sim_peer *p, sim_slot *slot, bool acknowledged)
{
    *slot = (sim_slot){0};
    if (!(acknowledged && sim_planted(w, JOUST_PLANT_LOSE_CREDIT)))
        p->free_credit++;
}

/* The unit that no peer can do, in worlds that have one. */
static bool is_poisoned(const sim_world *w, const joust_unit_key *unit)
{
    return w->poisoned && unit->round == 1 && kind_of(w, unit) == JOUST_STAGE_GENERATE &&
           unit->position == w->options->seed % w->options->groups;
}

static void fail_unit(sim_world *w, uint32_t peer, sim_slot *slot)
{
    sim_message m = message_of(w, peer, JOUST_MSG_FAILED);
    /* Failures that count come once a unit, so that they can't add up to the job's. */
    bool counts = slot->id.attempt == 1 || is_poisoned(w, &slot->id.unit);
    m.status = counts ? JOUST_NOMEM : JOUST_AGAIN;
    m.id = slot->id;
    sim_upset(w, JOUST_UPSET_FAILURE);
    free_slot(w, &w->peers[peer], slot, false);
    sim_send(w, &m, false);
}

static void work(sim_world *w, uint32_t peer)
{
    sim_peer *p = &w->peers[peer];
    sim_slot *slot = NULL;
    p->working = false;
    for (uint32_t i = 0; i < SIM_CREDIT && !slot; i++) {
        if (p->slots[i].used && !p->slots[i].finished && p->slots[i].wakes_ms <= w->now_ms)
            slot = &p->slots[i];
    }
    if (!slot)
        return;
    bool trains = kind_of(w, &slot->id.unit) == JOUST_STAGE_TRAIN;
    if (is_poisoned(w, &slot->id.unit) || sim_chance(w, trains ? 120 : 10)) {
        fail_unit(w, peer, slot);
    } else if (sim_chance(w, trains ? 60 : 5)) {
        slot->wakes_ms = w->now_ms + 100 + (int64_t)sim_draw(w, 1200);
        sim_upset(w, JOUST_UPSET_HANG);
    } else if (compute(w, peer, slot)) {
        slot->finished = true;
        send_result(w, peer, slot);
    }
    work_later(w, peer);
}

static void list_units(const sim_peer *p, sim_message *m)
{
    for (uint32_t i = 0; i < SIM_CREDIT; i++) {
        if (p->slots[i].used)
            m->units[m->n_units++] =
                (joust_progress){.unit = p->slots[i].id.unit, .done = p->slots[i].progress};
    }
}

static void beat(sim_world *w, uint32_t peer)
{
    sim_peer *p = &w->peers[peer];
    if (w->now_ms - p->heard_ms > SIM_TIMEOUT_MS)
        p->welcome = false;
    sim_message m = message_of(w, peer, p->welcome ? JOUST_MSG_HEARTBEAT : JOUST_MSG_HELLO);
    list_units(p, &m);
    sim_send(w, &m, false);
    for (uint32_t i = 0; p->welcome && i < SIM_CREDIT; i++) {
        if (p->slots[i].used && p->slots[i].finished && w->now_ms - p->slots[i].sent_ms > 120)
            send_result(w, peer, &p->slots[i]);
    }
    sim_after(w, SIM_BEAT_MS,
              &(sim_event){.what = SIM_PEER_BEAT, .who = peer, .life = p->instance});
}

void sim_peer_event(sim_world *w, const sim_event *event)
{
    const sim_peer *p = &w->peers[event->who];
    if (!p->alive || p->instance != event->life)
        return;
    if (event->what == SIM_PEER_WORK)
        work(w, event->who);
    else
        beat(w, event->who);
}

static void take_lease(sim_world *w, uint32_t peer, const sim_message *m)
{
    sim_peer *p = &w->peers[peer];
    sim_slot *slot = find_slot(p, &m->id.unit);
    if (slot) { /* asked again: what is under way serves */
        slot->id = m->id;
        if (slot->finished)
            send_result(w, peer, slot);
        return;
    }
    for (uint32_t i = 0; i < SIM_CREDIT && !slot; i++) {
        if (!p->slots[i].used)
            slot = &p->slots[i];
    }
    if (!slot || !p->free_credit)
        return; /* no room: the lease runs out */
    p->free_credit--;
    *slot = (sim_slot){.used = true, .id = m->id, .order = *m};
    slot->order.step = m->order.resume_step;
    work_later(w, peer);
}

static void welcome(sim_world *w, uint32_t peer)
{
    sim_peer *p = &w->peers[peer];
    p->welcome = true;
    for (uint32_t i = 0; i < SIM_CREDIT; i++) {
        if (p->slots[i].used && p->slots[i].finished)
            send_result(w, peer, &p->slots[i]);
    }
}

static void say_hello(sim_world *w, uint32_t peer)
{
    sim_message m = message_of(w, peer, JOUST_MSG_HELLO);
    w->peers[peer].welcome = false;
    list_units(&w->peers[peer], &m);
    sim_send(w, &m, false);
}

static void say_goodbye(sim_world *w, uint32_t peer, const sim_message *m)
{
    if (m->status != JOUST_OK)
        sim_violate(w, "peer %u is sent away with status %s though its records are right", peer,
                    joust_status_name(m->status));
    w->peers[peer].alive = false;
    w->peers[peer].left = true;
}

void sim_peer_receive(sim_world *w, const sim_message *m)
{
    sim_peer *p = &w->peers[m->peer];
    sim_slot *slot = find_slot(p, &m->id.unit);
    if (!p->alive || p->instance != m->instance)
        return;
    if (m->epoch < p->epoch && !sim_planted(w, JOUST_PLANT_LOWER_EPOCH))
        return;
    if (m->epoch < p->epoch)
        sim_violate(w, "peer %u takes a %s of epoch %llu after it has seen %llu", m->peer,
                    joust_message_name(m->type), (unsigned long long)m->epoch,
                    (unsigned long long)p->epoch);
    if (m->epoch > p->epoch && m->type != JOUST_MSG_HELLO_ACK) {
        say_hello(w, m->peer); /* a coordinator that we have not met */
        return;
    }
    p->epoch = m->epoch;
    p->heard_ms = w->now_ms;
    switch (m->type) {
    case JOUST_MSG_HELLO_ACK:
        welcome(w, m->peer);
        break;
    case JOUST_MSG_LEASE:
        take_lease(w, m->peer, m);
        break;
    case JOUST_MSG_RESULT_ACK:
        if (slot && slot->finished && !m->step)
            free_slot(w, p, slot, true);
        break;
    case JOUST_MSG_REVOKE: /* lease 0: whatever lease it is held under */
        if (slot && (!m->id.lease || m->id.lease == slot->id.lease))
            free_slot(w, p, slot, false);
        break;
    case JOUST_MSG_ERROR:
        if (m->status == JOUST_STALE)
            say_hello(w, m->peer);
        break;
    case JOUST_MSG_GOODBYE:
        say_goodbye(w, m->peer, m);
        break;
    default:
        break;
    }
    work_later(w, m->peer);
}

/* A message about a unit that the peer has nothing to do with. Never one that would be believed: results of units
 * whose turn has come are right or come from a liar, and lies are the shell's checks to find. */
void sim_peer_nonsense(sim_world *w, uint32_t peer)
{
    static const joust_message_type types[] = {JOUST_MSG_HEARTBEAT, JOUST_MSG_FAILED,
                                               JOUST_MSG_RESULT, JOUST_MSG_TRAIN_PROGRESS};
    const joust_core *core = w->coordinator.core;
    sim_peer *p = &w->peers[peer];
    if (!p->alive || !p->welcome || !w->coordinator.alive)
        return;
    joust_unit_key unit = {.round = joust_core_round(core),
                           .stage = (uint32_t)sim_draw(w, w->plan->n_stages)};
    joust_stage_kind kind = kind_of(w, &unit);
    joust_message_type type = types[sim_draw(w, 4)];
    uint64_t n = joust_core_positions(core, unit.round, unit.stage);
    if (!n)
        return;
    unit.position = sim_draw(w, n);
    if (type == JOUST_MSG_TRAIN_PROGRESS && kind != JOUST_STAGE_TRAIN)
        type = JOUST_MSG_HEARTBEAT;
    joust_unit_state state = joust_core_unit(core, &unit);
    bool believed = type == JOUST_MSG_RESULT || type == JOUST_MSG_TRAIN_PROGRESS;
    if (believed && state != JOUST_UNIT_WAITING &&
        !(type == JOUST_MSG_TRAIN_PROGRESS && state == JOUST_UNIT_DONE))
        return;
    sim_message m = message_of(w, peer, type);
    m.id.unit = unit;
    m.status = JOUST_AGAIN;
    m.record.n = w->plan->stages[unit.stage].samples;
    m.record.version = joust_plan_out_version(w->plan, unit.round, unit.stage);
    if (type == JOUST_MSG_HEARTBEAT) {
        m.n_units = 1;
        m.units[0] = (joust_progress){.unit = unit, .done = sim_draw(w, 1000)};
    }
    sim_upset(w, JOUST_UPSET_NONSENSE);
    if (believed) /* at once: its turn might come on the way */
        sim_coordinator_receive(w, &w->coordinator, &m);
    else
        sim_send(w, &m, false);
}
