#include "tests/storage/fixture.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/codec.h"
#include "storage/metrics.h"
#include "storage/tables.h"

void fixture_ok(joust_status st, const joust_error *err, const char *file, int line)
{
    if (st == JOUST_OK)
        return;
    print_error("%s: %s\n", joust_status_name(st), err ? err->text : "");
    _fail(file, line);
}

/* Folders -------------------------------------------------------------------------------------- */

const char *scratch_make(void)
{
    static char path[256];
    const char *base = getenv("TMPDIR");
    if (!base || !*base) /* in memory where that is: what a killed process wrote stays there too */
        base = joust_dir_exists("/dev/shm") ? "/dev/shm" : "/tmp";
    snprintf(path, sizeof(path), "%s/joust-storage-XXXXXX", base);
    assert_non_null(mkdtemp(path));
    return path;
}

void scratch_remove(const char *dir)
{
    joust_error err;
    ok(joust_dir_remove(dir, &err), &err);
}

/* Job ------------------------------------------------------------------------------------------ */

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

void make_job(joust_job *job)
{
    joust_error err;
    ok(joust_job_init(job, &err), &err);
    job->seed = 7;
    job->rounds = 2;
    job->has_prompts = job->has_train = true;
    job->rollout.samples = SAMPLES;
    job->n_models = 1;
    job->models = zeroed(1, sizeof(*job->models));
    job->models[0].name = text("policy");
    job->models[0].path = text("/models/policy");
    job->models[0].content = joust_digest_of("weights", 7);
    job->n_sets = 1;
    job->sets = zeroed(1, sizeof(*job->sets));
    job->sets[0].name = text("prompts");
    job->sets[0].path = text("/data/prompts.jsonl");
    job->sets[0].content = joust_digest_of("prompts", 7);
    job->sets[0].order = JOUST_ORDER_FILE;
    job->n_judges = 1;
    job->judges = zeroed(1, sizeof(*job->judges));
    job->judges[0].name = text("self");
    job->judges[0].kind = JOUST_JUDGE_YES_NO;
    job->judges[0].role = JOUST_ROLE_REWARD;
    job->judges[0].model = text("policy");
    job->judges[0].version = JOUST_PICK_ROUND_START;
    job->judges[0].template_text = text("{prompt_tokens}{response_tokens}<eos><judge>");
    job->judges[0].n_labels = 2;
    job->judges[0].labels[0] = text("yes");
    job->judges[0].labels[1] = text("no");
    job->judges[0].both_orders = true;
}

/* Records -------------------------------------------------------------------------------------- */

static joust_model_ref policy_ref(uint64_t version)
{
    joust_model_ref m = {.lineage = "policy", .version = version};
    m.weights = joust_digest_of(&version, sizeof(version));
    return m;
}

void make_prompt(joust_prompt *r, uint64_t line)
{
    char words[64];
    memset(r, 0, sizeof(*r));
    snprintf(words, sizeof(words), "What is %" PRIu64 " + \"1\"?", line);
    r->text = text(words);
    snprintf(words, sizeof(words), "#### %" PRIu64, line + 1);
    r->reference = text(words);
    r->weight = 1;
    r->digest = joust_prompt_digest(NULL, r->text, r->reference);
}

