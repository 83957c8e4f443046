/* An actor: one named thread behind a bounded queue, for slow work (a synced commit, a generation,
 * a training step, a checkpoint). The threads share nothing but what they pass: arg belongs to the
 * actor from post until its `done` runs.
 *
 *   loop thread:  post(work, done, arg) ───────────────▶ actor thread:  work(arg)
 *   loop thread:  done(arg)  ◀── collect ── wake-up fd ──┘      └─ tell(fn, arg): in mid-work
 *
 * Work runs in the order posted; done and told functions run on the collecting thread in the order
 * they were made. */
#ifndef JOUST_PROTO_ACTOR_H
#define JOUST_PROTO_ACTOR_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"

typedef struct joust_actor joust_actor;
typedef void (*joust_actor_fn)(void *arg);

/* Starts the thread (name: at most 15 bytes are shown by the system). capacity: most works posted
 * and not yet collected. The thread blocks all signals. Errors: JOUST_NOMEM, JOUST_IO. */
JOUST_MUST_USE joust_status joust_actor_create(const char *name, uint32_t capacity,
                                               joust_actor **ret, joust_error *err);
/* Asks the running work to stop (joust_actor_stopping), lets queued work run, joins, runs what is
 * left to collect. */
void joust_actor_free(joust_actor **actor); /* NULL is fine */

/* Queues work(arg); when it has run, done(arg) (may be NULL) runs in joust_actor_collect. keeps arg
 * until then. Errors: JOUST_FULL: capacity reached, nothing was queued. Thread: the collecting one.
 */
JOUST_MUST_USE joust_status joust_actor_post(joust_actor *actor, joust_actor_fn work,
                                             joust_actor_fn done, void *arg, joust_error *err);
/* In mid-work: has fn(arg) run by joust_actor_collect. Waits while `capacity` told calls aren't
 * collected yet. Errors: JOUST_INTERRUPTED when the actor is being stopped: fn will not run, arg
 * stays the caller's; JOUST_NOMEM. Thread: the actor's. */
JOUST_MUST_USE joust_status joust_actor_tell(joust_actor *actor, joust_actor_fn fn, void *arg,
                                             joust_error *err);
/* Long work asks now and then. Also set by joust_actor_stop. Thread: any. */
bool joust_actor_stopping(const joust_actor *actor);
void joust_actor_stop(joust_actor *actor);

/* Readable while there is something to collect (joust_loop_add_actor waits for it). */
int joust_actor_fd(const joust_actor *actor);
/* Runs at most max done and told functions; returns how many. Thread: the collecting one. */
uint32_t joust_actor_collect(joust_actor *actor, uint32_t max);
/* Works posted whose done has not run. Thread: the collecting one. */
uint32_t joust_actor_pending(const joust_actor *actor);

#endif
