/* Between the plugin's two halves: what decides which kernels run over which memory (cuda_model.c, cuda_pass.c: plain C),
 * and what runs them (cuda_runtime.cu on a GPU; in tests an emulator, so that all of the former is tested on any machine).
 * A kernel is a body (cuda_rows_internal.h, cuda_matrix_internal.h, cuda_attend_internal.h, cuda_logits_internal.h), a
 * struct of arguments, and a line of the list below. Formulas, orders and tolerances: KERNELS.md, "CUDA". */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_KERNELS_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_KERNELS_INTERNAL_H

#include <stdint.h>

#include "worker/engine/device.h"

/* Kernels, and threads of a block. Those that exist in both precisions have two lines. */
/* clang-format off */
#define JOUST_GPU_KERNELS(X)       \
    X(place_f32,   place,   256)   \
    X(place_bf16,  place,   256)   \
    X(embed_f32,   embed,   128)   \
    X(embed_bf16,  embed,   128)   \
    X(norm_f32,    norm,    256)   \
    X(norm_bf16,   norm,    256)   \
    X(finish_f32,  finish,  64)    \
    X(finish_bf16, finish,  64)    \
    X(attend_f32,  attend,  128)   \
    X(flash_64,    attend,  128)   \
    X(flash_128,   attend,  128)   \
    X(flash_256,   attend,  128)   \
    X(parts_64,    attend,  128)   \
    X(parts_128,   attend,  128)   \
    X(parts_256,   attend,  128)   \
    X(merge,       attend,  128)   \
    X(swiglu_f32,  swiglu,  256)   \
    X(swiglu_bf16, swiglu,  256)   \
    X(bias,        bias,    256)   \
    X(low_f32,     low,     256)   \
    X(low_bf16,    low,     256)   \
    X(matrix_f32,  matrix,  128)   \
    X(matrix_bf16, matrix,  256)   \
    X(head_f32,    matrix,  128)   \
    X(head_bf16,   matrix,  256)   \
    X(matrix_thin, matrix,  256)   \
    X(head_thin,   matrix,  256)   \
    X(matrix_wide, matrix,  256)   \
    X(head_wide,   matrix,  256)   \
    X(log_sum,     log_sum, 256)   \
    X(draw,        draw,    256)   \
    X(pick,        pick,    64)    \
    X(read,        read,    256)   \
    X(products,    products, 256)  \
    /* training */                 \
    X(fork_f32,    fork,    128)   \
    X(fork_bf16,   fork,    128)   \
    X(transpose_f32,  transpose, 256)   \
    X(transpose_bf16, transpose, 256)   \
    X(slopes,      slopes,  256)   \
    X(entropy,     entropy, 256)   \
    X(norm_back_f32,  norm_back, 256)   \
    X(norm_back_bf16, norm_back, 256)   \
    X(columns_f32,    columns,   256)   \
    X(columns_bf16,   columns,   256)   \
    X(swiglu_back, swiglu_back, 256)    \
    X(attend_rows_f32,  attend_back, 128) \
    X(attend_keys_f32,  attend_back, 128) \
    X(flash_rows_64,    attend_back, 128) \
    X(flash_rows_128,   attend_back, 128) \
    X(flash_rows_256,   attend_back, 128) \
    X(flash_keys_64,    attend_back, 128) \
    X(flash_keys_128,   attend_back, 128) \
    X(flash_keys_256,   attend_back, 128) \
    X(unrope,      unrope,  64)    \
    X(heads_back,  heads_back, 64) \
    X(embed_back,  embed_back, 128)     \
    X(fill,        add,     256)   \
    X(add,         add,     256)   \
    X(squares,     squares, 256)   \
    X(adam,        adam,    256)
/* clang-format on */

typedef enum joust_gpu_kernel {
#define X(name, args, threads) JOUST_GPU_##name,
    JOUST_GPU_KERNELS(X)
#undef X
        JOUST_GPU_N_KERNELS
} joust_gpu_kernel;

/* Widest head; tiles of the products: rows, outputs; outputs that a partial sum over the vocabulary spans; ids that a
 * partial sum of a draw spans. */
