/* What a job reads from outside: models, prompt files, training data. First checked and digested without writing a byte
 * (the digests are part of the job's identity), then taken into the store, where the job finds them from then on.
 * Thread: any, one at a time. */
#ifndef JOUST_COORDINATOR_INPUTS_H
#define JOUST_COORDINATOR_INPUTS_H

#include "proto/job.h"
#include "storage/blobs.h"
#include "storage/store.h"

/* Fills the content digests of job's models, sets and data from the files they name, and checks every line of the
 * prompt files. Reads only. ret_n_prompts: (job->n_sets) lines of each set, caller's memory.
 * Errors name the file (and line): JOUST_NOT_FOUND, JOUST_MALFORMED, JOUST_INVALID, JOUST_IO. */
JOUST_MUST_USE joust_status joust_inputs_digest(joust_job *job, uint64_t *ret_n_prompts,
                                                joust_error *err);
/* Takes them into the store: blobs for models and data, records for prompts, version 0 of each model that has
 * weights. What is there already is left alone. epoch: of joust_store_begin_epoch. */
JOUST_MUST_USE joust_status joust_inputs_import(const joust_job *job, const uint64_t *n_prompts,
                                                joust_store *store, joust_blobs *blobs,
                                                uint64_t epoch, joust_error *err);
#endif
