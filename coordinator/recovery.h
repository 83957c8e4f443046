/* What a store says of its job: the core's state after everything that was committed. */
#ifndef JOUST_COORDINATOR_RECOVERY_H
#define JOUST_COORDINATOR_RECOVERY_H

#include "coordinator/core.h"
#include "storage/store.h"

/* Brings a new core to the store's state: the newest snapshot, and the events after it. ret_snapshot: the event that the
 * snapshot was made at, 0 if there is none; ret_replayed: how many followed. Errors: JOUST_CORRUPT, those of the store. */
JOUST_MUST_USE joust_status joust_recover(joust_store *store, joust_core *core,
                                          uint64_t *ret_snapshot, uint64_t *ret_replayed,
                                          joust_error *err);

/* Appends a status snapshot, as the status socket gives it, of a job whose coordinator doesn't answer: there are no peers and
 * no figures of a process; "running" is whether some process has the store open. Reads alone. ret_phase: where the job
 * stands. Errors: those of joust_store_open_read and joust_recover; JOUST_NOT_FOUND also of a store that is being made. */
JOUST_MUST_USE joust_status joust_recovery_status(const char *dir, joust_buf *to,
                                                  joust_core_phase *ret_phase, joust_error *err);

#endif
