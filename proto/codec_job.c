/* The tables of the job (proto/job.h): the wire form, and the identity that its digest is taken of.
 */
#include <string.h>

#include "joust.pb-c.h"
#include "proto/base/alloc.h"
#include "proto/codec_internal.h"
#include "proto/job.h"

#define MAX_PATH_BYTES 4096u

/* clang-format off: one line a field */
static const joust_field endpoint_fields[] = {
    TEXT(joust_job_endpoint, 1, model, JOUST_MAX_LABEL_BYTES),
    ENUM(joust_job_endpoint, 2, mode, JOUST_ENDPOINT_CHAT),
    TEXT(joust_job_endpoint, 3, system, JOUST_MAX_TEXT_BYTES),
    VALUE(joust_job_endpoint, 5, samples_per_request),
    TEXTS(joust_job_endpoint, 6, urls, n_urls, JOUST_MAX_URLS),
    TEXT(joust_job_endpoint, 7, api_key_env, JOUST_MAX_NAME_BYTES - 1),
    ENUM(joust_job_endpoint, 8, server, JOUST_SERVER_TRANSFORMERS),
    VALUE(joust_job_endpoint, 9, logprobs),
    VALUE(joust_job_endpoint, 10, concurrency),
    VALUE(joust_job_endpoint, 11, connect_ms),
    VALUE(joust_job_endpoint, 12, timeout_ms),
    VALUE(joust_job_endpoint, 13, deadline_ms),
    VALUE(joust_job_endpoint, 14, breaker_failures),
    VALUE(joust_job_endpoint, 15, breaker_ms),
    VALUE(joust_job_endpoint, 16, max_requests),
    VALUE(joust_job_endpoint, 17, max_tokens),
    VALUE(joust_job_endpoint, 18, probe),
    VALUE_OR_0(joust_job_endpoint, 19, scoring),
    VALUE_OR_0(joust_job_endpoint, 20, top_logprobs),
    TEXT(joust_job_endpoint, 21, ca_file, MAX_PATH_BYTES),
    TEXT(joust_job_endpoint, 22, tokenizer, MAX_PATH_BYTES)};
static const joust_record_type endpoint_type =
    RECORD_TYPE(joust_job_endpoint, joust__wire__job_endpoint__descriptor, endpoint_fields);

static const joust_field serve_fields[] = {VALUE(joust_job_serve, 1, samples_per_request),
                                           TEXT(joust_job_serve, 2, command, JOUST_MAX_TEXT_BYTES),
                                           VALUE_OR_0(joust_job_serve, 3, replicas),
                                           VALUE_OR_0(joust_job_serve, 4, gpus),
                                           VALUE_OR_0(joust_job_serve, 5, port),
                                           TEXT(joust_job_serve, 6, ready, JOUST_MAX_LABEL_BYTES),
                                           TEXT(joust_job_serve, 7, publish, JOUST_MAX_LABEL_BYTES),
                                           TEXT(joust_job_serve, 8, sleep, JOUST_MAX_LABEL_BYTES),
                                           VALUE_OR_0(joust_job_serve, 9, deadline_ms),
                                           VALUE(joust_job_serve, 10, tolerance)};
static const joust_record_type serve_type =
    RECORD_TYPE(joust_job_serve, joust__wire__job_serve__descriptor, serve_fields);

static const joust_field model_fields[] = {
    TEXT(joust_job_model, 1, name, JOUST_MAX_NAME_BYTES - 1),
    TEXT(joust_job_model, 2, path, MAX_PATH_BYTES),
    DIGEST(joust_job_model, 3, content),
    VALUE(joust_job_model, 4, init),
    VALUE(joust_job_model, 5, init_seed),
    RECORD_IF(joust_job_model, 6, endpoint, has_endpoint, endpoint_type),
    RECORD_IF(joust_job_model, 7, serve, has_serve, serve_type),
    VALUE_OR_0(joust_job_model, 8, scalar_head)};
static const joust_record_type model_type =
    RECORD_TYPE(joust_job_model, joust__wire__job_model__descriptor, model_fields);

static const joust_field set_fields[] = {
    TEXT(joust_job_set, 1, name, JOUST_MAX_NAME_BYTES - 1),
    TEXT(joust_job_set, 2, path, MAX_PATH_BYTES), DIGEST(joust_job_set, 3, content),
    VALUE(joust_job_set, 4, per_round), ENUM(joust_job_set, 5, order, JOUST_ORDER_SHUFFLE)};
