/* The engine on a device against the engine on the CPU. Without arguments the device is the emulator (emulator.h), so that
 * everything but the GPU itself is tested anywhere; `device_test PLUGIN` runs the same on a GPU (tests/gpu/run).
 *
 * float32: keys and logits have the CPU's bits, so greedy tokens are equal and log-probs differ only by how the sum over
 * the vocabulary is cut. bf16: against a CPU whose weights are rounded to bf16, within a bound. Both: equal bits alone and
 * among strangers, in any order, after a prefix, from generation and scoring. */
#include "engine/compute/fixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "worker/engine/device.h"
#include "worker/engine/hidden.h"

#define F32_BOUND  2e-6f /* log-probs, by their size */
#define BF16_BOUND 3e-2f
#define MAX_TOKENS 48u
#define REQUESTS   6u
#define SAMPLES    3u

#if defined(JOUST_EMULATED)
const joust_device_api *joust_device_entry(void);
#endif
static const joust_device_api *api;

static uint64_t page_bytes(const joust_model_config *c, joust_precision precision)
{
    joust_error err = {0};
    joust_device *d;
    check_ok(api->open(&(joust_device_options){.precision = precision}, &d, &err));
    const uint64_t n = api->page_bytes(d, c);
    api->close(&d);
    return n;
}

static joust_engine *engine_on(const joust_device_api *device, joust_precision precision,
                               uint64_t cache_bytes)
{
    joust_error err = {0};
    joust_engine *e;
    const joust_engine_options o = {
        .n_threads = 2,
        .cache_bytes = cache_bytes,
        .device = device,
        .on_device = {.precision = device ? precision : JOUST_PRECISION_F32}};
    check_ok(joust_engine_create(&o, &e, &err));
    return e;
}

/* ---- what is generated and scored ------------------------------------------------------------ */

typedef struct answer {
    uint32_t tokens[MAX_TOKENS], n;
    float raw[MAX_TOKENS], logps[MAX_TOKENS];
    joust_finish finish;
} answer;

static joust_status keep(void *context, uint32_t request, uint32_t sample, const joust_generated *g,
                         joust_error *err)
{
    answer *a = (answer *)context + request * SAMPLES + sample;
    (void)err;
    assert_true(g->n <= MAX_TOKENS);
    memset(a, 0, sizeof(*a));
    memcpy(a->tokens, g->tokens, g->n * sizeof(*g->tokens));
    memcpy(a->raw, g->raw_logps, g->n * sizeof(*g->raw_logps));
    memcpy(a->logps, g->logps, g->n * sizeof(*g->logps));
    a->n = g->n;
    a->finish = g->finish;
    return JOUST_OK;
}

/* Requests of several lengths and settings: device draws, host draws, forced tokens, a prompt with a common prefix. */
typedef struct work {
    uint32_t *tokens;
    joust_stream streams[REQUESTS][SAMPLES];
    joust_generate_request requests[REQUESTS];
} work;

static void work_make(work *w, const joust_model_config *c)
{
    static const uint32_t lengths[REQUESTS] = {1, 16, 7, 17, 20, 3};
    w->tokens = fixture_tokens(64, c->vocab_size, 5);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        for (uint32_t k = 0; k < SAMPLES; k++)
            w->streams[i][k] = fixture_stream(40 + i, k);
        w->requests[i] = (joust_generate_request){
            .prompt = w->tokens + (i == 4 ? 0 : i), /* 1's and more */
            .n_prompt = lengths[i],
            .n_samples = 1 + i % SAMPLES,
            .streams = w->streams[i],
            .sampling = {.temperature = 1, .top_p = 1, .max_tokens = 9 + i}};
    }
    w->requests[0].sampling.temperature = 0;
    w->requests[1].sampling.temperature = 0.7f;
    w->requests[2].sampling.top_k = 9; /* drawn on the host */
    w->requests[2].sampling.repetition_penalty = 1.3f;
    w->requests[3].sampling.min_p = 0.05f;
    w->requests[4].forced = w->tokens + 40;
    w->requests[4].n_forced = 3;
    w->requests[5].sampling.min_tokens = 5;
}