#define JOUST_GPU_HEAD_MAX     JOUST_DEVICE_MAX_HEAD
#define JOUST_GPU_F32_ROWS     32u
#define JOUST_GPU_F32_OUTPUTS  64u
#define JOUST_GPU_BF16_ROWS    64u
#define JOUST_GPU_BF16_OUTPUTS 32u
#define JOUST_GPU_THIN_ROWS    8u
#define JOUST_GPU_THIN_OUTPUTS 16u /* the head's: BF16_OUTPUTS */
#define JOUST_GPU_WIDE_ROWS    128u
#define JOUST_GPU_WIDE_OUTPUTS 128u
#define JOUST_GPU_WIDE_TILES   64u /* fewer leave most of a GPU idle: then the narrow tiling */
#define JOUST_GPU_CHUNK                                                                            \
    32u /* factors of a bf16 product that a warp takes at a time: ld is a multiple */
#define JOUST_GPU_SEGMENTS  8u /* of a bf16 product's sum: one a warp */
#define JOUST_GPU_DRAW_TILE 512u
#define JOUST_GPU_NONE      UINT32_MAX

/* "store": an element of the device's precision, 4 or 2 bytes. */

/* Grid: (blocks). to (rows, ld) stores = from (rows, k) floats, zero from k on. */
typedef struct joust_gpu_place_args {
    const float *from;
    void *to;
    uint32_t k, ld;
    uint64_t n; /* rows x ld */
} joust_gpu_place_args;

/* Grid: (rows). x (rows, d) floats = table (vocab, ld) stores at tokens. */
typedef struct joust_gpu_embed_args {
    const void *table;
    const uint32_t *tokens; /* (rows) */
    float *x;
    uint32_t d, ld;
} joust_gpu_embed_args;

/* Grid: (rows). y (rows, ld) stores = x r gain, r = 1 / sqrt(mean x^2 + eps); which: numbers of rows of x, or NULL. */
typedef struct joust_gpu_norm_args {
    const float *x, *gain; /* (., d), (d) */
    const uint32_t *which;
    void *y;
    float *states; /* (rows, d) the same, not rounded; or NULL */
    float eps;
    uint32_t d, ld;
} joust_gpu_norm_args;

/* At most sixteen units of attention in bf16 (a row, and one of the heads that a key has; rows in order, within a row the heads)
 * of a run of rows that see the same pages: first row of the run, first unit counted from there, number. */
#define JOUST_GPU_TILE_UNITS 16u
typedef struct joust_gpu_tile {
    uint32_t row, unit, n;
} joust_gpu_tile;

/* A sequence's pages: row r's page i is pages[first_page[r] + i]. */
typedef struct joust_gpu_places {
    void *const *pages;
    const uint32_t *first_page, *positions; /* (rows) */
    const joust_gpu_tile *tiles;            /* bf16: every unit once */
    uint32_t n_tiles;
} joust_gpu_places;

/* Grid: (rows, n_heads + 2 n_kv_heads). Biases, norms of heads, positions; query in place, key and value into the page. */
typedef struct joust_gpu_finish_args {
    float *qkv; /* (rows, qkv) */
    const float *bias, *q_norm, *k_norm,
        *angles; /* NULL where the family has none; (context, d_head) */
    joust_gpu_places at;
    uint64_t layer; /* stores from the page's begin to the layer's */
    float eps;
    uint32_t n_heads, n_kv_heads, d_head;
} joust_gpu_finish_args;

/* Keys that a partial result of attention in bf16 spans. */
#define JOUST_GPU_SEGMENT_KEYS 256u

/* out (rows, ld) stores, of which n_heads d_head are written. Grid in float32: (n_heads, rows); in bf16, flash: (blocks of
 * four tiles, n_kv_heads), or where few rows have many keys, parts: (blocks of four of n_parts, tiles n_kv_heads), then
 * merge: (JOUST_GPU_TILE_UNITS, tiles n_kv_heads). */
