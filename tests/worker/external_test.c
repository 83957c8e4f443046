/* Training by a program of others, against a coordinator in memory: what it gets, what is made of what it says, and each way
 * in which it misbehaves. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "worker/external.h"
#include "worker/fake_upstream.h"
#include "worker/guard.h"
#include "worker/tiny.h"

#define N_PAIRS 70u /* more than are fetched at a time */
#define TOY     "exec " JOUST_BINARY_DIR "/toy_trainer "
#define LOGS    JOUST_BINARY_DIR "/external_test"

typedef struct bench {
    joust_job job;
    joust_plan plan;
    joust_engine *engine;
    fake_upstream fake;
    joust_cache *cache;
    joust_lease_unit unit;
    joust_train_row_pair pairs[N_PAIRS];
    joust_stage stage;
    char command[1024];
} bench;

static uint32_t prompt[] = {3, 4}, chosen[] = {5, 6, TINY_EOS}, rejected[] = {7, TINY_EOS};
static float logps[3];

/* SentencePiece's as Llama 2 has it: a blank before each run of text, which decoding takes away at the start alone. */
static const char metaspace[] =
    "{\"version\":\"1.0\",\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true},"
    "{\"id\":1,\"content\":\"<s>\",\"special\":true},{\"id\":2,\"content\":\"</"
    "s>\",\"special\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":"
    "\"\u2581\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}]},"
    "\"pre_tokenizer\":null,\"post_processor\":null,\"decoder\":{\"type\":\"Sequence\","
    "\"decoders\":["
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\u2581\"},\"content\":\" "
    "\"},{\"type\":\"ByteFallback\"},"
    "{\"type\":\"Fuse\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
    "\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":false,"
    "\"vocab\":{\"<unk>\":0,\"<s>\":1,\"</"
    "s>\":2,\"\u2581\":3,\"a\":4,\"b\":5,\"\u2581a\":6,\"\u2581b\":7},"
    "\"merges\":[[\"\u2581\",\"a\"],[\"\u2581\",\"b\"]]}}";

static int setup_with(void **state, const char *tokenizer)
{
    joust_error err;
    bench *b = joust_calloc(1, sizeof(*b));
    char dir[512], cache[512];
    tiny_job_make(&b->job, &b->plan);
    fake_upstream_init(&b->fake);
    check_ok(joust_engine_create(&(joust_engine_options){.n_threads = 1}, &b->engine, &err));
    tiny_dir("external", dir);
    tiny_folder_write(dir, true, 1);
    if (tokenizer) {
        char path[600];
        snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
        check_ok(joust_file_write(path, tokenizer, strlen(tokenizer), &err));
    }
    tiny_dir("external_cache", cache);
    check_ok(joust_cache_create(cache, 1u << 30, &b->cache, &err));
    check_ok(joust_dir_remove(LOGS, &err));
    b->stage = *tiny_stage(&b->job, &b->plan, JOUST_STAGE_TRAIN, NULL);
    b->stage.train.has_external = true;
    b->stage.train.external =
        (joust_job_external){.command = b->command, .nodes = 1, .deadline_ms = 60000};
    b->unit = (joust_lease_unit){.unit = {.round = 1, .stage = b->stage.index},
                                 .lease = 9,
                                 .model = {.lineage = "policy", .version = 3},
                                 .out_version = 4,
                                 .n_rows = N_PAIRS};
    b->unit.model.manifest = fake_upstream_import(&b->fake, dir);
    b->unit.reference = b->unit.model;
    for (uint32_t i = 0; i < N_PAIRS; i++)
        b->pairs[i] = (joust_train_row_pair){.n_prompt_tokens = 2,
                                             .n_chosen = 3,
                                             .n_rejected = 2,
                                             .prompt_tokens = prompt,
                                             .chosen = chosen,
                                             .rejected = rejected,
                                             .chosen_logps = logps,
                                             .rejected_logps = logps,
                                             .margin = 0.25 * i};
    b->fake.pairs = b->pairs;
    b->fake.n_pairs = N_PAIRS;
    *state = b;
    return 0;
}

static int setup(void **state)
{
    return setup_with(state, NULL);
}

static int setup_metaspace(void **state)
{
    return setup_with(state, metaspace);
}

