/* A program of others that a worker runs: a server, a trainer. It runs under a guard (worker/guard.h), so that nothing
 * of it outlives the worker. Its output is appended to a file, which can be followed line by line.
 * Thread: one at a time. */
#ifndef JOUST_WORKER_CHILD_H
#define JOUST_WORKER_CHILD_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/bytes.h"
#include "proto/base/status.h"

typedef struct joust_child joust_child;

typedef struct joust_child_options {
    const char *command; /* for /bin/sh -c */
    const char *const
        *environment; /* "NAME=value", NULL-terminated, instead of this process's; NULL: nothing */
    const char *log_path; /* its output is appended here */
    const char *program;  /* what has the verb `guard`; NULL: this program */
} joust_child_options;

/* Errors: JOUST_IO and what opening the log gives: named; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_child_start(const joust_child_options *options, joust_child **ret,
                                              joust_error *err);
/* Whether it and all that it started has ended; *ret_status: exit status, or 128 + the signal. */
bool joust_child_ended(joust_child *child, int *ret_status);
/* Asks it to end; the guard sees to it. */
void joust_child_stop(joust_child *child);
/* Asks it to end if it has not, and waits at most wait_ms for that. */
void joust_child_free(joust_child **child, int64_t wait_ms);

/* The next whole line that it has written since it was started, without its end; NULL: none yet. Lines of more than 64 KiB
 * come in pieces. View, valid until the next call. last: what stands after the last line end counts too. */
const char *joust_child_line(joust_child *child, bool last);

/* Replaces {name} by value for each of the n names, quoted for the shell if need be; other braces stay. Errors: JOUST_NOMEM. */
typedef struct joust_placeholder {
    const char *name, *value;
} joust_placeholder;
JOUST_MUST_USE joust_status joust_command_fill(const char *command,
                                               const joust_placeholder *placeholders, uint32_t n,
                                               joust_buf *to, joust_error *err);

/* A TCP port that nobody listens at: port itself, or with 0 any. False: there is none. */
bool joust_port_find(uint16_t port, uint16_t *ret);
/* "CUDA_VISIBLE_DEVICES=2,3": n GPUs of those that this process may use, from number `first` on; owned. n 0: *ret is NULL.
 * Errors: JOUST_INVALID (there are fewer), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_gpus_choose(uint32_t n, uint32_t first, char **ret,
                                              joust_error *err);

#endif
