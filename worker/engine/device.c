/* The way to a compute plugin, and a model's way onto its device. */
#define _GNU_SOURCE /* readlink */
#include "worker/engine/device.h"

#include <dlfcn.h>
#include <limits.h> /* PATH_MAX */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine_internal.h"
#include "model_internal.h"
#include "proto/base/alloc.h"

#define MAX_INDEX 1024u

/* ---- the plugin ------------------------------------------------------------------------------ */

/* The plugin beside the program: "build/release/joust" has "build/release/joust-cuda.so". */
static joust_status path_beside(char *ret, size_t n, joust_error *err)
{
    ssize_t length = readlink("/proc/self/exe", ret, n - 1);
    char *name = NULL;
    if (length > 0) {
        ret[length] = 0;
        name = strrchr(ret, '/');
    }
    if (!name || (size_t)(name + 1 - ret) + sizeof(JOUST_DEVICE_PLUGIN) > n)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "where the program lies can't be told: name the plugin in %s",
                          JOUST_DEVICE_PLUGIN_VARIABLE);
    memcpy(name + 1, JOUST_DEVICE_PLUGIN, sizeof(JOUST_DEVICE_PLUGIN));
    return JOUST_OK;
}

static joust_status entry_call(void *library, const char *path, const joust_device_api **ret,
                               joust_error *err)
{
    joust_device_entry_fn *entry = NULL;
    void *symbol = dlsym(library, JOUST_DEVICE_ENTRY);
    memcpy(&entry, &symbol,
           sizeof(entry)); /* ISO C has no cast from an object's to a function's address */
    if (!entry)
        return joust_fail(err, JOUST_UNSUPPORTED, "%s isn't a plugin of joust's: it has no %s",
                          path, JOUST_DEVICE_ENTRY);
    const joust_device_api *api = entry();
    if (api->abi != JOUST_DEVICE_ABI || api->n_bytes != sizeof(*api))
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "%s was built for another version of joust (interface %u, %u is needed): "
                          "build both from one "
                          "source",
                          path, api->abi, JOUST_DEVICE_ABI);
    *ret = api;
    return JOUST_OK;
}

joust_status joust_device_load(const char *path, const joust_device_api **ret, joust_error *err)
{
    char beside[4096], whole[PATH_MAX];
    if (!path)
        path = getenv(JOUST_DEVICE_PLUGIN_VARIABLE);
    if (!path || !*path) {
        joust_status st = path_beside(beside, sizeof(beside), err);
        if (st)
            return st;
        path = beside;
    }
    if (access(path, R_OK) != 0 ||
        !realpath(path, whole)) /* whole: dlopen looks a bare name up elsewhere */
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "--device cuda: there is no %s: build it with `cmake --preset cuda` "
                          "where nvcc is, name another "
                          "in %s, or use --device cpu",
                          path, JOUST_DEVICE_PLUGIN_VARIABLE);
    void *library = dlopen(whole, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return joust_fail(err, JOUST_UNSUPPORTED, "--device cuda: %s; or use --device cpu",
                          dlerror());
    joust_status st = entry_call(library, path, ret, err);
    if (st)
        dlclose(library);
    return st;
}

/* ---- options --------------------------------------------------------------------------------- */

/* "cuda" or "cuda:N". */
static bool index_parse(const char *device, uint32_t *ret)
{
    unsigned long n = 0;
    char *end = NULL;
    if (strcmp(device, "cuda") == 0) {
        *ret = 0;
        return true;
    }
    if (strncmp(device, "cuda:", 5) != 0 || device[5] < '0' || device[5] > '9')
        return false;
    n = strtoul(device + 5, &end, 10);
    *ret = (uint32_t)n;
    return *end == 0 && n < MAX_INDEX;
}

