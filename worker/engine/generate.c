/* Continuous batching. The work is cut into units: a request, or some of its samples where there
 * are fewer requests than threads. A thread takes a unit when it has room, computes the unit's
 * prompt once, lets its samples share those keys and values, and steps all its samples together;
 * threads never wait for each other. Finished samples go to the calling thread, which alone runs
 * the callbacks. Which thread computes what, and beside what, is visible in no bit. */
#include "worker/engine/generate.h"

#include <pthread.h>
#include <string.h>

#include "forward_internal.h"
#include "proto/base/alloc.h"
#include "sampler_internal.h"

#define MAX_ACTIVE                                                                                 \
    96u /* samples that a thread steps together; the other rows of a pass are for prompts */

typedef struct unit {
    uint32_t request, first, n; /* samples first .. first + n - 1 */
} unit;

/* A unit at work. */
typedef struct group {
    unit of;
    const joust_generate_request *request;
    joust_kv prompt;
    uint32_t n_computed;               /* prompt tokens */
    uint32_t n_started, n_live, limit; /* samples; most tokens of each */
    float *logits;                     /* after the prompt */
} group;

typedef struct sample {
    struct sample *next; /* in the list of finished ones */
    group *of;
    uint32_t request, number;
    joust_kv own;
    uint32_t *tokens;
    float *raw_logps, *logps; /* in one block with tokens */
    uint32_t n;
    joust_finish finish;
} sample;

/* What the threads share. */
typedef struct generation {
    joust_engine *engine;
    joust_model *model;
    const joust_generate_request *requests;
    joust_generated_fn *done;
    joust_step_fn *step;
    void *context;
    unit *units;
    uint64_t n_units;
    uint64_t cache_bytes; /* of a thread */

    pthread_mutex_t lock; /* guards the rest */
    pthread_cond_t progress;
    uint64_t next_unit, n_tokens;
    sample *finished, **finished_end;
    uint32_t n_running;
    joust_status status;
    joust_error error;
} generation;

/* One thread's share. */
typedef struct stepper {
    generation *g;
    joust_pass *pass;
    joust_sampler sampler;
    group *groups[JOUST_PASS_ROWS]; /* all that hold memory */
    uint32_t n_groups;
    sample *samples[MAX_ACTIVE];
    uint32_t n_samples;
    group *prompts
        [JOUST_PASS_ROWS]; /* groups whose prompt ends in the pass at work, in order of rows */
    uint32_t n_prompts;
} stepper;

/* ---- what the threads share ------------------------------------------------------------------ */

static void generation_fail(generation *g, joust_status st, const joust_error *error)
{
    pthread_mutex_lock(&g->lock);
    if (!g->status) {
        g->status = st;
        g->error = *error;
    }
    pthread_mutex_unlock(&g->lock);
}

static bool generation_failed(generation *g)
{
    pthread_mutex_lock(&g->lock);
    bool failed = g->status != JOUST_OK;
    pthread_mutex_unlock(&g->lock);
    return failed;
}

/* Takes the next unit, if there is one and room for it beside what the thread holds. */
static bool unit_next(generation *g, uint64_t held, uint64_t (*need)(const generation *, unit),
                      unit *ret)
{
    pthread_mutex_lock(&g->lock);
    bool any = g->next_unit < g->n_units;
    if (any) {
        *ret = g->units[g->next_unit];
        any = held + need(g, *ret) <= g->cache_bytes;
        g->next_unit += any;
    }
    pthread_mutex_unlock(&g->lock);
    return any;
}

static void sample_free(sample *s)
{
    joust_kv_fini(&s->own);
    joust_free(s->tokens);
    joust_free(s);
}

/* Runs the callbacks for what is finished; the calling thread only. */
static void deliver(generation *g)
{
    pthread_mutex_lock(&g->lock);
    sample *list = g->finished;
    g->finished = NULL;
    g->finished_end = &g->finished;
    uint64_t n_tokens = g->n_tokens;
    joust_status st = g->status;
    pthread_mutex_unlock(&g->lock);
    joust_error error = {0};
    while (list) {
        sample *s = list;
        list = s->next;
        const joust_generated result = {s->tokens, s->raw_logps, s->logps, s->n, s->finish};
        if (!st && (st = g->done(g->context, s->request, s->number, &result, &error)))
            generation_fail(g, st, &error);
        sample_free(s);
    }
    if (!st && g->step && (st = g->step(g->context, n_tokens, &error)))
        generation_fail(g, st, &error);
}

/* ---- one thread ------------------------------------------------------------------------------ */

static uint32_t limit_of(const generation *g, const joust_generate_request *r)
{
    uint32_t room = g->model->config.context - r->n_prompt;
    return r->sampling.max_tokens < room ? r->sampling.max_tokens : room;
}

