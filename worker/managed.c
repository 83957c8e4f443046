#include "worker/managed.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "proto/base/log.h"
#include "worker/managed_internal.h"

#define PORTS   1024u /* that are tried from serve.port on */
#define TURN_MS 20

/* ---- ports ---- */

static bool is_taken(const joust_managed *m, uint32_t except, uint16_t port)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (i != except && m->servers[i].port == port)
            return true;
    return false;
}

bool joust_server_choose_port(joust_managed *m, uint32_t index)
{
    joust_server *s = &m->servers[index];
    uint32_t first = m->serve->port ? m->serve->port + index : 0;
    for (uint32_t k = 0; k < PORTS; k++) {
        uint16_t port = (uint16_t)(k == 0 && s->port ? s->port : first ? first + k : 0);
        if (first + k > 65535 || !joust_port_find(port, &port) || is_taken(m, index, port))
            continue;
        s->port = port;
        snprintf(s->url, sizeof(s->url), "http://127.0.0.1:%u/v1", port);
        return true;
    }
    return false;
}

/* ---- making ---- */

static joust_status open_server(joust_managed *m, uint32_t index, const char *logs,
                                const char *worker, joust_error *err)
{
    char file[192];
    joust_server *s = &m->servers[index];
    snprintf(s->name, sizeof(s->name), "%.63s-%.63s-%u", worker, m->model->name, index);
    snprintf(file, sizeof(file), "%s.log", s->name);
    for (char *c = file; *c; c++)
        if (*c == '/')
            *c = '_';
    s->log = joust_path_join(logs, file);
    m->settings.urls[index] = s->url;
    if (!s->log)
        return joust_fail(err, JOUST_NOMEM, "servers: out of memory");
    if (!joust_server_choose_port(m, index))
        return joust_fail(err, JOUST_IO, "models.%s.serve: no port is free", m->model->name);
    joust_status st = joust_gpus_choose(m->serve->gpus, index * m->serve->gpus, &s->gpus, err);
    return st == JOUST_INVALID
               ? joust_blame(err, st, "models.%s.serve.gpus: %u servers", m->model->name, m->n)
               : st;
}

joust_status joust_managed_create(const joust_managed_options *o, joust_managed **ret,
                                  joust_error *err)
{
    joust_managed *m = joust_calloc(1, sizeof(*m));
    if (!m)
        return joust_fail(err, JOUST_NOMEM, "servers: out of memory");
    m->model = o->model;
    m->serve = &o->model->serve;
    m->n = o->model->serve.replicas;
    m->settings = o->model->endpoint;
    m->settings.n_urls = m->n;
    m->folder = joust_strdup(o->folder);
    m->program = o->program ? joust_strdup(o->program) : NULL;
    joust_status st = JOUST_OK;
    if (!m->folder || (o->program && !m->program))
        st = joust_fail(err, JOUST_NOMEM, "servers: out of memory");
    if (st == JOUST_OK)
        st = joust_dir_make(o->folder, err);
    if (st == JOUST_OK)
        st = joust_path_absolute(&m->folder, err); /* a command may change its folder */
    if (st == JOUST_OK)
        st = joust_dir_make(o->logs, err);
    for (uint32_t i = 0; st == JOUST_OK && i < m->n; i++)
        st = open_server(m, i, o->logs, o->worker, err);
    if (st == JOUST_OK)
        st = joust_endpoint_create(&m->settings, &m->endpoint, err);
    if (st != JOUST_OK) {
        joust_managed_free(&m);
        return st;
    }
    for (uint32_t i = 0; i < m->n; i++)
        joust_endpoint_set_up(m->endpoint, i, false);
    *ret = m;
    return JOUST_OK;
}

void joust_managed_free(joust_managed **managed)
{
    joust_managed *m = *managed;
    if (!m)
        return;
    for (uint32_t i = 0; i < m->n; i++) {
        joust_http_call_free(&m->servers[i].call);
        joust_child_free(&m->servers[i].child, 0);
        joust_free(m->servers[i].gpus);
        joust_free(m->servers[i].log);
    }
    joust_endpoint_free(&m->endpoint);
    joust_free(m->folder);
    joust_free(m->program);
    joust_free(m->dir);
    joust_free(m->before);
    joust_free(m->served);
    joust_free(m);
    *managed = NULL;
}

joust_endpoint *joust_managed_endpoint(joust_managed *m)
{
    return m->endpoint;
}

const joust_job_endpoint *joust_managed_settings(const joust_managed *m)
{
    return &m->settings;
}

uint32_t joust_managed_ready(const joust_managed *m)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n; i++)
        n += m->servers[i].state == JOUST_SERVER_LIVE && joust_endpoint_is_ready(m->endpoint, i);
    return n;
}

/* ---- versions ---- */

/* A link that stays and always shows the newest version: for servers that read again what they were started with. */
static joust_status point_link(joust_managed *m, joust_error *err)
{
    char *path = joust_path_join(m->folder, "current"), *next = joust_path_join(m->folder, "next");
    const char *slash = strrchr(m->dir, '/');
    joust_status st = JOUST_OK;
    if (!path || !next)
        st = joust_fail(err, JOUST_NOMEM, "servers: out of memory");
    else if ((unlink(next) != 0 && errno != ENOENT) ||
             symlink(slash ? slash + 1 : m->dir, next) != 0 || rename(next, path) != 0)
        st = joust_fail(err, joust_status_of_errno(errno), "%s: %s", path, strerror(errno));
    joust_free(next);
    joust_free(m->served);
    m->served = path;
    return st;
}

