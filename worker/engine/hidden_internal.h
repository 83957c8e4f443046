/* Inside of hidden states and scores: what the CPU's way and a device's share. */
#ifndef JOUST_WORKER_ENGINE_HIDDEN_INTERNAL_H
#define JOUST_WORKER_ENGINE_HIDDEN_INTERNAL_H

#include <stdbool.h>

#include "worker/engine/hidden.h"

/* Whether anything is asked of a request's row. */
bool joust_hidden_wants(const joust_hidden_request *r, uint32_t row);
/* Errors: JOUST_NOT_FINITE. */
JOUST_MUST_USE joust_status joust_score_check(float score, joust_error *err);
/* joust_hidden of an engine with a device; requests are checked. */
JOUST_MUST_USE joust_status joust_hidden_device(joust_engine *engine, joust_model *model,
                                                const joust_hidden_request *requests,
                                                uint32_t n_requests, joust_step_fn *step,
                                                void *context, joust_error *err);

#endif
