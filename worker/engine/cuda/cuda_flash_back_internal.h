/* The backward pass of attention in bf16, by tensor-core products; formulas: cuda_attend_back_internal.h. Probabilities are
 * computed again, by the forward pass's products.
 *   gpu_flash_rows  a warp has a tile of units and goes through the pages that they see, in order (mean, then dq)
 *   gpu_flash_keys  a block has the keys of one page and part, and goes through the units that may see them, sixteen at a
 *                   time: its warps by turns; their sums are added in order (dk, dv)
 * Where a product needs pairs along the other side of a matrix, 8 x 8 of it are turned inside the warp. */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_FLASH_BACK_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_FLASH_BACK_INTERNAL_H

#include "cuda_attend_back_internal.h"
#include "cuda_flash_internal.h"

/* ---- queries --------------------------------------------------------------------------------- */

/* Elements 32 c + 8 t .. + 7 of the value of key column g, product h, out of a page. */
GPU_FUNCTION void gpu_flash_values(const gpu_flash_lane *l, const void *page, uint64_t layer,
                                   uint32_t n_kv, uint32_t c, uint32_t last, gpu_words to[2])
{
    uint32_t turned[2][4];
    GPU_UNROLL
    for (uint32_t w = 0; w < 4; w++) {
        const uint32_t i = 32 * c + 8 * (l->g / 2) + 2 * w + l->g % 2;
        gpu_pair v = {0, 0};
        if (i < l->ld)
            v = gpu_flash_value(page, layer, n_kv, l->kv, l->ld, i, l->t, last);
        turned[0][w] = gpu_turn(v.x);
        turned[1][w] = gpu_turn(v.y);
    }
    GPU_UNROLL
    for (uint32_t h = 0; h < 2; h++) {
        to[h].x = turned[h][0];
        to[h].y = turned[h][1];
        to[h].z = turned[h][2];
        to[h].w = turned[h][3];
    }
}

/* acc[w] += a (16 by 16) times what sixteen rows, eight of them in each of b, have at elements 32 c ..: lane 4 g + t gets
 * elements 32 c + 8 t + 2 w, + 1. */
GPU_FUNCTION void gpu_flash_turned(float acc[4][4], const uint32_t a[4], const gpu_words b[2])
{
    const uint32_t low[4] = {b[0].x, b[0].y, b[0].z, b[0].w},
                   high[4] = {b[1].x, b[1].y, b[1].z, b[1].w};
    GPU_UNROLL
    for (uint32_t w = 0; w < 4; w++) {
        uint32_t turned[2];
        turned[0] = gpu_turn(low[w]);
        turned[1] = gpu_turn(high[w]);
        gpu_mma(acc[w], a, turned);
    }
}

/* What a row of the warp's tile has beside its query. */
typedef struct gpu_flash_slope {
    float max[2], inverse[2], mean[2];
} gpu_flash_slope;

/* p and dp of a page's keys; p is 0 where a unit doesn't see the key. */
GPU_FUNCTION void gpu_flash_slopes(const joust_gpu_attend_args *p, const gpu_flash_lane *l,
                                   const gpu_flash_slope *of, uint32_t from,
                                   gpu_words query[FLASH_CHUNKS][2],
                                   gpu_words d_out[FLASH_CHUNKS][2], float weight[2][4],
                                   float slope[2][4], uint32_t width)
{
    const void *page = l->pages[from / JOUST_DEVICE_PAGE_POSITIONS];
    const uint32_t last = l->last_key - from;
    gpu_flash_page(l, page, p->layer, last, query, weight, width);
    GPU_UNROLL
    for (uint32_t i = 0; i < 8; i++)
        slope[i / 4][i % 4] = 0.0f;
    GPU_UNROLL
    for (uint32_t c = 0; c < width / 32; c++) {
        gpu_words values[2];
        if (32 * c >= l->ld)
            continue;
        gpu_flash_values(l, page, p->layer, p->n_kv_heads, c, last, values);
        gpu_flash_product(slope[0], d_out[c], values[0]);
        gpu_flash_product(slope[1], d_out[c], values[1]);
    }
    GPU_UNROLL
    for (uint32_t h = 0; h < 2; h++)
        GPU_UNROLL
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t key = from + gpu_flash_place(l, h, i), r = i / 2;
        const int seen = key >= l->first[r] && key <= l->position[r];
        const float x = gpu_exp(weight[h][i] * p->scale - of->max[r]) * of->inverse[r];
        weight[h][i] = seen ? x : 0.0f;
        slope[h][i] = seen ? slope[h][i] : 0.0f;
    }
}

