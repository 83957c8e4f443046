/* joust bench coordinator: how fast the coordinator is, against what ZeroMQ and RocksDB allow on this machine.
 * joust bench engine: ops/bench_engine.c. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ops/bench.h"
#include "ops/bench_engine.h"
#include "ops/bench_load.h"
#include "ops/bench_report.h"
#include "ops/cli.h"
#include "ops/verbs.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/records.h"

#define SINGLE_GROUPS  2000u /* of a run at window 1 */
#define MIB            (1024.0 * 1024.0)
#define MEMORY_DEFAULT 1000000u

typedef struct wish {
    joust_bench_options options;
    uint32_t repeat;
    bool memory, json;
} wish;

static joust_status check(const wish *w, joust_error *err)
{
    const joust_bench_options *o = &w->options;
    if (o->trajectories == 0 || o->trajectories > 1000000000)
        return joust_fail(err, JOUST_INVALID, "--trajectories: from 1 to 1000000000");
    if (o->samples < 2 || o->samples > JOUST_MAX_GROUP)
        return joust_fail(err, JOUST_INVALID, "--samples: from 2 to %u", JOUST_MAX_GROUP);
    if (o->workers == 0 || o->judges == 0 || o->workers > JOUST_BENCH_MAX_PEERS ||
        o->judges > JOUST_BENCH_MAX_PEERS || o->workers + o->judges > JOUST_BENCH_MAX_PEERS)
        return joust_fail(err, JOUST_INVALID, "--workers, --judges: from 1 each to %u together",
                          JOUST_BENCH_MAX_PEERS);
    if (o->window == 0 || o->window > JOUST_BENCH_MAX_WINDOW)
        return joust_fail(err, JOUST_INVALID, "--window: from 1 to %u", JOUST_BENCH_MAX_WINDOW);
    if (w->repeat == 0 || w->repeat > JOUST_BENCH_REPETITIONS)
        return joust_fail(err, JOUST_INVALID, "--repeat: from 1 to %u", JOUST_BENCH_REPETITIONS);
    if (o->keep && joust_dir_exists(o->keep))
        return joust_fail(err, JOUST_EXISTS, "--store %s: is there already; name a new folder",
                          o->keep);
    return JOUST_OK;
}

/* One repetition; the kinds of runs take turns, so that a machine that slows down slows all of them. */
static joust_status run_round(const wish *w, const joust_bench_sizes *sizes, bool keep,
                              joust_bench_board *board, joust_bench_round *ret, joust_error *err)
{
    joust_bench_options full = w->options, single = w->options;
    full.keep = keep ? w->options.keep : NULL;
    single.keep = NULL;
    single.workers = single.judges = single.window = 1;
    if (single.trajectories > (uint64_t)SINGLE_GROUPS * single.samples)
        single.trajectories = (uint64_t)SINGLE_GROUPS * single.samples;
    joust_status st = joust_bench_cluster(&full, board, &ret->real, err);
    if (st == JOUST_OK)
        st = joust_bench_raw(&full, sizes, JOUST_BENCH_PIPELINE, board, &ret->raw, err);
    if (st == JOUST_OK)
        st = joust_bench_raw(&full, sizes, JOUST_BENCH_PUTS, board, &ret->puts, err);
    if (st == JOUST_OK)
        st = joust_bench_raw(&full, sizes, JOUST_BENCH_ROUTER, board, &ret->router, err);
    if (st == JOUST_OK)
        st = joust_bench_cluster(&single, board, &ret->real_single, err);
    if (st == JOUST_OK)
        st = joust_bench_raw(&single, sizes, JOUST_BENCH_PIPELINE, board, &ret->raw_single, err);
    return st;
}

static joust_status bench_speed(const wish *w, joust_bench_board *board, joust_error *err)
{
    joust_bench_round rounds[JOUST_BENCH_REPETITIONS];
    joust_bench_sizes sizes;
    joust_status st = joust_bench_measure(w->options.load, w->options.samples, &sizes, err);
    for (uint32_t i = 0; st == JOUST_OK && i < w->repeat; i++) {
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "\rrepetition %u of %u ", i + 1, w->repeat);
        st = run_round(w, &sizes, i == 0, board, &rounds[i], err);
    }
    if (isatty(STDERR_FILENO))
        fprintf(stderr, "\r%*s\r", 40, "");
    if (st == JOUST_OK && w->json)
        joust_bench_print_json(&w->options, &sizes, rounds, w->repeat);
    else if (st == JOUST_OK)
        joust_bench_print(&w->options, &sizes, rounds, w->repeat);
    return st;
}

