/* Attention in bf16 by tensor-core products, for prompts, next tokens and training alike.
 *
 * A warp has a tile of at most sixteen units (a row and one of its key's heads) of rows that see the same pages. Keys come in
 * segments of 256 positions and tiles of 64, both counted from position 0. A segment's maximum, sum and mixed values begin
 * anew and go through its tiles in order, each rescaling what stands; segments are merged in order. Keys that a unit doesn't
 * see weigh 0 and change nothing. So a unit's bits are a function of its query, its keys and their positions: not of the
 * tile it is in, nor of whether one warp takes all segments (gpu_flash) or each its own (gpu_flash_parts, gpu_flash_merge).
 *
 * Sixteen keys, a page's, are two products of eight columns: column n of product h is key 4 (n / 2) + n % 2 + 2 h, so that
 * what lane 4 g + t computes of a page are keys 4 t .. 4 t + 3 of rows g and g + 8, and their values lie side by side. A
 * head's width is summed over in chunks of 32, of which the lane has elements 8 t .. 8 t + 7: as in a bf16 product. */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_FLASH_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_FLASH_INTERNAL_H

#include "cuda_rows_internal.h"

#define FLASH_SEGMENT JOUST_GPU_SEGMENT_KEYS
#define FLASH_KEYS    64u /* of a tile */
#define FLASH_PAGES   (FLASH_KEYS / JOUST_DEVICE_PAGE_POSITIONS)
#define FLASH_UNITS   JOUST_GPU_TILE_UNITS
#define FLASH_WARPS   4u
#define FLASH_CHUNKS  (JOUST_GPU_HEAD_MAX / 32u) /* of a head's width, at most */
#define FLASH_PARTS   (JOUST_GPU_HEAD_MAX / 8u)

/* What a lane works on: of the warp's tile, rows g and g + 8 of its products. */
typedef struct gpu_flash_lane {
    void *const *pages;
    uint32_t g, t, kv, ld;          /* ld: of a head in a page */
    uint32_t row[2], head[2];       /* head JOUST_GPU_NONE: no such unit */
    uint32_t first[2], position[2]; /* keys that it sees */
    uint32_t first_key, last_key;   /* that any unit of the tile sees */
} gpu_flash_lane;

/* Running maximum, sum of exponentials (the lane's share, or all) and mixed values (columns 8 b + 2 t, 8 b + 2 t + 1 of row
 * g, then of row g + 8). */
typedef struct gpu_flash_sums {
    float max[2], sum[2], mixed[FLASH_PARTS][4];
} gpu_flash_sums;

GPU_FUNCTION uint32_t gpu_flash_first(const joust_gpu_attend_args *p, uint32_t position)
{
    return p->window == 0 || position < p->window ? 0 : position - p->window + 1;
}

GPU_FUNCTION gpu_flash_lane gpu_flash_begin(const joust_gpu_attend_args *p,
                                            const joust_gpu_tile *tile, uint32_t kv)
{
    const uint32_t group = p->n_heads / p->n_kv_heads, lane = GPU_THREAD % GPU_WARP,
                   last = tile->unit + tile->n - 1;
    gpu_flash_lane l;
    l.pages = p->at.pages + p->at.first_page[tile->row];
    l.g = lane / 4;
    l.t = lane % 4;
    l.kv = kv;
    l.ld = gpu_head_ld(p->d_head, 1);
    for (uint32_t r = 0; r < 2; r++) {
        const uint32_t unit = l.g + 8 * r, there = unit < tile->n,
                       of_run = there ? tile->unit + unit : 0;
        l.row[r] = tile->row + of_run / group;
        l.head[r] = there ? kv * group + of_run % group : JOUST_GPU_NONE;
        l.position[r] = there ? p->at.positions[l.row[r]] : 0;
        l.first[r] = there ? gpu_flash_first(p, l.position[r]) : 1;
    }
    l.first_key = gpu_flash_first(p, p->at.positions[tile->row + tile->unit / group]);
    l.last_key = p->at.positions[tile->row + last / group];
    return l;
}

