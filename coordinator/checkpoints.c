/* What a complete job leaves for people: STORE/checkpoints/LINEAGE/, the final version of each model that was
 * trained, in the ecosystem's layout. Earlier versions stay in the store's blobs. */
#include <stdio.h>

#include "coordinator/checkpoints.h"
#include "coordinator/coordinator_internal.h"
#include "proto/base/file.h"
#include "proto/base/log.h"
#include "storage/tables.h"

joust_status joust_final_version(joust_store *store, const joust_plan *plan, uint32_t lineage,
                                 uint64_t *ret, joust_error *err)
{
    const joust_job *job = joust_store_job(store);
    *ret = 0;
    for (uint32_t round = job->rounds; round > 0; round--) {
        for (uint32_t s = plan->n_stages; s-- > 0;) {
            const joust_stage *stage = &plan->stages[s];
            joust_status st = JOUST_NOT_FOUND;
            joust_promotion promotion;
            joust_model_version version;
            if (stage->model != lineage || !joust_stage_runs(stage, round))
                continue;
            if (stage->kind == JOUST_STAGE_PROMOTE) {
                st = joust_store_get_promotion(store, round, s, &promotion, err);
                *ret = st == JOUST_OK ? promotion.next : 0;
            } else if (stage->kind == JOUST_STAGE_TRAIN) {
                st = joust_store_get_model_version(store, job->models[lineage].name,
                                                   joust_plan_out_version(plan, round, s), &version,
                                                   err);
                *ret = st == JOUST_OK ? version.model.version : 0;
            }
            if (st != JOUST_NOT_FOUND)
                return st;
        }
    }
    return JOUST_OK;
}

static bool is_trained(const joust_plan *plan, uint32_t lineage)
{
    for (uint32_t s = 0; s < plan->n_stages; s++)
        if (plan->stages[s].kind == JOUST_STAGE_TRAIN && plan->stages[s].model == lineage)
            return true;
    return false;
}

/* Whether dir holds a version of the lineage below `number`: what the job left when it had fewer rounds. */
static bool holds_earlier(joust_coordinator *c, const char *lineage, uint64_t number,
                          const char *dir)
{
    for (uint64_t v = number; v-- > 0;) {
        joust_model_version version;
        joust_error err;
        if (joust_store_get_model_version(c->store, lineage, v, &version, &err) == JOUST_OK &&
            joust_blobs_export(c->blobs, &version.model.manifest, dir, &err) == JOUST_OK)
            return true;
    }
    return false;
}

/* Makes dir hold the version, instead of an earlier one if need be. A kill between the two leaves no folder, and the
 * next start of the complete job makes it. */
static joust_status export_version(joust_coordinator *c, const joust_model_version *version,
                                   const char *dir, joust_error *err)
{
    joust_status st = joust_blobs_export(c->blobs, &version->model.manifest, dir, err);
    if (st != JOUST_EXISTS ||
        !holds_earlier(c, version->model.lineage, version->model.version, dir))
        return st;
    st = joust_dir_remove(dir, err);
    return st == JOUST_OK ? joust_blobs_export(c->blobs, &version->model.manifest, dir, err) : st;
}

joust_status joust_coordinator_export_models(joust_coordinator *c, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < c->job->n_models; i++) {
        uint64_t number;
        joust_model_version version;
        char dir[4096];
        if (!is_trained(&c->plan, i))
            continue;
        st = joust_final_version(c->store, &c->plan, i, &number, err);
        if (st == JOUST_OK)
            st = joust_store_get_model_version(c->store, c->job->models[i].name, number, &version,
                                               err);
        if (st != JOUST_OK)
            break;
        snprintf(dir, sizeof(dir), "%.3000s/checkpoints/%s", joust_store_dir(c->store),
                 c->job->models[i].name);
        st = export_version(c, &version, dir, err);
        if (st == JOUST_OK)
            joust_log_info("checkpoint", "%s version %llu in %s", c->job->models[i].name,
                           (unsigned long long)number, dir);
    }
    return st;
}
