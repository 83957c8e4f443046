#include "proto/loop.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>
#include <zmq.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/socket_internal.h"

/* One thing that is polled: a socket, its link events, a descriptor, or an actor. */
typedef enum source_kind { SOURCE_SOCKET, SOURCE_LINKS, SOURCE_FD, SOURCE_ACTOR } source_kind;

typedef struct source {
    source_kind kind;
    bool removed;    /* forgotten at the end of the turn */
    uint32_t wanted; /* JOUST_READABLE | JOUST_WRITABLE */
    joust_socket *socket;
    joust_actor *actor;
    int fd;
    joust_loop_ready_fn ready;
    joust_loop_link_fn link;
    void *arg;
} source;

typedef struct timer {
    int64_t at_ms;
    uint64_t id; /* also breaks ties: first added, first run */
    joust_loop_timer_fn fn;
    void *arg;
} timer;

struct joust_loop {
    source *sources;
    zmq_pollitem_t *items; /* one a source, in the same order */
    uint32_t n_sources, capacity;
    timer *timers; /* a heap: the earliest first */
    uint32_t n_timers;
    size_t timer_capacity;
    uint64_t next_id;
    int64_t now_ms;
    bool stopped;

    int signal_fd; /* -1: none */
    sigset_t mask_before;
    joust_loop_signal_fn on_signal;
    void *signal_arg;
};

joust_status joust_loop_create(joust_loop **ret, joust_error *err)
{
    joust_loop *loop = joust_calloc(1, sizeof(*loop));
    if (!loop)
        return joust_fail(err, JOUST_NOMEM, "loop: out of memory");
    loop->signal_fd = -1;
    loop->next_id = 1;
    loop->now_ms = joust_clock_ms();
    *ret = loop;
    return JOUST_OK;
}

void joust_loop_free(joust_loop **ref)
{
    joust_loop *loop = *ref;
    if (!loop)
        return;
    if (loop->signal_fd >= 0) {
        close(loop->signal_fd);
        pthread_sigmask(SIG_SETMASK, &loop->mask_before, NULL);
    }
    joust_free(loop->sources);
    joust_free(loop->items);
    joust_free(loop->timers);
    joust_free(loop);
    *ref = NULL;
}

/* -------------------------------------------------------------------------------------- sources */

static joust_status add_source(joust_loop *loop, const source *s, joust_error *err)
{
    if (loop->n_sources == loop->capacity) {
        uint32_t capacity = loop->capacity ? 2 * loop->capacity : 16;
        source *sources = joust_realloc_array(loop->sources, capacity, sizeof(*sources));
        if (sources)
            loop->sources = sources;
        zmq_pollitem_t *items = joust_realloc_array(loop->items, capacity, sizeof(*items));
        if (items)
            loop->items = items;
        if (!sources || !items)
            return joust_fail(err, JOUST_NOMEM, "loop: out of memory");
        loop->capacity = capacity;
    }
    loop->sources[loop->n_sources++] = *s;
    return JOUST_OK;
}

joust_status joust_loop_add_socket(joust_loop *loop, joust_socket *socket, joust_loop_ready_fn fn,
                                   void *arg, joust_error *err)
{
    source s = {.kind = SOURCE_SOCKET,
                .wanted = JOUST_READABLE,
                .socket = socket,
                .fd = -1,
                .ready = fn,
                .arg = arg};
    return add_source(loop, &s, err);
}

joust_status joust_loop_add_links(joust_loop *loop, joust_socket *socket, joust_loop_link_fn fn,
                                  void *arg, joust_error *err)
{
    if (!joust_socket_monitor_handle(socket))
        return joust_fail(err, JOUST_BUG, "loop: the socket was opened without a monitor");
    source s = {.kind = SOURCE_LINKS,
                .wanted = JOUST_READABLE,
                .socket = socket,
                .fd = -1,
                .link = fn,
                .arg = arg};
    return add_source(loop, &s, err);
}

joust_status joust_loop_add_fd(joust_loop *loop, int fd, joust_loop_ready_fn fn, void *arg,
                               joust_error *err)
{
    source s = {.kind = SOURCE_FD, .wanted = JOUST_READABLE, .fd = fd, .ready = fn, .arg = arg};
    return add_source(loop, &s, err);
}

