/* Logits, log-probabilities, hidden states and scores against transformers in float32, on one small random checkpoint of
 * every family and variant; losses and gradients of adapters against PEFT. */
#include "tests/check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "worker/engine/files/safetensors_internal.h"
#include "worker/engine/forward_internal.h"
#include "worker/engine/hidden.h"
#include "worker/engine/lora.h"
#include "worker/engine/train/trainer_internal.h"

#define TOLERANCE      1e-4 /* of the largest value of a position */
#define TOLERANCE_BF16 5e-2 /* likewise, with weights rounded to bf16 that a file has in float32 */

static const char *const names[] = {"llama2",       "llama3",       "llama3-tied",  "llama-linear",
                                    "smollm2",      "mistral",      "mistral-null", "qwen2",
                                    "qwen2-window", "qwen3",        "qwen3-window", "llama-reward",
                                    "qwen2-reward", "llama-biases", "qwen3-bias",   "qwen2-yarn",
                                    "llama-yarn",   "lora-llama",   "lora-qwen2"};
#define N_NAMES (sizeof(names) / sizeof(*names))

/* A checkpoint, and what transformers says about it. */
typedef struct checkpoint {
    char *dir;
    joust_engine *engine;
    joust_model *model;
    joust_safetensors expected;
    uint32_t *tokens, n;
    double tolerance;
} checkpoint;

/* What expected() reads from: other values of the same checkpoint. */
static void expect_file(checkpoint *c, const char *name)
{
    joust_error err = {0};
    char *path = joust_path_join(c->dir, name);
    joust_safetensors_close(&c->expected);
    check_ok(joust_safetensors_open(path, &c->expected, &err));
    joust_free(path);
}

static float *expected(const checkpoint *c, const char *name, uint64_t n)
{
    joust_error err = {0};
    for (uint32_t i = 0; i < c->expected.n; i++) {
        if (strcmp(c->expected.items[i].name, name) != 0)
            continue;
        assert_true(n == 0 || c->expected.items[i].n == n);
        float *values = joust_calloc(c->expected.items[i].n, sizeof(*values));
        assert_non_null(values);
        check_ok(joust_safetensors_read(&c->expected, &c->expected.items[i], values, &err));
        return values;
    }
    fail_msg("%s: no tensor %s", c->dir, name);
    return NULL;
}

static checkpoint checkpoint_open_in(const char *name, joust_precision precision)
{
    joust_error err = {0};
    const joust_engine_options options = {.n_threads = 2, .on_device = {.precision = precision}};
    checkpoint c = {.dir = joust_path_join(JOUST_SOURCE_DIR "/tests/engine/reference", name),
                    .tolerance = TOLERANCE};
    char *path = joust_path_join(c.dir, "expected.safetensors");
    check_ok(joust_safetensors_open(path, &c.expected, &err));
    check_ok(joust_model_load(c.dir, &c.model, &err));
    check_ok(joust_engine_create(&options, &c.engine, &err));
    float *tokens = expected(&c, "tokens", 0);
    for (uint32_t i = 0; i < c.expected.n; i++)
        if (strcmp(c.expected.items[i].name, "tokens") == 0)
            c.n = (uint32_t)c.expected.items[i].n;
    c.tokens = joust_calloc(c.n, sizeof(*c.tokens));
    for (uint32_t i = 0; i < c.n; i++)
        c.tokens[i] = (uint32_t)tokens[i];
    joust_free(tokens);
    joust_free(path);
    return c;
}

static checkpoint checkpoint_open(const char *name)
{
    return checkpoint_open_in(name, JOUST_PRECISION_F32);
}

static void checkpoint_close(checkpoint *c)
{
    joust_safetensors_close(&c->expected);
    joust_model_free(&c->model);
    joust_engine_free(&c->engine);
    joust_free(c->tokens);
    joust_free(c->dir);
}

/* Rows of n values each; the largest difference in shares of the row's largest value. */
static double gap(const float *got, const float *wanted, uint32_t n_rows, uint32_t n)
{
    double worst = 0;
    for (uint32_t r = 0; r < n_rows; r++) {
        double largest = 0, apart = 0;
        for (uint32_t i = r * n; i < (r + 1) * n; i++) {
            largest = fmax(largest, fabs((double)wanted[i]));
            apart = fmax(apart, isfinite(got[i]) ? fabs((double)got[i] - (double)wanted[i]) : 1e9);
        }
        worst = fmax(worst, apart / largest);
    }
    return worst;
}

static void check_gap(const checkpoint *c, const char *what, double share)
{
    print_message("%s: %s within %.2g\n", strrchr(c->dir, '/') + 1, what, share);
    if (!(share <= c->tolerance))
        fail_msg("%s: %s: %.3g of the largest value, at most %g", c->dir, what, share,
                 c->tolerance);
}

