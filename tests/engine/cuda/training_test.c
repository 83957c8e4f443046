/* Training on a device against training on the CPU. Without arguments the device is the emulator (emulator.h); `training_test
 * PLUGIN` runs the same on a GPU (tests/gpu/run).
 *
 * float32: every tensor's gradient, the weights after steps and the log-probs, which differ only by how the sum over the
 * vocabulary is cut. bf16: within a bound. Both: the log-probs of training are those of scoring, to the bit; a state that was
 * saved goes on with the same bits. */
#include "engine/cuda/steps_fixture.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "worker/engine/device.h"
#include "worker/engine/model_internal.h"
#include "worker/engine/train/trainer_internal.h"

#define F32_BOUND  1e-5 /* of a gradient, by the largest of its tensor */
#define BF16_BOUND 6e-2

/* The model that a device of that precision computes with. */
static joust_model *model_of(const joust_model_config *c, joust_precision precision)
{
    joust_model *m = fixture_model(c, 3);
    if (precision == JOUST_PRECISION_BF16)
        fixture_round(m);
    return m;
}

/* ---- gradients ------------------------------------------------------------------------------- */

static stepped step_on(joust_engine *e, const joust_model_config *c, joust_precision precision,
                       const joust_train_settings *p, uint32_t n_steps)
{
    joust_model *reference = joust_needs_live_reference(p) ? fixture_model(c, 4) : NULL;
    return steps_take(e, model_of(c, precision), reference, p, n_steps);
}

static void check_tensors(const joust_model *m, const float *got, const float *expected,
                          double bound, const char *what)
{
    uint32_t n;
    const joust_tensor *t = joust_model_tensors((joust_model *)(uintptr_t)m, &n);
    check_tensors_near(t, n, got, expected, bound, what);
}

static void check_loss(const joust_model_config *c, joust_precision precision,
                       const joust_train_settings *p)
{
    const bool exact = precision == JOUST_PRECISION_F32;
    joust_engine *cpu = engine_on(false, precision), *on = engine_on(true, precision);
    stepped expected = step_on(cpu, c, precision, p, 1), got = step_on(on, c, precision, p, 1);
    check_tensors(got.model, got.gradient, expected.gradient, exact ? F32_BOUND : BF16_BOUND,
                  "the gradient");
    assert_true(fabs(got.report.loss - expected.report.loss) <=
                (exact ? 1e-5 : 0.1) * (1 + fabs(expected.report.loss)));
    assert_true(fabs(got.report.gradient_norm - expected.report.gradient_norm) <=
                (exact ? 1e-5 : 0.05) * expected.report.gradient_norm);
    stepped_free(&expected);
    stepped_free(&got);
    joust_engine_free(&cpu);
    joust_engine_free(&on);
}

/* The smallest whole: a supervised and a preference step of a tiny model. */
static void test_f32_steps(void **state)
{
    (void)state;
    const joust_model_config odd = fixture_odd_config(), even = fixture_even_config();
    joust_train_settings p[2] = {fixture_params(JOUST_LOSS_SFT), fixture_params(JOUST_LOSS_DPO)};
    for (uint32_t i = 0; i < 2; i++) {
        check_loss(&odd, JOUST_PRECISION_F32, &p[i]);
        p[i].recompute = true;
        check_loss(&even, JOUST_PRECISION_F32, &p[i]);
    }
}

static void check_families(joust_precision precision)
{
    joust_model_config families[FIXTURE_FAMILIES];
    const joust_train_settings sft = fixture_params(JOUST_LOSS_SFT),
                               dpo = fixture_params(JOUST_LOSS_DPO);
    for (uint32_t i = 0, n = fixture_families(families); i < n; i++)
        check_loss(&families[i], precision, i % 2 ? &sft : &dpo);
    check_loss(&families[1], precision, &dpo);
    check_loss(&families[3], precision, &dpo);
}

static void test_f32_families(void **state)
{
    (void)state;
    check_families(JOUST_PRECISION_F32);
}

static void test_bf16_families(void **state)
{
    (void)state;
    check_families(JOUST_PRECISION_BF16);
}

