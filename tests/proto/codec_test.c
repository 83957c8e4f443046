/* Every record and message: round trips, canonical bytes, bounds, hostile bytes, no memory. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/codec.h"
#include "proto/fill.h"

typedef union any_record {
    joust_message message;
    joust_prompt prompt;
    joust_trajectory trajectory;
    joust_verdict verdict;
    joust_pair pair;
    joust_job job;
    joust_lease_unit lease_unit;
    joust_unit_result unit_result;
    joust_promotion promotion;
    joust_manifest manifest;
    joust_stage_summary summary;
    joust_train_step step;
    joust_model_version version;
    joust_provenance provenance;
} any_record;

typedef void (*type_fn)(const joust_record_type *type, const char *name);

static void for_each_type(type_fn fn)
{
    for (size_t i = 0; i < fill_n_types; i++)
        fn(fill_types[i].type, fill_types[i].name);
    for (uint32_t type = 1; joust_message_record_type(type); type++)
        fn(joust_message_record_type(type), joust_message_name((joust_message_type)type));
}

/* The bytes of a random record. */
static joust_buf random_bytes(const joust_record_type *type, uint64_t seed)
{
    joust_error err = {0};
    any_record record;
    joust_buf bytes = {0};
    memset(&record, 0, sizeof(record));
    assert_true(type->size <= sizeof(record));
    fill_source s = fill_source_open(seed);
    fill_record(&s, type, &record);
    check_ok(joust_record_encode(type, &record, &bytes, &err));
    joust_record_fini(type, &record);
    return bytes;
}

/* --------------------------------------------------------------------------------------- tables */

static size_t field_bytes(const joust_field *f, const ProtobufCFieldDescriptor *wire)
{
    switch (f->kind) {
    case JOUST_FIELD_NAME:
        return f->limit;
    case JOUST_FIELD_DIGEST:
    case JOUST_FIELD_DIGEST_OR_0:
        return JOUST_DIGEST_BYTES;
    case JOUST_FIELD_TEXTS:
        return f->limit * sizeof(char *);
    case JOUST_FIELD_RECORD:
    case JOUST_FIELD_RECORD_IF:
    case JOUST_FIELD_RECORD_WITH:
        return f->type->size;
    case JOUST_FIELD_ENUM:
    case JOUST_FIELD_ENUM_OR_0:
        return 4;
    case JOUST_FIELD_VALUE:
    case JOUST_FIELD_VALUE_OR_0:
        switch (wire->type) {
        case PROTOBUF_C_TYPE_BOOL:
            return sizeof(bool);
        case PROTOBUF_C_TYPE_UINT32:
        case PROTOBUF_C_TYPE_SINT32:
        case PROTOBUF_C_TYPE_FIXED32:
        case PROTOBUF_C_TYPE_FLOAT:
            return 4;
        default:
            return 8;
        }
    default:
        return sizeof(void *);
    }
}

/* Rows fit their message, and no member of the struct was forgotten: what no row covers is padding.
 */
static void check_coverage(const joust_record_type *type, const char *name)
{
    uint8_t covered[sizeof(any_record)] = {0};
    for (size_t i = 0; i < type->n_fields; i++) {
        const joust_field *f = &type->fields[i];
        const ProtobufCFieldDescriptor *wire = &type->message->fields[i];
        assert_int_equal(f->tag, wire->id);
        memset(covered + f->offset, 1, field_bytes(f, wire));
        if (f->kind == JOUST_FIELD_RECORD_IF || f->kind == JOUST_FIELD_VALUE)
            covered[f->count] = covered[f->count] || wire->label == PROTOBUF_C_LABEL_OPTIONAL;
        else if (f->kind != JOUST_FIELD_RECORD_WITH && f->count)
            memset(covered + f->count, 1, sizeof(uint32_t));
        else if (f->kind == JOUST_FIELD_RECORDS || f->kind == JOUST_FIELD_BYTES ||
                 f->kind == JOUST_FIELD_DIGESTS)
            memset(covered + f->count, 1, sizeof(uint32_t));
    }
    for (size_t at = 0; at < type->size;) {
        size_t start = at;
        while (at < type->size && !covered[at])
            at++;
        if (at - start >= 8 || (at > start && at % 4 != 0))
            fail_msg("%s: %zu bytes at %zu are in no row of its table", name, at - start, start);
        at += at == start;
    }
}

static void test_tables(void **state)
{
    (void)state;
    for_each_type(check_coverage);
}

