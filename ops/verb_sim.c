/* joust sim: the coordinator in a simulated cluster, seed after seed. */
#include <stdio.h>
#include <string.h>

#include "coordinator/simulation/simulation.h"
#include "ops/cli.h"
#include "ops/verbs.h"

typedef struct totals {
    uint64_t seeds, broken, steps, events, pairs, simulated_ms;
    uint64_t upsets[JOUST_UPSET_N];
    uint64_t coverage[JOUST_UNIT_STATES * JOUST_UNIT_EVENTS];
} totals;

static bool find_plant(const char *name, joust_plant *ret)
{
    for (int i = 0; i < JOUST_PLANT_N; i++) {
        if (strcmp(name, joust_plant_name((joust_plant)i)) == 0) {
            *ret = (joust_plant)i;
            return true;
        }
    }
    fprintf(stderr, "joust sim: --plant %s is unknown; one of:", name);
    for (int i = 1; i < JOUST_PLANT_N; i++)
        fprintf(stderr, " %s", joust_plant_name((joust_plant)i));
    fprintf(stderr, "\n");
    return false;
}

/* Runs a seed with faults and without; false if anything was found. */
static bool run_seed(const joust_simulation_options *options, totals *sum)
{
    joust_simulation_options quiet = *options;
    joust_simulation_result stormy, calm;
    quiet.quiet = true;
    quiet.plant = JOUST_PLANT_NONE;
    joust_simulation_run(options, &stormy);
    joust_simulation_run(&quiet, &calm);
    const char *found = stormy.violation[0] ? stormy.violation : calm.violation;
    bool same = joust_digest_equal(&stormy.pairs, &calm.pairs);
    sum->seeds++;
    sum->steps += stormy.steps;
    sum->events += stormy.events;
    sum->pairs += stormy.n_pairs;
    sum->simulated_ms += stormy.simulated_ms;
    for (int i = 0; i < JOUST_UPSET_N; i++)
        sum->upsets[i] += stormy.upsets[i];
    for (int i = 0; i < JOUST_UNIT_STATES * JOUST_UNIT_EVENTS; i++)
        sum->coverage[i] += stormy.coverage[i];
    if (!found[0] && same)
        return true;
    if (found[0])
        printf("found: %s\n", found);
    else
        printf("found: seed %llu: the result differs from the run without faults\n",
               (unsigned long long)options->seed);
    sum->broken++;
    return false;
}

static void print_coverage(const totals *sum)
{
    uint32_t legal = 0, visited = 0;
    for (int s = 0; s < JOUST_UNIT_STATES; s++) {
        for (int e = 0; e < JOUST_UNIT_EVENTS; e++) {
            joust_unit_cell cell = joust_unit_look_up((joust_unit_state)s, (joust_unit_event)e);
            uint64_t n = sum->coverage[s * JOUST_UNIT_EVENTS + e];
            if (cell.answer == JOUST_ANSWER_BUG)
                continue;
            legal++;
            visited += n > 0;
            printf("  %-8s x %-9s -> %-8s %-7s %12llu\n",
                   joust_unit_state_name((joust_unit_state)s),
                   joust_unit_event_name((joust_unit_event)e),
                   joust_unit_state_name((joust_unit_state)cell.next),
                   joust_unit_answer_name((joust_unit_answer)cell.answer), (unsigned long long)n);
        }
    }
    printf("%u of %u legal cells of the unit table visited\n", visited, legal);
}

static void print_totals(const totals *sum)
{
    printf("%llu seeds, %llu steps of the coordinator, %llu happenings, %llu pairs, %.1f simulated "
           "seconds\n",
           (unsigned long long)sum->seeds, (unsigned long long)sum->steps,
           (unsigned long long)sum->events, (unsigned long long)sum->pairs,
           (double)sum->simulated_ms / 1000);
    for (int i = 0; i < JOUST_UPSET_N; i++)
        printf("  %-45s %12llu\n", joust_upset_name((joust_upset)i),
               (unsigned long long)sum->upsets[i]);
    print_coverage(sum);
}

int joust_verb_sim(int argc, char **argv)
{
    uint64_t seeds = 100, first = 1;
    const char *plant = "none";
    joust_simulation_options options = {.rounds = 2, .groups = 16, .workers = 3, .judges = 2};
    const joust_option list[] = {
        {"--seeds", JOUST_OPTION_U64, &seeds, "N", "how many seeds (100)"},
        {"--first", JOUST_OPTION_U64, &first, "S", "the first of them (1)"},
        {"--rounds", JOUST_OPTION_U32, &options.rounds, "N", "rounds of the job (2)"},
        {"--groups", JOUST_OPTION_U32, &options.groups, "N", "prompts a round (16)"},
        {"--workers", JOUST_OPTION_U32, &options.workers, "N", "workers (3)"},
        {"--judges", JOUST_OPTION_U32, &options.judges, "N", "judges (2)"},
        {"--plant", JOUST_OPTION_TEXT, &plant, "FAULT",
         "plant a fault in what surrounds the coordinator; the run ends when it is found"}};
    const joust_usage usage = {
        .verb = "sim",
        .synopsis = "joust sim [--seeds N] [--first S] [--plant FAULT]",
        .about =
            "Runs the coordinator's code in a simulated cluster whose network, disk and processes\n"
            "fail, checks every step, and compares each result with a run without faults.\n"
            "Exit status 1 if anything is found.",
        .options = list,
        .n_options = sizeof list / sizeof *list};
    int n_positional;
    totals sum = {0};
    int status = joust_cli_parse(&usage, argc, argv, NULL, &n_positional);
    if (status >= 0)
        return status;
    if (!seeds) {
        fprintf(stderr,
                "joust sim: --seeds: expected 1 or more: nothing is looked at without one\n");
        return JOUST_EXIT_USAGE;
    }
    if (!find_plant(plant, &options.plant))
        return JOUST_EXIT_USAGE;
    for (uint64_t i = 0; i < seeds; i++) {
        options.seed = first + i;
        if (!run_seed(&options, &sum) && options.plant != JOUST_PLANT_NONE)
            break;
    }
    print_totals(&sum);
    printf("%llu of %llu seeds found something\n", (unsigned long long)sum.broken,
           (unsigned long long)sum.seeds);
    return sum.broken ? JOUST_EXIT_FAILED : JOUST_EXIT_OK;
}
