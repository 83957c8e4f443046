/* What lies on the device as long as a trainer does, and what goes over all of it: sums, norm, AdamW. Orders are the CPU's
 * (optimizer.c), so float32 has its bits. */
#include <string.h>

#include "cuda_adapter_internal.h"
#include "cuda_layout_internal.h"
#include "cuda_trainer_internal.h"
#include "proto/base/alloc.h"

#define BLOCK 256u /* elements that a block of threads takes */

static uint32_t blocks_of(uint64_t n, uint64_t each)
{
    return (uint32_t)((n + each - 1) / each);
}

/* ---- life ------------------------------------------------------------------------------------ */

void joust_gpu_trainer_free(joust_device_trainer **trainer)
{
    joust_device_trainer *t = *trainer;
    *trainer = NULL;
    if (!t)
        return;
    joust_gpu *g = t->m->device->gpu;
    joust_gpu_tape_free(t);
    for (uint32_t i = 0; i < t->n_sums; i++)
        g->free(g, t->sums[i]);
    g->free(g, t->squares);
    g->free(g, t->weights);
    g->free(g, t->moments[0]);
    g->free(g, t->moments[1]);
    joust_gpu_model_free(&t->m);
    joust_free(t->at);
    joust_free(t);
}

static joust_status floats_make(joust_device_trainer *t, uint64_t n, const char *what, float **ret,
                                joust_error *err)
{
    joust_gpu *g = t->m->device->gpu;
    void *block = NULL;
    joust_status st = g->alloc(g, n * sizeof(float), &block, err);
    *ret = block;
    return st ? joust_blame(err, st, "training: %s, %llu MiB", what,
                            (unsigned long long)(n * sizeof(float) >> 20))
              : JOUST_OK;
}

static void fill(joust_gpu_flow *f, float *to, uint64_t n)
{
    const joust_gpu_add_args args = {.to = to, .n = n};
    joust_gpu_flow_run(f, JOUST_GPU_fill, blocks_of(n, BLOCK), 1, &args);
}

static joust_status blocks_make(joust_device_trainer *t, const float *weights, joust_error *err)
{
    joust_gpu *g = t->m->device->gpu;
    joust_status st = floats_make(t, t->n_weights, "master weights", &t->weights, err);
    for (uint32_t i = 0; i < 2 && !st; i++)
        st = floats_make(t, t->n_weights, "moments", &t->moments[i], err);
    if (!st)
        st = g->put(g, t->weights, weights, t->n_weights * sizeof(float), err);
    joust_gpu_flow f = joust_gpu_tape_flow(t, 0, err);
    f.status = st;
    fill(&f, t->moments[0], t->n_weights);
    fill(&f, t->moments[1], t->n_weights);
    return f.status;
}

joust_status joust_gpu_trainer_create(joust_device_model *m, const joust_device_weights *from,
                                      uint64_t n_weights, const joust_device_adapter *adapter,
                                      joust_device_trainer **ret, joust_error *err)
{
    joust_device_trainer *t = joust_calloc(1, sizeof(*t));
    if (!t)
        return joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    t->m = m;
    m->refs++;
    t->adapter = adapter ? m->adapter : NULL;
    t->n_weights = adapter ? adapter->n_weights : n_weights;
    t->embedding = from->embedding;
    t->norm = from->norm;
    t->head = from->head;
    t->at = joust_memdup(from->layers, m->config.n_layers * sizeof(*from->layers));
    joust_status st = t->at ? blocks_make(t, adapter ? adapter->weights : from->weights, err)
                            : joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    if (st) {
        joust_gpu_trainer_free(&t);
        return st;
    }
    *ret = t;
    return JOUST_OK;
}

/* ---- sums ------------------------------------------------------------------------------------ */

joust_status joust_gpu_sums_reserve(joust_device_trainer *t, uint32_t n, joust_error *err)
{
    joust_status st = JOUST_OK;
    if (n > JOUST_GPU_SUMS)
        return joust_fail(err, JOUST_BUG, "GPU: %u gradients, at most %u", n, JOUST_GPU_SUMS);
    while (t->n_sums < n && !st) {
        st = floats_make(t, t->n_weights, "a gradient", &t->sums[t->n_sums], err);
        t->n_sums += st == JOUST_OK;
    }
    return st;
}

joust_status joust_gpu_sums_add(joust_device_trainer *t, uint32_t to, uint32_t from,
                                joust_error *err)
{
    if (to >= t->n_sums || from >= t->n_sums)
        return joust_fail(err, JOUST_BUG, "GPU: no gradient number %u or %u", to, from);
    joust_gpu_flow f = joust_gpu_tape_flow(t, 0, err);
    const joust_gpu_add_args args = {.to = t->sums[to], .from = t->sums[from], .n = t->n_weights};
    joust_gpu_flow_run(&f, JOUST_GPU_add, blocks_of(t->n_weights, BLOCK), 1, &args);
    return f.status;
}

