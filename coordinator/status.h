/* The JSON snapshot of a job: from the status socket (status.c), or from a store that nobody runs (recovery.c). */
#ifndef JOUST_COORDINATOR_STATUS_H
#define JOUST_COORDINATOR_STATUS_H

#include "coordinator/core.h"

/* Of the store: says where its coordinator's status socket is; absent while that has none. */
#define JOUST_STATUS_ENDPOINT "status.endpoint"

typedef struct joust_status_view {
    const joust_job *job;
    joust_digest job_digest;
    const joust_core *core;
    bool running;      /* a coordinator answers */
    int64_t holder;    /* if not: the process that has the store open all the same; 0: none */
    bool has_socket;   /* and the holder said where its status socket is */
    uint64_t sequence; /* of the snapshot */
    int64_t now_ms;
} joust_status_view;

/* Appends an object but for its end: version, sequence, running, job, why, core. */
void joust_status_head(const joust_status_view *view, joust_buf *to);

#endif
