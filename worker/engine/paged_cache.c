#include "paged_cache_internal.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

#include "proto/base/alloc.h"
#include "proto/base/log.h"
#include "worker/engine/device.h"

#define MAX_BUCKETS (1u << 16)

/* One state of a model's weights: shared by the model and the trees made from it, so that a later
 * state, or another model at the same address, is never taken for it. */
struct joust_weights_state {
    uint32_t refs;
    bool gone;
};

struct joust_paged {
    joust_paged *next; /* of the engine's */
    joust_engine *engine;
    joust_weights_state *state;
    uint64_t page_bytes;
    uint64_t n_in_use;                      /* pages with references */
    joust_page *free;                       /* pages with no content */
    joust_page *unused_first, *unused_last; /* of the tree, without references */
    uint32_t n_buckets;                     /* a power of two */
    joust_page *buckets[];
};

/* ---- weights ---------------------------------------------------------------------------------- */

static void state_unref(joust_weights_state *s)
{
    if (s && --s->refs == 0)
        joust_free(s);
}

void joust_weights_state_end(joust_weights_state **state)
{
    if (*state)
        (*state)->gone = true;
    state_unref(*state);
    *state = NULL;
}

/* ---- lists ------------------------------------------------------------------------------------ */

static void unused_add(joust_paged *p, joust_page *page)
{
    page->before = p->unused_last;
    page->after = NULL;
    *(p->unused_last ? &p->unused_last->after : &p->unused_first) = page;
    p->unused_last = page;
    page->used = ++p->engine->cache_ticks;
}

static void unused_remove(joust_paged *p, joust_page *page)
{
    *(page->before ? &page->before->after : &p->unused_first) = page->after;
    *(page->after ? &page->after->before : &p->unused_last) = page->before;
    page->before = page->after = NULL;
}

static joust_page **bucket_of(joust_paged *p, const joust_page *parent, const uint32_t *tokens)
{
    XXH64_hash_t hash = XXH3_64bits_withSeed(tokens, sizeof(((joust_page *)0)->tokens),
                                             (XXH64_hash_t)(uintptr_t)parent);
    return &p->buckets[hash & (p->n_buckets - 1)];
}

static void tree_remove(joust_paged *p, joust_page *page)
{
    assert(page->n_children == 0); /* children are let go before their parents */
    joust_page **at = bucket_of(p, page->parent, page->tokens);
    while (*at != page)
        at = &(*at)->chain;
    *at = page->chain;
    if (page->parent)
        page->parent->n_children--;
    page->parent = page->chain = NULL;
    page->in_tree = false;
}

/* ---- memory ----------------------------------------------------------------------------------- */

static void page_free(joust_paged *p, joust_page *page)
{
    joust_engine *e = p->engine;
    e->cache_used -= p->page_bytes;
    if (e->api)
        e->api->page_free(e->device, page->data);
    else
        joust_free_aligned(page->data);
    joust_free(page);
}

static joust_page *free_take(joust_paged *p)
{
    joust_page *page = p->free;
    if (page)
        p->free = page->after;
    return page;
}

/* The page longest unused of a tree, out of it. */
static joust_page *unused_take(joust_paged *p)
{
    joust_page *page = p->unused_first;
    if (page) {
        unused_remove(p, page);
        tree_remove(p, page);
    }
    return page;
}

static void paged_free(joust_paged *p)
{
    assert(p->n_in_use == 0);
    joust_page *page;
    while ((page = free_take(p)) || (page = unused_take(p)))
        page_free(p, page);
    state_unref(p->state);
    joust_free(p);
}

void joust_paged_free_all(joust_engine *engine)
{
    while (engine->paged) {
        joust_paged *p = engine->paged;
        engine->paged = p->next;
        paged_free(p);
    }
}

uint64_t joust_paged_page_bytes(const joust_engine *engine, const joust_model *model)
{
    if (engine->api)
        return engine->api->page_bytes(engine->device, &model->config);
    return joust_page_floats(model) * sizeof(float);
}

joust_status joust_paged_copy(const joust_paged *p, void *to, const void *from, joust_error *err)
{
    const joust_engine *e = p->engine;
    if (e->api)
        return e->api->page_copy(e->device, to, from, p->page_bytes, err);
    memcpy(to, from, p->page_bytes);
    return JOUST_OK;
}

static joust_status paged_create(joust_engine *engine, joust_model *model, joust_paged **ret,
                                 joust_error *err)
{
    const uint64_t page_bytes = joust_paged_page_bytes(engine, model);
    uint32_t n_buckets = 16;
    while (n_buckets < MAX_BUCKETS && n_buckets < engine->cache_bytes / page_bytes)
        n_buckets *= 2;
    joust_paged *p = joust_calloc(1, sizeof(*p) + n_buckets * sizeof(*p->buckets));
    if (p && !model->state && (model->state = joust_calloc(1, sizeof(*model->state))))
        model->state->refs = 1;
    if (!p || !model->state) {
        joust_free(p);
        return joust_fail(err, JOUST_NOMEM, "key-value cache: out of memory");
    }
    p->engine = engine;
    p->state = model->state;
    p->state->refs++;
    p->page_bytes = page_bytes;
    p->n_buckets = n_buckets;
    p->next = engine->paged;
    engine->paged = p;
    *ret = p;
    return JOUST_OK;
}

