/* Labels scored by servers on the loopback: by echo and by the likeliest first tokens, by servers that fail, and by a model
 * that is swapped behind its name. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "endpoint/loopback.h"
#include "proto/base/alloc.h"
#include "worker/endpoint/endpoint.h"

#define MAX_SERVERS 3u
#define N           24u

typedef struct bench {
    loopback *servers[MAX_SERVERS];
    char urls[MAX_SERVERS][64];
    joust_job_endpoint settings;
    joust_endpoint *endpoint;
    joust_endpoint_request requests[N];
    char prompts[N][64];
    uint32_t n_scored, n_failed;
    joust_endpoint_scores scores[N];
    joust_digest fingerprint;
    uint32_t tries;
    joust_status status;
    char why[1024];
} bench;

static char model[] = "test";
static const char *const yes_no[] = {" yes", " no"};

static void add_server(bench *b, loopback_options o)
{
    uint32_t i = b->settings.n_urls++;
    o.model = model;
    o.owner = o.owner ? o.owner : "vllm";
    b->servers[i] = loopback_start(&o);
    assert_non_null(b->servers[i]);
    snprintf(b->urls[i], sizeof(b->urls[i]), "http://127.0.0.1:%u/v1",
             loopback_port(b->servers[i]));
    b->settings.urls[i] = b->urls[i];
}

static int setup(void **state)
{
    bench *b = calloc(1, sizeof(*b));
    joust_job_endpoint_init(&b->settings);
    b->settings.model = model;
    b->settings.timeout_ms = 20000;
    b->settings.deadline_ms = 60000;
    b->settings.breaker_ms = 20;
    for (uint32_t i = 0; i < N; i++) {
        snprintf(b->prompts[i], sizeof(b->prompts[i]), "Is '2+%u #### %u' right?", i, i + 2);
        b->requests[i] = (joust_endpoint_request){.prompt = b->prompts[i],
                                                  .labels = yes_no,
                                                  .n_labels = 2,
                                                  .stream = {.key = {i, 7}},
                                                  .key = i};
        snprintf(b->requests[i].id, sizeof(b->requests[i].id), "q%u", i);
    }
    *state = b;
    return 0;
}

static void close_client(bench *b)
{
    joust_endpoint_free(&b->endpoint);
}

static int teardown(void **state)
{
    bench *b = *state;
    close_client(b);
    for (uint32_t i = 0; i < MAX_SERVERS; i++)
        loopback_stop(b->servers[i]);
    free(b);
    return 0;
}

static void open_client(bench *b)
{
    joust_error err;
    check_ok(joust_endpoint_create(&b->settings, &b->endpoint, &err));
    joust_endpoint_score_labels(b->endpoint);
    joust_endpoint_begin_round(b->endpoint, 1);
}

static joust_status answered(void *context, uint32_t request, joust_endpoint_answer *answer,
                             const joust_endpoint_report *report, joust_error *err)
{
    (void)context;
    (void)answer;
    (void)report;
    (void)err;
    fail_msg("request %u got an answer", request);
    return JOUST_OK;
}

static joust_status scored(void *context, uint32_t request, const joust_endpoint_scores *scores,
                           const joust_endpoint_report *report, joust_error *err)
{
    bench *b = context;
    (void)err;
    assert_int_equal(b->scores[request].n, 0); /* once each */
    assert_int_equal(scores->n, b->requests[request].n_labels);
    b->scores[request] = *scores;
    b->fingerprint = report->fingerprint;
    b->tries += report->tries;
    b->n_scored++;
    return JOUST_OK;
}

static joust_status failed(void *context, uint32_t request, const joust_error *why,
                           joust_error *err)
{
    bench *b = context;
    (void)request;
    (void)err;
    b->n_failed++;
    b->status = why->status;
    snprintf(b->why, sizeof(b->why), "%s", why->text);
    return JOUST_OK;
}

static void ask(bench *b, uint32_t n)
{
    joust_error err;
    const joust_endpoint_calls calls = {
        .answered = answered, .scored = scored, .failed = failed, .context = b};
    b->n_scored = b->n_failed = b->tries = 0;
    memset(b->scores, 0, sizeof(b->scores));
    check_ok(joust_endpoint_run(b->endpoint, b->requests, n, &calls, &err));
}

