/* A null worker or judge: speaks the real protocol, and answers each unit as soon as it comes. One thread. */
#ifndef JOUST_OPS_BENCH_PEER_H
#define JOUST_OPS_BENCH_PEER_H

#include "ops/bench_load.h"

typedef struct joust_bench_peer_options {
    const char *endpoint;
    char name[32]; /* "worker-0" */
    joust_peer_role role;
    uint32_t credit;
    const joust_bench_load *load;
    joust_bench_board *board; /* a worker notes its first lease, its round trips, and its end */
} joust_bench_peer_options;

/* Serves until the coordinator says that the work is done. Errors: why it was sent away. */
JOUST_MUST_USE joust_status joust_bench_peer(const joust_bench_peer_options *options,
                                             joust_error *err);

#endif
