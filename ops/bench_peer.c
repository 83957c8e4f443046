#include "ops/bench_peer.h"

#include <string.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/loop.h"
#include "proto/session.h"

#define WAIT_FULL_MS 2 /* before the next try on a full link */

typedef struct null_peer {
    const joust_bench_peer_options *options;
    joust_session *session;
    joust_loop *loop;
    joust_context *context;
    joust_socket *socket;
    joust_job job;
    joust_plan *plan; /* NULL before the job is known */
    int64_t acknowledged_ns;
    uint64_t timer;
    bool stopped;
    joust_status status; /* why it stops */
    joust_error err;
} null_peer;

static void stop(null_peer *p, joust_status status, const joust_error *err)
{
    if (p->stopped)
        return;
    p->stopped = true;
    p->status = status;
    if (status != JOUST_OK)
        p->err = *err;
    joust_bench_note_end(p->options->board);
    joust_loop_stop(p->loop);
}

static joust_status take_job(null_peer *p, const joust_msg_hello_ack *ack, joust_error *err)
{
    if (p->plan)
        return JOUST_OK;
    joust_status st = joust_job_decode(ack->job, ack->n_job, &p->job, err);
    if (st != JOUST_OK)
        return st;
    p->plan = joust_calloc(1, sizeof(*p->plan));
    return p->plan ? joust_plan_compile(&p->job, p->plan, err)
                   : joust_fail(err, JOUST_NOMEM, "bench: out of memory");
}

static joust_status take_unit(null_peer *p, const joust_lease_unit *unit, joust_error *err)
{
    joust_unit_result result = {0};
    joust_status st = joust_session_accept(p->session, unit, err);
    if (st == JOUST_EXISTS || st == JOUST_FULL)
        return JOUST_OK; /* the session answers */
    if (st == JOUST_OK)
        st = joust_bench_answer(p->options->load, &p->job, p->plan, unit, &result, err);
    if (st == JOUST_OK)
        st = joust_session_finish(p->session, &result, err);
    joust_unit_result_fini(&result);
    return st;
}

/* The lease of the next unit leaves with the acknowledgement of the one before: at a window of 1 the time
 * between two acknowledgements is that from a unit's dispatch to its RESULT_ACK. */
static void take_acknowledgement(null_peer *p)
{
    int64_t now = joust_clock_ns();
    if (p->options->role == JOUST_PEER_WORKER && p->acknowledged_ns)
        joust_bench_note_trip(p->options->board, now - p->acknowledged_ns);
    p->acknowledged_ns = now;
}

static joust_status act(null_peer *p, const joust_message *m, joust_error *err)
{
    joust_status st = JOUST_OK;
    switch (m->type) {
    case JOUST_MSG_HELLO_ACK:
        return take_job(p, &m->u.hello_ack, err);
    case JOUST_MSG_LEASE:
        if (p->options->role == JOUST_PEER_WORKER)
            joust_bench_note_begin(p->options->board);
        for (uint32_t i = 0; st == JOUST_OK && i < m->u.lease.n; i++)
            st = take_unit(p, &m->u.lease.units[i], err);
        return st;
    case JOUST_MSG_RESULT_ACK:
        take_acknowledgement(p);
        return JOUST_OK;
    case JOUST_MSG_ERROR:
        return joust_fail(err, JOUST_DENIED, "the coordinator says: %s", m->u.text.text);
    default:
        return JOUST_OK;
    }
}

static void pump(void *arg)
{
    null_peer *p = arg;
    joust_error err;
    joust_message m;
    int64_t now = joust_clock_ms();
    joust_status st;
    bool full = false;
    while ((st = joust_session_next(p->session, now, &m)) == JOUST_OK) {
        st = joust_socket_send(p->socket, NULL, &m, &err);
        full = st == JOUST_AGAIN;
        if (st != JOUST_OK)
            break;
        joust_session_sent(p->session, now);
    }
    if (st != JOUST_AGAIN) {
        stop(p, st, &err);
        return;
    }
    if (joust_session_get_state(p->session) == JOUST_SESSION_GONE) {
        const char *why = NULL;
        st = joust_session_reason(p->session, &why);
        joust_fail(&err, st, "%s", why ? why : "");
        stop(p, st == JOUST_END ? JOUST_OK : st, &err);
        return;
    }
    int64_t delay = full ? WAIT_FULL_MS : joust_session_wake_at(p->session) - now;
    joust_loop_cancel_timer(p->loop, p->timer);
    st = joust_loop_add_timer(p->loop, delay, pump, p, &p->timer, &err);
    if (st != JOUST_OK)
        stop(p, st, &err);
}

static void on_socket(void *arg, uint32_t events)
{
    null_peer *p = arg;
    (void)events;
    for (uint32_t i = 0; i < JOUST_LOOP_BATCH && !p->stopped &&
                         joust_session_get_state(p->session) != JOUST_SESSION_GONE;
         i++) {
        joust_message m = {0};
        joust_error err;
        joust_status st = joust_socket_recv(p->socket, NULL, &m, &err);
        if (st == JOUST_AGAIN)
            break;
        if (st == JOUST_OK)
            st = joust_session_receive(p->session, &m, joust_clock_ms(), &err);
        if (st == JOUST_OK)
            st = act(p, &m, &err);
        joust_message_fini(&m);
        if (st != JOUST_OK)
            stop(p, st, &err);
    }
    if (!p->stopped)
        pump(p);
}

static void on_link(void *arg, joust_link_event event)
{
    null_peer *p = arg;
    joust_session_link(p->session, event == JOUST_LINK_UP, joust_clock_ms());
    pump(p);
}

static joust_status open_peer(null_peer *p, joust_error *err)
{
    const joust_bench_peer_options *o = p->options;
    joust_session_options session = {.role = o->role,
                                     .name = o->name,
                                     .host = "bench",
                                     .numeric_class = "null",
                                     .instance = (uint64_t)getpid(),
                                     .credit = o->credit,
                                     .threads = 1,
                                     .heartbeat_ms = 1000,
                                     .grace_ms = 30000};
    joust_peer_id id = {0};
    joust_status st = joust_peer_id_make(o->name, session.instance, &id, err);
    if (st == JOUST_OK)
        st = joust_session_create(&session, joust_clock_ms(), &p->session, err);
    if (st == JOUST_OK)
        st = joust_loop_create(&p->loop, err);
    if (st == JOUST_OK)
        st = joust_context_create(&p->context, err);
    if (st == JOUST_OK)
        st = joust_socket_open(
            p->context,
            &(joust_socket_options){
                .kind = JOUST_SOCKET_DEALER, .endpoint = o->endpoint, .id = &id, .monitor = true},
            &p->socket, err);
    if (st == JOUST_OK)
        st = joust_loop_add_socket(p->loop, p->socket, on_socket, p, err);
    return st == JOUST_OK ? joust_loop_add_links(p->loop, p->socket, on_link, p, err) : st;
}

joust_status joust_bench_peer(const joust_bench_peer_options *options, joust_error *err)
{
    null_peer p = {.options = options};
    joust_status st = open_peer(&p, err);
    if (st == JOUST_OK)
        st = joust_loop_run(p.loop, err);
    if (st == JOUST_OK && p.status != JOUST_OK) {
        st = p.status;
        *err = p.err;
    }
    joust_loop_free(&p.loop);
    joust_socket_close(&p.socket);
    joust_context_free(&p.context);
    joust_session_free(&p.session);
    if (p.plan)
        joust_job_fini(&p.job);
    joust_free(p.plan);
    return st;
}