joust_status joust_loop_add_actor(joust_loop *loop, joust_actor *actor, joust_error *err)
{
    source s = {.kind = SOURCE_ACTOR,
                .wanted = JOUST_READABLE,
                .actor = actor,
                .fd = joust_actor_fd(actor)};
    return add_source(loop, &s, err);
}

void joust_loop_want(joust_loop *loop, const joust_socket *socket, uint32_t events)
{
    for (uint32_t i = 0; i < loop->n_sources; i++)
        if (loop->sources[i].kind == SOURCE_SOCKET && loop->sources[i].socket == socket)
            loop->sources[i].wanted = events;
}

void joust_loop_remove_fd(joust_loop *loop, int fd)
{
    for (uint32_t i = 0; i < loop->n_sources; i++)
        if (loop->sources[i].kind == SOURCE_FD && loop->sources[i].fd == fd)
            loop->sources[i].removed = true;
}

void joust_loop_remove_actor(joust_loop *loop, const joust_actor *actor)
{
    for (uint32_t i = 0; i < loop->n_sources; i++)
        if (loop->sources[i].kind == SOURCE_ACTOR && loop->sources[i].actor == actor)
            loop->sources[i].removed = true;
}

/* Callbacks only mark sources as removed, so that positions stay put during a turn. */
static void forget_removed(joust_loop *loop)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < loop->n_sources; i++)
        if (!loop->sources[i].removed)
            loop->sources[kept++] = loop->sources[i];
    loop->n_sources = kept;
}

/* --------------------------------------------------------------------------------------- timers */

static bool is_before(const timer *a, const timer *b)
{
    return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->id < b->id;
}

static void swap(timer *a, timer *b)
{
    timer t = *a;
    *a = *b;
    *b = t;
}

static void sift_up(joust_loop *loop, uint32_t i)
{
    for (; i > 0 && is_before(&loop->timers[i], &loop->timers[(i - 1) / 2]); i = (i - 1) / 2)
        swap(&loop->timers[i], &loop->timers[(i - 1) / 2]);
}

static void sift_down(joust_loop *loop, uint32_t i)
{
    for (;;) {
        uint32_t first = i;
        for (uint32_t child = 2 * i + 1; child <= 2 * i + 2 && child < loop->n_timers; child++)
            if (is_before(&loop->timers[child], &loop->timers[first]))
                first = child;
        if (first == i)
            return;
        swap(&loop->timers[i], &loop->timers[first]);
        i = first;
    }
}

static void drop_timer(joust_loop *loop, uint32_t i)
{
    loop->timers[i] = loop->timers[--loop->n_timers];
    if (i < loop->n_timers) {
        sift_down(loop, i);
        sift_up(loop, i);
    }
}

joust_status joust_loop_add_timer(joust_loop *loop, int64_t delay_ms, joust_loop_timer_fn fn,
                                  void *arg, uint64_t *ret_id, joust_error *err)
{
    if (!joust_grow(&loop->timers, loop->n_timers, &loop->timer_capacity, sizeof(*loop->timers)))
        return joust_fail(err, JOUST_NOMEM, "loop: out of memory");
    uint64_t id = loop->next_id++;
    /* From the clock, not from the turn's time: a long callback must not shorten the delay. */
    loop->timers[loop->n_timers] = (timer){
        .at_ms = joust_clock_ms() + (delay_ms > 0 ? delay_ms : 0), .id = id, .fn = fn, .arg = arg};
    sift_up(loop, loop->n_timers++);
    if (ret_id)
        *ret_id = id;
    return JOUST_OK;
}

void joust_loop_cancel_timer(joust_loop *loop, uint64_t id)
{
    for (uint32_t i = 0; i < loop->n_timers; i++) {
        if (loop->timers[i].id == id) {
            drop_timer(loop, i);
            return;
        }
    }
}

/* Runs what is due, but no timer that was added meanwhile: a timer of 0 ms can't hold the loop up.
 */
static void run_timers(joust_loop *loop)
{
    uint64_t last = loop->next_id;
    while (loop->n_timers && loop->timers[0].at_ms <= loop->now_ms && loop->timers[0].id < last) {
        timer t = loop->timers[0];
        drop_timer(loop, 0);
        t.fn(t.arg);
    }
}

/* -------------------------------------------------------------------------------------- signals */

static sigset_t signals_of_loop(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGCHLD);
    return set;
}

