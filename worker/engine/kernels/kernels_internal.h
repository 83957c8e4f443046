/* The kernels: what touches every number. One text (kernels_template_internal.h) over sixteen
 * lanes is compiled three times, with the lanes in portable C, AVX2 and AVX-512: the same
 * operations on the same operands in the same order, hence the same bits. KERNELS.md gives
 * formula, order of summation and derivation of each.
 *
 * Layout: a row of activations is padded with zeros to whole lanes; "ld" is its length in floats.
 * Thread: any; no shared state. Nothing here allocates or fails. */
#ifndef JOUST_WORKER_ENGINE_KERNELS_KERNELS_INTERNAL_H
#define JOUST_WORKER_ENGINE_KERNELS_KERNELS_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define JOUST_LANES     16u
#define JOUST_MARK_STEP 512u

#if defined(__clang__)
#define LANES_UNROLL     _Pragma("unroll")
#define LANES_UNROLL_ALL _Pragma("unroll")
#else
#define LANES_UNROLL     _Pragma("GCC unroll 8")
#define LANES_UNROLL_ALL _Pragma("GCC unroll 32")
#endif

static inline uint32_t joust_lanes_up(uint32_t n)
{
    return (n + JOUST_LANES - 1) / JOUST_LANES * JOUST_LANES;
}

/* A matrix (n, k) as panels of 16 rows, lanes over n. Rows past n are zero. Either `data`, each panel (k, 16), or `pairs`:
 * its elements rounded to bf16, each panel (ceil(k / 2), 16) words of two neighbours in k, the even one in the lower half. */
typedef struct joust_pack {
    float *data;
    uint32_t *pairs;
    uint32_t n, k;
} joust_pack;

/* Words of a panel of pairs. */
static inline size_t joust_pairs_panel(uint32_t k)
{
    return ((size_t)k + 1) / 2 * JOUST_LANES;
}

