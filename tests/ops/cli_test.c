/* The command line of a verb: values, order, errors and their exit status. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "ops/cli.h"

typedef struct given {
    const char *text;
    uint32_t u32;
    uint64_t u64;
    double real;
    bool flag;
    joust_text_list list;
} given;

/* Parses the arguments (NULL-terminated) as a verb would; up to two positional ones. */
static int parse(given *to, const char **positional, int *ret_n, const char *const *arguments)
{
    const joust_option options[] = {{"--text", JOUST_OPTION_TEXT, &to->text, "T", "text"},
                                    {"--u32", JOUST_OPTION_U32, &to->u32, "N", "a number"},
                                    {"--u64", JOUST_OPTION_U64, &to->u64, "N", "a large number"},
                                    {"--real", JOUST_OPTION_DOUBLE, &to->real, "X", "a real"},
                                    {"--flag", JOUST_OPTION_FLAG, &to->flag, NULL, "a flag"},
                                    {"--set", JOUST_OPTION_LIST, &to->list, "K=V", "a list"}};
    const joust_usage usage = {.verb = "test",
                               .synopsis = "joust test A [B]",
                               .about = "For the test.",
                               .options = options,
                               .n_options = 6,
                               .min_positional = 1,
                               .max_positional = 2};
    char copies[80][64];
    char *argv[81];
    int argc = 0;
    for (; arguments[argc]; argc++) {
        strncpy(copies[argc], arguments[argc], 63);
        copies[argc][63] = '\0';
        argv[argc] = copies[argc];
    }
    argv[argc] = NULL;
    int status = joust_cli_parse(&usage, argc, argv, positional, ret_n);
    for (int i = 0; status < 0 && i < *ret_n; i++) /* views of argv: of this frame */
        for (int j = 0; j < argc; j++)
            if (positional[i] == argv[j])
                positional[i] = arguments[j];
    return status;
}

#define PARSE(...) parse(&to, positional, &n, (const char *const[]){"test", __VA_ARGS__, NULL})

static void values_are_stored_in_any_order(void **state)
{
    (void)state;
    given to = {0};
    const char *positional[2];
    int n = 0;
    assert_int_equal(PARSE("--u32=7", "one", "--u64", "18446744073709551615", "--flag", "two",
                           "--real", "-2.5e3"),
                     -1);
    assert_int_equal(n, 2);
    assert_string_equal(positional[0], "one");
    assert_string_equal(positional[1], "two");
    assert_int_equal(to.u32, 7);
    assert_true(to.u64 == UINT64_MAX);
    assert_true(to.flag);
    assert_true(to.real == -2500.0);
}

static void a_list_keeps_its_order_and_its_bound(void **state)
{
    (void)state;
    given to = {0};
    const char *positional[2];
    int n = 0;
    assert_int_equal(PARSE("a", "--set", "x=1", "--set=y=2=3"), -1);
    assert_int_equal(to.list.n, 2);
    const char *many[2 + 65 + 1] = {"test", "a"};
    for (int i = 0; i < 65; i++)
        many[2 + i] = "--set=k=v";
    given full = {0};
    assert_int_equal(parse(&full, positional, &n, many), JOUST_EXIT_USAGE);
    assert_int_equal(full.list.n, 64);
}

static void two_dashes_end_the_options(void **state)
{
    (void)state;
    given to = {0};
    const char *positional[2];
    int n = 0;
    assert_int_equal(PARSE("--", "--flag", "-"), -1);
    assert_int_equal(n, 2);
    assert_string_equal(positional[0], "--flag");
    assert_string_equal(positional[1], "-");
    assert_false(to.flag);
}

static void bad_usage_is_status_2(void **state)
{
    (void)state;
    given to = {0};
    const char *positional[2];
    int n = 0;
    assert_int_equal(PARSE("a", "--flg"), JOUST_EXIT_USAGE);
    assert_int_equal(PARSE("a", "--flag=1"), JOUST_EXIT_USAGE);
    assert_int_equal(PARSE("a", "--text"), JOUST_EXIT_USAGE);
    assert_int_equal(PARSE("a", "--u32", "4294967296"), JOUST_EXIT_USAGE);
    assert_int_equal(PARSE("a", "--u32", "-1"), JOUST_EXIT_USAGE);
    assert_int_equal(PARSE("a", "--u64", "1x"), JOUST_EXIT_USAGE);
    assert_int_equal(PARSE("a", "--real", "abc"), JOUST_EXIT_USAGE);
    assert_int_equal(PARSE("a", "b", "c"), JOUST_EXIT_USAGE);
    assert_int_equal(PARSE("--flag"), JOUST_EXIT_USAGE);     /* nothing positional */
    assert_int_equal(PARSE("--tex", "x"), JOUST_EXIT_USAGE); /* no abbreviations */
    assert_null(to.text);
    assert_int_equal(to.u32, 0);
}

static void help_ends_with_0(void **state)
{
    (void)state;
    given to = {0};
    const char *positional[2];
    int n = 0;
    assert_int_equal(PARSE("--help"), JOUST_EXIT_OK);
}

static void errors_have_their_exit_status(void **state)
{
    (void)state;
    static const struct {
        joust_status status;
        int exit;
    } cases[] = {{JOUST_INVALID, 2},       {JOUST_UNREACHABLE, 3}, {JOUST_LOCKED, 3},
                 {JOUST_INTERRUPTED, 130}, {JOUST_CORRUPT, 1},     {JOUST_CONFLICT, 2},
                 {JOUST_DISK_FULL, 1}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        joust_error err = {.status = cases[i].status, .text = "for the test"};
        assert_int_equal(joust_cli_fail("test", &err), cases[i].exit);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_stored_in_any_order),
        cmocka_unit_test(a_list_keeps_its_order_and_its_bound),
        cmocka_unit_test(two_dashes_end_the_options),
        cmocka_unit_test(bad_usage_is_status_2),
        cmocka_unit_test(help_ends_with_0),
        cmocka_unit_test(errors_have_their_exit_status),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