/* Losses are the CPU's: some of each kind through the device's log-probs, and entropies, of every aggregation. */
static void test_losses(void **state)
{
    (void)state;
    joust_model_config c = fixture_odd_config();
    joust_train_settings p;
    for (uint32_t i = JOUST_LOSS_HINGE; i <= JOUST_LOSS_REBEL; i += 4) {
        p = fixture_params((joust_loss)i);
        p.objective.label_smoothing =
            joust_loss_traits_of(p.loss)->keys & JOUST_TAKES_LABEL_SMOOTHING ? 0.1 : 0;
        check_loss(&c, JOUST_PRECISION_F32, &p);
    }
    for (uint32_t i = 1; i < 6; i += 2) {
        p = fixture_params(JOUST_LOSS_POLICY);
        p.policy = (joust_policy_settings){.surrogate = 1 + i % 3,
                                           .importance = 1 + i / 3,
                                           .aggregation = 1 + i % 3,
                                           .epsilon_low = 0.5,
                                           .epsilon_high = 0.6,
                                           .kl = 1 + i % 3,
                                           .kl_weight = 0.2,
                                           .entropy_weight = 0.3,
                                           .max_tokens = 7};
        check_loss(&c, i == 3 ? JOUST_PRECISION_BF16 : JOUST_PRECISION_F32, &p);
    }
    c.scalar_head = true;
    for (uint32_t i = JOUST_LOSS_BRADLEY_TERRY; i <= JOUST_LOSS_MARGIN; i++) {
        p = fixture_params((joust_loss)i);
        p.sft_weight = 0;
        check_loss(&c, JOUST_PRECISION_F32, &p);
    }
}

/* Where no sum over the vocabulary is in the way, float32 has the CPU's bits: a scalar head's gradients, weights after steps
 * with clipping and decay, and reports, of every family. */
static void test_f32_equal_bits(void **state)
{
    (void)state;
    joust_model_config families[FIXTURE_FAMILIES];
    joust_train_settings p = fixture_params(JOUST_LOSS_BRADLEY_TERRY);
    p.sft_weight = 0;
    p.clip = 0.1;
    p.weight_decay = 0.1;
    joust_engine *cpu = engine_on(false, JOUST_PRECISION_F32),
                 *on = engine_on(true, JOUST_PRECISION_F32);
    for (uint32_t i = 0, n = fixture_families(families); i < n; i++) {
        families[i].scalar_head = true;
        families[i].tied = false;
        stepped expected = step_on(cpu, &families[i], JOUST_PRECISION_F32, &p, 2),
                got = step_on(on, &families[i], JOUST_PRECISION_F32, &p, 2);
        const uint64_t n_bytes = joust_model_config_parameters(&families[i]) * sizeof(float);
        assert_memory_equal(got.gradient, expected.gradient, n_bytes);
        assert_memory_equal(got.weights, expected.weights, n_bytes);
        assert_true(got.report.loss == expected.report.loss);
        assert_true(got.report.gradient_norm == expected.report.gradient_norm);
        stepped_free(&expected);
        stepped_free(&got);
    }
    joust_engine_free(&cpu);
    joust_engine_free(&on);
}

/* More than a page, a tile of keys, a chunk of the vocabulary: a stem that ends inside a page, branches of several. */
static void test_long(void **state)
{
    (void)state;
    enum { PROMPT = 150, CHOSEN = 40, REJECTED = 21, VOCAB = 4200 };
    joust_model_config c = fixture_odd_config();
    joust_error err = {0};
    c.context = 300;
    c.vocab_size = VOCAB;
    c.n_layers = 1;
    uint32_t *tokens = fixture_tokens(PROMPT + CHOSEN + REJECTED, VOCAB, 12);
    const joust_pair_row row = {.prompt = tokens,
                                .n_prompt = PROMPT,
                                .chosen = tokens + PROMPT,
                                .n_chosen = CHOSEN,
                                .rejected = tokens + PROMPT + CHOSEN,
                                .n_rejected = REJECTED,
                                .ref_chosen = -300,
                                .ref_rejected = -160};
    const joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    float *gradients[2];
    joust_model *m = fixture_model(&c, 3);
    joust_step_report report;
    for (uint32_t i = 0; i < 2; i++) {
        joust_engine *e = engine_on(i != 0, JOUST_PRECISION_F32);
        joust_model *copy;
        joust_trainer *t;
        check_ok(joust_model_clone(m, &copy, &err));
        check_ok(joust_trainer_create(e, copy, &p, &t, &err));
        check_ok(joust_trainer_step_pairs(t, &row, 1, &report, &err));
        gradients[i] = joust_calloc(t->trained.n, sizeof(float));
        if (i)
            check_ok(api->block_get(t->on_device, JOUST_DEVICE_GRADIENT, 0, t->trained.n,
                                    gradients[i], &err));
        else
            memcpy(gradients[i], t->sums[0], t->trained.n * sizeof(float));
        joust_trainer_free(&t);
        joust_model_free(&copy);
        joust_engine_free(&e);
    }
    check_tensors(m, gradients[1], gradients[0], F32_BOUND, "the gradient");
    joust_free(gradients[0]);
    joust_free(gradients[1]);
    joust_free(tokens);
    joust_model_free(&m);
}

