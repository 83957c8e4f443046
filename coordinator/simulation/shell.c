/* The process around the core: messages in, batches, syncs, messages out, death and recovery. */
#include <stdio.h>
#include <string.h>

#include "coordinator/simulation/world_internal.h"
#include "proto/base/alloc.h"

static uint64_t handle_of(uint32_t peer, uint64_t instance)
{
    return instance << 8 | peer;
}

void sim_coordinator_drop(sim_coordinator *c)
{
    joust_core_free(&c->core);
    joust_outbox_free(&c->outbox);
    joust_free(c->waiting);
    *c = (sim_coordinator){0};
}

void sim_coordinator_kill(sim_world *w, bool as_zombie)
{
    sim_upset(w, as_zombie ? JOUST_UPSET_ZOMBIE : JOUST_UPSET_COORDINATOR_KILL);
    if (as_zombie) { /* cut off rather than dead: it goes on until something tells it */
        w->zombie = w->coordinator;
        w->coordinator = (sim_coordinator){0};
        sim_after(w, 400, &(sim_event){.what = SIM_ZOMBIE_END, .life = w->zombie.life});
    } else {
        sim_coordinator_drop(&w->coordinator);
        sim_disk_crash(w);
    }
    sim_after(w, 10 + (int64_t)sim_draw(w, 200), &(sim_event){.what = SIM_RESTART});
}

static joust_status recover(sim_world *w, joust_core *core, bool with_snapshot, joust_error *err)
{
    const sim_disk *d = &w->disk;
    joust_status st = JOUST_OK;
    uint64_t from = 0;
    if (with_snapshot && d->n_snapshots) {
        const sim_bytes *snapshot = &d->snapshots[d->n_snapshots - 1];
        st = joust_core_decode(core, snapshot->data, snapshot->n, err);
        from = snapshot->event;
    }
    bool skip = with_snapshot && sim_planted(w, JOUST_PLANT_SKIP_EVENT) && from < d->n_events;
    uint64_t skipped = skip ? from + sim_draw(w, d->n_events - from) : UINT64_MAX;
    for (uint64_t i = from; i < d->n_events && st == JOUST_OK; i++) {
        if (i != skipped)
            st = joust_core_replay(core, d->events[i].data, d->events[i].n, err);
    }
    return st;
}

void sim_coordinator_start(sim_world *w)
{
    static const joust_core_options options = {.lease_ms = SIM_LEASE_MS,
                                               .peer_timeout_ms = SIM_TIMEOUT_MS,
                                               .max_peer_failures = 64,
                                               .max_pending_groups = 6,
                                               .max_local = 4,
                                               .snapshot_every = 40};
    sim_coordinator *c = &w->coordinator;
    joust_error err;
    if (c->alive)
        return;
    *c = (sim_coordinator){.alive = true, .life = ++w->lives, .epoch = ++w->disk.epoch};
    w->disk.durable = w->disk.newest; /* beginning an epoch syncs */
    joust_core_free(&w->mirror);
    joust_status st = joust_core_create(w->job, w->plan, w->n_prompts, &options, &c->core, &err);
    if (st == JOUST_OK)
        st = joust_core_create(w->job, w->plan, w->n_prompts, &options, &w->mirror, &err);
    if (st == JOUST_OK)
        st = joust_outbox_create(&c->outbox, &err);
    if (st == JOUST_OK)
        st = recover(w, c->core, true, &err);
    if (st == JOUST_OK)
        st = recover(w, w->mirror, false, &err);
    if (st != JOUST_OK) {
        sim_violate(w, "recovery: %s", err.text);
        return;
    }
    joust_outbox_committed(c->outbox, w->disk.durable);
    c->tick_ms = w->now_ms;
    sim_check_durable(w);
    sim_check_replay(w, c->core);
    joust_core_event start = {.kind = JOUST_EVENT_START, .epoch = c->epoch};
    sim_coordinator_step(w, c, &start, NULL);
    sim_after(w, 1, &(sim_event){.what = SIM_TICK, .life = c->life});
}

static void answer(sim_world *w, const sim_coordinator *c, const joust_action *action,
                   joust_message_type type)
{
    sim_message m = {.type = type,
                     .peer = (uint32_t)(action->peer & 255),
                     .instance = action->peer >> 8,
                     .epoch = c->epoch,
                     .status = action->status,
                     .step = action->step,
                     .id = action->id};
    sim_send(w, &m, true);
}

