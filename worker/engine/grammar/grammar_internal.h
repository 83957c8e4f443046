/* A context-free grammar over bytes, as a network of nodes that call each other's rules: what a response may go on with, for
 * masks. Written in llama.cpp's GBNF. Immutable once compiled; thread: any. */
#ifndef JOUST_WORKER_ENGINE_GRAMMAR_GRAMMAR_INTERNAL_H
#define JOUST_WORKER_ENGINE_GRAMMAR_GRAMMAR_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

#define JOUST_GRAMMAR_MAX_NODES (1u << 18)
#define JOUST_GRAMMAR_MAX_RULES (1u << 14)
#define JOUST_NO_RULE           UINT32_MAX

typedef enum joust_grammar_kind {
    JOUST_GRAMMAR_END,   /* of a rule: node 0, the only one */
    JOUST_GRAMMAR_GO,    /* to, without a byte */
    JOUST_GRAMMAR_SPLIT, /* to or other, without a byte */
    JOUST_GRAMMAR_BYTES, /* to, with a byte of low .. high */
    JOUST_GRAMMAR_CALL   /* to, with a text of rule `other` */
} joust_grammar_kind;

typedef struct joust_grammar_node {
    uint8_t kind, low, high;
    uint32_t to, other;
    uint32_t left,
        head; /* in a counted repetition: so many more texts, as from `head` even more; else left is 0 */
} joust_grammar_node;

typedef struct joust_grammar_rule {
    char *name; /* "" of a repetition's part */
    uint32_t start;
    size_t at; /* byte of the text where it is defined, or first named */
    bool defined;
    bool nullable; /* an empty text is one of its texts */
} joust_grammar_rule;

typedef struct joust_grammar {
    joust_grammar_node *nodes;
    joust_grammar_rule *rules;
    uint32_t n_nodes, n_rules, root;
    uint32_t *order; /* (n_rules) rules, each before all that a text of it may begin with */
    uint32_t *place; /* (n_rules) of a rule in order */
    uint8_t class_of[256], of_class[256];
    uint32_t n_classes; /* of bytes that no node tells apart */
} joust_grammar;

/* Reads text, which defines `root`. allowed: the bytes that a response can have, or NULL: all; what needs others is cut, so that
 * from every node that is left some text ends. Errors: JOUST_INVALID, JOUST_UNSUPPORTED, JOUST_TOO_LARGE begin with
 * "line:column: " and name the remedy; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_grammar_compile(const char *text, const bool allowed[256],
                                                  joust_grammar **ret, joust_error *err);
void joust_grammar_free(joust_grammar **g);
/* Reads alone: nodes and rules, all defined. On an error joust_grammar_free takes what is there. */
JOUST_MUST_USE joust_status joust_gbnf_read(joust_grammar *g, const char *text, joust_error *err);
/* Fails with "line:column: " of byte `at` before the message. */
joust_status joust_gbnf_fail(const char *text, size_t at, joust_error *err, joust_status st,
                             const char *format, ...) JOUST_PRINTF(5, 6);

#endif
