/* Settings of sampling and training: plain terms that the engine, the records and the job file share.
 * Numbers of enumerations are stored: never renumber. */
#ifndef JOUST_PROTO_BASE_SETTINGS_H
#define JOUST_PROTO_BASE_SETTINGS_H

#include <stdint.h>

/* How tokens are drawn. temperature 0 = greedy, ties to the lowest token id. */
typedef struct joust_sampling {
    float temperature, top_p, min_p; /* top_p 1 and min_p 0: off */
    uint32_t top_k;                  /* 0: off */
    uint32_t max_tokens;
} joust_sampling;

typedef enum joust_finish {
    JOUST_FINISH_STOP = 1,   /* an end token, which is the last of tokens */
    JOUST_FINISH_LENGTH = 2, /* max_tokens or the model's context reached */
    JOUST_FINISH_STOP_STRING = 3,
    JOUST_FINISH_ABORTED = 4
} joust_finish;

typedef enum joust_loss { JOUST_LOSS_DPO = 1, JOUST_LOSS_SFT = 2 } joust_loss;

typedef enum joust_schedule {
    JOUST_SCHEDULE_CONSTANT = 1,
    JOUST_SCHEDULE_LINEAR = 2,
    JOUST_SCHEDULE_COSINE = 3
} joust_schedule;

/* What a trainer needs to know; see worker/engine/train.h for the formulas. */
typedef struct joust_train_settings {
    joust_loss loss;
    double beta, sft_weight;                       /* DPO */
    double learning_rate, min_learning_rate_ratio; /* peak; final / peak */
    joust_schedule schedule;
    uint32_t warmup_steps, max_steps;
    double adam_beta1, adam_beta2, adam_eps, weight_decay;
    double clip; /* of the gradient's norm; 0: off */
} joust_train_settings;

#endif
