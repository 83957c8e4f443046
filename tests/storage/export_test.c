/* Exports are the same bytes for the same records, in key order. */
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "storage/check.h"
#include "storage/export.h"
#include "storage/json.h"
#include "storage/tables.h"
#include "tests/oom.h"
#include "tests/storage/fixture.h"

typedef struct world {
    char dir[256];
    joust_job job;
    joust_store *store;
    joust_buf out;
    int64_t live;
} world;

static int setup(void **state)
{
    static world w;
    joust_error err;
    uint64_t epoch;
    memset(&w, 0, sizeof(w));
    w.live = joust_alloc_live();
    snprintf(w.dir, sizeof(w.dir), "%s", scratch_make());
    make_job(&w.job);
    ok(joust_store_open(w.dir, &w.job, &w.store, &err), &err);
    ok(joust_store_begin_epoch(w.store, &epoch, &err), &err);
    fill_store(w.store, epoch, 2, 2);
    *state = &w;
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    joust_store_close(&w->store);
    joust_job_fini(&w->job);
    joust_buf_fini(&w->out);
    scratch_remove(w->dir);
    assert_true(joust_alloc_live() == w->live);
    return 0;
}

static joust_status collect(void *user, const void *data, size_t n, joust_error *err)
{
    joust_buf *out = user;
    joust_buf_add(out, data, n);
    return joust_buf_status(out, err);
}

static uint64_t run(world *w, joust_family family, joust_export_options options)
{
    joust_error err;
    uint64_t n = 0;
    joust_buf_clear(&w->out);
    ok(joust_export(w->store, family, &options, collect, &w->out, &n, &err), &err);
    return n;
}

static void assert_golden(world *w, joust_family family, const char *name)
{
    joust_error err;
    joust_buf golden = {0};
    char path[512];
    run(w, family, (joust_export_options){.one_round = true, .round = 2});
    snprintf(path, sizeof(path), "%s/tests/storage/golden/%s", JOUST_SOURCE_DIR, name);
    ok(joust_file_read(path, 1 << 20, &golden, &err), &err);
    bool same = golden.n == w->out.n && memcmp(golden.data, w->out.data, golden.n) == 0;
    joust_buf_fini(&golden);
    if (!same) { /* kept, to be looked at */
        snprintf(path, sizeof(path), "%s/%s.actual", JOUST_BINARY_DIR, name);
        ok(joust_file_write(path, w->out.data, w->out.n, &err), &err);
        fail_msg("%s was exported otherwise: see %s", name, path);
    }
}

static void exports_are_these_bytes(void **state)
{
    assert_golden(*state, JOUST_FAMILY_PAIRS, "pairs.jsonl");
    assert_golden(*state, JOUST_FAMILY_TRAJECTORIES, "trajectories.jsonl");
    assert_golden(*state, JOUST_FAMILY_VERDICTS, "verdicts.jsonl");
}

static void a_rule_asked_no_model(void **state)
{
    static char nothing[] = "";
    joust_verdict v = {.other = JOUST_NONE, .judge = "exact", .kind = "rule", .text = nothing};
    joust_buf line = {0};
    (void)state;
    v.outcome = JOUST_OUTCOME_OK;
    joust_verdict_json(&line, &v);
    assert_true(joust_buf_ok(&line));
    assert_non_null(
        strstr((char *)line.data, ",\"model\":null,\"rendered\":null,\"template\":null,"));
    joust_buf_fini(&line);
}

static void pairs_read_as_trainers_read_them(void **state)
{
    world *w = *state;
    assert_int_equal(run(w, JOUST_FAMILY_PAIRS, (joust_export_options){0}), 4);
    char *line = (char *)w->out.data;
    for (int i = 0; i < 4; i++) {
        char *end = strchr(line, '\n');
        json_error_t why;
        json_t *pair = json_loadb(line, (size_t)(end - line), JSON_REJECT_DUPLICATES, &why);
        const char *prompt, *chosen, *rejected;
        if (!pair)
            fail_msg("%s", why.text);
        assert_int_equal(json_unpack(pair, "{s:s, s:s, s:s}", "prompt", &prompt, "chosen", &chosen,
                                     "rejected", &rejected),
                         0);
        assert_string_equal(prompt, i % 2 ? "What is 1 + \"1\"?" : "What is 0 + \"1\"?");
        assert_string_not_equal(chosen, rejected);
        assert_int_equal(json_integer_value(json_object_get(pair, "round")), 1 + i / 2);
        assert_int_equal(json_array_size(json_object_get(pair, "verdicts")), 2);
        assert_null(json_object_get(pair, "provenance"));
        json_decref(pair);
        line = end + 1;
    }
}

