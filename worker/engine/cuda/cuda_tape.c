/* A micro-batch's memory, which grows as needed, and its forward pass: that of cuda_flow.c over rows that are kept. */
#include <stdlib.h> /* qsort */
#include <string.h>

#include "cuda_adapter_internal.h"
#include "cuda_layout_internal.h"
#include "cuda_trainer_internal.h"
#include "proto/base/alloc.h"

#define PAGE JOUST_DEVICE_PAGE_POSITIONS

/* ---- memory ---------------------------------------------------------------------------------- */

void joust_gpu_tape_free(joust_device_trainer *t)
{
    joust_gpu *g = t->m->device->gpu;
    joust_gpu_tape *tape = &t->tape;
    g->free(g, tape->device);
    g->free(g, tape->block);
    g->free(g, tape->slopes);
    joust_free(tape->host);
    joust_free(tape->kept);
    *tape = (joust_gpu_tape){0};
}

static joust_status tape_alloc(joust_device_trainer *t, const joust_gpu_tape_rooms *rooms,
                               joust_error *err)
{
    joust_gpu *g = t->m->device->gpu;
    joust_gpu_tape *tape = &t->tape;
    joust_gpu_layout l = {0};
    const joust_gpu_shape shape = {&t->m->config, &t->m->w, t->adapter};
    void *device = NULL;
    tape->io = joust_gpu_tape_io_of(&t->m->config, rooms);
    tape->host = joust_calloc(1, tape->io.n_bytes);
    tape->kept = joust_calloc(t->m->config.n_layers, sizeof(*tape->kept));
    if (!tape->host || !tape->kept)
        return joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    joust_gpu_tape_layout(&l, &shape, rooms, tape);
    joust_status st = g->alloc(g, l.n_bytes, &tape->block, err);
    if (st)
        return joust_blame(err, st, "training: activations of %u tokens, %llu MiB", rooms->rows,
                           (unsigned long long)(l.n_bytes >> 20));
    st = g->alloc(g, tape->io.n_bytes, &device, err);
    tape->device = device;
    l = (joust_gpu_layout){.block = tape->block};
    if (!st)
        joust_gpu_tape_layout(&l, &shape, rooms, tape);
    return st;
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

/* Frees what is there, then makes room; without room nothing is left. */
static joust_status tape_replace(joust_device_trainer *t, const joust_gpu_tape_rooms *rooms,
                                 joust_error *err)
{
    joust_gpu_tape_free(t);
    joust_status st = tape_alloc(t, rooms, err);
    if (st)
        joust_gpu_tape_free(t);
    else
        t->tape.rooms = *rooms;
    return st;
}

joust_status joust_gpu_tape_reserve(joust_device_trainer *t, const joust_gpu_tape_rooms *rooms,
                                    joust_error *err)
{
    const joust_gpu_tape_rooms has = t->tape.rooms;
    if (has.rows >= rooms->rows && has.wanted >= rooms->wanted && has.pages >= rooms->pages &&
        has.slots >= rooms->slots && has.picks >= rooms->picks && has.recompute == rooms->recompute)
        return JOUST_OK;
    const joust_gpu_tape_rooms both = {.rows = larger(has.rows, rooms->rows),
                                       .wanted = larger(has.wanted, rooms->wanted),
                                       .pages = larger(has.pages, rooms->pages),
                                       .slots = larger(has.slots, rooms->slots),
                                       .picks = larger(has.picks, rooms->picks),
                                       .recompute = rooms->recompute};
    joust_status st = tape_replace(t, &both, err);
    if (st == JOUST_NOMEM) {
        joust_gpu_work_free(t->m); /* what generation works in can be made again */
        st = tape_replace(t, rooms, err);
    }
    return st;
}

/* ---- what goes up ---------------------------------------------------------------------------- */

static void *on_host(const joust_gpu_tape *tape, uint64_t at)
{
    return tape->host + at;
}

static void *on_device(const joust_gpu_tape *tape, uint64_t at)
{
    return tape->device + at;
}

static uint32_t pages_of(uint32_t n)
{
    return (n + PAGE - 1) / PAGE;
}

/* The first page that a part doesn't share with the stem. */
static uint32_t own_page(const joust_device_micro *micro, uint32_t part)
{
    return part ? micro->n[0] / PAGE : 0;
}

static uint32_t part_end(const joust_device_micro *micro, uint32_t part)
{
    return micro->n[part] + (part ? micro->n[0] : 0); /* in positions */
}

static uint32_t picks_of(const joust_device_micro *micro, uint32_t wanted, uint32_t first)
{
    uint32_t n = 0;
    while (first + n < micro->n_picks && micro->picks[first + n].wanted == wanted)
        n++;
    return n;
}

static joust_gpu_tape_rooms rooms_of(const joust_device_micro *micro)
{
    joust_gpu_tape_rooms r = {
        .wanted = micro->n_wanted, .picks = micro->n_picks, .recompute = micro->recompute};
    for (uint32_t i = 0; i < JOUST_DEVICE_PARTS; i++) {
        r.rows += micro->n[i];
        if (micro->n[i])
            r.pages += pages_of(part_end(micro, i)) - own_page(micro, i);
    }
    for (uint32_t i = 0, first = 0, n; i < micro->n_wanted; i++, first += n) {
        n = picks_of(micro, i, first);
        r.slots += n > 1;
    }
    return r;
}

/* What attention in bf16 goes through: tiles of a part's units, and its keys by pages. */
static void tiles_fill(const joust_device_trainer *t, const joust_device_micro *micro,
                       uint32_t part, uint32_t row, joust_gpu_tape *tape)
{
    joust_gpu_tile *tiles = on_host(tape, tape->io.tiles);
    joust_gpu_key_tile *key_tiles = on_host(tape, tape->io.key_tiles);
    const uint32_t end = part ? row + micro->n[part] : micro->n[0] + micro->n[1] + micro->n[2];
    tape->n_tiles +=
        joust_gpu_tiles_fill(&t->m->config, row, micro->n[part], tiles + tape->n_tiles);
    for (uint32_t i = 0, n; i < micro->n[part]; i += n) {
        const uint32_t in_page = (i + (part ? micro->n[0] : 0)) % PAGE, left = micro->n[part] - i;
        n = left < PAGE - in_page ? left : PAGE - in_page;
        key_tiles[tape->n_key_tiles++] = (joust_gpu_key_tile){.row = row + i, .n = n, .end = end};
    }
}

/* Rows, and the pages that each part sees: the stem's whole ones, then its own, the first of which begins as a copy. */
static void rows_fill(const joust_device_trainer *t, const joust_device_micro *micro,
                      joust_gpu_tape *tape)
{
    uint32_t *tokens = on_host(tape, tape->io.tokens),
             *positions = on_host(tape, tape->io.positions),
             *first_page = on_host(tape, tape->io.first_page), row = 0, n_listed = 0, n_pages = 0;
    void **pages = on_host(tape, tape->io.pages);
    const joust_gpu_widths *w = &t->m->w;
    const uint64_t page = joust_gpu_page_bytes(&t->m->config, w);
    tape->n_forks = tape->n_tiles = tape->n_key_tiles = 0;
    tape->fork = (joust_gpu_fork_args){.n = micro->n[0] % PAGE,
                                       .n_kv_heads = t->m->config.n_kv_heads,
                                       .d_head = t->m->config.d_head};
    for (uint32_t part = 0; part < JOUST_DEVICE_PARTS; part++) {
        const uint32_t own = own_page(micro, part), first = n_listed,
                       n = micro->n[part] ? pages_of(part_end(micro, part)) : 0;
        tiles_fill(t, micro, part, row, tape);
        for (uint32_t i = 0; i < micro->n[part]; i++, row++) {
            tokens[row] = micro->tokens[part][i];
            positions[row] = part ? micro->n[0] + i : i;
            first_page[row] = first;
        }
        for (uint32_t i = 0; i < n; i++)
            pages[n_listed++] = i < own ? pages[i] : tape->pages + page * n_pages++;
        if (part && n && tape->fork.n) {
            tape->fork.from[tape->n_forks] = pages[own];
            tape->fork.to[tape->n_forks++] = pages[first + own];
        }
    }
    tape->n = row;
    tape->branch[0] = micro->n[0];
    tape->branch[1] = micro->n[0] + micro->n[1];
}

static void asks_fill(const joust_device_micro *micro, joust_gpu_tape *tape)
{
    uint32_t *which = on_host(tape, tape->io.which), *slot = on_host(tape, tape->io.slot),
             *target = on_host(tape, tape->io.target), n_slots = 0;
    joust_gpu_pick_item *picks = on_host(tape, tape->io.picks);
    tape->n_picks = 0;
    for (uint32_t i = 0, first = 0, n; i < micro->n_wanted; i++, first += n) {
        n = picks_of(micro, i, first);
        which[i] = micro->wanted[i];
        slot[i] = n > 1 ? n_slots++ : JOUST_GPU_NONE;
        target[i] = n == 1 ? micro->picks[first].token : JOUST_GPU_NONE;
        for (uint32_t k = 0; n > 1 && k < n; k++)
            picks[tape->n_picks++] =
                (joust_gpu_pick_item){.slot = slot[i], .token = micro->picks[first + k].token};
    }
    tape->n_wanted = micro->n_wanted;
}

static int by_size(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

/* The rows of each token, in order: what its row of the embedding's gradient is summed over. */
static joust_status order_fill(joust_gpu_tape *tape, joust_error *err)
{
    const uint32_t *tokens = on_host(tape, tape->io.tokens);
    uint32_t *order = on_host(tape, tape->io.order);
    joust_gpu_token_rows *distinct = on_host(tape, tape->io.distinct);
    uint64_t *keys = joust_calloc(tape->n, sizeof(*keys));
    if (!keys)
        return joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    for (uint32_t i = 0; i < tape->n; i++)
        keys[i] = (uint64_t)tokens[i] << 32 | i;
    qsort(keys, tape->n, sizeof(*keys), by_size);
    tape->n_distinct = 0;
    for (uint32_t i = 0; i < tape->n; i++) {
        const uint32_t token = (uint32_t)(keys[i] >> 32);
        order[i] = (uint32_t)keys[i];
        if (tape->n_distinct == 0 || distinct[tape->n_distinct - 1].token != token)
            distinct[tape->n_distinct++] = (joust_gpu_token_rows){.token = token, .first = i};
        distinct[tape->n_distinct - 1].n++;
    }
    joust_free(keys);
    return JOUST_OK;
}

/* ---- the forward pass ------------------------------------------------------------------------ */

joust_gpu_flow joust_gpu_tape_flow(joust_device_trainer *t, uint32_t n, joust_error *err)
{
    return (joust_gpu_flow){.m = t->m,
                            .g = t->m->device->gpu,
                            .adapter = t->adapter,
                            .bf16 = t->m->device->gpu->precision == JOUST_PRECISION_BF16,
                            .n = n,
                            .err = err};
}

joust_gpu_rows joust_gpu_tape_rows(const joust_gpu_tape *tape, uint32_t layer, uint32_t n_layers)
{
    const joust_gpu_kept *k = &tape->kept[tape->rooms.recompute ? 0 : layer];
    return (joust_gpu_rows){.x = tape->kept[layer].x,
                            .qkv = k->qkv,
                            .x_mid = k->x_mid,
                            .gate_up = k->gate_up,
                            .x_out = layer + 1 < n_layers ? tape->kept[layer + 1].x : tape->x_last,
                            .raw = k->raw,
                            .stats = k->stats,
                            .normed = k->normed,
                            .mixed = k->mixed,
                            .normed_ff = k->normed_ff,
                            .hidden = k->hidden,
                            .low = {k->low[0], k->low[1], k->low[2], k->low[3]},
                            .low_sums = tape->low_sums,
                            .at = {.pages = on_device(tape, tape->io.pages),
                                   .first_page = on_device(tape, tape->io.first_page),
                                   .positions = on_device(tape, tape->io.positions),
                                   .tiles = on_device(tape, tape->io.tiles),
                                   .n_tiles = tape->n_tiles},
                            .fork = &tape->fork,
                            .n_forks = tape->n_forks};
}

static void head_run(joust_gpu_flow *f, const joust_gpu_tape *tape)
{
    const joust_gpu_head head = {.x = tape->x_last,
                                 .which = on_device(tape, tape->io.which),
                                 .slot = on_device(tape, tape->io.slot),
                                 .target = on_device(tape, tape->io.target),
                                 .normed = tape->normed,
                                 .partial = tape->partial,
                                 .sums = tape->sums,
                                 .picked = tape->picked,
                                 .logits = tape->logits,
                                 .picks = on_device(tape, tape->io.picks),
                                 .n = tape->n_wanted,
                                 .n_picks = tape->n_picks};
    joust_gpu_flow_head(f, &head);
}

/* What came back, to who asked. */
static joust_status results_take(joust_device_trainer *t, const joust_device_micro *micro,
                                 joust_error *err)
{
    joust_gpu *g = t->m->device->gpu;
    const joust_gpu_tape *tape = &t->tape;
    const joust_gpu_pick_item *picks = on_host(tape, tape->io.picks);
    float *picked = joust_calloc(micro->n_wanted, sizeof(*picked));
    joust_status st =
        picked ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "GPU: out of memory on the host");
    if (!st)
        st = g->get(g, micro->ret_sums, tape->sums, 2 * (uint64_t)micro->n_wanted * sizeof(float),
                    err);
    if (!st)
        st = g->get(g, picked, tape->picked, micro->n_wanted * sizeof(float), err);
    if (!st && tape->n_picks)
        st = g->get(g, on_host(tape, tape->io.picks), on_device(tape, tape->io.picks),
                    tape->n_picks * sizeof(*picks), err);
    for (uint32_t i = 0, first = 0, n; i < micro->n_wanted && !st; i++, first += n) {
        n = picks_of(micro, i, first);
        for (uint32_t k = 0; k < n; k++)
            micro->picks[first + k].x = n > 1 ? (picks++)->x : picked[i];
    }
    joust_free(picked);
    return st;
}

joust_status joust_gpu_train_forward(joust_device_trainer *t, const joust_device_micro *micro,
                                     joust_error *err)
{
    joust_gpu *g = t->m->device->gpu;
    joust_gpu_tape *tape = &t->tape;
    const joust_gpu_tape_rooms rooms = rooms_of(micro);
    const uint32_t n_layers = t->m->config.n_layers;
    if (rooms.rows > JOUST_GPU_TAPE_ROWS)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "GPU: a training row of %u tokens, at most %u: shorten it, or use "
                          "--device cpu",
                          rooms.rows, JOUST_GPU_TAPE_ROWS);
    joust_status st = joust_gpu_tape_reserve(t, &rooms, err);
    if (st)
        return st;
    rows_fill(t, micro, tape);
    asks_fill(micro, tape);
    st = order_fill(tape, err);
    if (!st)
        st = g->put(g, tape->device, tape->host, tape->io.n_bytes, err);
    joust_gpu_flow f = joust_gpu_tape_flow(t, tape->n, err);
    f.status = st;
    joust_gpu_flow_embed(&f, on_device(tape, tape->io.tokens), tape->kept[0].x);
    for (uint32_t i = 0; i < n_layers; i++) {
        const joust_gpu_rows rows = joust_gpu_tape_rows(tape, i, n_layers);
        joust_gpu_flow_layer(&f, i, &rows);
    }
    head_run(&f, tape);
    return f.status ? f.status : results_take(t, micro, err);
}