static joust_status take_version(joust_managed *m, const joust_model_ref *version, const char *dir,
                                 joust_error *err)
{
    char name[64], hex[JOUST_DIGEST_HEX];
    snprintf(name, sizeof(name), "v%llu-%.12s", (unsigned long long)version->version,
             joust_digest_hex(&version->manifest, hex));
    char *path = joust_path_join(m->folder, name);
    joust_status st = path ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "servers: out of memory");
    if (st == JOUST_OK && m->before && strcmp(m->before, path) != 0)
        st = joust_dir_remove(m->before, err);
    if (st == JOUST_OK)
        st = joust_dir_link(dir, path, err);
    if (st != JOUST_OK) {
        joust_free(path);
        return st;
    }
    joust_free(m->before);
    m->before = m->dir;
    m->dir = path;
    if (strcmp(m->serve->publish, JOUST_PUBLISH_VLLM) == 0)
        return point_link(m, err);
    joust_free(m->served);
    m->served = joust_strdup(path);
    return m->served ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "servers: out of memory");
}

joust_status joust_managed_want(joust_managed *m, const joust_model_ref *version, const char *dir,
                                const joust_endpoint_proof *proof, joust_error *err)
{
    bool same = m->wanted && joust_digest_equal(&m->version.manifest, &version->manifest);
    if (!same) {
        joust_status st = take_version(m, version, dir, err);
        if (st != JOUST_OK)
            return st;
        m->version = *version;
        for (uint32_t i = 0; i < m->n; i++) { /* another chance for who was lost */
            joust_server *s = &m->servers[i];
            s->failures = 0;
            if (s->state == JOUST_SERVER_LOST)
                s->state = JOUST_SERVER_STOPPING;
        }
        joust_endpoint_prove(m->endpoint, proof);
    }
    m->wanted = true;
    m->resting = false;
    return JOUST_OK;
}

/* ---- turns ---- */

joust_status joust_managed_turn(joust_managed *m, bool *ret_busy, joust_error *err)
{
    joust_status st = JOUST_OK;
    *ret_busy = false;
    for (uint32_t i = 0; st == JOUST_OK && i < m->n; i++) {
        st = joust_server_turn(m, i, joust_clock_ms(), err);
        joust_server_state state = m->servers[i].state;
        *ret_busy = *ret_busy || (state != JOUST_SERVER_LIVE && state != JOUST_SERVER_LOST);
    }
    return st;
}

/* Whether nobody holds a GPU any more. */
static bool all_rest(const joust_managed *m)
{
    for (uint32_t i = 0; i < m->n; i++)
        if (m->servers[i].child && m->servers[i].state != JOUST_SERVER_ASLEEP)
            return false;
    return true;
}

joust_status joust_managed_rest(joust_managed *m,
                                joust_status (*step)(void *context, uint64_t n, joust_error *err),
                                void *context, joust_error *err)
{
    joust_status st = JOUST_OK;
    if (!m->wanted || strcmp(m->serve->sleep, JOUST_SLEEP_NONE) == 0)
        return JOUST_OK;
    m->resting = true;
    for (uint64_t n = 1; st == JOUST_OK; n++) {
        const struct timespec turn = {.tv_nsec = TURN_MS * 1000000};
        bool busy;
        st = joust_managed_turn(m, &busy, err);
        if (st != JOUST_OK || all_rest(m))
            break;
        st = step(context, n, err);
        nanosleep(&turn, NULL);
    }
    return st;
}

/* ---- displays ---- */

static const char *state_of(const joust_server *s)
{
    switch (s->state) {
    case JOUST_SERVER_OFF:
        return "stopped";
    case JOUST_SERVER_STARTING:
        return "starting";
    case JOUST_SERVER_LIVE:
        return NULL; /* as the endpoint says */
    case JOUST_SERVER_CALLING:
        return s->to_sleep ? "going to sleep" : "publishing";
    case JOUST_SERVER_STOPPING:
        return "stopping";
    case JOUST_SERVER_ASLEEP:
        return "asleep";
    case JOUST_SERVER_LOST:
        return "lost";
    }
    return "unknown";
}

joust_status joust_managed_describe(const joust_managed *m, joust_server_status **list, uint32_t *n,
                                    joust_error *err)
{
    const uint32_t first = *n;
    joust_status st = joust_endpoint_describe(m->endpoint, m->model->name, list, n, err);
    for (uint32_t i = 0; st == JOUST_OK && i < m->n; i++) {
        const joust_server *s = &m->servers[i];
        joust_server_status *to = &(*list)[first + i];
        const char *state = state_of(s);
        if (state)
            snprintf(to->state, sizeof(to->state), "%s", state);
        if (state && s->failures + (s->state == JOUST_SERVER_LOST))
            snprintf(to->last_error, sizeof(to->last_error), "%s", s->why);
        else if (to->ready)
            snprintf(to->probe, sizeof(to->probe), "has version %llu",
                     (unsigned long long)m->version.version);
    }
    return st;
}
