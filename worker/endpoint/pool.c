#include "worker/endpoint/pool.h"

#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/digest.h"

#define FIRST_WAIT_MS 100
#define LAST_WAIT_MS  30000

typedef struct server {
    uint64_t hash;                  /* of the URL */
    uint32_t outstanding, failures; /* failures in a row */
    uint32_t rests;                 /* rests without an answer between */
    bool ready;
    joust_breaker breaker;
    int64_t until_ms; /* OPEN: end of the rest; CLOSED: it asked to be left alone until then */
} server;

struct joust_endpoint_pool {
    uint32_t n, concurrency, failures, rest_ms;
    server *servers;
};

joust_status joust_endpoint_pool_create(const char *const *urls, uint32_t n, uint32_t concurrency,
                                        uint32_t failures, uint32_t rest_ms,
                                        joust_endpoint_pool **ret, joust_error *err)
{
    joust_endpoint_pool *pool = joust_calloc(1, sizeof(*pool));
    server *servers = joust_calloc(n, sizeof(*servers));
    if (!pool || !servers) {
        joust_free(pool);
        joust_free(servers);
        return joust_fail(err, JOUST_NOMEM, "endpoint: %u servers", n);
    }
    *pool = (joust_endpoint_pool){.n = n,
                                  .concurrency = concurrency,
                                  .failures = failures,
                                  .rest_ms = rest_ms,
                                  .servers = servers};
    for (uint32_t i = 0; i < n; i++)
        servers[i].hash = joust_checksum(urls[i], strlen(urls[i]));
    *ret = pool;
    return JOUST_OK;
}

void joust_endpoint_pool_free(joust_endpoint_pool **pool)
{
    if (*pool)
        joust_free((*pool)->servers);
    joust_free(*pool);
    *pool = NULL;
}

/* Highest weight first: when servers come and go, only the keys of those move. */
static uint64_t weight(const server *s, uint64_t key)
{
    uint64_t both[2] = {s->hash, key};
    return joust_checksum(both, sizeof(both));
}

/* When it takes a request: now or before; INT64_MAX: once one of its requests ends. */
static int64_t takes_at(const joust_endpoint_pool *pool, const server *s)
{
    bool one_at_a_time = s->breaker != JOUST_BREAKER_CLOSED;
    if (!s->ready || s->outstanding >= (one_at_a_time ? 1 : pool->concurrency))
        return INT64_MAX;
    return s->until_ms;
}

uint32_t joust_endpoint_pool_pick(joust_endpoint_pool *pool, uint64_t key, uint32_t avoid,
                                  int64_t now_ms, int64_t *ret_at_ms)
{
    uint32_t first = JOUST_NO_SERVER, idlest = JOUST_NO_SERVER;
    int64_t soonest = INT64_MAX;
    for (uint32_t i = 0; i < pool->n; i++) {
        const server *s = &pool->servers[i];
        int64_t at = takes_at(pool, s);
        soonest = at < soonest ? at : soonest;
        if (at > now_ms || i == avoid)
            continue;
        if (first == JOUST_NO_SERVER || weight(s, key) > weight(&pool->servers[first], key))
            first = i;
        if (idlest == JOUST_NO_SERVER || s->outstanding < pool->servers[idlest].outstanding)
            idlest = i;
    }
    *ret_at_ms = soonest;
    if (first == JOUST_NO_SERVER && avoid < pool->n &&
        takes_at(pool, &pool->servers[avoid]) <= now_ms)
        return avoid;
    if (first == JOUST_NO_SERVER)
        return first;
    uint32_t slack = pool->concurrency / 2;
    bool busy = pool->servers[first].outstanding > pool->servers[idlest].outstanding + slack;
    return busy ? idlest : first;
}

void joust_endpoint_pool_begin(joust_endpoint_pool *pool, uint32_t index)
{
    server *s = &pool->servers[index];
    s->outstanding++;
    if (s->breaker == JOUST_BREAKER_OPEN)
        s->breaker = JOUST_BREAKER_HALF_OPEN;
}

static void rest(const joust_endpoint_pool *pool, server *s, int64_t now_ms)
{
    int64_t ms = (int64_t)pool->rest_ms << (s->rests < 16 ? s->rests : 16);
    s->rests++;
    s->breaker = JOUST_BREAKER_OPEN;
    s->failures = 0;
    s->until_ms = now_ms + (ms < JOUST_ENDPOINT_MAX_REST_MS ? ms : JOUST_ENDPOINT_MAX_REST_MS);
}

void joust_endpoint_pool_end(joust_endpoint_pool *pool, uint32_t index,
                             joust_endpoint_outcome outcome, int64_t retry_after_ms, int64_t now_ms)
{
    server *s = &pool->servers[index];
    bool tried = s->breaker == JOUST_BREAKER_HALF_OPEN;
    s->outstanding--;
    switch (outcome) {
    case JOUST_ENDPOINT_ANSWERED:
        if (s->breaker == JOUST_BREAKER_OPEN) /* asked before the rest began */
            break;
        s->breaker = JOUST_BREAKER_CLOSED;
        s->failures = s->rests = 0;
        break;
    case JOUST_ENDPOINT_FAILED:
        s->failures++;
        if (tried || (s->breaker == JOUST_BREAKER_CLOSED && s->failures >= pool->failures))
            rest(pool, s, now_ms);
        break;
    case JOUST_ENDPOINT_UNFIT:
        if (s->breaker != JOUST_BREAKER_OPEN)
            rest(pool, s, now_ms);
        break;
    case JOUST_ENDPOINT_BUSY:
    case JOUST_ENDPOINT_ABANDONED:
        if (tried) /* it is there, but didn't answer: tried again */
            s->breaker = JOUST_BREAKER_OPEN;
        break;
    }
    if (retry_after_ms > JOUST_ENDPOINT_MAX_REST_MS)
        retry_after_ms = JOUST_ENDPOINT_MAX_REST_MS;
    if (retry_after_ms > 0 && now_ms + retry_after_ms > s->until_ms)
        s->until_ms = now_ms + retry_after_ms;
}

void joust_endpoint_pool_set_ready(joust_endpoint_pool *pool, uint32_t index, bool ready)
{
    pool->servers[index].ready = ready;
}

void joust_endpoint_pool_refresh(joust_endpoint_pool *pool, uint32_t index)
{
    server *s = &pool->servers[index];
    s->failures = s->rests = 0;
    s->breaker = JOUST_BREAKER_CLOSED;
    s->until_ms = 0;
}

int64_t joust_endpoint_pool_look_at(const joust_endpoint_pool *pool, uint32_t index)
{
    const server *s = &pool->servers[index];
    return s->outstanding ? INT64_MAX : s->until_ms;
}

joust_breaker joust_endpoint_pool_breaker(const joust_endpoint_pool *pool, uint32_t index)
{
    return pool->servers[index].breaker;
}

uint32_t joust_endpoint_pool_outstanding(const joust_endpoint_pool *pool, uint32_t index)
{
    return pool->servers[index].outstanding;
}

int64_t joust_endpoint_backoff(const joust_stream *stream, uint32_t tries, int64_t retry_after_ms)
{
    uint32_t doublings = tries > 1 ? tries - 1 : 0;
    int64_t ms = doublings < 16 ? (int64_t)FIRST_WAIT_MS << doublings : LAST_WAIT_MS;
    ms = ms < LAST_WAIT_MS ? ms : LAST_WAIT_MS;
    ms -= (int64_t)joust_stream_below(stream, tries, (uint64_t)ms / 2 + 1);
    return retry_after_ms > ms ? retry_after_ms : ms;
}
