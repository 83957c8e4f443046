/* A record's bytes are read once here, without allocating, before protobuf-c sees them: order of
 * fields, wire types, smallest varints, lengths, counts and enumerations. What passes is canonical,
 * and small enough. */
#include <string.h>

#include "proto/base/digest.h"
#include "proto/codec_internal.h"

typedef struct scanner {
    const uint8_t *data;
    size_t n, at;
    uint64_t bytes; /* bound on the memory it takes, so far */
    joust_error *err;
} scanner;

typedef struct place { /* of an error: which field of which message */
    const joust_record_type *type;
    size_t row;
} place;

static joust_status refuse(scanner *s, const place *p, const char *what)
{
    const char *message = p->type->message->short_name;
    if (p->row < p->type->n_fields)
        return joust_fail(s->err, JOUST_MALFORMED, "%s.%s: %s at byte %zu", message,
                          p->type->message->fields[p->row].name, what, s->at);
    return joust_fail(s->err, JOUST_MALFORMED, "%s: %s at byte %zu", message, what, s->at);
}

static joust_status too_large(scanner *s, const place *p, uint64_t n, uint32_t limit)
{
    return joust_fail(s->err, JOUST_TOO_LARGE, "%s.%s: %llu, at most %u are allowed",
                      p->type->message->short_name, p->type->message->fields[p->row].name,
                      (unsigned long long)n, limit);
}

/* A varint in its shortest form, below 2^64; false otherwise. */
static bool read_varint(scanner *s, uint64_t *ret)
{
    uint64_t v = 0;
    if (s->at < s->n && s->data[s->at] < 0x80) { /* most are of one byte */
        *ret = s->data[s->at++];
        return true;
    }
    for (unsigned shift = 0; shift < 64 && s->at < s->n; shift += 7) {
        uint8_t byte = s->data[s->at++];
        if (shift == 63 && byte > 1)
            return false;
        v |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80)) {
            *ret = v;
            return byte != 0 || shift == 0;
        }
    }
    return false;
}

static unsigned wire_type_of(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return PROTOBUF_C_WIRE_TYPE_64BIT;
    case PROTOBUF_C_TYPE_FIXED32:
    case PROTOBUF_C_TYPE_FLOAT:
        return PROTOBUF_C_WIRE_TYPE_32BIT;
    case PROTOBUF_C_TYPE_STRING:
    case PROTOBUF_C_TYPE_BYTES:
    case PROTOBUF_C_TYPE_MESSAGE:
        return PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED;
    default:
        return PROTOBUF_C_WIRE_TYPE_VARINT;
    }
}

static uint64_t varint_limit(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_BOOL:
        return 1;
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_SINT32:
        return UINT32_MAX;
    default:
        return UINT64_MAX;
    }
}

/* Bytes of a number of fixed size; 0 for varints. */
static size_t fixed_size(ProtobufCType type)
{
    switch (wire_type_of(type)) {
    case PROTOBUF_C_WIRE_TYPE_64BIT:
        return 8;
    case PROTOBUF_C_WIRE_TYPE_32BIT:
        return 4;
    default:
        return 0;
    }
}

static joust_status scan_number(scanner *s, const place *p)
{
    const joust_field *f = &p->type->fields[p->row];
    ProtobufCType type = p->type->message->fields[p->row].type;
    size_t fixed = fixed_size(type);
    if (fixed) {
        static const uint8_t zero[8];
        if (s->n - s->at < fixed)
            return refuse(s, p, "cut off");
        if (f->kind == JOUST_FIELD_VALUE_OR_0 && memcmp(s->data + s->at, zero, fixed) == 0)
            return refuse(s, p, "a 0 that is left out");
        s->at += fixed;
        return JOUST_OK;
    }
    uint64_t v;
    if (!read_varint(s, &v) || v > varint_limit(type))
        return refuse(s, p, "not a number of its kind");
    if (f->kind == JOUST_FIELD_VALUE_OR_0 && v == 0)
        return refuse(s, p, "a 0 that is left out");
    if ((f->kind == JOUST_FIELD_ENUM || f->kind == JOUST_FIELD_ENUM_OR_0) &&
        (v > f->limit || (v == 0 && f->kind == JOUST_FIELD_ENUM)))
        return refuse(s, p, "unknown value");
    return JOUST_OK;
}

/* Counts the varints of a packed array; false if one isn't in its shortest form and within its
 * type's limit. */
static bool count_varints(scanner *s, size_t end, uint64_t limit, uint64_t *ret)
{
    scanner within = {.data = s->data, .n = end, .at = s->at};
    uint64_t count = 0, v;
    for (; within.at < end; count++) {
        const uint8_t *at = within.data + within.at;
        if (at[0] < 0x80) /* most are of one byte or two */
            within.at++;
        else if (end - within.at >= 2 && at[1] > 0 && at[1] < 0x80)
            within.at += 2;
        else if (!read_varint(&within, &v) || v > limit)
            return false;
    }
    *ret = count;
    return true;
}

/* The elements of a packed array of numbers. */
static joust_status scan_packed(scanner *s, const place *p, size_t n)
{
    const joust_field *f = &p->type->fields[p->row];
    ProtobufCType type = p->type->message->fields[p->row].type;
    size_t size = fixed_size(type);
    uint64_t count = size ? n / size : 0;
    if (n == 0)
        return refuse(s, p, "empty array");
    if (size ? n % size != 0 : !count_varints(s, s->at + n, varint_limit(type), &count))
        return refuse(s, p, "not numbers of its kind");
    if (count > f->limit)
        return too_large(s, p, count, f->limit);
    s->at += n;
    s->bytes += count * 16; /* 8 bytes an element at most, in protobuf-c's struct and in ours */
    return JOUST_OK;
}

