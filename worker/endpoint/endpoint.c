#include "worker/endpoint/endpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"
#include "worker/endpoint/endpoint_internal.h"

#define LOOK_KEPT_MS  1000 /* a look that nobody drove for longer is begun anew */
#define STEP_MS       50
#define MAX_NONSENSE  16u /* answers that can't be read, to one request, before it is given up */
#define MAX_KEY_BYTES 4096u
#define SILENT_MS     30000 /* without an answer the log says why, this often */

typedef struct slot {
    const joust_endpoint_request *ask;
    int64_t at_ms; /* not before; INT64_MAX: under way or over */
    int64_t begun_ms;
    uint32_t tries, nonsense, avoid;
    bool late;         /* the last try took too long */
    bool lasting;      /* it found what time won't mend */
    uint32_t n_scored; /* labels, by echo */
    joust_endpoint_scores scores;
    char why[320]; /* its last failure, and whose */
} slot;

typedef struct run {
    joust_endpoint *e;
    const joust_endpoint_calls *calls;
    slot *slots;
    uint32_t n, n_open;
    uint64_t n_answered;
    int64_t stepped_ms, heard_ms;
} run;

/* ---- making ---- */

static joust_status read_key(joust_endpoint *e, joust_error *err)
{
    const char *name = e->settings->api_key_env;
    if (!name)
        return JOUST_OK;
    const char *key = getenv(name);
    if (!key || !*key)
        return joust_fail(err, JOUST_NOT_FOUND,
                          "api_key_env: the environment variable %s isn't set on this worker",
                          name);
    size_t n = strlen(key);
    for (size_t i = 0; i < n; i++)
        if (n > MAX_KEY_BYTES || key[i] <= ' ' || key[i] == 0x7f)
            return joust_fail(err, JOUST_INVALID, "api_key_env: %s holds what isn't a key", name);
    static const char prefix[] = "Authorization: Bearer ";
    e->authorization = joust_malloc(sizeof(prefix) + n);
    if (!e->authorization)
        return joust_fail(err, JOUST_NOMEM, "endpoint: out of memory");
    snprintf(e->authorization, sizeof(prefix) + n, "%s%s", prefix, key);
    e->key = e->authorization + sizeof(prefix) - 1;
    return JOUST_OK;
}

joust_status joust_endpoint_create(const joust_job_endpoint *settings, joust_endpoint **ret,
                                   joust_error *err)
{
    joust_endpoint *e = joust_calloc(1, sizeof(*e));
    if (!e)
        return joust_fail(err, JOUST_NOMEM, "endpoint: out of memory");
    e->settings = settings;
    for (uint32_t i = 0; i < settings->n_urls; i++)
        e->servers[i] =
            (joust_endpoint_server_state){.url = settings->urls[i], .kind = JOUST_SERVER_OPENAI};
    joust_status st = read_key(e, err);
    if (st == JOUST_OK)
        st = joust_endpoint_pool_create((const char *const *)settings->urls, settings->n_urls,
                                        settings->concurrency, settings->breaker_failures,
                                        settings->breaker_ms, &e->pool, err);
    if (st == JOUST_OK && curl_global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK)
        st = joust_fail(err, JOUST_NOMEM, "endpoint: libcurl can't be started");
    if (st == JOUST_OK && !(e->multi = curl_multi_init()))
        st = joust_fail(err, JOUST_NOMEM, "endpoint: out of memory");
    if (st != JOUST_OK) {
        joust_endpoint_free(&e);
        return st;
    }
    curl_multi_setopt(e->multi, CURLMOPT_MAXCONNECTS,
                      (long)settings->concurrency * settings->n_urls);
    *ret = e;
    return JOUST_OK;
}

void joust_endpoint_free(joust_endpoint **endpoint)
{
    joust_endpoint *e = *endpoint;
    if (!e)
        return;
    if (e->multi) {
        joust_transfer_abandon_requests(e, joust_clock_ms());
        joust_transfer_abandon_looks(e, JOUST_NONE, joust_clock_ms());
    }
    joust_transfer_fini(e);
    curl_multi_cleanup(e->multi);
    joust_endpoint_pool_free(&e->pool);
    if (e->authorization)
        memset(e->authorization, 0, strlen(e->authorization));
    joust_free(e->authorization);
    joust_free(e);
    *endpoint = NULL;
}

