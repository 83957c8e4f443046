/* Inside of a model: the block of weights, and the copies of it that the kernels read. */
#ifndef JOUST_WORKER_ENGINE_MODEL_INTERNAL_H
#define JOUST_WORKER_ENGINE_MODEL_INTERNAL_H

#include "lora_internal.h"
#include "worker/engine/kernels/kernels_internal.h"
#include "worker/engine/model.h"

/* Where a layer's tensors begin in the block of weights (and of gradients), in elements. query,
 * key and value stand one after the other, so do gate and up: each group is one matrix to the
 * kernels. */
typedef struct joust_layer_offsets {
    uint64_t qkv, o, gate_up, down, attention_norm, ff_norm;
    uint64_t qkv_bias, q_norm, k_norm;        /* where the family has them */
    uint64_t o_bias, gate_up_bias, down_bias; /* where the config has them */
} joust_layer_offsets;

/* A layer's matrices as the forward pass reads them. (The backward pass reads the block itself.) */
typedef struct joust_layer_packs {
    joust_pack qkv, o, gate_up, down;
} joust_layer_packs;

/* One state of the weights, by identity: the key of caches made from them. */
typedef struct joust_weights_state joust_weights_state;
/* The weights changed or go: caches of this state are dropped. *state becomes NULL. */
void joust_weights_state_end(joust_weights_state **state);

struct joust_device_trainer; /* worker/engine/device.h */

struct joust_model {
    joust_model_config config;
    joust_tensor *tensors;
    uint32_t n_tensors;
    float *weights;
    uint64_t n_weights;
    joust_layer_offsets *offsets;   /* (n_layers) */
    uint64_t embedding, norm, head; /* head == embedding if tied */
    uint32_t n_out;                 /* outputs of the head: vocab_size, or 1 */

    /* Made by joust_model_prepare. */
    joust_layer_packs *packs; /* (n_layers) */
    joust_pack head_pack;
    void *packed; /* (n_packed words of 4 bytes) the one block that the packs lie in */
    uint64_t n_packed;
    joust_precision precision; /* of the packs, and of the embedding as the forward pass reads it */
    float *rope;               /* (context, d_head): cos then sin of d_head / 2 angles */
    bool ready;
    /* Made by joust_model_upload: the weights on a device; whose functions those are. */
    struct joust_device_model *on_device;
    const struct joust_device_api *api;
    const struct joust_device *device; /* only compared */
    bool host_is_stale; /* a trainer on the device has newer weights: joust_trainer_finish */
    joust_weights_state *state; /* NULL until a cache is made from these weights */
    joust_lora *lora;           /* the adapter, or NULL */
};

/* What training changes: the adapter, or every weight. Views of the model. */
typedef struct joust_trained {
    float *weights;
    uint64_t n;
    const joust_tensor *tensors;
    uint32_t n_tensors;
} joust_trained;
joust_trained joust_model_trained(const joust_model *model);
void joust_model_trained_changed(joust_model *model); /* as joust_model_changed, of those alone */

/* Whether it is computed without an adapter. */
static inline bool joust_model_is_bare(const joust_model *m)
{
    return !m->lora || m->lora->off;
}

static inline bool joust_config_has_bias(const joust_model_config *c)
{
    return c->family == JOUST_FAMILY_QWEN2 || c->attention_bias; /* of query, key and value */
}

static inline bool joust_config_has_qk_norm(const joust_model_config *c)
{
    return c->family == JOUST_FAMILY_QWEN3;
}

/* The first position that a row at `position` of a layer sees. */
static inline uint32_t joust_config_first_seen(const joust_model_config *c, uint32_t layer,
                                               uint32_t position)
{
    bool all = c->window == 0 || layer < c->first_window_layer || position < c->window;
    return all ? 0 : position - c->window + 1;
}

/* Widths of a row's activations. */
typedef struct joust_widths {
    uint32_t query, key_value, qkv; /* n_heads d_head, n_kv_heads d_head, their sum */
    uint32_t d_ld, query_ld, qkv_ld, ff_ld, gate_up_ld, vocab_ld; /* rounded up to whole lanes */
    uint32_t head_ld, qk_ld; /* of one attention head; of query and key */
} joust_widths;
/* Whether the head gives logits: a scalar head is refused by name, for `what`. Errors: JOUST_UNSUPPORTED. */
JOUST_MUST_USE joust_status joust_model_check_language(const joust_model_config *config,
                                                       const char *what, joust_error *err);
/* Whether the model has these tokens; what names them. Errors: JOUST_INVALID. */
JOUST_MUST_USE joust_status joust_model_check_tokens(const joust_model_config *config,
                                                     const char *what, const uint32_t *tokens,
                                                     uint32_t n, joust_error *err);

joust_widths joust_model_widths(const joust_model_config *config);

/* Brings the packed copies up to date, on the engine's threads. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_model_prepare(joust_engine *engine, joust_model *model,
                                                joust_error *err);
void joust_model_unprepare(joust_model *model); /* frees the packed copies */
/* Fills a pack that is laid out, from its matrix (n, k). */
void joust_pack_fill(const joust_pack *pack, const float *from);
/* Brings the copy on the engine's device up to date: model->on_device. Errors: JOUST_NOMEM, JOUST_UNSUPPORTED. */
JOUST_MUST_USE joust_status joust_model_upload(joust_engine *engine, joust_model *model,
                                               joust_error *err);
void joust_model_unload(joust_model *model); /* frees it */
/* The same, and master weights and moments beside it. Errors: the same. */
JOUST_MUST_USE joust_status joust_model_trainer_create(joust_engine *engine, joust_model *model,
                                                       struct joust_device_trainer **ret,
                                                       joust_error *err);
void joust_model_trained_on_device(
    joust_model *model); /* the device's copy has other weights now */
/* Whether the weights are here to be read. Errors: JOUST_BUG. */
JOUST_MUST_USE joust_status joust_model_check_host(const joust_model *model, joust_error *err);
/* model->rope, (context, d_head), once. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_model_angles(joust_model *model, joust_error *err);

#endif
