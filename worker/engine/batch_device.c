/* A batch's step on a device: the lanes' rows become one pass, what they want of it one list; when it is done each lane
 * uses its part, as it would its logits.
 *
 *   sample at work        one draw, or its logits where the device doesn't know its rules (penalties, guides, top-k ...)
 *   end of a prompt       a draw a sample, or its logits
 *   forced token, score   the logits of given tokens */
#include <string.h>

#include "batch_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/log.h"

#define N_LANES  (JOUST_DEVICE_PASS_ROWS / JOUST_PASS_ROWS)
#define MIN_ROWS 16u /* a pass isn't cut below */

typedef joust_batch_state batch;

struct joust_device_lists {
    joust_device_row rows[JOUST_DEVICE_PASS_ROWS];
    joust_device_wanted wanted[JOUST_DEVICE_PASS_ROWS];
    bool keeps[JOUST_DEVICE_PASS_ROWS]; /* of a wanted row: its logits come here */
    joust_device_pass pass;
    size_t draw_room, pick_room;
    float *logits;
    uint32_t n_logits_room; /* rows */
};

typedef struct joust_device_lists lists;

/* ---- life ------------------------------------------------------------------------------------ */

joust_status joust_batch_device_create(batch *b, joust_error *err)
{
    joust_status st = JOUST_OK;
    b->lists = joust_calloc(1, sizeof(*b->lists));
    b->lanes = joust_calloc(N_LANES, sizeof(*b->lanes));
    if (!b->lists || !b->lanes)
        return joust_fail(err, JOUST_NOMEM, "batch: out of memory");
    b->n_lanes = N_LANES;
    for (uint32_t i = 0; i < N_LANES && !st; i++) {
        b->lanes[i].model = b->model;
        st = joust_pass_create_list(&b->lanes[i].pass, err);
        if (!st)
            st = joust_sampler_init(&b->lanes[i].sampler, b->engine->kernels,
                                    b->model->config.vocab_size, err);
    }
    return st;
}

void joust_batch_device_free(batch *b)
{
    if (!b->lists)
        return;
    joust_free(b->lists->pass.draws);
    joust_free(b->lists->pass.picks);
    joust_free_aligned(b->lists->logits);
    joust_free(b->lists);
    b->lists = NULL;
}

/* ---- what is asked --------------------------------------------------------------------------- */

static joust_status draw_add(lists *l, uint32_t wanted, const joust_generate_request *r,
                             uint32_t sample, uint32_t n, joust_error *err)
{
    const float t = r->sampling.temperature;
    if (!joust_grow(&l->pass.draws, l->pass.n_draws, &l->draw_room, sizeof(*l->pass.draws)))
        return joust_fail(err, JOUST_NOMEM, "batch: no memory for %u draws", l->pass.n_draws);
    l->pass.draws[l->pass.n_draws++] =
        (joust_device_draw){.wanted = wanted,
                            .scale = t > 0 ? 1.0f / t : 0,
                            .uniform = joust_stream_float(&r->streams[sample], n),
                            .min_p = r->sampling.min_p};
    return JOUST_OK;
}

static joust_status picks_add(lists *l, uint32_t wanted, const uint32_t *tokens, uint32_t n,
                              joust_error *err)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!joust_grow(&l->pass.picks, l->pass.n_picks, &l->pick_room, sizeof(*l->pass.picks)))
            return joust_fail(err, JOUST_NOMEM, "batch: no memory for %u scores", l->pass.n_picks);
        l->pass.picks[l->pass.n_picks++] =
            (joust_device_pick){.wanted = wanted, .token = tokens[i]};
    }
    return JOUST_OK;
}

/* Samples first .. end - 1 of a group draw response token n. */
static joust_status draws_ask(batch *b, uint32_t wanted, const joust_group *o, uint32_t first,
                              uint32_t end, uint32_t n, joust_error *err)
{
    joust_status st = JOUST_OK;
    if (!joust_lane_device_draws(&b->model->config, o->request, n)) {
        b->lists->keeps[wanted] = true;
        return JOUST_OK;
    }
    for (uint32_t i = first; i < end && !st; i++)
        st = draw_add(b->lists, wanted, o->request, i, n, err);
    return st;
}

static joust_status row_ask(batch *b, uint32_t wanted, const joust_wanted *w, joust_error *err)
{
    const joust_sequence *s = w->sequence;
    const uint32_t after = w->position + 1;
    if (s->kind == JOUST_SEQUENCE_SAMPLE)
        return draws_ask(b, wanted, s->group, s->sample, s->sample + 1, s->n, err);
    if (s->kind == JOUST_SEQUENCE_PROMPT) {
        const joust_generate_request *r = s->group->request;
        return after == s->n_known
                   ? draws_ask(b, wanted, s->group, 0, r->n_samples, r->n_forced, err)
                   : picks_add(b->lists, wanted, &r->forced[after - s->n_head], 1, err);
    }
    const joust_score_request *r = s->score;
    return after < r->n ? picks_add(b->lists, wanted, &r->tokens[after], 1, err)
                        : picks_add(b->lists, wanted, r->next, r->n_next, err);
}

