/* A pass: what is asked becomes one block of numbers that goes up, kernels over fixed memory, one block that comes back.
 * Passes of few rows, of which generation makes thousands alike, are recorded once a shape and replayed. */
#include <assert.h>
#include <math.h> /* sqrtf */
#include <string.h>

#include "cuda_model_internal.h"
#include "proto/base/alloc.h"

/* ---- memory ---------------------------------------------------------------------------------- */

static uint32_t grown(uint32_t room, uint32_t n)
{
    uint32_t to = room ? room : 16;
    while (to < n)
        to *= 2;
    return n ? to : room;
}

static uint64_t io_place(joust_gpu_io *io, uint64_t n_bytes)
{
    const uint64_t at = io->n_bytes;
    io->n_bytes += (n_bytes + 15) / 16 * 16;
    return at;
}

static joust_gpu_io io_of(const joust_gpu_rooms *r)
{
    joust_gpu_io io = {0};
    const uint64_t of_rows = (uint64_t)r->rows * sizeof(uint32_t);
    io.tokens = io_place(&io, of_rows);
    io.positions = io_place(&io, of_rows);
    io.first_page = io_place(&io, of_rows);
    io.which = io_place(&io, of_rows);
    io.slot = io_place(&io, of_rows);
    io.target = io_place(&io, of_rows);
    io.pages = io_place(&io, (uint64_t)r->pages * sizeof(void *));
    io.draws = io_place(&io, (uint64_t)r->draws * sizeof(joust_gpu_draw_item));
    io.picks = io_place(&io, (uint64_t)r->picks * sizeof(joust_gpu_pick_item));
    io.sums = io_place(&io, 2 * of_rows);
    io.picked = io_place(&io, of_rows);
    return io;
}

void joust_gpu_work_free(joust_device_model *m)
{
    joust_gpu *g = m->device->gpu;
    joust_gpu_work *w = &m->work;
    void *const blocks[] = {w->device, w->x,      w->qkv,   w->gate_up, w->partial,
                            w->logits, w->normed, w->mixed, w->hidden,  w->marks};
    for (uint32_t i = 0; i < w->n_records; i++)
        g->record_free(g, w->records[i].record);
    for (size_t i = 0; i < sizeof(blocks) / sizeof(*blocks); i++)
        g->free(g, blocks[i]);
    joust_free(w->host);
    *w = (joust_gpu_work){0};
}

