/* The plugin's device and what lies on it for long: weights and key-value pages. */
#include <string.h>

#include "cuda_adapter_internal.h"
#include "cuda_trainer_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/clock.h"

#define STAGING_BYTES (UINT64_C(32) << 20)
#define ALIGNMENT     256u

/* ---- the device ------------------------------------------------------------------------------ */

static joust_status device_open(const joust_device_options *options, joust_device **ret,
                                joust_error *err)
{
    joust_device *d = joust_calloc(1, sizeof(*d));
    if (!d)
        return joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    joust_status st = joust_gpu_open(options, &d->gpu, err);
    if (st) {
        joust_free(d);
        return st;
    }
    d->refs = 1;
    *ret = d;
    return JOUST_OK;
}

static void device_close(joust_device **device)
{
    joust_device *d = *device;
    *device = NULL;
    if (!d || --d->refs > 0)
        return;
    d->gpu->close(d->gpu);
    joust_free(d);
}

static const char *device_class(const joust_device *device)
{
    return device->gpu->numeric_class;
}

static const char *device_describe(const joust_device *device)
{
    return device->gpu->description;
}

static uint64_t device_memory(const joust_device *device)
{
    return device->gpu->n_memory_bytes;
}

/* ---- pages ----------------------------------------------------------------------------------- */

static uint64_t page_bytes(const joust_device *device, const joust_model_config *config)
{
    const joust_gpu_widths w = joust_gpu_widths_of(config, device->gpu->precision);
    return w.page_layer * config->n_layers * w.store_bytes;
}

static joust_status page_create(joust_device *device, uint64_t n_bytes, void **ret,
                                joust_error *err)
{
    joust_gpu *g = device->gpu;
    void *page = NULL;
    joust_status st = g->alloc(g, n_bytes, &page, err);
    const joust_gpu_add_args zeros = {.to = page, .n = n_bytes / sizeof(float)};
    if (!st)
        st = g->launch(g, JOUST_GPU_fill, (uint32_t)((zeros.n + 255) / 256), 1, &zeros, err);
    if (st) {
        g->free(g, page);
        return st;
    }
    *ret = page;
    return JOUST_OK;
}

static void page_free(joust_device *device, void *page)
{
    device->gpu->free(device->gpu, page);
}

static joust_status page_copy(joust_device *device, void *to, const void *from, uint64_t n_bytes,
                              joust_error *err)
{
    return device->gpu->copy(device->gpu, to, from, n_bytes, err);
}

/* ---- weights --------------------------------------------------------------------------------- */

static uint32_t up_to(uint32_t n, uint32_t whole)
{
    return (n + whole - 1) / whole * whole;
}

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
    w.d_ld = up_to(w.d, whole);
    w.query_ld = up_to(w.query, whole);
    w.ff_ld = up_to(w.ff, whole);
    w.n_tiles = (w.n_out + tile - 1) / tile;
    w.n_draw_tiles = (w.n_out + JOUST_GPU_DRAW_TILE - 1) / JOUST_GPU_DRAW_TILE;
    w.head_ld = bf16 ? up_to(c->d_head, 8) : c->d_head; /* gpu_head_ld */
    w.page_layer = (uint64_t)2 * c->n_kv_heads * w.head_ld * JOUST_DEVICE_PAGE_POSITIONS;
    return w;
}

uint32_t joust_gpu_tiles_fill(const joust_model_config *c, uint32_t first_row, uint32_t n,
                              joust_gpu_tile *to)
{
    const uint32_t n_units = n * (c->n_heads / c->n_kv_heads),
                   n_tiles = (n_units + JOUST_GPU_TILE_UNITS - 1) / JOUST_GPU_TILE_UNITS;
    for (uint32_t i = 0; to && i < n_tiles; i++) {
        const uint32_t unit = i * JOUST_GPU_TILE_UNITS, left = n_units - unit;
        to[i] = (joust_gpu_tile){.row = first_row,
                                 .unit = unit,
                                 .n = left < JOUST_GPU_TILE_UNITS ? left : JOUST_GPU_TILE_UNITS};
    }
    return n_tiles;
}

/* Gives every tensor its place in turn: first to count, then to upload. */
typedef struct placing {
    joust_gpu *gpu;
    unsigned char *block; /* NULL: only counts */
    uint64_t n_bytes;
    float *staging; /* device */
    uint32_t store_bytes;
    joust_status status;
    joust_error *err;
} placing;

