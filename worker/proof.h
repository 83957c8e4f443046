/* The proof that a server has the weights of a version: it samples answers to fixed texts, and the built-in engine computes
 * what those weights give to each token that it answered. Over the tokens of a text
 *   mean |ours - its|  must be at most the tolerance, and less than with the version that it had before, if that is known
 *   max  |ours - its|  must be at most JOUST_PROOF_OUTLIER times the tolerance
 * (a server of another precision or kernels is off by some hundredths of a nat, by more at unlikely tokens). Servers of one
 * command compute alike, so what the best of them was off by shows what the right weights are off by here: once a server has
 * fitted, the tolerance of all is JOUST_PROOF_SLACK times the least mean that one was off by over a whole look, no less than
 * JOUST_PROOF_FLOOR and never more than the job's.
 * Thread: the engine's. */
#ifndef JOUST_WORKER_PROOF_H
#define JOUST_WORKER_PROOF_H

#include "worker/endpoint/endpoint.h"
#include "worker/engine/generate.h"
#include "worker/engine/text/tokenizer.h"

#define JOUST_PROBES        4u
#define JOUST_PROOF_OUTLIER 20.0
#define JOUST_PROOF_SLACK   5.0
#define JOUST_PROOF_FLOOR   0.001 /* nats */

typedef struct joust_proof {
    joust_endpoint_proof proof; /* its context is this: doesn't move */
    joust_engine *engine;
    joust_model *model;  /* of the version; the owner sets it before each use */
    joust_model *before; /* of the version before, or NULL; likewise */
    double tolerance;    /* nats a token: the job's */
    double calibrated; /* the least of that and what servers have shown; joust_proof_init sets it */
    double looks[JOUST_MAX_URLS]; /* of each server's look under way: the largest mean so far */
    joust_tokens texts[JOUST_PROBES];
    const uint32_t *ids[JOUST_PROBES];
    uint32_t n_ids[JOUST_PROBES];
} joust_proof;

/* Fills *to, which is where it stays: the probes' tokens by the version's tokenizer, after the model's first token.
 * Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_proof_init(joust_engine *engine, joust_model *model,
                                             const joust_tokenizer *tokenizer, double tolerance,
                                             joust_proof *to, joust_error *err);
void joust_proof_fini(joust_proof *proof);

#endif
