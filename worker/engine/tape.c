#include "tape_internal.h"

#include <assert.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "sampler_internal.h"

/* ---- memory ---------------------------------------------------------------------------------- */

typedef struct tape_part_place {
    float **place;
    size_t ld;
} place;

/* One zeroed block for n rows of every place. Rows stay zero past their width: nothing ever writes
 * there. */
static joust_status places_make(float **block, const place *places, size_t n_places, uint32_t n,
                                joust_error *err)
{
    size_t size = 0;
    for (size_t i = 0; i < n_places; i++)
        size += joust_lanes_up((uint32_t)places[i].ld) * (size_t)n;
    joust_free_aligned(*block);
    *block = joust_calloc_aligned(size, sizeof(float));
    if (!*block)
        return joust_fail(err, JOUST_NOMEM, "training: no memory for the activations of %u tokens",
                          n);
    float *at = *block;
    for (size_t i = 0; i < n_places; i++) {
        *places[i].place = at;
        at += joust_lanes_up((uint32_t)places[i].ld) * (size_t)n;
    }
    return JOUST_OK;
}

static joust_status rows_reserve(joust_tape *t, uint32_t n, joust_error *err)
{
    if (n <= t->row_room)
        return JOUST_OK;
    const joust_model_config *c = &t->forward.model->config;
    const joust_widths w = t->forward.w;
    const bool normed = joust_config_has_qk_norm(c);
    const uint32_t per_layer = 13, n_places = per_layer * c->n_layers + 7;
    t->row_room = t->wanted_room = 0;
    joust_free(t->rows);
    joust_free(t->wanted);
    t->rows = joust_calloc(n, sizeof(*t->rows));
    t->wanted = joust_calloc(n, sizeof(*t->wanted));
    place *places = joust_calloc(n_places, sizeof(*places));
    joust_status st = JOUST_NOMEM;
    if (!t->rows || !t->wanted || !places) {
        joust_fail(err, JOUST_NOMEM, "training: no memory for %u tokens", n);
        goto out;
    }
    float *x_last = NULL;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        joust_activations *a = &t->layers[i];
        const place of_layer[] = {{&a->x, w.d_ld},
                                  {&a->normed, w.d_ld},
                                  {&a->qkv, w.qkv_ld},
                                  {&a->mixed, w.query_ld},
                                  {&a->x_mid, w.d_ld},
                                  {&a->normed_ff, w.d_ld},
                                  {&a->gate_up, w.gate_up_ld},
                                  {&a->hidden, w.ff_ld},
                                  {&a->norm_r, 1},
                                  {&a->norm_ff_r, 1},
                                  {&a->stats, 2 * c->n_heads},
                                  {&a->qk, normed ? w.qk_ld : 0},
                                  {&a->qk_r, normed ? c->n_heads + c->n_kv_heads : 0}};
        assert(sizeof(of_layer) / sizeof(*of_layer) == per_layer);
        memcpy(places + i * per_layer, of_layer, sizeof(of_layer));
    }
    const place shared[] = {{&x_last, w.d_ld},         {&t->dx, w.d_ld},
                            {&t->d_normed, w.d_ld},    {&t->d_qkv, w.qkv_ld},
                            {&t->d_mixed, w.query_ld}, {&t->d_gate_up, w.gate_up_ld},
                            {&t->d_hidden, w.ff_ld}};
    memcpy(places + c->n_layers * per_layer, shared, sizeof(shared));
    st = places_make(&t->row_block, places, n_places, n, err);
    if (!st) {
        for (uint32_t i = 0; i < c->n_layers; i++)
            t->layers[i].x_out = i + 1 < c->n_layers ? t->layers[i + 1].x : x_last;
        t->row_room = n;
    }
out:
    joust_free(places);
    return st;
}

