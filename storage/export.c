#include "storage/export.h"

#include <inttypes.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "storage/json.h"
#include "storage/lineage.h"
#include "storage/tables.h"

typedef struct exporter {
    joust_store *store;
    joust_plan *plan;
    bool provenance;
} exporter;

/* Provenance ----------------------------------------------------------------------------------- */

/* The provenance of a unit as a member; null where none was recorded. */
static joust_status add_provenance(exporter *e, joust_buf *to, const char *key,
                                   const joust_unit_key *unit, joust_error *err)
{
    joust_provenance r;
    joust_status st = joust_store_get_provenance(e->store, unit, &r, err);
    if (st != JOUST_OK && st != JOUST_NOT_FOUND)
        return st;
    joust_json_key(to, key);
    if (st == JOUST_NOT_FOUND) {
        joust_buf_text(to, "null");
        return JOUST_OK;
    }
    joust_json_open(to, '{');
    joust_provenance_json(to, &r);
    joust_json_close(to, '}');
    joust_provenance_fini(&r);
    return JOUST_OK;
}

/* Where a pair's trajectories and each judged group came from. */
static joust_status add_pair_provenance(exporter *e, joust_buf *to, const joust_lineage *l,
                                        joust_error *err)
{
    joust_unit_key chosen = {l->pair.chosen.round, l->pair.chosen.stage, l->pair.chosen.position};
    joust_unit_key rejected = {l->pair.rejected.round, l->pair.rejected.stage,
                               l->pair.rejected.position};
    uint32_t last_stage = JOUST_NONE;
    joust_json_key(to, "provenance");
    joust_json_open(to, '{');
    joust_status st = add_provenance(e, to, "chosen", &chosen, err);
    if (st == JOUST_OK)
        st = add_provenance(e, to, "rejected", &rejected, err);
    joust_json_key(to, "judges");
    joust_json_open(to, '[');
    for (uint32_t i = 0; i < l->n_verdicts && st == JOUST_OK; i++) {
        if (l->verdicts[i].key.stage == last_stage)
            continue;
        last_stage = l->verdicts[i].key.stage;
        st = add_provenance(e, to, "", &l->verdicts[i].key, err);
    }
    joust_json_close(to, ']');
    joust_json_close(to, '}');
    return st;
}

/* One record ----------------------------------------------------------------------------------- */

static void add_pair_texts(joust_buf *to, const joust_lineage *l)
{
    joust_json_add_text(to, "prompt", l->prompt.text);
    joust_json_add_text(to, "chosen", l->chosen.text);
    joust_json_add_text(to, "rejected", l->rejected.text);
}

static void add_pair_lineage(joust_buf *to, const joust_lineage *l)
{
    joust_json_add_text(to, "prompt_name", l->prompt.id);
    joust_json_add_text(to, "reference", l->prompt.reference);
    joust_json_add_model(to, "chosen_policy", &l->chosen.policy);
    joust_json_add_model(to, "rejected_policy", &l->rejected.policy);
    joust_json_key(to, "verdicts");
    joust_json_open(to, '[');
    for (uint32_t i = 0; i < l->n_verdicts; i++) {
        const joust_verdict *v = &l->verdicts[i];
        joust_record_id id = joust_verdict_id(v);
        if (!joust_lineage_concerns(l, v))
            continue;
        joust_json_key(to, "");
        joust_json_open(to, '{');
        joust_json_add_id(to, "id", &id);
        joust_json_add_text(to, "judge", v->judge);
        joust_json_add_text(to, "outcome", joust_outcome_name(v->outcome));
        joust_json_add_optional(to, "value", v->has_value, v->value);
        joust_json_close(to, '}');
    }
    joust_json_close(to, ']');
    joust_json_add_tokens(to, "prompt_tokens", l->chosen.prompt_tokens, l->chosen.n_prompt_tokens);
    joust_json_add_tokens(to, "chosen_tokens", l->chosen.tokens, l->chosen.n_tokens);
    joust_json_add_tokens(to, "rejected_tokens", l->rejected.tokens, l->rejected.n_tokens);
}

static joust_status write_pair(exporter *e, joust_buf *to, const joust_pair *pair, joust_error *err)
{
    joust_lineage l;
    joust_status st = joust_lineage_load(e->store, e->plan, pair, &l, err);
    if (st != JOUST_OK) {
        char text[JOUST_RECORD_ID_TEXT];
        joust_record_id id = joust_pair_id(pair);
        return joust_blame(err, st, "pairs %s", joust_record_id_text(&id, text));
    }
    joust_json_open(to, '{');
    add_pair_texts(to, &l);
    joust_pair_json(to, pair);
    add_pair_lineage(to, &l);
    if (e->provenance)
        st = add_pair_provenance(e, to, &l, err);
    joust_json_close(to, '}');
    joust_lineage_fini(&l);
    return st;
}

