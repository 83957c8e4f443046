#include "storage/tables.h"

#include <stdlib.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/codec.h"
#include "store_internal.h"

/* One row a record type: where it lives and how it turns into bytes. The typed functions below are these
 * with a type put on. */

typedef enum kind {
    KIND_PROMPT,
    KIND_TRAJECTORY,
    KIND_VERDICT,
    KIND_PAIR,
    KIND_SUMMARY,
    KIND_STEP,
    KIND_PROMOTION,
    KIND_MODEL,
    KIND_PROVENANCE
} kind;

static joust_family kind_family(kind k)
{
    switch (k) {
    case KIND_PROMPT:
        return JOUST_FAMILY_PROMPTS;
    case KIND_TRAJECTORY:
        return JOUST_FAMILY_TRAJECTORIES;
    case KIND_VERDICT:
        return JOUST_FAMILY_VERDICTS;
    case KIND_PAIR:
        return JOUST_FAMILY_PAIRS;
    case KIND_SUMMARY:
    case KIND_STEP:
    case KIND_PROMOTION:
        return JOUST_FAMILY_ROUNDS;
    case KIND_MODEL:
        return JOUST_FAMILY_MODELS;
    case KIND_PROVENANCE:
        return JOUST_FAMILY_PROVENANCE;
    }
    return JOUST_FAMILY_N;
}

/* Key of a record by its own fields. False for those whose position is not in the record. */
static bool record_key(kind k, const void *record, joust_key *ret)
{
    switch (k) {
    case KIND_TRAJECTORY: {
        const joust_trajectory *r = record;
        *ret = joust_key_trajectory(&r->key, r->sample);
        return true;
    }
    case KIND_VERDICT: {
        const joust_verdict *r = record;
        *ret = joust_key_verdict(&r->key, r->sample, r->other, r->order, r->vote);
        return true;
    }
    case KIND_PAIR: {
        const joust_pair *r = record;
        *ret = joust_key_pair(&r->key, r->index);
        return true;
    }
    case KIND_SUMMARY: {
        const joust_stage_summary *r = record;
        *ret = joust_key_round(JOUST_ROUND_SUMMARY, r->round, r->stage, 0);
        return true;
    }
    case KIND_STEP: {
        const joust_train_step *r = record;
        *ret = joust_key_round(JOUST_ROUND_STEP, r->round, r->stage, r->step);
        return true;
    }
    case KIND_PROMOTION: {
        const joust_promotion *r = record;
        *ret = joust_key_round(JOUST_ROUND_PROMOTION, r->round, r->stage, 0);
        return true;
    }
    case KIND_MODEL: {
        const joust_model_version *r = record;
        *ret = joust_key_model(r->model.lineage, r->model.version);
        return true;
    }
    case KIND_PROMPT:
    case KIND_PROVENANCE:
        break;
    }
    return false;
}

static joust_status record_encode(kind k, const void *record, joust_buf *to, joust_error *err)
{
    joust_buf_clear(to);
    switch (k) {
    case KIND_PROMPT:
        return joust_prompt_encode(record, to, err);
    case KIND_TRAJECTORY:
        return joust_trajectory_encode(record, to, err);
    case KIND_VERDICT:
        return joust_verdict_encode(record, to, err);
    case KIND_PAIR:
        return joust_pair_encode(record, to, err);
    case KIND_SUMMARY:
        return joust_stage_summary_encode(record, to, err);
    case KIND_STEP:
        return joust_train_step_encode(record, to, err);
    case KIND_PROMOTION:
        return joust_promotion_encode(record, to, err);
    case KIND_MODEL:
        return joust_model_version_encode(record, to, err);
    case KIND_PROVENANCE:
        return joust_provenance_encode(record, to, err);
    }
    return joust_fail(err, JOUST_BUG, "no such kind of record");
}

