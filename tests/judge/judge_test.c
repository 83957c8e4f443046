/* The judge as it runs, against a coordinator at the other end of a socket. */
#include "check.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>

#include "judge/judge.h"
#include "proto/base/alloc.h"
#include "worker/fake_coordinator.h"
#include "worker/tiny.h"

#define N_GROUPS  20u /* more than are judged at once */
#define N_SAMPLES 3u

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
    atomic_bool over;
} bench;

static void *work(void *arg)
{
    bench *b = arg;
    b->ended = joust_judge_run(&b->options, &b->err);
    atomic_store(&b->over, true);
    return NULL;
}

static int setup(void **state)
{
    bench *b = joust_calloc(1, sizeof(*b));
    char dir[512];
    tiny_job_make(&b->job, &b->plan);
    fake_coordinator_init(&b->c, "judge", &b->job);
    tiny_dir("judge", dir);
    tiny_folder_write(dir, true, 1);
    b->model = (joust_model_ref){.lineage = "policy", .version = 3};
    b->model.manifest = fake_upstream_import(&b->c.files, dir);
    tiny_dir("judge_cache", b->cache);
    b->options = (joust_role_options){.endpoint = b->c.endpoint,
                                      .name = "judge-0",
                                      .cache = b->cache,
                                      .cache_bytes = 1u << 30,
                                      .threads = 1,
                                      .credit = 2 * N_GROUPS};
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

static joust_lease_unit judge_unit(const bench *b, const char *judge, uint64_t position)
{
    const joust_stage *stage = tiny_stage(&b->job, &b->plan, JOUST_STAGE_JUDGE, judge);
    joust_lease_unit u = tiny_generate_unit(stage, position, &b->model);
    u.n_trajectories = N_SAMPLES;
    u.trajectories = joust_calloc(N_SAMPLES, sizeof(*u.trajectories));
    for (uint32_t i = 0; i < N_SAMPLES; i++) {
        const uint32_t prompt[] = {1, 10, 3};
        const uint32_t tokens[] = {11, 12 + i, TINY_EOS};
        joust_trajectory *t = &u.trajectories[i];
        *t = (joust_trajectory){.key = {1, stage->of, position},
                                .sample = i,
                                .n_prompt_tokens = 3,
                                .n_tokens = 3,
                                .finish = JOUST_FINISH_STOP,
                                .sampling = {.temperature = 1, .top_p = 1, .max_tokens = 8}};
        t->prompt_tokens = joust_memdup(prompt, sizeof(prompt));
        t->tokens = joust_memdup(tokens, sizeof(tokens));
        t->raw_logps = joust_calloc(3, sizeof(float));
        t->logps = joust_calloc(3, sizeof(float));
        t->text = joust_strdup("b #### 3");
    }
    return u;
}

static void groups_become_verdicts(void **state)
{
    bench *b = *state;
    fake_coordinator *c = &b->c;
    joust_lease_unit units[2 * N_GROUPS];
    for (uint32_t i = 0; i < N_GROUPS; i++) {
        units[2 * i] = judge_unit(b, "self", i); /* two judges' units mixed */
        units[2 * i + 1] = judge_unit(b, "number", i);
    }
    units[6].trajectories[1].sample = 2; /* not a whole group */
    assert_int_equal(pthread_create(&b->thread, NULL, work, b), 0);
    fake_serve_until(c, c->n_hellos > 0);
    assert_int_equal(c->hello.role, JOUST_PEER_JUDGE);
    assert_false(c->hello.can_train);
    fake_coordinator_lease(c, units, 2 * N_GROUPS);
    fake_serve_until(c, c->n_results + c->n_failed == 2 * N_GROUPS);
    assert_int_equal(c->n_failed, 1);
    assert_non_null(strstr(c->failure, "sample 2 stands where 1 belongs"));
    for (uint32_t i = 0; i < 2 * N_GROUPS; i++) {
        const joust_unit_result *r = fake_coordinator_result(c, &units[i].unit);
        if (i == 6)
            continue;
        assert_non_null(r);
        assert_int_equal(r->n_verdicts, N_SAMPLES);
        assert_string_equal(r->verdicts[0].judge, i % 2 ? "number" : "self");
        assert_int_equal(r->verdicts[0].outcome, JOUST_OUTCOME_OK);
        assert_int_equal(r->id.lease, units[i].lease);
    }
    fake_coordinator_acknowledge_all(c);
    fake_coordinator_goodbye(c);
    pthread_join(b->thread, NULL);
    assert_int_equal(b->ended, JOUST_OK);
    for (uint32_t i = 0; i < 2 * N_GROUPS; i++)
        joust_lease_unit_fini(&units[i]);
}

static void limit_files(rlim_t n_bytes)
{
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = n_bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

/* A disk that takes nothing is this process's trouble, not the unit's: no failure is charged, the process ends. */
static void a_full_disk_ends_the_process(void **state)
{
    bench *b = *state;
    fake_coordinator *c = &b->c;
    joust_lease_unit unit = judge_unit(b, "self", 0);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(pthread_create(&b->thread, NULL, work, b), 0);
    fake_serve_until(c, c->n_hellos > 0);
    limit_files(1000);
    fake_coordinator_lease(c, &unit, 1);
    fake_serve_until(c, atomic_load(&b->over));
    limit_files(RLIM_INFINITY);
    pthread_join(b->thread, NULL);
    assert_int_equal(c->n_failed, 0);
    assert_int_equal(b->ended, JOUST_IO);
    assert_non_null(strstr(b->err.text, "can't write"));
    joust_lease_unit_fini(&unit);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(groups_become_verdicts, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_disk_ends_the_process, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
