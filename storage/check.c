#include "storage/check.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/codec.h"
#include "storage/lineage.h"
#include "storage/metrics.h"
#include "storage/tables.h"
#include "store_internal.h"

/* Which samples of a group have a verdict. */
typedef struct judged {
    joust_unit_key unit;
    uint32_t n; /* samples with a verdict */
    bool sample[JOUST_MAX_GROUP];
} judged;

typedef struct checker {
    joust_store *store;
    joust_plan plan;
    bool has_plan;
    joust_check_report *report;
    joust_buf bytes;     /* scratch */
    judged judged;       /* the group that the walk over verdicts is in */
    joust_status status; /* why the check can't go on */
    joust_error *err;
} checker;

/* Counts a finding. Once the check can't go on nothing is: what it couldn't read isn't bad. */
static void bad(checker *c, const char *format, ...) JOUST_PRINTF(2, 3);
static void bad(checker *c, const char *format, ...)
{
    va_list args;
    if (c->status != JOUST_OK || c->report->n_bad++ > 0)
        return;
    va_start(args, format);
    vsnprintf(c->report->first_bad, sizeof(c->report->first_bad), format, args);
    va_end(args);
}

static void bad_at(checker *c, joust_family family, const joust_cursor *cursor, const char *why)
{
    char text[JOUST_KEY_TEXT];
    bad(c, "%s: %s", joust_key_text(family, joust_cursor_key(cursor), text), why);
}

/* Whether a call found something bad (st is not JOUST_OK); out of memory is no finding but ends the check. */
static bool finding(checker *c, joust_status st, const joust_error *why)
{
    if (st == JOUST_NOMEM && c->status == JOUST_OK)
        c->status = joust_fail(c->err, st, "%s", why->text);
    return st != JOUST_OK && st != JOUST_NOMEM;
}

/* Judges what a cursor gave: whether to go on, and in *ret_good whether there is a record. */
static bool walk_on(checker *c, joust_family family, const joust_cursor *cursor, joust_status st,
                    const joust_error *why, bool *ret_good)
{
    *ret_good = st == JOUST_OK;
    if (c->status != JOUST_OK || st == JOUST_END)
        return false;
    if (st == JOUST_OK) {
        c->report->n_records[family]++;
        return true;
    }
    if (st == JOUST_CORRUPT) {
        bad(c, "%s", why->text);
        return joust_cursor_key(cursor).n > 0; /* else the rest of the family can't be read */
    }
    c->status = joust_fail(c->err, st, "%s", why->text);
    return false;
}

/* Reads a record's bytes; false if it isn't there, or is bad itself (found in its own family's walk). */
static bool fetch(checker *c, joust_family family, const joust_key *key)
{
    joust_error why;
    joust_status st = joust_db_get(c->store->db, family, key, &c->bytes, &why);
    if (st != JOUST_OK && st != JOUST_NOT_FOUND && st != JOUST_CORRUPT && c->status == JOUST_OK)
        c->status = joust_fail(c->err, st, "%s", why.text);
    return st == JOUST_OK;
}

static const joust_stage *stage_of(const checker *c, uint32_t stage, joust_stage_kind kind)
{
    if (!c->has_plan || stage >= c->plan.n_stages || c->plan.stages[stage].kind != kind)
        return NULL;
    return &c->plan.stages[stage];
}

/* Opens a walk; false (and status set) if that fails. */
static bool walk_open(checker *c, joust_family family, const joust_key_range *range,
                      joust_cursor **ret)
{
    if (c->status == JOUST_OK)
        c->status = joust_cursor_open(c->store, family, range, ret, c->err);
    return c->status == JOUST_OK;
}

/* Prompts -------------------------------------------------------------------------------------- */

