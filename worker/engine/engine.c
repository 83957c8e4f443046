#define _GNU_SOURCE /* sched_getaffinity, CPU_COUNT */
#include "worker/engine/engine.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "engine_internal.h"
#include "paged_cache_internal.h"
#include "proto/base/alloc.h"
#include "worker/engine/device.h"

#define MAX_THREADS 1024u

/* What the processor and the operating system support; the portable kernels run anywhere. */
static bool processor_has(joust_isa isa)
{
#if defined(__x86_64__)
    if (isa == JOUST_ISA_AVX512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma");
    if (isa == JOUST_ISA_AVX2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    return isa == JOUST_ISA_PORTABLE;
}

static const joust_kernels *kernels_of(joust_isa isa)
{
    switch (isa) {
    case JOUST_ISA_PORTABLE:
        return joust_kernels_portable();
    case JOUST_ISA_AVX2:
        return joust_kernels_avx2();
    case JOUST_ISA_AVX512:
        return joust_kernels_avx512();
    default:
        return NULL;
    }
}

/* The widest, or what the environment asks for. */
static joust_status isa_choose(joust_isa *ret, joust_error *err)
{
    static const struct {
        const char *name;
        joust_isa isa;
    } names[] = {
        {"portable", JOUST_ISA_PORTABLE}, {"avx2", JOUST_ISA_AVX2}, {"avx512", JOUST_ISA_AVX512}};
    const char *wanted = getenv("JOUST_ISA");
    if (!wanted || !*wanted) {
        *ret = processor_has(JOUST_ISA_AVX512) ? JOUST_ISA_AVX512
               : processor_has(JOUST_ISA_AVX2) ? JOUST_ISA_AVX2
                                               : JOUST_ISA_PORTABLE;
        return JOUST_OK;
    }
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        if (strcmp(wanted, names[i].name) == 0) {
            *ret = names[i].isa;
            return JOUST_OK;
        }
    return joust_fail(err, JOUST_INVALID, "JOUST_ISA is \"%s\": must be portable, avx2 or avx512",
                      wanted);
}

static uint32_t processors_count(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof(set), &set) || CPU_COUNT(&set) < 1)
        return 1;
    return (uint32_t)CPU_COUNT(&set);
}

/* Opens the device that the options name, if any, and takes their precision. */
static joust_status device_open(joust_engine *e, const joust_engine_options *o, joust_error *err)
{
    if (!o->device) {
        e->precision = o->on_device.precision;
        return JOUST_OK;
    }
    joust_status st = o->device->open(&o->on_device, &e->device, err);
    if (st)
        return st;
    e->api = o->device;
    joust_engine_set_cache(e, o->cache_bytes);
    return JOUST_OK;
}

joust_status joust_engine_create(const joust_engine_options *options, joust_engine **ret,
                                 joust_error *err)
{
    joust_engine_options o = options ? *options : (joust_engine_options){0};
    joust_status st = o.isa == JOUST_ISA_AUTO ? isa_choose(&o.isa, err) : JOUST_OK;
    if (st)
        return st;
    const joust_kernels *kernels = kernels_of(o.isa);
    if (!kernels || !processor_has(o.isa))
        return joust_fail(
            err, JOUST_UNSUPPORTED,
            "engine: this processor or build lacks the instruction set asked for; leave "
            "JOUST_ISA unset");
    if (o.n_threads == 0)
        o.n_threads = processors_count();
    if (o.n_threads > MAX_THREADS)
        return joust_fail(err, JOUST_INVALID, "engine: %u threads, at most %u", o.n_threads,
                          MAX_THREADS);
    joust_engine *e = joust_calloc(1, sizeof(*e));
    if (!e)
        return joust_fail(err, JOUST_NOMEM, "engine: out of memory");
    e->kernels = kernels;
    e->cache_bytes = o.cache_bytes ? o.cache_bytes : JOUST_DEFAULT_CACHE_BYTES;
    st = device_open(e, &o, err);
    if (!st)
        st = joust_pool_create(o.n_threads, &e->pool, err);
    if (st) {
        joust_engine_free(&e);
        return st;
    }
    *ret = e;
    return JOUST_OK;
}

void joust_engine_free(joust_engine **engine)
{
    if (*engine) {
        joust_paged_free_all(*engine);
        joust_pool_free(&(*engine)->pool);
        if ((*engine)->api)
            (*engine)->api->close(&(*engine)->device);
        joust_free(*engine);
    }
    *engine = NULL;
}

const char *joust_engine_numeric_class(const joust_engine *engine)
{
    if (engine->api)
        return engine->api->numeric_class(engine->device);
    return engine->precision == JOUST_PRECISION_BF16 ? "cpu-bf16-1" : "cpu-f32-1";
}

const char *joust_engine_device_name(const joust_engine *engine)
{
    return engine->api ? engine->api->describe(engine->device) : "cpu";
}

const char *joust_engine_isa_name(const joust_engine *engine)
{
    return engine->kernels->name;
}

uint32_t joust_engine_threads(const joust_engine *engine)
{
    return joust_pool_threads(engine->pool);
}

joust_cache_stats joust_engine_cache_stats(const joust_engine *engine)
{
    joust_cache_stats stats = engine->cache_stats;
    stats.n_bytes = engine->cache_used;
    return stats;
}

void joust_engine_cache_drop(joust_engine *engine)
{
    joust_paged_free_all(engine);
}

void joust_engine_set_cache(joust_engine *engine, uint64_t cache_bytes)
{
    const uint64_t usual =
        engine->device ? engine->api->memory(engine->device) / 4 : JOUST_DEFAULT_CACHE_BYTES;
    engine->cache_bytes = cache_bytes ? cache_bytes : usual;
    if (engine->cache_used > engine->cache_bytes)
        joust_paged_free_all(engine);
}
