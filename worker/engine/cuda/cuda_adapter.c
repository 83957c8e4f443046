#include "cuda_adapter_internal.h"

#include "proto/base/alloc.h"

#define ALIGNMENT 256u

static uint64_t up_to(uint64_t n, uint64_t whole)
{
    return (n + whole - 1) / whole * whole;
}

static uint32_t blocks_of(uint64_t n)
{
    return (uint32_t)((n + 255) / 256);
}

/* ---- life ------------------------------------------------------------------------------------ */

static uint32_t n_products(const joust_device_model *m)
{
    return m->config.n_layers * JOUST_DEVICE_PRODUCTS;
}

void joust_gpu_adapter_free(joust_device_model *m)
{
    joust_gpu_adapter *a = m->adapter;
    m->adapter = NULL;
    if (!a)
        return;
    m->device->gpu->free(m->device->gpu, a->block);
    joust_free(a->products);
    joust_free(a);
}

/* Inputs of a product, and the length of their rows. */
static void inputs_of(const joust_gpu_widths *w, joust_gpu_product product, uint32_t *ret_in,
                      uint32_t *ret_ld)
{
    const uint32_t in[JOUST_DEVICE_PRODUCTS][2] = {
        {w->d, w->d_ld}, {w->query, w->query_ld}, {w->d, w->d_ld}, {w->ff, w->ff_ld}};
    *ret_in = in[product][0];
    *ret_ld = in[product][1];
}

static void *place_next(unsigned char *block, uint64_t *n_bytes, uint64_t n)
{
    void *at = block ? block + *n_bytes : NULL;
    *n_bytes += up_to(n, ALIGNMENT);
    return at;
}

/* Gives every matrix its place in block, or counts their bytes. */
static uint64_t matrices_place(const joust_device_model *m, const joust_device_adapter *from,
                               unsigned char *block, joust_gpu_adapter *to)
{
    const uint64_t store = m->w.store_bytes;
    uint64_t n_bytes = 0;
    for (uint32_t i = 0; i < n_products(m); i++) {
        const joust_device_adapter_product *p = &from->products[i];
        joust_gpu_adapter_product *q = &to->products[i];
        inputs_of(&m->w, (joust_gpu_product)(i % JOUST_DEVICE_PRODUCTS), &q->in, &q->in_ld);
        q->n_parts = p->n_parts;
        q->low = p->n_parts * from->rank;
        q->low_ld = store == 2 ? (uint32_t)up_to(q->low, JOUST_GPU_CHUNK) : q->low;
        q->at = p->a;
        q->a = place_next(block, &n_bytes, (uint64_t)q->low * q->in_ld * store);
        to->low = q->low > to->low ? q->low : to->low;
        for (uint32_t k = 0; k < p->n_parts; k++)
            q->parts[k] = (joust_gpu_adapter_part){
                .first = p->parts[k].first,
                .n = p->parts[k].n,
                .at = p->parts[k].b,
                .b = place_next(block, &n_bytes, (uint64_t)p->parts[k].n * to->rank_ld * store)};
    }
    return n_bytes;
}

/* Into the model, with what its matrices hold undefined. */
static joust_status adapter_make(joust_device_model *m, const joust_device_adapter *from,
                                 joust_error *err)
{
    joust_gpu *g = m->device->gpu;
    const bool bf16 = g->precision == JOUST_PRECISION_BF16;
    joust_gpu_adapter *a = joust_calloc(1, sizeof(*a));
    if (!a)
        return joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    m->adapter = a;
    a->n_weights = from->n_weights;
    a->rank = from->rank;
    a->rank_ld = bf16 ? (uint32_t)up_to(from->rank, JOUST_GPU_CHUNK) : from->rank;
    a->scale = from->scale;
    a->products = joust_calloc(n_products(m), sizeof(*a->products));
    if (!a->products)
        return joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    const uint64_t n_bytes = matrices_place(m, from, NULL, a);
    joust_status st = g->alloc(g, n_bytes, &a->block, err);
    if (st)
        return joust_blame(err, st, "the adapter's %llu MiB of weights",
                           (unsigned long long)(n_bytes >> 20));
    (void)matrices_place(m, from, a->block, a);
    return JOUST_OK;
}

