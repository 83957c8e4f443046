/* Every judge kind on groups of a tiny model. */
#include "check.h"

#include <string.h>

#include "judge/judging.h"
#include "proto/base/alloc.h"
#include "proto/base/math.h"
#include "proto/codec.h"
#include "worker/tiny.h"

#define N_UNITS   5u
#define N_SAMPLES 4u

typedef struct bench {
    joust_job job;
    joust_plan plan;
    joust_engine *engine;
    joust_model *model;
    joust_tokenizer *tokenizer;
    joust_lease_unit units[N_UNITS];
} bench;

/* Sample i of a group: a prompt of three tokens and a response that ends with number i + 1. */
static joust_trajectory trajectory(const joust_lease_unit *u, uint32_t sample)
{
    static const uint32_t prompt[] = {1, 10, 3};
    const uint32_t tokens[] = {11, 14, 15 + sample, TINY_EOS};
    static const char *const texts[] = {"b #### 1", "b #### 2", "b #### 3", "b #### 4"};
    joust_trajectory t = {.key = u->unit,
                          .sample = sample,
                          .prompt = u->prompt.digest,
                          .n_prompt_tokens = 3,
                          .n_tokens = 4,
                          .finish = JOUST_FINISH_STOP,
                          .sampling = {.temperature = 1, .top_p = 1, .max_tokens = 8}};
    t.prompt_tokens = joust_memdup(prompt, sizeof(prompt));
    t.tokens = joust_memdup(tokens, sizeof(tokens));
    t.raw_logps = joust_calloc(4, sizeof(float));
    t.logps = joust_calloc(4, sizeof(float));
    t.text = joust_strdup(texts[sample]);
    return t;
}

static int setup(void **state)
{
    joust_error err;
    bench *b = joust_calloc(1, sizeof(*b));
    char dir[512];
    joust_model_ref ref = {.lineage = "policy", .version = 3};
    tiny_job_make(&b->job, &b->plan);
    tiny_dir("judging", dir);
    tiny_folder_write(dir, true, 1);
    check_ok(joust_engine_create(NULL, &b->engine, &err));
    check_ok(joust_model_load(dir, &b->model, &err));
    check_ok(joust_tokenizer_load(dir, &b->tokenizer, &err));
    for (uint32_t i = 0; i < N_UNITS; i++) {
        joust_lease_unit *u = &b->units[i];
        *u = tiny_generate_unit(tiny_stage(&b->job, &b->plan, JOUST_STAGE_GENERATE, NULL), i, &ref);
        u->trajectories = joust_calloc(N_SAMPLES, sizeof(*u->trajectories));
        u->n_trajectories = N_SAMPLES;
        for (uint32_t s = 0; s < N_SAMPLES; s++)
            u->trajectories[s] = trajectory(u, s);
    }
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    bench *b = *state;
    for (uint32_t i = 0; i < N_UNITS; i++)
        joust_lease_unit_fini(&b->units[i]);
    joust_tokenizer_free(&b->tokenizer);
    joust_model_free(&b->model);
    joust_engine_free(&b->engine);
    joust_job_fini(&b->job);
    joust_free(b);
    return 0;
}

/* Judges units[first .. first + n - 1] by the named judge. */
static void judge(bench *b, const char *name, uint32_t first, uint32_t n, joust_unit_result *ret)
{
    joust_error err;
    joust_judging *j = NULL;
    const joust_stage *stage = tiny_stage(&b->job, &b->plan, JOUST_STAGE_JUDGE, name);
    const joust_lease_unit *units[N_UNITS];
    for (uint32_t i = 0; i < n; i++) {
        b->units[first + i].unit.stage = stage->index;
        units[i] = &b->units[first + i];
    }
    memset(ret, 0, n * sizeof(*ret));
    check_ok(joust_judging_create(&b->job, stage, b->tokenizer, &j, &err));
    check_ok(joust_judging_run(j, b->engine, b->model, units, n, ret, NULL, NULL, &err));
    joust_judging_free(&j);
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < ret[i].n_verdicts; k++)
            check_ok(joust_verdict_validate(&ret[i].verdicts[k], &err));
}

static void fini(joust_unit_result *results, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        joust_unit_result_fini(&results[i]);
}

static joust_digest digest_in_batches(bench *b, const char *name, uint32_t n)
{
    joust_error err;
    joust_hasher h;
    joust_hasher_init(&h);
    for (uint32_t i = 0; i < N_UNITS; i += n) {
        joust_unit_result results[N_UNITS];
        uint32_t k = N_UNITS - i < n ? N_UNITS - i : n;
        judge(b, name, i, k, results);
        for (uint32_t u = 0; u < k; u++) {
            joust_digest digest;
            check_ok(
                joust_verdicts_digest(results[u].verdicts, results[u].n_verdicts, &digest, &err));
            joust_hasher_add(&h, &digest, sizeof(digest));
        }
        fini(results, k);
    }
    return joust_hasher_end(&h);
}

