/* From logits to what the engine asks of them: log-sums, drawn tokens, single logits. */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_LOGITS_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_LOGITS_INTERNAL_H

#include "cuda_block_internal.h"
#include "cuda_kernels_internal.h"

#define LOGITS_THREADS 256u

/* The maximum of the tiles' maxima; the sum of their sums, each times e^(its maximum - the maximum): by thread (tile mod
 * 256) in order, then by halves. */
GPU_FUNCTION void gpu_log_sum(const joust_gpu_log_sum_args *p)
{
    GPU_SHARED float scratch[LOGITS_THREADS];
    const float *from = p->partial + (size_t)GPU_BLOCK_X * p->n_tiles * 2;
    float max = -INFINITY, sum = 0.0f;
    for (uint32_t i = GPU_THREAD; i < p->n_tiles; i += LOGITS_THREADS)
        max = from[2 * i] > max ? from[2 * i] : max;
    max = gpu_largest(max, scratch);
    for (uint32_t i = GPU_THREAD; i < p->n_tiles; i += LOGITS_THREADS)
        sum += from[2 * i + 1] * gpu_exp(from[2 * i] - max);
    GPU_SYNC();
    scratch[GPU_THREAD] = sum;
    gpu_halves(scratch, LOGITS_THREADS);
    if (GPU_THREAD == 0) {
        p->sums[2 * GPU_BLOCK_X] = max;
        p->sums[2 * GPU_BLOCK_X + 1] = scratch[0];
    }
}

/* The first of the largest. A thread keeps the first of its own; of two threads' equals the lower id wins. */
GPU_FUNCTION void gpu_draw_largest(const float *x, uint32_t n, joust_gpu_draw_item *item)
{
    GPU_SHARED float best[LOGITS_THREADS];
    GPU_SHARED uint32_t where[LOGITS_THREADS];
    uint32_t at = GPU_THREAD < n ? GPU_THREAD : 0;
    for (uint32_t i = at; i < n; i += LOGITS_THREADS)
        if (x[i] > x[at])
            at = i;
    best[GPU_THREAD] = x[at];
    where[GPU_THREAD] = at;
    for (uint32_t half = LOGITS_THREADS / 2; half > 0; half /= 2) {
        GPU_SYNC();
        const uint32_t other = GPU_THREAD + half;
        if (GPU_THREAD < half &&
            (best[other] > best[GPU_THREAD] ||
             (best[other] == best[GPU_THREAD] && where[other] < where[GPU_THREAD]))) {
            best[GPU_THREAD] = best[other];
            where[GPU_THREAD] = where[other];
        }
    }
    GPU_SYNC();
    if (GPU_THREAD == 0) {
        item->token = where[0];
        item->x = best[0];
        item->total = 0;
    }
}

GPU_FUNCTION double gpu_weight(const joust_gpu_draw_item *item, float x, float max)
{
    const float weight = gpu_exp((x - max) * item->scale);
    return weight < item->min_p ? 0.0 : (double)weight;
}

/* Thread 0: the running sum over tiles, then inside of the one in which it passes `at`. Where it passes nowhere: the last
 * token that weighs anything. marks hold the sums before each tile. */
GPU_FUNCTION void gpu_draw_find(const float *x, uint32_t n, float max, uint32_t n_tiles,
                                const double *marks, double total, joust_gpu_draw_item *item)
{
    const double at = (double)item->uniform * total;
    uint32_t tile = n_tiles - 1, token = n - 1;
    item->total = total;
    if (total > at) {
        while (tile > 0 && marks[tile] > at)
            tile--;
        double sum = marks[tile];
        const uint32_t first = tile * JOUST_GPU_DRAW_TILE,
                       end = n - first < JOUST_GPU_DRAW_TILE ? n : first + JOUST_GPU_DRAW_TILE;
        for (token = first; token + 1 < end; token++)
            if ((sum += gpu_weight(item, x[token], max)) > at)
                break;
    }
    while (token > 0 && !(gpu_weight(item, x[token], max) > 0.0))
        token--;
    item->token = token;
    item->x = x[token];
}

GPU_FUNCTION void gpu_draw(const joust_gpu_draw_args *p)
{
    joust_gpu_draw_item *item = &p->items[GPU_BLOCK_X];
    const float *x = p->logits + (size_t)item->slot * p->n;
    double *marks = p->marks + (size_t)GPU_BLOCK_X * p->n_tiles;
    const float max = p->sums[2 * (size_t)item->row];
    if (item->scale == 0.0f) {
        gpu_draw_largest(x, p->n, item);
        return;
    }
    for (uint32_t tile = GPU_THREAD; tile < p->n_tiles; tile += LOGITS_THREADS) {
        double sum = 0;
        const uint32_t first = tile * JOUST_GPU_DRAW_TILE, end = p->n - first < JOUST_GPU_DRAW_TILE
                                                                     ? p->n
                                                                     : first + JOUST_GPU_DRAW_TILE;
        for (uint32_t i = first; i < end; i++)
            sum += gpu_weight(item, x[i], max);
        marks[tile] = sum;
    }
    GPU_SYNC();
    if (GPU_THREAD > 0)
        return;
    double total = 0;
    for (uint32_t tile = 0; tile < p->n_tiles; tile++) {
        const double sum = marks[tile];
        marks[tile] = total;
        total += sum;
    }
    gpu_draw_find(x, p->n, max, p->n_tiles, marks, total, item);
}

GPU_FUNCTION void gpu_pick(const joust_gpu_pick_args *p)
{
    const uint32_t i = GPU_BLOCK_X * GPU_THREADS + GPU_THREAD;
    if (i < p->n_items)
        p->items[i].x = p->logits[(size_t)p->items[i].slot * p->n + p->items[i].token];
}

#endif
