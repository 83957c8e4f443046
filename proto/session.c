#include "proto/session.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/session_internal.h"

#define SILENT_HEARTBEATS 3 /* without a word from the coordinator: HELLO again */

static joust_status check_options(const joust_session_options *o, joust_error *err)
{
    if (!o->name || !*o->name || strlen(o->name) >= JOUST_MAX_NAME_BYTES)
        return joust_fail(err, JOUST_INVALID, "session: a name of 1 … %u bytes is needed",
                          JOUST_MAX_NAME_BYTES - 1);
    if (o->credit == 0 || o->credit > JOUST_MAX_UNITS)
        return joust_fail(err, JOUST_INVALID, "session: credit %u, expected 1 … %u", o->credit,
                          JOUST_MAX_UNITS);
    if (o->heartbeat_ms == 0 || o->grace_ms == 0)
        return joust_fail(err, JOUST_INVALID, "session: heartbeat and grace must be above 0");
    return JOUST_OK;
}

joust_status joust_session_create(const joust_session_options *options, int64_t now_ms,
                                  joust_session **ret, joust_error *err)
{
    joust_status st = check_options(options, err);
    if (st != JOUST_OK)
        return st;
    joust_session *s = joust_calloc(1, sizeof(*s));
    if (!s)
        return joust_fail(err, JOUST_NOMEM, "session: out of memory");
    s->options = *options;
    s->options.name = s->options.host = s->options.numeric_class = NULL;
    snprintf(s->name, sizeof(s->name), "%s", options->name);
    snprintf(s->host, sizeof(s->host), "%s", options->host ? options->host : "");
    snprintf(s->class, sizeof(s->class), "%s",
             options->numeric_class ? options->numeric_class : "");
    s->state = JOUST_SESSION_DISCONNECTED;
    s->heartbeat_ms = options->heartbeat_ms;
    s->grace_ms = options->grace_ms;
    s->heard_ms = now_ms;
    s->units = joust_calloc(options->credit, sizeof(*s->units));
    s->keys = joust_calloc(options->credit, sizeof(*s->keys));
    s->progress = joust_calloc(options->credit, sizeof(*s->progress));
    if (!s->units || !s->keys || !s->progress) {
        joust_session_free(&s);
        return joust_fail(err, JOUST_NOMEM, "session: out of memory");
    }
    *ret = s;
    return JOUST_OK;
}

void joust_session_free(joust_session **session)
{
    joust_session *s = *session;
    if (!s)
        return;
    for (uint32_t i = 0; s->units && i < s->n_held; i++)
        joust_unit_result_fini(&s->units[i].result);
    joust_free(s->units);
    joust_free(s->failed);
    joust_free(s->keys);
    joust_free(s->progress);
    joust_free(s->servers);
    joust_free(s);
    *session = NULL;
}

joust_session_state joust_session_get_state(const joust_session *s)
{
    return s->state;
}

uint64_t joust_session_epoch(const joust_session *s)
{
    return s->epoch;
}

uint64_t joust_session_hellos(const joust_session *s)
{
    return s->hellos;
}

joust_status joust_session_reason(const joust_session *s, const char **ret_text)
{
    if (ret_text)
        *ret_text = s->reason_text;
    return s->state == JOUST_SESSION_GONE ? s->reason : JOUST_OK;
}

uint32_t joust_session_held(const joust_session *s)
{
    return s->n_held;
}

/* --------------------------------------------------------------------------------------- events */

static void note_reason(joust_session *s, joust_status reason, const char *text)
{
    s->reason = reason;
    snprintf(s->reason_text, sizeof(s->reason_text), "%s", text);
}

/* What entering a state does. */
static void enter(joust_session *s, joust_session_state state, int64_t now_ms)
{
    bool moved = state != s->state;
    s->state = state;
    s->offered = JOUST_OFFER_NONE;
    if (state == JOUST_SESSION_HELLO_SENT)
        s->next_hello_ms = now_ms;
    if (state == JOUST_SESSION_DRAINING && moved)
        s->credit_due = true;
    if (state == JOUST_SESSION_GONE && moved)
        s->n_failed = 0;
}