/* All pairs of the round in one number: what training depends on. */
static uint64_t digest_of_pairs(sim_world *w, uint32_t round, uint32_t stage)
{
    uint64_t digest = 0;
    for (uint64_t i = 0; stage != JOUST_NONE && i < w->options->groups; i++) {
        joust_unit_key unit = {.round = round, .stage = stage, .position = i};
        joust_digest pair = sim_content(&sim_disk_cell(w, &unit)->record, JOUST_STAGE_PAIR);
        uint64_t words[] = {digest, sim_mix(pair.bytes, sizeof pair.bytes)};
        digest = sim_mix(words, sizeof words);
    }
    return digest;
}

static void send_lease(sim_world *w, sim_coordinator *c, const joust_action *action)
{
    const joust_stage *stage = &w->plan->stages[action->id.unit.stage];
    sim_message m = {.type = JOUST_MSG_LEASE,
                     .peer = (uint32_t)(action->peer & 255),
                     .instance = action->peer >> 8,
                     .epoch = c->epoch,
                     .id = action->id,
                     .order = action->u.lease};
    if (sim_planted(w, JOUST_PLANT_REUSE_LEASE) && c->last_lease && sim_draw(w, 20) == 0)
        m.id.lease = c->last_lease;
    if (m.id.lease <= c->last_lease)
        sim_violate(w, "lease %llu is given out after lease %llu", (unsigned long long)m.id.lease,
                    (unsigned long long)c->last_lease);
    c->last_lease = m.id.lease;
    uint64_t version = action->u.lease.model_version;
    if (stage->model != JOUST_NONE && stage->kind != JOUST_STAGE_INIT) {
        if (version >= SIM_VERSIONS || !w->disk.models[version].present)
            sim_violate(w, "a lease names model version %llu, which the disk has not",
                        (unsigned long long)version);
        else
            m.weights = w->disk.models[version].weights;
    }
    if (stage->kind == JOUST_STAGE_JUDGE) {
        joust_unit_key group = action->id.unit;
        group.stage = stage->of;
        if (sim_planted(w, JOUST_PLANT_JUDGE_STALE) && group.round > stage->first_round)
            group.round--;
        m.record = sim_disk_cell(w, &group)->record;
    }
    if (stage->kind == JOUST_STAGE_TRAIN && action->u.lease.resume_step)
        memcpy(&m.state, action->u.lease.resume.bytes, sizeof m.state);
    else if (stage->kind == JOUST_STAGE_TRAIN)
        m.state = digest_of_pairs(w, action->id.unit.round, stage->pairs);
    sim_send(w, &m, true);
}

static void check_same(sim_world *w, sim_coordinator *c, const joust_action *action)
{
    const joust_unit_key *unit = &action->id.unit;
    const sim_cell *cell = sim_disk_cell(w, unit);
    joust_digest held = sim_content(&cell->record, w->plan->stages[unit->stage].kind);
    if (!cell->present)
        sim_violate(w, "unit %u/%u/%llu is done for the core, but not on the disk", unit->round,
                    unit->stage, (unsigned long long)unit->position);
    else if (!joust_digest_equal(&held, &action->content))
        sim_violate(w, "unit %u/%u/%llu: a repeated result has other bytes", unit->round,
                    unit->stage, (unsigned long long)unit->position);
    joust_action ack = *action;
    ack.kind = JOUST_ACTION_ACK;
    sim_check_send(w, c, &ack, 0);
    answer(w, c, &ack, JOUST_MSG_RESULT_ACK);
}

