#include "worker/engine/masks/trie.h"

#include <math.h> /* INFINITY */

#include "proto/base/alloc.h"

/* A node's children are a list in order of token. */
typedef struct node {
    uint32_t token, child, sibling; /* 0: none; node 0 is the root */
} node;

struct joust_trie {
    node *nodes;
    uint32_t n, room;
};

joust_status joust_trie_create(joust_trie **ret, joust_error *err)
{
    joust_trie *t = joust_calloc(1, sizeof(*t));
    if (t)
        t->nodes = joust_calloc(16, sizeof(*t->nodes));
    if (!t || !t->nodes) {
        joust_free(t);
        return joust_fail(err, JOUST_NOMEM, "trie: out of memory");
    }
    t->room = 16;
    t->n = 1;
    *ret = t;
    return JOUST_OK;
}

void joust_trie_free(joust_trie **trie)
{
    if (*trie)
        joust_free((*trie)->nodes);
    joust_free(*trie);
    *trie = NULL;
}

/* The child of `of` by token, or 0; *ret_before: the child before its place, or 0. */
static uint32_t child_find(const joust_trie *t, uint32_t of, uint32_t token, uint32_t *ret_before)
{
    uint32_t at = t->nodes[of].child;
    *ret_before = 0;
    for (; at && t->nodes[at].token < token; at = t->nodes[at].sibling)
        *ret_before = at;
    return at && t->nodes[at].token == token ? at : 0;
}

joust_status joust_trie_add(joust_trie *t, const uint32_t *tokens, uint32_t n, joust_error *err)
{
    if (n == 0)
        return joust_fail(err, JOUST_INVALID, "trie: a sequence of no token");
    for (uint32_t i = 0, at = 0; i < n; i++) {
        uint32_t before, child = child_find(t, at, tokens[i], &before);
        if (!child) {
            if (t->n == t->room) {
                node *nodes =
                    t->room < UINT32_MAX / 2
                        ? joust_realloc_array(t->nodes, 2 * (size_t)t->room, sizeof(*nodes))
                        : NULL;
                if (!nodes)
                    return joust_fail(err, JOUST_NOMEM, "trie: no memory for %u tokens", t->n);
                t->nodes = nodes;
                t->room *= 2;
            }
            child = t->n++;
            uint32_t *place = before ? &t->nodes[before].sibling : &t->nodes[at].child;
            t->nodes[child] = (node){.token = tokens[i], .sibling = *place};
            *place = child;
        }
        at = child;
    }
    return JOUST_OK;
}

joust_status joust_trie_guide(void *context, uint32_t request, uint32_t sample,
                              const uint32_t *tokens, uint32_t n, float *logits, uint32_t n_vocab,
                              joust_error *err)
{
    (void)request;
    (void)sample;
    (void)err;
    const joust_trie *t = context;
    uint32_t at = 0, before;
    bool there = true;
    for (uint32_t i = 0; i < n && there; i++) {
        at = child_find(t, at, tokens[i], &before);
        there = at != 0;
    }
    uint32_t next = there ? t->nodes[at].child : 0;
    for (uint32_t from = 0; from < n_vocab;) {
        const uint32_t to = next && t->nodes[next].token < n_vocab ? t->nodes[next].token : n_vocab;
        for (uint32_t i = from; i < to; i++)
            logits[i] = -INFINITY;
        from = to + 1;
        next = next ? t->nodes[next].sibling : 0;
    }
    return JOUST_OK;
}
