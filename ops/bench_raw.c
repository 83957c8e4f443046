/* What one would write by hand: the messages and records of the real run through ZeroMQ and RocksDB, without logic.
 *
 *   worker ──RESULT──▶ ROUTER ──CASE──▶ judge       a message is a group, forwarded without a copy
 *                      ROUTER ◀─VERDICT── judge
 *                      WriteBatch ──▶ synced on a thread of its own ──▶ ACK to both, next TASK
 *
 * Each group has the messages of the real run: its task, result, case and verdict, and both acknowledgements; those of one
 * commit leave together. The router finds a group by its place in the window and looks into no body. */
#include <stdio.h>
#include <string.h>
#include <zmq.h>

#include "ops/bench.h"
#include "ops/bench_disk.h"
#include "ops/bench_load.h"
#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"

#define BURST 256 /* messages taken before others have their turn */

typedef enum kind { JOIN_WORKER = 1, JOIN_JUDGE, TASK, RESULT, CASE, VERDICT, ACK, BYE } kind;

typedef struct head { /* first frame; as long as the real one's envelope */
    uint32_t kind, n;
    uint64_t group;
    uint32_t slot, spare;
} head;

typedef struct raw {
    const joust_bench_options *options;
    const joust_bench_sizes *sizes;
    joust_bench_raw_mode mode;
    joust_bench_board *board;
    const char *bytes; /* of recorded trajectories: twice a RESULT's body and more */
    char *dir;
    char endpoint[256];
    uint64_t n_groups;
} raw;

static joust_status zmq_fail(joust_error *err, const char *what)
{
    return joust_fail(err, JOUST_IO, "%s: %s", what, zmq_strerror(zmq_errno()));
}

static size_t result_bytes(const raw *r)
{
    return (size_t)r->sizes->trajectory * r->options->samples;
}

static size_t verdicts_bytes(const raw *r)
{
    return (size_t)r->sizes->verdict * r->options->samples;
}

/* Peers ---------------------------------------------------------------------------------------- */

static bool send_head(void *socket, const head *h, bool more)
{
    return zmq_send(socket, h, sizeof(*h), more ? ZMQ_SNDMORE : 0) >= 0;
}

static void keep_bytes(void *data, void *hint)
{
    (void)data, (void)hint; /* they live as long as the process */
}

/* A body without a copy. */
static bool send_static(void *socket, const char *data, size_t n)
{
    zmq_msg_t body;
    zmq_msg_init_data(&body, (void *)(uintptr_t)data, n, keep_bytes, NULL);
    return zmq_msg_send(&body, socket, 0) >= 0;
}

static const char *bytes_of(const raw *r, uint64_t group)
{
    return r->bytes + group * 1021 % result_bytes(r);
}

/* Answers one message; false after BYE or an error. */
static bool answer(const raw *r, void *socket, const head *h, zmq_msg_t *body, int64_t *acked_ns)
{
    if (h->kind == ACK) {
        int64_t now = joust_clock_ns();
        if (*acked_ns)
            joust_bench_note_trip(r->board, now - *acked_ns);
        *acked_ns = now;
        return true;
    }
    if (h->kind == CASE) {
        head out = {.kind = VERDICT, .group = h->group, .slot = h->slot};
        return send_head(socket, &out, true) &&
               send_static(socket, bytes_of(r, h->group), verdicts_bytes(r));
    }
    if (h->kind != TASK)
        return false;
    const char *at = zmq_msg_data(body); /* a task: its head, and a prompt */
    for (uint32_t i = 0; i < h->n; i++, at += sizeof(head) + r->sizes->prompt) {
        head out;
        memcpy(&out, at, sizeof(out));
        out.kind = RESULT;
        if (!send_head(socket, &out, true) ||
            !send_static(socket, bytes_of(r, out.group), result_bytes(r)))
            return false;
    }
    return true;
}

