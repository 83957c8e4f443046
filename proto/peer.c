#include "proto/peer.h"

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/peer_internal.h"

#define ACTOR_CAPACITY   256u
#define PROGRESS_MS      200  /* at most this old when a heartbeat carries it */
#define LEAVE_MS         1500 /* after a signal the process ends within this */
#define GOODBYE_FLUSH_MS 20   /* for the last message to leave */
#define FULL_MS          100  /* between attempts where the link takes nothing */

/* ---- ending --------------------------------------------------------------------------------- */

void joust_peer_stop(joust_peer *p, joust_status status, const char *text)
{
    if (p->stopped)
        return;
    p->stopped = true;
    p->result = status == JOUST_OK ? JOUST_OK : joust_fail(&p->err, status, "%s", text);
    joust_mailbox_interrupt(&p->box);
    joust_loop_stop(p->loop);
}

void joust_peer_stop_on_error(joust_peer *p, joust_status status, const joust_error *err)
{
    if (status != JOUST_OK)
        joust_peer_stop(p, status, err->text);
}

static void left(void *arg)
{
    joust_peer_stop(arg, JOUST_OK, "");
}

/* Sends what is ready and a goodbye, and ends soon after. */
void joust_peer_say_goodbye(joust_peer *p)
{
    char text[] = "the process was asked to end";
    joust_message m = {.type = JOUST_MSG_GOODBYE,
                       .epoch = joust_session_epoch(p->session),
                       .u.text = {.code = JOUST_OK, .text = text}};
    joust_error err;
    joust_peer_pump(p);
    if (p->stopped)
        return;
    if (joust_socket_send(p->socket, NULL, &m, &err) != JOUST_OK)
        joust_log_debug("peer", "goodbye not sent: %s", err.text);
    joust_peer_stop_on_error(
        p, joust_loop_add_timer(p->loop, GOODBYE_FLUSH_MS, left, p, NULL, &err), &err);
}

static void drop_queue(joust_peer *p)
{
    for (uint32_t i = 0; i < p->n_queue; i++)
        joust_lease_unit_fini(&p->queue[i]);
    p->n_queue = 0;
}

/* A signal: what is computed is delivered, the rest is left to others. */
static void on_signal(void *arg, int number)
{
    joust_peer *p = arg;
    joust_error err;
    if (number != SIGTERM && number != SIGINT)
        return;
    if (p->leaving) {
        joust_peer_stop(p, JOUST_OK, "");
        return;
    }
    joust_log_info("peer", "signal %d leaving", number);
    p->leaving = true;
    drop_queue(p);
    joust_mailbox_interrupt(&p->box);
    if (!p->running)
        joust_peer_say_goodbye(p);
    else
        joust_peer_stop_on_error(p, joust_loop_add_timer(p->loop, LEAVE_MS, left, p, NULL, &err),
                                 &err);
}

/* ---- sending -------------------------------------------------------------------------------- */

static bool is_linked(const joust_peer *p)
{
    joust_session_state state = joust_session_get_state(p->session);
    return state == JOUST_SESSION_READY || state == JOUST_SESSION_DRAINING;
}

/* A request about a unit goes out under its newest lease. */
static void renew_id(joust_peer *p, joust_message *m)
{
    joust_unit_id *id = m->type == JOUST_MSG_ROWS_GET         ? &m->u.rows_get.id
                        : m->type == JOUST_MSG_TRAIN_PROGRESS ? &m->u.progress.id
                                                              : NULL;
    joust_unit_id newest;
    if (id && joust_session_lease(p->session, &id->unit, &newest) == JOUST_OK)
        *id = newest;
}

void joust_peer_request(joust_peer *p, joust_message *m)
{
    if (!is_linked(p)) /* HELLO_ACK makes the compute thread ask again */
        return;
    assert(p->n_requests < JOUST_PEER_MAIL);
    p->requests[p->n_requests++] = *m;
    *m = (joust_message){0};
    joust_peer_pump(p);
}

static void drop_requests(joust_peer *p)
{
    for (uint32_t i = 0; i < p->n_requests; i++)
        joust_message_fini(&p->requests[i]);
    p->n_requests = 0;
}

