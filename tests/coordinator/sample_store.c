#include "coordinator/sample_store.h"

#include <stdio.h>
#include <string.h>

#include "coordinator/inputs.h"
#include "coordinator/result_check.h"
#include "coordinator/scratch.h"
#include "proto/base/alloc.h"
#include "proto/codec.h"
#include "storage/tables.h"

static char *text(const char *s)
{
    char *copy = joust_strdup(s);
    assert_non_null(copy);
    return copy;
}

static void *zeroed(size_t n, size_t size)
{
    void *block = joust_calloc(n, size);
    assert_non_null(block);
    return block;
}

static char *write_prompts(const char *dir, const char *name, uint32_t n)
{
    joust_buf lines = {0};
    for (uint32_t i = 0; i < n; i++)
        joust_buf_format(&lines, "{\"prompt\": \"%s %u?\", \"reference\": \"%u\"}\n", name, i, i);
    char *path = scratch_write(dir, name, lines.data, lines.n);
    joust_buf_fini(&lines);
    return path;
}

static char *write_model(const char *dir)
{
    joust_error err;
    static const char *const files[] = {"config.json", "tokenizer.json", "model.safetensors"};
    char *path = joust_path_join(dir, "policy");
    assert_non_null(path);
    check_ok(joust_dir_make(path, &err));
    for (size_t i = 0; i < sizeof files / sizeof *files; i++)
        joust_free(scratch_write(path, files[i], files[i], strlen(files[i])));
    return path;
}

static void fill_job(sample_store *s, joust_order order)
{
    joust_error err;
    joust_job *job = &s->job;
    check_ok(joust_job_init(job, &err));
    job->seed = 7;
    job->rounds = 2;
    job->has_prompts = job->has_train = true;
    job->rollout.samples = SAMPLE_SAMPLES;
    job->n_models = 1;
    job->models = zeroed(1, sizeof(*job->models));
    job->models[0].name = text("policy");
    job->models[0].path = write_model(s->dir);
    job->n_sets = 2;
    job->sets = zeroed(2, sizeof(*job->sets));
    job->sets[0] = (joust_job_set){.name = text("prompts"),
                                   .path = write_prompts(s->dir, "prompts.jsonl", SAMPLE_PROMPTS),
                                   .per_round = SAMPLE_PER_ROUND,
                                   .order = order};
    job->sets[1] = (joust_job_set){.name = text("test"),
                                   .path = write_prompts(s->dir, "test.jsonl", 2),
                                   .order = JOUST_ORDER_FILE};
    job->n_judges = 1;
    job->judges = zeroed(1, sizeof(*job->judges));
    job->judges[0] = (joust_job_judge){.name = text("self"),
                                       .kind = JOUST_JUDGE_YES_NO,
                                       .role = JOUST_ROLE_REWARD,
                                       .model = text("policy"),
                                       .version = JOUST_PICK_ROUND_START,
                                       .template_text = text("{prompt_tokens}{response_tokens}"),
                                       .n_labels = 2,
                                       .labels = {text("yes"), text("no")}};
}

void sample_store_prepare(sample_store *s, joust_order order)
{
    joust_error err;
    *s = (sample_store){.dir = scratch_make()};
    fill_job(s, order);
    check_ok(joust_plan_compile(&s->job, &s->plan, &err));
}

void sample_store_open(sample_store *s, joust_order order)
{
    joust_error err;
    joust_model_version version;
    sample_store_prepare(s, order);
    char *dir = joust_path_join(s->dir, "store");
    check_ok(joust_inputs_digest(&s->job, s->n_prompts, &err));
    check_ok(joust_store_open(dir, &s->job, &s->store, &err));
    check_ok(joust_blobs_open(dir, true, &s->blobs, &err));
    check_ok(joust_store_begin_epoch(s->store, &s->epoch, &err));
    check_ok(joust_inputs_import(&s->job, s->n_prompts, s->store, s->blobs, s->epoch, &err));
    check_ok(joust_store_get_model_version(s->store, "policy", 0, &version, &err));
    s->policy = version.model;
    s->sources = (joust_lease_sources){
        .store = s->store, .job = &s->job, .plan = &s->plan, .n_prompts = s->n_prompts};
    joust_free(dir);
}

void sample_store_close(sample_store *s)
{
    joust_lease_sources_fini(&s->sources);
    joust_blobs_close(&s->blobs);
    joust_store_close(&s->store);
    joust_job_fini(&s->job);
    scratch_remove(&s->dir);
}

/* What honest peers send ------------------------------------------------------------------------ */

static joust_provenance by_worker(uint32_t attempt)
{
    return (joust_provenance){.peer = "worker-0", .host = "here", .epoch = 1, .attempt = attempt};
}

static void fill_trajectory(sample_store *s, const joust_unit_key *unit, uint32_t sample,
                            const joust_prompt *prompt, joust_trajectory *ret)
{
    char words[64];
    uint32_t n = 2 + sample;
    *ret = (joust_trajectory){.key = *unit,
                              .sample = sample,
                              .prompt = prompt->digest,
                              .prompt_occurrence = prompt->occurrence,
                              .policy = s->policy,
                              .sampling = s->plan.stages[SAMPLE_GENERATE].sampling,
                              .stream = joust_plan_sample_stream(&s->job, unit, sample),
                              .n_prompt_tokens = 3,
                              .n_tokens = n,
                              .finish = JOUST_FINISH_STOP};
    ret->prompt_tokens = zeroed(3, sizeof(uint32_t));
    ret->tokens = zeroed(n, sizeof(uint32_t));
    ret->raw_logps = zeroed(n, sizeof(float));
    ret->logps = zeroed(n, sizeof(float));
    for (uint32_t i = 0; i < n; i++) {
        ret->tokens[i] = (uint32_t)(10 * unit->position + sample + i);
        ret->raw_logps[i] = ret->logps[i] = -0.25f * (float)(i + 1);
    }
    snprintf(words, sizeof(words), "answer %u to %s", sample, prompt->text);
    ret->text = text(words);
}

