/* The tables of the records (proto/records.h), and the public functions over them. */
#include "proto/codec.h"

#include "joust.pb-c.h"
#include "proto/codec_internal.h"

#define MAX_ROWS (1u << 20) /* rows of one training step */

/* clang-format off: one line a field */
static const joust_field unit_key_fields[] = {VALUE(joust_unit_key, 1, round),
                                              VALUE(joust_unit_key, 2, stage),
                                              VALUE(joust_unit_key, 3, position)};
const joust_record_type joust_unit_key_type =
    RECORD_TYPE(joust_unit_key, joust__wire__unit_key__descriptor, unit_key_fields);

static const joust_field prompt_fields[] = {DIGEST(joust_prompt, 1, digest),
                                            VALUE(joust_prompt, 2, occurrence),
                                            TEXT(joust_prompt, 3, id, JOUST_MAX_TEXT_BYTES),
                                            TEXT(joust_prompt, 4, text, JOUST_MAX_TEXT_BYTES),
                                            TEXT(joust_prompt, 5, reference, JOUST_MAX_TEXT_BYTES),
                                            VALUE(joust_prompt, 6, weight),
                                            TEXT(joust_prompt, 100, messages, JOUST_MAX_TEXT_BYTES)};
const joust_record_type joust_prompt_type =
    RECORD_TYPE(joust_prompt, joust__wire__prompt__descriptor, prompt_fields);

static const joust_field sampling_fields[] = {VALUE(joust_sampling, 1, temperature),
                                              VALUE(joust_sampling, 2, top_p),
                                              VALUE(joust_sampling, 3, min_p),
                                              VALUE(joust_sampling, 4, top_k),
                                              VALUE(joust_sampling, 5, max_tokens),
                                              VALUE_OR_0(joust_sampling, 6, min_tokens),
                                              VALUE_OR_0(joust_sampling, 7, repetition_penalty),
                                              VALUE_OR_0(joust_sampling, 8, stop)};
const joust_record_type joust_sampling_type =
    RECORD_TYPE(joust_sampling, joust__wire__sampling__descriptor, sampling_fields);

static const joust_field model_ref_fields[] = {
    NAME(joust_model_ref, 1, lineage), VALUE(joust_model_ref, 2, version),
    DIGEST(joust_model_ref, 3, manifest), DIGEST(joust_model_ref, 4, weights)};
const joust_record_type joust_model_ref_type =
    RECORD_TYPE(joust_model_ref, joust__wire__model_ref__descriptor, model_ref_fields);

static const joust_field stream_fields[] = {
    VALUE(joust_stream, 1, key[0]), VALUE(joust_stream, 2, key[1]),
    VALUE(joust_stream, 3, counter[0]), VALUE(joust_stream, 4, counter[1])};
static const joust_record_type stream_type =
    RECORD_TYPE(joust_stream, joust__wire__stream__descriptor, stream_fields);

static const joust_field trajectory_fields[] = {
    RECORD(joust_trajectory, 1, key, joust_unit_key_type),
    VALUE(joust_trajectory, 2, sample),
    DIGEST(joust_trajectory, 3, prompt),
    VALUE(joust_trajectory, 4, prompt_occurrence),
    RECORD(joust_trajectory, 5, policy, joust_model_ref_type),
    RECORD(joust_trajectory, 6, sampling, joust_sampling_type),
    RECORD(joust_trajectory, 7, stream, stream_type),
    NUMBERS(joust_trajectory, 8, prompt_tokens, n_prompt_tokens, JOUST_MAX_TOKENS),
    NUMBERS(joust_trajectory, 9, tokens, n_tokens, JOUST_MAX_TOKENS),
    NUMBERS_TOO(joust_trajectory, 10, raw_logps, n_tokens, JOUST_MAX_TOKENS),
    NUMBERS_TOO(joust_trajectory, 11, logps, n_tokens, JOUST_MAX_TOKENS),
    ENUM(joust_trajectory, 12, finish, JOUST_FINISH_ABORTED),
    TEXT(joust_trajectory, 13, text, JOUST_MAX_TEXT_BYTES),
    VALUE_OR_0(joust_trajectory, 14, n_forced),
    VALUE_OR_0(joust_trajectory, 15, n_cut)};
const joust_record_type joust_trajectory_type =
    RECORD_TYPE(joust_trajectory, joust__wire__trajectory__descriptor, trajectory_fields);

