/* Everything that peers say, and the links it comes through. */
#include <stdio.h>
#include <string.h>

#include "coordinator/coordinator_internal.h"
#include "coordinator/result_check.h"
#include "proto/base/alloc.h"
#include "proto/base/log.h"
#include "storage/tables.h"

#define MAX_LINKS   (2 * JOUST_CORE_MAX_PEERS)
#define MAX_REFUSED 16u /* unreadable messages of a peer before it is sent away */

/* Links ---------------------------------------------------------------------------------------- */

joust_link *joust_coordinator_link(joust_coordinator *c, const joust_peer_id *id)
{
    for (uint32_t i = 0; i < c->n_links; i++)
        if (joust_peer_id_equal(&c->links[i].id, id))
            return &c->links[i];
    return NULL;
}

joust_link *joust_coordinator_link_of(joust_coordinator *c, uint64_t handle)
{
    for (uint32_t i = 0; i < c->n_links; i++)
        if (c->links[i].handle == handle)
            return &c->links[i];
    return NULL;
}

void joust_link_fini(joust_link *link)
{
    joust_sending_fini(&link->sending);
    joust_free(link->servers);
    link->servers = NULL;
    link->n_servers = 0;
}

void joust_coordinator_unlink(joust_coordinator *c, uint64_t handle)
{
    joust_link *link = joust_coordinator_link_of(c, handle);
    if (link) {
        joust_link_fini(link);
        *link = c->links[--c->n_links];
    }
}

static joust_link *add_link(joust_coordinator *c, const joust_peer_id *id)
{
    if (c->n_links == MAX_LINKS) { /* the one unheard longest gives way */
        joust_link *oldest = &c->links[0];
        for (uint32_t i = 1; i < c->n_links; i++)
            if (c->links[i].heard_ms < oldest->heard_ms)
                oldest = &c->links[i];
        joust_core_event lost = {.kind = JOUST_EVENT_PEER_LOST, .peer = oldest->handle};
        uint64_t handle = oldest->handle;
        joust_coordinator_step(c, &lost, NULL, NULL);
        joust_coordinator_unlink(c, handle);
    }
    joust_link *links = joust_realloc_array(c->links, c->n_links + 1, sizeof(*links));
    if (!links)
        return NULL;
    c->links = links;
    links[c->n_links] = (joust_link){.handle = ++c->next_handle, .id = *id};
    return &links[c->n_links++];
}

/* Sending -------------------------------------------------------------------------------------- */

void joust_coordinator_send_to(joust_coordinator *c, const joust_peer_id *to, joust_message *m)
{
    joust_error err;
    char name[JOUST_MAX_PEER_ID_BYTES + 1];
    m->epoch = joust_core_epoch(c->core);
    joust_status st = joust_socket_send(c->socket, to, m, &err);
    if (st == JOUST_OK)
        return;
    joust_log_debug("send", "%s to %s: %s", joust_message_name(m->type),
                    joust_peer_id_text(to, name), err.text);
    joust_link *link = joust_coordinator_link(c, to);
    if (!link)
        return;
    joust_core_event lost = {.kind = JOUST_EVENT_PEER_LOST, .peer = link->handle};
    joust_coordinator_step(c, &lost, NULL, NULL);
}

void joust_coordinator_send(joust_coordinator *c, uint64_t peer, joust_message *m)
{
    joust_link *link = joust_coordinator_link_of(c, peer);
    if (link) {
        joust_peer_id to = link->id; /* sending may step the core and move the links */
        joust_coordinator_send_to(c, &to, m);
    }
}

void joust_coordinator_send_text(joust_coordinator *c, const joust_peer_id *to,
                                 joust_message_type type, joust_status code, const char *text)
{
    char line[1024];
    snprintf(line, sizeof(line), "%s", text);
    joust_message m = {.type = type, .u.text = {.code = code, .text = line}};
    joust_peer_id id = *to;
    joust_coordinator_send_to(c, &id, &m);
}

/* Results -------------------------------------------------------------------------------------- */

static void peer_bad(joust_coordinator *c, uint64_t peer, const char *text)
{
    joust_core_event event = {.kind = JOUST_EVENT_PEER_BAD, .peer = peer, .text = text};
    joust_log_warn("peer", "%s", text);
    joust_coordinator_step(c, &event, NULL, NULL);
}

