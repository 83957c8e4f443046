/* A local launch: coordinator, workers and judges of one job as child processes of this one. */
#ifndef JOUST_OPS_LAUNCH_H
#define JOUST_OPS_LAUNCH_H

#include "ops/cli.h"
#include "ops/jobfile.h"

typedef struct joust_launch_options {
    const char *job_path;
    const joust_jobfile *jobfile;
    const joust_text_list *sets; /* handed to the coordinator as they are */
    const char *store;           /* folder; made if absent */
    uint32_t workers, judges;    /* processes */
    uint32_t worker_threads, judge_threads;
    uint32_t kv_memory_mb;          /* of a process; 0: the engine's default */
    uint32_t memory_mb;             /* of a worker; 0: no bound */
    const char *device, *precision; /* of workers and judges; NULL: the CPU, the device's own */
    const char *program;            /* started as roles: "/proc/self/exe", another in tests */
} joust_launch_options;

/* Prints the commands that joust_launch would start, one a line. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_launch_print(const joust_launch_options *options, joust_buf *to,
                                               joust_error *err);
/* Runs the job to its end, or until SIGINT or SIGTERM; progress goes to standard output, the
 * coordinator's warnings to standard error. *ret_exit: the job's exit
 * status, 130 if interrupted. Errors: JOUST_LOCKED if another launch has the store; JOUST_IO, JOUST_DENIED,
 * JOUST_NOMEM; no child is left in any case. */
JOUST_MUST_USE joust_status joust_launch(const joust_launch_options *options, int *ret_exit,
                                         joust_error *err);

#endif
