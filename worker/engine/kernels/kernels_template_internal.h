/* The text of the kernels, over `lanes`. Included once by each of kernels_portable.c,
 * kernels_avx2.c and kernels_avx512.c after their lanes; defines `static const joust_kernels
 * kernels_of_lanes`. Formulas and orders of summation: KERNELS.md. */
#ifndef JOUST_WORKER_ENGINE_KERNELS_KERNELS_TEMPLATE_INTERNAL_H
#define JOUST_WORKER_ENGINE_KERNELS_KERNELS_TEMPLATE_INTERNAL_H

#include <math.h> /* sqrtf, INFINITY, NAN */

#include "kernels_internal.h"
#include "proto/base/math.h"

/* ---- chains ---------------------------------------------------------------------------------- */

/* c = a b + c again and again, one FMA each. Lanes may keep c in a form of their own meanwhile. */
#ifndef LANES_OWN_CHAIN
typedef lanes lanes_chain;

LANES_INLINE lanes_chain lanes_chain_begin(lanes c)
{
    return c;
}

LANES_INLINE void lanes_chain_add(lanes_chain *chain, lanes a, lanes b)
{
    *chain = lanes_fma(a, b, *chain);
}

LANES_INLINE lanes lanes_chain_end(lanes_chain chain)
{
    return chain;
}
#endif

/* ---- exp ------------------------------------------------------------------------------------- */

/* exp(x): x = k ln 2 + r, |r| <= 0.3466; exp(r) by its Taylor series to r^7 / 7!. 0 below -87.33,
 * and exp(88.37) above 88.37; a NaN stays. */
LANES_INLINE lanes lanes_exp(lanes x)
{
    const lanes lowest = lanes_set(-87.33f), magic = lanes_set(0x1.8p23f);
    lanes t = lanes_min(lanes_set(88.37f), lanes_max(lowest, x));
    lanes shifted = lanes_fma(t, lanes_set(0x1.715476p+0f), magic), k = lanes_sub(shifted, magic);
    lanes r = lanes_fma(k, lanes_set(-0x1.62e4p-1f), t);
    r = lanes_fma(k, lanes_set(-0x1.7f7d1cp-20f), r);
    lanes p = lanes_set(1.0f / 5040.0f);
    p = lanes_fma(p, r, lanes_set(1.0f / 720.0f));
    p = lanes_fma(p, r, lanes_set(1.0f / 120.0f));
    p = lanes_fma(p, r, lanes_set(1.0f / 24.0f));
    p = lanes_fma(p, r, lanes_set(1.0f / 6.0f));
    p = lanes_fma(p, r, lanes_set(0.5f));
    p = lanes_fma(p, r, lanes_set(1.0f));
    p = lanes_fma(p, r, lanes_set(1.0f));
    return lanes_zero_below(x, lowest, lanes_mul(p, lanes_power_of_two(shifted)));
}

/* Lanes i .. i+15 of x, of which those from n on are fill. */
LANES_INLINE lanes lanes_at(const float *x, uint32_t i, uint32_t n, float fill)
{
    return i + JOUST_LANES <= n ? lanes_load(x + i) : lanes_load_n(x + i, n - i, fill);
}

LANES_INLINE void lanes_put(float *x, uint32_t i, uint32_t n, lanes y)
{
    if (i + JOUST_LANES <= n)
        lanes_store(x + i, y);
    else
        lanes_store_n(x + i, n - i, y);
}

LANES_INLINE float lanes_largest(lanes x)
{
    float at[JOUST_LANES], largest;
    lanes_store(at, x);
    largest = at[0];
    for (uint32_t i = 1; i < JOUST_LANES; i++)
        largest = largest > at[i] ? largest : at[i];
    return largest;
}

#include "kernels_gemm_internal.h"

/* ---- norm ------------------------------------------------------------------------------------ */

static float norm(const float *x, const float *gain, uint32_t d, float eps, float *y)
{
    lanes squares = lanes_set(0);
    for (uint32_t i = 0; i < d; i += JOUST_LANES)
        squares = lanes_fma(lanes_load(x + i), lanes_load(x + i), squares);
    float r = 1.0f / sqrtf(lanes_sum(squares) / (float)d + eps);
    if (r == 0) /* squares beyond float: else the row would become 0, and its logits all equal */
        r = NAN;
    for (uint32_t i = 0; i < d; i += JOUST_LANES)
        lanes_store(y + i,
                    lanes_mul(lanes_mul(lanes_load(x + i), lanes_set(r)), lanes_at(gain, i, d, 0)));
    return r;
}

