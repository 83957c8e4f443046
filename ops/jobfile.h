/* The job file: YAML to a typed, checked joust_job. `--set key=value` overrides go through the same checks;
 * all problems of a file are reported at once, each with its place. */
#ifndef JOUST_OPS_JOBFILE_H
#define JOUST_OPS_JOBFILE_H

#include "ops/cli.h"
#include "ops/problems.h"
#include "proto/job.h"

/* A job and what of its file is not part of the job. Release with joust_jobfile_fini. */
typedef struct joust_jobfile {
    joust_job job;         /* validated; `content` digests are left to who opens the job */
    char *status_endpoint; /* status: {endpoint: ...}, or NULL */
    char *notify_command;  /* notify: {command: ...}, or NULL */
    const char *device;    /* cluster: {device: ...} as --device takes it, NULL: cpu */
    const char *precision; /* cluster: {precision: ...} as --precision takes it, NULL: the device's own */
    struct joust_yaml_node *tree; /* what the file says, for places */
} joust_jobfile;

/* Reads the job file at path with overrides (sets may be NULL: none). Zero-initialise problems before, and
 * joust_problems_fini it after; it borrows path and sets until then. Paths in *ret are absolute.
 * Errors: JOUST_INVALID: problems says all; JOUST_NOT_FOUND, JOUST_IO, JOUST_TOO_LARGE, JOUST_NOMEM: err does. */
JOUST_MUST_USE joust_status joust_jobfile_read(const char *path, const joust_text_list *sets,
                                               joust_jobfile *ret, joust_problems *problems,
                                               joust_error *err);
/* The same from n bytes of text. name: what problems call it; folder: what paths are relative to, or NULL:
 * paths stay as written and needn't exist. */
JOUST_MUST_USE joust_status joust_jobfile_parse(const void *data, size_t n, const char *name,
                                                const char *folder, const joust_text_list *sets,
                                                joust_jobfile *ret, joust_problems *problems,
                                                joust_error *err);
void joust_jobfile_fini(joust_jobfile *jobfile);
/* Adds a problem that was found later, at the place of its key ("judges[0].rule", or the deepest of it that is there). */
void joust_jobfile_problem(const joust_jobfile *jobfile, joust_problems *problems, const char *key,
                           const char *why);
/* The same, of what the job can do with. */
void joust_jobfile_warning(const joust_jobfile *jobfile, joust_problems *problems, const char *key,
                           const char *why);

/* For verbs: reads as above and prints problems and warnings on standard error. Returns -1 to go on, else the exit
 * status to leave with. */
int joust_jobfile_open(const char *verb, const char *path, const joust_text_list *sets,
                       joust_jobfile *ret);
/* Prints problems on standard error, as "FILE:LINE:COLUMN: …". */
void joust_jobfile_print(joust_problems *problems);

#endif
