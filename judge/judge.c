#include "judge/judge.h"

#include <string.h>

#include "judge/judging.h"
#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/cache.h"
#include "worker/endpoint/endpoint.h"
#include "worker/engine/model_cache.h"

#define RESIDENT_MODELS 2u
#define REPORT_MS       1000
#define UNITS_AT_ONCE   16u /* results leave after so many, not at the end of a long queue */

typedef struct judge {
    joust_engine *engine;
    joust_cache *cache;
    joust_model_cache *models;
    const joust_job *job;
    joust_plan *plan;
    joust_endpoint *endpoints[JOUST_MAX_MODELS];   /* by model; made when first asked */
    joust_tokenizer *tokenizers[JOUST_MAX_MODELS]; /* of those, where questions are token ids */
    int64_t report_ms; /* when the coordinator hears of their servers next */
} judge;

/* One batch under way. */
typedef struct batch {
    judge *j;
    joust_peer *peer;
    const joust_stage *stage;
    const uint32_t *places; /* of the units that servers are asked about, among all of the batch */
    const joust_lease_unit *const *asked; /* those */
} batch;

static joust_status begin(void *context, const joust_job *job, joust_error *err)
{
    judge *j = context;
    j->job = job;
    return joust_plan_compile(job, j->plan, err);
}

static joust_status folder(void *context, const joust_digest *key, const char **ret_dir,
                           joust_error *err)
{
    batch *b = context;
    return joust_cache_fetch(b->j->cache, joust_peer_upstream(b->peer), key, ret_dir, err);
}

/* A group is whole and in order: samples 0, 1 … of one prompt. */
static joust_status check_group(const joust_lease_unit *unit, joust_error *err)
{
    if (unit->n_trajectories == 0)
        return joust_fail(err, JOUST_INVALID, "the unit has no trajectory");
    for (uint32_t i = 0; i < unit->n_trajectories; i++)
        if (unit->trajectories[i].sample != i)
            return joust_fail(err, JOUST_INVALID, "sample %u stands where %u belongs",
                              unit->trajectories[i].sample, i);
    return JOUST_OK;
}

static uint64_t n_prompt_tokens(const joust_unit_result *r)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < r->n_verdicts; i++)
        n += r->verdicts[i].n_prompt_tokens;
    return n;
}

/* Judges units of one model and delivers their verdicts. */
static joust_status judge_some(batch *b, joust_judging *judging, joust_model *model,
                               const joust_lease_unit *const *units, uint32_t n, joust_error *err)
{
    joust_unit_result results[UNITS_AT_ONCE];
    memset(results, 0, sizeof(results));
    const joust_upstream *up = joust_peer_upstream(b->peer);
    joust_status st = joust_judging_run(judging, b->j->engine, model, units, n, results, up->check,
                                        up->context, err);
    for (uint32_t i = 0; i < n && st == JOUST_OK; i++) {
        results[i].id = (joust_unit_id){units[i]->unit, units[i]->lease, units[i]->attempt};
        results[i].provenance.n_tokens = n_prompt_tokens(&results[i]);
        st = joust_peer_deliver(b->peer, &results[i], err);
    }
    for (uint32_t i = 0; i < n; i++)
        joust_unit_result_fini(&results[i]);
    return st;
}

/* Collects whole groups among units[0 .. n-1], as many as are judged at once; groups that aren't
 * whole fail. *ret_seen units are dealt with. */
static joust_status collect(batch *b, const joust_lease_unit *units, uint32_t n,
                            const joust_lease_unit **ret, uint32_t *ret_n, uint32_t *ret_seen,
                            joust_error *err)
{
    uint32_t i = 0, n_ret = 0;
    for (; i < n && n_ret < UNITS_AT_ONCE; i++) {
        joust_error why;
        joust_status st = check_group(&units[i], &why);
        if (st == JOUST_OK)
            ret[n_ret++] = &units[i];
        else if ((st = joust_peer_fail(b->peer, &units[i].unit, &why, err)) != JOUST_OK)
            return st;
    }
    *ret_n = n_ret;
    *ret_seen = i;
    return JOUST_OK;
}

