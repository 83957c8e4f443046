/* joust coordinator: one role, for whoever places processes by hand; `joust launch` starts it too. */
#include <stdio.h>

#include "coordinator/coordinator.h"
#include "ops/cli.h"
#include "ops/jobfile.h"
#include "ops/preflight.h"
#include "ops/verbs.h"
#include "proto/base/log.h"

static int end_status(joust_coordinator_end end, const char *reason)
{
    switch (end) {
    case JOUST_END_COMPLETE:
        return JOUST_EXIT_OK;
    case JOUST_END_STOPPED:
        return JOUST_EXIT_INTERRUPTED;
    default:
        fprintf(stderr, "joust coordinator: %s\n", reason);
        return JOUST_EXIT_FAILED;
    }
}

int joust_verb_coordinator(int argc, char **argv)
{
    joust_coordinator_options where = {0};
    joust_text_list sets = {0};
    const char *level = "info";
    const joust_option options[] = {
        {"--store", JOUST_OPTION_TEXT, &where.store, "DIR", "the job's store; made if absent"},
        {"--listen", JOUST_OPTION_TEXT, &where.endpoint, "ENDPOINT",
         "where workers and judges connect: ipc:///PATH or tcp://ADDRESS:PORT"},
        {"--status", JOUST_OPTION_TEXT, &where.status, "ENDPOINT",
         "status socket, also written to DIR/status.endpoint"},
        {"--device", JOUST_OPTION_TEXT, &where.device, "DEVICE",
         "refuse workers and judges that don't compute on it: cpu, or cuda (cluster.device)"},
        {"--precision", JOUST_OPTION_TEXT, &where.precision, "P",
         "refuse those that compute in another: f32 or bf16 (cluster.precision)"},
        {"--set", JOUST_OPTION_LIST, &sets, "KEY=VALUE", "override a key of the job file"},
        {"--log-level", JOUST_OPTION_TEXT, &level, "LEVEL", "error, warn, info, debug or trace"}};
    const joust_usage usage = {
        .verb = "coordinator",
        .synopsis = "joust coordinator JOB.yaml --store DIR --listen ENDPOINT [--status ENDPOINT]",
        .about =
            "Runs a job's coordinator: leases work to the workers and judges that connect, and "
            "keeps "
            "what they answer.\nExit status: 0 done, 1 the job failed, 2 bad job file or store, "
            "130 stopped and resumable.",
        .options = options,
        .n_options = sizeof(options) / sizeof(*options),
        .min_positional = 1,
        .max_positional = 1};
    const char *path;
    int n;
    int status = joust_cli_parse(&usage, argc, argv, &path, &n);
    if (status >= 0)
        return status;
    joust_error err;
    if (!where.store || !where.endpoint || !joust_log_set_level_name(level)) {
        joust_fail(&err, JOUST_INVALID, "%s",
                   where.store && where.endpoint ? "unknown --log-level"
                                                 : "--store and --listen are required");
        return joust_cli_fail("coordinator", &err);
    }
    joust_log_set_role("coordinator");
    joust_jobfile file;
    status = joust_jobfile_open("coordinator", path, &sets, &file);
    if (status >= 0)
        return status;
#ifdef JOUST_HAVE_PREFLIGHT
    status = joust_preflight_or_exit("coordinator", &file, path, &sets, where.store);
    if (status >= 0) {
        joust_jobfile_fini(&file);
        return status;
    }
#endif
    where.device = where.device ? where.device : file.device;
    where.precision = where.precision ? where.precision : file.precision;
    joust_coordinator_end end;
    char reason[1024] = "";
    joust_status st = joust_coordinator_run(&file.job, &where, &end, reason, &err);
    joust_jobfile_fini(&file);
    return st == JOUST_OK ? end_status(end, reason) : joust_cli_fail("coordinator", &err);
}