void make_trajectory(joust_trajectory *r, uint32_t round, uint64_t position, uint32_t sample)
{
    char words[64];
    joust_prompt prompt;
    make_prompt(&prompt, position);
    memset(r, 0, sizeof(*r));
    r->key = (joust_unit_key){round, STAGE_GENERATE, position};
    r->sample = sample;
    r->prompt = prompt.digest;
    joust_prompt_fini(&prompt);
    r->policy = policy_ref(0);
    r->sampling = (joust_sampling){.temperature = 0.8f, .top_p = 1, .max_tokens = 26};
    r->stream = (joust_stream){{round, sample}, {(uint32_t)position, 4}};
    r->n_prompt_tokens = 3;
    r->prompt_tokens = zeroed(3, sizeof(uint32_t));
    memcpy(r->prompt_tokens, (uint32_t[]){1, 5, (uint32_t)position + 10}, 3 * sizeof(uint32_t));
    r->n_tokens = 2;
    r->tokens = zeroed(2, sizeof(uint32_t));
    memcpy(r->tokens, (uint32_t[]){20 + sample, 2}, 2 * sizeof(uint32_t));
    r->raw_logps = zeroed(2, sizeof(float));
    r->logps = zeroed(2, sizeof(float));
    r->raw_logps[0] = r->logps[0] = -0.5f - (float)sample;
    r->raw_logps[1] = r->logps[1] = -0.25f;
    r->finish = JOUST_FINISH_STOP;
    snprintf(words, sizeof(words), "answer %" PRIu32 "\n#### %" PRIu64, sample, position + sample);
    r->text = text(words);
}

static double value_of(uint64_t position, uint32_t sample)
{
    return (double)((position + sample) % SAMPLES) - 0.5;
}

void make_verdict(joust_verdict *r, uint32_t round, uint64_t position, uint32_t sample)
{
    memset(r, 0, sizeof(*r));
    r->key = (joust_unit_key){round, STAGE_JUDGE, position};
    r->of_stage = STAGE_GENERATE;
    r->sample = sample;
    r->other = JOUST_NONE;
    snprintf(r->judge, sizeof(r->judge), "self");
    snprintf(r->kind, sizeof(r->kind), "yes-no");
    r->outcome = JOUST_OUTCOME_OK;
    r->has_value = true;
    r->value = value_of(position, sample);
    r->n_labels = 2;
    r->label_logps = zeroed(2, sizeof(double));
    r->label_logps[0] = r->label_logps[1] = -0.75;
    r->residual = 0.0625;
    r->model = policy_ref(0);
    r->n_prompt_tokens = 6;
    r->text = text("");
}

static joust_trajectory_ref ref_to(uint32_t round, uint64_t position, uint32_t sample)
{
    joust_trajectory t;
    joust_error err;
    joust_trajectory_ref ref = {round, STAGE_GENERATE, position, sample, {{0}}};
    make_trajectory(&t, round, position, sample);
    ok(joust_trajectory_digest(&t, &ref.digest, &err), &err);
    joust_trajectory_fini(&t);
    return ref;
}

void make_pair(joust_pair *r, uint32_t round, uint64_t position)
{
    joust_verdict verdicts[SAMPLES];
    joust_error err;
    uint32_t best = 0, worst = 0;
    memset(r, 0, sizeof(*r));
    for (uint32_t i = 0; i < SAMPLES; i++) {
        make_verdict(&verdicts[i], round, position, i);
        best = value_of(position, i) > value_of(position, best) ? i : best;
        worst = value_of(position, i) < value_of(position, worst) ? i : worst;
    }
    r->key = (joust_unit_key){round, STAGE_PAIR, position};
    r->chosen = ref_to(round, position, best);
    r->rejected = ref_to(round, position, worst);
    r->chosen_reward = value_of(position, best);
    r->rejected_reward = value_of(position, worst);
    r->margin = r->chosen_reward - r->rejected_reward;
    snprintf(r->rule, sizeof(r->rule), "best-worst");
    ok(joust_verdicts_digest(verdicts, SAMPLES, &r->verdicts, &err), &err);
    r->policy = policy_ref(0);
    for (uint32_t i = 0; i < SAMPLES; i++)
        joust_verdict_fini(&verdicts[i]);
    joust_prompt prompt;
    make_prompt(&prompt, position);
    r->prompt = prompt.digest;
    joust_prompt_fini(&prompt);
}

