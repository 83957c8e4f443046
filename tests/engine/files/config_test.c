/* config.json: what is read, what is refused by name, what comes back after writing. */
#include "tests/check.h"

#include <stdio.h>
#include <string.h>

#include "files_fixture.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"

#define NUMBERS                                                                                    \
    "\"vocab_size\":20,\"hidden_size\":16,\"intermediate_size\":24,\"num_hidden_layers\":2,"       \
    "\"num_attention_heads\":4,\"max_position_embeddings\":32"
#define SIZES  "\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\"," NUMBERS
#define QWEN   "\"model_type\":\"qwen2\",\"num_key_value_heads\":2," NUMBERS
#define REWARD "\"architectures\":[\"LlamaForSequenceClassification\"]," NUMBERS

static joust_status parse(const char *json, joust_model_config *ret, joust_error *err)
{
    return joust_model_config_parse(json, strlen(json), "config.json", ret, err);
}

static void test_defaults(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_model_config c;
    check_ok(parse("{" SIZES "}", &c, &err));
    assert_int_equal(c.n_kv_heads, 4);
    assert_int_equal(c.d_head, 4);
    assert_int_equal(c.bos_token, UINT32_MAX);
    assert_int_equal(c.n_end_tokens, 0);
    assert_false(c.tied);
    assert_true(c.norm_eps == 1e-6f && c.rope_theta == 10000.0f);
}

