/* From a YAML tree to the typed draft of a job, by the table of keys. */
#ifndef JOUST_OPS_JOB_FILL_H
#define JOUST_OPS_JOB_FILL_H

#include "ops/job_keys.h"
#include "ops/problems.h"
#include "ops/yaml_tree.h"

/* Fills draft (with its defaults set) from root, a map. Every key that is unknown, missing, of the wrong type or out
 * of range goes to problems, and the rest is filled all the same.
 * folder: what paths are relative to; NULL: paths stay as written and nothing is looked for on disk.
 * Errors: JOUST_NOMEM only; draft stays one that joust_job_draft_fini can free. */
JOUST_MUST_USE joust_status joust_job_fill(const joust_yaml_node *root, const char *folder,
                                           joust_job_draft *draft, joust_problems *problems,
                                           joust_error *err);
/* The defaults of the job file's reference. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_job_draft_init(joust_job_draft *draft, joust_error *err);
void joust_job_draft_fini(joust_job_draft *draft);

#endif