/* Units of one stage and one model. */
static joust_status judge_units(batch *b, const joust_lease_unit *units, uint32_t n,
                                joust_error *err)
{
    joust_resident resident = {0};
    joust_judging *judging = NULL;
    joust_status st = JOUST_OK;
    if (joust_judging_asks(b->j->job, b->stage))
        st = joust_model_cache_get(b->j->models, &units[0].model.manifest, folder, b, &resident,
                                   err);
    if (st == JOUST_OK)
        st = joust_judging_create(b->j->job, b->stage, resident.tokenizer, &judging, err);
    for (uint32_t i = 0, seen = 0; i < n && st == JOUST_OK; i += seen) {
        const joust_lease_unit *some[UNITS_AT_ONCE];
        uint32_t n_some = 0;
        st = collect(b, units + i, n - i, some, &n_some, &seen, err);
        if (st == JOUST_OK && n_some > 0)
            st = judge_some(b, judging, resident.model, some, n_some, err);
    }
    joust_judging_free(&judging);
    return st;
}

/* ---- by servers ---- */

static joust_status unit_done(void *context, uint32_t unit, joust_unit_result *result,
                              joust_error *err)
{
    batch *b = context;
    const joust_lease_unit *u = b->asked[unit];
    result->id = (joust_unit_id){u->unit, u->lease, u->attempt};
    return joust_peer_deliver(b->peer, result, err);
}

static joust_status unit_failed(void *context, uint32_t unit, const joust_error *why,
                                joust_error *err)
{
    batch *b = context;
    return joust_peer_fail(b->peer, &b->asked[unit]->unit, why, err);
}

static bool unit_wanted(void *context, uint32_t unit)
{
    const batch *b = context;
    return joust_peer_wants(b->peer, b->places[unit]);
}

/* Says how the servers are doing. */
static joust_status report_servers(batch *b, joust_error *err)
{
    judge *j = b->j;
    joust_server_status *list = NULL;
    uint32_t n = 0;
    joust_status st = JOUST_OK;
    j->report_ms = joust_clock_ms() + REPORT_MS;
    for (uint32_t i = 0; st == JOUST_OK && i < j->job->n_models; i++)
        if (j->endpoints[i])
            st = joust_endpoint_describe(j->endpoints[i], j->job->models[i].name, &list, &n, err);
    n = n < JOUST_MAX_SERVER_STATUS ? n : JOUST_MAX_SERVER_STATUS;
    if (st == JOUST_OK && n > 0)
        st = joust_peer_report_servers(b->peer, &list, n, err);
    joust_free(list);
    return st;
}

static joust_status check(void *context, uint64_t n_answered, joust_error *err)
{
    batch *b = context;
    const joust_upstream *up = joust_peer_upstream(b->peer);
    if (joust_clock_ms() >= b->j->report_ms) {
        joust_status st = report_servers(b, err);
        if (st != JOUST_OK)
            return st;
    }
    return up->check(up->context, n_answered, err);
}

static joust_status open_endpoint(const batch *b, joust_endpoint **ret, joust_error *err)
{
    const joust_job_model *model = &b->j->job->models[b->stage->model];
    joust_endpoint **endpoint = &b->j->endpoints[b->stage->model];
    joust_error why;
    if (!*endpoint) {
        joust_status st = joust_endpoint_create(&model->endpoint, endpoint, &why);
        if (st != JOUST_OK) /* a missing variable is the job's fault: tried elsewhere, then named */
            return joust_fail(err, st == JOUST_NOT_FOUND ? JOUST_INVALID : st,
                              "models.%s.endpoint.%s", model->name, why.text);
        joust_endpoint_score_labels(*endpoint);
    }
    *ret = *endpoint;
    return JOUST_OK;
}

/* The tokenizer that came with the endpoint's files, or NULL: it is asked by text. */
static joust_status open_tokenizer(batch *b, const joust_digest *manifest,
                                   const joust_tokenizer **ret, joust_error *err)
{
    joust_tokenizer **tokenizer = &b->j->tokenizers[b->stage->model];
    const char *dir;
    joust_status st = JOUST_OK;
    if (b->j->job->models[b->stage->model].endpoint.tokenizer && !*tokenizer) {
        st = folder(b, manifest, &dir, err);
        if (st == JOUST_OK)
            st = joust_tokenizer_load(dir, tokenizer, err);
    }
    *ret = *tokenizer;
    return st;
}

/* Whole groups are asked about; the others fail. */
static joust_status choose_whole(batch *b, const joust_lease_unit *units, uint32_t n,
                                 const joust_lease_unit **whole, uint32_t *places, uint32_t *ret_n,
                                 joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < n && st == JOUST_OK; i++) {
        joust_error why;
        if (check_group(&units[i], &why) != JOUST_OK) {
            st = joust_peer_fail(b->peer, &units[i].unit, &why, err);
            continue;
        }
        places[*ret_n] = i;
        whole[(*ret_n)++] = &units[i];
    }
    return st;
}

