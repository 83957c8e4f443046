/* Hidden states, a scalar head's scores and a critic's training on a device against the CPU: float32 has its bits, bf16 comes
 * within a bound; alone and among others, in one pass or several, the bits are equal. Without arguments the device is the
 * emulator; `hidden_test PLUGIN` runs the same on a GPU (tests/gpu/run). */
#include "engine/cuda/device_fixture.h"

#include "worker/engine/hidden.h"
#include "worker/engine/model_internal.h"
#include "worker/engine/train/trainer_internal.h"

#define BF16_BOUND 6e-2
#define REQUESTS   7u

/* The longest takes more than a pass; most models are asked for a short one in its place. */
static const uint32_t LENGTHS[REQUESTS] = {1, 16, 17, 45, 530, 9, 12};
static const uint32_t FIRSTS[REQUESTS] = {0, 3, 16, 0, 25, 8, 11};
enum { LONGEST = 530, SHORTER = 30, MOST_D = 32, MOST_ROWS = 64 };

/* What is read of each request: some ask for states, some for scores, some for both, one for the last score alone. */
typedef struct readings {
    float states[REQUESTS][MOST_ROWS][MOST_D], scores[REQUESTS][MOST_ROWS], last[REQUESTS];
} readings;

static void requests_make(const uint32_t *tokens, const joust_model_config *c, readings *to,
                          joust_hidden_request ret[REQUESTS])
{
    const bool scalar = c->scalar_head;
    assert_true(c->d_model <= MOST_D);
    memset(to, 0, sizeof(*to));
    for (uint32_t i = 0; i < REQUESTS; i++) {
        const bool whole = LENGTHS[i] < c->context;
        const uint32_t n = whole ? LENGTHS[i] : SHORTER;
        ret[i] = (joust_hidden_request){
            .tokens = tokens + i, .n = n, .first = n > MOST_ROWS ? n - 5 : FIRSTS[i]};
        if (!scalar || i % 3 != 1)
            ret[i].ret_states = to->states[i][0];
        if (scalar && i % 3 != 2)
            ret[i].ret_scores = to->scores[i];
        if (scalar)
            ret[i].ret_score = &to->last[i];
    }
    if (scalar) /* the last one alone */
        ret[2].ret_states = ret[2].ret_scores = NULL;
}

static joust_status count(void *context, uint64_t n_tokens, joust_error *err)
{
    (void)err;
    assert_true(n_tokens > *(uint64_t *)context);
    *(uint64_t *)context = n_tokens;
    return JOUST_OK;
}

static void read_on(joust_engine *e, joust_model *m, const uint32_t *tokens, bool alone,
                    readings *ret)
{
    joust_error err = {0};
    const joust_model_config *c = joust_model_get_config(m);
    joust_hidden_request requests[REQUESTS];
    requests_make(tokens, c, ret, requests);
    uint64_t n_tokens = 0, n_all = 0;
    for (uint32_t i = 0; i < REQUESTS; i++)
        n_all += requests[i].n;
    if (!alone) {
        check_ok(joust_hidden(e, m, requests, REQUESTS, count, &n_tokens, &err));
        assert_true(n_tokens <= n_all); /* of what the calling thread was told */
    }
    for (uint32_t i = 0; alone && i < REQUESTS; i++)
        check_ok(joust_hidden(e, m, &requests[i], 1, NULL, NULL, &err));
}

static void check_model(joust_model_config c, joust_precision precision, bool with_long)
{
    const bool exact = precision == JOUST_PRECISION_F32;
    c.context = with_long ? LONGEST + 8 : c.context;
    joust_engine *cpu = engine_on(false, precision), *on = engine_on(true, precision);
    joust_model *m = fixture_model(&c, 3);
    uint32_t *tokens = fixture_tokens(LONGEST + REQUESTS, c.vocab_size, 9);
    readings *r = joust_calloc(3, sizeof(*r));
    if (!exact)
        fixture_round(m);
    read_on(cpu, m, tokens, false, &r[0]);
    read_on(on, m, tokens, false, &r[1]);
    if (exact)
        assert_memory_equal(&r[1], &r[0], sizeof(*r));
    else
        check_near((const float *)(const void *)&r[1], (const float *)(const void *)&r[0],
                   sizeof(*r) / sizeof(float), BF16_BOUND, "state or score");
    uint32_t n_fine = 0; /* states aren't rounded as the head's factors are */
    const float *all = (const float *)(const void *)r[1].states;
    for (uint32_t i = 0; i < REQUESTS * MOST_ROWS * MOST_D; i++)
        n_fine += all[i] != joust_bf16_rounded(all[i]);
    assert_true(n_fine > 100);
    read_on(on, m, tokens, true, &r[2]);
    assert_memory_equal(&r[2], &r[1], sizeof(*r));
    joust_free(r);
    joust_free(tokens);
    joust_model_free(&m);
    joust_engine_free(&on);
    joust_engine_free(&cpu);
}

