/* The half of the CUDA plugin that runs on a GPU: the kernels, and a stream that runs them. */
#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cuda_runtime.h>

extern "C" {
#include "cuda_bodies_internal.h"
#include "cuda_kernels_internal.h"
#include "proto/base/alloc.h"
}

/* The oldest that has bf16 tensor cores: A100. */
#define OLDEST_MAJOR 8

/* ---- kernels --------------------------------------------------------------------------------- */

#define X(name, args, threads)                                                                     \
    static __global__ void __launch_bounds__(threads)                                              \
        kernel_##name(const __grid_constant__ joust_gpu_##args##_args a)                           \
    {                                                                                              \
        JOUST_GPU_BODY_##name(&a);                                                                 \
    }
JOUST_GPU_KERNELS(X)
#undef X

typedef struct kernel {
    const void *entry;
    const char *name;
    uint32_t threads;
} kernel;

static const kernel kernels[] = {
#define X(name, args, threads) {(const void *)kernel_##name, #name, threads},
    JOUST_GPU_KERNELS(X)
#undef X
};

/* ---- a stream -------------------------------------------------------------------------------- */

typedef struct stream {
    joust_gpu base; /* first: a joust_gpu * is a stream * */
    cudaStream_t at;
    int index;
    bool has_pool;
} stream;

/* Which GPU a thread speaks to is the thread's own setting; an engine may be made on one thread and used on another. */
static stream *stream_of(joust_gpu *g)
{
    stream *s = (stream *)(void *)g;
    (void)cudaSetDevice(s->index);
    return s;
}

/* One place for every call's result. */
static joust_status check(cudaError_t result, const char *what, joust_error *err)
{
    if (result == cudaSuccess)
        return JOUST_OK;
    (void)cudaGetLastError(); /* what can be forgotten is */
    if (result == cudaErrorMemoryAllocation)
        return joust_fail(
            err, JOUST_NOMEM,
            "GPU out of memory (%s): lower --kv-memory or the batch, or use a larger GPU", what);
    return joust_fail(
        err, JOUST_IO,
        "GPU: %s: %s (%s); start the process again, and look at nvidia-smi and the kernel's log",
        what, cudaGetErrorString(result), cudaGetErrorName(result));
}

static joust_status stream_alloc(joust_gpu *g, uint64_t n_bytes, void **ret, joust_error *err)
{
    void *block = NULL;
    const cudaError_t result = stream_of(g)->has_pool
                                   ? cudaMallocAsync(&block, n_bytes, stream_of(g)->at)
                                   : cudaMalloc(&block, n_bytes);
    const joust_status st = check(result, "allocation", err);
    if (!st)
        *ret = block;
    return st;
}

static void stream_free(joust_gpu *g, void *block)
{
    if (!block)
        return;
    const cudaError_t result =
        stream_of(g)->has_pool ? cudaFreeAsync(block, stream_of(g)->at) : cudaFree(block);
    (void)check(result, "free", NULL);
}

static joust_status stream_move(joust_gpu *g, void *to, const void *from, uint64_t n_bytes,
                                cudaMemcpyKind kind, joust_error *err)
{
    return check(cudaMemcpyAsync(to, from, n_bytes, kind, stream_of(g)->at), "copy", err);
}

/* What comes from pageable memory has left it when the call returns. */
static joust_status stream_put(joust_gpu *g, void *to, const void *from, uint64_t n_bytes,
                               joust_error *err)
{
    return stream_move(g, to, from, n_bytes, cudaMemcpyHostToDevice, err);
}

static joust_status stream_get(joust_gpu *g, void *to, const void *from, uint64_t n_bytes,
                               joust_error *err)
{
    const joust_status st = stream_move(g, to, from, n_bytes, cudaMemcpyDeviceToHost, err);
    return st ? st : check(cudaStreamSynchronize(stream_of(g)->at), "a pass", err);
}

static joust_status stream_copy(joust_gpu *g, void *to, const void *from, uint64_t n_bytes,
                                joust_error *err)
{
    return stream_move(g, to, from, n_bytes, cudaMemcpyDeviceToDevice, err);
}

static joust_status stream_launch(joust_gpu *g, joust_gpu_kernel which, uint32_t grid_x,
                                  uint32_t grid_y, const void *args, joust_error *err)
{
    void *list[] = {const_cast<void *>(args)};
    const kernel *k = &kernels[which];
    return check(cudaLaunchKernel(k->entry, dim3(grid_x, grid_y), dim3(k->threads), list, 0,
                                  stream_of(g)->at),
                 k->name, err);
}

static joust_status stream_record_begin(joust_gpu *g, joust_error *err)
{
    return check(cudaStreamBeginCapture(stream_of(g)->at, cudaStreamCaptureModeThreadLocal),
                 "graph", err);
}

static joust_status stream_record_end(joust_gpu *g, void **ret, joust_error *err)
{
    cudaGraph_t graph = NULL;
    cudaGraphExec_t ready = NULL;
    joust_status st = check(cudaStreamEndCapture(stream_of(g)->at, &graph), "graph", err);
    if (!st)
        st = check(cudaGraphInstantiate(&ready, graph, 0), "graph", err);
    if (graph)
        (void)cudaGraphDestroy(graph);
    if (!st)
        *ret = ready;
    return st;
}