static joust_status run_peer(const raw *r, kind join, joust_error *err)
{
    void *context = zmq_ctx_new(), *socket = zmq_socket(context, ZMQ_DEALER);
    int none = 0;
    head h = {.kind = join};
    int64_t acked_ns = 0;
    zmq_setsockopt(socket, ZMQ_SNDHWM, &none, sizeof(none));
    zmq_setsockopt(socket, ZMQ_RCVHWM, &none, sizeof(none));
    if (zmq_connect(socket, r->endpoint) != 0 || !send_head(socket, &h, false))
        return zmq_fail(err, r->endpoint);
    while (h.kind != BYE) {
        zmq_msg_t body;
        zmq_msg_init(&body);
        if (zmq_recv(socket, &h, sizeof(h), 0) != (int)sizeof(h))
            return zmq_fail(err, r->endpoint);
        if ((h.kind == TASK || h.kind == CASE || h.kind == ACK) &&
            zmq_msg_recv(&body, socket, 0) < 0)
            return zmq_fail(err, r->endpoint);
        if (h.kind != BYE &&
            !answer(r, socket, &h, &body, join == JOIN_WORKER ? &acked_ns : &(int64_t){0}))
            return zmq_fail(err, r->endpoint);
        zmq_msg_close(&body);
    }
    zmq_close(socket);
    zmq_ctx_term(context);
    return JOUST_OK;
}

static joust_status run_worker(void *arg, joust_error *err)
{
    return run_peer(arg, JOIN_WORKER, err);
}

static joust_status run_judge(void *arg, joust_error *err)
{
    return run_peer(arg, JOIN_JUDGE, err);
}

/* Router --------------------------------------------------------------------------------------- */

typedef struct peer {
    uint8_t id[16];
    uint32_t n_id;
    bool judge;
    uint32_t n_held; /* JUDGE: cases given */
    joust_buf ids;   /* heads to acknowledge with this commit */
    joust_buf tasks; /* of n_tasks, to be sent */
    uint32_t n_tasks;
} peer;

typedef struct slot { /* a group in flight */
    uint64_t group;
    uint32_t worker, judge;
    zmq_msg_t body; /* its result, until it is in a batch */
} slot;

typedef struct router {
    const raw *r;
    void *context, *socket;
    joust_bench_disk *disk; /* NULL: messages alone */
    peer peers[JOUST_BENCH_MAX_PEERS];
    uint32_t n_peers;
    slot *slots;                                 /* (workers * window) */
    uint32_t *waiting, n_waiting, first_waiting; /* ring of slots: results without a judge */
    uint32_t *filling, n_filling, *committing, n_committing; /* slots in the batches */
    uint32_t n_slots;
    uint64_t n_given, n_done;
} router;

static bool send_to(router *x, const peer *p, const head *h, const void *body, size_t n)
{
    return zmq_send(x->socket, p->id, p->n_id, ZMQ_SNDMORE) >= 0 && send_head(x->socket, h, n) &&
           (n == 0 || zmq_send(x->socket, body, n, 0) >= 0);
}

/* The next group, in this slot. */
static void give(router *x, uint32_t worker, uint32_t at)
{
    peer *p = &x->peers[worker];
    if (x->n_given == x->r->n_groups)
        return;
    x->slots[at].group = x->n_given++;
    x->slots[at].worker = worker;
    head h = {.kind = TASK, .group = x->slots[at].group, .slot = at};
    joust_buf_add(&p->tasks, &h, sizeof(h));
    joust_buf_add(&p->tasks, x->r->bytes, x->r->sizes->prompt);
    p->n_tasks++;
}

/* Acknowledgements first, then tasks: one message of each a peer. */
static bool send_gathered(router *x)
{
    for (uint32_t i = 0; i < x->n_peers; i++) {
        peer *p = &x->peers[i];
        head acks = {.kind = ACK, .n = (uint32_t)(p->ids.n / sizeof(head))};
        head tasks = {.kind = TASK, .n = p->n_tasks};
        if ((acks.n && !send_to(x, p, &acks, p->ids.data, p->ids.n)) ||
            (tasks.n && !send_to(x, p, &tasks, p->tasks.data, p->tasks.n)))
            return false;
        joust_buf_clear(&p->ids);
        joust_buf_clear(&p->tasks);
        p->n_tasks = 0;
    }
    return true;
}

