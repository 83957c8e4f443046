#include "storage/keys.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/text.h"

const char *joust_family_name(joust_family family)
{
    switch (family) {
#define X(name, number, text)                                                                      \
    case name:                                                                                     \
        return text;
        JOUST_FAMILY_MAP(X)
#undef X
    case JOUST_FAMILY_N:
        break;
    }
    return "unknown";
}

/* Building ------------------------------------------------------------------------------------- */

static void key_u8(joust_key *k, uint8_t v)
{
    k->bytes[k->n++] = v;
}

static void key_u32(joust_key *k, uint32_t v)
{
    joust_put_be32(k->bytes + k->n, v);
    k->n += 4;
}

static void key_u64(joust_key *k, uint64_t v)
{
    joust_put_be64(k->bytes + k->n, v);
    k->n += 8;
}

static void key_bytes(joust_key *k, const void *data, size_t n)
{
    assert(k->n + n <= JOUST_MAX_KEY_BYTES);
    memcpy(k->bytes + k->n, data, n);
    k->n += (uint32_t)n;
}

joust_key joust_key_job(joust_job_field field)
{
    joust_key k = {.n = 0};
    key_u8(&k, (uint8_t)field);
    return k;
}

enum { PROMPT_BY_LINE = 1, PROMPT_BY_ID = 2 };

joust_key joust_key_prompt_line(uint32_t set, uint64_t line)
{
    joust_key k = {.n = 0};
    key_u8(&k, PROMPT_BY_LINE);
    key_u32(&k, set);
    key_u64(&k, line);
    return k;
}

joust_key joust_key_prompt_id(const joust_digest *digest, uint32_t occurrence)
{
    joust_key k = {.n = 0};
    key_u8(&k, PROMPT_BY_ID);
    key_bytes(&k, digest->bytes, sizeof(digest->bytes));
    key_u32(&k, occurrence);
    return k;
}

joust_key joust_key_unit(const joust_unit_key *unit)
{
    joust_key k = {.n = 0};
    key_u32(&k, unit->round);
    key_u32(&k, unit->stage);
    key_u64(&k, unit->position);
    return k;
}

joust_key joust_key_trajectory(const joust_unit_key *unit, uint32_t sample)
{
    joust_key k = joust_key_unit(unit);
    key_u32(&k, sample);
    return k;
}

joust_key joust_key_lease(const joust_unit_key *unit, uint64_t lease)
{
    joust_key k = joust_key_unit(unit);
    key_u64(&k, lease);
    return k;
}

joust_key joust_key_verdict(const joust_unit_key *unit, uint32_t sample, uint32_t other,
                            uint32_t order, uint32_t vote)
{
    joust_key k = joust_key_trajectory(unit, sample);
    key_u32(&k, other);
    key_u32(&k, order);
    key_u32(&k, vote);
    return k;
}

joust_key joust_key_pair(const joust_unit_key *unit, uint32_t index)
{
    return joust_key_trajectory(unit, index);
}

joust_key joust_key_round(joust_round_field field, uint32_t round, uint32_t stage, uint32_t step)
{
    joust_key k = {.n = 0};
    key_u8(&k, (uint8_t)field);
    key_u32(&k, round);
    key_u32(&k, stage);
    key_u32(&k, step);
    return k;
}

joust_key joust_key_model(const char *lineage, uint64_t version)
{
    joust_key k = {.n = 0};
    size_t n = strlen(lineage);
    key_u64(&k, version);
    key_bytes(&k, lineage, n < JOUST_MAX_NAME_BYTES ? n : JOUST_MAX_NAME_BYTES);
    return k;
}

joust_key joust_key_sequence(uint64_t sequence)
{
    joust_key k = {.n = 0};
    key_u64(&k, sequence);
    return k;
}

bool joust_key_equal(const joust_key *key, joust_span bytes)
{
    return key->n == bytes.n && memcmp(key->bytes, bytes.data, bytes.n) == 0;
}

/* Ranges --------------------------------------------------------------------------------------- */

joust_key_range joust_range_all(void)
{
    return (joust_key_range){.first = {.n = 0}, .before = {.n = 0}};
}

joust_key_range joust_range_prefix(const joust_key *prefix)
{
    joust_key_range r = {.first = *prefix, .before = *prefix};
    /* the next key of this length: add one, dropping bytes that are all ones */
    while (r.before.n > 0 && r.before.bytes[r.before.n - 1] == 0xff)
        r.before.n--;
    if (r.before.n > 0)
        r.before.bytes[r.before.n - 1]++;
    return r;
}

joust_key_range joust_range_round(uint32_t round)
{
    joust_key k = {.n = 0};
    key_u32(&k, round);
    return joust_range_prefix(&k);
}

