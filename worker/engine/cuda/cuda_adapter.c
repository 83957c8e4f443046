#include "cuda_adapter_internal.h"

#include "cuda_layout_internal.h"
#include "proto/base/alloc.h"

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

/* Into the model, with what its matrices hold undefined. */
static joust_status adapter_make(joust_device_model *m, const joust_device_adapter *from,
                                 joust_error *err)
{
    joust_gpu *g = m->device->gpu;
    joust_gpu_layout l = {0};
    joust_gpu_adapter *a = joust_calloc(1, sizeof(*a));
    if (!a)
        return joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    m->adapter = a;
    a->n_weights = from->n_weights;
    a->scale = from->scale;
    a->products = joust_calloc(n_products(m), sizeof(*a->products));
    if (!a->products)
        return joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    joust_gpu_adapter_layout(&l, &m->w, m->config.n_layers, from, a);
    joust_status st = g->alloc(g, l.n_bytes, &a->block, err);
    if (st)
        return joust_blame(err, st, "the adapter's %llu MiB of weights",
                           (unsigned long long)(l.n_bytes >> 20));
    l = (joust_gpu_layout){.block = a->block};
    joust_gpu_adapter_layout(&l, &m->w, m->config.n_layers, from, a);
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
