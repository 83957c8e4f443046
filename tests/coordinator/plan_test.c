#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "coordinator/sample_job.h"

static sample_job *fresh(uint32_t rounds)
{
    static sample_job job;
    sample_job_init(&job, rounds, 5);
    return &job;
}

/* Compiles and compares the names of the stages with `expected`, separated by spaces. */
static void expect(sample_job *s, const char *expected)
{
    char names[2048] = "";
    joust_error err;
    check_ok(joust_plan_compile(&s->job, &s->plan, &err));
    for (uint32_t i = 0; i < s->plan.n_stages; i++) {
        assert_int_equal(s->plan.stages[i].index, i);
        strcat(strcat(names, i ? " " : ""), s->plan.stages[i].name);
    }
    assert_string_equal(names, expected);
}

static void the_default_list(void **state)
{
    sample_job *s = fresh(4);
    (void)state;
    sample_job_evaluate(s);
    sample_job_promote(s);
    expect(s, "generate judge.self pair train evaluate.greedy evaluate.greedy.judge "
              "evaluate.sampled evaluate.sampled.judge evaluate.sampled.judged_by evaluate "
              "promote.greedy promote.greedy.judge promote");
    const joust_stage *stages = s->plan.stages;
    assert_int_equal(stages[1].of, 0);
    assert_int_equal(stages[2].of, 0);
    assert_int_equal(stages[2].of_rejected, 0);
    assert_int_equal(stages[3].pairs, 2);
    assert_int_equal(stages[4].samples, 1);
    assert_true(stages[4].sampling.temperature == 0);
    assert_int_equal(stages[6].samples, 3);
    assert_int_equal(stages[9].judge, 5);
    assert_int_equal(stages[9].judge_sampled, 7);
    assert_int_equal(stages[9].judged_by, 8);
    assert_int_equal(stages[12].judge, 11);
    /* The baseline evaluates and promotes, and does nothing else. */
    for (uint32_t i = 0; i < s->plan.n_stages; i++) {
        assert_int_equal(joust_stage_runs(&stages[i], 0), i >= 4);
        assert_true(joust_stage_runs(&stages[i], 1) && joust_stage_runs(&stages[i], 99));
    }
}

static void what_is_not_declared_is_left_out(void **state)
{
    sample_job *s = fresh(4);
    (void)state;
    expect(s, "generate judge.self pair train");
    s->job.has_train = false;
    expect(s, "generate judge.self pair");
    s->job.n_judges = 0;
    expect(s, "generate");
}

static void supervised_jobs_initialise_and_train(void **state)
{
    static char rows[] = "rows.jsonl";
    sample_job *s = fresh(1);
    (void)state;
    s->job.has_prompts = false;
    s->job.train.loss = JOUST_LOSS_SFT;
    s->job.train.data = rows;
    s->models[0].init = true;
    expect(s, "init.policy train");
    assert_int_equal(s->plan.stages[1].pairs, JOUST_NONE);
    assert_true(joust_stage_runs(&s->plan.stages[0], 0));
    assert_false(joust_stage_runs(&s->plan.stages[0], 1));
    for (int i = 0; i < 3; i++) {
        s->stages[i] = (joust_job_stage){
            .kind = JOUST_DECLARED_TRAIN, .has_train = i > 0, .train = s->job.train};
        s->stages[i].train.max_steps = (uint32_t)i + 10;
    }
    s->job.n_stages = 3;
    expect(s, "init.policy train train.2 train.3");
    assert_int_equal(s->plan.stages[1].train.max_steps, 0); /* the job's own */
    assert_int_equal(s->plan.stages[3].train.max_steps, 12);
}

static void the_temporal_arm_generates_and_judges_twice(void **state)
{
    sample_job *s = fresh(2);
    (void)state;
    s->job.pairs.rejected_model = sample_base;
    s->job.pairs.rejected_version = JOUST_PICK_INITIAL;
    expect(s, "generate generate.rejected judge.self judge.rejected.self pair train");
    const joust_stage *stages = s->plan.stages;
    assert_int_equal(stages[1].model, 1);
    assert_int_equal(stages[1].version, JOUST_PICK_INITIAL);
    assert_int_equal(stages[3].of, 1);
    assert_int_equal(stages[4].of, 0);
    assert_int_equal(stages[4].of_rejected, 1);
}

static void a_declared_list_keeps_its_order(void **state)
{
    const joust_declared list[] = {
        JOUST_DECLARED_PROMOTE, JOUST_DECLARED_GENERATE, JOUST_DECLARED_JUDGE, JOUST_DECLARED_PAIR,
        JOUST_DECLARED_TRAIN,   JOUST_DECLARED_GENERATE, JOUST_DECLARED_JUDGE};
    sample_job *s = fresh(2);
    (void)state;
    sample_job_promote(s);
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        s->stages[s->job.n_stages++].kind = list[i];
    expect(s, "promote.greedy promote.greedy.judge promote generate judge.self pair train "
              "generate.2 judge.2.self");
    assert_int_equal(s->plan.stages[8].of, 7);
}

