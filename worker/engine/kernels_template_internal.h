/* The text of the kernels, over `lanes`. Included once by each of kernels_portable.c,
 * kernels_avx2.c and kernels_avx512.c after their lanes; defines `static const joust_kernels
 * kernels_of_lanes`. Formulas and orders of summation: KERNELS.md. */
#ifndef JOUST_WORKER_ENGINE_KERNELS_TEMPLATE_INTERNAL_H
#define JOUST_WORKER_ENGINE_KERNELS_TEMPLATE_INTERNAL_H

#include <math.h> /* sqrtf, INFINITY, NAN */

#include "kernels_internal.h"
#include "proto/base/math.h"

/* Steps of a strided b that are copied side by side at a time. */
#define GEMM_BLOCK   192u
/* A transposed a whose steps are so far apart is copied, so many rows together; their distance is no
 * power of two. */
#define GEMM_FAR     4096u
#define GEMM_ROWS    64u
#define GEMM_ROWS_LD 80u

/* ---- chains ---------------------------------------------------------------------------------- */

/* c = a b + c again and again, one FMA each. Lanes may keep c in a form of their own meanwhile. */
#ifndef LANES_OWN_CHAIN
typedef lanes lanes_chain;

LANES_INLINE lanes_chain lanes_chain_begin(lanes c)
{
    return c;
}

LANES_INLINE void lanes_chain_add(lanes_chain *chain, lanes a, lanes b)
{
    *chain = lanes_fma(a, b, *chain);
}

LANES_INLINE lanes lanes_chain_end(lanes_chain chain)
{
    return chain;
}
#endif

/* ---- exp ------------------------------------------------------------------------------------- */

/* exp(x): x = k ln 2 + r, |r| <= 0.3466; exp(r) by its Taylor series to r^7 / 7!. 0 below -87.33,
 * and exp(88.37) above 88.37; a NaN stays. */
LANES_INLINE lanes lanes_exp(lanes x)
{
    const lanes lowest = lanes_set(-87.33f), magic = lanes_set(0x1.8p23f);
    lanes t = lanes_min(lanes_set(88.37f), lanes_max(lowest, x));
    lanes shifted = lanes_fma(t, lanes_set(0x1.715476p+0f), magic), k = lanes_sub(shifted, magic);
    lanes r = lanes_fma(k, lanes_set(-0x1.62e4p-1f), t);
    r = lanes_fma(k, lanes_set(-0x1.7f7d1cp-20f), r);
    lanes p = lanes_set(1.0f / 5040.0f);
    p = lanes_fma(p, r, lanes_set(1.0f / 720.0f));
    p = lanes_fma(p, r, lanes_set(1.0f / 120.0f));
    p = lanes_fma(p, r, lanes_set(1.0f / 24.0f));
    p = lanes_fma(p, r, lanes_set(1.0f / 6.0f));
    p = lanes_fma(p, r, lanes_set(0.5f));
    p = lanes_fma(p, r, lanes_set(1.0f));
    p = lanes_fma(p, r, lanes_set(1.0f));
    return lanes_zero_below(x, lowest, lanes_mul(p, lanes_power_of_two(shifted)));
}

/* Lanes i .. i+15 of x, of which those from n on are fill. */
LANES_INLINE lanes lanes_at(const float *x, uint32_t i, uint32_t n, float fill)
{
    return i + JOUST_LANES <= n ? lanes_load(x + i) : lanes_load_n(x + i, n - i, fill);
}

LANES_INLINE void lanes_put(float *x, uint32_t i, uint32_t n, lanes y)
{
    if (i + JOUST_LANES <= n)
        lanes_store(x + i, y);
    else
        lanes_store_n(x + i, n - i, y);
}

LANES_INLINE float lanes_largest(lanes x)
{
    float at[JOUST_LANES], largest;
    lanes_store(at, x);
    largest = at[0];
    for (uint32_t i = 1; i < JOUST_LANES; i++)
        largest = largest > at[i] ? largest : at[i];
    return largest;
}

/* ---- matrix product -------------------------------------------------------------------------- */

/* rows x panels outputs, all in registers, over k steps. rows and panels are constants to the
 * compiler. */
