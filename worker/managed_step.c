/* What each managed server goes through. */
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/log.h"
#include "proto/base/text.h"
#include "worker/managed_internal.h"

#define ASK_MS        200 /* between two questions whether it is ready */
#define FIRST_WAIT_MS 500 /* before a second start, then twice as long each time */
#define LAST_WAIT_MS  30000
#define STEADY_MS     10000 /* who was live so long begins with fresh patience */
#define LONGEST_MS    1000  /* that counts between two turns: nobody looks while nothing is asked */
#define MAX_FAILURES  3u    /* in a row, then it is lost */

#define RELOAD    "/collective_rpc", "{\"method\":\"reload_weights\"}"
#define FROM_DISK "/update_weights_from_disk", "{\"model_path\":%s,\"flush_cache\":true}"
#define RESET_PREFIX                                                                               \
    {                                                                                              \
        "/reset_prefix_cache", NULL                                                                \
    }
#define FLUSH                                                                                      \
    {                                                                                              \
        "/flush_cache", NULL                                                                       \
    }
#define END                                                                                        \
    {                                                                                              \
        NULL, NULL                                                                                 \
    }

static const joust_server_call VLLM_PUBLISH[] = {{RELOAD}, RESET_PREFIX, END};
static const joust_server_call VLLM_SLEEP[] = {{"/sleep?level=2", NULL}, END};
static const joust_server_call VLLM_WAKE[] = {
    {"/wake_up?tags=weights", NULL}, {RELOAD}, {"/wake_up?tags=kv_cache", NULL}, RESET_PREFIX, END};
static const joust_server_call SGLANG_PUBLISH[] = {{FROM_DISK}, FLUSH, END};
static const joust_server_call SGLANG_SLEEP[] = {FLUSH, {"/release_memory_occupation", NULL}, END};
static const joust_server_call SGLANG_WAKE[] = {
    {"/resume_memory_occupation", NULL}, {FROM_DISK}, FLUSH, END};
/* The job's own call: its path is serve.publish. */
static const joust_server_call OWN_PUBLISH[] = {{"", "{\"model_path\":%s,\"version\":%llu}"}, END};

static bool is(const char *text, const char *name)
{
    return strcmp(text, name) == 0;
}

/* ---- failing ---- */

static void go_down(joust_managed *m, uint32_t i, joust_server_state state, int64_t at_ms)
{
    joust_server *s = &m->servers[i];
    joust_endpoint_set_up(m->endpoint, i, false);
    joust_http_call_free(&s->call);
    if (s->child)
        joust_child_stop(s->child);
    s->state = state;
    s->at_ms = at_ms;
}

static void lose(joust_managed *m, uint32_t i)
{
    joust_server *s = &m->servers[i];
    char why[300];
    joust_log_error("serve", "%s gets no work of version %llu: %s; its output: %s", s->name,
                    (unsigned long long)m->version.version, s->why, s->log);
    snprintf(why, sizeof(why), "%.100s: %.190s", s->name, s->why);
    go_down(m, i, JOUST_SERVER_LOST, 0);
    joust_endpoint_give_up(m->endpoint, i, why);
}

/* It didn't do what it should, as s->why says: it is started again later, or given up. */
static void fail(joust_managed *m, uint32_t i, int64_t now_ms)
{
    joust_server *s = &m->servers[i];
    if (++s->failures >= MAX_FAILURES) {
        lose(m, i);
        return;
    }
    int64_t wait = (int64_t)FIRST_WAIT_MS << s->failures;
    wait = wait < LAST_WAIT_MS ? wait : LAST_WAIT_MS;
    joust_log_warn("serve", "%s (%s): %s; it is started again in %.1f s; its output: %s", s->name,
                   s->url, s->why, (double)wait / 1000, s->log);
    go_down(m, i, JOUST_SERVER_STOPPING, now_ms + wait);
}

/* ---- starting ---- */

