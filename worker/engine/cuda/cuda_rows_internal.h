/* Bodies of the kernels that work on single rows. The CPU's twins are in kernels_template_internal.h and forward.c. */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_ROWS_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_ROWS_INTERNAL_H

#include "cuda_block_internal.h"
#include "cuda_kernels_internal.h"

/* Partial sums of a norm: in float32 the CPU's sixteen, so that the bits are the same. */
#define NORM_PARTS_F32  16u
#define NORM_PARTS_BF16 256u

GPU_FUNCTION void gpu_place(const joust_gpu_place_args *p, int bf16)
{
    const uint64_t i = (uint64_t)GPU_BLOCK_X * GPU_THREADS + GPU_THREAD;
    if (i >= p->n)
        return;
    const uint64_t row = i / p->ld;
    const uint32_t column = (uint32_t)(i % p->ld);
    gpu_store(p->to, i, column < p->k ? p->from[row * p->k + column] : 0.0f, bf16);
}

GPU_FUNCTION void gpu_embed(const joust_gpu_embed_args *p, int bf16)
{
    const size_t row = (size_t)p->tokens[GPU_BLOCK_X] * p->ld, to = (size_t)GPU_BLOCK_X * p->d;
    for (uint32_t i = GPU_THREAD; i < p->d; i += GPU_THREADS)
        p->x[to + i] = gpu_load(p->table, row + i, bf16);
}

/* 1 / sqrt(mean x^2 + eps) of d numbers, by all threads; parts is shared. */
GPU_FUNCTION float gpu_norm_factor(const float *x, uint32_t d, float eps, float *parts,
                                   uint32_t n_parts)
{
    if (GPU_THREAD < n_parts) {
        float sum = 0.0f;
        for (uint32_t i = GPU_THREAD; i < d; i += n_parts)
            sum = fmaf(x[i], x[i], sum);
        parts[GPU_THREAD] = sum;
    }
    gpu_halves(parts, n_parts);
    const float r = 1.0f / sqrtf(parts[0] / (float)d + eps);
    return r == 0.0f ? NAN : r; /* squares beyond float: not a row of zeros */
}

GPU_FUNCTION void gpu_norm(const joust_gpu_norm_args *p, int bf16)
{
    GPU_SHARED float parts[NORM_PARTS_BF16];
    const uint32_t row = p->which ? p->which[GPU_BLOCK_X] : GPU_BLOCK_X;
    const float *x = p->x + (size_t)row * p->d;
    const float r =
        gpu_norm_factor(x, p->d, p->eps, parts, bf16 ? NORM_PARTS_BF16 : NORM_PARTS_F32);
    for (uint32_t i = GPU_THREAD; i < p->ld; i += GPU_THREADS) {
        const float y = i < p->d ? x[i] * r * p->gain[i] : 0.0f;
        gpu_store(p->y, (size_t)GPU_BLOCK_X * p->ld + i, y, bf16);
        if (p->states && i < p->d)
            p->states[(size_t)GPU_BLOCK_X * p->d + i] = y;
    }
}

/* Stores of a head in a page: in bf16 in whole sixteens of bytes, the last of them zeros. */
GPU_FUNCTION uint32_t gpu_head_ld(uint32_t d_head, int bf16)
{
    return bf16 ? (d_head + 7) / 8 * 8 : d_head;
}

/* Where element i of a row's key and value of one head lie. float32: keys (n_kv, d_head, 16), then values (n_kv, 16, d_head),
 * as in the CPU's pages but for the lanes that pad a value. bf16: keys (n_kv, 16, ld), then values (n_kv, ld, 16), each as
 * tensor-core products read it. */
GPU_FUNCTION size_t gpu_key_at(uint64_t layer, uint32_t kv, uint32_t ld, uint32_t in_page,
                               uint32_t i, int bf16)
{
    const size_t at = (size_t)kv * ld * JOUST_DEVICE_PAGE_POSITIONS;
    return layer + at +
           (bf16 ? (size_t)in_page * ld + i : (size_t)i * JOUST_DEVICE_PAGE_POSITIONS + in_page);
}
GPU_FUNCTION size_t gpu_value_at(uint64_t layer, uint32_t n_kv, uint32_t kv, uint32_t ld,
                                 uint32_t in_page, uint32_t i, int bf16)
{
    const size_t at = (size_t)(n_kv + kv) * ld * JOUST_DEVICE_PAGE_POSITIONS;
    return layer + at +
           (bf16 ? (size_t)i * JOUST_DEVICE_PAGE_POSITIONS + in_page : (size_t)in_page * ld + i);
}

