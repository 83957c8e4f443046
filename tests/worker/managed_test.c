/* Servers that a worker starts: real processes that answer by a checkpoint, and what goes wrong with them. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "worker/endpoint_rollout.h"
#include "worker/guard.h"
#include "worker/managed.h"
#include "worker/proof.h"
#include "worker/tiny.h"

#define LONG_MS 60000 /* nothing here takes as long but what is broken */
#define SERVER                                                                                     \
    JOUST_BINARY_DIR "/engine_server --port {port} --name {name} --log " ASKED ".{replica}"
#define ASKED JOUST_BINARY_DIR "/managed_test/asked"

#define NEVER 99u /* so many servers are never ready: until a request has ended */

typedef struct bench {
    char dirs[2][512]; /* of two versions */
    joust_model_ref versions[2];
    joust_model *models[2];
    joust_tokenizer *tokenizer;
    joust_engine *engine;
    joust_job_model job_model;
    joust_managed *servers;
    joust_proof proof;
    uint32_t n_answered, n_failed;
    int64_t ready_by;
    uint32_t enough; /* servers that have to be ready */
    char why[1024];
} bench;

static void open_bench(bench *b, const char *command, uint32_t replicas)
{
    joust_error err;
    *b = (bench){.job_model = {.has_serve = true}};
    check_ok(joust_dir_remove(JOUST_BINARY_DIR "/managed_test", &err));
    check_ok(joust_dir_make(JOUST_BINARY_DIR "/managed_test", &err));
    for (uint32_t i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof(name), "managed_test-v%u", i);
        tiny_dir(name, b->dirs[i]);
        tiny_folder_write(b->dirs[i], true, 10 + i);
        check_ok(joust_model_load(b->dirs[i], &b->models[i], &err));
        b->versions[i] =
            (joust_model_ref){.version = i, .manifest = joust_digest_of(&i, sizeof(i))};
    }
    check_ok(joust_tokenizer_load(b->dirs[0], &b->tokenizer, &err));
    check_ok(joust_engine_create(NULL, &b->engine, &err));
    joust_job_model *m = &b->job_model;
    joust_job_endpoint_init(&m->endpoint);
    joust_job_serve_init(&m->serve);
    m->name = joust_strdup("policy");
    m->serve.command = joust_strdup(command);
    m->serve.replicas = replicas;
    m->serve.deadline_ms = 20000;
    m->serve.tolerance = 1e-3;
    m->endpoint.breaker_ms = 20;
}

/* Once the keys of the bench's job are as they should be. */
static void open_servers(bench *b)
{
    joust_error err;
    check_ok(joust_job_serve_complete(&b->job_model, &err));
    joust_managed_options o = {.model = &b->job_model,
                               .folder = JOUST_BINARY_DIR "/managed_test/served",
                               .logs = JOUST_BINARY_DIR "/managed_test/logs",
                               .worker = "w"};
    check_ok(joust_managed_create(&o, &b->servers, &err));
    check_ok(joust_proof_init(b->engine, b->models[0], b->tokenizer, b->job_model.serve.tolerance,
                              &b->proof, &err));
}

static void close_bench(bench *b)
{
    joust_managed_free(&b->servers);
    joust_proof_fini(&b->proof);
    joust_tokenizer_free(&b->tokenizer);
    joust_model_free(&b->models[0]);
    joust_model_free(&b->models[1]);
    joust_engine_free(&b->engine);
    joust_job_model *m = &b->job_model;
    for (uint32_t i = 0; i < m->endpoint.n_urls; i++)
        joust_free(m->endpoint.urls[i]);
    joust_free(m->endpoint.model);
    joust_free(m->serve.command);
    joust_free(m->serve.ready);
    joust_free(m->serve.publish);
    joust_free(m->serve.sleep);
    joust_free(m->name);
}

static void want(bench *b, uint32_t version)
{
    joust_error err;
    b->proof.before = version ? b->models[version - 1] : NULL;
    b->proof.model = b->models[version];
    check_ok(joust_managed_want(b->servers, &b->versions[version], b->dirs[version],
                                &b->proof.proof, &err));
}

static joust_status answered(void *context, uint32_t request, joust_endpoint_answer *answer,
                             const joust_endpoint_report *report, joust_error *err)
{
    bench *b = context;
    (void)request;
    (void)report;
    (void)err;
    b->n_answered += answer->n;
    return JOUST_OK;
}

static joust_status failed(void *context, uint32_t request, const joust_error *why,
                           joust_error *err)
{
    bench *b = context;
    (void)request;
    (void)err;
    b->n_failed++;
    snprintf(b->why, sizeof(b->why), "%s", why->text);
    return JOUST_OK;
}

/* What it waits for: enough servers that are ready. */
static bool wanted(void *context, uint32_t request)
{
    bench *b = context;
    (void)request;
    return joust_managed_ready(b->servers) < b->enough;
}

