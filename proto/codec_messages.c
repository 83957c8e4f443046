/* The tables of the messages (proto/messages.h): a body is the record of its type. */
#include "proto/codec.h"

#include <string.h>

#include "joust.pb-c.h"
#include "proto/codec_internal.h"

#define MAX_STEPS    65536u /* training steps in one message */
#define MAX_VERDICTS 65536u /* of one group */

/* clang-format off: one line a field */
static const joust_field hello_fields[] = {
    VALUE(joust_msg_hello, 1, version),
    ENUM(joust_msg_hello, 2, role, JOUST_PEER_JUDGE),
    NAME(joust_msg_hello, 3, name),
    NAME(joust_msg_hello, 4, host),
    VALUE(joust_msg_hello, 5, instance),
    NAME(joust_msg_hello, 6, numeric_class),
    DIGEST(joust_msg_hello, 7, job),
    VALUE(joust_msg_hello, 8, epoch),
    VALUE(joust_msg_hello, 9, credit),
    VALUE(joust_msg_hello, 10, threads),
    VALUE(joust_msg_hello, 11, can_train),
    RECORDS(joust_msg_hello, 12, holding, n_holding, JOUST_MAX_UNITS, joust_unit_key_type)};
static const joust_record_type hello_type =
    RECORD_TYPE(joust_msg_hello, joust__wire__hello__descriptor, hello_fields);

static const joust_field hello_ack_fields[] = {
    VALUE(joust_msg_hello_ack, 1, epoch), DIGEST(joust_msg_hello_ack, 2, job_digest),
    BYTES(joust_msg_hello_ack, 3, job, n_job, JOUST_MAX_FRAME_BYTES),
    VALUE(joust_msg_hello_ack, 4, heartbeat_ms), VALUE(joust_msg_hello_ack, 5, grace_ms)};
static const joust_record_type hello_ack_type =
    RECORD_TYPE(joust_msg_hello_ack, joust__wire__hello_ack__descriptor, hello_ack_fields);

static const joust_field progress_fields[] = {RECORD(joust_progress, 1, unit, joust_unit_key_type),
                                              VALUE(joust_progress, 2, done)};
static const joust_record_type progress_type =
    RECORD_TYPE(joust_progress, joust__wire__progress__descriptor, progress_fields);

static const joust_field server_fields[] = {
    NAME(joust_server_status, 1, model),      NAME(joust_server_status, 2, url),
    NAME(joust_server_status, 3, state),      NAME(joust_server_status, 4, probe),
    NAME(joust_server_status, 5, last_error), VALUE(joust_server_status, 6, ready),
    VALUE(joust_server_status, 7, in_flight), VALUE(joust_server_status, 8, answers),
    VALUE(joust_server_status, 9, failures)};
static const joust_record_type server_type =
    RECORD_TYPE(joust_server_status, joust__wire__server_status__descriptor, server_fields);

static const joust_field heartbeat_fields[] = {
    VALUE(joust_msg_heartbeat, 1, sequence),
    RECORDS(joust_msg_heartbeat, 2, progress, n_progress, JOUST_MAX_UNITS, progress_type),
    RECORDS(joust_msg_heartbeat, 3, servers, n_servers, JOUST_MAX_SERVER_STATUS, server_type)};
static const joust_record_type heartbeat_type =
    RECORD_TYPE(joust_msg_heartbeat, joust__wire__heartbeat__descriptor, heartbeat_fields);

static const joust_field text_fields[] = {VALUE(joust_msg_text, 1, code),
                                          TEXT(joust_msg_text, 2, text, JOUST_MAX_TEXT_BYTES)};
static const joust_record_type text_type =
    RECORD_TYPE(joust_msg_text, joust__wire__text__descriptor, text_fields);

static const joust_field credit_fields[] = {VALUE(joust_msg_credit, 1, credit)};
static const joust_record_type credit_type =
    RECORD_TYPE(joust_msg_credit, joust__wire__credit__descriptor, credit_fields);

static const joust_field lease_unit_fields[] = {
    RECORD(joust_lease_unit, 1, unit, joust_unit_key_type),
    VALUE(joust_lease_unit, 2, lease),
    VALUE(joust_lease_unit, 3, attempt),
    VALUE(joust_lease_unit, 4, deadline_ms),
    RECORD(joust_lease_unit, 5, model, joust_model_ref_type),
    RECORD_WITH(joust_lease_unit, 6, prompt, prompt.text, joust_prompt_type),
    VALUE(joust_lease_unit, 7, samples),
    RECORDS(joust_lease_unit, 8, trajectories, n_trajectories, JOUST_MAX_GROUP,
            joust_trajectory_type),
    VALUE(joust_lease_unit, 9, out_version),
    RECORD(joust_lease_unit, 10, reference, joust_model_ref_type),
    VALUE(joust_lease_unit, 11, n_rows),
    DIGEST(joust_lease_unit, 12, data),
    VALUE(joust_lease_unit, 13, resume_step),
    DIGEST(joust_lease_unit, 14, resume),
    RECORD_IF(joust_lease_unit, 15, partner, has_partner, joust_model_ref_type)};
