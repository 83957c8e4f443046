/* What surrounds the kernels, on the emulator: the plugin's loading, memory that runs out on the device and on the host,
 * recorded passes, what is refused by name. */
#include "engine/compute/train_fixture.h"
#include "engine/cuda/emulator.h"
#include "oom.h"

#include <stdlib.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "worker/engine/device.h"
#include "worker/engine/hidden.h"
#include "worker/engine/model_internal.h"

const joust_device_api *joust_device_entry(void);

static joust_engine *engine_on(const joust_device_api *device, uint64_t cache_bytes)
{
    joust_error err = {0};
    joust_engine *e;
    const joust_engine_options o = {.n_threads = 2, .cache_bytes = cache_bytes, .device = device};
    check_ok(joust_engine_create(&o, &e, &err));
    return e;
}

/* ---- generation ------------------------------------------------------------------------------ */

enum { PROMPT = 30, SAMPLES = 4, LENGTH = 12 };

typedef struct answers {
    uint32_t tokens[SAMPLES][LENGTH];
    float raw[SAMPLES][LENGTH];
} answers;

static joust_status keep(void *context, uint32_t request, uint32_t sample, const joust_generated *g,
                         joust_error *err)
{
    answers *a = context;
    (void)request, (void)err;
    memcpy(a->tokens[sample], g->tokens, g->n * sizeof(*g->tokens));
    memcpy(a->raw[sample], g->raw_logps, g->n * sizeof(*g->raw_logps));
    return JOUST_OK;
}

static joust_status generate(joust_engine *e, joust_model *m, answers *ret, joust_error *err)
{
    joust_stream streams[SAMPLES];
    uint32_t *tokens = fixture_tokens(PROMPT, joust_model_get_config(m)->vocab_size, 8);
    for (uint32_t i = 0; i < SAMPLES; i++)
        streams[i] = fixture_stream(1, i);
    const joust_generate_request r = {
        .prompt = tokens,
        .n_prompt = PROMPT,
        .n_samples = SAMPLES,
        .streams = streams,
        .ignore_end = true,
        .sampling = {.temperature = 1, .top_p = 1, .max_tokens = LENGTH}};
    memset(ret, 0, sizeof(*ret));
    joust_status st = joust_generate(e, m, &r, 1, keep, NULL, ret, err);
    joust_free(tokens);
    return st;
}

/* ---- memory ---------------------------------------------------------------------------------- */

/* With less and less of it: the same answers from smaller passes and fewer pages, then an error that says what to do;
 * nothing is left on the device in any case. */
static void test_device_memory(void **state)
{
    (void)state;
    const joust_model_config c = fixture_odd_config();
    joust_error err = {0};
    joust_model *m = fixture_model(&c, 3);
    answers expected, got;
    uint32_t n_good = 0, n_bad = 0;
    joust_engine *e = engine_on(joust_device_entry(), 1 << 20);
    check_ok(generate(e, m, &expected, &err));
    const uint64_t enough = emulator_used;
    joust_engine_free(&e);
    joust_model_changed(m); /* lets go of the device's copy */
    assert_int_equal(emulator_used, 0);
    for (uint64_t limit = enough + (64 << 20); limit > (1 << 10);
         limit = limit > enough ? enough : limit * 31 / 32) {
        emulator_memory = limit;
        e = engine_on(joust_device_entry(), 1 << 20);
        joust_status st = generate(e, m, &got, &err);
        if (st == JOUST_OK) {
            assert_memory_equal(&expected, &got, sizeof(got));
            n_good++;
        } else {
            assert_int_equal(st, JOUST_NOMEM);
            assert_non_null(strstr(err.text, "GPU"));
            n_bad++;
        }
        joust_engine_free(&e);
        joust_model_changed(m);
        assert_int_equal(emulator_used, 0);
    }
    emulator_memory = 0;
    assert_true(n_good > 0 && n_bad > 3);
    joust_model_free(&m);
}

