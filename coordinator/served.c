/* Stages whose answers come from servers: what was asked is counted where it can't be lost, since an answer that wasn't
 * durable when somebody was killed is asked for again. A LEASE of such a stage leaves after a record of it is durable. */
#include <stdio.h>
#include <string.h>

#include "coordinator/coordinator_internal.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "proto/base/text.h"
#include "storage/tables.h"

bool joust_served_stage(const joust_coordinator *c, uint32_t stage)
{
    return joust_stage_is_served(c->job, &c->plan.stages[stage]);
}

uint32_t joust_served_requests_a_unit(const joust_coordinator *c, uint32_t stage)
{
    return joust_stage_requests(c->job, &c->plan.stages[stage]);
}

/* The last fingerprint that a judge's verdicts had: a swap while nobody ran is noticed too. */
static void recall_fingerprint(joust_coordinator *c, uint32_t stage, const joust_lease_count *n,
                               double newest_ms[JOUST_MAX_MODELS])
{
    const uint32_t model = c->plan.stages[stage].model;
    if (c->plan.stages[stage].kind != JOUST_STAGE_JUDGE || joust_digest_is_zero(&n->fingerprint) ||
        n->fingerprint_wall_ms < newest_ms[model])
        return;
    c->fingerprints[model][0] = n->fingerprint;
    newest_ms[model] = n->fingerprint_wall_ms;
}

static joust_status open_stage(joust_coordinator *c, uint32_t round, uint32_t stage,
                               double newest_ms[JOUST_MAX_MODELS], joust_error *err)
{
    joust_lease_count n;
    uint32_t model = c->plan.stages[stage].model;
    joust_status st = joust_store_count_leases(c->store, round, stage, &n, err);
    if (st != JOUST_OK)
        return st;
    c->served_requests[model] += n.leases * joust_served_requests_a_unit(c, stage);
    c->served_tokens[model] += n.tokens;
    recall_fingerprint(c, stage, &n, newest_ms);
    if (round != joust_core_round(c->core))
        return JOUST_OK;
    c->served[stage] = (joust_served_count){
        .round = round, .leases = n.leases, .again = n.leases - n.units, .in_flight = n.open};
    if (n.open)
        joust_log_info("served",
                       "round %u %s: %llu requests were in flight when the last "
                       "coordinator ended; those that no worker still holds are asked again",
                       round, c->plan.stages[stage].name,
                       (unsigned long long)(n.open * joust_served_requests_a_unit(c, stage)));
    return JOUST_OK;
}

joust_status joust_served_open(joust_coordinator *c, joust_error *err)
{
    joust_status st = JOUST_OK;
    double newest_ms[JOUST_MAX_MODELS] = {0};
    uint32_t current = joust_core_round(c->core);
    for (uint32_t s = 0; s < c->plan.n_stages; s++)
        for (uint32_t round = 0; st == JOUST_OK && joust_served_stage(c, s) && round <= current &&
                                 round <= c->job->rounds;
             round++)
            if (joust_stage_runs(&c->plan.stages[s], round))
                st = open_stage(c, round, s, newest_ms, err);
    return st;
}

static joust_status record_lease(joust_coordinator *c, const joust_action *a, joust_error *err)
{
    const joust_unit_key *unit = &a->id.unit;
    joust_served_count *count = &c->served[unit->stage];
    joust_provenance lease = {.epoch = joust_core_epoch(c->core),
                              .lease = a->id.lease,
                              .attempt = a->id.attempt,
                              .started_wall_ms = joust_clock_wall_ms()};
    bool again = a->id.attempt > 1;
    joust_status st = again ? JOUST_OK : joust_store_has_lease(c->store, unit, &again, err);
    if (st != JOUST_OK)
        return st;
    if (count->round != unit->round)
        *count = (joust_served_count){.round = unit->round};
    count->leases++;
    count->again += again;
    c->served_requests[c->plan.stages[unit->stage].model] +=
        joust_served_requests_a_unit(c, unit->stage);
    return joust_batch_put_lease(joust_committer_batch(c->committer), unit, &lease, err);
}

joust_status joust_served_record_leases(joust_coordinator *c, const joust_actions *actions,
                                        bool *wrote, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (size_t i = 0; st == JOUST_OK && i < actions->n; i++) {
        const joust_action *a = &actions->items[i];
        if (a->kind != JOUST_ACTION_LEASE || !joust_served_stage(c, a->id.unit.stage))
            continue;
        st = record_lease(c, a, err);
        *wrote = true;
    }
    return st;
}