static joust_status scan_record(scanner *s, const joust_record_type *type);

static joust_status scan_bytes(scanner *s, const place *p, size_t n)
{
    static const joust_digest zero;
    const joust_field *f = &p->type->fields[p->row];
    bool optional = p->type->message->fields[p->row].label == PROTOBUF_C_LABEL_OPTIONAL;
    const uint8_t *data = s->data + s->at;
    uint64_t limit = f->limit;
    switch (f->kind) {
    case JOUST_FIELD_DIGEST:
    case JOUST_FIELD_DIGEST_OR_0:
        if (n != JOUST_DIGEST_BYTES)
            return refuse(s, p, "not 32 bytes");
        if (f->kind == JOUST_FIELD_DIGEST_OR_0 && memcmp(data, &zero, n) == 0)
            return refuse(s, p, "a zero that is left out");
        limit = n;
        break;
    case JOUST_FIELD_DIGESTS:
        if (n % JOUST_DIGEST_BYTES)
            return refuse(s, p, "not a multiple of 32 bytes");
        limit *= JOUST_DIGEST_BYTES;
        break;
    case JOUST_FIELD_NAME: /* with its NUL */
        limit--;
        break;
    case JOUST_FIELD_TEXTS: /* limit is the number of them */
        limit = JOUST_MAX_LABEL_BYTES;
        break;
    default:
        break;
    }
    if (n > limit)
        return too_large(s, p, n, (uint32_t)limit);
    if (n == 0 && optional && f->kind != JOUST_FIELD_TEXT)
        return refuse(s, p, "empty");
    if (n && p->type->message->fields[p->row].type == PROTOBUF_C_TYPE_STRING && memchr(data, 0, n))
        return refuse(s, p, "NUL in a text");
    s->at += n;
    s->bytes += 2 * (n + 32);
    return JOUST_OK;
}

static joust_status scan_prefixed(scanner *s, const place *p)
{
    const joust_field *f = &p->type->fields[p->row];
    const ProtobufCFieldDescriptor *d = &p->type->message->fields[p->row];
    uint64_t n;
    if (!read_varint(s, &n) || n > s->n - s->at)
        return refuse(s, p, "cut off");
    if (d->flags & PROTOBUF_C_FIELD_FLAG_PACKED)
        return scan_packed(s, p, (size_t)n);
    if (d->type != PROTOBUF_C_TYPE_MESSAGE)
        return scan_bytes(s, p, (size_t)n);
    scanner within = {.data = s->data, .n = s->at + (size_t)n, .at = s->at, .err = s->err};
    joust_status st = scan_record(&within, f->type);
    s->at = within.at;
    s->bytes += within.bytes;
    return st;
}

static joust_status scan_field(scanner *s, const place *p, unsigned wire_type)
{
    const ProtobufCFieldDescriptor *d = &p->type->message->fields[p->row];
    bool packed = d->flags & PROTOBUF_C_FIELD_FLAG_PACKED;
    unsigned expected = packed ? PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED : wire_type_of(d->type);
    if (wire_type != expected)
        return refuse(s, p, "another wire type");
    return expected == PROTOBUF_C_WIRE_TYPE_LENGTH_PREFIXED ? scan_prefixed(s, p)
                                                            : scan_number(s, p);
}

/* Moves p on to the row whose tag is `tag`: rows in between must not be required ones unless seen.
 */
static joust_status seek_row(scanner *s, place *p, uint64_t tag, uint32_t *seen)
{
    while (p->row < p->type->n_fields && p->type->message->fields[p->row].id < tag) {
        if (!*seen && p->type->message->fields[p->row].label == PROTOBUF_C_LABEL_REQUIRED)
            return refuse(s, p, "missing");
        p->row++;
        *seen = 0;
    }
    return JOUST_OK;
}

static joust_status scan_record(scanner *s, const joust_record_type *type)
{
    place p = {.type = type};
    uint32_t seen = 0; /* times that the field of p.row came */
    s->bytes += 2 * (type->message->sizeof_message + type->size) + 128;
    while (s->at < s->n) {
        uint64_t key;
        if (!read_varint(s, &key))
            return refuse(s, &p, "cut off");
        joust_status st = seek_row(s, &p, key >> 3, &seen);
        if (st != JOUST_OK)
            return st;
        if (p.row == type->n_fields || type->message->fields[p.row].id != key >> 3) {
            p.row = type->n_fields;
            return refuse(s, &p, "unknown or misplaced field");
        }
        bool repeated = type->fields[p.row].kind == JOUST_FIELD_TEXTS ||
                        type->fields[p.row].kind == JOUST_FIELD_RECORDS;
        if (seen && !repeated)
            return refuse(s, &p, "repeated");
        if (++seen > type->fields[p.row].limit && repeated)
            return too_large(s, &p, seen, type->fields[p.row].limit);
        s->bytes += 64; /* what protobuf-c keeps of each field while it reads */
        st = scan_field(s, &p, (unsigned)(key & 7));
        if (st != JOUST_OK)
            return st;
    }
    return seek_row(s, &p, UINT64_MAX, &seen);
}

joust_status joust_record_scan(const joust_record_type *type, const uint8_t *data, size_t n,
                               uint64_t *ret_bytes, joust_error *err)
{
    scanner s = {.data = data, .n = n, .err = err};
    joust_status st = scan_record(&s, type);
    if (st == JOUST_OK)
        *ret_bytes = s.bytes;
    return st;
}
