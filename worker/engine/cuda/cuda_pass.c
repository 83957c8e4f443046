/* A pass: what is asked becomes one block of numbers that goes up, kernels over fixed memory, one block that comes back.
 * Passes of few rows, of which generation makes thousands alike, are recorded once a shape and replayed. */
#include <assert.h>
#include <string.h>

#include "cuda_flow_internal.h"
#include "cuda_layout_internal.h"
#include "proto/base/alloc.h"

/* ---- memory ---------------------------------------------------------------------------------- */

static void *block_of(const joust_gpu_work *w, size_t offset)
{
    void *block;
    memcpy(&block, (const unsigned char *)w + offset, sizeof(block));
    return block;
}

void joust_gpu_work_free(joust_device_model *m)
{
    joust_gpu *g = m->device->gpu;
    joust_gpu_work *w = &m->work;
    const joust_gpu_shape shape = {&m->config, &m->w, m->adapter};
    joust_gpu_work_block blocks[JOUST_GPU_WORK_BLOCKS];
    joust_gpu_work_layout(&shape, &w->rooms, blocks);
    for (uint32_t i = 0; i < w->n_records && i < JOUST_GPU_RECORDS; i++)
        g->record_free(g, w->records[i].record);
    for (size_t i = 0; i < JOUST_GPU_WORK_BLOCKS; i++)
        g->free(g, block_of(w, blocks[i].offset));
    joust_free(w->host);
    *w = (joust_gpu_work){0};
}

joust_status joust_gpu_work_reserve(joust_device_model *m, const joust_gpu_rooms *r,
                                    joust_error *err)
{
    joust_gpu *g = m->device->gpu;
    joust_gpu_work *w = &m->work;
    const joust_gpu_shape shape = {&m->config, &m->w, m->adapter};
    joust_gpu_work_block blocks[JOUST_GPU_WORK_BLOCKS];
    joust_gpu_work_free(m);
    w->io = joust_gpu_io_of(r);
    joust_gpu_work_layout(&shape, r, blocks);
    joust_status st = JOUST_OK;
    w->host = joust_calloc(1, w->io.n_bytes);
    if (!w->host)
        st = joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    for (size_t i = 0; i < JOUST_GPU_WORK_BLOCKS && !st; i++) {
        void *block = NULL;
        if (blocks[i].n_bytes)
            st = g->alloc(g, blocks[i].n_bytes, &block, err);
        memcpy((unsigned char *)w + blocks[i].offset, &block, sizeof(block));
    }
    if (st)
        joust_gpu_work_free(m);
    else
        w->rooms = *r;
    return st;
}

/* ---- what goes up ---------------------------------------------------------------------------- */

static uint32_t *of_rows(const joust_gpu_work *w, uint64_t at)
{
    return (uint32_t *)(void *)(w->host + at);
}

static uint32_t row_pages(const joust_device_row *row)
{
    return row->position / JOUST_DEVICE_PAGE_POSITIONS + 1;
}

/* The last row of those that follow each other with the same pages: it has the most of them. */
static uint32_t run_end(const joust_device_pass *pass, uint32_t row)
{
    while (row + 1 < pass->n_rows && pass->rows[row + 1].pages == pass->rows[row].pages)
        row++;
    return row;
}

static uint32_t pages_count(const joust_device_pass *pass)
{
    uint32_t n = 0;
    for (uint32_t row = 0; row < pass->n_rows; row++) {
        row = run_end(pass, row);
        n += row_pages(&pass->rows[row]);
    }
    return n;
}

static uint32_t tiles_count(const joust_model_config *c, const joust_device_pass *pass)
{
    uint32_t n = 0;
    for (uint32_t row = 0, end; row < pass->n_rows; row = end + 1) {
        end = run_end(pass, row);
        n += joust_gpu_tiles_fill(c, row, end - row + 1, NULL);
    }
    return n;
}

/* Into how many parts a row's attention is cut, at most: a power of two, so that few shapes are recorded. 0: it isn't, as one
 * warp a tile is few keys' work, or makes enough of them. */
static uint32_t parts_count(const joust_model_config *c, const joust_device_pass *pass)
{
    uint32_t last = 0, n = 1;
    if (pass->n_rows > JOUST_GPU_RECORD_ROWS ||
        (uint64_t)tiles_count(c, pass) * c->n_kv_heads > JOUST_GPU_BUSY_WARPS)
        return 0;
    for (uint32_t i = 0; i < pass->n_rows; i++)
        last = pass->rows[i].position > last ? pass->rows[i].position : last;
    while (n * JOUST_GPU_SEGMENT_KEYS <= last)
        n *= 2;
    return n > 1 ? n : 0;
}

