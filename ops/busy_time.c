#include "ops/busy_time.h"

#include <stdlib.h>

static int by_from(const void *a, const void *b)
{
    const joust_interval *x = a, *y = b;
    return (x->from > y->from) - (x->from < y->from);
}

double joust_busy_ms(joust_interval *intervals, size_t n)
{
    if (!n)
        return 0;
    qsort(intervals, n, sizeof(*intervals), by_from);
    double busy = 0, from = intervals[0].from, to = intervals[0].to;
    for (size_t i = 1; i < n; i++) {
        if (intervals[i].from > to) {
            busy += to - from;
            from = intervals[i].from;
            to = from;
        }
        to = intervals[i].to > to ? intervals[i].to : to;
    }
    return busy + to - from;
}
