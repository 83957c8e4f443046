/* Where everything lies on a GPU, and so how many bytes it takes. Plain arithmetic: the engine has it too, to predict. */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_LAYOUT_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_LAYOUT_INTERNAL_H

#include "cuda_trainer_internal.h"

#define JOUST_GPU_STAGING_BYTES (UINT64_C(32) << 20) /* while a model is uploaded */

/* Gives every part of a block its place: first to count, then for good. */
typedef struct joust_gpu_layout {
    unsigned char *block; /* NULL: only counts, places are NULL */
    uint64_t n_bytes;
} joust_gpu_layout;

/* Of what a pass or a micro-batch is computed with; adapter: NULL, or as joust_gpu_adapter_layout left it. */
typedef struct joust_gpu_shape {
    const joust_model_config *config;
    const joust_gpu_widths *w;
    const joust_gpu_adapter *adapter;
} joust_gpu_shape;

/* A block of a joust_gpu_work: where its pointer stands, how large it is (0: none). */
typedef struct joust_gpu_work_block {
    size_t offset;
    uint64_t n_bytes;
} joust_gpu_work_block;
#define JOUST_GPU_WORK_BLOCKS 14u

joust_gpu_widths joust_gpu_widths_of(const joust_model_config *config, joust_precision precision);
uint64_t joust_gpu_page_bytes(const joust_model_config *config, const joust_gpu_widths *w);
/* layers: (n_layers), or NULL to count. */
void joust_gpu_weights_layout(joust_gpu_layout *l, const joust_model_config *config,
                              const joust_gpu_widths *w, bool tied, joust_gpu_layer *layers,
                              joust_gpu_ends *to);
/* What a layer's weights are on a GPU: each part's first element among the engine's weights, and its place. */
typedef struct joust_gpu_part {
    uint64_t from;
    void *to; /* NULL: the model has no such vector */
    uint32_t rows,
        k; /* of a matrix, whose rows lie ld stores apart; of a vector: k floats, ld is 0 */
    uint32_t ld;
} joust_gpu_part;
#define JOUST_GPU_LAYER_PARTS 12u
void joust_gpu_layer_parts(const joust_device_layer *at, const joust_gpu_layer *to,
                           const joust_gpu_widths *w, uint32_t d_head,
                           joust_gpu_part ret[JOUST_GPU_LAYER_PARTS]);
/* to->products: (n_layers, JOUST_DEVICE_PRODUCTS), as from's; low and low_stores are 0 before. */
void joust_gpu_adapter_layout(joust_gpu_layout *l, const joust_gpu_widths *w, uint32_t n_layers,
                              const joust_device_adapter *from, joust_gpu_adapter *to);
joust_gpu_io joust_gpu_io_of(const joust_gpu_rooms *rooms);
/* Room for n where there is `room`: powers of two, so that it grows seldom. */
uint32_t joust_gpu_room_grown(uint32_t room, uint32_t n);
void joust_gpu_work_layout(const joust_gpu_shape *shape, const joust_gpu_rooms *rooms,
                           joust_gpu_work_block ret[JOUST_GPU_WORK_BLOCKS]);
/* to->kept: (n_layers), or NULL to count. */
void joust_gpu_tape_layout(joust_gpu_layout *l, const joust_gpu_shape *shape,
                           const joust_gpu_tape_rooms *rooms, joust_gpu_tape *to);
joust_gpu_tape_io joust_gpu_tape_io_of(const joust_model_config *config,
                                       const joust_gpu_tape_rooms *rooms);

#endif
