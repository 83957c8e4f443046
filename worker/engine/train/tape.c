#include "tape_internal.h"

#include <assert.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/math.h"
#include "worker/engine/sampler_internal.h"

/* ---- memory ---------------------------------------------------------------------------------- */

typedef struct tape_part_place {
    float **place;
    size_t ld;
} place;

/* One zeroed block for n rows of every place. Rows stay zero past their width: nothing ever writes
 * there. */
static joust_status places_make(float **block, const place *places, size_t n_places, uint32_t n,
                                joust_error *err)
{
    size_t size = 0;
    for (size_t i = 0; i < n_places; i++)
        size += joust_lanes_up((uint32_t)places[i].ld) * (size_t)n;
    joust_free_aligned(*block);
    *block = joust_calloc_aligned(size + JOUST_LANES, sizeof(float)); /* read in whole lanes */
    if (!*block)
        return joust_fail(err, JOUST_NOMEM, "training: no memory for the activations of %u tokens",
                          n);
    float *at = *block;
    for (size_t i = 0; i < n_places; i++) {
        *places[i].place = at;
        at += joust_lanes_up((uint32_t)places[i].ld) * (size_t)n;
    }
    return JOUST_OK;
}

#define LAYER_PLACES  17u
#define SHARED_PLACES 8u

/* A layer's activations. Where they are computed again, all layers but the first keep no more than what they began with. */
static void layer_places(joust_tape *t, uint32_t layer, const uint32_t low[JOUST_N_PRODUCTS],
                         place to[LAYER_PLACES])
{
    const joust_model_config *c = &t->forward.model->config;
    const joust_widths w = t->forward.w;
    const bool normed = joust_config_has_qk_norm(c);
    joust_activations *a = &t->layers[layer];
    const place all[LAYER_PLACES] = {{&a->x, w.d_ld},
                                     {&a->normed, w.d_ld},
                                     {&a->qkv, w.qkv_ld},
                                     {&a->mixed, w.query_ld},
                                     {&a->x_mid, w.d_ld},
                                     {&a->normed_ff, w.d_ld},
                                     {&a->gate_up, w.gate_up_ld},
                                     {&a->hidden, w.ff_ld},
                                     {&a->norm_r, 1},
                                     {&a->norm_ff_r, 1},
                                     {&a->stats, 2 * c->n_heads},
                                     {&a->low[0], low[0]},
                                     {&a->low[1], low[1]},
                                     {&a->low[2], low[2]},
                                     {&a->low[3], low[3]},
                                     {&a->qk, normed ? w.qk_ld : 0},
                                     {&a->qk_r, normed ? c->n_heads + c->n_kv_heads : 0}};
    memcpy(to, all, sizeof(all));
    for (uint32_t i = 1; i < LAYER_PLACES && t->recompute && layer > 0; i++)
        to[i].ld = 0;
}

/* Layers share what isn't kept, and each ends where the next begins. */
static void layers_join(joust_tape *t, float *x_last)
{
    const uint32_t n = t->forward.model->config.n_layers;
    for (uint32_t i = 1; i < n && t->recompute; i++) {
        float *x = t->layers[i].x;
        t->layers[i] = t->layers[0];
        t->layers[i].x = x;
    }
    for (uint32_t i = 0; i < n; i++)
        t->layers[i].x_out = i + 1 < n ? t->layers[i + 1].x : x_last;
}

/* The lists of rows and of wanted ones. */
static joust_status lists_reserve(joust_tape *t, uint32_t n, joust_error *err)
{
    if (n <= t->row_room)
        return JOUST_OK;
    joust_free(t->rows);
    joust_free(t->wanted);
    t->row_room = 0;
    t->rows = joust_calloc(n, sizeof(*t->rows));
    t->wanted = joust_calloc(n, sizeof(*t->wanted));
    if (!t->rows || !t->wanted)
        return joust_fail(err, JOUST_NOMEM, "training: no memory for %u tokens", n);
    t->row_room = n;
    return JOUST_OK;
}

