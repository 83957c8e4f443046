/* How fast the engine is: GFLOP/s of generation, scoring and training, by the count of
 * 2 x parameters a token forward and 6 x a token trained (as shared by the field), on random
 * weights. usage: engine_bench [threads] [seconds per figure] */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "worker/engine/generate.h"
#include "worker/engine/train.h"

typedef struct shape {
    const char *name;
    joust_model_config config;
    uint32_t n_prompt, n_response, n_requests, n_samples, n_rows;
} shape;

static void die_on(joust_status st, const joust_error *err)
{
    if (st) {
        fprintf(stderr, "engine_bench: %s\n", err->text);
        exit(1);
    }
}

static joust_status count_tokens(void *context, uint32_t request, uint32_t sample,
                                 const joust_generated *result, joust_error *err)
{
    (void)request;
    (void)sample;
    (void)err;
    *(uint64_t *)context += result->n;
    return JOUST_OK;
}

static void tokens_draw(uint32_t *tokens, uint32_t n, uint32_t vocab, uint64_t seed)
{
    joust_stream_name name = {.job_seed = seed, .purpose = JOUST_PURPOSE_TEST};
    joust_stream stream = joust_stream_open(&name);
    for (uint32_t i = 0; i < n; i++)
        tokens[i] = (uint32_t)joust_stream_below(&stream, i, vocab);
}

/* When a measurement began: on the wall, and in processor time of all threads. */
typedef struct begin {
    int64_t ns;
    clock_t cpu;
} begin;

static begin begin_now(void)
{
    return (begin){joust_clock_ns(), clock()};
}

static bool goes_on(begin since, double seconds)
{
    return (double)(joust_clock_ns() - since.ns) < seconds * 1e9;
}

/* The last figure is a core's speed whatever else the machine does. */
static void print(const shape *s, const char *what, uint64_t n_tokens, uint64_t n_flop, begin since)
{
    double wall = (double)(joust_clock_ns() - since.ns) * 1e-9;
    double cpu = (double)(clock() - since.cpu) / CLOCKS_PER_SEC;
    printf("%-6s %-9s %10.0f tokens/s %8.1f GFLOP/s %8.1f GFLOP a processor second\n", s->name,
           what, (double)n_tokens / wall, (double)n_flop * 1e-9 / wall,
           (double)n_flop * 1e-9 / cpu);
    fflush(stdout);
}

static void bench_generate(joust_engine *e, joust_model *m, const shape *s, const uint32_t *tokens,
                           double seconds)
{
    uint64_t n_parameters = joust_model_config_parameters(&s->config), n = 0, n_computed = 0;
    joust_generate_request *requests = joust_calloc(s->n_requests, sizeof(*requests));
    joust_stream *streams = joust_calloc((size_t)s->n_requests * s->n_samples, sizeof(*streams));
    for (uint32_t i = 0; i < s->n_requests; i++) {
        for (uint32_t k = 0; k < s->n_samples; k++) {
            joust_stream_name name = {.job_seed = i, .sample = k, .purpose = JOUST_PURPOSE_SAMPLE};
            streams[i * s->n_samples + k] = joust_stream_open(&name);
        }
        requests[i] = (joust_generate_request){
            .prompt = tokens + i,
            .n_prompt = s->n_prompt,
            .n_samples = s->n_samples,
            .streams = streams + (size_t)i * s->n_samples,
            .sampling = {.temperature = 0.8f, .top_p = 1, .max_tokens = s->n_response},
            .ignore_end = true};
    }
    joust_error err = {0};
    const begin since = begin_now();
    while (goes_on(since, seconds)) {
        die_on(joust_generate(e, m, requests, s->n_requests, count_tokens, NULL, &n, &err), &err);
        n_computed += (uint64_t)s->n_requests * (s->n_prompt + s->n_samples * (s->n_response - 1));
    }
    print(s, "generate", n, n_computed * 2 * n_parameters, since);
    joust_free(requests);
    joust_free(streams);
}

