/* Attention and its backward pass, over `lanes`: a part of kernels_template_internal.h. */
#ifndef JOUST_WORKER_ENGINE_KERNELS_KERNELS_ATTEND_INTERNAL_H
#define JOUST_WORKER_ENGINE_KERNELS_KERNELS_ATTEND_INTERNAL_H

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

#endif
