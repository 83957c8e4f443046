#include "coordinator/result_check.h"

#include <string.h>

#include "proto/codec.h"
#include "proto/manifest.h"
#include "storage/tables.h"

static bool same_model(const joust_model_ref *a, const joust_model_ref *b)
{
    return !strcmp(a->lineage, b->lineage) && a->version == b->version &&
           joust_digest_equal(&a->manifest, &b->manifest) &&
           joust_digest_equal(&a->weights, &b->weights);
}

static joust_status digest_trajectories(const joust_trajectory *t, uint32_t n, joust_digest *ret,
                                        joust_error *err)
{
    joust_hasher hasher;
    joust_hasher_init(&hasher);
    joust_buf bytes = {0};
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < n; i++) {
        joust_buf_clear(&bytes);
        st = joust_trajectory_encode(&t[i], &bytes, err);
        if (st == JOUST_OK)
            joust_hasher_field(&hasher, bytes.data, bytes.n);
    }
    joust_buf_fini(&bytes);
    *ret = joust_hasher_end(&hasher);
    return st;
}

static joust_status digest_version(const joust_model_version *v, joust_digest *ret,
                                   joust_error *err)
{
    joust_buf bytes = {0};
    joust_status st = joust_model_version_encode(v, &bytes, err);
    if (st == JOUST_OK)
        *ret = joust_digest_of(bytes.data, bytes.n);
    joust_buf_fini(&bytes);
    return st;
}

static joust_status check_trajectory(const joust_lease_sources *s, const joust_stage *stage,
                                     const joust_unit_key *unit, uint32_t sample,
                                     const joust_prompt *prompt, const joust_model_ref *policy,
                                     const joust_trajectory *t, joust_error *err)
{
    joust_status st = joust_trajectory_validate(t, err);
    if (st != JOUST_OK)
        return st;
    if (!joust_unit_key_equal(&t->key, unit) || t->sample != sample)
        return joust_fail(err, JOUST_INVALID, "trajectory of another unit");
    if (!joust_digest_equal(&t->prompt, &prompt->digest) ||
        t->prompt_occurrence != prompt->occurrence)
        return joust_fail(err, JOUST_INVALID, "trajectory of another prompt");
    if (!same_model(&t->policy, policy))
        return joust_fail(err, JOUST_STALE,
                          "trajectory of %s version %llu, expected %s version %llu",
                          t->policy.lineage, (unsigned long long)t->policy.version, policy->lineage,
                          (unsigned long long)policy->version);
    joust_stream stream = joust_plan_sample_stream(s->job, unit, sample);
    const joust_sampling *a = &t->sampling, *b = &stage->sampling;
    if (memcmp(&t->stream, &stream, sizeof(stream)) || a->temperature != b->temperature ||
        a->top_p != b->top_p || a->min_p != b->min_p || a->top_k != b->top_k ||
        a->max_tokens != b->max_tokens || a->min_tokens != b->min_tokens ||
        a->repetition_penalty != b->repetition_penalty || a->stop != b->stop ||
        t->n_tokens > b->max_tokens || (t->n_forced && !s->job->rollout.response_prefix) ||
        (t->n_cut && s->job->rollout.long_prompts != JOUST_LONG_PROMPTS_CUT))
        return joust_fail(err, JOUST_INVALID, "trajectory sampled in another way");
    if (t->n_prompt_tokens == 0 && !joust_job_model_is_remote(&s->job->models[stage->model]))
        return joust_fail(err, JOUST_INVALID, "trajectory without the tokens of its prompt");
    return JOUST_OK;
}

static joust_status check_generate(joust_lease_sources *s, const joust_stage *stage,
                                   const joust_model_ref *policy, const joust_unit_result *r,
                                   joust_digest *ret_content, joust_error *err)
{
    if (r->n_trajectories != stage->samples || r->n_verdicts || r->has_model)
        return joust_fail(err, JOUST_INVALID, "%u trajectories, expected %u", r->n_trajectories,
                          stage->samples);
    if (r->provenance.n_served > stage->samples)
        return joust_fail(err, JOUST_INVALID, "%u requests for %u samples", r->provenance.n_served,
                          stage->samples);
    joust_prompt prompt;
    joust_status st = joust_lease_prompt(s, &r->id.unit, &prompt, err);
    if (st != JOUST_OK)
        return st;
    for (uint32_t i = 0; st == JOUST_OK && i < r->n_trajectories; i++)
        st = check_trajectory(s, stage, &r->id.unit, i, &prompt, policy, &r->trajectories[i], err);
    joust_prompt_fini(&prompt);
    return st == JOUST_OK && ret_content
               ? digest_trajectories(r->trajectories, r->n_trajectories, ret_content, err)
               : st;
}

