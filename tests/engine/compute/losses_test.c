/* Losses as functions of log-probabilities, against PyTorch's values and gradients. */
#include "check.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "proto/base/math.h"
#include "proto/base/stats.h"
#include "worker/engine/train/links_internal.h"
#include "worker/engine/train/policy_gradient.h"

static json_t *load_golden(void)
{
    json_error_t problem;
    json_t *golden =
        json_load_file(JOUST_SOURCE_DIR "/tests/engine/compute/losses_golden.json", 0, &problem);
    assert_non_null(golden);
    return golden;
}

static double number(const json_t *object, const char *name)
{
    const json_t *value = json_object_get(object, name);
    if (!json_is_number(value))
        fail_msg("no number '%s'", name);
    return json_number_value(value);
}

static joust_loss loss_of(const char *name)
{
    for (uint32_t i = 1; i < JOUST_N_LOSSES; i++)
        if (!strcmp(joust_loss_traits_of((joust_loss)i)->name, name))
            return (joust_loss)i;
    fail_msg("no loss '%s'", name);
    return JOUST_LOSS_DPO;
}

static joust_train_settings settings_of(const json_t *c)
{
    const json_t *s = json_object_get(c, "settings");
    joust_train_settings p = {.loss = loss_of(json_string_value(json_object_get(c, "loss"))),
                              .beta = number(s, "beta"),
                              .sft_weight = number(s, "sft_weight"),
                              .no_reference = json_is_true(json_object_get(s, "no_reference")),
                              .objective = joust_objective_neutral()};
    p.objective.label_smoothing = number(s, "label_smoothing");
    p.objective.gamma = number(s, "gamma");
    p.objective.desirable_weight = number(s, "desirable_weight");
    p.objective.undesirable_weight = number(s, "undesirable_weight");
    p.objective.discopop_tau = number(s, "discopop_tau");
    p.objective.reward_scale = number(s, "reward_scale");
    p.rewards_are_rates = json_is_true(json_object_get(s, "rewards_are_rates"));
    const char *name;
    json_t *weight;
    json_object_foreach(json_object_get(s, "mix"), name, weight) p.objective.mix[loss_of(name)] =
        json_number_value(weight);
    return p;
}

static joust_pair_logps pair_of(const json_t *c)
{
    const json_t *p = json_object_get(c, "pair");
    return (joust_pair_logps){.chosen = number(p, "chosen"),
                              .rejected = number(p, "rejected"),
                              .plain_chosen = number(p, "plain_chosen"),
                              .ref_chosen = number(p, "ref_chosen"),
                              .ref_rejected = number(p, "ref_rejected"),
                              .n_chosen = (uint32_t)number(p, "n_chosen"),
                              .n_rejected = (uint32_t)number(p, "n_rejected"),
                              .margin = number(p, "margin"),
                              .baseline = number(p, "baseline"),
                              .sft_mean = number(p, "sft_mean")};
}

static void check_near(const json_t *c, const char *what, double got)
{
    const double expected = number(c, what);
    if (!(fabs(got - expected) <= 1e-9 * (1 + fabs(expected))))
        fail_msg("%s, %s: %.12g, PyTorch has %.12g", json_string_value(json_object_get(c, "loss")),
                 what, got, expected);
}

static void check_pairs(const json_t *cases, bool seen[JOUST_N_LOSSES])
{
    const json_t *c;
    size_t i;
    assert_true(json_array_size(cases) > 0);
    json_array_foreach(cases, i, c)
    {
        const joust_train_settings p = settings_of(c);
        const joust_pair_logps pair = pair_of(c);
        const joust_pair_slopes y = joust_pair_objective(&p, &pair);
        check_near(c, "value", y.loss);
        check_near(c, "chosen", y.chosen);
        check_near(c, "rejected", y.rejected);
        check_near(c, "plain_chosen", y.plain_chosen);
        seen[p.loss] = true;
    }
}

static void pairs_agree_with_pytorch(void **state)
{
    (void)state;
    json_t *golden = load_golden();
    bool seen[JOUST_N_LOSSES] = {false};
    check_pairs(json_object_get(golden, "pairs"), seen);
    check_pairs(json_object_get(golden, "soft_pairs"), seen);
    for (uint32_t k = 1; k < JOUST_N_LOSSES; k++)
        assert_true(seen[k] || k == JOUST_LOSS_SFT || k == JOUST_LOSS_POLICY ||
                    k == JOUST_LOSS_VALUE);
    json_decref(golden);
}

