/* Hub ids: what is one, where the cache is, which snapshot, and what is said where there is none. */
#include "tests/check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ops/hub.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"

#define COMMIT "0123456789abcdef0123456789abcdef01234567"

static void test_ids(void **state)
{
    (void)state;
    static const char *const ids[] = {"Qwen/Qwen2.5-0.5B", "a/b", "a/b@v1.0",
                                      "HuggingFaceTB/SmolLM2-135M", "a/b@" COMMIT};
    static const char *const none[] = {"",         "gpt2", "a/b/c",      "../b",  "a/..",
                                       "/b",       "a/",   "./a",        "a b/c", "a/b@",
                                       "a/b@../c", "a/-b", "a/b@refs/x", "~/b"};
    for (size_t i = 0; i < sizeof(ids) / sizeof(*ids); i++)
        if (!joust_hub_is_id(ids[i]))
            fail_msg("%s is an id", ids[i]);
    for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++)
        if (joust_hub_is_id(none[i]))
            fail_msg("'%s' is no id", none[i]);
    char longest[200] = "a/";
    memset(longest + 2, 'b', 97);
    assert_false(joust_hub_is_id(longest));
    longest[98] = '\0';
    assert_true(joust_hub_is_id(longest));
}

static void write_text(const char *base, const char *below, const char *text)
{
    joust_error err = {0};
    char path[4096];
    snprintf(path, sizeof(path), "%s/%s", base, below);
    char *parent = joust_path_parent(path);
    check_ok(joust_dir_make(parent, &err));
    check_ok(joust_file_write(path, text, strlen(text), &err));
    joust_free(parent);
}

static void clear_settings(void)
{
    static const char *const names[] = {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME",
                                        "XDG_CACHE_HOME", "HOME"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
        unsetenv(names[i]);
}

static void check_found(const char *id, const char *base, const char *below)
{
    joust_error err = {0};
    char *dir = NULL, wanted[4096];
    snprintf(wanted, sizeof(wanted), "%s/%s", base, below);
    check_ok(joust_hub_find(id, &dir, &err));
    assert_string_equal(dir, wanted);
    joust_free(dir);
}

static void check_says(joust_status status, const char *id, const char *says)
{
    joust_error err = {0};
    char *dir = NULL;
    check_status(status, joust_hub_find(id, &dir, &err));
    if (!strstr(err.text, says))
        fail_msg("'%s' doesn't say '%s'", err.text, says);
    assert_null(dir);
}

static void test_cache(void **state)
{
    (void)state;
    char base[] = JOUST_BINARY_DIR "/hub-test-XXXXXX", home[4096];
    joust_error err = {0};
    assert_non_null(mkdtemp(base));
    snprintf(home, sizeof(home), "%s/home", base);
    write_text(base, "home/hub/models--a--b/refs/main", COMMIT "\n");
    write_text(base, "home/hub/models--a--b/snapshots/" COMMIT "/config.json", "{}");
    write_text(base, "home/hub/models--a--b/snapshots/feed/config.json", "{}");
    write_text(base, "home/hub/models--a--b/refs/v2", "feed");
    write_text(base, "home/hub/models--a--b/refs/bad", "../../x");
    write_text(base, "home/hub/models--a--b/refs/gone", "beef");
    clear_settings();
    check_says(JOUST_NOT_FOUND, "a/b", "HF_HUB_CACHE");
    setenv("HF_HOME", home, 1);
    setenv("HOME", "/nowhere", 1);
    check_found("a/b", home, "hub/models--a--b/snapshots/" COMMIT);
    check_found("a/b@v2", home, "hub/models--a--b/snapshots/feed");
    check_found("a/b@feed", home, "hub/models--a--b/snapshots/feed");
    check_says(JOUST_CORRUPT, "a/b@bad", "refs/bad: no commit in it");
    check_says(JOUST_NOT_FOUND, "a/b@gone", "at revision gone");
    check_says(JOUST_NOT_FOUND, "a/c", "Joust downloads nothing: fetch it first (hf download a/c)");
    check_says(JOUST_INVALID, "a", "no hub id");
    setenv("HF_HUB_CACHE", base, 1); /* wins */
    check_says(JOUST_NOT_FOUND, "a/b", base);
    char *dir = NULL;
    check_ok(joust_hub_resolve(base, &dir, &err));
    assert_string_equal(dir, base);
    joust_free(dir);
    check_ok(joust_dir_remove(base, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ids), cmocka_unit_test(test_cache)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
