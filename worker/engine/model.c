#include "worker/engine/model.h"

#include <math.h> /* isfinite, sqrt */
#include <stdio.h>
#include <string.h>

#include "model_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/random.h"
#include "proto/base/text.h"

/* The embedding's standard deviation where the config gives none (KERNELS.md, "Initial weights").
 * */
#define EMBEDDING_DEVIATION 0.5

#define OUTSIDE_LAYERS UINT32_MAX
#define LAYER_TENSORS  18u /* at most: nine, seven biases and two norms */

#define MAX_WIDTH   (1u << 20) /* of any dimension but the vocabulary */
#define MAX_VOCAB   (1u << 22)
#define MAX_LAYERS  1024u
#define MAX_WEIGHTS (UINT64_C(1) << 36)

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "weights are digested and saved as they lie in memory: little-endian");

static joust_status check_size(const char *name, uint32_t value, uint32_t max, joust_error *err)
{
    if (value >= 1 && value <= max)
        return JOUST_OK;
    return joust_fail(err, JOUST_INVALID, "model config: %s is %u, must be from 1 to %u", name,
                      value, max);
}

static joust_status check_tokens(const joust_model_config *c, joust_error *err)
{
    if (c->bos_token != UINT32_MAX && c->bos_token >= c->vocab_size)
        return joust_fail(err, JOUST_INVALID,
                          "model config: bos_token %u is outside the vocabulary of %u",
                          c->bos_token, c->vocab_size);
    if (c->n_end_tokens > JOUST_MAX_END_TOKENS)
        return joust_fail(err, JOUST_INVALID, "model config: %u end tokens, at most %u",
                          c->n_end_tokens, JOUST_MAX_END_TOKENS);
    for (uint32_t i = 0; i < c->n_end_tokens; i++)
        if (c->end_tokens[i] >= c->vocab_size)
            return joust_fail(err, JOUST_INVALID,
                              "model config: end token %u is outside the vocabulary of %u",
                              c->end_tokens[i], c->vocab_size);
    return JOUST_OK;
}

static bool is_positive(float x)
{
    return x > 0 && isfinite(x);
}

static joust_status check_yarn(const joust_rope_scaling *r, joust_error *err)
{
    if (!is_positive(r->beta_fast) || !is_positive(r->beta_slow) ||
        !is_positive(r->attention_factor))
        return joust_fail(err, JOUST_INVALID,
                          "model config: rope beta_fast, beta_slow and attention_factor must be "
                          "numbers > 0");
    return check_size("rope original_max_position_embeddings", r->original_context, MAX_WIDTH, err);
}

static joust_status check_rope(const joust_rope_scaling *r, joust_error *err)
{
    if (r->kind == JOUST_ROPE_PLAIN)
        return JOUST_OK;
    if (!is_positive(r->factor))
        return joust_fail(err, JOUST_INVALID, "model config: rope factor must be a number > 0");
    if (r->kind == JOUST_ROPE_LINEAR)
        return JOUST_OK;
    if (r->kind == JOUST_ROPE_YARN)
        return check_yarn(r, err);
    if (!is_positive(r->low_freq_factor) || !is_positive(r->high_freq_factor) ||
        r->high_freq_factor <= r->low_freq_factor)
        return joust_fail(err, JOUST_INVALID,
                          "model config: rope low_freq_factor must be > 0 and below "
                          "high_freq_factor");
    return check_size("rope original_max_position_embeddings", r->original_context, MAX_WIDTH, err);
}

