/* Files of tensors in the safetensors format: 8 bytes little-endian length of the header, the header (JSON:
 * name -> dtype, shape, data_offsets), the data. Read strictly: the ranges tile the data without holes or overlap.
 * Source: the format as documented by its authors (huggingface/safetensors, README). Thread: one. */
#ifndef JOUST_WORKER_ENGINE_FILES_SAFETENSORS_INTERNAL_H
#define JOUST_WORKER_ENGINE_FILES_SAFETENSORS_INTERNAL_H

#include <stdint.h>

#include "proto/base/status.h"
#include "worker/engine/model.h"

/* Files of a model's folder. */
#define JOUST_WEIGHTS_FILE "model.safetensors"
#define JOUST_INDEX_FILE   "model.safetensors.index.json"

#define JOUST_SAFETENSORS_MAX_HEADER (100u << 20)
#define JOUST_SAFETENSORS_MAX_DIMS   8u

typedef struct joust_safetensor {
    char *name;
    char dtype_name[12]; /* "BF16" */
    joust_dtype dtype;
    uint32_t n_dims;
    uint64_t dims[JOUST_SAFETENSORS_MAX_DIMS];
    uint64_t n;          /* elements */
    uint64_t begin, end; /* bytes, from the begin of the data */
} joust_safetensor;

typedef struct joust_safetensors {
    char *path;
    int fd;                  /* -1 if it was parsed from memory */
    uint64_t data;           /* where the data begins in the file */
    joust_safetensor *items; /* (n) in the order of their data */
    uint32_t n;
} joust_safetensors;

/* Opens path and reads its header. Errors name the file and the tensor: JOUST_MALFORMED, JOUST_TOO_LARGE,
 * JOUST_NOT_FOUND, JOUST_IO, JOUST_NOMEM. ret is caller's storage; release with joust_safetensors_close. */
JOUST_MUST_USE joust_status joust_safetensors_open(const char *path, joust_safetensors *ret,
                                                   joust_error *err);
/* The header alone, of a file with n_data bytes behind it. name stands for the file in errors. */
JOUST_MUST_USE joust_status joust_safetensors_parse(const void *header, uint64_t n, uint64_t n_data,
                                                    const char *name, joust_safetensors *ret,
                                                    joust_error *err);
void joust_safetensors_close(joust_safetensors *s);
/* Reads tensor's n elements as float32 into to. Errors: JOUST_UNSUPPORTED (dtype), JOUST_IO, JOUST_CORRUPT (file shrank). */
JOUST_MUST_USE joust_status joust_safetensors_read(const joust_safetensors *s,
                                                   const joust_safetensor *tensor, float *to,
                                                   joust_error *err);
/* Writes tensors in the order given as dtype, rounded to nearest even; complete and durable or absent. The same tensors
 * give the same bytes. Errors: JOUST_INVALID (a value that f16 can't hold: tensor and element are named), those of
 * joust_file_writer. */
JOUST_MUST_USE joust_status joust_safetensors_write(const char *path, const joust_tensor *tensors,
                                                    uint32_t n, joust_dtype dtype,
                                                    joust_error *err);
unsigned joust_dtype_bytes(joust_dtype dtype); /* of an element that can be read or written */

#endif