LANES_INLINE void gemm_tile(const joust_gemm *g, uint32_t row, uint32_t panel, const uint32_t rows,
                            const uint32_t panels)
{
    lanes_chain sum[8][8];
    float *c = g->c + row * g->c_row + panel * JOUST_LANES;
    uint32_t width = g->n - panel * JOUST_LANES; /* from the first panel to the end of the row */
    LANES_UNROLL
    for (uint32_t i = 0; i < rows; i++)
        LANES_UNROLL
    for (uint32_t j = 0; j < panels; j++)
        sum[i][j] = lanes_chain_begin(g->add ? lanes_at(c + i * g->c_row, j * JOUST_LANES, width, 0)
                                             : lanes_set(0));
    const float *a = g->a + row * g->a_row, *b = g->b + panel * g->b_panel;
    for (uint32_t s = 0; s < g->k; s++, a += g->a_step, b += g->b_step) {
        lanes from[8];
        LANES_UNROLL
        for (uint32_t j = 0; j < panels; j++)
            from[j] = lanes_load(b + j * g->b_panel);
        LANES_UNROLL
        for (uint32_t i = 0; i < rows; i++) {
            lanes one = lanes_set(a[i * g->a_row]);
            LANES_UNROLL
            for (uint32_t j = 0; j < panels; j++)
                lanes_chain_add(&sum[i][j], one, from[j]);
        }
    }
    LANES_UNROLL
    for (uint32_t i = 0; i < rows; i++)
        LANES_UNROLL
    for (uint32_t j = 0; j < panels; j++)
        lanes_put(c + i * g->c_row, j * JOUST_LANES, width, lanes_chain_end(sum[i][j]));
}

#define GEMM_TILE(rows, panels)                                                                    \
    case (rows)*16 + (panels):                                                                     \
        gemm_tile(g, row, panel, (rows), (panels));                                                \
        break
static void gemm_tile_of(const joust_gemm *g, uint32_t row, uint32_t panel, uint32_t rows,
                         uint32_t panels)
{
    switch (rows * 16 + panels) {
        GEMM_TILES
    }
}

/* All tiles of g, whose b is read where it lies. */
static void gemm_tiles(const joust_gemm *g)
{
    static const uint8_t wide[] = TILES_WIDE;
    uint32_t n_panels = joust_lanes_up(g->n) / JOUST_LANES;
    uint32_t usual = g->m < TILE_ROWS ? wide[g->m - 1] : TILE_PANELS, panels;
    for (uint32_t panel = 0; panel < n_panels; panel += panels) {
        panels = n_panels - panel >= usual ? usual : 1;
        for (uint32_t row = 0; row < g->m; row += TILE_ROWS)
            gemm_tile_of(g, row, panel, g->m - row < TILE_ROWS ? g->m - row : TILE_ROWS, panels);
    }
}

/* Columns of b, side by side in whole panels. */
static void side_copy(const joust_gemm *g, uint32_t column, uint32_t width, uint32_t first,
                      uint32_t k, float *side)
{
    for (uint32_t j = 0; j < width; j += JOUST_LANES) {
        const float *from = g->b + (column + j) / JOUST_LANES * g->b_panel + first * g->b_step;
        for (uint32_t s = 0; s < k; s++, side += JOUST_LANES)
            lanes_store(side, lanes_load(from + s * g->b_step));
    }
}

/* The rows of a that `block` has, step after step; their own steps lie far apart, often in the same
 * set of a cache. */
static void rows_copy(joust_gemm *block, float *rows)
{
    for (uint32_t s = 0; s < block->k; s++)
        for (uint32_t i = 0; i < block->m; i++)
            rows[s * GEMM_ROWS_LD + i] = block->a[s * block->a_step + i];
    block->a = rows;
    block->a_step = GEMM_ROWS_LD;
}

/* A strided b is copied side by side, a few panels and a block of steps at a time, and so is an a
 * whose steps aren't neighbours; the sums go on from block to block through c, which changes no
 * bit. */