/* Errors: JOUST_INVALID: the event is illegal in this state, which stays. */
static joust_status step(joust_session *s, joust_session_event event, int64_t now_ms,
                         joust_error *err)
{
    joust_session_state state = joust_session_table(s->state, event);
    if (state == JOUST_SESSION_STATE_N)
        return joust_fail(err, JOUST_INVALID, "%s is not expected in %s",
                          joust_session_event_name(event), joust_session_state_name(s->state));
    if (state == JOUST_SESSION_GONE && s->state != JOUST_SESSION_GONE && s->reason == JOUST_OK)
        note_reason(s, JOUST_END, joust_session_event_name(event));
    enter(s, state, now_ms);
    return JOUST_OK;
}

/* A step of our own making: illegal ones are simply not due in this state. */
static void step_if_legal(joust_session *s, joust_session_event event, int64_t now_ms)
{
    if (joust_session_table(s->state, event) != JOUST_SESSION_STATE_N &&
        step(s, event, now_ms, NULL) != JOUST_OK)
        note_reason(s, JOUST_BUG, "session table");
}

void joust_session_link(joust_session *s, bool up, int64_t now_ms)
{
    step_if_legal(s, up ? JOUST_SESSION_EV_LINK_UP : JOUST_SESSION_EV_LINK_DOWN, now_ms);
}

void joust_session_drain(joust_session *s, int64_t now_ms)
{
    step_if_legal(s, JOUST_SESSION_EV_DRAIN, now_ms);
}

void joust_session_refuse(joust_session *s, joust_status status, const char *text, int64_t now_ms)
{
    if (joust_session_table(s->state, JOUST_SESSION_EV_REFUSED) == JOUST_SESSION_STATE_N)
        return;
    step_if_legal(s, JOUST_SESSION_EV_REFUSED, now_ms);
    note_reason(s, status, text);
}

static joust_status receive_hello_ack(joust_session *s, const joust_message *m, int64_t now_ms,
                                      joust_error *err)
{
    const joust_msg_hello_ack *ack = &m->u.hello_ack;
    if (ack->epoch != m->epoch)
        return joust_fail(err, JOUST_INVALID, "HELLO_ACK of epoch %llu in an envelope of %llu",
                          (unsigned long long)ack->epoch, (unsigned long long)m->epoch);
    if (!joust_digest_is_zero(&s->job) && !joust_digest_equal(&s->job, &ack->job_digest))
        return joust_fail(err, JOUST_CONFLICT, "HELLO_ACK for another job than this peer's");
    joust_status st = step(s, JOUST_SESSION_EV_HELLO_ACK, now_ms, err);
    if (st != JOUST_OK)
        return st;
    s->epoch = m->epoch;
    s->job = ack->job_digest;
    s->hellos++;
    s->heartbeat_ms = ack->heartbeat_ms ? ack->heartbeat_ms : s->heartbeat_ms;
    s->grace_ms = ack->grace_ms ? ack->grace_ms : s->grace_ms;
    s->next_heartbeat_ms = now_ms + s->heartbeat_ms;
    s->credit_due = s->state == JOUST_SESSION_DRAINING;
    s->servers_due = s->n_servers > 0;
    for (uint32_t i = 0; i < s->n_held; i++)
        s->units[i].sent = false;
    return JOUST_OK;
}

static void release_acknowledged(joust_session *s, const joust_msg_units *units)
{
    for (uint32_t i = 0; i < units->n; i++) {
        joust_held *h = joust_session_find(s, &units->units[i].unit);
        if (h && h->finished) /* durable, whichever attempt it was: both are equal */
            joust_session_release(s, h);
    }
}

/* Leases only grow: an older one's end says nothing of the newer. Lease 0 is whichever the peer
 * believes to have. */
