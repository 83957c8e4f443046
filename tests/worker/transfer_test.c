/* Folders travel both ways, whole or not at all, also when requests are lost. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/base/random.h"
#include "proto/cache.h"
#include "proto/manifest.h"
#include "proto/transfer.h"
#include "worker/fake_upstream.h"
#include "worker/tiny.h"

static void write_random(const char *dir, const char *name, uint32_t n, uint64_t seed)
{
    joust_error err;
    char path[600];
    joust_stream s =
        joust_stream_open(&(joust_stream_name){.job_seed = seed, .purpose = JOUST_PURPOSE_TEST});
    uint8_t *data = joust_malloc(n + 16);
    for (uint32_t i = 0; i < n; i += 8) {
        uint64_t v = joust_stream_u64(&s, i);
        memcpy(data + i, &v, sizeof(v));
    }
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    check_ok(joust_file_write(path, data, n, &err));
    joust_free(data);
}

/* A folder of nine chunks: some equal, one file without any. */
static void make_folder(const char *name, uint64_t seed, char dir[512])
{
    tiny_dir(name, dir);
    write_random(dir, "a.bin", 3 * JOUST_CHUNK_BYTES + 5, seed);
    write_random(dir, "b.bin", 3 * JOUST_CHUNK_BYTES + 5, seed);
    write_random(dir, "c.bin", 17, seed + 1);
    write_random(dir, "empty", 0, seed);
}

static void both_ways(void **state)
{
    (void)state;
    joust_error err;
    for (uint32_t lose = 0; lose < 6; lose += lose ? 1 : 2) {
        int64_t live = joust_alloc_live();
        fake_upstream f, g;
        char dir[512], cache_dir[512];
        const char *fetched = NULL;
        joust_cache *cache = NULL;
        make_folder("transfer", 1, dir);
        tiny_dir("transfer_cache", cache_dir);
        fake_upstream_init(&f);
        fake_upstream_init(&g);
        joust_digest manifest = fake_upstream_import(&f, dir), uploaded;
        f.lose_every = g.lose_every = lose;
        check_ok(joust_cache_create(cache_dir, 1u << 30, &cache, &err));
        check_ok(joust_cache_fetch(cache, &f.up, &manifest, &fetched, &err));
        check_ok(joust_upload_dir(&g.up, fetched, &uploaded, &err));
        assert_true(joust_digest_equal(&manifest, &uploaded));
        assert_int_equal(g.n_blobs, f.n_blobs);
        assert_int_equal(lose > 0, f.n_lost > 0 && g.n_lost > 0);
        /* What is there already isn't sent or asked again. */
        uint32_t n_puts = g.n_puts, n_requests = f.n_requests;
        check_ok(joust_upload_dir(&g.up, fetched, &uploaded, &err));
        assert_int_equal(g.n_puts, n_puts + 1); /* the manifest */
        check_ok(joust_cache_fetch(cache, &f.up, &manifest, &fetched, &err));
        assert_int_equal(f.n_requests, n_requests);
        joust_cache_free(&cache);
        fake_upstream_fini(&f);
        fake_upstream_fini(&g);
        assert_int_equal(joust_alloc_live(), live);
    }
}

static void wrong_bytes_are_refused(void **state)
{
    (void)state;
    joust_error err;
    fake_upstream f;
    char dir[512], cache_dir[512];
    const char *fetched = NULL;
    joust_cache *cache = NULL;
    make_folder("transfer", 1, dir);
    tiny_dir("transfer_cache", cache_dir);
    fake_upstream_init(&f);
    joust_digest manifest = fake_upstream_import(&f, dir), nothing = joust_digest_of("x", 1);
    check_ok(joust_cache_create(cache_dir, 1u << 30, &cache, &err));
    check_status(JOUST_CONFLICT, joust_cache_fetch(cache, &f.up, &nothing, &fetched, &err));
    f.corrupt = true;
    check_status(JOUST_CORRUPT, joust_cache_fetch(cache, &f.up, &manifest, &fetched, &err));
    f.corrupt = false;
    f.n_blobs--; /* the manifest's blob was the last */
    struct fake_blob manifest_blob = f.blobs[f.n_blobs];
    struct fake_blob lost = f.blobs[0];
    f.blobs[0] = manifest_blob;
    check_status(JOUST_CONFLICT, joust_cache_fetch(cache, &f.up, &manifest, &fetched, &err));
    f.blobs[0] = lost;
    f.n_blobs++;
    /* A failure leaves nothing that the next attempt stumbles over. */
    while (f.n_answers > 0)
        joust_message_fini(&f.answers[--f.n_answers]);
    check_ok(joust_cache_fetch(cache, &f.up, &manifest, &fetched, &err));
    joust_cache_free(&cache);
    fake_upstream_fini(&f);
}