static joust_status start_child(joust_managed *m, uint32_t i, joust_error *err)
{
    joust_server *s = &m->servers[i];
    char port[8], replica[16], version[24];
    const joust_placeholder places[] = {{"model", m->served},
                                        {"port", port},
                                        {"name", m->settings.model},
                                        {"replica", replica},
                                        {"version", version}};
    const char *environment[] = {s->gpus, NULL};
    joust_buf command = {0};
    snprintf(port, sizeof(port), "%u", s->port);
    snprintf(replica, sizeof(replica), "%u", i);
    snprintf(version, sizeof(version), "%llu", (unsigned long long)m->version.version);
    joust_status st = joust_command_fill(m->serve->command, places,
                                         sizeof(places) / sizeof(*places), &command, err);
    if (st == JOUST_OK) {
        joust_child_options o = {.command = (const char *)command.data,
                                 .environment = environment,
                                 .log_path = s->log,
                                 .program = m->program};
        st = joust_child_start(&o, &s->child, err);
    }
    joust_buf_fini(&command);
    return st;
}

static joust_status start(joust_managed *m, uint32_t i, int64_t now_ms, joust_error *err)
{
    joust_server *s = &m->servers[i];
    joust_error why;
    joust_status st = joust_server_choose_port(m, i)
                          ? start_child(m, i, &why)
                          : joust_fail(&why, JOUST_IO, "no port is free for it");
    if (st == JOUST_NOMEM)
        return joust_fail(err, st, "%s", why.text);
    if (st != JOUST_OK) {
        snprintf(s->why, sizeof(s->why), "%.250s", why.text);
        fail(m, i, now_ms);
        return JOUST_OK;
    }
    joust_log_info("serve", "%s starts at %s with version %llu", s->name, s->url,
                   (unsigned long long)m->version.version);
    s->state = JOUST_SERVER_STARTING;
    s->at_ms = now_ms + m->serve->deadline_ms;
    s->ask_ms = now_ms;
    s->has = m->version.manifest;
    snprintf(s->why, sizeof(s->why), "nothing of '%.60s' yet", m->serve->ready);
    return JOUST_OK;
}

/* Base URL of the server, without /v1. */
static void url_of(const joust_server *s, const char *path, char to[JOUST_SERVER_URL_BYTES + 260])
{
    snprintf(to, JOUST_SERVER_URL_BYTES + 260, "http://127.0.0.1:%u%.256s", s->port, path);
}

/* By what it prints. */
static bool has_printed(joust_managed *m, joust_server *s)
{
    const char *line;
    while ((line = joust_child_line(s->child, false)))
        if (strstr(line, m->serve->ready))
            return true;
    return false;
}

static joust_status is_ready(joust_managed *m, uint32_t i, int64_t now_ms, bool *ret,
                             joust_error *err)
{
    joust_server *s = &m->servers[i];
    char url[JOUST_SERVER_URL_BYTES + 260];
    joust_error why;
    *ret = false;
    if (m->serve->ready[0] != '/') {
        *ret = has_printed(m, s);
        return JOUST_OK;
    }
    if (!s->call) {
        if (now_ms < s->ask_ms)
            return JOUST_OK;
        s->ask_ms = now_ms + ASK_MS;
        url_of(s, m->serve->ready, url);
        return joust_http_call_begin(url, NULL, m->serve->deadline_ms, &s->call, err);
    }
    joust_status st = joust_http_call_turn(s->call, &why);
    if (st == JOUST_AGAIN)
        return JOUST_OK;
    joust_http_call_free(&s->call);
    if (st != JOUST_OK)
        snprintf(s->why, sizeof(s->why), "%.60s: %.180s", m->serve->ready, why.text);
    *ret = st == JOUST_OK;
    return JOUST_OK;
}

static void go_live(joust_managed *m, uint32_t i, int64_t now_ms)
{
    joust_server *s = &m->servers[i];
    s->state = JOUST_SERVER_LIVE;
    s->at_ms = s->turned_ms = now_ms;
    s->unproved_ms = 0;
    joust_endpoint_set_up(m->endpoint, i, true);
}

static joust_status wait_ready(joust_managed *m, uint32_t i, int64_t now_ms, joust_error *err)
{
    joust_server *s = &m->servers[i];
    bool ready;
    joust_status st = is_ready(m, i, now_ms, &ready, err);
    if (st != JOUST_OK)
        return st;
    if (ready) {
        joust_log_info("serve", "%s is ready", s->name);
        go_live(m, i, now_ms);
    } else if (now_ms >= s->at_ms) {
        char last[128];
        snprintf(last, sizeof(last), "%.127s", s->why);
        snprintf(s->why, sizeof(s->why), "it isn't ready after %.1f s: %s",
                 (double)m->serve->deadline_ms / 1000, last);
        fail(m, i, now_ms);
    }
    return JOUST_OK;
}