joust_status joust_model_config_validate(const joust_model_config *c, joust_error *err)
{
    const struct {
        const char *name;
        uint32_t value, max;
    } sizes[] = {{"n_layers", c->n_layers, MAX_LAYERS},    {"d_model", c->d_model, MAX_WIDTH},
                 {"n_heads", c->n_heads, MAX_WIDTH},       {"n_kv_heads", c->n_kv_heads, MAX_WIDTH},
                 {"d_head", c->d_head, MAX_WIDTH},         {"d_ff", c->d_ff, MAX_WIDTH},
                 {"vocab_size", c->vocab_size, MAX_VOCAB}, {"context", c->context, MAX_WIDTH}};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        joust_status st = check_size(sizes[i].name, sizes[i].value, sizes[i].max, err);
        if (st)
            return st;
    }
    if (c->n_heads % c->n_kv_heads)
        return joust_fail(err, JOUST_INVALID,
                          "model config: n_heads %u must be a multiple of n_kv_heads %u",
                          c->n_heads, c->n_kv_heads);
    if (c->d_head % 2)
        return joust_fail(err, JOUST_INVALID, "model config: d_head %u must be even", c->d_head);
    if ((uint64_t)c->n_heads * c->d_head > MAX_WIDTH)
        return joust_fail(err, JOUST_INVALID, "model config: n_heads x d_head is above %u",
                          MAX_WIDTH);
    if (!(c->norm_eps >= 0 && isfinite(c->norm_eps)))
        return joust_fail(err, JOUST_INVALID, "model config: norm_eps must be a number >= 0");
    if (!(c->rope_theta > 0 && isfinite(c->rope_theta)))
        return joust_fail(err, JOUST_INVALID, "model config: rope_theta must be a number > 0");
    if (c->rope_scaling.kind == JOUST_ROPE_YARN && c->rope_theta <= 1)
        return joust_fail(err, JOUST_INVALID, "model config: rope_theta must be > 1 with yarn");
    if (!(c->init_range >= 0 && isfinite(c->init_range)))
        return joust_fail(err, JOUST_INVALID, "model config: init_range must be a number >= 0");
    joust_status st = check_rope(&c->rope_scaling, err);
    if (st)
        return st;
    if (c->window > MAX_WIDTH)
        return joust_fail(err, JOUST_INVALID, "model config: window %u is above %u", c->window,
                          MAX_WIDTH);
    if (joust_model_config_parameters(c) > MAX_WEIGHTS)
        return joust_fail(err, JOUST_INVALID, "model config: more than 2^36 parameters");
    return check_tokens(c, err);
}

uint64_t joust_model_config_parameters(const joust_model_config *c)
{
    uint64_t d = c->d_model, query = (uint64_t)c->n_heads * c->d_head,
             key_value = (uint64_t)c->n_kv_heads * c->d_head;
    uint64_t layer = d * (query + 2 * key_value) + query * d + 3 * d * c->d_ff + 2 * d;
    layer += joust_config_has_bias(c) ? query + 2 * key_value : 0;
    layer += c->attention_bias ? d : 0;
    layer += c->mlp_bias ? 2 * (uint64_t)c->d_ff + d : 0;
    layer += joust_config_has_qk_norm(c) ? 2 * (uint64_t)c->d_head : 0;
    uint64_t head = c->scalar_head ? d : c->tied ? 0 : c->vocab_size * d;
    return c->n_layers * layer + c->vocab_size * d + d + head;
}

/* Names the next tensor and gives it its place in the block; returns its offset. */
static uint64_t tensor_add(joust_model *m, uint32_t layer, const char *name, uint32_t rows,
                           uint32_t columns)
{
    joust_tensor *t = &m->tensors[m->n_tensors++];
    if (layer == OUTSIDE_LAYERS)
        snprintf(t->name, sizeof(t->name), "%s", name);
    else
        snprintf(t->name, sizeof(t->name), "model.layers.%u.%s", layer, name);
    t->n_dims = columns ? 2 : 1;
    t->dims[0] = rows;
    t->dims[1] = columns;
    t->n = (uint64_t)rows * (columns ? columns : 1);
    uint64_t offset = m->n_weights;
    t->data = m->weights + offset;
    m->n_weights += t->n;
    return offset;
}

static void model_lay_out(joust_model *m)
{
    const joust_model_config *c = &m->config;
    uint32_t d = c->d_model, query = c->n_heads * c->d_head, key_value = c->n_kv_heads * c->d_head;
    m->embedding = tensor_add(m, OUTSIDE_LAYERS, "model.embed_tokens.weight", c->vocab_size, d);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        joust_layer_offsets *at = &m->offsets[i];
        at->qkv = tensor_add(m, i, "self_attn.q_proj.weight", query, d);
        tensor_add(m, i, "self_attn.k_proj.weight", key_value, d);
        tensor_add(m, i, "self_attn.v_proj.weight", key_value, d);
        at->o = tensor_add(m, i, "self_attn.o_proj.weight", d, query);
        at->gate_up = tensor_add(m, i, "mlp.gate_proj.weight", c->d_ff, d);
        tensor_add(m, i, "mlp.up_proj.weight", c->d_ff, d);
        at->down = tensor_add(m, i, "mlp.down_proj.weight", d, c->d_ff);
        at->attention_norm = tensor_add(m, i, "input_layernorm.weight", d, 0);
        at->ff_norm = tensor_add(m, i, "post_attention_layernorm.weight", d, 0);
        if (joust_config_has_bias(c)) {
            at->qkv_bias = tensor_add(m, i, "self_attn.q_proj.bias", query, 0);
            tensor_add(m, i, "self_attn.k_proj.bias", key_value, 0);
            tensor_add(m, i, "self_attn.v_proj.bias", key_value, 0);
        }
        if (c->attention_bias)
            at->o_bias = tensor_add(m, i, "self_attn.o_proj.bias", d, 0);
        if (c->mlp_bias) {
            at->gate_up_bias = tensor_add(m, i, "mlp.gate_proj.bias", c->d_ff, 0);
            tensor_add(m, i, "mlp.up_proj.bias", c->d_ff, 0);
            at->down_bias = tensor_add(m, i, "mlp.down_proj.bias", d, 0);
        }
        if (joust_config_has_qk_norm(c)) {
            at->q_norm = tensor_add(m, i, "self_attn.q_norm.weight", c->d_head, 0);
            at->k_norm = tensor_add(m, i, "self_attn.k_norm.weight", c->d_head, 0);
        }
    }
    m->norm = tensor_add(m, OUTSIDE_LAYERS, "model.norm.weight", d, 0);
    m->n_out = c->scalar_head ? 1 : c->vocab_size;
    if (c->scalar_head)
        m->head = tensor_add(m, OUTSIDE_LAYERS, "score.weight", 1, d);
    else
        m->head = c->tied ? m->embedding
                          : tensor_add(m, OUTSIDE_LAYERS, "lm_head.weight", c->vocab_size, d);
}

