/* Attention's backward pass in float32 (in bf16: cuda_flash_back_internal.h), from queries, the pages that the forward pass filled, and each row's maximum and 1 / sum. Nothing
 * is kept that grows with the context: probabilities are computed again, as the forward pass computed them.
 *   p = e^(s - max) / sum, dp_j = do . v_j, ds_j = p_j (dp_j - mean) scale, mean = the sum of p dp
 * One kernel goes through the keys of each row and head (mean, dq), one through the rows that see each key (dk, dv): rows
 * in order, within a row the heads of the key's group in order. */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_ATTEND_BACK_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_ATTEND_BACK_INTERNAL_H

#include "cuda_attend_internal.h"

/* ---- queries --------------------------------------------------------------------------------- */

/* What the score's and the value's kernels share with the forward pass. */
GPU_FUNCTION joust_gpu_attend_args gpu_attend_back_args(const joust_gpu_attend_back_args *p)
{
    joust_gpu_attend_args a;
    a.qkv = p->qkv;
    a.at = p->at;
    a.layer = p->layer;
    a.out = NULL;
    a.stats = NULL;
    a.parts = NULL;
    a.n_parts = 0;
    a.scale = p->scale;
    a.n_heads = p->n_heads;
    a.n_kv_heads = p->n_kv_heads;
    a.d_head = p->d_head;
    a.ld = 0;
    a.window = p->window;
    return a;
}

/* p and dp of the key at a position; 0 and 0 where the row doesn't see it. */
GPU_FUNCTION void gpu_attend_slope(const joust_gpu_attend_args *p, const gpu_attend_row *r,
                                   const float *stats, const float *d_out, uint32_t position,
                                   float *ret_p, float *ret_dp)
{
    *ret_p = *ret_dp = 0.0f;
    if (position < r->first || position > r->position)
        return;
    const void *page = r->pages[position / JOUST_DEVICE_PAGE_POSITIONS];
    const size_t at = gpu_value_at(p->layer, p->n_kv_heads, r->kv, p->d_head,
                                   position % JOUST_DEVICE_PAGE_POSITIONS, 0, 0);
    float sum = 0.0f;
    for (uint32_t i = 0; i < p->d_head; i++)
        sum = fmaf(d_out[i], gpu_load(page, at + i, 0), sum);
    *ret_p = gpu_exp(gpu_score(p, r, position) - stats[0]) * stats[1];
    *ret_dp = sum;
}

/* acc[c] += ds[j] k[j][column] over a tile of keys, in order of position. */
GPU_FUNCTION void gpu_attend_queries(const joust_gpu_attend_args *p, const gpu_attend_row *r,
                                     uint32_t base, const float *ds, float acc[ATTEND_WIDE])
{
    for (uint32_t j = 0; j < ATTEND_TILE && base + j <= r->position; j++) {
        if (base + j < r->first)
            continue;
        const void *page = r->pages[(base + j) / JOUST_DEVICE_PAGE_POSITIONS];
        const size_t at =
            gpu_key_at(p->layer, r->kv, p->d_head, (base + j) % JOUST_DEVICE_PAGE_POSITIONS, 0, 0);
        GPU_UNROLL
        for (uint32_t c = 0; c < ATTEND_WIDE; c++) {
            const size_t column = GPU_THREAD + c * ATTEND_TILE;
            if (column < p->d_head)
                acc[c] = fmaf(ds[j], gpu_load(page, at + column * JOUST_DEVICE_PAGE_POSITIONS, 0),
                              acc[c]);
        }
    }
}