static joust_status wanted_reserve(joust_tape *t, uint32_t n, joust_error *err)
{
    if (n <= t->wanted_room)
        return JOUST_OK;
    const joust_widths w = t->forward.w;
    const place places[] = {{&t->x_wanted, w.d_ld},     {&t->normed, w.d_ld},
                            {&t->d_head, w.d_ld},       {&t->logits, w.vocab_ld},
                            {&t->d_logits, w.vocab_ld}, {&t->norm_r, 1}};
    t->wanted_room = 0;
    joust_free(t->sums);
    t->sums = joust_calloc(n, sizeof(*t->sums));
    if (!t->sums)
        return joust_fail(err, JOUST_NOMEM, "training: no memory for the logits of %u tokens", n);
    joust_status st =
        places_make(&t->wanted_block, places, sizeof(places) / sizeof(*places), n, err);
    if (!st)
        t->wanted_room = n;
    return st;
}

static void keys_free(joust_tape_keys *k)
{
    joust_kv_fini(&k->kv);
    joust_free_aligned(k->values);
    *k = (joust_tape_keys){0};
}

static joust_status keys_reserve(joust_tape *t, uint32_t part, uint32_t n, joust_error *err)
{
    joust_tape_keys *k = &t->keys[part];
    const joust_model_config *c = &t->forward.model->config;
    if (n <= k->kv.capacity)
        return JOUST_OK;
    keys_free(k);
    joust_status st = joust_kv_init(&k->kv, t->forward.model, n, 1, err);
    if (st)
        return st;
    const size_t rows = (size_t)c->n_kv_heads * k->kv.capacity;
    const size_t lanes = rows * c->d_head, padded = rows * joust_lanes_up(c->d_head);
    k->values = joust_calloc_aligned(lanes + 3 * padded, sizeof(float));
    if (!k->values) {
        keys_free(k);
        return joust_fail(err, JOUST_NOMEM, "training: no memory for the keys of %u tokens", n);
    }
    k->key_rows = k->values + lanes;
    k->d_key_rows = k->key_rows + padded;
    k->d_value_rows = k->d_key_rows + padded;
    return JOUST_OK;
}

joust_status joust_tape_create(const joust_engine *engine, const joust_model *m, joust_tape **ret,
                               joust_error *err)
{
    joust_tape *t = joust_calloc(1, sizeof(*t));
    if (!t)
        return joust_fail(err, JOUST_NOMEM, "training: out of memory");
    joust_status st = joust_forward_init(&t->forward, engine, m, err);
    const uint32_t heads = m->config.n_heads * joust_lanes_up(m->config.d_head);
    const uint32_t scores = joust_lanes_up(m->config.context) + 2 * JOUST_LANES;
    const place places[] = {{&t->query, heads},
                            {&t->d_out, heads},
                            {&t->d_query, heads},
                            {&t->p, scores},
                            {&t->ds, scores}};
    if (!st)
        st = places_make(&t->head_block, places, sizeof(places) / sizeof(*places), 1, err);
    if (!st && !(t->layers = joust_calloc(m->config.n_layers, sizeof(*t->layers))))
        st = joust_fail(err, JOUST_NOMEM, "training: out of memory");
    if (st) {
        joust_tape_free(&t);
        return st;
    }
    *ret = t;
    return JOUST_OK;
}

void joust_tape_free(joust_tape **tape)
{
    joust_tape *t = *tape;
    *tape = NULL;
    if (!t)
        return;
    joust_forward_fini(&t->forward);
    for (uint32_t i = 0; i < JOUST_TAPE_PARTS; i++)
        keys_free(&t->keys[i]);
    joust_free(t->rows);
    joust_free(t->wanted);
    joust_free(t->layers);
    joust_free(t->sums);
    joust_free_aligned(t->row_block);
    joust_free_aligned(t->wanted_block);
    joust_free_aligned(t->head_block);
    joust_free(t);
}

/* ---- forward --------------------------------------------------------------------------------- */

