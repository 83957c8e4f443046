/* Decoders of the families Llama, Mistral, Qwen2 and Qwen3: RMSNorm, rotary positions (half-split, scaled or not),
 * grouped-query attention (over all keys or a window of them), SwiGLU; the head tied, of its own, or a scalar. On disk: Hugging Face layout (config.json, model.safetensors, tokenizer.json). Weights are float32 in memory. */
#ifndef JOUST_WORKER_ENGINE_MODEL_H
#define JOUST_WORKER_ENGINE_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/digest.h"
#include "worker/engine/engine.h"

#define JOUST_MAX_END_TOKENS 8u

typedef enum joust_family {
    JOUST_FAMILY_LLAMA,   /* also SmolLM2 */
    JOUST_FAMILY_MISTRAL,
    JOUST_FAMILY_QWEN2,   /* also Qwen2.5; query, key and value have biases */
    JOUST_FAMILY_QWEN3    /* each head of query and key is normed */
} joust_family;

typedef enum joust_rope_kind {
    JOUST_ROPE_PLAIN,
    JOUST_ROPE_LINEAR, /* frequencies divided by factor */
    JOUST_ROPE_YARN,   /* the like by index, and angles' cosine and sine scaled (likewise) */
    JOUST_ROPE_LLAMA3  /* low ones divided by factor, high ones kept, a ramp between (KERNELS.md, "Positions") */
} joust_rope_kind;

typedef struct joust_rope_scaling {
    joust_rope_kind kind;
    float factor, low_freq_factor, high_freq_factor;
    float beta_fast, beta_slow, attention_factor; /* yarn's */
    bool whole;                                   /* yarn: the ramp begins and ends at whole indices */
    uint32_t original_context;
} joust_rope_scaling;

typedef struct joust_model_config {
    char architecture[64]; /* "LlamaForCausalLM", as config.json gives it */
    uint32_t n_layers, d_model, n_heads, n_kv_heads, d_head, d_ff, vocab_size, context;
    float norm_eps, rope_theta;
    bool tied;                       /* the head is the embedding */
    uint32_t bos_token;              /* UINT32_MAX: none */
    uint32_t n_end_tokens, end_tokens[JOUST_MAX_END_TOKENS]; /* eos_token_id, one or several */
    uint32_t n_stop_tokens, stop_tokens[JOUST_MAX_END_TOKENS]; /* generation_config.json's, which then end generation in
                                                                  the place of end_tokens; not in config.json */
    float init_range;                /* initializer_range, for joust_model_init */
    joust_family family;
    joust_rope_scaling rope_scaling;
    uint32_t window;             /* keys that a row sees, itself one of them; 0: all before it */
    uint32_t first_window_layer; /* layers before this one see all */
    bool attention_bias, mlp_bias; /* query, key, value and output; gate, up and down have biases (Llama; Qwen3 the first) */
    bool scalar_head;            /* score.weight (1, d_model) in the place of the language model's head */
} joust_model_config;

/* config.json. Errors name file and key: JOUST_UNSUPPORTED (what isn't handled, by name), JOUST_INVALID. */
JOUST_MUST_USE joust_status joust_model_config_read(const char *path, joust_model_config *ret, joust_error *err);
/* The same from the file's bytes; name stands for it in errors. */
JOUST_MUST_USE joust_status joust_model_config_parse(const void *json, size_t n, const char *name, joust_model_config *ret, joust_error *err);
/* Takes the end tokens of dir's generation_config.json into config's stop_tokens, as transformers generates: where there is
 * no such file, or no eos_token_id in it, those of config.json stay. Errors name file and key. */
JOUST_MUST_USE joust_status joust_model_config_read_stops(const char *dir, joust_model_config *config, joust_error *err);
/* The tokens that end generation: a view of config; returns how many. */
uint32_t joust_model_config_stops(const joust_model_config *config, const uint32_t **ret);
JOUST_MUST_USE joust_status joust_model_config_write(const joust_model_config *config, const char *path, joust_error *err);
JOUST_MUST_USE joust_status joust_model_config_validate(const joust_model_config *config, joust_error *err);
uint64_t joust_model_config_parameters(const joust_model_config *config);
/* The same decoder with a scalar head in the place of the language model's. Errors: JOUST_INVALID (it has one). */
JOUST_MUST_USE joust_status joust_model_config_make_scalar(joust_model_config *config, joust_error *err);

