#include "proto/records.h"

#include <math.h> /* isfinite alone */
#include <string.h>

#include "proto/base/text.h"
#include "proto/codec_internal.h"
#include "proto/job.h"

void joust_prompt_fini(joust_prompt *r)
{
    joust_record_fini(&joust_prompt_type, r);
}

void joust_trajectory_fini(joust_trajectory *r)
{
    joust_record_fini(&joust_trajectory_type, r);
}

void joust_verdict_fini(joust_verdict *r)
{
    joust_record_fini(&joust_verdict_type, r);
}

void joust_stage_summary_fini(joust_stage_summary *r)
{
    joust_record_fini(&joust_stage_summary_type, r);
}

void joust_train_step_fini(joust_train_step *r)
{
    joust_record_fini(&joust_train_step_type, r);
}

void joust_provenance_fini(joust_provenance *r)
{
    joust_record_fini(&joust_provenance_type, r);
}

void joust_manifest_fini(joust_manifest *m)
{
    joust_record_fini(&joust_manifest_type, m);
}

/* ------------------------------------------------------------------------------------- validate */

static joust_status check_text(const char *text, bool required, const char *field, joust_error *err)
{
    size_t bad;
    if (!text)
        return required ? joust_fail(err, JOUST_INVALID, "%s: missing", field) : JOUST_OK;
    size_t n = strnlen(text, JOUST_MAX_TEXT_BYTES + 1);
    if (n > JOUST_MAX_TEXT_BYTES)
        return joust_fail(err, JOUST_INVALID, "%s: longer than %u bytes", field,
                          JOUST_MAX_TEXT_BYTES);
    if (!joust_text_is_utf8(text, n, &bad))
        return joust_fail(err, JOUST_INVALID, "%s: not UTF-8 at byte %zu", field, bad);
    return JOUST_OK;
}

/* A name held in the record itself: ended within its size, UTF-8, and not empty if required. */
static joust_status check_name(const char *name, size_t size, bool required, const char *field,
                               joust_error *err)
{
    size_t n = strnlen(name, size), bad;
    if (n == size)
        return joust_fail(err, JOUST_INVALID, "%s: longer than %zu bytes", field, size - 1);
    if (n == 0 && required)
        return joust_fail(err, JOUST_INVALID, "%s: empty", field);
    if (!joust_text_is_utf8(name, n, &bad))
        return joust_fail(err, JOUST_INVALID, "%s: not UTF-8 at byte %zu", field, bad);
    return JOUST_OK;
}

static joust_status check_finite(double v, const char *field, joust_error *err)
{
    return isfinite(v) ? JOUST_OK : joust_fail(err, JOUST_NOT_FINITE, "%s: not finite", field);
}

joust_status joust_prompt_validate(const joust_prompt *r, joust_error *err)
{
    joust_status st = check_text(r->text, true, "prompt.text", err);
    if (st == JOUST_OK)
        st = check_text(r->id, false, "prompt.id", err);
    if (st == JOUST_OK)
        st = check_text(r->reference, false, "prompt.reference", err);
    if (st == JOUST_OK)
        st = check_text(r->messages, false, "prompt.messages", err);
    if (st == JOUST_OK)
        st = check_finite(r->weight, "prompt.weight", err);
    if (st != JOUST_OK)
        return st;
    if (r->weight < 0)
        return joust_fail(err, JOUST_INVALID, "prompt.weight: below 0");
    joust_digest digest = joust_prompt_digest_of(r);
    if (!joust_digest_equal(&digest, &r->digest))
        return joust_fail(err, JOUST_INVALID, "prompt.digest: not that of its content");
    return JOUST_OK;
}

static joust_status check_logps(const float *logps, uint32_t n, const char *field, joust_error *err)
{
    if (n && !logps)
        return joust_fail(err, JOUST_INVALID, "%s: missing", field);
    for (uint32_t i = 0; i < n; i++)
        if (!isfinite(logps[i]))
            return joust_fail(err, JOUST_NOT_FINITE, "%s: not finite at token %u", field, i);
    return JOUST_OK;
}

static joust_status check_sampling(const joust_sampling *s, joust_error *err)
{
    if (!isfinite(s->temperature) || s->temperature < 0)
        return joust_fail(err, JOUST_INVALID, "trajectory.sampling.temperature: not 0 or above");
    if (!(s->top_p >= 0 && s->top_p <= 1) || !(s->min_p >= 0 && s->min_p <= 1))
        return joust_fail(err, JOUST_INVALID, "trajectory.sampling: top_p or min_p not in 0 … 1");
    if (!isfinite(s->repetition_penalty) || s->repetition_penalty < 0)
        return joust_fail(err, JOUST_INVALID,
                          "trajectory.sampling.repetition_penalty: not 0 or above");
    return JOUST_OK;
}