static void batches_change_nothing(void **state)
{
    static const char *const names[] = {"self", "pair", "number", "dice"};
    for (size_t i = 0; i < 4; i++) {
        joust_digest one = digest_in_batches(*state, names[i], 1);
        joust_digest many = digest_in_batches(*state, names[i], N_UNITS);
        if (!joust_digest_equal(&one, &many))
            fail_msg("judge %s: verdicts depend on the batch", names[i]);
    }
}

/* The value is the model's own log-odds at the end of the rendered prompt, whether labels are one
 * token or several. */
static void yes_no_is_log_odds(void **state)
{
    bench *b = *state;
    joust_error err;
    joust_unit_result r;
    judge(b, "self", 2, 1, &r);
    assert_int_equal(r.n_verdicts, N_SAMPLES);
    for (uint32_t s = 0; s < N_SAMPLES; s++) {
        const joust_verdict *v = &r.verdicts[s];
        uint32_t text[] = {1, 10, 3, 11, 14, 15 + s, TINY_EOS, 4};
        uint32_t labels[] = {5, 6};
        float logps[2];
        joust_score_request q = {.tokens = text,
                                 .n = 8,
                                 .first = 8,
                                 .next = labels,
                                 .n_next = 2,
                                 .ret_next_logps = logps};
        check_ok(joust_score(b->engine, b->model, &q, 1, NULL, NULL, &err));
        assert_int_equal(v->outcome, JOUST_OUTCOME_OK);
        assert_int_equal(v->sample, s);
        assert_int_equal(v->other, JOUST_NONE);
        assert_int_equal(v->n_prompt_tokens, 8);
        assert_true(v->has_value);
        assert_true(v->value == (double)logps[0] - (double)logps[1]);
        assert_true(v->residual > 0 && v->residual < 1);
        assert_false(joust_digest_is_zero(&v->rendered));
        assert_int_equal(v->model.version, 3);
    }
    assert_true(r.verdicts[0].value != r.verdicts[1].value);
    fini(&r, 1);
}

static void labels_of_several_tokens_are_forced(void **state)
{
    bench *b = *state;
    joust_error err;
    joust_unit_result r;
    char **labels = b->job.judges[0].labels, *kept = labels[0];
    char two[] = "yes no";
    labels[0] = two;
    judge(b, "self", 0, 1, &r);
    labels[0] = kept;
    uint32_t text[] = {1, 10, 3, 11, 14, 15, TINY_EOS, 4, 5, 6};
    float logps[2];
    joust_score_request q = {.tokens = text, .n = 10, .first = 8, .ret_logps = logps};
    check_ok(joust_score(b->engine, b->model, &q, 1, NULL, NULL, &err));
    assert_true(r.verdicts[0].label_logps[0] == (double)logps[0] + (double)logps[1]);
    fini(&r, 1);
}

static void compare_asks_both_orders(void **state)
{
    bench *b = *state;
    joust_unit_result r;
    judge(b, "pair", 1, 1, &r);
    assert_int_equal(r.n_verdicts, N_SAMPLES * (N_SAMPLES - 1));
    for (uint32_t i = 0; i < r.n_verdicts; i += 2) {
        const joust_verdict *v = &r.verdicts[i];
        assert_true(v[0].sample < v[0].other);
        assert_int_equal(v[1].sample, v[0].sample);
        assert_int_equal(v[1].other, v[0].other);
        assert_int_equal(v[0].order, 0);
        assert_int_equal(v[1].order, 1);
        assert_int_equal(v[0].outcome == JOUST_OUTCOME_DISAGREE,
                         v[1].outcome == JOUST_OUTCOME_DISAGREE);
        for (int order = 0; order < 2; order++) {
            double p[3];
            for (int k = 0; k < 3; k++)
                p[k] = joust_exp(v[order].label_logps[k]);
            double subject = (p[order] + p[2] / 2) / (p[0] + p[1] + p[2]);
            if (v[order].has_value)
                assert_float_equal(v[order].value, subject, 1e-12);
        }
    }
    fini(&r, 1);
}