static void test_all_keys(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_model_config c;
    check_ok(parse("{" SIZES ",\"num_key_value_heads\":2,\"head_dim\":8,\"rms_norm_eps\":1e-5,"
                   "\"rope_theta\":500000.0,\"tie_word_embeddings\":true,\"bos_token_id\":1,"
                   "\"eos_token_id\":[2,3],\"initializer_range\":0.02,\"rope_scaling\":null,"
                   "\"hidden_act\":\"silu\",\"attention_bias\":false,\"mlp_bias\":false,"
                   "\"sliding_window\":null,\"use_cache\":true,\"transformers_version\":\"4\"}",
                   &c, &err));
    assert_int_equal(c.n_kv_heads, 2);
    assert_int_equal(c.d_head, 8);
    assert_true(c.tied && c.rope_theta == 500000.0f && c.init_range == 0.02f);
    assert_int_equal(c.n_end_tokens, 2);
    assert_int_equal(c.end_tokens[1], 3);
    check_ok(parse("{" SIZES ",\"eos_token_id\":4,\"rope_parameters\":{\"rope_type\":\"default\","
                   "\"rope_theta\":7.5}}",
                   &c, &err));
    assert_int_equal(c.end_tokens[0], 4);
    assert_true(c.rope_theta == 7.5f);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json, *says;
        joust_status status;
    } cases[] = {
        {"{", "config.json", JOUST_MALFORMED},
        {"{" SIZES ",\"vocab_size\":3}", "duplicate", JOUST_MALFORMED},
        {"{\"model_type\":\"gpt2\"}", "model_type gpt2", JOUST_UNSUPPORTED},
        {"{\"model_type\":\"llama\",\"architectures\":[\"LlamaModel\"]}", "LlamaModel",
         JOUST_UNSUPPORTED},
        {"{\"model_type\":\"qwen2\",\"architectures\":[\"LlamaForCausalLM\"]}",
         "model_type qwen2 with architectures [LlamaForCausalLM]", JOUST_UNSUPPORTED},
        {"{\"model_type\":\"gemma2\",\"architectures\":[\"Gemma2ForCausalLM\"]}",
         "model_type gemma2", JOUST_UNSUPPORTED},
        {"{}", "model_type (none)", JOUST_UNSUPPORTED},
        {"{\"model_type\":\"llama\"}", "vocab_size is missing", JOUST_INVALID},
        {"{\"model_type\":\"llama\",\"vocab_size\":\"20\"}", "vocab_size: expected an integer",
         JOUST_INVALID},
        {"{\"model_type\":\"llama\",\"vocab_size\":-1}", "vocab_size: -1 is out of range",
         JOUST_INVALID},
        {"{" SIZES ",\"hidden_act\":\"gelu\"}", "hidden_act", JOUST_UNSUPPORTED},
        {"{" SIZES ",\"attention_bias\":1}", "attention_bias: expected", JOUST_INVALID},
        {"{" SIZES ",\"mlp_bias\":1}", "mlp_bias: expected", JOUST_INVALID},
        {"{" SIZES ",\"rope_scaling\":{\"rope_type\":\"longrope\",\"factor\":2}}",
         "rope_scaling of type \"longrope\"", JOUST_UNSUPPORTED},
        {"{" SIZES ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":-1}}", "rope factor",
         JOUST_INVALID},
        {"{" SIZES ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2,\"beta_fast\":0}}",
         "rope beta_fast", JOUST_INVALID},
        {"{" SIZES ",\"rope_theta\":1,\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2}}",
         "rope_theta must be > 1", JOUST_INVALID},
        {"{" SIZES ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":2,"
         "\"original_max_position_embeddings\":0}}",
         "rope", JOUST_INVALID},
        {"{" SIZES ",\"sliding_window\":4096}", "sliding_window", JOUST_UNSUPPORTED},
        {"{" SIZES ",\"quantization_config\":{}}", "quantization_config", JOUST_UNSUPPORTED},
        {"{" SIZES ",\"rope_scaling\":{\"rope_type\":\"llama3\"}}",
         "original_max_position_embeddings is missing", JOUST_INVALID},
        {"{" SIZES ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,"
         "\"low_freq_factor\":4,\"high_freq_factor\":4,\"original_max_position_embeddings\":9}}",
         "low_freq_factor", JOUST_INVALID},
        {"{" SIZES ",\"rope_scaling\":{\"type\":\"linear\"}}", "rope factor", JOUST_INVALID},
        {"{" SIZES ",\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2}}",
         "rope_scaling of type \"dynamic\"", JOUST_UNSUPPORTED},
        {"{" SIZES ",\"rope_scaling\":{\"factor\":2}}", "rope_scaling of type \"(none)\"",
         JOUST_UNSUPPORTED},
        {"{" SIZES ",\"rope_scaling\":[]}", "rope_scaling", JOUST_UNSUPPORTED},
        {"{" SIZES ",\"use_sliding_window\":true}", "use_sliding_window", JOUST_UNSUPPORTED},
        {"{" SIZES ",\"partial_rotary_factor\":0.5}", "partial_rotary_factor", JOUST_UNSUPPORTED},
        {"{" SIZES
         ",\"rope_parameters\":{\"rope_type\":\"default\",\"partial_rotary_factor\":0.5}}",
         "partial_rotary_factor", JOUST_UNSUPPORTED},
        {"{\"model_type\":\"mistral\",\"num_key_value_heads\":2,\"layer_types\":"
         "[\"full_attention\",\"sliding_attention\"]," NUMBERS "}",
         "layer_types", JOUST_UNSUPPORTED},
        {"{" SIZES ",\"layer_types\":[\"full_attention\"]}", "layer_types: expected a list of 2",
         JOUST_INVALID},
        {"{" SIZES ",\"layer_types\":[\"full_attention\",\"sliding_attention\"]}", "layer_types",
         JOUST_UNSUPPORTED},
        {"{" QWEN ",\"use_sliding_window\":true,\"layer_types\":[\"sliding_attention\","
         "\"full_attention\"]}",
         "layer_types", JOUST_UNSUPPORTED},
        {"{" QWEN ",\"use_sliding_window\":true,\"sliding_window\":0}", "sliding_window: must be",
         JOUST_INVALID},
        {"{" QWEN ",\"use_sliding_window\":1}", "use_sliding_window: expected", JOUST_INVALID},
        {"{" REWARD "}", "LlamaForSequenceClassification with 2 labels", JOUST_UNSUPPORTED},
        {"{" REWARD ",\"id2label\":{\"0\":\"a\",\"1\":\"b\",\"2\":\"c\"}}", "with 3 labels",
         JOUST_UNSUPPORTED},
        {"{" SIZES ",\"rope_parameters\":{\"rope_type\":\"su\"}}", "rope_scaling of type \"su\"",
         JOUST_UNSUPPORTED},
        {"{" SIZES ",\"tie_word_embeddings\":1}", "tie_word_embeddings: expected true or false",
         JOUST_INVALID},
        {"{" SIZES ",\"rms_norm_eps\":\"small\"}", "rms_norm_eps: expected a number",
         JOUST_INVALID},
        {"{" SIZES ",\"num_key_value_heads\":3}", "n_kv_heads", JOUST_INVALID},
        {"{" SIZES ",\"num_key_value_heads\":0}", "n_kv_heads", JOUST_INVALID},
        {"{" SIZES ",\"head_dim\":3}", "d_head 3 must be even", JOUST_INVALID},
        {"{" SIZES ",\"eos_token_id\":20}", "eos_token_id", JOUST_INVALID},
        {"{" SIZES ",\"eos_token_id\":[1,\"x\"]}", "eos_token_id", JOUST_INVALID},
        {"{" SIZES ",\"eos_token_id\":[1,2,3,4,5,6,7,8,9]}", "more than 8", JOUST_UNSUPPORTED},
        {"{" SIZES ",\"bos_token_id\":20}", "bos_token 20", JOUST_INVALID},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        joust_error err = {0};
        joust_model_config c;
        joust_status st = parse(cases[i].json, &c, &err);
        if (st != cases[i].status)
            fail_msg("case %zu: %s: %s", i, joust_status_name(st), err.text);
        check_text(&err, "config.json");
        check_text(&err, cases[i].says);
    }
}

