/* A joust_gpu whose kernels run in the emulator, in the process's memory. */
#include <stdio.h>
#include <stdlib.h>

#include "proto/base/alloc.h"
#include "worker/engine/cuda/cuda_bodies_internal.h"

uint64_t emulator_memory, emulator_used, emulator_peak, emulator_n_launches, emulator_n_replays;

/* ---- kernels --------------------------------------------------------------------------------- */

#define X(name, args, threads)                                                                     \
    static void kernel_##name(const void *a)                                                       \
    {                                                                                              \
        JOUST_GPU_BODY_##name((const joust_gpu_##args##_args *)a);                                 \
    }
JOUST_GPU_KERNELS(X)
#undef X

static const struct {
    void (*body)(const void *args);
    uint32_t threads;
    size_t n_bytes;
} kernels[] = {
#define X(name, args, threads) {kernel_##name, threads, sizeof(joust_gpu_##args##_args)},
    JOUST_GPU_KERNELS(X)
#undef X
};

/* ---- launches and records -------------------------------------------------------------------- */

#define MAX_ARGS_BYTES 256u

typedef struct launch {
    joust_gpu_kernel kernel;
    uint32_t x, y;
    _Alignas(16) unsigned char args[MAX_ARGS_BYTES];
} launch;

typedef struct record {
    launch *launches;
    size_t n, room;
} record;

typedef struct emulated {
    joust_gpu base;
    record *recording;
} emulated;

static emulated *of(joust_gpu *g)
{
    return (emulated *)(void *)g;
}

static void launch_run(const launch *l)
{
    emulator_n_launches++;
    emulator_run(kernels[l->kernel].body, l->args, kernels[l->kernel].threads, l->x, l->y);
}

static joust_status gpu_launch(joust_gpu *g, joust_gpu_kernel kernel, uint32_t x, uint32_t y,
                               const void *args, joust_error *err)
{
    launch l = {.kernel = kernel, .x = x, .y = y};
    record *r = of(g)->recording;
    if (x == 0 || y == 0 || kernels[kernel].n_bytes > MAX_ARGS_BYTES)
        return joust_fail(err, JOUST_BUG, "an empty launch, or too many arguments");
    memcpy(l.args, args, kernels[kernel].n_bytes);
    if (!r) {
        launch_run(&l);
        return JOUST_OK;
    }
    if (!joust_grow(&r->launches, r->n, &r->room, sizeof(*r->launches)))
        return joust_fail(err, JOUST_NOMEM, "record: out of memory");
    r->launches[r->n++] = l;
    return JOUST_OK;
}

static joust_status gpu_record_begin(joust_gpu *g, joust_error *err)
{
    of(g)->recording = joust_calloc(1, sizeof(record));
    return of(g)->recording ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "record: out of memory");
}

static joust_status gpu_record_end(joust_gpu *g, void **ret, joust_error *err)
{
    (void)err;
    *ret = of(g)->recording;
    of(g)->recording = NULL;
    return JOUST_OK;
}

static joust_status gpu_replay(joust_gpu *g, void *what, joust_error *err)
{
    (void)g;
    (void)err;
    const record *r = what;
    emulator_n_replays++;
    for (size_t i = 0; i < r->n; i++)
        launch_run(&r->launches[i]);
    return JOUST_OK;
}

static void gpu_record_free(joust_gpu *g, void *what)
{
    (void)g;
    record *r = what;
    joust_free(r->launches);
    joust_free(r);
}

/* ---- memory ---------------------------------------------------------------------------------- */

#define HEADER_BYTES 64u /* holds the block's size */

static joust_status gpu_alloc(joust_gpu *g, uint64_t n_bytes, void **ret, joust_error *err)
{
    (void)g;
    unsigned char *block = NULL;
    if (!emulator_memory || emulator_used + n_bytes <= emulator_memory)
        block = joust_calloc_aligned(1, n_bytes + HEADER_BYTES);
    if (!block)
        return joust_fail(err, JOUST_NOMEM, "GPU out of memory (emulated)");
    memcpy(block, &n_bytes, sizeof(n_bytes));
    memset(block + HEADER_BYTES, 0xff, n_bytes);
    emulator_used += n_bytes;
    if (emulator_used > emulator_peak)
        emulator_peak = emulator_used;
    *ret = block + HEADER_BYTES;
    return JOUST_OK;
}

static void gpu_free(joust_gpu *g, void *at)
{
    (void)g;
    if (!at)
        return;
    unsigned char *block = (unsigned char *)at - HEADER_BYTES;
    uint64_t n_bytes;
    memcpy(&n_bytes, block, sizeof(n_bytes));
    emulator_used -= n_bytes;
    joust_free_aligned(block);
}

static joust_status gpu_move(joust_gpu *g, void *to, const void *from, uint64_t n_bytes,
                             joust_error *err)
{
    (void)g;
    (void)err;
    memcpy(to, from, n_bytes);
    return JOUST_OK;
}

static void gpu_close(joust_gpu *g)
{
    joust_free(g);
}

joust_status joust_gpu_open(const joust_device_options *options, joust_gpu **ret, joust_error *err)
{
    if (options->index > 0)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "--device cuda:%u: only 1 GPU is visible (emulated), counted from 0",
                          options->index);
    emulated *e = joust_calloc(1, sizeof(*e));
    if (!e)
        return joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    e->base = (joust_gpu){.precision = options->precision,
                          .n_memory_bytes = emulator_memory ? emulator_memory : UINT64_C(1) << 30,
                          .alloc = gpu_alloc,
                          .free = gpu_free,
                          .put = gpu_move,
                          .get = gpu_move,
                          .copy = gpu_move,
                          .launch = gpu_launch,
                          .record_begin = gpu_record_begin,
                          .record_end = gpu_record_end,
                          .replay = gpu_replay,
                          .record_free = gpu_record_free,
                          .close = gpu_close};
    snprintf(e->base.description, sizeof(e->base.description), "an emulated GPU, for tests");
    snprintf(e->base.numeric_class, sizeof(e->base.numeric_class), "emulated-%s-1",
             options->precision == JOUST_PRECISION_F32 ? "f32" : "bf16");
    *ret = &e->base;
    return JOUST_OK;
}
