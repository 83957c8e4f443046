/* Gradients and losses against finite differences of the double-precision reference. */
#include "engine/compute/reference.h"
#include "engine/compute/train_fixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "worker/engine/train/trainer_internal.h"

static double loss_of(const joust_model *m, const double *weights, const train_data *d,
                      const joust_train_settings *p)
{
    if (p->loss == JOUST_LOSS_POLICY)
        return reference_policy_loss(m, weights, d->answers, TRAIN_ROWS, &p->policy);
    return p->loss == JOUST_LOSS_SFT
               ? reference_rows_loss(m, weights, d->rows, TRAIN_ROWS)
               : reference_pairs_loss(m, weights, d->pairs, TRAIN_PAIRS, p, d->baseline);
}

/* Every tensor: several elements, central differences. */
static void check_tensor(const joust_model *m, double *weights, const train_data *d,
                         const joust_train_settings *p, const joust_tensor *tensor,
                         const float *gradient, uint64_t at, uint32_t per_tensor, uint32_t *n_large)
{
    const double h = 1e-5;
    double largest = 0;
    for (uint64_t k = 0; k < tensor->n; k++)
        largest = fmax(largest, fabs((double)gradient[at + k]));
    uint64_t stride = tensor->n / per_tensor + 1;
    for (uint64_t k = 0; k < tensor->n; k += stride) {
        double keep = weights[at + k];
        weights[at + k] = keep + h;
        double up = loss_of(m, weights, d, p);
        weights[at + k] = keep - h;
        double down = loss_of(m, weights, d, p);
        weights[at + k] = keep;
        double expected = (up - down) / (2 * h), got = (double)gradient[at + k];
        if (!(fabs(expected - got) < 2e-5 * (1 + largest)))
            fail_msg("%s[%u]: gradient %.9g, finite difference %.9g", tensor->name, (unsigned)k,
                     got, expected);
        *n_large += fabs(expected) > 1e-3;
    }
}

static void check_settings(const joust_model_config *config, joust_train_settings p,
                           uint32_t per_tensor)
{
    joust_error err = {0};
    joust_model *m = fixture_model(config, 3), *reference = fixture_model(config, 4);
    joust_engine *e = fixture_engine(2, JOUST_ISA_AUTO);
    p.learning_rate = 0; /* the weights stay */
    joust_trainer *t;
    joust_step_report report;
    train_data d;
    train_data_make(&d, config->vocab_size);
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    if (joust_needs_live_reference(&p))
        check_ok(joust_trainer_take_reference(t, &reference, &err));
    if (p.loss == JOUST_LOSS_KTO) {
        d.pairs[1].n_rejected = d.pairs[3].n_chosen = 0; /* answers without their other */
        check_ok(joust_reference_baseline(t, d.pairs, TRAIN_PAIRS, &d.baseline, &err));
    }
    check_ok(train_data_step(t, &d, &report, &err));
    uint64_t n;
    float *weights = joust_model_weights(m, &n);
    double *exact = joust_calloc(n, sizeof(*exact)), squares = 0;
    for (uint64_t i = 0; i < n; i++) {
        exact[i] = (double)weights[i];
        squares += (double)t->sums[0][i] * (double)t->sums[0][i];
    }
    double expected = loss_of(m, exact, &d, &p);
    if (!(fabs(report.loss - expected) < 1e-5 * (1 + fabs(expected))))
        fail_msg("loss %d is %.9g, expected %.9g", p.loss, report.loss, expected);
    assert_true(fabs(report.gradient_norm - sqrt(squares)) < 1e-9 * sqrt(squares));
    uint32_t n_tensors, n_large = 0;
    const joust_tensor *tensors = joust_model_tensors(m, &n_tensors);
    for (uint32_t i = 0; i < n_tensors; i++)
        check_tensor(m, exact, &d, &p, &tensors[i], t->sums[0],
                     (uint64_t)(tensors[i].data - weights), per_tensor, &n_large);
    assert_true(n_large > 4 * per_tensor);
    joust_free(exact);
    joust_free(d.tokens);
    joust_trainer_free(&t);
    joust_model_free(&m);
    joust_model_free(&reference);
    joust_engine_free(&e);
}

static void check_gradients(const joust_model_config *config, joust_loss loss)
{
    check_settings(config, fixture_params(loss), 11);
}

