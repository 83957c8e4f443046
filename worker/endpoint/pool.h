/* Which of several servers of the same model is asked next. Pure: time is an argument, nothing is
 * random. A key (a group's prompt) goes to the same server as long as that one takes work, so that
 * its prefix cache serves the group; a server that has much more to do than the least busy one gives
 * way to that.
 *
 *   CLOSED ── failures in a row ──▶ OPEN ── rest is over ──▶ HALF-OPEN: one request tries it
 *     ▲                              ▲                          │      │
 *     └────────── it answers ────────┼──────────────────────────┘      │
 *                                    └──── it fails: rests twice as long ┘
 *
 * Thread: one at a time. */
#ifndef JOUST_WORKER_ENDPOINT_POOL_H
#define JOUST_WORKER_ENDPOINT_POOL_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/random.h"
#include "proto/base/status.h"

#define JOUST_ENDPOINT_MAX_REST_MS 60000 /* a server rests no longer at a time */

typedef struct joust_endpoint_pool joust_endpoint_pool;

typedef enum joust_breaker {
    JOUST_BREAKER_CLOSED,
    JOUST_BREAKER_OPEN,
    JOUST_BREAKER_HALF_OPEN
} joust_breaker;

typedef enum joust_endpoint_outcome {
    JOUST_ENDPOINT_ANSWERED, /* an answer that could be used, or the request's own fault */
    JOUST_ENDPOINT_FAILED,   /* no answer, or one that makes no sense */
    JOUST_ENDPOINT_BUSY,     /* it says that it has too much to do: it rests, but hasn't failed */
    JOUST_ENDPOINT_UNFIT,    /* wrong model, no permission: it rests at once */
    JOUST_ENDPOINT_ABANDONED /* nobody waited for the answer */
} joust_endpoint_outcome;

/* urls: kept. concurrency: requests under way at one server. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_endpoint_pool_create(const char *const *urls, uint32_t n,
                                                       uint32_t concurrency, uint32_t failures,
                                                       uint32_t rest_ms, joust_endpoint_pool **ret,
                                                       joust_error *err);
void joust_endpoint_pool_free(joust_endpoint_pool **pool);

#define JOUST_NO_SERVER UINT32_MAX
/* The server for a request of that key, or JOUST_NO_SERVER: then *ret_at_ms is when to ask again,
 * INT64_MAX if only once a request ends. `avoid` (or JOUST_NO_SERVER) is taken only if no other can be:
 * it failed this request just now. */
uint32_t joust_endpoint_pool_pick(joust_endpoint_pool *pool, uint64_t key, uint32_t avoid,
                                  int64_t now_ms, int64_t *ret_at_ms);
/* The picked server gets the request; every one is ended. */
void joust_endpoint_pool_begin(joust_endpoint_pool *pool, uint32_t server);
/* retry_after_ms: how long it asks to be left alone, 0: it doesn't say. */
void joust_endpoint_pool_end(joust_endpoint_pool *pool, uint32_t server,
                             joust_endpoint_outcome outcome, int64_t retry_after_ms,
                             int64_t now_ms);

/* A server that isn't ready gets no request; none is at first. */
void joust_endpoint_pool_set_ready(joust_endpoint_pool *pool, uint32_t server, bool ready);
/* It is another process now: what it did before is forgotten, but for the requests that it has. */
void joust_endpoint_pool_refresh(joust_endpoint_pool *pool, uint32_t server);
/* When a server that isn't ready may be looked at: INT64_MAX while it has a request. */
int64_t joust_endpoint_pool_look_at(const joust_endpoint_pool *pool, uint32_t server);
joust_breaker joust_endpoint_pool_breaker(const joust_endpoint_pool *pool, uint32_t server);
uint32_t joust_endpoint_pool_outstanding(const joust_endpoint_pool *pool, uint32_t server);

/* How long a request waits before try number `tries` + 1: 100 ms doubled with each, at most 30 s, of
 * which the stream takes away up to a half. A longer retry_after_ms counts instead. */
int64_t joust_endpoint_backoff(const joust_stream *stream, uint32_t tries, int64_t retry_after_ms);

#endif
