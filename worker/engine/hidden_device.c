/* Hidden states and scores on a device. Requests are taken by waves: as many whole ones as a pass has rows for, or one that is
 * longer; a wave's keys and values lie in one block of pages, which the next wave uses again. */
#include <string.h>

#include "engine_internal.h"
#include "hidden_internal.h"
#include "model_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/log.h"
#include "worker/engine/device.h"

#define MIN_ROWS 16u /* a pass isn't cut below */
#define PAGE     JOUST_DEVICE_PAGE_POSITIONS

/* A row of a request. */
typedef struct place {
    uint32_t request, row;
} place;

typedef struct wave {
    joust_engine *engine;
    joust_model *model;
    const joust_hidden_request *requests;
    uint32_t first, end; /* requests of the wave */
    joust_step_fn *step;
    void *context;
    uint64_t n_tokens; /* so far */

    unsigned char *block; /* on the device: n_pages pages */
    uint64_t page_bytes, n_pages;
    void **pages; /* (n_listed) of the wave's requests, one after the other */
    size_t page_room;
    uint32_t n_listed;

    joust_device_row rows[JOUST_DEVICE_PASS_ROWS];
    joust_device_wanted wanted[JOUST_DEVICE_PASS_ROWS];
    joust_device_pick picks[JOUST_DEVICE_PASS_ROWS];
    place of[JOUST_DEVICE_PASS_ROWS]; /* of wanted rows */
    joust_device_pass pass;
    float *states; /* (JOUST_DEVICE_PASS_ROWS, d_model), if any are asked for */
} wave;

static uint32_t rows_most(const joust_engine *e)
{
    return e->pass_rows ? e->pass_rows : JOUST_DEVICE_PASS_ROWS;
}

/* ---- pages ----------------------------------------------------------------------------------- */

static uint64_t pages_of(const joust_hidden_request *r)
{
    return (r->n + PAGE - 1) / PAGE;
}

static void block_free(wave *w)
{
    if (w->block)
        w->engine->api->page_free(w->engine->device, w->block);
    w->block = NULL;
    w->n_pages = 0;
}

/* Room for n pages; what was there is lost. Kept prefixes go where memory runs out. */
static joust_status block_reserve(wave *w, uint64_t n, joust_error *err)
{
    joust_engine *e = w->engine;
    void *block = NULL;
    if (n <= w->n_pages)
        return JOUST_OK;
    block_free(w);
    joust_status st = e->api->page_create(e->device, n * w->page_bytes, &block, err);
    if (st == JOUST_NOMEM) {
        joust_engine_cache_drop(e);
        st = e->api->page_create(e->device, n * w->page_bytes, &block, err);
    }
    if (st)
        return st;
    w->block = block;
    w->n_pages = n;
    return JOUST_OK;
}

/* The wave's pages; with less memory a shorter wave, of one request at least. */
static joust_status pages_make(wave *w, joust_error *err)
{
    joust_status st;
    for (;; w->end = w->first + (w->end - w->first) / 2) {
        uint64_t n = 0;
        for (uint32_t i = w->first; i < w->end; i++)
            n += pages_of(&w->requests[i]);
        st = block_reserve(w, n, err);
        if (st != JOUST_NOMEM || w->end == w->first + 1)
            break;
    }
    if (st)
        return st == JOUST_NOMEM
                   ? joust_blame(err, st,
                                 "GPU memory: keys and values of %u tokens don't fit: shorten the "
                                 "text, or use a larger GPU",
                                 w->requests[w->first].n)
                   : st;
    w->n_listed = 0;
    for (uint32_t i = w->first; i < w->end; i++)
        for (uint64_t k = pages_of(&w->requests[i]); k > 0; k--) {
            if (!joust_grow(&w->pages, w->n_listed, &w->page_room, sizeof(*w->pages)))
                return joust_fail(err, JOUST_NOMEM, "hidden states: out of memory");
            w->pages[w->n_listed] = w->block + w->n_listed * w->page_bytes;
            w->n_listed++;
        }
    return JOUST_OK;
}

/* ---- a pass ---------------------------------------------------------------------------------- */

static void wanted_add(wave *w, place at)
{
    joust_device_pass *p = &w->pass;
    const joust_hidden_request *r = &w->requests[at.request];
    if (!joust_hidden_wants(r, at.row))
        return;
    w->of[p->n_wanted] = at;
    w->wanted[p->n_wanted] = (joust_device_wanted){.row = p->n_rows};
    if (r->ret_scores || r->ret_score) /* the scalar head's one output */
        w->picks[p->n_picks++] = (joust_device_pick){.wanted = p->n_wanted, .token = 0};
    p->n_wanted++;
}