GPU_FUNCTION void gpu_attend_rows(const joust_gpu_attend_back_args *p)
{
    GPU_SHARED float query[JOUST_GPU_HEAD_MAX], d_out[JOUST_GPU_HEAD_MAX], e[ATTEND_TILE],
        ds[ATTEND_TILE], sums[ATTEND_SUMS];
    const joust_gpu_attend_args a = gpu_attend_back_args(p);
    const size_t row = GPU_BLOCK_Y, head = GPU_BLOCK_X, one = row * p->n_heads + head;
    const float *stats = p->stats + 2 * one;
    for (uint32_t i = GPU_THREAD; i < p->d_head; i += GPU_THREADS)
        d_out[i] = p->d_out[one * p->d_head + i];
    const gpu_attend_row r = gpu_attend_begin(&a, query); /* waits */
    float weight, slope, sum = 0.0f, acc[ATTEND_WIDE] = {0};
    for (uint32_t base = r.begin; base <= r.position; base += ATTEND_TILE) {
        gpu_attend_slope(&a, &r, stats, d_out, base + GPU_THREAD, &weight, &slope);
        GPU_SYNC(); /* the last readers of e and ds are done */
        e[GPU_THREAD] = weight;
        ds[GPU_THREAD] = slope;
        GPU_SYNC();
        if (GPU_THREAD < ATTEND_SUMS)
            for (uint32_t j = GPU_THREAD; j < ATTEND_TILE; j += ATTEND_SUMS)
                sum = fmaf(e[j], ds[j], sum);
    }
    if (GPU_THREAD < ATTEND_SUMS)
        sums[GPU_THREAD] = sum;
    gpu_halves(sums, ATTEND_SUMS);
    const float mean = sums[0];
    for (uint32_t base = r.begin; base <= r.position; base += ATTEND_TILE) {
        gpu_attend_slope(&a, &r, stats, d_out, base + GPU_THREAD, &weight, &slope);
        GPU_SYNC();
        ds[GPU_THREAD] = (weight * (slope - mean)) * p->scale;
        GPU_SYNC();
        gpu_attend_queries(&a, &r, base, ds, acc);
    }
    const size_t to = (row * (p->n_heads + 2 * p->n_kv_heads) + head) * p->d_head;
    GPU_UNROLL
    for (uint32_t c = 0; c < ATTEND_WIDE; c++)
        if (GPU_THREAD + c * ATTEND_TILE < p->d_head)
            p->d_qkv[to + GPU_THREAD + c * ATTEND_TILE] = acc[c];
    if (GPU_THREAD == 0)
        p->means[one] = mean;
}

/* ---- keys and values ------------------------------------------------------------------------- */

/* A block has sixteen keys; eight queries (rows and heads of the group) at a time, each thread the score of one of either,
 * then columns of all sixteen. */
#define KEYS_TILE    16u
#define KEYS_QUERIES (ATTEND_TILE / KEYS_TILE)

/* The part that a row belongs to: 0 the stem, 1 and 2 the branches. */
GPU_FUNCTION uint32_t gpu_part(const joust_gpu_attend_back_args *p, uint32_t row)
{
    return row < p->branch[0] ? 0 : row < p->branch[1] ? 1 : 2;
}

GPU_FUNCTION int gpu_sees(const joust_gpu_attend_back_args *p, uint32_t row, uint32_t key)
{
    const uint32_t of_key = gpu_part(p, key);
    if (row < key || (of_key > 0 && of_key != gpu_part(p, row)))
        return 0;
    return p->window == 0 || p->at.positions[row] - p->at.positions[key] < p->window;
}

/* Where the last row that may see any of these keys ends. */
GPU_FUNCTION uint32_t gpu_keys_end(const joust_gpu_attend_back_args *p, uint32_t first,
                                   uint32_t last)
{
    const uint32_t part = gpu_part(p, last);
    if (gpu_part(p, first) == 0 || part == 2)
        return p->n_rows;
    return p->branch[1];
}

typedef struct gpu_key {
    const void *page;
    size_t key, value; /* stores from the page's begin */
} gpu_key;

GPU_FUNCTION gpu_key gpu_key_of(const joust_gpu_attend_back_args *p, uint32_t row, uint32_t kv)
{
    const uint32_t position = p->at.positions[row],
                   in_page = position % JOUST_DEVICE_PAGE_POSITIONS;
    gpu_key k;
    k.page = p->at.pages[p->at.first_page[row] + position / JOUST_DEVICE_PAGE_POSITIONS];
    k.key = gpu_key_at(p->layer, kv, p->d_head, in_page, 0, 0);
    k.value = gpu_value_at(p->layer, p->n_kv_heads, kv, p->d_head, in_page, 0, 0);
    return k;
}

/* Queries and their gradients of output, eight of them, into shared memory. u: number of the first, by row and head. */
GPU_FUNCTION void gpu_keys_load(const joust_gpu_attend_back_args *p, uint32_t kv, uint64_t u,
                                uint64_t end, float *query, float *d_out)
{
    const uint32_t group = p->n_heads / p->n_kv_heads, d = p->d_head;
    for (uint32_t i = GPU_THREAD; i < KEYS_QUERIES * d; i += GPU_THREADS) {
        const uint64_t at = u + i / d;
        const size_t row = (size_t)(at / group), head = kv * group + (size_t)(at % group);
        const int there = at < end;
        query[i] =
            there ? p->qkv[(row * (p->n_heads + 2 * p->n_kv_heads) + head) * d + i % d] : 0.0f;
        d_out[i] = there ? p->d_out[(row * p->n_heads + head) * d + i % d] : 0.0f;
    }
}