/* Eight numbers of a head from element i on, rounded; 0 past its width. */
GPU_FUNCTION gpu_words gpu_flash_round(const float *from, uint32_t i, uint32_t d)
{
    uint32_t half[8];
    gpu_words w;
    GPU_UNROLL
    for (uint32_t k = 0; k < 8; k++)
        half[k] = i + k < d ? gpu_to_bf16(from[i + k]) : 0;
    w.x = half[0] | half[1] << 16;
    w.y = half[2] | half[3] << 16;
    w.z = half[4] | half[5] << 16;
    w.w = half[6] | half[7] << 16;
    return w;
}

/* The lane's factors of its two rows: heads of `width` numbers, `ld` from row to row. */
GPU_FUNCTION void gpu_flash_load(const gpu_flash_lane *l, const float *from, uint32_t ld,
                                 uint32_t d, gpu_words to[FLASH_CHUNKS][2], uint32_t width)
{
    GPU_UNROLL
    for (uint32_t c = 0; c < width / 32; c++)
        GPU_UNROLL
    for (uint32_t r = 0; r < 2; r++) {
        const int there = l->head[r] != JOUST_GPU_NONE;
        to[c][r] =
            gpu_flash_round(from + (there ? (size_t)l->row[r] * ld + (size_t)l->head[r] * d : 0),
                            32 * c + 8 * l->t, there ? d : 0);
    }
}

/* acc += sixteen rows times eight, over 32 numbers: a[0] of rows g, a[1] of rows g + 8. */
GPU_FUNCTION void gpu_flash_product(float acc[4], const gpu_words a[2], gpu_words b)
{
    const uint32_t first[4] = {a[0].x, a[1].x, a[0].y, a[1].y},
                   second[4] = {a[0].z, a[1].z, a[0].w, a[1].w}, b_first[2] = {b.x, b.y},
                   b_second[2] = {b.z, b.w};
    gpu_mma(acc, first, b_first);
    gpu_mma(acc, second, b_second);
}

/* Eight elements of a page's key from i on; 0 past the width, and past key `last`. */
GPU_FUNCTION gpu_words gpu_flash_key(const void *page, uint64_t layer, uint32_t kv, uint32_t ld,
                                     uint32_t key, uint32_t i, uint32_t last)
{
    const gpu_words zero = {0, 0, 0, 0};
    return i < ld && key <= last
               ? *(const gpu_words *)((const uint16_t *)page + gpu_key_at(layer, kv, ld, key, i, 1))
               : zero;
}

/* Column n of product h of a page's keys. */
GPU_FUNCTION uint32_t gpu_flash_column(uint32_t n, uint32_t h)
{
    return 4 * (n / 2) + n % 2 + 2 * h;
}

/* Scores of the keys of a page up to key `last`, not yet scaled. */
GPU_FUNCTION void gpu_flash_page(const gpu_flash_lane *l, const void *page, uint64_t layer,
                                 uint32_t last, gpu_words query[FLASH_CHUNKS][2], float s[2][4],
                                 uint32_t width)
{
    GPU_UNROLL
    for (uint32_t h = 0; h < 2; h++) {
        GPU_UNROLL
        for (uint32_t i = 0; i < 4; i++)
            s[h][i] = 0.0f;
        GPU_UNROLL
        for (uint32_t c = 0; c < width / 32; c++)
            if (32 * c < l->ld)
                gpu_flash_product(s[h], query[c],
                                  gpu_flash_key(page, layer, l->kv, l->ld,
                                                gpu_flash_column(l->g, h), 32 * c + 8 * l->t,
                                                last));
    }
}

/* Number of the key whose score s[h][i] is, of its page. */
GPU_FUNCTION uint32_t gpu_flash_place(const gpu_flash_lane *l, uint32_t h, uint32_t i)
{
    return 4 * l->t + 2 * h + i % 2;
}

