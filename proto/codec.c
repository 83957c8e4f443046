/* Between our structs and protobuf-c's, by the tables of record types. */
#include "proto/codec.h"

#include <string.h>

#include "proto/base/alloc.h"
#include "proto/codec_internal.h"

/* ---------------------------------------------------------------------------------------- arena */

/* protobuf-c's structs live for one call: they are taken from a few blocks and freed at once. */

typedef struct block {
    struct block *next;
    size_t used, n;
    _Alignas(16) uint8_t data[];
} block;

typedef struct arena {
    block *blocks;
    size_t first; /* size of the first block */
} arena;

static void *arena_alloc(void *data, size_t n)
{
    arena *a = data;
    n = (n + 15) & ~(size_t)15;
    if (!a->blocks || a->blocks->n - a->blocks->used < n) {
        size_t size = a->blocks ? 2 * a->blocks->n : a->first;
        if (size < n)
            size = n;
        block *b = joust_malloc(sizeof(*b) + size);
        if (!b)
            return NULL;
        *b = (block){.next = a->blocks, .n = size};
        a->blocks = b;
    }
    void *at = a->blocks->data + a->blocks->used;
    a->blocks->used += n;
    return at;
}

static void arena_keep(void *data, void *pointer)
{
    (void)data;
    (void)pointer;
}

static void arena_fini(arena *a)
{
    while (a->blocks) {
        block *next = a->blocks->next;
        joust_free(a->blocks);
        a->blocks = next;
    }
}

/* --------------------------------------------------------------------------------------- fields */

/* One field of one record on both sides. */
typedef struct field_place {
    const joust_field *field;
    const ProtobufCFieldDescriptor *wire;
    const char *message;  /* name */
    uint8_t *record, *pb; /* the two structs */
    uint8_t *at, *pb_at;  /* the field in each */
    void *quantifier;     /* protobuf-c's has_x or n_x */
    uint32_t *count;      /* ours, where the kind has one */
    bool optional;
} field_place;

static field_place place_of(const joust_record_type *type, size_t row, void *record, void *pb)
{
    const joust_field *f = &type->fields[row];
    const ProtobufCFieldDescriptor *wire = &type->message->fields[row];
    uint8_t *ours = record, *theirs = pb;
    return (field_place){.field = f,
                         .wire = wire,
                         .message = type->message->short_name,
                         .record = ours,
                         .pb = theirs,
                         .at = ours + f->offset,
                         .pb_at = theirs + wire->offset,
                         .quantifier = theirs + wire->quantifier_offset,
                         .count = (uint32_t *)(void *)(ours + f->count),
                         .optional = wire->label == PROTOBUF_C_LABEL_OPTIONAL};
}

static joust_status invalid(const field_place *p, joust_error *err, const char *what)
{
    return joust_fail(err, JOUST_INVALID, "%s.%s: %s", p->message, p->wire->name, what);
}

static joust_status no_memory(const field_place *p, joust_error *err)
{
    return joust_fail(err, JOUST_NOMEM, "%s.%s: out of memory", p->message, p->wire->name);
}

static size_t number_size(ProtobufCType type)
{
    switch (type) {
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_SINT64:
    case PROTOBUF_C_TYPE_FIXED64:
    case PROTOBUF_C_TYPE_DOUBLE:
        return 8;
    default:
        return 4;
    }
}

static char *pointer_at(const uint8_t *at)
{
    char *p;
    memcpy(&p, at, sizeof(p));
    return p;
}

static void set_pointer(uint8_t *at, const void *p)
{
    memcpy(at, &p, sizeof(p));
}

static bool bool_at(const uint8_t *at)
{
    bool b;
    memcpy(&b, at, sizeof(b));
    return b;
}

/* Whether a record within is there, by the kind's rule. */
static bool record_present(const field_place *p)
{
    if (p->field->kind == JOUST_FIELD_RECORD_IF)
        return bool_at(p->record + p->field->count);
    if (p->field->kind == JOUST_FIELD_RECORD_WITH)
        return pointer_at(p->record + p->field->count) != NULL;
    return true;
}

/* --------------------------------------------------------------------------------------- encode */

static joust_status build(const joust_record_type *type, const void *from, arena *a,
                          ProtobufCMessage **ret, joust_error *err);