static joust_status put_result(joust_coordinator *c, void *arg, joust_error *err)
{
    joust_unit_result *r = arg;
    joust_status st = joust_result_put(joust_committer_batch(c->committer), r, err);
    if (st == JOUST_OK && r->has_model)
        st = joust_coordinator_put_train_summary(c, r, err);
    if (st == JOUST_OK) {
        joust_coordinator_count(c, r);
        joust_served_count_result(c, r);
        joust_recent_keep(c->recent, r);
    }
    return st;
}

static void take_result(joust_coordinator *c, joust_link *link, uint64_t epoch,
                        joust_unit_result *r)
{
    joust_error err;
    uint64_t peer = link->handle;
    joust_core_event event = {.kind = JOUST_EVENT_RESULT, .peer = peer, .epoch = epoch};
    event.u.result.id = r->id;
    event.u.result.n_trajectories = r->n_trajectories;
    event.u.result.version = r->model.model.version;

    joust_model_ref policy = {0};
    const joust_stage *stage =
        r->id.unit.stage < c->plan.n_stages ? &c->plan.stages[r->id.unit.stage] : NULL;
    bool current = r->id.unit.round == joust_core_round(c->core);
    joust_status st = JOUST_OK;
    if (stage && current && stage->model != JOUST_NONE && stage->kind != JOUST_STAGE_INIT)
        st = joust_lease_model(&c->sources, stage->model,
                               joust_core_model_version(c->core, r->id.unit.stage), &policy, &err);
    if (st != JOUST_OK) {
        joust_coordinator_fail(c, st, &err);
        return;
    }
    /* A unit of another round is done or unknown: the core answers; its content is compared, not trusted. The core asks
     * for no other content. */
    bool was_done = joust_core_unit(c->core, &r->id.unit) == JOUST_UNIT_DONE;
    st = current ? joust_result_check(&c->sources, c->blobs, &policy, r,
                                      was_done ? &event.u.result.content : NULL, &err)
                 : joust_result_digest(&c->sources, c->blobs, r, &event.u.result.content, &err);
    if (st == JOUST_CORRUPT || joust_status_scope(st) == JOUST_SCOPE_PROCESS) {
        joust_coordinator_fail(c, st, &err);
        return;
    }
    if (st != JOUST_OK) {
        char text[1200];
        snprintf(text, sizeof(text), "its result of round %u stage %s position %llu: %s",
                 r->id.unit.round, stage ? stage->name : "?",
                 (unsigned long long)r->id.unit.position, err.text);
        peer_bad(c, peer, text);
        return;
    }
    r->provenance.epoch = joust_core_epoch(c->core);
    r->provenance.lease = r->id.lease;
    r->provenance.attempt = r->id.attempt;
    joust_coordinator_step(c, &event, put_result, r);
}

static joust_status put_progress(joust_coordinator *c, void *arg, joust_error *err)
{
    const joust_msg_train_progress *p = arg;
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < p->n_steps; i++)
        st = joust_batch_put_train_step(joust_committer_batch(c->committer), &p->steps[i], err);
    return st;
}

static void take_progress(joust_coordinator *c, joust_link *link, uint64_t epoch,
                          joust_msg_train_progress *p)
{
    joust_error err;
    bool complete = false;
    joust_status st = joust_blobs_complete(c->blobs, &p->state, &complete, NULL, &err);
    for (uint32_t i = 0; st == JOUST_OK && i < p->n_steps; i++)
        if (p->steps[i].round != p->id.unit.round || p->steps[i].stage != p->id.unit.stage)
            complete = false;
    if (st != JOUST_OK || !complete) {
        peer_bad(c, link->handle, "training progress without its state, or with foreign steps");
        return;
    }
    joust_core_event event = {.kind = JOUST_EVENT_PROGRESS, .peer = link->handle, .epoch = epoch};
    event.u.progress = *p;
    joust_coordinator_step(c, &event, put_progress, p);
}

/* Rows and chunks ------------------------------------------------------------------------------ */

