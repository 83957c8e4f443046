/* The copies of a model's weights that the forward pass reads: matrices as panels, and the table
 * of angles. */
#include <string.h>

#include "engine_internal.h"
#include "model_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/math.h"

/* Panels that one thread packs at a time. */
#define PANELS_PER_ITEM 8u

static uint64_t pack_size(uint32_t n, uint32_t k)
{
    return (uint64_t)joust_lanes_up(n) * k;
}

/* A place for every matrix; all sizes are multiples of 64 bytes. Returns the elements needed. */
static uint64_t packs_lay_out(joust_model *m, float *block)
{
    const joust_model_config *c = &m->config;
    const joust_widths w = joust_model_widths(c);
    uint64_t at = 0;
    for (uint32_t i = 0; i <= c->n_layers; i++) {
        joust_layer_packs *p = i < c->n_layers ? &m->packs[i] : NULL;
        const struct {
            joust_pack *pack;
            uint32_t n, k;
        } matrices[] = {{p ? &p->qkv : &m->head_pack, p ? w.qkv : c->vocab_size, c->d_model},
                        {p ? &p->o : NULL, c->d_model, w.query},
                        {p ? &p->gate_up : NULL, 2 * c->d_ff, c->d_model},
                        {p ? &p->down : NULL, c->d_model, c->d_ff}};
        for (uint32_t k = 0; k < (p ? 4u : 1u); k++) {
            *matrices[k].pack =
                (joust_pack){block ? block + at : NULL, matrices[k].n, matrices[k].k};
            at += pack_size(matrices[k].n, matrices[k].k);
        }
    }
    return at;
}

static void pack_panels(const float *from, const joust_pack *pack, uint32_t first, uint32_t end)
{
    for (uint32_t panel = first; panel < end; panel++) {
        float *to = pack->data + (size_t)panel * JOUST_LANES * pack->k;
        uint32_t row = panel * JOUST_LANES;
        uint32_t n = pack->n - row < JOUST_LANES ? pack->n - row : JOUST_LANES;
        for (uint32_t lane = 0; lane < n; lane++) {
            const float *w = from + (size_t)(row + lane) * pack->k;
            for (uint32_t k = 0; k < pack->k; k++)
                to[(size_t)k * JOUST_LANES + lane] = w[k];
        }
    }
}

/* Matrix number i of the model, and where its weights lie. */
static const joust_pack *pack_of(const joust_model *m, uint64_t i, const float **ret_from)
{
    const uint64_t layer = i / 4;
    if (layer == m->config.n_layers) {
        *ret_from = m->weights + m->head;
        return &m->head_pack;
    }
    const joust_layer_packs *p = &m->packs[layer];
    const joust_layer_offsets *at = &m->offsets[layer];
    const joust_pack *packs[] = {&p->qkv, &p->o, &p->gate_up, &p->down};
    const uint64_t offsets[] = {at->qkv, at->o, at->gate_up, at->down};
    *ret_from = m->weights + offsets[i % 4];
    return packs[i % 4];
}

static void pack_item(void *context, uint64_t item)
{
    const joust_model *m = context;
    for (uint64_t i = 0;; i++) { /* items are runs of panels, matrix after matrix */
        const float *from;
        const joust_pack *pack = pack_of(m, i, &from);
        uint32_t n_panels = joust_lanes_up(pack->n) / JOUST_LANES;
        uint32_t n_items = (n_panels + PANELS_PER_ITEM - 1) / PANELS_PER_ITEM;
        if (item < n_items) {
            uint32_t first = (uint32_t)item * PANELS_PER_ITEM;
            uint32_t end = first + PANELS_PER_ITEM < n_panels ? first + PANELS_PER_ITEM : n_panels;
            pack_panels(from, pack, first, end);
            return;
        }
        item -= n_items;
    }
}

static uint64_t pack_items_count(const joust_model *m)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < 4 * (uint64_t)m->config.n_layers + 1; i++) {
        const float *from;
        uint32_t n_panels = joust_lanes_up(pack_of(m, i, &from)->n) / JOUST_LANES;
        n += (n_panels + PANELS_PER_ITEM - 1) / PANELS_PER_ITEM;
    }
    return n;
}

/* Angles position * theta^(-2 i / d_head), in double. */
static void rope_fill(joust_model *m)
{
    const uint32_t d_head = m->config.d_head, half = d_head / 2;
    for (uint32_t i = 0; i < half; i++) {
        double frequency = joust_pow(m->config.rope_theta, -2.0 * i / d_head);
        for (uint32_t position = 0; position < m->config.context; position++) {
            float *row = m->rope + (size_t)position * d_head;
            row[i] = (float)joust_cos(position * frequency);
            row[half + i] = (float)joust_sin(position * frequency);
        }
    }
}

joust_status joust_model_prepare(joust_engine *engine, joust_model *m, joust_error *err)
{
    if (m->ready)
        return JOUST_OK;
    if (!m->packed) {
        m->packs = joust_calloc(m->config.n_layers, sizeof(*m->packs));
        m->rope = joust_calloc((size_t)m->config.context * m->config.d_head, sizeof(*m->rope));
        if (m->packs)
            m->packed = joust_calloc_aligned(packs_lay_out(m, NULL), sizeof(*m->packed));
        if (!m->packs || !m->rope || !m->packed) {
            joust_model_unprepare(m);
            return joust_fail(err, JOUST_NOMEM, "model: no memory for the packed weights");
        }
        packs_lay_out(m, m->packed);
        rope_fill(m);
    }
    joust_pool_each(engine->pool, pack_items_count(m), pack_item, m);
    m->ready = true;
    return JOUST_OK;
}

void joust_model_unprepare(joust_model *m)
{
    joust_free(m->packs);
    joust_free(m->rope);
    joust_free_aligned(m->packed);
    m->packs = NULL;
    m->rope = NULL;
    m->packed = NULL;
    m->ready = false;
}