/* Waiting results to judges that have room. */
static bool forward(router *x)
{
    for (uint32_t i = 0; i < x->n_peers && x->n_waiting; i++) {
        peer *p = &x->peers[i];
        while (p->judge && p->n_held < x->r->options->window && x->n_waiting) {
            uint32_t at = x->waiting[x->first_waiting];
            x->first_waiting = (x->first_waiting + 1) % x->n_slots;
            x->n_waiting--;
            slot *s = &x->slots[at];
            s->judge = i;
            p->n_held++;
            head h = {.kind = CASE, .group = s->group, .slot = at};
            zmq_msg_t body;
            zmq_msg_init(&body);
            zmq_msg_copy(&body, &s->body);
            if (zmq_send(x->socket, p->id, p->n_id, ZMQ_SNDMORE) < 0 ||
                !send_head(x->socket, &h, true) || zmq_msg_send(&body, x->socket, 0) < 0)
                return false;
        }
    }
    return true;
}

static void put(router *x, uint32_t at, zmq_msg_t *verdicts)
{
    slot *s = &x->slots[at];
    const joust_bench_sizes *sizes = x->r->sizes;
    const char *t = zmq_msg_data(&s->body), *v = zmq_msg_data(verdicts);
    for (uint32_t i = 0; x->disk && i < x->r->options->samples; i++) {
        joust_bench_disk_put(x->disk, 0, s->group, i, t, sizes->trajectory);
        joust_bench_disk_put(x->disk, 1, s->group, i, v, sizes->verdict);
        t += sizes->trajectory;
        v += sizes->verdict;
    }
    if (x->disk)
        joust_bench_disk_put(x->disk, 2, s->group, 0, x->r->bytes, sizes->pair);
    zmq_msg_close(&s->body);
    x->filling[x->n_filling++] = at;
}

/* The groups of the batch are durable. */
static bool acknowledge(router *x)
{
    for (uint32_t i = 0; i < x->n_committing; i++) {
        uint32_t at = x->committing[i];
        slot *s = &x->slots[at];
        head h = {.kind = ACK, .group = s->group, .slot = at};
        joust_buf_add(&x->peers[s->worker].ids, &h, sizeof(h));
        joust_buf_add(&x->peers[s->judge].ids, &h, sizeof(h));
        x->peers[s->judge].n_held--;
        give(x, s->worker, at);
    }
    x->n_done += x->n_committing;
    x->n_committing = 0;
    return send_gathered(x) && forward(x);
}

static bool commit(router *x)
{
    if (!x->n_filling || (x->disk && joust_bench_disk_busy(x->disk)))
        return true;
    uint32_t *full = x->filling;
    x->filling = x->committing;
    x->committing = full;
    x->n_committing = x->n_filling;
    x->n_filling = 0;
    atomic_fetch_add(&x->r->board->commits, 1);
    if (!x->disk)
        return acknowledge(x);
    joust_bench_disk_commit(x->disk);
    return true;
}

/* A peer's first word. Once all are there, work is given. */
static bool join(router *x, const zmq_msg_t *id, bool judge)
{
    const joust_bench_options *o = x->r->options;
    peer *p = &x->peers[x->n_peers++];
    p->n_id = (uint32_t)zmq_msg_size(id);
    p->judge = judge;
    memcpy(p->id, zmq_msg_data((zmq_msg_t *)(uintptr_t)id), p->n_id);
    if (x->n_peers < o->workers + o->judges)
        return true;
    joust_bench_note_begin(x->r->board);
    for (uint32_t k = 0; k < o->window; k++)
        for (uint32_t i = 0, worker = 0; i < x->n_peers; i++)
            if (!x->peers[i].judge)
                give(x, i, o->window * worker++ + k);
    return send_gathered(x);
}

static bool take(router *x, const zmq_msg_t *id, const head *h, zmq_msg_t *body)
{
    switch (h->kind) {
    case JOIN_WORKER:
    case JOIN_JUDGE:
        return join(x, id, h->kind == JOIN_JUDGE);
    case RESULT:
        zmq_msg_init(&x->slots[h->slot].body);
        zmq_msg_move(&x->slots[h->slot].body, body);
        x->waiting[(x->first_waiting + x->n_waiting++) % x->n_slots] = h->slot;
        return forward(x);
    default:
        put(x, h->slot, body);
        return true;
    }
}

