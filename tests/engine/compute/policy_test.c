/* Policy gradients and their critic beyond one number: forced tokens, weights of servers' answers, values, a new scalar head. */
#include "engine/compute/fixture.h"

#include <math.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "worker/engine/hidden.h"
#include "worker/engine/train/policy_gradient.h"

enum { PROMPT = 5, FORCED = 3, DRAWN = 6, ANSWER = FORCED + DRAWN, OTHERS = 2 };

/* An answer that begins with forced tokens, and the same with those at the end of its prompt. */
typedef struct answers {
    uint32_t *tokens;
    uint8_t flags[ANSWER];
    float old[ANSWER], ref[ANSWER], sampler[ANSWER];
    double advantages[ANSWER], returns[ANSWER];
} answers;

static void answers_make(answers *a, uint32_t vocab)
{
    *a = (answers){.tokens = fixture_tokens(PROMPT + ANSWER, vocab, 5), .flags = {1, 1, 1}};
    for (uint32_t i = 0; i < ANSWER; i++) {
        a->old[i] = -2.5f - 0.3f * (float)(i % 4);
        a->ref[i] = -3.5f + 0.2f * (float)i;
        a->sampler[i] = a->old[i] + 0.2f * (float)(i % 3) - 0.3f;
        a->advantages[i] = 1.5 - 0.4 * i;
        a->returns[i] = 0.3 * i - 1;
    }
}

static joust_policy_row policy_row(const answers *a, uint32_t skip, const uint8_t *flags)
{
    return (joust_policy_row){.prompt = a->tokens,
                              .response = a->tokens + PROMPT + skip,
                              .n_prompt = PROMPT + skip,
                              .n_response = ANSWER - skip,
                              .old_logps = a->old + skip,
                              .ref_logps = a->ref + skip,
                              .sampler_logps = a->sampler + skip,
                              .advantages = a->advantages + skip,
                              .forced = flags};
}

static joust_value_row value_row(const answers *a, uint32_t skip, const uint8_t *flags)
{
    return (joust_value_row){.prompt = a->tokens,
                             .response = a->tokens + PROMPT + skip,
                             .n_prompt = PROMPT + skip,
                             .n_response = ANSWER - skip,
                             .old_values = a->ref + skip,
                             .returns = a->returns + skip,
                             .forced = flags};
}

/* A step on the row beside one of another length, so that shares are of several answers. */
static joust_step_report step_on(const answers *a, const joust_train_settings *p, uint32_t skip,
                                 const uint8_t *flags)
{
    joust_error err = {0};
    joust_model_config config = fixture_odd_config();
    config.scalar_head = p->loss == JOUST_LOSS_VALUE;
    joust_model *m = fixture_model(&config, 3);
    joust_engine *e = fixture_engine(1, JOUST_ISA_AUTO);
    joust_trainer *t;
    joust_step_report report;
    check_ok(joust_trainer_create(e, m, p, &t, &err));
    joust_policy_row rows[OTHERS] = {policy_row(a, skip, flags), policy_row(a, 2, NULL)};
    joust_value_row values[OTHERS] = {value_row(a, skip, flags), value_row(a, 2, NULL)};
    rows[1].n_response = values[1].n_response = 4;
    check_ok(p->loss == JOUST_LOSS_VALUE
                 ? joust_trainer_step_values(t, values, OTHERS, &report, &err)
                 : joust_trainer_step_policy(t, rows, OTHERS, &report, &err));
    joust_trainer_free(&t);
    joust_model_free(&m);
    joust_engine_free(&e);
    return report;
}

static void check_forced(const answers *a, const joust_train_settings *p)
{
    const joust_step_report forced = step_on(a, p, 0, a->flags),
                            plain = step_on(a, p, FORCED, NULL), weighed = step_on(a, p, 0, NULL);
    if (!(fabs(forced.loss - plain.loss) < 1e-12 * (1 + fabs(plain.loss))))
        fail_msg("loss %.17g, with the tokens in the prompt %.17g", forced.loss, plain.loss);
    if (!(fabs(forced.gradient_norm - plain.gradient_norm) < 1e-4 * plain.gradient_norm))
        fail_msg("gradient norm %.9g, with the tokens in the prompt %.9g", forced.gradient_norm,
                 plain.gradient_norm);
    assert_true(forced.entropy == plain.entropy && forced.kl == plain.kl &&
                forced.ratio == plain.ratio && forced.clipped == plain.clipped);
    assert_true(fabs(weighed.loss - forced.loss) > 1e-6);
}

