/* What a job file says to no effect, or that can't come to what it says: more than joust_job_validate knows, since the file
 * tells what was written and what is a default. Thread: any. */
#ifndef JOUST_OPS_JOB_LINT_H
#define JOUST_OPS_JOB_LINT_H

#include "ops/problems.h"
#include "ops/yaml_tree.h"
#include "proto/job.h"

/* The node that path ("judges[0].model") leads to, or the deepest on the way. *ret_whole (may be NULL): it is there. View of root. */
const joust_yaml_node *joust_job_node(const joust_yaml_node *root, const char *path,
                                      bool *ret_whole);
/* Adds errors for what never works, and warnings where a job can still be meant so. root: what job was made from; references
 * between its parts may be wrong. */
void joust_job_lint(const joust_job *job, const joust_yaml_node *root, joust_problems *problems);
/* Adds errors for files that it names, and that don't hold what they have to: certificates. */
void joust_job_lint_files(const joust_job *job, const joust_yaml_node *root,
                          joust_problems *problems);
/* The same for what hangs on the lines of the prompts' file. */
void joust_job_lint_lines(const joust_job *job, const joust_yaml_node *root, uint64_t lines,
                          joust_problems *problems);

#endif