static const joust_record_type set_type =
    RECORD_TYPE(joust_job_set, joust__wire__job_set__descriptor, set_fields);

static const joust_field rollout_fields[] = {
    VALUE(joust_job_rollout, 1, samples),
    RECORD(joust_job_rollout, 2, sampling, joust_sampling_type),
    TEXT(joust_job_rollout, 3, template_text, JOUST_MAX_TEXT_BYTES),
    TEXT(joust_job_rollout, 4, response_prefix, JOUST_MAX_TEXT_BYTES),
    TEXTS(joust_job_rollout, 5, stop, n_stop, JOUST_MAX_STOP_STRINGS),
    VALUE_OR_0(joust_job_rollout, 6, long_prompts),
    VALUE_OR_0(joust_job_rollout, 7, max_prompt_tokens),
    TEXTS(joust_job_rollout, 8, choices, n_choices, JOUST_MAX_CHOICES_OF_RESPONSE),
    TEXT(joust_job_rollout, 9, regex, JOUST_MAX_TEXT_BYTES),
    TEXT(joust_job_rollout, 10, grammar, JOUST_MAX_GRAMMAR_BYTES),
    TEXT(joust_job_rollout, 11, chat_template, JOUST_MAX_TEXT_BYTES),
    TEXT(joust_job_rollout, 12, json_schema, JOUST_MAX_GRAMMAR_BYTES)};
static const joust_record_type rollout_type =
    RECORD_TYPE(joust_job_rollout, joust__wire__job_rollout__descriptor, rollout_fields);

static const joust_field judge_fields[] = {
    TEXT(joust_job_judge, 1, name, JOUST_MAX_NAME_BYTES - 1),
    ENUM(joust_job_judge, 2, kind, JOUST_JUDGE_RANDOM),
    ENUM(joust_job_judge, 3, role, JOUST_ROLE_EVALUATE),
    TEXT(joust_job_judge, 4, model, JOUST_MAX_NAME_BYTES - 1),
    ENUM_OR_0(joust_job_judge, 5, version, JOUST_PICK_INITIAL),
    ENUM_OR_0(joust_job_judge, 6, rule, JOUST_RULE_REGEX),
    TEXT(joust_job_judge, 7, pattern, JOUST_MAX_TEXT_BYTES),
    TEXT(joust_job_judge, 8, template_text, JOUST_MAX_TEXT_BYTES),
    TEXTS(joust_job_judge, 9, labels, n_labels, JOUST_MAX_LABELS),
    VALUE(joust_job_judge, 10, both_orders)};
static const joust_record_type judge_type =
    RECORD_TYPE(joust_job_judge, joust__wire__job_judge__descriptor, judge_fields);

static const joust_field pairs_fields[] = {
    TEXT(joust_job_pairs, 1, build, JOUST_MAX_NAME_BYTES - 1),
    VALUE(joust_job_pairs, 2, min_chosen),
    VALUE(joust_job_pairs, 3, max_rejected),
    VALUE(joust_job_pairs, 4, min_margin),
    TEXT(joust_job_pairs, 5, rejected_model, JOUST_MAX_NAME_BYTES - 1),
    ENUM_OR_0(joust_job_pairs, 6, rejected_version, JOUST_PICK_INITIAL)};
static const joust_record_type pairs_type =
    RECORD_TYPE(joust_job_pairs, joust__wire__job_pairs__descriptor, pairs_fields);

