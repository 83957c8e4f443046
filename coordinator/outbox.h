/* The outbox: nothing that a step decided leaves before the step's batch is durable.
 * A FIFO of (batch sequence, actions). A step that wrote nothing passes at once if nothing is
 * pending before it, else waits its turn. WRITE actions are the caller's to do before pushing; the outbox
 * skips nothing and knows no sockets. Memory: bounded by what peers' credit allows in flight.
 * Thread: owner's. */
#ifndef JOUST_COORDINATOR_OUTBOX_H
#define JOUST_COORDINATOR_OUTBOX_H

#include "coordinator/actions.h"

typedef struct joust_outbox joust_outbox;

JOUST_MUST_USE joust_status joust_outbox_create(joust_outbox **ret, joust_error *err);
void joust_outbox_free(joust_outbox **outbox);
/* Takes the list's content (left empty). sequence: of the batch that its WRITEs went into, 0 if it wrote nothing;
 * never lower than one pushed before. Errors: JOUST_NOMEM, nothing taken. */
JOUST_MUST_USE joust_status joust_outbox_push(joust_outbox *outbox, joust_actions *actions,
                                              uint64_t sequence, joust_error *err);
/* All batches up to sequence are durable. */
void joust_outbox_committed(joust_outbox *outbox, uint64_t sequence);
/* Moves the oldest released list into ret (whose old content is freed); false if none is released. */
bool joust_outbox_pop(joust_outbox *outbox, joust_actions *ret);
size_t joust_outbox_depth(const joust_outbox *outbox);     /* lists inside, released or not */
uint64_t joust_outbox_durable(const joust_outbox *outbox); /* highest sequence committed */

#endif
