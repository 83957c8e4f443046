/* A job for tests: policy, two reward judges and a rule, training, evaluation, promotion. */
#ifndef JOUST_TESTS_COORDINATOR_SAMPLE_JOB_H
#define JOUST_TESTS_COORDINATOR_SAMPLE_JOB_H

#include "proto/plan.h"

typedef struct sample_job {
    joust_job job;
    joust_job_model models[2];
    joust_job_set sets[3];
    joust_job_judge judges[3];
    joust_job_stage stages[8];
    joust_plan plan;
} sample_job;

static char sample_policy[] = "policy", sample_base[] = "base", sample_self[] = "self",
            sample_rule[] = "exact", sample_prompts[] = "prompts", sample_test[] = "test",
            sample_validation[] = "validation", sample_build[] = "best-worst";

/* generate, judge, pair, train; groups prompts a round, 2 samples each. s stays where it is. */
static inline void sample_job_init(sample_job *s, uint32_t rounds, uint32_t groups)
{
    *s = (sample_job){
        .models = {{.name = sample_policy}, {.name = sample_base}},
        .sets = {{.name = sample_prompts, .per_round = groups, .order = JOUST_ORDER_SHUFFLE},
                 {.name = sample_test},
                 {.name = sample_validation}},
        .judges = {{.name = sample_self,
                    .kind = JOUST_JUDGE_YES_NO,
                    .role = JOUST_ROLE_REWARD,
                    .model = sample_policy,
                    .version = JOUST_PICK_ROUND_START},
                   {.name = sample_rule, .kind = JOUST_JUDGE_RULE, .role = JOUST_ROLE_EVALUATE}}};
    s->job = (joust_job){.seed = 7,
                         .rounds = rounds,
                         .n_models = 2,
                         .n_sets = 3,
                         .n_judges = 2,
                         .models = s->models,
                         .sets = s->sets,
                         .judges = s->judges,
                         .stages = s->stages,
                         .combine = JOUST_COMBINE_MEAN,
                         .has_prompts = true,
                         .has_train = true};
    s->job.rollout.samples = 2;
    s->job.pairs.build = sample_build;
    s->job.train.model = sample_policy;
    s->job.train.reference = JOUST_PICK_ROUND_START;
    s->job.train.loss = JOUST_LOSS_DPO;
}

static inline void sample_job_evaluate(sample_job *s)
{
    s->job.evaluate = (joust_job_evaluate){.on = true,
                                           .prompts = sample_test,
                                           .judge = sample_rule,
                                           .judged_by = sample_self,
                                           .samples = 3};
}

static inline void sample_job_promote(sample_job *s)
{
    s->job.promote = (joust_job_promote){
        .on = true, .prompts = sample_validation, .judge = sample_rule, .gate = true};
}

#endif