/* Sends requests until the link is full. */
static joust_status send_requests(joust_peer *p, joust_error *err)
{
    uint32_t n = 0;
    joust_status st = JOUST_OK;
    for (; n < p->n_requests && st == JOUST_OK; n++) {
        joust_message *m = &p->requests[n];
        m->epoch = joust_session_epoch(p->session);
        renew_id(p, m);
        st = joust_socket_send(p->socket, NULL, m, err);
        if (st != JOUST_OK)
            break;
        joust_message_fini(m);
    }
    p->n_requests -= n;
    memmove(p->requests, p->requests + n, p->n_requests * sizeof(*p->requests));
    return st;
}

/* Sends what the session wants sent until the link is full. */
static joust_status send_session(joust_peer *p, joust_error *err)
{
    for (;;) {
        joust_message m;
        int64_t now = joust_clock_ms();
        joust_status st = joust_session_next(p->session, now, &m);
        if (st == JOUST_AGAIN)
            return JOUST_OK;
        if (st != JOUST_OK)
            return joust_fail(err, st, "session: %s", joust_status_text(st));
        st = joust_socket_send(p->socket, NULL, &m, err);
        if (st != JOUST_OK)
            return st;
        joust_log_write(JOUST_LOG_TRACE, "peer", "sent %s", joust_message_name(m.type));
        joust_session_sent(p->session, now);
    }
}

/* Tells the session how far work is, for the heartbeats. */
static void note_progress(joust_peer *p)
{
    uint64_t done = atomic_load(&p->progress);
    int64_t now = joust_clock_ms();
    if (done == p->told_progress || now < p->next_progress_ms)
        return;
    p->told_progress = done;
    p->next_progress_ms = now + PROGRESS_MS;
    for (uint32_t i = 0; p->running && i < p->batch.n; i++)
        if (!p->batch.closed[i])
            joust_session_progress(p->session, &p->batch.units[i].unit, done);
    for (uint32_t i = 0; i < p->n_queue; i++) /* their turn comes nearer */
        joust_session_progress(p->session, &p->queue[i].unit, done);
}

static void on_timer(void *arg)
{
    joust_peer *p = arg;
    p->timer = 0;
    joust_peer_pump(p);
}

/* full: what is due waits for the link. */
static void set_timer(joust_peer *p, bool full)
{
    joust_error err;
    int64_t delay = joust_session_wake_at(p->session) - joust_clock_ms();
    if (full && delay < FULL_MS)
        delay = FULL_MS;
    joust_loop_cancel_timer(p->loop, p->timer);
    joust_peer_stop_on_error(
        p, joust_loop_add_timer(p->loop, delay > 0 ? delay : 0, on_timer, p, &p->timer, &err),
        &err);
}

/* Brings the session up to now: sends what is due, and ends where it has ended. */
void joust_peer_pump(joust_peer *p)
{
    joust_error err;
    const char *reason = NULL;
    if (p->stopped)
        return;
    note_progress(p);
    joust_status st = send_session(p, &err);
    if (st == JOUST_OK)
        st = send_requests(p, &err);
    bool full = st == JOUST_AGAIN;
    joust_loop_want(p->loop, p->socket, JOUST_READABLE | (full ? JOUST_WRITABLE : 0u));
    if (st != JOUST_OK && st != JOUST_AGAIN && st != JOUST_UNREACHABLE) {
        joust_peer_stop(p, st, err.text);
        return;
    }
    if (joust_session_get_state(p->session) == JOUST_SESSION_GONE) {
        st = joust_session_reason(p->session, &reason);
        joust_log_info("peer", "over: %s", reason ? reason : "");
        joust_peer_stop(p, st == JOUST_END ? JOUST_OK : st, reason ? reason : "");
        return;
    }
    set_timer(p, full);
}

/* ---- receiving ------------------------------------------------------------------------------ */

static void on_hello_ack(joust_peer *p, const joust_msg_hello_ack *ack)
{
    joust_error err;
    drop_requests(p);
    joust_mailbox_again(&p->box);
    if (p->has_job)
        return;
    joust_status st = joust_job_decode(ack->job, ack->n_job, &p->job, &err);
    if (st == JOUST_OK) {
        p->has_job = true;
        st = joust_peer_begin(p, &err);
    }
    joust_peer_stop_on_error(p, st, &err);
}

