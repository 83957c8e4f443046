#include "ops/supervisor.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "proto/base/log.h"

typedef struct child {
    joust_supervisor *owner;
    char *name, *program, *log_path;
    char **argv;
    pid_t pid; /* 0: not running */
    int64_t started_ms;
    int64_t backoff_ms;
    uint64_t log_from;
    uint32_t n_failures;
    uint64_t timer; /* of the next start, or 0 */
} child;

struct joust_supervisor {
    joust_loop *loop;
    joust_child_exit_fn *on_exit;
    void *arg;
    bool stopping;
    uint32_t n;
    size_t capacity;
    child **children;
};

joust_status joust_supervisor_create(joust_loop *loop, joust_child_exit_fn *on_exit, void *arg,
                                     joust_supervisor **ret, joust_error *err)
{
    joust_supervisor *s = joust_calloc(1, sizeof(*s));
    if (!s)
        return joust_fail(err, JOUST_NOMEM, "supervisor: out of memory");
    s->loop = loop;
    s->on_exit = on_exit;
    s->arg = arg;
    *ret = s;
    return JOUST_OK;
}

static void child_free(child *c)
{
    if (!c)
        return;
    for (size_t i = 0; c->argv && c->argv[i]; i++)
        joust_free(c->argv[i]);
    joust_free(c->argv);
    joust_free(c->name);
    joust_free(c->program);
    joust_free(c->log_path);
    joust_free(c);
}

static child *child_create(joust_supervisor *owner, const char *name, const char *program,
                           const char *const *argv, const char *log_path)
{
    size_t n = 0;
    while (argv[n])
        n++;
    child *c = joust_calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->owner = owner;
    c->backoff_ms = JOUST_BACKOFF_FIRST_MS;
    c->name = joust_strdup(name);
    c->program = joust_strdup(program);
    c->log_path = joust_strdup(log_path);
    c->argv = joust_calloc(n + 1, sizeof(c->argv[0]));
    bool complete = c->name && c->program && c->log_path && c->argv;
    for (size_t i = 0; complete && i < n; i++)
        complete = (c->argv[i] = joust_strdup(argv[i])) != NULL;
    if (!complete) {
        child_free(c);
        return NULL;
    }
    return c;
}

/* In the child, after fork: only calls that are safe there. Doesn't return. */
static void become(const child *c, pid_t parent, int log_fd)
{
    static const char message[] = "this program can't be executed\n";
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
        _exit(126); /* the parent is gone already */
    setpgid(0, 0);
    joust_loop_signals_unblock();
    int null = open("/dev/null", O_RDONLY);
    if (null >= 0)
        dup2(null, STDIN_FILENO);
    dup2(log_fd, STDOUT_FILENO);
    dup2(log_fd, STDERR_FILENO);
    execv(c->program, c->argv);
    if (write(STDERR_FILENO, message, sizeof(message) - 1) < 0)
        _exit(126);
    _exit(127);
}

static joust_status spawn(child *c, joust_error *err)
{
    int log_fd = open(c->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (log_fd < 0)
        return joust_fail(err, joust_status_of_errno(errno), "%s: %s", c->log_path,
                          strerror(errno));
    struct stat log;
    c->log_from = fstat(log_fd, &log) == 0 && log.st_size > 0 ? (uint64_t)log.st_size : 0;
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0)
        become(c, parent, log_fd);
    int why = errno;
    close(log_fd);
    if (pid < 0)
        return joust_fail(err, JOUST_IO, "%s: no new process: %s", c->name, strerror(why));
    c->pid = pid;
    c->started_ms = joust_clock_ms();
    return JOUST_OK;
}

static void restart(void *arg);

static void restart_later(child *c)
{
    joust_error err;
    if (joust_loop_add_timer(c->owner->loop, c->backoff_ms, restart, c, &c->timer, &err))
        joust_log_error("launch", "%s won't be started again: %s", c->name, err.text);
    c->backoff_ms =
        2 * c->backoff_ms < JOUST_BACKOFF_LAST_MS ? 2 * c->backoff_ms : JOUST_BACKOFF_LAST_MS;
}

static void restart(void *arg)
{
    child *c = arg;
    joust_error err;
    c->timer = 0;
    if (spawn(c, &err)) {
        joust_log_warn("launch", "%s can't be started, trying again: %s", c->name, err.text);
        restart_later(c);
    }
}

joust_status joust_supervisor_start(joust_supervisor *s, const char *name, const char *program,
                                    const char *const *argv, const char *log_path, joust_error *err)
{
    if (!joust_grow(&s->children, s->n, &s->capacity, sizeof(*s->children)))
        return joust_fail(err, JOUST_NOMEM, "supervisor: out of memory");
    child *c = child_create(s, name, program, argv, log_path);
    if (!c)
        return joust_fail(err, JOUST_NOMEM, "supervisor: out of memory");
    joust_status st = spawn(c, err);
    if (st)
        child_free(c);
    else
        s->children[s->n++] = c;
    return st;
}

static void bury(child *c, int wait_status)
{
    joust_child_exit exit = {
        .name = c->name,
        .status = WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : -1,
        .signal = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0,
        .up_ms = joust_clock_ms() - c->started_ms,
        .log_from = c->log_from,
    };
    c->pid = 0;
    if (exit.up_ms >= JOUST_STEADY_MS) {
        c->backoff_ms = JOUST_BACKOFF_FIRST_MS;
        c->n_failures = 0;
    } else if (exit.signal != SIGKILL && exit.status != 0) {
        c->n_failures++;
    }
    exit.n_failures = c->n_failures;
    bool again = c->owner->on_exit(c->owner->arg, &exit);
    if (exit.status == 0 && c->backoff_ms < JOUST_BACKOFF_CONTENT_MS)
        c->backoff_ms = JOUST_BACKOFF_CONTENT_MS;
    if (again && !c->owner->stopping)
        restart_later(c);
}

void joust_supervisor_reap(joust_supervisor *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        child *c = s->children[i];
        int status;
        if (c->pid && waitpid(c->pid, &status, WNOHANG) == c->pid)
            bury(c, status);
    }
}

void joust_supervisor_stop(joust_supervisor *s)
{
    s->stopping = true;
    for (uint32_t i = 0; i < s->n; i++) {
        joust_loop_cancel_timer(s->loop, s->children[i]->timer);
        s->children[i]->timer = 0;
    }
}

void joust_supervisor_signal(joust_supervisor *s, int signal_number)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (s->children[i]->pid)
            kill(s->children[i]->pid, signal_number);
}

uint32_t joust_supervisor_alive(const joust_supervisor *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n; i++)
        n += s->children[i]->pid != 0;
    return n;
}

void joust_supervisor_free(joust_supervisor **supervisor)
{
    joust_supervisor *s = *supervisor;
    if (!s)
        return;
    joust_supervisor_stop(s);
    joust_supervisor_signal(s, SIGKILL);
    for (uint32_t i = 0; i < s->n; i++) {
        while (s->children[i]->pid && waitpid(s->children[i]->pid, NULL, 0) < 0 && errno == EINTR)
            continue;
        child_free(s->children[i]);
    }
    joust_free(s->children);
    joust_free(s);
    *supervisor = NULL;
}
