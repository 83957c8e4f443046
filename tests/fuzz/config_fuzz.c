/* config.json, and adapter_config.json of the same bytes: what is accepted is valid; written again beside its own other keys it is accepted and says the same. */
#include <string.h>

#include "fuzz/fuzz.h"
#include "proto/base/alloc.h"
#include "worker/engine/files/adapter_files_internal.h"
#include "worker/engine/files/config_internal.h"
#include "worker/engine/text/json_internal.h"

static bool same_rope(const joust_model_config *a, const joust_model_config *b)
{
    const joust_rope_scaling *x = &a->rope_scaling, *y = &b->rope_scaling;
    return a->rope_theta == b->rope_theta && x->kind == y->kind && x->factor == y->factor &&
           x->low_freq_factor == y->low_freq_factor && x->high_freq_factor == y->high_freq_factor &&
           x->original_context == y->original_context && x->beta_fast == y->beta_fast &&
           x->beta_slow == y->beta_slow && x->attention_factor == y->attention_factor &&
           x->whole == y->whole;
}

static bool same(const joust_model_config *a, const joust_model_config *b)
{
    const bool sizes = a->n_layers == b->n_layers && a->d_model == b->d_model &&
                       a->n_heads == b->n_heads && a->n_kv_heads == b->n_kv_heads &&
                       a->d_head == b->d_head && a->d_ff == b->d_ff &&
                       a->vocab_size == b->vocab_size && a->context == b->context;
    const bool tokens =
        a->bos_token == b->bos_token && a->n_end_tokens == b->n_end_tokens &&
        memcmp(a->end_tokens, b->end_tokens, a->n_end_tokens * sizeof(*a->end_tokens)) == 0;
    return sizes && tokens && same_rope(a, b) && strcmp(a->architecture, b->architecture) == 0 &&
           a->norm_eps == b->norm_eps && a->tied == b->tied && a->init_range == b->init_range &&
           a->family == b->family && a->window == b->window &&
           a->first_window_layer == b->first_window_layer && a->scalar_head == b->scalar_head &&
           a->attention_bias == b->attention_bias && a->mlp_bias == b->mlp_bias;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    joust_error err;
    joust_model_config config, again;
    json_t *source = NULL;
    joust_buf text = {0};
    joust_lora_settings lora;
    const char *key;
    const int64_t live = joust_alloc_live();
    if (joust_adapter_config_parse(data, n, "fuzz", &lora, &err) == JOUST_OK)
        fuzz_require(joust_lora_check(&lora, &key, &err) == JOUST_OK);
    if (joust_model_config_parse(data, n, "fuzz", &config, &err) == JOUST_OK) {
        fuzz_require(joust_model_config_validate(&config, &err) == JOUST_OK);
        fuzz_require(joust_json_parse(data, n, "fuzz", &source, &err) == JOUST_OK);
        fuzz_require(joust_model_config_format(&config, source, "float32", &text, &err) ==
                     JOUST_OK);
        fuzz_require(joust_model_config_parse(text.data, text.n, "again", &again, &err) ==
                     JOUST_OK);
        fuzz_require(same(&config, &again));
    }
    json_decref(source);
    joust_buf_fini(&text);
    fuzz_require(joust_alloc_live() == live);
    return 0;
}
