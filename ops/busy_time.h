/* How long somebody was at work, from when each piece of work began and ended. Pure. */
#ifndef JOUST_OPS_BUSY_TIME_H
#define JOUST_OPS_BUSY_TIME_H

#include <stddef.h>

typedef struct joust_interval {
    double from, to; /* ms by the wall clock, from <= to */
} joust_interval;

/* Time covered by the n intervals, in ms: what overlaps counts once, gaps, in which nobody worked, don't. Sorts the intervals. */
double joust_busy_ms(joust_interval *intervals, size_t n);

#endif
