/* What a model needs of a GPU, predicted, against what the emulator's GPU had allocated at most: weights of every family to the
 * byte; rollouts whose cache fills, training of every family, in both precisions, of adapters, with activations computed again,
 * with a reference that stays. */
#include "engine/cuda/device_fixture.h"
#include "engine/cuda/emulator.h"

#include "worker/engine/engine_internal.h"
#include "worker/engine/lora.h"
#include "worker/engine/memory.h"
#include "worker/engine/model_internal.h"

#define SHARE  0.03 /* that a prediction may be off */
#define PROMPT 34u
#define ANSWER 9u

/* A family's config, with vocabularies and rows that weigh. */
static joust_model_config wide(const joust_model_config *family)
{
    joust_model_config c = *family;
    c.vocab_size = 300;
    c.context = 384;
    return c;
}

static void check_share(uint64_t predicted, const char *what)
{
    const double share = ((double)predicted - (double)emulator_peak) / (double)emulator_peak;
    print_message("%s: allocated %.1f kB, predicted %+.1f %%\n", what, (double)emulator_peak / 1e3,
                  100 * share);
    if (!(share > -SHARE && share < SHARE))
        fail_msg("%s: predicted %llu bytes, allocated were %llu (%+.1f %%)", what,
                 (unsigned long long)predicted, (unsigned long long)emulator_peak, 100 * share);
}

/* The model on the device: exact, and the upload's block as well. From here on the peak is of what follows. */
static void check_weights(joust_engine *e, joust_model *m, const joust_memory_plan *p)
{
    joust_error err = {0};
    const joust_memory_device need = joust_memory_predict_device(&m->config, p);
    const uint64_t before = emulator_used;
    emulator_peak = before;
    check_ok(joust_model_upload(e, m, &err));
    assert_int_equal(emulator_used - before, need.weights + need.adapter);
    assert_int_equal(emulator_peak - before, need.weights + need.upload);
    emulator_peak = emulator_used;
}

static joust_model *model_make(const joust_model_config *c, const joust_memory_plan *p)
{
    joust_error err = {0};
    joust_model *m = fixture_model(c, 1);
    if (p->lora.rank)
        check_ok(joust_model_adapt(m, &p->lora, &(joust_stream_name){.purpose = JOUST_PURPOSE_INIT},
                                   &err));
    return m;
}

/* ---- training -------------------------------------------------------------------------------- */

static void check_training(const joust_model_config *c, const joust_memory_plan *p)
{
    enum { MOST = 4 };
    joust_error err = {0};
    joust_pair_row rows[MOST];
    joust_train_settings settings = fixture_params(JOUST_LOSS_DPO);
    const bool kept = p->reference == JOUST_MEMORY_REFERENCE_KEPT;
    const joust_memory_device need = joust_memory_predict_device(c, p);
    uint32_t *tokens = fixture_tokens(PROMPT + 2 * ANSWER + MOST, c->vocab_size, 1);
    assert_true(p->batch_size <= MOST);
    for (uint32_t i = 0; i < p->batch_size; i++)
        rows[i] = (joust_pair_row){.prompt = tokens + i,
                                   .n_prompt = PROMPT,
                                   .chosen = tokens + i + PROMPT,
                                   .n_chosen = ANSWER,
                                   .rejected = tokens + i + PROMPT + ANSWER,
                                   .n_rejected = ANSWER};
    settings.recompute = p->recompute;
    if (kept) {
        settings.objective.reference_sync_steps = 1;
        settings.objective.reference_mixup = 0.5;
    }
    joust_engine *e = engine_on(true, p->precision);
    joust_engine_set_cache(e, p->cache_bytes);
    joust_model *m = model_make(c, p), *other = NULL;
    joust_trainer *t;
    joust_step_report report;
    assert_int_equal(emulator_used, 0);
    check_weights(e, m, p);
    check_ok(joust_trainer_create(e, m, &settings, &t, &err));
    if (kept) {
        check_ok(joust_model_clone(m, &other, &err));
        check_ok(joust_trainer_take_reference(t, &other, &err));
    }
    for (uint32_t i = 0; i < (kept ? 2u : 1u); i++) /* between two the reference follows */
        check_ok(joust_trainer_step_pairs(t, rows, p->batch_size, &report, &err));
    const uint64_t own =
        need.weights + need.adapter + need.optimizer + need.gradients + need.activations;
    if (kept) { /* the block by which it is uploaded hides the rest */
        assert_int_equal(need.training, own + need.weights + need.upload);
        emulator_peak -= need.upload;
    }
    check_share(kept ? own + need.weights : own, kept ? "with a reference" : "training");
    joust_trainer_free(&t);
    joust_model_free(&m);
    joust_engine_free(&e);
    joust_free(tokens);
    assert_int_equal(emulator_used, 0);
}

static const joust_memory_plan PAIRS = {
    .batch_size = 3, .row_tokens = PROMPT + 2 * ANSWER, .row_answers = 2 * ANSWER};

