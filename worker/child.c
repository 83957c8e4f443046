#include "worker/child.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "worker/guard.h"

#define LINE_BYTES 65536u

extern char **environ;

struct joust_child {
    pid_t pid;    /* of the guard; 0: over */
    int lifeline; /* -1: closed */
    int status;
    int log;         /* descriptor for reading, behind the lines taken so far */
    size_t n, taken; /* bytes of line; of them the line that was given out last */
    char line[LINE_BYTES + 1];
};

/* ---- starting ---- */

/* Whether entry sets one of the variables of list. */
static bool is_set_in(const char *entry, const char *const *list)
{
    const char *equals = strchr(entry, '=');
    size_t n = equals ? (size_t)(equals - entry) + 1 : strlen(entry);
    for (; list && *list; list++)
        if (strncmp(entry, *list, n) == 0)
            return true;
    return false;
}

/* This process's variables with those of list in their place. Owned block of views; NULL when out of memory. */
static const char **merge_environment(const char *const *list)
{
    size_t n = 1;
    for (char **at = environ; at && *at; at++)
        n++;
    for (const char *const *at = list; at && *at; at++)
        n++;
    const char **merged = joust_calloc(n, sizeof(*merged));
    size_t k = 0;
    for (const char *const *at = list; merged && at && *at; at++)
        merged[k++] = *at;
    for (char **at = environ; merged && at && *at; at++)
        if (!is_set_in(*at, list))
            merged[k++] = *at;
    return merged;
}

static int spawn_guard(const joust_child_options *o, int lifeline, int log, pid_t *ret)
{
    const char *argv[] = {"joust", "guard", o->command, NULL};
    const char **env = merge_environment(o->environment);
    posix_spawn_file_actions_t files;
    posix_spawnattr_t attributes;
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    if (!env)
        return ENOMEM;
    posix_spawn_file_actions_init(&files);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_addopen(&files, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&files, log, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&files, log, STDERR_FILENO);
    posix_spawn_file_actions_adddup2(&files, lifeline, JOUST_GUARD_LIFELINE);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    int why = posix_spawn(ret, o->program ? o->program : "/proc/self/exe", &files, &attributes,
                          (char *const *)(uintptr_t)argv, (char *const *)(uintptr_t)env);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&files);
    joust_free(env);
    return why;
}

/* A descriptor above those that the guard gets, so that none of them is overwritten on the way. */
static int lift(int fd)
{
    int high = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, JOUST_GUARD_LIFELINE + 1);
    if (fd >= 0)
        close(fd);
    return high;
}

static joust_status open_log(joust_child *c, const char *path, int *ret, joust_error *err)
{
    int to = lift(open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666));
    if (to >= 0)
        c->log = open(path, O_RDONLY | O_CLOEXEC);
    if (to < 0 || c->log < 0 || lseek(c->log, 0, SEEK_END) < 0) {
        int why = errno;
        if (to >= 0)
            close(to);
        return joust_fail(err, joust_status_of_errno(why), "%s: %s", path, strerror(why));
    }
    *ret = to;
    return JOUST_OK;
}

joust_status joust_child_start(const joust_child_options *options, joust_child **ret,
                               joust_error *err)
{
    int ends[2], log = -1;
    joust_child *c = joust_calloc(1, sizeof(*c));
    if (!c)
        return joust_fail(err, JOUST_NOMEM, "child: out of memory");
    c->lifeline = c->log = -1;
    joust_status st = open_log(c, options->log_path, &log, err);
    if (st != JOUST_OK) {
        joust_child_free(&c, 0);
        return st;
    }
    int why = pipe(ends) == 0 ? 0 : errno;
    if (!why) {
        c->lifeline = lift(ends[1]);
        ends[0] = lift(ends[0]);
        why = ends[0] < 0 ? errno : spawn_guard(options, ends[0], log, &c->pid);
        if (ends[0] >= 0)
            close(ends[0]);
    }
    close(log);
    if (why) {
        c->pid = 0;
        joust_child_free(&c, 0);
        return joust_fail(err, why == ENOMEM ? JOUST_NOMEM : JOUST_IO, "no new process: %s",
                          strerror(why));
    }
    *ret = c;
    return JOUST_OK;
}

/* ---- ending ---- */

