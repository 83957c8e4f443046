/* The worker as it runs, against a coordinator at the other end of a socket: leases, a coordinator
 * that dies, training, and the ways to end. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/codec.h"
#include "worker/fake_coordinator.h"
#include "worker/tiny.h"
#include "worker/worker.h"

#define N_UNITS 6u

typedef struct bench {
    joust_job job;
    joust_plan plan;
    fake_coordinator c;
    joust_model_ref model;
    joust_role_options options;
    char cache[512];
    pthread_t thread;
    joust_status ended;
    joust_error err;
} bench;

static void *work(void *arg)
{
    bench *b = arg;
    b->ended = joust_worker_run(&b->options, true, &b->err);
    return NULL;
}

static void start(bench *b)
{
    assert_int_equal(pthread_create(&b->thread, NULL, work, b), 0);
}

static joust_status join(bench *b)
{
    pthread_join(b->thread, NULL);
    return b->ended;
}

static int setup(void **state)
{
    bench *b = joust_calloc(1, sizeof(*b));
    char dir[512];
    tiny_job_make(&b->job, &b->plan);
    fake_coordinator_init(&b->c, "worker", &b->job);
    tiny_dir("worker", dir);
    tiny_folder_write(dir, true, 1);
    b->model = (joust_model_ref){.lineage = "policy", .version = 3};
    b->model.manifest = fake_upstream_import(&b->c.files, dir);
    tiny_dir("worker_cache", b->cache);
    b->options = (joust_role_options){.endpoint = b->c.endpoint,
                                      .name = "worker-0",
                                      .cache = b->cache,
                                      .cache_bytes = 1u << 30,
                                      .threads = 1,
                                      .credit = 16};
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    bench *b = *state;
    fake_coordinator_fini(&b->c);
    joust_job_fini(&b->job);
    joust_free(b);
    return 0;
}

static void make_units(bench *b, joust_lease_unit units[N_UNITS])
{
    const joust_stage *stage = tiny_stage(&b->job, &b->plan, JOUST_STAGE_GENERATE, NULL);
    for (uint32_t i = 0; i < N_UNITS; i++)
        units[i] = tiny_generate_unit(stage, i, &b->model);
}

static void free_units(joust_lease_unit units[N_UNITS])
{
    for (uint32_t i = 0; i < N_UNITS; i++)
        joust_lease_unit_fini(&units[i]);
}

static void make_rows(const fake_coordinator *c, const joust_lease_unit *units,
                      joust_train_row_pair *rows)
{
    for (uint32_t i = 0; i < N_UNITS; i++) {
        const joust_unit_result *r = fake_coordinator_result(c, &units[i].unit);
        const joust_trajectory *x = &r->trajectories[0], *y = &r->trajectories[1];
        rows[i] = (joust_train_row_pair){.n_prompt_tokens = x->n_prompt_tokens,
                                         .n_chosen = x->n_tokens,
                                         .n_rejected = y->n_tokens,
                                         .prompt_tokens = x->prompt_tokens,
                                         .chosen = x->tokens,
                                         .rejected = y->tokens,
                                         .chosen_logps = x->raw_logps,
                                         .rejected_logps = y->raw_logps,
                                         .chosen_policy = 3,
                                         .rejected_policy = 3};
    }
}

static void a_job_through_a_dying_coordinator(void **state)
{
    bench *b = *state;
    fake_coordinator *c = &b->c;
    joust_lease_unit units[N_UNITS];
    make_units(b, units);
    start(b);
    fake_serve_until(c, c->n_hellos > 0);
    assert_int_equal(c->hello.role, JOUST_PEER_WORKER);
    assert_string_equal(c->hello.name, "worker-0");
    assert_int_equal(c->hello.credit, 16);
    assert_true(c->hello.can_train && c->hello.instance != 0 && c->hello.host[0]);
    assert_int_equal(c->hello.n_holding, 0);
    fake_coordinator_lease(c, units, N_UNITS);
    fake_serve_until(c, c->n_results == N_UNITS);

    /* It dies before it acknowledges; the next one hears what is held, and gets all of it. */
    fake_coordinator_close(c);
    fake_coordinator_open(c);
    fake_serve_until(c, c->n_hellos > 1);
    assert_int_equal(c->hello.n_holding, N_UNITS);
    fake_serve_until(c, c->n_repeats == N_UNITS);
    const joust_unit_result *first = fake_coordinator_result(c, &units[0].unit);
    assert_int_equal(first->n_trajectories, b->job.rollout.samples);
    assert_string_equal(first->provenance.peer, "worker-0");
    assert_int_equal(first->provenance.lease, 100);
    assert_int_equal(first->provenance.epoch, 1);
    assert_true(first->provenance.n_tokens > 0 && first->provenance.duration_us > 0);
    fake_coordinator_acknowledge_all(c);

    /* Training, with rows, chunks and durable progress over the link. */
    joust_train_row_pair rows[N_UNITS];
    make_rows(c, units, rows);
    c->files.pairs = rows;
    c->files.n_pairs = N_UNITS;
    const joust_stage *train = tiny_stage(&b->job, &b->plan, JOUST_STAGE_TRAIN, NULL);
    joust_lease_unit unit = {.unit = {.round = 1, .stage = train->index},
                             .lease = 200,
                             .deadline_ms = 60000,
                             .model = b->model,
                             .reference = b->model,
                             .out_version = 4,
                             .n_rows = N_UNITS};
    fake_coordinator_lease(c, &unit, 1);
    fake_serve_until(c, fake_coordinator_result(c, &unit.unit));
    const joust_unit_result *trained = fake_coordinator_result(c, &unit.unit);
    assert_true(trained->has_model);
    assert_int_equal(trained->n_metrics, 1);
    assert_true(trained->metrics[0].value == 0);
    assert_int_equal(c->files.step, 4); /* the last durable state before the end */
    assert_int_equal(c->n_failed, 0);
    fake_coordinator_acknowledge_all(c);
    fake_coordinator_goodbye(c);
    assert_int_equal(join(b), JOUST_OK);
    free_units(units);
}

