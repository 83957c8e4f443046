/* Which body a kernel of the list in cuda_kernels_internal.h is: JOUST_GPU_BODY_<name>(args). */
#ifndef JOUST_WORKER_ENGINE_CUDA_BODIES_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_BODIES_INTERNAL_H

#include "cuda_attend_internal.h"
#include "cuda_logits_internal.h"
#include "cuda_matrix_internal.h"
#include "cuda_rows_internal.h"

#define JOUST_GPU_BODY_place_f32(a)   gpu_place(a, 0)
#define JOUST_GPU_BODY_place_bf16(a)  gpu_place(a, 1)
#define JOUST_GPU_BODY_embed_f32(a)   gpu_embed(a, 0)
#define JOUST_GPU_BODY_embed_bf16(a)  gpu_embed(a, 1)
#define JOUST_GPU_BODY_norm_f32(a)    gpu_norm(a, 0)
#define JOUST_GPU_BODY_norm_bf16(a)   gpu_norm(a, 1)
#define JOUST_GPU_BODY_finish_f32(a)  gpu_finish(a, 0)
#define JOUST_GPU_BODY_finish_bf16(a) gpu_finish(a, 1)
#define JOUST_GPU_BODY_attend_f32(a)  gpu_attend(a, 0)
#define JOUST_GPU_BODY_attend_bf16(a) gpu_attend(a, 1)
#define JOUST_GPU_BODY_swiglu_f32(a)  gpu_swiglu(a, 0)
#define JOUST_GPU_BODY_swiglu_bf16(a) gpu_swiglu(a, 1)
#define JOUST_GPU_BODY_bias(a)        gpu_bias(a)
#define JOUST_GPU_BODY_matrix_f32(a)  gpu_matrix_f32(a, 0)
#define JOUST_GPU_BODY_matrix_bf16(a) gpu_matrix_bf16(a, 0)
#define JOUST_GPU_BODY_head_f32(a)    gpu_matrix_f32(a, 1)
#define JOUST_GPU_BODY_head_bf16(a)   gpu_matrix_bf16(a, 1)
#define JOUST_GPU_BODY_log_sum(a)     gpu_log_sum(a)
#define JOUST_GPU_BODY_draw(a)        gpu_draw(a)
#define JOUST_GPU_BODY_pick(a)        gpu_pick(a)
#define JOUST_GPU_BODY_read(a)        gpu_read(a)
#define JOUST_GPU_BODY_products(a)    gpu_products(a)

#endif