static joust_status turn(void *context, uint64_t n, joust_error *err)
{
    bench *b = context;
    bool busy;
    (void)n;
    assert_true(joust_clock_ms() < b->ready_by);
    return joust_managed_turn(b->servers, &busy, err);
}

/* Runs requests until so many servers have been ready at once, or requests fail. */
static void run(bench *b, uint32_t enough)
{
    joust_error err;
    static const uint32_t ids[] = {1, 5, 6};
    joust_sampling sampling = {.temperature = 1, .top_p = 1, .max_tokens = 4};
    joust_endpoint_calls calls = {
        .answered = answered, .failed = failed, .wanted = wanted, .step = turn, .context = b};
    b->enough = enough;
    b->ready_by = joust_clock_ms() + LONG_MS;
    b->n_answered = b->n_failed = 0;
    do {
        joust_endpoint_request q = {
            .ids = ids, .n_ids = 3, .sampling = &sampling, .n = 1, .id = "test"};
        check_ok(joust_endpoint_run(joust_managed_endpoint(b->servers), &q, 1, &calls, &err));
    } while (joust_managed_ready(b->servers) < enough && !b->n_failed &&
             (enough != NEVER || !b->n_answered));
}

static bool has_text(const char *path, const char *what)
{
    joust_error err;
    joust_buf text = {0};
    joust_status st = joust_file_read(path, 1 << 20, &text, &err);
    bool there = st == JOUST_OK && text.n && strstr((const char *)text.data, what);
    joust_buf_fini(&text);
    return there;
}

/* Whether server i got that call. */
static bool was_asked(uint32_t i, const char *what)
{
    char path[512];
    snprintf(path, sizeof(path), ASKED ".%u", i);
    return has_text(path, what);
}

static joust_status step(void *context, uint64_t n, joust_error *err)
{
    const bench *b = context;
    (void)n;
    (void)err;
    assert_true(joust_clock_ms() < b->ready_by);
    return JOUST_OK;
}

/* One way to publish: servers get version 0, then 1, sleep in between if they can, and are proved each time. */
static void check_publish(const char *publish, const char *sleep, const char *const *calls)
{
    bench b;
    joust_error err;
    open_bench(&b, "exec " SERVER " --model {model}", 2);
    b.job_model.serve.publish = joust_strdup(publish);
    b.job_model.serve.sleep = joust_strdup(sleep);
    open_servers(&b);
    want(&b, 0);
    run(&b, 2);
    assert_int_equal(b.n_failed, 0);
    b.ready_by = joust_clock_ms() + LONG_MS;
    check_ok(joust_managed_rest(b.servers, step, &b, &err));
    want(&b, 1);
    run(&b, 2);
    assert_int_equal(b.n_failed, 0);
    assert_int_equal(joust_managed_ready(b.servers), 2);
    for (; *calls; calls++)
        if (!was_asked(0, *calls) || !was_asked(1, *calls))
            fail_msg("publish %s, sleep %s: %s wasn't called", publish, sleep, *calls);
    close_bench(&b);
}

static void test_publish(void **state)
{
    static const char *const none[] = {NULL}, *const own[] = {"/reload", NULL},
                             *const vllm[] = {"/collective_rpc", "/reset_prefix_cache", NULL},
                             *const vllm_sleep[] = {"/sleep", "/collective_rpc", "/wake_up",
                                                    "/reset_prefix_cache", NULL},
                             *const sglang[] = {"/update_weights_from_disk", "/flush_cache", NULL},
                             *const sglang_sleep[] = {
                                 "/release_memory_occupation", "/resume_memory_occupation",
                                 "/update_weights_from_disk", "/flush_cache", NULL};
    (void)state;
    check_publish("restart", "none", none);
    check_publish("/reload", "stop", none);
    check_publish("/reload", "none", own);
    check_publish("vllm", "none", vllm);
    check_publish("vllm", "vllm", vllm_sleep);
    check_publish("sglang", "none", sglang);
    check_publish("sglang", "sglang", sglang_sleep);
}

/* A server that takes the call and keeps its weights is started again with the new ones. */
static void test_deaf_is_healed(void **state)
{
    bench b;
    (void)state;
    open_bench(&b, "exec " SERVER " --model {model} --deaf", 1);
    b.job_model.serve.publish = joust_strdup("/reload");
    open_servers(&b);
    want(&b, 0);
    run(&b, 1);
    want(&b, 1);
    run(&b, 1);
    assert_int_equal(b.n_failed, 0);
    assert_true(was_asked(0, "/reload"));
    close_bench(&b);
}

