/* Blobs are whole or absent, and damage is found. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "storage/blobs.h"
#include "tests/storage/fixture.h"

typedef struct world {
    char dir[256];
    joust_blobs *blobs;
    int64_t live;
} world;

static int setup(void **state)
{
    static world w;
    joust_error err;
    memset(&w, 0, sizeof(w));
    w.live = joust_alloc_live();
    snprintf(w.dir, sizeof(w.dir), "%s", scratch_make());
    ok(joust_blobs_open(w.dir, true, &w.blobs, &err), &err);
    *state = &w;
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    joust_blobs_close(&w->blobs);
    scratch_remove(w->dir);
    assert_true(joust_alloc_live() == w->live);
    return 0;
}

static void path_in(const world *w, char to[512], const char *format, ...) JOUST_PRINTF(3, 4);
static void path_in(const world *w, char to[512], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = snprintf(to, 512, "%s/", w->dir);
    vsnprintf(to + n, 512 - (size_t)n, format, args);
    va_end(args);
}

static void blob_path(const world *w, const joust_digest *digest, char to[512])
{
    char hex[JOUST_DIGEST_HEX];
    joust_digest_hex(digest, hex);
    path_in(w, to, "blobs/%.2s/%s", hex, hex);
}

static void what_is_put_is_got(void **state)
{
    world *w = *state;
    joust_error err;
    joust_buf got = {0};
    joust_digest digest = joust_digest_of("hello", 5), none = joust_digest_of("x", 1);
    assert_false(joust_blobs_has(w->blobs, &digest));
    ok(joust_blobs_put(w->blobs, &digest, "hello", 5, &err), &err);
    ok(joust_blobs_put(w->blobs, &digest, "hello", 5, &err), &err);
    assert_true(joust_blobs_has(w->blobs, &digest));
    ok(joust_blobs_get(w->blobs, &digest, &got, &err), &err);
    assert_int_equal(got.n, 5);
    assert_memory_equal(got.data, "hello", 5);
    assert_int_equal(joust_blobs_get(w->blobs, &none, &got, &err), JOUST_NOT_FOUND);
    assert_int_equal(joust_blobs_put(w->blobs, &digest, "other", 5, &err), JOUST_MALFORMED);
    joust_buf_fini(&got);
}

static void damage_is_found(void **state)
{
    world *w = *state;
    joust_error err;
    joust_buf got = {0};
    char path[512];
    joust_digest digest = joust_digest_of("hello", 5);
    ok(joust_blobs_put(w->blobs, &digest, "hello", 5, &err), &err);
    blob_path(w, &digest, path);
    ok(joust_file_write(path, "hellp", 5, &err), &err);
    assert_int_equal(joust_blobs_get(w->blobs, &digest, &got, &err), JOUST_CORRUPT);
    assert_non_null(strstr(err.text, path));
    joust_buf_fini(&got);
}

/* Two files, one of several chunks. */
static void make_folder(world *w, char folder[512], joust_digest *manifest)
{
    joust_error err;
    char path[512];
    size_t n = 2 * JOUST_CHUNK_BYTES + 77;
    uint8_t *large = joust_malloc(n);
    assert_non_null(large);
    for (size_t i = 0; i < n; i++)
        large[i] = (uint8_t)(i >> 12);
    path_in(w, folder, "model");
    ok(joust_dir_make(folder, &err), &err);
    path_in(w, path, "model/model.safetensors");
    ok(joust_file_write(path, large, n, &err), &err);
    path_in(w, path, "model/config.json");
    ok(joust_file_write(path, "{}", 2, &err), &err);
    joust_free(large);
    ok(joust_blobs_import(w->blobs, folder, manifest, &err), &err);
}

