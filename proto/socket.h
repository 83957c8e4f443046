/* Sockets: the only user of ZeroMQ. The coordinator binds ROUTERs, everybody else connects DEALERs.
 *
 * A peer's routing id is "<name>#<instance in hex>": the same for the life of a process, so that a
 * link that breaks and comes back needs no new id, and never shared by two processes.
 *
 * Links: heartbeats by ZeroMQ close a silent link; a ROUTER takes over the id of a peer that
 * reconnects before its old link is found dead; nothing lingers on close; frames above the bound
 * cut the link.
 *
 * Thread: a socket belongs to the thread that opened it; a context to any. */
#ifndef JOUST_PROTO_SOCKET_H
#define JOUST_PROTO_SOCKET_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/bytes.h"
#include "proto/messages.h"

#define JOUST_MAX_PEER_ID_BYTES  255u
#define JOUST_MAX_ENDPOINT_BYTES 256u
#define JOUST_MAX_FRAMES         8u /* of one message, routing id not counted */

typedef struct joust_context joust_context; /* ZeroMQ's threads; one a process */
typedef struct joust_socket joust_socket;

JOUST_MUST_USE joust_status joust_context_create(joust_context **ret, joust_error *err);
void joust_context_free(
    joust_context **context); /* its sockets must be closed before; NULL is fine */

/* Routing id of the other end of a ROUTER. Zero the struct before use: unused bytes stay zero. */
typedef struct joust_peer_id {
    uint32_t n;
    uint8_t bytes[JOUST_MAX_PEER_ID_BYTES];
} joust_peer_id;

/* "<name>#<instance>". Errors: JOUST_INVALID if name is empty or too long. */
JOUST_MUST_USE joust_status joust_peer_id_make(const char *name, uint64_t instance,
                                               joust_peer_id *ret, joust_error *err);
bool joust_peer_id_equal(const joust_peer_id *a, const joust_peer_id *b);
/* For log lines: printable, at most JOUST_MAX_PEER_ID_BYTES characters. Returns to. */
const char *joust_peer_id_text(const joust_peer_id *id, char to[JOUST_MAX_PEER_ID_BYTES + 1]);

/* CURVE keys, in ZeroMQ's text form (40 characters of Z85). */
typedef struct joust_curve {
    bool server;         /* this end is the server: server_key is not used */
    char public_key[41]; /* this end's own pair */
    char secret_key[41];
    char server_key[41]; /* clients: the server's public key; who doesn't know it isn't let in */
} joust_curve;

/* Draws a pair into public_key and secret_key. Errors: JOUST_UNSUPPORTED if libzmq lacks CURVE. */
JOUST_MUST_USE joust_status joust_curve_new(joust_curve *ret, joust_error *err);
/* Key files: lines "public <key>", "secret <key>", mode 0600 (a file that others can read is
 * refused). The same file serves both ends: the server holds all of it, clients get a file with
 * "server <key>" beside their own pair. */
JOUST_MUST_USE joust_status joust_curve_write(const joust_curve *curve, const char *path,
                                              joust_error *err);
JOUST_MUST_USE joust_status joust_curve_read(const char *path, bool server, joust_curve *ret,
                                             joust_error *err);

typedef enum joust_socket_kind {
    JOUST_SOCKET_ROUTER = 1,
    JOUST_SOCKET_DEALER = 2
} joust_socket_kind;

typedef struct joust_socket_options {
    joust_socket_kind kind;
    const char *endpoint;     /* ROUTER binds it, DEALER connects: "tcp://127.0.0.1:5555",
                                 "tcp://127.0.0.1:*", "ipc:///path" */
    const joust_peer_id *id;  /* DEALER: its routing id; ROUTER: NULL */
    uint32_t heartbeat_ms;    /* of the link; 0: 5000. A link silent for 3 of them is closed */
    uint32_t high_water;      /* messages queued a peer and direction; 0: 1000 */
    uint64_t max_frame_bytes; /* 0: JOUST_MAX_FRAME_BYTES */
    const joust_curve *curve; /* NULL: none; then tcp endpoints must be loopback's */
    bool monitor;             /* link events are reported: joust_socket_link_next */
    bool
        looks; /* DEALER, ipc: makes no folder; nobody is there if it is absent or another user's */
} joust_socket_options;

