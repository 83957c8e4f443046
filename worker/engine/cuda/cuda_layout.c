/* Where everything lies on a GPU, and so how many bytes it takes: one function each, by which the plugin allocates and the
 * engine, which has this file too, predicts (worker/engine/memory_device.c). Launches nothing. */
#include <stddef.h> /* offsetof */
#include <string.h>

#include "cuda_layout_internal.h"

#define ALIGNMENT 256u

static uint64_t up_to(uint64_t n, uint64_t whole)
{
    return (n + whole - 1) / whole * whole;
}

static uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static void *take(joust_gpu_layout *l, uint64_t n, uint64_t n_bytes_each)
{
    void *at = l->block && n ? l->block + l->n_bytes : NULL;
    l->n_bytes += up_to(n * n_bytes_each, ALIGNMENT);
    return at;
}

static float *floats(joust_gpu_layout *l, uint64_t rows, uint64_t n)
{
    return take(l, rows * n, sizeof(float));
}

/* ---- weights and pages ----------------------------------------------------------------------- */

joust_gpu_widths joust_gpu_widths_of(const joust_model_config *c, joust_precision precision)
{
    const bool bf16 = precision == JOUST_PRECISION_BF16;
    const uint32_t whole = bf16 ? JOUST_GPU_CHUNK : 1,
                   tile = bf16 ? JOUST_GPU_BF16_OUTPUTS : JOUST_GPU_F32_OUTPUTS;
    joust_gpu_widths w = {.d = c->d_model,
                          .query = c->n_heads * c->d_head,
                          .qkv = (c->n_heads + 2 * c->n_kv_heads) * c->d_head,
                          .ff = c->d_ff,
                          .vocab = c->vocab_size,
                          .n_out = c->scalar_head ? 1 : c->vocab_size,
                          .store_bytes = bf16 ? 2 : 4};
    w.d_ld = (uint32_t)up_to(w.d, whole);
    w.query_ld = (uint32_t)up_to(w.query, whole);
    w.ff_ld = (uint32_t)up_to(w.ff, whole);
    w.n_tiles = (w.n_out + tile - 1) / tile;
    w.n_draw_tiles = (w.n_out + JOUST_GPU_DRAW_TILE - 1) / JOUST_GPU_DRAW_TILE;
    w.head_ld = bf16 ? (uint32_t)up_to(c->d_head, 8) : c->d_head; /* gpu_head_ld */
    w.page_layer = (uint64_t)2 * c->n_kv_heads * w.head_ld * JOUST_DEVICE_PAGE_POSITIONS;
    return w;
}

uint64_t joust_gpu_page_bytes(const joust_model_config *c, const joust_gpu_widths *w)
{
    return w->page_layer * c->n_layers * w->store_bytes;
}

static void layer_layout(joust_gpu_layout *l, const joust_model_config *c,
                         const joust_gpu_widths *w, joust_gpu_layer *to)
{
    const uint64_t store = w->store_bytes;
    const bool of_heads = c->family == JOUST_FAMILY_QWEN3,
               of_qkv = c->family == JOUST_FAMILY_QWEN2 || c->attention_bias;
    to->qkv = take(l, (uint64_t)w->qkv * w->d_ld, store);
    to->o = take(l, (uint64_t)w->d * w->query_ld, store);
    to->gate_up = take(l, 2 * (uint64_t)w->ff * w->d_ld, store);
    to->down = take(l, (uint64_t)w->d * w->ff_ld, store);
    to->attention_norm = floats(l, 1, w->d);
    to->ff_norm = floats(l, 1, w->d);
    to->bias = floats(l, of_qkv, w->qkv);
    to->o_bias = floats(l, c->attention_bias, w->d);
    to->gate_up_bias = floats(l, c->mlp_bias, 2 * (uint64_t)w->ff);
    to->down_bias = floats(l, c->mlp_bias, w->d);
    to->q_norm = floats(l, of_heads, c->d_head);
    to->k_norm = floats(l, of_heads, c->d_head);
}

void joust_gpu_layer_parts(const joust_device_layer *at, const joust_gpu_layer *to,
                           const joust_gpu_widths *w, uint32_t d_head,
                           joust_gpu_part ret[JOUST_GPU_LAYER_PARTS])
{
    const joust_gpu_part parts[JOUST_GPU_LAYER_PARTS] = {
        {at->qkv, to->qkv, w->qkv, w->d, w->d_ld},
        {at->o, to->o, w->d, w->query, w->query_ld},
        {at->gate_up, to->gate_up, 2 * w->ff, w->d, w->d_ld},
        {at->down, to->down, w->d, w->ff, w->ff_ld},
        {at->attention_norm, to->attention_norm, 1, w->d, 0},
        {at->ff_norm, to->ff_norm, 1, w->d, 0},
        {at->qkv_bias, to->bias, 1, w->qkv, 0},
        {at->o_bias, to->o_bias, 1, w->d, 0},
        {at->gate_up_bias, to->gate_up_bias, 1, 2 * w->ff, 0},
        {at->down_bias, to->down_bias, 1, w->d, 0},
        {at->q_norm, to->q_norm, 1, d_head, 0},
        {at->k_norm, to->k_norm, 1, d_head, 0}};
    memcpy(ret, parts, sizeof(parts));
}