/* A bool of ours is one byte, of theirs an int. */
static void put_number(const field_place *p)
{
    if (p->wire->type == PROTOBUF_C_TYPE_BOOL) {
        protobuf_c_boolean v = bool_at(p->at);
        memcpy(p->pb_at, &v, sizeof(v));
        return;
    }
    memcpy(p->pb_at, p->at, number_size(p->wire->type));
}

/* A number that is left out where it is 0. */
static joust_status build_value_or_0(const field_place *p)
{
    static const uint8_t zero[8];
    put_number(p);
    *(protobuf_c_boolean *)p->quantifier =
        memcmp(p->pb_at, zero, number_size(p->wire->type)) != 0;
    return JOUST_OK;
}

static joust_status build_value(const field_place *p, joust_error *err)
{
    if (p->optional) {
        bool has = bool_at(p->record + p->field->count);
        *(protobuf_c_boolean *)p->quantifier = has;
        if (!has)
            return JOUST_OK;
    }
    put_number(p);
    if (p->field->kind == JOUST_FIELD_VALUE)
        return JOUST_OK;
    uint32_t v;
    memcpy(&v, p->at, sizeof(v));
    if (v > p->field->limit || (v == 0 && p->field->kind == JOUST_FIELD_ENUM))
        return invalid(p, err, "not one of its values");
    return JOUST_OK;
}

static joust_status build_text(const field_place *p, joust_error *err)
{
    bool name = p->field->kind == JOUST_FIELD_NAME;
    const char *text = name ? (const char *)p->at : pointer_at(p->at);
    size_t limit = p->field->limit;
    if (!text && p->optional)
        return JOUST_OK;
    if (!text)
        return invalid(p, err, "no text");
    if (name ? strnlen(text, limit) == limit : strnlen(text, limit + 1) > limit)
        return invalid(p, err, "text too long");
    set_pointer(p->pb_at, text);
    return JOUST_OK;
}

static joust_status build_texts(const field_place *p, arena *a, joust_error *err)
{
    if (*p->count > p->field->limit)
        return invalid(p, err, "too many");
    char **list = arena_alloc(a, *p->count * sizeof(*list));
    if (!list)
        return no_memory(p, err);
    for (uint32_t i = 0; i < *p->count; i++) {
        list[i] = pointer_at(p->at + i * sizeof(*list));
        if (!list[i] || strnlen(list[i], JOUST_MAX_LABEL_BYTES + 1) > JOUST_MAX_LABEL_BYTES)
            return invalid(p, err, "no text, or too long");
    }
    *(size_t *)p->quantifier = *p->count;
    set_pointer(p->pb_at, list);
    return JOUST_OK;
}

static joust_status build_bytes(const field_place *p, joust_error *err)
{
    ProtobufCBinaryData bytes = {.len = JOUST_DIGEST_BYTES, .data = p->at};
    const bool digest =
        p->field->kind == JOUST_FIELD_DIGEST || p->field->kind == JOUST_FIELD_DIGEST_OR_0;
    if (p->field->kind == JOUST_FIELD_DIGEST_OR_0 &&
        joust_digest_is_zero((const joust_digest *)(const void *)p->at))
        return JOUST_OK;
    if (!digest) {
        bytes.data = (uint8_t *)pointer_at(p->at);
        bytes.len = *p->count;
        if (bytes.len > p->field->limit)
            return invalid(p, err, "too long");
        if (bytes.len && !bytes.data)
            return invalid(p, err, "no data");
        if (p->field->kind == JOUST_FIELD_DIGESTS)
            bytes.len *= JOUST_DIGEST_BYTES;
    }
    if (p->optional)
        *(protobuf_c_boolean *)p->quantifier = bytes.len > 0;
    memcpy(p->pb_at, &bytes, sizeof(bytes));
    return JOUST_OK;
}

static joust_status build_numbers(const field_place *p, joust_error *err)
{
    if (*p->count > p->field->limit)
        return invalid(p, err, "too many");
    if (*p->count && !pointer_at(p->at))
        return invalid(p, err, "no array");
    *(size_t *)p->quantifier = *p->count;
    memcpy(p->pb_at, p->at, sizeof(void *));
    return JOUST_OK;
}