/* Logits after each token, in one pass. */
static void check_logits(const checkpoint *c)
{
    joust_error err = {0};
    const uint32_t vocab = joust_model_get_config(c->model)->vocab_size;
    float *wanted = expected(c, "logits", (uint64_t)c->n * vocab);
    joust_pass *pass;
    joust_kv kv;
    check_ok(joust_model_prepare(c->engine, c->model, &err));
    check_ok(joust_pass_create(c->engine, c->model, JOUST_PASS_ROWS, &pass, &err));
    check_ok(joust_kv_init(&kv, c->model, c->n, joust_model_get_config(c->model)->n_layers, &err));
    assert_true(c->n <= JOUST_PASS_ROWS && vocab % JOUST_LANES == 0);
    for (uint32_t i = 0; i < c->n; i++)
        pass->rows[pass->n++] =
            (joust_row){.token = c->tokens[i], .position = i, .own = &kv, .wants_logits = true};
    joust_pass_run(pass);
    check_gap(c, "logits", gap(pass->logits, wanted, c->n, vocab));
    joust_kv_fini(&kv);
    joust_pass_free(&pass);
    joust_free(wanted);
}

static void check_logps(const checkpoint *c)
{
    joust_error err = {0};
    float *wanted = expected(c, "logps", c->n - 1), got[JOUST_PASS_ROWS];
    joust_score_request request = {.tokens = c->tokens, .n = c->n, .first = 1, .ret_logps = got};
    check_ok(joust_score(c->engine, c->model, &request, 1, NULL, NULL, &err));
    check_gap(c, "log-probabilities", gap(got, wanted, c->n - 1, 1));
    joust_free(wanted);
}

static void check_hidden(const checkpoint *c)
{
    joust_error err = {0};
    const joust_model_config *config = joust_model_get_config(c->model);
    const uint32_t d = config->d_model, first = 3;
    float *wanted = expected(c, "hidden", (uint64_t)c->n * d), score[2];
    float *got = joust_calloc((size_t)(c->n - first) * d, sizeof(*got));
    joust_hidden_request requests[] = {
        {.tokens = c->tokens, .n = c->n, .first = first, .ret_states = got},
        {.tokens = c->tokens, .n = c->n, .ret_score = &score[0]},
        {.tokens = c->tokens, .n = c->n - 1, .ret_score = &score[1]}};
    check_ok(
        joust_hidden(c->engine, c->model, requests, config->scalar_head ? 3 : 1, NULL, NULL, &err));
    check_gap(c, "hidden states", gap(got, wanted + first * d, c->n - first, d));
    if (config->scalar_head) {
        float *value = expected(c, "score", 1);
        check_gap(c, "score", gap(score, value, 1, 1));
        assert_true(score[0] != score[1]);
        joust_free(value);
        requests[0].ret_score = &score[1]; /* beside the states: the same bits */
        check_ok(joust_hidden(c->engine, c->model, requests, 1, NULL, NULL, &err));
        assert_memory_equal(&score[0], &score[1], sizeof(*score));
    }
    joust_free(got);
    joust_free(wanted);
}

static void test_families(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_NAMES; i++) {
        checkpoint c = checkpoint_open(names[i]);
        if (!joust_model_get_config(c.model)->scalar_head) {
            check_logits(&c);
            check_logps(&c);
        }
        check_hidden(&c);
        checkpoint_close(&c);
    }
}

static bool holds_bf16(joust_model *m)
{
    uint64_t n;
    const float *weights = joust_model_weights(m, &n);
    bool holds = true;
    for (uint64_t i = 0; i < n && holds; i++)
        holds = weights[i] == joust_bf16_rounded(weights[i]);
    return holds;
}

/* With weights in bf16: a file that is bf16 loses nothing, another as much as rounding takes. */
static void test_bf16(void **state)
{
    (void)state;
    uint32_t n_exact = 0;
    for (size_t i = 0; i < N_NAMES && strncmp(names[i], "lora-", 5) != 0; i++) {
        checkpoint c = checkpoint_open_in(names[i], JOUST_PRECISION_BF16);
        const bool exact = holds_bf16(c.model);
        c.tolerance = exact ? TOLERANCE : TOLERANCE_BF16;
        n_exact += exact;
        if (!joust_model_get_config(c.model)->scalar_head)
            check_logits(&c);
        check_hidden(&c);
        checkpoint_close(&c);
    }
    assert_true(n_exact > 5 && n_exact < 15);
}

