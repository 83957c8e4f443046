/* Inside of an adapter. */
#ifndef JOUST_WORKER_ENGINE_LORA_INTERNAL_H
#define JOUST_WORKER_ENGINE_LORA_INTERNAL_H

#include "worker/engine/kernels/kernels_internal.h"
#include "worker/engine/lora.h"

/* The matrix products of a layer, as the kernels see them: query, key and value are one, gate and up another. */
typedef enum joust_product {
    JOUST_PRODUCT_QKV,
    JOUST_PRODUCT_O,
    JOUST_PRODUCT_GATE_UP,
    JOUST_PRODUCT_DOWN
} joust_product;
#define JOUST_N_PRODUCTS 4u

/* One target's B, (n, rank): outputs first .. first + n - 1 of its product. */
typedef struct joust_lora_part {
    uint32_t target, first, n;
    uint64_t b; /* in the block of weights */
    joust_pack pack;
} joust_lora_part;

/* A product's targets. Their A's stand one after the other: one matrix (low, in), low = n_parts * rank. */
typedef struct joust_lora_product {
    uint32_t n_parts, in, low, low_ld;
    uint64_t a;
    joust_pack pack;
    joust_lora_part parts[3];
} joust_lora_product;

/* Targets of a product of any layer, as settings ask for them; where they lie is 0. */
joust_lora_product joust_lora_product_of(const joust_model_config *config,
                                         const joust_lora_settings *settings,
                                         joust_product product);

typedef struct joust_lora {
    joust_lora_settings settings;
    float scale;
    bool off; /* computed as if it weren't there */
    joust_tensor *tensors;
    uint32_t n_tensors;
    float *weights;
    uint64_t n_weights;
    joust_lora_product *products; /* (n_layers, JOUST_N_PRODUCTS) */
    float *packed;
    bool ready;     /* the packs are of these weights */
    bool on_device; /* so is what lies beside the model on its device */
} joust_lora;

/* The adapter's elements beside a model of that config. */
uint64_t joust_lora_parameters(const joust_model_config *config,
                               const joust_lora_settings *settings);
/* Row lengths of x A' for each product; 0 where nothing is adapted. */
void joust_lora_widths(const joust_model_config *config, const joust_lora_settings *settings,
                       uint32_t ret[JOUST_N_PRODUCTS]);
/* An adapter of zeros for the model. Errors: those of joust_model_adapt. */
JOUST_MUST_USE joust_status joust_lora_create(joust_model *model,
                                              const joust_lora_settings *settings,
                                              joust_error *err);
void joust_lora_free(joust_lora **lora);
/* Brings the packed copies up to date, on the engine's threads. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_lora_prepare(joust_engine *engine, joust_lora *lora,
                                               uint32_t n_layers, joust_error *err);

#endif