static joust_status build_record(const field_place *p, arena *a, joust_error *err)
{
    if (!record_present(p))
        return JOUST_OK;
    ProtobufCMessage *within;
    joust_status st = build(p->field->type, p->at, a, &within, err);
    if (st == JOUST_OK)
        set_pointer(p->pb_at, within);
    return st;
}

static joust_status build_records(const field_place *p, arena *a, joust_error *err)
{
    if (*p->count > p->field->limit)
        return invalid(p, err, "too many");
    const uint8_t *from = (const uint8_t *)pointer_at(p->at);
    if (*p->count && !from)
        return invalid(p, err, "no array");
    ProtobufCMessage **list = arena_alloc(a, *p->count * sizeof(*list));
    if (!list)
        return no_memory(p, err);
    for (uint32_t i = 0; i < *p->count; i++) {
        joust_status st = build(p->field->type, from + i * p->field->type->size, a, &list[i], err);
        if (st != JOUST_OK)
            return st;
    }
    *(size_t *)p->quantifier = *p->count;
    set_pointer(p->pb_at, list);
    return JOUST_OK;
}

static joust_status build_field(const field_place *p, arena *a, joust_error *err)
{
    switch (p->field->kind) {
    case JOUST_FIELD_VALUE_OR_0:
        return build_value_or_0(p);
    case JOUST_FIELD_VALUE:
    case JOUST_FIELD_ENUM:
    case JOUST_FIELD_ENUM_OR_0:
        return build_value(p, err);
    case JOUST_FIELD_NAME:
    case JOUST_FIELD_TEXT:
        return build_text(p, err);
    case JOUST_FIELD_TEXTS:
        return build_texts(p, a, err);
    case JOUST_FIELD_DIGEST:
    case JOUST_FIELD_DIGEST_OR_0:
    case JOUST_FIELD_BYTES:
    case JOUST_FIELD_DIGESTS:
        return build_bytes(p, err);
    case JOUST_FIELD_NUMBERS:
    case JOUST_FIELD_NUMBERS_TOO:
        return build_numbers(p, err);
    case JOUST_FIELD_RECORDS:
        return build_records(p, a, err);
    case JOUST_FIELD_RECORD:
    case JOUST_FIELD_RECORD_IF:
    case JOUST_FIELD_RECORD_WITH:
        return build_record(p, a, err);
    }
    return invalid(p, err, "unknown kind of field");
}

/* protobuf-c's struct for the record; views of the record's own texts and arrays. */
static joust_status build(const joust_record_type *type, const void *from, arena *a,
                          ProtobufCMessage **ret, joust_error *err)
{
    ProtobufCMessage *to = arena_alloc(a, type->message->sizeof_message);
    if (!to)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", type->message->short_name);
    type->message->message_init(to);
    for (size_t i = 0; i < type->n_fields; i++) {
        field_place p = place_of(type, i, (void *)(uintptr_t)from, to);
        joust_status st = build_field(&p, a, err);
        if (st != JOUST_OK)
            return st;
    }
    *ret = to;
    return JOUST_OK;
}

joust_status joust_record_encode(const joust_record_type *type, const void *from, joust_buf *to,
                                 joust_error *err)
{
    arena a = {.first = 4096};
    ProtobufCMessage *message;
    joust_status st = build(type, from, &a, &message, err);
    if (st == JOUST_OK) {
        uint8_t *at = joust_buf_grow(to, protobuf_c_message_get_packed_size(message));
        if (at)
            protobuf_c_message_pack(message, at);
        else
            st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", type->message->short_name);
    }
    arena_fini(&a);
    return st;
}

/* --------------------------------------------------------------------------------------- decode */

/* The bytes have been scanned: what can still fail is memory, and counts that must be equal. */

static joust_status fill(const joust_record_type *type, ProtobufCMessage *from, void *to,
                         joust_error *err);

static void get_number(const field_place *p)
{
    if (p->wire->type == PROTOBUF_C_TYPE_BOOL) {
        protobuf_c_boolean theirs;
        memcpy(&theirs, p->pb_at, sizeof(theirs));
        bool ours = theirs != 0;
        memcpy(p->at, &ours, sizeof(ours));
        return;
    }
    memcpy(p->at, p->pb_at, number_size(p->wire->type));
}

