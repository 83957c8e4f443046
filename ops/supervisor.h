/* Child processes of one parent: started, watched, started again with backoff, ended. No state of its own: who
 * restarts the parent starts from nothing.
 *
 * A child gets /dev/null as input, a log file as output, a process group of its own (so that ctrl-C reaches the
 * parent alone), and dies by SIGKILL as soon as its parent does, however that happens.
 * Thread: the loop's own. */
#ifndef JOUST_OPS_SUPERVISOR_H
#define JOUST_OPS_SUPERVISOR_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/loop.h"

#define JOUST_BACKOFF_FIRST_MS   100
#define JOUST_BACKOFF_LAST_MS    5000
/* A child that ended with 0 thinks that its work is done, and most likely all of it is about to be. */
#define JOUST_BACKOFF_CONTENT_MS 2000
#define JOUST_STEADY_MS          5000 /* a child that was up so long starts with a fresh backoff */

typedef struct joust_supervisor joust_supervisor;

/* How a child ended. */
typedef struct joust_child_exit {
    const char *name; /* view, until the child is gone for good */
    int status;       /* exit status, or -1 if a signal ended it */
    int signal;       /* that signal, or 0 */
    int64_t up_ms;
    uint64_t log_from; /* length of its log when it was started: what follows is this run's */
    uint32_t
        n_failures; /* in a row that it brought about itself: up less than JOUST_STEADY_MS, not 0 and not by SIGKILL,
                              which comes from outside */
} joust_child_exit;

/* Whether to start it again (after the backoff). */
typedef bool joust_child_exit_fn(void *arg, const joust_child_exit *exit);

/* keeps loop and arg until joust_supervisor_free. The caller's signal handler calls joust_supervisor_reap. */
JOUST_MUST_USE joust_status joust_supervisor_create(joust_loop *loop, joust_child_exit_fn *on_exit,
                                                    void *arg, joust_supervisor **ret,
                                                    joust_error *err);
/* Starts program with argv (NULL-terminated, copied), output appended to log_path. Errors: JOUST_IO names what failed;
 * a program that can't be executed ends with status 127. */
JOUST_MUST_USE joust_status joust_supervisor_start(joust_supervisor *s, const char *name,
                                                   const char *program, const char *const *argv,
                                                   const char *log_path, joust_error *err);
/* Looks for children that ended; calls on_exit for each. */
void joust_supervisor_reap(joust_supervisor *s);
/* From now on nothing is started again. */
void joust_supervisor_stop(joust_supervisor *s);
void joust_supervisor_signal(joust_supervisor *s, int signal_number); /* to all that live */
uint32_t joust_supervisor_alive(const joust_supervisor *s);
/* Kills and waits for what still lives. */
void joust_supervisor_free(joust_supervisor **s);

#endif