static void check_prompts(checker *c)
{
    joust_key_range range = joust_range_all();
    joust_key by_id = joust_key_prompt_id(&(joust_digest){{0}}, 0);
    range.before.n = 1; /* the keys by line sort before those by id */
    range.before.bytes[0] = by_id.bytes[0];
    joust_cursor *cursor;
    joust_prompt r;
    joust_error why;
    bool good;
    if (!walk_open(c, JOUST_FAMILY_PROMPTS, &range, &cursor))
        return;
    while (walk_on(c, JOUST_FAMILY_PROMPTS, cursor, joust_cursor_next_prompt(cursor, &r, &why),
                   &why, &good)) {
        if (!good)
            continue;
        joust_key id = joust_key_prompt_id(&r.digest, r.occurrence);
        if (joust_prompt_validate(&r, &why) != JOUST_OK)
            bad_at(c, JOUST_FAMILY_PROMPTS, cursor, why.text);
        else if (!fetch(c, JOUST_FAMILY_PROMPTS, &id))
            bad_at(c, JOUST_FAMILY_PROMPTS, cursor, "it can't be found by its id");
        joust_prompt_fini(&r);
    }
    joust_cursor_close(&cursor);
}

/* Every id leads to a prompt of that id. */
static void check_prompt_ids(checker *c)
{
    joust_key_range range = joust_range_all();
    joust_key by_id = joust_key_prompt_id(&(joust_digest){{0}}, 0);
    range.first.n = 1;
    range.first.bytes[0] = by_id.bytes[0];
    joust_cursor *cursor;
    joust_error why;
    bool good;
    if (!walk_open(c, JOUST_FAMILY_PROMPTS, &range, &cursor))
        return;
    while (walk_on(c, JOUST_FAMILY_PROMPTS, cursor, joust_cursor_next(cursor, &why), &why, &good)) {
        joust_span key = joust_cursor_key(cursor);
        joust_prompt r;
        joust_digest digest;
        if (!good)
            continue;
        if (key.n != by_id.n) {
            bad_at(c, JOUST_FAMILY_PROMPTS, cursor, "the key has a wrong length");
            continue;
        }
        memcpy(digest.bytes, key.data + 1, sizeof(digest.bytes));
        uint32_t occurrence = joust_get_be32(key.data + 1 + sizeof(digest.bytes));
        joust_status st = joust_store_find_prompt(c->store, &digest, occurrence, &r, &why);
        if (finding(c, st, &why))
            bad_at(c, JOUST_FAMILY_PROMPTS, cursor, why.text);
        if (st != JOUST_OK)
            continue;
        if (!joust_digest_equal(&r.digest, &digest) || r.occurrence != occurrence)
            bad_at(c, JOUST_FAMILY_PROMPTS, cursor, "it leads to another prompt");
        joust_prompt_fini(&r);
    }
    joust_cursor_close(&cursor);
}

/* Trajectories --------------------------------------------------------------------------------- */

static void bad_unit(checker *c, joust_family family, const joust_unit_key *unit, const char *why,
                     uint32_t has, uint32_t wants)
{
    bad(c, "%s r%" PRIu32 ".s%" PRIu32 ".p%" PRIu64 ": %s: %" PRIu32 " of %" PRIu32,
        joust_family_name(family), unit->round, unit->stage, unit->position, why, has, wants);
}

static void end_group(checker *c, const joust_unit_key *unit, uint32_t n)
{
    const joust_stage *stage = stage_of(c, unit->stage, JOUST_STAGE_GENERATE);
    if (n > 0 && stage && n != stage->samples)
        bad_unit(c, JOUST_FAMILY_TRAJECTORIES, unit, "the group is not whole", n, stage->samples);
}

static void check_trajectory(checker *c, const joust_cursor *cursor, const joust_trajectory *r)
{
    joust_error why;
    joust_key prompt = joust_key_prompt_id(&r->prompt, r->prompt_occurrence);
    joust_key model = joust_key_model(r->policy.lineage, r->policy.version);
    if (joust_trajectory_validate(r, &why) != JOUST_OK)
        bad_at(c, JOUST_FAMILY_TRAJECTORIES, cursor, why.text);
    else if (c->has_plan && !stage_of(c, r->key.stage, JOUST_STAGE_GENERATE))
        bad_at(c, JOUST_FAMILY_TRAJECTORIES, cursor, "its stage generates nothing");
    else if (!fetch(c, JOUST_FAMILY_PROMPTS, &prompt))
        bad_at(c, JOUST_FAMILY_TRAJECTORIES, cursor, "its prompt is not in the store");
    else if (r->policy.version > 0 && !fetch(c, JOUST_FAMILY_MODELS, &model))
        bad_at(c, JOUST_FAMILY_TRAJECTORIES, cursor, "its policy version is not in the store");
}

