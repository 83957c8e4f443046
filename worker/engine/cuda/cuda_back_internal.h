/* Bodies of the kernels that only training runs, but attention's: gradients of single rows, sums over rows, the optimiser.
 * The CPU's twins are in kernels_template_internal.h, tape_backward.c and optimizer.c; products with transposed factors are
 * cuda_matrix_internal.h's. */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_BACK_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_BACK_INTERNAL_H

#include "cuda_rows_internal.h"

#define BACK_THREADS 256u

/* ---- layout ---------------------------------------------------------------------------------- */

#define TRANSPOSE_TILE 32u

GPU_FUNCTION void gpu_transpose(const joust_gpu_transpose_args *p, int bf16)
{
    GPU_SHARED float tile[TRANSPOSE_TILE][TRANSPOSE_TILE + 1];
    const uint32_t first_column = GPU_BLOCK_X * TRANSPOSE_TILE,
                   first_row = GPU_BLOCK_Y * TRANSPOSE_TILE, at = GPU_THREAD % TRANSPOSE_TILE,
                   step = BACK_THREADS / TRANSPOSE_TILE;
    for (uint32_t i = GPU_THREAD / TRANSPOSE_TILE; i < TRANSPOSE_TILE; i += step) {
        const uint32_t row = first_row + i, column = first_column + at;
        float x = 0.0f;
        if (row < p->rows && column < p->columns)
            x = gpu_load(p->from, (size_t)row * p->from_ld + column, bf16 && !p->of_floats);
        tile[i][at] = x;
    }
    GPU_SYNC();
    for (uint32_t i = GPU_THREAD / TRANSPOSE_TILE; i < TRANSPOSE_TILE; i += step) {
        const uint32_t row = first_row + at, column = first_column + i;
        if (column < p->columns && row < p->to_ld)
            gpu_store(p->to, (size_t)column * p->to_ld + row, tile[at][i], bf16);
    }
}

GPU_FUNCTION void gpu_fork(const joust_gpu_fork_args *p, int bf16)
{
    const void *from = p->from[GPU_BLOCK_X];
    void *to = p->to[GPU_BLOCK_X];
    const uint32_t ld = gpu_head_ld(p->d_head, bf16), kv = GPU_BLOCK_Y;
    for (uint32_t i = GPU_THREAD; i < p->n * ld; i += GPU_THREADS) {
        const size_t key = gpu_key_at(p->layer, kv, ld, i / ld, i % ld, bf16),
                     value = gpu_value_at(p->layer, p->n_kv_heads, kv, ld, i / ld, i % ld, bf16);
        gpu_store(to, key, gpu_load(from, key, bf16), bf16);
        gpu_store(to, value, gpu_load(from, value, bf16), bf16);
    }
}

/* ---- the loss -------------------------------------------------------------------------------- */

GPU_FUNCTION void gpu_slopes(const joust_gpu_slopes_args *p)
{
    const uint32_t i = GPU_BLOCK_X * BACK_THREADS + GPU_THREAD, row = GPU_BLOCK_Y;
    if (i >= p->n)
        return;
    float *x = p->x + (size_t)row * p->n + i;
    const float logp = (*x - p->sums[2 * (size_t)row]) - p->sums[2 * (size_t)row + 1],
                probability = gpu_exp(logp);
    float d = 0.0f;
    for (uint32_t k = p->first_slope[row]; k < p->first_slope[row + 1]; k++) {
        const joust_gpu_slope *s = &p->slopes[k];
        if (s->kind == JOUST_DEVICE_SLOPE_LOGP)
            d = fmaf(-s->factor, probability, d);
        if (s->kind == JOUST_DEVICE_SLOPE_ENTROPY)
            d -= probability > 0.0f ? s->factor * probability * (logp + s->entropy) : 0.0f;
        else if (s->token == p->first + i)
            d += s->factor;
    }
    *x = d;
}

GPU_FUNCTION void gpu_entropy(const joust_gpu_entropy_args *p)
{
    GPU_SHARED double sums[BACK_THREADS];
    const size_t row = GPU_BLOCK_X;
    double sum = 0;
    for (uint32_t i = GPU_THREAD; i < p->n; i += BACK_THREADS) {
        const float logp = (p->x[row * p->n + i] - p->sums[2 * row]) - p->sums[2 * row + 1],
                    probability = gpu_exp(logp);
        if (probability > 0.0f) /* log p may be -inf */
            sum -= (double)probability * (double)logp;
    }
    sums[GPU_THREAD] = sum;
    for (uint32_t half = BACK_THREADS / 2; half > 0; half /= 2) {
        GPU_SYNC();
        if (GPU_THREAD < half)
            sums[GPU_THREAD] += sums[GPU_THREAD + half];
    }
    if (GPU_THREAD == 0)
        p->entropies[row] += sums[0];
}

