/* A low-rank adapter on a device: beside a product y = x W' stands s (x A') B', never merged (KERNELS.md, "LoRA"). */
#ifndef JOUST_WORKER_ENGINE_CUDA_CUDA_ADAPTER_INTERNAL_H
#define JOUST_WORKER_ENGINE_CUDA_CUDA_ADAPTER_INTERNAL_H

#include "cuda_flow_internal.h"

/* joust_device_api.adapter_put */
JOUST_MUST_USE joust_status joust_gpu_adapter_put(joust_device_model *m,
                                                  const joust_device_adapter *from,
                                                  joust_error *err);
void joust_gpu_adapter_free(joust_device_model *m);
/* The stores' copy, from the adapter's weights on the device as one block of floats. */
void joust_gpu_adapter_place(joust_gpu_flow *f, const joust_gpu_adapter *to, const float *weights);
/* Stores of a row of all parts of x A'. */
uint32_t joust_gpu_adapter_low_stores(const joust_gpu_adapter_product *p,
                                      const joust_gpu_adapter *a);
/* to (n_parts, rows, ld) stores = scale times columns of from, as joust_gpu_low_args has it. */
void joust_gpu_low(joust_gpu_flow *f, const float *from, uint32_t from_ld, float scale,
                   uint32_t n_parts, uint32_t k, uint32_t ld, void *to);
/* y (n, y_ld) += s (x A') B' of a layer's product; rows->low[which] keeps s (x A'). Nothing where nothing is adapted. */
void joust_gpu_adapt(joust_gpu_flow *f, uint32_t layer, joust_gpu_product which, const void *x,
                     const joust_gpu_rows *rows, float *y, uint32_t y_ld);

#endif