static void check_trajectories(checker *c)
{
    joust_key_range all = joust_range_all();
    joust_cursor *cursor;
    joust_trajectory r;
    joust_unit_key unit = {0};
    joust_error why;
    uint32_t n = 0;
    bool good;
    if (!walk_open(c, JOUST_FAMILY_TRAJECTORIES, &all, &cursor))
        return;
    while (walk_on(c, JOUST_FAMILY_TRAJECTORIES, cursor,
                   joust_cursor_next_trajectory(cursor, &r, &why), &why, &good)) {
        joust_unit_key at;
        if (!joust_key_get_unit(joust_cursor_key(cursor), &at))
            continue; /* said already: no decoded record has such a key */
        if (!joust_unit_key_equal(&at, &unit)) {
            end_group(c, &unit, n);
            unit = at;
            n = 0;
        }
        n++; /* a damaged one is there too */
        if (!good)
            continue;
        check_trajectory(c, cursor, &r);
        joust_trajectory_fini(&r);
    }
    end_group(c, &unit, n);
    joust_cursor_close(&cursor);
}

/* Verdicts ------------------------------------------------------------------------------------- */

static void end_judged(checker *c, judged *j)
{
    const joust_stage *stage = stage_of(c, j->unit.stage, JOUST_STAGE_JUDGE);
    if (j->n > 0 && stage && j->n != stage->samples)
        bad_unit(c, JOUST_FAMILY_VERDICTS, &j->unit, "not every sample was judged", j->n,
                 stage->samples);
    memset(j->sample, 0, sizeof(j->sample));
    j->n = 0;
}

static void mark_judged(judged *j, uint32_t sample)
{
    if (sample >= JOUST_MAX_GROUP || j->sample[sample])
        return;
    j->sample[sample] = true;
    j->n++;
}

static bool has_trajectory(checker *c, const joust_verdict *r, uint32_t sample)
{
    joust_unit_key unit = {r->key.round, r->of_stage, r->key.position};
    joust_key key = joust_key_trajectory(&unit, sample);
    return fetch(c, JOUST_FAMILY_TRAJECTORIES, &key);
}

static void check_verdict(checker *c, const joust_cursor *cursor, const joust_verdict *r)
{
    joust_error why;
    const joust_stage *stage = stage_of(c, r->key.stage, JOUST_STAGE_JUDGE);
    if (joust_verdict_validate(r, &why) != JOUST_OK)
        bad_at(c, JOUST_FAMILY_VERDICTS, cursor, why.text);
    else if (c->has_plan && (!stage || stage->of != r->of_stage))
        bad_at(c, JOUST_FAMILY_VERDICTS, cursor, "its stage doesn't judge what it is about");
    else if (!has_trajectory(c, r, r->sample) ||
             (r->other != JOUST_NONE && !has_trajectory(c, r, r->other)))
        bad_at(c, JOUST_FAMILY_VERDICTS, cursor,
               "the trajectory it is about is missing or damaged");
}

static void check_verdicts(checker *c)
{
    joust_key_range all = joust_range_all();
    joust_cursor *cursor;
    joust_verdict r;
    joust_error why;
    bool good;
    judged *j = &c->judged;
    if (!walk_open(c, JOUST_FAMILY_VERDICTS, &all, &cursor))
        return;
    while (walk_on(c, JOUST_FAMILY_VERDICTS, cursor, joust_cursor_next_verdict(cursor, &r, &why),
                   &why, &good)) {
        joust_unit_key at;
        joust_span key = joust_cursor_key(cursor);
        if (key.n != 32 || !joust_key_get_unit(key, &at))
            continue;
        if (!joust_unit_key_equal(&at, &j->unit)) {
            end_judged(c, j);
            j->unit = at;
        }
        mark_judged(j, joust_get_be32(key.data + 16));
        mark_judged(j, joust_get_be32(key.data + 20)); /* JOUST_NONE marks nothing */
        if (!good)
            continue;
        check_verdict(c, cursor, &r);
        joust_verdict_fini(&r);
    }
    end_judged(c, j);
    joust_cursor_close(&cursor);
}