/* Scores of a tile of keys, scaled; -inf where a unit doesn't see the key. */
GPU_FUNCTION void gpu_flash_scores(const joust_gpu_attend_args *p, const gpu_flash_lane *l,
                                   uint32_t base, gpu_words query[FLASH_CHUNKS][2],
                                   float s[FLASH_PAGES][2][4], uint32_t width)
{
    GPU_UNROLL
    for (uint32_t j = 0; j < FLASH_PAGES; j++) {
        const uint32_t from = base + j * JOUST_DEVICE_PAGE_POSITIONS;
        const int seen = from <= l->last_key &&
                         from + JOUST_DEVICE_PAGE_POSITIONS > l->first_key; /* by any unit */
        if (seen)
            gpu_flash_page(l, l->pages[from / JOUST_DEVICE_PAGE_POSITIONS], p->layer,
                           l->last_key - from, query, s[j], width);
        GPU_UNROLL
        for (uint32_t h = 0; h < 2; h++)
            GPU_UNROLL
        for (uint32_t i = 0; i < 4; i++) {
            const uint32_t key = from + gpu_flash_place(l, h, i);
            s[j][h][i] = seen && key >= l->first[i / 2] && key <= l->position[i / 2]
                             ? s[j][h][i] * p->scale
                             : -INFINITY;
        }
    }
}

/* The largest, or the sum in a fixed order, of what the four lanes of a row have. */
GPU_FUNCTION float gpu_flash_largest(float x)
{
    float other = gpu_swap(x, 1);
    x = other > x ? other : x;
    other = gpu_swap(x, 2);
    return other > x ? other : x;
}
GPU_FUNCTION float gpu_flash_add(float x)
{
    x += gpu_swap(x, 1);
    return x + gpu_swap(x, 2);
}

/* What is subtracted before an exponential where nothing has been seen yet. */
GPU_FUNCTION float gpu_flash_origin(float max)
{
    return max == -INFINITY ? 0.0f : max;
}

/* Scores become weights relative to the maximum so far; what stands is rescaled. */
GPU_FUNCTION void gpu_flash_weigh(gpu_flash_sums *to, float s[FLASH_PAGES][2][4], uint32_t ld,
                                  uint32_t width)
{
    float factor[2];
    GPU_UNROLL
    for (uint32_t r = 0; r < 2; r++) {
        float max = to->max[r];
        GPU_UNROLL
        for (uint32_t i = 0; i < 4 * FLASH_PAGES; i++) {
            const float x = s[i / 4][i / 2 % 2][2 * r + i % 2];
            max = x > max ? x : max;
        }
        max = gpu_flash_largest(max);
        factor[r] = gpu_exp(to->max[r] - gpu_flash_origin(max));
        to->max[r] = max;
        float sum = to->sum[r] * factor[r];
        GPU_UNROLL
        for (uint32_t i = 0; i < 4 * FLASH_PAGES; i++) {
            float *x = &s[i / 4][i / 2 % 2][2 * r + i % 2];
            *x = gpu_exp(*x - gpu_flash_origin(max));
            sum += *x;
        }
        to->sum[r] = sum;
    }
    GPU_UNROLL
    for (uint32_t b = 0; b < width / 8; b++)
        GPU_UNROLL
    for (uint32_t i = 0; i < 4; i++)
        if (8 * b < ld)
            to->mixed[b][i] *= factor[i / 2];
}

GPU_FUNCTION uint32_t gpu_flash_pair(float low, float high)
{
    return gpu_to_bf16(low) | (uint32_t)gpu_to_bf16(high) << 16;
}

