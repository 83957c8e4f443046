/* Attention in float32 (in bf16: cuda_flash_internal.h) of one row and head over the pages of its sequence, for prompts and next tokens alike. The keys are gone
 * through twice, in tiles of as many as the block has threads: for the largest score, then for the sums; so nothing is
 * kept that grows with the context. Orders: as the CPU's attend_head, whatever the tile. */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_ATTEND_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_ATTEND_INTERNAL_H

#include "cuda_rows_internal.h"

#define ATTEND_TILE  128u /* threads of the block */
#define ATTEND_PAGES (ATTEND_TILE / JOUST_DEVICE_PAGE_POSITIONS)
#define ATTEND_SUMS  16u /* by position mod 16 */
#define ATTEND_WIDE  ((JOUST_GPU_HEAD_MAX + ATTEND_TILE - 1) / ATTEND_TILE)

/* What the block works on. */
typedef struct gpu_attend_row {
    void *const *pages;
    const float *query;                  /* shared */
    uint32_t position, first, begin, kv; /* its keys: first .. position; begin: first's page */
} gpu_attend_row;

/* The score of the key at a position, -inf if the row doesn't see it. */
GPU_FUNCTION float gpu_score(const joust_gpu_attend_args *p, const gpu_attend_row *r,
                             uint32_t position)
{
    if (position < r->first || position > r->position)
        return -INFINITY;
    const void *page = r->pages[position / JOUST_DEVICE_PAGE_POSITIONS];
    size_t at =
        gpu_key_at(p->layer, r->kv, p->d_head, position % JOUST_DEVICE_PAGE_POSITIONS, 0, 0);
    float sum = 0.0f;
    for (uint32_t i = 0; i < p->d_head; i++, at += JOUST_DEVICE_PAGE_POSITIONS)
        sum = fmaf(r->query[i], gpu_load(page, at, 0), sum);
    return sum * p->scale;
}

GPU_FUNCTION gpu_attend_row gpu_attend_begin(const joust_gpu_attend_args *p, float *query)
{
    const uint32_t row = GPU_BLOCK_Y, head = GPU_BLOCK_X;
    const float *x = p->qkv + ((size_t)row * (p->n_heads + 2 * p->n_kv_heads) + head) * p->d_head;
    gpu_attend_row r;
    r.pages = p->at.pages + p->at.first_page[row];
    r.query = query;
    r.position = p->at.positions[row];
    r.first = p->window == 0 || r.position < p->window ? 0 : r.position - p->window + 1;
    r.begin = r.first / JOUST_DEVICE_PAGE_POSITIONS * JOUST_DEVICE_PAGE_POSITIONS;
    r.kv = head / (p->n_heads / p->n_kv_heads);
    for (uint32_t i = GPU_THREAD; i < p->d_head; i += GPU_THREADS)
        query[i] = x[i];
    GPU_SYNC();
    return r;
}

/* acc[c] += e[j] v[j][column], j in order of position over the pages of a tile. */
GPU_FUNCTION void gpu_mix(const joust_gpu_attend_args *p, const gpu_attend_row *r, uint32_t base,
                          const float *e, float acc[ATTEND_WIDE])
{
    for (uint32_t page = 0; page < ATTEND_PAGES; page++) {
        const uint32_t from = base + page * JOUST_DEVICE_PAGE_POSITIONS;
        if (from > r->position)
            return;
        const uint32_t left = r->position - from + 1,
                       n = left < JOUST_DEVICE_PAGE_POSITIONS ? left : JOUST_DEVICE_PAGE_POSITIONS;
        const void *values = r->pages[from / JOUST_DEVICE_PAGE_POSITIONS];
        for (uint32_t j = 0; j < n; j++) {
            const float weight = e[page * JOUST_DEVICE_PAGE_POSITIONS + j];
            const size_t at = gpu_value_at(p->layer, p->n_kv_heads, r->kv, p->d_head, j, 0, 0);
            GPU_UNROLL
            for (uint32_t c = 0; c < ATTEND_WIDE; c++)
                if (GPU_THREAD + c * ATTEND_TILE < p->d_head)
                    acc[c] = fmaf(weight, gpu_load(values, at + GPU_THREAD + c * ATTEND_TILE, 0),
                                  acc[c]);
        }
    }
}

GPU_FUNCTION void gpu_attend(const joust_gpu_attend_args *p)
{
    GPU_SHARED float query[JOUST_GPU_HEAD_MAX], e[ATTEND_TILE], sums[ATTEND_SUMS];
    const gpu_attend_row r = gpu_attend_begin(p, query);
    float largest = -INFINITY, acc[ATTEND_WIDE] = {0}, sum = 0.0f;
    for (uint32_t base = r.begin; base <= r.position; base += ATTEND_TILE) {
        const float score = gpu_score(p, &r, base + GPU_THREAD);
        largest = score > largest ? score : largest;
    }
    largest = gpu_largest(largest, e);
    for (uint32_t base = r.begin; base <= r.position; base += ATTEND_TILE) {
        const float score = gpu_score(p, &r, base + GPU_THREAD);
        GPU_SYNC(); /* the last reader of e is done */
        e[GPU_THREAD] = gpu_exp(score - largest);
        GPU_SYNC();
        if (GPU_THREAD < ATTEND_SUMS)
            for (uint32_t j = GPU_THREAD; j < ATTEND_TILE; j += ATTEND_SUMS)
                sum += e[j];
        gpu_mix(p, &r, base, e, acc);
    }
    if (GPU_THREAD < ATTEND_SUMS)
        sums[GPU_THREAD] = sum;
    gpu_halves(sums, ATTEND_SUMS);
    const float inverse = 1.0f / sums[0];
    if (p->stats && GPU_THREAD == 0) {
        float *stats = p->stats + 2 * ((size_t)GPU_BLOCK_Y * p->n_heads + GPU_BLOCK_X);
        stats[0] = largest;
        stats[1] = inverse;
    }
    const size_t out = (size_t)GPU_BLOCK_Y * p->ld + (size_t)GPU_BLOCK_X * p->d_head;
    GPU_UNROLL
    for (uint32_t c = 0; c < ATTEND_WIDE; c++)
        if (GPU_THREAD + c * ATTEND_TILE < p->d_head)
            gpu_store(p->out, out + GPU_THREAD + c * ATTEND_TILE, acc[c] * inverse, 0);
    if (GPU_BLOCK_X + 1 == p->n_heads) /* what the next product reads past the heads */
        for (uint32_t i = p->n_heads * p->d_head + GPU_THREAD; i < p->ld; i += GPU_THREADS)
            gpu_store(p->out, (size_t)GPU_BLOCK_Y * p->ld + i, 0.0f, 0);
}

#endif
