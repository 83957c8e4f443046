/* Changes to a job file's tree before it is typed: names of the ecosystem at the top level, and `--set`. */
#ifndef JOUST_OPS_JOB_OVERRIDES_H
#define JOUST_OPS_JOB_OVERRIDES_H

#include "ops/problems.h"
#include "ops/yaml_tree.h"

/* Moves TRL's flat names ("num_generations: 8" at the top level of root, a map) to the section that they mean, with a
 * warning that gives the canonical name. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_job_resolve_aliases(joust_yaml_node *root,
                                                      joust_problems *problems, joust_error *err);
/* Puts one override, "key=value", into root: key is a path ("train.beta", "judges[0].model", "judges.self.model"),
 * value is YAML. number: of the override, from 1; it is the origin of the new nodes' places.
 * What is wrong with the path goes to problems. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_job_override(joust_yaml_node *root, const char *set,
                                               uint32_t number, joust_problems *problems,
                                               joust_error *err);

#endif
