/* The engine: a decoder-only transformer, on CPU threads or on a GPU. One engine a process, shared by its models.
 * Results never depend on the number of threads, the instruction set, or what else is in a batch: a row's
 * result is a function of that row and the weights alone, to the last bit.
 * Thread: an engine and its models are used by one thread at a time; the engine's own threads are inside. */
#ifndef JOUST_WORKER_ENGINE_ENGINE_H
#define JOUST_WORKER_ENGINE_ENGINE_H

#include <stdint.h>

#include "proto/base/status.h"

#define JOUST_DEFAULT_CACHE_BYTES (UINT64_C(256) << 20)

typedef struct joust_engine joust_engine;

typedef enum joust_isa {
    JOUST_ISA_AUTO = 0, /* the widest the processor has, or JOUST_ISA=portable|avx2|avx512 from the environment */
    JOUST_ISA_PORTABLE = 1,
    JOUST_ISA_AVX2 = 2,
    JOUST_ISA_AVX512 = 3
} joust_isa;

typedef enum joust_precision {
    JOUST_PRECISION_F32,
    JOUST_PRECISION_BF16 /* on a CPU: weights; on a GPU: weights, keys, values and factors of products. The rest is float32 */
} joust_precision;

struct joust_device_api; /* worker/engine/device.h */

typedef struct joust_device_options {
    joust_precision precision;
    uint32_t index; /* of the GPU among those visible */
} joust_device_options;

typedef struct joust_engine_options {
    uint32_t n_threads; /* 0: the processors this process may use */
    joust_isa isa;
    uint64_t cache_bytes; /* key-value memory at most, of all models together; 0: 256 MiB, a quarter of a GPU's */
    const struct joust_device_api *device; /* what models compute on; NULL: the CPU. Kept */
    joust_device_options on_device; /* its precision is the CPU's, too */
} joust_engine_options;

/* Sets options' device by what a command line says: device "cpu", "cuda" or "cuda:N" (NULL: cpu), precision "f32" or "bf16"
 * (NULL: bf16 on a GPU, f32 on a CPU). Loads the plugin. Errors: JOUST_INVALID (the words), those of joust_device_load. */
JOUST_MUST_USE joust_status joust_engine_options_device(joust_engine_options *options, const char *device,
                                                        const char *precision, joust_error *err);

/* Errors: JOUST_UNSUPPORTED if the processor lacks the instruction set asked for, or there is no GPU to use; JOUST_NOMEM.
 * options may be NULL. */
JOUST_MUST_USE joust_status joust_engine_create(const joust_engine_options *options,
                                                joust_engine **ret, joust_error *err);
void joust_engine_free(joust_engine **engine);
/* "cpu-f32-1", "cpu-bf16-1", "cuda-sm90-bf16-2": backend, precision, kernel version. The same for every instruction set, since the bits
 * are. */
const char *joust_engine_numeric_class(const joust_engine *engine);
const char *joust_engine_isa_name(const joust_engine *engine); /* "portable", "avx2", "avx512" */
uint32_t joust_engine_threads(const joust_engine *engine);
const char *joust_engine_device_name(const joust_engine *engine); /* "cpu", or the GPU's name */

/* What the engine's key-value memory has done since it was created. */
typedef struct joust_cache_stats {
    uint64_t n_bytes, n_peak_bytes; /* held now, prefixes kept for later included; at most so far */
    uint64_t n_computed_tokens;     /* rows of forward passes of generation and scoring */
    uint64_t n_shared_tokens;       /* rows that weren't computed, their keys being there */
    uint64_t n_preempted;           /* times a sequence gave up its pages for another */
} joust_cache_stats;
joust_cache_stats joust_engine_cache_stats(const joust_engine *engine);
/* Frees the key-value memory kept between calls: prefixes are computed again. For who needs the memory otherwise. */
void joust_engine_cache_drop(joust_engine *engine);
/* Another bound than options->cache_bytes (0: its default, a quarter of a GPU's memory); what is kept goes if it is more. Between calls only. */
void joust_engine_set_cache(joust_engine *engine, uint64_t cache_bytes);

#endif
