/* TLS, keys, waits that servers ask for, the circuit breaker and kept connections. Certificates are made here, by the openssl
 * tool; without it the tests of TLS are skipped. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "endpoint/loopback.h"
#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "worker/endpoint/endpoint.h"

#define FOLDER JOUST_BINARY_DIR "/secure_test"
#define N      8u

typedef struct bench {
    loopback *server;
    char url[64];
    joust_job_endpoint settings;
    joust_endpoint *endpoint;
    joust_sampling sampling;
    uint32_t n_answered, n_failed, tries;
    joust_status status;
    char why[1024];
} bench;

static char model[] = "test";

static int setup(void **state)
{
    bench *b = calloc(1, sizeof(*b));
    joust_job_endpoint_init(&b->settings);
    b->settings.model = model;
    b->settings.deadline_ms = 30000;
    b->settings.breaker_ms = 20;
    b->sampling = (joust_sampling){.temperature = 1, .top_p = 1, .max_tokens = 100};
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    bench *b = *state;
    joust_endpoint_free(&b->endpoint);
    loopback_stop(b->server);
    free(b);
    return 0;
}

static void serve(bench *b, const char *scheme, loopback_options o)
{
    o.model = model;
    o.owner = "vllm";
    b->server = loopback_start(&o);
    assert_non_null(b->server);
    snprintf(b->url, sizeof(b->url), "%s:%u/v1", scheme, loopback_port(b->server));
    b->settings.urls[0] = b->url;
    b->settings.n_urls = 1;
}

static joust_status answered(void *context, uint32_t request, joust_endpoint_answer *answer,
                             const joust_endpoint_report *report, joust_error *err)
{
    bench *b = context;
    (void)request;
    (void)answer;
    (void)err;
    b->n_answered++;
    b->tries += report->tries;
    return JOUST_OK;
}

static joust_status failed(void *context, uint32_t request, const joust_error *why,
                           joust_error *err)
{
    bench *b = context;
    (void)request;
    (void)err;
    b->n_failed++;
    b->status = why->status;
    snprintf(b->why, sizeof(b->why), "%s", why->text);
    return JOUST_OK;
}

static void ask_again(bench *b)
{
    joust_error err;
    joust_endpoint_request requests[N];
    const joust_endpoint_calls calls = {.answered = answered, .failed = failed, .context = b};
    for (uint32_t i = 0; i < N; i++)
        requests[i] = (joust_endpoint_request){.prompt = "2 and 3",
                                               .sampling = &b->sampling,
                                               .n = 1,
                                               .stream = {.key = {i, 7}},
                                               .key = 1,
                                               .id = "q"};
    b->n_answered = b->n_failed = b->tries = 0;
    check_ok(joust_endpoint_run(b->endpoint, requests, N, &calls, &err));
}

static void ask(bench *b)
{
    joust_error err;
    joust_endpoint_free(&b->endpoint);
    check_ok(joust_endpoint_create(&b->settings, &b->endpoint, &err));
    ask_again(b);
}

/* ---- TLS ---- */

static char *read_text(const char *path)
{
    joust_error err;
    joust_buf text = {0};
    check_ok(joust_file_read(path, 1 << 16, &text, &err));
    char *copy = strdup((const char *)text.data);
    joust_buf_fini(&text);
    return copy;
}

/* A key and a certificate that it signs itself, for that name. False: there is no tool for it. */
static bool make_certificate(const char *name, const char *alternative)
{
    char command[1024];
    joust_error err;
    if (system("openssl version >/dev/null 2>&1") != 0)
        return false;
    check_ok(joust_dir_make(FOLDER, &err));
    snprintf(command, sizeof(command),
             "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=%s -addext "
             "'subjectAltName=%s' -keyout " FOLDER "/%s.key -out " FOLDER "/%s.pem 2>/dev/null",
             name, alternative, name, name);
    assert_int_equal(system(command), 0);
    return true;
}

static void serve_tls(bench *b, const char *name)
{
    char key[256], certificate[256];
    snprintf(key, sizeof(key), FOLDER "/%s.key", name);
    snprintf(certificate, sizeof(certificate), FOLDER "/%s.pem", name);
    char *texts[2] = {read_text(key), read_text(certificate)};
    serve(b, "https://127.0.0.1",
          (loopback_options){.tls_key = texts[0], .tls_certificate = texts[1]});
    free(texts[0]);
    free(texts[1]);
}