joust_status joust_paged_open(joust_engine *engine, joust_model *model, joust_paged **ret,
                              joust_error *err)
{
    joust_paged *found = NULL;
    for (joust_paged **at = &engine->paged; *at;) {
        joust_paged *p = *at;
        if (p->state->gone) {
            *at = p->next;
            paged_free(p);
            continue;
        }
        if (p->state == model->state)
            found = p;
        at = &p->next;
    }
    *ret = found;
    return found ? JOUST_OK : paged_create(engine, model, ret, err);
}

uint64_t joust_paged_available(const joust_paged *p)
{
    const uint64_t n = p->engine->cache_bytes / p->page_bytes; /* the budget may have shrunk */
    return n > p->n_in_use ? n - p->n_in_use : 0;
}

/* Frees other models' memory for a page of p: what holds nothing, then what is longest unused, of
 * p's own tree too, whose page is then *ret. */
static void room_make(joust_paged *p, joust_page **ret)
{
    joust_engine *e = p->engine;
    while (e->cache_used + p->page_bytes > e->cache_bytes) {
        joust_paged *oldest = NULL;
        joust_page *page = NULL;
        for (joust_paged *of = e->paged; of && !page; of = of->next) {
            page = free_take(of);
            if (page || (of->unused_first &&
                         (!oldest || of->unused_first->used < oldest->unused_first->used)))
                oldest = of;
        }
        if (!page && oldest)
            page = unused_take(oldest);
        if (!page)
            return;
        if (oldest == p) {
            *ret = page;
            return;
        }
        page_free(oldest, page);
    }
}

/* A device that has less memory than the budget says: from now on the budget is what is held. */
static void budget_shrink(joust_engine *e)
{
    joust_log_warn("engine", "GPU memory: the key-value budget shrinks from %llu to %llu MiB",
                   (unsigned long long)(e->cache_bytes >> 20),
                   (unsigned long long)(e->cache_used >> 20));
    e->cache_bytes = e->cache_used;
}

static void *data_create(joust_paged *p)
{
    joust_engine *e = p->engine;
    void *data = NULL;
    if (!e->api)
        return joust_calloc_aligned(1, p->page_bytes);
    if (e->api->page_create(e->device, p->page_bytes, &data, NULL) == JOUST_NOMEM)
        budget_shrink(e);
    return data;
}

static joust_page *page_create(joust_paged *p)
{
    joust_page *page = joust_calloc(1, sizeof(*page));
    if (page)
        page->data = data_create(p);
    if (!page || !page->data) {
        joust_free(page);
        return NULL;
    }
    joust_engine *e = p->engine;
    e->cache_used += p->page_bytes;
    if (e->cache_stats.n_peak_bytes < e->cache_used)
        e->cache_stats.n_peak_bytes = e->cache_used;
    return page;
}

joust_status joust_paged_take(joust_paged *p, joust_page **ret, joust_error *err)
{
    joust_page *page = free_take(p);
    *ret = NULL;
    if (!page)
        room_make(p, &page);
    if (!page && p->engine->cache_used + p->page_bytes > p->engine->cache_bytes)
        return JOUST_OK;
    if (!page)
        page = page_create(p);
    if (!page && !(page = unused_take(p)) &&
        p->engine->cache_used + p->page_bytes > p->engine->cache_bytes)
        return JOUST_OK; /* a device's budget has just shrunk */
    if (!page)
        return joust_fail(err, JOUST_NOMEM, "key-value cache: no memory for a page of %llu bytes",
                          (unsigned long long)p->page_bytes);
    page->before = page->after = NULL;
    page->refs = 1;
    p->n_in_use++;
    *ret = page;
    return JOUST_OK;
}

void joust_paged_ref(joust_paged *p, joust_page *page)
{
    if (page->refs++ == 0) {
        unused_remove(p, page);
        p->n_in_use++;
    }
}

void joust_paged_unref(joust_paged *p, joust_page *page)
{
    if (--page->refs > 0)
        return;
    p->n_in_use--;
    if (page->in_tree) {
        unused_add(p, page);
    } else {
        page->after = p->free;
        p->free = page;
    }
}

/* ---- the tree --------------------------------------------------------------------------------- */

joust_page *joust_paged_find(joust_paged *p, joust_page *parent, const uint32_t *tokens)
{
    joust_page *page = *bucket_of(p, parent, tokens);
    while (page &&
           (page->parent != parent || memcmp(page->tokens, tokens, sizeof(page->tokens)) != 0))
        page = page->chain;
    return page;
}

joust_page *joust_paged_keep(joust_paged *p, joust_page *parent, joust_page *page,
                             const uint32_t *tokens)
{
    joust_page *there = joust_paged_find(p, parent, tokens);
    if (there)
        return there;
    assert(!page->in_tree && page->refs > 0);
    memcpy(page->tokens, tokens, sizeof(page->tokens));
    page->parent = parent;
    page->n_children = 0;
    if (parent)
        parent->n_children++;
    joust_page **bucket = bucket_of(p, parent, tokens);
    page->chain = *bucket;
    *bucket = page;
    page->in_tree = true;
    return page;
}
