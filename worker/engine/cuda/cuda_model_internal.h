/* Inside of the CUDA plugin: a device, a model's weights on it, and the memory that a pass works in. */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_MODEL_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_MODEL_INTERNAL_H

#include "cuda_kernels_internal.h"

struct joust_device {
    joust_gpu *gpu;
    uint32_t refs; /* the engine's, and one a model */
};

/* A layer on the device: matrices in stores, the rest in floats. */
typedef struct joust_gpu_layer {
    void *qkv, *o, *gate_up, *down;
    float *attention_norm, *ff_norm, *bias, *q_norm, *k_norm, *o_bias, *gate_up_bias, *down_bias;
} joust_gpu_layer;

/* What lies before and after the layers; head: the embedding where they are tied. */
typedef struct joust_gpu_ends {
    void *embedding, *head;
    float *norm, *rope;
} joust_gpu_ends;

/* Lengths of rows. */
typedef struct joust_gpu_widths {
    uint32_t d, qkv, query, ff, vocab;
    uint32_t d_ld, query_ld, ff_ld; /* of stores: bf16 in whole chunks */
    uint32_t n_out;                 /* of the head: vocab, or 1 */
    uint32_t n_tiles, n_draw_tiles; /* of n_out: the head's, a draw's */
    uint32_t store_bytes;
    uint32_t head_ld;    /* stores of a head in a page */
    uint64_t page_layer; /* stores of one layer in a page */
} joust_gpu_widths;

/* How much of what a pass has room for; states: rows. */
typedef struct joust_gpu_rooms {
    uint32_t rows, pages, draws, picks, slots, states, tiles;
    uint32_t parts; /* of all rows */
} joust_gpu_rooms;

/* The products of a layer that an adapter may stand beside, in the order of joust_device_adapter's. */
typedef enum joust_gpu_product {
    JOUST_GPU_QKV,
    JOUST_GPU_O,
    JOUST_GPU_GATE_UP,
    JOUST_GPU_DOWN
} joust_gpu_product;

/* A target's B (n, rank_ld) in stores, for outputs first .. first + n - 1; `at`: in the block of what is trained. */
typedef struct joust_gpu_adapter_part {
    uint32_t first, n;
    uint64_t at;
    void *b;
} joust_gpu_adapter_part;

/* A product's A's, one matrix (low, in_ld) of stores, low = n_parts rank. */
typedef struct joust_gpu_adapter_product {
    uint32_t n_parts, in, in_ld, low, low_ld;
    uint64_t at;
    void *a;
    joust_gpu_adapter_part parts[JOUST_DEVICE_TARGETS];
} joust_gpu_adapter_product;

typedef struct joust_gpu_adapter {
    void *block;
    joust_gpu_adapter_product *products; /* (n_layers, JOUST_DEVICE_PRODUCTS) */
    uint64_t n_weights;
    uint32_t rank, rank_ld, low;                /* low: the longest */
    uint32_t low_stores[JOUST_DEVICE_PRODUCTS]; /* of a row of all parts of s (x A'), likewise */
    float scale;
} joust_gpu_adapter;

/* What goes to the device before a pass and comes back after it, as one block each way: offsets into it.
 *   tokens, positions, first_page, which, slot, target: (rows) each │ pages, tiles │ draws │ picks │ sums │ picked
 *   ─────────────────────────────── up ──────────────────────────────────────────── │
 *                                                                     ───────── down ───────────────────── */
typedef struct joust_gpu_io {
    uint64_t tokens, positions, first_page, which, slot, target, pages, tiles, draws, picks, sums,
        picked, n_bytes;
} joust_gpu_io;

/* A pass of one shape, recorded. */
typedef struct joust_gpu_record {
    uint32_t n_rows, n_wanted, n_draws, n_picks, n_tiles, n_parts;
    bool without_adapter;
    void *record;
} joust_gpu_record;
#define JOUST_GPU_RECORDS     128u
#define JOUST_GPU_RECORD_ROWS 128u  /* a pass of more rows isn't worth it */
#define JOUST_GPU_BUSY_WARPS  2048u /* of attention: more keep a GPU busy */

typedef struct joust_gpu_work {
    joust_gpu_rooms rooms;
    joust_gpu_io io;
    unsigned char *host;   /* (io.n_bytes) */
    unsigned char *device; /* likewise */
    float *x, *qkv, *gate_up, *partial, *logits, *states, *low_sums, *parts;
    void *normed, *mixed, *hidden, *low;
    double *marks;
    joust_gpu_record records[JOUST_GPU_RECORDS];
    uint32_t n_records;        /* ever made: number i is in place i mod JOUST_GPU_RECORDS */
    uint32_t n_tiles, n_parts; /* of the pass: what attention in bf16 is cut into */
} joust_gpu_work;

struct joust_device_model {
    joust_device *device;
    uint32_t refs; /* the engine's, and a trainer's */
    joust_model_config config;
    joust_gpu_widths w;
    void *block; /* all weights */
    joust_gpu_layer *layers;
    joust_gpu_ends ends;
    joust_gpu_adapter *adapter; /* or NULL */
    joust_gpu_work work;
};

/* Tiles of a run of n rows that see the same pages; into `to` unless that is NULL. Returns how many. */
uint32_t joust_gpu_tiles_fill(const joust_model_config *config, uint32_t first_row, uint32_t n,
                              joust_gpu_tile *to);
/* Makes room for a pass. What was there is lost. Errors: JOUST_NOMEM (the rooms are then none). */
JOUST_MUST_USE joust_status joust_gpu_work_reserve(joust_device_model *m,
                                                   const joust_gpu_rooms *rooms, joust_error *err);
void joust_gpu_model_free(joust_device_model **model);
void joust_gpu_work_free(joust_device_model *m);
/* joust_device_api.run */
JOUST_MUST_USE joust_status joust_gpu_run(joust_device_model *m, joust_device_pass *pass,
                                          joust_error *err);

#endif