/* The trainer's last gradients against PyTorch's, tensor by tensor: what:NAME of the expected file. */
static void check_gradients(const checkpoint *c, const joust_trainer *t, const char *what)
{
    const joust_tensor *tensors = t->trained.tensors;
    double worst = 0;
    for (uint32_t i = 0; i < t->trained.n_tensors; i++) {
        char name[160];
        snprintf(name, sizeof(name), "%s:%s", what, tensors[i].name);
        float *wanted = expected(c, name, tensors[i].n);
        const float *got = t->sums[0] + (tensors[i].data - t->trained.weights);
        worst = fmax(worst, gap(got, wanted, 1, (uint32_t)tensors[i].n));
        joust_free(wanted);
    }
    check_gap(c, what, worst);
}

static void check_loss(const checkpoint *c, const char *what, double got)
{
    float *wanted = expected(c, what, 1), value = (float)got;
    check_gap(c, what, gap(&value, wanted, 1, 1));
    joust_free(wanted);
}

static joust_trainer *still_trainer(const checkpoint *c, joust_loss loss)
{
    joust_error err = {0};
    const joust_train_settings p = {.loss = loss,
                                    .beta = 0.3,
                                    .objective = joust_objective_neutral(),
                                    .schedule = JOUST_SCHEDULE_CONSTANT,
                                    .max_steps = 1,
                                    .adam_beta1 = 0.9,
                                    .adam_beta2 = 0.99,
                                    .adam_eps = 1e-8};
    joust_trainer *t;
    check_ok(joust_trainer_create(c->engine, c->model, &p, &t, &err));
    return t;
}

static void check_supervised(const checkpoint *c)
{
    joust_error err = {0};
    joust_target targets[JOUST_PASS_ROWS];
    for (uint32_t i = 1; i < c->n; i++)
        targets[i - 1] = (joust_target){.position = i, .token = c->tokens[i], .weight = 1};
    const joust_sft_row row = {c->tokens, c->n, targets, c->n - 1};
    joust_step_report report;
    joust_trainer *t = still_trainer(c, JOUST_LOSS_SFT);
    check_ok(joust_trainer_step_rows(t, &row, 1, &report, &err));
    check_loss(c, "sft", report.loss);
    check_gradients(c, t, "sft");
    joust_trainer_free(&t);
}

static double answer_sum(const checkpoint *c, const joust_pair_row *row, const uint32_t *answer,
                         uint32_t n)
{
    joust_error err = {0};
    uint32_t tokens[JOUST_PASS_ROWS];
    float logps[JOUST_PASS_ROWS];
    memcpy(tokens, row->prompt, row->n_prompt * sizeof(*tokens));
    memcpy(tokens + row->n_prompt, answer, n * sizeof(*tokens));
    joust_score_request r = {
        .tokens = tokens, .n = row->n_prompt + n, .first = row->n_prompt, .ret_logps = logps};
    check_ok(joust_score(c->engine, c->model, &r, 1, NULL, NULL, &err));
    return joust_response_sum(logps, NULL, n, UINT32_MAX, 1);
}

/* The reference is the base: the adapter passed over. */
static void check_pair(const checkpoint *c)
{
    joust_error err = {0};
    joust_pair_row row = {.prompt = c->tokens,
                          .n_prompt = 16,
                          .chosen = c->tokens + 16,
                          .n_chosen = 20,
                          .rejected = c->tokens + 50,
                          .n_rejected = 26};
    joust_step_report report;
    joust_trainer *t = still_trainer(c, JOUST_LOSS_DPO);
    joust_model_adapter_switch(c->model, false);
    row.ref_chosen = answer_sum(c, &row, row.chosen, row.n_chosen);
    row.ref_rejected = answer_sum(c, &row, row.rejected, row.n_rejected);
    joust_model_adapter_switch(c->model, true);
    check_ok(joust_trainer_step_pairs(t, &row, 1, &report, &err));
    check_loss(c, "dpo", report.loss);
    check_gradients(c, t, "dpo");
    joust_trainer_free(&t);
}

/* Losses and gradients of adapters that PEFT wrote, and the file that we write of them: its names, shapes and values. */
static void test_adapters(void **state)
{
    (void)state;
    const char *const adapted[] = {"lora-llama", "lora-qwen2"};
    joust_error err = {0};
    for (size_t i = 0; i < sizeof(adapted) / sizeof(*adapted); i++) {
        checkpoint c = checkpoint_open(adapted[i]);
        check_supervised(&c);
        check_pair(&c);
        char *path = joust_path_join(c.dir, JOUST_ADAPTER_WEIGHTS_FILE);
        joust_safetensors theirs, ours;
        check_ok(joust_model_adapter_save(c.model, NULL, "reference_test.adapter", &err));
        check_ok(joust_safetensors_open(path, &theirs, &err));
        check_ok(joust_safetensors_open("reference_test.adapter/" JOUST_ADAPTER_WEIGHTS_FILE, &ours,
                                        &err));
        assert_int_equal(theirs.n, ours.n);
        for (uint32_t k = 0; k < ours.n; k++) {
            const joust_safetensor *o = &ours.items[k];
            uint32_t at = 0;
            while (at < theirs.n && strcmp(theirs.items[at].name, o->name) != 0)
                at++;
            assert_true(at < theirs.n && theirs.items[at].dtype == o->dtype &&
                        theirs.items[at].dims[0] == o->dims[0] && theirs.items[at].n == o->n);
        }
        joust_safetensors_close(&theirs);
        joust_safetensors_close(&ours);
        joust_free(path);
        checkpoint_close(&c);
    }
    check_ok(joust_dir_remove("reference_test.adapter", &err));
}