static int teardown(void **state)
{
    bench *b = *state;
    fake_upstream_fini(&b->fake);
    joust_cache_free(&b->cache);
    joust_engine_free(&b->engine);
    joust_job_fini(&b->job);
    joust_free(b);
    return 0;
}

static joust_status train(bench *b, const char *command, joust_unit_result *ret, joust_error *err)
{
    joust_training t = {.engine = b->engine,
                        .job = &b->job,
                        .stage = &b->stage,
                        .up = &b->fake.up,
                        .cache = b->cache,
                        .logs = LOGS,
                        .worker = "w"};
    snprintf(b->command, sizeof(b->command), "%s", command);
    return joust_external_run(&t, &b->unit, ret, err);
}

static void test_result(void **state)
{
    bench *b = *state;
    joust_error err;
    joust_unit_result r = {0};
    check_ok(train(b, TOY "--steps 5", &r, &err));
    assert_true(r.has_model);
    assert_int_equal(r.model.model.version, 4);
    assert_int_equal(r.model.parent, 3);
    assert_int_equal(r.model.n_steps, 5);
    assert_int_equal(r.n_steps, 5);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(r.steps[i].step, i);
        assert_int_equal(r.steps[i].round, 1);
        assert_true(r.steps[i].loss == 0.6931 && r.steps[i].learning_rate == 1e-5);
        assert_true(r.steps[i].accuracy == 0.5);
        assert_true(r.steps[i].gradient_norm == (i ? 1.5 : 0)); /* the first was infinite */
    }
    joust_unit_result_fini(&r);
}

/* What it is given, word by word. */
static void test_files(void **state)
{
    bench *b = *state;
    joust_error err;
    joust_unit_result r = {0};
    joust_buf text = {0};
    check_ok(
        train(b,
              "set -e; head -n 1 $JOUST_PAIRS >" LOGS "/first; wc -l <$JOUST_PAIRS >>" LOGS
              "/first; test -s $JOUST_BASE/config.json; test -s $JOUST_REFERENCE/tokenizer.json; "
              "test -z \"$JOUST_RESUME\"; test $JOUST_VERSION = 4; test $JOUST_NODES = 1; "
              "test $JOUST_LOSS = dpo; test -n \"$MASTER_PORT\"; cp $JOUST_BASE/* $JOUST_OUTPUT/",
              &r, &err));
    assert_int_equal(r.n_steps, 0);
    check_ok(joust_file_read(LOGS "/first", 4096, &text, &err));
    const char *first = (const char *)text.data;
    assert_non_null(
        strstr(first, "\"prompt_tokens\":[3,4],\"chosen_tokens\":[5,6,2],\"rejected_tokens\":[7,2],"
                      "\"margin\":"));
    assert_non_null(strstr(first, "\"prompt\":\""));
    assert_non_null(strstr(first, "\n70\n"));
    joust_buf_fini(&text);
    joust_unit_result_fini(&r);
}

/* The job's settings of training, those of an adapter included. */
static void test_settings(void **state)
{
    bench *b = *state;
    joust_error err;
    joust_unit_result r = {0};
    joust_job_train *t = &b->stage.train;
    t->schedule = JOUST_SCHEDULE_COSINE;
    t->warmup_steps = 7;
    t->weight_decay = 0.25;
    t->clip = 0.5;
    t->min_learning_rate_ratio = 0.125;
    t->sft_weight = 1.5;
    const char *command =
        "set -e; echo \"$JOUST_SCHEDULE $JOUST_WARMUP_STEPS $JOUST_WEIGHT_DECAY $JOUST_CLIP "
        "$JOUST_MIN_LEARNING_RATE_RATIO $JOUST_SFT_WEIGHT $JOUST_GRADIENT_CHECKPOINTING "
        "$JOUST_LORA_RANK $JOUST_LORA_ALPHA [$JOUST_LORA_TARGETS] $JOUST_LORA_RSLORA\" >" LOGS
        "/settings; cp $JOUST_BASE/* $JOUST_OUTPUT/";
    const char *expected[] = {"cosine 7 0.25 0.5 0.125 1.5 0 0 0 [] 0\n",
                              "cosine 7 0.25 0.5 0.125 1.5 1 4 12 [q_proj,down_proj] 1\n"};
    for (uint32_t i = 0; i < 2; i++) {
        joust_buf text = {0};
        check_ok(train(b, command, &r, &err));
        check_ok(joust_file_read(LOGS "/settings", 4096, &text, &err));
        assert_string_equal((const char *)text.data, expected[i]);
        joust_buf_fini(&text);
        joust_unit_result_fini(&r);
        t->has_lora = t->has_recompute = t->recompute = true;
        t->lora = (joust_lora_settings){
            .rank = 4, .targets = JOUST_LORA_Q | JOUST_LORA_DOWN, .alpha = 12, .rslora = true};
    }
}

