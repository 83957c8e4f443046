/* Clocks. Time decides nothing in a record: the monotonic clock drives deadlines, the wall clock only
 * provenance. State machines take now_ms as an argument and never call these. */
#ifndef JOUST_PROTO_BASE_CLOCK_H
#define JOUST_PROTO_BASE_CLOCK_H

#include <stdint.h>

int64_t joust_clock_ms(void);      /* monotonic, since an arbitrary start */
int64_t joust_clock_ns(void);      /* monotonic */
int64_t joust_clock_wall_ms(void); /* since 1970-01-01 UTC */

#endif
