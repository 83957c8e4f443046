/* The copies of a model's weights that the forward pass reads: matrices as panels, in the engine's precision, and the
 * table of angles. */
#include <string.h>

#include "engine_internal.h"
#include "model_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/math.h"

/* Panels that one thread packs at a time. */
#define PANELS_PER_ITEM 8u

#define PI 3.14159265358979323846

/* A matrix (n, k) of the model: its pack, and where its weights lie. */
typedef struct matrix {
    joust_pack *pack;
    const float *from;
    uint32_t n, k;
} matrix;

static uint64_t matrices_count(const joust_model *m)
{
    return 4 * (uint64_t)m->config.n_layers + 1;
}

/* Number i of the model: the layers' four each, then the head. */
static matrix matrix_of(joust_model *m, uint64_t i)
{
    const joust_model_config *c = &m->config;
    if (i / 4 == c->n_layers)
        return (matrix){&m->head_pack, m->weights + m->head, m->n_out, c->d_model};
    const joust_widths w = joust_model_widths(c);
    joust_layer_packs *p = &m->packs[i / 4];
    const joust_layer_offsets *at = &m->offsets[i / 4];
    const matrix of_layer[] = {{&p->qkv, m->weights + at->qkv, w.qkv, c->d_model},
                               {&p->o, m->weights + at->o, c->d_model, w.query},
                               {&p->gate_up, m->weights + at->gate_up, 2 * c->d_ff, c->d_model},
                               {&p->down, m->weights + at->down, c->d_model, c->d_ff}};
    return of_layer[i % 4];
}

/* A place for every matrix; all sizes are multiples of 64 bytes. Returns the words needed. */
static uint64_t packs_lay_out(joust_model *m, joust_precision precision, void *block)
{
    const bool bf16 = precision == JOUST_PRECISION_BF16;
    uint64_t at = 0;
    for (uint64_t i = 0; i < matrices_count(m); i++) {
        matrix x = matrix_of(m, i);
        *x.pack = (joust_pack){.data = block && !bf16 ? (float *)block + at : NULL,
                               .pairs = block && bf16 ? (uint32_t *)block + at : NULL,
                               .n = x.n,
                               .k = x.k};
        at += (uint64_t)joust_lanes_up(x.n) * (bf16 ? (x.k + 1) / 2 : x.k);
    }
    return at;
}

/* n rows of a matrix, from `row` on, as the pairs of a panel. */
static void pack_pairs(const float *from, const joust_pack *pack, uint32_t row, uint32_t n)
{
    uint32_t *to = pack->pairs + row / JOUST_LANES * joust_pairs_panel(pack->k);
    for (uint32_t lane = 0; lane < n; lane++) {
        const float *w = from + (size_t)(row + lane) * pack->k;
        for (uint32_t k = 0; k < pack->k; k += 2) {
            const uint32_t high = k + 1 < pack->k ? joust_bf16(w[k + 1]) : 0;
            to[(size_t)k / 2 * JOUST_LANES + lane] = high << 16 | joust_bf16(w[k]);
        }
    }
}

static void pack_panels(const float *from, const joust_pack *pack, uint32_t first, uint32_t end)
{
    for (uint32_t panel = first; panel < end; panel++) {
        uint32_t row = panel * JOUST_LANES;
        uint32_t n = pack->n - row < JOUST_LANES ? pack->n - row : JOUST_LANES;
        if (pack->pairs) {
            pack_pairs(from, pack, row, n);
            continue;
        }
        float *to = pack->data + (size_t)panel * JOUST_LANES * pack->k;
        for (uint32_t lane = 0; lane < n; lane++) {
            const float *w = from + (size_t)(row + lane) * pack->k;
            for (uint32_t k = 0; k < pack->k; k++)
                to[(size_t)k * JOUST_LANES + lane] = w[k];
        }
    }
}

void joust_pack_fill(const joust_pack *pack, const float *from)
{
    pack_panels(from, pack, 0, joust_lanes_up(pack->n) / JOUST_LANES);
}

/* Items are runs of panels, matrix after matrix. */
static uint64_t items_of(const matrix *x)
{
    uint32_t n_panels = joust_lanes_up(x->n) / JOUST_LANES;
    return (n_panels + PANELS_PER_ITEM - 1) / PANELS_PER_ITEM;
}

static void pack_item(void *context, uint64_t item)
{
    uint64_t i = 0;
    matrix x = matrix_of(context, i);
    for (; item >= items_of(&x); x = matrix_of(context, ++i))
        item -= items_of(&x);
    uint32_t n_panels = joust_lanes_up(x.n) / JOUST_LANES;
    uint32_t first = (uint32_t)item * PANELS_PER_ITEM;
    pack_panels(x.from, x.pack, first,
                first + PANELS_PER_ITEM < n_panels ? first + PANELS_PER_ITEM : n_panels);
}

static uint64_t pack_items_count(joust_model *m)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < matrices_count(m); i++) {
        matrix x = matrix_of(m, i);
        n += items_of(&x);
    }
    return n;
}

