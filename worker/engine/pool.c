#include "pool_internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "proto/base/alloc.h"

typedef struct member {
    joust_pool *pool;
    pthread_t thread;
    uint32_t index;
} member;

struct joust_pool {
    uint32_t n;
    member *members; /* (n); the first is the caller */
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    joust_pool_fn *fn;
    void *context;
    uint64_t turn;    /* counts runs */
    uint32_t n_busy;  /* members that haven't finished this turn */
    uint32_t n_alive; /* started members */
    bool closing;
};

static void *member_main(void *argument)
{
    member *m = argument;
    joust_pool *pool = m->pool;
    uint64_t done = 0;
    pthread_mutex_lock(&pool->lock);
    for (;;) {
        while (pool->turn == done && !pool->closing)
            pthread_cond_wait(&pool->begin, &pool->lock);
        if (pool->closing)
            break;
        done = pool->turn;
        joust_pool_fn *fn = pool->fn;
        void *context = pool->context;
        pthread_mutex_unlock(&pool->lock);
        fn(context, m->index);
        pthread_mutex_lock(&pool->lock);
        if (--pool->n_busy == 0)
            pthread_cond_signal(&pool->end);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

joust_status joust_pool_create(uint32_t n, joust_pool **ret, joust_error *err)
{
    joust_pool *pool = joust_calloc(1, sizeof(*pool));
    if (!pool)
        return joust_fail(err, JOUST_NOMEM, "engine threads: out of memory");
    pool->members = joust_calloc(n, sizeof(*pool->members));
    if (!pool->members) {
        joust_free(pool);
        return joust_fail(err, JOUST_NOMEM, "engine threads: no memory for %u", n);
    }
    pool->n = n;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->begin, NULL);
    pthread_cond_init(&pool->end, NULL);
    pool->n_alive = 1;
    for (uint32_t i = 1; i < n; i++) {
        pool->members[i] = (member){.pool = pool, .index = i};
        if (pthread_create(&pool->members[i].thread, NULL, member_main, &pool->members[i])) {
            joust_pool_free(&pool);
            return joust_fail(err, JOUST_NOMEM,
                              "engine threads: the system refused thread %u of %u", i, n);
        }
        pool->n_alive++;
    }
    *ret = pool;
    return JOUST_OK;
}

void joust_pool_free(joust_pool **ref)
{
    joust_pool *pool = *ref;
    *ref = NULL;
    if (!pool)
        return;
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->lock);
    for (uint32_t i = 1; i < pool->n_alive; i++)
        pthread_join(pool->members[i].thread, NULL);
    pthread_cond_destroy(&pool->end);
    pthread_cond_destroy(&pool->begin);
    pthread_mutex_destroy(&pool->lock);
    joust_free(pool->members);
    joust_free(pool);
}

uint32_t joust_pool_threads(const joust_pool *pool)
{
    return pool->n;
}

void joust_pool_run(joust_pool *pool, joust_pool_fn *fn, void *context)
{
    if (pool->n > 1) {
        pthread_mutex_lock(&pool->lock);
        pool->fn = fn;
        pool->context = context;
        pool->n_busy = pool->n - 1;
        pool->turn++;
        pthread_cond_broadcast(&pool->begin);
        pthread_mutex_unlock(&pool->lock);
    }
    fn(context, 0);
    if (pool->n > 1) {
        pthread_mutex_lock(&pool->lock);
        while (pool->n_busy)
            pthread_cond_wait(&pool->end, &pool->lock);
        pthread_mutex_unlock(&pool->lock);
    }
}

typedef struct each {
    joust_pool_item_fn *fn;
    void *context;
    uint64_t n;
    atomic_ullong next;
} each;

static void each_take(void *context, uint32_t thread)
{
    each *e = context;
    (void)thread;
    for (uint64_t i = atomic_fetch_add(&e->next, 1); i < e->n; i = atomic_fetch_add(&e->next, 1))
        e->fn(e->context, i);
}

void joust_pool_each(joust_pool *pool, uint64_t n, joust_pool_item_fn *fn, void *context)
{
    each e = {.fn = fn, .context = context, .n = n};
    atomic_init(&e.next, 0);
    if (n == 1)
        fn(context, 0);
    else if (n > 1)
        joust_pool_run(pool, each_take, &e);
}
