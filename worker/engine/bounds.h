/* What the machine allows the engine at most, measured on the engine's own threads: the limits that `joust bench engine`
 * compares its figures with. Thread: as the engine. */
#ifndef JOUST_WORKER_ENGINE_BOUNDS_H
#define JOUST_WORKER_ENGINE_BOUNDS_H

#include "worker/engine/model.h"

/* FLOP/s (a multiply-add counts two) of multiply-adds that never leave the registers, on all threads for about `seconds`. */
double joust_bound_multiply(joust_engine *engine, double seconds);
/* Seconds that all threads need to read the weights as the forward pass lays them out, in its precision, each byte once, in order: the mean of
 * whole reads for about `seconds`. Prepares the model. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_bound_read(joust_engine *engine, joust_model *model,
                                             double seconds, double *ret, joust_error *err);

#endif