/* ---- rows ------------------------------------------------------------------------------------ */

/* The sum of dy gain x over d, by all threads: dx's share of x is minus that times r^3 / d. parts is shared. */
GPU_FUNCTION float gpu_norm_slope(const float *x, const float *gain, const float *dy, uint32_t d,
                                  float r, float *parts, uint32_t n_parts)
{
    GPU_SYNC(); /* the last reader of parts is done */
    if (GPU_THREAD < n_parts) {
        float sum = 0.0f;
        for (uint32_t i = GPU_THREAD; i < d; i += n_parts)
            sum = fmaf(dy[i] * gain[i], x[i], sum);
        parts[GPU_THREAD] = sum;
    }
    gpu_halves(parts, n_parts);
    return -(parts[0] * (r * r * r) / (float)d);
}

GPU_FUNCTION void gpu_norm_back(const joust_gpu_norm_back_args *p, int bf16)
{
    GPU_SHARED float parts[NORM_PARTS_BF16];
    const uint32_t n_parts = bf16 ? NORM_PARTS_BF16 : NORM_PARTS_F32,
                   row = p->which ? p->which[GPU_BLOCK_X] : GPU_BLOCK_X;
    const float *x = p->x + (size_t)row * p->d, *dy = p->dy + (size_t)GPU_BLOCK_X * p->d;
    float *dx = p->dx + (size_t)row * p->d;
    const float r = gpu_norm_factor(x, p->d, p->eps, parts, n_parts),
                by_x = gpu_norm_slope(x, p->gain, dy, p->d, r, parts, n_parts);
    for (uint32_t i = GPU_THREAD; i < p->d; i += GPU_THREADS)
        dx[i] = fmaf(dy[i] * p->gain[i], r, fmaf(x[i], by_x, dx[i]));
    if (GPU_THREAD == 0)
        p->r[GPU_BLOCK_X] = r;
}

GPU_FUNCTION void gpu_swiglu_back(const joust_gpu_swiglu_back_args *p)
{
    const uint32_t i = GPU_BLOCK_X * BACK_THREADS + GPU_THREAD;
    if (i >= p->d_ff)
        return;
    const size_t row = GPU_BLOCK_Y, at = row * 2 * p->d_ff + i;
    const float gate = p->gate_up[at], up = p->gate_up[at + p->d_ff], d = p->dh[row * p->d_ff + i],
                sigmoid = 1.0f / (1.0f + gpu_exp(0.0f - gate)),
                slope = sigmoid * fmaf(gate, 1.0f - sigmoid, 1.0f);
    p->d_gate_up[at] = (d * up) * slope;
    p->d_gate_up[at + p->d_ff] = d * (gate * sigmoid);
}

GPU_FUNCTION void gpu_unrope(const joust_gpu_unrope_args *p)
{
    const uint32_t half = p->d_head / 2;
    const float *angles = p->angles + (size_t)p->positions[GPU_BLOCK_X] * p->d_head;
    float *x = p->d_qkv + (size_t)GPU_BLOCK_X * p->qkv_ld + (size_t)GPU_BLOCK_Y * p->d_head;
    for (uint32_t i = GPU_THREAD; i < half; i += GPU_THREADS) {
        const float c = angles[i], s = -angles[half + i], a = x[i], b = x[half + i];
        x[i] = a * c - b * s;
        x[half + i] = b * c + a * s;
    }
}

GPU_FUNCTION void gpu_heads_back(const joust_gpu_heads_back_args *p)
{
    GPU_SHARED float parts[NORM_PARTS_F32];
    const uint32_t head = GPU_BLOCK_Y, d = p->d_head, n_normed = p->n_heads + p->n_kv_heads;
    const size_t at = ((size_t)GPU_BLOCK_X * (n_normed + p->n_kv_heads) + head) * d;
    float *x = p->raw + at, *dx = p->dx + at;
    const float *dy = p->dy + at, *gain = head < p->n_heads ? p->q_norm : p->k_norm;
    if (head >= n_normed) {
        for (uint32_t i = GPU_THREAD; i < d; i += GPU_THREADS)
            dx[i] = dy[i];
        return;
    }
    for (uint32_t i = GPU_THREAD; p->bias && i < d; i += GPU_THREADS)
        x[i] = x[i] + p->bias[(size_t)head * d + i];
    GPU_SYNC();
    const float r = gpu_norm_factor(x, d, p->eps, parts, NORM_PARTS_F32),
                by_x = gpu_norm_slope(x, gain, dy, d, r, parts, NORM_PARTS_F32);
    for (uint32_t i = GPU_THREAD; i < d; i += GPU_THREADS)
        dx[i] = fmaf(dy[i] * gain[i], r, fmaf(x[i], by_x, 0.0f));
    if (GPU_THREAD == 0)
        p->r[(size_t)GPU_BLOCK_X * n_normed + head] = r;
}