static const joust_field objective_fields[] = {
    VALUE(joust_objective, 1, label_smoothing),
    VALUE(joust_objective, 2, gamma),
    VALUE(joust_objective, 3, ld_alpha),
    VALUE(joust_objective, 4, desirable_weight),
    VALUE(joust_objective, 5, undesirable_weight),
    VALUE(joust_objective, 6, discopop_tau),
    VALUE(joust_objective, 7, reward_scale),
    VALUE(joust_objective, 8, reference_sync_steps),
    VALUE(joust_objective, 9, reference_mixup),
    VALUE(joust_objective, 20, mix[JOUST_LOSS_DPO]),
    VALUE(joust_objective, 21, mix[JOUST_LOSS_SFT]),
    VALUE(joust_objective, 22, mix[JOUST_LOSS_HINGE]),
    VALUE(joust_objective, 23, mix[JOUST_LOSS_IPO]),
    VALUE(joust_objective, 24, mix[JOUST_LOSS_ROBUST]),
    VALUE(joust_objective, 25, mix[JOUST_LOSS_EXO_PAIR]),
    VALUE(joust_objective, 26, mix[JOUST_LOSS_NCA_PAIR]),
    VALUE(joust_objective, 27, mix[JOUST_LOSS_BCO_PAIR]),
    VALUE(joust_objective, 28, mix[JOUST_LOSS_SPPO_HARD]),
    VALUE(joust_objective, 29, mix[JOUST_LOSS_APO_ZERO]),
    VALUE(joust_objective, 30, mix[JOUST_LOSS_APO_DOWN]),
    VALUE(joust_objective, 31, mix[JOUST_LOSS_DISCOPOP]),
    VALUE(joust_objective, 32, mix[JOUST_LOSS_SIGMOID_NORM]),
    VALUE(joust_objective, 33, mix[JOUST_LOSS_SIMPO]),
    VALUE(joust_objective, 34, mix[JOUST_LOSS_ORPO]),
    VALUE(joust_objective, 35, mix[JOUST_LOSS_KTO]),
    VALUE(joust_objective, 36, mix[JOUST_LOSS_DNO]),
    VALUE(joust_objective, 37, mix[JOUST_LOSS_REBEL]),
    VALUE_OR_0(joust_objective, 43, mix[JOUST_LOSS_SPPO_SOFT])};
static const joust_record_type objective_type =
    RECORD_TYPE(joust_objective, joust__wire__job_objective__descriptor, objective_fields);

static const joust_field lora_fields[] = {
    VALUE(joust_lora_settings, 1, rank), VALUE(joust_lora_settings, 2, targets),
    VALUE(joust_lora_settings, 3, alpha), VALUE(joust_lora_settings, 4, rslora)};
static const joust_record_type lora_type =
    RECORD_TYPE(joust_lora_settings, joust__wire__job_lora__descriptor, lora_fields);

static const joust_field policy_fields[] = {
    VALUE(joust_job_policy, 1, epsilon),          VALUE(joust_job_policy, 2, epsilon_high),
    VALUE(joust_job_policy, 3, max_ratio),        VALUE(joust_job_policy, 4, kl_weight),
    VALUE(joust_job_policy, 5, entropy_weight),   ENUM(joust_job_policy, 6, kl, JOUST_KL_K3),
    VALUE(joust_job_policy, 7, dynamic_sampling), VALUE_OR_0(joust_job_policy, 8, importance_cap)};
static const joust_record_type policy_type =
    RECORD_TYPE(joust_job_policy, joust__wire__job_policy__descriptor, policy_fields);

static const joust_field critic_fields[] = {
    TEXT(joust_job_critic, 1, model, JOUST_MAX_NAME_BYTES - 1),
    VALUE(joust_job_critic, 2, gamma),
    VALUE(joust_job_critic, 3, lambda),
    VALUE(joust_job_critic, 4, value_clip),
    VALUE(joust_job_critic, 5, learning_rate),
    VALUE(joust_job_critic, 6, kl_in_reward),
    VALUE(joust_job_critic, 7, whiten)};
static const joust_record_type critic_type =
    RECORD_TYPE(joust_job_critic, joust__wire__job_critic__descriptor, critic_fields);

static const joust_field external_fields[] = {
    TEXT(joust_job_external, 1, command, JOUST_MAX_TEXT_BYTES),
    VALUE_OR_0(joust_job_external, 2, nodes), VALUE_OR_0(joust_job_external, 3, gpus),
    VALUE_OR_0(joust_job_external, 4, deadline_ms)};
static const joust_record_type external_type =
    RECORD_TYPE(joust_job_external, joust__wire__job_external__descriptor, external_fields);