/* What has come, within bounds; false on an error. */
static bool receive(router *x)
{
    for (int i = 0; i < BURST; i++) {
        zmq_msg_t id, body;
        head h;
        zmq_msg_init(&id);
        zmq_msg_init(&body);
        if (zmq_msg_recv(&id, x->socket, ZMQ_DONTWAIT) < 0)
            return zmq_errno() == EAGAIN;
        bool fine = zmq_recv(x->socket, &h, sizeof(h), 0) == (int)sizeof(h) &&
                    (h.kind <= JOIN_JUDGE || zmq_msg_recv(&body, x->socket, 0) >= 0) &&
                    take(x, &id, &h, &body);
        zmq_msg_close(&id);
        zmq_msg_close(&body);
        if (!fine)
            return false;
    }
    return true;
}

static joust_status route(router *x, joust_error *err)
{
    zmq_pollitem_t items[2] = {{.socket = x->socket, .events = ZMQ_POLLIN}, {.events = ZMQ_POLLIN}};
    if (x->disk)
        items[1].fd = joust_bench_disk_fd(x->disk);
    while (x->n_done < x->r->n_groups) {
        if (zmq_poll(items, x->disk ? 2 : 1, -1) < 0 && zmq_errno() != EINTR)
            return zmq_fail(err, "poll");
        if (x->disk && items[1].revents) {
            joust_status st = joust_bench_disk_collect(x->disk, err);
            if (st != JOUST_OK)
                return st;
            if (!acknowledge(x))
                return zmq_fail(err, "acknowledge");
        }
        if (!receive(x) || !commit(x))
            return zmq_fail(err, "route");
    }
    joust_bench_note_end(x->r->board);
    head bye = {.kind = BYE};
    for (uint32_t i = 0; i < x->n_peers; i++)
        if (!send_to(x, &x->peers[i], &bye, NULL, 0))
            return zmq_fail(err, "bye");
    return JOUST_OK;
}

static joust_status open_router(router *x, joust_error *err)
{
    int none = 0, keep_ms = 5000;
    x->n_slots = x->r->options->workers * x->r->options->window;
    x->slots = joust_calloc(x->n_slots, sizeof(*x->slots));
    x->waiting = joust_calloc(x->n_slots, sizeof(*x->waiting));
    x->filling = joust_calloc(x->n_slots, sizeof(*x->filling));
    x->committing = joust_calloc(x->n_slots, sizeof(*x->committing));
    if (!x->slots || !x->waiting || !x->filling || !x->committing)
        return joust_fail(err, JOUST_NOMEM, "bench: out of memory");
    x->context = zmq_ctx_new();
    x->socket = zmq_socket(x->context, ZMQ_ROUTER);
    zmq_setsockopt(x->socket, ZMQ_SNDHWM, &none, sizeof(none));
    zmq_setsockopt(x->socket, ZMQ_RCVHWM, &none, sizeof(none));
    zmq_setsockopt(x->socket, ZMQ_LINGER, &keep_ms, sizeof(keep_ms));
    if (zmq_bind(x->socket, x->r->endpoint) != 0)
        return zmq_fail(err, x->r->endpoint);
    return x->r->mode == JOUST_BENCH_PIPELINE ? joust_bench_disk_open(x->r->dir, &x->disk, err)
                                              : JOUST_OK;
}

static joust_status run_router(void *arg, joust_error *err)
{
    router x = {.r = arg};
    joust_status st = open_router(&x, err);
    if (st == JOUST_OK)
        st = route(&x, err);
    if (st != JOUST_OK)
        return st; /* the process ends */
    joust_bench_disk_close(&x.disk);
    zmq_close(x.socket);
    zmq_ctx_term(x.context);
    for (uint32_t i = 0; i < x.n_peers; i++) {
        joust_buf_fini(&x.peers[i].ids);
        joust_buf_fini(&x.peers[i].tasks);
    }
    joust_free(x.slots);
    joust_free(x.waiting);
    joust_free(x.filling);
    joust_free(x.committing);
    return JOUST_OK;
}

/* Puts alone ----------------------------------------------------------------------------------- */

