/* Inside of a trainer. */
#ifndef JOUST_WORKER_ENGINE_TRAINER_INTERNAL_H
#define JOUST_WORKER_ENGINE_TRAINER_INTERNAL_H

#include "losses_internal.h"
#include "worker/engine/train.h"

struct joust_trainer {
    joust_engine *engine;
    joust_model *model;
    joust_train_settings params;
    uint32_t n_steps; /* done */
    float *m, *v;     /* (n_weights) moments */

    /* Working memory, grown as needed. */
    joust_tape **tapes; /* (threads) */
    float **partial;    /* (threads * depth) gradients on the way up the tree */
    uint32_t depth;
    float **sums; /* (n_sums) gradients of aligned runs of rows */
    uint32_t n_sums;
    uint32_t max_runs; /* sums at most, unless two a thread are more; changes no bit */
};

#endif
