/* Continuous batching. A step lists rows, of any sequences, for each thread; the threads compute
 * their passes side by side and draw; then every sequence advances, ends or goes on. All of the
 * bookkeeping is the calling thread's, so that it is the same from run to run.
 *
 * Order: everything goes by age, the order of the requests. Next tokens come first, then pieces of
 * prompts; whoever waits is let in as rows and pages allow, and nobody overtakes one who waits for
 * pages. The oldest sequence can always go on: younger ones give up their pages for it. */
#include "batch_internal.h"

#include <assert.h>
#include <string.h>

#include "proto/base/alloc.h"

/* Samples that a lane steps together; the other rows of its pass are for prompts and scores. */
#define LANE_SAMPLES    96u
/* Sequences that may wait, for a prefix that another computes, before those behind are looked at. */
#define MAX_PASSED_OVER 64u

typedef joust_batch_state batch;

/* ---- who is at work --------------------------------------------------------------------------- */

static joust_status active_add(batch *b, joust_sequence *s, joust_error *err)
{
    if (b->n_active == b->active_room) {
        uint32_t room = b->active_room ? 2 * b->active_room : 64;
        joust_sequence **active = joust_realloc_array(b->active, room, sizeof(*active));
        if (!active)
            return joust_fail(err, JOUST_NOMEM, "batch: no memory for %u sequences", room);
        b->active = active;
        b->active_room = room;
    }
    uint32_t at = b->n_active++;
    for (; at > 0 && b->active[at - 1]->age > s->age; at--)
        b->active[at] = b->active[at - 1];
    b->active[at] = s;
    b->n_samples += s->kind == JOUST_SEQUENCE_SAMPLE;
    return JOUST_OK;
}

static void active_remove(batch *b, uint32_t at)
{
    b->n_samples -= b->active[at]->kind == JOUST_SEQUENCE_SAMPLE;
    memmove(&b->active[at], &b->active[at + 1], (--b->n_active - at) * sizeof(*b->active));
}

static joust_group *parked_youngest(const batch *b)
{
    joust_group *youngest = b->parked;
    for (joust_group *o = b->parked; o; o = o->next_parked)
        youngest = o->prompt->age > youngest->prompt->age ? o : youngest;
    return youngest;
}

/* Frees a page's worth of memory for s: what is kept for samples to come, then the youngest at work
 * that is younger and has no row in this step. */
static bool page_free_up(batch *b, const joust_sequence *s)
{
    if (b->parked) {
        joust_batch_unpark(b, parked_youngest(b));
        return true;
    }
    for (uint32_t i = b->n_active; i-- > 0 && b->active[i]->age > s->age;) {
        joust_sequence *victim = b->active[i];
        if (victim->n_rows > 0)
            continue;
        joust_sequence_drop(victim, b->paged);
        active_remove(b, i);
        joust_batch_wait(b, victim);
        b->engine->cache_stats.n_preempted++;
        return true;
    }
    return false;
}

/* Gives a sequence pages for its first n positions, or as many as there are. */
static joust_status pages_reserve(batch *b, joust_sequence *s, uint32_t n, joust_error *err)
{
    joust_status st = JOUST_OK;
    while (!st && s->n_pages * JOUST_PAGE_POSITIONS < n) {
        bool ok;
        st = joust_sequence_extend(s, b->paged, &ok, err);
        if (!st && !ok && !page_free_up(b, s)) {
            b->starved = true;
            break;
        }
    }
    return st;
}

/* ---- rows ------------------------------------------------------------------------------------- */

static joust_lane *lane_emptiest(const batch *b)
{
    joust_lane *best = &b->lanes[0];
    for (uint32_t i = 1; i < b->n_lanes; i++)
        best = b->lanes[i].pass->n < best->pass->n ? &b->lanes[i] : best;
    return best;
}

static bool lanes_full(const batch *b)
{
    const joust_pass *pass = lane_emptiest(b)->pass;
    return pass->n == pass->room;
}