static void test_families(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_model_config c;
    check_ok(parse("{" SIZES ",\"rope_theta\":500000.0,\"rope_scaling\":{\"factor\":32.0,"
                   "\"high_freq_factor\":4.0,\"low_freq_factor\":1.0,"
                   "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\"}}",
                   &c, &err));
    assert_true(c.family == JOUST_FAMILY_LLAMA && c.rope_scaling.kind == JOUST_ROPE_LLAMA3);
    assert_true(c.rope_scaling.factor == 32 && c.rope_scaling.low_freq_factor == 1 &&
                c.rope_scaling.high_freq_factor == 4 && c.rope_scaling.original_context == 8192);
    check_ok(parse("{\"model_type\":\"mistral\",\"num_key_value_heads\":4," NUMBERS "}", &c, &err));
    assert_true(c.family == JOUST_FAMILY_MISTRAL && c.window == 4096 && c.first_window_layer == 0);
    assert_string_equal(c.architecture, "MistralForCausalLM");
    check_ok(parse("{\"model_type\":\"mistral\",\"num_key_value_heads\":null,"
                   "\"sliding_window\":null," NUMBERS "}",
                   &c, &err));
    assert_true(c.window == 0 && c.n_kv_heads == 4);
    check_ok(parse("{" QWEN ",\"sliding_window\":7,\"max_window_layers\":1}", &c, &err));
    assert_true(c.family == JOUST_FAMILY_QWEN2 && c.window == 0 && c.d_head == 4);
    check_ok(parse("{" QWEN ",\"sliding_window\":7,\"max_window_layers\":1,"
                   "\"use_sliding_window\":true}",
                   &c, &err));
    assert_true(c.window == 7 && c.first_window_layer == 1);
    check_ok(parse("{" QWEN ",\"sliding_window\":7,\"use_sliding_window\":true,"
                   "\"layer_types\":[\"sliding_attention\",\"sliding_attention\"]}",
                   &c, &err));
    assert_true(c.window == 7 && c.first_window_layer == 0);
    check_ok(parse("{\"model_type\":\"qwen3\",\"num_key_value_heads\":1," NUMBERS "}", &c, &err));
    assert_true(c.family == JOUST_FAMILY_QWEN3 && c.d_head == 128);
    check_ok(parse("{" REWARD ",\"id2label\":{\"0\":\"LABEL_0\"}}", &c, &err));
    assert_true(c.scalar_head);
    assert_string_equal(c.architecture, "LlamaForSequenceClassification");
}

/* yarn's own context is where the scaling reaches; what isn't given is as in transformers. */
static void test_yarn_and_biases(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_model_config c;
    check_ok(parse("{" SIZES ",\"attention_bias\":true,\"mlp_bias\":true,\"rope_scaling\":"
                   "{\"type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":32}}",
                   &c, &err));
    assert_true(c.attention_bias && c.mlp_bias);
    assert_true(c.rope_scaling.kind == JOUST_ROPE_YARN && c.context == 128);
    assert_true(c.rope_scaling.beta_fast == 32 && c.rope_scaling.beta_slow == 1 &&
                c.rope_scaling.whole);
    assert_true(c.rope_scaling.attention_factor > 1.138629f &&
                c.rope_scaling.attention_factor < 1.138630f); /* 0.1 ln 4 + 1 */
    check_ok(parse("{" SIZES ",\"rope_parameters\":{\"rope_type\":\"yarn\",\"attention_factor\":2,"
                   "\"truncate\":false,\"original_max_position_embeddings\":16}}",
                   &c, &err));
    assert_true(c.rope_scaling.factor == 2 && c.rope_scaling.attention_factor == 2 &&
                !c.rope_scaling.whole && c.context == 32);
}