static joust_status stream_replay(joust_gpu *g, void *record, joust_error *err)
{
    return check(cudaGraphLaunch((cudaGraphExec_t)record, stream_of(g)->at), "graph", err);
}

static void stream_record_free(joust_gpu *g, void *record)
{
    (void)cudaStreamSynchronize(stream_of(g)->at);
    (void)check(cudaGraphExecDestroy((cudaGraphExec_t)record), "graph", NULL);
}

static void stream_close(joust_gpu *g)
{
    (void)cudaStreamSynchronize(stream_of(g)->at);
    (void)cudaStreamDestroy(stream_of(g)->at);
    joust_free(g);
}

/* ---- opening --------------------------------------------------------------------------------- */

static joust_status gpu_find(const joust_device_options *options, cudaDeviceProp *ret,
                             joust_error *err)
{
    int n = 0;
    const cudaError_t result = cudaGetDeviceCount(&n);
    (void)cudaGetLastError();
    if (result == cudaErrorInsufficientDriver || result == cudaErrorStubLibrary)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "--device cuda: no NVIDIA driver here, or one older than CUDA %d.%d "
                          "needs: install or update "
                          "it, or use --device cpu",
                          CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
    if (result != cudaSuccess || n == 0)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "--device cuda: no GPU to be seen (%s): look at nvidia-smi and "
                          "CUDA_VISIBLE_DEVICES, or use "
                          "--device cpu",
                          result == cudaSuccess ? "none is visible" : cudaGetErrorString(result));
    if (options->index >= (uint32_t)n)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "--device cuda:%u: only %d GPUs are visible, counted from 0",
                          options->index, n);
    const cudaError_t asked = cudaGetDeviceProperties(ret, (int)options->index);
    if (asked != cudaSuccess)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "--device cuda: %s: look at nvidia-smi, or use --device cpu",
                          cudaGetErrorString(asked));
    if (ret->major < OLDEST_MAJOR)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "--device cuda: %s has compute capability %d.%d, at least %d.0 is needed "
                          "(A100 or newer); use "
                          "--device cpu",
                          ret->name, ret->major, ret->minor, OLDEST_MAJOR);
    return JOUST_OK;
}

static void functions_set(joust_gpu *g)
{
    g->alloc = stream_alloc;
    g->free = stream_free;
    g->put = stream_put;
    g->get = stream_get;
    g->copy = stream_copy;
    g->launch = stream_launch;
    g->record_begin = stream_record_begin;
    g->record_end = stream_record_end;
    g->replay = stream_replay;
    g->record_free = stream_record_free;
    g->close = stream_close;
}

/* Blocks come from the driver's pool where it has one, which keeps what is freed for the next. */
static joust_status stream_make(stream *s, const joust_device_options *options, joust_error *err)
{
    int pools = 0;
    cudaMemPool_t pool;
    uint64_t all = UINT64_MAX;
    s->index = (int)options->index;
    joust_status st = check(cudaSetDevice((int)options->index), "start", err);
    if (!st)
        st = check(cudaStreamCreateWithFlags(&s->at, cudaStreamNonBlocking), "stream", err);
    if (!st)
        st = check(
            cudaDeviceGetAttribute(&pools, cudaDevAttrMemoryPoolsSupported, (int)options->index),
            "start", err);
    s->has_pool = pools != 0;
    if (!st && s->has_pool)
        st = check(cudaDeviceGetDefaultMemPool(&pool, (int)options->index), "pool", err);
    if (!st && s->has_pool)
        st = check(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &all), "pool",
                   err);
    return st;
}

extern "C" joust_status joust_gpu_open(const joust_device_options *options, joust_gpu **ret,
                                       joust_error *err)
{
    cudaDeviceProp of;
    joust_status st = gpu_find(options, &of, err);
    if (st)
        return st;
    stream *s = (stream *)joust_calloc(1, sizeof(*s));
    if (!s)
        return joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    joust_gpu *g = &s->base;
    functions_set(g);
    g->precision = options->precision;
    g->n_memory_bytes = of.totalGlobalMem;
    snprintf(g->description, sizeof(g->description), "%.96s, sm_%d%d, %llu MiB", of.name, of.major,
             of.minor, (unsigned long long)(g->n_memory_bytes >> 20));
    /* float32 is IEEE's on every GPU; how tensor cores add is each generation's own */
    if (options->precision == JOUST_PRECISION_F32)
        snprintf(g->numeric_class, sizeof(g->numeric_class), "cuda-f32-1");
    else
        snprintf(g->numeric_class, sizeof(g->numeric_class), "cuda-sm%d%d-bf16-2", of.major,
                 of.minor);
    st = stream_make(s, options, err);
    if (st) {
        joust_free(s);
        return st;
    }
    *ret = g;
    return JOUST_OK;
}
