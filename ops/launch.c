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

#include "ops/progress.h"
#include "ops/status_client.h"
#include "ops/supervisor.h"
#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/digest.h"
#include "proto/base/file.h"
#include "proto/base/log.h"

enum {
    MAX_ARGUMENTS = 16 + 2 * 64, /* a role's own and every --set */
    TICK_MS = 500,
    PLAIN_EVERY_MS = 30000, /* a line for the log of an unattended launch, at least so often */
    LEAVE_BY_THEMSELVES_MS = 400, /* after the coordinator's GOODBYE */
    LEAVE_ON_SIGTERM_MS = 1500,
    MAX_SHOWN_WARNINGS = 100,
    GIVE_UP_AFTER = 5 /* failures of a role in a row, each within JOUST_STEADY_MS */
};

/* The arguments of one role's process. */
typedef struct command {
    char name[32];
    char texts[8][64]; /* numbers and names made for it */
    uint32_t n_texts, n;
    const char *argv[MAX_ARGUMENTS + 1];
} command;

typedef struct launcher {
    const joust_launch_options *options;
    char private_dir[80];
    bool private_made;
    char work[128], status[JOUST_MAX_ENDPOINT_BYTES]; /* endpoints */
    char *logs, *cache;
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

/* ---- what is started ---- */

static void argue(command *c, const char *argument)
{
    if (c->n < MAX_ARGUMENTS)
        c->argv[c->n++] = argument;
    c->argv[c->n] = NULL;
}

static void argue_number(command *c, const char *option, uint32_t number)
{
    char *text = c->texts[c->n_texts++];
    snprintf(text, sizeof(c->texts[0]), "%u", number);
    argue(c, option);
    argue(c, text);
}

static void coordinator_command(const launcher *l, command *c)
{
    *c = (command){.name = "coordinator"};
    argue(c, "joust");
    argue(c, "coordinator");
    argue(c, l->options->job_path);
    argue(c, "--store");
    argue(c, l->options->store);
    argue(c, "--listen");
    argue(c, l->work);
    argue(c, "--status");
    argue(c, l->status);
    for (uint32_t i = 0; l->options->sets && i < l->options->sets->n; i++) {
        argue(c, "--set");
        argue(c, l->options->sets->items[i]);
    }
}

static void argue_gpu(command *c, uint32_t number)
{
    char *text = c->texts[c->n_texts++];
    snprintf(text, sizeof(c->texts[0]), "cuda:%u", number);
    argue(c, text);
}

static void peer_command(const launcher *l, const char *role, uint32_t number, uint32_t threads,
                         command *c)
{
    *c = (command){.n_texts = 0};
    snprintf(c->name, sizeof(c->name), "%s-%u", role, number);
    argue(c, "joust");
    argue(c, role);
    argue(c, "--connect");
    argue(c, l->work);
    argue(c, "--name");
    argue(c, c->name);
    argue_number(c, "--threads", threads);
    if (l->options->kv_memory_mb)
        argue_number(c, "--kv-memory", l->options->kv_memory_mb);
    if (l->options->memory_mb && strcmp(role, "worker") == 0)
        argue_number(c, "--memory", l->options->memory_mb);
    if (l->options->device) {
        argue(c, "--device");
        if (strcmp(l->options->device, "cuda:each") == 0)
            argue_gpu(c, number);
        else
            argue(c, l->options->device);
    }
    if (l->options->precision) {
        argue(c, "--precision");
        argue(c, l->options->precision);
    }
    argue(c, "--cache");
    argue(c, l->cache);
    if (strcmp(role, "worker") == 0) {
        argue(c, "--logs");
        argue(c, l->logs);
    }
}

typedef joust_status command_fn(void *arg, const command *c, joust_error *err);

/* Calls fn for the coordinator, each worker and each judge. */
static joust_status each_command(const launcher *l, command_fn *fn, void *arg, joust_error *err)
{
    command c;
    coordinator_command(l, &c);
    joust_status st = fn(arg, &c, err);
    for (uint32_t i = 0; !st && i < l->options->workers; i++) {
        peer_command(l, "worker", i, l->options->worker_threads, &c);
        st = fn(arg, &c, err);
    }
    for (uint32_t i = 0; !st && i < l->options->judges; i++) {
        peer_command(l, "judge", i, l->options->judge_threads, &c);
        st = fn(arg, &c, err);
    }
    return st;
}

/* Where logs, copies of weights and sockets lie. The sockets' folder is short, since the path of an ipc socket has about 100 bytes, and the same for the same store,
 * so that nothing is left behind by launches that were killed. */
/* BASE/joust-UID-STORE; another number behind it where somebody else has taken the name. */
static void choose_private_dir(launcher *l, const char *base, const char *store)
{
    struct stat info;
    unsigned taken = 0;
    do {
        int n = snprintf(l->private_dir, sizeof(l->private_dir), "%s/joust-%u-%.12s", base,
                         (unsigned)geteuid(), store);
        if (taken)
            snprintf(l->private_dir + n, sizeof(l->private_dir) - (size_t)n, "-%u", taken);
    } while (lstat(l->private_dir, &info) == 0 && info.st_uid != geteuid() && ++taken < 100);
}

static joust_status choose_places(launcher *l, joust_error *err)
{
    l->logs = joust_path_join(l->options->store, "logs");
    l->cache = joust_path_join(l->options->store, "cache");
    if (!l->logs || !l->cache)
        return joust_fail(err, JOUST_NOMEM, "launch: out of memory");
    char absolute[PATH_MAX];
    if (!realpath(l->options->store, absolute))
        snprintf(absolute, sizeof(absolute), "%s", l->options->store);
    joust_digest digest = joust_digest_of(absolute, strlen(absolute));
    char hex[JOUST_DIGEST_HEX];
    joust_digest_hex(&digest, hex);
    const char *base = getenv("XDG_RUNTIME_DIR");
    if (!base || strlen(base) > 40 || access(base, W_OK) != 0)
        base = "/tmp";
    choose_private_dir(l, base, hex);
    snprintf(l->work, sizeof(l->work), "ipc://%s/work", l->private_dir);
    const char *given = l->options->jobfile->status_endpoint;
    int n = given ? snprintf(l->status, sizeof(l->status), "%s", given)
                  : snprintf(l->status, sizeof(l->status), "ipc://%s/status", l->private_dir);
    if (n < 0 || (size_t)n >= sizeof(l->status))
        return joust_fail(err, JOUST_INVALID, "status.endpoint: longer than %u bytes",
                          JOUST_MAX_ENDPOINT_BYTES - 1);
    return JOUST_OK;
}

static joust_status print_command(void *arg, const command *c, joust_error *err)
{
    joust_buf *to = arg;
    for (uint32_t i = 0; i < c->n; i++)
        joust_buf_format(to, "%s%s", i ? " " : "", c->argv[i]);
    joust_buf_text(to, "\n");
    return joust_buf_status(to, err);
}

joust_status joust_launch_print(const joust_launch_options *options, joust_buf *to,
                                joust_error *err)
{
    launcher l = {.options = options};
    joust_status st = choose_places(&l, err);
    if (!st)
        st = each_command(&l, print_command, to, err);
    joust_free(l.logs);
    joust_free(l.cache);
    return st;
}

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
    snprintf(path, sizeof(path), "%s/%s.log", l->logs, exit->name);
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
    snprintf(path, sizeof(path), "%s/coordinator.log", l->logs);
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
            l->n_warnings > MAX_SHOWN_WARNINGS ? ", the first of them above" : "", l->logs);
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