static const joust_field train_fields[] = {
    ENUM_OR_0(joust_job_train, 1, loss, JOUST_LOSS_RWR),
    TEXT(joust_job_train, 2, model, JOUST_MAX_NAME_BYTES - 1),
    TEXT(joust_job_train, 3, data, MAX_PATH_BYTES),
    DIGEST(joust_job_train, 4, data_content),
    ENUM_OR_0(joust_job_train, 5, data_order, JOUST_ORDER_SHUFFLE),
    VALUE(joust_job_train, 6, beta),
    VALUE(joust_job_train, 7, sft_weight),
    VALUE(joust_job_train, 8, learning_rate),
    VALUE(joust_job_train, 9, min_learning_rate_ratio),
    ENUM_OR_0(joust_job_train, 10, schedule, JOUST_SCHEDULE_COSINE),
    VALUE(joust_job_train, 11, adam_beta1),
    VALUE(joust_job_train, 12, adam_beta2),
    VALUE(joust_job_train, 13, adam_eps),
    VALUE(joust_job_train, 14, weight_decay),
    VALUE(joust_job_train, 15, clip),
    VALUE(joust_job_train, 16, warmup_steps),
    VALUE(joust_job_train, 17, batch_size),
    VALUE(joust_job_train, 18, max_steps),
    VALUE(joust_job_train, 19, save_every),
    ENUM_OR_0(joust_job_train, 20, reference, JOUST_PICK_NONE),
    RECORD_IF(joust_job_train, 21, objective, has_objective, objective_type),
    RECORD_IF(joust_job_train, 22, lora, has_lora, lora_type),
    VALUE_IF(joust_job_train, 23, recompute, has_recompute),
    RECORD_IF(joust_job_train, 24, external, has_external, external_type),
    VALUE_OR_0(joust_job_train, 25, forced_tokens),
    VALUE_OR_0(joust_job_train, 26, unpaired),
    VALUE_OR_0(joust_job_train, 27, threshold),
    TEXT(joust_job_train, 28, reference_model, JOUST_MAX_NAME_BYTES - 1),
    RECORD_IF(joust_job_train, 30, policy, has_policy, policy_type),
    RECORD_IF(joust_job_train, 31, critic, has_critic, critic_type)};
static const joust_record_type train_type =
    RECORD_TYPE(joust_job_train, joust__wire__job_train__descriptor, train_fields);

static const joust_field promote_fields[] = {
    VALUE(joust_job_promote, 1, on), TEXT(joust_job_promote, 2, prompts, JOUST_MAX_NAME_BYTES - 1),
    TEXT(joust_job_promote, 3, judge, JOUST_MAX_NAME_BYTES - 1), VALUE(joust_job_promote, 4, gate)};
static const joust_record_type promote_type =
    RECORD_TYPE(joust_job_promote, joust__wire__job_promote__descriptor, promote_fields);

static const joust_field evaluate_fields[] = {
    VALUE(joust_job_evaluate, 1, on),
    TEXT(joust_job_evaluate, 2, prompts, JOUST_MAX_NAME_BYTES - 1),
    TEXT(joust_job_evaluate, 3, judge, JOUST_MAX_NAME_BYTES - 1),
    TEXT(joust_job_evaluate, 4, judged_by, JOUST_MAX_NAME_BYTES - 1),
    VALUE(joust_job_evaluate, 5, samples),
    RECORD(joust_job_evaluate, 6, sampling, joust_sampling_type),
    VALUE(joust_job_evaluate, 7, against_base),
    VALUE(joust_job_evaluate, 8, against_previous)};
static const joust_record_type evaluate_type =
    RECORD_TYPE(joust_job_evaluate, joust__wire__job_evaluate__descriptor, evaluate_fields);

static const joust_field stage_fields[] = {
    ENUM(joust_job_stage, 1, kind, JOUST_DECLARED_PROMOTE),
    RECORD_IF(joust_job_stage, 2, train, has_train, train_type)};
static const joust_record_type stage_type =
    RECORD_TYPE(joust_job_stage, joust__wire__job_stage__descriptor, stage_fields);

static const joust_field cluster_fields[] = {
    VALUE(joust_job_cluster, 1, workers),           VALUE(joust_job_cluster, 2, judges),
    VALUE(joust_job_cluster, 3, threads),           VALUE(joust_job_cluster, 4, heartbeat_ms),
    VALUE(joust_job_cluster, 5, lease_ms),          VALUE(joust_job_cluster, 6, grace_ms),
    VALUE_OR_0(joust_job_cluster, 7, kv_memory_mb), VALUE_OR_0(joust_job_cluster, 8, memory_mb)};
static const joust_record_type cluster_type =
    RECORD_TYPE(joust_job_cluster, joust__wire__job_cluster__descriptor, cluster_fields);

