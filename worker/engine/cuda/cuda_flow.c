#include "cuda_flow_internal.h"

#include <math.h> /* sqrtf */

#include "cuda_adapter_internal.h"

void joust_gpu_flow_run(joust_gpu_flow *f, joust_gpu_kernel kernel, uint32_t x, uint32_t y,
                        const void *args)
{
    if (!f->status)
        f->status = f->g->launch(f->g, kernel, x, y, args, f->err);
}

void joust_gpu_flow_run_of(joust_gpu_flow *f, joust_gpu_kernel f32, uint32_t x, uint32_t y,
                           const void *args)
{
    joust_gpu_flow_run(f, (joust_gpu_kernel)(f32 + (f->bf16 ? 1 : 0)), x, y, args);
}

void joust_gpu_flow_run_wide(joust_gpu_flow *f, joust_gpu_kernel narrowest, uint32_t x, uint32_t y,
                             const void *args)
{
    const uint32_t d = f->m->config.d_head;
    joust_gpu_flow_run(f, (joust_gpu_kernel)(narrowest + (d > 64) + (d > 128)), x, y, args);
}

void joust_gpu_flow_copy(joust_gpu_flow *f, void *to, const void *from, uint64_t n_bytes)
{
    if (!f->status && to != from)
        f->status = f->g->copy(f->g, to, from, n_bytes, f->err);
}

/* ---- products -------------------------------------------------------------------------------- */

/* Many rows and outputs in bf16: by tiles of which each factor is read fewer times. The bits are the same. */
static bool wide_run(joust_gpu_flow *f, joust_gpu_kernel kernel, const joust_gpu_matrix_args *args)
{
    const uint32_t across = (args->n + JOUST_GPU_WIDE_OUTPUTS - 1) / JOUST_GPU_WIDE_OUTPUTS,
                   down = (args->m + JOUST_GPU_WIDE_ROWS - 1) / JOUST_GPU_WIDE_ROWS;
    if (!f->bf16 || args->m <= JOUST_GPU_BF16_ROWS ||
        (uint64_t)across * down < JOUST_GPU_WIDE_TILES)
        return false;
    joust_gpu_flow_run(f,
                       kernel == JOUST_GPU_head_f32 ? JOUST_GPU_head_wide : JOUST_GPU_matrix_wide,
                       across, down, args);
    return true;
}

/* The next tokens of a few sequences: few outputs a block. Likewise. */
static bool thin_run(joust_gpu_flow *f, joust_gpu_kernel kernel, const joust_gpu_matrix_args *args)
{
    const bool head = kernel == JOUST_GPU_head_f32;
    const uint32_t outputs = head ? JOUST_GPU_BF16_OUTPUTS : JOUST_GPU_THIN_OUTPUTS;
    if (!f->bf16 || args->m > JOUST_GPU_THIN_ROWS)
        return false;
    joust_gpu_flow_run(f, head ? JOUST_GPU_head_thin : JOUST_GPU_matrix_thin,
                       (args->n + outputs - 1) / outputs, 1, args);
    return true;
}

static void matrix_run(joust_gpu_flow *f, joust_gpu_kernel kernel,
                       const joust_gpu_matrix_args *args)
{
    if (thin_run(f, kernel, args) || wide_run(f, kernel, args))
        return;
    const uint32_t rows = f->bf16 ? JOUST_GPU_BF16_ROWS : JOUST_GPU_F32_ROWS,
                   outputs = f->bf16 ? JOUST_GPU_BF16_OUTPUTS : JOUST_GPU_F32_OUTPUTS;
    joust_gpu_flow_run_of(f, kernel, (args->n + outputs - 1) / outputs, (args->m + rows - 1) / rows,
                          args);
}

void joust_gpu_flow_multiply_into(joust_gpu_flow *f, const void *a, const void *w, float *y,
                                  uint32_t y_ld, uint32_t m, uint32_t n, uint32_t k, uint32_t ld,
                                  bool add)
{
    const joust_gpu_matrix_args args = {
        .a = a, .w = w, .y = y, .m = m, .n = n, .k = k, .ld = ld, .y_ld = y_ld, .add = add};
    matrix_run(f, JOUST_GPU_matrix_f32, &args);
}