/* Six steps: AdamW, clipping and decay included, the weights drift apart only as their gradients do. */
static void test_many_steps(void **state)
{
    (void)state;
    const joust_model_config c = fixture_odd_config();
    joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    p.clip = 0.5;
    p.weight_decay = 0.1;
    joust_engine *cpu = engine_on(false, JOUST_PRECISION_F32),
                 *on = engine_on(true, JOUST_PRECISION_F32);
    stepped expected = step_on(cpu, &c, JOUST_PRECISION_F32, &p, 6),
            got = step_on(on, &c, JOUST_PRECISION_F32, &p, 6);
    check_tensors(got.model, got.weights, expected.weights, 1e-3, "the weight");
    assert_true(fabs(got.report.loss - expected.report.loss) <= 1e-3);
    stepped_free(&expected);
    stepped_free(&got);
    joust_engine_free(&cpu);
    joust_engine_free(&on);
}

/* ---- the same bits --------------------------------------------------------------------------- */

static void gradient_of(joust_engine *e, const joust_model_config *c, joust_precision precision,
                        const joust_train_settings *p, const joust_pair_row *rows, uint32_t n,
                        float **ret, uint64_t *ret_n)
{
    joust_error err = {0};
    joust_model *m = model_of(c, precision);
    joust_step_report report;
    joust_trainer *t;
    check_ok(joust_trainer_create(e, m, p, &t, &err));
    check_ok(joust_trainer_step_pairs(t, rows, n, &report, &err));
    *ret_n = t->trained.n;
    *ret = joust_calloc(t->trained.n, sizeof(float));
    check_ok(api->block_get(t->on_device, JOUST_DEVICE_GRADIENT, 0, t->trained.n, *ret, &err));
    joust_trainer_free(&t);
    joust_model_free(&m);
}

/* A step's gradient is the tree of what its rows give alone (a quarter of it each, which is exact), in whatever order and
 * company they are computed: so trainers may own aligned parts of a batch. Recomputation changes no bit either. */
static void check_tree(joust_precision precision)
{
    enum { N = 4 };
    const joust_model_config c = fixture_odd_config();
    joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    joust_engine *e = engine_on(true, precision);
    train_data d;
    train_data_make(&d, c.vocab_size);
    float *whole, *again, *parts[N], *halves[2];
    uint64_t n;
    gradient_of(e, &c, precision, &p, d.pairs, N, &whole, &n);
    for (uint32_t i = 0; i < N; i++)
        gradient_of(e, &c, precision, &p, &d.pairs[i], 1, &parts[i], &n);
    for (uint32_t i = 0; i < 2; i++)
        gradient_of(e, &c, precision, &p, &d.pairs[2 * i], 2, &halves[i], &n);
    for (uint64_t i = 0; i < n; i++) {
        const float quarters = (parts[0][i] * 0.25f + parts[1][i] * 0.25f) +
                               (parts[2][i] * 0.25f + parts[3][i] * 0.25f);
        const float two = halves[0][i] * 0.5f + halves[1][i] * 0.5f;
        assert_memory_equal(&whole[i], &quarters, sizeof(float));
        assert_memory_equal(&whole[i], &two, sizeof(float));
    }
    p.recompute = true;
    gradient_of(e, &c, precision, &p, d.pairs, N, &again, &n);
    assert_memory_equal(whole, again, n * sizeof(float));
    for (uint32_t i = 0; i < N; i++)
        joust_free(parts[i]);
    joust_free(halves[0]);
    joust_free(halves[1]);
    joust_free(whole);
    joust_free(again);
    joust_free(d.tokens);
    joust_engine_free(&e);
}

