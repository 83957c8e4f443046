/* The launcher against roles that are a shell script: it ends with the job, starts again what dies, and leaves nobody
 * behind, however it ends. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ops/launch.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"

enum { DEADLINE_MS = 20000 };

static const char *role_program; /* set once by main */

typedef struct stage {
    char dir[64];
    pid_t launcher;
} stage;

static void in_dir(const stage *s, const char *name, char to[128])
{
    snprintf(to, 128, "%s/%s", s->dir, name);
}

static void touch(const stage *s, const char *name)
{
    char path[128];
    in_dir(s, name, path);
    int fd = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(fd >= 0);
    close(fd);
}

static void stage_open(stage *s)
{
    char path[128];
    snprintf(s->dir, sizeof(s->dir), "/tmp/joust-launch-XXXXXX");
    assert_non_null(mkdtemp(s->dir));
    in_dir(s, "finish", path);
    assert_int_equal(mkfifo(path, 0600), 0);
    touch(s, "started");
    setenv("FAKE_DIR", s->dir, 1);
    setenv("XDG_RUNTIME_DIR", s->dir, 1);
}

/* Starts a launcher with 2 workers and 1 judge as a process of its own; its output goes to DIR/output. */
static void launch(stage *s, const char *program)
{
    fflush(NULL);
    s->launcher = fork();
    assert_true(s->launcher >= 0);
    if (s->launcher)
        return;
    char store[128], output[128];
    in_dir(s, "store", store);
    in_dir(s, "output", output);
    if (!freopen(output, "a", stdout) || dup2(STDOUT_FILENO, STDERR_FILENO) < 0)
        _exit(99);
    const joust_jobfile jobfile = {.status_endpoint = NULL};
    const joust_launch_options options = {.job_path = "job.yaml",
                                          .jobfile = &jobfile,
                                          .store = store,
                                          .workers = 2,
                                          .judges = 1,
                                          .worker_threads = 1,
                                          .judge_threads = 1,
                                          .program = program};
    joust_error err;
    int status = 0;
    if (joust_launch(&options, &status, &err)) {
        printf("%s\n", err.text);
        status = err.status == JOUST_LOCKED ? 3 : 98;
    }
    fflush(stdout);
    _exit(status);
}

static void pause_briefly(void)
{
    const struct timespec moment = {.tv_nsec = 5000000};
    nanosleep(&moment, NULL);
}

/* The process ids of the starts of role so far, in order; at most 64. */
static uint32_t starts(const stage *s, const char *role, pid_t *pids)
{
    char path[128], name[32];
    in_dir(s, "started", path);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    uint32_t n = 0;
    long pid;
    while (fscanf(file, "%ld %31s", &pid, name) == 2)
        if (strcmp(name, role) == 0 && n < 64)
            pids[n++] = (pid_t)pid;
    fclose(file);
    return n;
}

/* Waits until role was started n times; gives the last one's process id. */
static pid_t await_starts(const stage *s, const char *role, uint32_t n)
{
    pid_t pids[64];
    int64_t deadline = joust_clock_ms() + DEADLINE_MS;
    while (starts(s, role, pids) < n) {
        assert_true(joust_clock_ms() < deadline);
        pause_briefly();
    }
    return pids[n - 1];
}

static void await_all(const stage *s)
{
    await_starts(s, "coordinator", 1);
    await_starts(s, "worker", 2);
    await_starts(s, "judge", 1);
}

static void finish(const stage *s, const char *status)
{
    char path[128];
    in_dir(s, "finish", path);
    FILE *file = fopen(path, "w"); /* waits for the coordinator to read */
    assert_non_null(file);
    fprintf(file, "%s\n", status);
    fclose(file);
}