/* Keys 4 t .. 4 t + 3 of a page: of column i of their values, those past key `last` of the page left out. */
GPU_FUNCTION gpu_pair gpu_flash_value(const void *page, uint64_t layer, uint32_t n_kv, uint32_t kv,
                                      uint32_t ld, uint32_t i, uint32_t t, uint32_t last)
{
    gpu_pair v = *(const gpu_pair *)((const uint16_t *)page +
                                     gpu_value_at(layer, n_kv, kv, ld, 4 * t, i, 1));
    if (last + 1 < JOUST_DEVICE_PAGE_POSITIONS) {
        v.x &= 4 * t > last ? 0u : 4 * t + 1 > last ? 0xffffu : ~0u;
        v.y &= 4 * t + 2 > last ? 0u : 4 * t + 3 > last ? 0xffffu : ~0u;
    }
    return v;
}

/* mixed += weights times values, pages in order. */
GPU_FUNCTION void gpu_flash_mix(const joust_gpu_attend_args *p, const gpu_flash_lane *l,
                                uint32_t base, float s[FLASH_PAGES][2][4], gpu_flash_sums *to,
                                uint32_t width)
{
    GPU_UNROLL
    for (uint32_t j = 0; j < FLASH_PAGES; j++) {
        const uint32_t from = base + j * JOUST_DEVICE_PAGE_POSITIONS;
        if (from > l->last_key || from + JOUST_DEVICE_PAGE_POSITIONS <= l->first_key)
            continue;
        const void *page = l->pages[from / JOUST_DEVICE_PAGE_POSITIONS];
        const uint32_t weights[4] = {
            gpu_flash_pair(s[j][0][0], s[j][0][1]), gpu_flash_pair(s[j][0][2], s[j][0][3]),
            gpu_flash_pair(s[j][1][0], s[j][1][1]), gpu_flash_pair(s[j][1][2], s[j][1][3])};
        GPU_UNROLL
        for (uint32_t b = 0; b < width / 8; b++) {
            if (8 * b >= l->ld)
                continue;
            const gpu_pair v = gpu_flash_value(page, p->layer, p->n_kv_heads, l->kv, l->ld,
                                               8 * b + l->g, l->t, l->last_key - from);
            const uint32_t values[2] = {v.x, v.y};
            gpu_mma(to->mixed[b], weights, values);
        }
    }
}

GPU_FUNCTION void gpu_flash_clear(gpu_flash_sums *s, uint32_t width)
{
    s->max[0] = s->max[1] = -INFINITY;
    s->sum[0] = s->sum[1] = 0.0f;
    GPU_UNROLL
    for (uint32_t b = 0; b < width / 8; b++)
        GPU_UNROLL
    for (uint32_t i = 0; i < 4; i++)
        s->mixed[b][i] = 0.0f;
}

/* A segment: its maximum, sum (of all lanes) and mixed values. */
GPU_FUNCTION void gpu_flash_segment(const joust_gpu_attend_args *p, const gpu_flash_lane *l,
                                    uint32_t segment, gpu_words query[FLASH_CHUNKS][2],
                                    gpu_flash_sums *to, uint32_t width)
{
    gpu_flash_clear(to, width);
    for (uint32_t base = segment * FLASH_SEGMENT;
         base < (segment + 1) * FLASH_SEGMENT && base <= l->last_key; base += FLASH_KEYS) {
        float s[FLASH_PAGES][2][4];
        if (base + FLASH_KEYS <= l->first_key)
            continue;
        gpu_flash_scores(p, l, base, query, s, width);
        gpu_flash_weigh(to, s, l->ld, width);
        gpu_flash_mix(p, l, base, s, to, width);
    }
    GPU_UNROLL
    for (uint32_t r = 0; r < 2; r++)
        to->sum[r] = gpu_flash_add(to->sum[r]);
}

/* What stands and a segment: what each is multiplied by. Returns the new sum. */
GPU_FUNCTION float gpu_flash_join(float *max, float sum, float part_max, float part_sum, float *ret,
                                  float *ret_part)
{
    const float to = part_max > *max ? part_max : *max, origin = gpu_flash_origin(to);
    *ret = gpu_exp(*max - origin);
    *ret_part = gpu_exp(part_max - origin);
    *max = to;
    return fmaf(part_sum, *ret_part, sum * *ret);
}