/* ---- training -------------------------------------------------------------------------------- */

/* Two steps, the second with no more than `limit` bytes beside what lies there after the first; 0: any number. */
static joust_status train(joust_engine *e, joust_model *m, uint64_t limit, uint64_t *ret_used,
                          joust_error *err)
{
    const joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    joust_step_report report;
    joust_trainer *t = NULL;
    train_data d;
    train_data_make(&d, joust_model_get_config(m)->vocab_size);
    joust_status st = joust_trainer_create(e, m, &p, &t, err);
    *ret_used = emulator_used;
    emulator_memory = limit ? emulator_used + limit : 0;
    for (uint32_t i = 0; i < 2 && !st; i++)
        st = train_data_step(t, &d, &report, err);
    if (!st) {
        *ret_used = emulator_used - *ret_used;
        st = joust_trainer_finish(t, err);
    }
    emulator_memory = 0;
    joust_free(d.tokens);
    joust_trainer_free(&t);
    return st;
}

static const joust_lora_settings LORA = {.rank = 3, .targets = JOUST_LORA_ALL, .alpha = 5};

static joust_model *trained_model(bool lora)
{
    const joust_model_config c = fixture_odd_config();
    joust_model *m = fixture_model(&c, 3);
    if (lora)
        fixture_adapt(m, &LORA, &(joust_stream_name){.job_seed = 1});
    return m;
}

/* With less and less memory: the same weights, with activations computed again; then an error that says what to do. */
static void check_training_memory(bool lora)
{
    joust_error err = {0};
    joust_engine *e = engine_on(joust_device_entry(), 1 << 20);
    joust_model *m = trained_model(lora);
    uint64_t whole = 0, used = 0;
    uint32_t n_good = 0, n_bad = 0, n_again = 0;
    check_ok(train(e, m, 0, &whole, &err));
    const joust_trained trained = joust_model_trained(m);
    const uint64_t n = trained.n;
    float *expected = joust_memdup(trained.weights, n * sizeof(float));
    joust_model_free(&m);
    for (uint64_t limit = whole; limit > whole / 4; limit -= whole / (lora ? 20 : 40)) {
        m = trained_model(lora);
        joust_status st = train(e, m, limit, &used, &err);
        if (st == JOUST_OK) {
            assert_memory_equal(expected, joust_model_trained(m).weights, n * sizeof(float));
            n_good++;
            n_again += used < whole;
        } else {
            check_status(JOUST_NOMEM, st);
            assert_non_null(strstr(err.text, "training on a GPU"));
            assert_non_null(strstr(err.text, "lower batch_size"));
            n_bad++;
        }
        joust_model_free(&m);
        assert_int_equal(emulator_used, 0);
    }
    assert_true(n_good > 2 && n_again > 0 && n_bad > 2);
    joust_free(expected);
    joust_engine_free(&e);
}

static void test_training_memory(void **state)
{
    (void)state;
    check_training_memory(false);
    check_training_memory(true);
}

typedef struct training {
    joust_engine *engine;
    bool lora;
} training;

static joust_status train_body(void *context, joust_error *err)
{
    const training *w = context;
    joust_model_config c = fixture_odd_config();
    joust_model *m = NULL;
    joust_trainer *t = NULL;
    joust_step_report report;
    const joust_train_settings p = fixture_params(JOUST_LOSS_DPO);
    joust_status st = joust_model_init(&c, 3, &m, err);
    if (!st && w->lora)
        st = joust_model_adapt(m, &LORA, &(joust_stream_name){.job_seed = 1}, err);
    if (!st)
        st = joust_trainer_create(w->engine, m, &p, &t, err);
    if (!st) {
        const uint32_t tokens[] = {1, 2, 3, 4, 5, 6};
        const joust_pair_row row = {.prompt = tokens,
                                    .n_prompt = 2,
                                    .chosen = tokens + 2,
                                    .n_chosen = 2,
                                    .rejected = tokens + 4,
                                    .n_rejected = 2};
        st = joust_trainer_step_pairs(t, &row, 1, &report, err);
    }
    if (!st)
        st = joust_trainer_finish(t, err);
    joust_trainer_free(&t);
    joust_model_free(&m);
    assert_int_equal(emulator_used, 0);
    return st;
}