static uint64_t prompt_bytes(const generation *g, const joust_generate_request *r)
{
    return joust_kv_bytes(g->model, r->n_prompt, g->model->config.n_layers) +
           joust_lanes_up(g->model->config.vocab_size) * sizeof(float);
}

static uint64_t own_bytes(const generation *g, const joust_generate_request *r)
{
    return joust_kv_bytes(g->model, limit_of(g, r), g->model->config.n_layers);
}

static uint64_t unit_bytes(const generation *g, unit u) /* to begin it */
{
    const joust_generate_request *r = &g->requests[u.request];
    return prompt_bytes(g, r) + own_bytes(g, r);
}

/* A group holds its prompt, its live samples, and room for one sample as long as some haven't
 * started: so whatever else is at work, each group can go on. */
static uint64_t held_bytes(const stepper *t)
{
    uint64_t held = 0;
    for (uint32_t i = 0; i < t->n_groups; i++) {
        const group *o = t->groups[i];
        uint32_t n = o->n_live ? o->n_live : o->n_started < o->of.n;
        held += prompt_bytes(t->g, o->request) + n * own_bytes(t->g, o->request);
    }
    return held;
}

static bool has_room(const stepper *t, const group *o) /* for one more of its samples */
{
    return o->n_live == 0 || held_bytes(t) + own_bytes(t->g, o->request) <= t->g->cache_bytes;
}

static void group_free(stepper *t, group *o)
{
    for (uint32_t i = 0; i < t->n_groups; i++)
        if (t->groups[i] == o) {
            memmove(&t->groups[i], &t->groups[i + 1], (t->n_groups - i - 1) * sizeof(*t->groups));
            t->n_groups--;
            break;
        }
    joust_kv_fini(&o->prompt);
    joust_free_aligned(o->logits);
    joust_free(o);
}

static joust_status group_start(stepper *t, unit u, joust_error *err)
{
    generation *g = t->g;
    group *o = joust_calloc(1, sizeof(*o));
    if (!o)
        return joust_fail(err, JOUST_NOMEM, "generation: out of memory");
    o->of = u;
    o->request = &g->requests[u.request];
    o->limit = limit_of(g, o->request);
    t->groups[t->n_groups++] = o;
    joust_status st =
        joust_kv_init(&o->prompt, g->model, o->request->n_prompt, g->model->config.n_layers, err);
    if (st)
        return st;
    o->logits = joust_calloc_aligned(joust_lanes_up(g->model->config.vocab_size), sizeof(float));
    return o->logits ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "generation: no memory for logits");
}

/* Takes the sample out of the batch and hands it to the calling thread. */
static void sample_finish(stepper *t, sample *s)
{
    group *o = s->of;
    joust_kv_fini(&s->own);
    if (--o->n_live == 0 && o->n_started == o->of.n)
        group_free(t, o);
    s->of = NULL;
    pthread_mutex_lock(&t->g->lock);
    *t->g->finished_end = s;
    t->g->finished_end = &s->next;
    pthread_mutex_unlock(&t->g->lock);
}

static bool is_end(const joust_model_config *c, uint32_t token)
{
    for (uint32_t i = 0; i < c->n_end_tokens; i++)
        if (c->end_tokens[i] == token)
            return true;
    return false;
}

/* Draws the sample's next token; *ret_live tells whether it goes on. */
static joust_status sample_draw(stepper *t, sample *s, const float *logits, bool *ret_live,
                                joust_error *err)
{
    const joust_generate_request *r = s->of->request;
    joust_draw draw;
    float uniform = joust_stream_float(&r->streams[s->number], s->n);
    joust_status st = joust_sampler_draw(&t->sampler, logits, &r->sampling, uniform, &draw, err);
    if (st)
        return st;
    s->tokens[s->n] = draw.token;
    s->raw_logps[s->n] = draw.raw_logp;
    s->logps[s->n] = draw.logp;
    s->n++;
    bool ended = !r->ignore_end && is_end(&t->g->model->config, draw.token);
    s->finish = ended ? JOUST_FINISH_STOP : JOUST_FINISH_LENGTH;
    *ret_live = !ended && s->n < s->of->limit;
    return JOUST_OK;
}

static joust_status sample_start(stepper *t, group *o, joust_error *err)
{
    sample *s = joust_calloc(1, sizeof(*s));
    if (!s)
        return joust_fail(err, JOUST_NOMEM, "generation: out of memory");
    s->of = o;
    s->request = o->of.request;
    s->number = o->of.first + o->n_started;
    s->tokens = joust_calloc(o->limit, sizeof(*s->tokens) + 2 * sizeof(*s->logps));
    joust_status st =
        s->tokens ? joust_kv_init(&s->own, t->g->model, o->limit, t->g->model->config.n_layers, err)
                  : joust_fail(err, JOUST_NOMEM, "generation: no memory for %u tokens", o->limit);
    bool live = false;
    if (!st) {
        s->raw_logps = (float *)(void *)(s->tokens + o->limit);
        s->logps = s->raw_logps + o->limit;
        st = sample_draw(t, s, o->logits, &live, err);
    }
    if (st) {
        sample_free(s);
        return st;
    }
    o->n_started++;
    o->n_live++;
    if (live)
        t->samples[t->n_samples++] = s;
    else
        sample_finish(t, s);
    return JOUST_OK;
}