static void on_signal_fd(void *arg, uint32_t events)
{
    joust_loop *loop = arg;
    struct signalfd_siginfo info;
    (void)events;
    while (read(loop->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
        loop->on_signal(loop->signal_arg, (int)info.ssi_signo);
}

joust_status joust_loop_add_signals(joust_loop *loop, joust_loop_signal_fn fn, void *arg,
                                    joust_error *err)
{
    if (loop->signal_fd >= 0)
        return joust_fail(err, JOUST_BUG, "loop: signals were added before");
    sigset_t set = signals_of_loop();
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    if (fd < 0)
        return joust_fail(err, JOUST_IO, "loop: no signalfd: %s", strerror(errno));
    joust_status st = joust_loop_add_fd(loop, fd, on_signal_fd, loop, err);
    if (st != JOUST_OK) {
        close(fd);
        return st;
    }
    pthread_sigmask(SIG_BLOCK, &set, &loop->mask_before);
    loop->signal_fd = fd;
    loop->on_signal = fn;
    loop->signal_arg = arg;
    return JOUST_OK;
}

void joust_loop_signals_block(void)
{
    sigset_t set = signals_of_loop();
    pthread_sigmask(SIG_BLOCK, &set, NULL);
}

void joust_loop_signals_unblock(void)
{
    sigset_t set = signals_of_loop();
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* ----------------------------------------------------------------------------------------- turn */

static zmq_pollitem_t poll_item_of(const source *s)
{
    zmq_pollitem_t item = {.fd = s->fd};
    if (s->kind == SOURCE_SOCKET)
        item.socket = joust_socket_handle(s->socket);
    else if (s->kind == SOURCE_LINKS)
        item.socket = joust_socket_monitor_handle(s->socket);
    item.events = (short)((s->wanted & JOUST_READABLE ? ZMQ_POLLIN : 0) |
                          (s->wanted & JOUST_WRITABLE ? ZMQ_POLLOUT : 0));
    return item;
}

/* By value: a callback may add sources, which moves the array. */
static void call_source(const source *s, uint32_t events)
{
    joust_link_event event;
    switch (s->kind) {
    case SOURCE_SOCKET:
    case SOURCE_FD:
        s->ready(s->arg, events);
        break;
    case SOURCE_ACTOR:
        joust_actor_collect(s->actor, JOUST_LOOP_BATCH);
        break;
    case SOURCE_LINKS:
        if (joust_socket_link_next(s->socket, &event, NULL) == JOUST_OK)
            s->link(s->arg, event);
        break;
    }
}

static long wait_time(const joust_loop *loop, int64_t timeout_ms)
{
    if (loop->n_timers == 0)
        return (long)timeout_ms;
    int64_t left = loop->timers[0].at_ms - joust_clock_ms();
    if (left < 0)
        left = 0;
    return (long)(timeout_ms >= 0 && timeout_ms < left ? timeout_ms : left);
}

joust_status joust_loop_turn(joust_loop *loop, int64_t timeout_ms, joust_error *err)
{
    forget_removed(loop);
    uint32_t n = loop->n_sources; /* what is added in this turn is polled in the next */
    for (uint32_t i = 0; i < n; i++)
        loop->items[i] = poll_item_of(&loop->sources[i]);
    int ready = zmq_poll(loop->items, (int)n, wait_time(loop, timeout_ms));
    if (ready < 0 && zmq_errno() != EINTR)
        return joust_fail(err, JOUST_IO, "loop: poll: %s", zmq_strerror(zmq_errno()));
    loop->now_ms = joust_clock_ms();
    for (uint32_t i = 0; i < n && ready > 0; i++) {
        short got = loop->items[i].revents;
        uint32_t events = (got & (ZMQ_POLLIN | ZMQ_POLLERR) ? JOUST_READABLE : 0u) |
                          (got & ZMQ_POLLOUT ? JOUST_WRITABLE : 0u);
        source s = loop->sources[i];
        if (events && !s.removed)
            call_source(&s, events);
    }
    run_timers(loop);
    return JOUST_OK;
}

joust_status joust_loop_run(joust_loop *loop, joust_error *err)
{
    loop->stopped = false;
    while (!loop->stopped) {
        joust_status st = joust_loop_turn(loop, -1, err);
        if (st != JOUST_OK)
            return st;
    }
    return JOUST_OK;
}

void joust_loop_stop(joust_loop *loop)
{
    loop->stopped = true;
}

int64_t joust_loop_now(const joust_loop *loop)
{
    return loop->now_ms;
}