/* Conclusions from given answers: agreement, contradiction, and a tie. */
static void orders_that_contradict_have_no_value(void **state)
{
    bench *b = *state;
    joust_error err;
    joust_case c = {.judge = &b->job.judges[1], .unit = &b->units[0]};
    static const double rows[3][2][3] = {
        {{-0.1, -3, -9}, {-3, -0.1, -9}}, /* the subject wins in both */
        {{-0.1, -3, -9}, {-0.1, -3, -9}}, /* the first shown wins in both */
        {{-2, -2, -0.2}, {-2, -2, -0.2}}, /* a tie */
    };
    static const joust_outcome expected[3] = {JOUST_OUTCOME_OK, JOUST_OUTCOME_DISAGREE,
                                              JOUST_OUTCOME_TIE};
    joust_verdict v[6];
    memset(v, 0, sizeof(v));
    for (int i = 0; i < 6; i++) {
        v[i].order = (uint32_t)i % 2;
        v[i].n_labels = 3;
        v[i].label_logps = joust_memdup(rows[i / 2][i % 2], sizeof(rows[0][0]));
    }
    check_ok(joust_kind_compare.conclude(&c, v, 6, &err));
    for (int i = 0; i < 6; i++) {
        assert_int_equal(v[i].outcome, expected[i / 2]);
        assert_int_equal(v[i].has_value, expected[i / 2] != JOUST_OUTCOME_DISAGREE);
    }
    assert_true(v[0].value > 0.9 && v[1].value > 0.9);
    assert_true(v[4].value == 0.5);
    for (int i = 0; i < 6; i++)
        joust_verdict_fini(&v[i]);
}

static void rules_give_one_or_zero(void **state)
{
    bench *b = *state;
    joust_unit_result r;
    judge(b, "number", 0, 1, &r);
    for (uint32_t s = 0; s < N_SAMPLES; s++) {
        assert_int_equal(r.verdicts[s].outcome, JOUST_OUTCOME_OK);
        assert_true(r.verdicts[s].value == (s == 2 ? 1.0 : 0.0));
        assert_string_equal(r.verdicts[s].kind, "rule");
    }
    fini(&r, 1);
    char *kept = b->units[0].prompt.reference;
    b->units[0].prompt.reference = NULL;
    judge(b, "number", 0, 1, &r);
    b->units[0].prompt.reference = kept;
    assert_int_equal(r.verdicts[0].outcome, JOUST_OUTCOME_SKIPPED);
    assert_false(r.verdicts[0].has_value);
    fini(&r, 1);
}

/* A question that can't be asked has an outcome and no value; the others in the batch are not
 * harmed. */
static void what_cannot_be_asked_has_an_outcome(void **state)
{
    bench *b = *state;
    joust_unit_result r;
    joust_trajectory *t = &b->units[3].trajectories[1];
    uint32_t *kept = t->tokens, n = t->n_tokens, out_of_reach[] = {11, 999, 12};
    uint32_t many[64];
    for (int i = 0; i < 64; i++)
        many[i] = 11;
    t->tokens = many;
    t->n_tokens = 64;
    judge(b, "self", 3, 1, &r);
    assert_int_equal(r.verdicts[1].outcome, JOUST_OUTCOME_TRUNCATED);
    assert_int_equal(r.verdicts[0].outcome, JOUST_OUTCOME_OK);
    assert_int_equal(r.verdicts[2].outcome, JOUST_OUTCOME_OK);
    fini(&r, 1);
    t->tokens = out_of_reach;
    t->n_tokens = 3;
    judge(b, "self", 3, 1, &r);
    assert_int_equal(r.verdicts[1].outcome, JOUST_OUTCOME_SKIPPED);
    assert_non_null(strstr(r.verdicts[1].text, "999"));
    fini(&r, 1);
    t->tokens = kept;
    t->n_tokens = n;
}

static void dice_follow_the_seed(void **state)
{
    bench *b = *state;
    joust_unit_result r, again, other;
    judge(b, "dice", 0, 1, &r);
    judge(b, "dice", 0, 1, &again);
    b->job.seed++;
    judge(b, "dice", 0, 1, &other);
    b->job.seed--;
    for (uint32_t s = 0; s < N_SAMPLES; s++) {
        assert_true(r.verdicts[s].value == again.verdicts[s].value);
        assert_true(r.verdicts[s].value != other.verdicts[s].value);
    }
    fini(&r, 1);
    fini(&again, 1);
    fini(&other, 1);
}

static void bad_judges_are_refused(void **state)
{
    bench *b = *state;
    joust_error err;
    joust_judging *j = NULL;
    const joust_stage *stage = tiny_stage(&b->job, &b->plan, JOUST_STAGE_JUDGE, "self");
    char *kept = b->job.judges[0].template_text, bad[] = "{respons}";
    b->job.judges[0].template_text = bad;
    check_status(JOUST_INVALID, joust_judging_create(&b->job, stage, b->tokenizer, &j, &err));
    assert_non_null(strstr(err.text, "judge 'self'"));
    b->job.judges[0].template_text = kept;
    check_status(JOUST_INVALID, joust_judging_create(&b->job, stage, NULL, &j, &err));
    assert_null(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_change_nothing),
        cmocka_unit_test(yes_no_is_log_odds),
        cmocka_unit_test(labels_of_several_tokens_are_forced),
        cmocka_unit_test(compare_asks_both_orders),
        cmocka_unit_test(orders_that_contradict_have_no_value),
        cmocka_unit_test(rules_give_one_or_zero),
        cmocka_unit_test(what_cannot_be_asked_has_an_outcome),
        cmocka_unit_test(dice_follow_the_seed),
        cmocka_unit_test(bad_judges_are_refused),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