/* ---- calls ---- */

static void begin_calls(joust_managed *m, uint32_t i, const joust_server_call *calls, bool to_sleep,
                        int64_t now_ms)
{
    joust_server *s = &m->servers[i];
    joust_endpoint_set_up(m->endpoint, i, false);
    s->state = JOUST_SERVER_CALLING;
    s->calls = calls;
    s->to_sleep = to_sleep;
    s->at_ms = now_ms + m->serve->deadline_ms;
    if (!to_sleep)
        s->has = m->version.manifest;
}

static joust_status begin_call(joust_managed *m, joust_server *s, joust_error *err)
{
    char url[JOUST_SERVER_URL_BYTES + 260];
    const char *form = s->calls->body ? s->calls->body : "{}";
    joust_buf folder = {0}, body = {0};
    url_of(s, s->calls->path[0] ? s->calls->path : m->serve->publish, url);
    joust_json_string(&folder, m->dir, strlen(m->dir));
    for (const char *at = form; *at;) {
        if (strncmp(at, "%s", 2) == 0) {
            joust_buf_add(&body, folder.data, folder.n);
            at += 2;
        } else if (strncmp(at, "%llu", 4) == 0) {
            joust_buf_format(&body, "%llu", (unsigned long long)m->version.version);
            at += 4;
        } else {
            joust_buf_add(&body, at++, 1);
        }
    }
    joust_status st =
        joust_buf_ok(&folder) ? joust_buf_status(&body, err) : joust_buf_status(&folder, err);
    if (st == JOUST_OK)
        st = joust_http_call_begin(url, (const char *)body.data, m->serve->deadline_ms, &s->call,
                                   err);
    joust_buf_fini(&folder);
    joust_buf_fini(&body);
    return st;
}

static joust_status go_through_calls(joust_managed *m, uint32_t i, int64_t now_ms, joust_error *err)
{
    joust_server *s = &m->servers[i];
    joust_error why;
    if (!s->calls->path) {
        if (!s->to_sleep)
            go_live(m, i, now_ms);
        else
            s->state = JOUST_SERVER_ASLEEP;
        return JOUST_OK;
    }
    if (!s->call)
        return begin_call(m, s, err);
    joust_status st = joust_http_call_turn(s->call, &why);
    if (st == JOUST_AGAIN && now_ms < s->at_ms)
        return JOUST_OK;
    joust_http_call_free(&s->call);
    if (st == JOUST_OK) {
        s->calls++;
        return JOUST_OK;
    }
    snprintf(s->why, sizeof(s->why), "POST %.60s: %.180s",
             s->calls->path[0] ? s->calls->path : m->serve->publish,
             st == JOUST_AGAIN ? "no answer by its deadline" : why.text);
    fail(m, i, now_ms);
    return JOUST_OK;
}

/* ---- versions, sleep ---- */

static void publish(joust_managed *m, uint32_t i, int64_t now_ms)
{
    const char *how = m->serve->publish;
    joust_log_info("serve", "%s is given version %llu: %s", m->servers[i].name,
                   (unsigned long long)m->version.version, how);
    if (is(how, JOUST_PUBLISH_RESTART))
        go_down(m, i, JOUST_SERVER_STOPPING, now_ms);
    else if (is(how, JOUST_PUBLISH_VLLM))
        begin_calls(m, i, VLLM_PUBLISH, false, now_ms);
    else if (is(how, JOUST_PUBLISH_SGLANG))
        begin_calls(m, i, SGLANG_PUBLISH, false, now_ms);
    else
        begin_calls(m, i, OWN_PUBLISH, false, now_ms);
}

/* Its answers to the probes were those of other weights. */
static void heal(joust_managed *m, uint32_t i, const char *why, int64_t now_ms)
{
    joust_server *s = &m->servers[i];
    snprintf(s->why, sizeof(s->why), "%.250s", why);
    if (joust_digest_equal(&s->healing, &m->version.manifest)) {
        lose(m, i);
        return;
    }
    s->healing = m->version.manifest;
    joust_log_warn("serve", "%s (%s) doesn't have version %llu: %s; it is started again with it",
                   s->name, s->url, (unsigned long long)m->version.version, why);
    go_down(m, i, JOUST_SERVER_STOPPING, now_ms);
}