joust_status joust_tape_begin(joust_tape *t, const joust_tape_part *parts, uint32_t n_parts,
                              joust_error *err)
{
    assert(n_parts >= 1 && n_parts <= JOUST_TAPE_PARTS);
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_parts; i++)
        n += parts[i].n;
    t->n_wanted = 0;
    joust_status st = rows_reserve(t, n, err);
    for (uint32_t i = 0; i < n_parts && !st; i++)
        st = keys_reserve(t, i, parts[i].n, err);
    if (st)
        return st;
    t->n_rows = 0;
    for (uint32_t i = 0; i < JOUST_TAPE_PARTS; i++) {
        t->parts[i] = i < n_parts ? parts[i] : (joust_tape_part){0};
        t->first_row[i] = t->n_rows;
        t->keys[i].kv.n = 0;
        for (uint32_t k = 0; k < t->parts[i].n; k++)
            t->rows[t->n_rows++] = (joust_row){.token = parts[i].tokens[k],
                                               .position = i ? t->parts[0].n + k : k,
                                               .prefix = i ? &t->keys[0].kv : NULL,
                                               .own = &t->keys[i].kv};
    }
    return JOUST_OK;
}

uint32_t joust_tape_want(joust_tape *t, uint32_t row)
{
    if (t->n_wanted && t->wanted[t->n_wanted - 1] == row)
        return t->n_wanted - 1;
    assert(row < t->n_rows && (t->n_wanted == 0 || t->wanted[t->n_wanted - 1] < row));
    t->wanted[t->n_wanted] = row;
    return t->n_wanted++;
}

