#include "forward_internal.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "proto/base/alloc.h"

/* What is worth a meeting of the threads, which takes about a microsecond: products of so many
 * multiply-adds, so many floats of rows, of keys. */
#define SHARED_PRODUCT 65536u
#define SHARED_ROWS    16384u
#define SHARED_KEYS    65536u
/* Panels of a product that a thread takes at a time: whole tiles. */
#define FEW_PANELS     8u
#define MANY_PANELS    24u

/* ---- keys and values ------------------------------------------------------------------------- */

/* Floats of the keys of one layer, and of its values after them. */
static size_t kv_keys_size(const joust_model_config *c, uint32_t capacity)
{
    return (size_t)c->n_kv_heads * capacity * c->d_head;
}

static size_t kv_layer_size(const joust_model_config *c, uint32_t capacity)
{
    return kv_keys_size(c, capacity) + (size_t)c->n_kv_heads * capacity * joust_lanes_up(c->d_head);
}

joust_status joust_kv_init(joust_kv *kv, const joust_model *m, uint32_t capacity, uint32_t n_layers,
                           joust_error *err)
{
    *kv = (joust_kv){.capacity = joust_lanes_up(capacity)};
    size_t size = kv_layer_size(&m->config, kv->capacity);
    kv->layer_stride = n_layers > 1 ? size : 0;
    kv->data = joust_calloc_aligned(size * n_layers, sizeof(float));
    if (!kv->data)
        return joust_fail(err, JOUST_NOMEM, "key-value cache: no memory for %u positions",
                          capacity);
    return JOUST_OK;
}

void joust_kv_fini(joust_kv *kv)
{
    joust_free_aligned(kv->data);
    *kv = (joust_kv){0};
}

static joust_kv_span kv_span(const joust_forward *f, const joust_kv *kv, uint32_t layer, uint32_t n)
{
    const float *keys = kv->data + layer * kv->layer_stride;
    return (joust_kv_span){.keys = keys,
                           .values = keys + kv_keys_size(&f->model->config, kv->capacity),
                           .capacity = kv->capacity,
                           .n = n};
}

static uint32_t row_index(const joust_row *row) /* of its key in own */
{
    return row->position - (row->prefix ? row->prefix->n : 0);
}

size_t joust_page_floats(const joust_model *m)
{
    return kv_layer_size(&m->config, JOUST_PAGE_POSITIONS) * m->config.n_layers;
}

/* The page that the row's key lies in, at one layer. */
static float *row_page(const joust_forward *f, const joust_row *row, uint32_t page, uint32_t layer)
{
    return (float *)row->pages[page] +
           layer * kv_layer_size(&f->model->config, JOUST_PAGE_POSITIONS);
}

/* The row's keys at one layer, in order of position; returns how many spans. */
static uint32_t row_spans(const joust_forward *f, const joust_row *row, uint32_t layer)
{
    uint32_t n = 0;
    if (!row->pages) {
        if (row->prefix)
            f->spans[n++] = kv_span(f, row->prefix, layer, row->prefix->n);
        f->spans[n++] = kv_span(f, row->own, layer, row_index(row) + 1);
        return n;
    }
    const size_t keys_size = kv_keys_size(&f->model->config, JOUST_PAGE_POSITIONS);
    for (uint32_t left = row->position + 1; left > 0; n++) {
        const float *page = row_page(f, row, n, layer);
        uint32_t here = left < JOUST_PAGE_POSITIONS ? left : JOUST_PAGE_POSITIONS;
        f->spans[n] = (joust_kv_span){
            .keys = page, .values = page + keys_size, .capacity = JOUST_PAGE_POSITIONS, .n = here};
        left -= here;
    }
    return n;
}

/* Makes the row's key one of its sequence's. */
static void key_count(const joust_row *row)
{
    if (!row->pages && row->own->n <= row_index(row))
        row->own->n = row_index(row) + 1;
}

