/* Steps of the core and what follows from them. */
#include <stdio.h>
#include <string.h>

#include "coordinator/coordinator_internal.h"
#include "coordinator/result_check.h"
#include "proto/base/log.h"

void joust_coordinator_fail(joust_coordinator *c, joust_status status, const joust_error *err)
{
    if (c->status == JOUST_OK) {
        c->status = status;
        c->err = *err;
        joust_log_error("coordinator", "stops: %s", err->text);
    }
    joust_loop_stop(c->loop);
}

/* Events and snapshots of the step's WRITE actions into the batch. *ret_records: the event's records belong there too. */
static joust_status write_events(joust_coordinator *c, const joust_actions *actions,
                                 bool *ret_wrote, bool *ret_records, joust_error *err)
{
    joust_batch *batch = joust_committer_batch(c->committer);
    *ret_wrote = *ret_records = false;
    for (size_t i = 0; i < actions->n; i++) {
        const joust_action *a = &actions->items[i];
        if (a->kind != JOUST_ACTION_WRITE)
            continue;
        joust_span event = joust_action_bytes(actions, a);
        joust_status st = joust_batch_append_event(batch, c->next_event, event.data, event.n, err);
        if (st != JOUST_OK)
            return st;
        *ret_wrote = true;
        *ret_records |= a->records;
        if (a->snapshot) {
            joust_buf state = {0};
            st = joust_core_encode(c->core, &state, err);
            if (st == JOUST_OK)
                st = joust_batch_put_snapshot(batch, c->next_event, state.data, state.n, err);
            joust_buf_fini(&state);
        }
        c->next_event++;
        if (st != JOUST_OK)
            return st;
    }
    return JOUST_OK;
}

void joust_coordinator_step(joust_coordinator *c, const joust_core_event *event, joust_put_fn *put,
                            void *records)
{
    if (c->status != JOUST_OK)
        return;
    joust_error err;
    joust_actions actions = {0};
    bool wrote = false, takes_records = false;
    uint64_t sequence = joust_committer_sequence(c->committer);
    joust_status st = joust_core_step(c->core, event, joust_loop_now(c->loop), &actions, &err);
    if (st == JOUST_OK)
        st = joust_actions_status(&actions, &err);
    if (st == JOUST_OK)
        st = write_events(c, &actions, &wrote, &takes_records, &err);
    if (st == JOUST_OK && takes_records && put)
        st = put(c, records, &err);
    if (st == JOUST_OK)
        st = joust_served_record_leases(c, &actions, &wrote, &err);
    if (st == JOUST_OK && actions.n)
        st = joust_outbox_push(c->outbox, &actions, wrote ? sequence : 0, &err);
    joust_actions_fini(&actions);
    if (st != JOUST_OK)
        joust_coordinator_fail(c, st, &err);
    else
        joust_coordinator_pump(c);
    joust_served_check_budgets(c);
}

static void send_revoke(joust_coordinator *c, const joust_action *a)
{
    joust_unit_id id = a->id;
    joust_message m = {.type = JOUST_MSG_REVOKE, .u.units = {.n = 1, .units = &id}};
    joust_coordinator_send(c, a->peer, &m);
}

static void send_hello_ack(joust_coordinator *c, const joust_action *a)
{
    joust_message m = {.type = JOUST_MSG_HELLO_ACK};
    m.u.hello_ack = (joust_msg_hello_ack){.epoch = joust_core_epoch(c->core),
                                          .job_digest = c->job_digest,
                                          .n_job = (uint32_t)c->job_bytes.n,
                                          .job = c->job_bytes.data,
                                          .heartbeat_ms = c->job->cluster.heartbeat_ms,
                                          .grace_ms = c->job->cluster.grace_ms};
    joust_coordinator_send(c, a->peer, &m);
}

static void send_progress_ack(joust_coordinator *c, const joust_action *a)
{
    joust_message m = {.type = JOUST_MSG_PROGRESS_ACK,
                       .u.progress_ack = {.id = a->id, .step = a->step}};
    joust_coordinator_send(c, a->peer, &m);
}

static void check_same(joust_coordinator *c, const joust_action *a)
{
    joust_error err;
    if (joust_served_stage(c, a->id.unit.stage)) { /* asked twice, answered otherwise: the recorded one stands */
        joust_status sent = joust_coordinator_send_ack(c, a, &err);
        if (sent != JOUST_OK)
            joust_coordinator_fail(c, sent, &err);
        return;
    }
    joust_digest stored;
    uint64_t version = joust_plan_out_version(&c->plan, a->id.unit.round, a->id.unit.stage);
    joust_status st = joust_result_stored(&c->sources, &a->id.unit, version, &stored, &err);
    if (st != JOUST_OK) {
        joust_coordinator_fail(c, st, &err);
        return;
    }
    if (joust_digest_equal(&stored, &a->content)) {
        st = joust_coordinator_send_ack(c, a, &err);
        if (st != JOUST_OK)
            joust_coordinator_fail(c, st, &err);
        return;
    }
    char text[256];
    snprintf(text, sizeof(text),
             "its result of round %u stage %s position %llu differs from the recorded one: the "
             "numbers of its machine can't be trusted",
             a->id.unit.round, c->plan.stages[a->id.unit.stage].name,
             (unsigned long long)a->id.unit.position);
    joust_core_event event = {.kind = JOUST_EVENT_PEER_BAD, .peer = a->peer, .text = text};
    joust_coordinator_step(c, &event, NULL, NULL);
}

