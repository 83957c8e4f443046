#include "worker/engine/files/llama2c.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"

#define N_HEADER       7u
#define LATER_MAGIC    0x616b3432u /* "ak42": version 1 and later */
#define NORM_EPS       1e-5f
#define ROPE_THETA     10000.0f
#define MAX_FILE_BYTES (UINT64_C(1) << 34)

/* The file, read from front to end. */
typedef struct source {
    const char *path;
    joust_reader reader;
    joust_error *err;
} source;

static joust_status read_config(source *s, joust_model_config *c)
{
    uint32_t header[N_HEADER];
    for (uint32_t i = 0; i < N_HEADER; i++)
        header[i] = joust_read_le32(&s->reader);
    if (header[0] == LATER_MAGIC)
        return joust_fail(s->err, JOUST_UNSUPPORTED,
                          "%s: version %u of llama2.c's format is not supported; export version 0",
                          s->path, header[1]);
    if (s->reader.failed)
        return joust_fail(s->err, JOUST_MALFORMED, "%s: too short for a llama2.c checkpoint",
                          s->path);
    /* A negative vocabulary says that the head is not the embedding. */
    bool tied = header[5] <= INT32_MAX;
    *c = (joust_model_config){.architecture = "LlamaForCausalLM",
                              .d_model = header[0],
                              .d_ff = header[1],
                              .n_layers = header[2],
                              .n_heads = header[3],
                              .n_kv_heads = header[4],
                              .vocab_size = tied ? header[5] : 0u - header[5],
                              .context = header[6],
                              .norm_eps = NORM_EPS,
                              .rope_theta = ROPE_THETA,
                              .tied = tied,
                              .bos_token = 1,
                              .n_end_tokens = 2,
                              .end_tokens = {2, 1}};
    if (c->n_heads == 0 || c->d_model % c->n_heads != 0)
        return joust_fail(s->err, JOUST_MALFORMED,
                          "%s: a width of %u with %u heads: no llama2.c checkpoint", s->path,
                          c->d_model, c->n_heads);
    c->d_head = c->d_model / c->n_heads;
    joust_status st = joust_model_config_validate(c, s->err);
    return st == JOUST_OK ? st : joust_blame(s->err, st, "%s", s->path);
}

/* Two tables of cosines and sines, (context, d_head / 2), stand before an untied head. */
static uint64_t rope_bytes(const joust_model_config *c)
{
    return (uint64_t)c->context * c->d_head * 4;
}

static joust_status check_length(const source *s, const joust_model_config *c)
{
    uint64_t wanted = N_HEADER * 4 + joust_model_config_parameters(c) * 4 + rope_bytes(c);
    if (s->reader.n == wanted)
        return JOUST_OK;
    return joust_fail(s->err, JOUST_MALFORMED, "%s: %zu bytes; its header asks for %" PRIu64 ": %s",
                      s->path, s->reader.n, wanted,
                      s->reader.n < wanted ? "truncated" : "no llama2.c checkpoint");
}

/* Row i of a head's n in the file's order is row half_split(i) of it in ours. */
static uint32_t half_split(uint32_t i, uint32_t n)
{
    return i / 2 + (i % 2 ? n / 2 : 0);
}

/* Fills t; d_head > 0: rows are put into half-split order within heads. */
static void read_tensor(source *s, const joust_tensor *t, uint32_t d_head)
{
    uint32_t rows = t->dims[0];
    size_t columns = (size_t)(t->n / rows);
    for (uint32_t row = 0; row < rows; row++) {
        uint32_t at = d_head ? row / d_head * d_head + half_split(row % d_head, d_head) : row;
        for (size_t k = 0; k < columns; k++) {
            uint32_t bits = joust_read_le32(&s->reader);
            memcpy(&t->data[at * columns + k], &bits, sizeof(bits));
        }
    }
}

static const joust_tensor *find_tensor(const joust_model *model, const char *name)
{
    uint32_t n;
    const joust_tensor *tensors = joust_model_tensors(model, &n);
    for (uint32_t i = 0; i < n; i++) {
        if (strcmp(tensors[i].name, name) == 0)
            return &tensors[i];
    }
    return NULL;
}

/* The file's order: each kind of tensor for all layers, then the next kind. */
static joust_status read_weights(source *s, joust_model *model)
{
    static const char *const kinds[] = {
        "input_layernorm",  "self_attn.q_proj", "self_attn.k_proj",
        "self_attn.v_proj", "self_attn.o_proj", "post_attention_layernorm",
        "mlp.gate_proj",    "mlp.down_proj",    "mlp.up_proj"};
    const joust_model_config *c = joust_model_get_config(model);
    const joust_tensor *t = find_tensor(model, "model.embed_tokens.weight");
    if (t)
        read_tensor(s, t, 0);
    for (size_t kind = 0; t && kind < sizeof(kinds) / sizeof(*kinds); kind++) {
        for (uint32_t layer = 0; t && layer < c->n_layers; layer++) {
            char name[96];
            snprintf(name, sizeof(name), "model.layers.%u.%s.weight", layer, kinds[kind]);
            t = find_tensor(model, name);
            if (t)
                read_tensor(s, t, kind == 1 || kind == 2 ? c->d_head : 0);
        }
    }
    if (t && (t = find_tensor(model, "model.norm.weight")))
        read_tensor(s, t, 0);
    joust_read_bytes(&s->reader, (size_t)rope_bytes(c));
    if (t && !c->tied && (t = find_tensor(model, "lm_head.weight")))
        read_tensor(s, t, 0);
    if (!t || s->reader.failed || s->reader.at != s->reader.n)
        return joust_fail(s->err, JOUST_BUG, "%s: the weights don't fill the model", s->path);
    joust_model_changed(model);
    return JOUST_OK;
}

joust_status joust_llama2c_load(const char *path, joust_model **ret, joust_error *err)
{
    joust_buf bytes = {0};
    joust_model *model = NULL;
    joust_model_config config;
    source s = {.path = path, .err = err};
    joust_status st = joust_file_read(path, MAX_FILE_BYTES, &bytes, err);
    s.reader = joust_reader_over(bytes.data, bytes.n);
    if (st == JOUST_OK)
        st = read_config(&s, &config);
    if (st == JOUST_OK)
        st = check_length(&s, &config);
    if (st == JOUST_OK)
        st = joust_model_create(&config, &model, err);
    if (st == JOUST_OK)
        st = read_weights(&s, model);
    joust_buf_fini(&bytes);
    if (st == JOUST_OK)
        *ret = model;
    else
        joust_model_free(&model);
    return st;
}

bool joust_llama2c_is(const char *path)
{
    return joust_file_exists(path);
}
