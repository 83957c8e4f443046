#include "storage/json.h"

#include <inttypes.h>
#include <string.h>

#include "proto/base/text.h"

/* Building blocks ------------------------------------------------------------------------------ */

void joust_json_open(joust_buf *to, char bracket)
{
    joust_buf_u8(to, (uint8_t)bracket);
}

void joust_json_close(joust_buf *to, char bracket)
{
    joust_buf_u8(to, (uint8_t)bracket);
}

void joust_json_key(joust_buf *to, const char *key)
{
    char last = to->n ? (char)to->data[to->n - 1] : '{';
    if (last != '{' && last != '[' && last != '\n')
        joust_buf_u8(to, ',');
    if (!*key)
        return;
    joust_json_string(to, key, strlen(key));
    joust_buf_u8(to, ':');
}

void joust_json_add_text(joust_buf *to, const char *key, const char *value)
{
    joust_json_key(to, key);
    if (value)
        joust_json_string(to, value, strlen(value));
    else
        joust_buf_text(to, "null");
}

void joust_json_add_number(joust_buf *to, const char *key, double value)
{
    joust_json_key(to, key);
    joust_json_double(to, value);
}

void joust_json_add_optional(joust_buf *to, const char *key, bool has_value, double value)
{
    joust_json_key(to, key);
    if (has_value)
        joust_json_double(to, value);
    else
        joust_buf_text(to, "null");
}

void joust_json_add_count(joust_buf *to, const char *key, uint64_t value)
{
    joust_json_key(to, key);
    joust_buf_format(to, "%" PRIu64, value);
}

void joust_json_add_bool(joust_buf *to, const char *key, bool value)
{
    joust_json_key(to, key);
    joust_buf_text(to, value ? "true" : "false");
}

void joust_json_add_digest(joust_buf *to, const char *key, const joust_digest *value)
{
    char hex[JOUST_DIGEST_HEX];
    joust_json_add_text(to, key, joust_digest_hex(value, hex));
}

void joust_json_add_tokens(joust_buf *to, const char *key, const uint32_t *tokens, uint32_t n)
{
    joust_json_key(to, key);
    joust_json_open(to, '[');
    for (uint32_t i = 0; i < n; i++)
        joust_json_add_count(to, "", tokens[i]);
    joust_json_close(to, ']');
}

static void add_floats(joust_buf *to, const char *key, const float *values, uint32_t n)
{
    joust_json_key(to, key);
    joust_json_open(to, '[');
    for (uint32_t i = 0; i < n; i++) {
        joust_json_key(to, "");
        joust_json_float(to, values[i]);
    }
    joust_json_close(to, ']');
}

void joust_json_add_id(joust_buf *to, const char *key, const joust_record_id *id)
{
    char text[JOUST_RECORD_ID_TEXT];
    joust_json_add_text(to, key, joust_record_id_text(id, text));
}

void joust_json_add_model(joust_buf *to, const char *key, const joust_model_ref *model)
{
    joust_json_key(to, key);
    joust_json_open(to, '{');
    joust_json_add_text(to, "lineage", model->lineage);
    joust_json_add_count(to, "version", model->version);
    joust_json_add_digest(to, "manifest", &model->manifest);
    joust_json_add_digest(to, "weights", &model->weights);
    joust_json_close(to, '}');
}

void joust_json_add_metric(joust_buf *to, const char *key, const joust_metric *metric)
{
    joust_json_key(to, key);
    joust_json_open(to, '{');
    joust_json_add_number(to, "value", metric->value);
    joust_json_add_number(to, "low", metric->low);
    joust_json_add_number(to, "high", metric->high);
    joust_json_add_count(to, "n", metric->n);
    joust_json_close(to, '}');
}

/* Ids ------------------------------------------------------------------------------------------ */

joust_record_id joust_trajectory_id(const joust_trajectory *r)
{
    return (joust_record_id){.unit = r->key, .index = r->sample, .other = JOUST_NONE};
}

joust_record_id joust_verdict_id(const joust_verdict *r)
{
    return (joust_record_id){r->key, r->sample, r->other, r->order, r->vote};
}

joust_record_id joust_pair_id(const joust_pair *r)
{
    return (joust_record_id){.unit = r->key, .index = r->index, .other = JOUST_NONE};
}

joust_record_id joust_trajectory_ref_id(const joust_trajectory_ref *r)
{
    return (joust_record_id){
        .unit = {r->round, r->stage, r->position}, .index = r->sample, .other = JOUST_NONE};
}