joust_status joust_model_create(const joust_model_config *config, joust_model **ret,
                                joust_error *err)
{
    joust_status st = joust_model_config_validate(config, err);
    if (st)
        return st;
    uint64_t n = joust_model_config_parameters(config);
    joust_model *m = joust_calloc(1, sizeof(*m));
    if (!m)
        return joust_fail(err, JOUST_NOMEM, "model: out of memory");
    m->config = *config;
    m->tensors = joust_calloc(LAYER_TENSORS * (size_t)config->n_layers + 3, sizeof(*m->tensors));
    m->offsets = joust_calloc(config->n_layers, sizeof(*m->offsets));
    m->weights =
        joust_calloc_aligned(n + JOUST_LANES, sizeof(*m->weights)); /* kernels read whole lanes */
    if (!m->tensors || !m->offsets || !m->weights) {
        joust_model_free(&m);
        return joust_fail(err, JOUST_NOMEM, "model: no memory for %llu parameters",
                          (unsigned long long)n);
    }
    model_lay_out(m);
    *ret = m;
    return JOUST_OK;
}

void joust_model_free(joust_model **model)
{
    joust_model *m = *model;
    *model = NULL;
    if (!m)
        return;
    joust_model_unprepare(m);
    joust_model_unload(m);
    joust_weights_state_end(&m->state);
    joust_lora_free(&m->lora);
    joust_free(m->rope);
    joust_free(m->tensors);
    joust_free(m->offsets);
    joust_free_aligned(m->weights);
    joust_free(m);
}

/* Standard deviation of a matrix's initial weights (KERNELS.md, "Initial weights"). */
static double initial_deviation(const joust_model_config *c, const joust_tensor *t)
{
    double fan_in = t->dims[1], deviation = c->init_range;
    if (!(c->init_range > 0)) {
        if (joust_text_ends_with(t->name, "embed_tokens.weight"))
            deviation = c->tied ? 0.5 / sqrt(fan_in) : EMBEDDING_DEVIATION;
        else if (joust_text_ends_with(t->name, "lm_head.weight") ||
                 joust_text_ends_with(t->name, "score.weight"))
            deviation = 0.5 / sqrt(fan_in);
        else
            deviation = 1.0 / sqrt(fan_in);
    }
    bool into_residual = joust_text_ends_with(t->name, "o_proj.weight") ||
                         joust_text_ends_with(t->name, "down_proj.weight");
    return into_residual ? deviation / sqrt(2.0 * c->n_layers) : deviation;
}

joust_status joust_model_init(const joust_model_config *config, uint64_t seed, joust_model **ret,
                              joust_error *err)
{
    joust_model *m;
    joust_status st = joust_model_create(config, &m, err);
    if (st)
        return st;
    for (uint32_t i = 0; i < m->n_tensors; i++) {
        joust_tensor *t = &m->tensors[i];
        joust_stream_name name = {.job_seed = seed, .stage = i, .purpose = JOUST_PURPOSE_INIT};
        joust_stream stream = joust_stream_open(&name);
        double deviation = t->n_dims == 2 ? initial_deviation(config, t) : 0;
        const float constant = joust_text_ends_with(t->name, ".bias") ? 0.0f : 1.0f;
        for (uint64_t k = 0; k < t->n; k++)
            t->data[k] =
                t->n_dims == 2 ? (float)(deviation * joust_stream_normal(&stream, k)) : constant;
    }
    *ret = m;
    return JOUST_OK;
}

