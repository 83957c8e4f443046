/* Regular expressions of tokenizers: PCRE2 with Unicode character classes, bounded in time and memory.
 * Unicode classes are those of the installed PCRE2 (10.42: Unicode 14). Thread: a compiled expression
 * is immutable; each thread searches with its own scratch. */
#ifndef JOUST_WORKER_ENGINE_MASKS_REGEX_INTERNAL_H
#define JOUST_WORKER_ENGINE_MASKS_REGEX_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"

typedef struct joust_regex joust_regex;
typedef struct joust_regex_scratch joust_regex_scratch;

/* Inside a class: the characters of words where the ecosystem's tokenizers use Rust's expressions. */
#define JOUST_WORD_CLASS "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}"

/* Patterns mean what they mean to Oniguruma, which the ecosystem's tokenizers use: \s is White_Space, \w has letters,
 * marks, decimal digits, connectors and six characters of Latin-1. What the two read differently otherwise is refused.
 * literal: the text itself is searched for. Errors: JOUST_INVALID (with PCRE2's reason), JOUST_UNSUPPORTED,
 * JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_regex_compile(const char *pattern, size_t n, bool literal,
                                                joust_regex **ret, joust_error *err);
void joust_regex_free(joust_regex **r);
JOUST_MUST_USE joust_status joust_regex_scratch_create(joust_regex_scratch **ret, joust_error *err);
void joust_regex_scratch_free(joust_regex_scratch **s);
/* The next match that isn't empty at or after byte `from` of well-formed UTF-8.
 * JOUST_END: there is none. Errors: JOUST_TOO_LARGE (the search was given up), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_regex_find(const joust_regex *r, joust_regex_scratch *scratch,
                                             const uint8_t *text, size_t n, size_t from,
                                             size_t *ret_begin, size_t *ret_end, joust_error *err);

#endif
