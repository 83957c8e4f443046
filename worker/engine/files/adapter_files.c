/* An adapter in PEFT's layout: adapter_config.json and adapter_model.safetensors. */
#include "adapter_files_internal.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/base/text.h"
#include "safetensors_internal.h"
#include "worker/engine/lora_internal.h"
#include "worker/engine/text/json_internal.h"

#define MAX_CONFIG_BYTES (1u << 20)

/* ---- reading --------------------------------------------------------------------------------- */

/* Keys that say nothing about what is computed from a saved adapter, beside those that parse reads. */
static bool says_nothing(const char *key)
{
    static const char *const keys[] = {"auto_mapping",
                                       "base_model_name_or_path",
                                       "inference_mode",
                                       "init_lora_weights",
                                       "lora_dropout",
                                       "megatron_core",
                                       "peft_version",
                                       "qalora_group_size",
                                       "revision",
                                       "task_type",
                                       "ensure_weight_tying",
                                       "runtime_config",
                                       "peft_type",
                                       "r",
                                       "lora_alpha",
                                       "use_rslora",
                                       "target_modules",
                                       "bias"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++)
        if (strcmp(keys[i], key) == 0)
            return true;
    return false;
}

/* null, false, 0 or empty: PEFT writes every key, most of them so. */
static bool is_neutral(const json_t *value)
{
    return json_is_null(value) || json_is_false(value) ||
           (json_is_number(value) && json_number_value(value) == 0) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

static joust_status check_kind(json_t *o, const char *name, joust_error *err)
{
    const char *kind = NULL, *bias = NULL, *key;
    json_t *value;
    joust_status st = joust_json_text(o, name, "peft_type", &kind, err);
    if (st == JOUST_OK)
        st = joust_json_text(o, name, "bias", &bias, err);
    if (st != JOUST_OK)
        return st;
    if (!kind || strcmp(kind, "LORA") != 0)
        return joust_fail(err, JOUST_UNSUPPORTED, "%s: peft_type: '%.60s' isn't supported, LORA is",
                          name, kind ? kind : "");
    if (bias && strcmp(bias, "none") != 0)
        return joust_fail(err, JOUST_UNSUPPORTED, "%s: bias: '%.60s' isn't supported, none is",
                          name, bias);
    json_object_foreach(o, key, value)
    {
        if (!says_nothing(key) && !is_neutral(value))
            return joust_fail(err, JOUST_UNSUPPORTED,
                              "%s: %.60s: isn't supported; merge the adapter into its model where "
                              "it was trained",
                              name, key);
    }
    return JOUST_OK;
}

static joust_status parse_targets(const json_t *o, const char *name, uint32_t *ret,
                                  joust_error *err)
{
    const json_t *list = json_object_get(o, "target_modules");
    const char *text = json_string_value(list);
    *ret = text && strcmp(text, "all-linear") == 0 ? JOUST_LORA_ALL : 0;
    if (!json_is_array(list) && !*ret)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "%s: target_modules: expected a list of names, found %s", name,
                          list ? joust_json_kind(list) : "nothing");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *target = json_string_value(json_array_get(list, i));
        uint32_t bit = 1;
        while (target && bit < JOUST_LORA_ALL && strcmp(joust_lora_target_name(bit), target) != 0)
            bit *= 2;
        if (!target || bit > JOUST_LORA_ALL)
            return joust_fail(err, JOUST_UNSUPPORTED,
                              "%s: target_modules[%zu]: '%.60s' isn't supported; q_proj, k_proj, "
                              "v_proj, o_proj, gate_proj, up_proj and down_proj are",
                              name, i, target ? target : "");
        *ret |= bit;
    }
    return JOUST_OK;
}

static joust_status parse_settings(const json_t *o, const char *name, joust_lora_settings *ret,
                                   joust_error *err)
{
    const char *key;
    joust_status st = joust_json_u32(o, name, "r", 8, &ret->rank, err);
    if (st == JOUST_OK)
        st = joust_json_number(o, name, "lora_alpha", 8, &ret->alpha, err);
    if (st == JOUST_OK)
        st = joust_json_bool(o, name, "use_rslora", false, &ret->rslora, err);
    if (st == JOUST_OK)
        st = parse_targets(o, name, &ret->targets, err);
    if (st != JOUST_OK)
        return st;
    st = joust_lora_check(ret, &key, err);
    return st == JOUST_OK ? st : joust_blame(err, st, "%s: %s", name, key);
}

joust_status joust_adapter_config_parse(const void *json, size_t n, const char *name,
                                        joust_lora_settings *ret, joust_error *err)
{
    json_t *o = NULL;
    joust_lora_settings settings = {0};
    joust_status st = joust_json_parse(json, n, name, &o, err);
    if (st == JOUST_OK)
        st = check_kind(o, name, err);
    if (st == JOUST_OK)
        st = parse_settings(o, name, &settings, err);
    json_decref(o);
    if (st == JOUST_OK)
        *ret = settings;
    return st;
}

