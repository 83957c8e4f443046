/* The network that a grammar's text becomes, node by node. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "gbnf_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/digest.h"

joust_status joust_gbnf_fail(const char *text, size_t at, joust_error *err, joust_status st,
                             const char *format, ...)
{
    char what[256];
    uint32_t line = 1, column = 1;
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    for (size_t i = 0; i < at; i++) {
        if (text[i] == '\n') {
            line++;
            column = 1;
        } else {
            column += ((uint8_t)text[i] & 0xc0) != 0x80;
        }
    }
    return joust_fail(err, st, "%u:%u: %s", line, column, what);
}

joust_status joust_gbnf_refuse_at(const joust_gbnf_parser *p, size_t at, joust_status st,
                                  const char *what)
{
    return joust_gbnf_fail(p->text, at, p->err, st, "%s", what);
}

joust_status joust_gbnf_refuse(const joust_gbnf_parser *p, joust_status st, const char *what)
{
    return joust_gbnf_refuse_at(p, p->at, st, what);
}

/* ---- network --------------------------------------------------------------------------------- */

joust_status joust_gbnf_add(joust_gbnf_parser *p, joust_grammar_node n, uint32_t *ret)
{
    joust_grammar *g = p->g;
    if (g->n_nodes == JOUST_GRAMMAR_MAX_NODES)
        return joust_gbnf_refuse(p, JOUST_TOO_LARGE, "the grammar is too large: repeat less");
    if (g->n_nodes == p->room_nodes) {
        const uint32_t room = p->room_nodes ? 2 * p->room_nodes : 256;
        joust_grammar_node *nodes = joust_realloc_array(g->nodes, room, sizeof(*nodes));
        if (!nodes)
            return joust_fail(p->err, JOUST_NOMEM, "grammar: out of memory");
        g->nodes = nodes;
        p->room_nodes = room;
    }
    g->nodes[g->n_nodes] = n;
    *ret = g->n_nodes++;
    return JOUST_OK;
}

joust_status joust_gbnf_empty(joust_gbnf_parser *p, joust_gbnf_part *ret)
{
    uint32_t at = 0;
    joust_status st = joust_gbnf_add(p, (joust_grammar_node){.kind = JOUST_GRAMMAR_GO}, &at);
    *ret = (joust_gbnf_part){at, at};
    return st;
}

void joust_gbnf_append(joust_gbnf_parser *p, joust_gbnf_part *f, joust_gbnf_part next)
{
    p->g->nodes[f->end].to = next.start;
    f->end = next.end;
}

/* A node that goes on to a new end. */
static joust_status one_node(joust_gbnf_parser *p, joust_grammar_node n, joust_gbnf_part *ret)
{
    joust_gbnf_part f = {0, 0};
    joust_status st = joust_gbnf_add(p, (joust_grammar_node){.kind = JOUST_GRAMMAR_GO}, &f.end);
    n.to = f.end;
    if (st == JOUST_OK)
        st = joust_gbnf_add(p, n, &f.start);
    *ret = f;
    return st;
}

joust_status joust_gbnf_then_bytes(joust_gbnf_parser *p, joust_gbnf_part *f, uint8_t low,
                                   uint8_t high)
{
    joust_gbnf_part next;
    joust_status st = one_node(
        p, (joust_grammar_node){.kind = JOUST_GRAMMAR_BYTES, .low = low, .high = high}, &next);
    if (st == JOUST_OK)
        joust_gbnf_append(p, f, next);
    return st;
}

joust_status joust_gbnf_call(joust_gbnf_parser *p, uint32_t rule, joust_gbnf_part *ret)
{
    return one_node(p, (joust_grammar_node){.kind = JOUST_GRAMMAR_CALL, .other = rule}, ret);
}

joust_status joust_gbnf_either(joust_gbnf_parser *p, joust_gbnf_part a, joust_gbnf_part b,
                               joust_gbnf_part *ret)
{
    joust_gbnf_part f = {0, 0};
    joust_status st = joust_gbnf_add(
        p, (joust_grammar_node){.kind = JOUST_GRAMMAR_SPLIT, .to = a.start, .other = b.start},
        &f.start);
    if (st == JOUST_OK)
        st = joust_gbnf_add(p, (joust_grammar_node){.kind = JOUST_GRAMMAR_GO}, &f.end);
    if (st != JOUST_OK)
        return st;
    p->g->nodes[a.end].to = p->g->nodes[b.end].to = f.end;
    *ret = f;
    return JOUST_OK;
}

/* f any number of times, once at least if `once`. */
joust_status joust_gbnf_loop(joust_gbnf_parser *p, joust_gbnf_part f, bool once,
                             joust_gbnf_part *ret)
{
    uint32_t split = 0, end = 0;
    joust_status st = joust_gbnf_add(p, (joust_grammar_node){.kind = JOUST_GRAMMAR_GO}, &end);
    if (st == JOUST_OK)
        st = joust_gbnf_add(
            p, (joust_grammar_node){.kind = JOUST_GRAMMAR_SPLIT, .to = f.start, .other = end},
            &split);
    if (st != JOUST_OK)
        return st;
    p->g->nodes[f.end].to = split;
    *ret = (joust_gbnf_part){once ? f.start : split, end};
    return JOUST_OK;
}