/* Pairs ---------------------------------------------------------------------------------------- */

/* What is wrong with one side of a pair; NULL if nothing. */
static const char *check_side(checker *c, const joust_pair *pair, const joust_trajectory_ref *ref)
{
    joust_unit_key unit = {ref->round, ref->stage, ref->position};
    joust_key key = joust_key_trajectory(&unit, ref->sample);
    joust_trajectory t;
    joust_error why;
    if (!fetch(c, JOUST_FAMILY_TRAJECTORIES, &key))
        return "a trajectory it was made of is missing or damaged";
    joust_digest actual = joust_digest_of(c->bytes.data, c->bytes.n);
    if (!joust_digest_equal(&actual, &ref->digest))
        return "a trajectory it was made of has another digest";
    joust_status st = joust_trajectory_decode(c->bytes.data, c->bytes.n, &t, &why);
    if (st != JOUST_OK)
        return finding(c, st, &why) ? "a trajectory it was made of doesn't decode" : NULL;
    bool same = joust_digest_equal(&t.prompt, &pair->prompt) &&
                t.prompt_occurrence == pair->prompt_occurrence;
    joust_trajectory_fini(&t);
    return same ? NULL : "a trajectory it was made of answers another prompt";
}

static const char *check_considered(checker *c, const joust_pair *r)
{
    joust_verdict *verdicts;
    joust_digest actual;
    uint32_t n;
    joust_error why;
    if (!c->has_plan)
        return NULL;
    joust_status st = joust_lineage_get_verdicts(c->store, &c->plan, &r->key, &verdicts, &n, &why);
    if (st == JOUST_INVALID)
        return "its stage pairs nothing";
    if (st != JOUST_OK)
        return finding(c, st, &why) ? "its verdicts can't be read" : NULL;
    st = joust_verdicts_digest(verdicts, n, &actual, &why);
    joust_verdicts_free(verdicts, n);
    if (st == JOUST_OK && joust_digest_equal(&actual, &r->verdicts))
        return NULL;
    return finding(c, st, &why) || st == JOUST_OK
               ? "the verdicts stored are not those it considered"
               : NULL;
}

static void check_pair(checker *c, const joust_cursor *cursor, const joust_pair *r)
{
    joust_error why;
    const char *wrong = NULL;
    if (joust_pair_validate(r, &why) != JOUST_OK)
        wrong = why.text;
    else if ((wrong = check_side(c, r, &r->chosen)) == NULL &&
             (wrong = check_side(c, r, &r->rejected)) == NULL)
        wrong = check_considered(c, r);
    if (wrong)
        bad_at(c, JOUST_FAMILY_PAIRS, cursor, wrong);
}

static void check_pairs(checker *c)
{
    joust_key_range all = joust_range_all();
    joust_cursor *cursor;
    joust_pair r;
    joust_error why;
    bool good;
    if (!walk_open(c, JOUST_FAMILY_PAIRS, &all, &cursor))
        return;
    while (walk_on(c, JOUST_FAMILY_PAIRS, cursor, joust_cursor_next_pair(cursor, &r, &why), &why,
                   &good))
        if (good)
            check_pair(c, cursor, &r);
    joust_cursor_close(&cursor);
}

/* Rounds and models ---------------------------------------------------------------------------- */