/* A lane's rows and wanted rows, behind those of the lanes before it. */
static joust_status lane_ask(batch *b, joust_lane *lane, joust_error *err)
{
    lists *l = b->lists;
    joust_device_pass *pass = &l->pass;
    joust_status st = JOUST_OK;
    lane->answers = pass;
    lane->first_wanted = pass->n_wanted;
    lane->next_draw = pass->n_draws;
    lane->next_pick = pass->n_picks;
    for (uint32_t i = 0, k = 0; i < lane->pass->n && !st; i++) {
        const joust_row *row = &lane->pass->rows[i];
        if (row->wants_logits) {
            l->wanted[pass->n_wanted] = (joust_device_wanted){.row = pass->n_rows};
            l->keeps[pass->n_wanted] = false;
            st = row_ask(b, pass->n_wanted++, &lane->wanted[k++], err);
        }
        l->rows[pass->n_rows++] =
            (joust_device_row){.token = row->token, .position = row->position, .pages = row->pages};
    }
    lane->pass->n = 0;
    return st;
}

/* A place for the logits that come here. */
static joust_status logits_place(batch *b, joust_error *err)
{
    lists *l = b->lists;
    const size_t ld = joust_lanes_up(b->model->config.vocab_size);
    uint32_t n = 0;
    for (uint32_t i = 0; i < l->pass.n_wanted; i++)
        n += l->keeps[i];
    if (n > l->n_logits_room) {
        joust_free_aligned(l->logits);
        l->logits = joust_calloc_aligned(n * ld, sizeof(float));
        l->n_logits_room = l->logits ? n : 0;
        if (!l->logits)
            return joust_fail(err, JOUST_NOMEM, "batch: no memory for logits of %u rows", n);
    }
    n = 0;
    for (uint32_t i = 0; i < l->pass.n_wanted; i++)
        if (l->keeps[i])
            l->wanted[i].ret_logits = l->logits + n++ * ld;
    return JOUST_OK;
}

/* ---- running --------------------------------------------------------------------------------- */

/* Where a part of a pass begins in its lists. */
typedef struct part {
    uint32_t row, wanted, draw, pick;
} part;

/* Rows from->row .. end - 1, with what is wanted of them, alone; *from moves behind them. */
static joust_status part_run(batch *b, part *from, uint32_t end, joust_error *err)
{
    const joust_device_pass *all = &b->lists->pass;
    const part at = *from;
    part to = {end, at.wanted, at.draw, at.pick};
    for (; to.wanted < all->n_wanted && all->wanted[to.wanted].row < end; to.wanted++)
        all->wanted[to.wanted].row -= at.row;
    for (; to.draw < all->n_draws && all->draws[to.draw].wanted < to.wanted; to.draw++)
        all->draws[to.draw].wanted -= at.wanted;
    for (; to.pick < all->n_picks && all->picks[to.pick].wanted < to.wanted; to.pick++)
        all->picks[to.pick].wanted -= at.wanted;
    joust_device_pass some = {.rows = all->rows + at.row,
                              .wanted = all->wanted + at.wanted,
                              .draws = all->draws ? all->draws + at.draw : NULL,
                              .picks = all->picks ? all->picks + at.pick : NULL,
                              .n_rows = end - at.row,
                              .n_wanted = to.wanted - at.wanted,
                              .n_draws = to.draw - at.draw,
                              .n_picks = to.pick - at.pick,
                              .without_adapter = joust_model_is_bare(b->model)};
    joust_status st = b->engine->api->run(b->model->on_device, &some, err);
    for (uint32_t i = at.wanted; i < to.wanted; i++)
        all->wanted[i].row += at.row;
    for (uint32_t i = at.draw; i < to.draw; i++)
        all->draws[i].wanted += at.wanted;
    for (uint32_t i = at.pick; i < to.pick; i++)
        all->picks[i].wanted += at.wanted;
    if (!st)
        *from = to;
    return st;
}

/* In parts of as many rows as the device has memory for: half as many after each time that it has not. */
static joust_status pass_run(batch *b, joust_error *err)
{
    joust_engine *e = b->engine;
    const uint32_t n = b->lists->pass.n_rows;
    uint32_t most = e->pass_rows ? e->pass_rows : JOUST_DEVICE_PASS_ROWS;
    for (part at = {0}; at.row < n;) {
        const uint32_t left = n - at.row, now = left < most ? left : most;
        joust_status st = part_run(b, &at, at.row + now, err);
        if (st != JOUST_NOMEM || now <= MIN_ROWS) {
            if (st)
                return st;
            continue;
        }
        e->pass_rows = most = now / 2;
        joust_log_warn("engine", "GPU memory: passes shrink from %u rows to %u", now, most);
    }
    return JOUST_OK;
}

static void lane_use(void *context, uint64_t lane)
{
    joust_lane *l = &((batch *)context)->lanes[lane];
    l->status = joust_lane_use(l, &l->error);
}

joust_status joust_batch_device_run(batch *b, joust_error *err)
{
    lists *l = b->lists;
    joust_status st = JOUST_OK;
    l->pass.n_rows = l->pass.n_wanted = l->pass.n_draws = l->pass.n_picks = 0;
    l->pass.rows = l->rows;
    l->pass.wanted = l->wanted;
    for (uint32_t i = 0; i < b->n_lanes && !st; i++)
        st = lane_ask(b, &b->lanes[i], err);
    if (!st && l->pass.n_rows == 0 && (b->n_active || b->waiting)) /* the budget has shrunk */
        return joust_fail(err, JOUST_NOMEM,
                          "GPU memory: %llu MiB were left for keys and values, and one sequence "
                          "alone needs more: lower "
                          "max_tokens, or use a larger GPU",
                          (unsigned long long)(b->engine->cache_bytes >> 20));
    if (!st)
        st = logits_place(b, err);
    if (!st)
        st = pass_run(b, err);
    if (st)
        return st;
    joust_pool_each(b->engine->pool, b->n_lanes, lane_use, b);
    return joust_batch_lanes_status(b, err);
}