void joust_gpu_flow_multiply(joust_gpu_flow *f, const void *a, const void *w, float *y, uint32_t m,
                             uint32_t n, uint32_t k, uint32_t ld, bool add)
{
    joust_gpu_flow_multiply_into(f, a, w, y, n, m, n, k, ld, add);
}

/* Nothing where the model has no such bias. */
static void bias_add(joust_gpu_flow *f, const float *bias, float *y, uint32_t n)
{
    const joust_gpu_bias_args args = {.bias = bias, .y = y, .n = n};
    if (bias)
        joust_gpu_flow_run(f, JOUST_GPU_bias, (n + 255) / 256, f->n, &args);
}

/* ---- layers ---------------------------------------------------------------------------------- */

void joust_gpu_flow_embed(joust_gpu_flow *f, const uint32_t *tokens, float *x)
{
    const joust_gpu_embed_args embed = {.table = f->m->ends.embedding,
                                        .tokens = tokens,
                                        .x = x,
                                        .d = f->m->w.d,
                                        .ld = f->m->w.d_ld};
    joust_gpu_flow_run_of(f, JOUST_GPU_embed_f32, f->n, 1, &embed);
}

static void norm(joust_gpu_flow *f, const float *x, const float *gain, const uint32_t *which,
                 void *y, float *states, uint32_t n)
{
    const joust_gpu_norm_args args = {.x = x,
                                      .gain = gain,
                                      .which = which,
                                      .y = y,
                                      .states = states,
                                      .eps = f->m->config.norm_eps,
                                      .d = f->m->w.d,
                                      .ld = f->m->w.d_ld};
    joust_gpu_flow_run_of(f, JOUST_GPU_norm_f32, n, 1, &args);
}

/* In bf16 by tiles of units; where few rows have many keys, by segments too. Bits are the same. */
static void attend_run(joust_gpu_flow *f, const joust_gpu_attend_args *args)
{
    const uint32_t n_kv = args->n_kv_heads, n_tiles = args->at.n_tiles;
    if (!f->bf16) {
        joust_gpu_flow_run(f, JOUST_GPU_attend_f32, args->n_heads, f->n, args);
    } else if (args->n_parts > 1) {
        joust_gpu_flow_run_wide(f, JOUST_GPU_parts_64, (args->n_parts + 3) / 4, n_tiles * n_kv,
                                args);
        joust_gpu_flow_run(f, JOUST_GPU_merge, JOUST_GPU_TILE_UNITS, n_tiles * n_kv, args);
    } else {
        joust_gpu_flow_run_wide(f, JOUST_GPU_flash_64, (n_tiles + 3) / 4, n_kv, args);
    }
}

static void attention(joust_gpu_flow *f, uint32_t layer, const joust_gpu_rows *rows)
{
    const joust_model_config *c = &f->m->config;
    const joust_gpu_layer *of = &f->m->layers[layer];
    const joust_gpu_finish_args finish = {.qkv = rows->qkv,
                                          .bias = of->bias,
                                          .q_norm = of->q_norm,
                                          .k_norm = of->k_norm,
                                          .angles = f->m->ends.rope,
                                          .at = rows->at,
                                          .layer = layer * f->m->w.page_layer,
                                          .eps = c->norm_eps,
                                          .n_heads = c->n_heads,
                                          .n_kv_heads = c->n_kv_heads,
                                          .d_head = c->d_head};
    const joust_gpu_attend_args attend = {.qkv = rows->qkv,
                                          .at = rows->at,
                                          .layer = finish.layer,
                                          .out = rows->mixed,
                                          .scale = 1.0f / sqrtf((float)c->d_head),
                                          .stats = rows->stats,
                                          .parts = rows->parts,
                                          .n_parts = rows->n_parts,
                                          .n_heads = c->n_heads,
                                          .n_kv_heads = c->n_kv_heads,
                                          .d_head = c->d_head,
                                          .ld = f->m->w.query_ld,
                                          .window = layer < c->first_window_layer ? 0 : c->window};
    joust_gpu_flow_run_of(f, JOUST_GPU_finish_f32, f->n, c->n_heads + 2 * c->n_kv_heads, &finish);
    if (rows->n_forks) {
        joust_gpu_fork_args fork = *rows->fork;
        fork.layer = finish.layer;
        joust_gpu_flow_run_of(f, JOUST_GPU_fork_f32, rows->n_forks, c->n_kv_heads, &fork);
    }
    attend_run(f, &attend);
}

