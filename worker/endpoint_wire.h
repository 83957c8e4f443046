/* The bytes of OpenAI-compatible servers: bodies of requests, and answers taken apart. What an answer
 * says is never trusted: sizes, numbers of choices, finite numbers and text are checked, and what is
 * wrong is named. Thread: any. */
#ifndef JOUST_WORKER_ENDPOINT_WIRE_H
#define JOUST_WORKER_ENDPOINT_WIRE_H

#include "proto/base/bytes.h"
#include "proto/job.h"

typedef struct joust_endpoint_ask {
    const joust_job_endpoint *endpoint;
    joust_endpoint_server server; /* not AUTO */
    const joust_sampling *sampling;
    const joust_job_rollout *rollout; /* whose stop strings count, or NULL */
    const char *prompt;               /* text, or NULL: */
    const uint32_t *ids;              /* (n_ids) its token ids; mode: completions */
    uint32_t n_ids;
    uint32_t n;    /* choices */
    uint64_t seed; /* below 2^31 */
} joust_endpoint_ask;

/* Appends the JSON body. Errors: JOUST_UNSUPPORTED: the server can't sample so; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_endpoint_body(const joust_endpoint_ask *ask, joust_buf *to,
                                                joust_error *err);
/* Bytes that an answer may have at most. */
size_t joust_endpoint_answer_limit(uint32_t n, uint32_t max_tokens);

typedef struct joust_endpoint_choice {
    char *text;
    joust_finish finish;
    uint32_t n_tokens; /* 0: the server doesn't give ids and log-probs of all of them */
    uint32_t *tokens;  /* (n_tokens) */
    float *logps;      /* (n_tokens) nats, as the server gives them */
} joust_endpoint_choice;

typedef struct joust_endpoint_answer {
    uint32_t n;
    joust_endpoint_choice *choices; /* (n) by index */
    uint32_t n_prompt_tokens;
    uint32_t *prompt_tokens;                 /* ids of the prompt, or none */
    uint64_t usage_prompt, usage_completion; /* 0: it doesn't say */
} joust_endpoint_answer;

/* The body of a successful answer of n choices. *ret is owned. Errors: JOUST_MALFORMED, JOUST_NOT_FINITE,
 * JOUST_TOO_LARGE (more tokens than asked for); JOUST_STALE: another model answered; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_endpoint_parse(const void *body, size_t n_bytes,
                                                 const joust_job_endpoint *endpoint, uint32_t n,
                                                 uint32_t max_tokens, joust_endpoint_answer *ret,
                                                 joust_error *err);
void joust_endpoint_answer_fini(joust_endpoint_answer *answer);

/* What a failing answer says about why, one printable line of at most 200 bytes: "" if it doesn't. */
void joust_endpoint_error_text(const void *body, size_t n_bytes, char to[256]);

/* The body of GET /models: whose server it is (JOUST_SERVER_OPENAI if it is of no known kind), and
 * whether it lists the model. Errors: JOUST_MALFORMED, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_endpoint_parse_models(const void *body, size_t n_bytes,
                                                        const char *model,
                                                        joust_endpoint_server *ret_server,
                                                        bool *ret_listed, joust_error *err);

#endif