static bool prompt_ready(const group *o)
{
    return o->n_computed == o->request->n_prompt;
}

/* Starts the samples there is room for, and takes new units when all of the last one have started.
 * */
static joust_status admit(stepper *t, joust_error *err)
{
    uint32_t n_coming = 0; /* samples that haven't started */
    bool starved = false;  /* some of them for lack of room */
    for (uint32_t i = 0; i < t->n_groups;) {
        group *o = t->groups[i];
        bool gone = false;
        while (!gone && prompt_ready(o) && o->n_started < o->of.n && t->n_samples < MAX_ACTIVE &&
               has_room(t, o)) {
            uint32_t n_groups = t->n_groups;
            joust_status st = sample_start(t, o, err);
            if (st)
                return st;
            gone = t->n_groups < n_groups; /* its last sample ended at once */
        }
        if (gone)
            continue;
        n_coming += o->of.n - o->n_started;
        starved = starved || (prompt_ready(o) && o->n_started < o->of.n);
        i++;
    }
    unit u;
    while (!starved && t->n_samples + n_coming < MAX_ACTIVE && t->n_groups < JOUST_PASS_ROWS &&
           unit_next(t->g, held_bytes(t), unit_bytes, &u)) {
        joust_status st = group_start(t, u, err);
        if (st)
            return st;
        n_coming += u.n;
    }
    return JOUST_OK;
}

/* Lists the rows of the next pass: the samples' newest tokens, then what fits of the prompts. */
static void rows_list(stepper *t)
{
    joust_pass *pass = t->pass;
    for (uint32_t i = 0; i < t->n_samples; i++) {
        sample *s = t->samples[i];
        pass->rows[pass->n++] = (joust_row){.token = s->tokens[s->n - 1],
                                            .position = s->of->request->n_prompt + s->n - 1,
                                            .prefix = &s->of->prompt,
                                            .own = &s->own,
                                            .wants_logits = true};
    }
    t->n_prompts = 0;
    for (uint32_t i = 0; i < t->n_groups; i++) {
        group *o = t->groups[i];
        if (prompt_ready(o))
            continue;
        while (!prompt_ready(o) && pass->n < JOUST_PASS_ROWS) {
            uint32_t at = o->n_computed++;
            pass->rows[pass->n++] = (joust_row){.token = o->request->prompt[at],
                                                .position = at,
                                                .own = &o->prompt,
                                                .wants_logits = prompt_ready(o)};
        }
        if (prompt_ready(o))
            t->prompts[t->n_prompts++] = o;
    }
}

/* After a pass: every sample draws, and the prompts that ended keep their logits. */
static joust_status rows_use(stepper *t, joust_error *err)
{
    const uint32_t ld = joust_lanes_up(t->g->model->config.vocab_size);
    const float *logits = t->pass->logits;
    uint32_t n = t->n_samples, n_live = 0;
    for (uint32_t i = 0; i < t->n_prompts; i++)
        memcpy(t->prompts[i]->logits, logits + (size_t)(n + i) * ld, ld * sizeof(float));
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < n; i++) {
        sample *s = t->samples[i];
        bool live = true;
        if (!st)
            st = sample_draw(t, s, logits + (size_t)i * ld, &live, err);
        if (live)
            t->samples[n_live++] = s;
        else
            sample_finish(t, s);
    }
    t->n_samples = n_live;
    return st;
}

static joust_status stepper_run(stepper *t, uint32_t thread, joust_error *err)
{
    generation *g = t->g;
    while (!generation_failed(g)) {
        joust_status st = admit(t, err);
        if (st)
            return st;
        rows_list(t);
        if (t->pass->n == 0 && t->n_groups == 0)
            return JOUST_OK;
        uint32_t n = t->pass->n;
        joust_pass_run(t->pass);
        st = rows_use(t, err);
        if (st)
            return st;
        pthread_mutex_lock(&g->lock);
        g->n_tokens += n;
        pthread_cond_signal(&g->progress);
        pthread_mutex_unlock(&g->lock);
        if (thread == 0)
            deliver(g);
    }
    return JOUST_OK;
}

