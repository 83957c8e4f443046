/* Training units against a coordinator in memory: resumed equals uninterrupted, and the rollout's
 * log-probs are the trainer's. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/codec.h"
#include "worker/fake_upstream.h"
#include "worker/rollout.h"
#include "worker/tiny.h"
#include "worker/trainer.h"

#define N_PAIRS 7u /* no multiple of the batch: passes wrap in mid-batch */

typedef struct bench {
    joust_job job;
    joust_plan plan;
    joust_engine *engine;
    fake_upstream fake;
    joust_cache *cache;
    joust_lease_unit unit; /* TRAIN */
    joust_train_row_pair pairs[N_PAIRS];
    joust_trajectory *groups[N_PAIRS];
    uint32_t n_samples;
} bench;

static joust_status keep(void *context, uint32_t unit, joust_unit_result *result, joust_error *err)
{
    bench *b = context;
    (void)err;
    b->groups[unit] = result->trajectories;
    result->trajectories = NULL;
    b->n_samples = result->n_trajectories;
    result->n_trajectories = 0;
    joust_unit_result_fini(result);
    return JOUST_OK;
}

static joust_status no_failure(void *context, uint32_t unit, const joust_error *why,
                               joust_error *err)
{
    (void)context;
    (void)err;
    fail_msg("unit %u: %s", unit, why->text);
    return JOUST_OK;
}

/* Pairs of the first and the last sample of real rollouts by the model in dir. */
static void make_pairs(bench *b, const char *dir)
{
    joust_error err;
    joust_lease_unit units[N_PAIRS];
    joust_rollout r = {.engine = b->engine,
                       .job = &b->job,
                       .stage = tiny_stage(&b->job, &b->plan, JOUST_STAGE_GENERATE, NULL),
                       .done = keep,
                       .failed = no_failure,
                       .context = b};
    joust_tokenizer *tokenizer = NULL;
    check_ok(joust_model_load(dir, &r.model, &err));
    check_ok(joust_tokenizer_load(dir, &tokenizer, &err));
    r.tokenizer = tokenizer;
    for (uint32_t i = 0; i < N_PAIRS; i++)
        units[i] = tiny_generate_unit(r.stage, i, &b->unit.model);
    check_ok(joust_rollout_run(&r, units, N_PAIRS, &err));
    for (uint32_t i = 0; i < N_PAIRS; i++) {
        const joust_trajectory *c = &b->groups[i][0], *l = &b->groups[i][b->n_samples - 1];
        b->pairs[i] = (joust_train_row_pair){.n_prompt_tokens = c->n_prompt_tokens,
                                             .n_chosen = c->n_tokens,
                                             .n_rejected = l->n_tokens,
                                             .prompt_tokens = c->prompt_tokens,
                                             .chosen = c->tokens,
                                             .rejected = l->tokens,
                                             .chosen_logps = c->raw_logps,
                                             .rejected_logps = l->raw_logps,
                                             .chosen_policy = c->policy.version,
                                             .rejected_policy = l->policy.version};
        joust_lease_unit_fini(&units[i]);
    }
    joust_tokenizer_free(&tokenizer);
    joust_model_free(&r.model);
}

static int setup(void **state)
{
    joust_error err;
    bench *b = joust_calloc(1, sizeof(*b));
    char dir[512], cache[512];
    tiny_job_make(&b->job, &b->plan);
    fake_upstream_init(&b->fake);
    check_ok(joust_engine_create(&(joust_engine_options){.n_threads = 2}, &b->engine, &err));
    tiny_dir("trainer", dir);
    tiny_folder_write(dir, true, 1);
    tiny_dir("trainer_cache", cache);
    check_ok(joust_cache_create(cache, 1u << 30, &b->cache, &err));
    const joust_stage *stage = tiny_stage(&b->job, &b->plan, JOUST_STAGE_TRAIN, NULL);
    b->unit = (joust_lease_unit){.unit = {.round = 1, .stage = stage->index},
                                 .lease = 9,
                                 .model = {.lineage = "policy", .version = 3},
                                 .out_version = 4,
                                 .n_rows = N_PAIRS};
    b->unit.model.manifest = fake_upstream_import(&b->fake, dir);
    b->unit.reference = b->unit.model;
    make_pairs(b, dir);
    b->fake.pairs = b->pairs;
    b->fake.n_pairs = N_PAIRS;
    *state = b;
    return 0;
}

