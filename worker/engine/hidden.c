/* Hidden states and scores: each thread takes one request after the other and computes its rows a pass at a time. */
#include "worker/engine/hidden.h"

#include <math.h> /* isfinite */
#include <pthread.h>
#include <string.h>

#include "forward_internal.h"
#include "hidden_internal.h"

typedef struct reading {
    joust_engine *engine;
    joust_model *model;
    const joust_hidden_request *requests;
    uint32_t n_requests;
    joust_step_fn *step;
    void *context;

    pthread_mutex_t lock; /* guards the rest */
    uint32_t next;
    uint64_t n_tokens;
    joust_status status;
    joust_error error;
} reading;

static void reading_fail(reading *g, joust_status st, const joust_error *error)
{
    pthread_mutex_lock(&g->lock);
    if (!g->status) {
        g->status = st;
        g->error = *error;
    }
    pthread_mutex_unlock(&g->lock);
}

static const joust_hidden_request *request_next(reading *g)
{
    pthread_mutex_lock(&g->lock);
    bool any = !g->status && g->next < g->n_requests;
    const joust_hidden_request *r = any ? &g->requests[g->next++] : NULL;
    pthread_mutex_unlock(&g->lock);
    return r;
}

/* Tells how far the work is; the calling thread only. */
static joust_status progress(reading *g, uint32_t thread, uint32_t n, joust_error *err)
{
    pthread_mutex_lock(&g->lock);
    uint64_t n_tokens = g->n_tokens += n;
    pthread_mutex_unlock(&g->lock);
    return thread == 0 && g->step ? g->step(g->context, n_tokens, err) : JOUST_OK;
}

bool joust_hidden_wants(const joust_hidden_request *r, uint32_t row)
{
    return ((r->ret_states || r->ret_scores) && row >= r->first) ||
           (r->ret_score && row + 1 == r->n);
}

/* Lists the rows that fit, from `done` on; returns the first that isn't listed. */
static uint32_t rows_list(joust_pass *pass, const joust_hidden_request *r, joust_kv *kv,
                          uint32_t done)
{
    while (done < r->n && pass->n < pass->room) {
        pass->rows[pass->n++] = (joust_row){.token = r->tokens[done],
                                            .position = done,
                                            .own = kv,
                                            .wants_logits = joust_hidden_wants(r, done)};
        done++;
    }
    return done;
}

joust_status joust_score_check(float score, joust_error *err)
{
    return isfinite(score)
               ? JOUST_OK
               : joust_fail(err, JOUST_NOT_FINITE, "the scalar head's output is not finite");
}

/* The scalar head's output for n normed rows. */
static joust_status rows_score(joust_pass *pass, const float *normed, uint32_t n, float *ret,
                               joust_error *err)
{
    const joust_forward *f = &pass->forward;
    joust_forward_multiply(f, normed, f->w.d_ld, n, &f->model->head_pack, pass->logits,
                           f->w.vocab_ld, false);
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < n && !st; i++) {
        ret[i] = pass->logits[(size_t)i * f->w.vocab_ld];
        st = joust_score_check(ret[i], err);
    }
    return st;
}

/* Takes what the wanted rows gave, which are the last ones up to row last - 1. */
static joust_status rows_use(joust_pass *pass, const joust_hidden_request *r, uint32_t n_wanted,
                             uint32_t last, joust_error *err)
{
    const joust_forward *f = &pass->forward;
    const uint32_t d = f->model->config.d_model;
    if (n_wanted == 0)
        return JOUST_OK;
    joust_forward_norm(f, pass->a.x, n_wanted, pass->a.normed, pass->a.norm_r);
    for (uint32_t i = 0; r->ret_states && i < n_wanted; i++) {
        uint32_t row = last - n_wanted + i; /* wanted rows are the last ones of a pass */
        if (row >= r->first)
            memcpy(r->ret_states + (size_t)(row - r->first) * d,
                   pass->a.normed + (size_t)i * f->w.d_ld, d * sizeof(float));
    }
    joust_status st = JOUST_OK;
    if (r->ret_scores)
        st = rows_score(pass, pass->a.normed, n_wanted,
                        r->ret_scores + (last - n_wanted - r->first), err);
    if (st || !r->ret_score || last < r->n)
        return st;
    return rows_score(pass, pass->a.normed + (size_t)(n_wanted - 1) * f->w.d_ld, 1, r->ret_score,
                      err);
}

static joust_status request_read(reading *g, uint32_t thread, joust_pass *pass,
                                 const joust_hidden_request *r, joust_error *err)
{
    joust_kv kv;
    joust_status st = joust_kv_init(&kv, g->model, r->n, g->model->config.n_layers, err);
    for (uint32_t done = 0; !st && done < r->n;) {
        uint32_t last = rows_list(pass, r, &kv, done);
        st = rows_use(pass, r, joust_pass_layers(pass), last, err);
        if (!st)
            st = progress(g, thread, last - done, err);
        done = last;
    }
    joust_kv_fini(&kv);
    return st;
}

static void reading_thread(void *context, uint32_t thread)
{
    reading *g = context;
    joust_error error = {0};
    joust_pass *pass = NULL;
    const joust_hidden_request *r;
    joust_status st = joust_pass_create(g->engine, g->model, JOUST_PASS_ROWS, &pass, &error);
    while (!st && (r = request_next(g)))
        st = request_read(g, thread, pass, r, &error);
    joust_pass_free(&pass);
    if (st)
        reading_fail(g, st, &error);
}

static joust_status request_check(const joust_model_config *c, const joust_hidden_request *r,
                                  joust_error *err)
{
    if (r->n == 0 || r->n > c->context)
        return joust_fail(err, JOUST_INVALID, "%u tokens, must be from 1 to the context of %u",
                          r->n, c->context);
    if ((r->ret_states || r->ret_scores) && r->first >= r->n)
        return joust_fail(err, JOUST_INVALID, "first is %u, must be below %u", r->first, r->n);
    if ((r->ret_score || r->ret_scores) && !c->scalar_head)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "%s has no scalar head; a reward model is a ...ForSequenceClassification "
                          "with num_labels 1",
                          c->architecture);
    return joust_model_check_tokens(c, "token", r->tokens, r->n, err);
}

joust_status joust_hidden(joust_engine *engine, joust_model *model,
                          const joust_hidden_request *requests, uint32_t n_requests,
                          joust_step_fn *step, void *context, joust_error *err)
{
    reading g = {.engine = engine,
                 .model = model,
                 .requests = requests,
                 .n_requests = n_requests,
                 .step = step,
                 .context = context};
    for (uint32_t i = 0; i < n_requests; i++) {
        joust_status st = request_check(&model->config, &requests[i], err);
        if (st)
            return joust_blame(err, st, "hidden states, request %u", i);
    }
    if (engine->api)
        return joust_hidden_device(engine, model, requests, n_requests, step, context, err);
    joust_status st = joust_model_prepare(engine, model, err);
    if (st)
        return st;
    pthread_mutex_init(&g.lock, NULL);
    joust_pool_run(engine->pool, reading_thread, &g);
    pthread_mutex_destroy(&g.lock);
    if (g.status && err)
        *err = g.error;
    return g.status;
}
