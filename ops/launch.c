#include "ops/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launch_internal.h"
#include "ops/progress.h"
#include "ops/status_client.h"
#include "ops/supervisor.h"
#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "proto/base/log.h"

enum {
    TICK_MS = 500,
    PLAIN_EVERY_MS = 30000, /* a line for the log of an unattended launch, at least so often */
    LEAVE_BY_THEMSELVES_MS = 400, /* after the coordinator's GOODBYE */
    LEAVE_ON_SIGTERM_MS = 1500,
    MAX_SHOWN_WARNINGS = 100,
    GIVE_UP_AFTER = 5 /* failures of a role in a row, each within JOUST_STEADY_MS */
};

typedef struct launcher {
    const joust_launch_options *options;
    joust_launch_places places;
    bool private_made;
    int lock_fd;
    joust_loop *loop;
    joust_context *context;
    joust_socket *socket; /* to the coordinator's status */
    joust_supervisor *supervisor;
    joust_progress_view view;
    bool terminal, line_shown;
    int64_t last_line_ms;
    long warned_to; /* how far the coordinator's log has been read for warnings */
    uint32_t n_warnings;
    uint32_t workers_left, judges_left; /* not given up */
    int exit_status;                    /* -1: the job goes on */
} launcher;

/* ---- what is shown ---- */

static uint32_t terminal_width(void)
{
    struct winsize size;
    if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1)
        return size.ws_col - 1u;
    return 79;
}

static void clear_line(launcher *l)
{
    if (l->line_shown)
        fputs("\r\033[K", stdout);
    l->line_shown = false;
}