void joust_forward_store(const joust_forward *f, uint32_t layer, const joust_row *row,
                         const float *qkv)
{
    const joust_model_config *c = &f->model->config;
    const uint32_t head_ld = joust_lanes_up(c->d_head);
    uint32_t at = row->position % JOUST_PAGE_POSITIONS, capacity = JOUST_PAGE_POSITIONS;
    float *keys;
    if (row->pages) {
        keys = row_page(f, row, row->position / JOUST_PAGE_POSITIONS, layer);
    } else {
        at = row_index(row);
        capacity = row->own->capacity;
        keys = row->own->data + layer * row->own->layer_stride;
    }
    assert(at < capacity);
    float *values = keys + kv_keys_size(c, capacity);
    for (uint32_t h = 0; h < c->n_kv_heads; h++) {
        const float *key = qkv + f->w.query + (size_t)h * c->d_head, *value = key + f->w.key_value;
        float *k = keys + ((size_t)h * capacity + at / JOUST_LANES * JOUST_LANES) * c->d_head +
                   at % JOUST_LANES;
        for (uint32_t i = 0; i < c->d_head; i++)
            k[(size_t)i * JOUST_LANES] = key[i];
        memcpy(values + ((size_t)h * capacity + at) * head_ld, value, c->d_head * sizeof(float));
    }
}

/* ---- layers ---------------------------------------------------------------------------------- */

joust_status joust_forward_init(joust_forward *f, const joust_engine *engine, const joust_model *m,
                                joust_error *err)
{
    assert(m->ready);
    *f = (joust_forward){
        .kernels = engine->kernels, .model = m, .w = joust_model_widths(&m->config)};
    f->scores =
        joust_calloc_aligned(joust_lanes_up(m->config.context) + JOUST_LANES, sizeof(float));
    f->head = joust_calloc_aligned(3 * (size_t)f->w.head_ld, sizeof(float));
    f->spans = joust_calloc(m->config.context / JOUST_PAGE_POSITIONS + 2, sizeof(*f->spans));
    if (f->scores && f->head && f->spans)
        return JOUST_OK;
    joust_forward_fini(f);
    return joust_fail(err, JOUST_NOMEM, "forward pass: out of memory");
}

void joust_forward_fini(joust_forward *f)
{
    for (uint32_t i = 0; i < f->n_helpers; i++)
        joust_forward_fini(&f->helpers[i]);
    joust_free(f->helpers);
    f->helpers = NULL;
    f->n_helpers = 0;
    joust_free_aligned(f->scores);
    joust_free_aligned(f->head);
    joust_free(f->spans);
    f->scores = f->head = NULL;
    f->spans = NULL;
}

/* ---- threads --------------------------------------------------------------------------------- */

/* Work on single rows, each with the scratch of the thread that does it. */
typedef void rows_fn(const joust_forward *own, const void *context, uint32_t item);

typedef struct rows_work {
    const joust_forward *f;
    rows_fn *fn;
    const void *context;
    uint32_t n;
} rows_work;

static void rows_thread(void *context, uint32_t thread)
{
    const rows_work *w = context;
    const uint64_t n = w->n, n_threads = joust_pool_threads(w->f->pool);
    const joust_forward *own = thread ? &w->f->helpers[thread - 1] : w->f;
    const uint32_t end = (uint32_t)(n * (thread + 1) / n_threads);
    for (uint32_t i = (uint32_t)(n * thread / n_threads); i < end; i++)
        w->fn(own, w->context, i);
}

/* fn for items 0 .. n-1: on all threads if there are several and `worth` says so. */
static void rows_each(const joust_forward *f, uint32_t n, bool worth, rows_fn *fn,
                      const void *context)
{
    rows_work w = {f, fn, context, n};
    if (f->pool && worth)
        joust_pool_run(f->pool, rows_thread, &w);
    else
        for (uint32_t i = 0; i < n; i++)
            fn(f, context, i);
}

/* A matrix product whose panels the threads take as they come free: an output's chain is one
 * thread's. */
typedef struct multiply_work {
    const joust_kernels *kernels;
    const joust_gemm *g;
    uint32_t chunk; /* outputs taken at a time: whole panels */
} multiply_work;

static void multiply_chunk(void *context, uint64_t item)
{
    const multiply_work *w = context;
    const uint32_t first = (uint32_t)item * w->chunk;
    joust_gemm part = *w->g;
    part.n = part.n - first < w->chunk ? part.n - first : w->chunk;
    if (part.pairs)
        part.pairs += first / JOUST_LANES * part.b_panel;
    else
        part.b += first / JOUST_LANES * part.b_panel;
    part.c += first;
    w->kernels->gemm(&part);
}