static void gemm_strided(const joust_gemm *g)
{
    float side[TILE_PANELS * GEMM_BLOCK * JOUST_LANES] __attribute__((aligned(64)));
    float rows[GEMM_BLOCK * GEMM_ROWS_LD] __attribute__((aligned(64)));
    const uint32_t width = TILE_PANELS * JOUST_LANES;
    const bool copies_rows = g->a_row == 1 && g->a_step >= GEMM_FAR;
    const uint32_t height = copies_rows ? GEMM_ROWS : g->m;
    for (uint32_t first = 0; first < g->k; first += GEMM_BLOCK)
        for (uint32_t row = 0; row < g->m; row += height) {
            joust_gemm block = *g;
            block.m = g->m - row < height ? g->m - row : height;
            block.k = g->k - first < GEMM_BLOCK ? g->k - first : GEMM_BLOCK;
            block.a = g->a + row * g->a_row + first * g->a_step;
            block.b = side;
            block.b_step = JOUST_LANES;
            block.b_panel = (size_t)block.k * JOUST_LANES;
            block.add = g->add || first > 0;
            if (copies_rows)
                rows_copy(&block, rows);
            for (uint32_t column = 0; column < g->n; column += width) {
                block.n = g->n - column < width ? g->n - column : width;
                block.c = g->c + row * g->c_row + column;
                side_copy(g, column, block.n, first, block.k, side);
                gemm_tiles(&block);
            }
        }
}

static void gemm(const joust_gemm *g)
{
    if (g->m == 0 || g->n == 0)
        return;
    if (g->b_step == JOUST_LANES || g->m <= TILE_ROWS)
        gemm_tiles(g);
    else
        gemm_strided(g);
}

/* ---- norm ------------------------------------------------------------------------------------ */

static float norm(const float *x, const float *gain, uint32_t d, float eps, float *y)
{
    lanes squares = lanes_set(0);
    for (uint32_t i = 0; i < d; i += JOUST_LANES)
        squares = lanes_fma(lanes_load(x + i), lanes_load(x + i), squares);
    float r = 1.0f / sqrtf(lanes_sum(squares) / (float)d + eps);
    if (r == 0) /* squares beyond float: else the row would become 0, and its logits all equal */
        r = NAN;
    for (uint32_t i = 0; i < d; i += JOUST_LANES)
        lanes_store(y + i,
                    lanes_mul(lanes_mul(lanes_load(x + i), lanes_set(r)), lanes_at(gain, i, d, 0)));
    return r;
}

static void norm_backward(const float *x, const float *gain, float r, const float *dy, uint32_t d,
                          float *dx, float *d_gain)
{
    lanes dot = lanes_set(0);
    for (uint32_t i = 0; i < d; i += JOUST_LANES)
        dot = lanes_fma(lanes_mul(lanes_load(dy + i), lanes_at(gain, i, d, 0)), lanes_load(x + i),
                        dot);
    lanes by_x = lanes_set(-(lanes_sum(dot) * (r * r * r) / (float)d)), by_dy = lanes_set(r);
    for (uint32_t i = 0; i < d; i += JOUST_LANES) {
        lanes at = lanes_load(x + i), up = lanes_load(dy + i);
        lanes from = lanes_fma(at, by_x, lanes_load(dx + i));
        lanes_store(dx + i, lanes_fma(lanes_mul(up, lanes_at(gain, i, d, 0)), by_dy, from));
        lanes_put(d_gain, i, d, lanes_fma(up, lanes_mul(at, by_dy), lanes_at(d_gain, i, d, 0)));
    }
}

/* ---- positions ------------------------------------------------------------------------------- */

static void rope(float *heads, uint32_t n_heads, uint32_t d_head, const float *angles, bool inverse)
{
    uint32_t half = d_head / 2;
    const float sign = inverse ? -1.0f : 1.0f;
    for (uint32_t h = 0; h < n_heads; h++) {
        float *x = heads + (size_t)h * d_head, *y = x + half;
        for (uint32_t i = 0; i < half; i++) {
            float c = angles[i], s = sign * angles[half + i], a = x[i], b = y[i];
            x[i] = a * c - b * s;
            y[i] = b * c + a * s;
        }
    }
}

/* ---- gated unit ------------------------------------------------------------------------------ */

