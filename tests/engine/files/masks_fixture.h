/* A small vocabulary for masks, and responses drawn by them. */
#ifndef JOUST_TESTS_ENGINE_FILES_MASKS_FIXTURE_H
#define JOUST_TESTS_ENGINE_FILES_MASKS_FIXTURE_H

#include "worker/engine/grammar/pushdown_internal.h"
#include "worker/engine/masks/mask.h"

enum { N_VOCAB = 320, FIRST_PIECE = 258, END = 257, N_PIECES = 35 };

extern const char *const pieces[N_PIECES];
extern const joust_model_config config;

/* "yes", "prefix" or "dead". */
const char *verdict(joust_pushdown *p, const char *text);
/* All bytes, <s> and </s>, then tokens that cross rules and characters. fallback: spelled as SentencePiece's are. */
joust_tokenizer *make_tokenizer(bool fallback);
/* Draws a response of at most `most` tokens; its text, or NULL if they cut it. No way may be a dead end, and the end stands
 * open exactly where `accepts` says. */
char *draw(const joust_tokenizer *t, joust_mask *mask, unsigned *random, unsigned most,
           joust_pushdown *twin);

#endif