/* Log-ratios far out stay finite, wherever the loss itself does. */
static void far_out_is_finite(void **state)
{
    (void)state;
    const double far[] = {-2000, -40, 0, 40, 2000};
    for (uint32_t k = 1; k < JOUST_N_LOSSES; k++)
        for (size_t i = 0; i < 25; i++) {
            joust_train_settings p = {
                .loss = (joust_loss)k, .beta = 0.5, .objective = joust_objective_neutral()};
            p.objective.label_smoothing = 0.1;
            joust_pair_logps pair = {.ref_chosen = -far[i % 5],
                                     .ref_rejected = -far[i / 5],
                                     .n_chosen = 3,
                                     .n_rejected = 2};
            const joust_pair_slopes y = joust_pair_objective(&p, &pair);
            if (k == JOUST_LOSS_DISCOPOP)
                continue; /* e^-z overflows, and the step is refused */
            if (!isfinite(y.loss) || !isfinite(y.chosen) || !isfinite(y.rejected))
                fail_msg("%s at %g, %g: %g, %g, %g", joust_loss_traits_of(p.loss)->name, far[i % 5],
                         far[i / 5], y.loss, y.chosen, y.rejected);
        }
}

/* ret: the key that the settings are refused for, "" where they are not. */
static const char *refused(joust_train_settings p)
{
    joust_error err = {0};
    const char *key = NULL;
    joust_status st = joust_objective_check(&p, &key, &err);
    assert_true((st == JOUST_OK) == (*key == '\0'));
    assert_true(st == JOUST_OK || (st == JOUST_INVALID && *err.text));
    return key;
}

static joust_train_settings of(joust_loss loss)
{
    return (joust_train_settings){
        .loss = loss, .beta = 0.1, .objective = joust_objective_neutral()};
}

static void what_a_loss_does_not_take_is_refused(void **state)
{
    (void)state;
    joust_train_settings p = of(JOUST_LOSS_IPO);
    assert_string_equal(refused(p), "");
    p.objective.label_smoothing = 0.1;
    assert_string_equal(refused(p), "label_smoothing");
    p.objective.mix[JOUST_LOSS_ROBUST] = 0.5; /* this one takes it */
    assert_string_equal(refused(p), "");
    p.objective.label_smoothing = 0.5;
    assert_string_equal(refused(p), "label_smoothing");
    p = of(JOUST_LOSS_EXO_PAIR);
    assert_string_equal(refused(p), "label_smoothing");
    p = of(JOUST_LOSS_DPO);
    p.objective.gamma = 1;
    assert_string_equal(refused(p), "gamma");
    p = of(JOUST_LOSS_DPO);
    p.objective.ld_alpha = 1.5;
    assert_string_equal(refused(p), "ld_alpha");
    p = of(JOUST_LOSS_DPO);
    p.objective.desirable_weight = 2;
    assert_string_equal(refused(p), "desirable_weight");
    p = of(JOUST_LOSS_DPO);
    p.objective.reward_scale = 2;
    assert_string_equal(refused(p), "reward_scale");
    p = of(JOUST_LOSS_SIMPO);
    p.objective.reference_sync_steps = 2;
    assert_string_equal(refused(p), "reference_sync_steps");
    p = of(JOUST_LOSS_DPO);
    p.objective.reference_sync_steps = 2;
    assert_string_equal(refused(p), "");
    p.no_reference = true;
    assert_string_equal(refused(p), "reference_sync_steps");
    p = of(JOUST_LOSS_KTO);
    assert_string_equal(refused(p), "");
    p.objective.mix[JOUST_LOSS_DPO] = 1;
    assert_string_equal(refused(p), "mix");
    p = of(JOUST_LOSS_DPO);
    p.objective.mix[JOUST_LOSS_KTO] = 1;
    assert_string_equal(refused(p), "mix");
    p.objective.mix[JOUST_LOSS_KTO] = NAN;
    assert_string_equal(refused(p), "mix");
    p = of(JOUST_LOSS_KTO);
    p.no_reference = true;
    assert_string_equal(refused(p), "reference");
    p = of(JOUST_LOSS_SFT);
    p.objective.ld_alpha = 0.5;
    assert_string_equal(refused(p), "ld_alpha");
    p = of(JOUST_LOSS_SFT);
    p.objective.mix[JOUST_LOSS_DPO] = 0.5;
    assert_string_equal(refused(p), "mix");
    p = of(JOUST_LOSS_BRADLEY_TERRY);
    assert_string_equal(refused(p), "");
    p.objective.reward_scale = 2;
    assert_string_equal(refused(p), "reward_scale");
    p = of(JOUST_LOSS_MARGIN);
    p.objective.reward_scale = 2;
    assert_string_equal(refused(p), "");
    p.objective.ld_alpha = 0.5;
    assert_string_equal(refused(p), "ld_alpha");
    p = of(JOUST_LOSS_BRADLEY_TERRY_MARGIN);
    p.sft_weight = 1;
    assert_string_equal(refused(p), "sft_weight");
    p.objective.mix[JOUST_LOSS_DPO] = 1;
    assert_string_equal(refused(p), "mix");
    p = of(JOUST_LOSS_DPO);
    p.objective.mix[JOUST_LOSS_BRADLEY_TERRY] = 1;
    assert_string_equal(refused(p), "mix");
    p = of((joust_loss)JOUST_N_LOSSES);
    assert_string_equal(refused(p), "loss");
}

