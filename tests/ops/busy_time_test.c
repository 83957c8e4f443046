/* Time in which somebody worked: overlaps count once, short gaps count, long ones don't. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ops/busy_time.h"

static void check(joust_interval *intervals, size_t n, double expected)
{
    double busy = joust_busy_ms(intervals, n, 2000);
    if (busy != expected)
        fail_msg("%g, expected %g", busy, expected);
}

static void overlaps_count_once(void **state)
{
    (void)state;
    joust_interval two[] = {{100, 400}, {0, 300}}, within[] = {{0, 1000}, {100, 200}, {900, 1100}};
    check(two, 0, 0);
    check(two, 2, 400);
    check(within, 3, 1100);
}

static void only_short_gaps_count(void **state)
{
    (void)state;
    joust_interval gaps[] = {
        {900000, 901000}, {0, 1000}, {3000, 4000}}; /* 2 s, then most of an hour */
    check(gaps, 3, 5000);
    joust_interval just[] = {{0, 1000}, {3001, 4000}};
    check(just, 2, 1999);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overlaps_count_once),
        cmocka_unit_test(only_short_gaps_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
