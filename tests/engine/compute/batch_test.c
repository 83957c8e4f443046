/* Batches over paged memory: who shares, waits or is put off changes no bit, and memory stays within
 * its budget. And what decides about a token beside the model. */
#include "engine/compute/fixture.h"
#include "oom.h"

#include <math.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "worker/engine/masks/trie.h"
#include "worker/engine/paged_cache_internal.h"
#include "worker/engine/sampler_internal.h"

#define MAX_REQUESTS 2000u
#define MAX_TOKENS   40u
#define SAMPLES      3u

typedef struct answer {
    uint32_t tokens[MAX_TOKENS], n, n_calls;
    float raw_logps[MAX_TOKENS], logps[MAX_TOKENS];
    joust_finish finish;
} answer;

typedef struct setting {
    joust_model_config config;
    joust_model *model;
    uint32_t *tokens;
    joust_stream (*streams)[SAMPLES];
    joust_generate_request *requests;
    uint32_t n;
} setting;

static answer (*answers_make(uint32_t n))[SAMPLES]
{
    answer(*a)[SAMPLES] = joust_calloc(n, sizeof(*a));
    assert_non_null(a);
    return a;
}

static joust_status keep(void *context, uint32_t request, uint32_t sample, const joust_generated *g,
                         joust_error *err)
{
    (void)err;
    answer *a = &((answer(*)[SAMPLES])context)[request][sample];
    assert_true(g->n <= MAX_TOKENS);
    a->n = g->n;
    a->n_calls++;
    a->finish = g->finish;
    memcpy(a->tokens, g->tokens, g->n * sizeof(*g->tokens));
    memcpy(a->raw_logps, g->raw_logps, g->n * sizeof(*g->raw_logps));
    memcpy(a->logps, g->logps, g->n * sizeof(*g->logps));
    return JOUST_OK;
}

/* n requests: identical prompts, prompts that begin others, and strangers; of all lengths. */
static setting setting_make(uint32_t n)
{
    setting s = {.config = fixture_odd_config(), .n = n};
    s.model = fixture_model(&s.config, 5);
    s.tokens = fixture_tokens(MAX_REQUESTS + 64, s.config.vocab_size, 33);
    s.streams = joust_calloc(n, sizeof(*s.streams));
    s.requests = joust_calloc(n, sizeof(*s.requests));
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t k = 0; k < SAMPLES; k++)
            s.streams[i][k] = fixture_stream(i, k);
        s.requests[i] = (joust_generate_request){
            .prompt = s.tokens + (i % 3 == 0 ? 0 : i),
            .n_prompt = i % 3 == 0   ? 1 + i * 7 % 38
                        : i % 3 == 1 ? 33
                                     : 1 + i % 20,
            .n_samples = 1 + i % SAMPLES,
            .streams = s.streams[i],
            .sampling = {.temperature = 0.9f, .top_p = 1, .max_tokens = 1 + i * 5 % 26}};
    }
    return s;
}

static void setting_fini(setting *s)
{
    joust_free(s->tokens);
    joust_free(s->streams);
    joust_free(s->requests);
    joust_model_free(&s->model);
}

static uint64_t page_bytes(const joust_model *m)
{
    return joust_page_floats(m) * sizeof(float);
}

static joust_engine *engine_make(uint32_t n_threads, uint64_t cache_bytes)
{
    joust_error err = {0};
    joust_engine *e;
    joust_engine_options o = {.n_threads = n_threads, .cache_bytes = cache_bytes};
    check_ok(joust_engine_create(&o, &e, &err));
    return e;
}

static void generate(joust_engine *e, const setting *s, answer (*ret)[SAMPLES])
{
    joust_error err = {0};
    check_ok(joust_generate(e, s->model, s->requests, s->n, keep, NULL, ret, &err));
    for (uint32_t i = 0; i < s->n; i++)
        for (uint32_t k = 0; k < s->requests[i].n_samples; k++)
            assert_int_equal(ret[i][k].n_calls, 1);
}

/* Each request by itself, in an engine that keeps nothing. */
static answer (*alone(const setting *s))[SAMPLES]
{
    joust_error err = {0};
    answer(*a)[SAMPLES] = answers_make(s->n);
    joust_engine *e = engine_make(1, 0);
    for (uint32_t i = 0; i < s->n; i++) {
        check_ok(joust_generate(e, s->model, &s->requests[i], 1, keep, NULL, &a[i], &err));
        joust_engine_cache_drop(e);
    }
    joust_engine_free(&e);
    return a;
}

