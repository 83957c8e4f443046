/* store check: silent about a sound store, and it names what was done to any other. */
#include <rocksdb/c.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/alloc.h"
#include "storage/check.h"
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
    ok(joust_store_begin_epoch(w->store, &w->epoch, &err), &err);
}

static int setup(void **state)
{
    static world w;
    memset(&w, 0, sizeof(w));
    w.live = joust_alloc_live();
    snprintf(w.dir, sizeof(w.dir), "%s", scratch_make());
    make_job(&w.job);
    open_store(&w);
    fill_store(w.store, w.epoch, 2, 3);
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

static joust_check_report check(const world *w)
{
    joust_check_report report;
    joust_error err;
    ok(joust_store_check(w->store, &report, &err), &err);
    return report;
}

static void assert_found(const world *w, const char *says)
{
    joust_check_report report = check(w);
    if (report.n_bad == 0 || !strstr(report.first_bad, says))
        fail_msg("%d findings, the first \"%s\", not \"%s\"", (int)report.n_bad, report.first_bad,
                 says);
}

/* Behind the store's back ---------------------------------------------------------------------- */

/* RocksDB wants an operator of the name that the family was made with; each key was merged once. */
static char *merge_one(void *user, const char *key, size_t n_key, const char *value, size_t n_value,
                       const char *const *operands, const size_t *sizes, int n, unsigned char *done,
                       size_t *ret_n)
{
    (void)user, (void)key, (void)n_key, (void)n_value;
    char *copy = malloc(sizes[0]);
    *done = copy && !value && n == 1;
    if (copy)
        memcpy(copy, operands[0], sizes[0]);
    *ret_n = sizes[0];
    return copy;
}

static char *merge_some(void *user, const char *key, size_t n_key, const char *const *operands,
                        const size_t *sizes, int n, unsigned char *done, size_t *ret_n)
{
    return merge_one(user, key, n_key, NULL, 0, operands, sizes, n, done, ret_n);
}

static const char *merge_name(void *user)
{
    (void)user;
    return "joust.first";
}

static void nothing(void *user)
{
    (void)user;
}

static rocksdb_options_t *raw_options(void)
{
    rocksdb_options_t *o = rocksdb_options_create();
    rocksdb_options_set_merge_operator(
        o, rocksdb_mergeoperator_create(NULL, nothing, merge_one, merge_some, NULL, merge_name));
    return o;
}

/* Opens the database without the store's code, and puts or removes (value NULL) one raw value; with flip, the
 * value's byte at `flip` is changed instead. */
static void tamper(world *w, joust_family family, const joust_key *key, int flip)
{
    char path[300], *text = NULL;
    const char *names[JOUST_FAMILY_N + 1];
    const rocksdb_options_t *options[JOUST_FAMILY_N + 1];
    rocksdb_column_family_handle_t *columns[JOUST_FAMILY_N + 1];
    joust_store_close(&w->store);
    snprintf(path, sizeof(path), "%s/db", w->dir);
    rocksdb_options_t *o = raw_options();
    for (int i = 0; i <= JOUST_FAMILY_N; i++) {
        names[i] = i < JOUST_FAMILY_N ? joust_family_name((joust_family)i) : "default";
        options[i] = o;
    }
    rocksdb_t *db =
        rocksdb_open_column_families(o, path, JOUST_FAMILY_N + 1, names, options, columns, &text);
    assert_null(text);
    rocksdb_readoptions_t *read = rocksdb_readoptions_create();
    rocksdb_writeoptions_t *write = rocksdb_writeoptions_create();
    if (flip < 0) {
        rocksdb_delete_cf(db, write, columns[family], (const char *)key->bytes, key->n, &text);
    } else {
        size_t n;
        char *value =
            rocksdb_get_cf(db, read, columns[family], (const char *)key->bytes, key->n, &n, &text);
        assert_non_null(value);
        assert_true((size_t)flip < n);
        value[flip] = (char)(value[flip] ^ 4);
        rocksdb_put_cf(db, write, columns[family], (const char *)key->bytes, key->n, value, n,
                       &text);
        rocksdb_free(value);
    }
    assert_null(text);
    rocksdb_writeoptions_destroy(write);
    rocksdb_readoptions_destroy(read);
    for (int i = 0; i <= JOUST_FAMILY_N; i++)
        rocksdb_column_family_handle_destroy(columns[i]);
    rocksdb_close(db);
    rocksdb_options_destroy(o);
    open_store(w);
}

/* Tests ---------------------------------------------------------------------------------------- */

static void a_sound_store_is_sound(void **state)
{
    joust_check_report report = check(*state);
    assert_string_equal(report.first_bad, "");
    assert_int_equal(report.n_bad, 0);
    assert_int_equal(report.n_records[JOUST_FAMILY_TRAJECTORIES], 2 * 3 * SAMPLES);
    assert_int_equal(report.n_records[JOUST_FAMILY_VERDICTS], 2 * 3 * SAMPLES);
    assert_int_equal(report.n_records[JOUST_FAMILY_PAIRS], 6);
    assert_int_equal(report.n_records[JOUST_FAMILY_EVENTS], 8);
    assert_int_equal(report.n_records[JOUST_FAMILY_ROUNDS], 2 * 4);
}

static void a_flipped_bit_is_named_by_key(void **state)
{
    world *w = *state;
    joust_key key = joust_key_verdict(&(joust_unit_key){2, STAGE_JUDGE, 1}, 0, JOUST_NONE, 0, 0);
    tamper(w, JOUST_FAMILY_VERDICTS, &key, 30);
    assert_found(w, "verdicts r2.s1.p1.0: the checksum doesn't match");
}

static void every_part_of_a_value_is_covered(void **state)
{
    world *w = *state;
    joust_key key = joust_key_trajectory(&(joust_unit_key){1, STAGE_GENERATE, 0}, 2);
    const int places[] = {0, 1, 8, 9};
    for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
        tamper(w, JOUST_FAMILY_TRAJECTORIES, &key, places[i]);
        assert_found(w, "trajectories r1.s0.p0.2: the ");
        assert_int_equal(check(w).n_bad, 3); /* itself, its verdict, and the pair made of it */
        tamper(w, JOUST_FAMILY_TRAJECTORIES, &key, places[i]); /* and back */
        assert_int_equal(check(w).n_bad, 0);
    }
}