void joust_endpoint_begin_round(joust_endpoint *e, uint32_t round)
{
    if (e->round == round)
        return;
    e->round = round;
    joust_look_all(e);
}

void joust_endpoint_score_labels(joust_endpoint *e)
{
    e->scores = true;
    e->scoring =
        e->settings->mode == JOUST_ENDPOINT_CHAT ? JOUST_SCORING_TOP : e->settings->scoring;
}

void joust_endpoint_score_ids(joust_endpoint *e, const joust_endpoint_label *prompt,
                              const joust_endpoint_label *label)
{
    const uint32_t n[] = {prompt->n < JOUST_PROBE_IDS ? prompt->n : JOUST_PROBE_IDS,
                          label->n < JOUST_PROBE_IDS ? label->n : JOUST_PROBE_IDS};
    if (e->n_probe_label)
        return;
    memcpy(e->probe_prompt, prompt->ids, n[0] * sizeof(*prompt->ids));
    memcpy(e->probe_label, label->ids, n[1] * sizeof(*label->ids));
    e->n_probe_prompt = n[0];
    e->n_probe_label = n[1];
}

uint64_t joust_endpoint_answers(const joust_endpoint *e)
{
    return e->n_answers;
}

void joust_endpoint_prove(joust_endpoint *e, const joust_endpoint_proof *proof)
{
    joust_transfer_abandon_looks(e, JOUST_NONE, joust_clock_ms());
    e->proof = proof;
    joust_look_all(e);
}

uint64_t joust_endpoint_seed(const joust_stream *stream)
{
    return joust_stream_u64(stream, 0) >> 33; /* every server takes 31 bits */
}

/* ---- one request ---- */

static joust_status give_up(run *r, uint32_t i, joust_status status, const char *why,
                            joust_error *err)
{
    slot *s = &r->slots[i];
    joust_error text;
    s->at_ms = INT64_MAX;
    r->n_open--;
    joust_fail(&text, status, "%s", why);
    return r->calls->failed(r->calls->context, i, &text, err);
}

/* The distribution that labels are scored in, as it is. */
static const joust_sampling as_it_is = {.temperature = 1, .top_p = 1, .max_tokens = 1};

static joust_endpoint_ask ask_of(const run *r, const slot *s)
{
    const joust_endpoint_request *q = s->ask;
    joust_endpoint_ask ask = {.sampling = q->sampling,
                              .rollout = q->rollout,
                              .prompt = q->prompt,
                              .is_conversation = q->is_conversation,
                              .ids = q->ids,
                              .n_ids = q->n_ids,
                              .n = q->n,
                              .seed = joust_endpoint_seed(&q->stream)};
    if (q->n_labels == 0)
        return ask;
    ask.sampling = &as_it_is;
    ask.n = 1;
    if (r->e->scoring != JOUST_SCORING_ECHO) {
        ask.top = joust_endpoint_top(r->e->settings);
        return ask;
    }
    ask.label = q->labels[s->n_scored];
    if (q->label_ids) {
        ask.label_ids = q->label_ids[s->n_scored].ids;
        ask.n_label_ids = q->label_ids[s->n_scored].n;
    }
    return ask;
}

static joust_status send_request(run *r, uint32_t i, uint32_t server, joust_error *err)
{
    slot *s = &r->slots[i];
    const joust_endpoint_request *q = s->ask;
    const joust_endpoint_ask ask = ask_of(r, s);
    joust_error why;
    joust_status st = joust_transfer_ask(r->e, server, i, ask, q->id, &why);
    if (st == JOUST_UNSUPPORTED)
        return give_up(r, i, st, why.text, err);
    s->tries++;
    s->at_ms = INT64_MAX;
    return st == JOUST_OK ? st : joust_fail(err, st, "%s", why.text);
}

/* Tells the server's looks of a failed request. */
static void blame_server(run *r, uint32_t server, const joust_exchange *x, bool lasting,
                         int64_t now_ms)
{
    joust_endpoint_server_state *s = &r->e->servers[server];
    const bool asked = s->look == JOUST_LOOK_READY;
    s->n_failures++;
    joust_look_failed(r->e, server, x->why, x->gone, now_ms);
    if (asked && s->look != JOUST_LOOK_READY)
        s->vain = lasting ? s->vain + 1 : 0;
}

