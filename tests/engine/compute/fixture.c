#include "engine/compute/fixture.h"

#include "proto/base/alloc.h"
#include "worker/engine/kernels/kernels_internal.h"
#include "worker/engine/model_internal.h"

joust_model_config fixture_odd_config(void)
{
    return (joust_model_config){.architecture = "LlamaForCausalLM",
                                .n_layers = 2,
                                .d_model = 20,
                                .n_heads = 4,
                                .n_kv_heads = 2,
                                .d_head = 6,
                                .d_ff = 27,
                                .vocab_size = 37,
                                .context = 48,
                                .norm_eps = 1e-5f,
                                .rope_theta = 1e4f,
                                .bos_token = UINT32_MAX,
                                .n_end_tokens = 1,
                                .end_tokens = {3}};
}

joust_model_config fixture_even_config(void)
{
    joust_model_config c = fixture_odd_config();
    c.d_model = 32;
    c.n_heads = c.n_kv_heads = 2;
    c.d_head = 16;
    c.d_ff = 64;
    c.vocab_size = 64;
    c.tied = true;
    return c;
}

uint32_t fixture_families(joust_model_config ret[FIXTURE_FAMILIES])
{
    for (uint32_t i = 0; i < FIXTURE_FAMILIES; i++)
        ret[i] = i % 2 ? fixture_odd_config() : fixture_even_config();
    ret[0].family = JOUST_FAMILY_QWEN2;
    ret[1].family = JOUST_FAMILY_QWEN3;
    ret[2].family = JOUST_FAMILY_MISTRAL;
    ret[2].window = 5;
    ret[3].family = JOUST_FAMILY_QWEN2;
    ret[3].window = 18; /* more than a page of keys; in the last layer only */
    ret[3].first_window_layer = 1;
    ret[4].rope_scaling = (joust_rope_scaling){.kind = JOUST_ROPE_LLAMA3,
                                               .factor = 8,
                                               .low_freq_factor = 1,
                                               .high_freq_factor = 4,
                                               .original_context = 16};
    ret[4].rope_theta = 500;
    ret[5].family = JOUST_FAMILY_QWEN3;
    ret[5].tied = true;
    ret[5].window = 1;
    ret[5].rope_scaling = (joust_rope_scaling){.kind = JOUST_ROPE_LINEAR, .factor = 3};
    ret[6].attention_bias = ret[6].mlp_bias = true;
    ret[6].rope_scaling = (joust_rope_scaling){.kind = JOUST_ROPE_YARN,
                                               .factor = 3,
                                               .beta_fast = 2,
                                               .beta_slow = 0.25f,
                                               .attention_factor = 1.25f,
                                               .whole = true,
                                               .original_context = 16};
    ret[6].rope_theta = 50;
    ret[7].family = JOUST_FAMILY_QWEN3;
    ret[7].attention_bias = true;
    return FIXTURE_FAMILIES;
}

joust_model *fixture_model(const joust_model_config *config, uint64_t seed)
{
    joust_error err = {0};
    joust_model *m;
    check_ok(joust_model_init(config, seed, &m, &err));
    joust_stream stream = fixture_stream(seed, UINT32_MAX);
    uint32_t n;
    const joust_tensor *t = joust_model_tensors(m, &n);
    for (uint32_t i = 0; i < n; i++)
        for (uint64_t k = 0; t[i].n_dims == 1 && k < t[i].n; k++)
            t[i].data[k] = 0.5f + joust_stream_float(&stream, i * 1000 + k);
    joust_model_changed(m);
    return m;
}

static void tensors_round(const joust_tensor *t, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        for (uint64_t k = 0; t[i].n_dims == 2 && k < t[i].n; k++)
            t[i].data[k] = joust_bf16_rounded(t[i].data[k]);
}

void fixture_round(joust_model *m)
{
    uint32_t n;
    const joust_tensor *t = joust_model_tensors(m, &n);
    tensors_round(t, n);
    t = joust_model_adapter_tensors(m, &n);
    tensors_round(t, n);
    joust_model_changed(m);
}

void fixture_adapt(joust_model *m, const joust_lora_settings *settings,
                   const joust_stream_name *name)
{
    joust_error err = {0};
    check_ok(joust_model_adapt(m, settings, name, &err));
    const joust_trained b = joust_model_trained(m);
    const joust_stream stream = fixture_stream(8, 0);
    for (uint64_t i = 0; i < b.n; i++)
        b.weights[i] += (float)(0.1 * joust_stream_normal(&stream, i));
    joust_model_trained_changed(m);
}

joust_engine *fixture_engine(uint32_t n_threads, joust_isa isa)
{
    joust_error err = {0};
    joust_engine *e;
    joust_engine_options options = {.n_threads = n_threads, .isa = isa};
    check_ok(joust_engine_create(&options, &e, &err));
    return e;
}

uint32_t fixture_isas(joust_isa ret[3])
{
    const joust_isa all[] = {JOUST_ISA_PORTABLE, JOUST_ISA_AVX2, JOUST_ISA_AVX512};
    uint32_t n = 0;
    for (uint32_t i = 0; i < 3; i++) {
        joust_engine_options options = {.n_threads = 1, .isa = all[i]};
        joust_engine *e;
        if (joust_engine_create(&options, &e, NULL) == JOUST_OK) {
            ret[n++] = all[i];
            joust_engine_free(&e);
        }
    }
    return n;
}

joust_stream fixture_stream(uint64_t seed, uint32_t sample)
{
    joust_stream_name name = {.job_seed = seed, .sample = sample, .purpose = JOUST_PURPOSE_TEST};
    return joust_stream_open(&name);
}

uint32_t *fixture_tokens(uint32_t n, uint32_t vocab, uint64_t seed)
{
    uint32_t *tokens = joust_calloc(n, sizeof(*tokens));
    joust_stream stream = fixture_stream(seed, 0);
    assert_non_null(tokens);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (uint32_t)joust_stream_below(&stream, i, vocab);
    return tokens;
}

joust_train_settings fixture_params(joust_loss loss)
{
    return (joust_train_settings){.loss = loss,
                                  .beta = 0.3,
                                  .sft_weight = loss >= JOUST_LOSS_BRADLEY_TERRY ? 0 : 0.7,
                                  .objective = joust_objective_neutral(),
                                  .learning_rate = 1e-3,
                                  .min_learning_rate_ratio = 0.1,
                                  .schedule = JOUST_SCHEDULE_LINEAR,
                                  .adam_beta1 = 0.9,
                                  .adam_beta2 = 0.98,
                                  .adam_eps = 1e-8,
                                  .weight_decay = 0.01,
                                  .clip = 1,
                                  .warmup_steps = 2,
                                  .max_steps = 10};
}