static void put_to_sleep(joust_managed *m, uint32_t i, int64_t now_ms)
{
    if (is(m->serve->sleep, JOUST_SLEEP_STOP))
        go_down(m, i, JOUST_SERVER_STOPPING, now_ms);
    else
        begin_calls(m, i, is(m->serve->sleep, JOUST_PUBLISH_VLLM) ? VLLM_SLEEP : SGLANG_SLEEP, true,
                    now_ms);
}

/* Whether it has answered no probe for longer than it may. */
static bool is_mute(joust_managed *m, uint32_t i, int64_t now_ms)
{
    joust_server *s = &m->servers[i];
    int64_t since = now_ms - s->turned_ms;
    s->turned_ms = now_ms;
    s->unproved_ms += since < LONGEST_MS ? since : LONGEST_MS;
    if (joust_endpoint_is_ready(m->endpoint, i))
        s->unproved_ms = 0;
    return s->unproved_ms > m->serve->deadline_ms;
}

static void live(joust_managed *m, uint32_t i, int64_t now_ms)
{
    joust_server *s = &m->servers[i];
    const char *why;
    bool mute = is_mute(m, i, now_ms);
    if (m->resting)
        put_to_sleep(m, i, now_ms);
    else if (!joust_digest_equal(&s->has, &m->version.manifest))
        publish(m, i, now_ms);
    else if (joust_endpoint_is_unfit(m->endpoint, i, &why))
        heal(m, i, why, now_ms);
    if (!mute || s->state != JOUST_SERVER_LIVE)
        return;
    snprintf(s->why, sizeof(s->why), "it is ready, but has answered no probe for %.1f s",
             (double)m->serve->deadline_ms / 1000);
    fail(m, i, now_ms);
}

/* ---- turns ---- */

static void bury(joust_managed *m, uint32_t i, int status, int64_t now_ms)
{
    joust_server *s = &m->servers[i];
    joust_child_free(&s->child, 0);
    joust_http_call_free(&s->call);
    if (s->state == JOUST_SERVER_STOPPING) {
        s->state = JOUST_SERVER_OFF;
        return;
    }
    if (s->state == JOUST_SERVER_LOST || s->state == JOUST_SERVER_OFF)
        return;
    if (s->state == JOUST_SERVER_LIVE && now_ms - s->at_ms >= STEADY_MS)
        s->failures = 0;
    snprintf(s->why, sizeof(s->why), "it ended with status %d", status);
    fail(m, i, now_ms);
    if (s->state == JOUST_SERVER_STOPPING) /* there is nothing to wait for */
        s->state = JOUST_SERVER_OFF;
}

joust_status joust_server_turn(joust_managed *m, uint32_t i, int64_t now_ms, joust_error *err)
{
    joust_server *s = &m->servers[i];
    int status;
    if (s->child && joust_child_ended(s->child, &status))
        bury(m, i, status, now_ms);
    switch (s->state) {
    case JOUST_SERVER_OFF:
        return m->wanted && !m->resting && now_ms >= s->at_ms ? start(m, i, now_ms, err) : JOUST_OK;
    case JOUST_SERVER_STARTING:
        if (m->resting) {
            go_down(m, i, JOUST_SERVER_STOPPING, now_ms);
            return JOUST_OK;
        }
        return wait_ready(m, i, now_ms, err);
    case JOUST_SERVER_LIVE:
        live(m, i, now_ms);
        return JOUST_OK;
    case JOUST_SERVER_CALLING:
        return go_through_calls(m, i, now_ms, err);
    case JOUST_SERVER_STOPPING:
        if (!s->child)
            s->state = JOUST_SERVER_OFF;
        return JOUST_OK;
    case JOUST_SERVER_ASLEEP:
        if (!m->resting)
            begin_calls(m, i, is(m->serve->sleep, JOUST_PUBLISH_VLLM) ? VLLM_WAKE : SGLANG_WAKE,
                        false, now_ms);
        return JOUST_OK;
    case JOUST_SERVER_LOST:
        return JOUST_OK;
    }
    return JOUST_OK;
}
