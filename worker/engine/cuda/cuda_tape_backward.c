/* A micro-batch's backward pass: from what the loss asks of the logits to the gradient of every weight, or of the adapter's. As tape_backward.c, whose
 * orders it has in float32. A product's two gradients are products of the same kernel over turned factors:
 *   dx = dy . W   is  dy (rows, out) . turned W (in, out)
 *   dW = dy^T . x is  turned dy (out, rows) . turned x (in, rows)
 * The head's exist JOUST_GPU_LOGITS tokens at a time. */
#include <math.h> /* sqrtf */
#include <string.h>

#include "cuda_adapter_internal.h"
#include "cuda_trainer_internal.h"
#include "proto/base/alloc.h"

typedef struct backward {
    joust_gpu_flow f;
    const joust_device_trainer *t;
    const joust_gpu_tape *tape;
    float *to; /* the gradient */
} backward;

static uint32_t blocks_of(uint32_t n, uint32_t each)
{
    return (n + each - 1) / each;
}

static void *on_device(const joust_gpu_tape *tape, uint64_t at)
{
    return tape->device + at;
}

/* Where a weight's gradient goes: nowhere where an adapter alone is trained. */
static float *gradient_of(const backward *b, uint64_t at)
{
    return b->t->adapter ? NULL : b->to + at;
}

/* ---- products -------------------------------------------------------------------------------- */

/* Length of a row of stores that is summed over. */
static uint32_t ld_of(const backward *b, uint32_t n)
{
    return b->f.bf16 ? blocks_of(n, JOUST_GPU_CHUNK) * JOUST_GPU_CHUNK : n;
}

static void turn(backward *b, const void *from, bool of_floats, uint32_t rows, uint32_t columns,
                 uint32_t from_ld, void *to)
{
    const joust_gpu_transpose_args args = {.from = from,
                                           .to = to,
                                           .rows = rows,
                                           .columns = columns,
                                           .from_ld = from_ld,
                                           .to_ld = ld_of(b, rows),
                                           .of_floats = of_floats};
    joust_gpu_flow_run_of(&b->f, JOUST_GPU_transpose_f32, blocks_of(columns, 32),
                          blocks_of(args.to_ld, 32), &args);
}

/* A matrix w (out, in) and what it met: dx = or += dy . w, d_w = dy^T . x, for n rows. */
typedef struct product {
    const void *x, *w; /* stores, rows ld apart */
    const float *dy;   /* (n, out) */
    float *dx, *d_w;   /* (n, in), (out, in); d_w may be NULL */
    uint32_t n, out, in, ld;
    bool add;
} product;

static void product_backward(backward *b, const product *p)
{
    const joust_gpu_tape *tape = b->tape;
    const uint32_t out_ld = ld_of(b, p->out), n_ld = ld_of(b, p->n);
    const joust_gpu_place_args place = {
        .from = p->dy, .to = tape->dy, .k = p->out, .ld = out_ld, .n = (uint64_t)p->n * out_ld};
    const void *dy = p->dy;
    if (b->f.bf16) {
        joust_gpu_flow_run(&b->f, JOUST_GPU_place_bf16, (uint32_t)((place.n + 255) / 256), 1,
                           &place);
        dy = tape->dy;
    }
    turn(b, p->w, false, p->out, p->in, p->ld, tape->w_turned);
    joust_gpu_flow_multiply(&b->f, dy, tape->w_turned, p->dx, p->n, p->in, p->out, out_ld, p->add);
    if (!p->d_w)
        return;
    turn(b, p->dy, true, p->n, p->out, p->out, tape->dy_turned);
    turn(b, p->x, false, p->n, p->in, p->ld, tape->x_turned);
    joust_gpu_flow_multiply(&b->f, tape->dy_turned, tape->x_turned, p->d_w, p->out, p->in, p->n,
                            n_ld, false);
}

/* ---- adapters -------------------------------------------------------------------------------- */