static joust_status record_decode(kind k, joust_span bytes, void *ret, joust_error *err)
{
    switch (k) {
    case KIND_PROMPT:
        return joust_prompt_decode(bytes.data, bytes.n, ret, err);
    case KIND_TRAJECTORY:
        return joust_trajectory_decode(bytes.data, bytes.n, ret, err);
    case KIND_VERDICT:
        return joust_verdict_decode(bytes.data, bytes.n, ret, err);
    case KIND_PAIR:
        return joust_pair_decode(bytes.data, bytes.n, ret, err);
    case KIND_SUMMARY:
        return joust_stage_summary_decode(bytes.data, bytes.n, ret, err);
    case KIND_STEP:
        return joust_train_step_decode(bytes.data, bytes.n, ret, err);
    case KIND_PROMOTION:
        return joust_promotion_decode(bytes.data, bytes.n, ret, err);
    case KIND_MODEL:
        return joust_model_version_decode(bytes.data, bytes.n, ret, err);
    case KIND_PROVENANCE:
        return joust_provenance_decode(bytes.data, bytes.n, ret, err);
    }
    return joust_fail(err, JOUST_BUG, "no such kind of record");
}

static void record_fini(kind k, void *record)
{
    switch (k) {
    case KIND_PROMPT:
        joust_prompt_fini(record);
        break;
    case KIND_TRAJECTORY:
        joust_trajectory_fini(record);
        break;
    case KIND_VERDICT:
        joust_verdict_fini(record);
        break;
    case KIND_SUMMARY:
        joust_stage_summary_fini(record);
        break;
    case KIND_STEP:
        joust_train_step_fini(record);
        break;
    case KIND_PAIR:
    case KIND_PROMOTION:
    case KIND_MODEL:
    case KIND_PROVENANCE:
        break; /* nothing owned */
    }
}

/* What is stored under key decodes, and says itself that it belongs there. */
static joust_status record_open(kind k, joust_span key, joust_span bytes, void *ret,
                                joust_error *err)
{
    char text[JOUST_KEY_TEXT];
    joust_key own;
    joust_error why;
    joust_status st = record_decode(k, bytes, ret, &why);
    if (st == JOUST_NOMEM)
        return joust_fail(err, st, "%s", why.text);
    if (st != JOUST_OK)
        return joust_fail(err, JOUST_CORRUPT, "%s: %s", joust_key_text(kind_family(k), key, text),
                          why.text);
    if (record_key(k, ret, &own) && !joust_key_equal(&own, key)) {
        record_fini(k, ret);
        return joust_fail(err, JOUST_CORRUPT, "%s: the record belongs under another key",
                          joust_key_text(kind_family(k), key, text));
    }
    return JOUST_OK;
}

/* Writing -------------------------------------------------------------------------------------- */

static joust_status batch_put_at(joust_batch *batch, kind k, const joust_key *key,
                                 const void *record, joust_error *err)
{
    joust_status st = record_encode(k, record, &batch->scratch, err);
    if (st != JOUST_OK)
        return st;
    joust_span bytes = {batch->scratch.data, batch->scratch.n};
    if (k == KIND_PROVENANCE)
        joust_db_batch_put_first(batch->db, kind_family(k), key, bytes);
    else
        joust_db_batch_put(batch->db, kind_family(k), key, bytes);
    return JOUST_OK;
}

static joust_status batch_put(joust_batch *batch, kind k, const void *record, joust_error *err)
{
    joust_key key;
    if (!record_key(k, record, &key))
        return joust_fail(err, JOUST_BUG, "a record without a key of its own");
    return batch_put_at(batch, k, &key, record, err);
}

joust_status joust_batch_put_prompt(joust_batch *batch, uint32_t set, uint64_t line,
                                    const joust_prompt *prompt, joust_error *err)
{
    joust_key key = joust_key_prompt_line(set, line);
    joust_status st = batch_put_at(batch, KIND_PROMPT, &key, prompt, err);
    if (st != JOUST_OK)
        return st;
    joust_key id = joust_key_prompt_id(&prompt->digest, prompt->occurrence);
    joust_db_batch_put(batch->db, JOUST_FAMILY_PROMPTS, &id, (joust_span){key.bytes, key.n});
    return JOUST_OK;
}

