/* YAML: types of the core schema, places, bounds. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "ops/yaml_tree.h"
#include "proto/base/alloc.h"

static joust_yaml_node *parse(const char *text, joust_problems *problems)
{
    joust_yaml_node *root = NULL;
    joust_error err;
    problems->file = "t";
    joust_status st = joust_yaml_parse(text, strlen(text), 0, problems, &root, &err);
    assert_true(st == JOUST_OK || (st == JOUST_INVALID && !root && problems->n_errors));
    return root;
}

/* Text that is refused, with exactly this one problem. */
static void refused(const char *text, const char *line)
{
    joust_problems problems = {0};
    joust_yaml_node *root = parse(text, &problems);
    joust_buf out = {0};
    joust_problems_print(&problems, &out);
    assert_non_null(out.data);
    assert_string_equal((const char *)out.data, line);
    joust_buf_fini(&out);
    joust_problems_fini(&problems);
    joust_yaml_free(&root);
}

static void scalars_are_typed_as_in_the_core_schema(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        joust_yaml_kind kind;
        double real;
    } cases[] = {
        {"5e-7", JOUST_YAML_REAL, 5e-7},
        {"1e4", JOUST_YAML_REAL, 1e4},
        {".5", JOUST_YAML_REAL, 0.5},
        {"5.", JOUST_YAML_REAL, 5},
        {"-.inf", JOUST_YAML_REAL, -HUGE_VAL},
        {"+12", JOUST_YAML_INTEGER, 12},
        {"-12", JOUST_YAML_INTEGER, -12},
        {"0x1F", JOUST_YAML_INTEGER, 31},
        {"0o17", JOUST_YAML_INTEGER, 15},
        {"017", JOUST_YAML_INTEGER, 17},
        {"18446744073709551615", JOUST_YAML_INTEGER, 18446744073709551615.0},
        {"18446744073709551616", JOUST_YAML_REAL, 18446744073709551616.0},
        {"yes", JOUST_YAML_TEXT, 0},
        {"no", JOUST_YAML_TEXT, 0},
        {"on", JOUST_YAML_TEXT, 0},
        {"1_000", JOUST_YAML_TEXT, 0},
        {"0x", JOUST_YAML_TEXT, 0},
        {"1e", JOUST_YAML_TEXT, 0},
        {".", JOUST_YAML_TEXT, 0},
        {"-", JOUST_YAML_TEXT, 0},
        {"12:30", JOUST_YAML_TEXT, 0},
        {"true", JOUST_YAML_BOOL, 0},
        {"True", JOUST_YAML_BOOL, 0},
        {"tRUE", JOUST_YAML_TEXT, 0},
        {"~", JOUST_YAML_NULL, 0},
        {"null", JOUST_YAML_NULL, 0},
        {"'5'", JOUST_YAML_TEXT, 0},
        {"\"true\"", JOUST_YAML_TEXT, 0},
        {"''", JOUST_YAML_TEXT, 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[64];
        snprintf(text, sizeof(text), "[%s]\n", cases[i].text);
        if (!strcmp(cases[i].text, "-"))
            snprintf(text, sizeof(text), "- '-'\n");
        joust_problems problems = {0};
        joust_yaml_node *root = parse(text, &problems);
        assert_non_null(root);
        assert_int_equal(root->n, 1);
        const joust_yaml_node *node = root->entries[0].value;
        if (node->kind != cases[i].kind)
            print_error("%s: kind %d, expected %d\n", cases[i].text, node->kind, cases[i].kind);
        assert_int_equal(node->kind, cases[i].kind);
        if (cases[i].kind == JOUST_YAML_REAL || cases[i].kind == JOUST_YAML_INTEGER)
            assert_true(node->real == cases[i].real);
        joust_yaml_free(&root);
        joust_problems_fini(&problems);
    }
}

static void places_count_characters_from_one(void **state)
{
    (void)state;
    joust_problems problems = {0};
    joust_yaml_node *root = parse("a: 1\n\xc3\xa9\xc3\xa9: {b: 2}\n", &problems);
    assert_int_equal(root->n, 2);
    assert_int_equal(root->entries[1].key_place.line, 2);
    assert_int_equal(root->entries[1].key_place.column, 1);
    const joust_yaml_node *b = root->entries[1].value->entries[0].value;
    assert_int_equal(b->place.line, 2);
    assert_int_equal(b->place.column, 9);
    joust_yaml_free(&root);
    joust_problems_fini(&problems);
}