/* lasting: it is not the state that the server is in, but what it is or was told. */
static void try_again(run *r, const joust_transfer *t, const joust_exchange *x, bool lasting,
                      int64_t now_ms)
{
    slot *s = &r->slots[t->request];
    s->late = x->late;
    s->lasting = lasting;
    blame_server(r, t->server, x, lasting, now_ms);
    snprintf(s->why, sizeof(s->why), "%.100s: %.200s", r->e->servers[t->server].url, x->why);
    joust_log_debug("endpoint", "%s try %u: %s", s->ask->id, s->tries, s->why);
    s->avoid = t->server;
    s->at_ms = now_ms + joust_endpoint_backoff(&s->ask->stream, s->tries, 0);
}

static joust_status deliver(run *r, const joust_transfer *t, joust_endpoint_answer *answer,
                            joust_error *err)
{
    slot *s = &r->slots[t->request];
    const joust_endpoint_server_state *server = &r->e->servers[t->server];
    joust_endpoint_report report = {.url = server->url,
                                    .tries = s->tries - s->n_scored,
                                    .latency_us = joust_clock_ns() / 1000 - t->begun_us};
    if (r->e->settings->probe && !r->e->proof && server->has_fingerprint)
        report.fingerprint = r->e->reference_name;
    r->n_open--;
    r->n_answered++;
    r->e->n_answers++;
    r->e->servers[t->server].n_answers++;
    if (s->ask->n_labels) {
        s->scores.n = s->ask->n_labels;
        return r->calls->scored(r->calls->context, t->request, &s->scores, &report, err);
    }
    joust_status st = r->calls->answered(r->calls->context, t->request, answer, &report, err);
    joust_endpoint_answer_fini(answer);
    return st;
}

static joust_status read_ids(const run *r, slot *s, const joust_buf *body, joust_error *why)
{
    joust_endpoint_ask ask = ask_of(r, s);
    ask.endpoint = r->e->settings;
    if (r->e->scoring == JOUST_SCORING_ECHO)
        return joust_endpoint_parse_echo_ids(body->data, body->n, &ask, s->n_scored, &s->scores,
                                             why);
    return joust_endpoint_parse_top_ids(body->data, body->n, r->e->settings, s->ask->label_ids,
                                        s->ask->n_labels, &s->scores, why);
}

/* What the body says: an answer, or what a label is worth. */
static joust_status read_body(run *r, const joust_transfer *t, joust_endpoint_answer *answer,
                              joust_error *why)
{
    slot *s = &r->slots[t->request];
    const joust_endpoint_request *q = s->ask;
    const joust_buf *body = &t->received;
    if (q->n_labels == 0)
        return joust_endpoint_parse(body->data, body->n, r->e->settings, q->n,
                                    q->sampling->max_tokens, answer, why);
    if (q->label_ids)
        return read_ids(r, s, body, why);
    return r->e->scoring == JOUST_SCORING_ECHO
               ? joust_endpoint_parse_echo(body->data, body->n, r->e->settings,
                                           q->labels[s->n_scored], s->n_scored, &s->scores, why)
               : joust_endpoint_parse_top(body->data, body->n, r->e->settings, q->labels,
                                          q->n_labels, &s->scores, why);
}

/* Whether another label is to be asked for: at once. */
static bool goes_on(const run *r, slot *s, int64_t now_ms)
{
    if (s->ask->n_labels == 0 || r->e->scoring != JOUST_SCORING_ECHO ||
        s->n_scored + 1 >= s->ask->n_labels)
        return false;
    s->n_scored++;
    s->at_ms = now_ms;
    return true;
}