/* dq += a page's keys' part: weight becomes ds. */
GPU_FUNCTION void gpu_flash_queries(const joust_gpu_attend_args *p, const gpu_flash_lane *l,
                                    const gpu_flash_slope *of, uint32_t from, float s[2][4],
                                    float slope[2][4], float dq[FLASH_CHUNKS][4][4], uint32_t width)
{
    const void *page = l->pages[from / JOUST_DEVICE_PAGE_POSITIONS];
    GPU_UNROLL
    for (uint32_t h = 0; h < 2; h++)
        GPU_UNROLL
    for (uint32_t i = 0; i < 4; i++)
        s[h][i] = (s[h][i] * (slope[h][i] - of->mean[i / 2])) * p->scale;
    const uint32_t ds[4] = {gpu_flash_pair(s[0][0], s[0][1]), gpu_flash_pair(s[0][2], s[0][3]),
                            gpu_flash_pair(s[1][0], s[1][1]), gpu_flash_pair(s[1][2], s[1][3])};
    GPU_UNROLL
    for (uint32_t c = 0; c < width / 32; c++) {
        gpu_words keys[2];
        if (32 * c >= l->ld)
            continue;
        GPU_UNROLL
        for (uint32_t h = 0; h < 2; h++)
            keys[h] = gpu_flash_key(page, p->layer, l->kv, l->ld, gpu_flash_column(l->g, h),
                                    32 * c + 8 * l->t, l->last_key - from);
        gpu_flash_turned(dq[c], ds, keys);
    }
}

GPU_FUNCTION void gpu_flash_rows_store(const joust_gpu_attend_back_args *p, const gpu_flash_lane *l,
                                       const gpu_flash_slope *of, float dq[FLASH_CHUNKS][4][4],
                                       uint32_t width)
{
    const size_t qkv = (size_t)(p->n_heads + 2 * p->n_kv_heads) * p->d_head;
    GPU_UNROLL
    for (uint32_t r = 0; r < 2; r++) {
        if (l->head[r] == JOUST_GPU_NONE)
            continue;
        float *to = p->d_qkv + l->row[r] * qkv + (size_t)l->head[r] * p->d_head;
        GPU_UNROLL
        for (uint32_t i = 0; i < width / 4; i++) { /* of eight */
            const uint32_t c = i / 8, w = i / 2 % 4, at = 32 * c + 8 * l->t + 2 * w + i % 2;
            if (at < p->d_head)
                to[at] = dq[c][w][2 * r + i % 2];
        }
        if (l->t == 0)
            p->means[(size_t)l->row[r] * p->n_heads + l->head[r]] = of->mean[r];
    }
}

