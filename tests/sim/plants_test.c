/* Each fault that can be planted around the core is found by the simulation's checks, and for the reason it should be. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "coordinator/simulation/simulation.h"

static uint64_t n_seeds = 50;

typedef struct planted {
    joust_plant plant;
    const char *symptoms[3]; /* parts of violations, one of which must be seen */
} planted;

static const planted all[] = {
    {JOUST_PLANT_ACK_BEFORE_SYNC, {"ack leaves before", "acknowledged but not durable", NULL}},
    {JOUST_PLANT_ACT_BEFORE_COMMIT, {"leaves before its batch", NULL, NULL}},
    {JOUST_PLANT_DROP_VERDICT, {"not what was sent", "other bytes", NULL}},
    {JOUST_PLANT_REUSE_LEASE, {"is given out after lease", NULL, NULL}},
    {JOUST_PLANT_LOWER_EPOCH, {"of epoch", "writes after epoch", NULL}},
    {JOUST_PLANT_SKIP_EVENT, {"the state is of", "an event before it is missing", NULL}},
    {JOUST_PLANT_REPEAT_PAIR, {"is recorded twice", NULL, NULL}},
    {JOUST_PLANT_JUDGE_STALE, {"judges a stale trajectory", NULL, NULL}},
    {JOUST_PLANT_LOSE_CREDIT, {"credit of 4 is lost", NULL, NULL}},
    {JOUST_PLANT_UNSYNCED_MODEL,
     {"before its weights are synced", "which the disk has not", NULL}}};

static void find(const planted *fault)
{
    for (uint64_t seed = 1; seed <= n_seeds; seed++) {
        joust_simulation_options options = {.seed = seed,
                                            .rounds = 2,
                                            .groups = 16,
                                            .workers = 3,
                                            .judges = 2,
                                            .plant = fault->plant};
        joust_simulation_result result;
        joust_simulation_run(&options, &result);
        if (!result.violation[0])
            continue;
        for (int i = 0; i < 3 && fault->symptoms[i]; i++) {
            if (strstr(result.violation, fault->symptoms[i])) {
                print_message("%s: %s\n", joust_plant_name(fault->plant), result.violation);
                return;
            }
        }
        fail_msg("%s shows as: %s", joust_plant_name(fault->plant), result.violation);
    }
    fail_msg("%s is not found in %llu seeds", joust_plant_name(fault->plant),
             (unsigned long long)n_seeds);
}

static void every_planted_fault_is_found(void **state)
{
    (void)state;
    assert_int_equal(sizeof all / sizeof *all, JOUST_PLANT_N - 1);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        find(&all[i]);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_planted_fault_is_found)};
    if (argc > 1)
        n_seeds = strtoull(argv[1], NULL, 10);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
