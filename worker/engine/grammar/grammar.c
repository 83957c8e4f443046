/* What a grammar's rules can do: which have an empty text, which begin with which (left recursion is refused, as a
 * pushdown would call for ever), and from which nodes some text ends: the others are cut. */
#include "grammar_internal.h"

#include <stdlib.h>
#include <string.h>

#include "proto/base/alloc.h"

/* Ways back along the network: the nodes that go on to a node, or call the rule that starts there. */
typedef struct ways {
    uint32_t *first; /* (n_nodes + 1) */
    uint32_t *from;
} ways;

typedef struct analysis {
    joust_grammar *g;
    const char *text;
    const bool *allowed;
    ways ways;
    bool *empty;     /* (n_nodes) the rule's end is reached without a byte */
    bool *ends;      /* (n_nodes) some text leads to the rule's end */
    uint32_t *stack; /* (n_nodes) */
    uint32_t *seen;  /* (n_nodes) 1 + the rule that visited it last */
    uint32_t *edges; /* pairs of rules: the first may begin with the second */
    uint32_t n_edges, room;
    joust_error *err;
} analysis;

static joust_status out_of_memory(joust_error *err)
{
    return joust_fail(err, JOUST_NOMEM, "grammar: out of memory");
}

/* Where a node can lead: what it needs from the nodes behind it. */
static uint32_t targets(const joust_grammar *g, uint32_t at, uint32_t to[2])
{
    const joust_grammar_node *n = &g->nodes[at];
    to[0] = n->to;
    to[1] = n->kind == JOUST_GRAMMAR_CALL ? g->rules[n->other].start : n->other;
    return n->kind == JOUST_GRAMMAR_END                                      ? 0
           : n->kind == JOUST_GRAMMAR_SPLIT || n->kind == JOUST_GRAMMAR_CALL ? 2
                                                                             : 1;
}

static joust_status find_ways(analysis *a)
{
    const joust_grammar *g = a->g;
    uint32_t to[2];
    for (uint32_t i = 0; i < g->n_nodes; i++)
        for (uint32_t k = targets(g, i, to); k-- > 0;)
            a->ways.first[to[k] + 1]++;
    for (uint32_t i = 0; i < g->n_nodes; i++)
        a->ways.first[i + 1] += a->ways.first[i];
    const uint32_t n_ways = a->ways.first[g->n_nodes];
    a->ways.from = joust_calloc((size_t)n_ways + 1, sizeof(*a->ways.from));
    if (!a->ways.from)
        return out_of_memory(a->err);
    for (uint32_t i = g->n_nodes; i-- > 0;) /* fills each place from its end */
        for (uint32_t k = targets(g, i, to); k-- > 0;)
            a->ways.from[--a->ways.first[to[k] + 1]] = i;
    /* first[x + 1] is now where x's ways begin: shift back */
    memmove(a->ways.first, a->ways.first + 1, g->n_nodes * sizeof(*a->ways.first));
    a->ways.first[g->n_nodes] = n_ways;
    return JOUST_OK;
}

/* Whether a byte of low .. high can be had. */
static bool is_had(const analysis *a, const joust_grammar_node *n)
{
    for (unsigned b = n->low; b <= n->high; b++)
        if (!a->allowed || a->allowed[b])
            return true;
    return false;
}

static bool holds(const analysis *a, uint32_t at, const bool *known, bool bytes)
{
    const joust_grammar_node *n = &a->g->nodes[at];
    switch ((joust_grammar_kind)n->kind) {
    case JOUST_GRAMMAR_END:
        return true;
    case JOUST_GRAMMAR_GO:
        return known[n->to];
    case JOUST_GRAMMAR_SPLIT:
        return known[n->to] || known[n->other];
    case JOUST_GRAMMAR_BYTES:
        return bytes && known[n->to] && is_had(a, n);
    case JOUST_GRAMMAR_CALL:
        return known[n->to] && known[a->g->rules[n->other].start];
    }
    return false;
}

/* known: the nodes from which the rule's end is reached, with bytes or without. */
static void find_ends(analysis *a, bool *known, bool bytes)
{
    uint32_t n = 0;
    a->stack[n++] = 0;
    known[0] = true;
    while (n > 0) {
        const uint32_t at = a->stack[--n];
        for (uint32_t i = a->ways.first[at]; i < a->ways.first[at + 1]; i++) {
            const uint32_t from = a->ways.from[i];
            if (!known[from] && holds(a, from, known, bytes)) {
                known[from] = true;
                a->stack[n++] = from;
            }
        }
    }
}