static void generate(joust_engine *e, joust_model *m, const joust_generate_request *requests,
                     uint32_t n, answer *ret)
{
    joust_error err = {0};
    memset(ret, 0, n * SAMPLES * sizeof(*ret));
    check_ok(joust_generate(e, m, requests, n, keep, NULL, ret, &err));
}

/* ---- against the CPU -------------------------------------------------------------------------- */

/* The model that a device of that precision computes with. */
static joust_model *model_of(const joust_model_config *c, joust_precision precision)
{
    joust_model *m = fixture_model(c, 3);
    if (precision == JOUST_PRECISION_BF16)
        fixture_round(m);
    return m;
}

static void check_near(const float *a, const float *b, uint32_t n, float bound, const char *what)
{
    for (uint32_t i = 0; i < n; i++)
        if (!(fabsf(a[i] - b[i]) <= bound * (1 + fabsf(b[i]))))
            fail_msg("%s %u: %.9g, the CPU has %.9g", what, i, (double)a[i], (double)b[i]);
}

/* Scores of a sequence, and of some tokens after it, on both. */
static void check_scores(joust_engine *cpu, joust_engine *on, joust_model *m, float bound)
{
    enum { N = 45, NEXT = 4 };
    joust_error err = {0};
    const uint32_t vocab = joust_model_get_config(m)->vocab_size;
    uint32_t *tokens = fixture_tokens(N + NEXT, vocab, 9);
    float expected[N - 1], got[N - 1], next[NEXT], next_got[NEXT];
    joust_score_request r = {.tokens = tokens,
                             .n = N,
                             .first = 1,
                             .ret_logps = expected,
                             .next = tokens + N,
                             .n_next = NEXT,
                             .ret_next_logps = next};
    check_ok(joust_score(cpu, m, &r, 1, NULL, NULL, &err));
    r.ret_logps = got;
    r.ret_next_logps = next_got;
    check_ok(joust_score(on, m, &r, 1, NULL, NULL, &err));
    check_near(got, expected, N - 1, bound, "log-prob");
    check_near(next_got, next, NEXT, bound, "next token");
    joust_free(tokens);
}

static void check_model(const joust_model_config *c, joust_precision precision)
{
    const bool exact = precision == JOUST_PRECISION_F32;
    const float bound = exact ? F32_BOUND : BF16_BOUND;
    joust_engine *cpu = engine_on(NULL, precision, 0), *on = engine_on(api, precision, 1 << 20);
    joust_model *m = model_of(c, precision);
    answer expected[REQUESTS][SAMPLES], got[REQUESTS][SAMPLES];
    work w;
    work_make(&w, c);
    check_scores(cpu, on, m, bound);
    generate(cpu, m, w.requests, REQUESTS, expected[0]);
    generate(on, m, w.requests, REQUESTS, got[0]);
    for (uint32_t i = 0; exact && i < REQUESTS; i++)
        for (uint32_t k = 0; k < w.requests[i].n_samples; k++) {
            const answer *a = &got[i][k], *b = &expected[i][k];
            assert_int_equal(a->n, b->n);
            assert_int_equal(a->finish, b->finish);
            assert_memory_equal(a->tokens, b->tokens, sizeof(a->tokens));
            check_near(a->raw, b->raw, a->n, bound, "raw log-prob");
            check_near(a->logps, b->logps, a->n, bound, "processed log-prob");
        }
    joust_free(w.tokens);
    joust_model_free(&m);
    joust_engine_free(&on);
    joust_engine_free(&cpu);
}

