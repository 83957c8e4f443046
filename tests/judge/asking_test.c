/* Judges whose model is served: what servers answer becomes verdicts, and what they don't becomes none. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "endpoint/loopback.h"
#include "judge/judging.h"
#include "proto/base/alloc.h"
#include "proto/base/math.h"
#include "worker/endpoint/endpoint.h"

#define N_UNITS   4u
#define N_SAMPLES 3u

typedef struct bench {
    loopback *server;
    char url[64];
    joust_job job;
    joust_job_model models[1];
    joust_job_judge judges[1];
    joust_stage stage;
    joust_lease_unit units[N_UNITS];
    joust_trajectory samples[N_UNITS][N_SAMPLES];
    char texts[N_UNITS][N_SAMPLES][64];
    joust_endpoint *endpoint;
    uint32_t n_done, n_failed;
    joust_unit_result results[N_UNITS];
    joust_status status; /* and why the last unit failed */
    char why[1024];
} bench;

static char name[] = "critic", model[] = "test", question[] = "How many?",
            yes_no_template[] = "Q: {prompt}\nA: {response}\nRight?",
            compare_template[] = "Q: {prompt}\n1: {first}\n2: {second}\nBetter:", yes[] = " yes",
            no[] = " no", absent[] = " maybe";

static int setup(void **state)
{
    bench *b = calloc(1, sizeof(*b));
    joust_job_endpoint *e = &b->models[0].endpoint;
    joust_job_endpoint_init(e);
    e->model = model;
    e->breaker_ms = 20;
    e->deadline_ms = 30000;
    b->models[0].name = name;
    b->models[0].has_endpoint = true;
    b->judges[0] = (joust_job_judge){.name = name,
                                     .kind = JOUST_JUDGE_YES_NO,
                                     .model = name,
                                     .template_text = yes_no_template,
                                     .n_labels = 2,
                                     .labels = {yes, no},
                                     .both_orders = true};
    b->job.n_models = b->job.n_judges = 1;
    b->job.models = b->models;
    b->job.judges = b->judges;
    b->stage = (joust_stage){
        .index = 1, .kind = JOUST_STAGE_JUDGE, .model = 0, .judge = 0, .samples = N_SAMPLES};
    for (uint32_t u = 0; u < N_UNITS; u++) {
        b->units[u] = (joust_lease_unit){.unit = {1, 1, u},
                                         .model = {.lineage = "critic"},
                                         .prompt = {.text = question},
                                         .n_trajectories = N_SAMPLES,
                                         .trajectories = b->samples[u]};
        for (uint32_t s = 0; s < N_SAMPLES; s++) {
            snprintf(b->texts[u][s], sizeof(b->texts[u][s]), "It is #### %u", 10 * u + s);
            b->samples[u][s] = (joust_trajectory){.sample = s, .text = b->texts[u][s]};
        }
    }
    *state = b;
    return 0;
}

static void drop_results(bench *b)
{
    for (uint32_t u = 0; u < N_UNITS; u++)
        joust_unit_result_fini(&b->results[u]);
}

static int teardown(void **state)
{
    bench *b = *state;
    drop_results(b);
    joust_endpoint_free(&b->endpoint);
    loopback_stop(b->server);
    free(b);
    return 0;
}

static joust_status done(void *context, uint32_t unit, joust_unit_result *result, joust_error *ret)
{
    bench *b = context;
    joust_error err;
    (void)ret;
    assert_int_equal(b->results[unit].n_verdicts, 0);
    for (uint32_t i = 0; i < result->n_verdicts; i++)
        check_ok(joust_verdict_validate(&result->verdicts[i], &err));
    b->results[unit] = *result;
    *result = (joust_unit_result){0};
    b->n_done++;
    return JOUST_OK;
}

static joust_status failed(void *context, uint32_t unit, const joust_error *why, joust_error *err)
{
    bench *b = context;
    (void)unit;
    (void)err;
    b->n_failed++;
    b->status = why->status;
    snprintf(b->why, sizeof(b->why), "%s", why->text);
    return JOUST_OK;
}

static void serve(bench *b, loopback_options o)
{
    joust_error err;
    o.model = model;
    o.owner = o.owner ? o.owner : "vllm";
    b->server = loopback_start(&o);
    assert_non_null(b->server);
    snprintf(b->url, sizeof(b->url), "http://127.0.0.1:%u/v1", loopback_port(b->server));
    b->models[0].endpoint.urls[0] = b->url;
    b->models[0].endpoint.n_urls = 1;
    check_ok(joust_endpoint_create(&b->models[0].endpoint, &b->endpoint, &err));
    joust_endpoint_score_labels(b->endpoint);
}