static const joust_field verdict_fields[] = {
    RECORD(joust_verdict, 1, key, joust_unit_key_type),
    VALUE(joust_verdict, 2, of_stage),
    VALUE(joust_verdict, 3, sample),
    VALUE(joust_verdict, 4, other),
    VALUE(joust_verdict, 5, order),
    VALUE(joust_verdict, 6, vote),
    NAME(joust_verdict, 7, judge),
    NAME(joust_verdict, 8, kind),
    ENUM(joust_verdict, 9, outcome, JOUST_OUTCOME_SKIPPED),
    VALUE_IF(joust_verdict, 10, value, has_value),
    NUMBERS(joust_verdict, 11, label_logps, n_labels, JOUST_MAX_LABELS),
    VALUE(joust_verdict, 12, residual),
    RECORD(joust_verdict, 13, model, joust_model_ref_type),
    DIGEST(joust_verdict, 14, rendered),
    DIGEST(joust_verdict, 15, template_digest),
    VALUE(joust_verdict, 16, n_prompt_tokens),
    VALUE(joust_verdict, 17, n_tokens),
    TEXT(joust_verdict, 18, text, JOUST_MAX_TEXT_BYTES),
    DIGEST_OR_0(joust_verdict, 19, fingerprint)};
const joust_record_type joust_verdict_type =
    RECORD_TYPE(joust_verdict, joust__wire__verdict__descriptor, verdict_fields);

static const joust_field trajectory_ref_fields[] = {
    VALUE(joust_trajectory_ref, 1, round), VALUE(joust_trajectory_ref, 2, stage),
    VALUE(joust_trajectory_ref, 3, position), VALUE(joust_trajectory_ref, 4, sample),
    DIGEST(joust_trajectory_ref, 5, digest)};
static const joust_record_type trajectory_ref_type = RECORD_TYPE(
    joust_trajectory_ref, joust__wire__trajectory_ref__descriptor, trajectory_ref_fields);

static const joust_field pair_fields[] = {RECORD(joust_pair, 1, key, joust_unit_key_type),
                                          VALUE(joust_pair, 2, index),
                                          DIGEST(joust_pair, 3, prompt),
                                          VALUE(joust_pair, 4, prompt_occurrence),
                                          RECORD(joust_pair, 5, chosen, trajectory_ref_type),
                                          RECORD(joust_pair, 6, rejected, trajectory_ref_type),
                                          VALUE(joust_pair, 7, chosen_reward),
                                          VALUE(joust_pair, 8, rejected_reward),
                                          VALUE(joust_pair, 9, margin),
                                          NAME(joust_pair, 10, rule),
                                          DIGEST(joust_pair, 11, verdicts),
                                          RECORD(joust_pair, 12, policy, joust_model_ref_type)};
const joust_record_type joust_pair_type =
    RECORD_TYPE(joust_pair, joust__wire__pair__descriptor, pair_fields);

static const joust_field metric_fields[] = {
    NAME(joust_metric, 1, name), VALUE(joust_metric, 2, value), VALUE(joust_metric, 3, low),
    VALUE(joust_metric, 4, high), VALUE(joust_metric, 5, n)};
const joust_record_type joust_metric_type =
    RECORD_TYPE(joust_metric, joust__wire__metric__descriptor, metric_fields);

static const joust_field stage_summary_fields[] = {
    VALUE(joust_stage_summary, 1, round), VALUE(joust_stage_summary, 2, stage),
    RECORDS(joust_stage_summary, 3, metrics, n_metrics, JOUST_MAX_METRICS, joust_metric_type)};
const joust_record_type joust_stage_summary_type =
    RECORD_TYPE(joust_stage_summary, joust__wire__stage_summary__descriptor, stage_summary_fields);

static const joust_field train_step_fields[] = {
    VALUE(joust_train_step, 1, round),
    VALUE(joust_train_step, 2, stage),
    VALUE(joust_train_step, 3, step),
    VALUE(joust_train_step, 4, loss),
    VALUE(joust_train_step, 5, gradient_norm),
    VALUE(joust_train_step, 6, learning_rate),
    VALUE(joust_train_step, 7, accuracy),
    VALUE(joust_train_step, 8, chosen_reward),
    VALUE(joust_train_step, 9, rejected_reward),
    NUMBERS(joust_train_step, 10, rows, n_rows, MAX_ROWS),
    NUMBERS(joust_train_step, 11, credited, n_credited, MAX_ROWS),
    NUMBERS(joust_train_step, 12, advantages, n_credit, JOUST_MAX_STEP_CREDIT),
    NUMBERS_TOO(joust_train_step, 13, returns, n_credit, JOUST_MAX_STEP_CREDIT)};
const joust_record_type joust_train_step_type =
    RECORD_TYPE(joust_train_step, joust__wire__train_step__descriptor, train_step_fields);

static const joust_field model_version_fields[] = {
    RECORD(joust_model_version, 1, model, joust_model_ref_type),
    VALUE(joust_model_version, 2, parent), VALUE(joust_model_version, 3, round),
    VALUE(joust_model_version, 4, stage), VALUE(joust_model_version, 5, n_steps)};
const joust_record_type joust_model_version_type =
    RECORD_TYPE(joust_model_version, joust__wire__model_version__descriptor, model_version_fields);

