/* Records and messages as bytes, and back: the only user of the generated protobuf code.
 *
 * Encoding is canonical: fields in tag order, smallest varints, nothing optional left to taste. Two
 * equal records have equal bytes, and a digest of a record is the digest of these bytes. Decoding
 * takes canonical bytes only: an unknown, repeated, missing or misplaced field is refused, so
 * encode(decode(b)) == b.
 *
 * Bounds:  every length and count is checked before the memory for it is allocated; a decode
 * allocates at most JOUST_DECODE_FACTOR times the input plus JOUST_DECODE_SLACK bytes. Checks:
 * decoding checks shape, bounds and enumerations; finiteness, UTF-8 and relations between fields
 * are checked by joust_<record>_validate (proto/records.h), which whoever takes bytes from a peer
 * calls. Memory:  encode appends to `to`, which is as before on failure. decode fills *ret with
 * owned memory (free with joust_<record>_fini where there is one); *ret is untouched on failure.
 * Errors:  encode: JOUST_INVALID (out of bounds, a text that is NULL), JOUST_NOMEM.
 *          decode: JOUST_MALFORMED, JOUST_TOO_LARGE, JOUST_NOMEM; err names message and field.
 * Thread:  any; no shared state. */
#ifndef JOUST_PROTO_CODEC_H
#define JOUST_PROTO_CODEC_H

#include "proto/base/bytes.h"
#include "proto/messages.h"
#include "proto/records.h"

#define JOUST_DECODE_FACTOR 16u
#define JOUST_DECODE_SLACK  (1u << 20)

#define JOUST_CODEC(record)                                                                        \
    JOUST_MUST_USE joust_status joust_##record##_encode(const joust_##record *r, joust_buf *to,    \
                                                        joust_error *err);                         \
    JOUST_MUST_USE joust_status joust_##record##_decode(const void *data, size_t n,                \
                                                        joust_##record *ret, joust_error *err)

JOUST_CODEC(prompt);     /* joust_prompt_encode, joust_prompt_decode */
JOUST_CODEC(trajectory); /* … */
JOUST_CODEC(verdict);
JOUST_CODEC(pair);
JOUST_CODEC(metric);
JOUST_CODEC(stage_summary);
JOUST_CODEC(train_step);
JOUST_CODEC(model_version);
JOUST_CODEC(promotion);
JOUST_CODEC(provenance);
JOUST_CODEC(manifest);

/* Digests of canonical bytes. Errors: as encode. */
JOUST_MUST_USE joust_status joust_trajectory_digest(const joust_trajectory *r, joust_digest *ret,
                                                    joust_error *err);
JOUST_MUST_USE joust_status joust_manifest_digest(const joust_manifest *m, joust_digest *ret,
                                                  joust_error *err);
/* joust_pair.verdicts: over the canonical bytes of each verdict as a field (8 bytes of length,
 * bytes), in the order given, which is key order. */
JOUST_MUST_USE joust_status joust_verdicts_digest(const joust_verdict *verdicts, uint32_t n,
                                                  joust_digest *ret, joust_error *err);

/* The body of a message (type and epoch travel in the envelope, proto/envelope.h).
 * decode: type and epoch come from the envelope. Errors beside the above: JOUST_UNSUPPORTED for a
 * type that this version doesn't know. */
JOUST_MUST_USE joust_status joust_message_encode(const joust_message *m, joust_buf *body,
                                                 joust_error *err);
JOUST_MUST_USE joust_status joust_message_decode(uint32_t type, uint64_t epoch, const void *body,
                                                 size_t n, joust_message *ret, joust_error *err);

#endif