joust_status joust_adapter_read_settings(const char *dir, joust_lora_settings *ret,
                                         joust_error *err)
{
    joust_buf text = {0};
    char *path = joust_path_join(dir, JOUST_ADAPTER_CONFIG_FILE);
    joust_status st = path ? joust_file_read(path, MAX_CONFIG_BYTES, &text, err)
                           : joust_fail(err, JOUST_NOMEM, "%s: out of memory", dir);
    if (st == JOUST_OK)
        st = joust_adapter_config_parse(text.data, text.n, path, ret, err);
    joust_buf_fini(&text);
    joust_free(path);
    return st;
}

joust_status joust_adapter_check_same(const joust_lora_settings *has,
                                      const joust_lora_settings *wants, joust_error *err)
{
    if (!has)
        return JOUST_OK;
    if (!wants)
        return joust_fail(err, JOUST_INVALID,
                          "the model has an adapter, and train.lora isn't given: merge it by "
                          "`joust model convert`, or go on training it with train.lora");
    if (has->rank == wants->rank && has->targets == wants->targets &&
        has->rslora == wants->rslora && has->alpha == wants->alpha)
        return JOUST_OK;
    return joust_fail(err, JOUST_INVALID,
                      "the model's adapter has rank %u and alpha %g, train.lora asks for %u and "
                      "%g, or for other targets: merge it first by `joust model convert`",
                      has->rank, has->alpha, wants->rank, wants->alpha);
}

joust_status joust_adapter_read(joust_model *model, const char *dir, bool look_only,
                                joust_error *err)
{
    joust_lora_settings settings;
    joust_status st = joust_adapter_read_settings(dir, &settings, err);
    if (st == JOUST_OK)
        st = joust_lora_create(model, &settings, err);
    if (st != JOUST_OK)
        return st;
    uint32_t n;
    const joust_tensor *tensors = joust_model_adapter_tensors(model, &n);
    st = joust_adapter_tensors_load(dir, tensors, n, look_only, err);
    if (st != JOUST_OK)
        joust_model_adapter_drop(model);
    return st;
}

joust_status joust_model_adapter_load(joust_model *model, const char *dir, joust_error *err)
{
    return joust_adapter_read(model, dir, false, err);
}

/* ---- writing --------------------------------------------------------------------------------- */

/* The keys that PEFT needs to build the same adapter, in its order. */
static void config_format(const joust_lora_settings *s, const char *base, joust_buf *to)
{
    joust_buf_text(to, "{\n  \"base_model_name_or_path\": ");
    if (base)
        joust_json_string(to, base, strlen(base));
    else
        joust_buf_text(to, "null");
    joust_buf_text(to, ",\n  \"bias\": \"none\",\n  \"fan_in_fan_out\": false,\n"
                       "  \"inference_mode\": true,\n  \"init_lora_weights\": true,\n"
                       "  \"lora_alpha\": ");
    joust_json_double(to, s->alpha);
    joust_buf_format(to,
                     ",\n  \"lora_dropout\": 0.0,\n  \"modules_to_save\": null,\n"
                     "  \"peft_type\": \"LORA\",\n  \"r\": %u,\n  \"target_modules\": [",
                     s->rank);
    const char *between = "";
    for (uint32_t bit = 1; bit < JOUST_LORA_ALL; bit *= 2)
        if (s->targets & bit) {
            joust_buf_format(to, "%s\n    \"%s\"", between, joust_lora_target_name(bit));
            between = ",";
        }
    joust_buf_format(to,
                     "\n  ],\n  \"task_type\": \"CAUSAL_LM\",\n  \"use_dora\": false,\n"
                     "  \"use_rslora\": %s\n}\n",
                     s->rslora ? "true" : "false");
}

joust_status joust_model_adapter_save(const joust_model *model, const char *base, const char *dir,
                                      joust_error *err)
{
    uint32_t n;
    const joust_tensor *tensors = joust_model_adapter_tensors(model, &n);
    const joust_lora_settings *settings = joust_model_adapter(model);
    joust_buf text = {0};
    if (!settings)
        return joust_fail(err, JOUST_INVALID, "%s: the model has no adapter to save", dir);
    joust_status st = joust_dir_make(dir, err);
    if (st != JOUST_OK)
        return st;
    char *config = joust_path_join(dir, JOUST_ADAPTER_CONFIG_FILE),
         *weights = joust_path_join(dir, JOUST_ADAPTER_WEIGHTS_FILE);
    config_format(settings, base, &text);
    st = joust_buf_status(&text, err);
    if (st == JOUST_OK && (!config || !weights))
        st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", dir);
    if (st == JOUST_OK)
        st = joust_safetensors_write(weights, tensors, n, JOUST_DTYPE_F32, err);
    if (st == JOUST_OK)
        st = joust_file_write(config, text.data, text.n, err);
    joust_buf_fini(&text);
    joust_free(config);
    joust_free(weights);
    return st;
}
