/* A rollout's records don't depend on what else is in the batch. */
#include "check.h"

#include <string.h>

#include "proto/base/alloc.h"
#include "proto/codec.h"
#include "worker/rollout.h"
#include "worker/tiny.h"

#define N_UNITS 9u

typedef struct bench {
    joust_job job;
    joust_plan plan;
    const joust_stage *stage;
    joust_engine *engine;
    joust_model *model;
    joust_tokenizer *tokenizer;
    joust_lease_unit units[N_UNITS];
    uint32_t base; /* index of the batch's first unit */
    joust_buf records[N_UNITS];
    uint32_t n_done, n_failed;
    char why[1024];
} bench;

static joust_status done(void *context, uint32_t unit, joust_unit_result *result, joust_error *ret)
{
    bench *b = context;
    joust_error err;
    (void)ret;
    b->n_done++;
    assert_int_equal(result->id.unit.position, b->units[b->base + unit].unit.position);
    assert_int_equal(result->n_trajectories, b->stage->samples);
    for (uint32_t i = 0; i < result->n_trajectories; i++) {
        assert_int_equal(result->trajectories[i].sample, i);
        check_ok(joust_trajectory_validate(&result->trajectories[i], &err));
        check_ok(
            joust_trajectory_encode(&result->trajectories[i], &b->records[b->base + unit], &err));
    }
    joust_unit_result_fini(result);
    return JOUST_OK;
}

static joust_status failed(void *context, uint32_t unit, const joust_error *why, joust_error *err)
{
    bench *b = context;
    (void)unit;
    (void)err;
    b->n_failed++;
    memcpy(b->why, why->text, sizeof(b->why));
    return JOUST_OK;
}

/* Generates all units in batches of n and gives the digest of all records. */
static joust_digest digest_in_batches(bench *b, uint32_t n)
{
    joust_error err;
    joust_rollout r = {.engine = b->engine,
                       .model = b->model,
                       .tokenizer = b->tokenizer,
                       .job = &b->job,
                       .stage = b->stage,
                       .done = done,
                       .failed = failed,
                       .context = b};
    joust_hasher h;
    joust_hasher_init(&h);
    for (uint32_t i = 0; i < N_UNITS; i += n) {
        b->base = i;
        check_ok(joust_rollout_run(&r, b->units + i, N_UNITS - i < n ? N_UNITS - i : n, &err));
    }
    for (uint32_t i = 0; i < N_UNITS; i++) {
        joust_hasher_field(&h, b->records[i].data, b->records[i].n);
        joust_buf_clear(&b->records[i]);
    }
    return joust_hasher_end(&h);
}

static int setup(void **state)
{
    joust_error err;
    bench *b = joust_calloc(1, sizeof(*b));
    char dir[512];
    joust_model_ref ref = {.lineage = "policy", .version = 3};
    tiny_job_make(&b->job, &b->plan);
    b->stage = tiny_stage(&b->job, &b->plan, JOUST_STAGE_GENERATE, NULL);
    tiny_dir("rollout", dir);
    tiny_folder_write(dir, true, 1);
    check_ok(joust_engine_create(&(joust_engine_options){.n_threads = 2}, &b->engine, &err));
    check_ok(joust_model_load(dir, &b->model, &err));
    check_ok(joust_tokenizer_load(dir, &b->tokenizer, &err));
    for (uint32_t i = 0; i < N_UNITS; i++)
        b->units[i] = tiny_generate_unit(b->stage, i, &ref);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    bench *b = *state;
    for (uint32_t i = 0; i < N_UNITS; i++) {
        joust_lease_unit_fini(&b->units[i]);
        joust_buf_fini(&b->records[i]);
    }
    joust_tokenizer_free(&b->tokenizer);
    joust_model_free(&b->model);
    joust_engine_free(&b->engine);
    joust_job_fini(&b->job);
    joust_free(b);
    return 0;
}

static void any_grouping_gives_the_same_records(void **state)
{
    bench *b = *state;
    joust_digest one = digest_in_batches(b, 1);
    for (uint32_t n = 2; n <= N_UNITS; n += 3) {
        joust_digest many = digest_in_batches(b, n);
        if (!joust_digest_equal(&one, &many))
            fail_msg("batches of %u give other records than batches of 1", n);
    }
    b->job.seed++;
    joust_digest other = digest_in_batches(b, 1);
    b->job.seed--;
    assert_false(joust_digest_equal(&one, &other));
}

static void a_prompt_without_room_gives_empty_trajectories(void **state)
{
    bench *b = *state;
    joust_lease_unit *u = &b->units[0];
    char *kept = u->prompt.text;
    char text[200] = "";
    for (int i = 0; i < 60; i++)
        strcat(text, "a ");
    u->prompt.text = text;
    joust_error err;
    joust_rollout r = {.engine = b->engine,
                       .model = b->model,
                       .tokenizer = b->tokenizer,
                       .job = &b->job,
                       .stage = b->stage,
                       .done = done,
                       .failed = failed,
                       .context = b};
    b->n_done = b->base = 0;
    check_ok(joust_rollout_run(&r, u, 1, &err));
    u->prompt.text = kept;
    assert_int_equal(b->n_done, 1);
    joust_trajectory t = {0};
    check_ok(joust_trajectory_decode(b->records[0].data, b->records[0].n / 4, &t, &err));
    assert_int_equal(t.n_tokens, 0);
    assert_int_equal(t.n_prompt_tokens, 62);
    assert_int_equal(t.finish, JOUST_FINISH_LENGTH);
    joust_trajectory_fini(&t);
    joust_buf_clear(&b->records[0]);
}

static void an_unreadable_prompt_fails_alone(void **state)
{
    bench *b = *state;
    joust_lease_unit *u = &b->units[1];
    char *kept = u->prompt.text;
    char bad[] = "a \xff";
    joust_error err;
    joust_rollout r = {.engine = b->engine,
                       .model = b->model,
                       .tokenizer = b->tokenizer,
                       .job = &b->job,
                       .stage = b->stage,
                       .done = done,
                       .failed = failed,
                       .context = b};
    u->prompt.text = bad;
    b->n_done = b->n_failed = b->base = 0;
    check_ok(joust_rollout_run(&r, b->units, 3, &err));
    u->prompt.text = kept;
    assert_int_equal(b->n_done, 2);
    assert_int_equal(b->n_failed, 1);
    assert_non_null(strstr(b->why, "prompt 1 of the stage"));
    for (uint32_t i = 0; i < N_UNITS; i++)
        joust_buf_clear(&b->records[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_grouping_gives_the_same_records),
        cmocka_unit_test(a_prompt_without_room_gives_empty_trajectories),
        cmocka_unit_test(an_unreadable_prompt_fails_alone),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