void joust_gpu_flow_layer(joust_gpu_flow *f, uint32_t layer, const joust_gpu_rows *rows)
{
    const joust_gpu_layer *of = &f->m->layers[layer];
    const joust_gpu_widths *w = &f->m->w;
    const uint64_t x_bytes = (uint64_t)f->n * w->d * sizeof(float);
    const joust_gpu_swiglu_args swiglu = {
        .gate_up = rows->gate_up, .h = rows->hidden, .d_ff = w->ff, .ld = w->ff_ld};
    norm(f, rows->x, of->attention_norm, NULL, rows->normed, NULL, f->n);
    joust_gpu_flow_multiply(f, rows->normed, of->qkv, rows->qkv, f->n, w->qkv, w->d, w->d_ld,
                            false);
    joust_gpu_adapt(f, layer, JOUST_GPU_QKV, rows->normed, rows, rows->qkv, w->qkv);
    if (rows->raw)
        joust_gpu_flow_copy(f, rows->raw, rows->qkv, (uint64_t)f->n * w->qkv * sizeof(float));
    attention(f, layer, rows);
    joust_gpu_flow_copy(f, rows->x_mid, rows->x, x_bytes);
    joust_gpu_flow_multiply(f, rows->mixed, of->o, rows->x_mid, f->n, w->d, w->query, w->query_ld,
                            true);
    joust_gpu_adapt(f, layer, JOUST_GPU_O, rows->mixed, rows, rows->x_mid, w->d);
    bias_add(f, of->o_bias, rows->x_mid, w->d);
    norm(f, rows->x_mid, of->ff_norm, NULL, rows->normed_ff, NULL, f->n);
    joust_gpu_flow_multiply(f, rows->normed_ff, of->gate_up, rows->gate_up, f->n, 2 * w->ff, w->d,
                            w->d_ld, false);
    joust_gpu_adapt(f, layer, JOUST_GPU_GATE_UP, rows->normed_ff, rows, rows->gate_up, 2 * w->ff);
    bias_add(f, of->gate_up_bias, rows->gate_up, 2 * w->ff);
    joust_gpu_flow_run_of(f, JOUST_GPU_swiglu_f32, (w->ff_ld + 255) / 256, f->n, &swiglu);
    joust_gpu_flow_copy(f, rows->x_out, rows->x_mid, x_bytes);
    joust_gpu_flow_multiply(f, rows->hidden, of->down, rows->x_out, f->n, w->d, w->ff, w->ff_ld,
                            true);
    joust_gpu_adapt(f, layer, JOUST_GPU_DOWN, rows->hidden, rows, rows->x_out, w->d);
    bias_add(f, of->down_bias, rows->x_out, w->d);
}

/* ---- the head -------------------------------------------------------------------------------- */

void joust_gpu_flow_head(joust_gpu_flow *f, const joust_gpu_head *head)
{
    const joust_gpu_widths *w = &f->m->w;
    const joust_gpu_matrix_args matrix = {.a = head->normed,
                                          .w = f->m->ends.head,
                                          .y = head->logits,
                                          .m = head->n,
                                          .n = w->n_out,
                                          .k = w->d,
                                          .ld = w->d_ld,
                                          .partial = head->partial,
                                          .n_tiles = w->n_tiles,
                                          .slot = head->slot,
                                          .target = head->target,
                                          .picked = head->picked};
    const joust_gpu_log_sum_args sums = {
        .partial = head->partial, .sums = head->sums, .n_tiles = w->n_tiles};
    const joust_gpu_pick_args pick = {
        .logits = head->logits, .items = head->picks, .n = w->n_out, .n_items = head->n_picks};
    norm(f, head->x, f->m->ends.norm, head->which, head->normed, head->states, head->n);
    if (head->states_only)
        return;
    matrix_run(f, JOUST_GPU_head_f32, &matrix);
    joust_gpu_flow_run(f, JOUST_GPU_log_sum, head->n, 1, &sums);
    if (head->n_picks)
        joust_gpu_flow_run(f, JOUST_GPU_pick, (head->n_picks + 63) / 64, 1, &pick);
}
