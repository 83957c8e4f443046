/* The inside of a session, shared by its sources: session.c (events, what is sent), session_units.c (held units). */
#ifndef JOUST_PROTO_SESSION_INTERNAL_H
#define JOUST_PROTO_SESSION_INTERNAL_H

#include "proto/session.h"

/* A unit under credit: computing, or its result waits for the acknowledgement. */
typedef struct joust_held {
    joust_unit_id id;
    uint64_t done, told; /* progress, and what the last heartbeat said of it */
    bool finished;
    bool sent; /* finished: since the last HELLO_ACK */
    joust_unit_result result;
} joust_held;

typedef struct joust_failure {
    joust_unit_id id;
    joust_status code;
    char text[512];
} joust_failure;

/* What joust_session_next gave last, until joust_session_sent. */
typedef enum joust_offer {
    JOUST_OFFER_NONE,
    JOUST_OFFER_HELLO,
    JOUST_OFFER_CREDIT,
    JOUST_OFFER_RESULT,
    JOUST_OFFER_FAILED,
    JOUST_OFFER_HEARTBEAT,
    JOUST_OFFER_GOODBYE
} joust_offer;

struct joust_session {
    joust_session_options options;
    char name[JOUST_MAX_NAME_BYTES], host[JOUST_MAX_NAME_BYTES], class[JOUST_MAX_NAME_BYTES];
    joust_session_state state;
    uint64_t epoch, hellos, sequence;
    joust_digest job;
    uint32_t heartbeat_ms, grace_ms;
    int64_t heard_ms;      /* the coordinator, or the start */
    int64_t next_hello_ms; /* HELLO_SENT */
    int64_t next_heartbeat_ms;
    bool credit_due; /* draining: the coordinator must learn that credit is 0 */
    bool goodbye_due;
    joust_status reason;
    char reason_text[512];

    uint32_t n_held, n_failed;
    joust_held *units;     /* (options.credit) */
    joust_failure *failed; /* (n_failed) not sent yet */
    size_t failed_capacity;

    joust_offer offered;
    uint32_t offered_unit; /* JOUST_OFFER_RESULT: its index */
    joust_unit_key *keys;  /* views of messages: (options.credit) each */
    joust_progress *progress;

    joust_server_status *servers; /* (n_servers) that the peer asks */
    uint32_t n_servers;
    bool servers_due; /* the next heartbeat names them */
};

/* View of s, or NULL; valid until a unit is accepted or released. */
joust_held *joust_session_find(const joust_session *s, const joust_unit_key *unit);
/* The unit is no longer held; its result is freed. */
void joust_session_release(joust_session *s, joust_held *h);

#endif
