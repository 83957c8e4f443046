/* The plugin's device and what lies on it for long: weights and key-value pages. */
#include <string.h>

#include "cuda_adapter_internal.h"
#include "cuda_layout_internal.h"
#include "cuda_trainer_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/clock.h"

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
    return joust_gpu_page_bytes(config, &w);
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

/* Uploads tensors to their places, through a staging block on the device. */
typedef struct upload {
    joust_gpu *gpu;
    float *staging;
    uint32_t store_bytes;
    joust_status status;
    joust_error *err;
} upload;

/* Nothing where the model has no such vector. */
static void floats_put(upload *u, const float *from, float *to, uint64_t n)
{
    if (to && !u->status)
        u->status = u->gpu->put(u->gpu, to, from, n * sizeof(float), u->err);
}

/* A matrix (rows, k), its rows ld stores apart; as many rows at a time as fit. */
static void matrix_put(upload *u, const float *from, void *to, uint32_t rows, uint32_t k,
                       uint32_t ld)
{
    const uint32_t most = (uint32_t)(JOUST_GPU_STAGING_BYTES / sizeof(float) / k);
    for (uint32_t row = 0; row < rows && !u->status; row += most) {
        const uint32_t n = rows - row < most ? rows - row : most;
        const joust_gpu_place_args args = {.from = u->staging,
                                           .to = (unsigned char *)to +
                                                 (uint64_t)row * ld * u->store_bytes,
                                           .k = k,
                                           .ld = ld,
                                           .n = (uint64_t)n * ld};
        const bool bf16 = u->store_bytes == 2;
        u->status = u->gpu->put(u->gpu, u->staging, from + (uint64_t)row * k,
                                (uint64_t)n * k * sizeof(float), u->err);
        if (!u->status)
            u->status = u->gpu->launch(u->gpu, bf16 ? JOUST_GPU_place_bf16 : JOUST_GPU_place_f32,
                                       (uint32_t)((args.n + 255) / 256), 1, &args, u->err);
    }
}

static void layer_put(upload *u, const joust_device_model *m, const joust_device_weights *weights,
                      uint32_t layer)
{
    joust_gpu_part parts[JOUST_GPU_LAYER_PARTS];
    joust_gpu_layer_parts(&weights->layers[layer], &m->layers[layer], &m->w, m->config.d_head,
                          parts);
    for (uint32_t i = 0; i < JOUST_GPU_LAYER_PARTS; i++) {
        const joust_gpu_part *p = &parts[i];
        if (p->ld)
            matrix_put(u, weights->weights + p->from, p->to, p->rows, p->k, p->ld);
        else
            floats_put(u, weights->weights + p->from, p->to, p->k);
    }
}

static void weights_put(upload *u, const joust_device_model *m, const joust_device_weights *from)
{
    const joust_gpu_widths *w = &m->w;
    const joust_gpu_ends *to = &m->ends;
    matrix_put(u, from->weights + from->embedding, to->embedding, w->vocab, w->d, w->d_ld);
    for (uint32_t i = 0; i < m->config.n_layers; i++)
        layer_put(u, m, from, i);
    floats_put(u, from->weights + from->norm, to->norm, w->d);
    floats_put(u, from->rope, to->rope, (uint64_t)m->config.context * m->config.d_head);
    if (to->head != to->embedding)
        matrix_put(u, from->weights + from->head, to->head, w->n_out, w->d, w->d_ld);
}

static joust_status weights_upload(joust_device_model *m, const joust_device_weights *from,
                                   joust_error *err)
{
    joust_gpu *gpu = m->device->gpu;
    const bool tied = from->head == from->embedding;
    upload u = {.gpu = gpu, .store_bytes = m->w.store_bytes, .err = err};
    joust_gpu_layout l = {0};
    joust_gpu_weights_layout(&l, &m->config, &m->w, tied, m->layers, &m->ends);
    joust_status st = gpu->alloc(gpu, l.n_bytes, &m->block, err);
    if (st)
        return joust_blame(err, st, "the model's %llu MiB of weights",
                           (unsigned long long)(l.n_bytes >> 20));
    l = (joust_gpu_layout){.block = m->block};
    joust_gpu_weights_layout(&l, &m->config, &m->w, tied, m->layers, &m->ends);
    void *staging;
    st = gpu->alloc(gpu, JOUST_GPU_STAGING_BYTES, &staging, err);
    if (st)
        return st;
    u.staging = staging;
    weights_put(&u, m, from);
    gpu->free(gpu, staging);
    return u.status;
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