static void drop_groups(bench *b)
{
    for (uint32_t i = 0; i < N_PAIRS; i++) {
        for (uint32_t k = 0; k < b->n_samples; k++)
            joust_trajectory_fini(&b->groups[i][k]);
        joust_free(b->groups[i]);
    }
}

static int teardown(void **state)
{
    bench *b = *state;
    drop_groups(b);
    fake_upstream_fini(&b->fake);
    joust_cache_free(&b->cache);
    joust_engine_free(&b->engine);
    joust_job_fini(&b->job);
    joust_free(b);
    return 0;
}

static joust_training training(bench *b)
{
    return (joust_training){.engine = b->engine,
                            .job = &b->job,
                            .stage = &b->plan.stages[b->unit.unit.stage],
                            .up = &b->fake.up,
                            .cache = b->cache};
}

static void forget_progress(bench *b)
{
    fake_upstream *f = &b->fake;
    f->lose_every = f->rows_at_most = 0;
    f->interrupt_after = f->n_checks = 0;
    f->step = f->n_steps = 0;
    memset(f->steps, 0, sizeof(f->steps));
    b->unit.resume_step = 0;
    b->unit.resume = (joust_digest){{0}};
    while (f->n_answers > 0)
        joust_message_fini(&f->answers[--f->n_answers]);
}

/* What a TRAIN unit amounts to: the version's files and every step's bytes. */
typedef struct outcome {
    joust_digest manifest, weights, steps;
    uint32_t n_steps;
    double gap;
    uint64_t n_compared;
} outcome;

static outcome finish(bench *b)
{
    joust_error err;
    joust_training t = training(b);
    joust_unit_result r = {0};
    check_ok(joust_training_run(&t, &b->unit, &r, &err));
    fake_upstream_add_steps(&b->fake, r.steps, r.n_steps);
    assert_true(r.has_model);
    assert_int_equal(r.model.model.version, 4);
    assert_int_equal(r.model.parent, 3);
    assert_string_equal(r.model.model.lineage, "policy");
    assert_int_equal(r.model.n_steps, b->job.train.max_steps);
    outcome o = {.manifest = r.model.model.manifest,
                 .weights = r.model.model.weights,
                 .steps = joust_digest_of(b->fake.steps, b->fake.n_steps * sizeof(joust_digest)),
                 .n_steps = b->fake.n_steps};
    if (r.n_metrics > 0) {
        assert_string_equal(r.metrics[0].name, JOUST_METRIC_LOGP_GAP);
        o.gap = r.metrics[0].value;
        o.n_compared = r.metrics[0].n;
    }
    joust_unit_result_fini(&r);
    return o;
}

static void check_equal(const outcome *a, const outcome *b)
{
    assert_true(joust_digest_equal(&a->manifest, &b->manifest));
    assert_true(joust_digest_equal(&a->weights, &b->weights));
    assert_int_equal(a->n_steps, b->n_steps);
    assert_true(joust_digest_equal(&a->steps, &b->steps));
    assert_true(a->gap == b->gap);
    assert_int_equal(a->n_compared, b->n_compared);
}

