/* The event loop: one thread that owns all sockets of a process. Sockets, descriptors, timers and
 * signals call back; a callback is short and takes at most JOUST_LOOP_BATCH messages: what is left
 * makes it run again next turn.
 *
 * Thread: everything on the loop's own thread, but joust_loop_stop from a callback only. */
#ifndef JOUST_PROTO_LOOP_H
#define JOUST_PROTO_LOOP_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/actor.h"
#include "proto/base/status.h"
#include "proto/socket.h"

#define JOUST_LOOP_BATCH 64u

enum { JOUST_READABLE = 1u, JOUST_WRITABLE = 2u };

typedef struct joust_loop joust_loop;
typedef void (*joust_loop_ready_fn)(void *arg,
                                    uint32_t events); /* JOUST_READABLE | JOUST_WRITABLE */
typedef void (*joust_loop_timer_fn)(void *arg);
typedef void (*joust_loop_signal_fn)(void *arg, int signal_number);
typedef void (*joust_loop_link_fn)(void *arg, joust_link_event event);

JOUST_MUST_USE joust_status joust_loop_create(joust_loop **ret, joust_error *err);
/* Sockets, descriptors and actors must outlive the loop or be removed before; it closes none.
 * Restores the signal mask. */
void joust_loop_free(joust_loop **loop);

/* keeps socket / fd / actor until removed or freed. A new one waits for JOUST_READABLE. */
JOUST_MUST_USE joust_status joust_loop_add_socket(joust_loop *loop, joust_socket *socket,
                                                  joust_loop_ready_fn fn, void *arg,
                                                  joust_error *err);
JOUST_MUST_USE joust_status joust_loop_add_fd(joust_loop *loop, int fd, joust_loop_ready_fn fn,
                                              void *arg, joust_error *err);
/* Link events of a socket opened with monitor = true. */
JOUST_MUST_USE joust_status joust_loop_add_links(joust_loop *loop, joust_socket *socket,
                                                 joust_loop_link_fn fn, void *arg,
                                                 joust_error *err);
/* The actor's completions run on this loop. */
JOUST_MUST_USE joust_status joust_loop_add_actor(joust_loop *loop, joust_actor *actor,
                                                 joust_error *err);
/* Which events are waited for from now on; unknown sockets are ignored. */
void joust_loop_want(joust_loop *loop, const joust_socket *socket, uint32_t events);
void joust_loop_remove_fd(joust_loop *loop, int fd);
void joust_loop_remove_actor(joust_loop *loop, const joust_actor *actor);

/* Runs fn once, delay_ms from now (0: in the next turn); *ret_id (may be NULL) cancels it. */
JOUST_MUST_USE joust_status joust_loop_add_timer(joust_loop *loop, int64_t delay_ms,
                                                 joust_loop_timer_fn fn, void *arg,
                                                 uint64_t *ret_id, joust_error *err);
void joust_loop_cancel_timer(joust_loop *loop,
                             uint64_t id); /* fine if it ran already; 0 is no timer */

/* SIGTERM, SIGINT and SIGCHLD become calls of fn. Blocks them in this thread and in threads made
 * afterwards: call it before any thread, ZeroMQ's context included, is made. A child process must
 * unblock them (joust_loop_signals_unblock) between fork and exec. */
JOUST_MUST_USE joust_status joust_loop_add_signals(joust_loop *loop, joust_loop_signal_fn fn,
                                                   void *arg, joust_error *err);
void joust_loop_signals_block(void); /* the same, before there is a loop */
void joust_loop_signals_unblock(void);

int64_t joust_loop_now(const joust_loop *loop); /* joust_clock_ms at the start of this turn */
/* Turns until joust_loop_stop. Errors: JOUST_IO, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_loop_run(joust_loop *loop, joust_error *err);
/* One turn: waits at most timeout_ms (-1: until something happens), then calls what is due. */
JOUST_MUST_USE joust_status joust_loop_turn(joust_loop *loop, int64_t timeout_ms, joust_error *err);
void joust_loop_stop(joust_loop *loop); /* joust_loop_run returns after this turn */

#endif
