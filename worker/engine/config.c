/* config.json of the Llama family. What the engine would compute wrongly is refused by name; keys that don't
 * change what is computed (dropout, torch_dtype, use_cache …) are passed over. */
#include <stdio.h>
#include <string.h>

#include "json_internal.h"
#include "proto/base/bytes.h"
#include "proto/base/file.h"
#include "proto/base/text.h"
#include "worker/engine/model.h"

#define MAX_CONFIG_BYTES (1u << 20)

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

static joust_status read_family(const reader *r, joust_model_config *c)
{
    const char *type;
    joust_status st = joust_json_text(r->json, r->path, "model_type", &type, r->err);
    if (st != JOUST_OK)
        return st;
    const json_t *list = json_object_get(r->json, "architectures");
    const char *name = json_string_value(json_array_get(list, 0));
    if ((name && strcmp(name, "LlamaForCausalLM") != 0) || (type && strcmp(type, "llama") != 0) ||
        (!name && !type))
        return joust_fail(r->err, JOUST_UNSUPPORTED,
                          "%s: model_type %.60s with architectures [%.60s] is not supported; "
                          "llama with LlamaForCausalLM is",
                          r->path, type ? type : "(none)", name ? name : "");
    snprintf(c->architecture, sizeof(c->architecture), "LlamaForCausalLM");
    return JOUST_OK;
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
        st = joust_json_u32(r->json, r->path, "num_key_value_heads", c->n_heads, &c->n_kv_heads,
                            r->err);
    if (st == JOUST_OK)
        st = joust_json_u32(r->json, r->path, "head_dim", 0, &c->d_head, r->err);
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

/* Rotary positions: rope_theta beside rope_scaling, or (newer files) both within rope_parameters. */
static joust_status read_rope(const reader *r, joust_model_config *c)
{
    const json_t *scaling = json_object_get(r->json, "rope_scaling");
    const json_t *inner = json_object_get(r->json, "rope_parameters");
    joust_status st = number(r, "rope_theta", 10000.0, &c->rope_theta);
    if (st == JOUST_OK && joust_json_has(r->json, "rope_parameters")) {
        reader below = {.json = inner, .path = r->path, .err = r->err};
        scaling = inner;
        st = number(&below, "rope_theta", c->rope_theta, &c->rope_theta);
    }
    if (st != JOUST_OK || !scaling || json_is_null(scaling))
        return st;
    const char *type = json_string_value(json_object_get(scaling, "rope_type"));
    if (!type)
        type = json_string_value(json_object_get(scaling, "type"));
    if (!type || strcmp(type, "default") != 0)
        return unsupported(r, "rope_scaling", "only null or the type \"default\" is");
    return JOUST_OK;
}

static joust_status check_variants(const reader *r)
{
    static const char *const must_be_false[] = {"attention_bias", "mlp_bias", "use_sliding_window"};
    const char *activation;
    joust_status st = joust_json_text(r->json, r->path, "hidden_act", &activation, r->err);
    if (st == JOUST_OK && activation && strcmp(activation, "silu") != 0)
        st = unsupported(r, "hidden_act", "only \"silu\" is");
    for (size_t i = 0; st == JOUST_OK && i < 3; i++) {
        bool on = false;
        st = joust_json_bool(r->json, r->path, must_be_false[i], false, &on, r->err);
        if (st == JOUST_OK && on)
            st = unsupported(r, must_be_false[i], "only false is");
    }
    if (st == JOUST_OK && joust_json_has(r->json, "sliding_window"))
        st = unsupported(r, "sliding_window", "only null is");
    if (st == JOUST_OK && joust_json_has(r->json, "quantization_config"))
        st = unsupported(r, "quantization_config", "save the weights as f32, f16 or bf16");
    return st;
}

static joust_status add_end_token(const reader *r, joust_model_config *c, const json_t *value)
{
    json_int_t id = json_integer_value(value);
    if (!json_is_integer(value) || id < 0 || id >= c->vocab_size)
        return joust_fail(r->err, JOUST_INVALID,
                          "%s: eos_token_id: expected token ids below vocab_size %u", r->path,
                          c->vocab_size);
    if (c->n_end_tokens == JOUST_MAX_END_TOKENS)
        return joust_fail(r->err, JOUST_UNSUPPORTED, "%s: eos_token_id: more than %u tokens",
                          r->path, JOUST_MAX_END_TOKENS);
    c->end_tokens[c->n_end_tokens++] = (uint32_t)id;
    return JOUST_OK;
}

static joust_status read_tokens(const reader *r, joust_model_config *c)
{
    const json_t *ends = json_object_get(r->json, "eos_token_id");
    joust_status st =
        joust_json_u32(r->json, r->path, "bos_token_id", UINT32_MAX, &c->bos_token, r->err);
    if (st == JOUST_OK && ends && !json_is_null(ends) && !json_is_array(ends))
        return add_end_token(r, c, ends);
    for (size_t i = 0; st == JOUST_OK && i < json_array_size(ends); i++)
        st = add_end_token(r, c, json_array_get(ends, i));
    return st;
}

static joust_status read_all(const reader *r, joust_model_config *c)
{
    joust_status st = read_family(r, c);
    if (st == JOUST_OK)
        st = read_sizes(r, c);
    if (st == JOUST_OK)
        st = read_rope(r, c);
    if (st == JOUST_OK)
        st = check_variants(r);
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
    joust_status st = joust_file_read(path, MAX_CONFIG_BYTES, &text, err);
    if (st == JOUST_OK)
        st = joust_model_config_parse(text.data, text.n, path, ret, err);
    joust_buf_fini(&text);
    return st;
}

static void add_float(joust_buf *to, const char *key, float value)
{
    joust_buf_format(to, "  \"%s\": ", key);
    joust_json_float(to, value);
    joust_buf_text(to, ",\n");
}

static void add_tokens(joust_buf *to, const joust_model_config *c)
{
    if (c->bos_token == UINT32_MAX)
        joust_buf_text(to, "  \"bos_token_id\": null,\n");
    else
        joust_buf_format(to, "  \"bos_token_id\": %u,\n", c->bos_token);
    joust_buf_text(to, "  \"eos_token_id\": ");
    if (c->n_end_tokens == 0)
        joust_buf_text(to, "null");
    for (uint32_t i = 0; i < c->n_end_tokens; i++) {
        const char *open = c->n_end_tokens > 1 ? "[" : "";
        joust_buf_format(to, "%s%u", i ? ", " : open, c->end_tokens[i]);
    }
    joust_buf_text(to, c->n_end_tokens > 1 ? "]\n}\n" : "\n}\n");
}

joust_status joust_model_config_write(const joust_model_config *c, const char *path,
                                      joust_error *err)
{
    joust_buf text = {0};
    joust_status st = joust_model_config_validate(c, err);
    if (st != JOUST_OK)
        return st;
    joust_buf_format(&text,
                     "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"llama\",\n"
                     "  \"vocab_size\": %u,\n  \"hidden_size\": %u,\n"
                     "  \"intermediate_size\": %u,\n  \"num_hidden_layers\": %u,\n"
                     "  \"num_attention_heads\": %u,\n  \"num_key_value_heads\": %u,\n"
                     "  \"head_dim\": %u,\n  \"max_position_embeddings\": %u,\n",
                     c->architecture, c->vocab_size, c->d_model, c->d_ff, c->n_layers, c->n_heads,
                     c->n_kv_heads, c->d_head, c->context);
    add_float(&text, "rms_norm_eps", c->norm_eps);
    add_float(&text, "rope_theta", c->rope_theta);
    if (c->init_range > 0)
        add_float(&text, "initializer_range", c->init_range);
    joust_buf_format(&text,
                     "  \"hidden_act\": \"silu\",\n  \"attention_bias\": false,\n"
                     "  \"mlp_bias\": false,\n  \"tie_word_embeddings\": %s,\n"
                     "  \"torch_dtype\": \"float32\",\n",
                     c->tied ? "true" : "false");
    add_tokens(&text, c);
    st = joust_buf_status(&text, err);
    if (st == JOUST_OK)
        st = joust_file_write(path, text.data, text.n, err);
    joust_buf_fini(&text);
    return st;
}