static void a_folder_goes_in_and_out(void **state)
{
    world *w = *state;
    joust_error err;
    joust_digest manifest, again;
    joust_manifest m;
    char folder[512], out[512];
    bool whole = false;
    make_folder(w, folder, &manifest);
    ok(joust_blobs_get_manifest(w->blobs, &manifest, &m, &err), &err);
    assert_int_equal(m.n_files, 2);
    assert_string_equal(m.files[0].name, "config.json");
    assert_int_equal(m.files[1].n_chunks, 3);
    joust_manifest_fini(&m);
    ok(joust_blobs_verify(w->blobs, &manifest, &err), &err);
    ok(joust_blobs_complete(w->blobs, &manifest, &whole, NULL, &err), &err);
    assert_true(whole);
    path_in(w, out, "out");
    ok(joust_blobs_export(w->blobs, &manifest, out, &err), &err);
    ok(joust_blobs_export(w->blobs, &manifest, out, &err), &err); /* there already */
    ok(joust_blobs_import(w->blobs, out, &again, &err), &err);
    assert_true(joust_digest_equal(&manifest, &again));
    path_in(w, out, "out/config.json");
    ok(joust_file_write(out, "[]", 2, &err), &err);
    path_in(w, out, "out");
    assert_int_equal(joust_blobs_export(w->blobs, &manifest, out, &err), JOUST_EXISTS);
}

static void a_missing_chunk_is_named(void **state)
{
    world *w = *state;
    joust_error err;
    joust_digest manifest, missing;
    joust_manifest m;
    char folder[512], path[512], out[512];
    bool whole = true;
    make_folder(w, folder, &manifest);
    ok(joust_blobs_get_manifest(w->blobs, &manifest, &m, &err), &err);
    blob_path(w, &m.files[1].chunks[1], path);
    assert_int_equal(remove(path), 0);
    ok(joust_blobs_complete(w->blobs, &manifest, &whole, &missing, &err), &err);
    assert_false(whole);
    assert_true(joust_digest_equal(&missing, &m.files[1].chunks[1]));
    joust_manifest_fini(&m);
    assert_int_equal(joust_blobs_verify(w->blobs, &manifest, &err), JOUST_NOT_FOUND);
    assert_non_null(strstr(err.text, "model.safetensors"));
    path_in(w, out, "out");
    assert_int_equal(joust_blobs_export(w->blobs, &manifest, out, &err), JOUST_NOT_FOUND);
    assert_false(joust_dir_exists(out)); /* whole or absent */
}

typedef struct counts {
    int good, bad;
} counts;

/* wrong doesn't say again which file it is about. */
static joust_status count(void *user, const char *path, const char *wrong, joust_error *err)
{
    if (wrong && strstr(wrong, path))
        fail_msg("the path again: %s", wrong);
    counts *c = user;
    (void)err;
    wrong ? c->bad++ : c->good++;
    return JOUST_OK;
}

static void leftovers_of_a_killed_writer_go(void **state)
{
    world *w = *state;
    joust_error err;
    char path[512];
    counts c = {0, 0};
    joust_digest digest = joust_digest_of("hello", 5);
    ok(joust_blobs_put(w->blobs, &digest, "hello", 5, &err), &err);
    blob_path(w, &digest, path);
    size_t n = strlen(path);
    snprintf(path + n, sizeof(path) - n, ".1-0.tmp");
    ok(joust_file_write(path, "hel", 3, &err), &err);
    ok(joust_blobs_walk(w->blobs, count, &c, &err), &err);
    assert_int_equal(c.good, 1);
    assert_int_equal(c.bad, 0);
    joust_blobs_close(&w->blobs);
    ok(joust_blobs_open(w->dir, true, &w->blobs, &err), &err);
    assert_false(joust_file_exists(path));
    assert_true(joust_blobs_has(w->blobs, &digest));
    snprintf(path + n, sizeof(path) - n, "x");
    ok(joust_file_write(path, "hel", 3, &err), &err);
    ok(joust_blobs_walk(w->blobs, count, &c, &err), &err);
    assert_int_equal(c.bad, 1);
    path[n] = '\0';
    ok(joust_file_write(path, "hellp", 5, &err), &err);
    ok(joust_blobs_walk(w->blobs, count, &c, &err), &err);
    assert_int_equal(c.bad, 3);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(what_is_put_is_got),
        TEST(damage_is_found),
        TEST(a_folder_goes_in_and_out),
        TEST(a_missing_chunk_is_named),
        TEST(leftovers_of_a_killed_writer_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