void joust_coordinator_close_rows(joust_coordinator *c)
{
    for (uint32_t i = 0; i < JOUST_OPEN_ROWS; i++)
        joust_training_rows_close(&c->rows[i]);
}

/* The rows of a unit, opened in the place of those opened first. View. */
static joust_status rows_of(joust_coordinator *c, const joust_unit_key *unit,
                            joust_training_rows **ret, joust_error *err)
{
    for (uint32_t i = 0; i < JOUST_OPEN_ROWS; i++) {
        const joust_unit_key *of = c->rows[i] ? joust_training_rows_unit(c->rows[i]) : NULL;
        if (of && of->round == unit->round && of->stage == unit->stage) {
            *ret = c->rows[i];
            return JOUST_OK;
        }
    }
    joust_training_rows *rows = NULL;
    joust_status st = joust_training_rows_open(c->store, c->job, &c->plan, unit, &rows, err);
    if (st != JOUST_OK)
        return st;
    joust_training_rows_close(&c->rows[0]);
    memmove(c->rows, c->rows + 1, (JOUST_OPEN_ROWS - 1) * sizeof(*c->rows));
    *ret = c->rows[JOUST_OPEN_ROWS - 1] = rows;
    return JOUST_OK;
}

static void send_rows(joust_coordinator *c, const joust_peer_id *from,
                      const joust_msg_rows_get *get)
{
    joust_error err;
    joust_training_rows *rows = NULL;
    joust_message m = {.type = JOUST_MSG_ROWS};
    joust_status st = rows_of(c, &get->id.unit, &rows, &err);
    if (st == JOUST_OK)
        st = joust_training_rows_get(rows, get->first, get->n, &m.u.rows, &err);
    if (st != JOUST_OK) {
        joust_coordinator_send_text(c, from, JOUST_MSG_ERROR, st, err.text);
        return;
    }
    m.u.rows.id = get->id;
    joust_coordinator_send_to(c, from, &m);
    joust_message_fini(&m);
}

static void send_missing(joust_coordinator *c, const joust_peer_id *from,
                         const joust_msg_digests *query)
{
    joust_message m = {.type = JOUST_MSG_CHUNK_MISSING};
    m.u.digests.digests = joust_calloc(query->n, sizeof(joust_digest));
    if (!m.u.digests.digests)
        return;
    for (uint32_t i = 0; i < query->n; i++)
        if (!joust_blobs_has(c->blobs, &query->digests[i]))
            m.u.digests.digests[m.u.digests.n++] = query->digests[i];
    joust_coordinator_send_to(c, from, &m);
    joust_message_fini(&m);
}

/* A chunk on its way through the blob thread. */
typedef struct blob_job {
    joust_coordinator *c;
    joust_peer_id peer;
    bool put;
    joust_digest digest;
    joust_buf data;
    joust_status status;
    joust_error err;
} blob_job;

static void blob_work(void *arg) /* on the blob thread */
{
    blob_job *job = arg;
    if (job->put)
        job->status =
            joust_blobs_put(job->c->blobs, &job->digest, job->data.data, job->data.n, &job->err);
    else
        job->status = joust_blobs_get(job->c->blobs, &job->digest, &job->data, &job->err);
}

static void blob_done(void *arg)
{
    blob_job *job = arg;
    joust_coordinator *c = job->c;
    if (c->status == JOUST_OK && job->put && job->status == JOUST_OK) {
        joust_message m = {.type = JOUST_MSG_CHUNK_ACK,
                           .u.digests = {.n = 1, .digests = &job->digest}};
        joust_coordinator_send_to(c, &job->peer, &m);
    } else if (c->status == JOUST_OK && !job->put &&
               (job->status == JOUST_OK || job->status == JOUST_NOT_FOUND)) {
        joust_message m = {.type = JOUST_MSG_CHUNK, .u.chunk = {.digest = job->digest}};
        if (job->status == JOUST_OK) {
            m.u.chunk.n = (uint32_t)job->data.n;
            m.u.chunk.data = job->data.data;
        }
        joust_coordinator_send_to(c, &job->peer, &m);
    } else if (joust_status_scope(job->status) == JOUST_SCOPE_MESSAGE) {
        joust_coordinator_send_text(c, &job->peer, JOUST_MSG_ERROR, job->status, job->err.text);
    } else if (c->status == JOUST_OK) {
        joust_coordinator_fail(c, job->status, &job->err);
    }
    joust_buf_fini(&job->data);
    joust_free(job);
}

