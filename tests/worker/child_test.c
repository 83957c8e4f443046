/* Programs of others under their guard: what they print, how they end, and that nothing of them stays. */
#include "check.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "tests/oom.h"
#include "worker/child.h"
#include "worker/guard.h"

#define LONG_MS 30000 /* nothing here takes as long but what is broken */

static const char log_path[] = JOUST_BINARY_DIR "/child_test.log";

static joust_child *start(const char *command, const char *const *environment)
{
    joust_error err;
    joust_child *c = NULL;
    joust_child_options o = {.command = command, .environment = environment, .log_path = log_path};
    check_ok(joust_child_start(&o, &c, &err));
    return c;
}

static void pause_ms(long ms)
{
    const struct timespec t = {.tv_nsec = ms * 1000000};
    nanosleep(&t, NULL);
}

/* Its exit status, once it and its guard are over. */
static int end_of(joust_child *c)
{
    int status = -1;
    int64_t end = joust_clock_ms() + LONG_MS;
    while (!joust_child_ended(c, &status) && joust_clock_ms() < end)
        pause_ms(5);
    assert_true(joust_child_ended(c, NULL));
    return status;
}

/* The next line, once it is there. */
static const char *next_line(joust_child *c)
{
    const char *line = NULL;
    int64_t end = joust_clock_ms() + LONG_MS;
    while (!(line = joust_child_line(c, false)) && joust_clock_ms() < end)
        pause_ms(5);
    assert_non_null(line);
    return line;
}

/* Waits until the process is gone (or a zombie that nobody has buried). */
static void assert_gone(long pid)
{
    int64_t end = joust_clock_ms() + LONG_MS;
    for (;;) {
        char path[64], state = 'Z';
        snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
        FILE *f = fopen(path, "re");
        if (!f)
            return;
        int n = fscanf(f, "%*d (%*[^)]) %c", &state);
        fclose(f);
        if (n != 1 || state == 'Z' || state == 'X')
            return;
        assert_true(joust_clock_ms() < end);
        pause_ms(20);
    }
}

static void test_status_and_output(void **state)
{
    (void)state;
    const char *const environment[] = {"JOUST_CHILD_TEST=of its own", NULL};
    setenv("JOUST_CHILD_TEST", "inherited", 1);
    joust_child *c =
        start("echo one; echo \"$JOUST_CHILD_TEST\" >&2; printf rest; exit 7", environment);
    assert_string_equal(next_line(c), "one");
    assert_string_equal(next_line(c), "of its own");
    assert_int_equal(end_of(c), 7);
    assert_null(joust_child_line(c, false));
    assert_string_equal(joust_child_line(c, true), "rest");
    assert_null(joust_child_line(c, true));
    joust_child_free(&c, 0);
    c = start("kill -9 $$", NULL);
    assert_int_equal(end_of(c), 128 + SIGKILL);
    assert_null(joust_child_line(c, true)); /* lines of those before it are not its own */
    joust_child_free(&c, 0);
    c = start("head -c 100000 /dev/zero | tr '\\0' x; echo", NULL);
    assert_int_equal(end_of(c), 0);
    assert_int_equal(strlen(joust_child_line(c, true)), 65536);
    assert_int_equal(strlen(joust_child_line(c, true)), 100000 - 65536);
    joust_child_free(&c, 0);
}

/* A family: a process in the group, one in a session of its own, one whose parent has ended. Their ids are printed. */
static const char family[] = "sleep 1000 & echo $!; setsid sleep 1001 & "
                             "sh -c 'setsid sh -c \"echo \\$\\$; exec sleep 1002\" & sleep 0.1'; "
                             "sh -c 'trap \"\" TERM; echo $$; while :; do sleep 1; done'";

static void read_family(joust_child *c, long pids[3])
{
    for (int i = 0; i < 3; i++) {
        pids[i] = strtol(next_line(c), NULL, 10);
        assert_true(pids[i] > 1);
        assert_int_equal(kill((pid_t)pids[i], 0), 0);
    }
}