joust_status joust_batch_put_trajectory(joust_batch *batch, const joust_trajectory *record,
                                        joust_error *err)
{
    return batch_put(batch, KIND_TRAJECTORY, record, err);
}

joust_status joust_batch_put_verdict(joust_batch *batch, const joust_verdict *record,
                                     joust_error *err)
{
    return batch_put(batch, KIND_VERDICT, record, err);
}

joust_status joust_batch_put_pair(joust_batch *batch, const joust_pair *record, joust_error *err)
{
    return batch_put(batch, KIND_PAIR, record, err);
}

joust_status joust_batch_put_stage_summary(joust_batch *batch, const joust_stage_summary *record,
                                           joust_error *err)
{
    return batch_put(batch, KIND_SUMMARY, record, err);
}

joust_status joust_batch_put_train_step(joust_batch *batch, const joust_train_step *record,
                                        joust_error *err)
{
    return batch_put(batch, KIND_STEP, record, err);
}

joust_status joust_batch_put_promotion(joust_batch *batch, const joust_promotion *record,
                                       joust_error *err)
{
    return batch_put(batch, KIND_PROMOTION, record, err);
}

joust_status joust_batch_put_model_version(joust_batch *batch, const joust_model_version *record,
                                           joust_error *err)
{
    return batch_put(batch, KIND_MODEL, record, err);
}

joust_status joust_batch_put_provenance(joust_batch *batch, const joust_unit_key *unit,
                                        const joust_provenance *record, joust_error *err)
{
    joust_key key = joust_key_unit(unit);
    return batch_put_at(batch, KIND_PROVENANCE, &key, record, err);
}

joust_status joust_batch_put_lease(joust_batch *batch, const joust_unit_key *unit,
                                   const joust_provenance *record, joust_error *err)
{
    joust_key key = joust_key_lease(unit, record->lease);
    return batch_put_at(batch, KIND_PROVENANCE, &key, record, err);
}

/* Repeats -------------------------------------------------------------------------------------- */

static joust_status store_check(joust_store *store, kind k, const void *record, bool *ret_present,
                                joust_error *err)
{
    joust_key key;
    joust_buf given = {0}, stored = {0};
    joust_error absent;
    if (!record_key(k, record, &key))
        return joust_fail(err, JOUST_BUG, "a record without a key of its own");
    joust_status st = joust_db_get(store->db, kind_family(k), &key, &stored, &absent);
    bool present = st == JOUST_OK;
    if (st == JOUST_NOT_FOUND)
        st = JOUST_OK;
    else if (st != JOUST_OK)
        joust_fail(err, st, "%s", absent.text);
    else
        st = record_encode(k, record, &given, err);
    if (st == JOUST_OK && present &&
        (given.n != stored.n || memcmp(given.data, stored.data, given.n) != 0)) {
        char text[JOUST_KEY_TEXT];
        st = joust_fail(err, JOUST_CONFLICT, "%s: what came differs from what is recorded",
                        joust_key_text(kind_family(k), (joust_span){key.bytes, key.n}, text));
    }
    joust_buf_fini(&given);
    joust_buf_fini(&stored);
    if (st == JOUST_OK)
        *ret_present = present;
    return st;
}

joust_status joust_store_check_trajectory(joust_store *store, const joust_trajectory *record,
                                          bool *ret_present, joust_error *err)
{
    return store_check(store, KIND_TRAJECTORY, record, ret_present, err);
}

joust_status joust_store_check_verdict(joust_store *store, const joust_verdict *record,
                                       bool *ret_present, joust_error *err)
{
    return store_check(store, KIND_VERDICT, record, ret_present, err);
}

joust_status joust_store_check_model_version(joust_store *store, const joust_model_version *record,
                                             bool *ret_present, joust_error *err)
{
    return store_check(store, KIND_MODEL, record, ret_present, err);
}