static void a_lost_trajectory_is_missed(void **state)
{
    world *w = *state;
    joust_key key = joust_key_trajectory(&(joust_unit_key){1, STAGE_GENERATE, 2}, 2);
    tamper(w, JOUST_FAMILY_TRAJECTORIES, &key, -1);
    assert_found(w, "trajectories r1.s0.p2: the group is not whole: 2 of 3");
}

static void a_lost_verdict_is_missed(void **state)
{
    world *w = *state;
    joust_key key = joust_key_verdict(&(joust_unit_key){1, STAGE_JUDGE, 2}, 1, JOUST_NONE, 0, 0);
    tamper(w, JOUST_FAMILY_VERDICTS, &key, -1);
    assert_found(w, "verdicts r1.s1.p2: not every sample was judged: 2 of 3");
    assert_int_equal(check(w).n_bad, 2); /* the pair considered it */
}

static void a_lost_pair_is_missed(void **state)
{
    world *w = *state;
    joust_key key = joust_key_pair(&(joust_unit_key){2, STAGE_PAIR, 0}, 0);
    tamper(w, JOUST_FAMILY_PAIRS, &key, -1);
    assert_found(w, "rounds summary r2.s2: its number of pairs");
}

static void a_lost_event_or_step_is_missed(void **state)
{
    world *w = *state;
    joust_key key = joust_key_sequence(5), step = joust_key_round(JOUST_ROUND_STEP, 1, 3, 0);
    tamper(w, JOUST_FAMILY_EVENTS, &key, -1);
    assert_found(w, "events 5: it is missing");
    tamper(w, JOUST_FAMILY_ROUNDS, &step, -1);
    assert_found(w, "rounds step r1.s3.1: the step before it is missing");
}

