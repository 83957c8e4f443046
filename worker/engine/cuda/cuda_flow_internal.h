/* A list of launches: the forward pass, of which there is one on a device too. Generation, scoring and training launch the
 * same kernels over rows of their own, so that their log-probabilities have the same bits. */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_FLOW_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_FLOW_INTERNAL_H

#include "cuda_model_internal.h"

/* Launches until the first error. */
typedef struct joust_gpu_flow {
    joust_device_model *m;
    joust_gpu *g;
    const joust_gpu_adapter *adapter; /* that the layers are computed with; or NULL */
    bool bf16;
    uint32_t n; /* rows */
    joust_status status;
    joust_error *err;
} joust_gpu_flow;

/* Where a layer's rows lie on the device; x, x_mid and x_out may be one. */
typedef struct joust_gpu_rows {
    float *x, *qkv, *x_mid, *gate_up, *x_out;
    float *raw;   /* keeps the product of query, key and value; or NULL */
    float *stats; /* keeps what attention's backward pass needs; or NULL */
    void *normed, *mixed, *normed_ff, *hidden;
    /* with an adapter: x A' of each product, scaled, (parts, rows, rank_ld) stores, which may be one; (rows, low) scratch */
    void *low[JOUST_DEVICE_PRODUCTS];
    float *low_sums;
    joust_gpu_places at;
    float *parts; /* scratch of attention in bf16, or NULL: then n_parts is 0 */
    uint32_t n_parts;
    const joust_gpu_fork_args
        *fork; /* pages that begin as copies, once their keys are there; or NULL */
    uint32_t n_forks;
} joust_gpu_rows;

/* The head over wanted rows. states_only: no more than what it reads. */
typedef struct joust_gpu_head {
    const float *x; /* (., d) */
    const uint32_t *which, *slot, *target;
    void *normed;
    float *partial, *sums, *picked, *logits;
    float *states; /* (n, d), or NULL */
    joust_gpu_pick_item *picks;
    uint32_t n, n_picks;
    bool states_only;
} joust_gpu_head;

/* A kernel that has one variant; of two that stand side by side in the list, f->bf16's. */
void joust_gpu_flow_run(joust_gpu_flow *f, joust_gpu_kernel kernel, uint32_t x, uint32_t y,
                        const void *args);
void joust_gpu_flow_run_of(joust_gpu_flow *f, joust_gpu_kernel f32, uint32_t x, uint32_t y,
                           const void *args);
/* Of three kernels for heads as wide as 64, 128 and 256, which follow each other in the list, the model's. */
void joust_gpu_flow_run_wide(joust_gpu_flow *f, joust_gpu_kernel narrowest, uint32_t x, uint32_t y,
                             const void *args);
void joust_gpu_flow_copy(joust_gpu_flow *f, void *to, const void *from, uint64_t n_bytes);
/* y (m, n) = a (m, ld) . w (n, ld) transposed, over k; added to what is there with `add`. */
void joust_gpu_flow_multiply(joust_gpu_flow *f, const void *a, const void *w, float *y, uint32_t m,
                             uint32_t n, uint32_t k, uint32_t ld, bool add);
/* The same, rows of y y_ld apart. */
void joust_gpu_flow_multiply_into(joust_gpu_flow *f, const void *a, const void *w, float *y,
                                  uint32_t y_ld, uint32_t m, uint32_t n, uint32_t k, uint32_t ld,
                                  bool add);
void joust_gpu_flow_embed(joust_gpu_flow *f, const uint32_t *tokens, float *x);
void joust_gpu_flow_layer(joust_gpu_flow *f, uint32_t layer, const joust_gpu_rows *rows);
void joust_gpu_flow_head(joust_gpu_flow *f, const joust_gpu_head *head);

#endif
