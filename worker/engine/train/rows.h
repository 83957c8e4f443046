/* Supervised rows: a JSONL file, one row a line.
 *
 * A row is {"parts": [PART, ...], "classes": [TOKEN, ...]}; "classes" may be absent. Its tokens are those of the parts
 * in order, each part encoded by itself with the special tokens written in it; a part that goes on after other text gets
 * no prefix of its own. No bos or eos is added. A part is
 *   {"text": T}                               context only
 *   {"text": T, "learn": W}                   each token of T is a target, predicted from the tokens before it: W times
 *                                             the cross-entropy over the whole vocabulary. The row's first token has
 *                                             nothing before it and is no target.
 *   {"text": T, "label": C, "weight": W}      after each token of T: W times the cross-entropy of class C, the softmax
 *                                             being over the logits of the row's classes alone. "weight" is 1 if absent.
 * "learn" and "label" may stand together; a weight is a finite number of 0 or more, and 0 makes no target. A row's loss
 * is the sum of its targets. Classes are tokens of the vocabulary ("yes", "no"), at least two, none twice.
 *
 * Errors are "file:line: place: …". Only the index of lines (8 bytes each) and one row are held in memory.
 * The functions are declared in worker/engine/train/train.h. */
#ifndef JOUST_WORKER_ENGINE_TRAIN_ROWS_H
#define JOUST_WORKER_ENGINE_TRAIN_ROWS_H

#include "worker/engine/train/train.h"

#define JOUST_MAX_ROW_BYTES   (4u << 20) /* of a line */
#define JOUST_MAX_ROW_CLASSES 64u

/* A row from the bytes of its line, appended to what the caller holds: tokens, targets (whose `among` views classes),
 * classes. place stands for "file:line" in errors. */
typedef struct joust_row_buffers {
    joust_tokens tokens, classes;
    joust_target *targets;
    uint32_t n_targets, capacity;
} joust_row_buffers;
void joust_row_buffers_fini(joust_row_buffers *b);
JOUST_MUST_USE joust_status joust_row_parse(const void *line, size_t n, const char *place,
                                            const joust_tokenizer *tokenizer, joust_row_buffers *b,
                                            joust_sft_row *ret, joust_error *err);

#endif
