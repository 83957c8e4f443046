/* Sequences of a batch: what is known of their tokens, and the pages that hold their keys. */
#ifndef JOUST_WORKER_ENGINE_SEQUENCE_INTERNAL_H
#define JOUST_WORKER_ENGINE_SEQUENCE_INTERNAL_H

#include "paged_cache_internal.h"
#include "worker/engine/generate.h"

typedef enum joust_sequence_kind {
    JOUST_SEQUENCE_PROMPT, /* of a group: prompt and forced tokens */
    JOUST_SEQUENCE_SAMPLE, /* prompt and response */
    JOUST_SEQUENCE_SCORE
} joust_sequence_kind;

typedef struct joust_sequence joust_sequence;

/* The samples of one request. */
typedef struct joust_group {
    const joust_generate_request *request;
    uint32_t index, limit; /* of the request; most tokens of a response */
    joust_sequence *prompt;
    joust_sequence *samples; /* (n_samples) */
    uint32_t n_to_begin;     /* samples that may still take the prompt's pages over */
    uint32_t n_left;         /* samples that haven't ended */
    float *forced_logps;     /* (n_forced) raw */
    bool parked;             /* its prompt is computed and holds pages for samples */
    struct joust_group *next_parked, *next;
} joust_group;

struct joust_sequence {
    joust_sequence *next; /* in the list of those that wait */
    joust_sequence_kind kind;
    uint64_t age; /* lower: earlier in line for everything */
    joust_group *group;
    joust_score_request *score;
    uint32_t index, sample; /* of the request in its list */

    const uint32_t *head, *tail; /* the tokens: of the request; of the response */
    uint32_t n_head, n_known;    /* positions whose tokens are known and whose rows are wanted */
    uint32_t n_kv;               /* positions whose keys are in the pages */
    uint32_t n_rows;             /* in the pass at work */

    joust_page **pages;
    void **data; /* of each page */
    uint32_t n_pages, page_room;
    uint32_t n_kept; /* pages in the tree */

    /* SAMPLE */
    uint32_t *tokens;
    float *raw_logps, *logps;
    uint32_t n, room;
    joust_finish finish; /* 0: it goes on */
    bool begun;          /* no longer counted in n_to_begin */
    bool drew;           /* in the pass at work */
};

uint32_t joust_sequence_token(const joust_sequence *s, uint32_t position);
/* Whether the logits after a position are used. */
bool joust_sequence_wants(const joust_sequence *s, uint32_t position);

/* Shares the pages that hold its first tokens: the group's, or the tree's. With less memory to be
 * had than the rest of it needs, *ret_ok is false and nothing is taken. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_sequence_begin(joust_sequence *s, joust_paged *p, bool *ret_ok,
                                                 joust_error *err);
/* One page more; *ret_ok is false if there is none. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_sequence_extend(joust_sequence *s, joust_paged *p, bool *ret_ok,
                                                  joust_error *err);
/* The rows of the pass are computed: full pages go into the tree. */
void joust_sequence_advance(joust_sequence *s, joust_paged *p);
/* Lets go of all pages. */
void joust_sequence_drop(joust_sequence *s, joust_paged *p);
/* Whether another sequence at work is about to fill a page that this one could share. */
bool joust_sequence_could_share(const joust_sequence *s, joust_paged *p,
                                const joust_sequence *other);
/* Adds a token to a response. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_sequence_add(joust_sequence *s, uint32_t token, float raw_logp,
                                               float logp, joust_error *err);
/* Frees its memory; its pages have been dropped. */
void joust_sequence_fini(joust_sequence *s);

#endif
