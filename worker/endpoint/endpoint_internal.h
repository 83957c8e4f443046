/* Inside the endpoint client: endpoint.c (requests), endpoint_transfer.c (libcurl), endpoint_look.c (looking at
 * servers). */
#ifndef JOUST_WORKER_ENDPOINT_INTERNAL_H
#define JOUST_WORKER_ENDPOINT_INTERNAL_H

#include <curl/curl.h>

#include "worker/endpoint/endpoint.h"
#include "worker/endpoint/pool.h"

#define JOUST_FINGERPRINT_TOKENS 8u

/* What a server answers to the fixed text. */
typedef struct joust_fingerprint {
    joust_digest text;
    uint32_t n;
    float logps[JOUST_FINGERPRINT_TOKENS]; /* (n) */
} joust_fingerprint;

#define JOUST_PROBE_IDS          8u
#define JOUST_KNOWN_FINGERPRINTS 8u

/* A fingerprint and its name: what is alike has one name. */
typedef struct joust_known_fingerprint {
    joust_fingerprint fingerprint;
    joust_digest name;
} joust_known_fingerprint;

typedef enum joust_look { /* what is known of a server since its last look began */
                          JOUST_LOOK_DUE,
                          JOUST_LOOK_MODELS, /* it is asked for its models */
                          JOUST_LOOK_TEXT,   /* it answers the fixed text */
                          JOUST_LOOK_SCORE,  /* it scores a label */
                          JOUST_LOOK_HELD, /* it has a fingerprint, others haven't been looked at yet */
                          JOUST_LOOK_READY,
                          JOUST_LOOK_DOWN /* it isn't looked at */
} joust_look;

typedef struct joust_endpoint_server_state {
    const char *url;
    joust_endpoint_server kind;
    joust_look look;
    bool tried;                     /* a look since all were due has ended, well or badly */
    joust_endpoint_scoring scoring; /* SCORE: in which way */
    uint32_t n_score_errors;        /* in a row */
    uint32_t unfit;                 /* looks in a row that found what time won't mend */
    uint32_t vain;                  /* rests in a row for such a thing, found by requests */
    bool lost;                      /* it won't come up any more */
    uint32_t n_proved;              /* exchanges of this look whose answers fit */
    bool has_fingerprint;
    joust_fingerprint fingerprint;
    uint64_t n_answers, n_failures; /* tries of requests */
    int64_t told_ms;                /* when the log last spoke of it */
    char why[320];                  /* the last failure */
} joust_endpoint_server_state;

/* One exchange under way. */
typedef struct joust_transfer {
    struct joust_transfer *next; /* in the list of idle ones */
    CURL *easy;
    struct curl_slist *headers;
    joust_buf sent, received;
    size_t limit;
    bool too_large;
    uint32_t server, request; /* request: JOUST_NONE for a look */
    int64_t begun_us;
    char problem[CURL_ERROR_SIZE];
} joust_transfer;

/* What came of an exchange. */
typedef struct joust_exchange {
    joust_endpoint_outcome outcome; /* ANSWERED with refused: the request's own fault */
    bool refused;
    bool late;   /* it took too long, or there is too much to do */
    bool gone;   /* nobody listens there: it may come back as another */
    long status; /* of HTTP; 0: there was no answer */
    int64_t retry_after_ms;
    char why[320]; /* without secrets; "" if there is a body to read */
} joust_exchange;

struct joust_endpoint {
    const joust_job_endpoint *settings;
    char *authorization; /* the header, or NULL */
    const char *key;     /* the part of it that is secret */
    uint32_t round;
    joust_endpoint_pool *pool;
    joust_endpoint_server_state servers[JOUST_MAX_URLS];
    bool has_reference;
    joust_fingerprint reference;
    joust_digest reference_name;
    uint32_t n_known;
    joust_known_fingerprint known[JOUST_KNOWN_FINGERPRINTS]; /* newest first */
    bool scores;                                             /* it is a judge's */
    uint32_t n_probe_prompt, n_probe_label;                  /* by token ids; 0: by text */
    uint32_t probe_prompt[JOUST_PROBE_IDS], probe_label[JOUST_PROBE_IDS];
    joust_endpoint_scoring scoring; /* AUTO: not known yet */
    uint64_t n_answers;
    const joust_endpoint_proof *proof; /* or NULL */
    CURLM *multi;
    joust_transfer *idle;
    int64_t
        ended_ms; /* when the last run did: looks go on in the next, so that short runs get to an end of them */
    uint32_t n_transfers; /* under way */
    joust_transfer **transfers;
    size_t capacity;
};

/* endpoint_transfer.c. body: NULL for GET; taken otherwise. Errors: JOUST_NOMEM, JOUST_IO. */
JOUST_MUST_USE joust_status joust_transfer_begin(joust_endpoint *e, uint32_t server,
                                                 uint32_t request, const char *path,
                                                 joust_buf *body, const char *id, size_t limit,
                                                 joust_error *err);
/* Puts ask to a server: its endpoint and server are filled in here. Errors: those of joust_endpoint_body too, and then nothing
 * is sent. */
JOUST_MUST_USE joust_status joust_transfer_ask(joust_endpoint *e, uint32_t server, uint32_t request,
                                               joust_endpoint_ask ask, const char *id,
                                               joust_error *err);
/* The next exchange that is over, or NULL; *ret says how it went. End it with joust_transfer_end. */
joust_transfer *joust_transfer_next(joust_endpoint *e, joust_exchange *ret);
void joust_transfer_end(joust_endpoint *e, joust_transfer *t);
/* Ends the requests under way: nobody waits for them. */
void joust_transfer_abandon_requests(joust_endpoint *e, int64_t now_ms);
/* Looks at that server, or JOUST_NONE: at any. They are due again. */
void joust_transfer_abandon_looks(joust_endpoint *e, uint32_t server, int64_t now_ms);
void joust_transfer_fini(joust_endpoint *e);
/* Takes the key out of a text. */
void joust_endpoint_redact(const joust_endpoint *e, char *text);

/* endpoint_look.c */
/* Begins the looks that are due. *ret_at_ms: lowered to when the next one is. */
JOUST_MUST_USE joust_status joust_look_begin(joust_endpoint *e, int64_t now_ms, int64_t *ret_at_ms,
                                             joust_error *err);
/* An exchange of a look is over (the transfer stays the caller's). */
JOUST_MUST_USE joust_status joust_look_end(joust_endpoint *e, const joust_transfer *t,
                                           const joust_exchange *x, int64_t now_ms,
                                           joust_error *err);
/* All that are up are to be looked at. */
void joust_look_all(joust_endpoint *e);
/* A request failed at the server: after a rest it is looked at again. */
void joust_look_failed(joust_endpoint *e, uint32_t server, const char *why, bool gone,
                       int64_t now_ms);
/* Whether each server was found at fault for what time won't mend, by so many looks or rests in a row: of what they find, or
 * of what requests do behind looks that find nothing. why names each. */
#define JOUST_UNFIT_LOOKS 3u
bool joust_look_all_unfit(const joust_endpoint *e, uint32_t times, char why[1024]);

#endif
