/* A tape on a device: which logits a loss asks about is said before the forward pass, what it wants of their gradient is
 * listed, and both go to the device as one micro-batch. Losses are the CPU's. */
#include <math.h> /* NAN */

#include "proto/base/alloc.h"
#include "proto/base/log.h"
#include "proto/base/math.h"
#include "tape_internal.h"
#include "worker/engine/device.h"
#include "worker/engine/sampler_internal.h"

struct joust_tape_device {
    joust_engine *engine;
    joust_device_trainer *trainer;
    joust_device_pick *asks, *picks; /* as asked; by wanted row */
    uint32_t *first_pick;            /* (n_wanted + 1) */
    float *sums;                     /* (n_wanted, 2): maximum, log of the sum */
    double *entropies;
    joust_device_slope *slopes, *sorted;
    size_t ask_room, slope_room;
    uint32_t n_asks, n_slopes;
    bool has_entropies;
    joust_status status; /* what couldn't be listed */
    joust_error error;
};

typedef struct joust_tape_device on_device;

/* ---- life ------------------------------------------------------------------------------------ */

joust_status joust_tape_create_device(joust_engine *engine, const joust_model *m,
                                      joust_device_trainer *trainer, bool recompute,
                                      joust_tape **ret, joust_error *err)
{
    joust_tape *t = joust_calloc(1, sizeof(*t));
    on_device *d = joust_calloc(1, sizeof(*d));
    if (!t || !d) {
        joust_free(t);
        joust_free(d);
        return joust_fail(err, JOUST_NOMEM, "training: out of memory");
    }
    *d = (on_device){.engine = engine, .trainer = trainer};
    t->device = d;
    t->recompute = recompute;
    t->forward.model = m;
    *ret = t;
    return JOUST_OK;
}

/* What is laid out for one forward pass. */
static void lists_free(on_device *d)
{
    joust_free(d->picks);
    joust_free(d->first_pick);
    joust_free(d->sums);
    joust_free(d->entropies);
    joust_free(d->sorted);
    d->picks = NULL;
    d->first_pick = NULL;
    d->sums = NULL;
    d->entropies = NULL;
    d->sorted = NULL;
}

void joust_tape_device_free(joust_tape *t)
{
    on_device *d = t->device;
    t->device = NULL;
    if (!d)
        return;
    lists_free(d);
    joust_free(d->asks);
    joust_free(d->slopes);
    joust_free(d);
}

joust_status joust_tape_device_begin(joust_tape *t, joust_error *err)
{
    on_device *d = t->device;
    (void)err;
    d->n_asks = d->n_slopes = 0;
    d->has_entropies = false;
    d->status = JOUST_OK;
    return JOUST_OK;
}

/* ---- the forward pass ------------------------------------------------------------------------ */

joust_status joust_tape_device_ask(joust_tape *t, uint32_t i, uint32_t token, joust_error *err)
{
    on_device *d = t->device;
    if (!joust_grow(&d->asks, d->n_asks, &d->ask_room, sizeof(*d->asks)))
        return joust_fail(err, JOUST_NOMEM, "training: no memory for %u log-probabilities",
                          d->n_asks);
    d->asks[d->n_asks++] = (joust_device_pick){.wanted = i, .token = token};
    return JOUST_OK;
}

/* Asks by wanted row, those of a row in their order. */
static joust_status asks_sort(joust_tape *t, joust_error *err)
{
    on_device *d = t->device;
    lists_free(d);
    d->picks = joust_calloc(d->n_asks ? d->n_asks : 1, sizeof(*d->picks));
    d->first_pick = joust_calloc((size_t)t->n_wanted + 2, sizeof(*d->first_pick));
    d->sums = joust_calloc(2 * (size_t)t->n_wanted, sizeof(*d->sums));
    d->entropies = joust_calloc(t->n_wanted, sizeof(*d->entropies));
    if (!d->picks || !d->first_pick || !d->sums || !d->entropies)
        return joust_fail(err, JOUST_NOMEM, "training: no memory for %u log-probabilities",
                          d->n_asks);
    uint32_t *next =
        d->first_pick + 1; /* moves to the end of its row, where the next one's begin */
    for (uint32_t i = 0; i < d->n_asks; i++)
        next[d->asks[i].wanted + 1]++;
    for (uint32_t i = 0; i < t->n_wanted; i++)
        next[i + 1] += next[i];
    for (uint32_t i = 0; i < d->n_asks; i++)
        d->picks[next[d->asks[i].wanted]++] = d->asks[i];
    return JOUST_OK;
}

static joust_device_micro micro_of(const joust_tape *t)
{
    const on_device *d = t->device;
    joust_device_micro micro = {.wanted = t->wanted,
                                .n_wanted = t->n_wanted,
                                .picks = d->picks,
                                .n_picks = d->n_asks,
                                .ret_sums = d->sums,
                                .recompute = t->recompute};
    for (uint32_t i = 0; i < JOUST_DEVICE_PARTS; i++) {
        micro.tokens[i] = t->parts[i].tokens;
        micro.n[i] = t->parts[i].n;
    }
    return micro;
}