joust_status joust_trajectory_validate(const joust_trajectory *r, joust_error *err)
{
    if (r->n_prompt_tokens > JOUST_MAX_TOKENS || r->n_tokens > JOUST_MAX_TOKENS)
        return joust_fail(err, JOUST_INVALID, "trajectory: more than %u tokens", JOUST_MAX_TOKENS);
    if (r->sample >= JOUST_MAX_GROUP)
        return joust_fail(err, JOUST_INVALID, "trajectory.sample: %u, at most %u are allowed",
                          r->sample, JOUST_MAX_GROUP);
    if ((r->n_prompt_tokens && !r->prompt_tokens) || (r->n_tokens && !r->tokens))
        return joust_fail(err, JOUST_INVALID, "trajectory.tokens: missing");
    if (r->finish < JOUST_FINISH_STOP || r->finish > JOUST_FINISH_ABORTED)
        return joust_fail(err, JOUST_INVALID, "trajectory.finish: unknown value %d",
                          (int)r->finish);
    /* A server may give text alone. */
    if (r->finish == JOUST_FINISH_STOP && r->n_tokens == 0 && r->n_prompt_tokens > 0)
        return joust_fail(err, JOUST_INVALID, "trajectory.finish: stop without an end token");
    if (r->n_forced > r->n_tokens)
        return joust_fail(err, JOUST_INVALID, "trajectory.n_forced: %u of %u tokens", r->n_forced,
                          r->n_tokens);
    joust_status st = check_name(r->policy.lineage, sizeof(r->policy.lineage), true,
                                 "trajectory.policy.lineage", err);
    if (st == JOUST_OK)
        st = check_sampling(&r->sampling, err);
    if (st == JOUST_OK)
        st = check_logps(r->raw_logps, r->n_tokens, "trajectory.raw_logps", err);
    if (st == JOUST_OK)
        st = check_logps(r->logps, r->n_tokens, "trajectory.logps", err);
    return st == JOUST_OK ? check_text(r->text, true, "trajectory.text", err) : st;
}

static joust_status check_verdict_numbers(const joust_verdict *r, joust_error *err)
{
    if (r->n_labels > JOUST_MAX_LABELS || (r->n_labels && !r->label_logps))
        return joust_fail(err, JOUST_INVALID, "verdict.label_logps: missing or too many");
    for (uint32_t i = 0; i < r->n_labels; i++)
        if (!isfinite(r->label_logps[i]))
            return joust_fail(err, JOUST_NOT_FINITE, "verdict.label_logps: not finite at %u", i);
    joust_status st = check_finite(r->residual, "verdict.residual", err);
    return st == JOUST_OK && r->has_value ? check_finite(r->value, "verdict.value", err) : st;
}

joust_status joust_verdict_validate(const joust_verdict *r, joust_error *err)
{
    if (r->outcome < JOUST_OUTCOME_OK || r->outcome > JOUST_OUTCOME_SKIPPED)
        return joust_fail(err, JOUST_INVALID, "verdict.outcome: unknown value %d", (int)r->outcome);
    if (r->has_value && r->outcome != JOUST_OUTCOME_OK && r->outcome != JOUST_OUTCOME_TIE)
        return joust_fail(err, JOUST_INVALID, "verdict.value: there is none with outcome %s",
                          joust_outcome_name(r->outcome));
    if (r->sample >= JOUST_MAX_GROUP || (r->other != JOUST_NONE && r->other >= JOUST_MAX_GROUP))
        return joust_fail(err, JOUST_INVALID, "verdict.sample, verdict.other: at most %u",
                          JOUST_MAX_GROUP);
    if (r->other == r->sample)
        return joust_fail(err, JOUST_INVALID, "verdict.other: the same as verdict.sample");
    joust_status st = check_name(r->judge, sizeof(r->judge), true, "verdict.judge", err);
    if (st == JOUST_OK)
        st = check_name(r->kind, sizeof(r->kind), true, "verdict.kind", err);
    if (st == JOUST_OK)
        st = check_name(r->model.lineage, sizeof(r->model.lineage), false, "verdict.model.lineage",
                        err);
    if (st == JOUST_OK)
        st = check_verdict_numbers(r, err);
    return st == JOUST_OK ? check_text(r->text, true, "verdict.text", err) : st;
}

joust_status joust_pair_validate(const joust_pair *r, joust_error *err)
{
    joust_status st = check_name(r->rule, sizeof(r->rule), true, "pair.rule", err);
    if (st == JOUST_OK)
        st = check_name(r->policy.lineage, sizeof(r->policy.lineage), true, "pair.policy.lineage",
                        err);
    if (st == JOUST_OK)
        st = check_finite(r->chosen_reward, "pair.chosen_reward", err);
    if (st == JOUST_OK)
        st = check_finite(r->rejected_reward, "pair.rejected_reward", err);
    if (st != JOUST_OK)
        return st;
    if (!(r->margin > 0) || r->margin != r->chosen_reward - r->rejected_reward)
        return joust_fail(err, JOUST_INVALID,
                          "pair.margin: must be chosen_reward - rejected_reward, and above 0");
    if (r->chosen.round == r->rejected.round && r->chosen.stage == r->rejected.stage &&
        r->chosen.position == r->rejected.position && r->chosen.sample == r->rejected.sample)
        return joust_fail(err, JOUST_INVALID, "pair.rejected: the same trajectory as chosen");
    return JOUST_OK;
}