/* One target's: d_low = dy . B, d_B = dy^T . low; low has the scale in it. */
static void part_backward(backward *b, const joust_gpu_adapter_product *ap, uint32_t i,
                          const product *p, const unsigned char *low)
{
    const joust_gpu_adapter *a = b->t->adapter;
    const joust_gpu_tape *tape = b->tape;
    const joust_gpu_adapter_part *part = &ap->parts[i];
    const float *dy = p->dy + part->first;
    const uint32_t part_ld = ld_of(b, part->n), n_ld = ld_of(b, p->n);
    low += (uint64_t)i * p->n * a->rank_ld * b->f.m->w.store_bytes;
    joust_gpu_low(&b->f, dy, p->out, 1.0f, 1, part->n, part_ld, tape->dy);
    turn(b, part->b, false, part->n, a->rank, a->rank_ld, tape->w_turned);
    joust_gpu_flow_multiply_into(&b->f, tape->dy, tape->w_turned, tape->d_low + i * a->rank,
                                 ap->low, p->n, a->rank, part->n, part_ld, false);
    turn(b, dy, true, p->n, part->n, p->out, tape->dy_turned);
    turn(b, low, false, p->n, a->rank, a->rank_ld, tape->x_turned);
    joust_gpu_flow_multiply(&b->f, tape->dy_turned, tape->x_turned, b->to + part->at, part->n,
                            a->rank, p->n, n_ld, false);
}

/* The adapter of a layer's product: dx += s d_low . A, d_A = s d_low^T . x. */
static void adapter_backward(backward *b, uint32_t layer, joust_gpu_product which, const product *p,
                             const joust_gpu_rows *rows)
{
    const joust_gpu_adapter *a = b->t->adapter;
    const joust_gpu_tape *tape = b->tape;
    const joust_gpu_adapter_product *ap =
        a ? &a->products[layer * JOUST_DEVICE_PRODUCTS + which] : NULL;
    if (!ap || ap->n_parts == 0)
        return;
    for (uint32_t i = 0; i < ap->n_parts; i++)
        part_backward(b, ap, i, p, rows->low[which]);
    joust_gpu_low(&b->f, tape->d_low, ap->low, a->scale, 1, ap->low, ap->low_ld, tape->dy);
    turn(b, ap->a, false, ap->low, ap->in, ap->in_ld, tape->w_turned);
    joust_gpu_flow_multiply(&b->f, tape->dy, tape->w_turned, p->dx, p->n, ap->in, ap->low,
                            ap->low_ld, true);
    turn(b, tape->dy, false, p->n, ap->low, ap->low_ld, tape->dy_turned);
    turn(b, p->x, false, p->n, ap->in, p->ld, tape->x_turned);
    joust_gpu_flow_multiply(&b->f, tape->dy_turned, tape->x_turned, b->to + ap->at, ap->low, ap->in,
                            p->n, ld_of(b, p->n), false);
}

static void layer_product_backward(backward *b, uint32_t layer, joust_gpu_product which,
                                   const product *p, const joust_gpu_rows *rows)
{
    product_backward(b, p);
    adapter_backward(b, layer, which, p, rows);
}

/* ---- sums over rows -------------------------------------------------------------------------- */

static void columns(backward *b, const joust_gpu_columns_args *args)
{
    joust_gpu_flow_run_of(&b->f, JOUST_GPU_columns_f32, blocks_of(args->n, 32), 1, args);
}

/* A bias's gradient; nothing where the model has no such bias. */
static void bias_backward(backward *b, const float *bias, const float *dy, uint32_t n, uint64_t to)
{
    const joust_gpu_columns_args args = {
        .dy = dy, .to = gradient_of(b, to), .n = n, .n_rows = b->f.n, .n_inner = 1, .dy_ld = n};
    if (bias && !b->t->adapter)
        columns(b, &args);
}