joust_record_id joust_verdict_subject_id(const joust_verdict *r)
{
    return (joust_record_id){.unit = {r->key.round, r->of_stage, r->key.position},
                             .index = r->sample,
                             .other = JOUST_NONE};
}

/* Records -------------------------------------------------------------------------------------- */

static void add_prompt_id(joust_buf *to, const joust_digest *digest, uint32_t occurrence)
{
    char hex[JOUST_DIGEST_HEX];
    joust_json_key(to, "prompt_id");
    joust_buf_format(to, "\"%s#%" PRIu32 "\"", joust_digest_hex(digest, hex), occurrence);
}

static void add_sampling(joust_buf *to, const joust_sampling *s)
{
    joust_json_key(to, "sampling");
    joust_json_open(to, '{');
    joust_json_key(to, "temperature");
    joust_json_float(to, s->temperature);
    joust_json_key(to, "top_p");
    joust_json_float(to, s->top_p);
    joust_json_key(to, "min_p");
    joust_json_float(to, s->min_p);
    joust_json_add_count(to, "top_k", s->top_k);
    joust_json_add_count(to, "max_tokens", s->max_tokens);
    if (s->min_tokens)
        joust_json_add_count(to, "min_tokens", s->min_tokens);
    if (s->repetition_penalty > 0) {
        joust_json_key(to, "repetition_penalty");
        joust_json_float(to, s->repetition_penalty);
    }
    if (s->stop) {
        joust_json_key(to, "stop");
        joust_buf_format(to, "\"%016" PRIx64 "\"", s->stop);
    }
    joust_json_close(to, '}');
}

void joust_trajectory_json(joust_buf *to, const joust_trajectory *r)
{
    joust_record_id id = joust_trajectory_id(r);
    const uint32_t stream[] = {r->stream.key[0], r->stream.key[1], r->stream.counter[0],
                               r->stream.counter[1]};
    joust_json_add_id(to, "id", &id);
    joust_json_add_count(to, "round", r->key.round);
    add_prompt_id(to, &r->prompt, r->prompt_occurrence);
    joust_json_add_model(to, "policy", &r->policy);
    add_sampling(to, &r->sampling);
    joust_json_add_tokens(to, "stream", stream, 4);
    joust_json_add_text(to, "finish", joust_finish_name(r->finish));
    if (r->n_forced)
        joust_json_add_count(to, "n_forced", r->n_forced);
    if (r->n_cut)
        joust_json_add_count(to, "n_cut", r->n_cut);
    joust_json_add_tokens(to, "prompt_tokens", r->prompt_tokens, r->n_prompt_tokens);
    joust_json_add_tokens(to, "tokens", r->tokens, r->n_tokens);
    add_floats(to, "raw_logps", r->raw_logps, r->n_tokens);
    add_floats(to, "logps", r->logps, r->n_tokens);
}

/* What asked a model, and how; null for a judge without one, as a rule. */
static void add_asked(joust_buf *to, const joust_verdict *r)
{
    if (*r->model.lineage) {
        joust_json_add_model(to, "model", &r->model);
        joust_json_add_digest(to, "rendered", &r->rendered);
        joust_json_add_digest(to, "template", &r->template_digest);
        if (!joust_digest_is_zero(&r->fingerprint))
            joust_json_add_digest(to, "fingerprint", &r->fingerprint);
        return;
    }
    joust_json_add_text(to, "model", NULL);
    joust_json_add_text(to, "rendered", NULL);
    joust_json_add_text(to, "template", NULL);
}

void joust_verdict_json(joust_buf *to, const joust_verdict *r)
{
    joust_record_id id = joust_verdict_id(r), subject = joust_verdict_subject_id(r);
    joust_json_add_id(to, "id", &id);
    joust_json_add_count(to, "round", r->key.round);
    joust_json_add_id(to, "trajectory", &subject);
    if (r->other != JOUST_NONE) {
        subject.index = r->other;
        joust_json_add_id(to, "other", &subject);
    }
    joust_json_add_count(to, "order", r->order);
    joust_json_add_count(to, "vote", r->vote);
    joust_json_add_text(to, "judge", r->judge);
    joust_json_add_text(to, "kind", r->kind);
    joust_json_add_text(to, "outcome", joust_outcome_name(r->outcome));
    joust_json_add_optional(to, "value", r->has_value, r->value);
    joust_json_key(to, "label_logps");
    joust_json_open(to, '[');
    for (uint32_t i = 0; i < r->n_labels; i++)
        joust_json_add_number(to, "", r->label_logps[i]);
    joust_json_close(to, ']');
    joust_json_add_number(to, "residual", r->residual);
    add_asked(to, r);
    joust_json_add_count(to, "n_prompt_tokens", r->n_prompt_tokens);
    joust_json_add_count(to, "n_tokens", r->n_tokens);
    joust_json_add_text(to, "text", r->text);
}

