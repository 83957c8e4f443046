/* One micro-batch of training: the forward pass with its activations kept, and the backward pass.
 * A micro-batch is a stem of tokens and up to two branches that continue it: a preference pair is
 * its prompt, the chosen and the rejected response, so that the prompt is computed once; a
 * supervised row is a stem alone. Thread: each thread has its own tape; the model is read only. */
#ifndef JOUST_WORKER_ENGINE_TRAIN_TAPE_INTERNAL_H
#define JOUST_WORKER_ENGINE_TRAIN_TAPE_INTERNAL_H

#include "worker/engine/forward_internal.h"

#define JOUST_TAPE_PARTS 3u /* stem, branch, branch */

typedef struct joust_tape_part {
    const uint32_t *tokens;
    uint32_t n;
} joust_tape_part;

/* What attention's backward pass needs of a part, for one layer at a time. */
typedef struct joust_tape_keys {
    joust_kv kv;
    float *values;                               /* lanes over positions */
    float *key_rows, *d_key_rows, *d_value_rows; /* (n_kv, capacity, head_ld) */
} joust_tape_keys;

struct joust_tape_device; /* tape_device.c */

typedef struct joust_tape {
    struct joust_tape_device *
        device; /* the pass is a device's; of what follows only parts, rows' and wanted's are used. Or NULL */
    joust_forward forward;
    joust_tape_part parts[JOUST_TAPE_PARTS];
    joust_tape_keys keys[JOUST_TAPE_PARTS];
    uint32_t first_row[JOUST_TAPE_PARTS];
    uint32_t n_rows, n_wanted;      /* rows; those whose logits are wanted */
    uint32_t row_room, wanted_room; /* what the blocks below hold */
    bool recompute; /* a layer's activations are computed again for its backward pass, not kept */
    joust_row *rows;
    uint32_t *wanted;                /* (n_wanted) row numbers, rising */
    joust_activations *layers;       /* (n_layers) */
    float *row_block, *wanted_block; /* hold all that follows */
    float *dx, *d_normed, *d_qkv, *d_mixed, *d_gate_up, *d_hidden; /* (rows, ld) */
    float *d_low;                                                  /* (rows, longest low_ld) */
    float *sink; /* with an adapter: what nobody asks for, a width's */
    float *x_wanted, *normed, *norm_r, *logits, *d_logits, *d_head; /* (wanted, ld) */
    joust_log_sum *sums;                                            /* (wanted) */
    float *head_block, *query, *d_out, *d_query;                    /* (n_heads, head_ld) */
    float *p, *ds;                                                  /* context + 32 */
} joust_tape;

/* With recompute less memory and a forward pass more; the same bits. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_tape_create(const joust_engine *engine, const joust_model *m,
                                              bool recompute, joust_tape **ret, joust_error *err);
void joust_tape_free(joust_tape **tape);
/* Lays out rows for the parts and clears `wanted`. The tokens are borrowed until the backward pass
 * is done. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_tape_begin(joust_tape *t, const joust_tape_part *parts,
                                             uint32_t n_parts, joust_error *err);
/* Wants the logits after a row; rows must be wanted in rising order. Returns their index. */
uint32_t joust_tape_want(joust_tape *t, uint32_t row);
/* Says before the forward pass that the logit or log-probability of a token after wanted row i will be asked for: a device
 * keeps no others. */
JOUST_MUST_USE joust_status joust_tape_ask(joust_tape *t, uint32_t i, uint32_t token,
                                           joust_error *err);
/* Index of a wanted row. */
uint32_t joust_tape_find(const joust_tape *t, uint32_t row);
/* Fills logits and sums of the wanted rows and zeroes d_logits. Errors: JOUST_NOMEM,
 * JOUST_NOT_FINITE. */
JOUST_MUST_USE joust_status joust_tape_forward(joust_tape *t, joust_error *err);
/* Log-probability of token after wanted row i: the same bits as generation and scoring give. */
float joust_tape_logp(const joust_tape *t, uint32_t i, uint32_t token);
/* d_logits of wanted row i += factor * the gradient of log p(token). */
void joust_tape_pull(joust_tape *t, uint32_t i, uint32_t token, float factor);
float joust_tape_logit(const joust_tape *t, uint32_t i, uint32_t token);
/* The same of the logit itself: d_logits of wanted row i at the token += factor. */
void joust_tape_add(joust_tape *t, uint32_t i, uint32_t token, float factor);
/* Entropy after wanted row i, in nats; d_logits += factor times its gradient. Errors: those of a device. */
JOUST_MUST_USE joust_status joust_tape_entropy(joust_tape *t, uint32_t i, double factor,
                                               double *ret, joust_error *err);
/* gradients (as the block of what is trained) = what follows from d_logits; at least one row is
 * wanted. */
void joust_tape_backward(joust_tape *t, float *gradients);

/* ---- on a device ----------------------------------------------------------------------------- */

struct joust_device_trainer;

/* A tape whose passes are of the engine's device; trainer outlives it. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_tape_create_device(joust_engine *engine, const joust_model *m,
                                                     struct joust_device_trainer *trainer,
                                                     bool recompute, joust_tape **ret,
                                                     joust_error *err);
/* The gradient becomes the trainer's sum number `sum`. Errors: JOUST_NOMEM, JOUST_IO, and what the tape met since begin. */
JOUST_MUST_USE joust_status joust_tape_backward_device(joust_tape *t, uint32_t sum,
                                                       joust_error *err);
/* Of tape_device.c, called by the functions above. */
void joust_tape_device_free(joust_tape *t);
JOUST_MUST_USE joust_status joust_tape_device_begin(joust_tape *t, joust_error *err);
JOUST_MUST_USE joust_status joust_tape_device_ask(joust_tape *t, uint32_t i, uint32_t token,
                                                  joust_error *err);
JOUST_MUST_USE joust_status joust_tape_device_forward(joust_tape *t, joust_error *err);
float joust_tape_device_logit(const joust_tape *t, uint32_t i, uint32_t token);
float joust_tape_device_logp(const joust_tape *t, uint32_t i, uint32_t token);
void joust_tape_device_pull(joust_tape *t, uint32_t i, uint32_t token, float factor, bool of_logp);
JOUST_MUST_USE joust_status joust_tape_device_entropy(joust_tape *t, uint32_t i, double factor,
                                                      double *ret, joust_error *err);

#endif