/* The exchange of a request is over. */
static joust_status end_request(run *r, const joust_transfer *t, joust_exchange *x, int64_t now_ms,
                                joust_error *err)
{
    slot *s = &r->slots[t->request];
    joust_endpoint_answer answer = {0};
    joust_error why;
    joust_status st = JOUST_OK;
    joust_status verdict = JOUST_INVALID; /* on a request that can't be answered */
    if (!x->why[0]) {
        st = read_body(r, t, &answer, &why);
        if (st == JOUST_NOMEM)
            joust_fail(err, st, "%s", why.text);
        else if (s->ask->n_labels && (st == JOUST_INVALID || st == JOUST_DENIED)) {
            verdict = st == JOUST_DENIED ? st : JOUST_MALFORMED;
            x->refused = true; /* it did what it was asked */
            snprintf(x->why, sizeof(x->why), "%.300s", why.text);
        } else if (st != JOUST_OK) {
            x->outcome = st == JOUST_STALE ? JOUST_ENDPOINT_UNFIT : JOUST_ENDPOINT_FAILED;
            s->nonsense += st != JOUST_STALE;
            snprintf(x->why, sizeof(x->why), "%.300s", why.text);
        }
    }
    joust_endpoint_pool_end(r->e->pool, t->server, x->outcome, x->retry_after_ms, now_ms);
    if (st == JOUST_NOMEM)
        return st;
    if (!x->why[0] || x->refused)
        r->e->servers[t->server].vain = 0;
    if (!x->why[0]) {
        r->heard_ms = now_ms;
        return goes_on(r, s, now_ms) ? JOUST_OK : deliver(r, t, &answer, err);
    }
    if (x->refused || s->nonsense >= MAX_NONSENSE) {
        char text[512];
        snprintf(text, sizeof(text), "%.100s: %.320s", r->e->servers[t->server].url, x->why);
        r->e->n_answers += x->refused;
        return give_up(r, t->request, x->refused ? verdict : JOUST_MALFORMED, text, err);
    }
    try_again(r, t, x, x->outcome == JOUST_ENDPOINT_UNFIT || st != JOUST_OK, now_ms);
    return JOUST_OK;
}

/* ---- turns ---- */

/* Why no server took a request: what is wrong with the first that is at fault. */
static void why_nobody(const run *r, int64_t now_ms, char to[400])
{
    snprintf(to, 400, "no server took it");
    for (uint32_t i = 0; i < r->e->settings->n_urls; i++) {
        const joust_endpoint_server_state *s = &r->e->servers[i];
        const bool takes =
            s->look == JOUST_LOOK_READY && joust_endpoint_pool_look_at(r->e->pool, i) <= now_ms;
        if (!s->why[0] || takes)
            continue;
        snprintf(to, 400, "no server took it: %.80s: %.280s", s->url, s->why);
        return;
    }
}

static joust_status expire(run *r, uint32_t i, int64_t now_ms, joust_error *err)
{
    char text[512], nobody[400], all[1024];
    slot *s = &r->slots[i];
    const bool lasting = s->lasting && joust_look_all_unfit(r->e, 1, all);
    why_nobody(r, now_ms, nobody);
    snprintf(text, sizeof(text), "no answer in %u tries over %lld s, the last: %.400s", s->tries,
             (long long)(now_ms - s->begun_ms) / 1000, s->why[0] ? s->why : nobody);
    if (lasting)
        return give_up(r, i, JOUST_UNSUPPORTED, text, err);
    return give_up(r, i, s->tries == 0 || s->late ? JOUST_TIMEOUT : JOUST_UNREACHABLE, text, err);
}

/* Sends what can be sent. *ret_at_ms: lowered to when more can be. */
static joust_status send_due(run *r, int64_t now_ms, int64_t *ret_at_ms, joust_error *err)
{
    joust_status st = JOUST_OK;
    bool full = false;
    for (uint32_t i = 0; st == JOUST_OK && i < r->n; i++) {
        slot *s = &r->slots[i];
        int64_t at = s->at_ms;
        if (at == INT64_MAX)
            continue;
        if (r->calls->wanted && !r->calls->wanted(r->calls->context, i)) {
            s->at_ms = INT64_MAX;
            r->n_open--;
            continue;
        }
        if (now_ms - s->begun_ms >= r->e->settings->deadline_ms) {
            st = expire(r, i, now_ms, err);
            continue;
        }
        if (at <= now_ms && !full) {
            uint32_t server =
                joust_endpoint_pool_pick(r->e->pool, s->ask->key, s->avoid, now_ms, &at);
            if (server != JOUST_NO_SERVER) {
                st = send_request(r, i, server, err);
                continue;
            }
            full = true;
        }
        if (at > now_ms && at < *ret_at_ms)
            *ret_at_ms = at;
    }
    return st;
}

