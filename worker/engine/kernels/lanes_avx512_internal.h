/* Sixteen lanes in one AVX-512 register; see lanes_portable_internal.h for what each operation
 * means. */
#ifndef JOUST_WORKER_ENGINE_KERNELS_LANES_AVX512_INTERNAL_H
#define JOUST_WORKER_ENGINE_KERNELS_LANES_AVX512_INTERNAL_H

#include <immintrin.h>

#include "kernels_internal.h"

#define LANES_INLINE static inline __attribute__((always_inline))

/* Tiles of a matrix product: rows x panels with many rows, and the panels a tile takes with fewer
 * rows. */
#define TILE_ROWS   8u
#define TILE_PANELS 3u
#define TILES_WIDE                                                                                 \
    {                                                                                              \
        4, 8, 8, 6, 4, 4, 3                                                                        \
    } /* for 1 .. TILE_ROWS - 1 rows; one row reads as many streams as its chains need, more are slower */
/* clang-format off */
#define GEMM_TILES \
    GEMM_TILE(1, 1); GEMM_TILE(1, 3); GEMM_TILE(1, 4); GEMM_TILE(2, 1); GEMM_TILE(2, 3); \
    GEMM_TILE(2, 8); GEMM_TILE(3, 1); GEMM_TILE(3, 3); GEMM_TILE(3, 8); GEMM_TILE(4, 1); \
    GEMM_TILE(4, 3); GEMM_TILE(4, 6); GEMM_TILE(5, 1); GEMM_TILE(5, 3); GEMM_TILE(5, 4); \
    GEMM_TILE(6, 1); GEMM_TILE(6, 3); GEMM_TILE(6, 4); GEMM_TILE(7, 1); GEMM_TILE(7, 3); \
    GEMM_TILE(8, 1); GEMM_TILE(8, 3);
/* clang-format on */

typedef __m512 lanes;

LANES_INLINE lanes lanes_set(float x)
{
    return _mm512_set1_ps(x);
}
LANES_INLINE lanes lanes_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
/* Sixteen pairs of bf16: the lower halves, the upper halves. */
LANES_INLINE lanes lanes_low_half(const uint32_t *p)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(p), 16));
}
LANES_INLINE lanes lanes_high_half(const uint32_t *p)
{
    const __m512i high = _mm512_set1_epi32((int)0xffff0000u);
    return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(p), high));
}
LANES_INLINE lanes lanes_load_n(const float *p, uint32_t n, float fill)
{
    return _mm512_mask_loadu_ps(_mm512_set1_ps(fill), (__mmask16)((1u << n) - 1), p);
}
LANES_INLINE void lanes_store(float *p, lanes x)
{
    _mm512_storeu_ps(p, x);
}
LANES_INLINE void lanes_store_n(float *p, uint32_t n, lanes x)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << n) - 1), x);
}
LANES_INLINE lanes lanes_add(lanes a, lanes b)
{
    return _mm512_add_ps(a, b);
}
LANES_INLINE lanes lanes_sub(lanes a, lanes b)
{
    return _mm512_sub_ps(a, b);
}
LANES_INLINE lanes lanes_mul(lanes a, lanes b)
{
    return _mm512_mul_ps(a, b);
}
LANES_INLINE lanes lanes_div(lanes a, lanes b)
{
    return _mm512_div_ps(a, b);
}
LANES_INLINE lanes lanes_fma(lanes a, lanes b, lanes c)
{
    return _mm512_fmadd_ps(a, b, c);
}
LANES_INLINE lanes lanes_max(lanes a, lanes b)
{
    return _mm512_max_ps(a, b);
}
LANES_INLINE lanes lanes_min(lanes a, lanes b)
{
    return _mm512_min_ps(a, b);
}
LANES_INLINE lanes lanes_zero_below(lanes x, lanes limit, lanes y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x, limit, _CMP_LT_OQ), y, _mm512_setzero_ps());
}
LANES_INLINE lanes lanes_power_of_two(lanes shifted)
{
    __m512i bits = _mm512_add_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 23));
}
LANES_INLINE float lanes_sum(lanes x)
{
    __m256 eight =
        _mm256_add_ps(_mm512_castps512_ps256(x),
                      _mm256_castsi256_ps(_mm512_extracti64x4_epi64(_mm512_castps_si512(x), 1)));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#endif
