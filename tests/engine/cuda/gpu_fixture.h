/* Kernels launched one by one, and numbers to give them: for the tests of kernels, whose main sets gpu. */
#ifndef JOUST_TESTS_ENGINE_CUDA_GPU_FIXTURE_H
#define JOUST_TESTS_ENGINE_CUDA_GPU_FIXTURE_H

#include "engine/compute/fixture.h"

#include <string.h>

#include "proto/base/alloc.h"
#include "worker/engine/cuda/cuda_kernels_internal.h"
#include "worker/engine/kernels/kernels_internal.h"

static joust_gpu *gpu;

static inline void run(joust_gpu_kernel kernel, uint32_t x, uint32_t y, const void *args)
{
    joust_error err = {0};
    check_ok(gpu->launch(gpu, kernel, x, y, args, &err));
}

static inline float *numbers(size_t n, uint64_t seed, double scale)
{
    joust_stream stream = fixture_stream(seed, 1);
    float *x = joust_calloc_aligned(n + JOUST_LANES, sizeof(*x));
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(scale * joust_stream_normal(&stream, i));
    return x;
}

static inline void *zeros(size_t n)
{
    void *x = joust_calloc_aligned(n + JOUST_LANES, 4);
    assert_non_null(x);
    return x;
}

static inline float from_bf16(uint16_t x)
{
    const uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, sizeof(y));
    return y;
}

/* (rows, k) floats as (rows, ld) bf16, by the kernel that uploads weights. */
static inline uint16_t *bf16_rows(const float *from, uint32_t rows, uint32_t k, uint32_t ld)
{
    uint16_t *to = zeros((size_t)rows * ld);
    const joust_gpu_place_args args = {
        .from = from, .to = to, .k = k, .ld = ld, .n = (uint64_t)rows * ld};
    run(JOUST_GPU_place_bf16, (uint32_t)((args.n + 255) / 256), 1, &args);
    return to;
}

#endif