static void test_stop(void **state)
{
    (void)state;
    long pids[3];
    joust_child *c = start(family, NULL);
    read_family(c, pids);
    joust_child_stop(c);
    end_of(c);
    for (int i = 0; i < 3; i++)
        assert_gone(pids[i]);
    joust_child_free(&c, 0);
}

/* What a command leaves behind ends with it. */
static void test_left_behind(void **state)
{
    (void)state;
    joust_child *c = start("setsid sleep 1000 & echo $!; exit 0", NULL);
    long pid = strtol(next_line(c), NULL, 10);
    assert_int_equal(end_of(c), 0);
    assert_gone(pid);
    joust_child_free(&c, 0);
}

/* The process that started it is killed: SIGKILL, so it can't see to anything itself. */
static void test_kill_of_parent(void **state)
{
    (void)state;
    long pids[3];
    int ids[2];
    assert_int_equal(pipe(ids), 0);
    pid_t parent = fork();
    if (parent == 0) {
        joust_child *c = start(family, NULL);
        read_family(c, pids);
        if (write(ids[1], pids, sizeof(pids)) != (ssize_t)sizeof(pids))
            _exit(1);
        for (;;)
            pause();
    }
    assert_int_equal(read(ids[0], pids, sizeof(pids)), sizeof(pids));
    kill(parent, SIGKILL);
    waitpid(parent, NULL, 0);
    int64_t from = joust_clock_ms();
    for (int i = 0; i < 3; i++)
        assert_gone(pids[i]);
    printf("gone after %lld ms\n", (long long)(joust_clock_ms() - from));
    close(ids[0]);
    close(ids[1]);
}

static void test_errors(void **state)
{
    (void)state;
    joust_error err;
    joust_child *c = NULL;
    joust_child_options o = {.command = "true", .log_path = "/nowhere/log"};
    assert_int_equal(joust_child_start(&o, &c, &err), JOUST_NOT_FOUND);
    assert_non_null(strstr(err.text, "/nowhere/log"));
    o = (joust_child_options){.command = "true", .log_path = log_path, .program = "/nowhere/joust"};
    assert_int_equal(joust_child_start(&o, &c, &err), JOUST_IO);
    assert_null(c);
}

static joust_status start_and_end(void *arg, joust_error *err)
{
    joust_child *c = NULL;
    joust_child_options o = {.command = "true", .log_path = log_path};
    (void)arg;
    joust_status st = joust_child_start(&o, &c, err);
    joust_child_free(&c, LONG_MS);
    return st;
}

static void test_oom(void **state)
{
    (void)state;
    check_oom(start_and_end, NULL);
}

static void check_fill(const char *command, const char *value, const char *expected)
{
    joust_error err;
    joust_buf text = {0};
    const joust_placeholder places[] = {{"model", value}, {"port", "80"}};
    check_ok(joust_command_fill(command, places, 2, &text, &err));
    assert_string_equal((const char *)text.data, expected);
    joust_buf_fini(&text);
}

static void test_placeholders(void **state)
{
    (void)state;
    check_fill("serve {model} -p{port} ${HOME} {other} {", "/a/b-1",
               "serve /a/b-1 -p80 ${HOME} {other} {");
    check_fill("x {model}", "it's $(here)", "x 'it'\\''s $(here)'");
    check_fill("x {model}", "", "x ''");
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_status_and_output),
                                       cmocka_unit_test(test_stop),
                                       cmocka_unit_test(test_left_behind),
                                       cmocka_unit_test(test_kill_of_parent),
                                       cmocka_unit_test(test_errors),
                                       cmocka_unit_test(test_oom),
                                       cmocka_unit_test(test_placeholders)};
    if (argc == 3 && strcmp(argv[1], "guard") == 0)
        return joust_guard_main(argv[2]);
    unlink(log_path);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
