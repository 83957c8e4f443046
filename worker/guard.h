/* The process between a worker and a program of others that it starts (a server, a trainer): it sees to it that nothing of
 * the program outlives the worker, whatever the program starts and however the worker ends.
 *
 *   worker ── lifeline (a pipe) ──▶ guard ── /bin/sh -c COMMAND ── whatever it starts
 *
 * When the worker closes the lifeline, or dies, the guard asks all below it to end (SIGTERM), and ends what is left
 * JOUST_GUARD_GRACE_MS later (SIGKILL). Processes that have lost their parent, or have made themselves independent of
 * it, become the guard's own children (PR_SET_CHILD_SUBREAPER), so none is missed. The same when the command itself ends:
 * what it leaves behind ends too. */
#ifndef JOUST_WORKER_GUARD_H
#define JOUST_WORKER_GUARD_H

#define JOUST_GUARD_LIFELINE 3 /* the descriptor of the guard's end */
#define JOUST_GUARD_GRACE_MS 2000

/* Runs the command and ends with its exit status, 128 + the signal that ended it, or 125 if there is no guard to be had.
 * For a process of its own, before it has threads. */
int joust_guard_main(const char *command);

#endif
