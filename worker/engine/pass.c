/* Passes over rows of any sequences, by a thread alone or by all together. */
#include <assert.h>
#include <string.h>

#include "forward_internal.h"
#include "proto/base/alloc.h"

/* A pass is shared where a thread has no more rows than these, and the weights leave its cache
 * between steps. */
#define SHARED_PASS_ROWS    16u
#define SHARED_PASS_WEIGHTS (UINT64_C(1) << 20)

/* The longest row of s (x A'). */
static uint32_t low_ld(const joust_model *m)
{
    uint32_t n = 0;
    for (uint32_t i = 0; m->lora && i < JOUST_N_PRODUCTS; i++)
        if (m->lora->products[i].low_ld > n)
            n = m->lora->products[i].low_ld;
    return n;
}

joust_status joust_pass_create(const joust_engine *engine, const joust_model *m, uint32_t room,
                               joust_pass **ret, joust_error *err)
{
    assert(room >= 1 && room <= JOUST_PASS_ROWS);
    room = joust_lanes_up(room);
    joust_pass *pass = joust_calloc(1, sizeof(*pass));
    if (!pass)
        return joust_fail(err, JOUST_NOMEM, "forward pass: out of memory");
    pass->room = room;
    joust_status st = joust_forward_init(&pass->forward, engine, m, err);
    const joust_widths w = pass->forward.w;
    joust_activations *a = &pass->a;
    const struct {
        float **place;
        size_t ld;
    } parts[] = {{&a->x, w.d_ld},         {&a->normed, w.d_ld},        {&a->qkv, w.qkv_ld},
                 {&a->mixed, w.query_ld}, {&a->gate_up, w.gate_up_ld}, {&a->hidden, w.ff_ld},
                 {&a->norm_r, 1},         {&pass->logits, w.vocab_ld}, {&a->low[0], low_ld(m)}};
    const size_t n_parts = sizeof(parts) / sizeof(*parts);
    size_t size = 0;
    for (size_t i = 0; i < n_parts; i++)
        size += parts[i].ld * room;
    if (!st) {
        pass->block = joust_calloc_aligned(size, sizeof(float));
        if (!pass->block)
            st = joust_fail(err, JOUST_NOMEM, "forward pass: no memory for %u rows", room);
    }
    if (st) {
        joust_pass_free(&pass);
        return st;
    }
    float *at = pass->block;
    for (size_t i = 0; i < n_parts; i++) {
        *parts[i].place = at;
        at += parts[i].ld * room;
    }
    a->low[1] = a->low[2] = a->low[3] = a->low[0];
    a->x_mid = a->x_out = a->x;
    a->normed_ff = a->normed;
    a->norm_ff_r = a->norm_r;
    *ret = pass;
    return JOUST_OK;
}

joust_status joust_pass_create_list(joust_pass **ret, joust_error *err)
{
    *ret = joust_calloc(1, sizeof(**ret));
    if (!*ret)
        return joust_fail(err, JOUST_NOMEM, "forward pass: out of memory");
    (*ret)->room = JOUST_PASS_ROWS;
    return JOUST_OK;
}

void joust_pass_free(joust_pass **pass)
{
    if (*pass) {
        joust_forward_fini(&(*pass)->forward);
        joust_free_aligned((*pass)->block);
        joust_free(*pass);
    }
    *pass = NULL;
}

/* The rows that want logits, moved to the front of x. */
static uint32_t wanted_gather(joust_pass *pass)
{
    const size_t ld = pass->forward.w.d_ld;
    uint32_t n = 0;
    for (uint32_t r = 0; r < pass->n; r++)
        if (pass->rows[r].wants_logits) {
            if (n < r)
                memcpy(pass->a.x + n * ld, pass->a.x + r * ld, ld * sizeof(float));
            n++;
        }
    return n;
}

uint32_t joust_pass_layers(joust_pass *pass)
{
    const joust_forward *f = &pass->forward;
    joust_forward_embed(f, pass->rows, pass->n, pass->a.x);
    for (uint32_t layer = 0; layer < f->model->config.n_layers; layer++)
        joust_forward_layer(f, layer, pass->rows, pass->n, &pass->a);
    const uint32_t n_wanted = wanted_gather(pass);
    pass->n = 0;
    return n_wanted;
}

void joust_pass_run(joust_pass *pass)
{
    uint32_t n = joust_pass_layers(pass);
    joust_forward_head(&pass->forward, pass->a.x, n, pass->a.normed, pass->a.norm_r, pass->logits);
}

joust_status joust_pass_share(joust_pass *pass, const joust_engine *engine, joust_error *err)
{
    joust_forward *f = &pass->forward;
    const uint32_t n = joust_pool_threads(engine->pool) - 1;
    if (pass->pool || n == 0)
        return JOUST_OK;
    if (!f->helpers)
        f->helpers = joust_calloc(n, sizeof(*f->helpers));
    joust_status st =
        f->helpers ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "forward pass: out of memory");
    for (; f->n_helpers < n && !st; f->n_helpers += !st)
        st = joust_forward_init(&f->helpers[f->n_helpers], engine, f->model, err);
    if (!st)
        pass->pool = engine->pool;
    return st;
}

void joust_pass_run_shared(joust_pass *pass)
{
    pass->forward.pool = pass->pool;
    joust_pass_run(pass);
    pass->forward.pool = NULL;
}

bool joust_pass_worth_sharing(const joust_engine *engine, const joust_model *m, uint32_t n_rows,
                              uint32_t n_passes)
{
    const uint32_t n_threads = joust_pool_threads(engine->pool);
    if (n_threads == 1 || n_rows > JOUST_PASS_ROWS || m->n_packed < SHARED_PASS_WEIGHTS)
        return false;
    return n_passes < n_threads || n_rows <= SHARED_PASS_ROWS * n_threads;
}