/* ---------------------------------------------------------------------------------- round trips */

static void check_round_trip(const joust_record_type *type, const char *name)
{
    joust_error err = {0};
    for (uint64_t seed = 0; seed < 20; seed++) {
        any_record copy;
        joust_buf bytes = random_bytes(type, seed), again = {0};
        check_ok(joust_record_decode(type, bytes.data, bytes.n, &copy, &err));
        check_ok(joust_record_encode(type, &copy, &again, &err));
        joust_record_fini(type, &copy);
        if (bytes.n != again.n || memcmp(bytes.data, again.data, bytes.n) != 0)
            fail_msg("%s: other bytes after a round trip, seed %u", name, (unsigned)seed);
        joust_buf_fini(&bytes);
        joust_buf_fini(&again);
    }
}

static void test_round_trips(void **state)
{
    (void)state;
    int64_t live = joust_alloc_live();
    for_each_type(check_round_trip);
    assert_int_equal(joust_alloc_live(), live);
}

static void test_values_survive(void **state)
{
    (void)state;
    joust_error err = {0};
    uint32_t tokens[] = {0, 1, 129, 70000, UINT32_MAX};
    float logps[] = {-0.0f, -1.5f, -3e-39f, -100, -0.1f};
    joust_trajectory t = {.key = {.round = 3, .stage = 2, .position = 1ull << 40},
                          .sample = 7,
                          .n_prompt_tokens = 2,
                          .n_tokens = 5,
                          .prompt_tokens = tokens,
                          .tokens = tokens,
                          .raw_logps = logps,
                          .logps = logps,
                          .stream = {{1, 2}, {3, 4}},
                          .sampling = {.temperature = 0.8f, .top_p = 1, .max_tokens = 26},
                          .finish = JOUST_FINISH_LENGTH,
                          .text = "13+8=21 #### 14"};
    joust_trajectory r;
    joust_buf bytes = {0};
    strcpy(t.policy.lineage, "policy");
    check_ok(joust_trajectory_encode(&t, &bytes, &err));
    check_ok(joust_trajectory_decode(bytes.data, bytes.n, &r, &err));
    assert_int_equal(r.key.position, 1ull << 40);
    assert_int_equal(r.sample, 7);
    assert_int_equal(r.n_tokens, 5);
    assert_memory_equal(r.tokens, tokens, sizeof(tokens));
    assert_memory_equal(r.raw_logps, logps, sizeof(logps));
    assert_memory_equal(&r.stream, &t.stream, sizeof(t.stream));
    assert_memory_equal(&r.sampling, &t.sampling, sizeof(t.sampling));
    assert_string_equal(r.text, t.text);
    assert_string_equal(r.policy.lineage, "policy");
    joust_trajectory_fini(&r);
    joust_buf_fini(&bytes);
}

/* A bool that is left out where it is false says nothing of what stands beside it in memory. */
static void test_bools_survive(void **state)
{
    (void)state;
    joust_error err = {0};
    for (int beside = 0; beside < 2; beside++)
        for (int on = 0; on < 2; on++) {
            joust_job job, back;
            joust_buf bytes = {0};
            check_ok(joust_job_init(&job, &err));
            job.train.forced_tokens = on;
            job.train.has_critic = beside;
            job.models = joust_calloc(1, sizeof(*job.models));
            job.n_models = 1;
            job.models[0].name = joust_strdup("policy");
            job.models[0].scalar_head = on;
            job.models[0].has_endpoint = beside;
            joust_job_endpoint_init(&job.models[0].endpoint);
            job.models[0].endpoint.model = joust_strdup("theirs");
            check_ok(joust_job_encode(&job, false, &bytes, &err));
            check_ok(joust_job_decode(bytes.data, bytes.n, &back, &err));
            assert_int_equal(back.train.forced_tokens, on);
            assert_int_equal(back.train.has_critic, beside);
            assert_int_equal(back.models[0].scalar_head, on);
            assert_int_equal(back.models[0].has_endpoint, beside);
            joust_job_fini(&back);
            joust_job_fini(&job);
            joust_buf_fini(&bytes);
        }
}

