/* Training units against a coordinator in memory: resumed equals uninterrupted, and the rollout's
 * log-probs are the trainer's. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/codec.h"
#include "worker/trainer_bench.h"

static void the_rollouts_log_probs_are_the_trainers(void **state)
{
    bench *b = *state;
    bench_forget_progress(b);
    uint64_t n_tokens = 0;
    for (uint32_t i = 0; i < N_PAIRS; i++)
        n_tokens += b->pairs[i].n_chosen + b->pairs[i].n_rejected;
    outcome o = bench_finish(b);
    assert_true(o.gap == 0);
    assert_int_equal(o.n_compared, n_tokens);
    assert_int_equal(o.n_steps, b->job.train.max_steps);
    /* A recorded log-prob that is a bit off is seen. */
    float kept = b->pairs[2].chosen_logps[0];
    b->pairs[2].chosen_logps[0] += 0.25f;
    bench_forget_progress(b);
    o = bench_finish(b);
    b->pairs[2].chosen_logps[0] = kept;
    assert_float_equal(o.gap, 0.25, 1e-6);
    /* Tokens of another version are not compared. */
    b->pairs[2].chosen_policy = 2;
    bench_forget_progress(b);
    o = bench_finish(b);
    b->pairs[2].chosen_policy = 3;
    assert_int_equal(o.n_compared, n_tokens - b->pairs[2].n_chosen);
}

static void resumed_equals_uninterrupted(void **state)
{
    bench_check_resumed(*state);
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
        bench_forget_progress(b);
        outcomes[i] = bench_finish(b);
        for (uint32_t k = 0; k < i; k++)
            assert_false(joust_digest_equal(&outcomes[i].weights, &outcomes[k].weights));
        if (i)
            bench_check_resumed(b);
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
    bench_forget_progress(b);
    outcome first = bench_finish(b);
    bench_check_resumed(b);
    assert_true(first.gap == 0 && first.n_compared > 0);
    check_ok(joust_cache_fetch(b->cache, &b->fake.up, &first.manifest, &dir, &err));
    snprintf(copy, sizeof(copy), "%s", dir);
    b->unit.model.manifest = first.manifest;
    bench_drop_groups(b);
    bench_make_pairs(b, copy);
    joust_digest weights[2];
    for (uint32_t i = 0; i < 2; i++) {
        train->loss = i ? JOUST_LOSS_KTO : JOUST_LOSS_DPO;
        b->plan.stages[b->unit.unit.stage].train = *train;
        bench_forget_progress(b);
        outcome second = bench_finish(b);
        assert_true(second.gap == 0 && second.n_compared > 0);
        assert_false(joust_digest_equal(&first.weights, &second.weights));
        weights[i] = second.weights;
        bench_check_resumed(b);
    }
    assert_false(joust_digest_equal(&weights[0], &weights[1]));
    joust_unit_result r = {0};
    for (uint32_t i = 0; i < 2; i++) {
        train->has_lora = i;
        train->lora.rank = 4;
        b->plan.stages[b->unit.unit.stage].train = *train;
        bench_forget_progress(b);
        joust_training t = bench_training(b);
        check_status(JOUST_INVALID, joust_training_run(&t, &b->unit, &r, &err));
        assert_non_null(strstr(err.text, "joust model convert"));
    }
    *train = kept;
    b->plan.stages[b->unit.unit.stage].train = kept;
    b->unit.model = base;
    bench_drop_groups(b);
    check_ok(joust_cache_fetch(b->cache, &b->fake.up, &base.manifest, &dir, &err));
    snprintf(copy, sizeof(copy), "%s", dir);
    bench_make_pairs(b, copy);
}

/* KTO on answers by themselves, numbered as the coordinator numbers answers: not from 0 to n - 1. */
static void single_answers_are_trained_on(void **state)
{
    bench *b = *state;
    joust_job_train *train = &b->plan.stages[b->unit.unit.stage].train, kept = *train;
    joust_train_row_pair pairs[N_PAIRS];
    joust_digest weights[2];
    memcpy(pairs, b->pairs, sizeof(pairs));
    train->loss = JOUST_LOSS_KTO;
    train->unpaired = true;
    b->fake.first_ordinal = 40;
    b->fake.ordinal_step = 3;
    for (uint32_t k = 0; k < 2; k++) { /* the other way round they are other labels */
        for (uint32_t i = 0; i < N_PAIRS; i++) {
            b->pairs[i] = pairs[i];
            if (i % 2 == k)
                b->pairs[i].n_rejected = 0;
            else
                b->pairs[i].n_chosen = 0;
        }
        bench_forget_progress(b);
        const outcome o = bench_finish(b);
        assert_true(o.gap == 0 && o.n_compared > 0);
        weights[k] = o.weights;
        bench_check_resumed(b);
    }
    assert_false(joust_digest_equal(&weights[0], &weights[1]));
    train->unpaired = false; /* pairs are numbered from 0 */
    bench_forget_progress(b);
    joust_training t = bench_training(b);
    joust_unit_result r = {0};
    joust_error err;
    check_status(JOUST_MALFORMED, joust_training_run(&t, &b->unit, &r, &err));
    b->fake.first_ordinal = b->fake.ordinal_step = 0;
    memcpy(b->pairs, pairs, sizeof(pairs));
    *train = kept;
}