static joust_status ask_units(batch *b, const joust_lease_unit *units, uint32_t n, joust_error *err)
{
    const joust_judging_calls calls = {.done = unit_done,
                                       .failed = unit_failed,
                                       .wanted = unit_wanted,
                                       .step = check,
                                       .context = b};
    joust_endpoint *endpoint = NULL;
    joust_judging *judging = NULL;
    const joust_tokenizer *tokenizer = NULL;
    uint32_t n_whole = 0;
    const joust_lease_unit **whole = joust_calloc(n, sizeof(*whole));
    uint32_t *places = joust_calloc(n, sizeof(*places));
    joust_status st =
        whole && places ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "judge: %u units", n);
    if (st == JOUST_OK)
        st = open_endpoint(b, &endpoint, err);
    if (st == JOUST_OK)
        st = open_tokenizer(b, &units[0].model.manifest, &tokenizer, err);
    if (st == JOUST_OK)
        st = joust_judging_create(b->j->job, b->stage, tokenizer, &judging, err);
    if (st == JOUST_OK)
        st = choose_whole(b, units, n, whole, places, &n_whole, err);
    b->asked = whole;
    b->places = places;
    if (st == JOUST_OK && n_whole > 0)
        st = joust_judging_ask(judging, endpoint, whole, n_whole, &calls, err);
    if (st == JOUST_OK)
        st = report_servers(b, err);
    joust_judging_free(&judging);
    joust_free(whole);
    joust_free(places);
    return st;
}

static joust_status run(void *context, joust_peer *peer, const joust_lease_unit *units, uint32_t n,
                        joust_error *err)
{
    judge *j = context;
    uint32_t stage = units[0].unit.stage;
    if (stage >= j->plan->n_stages || j->plan->stages[stage].kind != JOUST_STAGE_JUDGE)
        return joust_fail(err, JOUST_UNSUPPORTED, "stage %u is not a judge's", stage);
    batch b = {.j = j, .peer = peer, .stage = &j->plan->stages[stage]};
    joust_status st = JOUST_OK;
    if (joust_stage_is_served(j->job, b.stage))
        return ask_units(&b, units, n, err);
    for (uint32_t i = 0, k; i < n && st == JOUST_OK; i += k) {
        k = joust_lease_units_of_model(units + i, n - i);
        st = judge_units(&b, units + i, k, err);
    }
    return st;
}

static joust_status serve(judge *j, const joust_role_options *options, joust_error *err)
{
    joust_peer_options peer =
        joust_peer_options_of(options, JOUST_PEER_JUDGE, joust_engine_numeric_class(j->engine),
                              joust_engine_threads(j->engine));
    joust_peer_role_work work = {.context = j, .begin = begin, .run = run};
    joust_log_info("judge", "name %s endpoint %s threads %u kernels %s", options->name,
                   options->endpoint, joust_engine_threads(j->engine),
                   joust_engine_isa_name(j->engine));
    return joust_peer_run(&peer, &work, err);
}

joust_status joust_judge_run(const joust_role_options *options, joust_error *err)
{
    judge j = {.plan = joust_calloc(1, sizeof(*j.plan))};
    joust_engine_options engine = {.n_threads = options->threads,
                                   .cache_bytes = (uint64_t)options->kv_memory_mb << 20};
    joust_status st = j.plan ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "judge: out of memory");
    if (options->signals)
        joust_peer_block_signals();
    if (st == JOUST_OK)
        st = joust_engine_options_device(&engine, options->device, options->precision, err);
    if (st == JOUST_OK)
        st = joust_engine_create(&engine, &j.engine, err);
    if (st == JOUST_OK)
        st = joust_model_cache_create(RESIDENT_MODELS, &j.models, err);
    if (st == JOUST_OK)
        st = joust_cache_create(options->cache, options->cache_bytes, &j.cache, err);
    if (st == JOUST_OK)
        st = serve(&j, options, err);
    for (uint32_t i = 0; i < JOUST_MAX_MODELS; i++) {
        joust_endpoint_free(&j.endpoints[i]);
        joust_tokenizer_free(&j.tokenizers[i]);
    }
    joust_cache_free(&j.cache);
    joust_model_cache_free(&j.models);
    joust_engine_free(&j.engine);
    joust_free(j.plan);
    return st;
}