static void *place_next(placing *p, uint64_t n_bytes)
{
    void *at = p->block ? p->block + p->n_bytes : NULL;
    p->n_bytes += (n_bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return at;
}

/* n floats as they are. */
static float *place_floats(placing *p, const float *from, uint64_t n)
{
    float *to = place_next(p, n * sizeof(float));
    if (to && !p->status)
        p->status = p->gpu->put(p->gpu, to, from, n * sizeof(float), p->err);
    return to;
}

/* A matrix (rows, k), its rows ld stores apart; through the staging block as many rows at a time as fit. */
static void *place_matrix(placing *p, const float *from, uint32_t rows, uint32_t k, uint32_t ld)
{
    unsigned char *to = place_next(p, (uint64_t)rows * ld * p->store_bytes);
    const uint32_t most = (uint32_t)(STAGING_BYTES / sizeof(float) / k);
    for (uint32_t row = 0; to && row < rows && !p->status; row += most) {
        const uint32_t n = rows - row < most ? rows - row : most;
        const joust_gpu_place_args args = {.from = p->staging,
                                           .to = to + (uint64_t)row * ld * p->store_bytes,
                                           .k = k,
                                           .ld = ld,
                                           .n = (uint64_t)n * ld};
        const bool bf16 = p->store_bytes == 2;
        p->status = p->gpu->put(p->gpu, p->staging, from + (uint64_t)row * k,
                                (uint64_t)n * k * sizeof(float), p->err);
        if (!p->status)
            p->status = p->gpu->launch(p->gpu, bf16 ? JOUST_GPU_place_bf16 : JOUST_GPU_place_f32,
                                       (uint32_t)((args.n + 255) / 256), 1, &args, p->err);
    }
    return to;
}

static void layer_place(placing *p, const joust_device_model *m, const joust_device_weights *from,
                        uint32_t layer, joust_gpu_layer *to)
{
    const joust_device_layer *at = &from->layers[layer];
    const joust_gpu_widths *w = &m->w;
    const float *weights = from->weights;
    to->qkv = place_matrix(p, weights + at->qkv, w->qkv, w->d, w->d_ld);
    to->o = place_matrix(p, weights + at->o, w->d, w->query, w->query_ld);
    to->gate_up = place_matrix(p, weights + at->gate_up, 2 * w->ff, w->d, w->d_ld);
    to->down = place_matrix(p, weights + at->down, w->d, w->ff, w->ff_ld);
    to->attention_norm = place_floats(p, weights + at->attention_norm, w->d);
    to->ff_norm = place_floats(p, weights + at->ff_norm, w->d);
    if (m->config.family == JOUST_FAMILY_QWEN2 || m->config.attention_bias)
        to->bias = place_floats(p, weights + at->qkv_bias, w->qkv);
    if (m->config.attention_bias)
        to->o_bias = place_floats(p, weights + at->o_bias, w->d);
    if (m->config.mlp_bias) {
        to->gate_up_bias = place_floats(p, weights + at->gate_up_bias, 2 * (uint64_t)w->ff);
        to->down_bias = place_floats(p, weights + at->down_bias, w->d);
    }
    if (m->config.family == JOUST_FAMILY_QWEN3) {
        to->q_norm = place_floats(p, weights + at->q_norm, m->config.d_head);
        to->k_norm = place_floats(p, weights + at->k_norm, m->config.d_head);
    }
}

static void weights_place(placing *p, joust_device_model *m, const joust_device_weights *from)
{
    const joust_gpu_widths *w = &m->w;
    p->n_bytes = 0;
    m->embedding = place_matrix(p, from->weights + from->embedding, w->vocab, w->d, w->d_ld);
    for (uint32_t i = 0; i < m->config.n_layers; i++)
        layer_place(p, m, from, i, &m->layers[i]);
    m->norm = place_floats(p, from->weights + from->norm, w->d);
    m->rope = place_floats(p, from->rope, (uint64_t)m->config.context * m->config.d_head);
    m->head = from->head == from->embedding
                  ? m->embedding
                  : place_matrix(p, from->weights + from->head, w->n_out, w->d, w->d_ld);
}

static joust_status weights_upload(joust_device_model *m, const joust_device_weights *from,
                                   joust_error *err)
{
    joust_gpu *gpu = m->device->gpu;
    placing p = {.gpu = gpu, .store_bytes = m->w.store_bytes, .err = err};
    weights_place(&p, m, from);
    const uint64_t n_bytes = p.n_bytes;
    p.status = gpu->alloc(gpu, n_bytes, &m->block, err);
    if (p.status)
        return joust_blame(err, p.status, "the model's %llu MiB of weights",
                           (unsigned long long)(n_bytes >> 20));
    void *staging;
    p.status = gpu->alloc(gpu, STAGING_BYTES, &staging, err);
    if (p.status)
        return p.status;
    p.block = m->block;
    p.staging = staging;
    weights_place(&p, m, from);
    gpu->free(gpu, staging);
    return p.status;
}

void joust_gpu_model_free(joust_device_model **model)
{
    joust_device_model *m = *model;
    *model = NULL;
    if (!m || --m->refs > 0)
        return;
    joust_gpu_work_free(m);
    joust_gpu_adapter_free(m);
    m->device->gpu->free(m->device->gpu, m->block);
    device_close(&m->device);
    joust_free(m->layers);
    joust_free(m);
}

static joust_status model_create(joust_device *device, const joust_device_weights *weights,
                                 joust_device_model **ret, joust_error *err)
{
    joust_status st;
    joust_device_model *m = joust_calloc(1, sizeof(*m));
    if (!m)
        return joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    m->refs = 1;
    m->device = device;
    device->refs++;
    m->config = *weights->config;
    m->w = joust_gpu_widths_of(&m->config, device->gpu->precision);
    m->layers = joust_calloc(m->config.n_layers, sizeof(*m->layers));
    st = m->layers ? weights_upload(m, weights, err)
                   : joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    if (st) {
        joust_gpu_model_free(&m);
        return st;
    }
    *ret = m;
    return JOUST_OK;
}

/* ---- bounds ---------------------------------------------------------------------------------- */

#define BOUND_BYTES   (UINT64_C(16) << 20) /* times work */
#define BOUND_BLOCKS  128u
#define BOUND_REPEATS 8u
#define FLOP          4096.0 /* of one m16n8k16 */

/* Seconds of one launch of `repeats`, the first one left out. Everything before it is done when the clock starts. */
static joust_status launches_time(joust_gpu *g, joust_gpu_kernel kernel, uint32_t blocks,
                                  const void *args, void *sums, double *ret, joust_error *err)
{
    uint32_t sum;
    joust_status st = g->launch(g, kernel, blocks, 1, args, err);
    if (!st)
        st = g->get(g, &sum, sums, sizeof(sum), err);
    const int64_t since = joust_clock_ns();
    for (uint32_t i = 0; i < BOUND_REPEATS && !st; i++)
        st = g->launch(g, kernel, blocks, 1, args, err);
    if (!st)
        st = g->get(g, &sum, sums, sizeof(sum), err);
    const int64_t took = joust_clock_ns() - since;
    *ret = (double)(took > 0 ? took : 1) * 1e-9 / BOUND_REPEATS;
    return st;
}

static joust_status bounds(joust_device *device, uint32_t work, double *ret_bytes_s,
                           double *ret_flop_s, joust_error *err)
{
    joust_gpu *g = device->gpu;
    const uint64_t n_bytes = BOUND_BYTES * work;
    const uint32_t blocks = BOUND_BLOCKS * (work > 16 ? 16 : work);
    void *from = NULL, *sums = NULL;
    double read = 0, products = 0;
    joust_status st = g->alloc(g, n_bytes, &from, err);
    if (!st)
        st = g->alloc(g, blocks * 256 * sizeof(uint32_t), &sums, err);
    const joust_gpu_read_args of_read = {.from = from, .sums = sums, .n = n_bytes / 16};
    const joust_gpu_products_args of_products = {.sums = sums, .rounds = work * work};
    if (!st)
        st = launches_time(g, JOUST_GPU_read, blocks, &of_read, sums, &read, err);
    if (!st)
        st = launches_time(g, JOUST_GPU_products, blocks, &of_products, sums, &products, err);
    g->free(g, from);
    g->free(g, sums);
    if (st)
        return st;
    *ret_bytes_s = (double)n_bytes / read;
    *ret_flop_s = FLOP * JOUST_GPU_CHAINS * of_products.rounds * blocks * 8 / products;
    return JOUST_OK;
}

/* ---- the table ------------------------------------------------------------------------------- */

const joust_device_api *joust_device_entry(void);

__attribute__((visibility("default"))) const joust_device_api *joust_device_entry(void)
{
    static const joust_device_api api = {.abi = JOUST_DEVICE_ABI,
                                         .n_bytes = sizeof(joust_device_api),
                                         .open = device_open,
                                         .close = device_close,
                                         .numeric_class = device_class,
                                         .describe = device_describe,
                                         .memory = device_memory,
                                         .model_create = model_create,
                                         .model_free = joust_gpu_model_free,
                                         .adapter_put = joust_gpu_adapter_put,
                                         .page_bytes = page_bytes,
                                         .page_create = page_create,
                                         .page_free = page_free,
                                         .page_copy = page_copy,
                                         .run = joust_gpu_run,
                                         .bounds = bounds,
                                         .trainer_create = joust_gpu_trainer_create,
                                         .trainer_free = joust_gpu_trainer_free,
                                         .train_forward = joust_gpu_train_forward,
                                         .train_entropies = joust_gpu_train_entropies,
                                         .train_backward = joust_gpu_train_backward,
                                         .sums_reserve = joust_gpu_sums_reserve,
                                         .sums_add = joust_gpu_sums_add,
                                         .squares = joust_gpu_squares,
                                         .update = joust_gpu_update,
                                         .block_get = joust_gpu_block_get,
                                         .block_put = joust_gpu_block_put,
                                         .refresh = joust_gpu_refresh};
    return &api;
}
