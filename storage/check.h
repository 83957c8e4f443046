/* Reads a whole store and says whether it is sound. Thread: any. */
#ifndef JOUST_STORAGE_CHECK_H
#define JOUST_STORAGE_CHECK_H

#include "storage/blobs.h"
#include "storage/keys.h"
#include "storage/store.h"

typedef struct joust_check_report {
    uint64_t n_records[JOUST_FAMILY_N]; /* read, by family */
    uint64_t n_blobs;                   /* files read below STORE/blobs */
    uint64_t n_bad;                     /* findings in all */
    char first_bad[1400];               /* "family key: what is wrong" of the first; "" */
} joust_check_report;

/* Checks, family by family in key order: every checksum and encoding; that a record is valid and stored under its
 * own key; prompts match their digests; groups have all their samples; verdicts are about stored trajectories,
 * and judged groups are judged whole; a pair's trajectories exist with the recorded digests and prompt, chosen's
 * reward is the higher, and the verdicts it considered are those stored; training steps have no gaps; stage
 * summaries agree with the counts; versions exist, their files are whole; events have no gaps; every blob matches its name.
 * Goes on behind what it finds. Memory: bounded. A store that is being written is checked as of the opening.
 * Errors: only if the store can't be read on at all. */
JOUST_MUST_USE joust_status joust_store_check(joust_store *store, joust_check_report *ret,
                                              joust_error *err);

#endif
