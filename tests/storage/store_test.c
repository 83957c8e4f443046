/* What a store promises its coordinator: identity, lock, epochs, atomic commits, repeats, event log. */
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "storage/tables.h"
#include "tests/storage/fixture.h"

typedef struct world {
    char dir[256];
    joust_job job;
    joust_store *store;
    uint64_t epoch;
    int64_t live;
} world;

static void open_store(world *w)
{
    joust_error err;
    ok(joust_store_open(w->dir, &w->job, &w->store, &err), &err);
}

static int setup(void **state)
{
    static world w;
    joust_error err;
    memset(&w, 0, sizeof(w));
    w.live = joust_alloc_live();
    snprintf(w.dir, sizeof(w.dir), "%s", scratch_make());
    make_job(&w.job);
    open_store(&w);
    ok(joust_store_begin_epoch(w.store, &w.epoch, &err), &err);
    *state = &w;
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    joust_store_close(&w->store);
    joust_job_fini(&w->job);
    scratch_remove(w->dir);
    assert_true(joust_alloc_live() == w->live);
    return 0;
}

static void reopen(world *w)
{
    joust_store_close(&w->store);
    open_store(w);
}

/* This program again, as another process: see main. Its standard output goes to `out` unless that is -1. */
static pid_t start(const world *w, const char *what, int out)
{
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        if (out >= 0 && dup2(out, STDOUT_FILENO) < 0)
            _exit(1);
        execl("/proc/self/exe", "store_test", what, w->dir, (char *)NULL);
        _exit(1);
    }
    return child;
}

/* Identity ------------------------------------------------------------------------------------- */

static void assert_refused(world *w, joust_status status, const char *says)
{
    joust_error err;
    joust_store *store;
    joust_store_close(&w->store);
    assert_int_equal(joust_store_open(w->dir, &w->job, &store, &err), status);
    if (!strstr(err.text, says))
        fail_msg("\"%s\" doesn't say \"%s\"", err.text, says);
}

static void another_job_is_refused_by_key(void **state)
{
    world *w = *state;
    const joust_job as_recorded = w->job;
    w->job.seed = 8;
    assert_refused(w, JOUST_CONFLICT, "seed is 7 in the job recorded here, and 8 in");
    w->job.seed = 7;
    w->job.train.beta = 0.25;
    assert_refused(w, JOUST_CONFLICT, "train.beta is 0.1 in");
    w->job.train.beta = 0.1;
    w->job.judges[0].role = JOUST_ROLE_EVALUATE;
    assert_refused(w, JOUST_CONFLICT, "judges[0].role is reward");
    w->job.judges[0].role = JOUST_ROLE_REWARD;
    w->job.models[0].content = joust_digest_of("other", 5);
    assert_refused(w, JOUST_CONFLICT, "models.policy.path is content");
    w->job.models[0].content = joust_digest_of("weights", 7);
    w->job.seed = 8;
    w->job.train.beta = 0.25;
    assert_refused(w, JOUST_CONFLICT,
                   "seed is 7 in the job recorded here, and 8 in the job given; "
                   "train.beta: 0.1 recorded, 0.25 given");
    w->job.train.weight_decay = w->job.train.clip = w->job.train.adam_beta1 = 0.75;
    w->job.train.adam_beta2 = w->job.train.sft_weight = w->job.train.learning_rate = 0.75;
    w->job.train.min_learning_rate_ratio = 0.75;
    assert_refused(w, JOUST_CONFLICT, "train.weight_decay: 0 recorded, 0.75 given; and 1 more");
    w->job.train = as_recorded.train;
    w->job.seed = 7;
    w->job.rounds = 1;
    assert_refused(w, JOUST_CONFLICT, "may only grow");
    w->job.rounds = 2;
    open_store(w);
}

static void name_cluster_path_and_more_rounds_are_fine(void **state)
{
    world *w = *state;
    w->job.rounds = 5;
    w->job.cluster.workers = 9;
    w->job.models[0].path[1] = 'M';
    w->job.name[0] = 'J';
    reopen(w);
    assert_int_equal(joust_store_job(w->store)->rounds, 5);
    reopen(w);
    assert_int_equal(joust_store_job(w->store)->rounds, 5);
    assert_int_equal(joust_store_job(w->store)->cluster.workers, 9);
}