GPU_FUNCTION void gpu_flash_rows(const joust_gpu_attend_back_args *p, uint32_t width)
{
    const joust_gpu_attend_args a = gpu_attend_back_args(p);
    const uint32_t number = GPU_BLOCK_X * FLASH_WARPS + GPU_THREAD / GPU_WARP,
                   step = JOUST_DEVICE_PAGE_POSITIONS;
    if (number >= p->at.n_tiles)
        return;
    const gpu_flash_lane l =
        gpu_flash_begin(&a, &p->at.tiles[p->at.n_tiles - 1 - number], GPU_BLOCK_Y);
    gpu_words query[FLASH_CHUNKS][2], d_out[FLASH_CHUNKS][2];
    float dq[FLASH_CHUNKS][4][4] = {{{0}}}, weight[2][4], slope[2][4];
    gpu_flash_slope of = {{0, 0}, {0, 0}, {0, 0}};
    gpu_flash_load(&l, p->qkv, gpu_flash_qkv(&a), p->d_head, query, width);
    gpu_flash_load(&l, p->d_out, p->n_heads * p->d_head, p->d_head, d_out, width);
    for (uint32_t r = 0; r < 2; r++)
        if (l.head[r] != JOUST_GPU_NONE) {
            const float *stats = p->stats + 2 * ((size_t)l.row[r] * p->n_heads + l.head[r]);
            of.max[r] = stats[0];
            of.inverse[r] = stats[1];
        }
    for (uint32_t from = l.first_key / step * step; from <= l.last_key; from += step) {
        gpu_flash_slopes(&a, &l, &of, from, query, d_out, weight, slope, width);
        GPU_UNROLL
        for (uint32_t i = 0; i < 8; i++)
            of.mean[i / 2 % 2] =
                fmaf(weight[i / 4][i % 4], slope[i / 4][i % 4], of.mean[i / 2 % 2]);
    }
    of.mean[0] = gpu_flash_add(of.mean[0]);
    of.mean[1] = gpu_flash_add(of.mean[1]);
    for (uint32_t from = l.first_key / step * step; from <= l.last_key; from += step) {
        gpu_flash_slopes(&a, &l, &of, from, query, d_out, weight, slope, width);
        gpu_flash_queries(&a, &l, &of, from, weight, slope, dq, width);
    }
    gpu_flash_rows_store(p, &l, &of, dq, width);
}

/* ---- keys and values ------------------------------------------------------------------------- */

/* A lane's part of a block's keys: rows g and g + 8 of its products are keys g and g + 8 of the page. */
typedef struct gpu_flash_keys_lane {
    const void *page;
    uint32_t g, t, kv, ld, group, n_units;
    uint32_t row, end;   /* the first key's row; where those that may see them end */
    uint32_t in_page, n; /* keys in_page .. in_page + n - 1 of the page */
    uint32_t position;   /* of the first */
} gpu_flash_keys_lane;

GPU_FUNCTION gpu_flash_keys_lane gpu_flash_keys_begin(const joust_gpu_attend_back_args *p)
{
    const joust_gpu_key_tile *tile = &p->key_tiles[GPU_BLOCK_X];
    const uint32_t lane = GPU_THREAD % GPU_WARP;
    gpu_flash_keys_lane l;
    l.g = lane / 4;
    l.t = lane % 4;
    l.kv = GPU_BLOCK_Y;
    l.ld = gpu_head_ld(p->d_head, 1);
    l.group = p->n_heads / p->n_kv_heads;
    l.row = tile->row;
    l.end = tile->end;
    l.n = tile->n;
    l.n_units = (tile->end - tile->row) * l.group;
    l.position = p->at.positions[tile->row];
    l.in_page = l.position % JOUST_DEVICE_PAGE_POSITIONS;
    l.page = p->at.pages[p->at.first_page[tile->row] + l.position / JOUST_DEVICE_PAGE_POSITIONS];
    return l;
}

GPU_FUNCTION int gpu_flash_has(const gpu_flash_keys_lane *l, uint32_t key)
{
    return key >= l->in_page && key < l->in_page + l->n;
}

/* The keys and their values as factors of rows g and g + 8. */
GPU_FUNCTION void gpu_flash_keys_load(const joust_gpu_attend_back_args *p,
                                      const gpu_flash_keys_lane *l, gpu_words keys[FLASH_CHUNKS][2],
                                      gpu_words values[FLASH_CHUNKS][2], uint32_t width)
{
    GPU_UNROLL
    for (uint32_t c = 0; c < width / 32; c++)
        GPU_UNROLL
    for (uint32_t r = 0; r < 2; r++) {
        uint32_t turned[4];
        if (32 * c >= l->ld)
            continue;
        keys[c][r] = gpu_flash_key(l->page, p->layer, l->kv, l->ld, l->g + 8 * r, 32 * c + 8 * l->t,
                                   l->in_page + l->n - 1);
        GPU_UNROLL
        for (uint32_t w = 0; w < 4; w++) {
            const uint32_t i = 32 * c + 8 * (l->g / 2) + 2 * w + l->g % 2;
            uint32_t pair = 0;
            if (i < l->ld)
                pair =
                    *(const uint32_t *)(const void *)((const uint16_t *)l->page +
                                                      gpu_value_at(p->layer, p->n_kv_heads, l->kv,
                                                                   l->ld, 8 * r + 2 * l->t, i, 1));
            turned[w] = gpu_turn(pair);
        }
        values[c][r].x = turned[0];
        values[c][r].y = turned[1];
        values[c][r].z = turned[2];
        values[c][r].w = turned[3];
    }
}

