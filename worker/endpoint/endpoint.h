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

#include "proto/messages.h"
#include "worker/endpoint/wire.h"

typedef struct joust_endpoint joust_endpoint;

/* settings: kept. Errors: JOUST_NOT_FOUND: the variable of the key isn't set; JOUST_INVALID: it holds what can't be
 * a header; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_endpoint_create(const joust_job_endpoint *settings,
                                                  joust_endpoint **ret, joust_error *err);
void joust_endpoint_free(joust_endpoint **endpoint);

/* Servers are looked at again if the round is another than before. */
void joust_endpoint_begin_round(joust_endpoint *endpoint, uint32_t round);
/* The endpoint is a judge's: it scores labels, and looks find out how (echo, or the likeliest first tokens: all servers in
 * one way; one that can in neither gets no work and is told the remedy). Where every server answers the probe otherwise than
 * before, the model behind their name was swapped: the log says so, and reports have another fingerprint from then on. (Where
 * a job's answers come from it, such servers get no work instead.) */
void joust_endpoint_score_labels(joust_endpoint *endpoint);
/* Requests will have label_ids: looks find out how with token ids too, by the first few of a prompt and of what may follow it (1
 * or more each, which the model knows); copied. The first call stands. */
void joust_endpoint_score_ids(joust_endpoint *endpoint, const joust_endpoint_label *prompt,
                              const joust_endpoint_label *label);
/* Requests that a server has answered or refused so far. */
uint64_t joust_endpoint_answers(const joust_endpoint *endpoint);

/* What shows that a server has the weights that it should have: it samples answers to probes, and who knows the weights
 * looks at the log-probs that it gives. Instead of a comparison of the servers with each other. */
#define JOUST_PROOF_SAMPLES                                                                        \
    8u /* of a probe, at temperature 1: unlikely tokens tell weights apart */
#define JOUST_PROOF_TOKENS 16u

/* Which answer is shown: a probe's samples come in one exchange, or, from servers that give one at a time, in as many. */
typedef struct joust_endpoint_probed {
    uint32_t server, probe;
    uint32_t exchange, n_exchanges; /* of the look */
} joust_endpoint_probed;

typedef struct joust_endpoint_proof {
    uint32_t n;
    const uint32_t *const *probes; /* (n) of token ids */
    const uint32_t *n_ids;         /* (n) */
    /* The answer to a probe; each choice has ids and log-probs. JOUST_STALE: not these weights; why says what was seen.
     * Errors whose scope is the process end the run. */
    joust_status (*fits)(void *context, const joust_endpoint_probed *what,
                         const joust_endpoint_answer *answer, joust_error *why);
    void *context;
} joust_endpoint_proof;

/* From now on a server gets requests once it fits (again). proof: kept. */
void joust_endpoint_prove(joust_endpoint *endpoint, const joust_endpoint_proof *proof);

/* For who starts the servers: */

/* A server that isn't up is neither looked at nor asked; all are up at first. One that comes up is looked at. */
void joust_endpoint_set_up(joust_endpoint *endpoint, uint32_t server, bool up);
/* It won't come up any more, for that reason. If it is so with all, requests fail. */
void joust_endpoint_give_up(joust_endpoint *endpoint, uint32_t server, const char *why);
/* Whether it was found unfit again and again, so that time won't mend it; *ret_why: view, or NULL. */
bool joust_endpoint_is_unfit(const joust_endpoint *endpoint, uint32_t server, const char **ret_why);
bool joust_endpoint_is_ready(const joust_endpoint *endpoint, uint32_t server);

/* How a server is doing, for displays; model: its name under models:. */
void joust_endpoint_describe_server(const joust_endpoint *endpoint, uint32_t server,
                                    const char *model, joust_server_status *ret);
/* The same of all its servers, appended to the list. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_endpoint_describe(const joust_endpoint *endpoint,
                                                    const char *model, joust_server_status **list,
                                                    uint32_t *n, joust_error *err);

typedef struct joust_endpoint_request {
    const char *prompt;   /* borrowed; or NULL, and then */
    bool is_conversation; /* the prompt is one, as JSON: joust_prompt.messages; mode: chat */
    const uint32_t *ids;  /* (n_ids) its token ids, borrowed */
    uint32_t n_ids;
    const joust_sampling *sampling;
    const joust_job_rollout *rollout; /* whose stop strings count, or NULL */
    uint32_t n;                       /* choices */
    joust_stream stream; /* of its first sample: its seed, and the jitter of its waits */
    uint64_t key;        /* requests of one key go to one server where that can be */
    char id[64];         /* X-Joust-Request: what it is for */
    /* Of an endpoint that scores labels: instead of an answer, what each of these is worth behind the prompt. sampling and n
     * don't count. */
    const char *const *labels; /* (n_labels), borrowed; at most JOUST_MAX_LABELS */
    uint32_t n_labels;
    const joust_endpoint_label
        *label_ids; /* (n_labels), borrowed, where ids is the prompt; or NULL */
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
    /* A request with labels is answered so. May be NULL where there are none. */
    joust_status (*scored)(void *context, uint32_t request, const joust_endpoint_scores *scores,
                           const joust_endpoint_report *report, joust_error *err);
    /* why->status: JOUST_INVALID: it was refused for what it says; JOUST_MALFORMED: its answers make no sense, or don't name a
     * label; JOUST_DENIED: a filter withheld it; its deadline is over, and the last try took too long (JOUST_TIMEOUT) or broke
     * (JOUST_UNREACHABLE); JOUST_UNSUPPORTED: servers can't do what it asks for, or none can be asked
     * for reasons that time won't mend: looks find them, or each server's answers to requests show them again and again. */
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
