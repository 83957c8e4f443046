#include "worker/trainer_bench.h"

#include <string.h>

#include "check.h"

#include "proto/base/alloc.h"
#include "proto/codec.h"
#include "worker/rollout.h"

#ifndef BENCH /* of the folders: programs run side by side */
#define BENCH "trainer"
#endif

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
void bench_make_pairs(bench *b, const char *dir)
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

int bench_setup(void **state)
{
    joust_error err;
    bench *b = joust_calloc(1, sizeof(*b));
    char dir[512], cache[512];
    tiny_job_make(&b->job, &b->plan);
    fake_upstream_init(&b->fake);
    check_ok(joust_engine_create(&(joust_engine_options){.n_threads = 2}, &b->engine, &err));
    tiny_dir(BENCH, dir);
    tiny_folder_write(dir, true, 1);
    tiny_dir(BENCH "_cache", cache);
    check_ok(joust_cache_create(cache, 1u << 30, &b->cache, &err));
    const joust_stage *stage = tiny_stage(&b->job, &b->plan, JOUST_STAGE_TRAIN, NULL);
    b->unit = (joust_lease_unit){.unit = {.round = 1, .stage = stage->index},
                                 .lease = 9,
                                 .model = {.lineage = "policy", .version = 3},
                                 .out_version = 4,
                                 .n_rows = N_PAIRS};
    b->unit.model.manifest = fake_upstream_import(&b->fake, dir);
    b->unit.reference = b->unit.model;
    bench_make_pairs(b, dir);
    b->fake.pairs = b->pairs;
    b->fake.n_pairs = N_PAIRS;
    *state = b;
    return 0;
}

void bench_drop_groups(bench *b)
{
    for (uint32_t i = 0; i < N_PAIRS; i++) {
        for (uint32_t k = 0; k < b->n_samples; k++)
            joust_trajectory_fini(&b->groups[i][k]);
        joust_free(b->groups[i]);
    }
}

int bench_teardown(void **state)
{
    bench *b = *state;
    bench_drop_groups(b);
    fake_upstream_fini(&b->fake);
    joust_cache_free(&b->cache);
    joust_engine_free(&b->engine);
    joust_job_fini(&b->job);
    joust_free(b);
    return 0;
}

joust_training bench_training(bench *b)
{
    return (joust_training){.engine = b->engine,
                            .job = &b->job,
                            .stage = &b->plan.stages[b->unit.unit.stage],
                            .up = &b->fake.up,
                            .cache = b->cache};
}

void bench_forget_progress(bench *b)
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

outcome bench_finish(bench *b)
{
    joust_error err;
    joust_training t = bench_training(b);
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
    assert_true(r.n_metrics <= 8);
    o.n_metrics = r.n_metrics;
    for (uint32_t i = 0; i < r.n_metrics; i++) {
        o.metrics[i] = r.metrics[i];
        if (strcmp(r.metrics[i].name, JOUST_METRIC_LOGP_GAP) != 0)
            continue;
        o.gap = r.metrics[i].value;
        o.n_compared = r.metrics[i].n;
    }
    joust_unit_result_fini(&r);
    return o;
}

void bench_check_equal(const outcome *a, const outcome *b)
{
    assert_true(joust_digest_equal(&a->manifest, &b->manifest));
    assert_true(joust_digest_equal(&a->weights, &b->weights));
    assert_int_equal(a->n_steps, b->n_steps);
    assert_true(joust_digest_equal(&a->steps, &b->steps));
    assert_true(a->gap == b->gap);
    assert_int_equal(a->n_compared, b->n_compared);
    assert_int_equal(a->n_metrics, b->n_metrics);
    for (uint32_t i = 0; i < a->n_metrics; i++)
        assert_true(a->metrics[i].value == b->metrics[i].value);
}

/* Stops the work after checks all over it, within steps and between them, resumes at what was durable, and ends with the same
 * bytes. */
void bench_check_resumed(bench *b)
{
    enum { STOPS = 60 };
    joust_error err;
    bench_forget_progress(b);
    outcome quiet = bench_finish(b);
    uint64_t n_checks = b->fake.n_checks;
    assert_true(n_checks > N_PAIRS);
    uint32_t n_resumed = 0;
    for (uint64_t stop = 1; stop < n_checks; stop += 1 + n_checks / STOPS) {
        joust_training t = bench_training(b);
        joust_unit_result r = {0};
        bench_forget_progress(b);
        b->fake.interrupt_after = stop;
        check_status(JOUST_INTERRUPTED, joust_training_run(&t, &b->unit, &r, &err));
        b->fake.interrupt_after = 0;
        b->unit.resume_step = b->fake.step;
        b->unit.resume = b->fake.state;
        n_resumed += b->fake.step > 0;
        while (b->fake.n_answers > 0)
            joust_message_fini(&b->fake.answers[--b->fake.n_answers]);
        outcome o = bench_finish(b);
        bench_check_equal(&quiet, &o);
    }
    assert_true(n_resumed >= 4);
}