void joust_gpu_weights_layout(joust_gpu_layout *l, const joust_model_config *c,
                              const joust_gpu_widths *w, bool tied, joust_gpu_layer *layers,
                              joust_gpu_ends *to)
{
    joust_gpu_layer none;
    to->embedding = take(l, (uint64_t)w->vocab * w->d_ld, w->store_bytes);
    for (uint32_t i = 0; i < c->n_layers; i++)
        layer_layout(l, c, w, layers ? &layers[i] : &none);
    to->norm = floats(l, 1, w->d);
    to->rope = floats(l, c->context, c->d_head);
    to->head = tied ? to->embedding : take(l, (uint64_t)w->n_out * w->d_ld, w->store_bytes);
}

/* ---- an adapter ------------------------------------------------------------------------------ */

/* Inputs of a product, and the length of their rows. */
static void inputs_of(const joust_gpu_widths *w, joust_gpu_product product, uint32_t *ret_in,
                      uint32_t *ret_ld)
{
    const uint32_t in[JOUST_DEVICE_PRODUCTS][2] = {
        {w->d, w->d_ld}, {w->query, w->query_ld}, {w->d, w->d_ld}, {w->ff, w->ff_ld}};
    *ret_in = in[product][0];
    *ret_ld = in[product][1];
}

void joust_gpu_adapter_layout(joust_gpu_layout *l, const joust_gpu_widths *w, uint32_t n_layers,
                              const joust_device_adapter *from, joust_gpu_adapter *to)
{
    const uint64_t store = w->store_bytes;
    to->rank = from->rank;
    to->rank_ld = store == 2 ? (uint32_t)up_to(from->rank, JOUST_GPU_CHUNK) : from->rank;
    for (uint32_t i = 0; i < n_layers * JOUST_DEVICE_PRODUCTS; i++) {
        const joust_device_adapter_product *p = &from->products[i];
        const joust_gpu_product product = (joust_gpu_product)(i % JOUST_DEVICE_PRODUCTS);
        joust_gpu_adapter_product *q = &to->products[i];
        inputs_of(w, product, &q->in, &q->in_ld);
        q->n_parts = p->n_parts;
        q->low = p->n_parts * from->rank;
        q->low_ld = store == 2 ? (uint32_t)up_to(q->low, JOUST_GPU_CHUNK) : q->low;
        q->at = p->a;
        q->a = take(l, (uint64_t)q->low * q->in_ld, store);
        to->low = (uint32_t)most(to->low, q->low);
        to->low_stores[product] = (uint32_t)most(to->low_stores[product], p->n_parts * to->rank_ld);
        for (uint32_t k = 0; k < p->n_parts; k++)
            q->parts[k] = (joust_gpu_adapter_part){
                .first = p->parts[k].first,
                .n = p->parts[k].n,
                .at = p->parts[k].b,
                .b = take(l, (uint64_t)p->parts[k].n * to->rank_ld, store)};
    }
}

/* ---- a pass ---------------------------------------------------------------------------------- */

static uint64_t pass_io_place(joust_gpu_io *io, uint64_t n_bytes)
{
    const uint64_t at = io->n_bytes;
    io->n_bytes += (n_bytes + 15) / 16 * 16;
    return at;
}

joust_gpu_io joust_gpu_io_of(const joust_gpu_rooms *r)
{
    joust_gpu_io io = {0};
    const uint64_t of_rows = (uint64_t)r->rows * sizeof(uint32_t);
    io.tokens = pass_io_place(&io, of_rows);
    io.positions = pass_io_place(&io, of_rows);
    io.first_page = pass_io_place(&io, of_rows);
    io.which = pass_io_place(&io, of_rows);
    io.slot = pass_io_place(&io, of_rows);
    io.target = pass_io_place(&io, of_rows);
    io.pages = pass_io_place(&io, (uint64_t)r->pages * sizeof(void *));
    io.tiles = pass_io_place(&io, (uint64_t)r->tiles * sizeof(joust_gpu_tile));
    io.draws = pass_io_place(&io, (uint64_t)r->draws * sizeof(joust_gpu_draw_item));
    io.picks = pass_io_place(&io, (uint64_t)r->picks * sizeof(joust_gpu_pick_item));
    io.sums = pass_io_place(&io, 2 * of_rows);
    io.picked = pass_io_place(&io, of_rows);
    return io;
}