/* dx += the gradient through a norm over d_model, and that of its gains. */
static void norm_backward(backward *b, const float *x, const uint32_t *which, uint32_t n,
                          const float *gain, const float *dy, uint64_t to)
{
    const joust_gpu_widths *w = &b->f.m->w;
    const joust_gpu_norm_back_args args = {.x = x,
                                           .gain = gain,
                                           .dy = dy,
                                           .which = which,
                                           .dx = b->tape->dx,
                                           .r = b->tape->r,
                                           .eps = b->f.m->config.norm_eps,
                                           .d = w->d};
    const joust_gpu_columns_args gains = {.dy = dy,
                                          .x = x,
                                          .r = b->tape->r,
                                          .which = which,
                                          .to = gradient_of(b, to),
                                          .n = w->d,
                                          .n_rows = n,
                                          .n_inner = 1,
                                          .dy_ld = w->d,
                                          .x_ld = w->d,
                                          .r_ld = 1};
    joust_gpu_flow_run_of(&b->f, JOUST_GPU_norm_back_f32, n, 1, &args);
    if (gains.to)
        columns(b, &gains);
}

static void fill(backward *b, float *to, uint64_t n)
{
    const joust_gpu_add_args args = {.to = to, .n = n};
    joust_gpu_flow_run(&b->f, JOUST_GPU_fill, (uint32_t)((n + 255) / 256), 1, &args);
}

/* ---- layers ---------------------------------------------------------------------------------- */

static void feed_forward_backward(backward *b, uint32_t layer, const joust_gpu_rows *rows)
{
    const joust_gpu_tape *tape = b->tape;
    const joust_gpu_widths *w = &b->f.m->w;
    const joust_gpu_layer *of = &b->f.m->layers[layer];
    const joust_device_layer *at = &b->t->at[layer];
    const joust_gpu_swiglu_back_args swiglu = {.gate_up = rows->gate_up,
                                               .dh = tape->d_hidden,
                                               .d_gate_up = tape->d_gate_up,
                                               .d_ff = w->ff};
    bias_backward(b, of->down_bias, tape->dx, w->d, at->down_bias);
    layer_product_backward(b, layer, JOUST_GPU_DOWN,
                           &(product){.x = rows->hidden,
                                      .w = of->down,
                                      .dy = tape->dx,
                                      .dx = tape->d_hidden,
                                      .d_w = gradient_of(b, at->down),
                                      .n = b->f.n,
                                      .out = w->d,
                                      .in = w->ff,
                                      .ld = w->ff_ld},
                           rows);
    joust_gpu_flow_run(&b->f, JOUST_GPU_swiglu_back, blocks_of(w->ff, 256), b->f.n, &swiglu);
    bias_backward(b, of->gate_up_bias, tape->d_gate_up, 2 * w->ff, at->gate_up_bias);
    layer_product_backward(b, layer, JOUST_GPU_GATE_UP,
                           &(product){.x = rows->normed_ff,
                                      .w = of->gate_up,
                                      .dy = tape->d_gate_up,
                                      .dx = tape->d_normed,
                                      .d_w = gradient_of(b, at->gate_up),
                                      .n = b->f.n,
                                      .out = 2 * w->ff,
                                      .in = w->d,
                                      .ld = w->d_ld},
                           rows);
    norm_backward(b, rows->x_mid, NULL, b->f.n, of->ff_norm, tape->d_normed, at->ff_norm);
}

/* Heads as stores, each as wide as in a page. */
static void heads_place(backward *b, const float *from, uint32_t n_heads, void *to)
{
    const joust_gpu_place_args args = {.from = from,
                                       .to = to,
                                       .k = b->f.m->config.d_head,
                                       .ld = b->f.m->w.head_ld,
                                       .n = (uint64_t)b->f.n * n_heads * b->f.m->w.head_ld};
    joust_gpu_flow_run(&b->f, JOUST_GPU_place_bf16, (uint32_t)((args.n + 255) / 256), 1, &args);
}