joust_status joust_gpu_work_reserve(joust_device_model *m, const joust_gpu_rooms *r,
                                    joust_error *err)
{
    joust_gpu *g = m->device->gpu;
    joust_gpu_work *w = &m->work;
    const joust_gpu_widths *of = &m->w;
    const uint64_t rows = r->rows, store = of->store_bytes, one = sizeof(float);
    joust_gpu_work_free(m);
    w->io = io_of(r);
    const struct {
        void *place;
        uint64_t n_bytes;
    } blocks[] = {{&w->device, w->io.n_bytes},
                  {&w->x, rows * of->d * one},
                  {&w->qkv, rows * of->qkv * one},
                  {&w->gate_up, rows * 2 * of->ff * one},
                  {&w->partial, rows * of->n_tiles * 2 * one},
                  {&w->logits, (uint64_t)r->slots * of->vocab * one},
                  {&w->normed, rows * of->d_ld * store},
                  {&w->mixed, rows * of->query_ld * store},
                  {&w->hidden, rows * of->ff_ld * store},
                  {&w->marks, (uint64_t)r->draws * of->n_draw_tiles * sizeof(double)}};
    joust_status st = JOUST_OK;
    w->host = joust_calloc(1, w->io.n_bytes);
    if (!w->host)
        st = joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    for (size_t i = 0; i < sizeof(blocks) / sizeof(*blocks) && !st; i++) {
        void *block = NULL;
        if (blocks[i].n_bytes)
            st = g->alloc(g, blocks[i].n_bytes, &block, err);
        memcpy(blocks[i].place, &block, sizeof(block));
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

static void rows_fill(const joust_gpu_work *w, const joust_device_pass *pass)
{
    uint32_t *tokens = of_rows(w, w->io.tokens), *positions = of_rows(w, w->io.positions),
             *first_page = of_rows(w, w->io.first_page), n_pages = 0;
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

/* A list of launches that stops at the first error. */
typedef struct flow {
    joust_device_model *m;
    joust_gpu *g;
    joust_gpu_work *w;
    bool bf16;
    uint32_t n; /* rows */
    joust_status status;
    joust_error *err;
} flow;

/* `kernel` is the float32 one of two that stand side by side in the list. */
static void run(flow *f, joust_gpu_kernel kernel, uint32_t x, uint32_t y, const void *args)
{
    if (!f->status)
        f->status =
            f->g->launch(f->g, (joust_gpu_kernel)(kernel + (f->bf16 ? 1 : 0)), x, y, args, f->err);
}

static void *on_device(const flow *f, uint64_t at)
{
    return f->w->device + at;
}

static void norm(flow *f, const float *gain, const uint32_t *which, uint32_t n)
{
    const joust_gpu_norm_args args = {.x = f->w->x,
                                      .gain = gain,
                                      .which = which,
                                      .y = f->w->normed,
                                      .eps = f->m->config.norm_eps,
                                      .d = f->m->w.d,
                                      .ld = f->m->w.d_ld};
    run(f, JOUST_GPU_norm_f32, n, 1, &args);
}

static void matrix_run(flow *f, joust_gpu_kernel kernel, const joust_gpu_matrix_args *args)
{
    const uint32_t rows = f->bf16 ? JOUST_GPU_BF16_ROWS : JOUST_GPU_F32_ROWS,
                   outputs = f->bf16 ? JOUST_GPU_BF16_OUTPUTS : JOUST_GPU_F32_OUTPUTS;
    run(f, kernel, (args->n + outputs - 1) / outputs, (args->m + rows - 1) / rows, args);
}

static void multiply(flow *f, const void *a, const void *w, float *y, uint32_t n, uint32_t k,
                     uint32_t ld, bool add)
{
    const joust_gpu_matrix_args args = {
        .a = a, .w = w, .y = y, .m = f->n, .n = n, .k = k, .ld = ld, .add = add};
    matrix_run(f, JOUST_GPU_matrix_f32, &args);
}

/* Nothing where the model has no such bias. */
static void bias_add(flow *f, const float *bias, float *y, uint32_t n)
{
    const joust_gpu_bias_args args = {.bias = bias, .y = y, .n = n};
    if (bias && !f->status)
        f->status = f->g->launch(f->g, JOUST_GPU_bias, (n + 255) / 256, f->n, &args, f->err);
}

static void attention(flow *f, uint32_t layer)
{
    const joust_model_config *c = &f->m->config;
    const joust_gpu_layer *of = &f->m->layers[layer];
    const joust_gpu_places at = {.pages = on_device(f, f->w->io.pages),
                                 .first_page = on_device(f, f->w->io.first_page),
                                 .positions = on_device(f, f->w->io.positions)};
    const joust_gpu_finish_args finish = {.qkv = f->w->qkv,
                                          .bias = of->bias,
                                          .q_norm = of->q_norm,
                                          .k_norm = of->k_norm,
                                          .angles = f->m->rope,
                                          .at = at,
                                          .layer = layer * f->m->w.page_layer,
                                          .eps = c->norm_eps,
                                          .n_heads = c->n_heads,
                                          .n_kv_heads = c->n_kv_heads,
                                          .d_head = c->d_head};
    const joust_gpu_attend_args attend = {.qkv = f->w->qkv,
                                          .at = at,
                                          .layer = finish.layer,
                                          .out = f->w->mixed,
                                          .scale = 1.0f / sqrtf((float)c->d_head),
                                          .n_heads = c->n_heads,
                                          .n_kv_heads = c->n_kv_heads,
                                          .d_head = c->d_head,
                                          .ld = f->m->w.query_ld,
                                          .window = layer < c->first_window_layer ? 0 : c->window};
    run(f, JOUST_GPU_finish_f32, f->n, c->n_heads + 2 * c->n_kv_heads, &finish);
    run(f, JOUST_GPU_attend_f32, c->n_heads, f->n, &attend);
}

static void layer_run(flow *f, uint32_t layer)
{
    const joust_gpu_layer *of = &f->m->layers[layer];
    const joust_gpu_widths *w = &f->m->w;
    const joust_gpu_swiglu_args swiglu = {
        .gate_up = f->w->gate_up, .h = f->w->hidden, .d_ff = w->ff, .ld = w->ff_ld};
    norm(f, of->attention_norm, NULL, f->n);
    multiply(f, f->w->normed, of->qkv, f->w->qkv, w->qkv, w->d, w->d_ld, false);
    attention(f, layer);
    multiply(f, f->w->mixed, of->o, f->w->x, w->d, w->query, w->query_ld, true);
    bias_add(f, of->o_bias, f->w->x, w->d);
    norm(f, of->ff_norm, NULL, f->n);
    multiply(f, f->w->normed, of->gate_up, f->w->gate_up, 2 * w->ff, w->d, w->d_ld, false);
    bias_add(f, of->gate_up_bias, f->w->gate_up, 2 * w->ff);
    run(f, JOUST_GPU_swiglu_f32, (w->ff_ld + 255) / 256, f->n, &swiglu);
    multiply(f, f->w->hidden, of->down, f->w->x, w->d, w->ff, w->ff_ld, true);
    bias_add(f, of->down_bias, f->w->x, w->d);
}

static void head_run(flow *f, const joust_device_pass *pass, uint32_t n_picks)
{
    const joust_gpu_widths *w = &f->m->w;
    const joust_gpu_io *io = &f->w->io;
    const joust_gpu_matrix_args head = {.a = f->w->normed,
                                        .w = f->m->head,
                                        .y = f->w->logits,
                                        .m = pass->n_wanted,
                                        .n = w->vocab,
                                        .k = w->d,
                                        .ld = w->d_ld,
                                        .partial = f->w->partial,
                                        .n_tiles = w->n_tiles,
                                        .slot = on_device(f, io->slot),
                                        .target = on_device(f, io->target),
                                        .picked = on_device(f, io->picked)};
    const joust_gpu_log_sum_args sums = {
        .partial = f->w->partial, .sums = on_device(f, io->sums), .n_tiles = w->n_tiles};
    const joust_gpu_draw_args draw = {.logits = f->w->logits,
                                      .sums = sums.sums,
                                      .items = on_device(f, io->draws),
                                      .marks = f->w->marks,
                                      .n = w->vocab,
                                      .n_tiles = w->n_draw_tiles};
    const joust_gpu_pick_args pick = {.logits = f->w->logits,
                                      .items = on_device(f, io->picks),
                                      .n = w->vocab,
                                      .n_items = n_picks};
    norm(f, f->m->norm, on_device(f, io->which), pass->n_wanted);
    matrix_run(f, JOUST_GPU_head_f32, &head);
    f->bf16 = false; /* what follows has one variant */
    run(f, JOUST_GPU_log_sum, pass->n_wanted, 1, &sums);
    if (pass->n_draws)
        run(f, JOUST_GPU_draw, pass->n_draws, 1, &draw);
    if (n_picks)
        run(f, JOUST_GPU_pick, (n_picks + 63) / 64, 1, &pick);
}

static joust_status kernels_run(joust_device_model *m, const joust_device_pass *pass,
                                uint32_t n_picks, joust_error *err)
{
    joust_gpu *g = m->device->gpu;
    flow f = {.m = m,
              .g = g,
              .w = &m->work,
              .bf16 = g->precision == JOUST_PRECISION_BF16,
              .n = pass->n_rows,
              .err = err};
    const joust_gpu_embed_args embed = {.table = m->embedding,
                                        .tokens = on_device(&f, m->work.io.tokens),
                                        .x = m->work.x,
                                        .d = m->w.d,
                                        .ld = m->w.d_ld};
    run(&f, JOUST_GPU_embed_f32, f.n, 1, &embed);
    for (uint32_t i = 0; i < m->config.n_layers; i++)
        layer_run(&f, i);
    if (pass->n_wanted)
        head_run(&f, pass, n_picks);
    return f.status;
}

/* ---- records --------------------------------------------------------------------------------- */

static void *record_find(const joust_gpu_work *w, const joust_gpu_record *key)
{
    for (uint32_t i = 0; i < w->n_records; i++) {
        const joust_gpu_record *r = &w->records[i];
        if (r->n_rows == key->n_rows && r->n_wanted == key->n_wanted &&
            r->n_draws == key->n_draws && r->n_picks == key->n_picks)
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
    joust_gpu_record key = {pass->n_rows, pass->n_wanted, pass->n_draws, n_picks, NULL};
    key.record = record_find(w, &key);
    if (!key.record && w->n_records == JOUST_GPU_RECORDS)
        return kernels_run(m, pass, n_picks, err);
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
        w->records[w->n_records++] = key;
    }
    return g->replay(g, key.record, err);
}

/* ---- the call -------------------------------------------------------------------------------- */

static joust_status room_make(joust_device_model *m, const joust_device_pass *pass,
                              joust_error *err)
{
    const joust_gpu_rooms *have = &m->work.rooms;
    const joust_gpu_rooms need = {.rows = grown(have->rows, pass->n_rows),
                                  .pages = grown(have->pages, pages_count(pass)),
                                  .draws = grown(have->draws, pass->n_draws),
                                  .picks = grown(have->picks, pass->n_picks),
                                  .slots = grown(have->slots, slots_count(pass))};
    if (need.rows == have->rows && need.pages == have->pages && need.draws == have->draws &&
        need.picks == have->picks && need.slots == have->slots)
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

static joust_status logits_take(joust_device_model *m, const joust_device_pass *pass,
                                joust_error *err)
{
    joust_gpu *g = m->device->gpu;
    const uint32_t *slot = of_rows(&m->work, m->work.io.slot);
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < pass->n_wanted && !st; i++)
        if (pass->wanted[i].ret_logits)
            st = g->get(g, pass->wanted[i].ret_logits,
                        m->work.logits + (uint64_t)slot[i] * m->w.vocab, m->w.vocab * sizeof(float),
                        err);
    return st;
}

joust_status joust_gpu_run(joust_device_model *m, joust_device_pass *pass, joust_error *err)
{
    joust_gpu *g = m->device->gpu;
    joust_gpu_work *w = &m->work;
    assert(pass->n_rows >= 1 && pass->n_rows <= JOUST_DEVICE_PASS_ROWS);
    joust_status st = room_make(m, pass, err);
    if (st)
        return st;
    rows_fill(w, pass);
    const uint32_t n_picks = asks_fill(w, pass);
    st = g->put(g, w->device, w->host, w->io.sums, err);
    if (!st)
        st = pass->n_rows <= JOUST_GPU_RECORD_ROWS && pass->n_wanted == pass->n_rows
                 ? recorded_run(m, pass, n_picks, err)
                 : kernels_run(m, pass, n_picks, err);
    if (!st) /* without wanted rows too: errors of the pass show here */
        st = g->get(g, w->host + w->io.draws, w->device + w->io.draws, w->io.n_bytes - w->io.draws,
                    err);
    if (!st)
        results_take(w, pass);
    return st ? st : logits_take(m, pass, err);
}
