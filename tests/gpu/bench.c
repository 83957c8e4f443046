/* gpu_bench SHAPE: generation, scoring and training on the GPU, bf16, random weights; rates beside the GPU's own bounds, which are
 * measured in the same run. Of tests/gpu/bench, which says how it is called. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_training.h"
#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "worker/engine/device.h"
#include "worker/engine/generate.h"

#define CONTEXT   4096u
#define TOKENS    128u /* of an answer */
#define PROMPT    16u
#define MANY      64u
#define SCORES    8u
#define SCORED    512u
#define N_THREADS 16u
#define WORK      64u /* of the bounds: 1 GiB */

typedef struct shape {
    const char *name;
    uint32_t n_layers, d_model, n_heads, n_kv_heads, d_ff, vocab;
    bool tied, trains; /* trains: its state fits a GPU of 80 GB */
} shape;

static const shape SHAPES[] = {
    {"0.5B", 24, 896, 14, 2, 4864, 151936, true, true},
    {"1.5B", 28, 1536, 12, 2, 8960, 151936, true, true},
    {"7B", 28, 3584, 28, 4, 18944, 152064, false, false},
    {"tiny", 2, 64, 2, 1, 96, 300, true, true}}; /* to try this program with the emulator */

typedef struct bench {
    const shape *shape;
    joust_engine *engine;
    joust_model *model;
    double n_products; /* weights of matrix products, each used once a row */
    double bytes_s, flop_s;
} bench;

static void die_on(joust_status st, const joust_error *err)
{
    if (st) {
        fprintf(stderr, "gpu_bench: %s\n", err->text);
        exit(1);
    }
}

/* ---- weights --------------------------------------------------------------------------------- */

typedef struct filling {
    float *weights;
    uint64_t first, end;
} filling;

/* Uniform in +-0.03, by position: fast, and the same everywhere. */
static void *fill(void *context)
{
    const filling *f = context;
    for (uint64_t i = f->first; i < f->end; i++) {
        uint64_t x = i * UINT64_C(0x9e3779b97f4a7c15);
        x ^= x >> 29;
        x *= UINT64_C(0xbf58476d1ce4e5b9);
        f->weights[i] = ((float)(x >> 40) / 16777216.0f - 0.5f) * 0.06f;
    }
    return NULL;
}