joust_status joust_gpu_squares(joust_device_trainer *t, double *ret, joust_error *err)
{
    joust_gpu *g = t->m->device->gpu;
    const uint32_t n = blocks_of(t->n_weights, JOUST_GPU_SQUARES);
    double *sums = joust_calloc(n, sizeof(*sums)), sum = 0;
    joust_status st =
        sums ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "gradient norm: out of memory");
    void *block = t->squares;
    if (!st && !block)
        st = g->alloc(g, n * sizeof(*sums), &block, err);
    t->squares = block;
    joust_gpu_flow f = joust_gpu_tape_flow(t, 0, err);
    f.status = st;
    const joust_gpu_squares_args args = {.x = t->sums[0], .sums = t->squares, .n = t->n_weights};
    joust_gpu_flow_run(&f, JOUST_GPU_squares, blocks_of(n, 32), 1, &args);
    st = f.status;
    if (!st)
        st = g->get(g, sums, t->squares, n * sizeof(*sums), err);
    for (uint32_t i = 0; i < n && !st; i++)
        sum += sums[i];
    joust_free(sums);
    if (!st)
        *ret = sum;
    return st;
}

/* ---- the model's copy ------------------------------------------------------------------------ */

static void place(joust_gpu_flow *f, const float *from, void *to, uint32_t rows, uint32_t k,
                  uint32_t ld)
{
    const joust_gpu_place_args args = {
        .from = from, .to = to, .k = k, .ld = ld, .n = (uint64_t)rows * ld};
    joust_gpu_flow_run_of(f, JOUST_GPU_place_f32, blocks_of(args.n, BLOCK), 1, &args);
}

/* Nothing where the model has no such vector. */
static void place_floats(joust_gpu_flow *f, const float *from, float *to, uint64_t n)
{
    if (to)
        joust_gpu_flow_copy(f, to, from, n * sizeof(float));
}

static void layer_refresh(joust_gpu_flow *f, const joust_device_trainer *t, uint32_t layer)
{
    joust_gpu_part parts[JOUST_GPU_LAYER_PARTS];
    joust_gpu_layer_parts(&t->at[layer], &t->m->layers[layer], &t->m->w, t->m->config.d_head,
                          parts);
    for (uint32_t i = 0; i < JOUST_GPU_LAYER_PARTS; i++) {
        const joust_gpu_part *p = &parts[i];
        if (p->ld)
            place(f, t->weights + p->from, p->to, p->rows, p->k, p->ld);
        else
            place_floats(f, t->weights + p->from, p->to, p->k);
    }
}

joust_status joust_gpu_refresh(joust_device_trainer *t, joust_error *err)
{
    const joust_gpu_widths *w = &t->m->w;
    joust_gpu_flow f = joust_gpu_tape_flow(t, 0, err);
    if (t->adapter) {
        joust_gpu_adapter_place(&f, t->adapter, t->weights);
        return f.status;
    }
    place(&f, t->weights + t->embedding, t->m->ends.embedding, w->vocab, w->d, w->d_ld);
    for (uint32_t i = 0; i < t->m->config.n_layers; i++)
        layer_refresh(&f, t, i);
    place_floats(&f, t->weights + t->norm, t->m->ends.norm, w->d);
    if (t->m->ends.head != t->m->ends.embedding)
        place(&f, t->weights + t->head, t->m->ends.head, w->n_out, w->d, w->d_ld);
    return f.status;
}

joust_status joust_gpu_update(joust_device_trainer *t, const joust_device_update *u,
                              joust_error *err)
{
    joust_gpu_flow f = joust_gpu_tape_flow(t, 0, err);
    for (uint32_t i = 0; i < u->n_ranges; i++) {
        const joust_device_range *r = &u->ranges[i];
        const joust_gpu_adam_args args = {.gradient = t->sums[0] + r->first,
                                          .m = t->moments[0] + r->first,
                                          .v = t->moments[1] + r->first,
                                          .w = t->weights + r->first,
                                          .n = r->n,
                                          .beta1 = u->beta1,
                                          .beta2 = u->beta2,
                                          .eps = u->eps,
                                          .step_size = u->step_size,
                                          .correction = u->correction,
                                          .decay = r->decays ? u->decay : 1.0f,
                                          .scale = u->scale};
        joust_gpu_flow_run(&f, JOUST_GPU_adam, blocks_of(r->n, BLOCK), 1, &args);
    }
    return f.status ? f.status : joust_gpu_refresh(t, err);
}

/* ---- to and from the host -------------------------------------------------------------------- */

static float *block_of(const joust_device_trainer *t, joust_device_block block)
{
    switch (block) {
    case JOUST_DEVICE_WEIGHTS:
        return t->weights;
    case JOUST_DEVICE_MOMENT_1:
        return t->moments[0];
    case JOUST_DEVICE_MOMENT_2:
        return t->moments[1];
    case JOUST_DEVICE_GRADIENT:
        return t->sums[0];
    }
    return NULL;
}

joust_status joust_gpu_block_get(joust_device_trainer *t, joust_device_block block, uint64_t first,
                                 uint64_t n, float *to, joust_error *err)
{
    joust_gpu *g = t->m->device->gpu;
    return g->get(g, to, block_of(t, block) + first, n * sizeof(float), err);
}

joust_status joust_gpu_block_put(joust_device_trainer *t, joust_device_block block, uint64_t first,
                                 uint64_t n, const float *from, joust_error *err)
{
    joust_gpu *g = t->m->device->gpu;
    return g->put(g, block_of(t, block) + first, from, n * sizeof(float), err);
}