static void on_lease(joust_peer *p, joust_msg_lease *lease)
{
    for (uint32_t i = 0; i < lease->n; i++) {
        joust_error err;
        joust_lease_unit *unit = &lease->units[i];
        joust_status st = joust_session_accept(p->session, unit, &err);
        if (st == JOUST_OK && p->n_queue < p->credit) {
            p->queue[p->n_queue++] = *unit;
            *unit = (joust_lease_unit){0};
        } else if (st != JOUST_EXISTS && st != JOUST_FULL) {
            joust_peer_stop_on_error(p, st, &err);
        }
    }
}

static void drop_queued(joust_peer *p, const joust_unit_key *unit)
{
    uint32_t n_left = 0;
    for (uint32_t i = 0; i < p->n_queue; i++) {
        if (joust_unit_key_equal(&p->queue[i].unit, unit))
            joust_lease_unit_fini(&p->queue[i]);
        else
            p->queue[n_left++] = p->queue[i];
    }
    p->n_queue = n_left;
}

static void on_revoke(joust_peer *p, const joust_msg_units *revoked)
{
    for (uint32_t i = 0; i < revoked->n; i++) {
        const joust_unit_key *unit = &revoked->units[i].unit;
        joust_unit_id held;
        if (joust_session_lease(p->session, unit, &held) == JOUST_OK)
            continue; /* held under a newer lease */
        uint32_t at = joust_peer_find_open(p, unit);
        if (at != JOUST_NONE)
            joust_peer_close_unit(p, at);
        drop_queued(p, unit);
    }
    if (p->running && p->batch.n > 0 && p->batch.n_closed == p->batch.n)
        joust_mailbox_interrupt(&p->box);
}

static void act(joust_peer *p, joust_message *m)
{
    switch (m->type) {
    case JOUST_MSG_HELLO_ACK:
        on_hello_ack(p, &m->u.hello_ack);
        break;
    case JOUST_MSG_LEASE:
        on_lease(p, &m->u.lease);
        break;
    case JOUST_MSG_REVOKE:
        on_revoke(p, &m->u.units);
        break;
    case JOUST_MSG_ROWS:
    case JOUST_MSG_PROGRESS_ACK:
    case JOUST_MSG_CHUNK:
    case JOUST_MSG_CHUNK_ACK:
    case JOUST_MSG_CHUNK_MISSING:
        joust_mailbox_put(&p->box, m);
        break;
    case JOUST_MSG_ERROR:
        joust_log_warn("peer", "coordinator: %s", m->u.text.text);
        break;
    default:
        break;
    }
}

static void on_socket(void *arg, uint32_t events)
{
    joust_peer *p = arg;
    (void)events;
    for (uint32_t i = 0; i < JOUST_LOOP_BATCH && !p->stopped; i++) {
        joust_peer_id from = {0};
        joust_message m = {0};
        joust_error err;
        joust_status st = joust_socket_recv(p->socket, &from, &m, &err);
        if (st == JOUST_AGAIN)
            break;
        if (st == JOUST_VERSION)
            joust_session_refuse(p->session, st, err.text, joust_clock_ms());
        if (st == JOUST_OK)
            st = joust_session_receive(p->session, &m, joust_clock_ms(), &err);
        if (st == JOUST_OK)
            act(p, &m);
        else
            joust_log_warn("peer", "message dropped: %s", err.text);
        joust_message_fini(&m);
        if (joust_status_scope(st) == JOUST_SCOPE_PROCESS)
            joust_peer_stop(p, st, err.text);
    }
    joust_peer_start_work(p);
    joust_peer_pump(p);
}

static void on_link(void *arg, joust_link_event event)
{
    joust_peer *p = arg;
    if (event == JOUST_LINK_REFUSED)
        joust_session_refuse(p->session, JOUST_DENIED,
                             "the coordinator refused the link: other keys or protocol",
                             joust_clock_ms());
    joust_session_link(p->session, event == JOUST_LINK_UP, joust_clock_ms());
    joust_peer_pump(p);
}

/* ---- opening -------------------------------------------------------------------------------- */

joust_peer_options joust_peer_options_of(const joust_role_options *start, joust_peer_role role,
                                         const char *numeric_class, uint32_t threads)
{
    return (joust_peer_options){
        .session = {.role = role,
                    .name = start->name,
                    .numeric_class = numeric_class,
                    .credit = start->credit,
                    .threads = threads,
                    .heartbeat_ms = JOUST_PEER_HEARTBEAT_MS,
                    .grace_ms = start->grace_ms ? start->grace_ms : JOUST_PEER_GRACE_MS},
        .endpoint = start->endpoint,
        .curve = start->curve,
        .signals = start->signals};
}

