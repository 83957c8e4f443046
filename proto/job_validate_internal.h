/* What the checks of a job share. */
#ifndef JOUST_PROTO_JOB_VALIDATE_INTERNAL_H
#define JOUST_PROTO_JOB_VALIDATE_INTERNAL_H

#include "proto/job.h"

typedef struct joust_job_check {
    const joust_job *job;
    char *key; /* 128 bytes, or NULL */
    joust_error *err;
} joust_job_check;

#define REFUSE(c, ...) return joust_fail((c)->err, JOUST_INVALID, __VA_ARGS__)

/* Names the key that is looked at: what fails next is blamed on it. */
void joust_check_set_key(const joust_job_check *c, const char *format, ...) JOUST_PRINTF(2, 3);
joust_status joust_check_refuse_model(const joust_job_check *c, const char *name);

/* job_validate_models.c */
bool joust_check_generates(const joust_job *job, const joust_job_model *m); /* answers prompts */
bool joust_check_is_served(const joust_job *job, const char *name);
const joust_job_endpoint *joust_check_served_endpoint(const joust_job *job, const char *name);
JOUST_MUST_USE joust_status joust_check_models(const joust_job_check *c);

/* job_validate_train.c; at: the block's key, "train" or "stages[2].train" */
JOUST_MUST_USE joust_status joust_check_train(const joust_job_check *c, const joust_job_train *t,
                                              const char *at);

/* job_validate.c */
bool joust_check_has_reward_judge(const joust_job *job);
JOUST_MUST_USE joust_status joust_check_pairs(const joust_job_check *c);

#endif