static void test_training(void **state)
{
    joust_model_config all[FIXTURE_FAMILIES];
    (void)state;
    for (uint32_t i = 0, n = fixture_families(all); i < n; i++) {
        const joust_model_config c = wide(&all[i]);
        joust_memory_plan p = PAIRS;
        check_training(&c, &p);
        p.precision = JOUST_PRECISION_BF16;
        p.recompute = i % 2;
        check_training(&c, &p);
    }
}

static void test_adapters(void **state)
{
    static const uint32_t targets[] = {JOUST_LORA_ALL, JOUST_LORA_Q | JOUST_LORA_V,
                                       JOUST_LORA_DOWN | JOUST_LORA_UP};
    const joust_model_config odd = fixture_odd_config(), c = wide(&odd);
    (void)state;
    for (uint32_t i = 0; i < 6; i++) {
        joust_memory_plan p = PAIRS;
        p.precision = i % 2 ? JOUST_PRECISION_BF16 : JOUST_PRECISION_F32;
        p.lora = (joust_lora_settings){.rank = 5, .targets = targets[i / 2], .alpha = 5};
        p.recompute = i == 2;
        check_training(&c, &p);
    }
}

/* One that scores every step, kept up to date. */
static void test_reference(void **state)
{
    const joust_model_config odd = fixture_odd_config(), c = wide(&odd);
    joust_memory_plan p = PAIRS;
    (void)state;
    p.reference = JOUST_MEMORY_REFERENCE_KEPT;
    p.cache_bytes = 1 << 20;
    check_training(&c, &p);
    p.precision = JOUST_PRECISION_BF16;
    check_training(&c, &p);
}

/* ---- rollouts -------------------------------------------------------------------------------- */

static joust_status drop(void *context, uint32_t request, uint32_t sample, const joust_generated *g,
                         joust_error *err)
{
    (void)context, (void)request, (void)sample, (void)g, (void)err;
    return JOUST_OK;
}

/* Passes full of prompts; then more sequences than the cache has pages for, one of them long. */
static void check_rollout(const joust_model_config *c, joust_precision precision, uint32_t rank)
{
    enum { N = 44, LONG = 300 };
    joust_error err = {0};
    joust_stream streams[N];
    joust_generate_request requests[N];
    joust_memory_plan p = {.precision = precision,
                           .n_sequences = N,
                           .batch_size = 1,
                           .row_tokens = LONG + 6,
                           .row_answers = 6};
    if (rank)
        p.lora = (joust_lora_settings){.rank = rank, .targets = JOUST_LORA_ALL, .alpha = 4};
    uint32_t *tokens = fixture_tokens(LONG + N, c->vocab_size, 1);
    for (uint32_t i = 0; i < N; i++) {
        streams[i] = fixture_stream(i, 0);
        requests[i] =
            (joust_generate_request){.prompt = tokens + i,
                                     .n_prompt = i ? 20 : LONG,
                                     .n_samples = 1,
                                     .streams = &streams[i],
                                     .sampling = {.temperature = 1, .top_p = 1, .max_tokens = 22},
                                     .ignore_end = true};
    }
    p.cache_bytes = 130 * joust_memory_predict_device(c, &p).page;
    const joust_memory_device need = joust_memory_predict_device(c, &p);
    joust_engine *e = engine_on(true, precision);
    joust_engine_set_cache(e, p.cache_bytes);
    joust_model *m = model_make(c, &p);
    check_weights(e, m, &p);
    check_ok(joust_generate(e, m, requests, N, drop, NULL, NULL, &err));
    assert_int_equal(need.rollout, need.weights + need.upload >
                                           need.weights + need.adapter + need.cache + need.pass
                                       ? need.weights + need.upload
                                       : need.weights + need.adapter + need.cache + need.pass);
    check_share(need.weights + need.adapter + need.cache + need.pass, "a rollout");
    joust_model_free(&m);
    joust_engine_free(&e);
    joust_free(tokens);
    assert_int_equal(emulator_used, 0);
}

static void test_rollout(void **state)
{
    const joust_model_config odd = fixture_odd_config(), even = fixture_even_config(),
                             a = wide(&odd), b = wide(&even);
    (void)state;
    check_rollout(&a, JOUST_PRECISION_F32, 0);
    check_rollout(&b, JOUST_PRECISION_BF16, 0);
    check_rollout(&a, JOUST_PRECISION_BF16, 4);
}

/* Keys and values may take a quarter of the GPU where nobody says otherwise, also after somebody did. */
static void test_default_cache(void **state)
{
    joust_error err = {0};
    joust_engine *e;
    const joust_engine_options o = {.n_threads = 1, .device = api};
    (void)state;
    emulator_memory = 8u << 20;
    check_ok(joust_engine_create(&o, &e, &err));
    assert_int_equal(e->cache_bytes, 2u << 20);
    joust_engine_set_cache(e, 4096);
    assert_int_equal(e->cache_bytes, 4096);
    joust_engine_set_cache(e, 0);
    assert_int_equal(e->cache_bytes, 2u << 20);
    joust_engine_free(&e);
    emulator_memory = 0;
}

int main(int argc, char **argv)
{
    if (!device_open(argc, argv))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_training), cmocka_unit_test(test_adapters),
        cmocka_unit_test(test_reference), cmocka_unit_test(test_rollout),
        cmocka_unit_test(test_default_cache)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