uint32_t joust_tape_find(const joust_tape *t, uint32_t row)
{
    uint32_t low = 0, high = t->n_wanted;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (t->wanted[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    assert(high > low && t->wanted[low] == row);
    return low;
}

joust_status joust_tape_forward(joust_tape *t, joust_error *err)
{
    const joust_forward *f = &t->forward;
    const joust_model_config *c = &f->model->config;
    joust_status st = wanted_reserve(t, t->n_wanted, err);
    if (st)
        return st;
    joust_forward_embed(f, t->rows, t->n_rows, t->layers[0].x);
    for (uint32_t layer = 0; layer < c->n_layers; layer++)
        joust_forward_layer(f, layer, t->rows, t->n_rows, &t->layers[layer]);
    const float *x = t->layers[c->n_layers - 1].x_out;
    for (uint32_t i = 0; i < t->n_wanted; i++)
        memcpy(t->x_wanted + (size_t)i * f->w.d_ld, x + (size_t)t->wanted[i] * f->w.d_ld,
               f->w.d_ld * sizeof(float));
    joust_forward_head(f, t->x_wanted, t->n_wanted, t->normed, t->norm_r, t->logits);
    memset(t->d_logits, 0, (size_t)t->n_wanted * f->w.vocab_ld * sizeof(float));
    for (uint32_t i = 0; i < t->n_wanted && !st; i++) {
        t->sums[i] = f->kernels->log_sum(t->logits + (size_t)i * f->w.vocab_ld, f->model->n_out);
        st = joust_log_sum_check(t->sums[i], err);
    }
    return st;
}

float joust_tape_logp(const joust_tape *t, uint32_t i, uint32_t token)
{
    return joust_logp(t->logits + (size_t)i * t->forward.w.vocab_ld, t->sums[i], token);
}

void joust_tape_pull(joust_tape *t, uint32_t i, uint32_t token, float factor)
{
    const joust_forward *f = &t->forward;
    float *d = t->d_logits + (size_t)i * f->w.vocab_ld;
    f->kernels->softmax_add(t->logits + (size_t)i * f->w.vocab_ld, f->model->n_out, t->sums[i],
                            -factor, d);
    d[token] += factor;
}

/* ---- backward -------------------------------------------------------------------------------- */

/* A matrix w (out, in) and both its gradients: dx = dy . w, d_w = dy^T . x, for n rows. */
typedef struct product {
    const float *w, *x, *dy;
    uint32_t out, in, x_ld, dy_ld, n;
    float *dx, *d_w; /* dx has x_ld */
} product;

static void product_backward(const joust_kernels *k, const product *p)
{
    joust_gemm inputs = {.a = p->dy,
                         .a_row = p->dy_ld,
                         .a_step = 1,
                         .b = p->w,
                         .b_panel = JOUST_LANES,
                         .b_step = p->in,
                         .c = p->dx,
                         .c_row = p->x_ld,
                         .m = p->n,
                         .n = p->in,
                         .k = p->out};
    joust_gemm weights = {.a = p->dy,
                          .a_row = 1,
                          .a_step = p->dy_ld,
                          .b = p->x,
                          .b_panel = JOUST_LANES,
                          .b_step = p->x_ld,
                          .c = p->d_w,
                          .c_row = p->in,
                          .m = p->out,
                          .n = p->in,
                          .k = p->n};
    k->gemm(&inputs);
    k->gemm(&weights);
}

static void norms_backward(const joust_tape *t, const float *x, uint64_t gain, const float *r,
                           const float *dy, float *gradients)
{
    const joust_forward *f = &t->forward;
    for (uint32_t i = 0; i < t->n_rows; i++)
        f->kernels->norm_backward(x + (size_t)i * f->w.d_ld, f->model->weights + gain, r[i],
                                  dy + (size_t)i * f->w.d_ld, f->model->config.d_model,
                                  t->dx + (size_t)i * f->w.d_ld, gradients + gain);
}

/* A bias's gradient: += that of its n rows of outputs. */
static void bias_backward(const joust_forward *f, const float *dy, uint32_t ld, uint32_t n,
                          uint32_t width, float *gradient)
{
    for (uint32_t i = 0; i < n; i++)
        f->kernels->add(gradient, dy + (size_t)i * ld, width);
}

static void feed_forward_backward(joust_tape *t, uint32_t layer, float *gradients)
{
    const joust_forward *f = &t->forward;
    const joust_model_config *c = &f->model->config;
    const joust_activations *a = &t->layers[layer];
    const joust_layer_offsets *at = &f->model->offsets[layer];
    const float *w = f->model->weights;
    if (c->mlp_bias)
        bias_backward(f, t->dx, f->w.d_ld, t->n_rows, c->d_model, gradients + at->down_bias);
    product_backward(f->kernels, &(product){.w = w + at->down,
                                            .x = a->hidden,
                                            .dy = t->dx,
                                            .out = c->d_model,
                                            .in = c->d_ff,
                                            .x_ld = f->w.ff_ld,
                                            .dy_ld = f->w.d_ld,
                                            .n = t->n_rows,
                                            .dx = t->d_hidden,
                                            .d_w = gradients + at->down});
    for (uint32_t i = 0; i < t->n_rows; i++)
        f->kernels->swiglu_backward(a->gate_up + (size_t)i * f->w.gate_up_ld,
                                    t->d_hidden + (size_t)i * f->w.ff_ld, c->d_ff,
                                    t->d_gate_up + (size_t)i * f->w.gate_up_ld);
    if (c->mlp_bias)
        bias_backward(f, t->d_gate_up, f->w.gate_up_ld, t->n_rows, 2 * c->d_ff,
                      gradients + at->gate_up_bias);
    product_backward(f->kernels, &(product){.w = w + at->gate_up,
                                            .x = a->normed_ff,
                                            .dy = t->d_gate_up,
                                            .out = 2 * c->d_ff,
                                            .in = c->d_model,
                                            .x_ld = f->w.d_ld,
                                            .dy_ld = f->w.gate_up_ld,
                                            .n = t->n_rows,
                                            .dx = t->d_normed,
                                            .d_w = gradients + at->gate_up});
    norms_backward(t, a->x_mid, at->ff_norm, a->norm_ff_r, t->d_normed, gradients);
}

/* Sets up what attend_backward reads of a part's keys and values, from the kept qkv. */
static void keys_prepare(joust_tape *t, uint32_t layer, uint32_t part)
{
    const joust_forward *f = &t->forward;
    const joust_model_config *c = &f->model->config;
    joust_tape_keys *k = &t->keys[part];
    if (t->parts[part].n == 0)
        return;
    const uint32_t head_ld = joust_lanes_up(c->d_head), capacity = k->kv.capacity;
    const size_t padded = (size_t)c->n_kv_heads * capacity * head_ld;
    memset(k->d_key_rows, 0, padded * sizeof(float));
    memset(k->d_value_rows, 0, padded * sizeof(float));
    for (uint32_t i = 0; i < t->parts[part].n; i++) {
        const uint32_t row = t->first_row[part] + i;
        const float *qkv = t->layers[layer].qkv + (size_t)row * f->w.qkv_ld;
        joust_forward_store(f, 0, &t->rows[row], qkv);
        for (uint32_t h = 0; h < c->n_kv_heads; h++) {
            const float *key = qkv + f->w.query + (size_t)h * c->d_head,
                        *value = key + f->w.key_value;
            memcpy(k->key_rows + ((size_t)h * capacity + i) * head_ld, key,
                   c->d_head * sizeof(float));
            float *to = k->values +
                        ((size_t)h * capacity + i / JOUST_LANES * JOUST_LANES) * c->d_head +
                        i % JOUST_LANES;
            for (uint32_t d = 0; d < c->d_head; d++)
                to[(size_t)d * JOUST_LANES] = value[d];
        }
    }
}

static joust_attention_span span_of(const joust_tape *t, uint32_t part, uint32_t n)
{
    const joust_tape_keys *k = &t->keys[part];
    return (joust_attention_span){.keys = k->kv.data,
                                  .values = k->values,
                                  .key_rows = k->key_rows,
                                  .d_key_rows = k->d_key_rows,
                                  .d_value_rows = k->d_value_rows,
                                  .capacity = k->kv.capacity,
                                  .n = n};
}

/* Between rows of heads that are padded and rows that are not. */
static void heads_copy(float *to, uint32_t to_ld, const float *from, uint32_t from_ld, uint32_t n,
                       uint32_t d_head)
{
    for (uint32_t h = 0; h < n; h++)
        memcpy(to + (size_t)h * to_ld, from + (size_t)h * from_ld, d_head * sizeof(float));
}

static void attend_row_backward(joust_tape *t, uint32_t layer, uint32_t part, uint32_t i)
{
    const joust_forward *f = &t->forward;
    const joust_model_config *c = &f->model->config;
    const uint32_t row = t->first_row[part] + i, head_ld = joust_lanes_up(c->d_head);
    const joust_activations *a = &t->layers[layer];
    heads_copy(t->query, head_ld, a->qkv + (size_t)row * f->w.qkv_ld, c->d_head, c->n_heads,
               c->d_head);
    heads_copy(t->d_out, head_ld, t->d_mixed + (size_t)row * f->w.query_ld, c->d_head, c->n_heads,
               c->d_head);
    joust_attention_backward b = {.n_heads = c->n_heads,
                                  .n_kv_heads = c->n_kv_heads,
                                  .d_head = c->d_head,
                                  .head_ld = head_ld,
                                  .scale = joust_forward_scale(f),
                                  .query = t->query,
                                  .d_out = t->d_out,
                                  .stats = a->stats + (size_t)row * joust_lanes_up(2 * c->n_heads),
                                  .masked =
                                      joust_config_first_seen(c, layer, t->rows[row].position),
                                  .d_query = t->d_query,
                                  .p = t->p,
                                  .ds = t->ds};
    if (part)
        b.spans[b.n_spans++] = span_of(t, 0, t->parts[0].n);
    b.spans[b.n_spans++] = span_of(t, part, i + 1);
    f->kernels->attend_backward(&b);
    heads_copy(t->d_qkv + (size_t)row * f->w.qkv_ld, c->d_head, t->d_query, head_ld, c->n_heads,
               c->d_head);
}

/* Through the norms of n heads: dy becomes dx; raw and r as the forward pass kept them. */
static void heads_norm_backward(const joust_forward *f, const float *raw, const float *r,
                                uint32_t n, uint64_t gain, float *dy, float *gradients)
{
    const uint32_t d_head = f->model->config.d_head, head_ld = f->w.head_ld;
    float *x = f->head, *up = f->head + head_ld, *dx = up + head_ld;
    for (uint32_t h = 0; h < n; h++, raw += d_head, dy += d_head) {
        memcpy(x, raw, d_head * sizeof(float));
        memcpy(up, dy, d_head * sizeof(float));
        memset(dx, 0, head_ld * sizeof(float));
        f->kernels->norm_backward(x, f->model->weights + gain, r[h], up, d_head, dx,
                                  gradients + gain);
        memcpy(dy, dx, d_head * sizeof(float));
    }
}

/* From the gradient of what attention read to that of the product; gradients of norms and biases collect. */
static void qkv_backward(const joust_tape *t, uint32_t layer, uint32_t row, float *gradients)
{
    const joust_forward *f = &t->forward;
    const joust_model_config *c = &f->model->config;
    const joust_activations *a = &t->layers[layer];
    const joust_layer_offsets *at = &f->model->offsets[layer];
    float *d_qkv = t->d_qkv + (size_t)row * f->w.qkv_ld;
    f->kernels->rope(d_qkv, c->n_heads + c->n_kv_heads, c->d_head,
                     f->model->rope + (size_t)t->rows[row].position * c->d_head, true);
    if (joust_config_has_qk_norm(c)) {
        const float *raw = a->qk + (size_t)row * f->w.qk_ld,
                    *r = a->qk_r + (size_t)row * joust_lanes_up(c->n_heads + c->n_kv_heads);
        heads_norm_backward(f, raw, r, c->n_heads, at->q_norm, d_qkv, gradients);
        heads_norm_backward(f, raw + f->w.query, r + c->n_heads, c->n_kv_heads, at->k_norm,
                            d_qkv + f->w.query, gradients);
    }
    if (joust_config_has_bias(c))
        f->kernels->add(gradients + at->qkv_bias, d_qkv, f->w.qkv);
}

/* d_qkv from d_mixed: every query row in order, then the sums that its keys and values collected.
 * */
static void heads_backward(joust_tape *t, uint32_t layer, float *gradients)
{
    const joust_forward *f = &t->forward;
    const joust_model_config *c = &f->model->config;
    const uint32_t head_ld = joust_lanes_up(c->d_head);
    for (uint32_t part = 0; part < JOUST_TAPE_PARTS; part++)
        keys_prepare(t, layer, part);
    for (uint32_t part = 0; part < JOUST_TAPE_PARTS; part++)
        for (uint32_t i = 0; i < t->parts[part].n; i++)
            attend_row_backward(t, layer, part, i);
    for (uint32_t part = 0; part < JOUST_TAPE_PARTS; part++)
        for (uint32_t i = 0; i < t->parts[part].n; i++) {
            const joust_tape_keys *k = &t->keys[part];
            const uint32_t row = t->first_row[part] + i, stride = k->kv.capacity * head_ld;
            float *d_qkv = t->d_qkv + (size_t)row * f->w.qkv_ld, *d_key = d_qkv + f->w.query;
            heads_copy(d_key, c->d_head, k->d_key_rows + (size_t)i * head_ld, stride, c->n_kv_heads,
                       c->d_head);
            heads_copy(d_key + f->w.key_value, c->d_head, k->d_value_rows + (size_t)i * head_ld,
                       stride, c->n_kv_heads, c->d_head);
            qkv_backward(t, layer, row, gradients);
        }
}

static void attention_backward(joust_tape *t, uint32_t layer, float *gradients)
{
    const joust_forward *f = &t->forward;
    const joust_model_config *c = &f->model->config;
    const joust_activations *a = &t->layers[layer];
    const joust_layer_offsets *at = &f->model->offsets[layer];
    const float *w = f->model->weights;
    if (c->attention_bias)
        bias_backward(f, t->dx, f->w.d_ld, t->n_rows, c->d_model, gradients + at->o_bias);
    product_backward(f->kernels, &(product){.w = w + at->o,
                                            .x = a->mixed,
                                            .dy = t->dx,
                                            .out = c->d_model,
                                            .in = f->w.query,
                                            .x_ld = f->w.query_ld,
                                            .dy_ld = f->w.d_ld,
                                            .n = t->n_rows,
                                            .dx = t->d_mixed,
                                            .d_w = gradients + at->o});
    heads_backward(t, layer, gradients);
    product_backward(f->kernels, &(product){.w = w + at->qkv,
                                            .x = a->normed,
                                            .dy = t->d_qkv,
                                            .out = f->w.qkv,
                                            .in = c->d_model,
                                            .x_ld = f->w.d_ld,
                                            .dy_ld = f->w.qkv_ld,
                                            .n = t->n_rows,
                                            .dx = t->d_normed,
                                            .d_w = gradients + at->qkv});
    norms_backward(t, a->x, at->attention_norm, a->norm_r, t->d_normed, gradients);
}

static void head_backward(joust_tape *t, float *gradients)
{
    const joust_forward *f = &t->forward;
    const joust_model *m = f->model;
    product_backward(f->kernels, &(product){.w = m->weights + m->head,
                                            .x = t->normed,
                                            .dy = t->d_logits,
                                            .out = m->n_out,
                                            .in = m->config.d_model,
                                            .x_ld = f->w.d_ld,
                                            .dy_ld = f->w.vocab_ld,
                                            .n = t->n_wanted,
                                            .dx = t->d_head,
                                            .d_w = gradients + m->head});
    memset(t->dx, 0, (size_t)t->n_rows * f->w.d_ld * sizeof(float));
    for (uint32_t i = 0; i < t->n_wanted; i++)
        f->kernels->norm_backward(t->x_wanted + (size_t)i * f->w.d_ld, m->weights + m->norm,
                                  t->norm_r[i], t->d_head + (size_t)i * f->w.d_ld,
                                  m->config.d_model, t->dx + (size_t)t->wanted[i] * f->w.d_ld,
                                  gradients + m->norm);
}

/* Matrices are written whole by their products; what collects row by row begins at zero. */
static void collected_clear(const joust_model *m, float *gradients)
{
    const joust_model_config *c = &m->config;
    const size_t norm = c->d_model * sizeof(float);
    if (m->head != m->embedding)
        memset(gradients + m->embedding, 0, c->vocab_size * norm);
    memset(gradients + m->norm, 0, norm);
    for (uint32_t i = 0; i < c->n_layers;
         i++) { /* a layer's norms and biases stand after its matrices */
        const uint64_t first = m->offsets[i].attention_norm,
                       end = i + 1 < c->n_layers ? m->offsets[i + 1].qkv : m->norm;
        memset(gradients + first, 0, (end - first) * sizeof(float));
    }
}

void joust_tape_backward(joust_tape *t, float *gradients)
{
    const joust_forward *f = &t->forward;
    const uint32_t d = f->model->config.d_model;
    collected_clear(f->model, gradients);
    head_backward(t, gradients);
    for (uint32_t layer = f->model->config.n_layers; layer-- > 0;) {
        feed_forward_backward(t, layer, gradients);
        attention_backward(t, layer, gradients);
    }
    for (uint32_t r = 0; r < t->n_rows; r++)
        f->kernels->add(gradients + f->model->embedding + (size_t)t->rows[r].token * d,
                        t->dx + (size_t)r * f->w.d_ld, d);
}
