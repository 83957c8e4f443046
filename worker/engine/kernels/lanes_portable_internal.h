/* Sixteen lanes in portable C: what each operation means, to the bit. */
#ifndef JOUST_WORKER_ENGINE_KERNELS_LANES_PORTABLE_INTERNAL_H
#define JOUST_WORKER_ENGINE_KERNELS_LANES_PORTABLE_INTERNAL_H

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

typedef float floats4 __attribute__((vector_size(16)));
typedef int32_t ints4 __attribute__((vector_size(16)));
typedef uint32_t words4 __attribute__((vector_size(16)));

typedef struct lanes {
    floats4 at[JOUST_LANES / 4];
} lanes;

#define LANES_EACH(expression)                                                                     \
    lanes result;                                                                                  \
    for (uint32_t i = 0; i < JOUST_LANES / 4; i++)                                                 \
        result.at[i] = (expression);                                                               \
    return result

LANES_INLINE lanes lanes_set(float x)
{
    LANES_EACH(((floats4){x, x, x, x}));
}
LANES_INLINE floats4 floats4_load(const float *p)
{
    floats4 x;
    memcpy(&x, p, sizeof(x));
    return x;
}
LANES_INLINE lanes lanes_load(const float *p)
{
    LANES_EACH(floats4_load(p + 4 * i));
}
/* Sixteen pairs of bf16, as floats: the lower halves, the upper halves. */
LANES_INLINE words4 words4_load(const uint32_t *p)
{
    words4 x;
    memcpy(&x, p, sizeof(x));
    return x;
}
LANES_INLINE lanes lanes_low_half(const uint32_t *p)
{
    LANES_EACH((floats4)(words4_load(p + 4 * i) << 16));
}
LANES_INLINE lanes lanes_high_half(const uint32_t *p)
{
    LANES_EACH((floats4)(words4_load(p + 4 * i) & 0xffff0000u));
}
/* The first n of 16; the others are fill. */
LANES_INLINE lanes lanes_load_n(const float *p, uint32_t n, float fill)
{
    float at[JOUST_LANES];
    for (uint32_t i = 0; i < JOUST_LANES; i++)
        at[i] = i < n ? p[i] : fill;
    return lanes_load(at);
}
LANES_INLINE void lanes_store(float *p, lanes x)
{
    memcpy(p, x.at, sizeof(x.at));
}
LANES_INLINE void lanes_store_n(float *p, uint32_t n, lanes x)
{
    float at[JOUST_LANES];
    lanes_store(at, x);
    for (uint32_t i = 0; i < n && i < JOUST_LANES; i++)
        p[i] = at[i];
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
LANES_INLINE floats4 floats4_choose(ints4 where, floats4 a, floats4 b)
{
    return (floats4)(((ints4)a & where) | ((ints4)b & ~where));
}
/* The second operand where they compare unordered or equal, as x86 does: lanes_max(limit, x) keeps
 * a NaN. */
LANES_INLINE lanes lanes_max(lanes a, lanes b)
{
    LANES_EACH(floats4_choose(a.at[i] > b.at[i], a.at[i], b.at[i]));
}
LANES_INLINE lanes lanes_min(lanes a, lanes b)
{
    LANES_EACH(floats4_choose(a.at[i] < b.at[i], a.at[i], b.at[i]));
}
/* 0 where x < limit, else y. */
LANES_INLINE lanes lanes_zero_below(lanes x, lanes limit, lanes y)
{
    LANES_EACH((floats4)((ints4)y.at[i] & ~(x.at[i] < limit.at[i])));
}
/* 2^k of lanes that hold 0x1.8p23 + k, -126 <= k <= 127. */
LANES_INLINE lanes lanes_power_of_two(lanes shifted)
{
    LANES_EACH((floats4)(((words4)shifted.at[i] + 127u) << 23));
}
/* The sum by halves: lane i with i + 8, then i + 4, i + 2, i + 1. */
LANES_INLINE float lanes_sum(lanes x)
{
    floats4 y = (x.at[0] + x.at[2]) + (x.at[1] + x.at[3]);
    return (y[0] + y[2]) + (y[1] + y[3]);
}

/* lanes_fma: a * b + c with one rounding. */
#ifdef __FP_FAST_FMAF
LANES_INLINE floats4 floats4_fma(floats4 a, floats4 b, floats4 c)
{
    return (floats4){fmaf(a[0], b[0], c[0]), fmaf(a[1], b[1], c[1]), fmaf(a[2], b[2], c[2]),
                     fmaf(a[3], b[3], c[3])};
}
LANES_INLINE lanes lanes_fma(lanes a, lanes b, lanes c)
{
    LANES_EACH(floats4_fma(a.at[i], b.at[i], c.at[i]));
}
#else
#include "fma_portable_internal.h"
#endif

#endif