joust_key_range joust_range_stage(uint32_t round, uint32_t stage)
{
    joust_key k = {.n = 0};
    key_u32(&k, round);
    key_u32(&k, stage);
    return joust_range_prefix(&k);
}

joust_key_range joust_range_positions(uint32_t round, uint32_t stage, uint64_t first, uint64_t n)
{
    joust_key_range r = joust_range_stage(round, stage);
    r.first = joust_key_unit(&(joust_unit_key){round, stage, first});
    if (n <= UINT64_MAX - first)
        r.before = joust_key_unit(&(joust_unit_key){round, stage, first + n});
    return r;
}

joust_key_range joust_range_unit(const joust_unit_key *unit)
{
    joust_key k = joust_key_unit(unit);
    return joust_range_prefix(&k);
}

joust_key_range joust_range_prompts(uint32_t set)
{
    joust_key k = {.n = 0};
    key_u8(&k, PROMPT_BY_LINE);
    key_u32(&k, set);
    return joust_range_prefix(&k);
}

joust_key_range joust_range_round_field(joust_round_field field)
{
    joust_key k = {.n = 0};
    key_u8(&k, (uint8_t)field);
    return joust_range_prefix(&k);
}

joust_key_range joust_range_round_field_of(joust_round_field field, uint32_t round)
{
    joust_key k = {.n = 0};
    key_u8(&k, (uint8_t)field);
    key_u32(&k, round);
    return joust_range_prefix(&k);
}

joust_key_range joust_range_sequence(uint64_t first)
{
    return (joust_key_range){.first = joust_key_sequence(first), .before = {.n = 0}};
}

/* Text ----------------------------------------------------------------------------------------- */

uint64_t joust_key_get_sequence(joust_span key)
{
    return key.n == 8 ? joust_get_be64(key.data) : 0;
}

bool joust_key_get_unit(joust_span key, joust_unit_key *ret)
{
    joust_reader r = joust_reader_over(key.data, key.n);
    joust_unit_key unit;
    unit.round = joust_read_be32(&r);
    unit.stage = joust_read_be32(&r);
    unit.position = joust_read_be64(&r);
    if (r.failed)
        return false;
    *ret = unit;
    return true;
}

static void text_hex(joust_span key, char *to, size_t size)
{
    size_t at = 0;
    for (size_t i = 0; i < key.n && at + 3 < size; i++)
        at += (size_t)snprintf(to + at, size - at, "%02x", key.data[i]);
}

static joust_record_id id_read(joust_span key)
{
    joust_record_id id = {.other = JOUST_NONE};
    joust_reader r = joust_reader_over(key.data, key.n);
    id.unit.round = joust_read_be32(&r);
    id.unit.stage = joust_read_be32(&r);
    id.unit.position = joust_read_be64(&r);
    id.index = joust_read_be32(&r);
    if (key.n == 32) {
        id.other = joust_read_be32(&r);
        id.order = joust_read_be32(&r);
        id.vote = joust_read_be32(&r);
    }
    return id;
}

static bool text_job(joust_span key, char *to, size_t size)
{
    static const char *const names[] = {NULL, "format", "digest", "encoding", "epoch"};
    if (key.n != 1 || key.data[0] == 0 || key.data[0] >= sizeof(names) / sizeof(*names))
        return false;
    snprintf(to, size, "%s", names[key.data[0]]);
    return true;
}

static bool text_prompt(joust_span key, char *to, size_t size)
{
    if (key.n == 13 && key.data[0] == PROMPT_BY_LINE) {
        snprintf(to, size, "set %" PRIu32 " line %" PRIu64, joust_get_be32(key.data + 1),
                 joust_get_be64(key.data + 5));
        return true;
    }
    if (key.n == 37 && key.data[0] == PROMPT_BY_ID) {
        joust_digest d;
        char hex[JOUST_DIGEST_HEX];
        memcpy(d.bytes, key.data + 1, sizeof(d.bytes));
        snprintf(to, size, "id %s#%" PRIu32, joust_digest_hex(&d, hex),
                 joust_get_be32(key.data + 33));
        return true;
    }
    return false;
}

static bool text_round(joust_span key, char *to, size_t size)
{
    static const char *const names[] = {NULL, "summary", "step", "promotion"};
    if (key.n != 13 || key.data[0] == 0 || key.data[0] >= sizeof(names) / sizeof(*names))
        return false;
    int n = snprintf(to, size, "%s r%" PRIu32 ".s%" PRIu32, names[key.data[0]],
                     joust_get_be32(key.data + 1), joust_get_be32(key.data + 5));
    if (key.data[0] == JOUST_ROUND_STEP)
        snprintf(to + n, size - (size_t)n, ".%" PRIu32, joust_get_be32(key.data + 9));
    return true;
}