static void certificates_are_checked(void **state)
{
    bench *b = *state;
    static char right[] = FOLDER "/right.pem", other[] = FOLDER "/other.pem",
                none[] = FOLDER "/none.pem";
    if (!make_certificate("right", "IP:127.0.0.1") || !make_certificate("other", "IP:127.0.0.1"))
        skip();
    serve_tls(b, "right");
    b->settings.ca_file = right;
    ask(b);
    assert_int_equal(b->n_answered, N);
    char *const wrong[] = {NULL, other, none};
    for (size_t i = 0; i < 3; i++) {
        b->settings.ca_file = wrong[i];
        ask(b);
        assert_int_equal(b->n_failed, N);
        assert_int_equal(b->status, JOUST_UNSUPPORTED);
        assert_non_null(strstr(b->why, "its certificate isn't trusted"));
        assert_non_null(strstr(b->why, "endpoint.ca_file"));
    }
}

/* Trusted, but another's. */
static void a_certificate_names_its_server(void **state)
{
    bench *b = *state;
    static char pem[] = FOLDER "/elsewhere.pem";
    if (!make_certificate("elsewhere", "DNS:elsewhere.example"))
        skip();
    serve_tls(b, "elsewhere");
    b->settings.ca_file = pem;
    ask(b);
    assert_int_equal(b->n_failed, N);
    assert_non_null(strstr(b->why, "its certificate isn't trusted"));
}

/* ---- waits ---- */

/* How long N requests take that are sent away once each, with that header. */
static int64_t wait_of(bench *b, const char *retry_after)
{
    serve(b, "http://127.0.0.1", (loopback_options){.retry_after = retry_after});
    b->settings.probe = false;
    b->settings.concurrency = 1;
    ask(b);
    assert_int_equal(b->n_answered, N); /* the server is known and idle */
    loopback_set_percent(b->server, LOOPBACK_BUSY, 100);
    uint64_t asked = loopback_asked(b->server);
    b->settings.deadline_ms = 700;
    int64_t begun = joust_clock_ms();
    ask_again(b);
    int64_t took = joust_clock_ms() - begun;
    assert_int_equal(b->n_failed, N);
    assert_int_equal(b->status, JOUST_TIMEOUT);
    assert_non_null(strstr(b->why, "HTTP status 429: too much to do"));
    /* It asked to be left alone: nobody asks it again before the deadline. */
    assert_int_equal(loopback_asked(b->server) - asked, 1);
    loopback_stop(b->server);
    b->server = NULL;
    b->settings.deadline_ms = 30000;
    return took;
}

static void servers_are_left_alone_as_they_ask(void **state)
{
    bench *b = *state;
    char date[64];
    time_t then = time(NULL) + 3600;
    struct tm parts;
    assert_non_null(gmtime_r(&then, &parts));
    assert_true(strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", &parts) > 0);
    assert_in_range(wait_of(b, "120"), 600, 20000);
    assert_in_range(wait_of(b, date), 600, 20000);
}

/* ---- the breaker ---- */

static void a_failing_server_rests_and_comes_back(void **state)
{
    bench *b = *state;
    serve(b, "http://127.0.0.1", (loopback_options){0});
    b->settings.breaker_failures = 3;
    b->settings.breaker_ms = 1000;
    ask(b);
    assert_int_equal(b->n_answered, N);
    loopback_set_percent(b->server, LOOPBACK_ERROR, 100);
    uint64_t asked = loopback_asked(b->server);
    b->settings.deadline_ms = 600;
    ask_again(b);
    assert_int_equal(b->n_failed, N);
    /* All N may have been under way when the third failed; none follows while it rests. */
    assert_in_range(loopback_asked(b->server) - asked, 3, N);
    loopback_set_percent(b->server, LOOPBACK_ERROR, 0);
    b->settings.deadline_ms = 30000;
    ask_again(b);
    assert_int_equal(b->n_answered, N);
}

/* ---- connections ---- */

static void connections_are_kept(void **state)
{
    bench *b = *state;
    serve(b, "http://127.0.0.1", (loopback_options){0});
    b->settings.concurrency = 2;
    ask(b);
    for (int i = 0; i < 5; i++)
        ask_again(b);
    assert_in_range(loopback_asked(b->server), 6 * N, 6 * N + 8);
    assert_in_range(loopback_connections(b->server), 1, 3);
}

#define WITH(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH(certificates_are_checked),
        WITH(a_certificate_names_its_server),
        WITH(servers_are_left_alone_as_they_ask),
        WITH(a_failing_server_rests_and_comes_back),
        WITH(connections_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
