/* Which version of a trained model a job has come to. Thread: any that may read the store. */
#ifndef JOUST_COORDINATOR_CHECKPOINTS_H
#define JOUST_COORDINATOR_CHECKPOINTS_H

#include "proto/plan.h"
#include "storage/store.h"

/* The version that a next round would start from: the last promotion's, or the newest made; 0 if there is neither. lineage: the
 * model's index in the recorded job. Errors: those of the store. */
JOUST_MUST_USE joust_status joust_final_version(joust_store *store, const joust_plan *plan,
                                                uint32_t lineage, uint64_t *ret, joust_error *err);

#endif