LANES_INLINE lanes lanes_sigmoid(lanes x)
{
    return lanes_div(lanes_set(1), lanes_add(lanes_set(1), lanes_exp(lanes_sub(lanes_set(0), x))));
}

static void swiglu(const float *gate_up, uint32_t d_ff, float *h)
{
    for (uint32_t i = 0; i < d_ff; i += JOUST_LANES) {
        lanes gate = lanes_at(gate_up, i, d_ff, 0), up = lanes_at(gate_up + d_ff, i, d_ff, 0);
        lanes_store(h + i, lanes_mul(lanes_mul(gate, lanes_sigmoid(gate)), up));
    }
}

static void swiglu_backward(const float *gate_up, const float *dh, uint32_t d_ff, float *d_gate_up)
{
    const lanes one = lanes_set(1);
    for (uint32_t i = 0; i < d_ff; i += JOUST_LANES) {
        lanes gate = lanes_at(gate_up, i, d_ff, 0), up = lanes_at(gate_up + d_ff, i, d_ff, 0);
        lanes d = lanes_load(dh + i), s = lanes_sigmoid(gate);
        lanes slope = lanes_mul(s, lanes_fma(gate, lanes_sub(one, s), one));
        lanes_put(d_gate_up, i, d_ff, lanes_mul(lanes_mul(d, up), slope));
        lanes_put(d_gate_up + d_ff, i, d_ff, lanes_mul(d, lanes_mul(gate, s)));
    }
}

/* ---- attention ------------------------------------------------------------------------------- */

/* Sixteen keys each, lanes over positions, whose products with a query are wanted. A chain over the
 * width is bound by the latency of its steps, so four run side by side. */
#define DOT_BLOCKS 4u

typedef struct dot_blocks {
    const float *keys[DOT_BLOCKS];
    float *to[DOT_BLOCKS];
    uint32_t n;
} dot_blocks;

/* to[b][j] = factor * (query . key j of block b), in order of blocks; empties the list. */
LANES_INLINE void dot_flush(dot_blocks *d, const float *query, uint32_t d_head, float factor)
{
    lanes_chain sum[DOT_BLOCKS];
    if (d->n == 0)
        return;
    for (uint32_t b = d->n; b < DOT_BLOCKS; b++)
        d->keys[b] = d->keys[0];
    LANES_UNROLL
    for (uint32_t b = 0; b < DOT_BLOCKS; b++)
        sum[b] = lanes_chain_begin(lanes_set(0));
    for (uint32_t i = 0; i < d_head; i++) {
        lanes one = lanes_set(query[i]);
        LANES_UNROLL
        for (uint32_t b = 0; b < DOT_BLOCKS; b++)
            lanes_chain_add(&sum[b], one, lanes_load(d->keys[b] + i * JOUST_LANES));
    }
    LANES_UNROLL
    for (uint32_t b = 0; b < DOT_BLOCKS; b++)
        if (b < d->n)
            lanes_store(d->to[b], lanes_mul(lanes_chain_end(sum[b]), lanes_set(factor)));
    d->n = 0;
}

/* to[j] = factor * (query . key j) for n keys; writes whole lanes, of which a later call overwrites
 * those past n. The last blocks wait for dot_flush. */
LANES_INLINE void dot_keys(dot_blocks *d, const float *query, const float *keys, uint32_t n,
                           uint32_t d_head, float factor, float *to)
{
    for (uint32_t j = 0; j < n; j += JOUST_LANES, keys += d_head * JOUST_LANES) {
        d->keys[d->n] = keys;
        d->to[d->n++] = to + j;
        if (d->n == DOT_BLOCKS)
            dot_flush(d, query, d_head, factor);
    }
}

/* Largest of x[0..n-1]; the lanes past n become -inf, so that their exponential is 0. */
LANES_INLINE float largest_of(float *x, uint32_t n)
{
    uint32_t tail = n % JOUST_LANES;
    if (tail)
        lanes_store(x + n - tail, lanes_load_n(x + n - tail, tail, -INFINITY));
    lanes largest = lanes_load(x);
    for (uint32_t i = JOUST_LANES; i < n; i += JOUST_LANES)
        largest = lanes_max(largest, lanes_load(x + i));
    return lanes_largest(largest);
}