/* Reading one ---------------------------------------------------------------------------------- */

static joust_status store_get(joust_store *store, kind k, const joust_key *key, void *ret,
                              joust_error *err)
{
    joust_buf bytes = {0};
    joust_status st = joust_db_get(store->db, kind_family(k), key, &bytes, err);
    if (st == JOUST_OK)
        st = record_open(k, (joust_span){key->bytes, key->n}, (joust_span){bytes.data, bytes.n},
                         ret, err);
    joust_buf_fini(&bytes);
    return st;
}

joust_status joust_store_get_prompt(joust_store *store, uint32_t set, uint64_t line,
                                    joust_prompt *ret, joust_error *err)
{
    joust_key key = joust_key_prompt_line(set, line);
    return store_get(store, KIND_PROMPT, &key, ret, err);
}

joust_status joust_store_find_prompt(joust_store *store, const joust_digest *digest,
                                     uint32_t occurrence, joust_prompt *ret, joust_error *err)
{
    joust_key id = joust_key_prompt_id(digest, occurrence), key;
    joust_buf place = {0};
    joust_status st = joust_db_get(store->db, JOUST_FAMILY_PROMPTS, &id, &place, err);
    if (st == JOUST_OK && place.n > sizeof(key.bytes))
        st = joust_fail(err, JOUST_CORRUPT, "a prompt's id points to %zu bytes", place.n);
    if (st == JOUST_OK) {
        memcpy(key.bytes, place.data, place.n);
        key.n = (uint32_t)place.n;
        st = store_get(store, KIND_PROMPT, &key, ret, err);
    }
    joust_buf_fini(&place);
    return st;
}

joust_status joust_store_get_trajectory(joust_store *store, const joust_unit_key *unit,
                                        uint32_t sample, joust_trajectory *ret, joust_error *err)
{
    joust_key key = joust_key_trajectory(unit, sample);
    return store_get(store, KIND_TRAJECTORY, &key, ret, err);
}

joust_status joust_store_get_verdict(joust_store *store, const joust_record_id *id,
                                     joust_verdict *ret, joust_error *err)
{
    joust_key key = joust_key_verdict(&id->unit, id->index, id->other, id->order, id->vote);
    return store_get(store, KIND_VERDICT, &key, ret, err);
}

joust_status joust_store_get_pair(joust_store *store, const joust_unit_key *unit, uint32_t index,
                                  joust_pair *ret, joust_error *err)
{
    joust_key key = joust_key_pair(unit, index);
    return store_get(store, KIND_PAIR, &key, ret, err);
}

joust_status joust_store_get_stage_summary(joust_store *store, uint32_t round, uint32_t stage,
                                           joust_stage_summary *ret, joust_error *err)
{
    joust_key key = joust_key_round(JOUST_ROUND_SUMMARY, round, stage, 0);
    return store_get(store, KIND_SUMMARY, &key, ret, err);
}

joust_status joust_store_get_train_step(joust_store *store, uint32_t round, uint32_t stage,
                                        uint32_t step, joust_train_step *ret, joust_error *err)
{
    joust_key key = joust_key_round(JOUST_ROUND_STEP, round, stage, step);
    return store_get(store, KIND_STEP, &key, ret, err);
}

joust_status joust_store_get_promotion(joust_store *store, uint32_t round, uint32_t stage,
                                       joust_promotion *ret, joust_error *err)
{
    joust_key key = joust_key_round(JOUST_ROUND_PROMOTION, round, stage, 0);
    return store_get(store, KIND_PROMOTION, &key, ret, err);
}

joust_status joust_store_get_model_version(joust_store *store, const char *lineage,
                                           uint64_t version, joust_model_version *ret,
                                           joust_error *err)
{
    joust_key key = joust_key_model(lineage, version);
    return store_get(store, KIND_MODEL, &key, ret, err);
}

