#include "sequence_internal.h"

#include <assert.h>
#include <string.h>

#include "proto/base/alloc.h"

#define PAGE JOUST_PAGE_POSITIONS

uint32_t joust_sequence_token(const joust_sequence *s, uint32_t position)
{
    return position < s->n_head ? s->head[position] : s->tail[position - s->n_head];
}

/* The first position whose logits are wanted: the keys before it may come from elsewhere. */
static uint32_t first_wanted(const joust_sequence *s)
{
    switch (s->kind) {
    case JOUST_SEQUENCE_PROMPT:
        return s->n_head - 1;
    case JOUST_SEQUENCE_SAMPLE:
        return s->n_known - 1;
    case JOUST_SEQUENCE_SCORE:
        break;
    }
    return s->score->first < s->score->n ? s->score->first - 1 : s->score->n - 1;
}

bool joust_sequence_wants(const joust_sequence *s, uint32_t position)
{
    return position >= first_wanted(s);
}

static void page_tokens(const joust_sequence *s, uint32_t page, uint32_t *ret)
{
    for (uint32_t i = 0; i < PAGE; i++)
        ret[i] = joust_sequence_token(s, page * PAGE + i);
}

static joust_status page_add(joust_sequence *s, joust_page *page, joust_error *err)
{
    if (s->n_pages == s->page_room) {
        uint32_t room = s->page_room ? 2 * s->page_room : 8;
        joust_page **pages = joust_realloc_array(s->pages, room, sizeof(*pages));
        if (pages)
            s->pages = pages;
        void **data = pages ? joust_realloc_array(s->data, room, sizeof(*data)) : NULL;
        if (!data)
            return joust_fail(err, JOUST_NOMEM, "batch: no memory for %u pages", room);
        s->data = data;
        s->page_room = room;
    }
    s->data[s->n_pages] = page->data;
    s->pages[s->n_pages++] = page;
    return JOUST_OK;
}

static joust_status page_share(joust_sequence *s, joust_paged *p, joust_page *page,
                               joust_error *err)
{
    joust_status st = page_add(s, page, err);
    if (!st)
        joust_paged_ref(p, page);
    return st;
}

joust_status joust_sequence_extend(joust_sequence *s, joust_paged *p, bool *ret_ok,
                                   joust_error *err)
{
    joust_page *page;
    *ret_ok = false;
    joust_status st = joust_paged_take(p, &page, err);
    if (st || !page)
        return st;
    st = page_add(s, page, err);
    if (st)
        joust_paged_unref(p, page);
    *ret_ok = st == JOUST_OK;
    return st;
}

/* A sample goes on where its group's prompt ends. The last page, if it isn't full, is copied, or
 * taken over by the last sample. */
static joust_status share_group(joust_sequence *s, joust_paged *p, bool *ret_ok, joust_error *err)
{
    const joust_sequence *from = s->group->prompt;
    const uint32_t n_full = from->n_kv / PAGE;
    const bool partial = from->n_kv % PAGE != 0, last = !s->begun && s->group->n_to_begin == 1;
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < n_full && !st; i++)
        st = page_share(s, p, from->pages[i], err);
    *ret_ok = true;
    if (!st && partial && last)
        st = page_share(s, p, from->pages[n_full], err);
    else if (!st && partial)
        st = joust_sequence_extend(s, p, ret_ok, err);
    if (!st && *ret_ok && partial && !last)
        st = joust_paged_copy(p, s->data[n_full], from->data[n_full], err);
    if (st || !*ret_ok)
        return st;
    s->n_kept = n_full;
    s->n_kv = from->n_kv;
    return JOUST_OK;
}

static joust_status share_tree(joust_sequence *s, joust_paged *p, bool *ret_ok, joust_error *err)
{
    const uint32_t n_shared = first_wanted(s) / PAGE;
    joust_page *page = NULL;
    for (uint32_t i = 0; i < n_shared; i++) {
        uint32_t tokens[PAGE];
        page_tokens(s, i, tokens);
        page = joust_paged_find(p, page, tokens);
        if (!page)
            break;
        joust_status st = page_share(s, p, page, err);
        if (st)
            return st;
    }
    s->n_kept = s->n_pages;
    s->n_kv = s->n_pages * PAGE;
    *ret_ok = true;
    return JOUST_OK;
}

