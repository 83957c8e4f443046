/* The life of a unit of work as a table: state x event -> next state and answer. Every cell is listed; an event of a
 * peer that changes nothing is answered, never ignored. */
#ifndef JOUST_COORDINATOR_UNIT_TABLE_H
#define JOUST_COORDINATOR_UNIT_TABLE_H

#include <stdbool.h>
#include <stdint.h>

typedef enum joust_unit_state {
    JOUST_UNIT_WAITING, /* what it reads is not complete */
    JOUST_UNIT_QUEUED,  /* could be leased */
    JOUST_UNIT_LEASED,  /* one peer (or the coordinator itself) computes it, until a deadline */
    JOUST_UNIT_DONE, /* its records are in a batch; what follows from it waits in the outbox for the sync */
    JOUST_UNIT_FAILED, /* given up after too many failures: the job fails */
    JOUST_UNIT_STATES
} joust_unit_state;

typedef enum joust_unit_event {
    JOUST_UNIT_READY,    /* internal: what it reads is complete */
    JOUST_UNIT_LEASE,    /* internal: granted to a peer */
    JOUST_UNIT_RELEASE,  /* internal: deadline passed, or its peer is gone */
    JOUST_UNIT_GIVE_UP,  /* internal: failed too often */
    JOUST_UNIT_HOLDING,  /* peer: I compute it or hold its result (HELLO, HEARTBEAT) */
    JOUST_UNIT_PROGRESS, /* peer: durable training progress */
    JOUST_UNIT_RESULT,   /* peer: here it is */
    JOUST_UNIT_FAILURE,  /* peer: I can't */
    JOUST_UNIT_EVENTS
} joust_unit_event;

typedef enum joust_unit_answer {
    JOUST_ANSWER_BUG,    /* cannot happen: internal events are raised where they fit */
    JOUST_ANSWER_NONE,   /* no more than the move itself */
    JOUST_ANSWER_WRITE,  /* record it, acknowledge once durable */
    JOUST_ANSWER_ACK,    /* known already: acknowledge again */
    JOUST_ANSWER_CHECK,  /* done already: compare with the store, then acknowledge */
    JOUST_ANSWER_REVOKE, /* not yours: drop it */
    JOUST_ANSWER_REFUSE, /* error in words, and drop it */
    JOUST_ANSWERS
} joust_unit_answer;

typedef struct joust_unit_cell {
    uint8_t next;   /* joust_unit_state */
    uint8_t answer; /* joust_unit_answer */
} joust_unit_cell;

joust_unit_cell joust_unit_look_up(joust_unit_state state, joust_unit_event event);
const char *joust_unit_state_name(joust_unit_state state);
const char *joust_unit_event_name(joust_unit_event event);
const char *joust_unit_answer_name(joust_unit_answer answer);

#endif
