/* Byte-pair encoding of one word. The word's characters are a linked list of symbols; a heap holds every
 * pair that can be merged, best rank first and leftmost among equals; an entry whose pair has changed
 * since is skipped when it is taken. O(n log n) for a word of n characters. */
#include <string.h>

#include "proto/base/alloc.h"
#include "tokenizer_internal.h"
#include "unicode_internal.h"

static bool before(const joust_bpe_merge *a, const joust_bpe_merge *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void push(joust_tokenizer_scratch *s, joust_bpe_merge merge)
{
    size_t i = s->n_heap++;
    for (; i > 0 && before(&merge, &s->heap[(i - 1) / 2]); i = (i - 1) / 2)
        s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = merge;
}

static joust_bpe_merge pop(joust_tokenizer_scratch *s)
{
    joust_bpe_merge top = s->heap[0], last = s->heap[--s->n_heap];
    size_t i = 0, child;
    while ((child = 2 * i + 1) < s->n_heap) {
        if (child + 1 < s->n_heap && before(&s->heap[child + 1], &s->heap[child]))
            child++;
        if (!before(&s->heap[child], &last))
            break;
        s->heap[i] = s->heap[child];
        i = child;
    }
    s->heap[i] = last;
    return top;
}

static const joust_merge *merge_at(const joust_tokenizer *t, const joust_tokenizer_scratch *s,
                                   uint32_t at)
{
    uint32_t next = s->symbols[at].next;
    if (next == JOUST_NO_TOKEN)
        return NULL;
    return joust_merges_find(&t->merges, s->symbols[at].id, s->symbols[next].id);
}

static void push_pair(const joust_tokenizer *t, joust_tokenizer_scratch *s, uint32_t at)
{
    const joust_merge *m = merge_at(t, s, at);
    if (m)
        push(s, (joust_bpe_merge){.rank = m->rank, .at = at, .id = m->id});
}

static void merge_all(const joust_tokenizer *t, joust_tokenizer_scratch *s, uint32_t n)
{
    s->n_heap = 0;
    for (uint32_t i = 0; i + 1 < n; i++)
        push_pair(t, s, i);
    while (s->n_heap > 0) {
        joust_bpe_merge top = pop(s);
        joust_bpe_symbol *left = &s->symbols[top.at];
        if (left->id == JOUST_NO_TOKEN)
            continue;
        const joust_merge *now = merge_at(t, s, top.at);
        if (!now || now->id != top.id)
            continue;
        joust_bpe_symbol *right = &s->symbols[left->next];
        left->id = top.id;
        right->id = JOUST_NO_TOKEN;
        left->next = right->next;
        if (left->next != JOUST_NO_TOKEN)
            s->symbols[left->next].previous = top.at;
        if (left->previous != JOUST_NO_TOKEN)
            push_pair(t, s, left->previous);
        push_pair(t, s, top.at);
    }
}

/* Room for n symbols and their heap: a merge takes a symbol away and adds at most two entries. */
static joust_status reserve(joust_tokenizer_scratch *s, size_t n, joust_error *err)
{
    if (n > s->symbols_capacity) {
        size_t capacity = n < 256 ? 256 : n + n / 2;
        void *symbols = joust_realloc_array(s->symbols, capacity, sizeof(*s->symbols));
        if (!symbols)
            return joust_fail(err, JOUST_NOMEM, "a word of %zu bytes: out of memory", n);
        s->symbols = symbols;
        s->symbols_capacity = capacity;
    }
    if (3 * s->symbols_capacity > s->heap_capacity) {
        void *heap = joust_realloc_array(s->heap, 3 * s->symbols_capacity, sizeof(*s->heap));
        if (!heap)
            return joust_fail(err, JOUST_NOMEM, "a word of %zu bytes: out of memory", n);
        s->heap = heap;
        s->heap_capacity = 3 * s->symbols_capacity;
    }
    return JOUST_OK;
}

static void add_symbol(joust_tokenizer_scratch *s, uint32_t *n, uint32_t id)
{
    s->symbols[*n] = (joust_bpe_symbol){
        .id = id, .previous = *n ? *n - 1 : JOUST_NO_TOKEN, .next = JOUST_NO_TOKEN};
    if (*n)
        s->symbols[*n - 1].next = *n;
    ++*n;
}

static bool add_bytes(const joust_tokenizer *t, joust_tokenizer_scratch *s, uint32_t *n_symbols,
                      const uint8_t *character, size_t n)
{
    if (!t->byte_fallback)
        return false;
    for (size_t i = 0; i < n; i++) {
        if (t->bytes[character[i]] == JOUST_NO_TOKEN)
            return false;
    }
    for (size_t i = 0; i < n; i++)
        add_symbol(s, n_symbols, t->bytes[character[i]]);
    return true;
}

static joust_status split(const joust_tokenizer *t, joust_tokenizer_scratch *s, const uint8_t *word,
                          size_t n, uint32_t *ret_n, joust_error *err)
{
    uint32_t n_symbols = 0;
    bool after_unknown = false;
    for (size_t at = 0; at < n;) {
        uint32_t code;
        size_t length = joust_utf8_next(word + at, n - at, &code);
        uint32_t id = joust_vocabulary_find(&t->vocabulary, word + at, length);
        bool unknown = false;
        if (id != JOUST_NO_TOKEN && !t->special[id]) {
            add_symbol(s, &n_symbols, id);
        } else if (!add_bytes(t, s, &n_symbols, word + at, length)) {
            if (t->unknown == JOUST_NO_TOKEN)
                return joust_tokenizer_fail_word(word + at, length, err);
            unknown = true;
            if (!(after_unknown && t->fuse_unknown))
                add_symbol(s, &n_symbols, t->unknown);
        }
        after_unknown = unknown;
        at += length;
    }
    *ret_n = n_symbols;
    return JOUST_OK;
}

static joust_status encode_anew(const joust_tokenizer *t, joust_tokenizer_scratch *s,
                                const uint8_t *word, size_t n, joust_tokens *to, joust_error *err)
{
    if (t->ignore_merges) {
        uint32_t id = joust_vocabulary_find(&t->vocabulary, word, n);
        if (id != JOUST_NO_TOKEN && !t->special[id])
            return joust_tokens_add(to, &id, 1, err);
    }
    joust_status st = reserve(s, n, err);
    if (st != JOUST_OK)
        return st;
    uint32_t n_symbols = 0;
    st = split(t, s, word, n, &n_symbols, err);
    if (st != JOUST_OK)
        return st;
    merge_all(t, s, n_symbols);
    for (uint32_t at = 0; st == JOUST_OK && at < n_symbols; at = s->symbols[at].next)
        st = joust_tokens_add(to, &s->symbols[at].id, 1, err);
    return st;
}

joust_status joust_bpe_encode(const joust_tokenizer *t, joust_tokenizer_scratch *s,
                              const uint8_t *word, size_t n, joust_tokens *to, joust_error *err)
{
    if (!s->cache || n == 0 || n > JOUST_CACHED_WORD_BYTES)
        return encode_anew(t, s, word, n, to, err);
    struct joust_cached_word *known =
        &s->cache->words[joust_checksum(word, n) & (JOUST_CACHED_WORDS - 1)];
    if (known->n == n && memcmp(known->word, word, n) == 0)
        return joust_tokens_add(to, known->ids, known->n_ids, err);
    uint32_t before = to->n;
    joust_status st = encode_anew(t, s, word, n, to, err);
    if (st == JOUST_OK && to->n - before <= JOUST_CACHED_WORD_IDS) {
        known->n = (uint8_t)n;
        known->n_ids = (uint8_t)(to->n - before);
        memcpy(known->word, word, n);
        memcpy(known->ids, to->ids + before, known->n_ids * sizeof(*known->ids));
    }
    return st;
}