/* Queries, then keys and values. */
static void attend_back_run(backward *b, const joust_gpu_attend_back_args *args)
{
    const uint32_t n = args->n_heads, n_kv = args->n_kv_heads;
    if (!b->f.bf16) {
        joust_gpu_flow_run(&b->f, JOUST_GPU_attend_rows_f32, n, b->f.n, args);
        joust_gpu_flow_run(&b->f, JOUST_GPU_attend_keys_f32, blocks_of(b->f.n, 16), n_kv, args);
        return;
    }
    heads_place(b, args->qkv, n + 2 * n_kv, b->tape->query_half);
    heads_place(b, args->d_out, n, b->tape->out_half);
    joust_gpu_flow_run_wide(&b->f, JOUST_GPU_flash_rows_64, blocks_of(args->at.n_tiles, 4), n_kv,
                            args);
    joust_gpu_flow_run_wide(&b->f, JOUST_GPU_flash_keys_64, b->tape->n_key_tiles, n_kv, args);
}

static void attend_backward(backward *b, uint32_t layer, const joust_gpu_rows *rows)
{
    const joust_model_config *c = &b->f.m->config;
    const joust_gpu_tape *tape = b->tape;
    const joust_gpu_attend_back_args args = {.qkv = rows->qkv,
                                             .stats = rows->stats,
                                             .d_out = tape->d_mixed,
                                             .means = tape->means,
                                             .d_qkv = tape->d_qkv,
                                             .at = rows->at,
                                             .layer = layer * b->f.m->w.page_layer,
                                             .scale = 1.0f / sqrtf((float)c->d_head),
                                             .n_heads = c->n_heads,
                                             .n_kv_heads = c->n_kv_heads,
                                             .d_head = c->d_head,
                                             .window =
                                                 layer < c->first_window_layer ? 0 : c->window,
                                             .n_rows = b->f.n,
                                             .query_half = tape->query_half,
                                             .out_half = tape->out_half,
                                             .key_tiles = on_device(tape, tape->io.key_tiles),
                                             .branch = {tape->branch[0], tape->branch[1]}};
    const joust_gpu_unrope_args unrope = {.d_qkv = tape->d_qkv,
                                          .angles = b->f.m->ends.rope,
                                          .positions = rows->at.positions,
                                          .d_head = c->d_head,
                                          .qkv_ld = b->f.m->w.qkv};
    attend_back_run(b, &args);
    joust_gpu_flow_run(&b->f, JOUST_GPU_unrope, b->f.n, c->n_heads + c->n_kv_heads, &unrope);
}

/* Gains of the norms of queries (or keys), one for all heads of a kind. */
static void heads_gain(backward *b, const float *raw, uint32_t first_head, uint32_t n_heads,
                       uint64_t to)
{
    const joust_model_config *c = &b->f.m->config;
    const size_t first = (size_t)first_head * c->d_head;
    const joust_gpu_columns_args args = {.dy = b->tape->d_qkv + first,
                                         .x = raw + first,
                                         .r = b->tape->r + first_head,
                                         .to = gradient_of(b, to),
                                         .n = c->d_head,
                                         .n_rows = b->f.n,
                                         .n_inner = n_heads,
                                         .dy_ld = b->f.m->w.qkv,
                                         .x_ld = b->f.m->w.qkv,
                                         .r_ld = c->n_heads + c->n_kv_heads};
    if (args.to)
        columns(b, &args);
}

/* From d_qkv past positions to that of the product; where it is. */
static const float *heads_backward(backward *b, uint32_t layer, const joust_gpu_rows *rows)
{
    const joust_model_config *c = &b->f.m->config;
    const joust_gpu_layer *of = &b->f.m->layers[layer];
    const joust_device_layer *at = &b->t->at[layer];
    const joust_gpu_heads_back_args args = {.raw = rows->raw,
                                            .dx = b->tape->d_raw,
                                            .r = b->tape->r,
                                            .dy = b->tape->d_qkv,
                                            .bias = of->bias,
                                            .q_norm = of->q_norm,
                                            .k_norm = of->k_norm,
                                            .eps = c->norm_eps,
                                            .n_heads = c->n_heads,
                                            .n_kv_heads = c->n_kv_heads,
                                            .d_head = c->d_head};
    if (!of->q_norm)
        return b->tape->d_qkv;
    joust_gpu_flow_run(&b->f, JOUST_GPU_heads_back, b->f.n, c->n_heads + 2 * c->n_kv_heads, &args);
    heads_gain(b, rows->raw, 0, c->n_heads, at->q_norm);
    heads_gain(b, rows->raw, c->n_heads, c->n_kv_heads, at->k_norm);
    return b->tape->d_raw;
}

