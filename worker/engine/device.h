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

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"
#include "worker/engine/model.h"

/* Raised when a type or function below changes its meaning: program and plugin must agree. */
#define JOUST_DEVICE_ABI             3u
/* The plugin's one symbol, of type joust_device_entry_fn. */
#define JOUST_DEVICE_ENTRY           "joust_device_entry"
/* Where the plugin lies, if not beside the program. */
#define JOUST_DEVICE_PLUGIN_VARIABLE "JOUST_CUDA_PLUGIN"
#define JOUST_DEVICE_PLUGIN          "joust-cuda.so"

/* Tokens of a page, as on the CPU. */
#define JOUST_DEVICE_PAGE_POSITIONS 16u

/* What the plugin's kernels take at most: numbers of a head; tokens of a training row. */
#define JOUST_DEVICE_MAX_HEAD       256u
#define JOUST_DEVICE_MAX_ROW_TOKENS 65535u

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

/* An adapter beside a model (worker/engine/lora.h); all borrowed. Offsets in elements of its weights. B of a target, (n, rank),
 * is of outputs first .. first + n - 1 of its product; the A's of a product stand one after the other. */
typedef struct joust_device_adapter_part {
    uint32_t first, n;
    uint64_t b;
} joust_device_adapter_part;

#define JOUST_DEVICE_PRODUCTS 4u /* query, key and value; o; gate and up; down */
#define JOUST_DEVICE_TARGETS  3u /* of a product, at most */
typedef struct joust_device_adapter_product {
    uint32_t n_parts; /* 0: not adapted */
    uint64_t a;       /* (n_parts rank, inputs) */
    joust_device_adapter_part parts[JOUST_DEVICE_TARGETS];
} joust_device_adapter_product;

typedef struct joust_device_adapter {
    const float *weights;
    uint64_t n_weights;
    const joust_device_adapter_product *products; /* (n_layers, JOUST_DEVICE_PRODUCTS) */
    uint32_t rank;
    float scale;
} joust_device_adapter;

/* One token to compute. Its keys are those of its pages up to itself. Rows of one sequence come in order of position. */
typedef struct joust_device_row {
    uint32_t token, position;
    void *const *pages; /* page i holds positions 16 i .. 16 i + 15 */
} joust_device_row;

/* A row whose logits are wanted, by number, rising. */
typedef struct joust_device_wanted {
    uint32_t row;
    float *ret_logits; /* (vocab_size) host memory, or NULL */
    float max, sum;    /* set, where the pass asks of logits: their maximum; sum of e^(x - max) */
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
    float *
        ret_states; /* (n_wanted, d_model) what the head reads, before it is rounded; host memory, or NULL: logits are
                             asked of then only by draws and picks */
    bool without_adapter; /* as if the model had none */
} joust_device_pass;
#define JOUST_DEVICE_PASS_ROWS 512u

/* ---- training -------------------------------------------------------------------------------- */

/* A micro-batch: a stem of tokens and up to two branches that continue it (worker/engine/train/tape_internal.h). Rows are those of
 * the stem, then of each branch; rows of branches see the stem and their own branch. */
#define JOUST_DEVICE_PARTS 3u
typedef struct joust_device_micro {
    const uint32_t *tokens[JOUST_DEVICE_PARTS];
    uint32_t n[JOUST_DEVICE_PARTS];
    const uint32_t *wanted;   /* (n_wanted) rows whose logits the loss asks about, rising */
    joust_device_pick *picks; /* logits asked for, by wanted row, rising */
    uint32_t n_wanted, n_picks;
    float *ret_sums; /* (n_wanted, 2): maximum of the logits, sum of e^(x - max) */
    bool recompute;  /* a layer's activations are computed again, not kept; changes no bit */
} joust_device_micro;

/* What a loss adds to the gradient with respect to the logits x after a wanted row: factor times */
typedef enum joust_device_slope_kind {
    JOUST_DEVICE_SLOPE_LOGP,   /* that of log p(token) */
    JOUST_DEVICE_SLOPE_LOGIT,  /* that of x[token] */
    JOUST_DEVICE_SLOPE_ENTROPY /* that of the entropy in nats, which is given */
} joust_device_slope_kind;

typedef struct joust_device_slope {
    uint32_t wanted; /* slopes come by wanted row, rising; those of one are added in order */
    joust_device_slope_kind kind;
    uint32_t token;
    float factor, entropy;
} joust_device_slope;

/* Which of a trainer's blocks, each of all that is trained in the engine's order. */
typedef enum joust_device_block {
    JOUST_DEVICE_WEIGHTS,
    JOUST_DEVICE_MOMENT_1,
    JOUST_DEVICE_MOMENT_2,
    JOUST_DEVICE_GRADIENT /* sum 0 */
} joust_device_block;

/* Elements first .. first + n - 1 of what is trained, those that decay or those that don't. */
typedef struct joust_device_range {
    uint64_t first, n;
    bool decays;
} joust_device_range;

/* As joust_adam (kernels_internal.h); decay of the ranges that decay, 1 for the others. */
typedef struct joust_device_update {
    float beta1, beta2, eps, step_size, correction, decay, scale;
    const joust_device_range *ranges;
    uint32_t n_ranges;
} joust_device_update;

/* Master weights in float32, both moments, and gradients' sums on the device, beside a model whose copy in the device's
 * precision follows the masters, and which it keeps alive. */
