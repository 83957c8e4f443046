/* What store.c, tables.c and leases.c share. */
#ifndef JOUST_STORAGE_STORE_INTERNAL_H
#define JOUST_STORAGE_STORE_INTERNAL_H

#include <stdatomic.h>

#include "storage/db.h"
#include "storage/store.h"
#include "storage/tables.h"

struct joust_store {
    char *dir;
    joust_db *db;
    joust_db_mode mode;
    joust_job job;
    joust_digest job_digest;
    _Atomic uint64_t epoch, last_event;
    uint64_t snapshots[2]; /* sequences kept: newest, the one before */
    uint32_t n_snapshots;
};

struct joust_batch {
    joust_store *store;
    uint64_t epoch;
    joust_db_batch *db;
    joust_buf scratch; /* an encoding on its way into the batch */
    uint64_t first_event, n_events;
    bool has_snapshot;
    uint64_t snapshot;
};

/* The next record of provenance, a unit's result or a lease. */
JOUST_MUST_USE joust_status joust_cursor_next_lease(joust_cursor *cursor, joust_provenance *ret,
                                                    joust_error *err);

#endif
