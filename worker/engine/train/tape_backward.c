/* A micro-batch's backward pass: from the gradient of the logits to that of what is trained, the adapter where the model
 * has one, else every weight. Derivations: KERNELS.md, "Backward" and "LoRA". */
#include <string.h>

#include "tape_internal.h"

/* ---- products -------------------------------------------------------------------------------- */

/* A matrix w (out, in) of the model and both its gradients: dx = dy . w, d_w = dy^T . x, for n rows. */
typedef struct product {
    const float *x, *dy;
    uint64_t w; /* in the block of weights, and d_w in that of gradients */
    uint32_t out, in, x_ld, dy_ld, n;
    float *dx; /* has x_ld */
} product;

static void product_backward(const joust_tape *t, const product *p, float *gradients)
{
    const joust_kernels *k = t->forward.kernels;
    const joust_model *m = t->forward.model;
    joust_gemm inputs = {.a = p->dy,
                         .a_row = p->dy_ld,
                         .a_step = 1,
                         .b = m->weights + p->w,
                         .b_panel = JOUST_LANES,
                         .b_step = p->in,
                         .c = p->dx,
                         .c_row = p->x_ld,
                         .m = p->n,
                         .n = p->in,
                         .k = p->out};
    k->gemm(&inputs);
    if (m->lora)
        return;
    joust_gemm weights = {.a = p->dy,
                          .a_row = 1,
                          .a_step = p->dy_ld,
                          .b = p->x,
                          .b_panel = JOUST_LANES,
                          .b_step = p->x_ld,
                          .c = gradients + p->w,
                          .c_row = p->in,
                          .m = p->out,
                          .n = p->in,
                          .k = p->n};
    k->gemm(&weights);
}

/* One part's: d_low = s (dy . B), d_B = dy^T . low; low has s in it. */
static void part_backward(const joust_tape *t, const joust_lora_product *lp, uint32_t i,
                          const product *p, const float *low, float *gradients)
{
    const joust_kernels *k = t->forward.kernels;
    const joust_lora *l = t->forward.model->lora;
    const joust_lora_part *part = &lp->parts[i];
    const uint32_t rank = l->settings.rank;
    const float *dy = p->dy + part->first;
    joust_gemm inputs = {.a = dy,
                         .a_row = p->dy_ld,
                         .a_step = 1,
                         .b = l->weights + part->b,
                         .b_panel = JOUST_LANES,
                         .b_step = rank,
                         .c = t->d_low + i * rank,
                         .c_row = lp->low_ld,
                         .m = p->n,
                         .n = rank,
                         .k = part->n};
    joust_gemm weights = {.a = dy,
                          .a_row = 1,
                          .a_step = p->dy_ld,
                          .b = low + i * rank,
                          .b_panel = JOUST_LANES,
                          .b_step = lp->low_ld,
                          .c = gradients + part->b,
                          .c_row = rank,
                          .m = part->n,
                          .n = rank,
                          .k = p->n};
    k->gemm(&inputs);
    k->gemm(&weights);
}

/* The adapter of a layer's product: dx += d_low . A, d_A = d_low^T . x. */
static void adapter_backward(const joust_tape *t, uint32_t layer, joust_product which,
                             const product *p, float *gradients)
{
    const joust_kernels *k = t->forward.kernels;
    const joust_lora *l = t->forward.model->lora;
    const joust_lora_product *lp = l ? &l->products[layer * JOUST_N_PRODUCTS + which] : NULL;
    if (!lp || lp->n_parts == 0)
        return;
    for (uint32_t i = 0; i < lp->n_parts; i++)
        part_backward(t, lp, i, p, t->layers[layer].low[which], gradients);
    for (size_t i = 0; i < (size_t)p->n * lp->low_ld; i++)
        t->d_low[i] *= l->scale;
    joust_gemm inputs = {.a = t->d_low,
                         .a_row = lp->low_ld,
                         .a_step = 1,
                         .b = l->weights + lp->a,
                         .b_panel = JOUST_LANES,
                         .b_step = lp->in,
                         .c = p->dx,
                         .c_row = p->x_ld,
                         .m = p->n,
                         .n = lp->in,
                         .k = lp->low,
                         .add = true};
    joust_gemm weights = {.a = t->d_low,
                          .a_row = 1,
                          .a_step = lp->low_ld,
                          .b = p->x,
                          .b_panel = JOUST_LANES,
                          .b_step = p->x_ld,
                          .c = gradients + lp->a,
                          .c_row = lp->in,
                          .m = lp->low,
                          .n = lp->in,
                          .k = p->n};
    k->gemm(&inputs);
    k->gemm(&weights);
}