typedef struct joust_gpu_attend_args {
    const float *qkv;
    joust_gpu_places at;
    uint64_t layer;
    void *out;
    float scale;
    float *stats; /* (rows, n_heads, 2): maximum and 1 / sum of exponentials, or NULL */
    float *parts; /* (rows, n_heads, n_parts, 2 + a head's stores in a page) scratch */
    uint32_t n_heads, n_kv_heads, d_head, ld;
    uint32_t window; /* keys that a row sees; 0: all */
    uint32_t n_parts;
} joust_gpu_attend_args;

/* Grid: (blocks over d_ff, rows). h (rows, ld) stores = gate sigmoid(gate) up. */
typedef struct joust_gpu_swiglu_args {
    const float *gate_up; /* (rows, 2 d_ff) */
    void *h;
    uint32_t d_ff, ld;
} joust_gpu_swiglu_args;

/* Grid: (blocks over n, rows). y (rows, n) += bias (n). */
typedef struct joust_gpu_bias_args {
    const float *bias;
    float *y;
    uint32_t n;
} joust_gpu_bias_args;

/* Grid: (blocks). Between an adapter's products: part i of to (n_parts, rows, ld) stores = scale times columns i k .. of from
 * (rows, from_ld), zero from k on. */
typedef struct joust_gpu_low_args {
    const float *from;
    void *to;
    float scale;
    uint32_t rows, k, ld, from_ld;
    uint64_t n; /* n_parts x rows x ld */
} joust_gpu_low_args;

/* Grid: (tiles of outputs, tiles of rows). y (m, n) = a (m, ld) . w (n, ld) transposed, over k; added to what is there with
 * `add`. Rows of y are y_ld apart (0: n). The head's kernel also, or instead (slot), gives of each row and tile the maximum and the sum of exponentials. */
typedef struct joust_gpu_matrix_args {
    const void *a, *w; /* stores; zero from k to ld */
    float *y;
    uint32_t m, n, k, ld, y_ld;
    uint32_t add;
    /* the head: */
    float *partial;                /* (m, n_tiles, 2) */
    uint32_t n_tiles;              /* of outputs */
    const uint32_t *slot, *target; /* (m): row of y, token whose logit goes to picked; or NONE */
    float *picked;                 /* (m) */
} joust_gpu_matrix_args;

/* Grid: (rows). sums (rows, 2): maximum, sum of e^(x - max), from the partial ones. */
typedef struct joust_gpu_log_sum_args {
    const float *partial;
    float *sums;
    uint32_t n_tiles;
} joust_gpu_log_sum_args;

/* As joust_device_draw, on the device. */
typedef struct joust_gpu_draw_item {
    uint32_t slot, row; /* of the logits; of sums */
    float scale, uniform, min_p;
    uint32_t token;
    float x;
    double total;
} joust_gpu_draw_item;

/* Grid: (draws). */
typedef struct joust_gpu_draw_args {
    const float *logits, *sums; /* (slots, n), (rows, 2) */
    joust_gpu_draw_item *items;
    double *marks; /* (draws, tiles) scratch */
    uint32_t n, n_tiles;
} joust_gpu_draw_args;

typedef struct joust_gpu_pick_item {
    uint32_t slot, token;
    float x;
} joust_gpu_pick_item;

/* Grid: (blocks over picks). */
typedef struct joust_gpu_pick_args {
    const float *logits;
    joust_gpu_pick_item *items;
    uint32_t n, n_items;
} joust_gpu_pick_args;

/* For bounds. Grid: (blocks). sums (blocks x 256) = the xor of what each thread read of n times 16 bytes: thread i of t words
 * i, i + t ... */
typedef struct joust_gpu_read_args {
    const void *from;
    uint32_t *sums;
    uint64_t n;
} joust_gpu_read_args;

/* Grid: (blocks). Each warp makes `rounds` times JOUST_GPU_CHAINS products of its own; sums (blocks x 256) = each thread's. */
#define JOUST_GPU_CHAINS 8u
typedef struct joust_gpu_products_args {
    float *sums;
    uint32_t rounds;
} joust_gpu_products_args;

/* ---- training -------------------------------------------------------------------------------- */

