/* Parts of the table of keys (ops/job_keys.h):
 *
 *   job_table.c          the whole file, promote:, evaluate:, cluster:, status:, notify:, aliases
 *   job_table_models.c   models:, and those that are served
 *   job_table_rollout.c  prompts:, rollout:
 *   job_table_judges.c   judges:, rewards:, pairs:
 *   job_table_train.c    train: */
#ifndef JOUST_OPS_JOB_TABLE_INTERNAL_H
#define JOUST_OPS_JOB_TABLE_INTERNAL_H

#include <math.h> /* HUGE_VAL */
#include <stddef.h>

#include "ops/job_keys.h"

#define COUNT(array) ((uint32_t)(sizeof(array) / sizeof((array)[0])))
#define KEYS(array)  .keys = array, .n_keys = COUNT(array)

/* Shorthand of the tables; besides, AT(member of the section's struct). */
#define JOB(member)   offsetof(joust_job_draft, job.member)
#define DRAFT(member) offsetof(joust_job_draft, member)

extern const joust_choice joust_order_choices[];
extern const joust_choice joust_judge_kind_choices[];

extern const joust_section joust_models_section; /* of an element, as joust_judges_section */
extern const joust_section joust_prompts_section;
extern const joust_section joust_rollout_section;
extern const joust_section joust_judges_section;
extern const joust_section joust_rewards_section;
extern const joust_section joust_pairs_section;
extern const joust_section joust_train_section;

#endif