static void test_tree(void **state)
{
    (void)state;
    check_tree(JOUST_PRECISION_F32);
    check_tree(JOUST_PRECISION_BF16);
}

/* What scoring gives, alone or in a pair that shares its prompt: the same log-probs to the last bit, after steps too. */
static void check_gap(const joust_model_config *c, joust_precision precision)
{
    enum { ANSWERS = 2 };
    joust_error err = {0};
    joust_engine *e = engine_on(true, precision);
    joust_model *m = model_of(c, precision);
    const joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    joust_step_report report;
    joust_trainer *t;
    train_data d;
    train_data_make(&d, c->vocab_size);
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    for (uint32_t turn = 0; turn < 2; turn++) {
        for (uint32_t i = 0; i < TRAIN_PAIRS; i += 2) {
            const joust_pair_row *row = &d.pairs[i];
            const uint32_t *answers[ANSWERS] = {row->chosen, row->rejected},
                           lengths[ANSWERS] = {row->n_chosen, row->n_rejected};
            float got[ANSWERS][32], expected[32], alone[32];
            check_ok(joust_trainer_pair_logps(t, row, got[0], got[1], &err));
            for (uint32_t k = 0; k < ANSWERS; k++) {
                uint32_t tokens[64];
                memcpy(tokens, row->prompt, row->n_prompt * sizeof(*tokens));
                memcpy(tokens + row->n_prompt, answers[k], lengths[k] * sizeof(*tokens));
                joust_score_request r = {.tokens = tokens,
                                         .n = row->n_prompt + lengths[k],
                                         .first = row->n_prompt,
                                         .ret_logps = expected};
                check_ok(joust_score(e, m, &r, 1, NULL, NULL, &err));
                assert_memory_equal(got[k], expected, lengths[k] * sizeof(float));
                if (i || turn)
                    continue;
                check_ok(joust_trainer_logps(t, tokens, r.n, row->n_prompt, alone, &err));
                assert_memory_equal(alone, expected, lengths[k] * sizeof(float));
            }
        }
        check_ok(train_data_step(t, &d, &report, &err));
    }
    joust_free(d.tokens);
    joust_trainer_free(&t);
    joust_model_free(&m);
    joust_engine_free(&e);
}

static void test_no_gap(void **state)
{
    (void)state;
    joust_model_config families[FIXTURE_FAMILIES];
    const uint32_t n = fixture_families(families);
    for (uint32_t i = 0; i < n; i++)
        check_gap(&families[i], i % 2 ? JOUST_PRECISION_F32 : JOUST_PRECISION_BF16);
}

static joust_status keep(void *context, uint32_t request, uint32_t sample, const joust_generated *g,
                         joust_error *err)
{
    (void)request, (void)sample, (void)err;
    memcpy(context, g->tokens, g->n * sizeof(*g->tokens));
    memcpy((float *)context + g->n, g->raw_logps, g->n * sizeof(*g->raw_logps));
    return JOUST_OK;
}

/* A shape whose training takes the wide tiling, its rollout the narrow one. */
static void test_no_gap_wide(void **state)
{
    (void)state;
    enum { PROMPT = 125, ANSWER = 5, N = PROMPT + ANSWER };
    joust_error err = {0};
    joust_model_config c = fixture_even_config();
    c.context = 160;
    c.d_ff = 2048; /* gate and up: 32 tiles across, and the rows two down */
    c.n_layers = 1;
    joust_engine *e = engine_on(true, JOUST_PRECISION_BF16);
    joust_model *m = model_of(&c, JOUST_PRECISION_BF16);
    const joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    uint32_t *tokens = fixture_tokens(N, c.vocab_size, 4), answer[2 * ANSWER];
    float logps[ANSWER];
    const joust_stream stream = fixture_stream(6, 0);
    const joust_generate_request r = {
        .prompt = tokens,
        .n_prompt = PROMPT,
        .n_samples = 1,
        .streams = &stream,
        .ignore_end = true,
        .sampling = {.temperature = 1, .top_p = 1, .max_tokens = ANSWER}};
    joust_trainer *t;
    check_ok(joust_generate(e, m, &r, 1, keep, NULL, answer, &err));
    memcpy(tokens + PROMPT, answer, ANSWER * sizeof(*tokens));
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    check_ok(joust_trainer_logps(t, tokens, N, PROMPT, logps, &err));
    assert_memory_equal(logps, answer + ANSWER, sizeof(logps));
    joust_trainer_free(&t);
    joust_free(tokens);
    joust_model_free(&m);
    joust_engine_free(&e);
}