static bool text_key(joust_family family, joust_span key, char *to, size_t size)
{
    switch (family) {
    case JOUST_FAMILY_JOB:
        return text_job(key, to, size);
    case JOUST_FAMILY_PROMPTS:
        return text_prompt(key, to, size);
    case JOUST_FAMILY_TRAJECTORIES:
    case JOUST_FAMILY_PAIRS:
    case JOUST_FAMILY_VERDICTS: {
        char id_text[JOUST_RECORD_ID_TEXT];
        joust_record_id id = id_read(key);
        if (key.n != (family == JOUST_FAMILY_VERDICTS ? 32u : 20u))
            return false;
        snprintf(to, size, "%s", joust_record_id_text(&id, id_text));
        return true;
    }
    case JOUST_FAMILY_ROUNDS:
        return text_round(key, to, size);
    case JOUST_FAMILY_MODELS:
        if (key.n <= 8)
            return false;
        snprintf(to, size, "%.*s@%" PRIu64, (int)(key.n - 8), (const char *)key.data + 8,
                 joust_get_be64(key.data));
        return true;
    case JOUST_FAMILY_PROVENANCE:
        if (key.n != 16 && key.n != 24)
            return false;
        snprintf(to, size, "r%" PRIu32 ".s%" PRIu32 ".p%" PRIu64 "%s", joust_get_be32(key.data),
                 joust_get_be32(key.data + 4), joust_get_be64(key.data + 8),
                 key.n == 24 ? " (a lease)" : "");
        return true;
    case JOUST_FAMILY_EVENTS:
    case JOUST_FAMILY_SNAPSHOTS:
        if (key.n != 8)
            return false;
        snprintf(to, size, "%" PRIu64, joust_get_be64(key.data));
        return true;
    case JOUST_FAMILY_N:
        break;
    }
    return false;
}

const char *joust_key_text(joust_family family, joust_span key, char to[JOUST_KEY_TEXT])
{
    int n = snprintf(to, JOUST_KEY_TEXT, "%s ", joust_family_name(family));
    if (!text_key(family, key, to + n, JOUST_KEY_TEXT - (size_t)n))
        text_hex(key, to + n, JOUST_KEY_TEXT - (size_t)n);
    return to;
}

const char *joust_record_id_text(const joust_record_id *id, char to[JOUST_RECORD_ID_TEXT])
{
    int n = snprintf(to, JOUST_RECORD_ID_TEXT, "r%" PRIu32 ".s%" PRIu32 ".p%" PRIu64 ".%" PRIu32,
                     id->unit.round, id->unit.stage, id->unit.position, id->index);
    if (id->other != JOUST_NONE)
        n += snprintf(to + n, JOUST_RECORD_ID_TEXT - (size_t)n, "-%" PRIu32, id->other);
    if (id->order != 0 || id->vote != 0)
        snprintf(to + n, JOUST_RECORD_ID_TEXT - (size_t)n, ".o%" PRIu32 ".v%" PRIu32, id->order,
                 id->vote);
    return to;
}

/* Eats `mark` and the digits behind it. */
static bool eat_number(const char **at, const char *mark, uint64_t max, uint64_t *ret)
{
    size_t n_mark = strlen(mark), n = 0;
    char digits[24];
    if (strncmp(*at, mark, n_mark) != 0)
        return false;
    const char *from = *at + n_mark;
    while (from[n] >= '0' && from[n] <= '9' && n < sizeof(digits) - 1) {
        digits[n] = from[n];
        n++;
    }
    digits[n] = 0;
    uint64_t v;
    if (!joust_parse_u64(digits, &v) || v > max)
        return false;
    *at = from + n;
    *ret = v;
    return true;
}

joust_status joust_record_id_parse(const char *text, joust_record_id *ret, joust_error *err)
{
    uint64_t round, stage, position, index, other = JOUST_NONE, order = 0, vote = 0;
    const char *at = text;
    bool good =
        eat_number(&at, "r", UINT32_MAX, &round) && eat_number(&at, ".s", UINT32_MAX, &stage) &&
        eat_number(&at, ".p", UINT64_MAX, &position) && eat_number(&at, ".", UINT32_MAX, &index);
    if (good && *at == '-')
        good = eat_number(&at, "-", UINT32_MAX - 1, &other);
    if (good && *at == '.')
        good =
            eat_number(&at, ".o", UINT32_MAX, &order) && eat_number(&at, ".v", UINT32_MAX, &vote);
    if (!good || *at)
        return joust_fail(err, JOUST_INVALID,
                          "'%.100s' is not an id as list prints them: r<round>.s<stage>."
                          "p<position>.<index>, for example r3.s1.p120.2",
                          text);
    *ret = (joust_record_id){.unit = {(uint32_t)round, (uint32_t)stage, position},
                             .index = (uint32_t)index,
                             .other = (uint32_t)other,
                             .order = (uint32_t)order,
                             .vote = (uint32_t)vote};
    return JOUST_OK;
}