void make_step(joust_train_step *r, uint32_t round, uint32_t step)
{
    *r = (joust_train_step){.round = round, .stage = STAGE_TRAIN, .step = step, .loss = 0.6931};
    r->n_rows = 2;
    r->rows = zeroed(2, sizeof(uint64_t));
    r->rows[0] = step;
    r->rows[1] = step + 1;
}

void make_provenance(joust_provenance *r, uint32_t attempt)
{
    *r = (joust_provenance){.peer = "worker-0",
                            .host = "here",
                            .epoch = 1,
                            .lease = 100 + attempt,
                            .attempt = attempt,
                            .started_wall_ms = 1000 * (int64_t)attempt,
                            .duration_us = 500000,
                            .n_tokens = 6};
}

/* A store -------------------------------------------------------------------------------------- */

static void put_group(joust_batch *batch, uint32_t round, uint64_t position)
{
    joust_error err;
    joust_provenance p;
    joust_unit_key unit = {round, STAGE_GENERATE, position};
    for (uint32_t i = 0; i < SAMPLES; i++) {
        joust_trajectory t;
        joust_verdict v;
        make_trajectory(&t, round, position, i);
        make_verdict(&v, round, position, i);
        ok(joust_batch_put_trajectory(batch, &t, &err), &err);
        ok(joust_batch_put_verdict(batch, &v, &err), &err);
        joust_trajectory_fini(&t);
        joust_verdict_fini(&v);
    }
    joust_pair pair;
    make_pair(&pair, round, position);
    ok(joust_batch_put_pair(batch, &pair, &err), &err);
    make_provenance(&p, 0);
    ok(joust_batch_put_provenance(batch, &unit, &p, &err), &err);
}

static void put_round_end(joust_batch *batch, uint32_t round, uint64_t n_prompts)
{
    joust_error err;
    for (uint32_t i = 0; i < 2; i++) {
        joust_train_step step;
        make_step(&step, round, i);
        ok(joust_batch_put_train_step(batch, &step, &err), &err);
        joust_train_step_fini(&step);
    }
    joust_metric pairs = {.name = JOUST_METRIC_PAIRS, .value = (double)n_prompts, .n = n_prompts};
    joust_stage_summary summary = {round, STAGE_PAIR, 1, &pairs};
    ok(joust_batch_put_stage_summary(batch, &summary, &err), &err);
    joust_model_version version = {.model = policy_ref(round),
                                   .parent = round - 1,
                                   .round = round,
                                   .stage = STAGE_TRAIN,
                                   .n_steps = 2};
    ok(joust_batch_put_model_version(batch, &version, &err), &err);
    joust_promotion promotion = {
        .round = round, .stage = 9, .candidate = round, .best = round - 1, .next = round};
    promotion.promoted = true;
    ok(joust_batch_put_promotion(batch, &promotion, &err), &err);
}

void fill_store(joust_store *store, uint64_t epoch, uint32_t rounds, uint64_t n_prompts)
{
    joust_batch *batch;
    joust_error err;
    ok(joust_batch_create(store, epoch, &batch, &err), &err);
    uint64_t sequence = joust_store_last_event(store);
    for (uint64_t line = 0; line < n_prompts; line++) {
        joust_prompt prompt;
        make_prompt(&prompt, line);
        ok(joust_batch_put_prompt(batch, 0, line, &prompt, &err), &err);
        joust_prompt_fini(&prompt);
    }
    for (uint32_t round = 1; round <= rounds; round++) {
        for (uint64_t position = 0; position < n_prompts; position++) {
            put_group(batch, round, position);
            ok(joust_batch_append_event(batch, ++sequence, "group", 5, &err), &err);
            ok(joust_store_commit(store, batch, false, &err), &err);
        }
        put_round_end(batch, round, n_prompts);
        ok(joust_batch_append_event(batch, ++sequence, "round", 5, &err), &err);
        ok(joust_store_commit(store, batch, true, &err), &err);
    }
    joust_batch_free(&batch);
}