static void expect_refusal(sample_job *s, const char *part)
{
    joust_error err;
    check_status(JOUST_INVALID, joust_plan_compile(&s->job, &s->plan, &err));
    if (!strstr(err.text, part))
        fail_msg("\"%s\" isn't in \"%s\"", part, err.text);
}

static void lists_that_make_no_sense_are_refused(void **state)
{
    sample_job *s = fresh(2);
    (void)state;
    s->job.n_stages = 1;
    s->stages[0].kind = JOUST_DECLARED_JUDGE;
    expect_refusal(s, "judge needs a generate stage");
    s->stages[0].kind = JOUST_DECLARED_PAIR;
    expect_refusal(s, "pair needs a judge stage");
    s->stages[0].kind = JOUST_DECLARED_TRAIN;
    expect_refusal(s, "train needs a pair stage");
    s = fresh(2);
    sample_job_promote(s);
    s->sets[2].per_round = 3;
    expect_refusal(s, "promote.prompts");
    s = fresh(2);
    s->job.has_prompts = s->job.has_train = false;
    expect_refusal(s, "nothing to do");
}

static void versions_are_monotone_over_rounds_and_stages(void **state)
{
    sample_job *s = fresh(3);
    uint64_t last = 0;
    joust_error err;
    (void)state;
    s->stages[0].kind = JOUST_DECLARED_GENERATE;
    s->stages[1].kind = JOUST_DECLARED_JUDGE;
    s->stages[2].kind = JOUST_DECLARED_PAIR;
    s->stages[3].kind = s->stages[4].kind = JOUST_DECLARED_TRAIN;
    s->job.n_stages = 5;
    check_ok(joust_plan_compile(&s->job, &s->plan, &err));
    for (uint32_t round = 1; round <= 3; round++) {
        for (uint32_t stage = 3; stage <= 4; stage++)
            assert_int_equal(joust_plan_out_version(&s->plan, round, stage), ++last);
    }
    assert_int_equal(joust_plan_out_version(&s->plan, 1, 0), 0);
}

static void prompts_are_walked_over_round_after_round(void **state)
{
    sample_job *s = fresh(3);
    const joust_job_set *walked = &s->sets[0], *fixed = &s->sets[1];
    joust_error err;
    (void)state;
    /* 7 lines, 5 a round: 0-4, 5 6 | 0 1 2 of the next pass, 3 4 5 6 | 0. */
    assert_int_equal(joust_plan_line(walked, 7, 1, 4), 4);
    assert_int_equal(joust_plan_line(walked, 7, 2, 1), 6);
    assert_int_equal(joust_plan_pass(walked, 7, 2, 1), 0);
    assert_int_equal(joust_plan_line(walked, 7, 2, 2), 0);
    assert_int_equal(joust_plan_pass(walked, 7, 2, 2), 1);
    assert_int_equal(joust_plan_line(walked, 7, 3, 4), 0);
    assert_int_equal(joust_plan_pass(walked, 7, 3, 4), 2);
    assert_int_equal(joust_plan_line(fixed, 7, 3, 4), 4);
    assert_int_equal(joust_plan_pass(fixed, 7, 3, 4), 0);
    check_ok(joust_plan_compile(&s->job, &s->plan, &err));
    assert_int_equal(joust_plan_positions(&s->job, &s->plan.stages[0], 7), 5);
    assert_int_equal(joust_plan_positions(&s->job, &s->plan.stages[0], 0), 0);
}

static void a_shuffle_is_a_permutation_of_its_pass(void **state)
{
    sample_job *s = fresh(1);
    uint32_t first[50], again[50], second[50], seen[50] = {0};
    (void)state;
    joust_plan_order(&s->job, 0, 0, first, 50);
    joust_plan_order(&s->job, 0, 0, again, 50);
    joust_plan_order(&s->job, 0, 1, second, 50);
    assert_memory_equal(first, again, sizeof first);
    assert_memory_not_equal(first, second, sizeof first);
    for (int i = 0; i < 50; i++)
        seen[first[i]]++;
    for (int i = 0; i < 50; i++)
        assert_int_equal(seen[i], 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_default_list),
        cmocka_unit_test(what_is_not_declared_is_left_out),
        cmocka_unit_test(supervised_jobs_initialise_and_train),
        cmocka_unit_test(the_temporal_arm_generates_and_judges_twice),
        cmocka_unit_test(a_declared_list_keeps_its_order),
        cmocka_unit_test(lists_that_make_no_sense_are_refused),
        cmocka_unit_test(versions_are_monotone_over_rounds_and_stages),
        cmocka_unit_test(prompts_are_walked_over_round_after_round),
        cmocka_unit_test(a_shuffle_is_a_permutation_of_its_pass)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