/* Whether the last answers are, to within rounding, these. */
static void check_same(const bench *b, const joust_endpoint_scores *expected)
{
    for (uint32_t i = 0; i < N; i++)
        for (uint32_t k = 0; k < 2; k++)
            if (fabs(b->scores[i].logps[k] - expected[i].logps[k]) > 1e-6)
                fail_msg("question %u, label %u: %g, expected %g", i, k, b->scores[i].logps[k],
                         expected[i].logps[k]);
}

/* What a server says in either way is the same, and what it does say. */
static void both_ways_agree(void **state)
{
    bench *b = *state;
    joust_endpoint_scores expected[N];
    add_server(b, (loopback_options){.seed = 1});
    open_client(b);
    ask(b, N);
    assert_int_equal(b->n_scored, N);
    assert_int_equal(b->tries, N);
    assert_int_equal(loopback_asked(b->servers[0]), 2 + 2 * N); /* echo: a request a label */
    memcpy(expected, b->scores, sizeof(expected));
    for (uint32_t i = 0; i < N; i++) { /* the answers that end in an odd number are right there */
        const double *p = expected[i].logps;
        assert_true(p[0] < 0 && p[1] < 0);
        assert_true((p[0] > p[1]) == (i % 2 == 1));
    }
    close_client(b);
    b->settings.scoring = JOUST_SCORING_TOP;
    open_client(b);
    ask(b, N);
    assert_int_equal(b->n_scored, N);
    assert_int_equal(loopback_asked(b->servers[0]), 2 + 2 * N + 2 + N);
    check_same(b, expected);
}

/* llama.cpp's server knows no echo, and lists likely tokens in its own form; chat has no echo anywhere. */
static void the_way_is_found_out(void **state)
{
    bench *b = *state;
    joust_endpoint_scores expected[N];
    add_server(b, (loopback_options){.owner = "llamacpp"});
    open_client(b);
    ask(b, N);
    assert_int_equal(b->n_scored, N);
    memcpy(expected, b->scores, sizeof(expected));
    close_client(b);
    b->settings.mode = JOUST_ENDPOINT_CHAT;
    open_client(b);
    ask(b, N);
    assert_int_equal(b->n_scored, N);
    check_same(b, expected);
}

static void who_gives_no_logprobs_is_told_the_remedy(void **state)
{
    bench *b = *state;
    add_server(b, (loopback_options){.no_logprobs = true});
    open_client(b);
    ask(b, N);
    assert_int_equal(b->n_failed, N);
    assert_int_equal(b->status, JOUST_UNSUPPORTED);
    assert_non_null(strstr(b->why, "can't score labels by top_logprobs"));
    assert_non_null(strstr(b->why, "use a server that gives log-probs"));
    close_client(b);
    b->settings.scoring = JOUST_SCORING_ECHO;
    open_client(b);
    ask(b, N);
    assert_int_equal(b->n_failed, N);
    assert_non_null(strstr(b->why, "say endpoint.scoring: top"));
}

/* Labels that the server doesn't name become no number. */
static void labels_that_are_not_named_are_unparsable(void **state)
{
    bench *b = *state;
    static const char *const strange[] = {" yes", " nay"};
    add_server(b, (loopback_options){.seed = 1});
    open_client(b);
    b->requests[0].labels = strange; /* no token of its own at the end of the prompt */
    ask(b, 1);
    assert_int_equal(b->n_failed, 0); /* bytes are tokens there: the label is four of them */
    assert_int_equal(b->n_scored, 1);
    close_client(b);
    b->settings.scoring = JOUST_SCORING_TOP;
    open_client(b);
    ask(b, 2);
    assert_int_equal(b->n_failed, 1);
    assert_int_equal(b->n_scored, 1);
    assert_int_equal(b->status, JOUST_MALFORMED);
    assert_non_null(strstr(b->why, "label ' nay' isn't among the likeliest first tokens"));
    snprintf(b->prompts[1], sizeof(b->prompts[1]), "REFUSE ME");
    b->requests[0].labels = yes_no;
    ask(b, 2);
    assert_int_equal(b->n_failed, 1);
    assert_int_equal(b->status, JOUST_INVALID);
    assert_non_null(strstr(b->why, "HTTP status 400: prompt refused"));
}

