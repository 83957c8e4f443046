/* Exchanges over libcurl's multi interface: its connection pool, one thread. */
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "worker/endpoint/endpoint_internal.h"

static size_t receive(char *data, size_t size, size_t n, void *arg)
{
    joust_transfer *t = arg;
    size_t bytes = size * n;
    t->too_large = t->too_large || bytes > t->limit - t->received.n;
    if (t->too_large)
        return 0;
    joust_buf_add(&t->received, data, bytes);
    return joust_buf_ok(&t->received) ? bytes : 0;
}

void joust_endpoint_redact(const joust_endpoint *e, char *text)
{
    size_t n = e->key ? strlen(e->key) : 0;
    for (char *at = text; n && (at = strstr(at, e->key)); at += n)
        memset(at, '*', n);
}

static void transfer_free(joust_transfer *t)
{
    if (!t)
        return;
    curl_slist_free_all(t->headers);
    curl_easy_cleanup(t->easy);
    joust_buf_fini(&t->sent);
    joust_buf_fini(&t->received);
    joust_free(t);
}

/* An idle transfer, or a new one. */
static joust_transfer *take(joust_endpoint *e)
{
    joust_transfer *t = e->idle;
    if (t) {
        e->idle = t->next;
        curl_easy_reset(t->easy);
        return t;
    }
    t = joust_calloc(1, sizeof(*t));
    if (t && !(t->easy = curl_easy_init())) {
        joust_free(t);
        return NULL;
    }
    return t;
}

static void give_back(joust_endpoint *e, joust_transfer *t)
{
    curl_slist_free_all(t->headers);
    t->headers = NULL;
    joust_buf_fini(&t->sent);
    joust_buf_fini(&t->received);
    t->next = e->idle;
    e->idle = t;
}

static bool add_header(joust_transfer *t, const char *line)
{
    struct curl_slist *longer = curl_slist_append(t->headers, line);
    if (longer)
        t->headers = longer;
    return longer != NULL;
}

static bool add_headers(const joust_endpoint *e, joust_transfer *t, const char *id)
{
    char line[128], try[128];
    const uint64_t names[2] = {joust_checksum(id, strlen(id)),
                               (uint64_t)t->begun_us * JOUST_MAX_URLS + t->server};
    const uint64_t mixed = joust_checksum(names, sizeof(names));
    /* Some servers take nothing but a UUID, of which each try has its own. */
    snprintf(try, sizeof(try), "X-Request-Id: %08x-%04x-4%03x-8%03x-%012llx",
             (unsigned)(names[0] >> 32), (unsigned)(names[0] >> 16 & 0xffff),
             (unsigned)(names[0] >> 4 & 0xfff), (unsigned)(mixed >> 48 & 0xfff),
             (unsigned long long)(mixed & 0xffffffffffff));
    snprintf(line, sizeof(line), "X-Joust-Request: %.64s", id);
    return add_header(t, "Content-Type: application/json") && add_header(t, "Expect:") &&
           add_header(t, line) && add_header(t, try) &&
           (!e->authorization || add_header(t, e->authorization));
}

static void set_options(const joust_endpoint *e, joust_transfer *t, const char *url)
{
    const joust_job_endpoint *s = e->settings;
    CURL *c = t->easy;
    curl_easy_setopt(c, CURLOPT_URL, url); /* copied */
    curl_easy_setopt(c, CURLOPT_PRIVATE, (void *)t);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, t->headers);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, receive);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, (void *)t);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, t->problem);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
#if LIBCURL_VERSION_NUM >= 0x075500
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
#else
    curl_easy_setopt(c, CURLOPT_PROTOCOLS, (long)(CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 1L);
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 2L);
    curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2);
    if (s->ca_file)
        curl_easy_setopt(c, CURLOPT_CAINFO, s->ca_file); /* copied */
    curl_easy_setopt(c, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "joust");
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)s->connect_ms);
    curl_easy_setopt(c, CURLOPT_TIMEOUT_MS, (long)s->timeout_ms);
    if (!t->sent.data)
        return;
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, (char *)t->sent.data);
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)t->sent.n);
}