void joust_peer_block_signals(void)
{
    joust_loop_signals_block();
}

static joust_status open_session(joust_peer *p, const joust_peer_options *options,
                                 joust_peer_id *ret_id, joust_error *err)
{
    joust_session_options session = options->session;
    if (session.instance == 0 && getentropy(&session.instance, sizeof(session.instance)) != 0)
        return joust_fail(err, JOUST_IO, "no random bytes from the system");
    snprintf(p->name, sizeof(p->name), "%s", session.name);
    if (session.host)
        snprintf(p->host, sizeof(p->host), "%s", session.host);
    else if (gethostname(p->host, sizeof(p->host) - 1) != 0)
        return joust_fail(err, JOUST_IO, "the host has no name");
    session.host = p->host;
    p->credit = session.credit;
    p->queue = joust_calloc(session.credit, sizeof(*p->queue));
    if (!p->queue)
        return joust_fail(err, JOUST_NOMEM, "peer: out of memory");
    joust_status st = joust_peer_id_make(session.name, session.instance, ret_id, err);
    if (st == JOUST_OK)
        st = joust_session_create(&session, joust_clock_ms(), &p->session, err);
    return st;
}

static joust_status open_socket(joust_peer *p, const joust_peer_options *options,
                                const joust_peer_id *id, joust_error *err)
{
    joust_socket_options socket = {.kind = JOUST_SOCKET_DEALER,
                                   .endpoint = options->endpoint,
                                   .id = id,
                                   .curve = options->curve,
                                   .monitor = true};
    joust_status st = joust_context_create(&p->context, err);
    if (st == JOUST_OK)
        st = joust_socket_open(p->context, &socket, &p->socket, err);
    if (st == JOUST_OK)
        st = joust_loop_add_socket(p->loop, p->socket, on_socket, p, err);
    if (st == JOUST_OK)
        st = joust_loop_add_links(p->loop, p->socket, on_link, p, err);
    return st;
}

static joust_status peer_open(joust_peer *p, const joust_peer_options *options, joust_error *err)
{
    joust_peer_id id = {0};
    joust_status st = joust_loop_create(&p->loop, err);
    if (st == JOUST_OK && options->signals) /* before any thread is made */
        st = joust_loop_add_signals(p->loop, on_signal, p, err);
    if (st == JOUST_OK)
        st = joust_actor_create("compute", ACTOR_CAPACITY, &p->actor, err);
    if (st == JOUST_OK)
        st = joust_loop_add_actor(p->loop, p->actor, err);
    if (st == JOUST_OK)
        st = open_session(p, options, &id, err);
    if (st == JOUST_OK)
        st = open_socket(p, options, &id, err);
    return st;
}

static void peer_close(joust_peer *p)
{
    p->stopped = true;
    joust_mailbox_interrupt(&p->box);
    if (p->loop && p->actor)
        joust_loop_remove_actor(p->loop, p->actor);
    joust_actor_free(&p->actor);
    joust_peer_batch_fini(&p->batch);
    joust_loop_free(&p->loop);
    joust_socket_close(&p->socket);
    joust_context_free(&p->context);
    if (p->queue)
        drop_queue(p);
    joust_free(p->queue);
    drop_requests(p);
    joust_session_free(&p->session);
    if (p->has_job)
        joust_job_fini(&p->job);
}

joust_status joust_peer_run(const joust_peer_options *options, const joust_peer_role_work *work,
                            joust_error *err)
{
    joust_peer *p = joust_calloc(1, sizeof(*p));
    if (!p)
        return joust_fail(err, JOUST_NOMEM, "peer: out of memory");
    p->work = work;
    joust_peer_desk_init(p);
    joust_status st = joust_mailbox_init(&p->box, err);
    if (st != JOUST_OK) {
        joust_free(p);
        return st;
    }
    st = peer_open(p, options, err);
    if (st == JOUST_OK) {
        joust_peer_pump(p);
        st = joust_loop_run(p->loop, err);
    }
    if (st == JOUST_OK && p->result != JOUST_OK)
        st = joust_fail(err, p->result, "%s", p->err.text);
    peer_close(p);
    joust_mailbox_fini(&p->box);
    joust_free(p);
    return st;
}