/* Does one action; false once the coordinator is gone by it. */
static bool perform(sim_world *w, sim_coordinator *c, const joust_actions *list,
                    const joust_action *action, uint64_t batch)
{
    sim_check_send(w, c, action, batch);
    switch (action->kind) {
    case JOUST_ACTION_HELLO_ACK:
        answer(w, c, action, JOUST_MSG_HELLO_ACK);
        break;
    case JOUST_ACTION_LEASE:
        send_lease(w, c, action);
        break;
    case JOUST_ACTION_REVOKE:
        answer(w, c, action, JOUST_MSG_REVOKE);
        break;
    case JOUST_ACTION_ACK:
        answer(w, c, action, JOUST_MSG_RESULT_ACK);
        break;
    case JOUST_ACTION_CHECK_SAME:
        check_same(w, c, action);
        break;
    case JOUST_ACTION_ERROR:
        answer(w, c, action, JOUST_MSG_ERROR);
        break;
    case JOUST_ACTION_GOODBYE:
        answer(w, c, action, JOUST_MSG_GOODBYE);
        break;
    case JOUST_ACTION_RUN_LOCAL:
        sim_after(w, (int64_t)sim_draw(w, 4),
                  &(sim_event){.what = SIM_LOCAL,
                               .life = c->life,
                               .unit = action->id.unit,
                               .local = action->u.local});
        break;
    case JOUST_ACTION_JOB_DONE:
        w->over = true;
        if ((action->status != JOUST_OK) != w->poisoned)
            sim_violate(w, "the job ends with: %s", joust_action_text(list, action));
        break;
    case JOUST_ACTION_FENCED:
        sim_coordinator_drop(c);
        return false;
    default: /* WRITE is done already; the others only inform */
        break;
    }
    return true;
}

static void drain(sim_world *w, sim_coordinator *c)
{
    joust_actions list = {0};
    bool here = true;
    while (here && joust_outbox_pop(c->outbox, &list)) {
        uint64_t batch = c->waiting[0];
        memmove(c->waiting, c->waiting + 1, --c->n_waiting * sizeof(*c->waiting));
        for (size_t i = 0; i < list.n && here; i++)
            here = perform(w, c, &list, &list.items[i], batch);
    }
    joust_actions_fini(&list);
}

static void start_sync(sim_world *w, sim_coordinator *c)
{
    if (c->syncing || w->disk.durable == w->disk.newest)
        return;
    c->syncing = true;
    sim_after(w, 1 + (int64_t)sim_draw(w, 12),
              &(sim_event){.what = SIM_SYNCED, .life = c->life, .batch = w->disk.newest});
}

/* Appends one WRITE to the step's batch. */
static void write_event(sim_world *w, const sim_coordinator *c, const joust_actions *list,
                        const joust_action *action, uint64_t batch)
{
    joust_span bytes = joust_action_bytes(list, action);
    joust_error err;
    joust_buf snapshot = {0};
    sim_disk_add_event(w, bytes, batch);
    if (joust_core_replay(w->mirror, bytes.data, bytes.n, &err) != JOUST_OK)
        sim_violate(w, "an event can't be replayed: %s", err.text);
    if (!action->snapshot)
        return;
    if (joust_core_encode(c->core, &snapshot, &err) == JOUST_OK)
        sim_disk_add_snapshot(w, (joust_span){.data = snapshot.data, .n = snapshot.n},
                              joust_core_events(c->core), batch);
    else
        sim_violate(w, "snapshot: %s", err.text);
    joust_buf_fini(&snapshot);
}

static void put_record(sim_world *w, const joust_unit_key *unit, const sim_record *record,
                       uint64_t batch)
{
    joust_stage_kind kind = w->plan->stages[unit->stage].kind;
    sim_record r = *record;
    if (sim_planted(w, JOUST_PLANT_DROP_VERDICT) && kind == JOUST_STAGE_JUDGE &&
        sim_draw(w, 50) == 0)
        r.n--;
    sim_disk_put(w, unit, &r, batch);
    if (sim_planted(w, JOUST_PLANT_REPEAT_PAIR) && kind == JOUST_STAGE_PAIR && r.n)
        sim_disk_put(w, unit, &r, batch);
}

/* The step's batch; its number, or 0 if it writes nothing. false: the disk has refused a superseded coordinator. */
static bool write_batch(sim_world *w, sim_coordinator *c, const joust_actions *list,
                        const joust_core_event *event, const sim_record *record, uint64_t *ret)
{
    *ret = 0;
    for (size_t i = 0; i < list->n; i++) {
        const joust_action *action = &list->items[i];
        if (action->kind != JOUST_ACTION_WRITE)
            continue;
        if (c->epoch < w->disk.epoch && !sim_planted(w, JOUST_PLANT_LOWER_EPOCH))
            return false;
        if (c->epoch < w->disk.epoch) {
            sim_violate(w, "the coordinator of epoch %llu writes after epoch %llu has begun",
                        (unsigned long long)c->epoch, (unsigned long long)w->disk.epoch);
            return false;
        }
        if (!*ret)
            *ret = ++w->disk.newest;
        if (action->records && event->kind == JOUST_EVENT_RESULT)
            put_record(w, &event->u.result.id.unit, record, *ret);
        else if (action->records && event->kind == JOUST_EVENT_LOCAL_DONE)
            put_record(w, &event->u.local.unit, record, *ret);
        write_event(w, c, list, action, *ret);
    }
    return true;
}

