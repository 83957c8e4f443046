/* What a batch is asked for: requests are checked, become sequences in order of age, and go. */
#include "batch_internal.h"

#include "proto/base/alloc.h"

typedef joust_batch_state batch;

/* ---- lists ------------------------------------------------------------------------------------ */

void joust_batch_wait(joust_batch_state *b, joust_sequence *s)
{
    joust_sequence **at = &b->waiting;
    while (*at && (*at)->age < s->age)
        at = &(*at)->next;
    s->next = *at;
    *at = s;
}

void joust_batch_unpark(joust_batch_state *b, joust_group *o)
{
    if (!o->parked)
        return;
    joust_group **at = &b->parked;
    while (*at != o)
        at = &(*at)->next_parked;
    *at = o->next_parked;
    o->parked = false;
    joust_sequence_drop(o->prompt, b->paged);
}

void joust_group_free(joust_batch_state *b, joust_group *o)
{
    joust_group **at = &b->groups;
    while (*at != o)
        at = &(*at)->next;
    *at = o->next;
    for (uint32_t i = 0; o->samples && i < o->request->n_samples; i++) {
        joust_sequence_drop(&o->samples[i], b->paged);
        joust_sequence_fini(&o->samples[i]);
    }
    if (o->prompt) {
        joust_sequence_drop(o->prompt, b->paged);
        joust_sequence_fini(o->prompt);
        joust_free(o->prompt);
    }
    joust_free(o->samples);
    joust_free(o->forced_logps);
    joust_free(o);
}

void joust_score_free(joust_batch_state *b, joust_sequence *s)
{
    joust_sequence_drop(s, b->paged);
    joust_sequence_fini(s);
    joust_free(s);
}

/* ---- checks ----------------------------------------------------------------------------------- */

static uint32_t limit_of(const joust_model *m, const joust_generate_request *r)
{
    uint32_t room = m->config.context - r->n_prompt;
    return r->sampling.max_tokens < room ? r->sampling.max_tokens : room;
}

/* The last token is computed only if something is asked after it. */
static uint32_t score_rows(const joust_score_request *r)
{
    if (r->n_next)
        return r->n;
    return r->first < r->n ? r->n - 1 : 0;
}

static joust_status memory_check(const batch *b, uint32_t n_positions, const char *what, uint32_t i,
                                 const char *remedy, joust_error *err)
{
    const uint64_t n_pages = (n_positions + JOUST_PAGE_POSITIONS - 1) / JOUST_PAGE_POSITIONS,
                   bytes = n_pages * joust_paged_page_bytes(b->engine, b->model);
    if (bytes <= b->engine->cache_bytes)
        return JOUST_OK;
    return joust_fail(
        err, JOUST_TOO_LARGE,
        "%s request %u: alone it needs %llu bytes of key-value memory for %u "
        "positions, there are %llu: raise cache_bytes (cluster.kv_memory_mb, cluster.memory_mb)%s",
        what, i, (unsigned long long)bytes, n_positions, (unsigned long long)b->engine->cache_bytes,
        remedy);
}

static joust_status request_check(const batch *b, uint32_t i, joust_error *err)
{
    const joust_generate_request *r = &b->of->requests[i];
    const joust_model_config *c = &b->model->config;
    if (r->n_prompt == 0 || r->n_prompt >= c->context)
        return joust_fail(err, JOUST_INVALID,
                          "generation request %u: a prompt of %u tokens, must be from 1 to %u (the "
                          "context is %u)",
                          i, r->n_prompt, c->context - 1, c->context);
    joust_status st = joust_model_check_language(c, "generation", err);
    if (!st)
        st = joust_model_check_tokens(c, "token", r->prompt, r->n_prompt, err);
    if (!st)
        st = joust_model_check_tokens(c, "forced token", r->forced, r->n_forced, err);
    if (!st)
        st = joust_sampling_check(&r->sampling, err);
    if (!st && r->n_forced >= limit_of(b->model, r))
        st = joust_fail(err, JOUST_INVALID,
                        "%u forced tokens leave none to draw of %u (max_tokens %u, the context is "
                        "%u)",
                        r->n_forced, limit_of(b->model, r), r->sampling.max_tokens, c->context);
    if (st)
        return joust_blame(err, st, "generation request %u", i);
    return memory_check(b, r->n_prompt + limit_of(b->model, r) - 1, "generation", i,
                        " or lower max_tokens", err);
}