/* Grid: (forks, n_kv_heads). The first n positions of a page, one layer of it, into another page. */
#define JOUST_GPU_FORKS 2u
typedef struct joust_gpu_fork_args {
    const void *from[JOUST_GPU_FORKS];
    void *to[JOUST_GPU_FORKS];
    uint64_t layer;
    uint32_t n, n_kv_heads, d_head;
} joust_gpu_fork_args;

/* Grid: (tiles of 32 columns, tiles of 32 of to_ld). to (columns, to_ld) stores = from (rows, from_ld) transposed, zero from
 * rows on. */
typedef struct joust_gpu_transpose_args {
    const void *from;
    void *to;
    uint32_t rows, columns, from_ld, to_ld;
    uint32_t of_floats; /* from has floats, not stores */
} joust_gpu_transpose_args;

/* What the loss asks of a row's logits x: d += factor times
 *   LOGP     the gradient of log p(token)
 *   LOGIT    that of x[token]
 *   ENTROPY  that of the entropy, which is given */
typedef struct joust_gpu_slope {
    uint32_t kind, token; /* joust_device_slope_kind */
    float factor, entropy;
} joust_gpu_slope;

/* Grid: (blocks over n, rows). x (rows, n), logits of tokens first ..., become the loss's gradient with respect to them: each
 * row's slopes in order, from 0. */
typedef struct joust_gpu_slopes_args {
    float *x;
    const float *sums; /* (rows, 2): maximum, log of the sum of e^(x - max) */
    const joust_gpu_slope *slopes;
    const uint32_t *first_slope; /* (rows + 1) */
    uint32_t first, n;
} joust_gpu_slopes_args;

/* Grid: (rows). entropies (rows) += -sum of p log p over n logits x (rows, n): by thread (token mod 256) in order, then by
 * halves, in double. */
typedef struct joust_gpu_entropy_args {
    const float *x, *sums;
    double *entropies;
    uint32_t n;
} joust_gpu_entropy_args;

/* Grid: (rows). dx += the gradient through norm; r (rows) = what the norm multiplied by. */
typedef struct joust_gpu_norm_back_args {
    const float *x, *gain, *dy; /* (., d), (d), (rows, d) */
    const uint32_t *which;      /* numbers of rows of x and dx, or NULL */
    float *dx, *r;
    float eps;
    uint32_t d;
} joust_gpu_norm_back_args;

/* Grid: (tiles of 32 columns). to (n) = the sum over rows of dy, or of dy x r; a row has n_inner parts, each n long, that
 * count as rows of their own. */
typedef struct joust_gpu_columns_args {
    const float *dy, *x, *r; /* x, r: NULL for plain sums */
    const uint32_t *which;   /* numbers of rows of x, or NULL */
    float *to;
    uint32_t n, n_rows, n_inner;
    uint32_t dy_ld, x_ld, r_ld; /* from row to row; parts follow each other */
} joust_gpu_columns_args;

/* Grid: (blocks over d_ff, rows). */
typedef struct joust_gpu_swiglu_back_args {
    const float *gate_up, *dh; /* (rows, 2 d_ff), (rows, d_ff) */
    float *d_gate_up;
    uint32_t d_ff;
} joust_gpu_swiglu_back_args;

/* Keys of one page and one part of a micro-batch, n of them from row `row` on: rows up to `end` may see them. */
typedef struct joust_gpu_key_tile {
    uint32_t row, n, end;
} joust_gpu_key_tile;

/* attend_rows: grid (n_heads, rows): d_qkv's queries, and means. Then attend_keys: grid (tiles of 16 rows, n_kv_heads): its keys
 * and values. Rows are a stem's, then those of branches that see the stem and themselves: branches begin at rows
 * branch[0] and branch[1]. In bf16: flash_rows, grid (blocks of four tiles, n_kv_heads), then flash_keys, grid (key tiles,
 * n_kv_heads). */
typedef struct joust_gpu_attend_back_args {
    const float *qkv, *stats, *d_out; /* d_out (rows, n_heads d_head) */
    float *means;                     /* (rows, n_heads): sum of p dp */
    float *d_qkv;                     /* (rows, qkv) */
    joust_gpu_places at;
    uint64_t layer;
    float scale;
    uint32_t n_heads, n_kv_heads, d_head, window;
    uint32_t n_rows, branch[2];
    /* bf16: */
    const void *query_half, *out_half; /* qkv, d_out as stores, heads as in a page */
    const joust_gpu_key_tile *key_tiles;
} joust_gpu_attend_back_args;