/* Elements 32 c + 8 t .. + 7 of unit u's head, of rows of `heads` heads each; 0 past the end. */
GPU_FUNCTION gpu_words gpu_flash_unit(const gpu_flash_keys_lane *l, const void *from,
                                      uint32_t heads, uint32_t u, uint32_t c)
{
    const gpu_words zero = {0, 0, 0, 0};
    const size_t row = l->row + u / l->group, head = l->kv * l->group + u % l->group;
    if (u >= l->n_units || 32 * c + 8 * l->t >= l->ld)
        return zero;
    return *(const gpu_words *)((const uint16_t *)from + (row * heads + head) * l->ld + 32 * c +
                                8 * l->t);
}

/* Scores s and slopes of units u + 8 h + 2 t, + 1 become p and ds; 0 where a unit doesn't see a key. */
GPU_FUNCTION void gpu_flash_keys_weigh(const joust_gpu_attend_back_args *p,
                                       const gpu_flash_keys_lane *l, uint32_t u, float s[2][4],
                                       float slope[2][4])
{
    GPU_UNROLL
    for (uint32_t h = 0; h < 2; h++)
        GPU_UNROLL
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t unit = u + 8 * h + 2 * l->t + i % 2, key = l->g + i / 2 * 8,
                       of_row = unit / l->group, of_key = key - l->in_page;
        const int there = unit < l->n_units;
        const size_t one =
            there ? (size_t)(l->row + of_row) * p->n_heads + l->kv * l->group + unit % l->group : 0;
        const int seen = there && gpu_flash_has(l, key) && of_row >= of_key &&
                         (p->window == 0 ||
                          p->at.positions[l->row + of_row] - (l->position + of_key) < p->window);
        const float weight =
            gpu_exp(s[h][i] * p->scale - p->stats[2 * one]) * p->stats[2 * one + 1];
        s[h][i] = seen ? weight : 0.0f;
        slope[h][i] = seen ? (weight * (slope[h][i] - p->means[one])) * p->scale : 0.0f;
    }
}

/* dk, dv += what sixteen units from u on give. */
GPU_FUNCTION void
gpu_flash_keys_units(const joust_gpu_attend_back_args *p, const gpu_flash_keys_lane *l, uint32_t u,
                     gpu_words keys[FLASH_CHUNKS][2], gpu_words values[FLASH_CHUNKS][2],
                     float dk[FLASH_CHUNKS][4][4], float dv[FLASH_CHUNKS][4][4], uint32_t width)
{
    const uint32_t heads = p->n_heads + 2 * p->n_kv_heads;
    float s[2][4] = {{0}}, slope[2][4] = {{0}};
    GPU_UNROLL
    for (uint32_t h = 0; h < 2; h++)
        GPU_UNROLL
    for (uint32_t c = 0; c < width / 32; c++) {
        if (32 * c >= l->ld)
            continue;
        gpu_flash_product(s[h], keys[c],
                          gpu_flash_unit(l, p->query_half, heads, u + 8 * h + l->g, c));
        gpu_flash_product(slope[h], values[c],
                          gpu_flash_unit(l, p->out_half, p->n_heads, u + 8 * h + l->g, c));
    }
    gpu_flash_keys_weigh(p, l, u, s, slope);
    const uint32_t weights[4] = {gpu_flash_pair(s[0][0], s[0][1]), gpu_flash_pair(s[0][2], s[0][3]),
                                 gpu_flash_pair(s[1][0], s[1][1]),
                                 gpu_flash_pair(s[1][2], s[1][3])},
                   slopes[4] = {gpu_flash_pair(slope[0][0], slope[0][1]),
                                gpu_flash_pair(slope[0][2], slope[0][3]),
                                gpu_flash_pair(slope[1][0], slope[1][1]),
                                gpu_flash_pair(slope[1][2], slope[1][3])};
    GPU_UNROLL
    for (uint32_t c = 0; c < width / 32; c++) {
        gpu_words of[2];
        if (32 * c >= l->ld)
            continue;
        for (uint32_t h = 0; h < 2; h++)
            of[h] = gpu_flash_unit(l, p->query_half, heads, u + 8 * h + l->g, c);
        gpu_flash_turned(dk[c], slopes, of);
        for (uint32_t h = 0; h < 2; h++)
            of[h] = gpu_flash_unit(l, p->out_half, p->n_heads, u + 8 * h + l->g, c);
        gpu_flash_turned(dv[c], weights, of);
    }
}