static void check_summary(checker *c, const joust_cursor *cursor, const joust_stage_summary *r)
{
    joust_key_range range = joust_range_stage(r->round, r->stage);
    if (!stage_of(c, r->stage, JOUST_STAGE_PAIR))
        return;
    for (uint32_t i = 0; i < r->n_metrics; i++) {
        uint64_t n;
        if (strcmp(r->metrics[i].name, JOUST_METRIC_PAIRS) != 0)
            continue;
        joust_status st = joust_store_count(c->store, JOUST_FAMILY_PAIRS, &range, &n, c->err);
        if (st != JOUST_OK)
            c->status = st;
        else if ((double)n != r->metrics[i].value)
            bad_at(c, JOUST_FAMILY_ROUNDS, cursor, "its number of pairs is not what is stored");
    }
}

static void check_summaries(checker *c)
{
    joust_key_range range = joust_range_round_field(JOUST_ROUND_SUMMARY);
    joust_cursor *cursor;
    joust_stage_summary r;
    joust_error why;
    bool good;
    if (!walk_open(c, JOUST_FAMILY_ROUNDS, &range, &cursor))
        return;
    while (walk_on(c, JOUST_FAMILY_ROUNDS, cursor,
                   joust_cursor_next_stage_summary(cursor, &r, &why), &why, &good)) {
        if (!good)
            continue;
        check_summary(c, cursor, &r);
        joust_stage_summary_fini(&r);
    }
    joust_cursor_close(&cursor);
}

static void check_steps(checker *c)
{
    joust_key_range range = joust_range_round_field(JOUST_ROUND_STEP);
    joust_cursor *cursor;
    joust_train_step r;
    joust_error why;
    uint32_t round = 0, stage = 0, expected = 0;
    bool good;
    if (!walk_open(c, JOUST_FAMILY_ROUNDS, &range, &cursor))
        return;
    while (walk_on(c, JOUST_FAMILY_ROUNDS, cursor, joust_cursor_next_train_step(cursor, &r, &why),
                   &why, &good)) {
        if (!good) {
            expected++; /* the damaged one is there */
            continue;
        }
        if (r.round != round || r.stage != stage)
            expected = 0;
        if (r.step != expected)
            bad_at(c, JOUST_FAMILY_ROUNDS, cursor, "the step before it is missing");
        round = r.round;
        stage = r.stage;
        expected = r.step + 1;
        joust_train_step_fini(&r);
    }
    joust_cursor_close(&cursor);
}

static void check_promotions(checker *c)
{
    joust_key_range range = joust_range_round_field(JOUST_ROUND_PROMOTION);
    joust_cursor *cursor;
    joust_promotion r;
    joust_error why;
    bool good;
    if (!walk_open(c, JOUST_FAMILY_ROUNDS, &range, &cursor))
        return;
    while (walk_on(c, JOUST_FAMILY_ROUNDS, cursor, joust_cursor_next_promotion(cursor, &r, &why),
                   &why, &good))
        if (good && r.next != r.candidate && r.next != r.best)
            bad_at(c, JOUST_FAMILY_ROUNDS, cursor,
                   "the next version is neither the candidate nor the best");
    joust_cursor_close(&cursor);
}

static void check_models(checker *c, joust_blobs *blobs)
{
    joust_key_range all = joust_range_all();
    joust_cursor *cursor;
    joust_model_version r;
    joust_error why;
    bool good;
    if (!walk_open(c, JOUST_FAMILY_MODELS, &all, &cursor))
        return;
    while (walk_on(c, JOUST_FAMILY_MODELS, cursor,
                   joust_cursor_next_model_version(cursor, &r, &why), &why, &good)) {
        if (!good || joust_digest_is_zero(&r.model.manifest))
            continue;
        if (!blobs)
            bad_at(c, JOUST_FAMILY_MODELS, cursor, "the store has no folder of blobs");
        else if (finding(c, joust_blobs_verify(blobs, &r.model.manifest, &why), &why))
            bad_at(c, JOUST_FAMILY_MODELS, cursor, why.text);
    }
    joust_cursor_close(&cursor);
}

