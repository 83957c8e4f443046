#include "proto/actor.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "proto/base/alloc.h"

typedef struct item {
    struct item *next;
    joust_actor_fn work, done; /* told: done alone */
    void *arg;
} item;

typedef struct queue { /* first in, first out */
    item *first, **end;
} queue;

struct joust_actor {
    char name[16];
    uint32_t capacity;
    uint32_t pending; /* of the collecting thread alone */
    int fd;
    pthread_t thread;
    atomic_bool stopping;

    pthread_mutex_t lock; /* over what follows */
    pthread_cond_t changed;
    queue posted, finished;
    uint32_t told; /* in finished */
    bool closing;
};

static void queue_add(queue *q, item *it)
{
    it->next = NULL;
    *q->end = it;
    q->end = &it->next;
}

static item *queue_take(queue *q)
{
    item *it = q->first;
    if (it) {
        q->first = it->next;
        if (!q->first)
            q->end = &q->first;
    }
    return it;
}

static void wake(const joust_actor *actor)
{
    uint64_t one = 1;
    ssize_t n = write(actor->fd, &one, sizeof(one));
    (void)n; /* fails only when the counter is full: then it is readable anyway */
}

static void *run(void *arg)
{
    joust_actor *actor = arg;
    prctl(PR_SET_NAME, actor->name);
    pthread_mutex_lock(&actor->lock);
    for (;;) {
        item *it = queue_take(&actor->posted);
        if (!it && actor->closing)
            break;
        if (!it) {
            pthread_cond_wait(&actor->changed, &actor->lock);
            continue;
        }
        pthread_mutex_unlock(&actor->lock);
        it->work(it->arg);
        pthread_mutex_lock(&actor->lock);
        queue_add(&actor->finished, it);
        wake(actor);
    }
    pthread_mutex_unlock(&actor->lock);
    return NULL;
}

/* The thread starts with every signal blocked: they are the loop's. */
static int start_thread(joust_actor *actor)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int number = pthread_create(&actor->thread, NULL, run, actor);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return number;
}

joust_status joust_actor_create(const char *name, uint32_t capacity, joust_actor **ret,
                                joust_error *err)
{
    joust_status st;
    joust_actor *actor = joust_calloc(1, sizeof(*actor));
    if (!actor)
        return joust_fail(err, JOUST_NOMEM, "actor %s: out of memory", name);
    snprintf(actor->name, sizeof(actor->name), "%s", name);
    actor->capacity = capacity ? capacity : 1;
    actor->posted.end = &actor->posted.first;
    actor->finished.end = &actor->finished.first;
    atomic_init(&actor->stopping, false);
    pthread_mutex_init(&actor->lock, NULL);
    pthread_cond_init(&actor->changed, NULL);
    actor->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (actor->fd < 0) {
        st = joust_fail(err, JOUST_IO, "actor %s: no eventfd: %s", name, strerror(errno));
        goto undo_alloc;
    }
    int number = start_thread(actor);
    if (number) {
        st = joust_fail(err, JOUST_IO, "actor %s: no thread: %s", name, strerror(number));
        goto undo_fd;
    }
    *ret = actor;
    return JOUST_OK;
undo_fd:
    close(actor->fd);
undo_alloc:
    pthread_cond_destroy(&actor->changed);
    pthread_mutex_destroy(&actor->lock);
    joust_free(actor);
    return st;
}

void joust_actor_stop(joust_actor *actor)
{
    atomic_store(&actor->stopping, true);
    pthread_mutex_lock(&actor->lock); /* a waiting tell sees it */
    pthread_cond_broadcast(&actor->changed);
    pthread_mutex_unlock(&actor->lock);
}

bool joust_actor_stopping(const joust_actor *actor)
{
    return atomic_load(&actor->stopping);
}

void joust_actor_free(joust_actor **ref)
{
    joust_actor *actor = *ref;
    if (!actor)
        return;
    joust_actor_stop(actor);
    pthread_mutex_lock(&actor->lock);
    actor->closing = true;
    pthread_cond_broadcast(&actor->changed);
    pthread_mutex_unlock(&actor->lock);
    pthread_join(actor->thread, NULL);
    while (joust_actor_collect(actor, UINT32_MAX) > 0)
        ;
    close(actor->fd);
    pthread_cond_destroy(&actor->changed);
    pthread_mutex_destroy(&actor->lock);
    joust_free(actor);
    *ref = NULL;
}

joust_status joust_actor_post(joust_actor *actor, joust_actor_fn work, joust_actor_fn done,
                              void *arg, joust_error *err)
{
    if (actor->pending >= actor->capacity)
        return joust_fail(err, JOUST_FULL, "actor %s: %u works are pending", actor->name,
                          actor->pending);
    item *it = joust_calloc(1, sizeof(*it));
    if (!it)
        return joust_fail(err, JOUST_NOMEM, "actor %s: out of memory", actor->name);
    *it = (item){.work = work, .done = done, .arg = arg};
    actor->pending++;
    pthread_mutex_lock(&actor->lock);
    queue_add(&actor->posted, it);
    pthread_cond_broadcast(&actor->changed);
    pthread_mutex_unlock(&actor->lock);
    return JOUST_OK;
}

joust_status joust_actor_tell(joust_actor *actor, joust_actor_fn fn, void *arg, joust_error *err)
{
    item *it = joust_calloc(1, sizeof(*it));
    if (!it)
        return joust_fail(err, JOUST_NOMEM, "actor %s: out of memory", actor->name);
    *it = (item){.done = fn, .arg = arg};
    pthread_mutex_lock(&actor->lock);
    while (actor->told >= actor->capacity && !joust_actor_stopping(actor))
        pthread_cond_wait(&actor->changed, &actor->lock);
    bool refused = actor->told >= actor->capacity;
    if (!refused) {
        actor->told++;
        queue_add(&actor->finished, it);
        wake(actor);
    }
    pthread_mutex_unlock(&actor->lock);
    if (!refused)
        return JOUST_OK;
    joust_free(it);
    return joust_fail(err, JOUST_INTERRUPTED, "actor %s: is being stopped", actor->name);
}

int joust_actor_fd(const joust_actor *actor)
{
    return actor->fd;
}

/* Next item to collect, or NULL, and then the descriptor is no longer readable. */
static item *take_finished(joust_actor *actor)
{
    pthread_mutex_lock(&actor->lock);
    item *it = queue_take(&actor->finished);
    if (it && !it->work) {
        actor->told--;
        pthread_cond_broadcast(&actor->changed);
    }
    if (!actor->finished.first) {
        uint64_t count;
        ssize_t n = read(actor->fd, &count, sizeof(count));
        (void)n; /* nothing to read is fine */
    }
    pthread_mutex_unlock(&actor->lock);
    return it;
}

uint32_t joust_actor_collect(joust_actor *actor, uint32_t max)
{
    uint32_t n = 0;
    item *it;
    while (n < max && (it = take_finished(actor))) {
        if (it->work)
            actor->pending--;
        if (it->done)
            it->done(it->arg);
        joust_free(it);
        n++;
    }
    return n;
}

uint32_t joust_actor_pending(const joust_actor *actor)
{
    return actor->pending;
}