/* sum[c] += weights[j] * rows[j][16 c ..] over the keys of all spans, in order. */
LANES_INLINE void mix_values(const joust_attention *a, uint32_t kv, uint32_t first,
                             const uint32_t n_vectors, const float *weights, float factor,
                             float *out)
{
    lanes_chain sum[4];
    LANES_UNROLL
    for (uint32_t c = 0; c < n_vectors; c++)
        sum[c] = lanes_chain_begin(lanes_set(0));
    for (uint32_t p = 0; p < a->n_spans; p++) {
        const joust_kv_span *span = &a->spans[p];
        const float *row = span->values + (size_t)kv * span->capacity * a->head_ld + first;
        for (uint32_t j = 0; j < span->n; j++, row += a->head_ld) {
            lanes weight = lanes_set(*weights++);
            LANES_UNROLL
            for (uint32_t c = 0; c < n_vectors; c++)
                lanes_chain_add(&sum[c], weight, lanes_load(row + c * JOUST_LANES));
        }
    }
    LANES_UNROLL
    for (uint32_t c = 0; c < n_vectors; c++)
        lanes_put(out + first, c * JOUST_LANES, a->d_head - first,
                  lanes_mul(lanes_chain_end(sum[c]), lanes_set(factor)));
}

static void attend_head(const joust_attention *a, uint32_t head)
{
    uint32_t kv = head / (a->n_heads / a->n_kv_heads), n = a->lead;
    const float *query = a->query + (size_t)head * a->d_head;
    dot_blocks blocks = {.n = 0};
    for (uint32_t p = 0; p < a->n_spans; p++) {
        const joust_kv_span *span = &a->spans[p];
        dot_keys(&blocks, query, span->keys + (size_t)kv * span->capacity * a->d_head, span->n,
                 a->d_head, a->scale, a->scores + n);
        n += span->n;
    }
    dot_flush(&blocks, query, a->d_head, a->scale);
    for (uint32_t j = 0; j < a->masked; j++)
        a->scores[j] = -INFINITY;
    float largest = largest_of(a->scores, n);
    lanes sum = lanes_set(0);
    for (uint32_t j = 0; j < n; j += JOUST_LANES) {
        lanes e = lanes_exp(lanes_sub(lanes_load(a->scores + j), lanes_set(largest)));
        lanes_store(a->scores + j, e);
        sum = lanes_add(sum, e);
    }
    float inverse = 1.0f / lanes_sum(sum), *out = a->out + (size_t)head * a->d_head;
    if (a->stats) {
        a->stats[2 * head] = largest;
        a->stats[2 * head + 1] = inverse;
    }
    uint32_t first = 0;
    for (; first + 4 * JOUST_LANES <= a->head_ld; first += 4 * JOUST_LANES)
        mix_values(a, kv, first, 4, a->scores + a->lead, inverse, out);
    for (; first + 3 * JOUST_LANES <= a->head_ld; first += 3 * JOUST_LANES)
        mix_values(a, kv, first, 3, a->scores + a->lead, inverse, out);
    for (; first + 2 * JOUST_LANES <= a->head_ld; first += 2 * JOUST_LANES)
        mix_values(a, kv, first, 2, a->scores + a->lead, inverse, out);
    for (; first < a->head_ld; first += JOUST_LANES)
        mix_values(a, kv, first, 1, a->scores + a->lead, inverse, out);
}

static void attend(const joust_attention *a)
{
    for (uint32_t head = a->first_head; head < a->end_head; head++)
        attend_head(a, head);
}

