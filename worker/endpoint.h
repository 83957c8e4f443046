/* A client of OpenAI-compatible servers that all serve one model: many requests under way at once,
 * each tried again until it is answered or its deadline is over.
 *
 *   request ─▶ waits ─▶ a server of the pool ─▶ answer, checked ─▶ answered
 *                ▲            │ no answer, no sense, too busy, another model
 *                └─ backoff ──┘
 *
 * Before a server gets requests it is looked at: it must list the model, and what it answers to a fixed
 * text must be what the other servers answer (its fingerprint). So it is again each round, and after it
 * failed. A server that doesn't fit is named in the log and gets nothing.
 *
 * The API key is read from the environment when the client is made; it goes into requests' headers
 * and nowhere else. Certificates are verified; redirects aren't followed. Thread: the compute thread. */
#ifndef JOUST_WORKER_ENDPOINT_H
#define JOUST_WORKER_ENDPOINT_H

#include "proto/job.h"
#include "worker/endpoint_wire.h"

typedef struct joust_endpoint joust_endpoint;

/* settings: kept. Errors: JOUST_NOT_FOUND: the variable of the key isn't set; JOUST_INVALID: it holds what can't be
 * a header; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_endpoint_create(const joust_job_endpoint *settings,
                                                  joust_endpoint **ret, joust_error *err);
void joust_endpoint_free(joust_endpoint **endpoint);

/* Servers are looked at again if the round is another than before. */
void joust_endpoint_begin_round(joust_endpoint *endpoint, uint32_t round);

typedef struct joust_endpoint_request {
    const char *prompt; /* borrowed */
    const joust_sampling *sampling;
    const joust_job_rollout *rollout; /* whose stop strings count, or NULL */
    uint32_t n;          /* choices */
    joust_stream stream; /* of its first sample: its seed, and the jitter of its waits */
    uint64_t key;        /* requests of one key go to one server where that can be */
    char id[64];         /* X-Request-Id: what it is for */
} joust_endpoint_request;

/* How the try went that gave the answer. */
typedef struct joust_endpoint_report {
    const char *url;
    uint32_t tries;
    int64_t latency_us;
    joust_digest fingerprint;
} joust_endpoint_report;

typedef struct joust_endpoint_calls {
    /* answer: takes (zeroed). A status other than OK ends the run with it, as in all of these. */
    joust_status (*answered)(void *context, uint32_t request, joust_endpoint_answer *answer,
                             const joust_endpoint_report *report, joust_error *err);
    /* It was refused for what it says, or its deadline is over. */
    joust_status (*failed)(void *context, uint32_t request, const joust_error *why,
                           joust_error *err);
    /* Whether its answer is still waited for; asked before each try. Without it none of its calls follows. May be NULL. */
    bool (*wanted)(void *context, uint32_t request);
    /* Some ten times a second. */
    joust_status (*step)(void *context, uint64_t n_answered, joust_error *err);
    void *context;
} joust_endpoint_calls;

/* Asks all: each that stays wanted ends in one call of answered or failed, in any order. Errors: those of the calls; JOUST_NOMEM; JOUST_IO. */
JOUST_MUST_USE joust_status joust_endpoint_run(joust_endpoint *endpoint,
                                               const joust_endpoint_request *requests, uint32_t n,
                                               const joust_endpoint_calls *calls, joust_error *err);

/* The seed that a request is sent with. */
uint64_t joust_endpoint_seed(const joust_stream *stream);

#endif