static const joust_field promotion_fields[] = {
    VALUE(joust_promotion, 1, round),
    VALUE(joust_promotion, 2, stage),
    VALUE(joust_promotion, 3, candidate),
    VALUE(joust_promotion, 4, best),
    VALUE(joust_promotion, 5, promoted),
    RECORD(joust_promotion, 6, difference, joust_metric_type),
    VALUE(joust_promotion, 7, candidate_value),
    VALUE(joust_promotion, 8, best_value),
    VALUE(joust_promotion, 9, next)};
const joust_record_type joust_promotion_type =
    RECORD_TYPE(joust_promotion, joust__wire__promotion__descriptor, promotion_fields);

static const joust_field served_fields[] = {
    TEXT(joust_served, 1, url, JOUST_MAX_URL_BYTES), VALUE(joust_served, 2, sample),
    VALUE(joust_served, 3, tries),                   VALUE(joust_served, 4, latency_us),
    VALUE(joust_served, 5, prompt_tokens),           VALUE(joust_served, 6, tokens),
    DIGEST(joust_served, 7, fingerprint)};
static const joust_record_type served_type =
    RECORD_TYPE(joust_served, joust__wire__served__descriptor, served_fields);

static const joust_field provenance_fields[] = {
    NAME(joust_provenance, 1, peer),         NAME(joust_provenance, 2, host),
    VALUE(joust_provenance, 3, epoch),       VALUE(joust_provenance, 4, lease),
    VALUE(joust_provenance, 5, attempt),     VALUE(joust_provenance, 6, started_wall_ms),
    VALUE(joust_provenance, 7, duration_us), VALUE(joust_provenance, 8, n_tokens),
    RECORDS(joust_provenance, 9, served, n_served, JOUST_MAX_GROUP, served_type)};
const joust_record_type joust_provenance_type =
    RECORD_TYPE(joust_provenance, joust__wire__provenance__descriptor, provenance_fields);

static const joust_field manifest_file_fields[] = {
    NAME(joust_manifest_file, 1, name), VALUE(joust_manifest_file, 2, n_bytes),
    DIGEST(joust_manifest_file, 3, digest),
    DIGESTS(joust_manifest_file, 4, chunks, n_chunks, JOUST_MAX_FILE_CHUNKS)};
static const joust_record_type manifest_file_type =
    RECORD_TYPE(joust_manifest_file, joust__wire__manifest_file__descriptor, manifest_file_fields);

static const joust_field manifest_fields[] = {
    RECORDS(joust_manifest, 1, files, n_files, JOUST_MAX_MANIFEST_FILES, manifest_file_type)};
const joust_record_type joust_manifest_type =
    RECORD_TYPE(joust_manifest, joust__wire__manifest__descriptor, manifest_fields);
/* clang-format on */

#define RECORD_CODEC(record)                                                                       \
    joust_status joust_##record##_encode(const joust_##record *r, joust_buf *to, joust_error *err) \
    {                                                                                              \
        return joust_record_encode(&joust_##record##_type, r, to, err);                            \
    }                                                                                              \
    joust_status joust_##record##_decode(const void *data, size_t n, joust_##record *ret,          \
                                         joust_error *err)                                         \
    {                                                                                              \
        return joust_record_decode(&joust_##record##_type, data, n, ret, err);                     \
    }

RECORD_CODEC(prompt)
RECORD_CODEC(trajectory)
RECORD_CODEC(verdict)
RECORD_CODEC(pair)
RECORD_CODEC(metric)
RECORD_CODEC(stage_summary)
RECORD_CODEC(train_step)
RECORD_CODEC(model_version)
RECORD_CODEC(promotion)
RECORD_CODEC(provenance)
RECORD_CODEC(manifest)

static joust_status digest_of_record(const joust_record_type *type, const void *record,
                                     joust_digest *ret, joust_error *err)
{
    joust_buf bytes = {0};
    joust_status st = joust_record_encode(type, record, &bytes, err);
    if (st == JOUST_OK)
        *ret = joust_digest_of(bytes.data, bytes.n);
    joust_buf_fini(&bytes);
    return st;
}

joust_status joust_trajectory_digest(const joust_trajectory *r, joust_digest *ret, joust_error *err)
{
    return digest_of_record(&joust_trajectory_type, r, ret, err);
}

joust_status joust_manifest_digest(const joust_manifest *m, joust_digest *ret, joust_error *err)
{
    return digest_of_record(&joust_manifest_type, m, ret, err);
}

joust_status joust_verdicts_digest(const joust_verdict *verdicts, uint32_t n, joust_digest *ret,
                                   joust_error *err)
{
    joust_hasher h;
    joust_buf bytes = {0};
    joust_status st = JOUST_OK;
    joust_hasher_init(&h);
    for (uint32_t i = 0; i < n && st == JOUST_OK; i++) {
        joust_buf_clear(&bytes);
        st = joust_verdict_encode(&verdicts[i], &bytes, err);
        if (st == JOUST_OK)
            joust_hasher_field(&h, bytes.data, bytes.n);
    }
    joust_buf_fini(&bytes);
    if (st == JOUST_OK)
        *ret = joust_hasher_end(&h);
    return st;
}