/* The block's sum of what its warps have: by the first, in order of warps. */
GPU_FUNCTION void gpu_flash_keys_add(float acc[FLASH_CHUNKS][4][4], float *scratch, uint32_t width)
{
    const uint32_t warp = GPU_THREAD / GPU_WARP, lane = GPU_THREAD % GPU_WARP;
    for (uint32_t from = 1; from < FLASH_WARPS; from++) {
        GPU_UNROLL
        for (uint32_t i = 0; i < width / 2; i++)
            if (warp == from)
                scratch[i * GPU_WARP + lane] = acc[i / 16][i / 4 % 4][i % 4];
        GPU_SYNC();
        GPU_UNROLL
        for (uint32_t i = 0; i < width / 2; i++)
            if (warp == 0)
                acc[i / 16][i / 4 % 4][i % 4] += scratch[i * GPU_WARP + lane];
        GPU_SYNC();
    }
}

/* By the first warp: into d_qkv, head `head`. */
GPU_FUNCTION void gpu_flash_keys_store(const joust_gpu_attend_back_args *p,
                                       const gpu_flash_keys_lane *l, uint32_t head,
                                       float acc[FLASH_CHUNKS][4][4], uint32_t width)
{
    const size_t heads = p->n_heads + 2 * p->n_kv_heads;
    GPU_UNROLL
    for (uint32_t i = 0; i < width / 2; i++) {
        const uint32_t c = i / 16, w = i / 4 % 4, r = i / 2 % 2, key = l->g + 8 * r,
                       at = 32 * c + 8 * l->t + 2 * w + i % 2;
        if (GPU_THREAD < GPU_WARP && at < p->d_head && gpu_flash_has(l, key))
            p->d_qkv[((l->row + key - l->in_page) * heads + head) * p->d_head + at] =
                acc[c][w][i % 4];
    }
}

GPU_FUNCTION void gpu_flash_keys(const joust_gpu_attend_back_args *p, uint32_t width)
{
    GPU_SHARED float scratch[JOUST_GPU_HEAD_MAX / 2 * GPU_WARP];
    const gpu_flash_keys_lane l = gpu_flash_keys_begin(p);
    gpu_words keys[FLASH_CHUNKS][2], values[FLASH_CHUNKS][2];
    float dk[FLASH_CHUNKS][4][4] = {{{0}}}, dv[FLASH_CHUNKS][4][4] = {{{0}}};
    gpu_flash_keys_load(p, &l, keys, values, width);
    for (uint32_t u = GPU_THREAD / GPU_WARP * FLASH_UNITS; u < l.n_units;
         u += FLASH_WARPS * FLASH_UNITS)
        gpu_flash_keys_units(p, &l, u, keys, values, dk, dv, width);
    gpu_flash_keys_add(dk, scratch, width);
    gpu_flash_keys_add(dv, scratch, width);
    gpu_flash_keys_store(p, &l, p->n_heads + l.kv, dk, width);
    gpu_flash_keys_store(p, &l, p->n_heads + p->n_kv_heads + l.kv, dv, width);
}

#endif
