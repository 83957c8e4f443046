/* joust bench engine: tokens a second of generation, of one sequence alone and of training, each beside what the machine
 * allows, measured in the same run.
 *
 *   bench_engine.c       options, repetitions, medians, what is printed
 *   bench_engine_work.c  the work itself, and how many multiply-adds it is */
#ifndef JOUST_OPS_BENCH_ENGINE_H
#define JOUST_OPS_BENCH_ENGINE_H

#include "worker/engine/model.h"

/* How much work a figure is. */
typedef struct joust_bench_engine_size {
    uint32_t prompts, samples;         /* of generation; samples of each prompt */
    uint32_t prompt_tokens, tokens;    /* a prompt's; generated of each sample */
    uint32_t pairs;                    /* of a training step, both answers of `tokens` */
} joust_bench_engine_size;

/* What was done, and in what time. flop counts the multiply-adds of matrix products alone, twice each. */
typedef struct joust_bench_engine_run {
    uint64_t tokens, flop;
    double seconds;
} joust_bench_engine_run;

typedef struct joust_bench_engine_work joust_bench_engine_work;

/* Inputs and a trainer for a model, all drawn from a fixed seed; trains is false where no training step will be asked for.
 * Keeps engine and model. Errors: JOUST_NOMEM, JOUST_INVALID (the model's context is too short). */
JOUST_MUST_USE joust_status joust_bench_engine_work_create(joust_engine *engine, joust_model *model,
                                                           const joust_bench_engine_size *size, bool trains,
                                                           joust_bench_engine_work **ret,
                                                           joust_error *err);
void joust_bench_engine_work_free(joust_bench_engine_work **work);
/* Generates size.prompts x size.samples answers; tokens are those generated. */
JOUST_MUST_USE joust_status joust_bench_engine_generate(joust_bench_engine_work *work,
                                                        joust_bench_engine_run *ret, joust_error *err);
/* Generates one answer, alone, to a prompt of one token. */
JOUST_MUST_USE joust_status joust_bench_engine_decode(joust_bench_engine_work *work,
                                                      joust_bench_engine_run *ret, joust_error *err);
/* One DPO step; tokens are the rows computed, a pair's prompt once. */
JOUST_MUST_USE joust_status joust_bench_engine_train(joust_bench_engine_work *work,
                                                     joust_bench_engine_run *ret, joust_error *err);

/* The verb; argv[0] is "engine". Returns the exit status. */
int joust_bench_engine(int argc, char **argv);

#endif
