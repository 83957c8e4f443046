/* Sixteen lanes in two AVX2 registers; see lanes_portable_internal.h for what each operation
 * means. */
#ifndef JOUST_WORKER_ENGINE_KERNELS_LANES_AVX2_INTERNAL_H
#define JOUST_WORKER_ENGINE_KERNELS_LANES_AVX2_INTERNAL_H

#include <immintrin.h>

#include "kernels_internal.h"

#define LANES_INLINE static inline __attribute__((always_inline))

#define TILE_ROWS   6u
#define TILE_PANELS 1u
#define TILES_WIDE                                                                                 \
    {                                                                                              \
        4, 2, 2, 1, 1                                                                              \
    }
/* clang-format off */
#define GEMM_TILES \
    GEMM_TILE(1, 1); GEMM_TILE(1, 4); GEMM_TILE(2, 1); GEMM_TILE(2, 2); GEMM_TILE(3, 1); \
    GEMM_TILE(3, 2); GEMM_TILE(4, 1); GEMM_TILE(5, 1); GEMM_TILE(6, 1);
/* clang-format on */

typedef struct lanes {
    __m256 low, high;
} lanes;

/* What both halves get. */
#define LANES_BOTH(expression_low, expression_high) ((lanes){(expression_low), (expression_high)})

LANES_INLINE lanes lanes_set(float x)
{
    return LANES_BOTH(_mm256_set1_ps(x), _mm256_set1_ps(x));
}
LANES_INLINE lanes lanes_load(const float *p)
{
    return LANES_BOTH(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}
/* Sixteen pairs of bf16: the lower halves, the upper halves. */
LANES_INLINE __m256i lanes_words(const uint32_t *p)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)p);
}
LANES_INLINE lanes lanes_low_half(const uint32_t *p)
{
    return LANES_BOTH(_mm256_castsi256_ps(_mm256_slli_epi32(lanes_words(p), 16)),
                      _mm256_castsi256_ps(_mm256_slli_epi32(lanes_words(p + 8), 16)));
}
LANES_INLINE lanes lanes_high_half(const uint32_t *p)
{
    const __m256i high = _mm256_set1_epi32((int)0xffff0000u);
    return LANES_BOTH(_mm256_castsi256_ps(_mm256_and_si256(lanes_words(p), high)),
                      _mm256_castsi256_ps(_mm256_and_si256(lanes_words(p + 8), high)));
}
/* All bits set in the lanes first .. first + 7 that are below n. */
LANES_INLINE __m256i lanes_mask(uint32_t first, uint32_t n)
{
    __m256i at =
        _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32((int)first));
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), at);
}
LANES_INLINE __m256 lanes_half_load_n(const float *p, __m256i mask, float fill)
{
    return _mm256_blendv_ps(_mm256_set1_ps(fill), _mm256_maskload_ps(p, mask),
                            _mm256_castsi256_ps(mask));
}
LANES_INLINE lanes lanes_load_n(const float *p, uint32_t n, float fill)
{
    return LANES_BOTH(lanes_half_load_n(p, lanes_mask(0, n), fill),
                      lanes_half_load_n(p + 8, lanes_mask(8, n), fill));
}
LANES_INLINE void lanes_store(float *p, lanes x)
{
    _mm256_storeu_ps(p, x.low);
    _mm256_storeu_ps(p + 8, x.high);
}
LANES_INLINE void lanes_store_n(float *p, uint32_t n, lanes x)
{
    _mm256_maskstore_ps(p, lanes_mask(0, n), x.low);
    _mm256_maskstore_ps(p + 8, lanes_mask(8, n), x.high);
}
LANES_INLINE lanes lanes_add(lanes a, lanes b)
{
    return LANES_BOTH(_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high));
}
LANES_INLINE lanes lanes_sub(lanes a, lanes b)
{
    return LANES_BOTH(_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high));
}
LANES_INLINE lanes lanes_mul(lanes a, lanes b)
{
    return LANES_BOTH(_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high));
}
LANES_INLINE lanes lanes_div(lanes a, lanes b)
{
    return LANES_BOTH(_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high));
}
LANES_INLINE lanes lanes_fma(lanes a, lanes b, lanes c)
{
    return LANES_BOTH(_mm256_fmadd_ps(a.low, b.low, c.low),
                      _mm256_fmadd_ps(a.high, b.high, c.high));
}
LANES_INLINE lanes lanes_max(lanes a, lanes b)
{
    return LANES_BOTH(_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high));
}
LANES_INLINE lanes lanes_min(lanes a, lanes b)
{
    return LANES_BOTH(_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high));
}
LANES_INLINE lanes lanes_zero_below(lanes x, lanes limit, lanes y)
{
    return LANES_BOTH(_mm256_andnot_ps(_mm256_cmp_ps(x.low, limit.low, _CMP_LT_OQ), y.low),
                      _mm256_andnot_ps(_mm256_cmp_ps(x.high, limit.high, _CMP_LT_OQ), y.high));
}
LANES_INLINE __m256 lanes_half_power_of_two(__m256 shifted)
{
    __m256i bits = _mm256_add_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(bits, 23));
}
LANES_INLINE lanes lanes_power_of_two(lanes shifted)
{
    return LANES_BOTH(lanes_half_power_of_two(shifted.low), lanes_half_power_of_two(shifted.high));
}
LANES_INLINE float lanes_sum(lanes x)
{
    __m256 eight = _mm256_add_ps(x.low, x.high);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

#endif