joust_status joust_device_options_parse(const char *device, const char *precision,
                                        joust_device_options *ret, bool *ret_cpu, joust_error *err)
{
    const bool cpu = !device || strcmp(device, "cpu") == 0;
    joust_device_options on = {.precision = cpu ? JOUST_PRECISION_F32 : JOUST_PRECISION_BF16};
    if (!cpu && !index_parse(device, &on.index))
        return joust_fail(err, JOUST_INVALID, "--device %s: must be cpu, cuda or cuda:N", device);
    if (precision && strcmp(precision, "f32") == 0)
        on.precision = JOUST_PRECISION_F32;
    else if (precision && strcmp(precision, "bf16") == 0)
        on.precision = JOUST_PRECISION_BF16;
    else if (precision)
        return joust_fail(err, JOUST_INVALID, "--precision %s: must be f32 or bf16", precision);
    *ret = on;
    *ret_cpu = cpu;
    return JOUST_OK;
}

joust_status joust_engine_options_device(joust_engine_options *options, const char *device,
                                         const char *precision, joust_error *err)
{
    bool cpu;
    joust_device_options on;
    const joust_device_api *api = NULL;
    joust_status st = joust_device_options_parse(device, precision, &on, &cpu, err);
    if (!st && !cpu)
        st = joust_device_load(NULL, &api, err);
    if (st)
        return st;
    options->device = api;
    options->on_device = on;
    return JOUST_OK;
}

/* ---- what devices take ----------------------------------------------------------------------- */

joust_status joust_device_check_model(const joust_model_config *c, joust_error *err)
{
    return c->d_head <= JOUST_DEVICE_MAX_HEAD
               ? JOUST_OK
               : joust_fail(err, JOUST_UNSUPPORTED,
                            "GPU: heads of %u are wider than the %u that its kernels take; use "
                            "--device cpu",
                            c->d_head, JOUST_DEVICE_MAX_HEAD);
}

joust_status joust_device_check_row(uint32_t n_tokens, joust_error *err)
{
    return n_tokens <= JOUST_DEVICE_MAX_ROW_TOKENS
               ? JOUST_OK
               : joust_fail(err, JOUST_UNSUPPORTED,
                            "GPU: a training row of up to %u tokens, at most %u: lower "
                            "rollout.max_tokens or max_prompt_tokens, or use --device cpu",
                            n_tokens, JOUST_DEVICE_MAX_ROW_TOKENS);
}

/* ---- models ---------------------------------------------------------------------------------- */

void joust_model_unload(joust_model *m)
{
    if (m->on_device)
        m->api->model_free(&m->on_device);
    m->on_device = NULL;
    m->device = NULL;
    if (m->lora)
        m->lora->on_device = false;
}

static joust_device_layer *layers_of(const joust_model *m)
{
    joust_device_layer *layers = joust_calloc(m->config.n_layers, sizeof(*layers));
    for (uint32_t i = 0; layers && i < m->config.n_layers; i++) {
        const joust_layer_offsets *at = &m->offsets[i];
        layers[i] = (joust_device_layer){.qkv = at->qkv,
                                         .o = at->o,
                                         .gate_up = at->gate_up,
                                         .down = at->down,
                                         .attention_norm = at->attention_norm,
                                         .ff_norm = at->ff_norm,
                                         .qkv_bias = at->qkv_bias,
                                         .q_norm = at->q_norm,
                                         .k_norm = at->k_norm,
                                         .o_bias = at->o_bias,
                                         .gate_up_bias = at->gate_up_bias,
                                         .down_bias = at->down_bias};
    }
    return layers;
}

/* The model's weights as a device takes them; layers are freed with joust_free. */
static joust_status weights_of(joust_model *m, joust_device_layer **ret_layers,
                               joust_device_weights *ret, joust_error *err)
{
    joust_status st = joust_model_angles(m, err);
    joust_device_layer *layers = st ? NULL : layers_of(m);
    if (!layers)
        return st ? st : joust_fail(err, JOUST_NOMEM, "model: out of memory");
    *ret_layers = layers;
    *ret = (joust_device_weights){.config = &m->config,
                                  .weights = m->weights,
                                  .layers = layers,
                                  .embedding = m->embedding,
                                  .norm = m->norm,
                                  .head = m->head,
                                  .rope = m->rope};
    return JOUST_OK;
}