/* Lists what the emptiest lane has room for of a sequence's rows, and memory for. */
static joust_status rows_list(batch *b, joust_sequence *s, joust_error *err)
{
    joust_lane *lane = lane_emptiest(b);
    uint32_t n = s->n_known - s->n_kv, room = lane->pass->room - lane->pass->n;
    n = n < room ? n : room;
    joust_status st = pages_reserve(b, s, s->n_kv + n, err);
    if (st)
        return st;
    uint32_t held = s->n_pages * JOUST_PAGE_POSITIONS - s->n_kv;
    s->n_rows = n < held ? n : held;
    for (uint32_t i = 0; i < s->n_rows; i++) {
        uint32_t at = s->n_kv + i;
        bool wants = joust_sequence_wants(s, at);
        lane->pass->rows[lane->pass->n++] = (joust_row){.token = joust_sequence_token(s, at),
                                                        .position = at,
                                                        .pages = s->data,
                                                        .wants_logits = wants};
        if (wants)
            lane->wanted[lane->n_wanted++] = (joust_wanted){s, at};
    }
    return JOUST_OK;
}

/* Lists rows for those at work: next tokens, or the rest. */
static joust_status active_list(batch *b, bool next_tokens, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < b->n_active && !st; i++) {
        joust_sequence *s = b->active[i];
        bool is_next =
            s->kind == JOUST_SEQUENCE_SAMPLE && s->n_known - s->n_kv == 1 && s->n_kv >= s->n_head;
        if (is_next == next_tokens && s->n_rows == 0)
            st = rows_list(b, s, err);
    }
    return st;
}

static bool waits_for_prefix(const batch *b, const joust_sequence *s)
{
    if (s->kind == JOUST_SEQUENCE_SAMPLE)
        return false;
    for (uint32_t i = 0; i < b->n_active; i++)
        if (joust_sequence_could_share(s, b->paged, b->active[i]))
            return true;
    return false;
}

/* The first who waits for nothing but to be let in, or NULL. */
static joust_status candidate_find(batch *b, bool may_open, joust_sequence ***ret, joust_error *err)
{
    joust_sequence **at = &b->waiting;
    uint32_t n_passed_over = 0;
    *ret = NULL;
    for (; n_passed_over < MAX_PASSED_OVER; at = &(*at)->next, n_passed_over++) {
        bool any = true;
        while (!*at && may_open && any) { /* a score of nothing opens no sequence */
            joust_status st = joust_batch_open(b, &any, err);
            if (st)
                return st;
        }
        if (!*at)
            return JOUST_OK;
        if (!waits_for_prefix(b, *at)) {
            *ret = at;
            return JOUST_OK;
        }
    }
    return JOUST_OK;
}

/* Lets a sequence in if there is memory for all of its tokens known so far. Prompts held for samples
 * behind it make way; those held for others before it, when nothing is at work. */
static joust_status begin(batch *b, joust_sequence *s, bool *ret_ok, joust_error *err)
{
    joust_status st = joust_sequence_begin(s, b->paged, ret_ok, err);
    while (!st && !*ret_ok) {
        joust_group *o = parked_youngest(b);
        if (!o || (o->prompt->age < s->age && b->n_active > 0))
            break;
        joust_batch_unpark(b, o);
        st = joust_sequence_begin(s, b->paged, ret_ok, err);
    }
    return st;
}

/* A sample at work no longer needs its group's prompt. */
static void sample_begun(batch *b, joust_sequence *s)
{
    if (s->kind != JOUST_SEQUENCE_SAMPLE || s->begun)
        return;
    s->begun = true;
    if (--s->group->n_to_begin == 0)
        joust_batch_unpark(b, s->group);
}

