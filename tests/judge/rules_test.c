#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "judge/rules.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/base/random.h"

enum { NO = JOUST_RULE_FALSE, YES = JOUST_RULE_TRUE, NONE = JOUST_RULE_NO_REFERENCE };

typedef struct row {
    const char *response, *reference;
    int expected;
} row;

static void final_number(void **state)
{
    (void)state;
    static const row rows[] = {
        {"13+8=21 #### 21", "#### 21", YES},
        {"13+8=21 #### 21", "#### 22", NO},
        {"the answer is 72.", "It is #### 72", YES},
        {"#### 1,000", "#### 1000", YES},
        {"#### 1,000.50", "#### 1000.5", YES},
        {"#### 1,00", "#### 100", NO}, /* not a group of three: the last number is 00 */
        {"#### -0", "#### 0", YES},
        {"#### -5", "#### 5", NO},
        {"7-5", "#### 5", YES}, /* an operator, not a sign */
        {"x #### -5", "#### -5.0", YES},
        {"#### 3 #### 4", "#### 4", YES},
        {"3 ####", "#### 3", NO}, /* nothing after the mark */
        {"007", "#### 7", YES},
        {"$18", "#### 18", YES},
        {"", "#### 1", NO},
        {"no number", "#### 1", NO},
        {"1", NULL, NONE},
        {"1", "no number", NONE},
        {"#### 123456789012345678901234567890", "#### 123456789012345678901234567890", YES},
        {"#### 123456789012345678901234567891", "#### 123456789012345678901234567890", NO},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        int is = joust_rule_final_number(rows[i].response, rows[i].reference);
        if (is != rows[i].expected)
            fail_msg("row %zu '%s': %d", i, rows[i].response, is);
    }
}

static void steps_and_number(void **state)
{
    (void)state;
    static const char gold[] = "13+8=21; 21-9=12; 12+2=14 #### 14";
    static const row rows[] = {
        {"13+8=21; 21-9=12; 12+2=14 #### 14", gold, YES},
        {"13 + 8 = 21 ; 21 - 9 = 12 ; 12 + 2 = 14 #### 14", gold, YES},
        {"13+8=11; 11-9=2; 2+12=14 #### 14", gold, NO}, /* right number, wrong steps */
        {"13+8=21; 21-9=12 #### 14", gold, NO},         /* a step is missing */
        {"13+8=21; 21-9=12; 12+2=14; 1+1=2 #### 14", gold, NO},
        {"21-9=12; 13+8=21; 12+2=14 #### 14", gold, NO}, /* another order */
        {"13+8=21; 21-9=12; 12+2=14 #### 15", gold, NO},
        {"13+8=21; 21*9=12; 12+2=14 #### 14", gold, NO},
        {"14", "14", YES}, /* no step on either side */
        {"48/2 = <<48/2=24>>24 clips. 48+24 = <<48+24=72>>72 #### 72", "48/2=24; 48+24=72 #### 72",
         YES},
        {"2 x 3=6 #### 6", "2*3=6 #### 6", YES},
        {"2 \xc3\x97 3=6 #### 6", "2*3=6 #### 6", YES},
        {"$2.50 + $1 = $3.5 #### 3.5", "2.5+1=3.5 #### 3.5", YES},
        {"1+1+1=3 #### 3", "1+1+1=3 #### 3", YES},
        {"1+2=3 #### 3", "1+1+1=3 #### 3", NO},
        {"1+1 = ? 1+1=2 #### 2", "1+1=2 #### 2", YES},
        {"5-8=-3 #### -3", "5-8=-3 #### -3", YES},
        {"5-8=3 #### -3", "5-8=-3 #### -3", NO},
        {"1+1=2 #### 2", NULL, NONE},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
        int is = joust_rule_steps_and_number(rows[i].response, rows[i].reference);
        if (is != rows[i].expected)
            fail_msg("row %zu '%s': %d", i, rows[i].response, is);
    }
}

static void exact(void **state)
{
    (void)state;
    assert_int_equal(joust_rule_exact(" a b\n", "a b"), YES);
    assert_int_equal(joust_rule_exact("a  b", "a b"), NO);
    assert_int_equal(joust_rule_exact("", " \t"), YES);
    assert_int_equal(joust_rule_exact("a", "ab"), NO);
    assert_int_equal(joust_rule_exact("a", NULL), NONE);
}

