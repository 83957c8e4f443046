#include "mask_grammar_internal.h"

#include <pthread.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "pushdown_internal.h"

#define MAX_KEPT_BYTES ((uint64_t)128 << 20) /* of sets and masks; then all are forgotten */

struct joust_mask_grammar {
    const joust_token_texts *first, *inside;
    const uint32_t *ends;
    uint32_t n_ends;
    joust_grammar *grammar;
    joust_token_tree tree; /* of inside */
    pthread_mutex_t lock;  /* guards the rest */
    joust_pushdown *pushdown;
    uint32_t *sets; /* (tree.max_depth + 1) of the bytes above a node */
};

static uint32_t n_words(const joust_mask_grammar *m)
{
    return (m->inside->n + 63) / 64;
}

static bool is_end(const joust_mask_grammar *m, uint32_t token)
{
    for (uint32_t i = 0; i < m->n_ends; i++)
        if (m->ends[i] == token)
            return true;
    return false;
}

joust_status joust_mask_grammar_create(const char *gbnf, const joust_token_texts *first,
                                       const joust_token_texts *inside, const uint32_t *ends,
                                       uint32_t n_ends, joust_mask_grammar **ret, joust_error *err)
{
    joust_mask_grammar *m = joust_calloc(1, sizeof(*m));
    bool had[256] = {false}; /* by some token */
    if (!m)
        return joust_fail(err, JOUST_NOMEM, "out of memory");
    m->first = first;
    m->inside = inside;
    m->ends = ends;
    m->n_ends = n_ends;
    pthread_mutex_init(&m->lock, NULL);
    for (size_t i = 0; i < first->bytes.n; i++)
        had[first->bytes.data[i]] = true;
    for (size_t i = 0; i < inside->bytes.n; i++)
        had[inside->bytes.data[i]] = true;
    joust_status st = joust_grammar_compile(gbnf, had, &m->grammar, err);
    if (st == JOUST_OK)
        st = joust_pushdown_create(m->grammar, &m->pushdown, err);
    if (st == JOUST_OK)
        st = joust_token_tree_make(inside, &m->tree, err);
    if (st == JOUST_OK &&
        !(m->sets = joust_calloc((size_t)m->tree.max_depth + 1, sizeof(*m->sets))))
        st = joust_fail(err, JOUST_NOMEM, "out of memory");
    if (st == JOUST_OK)
        *ret = m;
    else
        joust_mask_grammar_free(&m);
    return st;
}

void joust_mask_grammar_free(joust_mask_grammar **mask)
{
    joust_mask_grammar *m = *mask;
    *mask = NULL;
    if (!m)
        return;
    joust_pushdown_free(&m->pushdown);
    joust_grammar_free(&m->grammar);
    joust_token_tree_fini(&m->tree);
    joust_free(m->sets);
    pthread_mutex_destroy(&m->lock);
    joust_free(m);
}

/* ---- asking: under the lock ------------------------------------------------------------------ */

/* The set behind a token's text, or JOUST_NO_SET; a token without text leads nowhere. */
static joust_status step_token(joust_mask_grammar *m, const joust_token_texts *texts,
                               uint32_t token, uint32_t *set, joust_error *err)
{
    const uint8_t *at = texts->bytes.data + texts->at[token],
                  *end = texts->bytes.data + texts->at[token + 1];
    joust_status st = JOUST_OK;
    if (at == end)
        *set = JOUST_NO_SET;
    for (; st == JOUST_OK && at < end && *set != JOUST_NO_SET; at++)
        st = joust_pushdown_step(m->pushdown, *set, *at, set, err);
    return st;
}

static void put(uint64_t *bits, uint32_t token)
{
    bits[token / 64] |= (uint64_t)1 << (token % 64);
}