static void post_blob(joust_coordinator *c, const joust_peer_id *from, const joust_digest *digest,
                      joust_msg_chunk *put)
{
    joust_error err;
    blob_job *job = joust_calloc(1, sizeof(*job));
    if (!job)
        return; /* the peer asks again */
    *job = (blob_job){.c = c, .peer = *from, .digest = *digest, .put = put != NULL};
    if (put) {
        job->data = (joust_buf){.data = put->data, .n = put->n, .capacity = put->n};
        put->data = NULL;
        put->n = 0;
    }
    if (joust_actor_post(c->blob_actor, blob_work, blob_done, job, &err) != JOUST_OK) {
        joust_buf_fini(&job->data);
        joust_free(job);
        joust_coordinator_send_text(c, from, JOUST_MSG_ERROR, JOUST_FULL,
                                    "too many chunks under way: ask again");
    }
}

/* Dispatch ------------------------------------------------------------------------------------- */

static void take_hello(joust_coordinator *c, const joust_peer_id *from, uint64_t epoch,
                       const joust_msg_hello *hello)
{
    joust_link *link = joust_coordinator_link(c, from);
    if (!link && !(link = add_link(c, from))) {
        joust_log_warn("peer", "no memory for %s", hello->name);
        return;
    }
    link->heard_ms = joust_loop_now(c->loop);
    joust_core_event event = {.kind = JOUST_EVENT_HELLO, .peer = link->handle, .epoch = epoch};
    event.u.hello =
        (joust_core_hello){.version = hello->version,
                           .role = hello->role,
                           .name = hello->name,
                           .numeric_class = hello->numeric_class,
                           .instance = hello->instance,
                           .other_job = !joust_digest_is_zero(&hello->job) &&
                                        !joust_digest_equal(&hello->job, &c->job_digest),
                           .can_train = hello->can_train,
                           .credit = hello->credit,
                           .n_holding = hello->n_holding,
                           .holding = hello->holding};
    joust_coordinator_step(c, &event, NULL, NULL);
}

/* Keeps what the peer says of the servers that it asks. */
static void take_servers(joust_coordinator *c, uint64_t peer, joust_msg_heartbeat *beat)
{
    joust_link *link = joust_coordinator_link_of(c, peer);
    if (!link || beat->n_servers == 0)
        return;
    joust_free(link->servers);
    link->servers = beat->servers;
    link->n_servers = beat->n_servers;
    beat->servers = NULL;
    beat->n_servers = 0;
}

static void take_simple(joust_coordinator *c, uint64_t peer, joust_core_event_kind kind,
                        const joust_message *m)
{
    joust_core_event event = {.kind = kind, .peer = peer, .epoch = m->epoch};
    if (kind == JOUST_EVENT_HEARTBEAT)
        event.u.heartbeat = m->u.heartbeat;
    else if (kind == JOUST_EVENT_CREDIT)
        event.u.credit = m->u.credit;
    else if (kind == JOUST_EVENT_FAILED)
        event.u.failed = m->u.failed;
    else
        event.text = m->u.text.text;
    joust_coordinator_step(c, &event, NULL, NULL);
}

