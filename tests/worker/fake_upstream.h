/* A coordinator in memory, behind the interface that compute code sees: blobs, pairs in training
 * order, durable training progress. It can lose requests, as a coordinator that dies does, and stop
 * the work after a number of checks. */
#ifndef JOUST_TESTS_WORKER_FAKE_UPSTREAM_H
#define JOUST_TESTS_WORKER_FAKE_UPSTREAM_H

#include "proto/upstream.h"

#define FAKE_MAX_BLOBS   512u
#define FAKE_MAX_ANSWERS 64u
#define FAKE_MAX_STEPS   256u

typedef struct fake_upstream {
    joust_upstream up;
    struct fake_blob {
        joust_digest digest;
        uint8_t *data;
        uint32_t n;
    } blobs[FAKE_MAX_BLOBS];
    uint32_t n_blobs;
    joust_message answers[FAKE_MAX_ANSWERS];
    uint32_t n_answers;
    uint32_t lose_every; /* every so many requests one is lost; 0: none */
    uint32_t n_requests, n_lost, n_lost_pending, n_puts;
    _Atomic uint64_t n_checks;
    uint64_t interrupt_after;          /* 0: never */
    bool corrupt;                      /* chunks are answered with a wrong byte */
    const joust_train_row_pair *pairs; /* (n_pairs) */
    uint64_t n_pairs;
    uint64_t first_ordinal, ordinal_step; /* of the pairs; 0: from 0 on, one by one */
    uint32_t rows_at_most; /* in one answer; 0: as asked */
    /* progress */
    uint32_t step, n_steps;
    joust_digest state;
    joust_digest steps[FAKE_MAX_STEPS]; /* of each step's canonical bytes */
} fake_upstream;

void fake_upstream_init(fake_upstream *f);
void fake_upstream_fini(fake_upstream *f);
/* Puts a folder there, as the coordinator that imports it does; gives its manifest. */
joust_digest fake_upstream_import(fake_upstream *f, const char *dir);
/* Notes steps that came with a result. */
void fake_upstream_add_steps(fake_upstream *f, const joust_train_step *steps, uint32_t n);

#endif