uint32_t joust_gpu_room_grown(uint32_t room, uint32_t n)
{
    uint32_t to = room ? room : 16;
    while (to < n)
        to *= 2;
    return n ? to : room;
}

void joust_gpu_work_layout(const joust_gpu_shape *s, const joust_gpu_rooms *r,
                           joust_gpu_work_block ret[JOUST_GPU_WORK_BLOCKS])
{
    const joust_gpu_widths *w = s->w;
    const joust_gpu_adapter *a = s->adapter;
    const uint64_t rows = r->rows, store = w->store_bytes, one = sizeof(float),
                   low = a ? a->low : 0, low_stores = a ? low / a->rank * a->rank_ld : 0;
    const joust_gpu_work_block blocks[JOUST_GPU_WORK_BLOCKS] = {
        {offsetof(joust_gpu_work, device), joust_gpu_io_of(r).n_bytes},
        {offsetof(joust_gpu_work, x), rows * w->d * one},
        {offsetof(joust_gpu_work, qkv), rows * w->qkv * one},
        {offsetof(joust_gpu_work, gate_up), rows * 2 * w->ff * one},
        {offsetof(joust_gpu_work, partial), rows * w->n_tiles * 2 * one},
        {offsetof(joust_gpu_work, logits), (uint64_t)r->slots * w->n_out * one},
        {offsetof(joust_gpu_work, parts),
         (uint64_t)r->parts * s->config->n_heads * (w->head_ld + 2) * one},
        {offsetof(joust_gpu_work, normed), rows * w->d_ld * store},
        {offsetof(joust_gpu_work, mixed), rows * w->query_ld * store},
        {offsetof(joust_gpu_work, hidden), rows * w->ff_ld * store},
        {offsetof(joust_gpu_work, states), (uint64_t)r->states * w->d * one},
        {offsetof(joust_gpu_work, low_sums), rows * low * one},
        {offsetof(joust_gpu_work, low), rows * low_stores * store},
        {offsetof(joust_gpu_work, marks), (uint64_t)r->draws * w->n_draw_tiles * sizeof(double)}};
    memcpy(ret, blocks, sizeof(blocks));
}

/* ---- a micro-batch --------------------------------------------------------------------------- */

static void kept_place(joust_gpu_layout *l, const joust_gpu_shape *s, const joust_gpu_tape_rooms *r,
                       uint32_t layer, joust_gpu_kept *to)
{
    const joust_gpu_widths *w = s->w;
    const bool all = !r->recompute || layer == 0, normed = s->config->family == JOUST_FAMILY_QWEN3;
    const uint64_t n = all ? r->rows : 0, store = w->store_bytes;
    to->x = floats(l, r->rows, w->d);
    to->qkv = floats(l, n, w->qkv);
    to->raw = floats(l, normed ? n : 0, w->qkv);
    to->x_mid = floats(l, n, w->d);
    to->gate_up = floats(l, n, 2 * (uint64_t)w->ff);
    to->stats = floats(l, n, 2 * (uint64_t)s->config->n_heads);
    to->normed = take(l, n * w->d_ld, store);
    to->mixed = take(l, n * w->query_ld, store);
    to->normed_ff = take(l, n * w->d_ld, store);
    to->hidden = take(l, n * w->ff_ld, store);
    for (uint32_t i = 0; s->adapter && i < JOUST_DEVICE_PRODUCTS; i++)
        to->low[i] = take(l, n * s->adapter->low_stores[i], store);
}

/* Factors of the backward pass's products as stores; rows and outputs in whole chunks where they are summed over. */
static void factors_place(joust_gpu_layout *l, const joust_gpu_shape *s,
                          const joust_gpu_tape_rooms *r, joust_gpu_tape *to)
{
    const joust_gpu_widths *w = s->w;
    const uint64_t rows = up_to(r->rows, JOUST_GPU_CHUNK), store = w->store_bytes,
                   wanted = up_to(r->wanted, JOUST_GPU_CHUNK),
                   head = most(JOUST_GPU_CHUNK,
                               w->n_out < JOUST_GPU_LOGITS ? w->n_out : JOUST_GPU_LOGITS),
                   head_ld = up_to(head, JOUST_GPU_CHUNK), d_ld = up_to(w->d, JOUST_GPU_CHUNK),
                   qkv_ld = up_to(w->qkv, JOUST_GPU_CHUNK),
                   up_ld = up_to(2 * (uint64_t)w->ff, JOUST_GPU_CHUNK),
                   low = s->adapter ? s->adapter->low : 0, low_ld = up_to(low, JOUST_GPU_CHUNK),
                   out = most(most(most(qkv_ld, up_ld), d_ld), low_ld),
                   in = most(most(w->d, w->query), w->ff);
    to->dy = take(l, most(rows * out, wanted * head_ld), store);
    to->dy_turned = take(l, most(rows * out, wanted * head), store);
    to->x_turned = take(l, most(rows * most(in, low), wanted * w->d), store);
    to->w_turned = take(
        l,
        most(most(most(w->d * most(qkv_ld, up_ld), most(w->query, w->ff) * d_ld), w->d * head_ld),
             most(in * low_ld, low * out)),
        store);
    to->low_sums = floats(l, r->rows, low);
    to->d_low = floats(l, r->rows, low);
    to->chunk = floats(l, r->wanted, head);
}