static void bench_score(joust_engine *e, joust_model *m, const shape *s, const uint32_t *tokens,
                        double seconds)
{
    uint32_t n = s->n_prompt + s->n_response, n_requests = s->n_requests * s->n_samples;
    joust_score_request *requests = joust_calloc(n_requests, sizeof(*requests));
    float *logps = joust_calloc((size_t)n_requests * n, sizeof(*logps));
    for (uint32_t i = 0; i < n_requests; i++)
        requests[i] = (joust_score_request){
            .tokens = tokens + i, .n = n, .first = s->n_prompt, .ret_logps = logps + (size_t)i * n};
    joust_error err = {0};
    uint64_t done = 0;
    const begin since = begin_now();
    for (; goes_on(since, seconds); done += (uint64_t)n_requests * n)
        die_on(joust_score(e, m, requests, n_requests, NULL, NULL, &err), &err);
    print(s, "score", done, done * 2 * joust_model_config_parameters(&s->config), since);
    joust_free(requests);
    joust_free(logps);
}

static void bench_train(joust_engine *e, joust_model *m, const shape *s, const uint32_t *tokens,
                        double seconds)
{
    joust_train_settings params = {.loss = JOUST_LOSS_DPO,
                              .beta = 0.1,
                              .sft_weight = 2,
                              .learning_rate = 1e-4,
                              .schedule = JOUST_SCHEDULE_CONSTANT,
                              .adam_beta1 = 0.9,
                              .adam_beta2 = 0.98,
                              .adam_eps = 1e-8,
                              .clip = 1};
    joust_pair_row *rows = joust_calloc(s->n_rows, sizeof(*rows));
    for (uint32_t i = 0; i < s->n_rows; i++)
        rows[i] = (joust_pair_row){.prompt = tokens + i,
                                   .n_prompt = s->n_prompt,
                                   .chosen = tokens + i + s->n_prompt,
                                   .n_chosen = s->n_response,
                                   .rejected = tokens + i + s->n_prompt + s->n_response,
                                   .n_rejected = s->n_response};
    joust_error err = {0};
    joust_trainer *t;
    joust_step_report report;
    die_on(joust_trainer_create(e, m, &params, &t, &err), &err);
    die_on(joust_trainer_step_pairs(t, rows, s->n_rows, &report, &err), &err);
    uint64_t done = 0;
    const begin since = begin_now();
    for (; goes_on(since, seconds); done += s->n_rows * 2 * (s->n_prompt + s->n_response))
        die_on(joust_trainer_step_pairs(t, rows, s->n_rows, &report, &err), &err);
    print(s, "train", done, done * 6 * joust_model_config_parameters(&s->config), since);
    joust_trainer_free(&t);
    joust_free(rows);
}

int main(int argc, char **argv)
{
    const shape shapes[] = {
        {"0.3M",
         {.n_layers = 3,
          .d_model = 96,
          .n_heads = 4,
          .n_kv_heads = 4,
          .d_head = 24,
          .d_ff = 192,
          .vocab_size = 130,
          .context = 64,
          .norm_eps = 1e-5f,
          .rope_theta = 1e4f,
          .bos_token = UINT32_MAX},
         26,
         20,
         64,
         8,
         16},
        {"15M",
         {.n_layers = 6,
          .d_model = 288,
          .n_heads = 6,
          .n_kv_heads = 6,
          .d_head = 48,
          .d_ff = 768,
          .vocab_size = 32000,
          .context = 256,
          .norm_eps = 1e-5f,
          .rope_theta = 1e4f,
          .tied = true,
          .bos_token = UINT32_MAX},
         32,
         64,
         16,
         8,
         8},
    };
    joust_engine_options options = {.n_threads = argc > 1 ? (uint32_t)atoi(argv[1]) : 1};
    double seconds = argc > 2 ? atof(argv[2]) : 2;
    joust_error err = {0};
    joust_engine *e;
    die_on(joust_engine_create(&options, &e, &err), &err);
    printf("engine %s, %s, %u threads\n", joust_engine_numeric_class(e), joust_engine_isa_name(e),
           joust_engine_threads(e));
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        const shape *s = &shapes[i];
        uint32_t tokens[4096];
        joust_model *m;
        tokens_draw(tokens, 4096, s->config.vocab_size, i);
        die_on(joust_model_init(&s->config, 1, &m, &err), &err);
        bench_generate(e, m, s, tokens, seconds);
        bench_score(e, m, s, tokens, seconds);
        bench_train(e, m, s, tokens, seconds);
        joust_model_free(&m);
    }
    joust_engine_free(&e);
    return 0;
}