/* A response's first tokens, whose texts may differ from those that they have later. */
static joust_status fill_first(joust_mask_grammar *m, uint32_t set, uint64_t *bits,
                               joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t token = 0; st == JOUST_OK && token < m->first->n; token++) {
        uint32_t to = set;
        st = step_token(m, m->first, token, &to, err);
        if (st == JOUST_OK && to != JOUST_NO_SET)
            put(bits, token);
    }
    return st;
}

/* All others, by a walk over the tree. */
static joust_status fill_inside(joust_mask_grammar *m, uint32_t set, uint64_t *bits,
                                joust_error *err)
{
    const joust_token_tree *t = &m->tree;
    m->sets[0] = set;
    for (uint32_t i = 0; i < t->n_nodes;) {
        const joust_token_node *n = &t->nodes[i];
        uint32_t to = JOUST_NO_SET;
        joust_status st = joust_pushdown_step(m->pushdown, m->sets[n->depth], n->byte, &to, err);
        if (st != JOUST_OK)
            return st;
        if (to == JOUST_NO_SET) {
            i = n->end;
            continue;
        }
        m->sets[n->depth + 1] = to;
        for (uint32_t k = n->first; k < n[1].first; k++)
            put(bits, t->tokens[k]);
        i++;
    }
    return JOUST_OK;
}

/* The mask of a set, kept with it. */
static joust_status mask_of(joust_mask_grammar *m, uint32_t set, bool first, uint64_t *to,
                            joust_error *err)
{
    const size_t n_bytes = n_words(m) * sizeof(*to);
    const uint64_t *kept = joust_pushdown_kept(m->pushdown, set, first);
    if (kept) {
        memcpy(to, kept, n_bytes);
        return JOUST_OK;
    }
    memset(to, 0, n_bytes);
    joust_status st = first ? fill_first(m, set, to, err) : fill_inside(m, set, to, err);
    for (uint32_t i = 0; st == JOUST_OK && i < m->n_ends; i++) {
        to[m->ends[i] / 64] &= ~((uint64_t)1 << (m->ends[i] % 64));
        if (joust_pushdown_accepts(m->pushdown, set))
            put(to, m->ends[i]);
    }
    if (st != JOUST_OK)
        return st;
    uint64_t *copy = joust_memdup(to, n_bytes);
    if (!copy)
        return joust_fail(err, JOUST_NOMEM, "grammar: no memory for a mask");
    joust_pushdown_keep(m->pushdown, set, first, copy, n_bytes);
    return JOUST_OK;
}

static joust_status find(joust_mask_grammar *m, const uint32_t *tokens, uint32_t n,
                         uint32_t n_forced, uint64_t *bits, joust_error *err)
{
    uint32_t set = JOUST_NO_SET;
    joust_status st = joust_pushdown_start(m->pushdown, &set, err);
    for (uint32_t i = n_forced; st == JOUST_OK && i < n && set != JOUST_NO_SET; i++) {
        if (is_end(m, tokens[i]))
            set = JOUST_NO_SET;
        else
            st = step_token(m, i == 0 ? m->first : m->inside, tokens[i], &set, err);
    }
    if (st != JOUST_OK)
        return st;
    if (set != JOUST_NO_SET)
        return mask_of(m, set, n == 0, bits, err);
    memset(bits, 0, n_words(m) * sizeof(*bits));
    return JOUST_OK;
}

joust_status joust_mask_grammar_bits(joust_mask_grammar *m, const uint32_t *tokens, uint32_t n,
                                     uint32_t n_forced, uint64_t *bits, joust_error *err)
{
    pthread_mutex_lock(&m->lock);
    if (joust_pushdown_bytes(m->pushdown) > MAX_KEPT_BYTES)
        joust_pushdown_reset(m->pushdown);
    joust_status st = find(m, tokens, n, n_forced, bits, err);
    if (st == JOUST_TOO_LARGE) { /* by others' sets? What this response needs alone decides. */
        joust_pushdown_reset(m->pushdown);
        st = find(m, tokens, n, n_forced, bits, err);
    }
    pthread_mutex_unlock(&m->lock);
    return st;
}
