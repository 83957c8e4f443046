/* lanes_fma and chains of it where the processor has no such instruction, exact for every input.
 *
 * In double the product of two floats is exact and the sum is rounded once. Rounding that to float
 * is right unless it lies halfway between two floats, where what was lost decides, or rounds at
 * another place (subnormal) or to infinity. So the fast way rounds halves up and counts the lanes
 * that were such a case, generously; if there is any, the slow way does all sixteen again. */
#ifndef JOUST_WORKER_ENGINE_KERNELS_FMA_PORTABLE_INTERNAL_H
#define JOUST_WORKER_ENGINE_KERNELS_FMA_PORTABLE_INTERNAL_H

typedef double doubles2 __attribute__((vector_size(16)));
typedef uint64_t words2 __attribute__((vector_size(16)));
typedef double doubles4 __attribute__((vector_size(32)));

#define FMA_PAIRS (JOUST_LANES / 2)

/* A chain's doubles are its floats times 2^96: for zeros, and for floats of at least 2^-95 and below
 * 2^33, bits 7, 8 and 9 of the exponent are 0, as they are for no other sum. Others go the slow
 * way. */
#define FMA_SCALE       0x1p96
#define FMA_OUTSIDE     0x3800000000000000u /* these bits */
#define FMA_BELOW_FLOAT 0x000000001fffffffu /* the bits of a double that a float lacks */
#define FMA_HALF        0x0000000010000000u

#define LANES_OWN_CHAIN
typedef struct lanes_chain {
    doubles2 at[FMA_PAIRS];
} lanes_chain;

/* Lanes 2i and 2i + 1. */
LANES_INLINE doubles2 lanes_pair(lanes x, uint32_t i)
{
    floats4 y = x.at[i / 2];
    if (i % 2)
        y = (floats4){y[2], y[3], y[2], y[3]};
    doubles4 z = __builtin_convertvector(y, doubles4);
    return (doubles2){z[0], z[1]};
}

LANES_INLINE floats4 floats4_of(doubles2 low, doubles2 high)
{
    return (floats4){(float)low[0], (float)low[1], (float)high[0], (float)high[1]};
}

LANES_INLINE lanes_chain lanes_chain_begin(lanes c)
{
    lanes_chain chain;
    LANES_UNROLL
    for (uint32_t i = 0; i < FMA_PAIRS; i++)
        chain.at[i] = lanes_pair(c, i) * FMA_SCALE;
    return chain;
}

LANES_INLINE lanes lanes_chain_end(lanes_chain chain)
{
    LANES_EACH(floats4_of(chain.at[2 * i] / FMA_SCALE, chain.at[2 * i + 1] / FMA_SCALE));
}

/* a * b + c rounded to odd: towards zero, the last bit set if anything was lost. That rounds to
 * float as the exact sum would. Source: Boldo and Melquiond, "Emulation of FMA and correctly
 * rounded sums: proved algorithms using rounding to odd", IEEE Trans. Computers 57 (2008). */
LANES_INLINE doubles2 fma_to_odd(doubles2 a, doubles2 b, doubles2 c)
{
    doubles2 product = a * b, sum = product + c, back = sum - product;
    doubles2 lost = (product - (sum - back)) + (c - back);
    words2 inexact = (words2)(lost < 0) | (words2)(lost > 0); /* neither if sum is not finite */
    words2 away = ((words2)lost ^ (words2)sum) >> 63;         /* from zero, if inexact */
    return (doubles2)(((words2)sum - (inexact & away)) | (inexact & 1));
}

/* A call, so that it takes no registers from the fast way. */
static __attribute__((noinline)) void lanes_chain_add_slow(lanes_chain *chain, lanes a, lanes b)
{
    lanes_chain sum;
    LANES_UNROLL
    for (uint32_t i = 0; i < FMA_PAIRS; i++)
        sum.at[i] = fma_to_odd(lanes_pair(a, i) * FMA_SCALE, lanes_pair(b, i), chain->at[i]);
    *chain = lanes_chain_begin(lanes_chain_end(sum));
}

/* c = a * b + c. */
LANES_INLINE void lanes_chain_add(lanes_chain *chain, lanes a, lanes b)
{
    const uint64_t clear = FMA_BELOW_FLOAT | FMA_OUTSIDE;
    doubles2 rounded[FMA_PAIRS];
    /* Counts by halves of a double. Where the lower half had none of the bits to clear the sum was
     * halfway; where the upper half had none it isn't outside, and counts down. */
    words4 cases = (words4)((words2){0, 0} + ((uint64_t)FMA_PAIRS << 32));
    LANES_UNROLL
    for (uint32_t i = 0; i < FMA_PAIRS; i++) {
        doubles2 sum = lanes_pair(a, i) * FMA_SCALE * lanes_pair(b, i) + chain->at[i];
        words2 up = (words2)sum + FMA_HALF, kept = up & ~clear;
        cases += (words4)((words4)up == (words4)kept);
        rounded[i] = (doubles2)kept;
    }
    if (__builtin_expect((((words2)cases)[0] | ((words2)cases)[1]) != 0, 0)) {
        lanes_chain_add_slow(chain, a, b);
        return;
    }
    LANES_UNROLL
    for (uint32_t i = 0; i < FMA_PAIRS; i++)
        chain->at[i] = rounded[i];
}

LANES_INLINE lanes lanes_fma(lanes a, lanes b, lanes c)
{
    lanes_chain chain = lanes_chain_begin(c);
    lanes_chain_add(&chain, a, b);
    return lanes_chain_end(chain);
}

#endif