joust_status joust_store_get_provenance(joust_store *store, const joust_unit_key *unit,
                                        joust_provenance *ret, joust_error *err)
{
    joust_key key = joust_key_unit(unit);
    return store_get(store, KIND_PROVENANCE, &key, ret, err);
}

/* Scans ---------------------------------------------------------------------------------------- */

struct joust_cursor {
    joust_family family;
    joust_db_scan *scan;
    joust_span key, payload;
};

joust_status joust_cursor_open(joust_store *store, joust_family family,
                               const joust_key_range *range, joust_cursor **ret, joust_error *err)
{
    joust_cursor *cursor = joust_calloc(1, sizeof(*cursor));
    if (!cursor)
        return joust_fail(err, JOUST_NOMEM, "scan of %s: out of memory", joust_family_name(family));
    cursor->family = family;
    joust_status st = joust_db_scan_open(store->db, family, range, &cursor->scan, err);
    if (st != JOUST_OK) {
        joust_free(cursor);
        return st;
    }
    *ret = cursor;
    return JOUST_OK;
}

void joust_cursor_close(joust_cursor **cursor)
{
    if (!cursor || !*cursor)
        return;
    joust_db_scan_close(&(*cursor)->scan);
    joust_free(*cursor);
    *cursor = NULL;
}

joust_span joust_cursor_key(const joust_cursor *cursor)
{
    return cursor->key;
}

joust_status joust_cursor_next(joust_cursor *cursor, joust_error *err)
{
    cursor->key = cursor->payload = (joust_span){NULL, 0};
    return joust_db_scan_next(cursor->scan, &cursor->key, &cursor->payload, err);
}

static joust_status cursor_next(joust_cursor *cursor, kind k, void *ret, joust_error *err)
{
    if (cursor->family != kind_family(k))
        return joust_fail(err, JOUST_BUG, "a cursor over %s was asked for a record of %s",
                          joust_family_name(cursor->family), joust_family_name(kind_family(k)));
    joust_status st = joust_cursor_next(cursor, err);
    return st == JOUST_OK ? record_open(k, cursor->key, cursor->payload, ret, err) : st;
}

joust_status joust_cursor_next_prompt(joust_cursor *cursor, joust_prompt *ret, joust_error *err)
{
    return cursor_next(cursor, KIND_PROMPT, ret, err);
}

joust_status joust_cursor_next_trajectory(joust_cursor *cursor, joust_trajectory *ret,
                                          joust_error *err)
{
    return cursor_next(cursor, KIND_TRAJECTORY, ret, err);
}

joust_status joust_cursor_next_verdict(joust_cursor *cursor, joust_verdict *ret, joust_error *err)
{
    return cursor_next(cursor, KIND_VERDICT, ret, err);
}

joust_status joust_cursor_next_pair(joust_cursor *cursor, joust_pair *ret, joust_error *err)
{
    return cursor_next(cursor, KIND_PAIR, ret, err);
}

joust_status joust_cursor_next_stage_summary(joust_cursor *cursor, joust_stage_summary *ret,
                                             joust_error *err)
{
    return cursor_next(cursor, KIND_SUMMARY, ret, err);
}

joust_status joust_cursor_next_train_step(joust_cursor *cursor, joust_train_step *ret,
                                          joust_error *err)
{
    return cursor_next(cursor, KIND_STEP, ret, err);
}

joust_status joust_cursor_next_promotion(joust_cursor *cursor, joust_promotion *ret,
                                         joust_error *err)
{
    return cursor_next(cursor, KIND_PROMOTION, ret, err);
}

joust_status joust_cursor_next_model_version(joust_cursor *cursor, joust_model_version *ret,
                                             joust_error *err)
{
    return cursor_next(cursor, KIND_MODEL, ret, err);
}

joust_status joust_cursor_next_lease(joust_cursor *cursor, joust_provenance *ret, joust_error *err)
{
    return cursor_next(cursor, KIND_PROVENANCE, ret, err);
}