static void layer_product_backward(const joust_tape *t, uint32_t layer, joust_product which,
                                   const product *p, float *gradients)
{
    product_backward(t, p, gradients);
    adapter_backward(t, layer, which, p, gradients);
}

/* Where the gradient of a norm's gains collects; beside an adapter nobody asks for it. */
static float *gain_gradient(const joust_tape *t, uint64_t gain, float *gradients)
{
    return t->forward.model->lora ? t->sink : gradients + gain;
}

static void norms_backward(const joust_tape *t, const float *x, uint64_t gain, const float *r,
                           const float *dy, float *gradients)
{
    const joust_forward *f = &t->forward;
    for (uint32_t i = 0; i < t->n_rows; i++)
        f->kernels->norm_backward(x + (size_t)i * f->w.d_ld, f->model->weights + gain, r[i],
                                  dy + (size_t)i * f->w.d_ld, f->model->config.d_model,
                                  t->dx + (size_t)i * f->w.d_ld, gain_gradient(t, gain, gradients));
}

/* A bias's gradient: += that of its n rows of outputs. */
static void bias_backward(const joust_tape *t, const float *dy, uint32_t ld, uint32_t width,
                          uint64_t bias, float *gradients)
{
    for (uint32_t i = 0; i < t->n_rows && !t->forward.model->lora; i++)
        t->forward.kernels->add(gradients + bias, dy + (size_t)i * ld, width);
}

