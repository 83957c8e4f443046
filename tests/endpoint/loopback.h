/* An OpenAI-compatible server on the loopback that answers by a formula, and misbehaves as told: for tests of the
 * endpoint client. It adds the numbers in the prompt and writes "… #### SUM", or a wrong sum, by the seed; a token is a byte.
 * What it gives to some words as the first of an answer (top_logprobs) is what it gives to them behind the prompt (echo, which
 * only vLLM's and SGLang's know), by a hash of prompt and weights; a prompt with "#### N" in it gets more of a yes if N is odd. */
#ifndef JOUST_TESTS_ENDPOINT_LOOPBACK_H
#define JOUST_TESTS_ENDPOINT_LOOPBACK_H

#include <stdbool.h>
#include <stdint.h>

typedef enum loopback_fault {
    LOOPBACK_SLOW,      /* waits slow_ms, then answers */
    LOOPBACK_CUT,       /* closes without an answer */
    LOOPBACK_BUSY,      /* 429 with Retry-After: 1 */
    LOOPBACK_ERROR,     /* 500 */
    LOOPBACK_MALFORMED, /* what isn't JSON */
    LOOPBACK_HALF,      /* half of the body, then closes */
    LOOPBACK_COUNT,     /* a choice too few or too many */
    LOOPBACK_NAN,       /* a log-prob that is NaN */
    LOOPBACK_MODEL,     /* another model's name */
    LOOPBACK_DENIED,    /* 401 */
    LOOPBACK_BARE,      /* no log-probs */
    LOOPBACK_POSITIVE,  /* log-probs above 0 */
    LOOPBACK_FAULTS
} loopback_fault;

const char *loopback_fault_name(loopback_fault fault);

typedef struct loopback_options {
    uint16_t port;     /* 0: any */
    const char *model; /* the one it lists */
    const char *owner; /* "vllm", "sglang", "llamacpp", … */
    const char *key;   /* what Authorization must hold, or NULL */
    uint64_t seed;
    uint64_t weights;                      /* another number: another model behind the same name */
    uint32_t percent[LOOPBACK_FAULTS];     /* of the requests for answers, each fault by itself */
    bool no_list;                          /* it answers 500 to who asks for its models */
    const char *lists;                     /* the one in its list, if not `model` */
    bool no_logprobs;                      /* it never gives any */
    bool good_probes;                      /* to those it answers without a fault */
    const char *retry_after;               /* of BUSY; NULL: "1" */
    const char *tls_key, *tls_certificate; /* PEM: it speaks https; NULL: http */
    uint32_t slow_ms;
    uint32_t answer_ms; /* every answer takes so long */
    const char *log;    /* file to append to: "WALL_MS ask|ok|FAULT ID" a line; or NULL */
} loopback_options;

typedef struct loopback loopback;

/* NULL: it can't be started. */
loopback *loopback_start(const loopback_options *options);
void loopback_stop(loopback *server);
uint16_t loopback_port(const loopback *server);
uint64_t loopback_asked(const loopback *server);       /* requests for answers so far */
uint64_t loopback_connections(const loopback *server); /* opened so far */
/* From now on. */
void loopback_set_percent(loopback *server, loopback_fault fault, uint32_t percent);
void loopback_set_weights(loopback *server, uint64_t weights);
/* The largest number of requests that were under way at once. */
uint32_t loopback_widest(const loopback *server);

#endif