/* Every allocation of the host's and the device's fails once. */
static void test_training_out_of_memory(void **state)
{
    (void)state;
    training w = {.engine = engine_on(joust_device_entry(), 1 << 20)};
    assert_true(check_oom(train_body, &w) > 20);
    w.lora = true;
    assert_true(check_oom(train_body, &w) > 25);
    joust_engine_free(&w.engine);
}

/* ---- hidden states --------------------------------------------------------------------------- */

enum { TEXTS = 5, TEXT = 40 };

typedef struct reading {
    joust_engine *engine;
    joust_model *model;
    uint32_t *tokens;
    float scores[TEXTS], states[TEXTS][8 * 20];
} reading;

static joust_status read_body(void *context, joust_error *err)
{
    reading *r = context;
    joust_hidden_request requests[TEXTS];
    memset(r->scores, 0, sizeof(r->scores));
    memset(r->states, 0, sizeof(r->states));
    for (uint32_t i = 0; i < TEXTS; i++)
        requests[i] = (joust_hidden_request){.tokens = r->tokens + i,
                                             .n = TEXT + i,
                                             .first = TEXT + i - 8,
                                             .ret_states = r->states[i],
                                             .ret_score = &r->scores[i]};
    return joust_hidden(r->engine, r->model, requests, TEXTS, NULL, NULL, err);
}

/* With the model's way onto the device and from it. */
static joust_status read_anew(void *context, joust_error *err)
{
    const reading *r = context;
    joust_status st = read_body(context, err);
    joust_model_changed(r->model);
    return st;
}

/* With less and less memory shorter waves and passes give the same bits, then an error says so; nothing but the model is left on
 * the device. Every allocation of the host's fails once. */
static void test_hidden_memory(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_model_config c = fixture_odd_config();
    c.scalar_head = true;
    reading r = {.engine = engine_on(joust_device_entry(), 1 << 20),
                 .model = fixture_model(&c, 3),
                 .tokens = fixture_tokens(TEXT + 2 * TEXTS, c.vocab_size, 8)},
            expected;
    uint32_t n_good = 0, n_bad = 0;
    check_ok(read_body(&r, &err));
    expected = r;
    const uint64_t most = emulator_used + (64 << 10);
    for (uint64_t less = 0; less < most; less += most / 20) {
        joust_model_changed(r.model); /* lets go of the device's copy */
        joust_engine_free(&r.engine);
        r.engine = engine_on(joust_device_entry(), 1 << 20);
        const uint32_t token = 1;
        float score;
        const joust_hidden_request one = {.tokens = &token, .n = 1, .ret_score = &score};
        check_ok(joust_hidden(r.engine, r.model, &one, 1, NULL, NULL, &err)); /* uploads */
        emulator_memory = most - less;
        joust_status st = read_body(&r, &err);
        emulator_memory = 0;
        if (st) {
            check_status(JOUST_NOMEM, st);
            assert_non_null(strstr(err.text, "GPU"));
            n_bad++;
        } else {
            assert_memory_equal(r.scores, expected.scores, sizeof(r.scores));
            assert_memory_equal(r.states, expected.states, sizeof(r.states));
            n_good++;
        }
    }
    assert_true(n_good > 2 && n_bad > 2);
    joust_model_changed(r.model);
    assert_true(check_oom(read_anew, &r) > 5);
    joust_model_free(&r.model);
    joust_engine_free(&r.engine);
    joust_free(r.tokens);
    assert_int_equal(emulator_used, 0);
}