/* ---- sums over rows -------------------------------------------------------------------------- */

#define COLUMNS_TILE     32u
#define COLUMNS_SEGMENTS (BACK_THREADS / COLUMNS_TILE)

/* Rows are cut into segments, each a chain in order of rows, which are added in order. */
GPU_FUNCTION void gpu_columns(const joust_gpu_columns_args *p, uint32_t n_segments)
{
    GPU_SHARED float sums[COLUMNS_SEGMENTS][COLUMNS_TILE];
    const uint32_t in_tile = GPU_THREAD % COLUMNS_TILE, segment = GPU_THREAD / COLUMNS_TILE,
                   i = GPU_BLOCK_X * COLUMNS_TILE + in_tile;
    const uint64_t n = (uint64_t)p->n_rows * p->n_inner;
    if (segment < n_segments && i < p->n) {
        float sum = 0.0f;
        const uint64_t end = n * (segment + 1) / n_segments;
        for (uint64_t k = n * segment / n_segments; k < end; k++) {
            const size_t row = (size_t)(k / p->n_inner), part = (size_t)(k % p->n_inner);
            const float dy = p->dy[row * p->dy_ld + part * p->n + i];
            if (p->x) {
                const size_t of_x = p->which ? p->which[row] : row;
                sum = fmaf(dy, p->x[of_x * p->x_ld + part * p->n + i] * p->r[row * p->r_ld + part],
                           sum);
            } else {
                sum += dy;
            }
        }
        sums[segment][in_tile] = sum;
    }
    GPU_SYNC();
    if (segment > 0 || i >= p->n)
        return;
    float sum = sums[0][in_tile];
    for (uint32_t k = 1; k < n_segments; k++)
        sum += sums[k][in_tile];
    p->to[i] = sum;
}

GPU_FUNCTION void gpu_embed_back(const joust_gpu_embed_back_args *p)
{
    const joust_gpu_token_rows t = p->tokens[GPU_BLOCK_X];
    float *to = p->to + (size_t)t.token * p->d;
    for (uint32_t i = GPU_THREAD; i < p->d; i += GPU_THREADS) {
        float sum = to[i];
        for (uint32_t k = 0; k < t.n; k++)
            sum += p->dx[(size_t)p->order[t.first + k] * p->d + i];
        to[i] = sum;
    }
}

/* ---- whole blocks of weights ----------------------------------------------------------------- */

GPU_FUNCTION void gpu_fill(const joust_gpu_add_args *p)
{
    const uint64_t i = (uint64_t)GPU_BLOCK_X * BACK_THREADS + GPU_THREAD;
    if (i < p->n)
        p->to[i] = 0.0f;
}

GPU_FUNCTION void gpu_add(const joust_gpu_add_args *p)
{
    const uint64_t i = (uint64_t)GPU_BLOCK_X * BACK_THREADS + GPU_THREAD;
    if (i < p->n)
        p->to[i] = p->to[i] + p->from[i];
}

#define SQUARES_EACH 8u /* sums by index mod 8 of a block of 4096: one a thread */

GPU_FUNCTION void gpu_squares(const joust_gpu_squares_args *p)
{
    GPU_SHARED double sums[BACK_THREADS];
    const uint64_t block = (uint64_t)GPU_BLOCK_X * (BACK_THREADS / SQUARES_EACH) +
                           GPU_THREAD / SQUARES_EACH,
                   first = block * JOUST_GPU_SQUARES,
                   end = first + JOUST_GPU_SQUARES < p->n ? first + JOUST_GPU_SQUARES : p->n;
    double sum = 0;
    for (uint64_t i = first + GPU_THREAD % SQUARES_EACH; i < end; i += SQUARES_EACH)
        sum = sum + (double)p->x[i] * (double)p->x[i];
    sums[GPU_THREAD] = sum;
    GPU_SYNC();
    const double *s = sums + GPU_THREAD;
    if (GPU_THREAD % SQUARES_EACH == 0 && first < p->n)
        p->sums[block] = ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]));
}

GPU_FUNCTION void gpu_adam(const joust_gpu_adam_args *p)
{
    const uint64_t i = (uint64_t)GPU_BLOCK_X * BACK_THREADS + GPU_THREAD;
    if (i >= p->n)
        return;
    const float rest1 = 1.0f - p->beta1, rest2 = 1.0f - p->beta2,
                by_correction = 1.0f / p->correction, g = p->gradient[i] * p->scale,
                m = p->beta1 * p->m[i] + rest1 * g, v = p->beta2 * p->v[i] + rest2 * (g * g);
    p->m[i] = m;
    p->v[i] = v;
    p->w[i] = p->w[i] * p->decay - p->step_size * (m / (sqrtf(v) * by_correction + p->eps));
}

#endif
