/* A tiny model and job for tests of worker and judge: a folder with config.json, model.safetensors
 * and tokenizer.json (a closed word-level vocabulary), and a job that names it. Failures end the
 * test. */
#ifndef JOUST_TESTS_WORKER_TINY_H
#define JOUST_TESTS_WORKER_TINY_H

#include "proto/messages.h"
#include "proto/plan.h"
#include "worker/engine/model.h"

#define TINY_EOS   2u
#define TINY_VOCAB 24u

/* Makes the folder `name` below the build tree, empty, and writes its path. */
void tiny_dir(const char *name, char ret[512]);
/* Writes config.json and tokenizer.json, and with weights the model of this seed. */
void tiny_folder_write(const char *dir, bool weights, uint64_t seed);

/* A job with one model "policy", prompts, a rollout, the judges "self" (yes-no), "pair" (compare),
 * "number" (rule) and "dice" (random), and DPO. Free with joust_job_fini. The plan borrows it. */
void tiny_job_make(joust_job *job, joust_plan *plan);
/* The plan's first stage of this kind, and of this judge if it isn't NULL. */
const joust_stage *tiny_stage(const joust_job *job, const joust_plan *plan, joust_stage_kind kind,
                              const char *judge);
/* A GENERATE lease; free with joust_lease_unit_fini. */
joust_lease_unit tiny_generate_unit(const joust_stage *stage, uint64_t position,
                                    const joust_model_ref *model);

#endif
