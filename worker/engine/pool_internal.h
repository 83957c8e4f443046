/* Threads that do one thing together: fn(context, i) for i = 0 .. n-1, the caller being 0. What is
 * computed never depends on which thread does it. Thread: one caller at a time. */
#ifndef JOUST_WORKER_ENGINE_POOL_INTERNAL_H
#define JOUST_WORKER_ENGINE_POOL_INTERNAL_H

#include <stdint.h>

#include "proto/base/status.h"

typedef struct joust_pool joust_pool;
typedef void joust_pool_fn(void *context, uint32_t thread);

/* Errors: JOUST_NOMEM (memory or threads). n >= 1. */
JOUST_MUST_USE joust_status joust_pool_create(uint32_t n, joust_pool **ret, joust_error *err);
void joust_pool_free(joust_pool **pool);
uint32_t joust_pool_threads(const joust_pool *pool);
/* Returns when all have returned. */
void joust_pool_run(joust_pool *pool, joust_pool_fn *fn, void *context);

/* The same for items 0 .. n-1, each done once by whichever thread is free. */
typedef void joust_pool_item_fn(void *context, uint64_t item);
void joust_pool_each(joust_pool *pool, uint64_t n, joust_pool_item_fn *fn, void *context);

#endif
