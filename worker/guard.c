#include "worker/guard.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/clock.h"

#define CANT_GUARD 125
#define LAST_MS                                                                                    \
    2000           /* after SIGKILL nothing lives long; what hangs in the kernel is left to init */
#define TURN_MS 50 /* between two looks at what is left */

typedef struct guard {
    sigset_t old_mask;
    int signals; /* descriptor */
    pid_t command;
    bool command_over;
    int status; /* of the command */
} guard;

/* Doesn't return. */
static void become(const guard *g, const char *command)
{
    setpgid(0, 0);
    sigprocmask(SIG_SETMASK, &g->old_mask, NULL);
    close(JOUST_GUARD_LIFELINE);
    close(g->signals);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    _exit(127);
}

/* Buries who has ended. Whether nobody is left. */
static bool bury(guard *g)
{
    for (;;) {
        int status;
        pid_t pid = waitpid(-1, &status, WNOHANG);
        if (pid < 0 && errno == EINTR)
            continue;
        if (pid <= 0)
            return pid < 0;
        if (pid != g->command)
            continue;
        g->command_over = true;
        g->status = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    }
}

/* Signals each child that the guard has now, and the command's group. */
static void signal_all(const guard *g, int number)
{
    char path[64];
    long pid;
    snprintf(path, sizeof(path), "/proc/self/task/%ld/children", (long)getpid());
    FILE *children = fopen(path, "re");
    if (!g->command_over) /* else the number may be another's by now */
        kill(-g->command, number);
    while (children && fscanf(children, "%ld", &pid) == 1)
        kill((pid_t)pid, number);
    if (children)
        fclose(children);
}

/* Waits until nobody is left, at most so long. SIGKILL is sent again, to who has come up meanwhile; what is asked twice
 * to end may take that for an order to drop everything. */
static bool outlive(guard *g, int number, int64_t within_ms)
{
    int64_t end = joust_clock_ms() + within_ms;
    for (bool first = true; !bury(g); first = false) {
        struct pollfd wait = {.fd = g->signals, .events = POLLIN};
        struct signalfd_siginfo info;
        if (joust_clock_ms() >= end)
            return false;
        if (first || number == SIGKILL)
            signal_all(g, number);
        if (poll(&wait, 1, TURN_MS) == 1 && read(g->signals, &info, sizeof(info)) < 0)
            return false;
    }
    return true;
}

/* Until the command is over or nobody wants it any more. */
static void watch(guard *g)
{
    struct pollfd wait[2] = {{.fd = JOUST_GUARD_LIFELINE, .events = POLLIN},
                             {.fd = g->signals, .events = POLLIN}};
    while (!g->command_over) {
        struct signalfd_siginfo info;
        if (poll(wait, 2, -1) < 0 && errno != EINTR)
            return;
        if (wait[0].revents)
            return;
        if (wait[1].revents && read(g->signals, &info, sizeof(info)) == (ssize_t)sizeof(info) &&
            info.ssi_signo != SIGCHLD)
            return;
        bury(g);
    }
}

static bool prepare(guard *g)
{
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGCHLD);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    setsid();
    return prctl(PR_SET_CHILD_SUBREAPER, 1) == 0 &&
           fcntl(JOUST_GUARD_LIFELINE, F_SETFD, FD_CLOEXEC) == 0 &&
           sigprocmask(SIG_BLOCK, &mask, &g->old_mask) == 0 &&
           (g->signals = signalfd(-1, &mask, SFD_CLOEXEC)) >= 0;
}

int joust_guard_main(const char *command)
{
    guard g = {.signals = -1};
    if (!prepare(&g) || (g.command = fork()) < 0) {
        fprintf(stderr, "joust guard: %s\n", strerror(errno));
        return CANT_GUARD;
    }
    if (g.command == 0)
        become(&g, command);
    setpgid(g.command, g.command); /* whoever of the two comes first */
    watch(&g);
    if (!outlive(&g, SIGTERM, JOUST_GUARD_GRACE_MS))
        outlive(&g, SIGKILL, LAST_MS);
    return g.command_over ? g.status : 128 + SIGKILL;
}
