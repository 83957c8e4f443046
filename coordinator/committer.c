#include "coordinator/committer.h"

#include "proto/base/alloc.h"
#include "proto/base/clock.h"

struct joust_committer {
    joust_loop *loop;
    joust_store *store;
    joust_actor *actor;
    joust_committed_fn *done;
    void *arg;
    joust_batch *filling, *committing;
    uint64_t sequence; /* of `filling` */
    bool busy;         /* `committing` belongs to the commit thread */
    joust_commit_stats stats;
    /* written by the commit thread, read after it is done */
    joust_status status;
    joust_error err;
    int64_t took_us;
};

joust_status joust_committer_create(joust_loop *loop, joust_store *store, uint64_t epoch,
                                    joust_committed_fn *done, void *arg, joust_committer **ret,
                                    joust_error *err)
{
    joust_committer *c = joust_calloc(1, sizeof(*c));
    if (!c)
        return joust_fail(err, JOUST_NOMEM, "committer: out of memory");
    *c = (joust_committer){.loop = loop, .store = store, .done = done, .arg = arg, .sequence = 1};
    joust_status st = joust_batch_create(store, epoch, &c->filling, err);
    if (st == JOUST_OK)
        st = joust_batch_create(store, epoch, &c->committing, err);
    if (st == JOUST_OK)
        st = joust_actor_create("commit", 2, &c->actor, err);
    if (st == JOUST_OK)
        st = joust_loop_add_actor(loop, c->actor, err);
    if (st != JOUST_OK) {
        joust_committer_free(&c);
        return st;
    }
    *ret = c;
    return JOUST_OK;
}

void joust_committer_free(joust_committer **committer)
{
    joust_committer *c = *committer;
    if (!c)
        return;
    if (c->actor) {
        joust_loop_remove_actor(c->loop, c->actor);
        c->done = NULL; /* the last commit may still end in joust_actor_free */
        joust_actor_free(&c->actor);
    }
    joust_batch_free(&c->filling);
    joust_batch_free(&c->committing);
    joust_free(c);
    *committer = NULL;
}

joust_batch *joust_committer_batch(joust_committer *c)
{
    return c->filling;
}

uint64_t joust_committer_sequence(const joust_committer *c)
{
    return c->sequence;
}

bool joust_committer_idle(const joust_committer *c)
{
    return !c->busy && joust_batch_records(c->filling) == 0;
}

joust_commit_stats joust_committer_stats(const joust_committer *c)
{
    return c->stats;
}

static void commit(void *arg) /* on the commit thread */
{
    joust_committer *c = arg;
    int64_t start = joust_clock_ns();
    c->status = joust_store_commit(c->store, c->committing, true, &c->err);
    c->took_us = (joust_clock_ns() - start) / 1000;
}

static void committed(void *arg)
{
    joust_committer *c = arg;
    uint64_t sequence = c->sequence - 1;
    c->busy = false;
    c->stats.last_us = c->took_us;
    c->stats.total_us += c->took_us;
    if (c->took_us > c->stats.worst_us)
        c->stats.worst_us = c->took_us;
    if (!c->done)
        return;
    joust_status st = c->status;
    joust_error err = c->err;
    c->done(c->arg, sequence, st, &err);
    if (st != JOUST_OK || !c->done)
        return;
    st = joust_committer_flush(c, &err);
    if (st != JOUST_OK)
        c->done(c->arg, sequence, st, &err);
}

joust_status joust_committer_flush(joust_committer *c, joust_error *err)
{
    uint32_t records = joust_batch_records(c->filling);
    if (c->busy || records == 0)
        return JOUST_OK;
    joust_batch *full = c->filling;
    c->stats.commits++;
    c->stats.records += records;
    c->stats.bytes += joust_batch_bytes(full);
    c->filling = c->committing;
    c->committing = full;
    c->busy = true;
    c->sequence++;
    joust_status st = joust_actor_post(c->actor, commit, committed, c, err);
    if (st != JOUST_OK)
        c->busy = false;
    return st;
}