static joust_status rows_reserve(joust_tape *t, uint32_t n, joust_error *err)
{
    if (n <= t->row_room)
        return JOUST_OK;
    const joust_model_config *c = &t->forward.model->config;
    const joust_widths w = t->forward.w;
    const uint32_t n_places = LAYER_PLACES * c->n_layers + SHARED_PLACES;
    uint32_t low[JOUST_N_PRODUCTS] = {0}, d_low = 0;
    if (t->forward.model->lora)
        joust_lora_widths(c, &t->forward.model->lora->settings, low);
    for (uint32_t i = 0; i < JOUST_N_PRODUCTS; i++)
        d_low = low[i] > d_low ? low[i] : d_low;
    joust_status st = lists_reserve(t, n, err);
    if (st)
        return st;
    t->row_room = t->wanted_room = 0;
    place *places = joust_calloc(n_places, sizeof(*places));
    if (!places)
        return joust_fail(err, JOUST_NOMEM, "training: no memory for %u tokens", n);
    float *x_last = NULL;
    for (uint32_t i = 0; i < c->n_layers; i++)
        layer_places(t, i, low, places + i * LAYER_PLACES);
    const place shared[SHARED_PLACES] = {{&x_last, w.d_ld},         {&t->dx, w.d_ld},
                                         {&t->d_normed, w.d_ld},    {&t->d_qkv, w.qkv_ld},
                                         {&t->d_mixed, w.query_ld}, {&t->d_gate_up, w.gate_up_ld},
                                         {&t->d_hidden, w.ff_ld},   {&t->d_low, d_low}};
    memcpy(places + c->n_layers * LAYER_PLACES, shared, sizeof(shared));
    st = places_make(&t->row_block, places, n_places, n, err);
    if (!st) {
        layers_join(t, x_last);
        t->row_room = n;
    }
    joust_free(places);
    return st;
}

static joust_status wanted_reserve(joust_tape *t, uint32_t n, joust_error *err)
{
    if (n <= t->wanted_room)
        return JOUST_OK;
    const joust_widths w = t->forward.w;
    const place places[] = {{&t->x_wanted, w.d_ld},     {&t->normed, w.d_ld},
                            {&t->d_head, w.d_ld},       {&t->logits, w.vocab_ld},
                            {&t->d_logits, w.vocab_ld}, {&t->norm_r, 1}};
    t->wanted_room = 0;
    joust_free(t->sums);
    t->sums = joust_calloc(n, sizeof(*t->sums));
    if (!t->sums)
        return joust_fail(err, JOUST_NOMEM, "training: no memory for the logits of %u tokens", n);
    joust_status st =
        places_make(&t->wanted_block, places, sizeof(places) / sizeof(*places), n, err);
    if (!st)
        t->wanted_room = n;
    return st;
}

static void keys_free(joust_tape_keys *k)
{
    joust_kv_fini(&k->kv);
    joust_free_aligned(k->values);
    *k = (joust_tape_keys){0};
}

static joust_status keys_reserve(joust_tape *t, uint32_t part, uint32_t n, joust_error *err)
{
    joust_tape_keys *k = &t->keys[part];
    const joust_model_config *c = &t->forward.model->config;
    if (n <= k->kv.capacity)
        return JOUST_OK;
    keys_free(k);
    joust_status st = joust_kv_init(&k->kv, t->forward.model, n, 1, err);
    if (st)
        return st;
    const size_t rows = (size_t)c->n_kv_heads * k->kv.capacity;
    const size_t lanes = rows * c->d_head, padded = rows * joust_lanes_up(c->d_head);
    k->values = joust_calloc_aligned(lanes + 3 * padded, sizeof(float));
    if (!k->values) {
        keys_free(k);
        return joust_fail(err, JOUST_NOMEM, "training: no memory for the keys of %u tokens", n);
    }
    k->key_rows = k->values + lanes;
    k->d_key_rows = k->key_rows + padded;
    k->d_value_rows = k->d_key_rows + padded;
    return JOUST_OK;
}