static void what_cannot_be_read_is_told_with_its_place(void **state)
{
    (void)state;
    refused("a: {b: 1\n\tc: 2}\n", "t:2:1: a tab: YAML indents by spaces only; replace it\n");
    refused("\xc3\xa9: 1\nm:\n\tb: 2\n", "t:3:1: a tab: YAML indents by spaces only; replace it\n");
    refused("a: \xff\n", "t:1:4: bytes that are not UTF-8\n");
    refused("a: b\x01\n",
            "t:1:5: a control character, or bytes that are not UTF-8: job files are plain text\n");
    refused("a: \"b\\0c\"\n", "t:1:4: a NUL character in text\n");
    refused("a: !!str 5\n", "t:1:4: a tag (!): types follow from how a value is written\n");
    refused("a: !!map {b: 1}\n", "t:1:4: a tag (!): types follow from how a value is written\n");
    refused("a: !mine [1]\n", "t:1:4: a tag (!): types follow from how a value is written\n");
    refused("!!str a: 1\n", "t:1:1: a tag (!): types follow from how a value is written\n");
    refused("? [a]\n: b\n", "t:1:3: a key must be a word\n");
    refused("a: 1\n---\nb: 2\n", "t:2:1: a second document: a job is one\n");
    refused("a: *x\n",
            "t:1:4: an alias (*name) of an anchor (&name) that isn't complete before it\n");
    refused("a: &x [*x]\n",
            "t:1:8: an alias (*name) of an anchor (&name) that isn't complete before it\n");
    refused("a: [1\n", "t:2:1: not YAML: did not find expected ',' or ']' while parsing a flow "
                       "sequence\n");
}

static void a_repeated_key_is_a_problem_that_ends_nothing(void **state)
{
    (void)state;
    joust_problems problems = {0};
    joust_yaml_node *root = parse("a: 1\nb: 2\na: &x [3]\nc: *x\n", &problems);
    assert_non_null(root);
    assert_int_equal(root->n, 3);
    assert_int_equal(root->entries[0].value->magnitude, 1);
    assert_int_equal(root->entries[2].value->n, 1); /* the anchor in the dropped value lives on */
    joust_buf out = {0};
    joust_problems_print(&problems, &out);
    assert_string_equal((const char *)out.data, "t:3:1: a: given twice; first in line 1\n");
    joust_buf_fini(&out);
    joust_yaml_free(&root);
    joust_problems_fini(&problems);
}

static void aliases_depth_and_size_are_bounded(void **state)
{
    (void)state;
    /* Each line ten times the one before: a million values in seven lines. */
    joust_buf bomb = {0};
    joust_buf_text(&bomb, "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n");
    for (int i = 1; i < 7; i++)
        joust_buf_format(&bomb, "a%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n",
                         i, i, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1,
                         i - 1);
    joust_problems problems = {0};
    assert_null(parse((const char *)bomb.data, &problems));
    assert_int_equal(problems.n_errors, 1);
    assert_string_equal(problems.items[0].text,
                        "more than 20000 values, those that aliases repeat included");
    joust_problems_fini(&problems);

    joust_buf_clear(&bomb);
    for (int i = 0; i < 17; i++)
        joust_buf_text(&bomb, "[");
    problems = (joust_problems){0};
    assert_null(parse((const char *)bomb.data, &problems));
    assert_string_equal(problems.items[0].text, "nested deeper than 16 levels");
    joust_problems_fini(&problems);

    joust_buf_clear(&bomb);
    memset(joust_buf_grow(&bomb, JOUST_MAX_YAML_BYTES + 1), ' ', JOUST_MAX_YAML_BYTES + 1);
    problems = (joust_problems){0};
    assert_null(parse((const char *)bomb.data, &problems));
    assert_string_equal(problems.items[0].text, "larger than 1 MiB");
    joust_problems_fini(&problems);
    joust_buf_fini(&bomb);
}

static void running_out_of_memory_leaves_nothing(void **state)
{
    (void)state;
    static const char text[] = "a: &x {b: [1, 2], c: text}\nd: *x\na: 3\n";
    int64_t live = joust_alloc_live();
    for (int64_t n = 1;; n++) {
        joust_problems problems = {.file = "t"};
        joust_yaml_node *root = NULL;
        joust_error err;
        joust_alloc_fail_at(n);
        joust_status st = joust_yaml_parse(text, sizeof(text) - 1, 0, &problems, &root, &err);
        joust_alloc_fail_at(0);
        joust_yaml_free(&root);
        bool complete = problems.n && problems.items[0].text;
        joust_problems_fini(&problems);
        assert_int_equal(joust_alloc_live(), live);
        if (st == JOUST_OK && complete)
            break;
        assert_true(st == JOUST_OK || st == JOUST_NOMEM);
        assert_true(n < 1000);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars_are_typed_as_in_the_core_schema),
        cmocka_unit_test(places_count_characters_from_one),
        cmocka_unit_test(what_cannot_be_read_is_told_with_its_place),
        cmocka_unit_test(a_repeated_key_is_a_problem_that_ends_nothing),
        cmocka_unit_test(aliases_depth_and_size_are_bounded),
        cmocka_unit_test(running_out_of_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