/* A side without tokens is trained on all the same. */
static void an_empty_answer_is_trained_on(void **state)
{
    bench *b = *state;
    joust_train_row_pair kept = b->pairs[1];
    b->pairs[1].n_rejected = 0;
    bench_forget_progress(b);
    outcome o = bench_finish(b);
    b->pairs[1] = kept;
    assert_true(o.gap == 0);
}

static void lost_requests_change_nothing(void **state)
{
    bench *b = *state;
    bench_forget_progress(b);
    outcome quiet = bench_finish(b);
    for (uint32_t lose = 2; lose < 6; lose++) {
        bench_forget_progress(b);
        b->fake.lose_every = lose;
        b->fake.rows_at_most = lose - 1;
        outcome o = bench_finish(b);
        bench_check_equal(&quiet, &o);
    }
}

static void another_reference_changes_the_result(void **state)
{
    bench *b = *state;
    joust_error err;
    char dir[512];
    bench_forget_progress(b);
    outcome same = bench_finish(b);
    tiny_dir("trainer_reference", dir);
    tiny_folder_write(dir, true, 77);
    joust_model_ref kept = b->unit.reference;
    b->unit.reference.version = 0;
    b->unit.reference.manifest = fake_upstream_import(&b->fake, dir);
    bench_forget_progress(b);
    outcome other = bench_finish(b);
    assert_false(joust_digest_equal(&same.weights, &other.weights));
    assert_true(other.gap == 0);
    /* A missing reference says which. */
    b->unit.reference.manifest = joust_digest_of("nothing", 7);
    bench_forget_progress(b);
    joust_training t = bench_training(b);
    joust_unit_result r = {0};
    check_status(JOUST_CONFLICT, joust_training_run(&t, &b->unit, &r, &err));
    assert_non_null(strstr(err.text, "model policy version 0"));
    b->unit.reference = kept;
}

static void bad_units_are_refused(void **state)
{
    bench *b = *state;
    joust_error err;
    joust_training t = bench_training(b);
    joust_unit_result r = {0};
    bench_forget_progress(b);
    b->unit.n_rows = 0;
    check_status(JOUST_INVALID, joust_training_run(&t, &b->unit, &r, &err));
    b->unit.n_rows = N_PAIRS - 2; /* the coordinator sends pairs beyond them */
    check_status(JOUST_MALFORMED, joust_training_run(&t, &b->unit, &r, &err));
    b->unit.n_rows = N_PAIRS;
    bench_forget_progress(b);
    bench_finish(b);
    assert_true(b->fake.step > 1);
    b->unit.resume_step = 1; /* but the state is of a later step */
    b->unit.resume = b->fake.state;
    check_status(JOUST_CONFLICT, joust_training_run(&t, &b->unit, &r, &err));
    bench_forget_progress(b);
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
    joust_training t = bench_training(b);
    joust_unit_result r = {0};
    bench_forget_progress(b);
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
        bench_forget_progress(b);
        outcome quiet = bench_finish(b);
        assert_int_equal(quiet.n_steps, stage->train.max_steps);
        weights[shuffled] = quiet.weights;
        joust_training t = bench_training(b);
        joust_unit_result r = {0};
        bench_forget_progress(b);
        uint32_t step = 0;
        for (uint64_t stop = 1; step == 0; stop++) {
            bench_forget_progress(b);
            b->fake.interrupt_after = stop;
            check_status(JOUST_INTERRUPTED, joust_training_run(&t, &b->unit, &r, &err));
            step = b->fake.step;
        }
        b->fake.interrupt_after = 0;
        b->unit.resume_step = b->fake.step;
        b->unit.resume = b->fake.state;
        outcome resumed = bench_finish(b);
        bench_check_equal(&quiet, &resumed);
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
        cmocka_unit_test(live_references_resume_too),
        cmocka_unit_test(adapters_resume_too),
        cmocka_unit_test(single_answers_are_trained_on),
        cmocka_unit_test(an_empty_answer_is_trained_on),
        cmocka_unit_test(lost_requests_change_nothing),
        cmocka_unit_test(another_reference_changes_the_result),
        cmocka_unit_test(bad_units_are_refused),
        cmocka_unit_test(init_draws_the_lineages_weights),
        cmocka_unit_test(supervised_rows),
    };
    return cmocka_run_group_tests(tests, bench_setup, bench_teardown);
}
