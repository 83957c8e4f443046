/* Servers of a lineage's checkpoints that a worker starts on its node, keeps alive, gives each new version, and proves:
 *
 *   OFF ── start ─▶ STARTING ── ready ─▶ LIVE ── another version ─▶ CALLING (its own calls) ─▶ LIVE
 *    ▲                 │ deadline, dead     │ dead, unfit              │ deadline, refused
 *    └── backoff ──────┴────────────────────┴──────────────────────────┘   too often: LOST until the next version
 *
 * and, while the worker trains: ASLEEP (its own calls), or stopped. A server gets requests only while it is LIVE and its
 * answers to the probes fit the version (joust_endpoint_proof); who doesn't is named in the log, started once more with
 * the version, and then lost. Output is in LOGS/WORKER-MODEL-N.log. Each server runs under a guard: see worker/child.h.
 * Nothing blocks but joust_managed_rest. Thread: the compute thread. */
#ifndef JOUST_WORKER_MANAGED_H
#define JOUST_WORKER_MANAGED_H

#include "worker/endpoint/endpoint.h"

typedef struct joust_managed joust_managed;

typedef struct joust_managed_options {
    const joust_job_model *model; /* with serve; kept */
    const char
        *folder; /* for the files that servers load, made; on the file system of what is wanted */
    const char *logs;    /* folder for log files, made */
    const char *worker;  /* its name */
    const char *program; /* as joust_child_options.program */
} joust_managed_options;

/* Starts nothing yet. Errors: JOUST_INVALID (not enough GPUs), JOUST_IO, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_managed_create(const joust_managed_options *options,
                                                 joust_managed **ret, joust_error *err);
/* Ends the servers, and doesn't wait for that. */
void joust_managed_free(joust_managed **managed);

/* What the servers are asked by. View, the same for managed's life. */
joust_endpoint *joust_managed_endpoint(joust_managed *managed);
/* The model's endpoint with the servers' URLs. View. */
const joust_job_endpoint *joust_managed_settings(const joust_managed *managed);

/* From now on all servers are to have this version, whose files are in dir (linked, so it may go), and to be proved by
 * proof (kept). Starts or wakes those that aren't there. The same version again: changes nothing but the proof.
 * Errors: JOUST_IO, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_managed_want(joust_managed *managed,
                                               const joust_model_ref *version, const char *dir,
                                               const joust_endpoint_proof *proof, joust_error *err);
/* Brings each server on: call it some ten times a second. *ret_busy: whether one is on its way within its deadline.
 * Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_managed_turn(joust_managed *managed, bool *ret_busy,
                                               joust_error *err);
/* Gives their GPUs back, as serve.sleep says, and returns once all have: at the deadline who hasn't is ended. step: called
 * meanwhile with a number that grows. Errors: step's, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_managed_rest(joust_managed *managed,
                                               joust_status (*step)(void *context, uint64_t n,
                                                                    joust_error *err),
                                               void *context, joust_error *err);
/* How they are doing, appended to the list. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_managed_describe(const joust_managed *managed,
                                                   joust_server_status **list, uint32_t *n,
                                                   joust_error *err);
/* Process ids and the like are no business of anybody; for tests: how many servers get work now. */
uint32_t joust_managed_ready(const joust_managed *managed);

#endif