static void rows_fill(const joust_model_config *c, joust_gpu_work *w, const joust_device_pass *pass)
{
    joust_gpu_tile *tiles = (joust_gpu_tile *)(void *)(w->host + w->io.tiles);
    uint32_t *tokens = of_rows(w, w->io.tokens), *positions = of_rows(w, w->io.positions),
             *first_page = of_rows(w, w->io.first_page), n_pages = 0;
    w->n_tiles = 0;
    unsigned char *pages = w->host + w->io.pages;
    for (uint32_t row = 0, end; row < pass->n_rows; row = end + 1) {
        end = run_end(pass, row);
        for (uint32_t i = row; i <= end; i++) {
            tokens[i] = pass->rows[i].token;
            positions[i] = pass->rows[i].position;
            first_page[i] = n_pages;
        }
        const uint32_t n = row_pages(&pass->rows[end]);
        memcpy(pages + n_pages * sizeof(void *), pass->rows[end].pages, n * sizeof(void *));
        n_pages += n;
        w->n_tiles += joust_gpu_tiles_fill(c, row, end - row + 1, tiles + w->n_tiles);
    }
}

/* Numbers of a wanted row's draws and picks in the lists. */
typedef struct asked {
    uint32_t first_draw, n_draws, first_pick, n_picks;
} asked;

static asked asked_next(const joust_device_pass *pass, uint32_t wanted, const asked *last)
{
    asked a = {.first_draw = last->first_draw + last->n_draws,
               .first_pick = last->first_pick + last->n_picks};
    while (a.first_draw + a.n_draws < pass->n_draws &&
           pass->draws[a.first_draw + a.n_draws].wanted == wanted)
        a.n_draws++;
    while (a.first_pick + a.n_picks < pass->n_picks &&
           pass->picks[a.first_pick + a.n_picks].wanted == wanted)
        a.n_picks++;
    return a;
}

/* Whether a wanted row's logits must be kept: else its one pick is made while they are computed. */
static bool keeps_logits(const joust_device_pass *pass, uint32_t wanted, const asked *a)
{
    return pass->wanted[wanted].ret_logits || a->n_draws > 0 || a->n_picks > 1;
}

static uint32_t slots_count(const joust_device_pass *pass)
{
    uint32_t n = 0;
    asked a = {0};
    for (uint32_t i = 0; i < pass->n_wanted; i++) {
        a = asked_next(pass, i, &a);
        n += keeps_logits(pass, i, &a);
    }
    return n;
}

/* Lists wanted rows, draws and picks. Returns how many picks need a kernel of their own: they come first. */
static uint32_t asks_fill(const joust_gpu_work *w, const joust_device_pass *pass)
{
    uint32_t *which = of_rows(w, w->io.which), *slot = of_rows(w, w->io.slot),
             *target = of_rows(w, w->io.target);
    joust_gpu_draw_item *draws = (joust_gpu_draw_item *)(void *)(w->host + w->io.draws);
    joust_gpu_pick_item *picks = (joust_gpu_pick_item *)(void *)(w->host + w->io.picks);
    uint32_t n_slots = 0, n_picks = 0;
    asked a = {0};
    for (uint32_t i = 0; i < pass->n_wanted; i++) {
        a = asked_next(pass, i, &a);
        const bool keeps = keeps_logits(pass, i, &a);
        which[i] = pass->wanted[i].row;
        slot[i] = keeps ? n_slots++ : JOUST_GPU_NONE;
        target[i] = !keeps && a.n_picks == 1 ? pass->picks[a.first_pick].token : JOUST_GPU_NONE;
        for (uint32_t k = 0; k < a.n_draws; k++) {
            const joust_device_draw *from = &pass->draws[a.first_draw + k];
            draws[a.first_draw + k] = (joust_gpu_draw_item){.slot = slot[i],
                                                            .row = i,
                                                            .scale = from->scale,
                                                            .uniform = from->uniform,
                                                            .min_p = from->min_p};
        }
        for (uint32_t k = 0; keeps && k < a.n_picks; k++)
            picks[n_picks++] = (joust_gpu_pick_item){.slot = slot[i],
                                                     .token = pass->picks[a.first_pick + k].token};
    }
    return n_picks;
}

/* ---- kernels --------------------------------------------------------------------------------- */

static joust_gpu_flow flow_of(joust_device_model *m, const joust_device_pass *pass,
                              joust_error *err)
{
    return (joust_gpu_flow){.m = m,
                            .g = m->device->gpu,
                            .adapter = pass->without_adapter ? NULL : m->adapter,
                            .bf16 = m->device->gpu->precision == JOUST_PRECISION_BF16,
                            .n = pass->n_rows,
                            .err = err};
}

static void *on_device(const joust_gpu_work *w, uint64_t at)
{
    return w->device + at;
}

