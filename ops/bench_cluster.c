/* The real coordinator on a job made in memory, with null peers. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/coordinator.h"
#include "ops/bench.h"
#include "ops/bench_load.h"
#include "ops/bench_peer.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "storage/tables.h"

typedef struct cluster {
    const joust_bench_options *options;
    joust_bench_board *board;
    joust_job job;
    char *store;
    char endpoint[256];
    joust_bench_peer_options peers[JOUST_BENCH_MAX_PEERS];
} cluster;

/* Bodies of the processes ---------------------------------------------------------------------- */

static joust_status run_coordinator(void *arg, joust_error *err)
{
    cluster *c = arg;
    joust_coordinator_options options = {.store = c->store, .endpoint = c->endpoint};
    joust_coordinator_end end;
    char reason[1024] = "";
    joust_status st = joust_coordinator_run(&c->job, &options, &end, reason, err);
    if (st == JOUST_OK && end != JOUST_END_COMPLETE)
        st = joust_fail(err, JOUST_BUG, "the job isn't complete: %s", reason);
    return st;
}

static joust_status run_peer(void *arg, joust_error *err)
{
    return joust_bench_peer(arg, err);
}

static joust_status count(joust_store *store, joust_family family, _Atomic uint64_t *ret,
                          joust_error *err)
{
    joust_key_range all = joust_range_all();
    uint64_t n = 0;
    joust_status st = joust_store_count(store, family, &all, &n, err);
    atomic_store(ret, n);
    return st;
}

/* What is durable in the end, from the store itself. */
static joust_status run_count(void *arg, joust_error *err)
{
    cluster *c = arg;
    joust_store *store;
    joust_status st = joust_store_open_read(c->store, &store, err);
    if (st != JOUST_OK)
        return st;
    st = count(store, JOUST_FAMILY_TRAJECTORIES, &c->board->trajectories, err);
    if (st == JOUST_OK)
        st = count(store, JOUST_FAMILY_VERDICTS, &c->board->verdicts, err);
    if (st == JOUST_OK)
        st = count(store, JOUST_FAMILY_PAIRS, &c->board->pairs, err);
    joust_store_close(&store);
    return st;
}

/* A run ---------------------------------------------------------------------------------------- */

static void name_peer(cluster *c, uint32_t i)
{
    const joust_bench_options *o = c->options;
    bool worker = i < o->workers;
    joust_bench_peer_options *p = &c->peers[i];
    *p = (joust_bench_peer_options){.endpoint = c->endpoint,
                                    .role = worker ? JOUST_PEER_WORKER : JOUST_PEER_JUDGE,
                                    .credit = o->window,
                                    .load = o->load,
                                    .board = c->board};
    snprintf(p->name, sizeof(p->name), "%s-%u", worker ? "worker" : "judge",
             worker ? i : i - o->workers);
}

static joust_status run_processes(cluster *c, joust_bench_run *run, joust_error *err)
{
    const joust_bench_options *o = c->options;
    joust_bench_process processes[JOUST_BENCH_PROCESSES] = {0};
    uint32_t n = 1 + o->workers + o->judges;
    joust_status st = joust_bench_start(&processes[0], "coordinator", run_coordinator, c, err);
    for (uint32_t i = 0; st == JOUST_OK && i < n - 1; i++) {
        name_peer(c, i);
        st = joust_bench_start(&processes[1 + i], c->peers[i].name, run_peer, &c->peers[i], err);
    }
    if (st == JOUST_OK)
        st = joust_bench_wait(processes, n, err);
    joust_bench_kill(processes, n);
    joust_bench_process counting = {0};
    if (st == JOUST_OK)
        st = joust_bench_start(&counting, "count", run_count, c, err);
    if (st == JOUST_OK)
        st = joust_bench_wait(&counting, 1, err);
    if (st != JOUST_OK)
        return st;
    uint64_t groups = joust_bench_groups(o), trajectories = groups * o->samples;
    *run = (joust_bench_run){.trajectories = atomic_load(&c->board->trajectories),
                             .verdicts = atomic_load(&c->board->verdicts),
                             .pairs = atomic_load(&c->board->pairs)};
    if (run->trajectories != trajectories || run->verdicts != trajectories || run->pairs != groups)
        return joust_fail(err, JOUST_BUG,
                          "%s: %llu trajectories, %llu verdicts, %llu pairs; expected %llu of "
                          "each and %llu pairs",
                          c->store, (unsigned long long)run->trajectories,
                          (unsigned long long)run->verdicts, (unsigned long long)run->pairs,
                          (unsigned long long)trajectories, (unsigned long long)groups);
    joust_bench_run_finish(run, c->board, processes, n);
    return JOUST_OK;
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

void joust_bench_run_finish(joust_bench_run *run, joust_bench_board *board,
                            const joust_bench_process *processes, uint32_t n)
{
    double all_us = 0, count_of = run->trajectories ? (double)run->trajectories : 1;
    for (uint32_t i = 0; i < n; i++)
        all_us += processes[i].cpu_us;
    int64_t ns = atomic_load(&board->end_ns) - atomic_load(&board->begin_ns);
    run->seconds = (double)(ns > 0 ? ns : 1) / 1e9;
    run->rate = (double)run->trajectories / run->seconds;
    run->cpu_us = processes[0].cpu_us / count_of;
    run->all_cpu_us = all_us / count_of;
    run->given = all_us / 1e6 / run->seconds;
    run->peak_bytes = processes[0].peak_bytes;
    run->fifth = processes[0].fifth;
    run->end = processes[0].end;
    uint32_t trips = atomic_load(&board->n_trips);
    if (trips > JOUST_BENCH_TRIPS)
        trips = JOUST_BENCH_TRIPS;
    if (!trips)
        return;
    qsort(board->trips_ns, trips, sizeof(board->trips_ns[0]), by_size);
    run->p50_us = (double)board->trips_ns[trips / 2] / 1e3;
    run->p99_us = (double)board->trips_ns[(uint64_t)trips * 99 / 100] / 1e3;
}

joust_status joust_bench_cluster(const joust_bench_options *options, joust_bench_board *board,
                                 joust_bench_run *ret, joust_error *err)
{
    cluster *c = joust_calloc(1, sizeof(*c));
    if (!c)
        return joust_fail(err, JOUST_NOMEM, "bench: out of memory");
    c->options = options;
    c->board = board;
    joust_bench_board_clear(board);
    snprintf(c->endpoint, sizeof(c->endpoint), "ipc://%s/peers", options->dir);
    c->store = options->keep ? joust_strdup(options->keep) : joust_path_join(options->dir, "store");
    joust_status st = c->store ? joust_bench_job(options, options->load, &c->job, err)
                               : joust_fail(err, JOUST_NOMEM, "bench: out of memory");
    if (st == JOUST_OK) {
        st = run_processes(c, ret, err);
        joust_job_fini(&c->job);
        if (!options->keep && joust_dir_remove(c->store, NULL) != JOUST_OK && st == JOUST_OK)
            st = joust_fail(err, JOUST_IO, "%s: can't be removed", c->store);
    }
    joust_free(c->store);
    joust_free(c);
    return st;
}
