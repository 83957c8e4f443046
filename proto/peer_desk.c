/* The compute thread's side of a peer: what it calls, carried over to the loop thread. */
#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/peer_internal.h"

#include <stdio.h>
#include <string.h>

/* One call on its way to the loop thread. */
typedef struct call {
    joust_peer *peer;
    joust_message message;
    joust_unit_result result;
    joust_unit_key unit;
    joust_status code;
    char *text;
    joust_server_status *servers;
    uint32_t n_servers;
} call;

static void call_free(call *c)
{
    joust_message_fini(&c->message);
    joust_unit_result_fini(&c->result);
    joust_free(c->text);
    joust_free(c->servers);
    joust_free(c);
}

static joust_status call_create(joust_peer *p, call **ret, joust_error *err)
{
    call *c = joust_calloc(1, sizeof(*c));
    if (!c)
        return joust_fail(err, JOUST_NOMEM, "peer: out of memory");
    c->peer = p;
    *ret = c;
    return JOUST_OK;
}

static void run_request(void *arg)
{
    call *c = arg;
    joust_peer_request(c->peer, &c->message);
    call_free(c);
}

static void run_finish(void *arg)
{
    call *c = arg;
    joust_peer_finish_unit(c->peer, &c->result);
    call_free(c);
}

static void run_fail(void *arg)
{
    call *c = arg;
    joust_peer_fail_unit(c->peer, &c->unit, c->code, c->text);
    call_free(c);
}

static void run_servers(void *arg)
{
    call *c = arg;
    joust_session_servers(c->peer->session, &c->servers, c->n_servers);
    call_free(c);
}

static joust_status upstream_send(void *context, joust_message *m, joust_error *err)
{
    joust_peer *p = context;
    call *c = NULL;
    joust_status st = call_create(p, &c, err);
    if (st != JOUST_OK)
        return st;
    c->message = *m;
    st = joust_actor_tell(p->actor, run_request, c, err);
    if (st == JOUST_OK)
        *m = (joust_message){0};
    else
        joust_free(c);
    return st;
}

static joust_status upstream_receive(void *context, joust_message *ret, joust_error *err)
{
    joust_peer *p = context;
    return joust_mailbox_take(&p->box, ret, err);
}

static joust_status upstream_check(void *context, uint64_t done, joust_error *err)
{
    (void)done;
    joust_peer *p = context;
    atomic_fetch_add(&p->progress, 1);
    if (joust_mailbox_interrupted(&p->box) || joust_actor_stopping(p->actor))
        return joust_fail(err, JOUST_INTERRUPTED, "the work isn't wanted any more");
    return JOUST_OK;
}

void joust_peer_desk_init(joust_peer *p)
{
    p->upstream = (joust_upstream){p, upstream_send, upstream_receive, upstream_check};
}

const joust_upstream *joust_peer_upstream(joust_peer *peer)
{
    return &peer->upstream;
}

joust_status joust_peer_deliver(joust_peer *peer, joust_unit_result *result, joust_error *err)
{
    call *c = NULL;
    joust_status st = call_create(peer, &c, err);
    if (st != JOUST_OK)
        return st;
    c->result = *result;
    joust_provenance *v = &c->result.provenance;
    memcpy(v->peer, peer->name, sizeof(v->peer));
    memcpy(v->host, peer->host, sizeof(v->host));
    v->started_wall_ms = peer->batch.started_wall_ms;
    v->duration_us = (joust_clock_ns() - peer->batch.started_ns) / 1000;
    atomic_fetch_add(&peer->progress, 1);
    st = joust_actor_tell(peer->actor, run_finish, c, err);
    if (st == JOUST_OK)
        *result = (joust_unit_result){0};
    else
        joust_free(c);
    return st;
}

joust_status joust_peer_report_servers(joust_peer *peer, joust_server_status **servers, uint32_t n,
                                       joust_error *err)
{
    call *c = NULL;
    joust_status st = call_create(peer, &c, err);
    if (st != JOUST_OK)
        return st;
    c->servers = *servers;
    c->n_servers = n;
    st = joust_actor_tell(peer->actor, run_servers, c, err);
    if (st == JOUST_OK)
        *servers = NULL;
    else
        joust_free(c);
    return st;
}

bool joust_peer_wants(const joust_peer *peer, uint32_t i)
{
    return !atomic_load(&peer->batch.closed[i]);
}

joust_status joust_peer_fail(joust_peer *peer, const joust_unit_key *unit, const joust_error *why,
                             joust_error *err)
{
    call *c = NULL;
    joust_status st = call_create(peer, &c, err);
    if (st != JOUST_OK)
        return st;
    c->unit = *unit;
    c->code = why->status;
    c->text = joust_strdup(why->text);
    st = c->text ? joust_actor_tell(peer->actor, run_fail, c, err)
                 : joust_fail(err, JOUST_NOMEM, "peer: out of memory");
    if (st != JOUST_OK)
        call_free(c);
    return st;
}
