/* Content digests (BLAKE2b-256, libsodium) and record checksums (xxh3-64). Thread: any. */
#ifndef JOUST_PROTO_BASE_DIGEST_H
#define JOUST_PROTO_BASE_DIGEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

#define JOUST_DIGEST_BYTES 32
#define JOUST_DIGEST_HEX   65 /* with the NUL */

typedef struct joust_digest {
    uint8_t bytes[JOUST_DIGEST_BYTES];
} joust_digest;

/* Running digest. Holds no heap memory. */
typedef struct joust_hasher {
    uint8_t state[384]; /* crypto_generichash_state, aligned to 64 */
} __attribute__((aligned(64))) joust_hasher;

joust_digest joust_digest_of(const void *data, size_t n);
void joust_hasher_init(joust_hasher *h);
void joust_hasher_add(joust_hasher *h, const void *data, size_t n);
/* Adds the length as 8 big-endian bytes, then the data: fields can't run into each other. */
void joust_hasher_field(joust_hasher *h, const void *data, size_t n);
void joust_hasher_u64(joust_hasher *h, uint64_t v); /* 8 big-endian bytes */
joust_digest joust_hasher_end(joust_hasher *h);

bool joust_digest_equal(const joust_digest *a, const joust_digest *b);
bool joust_digest_is_zero(const joust_digest *d);
/* Lower-case hex into to, NUL-terminated; returns to. */
const char *joust_digest_hex(const joust_digest *d, char to[JOUST_DIGEST_HEX]);
/* Errors: JOUST_MALFORMED unless text is exactly 64 hex digits. */
JOUST_MUST_USE joust_status joust_digest_parse(const char *text, joust_digest *ret, joust_error *err);

uint64_t joust_checksum(const void *data, size_t n); /* xxh3-64, seed 0 */

#endif
