/* Forced likelihood: each thread takes requests, computes rows of several together, and writes the
 * log-probabilities where the caller wants them. */
#include <pthread.h>

#include "forward_internal.h"
#include "proto/base/alloc.h"
#include "sampler_internal.h"
#include "worker/engine/generate.h"

typedef struct scoring {
    joust_engine *engine;
    joust_model *model;
    joust_score_request *requests;
    uint32_t n_requests;
    joust_step_fn *step;
    void *context;
    uint64_t cache_bytes; /* of a thread */

    pthread_mutex_t lock; /* guards the rest */
    uint32_t next;
    uint64_t n_tokens;
    joust_status status;
    joust_error error;
} scoring;

/* A request at work. */
typedef struct scored {
    joust_score_request *request;
    joust_kv kv;
    uint32_t n_computed, n_rows; /* tokens; tokens that must be */
} scored;

/* A row of a pass whose logits are wanted: after tokens[0 .. position]. */
typedef struct wanted {
    joust_score_request *request;
    uint32_t position;
} wanted;

typedef struct scorer {
    scoring *g;
    joust_pass *pass;
    scored at_work[JOUST_PASS_ROWS];
    uint32_t n_at_work;
    wanted wanted[JOUST_PASS_ROWS];
    uint32_t n_wanted;
    uint64_t used_bytes;
} scorer;

/* The last token is computed only if something is asked after it. */
static uint32_t rows_of(const joust_score_request *r)
{
    if (r->n_next)
        return r->n;
    return r->first < r->n ? r->n - 1 : 0;
}

static uint64_t bytes_of(const scoring *g, const joust_score_request *r)
{
    return joust_kv_bytes(g->model, rows_of(r), g->model->config.n_layers);
}

static bool wants_logits(const joust_score_request *r, uint32_t position)
{
    return position + 1 < r->n ? position + 1 >= r->first : r->n_next > 0;
}

/* The next request, if there is one and room for it. */
static joust_score_request *request_next(scorer *t)
{
    scoring *g = t->g;
    joust_score_request *r = NULL;
    pthread_mutex_lock(&g->lock);
    if (!g->status && g->next < g->n_requests &&
        (t->n_at_work == 0 || t->used_bytes + bytes_of(g, &g->requests[g->next]) <= g->cache_bytes))
        r = &g->requests[g->next++];
    pthread_mutex_unlock(&g->lock);
    return r;
}

/* Lists what fits of a request's rows. */
static void rows_list(scorer *t, scored *s)
{
    while (s->n_computed < s->n_rows && t->pass->n < JOUST_PASS_ROWS) {
        uint32_t at = s->n_computed++;
        bool wants = wants_logits(s->request, at);
        t->pass->rows[t->pass->n++] = (joust_row){
            .token = s->request->tokens[at], .position = at, .own = &s->kv, .wants_logits = wants};
        if (wants)
            t->wanted[t->n_wanted++] = (wanted){s->request, at};
    }
}

static joust_status pass_fill(scorer *t, joust_error *err)
{
    t->n_wanted = 0;
    for (uint32_t i = 0; i < t->n_at_work; i++)
        rows_list(t, &t->at_work[i]);
    joust_score_request *r;
    while (t->pass->n < JOUST_PASS_ROWS && t->n_at_work < JOUST_PASS_ROWS &&
           (r = request_next(t))) {
        if (rows_of(r) == 0)
            continue;
        scored *s = &t->at_work[t->n_at_work];
        *s = (scored){.request = r, .n_rows = rows_of(r)};
        joust_status st =
            joust_kv_init(&s->kv, t->g->model, s->n_rows, t->g->model->config.n_layers, err);
        if (st)
            return st;
        t->n_at_work++;
        t->used_bytes += bytes_of(t->g, r);
        rows_list(t, s);
    }
    return JOUST_OK;
}

static joust_status logits_use(scorer *t, joust_error *err)
{
    const uint32_t n = t->g->model->config.vocab_size, ld = joust_lanes_up(n);
    for (uint32_t i = 0; i < t->n_wanted; i++) {
        const float *logits = t->pass->logits + (size_t)i * ld;
        joust_score_request *r = t->wanted[i].request;
        uint32_t after = t->wanted[i].position + 1;
        joust_log_sum sum = t->g->engine->kernels->log_sum(logits, n);
        joust_status st = joust_log_sum_check(sum, err);
        if (st)
            return st;
        if (after < r->n)
            r->ret_logps[after - r->first] = joust_logp(logits, sum, r->tokens[after]);
        else
            for (uint32_t k = 0; k < r->n_next; k++)
                r->ret_next_logps[k] = joust_logp(logits, sum, r->next[k]);
    }
    return JOUST_OK;
}