static void multiply_shared(const joust_forward *f, const joust_gemm *g)
{
    const uint32_t n_panels = joust_lanes_up(g->n) / JOUST_LANES;
    const bool many = n_panels >= 2 * MANY_PANELS * joust_pool_threads(f->pool);
    multiply_work w = {f->kernels, g, (many ? MANY_PANELS : FEW_PANELS) * JOUST_LANES};
    joust_pool_each(f->pool, (g->n + w.chunk - 1) / w.chunk, multiply_chunk, &w);
}

void joust_forward_multiply(const joust_forward *f, const float *x, uint32_t x_ld, uint32_t m,
                            const joust_pack *pack, float *y, uint32_t y_ld, bool add)
{
    const joust_gemm g = {.a = x,
                          .a_row = x_ld,
                          .a_step = 1,
                          .b = pack->data,
                          .pairs = pack->pairs,
                          .b_panel = pack->pairs ? joust_pairs_panel(pack->k)
                                                 : (size_t)pack->k * JOUST_LANES,
                          .b_step = JOUST_LANES,
                          .c = y,
                          .c_row = y_ld,
                          .m = m,
                          .n = pack->n,
                          .k = pack->k,
                          .add = add};
    if (f->pool && (uint64_t)m * pack->n * pack->k >= SHARED_PRODUCT)
        multiply_shared(f, &g);
    else
        f->kernels->gemm(&g);
}

void joust_forward_embed(const joust_forward *f, const joust_row *rows, uint32_t n, float *x)
{
    const uint32_t d = f->model->config.d_model;
    const float *table = f->model->weights + f->model->embedding;
    for (uint32_t r = 0; r < n; r++) {
        const float *from = table + (size_t)rows[r].token * d;
        float *to = x + (size_t)r * f->w.d_ld;
        memcpy(to, from, d * sizeof(float));
        for (uint32_t i = 0; i < d && f->model->precision == JOUST_PRECISION_BF16; i++)
            to[i] = joust_bf16_rounded(to[i]);
    }
}

typedef struct norms {
    const float *x, *gain;
    float *y, *r;
} norms;

static void norm_row(const joust_forward *f, const void *context, uint32_t i)
{
    const norms *n = context;
    const size_t at = (size_t)i * f->w.d_ld;
    const joust_model_config *c = &f->model->config;
    n->r[i] = f->kernels->norm(n->x + at, n->gain, c->d_model, c->norm_eps, n->y + at);
}

static void norm_rows(const joust_forward *f, const float *x, uint64_t gain, uint32_t n, float *y,
                      float *r)
{
    const norms work = {x, f->model->weights + gain, y, r};
    rows_each(f, n, (uint64_t)n * f->w.d_ld >= SHARED_ROWS, norm_row, &work);
}

float joust_forward_scale(const joust_forward *f)
{
    return 1.0f / sqrtf((float)f->model->config.d_head);
}

/* Drops the keys before position `first` from the front of a row's spans: whole spans and whole lanes are left out, the
 * rest is masked. The scores keep their lanes, so a row's bits don't depend on what was left out. */
static void window_cut(joust_attention *a, joust_kv_span *spans, uint32_t first)
{
    uint32_t base = 0;
    for (; a->n_spans > 1 && base + spans->n <= first; a->n_spans--)
        base += (spans++)->n;
    const uint32_t skipped = (first - base) / JOUST_LANES * JOUST_LANES;
    spans->keys += (size_t)skipped * a->d_head;
    spans->values += (size_t)skipped * a->head_ld;
    spans->n -= skipped;
    a->spans = spans;
    a->lead = (base + skipped) % JOUST_LANES;
    a->masked = a->lead + first - base - skipped;
}

/* Adds a bias of the block to n rows of its width. */
static void bias_add(const joust_forward *f, uint64_t bias, uint32_t width, float *y, uint32_t ld,
                     uint32_t n)
{
    for (uint32_t r = 0; r < n; r++)
        f->kernels->add(y + (size_t)r * ld, f->model->weights + bias, width);
}

/* What the rows of a layer's attention share. */
typedef struct attention_work {
    uint32_t layer, parts; /* each row's heads are cut into so many parts */
    const joust_row *rows;
    const joust_activations *a;
} attention_work;