static void add_ref(joust_buf *to, const char *key, const joust_trajectory_ref *ref)
{
    joust_record_id id = joust_trajectory_ref_id(ref);
    joust_json_key(to, key);
    joust_json_open(to, '{');
    joust_json_add_id(to, "id", &id);
    joust_json_add_digest(to, "digest", &ref->digest);
    joust_json_close(to, '}');
}

void joust_pair_json(joust_buf *to, const joust_pair *r)
{
    joust_record_id id = joust_pair_id(r);
    joust_json_add_id(to, "id", &id);
    joust_json_add_count(to, "round", r->key.round);
    add_prompt_id(to, &r->prompt, r->prompt_occurrence);
    joust_json_add_text(to, "rule", r->rule);
    joust_json_add_number(to, "margin", r->margin);
    joust_json_add_number(to, "chosen_reward", r->chosen_reward);
    joust_json_add_number(to, "rejected_reward", r->rejected_reward);
    add_ref(to, "chosen_trajectory", &r->chosen);
    add_ref(to, "rejected_trajectory", &r->rejected);
    joust_json_add_model(to, "policy", &r->policy);
    joust_json_add_digest(to, "verdicts_digest", &r->verdicts);
}

void joust_stage_summary_json(joust_buf *to, const joust_stage_summary *r)
{
    joust_json_add_count(to, "round", r->round);
    joust_json_add_count(to, "stage", r->stage);
    joust_json_key(to, "metrics");
    joust_json_open(to, '{');
    for (uint32_t i = 0; i < r->n_metrics; i++)
        joust_json_add_metric(to, r->metrics[i].name, &r->metrics[i]);
    joust_json_close(to, '}');
}

void joust_promotion_json(joust_buf *to, const joust_promotion *r)
{
    joust_json_add_count(to, "round", r->round);
    joust_json_add_count(to, "stage", r->stage);
    joust_json_add_count(to, "candidate", r->candidate);
    joust_json_add_count(to, "best", r->best);
    joust_json_add_bool(to, "promoted", r->promoted);
    joust_json_add_metric(to, "difference", &r->difference);
    joust_json_add_number(to, "candidate_value", r->candidate_value);
    joust_json_add_number(to, "best_value", r->best_value);
    joust_json_add_count(to, "next", r->next);
}

void joust_provenance_json(joust_buf *to, const joust_provenance *r)
{
    joust_json_add_text(to, "peer", r->peer);
    joust_json_add_text(to, "host", r->host);
    joust_json_add_count(to, "epoch", r->epoch);
    joust_json_add_count(to, "lease", r->lease);
    joust_json_add_count(to, "attempt", r->attempt);
    joust_json_key(to, "started_wall_ms");
    joust_buf_format(to, "%" PRId64, r->started_wall_ms);
    joust_json_key(to, "duration_us");
    joust_buf_format(to, "%" PRId64, r->duration_us);
    joust_json_add_count(to, "n_tokens", r->n_tokens);
    if (!r->n_served)
        return;
    joust_json_key(to, "served");
    joust_json_open(to, '[');
    for (uint32_t i = 0; i < r->n_served; i++) {
        const joust_served *s = &r->served[i];
        char hex[JOUST_DIGEST_HEX];
        joust_json_key(to, "");
        joust_json_open(to, '{');
        joust_json_add_text(to, "url", s->url);
        joust_json_add_count(to, "sample", s->sample);
        joust_json_add_count(to, "tries", s->tries);
        joust_json_key(to, "latency_us");
        joust_buf_format(to, "%" PRId64, s->latency_us);
        joust_json_add_count(to, "prompt_tokens", s->prompt_tokens);
        joust_json_add_count(to, "tokens", s->tokens);
        joust_json_add_text(
            to, "fingerprint",
            joust_digest_is_zero(&s->fingerprint) ? NULL : joust_digest_hex(&s->fingerprint, hex));
        joust_json_close(to, '}');
    }
    joust_json_close(to, ']');
}