static void back_place(joust_gpu_layout *l, const joust_gpu_shape *s, const joust_gpu_tape_rooms *r,
                       joust_gpu_tape *to)
{
    const joust_gpu_widths *w = s->w;
    const joust_model_config *c = s->config;
    to->dx = floats(l, r->rows, w->d);
    to->d_normed = floats(l, r->rows, w->d);
    to->d_qkv = floats(l, r->rows, w->qkv);
    to->d_raw = floats(l, c->family == JOUST_FAMILY_QWEN3 ? r->rows : 0, w->qkv);
    to->d_mixed = floats(l, r->rows, w->query);
    to->d_gate_up = floats(l, r->rows, 2 * (uint64_t)w->ff);
    to->d_hidden = floats(l, r->rows, w->ff);
    to->means = floats(l, r->rows, c->n_heads);
    to->r = floats(l, most(r->rows, r->wanted), c->n_heads + c->n_kv_heads);
    to->head_dx = floats(l, r->wanted, w->d);
    const uint64_t halves = w->store_bytes == 2 ? r->rows * (uint64_t)w->head_ld : 0;
    to->query_half = take(l, halves * (c->n_heads + 2 * c->n_kv_heads), w->store_bytes);
    to->out_half = take(l, halves * c->n_heads, w->store_bytes);
    factors_place(l, s, r, to);
}

void joust_gpu_tape_layout(joust_gpu_layout *l, const joust_gpu_shape *s,
                           const joust_gpu_tape_rooms *r, joust_gpu_tape *to)
{
    const joust_gpu_widths *w = s->w;
    joust_gpu_kept none;
    for (uint32_t i = 0; i < s->config->n_layers; i++)
        kept_place(l, s, r, i, to->kept ? &to->kept[i] : &none);
    to->x_last = floats(l, r->rows, w->d);
    to->normed = take(l, (uint64_t)r->wanted * w->d_ld, w->store_bytes);
    to->partial = floats(l, r->wanted, 2 * (uint64_t)w->n_tiles);
    to->logits = floats(l, r->slots, w->n_out);
    to->sums = floats(l, r->wanted, 2);
    to->picked = floats(l, r->wanted, 1);
    to->entropies = take(l, r->wanted, sizeof(double));
    to->first_slope = take(l, (uint64_t)r->wanted + 1, sizeof(uint32_t));
    to->pages = take(l, r->pages, joust_gpu_page_bytes(s->config, w));
    back_place(l, s, r, to);
}

static uint64_t tape_io_place(joust_gpu_tape_io *io, uint64_t n, uint64_t n_bytes_each)
{
    const uint64_t at = io->n_bytes;
    io->n_bytes += up_to(n * n_bytes_each, 16);
    return at;
}

/* Pages are named once by each part that sees them. */
joust_gpu_tape_io joust_gpu_tape_io_of(const joust_model_config *c, const joust_gpu_tape_rooms *r)
{
    const uint64_t group = c->n_heads / c->n_kv_heads;
    joust_gpu_tape_io io = {0};
    const uint64_t one = sizeof(uint32_t);
    io.tokens = tape_io_place(&io, r->rows, one);
    io.positions = tape_io_place(&io, r->rows, one);
    io.first_page = tape_io_place(&io, r->rows, one);
    io.which = tape_io_place(&io, r->wanted, one);
    io.slot = tape_io_place(&io, r->wanted, one);
    io.target = tape_io_place(&io, r->wanted, one);
    io.order = tape_io_place(&io, r->rows, one);
    io.distinct = tape_io_place(&io, r->rows, sizeof(joust_gpu_token_rows));
    io.pages = tape_io_place(&io, (uint64_t)JOUST_DEVICE_PARTS * r->pages, sizeof(void *));
    io.picks = tape_io_place(&io, r->picks, sizeof(joust_gpu_pick_item));
    io.tiles = tape_io_place(&io, r->rows * group / JOUST_GPU_TILE_UNITS + JOUST_DEVICE_PARTS,
                             sizeof(joust_gpu_tile));
    io.key_tiles = tape_io_place(&io, r->pages, sizeof(joust_gpu_key_tile));
    return io;
}
