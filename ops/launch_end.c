#include "ops/launch_end.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "coordinator/checkpoints.h"
#include "coordinator/recovery.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "storage/tables.h"

bool joust_launch_is_complete(const char *store, uint32_t rounds)
{
    joust_store *s = NULL;
    joust_error err;
    joust_buf status = {0};
    joust_core_phase phase = JOUST_CORE_RUNNING;
    if (joust_store_open_read(store, &s, &err) != JOUST_OK)
        return false;
    bool same = joust_store_job(s)->rounds == rounds;
    joust_store_close(&s);
    bool complete = same && joust_recovery_status(store, &status, &phase, &err) == JOUST_OK &&
                    phase == JOUST_CORE_COMPLETE;
    joust_buf_fini(&status);
    return complete;
}

/* Why the lineage's final version isn't that of the last round; "" if it is. */
static void explain(joust_store *store, const joust_plan *plan, uint32_t lineage, uint64_t version,
                    char *to, size_t n)
{
    uint32_t round = joust_store_job(store)->rounds;
    *to = '\0';
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const joust_stage *stage = &plan->stages[i];
        joust_promotion promotion;
        joust_error err;
        if (stage->model != lineage || !joust_stage_runs(stage, round))
            continue;
        if (stage->kind == JOUST_STAGE_TRAIN && joust_plan_out_version(plan, round, i) != version)
            snprintf(to, n, "; round %" PRIu32 " trained nothing", round);
        if (stage->kind == JOUST_STAGE_PROMOTE &&
            joust_store_get_promotion(store, round, i, &promotion, &err) == JOUST_OK &&
            !promotion.promoted)
            snprintf(to, n, "; round %" PRIu32 " was not promoted", round);
    }
}

static void print_checkpoint(joust_store *store, const joust_plan *plan, uint32_t lineage,
                             const char *folder)
{
    const char *name = joust_store_job(store)->models[lineage].name;
    char *path = joust_path_join(folder, name), why[80];
    uint64_t version;
    joust_error err;
    if (path && joust_dir_exists(path) &&
        joust_final_version(store, plan, lineage, &version, &err) == JOUST_OK) {
        explain(store, plan, lineage, version, why, sizeof(why));
        printf("%-12s %s (version %" PRIu64 "%s)\n", "checkpoint", path, version, why);
    }
    joust_free(path);
}

void joust_launch_print_checkpoints(const char *store)
{
    joust_store *s = NULL;
    joust_plan *plan = NULL;
    joust_error err;
    char *folder = joust_path_join(store, "checkpoints");
    if (folder && joust_dir_exists(folder) && joust_store_open_read(store, &s, &err) == JOUST_OK &&
        joust_plan_create(joust_store_job(s), &plan, &err) == JOUST_OK) {
        for (uint32_t i = 0; i < joust_store_job(s)->n_models; i++)
            print_checkpoint(s, plan, i, folder);
    }
    joust_free(plan);
    joust_store_close(&s);
    joust_free(folder);
}