static void fill_value(const field_place *p)
{
    if (p->optional) {
        bool has = *(protobuf_c_boolean *)p->quantifier;
        memcpy(p->record + p->field->count, &has, sizeof(has));
        if (!has)
            return;
    }
    get_number(p);
}

static joust_status fill_text(const field_place *p, joust_error *err)
{
    const char *text = pointer_at(p->pb_at);
    if (!text)
        return JOUST_OK;
    if (p->field->kind == JOUST_FIELD_NAME) {
        memcpy(p->at, text, strlen(text));
        return JOUST_OK;
    }
    char *copy = joust_strdup(text);
    if (!copy)
        return no_memory(p, err);
    set_pointer(p->at, copy);
    return JOUST_OK;
}

static joust_status fill_texts(const field_place *p, joust_error *err)
{
    char **list = (char **)(void *)pointer_at(p->pb_at);
    size_t n = *(size_t *)p->quantifier;
    for (size_t i = 0; i < n; i++) {
        char *copy = joust_strdup(list[i]);
        if (!copy)
            return no_memory(p, err);
        set_pointer(p->at + i * sizeof(copy), copy);
        *p->count = (uint32_t)i + 1;
    }
    return JOUST_OK;
}

static joust_status fill_bytes(const field_place *p, joust_error *err)
{
    ProtobufCBinaryData bytes;
    memcpy(&bytes, p->pb_at, sizeof(bytes));
    if (p->field->kind == JOUST_FIELD_DIGEST_OR_0 && !bytes.data)
        return JOUST_OK;
    if (p->field->kind == JOUST_FIELD_DIGEST || p->field->kind == JOUST_FIELD_DIGEST_OR_0) {
        memcpy(p->at, bytes.data, JOUST_DIGEST_BYTES);
        return JOUST_OK;
    }
    if (bytes.len == 0)
        return JOUST_OK;
    uint8_t *copy = joust_memdup(bytes.data, bytes.len);
    if (!copy)
        return no_memory(p, err);
    set_pointer(p->at, copy);
    *p->count = (uint32_t)(p->field->kind == JOUST_FIELD_DIGESTS ? bytes.len / JOUST_DIGEST_BYTES
                                                                 : bytes.len);
    return JOUST_OK;
}

static joust_status fill_numbers(const field_place *p, joust_error *err)
{
    size_t n = *(size_t *)p->quantifier;
    if (p->field->kind == JOUST_FIELD_NUMBERS_TOO && n != *p->count)
        return joust_fail(err, JOUST_MALFORMED, "%s.%s: %zu numbers where %u are expected",
                          p->message, p->wire->name, n, *p->count);
    *p->count = (uint32_t)n;
    if (n == 0)
        return JOUST_OK;
    void *copy = joust_memdup(pointer_at(p->pb_at), n * number_size(p->wire->type));
    if (!copy)
        return no_memory(p, err);
    set_pointer(p->at, copy);
    return JOUST_OK;
}

static joust_status fill_record(const field_place *p, joust_error *err)
{
    ProtobufCMessage *within = (ProtobufCMessage *)(void *)pointer_at(p->pb_at);
    if (!within)
        return JOUST_OK;
    if (p->field->kind == JOUST_FIELD_RECORD_IF) {
        bool has = true;
        memcpy(p->record + p->field->count, &has, sizeof(has));
    }
    return fill(p->field->type, within, p->at, err);
}

static joust_status fill_records(const field_place *p, joust_error *err)
{
    ProtobufCMessage **list = (ProtobufCMessage **)(void *)pointer_at(p->pb_at);
    size_t n = *(size_t *)p->quantifier, size = p->field->type->size;
    if (n == 0)
        return JOUST_OK;
    uint8_t *records = joust_calloc(n, size);
    if (!records)
        return no_memory(p, err);
    set_pointer(p->at, records);
    *p->count = (uint32_t)n;
    joust_status st = JOUST_OK;
    for (size_t i = 0; i < n && st == JOUST_OK; i++)
        st = fill(p->field->type, list[i], records + i * size, err);
    return st;
}

