/* Gradients against finite differences of the double-precision reference, losses, exact resume,
 * equal bits. */
#include "engine/compute/fixture.h"
#include "engine/compute/reference.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "worker/engine/optimizer_internal.h"
#include "worker/engine/trainer_internal.h"

#define N_PAIRS 5u
#define N_ROWS  3u

typedef struct data {
    uint32_t *tokens;
    joust_pair_row pairs[N_PAIRS];
    joust_target targets[N_ROWS][4];
    joust_sft_row rows[N_ROWS];
    joust_policy_row answers[N_ROWS];
    float old[N_ROWS][8], ref[N_ROWS][8];
    double advantages[N_ROWS][8];
    double baseline; /* KTO's, at the weights that the finite differences start from */
} data;

static const uint32_t labels[] = {5, 6};

/* Pairs of several lengths, one of a single token; rows with whole and restricted targets, two at
 * one position. */
static void data_make(data *d, uint32_t vocab)
{
    d->tokens = fixture_tokens(400, vocab, 11);
    for (uint32_t i = 0; i < N_PAIRS; i++) {
        const uint32_t *at = d->tokens + 60 * i;
        d->pairs[i] = (joust_pair_row){.prompt = at,
                                       .n_prompt = 1 + 4 * i,
                                       .chosen = at + 20,
                                       .n_chosen = i == 2 ? 1 : 3 + 5 * i % 7,
                                       .rejected = at + 40,
                                       .n_rejected = 2 + i,
                                       .ref_chosen = -8 - (double)i,
                                       .ref_rejected = -7,
                                       .margin = 0.5 * i - 0.4};
    }
    for (uint32_t i = 0; i < N_ROWS; i++) {
        const uint32_t *at = d->tokens + 50 * i;
        const joust_target targets[] = {
            {.position = 6 + i, .token = 6, .weight = 4, .n_among = 2, .among = labels},
            {.position = 3, .token = at[3], .weight = 1},
            {.position = 3, .token = 5, .weight = 0.5f, .n_among = 2, .among = labels},
            {.position = 9, .token = 7, .weight = 1.5f}};
        memcpy(d->targets[i], targets, sizeof(targets));
        for (uint32_t k = 0; k < 8; k++) {
            d->old[i][k] = -2.5f - 0.3f * (float)k;
            d->ref[i][k] = -3.5f + 0.2f * (float)k;
            d->advantages[i][k] = 1.5 - 0.9 * i + 0.1 * k;
        }
        d->answers[i] = (joust_policy_row){.prompt = at,
                                           .n_prompt = 2 + i,
                                           .response = at + 10,
                                           .n_response = i == 1 ? 1 : 4 + i,
                                           .old_logps = d->old[i],
                                           .ref_logps = d->ref[i],
                                           .advantages = d->advantages[i]};
        d->rows[i] =
            (joust_sft_row){.tokens = at, .n = 9 + i, .targets = d->targets[i], .n_targets = 4};
    }
}

static double loss_of(const joust_model *m, const double *weights, const data *d,
                      const joust_train_settings *p)
{
    if (p->loss == JOUST_LOSS_POLICY)
        return reference_policy_loss(m, weights, d->answers, N_ROWS, &p->policy);
    return p->loss == JOUST_LOSS_SFT
               ? reference_rows_loss(m, weights, d->rows, N_ROWS)
               : reference_pairs_loss(m, weights, d->pairs, N_PAIRS, p, d->baseline);
}

static joust_status step(joust_trainer *t, const data *d, joust_step_report *ret, joust_error *err)
{
    if (t->params.loss == JOUST_LOSS_POLICY)
        return joust_trainer_step_policy(t, d->answers, N_ROWS, ret, err);
    return t->params.loss == JOUST_LOSS_SFT
               ? joust_trainer_step_rows(t, d->rows, N_ROWS, ret, err)
               : joust_trainer_step_pairs(t, d->pairs, N_PAIRS, ret, err);
}

