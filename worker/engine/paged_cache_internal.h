/* Paged key-value memory: pages of sixteen positions, of which an engine holds no more bytes than
 * its budget, and a prefix tree over them. A page in the tree holds the keys and values of sixteen
 * tokens after those of its parents: whoever has the same tokens from the first on shares it, in
 * this call and in later ones. Pages that nobody uses stay until the memory is wanted: the longest
 * unused goes first. A tree belongs to one state of a model's weights; when they change it is
 * dropped. What a page holds is a function of tokens and weights, so sharing changes no bit.
 * Thread: the engine's caller; threads that compute see only a page's data. */
#ifndef JOUST_WORKER_ENGINE_PAGED_CACHE_INTERNAL_H
#define JOUST_WORKER_ENGINE_PAGED_CACHE_INTERNAL_H

#include "engine_internal.h"
#include "forward_internal.h"

typedef struct joust_page joust_page;
struct joust_page {
    void *data;    /* joust_page_floats; on a device: its page, which only it reads */
    uint32_t refs; /* sequences that use it */
    bool in_tree;
    uint32_t tokens[JOUST_PAGE_POSITIONS]; /* the rest: of a page in the tree */
    joust_page *parent;                    /* NULL: it begins at position 0 */
    uint32_t n_children;
    uint64_t used;     /* when it was last let go, by the engine's count */
    joust_page *chain; /* in its bucket */
    joust_page *before,
        *after; /* unused ones, longest unused first; `after` also in the free list */
};

/* The pages of one model. */
typedef struct joust_paged joust_paged;

/* The model's pages at this engine, with what the tree holds for its present weights; drops trees
 * whose weights have changed or gone. A view, valid until the next joust_paged_open.
 * Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_paged_open(joust_engine *engine, joust_model *model,
                                             joust_paged **ret, joust_error *err);
uint64_t joust_paged_page_bytes(const joust_engine *engine, const joust_model *model);
/* Copies what a page holds. Errors: the device's. */
JOUST_MUST_USE joust_status joust_paged_copy(const joust_paged *p, void *to, const void *from,
                                             joust_error *err);
/* Of the pages that the budget allows, those that no sequence uses. */
uint64_t joust_paged_available(const joust_paged *p);

/* *ret: a page with one reference and any content; NULL if all are in use. Where a device has no
 * memory left below the budget, the budget becomes what is held.
 * Errors: JOUST_NOMEM, when the system has none left below the budget. */
JOUST_MUST_USE joust_status joust_paged_take(joust_paged *p, joust_page **ret, joust_error *err);
void joust_paged_ref(joust_paged *p, joust_page *page);
/* A sequence lets go of its pages from the last to the first. */
void joust_paged_unref(joust_paged *p, joust_page *page);

/* The page of these sixteen tokens after parent (NULL: from position 0), or NULL; no reference. */
joust_page *joust_paged_find(joust_paged *p, joust_page *parent, const uint32_t *tokens);
/* Puts a full page into the tree, unless its tokens are there already: then returns that page, to
 * be used in place of this one. parent is in the tree and in use. */
joust_page *joust_paged_keep(joust_paged *p, joust_page *parent, joust_page *page,
                             const uint32_t *tokens);

/* Frees all pages of an engine. */
void joust_paged_free_all(joust_engine *engine);

#endif