static const joust_field job_fields[] =
    {/* without a name it is an identity */
     TEXT(joust_job, 1, name, JOUST_MAX_NAME_BYTES - 1),
     VALUE(joust_job, 2, seed),
     VALUE(joust_job, 3, rounds),
     RECORDS(joust_job, 4, models, n_models, JOUST_MAX_MODELS, model_type),
     RECORDS(joust_job, 5, sets, n_sets, JOUST_MAX_SETS, set_type),
     RECORDS(joust_job, 6, judges, n_judges, JOUST_MAX_JUDGES, judge_type),
     RECORDS(joust_job, 7, stages, n_stages, JOUST_MAX_STAGES, stage_type),
     RECORD(joust_job, 8, rollout, rollout_type),
     ENUM(joust_job, 9, combine, JOUST_COMBINE_MAX),
     RECORD(joust_job, 10, pairs, pairs_type),
     RECORD(joust_job, 11, train, train_type),
     RECORD(joust_job, 12, promote, promote_type),
     RECORD(joust_job, 13, evaluate, evaluate_type),
     RECORD_WITH(joust_job, 14, cluster, name, cluster_type),
     VALUE(joust_job, 15, has_prompts),
     VALUE(joust_job, 16, has_train)};
const joust_record_type joust_job_type =
    RECORD_TYPE(joust_job, joust__wire__job__descriptor, job_fields);
/* clang-format on */

/* The identity leaves out what may change on resume: names, rounds, paths, the cluster. */
static joust_status encode_identity(const joust_job *job, joust_buf *to, joust_error *err)
{
    joust_status st;
    joust_job identity =
        *job; /* arrays that change are replaced by copies; their texts are views */
    identity.name = NULL;
    identity.rounds = 0;
    identity.train.data = NULL;
    identity.train.has_recompute = false;
    identity.train.external = (joust_job_external){.command = job->train.external.command};
    identity.models = joust_memdup(job->models, job->n_models * sizeof(*job->models));
    identity.sets = joust_memdup(job->sets, job->n_sets * sizeof(*job->sets));
    identity.stages = joust_memdup(job->stages, job->n_stages * sizeof(*job->stages));
    if (!identity.models || !identity.sets || !identity.stages) {
        st = joust_fail(err, JOUST_NOMEM, "job: out of memory");
        goto out;
    }
    for (uint32_t i = 0; i < job->n_models; i++) {
        identity.models[i].path = NULL;
        identity.models[i].has_endpoint = false; /* its content says what decides its answers */
        identity.models[i].serve =
            (joust_job_serve){.samples_per_request = job->models[i].serve.samples_per_request};
    }
    for (uint32_t i = 0; i < job->n_sets; i++)
        identity.sets[i].path = NULL;
    for (uint32_t i = 0; i < job->n_stages; i++) {
        identity.stages[i].train.data = NULL;
        identity.stages[i].train.has_recompute = false;
        identity.stages[i].train.external =
            (joust_job_external){.command = job->stages[i].train.external.command};
    }
    st = joust_record_encode(&joust_job_type, &identity, to, err);
out:
    joust_free(identity.models);
    joust_free(identity.sets);
    joust_free(identity.stages);
    return st;
}

joust_status joust_job_encode(const joust_job *job, bool identity, joust_buf *to, joust_error *err)
{
    if (identity)
        return encode_identity(job, to, err);
    if (!job->name)
        return joust_fail(err, JOUST_INVALID, "name: missing; give the job a name");
    return joust_record_encode(&joust_job_type, job, to, err);
}

/* What the wire leaves out where nothing of it is given. */
static void fill_train(joust_job_train *train)
{
    if (!train->has_objective)
        train->objective = joust_objective_neutral();
    if (!train->has_policy)
        train->policy = joust_job_policy_default();
    if (!train->has_critic)
        train->critic = joust_job_critic_default();
}

joust_status joust_job_decode(const void *data, size_t n, joust_job *ret, joust_error *err)
{
    joust_status st = joust_record_decode(&joust_job_type, data, n, ret, err);
    if (st != JOUST_OK)
        return st;
    fill_train(&ret->train);
    for (uint32_t i = 0; i < ret->n_stages; i++)
        fill_train(&ret->stages[i].train);
    return JOUST_OK;
}

joust_status joust_job_digest(const joust_job *job, joust_digest *ret, joust_error *err)
{
    joust_buf bytes = {0};
    joust_status st = joust_job_encode(job, true, &bytes, err);
    if (st == JOUST_OK)
        *ret = joust_digest_of(bytes.data, bytes.n);
    joust_buf_fini(&bytes);
    return st;
}
