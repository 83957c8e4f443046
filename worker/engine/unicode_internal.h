/* The little of Unicode that the tokenizers need beside PCRE2's classes. Thread: any. */
#ifndef JOUST_WORKER_ENGINE_UNICODE_INTERNAL_H
#define JOUST_WORKER_ENGINE_UNICODE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/bytes.h"

/* Bytes of the character that begins at text[0] (n >= 1, well-formed UTF-8), and its code point. */
size_t joust_utf8_next(const uint8_t *text, size_t n, uint32_t *ret);
/* Bytes of the character that ends at text[n - 1] (n >= 1). */
size_t joust_utf8_previous(const uint8_t *text, size_t n, uint32_t *ret);
void joust_utf8_add(joust_buf *to, uint32_t code);
/* Appends bytes as UTF-8: each maximal part of an ill-formed sequence becomes one U+FFFD (Unicode 3.9, "best practice"). */
void joust_utf8_add_lossy(joust_buf *to, const uint8_t *bytes, size_t n);
/* Property White_Space. */
bool joust_is_white(uint32_t code);

#endif
