/* Record types: one table a record says how its C fields meet the fields of its protobuf message,
 * and encode, decode, bounds and freeing all follow it. Rows are in tag order, one for each field
 * of the message. */
#ifndef JOUST_PROTO_CODEC_INTERNAL_H
#define JOUST_PROTO_CODEC_INTERNAL_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/bytes.h"
#include "proto/base/status.h"

#define JOUST_MAX_LABEL_BYTES 256u /* of one text of a JOUST_FIELD_TEXTS */

typedef enum joust_field_kind {
    JOUST_FIELD_VALUE, /* a number or bool, by the protobuf type; optional: `count` is its bool */
    JOUST_FIELD_VALUE_OR_0,  /* a number; absent where it is 0 */
    JOUST_FIELD_ENUM,        /* an enum, 1 … limit */
    JOUST_FIELD_ENUM_OR_0,   /* an enum, 0 … limit */
    JOUST_FIELD_DIGEST,      /* joust_digest */
    JOUST_FIELD_DIGEST_OR_0, /* joust_digest; absent where it is zero */
    JOUST_FIELD_NAME,        /* char[limit] */
    JOUST_FIELD_TEXT,        /* char *, at most limit bytes; NULL only if optional */
    JOUST_FIELD_TEXTS,       /* char *[limit], uint32_t count */
    JOUST_FIELD_BYTES,       /* uint8_t *, uint32_t count */
    JOUST_FIELD_DIGESTS,     /* joust_digest *, uint32_t count; one bytes field on the wire */
    JOUST_FIELD_NUMBERS,     /* array of numbers, uint32_t count; packed */
    JOUST_FIELD_NUMBERS_TOO, /* as before, of the count that an earlier row has set */
    JOUST_FIELD_RECORD,      /* a record within */
    JOUST_FIELD_RECORD_IF,   /* likewise, there if the bool at `count` is set */
    JOUST_FIELD_RECORD_WITH, /* likewise, there if the char * at `count` isn't NULL */
    JOUST_FIELD_RECORDS      /* array of records, uint32_t count */
} joust_field_kind;

typedef struct joust_record_type joust_record_type;

typedef struct joust_field {
    uint32_t tag;
    joust_field_kind kind;
    size_t offset, count; /* in the C struct */
    uint32_t limit;
    const joust_record_type *type;
} joust_field;

struct joust_record_type {
    const ProtobufCMessageDescriptor *message;
    size_t size; /* of the C struct */
    size_t n_fields;
    const joust_field *fields;
};

/* clang-format off */
#define VALUE(T, tag, member)              {tag, JOUST_FIELD_VALUE, offsetof(T, member), 0, 0, NULL}
#define VALUE_IF(T, tag, member, has)      {tag, JOUST_FIELD_VALUE, offsetof(T, member), offsetof(T, has), 0, NULL}
#define VALUE_OR_0(T, tag, member)         {tag, JOUST_FIELD_VALUE_OR_0, offsetof(T, member), 0, 0, NULL}
#define ENUM(T, tag, member, last)         {tag, JOUST_FIELD_ENUM, offsetof(T, member), 0, last, NULL}
#define ENUM_OR_0(T, tag, member, last)    {tag, JOUST_FIELD_ENUM_OR_0, offsetof(T, member), 0, last, NULL}
#define DIGEST(T, tag, member)             {tag, JOUST_FIELD_DIGEST, offsetof(T, member), 0, 0, NULL}
#define DIGEST_OR_0(T, tag, member)        {tag, JOUST_FIELD_DIGEST_OR_0, offsetof(T, member), 0, 0, NULL}
#define NAME(T, tag, member)               {tag, JOUST_FIELD_NAME, offsetof(T, member), 0, sizeof(((T *)0)->member), NULL}
#define TEXT(T, tag, member, max)          {tag, JOUST_FIELD_TEXT, offsetof(T, member), 0, max, NULL}
#define TEXTS(T, tag, member, n, max)      {tag, JOUST_FIELD_TEXTS, offsetof(T, member), offsetof(T, n), max, NULL}
#define BYTES(T, tag, member, n, max)      {tag, JOUST_FIELD_BYTES, offsetof(T, member), offsetof(T, n), max, NULL}
#define DIGESTS(T, tag, member, n, max)    {tag, JOUST_FIELD_DIGESTS, offsetof(T, member), offsetof(T, n), max, NULL}
#define NUMBERS(T, tag, member, n, max)    {tag, JOUST_FIELD_NUMBERS, offsetof(T, member), offsetof(T, n), max, NULL}
#define NUMBERS_TOO(T, tag, member, n, max) {tag, JOUST_FIELD_NUMBERS_TOO, offsetof(T, member), offsetof(T, n), max, NULL}
#define RECORD(T, tag, member, of)         {tag, JOUST_FIELD_RECORD, offsetof(T, member), 0, 1, &of}
#define RECORD_IF(T, tag, member, has, of) {tag, JOUST_FIELD_RECORD_IF, offsetof(T, member), offsetof(T, has), 1, &of}
#define RECORD_WITH(T, tag, member, text, of) {tag, JOUST_FIELD_RECORD_WITH, offsetof(T, member), offsetof(T, text), 1, &of}
#define RECORDS(T, tag, member, n, max, of) {tag, JOUST_FIELD_RECORDS, offsetof(T, member), offsetof(T, n), max, &of}
#define RECORD_TYPE(T, descriptor, rows)   {&descriptor, sizeof(T), sizeof(rows) / sizeof(*(rows)), rows}
/* clang-format on */

extern const joust_record_type joust_unit_key_type, joust_prompt_type, joust_sampling_type,
    joust_model_ref_type, joust_trajectory_type, joust_verdict_type, joust_pair_type,
    joust_metric_type, joust_stage_summary_type, joust_train_step_type, joust_model_version_type,
    joust_promotion_type, joust_provenance_type, joust_manifest_type, joust_job_type,
    joust_lease_unit_type, joust_unit_result_type;

/* The record type of a message's body by its type number; NULL if this version doesn't know it. */
const joust_record_type *joust_message_record_type(uint32_t type);

/* Appends the canonical bytes of the record at `from`. */
JOUST_MUST_USE joust_status joust_record_encode(const joust_record_type *type, const void *from,
                                                joust_buf *to, joust_error *err);
/* Fills the type->size bytes at `ret`. */
JOUST_MUST_USE joust_status joust_record_decode(const joust_record_type *type, const void *data,
                                                size_t n, void *ret, joust_error *err);
/* Frees what the record points to and zeroes it. */
void joust_record_fini(const joust_record_type *type, void *record);

/* Whether data is the canonical encoding of a record of this type within its limits, found without
 * allocating. *ret_bytes: a bound on the memory that unpacking and converting it take. */
JOUST_MUST_USE joust_status joust_record_scan(const joust_record_type *type, const uint8_t *data,
                                              size_t n, uint64_t *ret_bytes, joust_error *err);

#endif