static void attend_part(const joust_forward *f, const void *context, uint32_t item)
{
    const attention_work *w = context;
    const joust_model_config *c = &f->model->config;
    const uint32_t r = item / w->parts, part = item % w->parts, layer = w->layer;
    const joust_row *row = &w->rows[r];
    float *stats = w->a->stats;
    joust_attention a = {.n_heads = c->n_heads,
                         .first_head = c->n_heads * part / w->parts,
                         .end_head = c->n_heads * (part + 1) / w->parts,
                         .n_kv_heads = c->n_kv_heads,
                         .d_head = c->d_head,
                         .head_ld = joust_lanes_up(c->d_head),
                         .scale = joust_forward_scale(f),
                         .query = w->a->qkv + (size_t)r * f->w.qkv_ld,
                         .spans = f->spans,
                         .n_spans = row_spans(f, row, layer),
                         .out = w->a->mixed + (size_t)r * f->w.query_ld,
                         .scores = f->scores,
                         .stats =
                             stats ? stats + (size_t)r * joust_lanes_up(2 * c->n_heads) : NULL};
    window_cut(&a, f->spans, joust_config_first_seen(c, layer, row->position));
    f->kernels->attend(&a);
}

/* Norms each of n heads in place; raw (n, d_head) and r (n) keep what the backward pass needs, where they are. */
static void heads_norm(const joust_forward *f, float *heads, uint32_t n, uint64_t gain, float *raw,
                       float *r)
{
    const joust_model_config *c = &f->model->config;
    float *in = f->head, *out = f->head + f->w.head_ld;
    if (raw)
        memcpy(raw, heads, (size_t)n * c->d_head * sizeof(float));
    for (uint32_t h = 0; h < n; h++, heads += c->d_head) {
        memcpy(in, heads, c->d_head * sizeof(float));
        float by = f->kernels->norm(in, f->model->weights + gain, c->d_head, c->norm_eps, out);
        memcpy(heads, out, c->d_head * sizeof(float));
        if (r)
            r[h] = by;
    }
}

/* From the product to what attention reads: biases, the heads' norms, positions; number `row` of a. */
static void qkv_finish(const joust_forward *f, uint32_t layer, uint32_t row, uint32_t position,
                       const joust_activations *a)
{
    const joust_model_config *c = &f->model->config;
    const joust_layer_offsets *at = &f->model->offsets[layer];
    float *qkv = a->qkv + (size_t)row * f->w.qkv_ld;
    if (joust_config_has_bias(c))
        f->kernels->add(qkv, f->model->weights + at->qkv_bias, f->w.qkv);
    if (joust_config_has_qk_norm(c)) {
        float *raw = a->qk ? a->qk + (size_t)row * f->w.qk_ld : NULL,
              *r = a->qk_r ? a->qk_r + (size_t)row * joust_lanes_up(c->n_heads + c->n_kv_heads)
                           : NULL;
        heads_norm(f, qkv, c->n_heads, at->q_norm, raw, r);
        heads_norm(f, qkv + f->w.query, c->n_kv_heads, at->k_norm, raw ? raw + f->w.query : NULL,
                   r ? r + c->n_heads : NULL);
    }
    f->kernels->rope(qkv, c->n_heads + c->n_kv_heads, c->d_head,
                     f->model->rope + (size_t)position * c->d_head, false);
}

/* A row's query, key and value from its product, the latter two into the cache. */
static void key_store(const joust_forward *f, const void *context, uint32_t r)
{
    const attention_work *w = context;
    qkv_finish(f, w->layer, r, w->rows[r].position, w->a);
    joust_forward_store(f, w->layer, &w->rows[r], w->a->qkv + (size_t)r * f->w.qkv_ld);
}

/* Few rows are cut by heads, so that one long sequence keeps every thread at work. */
static void attend_rows(const joust_forward *f, const attention_work *work, uint32_t n)
{
    attention_work w = *work;
    const uint32_t n_threads = f->pool ? joust_pool_threads(f->pool) : 1;
    uint64_t n_keys = 0;
    for (uint32_t r = 0; r < n; r++)
        n_keys += w.rows[r].position + 1;
    const bool worth = n_keys * (f->w.query + f->w.key_value) >= SHARED_KEYS;
    if (worth && n < 4 * n_threads)
        w.parts = n_threads < f->model->config.n_heads ? n_threads : f->model->config.n_heads;
    rows_each(f, n * w.parts, worth, attend_part, &w);
}

