/* A regular expression over bytes as a deterministic automaton: what a response may go on with, for masks. */
#ifndef JOUST_WORKER_ENGINE_MASKS_AUTOMATON_INTERNAL_H
#define JOUST_WORKER_ENGINE_MASKS_AUTOMATON_INTERNAL_H

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

/* The nondeterministic one that a pattern is first read as. */
#define JOUST_NO_NODE UINT32_MAX

typedef enum joust_node_kind {
    JOUST_NODE_GO,    /* to, without a byte */
    JOUST_NODE_SPLIT, /* to or other, without a byte */
    JOUST_NODE_BYTES, /* to, with a byte of low .. high */
    JOUST_NODE_MATCH
} joust_node_kind;

typedef struct joust_node {
    joust_node_kind kind;
    uint8_t low, high;
    uint32_t to, other;
} joust_node;

/* Of the whole text, UTF-8. Known: literals, escapes (\n \r \t \xHH \d \w \s \D \W \S, \ before punctuation), '.',
 * classes of ASCII characters with ranges and negation, groups ( ) and (?: ), |, and * + ? {m} {m,} {m,n} up to 256.
 * Errors: JOUST_INVALID, JOUST_UNSUPPORTED (by name), JOUST_TOO_LARGE name the byte of the pattern; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_automaton_compile(const char *pattern, joust_automaton **ret,
                                                    joust_error *err);
void joust_automaton_free(joust_automaton **a);
/* Fills a, which is zeroed, from nodes entered at start. On an error joust_automaton_free takes what is there. Errors:
 * JOUST_TOO_LARGE, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_automaton_build(joust_automaton *a, const joust_node *nodes,
                                                  uint32_t n_nodes, uint32_t start,
                                                  joust_error *err);

static inline uint32_t joust_automaton_step(const joust_automaton *a, uint32_t state, uint8_t byte)
{
    return a->next[(uint64_t)state * a->n_classes + a->class_of[byte]];
}

#endif