joust_status joust_sequence_begin(joust_sequence *s, joust_paged *p, bool *ret_ok, joust_error *err)
{
    assert(s->n_pages == 0 && s->n_kv == 0);
    bool by_group = s->kind == JOUST_SEQUENCE_SAMPLE && s->group->parked;
    joust_status st = by_group ? share_group(s, p, ret_ok, err) : share_tree(s, p, ret_ok, err);
    uint32_t n_missing = (s->n_known + PAGE - 1) / PAGE - s->n_pages;
    if (!st && *ret_ok && joust_paged_available(p) < n_missing)
        *ret_ok = false;
    if (st || !*ret_ok)
        joust_sequence_drop(s, p);
    return st;
}

void joust_sequence_drop(joust_sequence *s, joust_paged *p)
{
    while (s->n_pages > 0)
        joust_paged_unref(p, s->pages[--s->n_pages]);
    s->n_kv = s->n_kept = 0;
}

void joust_sequence_advance(joust_sequence *s, joust_paged *p)
{
    s->n_kv += s->n_rows;
    s->n_rows = 0;
    for (; (s->n_kept + 1) * PAGE <= s->n_kv; s->n_kept++) {
        uint32_t tokens[PAGE];
        page_tokens(s, s->n_kept, tokens);
        joust_page *mine = s->pages[s->n_kept],
                   *there = joust_paged_keep(p, s->n_kept ? s->pages[s->n_kept - 1] : NULL, mine,
                                             tokens);
        if (there == mine)
            continue;
        joust_paged_ref(p, there);
        joust_paged_unref(p, mine);
        s->pages[s->n_kept] = there;
        s->data[s->n_kept] = there->data;
    }
}

bool joust_sequence_could_share(const joust_sequence *s, joust_paged *p,
                                const joust_sequence *other)
{
    const uint32_t n_shared = first_wanted(s) / PAGE;
    joust_page *page = NULL;
    for (uint32_t i = 0; i < n_shared && (i + 1) * PAGE <= other->n_known; i++) {
        uint32_t tokens[PAGE], others[PAGE];
        page_tokens(s, i, tokens);
        page_tokens(other, i, others);
        if (memcmp(tokens, others, sizeof(tokens)) != 0)
            return false;
        page = joust_paged_find(p, page, tokens);
        if (!page)
            return true;
    }
    return false;
}

joust_status joust_sequence_add(joust_sequence *s, uint32_t token, float raw_logp, float logp,
                                joust_error *err)
{
    if (s->n == s->room) {
        uint32_t room = s->room ? 2 * s->room : 32;
        room = room < s->group->limit ? room : s->group->limit;
        uint32_t *tokens = joust_realloc_array(s->tokens, room, sizeof(*tokens));
        s->tokens = tokens ? tokens : s->tokens;
        float *raw = tokens ? joust_realloc_array(s->raw_logps, room, sizeof(*raw)) : NULL;
        s->raw_logps = raw ? raw : s->raw_logps;
        float *logps = raw ? joust_realloc_array(s->logps, room, sizeof(*logps)) : NULL;
        if (!logps)
            return joust_fail(err, JOUST_NOMEM, "generation: no memory for %u tokens", room);
        s->logps = logps;
        s->room = room;
    }
    s->tokens[s->n] = token;
    s->raw_logps[s->n] = raw_logp;
    s->logps[s->n++] = logp;
    s->tail = s->tokens;
    s->n_known = s->n_head + s->n;
    return JOUST_OK;
}

void joust_sequence_fini(joust_sequence *s)
{
    assert(s->n_pages == 0);
    joust_free(s->pages);
    joust_free(s->data);
    joust_free(s->tokens);
    joust_free(s->raw_logps);
    joust_free(s->logps);
    s->pages = NULL;
    s->data = NULL;
    s->tokens = NULL;
    s->raw_logps = s->logps = NULL;
}
