/* config.json of the families that the engine computes. What the engine would compute wrongly is refused by name; keys that don't
 * change what is computed (dropout, torch_dtype, use_cache …) are passed over. */
#include <stdio.h>
#include <string.h>

#include "config_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/bytes.h"
#include "proto/base/file.h"
#include "proto/base/math.h"
#include "proto/base/text.h"
#include "worker/engine/model.h"
#include "worker/engine/text/json_internal.h"

#define MAX_YARN_CONTEXT (1u << 20)

typedef struct reader {
    const json_t *json;
    const char *path;
    joust_error *err;
} reader;

static joust_status unsupported(const reader *r, const char *key, const char *remedy)
{
    return joust_fail(r->err, JOUST_UNSUPPORTED, "%s: %s is not supported here; %s", r->path, key,
                      remedy);
}

/* An integer that must be there. */
static joust_status need(const reader *r, const char *key, uint32_t *ret)
{
    joust_status st = joust_json_u32(r->json, r->path, key, UINT32_MAX, ret, r->err);
    if (st == JOUST_OK && *ret == UINT32_MAX)
        st = joust_fail(r->err, JOUST_INVALID, "%s: %s is missing", r->path, key);
    return st;
}

static joust_status number(const reader *r, const char *key, double by_default, float *ret)
{
    double value = by_default;
    joust_status st = joust_json_number(r->json, r->path, key, by_default, &value, r->err);
    if (st == JOUST_OK)
        *ret = (float)value;
    return st;
}

/* What a family is called in config.json, and what it takes where a key is absent (as transformers does). */
static const struct {
    const char *type, *language, *scalar;
    joust_family family;
    uint32_t n_kv_heads, d_head, window; /* 0: one for each head; width / heads; none */
} families[] = {
    {"llama", "LlamaForCausalLM", "LlamaForSequenceClassification", JOUST_FAMILY_LLAMA, 0, 0, 0},
    {"mistral", "MistralForCausalLM", "MistralForSequenceClassification", JOUST_FAMILY_MISTRAL, 8,
     0, 4096},
    {"qwen2", "Qwen2ForCausalLM", "Qwen2ForSequenceClassification", JOUST_FAMILY_QWEN2, 32, 0,
     4096},
    {"qwen3", "Qwen3ForCausalLM", "Qwen3ForSequenceClassification", JOUST_FAMILY_QWEN3, 32, 128,
     4096}};
#define N_FAMILIES (sizeof(families) / sizeof(*families))

/* The table's line for a config whose family is read. */
static size_t family_index(const joust_model_config *c)
{
    size_t i = 0;
    while (families[i].family != c->family)
        i++;
    return i;
}

const char *joust_model_family_type(joust_family family)
{
    const joust_model_config c = {.family = family};
    return families[family_index(&c)].type;
}

joust_status joust_model_config_make_scalar(joust_model_config *c, joust_error *err)
{
    if (c->scalar_head)
        return joust_fail(err, JOUST_INVALID, "%s has a scalar head already: leave scalar_head out",
                          c->architecture);
    c->scalar_head = true;
    snprintf(c->architecture, sizeof(c->architecture), "%s", families[family_index(c)].scalar);
    return JOUST_OK;
}