/* Grid: (rows, heads). Queries and keys of d_qkv rotated back. */
typedef struct joust_gpu_unrope_args {
    float *d_qkv; /* (rows, qkv_ld) */
    const float *angles;
    const uint32_t *positions;
    uint32_t d_head, qkv_ld;
} joust_gpu_unrope_args;

/* Grid: (rows, n_heads + 2 n_kv_heads). Through the norms of heads: dx = the gradient, values as they are; raw, the product,
 * gets its bias; r (rows, n_heads + n_kv_heads). */
typedef struct joust_gpu_heads_back_args {
    float *raw, *dx, *r;
    const float *dy, *bias, *q_norm, *k_norm; /* bias may be NULL */
    float eps;
    uint32_t n_heads, n_kv_heads, d_head;
} joust_gpu_heads_back_args;

/* Grid: (distinct tokens). to's row `token` += dx of its rows, order[first .. first + n - 1]. */
typedef struct joust_gpu_token_rows {
    uint32_t token, first, n;
} joust_gpu_token_rows;
typedef struct joust_gpu_embed_back_args {
    const joust_gpu_token_rows *tokens;
    const uint32_t *order;
    const float *dx;
    float *to; /* (vocab, d) */
    uint32_t d;
} joust_gpu_embed_back_args;

/* Grid: (blocks). to (n) += from; fill: = 0. */
typedef struct joust_gpu_add_args {
    float *to;
    const float *from;
    uint64_t n;
} joust_gpu_add_args;

/* Grid: (blocks of 32 sums). sums (blocks of 4096 of x) = their squares' sums, the CPU's square_sum. */
#define JOUST_GPU_SQUARES 4096u
typedef struct joust_gpu_squares_args {
    const float *x;
    double *sums;
    uint64_t n;
} joust_gpu_squares_args;

/* Grid: (blocks). As joust_adam. */
typedef struct joust_gpu_adam_args {
    const float *gradient;
    float *m, *v, *w;
    uint64_t n;
    float beta1, beta2, eps, step_size, correction, decay, scale;
} joust_gpu_adam_args;

/* What runs kernels: a GPU's stream, or an emulator. Everything goes in order. Addresses are the device's; only put and
 * get touch host memory, which they are done with when they return. Errors: JOUST_NOMEM, JOUST_IO. */
typedef struct joust_gpu joust_gpu;
struct joust_gpu {
    char numeric_class[64], description[160];
    joust_precision precision;
    uint64_t n_memory_bytes;
    joust_status (*alloc)(joust_gpu *g, uint64_t n_bytes, void **ret, joust_error *err);
    void (*free)(joust_gpu *g, void *block); /* NULL is fine */
    joust_status (*put)(joust_gpu *g, void *to, const void *from, uint64_t n_bytes,
                        joust_error *err);
    joust_status (*get)(joust_gpu *g, void *to, const void *from, uint64_t n_bytes,
                        joust_error *err);
    joust_status (*copy)(joust_gpu *g, void *to, const void *from, uint64_t n_bytes,
                         joust_error *err);
    joust_status (*launch)(joust_gpu *g, joust_gpu_kernel kernel, uint32_t grid_x, uint32_t grid_y,
                           const void *args, joust_error *err);
    /* Between begin and end launches are recorded, not run; replay runs them, over the same addresses. */
    joust_status (*record_begin)(joust_gpu *g, joust_error *err);
    joust_status (*record_end)(joust_gpu *g, void **ret, joust_error *err);
    joust_status (*replay)(joust_gpu *g, void *record, joust_error *err);
    void (*record_free)(joust_gpu *g, void *record);
    void (*close)(joust_gpu *g);
};

/* Made by the half that a plugin is linked with. Errors: those of joust_device_api.open. */
JOUST_MUST_USE joust_status joust_gpu_open(const joust_device_options *options, joust_gpu **ret,
                                           joust_error *err);

#endif