static void the_cache_keeps_its_bound(void **state)
{
    (void)state;
    joust_error err;
    fake_upstream f;
    char dir[512], cache_dir[512];
    joust_cache *cache = NULL;
    joust_digest manifests[3];
    const char *at = NULL;
    char first[600];
    fake_upstream_init(&f);
    for (uint64_t i = 0; i < 3; i++) {
        make_folder("transfer", 10 * i, dir);
        manifests[i] = fake_upstream_import(&f, dir);
    }
    tiny_dir("transfer_cache", cache_dir);
    check_ok(joust_cache_create(cache_dir, 14u << 20, &cache, &err)); /* room for two */
    check_ok(joust_cache_fetch(cache, &f.up, &manifests[0], &at, &err));
    snprintf(first, sizeof(first), "%s", at);
    check_ok(joust_cache_fetch(cache, &f.up, &manifests[1], &at, &err));
    check_ok(joust_cache_fetch(cache, &f.up, &manifests[0], &at, &err)); /* used again */
    check_ok(joust_cache_fetch(cache, &f.up, &manifests[2], &at, &err));
    assert_true(joust_dir_exists(first));
    assert_true(joust_dir_exists(at));
    uint32_t n = f.n_requests;
    check_ok(joust_cache_fetch(cache, &f.up, &manifests[1], &at, &err)); /* it was let go */
    assert_true(f.n_requests > n);
    joust_cache_free(&cache);
    fake_upstream_fini(&f);
}

/* What another folder has whole is not asked for: of a version that adds files, those alone travel. */
static void files_of_other_folders_are_taken(void **state)
{
    (void)state;
    joust_error err;
    fake_upstream f;
    char dir[512], cache_dir[512], damaged[600];
    const char *fetched = NULL;
    joust_cache *cache = NULL;
    joust_digest manifests[3];
    fake_upstream_init(&f);
    make_folder("transfer", 1, dir);
    for (uint64_t i = 0; i < 3; i++) {
        write_random(dir, "c.bin", 17, 50 + i);
        write_random(dir, "d.bin", 18, 60 + i);
        manifests[i] = fake_upstream_import(&f, dir);
    }
    tiny_dir("transfer_cache", cache_dir);
    check_ok(joust_cache_create(cache_dir, 1u << 30, &cache, &err));
    check_ok(joust_cache_fetch(cache, &f.up, &manifests[0], &fetched, &err));
    const uint32_t whole = f.n_requests;
    snprintf(damaged, sizeof(damaged), "%s", fetched);
    check_ok(joust_cache_fetch(cache, &f.up, &manifests[1], &fetched, &err));
    assert_int_equal(f.n_requests - whole, 3); /* the manifest, c.bin, d.bin */
    /* A file whose bytes are other ones is asked for, whatever its name and size. */
    write_random(damaged, "a.bin", 3 * JOUST_CHUNK_BYTES + 5, 9);
    snprintf(damaged, sizeof(damaged), "%s", fetched);
    write_random(damaged, "a.bin", 3 * JOUST_CHUNK_BYTES + 5, 9);
    const uint32_t before = f.n_requests;
    check_ok(joust_cache_fetch(cache, &f.up, &manifests[2], &fetched, &err));
    assert_int_equal(f.n_requests - before, 3 + 4);
    joust_cache_free(&cache);
    fake_upstream_fini(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_ways),
        cmocka_unit_test(wrong_bytes_are_refused),
        cmocka_unit_test(the_cache_keeps_its_bound),
        cmocka_unit_test(files_of_other_folders_are_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