joust_status joust_transfer_begin(joust_endpoint *e, uint32_t server, uint32_t request,
                                  const char *path, joust_buf *body, const char *id, size_t limit,
                                  joust_error *err)
{
    char url[JOUST_MAX_URL_BYTES + 64];
    joust_transfer *t;
    if (!joust_grow(&e->transfers, e->n_transfers, &e->capacity, sizeof(*e->transfers)) ||
        !(t = take(e)))
        return joust_fail(err, JOUST_NOMEM, "endpoint: out of memory");
    t->server = server;
    t->request = request;
    t->limit = limit;
    t->too_large = false;
    t->problem[0] = '\0';
    t->begun_us = joust_clock_ns() / 1000;
    if (body) {
        t->sent = *body;
        *body = (joust_buf){0};
    }
    snprintf(url, sizeof(url), "%s%s", e->servers[server].url, path);
    bool ready = add_headers(e, t, id);
    if (ready)
        set_options(e, t, url);
    CURLMcode code = ready ? curl_multi_add_handle(e->multi, t->easy) : CURLM_OUT_OF_MEMORY;
    if (code != CURLM_OK) {
        give_back(e, t);
        return joust_fail(err, code == CURLM_OUT_OF_MEMORY ? JOUST_NOMEM : JOUST_IO, "endpoint: %s",
                          curl_multi_strerror(code));
    }
    e->transfers[e->n_transfers++] = t;
    joust_endpoint_pool_begin(e->pool, server);
    return JOUST_OK;
}

/* Answers with log-probs of a prompt have a line for each of its tokens, of which there are no more than bytes. */
static size_t limit_of(const joust_endpoint_ask *ask)
{
    const size_t given = ask->prompt && ask->label ? strlen(ask->prompt) + strlen(ask->label)
                                                   : (size_t)ask->n_ids + ask->n_label_ids;
    const size_t tokens = ask->sampling->max_tokens + ask->top + (ask->label ? given : 0);
    return joust_endpoint_answer_limit(ask->n, tokens > UINT32_MAX ? UINT32_MAX : (uint32_t)tokens);
}

joust_status joust_transfer_ask(joust_endpoint *e, uint32_t server, uint32_t request,
                                joust_endpoint_ask ask, const char *id, joust_error *err)
{
    const char *path =
        e->settings->mode == JOUST_ENDPOINT_CHAT ? "/chat/completions" : "/completions";
    joust_buf body = {0};
    ask.endpoint = e->settings;
    ask.server = e->servers[server].kind;
    joust_status st = joust_endpoint_body(&ask, &body, err);
    if (st == JOUST_OK)
        st = joust_transfer_begin(e, server, request, path, &body, id, limit_of(&ask), err);
    joust_buf_fini(&body);
    return st;
}

void joust_transfer_end(joust_endpoint *e, joust_transfer *t)
{
    curl_multi_remove_handle(e->multi, t->easy);
    for (uint32_t i = 0; i < e->n_transfers; i++)
        if (e->transfers[i] == t)
            e->transfers[i] = e->transfers[--e->n_transfers];
    give_back(e, t);
}

static void abandon(joust_endpoint *e, joust_transfer *t, int64_t now_ms)
{
    joust_endpoint_pool_end(e->pool, t->server, JOUST_ENDPOINT_ABANDONED, 0, now_ms);
    if (t->request == JOUST_NONE && e->servers[t->server].look != JOUST_LOOK_DOWN)
        e->servers[t->server].look = JOUST_LOOK_DUE;
    joust_transfer_end(e, t);
}

void joust_transfer_abandon_requests(joust_endpoint *e, int64_t now_ms)
{
    for (uint32_t i = e->n_transfers; i-- > 0;) /* the last one takes the place of one that goes */
        if (e->transfers[i]->request != JOUST_NONE)
            abandon(e, e->transfers[i], now_ms);
}

