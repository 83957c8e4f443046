/* Training on a device: master weights, moments and gradients beside a model, and one micro-batch's activations.
 *
 *   cuda_trainer.c         what lies there for long; the optimiser
 *   cuda_tape.c            a micro-batch's memory and forward pass
 *   cuda_tape_backward.c   its backward pass */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_TRAINER_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_TRAINER_INTERNAL_H

#include "cuda_flow_internal.h"

#define JOUST_GPU_SUMS      33u /* at most: one a level of the tree of rows */
#define JOUST_GPU_TAPE_ROWS JOUST_DEVICE_MAX_ROW_TOKENS /* of a micro-batch: what a grid takes */
/* Logits that exist at a time in the backward pass, a row. Fixed: bf16 sums are cut by it. */
#define JOUST_GPU_LOGITS    4096u

/* How much of what a micro-batch has room for. */
typedef struct joust_gpu_tape_rooms {
    uint32_t rows, wanted, pages, slots, picks;
    bool recompute;
} joust_gpu_tape_rooms;

/* What goes up before the forward pass, as one block: offsets into it. */
typedef struct joust_gpu_tape_io {
    uint64_t tokens, positions, first_page, which, slot, target, order, distinct, pages, picks,
        tiles, key_tiles, n_bytes;
} joust_gpu_tape_io;

/* A layer's activations, (rows, .) each. With recompute all layers but the first keep x alone. */
typedef struct joust_gpu_kept {
    float *x, *qkv, *raw, *x_mid, *gate_up, *stats;
    void *normed, *mixed, *normed_ff, *hidden, *low[JOUST_DEVICE_PRODUCTS];
} joust_gpu_kept;

typedef struct joust_gpu_tape {
    joust_gpu_tape_rooms rooms;
    joust_gpu_tape_io io;
    unsigned char *host, *device; /* (io.n_bytes) each */
    void *block;                  /* all that follows but what is grown */
    joust_gpu_kept *kept;         /* (n_layers) */
    float *x_last, *head_dx;      /* (rows, d), (wanted, d) */
    void *normed;                 /* (wanted, d_ld) stores: what the head read */
    float *partial, *logits, *sums, *picked;
    double *entropies;
    unsigned char *pages; /* (pages, page_bytes) */
    joust_gpu_fork_args fork;
    /* of the backward pass */
    float *dx, *d_normed, *d_qkv, *d_raw, *d_mixed, *d_gate_up, *d_hidden, *means, *r;
    float *low_sums, *d_low;                    /* (rows, low) */
    float *chunk;                               /* (wanted, JOUST_GPU_LOGITS) */
    void *dy, *dy_turned, *x_turned, *w_turned; /* factors of products as stores */
    void *query_half, *out_half;                /* bf16: attention's, as stores */
    uint32_t *first_slope;                      /* (wanted + 1) */
    joust_gpu_slope *slopes;                    /* grown */
    uint32_t slope_room;
    /* of the micro-batch that is there */
    uint32_t n, n_wanted, n_forks, n_distinct, n_picks, n_tiles, n_key_tiles, branch[2];
} joust_gpu_tape;

struct joust_device_trainer {
    joust_device_model *m;
    const joust_gpu_adapter
        *adapter;       /* the model's, if it is what is trained; NULL: every weight */
    uint64_t n_weights; /* of what is trained */
    uint64_t embedding, norm, head;
    joust_device_layer *at; /* (n_layers) where tensors begin in the blocks */
    float *weights, *moments[2];
    float *sums[JOUST_GPU_SUMS];
    uint32_t n_sums;
    double *squares; /* (n_weights / 4096), or NULL until asked for */
    joust_gpu_tape tape;
};

/* Makes room for a micro-batch; what was there is lost. Errors: JOUST_NOMEM (the rooms are then none). */
JOUST_MUST_USE joust_status joust_gpu_tape_reserve(joust_device_trainer *t,
                                                   const joust_gpu_tape_rooms *rooms,
                                                   joust_error *err);
void joust_gpu_tape_free(joust_device_trainer *t);
/* Where a layer's rows of the micro-batch lie. */
joust_gpu_rows joust_gpu_tape_rows(const joust_gpu_tape *tape, uint32_t layer, uint32_t n_layers);
joust_gpu_flow joust_gpu_tape_flow(joust_device_trainer *t, uint32_t n, joust_error *err);
/* Logits of tokens first .. first + n - 1 after the wanted rows, into tape->chunk. */
void joust_gpu_tape_logits(joust_gpu_flow *f, const joust_gpu_tape *tape, uint32_t first,
                           uint32_t n);

/* joust_device_api's. */
JOUST_MUST_USE joust_status joust_gpu_trainer_create(joust_device_model *m,
                                                     const joust_device_weights *from,
                                                     uint64_t n_weights,
                                                     const joust_device_adapter *adapter,
                                                     joust_device_trainer **ret, joust_error *err);
void joust_gpu_trainer_free(joust_device_trainer **trainer);
JOUST_MUST_USE joust_status joust_gpu_train_forward(joust_device_trainer *t,
                                                    const joust_device_micro *micro,
                                                    joust_error *err);
JOUST_MUST_USE joust_status joust_gpu_train_entropies(joust_device_trainer *t,
                                                      const joust_device_micro *micro,
                                                      const float *sums, double *ret_entropies,
                                                      joust_error *err);
JOUST_MUST_USE joust_status joust_gpu_train_backward(
    joust_device_trainer *t, const joust_device_micro *micro, const float *sums,
    const joust_device_slope *slopes, uint32_t n_slopes, uint32_t sum, joust_error *err);
JOUST_MUST_USE joust_status joust_gpu_sums_reserve(joust_device_trainer *t, uint32_t n,
                                                   joust_error *err);
JOUST_MUST_USE joust_status joust_gpu_sums_add(joust_device_trainer *t, uint32_t to, uint32_t from,
                                               joust_error *err);
JOUST_MUST_USE joust_status joust_gpu_squares(joust_device_trainer *t, double *ret,
                                              joust_error *err);
JOUST_MUST_USE joust_status joust_gpu_update(joust_device_trainer *t,
                                             const joust_device_update *update, joust_error *err);
JOUST_MUST_USE joust_status joust_gpu_block_get(joust_device_trainer *t, joust_device_block block,
                                                uint64_t first, uint64_t n, float *to,
                                                joust_error *err);
JOUST_MUST_USE joust_status joust_gpu_block_put(joust_device_trainer *t, joust_device_block block,
                                                uint64_t first, uint64_t n, const float *from,
                                                joust_error *err);
JOUST_MUST_USE joust_status joust_gpu_refresh(joust_device_trainer *t, joust_error *err);

#endif
