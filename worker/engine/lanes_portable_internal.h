/* Sixteen lanes in portable C: what each operation means, to the bit. */
#ifndef JOUST_WORKER_ENGINE_LANES_PORTABLE_INTERNAL_H
#define JOUST_WORKER_ENGINE_LANES_PORTABLE_INTERNAL_H

#include <float.h>
#include <math.h>
#include <string.h>

#include "kernels_internal.h"

#define LANES_INLINE static inline __attribute__((always_inline))

#define TILE_ROWS   4u
#define TILE_PANELS 1u
#define TILES_WIDE                                                                                 \
    {                                                                                              \
        1, 1, 1                                                                                    \
    }
/* clang-format off */
#define GEMM_TILES \
    GEMM_TILE(1, 1); GEMM_TILE(2, 1); GEMM_TILE(3, 1); GEMM_TILE(4, 1);
/* clang-format on */

_Static_assert(FLT_EVAL_METHOD == 0, "float arithmetic must round to float at every step");

typedef struct lanes {
    float at[JOUST_LANES];
} lanes;

/* a * b + c with one rounding. Where the processor has no such instruction: the product is exact
 * in double, the sum is rounded to odd (the last bit set if anything was lost), and that rounds to
 * float as the exact sum would. Source: Boldo and Melquiond, "Emulation of FMA and correctly
 * rounded sums: proved algorithms using rounding to odd", IEEE Trans. Computers 57 (2008). */
LANES_INLINE float lanes_fma_one(float a, float b, float c)
{
#ifdef __FP_FAST_FMAF
    return fmaf(a, b, c);
#else
    double product = (double)a * b, term = c, sum = product + term, back = sum - product;
    double lost = (product - (sum - back)) + (term - back);
    uint64_t bits;
    memcpy(&bits, &sum, sizeof(bits));
    uint64_t inexact =
        (uint64_t)(lost > 0) | (uint64_t)(lost < 0); /* neither if sum is not finite */
    uint64_t step = inexact & ~bits & 1;
    bits += (lost > 0) == (sum > 0) ? step : 0 - step;
    memcpy(&sum, &bits, sizeof(sum));
    return (float)sum;
#endif
}

#define LANES_EACH(expression)                                                                     \
    lanes result;                                                                                  \
    for (uint32_t i = 0; i < JOUST_LANES; i++)                                                     \
        result.at[i] = (expression);                                                               \
    return result

LANES_INLINE lanes lanes_set(float x)
{
    LANES_EACH(x);
}
LANES_INLINE lanes lanes_load(const float *p)
{
    LANES_EACH(p[i]);
}
/* The first n of 16; the others are fill. */
LANES_INLINE lanes lanes_load_n(const float *p, uint32_t n, float fill)
{
    LANES_EACH(i < n ? p[i] : fill);
}
LANES_INLINE void lanes_store(float *p, lanes x)
{
    memcpy(p, x.at, sizeof(x.at));
}
LANES_INLINE void lanes_store_n(float *p, uint32_t n, lanes x)
{
    for (uint32_t i = 0; i < n && i < JOUST_LANES; i++)
        p[i] = x.at[i];
}
LANES_INLINE lanes lanes_add(lanes a, lanes b)
{
    LANES_EACH(a.at[i] + b.at[i]);
}
LANES_INLINE lanes lanes_sub(lanes a, lanes b)
{
    LANES_EACH(a.at[i] - b.at[i]);
}
LANES_INLINE lanes lanes_mul(lanes a, lanes b)
{
    LANES_EACH(a.at[i] * b.at[i]);
}
LANES_INLINE lanes lanes_div(lanes a, lanes b)
{
    LANES_EACH(a.at[i] / b.at[i]);
}
LANES_INLINE lanes lanes_fma(lanes a, lanes b, lanes c)
{
    LANES_EACH(lanes_fma_one(a.at[i], b.at[i], c.at[i]));
}
/* The second operand where they compare unordered or equal, as x86 does: lanes_max(limit, x) keeps
 * a NaN. */
LANES_INLINE lanes lanes_max(lanes a, lanes b)
{
    LANES_EACH(a.at[i] > b.at[i] ? a.at[i] : b.at[i]);
}
LANES_INLINE lanes lanes_min(lanes a, lanes b)
{
    LANES_EACH(a.at[i] < b.at[i] ? a.at[i] : b.at[i]);
}
/* 0 where x < limit, else y. */
LANES_INLINE lanes lanes_zero_below(lanes x, lanes limit, lanes y)
{
    LANES_EACH(x.at[i] < limit.at[i] ? 0.0f : y.at[i]);
}
/* 2^k of lanes that hold 0x1.8p23 + k, -126 <= k <= 127. */
LANES_INLINE lanes lanes_power_of_two(lanes shifted)
{
    uint32_t bits[JOUST_LANES];
    lanes y;
    memcpy(bits, shifted.at, sizeof(bits));
    for (uint32_t i = 0; i < JOUST_LANES; i++)
        bits[i] = (bits[i] + 127u) << 23;
    memcpy(y.at, bits, sizeof(bits));
    return y;
}
/* The sum by halves: lane i with i + 8, then i + 4, i + 2, i + 1. */
LANES_INLINE float lanes_sum(lanes x)
{
    for (uint32_t half = JOUST_LANES / 2; half >= 1; half /= 2)
        for (uint32_t i = 0; i < half; i++)
            x.at[i] = x.at[i] + x.at[i + half];
    return x.at[0];
}

#endif