static void the_rollouts_log_probs_are_the_trainers(void **state)
{
    bench *b = *state;
    forget_progress(b);
    uint64_t n_tokens = 0;
    for (uint32_t i = 0; i < N_PAIRS; i++)
        n_tokens += b->pairs[i].n_chosen + b->pairs[i].n_rejected;
    outcome o = finish(b);
    assert_true(o.gap == 0);
    assert_int_equal(o.n_compared, n_tokens);
    assert_int_equal(o.n_steps, b->job.train.max_steps);
    /* A recorded log-prob that is a bit off is seen. */
    float kept = b->pairs[2].chosen_logps[0];
    b->pairs[2].chosen_logps[0] += 0.25f;
    forget_progress(b);
    o = finish(b);
    b->pairs[2].chosen_logps[0] = kept;
    assert_float_equal(o.gap, 0.25, 1e-6);
    /* Tokens of another version are not compared. */
    b->pairs[2].chosen_policy = 2;
    forget_progress(b);
    o = finish(b);
    b->pairs[2].chosen_policy = 3;
    assert_int_equal(o.n_compared, n_tokens - b->pairs[2].n_chosen);
}

/* Stops the work after every possible check, resumes at what was durable, and ends with the same
 * bytes. */
static void check_resumed(bench *b)
{
    joust_error err;
    forget_progress(b);
    outcome quiet = finish(b);
    uint64_t n_checks = b->fake.n_checks;
    assert_true(n_checks > N_PAIRS);
    uint32_t n_resumed = 0;
    for (uint64_t stop = 1; stop < n_checks; stop++) {
        joust_training t = training(b);
        joust_unit_result r = {0};
        forget_progress(b);
        b->fake.interrupt_after = stop;
        check_status(JOUST_INTERRUPTED, joust_training_run(&t, &b->unit, &r, &err));
        b->fake.interrupt_after = 0;
        b->unit.resume_step = b->fake.step;
        b->unit.resume = b->fake.state;
        n_resumed += b->fake.step > 0;
        while (b->fake.n_answers > 0)
            joust_message_fini(&b->fake.answers[--b->fake.n_answers]);
        outcome o = finish(b);
        check_equal(&quiet, &o);
    }
    assert_true(n_resumed >= 4);
}

static void resumed_equals_uninterrupted(void **state)
{
    check_resumed(*state);
}

/* With a reference that the trainer keeps, and one that moves; each changes what is learnt. */
static void live_references_resume_too(void **state)
{
    bench *b = *state;
    joust_job_train *train = &b->job.train, kept = *train;
    outcome outcomes[4];
    for (uint32_t i = 0; i < 4; i++) {
        *train = kept;
        train->loss = i & 1 ? JOUST_LOSS_KTO : JOUST_LOSS_DPO;
        train->objective.reference_sync_steps = i & 2 ? 2 : 0;
        b->plan.stages[b->unit.unit.stage].train = *train;
        forget_progress(b);
        outcomes[i] = finish(b);
        for (uint32_t k = 0; k < i; k++)
            assert_false(joust_digest_equal(&outcomes[i].weights, &outcomes[k].weights));
        if (i)
            check_resumed(b);
    }
    *train = kept;
    b->plan.stages[b->unit.unit.stage].train = kept;
}

/* An adapter: the first one beside the base, and the one of a version, which answered and goes on; the base is its
 * reference, for DPO before the first step and for KTO at every one. Another adapter than the version's is refused, and so
 * is the adapter where none is asked for. */
