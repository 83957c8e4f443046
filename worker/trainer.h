/* Training units: INIT draws a lineage's first weights; TRAIN makes a policy's next version from
 * pairs or from a file of supervised rows. Both end with the new version's files durable at the
 * coordinator.
 *
 * A TRAIN unit resumes at its last durable state: steps done before a crash are never done again,
 * and a resumed run gives the same bytes as one that was never broken. Thread: the compute
 * thread. */
#ifndef JOUST_WORKER_TRAINER_H
#define JOUST_WORKER_TRAINER_H

#include "proto/cache.h"
#include "proto/plan.h"
#include "proto/upstream.h"
#include "worker/budget.h"
#include "worker/engine/engine.h"
#include "worker/forced.h"

typedef struct joust_training {
    joust_engine *engine;
    const joust_job *job;
    const joust_stage *stage; /* INIT or TRAIN */
    const joust_upstream *up;
    joust_cache *cache;
    const joust_budget *budget; /* NULL: none */
    /* For train.command: a folder for its output, this worker's name, and what has the verb `guard` (NULL: this program). */
    const char *logs, *worker, *program;
    const joust_forced *forced; /* filled by joust_training_run */
} joust_training;

/* Does the unit. *ret is owned by the caller (id, model, steps since the last durable state,
 * metrics, and the provenance's n_tokens). Errors: JOUST_INVALID (nothing to train on, rows that
 * don't fit the model), JOUST_NOT_FINITE, JOUST_CONFLICT (a state of another step),
 * JOUST_INTERRUPTED, and those of fetching, loading and uploading. */
JOUST_MUST_USE joust_status joust_training_init(const joust_training *t,
                                                const joust_lease_unit *unit,
                                                joust_unit_result *ret, joust_error *err);
JOUST_MUST_USE joust_status joust_training_run(const joust_training *t,
                                               const joust_lease_unit *unit, joust_unit_result *ret,
                                               joust_error *err);

#endif
