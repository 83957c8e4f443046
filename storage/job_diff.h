/* Which keys of two jobs differ. Thread: any. */
#ifndef JOUST_STORAGE_JOB_DIFF_H
#define JOUST_STORAGE_JOB_DIFF_H

#include "proto/job.h"

/* Compares what makes a job's identity (not its name, cluster, paths and rounds).
 * Errors: JOUST_CONFLICT; err names the keys that differ as the job file spells them, with both values, and of more than eight how
 * many others do. */
JOUST_MUST_USE joust_status joust_job_compare(const joust_job *recorded, const joust_job *given,
                                              joust_error *err);

#endif