/* The adapter as a device takes it; products are freed with joust_free. */
static joust_status adapter_of(const joust_model *m, joust_device_adapter_product **ret_products,
                               joust_device_adapter *ret, joust_error *err)
{
    const joust_lora *l = m->lora;
    const size_t n = (size_t)m->config.n_layers * JOUST_N_PRODUCTS;
    joust_device_adapter_product *products = joust_calloc(n, sizeof(*products));
    if (!products)
        return joust_fail(err, JOUST_NOMEM, "adapter: out of memory");
    for (size_t i = 0; i < n; i++) {
        const joust_lora_product *from = &l->products[i];
        products[i] = (joust_device_adapter_product){.n_parts = from->n_parts, .a = from->a};
        for (uint32_t k = 0; k < from->n_parts; k++)
            products[i].parts[k] = (joust_device_adapter_part){
                .first = from->parts[k].first, .n = from->parts[k].n, .b = from->parts[k].b};
    }
    *ret_products = products;
    *ret = (joust_device_adapter){.weights = l->weights,
                                  .n_weights = l->n_weights,
                                  .products = products,
                                  .rank = l->settings.rank,
                                  .scale = l->scale};
    return JOUST_OK;
}

/* Beside the model that is there. */
static joust_status adapter_upload(joust_model *m, joust_error *err)
{
    joust_device_adapter_product *products = NULL;
    joust_device_adapter adapter;
    if (!m->lora || m->lora->on_device)
        return JOUST_OK;
    joust_status st = joust_model_check_host(m, err);
    if (!st)
        st = adapter_of(m, &products, &adapter, err);
    if (!st)
        st = m->api->adapter_put(m->on_device, &adapter, err);
    joust_free(products);
    if (!st)
        m->lora->on_device = true;
    return st;
}

joust_status joust_model_upload(joust_engine *engine, joust_model *m, joust_error *err)
{
    if (m->on_device && m->device == engine->device)
        return adapter_upload(m, err);
    joust_device_weights from;
    joust_device_layer *layers = NULL;
    joust_status st = joust_model_check_host(m, err);
    if (!st)
        st = joust_device_check_model(&m->config, err);
    if (st)
        return st;
    joust_model_unload(m);
    st = weights_of(m, &layers, &from, err);
    if (!st)
        st = engine->api->model_create(engine->device, &from, &m->on_device, err);
    joust_free(layers);
    if (st)
        return st;
    m->api = engine->api;
    m->device = engine->device;
    return adapter_upload(m, err);
}

joust_status joust_model_trainer_create(joust_engine *engine, joust_model *m,
                                        joust_device_trainer **ret, joust_error *err)
{
    joust_device_weights from;
    joust_device_layer *layers = NULL;
    joust_device_adapter adapter;
    joust_device_adapter_product *products = NULL;
    joust_status st = joust_model_check_host(m, err);
    if (!st)
        st = joust_model_upload(engine, m, err);
    if (!st)
        st = weights_of(m, &layers, &from, err);
    if (!st && m->lora)
        st = adapter_of(m, &products, &adapter, err);
    if (!st)
        st = engine->api->trainer_create(m->on_device, &from, m->n_weights,
                                         m->lora ? &adapter : NULL, ret, err);
    joust_free(products);
    joust_free(layers);
    return st;
}

void joust_model_trained_on_device(joust_model *m)
{
    m->ready = false;
    if (m->lora)
        m->lora->ready = false;
    m->host_is_stale = true;
    joust_weights_state_end(&m->state);
}

joust_status joust_model_check_host(const joust_model *m, joust_error *err)
{
    return m->host_is_stale
               ? joust_fail(err, JOUST_BUG,
                            "model: its weights are still on the device that trains it")
               : JOUST_OK;
}
