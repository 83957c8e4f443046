/* Checkpoints of llama2.c (legacy format, version 0) and its tokenizers, read into this engine's.
 * Source: karpathy/llama2.c, export.py legacy_export and run.c; the formats only, no code. Thread: one. */
#ifndef JOUST_WORKER_ENGINE_FILES_LLAMA2C_H
#define JOUST_WORKER_ENGINE_FILES_LLAMA2C_H

#include "proto/base/bytes.h"
#include "worker/engine/model.h"

/* Reads a .bin checkpoint. llama2.c rotates neighbouring elements of a head, the Hugging Face layout element i with
 * i + d_head / 2: rows of q and k are put into that order. bos is 1; end tokens are 2 and 1, since llama2.c's models
 * are trained on stories that end where the next <s> begins.
 * Errors name the file: JOUST_MALFORMED (sizes, length), JOUST_UNSUPPORTED (a later version), as joust_model_create. */
JOUST_MUST_USE joust_status joust_llama2c_load(const char *path, joust_model **ret,
                                               joust_error *err);
/* Reads a tokenizer of vocab_size tokens (SentencePiece BPE with scores) and appends it as a tokenizer.json that encodes
 * the same: merges in the order of the scores, bytes as fallback, a space before the text.
 * Errors: JOUST_MALFORMED names the token. */
JOUST_MUST_USE joust_status joust_llama2c_tokenizer(const char *path, uint32_t vocab_size,
                                                    joust_buf *to, joust_error *err);
/* The same from the file's bytes. */
JOUST_MUST_USE joust_status joust_llama2c_tokenizer_parse(const void *data, size_t n,
                                                          const char *name, uint32_t vocab_size,
                                                          joust_buf *to, joust_error *err);
/* Whether path looks like a llama2.c checkpoint: a regular file, not a folder. */
bool joust_llama2c_is(const char *path);

#endif
