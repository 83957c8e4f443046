/* TRAIN units done by a program of others: train.command. It runs under a guard (worker/child.h), so that it ends whole
 * when its worker does, or when nobody wants the unit any more. What it gets are files and variables:
 *
 *   JOUST_BASE       folder of the version that it starts from (config.json, weights, tokenizer)
 *   JOUST_REFERENCE  folder of the reference version; "" with reference: none
 *   JOUST_PAIRS      JSONL, each pair once, in training order: prompt, chosen, rejected (text), prompt_tokens, chosen_tokens,
 *                    rejected_tokens (ids, what the policy saw and wrote), margin; JOUST_N_PAIRS of them.
 *                    Or JOUST_DATA: the file of train.data
 *   JOUST_OUTPUT     empty folder: at the end config.json and weights of the next version lie there
 *   JOUST_STATE      folder for its own checkpoints; JOUST_RESUME: the newest that is durable, or ""
 *   JOUST_ROUND JOUST_STAGE JOUST_VERSION JOUST_SEED; MASTER_ADDR and MASTER_PORT of a rendezvous on this node
 *   JOUST_NODES (1) JOUST_GPUS CUDA_VISIBLE_DEVICES
 *   the job's keys under `train`, defaults filled in, a flag as 0 or 1:
 *   JOUST_LOSS JOUST_BETA JOUST_SFT_WEIGHT JOUST_LABEL_SMOOTHING JOUST_LEARNING_RATE JOUST_MIN_LEARNING_RATE_RATIO
 *   JOUST_SCHEDULE (constant, linear, cosine) JOUST_WARMUP_STEPS JOUST_MAX_STEPS JOUST_BATCH_SIZE JOUST_WEIGHT_DECAY
 *   JOUST_CLIP JOUST_ADAM_BETA1 JOUST_ADAM_BETA2 JOUST_ADAM_EPS JOUST_GRADIENT_CHECKPOINTING
 *   JOUST_LORA_RANK (0: every weight) JOUST_LORA_ALPHA JOUST_LORA_TARGETS ("q_proj,v_proj") JOUST_LORA_RSLORA: what it trains;
 *   what it gives back is a whole checkpoint all the same, an adapter merged
 *
 * What it prints goes to LOGS/WORKER-train-MODEL.log. A line that is a JSON object with a number `loss` is a step (names as
 * TRL's or ours); one with {"checkpoint": NAME} says that the folder JOUST_STATE/NAME is complete and won't change: it is
 * made durable, and after whatever is killed training goes on from it. It has succeeded if it ends with status 0 and the
 * result has the base's shapes and finite weights. Thread: the compute thread. */
#ifndef JOUST_WORKER_EXTERNAL_H
#define JOUST_WORKER_EXTERNAL_H

#include "worker/trainer.h"

/* As joust_training_run, for a stage with has_external. Errors: JOUST_INVALID: how it ended, or what is wrong with its
 * result, and train.deadline_ms; JOUST_NOT_FINITE: a loss or weight; JOUST_INTERRUPTED; those of files. */
JOUST_MUST_USE joust_status joust_external_run(const joust_training *t,
                                               const joust_lease_unit *unit, joust_unit_result *ret,
                                               joust_error *err);

/* A line that a trainer prints. */
typedef enum joust_trainer_line {
    JOUST_LINE_TEXT,       /* nothing that is counted */
    JOUST_LINE_STEP,       /* *ret_step's figures are set */
    JOUST_LINE_CHECKPOINT, /* ret_name is set */
    JOUST_LINE_NOT_FINITE, /* its loss is NaN or infinite */
    JOUST_LINE_BAD_NAME    /* a checkpoint whose name isn't a plain one */
} joust_trainer_line;
/* Figures that are missing or not finite are 0. */
joust_trainer_line joust_trainer_line_read(const char *line, joust_train_step *ret_step,
                                           char ret_name[128]);

#endif