/* Lets in who waits, as long as there are rows and pages: those known; new requests too. */
static joust_status admit(batch *b, bool may_open, joust_error *err)
{
    while (!lanes_full(b) && !b->starved) {
        joust_sequence **at;
        joust_status st = candidate_find(b, may_open, &at, err);
        if (st || !at)
            return st;
        joust_sequence *s = *at;
        bool ok;
        if (s->kind == JOUST_SEQUENCE_SAMPLE && b->n_samples >= LANE_SAMPLES * b->n_lanes)
            return JOUST_OK;
        st = begin(b, s, &ok, err);
        if (st || !ok)
            return st;
        b->engine->cache_stats.n_shared_tokens += s->n_kv;
        st = active_add(b, s, err);
        if (st) {
            joust_sequence_drop(s, b->paged);
            return st;
        }
        *at = s->next;
        s->next = NULL;
        sample_begun(b, s);
        st = rows_list(b, s, err);
        if (st)
            return st;
    }
    return JOUST_OK;
}

static joust_status step_list(batch *b, joust_error *err)
{
    const bool was_starved = b->starved;
    b->starved = false;
    for (uint32_t i = 0; i < b->n_lanes; i++)
        b->lanes[i].n_wanted = 0;
    joust_status st = active_list(b, true, err);
    if (!st && !was_starved)
        st = admit(b, false, err);
    if (!st)
        st = active_list(b, false, err);
    return st ? st : admit(b, true, err);
}

/* ---- a step ----------------------------------------------------------------------------------- */

static void lane_run(void *context, uint32_t thread)
{
    batch *b = context;
    joust_lane *lane = &b->lanes[thread];
    if (lane->pass->n == 0)
        return;
    joust_pass_run(lane->pass);
    lane->logits = lane->pass->logits;
    lane->status = joust_lane_use(lane, &lane->error);
}

static void lane_use(void *context, uint32_t thread)
{
    joust_lane *lane = &((batch *)context)->lanes[thread];
    lane->status = joust_lane_use(lane, &lane->error);
}

/* All lanes' rows as one pass of all threads; then each lane uses its own logits. */
static void lanes_run_shared(batch *b)
{
    joust_pass *pass = b->lanes[0].pass;
    const size_t ld = joust_lanes_up(b->model->config.vocab_size);
    uint32_t n_logits = 0, n_using = 0;
    for (uint32_t i = 0; i < b->n_lanes; i++) {
        joust_lane *lane = &b->lanes[i];
        lane->logits = pass->logits + n_logits * ld;
        n_logits += lane->n_wanted;
        n_using += lane->n_wanted > 0;
        if (i == 0)
            continue;
        memcpy(pass->rows + pass->n, lane->pass->rows, lane->pass->n * sizeof(*pass->rows));
        pass->n += lane->pass->n;
        lane->pass->n = 0;
    }
    joust_pass_run_shared(pass);
    if (n_using > 1)
        joust_pool_run(b->engine->pool, lane_use, b);
    else
        for (uint32_t i = 0; i < b->n_lanes; i++)
            lane_use(b, i);
}

/* The first lane's that failed. */
joust_status joust_batch_lanes_status(const batch *b, joust_error *err)
{
    for (uint32_t i = 0; i < b->n_lanes; i++)
        if (b->lanes[i].status) {
            if (err)
                *err = b->lanes[i].error;
            return b->lanes[i].status;
        }
    return JOUST_OK;
}

static joust_status lanes_run(batch *b, joust_error *err)
{
    uint32_t n_busy = 0, busy = 0, n_rows = 0;
    for (uint32_t i = 0; i < b->n_lanes; i++) {
        uint32_t n = b->lanes[i].pass->n;
        b->n_tokens += n;
        b->engine->cache_stats.n_computed_tokens += n;
        n_rows += n;
        n_busy += n > 0;
        busy = n > 0 ? i : busy;
    }
    if (b->engine->api)
        return joust_batch_device_run(b, err);
    if (n_rows <= b->lanes[0].pass->room &&
        joust_pass_worth_sharing(b->engine, b->model, n_rows, n_busy))
        lanes_run_shared(b);
    else if (n_busy > 1)
        joust_pool_run(b->engine->pool, lane_run, b);
    else if (n_busy)
        lane_run(b, busy);
    return joust_batch_lanes_status(b, err);
}