static void a_lost_prompt_is_missed(void **state)
{
    world *w = *state;
    joust_key key = joust_key_prompt_line(0, 1);
    tamper(w, JOUST_FAMILY_PROMPTS, &key, -1);
    assert_found(w, "prompts set 0 line 1 is not in the store");
}

static void put_pair(world *w, const joust_pair *pair)
{
    joust_error err;
    joust_batch *batch;
    ok(joust_batch_create(w->store, w->epoch, &batch, &err), &err);
    ok(joust_batch_put_pair(batch, pair, &err), &err);
    ok(joust_store_commit(w->store, batch, true, &err), &err);
    joust_batch_free(&batch);
}

static void a_wrong_pair_is_found(void **state)
{
    world *w = *state;
    joust_pair pair, wrong;
    make_pair(&pair, 1, 1);
    wrong = pair;
    wrong.chosen.digest.bytes[3] ^= 1;
    put_pair(w, &wrong);
    assert_found(w, "pairs r1.s2.p1.0: a trajectory it was made of has another digest");
    wrong = pair;
    wrong.verdicts.bytes[3] ^= 1;
    put_pair(w, &wrong);
    assert_found(w, "the verdicts stored are not those it considered");
    wrong = pair;
    wrong.chosen_reward = wrong.rejected_reward;
    put_pair(w, &wrong);
    assert_found(w, "pair.margin");
    wrong = pair;
    wrong.prompt.bytes[0] ^= 1;
    put_pair(w, &wrong);
    assert_found(w, "answers another prompt");
    put_pair(w, &pair);
    assert_int_equal(check(w).n_bad, 0);
}

static void damaged_checkpoints_are_found(void **state)
{
    world *w = *state;
    joust_error err;
    joust_blobs *blobs;
    joust_batch *batch;
    joust_model_version v = {.model = {.lineage = "policy", .version = 3}};
    ok(joust_blobs_open(w->dir, true, &blobs, &err), &err);
    v.model.manifest = joust_digest_of("nothing", 7);
    ok(joust_batch_create(w->store, w->epoch, &batch, &err), &err);
    ok(joust_batch_put_model_version(batch, &v, &err), &err);
    ok(joust_store_commit(w->store, batch, true, &err), &err);
    assert_found(w, "models policy@3: ");
    ok(joust_blobs_put(blobs, &v.model.manifest, "nothing", 7, &err), &err);
    assert_found(w, "is not a manifest");
    joust_batch_free(&batch);
    joust_blobs_close(&blobs);
}

static void a_reader_can_check_a_live_store(void **state)
{
    world *w = *state;
    joust_error err;
    joust_store *reader;
    joust_check_report report;
    ok(joust_store_open_read(w->dir, &reader, &err), &err);
    fill_store(w->store, w->epoch, 1, 1);
    ok(joust_store_check(reader, &report, &err), &err);
    assert_int_equal(report.n_bad, 0);
    assert_int_equal(report.n_records[JOUST_FAMILY_EVENTS], 8);
    joust_store_close(&reader);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(a_sound_store_is_sound),
        TEST(a_flipped_bit_is_named_by_key),
        TEST(every_part_of_a_value_is_covered),
        TEST(a_lost_trajectory_is_missed),
        TEST(a_lost_verdict_is_missed),
        TEST(a_lost_pair_is_missed),
        TEST(a_lost_event_or_step_is_missed),
        TEST(a_lost_prompt_is_missed),
        TEST(a_wrong_pair_is_found),
        TEST(damaged_checkpoints_are_found),
        TEST(a_reader_can_check_a_live_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