static void attention_backward(backward *b, uint32_t layer, const joust_gpu_rows *rows)
{
    const joust_gpu_tape *tape = b->tape;
    const joust_gpu_widths *w = &b->f.m->w;
    const joust_gpu_layer *of = &b->f.m->layers[layer];
    const joust_device_layer *at = &b->t->at[layer];
    bias_backward(b, of->o_bias, tape->dx, w->d, at->o_bias);
    layer_product_backward(b, layer, JOUST_GPU_O,
                           &(product){.x = rows->mixed,
                                      .w = of->o,
                                      .dy = tape->dx,
                                      .dx = tape->d_mixed,
                                      .d_w = gradient_of(b, at->o),
                                      .n = b->f.n,
                                      .out = w->d,
                                      .in = w->query,
                                      .ld = w->query_ld},
                           rows);
    attend_backward(b, layer, rows);
    const float *d_qkv = heads_backward(b, layer, rows);
    bias_backward(b, of->bias, d_qkv, w->qkv, at->qkv_bias);
    layer_product_backward(b, layer, JOUST_GPU_QKV,
                           &(product){.x = rows->normed,
                                      .w = of->qkv,
                                      .dy = d_qkv,
                                      .dx = tape->d_normed,
                                      .d_w = gradient_of(b, at->qkv),
                                      .n = b->f.n,
                                      .out = w->qkv,
                                      .in = w->d,
                                      .ld = w->d_ld},
                           rows);
    norm_backward(b, rows->x, NULL, b->f.n, of->attention_norm, tape->d_normed, at->attention_norm);
}

/* ---- the head -------------------------------------------------------------------------------- */

/* The gradients through the outputs first .. first + n - 1 of the head. */
static void head_chunk(backward *b, uint32_t first, uint32_t n)
{
    const joust_gpu_tape *tape = b->tape;
    const joust_gpu_widths *w = &b->f.m->w;
    const joust_gpu_slopes_args slopes = {.x = tape->chunk,
                                          .sums = tape->sums,
                                          .slopes = tape->slopes,
                                          .first_slope = tape->first_slope,
                                          .first = first,
                                          .n = n};
    joust_gpu_tape_logits(&b->f, tape, first, n);
    joust_gpu_flow_run(&b->f, JOUST_GPU_slopes, blocks_of(n, 256), tape->n_wanted, &slopes);
    product_backward(b, &(product){.x = tape->normed,
                                   .w = (const unsigned char *)b->f.m->ends.head +
                                        (uint64_t)first * w->d_ld * w->store_bytes,
                                   .dy = tape->chunk,
                                   .dx = tape->head_dx,
                                   .d_w = gradient_of(b, b->t->head + (uint64_t)first * w->d),
                                   .n = tape->n_wanted,
                                   .out = n,
                                   .in = w->d,
                                   .ld = w->d_ld,
                                   .add = first > 0});
}

static void head_backward(backward *b)
{
    const joust_gpu_tape *tape = b->tape;
    const uint32_t n_out = b->f.m->w.n_out;
    for (uint32_t first = 0; first < n_out; first += JOUST_GPU_LOGITS)
        head_chunk(b, first, n_out - first < JOUST_GPU_LOGITS ? n_out - first : JOUST_GPU_LOGITS);
    fill(b, tape->dx, (uint64_t)tape->n * b->f.m->w.d);
    norm_backward(b, tape->x_last, on_device(tape, tape->io.which), tape->n_wanted,
                  b->f.m->ends.norm, tape->head_dx, b->t->norm);
}

