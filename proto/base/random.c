#include "proto/base/random.h"

#include <math.h>

#include "proto/base/bytes.h"
#include "proto/base/digest.h"
#include "proto/base/math.h"

joust_stream joust_stream_open(const joust_stream_name *name)
{
    joust_hasher h;
    joust_hasher_init(&h);
    joust_hasher_u64(&h, name->job_seed);
    joust_hasher_u64(&h, (uint64_t)name->stage << 32 | name->round);
    joust_hasher_u64(&h, name->prompt);
    joust_hasher_u64(&h, (uint64_t)name->sample << 32 | name->purpose);
    joust_digest d = joust_hasher_end(&h);
    return (joust_stream){.key = {joust_get_be32(d.bytes), joust_get_be32(d.bytes + 4)},
                          .counter = {joust_get_be32(d.bytes + 8), joust_get_be32(d.bytes + 12)}};
}

void joust_stream_block(const joust_stream *s, uint64_t index, uint32_t ret[4])
{
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32), c2 = s->counter[0],
             c3 = s->counter[1];
    uint32_t k0 = s->key[0], k1 = s->key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    ret[0] = c0;
    ret[1] = c1;
    ret[2] = c2;
    ret[3] = c3;
}

uint64_t joust_stream_u64(const joust_stream *s, uint64_t index)
{
    uint32_t block[4];
    joust_stream_block(s, index, block);
    return (uint64_t)block[0] << 32 | block[1];
}

float joust_stream_float(const joust_stream *s, uint64_t index)
{
    return (float)(joust_stream_u64(s, index) >> 40) * 0x1p-24f;
}

double joust_stream_double(const joust_stream *s, uint64_t index)
{
    return (double)(joust_stream_u64(s, index) >> 11) * 0x1p-53;
}

uint64_t joust_stream_below(const joust_stream *s, uint64_t index, uint64_t n)
{
    /* High 64 bits of a 64 x 64 product, in parts: ISO C has no 128-bit integer. */
    uint64_t x = joust_stream_u64(s, index);
    uint64_t x_low = x & 0xffffffffu, x_high = x >> 32, n_low = n & 0xffffffffu, n_high = n >> 32;
    uint64_t middle = x_high * n_low + (x_low * n_low >> 32);
    uint64_t middle_low = (middle & 0xffffffffu) + x_low * n_high;
    return x_high * n_high + (middle >> 32) + (middle_low >> 32);
}

double joust_stream_normal(const joust_stream *s, uint64_t index)
{
    uint32_t block[4];
    joust_stream_block(s, index, block);
    double u = ((double)((uint64_t)block[0] << 21 ^ block[1] >> 11) + 1.0) * 0x1p-53; /* (0, 1] */
    double v = (double)((uint64_t)block[2] << 21 ^ block[3] >> 11) * 0x1p-53;
    return sqrt(-2.0 * joust_log(u)) * joust_cos(6.283185307179586 * v);
}

void joust_stream_shuffle(const joust_stream *s, uint32_t *items, uint32_t n)
{
    for (uint32_t i = 0; i + 1 < n; i++) {
        uint32_t j = i + (uint32_t)joust_stream_below(s, i, n - i);
        uint32_t swap = items[i];
        items[i] = items[j];
        items[j] = swap;
    }
}
