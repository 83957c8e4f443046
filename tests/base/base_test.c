/* The ground: status, allocation, buffers, digests, texts, files, log. */
#include "check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/bytes.h"
#include "proto/base/clock.h"
#include "proto/base/digest.h"
#include "proto/base/file.h"
#include "proto/base/log.h"
#include "proto/base/text.h"

static void test_status(void **state)
{
    (void)state;
    joust_error err = {0};
    assert_string_equal(joust_status_name(JOUST_STALE), "JOUST_STALE");
    assert_string_equal(joust_status_text(JOUST_STALE), "stale");
    assert_string_equal(joust_status_name((joust_status)-999), "JOUST_UNKNOWN");
    assert_int_equal(joust_status_scope(JOUST_AGAIN), JOUST_SCOPE_NONE);
    assert_int_equal(joust_status_scope(JOUST_EXISTS), JOUST_SCOPE_MESSAGE);
    assert_int_equal(joust_status_scope(JOUST_UNREACHABLE), JOUST_SCOPE_PEER);
    assert_int_equal(joust_status_scope(JOUST_NOMEM), JOUST_SCOPE_PROCESS);
    check_status(JOUST_IO, joust_fail(&err, JOUST_IO, "line %d", 7));
    check_status(JOUST_IO, joust_blame(&err, JOUST_BUG, "%s", "file"));
    assert_string_equal(err.text, "file: line 7");
    assert_int_equal(joust_blame(NULL, JOUST_BUG, "x"), JOUST_BUG);
    /* a text that is too long is cut, never overrun */
    char text[2000];
    memset(text, 'a', sizeof(text));
    text[sizeof(text) - 1] = 0;
    check_status(JOUST_IO, joust_fail(&err, JOUST_IO, "%s", text));
    check_status(JOUST_IO, joust_blame(&err, JOUST_IO, "place"));
    assert_int_equal(strlen(err.text), sizeof(err.text) - 1);
    assert_memory_equal(err.text, "place: aaa", 10);
    /* between two characters, and so that one sees it */
    memcpy(text, "ab\xc3\xa4\xc3\xb6xyz", 10);
    joust_text_ellipsis(text, 8, 9);
    assert_string_equal(text, "ab\xc3\xa4\xe2\x80\xa6");
    memcpy(text, "ab\xc3\xa4\xc3\xb6xyz", 10);
    joust_text_ellipsis(text, 9, 9);
    assert_string_equal(text, "ab\xc3\xa4\xe2\x80\xa6");
    memcpy(text, "ab\xc3\xa4\xc3\xb6xyz", 10);
    joust_text_ellipsis(text, 10, 9); /* it fits */
    assert_string_equal(text, "ab\xc3\xa4\xc3\xb6xyz");
}

static void test_alloc(void **state)
{
    (void)state;
    int64_t live = joust_alloc_live();
    void *a = joust_malloc(0), *b = joust_calloc(3, 5), *c = joust_calloc_aligned(7, 9);
    assert_non_null(a);
    assert_int_equal((uintptr_t)c % 64, 0);
    assert_int_equal(joust_alloc_live(), live + 3);
    assert_null(joust_calloc(SIZE_MAX / 2, 3));
    assert_null(joust_realloc_array(NULL, SIZE_MAX / 2, 3));
    assert_null(joust_calloc_aligned(SIZE_MAX / 2, 3));
    joust_alloc_fail_at(2);
    a = joust_realloc(a, 10);
    assert_non_null(a);
    assert_null(joust_malloc(1));
    assert_null(joust_malloc(1));
    joust_alloc_fail_at(0);
    char *text = joust_strndup("abcdef", 3);
    assert_string_equal(text, "abc");
    joust_free(text);
    joust_free(a);
    joust_free(b);
    joust_free_aligned(c);
    joust_free(NULL);
    assert_int_equal(joust_alloc_live(), live);
}

static void test_grow(void **state)
{
    (void)state;
    int64_t live = joust_alloc_live();
    uint32_t *numbers = NULL;
    size_t capacity = 0;
    for (uint32_t i = 0; i < 1000; i++) {
        assert_true(joust_grow(&numbers, i, &capacity, sizeof(*numbers)));
        assert_true(capacity > i);
        numbers[i] = i;
    }
    assert_int_equal(capacity, 1024);
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(numbers[i], i);
    uint32_t *before = numbers;
    joust_alloc_fail_at(1);
    assert_true(joust_grow(&numbers, 1023, &capacity, sizeof(*numbers)));
    assert_false(joust_grow(&numbers, 1024, &capacity, sizeof(*numbers)));
    joust_alloc_fail_at(0);
    assert_ptr_equal(numbers, before);
    assert_int_equal(capacity, 1024);
    joust_free(numbers);
    assert_int_equal(joust_alloc_live(), live);
}