static void adapters_resume_too(void **state)
{
    bench *b = *state;
    joust_error err;
    joust_job_train *train = &b->job.train, kept = *train;
    const joust_model_ref base = b->unit.model;
    const char *dir = NULL;
    char copy[512];
    *train = kept;
    train->has_lora = true;
    train->lora = (joust_lora_settings){.rank = 3, .targets = JOUST_LORA_ALL, .alpha = 12};
    train->learning_rate = 0.05;
    b->plan.stages[b->unit.unit.stage].train = *train;
    forget_progress(b);
    outcome first = finish(b);
    check_resumed(b);
    assert_true(first.gap == 0 && first.n_compared > 0);
    check_ok(joust_cache_fetch(b->cache, &b->fake.up, &first.manifest, &dir, &err));
    snprintf(copy, sizeof(copy), "%s", dir);
    b->unit.model.manifest = first.manifest;
    drop_groups(b);
    make_pairs(b, copy);
    joust_digest weights[2];
    for (uint32_t i = 0; i < 2; i++) {
        train->loss = i ? JOUST_LOSS_KTO : JOUST_LOSS_DPO;
        b->plan.stages[b->unit.unit.stage].train = *train;
        forget_progress(b);
        outcome second = finish(b);
        assert_true(second.gap == 0 && second.n_compared > 0);
        assert_false(joust_digest_equal(&first.weights, &second.weights));
        weights[i] = second.weights;
        check_resumed(b);
    }
    assert_false(joust_digest_equal(&weights[0], &weights[1]));
    joust_unit_result r = {0};
    for (uint32_t i = 0; i < 2; i++) {
        train->has_lora = i;
        train->lora.rank = 4;
        b->plan.stages[b->unit.unit.stage].train = *train;
        forget_progress(b);
        joust_training t = training(b);
        check_status(JOUST_INVALID, joust_training_run(&t, &b->unit, &r, &err));
        assert_non_null(strstr(err.text, "joust model convert"));
    }
    *train = kept;
    b->plan.stages[b->unit.unit.stage].train = kept;
    b->unit.model = base;
    drop_groups(b);
    check_ok(joust_cache_fetch(b->cache, &b->fake.up, &base.manifest, &dir, &err));
    snprintf(copy, sizeof(copy), "%s", dir);
    make_pairs(b, copy);
}

/* Policy losses: answers with advantages, with and without a reference; each setting changes what is learnt, and all resume. */
static void policy_losses_resume_too(void **state)
{
    bench *b = *state;
    joust_job_train *train = &b->job.train, kept = *train;
    joust_train_row_pair pairs[N_PAIRS];
    joust_model_ref reference = b->unit.reference;
    outcome outcomes[4];
    char dir[512];
    uint64_t n_tokens = 0;
    memcpy(pairs, b->pairs, sizeof(pairs));
    for (uint32_t i = 0; i < N_PAIRS; i++) {
        b->pairs[i].n_rejected = 0;
        b->pairs[i].margin = (double)i - 3;
        n_tokens += b->pairs[i].n_chosen;
    }
    tiny_dir("trainer_reference", dir);
    tiny_folder_write(dir, true, 77);
    for (uint32_t i = 0; i < 4; i++) {
        *train = kept;
        train->loss = i == 1 ? JOUST_LOSS_RLOO : JOUST_LOSS_GRPO;
        train->policy.kl_weight = i < 2 ? 0 : 0.5;
        if (i == 3) { /* another model than the one that answered */
            b->unit.reference.version = 0;
            b->unit.reference.manifest = fake_upstream_import(&b->fake, dir);
        }
        b->plan.stages[b->unit.unit.stage].train = *train;
        forget_progress(b);
        outcomes[i] = finish(b);
        assert_true(outcomes[i].gap == 0);
        assert_int_equal(outcomes[i].n_compared, n_tokens);
        for (uint32_t k = 0; k < i; k++)
            assert_false(joust_digest_equal(&outcomes[i].weights, &outcomes[k].weights));
        check_resumed(b);
    }
    /* It is the advantages that teach. */
    for (uint32_t i = 0; i < N_PAIRS; i++)
        b->pairs[i].margin = -b->pairs[i].margin;
    forget_progress(b);
    outcome against = finish(b);
    assert_false(joust_digest_equal(&outcomes[3].weights, &against.weights));
    /* A recorded log-prob that is a bit off is seen, and a pair is no answer. */
    float logp = b->pairs[2].chosen_logps[0];
    b->pairs[2].chosen_logps[0] += 0.25f;
    forget_progress(b);
    assert_float_equal(finish(b).gap, 0.25, 1e-6);
    b->pairs[2].chosen_logps[0] = logp;
    b->pairs[3].n_rejected = pairs[3].n_rejected;
    joust_training t = training(b);
    joust_unit_result r = {0};
    joust_error err;
    forget_progress(b);
    check_status(JOUST_MALFORMED, joust_training_run(&t, &b->unit, &r, &err));
    memcpy(b->pairs, pairs, sizeof(pairs));
    b->unit.reference = reference;
    *train = kept;
    b->plan.stages[b->unit.unit.stage].train = kept;
}

