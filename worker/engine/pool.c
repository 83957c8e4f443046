#include "pool_internal.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h> /* sysconf */

#include "proto/base/alloc.h"

/* How often a thread looks for work, or for the others' end, before it sleeps: some tens of
 * microseconds, since a step of a forward pass is shorter than waking a thread takes. Threads that
 * outnumber the processors sleep at once. */
#define SPINS 2000u

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
    uint32_t n_spins, n_alive; /* looks before sleeping; started members */
    bool closing;
    atomic_ullong turn; /* counts runs; raised under the lock, after fn and context */
    atomic_uint n_busy; /* members that haven't finished this turn */
};

static inline void spin_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

/* Waits for a turn after `done`; false if the pool closes. */
static bool turn_wait(joust_pool *pool, uint64_t done)
{
    for (uint32_t i = 0; i < pool->n_spins; i++) {
        if (atomic_load_explicit(&pool->turn, memory_order_acquire) != done)
            return true;
        spin_pause();
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->turn) == done && !pool->closing)
        pthread_cond_wait(&pool->begin, &pool->lock);
    bool closing = atomic_load(&pool->turn) == done;
    pthread_mutex_unlock(&pool->lock);
    return !closing;
}

/* Waits until the others have finished. */
static void end_wait(joust_pool *pool)
{
    for (uint32_t i = 0; i < pool->n_spins; i++) {
        if (atomic_load_explicit(&pool->n_busy, memory_order_acquire) == 0)
            return;
        spin_pause();
    }
    pthread_mutex_lock(&pool->lock);
    while (atomic_load(&pool->n_busy))
        pthread_cond_wait(&pool->end, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

static void *member_main(void *argument)
{
    member *m = argument;
    joust_pool *pool = m->pool;
    for (uint64_t done = 0; turn_wait(pool, done); done++) {
        pool->fn(pool->context, m->index);
        if (atomic_fetch_sub(&pool->n_busy, 1) > 1)
            continue;
        pthread_mutex_lock(&pool->lock); /* so that the caller is either asleep or looks again */
        pthread_cond_signal(&pool->end);
        pthread_mutex_unlock(&pool->lock);
    }
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
    long n_processors = sysconf(_SC_NPROCESSORS_ONLN);
    pool->n = n;
    pool->n_spins = n_processors > 0 && n <= (unsigned long)n_processors ? SPINS : 0;
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
        atomic_store(&pool->n_busy, pool->n - 1);
        atomic_fetch_add(&pool->turn, 1);
        pthread_cond_broadcast(&pool->begin);
        pthread_mutex_unlock(&pool->lock);
    }
    fn(context, 0);
    if (pool->n > 1)
        end_wait(pool);
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
