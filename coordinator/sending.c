/* Leases and acknowledgements on their way to peers: those that one commit released leave in one message of each kind a
 * peer, acknowledgements first, so that a peer has the credit that its leases count on. */
#include <string.h>

#include "coordinator/coordinator_internal.h"
#include "proto/base/alloc.h"

#define MAX_SENDING_BYTES (256u << 10) /* of leases, about */

static void release_leases(joust_sending *s)
{
    for (uint32_t i = 0; i < s->n_leases; i++) {
        if (s->lent >> i & 1) {
            s->leases[i].trajectories = NULL;
            s->leases[i].n_trajectories = 0;
        }
        joust_lease_unit_fini(&s->leases[i]);
    }
    s->n_leases = 0;
    s->lent = s->bytes = 0;
}

void joust_sending_fini(joust_sending *s)
{
    release_leases(s);
    joust_free(s->acks);
    joust_free(s->leases);
    memset(s, 0, sizeof(*s));
}

static bool is_gathering(const joust_link *link)
{
    return link->sending.n_acks || link->sending.n_leases;
}

/* What was gathered for one peer leaves. Sending may step the core, and move or remove links. */
static void flush_peer(joust_coordinator *c, joust_link *link)
{
    uint64_t peer = link->handle;
    joust_sending s = link->sending;
    link->sending = (joust_sending){0};
    if (s.n_acks) {
        joust_message m = {.type = JOUST_MSG_RESULT_ACK, .u.units = {s.n_acks, s.acks}};
        joust_coordinator_send(c, peer, &m);
    }
    if (s.n_leases) {
        joust_message m = {.type = JOUST_MSG_LEASE, .u.lease = {s.n_leases, s.leases}};
        joust_coordinator_send(c, peer, &m);
    }
    release_leases(&s);
    s.n_acks = 0;
    link = joust_coordinator_link_of(c, peer);
    if (link && !link->sending.acks && !link->sending.leases)
        link->sending = s; /* its memory serves again */
    else
        joust_sending_fini(&s);
}

void joust_coordinator_flush_peer(joust_coordinator *c, uint64_t peer)
{
    joust_link *link = joust_coordinator_link_of(c, peer);
    if (link && is_gathering(link))
        flush_peer(c, link);
}

void joust_coordinator_flush(joust_coordinator *c)
{
    bool flushed;
    do { /* again as long as there was something: links may have moved */
        flushed = false;
        for (uint32_t i = 0; i < c->n_links; i++) {
            if (is_gathering(&c->links[i])) {
                flush_peer(c, &c->links[i]);
                flushed = true;
            }
        }
    } while (flushed);
}

static joust_status no_memory(joust_error *err)
{
    return joust_fail(err, JOUST_NOMEM, "messages to peers: out of memory");
}

joust_status joust_coordinator_send_lease(joust_coordinator *c, const joust_action *a,
                                          joust_error *err)
{
    joust_link *link = joust_coordinator_link_of(c, a->peer);
    if (!link)
        return JOUST_OK; /* gone meanwhile: the core will hear of it */
    if (link->sending.n_leases == JOUST_MAX_SENDING || link->sending.bytes > MAX_SENDING_BYTES) {
        flush_peer(c, link);
        if (!(link = joust_coordinator_link_of(c, a->peer)))
            return JOUST_OK;
    }
    joust_sending *s = &link->sending;
    if (!joust_grow(&s->leases, s->n_leases, &s->lease_capacity, sizeof(*s->leases)))
        return no_memory(err);
    joust_lease_unit *unit = &s->leases[s->n_leases];
    bool lent;
    joust_status st = joust_lease_fill(&c->sources, a, unit, &lent, err);
    if (st != JOUST_OK)
        return st;
    s->lent |= (uint64_t)lent << s->n_leases++;
    for (uint32_t i = 0; i < unit->n_trajectories; i++)
        s->bytes += 16ull * unit->trajectories[i].n_tokens + 512;
    return JOUST_OK;
}

joust_status joust_coordinator_send_ack(joust_coordinator *c, const joust_action *a,
                                        joust_error *err)
{
    joust_link *link = joust_coordinator_link_of(c, a->peer);
    if (link && link->sending.n_acks == JOUST_MAX_SENDING) {
        flush_peer(c, link);
        link = joust_coordinator_link_of(c, a->peer);
    }
    if (!link)
        return JOUST_OK;
    joust_sending *s = &link->sending;
    if (!joust_grow(&s->acks, s->n_acks, &s->ack_capacity, sizeof(*s->acks)))
        return no_memory(err);
    s->acks[s->n_acks++] = a->id;
    return JOUST_OK;
}