joust_status joust_tape_create(const joust_engine *engine, const joust_model *m, bool recompute,
                               joust_tape **ret, joust_error *err)
{
    joust_tape *t = joust_calloc(1, sizeof(*t));
    if (!t)
        return joust_fail(err, JOUST_NOMEM, "training: out of memory");
    t->recompute = recompute;
    joust_status st = joust_forward_init(&t->forward, engine, m, err);
    const uint32_t heads = m->config.n_heads * joust_lanes_up(m->config.d_head);
    const uint32_t scores = joust_lanes_up(m->config.context) + 2 * JOUST_LANES;
    const uint32_t sink =
        m->config.d_model > m->config.d_head ? m->config.d_model : m->config.d_head;
    const place places[] = {{&t->query, heads},   {&t->d_out, heads},
                            {&t->d_query, heads}, {&t->sink, m->lora ? sink : 0},
                            {&t->p, scores},      {&t->ds, scores}};
    if (!st)
        st = places_make(&t->head_block, places, sizeof(places) / sizeof(*places), 1, err);
    if (!st && !(t->layers = joust_calloc(m->config.n_layers, sizeof(*t->layers))))
        st = joust_fail(err, JOUST_NOMEM, "training: out of memory");
    if (st) {
        joust_tape_free(&t);
        return st;
    }
    *ret = t;
    return JOUST_OK;
}

void joust_tape_free(joust_tape **tape)
{
    joust_tape *t = *tape;
    *tape = NULL;
    if (!t)
        return;
    joust_tape_device_free(t);
    joust_forward_fini(&t->forward);
    for (uint32_t i = 0; i < JOUST_TAPE_PARTS; i++)
        keys_free(&t->keys[i]);
    joust_free(t->rows);
    joust_free(t->wanted);
    joust_free(t->layers);
    joust_free(t->sums);
    joust_free_aligned(t->row_block);
    joust_free_aligned(t->wanted_block);
    joust_free_aligned(t->head_block);
    joust_free(t);
}

/* ---- forward --------------------------------------------------------------------------------- */

joust_status joust_tape_begin(joust_tape *t, const joust_tape_part *parts, uint32_t n_parts,
                              joust_error *err)
{
    assert(n_parts >= 1 && n_parts <= JOUST_TAPE_PARTS);
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_parts; i++)
        n += parts[i].n;
    t->n_wanted = 0;
    joust_status st = t->device ? lists_reserve(t, n, err) : rows_reserve(t, n, err);
    for (uint32_t i = 0; i < n_parts && !st && !t->device; i++)
        st = keys_reserve(t, i, parts[i].n, err);
    if (st)
        return st;
    t->n_rows = 0;
    for (uint32_t i = 0; i < JOUST_TAPE_PARTS; i++) {
        t->parts[i] = i < n_parts ? parts[i] : (joust_tape_part){0};
        t->first_row[i] = t->n_rows;
        t->keys[i].kv.n = 0;
        for (uint32_t k = 0; k < t->parts[i].n; k++)
            t->rows[t->n_rows++] = (joust_row){.token = parts[i].tokens[k],
                                               .position = i ? t->parts[0].n + k : k,
                                               .prefix = i ? &t->keys[0].kv : NULL,
                                               .own = &t->keys[i].kv};
    }
    return t->device ? joust_tape_device_begin(t, err) : JOUST_OK;
}

uint32_t joust_tape_want(joust_tape *t, uint32_t row)
{
    if (t->n_wanted && t->wanted[t->n_wanted - 1] == row)
        return t->n_wanted - 1;
    assert(row < t->n_rows && (t->n_wanted == 0 || t->wanted[t->n_wanted - 1] < row));
    t->wanted[t->n_wanted] = row;
    return t->n_wanted++;
}

uint32_t joust_tape_find(const joust_tape *t, uint32_t row)
{
    uint32_t low = 0, high = t->n_wanted;
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        if (t->wanted[middle] <= row)
            low = middle;
        else
            high = middle;
    }
    assert(high > low && t->wanted[low] == row);
    return low;
}