static void feed_forward_backward(joust_tape *t, uint32_t layer, float *gradients)
{
    const joust_forward *f = &t->forward;
    const joust_model_config *c = &f->model->config;
    const joust_activations *a = &t->layers[layer];
    const joust_layer_offsets *at = &f->model->offsets[layer];
    if (c->mlp_bias)
        bias_backward(t, t->dx, f->w.d_ld, c->d_model, at->down_bias, gradients);
    layer_product_backward(t, layer, JOUST_PRODUCT_DOWN,
                           &(product){.w = at->down,
                                      .x = a->hidden,
                                      .dy = t->dx,
                                      .out = c->d_model,
                                      .in = c->d_ff,
                                      .x_ld = f->w.ff_ld,
                                      .dy_ld = f->w.d_ld,
                                      .n = t->n_rows,
                                      .dx = t->d_hidden},
                           gradients);
    for (uint32_t i = 0; i < t->n_rows; i++)
        f->kernels->swiglu_backward(a->gate_up + (size_t)i * f->w.gate_up_ld,
                                    t->d_hidden + (size_t)i * f->w.ff_ld, c->d_ff,
                                    t->d_gate_up + (size_t)i * f->w.gate_up_ld);
    if (c->mlp_bias)
        bias_backward(t, t->d_gate_up, f->w.gate_up_ld, 2 * c->d_ff, at->gate_up_bias, gradients);
    layer_product_backward(t, layer, JOUST_PRODUCT_GATE_UP,
                           &(product){.w = at->gate_up,
                                      .x = a->normed_ff,
                                      .dy = t->d_gate_up,
                                      .out = 2 * c->d_ff,
                                      .in = c->d_model,
                                      .x_ld = f->w.d_ld,
                                      .dy_ld = f->w.gate_up_ld,
                                      .n = t->n_rows,
                                      .dx = t->d_normed},
                           gradients);
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
static void heads_norm_backward(const joust_tape *t, const float *raw, const float *r, uint32_t n,
                                uint64_t gain, float *dy, float *gradients)
{
    const joust_forward *f = &t->forward;
    const uint32_t d_head = f->model->config.d_head, head_ld = f->w.head_ld;
    float *x = f->head, *up = f->head + head_ld, *dx = up + head_ld;
    for (uint32_t h = 0; h < n; h++, raw += d_head, dy += d_head) {
        memcpy(x, raw, d_head * sizeof(float));
        memcpy(up, dy, d_head * sizeof(float));
        memset(dx, 0, head_ld * sizeof(float));
        f->kernels->norm_backward(x, f->model->weights + gain, r[h], up, d_head, dx,
                                  gain_gradient(t, gain, gradients));
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
        heads_norm_backward(t, raw, r, c->n_heads, at->q_norm, d_qkv, gradients);
        heads_norm_backward(t, raw + f->w.query, r + c->n_heads, c->n_kv_heads, at->k_norm,
                            d_qkv + f->w.query, gradients);
    }
    if (joust_config_has_bias(c) && !f->model->lora)
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
    if (c->attention_bias)
        bias_backward(t, t->dx, f->w.d_ld, c->d_model, at->o_bias, gradients);
    layer_product_backward(t, layer, JOUST_PRODUCT_O,
                           &(product){.w = at->o,
                                      .x = a->mixed,
                                      .dy = t->dx,
                                      .out = c->d_model,
                                      .in = f->w.query,
                                      .x_ld = f->w.query_ld,
                                      .dy_ld = f->w.d_ld,
                                      .n = t->n_rows,
                                      .dx = t->d_mixed},
                           gradients);
    heads_backward(t, layer, gradients);
    layer_product_backward(t, layer, JOUST_PRODUCT_QKV,
                           &(product){.w = at->qkv,
                                      .x = a->normed,
                                      .dy = t->d_qkv,
                                      .out = f->w.qkv,
                                      .in = c->d_model,
                                      .x_ld = f->w.d_ld,
                                      .dy_ld = f->w.qkv_ld,
                                      .n = t->n_rows,
                                      .dx = t->d_normed},
                           gradients);
    norms_backward(t, a->x, at->attention_norm, a->norm_r, t->d_normed, gradients);
}

static void head_backward(joust_tape *t, float *gradients)
{
    const joust_forward *f = &t->forward;
    const joust_model *m = f->model;
    product_backward(t,
                     &(product){.w = m->head,
                                .x = t->normed,
                                .dy = t->d_logits,
                                .out = m->n_out,
                                .in = m->config.d_model,
                                .x_ld = f->w.d_ld,
                                .dy_ld = f->w.vocab_ld,
                                .n = t->n_wanted,
                                .dx = t->d_head},
                     gradients);
    memset(t->dx, 0, (size_t)t->n_rows * f->w.d_ld * sizeof(float));
    for (uint32_t i = 0; i < t->n_wanted; i++)
        f->kernels->norm_backward(t->x_wanted + (size_t)i * f->w.d_ld, m->weights + m->norm,
                                  t->norm_r[i], t->d_head + (size_t)i * f->w.d_ld,
                                  m->config.d_model, t->dx + (size_t)t->wanted[i] * f->w.d_ld,
                                  gain_gradient(t, m->norm, gradients));
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
    if (!f->model->lora)
        collected_clear(f->model, gradients);
    head_backward(t, gradients);
    for (uint32_t layer = f->model->config.n_layers; layer-- > 0;) {
        if (t->recompute && layer + 1 < f->model->config.n_layers) /* the last one's are there */
            joust_forward_layer(f, layer, t->rows, t->n_rows, &t->layers[layer]);
        feed_forward_backward(t, layer, gradients);
        attention_backward(t, layer, gradients);
    }
    for (uint32_t r = 0; r < t->n_rows && !f->model->lora; r++)
        f->kernels->add(gradients + f->model->embedding + (size_t)t->rows[r].token * d,
                        t->dx + (size_t)r * f->w.d_ld, d);
}
