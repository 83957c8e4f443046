#include "check.h"

#include "coordinator/rewards.h"

static joust_verdict verdict(uint32_t sample, uint32_t other, double value)
{
    return (joust_verdict){.sample = sample,
                           .other = other,
                           .judge = "self",
                           .outcome = JOUST_OUTCOME_OK,
                           .has_value = true,
                           .value = value};
}

static void a_score_is_the_mean_of_values(void **state)
{
    joust_verdict verdicts[] = {verdict(0, JOUST_NONE, 1), verdict(0, JOUST_NONE, 4),
                                verdict(1, JOUST_NONE, -2), verdict(2, JOUST_NONE, 9)};
    joust_reward scores[4];
    joust_error err;
    (void)state;
    verdicts[3].has_value = false; /* a failed verdict is never a zero */
    verdicts[3].outcome = JOUST_OUTCOME_UNPARSABLE;
    check_ok(joust_rewards_score(verdicts, 4, 4, scores, &err));
    assert_true(scores[0].has && scores[0].value == 2.5);
    assert_true(scores[1].has && scores[1].value == -2);
    assert_false(scores[2].has);
    assert_false(scores[3].has);
}

static void comparisons_become_mean_preferences(void **state)
{
    const joust_verdict verdicts[] = {verdict(0, 1, 0.75), verdict(0, 2, 1), verdict(1, 2, 0.5)};
    joust_reward scores[3];
    joust_error err;
    (void)state;
    check_ok(joust_rewards_score(verdicts, 3, 3, scores, &err));
    assert_true(scores[0].value == 0.875); /* (3/4 + 1) / 2 */
    assert_true(scores[1].value == 0.375); /* (1/4 + 1/2) / 2 */
    assert_true(scores[2].value == 0.25);  /* (0 + 1/2) / 2 */
}

static void samples_outside_the_group_are_refused(void **state)
{
    const joust_verdict beyond = verdict(2, JOUST_NONE, 1), other = verdict(0, 2, 1);
    joust_reward scores[2];
    joust_error err;
    (void)state;
    check_status(JOUST_INVALID, joust_rewards_score(&beyond, 1, 2, scores, &err));
    check_status(JOUST_INVALID, joust_rewards_score(&other, 1, 2, scores, &err));
}

static void judges_are_combined(void **state)
{
    /* Two judges of three samples; the second has no value for sample 2. */
    const joust_reward scores[] = {{true, 1}, {true, 5},  {true, 3},
                                   {true, 2}, {true, -1}, {false, 0}};
    joust_reward rewards[3];
    (void)state;
    joust_rewards_combine(JOUST_COMBINE_MEAN, scores, 2, 3, rewards);
    assert_true(rewards[0].value == 1.5 && rewards[1].value == 2);
    assert_false(rewards[2].has);
    joust_rewards_combine(JOUST_COMBINE_MIN, scores, 2, 3, rewards);
    assert_true(rewards[0].value == 1 && rewards[1].value == -1 && !rewards[2].has);
    joust_rewards_combine(JOUST_COMBINE_MAX, scores, 2, 3, rewards);
    assert_true(rewards[0].value == 2 && rewards[1].value == 5 && !rewards[2].has);
    joust_rewards_combine(JOUST_COMBINE_MEAN, scores, 1, 3, rewards);
    assert_true(rewards[2].has && rewards[2].value == 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_score_is_the_mean_of_values),
                                       cmocka_unit_test(comparisons_become_mean_preferences),
                                       cmocka_unit_test(samples_outside_the_group_are_refused),
                                       cmocka_unit_test(judges_are_combined)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
