#include "worker/engine/bounds.h"

#include <stdatomic.h>

#include "engine_internal.h"
#include "model_internal.h"
#include "proto/base/clock.h"

#define BURST_STEPS 20000u              /* about a tenth of a millisecond */
#define READ_FLOATS (UINT64_C(1) << 18) /* 1 MiB: what a thread takes at a time */

typedef struct multiply_bound {
    joust_engine *engine;
    int64_t end_ns;
    atomic_ullong flop;
} multiply_bound;

static void multiply_thread(void *context, uint32_t thread)
{
    multiply_bound *b = context;
    uint64_t flop = 0, burst;
    (void)thread;
    for (; joust_clock_ns() < b->end_ns; flop += burst)
        (void)b->engine->kernels->multiply_peak(BURST_STEPS, 0.5f, &burst);
    atomic_fetch_add(&b->flop, flop);
}

double joust_bound_multiply(joust_engine *engine, double seconds)
{
    const int64_t begin = joust_clock_ns();
    multiply_bound b = {.engine = engine, .end_ns = begin + (int64_t)(seconds * 1e9)};
    atomic_init(&b.flop, 0);
    joust_pool_run(engine->pool, multiply_thread, &b);
    return (double)atomic_load(&b.flop) * 1e9 / (double)(joust_clock_ns() - begin);
}

typedef struct read_bound {
    const joust_kernels *kernels;
    const float *x;
    uint64_t n;
} read_bound;

static void read_part(void *context, uint64_t part)
{
    const read_bound *b = context;
    const uint64_t first = part * READ_FLOATS, left = b->n - first;
    (void)b->kernels->read(b->x + first, left < READ_FLOATS ? left : READ_FLOATS);
}

joust_status joust_bound_read(joust_engine *engine, joust_model *model, double seconds, double *ret,
                              joust_error *err)
{
    joust_status st = joust_model_prepare(engine, model, err);
    if (st)
        return st;
    read_bound b = {engine->kernels, model->packed, model->n_packed};
    const int64_t begin = joust_clock_ns();
    uint64_t n_reads = 0;
    int64_t taken = 0;
    for (; (double)taken < seconds * 1e9; n_reads++, taken = joust_clock_ns() - begin)
        joust_pool_each(engine->pool, (b.n + READ_FLOATS - 1) / READ_FLOATS, read_part, &b);
    *ret = (double)taken * 1e-9 / (double)n_reads;
    return JOUST_OK;
}