/* A command that begins with ! ends with the folder of another model. */
static void check_hopeless(const char *command, const char *ready, uint32_t deadline_ms,
                           const char *why)
{
    bench b;
    char with_other[1024];
    open_bench(&b, command, 2);
    snprintf(with_other, sizeof(with_other), "%s%s", command, command[0] == '!' ? b.dirs[1] : "");
    joust_free(b.job_model.serve.command);
    b.job_model.serve.command = joust_strdup(with_other + (command[0] == '!'));
    b.job_model.serve.deadline_ms = deadline_ms;
    b.job_model.serve.ready = joust_strdup(ready);
    open_servers(&b);
    want(&b, 0);
    run(&b, 1);
    assert_int_equal(b.n_failed, 1);
    assert_int_equal(b.n_answered, 0);
    if (!strstr(b.why, why) || !strstr(b.why, "w-policy-0") || !strstr(b.why, "w-policy-1"))
        fail_msg("'%s' isn't in: %s", why, b.why);
    close_bench(&b);
}

/* A server that has the right weights shows how near that is: another one's, within the job's loose tolerance, get no work. */
static void test_calibration(void **state)
{
    bench b;
    char other[512], command[1400];
    (void)state;
    tiny_dir("managed_test-v1", other);
    snprintf(command, sizeof(command),
             "m={model}; [ {replica} = 0 ] || m=%s; exec " SERVER " --model $m", other);
    open_bench(&b, command, 2);
    b.job_model.serve.tolerance = 20;
    open_servers(&b);
    want(&b, 0);
    joust_endpoint *e = joust_managed_endpoint(b.servers);
    uint32_t round = 1;
    do {
        joust_endpoint_begin_round(e, round++);
        run(&b, 1);
        assert_int_equal(b.n_failed, 0);
    } while (b.proof.calibrated > JOUST_PROOF_FLOOR);
    for (uint32_t i = 0; i < 3; i++) {
        joust_endpoint_begin_round(e, round++);
        run(&b, 1);
        assert_int_equal(b.n_failed, 0);
        assert_true(joust_endpoint_is_ready(e, 0));
        assert_false(joust_endpoint_is_ready(e, 1));
    }
    close_bench(&b);
}

/* Each is named; nothing waits for ever. */
static void test_hopeless(void **state)
{
    (void)state;
    check_hopeless("!: {model}; exec " SERVER " --model ", "/health", 20000, "other weights");
    check_hopeless("exit 9; : {model} {port}", "/health", 20000, "ended with status 9");
    check_hopeless("exec sleep 1000; : {model} {port}", "/health", 300, "isn't ready after 0.3 s");
    check_hopeless("echo starting; exec sleep 1000; : {model} {port}", "Ready.", 300,
                   "nothing of 'Ready.' yet");
}

/* Ready by a line; and a server that ends is started again. */
static void test_line_and_restart(void **state)
{
    bench b;
    (void)state;
    open_bench(&b, "exec " SERVER " --model {model} --die-after 12", 1);
    b.job_model.serve.ready = joust_strdup("serving version");
    open_servers(&b);
    want(&b, 0);
    uint32_t n = 0;
    while (n < 10) { /* its first life has 4 probes and 8 requests */
        run(&b, NEVER);
        assert_int_equal(b.n_failed, 0);
        n += b.n_answered;
    }
    close_bench(&b);
}

static void test_gpus(void **state)
{
    bench b;
    joust_error err;
    (void)state;
    joust_managed_options o = {.model = &b.job_model,
                               .folder = JOUST_BINARY_DIR "/managed_test/served",
                               .logs = JOUST_BINARY_DIR "/managed_test/logs",
                               .worker = "w"};
    setenv("CUDA_VISIBLE_DEVICES", "4,5,GPU-x", 1);
    open_bench(&b, "echo gpus $CUDA_VISIBLE_DEVICES; exit 1; : {model} {port}", 3);
    b.job_model.serve.gpus = 1;
    open_servers(&b);
    want(&b, 0);
    run(&b, 1);
    assert_int_equal(b.n_failed, 1);
    assert_true(has_text(JOUST_BINARY_DIR "/managed_test/logs/w-policy-0.log", "gpus 4\n"));
    assert_true(has_text(JOUST_BINARY_DIR "/managed_test/logs/w-policy-2.log", "gpus GPU-x\n"));
    close_bench(&b);
    open_bench(&b, "x {model} {port}", 2);
    b.job_model.serve.gpus = 2;
    check_ok(joust_job_serve_complete(&b.job_model, &err));
    check_status(JOUST_INVALID, joust_managed_create(&o, &b.servers, &err));
    assert_non_null(strstr(err.text, "2 servers: 2 GPUs from number 2 on, but CUDA_VISIBLE_DEVICES is 4,5,GPU-x"));
    close_bench(&b);
    unsetenv("CUDA_VISIBLE_DEVICES");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_publish), cmocka_unit_test(test_deaf_is_healed),
        cmocka_unit_test(test_calibration),
        cmocka_unit_test(test_hopeless), cmocka_unit_test(test_line_and_restart),
        cmocka_unit_test(test_gpus)};
    if (argc == 3 && strcmp(argv[1], "guard") == 0)
        return joust_guard_main(argv[2]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
