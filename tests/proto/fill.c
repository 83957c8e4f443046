#include "proto/fill.h"

#include <assert.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/digest.h"
#include "proto/messages.h"

#define RECORD_TYPE_OF(record)                                                                     \
    {                                                                                              \
#record, &joust_##record##_type                                                            \
    }

const fill_type fill_types[] = {
    RECORD_TYPE_OF(prompt),     RECORD_TYPE_OF(trajectory),    RECORD_TYPE_OF(verdict),
    RECORD_TYPE_OF(pair),       RECORD_TYPE_OF(metric),        RECORD_TYPE_OF(stage_summary),
    RECORD_TYPE_OF(train_step), RECORD_TYPE_OF(model_version), RECORD_TYPE_OF(promotion),
    RECORD_TYPE_OF(provenance), RECORD_TYPE_OF(manifest),      RECORD_TYPE_OF(job),
    RECORD_TYPE_OF(lease_unit), RECORD_TYPE_OF(unit_result),
};
const size_t fill_n_types = sizeof(fill_types) / sizeof(*fill_types);

fill_source fill_source_open(uint64_t seed)
{
    joust_stream_name name = {.job_seed = seed, .purpose = JOUST_PURPOSE_TEST};
    return (fill_source){.stream = joust_stream_open(&name)};
}

uint64_t fill_number(fill_source *s, uint64_t below)
{
    return joust_stream_below(&s->stream, s->index++, below);
}

static size_t number_bytes(ProtobufCType type)
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

/* Numbers of every size, negative ones and extremes included. */
static void fill_value(fill_source *s, ProtobufCType type, uint8_t *to)
{
    uint64_t bits = joust_stream_u64(&s->stream, s->index++) >> fill_number(s, 64);
    if (type == PROTOBUF_C_TYPE_BOOL) {
        bool b = bits & 1;
        memcpy(to, &b, sizeof(b));
    } else if (type == PROTOBUF_C_TYPE_FLOAT) {
        float f = (float)(int64_t)bits / 3;
        memcpy(to, &f, sizeof(f));
    } else if (type == PROTOBUF_C_TYPE_DOUBLE) {
        double d = (double)(int64_t)bits / 3;
        memcpy(to, &d, sizeof(d));
    } else if (number_bytes(type) == 8) {
        memcpy(to, &bits, sizeof(bits));
    } else {
        uint32_t low = (uint32_t)bits;
        memcpy(to, &low, sizeof(low));
    }
}

static char *random_text(fill_source *s, size_t most)
{
    static const char *const parts[] = {"a", "Z", " ", "\n", "\"", "12", "ä", "漢", "🙂"};
    char text[128] = "";
    size_t n = (size_t)fill_number(s, 9);
    for (size_t i = 0; i < n; i++) {
        const char *part = parts[fill_number(s, sizeof(parts) / sizeof(*parts))];
        if (strlen(text) + strlen(part) <= most && strlen(text) + strlen(part) < sizeof(text))
            strcat(text, part);
    }
    return joust_strdup(text);
}

static void fill_texts(fill_source *s, const joust_field *f, uint8_t *at, uint32_t *count)
{
    *count = (uint32_t)fill_number(s, 5);
    for (uint32_t i = 0; i < *count && i < f->limit; i++) {
        char *text = random_text(s, JOUST_MAX_LABEL_BYTES);
        memcpy(at + i * sizeof(text), &text, sizeof(text));
    }
}

static void fill_array(fill_source *s, const joust_field *f, ProtobufCType type, uint8_t *at,
                       uint32_t *count)
{
    if (f->kind != JOUST_FIELD_NUMBERS_TOO)
        *count = (uint32_t)fill_number(s, 6);
    if (*count == 0)
        return;
    size_t size = f->kind == JOUST_FIELD_BYTES     ? 1
                  : f->kind == JOUST_FIELD_DIGESTS ? JOUST_DIGEST_BYTES
                  : f->kind == JOUST_FIELD_RECORDS ? f->type->size
                                                   : number_bytes(type);
    uint8_t *array = joust_calloc(*count, size);
    assert(array);
    memcpy(at, &array, sizeof(array));
    for (uint32_t i = 0; i < *count; i++) {
        if (f->kind == JOUST_FIELD_RECORDS)
            fill_record(s, f->type, array + i * size);
        else if (f->kind == JOUST_FIELD_BYTES || f->kind == JOUST_FIELD_DIGESTS)
            array[i * size] = (uint8_t)fill_number(s, 256);
        else
            fill_value(s, type, array + i * size);
    }
}

static void fill_field(fill_source *s, const joust_field *f, const ProtobufCFieldDescriptor *wire,
                       uint8_t *record)
{
    uint8_t *at = record + f->offset;
    uint32_t *count = (uint32_t *)(void *)(record + f->count);
    bool optional = wire->label == PROTOBUF_C_LABEL_OPTIONAL, has = fill_number(s, 4) != 0;
    switch (f->kind) {
    case JOUST_FIELD_VALUE_OR_0:
        if (has)
            fill_value(s, wire->type, at);
        break;
    case JOUST_FIELD_VALUE:
        if (optional)
            memcpy(record + f->count, &has, sizeof(has));
        if (!optional || has)
            fill_value(s, wire->type, at);
        break;
    case JOUST_FIELD_ENUM:
    case JOUST_FIELD_ENUM_OR_0: {
        uint32_t v = 1 + (uint32_t)fill_number(s, f->limit);
        memcpy(at, &v, sizeof(v));
        break;
    }
    case JOUST_FIELD_DIGEST_OR_0:
        if (!has)
            break;
        /* fall through */
    case JOUST_FIELD_DIGEST:
        for (size_t i = 0; i < JOUST_DIGEST_BYTES; i++)
            at[i] = (uint8_t)fill_number(s, 256);
        break;
    case JOUST_FIELD_NAME:
    case JOUST_FIELD_TEXT: {
        bool inside = f->kind == JOUST_FIELD_NAME;
        char *text = optional && !has ? NULL : random_text(s, inside ? f->limit - 1 : f->limit);
        if (inside) {
            memcpy(at, text, strlen(text));
            joust_free(text);
        } else {
            memcpy(at, &text, sizeof(text));
        }
        break;
    }
    case JOUST_FIELD_TEXTS:
        fill_texts(s, f, at, count);
        break;
    case JOUST_FIELD_RECORD_IF:
        memcpy(record + f->count, &has, sizeof(has));
        if (has)
            fill_record(s, f->type, at);
        break;
    case JOUST_FIELD_RECORD_WITH: /* its own text may be what says that it is there */
    case JOUST_FIELD_RECORD:
        if (f->kind == JOUST_FIELD_RECORD || has)
            fill_record(s, f->type, at);
        break;
    default:
        fill_array(s, f, wire->type, at, count);
        break;
    }
}

void fill_record(fill_source *s, const joust_record_type *type, void *record)
{
    for (size_t i = 0; i < type->n_fields; i++)
        fill_field(s, &type->fields[i], &type->message->fields[i], record);
}
