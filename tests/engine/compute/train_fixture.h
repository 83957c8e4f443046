/* What trainers are tested on: pairs, rows and answers, and a step of a trainer on those that its loss is of. */
#ifndef JOUST_TESTS_ENGINE_COMPUTE_TRAIN_FIXTURE_H
#define JOUST_TESTS_ENGINE_COMPUTE_TRAIN_FIXTURE_H

#include "engine/compute/fixture.h"

#define TRAIN_PAIRS 5u
#define TRAIN_ROWS  3u

typedef struct train_data {
    uint32_t *tokens;
    joust_pair_row pairs[TRAIN_PAIRS];
    joust_target targets[TRAIN_ROWS][4];
    joust_sft_row rows[TRAIN_ROWS];
    joust_policy_row answers[TRAIN_ROWS];
    float old[TRAIN_ROWS][8], ref[TRAIN_ROWS][8];
    double advantages[TRAIN_ROWS][8];
    double baseline; /* KTO's, at the weights that the finite differences start from */
} train_data;

/* Pairs of several lengths, one of a single token; rows with whole and restricted targets, two at
 * one position. d->tokens is freed with joust_free. */
void train_data_make(train_data *d, uint32_t vocab);
joust_status train_data_step(joust_trainer *t, const train_data *d, joust_step_report *ret,
                             joust_error *err);

#endif