/* Every tensor: several elements, central differences. */
static void check_tensor(const joust_model *m, double *weights, const data *d,
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
    data d;
    data_make(&d, config->vocab_size);
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    if (joust_needs_live_reference(&p))
        check_ok(joust_trainer_take_reference(t, &reference, &err));
    if (p.loss == JOUST_LOSS_KTO) {
        d.pairs[1].n_rejected = d.pairs[3].n_chosen = 0; /* answers without their other */
        check_ok(joust_reference_baseline(t, d.pairs, N_PAIRS, &d.baseline, &err));
    }
    check_ok(step(t, &d, &report, &err));
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
    joust_model_config families[FIXTURE_FAMILIES];
    for (uint32_t i = 0; i < fixture_families(families); i++) {
        check_gradients(&families[i], JOUST_LOSS_DPO);
        check_gradients(&families[i], JOUST_LOSS_SFT);
    }
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
    data d;
    data_make(&d, config.vocab_size);
    d.pairs[1].n_rejected = d.pairs[3].n_chosen = 0;
    uint32_t n_held = 0;
    for (uint32_t i = 0; i < 2; i++) {
        joust_model *reference = NULL;
        joust_trainer *t;
        double got;
        check_ok(joust_model_clone(models[!i], &reference, &err));
        check_ok(joust_trainer_create(e, models[i], &p, &t, &err));
        check_ok(joust_trainer_take_reference(t, &reference, &err));
        check_ok(joust_reference_baseline(t, d.pairs, N_PAIRS, &got, &err));
        const double expected = reference_baseline(models[i], wide[i], wide[!i], d.pairs, N_PAIRS);
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
    data d;
    data_make(&d, config.vocab_size);
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

/* Every loss on pairs, and what bends them: smoothing, lengths, a mix, no reference. */
static void test_objectives(void **state)
{
    (void)state;
    const joust_model_config config = fixture_odd_config();
    joust_train_settings p;
    for (uint32_t i = JOUST_LOSS_HINGE; i <= JOUST_LOSS_REBEL; i++) {
        p = fixture_params((joust_loss)i);
        p.objective.label_smoothing =
            joust_loss_traits_of(p.loss)->keys & JOUST_TAKES_LABEL_SMOOTHING ? 0.1 : 0;
        check_settings(&config, p, 1);
    }
    p = fixture_params(JOUST_LOSS_IPO);
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

/* What the row or the settings lack is named; weights stay. */
static void test_policy_bad_input(void **state)
{
    (void)state;
    joust_error err = {0};
    const joust_model_config config = fixture_odd_config();
    joust_model *m = fixture_model(&config, 3);
    joust_engine *e = fixture_engine(1, JOUST_ISA_AUTO);
    joust_train_settings p = fixture_params(JOUST_LOSS_POLICY);
    joust_trainer *t;
    joust_step_report report;
    data d;
    data_make(&d, config.vocab_size);
    check_status(JOUST_INVALID, joust_trainer_create(e, m, &p, &t, &err));
    assert_non_null(strstr(err.text, "surrogate"));
    p.policy = (joust_policy_settings){.surrogate = JOUST_SURROGATE_CLIPPED,
                                       .importance = JOUST_IMPORTANCE_TOKEN,
                                       .aggregation = JOUST_AGGREGATE_ROWS,
                                       .kl = JOUST_KL_K3,
                                       .kl_weight = 1,
                                       .epsilon_low = 0.2,
                                       .epsilon_high = 0.2};
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    const joust_digest before = joust_model_digest(m);
    d.answers[1].n_response = 0;
    check_status(JOUST_INVALID, step(t, &d, &report, &err));
    assert_non_null(strstr(err.text, "row 1"));
    d.answers[1].n_response = 1;
    d.answers[1].ref_logps = NULL;
    check_status(JOUST_INVALID, step(t, &d, &report, &err));
    d.answers[1].ref_logps = d.ref[1];
    d.advantages[2][1] = NAN;
    check_status(JOUST_INVALID, step(t, &d, &report, &err));
    assert_non_null(strstr(err.text, "row 2: response token 1"));
    d.advantages[2][1] = 0;
    d.old[0][0] = -5000; /* a ratio beyond all numbers, with a negative advantage */
    d.advantages[0][0] = -1;
    check_status(JOUST_NOT_FINITE, step(t, &d, &report, &err));
    assert_non_null(strstr(err.text, "step 0: row 0"));
    const joust_digest after = joust_model_digest(m);
    assert_true(joust_digest_equal(&before, &after));
    joust_free(d.tokens);
    joust_trainer_free(&t);
    joust_model_free(&m);
    joust_engine_free(&e);
}

/* A reference that moves: scored at each step, saved with the state, and gone to the policy where the share is 1. */
static joust_digest moved(const char *path, uint32_t from, uint32_t to, double mixup,
                          joust_digest *ret_reference)
{
    joust_error err = {0};
    const joust_model_config config = fixture_odd_config();
    joust_model *m = fixture_model(&config, from ? 99 : 3), *reference = fixture_model(&config, 3);
    joust_engine *e = fixture_engine(2, JOUST_ISA_AUTO);
    joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    p.sft_weight = 0;
    p.objective.reference_sync_steps = 2;
    p.objective.reference_mixup = mixup;
    joust_trainer *t;
    joust_step_report report;
    data d;
    data_make(&d, config.vocab_size);
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    check_status(JOUST_INVALID, step(t, &d, &report, &err)); /* before it has one */
    check_ok(joust_trainer_take_reference(t, &reference, &err));
    if (from)
        check_ok(joust_trainer_restore(t, path, &err));
    for (uint32_t i = from; i < to; i++) {
        check_ok(step(t, &d, &report, &err));
        assert_true((fabs(report.loss - log(2)) < 1e-12) == (i == 0 || (mixup == 1 && i % 2 == 0)));
        if (path && !from && i + 1 == 3)
            check_ok(joust_trainer_save(t, path, &err));
    }
    *ret_reference = joust_model_digest(t->reference);
    const joust_digest digest = joust_model_digest(m);
    joust_free(d.tokens);
    joust_trainer_free(&t);
    joust_model_free(&m);
    joust_engine_free(&e);
    return digest;
}

static void test_moving_reference(void **state)
{
    (void)state;
    char path[] = "/tmp/joust_train_test_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    joust_digest first, second;
    const joust_digest whole = moved(path, 0, 5, 0.6, &first);
    const joust_digest resumed = moved(path, 3, 5, 0.6, &second);
    assert_true(joust_digest_equal(&whole, &resumed) && joust_digest_equal(&first, &second));
    const joust_digest policy = moved(NULL, 0, 4, 1, &first);
    assert_true(joust_digest_equal(&policy, &first));
    unlink(path);
}

/* The digest of the weights after a few steps. */
static joust_digest trained(uint32_t n_threads, joust_isa isa, joust_loss loss,
                            const char *save_at_2, uint32_t from, uint32_t to)
{
    joust_error err = {0};
    const joust_model_config config = fixture_odd_config();
    joust_model *m = fixture_model(
        &config, from ? 99 : 3); /* a resumed trainer gets its weights from the file */
    joust_engine *e = fixture_engine(n_threads, isa);
    joust_train_settings p = fixture_params(loss);
    joust_trainer *t;
    joust_step_report report;
    data d;
    data_make(&d, config.vocab_size);
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    if (from)
        check_ok(joust_trainer_restore(t, save_at_2, &err));
    assert_int_equal(joust_trainer_steps_done(t), from);
    for (uint32_t i = from; i < to; i++) {
        check_ok(step(t, &d, &report, &err));
        assert_int_equal(report.step, i);
        if (save_at_2 && i + 1 == 2)
            check_ok(joust_trainer_save(t, save_at_2, &err));
    }
    joust_digest digest = joust_model_digest(m);
    joust_free(d.tokens);
    joust_trainer_free(&t);
    joust_model_free(&m);
    joust_engine_free(&e);
    return digest;
}

static void check_digest(joust_digest a, joust_digest b)
{
    assert_true(joust_digest_equal(&a, &b));
}

static void test_equal_bits(void **state)
{
    (void)state;
    joust_isa isas[3];
    uint32_t n_isas = fixture_isas(isas);
    for (joust_loss loss = JOUST_LOSS_DPO; loss <= JOUST_LOSS_HINGE; loss++) {
        const joust_digest expected = trained(1, isas[0], loss, NULL, 0, 4);
        for (uint32_t i = 0; i < n_isas; i++)
            for (uint32_t n_threads = 1; n_threads <= 3; n_threads++)
                check_digest(expected, trained(n_threads, isas[i], loss, NULL, 0, 4));
    }
}

/* The tree over rows is the same however it is cut into runs and whoever computes them. */
static void test_tree(void **state)
{
    (void)state;
    enum { N = 21 };
    joust_error err = {0};
    const joust_model_config config = fixture_odd_config();
    joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    data d;
    data_make(&d, config.vocab_size);
    joust_pair_row rows[N];
    for (uint32_t i = 0; i < N; i++) {
        rows[i] = d.pairs[i % N_PAIRS];
        rows[i].ref_chosen -= i;
    }
    float *expected = NULL;
    for (uint32_t n_threads = 1; n_threads <= 3; n_threads++)
        for (uint32_t max_runs = 64; max_runs >= 1; max_runs /= 4) {
            joust_model *m = fixture_model(&config, 3);
            joust_engine *e = fixture_engine(n_threads, JOUST_ISA_AUTO);
            joust_trainer *t;
            joust_step_report report;
            check_ok(joust_trainer_create(e, m, &p, &t, &err));
            t->max_runs = max_runs;
            check_ok(joust_trainer_step_pairs(t, rows, N, &report, &err));
            if (!expected)
                expected = joust_memdup(t->sums[0], m->n_weights * sizeof(float));
            assert_true(max_runs == 64 ? t->n_sums == N : t->n_sums < N);
            assert_memory_equal(expected, t->sums[0], m->n_weights * sizeof(float));
            joust_trainer_free(&t);
            joust_model_free(&m);
            joust_engine_free(&e);
        }
    joust_free(expected);
    joust_free(d.tokens);
}

static void test_resume(void **state)
{
    (void)state;
    joust_error err = {0};
    char path[] = "/tmp/joust_train_test_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    const joust_digest expected = trained(1, JOUST_ISA_AUTO, JOUST_LOSS_DPO, path, 0, 6);
    check_digest(expected, trained(2, JOUST_ISA_AUTO, JOUST_LOSS_DPO, path, 2, 6));

    /* Other shape, other settings, damage: refused, and the model is as it was. */
    joust_model_config config = fixture_odd_config();
    joust_model *m = fixture_model(&config, 3);
    joust_engine *e = fixture_engine(1, JOUST_ISA_AUTO);
    joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    joust_trainer *t;
    p.beta = 0.5;
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    check_status(JOUST_CONFLICT, joust_trainer_restore(t, path, &err));
    joust_trainer_free(&t);
    const joust_digest before = joust_model_digest(m);
    p.beta = 0.3;
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    joust_buf file = {0};
    check_ok(joust_file_read(path, 1u << 24, &file, &err));
    for (size_t at = 0; at < file.n; at += at < 120 ? 1 : 997) {
        if (at >= 8 && at < 12)
            continue; /* the version */
        file.data[at] ^= 4;
        check_ok(joust_file_write(path, file.data, file.n, &err));
        check_status(JOUST_CORRUPT, joust_trainer_restore(t, path, &err));
        file.data[at] ^= 4;
    }
    const size_t cuts[] = {0, 7, 8, 60, 96, file.n / 2, file.n - 1};
    for (size_t i = 0; i < sizeof(cuts) / sizeof(*cuts); i++) {
        check_ok(joust_file_write(path, file.data, cuts[i], &err));
        check_status(JOUST_CORRUPT, joust_trainer_restore(t, path, &err));
    }
    check_status(JOUST_NOT_FOUND, joust_trainer_restore(t, "/nowhere/state", &err));
    check_digest(before, joust_model_digest(m));
    joust_trainer_free(&t);
    joust_model_free(&m);
    check_ok(joust_file_write(path, file.data, file.n, &err));
    config.d_ff = 25;
    m = fixture_model(&config, 3);
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    check_status(JOUST_CONFLICT, joust_trainer_restore(t, path, &err));
    joust_buf_fini(&file);
    joust_trainer_free(&t);
    joust_model_free(&m);
    joust_engine_free(&e);
    unlink(path);
}

/* With the policy as its own reference the first DPO loss is ln 2, and the rewards are exactly 0.
 * */
static void test_first_loss(void **state)
{
    (void)state;
    joust_error err = {0};
    const joust_model_config config = fixture_odd_config();
    joust_model *m = fixture_model(&config, 3);
    joust_engine *e = fixture_engine(2, JOUST_ISA_AUTO);
    joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    p.sft_weight = 0;
    data d;
    data_make(&d, config.vocab_size);
    for (uint32_t i = 0; i < N_PAIRS; i++)
        for (uint32_t which = 0; which < 2; which++) {
            joust_pair_row *r = &d.pairs[i];
            uint32_t tokens[64], n = which ? r->n_rejected : r->n_chosen;
            float logps[64];
            memcpy(tokens, r->prompt, r->n_prompt * sizeof(*tokens));
            memcpy(tokens + r->n_prompt, which ? r->rejected : r->chosen, n * sizeof(*tokens));
            joust_score_request request = {
                .tokens = tokens, .n = r->n_prompt + n, .first = r->n_prompt, .ret_logps = logps};
            check_ok(joust_score(e, m, &request, 1, NULL, NULL, &err));
            double *ref = which ? &r->ref_rejected : &r->ref_chosen;
            *ref = 0;
            for (uint32_t k = 0; k < n; k++)
                *ref += (double)logps[k];
        }
    joust_trainer *t;
    joust_step_report first, last;
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    check_ok(step(t, &d, &first, &err));
    assert_true(fabs(first.loss - log(2)) < 1e-12);
    assert_true(first.chosen_reward == 0 && first.rejected_reward == 0 && first.accuracy == 0);
    for (uint32_t i = 0; i < 8; i++)
        check_ok(step(t, &d, &last, &err));
    assert_true(last.loss < first.loss && last.chosen_reward > last.rejected_reward &&
                last.accuracy > 0.5);
    assert_true(last.learning_rate < p.learning_rate);
    joust_free(d.tokens);
    joust_trainer_free(&t);
    joust_model_free(&m);
    joust_engine_free(&e);
}

/* Warm-up and decay, at the steps where they turn. */
static void test_learning_rate(void **state)
{
    (void)state;
    joust_train_settings p = {
        .learning_rate = 2, .min_learning_rate_ratio = 0.1, .warmup_steps = 5, .max_steps = 40};
    const struct {
        joust_schedule schedule;
        uint32_t step;
        double expected;
    } cases[] = {{JOUST_SCHEDULE_CONSTANT, 0, 2 * 0.2},
                 {JOUST_SCHEDULE_CONSTANT, 39, 2},
                 {JOUST_SCHEDULE_LINEAR, 0, 2 * 0.2},
                 {JOUST_SCHEDULE_LINEAR, 3, 2 * 0.8 * (1 - 0.9 * 3 / 40)},
                 {JOUST_SCHEDULE_LINEAR, 20, 2 * 0.55},
                 {JOUST_SCHEDULE_LINEAR, 40, 0.2},
                 {JOUST_SCHEDULE_LINEAR, 400, 0.2},
                 {JOUST_SCHEDULE_COSINE, 10, 2 * (0.1 + 0.45 * (1 + cos(acos(-1) / 4)))},
                 {JOUST_SCHEDULE_COSINE, 40, 0.2}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        p.schedule = cases[i].schedule;
        assert_true(fabs(joust_learning_rate(&p, cases[i].step) - cases[i].expected) < 1e-12);
    }
}

/* One update against AdamW's formula in double: clipped, decayed but for the norms. */
static void test_update(void **state)
{
    (void)state;
    joust_error err = {0};
    const joust_model_config config = fixture_odd_config();
    joust_model *m = fixture_model(&config, 3);
    joust_engine *e = fixture_engine(2, JOUST_ISA_AUTO);
    joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    p.clip = 0.5;
    p.weight_decay = 0.3;
    p.learning_rate = 0.01;
    joust_trainer *t;
    joust_step_report report;
    data d;
    uint64_t n;
    uint32_t n_tensors;
    data_make(&d, config.vocab_size);
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    float *weights = joust_model_weights(m, &n);
    float *before = joust_memdup(weights, n * sizeof(*weights));
    check_ok(step(t, &d, &report, &err));
    assert_true(report.gradient_norm > p.clip);
    const joust_tensor *tensors = joust_model_tensors(m, &n_tensors);
    for (uint32_t i = 0; i < n_tensors; i++)
        for (uint64_t k = 0; k < tensors[i].n; k++) {
            uint64_t at = (uint64_t)(tensors[i].data - weights) + k;
            double g = (double)t->sums[0][at] * p.clip / report.gradient_norm,
                   lr = report.learning_rate;
            double decay = tensors[i].n_dims == 2 ? 1 - lr * p.weight_decay : 1;
            double expected =
                (double)before[at] * decay - lr * g / (fabs(g) + p.adam_eps); /* the first step */
            assert_true(fabs((double)weights[at] - expected) < 2e-6);
        }
    joust_free(before);
    joust_free(d.tokens);
    joust_trainer_free(&t);
    joust_model_free(&m);
    joust_engine_free(&e);
}

static void test_bad_input(void **state)
{
    (void)state;
    joust_error err = {0};
    const joust_model_config config = fixture_odd_config();
    joust_model *m = fixture_model(&config, 3);
    joust_engine *e = fixture_engine(1, JOUST_ISA_AUTO);
    joust_train_settings p = fixture_params(JOUST_LOSS_DPO), bad = p;
    joust_trainer *t;
    joust_step_report report;
    bad.adam_beta2 = 1;
    check_status(JOUST_INVALID, joust_trainer_create(e, m, &bad, &t, &err));
    assert_non_null(strstr(err.text, "adam_beta2"));
    bad = p;
    bad.learning_rate = NAN;
    check_status(JOUST_INVALID, joust_trainer_create(e, m, &bad, &t, &err));
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    data d;
    data_make(&d, config.vocab_size);
    const joust_digest before = joust_model_digest(m);
    check_status(JOUST_INVALID, joust_trainer_step_pairs(t, d.pairs, 0, &report, &err));
    check_status(JOUST_INVALID, joust_trainer_step_rows(t, d.rows, N_ROWS, &report, &err));
    joust_pair_row row = d.pairs[1];
    row.n_rejected = row.n_chosen = 0;
    check_status(JOUST_INVALID, joust_trainer_step_pairs(t, &row, 1, &report, &err));
    row = d.pairs[1];
    row.n_chosen = config.context;
    check_status(JOUST_INVALID, joust_trainer_step_pairs(t, &row, 1, &report, &err));
    row = d.pairs[1];
    row.ref_chosen = INFINITY;
    check_status(JOUST_INVALID, joust_trainer_step_pairs(t, &row, 1, &report, &err));
    uint32_t outside[] = {1, config.vocab_size};
    row = d.pairs[1];
    row.rejected = outside;
    row.n_rejected = 2;
    check_status(JOUST_INVALID, joust_trainer_step_pairs(t, &row, 1, &report, &err));
    check_digest(before, joust_model_digest(m));

    /* A weight that is not finite: the step is refused and nothing moves. */
    uint64_t n;
    float *weights = joust_model_weights(m, &n);
    weights[n / 2] = NAN;
    joust_model_changed(m);
    const joust_digest damaged = joust_model_digest(m);
    check_status(JOUST_NOT_FINITE, step(t, &d, &report, &err));
    check_digest(damaged, joust_model_digest(m));
    assert_int_equal(joust_trainer_steps_done(t), 0);
    joust_trainer_free(&t);

    p.loss = JOUST_LOSS_SFT;
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    joust_target targets[] = {
        {.position = 0, .token = 1, .weight = 1},
        {.position = 10, .token = 1, .weight = 1},
        {.position = 2, .token = config.vocab_size, .weight = 1},
        {.position = 2, .token = 1, .weight = NAN},
        {.position = 2, .token = 1, .weight = 1, .n_among = 2, .among = labels}};
    for (uint32_t i = 0; i < sizeof(targets) / sizeof(*targets); i++) {
        joust_sft_row one = {.tokens = d.tokens, .n = 9, .targets = &targets[i], .n_targets = 1};
        check_status(JOUST_INVALID, joust_trainer_step_rows(t, &one, 1, &report, &err));
    }
    joust_free(d.tokens);
    joust_trainer_free(&t);
    joust_model_free(&m);
    joust_engine_free(&e);
}

/* Every allocation of creating, stepping and reading log-probs fails once; nothing leaks and the
 * weights stay. */
static void test_out_of_memory(void **state)
{
    (void)state;
    joust_error err = {0};
    const joust_model_config config = fixture_odd_config();
    joust_model *m = fixture_model(&config, 3);
    joust_engine *e = fixture_engine(2, JOUST_ISA_AUTO);
    joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    data d;
    data_make(&d, config.vocab_size);
    const joust_digest before = joust_model_digest(m);
    int64_t n = 1;
    for (joust_status st = JOUST_NOMEM; st; n++) {
        joust_trainer *t = NULL;
        joust_step_report report;
        float logps[8];
        joust_model *fresh;
        check_ok(joust_model_clone(m, &fresh, &err));
        const int64_t live = joust_alloc_live();
        joust_alloc_fail_at(n);
        st = joust_trainer_create(e, fresh, &p, &t, &err);
        if (!st)
            st = joust_trainer_logps(t, d.tokens, 9, 1, logps, &err);
        if (!st)
            st = step(t, &d, &report, &err);
        joust_alloc_fail_at(0);
        if (st) {
            assert_int_equal(st, JOUST_NOMEM);
            check_digest(before, joust_model_digest(fresh));
        }
        joust_trainer_free(&t);
        assert_true(joust_alloc_live() - live <= 3); /* the model's packed copies, freed with it */
        joust_model_free(&fresh);
    }
    assert_true(n > 20);
    joust_free(d.tokens);
    joust_model_free(&m);
    joust_engine_free(&e);
    assert_int_equal(joust_alloc_live(), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),        cmocka_unit_test(test_objectives),
        cmocka_unit_test(test_moving_reference), cmocka_unit_test(test_baseline),
        cmocka_unit_test(test_policy_gradients), cmocka_unit_test(test_policy_bad_input),
        cmocka_unit_test(test_equal_bits),       cmocka_unit_test(test_tree),
        cmocka_unit_test(test_resume),           cmocka_unit_test(test_first_loss),
        cmocka_unit_test(test_learning_rate),    cmocka_unit_test(test_update),
        cmocka_unit_test(test_bad_input),        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