/* Forced tokens count in nothing: not in the loss, the KL term, the entropy, the answer's ratio or any length. */
static void forced_tokens_are_as_if_in_the_prompt(void **state)
{
    (void)state;
    const joust_model_config config = fixture_odd_config();
    joust_train_settings p = fixture_params(JOUST_LOSS_POLICY);
    answers a;
    answers_make(&a, config.vocab_size);
    for (uint32_t i = 0; i < 18; i++) {
        p.policy = (joust_policy_settings){.surrogate = 1 + i % 3,
                                           .importance = 1 + i / 9,
                                           .aggregation = 1 + i / 3 % 3,
                                           .epsilon_low = 0.5,
                                           .epsilon_high = 0.6,
                                           .kl = 1 + i % 3,
                                           .kl_weight = 0.2,
                                           .entropy_weight = 0.3,
                                           .sampler_cap = i % 2 ? 1.1 : 0,
                                           .max_tokens = 12};
        check_forced(&a, &p);
    }
    p = fixture_params(JOUST_LOSS_VALUE);
    p.policy = (joust_policy_settings){.value_clip = 4};
    check_forced(&a, &p);
    p = fixture_params(JOUST_LOSS_POLICY); /* nothing was drawn at all */
    p.policy = (joust_policy_settings){.surrogate = JOUST_SURROGATE_CLIPPED,
                                       .importance = JOUST_IMPORTANCE_SEQUENCE,
                                       .aggregation = JOUST_AGGREGATE_ROWS,
                                       .epsilon_low = 0.2,
                                       .epsilon_high = 0.2,
                                       .kl = JOUST_KL_K3};
    memset(a.flags, 1, sizeof(a.flags));
    const joust_step_report none = step_on(&a, &p, 0, a.flags);
    assert_true(isfinite(none.loss) && none.gradient_norm > 0);
    joust_free(a.tokens);
}

static void servers_answers_are_weighed(void **state)
{
    (void)state;
    const float old[] = {-1, -2, -0.5f}, sampler[] = {-1.5f, -1, -2};
    const uint8_t forced[] = {0, 0, 1};
    joust_policy_settings p = {.importance = JOUST_IMPORTANCE_TOKEN, .sampler_cap = 2};
    joust_policy_tokens x = {.n = 3, .old_logps = old, .sampler_logps = sampler};
    assert_true(fabs(joust_sampler_weight(&p, &x, 0) - exp(0.5)) < 1e-12);
    assert_true(fabs(joust_sampler_weight(&p, &x, 1) - exp(-1)) < 1e-12);
    assert_true(joust_sampler_weight(&p, &x, 2) == 2); /* e^1.5, truncated */
    p.importance = JOUST_IMPORTANCE_SEQUENCE;
    assert_true(joust_sampler_weight(&p, &x, 0) == 2); /* e^(0.5 - 1 + 1.5) */
    x.forced = forced;
    for (uint32_t i = 0; i < 3; i++)
        assert_true(fabs(joust_sampler_weight(&p, &x, i) - exp(-0.5)) < 1e-12);
    p.sampler_cap = 0;
    assert_true(joust_sampler_weight(&p, &x, 0) == 1);
}

/* A critic's values are the same bits by the training pass and by reading, on any number of threads; one that begins as a
 * language model has its weights and says 0 everywhere. */
static void values_are_read_as_they_are_trained(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_model_config config = fixture_odd_config();
    joust_model *language = fixture_model(&config, 3), *fresh;
    answers a;
    answers_make(&a, config.vocab_size);
    check_ok(joust_model_make_scalar(language, &fresh, &err));
    assert_true(joust_model_get_config(fresh)->scalar_head);
    assert_string_equal(joust_model_get_config(fresh)->architecture,
                        "LlamaForSequenceClassification");
    config.scalar_head = true;
    joust_model *critic = fixture_model(&config, 4);
    const joust_train_settings p = fixture_params(JOUST_LOSS_VALUE);
    const joust_value_row row = value_row(&a, 0, NULL);
    float trained[ANSWER], read[ANSWER], zero[ANSWER];
    for (uint32_t n_threads = 1; n_threads <= 2; n_threads++) {
        joust_engine *e = fixture_engine(n_threads, JOUST_ISA_AUTO);
        joust_trainer *t;
        check_ok(joust_trainer_create(e, critic, &p, &t, &err));
        check_ok(joust_trainer_values(t, &row, trained, &err));
        joust_hidden_request request = {
            .tokens = a.tokens, .n = PROMPT + ANSWER - 1, .first = PROMPT - 1, .ret_scores = read};
        check_ok(joust_hidden(e, critic, &request, 1, NULL, NULL, &err));
        assert_memory_equal(trained, read, sizeof(read));
        assert_true(trained[0] != trained[1]);
        request.ret_scores = zero;
        check_ok(joust_hidden(e, fresh, &request, 1, NULL, NULL, &err));
        for (uint32_t i = 0; i < ANSWER; i++)
            assert_true(zero[i] == 0);
        assert_int_equal(joust_hidden(e, language, &request, 1, NULL, NULL, &err),
                         JOUST_UNSUPPORTED);
        joust_trainer_free(&t);
        joust_engine_free(&e);
    }
    uint32_t n;
    const joust_tensor *of = joust_model_tensors(fresh, &n),
                       *from = joust_model_tensors(language, &n);
    for (uint32_t i = 0; i + 1 < n; i++) {
        assert_string_equal(of[i].name, from[i].name);
        assert_memory_equal(of[i].data, from[i].data, from[i].n * sizeof(float));
    }
    joust_model *again;
    assert_int_equal(joust_model_make_scalar(fresh, &again, &err), JOUST_INVALID);
    joust_free(a.tokens);
    joust_model_free(&critic);
    joust_model_free(&fresh);
    joust_model_free(&language);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forced_tokens_are_as_if_in_the_prompt),
        cmocka_unit_test(servers_answers_are_weighed),
        cmocka_unit_test(values_are_read_as_they_are_trained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