static void stage_done(joust_coordinator *c, const joust_action *a)
{
    joust_error err;
    const joust_stage *stage = &c->plan.stages[a->id.unit.stage];
    joust_log_info("stage", "round %u %s %s", a->id.unit.round, stage->name,
                   a->skipped ? "skipped" : "done");
    if (stage->kind == JOUST_STAGE_TRAIN)
        joust_coordinator_close_rows(c);
    joust_status st = joust_coordinator_summarise(c, a->id.unit.round, a->id.unit.stage, &err);
    if (st != JOUST_OK)
        joust_coordinator_fail(c, st, &err);
}

static void job_done(joust_coordinator *c, const joust_action *a, const char *text)
{
    joust_error err;
    joust_status st = JOUST_OK;
    if (a->status == JOUST_OK) {
        st = joust_coordinator_export_models(c, &err);
        joust_log_info("job", "complete");
    } else {
        joust_log_error("job", "failed: %s", text);
    }
    if (st != JOUST_OK) {
        joust_coordinator_fail(c, st, &err);
        return;
    }
    joust_fail(&c->err, a->status, "%s", text);
    c->stopping = true;
}

/* What waits for others of its kind. */
static bool is_gathered(const joust_action *a)
{
    return a->kind == JOUST_ACTION_LEASE || (a->kind == JOUST_ACTION_ACK && !a->step) ||
           a->kind == JOUST_ACTION_CHECK_SAME;
}

static void act(joust_coordinator *c, const joust_actions *list, const joust_action *a)
{
    const char *text = joust_action_text(list, a);
    joust_link *link;
    joust_error err;
    joust_status st = JOUST_OK;
    if (a->peer && !is_gathered(a))
        joust_coordinator_flush_peer(c, a->peer); /* order towards a peer is kept */
    switch (a->kind) {
    case JOUST_ACTION_HELLO_ACK:
        send_hello_ack(c, a);
        break;
    case JOUST_ACTION_LEASE:
        st = joust_coordinator_send_lease(c, a, &err);
        break;
    case JOUST_ACTION_REVOKE:
        send_revoke(c, a);
        break;
    case JOUST_ACTION_ACK:
        if (a->step)
            send_progress_ack(c, a);
        else
            st = joust_coordinator_send_ack(c, a, &err);
        break;
    case JOUST_ACTION_CHECK_SAME:
        check_same(c, a);
        break;
    case JOUST_ACTION_ERROR:
    case JOUST_ACTION_GOODBYE:
        if ((link = joust_coordinator_link_of(c, a->peer)))
            joust_coordinator_send_text(
                c, &link->id, a->kind == JOUST_ACTION_ERROR ? JOUST_MSG_ERROR : JOUST_MSG_GOODBYE,
                a->status, text);
        if (a->kind == JOUST_ACTION_GOODBYE)
            joust_coordinator_unlink(c, a->peer);
        break;
    case JOUST_ACTION_RUN_LOCAL:
        *joust_actions_add(&c->locals, a->kind) = *a;
        st = joust_actions_status(&c->locals, &err);
        break;
    case JOUST_ACTION_STAGE_DONE:
        joust_coordinator_flush(c); /* its figures take time */
        stage_done(c, a);
        break;
    case JOUST_ACTION_ROUND_DONE:
        joust_log_info("round", "round %u done", a->id.unit.round);
        break;
    case JOUST_ACTION_JOB_DONE:
        job_done(c, a, text);
        break;
    case JOUST_ACTION_WARN:
        joust_log_warn("core", "%s", text);
        break;
    case JOUST_ACTION_FENCED:
        joust_fail(&c->err, JOUST_FENCED, "%s", text);
        joust_log_error("coordinator", "superseded: %s", text);
        joust_loop_stop(c->loop);
        break;
    case JOUST_ACTION_WRITE:
    case JOUST_ACTION_KINDS:
        break;
    }
    if (st != JOUST_OK)
        joust_coordinator_fail(c, st, &err);
}

/* Acknowledgements and leases leave first: peers need not wait while units are computed here. */
static void run_locals(joust_coordinator *c)
{
    joust_actions locals = c->locals;
    c->locals = (joust_actions){0};
    for (size_t i = 0; i < locals.n && c->status == JOUST_OK; i++)
        joust_coordinator_run_local(c, &locals.items[i]);
    joust_actions_fini(&locals);
}

void joust_coordinator_pump(joust_coordinator *c)
{
    if (c->pumping) /* an action stepped the core: the outer call goes on with what that released */
        return;
    c->pumping = true;
    joust_actions list = {0};
    do {
        while (c->status == JOUST_OK && joust_outbox_pop(c->outbox, &list))
            for (size_t i = 0; i < list.n && c->status == JOUST_OK; i++)
                act(c, &list, &list.items[i]);
        joust_coordinator_flush(c);
        run_locals(c);
    } while (c->status == JOUST_OK && c->locals.n);
    joust_actions_fini(&list);
    c->pumping = false;
}