/* d_query, d_key_rows and d_value_rows of one head and sixteen columns, given p and ds. */
LANES_INLINE void attend_backward_columns(const joust_attention_backward *a, uint32_t head,
                                          uint32_t kv, uint32_t column)
{
    const size_t at = (size_t)head * a->head_ld + column;
    lanes query = lanes_load(a->query + at), d_out = lanes_load(a->d_out + at),
          d_query = lanes_set(0);
    const float *p = a->p, *ds = a->ds;
    for (uint32_t s = 0; s < a->n_spans; s++) {
        const joust_attention_span *span = &a->spans[s];
        size_t row = (size_t)kv * span->capacity * a->head_ld + column;
        for (uint32_t j = 0; j < span->n; j++, row += a->head_ld) {
            lanes slope = lanes_set(*ds++), weight = lanes_set(*p++);
            d_query = lanes_fma(slope, lanes_load(span->key_rows + row), d_query);
            lanes_store(span->d_key_rows + row,
                        lanes_fma(slope, query, lanes_load(span->d_key_rows + row)));
            lanes_store(span->d_value_rows + row,
                        lanes_fma(weight, d_out, lanes_load(span->d_value_rows + row)));
        }
    }
    lanes_store(a->d_query + at, d_query);
}

static void attend_backward_head(const joust_attention_backward *a, uint32_t head)
{
    uint32_t kv = head / (a->n_heads / a->n_kv_heads), n = 0;
    const float *query = a->query + (size_t)head * a->head_ld,
                *d_out = a->d_out + (size_t)head * a->head_ld;
    dot_blocks of_keys = {.n = 0}, of_values = {.n = 0};
    for (uint32_t s = 0; s < a->n_spans; s++) {
        const joust_attention_span *span = &a->spans[s];
        size_t block = (size_t)kv * span->capacity * a->d_head;
        dot_keys(&of_keys, query, span->keys + block, span->n, a->d_head, a->scale, a->p + n);
        dot_keys(&of_values, d_out, span->values + block, span->n, a->d_head, 1.0f, a->ds + n);
        n += span->n;
    }
    dot_flush(&of_keys, query, a->d_head, a->scale);
    dot_flush(&of_values, d_out, a->d_head, 1.0f);
    for (uint32_t i = 0; i < a->masked; i++)
        a->p[i] = -INFINITY;
    for (uint32_t i = n; i < joust_lanes_up(n); i++) { /* past the end: probability 0, slope 0 */
        a->p[i] = -INFINITY;
        a->ds[i] = 0;
    }
    const lanes largest = lanes_set(a->stats[2 * head]),
                inverse = lanes_set(a->stats[2 * head + 1]);
    lanes sum = lanes_set(0);
    for (uint32_t j = 0; j < n; j += JOUST_LANES) {
        lanes p = lanes_mul(lanes_exp(lanes_sub(lanes_load(a->p + j), largest)), inverse);
        lanes_store(a->p + j, p);
        sum = lanes_fma(p, lanes_load(a->ds + j), sum);
    }
    const lanes mean = lanes_set(lanes_sum(sum)), scale = lanes_set(a->scale);
    for (uint32_t j = 0; j < n; j += JOUST_LANES) {
        lanes slope = lanes_mul(lanes_load(a->p + j), lanes_sub(lanes_load(a->ds + j), mean));
        lanes_store(a->ds + j, lanes_mul(slope, scale));
    }
    for (uint32_t column = 0; column < a->head_ld; column += JOUST_LANES)
        attend_backward_columns(a, head, kv, column);
}

static void attend_backward(const joust_attention_backward *a)
{
    for (uint32_t head = 0; head < a->n_heads; head++)
        attend_backward_head(a, head);
}

/* ---- softmax --------------------------------------------------------------------------------- */

static joust_log_sum log_sum(const float *x, uint32_t n)
{
    lanes largest = lanes_set(-INFINITY), sum = lanes_set(0);
    for (uint32_t i = 0; i < n; i += JOUST_LANES)
        largest = lanes_max(largest, lanes_at(x, i, n, -INFINITY));
    float max = lanes_largest(largest);
    for (uint32_t i = 0; i < n; i += JOUST_LANES)
        sum = lanes_add(sum, lanes_exp(lanes_sub(lanes_at(x, i, n, -INFINITY), lanes_set(max))));
    return (joust_log_sum){max, (float)joust_log((double)lanes_sum(sum))};
}

static void softmax_add(const float *x, uint32_t n, joust_log_sum sum, float factor, float *d)
{
    for (uint32_t i = 0; i < n; i += JOUST_LANES) {
        lanes logp = lanes_sub(lanes_sub(lanes_at(x, i, n, -INFINITY), lanes_set(sum.max)),
                               lanes_set(sum.log_sum));
        lanes_put(d, i, n, lanes_fma(lanes_set(factor), lanes_exp(logp), lanes_at(d, i, n, 0)));
    }
}