static joust_model *model_make(const shape *s)
{
    const joust_model_config config = {.architecture = "Qwen2ForCausalLM",
                                       .n_layers = s->n_layers,
                                       .d_model = s->d_model,
                                       .n_heads = s->n_heads,
                                       .n_kv_heads = s->n_kv_heads,
                                       .d_head = s->d_model / s->n_heads,
                                       .d_ff = s->d_ff,
                                       .vocab_size = s->vocab,
                                       .context = CONTEXT,
                                       .norm_eps = 1e-6f,
                                       .rope_theta = 1e6f,
                                       .tied = s->tied,
                                       .bos_token = UINT32_MAX,
                                       .family = JOUST_FAMILY_QWEN2};
    joust_error err = {0};
    joust_model *m;
    die_on(joust_model_create(&config, &m, &err), &err);
    uint64_t n;
    float *weights = joust_model_weights(m, &n);
    pthread_t threads[N_THREADS];
    filling parts[N_THREADS];
    for (uint32_t i = 0; i < N_THREADS; i++) {
        parts[i] = (filling){weights, n * i / N_THREADS, n * (i + 1) / N_THREADS};
        if (pthread_create(&threads[i], NULL, fill, &parts[i]))
            die_on(joust_fail(&err, JOUST_NOMEM, "no thread"), &err);
    }
    for (uint32_t i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    return m;
}

/* ---- work ------------------------------------------------------------------------------------ */

static joust_status count(void *context, uint32_t request, uint32_t sample,
                          const joust_generated *g, joust_error *err)
{
    (void)request, (void)sample, (void)err;
    *(uint64_t *)context += g->n;
    return JOUST_OK;
}

/* Tokens a second of n answers to n prompts: the second time, when shapes are recorded and memory is there. */
static double generate(bench *b, uint32_t n)
{
    static uint32_t prompt[PROMPT] = {1};
    static joust_stream streams[MANY];
    joust_error err = {0};
    double rate = 0;
    for (uint32_t i = 0; i < n; i++) {
        const joust_stream_name name = {.sample = i, .purpose = JOUST_PURPOSE_TEST};
        streams[i] = joust_stream_open(&name);
    }
    const joust_generate_request r = {
        .prompt = prompt,
        .n_prompt = PROMPT,
        .n_samples = n,
        .streams = streams,
        .ignore_end = true,
        .sampling = {.temperature = 1, .top_p = 1, .max_tokens = TOKENS}};
    for (uint32_t turn = 0; turn < 2; turn++) {
        uint64_t n_tokens = 0;
        joust_engine_cache_drop(b->engine);
        const int64_t since = joust_clock_ns();
        die_on(joust_generate(b->engine, b->model, &r, 1, count, NULL, &n_tokens, &err), &err);
        rate = (double)n_tokens / ((double)(joust_clock_ns() - since) * 1e-9);
    }
    return rate;
}

static double score(bench *b)
{
    static uint32_t tokens[SCORES][SCORED];
    static float logps[SCORES][SCORED];
    joust_score_request r[SCORES];
    joust_error err = {0};
    double rate = 0;
    for (uint32_t i = 0; i < SCORES; i++) {
        for (uint32_t k = 0; k < SCORED; k++)
            tokens[i][k] = (i * SCORED + k) * 7919u % b->shape->vocab;
        r[i] = (joust_score_request){
            .tokens = tokens[i], .n = SCORED, .first = 1, .ret_logps = logps[i]};
    }
    for (uint32_t turn = 0; turn < 2; turn++) {
        joust_engine_cache_drop(b->engine);
        const int64_t since = joust_clock_ns();
        die_on(joust_score(b->engine, b->model, r, SCORES, NULL, NULL, &err), &err);
        rate = SCORES * SCORED / ((double)(joust_clock_ns() - since) * 1e-9);
    }
    return rate;
}

static void print(const bench *b, const char *what, double rate, double share, const char *of)
{
    printf("%s  joust         %-11s %9.0f tokens/s  %5.2f of %s\n", b->shape->name, what, rate,
           share, of);
    fflush(stdout);
}

static void measure(bench *b)
{
    const double n_bytes = 2 * b->n_products;
    double rate = generate(b, 1);
    print(b, "decode 1", rate, rate * n_bytes / b->bytes_s,
          "plain reads of all weights, one a token");
    rate = generate(b, MANY);
    print(b, "decode 64", rate, rate / MANY * n_bytes / b->bytes_s,
          "plain reads of all weights, one for 64 tokens");
    rate = score(b);
    print(b, "score 8x512", rate, rate * 2 * b->n_products / b->flop_s,
          "tensor-core products in registers");
    if (!b->shape->trains)
        return;
    double products = 0;
    joust_error err = {0};
    const bool tiny = strcmp(b->shape->name, "tiny") == 0;
    die_on(bench_training(b->engine, b->model, tiny ? 1 : 4, tiny ? 16 : 128, tiny ? 32 : 448,
                          &rate, &products, &err),
           &err);
    print(b, "train 4 pairs", rate, products * b->n_products / b->flop_s,
          "tensor-core products in registers");
}

static void bounds_take(const joust_engine_options *o, bench *b)
{
    joust_error err = {0};
    joust_device *d;
    die_on(o->device->open(&o->on_device, &d, &err), &err);
    const uint32_t work = strcmp(b->shape->name, "tiny") == 0 ? 1 : WORK;
    die_on(o->device->bounds(d, work, &b->bytes_s, &b->flop_s, &err), &err);
    o->device->close(&d);
}

int main(int argc, char **argv)
{
    joust_error err = {0};
    joust_engine_options o = {0};
    bench b = {0};
    for (size_t i = 0; argc == 2 && i < sizeof(SHAPES) / sizeof(*SHAPES); i++)
        if (strcmp(argv[1], SHAPES[i].name) == 0)
            b.shape = &SHAPES[i];
    if (!b.shape) {
        fprintf(stderr, "usage: gpu_bench 0.5B | 1.5B | 7B\n");
        return 2;
    }
    die_on(joust_engine_options_device(&o, "cuda", "bf16", &err), &err);
    bounds_take(&o, &b);
    die_on(joust_engine_create(&o, &b.engine, &err), &err);
    b.model = model_make(b.shape);
    b.n_products = (double)joust_model_config_parameters(joust_model_get_config(b.model)) -
                   (b.shape->tied ? 0 : (double)b.shape->vocab * b.shape->d_model);
    printf("%s  %s, %s; plain reads %.0f GB/s, tensor-core products %.0f TFLOP/s\n", b.shape->name,
           joust_engine_device_name(b.engine), joust_engine_numeric_class(b.engine),
           b.bytes_s * 1e-9, b.flop_s * 1e-12);
    measure(&b);
    joust_model_free(&b.model);
    joust_engine_free(&b.engine);
    return 0;
}