joust_status joust_gbnf_maybe(joust_gbnf_parser *p, joust_gbnf_part f, joust_gbnf_part *ret)
{
    joust_gbnf_part nothing;
    joust_status st = joust_gbnf_empty(p, &nothing);
    return st == JOUST_OK ? joust_gbnf_either(p, f, nothing, ret) : st;
}

/* ---- rules ----------------------------------------------------------------------------------- */

joust_status joust_gbnf_add_rule(joust_gbnf_parser *p, const char *name, size_t n, size_t at,
                                 uint32_t *ret)
{
    joust_grammar *g = p->g;
    if (g->n_rules == JOUST_GRAMMAR_MAX_RULES)
        return joust_gbnf_refuse_at(p, at, JOUST_TOO_LARGE, "the grammar has too many rules");
    if (g->n_rules == p->room_rules) {
        const uint32_t room = p->room_rules ? 2 * p->room_rules : 64;
        joust_grammar_rule *rules = joust_realloc_array(g->rules, room, sizeof(*rules));
        if (!rules)
            return joust_fail(p->err, JOUST_NOMEM, "grammar: out of memory");
        g->rules = rules;
        p->room_rules = room;
    }
    joust_grammar_rule r = {.name = joust_strndup(name, n), .at = at};
    if (!r.name)
        return joust_fail(p->err, JOUST_NOMEM, "grammar: out of memory");
    g->rules[g->n_rules] = r;
    *ret = g->n_rules++;
    return JOUST_OK;
}

joust_status joust_gbnf_rule_of(joust_gbnf_parser *p, const char *name, size_t n, uint32_t *ret)
{
    uint32_t slot = (uint32_t)joust_checksum(name, n) % JOUST_GBNF_SLOTS;
    for (; p->slots[slot]; slot = (slot + 1) % JOUST_GBNF_SLOTS) {
        *ret = p->slots[slot] - 1;
        if (strncmp(p->g->rules[*ret].name, name, n) == 0 && !p->g->rules[*ret].name[n])
            return JOUST_OK;
    }
    joust_status st = joust_gbnf_add_rule(p, name, n, p->at, ret);
    if (st == JOUST_OK)
        p->slots[slot] = *ret + 1;
    return st;
}

void joust_gbnf_define(joust_gbnf_parser *p, uint32_t rule, joust_gbnf_part f)
{
    p->g->nodes[f.end].to = 0; /* the end */
    p->g->rules[rule].start = f.start;
    p->g->rules[rule].defined = true;
}

/* ---- repetitions ---------------------------------------------------------------------------- */

/* A node of a repetition, of which `left` texts are to come or may. */
static void count(joust_gbnf_parser *p, uint32_t node, uint32_t head, uint32_t left)
{
    p->g->nodes[node].head = head;
    p->g->nodes[node].left = left;
}

/* `least` to `most` texts of a rule, in a row. */
joust_status joust_gbnf_repeat(joust_gbnf_parser *p, uint32_t rule, uint32_t least, uint32_t most,
                               joust_gbnf_part *ret)
{
    joust_gbnf_part one = {0, 0}, out = {0, 0};
    joust_status st = joust_gbnf_empty(p, ret);
    if (st == JOUST_OK)
        st = joust_gbnf_empty(p, &out);
    uint32_t head = 0;
    for (uint32_t i = 0; st == JOUST_OK && i < least; i++) {
        st = joust_gbnf_call(p, rule, &one);
        if (st != JOUST_OK)
            break;
        joust_gbnf_append(p, ret, one);
        head = i ? head : one.start;
        count(p, one.start, head, least - i);
    }
    if (st == JOUST_OK && most == JOUST_GBNF_NO_END) {
        st = joust_gbnf_call(p, rule, &one);
        if (st == JOUST_OK)
            st = joust_gbnf_loop(p, one, false, &one);
        if (st == JOUST_OK)
            joust_gbnf_append(p, ret, one);
        most = least;
    }
    for (uint32_t i = least; st == JOUST_OK && i < most;
         i++) { /* every one of them may be the end */
        uint32_t split = 0;
        st = joust_gbnf_call(p, rule, &one);
        if (st == JOUST_OK)
            st = joust_gbnf_add(p,
                                (joust_grammar_node){.kind = JOUST_GRAMMAR_SPLIT,
                                                     .to = one.start,
                                                     .other = out.start},
                                &split);
        if (st == JOUST_OK) {
            joust_gbnf_append(p, ret, (joust_gbnf_part){split, one.end});
            head = i > least ? head : split;
            count(p, split, head, most - i);
        }
    }
    if (st == JOUST_OK)
        joust_gbnf_append(p, ret, out);
    return st;
}