joust_unit_result sample_group(sample_store *s, uint32_t round, uint64_t position)
{
    joust_error err;
    joust_prompt prompt;
    joust_unit_result r = {.id.unit = {round, SAMPLE_GENERATE, position},
                           .provenance = by_worker(1),
                           .n_trajectories = SAMPLE_SAMPLES};
    check_ok(joust_lease_prompt(&s->sources, &r.id.unit, &prompt, &err));
    r.trajectories = zeroed(SAMPLE_SAMPLES, sizeof(*r.trajectories));
    for (uint32_t i = 0; i < SAMPLE_SAMPLES; i++)
        fill_trajectory(s, &r.id.unit, i, &prompt, &r.trajectories[i]);
    joust_prompt_fini(&prompt);
    return r;
}

joust_unit_result sample_verdicts(sample_store *s, uint32_t round, uint64_t position)
{
    joust_unit_result r = {.id.unit = {round, SAMPLE_JUDGE, position},
                           .provenance = by_worker(1),
                           .n_verdicts = SAMPLE_SAMPLES};
    r.verdicts = zeroed(SAMPLE_SAMPLES, sizeof(*r.verdicts));
    for (uint32_t i = 0; i < SAMPLE_SAMPLES; i++) {
        joust_verdict *v = &r.verdicts[i];
        *v = (joust_verdict){.key = r.id.unit,
                             .of_stage = SAMPLE_GENERATE,
                             .sample = i,
                             .other = JOUST_NONE,
                             .judge = "self",
                             .kind = "yes-no",
                             .outcome = JOUST_OUTCOME_OK,
                             .has_value = true,
                             .value = 1.5 - (double)i,
                             .n_labels = 2,
                             .model = s->policy,
                             .text = text("")};
        v->label_logps = zeroed(2, sizeof(double));
        v->label_logps[0] = v->label_logps[1] = -0.75;
    }
    return r;
}

joust_unit_result sample_model(sample_store *s, uint32_t round)
{
    joust_error err;
    joust_unit_result r = {.id.unit = {round, SAMPLE_TRAIN, 0},
                           .provenance = by_worker(1),
                           .has_model = true,
                           .n_steps = 2};
    r.model = (joust_model_version){.model = {.lineage = "policy"},
                                    .parent = 0,
                                    .round = round,
                                    .stage = SAMPLE_TRAIN,
                                    .n_steps = 2};
    r.model.model.version = joust_plan_out_version(&s->plan, round, SAMPLE_TRAIN);
    check_ok(joust_blobs_import(s->blobs, s->job.models[0].path, &r.model.model.manifest, &err));
    r.steps = zeroed(2, sizeof(*r.steps));
    for (uint32_t i = 0; i < 2; i++) {
        r.steps[i] = (joust_train_step){
            .round = round, .stage = SAMPLE_TRAIN, .step = i, .loss = 0.5, .n_rows = 1};
        r.steps[i].rows = zeroed(1, sizeof(uint64_t));
    }
    return r;
}

/* Storing it ----------------------------------------------------------------------------------- */

void sample_put_result(sample_store *s, const joust_unit_result *r)
{
    joust_error err;
    joust_batch *batch;
    check_ok(joust_batch_create(s->store, s->epoch, &batch, &err));
    check_ok(joust_result_put(batch, r, &err));
    check_ok(joust_store_commit(s->store, batch, false, &err));
    joust_batch_free(&batch);
}

static joust_trajectory_ref ref_to(const joust_trajectory *t)
{
    joust_error err;
    joust_trajectory_ref ref = {t->key.round, t->key.stage, t->key.position, t->sample, {{0}}};
    check_ok(joust_trajectory_digest(t, &ref.digest, &err));
    return ref;
}

void sample_put_pair(sample_store *s, uint32_t round, uint64_t position, uint32_t index)
{
    joust_error err;
    joust_batch *batch;
    joust_unit_result group = sample_group(s, round, position);
    joust_pair pair = {.key = {round, SAMPLE_PAIR, position},
                       .index = index,
                       .prompt = group.trajectories[0].prompt,
                       .prompt_occurrence = group.trajectories[0].prompt_occurrence,
                       .chosen = ref_to(&group.trajectories[0]),
                       .rejected = ref_to(&group.trajectories[1 + index]),
                       .chosen_reward = 1.5,
                       .rejected_reward = 0.5 - (double)index,
                       .margin = 1 + (double)index,
                       .rule = "best-worst",
                       .policy = s->policy};
    check_ok(joust_batch_create(s->store, s->epoch, &batch, &err));
    check_ok(joust_batch_put_pair(batch, &pair, &err));
    check_ok(joust_store_commit(s->store, batch, false, &err));
    joust_batch_free(&batch);
    joust_unit_result_fini(&group);
}
