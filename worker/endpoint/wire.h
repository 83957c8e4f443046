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
    bool is_conversation; /* the text is one as JSON, {"messages": [...], ...}; mode: chat */
    const uint32_t *ids;  /* (n_ids) its token ids; mode: completions */
    uint32_t n_ids;
    uint32_t n;    /* choices */
    uint64_t seed; /* below 2^31 */
    /* Scoring asks for no answer but for log-probs: those of the prompt with this label behind it (mode: completions), or */
    const char *label;
    const uint32_t
        *label_ids; /* (n_label_ids) its token ids, behind ids; label then only names it */
    uint32_t n_label_ids;
    uint32_t top; /* so many of the likeliest first tokens */
} joust_endpoint_ask;

/* Appends the JSON body. Errors: JOUST_UNSUPPORTED: the server can't sample so, or take such a prompt; JOUST_MALFORMED: the
 * conversation is none; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_endpoint_body(const joust_endpoint_ask *ask, joust_buf *to,
                                                joust_error *err);
/* How many of the likeliest tokens are asked for. */
uint32_t joust_endpoint_top(const joust_job_endpoint *endpoint);
/* Bytes that an answer may have at most. */
size_t joust_endpoint_answer_limit(uint32_t n, uint32_t max_tokens);

typedef struct joust_endpoint_choice {
    char *text;
    joust_finish finish;
    uint32_t n_tokens; /* 0: the server doesn't give ids and log-probs of all of them */
    uint32_t *tokens;  /* (n_tokens) */
    uint32_t n_logps;  /* n_tokens, or more where there are no ids */
    float *logps;      /* (n_logps) nats, as the server gives them */
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

/* What labels are worth behind a prompt. */
typedef struct joust_endpoint_scores {
    uint32_t n;
    double logps[JOUST_MAX_LABELS]; /* (n) nats: that the answer begins with the label */
    uint64_t usage_prompt, usage_completion;
} joust_endpoint_scores;

/* The body of an answer to ask.label: the sum of the label's tokens' log-probs. Only the label's end is looked for, so
 * what stands before it may be any text. Adds usage to *ret, and sets logps[label]. Errors: JOUST_UNSUPPORTED: the server gives no
 * log-probs of a prompt; JOUST_INVALID: the label isn't tokens of its own behind this prompt; those of joust_endpoint_parse. */
JOUST_MUST_USE joust_status joust_endpoint_parse_echo(const void *body, size_t n_bytes,
                                                      const joust_job_endpoint *endpoint,
                                                      const char *label, uint32_t index,
                                                      joust_endpoint_scores *ret, joust_error *err);
/* The same where ids were put: the label's tokens are those behind the n_ids of the prompt, and what the server says that it
 * read must be what it was given. ask: ids, label, label_ids. Errors: JOUST_UNSUPPORTED: no log-probs of a prompt, or it read other
 * tokens; those of joust_endpoint_parse. */
JOUST_MUST_USE joust_status joust_endpoint_parse_echo_ids(const void *body, size_t n_bytes,
                                                          const joust_endpoint_ask *ask,
                                                          uint32_t index,
                                                          joust_endpoint_scores *ret,
                                                          joust_error *err);
/* The body of an answer to ask.top: each label must be one of the listed tokens, as it is written. n may be 0. Errors:
 * JOUST_UNSUPPORTED: no tokens are listed; JOUST_INVALID: a label isn't among them; JOUST_DENIED: a filter of the server's
 * withheld the answer; those of joust_endpoint_parse. */
JOUST_MUST_USE joust_status joust_endpoint_parse_top(const void *body, size_t n_bytes,
                                                     const joust_job_endpoint *endpoint,
                                                     const char *const *labels, uint32_t n,
                                                     joust_endpoint_scores *ret, joust_error *err);
/* Labels as they are put to servers where these are given token ids. */
typedef struct joust_endpoint_label {
    const char *text; /* for errors */
    const uint32_t *ids;
    uint32_t n; /* 1 or more */
} joust_endpoint_label;
/* The same by ids. Errors: JOUST_UNSUPPORTED: the listed tokens have no ids; JOUST_INVALID: also a label of several tokens, of
 * which only the first is listed. */
JOUST_MUST_USE joust_status joust_endpoint_parse_top_ids(const void *body, size_t n_bytes,
                                                         const joust_job_endpoint *endpoint,
                                                         const joust_endpoint_label *labels,
                                                         uint32_t n, joust_endpoint_scores *ret,
                                                         joust_error *err);

/* What a failing answer says about why, one printable line of at most 200 bytes: "" if it doesn't. */
void joust_endpoint_error_text(const void *body, size_t n_bytes, char to[256]);

/* The body of GET /models: whose server it is (JOUST_SERVER_OPENAI if it is of no known kind), and
 * whether it lists the model. Errors: JOUST_MALFORMED, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_endpoint_parse_models(const void *body, size_t n_bytes,
                                                        const char *model,
                                                        joust_endpoint_server *ret_server,
                                                        bool *ret_listed, joust_error *err);

#endif