static void check_models(joust_precision precision)
{
    joust_model_config all[FIXTURE_FAMILIES], odd = fixture_odd_config(),
                                              even = fixture_even_config();
    check_model(&odd, precision);
    check_model(&even, precision);
    for (uint32_t i = 0, n = fixture_families(all); i < n; i++)
        check_model(&all[i], precision);
}

static void test_f32_against_cpu(void **state)
{
    (void)state;
    check_models(JOUST_PRECISION_F32);
}

static void test_bf16_against_cpu(void **state)
{
    (void)state;
    check_models(JOUST_PRECISION_BF16);
}

/* ---- the same bits ---------------------------------------------------------------------------- */

/* What was generated, scored: the same log-probs to the last bit. */
static void check_generated_scored(joust_engine *e, joust_model *m, const joust_generate_request *r,
                                   const answer *a)
{
    joust_error err = {0};
    uint32_t tokens[64 + MAX_TOKENS];
    float logps[MAX_TOKENS];
    memcpy(tokens, r->prompt, r->n_prompt * sizeof(*tokens));
    memcpy(tokens + r->n_prompt, a->tokens, a->n * sizeof(*tokens));
    joust_score_request s = {
        .tokens = tokens, .n = r->n_prompt + a->n, .first = r->n_prompt, .ret_logps = logps};
    joust_engine_cache_drop(e);
    check_ok(joust_score(e, m, &s, 1, NULL, NULL, &err));
    assert_memory_equal(logps, a->raw, a->n * sizeof(*logps));
}

static void check_invariance(const joust_model_config *c, joust_precision precision)
{
    joust_engine *e = engine_on(api, precision, 1 << 20), *tight = NULL;
    joust_model *m = model_of(c, precision);
    answer all[REQUESTS][SAMPLES], some[REQUESTS][SAMPLES], one[SAMPLES];
    joust_generate_request turned[REQUESTS];
    work w;
    work_make(&w, c);
    generate(e, m, w.requests, REQUESTS, all[0]);
    generate(e, m, w.requests, REQUESTS, some[0]); /* prefixes are there */
    assert_memory_equal(all, some, sizeof(all));
    for (uint32_t i = 0; i < REQUESTS; i++)
        turned[REQUESTS - 1 - i] = w.requests[i];
    joust_engine_cache_drop(e);
    generate(e, m, turned, REQUESTS, some[0]);
    for (uint32_t i = 0; i < REQUESTS; i++) {
        assert_memory_equal(all[i], some[REQUESTS - 1 - i], sizeof(all[i]));
        joust_engine_cache_drop(e);
        generate(e, m, &w.requests[i], 1, one); /* alone */
        assert_memory_equal(all[i], one, sizeof(one));
        check_generated_scored(e, m, &w.requests[i], &all[i][0]);
    }
    tight = engine_on(api, precision, 5 * page_bytes(c, precision));
    generate(tight, m, w.requests, REQUESTS, some[0]); /* sequences give up their pages */
    assert_memory_equal(all, some, sizeof(all));
    joust_free(w.tokens);
    joust_model_free(&m);
    joust_engine_free(&tight);
    joust_engine_free(&e);
}

static void test_invariance(void **state)
{
    (void)state;
    const joust_model_config odd = fixture_odd_config(), even = fixture_even_config();
    check_invariance(&odd, JOUST_PRECISION_F32);
    check_invariance(&odd, JOUST_PRECISION_BF16);
    check_invariance(&even, JOUST_PRECISION_BF16);
}

int main(int argc, char **argv)
{
    joust_error err = {0};
#if defined(JOUST_EMULATED)
    api = joust_device_entry();
    (void)argc, (void)argv;
#else
    if (argc != 2 || joust_device_load(argv[1], &api, &err)) {
        fprintf(stderr, "%s\n", argc == 2 ? err.text : "usage: device_test PLUGIN");
        return 1;
    }
#endif
    (void)err;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32_against_cpu),
                                       cmocka_unit_test(test_bf16_against_cpu),
                                       cmocka_unit_test(test_invariance)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
