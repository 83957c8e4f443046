/* A trainer whose weights, moments and gradients lie on a device: the same steps in the same order. The tree over rows keeps one
 * sum a level. */
#include <math.h> /* sqrt */

#include "optimizer_internal.h"
#include "proto/base/alloc.h"
#include "trainer_internal.h"
#include "worker/engine/device.h"

joust_status joust_trainer_device_open(joust_trainer *t, joust_error *err)
{
    joust_status st = joust_model_trainer_create(t->engine, t->model, &t->on_device, err);
    return st == JOUST_NOMEM
               ? joust_blame(err, st,
                             "training on a GPU: %llu parameters as float32 with two moments don't "
                             "fit: use a larger GPU, or --device cpu",
                             (unsigned long long)t->trained.n)
               : st;
}

void joust_trainer_device_close(joust_trainer *t)
{
    if (t->on_device)
        t->engine->api->trainer_free(&t->on_device);
}

/* ---- the gradient ---------------------------------------------------------------------------- */

/* Sum number `sum` = the sum of rows first .. first + size - 1, size a power of two; those after it are scratch. */
static joust_status tree_sum(joust_trainer *t, const joust_device_rows *rows, uint32_t first,
                             uint32_t size, uint32_t sum, joust_error *err)
{
    if (size == 1) {
        joust_status st = rows->loss(rows->context, first, err);
        return st ? st : joust_tape_backward_device(t->tapes[0], sum, err);
    }
    const uint32_t half = size / 2;
    joust_status st = tree_sum(t, rows, first, half, sum, err);
    if (st || first + half >= rows->n)
        return st;
    st = tree_sum(t, rows, first + half, half, sum + 1, err);
    return st ? st : t->engine->api->sums_add(t->on_device, sum, sum + 1, err);
}

joust_status joust_trainer_device_gradient(joust_trainer *t, const joust_device_rows *rows,
                                           joust_error *err)
{
    const joust_device_api *api = t->engine->api;
    uint32_t depth = 0;
    while ((UINT64_C(1) << depth) < rows->n)
        depth++;
    joust_status st = api->sums_reserve(t->on_device, depth + 1, err);
    if (st == JOUST_NOMEM) {
        joust_engine_cache_drop(t->engine);
        st = api->sums_reserve(t->on_device, depth + 1, err);
    }
    if (st == JOUST_NOMEM)
        return joust_blame(err, st,
                           "training on a GPU: %u gradients of %llu parameters don't fit: lower "
                           "batch_size, or use a larger GPU",
                           depth + 1, (unsigned long long)t->trained.n);
    return st ? st : tree_sum(t, rows, 0, 1u << depth, 0, err);
}

joust_status joust_trainer_device_norm(joust_trainer *t, double *ret, joust_error *err)
{
    double squares = 0;
    joust_status st = t->engine->api->squares(t->on_device, &squares, err);
    if (!st)
        *ret = sqrt(squares);
    return st;
}

/* ---- the update ------------------------------------------------------------------------------ */

/* Tensors in the order of the block, neighbours of a kind as one. */
static uint32_t ranges_of(const joust_trained *trained, joust_device_range *ret)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < trained->n_tensors; i++) {
        const joust_tensor *tensor = &trained->tensors[i];
        const uint64_t first = (uint64_t)(tensor->data - trained->weights);
        joust_device_range *last = n ? &ret[n - 1] : NULL;
        if (last && last->first + last->n == first && last->decays == (tensor->n_dims == 2))
            last->n += tensor->n;
        else
            ret[n++] = (joust_device_range){first, tensor->n, tensor->n_dims == 2};
    }
    return n;
}

joust_status joust_trainer_device_update(joust_trainer *t, double learning_rate, double scale,
                                         joust_error *err)
{
    const joust_adam adam = joust_adam_of_step(&t->params, t->n_steps, learning_rate, scale);
    joust_device_range *ranges = joust_calloc(t->trained.n_tensors, sizeof(*ranges));
    if (!ranges)
        return joust_fail(err, JOUST_NOMEM, "training step: out of memory");
    const joust_device_update update = {.beta1 = adam.beta1,
                                        .beta2 = adam.beta2,
                                        .eps = adam.eps,
                                        .step_size = adam.step_size,
                                        .correction = adam.correction,
                                        .decay = adam.decay,
                                        .scale = adam.scale,
                                        .ranges = ranges,
                                        .n_ranges = ranges_of(&t->trained, ranges)};
    joust_status st = t->engine->api->update(t->on_device, &update, err);
    joust_free(ranges);
    joust_model_trained_on_device(t->model);
    return st;
}

joust_status joust_trainer_finish(joust_trainer *t, joust_error *err)
{
    if (!t->on_device || !t->model->host_is_stale)
        return JOUST_OK;
    joust_status st = t->engine->api->block_get(t->on_device, JOUST_DEVICE_WEIGHTS, 0, t->trained.n,
                                                t->trained.weights, err);
    if (!st)
        t->model->host_is_stale = false;
    return st;
}
