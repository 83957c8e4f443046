#include "check.h"

#include <string.h>

#include "coordinator/measure.h"
#include "storage/metrics.h"

enum { MANY = 400 };

/* The first n_yes of n say yes. */
static joust_scores answers(joust_reward *room, uint64_t n_yes, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        room[i] = (joust_reward){.has = true, .value = i < n_yes};
    return (joust_scores){.n = n, .items = room, .threshold = 0.5};
}

static const joust_metric *find(const joust_metric *metrics, uint32_t n, const char *name)
{
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(metrics[i].name, name) == 0)
            return &metrics[i];
    }
    return NULL;
}

static void figures_of_an_evaluation(void **state)
{
    joust_reward greedy[4], base[4], sampled[4];
    const joust_reward tested[] = {{true, 3}, {true, -1}, {true, -2}, {false, 0}};
    joust_measure_input in = {.greedy = answers(greedy, 3, 4),
                              .base = answers(base, 1, 4),
                              .sampled = answers(sampled, 2, 4),
                              .judged_by = {.n = 4, .items = tested, .threshold = 0}};
    joust_metric metrics[JOUST_MEASURE_METRICS];
    joust_error err;
    uint32_t n;
    (void)state;
    check_ok(joust_measure(&in, metrics, &n, &err));
    assert_true(n <= JOUST_MEASURE_METRICS);
    assert_true(find(metrics, n, JOUST_METRIC_GREEDY_ACCURACY)->value == 0.75);
    assert_true(find(metrics, n, JOUST_METRIC_SAMPLED_ACCURACY)->value == 0.5);
    /* Two wins and two ties. */
    assert_true(find(metrics, n, JOUST_METRIC_WIN_RATE_BASE)->value == 0.75);
    assert_null(find(metrics, n, JOUST_METRIC_WIN_RATE_PREVIOUS));
    /* Truth yes yes no, judge yes no no; the fourth has no verdict. */
    const joust_metric *accuracy = find(metrics, n, JOUST_METRIC_JUDGE_ACCURACY);
    assert_int_equal(accuracy->n, 3);
    assert_true(accuracy->value > 0.66 && accuracy->value < 0.67);
    assert_true(find(metrics, n, JOUST_METRIC_JUDGE_AUC)->value == 1);
}

static void lists_that_go_together_are_as_long(void **state)
{
    joust_reward greedy[4], base[4];
    joust_measure_input in = {.greedy = answers(greedy, 3, 4), .base = answers(base, 1, 3)};
    joust_metric metrics[JOUST_MEASURE_METRICS];
    joust_error err;
    uint32_t n;
    (void)state;
    check_status(JOUST_INVALID, joust_measure(&in, metrics, &n, &err));
    assert_non_null(strstr(err.text, JOUST_METRIC_WIN_RATE_BASE));
}

static void one_class_has_no_auc(void **state)
{
    joust_reward greedy[2], sampled[2], tested[2];
    joust_measure_input in = {.greedy = answers(greedy, 1, 2),
                              .sampled = answers(sampled, 2, 2),
                              .judged_by = answers(tested, 1, 2)};
    joust_metric metrics[JOUST_MEASURE_METRICS];
    joust_error err;
    uint32_t n;
    (void)state;
    check_ok(joust_measure(&in, metrics, &n, &err));
    assert_non_null(find(metrics, n, JOUST_METRIC_JUDGE_ACCURACY));
    assert_null(find(metrics, n, JOUST_METRIC_JUDGE_AUC));
}

static joust_promotion decide(uint64_t candidate_yes, uint64_t best_yes, bool gate, bool has_best)
{
    joust_reward mine[MANY], best[MANY];
    joust_gate_input in = {.key = {3, 9, 0},
                           .candidate = 7,
                           .best = 5,
                           .has_best = has_best,
                           .gate = gate,
                           .of_candidate = answers(mine, candidate_yes, MANY)};
    joust_promotion decision;
    joust_error err;
    if (has_best)
        in.of_best = answers(best, best_yes, MANY);
    check_ok(joust_gate_decide(&in, &decision, &err));
    return decision;
}

static void the_gate_lets_pass_what_is_not_worse(void **state)
{
    (void)state;
    joust_promotion first = decide(10, 0, true, false);
    assert_true(first.promoted);
    assert_int_equal(first.next, 7);
    assert_int_equal(first.best, 7);
    assert_true(decide(200, 100, true, true).promoted); /* better */
    assert_true(decide(199, 200, true, true).promoted); /* worse, but within the interval */
    joust_promotion worse = decide(100, 200, true, true);
    assert_false(worse.promoted);
    assert_int_equal(worse.next, 5);
    assert_true(worse.candidate_value == 0.25 && worse.best_value == 0.5);
    assert_true(worse.difference.value == -0.25 && worse.difference.high < 0);
    joust_promotion open = decide(100, 200, false, true); /* no gate */
    assert_true(open.promoted);
    assert_int_equal(open.next, 7);
    assert_true(open.difference.value == -0.25);
}

static void a_yes_depends_on_the_judge(void **state)
{
    (void)state;
    assert_true(joust_measure_threshold(JOUST_JUDGE_YES_NO) == 0);
    assert_true(joust_measure_threshold(JOUST_JUDGE_RANDOM) == 0);
    assert_true(joust_measure_threshold(JOUST_JUDGE_RULE) == 0.5);
    assert_true(joust_measure_threshold(JOUST_JUDGE_COMPARE) == 0.5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(figures_of_an_evaluation),
                                       cmocka_unit_test(lists_that_go_together_are_as_long),
                                       cmocka_unit_test(one_class_has_no_auc),
                                       cmocka_unit_test(the_gate_lets_pass_what_is_not_worse),
                                       cmocka_unit_test(a_yes_depends_on_the_judge)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
