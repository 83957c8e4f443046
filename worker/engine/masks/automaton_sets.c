/* From a nondeterministic automaton by sets of its nodes to a deterministic one, without the states from which nothing
 * matches. */
#include <string.h>

#include "automaton_internal.h"
#include "proto/base/alloc.h"

#define MAX_STATES 4096u
#define N_SLOTS    (4 * MAX_STATES)

typedef struct builder {
    const joust_node *nodes;
    uint32_t n_nodes, n_words; /* 64-bit words of a set */
    joust_automaton *a;
    uint8_t of_class[256]; /* a byte of each class */
    uint64_t *sets;        /* (MAX_STATES, n_words) */
    uint32_t *slots;       /* (N_SLOTS) state + 1, or 0 */
    uint32_t *stack;       /* (n_nodes) */
} builder;

/* Adds a node, and what it leads to without a byte. */
static void include(const builder *b, uint64_t *of, uint32_t at)
{
    uint32_t n = 0;
    b->stack[n++] = at;
    of[at / 64] |= (uint64_t)1 << (at % 64);
    while (n > 0) {
        const joust_node *x = &b->nodes[b->stack[--n]];
        const uint32_t to[] = {x->kind <= JOUST_NODE_SPLIT ? x->to : JOUST_NO_NODE,
                               x->kind == JOUST_NODE_SPLIT ? x->other : JOUST_NO_NODE};
        for (int i = 0; i < 2; i++)
            if (to[i] != JOUST_NO_NODE && !(of[to[i] / 64] >> (to[i] % 64) & 1)) {
                of[to[i] / 64] |= (uint64_t)1 << (to[i] % 64);
                b->stack[n++] = to[i];
            }
    }
}

/* The state of a set, made if it is new. */
static joust_status state_of(const builder *b, const uint64_t *of, uint32_t *ret, joust_error *err)
{
    uint64_t hash = 14695981039346656037u;
    for (uint32_t i = 0; i < b->n_words; i++)
        hash = (hash ^ of[i]) * 1099511628211u;
    uint32_t slot = (uint32_t)(hash >> 32) % N_SLOTS;
    for (; b->slots[slot]; slot = (slot + 1) % N_SLOTS) {
        *ret = b->slots[slot] - 1;
        if (memcmp(b->sets + (size_t)*ret * b->n_words, of, b->n_words * sizeof(*of)) == 0)
            return JOUST_OK;
    }
    if (b->a->n_states == MAX_STATES)
        return joust_fail(err, JOUST_TOO_LARGE,
                          "the pattern has more than %u states: make it simpler", MAX_STATES);
    *ret = b->a->n_states++;
    b->slots[slot] = *ret + 1;
    memcpy(b->sets + (size_t)*ret * b->n_words, of, b->n_words * sizeof(*of));
    return JOUST_OK;
}

static void find_classes(builder *b)
{
    bool begins[257] = {[0] = true};
    for (uint32_t i = 0; i < b->n_nodes; i++)
        if (b->nodes[i].kind == JOUST_NODE_BYTES)
            begins[b->nodes[i].low] = begins[b->nodes[i].high + 1] = true;
    for (unsigned byte = 0; byte < 256; byte++) {
        if (begins[byte])
            b->of_class[b->a->n_classes++] = (uint8_t)byte;
        b->a->class_of[byte] = (uint8_t)(b->a->n_classes - 1);
    }
}

static joust_status determine(builder *b, uint32_t start, joust_error *err)
{
    uint64_t *of = joust_calloc(b->n_words, sizeof(*of));
    if (!of)
        return joust_fail(err, JOUST_NOMEM, "pattern: out of memory");
    uint32_t first;
    include(b, of, start);
    joust_status st = state_of(b, of, &first, err);
    for (uint32_t s = 0; st == JOUST_OK && s < b->a->n_states; s++)
        for (uint32_t c = 0; st == JOUST_OK && c < b->a->n_classes; c++) {
            const uint64_t *from = b->sets + (size_t)s * b->n_words;
            uint32_t *to = &b->a->next[(size_t)s * b->a->n_classes + c];
            bool any = false;
            memset(of, 0, b->n_words * sizeof(*of));
            for (uint32_t i = 0; i < b->n_nodes; i++) {
                const joust_node *x = &b->nodes[i];
                if (!(from[i / 64] >> (i % 64) & 1))
                    continue;
                b->a->accepts[s] |= x->kind == JOUST_NODE_MATCH;
                if (x->kind == JOUST_NODE_BYTES && b->of_class[c] >= x->low &&
                    b->of_class[c] <= x->high) {
                    include(b, of, x->to);
                    any = true;
                }
            }
            *to = JOUST_DEAD;
            if (any)
                st = state_of(b, of, to, err);
        }
    joust_free(of);
    return st;
}

/* Cuts the ways into states from which nothing matches. */
static joust_status cut_dead(joust_automaton *a, joust_error *err)
{
    bool *live = joust_memdup(a->accepts, a->n_states * sizeof(*live)), more = true;
    if (!live)
        return joust_fail(err, JOUST_NOMEM, "pattern: out of memory");
    const size_t n = (size_t)a->n_states * a->n_classes;
    while (more) {
        more = false;
        for (size_t i = n; i-- > 0;)
            if (a->next[i] != JOUST_DEAD && live[a->next[i]] && !live[i / a->n_classes])
                live[i / a->n_classes] = more = true;
    }
    for (size_t i = 0; i < n; i++)
        if (a->next[i] != JOUST_DEAD && !live[a->next[i]])
            a->next[i] = JOUST_DEAD;
    joust_free(live);
    return JOUST_OK;
}

joust_status joust_automaton_build(joust_automaton *a, const joust_node *nodes, uint32_t n_nodes,
                                   uint32_t start, joust_error *err)
{
    builder b = {.nodes = nodes, .n_nodes = n_nodes, .n_words = (n_nodes + 63) / 64, .a = a};
    find_classes(&b);
    b.sets = joust_calloc((size_t)MAX_STATES * b.n_words, sizeof(*b.sets));
    b.slots = joust_calloc(N_SLOTS, sizeof(*b.slots));
    b.stack = joust_calloc(b.n_nodes, sizeof(*b.stack));
    a->next = joust_calloc((size_t)MAX_STATES * a->n_classes, sizeof(*a->next));
    a->accepts = joust_calloc(MAX_STATES, sizeof(*a->accepts));
    joust_status st = JOUST_OK;
    if (!b.sets || !b.slots || !b.stack || !a->next || !a->accepts)
        st = joust_fail(err, JOUST_NOMEM, "pattern: out of memory");
    if (st == JOUST_OK)
        st = determine(&b, start, err);
    if (st == JOUST_OK)
        st = cut_dead(a, err);
    joust_free(b.sets);
    joust_free(b.slots);
    joust_free(b.stack);
    return st;
}

void joust_automaton_free(joust_automaton **a)
{
    if (*a) {
        joust_free((*a)->next);
        joust_free((*a)->accepts);
    }
    joust_free(*a);
    *a = NULL;
}
