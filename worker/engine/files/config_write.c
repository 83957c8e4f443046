/* config.json as Joust writes it: what the engine computes with, then the keys of the source that it doesn't read. */
#include <stdlib.h>
#include <string.h>

#include "config_internal.h"
#include "proto/base/bytes.h"
#include "proto/base/file.h"
#include "proto/base/text.h"
#include "worker/engine/text/json_internal.h"

/* Keys that are written here or would contradict what is: never carried over. */
static const char *const own_keys[] = {"architectures",
                                       "model_type",
                                       "vocab_size",
                                       "hidden_size",
                                       "intermediate_size",
                                       "num_hidden_layers",
                                       "num_attention_heads",
                                       "num_key_value_heads",
                                       "head_dim",
                                       "max_position_embeddings",
                                       "rms_norm_eps",
                                       "rope_theta",
                                       "rope_scaling",
                                       "rope_parameters",
                                       "initializer_range",
                                       "hidden_act",
                                       "tie_word_embeddings",
                                       "torch_dtype",
                                       "dtype",
                                       "bos_token_id",
                                       "eos_token_id",
                                       "num_labels",
                                       "sliding_window",
                                       "use_sliding_window",
                                       "max_window_layers",
                                       "layer_types",
                                       "attention_bias",
                                       "mlp_bias"};

static void add_float(joust_buf *to, const char *key, float value)
{
    joust_buf_format(to, "  \"%s\": ", key);
    joust_json_float(to, value);
    joust_buf_text(to, ",\n");
}

const char *joust_rope_name(joust_rope_kind kind)
{
    static const char *const names[] = {[JOUST_ROPE_PLAIN] = "default",
                                        [JOUST_ROPE_LINEAR] = "linear",
                                        [JOUST_ROPE_YARN] = "yarn",
                                        [JOUST_ROPE_LLAMA3] = "llama3"};
    return names[kind];
}

static void add_rope(joust_buf *to, const joust_model_config *c)
{
    const joust_rope_scaling *r = &c->rope_scaling;
    add_float(to, "rope_theta", c->rope_theta);
    if (r->kind == JOUST_ROPE_PLAIN)
        return;
    joust_buf_format(
        to, "  \"rope_scaling\": {\"rope_type\": \"%s\", \"factor\": ", joust_rope_name(r->kind));
    joust_json_float(to, r->factor);
    if (r->kind == JOUST_ROPE_YARN) {
        joust_buf_text(to, ", \"beta_fast\": ");
        joust_json_float(to, r->beta_fast);
        joust_buf_text(to, ", \"beta_slow\": ");
        joust_json_float(to, r->beta_slow);
        joust_buf_text(to, ", \"attention_factor\": ");
        joust_json_float(to, r->attention_factor);
        joust_buf_format(to, ", \"truncate\": %s, \"original_max_position_embeddings\": %u",
                         r->whole ? "true" : "false", r->original_context);
    }
    if (r->kind == JOUST_ROPE_LLAMA3) {
        joust_buf_text(to, ", \"low_freq_factor\": ");
        joust_json_float(to, r->low_freq_factor);
        joust_buf_text(to, ", \"high_freq_factor\": ");
        joust_json_float(to, r->high_freq_factor);
        joust_buf_format(to, ", \"original_max_position_embeddings\": %u", r->original_context);
    }
    joust_buf_text(to, "},\n");
}

/* Whether the source names the one label of a scalar head. */
static bool has_label(const json_t *source)
{
    return json_object_size(json_object_get(source, "id2label")) == 1;
}

