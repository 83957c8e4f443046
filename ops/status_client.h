/* A client of the coordinator's status socket: one JSON snapshot a request (proto/PROTOCOL.md). */
#ifndef JOUST_OPS_STATUS_CLIENT_H
#define JOUST_OPS_STATUS_CLIENT_H

#include "proto/base/bytes.h"
#include "proto/socket.h"

#define JOUST_MAX_STATUS_BYTES (16u << 20)

/* Opens a DEALER to endpoint. keeps context. Errors: those of joust_socket_open. */
JOUST_MUST_USE joust_status joust_status_open(joust_context *context, const char *endpoint,
                                              joust_socket **ret, joust_error *err);
/* Asks for a snapshot, without waiting. Errors: JOUST_AGAIN: nobody is there yet. */
JOUST_MUST_USE joust_status joust_status_ask(joust_socket *socket, joust_error *err);
/* Takes the newest snapshot that has arrived, into to (cleared first): JSON text, NUL-terminated.
 * Errors: JOUST_AGAIN: none. */
JOUST_MUST_USE joust_status joust_status_take(joust_socket *socket, joust_buf *to,
                                              joust_error *err);
/* Opens, asks and waits at most timeout_ms. Errors: JOUST_UNREACHABLE names the endpoint. */
JOUST_MUST_USE joust_status joust_status_fetch(const char *endpoint, int64_t timeout_ms,
                                               joust_buf *to, joust_error *err);
/* The endpoint that a running coordinator left in its store. Appends to to.
 * Errors: JOUST_NOT_FOUND (no such store, or it never ran). */
JOUST_MUST_USE joust_status joust_status_endpoint(const char *store, joust_buf *to,
                                                  joust_error *err);

#endif
