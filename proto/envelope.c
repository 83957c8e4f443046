#include "proto/envelope.h"

#include <string.h>

#include "proto/base/bytes.h"
#include "proto/messages.h"

static const uint8_t magic[3] = {'J', 'S', 'T'};

void joust_envelope_encode(const joust_envelope *e, uint8_t ret[JOUST_ENVELOPE_BYTES])
{
    memcpy(ret, magic, sizeof(magic));
    ret[3] = e->version;
    joust_put_be16(ret + 4, e->type);
    joust_put_be16(ret + 6, e->flags);
    joust_put_be64(ret + 8, e->epoch);
    joust_put_be32(ret + 16, e->body_bytes);
    joust_put_be32(ret + 20, 0);
}

joust_status joust_envelope_decode(const void *data, size_t n, size_t n_body, joust_envelope *ret,
                                   joust_error *err)
{
    const uint8_t *at = data;
    /* Magic and version come first, whatever the length: another version may have another header.
     */
    if (n < 4 || memcmp(at, magic, sizeof(magic)) != 0)
        return joust_fail(err, JOUST_MALFORMED,
                          "header: %zu bytes that don't begin with JST; is the peer Joust?", n);
    if (at[3] != JOUST_PROTOCOL_VERSION) {
        *ret = (joust_envelope){.version = at[3]};
        return joust_fail(err, JOUST_VERSION,
                          "the peer speaks protocol version %u, this is version %u: run the same "
                          "release of joust on both ends",
                          at[3], JOUST_PROTOCOL_VERSION);
    }
    if (n != JOUST_ENVELOPE_BYTES)
        return joust_fail(err, JOUST_MALFORMED, "header: %zu bytes, expected %u", n,
                          JOUST_ENVELOPE_BYTES);
    joust_envelope e = {.version = at[3],
                        .type = joust_get_be16(at + 4),
                        .flags = joust_get_be16(at + 6),
                        .epoch = joust_get_be64(at + 8),
                        .body_bytes = joust_get_be32(at + 16)};
    if (e.flags != 0 || joust_get_be32(at + 20) != 0)
        return joust_fail(err, JOUST_MALFORMED, "header: flags that version %u doesn't have",
                          JOUST_PROTOCOL_VERSION);
    if (e.body_bytes > JOUST_MAX_FRAME_BYTES)
        return joust_fail(err, JOUST_TOO_LARGE, "header: body of %u bytes, at most %u are allowed",
                          e.body_bytes, JOUST_MAX_FRAME_BYTES);
    if (e.body_bytes != n_body)
        return joust_fail(err, JOUST_MALFORMED, "header: body of %u bytes announced, %zu came",
                          e.body_bytes, n_body);
    *ret = e;
    return JOUST_OK;
}