static joust_status check_file(const joust_manifest_file *f, joust_error *err)
{
    joust_status st = check_name(f->name, sizeof(f->name), true, "manifest.files.name", err);
    if (st != JOUST_OK)
        return st;
    if (f->name[0] == '.' || strchr(f->name, '/'))
        return joust_fail(err, JOUST_INVALID,
                          "manifest.files.name: '%s' begins with '.' or holds '/'", f->name);
    uint64_t n_chunks = f->n_bytes / JOUST_CHUNK_BYTES + (f->n_bytes % JOUST_CHUNK_BYTES != 0);
    if (n_chunks != f->n_chunks || n_chunks > JOUST_MAX_FILE_CHUNKS)
        return joust_fail(err, JOUST_INVALID, "manifest: %s: %u chunks for %llu bytes", f->name,
                          f->n_chunks, (unsigned long long)f->n_bytes);
    if (f->n_chunks && !f->chunks)
        return joust_fail(err, JOUST_INVALID, "manifest: %s: chunks missing", f->name);
    return JOUST_OK;
}

joust_status joust_manifest_validate(const joust_manifest *m, joust_error *err)
{
    if (m->n_files == 0 || m->n_files > JOUST_MAX_MANIFEST_FILES || !m->files)
        return joust_fail(err, JOUST_INVALID, "manifest.files: %u files, expected 1 … %u",
                          m->n_files, JOUST_MAX_MANIFEST_FILES);
    for (uint32_t i = 0; i < m->n_files; i++) {
        joust_status st = check_file(&m->files[i], err);
        if (st != JOUST_OK)
            return st;
        if (i && strcmp(m->files[i - 1].name, m->files[i].name) >= 0)
            return joust_fail(err, JOUST_INVALID, "manifest.files: '%s' isn't in order of names",
                              m->files[i].name);
    }
    return JOUST_OK;
}

/* ------------------------------------------------------------------------------------------ small
 * things */

/* A text or none: they must not have the same digest. */
static void add_optional(joust_hasher *h, const char *text)
{
    joust_hasher_u64(h, text != NULL);
    if (text)
        joust_hasher_field(h, text, strlen(text));
}

joust_digest joust_prompt_digest(const char *id, const char *text, const char *reference)
{
    joust_hasher h;
    joust_hasher_init(&h);
    add_optional(&h, id);
    add_optional(&h, text);
    add_optional(&h, reference);
    return joust_hasher_end(&h);
}

joust_digest joust_prompt_digest_of(const joust_prompt *r)
{
    joust_digest plain = joust_prompt_digest(r->id, r->text, r->reference);
    if (!r->messages)
        return plain;
    joust_hasher h;
    joust_hasher_init(&h);
    joust_hasher_add(&h, plain.bytes, sizeof(plain.bytes));
    add_optional(&h, r->messages);
    return joust_hasher_end(&h);
}

bool joust_prompt_is_plain(const joust_prompt *r)
{
    joust_buf one = {0};
    if (!r->messages)
        return true;
    joust_buf_text(&one, "{\"messages\":[{\"role\":\"user\",\"content\":");
    joust_json_string(&one, r->text, strlen(r->text));
    joust_buf_text(&one, "}]}");
    bool plain = joust_buf_ok(&one) && strcmp((const char *)one.data, r->messages) == 0;
    joust_buf_fini(&one);
    return plain;
}

bool joust_unit_key_equal(const joust_unit_key *a, const joust_unit_key *b)
{
    return a->round == b->round && a->stage == b->stage && a->position == b->position;
}

const char *joust_outcome_name(joust_outcome outcome)
{
    static const char *const names[] = {
        [JOUST_OUTCOME_OK] = "ok",
        [JOUST_OUTCOME_TIE] = "tie",
        [JOUST_OUTCOME_DISAGREE] = "disagree",
        [JOUST_OUTCOME_UNPARSABLE] = "unparsable",
        [JOUST_OUTCOME_REFUSED] = "refused",
        [JOUST_OUTCOME_TRUNCATED] = "truncated",
        [JOUST_OUTCOME_TIMEOUT] = "timeout",
        [JOUST_OUTCOME_TRANSPORT] = "transport",
        [JOUST_OUTCOME_SKIPPED] = "skipped",
    };
    return outcome >= JOUST_OUTCOME_OK && outcome <= JOUST_OUTCOME_SKIPPED ? names[outcome]
                                                                           : "unknown";
}

const char *joust_finish_name(joust_finish finish)
{
    static const char *const names[] = {
        [JOUST_FINISH_STOP] = "stop",
        [JOUST_FINISH_LENGTH] = "length",
        [JOUST_FINISH_STOP_STRING] = "stop_string",
        [JOUST_FINISH_ABORTED] = "aborted",
    };
    return finish >= JOUST_FINISH_STOP && finish <= JOUST_FINISH_ABORTED ? names[finish]
                                                                         : "unknown";
}