static void test_gradients(void **state)
{
    (void)state;
    const joust_model_config odd = fixture_odd_config(), even = fixture_even_config();
    check_gradients(&odd, JOUST_LOSS_DPO);
    check_gradients(&odd, JOUST_LOSS_SFT);
    check_gradients(&even, JOUST_LOSS_DPO);
    check_gradients(&even, JOUST_LOSS_SFT);
}

/* Families first, first + 3, ... */
static void check_families(uint32_t first)
{
    joust_model_config families[FIXTURE_FAMILIES];
    const uint32_t n = fixture_families(families);
    for (uint32_t i = first; i < n; i += 3) {
        check_gradients(&families[i], JOUST_LOSS_DPO);
        check_gradients(&families[i], JOUST_LOSS_SFT);
    }
}

static void test_families_0(void **state)
{
    (void)state;
    check_families(0);
}

static void test_families_1(void **state)
{
    (void)state;
    check_families(1);
}

static void test_families_2(void **state)
{
    (void)state;
    check_families(2);
}

static double *doubled(joust_model *m)
{
    uint64_t n;
    const float *weights = joust_model_weights(m, &n);
    double *wide = joust_calloc(n, sizeof(*wide));
    assert_non_null(wide);
    for (uint64_t i = 0; i < n; i++)
        wide[i] = (double)weights[i];
    return wide;
}

/* Each answer is set after another prompt; the estimate is never below 0. */
static void test_baseline(void **state)
{
    (void)state;
    joust_error err = {0};
    const joust_model_config config = fixture_odd_config();
    joust_model *models[2] = {fixture_model(&config, 3), fixture_model(&config, 4)};
    double *wide[2] = {doubled(models[0]), doubled(models[1])};
    joust_engine *e = fixture_engine(2, JOUST_ISA_AUTO);
    const joust_train_settings p = fixture_params(JOUST_LOSS_KTO);
    train_data d;
    train_data_make(&d, config.vocab_size);
    d.pairs[1].n_rejected = d.pairs[3].n_chosen = 0;
    uint32_t n_held = 0;
    for (uint32_t i = 0; i < 2; i++) {
        joust_model *reference = NULL;
        joust_trainer *t;
        double got;
        check_ok(joust_model_clone(models[!i], &reference, &err));
        check_ok(joust_trainer_create(e, models[i], &p, &t, &err));
        check_ok(joust_trainer_take_reference(t, &reference, &err));
        check_ok(joust_reference_baseline(t, d.pairs, TRAIN_PAIRS, &got, &err));
        const double expected =
            reference_baseline(models[i], wide[i], wide[!i], d.pairs, TRAIN_PAIRS);
        assert_true(fabs(got - fmax(expected, 0)) < 1e-4 && fabs(expected) > 0.05);
        n_held += expected < 0;
        joust_trainer_free(&t);
    }
    assert_int_equal(n_held, 1);
    joust_free(d.tokens);
    for (uint32_t i = 0; i < 2; i++) {
        joust_free(wide[i]);
        joust_model_free(&models[i]);
    }
    joust_engine_free(&e);
}

/* An answer of no tokens counts as 0 in every loss, and pulls at nothing. */
static void test_empty_answer(void)
{
    joust_error err = {0};
    const joust_model_config config = fixture_odd_config();
    joust_model *m = fixture_model(&config, 3);
    joust_engine *e = fixture_engine(1, JOUST_ISA_AUTO);
    train_data d;
    train_data_make(&d, config.vocab_size);
    for (uint32_t i = JOUST_LOSS_DPO; i <= JOUST_LOSS_REBEL; i++) {
        joust_train_settings p = fixture_params((joust_loss)i);
        joust_trainer *t;
        joust_step_report report;
        if (i == JOUST_LOSS_SFT || i == JOUST_LOSS_KTO || i == JOUST_LOSS_EXO_PAIR)
            continue;
        check_ok(joust_trainer_create(e, m, &p, &t, &err));
        joust_pair_row row = d.pairs[1];
        row.n_rejected = 0;
        row.ref_rejected = 0;
        check_ok(joust_trainer_step_pairs(t, &row, 1, &report, &err));
        assert_true(report.rejected_reward == 0 && report.gradient_norm > 0);
        row = d.pairs[1];
        row.n_chosen = 0;
        row.ref_chosen = 0;
        check_ok(joust_trainer_step_pairs(t, &row, 1, &report, &err));
        assert_true(report.chosen_reward == 0);
        joust_trainer_free(&t);
    }
    joust_free(d.tokens);
    joust_model_free(&m);
    joust_engine_free(&e);
}

