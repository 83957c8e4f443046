#include "check.h"

#include <math.h>
#include <string.h>

#include "coordinator/pairing.h"

static char best_worst[] = "best-worst";

static joust_job_pairs rule(void)
{
    return (joust_job_pairs){
        .build = best_worst, .min_chosen = -INFINITY, .max_rejected = INFINITY};
}

static const char *const letters[] = {"a", "b", "c", "d"};

static joust_pairing decide(const joust_job_pairs *by, const joust_reward *rewards,
                            const char *const *texts, uint32_t n)
{
    joust_group group = {.n = n, .texts = texts, .rewards = rewards};
    joust_pairing pairing;
    joust_error err;
    check_ok(joust_pairing_decide(by, &group, &group, &pairing, &err));
    return pairing;
}

static void ties_go_to_the_lowest_sample(void **state)
{
    const joust_reward rewards[] = {{true, 1}, {true, 3}, {true, 3}, {true, 1}};
    joust_job_pairs by = rule();
    joust_pairing p = decide(&by, rewards, letters, 4);
    (void)state;
    assert_int_equal(p.outcome, JOUST_PAIRING_DECIDED);
    assert_int_equal(p.chosen, 1);
    assert_int_equal(p.rejected, 0);
    assert_true(p.chosen_reward == 3 && p.rejected_reward == 1 && p.margin == 2);
}

static void samples_without_reward_are_passed_over(void **state)
{
    const joust_reward rewards[] = {{false, 0}, {true, 2}, {true, 1}, {false, 0}};
    const joust_reward none[] = {{false, 0}, {false, 0}};
    joust_job_pairs by = rule();
    joust_pairing p = decide(&by, rewards, letters, 4);
    (void)state;
    assert_int_equal(p.chosen, 1);
    assert_int_equal(p.rejected, 2);
    assert_int_equal(decide(&by, none, letters, 2).outcome, JOUST_PAIRING_NO_REWARD);
}

static void floors_and_margins_hold(void **state)
{
    const joust_reward rewards[] = {{true, 1.5}, {true, 0}}, equal[] = {{true, 1}, {true, 1}};
    joust_job_pairs by = rule();
    (void)state;
    assert_int_equal(decide(&by, equal, letters, 2).outcome, JOUST_PAIRING_NO_MARGIN);
    by.min_margin = 1.5; /* has to be more */
    assert_int_equal(decide(&by, rewards, letters, 2).outcome, JOUST_PAIRING_NO_MARGIN);
    by = rule();
    by.min_chosen = 1.5;
    by.max_rejected = 0; /* both are allowed to be met exactly */
    assert_int_equal(decide(&by, rewards, letters, 2).outcome, JOUST_PAIRING_DECIDED);
    by.min_chosen = 1.6;
    assert_int_equal(decide(&by, rewards, letters, 2).outcome, JOUST_PAIRING_CHOSEN_FLOOR);
    by = rule();
    by.max_rejected = -0.1;
    assert_int_equal(decide(&by, rewards, letters, 2).outcome, JOUST_PAIRING_REJECTED_FLOOR);
}

static void identical_texts_make_no_pair(void **state)
{
    const joust_reward rewards[] = {{true, 2}, {true, 1}, {true, 0}};
    const char *const same[] = {"a", "a", "a"}, *const mixed[] = {"a", "b", "a"};
    joust_job_pairs by = rule();
    joust_group group = {.n = 3, .texts = same, .rewards = rewards};
    (void)state;
    assert_int_equal(decide(&by, rewards, same, 3).outcome, JOUST_PAIRING_IDENTICAL);
    assert_int_equal(decide(&by, rewards, mixed, 3).outcome, JOUST_PAIRING_IDENTICAL);
    assert_true(joust_group_is_identical(&group));
    group.texts = mixed;
    assert_false(joust_group_is_identical(&group));
    group.n = 1;
    assert_false(joust_group_is_identical(&group));
}

static void the_rejected_may_come_from_another_policy(void **state)
{
    const joust_reward mine[] = {{true, 1}, {true, 2}}, old[] = {{true, 0.5}, {true, -3}};
    const char *const old_texts[] = {"x", "y"};
    joust_group chosen = {.n = 2, .texts = letters, .rewards = mine};
    joust_group rejected = {.n = 2, .texts = old_texts, .rewards = old};
    joust_job_pairs by = rule();
    joust_pairing p;
    joust_error err;
    (void)state;
    check_ok(joust_pairing_decide(&by, &chosen, &rejected, &p, &err));
    assert_int_equal(p.chosen, 1);
    assert_int_equal(p.rejected, 1);
    assert_true(p.margin == 5);
    check_ok(joust_pairing_decide(&by, &rejected, &chosen, &p, &err));
    assert_int_equal(p.outcome, JOUST_PAIRING_NO_MARGIN); /* its best is worse than our worst */
}

static void an_unknown_rule_is_named(void **state)
{
    char unknown[] = "all-pairs";
    joust_job_pairs by = rule();
    joust_group group = {0};
    joust_pairing p;
    joust_error err;
    (void)state;
    by.build = unknown;
    check_status(JOUST_UNSUPPORTED, joust_pairing_decide(&by, &group, &group, &p, &err));
    assert_non_null(strstr(err.text, unknown));
}

static void the_record_says_where_it_comes_from(void **state)
{
    const joust_trajectory chosen = {.key = {2, 0, 7}, .sample = 3, .policy = {.version = 4}};
    const joust_trajectory rejected = {.key = {2, 1, 7}, .sample = 1, .policy = {.version = 0}};
    joust_pair_source source = {.key = {2, 5, 7}, .chosen = &chosen, .rejected = &rejected};
    joust_pairing p = {.chosen = 3, .rejected = 1, .chosen_reward = 2, .margin = 2};
    joust_job_pairs by = rule();
    joust_pair pair;
    (void)state;
    source.chosen_digest.bytes[0] = 9;
    joust_pairing_record(&by, &p, &source, &pair);
    assert_int_equal(pair.key.stage, 5);
    assert_int_equal(pair.chosen.sample, 3);
    assert_int_equal(pair.chosen.digest.bytes[0], 9);
    assert_int_equal(pair.rejected.stage, 1);
    assert_int_equal(pair.policy.version, 4);
    assert_string_equal(pair.rule, "best-worst");
    assert_true(pair.margin == 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(ties_go_to_the_lowest_sample),
                                       cmocka_unit_test(samples_without_reward_are_passed_over),
                                       cmocka_unit_test(floors_and_margins_hold),
                                       cmocka_unit_test(identical_texts_make_no_pair),
                                       cmocka_unit_test(the_rejected_may_come_from_another_policy),
                                       cmocka_unit_test(an_unknown_rule_is_named),
                                       cmocka_unit_test(the_record_says_where_it_comes_from)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
