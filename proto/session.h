/* The peer's side of the protocol (worker or judge), without sockets and clock: a table of states
 * and events, the units held under credit, and what must be sent next. The role drives it from its
 * loop:
 *
 *   on link event       joust_session_link
 *   on message          joust_session_receive, then act on it: LEASE: joust_session_accept each
 * unit on work done        joust_session_finish or joust_session_fail after each of these, and at
 * joust_session_wake_at: while (joust_session_next(s, now, &m) == JOUST_OK && send(m) == JOUST_OK)
 *           joust_session_sent(s, now);
 *
 *                 link up            HELLO_ACK
 *   DISCONNECTED ─────────▶ HELLO_SENT ───────▶ READY ──drain──▶ DRAINING ──empty──▶ GONE
 *        ▲────────────────────── link down ──────┘                        grace over ──▶ GONE
 *
 * A unit stays held, and counts against credit, from accept until its RESULT_ACK: results survive a
 * dead coordinator, and are sent again after each HELLO_ACK. A coordinator of a lower epoch than
 * the highest seen is refused.
 *
 * Thread: one. Times: milliseconds of a monotonic clock. */
#ifndef JOUST_PROTO_SESSION_H
#define JOUST_PROTO_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/messages.h"

#define JOUST_SESSION_STATES(X)                                                                    \
    X(DISCONNECTED, "no link; waits for one")                                                      \
    X(HELLO_SENT, "linked; says HELLO each heartbeat until it is answered")                        \
    X(READY, "takes leases, sends results")                                                        \
    X(DRAINING, "takes no leases; leaves when nothing is held")                                    \
    X(GONE, "over; the process ends")

#define JOUST_SESSION_EVENTS(X)                                                                    \
    X(LINK_UP, "the link is there")                                                                \
    X(LINK_DOWN, "the link broke")                                                                 \
    X(HELLO_ACK, "HELLO_ACK of the highest epoch seen, or a higher one")                           \
    X(MESSAGE, "another message of the current epoch")                                             \
    X(LOWER_EPOCH, "a message of a superseded coordinator")                                        \
    X(STRANGER, "a coordinator that does not know this peer: HELLO again")                         \
    X(REFUSED, "an ERROR that gives the peer up")                                                  \
    X(GOODBYE, "the coordinator is done with the peer")                                            \
    X(SILENCE, "nothing heard for three heartbeats")                                               \
    X(GRACE_OVER, "no coordinator for the grace time")                                             \
    X(DRAIN, "this process wants to leave")                                                        \
    X(EMPTY, "draining, and nothing is held any more")

typedef enum joust_session_state {
#define X(name, text) JOUST_SESSION_##name,
    JOUST_SESSION_STATES(X)
#undef X
        JOUST_SESSION_STATE_N
} joust_session_state;

typedef enum joust_session_event {
#define X(name, text) JOUST_SESSION_EV_##name,
    JOUST_SESSION_EVENTS(X)
#undef X
        JOUST_SESSION_EVENT_N
} joust_session_event;

const char *joust_session_state_name(joust_session_state state); /* "READY" */
const char *joust_session_event_name(joust_session_event event); /* "HELLO_ACK" */
/* The table: the state after event in state, or JOUST_SESSION_STATE_N where the event is illegal.
 * For tests and documents. */
joust_session_state joust_session_table(joust_session_state state, joust_session_event event);

typedef struct joust_session_options {
    joust_peer_role role;
    const char *name, *host, *numeric_class; /* copied */
    uint64_t instance;
    uint32_t credit; /* 1 … JOUST_MAX_UNITS */
    uint32_t threads;
    bool can_train;
    uint32_t heartbeat_ms, grace_ms; /* until a HELLO_ACK says otherwise */
} joust_session_options;

typedef struct joust_session joust_session;