/* A sample has drawn: whether it ends here, by its request's watch too. */
static joust_status sample_watch(joust_sequence *s, joust_error *err)
{
    const joust_generate_request *r = s->group->request;
    if (!r->watch || s->n < r->sampling.min_tokens || s->finish == JOUST_FINISH_STOP ||
        s->finish == JOUST_FINISH_ABORTED)
        return JOUST_OK;
    joust_finish finish = 0;
    joust_status st = r->watch(r->context, s->index, s->sample, s->tokens, s->n, &finish, err);
    s->finish = finish ? finish : s->finish;
    return st;
}

static joust_status sample_end(batch *b, joust_sequence *s, joust_error *err)
{
    static const uint32_t no_token[1];
    static const float no_logp[1];
    joust_group *o = s->group;
    const joust_generated result = {.tokens = s->n ? s->tokens : no_token,
                                    .raw_logps = s->n ? s->raw_logps : no_logp,
                                    .logps = s->n ? s->logps : no_logp,
                                    .n = s->n,
                                    .finish = s->finish};
    joust_status st = b->of->done(b->of->context, s->index, s->sample, &result, err);
    joust_sequence_drop(s, b->paged);
    joust_sequence_fini(s);
    sample_begun(b, s);
    if (--o->n_left == 0)
        joust_group_free(b, o);
    return st;
}

/* Its first tokens are drawn: the prompt holds its pages until the samples are at work. */
static joust_status prompt_end(batch *b, joust_group *o, joust_error *err)
{
    const uint32_t n = o->request->n_samples;
    o->parked = true;
    o->next_parked = b->parked;
    b->parked = o;
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < n && !st; i++) {
        joust_sequence *s = &o->samples[i];
        st = sample_watch(s, err);
        bool last = o->n_left == 1;
        if (!st && s->finish)
            st = sample_end(b, s, err);
        else if (!st)
            joust_batch_wait(b, s);
        if (last)
            break; /* the group may be gone */
    }
    return st;
}

/* After a pass. *ret_gone: it is no longer at work. */
static joust_status sequence_use(batch *b, joust_sequence *s, bool *ret_gone, joust_error *err)
{
    joust_status st = JOUST_OK;
    const bool had_rows = s->n_rows > 0;
    joust_sequence_advance(s, b->paged);
    if (s->drew)
        st = sample_watch(s, err);
    s->drew = false;
    *ret_gone =
        s->kind == JOUST_SEQUENCE_SAMPLE ? s->finish != 0 : had_rows && s->n_kv == s->n_known;
    return st;
}

/* Every sequence that had rows advances; those that are complete leave. */
static joust_status step_use(batch *b, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < b->n_active && !st;) {
        joust_sequence *s = b->active[i];
        bool gone;
        st = sequence_use(b, s, &gone, err);
        if (st)
            break;
        if (!gone) {
            i++;
            continue;
        }
        active_remove(b, i);
        if (s->kind == JOUST_SEQUENCE_SAMPLE) {
            st = sample_end(b, s, err);
        } else if (s->kind == JOUST_SEQUENCE_PROMPT) {
            st = prompt_end(b, s->group, err);
        } else {
            uint32_t index = s->index;
            joust_score_free(b, s);
            st = joust_batch_scored(b, index, err);
        }
    }
    return st;
}

static bool work_left(const batch *b)
{
    return b->n_active || b->waiting || b->next_request < b->of->n_requests ||
           b->next_score < b->of->n_scores;
}

static joust_status batch_steps(batch *b, joust_error *err)
{
    joust_status st = JOUST_OK;
    while (!st && work_left(b)) {
        st = step_list(b, err);
        uint64_t n = b->n_tokens;
        if (!st)
            st = lanes_run(b, err);
        assert(st || b->n_tokens > n || !work_left(b)); /* the oldest can always go on */
        if (!st)
            st = step_use(b, err);
        if (!st && b->of->step)
            st = b->of->step(b->of->context, b->n_tokens, err);
    }
    return st;
}

/* ---- the call --------------------------------------------------------------------------------- */

/* Rows of a step, all requests in: their prompts', then their samples'. A pass may be smaller or larger and changes no bit;
 * memory for what never comes would be cleared for nothing. */