/* Negative, 0 or positive as a stands before, at or after b in key order. */
static int verdict_order(const joust_verdict *a, const joust_verdict *b)
{
    const uint32_t x[] = {a->sample, a->other, a->order, a->vote};
    const uint32_t y[] = {b->sample, b->other, b->order, b->vote};
    for (int i = 0; i < 4; i++)
        if (x[i] != y[i])
            return x[i] < y[i] ? -1 : 1;
    return 0;
}

/* Each answer of the group is the subject of a verdict, or what one compares with. */
static joust_status check_all_judged(const joust_unit_result *r, uint32_t samples, joust_error *err)
{
    for (uint32_t sample = 0; sample < samples; sample++) {
        uint32_t i = 0;
        while (i < r->n_verdicts && r->verdicts[i].sample != sample &&
               r->verdicts[i].other != sample)
            i++;
        if (i == r->n_verdicts)
            return joust_fail(err, JOUST_INVALID, "sample %u has no verdict", sample);
    }
    return JOUST_OK;
}

static joust_status check_judge(joust_lease_sources *s, const joust_stage *stage,
                                const joust_model_ref *policy, const joust_unit_result *r,
                                joust_digest *ret_content, joust_error *err)
{
    const joust_job_judge *judge = &s->job->judges[stage->judge];
    uint32_t samples = s->plan->stages[stage->of].samples;
    const joust_model_ref none = {.version = 0};
    const joust_model_ref *asked = joust_job_judge_asks(judge) ? policy : &none;
    const bool served = joust_stage_is_served(s->job, stage);
    if (r->n_trajectories || r->has_model || !r->n_verdicts)
        return joust_fail(err, JOUST_INVALID, "expected verdicts and nothing else");
    if (r->provenance.n_served > (served ? r->n_verdicts : 0))
        return joust_fail(err, JOUST_INVALID, "%u answers of servers for %u verdicts",
                          r->provenance.n_served, r->n_verdicts);
    for (uint32_t i = 0; i < r->n_verdicts; i++) {
        const joust_verdict *v = &r->verdicts[i];
        joust_status st = joust_verdict_validate(v, err);
        if (st != JOUST_OK)
            return st;
        if (!joust_unit_key_equal(&v->key, &r->id.unit) || v->of_stage != stage->of ||
            v->sample >= samples || (v->other != JOUST_NONE && v->other >= samples) ||
            strcmp(v->judge, judge->name))
            return joust_fail(err, JOUST_INVALID, "verdict about something else");
        if (i && verdict_order(&r->verdicts[i - 1], v) >= 0)
            return joust_fail(err, JOUST_INVALID, "verdicts out of order");
        if (!served && !joust_digest_is_zero(&v->fingerprint))
            return joust_fail(err, JOUST_INVALID,
                              "the fingerprint of a server, and none was asked");
        if (!same_model(&v->model, asked))
            return joust_fail(err, JOUST_STALE,
                              "verdict of model '%s' version %llu, expected '%s' version %llu",
                              v->model.lineage, (unsigned long long)v->model.version,
                              asked->lineage, (unsigned long long)asked->version);
    }
    joust_status st = check_all_judged(r, samples, err);
    if (st != JOUST_OK)
        return st;
    return ret_content ? joust_verdicts_digest(r->verdicts, r->n_verdicts, ret_content, err)
                       : JOUST_OK;
}

/* The steps that came with the model are the last ones of it, without a gap to those that are recorded. */
static joust_status check_steps(joust_store *store, const joust_unit_result *r, joust_error *err)
{
    uint32_t first = r->model.n_steps - r->n_steps;
    if (r->n_steps > r->model.n_steps)
        return joust_fail(err, JOUST_INVALID, "%u training steps of a model that took %u",
                          r->n_steps, r->model.n_steps);
    for (uint32_t i = 0; i < r->n_steps; i++)
        if (r->steps[i].round != r->id.unit.round || r->steps[i].stage != r->id.unit.stage ||
            r->steps[i].step != first + i)
            return joust_fail(err, JOUST_INVALID, "training step of another unit, or out of order");
    joust_train_step before;
    if (!first)
        return JOUST_OK;
    joust_status st = joust_store_get_train_step(store, r->id.unit.round, r->id.unit.stage,
                                                 first - 1, &before, err);
    if (st == JOUST_NOT_FOUND)
        return joust_fail(err, JOUST_INVALID, "training step %u of %u was never told", first - 1,
                          r->model.n_steps);
    if (st == JOUST_OK)
        joust_train_step_fini(&before);
    return st;
}

