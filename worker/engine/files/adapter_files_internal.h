/* An adapter's files, between adapter_files.c and checkpoint.c. */
#ifndef JOUST_WORKER_ENGINE_FILES_ADAPTER_FILES_INTERNAL_H
#define JOUST_WORKER_ENGINE_FILES_ADAPTER_FILES_INTERNAL_H

#include "proto/base/bytes.h"
#include "worker/engine/lora.h"

/* joust_model_adapter_load; with look_only no weight is read. */
JOUST_MUST_USE joust_status joust_adapter_read(joust_model *model, const char *dir, bool look_only,
                                               joust_error *err);
/* dir's adapter_model.safetensors into these tensors, all of them and no others. */
JOUST_MUST_USE joust_status joust_adapter_tensors_load(const char *dir, const joust_tensor *tensors,
                                                       uint32_t n, bool look_only,
                                                       joust_error *err);
/* adapter_config.json from its bytes; name stands for it in errors. */
JOUST_MUST_USE joust_status joust_adapter_config_parse(const void *json, size_t n, const char *name,
                                                       joust_lora_settings *ret, joust_error *err);

#endif
