/* The header frame that goes before every body: fixed size, checked before the body is looked at.
 *
 *   offset bytes
 *        0     3  magic "JST"
 *        3     1  version, JOUST_PROTOCOL_VERSION
 *        4     2  type, joust_message_type        (numbers are big-endian)
 *        6     2  flags, 0 in this version
 *        8     8  epoch of the coordinator; 0 in a peer's first HELLO
 *       16     4  bytes of the body frame
 *       20     4  0 in this version
 *
 * Thread: any. */
#ifndef JOUST_PROTO_ENVELOPE_H
#define JOUST_PROTO_ENVELOPE_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

#define JOUST_ENVELOPE_BYTES 24u

typedef struct joust_envelope {
    uint8_t version;
    uint16_t type;
    uint16_t flags;
    uint64_t epoch;
    uint32_t body_bytes;
} joust_envelope;

void joust_envelope_encode(const joust_envelope *e, uint8_t ret[JOUST_ENVELOPE_BYTES]);
/* n_body: size of the body frame that came with it.
 * Errors: JOUST_MALFORMED (length, magic, flags, body of another size), JOUST_TOO_LARGE (body above
 * JOUST_MAX_FRAME_BYTES), JOUST_VERSION (err names both versions; ret->version is set all the same,
 * so that the peer can be answered with an ERROR). */
JOUST_MUST_USE joust_status joust_envelope_decode(const void *data, size_t n, size_t n_body,
                                                  joust_envelope *ret, joust_error *err);

#endif