bool joust_child_ended(joust_child *c, int *ret_status)
{
    int status;
    if (c->pid && waitpid(c->pid, &status, WNOHANG) == c->pid) {
        c->pid = 0;
        c->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
    if (ret_status && !c->pid)
        *ret_status = c->status;
    return !c->pid;
}

void joust_child_stop(joust_child *c)
{
    if (c->lifeline >= 0)
        close(c->lifeline);
    c->lifeline = -1;
}

void joust_child_free(joust_child **child, int64_t wait_ms)
{
    joust_child *c = *child;
    if (!c)
        return;
    int64_t end = joust_clock_ms() + wait_ms;
    joust_child_stop(c);
    while (!joust_child_ended(c, NULL) && joust_clock_ms() < end) {
        const struct timespec turn = {.tv_nsec = 10 * 1000000};
        nanosleep(&turn, NULL);
    }
    if (c->log >= 0)
        close(c->log);
    joust_free(c);
    *child = NULL;
}

/* ---- output ---- */

const char *joust_child_line(joust_child *c, bool last)
{
    c->n -= c->taken;
    memmove(c->line, c->line + c->taken, c->n);
    c->taken = 0;
    char *end = memchr(c->line, '\n', c->n);
    if (!end) {
        ssize_t more = read(c->log, c->line + c->n, LINE_BYTES - c->n);
        c->n += more > 0 ? (size_t)more : 0;
        end = memchr(c->line, '\n', c->n);
    }
    if (!end && c->n < LINE_BYTES && !(last && c->n))
        return NULL;
    c->taken = end ? (size_t)(end - c->line) + 1 : c->n;
    if (!end) { /* a piece: there is room for its end behind it */
        c->line[c->n] = '\0';
        return c->line;
    }
    *end = '\0';
    return c->line;
}

/* ---- commands ---- */

/* As it is where the shell makes nothing of it, so that it may stand within quotes too. */
static void add_quoted(joust_buf *to, const char *value)
{
    static const char plain[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./:=@%+-";
    if (*value && value[strspn(value, plain)] == '\0') {
        joust_buf_text(to, value);
        return;
    }
    joust_buf_text(to, "'");
    for (; *value; value++)
        if (*value == '\'')
            joust_buf_text(to, "'\\''");
        else
            joust_buf_add(to, value, 1);
    joust_buf_text(to, "'");
}

joust_status joust_command_fill(const char *command, const joust_placeholder *placeholders,
                                uint32_t n, joust_buf *to, joust_error *err)
{
    while (*command) {
        uint32_t i = 0;
        size_t length = 0;
        for (; *command == '{' && i < n; i++) {
            length = strlen(placeholders[i].name);
            if (strncmp(command + 1, placeholders[i].name, length) == 0 &&
                command[1 + length] == '}')
                break;
        }
        if (*command == '{' && i < n) {
            add_quoted(to, placeholders[i].value);
            command += length + 2;
        } else {
            joust_buf_add(to, command++, 1);
        }
    }
    return joust_buf_status(to, err);
}

/* ---- ports, GPUs ---- */

bool joust_port_find(uint16_t port, uint16_t *ret)
{
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    socklen_t n = sizeof(at);
    if (fd < 0)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    bool free = bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0 &&
                getsockname(fd, (struct sockaddr *)&at, &n) == 0;
    close(fd);
    if (free)
        *ret = ntohs(at.sin_port);
    return free;
}

joust_status joust_gpus_choose(uint32_t n, uint32_t first, char **ret, joust_error *err)
{
    const char *list = getenv("CUDA_VISIBLE_DEVICES"), *at = list;
    uint32_t found = 0;
    joust_buf text = {0};
    *ret = NULL;
    joust_buf_text(&text, "CUDA_VISIBLE_DEVICES=");
    for (uint32_t i = 0; i < first + n && found < n; i++) {
        size_t length = at ? strcspn(at, ",") : 0;
        if (list && length == 0)
            break;
        if (i >= first) {
            joust_buf_text(&text, found++ ? "," : "");
            if (list)
                joust_buf_add(&text, at, length);
            else
                joust_buf_format(&text, "%u", i);
        }
        if (at)
            at += length + (at[length] == ',');
    }
    char *chosen = n ? joust_buf_take_text(&text) : NULL;
    joust_buf_fini(&text);
    if (n && !chosen)
        return joust_fail(err, JOUST_NOMEM, "GPUs: out of memory");
    if (found < n) {
        joust_free(chosen);
        return joust_fail(err, JOUST_INVALID,
                          "%u GPUs from number %u on, but CUDA_VISIBLE_DEVICES is %.100s", n, first,
                          list);
    }
    *ret = chosen;
    return JOUST_OK;
}
