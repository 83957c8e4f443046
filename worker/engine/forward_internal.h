/* The forward pass, of which there is one: generation, scoring and training call the same
 * functions, and a row's result depends on its token, its position, its keys and the weights
 * alone, so the bits agree. Thread: each thread has its own caches, activations and scratch, or
 * all threads of a pool share one pass; the model is read only. */
#ifndef JOUST_WORKER_ENGINE_FORWARD_INTERNAL_H
#define JOUST_WORKER_ENGINE_FORWARD_INTERNAL_H

#include "engine_internal.h"
#include "model_internal.h"

/* Keys and values of consecutive positions of one sequence. */
typedef struct joust_kv {
    float *data;
    uint32_t capacity; /* positions, a multiple of 16 */
    uint32_t n;        /* positions stored; the forward pass raises it */
    size_t
        layer_stride; /* floats from layer to layer; 0: one layer's room, used for each in turn */
} joust_kv;

/* Room for capacity positions (rounded up) of n_layers layers. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_kv_init(joust_kv *kv, const joust_model *m, uint32_t capacity,
                                          uint32_t n_layers, joust_error *err);
void joust_kv_fini(joust_kv *kv);

/* Positions of a page of paged memory: a page holds their keys and values at every layer,
 * joust_page_floats of them; layer by layer as a joust_kv of this capacity. */
#define JOUST_PAGE_POSITIONS 16u
size_t joust_page_floats(const joust_model *m);

/* One token to compute. Its keys are those of its pages up to itself, or, where pages is NULL, those
 * of prefix (NULL: none), then those of own up to itself. */
typedef struct joust_row {
    uint32_t token, position;
    bool wants_logits;
    void *const *pages; /* page i holds positions 16 i .. 16 i + 15 */
    joust_kv *prefix, *own;
} joust_row;

/* Activations of one layer, (rows, ld) each; x, x_mid and x_out may be the same memory. */
typedef struct joust_activations {
    float *x, *normed, *qkv,
        *mixed; /* before; its norm; query, key, value with positions; attention's output */
    float *x_mid, *normed_ff, *gate_up, *hidden, *x_out;
    float *norm_r, *norm_ff_r; /* (rows) what the norms multiplied by */
    float *stats; /* (rows, 2 n_heads in whole lanes) as joust_attention.stats, or NULL */
    float *low[JOUST_N_PRODUCTS]; /* of the adapter: s (x A'), (rows, low_ld) of each product */
    float *qk,
        *qk_r; /* query and key before their norms, and what those multiplied by a head; or NULL */
} joust_activations;

typedef struct joust_forward {
    const joust_kernels *kernels;
    const joust_model *model;
    joust_widths w;
    float *scores;        /* scratch: context + 16 */
    joust_kv_span *spans; /* scratch: a row's, context / 16 + 2 */
    float *head;          /* scratch: three heads, (3, head_ld), zero past d_head */
    joust_pool *pool;     /* whose threads compute together; NULL: the caller alone */
    struct joust_forward *helpers; /* scratch of its threads but the caller, or NULL */
    uint32_t n_helpers;
} joust_forward;

/* Errors: JOUST_NOMEM. The model must be prepared and stay so. */
JOUST_MUST_USE joust_status joust_forward_init(joust_forward *f, const joust_engine *engine,
                                               const joust_model *m, joust_error *err);
void joust_forward_fini(joust_forward *f);

float joust_forward_scale(const joust_forward *f); /* 1 / sqrt(d_head) */
void joust_forward_embed(const joust_forward *f, const joust_row *rows, uint32_t n, float *x);
void joust_forward_layer(const joust_forward *f, uint32_t layer, const joust_row *rows, uint32_t n,
                         const joust_activations *a);
/* Stores the key and value of a row of qkv. */
void joust_forward_store(const joust_forward *f, uint32_t layer, const joust_row *row,
                         const float *qkv);
/* The final norm of n rows of x, which the head reads. */
void joust_forward_norm(const joust_forward *f, const float *x, uint32_t n, float *normed,
                        float *norm_r);
/* logits (n, vocab_ld) of n rows of x; normed (n, d_ld) and norm_r (n) are kept for the backward
 * pass. */
void joust_forward_head(const joust_forward *f, const float *x, uint32_t n, float *normed,
                        float *norm_r, float *logits);
/* y = x . pack for m rows: y (m, y_ld), added to what is there with `add`. */
void joust_forward_multiply(const joust_forward *f, const float *x, uint32_t x_ld, uint32_t m,
                            const joust_pack *pack, float *y, uint32_t y_ld, bool add);

/* y (n, y_ld) += s (x A') B' of a layer's product; low (n, low_ld) is kept for the backward pass. Nothing where the model
 * has no adapter there. */
void joust_forward_adapt(const joust_forward *f, uint32_t layer, joust_product product,
                         const float *x, uint32_t x_ld, uint32_t n, float *low, float *y,
                         uint32_t y_ld);

/* A pass over up to JOUST_PASS_ROWS rows of any sequences, without keeping activations. */
#define JOUST_PASS_ROWS 128u

typedef struct joust_pass {
    joust_forward forward;
    joust_activations a;
    joust_row rows[JOUST_PASS_ROWS];
    uint32_t n, room; /* rows listed; at most */
    float *block;  /* all activations */
    float *logits; /* (rows that want them, vocab_ld), in the order of rows */
    joust_pool *pool; /* of joust_pass_run_shared */
} joust_pass;

/* For room rows or a few more, 1 to JOUST_PASS_ROWS, which memory goes with. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_pass_create(const joust_engine *engine, const joust_model *m,
                                              uint32_t room, joust_pass **ret, joust_error *err);
/* A list of rows alone, for a device to compute. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_pass_create_list(joust_pass **ret, joust_error *err);
void joust_pass_free(joust_pass **pass);
/* Computes the rows and empties the list. Rows of one sequence must come in order of position. */
void joust_pass_run(joust_pass *pass);
/* The same up to the last layer: a.x begins with the rows that want logits. Returns how many. */
uint32_t joust_pass_layers(joust_pass *pass);

/* The same by all threads of the engine together: outputs of the products and rows are shared out, so that few rows keep every
 * thread at work and the weights are read once. The caller is thread 0 of the pool and not inside joust_pool_run. */
JOUST_MUST_USE joust_status joust_pass_share(joust_pass *pass, const joust_engine *engine,
                                             joust_error *err); /* before; JOUST_NOMEM */
void joust_pass_run_shared(joust_pass *pass);
/* Whether a step of n_rows goes faster as one shared pass than as n_passes side by side. */
bool joust_pass_worth_sharing(const joust_engine *engine, const joust_model *m, uint32_t n_rows,
                              uint32_t n_passes);

#endif
