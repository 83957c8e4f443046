/* Predicted against resident memory: a full cache of generation, and training steps. One run a process, since freed
 * memory isn't always given back: memory_test rollout | training. */
#include "engine/compute/fixture.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/alloc.h"
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
static void test_rollout(void **state)
{
    (void)state;
    enum { N = 40 };
    joust_error err = {0};
    const joust_model_config c = medium_config();
    const joust_memory_plan plan = {.n_threads = N_THREADS, .cache_bytes = UINT64_C(64) << 20};
    joust_engine_options options = {.n_threads = N_THREADS, .cache_bytes = plan.cache_bytes};
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

static void test_training(void **state)
{
    (void)state;
    enum { N = 12, PROMPT = 100, ANSWER = 60 };
    joust_error err = {0};
    const joust_model_config c = medium_config();
    const joust_memory_plan plan = {.n_threads = N_THREADS,
                                    .batch_size = N,
                                    .row_tokens = PROMPT + 2 * ANSWER,
                                    .row_answers = 2 * ANSWER};
    joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    uint32_t *tokens = fixture_tokens(PROMPT + 2 * ANSWER + N, c.vocab_size, 1);
    joust_pair_row rows[N];
    for (uint32_t i = 0; i < N; i++)
        rows[i] = (joust_pair_row){.prompt = tokens + i,
                                   .n_prompt = PROMPT,
                                   .chosen = tokens + i + PROMPT,
                                   .n_chosen = ANSWER,
                                   .rejected = tokens + i + PROMPT + ANSWER,
                                   .n_rejected = ANSWER};
    const uint64_t before = resident();
    joust_model *m = fixture_model(&c, 1);
    joust_engine *e = fixture_engine(N_THREADS, JOUST_ISA_AUTO);
    joust_trainer *t;
    joust_step_report report;
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    for (uint32_t i = 0; i < 2; i++)
        check_ok(joust_trainer_step_pairs(t, rows, N, &report, &err));
    check_share(before, joust_memory_predict(&c, &plan).training);
    joust_free(tokens);
    joust_trainer_free(&t);
    joust_engine_free(&e);
    joust_model_free(&m);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest rollout[] = {cmocka_unit_test(test_rollout)},
                            training[] = {cmocka_unit_test(test_training)};
    if (argc == 2 && strcmp(argv[1], "training") == 0)
        return cmocka_run_group_tests(training, NULL, NULL);
    return cmocka_run_group_tests(rollout, NULL, NULL);
}