/* A side without tokens is trained on all the same. */
static void an_empty_answer_is_trained_on(void **state)
{
    bench *b = *state;
    joust_train_row_pair kept = b->pairs[1];
    b->pairs[1].n_rejected = 0;
    forget_progress(b);
    outcome o = finish(b);
    b->pairs[1] = kept;
    assert_true(o.gap == 0);
}

static void lost_requests_change_nothing(void **state)
{
    bench *b = *state;
    forget_progress(b);
    outcome quiet = finish(b);
    for (uint32_t lose = 2; lose < 6; lose++) {
        forget_progress(b);
        b->fake.lose_every = lose;
        b->fake.rows_at_most = lose - 1;
        outcome o = finish(b);
        check_equal(&quiet, &o);
    }
}

static void another_reference_changes_the_result(void **state)
{
    bench *b = *state;
    joust_error err;
    char dir[512];
    forget_progress(b);
    outcome same = finish(b);
    tiny_dir("trainer_reference", dir);
    tiny_folder_write(dir, true, 77);
    joust_model_ref kept = b->unit.reference;
    b->unit.reference.version = 0;
    b->unit.reference.manifest = fake_upstream_import(&b->fake, dir);
    forget_progress(b);
    outcome other = finish(b);
    assert_false(joust_digest_equal(&same.weights, &other.weights));
    assert_true(other.gap == 0);
    /* A missing reference says which. */
    b->unit.reference.manifest = joust_digest_of("nothing", 7);
    forget_progress(b);
    joust_training t = training(b);
    joust_unit_result r = {0};
    check_status(JOUST_NOT_FOUND, joust_training_run(&t, &b->unit, &r, &err));
    assert_non_null(strstr(err.text, "model policy version 0"));
    b->unit.reference = kept;
}

static void bad_units_are_refused(void **state)
{
    bench *b = *state;
    joust_error err;
    joust_training t = training(b);
    joust_unit_result r = {0};
    forget_progress(b);
    b->unit.n_rows = 0;
    check_status(JOUST_INVALID, joust_training_run(&t, &b->unit, &r, &err));
    b->unit.n_rows = N_PAIRS - 2; /* the coordinator sends pairs beyond them */
    check_status(JOUST_MALFORMED, joust_training_run(&t, &b->unit, &r, &err));
    b->unit.n_rows = N_PAIRS;
    forget_progress(b);
    finish(b);
    assert_true(b->fake.step > 1);
    b->unit.resume_step = 1; /* but the state is of a later step */
    b->unit.resume = b->fake.state;
    check_status(JOUST_CONFLICT, joust_training_run(&t, &b->unit, &r, &err));
    forget_progress(b);
}