static void check_models(joust_precision precision)
{
    joust_model_config families[FIXTURE_FAMILIES];
    for (uint32_t i = 0, n = fixture_families(families); i < n; i += i == 1 ? 2 : 1) {
        families[i].scalar_head = i % 3 != 0;
        families[i].tied = families[i].tied && !families[i].scalar_head;
        check_model(families[i], precision, i == 1);
    }
}

static void test_f32(void **state)
{
    (void)state;
    check_models(JOUST_PRECISION_F32);
}

static void test_bf16(void **state)
{
    (void)state;
    check_models(JOUST_PRECISION_BF16);
}

/* Weights beyond float: named, as on the CPU. */
static void test_not_finite(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_model_config c = fixture_odd_config();
    c.scalar_head = true;
    joust_model *m = fixture_model(&c, 3);
    uint64_t n;
    float *weights = joust_model_weights(m, &n);
    for (uint64_t i = 0; i < n; i++)
        weights[i] *= 1e30f;
    joust_model_changed(m);
    const uint32_t token = 1;
    float score;
    const joust_hidden_request r = {.tokens = &token, .n = 1, .ret_score = &score};
    joust_engine *e = engine_on(true, JOUST_PRECISION_F32);
    check_status(JOUST_NOT_FINITE, joust_hidden(e, m, &r, 1, NULL, NULL, &err));
    joust_model_free(&m);
    joust_engine_free(&e);
}

/* ---- a critic --------------------------------------------------------------------------------- */

static void values_make(const train_data *d, joust_value_row rows[TRAIN_ROWS])
{
    for (uint32_t i = 0; i < TRAIN_ROWS; i++) {
        const joust_policy_row *a = &d->answers[i];
        rows[i] = (joust_value_row){.prompt = a->prompt,
                                    .response = a->response,
                                    .n_prompt = a->n_prompt,
                                    .n_response = a->n_response,
                                    .old_values = i == 1 ? NULL : d->ref[i],
                                    .returns = a->advantages};
    }
}

/* Values by the training pass are scoring's, before and after steps; returns the weights after them. */
static float *critic_on(joust_engine *e, joust_model *m, const joust_train_settings *p,
                        joust_step_report *ret)
{
    joust_error err = {0};
    joust_trainer *t;
    train_data d;
    joust_value_row rows[TRAIN_ROWS];
    train_data_make(&d, joust_model_get_config(m)->vocab_size);
    values_make(&d, rows);
    check_ok(joust_trainer_create(e, m, p, &t, &err));
    for (uint32_t turn = 0; turn < 3; turn++) {
        for (uint32_t i = 0; i < TRAIN_ROWS; i++) {
            const joust_value_row *row = &rows[i];
            uint32_t tokens[32];
            float got[16], expected[16];
            memcpy(tokens, row->prompt, row->n_prompt * sizeof(*tokens));
            memcpy(tokens + row->n_prompt, row->response, row->n_response * sizeof(*tokens));
            const joust_hidden_request r = {.tokens = tokens,
                                            .n = row->n_prompt + row->n_response - 1,
                                            .first = row->n_prompt - 1,
                                            .ret_scores = expected};
            check_ok(joust_trainer_values(t, row, got, &err));
            check_ok(joust_hidden(e, m, &r, 1, NULL, NULL, &err));
            assert_memory_equal(got, expected, row->n_response * sizeof(float));
        }
        if (turn < 2)
            check_ok(joust_trainer_step_values(t, rows, TRAIN_ROWS, ret, &err));
    }
    check_ok(joust_trainer_finish(t, &err));
    float *weights = joust_memdup(t->trained.weights, t->trained.n * sizeof(float));
    joust_trainer_free(&t);
    joust_free(d.tokens);
    return weights;
}

static void test_critic(void **state)
{
    (void)state;
    joust_model_config families[FIXTURE_FAMILIES];
    joust_train_settings p = fixture_params(JOUST_LOSS_VALUE);
    p.policy.value_clip = 0.2;
    fixture_families(families);
    for (uint32_t i = 0; i < 6; i++) {
        const bool exact = i % 3 != 2;
        joust_model_config c = families[i];
        joust_step_report reports[2];
        float *weights[2];
        c.scalar_head = true;
        c.tied = false;
        for (uint32_t k = 0; k < 2; k++) {
            joust_engine *e = engine_on(k, exact ? JOUST_PRECISION_F32 : JOUST_PRECISION_BF16);
            joust_model *m = fixture_model(&c, 3);
            if (!exact)
                fixture_round(m);
            weights[k] = critic_on(e, m, &p, &reports[k]);
            joust_model_free(&m);
            joust_engine_free(&e);
        }
        const uint64_t n = joust_model_config_parameters(&c);
        if (exact) {
            assert_memory_equal(weights[1], weights[0], n * sizeof(float));
            assert_true(reports[1].loss == reports[0].loss);
        } else {
            assert_true(fabs(reports[1].loss - reports[0].loss) <= 0.1 * (1 + reports[0].loss));
        }
        joust_free(weights[0]);
        joust_free(weights[1]);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_f32), cmocka_unit_test(test_bf16),
                                       cmocka_unit_test(test_not_finite),
                                       cmocka_unit_test(test_critic)};
    return device_open(argc, argv) ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
}
