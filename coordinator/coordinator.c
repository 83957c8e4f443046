#include "coordinator/coordinator.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "coordinator/coordinator_internal.h"
#include "coordinator/inputs.h"
#include "coordinator/recovery.h"
#include "coordinator/status.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/base/log.h"
#include "storage/tables.h"

#define TICK_MS 50
#define RECENT_BYTES                                                                               \
    ((uint64_t)64 << 20) /* of units kept decoded until they are judged and paired */
#define LINGER_MS 150    /* for the last words to peers to leave the sockets */

static void committed(void *arg, uint64_t sequence, joust_status status, const joust_error *err)
{
    joust_coordinator *c = arg;
    if (status != JOUST_OK) {
        joust_coordinator_fail(c, status, err);
        return;
    }
    joust_outbox_committed(c->outbox, sequence);
    joust_coordinator_pump(c);
}

static void tick(void *arg)
{
    joust_coordinator *c = arg;
    joust_error err;
    if (!c->stopping) {
        joust_core_event event = {.kind = JOUST_EVENT_TICK};
        joust_coordinator_step(c, &event, NULL, NULL);
        joust_core_phase phase = joust_core_get_phase(c->core);
        if (phase == JOUST_CORE_SUPERSEDED)
            c->stopping = true;
    }
    joust_status st = joust_committer_flush(c->committer, &err);
    int64_t now = joust_loop_now(c->loop);
    if (c->stopping && joust_committer_idle(c->committer) && joust_outbox_depth(c->outbox) == 0) {
        if (!c->stop_at_ms)
            c->stop_at_ms = now + LINGER_MS;
        else if (now >= c->stop_at_ms)
            joust_loop_stop(c->loop);
    }
    if (st == JOUST_OK)
        st = joust_loop_add_timer(c->loop, TICK_MS, tick, c, NULL, &err);
    if (st != JOUST_OK)
        joust_coordinator_fail(c, st, &err);
}

static void signalled(void *arg, int number)
{
    joust_coordinator *c = arg;
    if (number == SIGCHLD || c->stopping)
        return;
    joust_log_info("coordinator", "signal %d: stops; the same command resumes", number);
    joust_core_event event = {.kind = JOUST_EVENT_STOP};
    joust_coordinator_step(c, &event, NULL, NULL);
    c->stopping = true;
}

static joust_status recover(joust_coordinator *c, joust_error *err)
{
    uint64_t snapshot, replayed;
    joust_status st = joust_recover(c->store, c->core, &snapshot, &replayed, err);
    c->next_event = joust_store_last_event(c->store) + 1;
    if (st == JOUST_OK && c->next_event > 1)
        joust_log_info("recovery", "resumes round %u: snapshot at event %llu, %llu replayed",
                       joust_core_round(c->core), (unsigned long long)snapshot,
                       (unsigned long long)replayed);
    return st;
}

/* STORE/status.endpoint says where the status socket is; NULL: there is none, whatever an earlier coordinator left. */
static joust_status write_status_endpoint(const char *dir, const char *endpoint, joust_error *err)
{
    char *path = joust_path_join(dir, JOUST_STATUS_ENDPOINT);
    joust_status st = JOUST_OK;
    if (!path)
        return joust_fail(err, JOUST_NOMEM, "status endpoint: out of memory");
    if (endpoint)
        st = joust_file_write(path, endpoint, strlen(endpoint), err);
    else if (unlink(path) != 0 && errno != ENOENT)
        st = joust_fail(err, joust_status_of_errno(errno), "%s: %s", path, strerror(errno));
    joust_free(path);
    return st;
}

/* Figures of stages that were finished just before a kill. */
static joust_status summarise_finished(joust_coordinator *c, joust_error *err)
{
    joust_status st = JOUST_OK;
    uint32_t current = joust_core_round(c->core);
    for (uint32_t round = 0; st == JOUST_OK && round <= current && round <= c->job->rounds;
         round++) {
        for (uint32_t s = 0; st == JOUST_OK && s < c->plan.n_stages; s++) {
            uint64_t n = joust_core_positions(c->core, round, s);
            bool done = joust_stage_runs(&c->plan.stages[s], round) && n > 0;
            for (uint64_t p = 0; done && round == current && p < n; p++) {
                joust_unit_key unit = {.round = round, .stage = s, .position = p};
                done = joust_core_unit(c->core, &unit) == JOUST_UNIT_DONE;
            }
            if (done)
                st = joust_coordinator_summarise(c, round, s, err);
        }
    }
    return st;
}

static joust_status open_store(joust_coordinator *c, joust_job *job,
                               const joust_coordinator_options *options, joust_error *err)
{
    const char *dir = options->store;
    uint64_t epoch;
    joust_status st = joust_store_open(dir, job, &c->store, err);
    if (st == JOUST_OK)
        st = joust_blobs_open(dir, true, &c->blobs, err);
    if (st == JOUST_OK)
        st = joust_store_begin_epoch(c->store, &epoch, err);
    if (st == JOUST_OK)
        st = joust_inputs_import(job, c->n_prompts, c->store, c->blobs, epoch, err);
    if (st == JOUST_OK)
        st = joust_recent_create(RECENT_BYTES, &c->recent, err);
    c->sources = (joust_lease_sources){.store = c->store,
                                       .job = job,
                                       .plan = &c->plan,
                                       .n_prompts = c->n_prompts,
                                       .recent = c->recent};
    if (st == JOUST_OK)
        st = joust_core_create(job, &c->plan, c->n_prompts,
                               &(joust_core_options){.lease_ms = job->cluster.lease_ms,
                                                     .device = options->device,
                                                     .precision = options->precision},
                               &c->core, err);
    if (st == JOUST_OK)
        st = joust_outbox_create(&c->outbox, err);
    if (st == JOUST_OK)
        st = recover(c, err);
    if (st == JOUST_OK)
        st = joust_core_check_class(c->core, err);
    if (st == JOUST_OK)
        st = joust_committer_create(c->loop, c->store, epoch, committed, c, &c->committer, err);
    if (st == JOUST_OK)
        st = joust_actor_create("blobs", 256, &c->blob_actor, err);
    if (st == JOUST_OK)
        st = joust_loop_add_actor(c->loop, c->blob_actor, err);
    return st;
}

