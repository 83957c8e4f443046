/* From what the core orders to what travels: fills a LEASE's unit from the store. Thread: one at a time. */
#ifndef JOUST_COORDINATOR_LEASE_UNITS_H
#define JOUST_COORDINATOR_LEASE_UNITS_H

#include "coordinator/actions.h"
#include "coordinator/recent.h"
#include "proto/plan.h"
#include "storage/store.h"

/* Where prompts, models and groups are found: everything borrowed. Zero-initialise what isn't. */
typedef struct joust_lease_sources {
    joust_store *store;
    const joust_job *job;
    const joust_plan *plan;
    const uint64_t *n_prompts;  /* by set */
    const joust_recent *recent; /* groups that need not be read back */
    joust_model_ref model;      /* the one asked for last; no lineage: none yet */
    struct joust_shuffled_set {
        uint32_t *lines; /* permutation of pass `pass`, or NULL */
        uint64_t pass;
    } orders[JOUST_MAX_SETS];
} joust_lease_sources;

void joust_lease_sources_fini(joust_lease_sources *sources);

/* The reference of a lineage's version. Version 0 of a lineage that is still to be drawn: its folder, without weights.
 * Errors: JOUST_NOT_FOUND. */
JOUST_MUST_USE joust_status joust_lease_model(joust_lease_sources *sources, uint32_t lineage,
                                              uint64_t version, joust_model_ref *ret,
                                              joust_error *err);
/* The prompt at a position of a GENERATE stage. *ret is owned. */
JOUST_MUST_USE joust_status joust_lease_prompt(joust_lease_sources *sources,
                                               const joust_unit_key *unit, joust_prompt *ret,
                                               joust_error *err);
/* The unit of an action of kind LEASE. *ret is owned (joust_lease_unit_fini), but for its trajectories where *ret_lent is
 * true: those are a view of sources->recent, and must be taken out of it before. */
JOUST_MUST_USE joust_status joust_lease_fill(joust_lease_sources *sources,
                                             const joust_action *action, joust_lease_unit *ret,
                                             bool *ret_lent, joust_error *err);

#endif