/* The staging block of an upload is larger than all else here: a budget that shrinks shows once it is gone. */
static void test_budget_shrinks(void **state)
{
    (void)state;
    const joust_model_config c = fixture_odd_config();
    joust_error err = {0};
    joust_model *m = fixture_model(&c, 3);
    answers expected, got;
    uint32_t n_preempted = 0, n_refused = 0;
    joust_engine *e = engine_on(joust_device_entry(), 1 << 20);
    check_ok(generate(e, m, &expected, &err));
    const uint64_t most = emulator_used;
    for (uint64_t less = 0; less < most; less += 2048) {
        joust_engine_free(&e);
        e = engine_on(joust_device_entry(), 1 << 20);
        joust_model_changed(m);
        check_ok(joust_score(
            e, m, &(joust_score_request){.tokens = (const uint32_t[]){1}, .n = 1, .first = 1}, 1,
            NULL, NULL, &err)); /* uploads */
        emulator_memory = most - less;
        joust_status st = generate(e, m, &got, &err);
        emulator_memory = 0;
        if (st == JOUST_OK) {
            assert_memory_equal(&expected, &got, sizeof(got));
            n_preempted += joust_engine_cache_stats(e).n_preempted > 0;
        } else {
            assert_int_equal(st, JOUST_NOMEM);
            n_refused++;
        }
    }
    assert_true(n_preempted > 0 && n_refused > 0);
    joust_engine_free(&e);
    joust_model_free(&m);
}

static joust_status all_of_it(void *context, joust_error *err)
{
    joust_model *m = context;
    joust_engine *e = NULL;
    answers got;
    const joust_engine_options o = {
        .n_threads = 1, .cache_bytes = 1 << 20, .device = joust_device_entry()};
    joust_status st = joust_engine_create(&o, &e, err);
    if (!st) {
        joust_stream streams[SAMPLES];
        static const uint32_t tokens[] = {1, 2, 3, 4, 5};
        for (uint32_t i = 0; i < SAMPLES; i++)
            streams[i] = fixture_stream(1, i);
        const joust_generate_request r = {
            .prompt = tokens,
            .n_prompt = 5,
            .n_samples = SAMPLES,
            .streams = streams,
            .ignore_end = true,
            .sampling = {.temperature = 1, .top_p = 1, .max_tokens = 4}};
        memset(&got, 0, sizeof(got));
        st = joust_generate(e, m, &r, 1, keep, NULL, &got, err);
    }
    joust_engine_free(&e);
    joust_model_changed(m);
    return st;
}

static void test_host_memory(void **state)
{
    (void)state;
    const joust_model_config c = fixture_odd_config();
    joust_error err = {0};
    joust_model *m = fixture_model(&c, 3);
    check_ok(all_of_it(m, &err)); /* the table of angles stays with the model */
    assert_true(check_oom(all_of_it, m) > 30);
    joust_model_free(&m);
}

/* ---- records --------------------------------------------------------------------------------- */

/* Next tokens come from records once their shape is known. */
static void test_records(void **state)
{
    (void)state;
    const joust_model_config c = fixture_odd_config();
    joust_error err = {0};
    joust_model *m = fixture_model(&c, 3);
    answers got;
    joust_engine *e = engine_on(joust_device_entry(), 1 << 20);
    const uint64_t before = emulator_n_replays;
    check_ok(generate(e, m, &got, &err));
    assert_true(emulator_n_replays - before >= LENGTH - 2);
    joust_engine_free(&e);
    joust_model_free(&m);
}

/* ---- refusals -------------------------------------------------------------------------------- */

static void check_text(const joust_error *err, const char *part)
{
    if (!strstr(err->text, part))
        fail_msg("\"%s\" isn't in: %s", part, err->text);
}