static joust_status read_family(const reader *r, joust_model_config *c)
{
    const char *type;
    joust_status st = joust_json_text(r->json, r->path, "model_type", &type, r->err);
    if (st != JOUST_OK)
        return st;
    const json_t *list = json_object_get(r->json, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    for (size_t i = 0; i < N_FAMILIES && (type || name); i++) {
        bool scalar = name && strcmp(name, families[i].scalar) == 0;
        if ((type && strcmp(type, families[i].type) != 0) ||
            (name && !scalar && strcmp(name, families[i].language) != 0))
            continue;
        c->family = families[i].family;
        c->scalar_head = scalar;
        snprintf(c->architecture, sizeof(c->architecture), "%s",
                 scalar ? families[i].scalar : families[i].language);
        return JOUST_OK;
    }
    return joust_fail(r->err, JOUST_UNSUPPORTED,
                      "%s: model_type %.60s with architectures [%.60s] is not supported; llama, "
                      "mistral, qwen2 and qwen3 are, as ...ForCausalLM or "
                      "...ForSequenceClassification",
                      r->path, type ? type : "(none)", name ? name : "");
}

/* The number of key-value heads: one for each head if null, the family's own number if absent. */
static joust_status read_kv_heads(const reader *r, joust_model_config *c)
{
    static const char key[] = "num_key_value_heads";
    uint32_t by_default = families[family_index(c)].n_kv_heads;
    if (by_default == 0 || json_is_null(json_object_get(r->json, key)))
        by_default = c->n_heads;
    return joust_json_u32(r->json, r->path, key, by_default, &c->n_kv_heads, r->err);
}

/* A scalar head has one label; transformers counts id2label, and takes two where neither key is there. */
static joust_status read_labels(const reader *r, const joust_model_config *c)
{
    uint32_t n = 2;
    const json_t *labels = json_object_get(r->json, "id2label");
    if (!c->scalar_head)
        return JOUST_OK;
    if (json_is_object(labels))
        n = (uint32_t)json_object_size(labels);
    joust_status st = joust_json_u32(r->json, r->path, "num_labels", n, &n, r->err);
    if (st == JOUST_OK && n != 1)
        st = joust_fail(r->err, JOUST_UNSUPPORTED,
                        "%s: %s with %u labels is not supported; a reward model has num_labels 1",
                        r->path, c->architecture, n);
    return st;
}

static joust_status read_sizes(const reader *r, joust_model_config *c)
{
    joust_status st = need(r, "vocab_size", &c->vocab_size);
    if (st == JOUST_OK)
        st = need(r, "hidden_size", &c->d_model);
    if (st == JOUST_OK)
        st = need(r, "intermediate_size", &c->d_ff);
    if (st == JOUST_OK)
        st = need(r, "num_hidden_layers", &c->n_layers);
    if (st == JOUST_OK)
        st = need(r, "num_attention_heads", &c->n_heads);
    if (st == JOUST_OK)
        st = need(r, "max_position_embeddings", &c->context);
    if (st == JOUST_OK)
        st = read_kv_heads(r, c);
    if (st == JOUST_OK)
        st = joust_json_u32(r->json, r->path, "head_dim", families[family_index(c)].d_head,
                            &c->d_head, r->err);
    if (st != JOUST_OK)
        return st;
    if (c->n_heads == 0 || (c->d_head == 0 && c->d_model % c->n_heads != 0))
        return joust_fail(r->err, JOUST_INVALID,
                          "%s: hidden_size %u is not a multiple of num_attention_heads %u", r->path,
                          c->d_model, c->n_heads);
    if (c->d_head == 0)
        c->d_head = c->d_model / c->n_heads;
    return JOUST_OK;
}

/* 0.1 m ln(factor) + 1, by which yarn scales what attention sees. */
static double yarn_scale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * joust_log(factor) + 1;
}

/* Peng et al. 2023, with transformers' keys and defaults. The context is what the scaling reaches. */
static joust_status read_yarn(const reader *r, joust_model_config *c)
{
    joust_rope_scaling *s = &c->rope_scaling;
    float m = 0, m_all = 0;
    s->kind = JOUST_ROPE_YARN;
    joust_status st = joust_json_u32(r->json, r->path, "original_max_position_embeddings",
                                     c->context, &s->original_context, r->err);
    if (st == JOUST_OK && s->original_context > 0)
        st = number(r, "factor", (double)c->context / s->original_context, &s->factor);
    if (st == JOUST_OK)
        st = number(r, "beta_fast", 32, &s->beta_fast);
    if (st == JOUST_OK)
        st = number(r, "beta_slow", 1, &s->beta_slow);
    if (st == JOUST_OK)
        st = number(r, "mscale", 0, &m);
    if (st == JOUST_OK)
        st = number(r, "mscale_all_dim", 0, &m_all);
    if (st == JOUST_OK)
        st = joust_json_bool(r->json, r->path, "truncate", true, &s->whole, r->err);
    if (st != JOUST_OK)
        return st;
    const double factor = s->factor;
    st = number(r, "attention_factor",
                m != 0 && m_all != 0 ? yarn_scale(factor, m) / yarn_scale(factor, m_all)
                                     : yarn_scale(factor, 1),
                &s->attention_factor);
    const double reach = factor * s->original_context;
    if (reach > c->context && reach <= MAX_YARN_CONTEXT)
        c->context = (uint32_t)reach;
    return st;
}