/* Faults of a shell that doesn't wait: some actions are done at once. */
static void act_early(sim_world *w, sim_coordinator *c, joust_actions *list, uint64_t batch)
{
    for (size_t i = 0; i < list->n && batch; i++) {
        joust_action *action = &list->items[i];
        bool ack = action->kind == JOUST_ACTION_ACK;
        bool other = action->kind == JOUST_ACTION_LEASE || action->kind == JOUST_ACTION_RUN_LOCAL;
        if ((ack && sim_planted(w, JOUST_PLANT_ACK_BEFORE_SYNC)) ||
            (other && sim_planted(w, JOUST_PLANT_ACT_BEFORE_COMMIT))) {
            perform(w, c, list, action, batch);
            *action = (joust_action){.kind = JOUST_ACTION_WRITE};
        }
    }
}

static joust_status push(sim_world *w, sim_coordinator *c, joust_actions *list, uint64_t batch,
                         joust_error *err)
{
    if (!joust_grow(&c->waiting, c->n_waiting, &c->waiting_capacity, sizeof(*c->waiting)))
        return joust_fail(err, JOUST_NOMEM, "simulated outbox");
    /* A step without writes is held to what was written before it. */
    uint64_t after = c->n_waiting ? c->waiting[c->n_waiting - 1] : 0;
    c->waiting[c->n_waiting++] = batch ? batch : after;
    (void)w;
    return joust_outbox_push(c->outbox, list, batch, err);
}

void sim_coordinator_step(sim_world *w, sim_coordinator *c, const joust_core_event *event,
                          const sim_record *record)
{
    joust_actions list = {0};
    joust_error err;
    uint64_t batch = 0;
    joust_status st = joust_core_step(c->core, event, w->now_ms, &list, &err);
    w->result->steps++;
    if (st == JOUST_OK && !write_batch(w, c, &list, event, record, &batch)) {
        joust_actions_fini(&list);
        sim_coordinator_drop(c); /* fenced */
        return;
    }
    if (st == JOUST_OK && batch)
        sim_check_replay(w, c->core);
    act_early(w, c, &list, batch);
    if (st == JOUST_OK)
        st = push(w, c, &list, batch, &err);
    joust_actions_fini(&list);
    if (st != JOUST_OK) {
        sim_violate(w, "step: %s", err.text);
        return;
    }
    sim_check_step(w, c);
    start_sync(w, c);
    drain(w, c);
    if (batch && c == &w->coordinator && c->alive && sim_chance(w, 6)) {
        sim_upset(w, JOUST_UPSET_WRITE_KILL);
        sim_coordinator_kill(w, false);
    }
}

static bool receive_result(sim_world *w, sim_coordinator *c, const sim_message *m,
                           joust_core_event *event)
{
    const joust_unit_key *unit = &m->id.unit;
    joust_stage_kind kind = w->plan->stages[unit->stage].kind;
    bool model = kind == JOUST_STAGE_TRAIN || kind == JOUST_STAGE_INIT;
    event->kind = JOUST_EVENT_RESULT;
    event->u.result = (joust_core_result){.id = m->id,
                                          .content = sim_content(&m->record, kind),
                                          .n_trajectories = m->record.n,
                                          .version = model ? m->record.version : 0};
    joust_unit_state state = joust_core_unit(c->core, unit);
    if (state != JOUST_UNIT_QUEUED && state != JOUST_UNIT_LEASED)
        return true;
    sim_disk_cell(w, unit)->expected = event->u.result.content;
    if (!model || c->epoch < w->disk.epoch)
        return true;
    /* The weights were sent ahead, chunk by chunk, and are synced before the result counts. */
    w->disk.models[m->record.version].present = true;
    w->disk.models[m->record.version].weights = m->record.weights;
    w->disk.models[m->record.version].synced = !sim_planted(w, JOUST_PLANT_UNSYNCED_MODEL);
    return true;
}