static void matrix_place(joust_gpu_flow *f, const float *from, void *to, uint32_t rows, uint32_t k,
                         uint32_t ld)
{
    const joust_gpu_place_args args = {
        .from = from, .to = to, .k = k, .ld = ld, .n = (uint64_t)rows * ld};
    joust_gpu_flow_run_of(f, JOUST_GPU_place_f32, blocks_of(args.n), 1, &args);
}

void joust_gpu_adapter_place(joust_gpu_flow *f, const joust_gpu_adapter *to, const float *weights)
{
    for (uint32_t i = 0; i < n_products(f->m); i++) {
        const joust_gpu_adapter_product *p = &to->products[i];
        if (p->n_parts)
            matrix_place(f, weights + p->at, p->a, p->low, p->in, p->in_ld);
        for (uint32_t k = 0; k < p->n_parts; k++)
            matrix_place(f, weights + p->parts[k].at, p->parts[k].b, p->parts[k].n, to->rank,
                         to->rank_ld);
    }
}

static joust_status adapter_upload(joust_device_model *m, const joust_device_adapter *from,
                                   joust_error *err)
{
    joust_gpu *g = m->device->gpu;
    const uint64_t n_bytes = from->n_weights * sizeof(float);
    void *staging = NULL;
    joust_gpu_flow f = {.m = m, .g = g, .bf16 = g->precision == JOUST_PRECISION_BF16, .err = err};
    f.status = adapter_make(m, from, err);
    if (!f.status)
        f.status = g->alloc(g, n_bytes, &staging, err);
    if (!f.status)
        f.status = g->put(g, staging, from->weights, n_bytes, err);
    if (!f.status)
        joust_gpu_adapter_place(&f, m->adapter, staging);
    g->free(g, staging);
    return f.status;
}

joust_status joust_gpu_adapter_put(joust_device_model *m, const joust_device_adapter *from,
                                   joust_error *err)
{
    joust_gpu_work_free(m); /* its room and its records are for the adapter that was there */
    joust_gpu_adapter_free(m);
    joust_status st = from ? adapter_upload(m, from, err) : JOUST_OK;
    if (st)
        joust_gpu_adapter_free(m);
    return st;
}

/* ---- the forward pass ------------------------------------------------------------------------ */

uint32_t joust_gpu_adapter_low_stores(const joust_gpu_adapter_product *p,
                                      const joust_gpu_adapter *a)
{
    return p->n_parts * a->rank_ld;
}

void joust_gpu_low(joust_gpu_flow *f, const float *from, uint32_t from_ld, float scale,
                   uint32_t n_parts, uint32_t k, uint32_t ld, void *to)
{
    const joust_gpu_low_args args = {.from = from,
                                     .to = to,
                                     .scale = scale,
                                     .rows = f->n,
                                     .k = k,
                                     .ld = ld,
                                     .from_ld = from_ld,
                                     .n = (uint64_t)n_parts * f->n * ld};
    joust_gpu_flow_run_of(f, JOUST_GPU_low_f32, blocks_of(args.n), 1, &args);
}

void joust_gpu_adapt(joust_gpu_flow *f, uint32_t layer, joust_gpu_product which, const void *x,
                     const joust_gpu_rows *rows, float *y, uint32_t y_ld)
{
    const joust_gpu_adapter *a = f->adapter;
    const joust_gpu_adapter_product *p =
        a ? &a->products[layer * JOUST_DEVICE_PRODUCTS + which] : NULL;
    const uint64_t part_bytes = a ? (uint64_t)f->n * a->rank_ld * f->m->w.store_bytes : 0;
    if (!p || p->n_parts == 0)
        return;
    joust_gpu_flow_multiply(f, x, p->a, rows->low_sums, f->n, p->low, p->in, p->in_ld, false);
    joust_gpu_low(f, rows->low_sums, p->low, a->scale, p->n_parts, a->rank, a->rank_ld,
                  rows->low[which]);
    for (uint32_t i = 0; i < p->n_parts; i++)
        joust_gpu_flow_multiply_into(f, (unsigned char *)rows->low[which] + i * part_bytes,
                                     p->parts[i].b, y + p->parts[i].first, y_ld, f->n,
                                     p->parts[i].n, a->rank, a->rank_ld, true);
}