/* A reward model's loss on pairs, and a critic's on values, with every tensor's gradient; the scores and values are those
 * of the hidden states' call, to the last bit. */
static void test_scalar_training(void **state)
{
    (void)state;
    joust_error err = {0};
    checkpoint c = checkpoint_open("qwen2-reward");
    expect_file(&c, "training.safetensors");
    const joust_pair_row pair = {.prompt = c.tokens,
                                 .n_prompt = 16,
                                 .chosen = c.tokens + 16,
                                 .n_chosen = 20,
                                 .rejected = c.tokens + 50,
                                 .n_rejected = 26,
                                 .margin = 1.5};
    joust_step_report report;
    joust_trainer *t = still_trainer(&c, JOUST_LOSS_BRADLEY_TERRY_MARGIN);
    check_ok(joust_trainer_step_pairs(t, &pair, 1, &report, &err));
    check_loss(&c, "scores", report.loss);
    check_gradients(&c, t, "scores");
    joust_trainer_free(&t);
    float score, *old = expected(&c, "old", 24), *narrow = expected(&c, "returns", 24), got[24];
    joust_hidden_request r = {.tokens = c.tokens, .n = 36, .ret_score = &score};
    check_ok(joust_hidden(c.engine, c.model, &r, 1, NULL, NULL, &err));
    assert_true(report.chosen_reward == (double)score);
    double returns[24];
    for (uint32_t i = 0; i < 24; i++)
        returns[i] = (double)narrow[i];
    const joust_value_row row = {.prompt = c.tokens,
                                 .n_prompt = 16,
                                 .response = c.tokens + 16,
                                 .n_response = 24,
                                 .old_values = old,
                                 .returns = returns};
    t = still_trainer(&c, JOUST_LOSS_VALUE);
    t->params.policy.value_clip = 0.2;
    check_ok(joust_trainer_step_values(t, &row, 1, &report, &err));
    assert_true(report.clipped > 0.05 && report.clipped < 0.95);
    check_loss(&c, "values", report.loss);
    check_gradients(&c, t, "values");
    check_ok(joust_trainer_values(t, &row, got, &err));
    r.n = 16 + 23;
    check_ok(joust_hidden(c.engine, c.model, &r, 1, NULL, NULL, &err));
    assert_true(got[23] == score);
    joust_trainer_free(&t);
    joust_free(old);
    joust_free(narrow);
    checkpoint_close(&c);
}

/* A scalar head gives no logits, a language model no score: both are refused by name. */
static void test_refused(void **state)
{
    (void)state;
    joust_error err = {0};
    float got[JOUST_PASS_ROWS];
    checkpoint reward = checkpoint_open("llama-reward"), language = checkpoint_open("qwen2");
    joust_score_request score = {
        .tokens = reward.tokens, .n = reward.n, .first = 1, .ret_logps = got};
    check_status(JOUST_UNSUPPORTED,
                 joust_score(reward.engine, reward.model, &score, 1, NULL, NULL, &err));
    assert_non_null(strstr(err.text, "LlamaForSequenceClassification"));
    joust_hidden_request r = {.tokens = language.tokens, .n = language.n, .ret_score = got};
    check_status(JOUST_UNSUPPORTED,
                 joust_hidden(language.engine, language.model, &r, 1, NULL, NULL, &err));
    assert_non_null(strstr(err.text, "Qwen2ForCausalLM has no scalar head"));
    r = (joust_hidden_request){.tokens = language.tokens, .ret_states = got};
    check_status(JOUST_INVALID,
                 joust_hidden(language.engine, language.model, &r, 1, NULL, NULL, &err));
    r = (joust_hidden_request){.tokens = language.tokens, .n = 2, .first = 2, .ret_states = got};
    check_status(JOUST_INVALID,
                 joust_hidden(language.engine, language.model, &r, 1, NULL, NULL, &err));
    checkpoint_close(&reward);
    checkpoint_close(&language);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_families), cmocka_unit_test(test_bf16),
                                       cmocka_unit_test(test_adapters),
                                       cmocka_unit_test(test_scalar_training),
                                       cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
