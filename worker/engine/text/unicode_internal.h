/* The little of Unicode that tokenizers and chat templates need beside PCRE2's classes. Thread: any. */
#ifndef JOUST_WORKER_ENGINE_TEXT_UNICODE_INTERNAL_H
#define JOUST_WORKER_ENGINE_TEXT_UNICODE_INTERNAL_H

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
/* Unicode's normal forms, by utf8proc. */
typedef enum joust_normal_form {
    JOUST_FORM_NFC,
    JOUST_FORM_NFD,
    JOUST_FORM_NFKC,
    JOUST_FORM_NFKD
} joust_normal_form;
/* Appends text (well-formed UTF-8) in a normal form. Errors: JOUST_NOMEM; JOUST_TOO_LARGE: more than 1,024 combining
 * marks in a row. */
joust_status joust_unicode_normalize(const uint8_t *text, size_t n, joust_normal_form form,
                                     joust_buf *to, joust_error *err);
/* Appends text in lower case, character by character: no rule looks at neighbours. */
void joust_unicode_lower(const uint8_t *text, size_t n, joust_buf *to);
/* Appends text without its marks (categories Mn, Mc, Me). */
void joust_unicode_unmark(const uint8_t *text, size_t n, joust_buf *to);
/* Property White_Space. */
bool joust_is_white(uint32_t code);

#endif