/* A sentence about the launch itself, between the progress lines. */
static void say(launcher *l, const char *format, ...) JOUST_PRINTF(2, 3);
static void say(launcher *l, const char *format, ...)
{
    clear_line(l);
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

static void show_progress(launcher *l)
{
    int64_t now_ms = joust_clock_ms();
    if (!l->terminal && now_ms - l->last_line_ms < PLAIN_EVERY_MS)
        return;
    joust_buf line = {0};
    joust_progress_line(&l->view, now_ms, l->terminal ? terminal_width() : 400, &line);
    if (joust_buf_ok(&line) && line.n) {
        clear_line(l);
        printf("%s%s", (const char *)line.data, l->terminal ? "" : "\n");
        fflush(stdout);
        l->line_shown = l->terminal;
        l->last_line_ms = now_ms;
    }
    joust_buf_fini(&line);
}

static void show_lines(launcher *l, const joust_buf *lines)
{
    if (!lines->n)
        return;
    clear_line(l);
    fputs((const char *)lines->data, stdout);
    fflush(stdout);
    l->last_line_ms = joust_clock_ms();
}

/* The job is done, and so is what the last snapshot saw under way. */
static void show_rest(launcher *l)
{
    joust_buf lines = {0};
    joust_progress_round_over(&l->view, joust_clock_ms(), &lines);
    show_lines(l, &lines);
    joust_buf_fini(&lines);
}

/* The last lines that a role's last run has left in its log, for who has to find out why it won't live. */
static void show_log(launcher *l, const joust_child_exit *exit)
{
    uint64_t since = exit->log_from;
    char path[PATH_MAX], tail[4096];
    struct stat info;
    snprintf(path, sizeof(path), "%s/%s.log", l->places.logs, exit->name);
    FILE *file = fopen(path, "rb");
    if (!file)
        return;
    uint64_t size =
        fstat(fileno(file), &info) == 0 && info.st_size > 0 ? (uint64_t)info.st_size : 0;
    size_t most = exit->status == JOUST_EXIT_USAGE ? sizeof(tail) : 1024;
    bool cut = size > since && size - since > most;
    size_t n = 0, from = 0;
    if (fseek(file, (long)(cut ? size - most : since), SEEK_SET) == 0)
        n = fread(tail, 1, sizeof(tail), file);
    fclose(file);
    const char *whole = cut ? memchr(tail, '\n', n) : NULL; /* what stands before is half a line */
    if (whole && whole + 1 < tail + n)
        from = (size_t)(whole + 1 - tail);
    clear_line(l);
    if (exit->status != JOUST_EXIT_USAGE) /* what it refused at its start stands for itself */
        printf("the end of %s:\n", path);
    printf("%.*s%s", (int)(n - from), tail + from, n && tail[n - 1] == '\n' ? "" : "\n");
}

/* What a log line warns of; NULL if it is no warning. */
static const char *warning_of(const char *line)
{
    const char *level = strchr(line, ' ');
    const char *role = level && strncmp(level, " warn ", 6) == 0 ? strchr(level + 7, ' ') : NULL;
    const char *module = role ? strchr(role + 1, ' ') : NULL;
    return module ? module + 1 : NULL;
}

static void show_warning(launcher *l, const char *line)
{
    const char *text = warning_of(line);
    if (!text)
        return;
    if (l->n_warnings++ >= MAX_SHOWN_WARNINGS)
        return;
    clear_line(l);
    fflush(stdout);
    fprintf(stderr, "warning: %s\n", text);
}

/* Shows the warnings that the coordinator has written since the last call. */
static void show_warnings(launcher *l)
{
    char path[PATH_MAX], line[2304];
    snprintf(path, sizeof(path), "%s/coordinator.log", l->places.logs);
    FILE *file = fopen(path, "rb");
    if (!file)
        return;
    if (fseek(file, l->warned_to, SEEK_SET) == 0) {
        while (fgets(line, sizeof(line), file)) {
            size_t n = strlen(line);
            bool whole = n && line[n - 1] == '\n';
            if (!whole && n + 1 < sizeof(line))
                break; /* it is being written */
            line[n - whole] = '\0';
            show_warning(l, line);
            l->warned_to += (long)n;
        }
    }
    fclose(file);
}

static void count_warnings(launcher *l)
{
    if (!l->n_warnings)
        return;
    fflush(stdout);
    fprintf(stderr, "%u warning%s%s, in %s/coordinator.log\n", l->n_warnings,
            l->n_warnings == 1 ? "" : "s",
            l->n_warnings > MAX_SHOWN_WARNINGS ? ", the first of them above" : "", l->places.logs);
}

/* ---- what happens ---- */

static void kill_all(void *arg)
{
    launcher *l = arg;
    joust_supervisor_signal(l->supervisor, SIGKILL);
}

static void ask_to_leave(void *arg)
{
    launcher *l = arg;
    joust_error err;
    joust_supervisor_signal(l->supervisor, SIGTERM);
    if (joust_loop_add_timer(l->loop, LEAVE_ON_SIGTERM_MS, kill_all, l, NULL, &err))
        kill_all(l);
}

/* The launch ends with status once all children left; delay_ms: how long they may leave by themselves. */
static void end(launcher *l, int status, int64_t delay_ms)
{
    if (l->exit_status >= 0)
        return;
    l->exit_status = status;
    joust_supervisor_stop(l->supervisor);
    joust_error err;
    if (!delay_ms || joust_loop_add_timer(l->loop, delay_ms, ask_to_leave, l, NULL, &err))
        ask_to_leave(l);
}

static void leave_if_alone(launcher *l)
{
    if (l->exit_status >= 0 && !joust_supervisor_alive(l->supervisor))
        joust_loop_stop(l->loop);
}

static bool is_final(int status)
{
    return status == JOUST_EXIT_OK || status == JOUST_EXIT_FAILED || status == JOUST_EXIT_USAGE ||
           status == JOUST_EXIT_UNREACHABLE;
}

static void describe_exit(const joust_child_exit *exit, char *to, size_t n)
{
    if (exit->signal)
        snprintf(to, n, "%s was ended by signal %d (%s)", exit->name, exit->signal,
                 strsignal(exit->signal));
    else
        snprintf(to, n, "%s ended with status %d", exit->name, exit->status);
}

/* Whether a role was refused at its start, which another start wouldn't change. */
static bool is_refused(const joust_child_exit *exit)
{
    return !exit->signal && exit->status == JOUST_EXIT_USAGE && exit->up_ms < JOUST_STEADY_MS;
}

/* A role that is refused, or fails again and again, is left alone; without the coordinator, any worker, or any judge
 * where there were some, the job can't go on, and the launch ends. */
static bool give_up(launcher *l, const joust_child_exit *exit, const char *how)
{
    const bool refused = is_refused(exit);
    if (refused)
        say(l, "%s: not started again", how);
    else
        say(l, "%s, %u times in a row: not started again", how, exit->n_failures);
    show_log(l, exit);
    bool worker = strncmp(exit->name, "worker-", 7) == 0;
    bool judge = strncmp(exit->name, "judge-", 6) == 0;
    l->workers_left -= worker;
    l->judges_left -= judge;
    if (!strcmp(exit->name, "coordinator") || (worker && !l->workers_left) ||
        (judge && !l->judges_left)) {
        say(l, refused ? "the job can't go on without it: mend what it says first"
                       : "the job can't go on without it; the same command goes on from here");
        end(l, refused ? JOUST_EXIT_USAGE : JOUST_EXIT_FAILED, 0);
    }
    return false;
}

static bool child_ended(void *arg, const joust_child_exit *exit)
{
    launcher *l = arg;
    char how[160];
    describe_exit(exit, how, sizeof(how));
    if (l->exit_status >= 0)
        return false;
    if (!strcmp(exit->name, "coordinator") && !exit->signal && is_final(exit->status)) {
        show_warnings(l);
        if (exit->status != JOUST_EXIT_OK)
            show_log(l, exit);
        else
            show_rest(l);
        end(l, exit->status, LEAVE_BY_THEMSELVES_MS);
        return false;
    }
    if (exit->n_failures >= GIVE_UP_AFTER || is_refused(exit))
        return give_up(l, exit, how);
    /* A peer that ends with 0 was told that the job is over: the coordinator is about to end. */
    if (exit->signal || exit->status != JOUST_EXIT_OK)
        say(l, "%s after %.1f s; it is started again", how, (double)exit->up_ms / 1000);
    return true;
}

static void signal_came(void *arg, int number)
{
    launcher *l = arg;
    if (number == SIGCHLD) {
        joust_supervisor_reap(l->supervisor);
    } else if (l->exit_status >= 0) {
        kill_all(l); /* asked twice */
    } else {
        say(l, "interrupted: ending the roles");
        end(l, JOUST_EXIT_INTERRUPTED, 0);
    }
    leave_if_alone(l);
}

/* Takes the answer to the last question, asks the next, shows what is known. */
static void tick(void *arg)
{
    launcher *l = arg;
    joust_buf json = {0}, lines = {0};
    joust_error err;
    if (!joust_status_take(l->socket, &json, &err) &&
        joust_progress_take(&l->view, json.data, json.n, joust_clock_ms(), &lines, &err))
        joust_log_debug("launch", "%s", err.text);
    joust_status st = joust_status_ask(l->socket, &err);
    if (st && st != JOUST_AGAIN)
        joust_log_warn("launch", "%s", err.text);
    show_lines(l, &lines);
    show_warnings(l);
    if (l->exit_status < 0)
        show_progress(l);
    joust_buf_fini(&json);
    joust_buf_fini(&lines);
    joust_supervisor_reap(l->supervisor);
    leave_if_alone(l);
    if (joust_loop_add_timer(l->loop, TICK_MS, tick, l, NULL, &err))
        end(l, JOUST_EXIT_FAILED, 0);
}

/* ---- beginning and end ---- */

static joust_status lock_store(launcher *l, joust_error *err)
{
    const char *store = l->options->store;
    joust_status st = joust_dir_make(store, err);
    if (st)
        return st;
    char *lock = joust_path_join(store, "launch.lock");
    if (!lock)
        st = joust_fail(err, JOUST_NOMEM, "launch: out of memory");
    if (!st) {
        l->lock_fd = open(lock, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (l->lock_fd < 0)
            st = joust_fail(err, joust_status_of_errno(errno), "%s: %s", lock, strerror(errno));
        else if (flock(l->lock_fd, LOCK_EX | LOCK_NB) != 0)
            st =
                joust_fail(err, JOUST_LOCKED,
                           "%s: another launch runs this store; `joust status --store %s` shows it",
                           store, store);
    }
    joust_free(lock);
    return st;
}

static joust_status make_private_dir(launcher *l, joust_error *err)
{
    const char *dir = l->places.private_dir;
    if (mkdir(dir, 0700) != 0 && errno != EEXIST)
        return joust_fail(err, joust_status_of_errno(errno), "%s: %s", dir, strerror(errno));
    struct stat info;
    if (lstat(dir, &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != geteuid() ||
        (info.st_mode & 077))
        return joust_fail(err, JOUST_DENIED,
                          "%s: not a private folder (mode 0700, ours); remove it and try again",
                          dir);
    l->private_made = true;
    return JOUST_OK;
}

static joust_status start_command(void *arg, const joust_launch_command *c, joust_error *err)
{
    launcher *l = arg;
    char log_path[PATH_MAX];
    snprintf(log_path, sizeof(log_path), "%s/%s.log", l->places.logs, c->name);
    return joust_supervisor_start(l->supervisor, c->name, l->options->program, c->argv, log_path,
                                  err);
}

/* What earlier launches have left in the log. */
static long log_length(const launcher *l, const char *name)
{
    char path[PATH_MAX];
    struct stat info;
    snprintf(path, sizeof(path), "%s/%s.log", l->places.logs, name);
    return stat(path, &info) == 0 ? (long)info.st_size : 0;
}

static joust_status start(launcher *l, joust_error *err)
{
    joust_status st = lock_store(l, err);
    if (!st)
        st = joust_launch_places_choose(l->options, &l->places, err);
    if (!st)
        st = joust_dir_make(l->places.logs, err);
    if (!st)
        l->warned_to = log_length(l, "coordinator");
    if (!st)
        st = make_private_dir(l, err);
    if (!st)
        st = joust_loop_create(&l->loop, err);
    if (!st)
        st = joust_loop_add_signals(l->loop, signal_came, l, err);
    if (!st)
        st = joust_supervisor_create(l->loop, child_ended, l, &l->supervisor, err);
    if (!st)
        st = joust_launch_each_command(l->options, &l->places, start_command, l, err);
    if (!st)
        st = joust_context_create(&l->context, err);
    if (!st)
        st = joust_status_open(l->context, l->places.status, &l->socket, err);
    if (!st)
        st = joust_loop_add_timer(l->loop, 0, tick, l, NULL, err);
    return st;
}

static void finish(launcher *l)
{
    if (l->places.logs)
        show_warnings(l);
    clear_line(l);
    fflush(stdout);
    count_warnings(l);
    joust_supervisor_free(&l->supervisor);
    joust_socket_close(&l->socket);
    joust_context_free(&l->context);
    joust_loop_free(&l->loop);
    if (l->private_made) {
        joust_error err;
        if (joust_dir_remove(l->places.private_dir, &err))
            joust_log_warn("launch", "%s", err.text);
    }
    if (l->lock_fd >= 0)
        close(l->lock_fd);
    joust_launch_places_fini(&l->places);
}

joust_status joust_launch(const joust_launch_options *options, int *ret_exit, joust_error *err)
{
    launcher l = {.options = options,
                  .lock_fd = -1,
                  .exit_status = -1,
                  .workers_left = options->workers,
                  .judges_left = options->judges,
                  .terminal = isatty(STDOUT_FILENO),
                  .last_line_ms = joust_clock_ms()};
    joust_status st = start(&l, err);
    if (!st)
        st = joust_loop_run(l.loop, err);
    if (!st)
        *ret_exit = l.exit_status;
    finish(&l);
    return st;
}