/* As many groups a commit as the pipeline can have in one: half of those in flight fill while the others are synced. */
static joust_status run_puts(void *arg, joust_error *err)
{
    const raw *r = arg;
    const joust_bench_options *o = r->options;
    uint64_t a_batch = ((uint64_t)o->workers * o->window + 1) / 2;
    joust_bench_disk *disk;
    joust_status st = joust_bench_disk_open(r->dir, &disk, err);
    joust_bench_note_begin(r->board);
    for (uint64_t group = 0; st == JOUST_OK && group < r->n_groups;) {
        for (uint64_t k = 0; k < a_batch && group < r->n_groups; k++, group++) {
            const char *at = bytes_of(r, group);
            for (uint32_t i = 0; i < o->samples; i++, at += r->sizes->trajectory) {
                joust_bench_disk_put(disk, 0, group, i, at, r->sizes->trajectory);
                joust_bench_disk_put(disk, 1, group, i, at, r->sizes->verdict);
            }
            joust_bench_disk_put(disk, 2, group, 0, r->bytes, r->sizes->pair);
        }
        if (joust_bench_disk_busy(disk))
            st = joust_bench_disk_collect(disk, err);
        joust_bench_disk_commit(disk);
        atomic_fetch_add(&r->board->commits, 1);
    }
    if (st == JOUST_OK)
        st = joust_bench_disk_collect(disk, err);
    joust_bench_note_end(r->board);
    if (st == JOUST_OK)
        joust_bench_disk_close(&disk);
    return st;
}

/* A run ---------------------------------------------------------------------------------------- */

static joust_status run_processes(raw *r, joust_bench_run *run, joust_error *err)
{
    const joust_bench_options *o = r->options;
    joust_bench_process processes[JOUST_BENCH_PROCESSES] = {0};
    bool alone = r->mode == JOUST_BENCH_PUTS;
    uint32_t n = alone ? 1 : 1 + o->workers + o->judges;
    joust_status st =
        joust_bench_start(&processes[0], "raw", alone ? run_puts : run_router, r, err);
    for (uint32_t i = 1; st == JOUST_OK && i < n; i++)
        st = i <= o->workers ? joust_bench_start(&processes[i], "raw worker", run_worker, r, err)
                             : joust_bench_start(&processes[i], "raw judge", run_judge, r, err);
    if (st == JOUST_OK)
        st = joust_bench_wait(processes, n, err);
    joust_bench_kill(processes, n);
    if (st != JOUST_OK)
        return st;
    uint64_t trajectories = r->n_groups * o->samples;
    *run = (joust_bench_run){.trajectories = trajectories,
                             .verdicts = trajectories,
                             .pairs = r->n_groups,
                             .commits = atomic_load(&r->board->commits)};
    joust_bench_run_finish(run, r->board, processes, n);
    return JOUST_OK;
}

joust_status joust_bench_raw(const joust_bench_options *options, const joust_bench_sizes *sizes,
                             joust_bench_raw_mode mode, joust_bench_board *board,
                             joust_bench_run *ret, joust_error *err)
{
    raw r = {.options = options,
             .sizes = sizes,
             .mode = mode,
             .board = board,
             .n_groups = joust_bench_groups(options)};
    joust_bench_board_clear(board);
    snprintf(r.endpoint, sizeof(r.endpoint), "ipc://%s/raw", options->dir);
    joust_buf bytes = {0};
    size_t n = 2 * (result_bytes(&r) + verdicts_bytes(&r)) + sizes->prompt;
    joust_status st = joust_bench_bytes(options->load, n, &bytes, err);
    r.bytes = (const char *)bytes.data;
    r.dir = joust_path_join(options->dir, "rocks");
    if (st == JOUST_OK)
        st = r.dir ? run_processes(&r, ret, err)
                   : joust_fail(err, JOUST_NOMEM, "bench: out of memory");
    if (r.dir && joust_dir_remove(r.dir, NULL) != JOUST_OK && st == JOUST_OK)
        st = joust_fail(err, JOUST_IO, "%s: can't be removed", r.dir);
    joust_free(r.dir);
    joust_buf_fini(&bytes);
    return st;
}