static void exponentials(const float *x, uint32_t n, float max, float scale, float *e)
{
    for (uint32_t i = 0; i < n; i += JOUST_LANES) {
        lanes above = lanes_sub(lanes_at(x, i, n, -INFINITY), lanes_set(max));
        lanes_store(e + i, lanes_exp(lanes_mul(above, lanes_set(scale))));
    }
}

/* ---- whole blocks of weights ----------------------------------------------------------------- */

static void add(float *to, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = to[i] + from[i];
}

/* Eight sums by index mod 8, then by halves. The squares of floats are exact in double. */
static double square_sum(const float *x, size_t n)
{
    double sum[8] = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t k = 0; k < 8; k++)
            sum[k] = sum[k] + (double)x[i + k] * (double)x[i + k];
    for (size_t k = 0; i + k < n; k++)
        sum[k] = sum[k] + (double)x[i + k] * (double)x[i + k];
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

static void adam(const joust_adam *a, const float *gradient, float *m, float *v, float *w, size_t n)
{
    const float rest1 = 1.0f - a->beta1, rest2 = 1.0f - a->beta2,
                by_correction = 1.0f / a->correction;
    for (size_t i = 0; i < n; i++) {
        float g = gradient[i] * a->scale;
        m[i] = a->beta1 * m[i] + rest1 * g;
        v[i] = a->beta2 * v[i] + rest2 * (g * g);
        w[i] = w[i] * a->decay - a->step_size * (m[i] / (sqrtf(v[i]) * by_correction + a->eps));
    }
}

/* ---- bounds ---------------------------------------------------------------------------------- */

/* As many independent chains as the widest tile of a matrix product has. */
#define PEAK_CHAINS (TILE_ROWS * TILE_PANELS)

static float multiply_peak(uint32_t n, float x, uint64_t *ret_flop)
{
    const lanes factor = lanes_set(x), term = lanes_set(x);
    lanes sum[PEAK_CHAINS];
    LANES_UNROLL_ALL
    for (uint32_t i = 0; i < PEAK_CHAINS; i++)
        sum[i] = lanes_set((float)i);
    for (uint32_t s = 0; s < n; s++)
        LANES_UNROLL_ALL
    for (uint32_t i = 0; i < PEAK_CHAINS; i++)
        sum[i] = lanes_fma(sum[i], factor, term);
    lanes all = sum[0];
    LANES_UNROLL_ALL
    for (uint32_t i = 1; i < PEAK_CHAINS; i++)
        all = lanes_add(all, sum[i]);
    *ret_flop = 2ull * JOUST_LANES * PEAK_CHAINS * n;
    return lanes_sum(all);
}

static float read_floats(const float *x, size_t n)
{
    lanes sum[8];
    LANES_UNROLL
    for (uint32_t c = 0; c < 8; c++)
        sum[c] = lanes_set(0);
    for (; n >= 8 * JOUST_LANES; n -= 8 * JOUST_LANES, x += 8 * JOUST_LANES)
        LANES_UNROLL
    for (uint32_t c = 0; c < 8; c++)
        sum[c] = lanes_add(sum[c], lanes_load(x + c * JOUST_LANES));
    lanes all = sum[0];
    LANES_UNROLL
    for (uint32_t c = 1; c < 8; c++)
        all = lanes_add(all, sum[c]);
    return lanes_sum(all);
}

static const joust_kernels kernels_of_lanes = {
    .name = LANES_NAME,
    .gemm = gemm,
    .norm = norm,
    .norm_backward = norm_backward,
    .rope = rope,
    .swiglu = swiglu,
    .swiglu_backward = swiglu_backward,
    .attend = attend,
    .attend_backward = attend_backward,
    .log_sum = log_sum,
    .softmax_add = softmax_add,
    .exponentials = exponentials,
    .add = add,
    .square_sum = square_sum,
    .adam = adam,
    .multiply_peak = multiply_peak,
    .read = read_floats,
};

#endif