/* The coordinator's memory doesn't grow with the job: after a fifth of the trajectories against after all. */
static joust_status bench_memory(const wish *w, joust_bench_board *board, joust_error *err)
{
    joust_bench_run run;
    joust_status st = joust_bench_cluster(&w->options, board, &run, err);
    if (st != JOUST_OK)
        return st;
    double few = run.fifth.mean_bytes / MIB, all = run.end.mean_bytes / MIB;
    double few_peak = (double)run.fifth.peak_bytes / MIB, all_peak = (double)run.peak_bytes / MIB;
    const char *form =
        w->json ? "{\"few\":%llu,\"all\":%llu,\"few_mib\":%.1f,\"all_mib\":%.1f,\"ratio\":%.3f,"
                  "\"few_peak_mib\":%.1f,\"all_peak_mib\":%.1f,\"peak_ratio\":%.3f}\n"
                : "coordinator's resident memory after %llu and after %llu trajectories\n"
                  "  mean of the tenth of the run before   %.1f and %.1f MiB, ratio %.3f\n"
                  "  at most until then                    %.1f and %.1f MiB, ratio %.3f\n";
    printf(form, (unsigned long long)(run.trajectories / 5), (unsigned long long)run.trajectories,
           few, all, few > 0 ? all / few : 0, few_peak, all_peak,
           few_peak > 0 ? all_peak / few_peak : 0);
    return JOUST_OK;
}

static joust_status run(wish *w, joust_error *err)
{
    joust_bench_board *board = NULL;
    joust_bench_load *load = NULL;
    const char *base = getenv("TMPDIR");
    char *dir = joust_path_join(base && *base ? base : "/tmp", "joust-bench-XXXXXX");
    if (!dir)
        return joust_fail(err, JOUST_NOMEM, "bench: out of memory");
    if (!mkdtemp(dir)) { /* of mode 0700 */
        joust_status st =
            joust_fail(err, joust_status_of_errno(errno), "%s: %s", dir, strerror(errno));
        joust_free(dir);
        return st;
    }
    w->options.dir = dir;
    joust_status st = joust_bench_board_create(&board, err);
    if (st == JOUST_OK)
        st = joust_bench_load_create(w->options.bytes, &load, err);
    w->options.load = load;
    if (st == JOUST_OK)
        st = w->memory ? bench_memory(w, board, err) : bench_speed(w, board, err);
    joust_bench_load_free(&load);
    joust_bench_board_free(&board);
    if (joust_dir_remove(dir, NULL) != JOUST_OK && st == JOUST_OK)
        st = joust_fail(err, JOUST_IO, "%s: can't be removed", dir);
    joust_free(dir);
    return st;
}

int joust_verb_bench(int argc, char **argv)
{
#ifdef JOUST_HAVE_BENCH_ENGINE
    if (argc > 1 && strcmp(argv[1], "engine") == 0)
        return joust_bench_engine(argc - 1, argv + 1);
#endif
    wish w = {.options = {.bytes = 2048, .workers = 2, .judges = 1, .samples = 8, .window = 128},
              .repeat = 5};
    joust_bench_options *o = &w.options;
    const joust_option options[] = {
        {"--trajectories", JOUST_OPTION_U64, &o->trajectories, "N",
         "at least so many a run (65536; with --memory 1000000)"},
        {"--bytes", JOUST_OPTION_U32, &o->bytes, "N", "of a recorded trajectory (2048)"},
        {"--workers", JOUST_OPTION_U32, &o->workers, "N", "null workers (2)"},
        {"--judges", JOUST_OPTION_U32, &o->judges, "N", "null judges (1)"},
        {"--samples", JOUST_OPTION_U32, &o->samples, "N", "trajectories of a group (8)"},
        {"--window", JOUST_OPTION_U32, &o->window, "N", "groups that a peer holds at once (128)"},
        {"--repeat", JOUST_OPTION_U32, &w.repeat, "N", "repetitions (5)"},
        {"--store", JOUST_OPTION_TEXT, &o->keep, "DIR", "keep the first run's store there"},
        {"--memory", JOUST_OPTION_FLAG, &w.memory, NULL,
         "only the coordinator's resident memory, after a fifth of the trajectories and all"},
        {"--json", JOUST_OPTION_FLAG, &w.json, NULL, "one object instead of the table"}};
    const joust_usage usage = {
        .verb = "bench",
        .synopsis =
            "joust bench coordinator [--trajectories N] [--bytes N] [--repeat N] [--memory]\n"
            "joust bench engine [--model DIR] ... (see joust bench engine --help)",
        .about = "Runs the real coordinator and its synced store under workers and judges that "
                 "answer at once, and\nbeside it a pipeline of ZeroMQ and RocksDB by hand that "
                 "moves and syncs the same bytes without\nlogic. Figures of one run are compared "
                 "with each other, never with another machine's.",
        .options = options,
        .n_options = sizeof(options) / sizeof(*options),
        .min_positional = 1,
        .max_positional = 1};
    const char *what;
    int n;
    int status = joust_cli_parse(&usage, argc, argv, &what, &n);
    if (status >= 0)
        return status;
    if (!o->trajectories)
        o->trajectories = w.memory ? MEMORY_DEFAULT : 65536;
    joust_error err;
    joust_status st =
        strcmp(what, "coordinator") != 0
            ? joust_fail(&err, JOUST_INVALID,
                         "'%s' can't be measured; known are coordinator and engine", what)
            : check(&w, &err);
    if (st != JOUST_OK) {
        joust_cli_fail("bench", &err);
        return JOUST_EXIT_USAGE;
    }
    st = run(&w, &err);
    return st == JOUST_OK ? JOUST_EXIT_OK : joust_cli_fail("bench", &err);
}