static uint64_t pages_of(const setting *s, uint32_t i)
{
    const joust_generate_request *r = &s->requests[i];
    uint32_t room = s->config.context - r->n_prompt,
             limit = r->sampling.max_tokens < room ? r->sampling.max_tokens : room;
    return (r->n_prompt + limit - 1 + JOUST_PAGE_POSITIONS - 1) / JOUST_PAGE_POSITIONS;
}

/* From the fewest pages that can work, where sequences give way to each other, to plenty; with one
 * page less it is refused before anything runs. */
static void test_budgets(void **state)
{
    (void)state;
    joust_error err = {0};
    setting s = setting_make(60);
    answer(*expected)[SAMPLES] = alone(&s);
    const uint64_t page = page_bytes(s.model);
    uint64_t fewest = 0, n_preempted = 0;
    for (uint32_t i = 0; i < s.n; i++)
        fewest = pages_of(&s, i) > fewest ? pages_of(&s, i) : fewest;
    assert_int_equal(fewest, 3);
    for (uint64_t n_pages = fewest; n_pages < 200; n_pages += 1 + n_pages / 3)
        for (uint32_t n_threads = 1; n_threads <= 3; n_threads += 2) {
            joust_engine *e = engine_make(n_threads, n_pages * page + page / 2);
            answer(*got)[SAMPLES] = answers_make(s.n);
            generate(e, &s, got);
            assert_memory_equal(expected, got, s.n * sizeof(*got));
            joust_cache_stats stats = joust_engine_cache_stats(e);
            assert_true(stats.n_peak_bytes <= n_pages * page && stats.n_bytes <= n_pages * page);
            n_preempted += stats.n_preempted;
            joust_free(got);
            joust_engine_free(&e);
        }
    assert_true(n_preempted > 10);
    joust_engine *e = engine_make(2, fewest * page - 1);
    check_status(JOUST_TOO_LARGE,
                 joust_generate(e, s.model, s.requests, s.n, keep, NULL, expected, &err));
    assert_non_null(strstr(err.text, "cache_bytes"));
    assert_int_equal(joust_engine_cache_stats(e).n_computed_tokens, 0);
    joust_engine_free(&e);
    joust_free(expected);
    setting_fini(&s);
}

/* A prefix is computed once: in a batch, and for the next call, until the weights change. */
static void test_sharing(void **state)
{
    (void)state;
    setting s = setting_make(30);
    for (uint32_t i = 0; i < s.n; i++) { /* the same 32 tokens, then others */
        s.requests[i].prompt = s.tokens;
        s.requests[i].n_prompt = 33;
        s.requests[i].sampling.max_tokens = 4;
        s.requests[i].n_samples = 1;
    }
    answer(*expected)[SAMPLES] = alone(&s), (*got)[SAMPLES] = answers_make(s.n);
    joust_engine *e = engine_make(2, 0);
    generate(e, &s, got);
    assert_memory_equal(expected, got, s.n * sizeof(*got));
    joust_cache_stats first = joust_engine_cache_stats(e), again;
    assert_true(first.n_computed_tokens <= 32 + s.n * 4);
    memset(got, 0, s.n * sizeof(*got));
    generate(e, &s, got);
    assert_memory_equal(expected, got, s.n * sizeof(*got));
    again = joust_engine_cache_stats(e);
    assert_true(again.n_computed_tokens - first.n_computed_tokens <= s.n * 4);

    uint64_t n;
    float *weights = joust_model_weights(s.model, &n);
    for (uint64_t i = 0; i < n; i++)
        weights[i] *= 1.01f;
    joust_model_changed(s.model);
    answer(*changed)[SAMPLES] = alone(&s);
    memset(got, 0, s.n * sizeof(*got));
    generate(e, &s, got);
    assert_memory_equal(changed, got, s.n * sizeof(*got));
    assert_memory_not_equal(changed, expected, s.n * sizeof(*got));

    /* Another model, at the address that the first one had or elsewhere, shares nothing with it. */
    joust_model_free(&s.model);
    s.model = fixture_model(&s.config, 6);
    answer(*other)[SAMPLES] = alone(&s);
    memset(got, 0, s.n * sizeof(*got));
    generate(e, &s, got);
    assert_memory_equal(other, got, s.n * sizeof(*got));
    joust_free(expected);
    joust_free(changed);
    joust_free(other);
    joust_free(got);
    joust_engine_free(&e);
    setting_fini(&s);
}

