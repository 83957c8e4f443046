#include "proto/base/digest.h"

#include <sodium.h>
#include <string.h>
#include <xxhash.h>

#include "proto/base/bytes.h"

_Static_assert(sizeof(joust_hasher) >= sizeof(crypto_generichash_state), "hasher too small");

static crypto_generichash_state *state_of(joust_hasher *h)
{
    return (crypto_generichash_state *)(void *)h->state;
}

joust_digest joust_digest_of(const void *data, size_t n)
{
    joust_digest d;
    crypto_generichash(d.bytes, sizeof(d.bytes), data, n, NULL, 0);
    return d;
}

void joust_hasher_init(joust_hasher *h)
{
    crypto_generichash_init(state_of(h), NULL, 0, JOUST_DIGEST_BYTES);
}

void joust_hasher_add(joust_hasher *h, const void *data, size_t n)
{
    if (n)
        crypto_generichash_update(state_of(h), data, n);
}

void joust_hasher_u64(joust_hasher *h, uint64_t v)
{
    uint8_t bytes[8];
    joust_put_be64(bytes, v);
    joust_hasher_add(h, bytes, sizeof(bytes));
}

void joust_hasher_field(joust_hasher *h, const void *data, size_t n)
{
    joust_hasher_u64(h, n);
    joust_hasher_add(h, data, n);
}

joust_digest joust_hasher_end(joust_hasher *h)
{
    joust_digest d;
    crypto_generichash_final(state_of(h), d.bytes, sizeof(d.bytes));
    return d;
}

bool joust_digest_equal(const joust_digest *a, const joust_digest *b)
{
    return memcmp(a->bytes, b->bytes, JOUST_DIGEST_BYTES) == 0;
}

bool joust_digest_is_zero(const joust_digest *d)
{
    static const joust_digest zero;
    return joust_digest_equal(d, &zero);
}

const char *joust_digest_hex(const joust_digest *d, char to[JOUST_DIGEST_HEX])
{
    static const char digits[] = "0123456789abcdef";
    for (size_t i = 0; i < JOUST_DIGEST_BYTES; i++) {
        to[2 * i] = digits[d->bytes[i] >> 4];
        to[2 * i + 1] = digits[d->bytes[i] & 15];
    }
    to[2 * JOUST_DIGEST_BYTES] = '\0';
    return to;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

joust_status joust_digest_parse(const char *text, joust_digest *ret, joust_error *err)
{
    joust_digest d;
    for (size_t i = 0; i < JOUST_DIGEST_BYTES; i++) {
        int high = hex_value(text[2 * i]);
        int low = high < 0 ? -1 : hex_value(text[2 * i + 1]);
        if (low < 0)
            return joust_fail(err, JOUST_MALFORMED, "digest '%.80s': expected 64 hex digits", text);
        d.bytes[i] = (uint8_t)(high << 4 | low);
    }
    if (text[2 * JOUST_DIGEST_BYTES])
        return joust_fail(err, JOUST_MALFORMED, "digest '%.80s': expected 64 hex digits", text);
    *ret = d;
    return JOUST_OK;
}

uint64_t joust_checksum(const void *data, size_t n)
{
    return XXH3_64bits(data, n);
}
