/* The program: a table of verbs. `joust VERB --help` says the rest. */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ops/cli.h"
#include "ops/verbs.h"
#include "proto/base/text.h"

typedef struct verb {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *about; /* NULL: nobody types it */
} verb;

/* Verbs in the order in which somebody meets them. A build of a part of the tree has those of that part. */
static const verb VERBS[] = {
#ifdef JOUST_HAVE_VERB_LAUNCH
    {"launch", joust_verb_launch,
     "run a job here: coordinator, workers and judges; resumes a store"},
#endif
#ifdef JOUST_HAVE_VERB_VALIDATE
    {"validate", joust_verb_validate, "check a job file; problems as file:line:column"},
#endif
#ifdef JOUST_HAVE_VERB_STATUS
    {"status", joust_verb_status, "one screen about a running job"},
#endif
#ifdef JOUST_HAVE_VERB_ROUNDS
    {"rounds", joust_verb_rounds, "the table of rounds of a store"},
#endif
#ifdef JOUST_HAVE_VERB_PAIRS
    {"pairs", joust_verb_pairs, "list, show, count or export preference pairs"},
#endif
#ifdef JOUST_HAVE_VERB_TRAJECTORIES
    {"trajectories", joust_verb_trajectories, "list, show, count or export trajectories"},
#endif
#ifdef JOUST_HAVE_VERB_VERDICTS
    {"verdicts", joust_verb_verdicts, "list, show, count or export verdicts"},
#endif
#ifdef JOUST_HAVE_VERB_GENERATE
    {"generate", joust_verb_generate, "text from a model and a prompt"},
#endif
#ifdef JOUST_HAVE_VERB_SCORE
    {"score", joust_verb_score, "log-probabilities of a given text"},
#endif
#ifdef JOUST_HAVE_VERB_HIDDEN
    {"hidden", joust_verb_hidden, "hidden states of texts, as a file of tensors"},
#endif
#ifdef JOUST_HAVE_VERB_MODEL
    {"model", joust_verb_model, "describe or convert a model"},
#endif
#ifdef JOUST_HAVE_VERB_STORE
    {"store", joust_verb_store, "check every record of a store"},
#endif
#ifdef JOUST_HAVE_VERB_COORDINATOR
    {"coordinator", joust_verb_coordinator, "one role: schedules a job and owns its store"},
#endif
#ifdef JOUST_HAVE_VERB_WORKER
    {"worker", joust_verb_worker, "one role: generates and trains"},
#endif
#ifdef JOUST_HAVE_VERB_JUDGE
    {"judge", joust_verb_judge, "one role: judges trajectories"},
#endif
#ifdef JOUST_HAVE_VERB_GUARD
    {"guard", joust_verb_guard, NULL}, /* what a worker starts programs of others under */
#endif
#ifdef JOUST_HAVE_VERB_BENCH
    {"bench", joust_verb_bench, "measure a part against the machine's limits"},
#endif
#ifdef JOUST_HAVE_VERB_SIM
    {"sim", joust_verb_sim, "the coordinator under a seeded simulation of faults"},
#endif
    {NULL, NULL, NULL}};

enum { N_VERBS = sizeof(VERBS) / sizeof(VERBS[0]) - 1 };

static void print_help(void)
{
    printf("usage: joust VERB ... [--help]\n\n"
           "Iterative preference optimisation on a cluster.\n\nverbs:\n");
    for (int i = 0; i < N_VERBS; i++)
        if (VERBS[i].about)
            printf("  %-13s %s\n", VERBS[i].name, VERBS[i].about);
    printf(
        "\n`joust VERB --help` explains one. Exit status: 0 done, 1 the job failed, 2 bad usage or "
        "job file,\n3 could not reach, 130 interrupted (the same command resumes).\n");
}

static int unknown_verb(const char *name)
{
    const char *names[N_VERBS + 1] = {NULL};
    for (int i = 0; i < N_VERBS; i++)
        names[i] = VERBS[i].name;
    const char *nearest = joust_text_nearest(name, names, N_VERBS);
    fprintf(stderr, "joust: no verb '%s'", name);
    if (nearest)
        fprintf(stderr, "; did you mean '%s'?", nearest);
    fprintf(stderr, "\n`joust --help` lists them\n");
    return JOUST_EXIT_USAGE;
}

/* Whoever closed one of the standard descriptors would have the store's first files take its number, and what is printed
 * go into them. False if there is nothing to put there instead. */
static bool fill_standard_descriptors(void)
{
    int fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO)
        fd = dup(fd);
    return fd >= 0 && close(fd) == 0;
}

int main(int argc, char **argv)
{
    if (!fill_standard_descriptors())
        return JOUST_EXIT_FAILED;
    if (argc < 2) {
        fprintf(stderr, "joust: say what to do: `joust --help` lists the verbs\n");
        return JOUST_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help();
        return JOUST_EXIT_OK;
    }
    if (strcmp(name, "--version") == 0) {
        printf("joust %s\n", JOUST_PROGRAM_VERSION);
        return JOUST_EXIT_OK;
    }
    for (int i = 0; i < N_VERBS; i++)
        if (strcmp(name, VERBS[i].name) == 0)
            return VERBS[i].run(argc - 1, argv + 1);
    return unknown_verb(name);
}