void joust_transfer_abandon_looks(joust_endpoint *e, uint32_t server, int64_t now_ms)
{
    for (uint32_t i = e->n_transfers; i-- > 0;)
        if (e->transfers[i]->request == JOUST_NONE &&
            (server == JOUST_NONE || e->transfers[i]->server == server))
            abandon(e, e->transfers[i], now_ms);
}

void joust_transfer_fini(joust_endpoint *e)
{
    while (e->idle) {
        joust_transfer *t = e->idle;
        e->idle = t->next;
        transfer_free(t);
    }
    joust_free(e->transfers);
}

/* ---- how it went ---- */

static joust_exchange read_failure(const joust_endpoint *e, const joust_transfer *t, CURLcode code)
{
    const bool untrusted = code == CURLE_PEER_FAILED_VERIFICATION ||
                           code == CURLE_SSL_CACERT_BADFILE || code == CURLE_SSL_ISSUER_ERROR;
    joust_exchange x = {.outcome = untrusted ? JOUST_ENDPOINT_UNFIT : JOUST_ENDPOINT_FAILED,
                        .late = code == CURLE_OPERATION_TIMEDOUT,
                        .gone = code == CURLE_COULDNT_CONNECT};
    if (untrusted)
        snprintf(x.why, sizeof(x.why),
                 "its certificate isn't trusted: %.150s: name who signs it in "
                 "endpoint.ca_file, and the server by the name in its certificate",
                 t->problem[0] ? t->problem : curl_easy_strerror(code));
    else if (t->too_large)
        snprintf(x.why, sizeof(x.why), "an answer of more than %zu bytes", t->limit);
    else
        snprintf(x.why, sizeof(x.why), "%.250s",
                 t->problem[0] ? t->problem : curl_easy_strerror(code));
    joust_endpoint_redact(e, x.why);
    return x;
}

static joust_endpoint_outcome outcome_of(long status, bool retry_after)
{
    if (status == 429 || (status == 503 && retry_after))
        return JOUST_ENDPOINT_BUSY;
    if (status == 408 || status == 425 || status >= 500)
        return JOUST_ENDPOINT_FAILED;
    if (status == 401 || status == 403 || status == 404 || status < 400)
        return JOUST_ENDPOINT_UNFIT;
    return JOUST_ENDPOINT_ANSWERED;
}

static joust_exchange read_status(const joust_endpoint *e, const joust_transfer *t)
{
    joust_exchange x = {.outcome = JOUST_ENDPOINT_ANSWERED};
    long status = 0;
    curl_off_t seconds = 0;
    char text[256];
    curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &status);
    if (status == 200)
        return x;
    curl_easy_getinfo(t->easy, CURLINFO_RETRY_AFTER, &seconds);
    if (seconds > JOUST_ENDPOINT_MAX_REST_MS / 1000)
        seconds = JOUST_ENDPOINT_MAX_REST_MS / 1000;
    x.outcome = outcome_of(status, seconds > 0);
    x.status = status;
    x.late = x.outcome == JOUST_ENDPOINT_BUSY || status == 408 || status == 504;
    x.refused = x.outcome == JOUST_ENDPOINT_ANSWERED;
    x.retry_after_ms = seconds > 0 ? (int64_t)seconds * 1000 : 0;
    joust_endpoint_error_text(t->received.data, t->received.n, text);
    snprintf(x.why, sizeof(x.why), "HTTP status %ld: %s%s", status, text,
             status >= 300 && status < 400 ? " (redirects aren't followed)" : "");
    joust_endpoint_redact(e, x.why);
    return x;
}

joust_transfer *joust_transfer_next(joust_endpoint *e, joust_exchange *ret)
{
    CURLMsg *m;
    int left;
    while ((m = curl_multi_info_read(e->multi, &left))) {
        joust_transfer *t = NULL;
        if (m->msg != CURLMSG_DONE)
            continue;
        CURLcode code = m->data.result;
        curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)(void *)&t);
        *ret = code == CURLE_OK ? read_status(e, t) : read_failure(e, t, code);
        return t;
    }
    return NULL;
}
