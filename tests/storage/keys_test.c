/* Keys sort as positions do, and ids read back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "storage/keys.h"

static int compare(const joust_key *a, const joust_key *b)
{
    size_t n = a->n < b->n ? a->n : b->n;
    int order = memcmp(a->bytes, b->bytes, n);
    return order ? order : (a->n > b->n) - (a->n < b->n);
}

static bool within(const joust_key_range *range, const joust_key *key)
{
    return compare(&range->first, key) <= 0 &&
           (range->before.n == 0 || compare(key, &range->before) < 0);
}

static void keys_sort_as_positions_do(void **state)
{
    (void)state;
    const joust_unit_key units[] = {{0, 0, 0},
                                    {0, 0, 1},
                                    {0, 0, 255},
                                    {0, 0, 256},
                                    {0, 1, 0},
                                    {0, 255, UINT64_MAX},
                                    {0, 256, 0},
                                    {1, 0, 0},
                                    {255, 7, 1},
                                    {256, 0, 0},
                                    {UINT32_MAX, UINT32_MAX, UINT64_MAX}};
    for (size_t i = 1; i < sizeof(units) / sizeof(*units); i++) {
        joust_key a = joust_key_trajectory(&units[i - 1], UINT32_MAX);
        joust_key b = joust_key_trajectory(&units[i], 0);
        assert_true(compare(&a, &b) < 0);
        a = joust_key_verdict(&units[i - 1], 9, JOUST_NONE, 1, 7);
        b = joust_key_verdict(&units[i], 0, 0, 0, 0);
        assert_true(compare(&a, &b) < 0);
    }
}

static void key_bytes_are_as_the_layout_says(void **state)
{
    (void)state;
    const uint8_t pair[] = {0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 5};
    joust_key key = joust_key_pair(&(joust_unit_key){3, 1, 258}, 5);
    assert_int_equal(key.n, sizeof(pair));
    assert_memory_equal(key.bytes, pair, sizeof(pair));
    const uint8_t step[] = {2, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 1, 0};
    key = joust_key_round(JOUST_ROUND_STEP, 1, 3, 256);
    assert_int_equal(key.n, sizeof(step));
    assert_memory_equal(key.bytes, step, sizeof(step));
    const uint8_t model[] = {0, 0, 0, 0, 0, 0, 0, 4, 'p', 'o', 'l'};
    key = joust_key_model("pol", 4);
    assert_int_equal(key.n, sizeof(model));
    assert_memory_equal(key.bytes, model, sizeof(model));
    const uint8_t line[] = {1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9};
    key = joust_key_prompt_line(2, 9);
    assert_int_equal(key.n, sizeof(line));
    assert_memory_equal(key.bytes, line, sizeof(line));
}

static void ranges_hold_what_they_name(void **state)
{
    (void)state;
    joust_key inside = joust_key_trajectory(&(joust_unit_key){1, 2, 5}, 3);
    joust_key later = joust_key_trajectory(&(joust_unit_key){1, 2, 6}, 0);
    joust_key next_stage = joust_key_trajectory(&(joust_unit_key){1, 3, 0}, 0);
    joust_key next_round = joust_key_trajectory(&(joust_unit_key){2, 0, 0}, 0);
    joust_key_range r = joust_range_unit(&(joust_unit_key){1, 2, 5});
    assert_true(within(&r, &inside) && !within(&r, &later));
    r = joust_range_stage(1, 2);
    assert_true(within(&r, &inside) && within(&r, &later) && !within(&r, &next_stage));
    r = joust_range_round(1);
    assert_true(within(&r, &next_stage) && !within(&r, &next_round));
    r = joust_range_positions(1, 2, 5, 1);
    assert_true(within(&r, &inside) && !within(&r, &later));
    r = joust_range_positions(1, 2, 6, UINT64_MAX);
    assert_true(!within(&r, &inside) && within(&r, &later) && !within(&r, &next_stage));
    r = joust_range_round(UINT32_MAX); /* no key comes behind: no end */
    joust_key last = joust_key_trajectory(&(joust_unit_key){UINT32_MAX, 9, 9}, 9);
    assert_true(within(&r, &last) && !within(&r, &next_round));
}

static void ids_read_back(void **state)
{
    (void)state;
    const struct {
        const char *text;
        joust_record_id id;
    } cases[] = {
        {"r3.s1.p120.2", {{3, 1, 120}, 2, JOUST_NONE, 0, 0}},
        {"r0.s0.p0.0-5", {{0, 0, 0}, 0, 5, 0, 0}},
        {"r4.s2.p18446744073709551615.7-8.o1.v3", {{4, 2, UINT64_MAX}, 7, 8, 1, 3}},
        {"r4.s2.p9.7.o0.v3", {{4, 2, 9}, 7, JOUST_NONE, 0, 3}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char text[JOUST_RECORD_ID_TEXT];
        joust_record_id id;
        assert_int_equal(joust_record_id_parse(cases[i].text, &id, NULL), JOUST_OK);
        assert_string_equal(joust_record_id_text(&id, text), cases[i].text);
        assert_int_equal(id.unit.round, cases[i].id.unit.round);
        assert_true(id.unit.position == cases[i].id.unit.position);
        assert_int_equal(id.other, cases[i].id.other);
        assert_int_equal(id.vote, cases[i].id.vote);
    }
}

static void bad_ids_are_refused(void **state)
{
    (void)state;
    const char *const bad[] = {"",
                               "r1",
                               "r1.s1.p1",
                               "r1.s1.p1.",
                               "r1.s1.p1.1x",
                               "r-1.s1.p1.1",
                               "r1.s1.p1.1-",
                               "r4294967296.s1.p1.1",
                               "1.1.1.1",
                               "r1.s1.p1.1.o1",
                               "r1.s1.p18446744073709551616.1"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        joust_record_id id;
        joust_error err;
        assert_int_equal(joust_record_id_parse(bad[i], &id, &err), JOUST_INVALID);
        assert_non_null(strstr(err.text, "r3.s1.p120.2"));
    }
}

static void keys_read_as_text(void **state)
{
    (void)state;
    char text[JOUST_KEY_TEXT];
    joust_key key = joust_key_verdict(&(joust_unit_key){3, 2, 1}, 4, 5, 1, 0);
    assert_string_equal(joust_key_text(JOUST_FAMILY_VERDICTS, (joust_span){key.bytes, key.n}, text),
                        "verdicts r3.s2.p1.4-5.o1.v0");
    key = joust_key_model("policy", 2);
    assert_string_equal(joust_key_text(JOUST_FAMILY_MODELS, (joust_span){key.bytes, key.n}, text),
                        "models policy@2");
    assert_string_equal(
        joust_key_text(JOUST_FAMILY_EVENTS, (joust_span){(const uint8_t *)"ab", 2}, text),
        "events 6162");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(keys_sort_as_positions_do),
        cmocka_unit_test(key_bytes_are_as_the_layout_says),
        cmocka_unit_test(ranges_hold_what_they_name),
        cmocka_unit_test(ids_read_back),
        cmocka_unit_test(bad_ids_are_refused),
        cmocka_unit_test(keys_read_as_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