/* Errors: JOUST_INVALID, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_session_create(const joust_session_options *options,
                                                 int64_t now_ms, joust_session **ret,
                                                 joust_error *err);
void joust_session_free(joust_session **session);

joust_session_state joust_session_get_state(const joust_session *s);
uint64_t
joust_session_epoch(const joust_session *s); /* highest seen; what the role's own messages carry */
/* Grows by one with each HELLO_ACK: what the role itself asked and had no answer to must be asked
 * again. */
uint64_t joust_session_hellos(const joust_session *s);
/* Why it is GONE: JOUST_END (GOODBYE without a fault, or drained), JOUST_TIMEOUT (grace), or the
 * status the coordinator refused with. The reason in words is in *ret_text (may be NULL; view).
 * JOUST_OK while it isn't gone. */
joust_status joust_session_reason(const joust_session *s, const char **ret_text);

void joust_session_link(joust_session *s, bool up, int64_t now_ms);
void joust_session_drain(joust_session *s, int64_t now_ms);
/* The other end can't be talked to: joust_socket_recv said JOUST_VERSION, or the link's handshake
 * was refused. Ignored where there is nobody to be refused by (DISCONNECTED, GONE). */
void joust_session_refuse(joust_session *s, joust_status status, const char *text, int64_t now_ms);

/* borrows m. JOUST_OK: the role acts on it (HELLO_ACK: takes the job; LEASE: accepts each unit;
 * REVOKE: the units are no longer held, stop computing them; RESULT_ACK: released already). Errors,
 * all of which mean "don't act": JOUST_STALE (lower epoch), JOUST_INVALID (not a coordinator's
 * message, or illegal in this state), JOUST_CONFLICT (HELLO_ACK for another job). */
JOUST_MUST_USE joust_status joust_session_receive(joust_session *s, const joust_message *m,
                                                  int64_t now_ms, joust_error *err);

/* Takes a leased unit on. JOUST_OK: new, compute it. JOUST_EXISTS: held already; the newer lease is
 * noted, and its result, if there is one, is sent again. JOUST_FULL: beyond the credit or draining;
 * a FAILED with JOUST_FULL is queued for it. */
JOUST_MUST_USE joust_status joust_session_accept(joust_session *s, const joust_lease_unit *unit,
                                                 joust_error *err);
/* Notes a counter that grows while the unit is worked on; the next heartbeat carries it. Unknown
 * units are ignored. */
void joust_session_progress(joust_session *s, const joust_unit_key *unit, uint64_t done);
/* takes *servers (allocated by joust_calloc; NULLed): the state of the servers that the peer asks, for the next heartbeat, and for
 * each coordinator to come. n: at most JOUST_MAX_SERVER_STATUS. */
void joust_session_servers(joust_session *s, joust_server_status **servers, uint32_t n);
/* takes *result (zeroed on success): sent, and held until acknowledged. id.lease and id.attempt are
 * set to the newest lease. Errors: JOUST_NOT_FOUND (revoked meanwhile: throw it away). */
JOUST_MUST_USE joust_status joust_session_finish(joust_session *s, joust_unit_result *result,
                                                 joust_error *err);
/* The unit can't be done here: no longer held, FAILED is sent once. Errors: JOUST_NOT_FOUND,
 * JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_session_fail(joust_session *s, const joust_unit_key *unit,
                                               joust_status code, const char *text,
                                               joust_error *err);
/* The lease under which the unit is held, for messages about it (ROWS_GET, TRAIN_PROGRESS). Errors:
 * JOUST_NOT_FOUND. */
JOUST_MUST_USE joust_status joust_session_lease(const joust_session *s, const joust_unit_key *unit,
                                                joust_unit_id *ret);
uint32_t joust_session_held(const joust_session *s);

/* What to send now: fills *ret, a view valid until the next call with s (never joust_message_fini
 * it). JOUST_AGAIN: nothing until joust_session_wake_at. Time passes here: silence, grace and
 * heartbeats fall due. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_session_next(joust_session *s, int64_t now_ms,
                                               joust_message *ret);
/* The message given last was sent; without this call it is given again. */
void joust_session_sent(joust_session *s, int64_t now_ms);
int64_t joust_session_wake_at(const joust_session *s);

#endif
