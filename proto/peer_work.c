/* What the compute thread is given, and what comes of it, seen from the loop thread. */
#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/peer_internal.h"

/* The unit's place in the running batch while it is open, or JOUST_NONE. */
uint32_t joust_peer_find_open(const joust_peer *p, const joust_unit_key *unit)
{
    for (uint32_t i = 0; p->running && i < p->batch.n; i++)
        if (!p->batch.closed[i] && joust_unit_key_equal(&p->batch.units[i].unit, unit))
            return i;
    return JOUST_NONE;
}

void joust_peer_close_unit(joust_peer *p, uint32_t i)
{
    p->batch.closed[i] = true;
    p->batch.n_closed++;
}

void joust_peer_batch_fini(joust_peer_batch *b)
{
    for (uint32_t i = 0; i < b->n; i++)
        joust_lease_unit_fini(&b->units[i]);
    joust_free(b->units);
    joust_free(b->closed);
    *b = (joust_peer_batch){0};
}

/* Moves the units of the first one's stage and round from the queue into the batch. */
static joust_status take_batch(joust_peer *p, joust_error *err)
{
    joust_peer_batch *b = &p->batch;
    joust_unit_key of = p->queue[0].unit;
    uint32_t n_left = 0;
    b->units = joust_calloc(p->n_queue, sizeof(*b->units));
    b->closed = joust_calloc(p->n_queue, sizeof(*b->closed));
    if (!b->units || !b->closed) {
        joust_peer_batch_fini(b);
        return joust_fail(err, JOUST_NOMEM, "a batch of %u units", p->n_queue);
    }
    for (uint32_t i = 0; i < p->n_queue; i++) {
        joust_unit_key *unit = &p->queue[i].unit;
        if (unit->round == of.round && unit->stage == of.stage)
            b->units[b->n++] = p->queue[i];
        else
            p->queue[n_left++] = p->queue[i];
    }
    p->n_queue = n_left;
    return JOUST_OK;
}

/* Thread: compute. */
static void run_batch(void *arg)
{
    joust_peer *p = arg;
    joust_peer_batch *b = &p->batch;
    b->started_wall_ms = joust_clock_wall_ms();
    b->started_ns = joust_clock_ns();
    b->status = p->work->run(p->work->context, p, b->units, b->n, &b->err);
}

static void batch_done(void *arg)
{
    joust_peer *p = arg;
    joust_peer_batch *b = &p->batch;
    if (b->status == JOUST_OK && b->n_closed < b->n && !p->leaving)
        b->status = joust_fail(&b->err, JOUST_BUG, "the role left the unit undone");
    for (uint32_t i = 0; b->status != JOUST_OK && b->status != JOUST_INTERRUPTED && i < b->n; i++)
        joust_peer_fail_unit(p, &b->units[i].unit, b->status, b->err.text);
    p->running = false;
    joust_peer_batch_fini(b);
    if (p->leaving)
        joust_peer_say_goodbye(p);
    else
        joust_peer_start_work(p);
    joust_peer_pump(p);
}

void joust_peer_start_work(joust_peer *p)
{
    joust_error err;
    if (p->running || !p->begun || p->leaving || p->stopped || p->n_queue == 0)
        return;
    joust_mailbox_reset(&p->box);
    joust_status st = take_batch(p, &err);
    if (st == JOUST_OK) {
        p->running = true;
        st = joust_actor_post(p->actor, run_batch, batch_done, p, &err);
    }
    joust_peer_stop_on_error(p, st, &err);
}

/* Thread: compute. */
static void run_begin(void *arg)
{
    joust_peer *p = arg;
    p->batch.status = p->work->begin(p->work->context, &p->job, &p->batch.err);
}

static void begin_done(void *arg)
{
    joust_peer *p = arg;
    joust_peer_batch outcome = p->batch;
    p->batch = (joust_peer_batch){0};
    p->running = false;
    if (outcome.status != JOUST_OK) {
        joust_message m = {.type = JOUST_MSG_ERROR,
                           .epoch = joust_session_epoch(p->session),
                           .u.text = {.code = outcome.status, .text = outcome.err.text}};
        joust_error err;
        if (joust_socket_send(p->socket, NULL, &m, &err) != JOUST_OK)
            joust_log_warn("peer", "error not sent: %s", err.text);
        joust_peer_stop(p, outcome.status, outcome.err.text);
        return;
    }
    p->begun = true;
    if (p->leaving)
        joust_peer_say_goodbye(p);
    else
        joust_peer_start_work(p);
}

joust_status joust_peer_begin(joust_peer *p, joust_error *err)
{
    p->running = true;
    return joust_actor_post(p->actor, run_begin, begin_done, p, err);
}

void joust_peer_finish_unit(joust_peer *p, joust_unit_result *result)
{
    joust_error err;
    uint32_t i = joust_peer_find_open(p, &result->id.unit);
    if (i == JOUST_NONE) /* revoked meanwhile */
        return;
    joust_peer_close_unit(p, i);
    joust_status st = joust_session_finish(p->session, result, &err);
    if (st != JOUST_OK && st != JOUST_NOT_FOUND)
        joust_peer_stop_on_error(p, st, &err);
    joust_peer_pump(p);
}

void joust_peer_fail_unit(joust_peer *p, const joust_unit_key *unit, joust_status code,
                          const char *text)
{
    joust_error err;
    uint32_t i = joust_peer_find_open(p, unit);
    if (i == JOUST_NONE)
        return;
    /* A full disk or memory is this machine's trouble: charged to the unit, it would fail the job for good. */
    if (code == JOUST_DISK_FULL || code == JOUST_IO || code == JOUST_NOMEM) {
        joust_peer_stop(p, code, text);
        return;
    }
    joust_peer_close_unit(p, i);
    joust_log_error("peer", "unit %u/%u/%llu failed: %s", unit->round, unit->stage,
                    (unsigned long long)unit->position, text);
    joust_status st = joust_session_fail(p->session, unit, code, text, &err);
    if (st != JOUST_OK && st != JOUST_NOT_FOUND)
        joust_peer_stop_on_error(p, st, &err);
    joust_peer_pump(p);
}