static joust_status collect(run *r, joust_error *err)
{
    joust_exchange x;
    joust_transfer *t;
    joust_status st = JOUST_OK;
    while (st == JOUST_OK && (t = joust_transfer_next(r->e, &x))) {
        int64_t now = joust_clock_ms();
        if (t->request == JOUST_NONE)
            st = joust_look_end(r->e, t, &x, now, err);
        else
            st = end_request(r, t, &x, now, err);
        joust_transfer_end(r->e, t);
    }
    return st;
}

/* What a server with another model, or without permission, would be asked in vain. */
static joust_status fail_hopeless(run *r, joust_error *err)
{
    char why[1024];
    joust_status st = JOUST_OK;
    if (!joust_look_all_unfit(r->e, JOUST_UNFIT_LOOKS, why))
        return JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < r->n; i++)
        if (r->slots[i].at_ms != INT64_MAX)
            st = give_up(r, i, JOUST_UNSUPPORTED, why, err);
    return st;
}

/* Names what a run without answers waits for. */
static void tell_silence(run *r, int64_t now_ms)
{
    if (now_ms - r->heard_ms < SILENT_MS)
        return;
    r->heard_ms = now_ms;
    for (uint32_t i = 0; i < r->e->settings->n_urls; i++) {
        const joust_endpoint_server_state *s = &r->e->servers[i];
        joust_log_warn("endpoint", "%u requests wait; %s has %u of them, last failure: %s",
                       r->n_open, s->url, joust_endpoint_pool_outstanding(r->e->pool, i),
                       s->why[0] ? s->why : "none");
    }
}

static joust_status turn(run *r, joust_error *err)
{
    int64_t now = joust_clock_ms(), at = now + STEP_MS;
    int running;
    joust_status st = JOUST_OK;
    if (now - r->stepped_ms >= STEP_MS) {
        r->stepped_ms = now;
        tell_silence(r, now);
        st = r->calls->step ? r->calls->step(r->calls->context, r->n_answered, err) : JOUST_OK;
    }
    if (st == JOUST_OK)
        st = joust_look_begin(r->e, now, &at, err);
    if (st == JOUST_OK)
        st = send_due(r, now, &at, err);
    if (st != JOUST_OK)
        return st;
    CURLMcode code = curl_multi_perform(r->e->multi, &running);
    if (code == CURLM_OK)
        st = collect(r, err);
    if (st == JOUST_OK)
        st = fail_hopeless(r, err);
    if (st != JOUST_OK || r->n_open == 0)
        return st;
    if (code == CURLM_OK)
        code = curl_multi_poll(r->e->multi, NULL, 0, at > now ? (int)(at - now) : 0, NULL);
    return code == CURLM_OK ? JOUST_OK
                            : joust_fail(err, JOUST_IO, "endpoint: %s", curl_multi_strerror(code));
}

joust_status joust_endpoint_run(joust_endpoint *e, const joust_endpoint_request *requests,
                                uint32_t n, const joust_endpoint_calls *calls, joust_error *err)
{
    int64_t now = joust_clock_ms();
    run r = {.e = e, .calls = calls, .n = n, .n_open = n, .heard_ms = now};
    joust_status st = JOUST_OK;
    r.slots = joust_calloc(n, sizeof(*r.slots));
    if (!r.slots)
        return joust_fail(err, JOUST_NOMEM, "endpoint: %u requests", n);
    for (uint32_t i = 0; i < n; i++)
        r.slots[i] =
            (slot){.ask = &requests[i], .at_ms = now, .begun_ms = now, .avoid = JOUST_NO_SERVER};
    for (uint32_t i = 0; i < e->settings->n_urls; i++)
        e->servers[i].vain = 0;
    if (now - e->ended_ms > LOOK_KEPT_MS)
        joust_transfer_abandon_looks(e, JOUST_NONE, now);
    while (st == JOUST_OK && r.n_open > 0)
        st = turn(&r, err);
    e->ended_ms = joust_clock_ms();
    joust_transfer_abandon_requests(e, e->ended_ms);
    joust_free(r.slots);
    return st;
}