static void norm_backward(const float *x, const float *gain, float r, const float *dy, uint32_t d,
                          float *dx, float *d_gain)
{
    lanes dot = lanes_set(0);
    for (uint32_t i = 0; i < d; i += JOUST_LANES)
        dot = lanes_fma(lanes_mul(lanes_load(dy + i), lanes_at(gain, i, d, 0)), lanes_load(x + i),
                        dot);
    lanes by_x = lanes_set(-(lanes_sum(dot) * (r * r * r) / (float)d)), by_dy = lanes_set(r);
    for (uint32_t i = 0; i < d; i += JOUST_LANES) {
        lanes at = lanes_load(x + i), up = lanes_load(dy + i);
        lanes from = lanes_fma(at, by_x, lanes_load(dx + i));
        lanes_store(dx + i, lanes_fma(lanes_mul(up, lanes_at(gain, i, d, 0)), by_dy, from));
        lanes_put(d_gain, i, d, lanes_fma(up, lanes_mul(at, by_dy), lanes_at(d_gain, i, d, 0)));
    }
}

/* ---- positions ------------------------------------------------------------------------------- */

static void rope(float *heads, uint32_t n_heads, uint32_t d_head, const float *angles, bool inverse)
{
    uint32_t half = d_head / 2;
    const float sign = inverse ? -1.0f : 1.0f;
    for (uint32_t h = 0; h < n_heads; h++) {
        float *x = heads + (size_t)h * d_head, *y = x + half;
        for (uint32_t i = 0; i < half; i++) {
            float c = angles[i], s = sign * angles[half + i], a = x[i], b = y[i];
            x[i] = a * c - b * s;
            y[i] = b * c + a * s;
        }
    }
}

/* ---- gated unit ------------------------------------------------------------------------------ */

LANES_INLINE lanes lanes_sigmoid(lanes x)
{
    return lanes_div(lanes_set(1), lanes_add(lanes_set(1), lanes_exp(lanes_sub(lanes_set(0), x))));
}

static void swiglu(const float *gate_up, uint32_t d_ff, float *h)
{
    for (uint32_t i = 0; i < d_ff; i += JOUST_LANES) {
        lanes gate = lanes_at(gate_up, i, d_ff, 0), up = lanes_at(gate_up + d_ff, i, d_ff, 0);
        lanes_store(h + i, lanes_mul(lanes_mul(gate, lanes_sigmoid(gate)), up));
    }
}

static void swiglu_backward(const float *gate_up, const float *dh, uint32_t d_ff, float *d_gate_up)
{
    const lanes one = lanes_set(1);
    for (uint32_t i = 0; i < d_ff; i += JOUST_LANES) {
        lanes gate = lanes_at(gate_up, i, d_ff, 0), up = lanes_at(gate_up + d_ff, i, d_ff, 0);
        lanes d = lanes_load(dh + i), s = lanes_sigmoid(gate);
        lanes slope = lanes_mul(s, lanes_fma(gate, lanes_sub(one, s), one));
        lanes_put(d_gate_up, i, d_ff, lanes_mul(lanes_mul(d, up), slope));
        lanes_put(d_gate_up + d_ff, i, d_ff, lanes_mul(d, lanes_mul(gate, s)));
    }
}

#include "kernels_attend_internal.h"

/* ---- softmax --------------------------------------------------------------------------------- */

static float largest_logit(const float *x, uint32_t n)
{
    lanes largest = lanes_set(-INFINITY);
    for (uint32_t i = 0; i < n; i += JOUST_LANES)
        largest = lanes_max(largest, lanes_at(x, i, n, -INFINITY));
    return lanes_largest(largest);
}

static joust_log_sum log_sum(const float *x, uint32_t n)
{
    const float max = largest_logit(x, n);
    lanes sum = lanes_set(0);
    for (uint32_t i = 0; i < n; i += JOUST_LANES)
        sum = lanes_add(sum, lanes_exp(lanes_sub(lanes_at(x, i, n, -INFINITY), lanes_set(max))));
    return (joust_log_sum){max, (float)joust_log((double)lanes_sum(sum))};
}

static void softmax_add(const float *x, uint32_t n, joust_log_sum sum, float factor, float *d)
{
    for (uint32_t i = 0; i < n; i += JOUST_LANES) {
        lanes logp = lanes_sub(lanes_sub(lanes_at(x, i, n, -INFINITY), lanes_set(sum.max)),
                               lanes_set(sum.log_sum));
        lanes_put(d, i, n, lanes_fma(lanes_set(factor), lanes_exp(logp), lanes_at(d, i, n, 0)));
    }
}

/* The chain of additions in double goes on beside the exponentials of what follows. What lies past n adds 0. */
LANES_INLINE double exponentials_into(const float *x, uint32_t n, float max, float scale, float *e,
                                      double *marks, lanes *by_lanes)
{
    double total = 0;
    for (uint32_t i = 0; i < n; i += JOUST_LANES) {
        lanes above = lanes_sub(lanes_at(x, i, n, -INFINITY), lanes_set(max));
        lanes weights = lanes_exp(lanes_mul(above, lanes_set(scale)));
        lanes_store(e + i, weights);
        *by_lanes = lanes_add(*by_lanes, weights);
        if (i % JOUST_MARK_STEP == 0)
            marks[i / JOUST_MARK_STEP] = total;
        for (uint32_t k = 0; k < JOUST_LANES; k++)
            total += (double)e[i + k];
    }
    return total;
}