/* Says so when a judge's verdicts begin to come from another model than before. */
static void watch_fingerprint(joust_coordinator *c, uint32_t model, const joust_verdict *v)
{
    joust_digest *known = c->fingerprints[model];
    char before[JOUST_DIGEST_HEX], now[JOUST_DIGEST_HEX];
    bool seen = joust_digest_is_zero(&v->fingerprint);
    for (uint32_t i = 0; i < JOUST_FINGERPRINTS; i++) /* several judges may not notice at once */
        seen = seen || joust_digest_equal(&known[i], &v->fingerprint);
    if (seen)
        return;
    if (!joust_digest_is_zero(known))
        joust_log_warn(
            "served",
            "round %u judge '%s': the model behind models.%s answers its probe otherwise "
            "than before: verdicts from position %llu on have the fingerprint %.12s, "
            "those before %.12s",
            v->key.round, v->judge, c->job->models[model].name, (unsigned long long)v->key.position,
            joust_digest_hex(&v->fingerprint, now), joust_digest_hex(known, before));
    memmove(known + 1, known, (JOUST_FINGERPRINTS - 1) * sizeof(*known));
    *known = v->fingerprint;
}

void joust_served_count_result(joust_coordinator *c, const joust_unit_result *r)
{
    if (!(r->n_trajectories || r->n_verdicts) || !joust_served_stage(c, r->id.unit.stage))
        return;
    const uint32_t model = c->plan.stages[r->id.unit.stage].model;
    c->served_tokens[model] += r->provenance.n_tokens;
    for (uint32_t i = 0; i < r->n_verdicts; i++)
        watch_fingerprint(c, model, &r->verdicts[i]);
}

/* What is over the budget has not left yet, or was answered before it was known. */
static void end_by_budget(joust_coordinator *c, const char *model, const char *key, uint64_t spent,
                          uint64_t budget)
{
    joust_error err;
    if (!budget || spent <= budget || c->status != JOUST_OK ||
        joust_core_get_phase(c->core) != JOUST_CORE_RUNNING)
        return;
    joust_fail(&err, JOUST_DENIED,
               "models.%s.endpoint.%s: %llu of %llu are spent; raise it and start again: the job "
               "goes on from here",
               model, key, (unsigned long long)spent, (unsigned long long)budget);
    joust_coordinator_fail(c, JOUST_DENIED, &err);
}

void joust_served_check_budgets(joust_coordinator *c)
{
    for (uint32_t i = 0; i < c->job->n_models; i++) {
        const joust_job_model *m = &c->job->models[i];
        if (!m->has_endpoint)
            continue;
        end_by_budget(c, m->name, "max_requests", c->served_requests[i], m->endpoint.max_requests);
        end_by_budget(c, m->name, "max_tokens", c->served_tokens[i], m->endpoint.max_tokens);
    }
}

static const char *peer_name(const joust_coordinator *c, uint64_t handle)
{
    for (uint32_t i = 0; i < joust_core_peers(c->core); i++) {
        joust_core_peer_view peer = joust_core_peer(c->core, i);
        if (peer.peer == handle)
            return peer.name;
    }
    return "";
}

static void add_text(joust_buf *to, const char *name, const char *text)
{
    joust_buf_format(to, ",\"%s\":", name);
    joust_json_string(to, text, strlen(text));
}

static void add_server(joust_buf *to, const char *peer, const joust_server_status *s, bool first)
{
    joust_buf_text(to, first ? ",\"servers\":[{\"peer\":" : ",{\"peer\":");
    joust_json_string(to, peer, strlen(peer));
    add_text(to, "model", s->model);
    add_text(to, "url", s->url);
    add_text(to, "state", s->state);
    joust_buf_format(to, ",\"ready\":%s,\"in_flight\":%u,\"answers\":%llu,\"failures\":%llu",
                     s->ready ? "true" : "false", s->in_flight, (unsigned long long)s->answers,
                     (unsigned long long)s->failures);
    add_text(to, "probe", s->probe);
    add_text(to, "last_error", s->last_error);
    joust_buf_text(to, "}");
}

/* What peers said last of the servers that they ask. */
static void add_servers(const joust_coordinator *c, joust_buf *to)
{
    bool any = false;
    for (uint32_t i = 0; i < c->n_links; i++) {
        const joust_link *link = &c->links[i];
        for (uint32_t k = 0; k < link->n_servers; k++) {
            add_server(to, peer_name(c, link->handle), &link->servers[k], !any);
            any = true;
        }
    }
    joust_buf_text(to, any ? "]" : "");
}

void joust_served_status(const joust_coordinator *c, joust_buf *to)
{
    bool any = false;
    for (uint32_t s = 0; s < c->plan.n_stages; s++) {
        const joust_served_count *n = &c->served[s];
        if (!joust_served_stage(c, s))
            continue;
        uint32_t each = joust_served_requests_a_unit(c, s);
        joust_buf_format(to,
                         "%s{\"stage\":\"%s\",\"round\":%u,\"requests\":%llu,\"re_asked\":%llu,"
                         "\"in_flight_at_start\":%llu}",
                         any ? "," : ",\"served\":[", c->plan.stages[s].name, n->round,
                         (unsigned long long)(n->leases * each),
                         (unsigned long long)(n->again * each),
                         (unsigned long long)(n->in_flight * each));
        any = true;
    }
    joust_buf_text(to, any ? "]" : "");
    add_servers(c, to);
}