const joust_record_type joust_lease_unit_type =
    RECORD_TYPE(joust_lease_unit, joust__wire__lease_unit__descriptor, lease_unit_fields);

static const joust_field lease_fields[] = {
    RECORDS(joust_msg_lease, 1, units, n, JOUST_MAX_UNITS, joust_lease_unit_type)};
static const joust_record_type lease_type =
    RECORD_TYPE(joust_msg_lease, joust__wire__lease__descriptor, lease_fields);

static const joust_field unit_id_fields[] = {RECORD(joust_unit_id, 1, unit, joust_unit_key_type),
                                             VALUE(joust_unit_id, 2, lease),
                                             VALUE(joust_unit_id, 3, attempt)};
static const joust_record_type unit_id_type =
    RECORD_TYPE(joust_unit_id, joust__wire__unit_id__descriptor, unit_id_fields);

static const joust_field units_fields[] = {
    RECORDS(joust_msg_units, 1, units, n, JOUST_MAX_UNITS, unit_id_type)};
static const joust_record_type units_type =
    RECORD_TYPE(joust_msg_units, joust__wire__units__descriptor, units_fields);

static const joust_field unit_result_fields[] = {
    RECORD(joust_unit_result, 1, id, unit_id_type),
    RECORD(joust_unit_result, 2, provenance, joust_provenance_type),
    RECORDS(joust_unit_result, 3, trajectories, n_trajectories, JOUST_MAX_GROUP,
            joust_trajectory_type),
    RECORDS(joust_unit_result, 4, verdicts, n_verdicts, MAX_VERDICTS, joust_verdict_type),
    RECORD_IF(joust_unit_result, 5, model, has_model, joust_model_version_type),
    RECORDS(joust_unit_result, 6, steps, n_steps, MAX_STEPS, joust_train_step_type),
    RECORDS(joust_unit_result, 7, metrics, n_metrics, JOUST_MAX_METRICS, joust_metric_type)};
const joust_record_type joust_unit_result_type =
    RECORD_TYPE(joust_unit_result, joust__wire__unit_result__descriptor, unit_result_fields);

static const joust_field result_fields[] = {
    RECORDS(joust_msg_result, 1, units, n, JOUST_MAX_UNITS, joust_unit_result_type)};
static const joust_record_type result_type =
    RECORD_TYPE(joust_msg_result, joust__wire__result__descriptor, result_fields);

static const joust_field failed_fields[] = {RECORD(joust_msg_failed, 1, id, unit_id_type),
                                            VALUE(joust_msg_failed, 2, code),
                                            TEXT(joust_msg_failed, 3, text, JOUST_MAX_TEXT_BYTES)};
static const joust_record_type failed_type =
    RECORD_TYPE(joust_msg_failed, joust__wire__failed__descriptor, failed_fields);

static const joust_field rows_get_fields[] = {RECORD(joust_msg_rows_get, 1, id, unit_id_type),
                                              VALUE(joust_msg_rows_get, 2, first),
                                              VALUE(joust_msg_rows_get, 3, n)};
static const joust_record_type rows_get_type =
    RECORD_TYPE(joust_msg_rows_get, joust__wire__rows_get__descriptor, rows_get_fields);

static const joust_field row_pair_fields[] = {
    VALUE(joust_train_row_pair, 1, ordinal),
    NUMBERS(joust_train_row_pair, 2, prompt_tokens, n_prompt_tokens, JOUST_MAX_TOKENS),
    NUMBERS(joust_train_row_pair, 3, chosen, n_chosen, JOUST_MAX_TOKENS),
    NUMBERS(joust_train_row_pair, 4, rejected, n_rejected, JOUST_MAX_TOKENS),
    NUMBERS_TOO(joust_train_row_pair, 5, chosen_logps, n_chosen, JOUST_MAX_TOKENS),
    NUMBERS_TOO(joust_train_row_pair, 6, rejected_logps, n_rejected, JOUST_MAX_TOKENS),
    VALUE(joust_train_row_pair, 7, chosen_policy),
    VALUE(joust_train_row_pair, 8, rejected_policy),
    VALUE(joust_train_row_pair, 9, margin)};
static const joust_record_type row_pair_type =
    RECORD_TYPE(joust_train_row_pair, joust__wire__train_row_pair__descriptor, row_pair_fields);

static const joust_field rows_fields[] = {
    RECORD(joust_msg_rows, 1, id, unit_id_type), VALUE(joust_msg_rows, 2, first),
    RECORDS(joust_msg_rows, 3, rows, n, JOUST_MAX_UNITS, row_pair_type)};
static const joust_record_type rows_type =
    RECORD_TYPE(joust_msg_rows, joust__wire__rows__descriptor, rows_fields);