static void draws_run(joust_gpu_flow *f, const joust_device_pass *pass, const joust_gpu_head *head)
{
    const joust_gpu_work *w = &f->m->work;
    const joust_gpu_draw_args draw = {.logits = w->logits,
                                      .sums = head->sums,
                                      .items = on_device(w, w->io.draws),
                                      .marks = w->marks,
                                      .n = f->m->w.n_out,
                                      .n_tiles = f->m->w.n_draw_tiles};
    if (pass->n_draws)
        joust_gpu_flow_run(f, JOUST_GPU_draw, pass->n_draws, 1, &draw);
}

/* Whether nobody asks for logits. */
static bool states_only(const joust_device_pass *pass)
{
    return pass->ret_states && pass->n_draws == 0 && pass->n_picks == 0;
}

static joust_status kernels_run(joust_device_model *m, const joust_device_pass *pass,
                                uint32_t n_picks, joust_error *err)
{
    const joust_gpu_work *w = &m->work;
    joust_gpu_flow f = flow_of(m, pass, err);
    const joust_gpu_rows rows = {.x = w->x,
                                 .x_mid = w->x,
                                 .x_out = w->x,
                                 .qkv = w->qkv,
                                 .gate_up = w->gate_up,
                                 .normed = w->normed,
                                 .normed_ff = w->normed,
                                 .mixed = w->mixed,
                                 .hidden = w->hidden,
                                 .low = {w->low, w->low, w->low, w->low},
                                 .low_sums = w->low_sums,
                                 .parts = w->parts,
                                 .n_parts = w->n_parts,
                                 .at = {.pages = on_device(w, w->io.pages),
                                        .first_page = on_device(w, w->io.first_page),
                                        .positions = on_device(w, w->io.positions),
                                        .tiles = on_device(w, w->io.tiles),
                                        .n_tiles = w->n_tiles}};
    const joust_gpu_head head = {.x = w->x,
                                 .normed = w->normed,
                                 .partial = w->partial,
                                 .logits = w->logits,
                                 .which = on_device(w, w->io.which),
                                 .slot = on_device(w, w->io.slot),
                                 .target = on_device(w, w->io.target),
                                 .sums = on_device(w, w->io.sums),
                                 .picked = on_device(w, w->io.picked),
                                 .picks = on_device(w, w->io.picks),
                                 .states = pass->ret_states ? w->states : NULL,
                                 .n = pass->n_wanted,
                                 .n_picks = n_picks,
                                 .states_only = states_only(pass)};
    joust_gpu_flow_embed(&f, on_device(w, w->io.tokens), w->x);
    for (uint32_t i = 0; i < m->config.n_layers; i++)
        joust_gpu_flow_layer(&f, i, &rows);
    if (pass->n_wanted) {
        joust_gpu_flow_head(&f, &head);
        draws_run(&f, pass, &head);
    }
    return f.status;
}

/* ---- records --------------------------------------------------------------------------------- */

static void *record_find(const joust_gpu_work *w, const joust_gpu_record *key)
{
    for (uint32_t i = 0; i < w->n_records && i < JOUST_GPU_RECORDS; i++) {
        const joust_gpu_record *r = &w->records[i];
        if (r->n_rows == key->n_rows && r->n_wanted == key->n_wanted &&
            r->n_draws == key->n_draws && r->n_picks == key->n_picks &&
            r->n_tiles == key->n_tiles && r->n_parts == key->n_parts &&
            r->without_adapter == key->without_adapter)
            return r->record;
    }
    return NULL;
}

/* Runs a pass of a shape that comes again and again: by its record, which is made when there is none. */
static joust_status recorded_run(joust_device_model *m, const joust_device_pass *pass,
                                 uint32_t n_picks, joust_error *err)
{
    joust_gpu *g = m->device->gpu;
    joust_gpu_work *w = &m->work;
    joust_gpu_record key = {.n_rows = pass->n_rows,
                            .n_wanted = pass->n_wanted,
                            .n_draws = pass->n_draws,
                            .n_picks = n_picks,
                            .n_tiles = w->n_tiles,
                            .n_parts = w->n_parts,
                            .without_adapter = pass->without_adapter};
    key.record = record_find(w, &key);
    if (!key.record) {
        joust_status st = g->record_begin(g, err);
        if (st)
            return st;
        st = kernels_run(m, pass, n_picks, err);
        const joust_status end = g->record_end(g, &key.record, st ? NULL : err);
        if (st && !end)
            g->record_free(g, key.record);
        if (st || end)
            return st ? st : end;
        joust_gpu_record *place = &w->records[w->n_records % JOUST_GPU_RECORDS];
        if (w->n_records++ >= JOUST_GPU_RECORDS) /* the oldest makes room */
            g->record_free(g, place->record);
        *place = key;
    }
    return g->replay(g, key.record, err);
}

/* ---- the call -------------------------------------------------------------------------------- */

