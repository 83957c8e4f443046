/* joust bench coordinator: what is measured, and how a run of it is described.
 *
 *   verb_bench.c ─▶ bench_cluster.c   the real coordinator, store and protocol, null workers and judges (bench_peer.c)
 *                ─▶ bench_raw.c       the same messages and records through ZeroMQ and RocksDB by hand, without logic
 *   bench_load.c    the job, the trajectories and verdicts that both carry
 *   bench_process.c forked children and what they report */
#ifndef JOUST_OPS_BENCH_H
#define JOUST_OPS_BENCH_H

#include "ops/bench_process.h"

#define JOUST_BENCH_MAX_PEERS  64u /* workers and judges together */
#define JOUST_BENCH_MAX_WINDOW 1024u

struct joust_bench_load; /* ops/bench_load.h */

typedef struct joust_bench_options {
    uint64_t trajectories;               /* at least; rounded up to whole rounds */
    uint32_t bytes;                      /* of a recorded trajectory, about */
    uint32_t workers, judges;            /* processes */
    uint32_t samples;                    /* trajectories of a group */
    uint32_t window;                     /* groups that a peer holds at once */
    const char *dir;                     /* private folder for sockets, inputs and stores */
    const char *keep;                    /* folder that keeps the store, or NULL: removed */
    const struct joust_bench_load *load; /* what all runs answer; made once */
} joust_bench_options;

/* One run. CPU times are of whole processes, start and end included. */
typedef struct joust_bench_run {
    uint64_t trajectories, verdicts, pairs; /* durable in the end */
    uint64_t commits;                       /* raw: synced commits */
    double seconds;                         /* from the first work given to the last thing done */
    double rate;                            /* trajectories a second */
    double cpu_us, all_cpu_us;       /* a trajectory: of the coordinator, and of all processes */
    double given;                    /* processors' worth of time that all processes got */
    double p50_us, p99_us;           /* a worker's round trips, RESULT_ACK to RESULT_ACK */
    uint64_t peak_bytes;             /* resident memory of the coordinator at most */
    joust_bench_resident fifth, end; /* and after a fifth of the run, and at its end */
} joust_bench_run;

/* Fills seconds, rate, CPU and round trips from the board and the processes, of which the first is the coordinator. */
void joust_bench_run_finish(joust_bench_run *run, joust_bench_board *board,
                            const joust_bench_process *processes, uint32_t n);

/* The real thing. Errors: JOUST_PEER_LOST (a process failed), JOUST_BUG (the store lacks something). */
JOUST_MUST_USE joust_status joust_bench_cluster(const joust_bench_options *options,
                                                joust_bench_board *board, joust_bench_run *ret,
                                                joust_error *err);

/* Messages and records of the real run, for the one by hand. */
typedef struct joust_bench_sizes {
    uint32_t prompt, trajectory, verdict, pair; /* bytes */
} joust_bench_sizes;

typedef enum joust_bench_raw_mode {
    JOUST_BENCH_PIPELINE, /* messages and synced commits */
    JOUST_BENCH_ROUTER,   /* messages alone */
    JOUST_BENCH_PUTS      /* synced commits alone, of half the groups in flight each */
} joust_bench_raw_mode;

JOUST_MUST_USE joust_status joust_bench_raw(const joust_bench_options *options,
                                            const joust_bench_sizes *sizes,
                                            joust_bench_raw_mode mode, joust_bench_board *board,
                                            joust_bench_run *ret, joust_error *err);

#endif