static void test_bytes(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_buf b = {0};
    joust_buf_u8(&b, 1);
    joust_buf_be16(&b, 0x0203);
    joust_buf_be32(&b, 0x04050607);
    joust_buf_be64(&b, 0x08090a0b0c0d0e0full);
    joust_buf_format(&b, "%d-%s", 12, "x");
    assert_memory_equal(b.data,
                        "\1\2\3\4\5\6\7\x8\x9\xa\xb\xc\xd\xe\xf"
                        "12-x",
                        20); /* with the NUL */
    joust_reader r = joust_reader_over(b.data, b.n);
    assert_int_equal(joust_read_u8(&r), 1);
    assert_int_equal(joust_read_be16(&r), 0x0203);
    assert_int_equal(joust_read_be32(&r), 0x04050607);
    assert_int_equal(joust_read_be64(&r), 0x08090a0b0c0d0e0full);
    assert_int_equal(joust_read_left(&r), 4);
    assert_null(joust_read_bytes(&r, 5));
    assert_true(r.failed);
    assert_int_equal(joust_read_u8(&r), 0);
    assert_int_equal(joust_read_left(&r), 0);
    joust_alloc_fail_at(1);
    assert_null(joust_buf_grow(&b, 1000));
    joust_alloc_fail_at(0);
    joust_buf_u8(&b, 9); /* does nothing once failed */
    assert_false(joust_buf_ok(&b));
    check_status(JOUST_NOMEM, joust_buf_status(&b, &err));
    joust_buf_fini(&b);
    assert_null(joust_buf_grow(&b, SIZE_MAX));
    joust_buf_clear(&b);
    char *text = joust_buf_take_text(&b);
    assert_string_equal(text, "");
    joust_free(text);
}

static void test_digest(void **state)
{
    (void)state;
    joust_error err = {0};
    char hex[JOUST_DIGEST_HEX];
    /* BLAKE2b-256 of nothing and of "abc", as other programs print them (b2sum -l 256) */
    joust_digest d = joust_digest_of("", 0), parsed;
    assert_string_equal(joust_digest_hex(&d, hex),
                        "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8");
    d = joust_digest_of("abc", 3);
    assert_string_equal(joust_digest_hex(&d, hex),
                        "bddd813c634239723171ef3fee98579b94964e3bb1cb3e427262c8c068d52319");
    joust_hasher h;
    joust_hasher_init(&h);
    joust_hasher_add(&h, "a", 1);
    joust_hasher_add(&h, "bc", 2);
    joust_digest parts = joust_hasher_end(&h);
    assert_true(joust_digest_equal(&d, &parts));
    check_ok(joust_digest_parse(hex, &parsed, &err));
    assert_true(joust_digest_equal(&d, &parsed));
    hex[63] = 0;
    check_status(JOUST_MALFORMED, joust_digest_parse(hex, &parsed, &err));
    check_status(JOUST_MALFORMED, joust_digest_parse("", &parsed, &err));
    memset(&d, 0, sizeof(d));
    assert_true(joust_digest_is_zero(&d));
    assert_true(joust_checksum("", 0) == 0x2d06800538d394c2ull); /* xxh3-64's published value */
}

static void test_text(void **state)
{
    (void)state;
    assert_int_equal(joust_text_distance("learning_rate", "learnign_rate"), 1);
    assert_int_equal(joust_text_distance("", "abc"), 3);
    assert_int_equal(joust_text_distance("kitten", "sitting"), 3);
    const char *keys[] = {"rounds", "rollout", "rewards"};
    assert_string_equal(joust_text_nearest("round", keys, 3), "rounds");
    assert_null(joust_text_nearest("zzzzzz", keys, 3));

    size_t bad = 0;
    assert_true(joust_text_is_utf8("aä漢🙂", strlen("aä漢🙂"), NULL));
    const char *wrong[] = {"\x80",
                           "\xc0\x80",
                           "\xc3",
                           "\xed\xa0\x80",
                           "\xe0\x80\x80",
                           "\xf5\x80\x80\x80",
                           "\xf4\x90\x80\x80",
                           "\xf0\x80\x80\x80"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++)
        assert_false(joust_text_is_utf8(wrong[i], strlen(wrong[i]), &bad));
    assert_false(joust_text_is_utf8("ab\xff", 3, &bad));
    assert_int_equal(bad, 2);

    joust_buf b = {0};
    joust_json_string(&b, "a\"\\\n\t\x01\xff\xc3\xa4", 9);
    assert_string_equal((char *)b.data, "\"a\\\"\\\\\\n\\t\\u0001\xef\xbf\xbd\xc3\xa4\"");
    joust_buf_clear(&b);
    joust_json_double(&b, 0.1);
    joust_buf_u8(&b, ' ');
    joust_json_float(&b, 0.1f);
    joust_buf_u8(&b, ' ');
    joust_json_double(&b, 1.0 / 0.0);
    assert_string_equal((char *)b.data, "0.1 0.1 null");
    joust_buf_fini(&b);

    uint64_t u;
    double d;
    assert_true(joust_parse_u64("18446744073709551615", &u));
    assert_true(u == UINT64_MAX);
    assert_false(joust_parse_u64("18446744073709551616", &u));
    assert_false(joust_parse_u64("", &u));
    assert_false(joust_parse_u64("-1", &u));
    assert_true(joust_parse_double("5e-7", &d));
    assert_true(d == 5e-7);
    assert_false(joust_parse_double("1e999", &d));
    assert_false(joust_parse_double("nan", &d));
    assert_false(joust_parse_double("0x10", &d));
    assert_false(joust_parse_double("1 ", &d));
}