/* Two models of unlike shape take turns in a budget that holds the prefixes of neither whole. */
static void test_two_models(void **state)
{
    (void)state;
    setting a = setting_make(12), b = setting_make(12);
    joust_model_free(&b.model);
    b.config = fixture_even_config();
    b.model = fixture_model(&b.config, 9);
    for (uint32_t i = 0; i < b.n; i++)
        for (uint32_t k = 0; k < MAX_REQUESTS + 64; k++)
            b.tokens[k] %= b.config.vocab_size;
    answer(*of_a)[SAMPLES] = alone(&a), (*of_b)[SAMPLES] = alone(&b);
    uint64_t pages[] = {page_bytes(a.model), page_bytes(b.model)};
    uint64_t budget = 7 * (pages[0] > pages[1] ? pages[0] : pages[1]);
    joust_engine *e = engine_make(2, budget);
    for (uint32_t turn = 0; turn < 4; turn++) {
        setting *s = turn % 2 ? &b : &a;
        answer(*got)[SAMPLES] = answers_make(s->n);
        generate(e, s, got);
        assert_memory_equal(turn % 2 ? of_b : of_a, got, s->n * sizeof(*got));
        assert_true(joust_engine_cache_stats(e).n_peak_bytes <= budget);
        joust_free(got);
    }
    joust_free(of_a);
    joust_free(of_b);
    joust_engine_free(&e);
    setting_fini(&a);
    setting_fini(&b);
}

static uint32_t n_scored[MAX_REQUESTS];

static joust_status count_scored(void *context, uint32_t request, joust_error *err)
{
    (void)err;
    (void)context;
    n_scored[request]++;
    return JOUST_OK;
}

/* Thousands of requests and scores in one batch of little memory, as by themselves. */
static void test_thousands(void **state)
{
    (void)state;
    joust_error err = {0};
    setting s = setting_make(MAX_REQUESTS);
    for (uint32_t i = 0; i < s.n; i++)
        s.requests[i].sampling.max_tokens = 1 + i % 4;
    answer(*expected)[SAMPLES] = alone(&s), (*got)[SAMPLES] = answers_make(s.n);
    joust_score_request *scores = joust_calloc(s.n, sizeof(*scores));
    float(*logps)[40] = joust_calloc(s.n, sizeof(*logps)),
    (*mixed)[40] = joust_calloc(s.n, sizeof(*mixed));
    for (uint32_t i = 0; i < s.n; i++)
        scores[i] = (joust_score_request){.tokens = s.tokens + i % 50,
                                          .n = 1 + i % 40,
                                          .first = 1 + i % 7 % (1 + i % 40),
                                          .ret_logps = logps[i]};
    joust_engine *e = engine_make(2, 0);
    check_ok(joust_score(e, s.model, scores, s.n, NULL, NULL, &err));
    joust_engine_free(&e);
    for (uint32_t i = 0; i < s.n; i++)
        scores[i].ret_logps = mixed[i];
    e = engine_make(2, 9 * page_bytes(s.model));
    const joust_batch batch = {.requests = s.requests,
                               .n_requests = s.n,
                               .done = keep,
                               .scores = scores,
                               .n_scores = s.n,
                               .scored = count_scored,
                               .context = got};
    check_ok(joust_batch_run(e, s.model, &batch, &err));
    assert_memory_equal(expected, got, s.n * sizeof(*got));
    assert_memory_equal(logps, mixed, s.n * sizeof(*mixed));
    for (uint32_t i = 0; i < s.n; i++)
        assert_int_equal(n_scored[i], 1);
    joust_free(expected);
    joust_free(got);
    joust_free(scores);
    joust_free(logps);
    joust_free(mixed);
    joust_engine_free(&e);
    setting_fini(&s);
}

static joust_status stop_after_five(void *context, uint32_t request, uint32_t sample,
                                    const uint32_t *tokens, uint32_t n, joust_finish *ret_finish,
                                    joust_error *err)
{
    (void)context;
    (void)request;
    (void)sample;
    (void)tokens;
    (void)err;
    if (n >= 5)
        *ret_finish = JOUST_FINISH_STOP_STRING;
    return JOUST_OK;
}