/* Where memory runs out: without the kept prefixes, then without kept activations. Neither changes a bit. */
static joust_status forward_fit(joust_tape *t, joust_error *err)
{
    const on_device *d = t->device;
    const joust_device_api *api = d->engine->api;
    joust_device_micro micro = micro_of(t);
    joust_status st = api->train_forward(d->trainer, &micro, err);
    if (st == JOUST_NOMEM) {
        joust_engine_cache_drop(d->engine);
        st = api->train_forward(d->trainer, &micro, err);
    }
    if (st == JOUST_NOMEM && !t->recompute) {
        joust_log_warn("engine",
                       "GPU memory: activations of %u tokens don't fit: they are computed again",
                       t->n_rows);
        micro.recompute = t->recompute = true;
        st = api->train_forward(d->trainer, &micro, err);
    }
    return st == JOUST_NOMEM
               ? joust_blame(
                     err, st,
                     "training on a GPU: a row of %u tokens doesn't fit, even with gradient "
                     "checkpointing: shorten the answers, lower batch_size (a gradient of all "
                     "weights each time that it doubles), or use a larger GPU",
                     t->n_rows)
               : st;
}

joust_status joust_tape_device_forward(joust_tape *t, joust_error *err)
{
    on_device *d = t->device;
    joust_status st = asks_sort(t, err);
    if (!st)
        st = forward_fit(t, err);
    for (uint32_t i = 0; i < t->n_wanted && !st; i++) {
        d->sums[2 * i + 1] = (float)joust_log((double)d->sums[2 * i + 1]);
        if (!t->forward.model->config.scalar_head)
            st = joust_log_sum_check((joust_log_sum){d->sums[2 * i], d->sums[2 * i + 1]}, err);
    }
    return st;
}

float joust_tape_device_logit(const joust_tape *t, uint32_t i, uint32_t token)
{
    const on_device *d = t->device;
    for (uint32_t k = d->first_pick[i]; k < d->first_pick[i + 1]; k++)
        if (d->picks[k].token == token)
            return d->picks[k].x;
    return NAN; /* nobody asked for it */
}

float joust_tape_device_logp(const joust_tape *t, uint32_t i, uint32_t token)
{
    const on_device *d = t->device;
    return (joust_tape_device_logit(t, i, token) - d->sums[2 * i]) - d->sums[2 * i + 1];
}

/* ---- the backward pass ----------------------------------------------------------------------- */

static void slope_add(on_device *d, const joust_device_slope *slope)
{
    if (d->status)
        return;
    if (!joust_grow(&d->slopes, d->n_slopes, &d->slope_room, sizeof(*d->slopes)))
        d->status =
            joust_fail(&d->error, JOUST_NOMEM, "training: no memory for %u slopes", d->n_slopes);
    else
        d->slopes[d->n_slopes++] = *slope;
}

void joust_tape_device_pull(joust_tape *t, uint32_t i, uint32_t token, float factor, bool of_logp)
{
    slope_add(t->device, &(joust_device_slope){.wanted = i,
                                               .kind = of_logp ? JOUST_DEVICE_SLOPE_LOGP
                                                               : JOUST_DEVICE_SLOPE_LOGIT,
                                               .token = token,
                                               .factor = factor});
}

/* All rows' at the first call. */
joust_status joust_tape_device_entropy(joust_tape *t, uint32_t i, double factor, double *ret,
                                       joust_error *err)
{
    on_device *d = t->device;
    if (!d->has_entropies) {
        const joust_device_micro micro = micro_of(t);
        joust_status st =
            d->engine->api->train_entropies(d->trainer, &micro, d->sums, d->entropies, err);
        if (st)
            return st;
        d->has_entropies = true;
    }
    slope_add(d, &(joust_device_slope){.wanted = i,
                                       .kind = JOUST_DEVICE_SLOPE_ENTROPY,
                                       .factor = (float)factor,
                                       .entropy = (float)d->entropies[i]});
    *ret = d->entropies[i];
    return JOUST_OK;
}

/* Slopes by wanted row, those of a row in their order. */
static joust_status slopes_sort(joust_tape *t, joust_error *err)
{
    on_device *d = t->device;
    uint32_t *next = joust_calloc((size_t)t->n_wanted + 1, sizeof(*next));
    joust_free(d->sorted);
    d->sorted = joust_calloc(d->n_slopes ? d->n_slopes : 1, sizeof(*d->sorted));
    if (!next || !d->sorted) {
        joust_free(next);
        return joust_fail(err, JOUST_NOMEM, "training: no memory for %u slopes", d->n_slopes);
    }
    for (uint32_t i = 0; i < d->n_slopes; i++)
        next[d->slopes[i].wanted + 1]++;
    for (uint32_t i = 0; i < t->n_wanted; i++)
        next[i + 1] += next[i];
    for (uint32_t i = 0; i < d->n_slopes; i++)
        d->sorted[next[d->slopes[i].wanted]++] = d->slopes[i];
    joust_free(next);
    return JOUST_OK;
}

joust_status joust_tape_backward_device(joust_tape *t, uint32_t sum, joust_error *err)
{
    const on_device *d = t->device;
    const joust_device_micro micro = micro_of(t);
    if (d->status) {
        if (err)
            *err = d->error;
        return d->status;
    }
    joust_status st = slopes_sort(t, err);
    return st ? st
              : d->engine->api->train_backward(d->trainer, &micro, d->sums, d->sorted, d->n_slopes,
                                               sum, err);
}