/* ---- entropies ------------------------------------------------------------------------------- */

void joust_gpu_tape_logits(joust_gpu_flow *f, const joust_gpu_tape *tape, uint32_t first,
                           uint32_t n)
{
    const joust_gpu_widths *w = &f->m->w;
    const unsigned char *head = f->m->ends.head;
    joust_gpu_flow_multiply(f, tape->normed, head + (uint64_t)first * w->d_ld * w->store_bytes,
                            tape->chunk, tape->n_wanted, n, w->d, w->d_ld, false);
}

joust_status joust_gpu_train_entropies(joust_device_trainer *t, const joust_device_micro *micro,
                                       const float *sums, double *ret_entropies, joust_error *err)
{
    joust_gpu *g = t->m->device->gpu;
    const joust_gpu_tape *tape = &t->tape;
    const uint32_t n_out = t->m->w.n_out;
    joust_gpu_flow f = joust_gpu_tape_flow(t, tape->n, err);
    memset(ret_entropies, 0, micro->n_wanted * sizeof(*ret_entropies));
    f.status = g->put(g, tape->entropies, ret_entropies, micro->n_wanted * sizeof(double), err);
    if (!f.status)
        f.status = g->put(g, tape->sums, sums, 2 * (uint64_t)micro->n_wanted * sizeof(float), err);
    for (uint32_t first = 0; first < n_out; first += JOUST_GPU_LOGITS) {
        const joust_gpu_entropy_args args = {
            .x = tape->chunk,
            .sums = tape->sums,
            .entropies = tape->entropies,
            .n = n_out - first < JOUST_GPU_LOGITS ? n_out - first : JOUST_GPU_LOGITS};
        joust_gpu_tape_logits(&f, tape, first, args.n);
        joust_gpu_flow_run(&f, JOUST_GPU_entropy, tape->n_wanted, 1, &args);
    }
    return f.status
               ? f.status
               : g->get(g, ret_entropies, tape->entropies, micro->n_wanted * sizeof(double), err);
}