static joust_status write_trajectory(exporter *e, joust_buf *to, const joust_trajectory *r,
                                     joust_error *err)
{
    joust_prompt prompt;
    joust_status st =
        joust_store_find_prompt(e->store, &r->prompt, r->prompt_occurrence, &prompt, err);
    if (st != JOUST_OK)
        return st;
    joust_json_open(to, '{');
    joust_json_add_text(to, "prompt", prompt.text);
    joust_json_add_text(to, "response", r->text);
    joust_trajectory_json(to, r);
    joust_prompt_fini(&prompt);
    if (e->provenance)
        st = add_provenance(e, to, "provenance", &r->key, err);
    joust_json_close(to, '}');
    return st;
}

static joust_status write_verdict(exporter *e, joust_buf *to, const joust_verdict *r,
                                  joust_error *err)
{
    joust_status st = JOUST_OK;
    joust_json_open(to, '{');
    joust_verdict_json(to, r);
    if (e->provenance)
        st = add_provenance(e, to, "provenance", &r->key, err);
    joust_json_close(to, '}');
    return st;
}

/* All of them ---------------------------------------------------------------------------------- */

/* Appends the cursor's next record. */
static joust_status write_next(exporter *e, joust_family family, joust_cursor *cursor,
                               joust_buf *to, joust_error *err)
{
    joust_status st;
    if (family == JOUST_FAMILY_PAIRS) {
        joust_pair r;
        st = joust_cursor_next_pair(cursor, &r, err);
        return st == JOUST_OK ? write_pair(e, to, &r, err) : st;
    }
    if (family == JOUST_FAMILY_TRAJECTORIES) {
        joust_trajectory r;
        st = joust_cursor_next_trajectory(cursor, &r, err);
        if (st == JOUST_OK) {
            st = write_trajectory(e, to, &r, err);
            joust_trajectory_fini(&r);
        }
        return st;
    }
    joust_verdict r;
    st = joust_cursor_next_verdict(cursor, &r, err);
    if (st == JOUST_OK) {
        st = write_verdict(e, to, &r, err);
        joust_verdict_fini(&r);
    }
    return st;
}

static joust_status open_exporter(joust_store *store, joust_family family, bool provenance,
                                  exporter *ret, joust_error *err)
{
    *ret = (exporter){.store = store, .provenance = provenance};
    if (family != JOUST_FAMILY_PAIRS && family != JOUST_FAMILY_TRAJECTORIES &&
        family != JOUST_FAMILY_VERDICTS)
        return joust_fail(err, JOUST_INVALID, "%s can't be exported", joust_family_name(family));
    return joust_plan_create(joust_store_job(store), &ret->plan, err);
}

joust_status joust_export(joust_store *store, joust_family family,
                          const joust_export_options *options, joust_sink *sink, void *user,
                          uint64_t *ret_n, joust_error *err)
{
    exporter e;
    joust_cursor *cursor = NULL;
    joust_error why = {0};
    joust_buf line = {0};
    uint64_t n = 0;
    joust_key_range range =
        options->one_round ? joust_range_round(options->round) : joust_range_all();
    joust_status st = open_exporter(store, family, options->provenance, &e, err);
    if (st != JOUST_OK)
        return st;
    st = joust_cursor_open(store, family, &range, &cursor, &why);
    for (; st == JOUST_OK; n++) {
        joust_buf_clear(&line);
        st = write_next(&e, family, cursor, &line, &why);
        if (st != JOUST_OK)
            break;
        joust_buf_u8(&line, '\n');
        if ((st = joust_buf_status(&line, &why)) == JOUST_OK)
            st = sink(user, line.data, line.n, &why);
    }
    joust_cursor_close(&cursor);
    joust_buf_fini(&line);
    joust_free(e.plan);
    if (st != JOUST_END)
        return joust_fail(err, st, "%s", why.text);
    if (ret_n)
        *ret_n = n;
    return JOUST_OK;
}

static joust_status write_id(exporter *e, joust_family family, const joust_record_id *id,
                             joust_buf *to, joust_error *err)
{
    joust_status st;
    if (family == JOUST_FAMILY_PAIRS) {
        joust_pair r;
        st = joust_store_get_pair(e->store, &id->unit, id->index, &r, err);
        return st == JOUST_OK ? write_pair(e, to, &r, err) : st;
    }
    if (family == JOUST_FAMILY_TRAJECTORIES) {
        joust_trajectory r;
        st = joust_store_get_trajectory(e->store, &id->unit, id->index, &r, err);
        if (st == JOUST_OK) {
            st = write_trajectory(e, to, &r, err);
            joust_trajectory_fini(&r);
        }
        return st;
    }
    joust_verdict r;
    st = joust_store_get_verdict(e->store, id, &r, err);
    if (st == JOUST_OK) {
        st = write_verdict(e, to, &r, err);
        joust_verdict_fini(&r);
    }
    return st;
}

joust_status joust_export_one(joust_store *store, joust_family family, const joust_record_id *id,
                              bool provenance, joust_buf *to, joust_error *err)
{
    exporter e;
    joust_status st = open_exporter(store, family, provenance, &e, err);
    if (st != JOUST_OK)
        return st;
    joust_buf one = {0};
    st = write_id(&e, family, id, &one, err);
    if (st == JOUST_OK)
        joust_buf_add(to, one.data, one.n);
    joust_buf_fini(&one);
    joust_free(e.plan);
    return st == JOUST_OK ? joust_buf_status(to, err) : st;
}