static joust_status read_scaling(const reader *r, const char *type, joust_model_config *c)
{
    joust_rope_scaling *s = &c->rope_scaling;
    if (strcmp(type, "yarn") == 0)
        return read_yarn(r, c);
    joust_status st = number(r, "factor", 0, &s->factor);
    s->kind = JOUST_ROPE_LINEAR;
    if (st != JOUST_OK || strcmp(type, "linear") == 0)
        return st;
    s->kind = JOUST_ROPE_LLAMA3;
    st = number(r, "low_freq_factor", 0, &s->low_freq_factor);
    if (st == JOUST_OK)
        st = number(r, "high_freq_factor", 0, &s->high_freq_factor);
    return st == JOUST_OK ? need(r, "original_max_position_embeddings", &s->original_context) : st;
}

/* Rotary positions: rope_theta beside rope_scaling, or (newer files) both within rope_parameters. */
static joust_status read_rope(const reader *r, joust_model_config *c)
{
    reader below = {
        .json = json_object_get(r->json, "rope_scaling"), .path = r->path, .err = r->err};
    joust_status st = number(r, "rope_theta", 10000.0, &c->rope_theta);
    if (st == JOUST_OK && joust_json_has(r->json, "rope_parameters")) {
        below.json = json_object_get(r->json, "rope_parameters");
        st = number(&below, "rope_theta", c->rope_theta, &c->rope_theta);
    }
    if (st != JOUST_OK || !below.json || json_is_null(below.json))
        return st;
    const char *type = json_string_value(json_object_get(below.json, "rope_type"));
    if (!type)
        type = json_string_value(json_object_get(below.json, "type"));
    float share = 1;
    st = number(&below, "partial_rotary_factor", 1, &share);
    if (st == JOUST_OK && share != 1.0f)
        st = unsupported(r, "partial_rotary_factor", "only 1 is");
    if (st != JOUST_OK || (type && strcmp(type, "default") == 0))
        return st;
    if (type &&
        (strcmp(type, "linear") == 0 || strcmp(type, "llama3") == 0 || strcmp(type, "yarn") == 0))
        return read_scaling(&below, type, c);
    return joust_fail(r->err, JOUST_UNSUPPORTED,
                      "%s: rope_scaling of type \"%.40s\" is not supported here; only null, "
                      "\"default\", \"linear\", \"llama3\" and \"yarn\" are",
                      r->path, type ? type : "(none)");
}

/* layer_types says by layer what the other keys say by numbers; only such lists are read. Qwen's list wins over
 * max_window_layers; Mistral has a window in every layer or in none. */
static joust_status read_layer_types(const reader *r, joust_model_config *c)
{
    const json_t *list = json_object_get(r->json, "layer_types");
    size_t n = json_array_size(list), first = n;
    if (!list || json_is_null(list))
        return JOUST_OK;
    if (!json_is_array(list) || n != c->n_layers)
        return joust_fail(r->err, JOUST_INVALID, "%s.layer_types: expected a list of %u names",
                          r->path, c->n_layers);
    for (size_t i = 0; i < n; i++) {
        const char *type = json_string_value(json_array_get(list, i));
        const bool slides = type && strcmp(type, "sliding_attention") == 0,
                   full = type && strcmp(type, "full_attention") == 0;
        if ((!slides && !full) || (full && first < n) || (slides && c->window == 0) ||
            (full && c->window > 0 && c->family == JOUST_FAMILY_MISTRAL))
            return unsupported(r, "layer_types",
                               "only \"full_attention\", followed by \"sliding_attention\" where "
                               "there is a sliding_window, is");
        if (slides && first == n)
            first = i;
    }
    c->first_window_layer = c->window > 0 ? (uint32_t)first : 0;
    return JOUST_OK;
}

