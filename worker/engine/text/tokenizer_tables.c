/* The tokenizer's two hash tables: text -> id, and pair of ids -> merge. Open addressing, at most half full. */
#include <string.h>

#include "proto/base/alloc.h"
#include "tokenizer_internal.h"

void joust_vocabulary_fini(joust_vocabulary *v)
{
    joust_buf_fini(&v->text);
    joust_free(v->pieces);
    joust_free(v->slots);
    memset(v, 0, sizeof(*v));
}

const uint8_t *joust_vocabulary_piece(const joust_vocabulary *v, uint32_t id, size_t *ret_n)
{
    if (id >= v->size || v->pieces[id].at == JOUST_NO_TOKEN)
        return NULL;
    *ret_n = v->pieces[id].n;
    return v->text.data + v->pieces[id].at;
}

/* The slot that holds text, or the free one where it belongs. */
static uint32_t find_slot(const joust_vocabulary *v, const void *text, size_t n)
{
    uint32_t mask = v->n_slots - 1;
    uint32_t slot = (uint32_t)joust_checksum(text, n) & mask;
    for (; v->slots[slot]; slot = (slot + 1) & mask) {
        size_t length = 0;
        const uint8_t *piece = joust_vocabulary_piece(v, v->slots[slot] - 1, &length);
        if (length == n && (n == 0 || memcmp(piece, text, n) == 0))
            break;
    }
    return slot;
}

uint32_t joust_vocabulary_find(const joust_vocabulary *v, const void *text, size_t n)
{
    if (v->n_slots == 0)
        return JOUST_NO_TOKEN;
    uint32_t entry = v->slots[find_slot(v, text, n)];
    return entry ? entry - 1 : JOUST_NO_TOKEN;
}

static bool grow_slots(joust_vocabulary *v)
{
    joust_vocabulary wider = *v;
    wider.n_slots = v->n_slots ? v->n_slots * 2 : 64;
    wider.slots = joust_calloc(wider.n_slots, sizeof(*wider.slots));
    if (!wider.slots)
        return false;
    for (uint32_t i = 0; i < v->n_slots; i++) {
        if (!v->slots[i])
            continue;
        size_t n = 0;
        const uint8_t *piece = joust_vocabulary_piece(v, v->slots[i] - 1, &n);
        wider.slots[find_slot(&wider, piece, n)] = v->slots[i];
    }
    joust_free(v->slots);
    *v = wider;
    return true;
}

static bool grow_pieces(joust_vocabulary *v, uint32_t size)
{
    if (size > v->capacity) {
        uint32_t capacity = v->capacity ? v->capacity : 256;
        while (capacity < size)
            capacity *= 2;
        void *pieces = joust_realloc_array(v->pieces, capacity, sizeof(*v->pieces));
        if (!pieces)
            return false;
        v->pieces = pieces;
        v->capacity = capacity;
    }
    for (; v->size < size; v->size++)
        v->pieces[v->size].at = JOUST_NO_TOKEN;
    return true;
}

joust_status joust_vocabulary_add(joust_vocabulary *v, const char *text, size_t n, uint32_t id,
                                  joust_error *err)
{
    size_t length;
    if (id >= JOUST_MAX_TOKEN_ID)
        return joust_fail(err, JOUST_INVALID, "id %u is not below %u", id, JOUST_MAX_TOKEN_ID);
    const uint8_t *holder = joust_vocabulary_piece(v, id, &length);
    if (holder)
        return joust_fail(err, JOUST_INVALID, "id %u is that of '%.*s' already", id,
                          (int)(length < 40 ? length : 40), (const char *)holder);
    if (joust_vocabulary_find(v, text, n) != JOUST_NO_TOKEN)
        return joust_fail(err, JOUST_INVALID, "the same token has id %u already",
                          joust_vocabulary_find(v, text, n));
    if (!grow_pieces(v, id + 1) || ((v->n_used + 1) * 2 > v->n_slots && !grow_slots(v)))
        return joust_fail(err, JOUST_NOMEM, "vocabulary: out of memory");
    size_t at = v->text.n;
    joust_buf_add(&v->text, text, n);
    if (!joust_buf_ok(&v->text))
        return joust_buf_status(&v->text, err);
    uint32_t slot = find_slot(v, text, n);
    v->pieces[id].at = (uint32_t)at;
    v->pieces[id].n = (uint32_t)n;
    v->slots[slot] = id + 1;
    v->n_used++;
    return JOUST_OK;
}

joust_status joust_merges_init(joust_merges *m, size_t n, joust_error *err)
{
    uint32_t n_slots = 64;
    while (n_slots < n * 2)
        n_slots *= 2;
    m->slots = joust_calloc(n_slots, sizeof(*m->slots));
    if (!m->slots)
        return joust_fail(err, JOUST_NOMEM, "merges: out of memory");
    m->n_slots = n_slots;
    for (uint32_t i = 0; i < n_slots; i++)
        m->slots[i].left = JOUST_NO_TOKEN;
    return JOUST_OK;
}

void joust_merges_fini(joust_merges *m)
{
    joust_free(m->slots);
    memset(m, 0, sizeof(*m));
}

static joust_merge *merge_slot(const joust_merges *m, uint32_t left, uint32_t right)
{
    uint64_t key = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    uint32_t mask = m->n_slots - 1, slot = (uint32_t)(key >> 32) & mask;
    for (; m->slots[slot].left != JOUST_NO_TOKEN; slot = (slot + 1) & mask) {
        if (m->slots[slot].left == left && m->slots[slot].right == right)
            break;
    }
    return &m->slots[slot];
}

void joust_merges_add(joust_merges *m, const joust_merge *merge)
{
    joust_merge *slot = merge_slot(m, merge->left, merge->right);
    if (slot->left == JOUST_NO_TOKEN)
        *slot = *merge;
}

const joust_merge *joust_merges_find(const joust_merges *m, uint32_t left, uint32_t right)
{
    const joust_merge *slot = merge_slot(m, left, right);
    return slot->left == JOUST_NO_TOKEN ? NULL : slot;
}
