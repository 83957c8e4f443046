/* AdamW over what is trained, and the learning rate of a step. */
#ifndef JOUST_WORKER_ENGINE_TRAIN_OPTIMIZER_INTERNAL_H
#define JOUST_WORKER_ENGINE_TRAIN_OPTIMIZER_INTERNAL_H

#include "proto/base/settings.h"
#include "worker/engine/engine_internal.h"
#include "worker/engine/model_internal.h"

/* Of step 0, 1, ...: KERNELS.md, "Schedules". */
double joust_learning_rate(const joust_train_settings *params, uint32_t step);
/* What a step multiplies by; decay is that of matrices. */
joust_adam joust_adam_of_step(const joust_train_settings *params, uint32_t step,
                              double learning_rate, double scale);
/* sqrt of the sum of squares: blocks of 4096 elements on the engine's threads, added in order.
 * Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_gradient_norm(joust_engine *engine, const float *gradient,
                                                uint64_t n, double *ret, joust_error *err);
/* One update of the weights and of both moments; the gradient is multiplied by scale. The caller
 * tells the model. */
void joust_optimizer_update(joust_engine *engine, const joust_trained *trained,
                            const joust_train_settings *params, uint32_t step, double learning_rate,
                            double scale, const float *gradient, float *m, float *v);

#endif