static void ask(bench *b)
{
    joust_error err;
    joust_judging *j = NULL;
    const joust_lease_unit *units[N_UNITS];
    const joust_judging_calls calls = {.done = done, .failed = failed, .context = b};
    for (uint32_t u = 0; u < N_UNITS; u++)
        units[u] = &b->units[u];
    b->n_done = b->n_failed = 0;
    drop_results(b);
    check_ok(joust_judging_create(&b->job, &b->stage, NULL, &j, &err));
    check_ok(joust_judging_ask(j, b->endpoint, units, N_UNITS, &calls, &err));
    joust_judging_free(&j);
}

static const joust_verdict *verdict(const bench *b, uint32_t unit, uint32_t i)
{
    assert_true(i < b->results[unit].n_verdicts);
    return &b->results[unit].verdicts[i];
}

static void answers_become_verdicts(void **state)
{
    bench *b = *state;
    serve(b, (loopback_options){0});
    ask(b);
    assert_int_equal(b->n_done, N_UNITS);
    for (uint32_t u = 0; u < N_UNITS; u++) {
        const joust_provenance *p = &b->results[u].provenance;
        assert_int_equal(p->n_served, N_SAMPLES);
        assert_int_equal(p->n_tokens, 2 * N_SAMPLES); /* a drawn token a label, for echo */
        for (uint32_t s = 0; s < N_SAMPLES; s++) {
            const joust_verdict *v = verdict(b, u, s);
            double covered = joust_exp(v->label_logps[0]) + joust_exp(v->label_logps[1]);
            assert_int_equal(v->outcome, JOUST_OUTCOME_OK);
            assert_true(v->value == v->label_logps[0] - v->label_logps[1]);
            assert_true((v->value > 0) == (s % 2 == 1));
            assert_float_equal(v->residual, 1 - covered, 1e-12);
            assert_false(joust_digest_is_zero(&v->fingerprint));
            assert_false(joust_digest_is_zero(&v->rendered));
            assert_true(joust_digest_equal(&v->fingerprint, &p->served[s].fingerprint));
            assert_string_equal(p->served[s].url, b->url);
            assert_true(v->n_prompt_tokens > 0);
        }
    }
}

static void compare_asks_both_orders(void **state)
{
    bench *b = *state;
    b->judges[0].kind = JOUST_JUDGE_COMPARE;
    b->judges[0].template_text = compare_template;
    serve(b, (loopback_options){.owner = "llamacpp"});
    ask(b);
    assert_int_equal(b->n_done, N_UNITS);
    assert_int_equal(b->results[0].n_verdicts, N_SAMPLES * (N_SAMPLES - 1));
    for (uint32_t i = 0; i < b->results[0].n_verdicts; i++)
        assert_true(verdict(b, 0, i)->outcome == JOUST_OUTCOME_OK ||
                    verdict(b, 0, i)->outcome == JOUST_OUTCOME_DISAGREE);
}

/* One question is refused, of another the label isn't named: both are told, neither is a number, the rest stands. */
static void what_has_no_answer_has_no_value(void **state)
{
    bench *b = *state;
    snprintf(b->texts[1][2], sizeof(b->texts[1][2]), "REFUSE ME");
    serve(b, (loopback_options){.owner = "llamacpp"});
    ask(b);
    assert_int_equal(b->n_done, N_UNITS);
    const joust_verdict *v = verdict(b, 1, 2);
    assert_int_equal(v->outcome, JOUST_OUTCOME_REFUSED);
    assert_false(v->has_value);
    assert_non_null(strstr(v->text, "HTTP status 400: prompt refused"));
    assert_int_equal(v->n_labels, 0);
    assert_int_equal(b->results[1].provenance.n_served, N_SAMPLES - 1);
    assert_int_equal(verdict(b, 1, 1)->outcome, JOUST_OUTCOME_OK);
    b->judges[0].labels[1] = absent;
    ask(b);
    assert_int_equal(b->n_done, N_UNITS);
    v = verdict(b, 0, 0);
    assert_int_equal(v->outcome, JOUST_OUTCOME_UNPARSABLE);
    assert_false(v->has_value);
    assert_non_null(strstr(v->text, "label ' maybe' isn't among the likeliest first tokens"));
}

/* Nobody answers anything: that is no verdict. */
static void an_outage_fails_the_units(void **state)
{
    bench *b = *state;
    b->models[0].endpoint.deadline_ms = 400;
    serve(b, (loopback_options){0});
    loopback_set_percent(b->server, LOOPBACK_ERROR, 100);
    ask(b);
    assert_int_equal(b->n_done, 0);
    assert_int_equal(b->n_failed, N_UNITS);
    assert_int_equal(joust_status_scope(b->status), JOUST_SCOPE_NONE); /* it isn't counted */
    assert_non_null(strstr(b->why, "HTTP status 500: out of order"));
}

