/* Inside of an engine: its threads and its kernels. */
#ifndef JOUST_WORKER_ENGINE_ENGINE_INTERNAL_H
#define JOUST_WORKER_ENGINE_ENGINE_INTERNAL_H

#include "pool_internal.h"
#include "worker/engine/engine.h"
#include "worker/engine/kernels/kernels_internal.h"

struct joust_engine {
    joust_pool *pool;
    const joust_kernels *kernels;
    joust_precision precision; /* of weights on the CPU */
    uint64_t cache_bytes;      /* most bytes of key-value memory */
    uint64_t cache_used, cache_ticks;
    joust_cache_stats cache_stats;
    struct joust_paged *paged;          /* a list; paged_cache_internal.h */
    const struct joust_device_api *api; /* NULL: models compute on the CPU */
    struct joust_device *device;
    uint32_t pass_rows; /* most rows that the device has had memory for; 0: no limit met */
};

#endif