static const joust_field train_progress_fields[] = {
    RECORD(joust_msg_train_progress, 1, id, unit_id_type), VALUE(joust_msg_train_progress, 2, step),
    DIGEST(joust_msg_train_progress, 3, state),
    RECORDS(joust_msg_train_progress, 4, steps, n_steps, MAX_STEPS, joust_train_step_type)};
static const joust_record_type train_progress_type = RECORD_TYPE(
    joust_msg_train_progress, joust__wire__train_progress__descriptor, train_progress_fields);

static const joust_field progress_ack_fields[] = {
    RECORD(joust_msg_progress_ack, 1, id, unit_id_type), VALUE(joust_msg_progress_ack, 2, step)};
static const joust_record_type progress_ack_type =
    RECORD_TYPE(joust_msg_progress_ack, joust__wire__progress_ack__descriptor, progress_ack_fields);

static const joust_field digests_fields[] = {
    DIGESTS(joust_msg_digests, 1, digests, n, JOUST_MAX_FILE_CHUNKS)};
static const joust_record_type digests_type =
    RECORD_TYPE(joust_msg_digests, joust__wire__digests__descriptor, digests_fields);

static const joust_field chunk_fields[] = {
    DIGEST(joust_msg_chunk, 1, digest), BYTES(joust_msg_chunk, 2, data, n, JOUST_MAX_FRAME_BYTES)};
static const joust_record_type chunk_type =
    RECORD_TYPE(joust_msg_chunk, joust__wire__chunk__descriptor, chunk_fields);

static const joust_record_type *const by_type[] = {
    [JOUST_MSG_HELLO] = &hello_type,         [JOUST_MSG_HELLO_ACK] = &hello_ack_type,
    [JOUST_MSG_HEARTBEAT] = &heartbeat_type, [JOUST_MSG_GOODBYE] = &text_type,
    [JOUST_MSG_ERROR] = &text_type,          [JOUST_MSG_CREDIT] = &credit_type,
    [JOUST_MSG_LEASE] = &lease_type,         [JOUST_MSG_REVOKE] = &units_type,
    [JOUST_MSG_RESULT] = &result_type,       [JOUST_MSG_RESULT_ACK] = &units_type,
    [JOUST_MSG_FAILED] = &failed_type,       [JOUST_MSG_ROWS_GET] = &rows_get_type,
    [JOUST_MSG_ROWS] = &rows_type,           [JOUST_MSG_TRAIN_PROGRESS] = &train_progress_type,
    [JOUST_MSG_CHUNK_QUERY] = &digests_type, [JOUST_MSG_CHUNK_MISSING] = &digests_type,
    [JOUST_MSG_CHUNK_PUT] = &chunk_type,     [JOUST_MSG_CHUNK_ACK] = &digests_type,
    [JOUST_MSG_CHUNK_GET] = &digests_type,   [JOUST_MSG_CHUNK] = &chunk_type,
    [JOUST_MSG_PROGRESS_ACK] = &progress_ack_type};
/* clang-format on */

const joust_record_type *joust_message_record_type(uint32_t type)
{
    return type < sizeof(by_type) / sizeof(*by_type) ? by_type[type] : NULL;
}

joust_status joust_message_encode(const joust_message *m, joust_buf *body, joust_error *err)
{
    const joust_record_type *type = joust_message_record_type((uint32_t)m->type);
    if (!type)
        return joust_fail(err, JOUST_INVALID, "message: unknown type %u", (unsigned)m->type);
    size_t before = body->n;
    joust_status st = joust_record_encode(type, &m->u, body, err);
    if (st == JOUST_OK && body->n - before > JOUST_MAX_FRAME_BYTES) {
        st = joust_fail(err, JOUST_INVALID, "%s: body of %zu bytes, at most %u are allowed",
                        joust_message_name(m->type), body->n - before, JOUST_MAX_FRAME_BYTES);
        body->n = before;
    }
    return st == JOUST_OK ? st : joust_blame(err, st, "%s", joust_message_name(m->type));
}

joust_status joust_message_decode(uint32_t type, uint64_t epoch, const void *body, size_t n,
                                  joust_message *ret, joust_error *err)
{
    const joust_record_type *record = joust_message_record_type(type);
    if (!record)
        return joust_fail(err, JOUST_UNSUPPORTED, "message of type %u: this version has none",
                          (unsigned)type);
    if (n > JOUST_MAX_FRAME_BYTES)
        return joust_fail(err, JOUST_TOO_LARGE, "%s: body of %zu bytes, at most %u are allowed",
                          joust_message_name((joust_message_type)type), n, JOUST_MAX_FRAME_BYTES);
    joust_message m = {.type = (joust_message_type)type, .epoch = epoch};
    joust_status st = joust_record_decode(record, body, n, &m.u, err);
    if (st != JOUST_OK)
        return joust_blame(err, st, "%s", joust_message_name(m.type));
    *ret = m;
    return JOUST_OK;
}