/* Faults of every kind change no score. */
static void faults_are_survived(void **state)
{
    bench *b = *state;
    joust_endpoint_scores expected[N];
    b->settings.timeout_ms = 400;
    for (uint32_t i = 0; i < 3; i++)
        add_server(b, (loopback_options){.seed = i, .slow_ms = 1000});
    open_client(b);
    ask(b, N);
    memcpy(expected, b->scores, sizeof(expected));
    static const loopback_fault faults[] = {LOOPBACK_SLOW, LOOPBACK_ERROR, LOOPBACK_MALFORMED,
                                            LOOPBACK_HALF, LOOPBACK_COUNT, LOOPBACK_MODEL};
    for (size_t f = 0; f < sizeof(faults) / sizeof(*faults); f++) {
        for (uint32_t i = 0; i < 3; i++)
            loopback_set_percent(b->servers[i], faults[f], 20);
        ask(b, N);
        assert_int_equal(b->n_scored, N);
        check_same(b, expected);
        if (b->tries == N)
            fail_msg("%s was never met", loopback_fault_name(faults[f]));
        for (uint32_t i = 0; i < 3; i++)
            loopback_set_percent(b->servers[i], faults[f], 0);
    }
}

/* One of several answers otherwise: it gets no work. All do: the judge goes on, and what it says is told apart. */
static void a_swapped_model_is_told_apart(void **state)
{
    bench *b = *state;
    for (uint32_t i = 0; i < 3; i++)
        add_server(b, (loopback_options){.seed = i});
    open_client(b);
    ask(b, N);
    joust_digest first = b->fingerprint;
    assert_false(joust_digest_is_zero(&first));
    loopback_set_weights(b->servers[1], 1);
    joust_endpoint_begin_round(b->endpoint, 2);
    uint64_t before = loopback_asked(b->servers[1]);
    ask(b, N);
    assert_int_equal(b->n_scored, N);
    assert_true(joust_digest_equal(&first, &b->fingerprint));
    assert_in_range(loopback_asked(b->servers[1]) - before, 1, 12); /* looks alone */
    for (uint32_t i = 0; i < 3; i++)
        loopback_set_weights(b->servers[i], 1);
    joust_endpoint_begin_round(b->endpoint, 3);
    ask(b, N);
    assert_int_equal(b->n_scored, N);
    assert_false(joust_digest_equal(&first, &b->fingerprint));
    /* Another process finds the same name, and what comes back has the one that it had. */
    joust_digest second = b->fingerprint;
    close_client(b);
    open_client(b);
    ask(b, N);
    assert_true(joust_digest_equal(&second, &b->fingerprint));
    for (uint32_t i = 0; i < 3; i++)
        loopback_set_weights(b->servers[i], 0);
    joust_endpoint_begin_round(b->endpoint, 2);
    ask(b, N);
    assert_true(joust_digest_equal(&first, &b->fingerprint));
}

/* A server that went away and came back is looked at before it is asked again. */
static void what_comes_back_is_looked_at(void **state)
{
    bench *b = *state;
    joust_digest first;
    add_server(b, (loopback_options){.seed = 1});
    open_client(b);
    ask(b, N);
    first = b->fingerprint;
    const uint16_t port = loopback_port(b->servers[0]);
    loopback_stop(b->servers[0]);
    b->servers[0] = NULL;
    b->settings.deadline_ms = 300;
    ask(b, 1); /* nobody listens */
    assert_int_equal(b->n_failed, 1);
    b->settings.deadline_ms = 60000;
    b->servers[0] = loopback_start(
        &(loopback_options){.port = port, .model = model, .owner = "vllm", .weights = 3});
    assert_non_null(b->servers[0]);
    ask(b, N);
    assert_int_equal(b->n_scored, N);
    assert_false(joust_digest_equal(&first, &b->fingerprint));
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(both_ways_agree),
        WITH(the_way_is_found_out),
        WITH(who_gives_no_logprobs_is_told_the_remedy),
        WITH(labels_that_are_not_named_are_unparsable),
        WITH(faults_are_survived),
        WITH(a_swapped_model_is_told_apart),
        WITH(what_comes_back_is_looked_at),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