static joust_status score_check(const batch *b, uint32_t i, joust_error *err)
{
    const joust_score_request *r = &b->of->scores[i];
    const joust_model_config *c = &b->model->config;
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
    return memory_check(b, score_rows(r), "score", i, "", err);
}

joust_status joust_batch_check(const joust_batch_state *b, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < b->of->n_requests && !st; i++)
        st = request_check(b, i, err);
    for (uint32_t i = 0; i < b->of->n_scores && !st; i++)
        st = score_check(b, i, err);
    return st;
}

/* ---- requests become sequences ---------------------------------------------------------------- */

/* The order of requests: generation and scoring take turns by their shares. */
static uint64_t age_next(batch *b)
{
    return (uint64_t)b->n_opened++ << 32;
}

static joust_status group_open(batch *b, uint32_t index, joust_error *err)
{
    const joust_generate_request *r = &b->of->requests[index];
    joust_group *o = joust_calloc(1, sizeof(*o));
    if (!o)
        return joust_fail(err, JOUST_NOMEM, "generation: out of memory");
    *o = (joust_group){.request = r,
                       .index = index,
                       .limit = limit_of(b->model, r),
                       .n_to_begin = r->n_samples,
                       .n_left = r->n_samples,
                       .next = b->groups};
    b->groups = o;
    o->prompt = joust_calloc(1, sizeof(*o->prompt));
    o->samples = joust_calloc(r->n_samples, sizeof(*o->samples));
    o->forced_logps = joust_calloc(r->n_forced, sizeof(*o->forced_logps));
    if (!o->prompt || !o->samples || !o->forced_logps)
        return joust_fail(err, JOUST_NOMEM, "generation: no memory for %u samples", r->n_samples);
    uint64_t age = age_next(b);
    *o->prompt = (joust_sequence){.kind = JOUST_SEQUENCE_PROMPT,
                                  .age = age,
                                  .group = o,
                                  .index = index,
                                  .head = r->prompt,
                                  .tail = r->forced,
                                  .n_head = r->n_prompt,
                                  .n_known = r->n_prompt + r->n_forced};
    for (uint32_t i = 0; i < r->n_samples; i++)
        o->samples[i] = (joust_sequence){.kind = JOUST_SEQUENCE_SAMPLE,
                                         .age = age + 1 + i,
                                         .group = o,
                                         .index = index,
                                         .sample = i,
                                         .head = r->prompt,
                                         .n_head = r->n_prompt};
    joust_batch_wait(b, o->prompt);
    return JOUST_OK;
}

joust_status joust_batch_scored(joust_batch_state *b, uint32_t index, joust_error *err)
{
    return b->of->scored ? b->of->scored(b->of->context, index, err) : JOUST_OK;
}

static joust_status score_open(batch *b, uint32_t index, joust_error *err)
{
    joust_score_request *r = &b->of->scores[index];
    uint64_t age = age_next(b);
    if (score_rows(r) == 0)
        return joust_batch_scored(b, index, err);
    joust_sequence *s = joust_calloc(1, sizeof(*s));
    if (!s)
        return joust_fail(err, JOUST_NOMEM, "scoring: out of memory");
    *s = (joust_sequence){.kind = JOUST_SEQUENCE_SCORE,
                          .age = age,
                          .score = r,
                          .index = index,
                          .head = r->tokens,
                          .n_head = r->n,
                          .n_known = score_rows(r)};
    joust_batch_wait(b, s);
    return JOUST_OK;
}

joust_status joust_batch_open(joust_batch_state *b, bool *ret_any, joust_error *err)
{
    const joust_batch *of = b->of;
    bool request = b->next_request < of->n_requests, score = b->next_score < of->n_scores;
    *ret_any = request || score;
    if (request && score)
        request =
            (uint64_t)b->next_request * of->n_scores <= (uint64_t)b->next_score * of->n_requests;
    if (!*ret_any)
        return JOUST_OK;
    if (request && of->requests[b->next_request].n_samples == 0) {
        b->next_request++;
        return JOUST_OK;
    }
    return request ? group_open(b, b->next_request++, err) : score_open(b, b->next_score++, err);
}