static joust_status room_make(joust_device_model *m, const joust_device_pass *pass,
                              joust_error *err)
{
    const joust_gpu_rooms *have = &m->work.rooms;
    const joust_gpu_rooms need = {
        .rows = joust_gpu_room_grown(have->rows, pass->n_rows),
        .pages = joust_gpu_room_grown(have->pages, pages_count(pass)),
        .draws = joust_gpu_room_grown(have->draws, pass->n_draws),
        .picks = joust_gpu_room_grown(have->picks, pass->n_picks),
        .slots = joust_gpu_room_grown(have->slots, slots_count(pass)),
        .states = joust_gpu_room_grown(have->states, pass->ret_states ? pass->n_wanted : 0),
        .tiles = joust_gpu_room_grown(have->tiles, tiles_count(&m->config, pass)),
        .parts = joust_gpu_room_grown(have->parts, pass->n_rows * m->work.n_parts)};
    if (need.rows == have->rows && need.pages == have->pages && need.draws == have->draws &&
        need.picks == have->picks && need.slots == have->slots && need.states == have->states &&
        need.tiles == have->tiles && need.parts == have->parts)
        return JOUST_OK;
    joust_status st = joust_gpu_work_reserve(m, &need, err);
    return st ? joust_blame(err, st, "GPU: a pass of %u rows", pass->n_rows) : JOUST_OK;
}

/* What came back, to who asked. */
static void results_take(const joust_gpu_work *w, const joust_device_pass *pass)
{
    const float *sums = (const float *)(const void *)(w->host + w->io.sums),
                *picked = (const float *)(const void *)(w->host + w->io.picked);
    const joust_gpu_draw_item *draws =
        (const joust_gpu_draw_item *)(const void *)(w->host + w->io.draws);
    const joust_gpu_pick_item *picks =
        (const joust_gpu_pick_item *)(const void *)(w->host + w->io.picks);
    uint32_t n_picks = 0;
    asked a = {0};
    for (uint32_t i = 0; i < pass->n_wanted; i++) {
        a = asked_next(pass, i, &a);
        const bool keeps = keeps_logits(pass, i, &a);
        pass->wanted[i].max = sums[2 * i];
        pass->wanted[i].sum = sums[2 * i + 1];
        for (uint32_t k = 0; k < a.n_picks; k++)
            pass->picks[a.first_pick + k].x = keeps ? picks[n_picks++].x : picked[i];
    }
    for (uint32_t i = 0; i < pass->n_draws; i++) {
        pass->draws[i].token = draws[i].token;
        pass->draws[i].x = draws[i].x;
        pass->draws[i].total = draws[i].total;
    }
}

static joust_status rows_take(joust_device_model *m, const joust_device_pass *pass,
                              joust_error *err)
{
    joust_gpu *g = m->device->gpu;
    const uint32_t *slot = of_rows(&m->work, m->work.io.slot);
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < pass->n_wanted && !st; i++)
        if (pass->wanted[i].ret_logits)
            st = g->get(g, pass->wanted[i].ret_logits,
                        m->work.logits + (uint64_t)slot[i] * m->w.n_out, m->w.n_out * sizeof(float),
                        err);
    if (pass->ret_states && pass->n_wanted && !st)
        st = g->get(g, pass->ret_states, m->work.states,
                    (uint64_t)pass->n_wanted * m->w.d * sizeof(float), err);
    return st;
}

joust_status joust_gpu_run(joust_device_model *m, joust_device_pass *pass, joust_error *err)
{
    joust_gpu *g = m->device->gpu;
    joust_gpu_work *w = &m->work;
    assert(pass->n_rows >= 1 && pass->n_rows <= JOUST_DEVICE_PASS_ROWS);
    const bool bf16 = g->precision == JOUST_PRECISION_BF16;
    w->n_parts = bf16 ? parts_count(&m->config, pass) : 0;
    joust_status st = room_make(m, pass, err);
    if (st)
        return st;
    w->n_parts = bf16 ? parts_count(&m->config, pass) : 0; /* new rooms know nothing */
    rows_fill(&m->config, w, pass);
    const uint32_t n_picks = asks_fill(w, pass);
    st = g->put(g, w->device, w->host, w->io.sums, err);
    if (!st)
        st = pass->n_rows <= JOUST_GPU_RECORD_ROWS && pass->n_wanted == pass->n_rows &&
                     !pass->ret_states
                 ? recorded_run(m, pass, n_picks, err)
                 : kernels_run(m, pass, n_picks, err);
    if (!st) /* without wanted rows too: errors of the pass show here */
        st = g->get(g, w->host + w->io.draws, w->device + w->io.draws, w->io.n_bytes - w->io.draws,
                    err);
    if (!st)
        results_take(w, pass);
    return st ? st : rows_take(m, pass, err);
}
