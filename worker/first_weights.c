/* INIT units: version 0 of a lineage that a job makes, instead of taking it from a folder as it is. */
#include <stdio.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "worker/trainer_internal.h"

static joust_status draw(const char *dir, uint64_t seed, joust_model **ret, joust_error *err)
{
    joust_model_config config;
    char *path = joust_path_join(dir, "config.json");
    if (!path)
        return joust_fail(err, JOUST_NOMEM, "init: out of memory");
    joust_status st = joust_model_config_read(path, &config, err);
    joust_free(path);
    if (st == JOUST_OK)
        st = joust_model_config_read_stops(dir, &config, err);
    return st == JOUST_OK ? joust_model_init(&config, seed, ret, err) : st;
}

/* *model becomes what it is with a new scalar head. */
static joust_status make_scalar(joust_model **model, joust_error *err)
{
    joust_model *scalar = NULL;
    joust_status st = joust_model_make_scalar(*model, &scalar, err);
    if (st != JOUST_OK)
        return st;
    joust_model_free(model);
    *model = scalar;
    return JOUST_OK;
}

static joust_status make(const joust_training *t, const joust_lease_unit *unit, joust_model **model,
                         joust_error *err)
{
    const char *dir = NULL;
    const uint32_t lineage = joust_job_find_model(t->job, unit->model.lineage);
    if (lineage == JOUST_NONE)
        return joust_fail(err, JOUST_INVALID, "no model '%s' in the job", unit->model.lineage);
    const joust_job_model *of = &t->job->models[lineage];
    joust_status st = joust_cache_fetch(t->cache, t->up, &unit->model.manifest, &dir, err);
    if (st == JOUST_OK)
        st = of->scalar_head && !of->init ? joust_model_load(dir, model, err)
                                          : draw(dir, of->init_seed, model, err);
    if (st == JOUST_OK && of->scalar_head)
        st = make_scalar(model, err);
    return st;
}

joust_status joust_training_init(const joust_training *t, const joust_lease_unit *unit,
                                 joust_unit_result *ret, joust_error *err)
{
    joust_model *model = NULL;
    joust_unit_result result = {.id = {unit->unit, unit->lease, unit->attempt}};
    joust_status st = make(t, unit, &model, err);
    if (st == JOUST_OK)
        st = joust_version_publish(t, unit, model, 0, &result, err);
    joust_model_free(&model);
    if (st == JOUST_OK)
        *ret = result;
    return st;
}
