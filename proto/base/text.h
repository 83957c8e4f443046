/* Small text helpers. Thread: any. */
#ifndef JOUST_PROTO_BASE_TEXT_H
#define JOUST_PROTO_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/bytes.h"

/* Edits (insert, delete, replace, swap neighbours) between a and b; names longer than 63 bytes count as far. */
size_t joust_text_distance(const char *a, const char *b);
/* The candidate nearest to word, or NULL if none is within a third of its length + 1. View of candidates. */
const char *joust_text_nearest(const char *word, const char *const *candidates, size_t n);
/* Length of the well-formed character at s (n >= 1); 0 if there is none, and then *ret_bad is the
 * length of the longest begin of one that was found (at least 1). */
size_t joust_utf8_length(const uint8_t *s, size_t n, size_t *ret_bad);
/* Whether data is well-formed UTF-8 (no surrogates, no overlong forms). ret_bad: offset of the first bad byte. */
bool joust_text_is_utf8(const void *data, size_t n, size_t *ret_bad);
/* Appends s as a JSON string with its quotes; bytes that are not UTF-8 become U+FFFD. */
void joust_json_string(joust_buf *to, const void *s, size_t n);
/* Appends a number as the shortest decimal that reads back to the same double (float); null if not finite. */
void joust_json_double(joust_buf *to, double v);
void joust_json_float(joust_buf *to, float v);
/* Whether text ends with end. */
bool joust_text_ends_with(const char *text, const char *end);
/* Decimal digits only, no sign or spaces, within 64 bits; false otherwise. */
bool joust_parse_u64(const char *text, uint64_t *ret);
/* A finite decimal number, whole text; the C locale's form. */
bool joust_parse_double(const char *text, double *ret);

#endif