static void release_revoked(joust_session *s, const joust_msg_units *units)
{
    for (uint32_t i = 0; i < units->n; i++) {
        joust_held *h = joust_session_find(s, &units->units[i].unit);
        if (h && (units->units[i].lease == 0 || units->units[i].lease >= h->id.lease))
            joust_session_release(s, h);
    }
}

/* An ERROR ends the session if it gives the peer up, and asks for a HELLO if it says that the peer
 * isn't known. */
static joust_session_event event_of_error(joust_status code)
{
    if (code == JOUST_STALE)
        return JOUST_SESSION_EV_STRANGER;
    return joust_status_scope(code) < JOUST_SCOPE_PEER ? JOUST_SESSION_EV_MESSAGE
                                                       : JOUST_SESSION_EV_REFUSED;
}

static joust_status receive_text(joust_session *s, const joust_message *m, int64_t now_ms,
                                 joust_error *err)
{
    joust_status code = (joust_status)m->u.text.code;
    joust_session_event event =
        m->type == JOUST_MSG_GOODBYE ? JOUST_SESSION_EV_GOODBYE : event_of_error(code);
    joust_status st = step(s, event, now_ms, err);
    if (st == JOUST_OK && s->state == JOUST_SESSION_GONE)
        note_reason(s, code == JOUST_OK ? JOUST_END : code, m->u.text.text ? m->u.text.text : "");
    return st;
}

static bool is_for_peers(joust_message_type type)
{
    switch (type) {
    case JOUST_MSG_HELLO_ACK:
    case JOUST_MSG_HEARTBEAT:
    case JOUST_MSG_GOODBYE:
    case JOUST_MSG_ERROR:
    case JOUST_MSG_LEASE:
    case JOUST_MSG_REVOKE:
    case JOUST_MSG_RESULT_ACK:
    case JOUST_MSG_ROWS:
    case JOUST_MSG_CHUNK_MISSING:
    case JOUST_MSG_CHUNK_ACK:
    case JOUST_MSG_CHUNK:
    case JOUST_MSG_PROGRESS_ACK:
        return true;
    default:
        return false;
    }
}

joust_status joust_session_receive(joust_session *s, const joust_message *m, int64_t now_ms,
                                   joust_error *err)
{
    if (!is_for_peers(m->type))
        return joust_fail(err, JOUST_INVALID, "%s isn't a message to a peer",
                          joust_message_name(m->type));
    if (m->epoch < s->epoch) {
        joust_status st = step(s, JOUST_SESSION_EV_LOWER_EPOCH, now_ms, err);
        return st != JOUST_OK
                   ? st
                   : joust_fail(err, JOUST_STALE, "%s of epoch %llu, superseded by epoch %llu",
                                joust_message_name(m->type), (unsigned long long)m->epoch,
                                (unsigned long long)s->epoch);
    }
    joust_status st;
    if (m->type == JOUST_MSG_HELLO_ACK) {
        st = receive_hello_ack(s, m, now_ms, err);
    } else if (m->type == JOUST_MSG_ERROR || m->type == JOUST_MSG_GOODBYE) {
        st = receive_text(s, m, now_ms, err);
    } else if (m->epoch > s->epoch || s->hellos == 0) {
        /* A coordinator that doesn't know us: it must have our HELLO before anything else. */
        st = step(s, JOUST_SESSION_EV_STRANGER, now_ms, err);
        if (st == JOUST_OK)
            st = joust_fail(err, JOUST_INVALID, "%s before HELLO_ACK", joust_message_name(m->type));
        return st;
    } else {
        st = step(s, JOUST_SESSION_EV_MESSAGE, now_ms, err);
    }
    if (st != JOUST_OK)
        return st;
    s->heard_ms = now_ms;
    if (m->type == JOUST_MSG_RESULT_ACK)
        release_acknowledged(s, &m->u.units);
    else if (m->type == JOUST_MSG_REVOKE)
        release_revoked(s, &m->u.units);
    return JOUST_OK;
}