static joust_status fill_field(const field_place *p, joust_error *err)
{
    switch (p->field->kind) {
    case JOUST_FIELD_VALUE_OR_0: /* protobuf-c's is 0 where it is absent */
        get_number(p);
        return JOUST_OK;
    case JOUST_FIELD_VALUE:
    case JOUST_FIELD_ENUM:
    case JOUST_FIELD_ENUM_OR_0:
        fill_value(p);
        return JOUST_OK;
    case JOUST_FIELD_NAME:
    case JOUST_FIELD_TEXT:
        return fill_text(p, err);
    case JOUST_FIELD_TEXTS:
        return fill_texts(p, err);
    case JOUST_FIELD_DIGEST:
    case JOUST_FIELD_DIGEST_OR_0:
    case JOUST_FIELD_BYTES:
    case JOUST_FIELD_DIGESTS:
        return fill_bytes(p, err);
    case JOUST_FIELD_NUMBERS:
    case JOUST_FIELD_NUMBERS_TOO:
        return fill_numbers(p, err);
    case JOUST_FIELD_RECORDS:
        return fill_records(p, err);
    case JOUST_FIELD_RECORD:
    case JOUST_FIELD_RECORD_IF:
    case JOUST_FIELD_RECORD_WITH:
        return fill_record(p, err);
    }
    return invalid(p, err, "unknown kind of field");
}

/* Fills the zeroed record at `to`; on failure what is there already is the caller's to free. */
static joust_status fill(const joust_record_type *type, ProtobufCMessage *from, void *to,
                         joust_error *err)
{
    for (size_t i = 0; i < type->n_fields; i++) {
        field_place p = place_of(type, i, to, from);
        joust_status st = fill_field(&p, err);
        if (st != JOUST_OK)
            return st;
    }
    return JOUST_OK;
}

joust_status joust_record_decode(const joust_record_type *type, const void *data, size_t n,
                                 void *ret, joust_error *err)
{
    const char *name = type->message->short_name;
    uint64_t bytes = 0, most = (uint64_t)JOUST_DECODE_FACTOR * n + JOUST_DECODE_SLACK;
    joust_status st = joust_record_scan(type, data, n, &bytes, err);
    if (st != JOUST_OK)
        return st;
    if (bytes > most)
        return joust_fail(err, JOUST_TOO_LARGE, "%s: %zu bytes would take up %llu in memory", name,
                          n, (unsigned long long)bytes);
    arena a = {.first = 2 * n + 4096};
    ProtobufCAllocator allocator = {.alloc = arena_alloc, .free = arena_keep, .allocator_data = &a};
    ProtobufCMessage *message = protobuf_c_message_unpack(type->message, &allocator, n, data);
    void *record = joust_calloc(1, type->size);
    if (!message || !record) {
        st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", name);
        goto out;
    }
    st = fill(type, message, record, err);
    if (st == JOUST_OK)
        memcpy(ret, record, type->size);
    else
        joust_record_fini(type, record);
out:
    joust_free(record);
    arena_fini(&a);
    return st;
}

/* ----------------------------------------------------------------------------------------- free */

static void free_field(const joust_field *f, uint8_t *record)
{
    uint8_t *at = record + f->offset;
    uint32_t n;
    memcpy(&n, record + f->count, sizeof(n));
    switch (f->kind) {
    case JOUST_FIELD_TEXT:
    case JOUST_FIELD_BYTES:
    case JOUST_FIELD_DIGESTS:
    case JOUST_FIELD_NUMBERS:
    case JOUST_FIELD_NUMBERS_TOO:
        joust_free(pointer_at(at));
        break;
    case JOUST_FIELD_TEXTS:
        for (uint32_t i = 0; i < n && i < f->limit; i++)
            joust_free(pointer_at(at + i * sizeof(char *)));
        break;
    case JOUST_FIELD_RECORDS: {
        uint8_t *records = (uint8_t *)pointer_at(at);
        for (uint32_t i = 0; records && i < n; i++)
            joust_record_fini(f->type, records + i * f->type->size);
        joust_free(records);
        break;
    }
    case JOUST_FIELD_RECORD:
    case JOUST_FIELD_RECORD_IF:
    case JOUST_FIELD_RECORD_WITH:
        joust_record_fini(f->type, at);
        break;
    default:
        break;
    }
}

void joust_record_fini(const joust_record_type *type, void *record)
{
    for (size_t i = 0; i < type->n_fields; i++)
        free_field(&type->fields[i], record);
    memset(record, 0, type->size);
}