/* A role that fails again and again is left alone; without the coordinator, any worker, or any judge where there were
 * some, the job can't go on, and the launch ends. */
static bool give_up(launcher *l, const joust_child_exit *exit, const char *how)
{
    say(l, "%s, %u times in a row: not started again", how, exit->n_failures);
    show_log(l, exit);
    bool worker = strncmp(exit->name, "worker-", 7) == 0;
    bool judge = strncmp(exit->name, "judge-", 6) == 0;
    l->workers_left -= worker;
    l->judges_left -= judge;
    if (!strcmp(exit->name, "coordinator") || (worker && !l->workers_left) ||
        (judge && !l->judges_left)) {
        say(l, "the job can't go on without it; the same command goes on from here");
        end(l, JOUST_EXIT_FAILED, 0);
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
    if (exit->n_failures >= GIVE_UP_AFTER)
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
    const char *dir = l->private_dir;
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

static joust_status start_command(void *arg, const command *c, joust_error *err)
{
    launcher *l = arg;
    char log_path[PATH_MAX];
    snprintf(log_path, sizeof(log_path), "%s/%s.log", l->logs, c->name);
    return joust_supervisor_start(l->supervisor, c->name, l->options->program, c->argv, log_path,
                                  err);
}

/* What earlier launches have left in the log. */
static long log_length(const launcher *l, const char *name)
{
    char path[PATH_MAX];
    struct stat info;
    snprintf(path, sizeof(path), "%s/%s.log", l->logs, name);
    return stat(path, &info) == 0 ? (long)info.st_size : 0;
}

static joust_status start(launcher *l, joust_error *err)
{
    joust_status st = lock_store(l, err);
    if (!st)
        st = choose_places(l, err);
    if (!st)
        st = joust_dir_make(l->logs, err);
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
        st = each_command(l, start_command, l, err);
    if (!st)
        st = joust_context_create(&l->context, err);
    if (!st)
        st = joust_status_open(l->context, l->status, &l->socket, err);
    if (!st)
        st = joust_loop_add_timer(l->loop, 0, tick, l, NULL, err);
    return st;
}

static void finish(launcher *l)
{
    if (l->logs)
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
        if (joust_dir_remove(l->private_dir, &err))
            joust_log_warn("launch", "%s", err.text);
    }
    if (l->lock_fd >= 0)
        close(l->lock_fd);
    joust_free(l->logs);
    joust_free(l->cache);
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