static void drop_finished(scorer *t)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < t->n_at_work; i++) {
        scored *s = &t->at_work[i];
        if (s->n_computed < s->n_rows) {
            t->at_work[n++] = *s;
        } else {
            t->used_bytes -= bytes_of(t->g, s->request);
            joust_kv_fini(&s->kv);
        }
    }
    t->n_at_work = n;
}

static joust_status scorer_run(scorer *t, uint32_t thread, joust_error *err)
{
    for (;;) {
        joust_status st = pass_fill(t, err);
        uint32_t n = t->pass->n;
        if (st || n == 0)
            return st;
        joust_pass_run(t->pass);
        st = logits_use(t, err);
        drop_finished(t);
        pthread_mutex_lock(&t->g->lock);
        uint64_t n_tokens = t->g->n_tokens += n;
        bool failed = t->g->status != JOUST_OK;
        pthread_mutex_unlock(&t->g->lock);
        if (!st && thread == 0 && t->g->step)
            st = t->g->step(t->g->context, n_tokens, err);
        if (st || failed)
            return st;
    }
}

static void scoring_thread(void *context, uint32_t thread)
{
    scoring *g = context;
    joust_error error = {0};
    scorer *t = joust_calloc(1, sizeof(*t));
    joust_status st = t ? joust_pass_create(g->engine, g->model, &t->pass, &error)
                        : joust_fail(&error, JOUST_NOMEM, "scoring: out of memory");
    if (t)
        t->g = g;
    if (!st)
        st = scorer_run(t, thread, &error);
    for (uint32_t i = 0; t && i < t->n_at_work; i++)
        joust_kv_fini(&t->at_work[i].kv);
    if (t)
        joust_pass_free(&t->pass);
    joust_free(t);
    pthread_mutex_lock(&g->lock);
    if (st && !g->status) {
        g->status = st;
        g->error = error;
    }
    pthread_mutex_unlock(&g->lock);
}

static joust_status request_check(const scoring *g, uint32_t i, joust_error *err)
{
    const joust_score_request *r = &g->requests[i];
    const joust_model_config *c = &g->model->config;
    if (r->n == 0 || r->n > c->context)
        return joust_fail(err, JOUST_INVALID,
                          "score request %u: %u tokens, must be from 1 to the context of %u", i,
                          r->n, c->context);
    if (r->first < 1 || r->first > r->n)
        return joust_fail(err, JOUST_INVALID, "score request %u: first is %u, must be from 1 to %u",
                          i, r->first, r->n);
    joust_status st = joust_model_check_language(c, "scoring", err);
    if (!st)
        st = joust_model_check_tokens(c, "token", r->tokens, r->n, err);
    if (!st)
        st = joust_model_check_tokens(c, "next token", r->next, r->n_next, err);
    if (st)
        return joust_blame(err, st, "score request %u", i);
    if (bytes_of(g, r) > g->cache_bytes)
        return joust_fail(
            err, JOUST_NOMEM,
            "score request %u: %u tokens need %llu bytes of cache, a thread has %llu: raise "
            "cache_bytes",
            i, r->n, (unsigned long long)bytes_of(g, r), (unsigned long long)g->cache_bytes);
    return JOUST_OK;
}

joust_status joust_score(joust_engine *engine, joust_model *model, joust_score_request *requests,
                         uint32_t n_requests, joust_step_fn *step, void *context, joust_error *err)
{
    scoring g = {.engine = engine,
                 .model = model,
                 .requests = requests,
                 .n_requests = n_requests,
                 .step = step,
                 .context = context,
                 .cache_bytes = engine->cache_bytes / joust_engine_threads(engine)};
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < n_requests && !st; i++)
        st = request_check(&g, i, err);
    if (!st)
        st = joust_model_prepare(engine, model, err);
    if (st)
        return st;
    pthread_mutex_init(&g.lock, NULL);
    joust_pool_run(engine->pool, scoring_thread, &g);
    pthread_mutex_destroy(&g.lock);
    if (g.status && err)
        *err = g.error;
    return g.status;
}