GPU_FUNCTION void gpu_flash_add_segment(gpu_flash_sums *to, const gpu_flash_sums *part,
                                        uint32_t width)
{
    float factor[2], of_part[2];
    GPU_UNROLL
    for (uint32_t r = 0; r < 2; r++)
        to->sum[r] = gpu_flash_join(&to->max[r], to->sum[r], part->max[r], part->sum[r], &factor[r],
                                    &of_part[r]);
    GPU_UNROLL
    for (uint32_t b = 0; b < width / 8; b++)
        GPU_UNROLL
    for (uint32_t i = 0; i < 4; i++)
        to->mixed[b][i] = fmaf(part->mixed[b][i], of_part[i / 2], to->mixed[b][i] * factor[i / 2]);
}

/* ---- the kernels ----------------------------------------------------------------------------- */

/* A unit's maximum and 1 / sum; zeros in what the next product reads past the heads. By the lanes of one row. */
GPU_FUNCTION void gpu_flash_close(const joust_gpu_attend_args *p, uint32_t row, uint32_t head,
                                  float max, float inverse, uint32_t thread, uint32_t threads)
{
    if (p->stats && thread == 0) {
        float *stats = p->stats + 2 * ((size_t)row * p->n_heads + head);
        stats[0] = max;
        stats[1] = inverse;
    }
    for (uint32_t i = p->n_heads * p->d_head + thread; head + 1 == p->n_heads && i < p->ld;
         i += threads)
        gpu_store(p->out, (size_t)row * p->ld + i, 0.0f, 1);
}

GPU_FUNCTION void gpu_flash_store(const joust_gpu_attend_args *p, const gpu_flash_lane *l,
                                  const gpu_flash_sums *total, uint32_t width)
{
    GPU_UNROLL
    for (uint32_t r = 0; r < 2; r++) {
        if (l->head[r] == JOUST_GPU_NONE)
            continue;
        const float inverse = 1.0f / total->sum[r];
        uint16_t *to = (uint16_t *)p->out + (size_t)l->row[r] * p->ld +
                       (size_t)l->head[r] * p->d_head + 2 * l->t;
        GPU_UNROLL
        for (uint32_t b = 0; b < width / 8; b++) /* + 0: a masked tile may have made -0 a 0 */
            if (8 * b + 2 * l->t < p->d_head)
                *(uint32_t *)(void *)(to + 8 * b) =
                    gpu_flash_pair(total->mixed[b][2 * r] * inverse + 0.0f,
                                   total->mixed[b][2 * r + 1] * inverse + 0.0f);
        gpu_flash_close(p, l->row[r], l->head[r], total->max[r], inverse, l->t, 4);
    }
}

GPU_FUNCTION uint32_t gpu_flash_qkv(const joust_gpu_attend_args *p)
{
    return (p->n_heads + 2 * p->n_kv_heads) * p->d_head;
}

/* All segments of a tile, the tiles that see most keys first. width: the widest head of the variant, a constant. */
GPU_FUNCTION void gpu_flash(const joust_gpu_attend_args *p, uint32_t width)
{
    const uint32_t number = GPU_BLOCK_X * FLASH_WARPS + GPU_THREAD / GPU_WARP;
    if (number >= p->at.n_tiles)
        return;
    const gpu_flash_lane l =
        gpu_flash_begin(p, &p->at.tiles[p->at.n_tiles - 1 - number], GPU_BLOCK_Y);
    gpu_words query[FLASH_CHUNKS][2];
    gpu_flash_sums total, part;
    gpu_flash_load(&l, p->qkv, gpu_flash_qkv(p), p->d_head, query, width);
    gpu_flash_clear(&total, width);
    for (uint32_t segment = l.first_key / FLASH_SEGMENT; segment <= l.last_key / FLASH_SEGMENT;
         segment++) {
        gpu_flash_segment(p, &l, segment, query, &part, width);
        gpu_flash_add_segment(&total, &part, width);
    }
    gpu_flash_store(p, &l, &total, width);
}

