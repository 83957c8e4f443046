/* Writes seeds of the corpus of core: a whole job's events, and a snapshot in the middle with the events after it.
 *   fuzz_core_seeds DIR */
#include <stdio.h>
#include <stdlib.h>

#include "coordinator/core_internal.h"
#include "fuzz/core.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"

static void require(bool condition)
{
    if (!condition)
        abort();
}

/* Replays one event, if it fits the state, and appends it to the log. */
static bool play(joust_core *core, const joust_fold *fold, joust_buf *log)
{
    joust_error err;
    joust_buf bytes = {0};
    joust_fold_encode(fold, &bytes);
    bool fits = joust_core_replay(core, bytes.data, bytes.n, &err) == JOUST_OK;
    if (fits) {
        joust_buf_be16(log, (uint16_t)bytes.n);
        joust_buf_add(log, bytes.data, bytes.n);
    }
    joust_buf_fini(&bytes);
    return fits;
}

/* Finishes the first unit that can be; false once none can. */
static bool play_unit(joust_core *core, const joust_plan *plan, joust_buf *log)
{
    joust_fold fold = {.kind = JOUST_FOLD_UNIT_DONE};
    uint32_t round = joust_core_round(core);
    for (uint32_t stage = 0; stage < plan->n_stages; stage++) {
        uint64_t n = joust_core_positions(core, round, stage);
        for (uint64_t position = 0; position < n; position++) {
            fold.unit = (joust_unit_key){round, stage, position};
            fold.n_pairs = plan->stages[stage].kind == JOUST_STAGE_PAIR;
            fold.promoted = plan->stages[stage].kind == JOUST_STAGE_PROMOTE && round != 2;
            if (play(core, &fold, log))
                return true;
        }
    }
    return false;
}

static void write_seed(const char *dir, const char *name, const joust_buf *snapshot,
                       const joust_buf *log)
{
    joust_error err;
    joust_buf seed = {0};
    char *path = joust_path_join(dir, name);
    joust_buf_be32(&seed, (uint32_t)snapshot->n);
    joust_buf_add(&seed, snapshot->data, snapshot->n);
    joust_buf_add(&seed, log->data, log->n);
    require(path && joust_dir_make(dir, &err) == JOUST_OK);
    require(joust_file_write(path, seed.data, seed.n, &err) == JOUST_OK);
    joust_free(path);
    joust_buf_fini(&seed);
}

int main(int argc, char **argv)
{
    joust_error err;
    sample_job sample;
    joust_buf none = {0}, log = {0}, rest = {0}, snapshot = {0};
    if (argc != 2) {
        fprintf(stderr, "usage: %s DIR\n", argv[0]);
        return 2;
    }
    joust_core *core = fuzz_core_create(&sample);
    joust_fold started = {.kind = JOUST_FOLD_STARTED, .epoch = 1};
    joust_fold class = {.kind = JOUST_FOLD_CLASS, .text = "cpu-f32-1"};
    require(play(core, &started, &log) && play(core, &class, &log));
    while (play_unit(core, &sample.plan, joust_core_round(core) < 2 ? &log : &rest)) {
        if (joust_core_round(core) == 2 && snapshot.n == 0)
            require(joust_core_encode(core, &snapshot, &err) == JOUST_OK);
    }
    write_seed(argv[1], "first-round", &none, &log);
    write_seed(argv[1], "snapshot-and-second-round", &snapshot, &rest);
    joust_buf_add(&log, rest.data, rest.n);
    joust_fold failed = {.kind = JOUST_FOLD_JOB_FAILED, .text = "no group was decided"};
    require(play(core, &failed, &log));
    write_seed(argv[1], "whole-job", &none, &log);
    snapshot.n = 0;
    require(joust_core_encode(core, &snapshot, &err) == JOUST_OK);
    write_seed(argv[1], "snapshot-at-the-end", &snapshot, &none);
    joust_buf_fini(&log);
    joust_buf_fini(&rest);
    joust_buf_fini(&snapshot);
    joust_core_free(&core);
    return 0;
}