/* Losses first .. last on pairs. */
static void check_losses(joust_loss first, joust_loss last)
{
    const joust_model_config config = fixture_odd_config();
    for (uint32_t i = first; i <= (uint32_t)last; i++) {
        joust_train_settings p = fixture_params((joust_loss)i);
        p.objective.label_smoothing =
            joust_loss_traits_of(p.loss)->keys & JOUST_TAKES_LABEL_SMOOTHING ? 0.1 : 0;
        check_settings(&config, p, 1);
    }
}

/* Every loss on pairs. */
static void test_losses(void **state)
{
    (void)state;
    check_losses(JOUST_LOSS_HINGE, JOUST_LOSS_APO_ZERO);
}

static void test_more_losses(void **state)
{
    (void)state;
    check_losses(JOUST_LOSS_APO_DOWN, JOUST_LOSS_REBEL);
    check_losses(JOUST_LOSS_SPPO_SOFT, JOUST_LOSS_SPPO_SOFT);
}

/* What bends them: lengths, a mix, no reference; no tokens at all. */
static void test_objectives(void **state)
{
    (void)state;
    const joust_model_config config = fixture_odd_config();
    joust_train_settings p = fixture_params(JOUST_LOSS_IPO);
    p.objective.ld_alpha = 0.4;
    p.objective.mix[JOUST_LOSS_SFT] = 0.3;
    p.objective.mix[JOUST_LOSS_IPO] = 0.8;
    p.objective.mix[JOUST_LOSS_BCO_PAIR] = 0.2;
    check_settings(&config, p, 1);
    p = fixture_params(JOUST_LOSS_HINGE);
    p.no_reference = true;
    check_settings(&config, p, 1);
    test_empty_answer();
}

/* Each aggregation and level of importance, with entropy and a KL term. */
static void test_policy_gradients(void **state)
{
    (void)state;
    const joust_model_config config = fixture_odd_config();
    joust_train_settings p = fixture_params(JOUST_LOSS_POLICY);
    for (uint32_t i = 0; i < 6; i++) {
        p.policy = (joust_policy_settings){.surrogate = 1 + i % 3,
                                           .importance = 1 + i / 3,
                                           .aggregation = 1 + i % 3,
                                           .epsilon_low = 0.5,
                                           .epsilon_high = 0.6,
                                           .kl = 1 + i % 3,
                                           .kl_weight = 0.2,
                                           .entropy_weight = i % 2 ? 0.3 : 0,
                                           .max_tokens = 7};
        if (p.policy.surrogate !=
            JOUST_SURROGATE_TRUNCATED) /* its weight is held in the gradient alone */
            check_settings(&config, p, 1);
    }
}

/* engine_gradients_test [PART]: parts run side by side; without one all of them. */
int main(int argc, char **argv)
{
    const struct CMUnitTest decoders[] = {cmocka_unit_test(test_gradients)},
                            families_0[] = {cmocka_unit_test(test_families_0)},
                            families_1[] = {cmocka_unit_test(test_families_1)},
                            families_2[] = {cmocka_unit_test(test_families_2)},
                            losses[] = {cmocka_unit_test(test_losses)},
                            more_losses[] = {cmocka_unit_test(test_more_losses)},
                            objectives[] = {cmocka_unit_test(test_objectives),
                                            cmocka_unit_test(test_baseline),
                                            cmocka_unit_test(test_policy_gradients)};
    const char *part = argc > 1 ? argv[1] : "";
    int failed = 0, n_run = 0;
#define RUN(tests)                                                                                 \
    if (!*part || strcmp(part, #tests) == 0) {                                                     \
        failed += cmocka_run_group_tests(tests, NULL, NULL);                                       \
        n_run++;                                                                                   \
    }
    RUN(decoders)
    RUN(families_0)
    RUN(families_1)
    RUN(families_2)
    RUN(losses)
    RUN(more_losses)
    RUN(objectives)
#undef RUN
    if (n_run == 0)
        fprintf(stderr, "engine_gradients_test: no part '%s'\n", part);
    return failed || n_run == 0;
}