static void check_provenance(checker *c)
{
    joust_key_range all = joust_range_all();
    joust_cursor *cursor;
    joust_provenance r;
    joust_unit_key unit;
    joust_error why;
    bool good;
    if (!walk_open(c, JOUST_FAMILY_PROVENANCE, &all, &cursor))
        return;
    while (walk_on(c, JOUST_FAMILY_PROVENANCE, cursor,
                   joust_cursor_next_provenance(cursor, &unit, &r, &why), &why, &good))
        if (good)
            joust_provenance_fini(&r);
    joust_cursor_close(&cursor);
}

/* Event log ------------------------------------------------------------------------------------ */

static void check_events(checker *c)
{
    joust_key_range all = joust_range_all();
    joust_cursor *cursor;
    joust_error why;
    uint64_t expected = 1;
    bool good;
    if (!walk_open(c, JOUST_FAMILY_EVENTS, &all, &cursor))
        return;
    while (walk_on(c, JOUST_FAMILY_EVENTS, cursor, joust_cursor_next(cursor, &why), &why, &good)) {
        uint64_t sequence = joust_key_get_sequence(joust_cursor_key(cursor));
        if (good && sequence != expected)
            bad(c, "events %" PRIu64 ": it is missing", expected);
        expected = sequence + 1;
    }
    joust_cursor_close(&cursor);
}

static void check_snapshots(checker *c)
{
    joust_key_range all = joust_range_all();
    joust_cursor *cursor;
    joust_error why;
    bool good;
    if (!walk_open(c, JOUST_FAMILY_SNAPSHOTS, &all, &cursor))
        return;
    while (walk_on(c, JOUST_FAMILY_SNAPSHOTS, cursor, joust_cursor_next(cursor, &why), &why, &good))
        if (good &&
            joust_key_get_sequence(joust_cursor_key(cursor)) > joust_store_last_event(c->store))
            bad_at(c, JOUST_FAMILY_SNAPSHOTS, cursor, "the event log ends before it");
    joust_cursor_close(&cursor);
}

/* Whole ---------------------------------------------------------------------------------------- */

static joust_status see_blob(void *user, const char *path, const char *wrong, joust_error *err)
{
    checker *c = user;
    (void)err;
    c->report->n_blobs++;
    if (wrong)
        bad(c, "blob %s: %s", path, wrong);
    return JOUST_OK;
}

static void check_job(checker *c)
{
    joust_key_range all = joust_range_all();
    joust_cursor *cursor;
    joust_error why;
    bool good;
    joust_status st = joust_plan_compile(&c->store->job, &c->plan, &why);
    c->has_plan = st == JOUST_OK;
    if (finding(c, st, &why))
        bad(c, "job encoding: it doesn't compile to stages: %s", why.text);
    if (!walk_open(c, JOUST_FAMILY_JOB, &all, &cursor))
        return;
    while (walk_on(c, JOUST_FAMILY_JOB, cursor, joust_cursor_next(cursor, &why), &why, &good))
        continue;
    joust_cursor_close(&cursor);
}

joust_status joust_store_check(joust_store *store, joust_check_report *ret, joust_error *err)
{
    joust_check_report report = {0};
    joust_blobs *blobs = NULL;
    joust_error why;
    checker *c = joust_calloc(1, sizeof(*c)); /* a plan is too large for the stack */
    if (!c)
        return joust_fail(err, JOUST_NOMEM, "check: out of memory");
    c->store = store;
    c->report = &report;
    c->err = err;
    if (joust_blobs_open(store->dir, false, &blobs, &why) == JOUST_NOMEM)
        c->status = joust_fail(err, JOUST_NOMEM, "check: out of memory");
    check_job(c);
    check_prompts(c);
    check_prompt_ids(c);
    check_trajectories(c);
    check_verdicts(c);
    check_pairs(c);
    check_summaries(c);
    check_steps(c);
    check_promotions(c);
    check_models(c, blobs);
    check_provenance(c);
    check_events(c);
    check_snapshots(c);
    if (c->status == JOUST_OK && blobs)
        c->status = joust_blobs_walk(blobs, see_blob, c, err);
    joust_blobs_close(&blobs);
    joust_buf_fini(&c->bytes);
    joust_status st = c->status;
    joust_free(c);
    if (st == JOUST_OK)
        *ret = report;
    return st;
}