/* generation_config.json says where generation ends, as transformers does; config.json keeps its own. */
static void test_stops(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        uint32_t n, first;
        const char *fails;
    } cases[] = {{NULL, 1, 2, NULL},
                 {"{\"eos_token_id\":[5,2,7],\"do_sample\":true}", 3, 5, NULL},
                 {"{\"eos_token_id\":9}", 1, 9, NULL},
                 {"{\"eos_token_id\":null}", 1, 2, NULL},
                 {"{}", 1, 2, NULL},
                 {"{\"eos_token_id\":20}", 0, 0, "generation_config.json: eos_token_id"},
                 {"{\"eos_token_id\":\"x\"}", 0, 0, "generation_config.json: eos_token_id"},
                 {"[", 0, 0, "generation_config.json"}};
    char *dir = scratch_make();
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        joust_error err = {0};
        joust_model_config c = small_config(true);
        const uint32_t *ends;
        if (cases[i].json)
            scratch_write(dir, "generation_config.json", cases[i].json, strlen(cases[i].json));
        joust_status st = joust_model_config_read_stops(dir, &c, &err);
        if (cases[i].fails) {
            assert_true(st != JOUST_OK);
            check_text(&err, cases[i].fails);
            continue;
        }
        check_ok(st);
        assert_int_equal(joust_model_config_stops(&c, &ends), cases[i].n);
        assert_int_equal(ends[0], cases[i].first);
        assert_true(c.n_end_tokens == 1 && c.end_tokens[0] == 2);
    }
    scratch_remove(&dir);
}

static void test_heads_that_do_not_divide(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_model_config c;
    static const char json[] =
        "{\"model_type\":\"llama\",\"vocab_size\":20,\"hidden_size\":17,\"intermediate_size\":24,"
        "\"num_hidden_layers\":2,\"num_attention_heads\":4,\"max_position_embeddings\":32}";
    check_status(JOUST_INVALID, parse(json, &c, &err));
    check_text(&err, "hidden_size 17 is not a multiple of num_attention_heads 4");
}

static void test_round_trip(void **state)
{
    (void)state;
    char *dir = scratch_make(), *path = joust_path_join(dir, "config.json");
    for (int tied = 0; tied < 2; tied++) {
        joust_error err = {0};
        joust_model_config c = small_config(tied), back;
        c.norm_eps = 1.234567e-7f;
        c.init_range = tied ? 0.02f : 0;
        c.n_end_tokens = tied ? 3 : 0;
        c.end_tokens[1] = 5;
        c.end_tokens[2] = 19;
        c.bos_token = tied ? 1 : UINT32_MAX;
        c.attention_bias = c.mlp_bias = tied;
        if (tied)
            c.rope_scaling = (joust_rope_scaling){.kind = JOUST_ROPE_YARN,
                                                  .factor = 2.5f,
                                                  .beta_fast = 31.25f,
                                                  .beta_slow = 0.3f,
                                                  .attention_factor = 1.1f,
                                                  .whole = true,
                                                  .original_context = 7};
        check_ok(joust_model_config_write(&c, path, &err));
        check_ok(joust_model_config_read(path, &back, &err));
        for (uint32_t i = c.n_end_tokens; i < JOUST_MAX_END_TOKENS; i++)
            c.end_tokens[i] = 0;
        assert_string_equal(back.architecture, c.architecture);
        assert_memory_equal(&back.n_layers, &c.n_layers,
                            offsetof(joust_model_config, tied) -
                                offsetof(joust_model_config, n_layers));
        assert_true(back.tied == c.tied && back.bos_token == c.bos_token);
        assert_int_equal(back.n_end_tokens, c.n_end_tokens);
        assert_memory_equal(back.end_tokens, c.end_tokens, sizeof(c.end_tokens));
        assert_true(back.init_range == c.init_range);
        assert_true(back.attention_bias == c.attention_bias && back.mlp_bias == c.mlp_bias);
        assert_memory_equal(&back.rope_scaling.factor, &c.rope_scaling.factor, 6 * sizeof(float));
        assert_true(back.rope_scaling.kind == c.rope_scaling.kind &&
                    back.rope_scaling.whole == c.rope_scaling.whole &&
                    back.rope_scaling.original_context == c.rope_scaling.original_context);
    }
    joust_free(path);
    scratch_remove(&dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_defaults),
                                       cmocka_unit_test(test_all_keys),
                                       cmocka_unit_test(test_refused),
                                       cmocka_unit_test(test_families),
                                       cmocka_unit_test(test_yarn_and_biases),
                                       cmocka_unit_test(test_stops),
                                       cmocka_unit_test(test_heads_that_do_not_divide),
                                       cmocka_unit_test(test_round_trip)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
