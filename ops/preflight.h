/* What a job file names, looked at before anything is written or started: models, tokenizers, templates, prompts. What
 * fails here would otherwise fail on every worker, after the job has begun. Thread: any. */
#ifndef JOUST_OPS_PREFLIGHT_H
#define JOUST_OPS_PREFLIGHT_H

#include "proto/job.h"

/* Errors name the key of the job file or the file and line: those of joust_model_check, joust_tokenizer_load,
 * joust_judging_create and joust_prompt_file_read; JOUST_TOO_LARGE: a prompt that leaves the model's context no room. */
JOUST_MUST_USE joust_status joust_preflight(const joust_job *job, joust_error *err);
/* For verbs: as above, printing the error as `joust verb: …`; nothing if the store is there already, since it has what the
 * job began with (NULL: look all the same). Returns -1 to go on, else the exit status to leave with. */
int joust_preflight_or_exit(const char *verb, const joust_job *job, const char *store);

#endif
