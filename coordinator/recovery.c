#include "coordinator/recovery.h"

#include <string.h>

#include "coordinator/status.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "storage/tables.h"

typedef struct replaying {
    joust_core *core;
    uint64_t n;
} replaying;

static joust_status replay_event(void *user, uint64_t sequence, const void *data, size_t n,
                                 joust_error *err)
{
    replaying *r = user;
    joust_status st = joust_core_replay(r->core, data, n, err);
    r->n++;
    return st == JOUST_OK ? st : joust_blame(err, st, "event %llu", (unsigned long long)sequence);
}

joust_status joust_recover(joust_store *store, joust_core *core, uint64_t *ret_snapshot,
                           uint64_t *ret_replayed, joust_error *err)
{
    joust_buf state = {0};
    replaying r = {.core = core};
    uint64_t after = 0;
    joust_status st = joust_store_get_snapshot(store, &after, &state, err);
    if (st == JOUST_OK)
        st = joust_core_decode(core, state.data, state.n, err);
    else if (st == JOUST_NOT_FOUND)
        st = JOUST_OK;
    joust_buf_fini(&state);
    if (st == JOUST_OK)
        st = joust_store_replay(store, after, replay_event, &r, err);
    *ret_snapshot = after;
    *ret_replayed = r.n;
    return st;
}

/* The job as a store holds it, far enough to make its core. */
typedef struct stored_job {
    joust_store *store;
    joust_plan *plan;
    joust_digest digest;
    uint64_t n_prompts[JOUST_MAX_SETS];
    joust_core *core;
} stored_job;

static void stored_job_close(stored_job *s)
{
    joust_core_free(&s->core);
    joust_free(s->plan);
    joust_store_close(&s->store);
}

static joust_status stored_job_open(stored_job *s, const char *dir, joust_error *err)
{
    uint64_t snapshot, replayed;
    joust_status st = joust_store_open_read(dir, &s->store, err);
    if (st != JOUST_OK)
        return st;
    const joust_job *job = joust_store_job(s->store);
    st = joust_plan_create(job, &s->plan, err);
    if (st == JOUST_OK)
        st = joust_job_digest(job, &s->digest, err);
    for (uint32_t i = 0; st == JOUST_OK && i < job->n_sets; i++) {
        st = joust_store_count_prompts(s->store, i, &s->n_prompts[i], err);
        if (st == JOUST_OK && s->n_prompts[i] == 0)
            st = joust_fail(err, JOUST_NOT_FOUND,
                            "%s: the store is being made, or was cut off in that: the same launch "
                            "goes on",
                            dir);
    }
    if (st == JOUST_OK)
        st = joust_core_create(job, s->plan, s->n_prompts, NULL, &s->core, err);
    if (st == JOUST_OK)
        st = joust_recover(s->store, s->core, &snapshot, &replayed, err);
    return st;
}

/* Whether a coordinator has left word of its status socket. */
static bool has_socket(const char *dir)
{
    char *path = joust_path_join(dir, JOUST_STATUS_ENDPOINT);
    const bool has = path && joust_file_exists(path);
    joust_free(path);
    return has;
}

joust_status joust_recovery_status(const char *dir, joust_buf *to, joust_core_phase *ret_phase,
                                   joust_error *err)
{
    stored_job s = {0};
    joust_status st = stored_job_open(&s, dir, err);
    if (st == JOUST_OK) {
        *ret_phase = joust_core_get_phase(s.core);
        joust_status_head(&(joust_status_view){.job = joust_store_job(s.store),
                                               .job_digest = s.digest,
                                               .core = s.core,
                                               .holder = joust_store_holder(dir),
                                               .has_socket = has_socket(dir)},
                          to);
        joust_buf_text(to, "}");
        st = joust_buf_status(to, err);
    }
    stored_job_close(&s);
    return st;
}
