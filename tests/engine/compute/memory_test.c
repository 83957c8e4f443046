/* Predicted against resident memory: a full cache of generation, and training steps. One run a process, since freed
 * memory isn't always given back: memory_test rollout | training | adapter | recompute | reference | bf16. */
#include "engine/compute/fixture.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "worker/engine/lora.h"
#include "worker/engine/memory.h"

#define N_THREADS 2u
#define SHARE     0.1 /* that the prediction may be off */

static uint64_t resident(void)
{
    unsigned long long size, pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%llu %llu", &size, &pages), 2);
    fclose(f);
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* About 9 million parameters; a vocabulary that weighs. */
static joust_model_config medium_config(void)
{
    joust_model_config c = fixture_odd_config();
    c.family = JOUST_FAMILY_QWEN3;
    c.n_layers = 6;
    c.d_model = 256;
    c.n_heads = 8;
    c.n_kv_heads = 4;
    c.d_head = 40;
    c.d_ff = 700;
    c.vocab_size = 8000;
    c.context = 1024;
    return c;
}

static void check_share(uint64_t before, uint64_t predicted)
{
    const uint64_t grown = resident() - before;
    const double share = ((double)predicted - (double)grown) / (double)grown;
    print_message("resident %.1f MB, predicted %.1f MB: %+.1f %%\n", (double)grown / 1e6,
                  (double)predicted / 1e6, 100 * share);
    if (!(share > -SHARE && share < SHARE))
        fail_msg("predicted %llu bytes, resident are %llu", (unsigned long long)predicted,
                 (unsigned long long)grown);
}

static joust_status drop(void *context, uint32_t request, uint32_t sample, const joust_generated *g,
                         joust_error *err)
{
    (void)context;
    (void)request;
    (void)sample;
    (void)g;
    (void)err;
    return JOUST_OK;
}

/* Requests that together want more keys than the cache holds. */
static void check_rollout(joust_precision precision)
{
    enum { N = 40 };
    joust_error err = {0};
    const joust_model_config c = medium_config();
    const joust_memory_plan plan = {
        .precision = precision, .n_threads = N_THREADS, .cache_bytes = UINT64_C(64) << 20};
    joust_engine_options options = {.n_threads = N_THREADS,
                                    .cache_bytes = plan.cache_bytes,
                                    .on_device = {.precision = precision}};
    uint32_t *tokens = fixture_tokens(600 + N, c.vocab_size, 1);
    joust_stream streams[N];
    joust_generate_request requests[N];
    for (uint32_t i = 0; i < N; i++) {
        streams[i] = fixture_stream(i, 0);
        requests[i] =
            (joust_generate_request){.prompt = tokens + i,
                                     .n_prompt = 600,
                                     .n_samples = 1,
                                     .streams = &streams[i],
                                     .sampling = {.temperature = 1, .top_p = 1, .max_tokens = 8},
                                     .ignore_end = true};
    }
    const uint64_t before = resident();
    joust_engine *e;
    joust_model *m = fixture_model(&c, 1);
    check_ok(joust_engine_create(&options, &e, &err));
    check_ok(joust_generate(e, m, requests, N, drop, NULL, NULL, &err));
    check_share(before, joust_memory_predict(&c, &plan).rollout);
    joust_free(tokens);
    joust_engine_free(&e);
    joust_model_free(&m);
}

static void test_rollout(void **state)
{
    (void)state;
    check_rollout(JOUST_PRECISION_F32);
}

/* The packed copy has half the bytes. */
static void test_bf16(void **state)
{
    (void)state;
    const joust_model_config c = medium_config();
    const joust_memory_plan f32 = {.n_threads = N_THREADS},
                            bf16 = {.precision = JOUST_PRECISION_BF16, .n_threads = N_THREADS};
    const double share = (double)joust_memory_predict(&c, &bf16).model /
                         (double)joust_memory_predict(&c, &f32).model;
    assert_true(share > 0.75 && share < 0.82); /* the embedding isn't packed here */
    check_rollout(JOUST_PRECISION_BF16);
}

/* Steps of n pairs; of an adapter alone where the settings have one. */
static void check_training(const joust_memory_plan *plan, uint32_t n_prompt, uint32_t n_answer)
{
    enum { MOST = 12 };
    joust_error err = {0};
    const joust_model_config c = medium_config();
    const uint32_t n = plan->batch_size;
    joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    p.recompute = plan->recompute;
    assert_true(n <= MOST && plan->row_tokens == n_prompt + 2 * n_answer);
    uint32_t *tokens = fixture_tokens(n_prompt + 2 * n_answer + n, c.vocab_size, 1);
    joust_pair_row rows[MOST];
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (joust_pair_row){.prompt = tokens + i,
                                   .n_prompt = n_prompt,
                                   .chosen = tokens + i + n_prompt,
                                   .n_chosen = n_answer,
                                   .rejected = tokens + i + n_prompt + n_answer,
                                   .n_rejected = n_answer};
    const uint64_t before = resident();
    joust_model *m = fixture_model(&c, 1);
    joust_engine *e;
    joust_engine_options options = {.n_threads = N_THREADS, .cache_bytes = plan->cache_bytes};
    joust_trainer *t;
    if (plan->lora.rank)
        check_ok(joust_model_adapt(m, &plan->lora,
                                   &(joust_stream_name){.purpose = JOUST_PURPOSE_INIT}, &err));
    joust_step_report report;
    check_ok(joust_engine_create(&options, &e, &err));
    const bool kept = plan->reference == JOUST_MEMORY_REFERENCE_KEPT;
    if (kept) {
        p.objective.reference_sync_steps = 1;
        p.objective.reference_mixup = 0.5;
    }
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    if (kept) {
        joust_model *other = NULL;
        check_ok(joust_model_clone(m, &other, &err));
        check_ok(joust_trainer_take_reference(t, &other, &err));
    }
    for (uint32_t i = 0; i < 2; i++)
        check_ok(joust_trainer_step_pairs(t, rows, n, &report, &err));
    check_share(before, joust_memory_predict(&c, plan).training);
    joust_free(tokens);
    joust_trainer_free(&t);
    joust_engine_free(&e);
    joust_model_free(&m);
}

static const joust_memory_plan PAIRS = {
    .n_threads = N_THREADS, .batch_size = 12, .row_tokens = 220, .row_answers = 120};

static void test_training(void **state)
{
    (void)state;
    check_training(&PAIRS, 100, 60);
}

/* A reference that scores every step stays, with the keys and values that it scores by. */
static void test_reference(void **state)
{
    (void)state;
    joust_memory_plan plan = PAIRS;
    plan.cache_bytes = UINT64_C(8) << 20;
    plan.reference = JOUST_MEMORY_REFERENCE_KEPT;
    check_training(&plan, 100, 60);
}

/* An adapter alone has moments and gradients. */
static void test_adapter(void **state)
{
    (void)state;
    joust_memory_plan plan = PAIRS;
    plan.lora = (joust_lora_settings){.rank = 16, .targets = JOUST_LORA_ALL, .alpha = 16};
    const joust_model_config c = medium_config();
    assert_true(joust_memory_predict(&c, &plan).training * 2 <
                joust_memory_predict(&c, &PAIRS).training);
    assert_true(joust_memory_predict(&c, &plan).reference == 0 &&
                joust_memory_predict(&c, &PAIRS).reference > 0);
    check_training(&plan, 100, 60);
}

/* What is computed again isn't kept: the same steps with it in less memory. */
static void test_recompute(void **state)
{
    (void)state;
    joust_memory_plan plan = {
        .n_threads = N_THREADS, .batch_size = 6, .row_tokens = 600, .row_answers = 40};
    const joust_model_config c = medium_config();
    plan.lora = (joust_lora_settings){.rank = 4, .targets = JOUST_LORA_Q, .alpha = 16};
    const uint64_t kept = joust_memory_predict(&c, &plan).training;
    plan.recompute = true;
    assert_true((double)joust_memory_predict(&c, &plan).training < 0.7 * (double)kept);
    check_training(&plan, 560, 20);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest rollout[] = {cmocka_unit_test(test_rollout)},
                            training[] = {cmocka_unit_test(test_training)},
                            adapter[] = {cmocka_unit_test(test_adapter)},
                            recompute[] = {cmocka_unit_test(test_recompute)};
    const struct CMUnitTest reference[] = {cmocka_unit_test(test_reference)},
                            bf16[] = {cmocka_unit_test(test_bf16)};
    if (argc == 2 && strcmp(argv[1], "bf16") == 0)
        return cmocka_run_group_tests(bf16, NULL, NULL);
    if (argc == 2 && strcmp(argv[1], "reference") == 0)
        return cmocka_run_group_tests(reference, NULL, NULL);
    if (argc == 2 && strcmp(argv[1], "adapter") == 0)
        return cmocka_run_group_tests(adapter, NULL, NULL);
    if (argc == 2 && strcmp(argv[1], "recompute") == 0)
        return cmocka_run_group_tests(recompute, NULL, NULL);
    if (argc == 2 && strcmp(argv[1], "training") == 0)
        return cmocka_run_group_tests(training, NULL, NULL);
    return cmocka_run_group_tests(rollout, NULL, NULL);
}