/* Where a unit's segment goes: maximum, sum, mixed values. */
GPU_FUNCTION float *gpu_flash_part(const joust_gpu_attend_args *p, uint32_t row, uint32_t head,
                                   uint32_t number)
{
    const size_t one = ((size_t)row * p->n_heads + head) * p->n_parts + number;
    return p->parts + one * (gpu_head_ld(p->d_head, 1) + 2);
}

/* One segment of a tile a warp. */
GPU_FUNCTION void gpu_flash_parts(const joust_gpu_attend_args *p, uint32_t width)
{
    const uint32_t number = GPU_BLOCK_X * FLASH_WARPS + GPU_THREAD / GPU_WARP,
                   tile = GPU_BLOCK_Y / p->n_kv_heads, kv = GPU_BLOCK_Y % p->n_kv_heads;
    const gpu_flash_lane l = gpu_flash_begin(p, &p->at.tiles[tile], kv);
    const uint32_t segment = l.first_key / FLASH_SEGMENT + number;
    if (number >= p->n_parts || segment > l.last_key / FLASH_SEGMENT)
        return;
    gpu_words query[FLASH_CHUNKS][2];
    gpu_flash_sums part;
    gpu_flash_load(&l, p->qkv, gpu_flash_qkv(p), p->d_head, query, width);
    gpu_flash_segment(p, &l, segment, query, &part, width);
    GPU_UNROLL
    for (uint32_t r = 0; r < 2; r++) {
        if (l.head[r] == JOUST_GPU_NONE)
            continue;
        float *to = gpu_flash_part(p, l.row[r], l.head[r], number);
        if (l.t == 0) {
            to[0] = part.max[r];
            to[1] = part.sum[r];
        }
        GPU_UNROLL
        for (uint32_t b = 0; b < width / 8; b++) {
            if (8 * b >= l.ld)
                continue;
            to[2 + 8 * b + 2 * l.t] = part.mixed[b][2 * r];
            to[2 + 8 * b + 2 * l.t + 1] = part.mixed[b][2 * r + 1];
        }
    }
}

/* A unit's segments, in order; a thread a column. */
GPU_FUNCTION void gpu_flash_merge(const joust_gpu_attend_args *p)
{
    const uint32_t tile = GPU_BLOCK_Y / p->n_kv_heads, kv = GPU_BLOCK_Y % p->n_kv_heads,
                   group = p->n_heads / p->n_kv_heads, unit = GPU_BLOCK_X;
    const joust_gpu_tile *of = &p->at.tiles[tile];
    if (unit >= of->n)
        return;
    const uint32_t row = of->row + (of->unit + unit) / group,
                   head = kv * group + (of->unit + unit) % group,
                   begin = gpu_flash_first(p, p->at.positions[of->row + of->unit / group]) /
                           FLASH_SEGMENT,
                   n = p->at.positions[row] / FLASH_SEGMENT - begin + 1;
    float max = -INFINITY, inverse = 0.0f;
    for (uint32_t i = GPU_THREAD; i < p->d_head; i += GPU_THREADS) {
        float sum = 0.0f, mixed = 0.0f, factor, of_part;
        max = -INFINITY;
        for (uint32_t k = 0; k < n; k++) {
            const float *part = gpu_flash_part(p, row, head, k);
            sum = gpu_flash_join(&max, sum, part[0], part[1], &factor, &of_part);
            mixed = fmaf(part[2 + i], of_part, mixed * factor);
        }
        inverse = 1.0f / sum;
        gpu_store(p->out, (size_t)row * p->ld + (size_t)head * p->d_head + i,
                  mixed * inverse + 0.0f, 1);
    }
    gpu_flash_close(p, row, head, max, inverse, GPU_THREAD, GPU_THREADS);
}

#endif
