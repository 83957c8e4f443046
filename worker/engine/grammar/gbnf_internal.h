/* From GBNF's text to a network: what its reader (gbnf.c) builds with. */
#ifndef JOUST_WORKER_ENGINE_GRAMMAR_GBNF_INTERNAL_H
#define JOUST_WORKER_ENGINE_GRAMMAR_GBNF_INTERNAL_H

#include "grammar_internal.h"

#define JOUST_GBNF_SLOTS  (2 * JOUST_GRAMMAR_MAX_RULES)
#define JOUST_GBNF_NO_END UINT32_MAX

typedef struct joust_gbnf_parser {
    const char *text;
    size_t at, n;
    joust_grammar *g;
    uint32_t depth, room_nodes, room_rules;
    uint32_t *slots; /* (JOUST_GBNF_SLOTS) rule + 1 by its name's hash, or 0 */
    joust_error *err;
} joust_gbnf_parser;

/* Entered at start, left from end: a JOUST_GRAMMAR_GO that leads nowhere yet. */
typedef struct joust_gbnf_part {
    uint32_t start, end;
} joust_gbnf_part;

/* The error at byte `at`, or where the parser stands. */
joust_status joust_gbnf_refuse_at(const joust_gbnf_parser *p, size_t at, joust_status st,
                                  const char *what);
joust_status joust_gbnf_refuse(const joust_gbnf_parser *p, joust_status st, const char *what);
/* A node. Errors of all below: JOUST_TOO_LARGE, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_gbnf_add(joust_gbnf_parser *p, joust_grammar_node n,
                                           uint32_t *ret);
/* Parts: of no text; with another behind; one of a byte, of a text of a rule, of two parts, of one any number of times (once at
 * least if `once`) or not at all, and of `least` to `most` (JOUST_GBNF_NO_END: without end) texts of a rule. */
JOUST_MUST_USE joust_status joust_gbnf_empty(joust_gbnf_parser *p, joust_gbnf_part *ret);
void joust_gbnf_append(joust_gbnf_parser *p, joust_gbnf_part *f, joust_gbnf_part next);
JOUST_MUST_USE joust_status joust_gbnf_then_bytes(joust_gbnf_parser *p, joust_gbnf_part *f,
                                                  uint8_t low, uint8_t high);
JOUST_MUST_USE joust_status joust_gbnf_call(joust_gbnf_parser *p, uint32_t rule,
                                            joust_gbnf_part *ret);
JOUST_MUST_USE joust_status joust_gbnf_either(joust_gbnf_parser *p, joust_gbnf_part a,
                                              joust_gbnf_part b, joust_gbnf_part *ret);
JOUST_MUST_USE joust_status joust_gbnf_loop(joust_gbnf_parser *p, joust_gbnf_part f, bool once,
                                            joust_gbnf_part *ret);
JOUST_MUST_USE joust_status joust_gbnf_maybe(joust_gbnf_parser *p, joust_gbnf_part f,
                                             joust_gbnf_part *ret);
/* A rule of this name, of `at`; the one of a name, made where there is none; its part. */
JOUST_MUST_USE joust_status joust_gbnf_add_rule(joust_gbnf_parser *p, const char *name, size_t n,
                                                size_t at, uint32_t *ret);
JOUST_MUST_USE joust_status joust_gbnf_rule_of(joust_gbnf_parser *p, const char *name, size_t n,
                                               uint32_t *ret);
void joust_gbnf_define(joust_gbnf_parser *p, uint32_t rule, joust_gbnf_part f);
JOUST_MUST_USE joust_status joust_gbnf_repeat(joust_gbnf_parser *p, uint32_t rule, uint32_t least,
                                              uint32_t most, joust_gbnf_part *ret);

#endif