/* The bytes and digest that a job without grammar and schema had before there were any: stores of it go on. */
static void test_absent_masks(void **state)
{
    (void)state;
    static const char before[] = "397390f62f057584cae5ab4e13d749f6173536fbfb010099802539a9a03e3d0f";
    static const struct {
        const char *grammar, *schema;
    } cases[] = {{NULL, NULL}, {"root ::= \"a\"", NULL}, {NULL, "{}"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        joust_error err = {0};
        joust_job job;
        joust_buf bytes = {0};
        joust_digest digest;
        char hex[JOUST_DIGEST_HEX];
        check_ok(joust_job_init(&job, &err));
        job.rollout.regex = joust_strdup("a|b");
        job.rollout.grammar = cases[i].grammar ? joust_strdup(cases[i].grammar) : NULL;
        job.rollout.json_schema = cases[i].schema ? joust_strdup(cases[i].schema) : NULL;
        check_ok(joust_job_encode(&job, false, &bytes, &err));
        check_ok(joust_job_digest(&job, &digest, &err));
        assert_int_equal(bytes.n == 304, i == 0);
        assert_int_equal(strcmp(joust_digest_hex(&digest, hex), before) == 0, i == 0);
        joust_job_fini(&job);
        joust_buf_fini(&bytes);
    }
}

/* -------------------------------------------------------------------------------- hostile bytes */

/* What is accepted must be canonical: it encodes to the same bytes. */
static void check_hostile(const joust_record_type *type, const uint8_t *data, size_t n,
                          const char *name)
{
    joust_error err = {0};
    any_record record;
    if (joust_record_decode(type, data, n, &record, &err) != JOUST_OK) {
        assert_true(err.text[0] != 0);
        return;
    }
    joust_buf again = {0};
    check_ok(joust_record_encode(type, &record, &again, &err));
    if (again.n != n || memcmp(again.data, data, n) != 0)
        fail_msg("%s: accepted bytes that aren't canonical", name);
    joust_buf_fini(&again);
    joust_record_fini(type, &record);
}

static void check_damage(const joust_record_type *type, const char *name)
{
    for (uint64_t seed = 100; seed < 103; seed++) {
        joust_buf bytes = random_bytes(type, seed);
        /* exact blocks, so that a sanitizer sees a read past the end */
        for (size_t n = 0; n < bytes.n; n++) {
            uint8_t *cut = joust_memdup(bytes.data, n);
            check_hostile(type, cut, n, name);
            joust_free(cut);
        }
        for (size_t bit = 0; bit < 8 * bytes.n; bit += 1 + bytes.n / 512) {
            bytes.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
            check_hostile(type, bytes.data, bytes.n, name);
            bytes.data[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        joust_buf_fini(&bytes);
    }
}

static void test_damage(void **state)
{
    (void)state;
    int64_t live = joust_alloc_live();
    for_each_type(check_damage);
    assert_int_equal(joust_alloc_live(), live);
}

static joust_status decode_metric(const char *bytes, size_t n, joust_error *err)
{
    joust_metric m;
    return joust_metric_decode(bytes, n, &m, err);
}

static void test_not_canonical(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_metric m = {.name = "x", .value = 1, .low = 0, .high = 2, .n = 5};
    joust_buf b = {0};
    check_ok(joust_metric_encode(&m, &b, &err));
    check_ok(decode_metric((char *)b.data, b.n, &err));
    b.data[b.n - 1] = 0x85; /* n = 5 as the two bytes 85 00 */
    joust_buf_u8(&b, 0);
    check_status(JOUST_MALFORMED, decode_metric((char *)b.data, b.n, &err));
    b.n -= 2;
    joust_buf_add(&b, "\x05\x28\x05", 3); /* n twice */
    check_status(JOUST_MALFORMED, decode_metric((char *)b.data, b.n, &err));
    b.n -= 2;
    check_ok(decode_metric((char *)b.data, b.n, &err));
    joust_buf_add(&b, "\x30\x01", 2); /* a field 6 */
    check_status(JOUST_MALFORMED, decode_metric((char *)b.data, b.n, &err));
    assert_non_null(strstr(err.text, "unknown"));
    b.n -= 4; /* without n */
    check_status(JOUST_MALFORMED, decode_metric((char *)b.data, b.n, &err));
    assert_non_null(strstr(err.text, "Metric.n: missing"));
    joust_buf_fini(&b);
}

/* Many tiny sub-messages must be refused before memory for them is taken. */
static void test_bounds(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_message m;
    joust_buf b = {0};
    for (uint32_t i = 0; i < JOUST_MAX_UNITS + 1; i++)
        joust_buf_add(&b, "\x0a\x0c\x0a\x06\x08\x00\x10\x00\x18\x00\x10\x00\x18\x00", 14);
    check_status(JOUST_TOO_LARGE, joust_message_decode(JOUST_MSG_REVOKE, 1, b.data, b.n, &m, &err));
    check_ok(joust_message_decode(JOUST_MSG_REVOKE, 1, b.data, b.n - 14, &m, &err));
    assert_int_equal(m.u.units.n, JOUST_MAX_UNITS);
    joust_message_fini(&m);
    joust_buf_clear(&b);
    check_status(JOUST_UNSUPPORTED, joust_message_decode(22, 1, b.data, 0, &m, &err));
    check_status(JOUST_UNSUPPORTED, joust_message_decode(0, 1, b.data, 0, &m, &err));
    /* a length beyond the end, and one beyond 64 bits */
    check_status(JOUST_MALFORMED,
                 joust_message_decode(JOUST_MSG_CHUNK, 1, "\x0a\xff\xff\xff\xff\x0f", 6, &m, &err));
    check_status(JOUST_MALFORMED,
                 joust_message_decode(JOUST_MSG_CHUNK, 1,
                                      "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", 11, &m,
                                      &err));
    joust_buf_fini(&b);
}

static void test_encode_refuses(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_buf b = {0};
    joust_prompt p = {.text = NULL};
    joust_buf_text(&b, "before");
    check_status(JOUST_INVALID, joust_prompt_encode(&p, &b, &err));
    assert_string_equal(err.text, "Prompt.text: no text");
    joust_metric m;
    memset(&m, 'x', sizeof(m)); /* a name without an end */
    check_status(JOUST_INVALID, joust_metric_encode(&m, &b, &err));
    joust_trajectory t = {.text = (char[]){""}, .finish = (joust_finish)9};
    check_status(JOUST_INVALID, joust_trajectory_encode(&t, &b, &err));
    assert_int_equal(b.n, 6);
    joust_buf_fini(&b);
}

/* --------------------------------------------------------------------------------------------- no
 * memory */

static void check_no_memory(const joust_record_type *type, const char *name)
{
    joust_error err = {0};
    joust_buf bytes = random_bytes(type, 7);
    int64_t live = joust_alloc_live();
    for (int64_t n = 1;; n++) {
        any_record record;
        joust_alloc_fail_at(n);
        joust_status st = joust_record_decode(type, bytes.data, bytes.n, &record, &err);
        joust_alloc_fail_at(0);
        if (st == JOUST_OK)
            joust_record_fini(type, &record);
        if (joust_alloc_live() != live)
            fail_msg("%s: %lld blocks left at allocation %lld", name,
                     (long long)(joust_alloc_live() - live), (long long)n);
        if (st == JOUST_OK)
            break;
        assert_int_equal(st, JOUST_NOMEM);
    }
    joust_buf_fini(&bytes);
}

static void test_no_memory(void **state)
{
    (void)state;
    for_each_type(check_no_memory);
}

/* -------------------------------------------------------------------------------------- digests */

static void test_digests(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_verdict verdicts[2] = {0};
    joust_digest one, two, swapped;
    fill_source s = fill_source_open(1);
    fill_record(&s, &joust_verdict_type, &verdicts[0]);
    fill_record(&s, &joust_verdict_type, &verdicts[1]);
    check_ok(joust_verdicts_digest(verdicts, 1, &one, &err));
    check_ok(joust_verdicts_digest(verdicts, 2, &two, &err));
    assert_false(joust_digest_equal(&one, &two));
    joust_verdict v = verdicts[0];
    verdicts[0] = verdicts[1];
    verdicts[1] = v;
    check_ok(joust_verdicts_digest(verdicts, 2, &swapped, &err));
    assert_false(joust_digest_equal(&two, &swapped));
    joust_verdict_fini(&verdicts[0]);
    joust_verdict_fini(&verdicts[1]);

    /* "no id" and "empty id" are different prompts; fields don't run into each other */
    joust_digest none = joust_prompt_digest(NULL, "a", NULL);
    joust_digest empty = joust_prompt_digest("", "a", NULL);
    joust_digest left = joust_prompt_digest("ab", "c", NULL);
    joust_digest right = joust_prompt_digest("a", "bc", NULL);
    assert_false(joust_digest_equal(&none, &empty));
    assert_false(joust_digest_equal(&left, &right));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tables),         cmocka_unit_test(test_round_trips),
        cmocka_unit_test(test_values_survive), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_not_canonical),  cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_encode_refuses), cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_digests),        cmocka_unit_test(test_bools_survive),
        cmocka_unit_test(test_absent_masks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
