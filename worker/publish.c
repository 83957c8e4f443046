/* What leaves a trainer: versions and states, as files that are durable at the coordinator. */
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/transfer.h"
#include "worker/trainer_internal.h"

#define STATE_FILE "training.state"

joust_status joust_version_publish(const joust_training *t, const joust_lease_unit *unit,
                                   const joust_model *model, uint32_t n_steps,
                                   joust_unit_result *ret, joust_error *err)
{
    const char *parent = NULL;
    char *dir = NULL;
    joust_digest manifest;
    joust_status st = joust_cache_fetch(t->cache, t->up, &unit->model.manifest, &parent, err);
    if (st == JOUST_OK)
        st = joust_cache_scratch(t->cache, "version", &dir, err);
    if (st == JOUST_OK)
        st = joust_model_save(model, parent, dir, err);
    if (st == JOUST_OK)
        st = joust_upload_dir(t->up, dir, &manifest, err);
    joust_free(dir);
    if (st != JOUST_OK)
        return st;
    ret->has_model = true;
    ret->model = (joust_model_version){.model = {.version = unit->out_version,
                                                 .manifest = manifest,
                                                 .weights = joust_model_digest(model)},
                                       .parent = unit->model.version,
                                       .round = unit->unit.round,
                                       .stage = unit->unit.stage,
                                       .n_steps = n_steps};
    snprintf(ret->model.model.lineage, sizeof(ret->model.model.lineage), "%s", unit->model.lineage);
    return JOUST_OK;
}

static joust_status copy_steps(const joust_train_step *steps, uint32_t n, joust_train_step **ret,
                               uint32_t *ret_n, joust_error *err)
{
    joust_train_step *copies = joust_calloc(n, sizeof(*copies));
    if (!copies)
        return joust_fail(err, JOUST_NOMEM, "train: %u steps", n);
    *ret = copies;
    for (uint32_t i = 0; i < n; i++) {
        const joust_train_step *from = &steps[i];
        joust_train_step *to = &copies[i];
        *to = *from;
        to->rows = joust_memdup(from->rows, from->n_rows * sizeof(*from->rows));
        to->credited = NULL;
        to->advantages = to->returns = NULL;
        *ret_n = i + 1; /* what it has is freed with the others */
        if (from->n_credit) {
            to->credited = joust_memdup(from->credited, from->n_credited * sizeof(*from->credited));
            to->advantages = joust_memdup(from->advantages, from->n_credit * sizeof(float));
            to->returns = joust_memdup(from->returns, from->n_credit * sizeof(float));
        }
        if (!to->rows || (from->n_credit && (!to->credited || !to->advantages || !to->returns)))
            return joust_fail(err, JOUST_NOMEM, "train: %u rows", from->n_rows);
    }
    return JOUST_OK;
}

static joust_status send_progress(const joust_training *t, const joust_lease_unit *unit,
                                  uint32_t step, const joust_digest *state,
                                  const joust_train_step *steps, uint32_t n_steps, joust_error *err)
{
    joust_message m = {.type = JOUST_MSG_TRAIN_PROGRESS};
    m.u.progress = (joust_msg_train_progress){
        .id = {unit->unit, unit->lease, unit->attempt}, .step = step, .state = *state};
    joust_status st = copy_steps(steps, n_steps, &m.u.progress.steps, &m.u.progress.n_steps, err);
    if (st == JOUST_OK)
        st = t->up->send(t->up->context, &m, err);
    joust_message_fini(&m);
    return st;
}

/* Tells the coordinator how far training is, and waits until that is durable. */
static joust_status report_progress(const joust_training *t, const joust_lease_unit *unit,
                                    uint32_t step, const joust_digest *state,
                                    const joust_train_step *steps, uint32_t n_steps,
                                    joust_error *err)
{
    joust_status st = send_progress(t, unit, step, state, steps, n_steps, err);
    while (st == JOUST_OK) {
        joust_message m = {0};
        st = t->up->receive(t->up->context, &m, err);
        bool acknowledged =
            st == JOUST_OK && m.type == JOUST_MSG_PROGRESS_ACK && m.u.progress_ack.step == step;
        joust_message_fini(&m);
        if (acknowledged)
            return JOUST_OK;
        if (st == JOUST_AGAIN)
            st = send_progress(t, unit, step, state, steps, n_steps, err);
    }
    return st;
}

joust_status joust_progress_publish(const joust_training *t, const joust_lease_unit *unit,
                                    const char *dir, uint32_t step, const joust_train_step *steps,
                                    uint32_t n_steps, joust_error *err)
{
    joust_digest manifest;
    joust_status st = joust_upload_dir(t->up, dir, &manifest, err);
    return st == JOUST_OK ? report_progress(t, unit, step, &manifest, steps, n_steps, err) : st;
}

joust_status joust_state_publish(const joust_training *t, const joust_lease_unit *unit,
                                 const joust_trainer *trainer, const joust_train_step *steps,
                                 uint32_t n_steps, joust_error *err)
{
    char *dir = NULL, *path = NULL;
    joust_status st = joust_cache_scratch(t->cache, "state", &dir, err);
    if (st == JOUST_OK)
        st = joust_dir_make(dir, err);
    if (st == JOUST_OK && !(path = joust_path_join(dir, STATE_FILE)))
        st = joust_fail(err, JOUST_NOMEM, "train: out of memory");
    if (st == JOUST_OK)
        st = joust_trainer_save(trainer, path, err);
    if (st == JOUST_OK)
        st = joust_progress_publish(t, unit, dir, joust_trainer_steps_done(trainer), steps, n_steps,
                                    err);
    joust_free(path);
    joust_free(dir);
    return st;
}

joust_status joust_state_restore(const joust_training *t, const joust_lease_unit *unit,
                                 joust_trainer *trainer, joust_error *err)
{
    const char *dir = NULL;
    joust_status st = joust_cache_fetch(t->cache, t->up, &unit->resume, &dir, err);
    if (st != JOUST_OK)
        return st;
    char *path = joust_path_join(dir, STATE_FILE);
    if (!path)
        return joust_fail(err, JOUST_NOMEM, "train: out of memory");
    st = joust_trainer_restore(trainer, path, err);
    joust_free(path);
    if (st == JOUST_OK && joust_trainer_steps_done(trainer) != unit->resume_step)
        st = joust_fail(err, JOUST_CONFLICT, "the training state is of step %u, not %u",
                        joust_trainer_steps_done(trainer), unit->resume_step);
    return st;
}
