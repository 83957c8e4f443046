/* What a role's compute thread may ask of its coordinator, without knowing sockets: send a request,
 * wait for answers, and say now and then that work goes on. proto/peer.h implements it over the
 * session; tests over memory. Requests may be repeated at will: every one of them is idempotent.
 * Thread: the compute thread. */
#ifndef JOUST_PROTO_UPSTREAM_H
#define JOUST_PROTO_UPSTREAM_H

#include "proto/messages.h"

typedef struct joust_upstream {
    void *context;
    /* takes *m (zeroed on success). A request that finds no coordinator is dropped: receive says so
     * later. Errors: JOUST_INTERRUPTED, JOUST_NOMEM. */
    joust_status (*send)(void *context, joust_message *m, joust_error *err);
    /* Waits for the next answer: CHUNK, CHUNK_ACK, CHUNK_MISSING, ROWS, or the PROGRESS_ACK of a
     * TRAIN_PROGRESS. *ret is owned. Errors: JOUST_AGAIN: answers that are still due will not come
     * (another coordinator, or a long silence): send the requests again. JOUST_INTERRUPTED: the
     * work isn't wanted any more. */
    joust_status (*receive)(void *context, joust_message *ret, joust_error *err);
    /* Notes progress (any counter that grows) and asks whether to go on. Errors: JOUST_INTERRUPTED.
     * Has the engine's joust_step_fn as its type. Thread: any, several at a time. */
    joust_status (*check)(void *context, uint64_t done, joust_error *err);
} joust_upstream;

#endif