void sim_coordinator_receive(sim_world *w, sim_coordinator *c, const sim_message *m)
{
    joust_core_event event = {.peer = handle_of(m->peer, m->instance), .epoch = m->epoch};
    joust_unit_key holding[SIM_CREDIT];
    joust_progress units[SIM_CREDIT];
    char name[32], why[] = "it was made to fail";
    memcpy(units, m->units, sizeof units);
    for (uint32_t i = 0; i < m->n_units; i++)
        holding[i] = m->units[i].unit;
    switch (m->type) {
    case JOUST_MSG_HELLO:
        snprintf(name, sizeof name, "peer-%u", m->peer);
        event.kind = JOUST_EVENT_HELLO;
        event.u.hello = (joust_core_hello){.version = JOUST_PROTOCOL_VERSION,
                                           .role = w->peers[m->peer].role,
                                           .name = name,
                                           .numeric_class = "simulated-1",
                                           .instance = m->instance,
                                           /* In half of the worlds there is one trainer. */
                                           .can_train = m->peer == 0 || w->options->seed % 2,
                                           .credit = SIM_CREDIT,
                                           .n_holding = m->n_units,
                                           .holding = holding};
        break;
    case JOUST_MSG_HEARTBEAT:
        event.kind = JOUST_EVENT_HEARTBEAT;
        event.u.heartbeat = (joust_msg_heartbeat){.n_progress = m->n_units, .progress = units};
        break;
    case JOUST_MSG_FAILED:
        event.kind = JOUST_EVENT_FAILED;
        event.u.failed = (joust_msg_failed){.id = m->id, .code = m->status, .text = why};
        break;
    case JOUST_MSG_TRAIN_PROGRESS:
        event.kind = JOUST_EVENT_PROGRESS;
        event.u.progress = (joust_msg_train_progress){.id = m->id, .step = m->step};
        memcpy(event.u.progress.state.bytes, &m->state, sizeof m->state);
        break;
    default:
        receive_result(w, c, m, &event);
        break;
    }
    sim_coordinator_step(w, c, &event, &m->record);
}

static void tick(sim_world *w, sim_coordinator *c)
{
    joust_core_event event = {.kind = JOUST_EVENT_TICK};
    sim_message beat = {.type = JOUST_MSG_HEARTBEAT, .epoch = c->epoch};
    c->tick_ms = w->now_ms;
    for (uint32_t i = 0; i < joust_core_peers(c->core); i++) {
        uint64_t handle = joust_core_peer(c->core, i).peer;
        beat.peer = (uint32_t)(handle & 255);
        beat.instance = handle >> 8;
        sim_send(w, &beat, true);
    }
    sim_after(w, SIM_BEAT_MS, &(sim_event){.what = SIM_TICK, .life = c->life});
    sim_coordinator_step(w, c, &event, NULL);
}

static void synced(sim_world *w, sim_coordinator *c, uint64_t batch)
{
    c->syncing = false;
    if (c->epoch < w->disk.epoch && !sim_planted(w, JOUST_PLANT_LOWER_EPOCH)) {
        sim_coordinator_drop(c); /* the store tells it that it is superseded */
        return;
    }
    if (batch > w->disk.durable)
        w->disk.durable = batch;
    sim_check_durable(w);
    joust_outbox_committed(c->outbox, batch);
    start_sync(w, c);
    drain(w, c);
}

void sim_coordinator_event(sim_world *w, const sim_event *event)
{
    sim_coordinator *c =
        w->zombie.alive && w->zombie.life == event->life ? &w->zombie : &w->coordinator;
    joust_core_event done = {.kind = JOUST_EVENT_LOCAL_DONE};
    sim_record record;
    if (!c->alive || c->life != event->life)
        return;
    switch (event->what) {
    case SIM_TICK:
        tick(w, c);
        break;
    case SIM_SYNCED:
        synced(w, c, event->batch);
        break;
    default:
        sim_compute_local(w, event, &record, &done.u.local);
        sim_coordinator_step(w, c, &done, &record);
        break;
    }
}
