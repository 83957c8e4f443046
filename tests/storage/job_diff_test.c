/* Whatever makes a job another is named when a store refuses it: every field of the job's record types is changed, one at a
 * time, in random jobs. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/codec.h"
#include "proto/fill.h"
#include "proto/job.h"
#include "storage/job_diff.h"

#define JOBS 12

typedef struct walk {
    uint64_t wanted, n; /* which field is changed; how many were met */
    char path[256];     /* of the one that was */
} walk;

static void change_text(char **text)
{
    joust_free(*text);
    *text = joust_strdup("something else");
    assert_non_null(*text);
}

static void change_number(ProtobufCType type, uint8_t *at)
{
    if (type == PROTOBUF_C_TYPE_BOOL)
        *at ^= 1;
    else if (type == PROTOBUF_C_TYPE_DOUBLE)
        memcpy(at, &(double){123.25}, sizeof(double));
    else if (type == PROTOBUF_C_TYPE_FLOAT)
        memcpy(at, &(float){123.25f}, sizeof(float));
    else
        *at ^= 1; /* little-endian: the lowest bit */
}

static void walk_record(walk *w, const joust_record_type *type, uint8_t *record, const char *path);

/* Which stop strings there are is said by rollout.stop: sampling.stop follows from them. */
static bool is_this(walk *w, const char *path)
{
    const size_t n = strlen(path);
    if (n > 13 && strcmp(path + n - 13, "sampling.stop") == 0)
        return false;
    if (w->n++ != w->wanted)
        return false;
    snprintf(w->path, sizeof(w->path), "%s", path);
    return true;
}

static void walk_texts(walk *w, uint8_t *at, uint32_t n, const char *path)
{
    for (uint32_t i = 0; i < n; i++)
        if (is_this(w, path))
            change_text((char **)(void *)(at + i * sizeof(char *)));
}

static void walk_records(walk *w, const joust_field *f, uint8_t *at, uint32_t n, const char *path)
{
    uint8_t *array;
    memcpy(&array, at, sizeof(array));
    for (uint32_t i = 0; i < n; i++)
        walk_record(w, f->type, array + i * f->type->size, path);
}

static void walk_field(walk *w, const joust_field *f, const ProtobufCFieldDescriptor *wire,
                       uint8_t *record, const char *path)
{
    uint8_t *at = record + f->offset;
    bool there = true;
    char *text = NULL;
    switch (f->kind) {
    case JOUST_FIELD_VALUE:
        if (wire->label == PROTOBUF_C_LABEL_OPTIONAL)
            memcpy(&there, record + f->count, sizeof(there));
        if (there && is_this(w, path))
            change_number(wire->type, at);
        break;
    case JOUST_FIELD_VALUE_OR_0:
        if (is_this(w, path))
            change_number(wire->type, at);
        break;
    case JOUST_FIELD_ENUM:
    case JOUST_FIELD_ENUM_OR_0: {
        uint32_t v;
        memcpy(&v, at, sizeof(v));
        v = v == 1 ? f->limit : 1;
        if (f->limit > 1 && is_this(w, path))
            memcpy(at, &v, sizeof(v));
        break;
    }
    case JOUST_FIELD_DIGEST:
    case JOUST_FIELD_DIGEST_OR_0:
        if (is_this(w, path))
            at[1] ^= 1;
        break;
    case JOUST_FIELD_NAME:
        if (is_this(w, path))
            snprintf((char *)at, f->limit, "other");
        break;
    case JOUST_FIELD_TEXT:
        memcpy(&text, at, sizeof(text));
        if (text && is_this(w, path))
            change_text((char **)(void *)at);
        break;
    case JOUST_FIELD_TEXTS:
        walk_texts(w, at, *(uint32_t *)(void *)(record + f->count), path);
        break;
    case JOUST_FIELD_RECORD:
        walk_record(w, f->type, at, path);
        break;
    case JOUST_FIELD_RECORD_IF:
        memcpy(&there, record + f->count, sizeof(there));
        if (there)
            walk_record(w, f->type, at, path);
        break;
    case JOUST_FIELD_RECORD_WITH:
        memcpy(&text, record + f->count, sizeof(text));
        if (text)
            walk_record(w, f->type, at, path);
        break;
    case JOUST_FIELD_RECORDS:
        walk_records(w, f, at, *(uint32_t *)(void *)(record + f->count), path);
        break;
    default:
        fail_msg("%s: a kind of field that jobs hadn't", path);
    }
}

static void walk_record(walk *w, const joust_record_type *type, uint8_t *record, const char *path)
{
    for (size_t i = 0; i < type->n_fields; i++) {
        const ProtobufCFieldDescriptor *wire = &type->message->fields[i];
        char at[256];
        snprintf(at, sizeof(at), "%s%s%s", path, *path ? "." : "", wire->name);
        walk_field(w, &type->fields[i], wire, record, at);
    }
}

/* Whether there was such a field. */
static bool check_field(uint64_t seed, uint64_t wanted)
{
    joust_error err = {0};
    joust_job job, other;
    joust_buf bytes = {0};
    joust_digest digest, changed;
    walk w = {.wanted = wanted};
    fill_source s = fill_source_open(seed);
    memset(&job, 0, sizeof(job));
    fill_record(&s, &joust_job_type, &job);
    check_ok(joust_record_encode(&joust_job_type, &job, &bytes, &err));
    check_ok(joust_record_decode(&joust_job_type, bytes.data, bytes.n, &other, &err));
    check_ok(joust_job_compare(&job, &other, &err));
    walk_record(&w, &joust_job_type, (uint8_t *)&other, "");
    check_ok(joust_job_digest(&job, &digest, &err));
    if (joust_job_digest(&other, &changed, &err) == JOUST_OK &&
        !joust_digest_equal(&digest, &changed) &&
        joust_job_compare(&job, &other, &err) != JOUST_CONFLICT)
        fail_msg("%s makes another job, and isn't named (seed %d)", w.path, (int)seed);
    joust_buf_fini(&bytes);
    joust_record_fini(&joust_job_type, &job);
    joust_record_fini(&joust_job_type, &other);
    return w.n > wanted;
}

static void every_field_is_named(void **state)
{
    uint64_t n = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= JOBS; seed++)
        for (uint64_t field = 0; check_field(seed, field); field++)
            n++;
    assert_true(n > 100 * JOBS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_field_is_named)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
