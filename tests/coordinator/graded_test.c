/* What a policy loss takes of a group: advantages among the answers that have a reward. */
#include "check.h"

#include <string.h>

#include "coordinator/graded.h"
#include "proto/base/alloc.h"
#include "tests/oom.h"

enum { N = 4 };

typedef struct sample {
    joust_trajectory trajectories[N];
    joust_reward rewards[N];
    joust_graded group;
} sample;

static sample make(const double *values)
{
    sample s = {.group = {.n = N}};
    for (uint32_t i = 0; i < N; i++) {
        s.trajectories[i].n_tokens = 3;
        s.rewards[i] = (joust_reward){true, values[i]};
    }
    return s;
}

static bool credit(sample *s, joust_advantage kind, joust_credit *ret)
{
    joust_error err;
    bool decided = false;
    joust_credit *credit;
    s->group.trajectories = s->trajectories;
    s->group.rewards = s->rewards;
    check_ok(
        joust_graded_credit(&s->group, &(joust_stage){.advantage = kind}, &credit, &decided, &err));
    memcpy(ret, credit, N * sizeof(*ret));
    joust_free(credit);
    return decided;
}

static void advantages_are_of_the_group(void **state)
{
    joust_credit got[N];
    sample s = make((const double[]){1, 0, 0, 3});
    (void)state;
    assert_true(credit(&s, JOUST_ADVANTAGE_CENTRED, got));
    assert_true(got[0].advantage == 0 && got[1].advantage == -1 && got[3].advantage == 2);
    assert_true(credit(&s, JOUST_ADVANTAGE_LEAVE_ONE_OUT, got));
    assert_float_equal(got[3].advantage, 3 - 1.0 / 3, 1e-12);
    for (uint32_t i = 0; i < N; i++)
        assert_true(got[i].used);
}

/* No reward is no zero: the others' mean is theirs alone. */
static void who_has_no_reward_has_no_part(void **state)
{
    joust_credit got[N];
    sample s = make((const double[]){1, 99, 2, 3});
    (void)state;
    s.rewards[1].has = false;
    assert_true(credit(&s, JOUST_ADVANTAGE_CENTRED, got));
    assert_false(got[1].used);
    assert_true(got[0].advantage == -1 && got[2].advantage == 0 && got[3].advantage == 1);
}

/* An empty answer has a reward that counts, and nothing to train. */
static void an_empty_answer_counts_but_is_not_trained_on(void **state)
{
    joust_credit got[N];
    sample s = make((const double[]){0, 2, 2, 4});
    (void)state;
    s.trajectories[0].n_tokens = 0;
    assert_true(credit(&s, JOUST_ADVANTAGE_CENTRED, got));
    assert_false(got[0].used);
    assert_true(got[1].used && got[3].advantage == 2);
}

static void equal_rewards_decide_nothing(void **state)
{
    static const joust_advantage kinds[] = {JOUST_ADVANTAGE_CENTRED, JOUST_ADVANTAGE_STANDARDISED,
                                            JOUST_ADVANTAGE_LEAVE_ONE_OUT};
    joust_credit got[N];
    (void)state;
    for (uint32_t k = 0; k < 3; k++) {
        sample s = make((const double[]){0.1, 0.1, 0.1, 0.1});
        assert_false(credit(&s, kinds[k], got));
        for (uint32_t i = 0; i < N; i++)
            assert_true(got[i].used && got[i].advantage == 0);
        for (uint32_t i = 1; i < N; i++) /* one reward alone, then none */
            s.rewards[i].has = false;
        assert_false(credit(&s, kinds[k], got));
        assert_true(got[0].used && !got[1].used);
        s.rewards[0].has = false;
        assert_false(credit(&s, kinds[k], got));
        assert_false(got[0].used);
    }
}

static joust_status without_memory(void *context, joust_error *err)
{
    joust_credit *credit = NULL;
    bool decided;
    sample *s = context;
    s->group.trajectories = s->trajectories;
    s->group.rewards = s->rewards;
    joust_status st = joust_graded_credit(
        &s->group, &(joust_stage){.advantage = JOUST_ADVANTAGE_CENTRED}, &credit, &decided, err);
    joust_free(credit);
    return st;
}

static void out_of_memory(void **state)
{
    sample s = make((const double[]){1, 2, 3, 4});
    (void)state;
    assert_true(check_oom(without_memory, &s) > 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(advantages_are_of_the_group),
        cmocka_unit_test(who_has_no_reward_has_no_part),
        cmocka_unit_test(an_empty_answer_counts_but_is_not_trained_on),
        cmocka_unit_test(equal_rewards_decide_nothing), cmocka_unit_test(out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