/* Its texts, read again as one, are the tokens that the policy saw and drew. */
static void test_blanks(void **state)
{
    bench *b = *state;
    static uint32_t begun[] = {1, 6}, goes_on[] = {7, 6, 2}, joined[] = {5, 2};
    joust_error err;
    joust_unit_result r = {0};
    joust_buf text = {0};
    for (uint32_t i = 0; i < N_PAIRS; i++) {
        b->pairs[i].prompt_tokens = begun;
        b->pairs[i].chosen = goes_on;
        b->pairs[i].rejected = joined;
    }
    check_ok(train(b, "head -n 1 $JOUST_PAIRS >" LOGS "/first; cp $JOUST_BASE/* $JOUST_OUTPUT/", &r,
                   &err));
    check_ok(joust_file_read(LOGS "/first", 4096, &text, &err));
    assert_non_null(strstr((const char *)text.data,
                           "{\"prompt\":\"<s>a\",\"chosen\":\" b a\",\"rejected\":\"b\","));
    joust_buf_fini(&text);
    joust_unit_result_fini(&r);
}

static void check_refused(bench *b, const char *command, joust_status status, const char *why)
{
    joust_error err;
    joust_unit_result r = {0};
    check_status(status, train(b, command, &r, &err));
    if (!strstr(err.text, why) || !strstr(err.text, "train.command (output in w-train-policy.log)"))
        fail_msg("%s: '%s' isn't in: %s", command, why, err.text);
    assert_false(r.has_model);
    b->fake.step = b->fake.n_steps = 0;
}

static void test_misbehaviour(void **state)
{
    bench *b = *state;
    check_refused(b, TOY "dies", JOUST_INVALID, "it ended with status 134; its last words: ");
    check_refused(b, TOY "nothing", JOUST_INVALID,
                  "it ended with status 0, but without a whole result");
    check_refused(b, TOY "half", JOUST_INVALID, "without a whole result");
    check_refused(b, TOY "nan", JOUST_NOT_FINITE, "tensor model.layers.1");
    check_refused(b, TOY "shape", JOUST_INVALID, "its result has intermediate_size");
    check_refused(b, TOY "nan-loss", JOUST_NOT_FINITE, "its loss isn't finite after step 2");
    check_refused(b, "echo nobody is here; exit 3", JOUST_INVALID,
                  "status 3; its last words: nobody is here");
    check_refused(b, "echo '{\"checkpoint\": \"../x\"}'; sleep 100", JOUST_INVALID,
                  "a checkpoint's name is a word");
    check_refused(b, "echo '{\"checkpoint\": \"none\"}'; sleep 100", JOUST_INVALID,
                  "there is no such folder");
    b->stage.train.external.deadline_ms = 200;
    check_refused(b, TOY "never-ends", JOUST_INVALID, "it hasn't ended after 0.2 s");
}

/* Nobody wants it any more: it ends whole. */
static void test_interrupted(void **state)
{
    bench *b = *state;
    joust_error err;
    joust_unit_result r = {0};
    joust_buf text = {0};
    b->fake.interrupt_after = 20;
    check_status(JOUST_INTERRUPTED,
                 train(b, "setsid sleep 1000 & echo $! >" LOGS "/pid; sleep 1000", &r, &err));
    check_ok(joust_file_read(LOGS "/pid", 64, &text, &err));
    char path[64];
    snprintf(path, sizeof(path), "/proc/%ld", strtol((const char *)text.data, NULL, 10));
    assert_int_not_equal(access(path, F_OK), 0);
    joust_buf_fini(&text);
}