/* To the nearest bf16, ties to even; a NaN stays one. */
static inline uint16_t joust_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float joust_bf16_rounded(float x)
{
    const uint32_t bits = (uint32_t)joust_bf16(x) << 16;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

/* c[i][j] = (add ? c[i][j] : 0) + sum over s = 0 .. k-1, in this order, one FMA each, of
 *   a[i * a_row + s * a_step] * b[(j / 16) * b_panel + s * b_step + j % 16]
 * for i < m, j < n; c[i][j] is c[i * c_row + j]. b is read in whole panels (what lies past n isn't
 * used). Or b is `pairs`, as joust_pack has them; then b_panel counts words, b_step isn't read and a_step is 1. */
typedef struct joust_gemm {
    const float *a;
    size_t a_row, a_step;
    const float *b;
    const uint32_t *pairs; /* or NULL */
    size_t b_panel, b_step;
    float *c;
    size_t c_row;
    uint32_t m, n, k;
    bool add;
} joust_gemm;

/* Consecutive keys and values of one sequence at one layer; capacity is a multiple of 16.
 *   keys   (n_kv, capacity / 16, d_head, 16): lanes over positions
 *   values (n_kv, capacity, head_ld): lanes over the head's width */
typedef struct joust_kv_span {
    const float *keys, *values;
    uint32_t capacity, n;
} joust_kv_span;

/* One query row against all keys of its spans, in position order. Score i is that of key i - lead: the first key's
 * position is lead mod 16, so that lanes are positions mod 16 wherever the spans begin. */
typedef struct joust_attention {
    uint32_t n_heads, n_kv_heads, d_head, head_ld, n_spans;
    uint32_t first_head, end_head; /* those to compute */
    uint32_t lead, masked; /* scores 0 .. masked - 1 count as -inf; lead <= masked, lead < 16 */
    float scale;
    const float *query;         /* (n_heads, d_head) */
    const joust_kv_span *spans; /* (n_spans), none empty */
    float *out;                 /* (n_heads, d_head) */
    float *scores;              /* scratch: lead, keys of all spans, 16 */
    float *stats;               /* (n_heads, 2): maximum and 1 / sum of exponentials, or NULL */
} joust_attention;

/* Its backward pass. Rows per key are (n_kv, capacity, head_ld), zero past d_head. */
typedef struct joust_attention_span {
    const float *keys, *values;       /* both as joust_kv_span.keys: lanes over positions */
    const float *key_rows;            /* rows per key */
    float *d_key_rows, *d_value_rows; /* rows per key, += */
    uint32_t capacity, n;
} joust_attention_span;

typedef struct joust_attention_backward {
    uint32_t n_heads, n_kv_heads, d_head, head_ld, n_spans;
    uint32_t masked; /* keys before this one aren't seen */
    float scale;
    const float *query, *d_out; /* (n_heads, head_ld) zero past d_head */
    const float *stats;         /* (n_heads, 2) */
    joust_attention_span spans[2];
    float *d_query; /* (n_heads, head_ld), = */
    float *p, *ds;  /* scratch: keys of all spans + 16 each */
} joust_attention_backward;

/* log softmax(x)[t] = (x[t] - max) - log_sum. */
typedef struct joust_log_sum {
    float max, log_sum;
} joust_log_sum;

typedef struct joust_adam {
    float beta1, beta2, eps;
    float step_size, correction; /* learning rate / (1 - beta1^t); sqrt(1 - beta2^t) */
    float decay,
        scale; /* 1 - learning rate * weight decay; factor on the gradient (clipping, mean) */
} joust_adam;

typedef struct joust_kernels {
    const char *name;
    void (*gemm)(const joust_gemm *g);
    /* y = x * r * gain, r = 1 / sqrt(mean x^2 + eps); returns r. x, y padded. */
    float (*norm)(const float *x, const float *gain, uint32_t d, float eps, float *y);
    /* dx += the gradient through norm; d_gain += dy * x * r. */
    void (*norm_backward)(const float *x, const float *gain, float r, const float *dy, uint32_t d,
                          float *dx, float *d_gain);
    /* Rotates n_heads heads in place: pair (i, i + d_head / 2) by the angle whose cos and sin are
     * angles[i], angles[d_head / 2 + i]; inverse rotates back. */
    void (*rope)(float *heads, uint32_t n_heads, uint32_t d_head, const float *angles,
                 bool inverse);
    /* h = gate / (1 + exp(-gate)) * up; gate_up is gate (d_ff) then up (d_ff); h padded. */
    void (*swiglu)(const float *gate_up, uint32_t d_ff, float *h);
    void (*swiglu_backward)(const float *gate_up, const float *dh, uint32_t d_ff, float *d_gate_up);
    void (*attend)(const joust_attention *a);
    void (*attend_backward)(const joust_attention_backward *a);
    joust_log_sum (*log_sum)(const float *x, uint32_t n);
    /* d[i] += factor * softmax(x)[i]. */
    void (*softmax_add)(const float *x, uint32_t n, joust_log_sum sum, float factor, float *d);
    /* e[i] = exp((x[i] - max) * scale), padded; returns their sum by i, in double, of which marks keep what it was before
     * every JOUST_MARK_STEP-th. */
    double (*exponentials)(const float *x, uint32_t n, float max, float scale, float *e,
                           double *marks);
    /* log_sum, and exponentials with its max and a scale of 1. */
    joust_log_sum (*log_sum_keep)(const float *x, uint32_t n, float *e, double *marks,
                                  double *ret_sum);
    void (*add)(float *to, const float *from, size_t n);
    double (*square_sum)(const float *x, size_t n);
    void (*adam)(const joust_adam *a, const float *gradient, float *m, float *v, float *w,
                 size_t n);
    /* For bounds.h: n rounds of independent multiply-adds in registers by x, 0 < x < 1, and how many
     * FLOP they were; a plain read of n floats. Both return what keeps them from being left out. */
    float (*multiply_peak)(uint32_t n, float x, uint64_t *ret_flop);
    float (*read)(const float *x, size_t n);
} joust_kernels;

/* NULL where the program or the processor lacks them. */
const joust_kernels *joust_kernels_portable(void);
const joust_kernels *joust_kernels_avx2(void);
const joust_kernels *joust_kernels_avx512(void);

#endif