typedef struct joust_device_trainer joust_device_trainer;

typedef struct joust_device_api {
    uint32_t abi, n_bytes; /* JOUST_DEVICE_ABI, sizeof(joust_device_api) */
    /* Errors: JOUST_UNSUPPORTED (no driver, no GPU, too old a GPU: the text says the remedy), JOUST_NOMEM. */
    joust_status (*open)(const joust_device_options *options, joust_device **ret, joust_error *err);
    /* Lets go of it; its models keep it alive until they are freed. */
    void (*close)(joust_device **device);
    const char *(*numeric_class)(const joust_device *device); /* "cuda-sm90-bf16-2" */
    const char *(*describe)(const joust_device *device);      /* "NVIDIA H100, sm_90" */
    uint64_t (*memory)(const joust_device *device);           /* of the GPU, bytes */
    /* Uploads. Errors: JOUST_UNSUPPORTED (a shape, by name), JOUST_NOMEM. */
    joust_status (*model_create)(joust_device *device, const joust_device_weights *weights,
                                 joust_device_model **ret, joust_error *err);
    void (*model_free)(joust_device_model **model);
    /* Gives the model an adapter in the place of the one that it has; NULL takes it away, which doesn't fail. None of its
     * trainers is there. Errors: JOUST_NOMEM, JOUST_IO (it then has none). */
    joust_status (*adapter_put)(joust_device_model *model, const joust_device_adapter *adapter,
                                joust_error *err);
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
    /* Training, of every weight, or of the model's adapter alone: `adapter` as it was put, or NULL. weights: those that the
     * model was made from, n_weights in all; moments are 0. Errors: JOUST_NOMEM. */
    joust_status (*trainer_create)(joust_device_model *model, const joust_device_weights *weights,
                                   uint64_t n_weights, const joust_device_adapter *adapter,
                                   joust_device_trainer **ret, joust_error *err);
    void (*trainer_free)(joust_device_trainer **trainer);
    /* Computes the micro-batch by the kernels of `run`, keeps what the backward pass needs until the next call, and fills in
     * sums and picks. Errors: JOUST_NOMEM (nothing is lost: with less memory asked for it may go), JOUST_IO. */
    joust_status (*train_forward)(joust_device_trainer *t, const joust_device_micro *micro,
                                  joust_error *err);
    /* After train_forward. sums (n_wanted, 2) of all that follow: maximum, log of the sum of e^(x - max). */
    joust_status (*train_entropies)(joust_device_trainer *t, const joust_device_micro *micro,
                                    const float *sums, double *ret_entropies, joust_error *err);
    /* Makes room for n sums of gradients, all that is trained each. Errors: JOUST_NOMEM. */
    joust_status (*sums_reserve)(joust_device_trainer *t, uint32_t n, joust_error *err);
    /* The gradient becomes the trainer's sum number `sum`. Errors: as train_forward. */
    joust_status (*train_backward)(joust_device_trainer *t, const joust_device_micro *micro,
                                   const float *sums, const joust_device_slope *slopes,
                                   uint32_t n_slopes, uint32_t sum, joust_error *err);
    joust_status (*sums_add)(joust_device_trainer *t, uint32_t to, uint32_t from, joust_error *err);
    /* Of sum 0; order: joust_gradient_norm's. Errors: JOUST_NOMEM, JOUST_IO. */
    joust_status (*squares)(joust_device_trainer *t, double *ret, joust_error *err);
    /* One step of AdamW with sum 0; the model follows. */
    joust_status (*update)(joust_device_trainer *t, const joust_device_update *update,
                           joust_error *err);
    /* Elements first .. first + n - 1 of a block, to or from host memory. After weights were put: `refresh`. */
    joust_status (*block_get)(joust_device_trainer *t, joust_device_block block, uint64_t first,
                              uint64_t n, float *to, joust_error *err);
    joust_status (*block_put)(joust_device_trainer *t, joust_device_block block, uint64_t first,
                              uint64_t n, const float *from, joust_error *err);
    joust_status (*refresh)(joust_device_trainer *t, joust_error *err);
} joust_device_api;

/* What --device (cpu, cuda, cuda:N; NULL: cpu) and --precision (f32, bf16; NULL: the device's own) name. Nothing is loaded.
 * Errors: JOUST_INVALID. */
JOUST_MUST_USE joust_status joust_device_options_parse(const char *device, const char *precision,
                                                       joust_device_options *ret, bool *ret_cpu,
                                                       joust_error *err);
/* Whether a device could compute a model, and train rows of so many tokens: what model_create and train_forward say later.
 * Errors: JOUST_UNSUPPORTED. */
JOUST_MUST_USE joust_status joust_device_check_model(const joust_model_config *config,
                                                     joust_error *err);
JOUST_MUST_USE joust_status joust_device_check_row(uint32_t n_tokens, joust_error *err);

/* View, valid for the life of the process. */
typedef const joust_device_api *joust_device_entry_fn(void);

/* Loads a plugin: path, or NULL: the one that JOUST_CUDA_PLUGIN names, else the one beside the program. It stays loaded.
 * Errors: JOUST_UNSUPPORTED (absent, or of another version: what to do). Thread: any. */
JOUST_MUST_USE joust_status joust_device_load(const char *path, const joust_device_api **ret,
                                              joust_error *err);

#endif