static void provenance_comes_last_when_asked(void **state)
{
    world *w = *state;
    run(w, JOUST_FAMILY_PAIRS, (joust_export_options){.provenance = true});
    assert_non_null(
        strstr((char *)w->out.data, "\"provenance\":{\"chosen\":{\"peer\":\"worker-0\""));
    run(w, JOUST_FAMILY_VERDICTS, (joust_export_options){.provenance = true});
    assert_non_null(strstr((char *)w->out.data, "\"provenance\":null}\n"));
}

static void one_record_is_its_line(void **state)
{
    world *w = *state;
    joust_error err;
    joust_buf one = {0};
    joust_record_id id = {.unit = {1, STAGE_PAIR, 0}, .index = 0, .other = JOUST_NONE};
    run(w, JOUST_FAMILY_PAIRS, (joust_export_options){0});
    ok(joust_export_one(w->store, JOUST_FAMILY_PAIRS, &id, false, &one, &err), &err);
    assert_memory_equal(one.data, w->out.data, one.n);
    assert_int_equal(w->out.data[one.n], '\n');
    id.index = 1;
    assert_int_equal(joust_export_one(w->store, JOUST_FAMILY_PAIRS, &id, false, &one, &err),
                     JOUST_NOT_FOUND);
    joust_buf_fini(&one);
}

static joust_status refuse(void *user, const void *data, size_t n, joust_error *err)
{
    (void)user, (void)data, (void)n;
    return joust_fail(err, JOUST_DISK_FULL, "no room for the export");
}

static void a_failing_sink_ends_it(void **state)
{
    world *w = *state;
    joust_error err;
    joust_export_options options = {0};
    assert_int_equal(joust_export(w->store, JOUST_FAMILY_PAIRS, &options, refuse, NULL, NULL, &err),
                     JOUST_DISK_FULL);
    assert_string_equal(err.text, "no room for the export");
}

static joust_status export_a_pair(void *context, joust_error *err)
{
    world *w = context;
    joust_buf one = {0};
    joust_record_id id = {.unit = {1, STAGE_PAIR, 0}, .index = 0, .other = JOUST_NONE};
    joust_status st = joust_export_one(w->store, JOUST_FAMILY_PAIRS, &id, true, &one, err);
    joust_buf_fini(&one);
    return st;
}

static joust_status export_everything(void *context, joust_error *err)
{
    world *w = context;
    static const joust_family families[] = {JOUST_FAMILY_PAIRS, JOUST_FAMILY_TRAJECTORIES,
                                            JOUST_FAMILY_VERDICTS};
    joust_export_options options = {.provenance = true};
    joust_status st = JOUST_OK;
    for (int i = 0; i < 3 && st == JOUST_OK; i++) {
        joust_buf out = {0};
        st = joust_export(w->store, families[i], &options, collect, &out, NULL, err);
        joust_buf_fini(&out);
    }
    return st;
}

static joust_status open_for_reading(void *context, joust_error *err)
{
    world *w = context;
    joust_store *reader;
    joust_status st = joust_store_open_read(w->dir, &reader, err);
    if (st == JOUST_OK)
        joust_store_close(&reader);
    return st;
}

static joust_status check_everything(void *context, joust_error *err)
{
    world *w = context;
    joust_check_report report;
    joust_status st = joust_store_check(w->store, &report, err);
    if (st == JOUST_OK && report.n_bad > 0) /* what can't be read for want of memory isn't bad */
        return joust_fail(err, JOUST_BUG, "found bad: %s", report.first_bad);
    return st;
}

static void out_of_memory_leaks_nothing(void **state)
{
    (void)check_oom(export_a_pair, *state);
    (void)check_oom(export_everything, *state);
    (void)check_oom(open_for_reading, *state);
    (void)check_oom(check_everything, *state);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(exports_are_these_bytes),
        TEST(pairs_read_as_trainers_read_them),
        TEST(provenance_comes_last_when_asked),
        TEST(one_record_is_its_line),
        TEST(a_rule_asked_no_model),
        TEST(a_failing_sink_ends_it),
        TEST(out_of_memory_leaks_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
