/* How much memory of a GPU is needed, by the functions that place everything there (cuda/cuda_layout.c), so that it's known on a
 * machine without GPU and plugin. tests/engine/cuda/memory_test.c holds it against what the emulator's GPU had allocated. */
#include "cuda/cuda_layout_internal.h"
#include "lora_internal.h"
#include "worker/engine/memory.h"

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint64_t most(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint32_t up_by(uint32_t n, uint32_t each)
{
    return (n + each - 1) / each;
}

/* One layer's adapter: all layers' are alike. */
typedef struct adapter_shape {
    joust_device_adapter_product from[JOUST_DEVICE_PRODUCTS];
    joust_gpu_adapter_product to[JOUST_DEVICE_PRODUCTS];
    joust_gpu_adapter adapter;
    uint64_t n_bytes; /* of all layers, as stores */
} adapter_shape;

static void adapter_shape_make(adapter_shape *a, const joust_model_config *c,
                               const joust_gpu_widths *w, const joust_lora_settings *settings)
{
    joust_gpu_layout l = {0};
    *a = (adapter_shape){.n_bytes = 0};
    a->adapter.products = a->to;
    if (settings->rank == 0)
        return;
    for (uint32_t i = 0; i < JOUST_DEVICE_PRODUCTS; i++) {
        const joust_lora_product p = joust_lora_product_of(c, settings, (joust_product)i);
        a->from[i].n_parts = p.n_parts;
        for (uint32_t k = 0; k < p.n_parts; k++)
            a->from[i].parts[k].n = p.parts[k].n;
    }
    joust_gpu_adapter_layout(&l, w, 1,
                             &(joust_device_adapter){.products = a->from, .rank = settings->rank},
                             &a->adapter);
    a->n_bytes = l.n_bytes * c->n_layers;
}

/* Into how many parts all rows' attention is cut at most, as cuda_pass.c does. */
static uint32_t parts_of(const joust_gpu_shape *s, uint32_t n_sequences, uint32_t n_tokens)
{
    const joust_model_config *c = s->config;
    const uint32_t tiles = up_by(c->n_heads / c->n_kv_heads, JOUST_GPU_TILE_UNITS) * c->n_kv_heads,
                   rows = least(least(n_sequences, JOUST_GPU_RECORD_ROWS),
                                JOUST_GPU_BUSY_WARPS / tiles);
    uint32_t n = 1;
    while (n * JOUST_GPU_SEGMENT_KEYS < n_tokens)
        n *= 2;
    return s->w->store_bytes == 2 && n > 1 ? rows * n : 0;
}

/* Passes that are full of prompts' rows, and those that draw a token for every sequence. */
static uint64_t pass_bytes(const joust_gpu_shape *s, const joust_memory_plan *p)
{
    const uint32_t rows = JOUST_DEVICE_PASS_ROWS,
                   n = p->n_sequences ? least(p->n_sequences, rows) : rows,
                   group = s->config->n_heads / s->config->n_kv_heads,
                   pages = up_by(p->row_tokens, JOUST_DEVICE_PAGE_POSITIONS);
    const joust_gpu_rooms rooms = {
        .rows = rows,
        .pages = joust_gpu_room_grown(0, n * pages),
        .draws = joust_gpu_room_grown(0, n),
        .slots = joust_gpu_room_grown(0, n),
        .tiles = joust_gpu_room_grown(0, up_by(rows * group, JOUST_GPU_TILE_UNITS) + n),
        .parts = joust_gpu_room_grown(0, parts_of(s, n, p->row_tokens))};
    joust_gpu_work_block blocks[JOUST_GPU_WORK_BLOCKS];
    uint64_t n_bytes = 0;
    joust_gpu_work_layout(s, &rooms, blocks);
    for (uint32_t i = 0; i < JOUST_GPU_WORK_BLOCKS; i++)
        n_bytes += blocks[i].n_bytes;
    return n_bytes;
}

/* A row of a prompt and two answers of the same length. */
static uint64_t activation_bytes(const joust_gpu_shape *s, const joust_memory_plan *p)
{
    const uint32_t page = JOUST_DEVICE_PAGE_POSITIONS,
                   answers = least(p->row_answers, p->row_tokens), stem = p->row_tokens - answers,
                   longer = answers - answers / 2;
    const joust_gpu_tape_rooms rooms = {.rows = p->row_tokens,
                                        .wanted = answers,
                                        .pages = up_by(stem, page) +
                                                 2 * (up_by(stem + longer, page) - stem / page),
                                        .slots = 1,
                                        .picks = answers,
                                        .recompute = p->recompute};
    joust_gpu_layout l = {0};
    joust_gpu_tape none = {.kept = NULL};
    joust_gpu_tape_layout(&l, s, &rooms, &none);
    return l.n_bytes + joust_gpu_tape_io_of(s->config, &rooms).n_bytes +
           answers * sizeof(joust_gpu_slope);
}

static uint32_t sums_of(uint32_t batch_size)
{
    uint32_t depth = 0;
    while (depth < 31 && 1u << depth < batch_size)
        depth++;
    return depth + 1;
}

joust_memory_device joust_memory_predict_device(const joust_model_config *c,
                                                const joust_memory_plan *p)
{
    const joust_gpu_widths w = joust_gpu_widths_of(c, p->precision);
    adapter_shape a;
    adapter_shape_make(&a, c, &w, &p->lora);
    const joust_gpu_shape shape = {c, &w, p->lora.rank ? &a.adapter : NULL};
    const uint64_t trained =
        p->lora.rank ? joust_lora_parameters(c, &p->lora) : joust_model_config_parameters(c);
    joust_gpu_layout l = {0};
    joust_gpu_ends ends;
    joust_gpu_weights_layout(&l, c, &w, c->tied && !c->scalar_head, NULL, &ends);
    joust_memory_device need = {
        .weights = l.n_bytes,
        .adapter = a.n_bytes,
        .cache = p->cache_bytes ? p->cache_bytes : JOUST_DEFAULT_CACHE_BYTES,
        .page = joust_gpu_page_bytes(c, &w),
        .pass = pass_bytes(&shape, p),
        .upload = JOUST_GPU_STAGING_BYTES,
        .optimizer = 3 * trained * sizeof(float),
        .gradients = sums_of(p->batch_size) * trained * sizeof(float) +
                     (trained + JOUST_GPU_SQUARES - 1) / JOUST_GPU_SQUARES * sizeof(double),
        .activations = activation_bytes(&shape, p)};
    const uint64_t model = need.weights + need.adapter, used = need.pass + need.cache;
    const uint64_t other = need.weights + most(used, need.upload),
                   begin = model + need.optimizer + need.activations;
    const bool kept = p->reference == JOUST_MEMORY_REFERENCE_KEPT,
               scored = p->reference == JOUST_MEMORY_REFERENCE_SCORED;
    need.rollout = most(need.weights + need.upload, model + used);
    need.training = most(most(need.weights + need.upload, begin + (scored ? other : 0)),
                         begin + need.gradients + (kept ? other : 0));
    return need;
}
