#include "check.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/codec.h"
#include "worker/fake_coordinator.h"

void fake_coordinator_init(fake_coordinator *c, const char *name, const joust_job *job)
{
    joust_error err;
    memset(c, 0, sizeof(*c));
    c->job = job;
    /* Short: an ipc path has about 100 bytes. */
    snprintf(c->endpoint, sizeof(c->endpoint), "ipc:///tmp/joust-test-%s-%ld/s", name,
             (long)getpid());
    fake_upstream_init(&c->files);
    check_ok(joust_context_create(&c->context, &err));
    fake_coordinator_open(c);
}

void fake_coordinator_close(fake_coordinator *c)
{
    joust_socket_close(&c->socket);
}

void fake_coordinator_fini(fake_coordinator *c)
{
    joust_error err;
    joust_message hello = {.type = JOUST_MSG_HELLO, .u.hello = c->hello};
    joust_message_fini(&hello);
    for (uint32_t i = 0; i < c->n_results; i++)
        joust_unit_result_fini(&c->results[i]);
    fake_upstream_fini(&c->files);
    joust_socket_close(&c->socket);
    joust_context_free(&c->context);
    *strrchr(c->endpoint, '/') = 0;
    check_ok(joust_dir_remove(c->endpoint + 6, &err));
}

void fake_coordinator_open(fake_coordinator *c)
{
    joust_error err;
    joust_socket_options options = {.kind = JOUST_SOCKET_ROUTER, .endpoint = c->endpoint};
    check_ok(joust_socket_open(c->context, &options, &c->socket, &err));
    c->epoch++;
    c->greeted = false;
}

static void send(fake_coordinator *c, joust_message *m)
{
    joust_error err;
    m->epoch = c->epoch;
    check_ok(joust_socket_send(c->socket, &c->peer, m, &err));
}

static void welcome(fake_coordinator *c)
{
    joust_error err;
    joust_buf job = {0};
    joust_message m = {.type = JOUST_MSG_HELLO_ACK};
    check_ok(joust_job_encode(c->job, false, &job, &err));
    check_ok(joust_job_digest(c->job, &m.u.hello_ack.job_digest, &err));
    m.u.hello_ack.epoch = c->epoch;
    m.u.hello_ack.job = job.data;
    m.u.hello_ack.n_job = (uint32_t)job.n;
    m.u.hello_ack.heartbeat_ms = 50;
    m.u.hello_ack.grace_ms = 10000;
    send(c, &m);
    joust_buf_fini(&job);
}

const joust_unit_result *fake_coordinator_result(const fake_coordinator *c,
                                                 const joust_unit_key *unit)
{
    for (uint32_t i = 0; i < c->n_results; i++) {
        const joust_unit_key *k = &c->results[i].id.unit;
        if (k->round == unit->round && k->stage == unit->stage && k->position == unit->position)
            return &c->results[i];
    }
    return NULL;
}

static void keep_results(fake_coordinator *c, joust_msg_result *r)
{
    for (uint32_t i = 0; i < r->n; i++) {
        if (fake_coordinator_result(c, &r->units[i].id.unit)) {
            c->n_repeats++;
            continue;
        }
        assert_true(c->n_results < FAKE_MAX_RESULTS);
        c->results[c->n_results++] = r->units[i];
        r->units[i] = (joust_unit_result){0};
    }
}

/* Requests about files and rows are the upstream's. Who asked may have ended meanwhile. */
static void answer(fake_coordinator *c, joust_message *m)
{
    joust_error err;
    check_ok(c->files.up.send(c->files.up.context, m, &err));
    while (c->files.n_answers > 0) {
        joust_message a;
        check_ok(c->files.up.receive(c->files.up.context, &a, &err));
        a.epoch = c->epoch;
        joust_status st = joust_socket_send(c->socket, &c->peer, &a, &err);
        if (st != JOUST_UNREACHABLE)
            check_status(JOUST_OK, st);
        joust_message_fini(&a);
    }
}

static void act(fake_coordinator *c, const joust_peer_id *from, joust_message *m)
{
    joust_message old = {.type = JOUST_MSG_HELLO};
    switch (m->type) {
    case JOUST_MSG_HELLO:
        old.u.hello = c->hello;
        joust_message_fini(&old);
        c->hello = m->u.hello;
        *m = (joust_message){0};
        c->n_hellos++;
        c->peer = *from;
        c->greeted = true;
        welcome(c);
        break;
    case JOUST_MSG_RESULT:
        keep_results(c, &m->u.result);
        break;
    case JOUST_MSG_FAILED:
        c->n_failed++;
        snprintf(c->failure, sizeof(c->failure), "%s", m->u.failed.text);
        break;
    case JOUST_MSG_HEARTBEAT:
        c->n_heartbeats++;
        for (uint32_t i = 0; i < m->u.heartbeat.n_progress; i++)
            if (m->u.heartbeat.progress[i].done > c->progress)
                c->progress = m->u.heartbeat.progress[i].done;
        break;
    case JOUST_MSG_GOODBYE:
        c->n_goodbyes++;
        break;
    default:
        if (c->greeted)
            answer(c, m);
    }
}

void fake_coordinator_serve(fake_coordinator *c, int wait_ms)
{
    joust_error err;
    joust_status st = joust_socket_wait(c->socket, wait_ms, &err);
    while (st == JOUST_OK) {
        joust_peer_id from = {0};
        joust_message m = {0};
        st = joust_socket_recv(c->socket, &from, &m, &err);
        if (st == JOUST_AGAIN)
            break;
        check_status(JOUST_OK, st);
        act(c, &from, &m);
        joust_message_fini(&m);
    }
}

void fake_coordinator_lease(fake_coordinator *c, joust_lease_unit *units, uint32_t n)
{
    joust_message m = {.type = JOUST_MSG_LEASE, .u.lease = {n, units}};
    send(c, &m);
}

void fake_coordinator_revoke(fake_coordinator *c, const joust_unit_id *id)
{
    joust_unit_id copy = *id;
    joust_message m = {.type = JOUST_MSG_REVOKE, .u.units = {1, &copy}};
    send(c, &m);
}

void fake_coordinator_acknowledge_all(fake_coordinator *c)
{
    for (uint32_t i = 0; i < c->n_results; i++) {
        joust_message m = {.type = JOUST_MSG_RESULT_ACK, .u.units = {1, &c->results[i].id}};
        send(c, &m);
    }
}

void fake_coordinator_goodbye(fake_coordinator *c)
{
    char text[] = "done";
    joust_message m = {.type = JOUST_MSG_GOODBYE, .u.text = {JOUST_OK, text}};
    send(c, &m);
}