static void a_second_writer_is_refused(void **state)
{
    world *w = *state;
    joust_error err;
    joust_store *second;
    assert_int_equal(joust_store_open(w->dir, &w->job, &second, &err), JOUST_LOCKED);
    assert_non_null(strstr(err.text, w->dir));
    int status;
    pid_t child = start(w, "open", -1); /* another process, as it happens in life */
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void a_folder_without_a_store_is_said(void **state)
{
    world *w = *state;
    joust_error err;
    joust_store *store;
    char path[300];
    snprintf(path, sizeof(path), "%s/nothing", w->dir);
    assert_int_equal(joust_store_open_read(path, &store, &err), JOUST_NOT_FOUND);
    assert_non_null(strstr(err.text, "there is no store here"));
}

static void a_folder_of_other_files_is_no_place_for_a_store(void **state)
{
    world *w = *state;
    joust_error err;
    joust_store *store;
    char place[300], path[320];
    snprintf(place, sizeof(place), "%s/thesis", w->dir);
    snprintf(path, sizeof(path), "%s/chapter", place);
    ok(joust_dir_make(place, &err), &err);
    ok(joust_file_write(path, "text", 4, &err), &err);
    assert_int_equal(joust_store_open(place, &w->job, &store, &err), JOUST_EXISTS);
    assert_non_null(strstr(err.text, place));
    assert_int_equal(unlink(path), 0);
    ok(joust_store_open(place, &w->job, &store, &err), &err);
    joust_store_close(&store);
}

/* Commits -------------------------------------------------------------------------------------- */

static void records_come_back_after_reopening(void **state)
{
    world *w = *state;
    joust_error err;
    fill_store(w->store, w->epoch, 1, 4);
    reopen(w);
    joust_trajectory *group, expected;
    joust_verdict *verdicts;
    joust_pair_place *places;
    joust_unit_key unit = {1, STAGE_GENERATE, 2}, judged = {1, STAGE_JUDGE, 2};
    uint32_t n;
    uint64_t n_pairs, n_prompts;
    bool present = false;
    ok(joust_store_get_group(w->store, &unit, &group, &n, &err), &err);
    assert_int_equal(n, SAMPLES);
    assert_string_equal(group[1].text, "answer 1\n#### 3");
    assert_true(group[2].raw_logps[0] == -2.5f);
    joust_trajectories_free(group, n);
    ok(joust_store_get_verdicts(w->store, &judged, &verdicts, &n, &err), &err);
    assert_int_equal(n, SAMPLES);
    assert_true(verdicts[0].value == 1.5);
    joust_verdicts_free(verdicts, n);
    ok(joust_store_list_pairs(w->store, 1, STAGE_PAIR, &places, &n_pairs, &err), &err);
    assert_int_equal(n_pairs, 4);
    assert_int_equal(places[3].position, 3);
    joust_free(places);
    ok(joust_store_count_prompts(w->store, 0, &n_prompts, &err), &err);
    assert_int_equal(n_prompts, 4);
    make_trajectory(&expected, 1, 2, 1);
    ok(joust_store_check_trajectory(w->store, &expected, &present, &err), &err);
    assert_true(present);
    joust_trajectory_fini(&expected);
}

static void an_empty_group_is_empty(void **state)
{
    world *w = *state;
    joust_error err;
    joust_trajectory *group = (joust_trajectory *)w;
    joust_unit_key unit = {9, 9, 9};
    uint32_t n = 7;
    ok(joust_store_get_group(w->store, &unit, &group, &n, &err), &err);
    assert_int_equal(n, 0);
    assert_null(group);
    joust_trajectory one;
    assert_int_equal(joust_store_get_trajectory(w->store, &unit, 0, &one, &err), JOUST_NOT_FOUND);
    assert_non_null(strstr(err.text, "trajectories r9.s9.p9.0"));
}

static void repeats_are_the_same_or_a_conflict(void **state)
{
    world *w = *state;
    joust_error err;
    joust_trajectory t;
    joust_verdict v;
    bool present = true;
    make_trajectory(&t, 1, 0, 0);
    ok(joust_store_check_trajectory(w->store, &t, &present, &err), &err);
    assert_false(present);
    fill_store(w->store, w->epoch, 1, 1);
    ok(joust_store_check_trajectory(w->store, &t, &present, &err), &err);
    assert_true(present);
    t.raw_logps[0] = -0.50001f;
    assert_int_equal(joust_store_check_trajectory(w->store, &t, &present, &err), JOUST_CONFLICT);
    assert_non_null(strstr(err.text, "trajectories r1.s0.p0.0"));
    joust_trajectory_fini(&t);
    make_verdict(&v, 1, 0, 2);
    ok(joust_store_check_verdict(w->store, &v, &present, &err), &err);
    v.value += 1;
    assert_int_equal(joust_store_check_verdict(w->store, &v, &present, &err), JOUST_CONFLICT);
    joust_verdict_fini(&v);
}

static void the_first_provenance_stays(void **state)
{
    world *w = *state;
    joust_error err;
    joust_batch *batch;
    joust_provenance p, got;
    joust_unit_key unit = {1, 2, 3};
    ok(joust_batch_create(w->store, w->epoch, &batch, &err), &err);
    for (uint32_t attempt = 4; attempt < 8; attempt++) {
        make_provenance(&p, attempt);
        ok(joust_batch_put_provenance(batch, &unit, &p, &err), &err);
        if (attempt == 5) /* two in one batch, then two in another */
            ok(joust_store_commit(w->store, batch, true, &err), &err);
    }
    ok(joust_store_commit(w->store, batch, true, &err), &err);
    joust_batch_free(&batch);
    ok(joust_store_get_provenance(w->store, &unit, &got, &err), &err);
    assert_int_equal(got.attempt, 4);
    reopen(w);
    ok(joust_store_get_provenance(w->store, &unit, &got, &err), &err);
    assert_int_equal(got.attempt, 4);
}

static void an_older_epoch_is_fenced(void **state)
{
    world *w = *state;
    joust_error err;
    joust_batch *old, *future;
    uint64_t epoch;
    ok(joust_batch_create(w->store, w->epoch, &old, &err), &err);
    ok(joust_batch_append_event(old, 1, "x", 1, &err), &err);
    ok(joust_store_begin_epoch(w->store, &epoch, &err), &err);
    assert_int_equal(epoch, w->epoch + 1);
    assert_int_equal(joust_store_commit(w->store, old, true, &err), JOUST_FENCED);
    assert_int_equal(joust_store_last_event(w->store), 0);
    ok(joust_batch_create(w->store, epoch + 1, &future, &err), &err);
    assert_int_equal(joust_store_commit(w->store, future, true, &err), JOUST_INVALID);
    joust_batch_free(&old);
    joust_batch_free(&future);
    reopen(w);
    assert_int_equal(joust_store_epoch(w->store), epoch);
}

static void readers_see_a_live_store_as_of_their_opening(void **state)
{
    world *w = *state;
    joust_error err;
    joust_store *reader;
    joust_batch *none;
    joust_key_range all = joust_range_all();
    uint64_t n = 0;
    fill_store(w->store, w->epoch, 1, 2);
    ok(joust_store_open_read(w->dir, &reader, &err), &err);
    fill_store(w->store, w->epoch, 2, 2);
    ok(joust_store_count(reader, JOUST_FAMILY_PAIRS, &all, &n, &err), &err);
    assert_int_equal(n, 2);
    ok(joust_store_refresh(reader, &err), &err);
    ok(joust_store_count(reader, JOUST_FAMILY_PAIRS, &all, &n, &err), &err);
    assert_int_equal(n, 4);
    assert_int_equal(joust_batch_create(reader, 1, &none, &err), JOUST_DENIED);
    joust_store_close(&reader);
}

/* Event log ------------------------------------------------------------------------------------ */

typedef struct seen {
    uint64_t n, last;
} seen;

static joust_status see(void *user, uint64_t sequence, const void *data, size_t n, joust_error *err)
{
    seen *s = user;
    char expected[32];
    int length = snprintf(expected, sizeof(expected), "event %" PRIu64, sequence);
    if (n != (size_t)length || memcmp(data, expected, n) != 0)
        return joust_fail(err, JOUST_BUG, "event %" PRIu64 " reads otherwise", sequence);
    s->n++;
    s->last = sequence;
    return JOUST_OK;
}

static void append(world *w, joust_batch *batch, uint64_t first, uint64_t last)
{
    joust_error err;
    for (uint64_t i = first; i <= last; i++) {
        char text[32];
        int n = snprintf(text, sizeof(text), "event %" PRIu64, i);
        ok(joust_batch_append_event(batch, i, text, (size_t)n, &err), &err);
    }
    ok(joust_store_commit(w->store, batch, true, &err), &err);
}

static void events_replay_in_order(void **state)
{
    world *w = *state;
    joust_error err;
    joust_batch *batch;
    seen s = {0, 0};
    ok(joust_batch_create(w->store, w->epoch, &batch, &err), &err);
    append(w, batch, 1, 300);
    append(w, batch, 301, 301);
    joust_batch_free(&batch);
    reopen(w);
    assert_int_equal(joust_store_last_event(w->store), 301);
    ok(joust_store_replay(w->store, 0, see, &s, &err), &err);
    assert_int_equal(s.n, 301);
    s.n = 0;
    ok(joust_store_replay(w->store, 299, see, &s, &err), &err);
    assert_int_equal(s.n, 2);
    assert_int_equal(joust_store_replay(w->store, 302, see, &s, &err), JOUST_CORRUPT);
}

static void events_must_follow_each_other(void **state)
{
    world *w = *state;
    joust_error err;
    joust_batch *batch;
    ok(joust_batch_create(w->store, w->epoch, &batch, &err), &err);
    append(w, batch, 1, 3);
    ok(joust_batch_append_event(batch, 5, "x", 1, &err), &err);
    assert_int_equal(joust_batch_append_event(batch, 7, "x", 1, &err), JOUST_INVALID);
    assert_int_equal(joust_store_commit(w->store, batch, true, &err), JOUST_INVALID);
    assert_int_equal(joust_store_last_event(w->store), 3);
    joust_batch_clear(batch);
    append(w, batch, 4, 4);
    joust_batch_free(&batch);
}

static void the_newest_two_snapshots_are_kept(void **state)
{
    world *w = *state;
    joust_error err;
    joust_batch *batch;
    joust_buf bytes = {0};
    joust_key_range all = joust_range_all();
    uint64_t sequence = 0, n = 0;
    assert_int_equal(joust_store_get_snapshot(w->store, &sequence, &bytes, &err), JOUST_NOT_FOUND);
    ok(joust_batch_create(w->store, w->epoch, &batch, &err), &err);
    for (uint64_t i = 1; i <= 5; i++) {
        uint8_t state_byte = (uint8_t)i;
        ok(joust_batch_put_snapshot(batch, i * 10, &state_byte, 1, &err), &err);
        append(w, batch, i * 10 - 9, i * 10);
        if (i != 3)
            continue;
        joust_batch_free(&batch);
        reopen(w); /* what is kept is known after a restart too */
        ok(joust_batch_create(w->store, w->epoch, &batch, &err), &err);
    }
    ok(joust_batch_put_snapshot(batch, 99, "z", 1, &err), &err);
    assert_int_equal(joust_store_commit(w->store, batch, true, &err), JOUST_INVALID);
    joust_batch_free(&batch);
    ok(joust_store_get_snapshot(w->store, &sequence, &bytes, &err), &err);
    assert_int_equal(sequence, 50);
    assert_int_equal(bytes.data[0], 5);
    ok(joust_store_count(w->store, JOUST_FAMILY_SNAPSHOTS, &all, &n, &err), &err);
    assert_int_equal(n, 2);
    joust_buf_fini(&bytes);
}

/* Threads -------------------------------------------------------------------------------------- */

enum { HANDED_OVER = 40 };

/* Two batches that go round between the thread that fills and the one that commits, as in the coordinator. */
typedef struct hand_over {
    joust_store *store;
    int to_committer[2], to_filler[2]; /* pipes of batch pointers */
    joust_status status;
} hand_over;

static void hand(int pipe_end, joust_batch *batch)
{
    assert_int_equal(write(pipe_end, &batch, sizeof(batch)), sizeof(batch));
}

static joust_batch *taken(int pipe_end)
{
    joust_batch *batch = NULL;
    return read(pipe_end, &batch, sizeof(batch)) == sizeof(batch) ? batch : NULL;
}

static void *commit_all(void *arg)
{
    hand_over *h = arg;
    for (int i = 0; i < HANDED_OVER && h->status == JOUST_OK; i++) {
        joust_batch *batch = taken(h->to_committer[0]);
        h->status = joust_store_commit(h->store, batch, true, NULL);
        if (write(h->to_filler[1], &batch, sizeof(batch)) != sizeof(batch))
            h->status = JOUST_IO;
    }
    return NULL;
}

static void a_batch_is_filled_while_another_commits(void **state)
{
    world *w = *state;
    joust_error err;
    hand_over h = {.store = w->store, .status = JOUST_OK};
    pthread_t committer;
    joust_batch *batch;
    assert_int_equal(pipe(h.to_committer), 0);
    assert_int_equal(pipe(h.to_filler), 0);
    for (int i = 0; i < 2; i++) {
        ok(joust_batch_create(w->store, w->epoch, &batch, &err), &err);
        hand(h.to_filler[1], batch);
    }
    assert_int_equal(pthread_create(&committer, NULL, commit_all, &h), 0);
    for (uint64_t i = 1; i <= HANDED_OVER; i++) {
        joust_trajectory t;
        bool present;
        batch = taken(h.to_filler[0]);
        make_trajectory(&t, 1, i, 0);
        ok(joust_store_check_trajectory(w->store, &t, &present, &err), &err);
        ok(joust_batch_put_trajectory(batch, &t, &err), &err);
        ok(joust_batch_append_event(batch, i, "e", 1, &err), &err);
        assert_true(joust_store_last_event(w->store) < i);
        hand(h.to_committer[1], batch);
        joust_trajectory_fini(&t);
    }
    assert_int_equal(pthread_join(committer, NULL), 0);
    assert_int_equal(h.status, JOUST_OK);
    assert_int_equal(joust_store_last_event(w->store), HANDED_OVER);
    for (int i = 0; i < 2; i++) {
        batch = taken(h.to_filler[0]);
        joust_batch_free(&batch);
    }
    for (int i = 0; i < 2; i++) {
        close(h.to_filler[i]);
        close(h.to_committer[i]);
    }
}

/* Crash ---------------------------------------------------------------------------------------- */

/* In a process of its own: commits groups until killed; tells each durable one by a byte. */
static int commit_until_killed(const char *dir)
{
    joust_job job;
    joust_store *store;
    joust_batch *batch;
    uint64_t epoch;
    make_job(&job);
    if (joust_store_open(dir, &job, &store, NULL) != JOUST_OK ||
        joust_store_begin_epoch(store, &epoch, NULL) != JOUST_OK ||
        joust_batch_create(store, epoch, &batch, NULL) != JOUST_OK)
        return 1;
    for (uint64_t i = joust_store_last_event(store) + 1;; i++) {
        joust_trajectory t;
        make_trajectory(&t, 1, i, 0);
        if (joust_batch_put_trajectory(batch, &t, NULL) != JOUST_OK ||
            joust_batch_append_event(batch, i, "e", 1, NULL) != JOUST_OK ||
            joust_store_commit(store, batch, true, NULL) != JOUST_OK ||
            write(STDOUT_FILENO, "+", 1) != 1)
            return 1;
        joust_trajectory_fini(&t);
    }
}

/* In a process of its own: whether a second writer is refused. */
static int open_while_held(const char *dir)
{
    joust_job job;
    joust_store *store;
    make_job(&job);
    joust_status st = joust_store_open(dir, &job, &store, NULL);
    joust_job_fini(&job);
    return st == JOUST_LOCKED ? 0 : 1;
}

static void what_was_told_survives_kill_9(void **state)
{
    world *w = *state;
    joust_error err;
    uint64_t told = 0;
    joust_store_close(&w->store);
    for (int kill_at = 1; kill_at < 100; kill_at += 33) {
        int ends[2], status;
        char byte;
        assert_int_equal(pipe(ends), 0);
        pid_t child = start(w, "commit", ends[1]);
        close(ends[1]);
        for (int i = 0; i < kill_at; i++, told++)
            assert_int_equal(read(ends[0], &byte, 1), 1);
        kill(child, SIGKILL);
        while (read(ends[0], &byte, 1) == 1)
            told++;
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
        close(ends[0]);
        open_store(w);
        uint64_t last = joust_store_last_event(w->store);
        assert_true(last == told || last == told + 1); /* durable, and killed before the telling */
        told = last;
        for (uint64_t i = 1; i <= last; i++) {
            joust_trajectory t;
            joust_unit_key unit = {1, STAGE_GENERATE, i};
            ok(joust_store_get_trajectory(w->store, &unit, 0, &t, &err), &err);
            joust_trajectory_fini(&t);
        }
        joust_store_close(&w->store);
    }
    open_store(w);
}

int main(int argc, char **argv)
{
    if (argc == 3)
        return strcmp(argv[1], "commit") == 0 ? commit_until_killed(argv[2])
                                              : open_while_held(argv[2]);
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(another_job_is_refused_by_key),
        TEST(name_cluster_path_and_more_rounds_are_fine),
        TEST(a_second_writer_is_refused),
        TEST(a_folder_without_a_store_is_said),
        TEST(a_folder_of_other_files_is_no_place_for_a_store),
        TEST(records_come_back_after_reopening),
        TEST(an_empty_group_is_empty),
        TEST(repeats_are_the_same_or_a_conflict),
        TEST(the_first_provenance_stays),
        TEST(an_older_epoch_is_fenced),
        TEST(readers_see_a_live_store_as_of_their_opening),
        TEST(events_replay_in_order),
        TEST(events_must_follow_each_other),
        TEST(the_newest_two_snapshots_are_kept),
        TEST(a_batch_is_filled_while_another_commits),
        TEST(what_was_told_survives_kill_9),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
