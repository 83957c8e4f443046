/* The language that kernel bodies are written in: what C and CUDA C++ have in common, and what follows. A body describes
 * one thread of one block; nvcc compiles it for the GPU (cuda_kernels.cu), the tests compile the same text for an emulator
 * (tests/engine/cuda/emulator.h) that runs the threads of a block as fibres.
 *
 * No contraction anywhere: a fused multiply-add stands where fmaf stands. Division, square root and subnormals are IEEE's. */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_BLOCK_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_BLOCK_INTERNAL_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__CUDACC__)
#define GPU_FUNCTION static __device__ __forceinline__
#define GPU_SHARED   static __shared__
#define GPU_UNROLL   _Pragma("unroll")
#define GPU_THREAD   threadIdx.x
#define GPU_THREADS  blockDim.x
#define GPU_BLOCK_X  blockIdx.x
#define GPU_BLOCK_Y  blockIdx.y
#define GPU_BLOCKS_X gridDim.x
#define GPU_SYNC()   __syncthreads()
typedef uint4 gpu_words; /* 16 bytes, loaded at once: x, y, z, w */
typedef uint2 gpu_pair;  /* 8 bytes likewise: x, y */

GPU_FUNCTION uint32_t gpu_bits(float x)
{
    return __float_as_uint(x);
}
GPU_FUNCTION float gpu_float(uint32_t bits)
{
    return __uint_as_float(bits);
}
/* d += a b of one warp: m16n8k16, a by rows, b by columns, both bf16. */
GPU_FUNCTION void gpu_mma(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
/* What is read once: it needn't stay in a cache. */
GPU_FUNCTION gpu_words gpu_read_once(const gpu_words *from)
{
    return __ldcs(from);
}
/* 16 bytes from global into shared memory (zeros unless `there`), beside what the thread does meanwhile. Copies between two
 * calls of gpu_async_close are a group; after gpu_async_wait(n) all but the latest n groups of the thread are done, which
 * other threads see after a barrier. */
GPU_FUNCTION void gpu_async(gpu_words *to, const void *from, int there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"((uint32_t)__cvta_generic_to_shared(to)), "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}
GPU_FUNCTION void gpu_async_close(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
#define gpu_async_wait(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")
/* Of the warp: the x of the lane whose number differs in the bits of mask. All lanes call it. */
GPU_FUNCTION float gpu_swap(float x, uint32_t mask)
{
    return __shfl_xor_sync(0xffffffffu, x, (int)mask);
}
/* Of the warp: lane 4 g + t holds elements 2 t, 2 t + 1 of row g of an 8 x 8 matrix of 16-bit elements; the same of the turned one. */
GPU_FUNCTION uint32_t gpu_turn(uint32_t pair)
{
    uint32_t turned;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(turned) : "r"(pair));
    return turned;
}
#else
#include "engine/cuda/emulator.h"
#endif

#define GPU_WARP 32u

/* ---- numbers --------------------------------------------------------------------------------- */

/* An element of what is kept in the device's precision: 4 or 2 bytes. `bf16` is a constant where these are called. */
GPU_FUNCTION float gpu_from_bf16(uint16_t x)
{
    return gpu_float((uint32_t)x << 16);
}

/* To nearest even; a NaN stays one. */
GPU_FUNCTION uint16_t gpu_to_bf16(float x)
{
    uint32_t bits = gpu_bits(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

GPU_FUNCTION float gpu_load(const void *at, size_t i, int bf16)
{
    return bf16 ? gpu_from_bf16(((const uint16_t *)at)[i]) : ((const float *)at)[i];
}

GPU_FUNCTION void gpu_store(void *at, size_t i, float x, int bf16)
{
    if (bf16)
        ((uint16_t *)at)[i] = gpu_to_bf16(x);
    else
        ((float *)at)[i] = x;
}

/* exp(x), operation by operation as the CPU's kernels compute it (kernels_template_internal.h). */
GPU_FUNCTION float gpu_exp(float x)
{
    const float magic = 12582912.0f; /* 1.5 * 2^23 */
    float t = -87.33f > x ? -87.33f : x;
    t = 88.37f < t ? 88.37f : t;
    const float shifted = fmaf(t, 0x1.715476p+0f, magic), k = shifted - magic;
    float r = fmaf(k, -0x1.62e4p-1f, t);
    r = fmaf(k, -0x1.7f7d1cp-20f, r);
    float p = 1.0f / 5040.0f;
    p = fmaf(p, r, 1.0f / 720.0f);
    p = fmaf(p, r, 1.0f / 120.0f);
    p = fmaf(p, r, 1.0f / 24.0f);
    p = fmaf(p, r, 1.0f / 6.0f);
    p = fmaf(p, r, 0.5f);
    p = fmaf(p, r, 1.0f);
    p = fmaf(p, r, 1.0f);
    const float y = p * gpu_float((gpu_bits(shifted) + 127u) << 23);
    return x < -87.33f ? 0.0f : y;
}

/* ---- sums ------------------------------------------------------------------------------------ */

/* x[0] = the sum of n partial sums by halves: i with i + n / 2, and so on; n is a power of two, n <= threads of the block.
 * Called by all threads; x is shared. Order: joust_lanes_sum's, for n = 16. */
GPU_FUNCTION void gpu_halves(float *x, uint32_t n)
{
    for (uint32_t half = n / 2; half > 0; half /= 2) {
        GPU_SYNC();
        if (GPU_THREAD < half)
            x[GPU_THREAD] += x[GPU_THREAD + half];
    }
    GPU_SYNC();
}

/* The largest of the threads' x; a NaN may be passed over. scratch: shared, one a thread. */
GPU_FUNCTION float gpu_largest(float x, float *scratch)
{
    GPU_SYNC(); /* the last reader of scratch is done */
    scratch[GPU_THREAD] = x;
    for (uint32_t half = GPU_THREADS / 2; half > 0; half /= 2) {
        GPU_SYNC();
        if (GPU_THREAD < half && scratch[GPU_THREAD + half] > scratch[GPU_THREAD])
            scratch[GPU_THREAD] = scratch[GPU_THREAD + half];
    }
    GPU_SYNC();
    return scratch[0];
}

#endif
