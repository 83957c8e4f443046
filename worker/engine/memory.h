/* How much memory a model needs resident, before it is loaded. */
#ifndef JOUST_WORKER_ENGINE_MEMORY_H
#define JOUST_WORKER_ENGINE_MEMORY_H

#include "proto/base/settings.h"
#include "worker/engine/model.h"

typedef struct joust_memory_plan {
    uint32_t n_threads;
    uint64_t cache_bytes; /* key-value memory, as joust_engine_options has it; 0: its default */
    uint32_t batch_size;  /* rows (pairs) of a training step */
    uint32_t row_tokens;  /* of the longest row: the prompt once, and its answers */
    uint32_t row_answers; /* of those, tokens whose log-probability counts */
    joust_lora_settings lora; /* rank 0: no adapter, every parameter is trained */
    bool recompute;       /* joust_train_settings.recompute */
} joust_memory_plan;

typedef struct joust_memory_need { /* bytes, beside what the process holds without a model */
    uint64_t model;    /* weights as loaded, and packed for the kernels */
    uint64_t rollout;  /* with the model, threads' activations, and the cache once it is full */
    uint64_t training; /* with the model, moments, sums of gradients, threads' activations */
    uint64_t reference; /* while another version's log-probabilities are taken before the first step; an adapter's base: none */
} joust_memory_need;

/* Pure arithmetic over the config; within 10 % of what is measured (tests/engine/compute/memory_test.c). */
joust_memory_need joust_memory_predict(const joust_model_config *config,
                                       const joust_memory_plan *plan);

#endif