/* ---- state ----------------------------------------------------------------------------------- */

static float *state_weights(joust_engine *e, joust_precision precision, const char *path,
                            uint32_t from, uint32_t to)
{
    joust_error err = {0};
    const joust_model_config c = fixture_odd_config();
    joust_model *m = from ? fixture_model(&c, 99) : model_of(&c, precision);
    const joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    joust_step_report report;
    joust_trainer *t;
    train_data d;
    train_data_make(&d, c.vocab_size);
    check_ok(joust_trainer_create(e, m, &p, &t, &err));
    if (from)
        check_ok(joust_trainer_restore(t, path, &err));
    assert_int_equal(joust_trainer_steps_done(t), from);
    for (uint32_t i = from; i < to; i++) {
        check_ok(train_data_step(t, &d, &report, &err));
        if (!from && i + 1 == 2)
            check_ok(joust_trainer_save(t, path, &err));
    }
    check_ok(joust_trainer_finish(t, &err));
    float *weights = joust_memdup(t->trained.weights, t->trained.n * sizeof(float));
    joust_free(d.tokens);
    joust_trainer_free(&t);
    joust_model_free(&m);
    return weights;
}

/* Two steps, a file, three more from it: the same bits. The file is the CPU's format: a CPU goes on from it. */
static void test_resume(void **state)
{
    (void)state;
    const joust_model_config c = fixture_odd_config();
    const uint64_t n = joust_model_config_parameters(&c);
    char path[] = "/tmp/joust_training_test_XXXXXX";
    const int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    for (uint32_t i = 0; i < 2; i++) {
        const joust_precision precision = i ? JOUST_PRECISION_BF16 : JOUST_PRECISION_F32;
        joust_engine *e = engine_on(true, precision), *cpu = engine_on(false, precision);
        float *whole = state_weights(e, precision, path, 0, 5),
              *resumed = state_weights(e, precision, path, 2, 5),
              *elsewhere = state_weights(cpu, precision, path, 2, 5);
        assert_memory_equal(whole, resumed, n * sizeof(float));
        joust_model *m = fixture_model(&c, 3);
        check_tensors(m, elsewhere, whole, i ? 0.2 : 1e-3, "the weight");
        joust_model_free(&m);
        joust_free(whole);
        joust_free(resumed);
        joust_free(elsewhere);
        joust_engine_free(&e);
        joust_engine_free(&cpu);
    }
    unlink(path);
}

/* A reference that moves after the policy, and KTO's, which is scored. */
static void test_live_reference(void **state)
{
    (void)state;
    const joust_model_config c = fixture_odd_config();
    joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    p.objective.reference_sync_steps = 2;
    p.objective.reference_mixup = 0.6;
    joust_engine *cpu = engine_on(false, JOUST_PRECISION_F32),
                 *on = engine_on(true, JOUST_PRECISION_F32);
    for (uint32_t i = 0; i < 2; i++) {
        stepped expected = step_on(cpu, &c, JOUST_PRECISION_F32, &p, 3),
                got = step_on(on, &c, JOUST_PRECISION_F32, &p, 3);
        check_tensors(got.model, got.weights, expected.weights, 1e-3, "the weight");
        assert_true(fabs(got.report.loss - expected.report.loss) <= 1e-3);
        stepped_free(&expected);
        stepped_free(&got);
        p = fixture_params(JOUST_LOSS_KTO);
    }
    joust_engine_free(&cpu);
    joust_engine_free(&on);
}

int main(int argc, char **argv)
{
    if (!device_open(argc, argv))
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_f32_steps),      cmocka_unit_test(test_f32_families),
        cmocka_unit_test(test_bf16_families),  cmocka_unit_test(test_losses),
        cmocka_unit_test(test_f32_equal_bits), cmocka_unit_test(test_long),
        cmocka_unit_test(test_many_steps),     cmocka_unit_test(test_tree),
        cmocka_unit_test(test_no_gap),         cmocka_unit_test(test_no_gap_wide),
        cmocka_unit_test(test_resume),         cmocka_unit_test(test_live_reference)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