static void init_draws_the_lineages_weights(void **state)
{
    bench *b = *state;
    joust_error err;
    char dir[512], expected_dir[512];
    tiny_dir("trainer_init", dir);
    tiny_folder_write(dir, false, 0);
    tiny_dir("trainer_expected", expected_dir);
    tiny_folder_write(expected_dir, true, b->job.models[0].init_seed);
    joust_lease_unit unit = {.model = {.lineage = "policy"}};
    unit.model.manifest = fake_upstream_import(&b->fake, dir);
    joust_training t = training(b);
    joust_unit_result r = {0};
    forget_progress(b);
    check_ok(joust_training_init(&t, &unit, &r, &err));
    joust_model *model = NULL;
    check_ok(joust_model_load(expected_dir, &model, &err));
    joust_digest expected = joust_model_digest(model);
    joust_model_free(&model);
    assert_true(joust_digest_equal(&r.model.model.weights, &expected));
    const char *fetched = NULL;
    check_ok(joust_cache_fetch(b->cache, &b->fake.up, &r.model.model.manifest, &fetched, &err));
    check_ok(joust_model_load(fetched, &model, &err));
    joust_digest is = joust_model_digest(model);
    joust_model_free(&model);
    assert_true(joust_digest_equal(&is, &expected));
    joust_unit_result_fini(&r);
    snprintf(unit.model.lineage, sizeof(unit.model.lineage), "nobody");
    check_status(JOUST_INVALID, joust_training_init(&t, &unit, &r, &err));
}

/* Supervised rows from a data file, in either order, resumed or not. */
static void supervised_rows(void **state)
{
    static const char rows[] =
        "{\"parts\":[{\"text\":\"<bos> a b\"},{\"text\":\"<ans> c d <eos>\",\"learn\":1}]}\n"
        "{\"parts\":[{\"text\":\"<bos> b\"},{\"text\":\"<ans> 1 <eos>\",\"learn\":0.5}]}\n"
        "{\"parts\":[{\"text\":\"<bos> c <judge>\"},{\"text\":\"yes\",\"label\":\"yes\"}],"
        "\"classes\":[\"yes\",\"no\"]}\n";
    bench *b = *state;
    joust_error err;
    char dir[512], path[600];
    tiny_dir("trainer_rows", dir);
    snprintf(path, sizeof(path), "%s/rows.jsonl", dir);
    check_ok(joust_file_write(path, rows, strlen(rows), &err));
    joust_stage *stage = &b->plan.stages[b->unit.unit.stage];
    joust_job_train kept = stage->train;
    stage->train.loss = JOUST_LOSS_SFT;
    stage->train.data = path;
    b->unit.data = fake_upstream_import(&b->fake, dir);
    b->unit.n_rows = 0;
    joust_digest weights[2];
    for (int shuffled = 0; shuffled < 2; shuffled++) {
        stage->train.data_order = shuffled ? JOUST_ORDER_SHUFFLE : JOUST_ORDER_FILE;
        forget_progress(b);
        outcome quiet = finish(b);
        assert_int_equal(quiet.n_steps, stage->train.max_steps);
        weights[shuffled] = quiet.weights;
        joust_training t = training(b);
        joust_unit_result r = {0};
        forget_progress(b);
        uint32_t step = 0;
        for (uint64_t stop = 1; step == 0; stop++) {
            forget_progress(b);
            b->fake.interrupt_after = stop;
            check_status(JOUST_INTERRUPTED, joust_training_run(&t, &b->unit, &r, &err));
            step = b->fake.step;
        }
        b->fake.interrupt_after = 0;
        b->unit.resume_step = b->fake.step;
        b->unit.resume = b->fake.state;
        outcome resumed = finish(b);
        check_equal(&quiet, &resumed);
    }
    assert_false(joust_digest_equal(&weights[0], &weights[1]));
    stage->train = kept;
    b->unit.n_rows = N_PAIRS;
    b->unit.data = (joust_digest){{0}};
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_rollouts_log_probs_are_the_trainers),
        cmocka_unit_test(resumed_equals_uninterrupted),
        cmocka_unit_test(policy_losses_resume_too),
        cmocka_unit_test(live_references_resume_too),
        cmocka_unit_test(adapters_resume_too),
        cmocka_unit_test(an_empty_answer_is_trained_on),
        cmocka_unit_test(lost_requests_change_nothing),
        cmocka_unit_test(another_reference_changes_the_result),
        cmocka_unit_test(bad_units_are_refused),
        cmocka_unit_test(init_draws_the_lineages_weights),
        cmocka_unit_test(supervised_rows),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