/* ---- policy gradients ------------------------------------------------------------------------ */

#define MAX_TOKENS 16u

static int choice(const json_t *object, const char *name, const char *const *names)
{
    const char *text = json_string_value(json_object_get(object, name));
    for (int i = 0; text && names[i]; i++)
        if (!strcmp(names[i], text))
            return i + 1;
    fail_msg("%s: what is '%s'", name, text ? text : "");
    return 0;
}

static uint32_t doubles(const json_t *object, const char *name, double *to)
{
    const json_t *list = json_object_get(object, name);
    assert_true(json_array_size(list) > 0 && json_array_size(list) <= MAX_TOKENS);
    for (size_t i = 0; i < json_array_size(list); i++)
        to[i] = json_number_value(json_array_get(list, i));
    return (uint32_t)json_array_size(list);
}

static void floats(const json_t *object, const char *name, float *to)
{
    double wide[MAX_TOKENS];
    uint32_t n = doubles(object, name, wide);
    for (uint32_t i = 0; i < n; i++)
        to[i] = (float)wide[i];
}

static joust_policy_settings policy_of(const json_t *s)
{
    const char *const surrogates[] = {"clipped", "truncated", "plain", NULL};
    const char *const importances[] = {"token", "sequence", NULL};
    const char *const kls[] = {"k1", "k2", "k3", NULL};
    return (joust_policy_settings){.surrogate = (joust_surrogate)choice(s, "surrogate", surrogates),
                                   .importance =
                                       (joust_importance)choice(s, "importance", importances),
                                   .aggregation = JOUST_AGGREGATE_ROWS,
                                   .kl = (joust_kl)choice(s, "kl", kls),
                                   .epsilon_low = number(s, "epsilon_low"),
                                   .epsilon_high = number(s, "epsilon_high"),
                                   .max_ratio = number(s, "max_ratio"),
                                   .kl_weight = number(s, "kl_weight"),
                                   .sampler_cap = number(s, "sampler_cap")};
}

static void policy_gradients_agree_with_pytorch(void **state)
{
    (void)state;
    json_t *golden = load_golden(), *c;
    size_t i;
    uint32_t n_clipped = 0;
    json_array_foreach(json_object_get(golden, "policy"), i, c)
    {
        double logps[MAX_TOKENS], advantages[MAX_TOKENS], expected[MAX_TOKENS], slopes[MAX_TOKENS];
        float old[MAX_TOKENS], ref[MAX_TOKENS], sampler[MAX_TOKENS];
        floats(c, "old", old);
        floats(c, "ref", ref);
        floats(c, "sampler", sampler);
        doubles(c, "advantages", advantages);
        doubles(c, "slopes", expected);
        const joust_policy_tokens x = {.n = doubles(c, "logps", logps),
                                       .logps = logps,
                                       .old_logps = old,
                                       .ref_logps = ref,
                                       .sampler_logps = sampler,
                                       .advantages = advantages};
        const joust_policy_settings p = policy_of(json_object_get(c, "settings"));
        const joust_policy_report y = joust_policy_objective(&p, &x, number(c, "share"), slopes);
        assert_true(fabs(y.loss - number(c, "loss")) < 1e-9 * (1 + fabs(y.loss)));
        for (uint32_t k = 0; k < x.n; k++)
            if (!(fabs(slopes[k] - expected[k]) < 1e-9 * (1 + fabs(expected[k]))))
                fail_msg("case %zu, token %u: slope %.12g, PyTorch has %.12g", i, k, slopes[k],
                         expected[k]);
        n_clipped += y.n_clipped;
    }
    assert_true(i == 18 && n_clipped > 5);
    json_decref(golden);
}