/* ----------------------------------------------------------------------------------------- next */

static int64_t silent_at(const joust_session *s)
{
    return s->heard_ms + (int64_t)SILENT_HEARTBEATS * s->heartbeat_ms;
}

static int64_t grace_over_at(const joust_session *s)
{
    return s->heard_ms + s->grace_ms;
}

static void pass_time(joust_session *s, int64_t now_ms)
{
    bool linked = s->state == JOUST_SESSION_READY || s->state == JOUST_SESSION_DRAINING;
    if (linked && now_ms >= silent_at(s)) {
        step_if_legal(s, JOUST_SESSION_EV_SILENCE, now_ms);
    } else if (joust_session_table(s->state, JOUST_SESSION_EV_GRACE_OVER) == JOUST_SESSION_GONE &&
               now_ms >= grace_over_at(s)) {
        note_reason(s, JOUST_TIMEOUT, "no coordinator for the grace time");
        step_if_legal(s, JOUST_SESSION_EV_GRACE_OVER, now_ms);
    }
    if (s->state == JOUST_SESSION_DRAINING && s->n_held == 0 && s->n_failed == 0 &&
        !s->credit_due) {
        s->goodbye_due = true;
        step_if_legal(s, JOUST_SESSION_EV_EMPTY, now_ms);
    }
}

static joust_message offer_hello(joust_session *s)
{
    joust_message m = {.type = JOUST_MSG_HELLO, .epoch = s->epoch};
    joust_msg_hello *hello = &m.u.hello;
    *hello = (joust_msg_hello){.version = JOUST_PROTOCOL_VERSION,
                               .role = s->options.role,
                               .instance = s->options.instance,
                               .job = s->job,
                               .epoch = s->epoch,
                               .credit = s->options.credit,
                               .threads = s->options.threads,
                               .can_train = s->options.can_train,
                               .n_holding = s->n_held,
                               .holding = s->keys};
    memcpy(hello->name, s->name, sizeof(hello->name));
    memcpy(hello->host, s->host, sizeof(hello->host));
    memcpy(hello->numeric_class, s->class, sizeof(hello->numeric_class));
    for (uint32_t i = 0; i < s->n_held; i++)
        s->keys[i] = s->units[i].id.unit;
    return m;
}

void joust_session_servers(joust_session *s, joust_server_status **servers, uint32_t n)
{
    joust_free(s->servers);
    s->servers = *servers;
    s->n_servers = n;
    s->servers_due = n > 0;
    *servers = NULL;
}

static joust_message offer_heartbeat(joust_session *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_held; i++)
        if (!s->units[i].finished && s->units[i].done > s->units[i].told)
            s->progress[n++] =
                (joust_progress){.unit = s->units[i].id.unit, .done = s->units[i].done};
    return (joust_message){.type = JOUST_MSG_HEARTBEAT,
                           .epoch = s->epoch,
                           .u.heartbeat = {.sequence = s->sequence + 1,
                                           .n_progress = n,
                                           .progress = s->progress,
                                           .n_servers = s->servers_due ? s->n_servers : 0,
                                           .servers = s->servers}};
}

/* Index of a result that must be sent, or n_held. */
static uint32_t unsent_result(const joust_session *s)
{
    uint32_t i = 0;
    while (i < s->n_held && !(s->units[i].finished && !s->units[i].sent))
        i++;
    return i;
}

/* What is due in READY and DRAINING; the order is that of urgency. */
static joust_offer due_while_linked(joust_session *s, int64_t now_ms)
{
    if (now_ms >= s->next_heartbeat_ms)
        return JOUST_OFFER_HEARTBEAT;
    if (s->credit_due)
        return JOUST_OFFER_CREDIT;
    s->offered_unit = unsent_result(s);
    if (s->offered_unit < s->n_held)
        return JOUST_OFFER_RESULT;
    return s->n_failed ? JOUST_OFFER_FAILED : JOUST_OFFER_NONE;
}