/* Training is under way when the coordinator dies: what was asked is asked again of the next. */
static void training_goes_on_under_the_next_coordinator(void **state)
{
    bench *b = *state;
    fake_coordinator *c = &b->c;
    joust_lease_unit units[N_UNITS];
    make_units(b, units);
    start(b);
    fake_serve_until(c, c->n_hellos > 0);
    fake_coordinator_lease(c, units, N_UNITS);
    fake_serve_until(c, c->n_results == N_UNITS);
    fake_coordinator_acknowledge_all(c);
    joust_train_row_pair rows[N_UNITS];
    make_rows(c, units, rows);
    c->files.pairs = rows;
    c->files.n_pairs = N_UNITS;
    c->files.rows_at_most = 2;
    const joust_stage *train = tiny_stage(&b->job, &b->plan, JOUST_STAGE_TRAIN, NULL);
    joust_lease_unit unit = {.unit = {.round = 1, .stage = train->index},
                             .lease = 200,
                             .deadline_ms = 60000,
                             .model = b->model,
                             .reference = b->model,
                             .out_version = 4,
                             .n_rows = N_UNITS};
    uint32_t deaths = 0;
    fake_coordinator_lease(c, &unit, 1);
    while (!fake_coordinator_result(c, &unit.unit)) {
        uint32_t n = c->files.n_requests + 3, hellos = c->n_hellos;
        fake_serve_until(c, c->files.n_requests >= n || fake_coordinator_result(c, &unit.unit));
        if (fake_coordinator_result(c, &unit.unit) || deaths == 4)
            continue;
        deaths++;
        fake_coordinator_close(c);
        fake_coordinator_open(c);
        fake_serve_until(c, c->n_hellos > hellos);
        assert_int_equal(c->hello.n_holding, 1);
        unit.lease++;
        fake_coordinator_lease(c, &unit, 1); /* again, under a new lease */
    }
    assert_int_equal(deaths, 4);
    assert_int_equal(c->n_failed, 0);
    const joust_unit_result *trained = fake_coordinator_result(c, &unit.unit);
    assert_int_equal(trained->id.lease, unit.lease);
    assert_int_equal(c->files.step, 4);
    fake_coordinator_acknowledge_all(c);
    fake_coordinator_goodbye(c);
    assert_int_equal(join(b), JOUST_OK);
    free_units(units);
}

/* Work that is revoked stops and leaves room for other work; a unit that can't be done is named. */
static void revoked_and_failed_units(void **state)
{
    bench *b = *state;
    fake_coordinator *c = &b->c;
    const joust_stage *train = tiny_stage(&b->job, &b->plan, JOUST_STAGE_TRAIN, NULL);
    joust_lease_unit unit = {.unit = {.round = 1, .stage = train->index},
                             .lease = 300,
                             .deadline_ms = 60000,
                             .model = b->model,
                             .reference = b->model,
                             .out_version = 4,
                             .n_rows = 0};
    start(b);
    fake_serve_until(c, c->n_hellos > 0);
    fake_coordinator_lease(c, &unit, 1);
    fake_serve_until(c, c->n_failed == 1);
    assert_non_null(strstr(c->failure, "nothing to train on"));

    /* Held up for want of its first file; then revoked. */
    joust_lease_unit units[N_UNITS];
    make_units(b, units);
    joust_lease_unit stuck = units[0];
    stuck.unit.position = 50;
    stuck.lease = 301;
    stuck.model.manifest = joust_digest_of("absent", 6);
    c->files.lose_every = 1;
    uint32_t n_lost = c->files.n_lost;
    fake_coordinator_lease(c, &stuck, 1);
    fake_serve_until(c, c->files.n_lost > n_lost);
    c->files.lose_every = 0;
    joust_unit_id id = {stuck.unit, stuck.lease, 0};
    fake_coordinator_revoke(c, &id);
    fake_coordinator_lease(c, units, N_UNITS);
    fake_serve_until(c, c->n_results == N_UNITS);
    assert_null(fake_coordinator_result(c, &stuck.unit));
    assert_int_equal(c->n_failed, 1);
    fake_coordinator_acknowledge_all(c);
    fake_coordinator_goodbye(c);
    assert_int_equal(join(b), JOUST_OK);
    free_units(units);
}

static void nobody_for_the_grace_time(void **state)
{
    bench *b = *state;
    fake_coordinator_close(&b->c);
    b->options.grace_ms = 200;
    int64_t from = joust_clock_ms();
    start(b);
    assert_int_equal(join(b), JOUST_TIMEOUT);
    assert_true(joust_clock_ms() - from >= 200);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_job_through_a_dying_coordinator, setup, teardown),
        cmocka_unit_test_setup_teardown(training_goes_on_under_the_next_coordinator, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(revoked_and_failed_units, setup, teardown),
        cmocka_unit_test_setup_teardown(nobody_for_the_grace_time, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