/* One head of one row, in shared memory, with its bias; the threads take elements i, i + threads ... */
GPU_FUNCTION void gpu_finish_load(const joust_gpu_finish_args *p, const float *x, uint32_t head,
                                  float *to)
{
    for (uint32_t i = GPU_THREAD; i < p->d_head; i += GPU_THREADS)
        to[i] = p->bias ? x[i] + p->bias[(size_t)head * p->d_head + i] : x[i];
    GPU_SYNC();
}

GPU_FUNCTION void gpu_finish(const joust_gpu_finish_args *p, int bf16)
{
    GPU_SHARED float at[JOUST_GPU_HEAD_MAX], parts[NORM_PARTS_F32];
    const uint32_t row = GPU_BLOCK_X, head = GPU_BLOCK_Y, d = p->d_head, half = d / 2,
                   ld = gpu_head_ld(d, bf16), n_rotated = p->n_heads + p->n_kv_heads,
                   position = p->at.positions[row],
                   in_page = position % JOUST_DEVICE_PAGE_POSITIONS;
    float *x = p->qkv + ((size_t)row * (n_rotated + p->n_kv_heads) + head) * d;
    void *page = p->at.pages[p->at.first_page[row] + position / JOUST_DEVICE_PAGE_POSITIONS];
    gpu_finish_load(p, x, head, at);
    if (head >= n_rotated) {
        for (uint32_t i = GPU_THREAD; i < ld; i += GPU_THREADS)
            gpu_store(page,
                      gpu_value_at(p->layer, p->n_kv_heads, head - n_rotated, ld, in_page, i, bf16),
                      i < d ? at[i] : 0.0f, bf16);
        return;
    }
    const float *gain = head < p->n_heads ? p->q_norm : p->k_norm;
    if (gain) {
        const float r = gpu_norm_factor(at, d, p->eps, parts, NORM_PARTS_F32);
        for (uint32_t i = GPU_THREAD; i < d; i += GPU_THREADS)
            at[i] = at[i] * r * gain[i];
        GPU_SYNC();
    }
    const float *angles = p->angles + (size_t)position * d;
    const uint32_t kv = head - p->n_heads; /* of a key */
    for (uint32_t i = GPU_THREAD; i < d; i += GPU_THREADS) {
        const uint32_t pair = i < half ? i : i - half;
        const float c = angles[pair], s = angles[half + pair], a = at[pair], b = at[half + pair];
        const float y = i < half ? a * c - b * s : b * c + a * s;
        if (head < p->n_heads)
            x[i] = y;
        else
            gpu_store(page, gpu_key_at(p->layer, kv, ld, in_page, i, bf16), y, bf16);
    }
    for (uint32_t i = d + GPU_THREAD; head >= p->n_heads && i < ld; i += GPU_THREADS)
        gpu_store(page, gpu_key_at(p->layer, kv, ld, in_page, i, bf16), 0.0f, bf16);
}

GPU_FUNCTION void gpu_bias(const joust_gpu_bias_args *p)
{
    const uint32_t i = GPU_BLOCK_X * GPU_THREADS + GPU_THREAD;
    if (i < p->n)
        p->y[(size_t)GPU_BLOCK_Y * p->n + i] += p->bias[i];
}

GPU_FUNCTION void gpu_low(const joust_gpu_low_args *p, int bf16)
{
    const uint64_t i = (uint64_t)GPU_BLOCK_X * GPU_THREADS + GPU_THREAD, part_row = i / p->ld;
    if (i >= p->n)
        return;
    const uint32_t column = (uint32_t)(i % p->ld);
    const size_t from = (size_t)(part_row % p->rows) * p->from_ld + part_row / p->rows * p->k;
    gpu_store(p->to, i, column < p->k ? p->from[from + column] * p->scale : 0.0f, bf16);
}

GPU_FUNCTION void gpu_swiglu(const joust_gpu_swiglu_args *p, int bf16)
{
    const uint32_t i = GPU_BLOCK_X * GPU_THREADS + GPU_THREAD;
    if (i >= p->ld)
        return;
    float h = 0.0f;
    if (i < p->d_ff) {
        const float *row = p->gate_up + (size_t)GPU_BLOCK_Y * 2 * p->d_ff;
        const float gate = row[i], sigmoid = 1.0f / (1.0f + gpu_exp(0.0f - gate));
        h = gate * sigmoid * row[p->d_ff + i];
    }
    gpu_store(p->h, (size_t)GPU_BLOCK_Y * p->ld + i, h, bf16);
}

#endif