/* Forced tokens, min_tokens and a watch; log-probs are scoring's, in memory that preempts too. */
static void test_rules(void **state)
{
    (void)state;
    joust_error err = {0};
    setting s = setting_make(24);
    const uint32_t end = s.config.end_tokens[0];
    for (uint32_t i = 0; i < s.n; i++) {
        s.requests[i].sampling.max_tokens = 20;
        s.requests[i].sampling.min_tokens = i % 4 == 0 ? 20 : 0;
        s.requests[i].sampling.repetition_penalty = i % 2 ? 1.3f : 0;
        s.requests[i].forced = s.tokens + 7;
        s.requests[i].n_forced = i % 5;
        s.requests[i].watch = i % 4 == 2 ? stop_after_five : NULL;
    }
    answer(*expected)[SAMPLES] = alone(&s), (*got)[SAMPLES] = answers_make(s.n);
    joust_engine *e = engine_make(3, 6 * page_bytes(s.model));
    generate(e, &s, got);
    assert_memory_equal(expected, got, s.n * sizeof(*got));
    for (uint32_t i = 0; i < s.n; i++)
        for (uint32_t k = 0; k < s.requests[i].n_samples; k++) {
            const answer *a = &got[i][k];
            const joust_generate_request *r = &s.requests[i];
            float scored[MAX_TOKENS];
            uint32_t all[128];
            assert_memory_equal(a->tokens, r->forced, r->n_forced * sizeof(uint32_t));
            for (uint32_t j = 0; j < r->n_forced; j++)
                assert_true(a->logps[j] == 0);
            for (uint32_t j = r->n_forced; j < a->n && j < r->sampling.min_tokens; j++)
                assert_int_not_equal(a->tokens[j], end);
            if (r->watch)
                assert_true(a->finish == JOUST_FINISH_STOP ? a->n <= 5 : a->n == 5);
            memcpy(all, r->prompt, r->n_prompt * sizeof(*all));
            memcpy(all + r->n_prompt, a->tokens, a->n * sizeof(*all));
            joust_score_request score = {
                .tokens = all, .n = r->n_prompt + a->n, .first = r->n_prompt, .ret_logps = scored};
            check_ok(joust_score(e, s.model, &score, 1, NULL, NULL, &err));
            assert_memory_equal(a->raw_logps, scored, a->n * sizeof(float));
        }
    s.requests[0].n_forced = 20;
    check_status(JOUST_INVALID, joust_generate(e, s.model, s.requests, 1, keep, NULL, got, &err));
    joust_free(expected);
    joust_free(got);
    joust_engine_free(&e);
    setting_fini(&s);
}

/* Responses are those of the trie, with their chances among each other; a dead end aborts. */
static void test_trie(void **state)
{
    (void)state;
    joust_error err = {0};
    setting s = setting_make(40);
    joust_trie *trie;
    const uint32_t end = s.config.end_tokens[0];
    const uint32_t lists[][4] = {{9, 8, 7, end}, {9, 8, end}, {5, end}, {6, 6, 6, 6}};
    const uint32_t n[] = {4, 3, 2, 4};
    check_ok(joust_trie_create(&trie, &err));
    for (uint32_t i = 0; i < 4; i++)
        check_ok(joust_trie_add(trie, lists[i], n[i], &err));
    check_ok(joust_trie_add(trie, lists[1], n[1], &err));
    check_status(JOUST_INVALID, joust_trie_add(trie, lists[1], 0, &err));
    uint32_t count[4] = {0};
    for (uint32_t i = 0; i < s.n; i++) {
        s.requests[i].sampling = (joust_sampling){.temperature = 3, .top_p = 1, .max_tokens = 9};
        s.requests[i].guide = joust_trie_guide;
        s.requests[i].context = trie;
    }
    answer(*expected)[SAMPLES] = alone(&s), (*got)[SAMPLES] = answers_make(s.n);
    joust_engine *e = engine_make(2, 5 * page_bytes(s.model));
    generate(e, &s, got);
    assert_memory_equal(expected, got, s.n * sizeof(*got));
    for (uint32_t i = 0; i < s.n; i++)
        for (uint32_t k = 0; k < s.requests[i].n_samples; k++) {
            const answer *a = &got[i][k];
            uint32_t which = 0;
            while (which < 4 && !(n[which] == a->n &&
                                  memcmp(lists[which], a->tokens, a->n * sizeof(uint32_t)) == 0))
                which++;
            assert_true(which < 4);
            count[which]++;
            assert_int_equal(a->finish, which == 3 ? JOUST_FINISH_ABORTED : JOUST_FINISH_STOP);
            if (which == 3) /* after the first there was no choice */
                assert_true(a->logps[1] == 0 && a->logps[2] == 0 && a->logps[0] < 0);
        }
    for (uint32_t i = 0; i < 4; i++)
        assert_true(count[i] > 0);
    joust_trie_free(&trie);
    joust_free(expected);
    joust_free(got);
    joust_engine_free(&e);
    setting_fini(&s);
}