/* p and ds of one key and one query, both 0 where it isn't seen. */
GPU_FUNCTION void gpu_keys_score(const joust_gpu_attend_back_args *p, uint32_t key, uint32_t kv,
                                 uint64_t u, uint64_t end, const float *query, const float *d_out,
                                 float *ret_p, float *ret_ds)
{
    const uint32_t group = p->n_heads / p->n_kv_heads, row = (uint32_t)(u / group);
    *ret_p = *ret_ds = 0.0f;
    if (u >= end || key >= p->n_rows || !gpu_sees(p, row, key))
        return;
    const gpu_key k = gpu_key_of(p, key, kv);
    const size_t one = (size_t)row * p->n_heads + kv * group + (size_t)(u % group);
    float score = 0.0f, slope = 0.0f;
    for (uint32_t i = 0; i < p->d_head; i++) {
        score = fmaf(query[i], gpu_load(k.page, k.key + (size_t)i * JOUST_DEVICE_PAGE_POSITIONS, 0),
                     score);
        slope = fmaf(d_out[i], gpu_load(k.page, k.value + i, 0), slope);
    }
    const float weight = gpu_exp(score * p->scale - p->stats[2 * one]) * p->stats[2 * one + 1];
    *ret_p = weight;
    *ret_ds = (weight * (slope - p->means[one])) * p->scale;
}

/* d_qkv's key and value of column GPU_THREAD + 128 c of the block's rows. */
GPU_FUNCTION void gpu_keys_store(const joust_gpu_attend_back_args *p, uint32_t first, uint32_t kv,
                                 uint32_t column, const float d_key[KEYS_TILE],
                                 const float d_value[KEYS_TILE])
{
    const size_t heads = p->n_heads + 2 * p->n_kv_heads;
    GPU_UNROLL
    for (uint32_t k = 0; k < KEYS_TILE; k++) {
        if (first + k >= p->n_rows)
            continue;
        float *row = p->d_qkv + (first + k) * heads * p->d_head + column;
        row[(size_t)(p->n_heads + kv) * p->d_head] = d_key[k];
        row[(size_t)(p->n_heads + p->n_kv_heads + kv) * p->d_head] = d_value[k];
    }
}

GPU_FUNCTION void gpu_attend_keys(const joust_gpu_attend_back_args *p)
{
    GPU_SHARED float query[KEYS_QUERIES * JOUST_GPU_HEAD_MAX],
        d_out[KEYS_QUERIES * JOUST_GPU_HEAD_MAX], e[KEYS_QUERIES][KEYS_TILE],
        ds[KEYS_QUERIES][KEYS_TILE];
    const uint32_t first = GPU_BLOCK_X * KEYS_TILE, kv = GPU_BLOCK_Y, d = p->d_head,
                   group = p->n_heads / p->n_kv_heads, in_tile = GPU_THREAD % KEYS_TILE,
                   q = GPU_THREAD / KEYS_TILE,
                   last = first + KEYS_TILE < p->n_rows ? first + KEYS_TILE - 1 : p->n_rows - 1;
    const uint64_t end = (uint64_t)gpu_keys_end(p, first, last) * group;
    float d_key[ATTEND_WIDE][KEYS_TILE] = {{0}}, d_value[ATTEND_WIDE][KEYS_TILE] = {{0}};
    for (uint64_t u = (uint64_t)first * group; u < end; u += KEYS_QUERIES) {
        GPU_SYNC(); /* the last readers are done */
        gpu_keys_load(p, kv, u, end, query, d_out);
        GPU_SYNC();
        gpu_keys_score(p, first + in_tile, kv, u + q, end, query + q * d, d_out + q * d,
                       &e[q][in_tile], &ds[q][in_tile]);
        GPU_SYNC();
        GPU_UNROLL
        for (uint32_t c = 0; c < ATTEND_WIDE; c++) {
            const uint32_t column = GPU_THREAD + c * ATTEND_TILE;
            for (uint32_t i = 0; column < d && i < KEYS_QUERIES; i++)
                GPU_UNROLL
            for (uint32_t k = 0; k < KEYS_TILE; k++) {
                d_key[c][k] = fmaf(ds[i][k], query[i * d + column], d_key[c][k]);
                d_value[c][k] = fmaf(e[i][k], d_out[i * d + column], d_value[c][k]);
            }
        }
    }
    GPU_UNROLL
    for (uint32_t c = 0; c < ATTEND_WIDE; c++)
        if (GPU_THREAD + c * ATTEND_TILE < d)
            gpu_keys_store(p, first, kv, GPU_THREAD + c * ATTEND_TILE, d_key[c], d_value[c]);
}

#endif
