/* Which body a kernel of the list in cuda_kernels_internal.h is: JOUST_GPU_BODY_<name>(args). */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_BODIES_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_BODIES_INTERNAL_H

#include "cuda_attend_back_internal.h"
#include "cuda_attend_internal.h"
#include "cuda_back_internal.h"
#include "cuda_flash_back_internal.h"
#include "cuda_flash_internal.h"
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
#define JOUST_GPU_BODY_attend_f32(a)  gpu_attend(a)
#define JOUST_GPU_BODY_flash_64(a)    gpu_flash(a, 64)
#define JOUST_GPU_BODY_flash_128(a)   gpu_flash(a, 128)
#define JOUST_GPU_BODY_flash_256(a)   gpu_flash(a, 256)
#define JOUST_GPU_BODY_parts_64(a)    gpu_flash_parts(a, 64)
#define JOUST_GPU_BODY_parts_128(a)   gpu_flash_parts(a, 128)
#define JOUST_GPU_BODY_parts_256(a)   gpu_flash_parts(a, 256)
#define JOUST_GPU_BODY_merge(a)       gpu_flash_merge(a)
#define JOUST_GPU_BODY_swiglu_f32(a)  gpu_swiglu(a, 0)
#define JOUST_GPU_BODY_swiglu_bf16(a) gpu_swiglu(a, 1)
#define JOUST_GPU_BODY_bias(a)        gpu_bias(a)
#define JOUST_GPU_BODY_low_f32(a)     gpu_low(a, 0)
#define JOUST_GPU_BODY_low_bf16(a)    gpu_low(a, 1)
#define JOUST_GPU_BODY_matrix_f32(a)  gpu_matrix_f32(a, 0)
#define JOUST_GPU_BODY_matrix_bf16(a) gpu_matrix_bf16(a, 0)
#define JOUST_GPU_BODY_head_f32(a)    gpu_matrix_f32(a, 1)
#define JOUST_GPU_BODY_head_bf16(a)   gpu_matrix_bf16(a, 1)
#define JOUST_GPU_BODY_matrix_thin(a) gpu_matrix_thin(a, JOUST_GPU_THIN_OUTPUTS / MMA_OUTPUTS, 0)
#define JOUST_GPU_BODY_head_thin(a)   gpu_matrix_thin(a, JOUST_GPU_BF16_OUTPUTS / MMA_OUTPUTS, 1)
#define JOUST_GPU_BODY_matrix_wide(a) gpu_matrix_wide(a, 0)
#define JOUST_GPU_BODY_head_wide(a)   gpu_matrix_wide(a, 1)
#define JOUST_GPU_BODY_log_sum(a)     gpu_log_sum(a)
#define JOUST_GPU_BODY_draw(a)        gpu_draw(a)
#define JOUST_GPU_BODY_pick(a)        gpu_pick(a)
#define JOUST_GPU_BODY_read(a)        gpu_read(a)
#define JOUST_GPU_BODY_products(a)    gpu_products(a)

#define JOUST_GPU_BODY_fork_f32(a)        gpu_fork(a, 0)
#define JOUST_GPU_BODY_fork_bf16(a)       gpu_fork(a, 1)
#define JOUST_GPU_BODY_transpose_f32(a)   gpu_transpose(a, 0)
#define JOUST_GPU_BODY_transpose_bf16(a)  gpu_transpose(a, 1)
#define JOUST_GPU_BODY_slopes(a)          gpu_slopes(a)
#define JOUST_GPU_BODY_entropy(a)         gpu_entropy(a)
#define JOUST_GPU_BODY_norm_back_f32(a)   gpu_norm_back(a, 0)
#define JOUST_GPU_BODY_norm_back_bf16(a)  gpu_norm_back(a, 1)
#define JOUST_GPU_BODY_columns_f32(a)     gpu_columns(a, 1)
#define JOUST_GPU_BODY_columns_bf16(a)    gpu_columns(a, COLUMNS_SEGMENTS)
#define JOUST_GPU_BODY_swiglu_back(a)     gpu_swiglu_back(a)
#define JOUST_GPU_BODY_attend_rows_f32(a) gpu_attend_rows(a)
#define JOUST_GPU_BODY_attend_keys_f32(a) gpu_attend_keys(a)
#define JOUST_GPU_BODY_flash_rows_64(a)   gpu_flash_rows(a, 64)
#define JOUST_GPU_BODY_flash_rows_128(a)  gpu_flash_rows(a, 128)
#define JOUST_GPU_BODY_flash_rows_256(a)  gpu_flash_rows(a, 256)
#define JOUST_GPU_BODY_flash_keys_64(a)   gpu_flash_keys(a, 64)
#define JOUST_GPU_BODY_flash_keys_128(a)  gpu_flash_keys(a, 128)
#define JOUST_GPU_BODY_flash_keys_256(a)  gpu_flash_keys(a, 256)
#define JOUST_GPU_BODY_unrope(a)          gpu_unrope(a)
#define JOUST_GPU_BODY_heads_back(a)      gpu_heads_back(a)
#define JOUST_GPU_BODY_embed_back(a)      gpu_embed_back(a)
#define JOUST_GPU_BODY_fill(a)            gpu_fill(a)
#define JOUST_GPU_BODY_add(a)             gpu_add(a)
#define JOUST_GPU_BODY_squares(a)         gpu_squares(a)
#define JOUST_GPU_BODY_adam(a)            gpu_adam(a)

#endif
