/* Time in which somebody worked: overlaps count once, gaps don't. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "ops/busy_time.h"

static void check(joust_interval *intervals, size_t n, double expected)
{
    double busy = joust_busy_ms(intervals, n);
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

static void gaps_do_not_count(void **state)
{
    (void)state;
    joust_interval gaps[] = {{900000, 901000}, {0, 1000}, {1000, 2000}, {2001, 4000}};
    check(gaps, 4, 4999);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(overlaps_count_once),
        cmocka_unit_test(gaps_do_not_count),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