static void test_refusals(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_model_config c = fixture_odd_config();
    joust_engine *e = engine_on(joust_device_entry(), 1 << 20), *none = NULL;
    joust_model *wide;
    joust_trainer *t;
    const joust_train_settings params = fixture_params(JOUST_LOSS_DPO);
    c.d_head = 512;
    wide = fixture_model(&c, 3);
    answers got;
    check_status(JOUST_UNSUPPORTED, generate(e, wide, &got, &err));
    check_text(&err, "heads of 512");
    check_status(JOUST_UNSUPPORTED, joust_trainer_create(e, wide, &params, &t, &err));
    check_text(&err, "heads of 512");
    joust_engine_options o = {.on_device = {.index = 1}, .device = joust_device_entry()};
    check_status(JOUST_UNSUPPORTED, joust_engine_create(&o, &none, &err));
    joust_model_free(&wide);
    joust_engine_free(&e);
}

/* ---- the plugin as a file -------------------------------------------------------------------- */

static void test_loading(void **state)
{
    (void)state;
    joust_error err = {0};
    const joust_device_api *api = NULL;
    const joust_model_config c = fixture_odd_config();
    joust_model *m = fixture_model(&c, 3);
    answers linked, loaded;
    check_status(JOUST_UNSUPPORTED, joust_device_load("no/such.so", &api, &err));
    check_text(&err, "there is no no/such.so: build it");
    check_status(JOUST_UNSUPPORTED, joust_device_load(JOUST_SOURCE_DIR "/README.md", &api, &err));
    check_text(&err, "README.md");
    check_status(JOUST_UNSUPPORTED, joust_device_load(JOUST_OLD_PLUGIN, &api, &err));
    check_text(&err, "another version of joust (interface 0");
    check_status(JOUST_UNSUPPORTED, joust_device_load(JOUST_OTHER_MODULE, &api, &err));
    check_text(&err, "has no joust_device_entry");
    assert_null(api);
    check_ok(joust_device_load(JOUST_EMULATED_PLUGIN, &api, &err));
    joust_engine *e = engine_on(api, 1 << 20);
    assert_string_equal(joust_engine_numeric_class(e), "emulated-f32-1");
    check_ok(generate(e, m, &loaded, &err));
    joust_engine_free(&e);
    e = engine_on(joust_device_entry(), 1 << 20);
    check_ok(generate(e, m, &linked, &err)); /* another device: the weights go there too */
    assert_memory_equal(&linked, &loaded, sizeof(linked));
    joust_engine_free(&e);
    joust_model_free(&m);
}

static void test_options(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_engine_options o = {0};
    const char *const bad[][2] = {{"gpu", NULL},     {"cuda:", NULL},     {"cuda:x", NULL},
                                  {"cuda:1x", NULL}, {"cuda:9999", NULL}, {"cuda:-1", NULL},
                                  {"cpu", "bf8"},    {"cpu", "f16"},      {NULL, ""},
                                  {"", NULL}};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        check_status(JOUST_INVALID, joust_engine_options_device(&o, bad[i][0], bad[i][1], &err));
    check_ok(joust_engine_options_device(&o, NULL, NULL, &err));
    check_ok(joust_engine_options_device(&o, "cpu", "f32", &err));
    assert_null(o.device);
    assert_int_equal(setenv(JOUST_DEVICE_PLUGIN_VARIABLE, JOUST_EMULATED_PLUGIN, 1), 0);
    check_ok(joust_engine_options_device(&o, "cuda:3", NULL, &err));
    assert_non_null(o.device);
    assert_true(o.on_device.index == 3 && o.on_device.precision == JOUST_PRECISION_BF16);
    check_ok(joust_engine_options_device(&o, "cuda", "f32", &err));
    assert_true(o.on_device.index == 0 && o.on_device.precision == JOUST_PRECISION_F32);
    assert_int_equal(unsetenv(JOUST_DEVICE_PLUGIN_VARIABLE), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device_memory),   cmocka_unit_test(test_budget_shrinks),
        cmocka_unit_test(test_host_memory),     cmocka_unit_test(test_records),
        cmocka_unit_test(test_training_memory), cmocka_unit_test(test_training_out_of_memory),
        cmocka_unit_test(test_hidden_memory),   cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_loading),         cmocka_unit_test(test_options)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
