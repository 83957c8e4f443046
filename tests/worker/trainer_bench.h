/* A TRAIN unit of a tiny model against a coordinator in memory, with pairs of real rollouts. Failures end the test. */
#ifndef JOUST_TESTS_WORKER_TRAINER_BENCH_H
#define JOUST_TESTS_WORKER_TRAINER_BENCH_H

#include "worker/fake_upstream.h"
#include "worker/tiny.h"
#include "worker/trainer.h"

#define N_PAIRS 7u /* no multiple of the batch: passes wrap in mid-batch */

typedef struct bench {
    joust_job job;
    joust_plan plan;
    joust_engine *engine;
    fake_upstream fake;
    joust_cache *cache;
    joust_lease_unit unit; /* TRAIN */
    joust_train_row_pair pairs[N_PAIRS];
    joust_trajectory *groups[N_PAIRS];
    uint32_t n_samples;
} bench;

int bench_setup(void **state);
int bench_teardown(void **state);
joust_training bench_training(bench *b);
/* Pairs of the first and the last sample of rollouts by the model in dir; those before are let go first. */
void bench_make_pairs(bench *b, const char *dir);
void bench_drop_groups(bench *b);
/* The unit begins anew. */
void bench_forget_progress(bench *b);

/* What a TRAIN unit amounts to: the version's files and every step's bytes. */
typedef struct outcome {
    joust_digest manifest, weights, steps;
    uint32_t n_steps;
    double gap; /* of log-probs, where it is reported */
    uint64_t n_compared;
    uint32_t n_metrics;
    joust_metric metrics[8];
} outcome;
/* Runs the unit, from where its resume state says, to the end. */
outcome bench_finish(bench *b);
void bench_check_equal(const outcome *a, const outcome *b);
/* Stops the work after every possible check, resumes at what was durable, and ends with the same bytes. */
void bench_check_resumed(bench *b);

#endif
