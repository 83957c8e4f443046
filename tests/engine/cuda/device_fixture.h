/* For tests that compare a device with the CPU: the emulator where JOUST_EMULATED is defined, else the plugin that the command
 * line names. A test's main begins with device_open. */
#ifndef JOUST_TESTS_ENGINE_CUDA_DEVICE_FIXTURE_H
#define JOUST_TESTS_ENGINE_CUDA_DEVICE_FIXTURE_H

#include "engine/compute/train_fixture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "worker/engine/device.h"

static const joust_device_api *api;

#if defined(JOUST_EMULATED)
const joust_device_api *joust_device_entry(void);
#endif

/* False, with a line that says why, if there is none. */
static inline bool device_open(int argc, char **argv)
{
#if defined(JOUST_EMULATED)
    (void)argc, (void)argv;
    api = joust_device_entry();
    return true;
#else
    joust_error err = {0};
    if (argc == 2 && !joust_device_load(argv[1], &api, &err))
        return true;
    fprintf(stderr, "%s\n", argc == 2 ? err.text : "usage: TEST PLUGIN");
    return false;
#endif
}

/* On the device, or on a CPU in float32. */
static inline joust_engine *engine_on(bool device, joust_precision precision)
{
    joust_error err = {0};
    joust_engine *e;
    const joust_engine_options o = {
        .n_threads = 2,
        .cache_bytes = 1 << 20,
        .device = device ? api : NULL,
        .on_device = {.precision = device ? precision : JOUST_PRECISION_F32}};
    check_ok(joust_engine_create(&o, &e, &err));
    return e;
}

static inline void check_near(const float *a, const float *b, uint64_t n, double bound,
                              const char *what)
{
    for (uint64_t i = 0; i < n; i++)
        if (!(fabs((double)a[i] - (double)b[i]) <= bound * (1 + fabs((double)b[i]))))
            fail_msg("%s %llu: %.9g, the CPU has %.9g", what, (unsigned long long)i, (double)a[i],
                     (double)b[i]);
}

#endif
