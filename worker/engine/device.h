/* What a compute plugin gives the engine: one table of functions, found by name in a shared object that the program loads
 * when a GPU is asked for. The engine keeps everything that decides what is computed (batches, pages, random numbers,
 * losses); a plugin holds weights and key-value pages and computes passes over them. Rows are computed as on the CPU: a
 * row's result is a function of its token, its position, its keys and the weights, not of the rows beside it.
 *
 *   engine ── rows, asks ──▶ run ──▶ logits' maximum and sum, drawn tokens, logits of given tokens
 *
 * Thread: a device and all that belongs to it are used by one thread at a time. */
#ifndef JOUST_WORKER_ENGINE_DEVICE_H
#define JOUST_WORKER_ENGINE_DEVICE_H

#include <stdint.h>

#include "proto/base/status.h"
#include "worker/engine/model.h"

/* Raised when a type or function below changes its meaning: program and plugin must agree. */
#define JOUST_DEVICE_ABI             1u
/* The plugin's one symbol, of type joust_device_entry_fn. */
#define JOUST_DEVICE_ENTRY           "joust_device_entry"
/* Where the plugin lies, if not beside the program. */
#define JOUST_DEVICE_PLUGIN_VARIABLE "JOUST_CUDA_PLUGIN"
#define JOUST_DEVICE_PLUGIN          "joust-cuda.so"

/* Tokens of a page, as on the CPU. */
#define JOUST_DEVICE_PAGE_POSITIONS 16u

typedef struct joust_device joust_device;
typedef struct joust_device_model joust_device_model;

/* A model's weights as the engine has them; all borrowed. Offsets in elements of weights, as in model_internal.h. */
typedef struct joust_device_layer {
    uint64_t qkv, o, gate_up, down, attention_norm, ff_norm;
    uint64_t qkv_bias, q_norm, k_norm;        /* where the family has them */
    uint64_t o_bias, gate_up_bias, down_bias; /* where the config has them */
} joust_device_layer;

typedef struct joust_device_weights {
    const joust_model_config *config;
    const float *weights;
    const joust_device_layer *layers; /* (n_layers) */
    uint64_t embedding, norm, head;   /* head == embedding if tied */
    const float *rope;                /* (context, d_head): cos then sin of d_head / 2 angles */
} joust_device_weights;

/* One token to compute. Its keys are those of its pages up to itself. Rows of one sequence come in order of position. */
typedef struct joust_device_row {
    uint32_t token, position;
    void *const *pages; /* page i holds positions 16 i .. 16 i + 15 */
} joust_device_row;

/* A row whose logits are wanted, by number, rising. */
typedef struct joust_device_wanted {
    uint32_t row;
    float *ret_logits; /* (vocab_size) host memory, or NULL */
    float max, sum;    /* set: of the logits; sum of e^(x - max) */
} joust_device_wanted;

/* A token to draw after a wanted row: weights e^((x - max) scale), those below min_p are 0; the first token, by id, at
 * which their running sum passes uniform times the total. */
typedef struct joust_device_draw {
    uint32_t wanted;      /* number in the list of wanted rows */
    float scale, uniform; /* scale 0: the largest logit, ties to the lowest id */
    float min_p;
    uint32_t token; /* set */
    float x;        /* set: its logit */
    double total;   /* set: of the weights; 0 if scale is 0 */
} joust_device_draw;

/* The logit of a token after a wanted row. */
typedef struct joust_device_pick {
    uint32_t wanted, token;
    float x; /* set */
} joust_device_pick;

typedef struct joust_device_pass {
    const joust_device_row *rows; /* (n_rows), 1 .. JOUST_DEVICE_PASS_ROWS */
    joust_device_wanted *wanted;
    joust_device_draw *draws; /* by wanted row, rising */
    joust_device_pick *picks; /* likewise */
    uint32_t n_rows, n_wanted, n_draws, n_picks;
} joust_device_pass;
#define JOUST_DEVICE_PASS_ROWS 512u

typedef struct joust_device_api {
    uint32_t abi, n_bytes; /* JOUST_DEVICE_ABI, sizeof(joust_device_api) */
    /* Errors: JOUST_UNSUPPORTED (no driver, no GPU, too old a GPU: the text says the remedy), JOUST_NOMEM. */
    joust_status (*open)(const joust_device_options *options, joust_device **ret, joust_error *err);
    /* Lets go of it; its models keep it alive until they are freed. */
    void (*close)(joust_device **device);
    const char *(*numeric_class)(const joust_device *device); /* "cuda-sm90-bf16-1" */
    const char *(*describe)(const joust_device *device);      /* "NVIDIA H100, sm_90" */
    uint64_t (*memory)(const joust_device *device);           /* of the GPU, bytes */
    /* Uploads. Errors: JOUST_UNSUPPORTED (a shape, by name), JOUST_NOMEM. */
    joust_status (*model_create)(joust_device *device, const joust_device_weights *weights,
                                 joust_device_model **ret, joust_error *err);
    void (*model_free)(joust_device_model **model);
    /* Keys and values of sixteen positions at every layer; what a page holds at first is undefined. */
    uint64_t (*page_bytes)(const joust_device *device, const joust_model_config *config);
    joust_status (*page_create)(joust_device *device, uint64_t n_bytes, void **ret,
                                joust_error *err);
    void (*page_free)(joust_device *device, void *page);
    joust_status (*page_copy)(joust_device *device, void *to, const void *from, uint64_t n_bytes,
                              joust_error *err);
    /* Computes the rows, stores their keys and values, fills in what is asked. Errors: JOUST_NOMEM (nothing is lost: with
     * fewer rows it may go), JOUST_IO (the GPU failed: what it holds is lost). */
    joust_status (*run)(joust_device_model *model, joust_device_pass *pass, joust_error *err);
    /* For benchmarks: what the GPU allows, bytes a second of a plain read and floating-point operations a second of bf16
     * tensor-core products that never leave the registers; work (1 .. 64) says over how much it is measured. */
    joust_status (*bounds)(joust_device *device, uint32_t work, double *ret_bytes_s,
                           double *ret_flop_s, joust_error *err);
} joust_device_api;

/* View, valid for the life of the process. */
typedef const joust_device_api *joust_device_entry_fn(void);

/* Loads a plugin: path, or NULL: the one that JOUST_CUDA_PLUGIN names, else the one beside the program. It stays loaded.
 * Errors: JOUST_UNSUPPORTED (absent, or of another version: what to do). Thread: any. */
JOUST_MUST_USE joust_status joust_device_load(const char *path, const joust_device_api **ret,
                                              joust_error *err);

#endif
