/* Processes of a benchmark: forked children that report through a block of shared memory. The parent makes no thread and
 * no socket, so that it may fork at any time. */
#ifndef JOUST_OPS_BENCH_PROCESS_H
#define JOUST_OPS_BENCH_PROCESS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "proto/base/status.h"

#define JOUST_BENCH_TRIPS     (1u << 16) /* round trips kept of a run */
#define JOUST_BENCH_PROCESSES 80u

/* What the processes of one run tell their parent. */
typedef struct joust_bench_board {
    _Atomic int64_t begin_ns, end_ns; /* monotonic: first work given, last thing done; 0: not yet */
    _Atomic uint64_t trajectories, verdicts, pairs; /* durable */
    _Atomic uint64_t commits;
    _Atomic uint32_t n_trips;
    int64_t trips_ns[JOUST_BENCH_TRIPS]; /* (min(n_trips, JOUST_BENCH_TRIPS)) */
} joust_bench_board;

/* Shared with children forked afterwards. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_bench_board_create(joust_bench_board **ret, joust_error *err);
void joust_bench_board_free(joust_bench_board **board);
void joust_bench_board_clear(joust_bench_board *board);
void joust_bench_note_begin(joust_bench_board *board); /* the first caller wins */
void joust_bench_note_end(joust_bench_board *board);   /* the last caller wins */
void joust_bench_note_trip(joust_bench_board *board, int64_t ns);

/* Resident memory at a point of a process's life. It goes up and down as write buffers fill and are written: the mean
 * of a stretch of its life before that point, a tenth of the whole, says whether it grows. */
typedef struct joust_bench_resident {
    double mean_bytes;
    uint64_t peak_bytes; /* until then */
} joust_bench_resident;

/* Body of a child. Thread: the child's first. */
typedef joust_status joust_bench_main(void *arg, joust_error *err);

typedef struct joust_bench_process {
    const char *name;                /* borrowed */
    pid_t pid;                       /* 0: not started, or waited for */
    double cpu_us;                   /* user and system time of its whole life */
    uint64_t peak_bytes;             /* resident at most */
    joust_bench_resident fifth, end; /* after a fifth of its life, and at its end */
    struct {
        uint32_t *pages; /* (n), owned while it runs: resident, a sample every 10 ms */
        uint32_t n;
        size_t capacity;
        int64_t next_ns;
    } samples;
} joust_bench_process;

/* Forks a child that runs body(arg); it dies with this process. Errors: JOUST_IO. */
JOUST_MUST_USE joust_status joust_bench_start(joust_bench_process *process, const char *name,
                                              joust_bench_main *body, void *arg, joust_error *err);
/* Waits for all. If one fails (it has said why on standard error) the others are killed and waited for.
 * Errors: JOUST_PEER_LOST naming it. */
JOUST_MUST_USE joust_status joust_bench_wait(joust_bench_process *processes, uint32_t n,
                                             joust_error *err);
void joust_bench_kill(joust_bench_process *processes, uint32_t n); /* those that still run */

#endif