static void stepper_fini(stepper *t)
{
    for (uint32_t i = 0; i < t->n_samples; i++)
        sample_free(t->samples[i]);
    while (t->n_groups)
        group_free(t, t->groups[t->n_groups - 1]);
    joust_sampler_fini(&t->sampler);
    joust_pass_free(&t->pass);
}

static void generation_thread(void *context, uint32_t thread)
{
    generation *g = context;
    joust_error error = {0};
    stepper t = {.g = g};
    joust_status st = joust_pass_create(g->engine, g->model, &t.pass, &error);
    if (!st)
        st =
            joust_sampler_init(&t.sampler, g->engine->kernels, g->model->config.vocab_size, &error);
    if (!st)
        st = stepper_run(&t, thread, &error);
    stepper_fini(&t);
    if (st)
        generation_fail(g, st, &error);
    pthread_mutex_lock(&g->lock);
    g->n_running--;
    pthread_cond_signal(&g->progress);
    pthread_mutex_unlock(&g->lock);
    while (thread == 0) { /* the others' results, until the last */
        pthread_mutex_lock(&g->lock);
        if (g->n_running && !g->finished)
            pthread_cond_wait(&g->progress, &g->lock);
        bool ended = g->n_running == 0;
        pthread_mutex_unlock(&g->lock);
        deliver(g);
        if (ended)
            break;
    }
}

/* ---- the call -------------------------------------------------------------------------------- */

static joust_status request_check(const generation *g, uint32_t i, joust_error *err)
{
    const joust_generate_request *r = &g->requests[i];
    const joust_model_config *c = &g->model->config;
    if (r->n_prompt == 0 || r->n_prompt >= c->context)
        return joust_fail(err, JOUST_INVALID,
                          "generation request %u: a prompt of %u tokens, must be from 1 to %u (the "
                          "context is %u)",
                          i, r->n_prompt, c->context - 1, c->context);
    joust_status st = joust_model_check_language(c, "generation", err);
    if (!st)
        st = joust_model_check_tokens(c, "token", r->prompt, r->n_prompt, err);
    if (!st)
        st = joust_sampling_check(&r->sampling, err);
    if (st)
        return joust_blame(err, st, "generation request %u", i);
    uint64_t bytes = prompt_bytes(g, r) + own_bytes(g, r);
    if (bytes > g->cache_bytes)
        return joust_fail(
            err, JOUST_NOMEM,
            "generation request %u: one sample needs %llu bytes of cache, a thread has %llu: "
            "raise cache_bytes or lower max_tokens",
            i, (unsigned long long)bytes, (unsigned long long)g->cache_bytes);
    return JOUST_OK;
}

/* Cuts the requests into units, finer where there are too few requests for the threads. */
static joust_status units_make(generation *g, uint32_t n_requests, joust_error *err)
{
    const uint32_t n_threads = joust_engine_threads(g->engine);
    uint32_t n_parts = n_requests < 2 * n_threads ? n_threads : 1;
    for (uint32_t pass = 0; pass < 2; pass++) {
        uint64_t n = 0;
        for (uint32_t i = 0; i < n_requests; i++) {
            uint32_t n_samples = g->requests[i].n_samples,
                     size = (n_samples + n_parts - 1) / n_parts;
            for (uint32_t first = 0; first < n_samples; first += size, n++)
                if (pass)
                    g->units[n] =
                        (unit){i, first, n_samples - first < size ? n_samples - first : size};
        }
        if (pass)
            break;
        g->n_units = n;
        g->units = joust_calloc(n, sizeof(*g->units));
        if (!g->units)
            return joust_fail(err, JOUST_NOMEM, "generation: no memory for %u requests",
                              n_requests);
    }
    return JOUST_OK;
}

joust_status joust_generate(joust_engine *engine, joust_model *model,
                            const joust_generate_request *requests, uint32_t n_requests,
                            joust_generated_fn *done, joust_step_fn *step, void *context,
                            joust_error *err)
{
    generation g = {.engine = engine,
                    .model = model,
                    .requests = requests,
                    .done = done,
                    .step = step,
                    .context = context,
                    .cache_bytes = engine->cache_bytes / joust_engine_threads(engine),
                    .n_running = joust_engine_threads(engine)};
    for (uint32_t i = 0; i < n_requests; i++) {
        joust_status st = request_check(&g, i, err);
        if (st)
            return st;
    }
    joust_status st = joust_model_prepare(engine, model, err);
    if (!st)
        st = units_make(&g, n_requests, err);
    if (st)
        return st;
    g.finished_end = &g.finished;
    pthread_mutex_init(&g.lock, NULL);
    pthread_cond_init(&g.progress, NULL);
    joust_pool_run(engine->pool, generation_thread, &g);
    pthread_cond_destroy(&g.progress);
    pthread_mutex_destroy(&g.lock);
    joust_free(g.units);
    if (g.status && err)
        *err = g.error;
    return g.status;
}