static void advantages_agree_with_pytorch(void **state)
{
    (void)state;
    const char *const kinds[] = {"centred", "standardised", "leave_one_out", NULL};
    json_t *golden = load_golden(), *c;
    size_t i;
    json_array_foreach(json_object_get(golden, "advantages"), i, c)
    {
        double rewards[MAX_TOKENS], expected[MAX_TOKENS], got[MAX_TOKENS];
        uint32_t n = doubles(c, "rewards", rewards);
        doubles(c, "expected", expected);
        bool differ = n > 1 && rewards[0] != rewards[1];
        assert_int_equal(
            joust_advantages((joust_advantage)choice(c, "kind", kinds), 0, rewards, n, got),
            differ);
        for (uint32_t k = 0; k < n; k++)
            assert_true(fabs(got[k] - expected[k]) < 1e-12 && (differ || got[k] == 0));
    }
    assert_int_equal(i, 12);
    json_decref(golden);
    /* Reward-weighted: n softmax(rewards / beta); torch: 3 * torch.softmax(torch.tensor([1., 0., 0.25]) / 0.5, 0) */
    const double rewards[] = {1, 0, 0.25},
                 expected[] = {2.2083741729377815, 0.298870944186955, 0.49275488287526353};
    double got[3];
    assert_true(joust_advantages(JOUST_ADVANTAGE_SHARE, 0.5, rewards, 3, got));
    for (uint32_t k = 0; k < 3; k++)
        assert_true(fabs(got[k] - expected[k]) < 1e-9);
    assert_false(joust_advantages(JOUST_ADVANTAGE_SHARE, 0.5, (const double[]){7, 7}, 2, got));
    assert_true(got[0] == 1 && got[1] == 1);
}

static void check_list(const json_t *c, const char *name, const double *got)
{
    double expected[MAX_TOKENS];
    const uint32_t n = doubles(c, name, expected);
    for (uint32_t k = 0; k < n; k++)
        if (!(fabs(got[k] - expected[k]) <= 1e-9 * (1 + fabs(expected[k]))))
            fail_msg("%s[%u]: %.12g, PyTorch has %.12g", name, k, got[k], expected[k]);
}

/* PPO's critic: the clipped value loss, and generalised advantages as TRL computes them. */
static void values_agree_with_pytorch(void **state)
{
    (void)state;
    json_t *golden = load_golden(), *c;
    size_t i;
    uint32_t n_clipped = 0;
    json_array_foreach(json_object_get(golden, "values"), i, c)
    {
        double values[MAX_TOKENS], returns[MAX_TOKENS], slopes[MAX_TOKENS];
        float old[MAX_TOKENS];
        floats(c, "old", old);
        doubles(c, "returns", returns);
        const joust_value_tokens x = {.n = doubles(c, "values", values),
                                      .values = values,
                                      .old_values = old,
                                      .returns = returns};
        const joust_policy_settings p = {.value_clip = number(c, "clip")};
        const joust_value_report y = joust_value_objective(&p, &x, number(c, "share"), slopes);
        assert_true(fabs(y.loss - number(c, "loss")) < 1e-9 * (1 + fabs(y.loss)));
        check_list(c, "slopes", slopes);
        n_clipped += y.n_clipped;
    }
    assert_true(i == 4 && n_clipped > 2);
    json_array_foreach(json_object_get(golden, "gae"), i, c)
    {
        double rewards[MAX_TOKENS], advantages[MAX_TOKENS], returns[MAX_TOKENS];
        float values[MAX_TOKENS];
        floats(c, "values", values);
        const uint32_t n = doubles(c, "rewards", rewards);
        joust_gae(rewards, values, n, number(c, "gamma"), number(c, "lambda"), advantages, returns);
        check_list(c, "advantages", advantages);
        check_list(c, "returns", returns);
    }
    assert_int_equal(i, 4);
    json_decref(golden);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_agree_with_pytorch),
        cmocka_unit_test(far_out_is_finite),
        cmocka_unit_test(what_a_loss_does_not_take_is_refused),
        cmocka_unit_test(policy_gradients_agree_with_pytorch),
        cmocka_unit_test(advantages_agree_with_pytorch),
        cmocka_unit_test(values_agree_with_pytorch),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
