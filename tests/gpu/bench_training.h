/* Training's part of gpu_bench. */
#ifndef JOUST_TESTS_GPU_BENCH_TRAINING_H
#define JOUST_TESTS_GPU_BENCH_TRAINING_H

#include "worker/engine/train/train.h"

/* Steps of DPO over n_pairs pairs, a prompt and two answers each; the model's weights change. ret_rate: tokens a second of both
 * whole sequences (the prompt counts twice, though it is computed once); ret_products: floating-point operations a second
 * for each weight of a product: 6 a row that was computed. */
JOUST_MUST_USE joust_status bench_training(joust_engine *engine, joust_model *model,
                                           uint32_t n_pairs, uint32_t n_prompt, uint32_t n_answer,
                                           double *ret_rate, double *ret_products,
                                           joust_error *err);

#endif
