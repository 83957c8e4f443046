/* What a person sees of a running job: a line that moves on a terminal, a line a finished stage elsewhere. Pure: text
 * from status snapshots (proto/PROTOCOL.md) and the clock that the caller passes. */
#ifndef JOUST_OPS_PROGRESS_H
#define JOUST_OPS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/bytes.h"

#define JOUST_MAX_SHOWN_STAGES 64u
#define JOUST_STALL_MS         20000

typedef struct joust_shown_stage {
    char name[64];
    uint64_t done, total;
    int64_t first_ms; /* when it was first seen under way; 0: not yet */
    uint64_t first_done;
    bool open, skipped;
    bool finished; /* told */
} joust_shown_stage;

/* Zero-initialise. Holds no heap memory. */
typedef struct joust_progress_view {
    bool known; /* a snapshot was seen */
    uint32_t round, rounds;
    uint32_t n_stages;
    joust_shown_stage stages[JOUST_MAX_SHOWN_STAGES];
    uint64_t moved; /* what was done in the round when it last grew */
    int64_t moved_ms;
    char why[256];
} joust_progress_view;

/* Takes a snapshot (n bytes of JSON). Appends a line (with newline) to lines for each stage that finished since the last one:
 * "round 1 generate 500/500 in 12.3 s (40.7/s)", or the rate alone where the stage was under way before it was seen. Errors: JOUST_MALFORMED: not a status; the view is as it was. */
JOUST_MUST_USE joust_status joust_progress_take(joust_progress_view *view, const void *json,
                                                size_t n, int64_t now_ms, joust_buf *lines,
                                                joust_error *err);
/* The round that was seen last is over: tells those of its stages that weren't told yet. */
void joust_progress_round_over(joust_progress_view *view, int64_t now_ms, joust_buf *lines);
/* Appends the moving line, without newline: "round 2/4 · generate 312/500 · 41.2/s · 0:05 left", or, where nothing is under way or
 * nothing has moved for JOUST_STALL_MS, what is waited for. At most width characters: names are shortened before numbers, the
 * middle of a sentence before its end. */
void joust_progress_line(const joust_progress_view *view, int64_t now_ms, uint32_t width,
                         joust_buf *to);

#endif
