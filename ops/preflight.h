/* What a job file names, looked at before anything is written or started: models, tokenizers, templates, prompts. What
 * fails here would otherwise fail on every worker, after the job has begun. Thread: any. */
#ifndef JOUST_OPS_PREFLIGHT_H
#define JOUST_OPS_PREFLIGHT_H

#include "ops/jobfile.h"

/* Adds every problem to problems, at its key: those of joust_model_check, joust_tokenizer_load, joust_judging_create,
 * joust_prompt_file_read and of memory; one that another hangs on is left out. Errors: what is no problem of the job. */
JOUST_MUST_USE joust_status joust_preflight(const joust_jobfile *jobfile, joust_problems *problems,
                                            joust_error *err);
/* For verbs: as above, printing the problems as FILE:LINE:COLUMN: file and sets are what the job file was read from; nothing
 * if the store is there already, since it has what the job began with (NULL: look all the same). A folder of other things is
 * refused as a store. A device that this machine lacks is an error for "launch", which runs roles here, store or not, and a
 * warning for "validate". Returns -1 to go on, else the exit status to leave with. */
int joust_preflight_or_exit(const char *verb, const joust_jobfile *jobfile, const char *file,
                            const joust_text_list *sets, const char *store);

#endif