static joust_status check_model(joust_store *store, joust_blobs *blobs, const joust_job *job,
                                const joust_stage *stage, joust_unit_result *r,
                                joust_digest *ret_content, joust_error *err)
{
    if (!r->has_model || r->n_trajectories || r->n_verdicts)
        return joust_fail(err, JOUST_INVALID, "expected a model and nothing else");
    if (strcmp(r->model.model.lineage, job->models[stage->model].name))
        return joust_fail(err, JOUST_INVALID, "model of lineage %s, expected %s",
                          r->model.model.lineage, job->models[stage->model].name);
    joust_status st = check_steps(store, r, err);
    if (st != JOUST_OK)
        return st;
    joust_digest missing;
    bool complete;
    st = joust_blobs_complete(blobs, &r->model.model.manifest, &complete, &missing, err);
    if (st == JOUST_OK && !complete) {
        char hex[JOUST_DIGEST_HEX];
        return joust_fail(err, JOUST_NOT_FOUND, "chunk %s of the model was never sent",
                          joust_digest_hex(&missing, hex));
    }
    joust_manifest manifest;
    if (st == JOUST_OK)
        st = joust_blobs_get_manifest(blobs, &r->model.model.manifest, &manifest, err);
    if (st != JOUST_OK)
        return st;
    r->model.model.weights = joust_manifest_weights(&manifest);
    joust_manifest_fini(&manifest);
    return ret_content ? digest_version(&r->model, ret_content, err) : JOUST_OK;
}

joust_status joust_result_check(joust_lease_sources *s, joust_blobs *blobs,
                                const joust_model_ref *policy, joust_unit_result *r,
                                joust_digest *ret_content, joust_error *err)
{
    if (r->id.unit.stage >= s->plan->n_stages)
        return joust_fail(err, JOUST_INVALID, "no stage %u", r->id.unit.stage);
    const joust_stage *stage = &s->plan->stages[r->id.unit.stage];
    switch (stage->kind) {
    case JOUST_STAGE_GENERATE:
        return check_generate(s, stage, policy, r, ret_content, err);
    case JOUST_STAGE_JUDGE:
        return check_judge(s, stage, policy, r, ret_content, err);
    case JOUST_STAGE_INIT:
    case JOUST_STAGE_TRAIN:
        return check_model(s->store, blobs, s->job, stage, r, ret_content, err);
    default:
        return joust_fail(err, JOUST_INVALID, "stage %s takes no results", stage->name);
    }
}

joust_status joust_result_digest(joust_lease_sources *s, joust_blobs *blobs, joust_unit_result *r,
                                 joust_digest *ret_content, joust_error *err)
{
    if (r->id.unit.stage >= s->plan->n_stages)
        return joust_fail(err, JOUST_INVALID, "no stage %u", r->id.unit.stage);
    const joust_stage *stage = &s->plan->stages[r->id.unit.stage];
    switch (stage->kind) {
    case JOUST_STAGE_GENERATE:
        return digest_trajectories(r->trajectories, r->n_trajectories, ret_content, err);
    case JOUST_STAGE_JUDGE:
        return joust_verdicts_digest(r->verdicts, r->n_verdicts, ret_content, err);
    case JOUST_STAGE_INIT:
    case JOUST_STAGE_TRAIN:
        return check_model(s->store, blobs, s->job, stage, r, ret_content, err);
    default:
        return joust_fail(err, JOUST_INVALID, "stage %s takes no results", stage->name);
    }
}

joust_status joust_result_stored(joust_lease_sources *s, const joust_unit_key *unit,
                                 uint64_t version, joust_digest *ret_content, joust_error *err)
{
    const joust_stage *stage = &s->plan->stages[unit->stage];
    joust_status st;
    if (stage->kind == JOUST_STAGE_GENERATE) {
        joust_trajectory *group;
        uint32_t n;
        st = joust_store_get_group(s->store, unit, &group, &n, err);
        if (st != JOUST_OK)
            return st;
        st = digest_trajectories(group, n, ret_content, err);
        joust_trajectories_free(group, n);
        return st;
    }
    if (stage->kind == JOUST_STAGE_JUDGE) {
        joust_verdict *verdicts;
        uint32_t n;
        st = joust_store_get_verdicts(s->store, unit, &verdicts, &n, err);
        if (st != JOUST_OK)
            return st;
        st = joust_verdicts_digest(verdicts, n, ret_content, err);
        joust_verdicts_free(verdicts, n);
        return st;
    }
    joust_model_version stored;
    st = joust_store_get_model_version(s->store, s->job->models[stage->model].name, version,
                                       &stored, err);
    return st == JOUST_OK ? digest_version(&stored, ret_content, err) : st;
}

joust_status joust_result_put(joust_batch *batch, const joust_unit_result *r, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < r->n_trajectories; i++)
        st = joust_batch_put_trajectory(batch, &r->trajectories[i], err);
    for (uint32_t i = 0; st == JOUST_OK && i < r->n_verdicts; i++)
        st = joust_batch_put_verdict(batch, &r->verdicts[i], err);
    for (uint32_t i = 0; st == JOUST_OK && i < r->n_steps; i++)
        st = joust_batch_put_train_step(batch, &r->steps[i], err);
    if (st == JOUST_OK && r->has_model)
        st = joust_batch_put_model_version(batch, &r->model, err);
    if (st == JOUST_OK)
        st = joust_batch_put_provenance(batch, &r->id.unit, &r->provenance, err);
    return st;
}