static void embedding_backward(backward *b)
{
    const joust_gpu_tape *tape = b->tape;
    const joust_gpu_widths *w = &b->f.m->w;
    float *to = gradient_of(b, b->t->embedding);
    const joust_gpu_embed_back_args args = {.tokens = on_device(tape, tape->io.distinct),
                                            .order = on_device(tape, tape->io.order),
                                            .dx = tape->dx,
                                            .to = to,
                                            .d = w->d};
    if (!to)
        return;
    if (b->t->head != b->t->embedding) /* else the head's gradient is there already */
        fill(b, to, (uint64_t)w->vocab * w->d);
    joust_gpu_flow_run(&b->f, JOUST_GPU_embed_back, tape->n_distinct, 1, &args);
}

/* ---- the call -------------------------------------------------------------------------------- */

static joust_status slopes_reserve(joust_device_trainer *t, uint32_t n, joust_error *err)
{
    joust_gpu *g = t->m->device->gpu;
    joust_gpu_tape *tape = &t->tape;
    void *block = NULL;
    if (n <= tape->slope_room)
        return JOUST_OK;
    g->free(g, tape->slopes);
    tape->slopes = NULL;
    tape->slope_room = 0;
    joust_status st = g->alloc(g, n * sizeof(*tape->slopes), &block, err);
    if (st)
        return st;
    tape->slopes = block;
    tape->slope_room = n;
    return st;
}

static joust_status slopes_put(joust_device_trainer *t, const joust_device_slope *from, uint32_t n,
                               joust_error *err)
{
    joust_gpu *g = t->m->device->gpu;
    const joust_gpu_tape *tape = &t->tape;
    joust_gpu_slope *slopes = joust_calloc(n ? n : 1, sizeof(*slopes));
    uint32_t *first = joust_calloc((size_t)tape->n_wanted + 1, sizeof(*first));
    joust_status st =
        slopes && first ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    for (uint32_t i = 0, row = 0; i < n && !st; i++) {
        for (; row < from[i].wanted; row++)
            first[row + 1] = i;
        slopes[i] = (joust_gpu_slope){.kind = from[i].kind,
                                      .token = from[i].token,
                                      .factor = from[i].factor,
                                      .entropy = from[i].entropy};
    }
    for (uint32_t row = n ? from[n - 1].wanted : 0; row < tape->n_wanted && !st; row++)
        first[row + 1] = n;
    if (!st && n)
        st = g->put(g, tape->slopes, slopes, n * sizeof(*slopes), err);
    if (!st)
        st = g->put(g, tape->first_slope, first, ((uint64_t)tape->n_wanted + 1) * sizeof(*first),
                    err);
    joust_free(slopes);
    joust_free(first);
    return st;
}

joust_status joust_gpu_train_backward(joust_device_trainer *t, const joust_device_micro *micro,
                                      const float *sums, const joust_device_slope *slopes,
                                      uint32_t n_slopes, uint32_t sum, joust_error *err)
{
    joust_gpu *g = t->m->device->gpu;
    const joust_gpu_tape *tape = &t->tape;
    const uint32_t n_layers = t->m->config.n_layers;
    if (sum >= t->n_sums)
        return joust_fail(err, JOUST_BUG, "GPU: no gradient number %u", sum);
    joust_status st = slopes_reserve(t, n_slopes ? n_slopes : 1, err);
    if (!st)
        st = slopes_put(t, slopes, n_slopes, err);
    if (!st)
        st = g->put(g, tape->sums, sums, 2 * (uint64_t)micro->n_wanted * sizeof(float), err);
    if (st)
        return st;
    backward b = {
        .f = joust_gpu_tape_flow(t, tape->n, err), .t = t, .tape = tape, .to = t->sums[sum]};
    head_backward(&b);
    for (uint32_t layer = n_layers; layer-- > 0;) {
        const joust_gpu_rows rows = joust_gpu_tape_rows(tape, layer, n_layers);
        if (micro->recompute && layer + 1 < n_layers) /* the last one's are there */
            joust_gpu_flow_layer(&b.f, layer, &rows);
        feed_forward_backward(&b, layer, &rows);
        attention_backward(&b, layer, &rows);
    }
    embedding_backward(&b);
    return b.f.status;
}
