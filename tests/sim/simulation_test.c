/* Seeds in which everything fails that may, against the same seeds in which nothing does. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/simulation/simulation.h"

static uint64_t n_seeds = 50;

static joust_simulation_options options_of(uint64_t seed)
{
    return (joust_simulation_options){
        .seed = seed, .rounds = 2, .groups = 16, .workers = 3, .judges = 2};
}

static void faults_change_nothing(void **state)
{
    uint64_t upsets[JOUST_UPSET_N] = {0}, n_pairs = 0;
    (void)state;
    for (uint64_t seed = 1; seed <= n_seeds; seed++) {
        joust_simulation_options options = options_of(seed);
        joust_simulation_result stormy, quiet;
        joust_simulation_run(&options, &stormy);
        options.quiet = true;
        joust_simulation_run(&options, &quiet);
        assert_string_equal(stormy.violation, "");
        assert_string_equal(quiet.violation, "");
        if (!joust_digest_equal(&stormy.pairs, &quiet.pairs))
            fail_msg("seed %llu: faults changed the result", (unsigned long long)seed);
        n_pairs += quiet.n_pairs;
        for (int i = 0; i < JOUST_UPSET_N; i++)
            upsets[i] += stormy.upsets[i];
    }
    assert_true(n_pairs > n_seeds); /* the jobs do something */
    for (int i = 0; i < JOUST_UPSET_N; i++) {
        if (!upsets[i])
            fail_msg("no %s in %llu seeds", joust_upset_name((joust_upset)i),
                     (unsigned long long)n_seeds);
    }
}

static void a_seed_replays(void **state)
{
    joust_simulation_options options = options_of(3);
    joust_simulation_result first, second;
    (void)state;
    joust_simulation_run(&options, &first);
    joust_simulation_run(&options, &second);
    assert_memory_equal(&first, &second, sizeof first);
}

/* Workers, judges and their number are not in the result. */
static void peers_change_nothing(void **state)
{
    joust_simulation_options few = options_of(8), many = options_of(8);
    joust_simulation_result first, second;
    (void)state;
    few.workers = few.judges = 1;
    many.workers = 7;
    many.judges = 4;
    joust_simulation_run(&few, &first);
    joust_simulation_run(&many, &second);
    assert_string_equal(first.violation, "");
    assert_string_equal(second.violation, "");
    assert_memory_equal(&first.pairs, &second.pairs, sizeof first.pairs);
}

/* The digest isn't blind: another seed is another job. */
static void seeds_differ(void **state)
{
    joust_simulation_options options = options_of(1), other = options_of(2);
    joust_simulation_result first, second;
    (void)state;
    joust_simulation_run(&options, &first);
    joust_simulation_run(&other, &second);
    assert_memory_not_equal(&first.pairs, &second.pairs, sizeof first.pairs);
}

/* All legal cells of the unit table; only long runs are sure to reach the rarest. */
static void every_cell_is_visited(void **state)
{
    uint64_t coverage[JOUST_UNIT_STATES * JOUST_UNIT_EVENTS] = {0};
    (void)state;
    if (n_seeds < 1000)
        skip();
    for (uint64_t seed = 1; seed <= n_seeds; seed++) {
        joust_simulation_options options = options_of(seed);
        joust_simulation_result result;
        joust_simulation_run(&options, &result);
        for (int i = 0; i < JOUST_UNIT_STATES * JOUST_UNIT_EVENTS; i++)
            coverage[i] += result.coverage[i];
    }
    for (int s = 0; s < JOUST_UNIT_STATES; s++) {
        for (int e = 0; e < JOUST_UNIT_EVENTS; e++) {
            joust_unit_cell cell = joust_unit_look_up((joust_unit_state)s, (joust_unit_event)e);
            bool legal = cell.answer != JOUST_ANSWER_BUG;
            if (legal != (coverage[s * JOUST_UNIT_EVENTS + e] > 0))
                fail_msg("%s x %s: %s, but visited %llu times",
                         joust_unit_state_name((joust_unit_state)s),
                         joust_unit_event_name((joust_unit_event)e), legal ? "legal" : "illegal",
                         (unsigned long long)coverage[s * JOUST_UNIT_EVENTS + e]);
        }
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_change_nothing), cmocka_unit_test(a_seed_replays),
        cmocka_unit_test(peers_change_nothing), cmocka_unit_test(seeds_differ),
        cmocka_unit_test(every_cell_is_visited)};
    if (argc > 1)
        n_seeds = strtoull(argv[1], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