static joust_status open_sockets(joust_coordinator *c, const joust_coordinator_options *options,
                                 joust_error *err)
{
    joust_status st = options->status ? JOUST_OK : write_status_endpoint(options->store, NULL, err);
    if (st == JOUST_OK)
        st = joust_context_create(&c->context, err);
    if (st == JOUST_OK)
        st = joust_socket_open(c->context,
                               &(joust_socket_options){.kind = JOUST_SOCKET_ROUTER,
                                                       .endpoint = options->endpoint,
                                                       .high_water = 4096},
                               &c->socket, err);
    if (st == JOUST_OK)
        st = joust_loop_add_socket(c->loop, c->socket, joust_coordinator_readable, c, err);
    if (st != JOUST_OK || !options->status)
        return st;
    st = joust_socket_open(c->context,
                           &(joust_socket_options){.kind = JOUST_SOCKET_ROUTER,
                                                   .endpoint = options->status,
                                                   .max_frame_bytes = 4096},
                           &c->status_socket, err);
    if (st == JOUST_OK)
        st = joust_loop_add_socket(c->loop, c->status_socket, joust_coordinator_status_readable, c,
                                   err);
    if (st == JOUST_OK)
        st = write_status_endpoint(options->store, joust_socket_endpoint(c->status_socket), err);
    return st;
}

static void close_all(joust_coordinator *c)
{
    joust_coordinator_close_rows(c);
    if (c->blob_actor) {
        joust_loop_remove_actor(c->loop, c->blob_actor);
        joust_actor_free(&c->blob_actor);
    }
    joust_committer_free(&c->committer);
    joust_loop_free(&c->loop);
    joust_socket_close(&c->socket);
    joust_socket_close(&c->status_socket);
    joust_context_free(&c->context);
    joust_outbox_free(&c->outbox);
    joust_core_free(&c->core);
    joust_lease_sources_fini(&c->sources);
    joust_blobs_close(&c->blobs);
    joust_store_close(&c->store);
    joust_buf_fini(&c->job_bytes);
    for (uint32_t i = 0; i < c->n_links; i++)
        joust_link_fini(&c->links[i]);
    joust_free(c->links);
    joust_actions_fini(&c->locals);
    joust_recent_free(&c->recent);
}

static joust_status start(joust_coordinator *c, joust_job *job,
                          const joust_coordinator_options *options, joust_error *err)
{
    joust_status st = joust_inputs_digest(job, c->n_prompts, err);
    if (st == JOUST_OK)
        st = joust_plan_compile(job, &c->plan, err);
    if (st == JOUST_OK)
        st = joust_job_digest(job, &c->job_digest, err);
    if (st == JOUST_OK)
        st = joust_job_encode(job, false, &c->job_bytes, err);
    if (st == JOUST_OK)
        st = joust_loop_create(&c->loop, err);
    if (st == JOUST_OK) /* before any thread is made */
        st = joust_loop_add_signals(c->loop, signalled, c, err);
    if (st == JOUST_OK)
        st = open_store(c, job, options, err);
    if (st == JOUST_OK)
        st = joust_served_open(c, err);
    if (st == JOUST_OK)
        st = summarise_finished(c, err);
    if (st == JOUST_OK)
        st = open_sockets(c, options, err);
    if (st == JOUST_OK)
        st = joust_loop_add_timer(c->loop, 0, tick, c, NULL, err);
    return st;
}

joust_status joust_coordinator_run(joust_job *job, const joust_coordinator_options *options,
                                   joust_coordinator_end *ret, char reason[1024], joust_error *err)
{
    joust_coordinator *c = joust_calloc(1, sizeof(*c));
    if (!c)
        return joust_fail(err, JOUST_NOMEM, "coordinator: out of memory");
    joust_alloc_give_back();
    c->job = job;
    joust_status st = start(c, job, options, err);
    if (st == JOUST_OK) {
        joust_core_event event = {.kind = JOUST_EVENT_START, .epoch = joust_store_epoch(c->store)};
        joust_coordinator_step(c, &event, NULL, NULL);
        st = joust_loop_run(c->loop, err);
    }
    if (st == JOUST_OK && c->status != JOUST_OK && c->status != JOUST_FENCED) {
        st = c->status;
        *err = c->err;
    }
    if (st == JOUST_OK) {
        switch (joust_core_get_phase(c->core)) {
        case JOUST_CORE_COMPLETE:
            *ret = JOUST_END_COMPLETE;
            break;
        case JOUST_CORE_JOB_FAILED:
            *ret = JOUST_END_FAILED;
            break;
        case JOUST_CORE_SUPERSEDED:
            *ret = JOUST_END_SUPERSEDED;
            break;
        default:
            *ret = c->status == JOUST_FENCED ? JOUST_END_SUPERSEDED : JOUST_END_STOPPED;
        }
        if (reason)
            snprintf(reason, 1024, "%s", c->err.text);
    }
    close_all(c);
    joust_free(c);
    return st;
}