/* Lists rows from `at` on, at most n; returns the place behind them. */
static place rows_list(wave *w, place at, uint32_t n)
{
    joust_device_pass *p = &w->pass;
    void **pages = w->pages;
    for (uint32_t i = w->first; i < at.request; i++)
        pages += pages_of(&w->requests[i]);
    *p = (joust_device_pass){.rows = w->rows,
                             .wanted = w->wanted,
                             .picks = w->picks,
                             .ret_states = w->states,
                             .without_adapter = joust_model_is_bare(w->model)};
    while (at.request < w->end && p->n_rows < n) {
        const joust_hidden_request *r = &w->requests[at.request];
        wanted_add(w, at);
        w->rows[p->n_rows++] = (joust_device_row){
            .token = r->tokens[at.row], .position = at.row, .pages = (void *const *)pages};
        if (++at.row < r->n)
            continue;
        pages += pages_of(r);
        at = (place){at.request + 1, 0};
    }
    return at;
}

static joust_status rows_use(wave *w, joust_error *err)
{
    const joust_device_pass *p = &w->pass;
    const uint32_t d = w->model->config.d_model;
    joust_status st = JOUST_OK;
    for (uint32_t i = 0, pick = 0; i < p->n_wanted && !st; i++) {
        const joust_hidden_request *r = &w->requests[w->of[i].request];
        const uint32_t row = w->of[i].row;
        if (r->ret_states && row >= r->first)
            memcpy(r->ret_states + (size_t)(row - r->first) * d, w->states + (size_t)i * d,
                   d * sizeof(float));
        if (pick == p->n_picks || w->picks[pick].wanted != i)
            continue;
        const float score = w->picks[pick++].x;
        st = joust_score_check(score, err);
        if (!st && r->ret_scores && row >= r->first)
            r->ret_scores[row - r->first] = score;
        if (!st && r->ret_score && row + 1 == r->n)
            *r->ret_score = score;
    }
    return st;
}

/* A pass of as many rows as the device has memory for, from *at on, which moves behind them. */
static joust_status pass_run(wave *w, place *at, joust_error *err)
{
    joust_engine *e = w->engine;
    for (bool dropped = false;; dropped = true) {
        const place next = rows_list(w, *at, rows_most(e));
        joust_status st = e->api->run(w->model->on_device, &w->pass, err);
        if (!st) {
            *at = next;
            return rows_use(w, err);
        }
        if (st != JOUST_NOMEM || (dropped && w->pass.n_rows <= MIN_ROWS))
            return st;
        if (!dropped) {
            joust_engine_cache_drop(e);
            continue;
        }
        e->pass_rows = w->pass.n_rows / 2;
        joust_log_warn("engine", "GPU memory: passes shrink from %u rows to %u", w->pass.n_rows,
                       e->pass_rows);
    }
}

/* ---- waves ----------------------------------------------------------------------------------- */

static void wave_choose(wave *w, uint32_t n_requests)
{
    const uint32_t most = rows_most(w->engine);
    uint32_t n = w->requests[w->first].n;
    w->end = w->first + 1;
    while (w->end < n_requests && n + w->requests[w->end].n <= most)
        n += w->requests[w->end++].n;
}

static joust_status wave_run(wave *w, joust_error *err)
{
    joust_status st = pages_make(w, err);
    for (place at = {w->first, 0}; at.request < w->end && !st;) {
        st = pass_run(w, &at, err);
        w->n_tokens += w->pass.n_rows;
        if (!st && w->step)
            st = w->step(w->context, w->n_tokens, err);
    }
    return st;
}

static joust_status states_make(wave *w, uint32_t n_requests, joust_error *err)
{
    bool any = false;
    for (uint32_t i = 0; i < n_requests; i++)
        any = any || w->requests[i].ret_states;
    if (any && !(w->states = joust_calloc((size_t)JOUST_DEVICE_PASS_ROWS * w->model->config.d_model,
                                          sizeof(*w->states))))
        return joust_fail(err, JOUST_NOMEM, "hidden states: out of memory");
    return JOUST_OK;
}

joust_status joust_hidden_device(joust_engine *engine, joust_model *model,
                                 const joust_hidden_request *requests, uint32_t n_requests,
                                 joust_step_fn *step, void *context, joust_error *err)
{
    wave *w = joust_calloc(1, sizeof(*w));
    if (!w)
        return joust_fail(err, JOUST_NOMEM, "hidden states: out of memory");
    *w = (wave){.engine = engine,
                .model = model,
                .requests = requests,
                .step = step,
                .context = context,
                .page_bytes = engine->api->page_bytes(engine->device, &model->config)};
    joust_status st = states_make(w, n_requests, err);
    if (!st)
        st = joust_model_upload(engine, model, err);
    while (w->first < n_requests && !st) {
        wave_choose(w, n_requests);
        st = wave_run(w, err);
        w->first = w->end;
    }
    block_free(w);
    joust_free(w->pages);
    joust_free(w->states);
    joust_free(w);
    return st;
}