/* How many keys a row sees: Mistral's in every layer, Qwen's from max_window_layers on if use_sliding_window is set. */
static joust_status read_window(const reader *r, joust_model_config *c)
{
    bool on = c->family == JOUST_FAMILY_MISTRAL, may = c->family != JOUST_FAMILY_LLAMA;
    const json_t *value = json_object_get(r->json, "sliding_window");
    joust_status st = JOUST_OK;
    if (!on)
        st = joust_json_bool(r->json, r->path, "use_sliding_window", false, &on, r->err);
    if (st == JOUST_OK && !may && (on || joust_json_has(r->json, "sliding_window")))
        return unsupported(r, on ? "use_sliding_window" : "sliding_window",
                           "a model of type llama sees all keys");
    if (st == JOUST_OK && on && !json_is_null(value)) {
        st = joust_json_u32(r->json, r->path, "sliding_window", families[family_index(c)].window,
                            &c->window, r->err);
        if (st == JOUST_OK && c->window == 0)
            st = joust_fail(r->err, JOUST_INVALID, "%s.sliding_window: must be 1 or more, or null",
                            r->path);
    }
    if (st == JOUST_OK && c->window > 0 && c->family != JOUST_FAMILY_MISTRAL)
        st = joust_json_u32(r->json, r->path, "max_window_layers", 28, &c->first_window_layer,
                            r->err);
    return st == JOUST_OK ? read_layer_types(r, c) : st;
}

/* Qwen2 and Mistral have these keys fixed, Qwen3 has no mlp_bias: transformers doesn't read them there. */
static joust_status read_biases(const reader *r, joust_model_config *c)
{
    joust_status st = JOUST_OK;
    if (c->family == JOUST_FAMILY_LLAMA || c->family == JOUST_FAMILY_QWEN3)
        st = joust_json_bool(r->json, r->path, "attention_bias", false, &c->attention_bias, r->err);
    if (st == JOUST_OK && c->family == JOUST_FAMILY_LLAMA)
        st = joust_json_bool(r->json, r->path, "mlp_bias", false, &c->mlp_bias, r->err);
    return st;
}

static joust_status check_variants(const reader *r)
{
    const char *activation;
    float share = 1;
    joust_status st = joust_json_text(r->json, r->path, "hidden_act", &activation, r->err);
    if (st == JOUST_OK && activation && strcmp(activation, "silu") != 0)
        st = unsupported(r, "hidden_act", "only \"silu\" is");
    if (st == JOUST_OK)
        st = number(r, "partial_rotary_factor", 1, &share);
    if (st == JOUST_OK && share != 1.0f)
        st = unsupported(r, "partial_rotary_factor", "only 1 is");
    if (st == JOUST_OK && joust_json_has(r->json, "quantization_config"))
        st = unsupported(r, "quantization_config", "save the weights as f32, f16 or bf16");
    return st;
}

static joust_status add_end_token(const reader *r, uint32_t vocab_size, const json_t *value,
                                  uint32_t *n, uint32_t *tokens)
{
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id >= vocab_size)
        return joust_fail(r->err, JOUST_INVALID,
                          "%s: eos_token_id: expected token ids below vocab_size %u", r->path,
                          vocab_size);
    if (*n == JOUST_MAX_END_TOKENS)
        return joust_fail(r->err, JOUST_UNSUPPORTED, "%s: eos_token_id: more than %u tokens",
                          r->path, JOUST_MAX_END_TOKENS);
    tokens[(*n)++] = (uint32_t)id;
    return JOUST_OK;
}