static joust_status add_edge(analysis *a, uint32_t rule, uint32_t begins_with)
{
    if (a->n_edges == a->room) {
        const uint32_t room = a->room ? 2 * a->room : 64;
        uint32_t *edges = joust_realloc_array(a->edges, room, 2 * sizeof(*edges));
        if (!edges)
            return out_of_memory(a->err);
        a->edges = edges;
        a->room = room;
    }
    a->edges[2 * a->n_edges] = rule;
    a->edges[2 * a->n_edges++ + 1] = begins_with;
    return JOUST_OK;
}

/* The rules that a text of `rule` may begin with. */
static joust_status find_beginnings(analysis *a, uint32_t rule)
{
    const joust_grammar *g = a->g;
    uint32_t n = 0;
    joust_status st = JOUST_OK;
    a->stack[n++] = g->rules[rule].start;
    a->seen[g->rules[rule].start] = rule + 1;
    while (st == JOUST_OK && n > 0) {
        const joust_grammar_node *x = &g->nodes[a->stack[--n]];
        uint32_t to[2], n_to = 0;
        if (x->kind == JOUST_GRAMMAR_CALL)
            st = add_edge(a, rule, x->other);
        if (x->kind == JOUST_GRAMMAR_GO || x->kind == JOUST_GRAMMAR_SPLIT ||
            (x->kind == JOUST_GRAMMAR_CALL && g->rules[x->other].nullable))
            to[n_to++] = x->to;
        if (x->kind == JOUST_GRAMMAR_SPLIT)
            to[n_to++] = x->other;
        for (uint32_t i = 0; i < n_to; i++)
            if (a->seen[to[i]] != rule + 1) {
                a->seen[to[i]] = rule + 1;
                a->stack[n++] = to[i];
            }
    }
    return st;
}

static int in_order_of_first(const void *x, const void *y)
{
    const uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return (a > b) - (a < b);
}

/* A rule that stands in a circle, of those whose count of callers isn't 0: by as many steps back as there are rules. */
static joust_status refuse_circle(const analysis *a, const uint32_t *n_callers, uint32_t *caller)
{
    const joust_grammar *g = a->g;
    uint32_t at = 0;
    for (uint32_t i = 0; i < a->n_edges; i++)
        if (n_callers[a->edges[2 * i]] > 0)
            caller[a->edges[2 * i + 1]] = a->edges[2 * i];
    while (n_callers[at] == 0)
        at++;
    for (uint32_t i = 0; i < g->n_rules; i++)
        at = caller[at];
    for (uint32_t i = 0; i < g->n_rules && !g->rules[at].name[0]; i++)
        at = caller[at];
    return joust_gbnf_fail(
        a->text, g->rules[at].at, a->err, JOUST_UNSUPPORTED,
        "rule '%s' may begin with itself (left recursion): write x ::= y (op y)* "
        "instead of x ::= x op y",
        g->rules[at].name);
}

/* Orders the rules by Kahn's algorithm, each before those that it may begin with. */
static joust_status order_rules(analysis *a)
{
    joust_grammar *g = a->g;
    uint32_t *first = joust_calloc(2 * (size_t)g->n_rules + 1, sizeof(*first)),
             *n_callers = first ? first + g->n_rules + 1 : NULL, n = 0;
    if (!first)
        return out_of_memory(a->err);
    if (a->n_edges)
        qsort(a->edges, a->n_edges, 2 * sizeof(*a->edges), in_order_of_first);
    for (uint32_t i = 0; i < a->n_edges; i++) {
        first[a->edges[2 * i] + 1]++;
        n_callers[a->edges[2 * i + 1]]++;
    }
    for (uint32_t i = 0; i < g->n_rules; i++) {
        first[i + 1] += first[i];
        if (n_callers[i] == 0)
            g->order[n++] = i;
    }
    for (uint32_t done = 0; done < n; done++)
        for (uint32_t k = first[g->order[done]]; k < first[g->order[done] + 1]; k++)
            if (--n_callers[a->edges[2 * k + 1]] == 0)
                g->order[n++] = a->edges[2 * k + 1];
    joust_status st = JOUST_OK;
    if (n < g->n_rules)
        st = refuse_circle(a, n_callers, g->place);
    for (uint32_t i = 0; i < n; i++)
        g->place[g->order[i]] = i;
    joust_free(first);
    return st;
}