static void test_files(void **state)
{
    (void)state;
    joust_error err = {0};
    char top[] = "/tmp/joust-base-XXXXXX", deep[64], path[128];
    joust_buf b = {0};
    assert_non_null(mkdtemp(top));
    snprintf(deep, sizeof(deep), "%s/a/b/c", top);
    check_ok(joust_dir_make(deep, &err));
    check_ok(joust_dir_make(deep, &err));
    assert_true(joust_dir_exists(deep));
    snprintf(path, sizeof(path), "%s/file", deep);
    check_status(JOUST_NOT_FOUND, joust_file_read(path, 10, &b, &err));
    assert_non_null(strstr(err.text, path));
    check_ok(joust_file_write(path, "0123456789", 10, &err));
    check_ok(joust_file_write(path, "abcdefghij", 10, &err)); /* replaces */
    check_ok(joust_file_read(path, 10, &b, &err));
    assert_string_equal((char *)b.data, "abcdefghij");
    check_status(JOUST_TOO_LARGE, joust_file_read(path, 9, &b, &err));
    check_status(JOUST_INVALID, joust_file_read(deep, 9, &b, &err));
    assert_false(joust_dir_is_empty(deep));
    snprintf(path, sizeof(path), "%s/pipe", deep);
    assert_true(joust_dir_is_empty(path));
    assert_int_equal(mkfifo(path, 0600), 0);
    check_status(JOUST_INVALID,
                 joust_file_read(path, 9, &b, &err)); /* and doesn't wait for a writer */
    assert_non_null(strstr(err.text, "not a regular file"));
    snprintf(path, sizeof(path), "%s/file", deep);
    check_status(JOUST_EXISTS, joust_dir_make(path, &err));
    assert_true(joust_file_exists(path));
    assert_false(joust_file_exists(deep));
    /* a link out of the folder is removed, what it points to stays */
    char outside[] = "/tmp/joust-outside-XXXXXX", link[128];
    int fd = mkstemp(outside);
    assert_true(fd >= 0);
    close(fd);
    snprintf(link, sizeof(link), "%s/link", deep);
    assert_int_equal(symlink(outside, link), 0);
    check_ok(joust_dir_remove(top, &err));
    assert_false(joust_dir_exists(top));
    assert_true(joust_file_exists(outside));
    unlink(outside);
    check_ok(joust_dir_remove(top, &err));

    char *joined = joust_path_join("a", "b");
    assert_string_equal(joined, "a/b");
    joust_free(joined);
    joined = joust_path_join("a/", "/b");
    assert_string_equal(joined, "/b");
    joust_free(joined);
    joined = joust_path_join("a/", "b");
    assert_string_equal(joined, "a/b");
    joust_free(joined);
    joust_buf_fini(&b);
}

static void test_log(void **state)
{
    (void)state;
    int fd[2];
    char line[512] = "";
    assert_int_equal(pipe(fd), 0);
    joust_log_set_fd(fd[1]);
    joust_log_set_role("test-1");
    joust_log_debug("base", "not shown");
    joust_log_info("base", "text %d\nsecond", 5);
    assert_true(read(fd[0], line, sizeof(line) - 1) > 0);
    assert_non_null(strstr(line, "info  test-1 base text 5 second\n")); /* one line */
    assert_null(strstr(line, "not shown"));
    assert_true(joust_log_set_level_name("debug"));
    assert_false(joust_log_set_level_name("loud"));
    joust_log_set_json(true);
    joust_log_debug("base", "say \"hi\"");
    memset(line, 0, sizeof(line));
    assert_true(read(fd[0], line, sizeof(line) - 1) > 0);
    assert_non_null(strstr(line, "\"module\":\"base\",\"text\":\"say \\\"hi\\\"\"}\n"));
    joust_log_set_fd(2);
    joust_log_set_json(false);
    joust_log_set_level(JOUST_LOG_INFO);
    close(fd[0]);
    close(fd[1]);
    int64_t before = joust_clock_ns();
    assert_true(joust_clock_ns() >= before);
    assert_true(joust_clock_wall_ms() > 1500000000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_status), cmocka_unit_test(test_alloc),  cmocka_unit_test(test_grow),
        cmocka_unit_test(test_bytes),  cmocka_unit_test(test_digest), cmocka_unit_test(test_text),
        cmocka_unit_test(test_files),  cmocka_unit_test(test_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