/* eos_token_id: one id or a list. */
static joust_status read_end_tokens(const reader *r, uint32_t vocab_size, uint32_t *n,
                                    uint32_t tokens[JOUST_MAX_END_TOKENS])
{
    const json_t *ends = json_object_get(r->json, "eos_token_id");
    joust_status st = JOUST_OK;
    *n = 0;
    if (ends && !json_is_null(ends) && !json_is_array(ends))
        return add_end_token(r, vocab_size, ends, n, tokens);
    for (size_t i = 0; st == JOUST_OK && i < json_array_size(ends); i++)
        st = add_end_token(r, vocab_size, json_array_get(ends, i), n, tokens);
    return st;
}

static joust_status read_tokens(const reader *r, joust_model_config *c)
{
    joust_status st =
        joust_json_u32(r->json, r->path, "bos_token_id", UINT32_MAX, &c->bos_token, r->err);
    return st == JOUST_OK ? read_end_tokens(r, c->vocab_size, &c->n_end_tokens, c->end_tokens) : st;
}

joust_status joust_model_config_read_stops(const char *dir, joust_model_config *config,
                                           joust_error *err)
{
    json_t *json = NULL;
    char *path = joust_path_join(dir, "generation_config.json");
    joust_status st = JOUST_OK;
    if (!path)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", dir);
    if (joust_file_exists(path))
        st = joust_json_read(path, JOUST_MAX_CONFIG_BYTES, &json, err);
    if (st == JOUST_OK && json)
        st = read_end_tokens(&(reader){.json = json, .path = path, .err = err}, config->vocab_size,
                             &config->n_stop_tokens, config->stop_tokens);
    json_decref(json);
    joust_free(path);
    return st;
}

uint32_t joust_model_config_stops(const joust_model_config *config, const uint32_t **ret)
{
    *ret = config->n_stop_tokens ? config->stop_tokens : config->end_tokens;
    return config->n_stop_tokens ? config->n_stop_tokens : config->n_end_tokens;
}

static joust_status read_all(const reader *r, joust_model_config *c)
{
    joust_status st = read_family(r, c);
    if (st == JOUST_OK)
        st = read_sizes(r, c);
    if (st == JOUST_OK)
        st = read_rope(r, c);
    if (st == JOUST_OK)
        st = read_window(r, c);
    if (st == JOUST_OK)
        st = read_biases(r, c);
    if (st == JOUST_OK)
        st = check_variants(r);
    if (st == JOUST_OK)
        st = read_labels(r, c);
    if (st == JOUST_OK)
        st = number(r, "rms_norm_eps", 1e-6, &c->norm_eps);
    if (st == JOUST_OK)
        st = number(r, "initializer_range", 0, &c->init_range);
    if (st == JOUST_OK)
        st = joust_json_bool(r->json, r->path, "tie_word_embeddings", false, &c->tied, r->err);
    if (st == JOUST_OK)
        st = read_tokens(r, c);
    if (st == JOUST_OK) {
        st = joust_model_config_validate(c, r->err);
        if (st != JOUST_OK)
            st = joust_blame(r->err, st, "%s", r->path);
    }
    return st;
}

joust_status joust_model_config_parse(const void *json, size_t n, const char *name,
                                      joust_model_config *ret, joust_error *err)
{
    json_t *document = NULL;
    joust_model_config config = {.bos_token = UINT32_MAX};
    joust_status st = joust_json_parse(json, n, name, &document, err);
    if (st != JOUST_OK)
        return st;
    st = read_all(&(reader){.json = document, .path = name, .err = err}, &config);
    json_decref(document);
    if (st == JOUST_OK)
        *ret = config;
    return st;
}

joust_status joust_model_config_read(const char *path, joust_model_config *ret, joust_error *err)
{
    joust_buf text = {0};
    joust_status st = joust_file_read(path, JOUST_MAX_CONFIG_BYTES, &text, err);
    if (st == JOUST_OK)
        st = joust_model_config_parse(text.data, text.n, path, ret, err);
    joust_buf_fini(&text);
    return st;
}