static double exponentials(const float *x, uint32_t n, float max, float scale, float *e,
                           double *marks)
{
    lanes by_lanes = lanes_set(0);
    return exponentials_into(x, n, max, scale, e, marks, &by_lanes);
}

static joust_log_sum log_sum_keep(const float *x, uint32_t n, float *e, double *marks,
                                  double *ret_sum)
{
    const float max = largest_logit(x, n);
    lanes by_lanes = lanes_set(0);
    *ret_sum = exponentials_into(x, n, max, 1, e, marks, &by_lanes);
    return (joust_log_sum){max, (float)joust_log((double)lanes_sum(by_lanes))};
}

/* ---- whole blocks of weights ----------------------------------------------------------------- */

static void add(float *to, const float *from, size_t n)
{
    for (size_t i = 0; i < n; i++)
        to[i] = to[i] + from[i];
}

/* Eight sums by index mod 8, then by halves. The squares of floats are exact in double. */
static double square_sum(const float *x, size_t n)
{
    double sum[8] = {0};
    size_t i = 0;
    for (; i + 8 <= n; i += 8)
        for (size_t k = 0; k < 8; k++)
            sum[k] = sum[k] + (double)x[i + k] * (double)x[i + k];
    for (size_t k = 0; i + k < n; k++)
        sum[k] = sum[k] + (double)x[i + k] * (double)x[i + k];
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

static void adam(const joust_adam *a, const float *gradient, float *m, float *v, float *w, size_t n)
{
    const float rest1 = 1.0f - a->beta1, rest2 = 1.0f - a->beta2,
                by_correction = 1.0f / a->correction;
    for (size_t i = 0; i < n; i++) {
        float g = gradient[i] * a->scale;
        m[i] = a->beta1 * m[i] + rest1 * g;
        v[i] = a->beta2 * v[i] + rest2 * (g * g);
        w[i] = w[i] * a->decay - a->step_size * (m[i] / (sqrtf(v[i]) * by_correction + a->eps));
    }
}

/* ---- bounds ---------------------------------------------------------------------------------- */

/* As many independent chains as the widest tile of a matrix product has. */
#define PEAK_CHAINS (TILE_ROWS * TILE_PANELS)

static float multiply_peak(uint32_t n, float x, uint64_t *ret_flop)
{
    const lanes factor = lanes_set(x), term = lanes_set(x);
    lanes sum[PEAK_CHAINS];
    LANES_UNROLL_ALL
    for (uint32_t i = 0; i < PEAK_CHAINS; i++)
        sum[i] = lanes_set((float)i);
    for (uint32_t s = 0; s < n; s++)
        LANES_UNROLL_ALL
    for (uint32_t i = 0; i < PEAK_CHAINS; i++)
        sum[i] = lanes_fma(sum[i], factor, term);
    lanes all = sum[0];
    LANES_UNROLL_ALL
    for (uint32_t i = 1; i < PEAK_CHAINS; i++)
        all = lanes_add(all, sum[i]);
    *ret_flop = 2ull * JOUST_LANES * PEAK_CHAINS * n;
    return lanes_sum(all);
}

static float read_floats(const float *x, size_t n)
{
    lanes sum[8];
    LANES_UNROLL
    for (uint32_t c = 0; c < 8; c++)
        sum[c] = lanes_set(0);
    for (; n >= 8 * JOUST_LANES; n -= 8 * JOUST_LANES, x += 8 * JOUST_LANES)
        LANES_UNROLL
    for (uint32_t c = 0; c < 8; c++)
        sum[c] = lanes_add(sum[c], lanes_load(x + c * JOUST_LANES));
    lanes all = sum[0];
    LANES_UNROLL
    for (uint32_t c = 1; c < 8; c++)
        all = lanes_add(all, sum[c]);
    return lanes_sum(all);
}

static const joust_kernels kernels_of_lanes = {
    .name = LANES_NAME,
    .gemm = gemm,
    .norm = norm,
    .norm_backward = norm_backward,
    .rope = rope,
    .swiglu = swiglu,
    .swiglu_backward = swiglu_backward,
    .attend = attend,
    .attend_backward = attend_backward,
    .log_sum = log_sum,
    .softmax_add = softmax_add,
    .exponentials = exponentials,
    .log_sum_keep = log_sum_keep,
    .add = add,
    .square_sum = square_sum,
    .adam = adam,
    .multiply_peak = multiply_peak,
    .read = read_floats,
};

#endif