static uint32_t rows_most(const joust_batch *of)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < of->n_requests && n < JOUST_PASS_ROWS; i++) {
        const joust_generate_request *r = &of->requests[i];
        const uint64_t n_prompt = (uint64_t)r->n_prompt + r->n_forced;
        n += n_prompt > r->n_samples ? n_prompt : r->n_samples;
    }
    for (uint32_t i = 0; i < of->n_scores && n < JOUST_PASS_ROWS; i++)
        n += of->scores[i].n;
    return n == 0 ? 1 : n < JOUST_PASS_ROWS ? (uint32_t)n : JOUST_PASS_ROWS;
}

/* By its own thread, since clearing a pass takes some milliseconds. */
static void lane_create(void *context, uint32_t thread)
{
    batch *b = context;
    joust_lane *lane = &b->lanes[thread];
    lane->model = b->model;
    lane->status =
        joust_pass_create(b->engine, b->model, rows_most(b->of), &lane->pass, &lane->error);
    if (!lane->status)
        lane->status = joust_sampler_init(&lane->sampler, b->engine->kernels,
                                          b->model->config.vocab_size, &lane->error);
}

static joust_status lanes_create(batch *b, joust_error *err)
{
    if (b->engine->api)
        return joust_batch_device_create(b, err);
    b->n_lanes = joust_engine_threads(b->engine);
    b->lanes = joust_calloc(b->n_lanes, sizeof(*b->lanes));
    if (!b->lanes)
        return joust_fail(err, JOUST_NOMEM, "batch: out of memory");
    joust_pool_run(b->engine->pool, lane_create, b);
    joust_status st = joust_batch_lanes_status(b, err);
    return st ? st : joust_pass_share(b->lanes[0].pass, b->engine, err);
}

/* What is left after an error goes with the rest. */
static void batch_fini(batch *b)
{
    for (uint32_t i = 0; i < b->n_active; i++)
        if (b->active[i]->kind == JOUST_SEQUENCE_SCORE)
            joust_score_free(b, b->active[i]);
    for (joust_sequence *s = b->waiting, *next; s; s = next) {
        next = s->next;
        if (s->kind == JOUST_SEQUENCE_SCORE)
            joust_score_free(b, s);
    }
    while (b->groups)
        joust_group_free(b, b->groups);
    joust_free(b->active);
    for (uint32_t i = 0; b->lanes && i < b->n_lanes; i++) {
        joust_pass_free(&b->lanes[i].pass);
        joust_sampler_fini(&b->lanes[i].sampler);
    }
    joust_free(b->lanes);
    joust_batch_device_free(b);
}

joust_status joust_batch_run(joust_engine *engine, joust_model *model, const joust_batch *of,
                             joust_error *err)
{
    batch b = {.engine = engine, .model = model, .of = of};
    joust_status st = joust_batch_check(&b, err);
    if (!st)
        st = engine->api ? joust_model_upload(engine, model, err)
                         : joust_model_prepare(engine, model, err);
    if (!st)
        st = joust_paged_open(engine, model, &b.paged, err);
    if (!st)
        st = lanes_create(&b, err);
    if (!st)
        st = batch_steps(&b, err);
    batch_fini(&b);
    return st;
}

joust_status joust_generate(joust_engine *engine, joust_model *model,
                            const joust_generate_request *requests, uint32_t n_requests,
                            joust_generated_fn *done, joust_step_fn *step, void *context,
                            joust_error *err)
{
    const joust_batch of = {.requests = requests,
                            .n_requests = n_requests,
                            .done = done,
                            .step = step,
                            .context = context};
    return joust_batch_run(engine, model, &of, err);
}

joust_status joust_score(joust_engine *engine, joust_model *model, joust_score_request *requests,
                         uint32_t n_requests, joust_step_fn *step, void *context, joust_error *err)
{
    const joust_batch of = {
        .scores = requests, .n_scores = n_requests, .step = step, .context = context};
    return joust_batch_run(engine, model, &of, err);
}