static void attention_forward(const joust_forward *f, uint32_t layer, const joust_row *rows,
                              uint32_t n, const joust_activations *a)
{
    const joust_layer_packs *p = &f->model->packs[layer];
    norm_rows(f, a->x, f->model->offsets[layer].attention_norm, n, a->normed, a->norm_r);
    joust_forward_multiply(f, a->normed, f->w.d_ld, n, &p->qkv, a->qkv, f->w.qkv_ld, false);
    joust_forward_adapt(f, layer, JOUST_PRODUCT_QKV, a->normed, f->w.d_ld, n, a->low[0], a->qkv,
                        f->w.qkv_ld);
    const attention_work keys = {layer, 1, rows, a};
    for (uint32_t r = 0; r < n; r++)
        key_count(&rows[r]);
    rows_each(f, n, (uint64_t)n * f->w.qkv_ld >= SHARED_ROWS, key_store, &keys);
    attend_rows(f, &keys, n);
    if (a->x_mid != a->x)
        memcpy(a->x_mid, a->x, (size_t)n * f->w.d_ld * sizeof(float));
    joust_forward_multiply(f, a->mixed, f->w.query_ld, n, &p->o, a->x_mid, f->w.d_ld, true);
    joust_forward_adapt(f, layer, JOUST_PRODUCT_O, a->mixed, f->w.query_ld, n, a->low[1], a->x_mid,
                        f->w.d_ld);
    if (f->model->config.attention_bias)
        bias_add(f, f->model->offsets[layer].o_bias, f->model->config.d_model, a->x_mid, f->w.d_ld,
                 n);
}

static void swiglu_row(const joust_forward *f, const void *context, uint32_t r)
{
    const joust_activations *a = context;
    f->kernels->swiglu(a->gate_up + (size_t)r * f->w.gate_up_ld, f->model->config.d_ff,
                       a->hidden + (size_t)r * f->w.ff_ld);
}

void joust_forward_layer(const joust_forward *f, uint32_t layer, const joust_row *rows, uint32_t n,
                         const joust_activations *a)
{
    const joust_layer_packs *p = &f->model->packs[layer];
    const joust_model_config *c = &f->model->config;
    attention_forward(f, layer, rows, n, a);
    norm_rows(f, a->x_mid, f->model->offsets[layer].ff_norm, n, a->normed_ff, a->norm_ff_r);
    joust_forward_multiply(f, a->normed_ff, f->w.d_ld, n, &p->gate_up, a->gate_up, f->w.gate_up_ld,
                           false);
    joust_forward_adapt(f, layer, JOUST_PRODUCT_GATE_UP, a->normed_ff, f->w.d_ld, n, a->low[2],
                        a->gate_up, f->w.gate_up_ld);
    if (c->mlp_bias)
        bias_add(f, f->model->offsets[layer].gate_up_bias, 2 * c->d_ff, a->gate_up, f->w.gate_up_ld,
                 n);
    rows_each(f, n, (uint64_t)n * f->w.ff_ld >= SHARED_ROWS / 4, swiglu_row, a);
    if (a->x_out != a->x_mid)
        memcpy(a->x_out, a->x_mid, (size_t)n * f->w.d_ld * sizeof(float));
    joust_forward_multiply(f, a->hidden, f->w.ff_ld, n, &p->down, a->x_out, f->w.d_ld, true);
    joust_forward_adapt(f, layer, JOUST_PRODUCT_DOWN, a->hidden, f->w.ff_ld, n, a->low[3], a->x_out,
                        f->w.d_ld);
    if (c->mlp_bias)
        bias_add(f, f->model->offsets[layer].down_bias, c->d_model, a->x_out, f->w.d_ld, n);
}

void joust_forward_norm(const joust_forward *f, const float *x, uint32_t n, float *normed,
                        float *norm_r)
{
    norm_rows(f, x, f->model->norm, n, normed, norm_r);
}

void joust_forward_head(const joust_forward *f, const float *x, uint32_t n, float *normed,
                        float *norm_r, float *logits)
{
    joust_forward_norm(f, x, n, normed, norm_r);
    joust_forward_multiply(f, normed, f->w.d_ld, n, &f->model->head_pack, logits, f->w.vocab_ld,
                           false);
}