static void add_family(joust_buf *to, const joust_model_config *c, const json_t *source)
{
    joust_buf_text(to, "  \"hidden_act\": \"silu\",\n");
    if (c->family == JOUST_FAMILY_LLAMA || c->family == JOUST_FAMILY_QWEN3)
        joust_buf_format(to, "  \"attention_bias\": %s,\n", c->attention_bias ? "true" : "false");
    if (c->family == JOUST_FAMILY_LLAMA)
        joust_buf_format(to, "  \"mlp_bias\": %s,\n", c->mlp_bias ? "true" : "false");
    if (c->family == JOUST_FAMILY_QWEN2 || c->family == JOUST_FAMILY_QWEN3)
        joust_buf_format(to, "  \"use_sliding_window\": %s,\n", c->window ? "true" : "false");
    if (c->window > 0)
        joust_buf_format(to, "  \"sliding_window\": %u,\n", c->window);
    else if (c->family == JOUST_FAMILY_MISTRAL)
        joust_buf_text(to, "  \"sliding_window\": null,\n");
    if (c->window > 0 && c->family != JOUST_FAMILY_MISTRAL)
        joust_buf_format(to, "  \"max_window_layers\": %u,\n", c->first_window_layer);
    if (c->scalar_head && !has_label(source))
        joust_buf_text(to, "  \"id2label\": {\"0\": \"LABEL_0\"},\n"
                           "  \"label2id\": {\"LABEL_0\": 0},\n");
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
    joust_buf_text(to, c->n_end_tokens > 1 ? "]" : "");
}

/* A window that is switched off is left as the source has it. */
static bool is_own(const joust_model_config *c, const json_t *source, const char *key)
{
    const bool qwen = c->family == JOUST_FAMILY_QWEN2 || c->family == JOUST_FAMILY_QWEN3;
    if (c->window == 0 && qwen &&
        (strcmp(key, "sliding_window") == 0 || strcmp(key, "max_window_layers") == 0))
        return false;
    if (c->scalar_head && !has_label(source) &&
        (strcmp(key, "id2label") == 0 || strcmp(key, "label2id") == 0))
        return true;
    for (size_t i = 0; i < sizeof(own_keys) / sizeof(*own_keys); i++)
        if (strcmp(key, own_keys[i]) == 0)
            return true;
    return false;
}

/* The other keys of the source, in its order. */
static joust_status add_carried(joust_buf *to, const joust_model_config *c, const json_t *source,
                                joust_error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)source, key, value)
    {
        if (is_own(c, source, key))
            continue;
        char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        if (!text)
            return joust_fail(err, JOUST_NOMEM, "config.json: out of memory");
        joust_buf_text(to, ",\n  ");
        joust_json_string(to, key, strlen(key));
        joust_buf_text(to, ": ");
        joust_buf_text(to, text);
        free(text);
    }
    return JOUST_OK;
}

joust_status joust_model_config_format(const joust_model_config *c, const json_t *source,
                                       const char *dtype, joust_buf *to, joust_error *err)
{
    joust_status st = joust_model_config_validate(c, err);
    if (st != JOUST_OK)
        return st;
    joust_buf_format(to,
                     "{\n  \"architectures\": [\"%s\"],\n  \"model_type\": \"%s\",\n"
                     "  \"vocab_size\": %u,\n  \"hidden_size\": %u,\n"
                     "  \"intermediate_size\": %u,\n  \"num_hidden_layers\": %u,\n"
                     "  \"num_attention_heads\": %u,\n  \"num_key_value_heads\": %u,\n"
                     "  \"head_dim\": %u,\n  \"max_position_embeddings\": %u,\n",
                     c->architecture, joust_model_family_type(c->family), c->vocab_size, c->d_model,
                     c->d_ff, c->n_layers, c->n_heads, c->n_kv_heads, c->d_head, c->context);
    add_float(to, "rms_norm_eps", c->norm_eps);
    add_rope(to, c);
    if (c->init_range > 0)
        add_float(to, "initializer_range", c->init_range);
    add_family(to, c, source);
    joust_buf_format(to, "  \"tie_word_embeddings\": %s,\n  \"torch_dtype\": \"%s\",\n",
                     c->tied ? "true" : "false", dtype);
    add_tokens(to, c);
    if (source)
        st = add_carried(to, c, source, err);
    joust_buf_text(to, "\n}\n");
    return st == JOUST_OK ? joust_buf_status(to, err) : st;
}

joust_status joust_model_config_write(const joust_model_config *c, const char *path,
                                      joust_error *err)
{
    joust_buf text = {0};
    joust_status st = joust_model_config_format(c, NULL, "float32", &text, err);
    if (st == JOUST_OK)
        st = joust_file_write(path, text.data, text.n, err);
    joust_buf_fini(&text);
    return st;
}