/* The frequency as the model's scaling has it (KERNELS.md, "Positions"). */
static double rope_scaled(const joust_rope_scaling *r, double frequency)
{
    if (r->kind == JOUST_ROPE_YARN)
        return frequency;                                            /* by index: yarn_ramp */
    const double turns = r->original_context * frequency / (2 * PI); /* over the first context */
    if (r->kind == JOUST_ROPE_PLAIN)
        return frequency;
    if (r->kind == JOUST_ROPE_LINEAR || turns < r->low_freq_factor)
        return frequency / r->factor;
    if (turns > r->high_freq_factor)
        return frequency;
    double kept = (turns - r->low_freq_factor) / (r->high_freq_factor - r->low_freq_factor);
    return (1 - kept) * (frequency / r->factor) + kept * frequency;
}

/* Index (of d_head / 2 frequencies) that turns so often over the first context, within [-2^20, 2^20]. */
static double yarn_index(const joust_model_config *c, double turns)
{
    const double index = c->d_head *
                         joust_log(c->rope_scaling.original_context / (turns * 2 * PI)) /
                         (2 * joust_log(c->rope_theta));
    return index < -1048576 ? -1048576 : index > 1048576 ? 1048576 : index;
}

static double floor_of(double x)
{
    const double whole = (double)(int32_t)x; /* towards 0 */
    return whole > x ? whole - 1 : whole;
}

/* How much of frequency i is divided by the factor: 0 (it turns often) to 1. */
static double yarn_ramp(const joust_model_config *c, uint32_t i)
{
    double low = yarn_index(c, c->rope_scaling.beta_fast),
           high = yarn_index(c, c->rope_scaling.beta_slow);
    if (c->rope_scaling.whole) {
        low = floor_of(low);
        high = -floor_of(-high);
    }
    low = low > 0 ? low : 0;
    high = high < c->d_head - 1.0 ? high : c->d_head - 1.0;
    const double share = (i - low) / (high == low ? 0.001 : high - low);
    return share < 0 ? 0 : share > 1 ? 1 : share;
}

/* Angles position * theta^(-2 i / d_head), in double; the frequency may be scaled. */
static void rope_fill(joust_model *m)
{
    const uint32_t d_head = m->config.d_head, half = d_head / 2;
    const joust_rope_scaling *scaling = &m->config.rope_scaling;
    for (uint32_t i = 0; i < half; i++) {
        double frequency = rope_scaled(scaling, joust_pow(m->config.rope_theta, -2.0 * i / d_head)),
               size = 1;
        if (scaling->kind == JOUST_ROPE_YARN) {
            const double divided = yarn_ramp(&m->config, i);
            frequency = divided * (frequency / scaling->factor) + (1 - divided) * frequency;
            size = scaling->attention_factor;
        }
        for (uint32_t position = 0; position < m->config.context; position++) {
            float *row = m->rope + (size_t)position * d_head;
            row[i] = (float)(size * joust_cos(position * frequency));
            row[half + i] = (float)(size * joust_sin(position * frequency));
        }
    }
}

joust_status joust_model_angles(joust_model *m, joust_error *err)
{
    if (m->rope)
        return JOUST_OK;
    m->rope = joust_calloc((size_t)m->config.context * m->config.d_head, sizeof(*m->rope));
    if (!m->rope)
        return joust_fail(err, JOUST_NOMEM, "model: no memory for the table of angles");
    rope_fill(m);
    return JOUST_OK;
}

static joust_status weights_prepare(joust_engine *engine, joust_model *m, joust_error *err)
{
    if (m->precision != engine->precision)
        joust_model_unprepare(m);
    if (m->ready)
        return JOUST_OK;
    m->precision = engine->precision;
    if (!m->packed) {
        m->packs = joust_calloc(m->config.n_layers, sizeof(*m->packs));
        if (m->packs && joust_model_angles(m, NULL) == JOUST_OK)
            m->packed = joust_calloc_aligned(m->n_packed = packs_lay_out(m, m->precision, NULL),
                                             sizeof(uint32_t));
        if (!m->packs || !m->packed) {
            joust_model_unprepare(m);
            return joust_fail(err, JOUST_NOMEM, "model: no memory for the packed weights");
        }
        packs_lay_out(m, m->precision, m->packed);
    }
    joust_pool_each(engine->pool, pack_items_count(m), pack_item, m);
    m->ready = true;
    return JOUST_OK;
}

joust_status joust_model_prepare(joust_engine *engine, joust_model *m, joust_error *err)
{
    joust_status st = weights_prepare(engine, m, err);
    return st || !m->lora ? st : joust_lora_prepare(engine, m->lora, m->config.n_layers, err);
}

void joust_model_unprepare(joust_model *m)
{
    joust_free(m->packs);
    joust_free_aligned(m->packed);
    m->packs = NULL;
    m->packed = NULL;
    m->ready = false;
}