static void take_message(joust_coordinator *c, const joust_peer_id *from, joust_message *m)
{
    if (m->type == JOUST_MSG_HELLO) {
        take_hello(c, from, m->epoch, &m->u.hello);
        return;
    }
    joust_link *link = joust_coordinator_link(c, from);
    if (!link) {
        if (m->type != JOUST_MSG_GOODBYE && m->type != JOUST_MSG_ERROR)
            joust_coordinator_send_text(c, from, JOUST_MSG_ERROR, JOUST_STALE,
                                        "say HELLO first: this coordinator doesn't know you");
        return;
    }
    link->heard_ms = joust_loop_now(c->loop);
    uint64_t peer = link->handle;
    switch (m->type) {
    case JOUST_MSG_HEARTBEAT: {
        take_servers(c, peer, &m->u.heartbeat);
        take_simple(c, peer, JOUST_EVENT_HEARTBEAT, m);
        joust_message answer = {.type = JOUST_MSG_HEARTBEAT,
                                .u.heartbeat = {.sequence = m->u.heartbeat.sequence}};
        joust_coordinator_send_to(c, from, &answer);
        break;
    }
    case JOUST_MSG_CREDIT:
        take_simple(c, peer, JOUST_EVENT_CREDIT, m);
        break;
    case JOUST_MSG_FAILED:
        take_simple(c, peer, JOUST_EVENT_FAILED, m);
        break;
    case JOUST_MSG_GOODBYE:
        take_simple(c, peer, JOUST_EVENT_GOODBYE, m);
        joust_coordinator_unlink(c, peer);
        break;
    case JOUST_MSG_ERROR:
        joust_log_warn("peer", "%s says: %s", link->id.bytes[0] ? "a peer" : "?", m->u.text.text);
        break;
    case JOUST_MSG_RESULT:
        for (uint32_t i = 0; i < m->u.result.n && c->status == JOUST_OK; i++)
            if ((link = joust_coordinator_link_of(c, peer)))
                take_result(c, link, m->epoch, &m->u.result.units[i]);
        break;
    case JOUST_MSG_TRAIN_PROGRESS:
        take_progress(c, link, m->epoch, &m->u.progress);
        break;
    case JOUST_MSG_ROWS_GET:
        send_rows(c, from, &m->u.rows_get);
        break;
    case JOUST_MSG_CHUNK_QUERY:
        send_missing(c, from, &m->u.digests);
        break;
    case JOUST_MSG_CHUNK_PUT:
        post_blob(c, from, &m->u.chunk.digest, &m->u.chunk);
        break;
    case JOUST_MSG_CHUNK_GET:
        if (m->u.digests.n == 1)
            post_blob(c, from, m->u.digests.digests, NULL);
        else
            joust_coordinator_send_text(c, from, JOUST_MSG_ERROR, JOUST_INVALID,
                                        "CHUNK_GET asks for one chunk");
        break;
    default:
        joust_coordinator_send_text(c, from, JOUST_MSG_ERROR, JOUST_UNSUPPORTED,
                                    "not a message for a coordinator");
    }
}

/* A message that can't be read: its sender is told, and sent away if it doesn't stop. A flood of them leaves a line a
 * second in the log. */
static void refuse_message(joust_coordinator *c, const joust_peer_id *from, joust_status st,
                           const joust_error *err)
{
    char name[JOUST_MAX_PEER_ID_BYTES + 1];
    int64_t now = joust_loop_now(c->loop);
    c->n_refused++;
    if (c->n_refused == 1 || now - c->refused_ms >= 1000) {
        joust_log_warn("peer", "%s: message refused (%llu so far): %s",
                       joust_peer_id_text(from, name), (unsigned long long)c->n_refused, err->text);
        c->refused_ms = now;
    }
    joust_link *link = joust_coordinator_link(c, from);
    if (link && ++link->n_refused >= MAX_REFUSED)
        peer_bad(c, link->handle, "its messages can't be read, one after another");
    else
        joust_coordinator_send_text(c, from, JOUST_MSG_ERROR, st, err->text);
}

void joust_coordinator_readable(void *arg, uint32_t events)
{
    joust_coordinator *c = arg;
    joust_error err;
    (void)events;
    for (uint32_t i = 0; i < JOUST_LOOP_BATCH && c->status == JOUST_OK; i++) {
        joust_peer_id from = {0};
        joust_message m;
        joust_status st = joust_socket_recv(c->socket, &from, &m, &err);
        if (st == JOUST_AGAIN)
            break;
        if (st == JOUST_OK) {
            take_message(c, &from, &m);
            joust_message_fini(&m);
        } else if (joust_status_scope(st) == JOUST_SCOPE_PROCESS) {
            joust_coordinator_fail(c, st, &err);
        } else {
            refuse_message(c, &from, st, &err);
        }
    }
    joust_status st = joust_committer_flush(c->committer, &err);
    if (st != JOUST_OK)
        joust_coordinator_fail(c, st, &err);
}