/* Passes over nodes that only go on. */
static uint32_t skip(const joust_grammar *g, uint32_t at)
{
    while (g->nodes[at].kind == JOUST_GRAMMAR_GO && g->nodes[at].to != at)
        at = g->nodes[at].to;
    return at;
}

/* Takes the nodes away from which no text ends. */
static void cut(analysis *a)
{
    joust_grammar *g = a->g;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        joust_grammar_node *n = &g->nodes[i];
        if (n->kind == JOUST_GRAMMAR_SPLIT && !(a->ends[n->to] && a->ends[n->other])) {
            n->to = a->ends[n->to] ? n->to : n->other;
            n->kind = JOUST_GRAMMAR_GO;
        }
    }
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        joust_grammar_node *n = &g->nodes[i];
        if (!a->ends[i] || n->kind == JOUST_GRAMMAR_END)
            continue;
        n->to = skip(g, n->to);
        if (n->kind == JOUST_GRAMMAR_SPLIT)
            n->other = skip(g, n->other);
    }
    for (uint32_t i = 0; i < g->n_rules; i++)
        if (a->ends[g->rules[i].start])
            g->rules[i].start = skip(g, g->rules[i].start);
}

static void find_classes(joust_grammar *g)
{
    bool begins[257] = {[0] = true};
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].kind == JOUST_GRAMMAR_BYTES)
            begins[g->nodes[i].low] = begins[g->nodes[i].high + 1] = true;
    for (unsigned byte = 0; byte < 256; byte++) {
        if (begins[byte])
            g->of_class[g->n_classes++] = (uint8_t)byte;
        g->class_of[byte] = (uint8_t)(g->n_classes - 1);
    }
}

static joust_status analyse(analysis *a)
{
    joust_grammar *g = a->g;
    joust_status st = find_ways(a);
    if (st != JOUST_OK)
        return st;
    find_ends(a, a->empty, false);
    find_ends(a, a->ends, true);
    for (uint32_t i = 0; i < g->n_rules; i++)
        g->rules[i].nullable = a->empty[g->rules[i].start];
    for (uint32_t i = 0; st == JOUST_OK && i < g->n_rules; i++)
        st = find_beginnings(a, i);
    if (st == JOUST_OK)
        st = order_rules(a);
    if (st == JOUST_OK && !a->ends[g->rules[g->root].start])
        st = joust_gbnf_fail(a->text, g->rules[g->root].at, a->err, JOUST_INVALID,
                             "no text of root ever ends%s: give a rule that calls itself another "
                             "alternative",
                             a->allowed ? " (in the model's tokens)" : "");
    if (st != JOUST_OK)
        return st;
    cut(a);
    find_classes(g);
    return JOUST_OK;
}

joust_status joust_grammar_compile(const char *text, const bool allowed[256], joust_grammar **ret,
                                   joust_error *err)
{
    joust_grammar *g = joust_calloc(1, sizeof(*g));
    if (!g)
        return out_of_memory(err);
    analysis a = {.g = g, .text = text, .allowed = allowed, .err = err};
    joust_status st = joust_gbnf_read(g, text, err);
    if (st == JOUST_OK) {
        const size_t n = g->n_nodes;
        a.ways.first = joust_calloc(n + 2, sizeof(*a.ways.first));
        a.empty = joust_calloc(n, sizeof(*a.empty));
        a.ends = joust_calloc(n, sizeof(*a.ends));
        a.stack = joust_calloc(n, sizeof(*a.stack));
        a.seen = joust_calloc(n, sizeof(*a.seen));
        g->order = joust_calloc(g->n_rules, sizeof(*g->order));
        g->place = joust_calloc(g->n_rules, sizeof(*g->place));
        st = a.ways.first && a.empty && a.ends && a.stack && a.seen && g->order && g->place
                 ? analyse(&a)
                 : out_of_memory(err);
    }
    joust_free(a.ways.first);
    joust_free(a.ways.from);
    joust_free(a.empty);
    joust_free(a.ends);
    joust_free(a.stack);
    joust_free(a.seen);
    joust_free(a.edges);
    if (st == JOUST_OK)
        *ret = g;
    else
        joust_grammar_free(&g);
    return st;
}

void joust_grammar_free(joust_grammar **g)
{
    for (uint32_t i = 0; *g && i < (*g)->n_rules; i++)
        joust_free((*g)->rules[i].name);
    if (*g) {
        joust_free((*g)->rules);
        joust_free((*g)->nodes);
        joust_free((*g)->order);
        joust_free((*g)->place);
    }
    joust_free(*g);
    *g = NULL;
}