/* Nor is it what an outage does behind good probes. */
static void an_outage_behind_good_probes_is_one(void **state)
{
    static const loopback_fault faults[] = {LOOPBACK_CUT, LOOPBACK_BUSY, LOOPBACK_ERROR,
                                            LOOPBACK_HALF, LOOPBACK_SLOW};
    bench *b = *state;
    b->models[0].endpoint.deadline_ms = 600;
    b->models[0].endpoint.timeout_ms = 100;
    serve(b, (loopback_options){.good_probes = true, .slow_ms = 200});
    for (size_t f = 0; f < sizeof(faults) / sizeof(*faults); f++) {
        loopback_set_percent(b->server, faults[f], 100);
        ask(b);
        loopback_set_percent(b->server, faults[f], 0);
        assert_int_equal(b->n_done, 0);
        assert_int_equal(b->n_failed, N_UNITS);
        assert_int_equal(joust_status_scope(b->status), JOUST_SCOPE_NONE);
    }
}

typedef struct refusal {
    loopback_fault fault;
    const char *why;
} refusal;

static const refusal refusals[] = {{LOOPBACK_DENIED, "HTTP status 401: who are you?"},
                                   {LOOPBACK_BARE, "gives no log-probs of"},
                                   {LOOPBACK_MODEL, "model 'another-model' answers"},
                                   {LOOPBACK_POSITIVE, "the log-prob of token"},
                                   {LOOPBACK_MALFORMED, "the answer isn't JSON"}};

/* What time won't mend fails the units by its name, long before the deadline: good probes or not. */
static void lasting_refusals_count(void **state)
{
    bench *b = *state;
    for (size_t i = 0; i < 2 * sizeof(refusals) / sizeof(*refusals); i++) {
        const refusal *r = &refusals[i / 2];
        loopback_options o = {.good_probes = i % 2};
        o.percent[r->fault] = 100;
        serve(b, o);
        ask(b);
        assert_int_equal(b->n_done, 0);
        assert_int_equal(b->n_failed, N_UNITS);
        if (joust_status_scope(b->status) == JOUST_SCOPE_NONE || !strstr(b->why, r->why))
            fail_msg("%s, probes %s: %s", loopback_fault_name(r->fault), i % 2 ? "good" : "bad",
                     b->why);
        loopback_set_percent(b->server, r->fault, 0);
        if (o.good_probes) { /* once it is mended, the next try succeeds */
            ask(b);
            assert_int_equal(b->n_done, N_UNITS);
        }
        joust_endpoint_free(&b->endpoint);
        loopback_stop(b->server);
        b->server = NULL;
    }
}

/* So does what is found once when the deadline comes before it is found again. */
static void a_refusal_counts_at_the_deadline(void **state)
{
    bench *b = *state;
    b->models[0].endpoint.deadline_ms = 4000;
    b->models[0].endpoint.breaker_ms = 600000;
    serve(b, (loopback_options){.good_probes = true, .percent[LOOPBACK_DENIED] = 100});
    ask(b);
    assert_int_equal(b->n_failed, N_UNITS);
    assert_int_equal(joust_status_scope(b->status), JOUST_SCOPE_MESSAGE);
    assert_non_null(strstr(b->why, "HTTP status 401: who are you?"));
}

static void templates_are_text(void **state)
{
    bench *b = *state;
    joust_error err;
    joust_judging *j = NULL;
    static char tokens[] = "{prompt_tokens}{response_tokens}<eos>", open_brace[] = "{prompt",
                braces[] = "{{{prompt}}} {response}";
    b->judges[0].template_text = open_brace;
    check_status(JOUST_INVALID, joust_judging_create(&b->job, &b->stage, NULL, &j, &err));
    assert_non_null(strstr(err.text, "is not closed"));
    b->judges[0].template_text = tokens;
    serve(b, (loopback_options){0});
    ask(b); /* the job file's check refuses it before */
    assert_int_equal(verdict(b, 0, 0)->outcome, JOUST_OUTCOME_SKIPPED);
    assert_non_null(strstr(verdict(b, 0, 0)->text, "{prompt_tokens} has no text"));
    b->judges[0].template_text = braces;
    ask(b);
    static const char text[] = "{How many?} It is #### 0";
    joust_digest expected = joust_digest_of(text, strlen(text));
    assert_true(joust_digest_equal(&verdict(b, 0, 0)->rendered, &expected));
    b->judges[0].labels[1] = yes;
    check_status(JOUST_INVALID, joust_judging_create(&b->job, &b->stage, NULL, &j, &err));
    assert_non_null(strstr(err.text, "label ' yes' is there twice"));
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(answers_become_verdicts),
        WITH(compare_asks_both_orders),
        WITH(what_has_no_answer_has_no_value),
        WITH(an_outage_fails_the_units),
        WITH(an_outage_behind_good_probes_is_one),
        WITH(lasting_refusals_count),
        WITH(a_refusal_counts_at_the_deadline),
        WITH(templates_are_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