/* Opens and binds or connects. An ipc endpoint's folder must be private (mode 0700, ours): it is
 * made so if it is absent. Errors: JOUST_INVALID (the endpoint), JOUST_DENIED (a folder that others
 * can enter, or another user's), JOUST_UNREACHABLE (options->looks), JOUST_EXISTS (the address is taken), JOUST_IO. */
JOUST_MUST_USE joust_status joust_socket_open(joust_context *context,
                                              const joust_socket_options *options,
                                              joust_socket **ret, joust_error *err);
void joust_socket_close(
    joust_socket **socket); /* NULL is fine; an ipc file that we bound is removed */
const char *
joust_socket_endpoint(const joust_socket *socket); /* with the port that the system chose; view */

/* Sends without waiting. to: NULL for a DEALER. borrows m.
 * Errors: JOUST_AGAIN (the peer's queue is full or, for a DEALER, there is no link yet: send again
 * when the socket is writable), JOUST_UNREACHABLE (a ROUTER doesn't know the peer), and those of
 * joust_message_encode. */
JOUST_MUST_USE joust_status joust_socket_send(joust_socket *socket, const joust_peer_id *to,
                                              const joust_message *m, joust_error *err);
/* Takes the next message. from: NULL for a DEALER. *ret is owned by the caller
 * (joust_message_fini). Errors: JOUST_AGAIN (nothing there). JOUST_MALFORMED, JOUST_TOO_LARGE,
 * JOUST_UNSUPPORTED, JOUST_VERSION: the message was dropped, *from is set, so that its sender can
 * be told; go on receiving. */
JOUST_MUST_USE joust_status joust_socket_recv(joust_socket *socket, joust_peer_id *from,
                                              joust_message *ret, joust_error *err);

/* Plain frames, for sockets that speak text (status). A REQ client's message has an empty first
 * frame, which the answer must repeat. */
typedef struct joust_frames {
    uint32_t n;
    joust_span frame[JOUST_MAX_FRAMES]; /* views of data */
    uint8_t *data;
} joust_frames;

void joust_frames_fini(joust_frames *f);
JOUST_MUST_USE joust_status joust_socket_send_frames(joust_socket *socket, const joust_peer_id *to,
                                                     const joust_span *frames, uint32_t n,
                                                     joust_error *err);
/* *ret is owned. Errors: JOUST_AGAIN; JOUST_MALFORMED (more than JOUST_MAX_FRAMES: dropped, *from
 * is set). */
JOUST_MUST_USE joust_status joust_socket_recv_frames(joust_socket *socket, joust_peer_id *from,
                                                     joust_frames *ret, joust_error *err);

/* Waits until the socket is readable, at most timeout_ms (-1: for ever): for clients without a
 * loop. Errors: JOUST_TIMEOUT, JOUST_INTERRUPTED. */
JOUST_MUST_USE joust_status joust_socket_wait(joust_socket *socket, int64_t timeout_ms,
                                              joust_error *err);

/* What happened to the socket's links (monitor = true). A ROUTER isn't told which peer it was. */
typedef enum joust_link_event {
    JOUST_LINK_UP = 1,     /* handshake done */
    JOUST_LINK_DOWN = 2,   /* closed, by whoever, or found silent */
    JOUST_LINK_REFUSED = 3 /* the handshake failed: other keys or another protocol */
} joust_link_event;
/* Next event. Errors: JOUST_AGAIN (none). */
JOUST_MUST_USE joust_status joust_socket_link_next(joust_socket *socket, joust_link_event *ret,
                                                   joust_error *err);

#endif