static void pattern(void **state)
{
    (void)state;
    joust_rule_pattern *p = NULL;
    joust_error err;
    int64_t live = joust_alloc_live();
    assert_int_equal(joust_rule_pattern_compile("^\\p{Lu}\\w+ \\d{2}$", &p, &err), JOUST_OK);
    assert_int_equal(joust_rule_pattern_match(p, "\xc3\x89t\xc3\xa9 42"), YES);
    assert_int_equal(joust_rule_pattern_match(p, "\xc3\xa9t\xc3\xa9 42"), NO);
    joust_rule_pattern_free(&p);
    assert_null(p);
    assert_int_equal(joust_rule_pattern_compile("a(b", &p, &err), JOUST_INVALID);
    assert_non_null(strstr(err.text, "at byte 3"));
    /* A pattern that backtracks without end is stopped, and says so. */
    assert_int_equal(joust_rule_pattern_compile("^(\\w|\\w\\w)+$", &p, &err), JOUST_OK);
    assert_int_equal(
        joust_rule_pattern_match(p, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"),
        JOUST_RULE_LIMIT);
    joust_rule_pattern_free(&p);
    assert_int_equal(joust_alloc_live(), live);
}

/* Random texts of the rules' own alphabet: never a crash, and every text equals itself. */
static void random_texts(void **state)
{
    (void)state;
    static const char alphabet[] = "0123456789,.+-*/=#$x ()<>a\xc3\x97";
    joust_stream s = joust_stream_open(&(joust_stream_name){.purpose = JOUST_PURPOSE_TEST});
    for (uint64_t i = 0; i < 20000; i++) {
        char text[64];
        uint64_t n = joust_stream_below(&s, i * 64, sizeof(text) - 1);
        for (uint64_t k = 0; k < n; k++)
            text[k] = alphabet[joust_stream_below(&s, i * 64 + k + 1, sizeof(alphabet) - 1)];
        text[n] = 0;
        joust_rule_result number = joust_rule_final_number(text, text);
        joust_rule_result steps = joust_rule_steps_and_number(text, text);
        if ((number != JOUST_RULE_TRUE && number != JOUST_RULE_NO_REFERENCE) || steps != number)
            fail_msg("text %llu '%s': %d %d", (unsigned long long)i, text, number, steps);
    }
}

/* Long chains stay linear: a megabyte of "1+1+1…" takes no longer than a blink. */
static void long_chain(void **state)
{
    (void)state;
    size_t n = 1u << 20;
    char *text = joust_malloc(n + 1);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++)
        text[i] = i % 2 ? '+' : '1';
    text[n] = 0;
    assert_int_equal(joust_rule_steps_and_number(text, "1"), YES);
    joust_free(text);
}

/* Real answers, if the machine has them: each is right by its own reference and wrong by the next
 * one's. */
static void gsm8k(void **state)
{
    (void)state;
    FILE *in = popen(
        "gzip -dc '" JOUST_SOURCE_DIR "/../shared/data/gsm8k/train.jsonl.gz' 2>/dev/null", "r");
    static char line[1 << 16], previous[1 << 16];
    unsigned n = 0, own = 0, others = 0;
    previous[0] = 0;
    while (in && fgets(line, sizeof(line), in)) {
        const char *answer = strstr(line, "\"answer\"");
        if (!answer)
            continue;
        char *end = strrchr(line, '"');
        *end = 0;
        n++;
        own += joust_rule_steps_and_number(answer, answer) == JOUST_RULE_TRUE;
        others += previous[0] && joust_rule_steps_and_number(previous, answer) == JOUST_RULE_TRUE;
        strcpy(previous, answer);
    }
    if (in)
        pclose(in);
    if (n == 0) {
        print_message("skipped: no gsm8k data beside this checkout\n");
        skip();
    }
    assert_int_equal(own, n);
    assert_in_range(others, 0, n / 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(final_number), cmocka_unit_test(steps_and_number),
        cmocka_unit_test(exact),        cmocka_unit_test(pattern),
        cmocka_unit_test(random_texts), cmocka_unit_test(long_chain),
        cmocka_unit_test(gsm8k),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
