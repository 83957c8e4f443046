/* The figures of a benchmark: medians over its repetitions, with the least and the greatest. */
#ifndef JOUST_OPS_BENCH_REPORT_H
#define JOUST_OPS_BENCH_REPORT_H

#include "ops/bench.h"

#define JOUST_BENCH_REPETITIONS 64u

/* One repetition: all kinds of runs, one after the other. */
typedef struct joust_bench_round {
    joust_bench_run real, raw, router, puts; /* at the full window */
    joust_bench_run real_single, raw_single; /* one worker, one judge, a window of 1 */
} joust_bench_round;

/* What puts alone and messages alone allow together, in trajectories a second: neither can be outrun, and both take the
 * time of the same processors: min(puts, router, given / (cost of puts + cost of router)), where `given` is the most
 * processors' worth of time that either of the two got, and the costs are processor time a trajectory over all processes. */
double joust_bench_allowance(const joust_bench_run *puts, const joust_bench_run *router);

void joust_bench_print(const joust_bench_options *options, const joust_bench_sizes *sizes,
                       const joust_bench_round *rounds, uint32_t n);
void joust_bench_print_json(const joust_bench_options *options, const joust_bench_sizes *sizes,
                            const joust_bench_round *rounds, uint32_t n);

#endif