static joust_offer what_is_due(joust_session *s, int64_t now_ms)
{
    switch (s->state) {
    case JOUST_SESSION_HELLO_SENT:
        return now_ms >= s->next_hello_ms ? JOUST_OFFER_HELLO : JOUST_OFFER_NONE;
    case JOUST_SESSION_READY:
    case JOUST_SESSION_DRAINING:
        return due_while_linked(s, now_ms);
    case JOUST_SESSION_GONE:
        return s->goodbye_due ? JOUST_OFFER_GOODBYE : JOUST_OFFER_NONE;
    default:
        return JOUST_OFFER_NONE;
    }
}

joust_status joust_session_next(joust_session *s, int64_t now_ms, joust_message *ret)
{
    pass_time(s, now_ms);
    s->offered = what_is_due(s, now_ms);
    joust_message m = {.epoch = s->epoch};
    switch (s->offered) {
    case JOUST_OFFER_NONE:
        return JOUST_AGAIN;
    case JOUST_OFFER_HELLO:
        m = offer_hello(s);
        break;
    case JOUST_OFFER_HEARTBEAT:
        m = offer_heartbeat(s);
        break;
    case JOUST_OFFER_CREDIT:
        m.type = JOUST_MSG_CREDIT; /* 0: the peer is leaving */
        break;
    case JOUST_OFFER_RESULT:
        m.type = JOUST_MSG_RESULT;
        m.u.result = (joust_msg_result){.n = 1, .units = &s->units[s->offered_unit].result};
        s->units[s->offered_unit].result.provenance.epoch = s->epoch;
        break;
    case JOUST_OFFER_FAILED:
        m.type = JOUST_MSG_FAILED;
        m.u.failed = (joust_msg_failed){
            .id = s->failed[0].id, .code = s->failed[0].code, .text = s->failed[0].text};
        break;
    case JOUST_OFFER_GOODBYE:
        m.type = JOUST_MSG_GOODBYE;
        m.u.text = (joust_msg_text){.code = JOUST_END, .text = s->reason_text};
        break;
    }
    *ret = m;
    return JOUST_OK;
}

static void sent_heartbeat(joust_session *s, int64_t now_ms)
{
    s->sequence++;
    s->servers_due = false;
    s->next_heartbeat_ms = now_ms + s->heartbeat_ms;
    for (uint32_t i = 0; i < s->n_held; i++)
        s->units[i].told = s->units[i].done;
}

void joust_session_sent(joust_session *s, int64_t now_ms)
{
    switch (s->offered) {
    case JOUST_OFFER_HELLO:
        s->next_hello_ms = now_ms + s->heartbeat_ms;
        break;
    case JOUST_OFFER_HEARTBEAT:
        sent_heartbeat(s, now_ms);
        break;
    case JOUST_OFFER_CREDIT:
        s->credit_due = false;
        break;
    case JOUST_OFFER_RESULT:
        s->units[s->offered_unit].sent = true;
        break;
    case JOUST_OFFER_FAILED:
        memmove(&s->failed[0], &s->failed[1], --s->n_failed * sizeof(*s->failed));
        break;
    case JOUST_OFFER_GOODBYE:
        s->goodbye_due = false;
        break;
    case JOUST_OFFER_NONE:
        break;
    }
    s->offered = JOUST_OFFER_NONE;
}

int64_t joust_session_wake_at(const joust_session *s)
{
    switch (s->state) {
    case JOUST_SESSION_DISCONNECTED:
        return grace_over_at(s);
    case JOUST_SESSION_HELLO_SENT:
        return s->next_hello_ms < grace_over_at(s) ? s->next_hello_ms : grace_over_at(s);
    case JOUST_SESSION_READY:
    case JOUST_SESSION_DRAINING:
        return s->next_heartbeat_ms < silent_at(s) ? s->next_heartbeat_ms : silent_at(s);
    default:
        return INT64_MAX;
    }
}
