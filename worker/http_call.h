/* Short calls to servers of one's own: is it ready, load these weights, sleep. One at a time and server; nothing blocks.
 * Thread: one at a time. */
#ifndef JOUST_WORKER_HTTP_CALL_H
#define JOUST_WORKER_HTTP_CALL_H

#include <stdint.h>

#include "proto/base/status.h"

typedef struct joust_http_call joust_http_call;

/* Begins the call: GET, or POST with the JSON in body. url, body: borrowed. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_http_call_begin(const char *url, const char *body,
                                                  uint32_t timeout_ms, joust_http_call **ret,
                                                  joust_error *err);
/* JOUST_AGAIN: it is under way. JOUST_OK: it was answered with status 200 and what the answer says isn't
 * {"success": false}. JOUST_IO: anything else, named by err. */
JOUST_MUST_USE joust_status joust_http_call_turn(joust_http_call *call, joust_error *err);
void joust_http_call_free(joust_http_call **call);

#endif
