/* A regular expression over bytes as a deterministic automaton: what a response may go on with, for masks. */
#ifndef JOUST_WORKER_ENGINE_AUTOMATON_INTERNAL_H
#define JOUST_WORKER_ENGINE_AUTOMATON_INTERNAL_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"

#define JOUST_DEAD UINT32_MAX /* no text that goes on so matches */

typedef struct joust_automaton {
    uint8_t class_of[256];
    uint32_t n_classes, n_states; /* state 0 begins */
    uint32_t *next;               /* (n_states, n_classes): state or JOUST_DEAD */
    bool *accepts;                /* (n_states) */
} joust_automaton;

/* Of the whole text, UTF-8. Known: literals, escapes (\n \r \t \xHH \d \w \s \D \W \S, \ before punctuation), '.',
 * classes of ASCII characters with ranges and negation, groups ( ) and (?: ), |, and * + ? {m} {m,} {m,n} up to 256.
 * Errors: JOUST_INVALID, JOUST_UNSUPPORTED (by name), JOUST_TOO_LARGE name the byte of the pattern; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_automaton_compile(const char *pattern, joust_automaton **ret,
                                                    joust_error *err);
void joust_automaton_free(joust_automaton **a);

static inline uint32_t joust_automaton_step(const joust_automaton *a, uint32_t state, uint8_t byte)
{
    return a->next[(uint64_t)state * a->n_classes + a->class_of[byte]];
}

#endif