joust_status joust_model_clone(const joust_model *model, joust_model **ret, joust_error *err)
{
    joust_model *m;
    joust_status st = joust_model_create(&model->config, &m, err);
    if (st)
        return st;
    memcpy(m->weights, model->weights, model->n_weights * sizeof(*m->weights));
    if (model->lora) {
        st = joust_lora_create(m, &model->lora->settings, err);
        if (st) {
            joust_model_free(&m);
            return st;
        }
        memcpy(m->lora->weights, model->lora->weights,
               model->lora->n_weights * sizeof(*m->lora->weights));
    }
    *ret = m;
    return JOUST_OK;
}

/* Tensors stand in one order, the head last. */
joust_status joust_model_make_scalar(const joust_model *from, joust_model **ret, joust_error *err)
{
    joust_model_config config = from->config;
    joust_model *m;
    if (from->lora)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "scalar_head: the model has an adapter; merge it first (joust model "
                          "convert)");
    joust_status st = joust_model_config_make_scalar(&config, err);
    if (!st)
        st = joust_model_create(&config, &m, err);
    if (st)
        return st;
    for (uint32_t i = 0; i + 1 < m->n_tensors; i++)
        memcpy(m->tensors[i].data, from->tensors[i].data,
               m->tensors[i].n * sizeof(*m->tensors[i].data));
    *ret = m;
    return JOUST_OK;
}

const joust_model_config *joust_model_get_config(const joust_model *model)
{
    return &model->config;
}

const joust_tensor *joust_model_tensors(const joust_model *model, uint32_t *ret_n)
{
    *ret_n = model->n_tensors;
    return model->tensors;
}

float *joust_model_weights(joust_model *model, uint64_t *ret_n)
{
    *ret_n = model->n_weights;
    return model->weights;
}

void joust_model_changed(joust_model *model)
{
    model->ready = model->host_is_stale = false;
    if (model->lora)
        model->lora->ready = false;
    joust_model_unload(model);
    joust_weights_state_end(&model->state);
}

joust_trained joust_model_trained(const joust_model *m)
{
    return m->lora ? (joust_trained){m->lora->weights, m->lora->n_weights, m->lora->tensors,
                                     m->lora->n_tensors}
                   : (joust_trained){m->weights, m->n_weights, m->tensors, m->n_tensors};
}

void joust_model_trained_changed(joust_model *m)
{
    if (!m->lora) {
        joust_model_changed(m);
        return;
    }
    m->lora->ready = m->lora->on_device = false;
    joust_weights_state_end(&m->state);
}

static void hash_tensors(joust_hasher *h, const joust_tensor *tensors, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const joust_tensor *t = &tensors[i];
        joust_hasher_field(h, t->name, strlen(t->name));
        joust_hasher_u64(h, t->n_dims);
        for (uint32_t k = 0; k < t->n_dims; k++)
            joust_hasher_u64(h, t->dims[k]);
        joust_hasher_field(h, t->data, t->n * sizeof(float));
    }
}

joust_digest joust_model_digest(const joust_model *model)
{
    joust_hasher h;
    joust_hasher_init(&h);
    hash_tensors(&h, model->tensors, model->n_tensors);
    if (model->lora) {
        hash_tensors(&h, model->lora->tensors, model->lora->n_tensors);
        joust_hasher_field(&h, &model->lora->scale, sizeof(model->lora->scale));
    }
    return joust_hasher_end(&h);
}

joust_status joust_model_check_tokens(const joust_model_config *c, const char *what,
                                      const uint32_t *tokens, uint32_t n, joust_error *err)
{
    for (uint32_t i = 0; i < n; i++)
        if (tokens[i] >= c->vocab_size)
            return joust_fail(err, JOUST_INVALID, "%s %u at %u is outside the vocabulary of %u",
                              what, tokens[i], i, c->vocab_size);
    return JOUST_OK;
}

joust_status joust_model_check_language(const joust_model_config *c, const char *what,
                                        joust_error *err)
{
    if (!c->scalar_head)
        return JOUST_OK;
    return joust_fail(err, JOUST_UNSUPPORTED,
                      "%s: %s has a scalar head and gives no logits; use a ...ForCausalLM", what,
                      c->architecture);
}

joust_widths joust_model_widths(const joust_model_config *c)
{
    joust_widths w = {.query = c->n_heads * c->d_head, .key_value = c->n_kv_heads * c->d_head};
    w.qkv = w.query + 2 * w.key_value;
    w.d_ld = joust_lanes_up(c->d_model);
    w.query_ld = joust_lanes_up(w.query);
    w.qkv_ld = joust_lanes_up(w.qkv);
    w.ff_ld = joust_lanes_up(c->d_ff);
    w.gate_up_ld = joust_lanes_up(2 * c->d_ff);
    w.vocab_ld = joust_lanes_up(c->scalar_head ? 1 : c->vocab_size);
    w.head_ld = joust_lanes_up(c->d_head);
    w.qk_ld = joust_lanes_up(w.query + w.key_value);
    return w;
}