static int await_launcher(stage *s)
{
    int status = 0;
    int64_t deadline = joust_clock_ms() + DEADLINE_MS;
    while (waitpid(s->launcher, &status, WNOHANG) == 0) {
        assert_true(joust_clock_ms() < deadline);
        pause_briefly();
    }
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Every process that was ever started is gone: orphans come to us, the subreaper. */
static void assert_nobody_left(const stage *s, int64_t within_ms)
{
    static const char *const roles[] = {"coordinator", "worker", "judge"};
    int64_t deadline = joust_clock_ms() + within_ms;
    for (int r = 0; r < 3; r++) {
        pid_t pids[64];
        uint32_t n = starts(s, roles[r], pids);
        for (uint32_t i = 0; i < n; i++) {
            while (kill(pids[i], 0) == 0) {
                waitpid(pids[i], NULL, WNOHANG);
                if (joust_clock_ms() >= deadline)
                    fail_msg("%s, process %ld, is still there", roles[r], (long)pids[i]);
                pause_briefly();
            }
            assert_int_equal(errno, ESRCH);
        }
    }
}

static void assert_output_has(const stage *s, const char *text)
{
    char path[128];
    joust_buf output = {0};
    joust_error err;
    in_dir(s, "output", path);
    assert_int_equal(joust_file_read(path, 1 << 20, &output, &err), JOUST_OK);
    if (!output.n || !strstr((const char *)output.data, text))
        fail_msg("no \"%s\" in: %s", text, output.n ? (const char *)output.data : "");
    joust_buf_fini(&output);
}

/* How often the output has the text. */
static uint32_t count_in_output(const stage *s, const char *text)
{
    char path[128];
    joust_buf output = {0};
    joust_error err;
    uint32_t n = 0;
    in_dir(s, "output", path);
    assert_int_equal(joust_file_read(path, 1 << 20, &output, &err), JOUST_OK);
    const char *at = output.n ? (const char *)output.data : "";
    for (; (at = strstr(at, text)); at += strlen(text))
        n++;
    joust_buf_fini(&output);
    return n;
}

static void let_coordinator_say(const stage *s, const char *text)
{
    char path[128];
    in_dir(s, "says", path);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void launch_to_end(stage *s, const char *status)
{
    pid_t before[64];
    uint32_t n = starts(s, "coordinator", before);
    launch(s, role_program);
    await_starts(s, "coordinator", n + 1);
    finish(s, status);
    assert_int_equal(await_launcher(s), atoi(status));
}

static void stage_close(stage *s)
{
    joust_error err;
    assert_nobody_left(s, 10000);
    assert_int_equal(joust_dir_remove(s->dir, &err), JOUST_OK);
}

/* ---- tests ---- */

static void it_ends_with_the_coordinators_status(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int status;
    } cases[] = {{"0", 0}, {"1", 1}, {"3", 3}};
    for (int i = 0; i < 3; i++) {
        stage s;
        stage_open(&s);
        launch(&s, role_program);
        await_all(&s);
        finish(&s, cases[i].text);
        assert_int_equal(await_launcher(&s), cases[i].status);
        assert_nobody_left(&s, 0); /* none outlives the launcher at all */
        stage_close(&s);
    }
}

static void what_is_killed_is_started_again(void **state)
{
    (void)state;
    stage s;
    stage_open(&s);
    launch(&s, role_program);
    await_all(&s);
    kill(await_starts(&s, "worker", 1), SIGKILL);
    await_starts(&s, "worker", 3);
    kill(await_starts(&s, "judge", 1), SIGSEGV);
    await_starts(&s, "judge", 2);
    kill(await_starts(&s, "coordinator", 1), SIGKILL);
    await_starts(&s, "coordinator", 2);
    finish(&s, "0");
    assert_int_equal(await_launcher(&s), 0);
    assert_output_has(&s, "was ended by signal 9 (Killed)");
    stage_close(&s);
}

static void an_interrupt_ends_all_within_two_seconds(void **state)
{
    (void)state;
    stage s;
    stage_open(&s);
    touch(&s, "stubborn"); /* workers and judge ignore SIGTERM, and one of them is stopped */
    launch(&s, role_program);
    await_all(&s);
    kill(await_starts(&s, "worker", 2), SIGSTOP);
    int64_t began = joust_clock_ms();
    kill(s.launcher, SIGINT);
    assert_int_equal(await_launcher(&s), 130);
    assert_true(joust_clock_ms() - began < 2000);
    assert_nobody_left(&s, 0);
    stage_close(&s);
}

static void when_it_is_killed_its_roles_leave(void **state)
{
    (void)state;
    stage s;
    stage_open(&s);
    touch(&s, "stubborn");
    launch(&s, role_program);
    await_all(&s);
    kill(s.launcher, SIGKILL);
    assert_int_equal(await_launcher(&s), -SIGKILL);
    assert_nobody_left(&s, 10000);
    /* The same command runs again: no lock and no socket is stuck. */
    launch(&s, role_program);
    await_starts(&s, "coordinator", 2);
    finish(&s, "0");
    assert_int_equal(await_launcher(&s), 0);
    stage_close(&s);
}

static void a_second_launch_of_a_store_is_refused(void **state)
{
    (void)state;
    stage s;
    stage_open(&s);
    launch(&s, role_program);
    await_all(&s);
    stage second = s;
    launch(&second, role_program);
    assert_int_equal(await_launcher(&second), 3);
    assert_output_has(&s, "another launch runs this store");
    finish(&s, "0");
    assert_int_equal(await_launcher(&s), 0);
    stage_close(&s);
}

static void roles_that_cannot_live_end_the_launch(void **state)
{
    (void)state;
    stage s;
    stage_open(&s);
    touch(&s, "fail");
    launch(&s, role_program);
    assert_int_equal(await_launcher(&s), 1);
    assert_output_has(&s, "ended with status 7, 5 times in a row: not started again");
    assert_output_has(&s, "this role can't live");
    stage_close(&s);

    stage_open(&s); /* its only judge: nothing could ever be judged */
    touch(&s, "fail-judge");
    launch(&s, role_program);
    assert_int_equal(await_launcher(&s), 1);
    assert_output_has(&s, "the job can't go on without it");
    stage_close(&s);

    stage_open(&s); /* refused at its start: another start wouldn't change it */
    touch(&s, "refuse-judge");
    launch(&s, role_program);
    assert_int_equal(await_launcher(&s), 2);
    assert_output_has(&s, "judge-0 ended with status 2: not started again");
    assert_output_has(&s, "this role is of another class");
    assert_output_has(&s, "mend what it says first");
    assert_int_equal(count_in_output(&s, "the same command goes on"), 0);
    assert_int_equal(count_in_output(&s, "it is started again"), 0);
    stage_close(&s);

    stage_open(&s);
    launch(&s, "/nonexistent/joust");
    assert_int_equal(await_launcher(&s), 1);
    assert_output_has(&s, "this program can't be executed");
    stage_close(&s);
}

static void warnings_are_shown_once_and_counted(void **state)
{
    (void)state;
    stage s;
    stage_open(&s);
    let_coordinator_say(&s,
                        "2026-01-02T03:04:05.678Z warn  coordinator stage round 1 gave nothing\n"
                        "2026-01-02T03:04:05.678Z info  coordinator stage all is well\n"
                        "2026-01-02T03:04:05.678Z warn  coordinator core round 2 gave nothing\n");
    launch_to_end(&s, "0");
    assert_int_equal(count_in_output(&s, "warning: round 1 gave nothing\n"), 1);
    assert_int_equal(count_in_output(&s, "warning: round 2 gave nothing\n"), 1);
    assert_int_equal(count_in_output(&s, "all is well"), 0);
    assert_output_has(&s, "2 warnings, in ");
    let_coordinator_say(&s, "");
    launch_to_end(&s, "0"); /* what an earlier launch said is not said again */
    assert_int_equal(count_in_output(&s, "warning: "), 2);
    stage_close(&s);
}

static void a_refusal_stands_alone(void **state)
{
    (void)state;
    stage s;
    stage_open(&s);
    let_coordinator_say(&s, "an earlier run\n");
    launch_to_end(&s, "0");
    let_coordinator_say(&s, "this store belongs to another job\n");
    launch_to_end(&s, "2");
    assert_output_has(&s, "this store belongs to another job\n");
    assert_int_equal(count_in_output(&s, "an earlier run"), 0);
    assert_int_equal(count_in_output(&s, "the end of"), 0);
    launch_to_end(&s,
                  "1"); /* a failed job's log is named, and the refusal before it is not repeated */
    assert_int_equal(count_in_output(&s, "this store belongs"), 2);
    assert_int_equal(count_in_output(&s, "the end of"), 1);
    stage_close(&s);
}

static void a_dry_run_prints_every_command(void **state)
{
    (void)state;
    setenv("XDG_RUNTIME_DIR", "/tmp", 1);
    const joust_text_list sets = {.items = {"rounds=2"}, .n = 1};
    const joust_jobfile jobfile = {.status_endpoint = NULL};
    const joust_launch_options options = {.job_path = "job.yaml",
                                          .jobfile = &jobfile,
                                          .sets = &sets,
                                          .store = "/nonexistent/store",
                                          .workers = 2,
                                          .judges = 1,
                                          .worker_threads = 3,
                                          .judge_threads = 4,
                                          .program = role_program};
    joust_buf commands = {0};
    joust_error err;
    assert_int_equal(joust_launch_print(&options, &commands, &err), JOUST_OK);
    const char *text = (const char *)commands.data;
    assert_non_null(
        strstr(text, "joust coordinator job.yaml --store /nonexistent/store --listen "));
    assert_non_null(strstr(text, " --set rounds=2\n"));
    assert_non_null(strstr(text, "/work --name worker-1 --threads 3 --cache /nonexistent/store"));
    assert_non_null(strstr(text, "/work --name judge-0 --threads 4 --cache /nonexistent/store"));
    assert_non_null(strstr(text, " --device cpu --precision f32 --set rounds=2\n"));
    assert_null(strstr(strchr(text, '\n'), "--device"));
    joust_buf_fini(&commands);
    joust_launch_options on_gpus = options;
    on_gpus.device = "cuda:each";
    on_gpus.precision = "f32";
    commands = (joust_buf){0};
    assert_int_equal(joust_launch_print(&on_gpus, &commands, &err), JOUST_OK);
    text = (const char *)commands.data;
    assert_non_null(strstr(text, " --device cuda --precision f32 --set rounds=2\n"));
    assert_non_null(strstr(text, "worker-1 --threads 3 --device cuda:1 --precision f32 "));
    assert_non_null(strstr(text, "judge-0 --threads 4 --device cuda:0 --precision f32 "));
    assert_false(joust_dir_exists("/nonexistent"));
    joust_buf_fini(&commands);
}

int main(int argc, char **argv)
{
    if (argc < 2 || prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
        return 1;
    role_program = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_ends_with_the_coordinators_status),
        cmocka_unit_test(what_is_killed_is_started_again),
        cmocka_unit_test(an_interrupt_ends_all_within_two_seconds),
        cmocka_unit_test(when_it_is_killed_its_roles_leave),
        cmocka_unit_test(a_second_launch_of_a_store_is_refused),
        cmocka_unit_test(roles_that_cannot_live_end_the_launch),
        cmocka_unit_test(warnings_are_shown_once_and_counted),
        cmocka_unit_test(a_refusal_stands_alone),
        cmocka_unit_test(a_dry_run_prints_every_command),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