/* It goes on from its own checkpoint, and its steps are counted once. */
static void test_resume(void **state)
{
    bench *b = *state;
    joust_error err;
    joust_unit_result r = {0};
    unlink(LOGS "/died");
    check_ok(joust_dir_make(LOGS, &err));
    const char *command = TOY "--steps 10 --save-every 4 --die-once " LOGS "/died";
    check_status(JOUST_INVALID, train(b, command, &r, &err));
    assert_int_equal(b->fake.step, 4);
    assert_int_equal(b->fake.n_steps, 4);
    b->unit.resume_step = b->fake.step;
    b->unit.resume = b->fake.state;
    check_ok(train(b, command, &r, &err));
    assert_int_equal(b->fake.step, 8);
    assert_int_equal(r.model.n_steps, 10);
    assert_int_equal(r.n_steps, 2); /* since the last checkpoint */
    assert_int_equal(r.steps[0].step, 8);
    joust_unit_result_fini(&r);
}

static void check_line(const char *line, joust_trainer_line expected)
{
    joust_train_step step = {0};
    char name[128];
    if (joust_trainer_line_read(line, &step, name) != expected)
        fail_msg("%s", line);
}

static void test_lines(void **state)
{
    joust_train_step step = {0};
    char name[128], longest[300];
    (void)state;
    check_line("", JOUST_LINE_TEXT);
    check_line("loss: 3", JOUST_LINE_TEXT);
    check_line("{'loss': 3}", JOUST_LINE_TEXT);
    check_line("{\"loss\": 3", JOUST_LINE_TEXT);
    check_line("{\"eval_loss\": 3}", JOUST_LINE_TEXT);
    check_line("[{\"loss\": 3}]", JOUST_LINE_TEXT);
    check_line(" {\"loss\": 3}", JOUST_LINE_STEP);
    check_line("{\"loss\": NaN}", JOUST_LINE_NOT_FINITE);
    check_line("{\"loss\": -Infinity, \"x\": \"NaN\"}", JOUST_LINE_NOT_FINITE);
    check_line("{\"loss\": null}", JOUST_LINE_NOT_FINITE);
    check_line("{\"loss\": \"3\"}", JOUST_LINE_NOT_FINITE);
    check_line("{\"loss\": 1e999}", JOUST_LINE_TEXT);
    check_line("{\"note\": \"NaN \\\" Infinity\", \"loss\": 1}", JOUST_LINE_STEP);
    check_line("{\"checkpoint\": 3}", JOUST_LINE_BAD_NAME);
    check_line("{\"checkpoint\": \"\"}", JOUST_LINE_BAD_NAME);
    check_line("{\"checkpoint\": \".x\"}", JOUST_LINE_BAD_NAME);
    check_line("{\"checkpoint\": \"a/b\"}", JOUST_LINE_BAD_NAME);
    memset(longest, 'a', sizeof(longest));
    memcpy(longest, "{\"checkpoint\": \"", 16);
    memcpy(longest + 290, "\"}", 3);
    check_line(longest, JOUST_LINE_BAD_NAME);
    assert_int_equal(joust_trainer_line_read("{\"checkpoint\": \"checkpoint-10\"}", &step, name),
                     JOUST_LINE_CHECKPOINT);
    assert_string_equal(name, "checkpoint-10");
    assert_int_equal(
        joust_trainer_line_read("{\"loss\": 2, \"gradient_norm\": 3, \"rewards/chosen\": 4, "
                                "\"rewards/rejected\": -1.5, \"lr\": 0.5, \"accuracy\": 1}",
                                &step, name),
        JOUST_LINE_STEP);
    assert_true(step.loss == 2 && step.gradient_norm == 3 && step.chosen_reward == 4 &&
                step.rejected_reward == -1.5 && step.learning_rate == 0.5 && step.accuracy == 1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_result, setup, teardown),
        cmocka_unit_test_setup_teardown(test_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_settings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_blanks, setup_metaspace, teardown),
        cmocka_unit_test_setup_teardown(test_misbehaviour, setup, teardown),
        cmocka_unit_test_setup_teardown(test_interrupted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_resume, setup, teardown),
        cmocka_unit_test(test_lines)};
    if (argc == 3 && strcmp(argv[1], "guard") == 0)
        return joust_guard_main(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