joust_status joust_tape_ask(joust_tape *t, uint32_t i, uint32_t token, joust_error *err)
{
    return t->device ? joust_tape_device_ask(t, i, token, err) : JOUST_OK;
}

joust_status joust_tape_forward(joust_tape *t, joust_error *err)
{
    if (t->device)
        return joust_tape_device_forward(t, err);
    const joust_forward *f = &t->forward;
    const joust_model_config *c = &f->model->config;
    joust_status st = wanted_reserve(t, t->n_wanted, err);
    if (st)
        return st;
    joust_forward_embed(f, t->rows, t->n_rows, t->layers[0].x);
    for (uint32_t layer = 0; layer < c->n_layers; layer++)
        joust_forward_layer(f, layer, t->rows, t->n_rows, &t->layers[layer]);
    const float *x = t->layers[c->n_layers - 1].x_out;
    for (uint32_t i = 0; i < t->n_wanted; i++)
        memcpy(t->x_wanted + (size_t)i * f->w.d_ld, x + (size_t)t->wanted[i] * f->w.d_ld,
               f->w.d_ld * sizeof(float));
    joust_forward_head(f, t->x_wanted, t->n_wanted, t->normed, t->norm_r, t->logits);
    memset(t->d_logits, 0, (size_t)t->n_wanted * f->w.vocab_ld * sizeof(float));
    for (uint32_t i = 0; i < t->n_wanted && !st; i++) {
        t->sums[i] = f->kernels->log_sum(t->logits + (size_t)i * f->w.vocab_ld, f->model->n_out);
        st = joust_log_sum_check(t->sums[i], err);
    }
    return st;
}

/* ---- what a loss asks ------------------------------------------------------------------------ */

float joust_tape_logp(const joust_tape *t, uint32_t i, uint32_t token)
{
    return t->device ? joust_tape_device_logp(t, i, token)
                     : joust_logp(t->logits + (size_t)i * t->forward.w.vocab_ld, t->sums[i], token);
}

float joust_tape_logit(const joust_tape *t, uint32_t i, uint32_t token)
{
    return t->device ? joust_tape_device_logit(t, i, token)
                     : t->logits[(size_t)i * t->forward.w.vocab_ld + token];
}

void joust_tape_pull(joust_tape *t, uint32_t i, uint32_t token, float factor)
{
    if (t->device) {
        joust_tape_device_pull(t, i, token, factor, true);
        return;
    }
    const joust_forward *f = &t->forward;
    float *d = t->d_logits + (size_t)i * f->w.vocab_ld;
    f->kernels->softmax_add(t->logits + (size_t)i * f->w.vocab_ld, f->model->n_out, t->sums[i],
                            -factor, d);
    d[token] += factor;
}

void joust_tape_add(joust_tape *t, uint32_t i, uint32_t token, float factor)
{
    if (t->device)
        joust_tape_device_pull(t, i, token, factor, false);
    else
        t->d_logits[(size_t)i * t->forward.w.vocab_ld + token] += factor;
}

/* In double, in order of the vocabulary. */
joust_status joust_tape_entropy(joust_tape *t, uint32_t i, double factor, double *ret,
                                joust_error *err)
{
    if (t->device)
        return joust_tape_device_entropy(t, i, factor, ret, err);
    const size_t ld = t->forward.w.vocab_ld;
    const float *logits = t->logits + i * ld;
    float *d = t->d_logits + i * ld;
    const uint32_t n = t->forward.model->config.vocab_size;
    const double log_total = (double)t->sums[i].max + (double)t->sums[i].log_sum;
    double entropy = 0;
    for (uint32_t k = 0; k < n; k++) {
        const double logp = (double)logits[k] - log_total;
        entropy -= joust_exp(logp) * logp;
    }
    for (uint32_t k = 0; k < n; k++) {
        const double logp = (double)logits[k] - log_total;
        d[k] -= (float)(factor * joust_exp(logp) * (logp + entropy));
    }
    *ret = entropy;
    return JOUST_OK;
}
