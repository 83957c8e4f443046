/* The coordinator's process. Read this first.
 *
 *   peers ── messages ──▶ incoming.c ── events ──▶ core.c (pure) ── actions ──▶ steps.c
 *                                                                       │ WRITE: records + event into the batch
 *                           committer.c (sync) ◀── batch ───────────────┤
 *                                  └── durable ──▶ outbox.c ── released ┴──▶ leases, acks, local work
 *
 * One loop thread owns sockets, core and batch; one thread commits, one stores chunks. Everything that is true is
 * in the store: the process may be killed at any instant and started again with the same arguments. */
#ifndef JOUST_COORDINATOR_COORDINATOR_H
#define JOUST_COORDINATOR_COORDINATOR_H

#include "proto/job.h"

typedef struct joust_coordinator joust_coordinator;

typedef struct joust_coordinator_options {
    const char *store;    /* folder */
    const char *endpoint; /* peers' ROUTER: "ipc:///…" or "tcp://…" */
    const char *status;   /* status socket's endpoint; NULL: none */
    const char *device,
        *precision; /* what workers and judges must compute on and in (joust_core_options); NULL: as the first worker */
} joust_coordinator_options;

typedef enum joust_coordinator_end {
    JOUST_END_COMPLETE, /* all rounds are done */
    JOUST_END_FAILED, /* the job can't succeed; the reason was logged and is in the store's status */
    JOUST_END_STOPPED,   /* by a signal; resumable */
    JOUST_END_SUPERSEDED /* a newer coordinator runs the job */
} joust_coordinator_end;

/* Runs the job to its end or until SIGTERM or SIGINT. Fills the digests of job's inputs. reason (1024 bytes, may be NULL)
 * gets why it ended, if not COMPLETE. Before anything is written: bad inputs (JOUST_NOT_FOUND, JOUST_MALFORMED,
 * JOUST_INVALID …), a store of another job or format (JOUST_CONFLICT, JOUST_VERSION), or one held by another
 * coordinator (JOUST_LOCKED). Later: JOUST_DISK_FULL, JOUST_IO, JOUST_CORRUPT, JOUST_NOMEM: nothing acknowledged is
 * lost, start again. */
JOUST_MUST_USE joust_status joust_coordinator_run(joust_job *job,
                                                  const joust_coordinator_options *options,
                                                  joust_coordinator_end *ret, char reason[1024],
                                                  joust_error *err);

#endif