/* The penalty against a plain restatement. */
static void test_penalty(void **state)
{
    (void)state;
    joust_error err = {0};
    enum { N = 20 };
    joust_sampler sampler;
    float logits[2 * JOUST_LANES] = {0};
    joust_stream stream = fixture_stream(8, 0), uniforms = fixture_stream(8, 1);
    for (uint32_t i = 0; i < N; i++)
        logits[i] = (float)(2 * joust_stream_normal(&stream, i));
    const uint32_t prompt[] = {3, 4, 3, 3}, tokens[] = {11, 4, 12};
    const joust_draw_rules rules = {.prompt = prompt, .n_prompt = 4, .tokens = tokens, .n = 3};
    const joust_sampling how = {
        .temperature = 0.8f, .top_p = 1, .max_tokens = 9, .repetition_penalty = 1.7f};
    double p[N], total = 0, raw = 0;
    for (uint32_t i = 0; i < N; i++) {
        bool seen = i == 3 || i == 4 || i == 11 || i == 12;
        double x = (double)logits[i];
        raw += exp(x);
        x = !seen ? x : x > 0 ? x / (double)1.7f : x * (double)1.7f;
        total += p[i] = exp(x / (double)0.8f);
    }
    check_ok(joust_sampler_init(&sampler, joust_kernels_portable(), N, &err));
    for (uint32_t i = 0; i < 2000; i++) {
        joust_draw draw;
        check_ok(joust_sampler_draw(&sampler, logits, &rules, &how,
                                    joust_stream_float(&uniforms, i), &draw, &err));
        assert_true(fabs(log(p[draw.token] / total) - (double)draw.logp) < 1e-5);
        assert_true(fabs((double)logits[draw.token] - log(raw) - (double)draw.raw_logp) < 1e-5);
    }
    joust_sampler_fini(&sampler);
}

typedef struct memory_work {
    setting *s;
    const joust_score_request *score;
    answer (*answers)[SAMPLES];
} memory_work;

/* A batch of a fresh copy of the model, guided by a fresh trie. */
static joust_status batch_from_nothing(void *context, joust_error *err)
{
    const memory_work *w = context;
    const uint32_t list[] = {9, 8, 7, 6, 5, 4, 3, 2};
    joust_score_request score = *w->score;
    joust_engine *e = NULL;
    joust_model *copy = NULL;
    joust_trie *trie = NULL;
    const joust_engine_options o = {.n_threads = 1, .cache_bytes = 6 * page_bytes(w->s->model)};
    joust_status st = joust_engine_create(&o, &e, err);
    if (!st)
        st = joust_model_clone(w->s->model, &copy, err);
    if (!st)
        st = joust_trie_create(&trie, err);
    if (!st)
        st = joust_trie_add(trie, list, 8, err);
    w->s->requests[4].context = trie;
    const joust_batch batch = {.requests = w->s->requests,
                               .n_requests = w->s->n,
                               .done = keep,
                               .scores = &score,
                               .n_scores = 1,
                               .context = w->answers};
    if (!st)
        st = joust_batch_run(e, copy, &batch, err);
    joust_trie_free(&trie);
    joust_model_free(&copy);
    joust_engine_free(&e);
    return st;
}

static void test_out_of_memory(void **state)
{
    (void)state;
    setting s = setting_make(9);
    for (uint32_t i = 0; i < s.n; i++)
        s.requests[i].sampling.repetition_penalty = 1.1f;
    s.requests[4].guide = joust_trie_guide;
    float logps[30];
    const joust_score_request score = {.tokens = s.tokens, .n = 30, .first = 1, .ret_logps = logps};
    memory_work w = {&s, &score, answers_make(s.n)};
    assert_true(check_oom(batch_from_nothing, &w) > 60);
    joust_free(w.answers);
    setting_fini(&s);
    assert_int_equal(joust_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets),    cmocka_unit_test(test_sharing),
        cmocka_unit_test(test_two_models), cmocka_unit_test(test_thousands),
        cmocka_unit_test(test_rules),      cmocka_unit_test(test_trie),
        cmocka_unit_test(test_penalty),    cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