/* "yarn": rope_type in config.json. */
const char *joust_rope_name(joust_rope_kind kind);

/* A tensor as the checkpoint names it: a view into the model's one block of weights. */
typedef struct joust_tensor {
    char name[96]; /* "model.layers.0.self_attn.q_proj.weight" */
    uint32_t n_dims, dims[2]; /* row-major: (out, in) for matrices */
    float *data;
    uint64_t n; /* elements */
} joust_tensor;

typedef struct joust_model joust_model;

/* How a file has its elements. */
typedef enum joust_dtype {
    JOUST_DTYPE_F32,
    JOUST_DTYPE_F16,
    JOUST_DTYPE_BF16,
    JOUST_DTYPE_OTHER /* may stand in a file, can't be read as float32 */
} joust_dtype;

/* All weights zero, every tensor named and laid out; for loaders. Errors: JOUST_INVALID (config), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_model_create(const joust_model_config *config, joust_model **ret, joust_error *err);
/* Reads config.json and model.safetensors, or the shards of its index (f32, f16, bf16), from dir, and the adapter beside
 * them if there is one (worker/engine/lora.h). Errors name file and
 * tensor; JOUST_NOT_FINITE names the element that is NaN or infinite. */
JOUST_MUST_USE joust_status joust_model_load(const char *dir, joust_model **ret, joust_error *err);
/* Whether joust_model_load would find every tensor in the shape that config.json asks for; reads no weight. Errors: the same. */
JOUST_MUST_USE joust_status joust_model_check(const char *dir, joust_error *err);
/* Draws the weights by the seed: normal, standard deviation by the tensor's kind (see KERNELS.md, "Initial weights"),
 * norms 1; stream JOUST_PURPOSE_INIT, stage = the tensor's index, index = element. */
JOUST_MUST_USE joust_status joust_model_init(const joust_model_config *config, uint64_t seed, joust_model **ret, joust_error *err);
/* A copy of from with a scalar head of zeros in the place of its language model's: a critic as PPO begins. Errors: JOUST_INVALID (it
 * has one already), JOUST_UNSUPPORTED (an adapter), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_model_make_scalar(const joust_model *from, joust_model **ret, joust_error *err);
JOUST_MUST_USE joust_status joust_model_clone(const joust_model *model, joust_model **ret, joust_error *err);
void joust_model_free(joust_model **model);
/* Writes config.json and model.safetensors (float32: no bit is lost) into dir (made if absent), each complete and durable
 * or absent. From source (a model's folder, NULL: none) come tokenizer files (of GPT-2's vocab.json and
 * merges.txt also the tokenizer.json that says the same), generation_config.json, and the keys of
 * config.json that the engine doesn't read. The same weights and source give the same bytes. Of a model with an adapter
 * the base's files are source's, as they are (hard links), with the adapter beside them. */
JOUST_MUST_USE joust_status joust_model_save(const joust_model *model, const char *source, const char *dir, joust_error *err);
/* The base alone, without its adapter, in another dtype and in shards of at most max_shard_bytes (0: 5 GB) with model.safetensors.index.json.
 * Rounds to nearest even. Errors: JOUST_INVALID (f16 can't hold a value: tensor and element are named). */
JOUST_MUST_USE joust_status joust_model_export(const joust_model *model, const char *source, joust_dtype dtype,
                                               uint64_t max_shard_bytes, const char *dir, joust_error *err);

const joust_model_config *joust_model_get_config(const joust_model *model);
/* Tensors in the order of the block (fixed by the config); n_tensors and a view, valid until the model is freed. */
const joust_tensor *joust_model_tensors(const joust_model *model, uint32_t *ret_n);
float *joust_model_weights(joust_model *model, uint64_t *ret_n); /* the block; after writing call joust_model_changed */
void joust_model_changed(joust_model *model); /* packed copies are stale */
/* BLAKE2b-256 over tensor names, shapes and float32 little-endian bytes, in block order; then those of its adapter. */
joust_digest joust_model_digest(const joust_model *model);

#endif
