#include "engine/compute/train_fixture.h"

#include <string.h>

#include "worker/engine/train/trainer_internal.h"

static const uint32_t labels[] = {5, 6};

void train_data_make(train_data *d, uint32_t vocab)
{
    d->tokens = fixture_tokens(400, vocab, 11);
    for (uint32_t i = 0; i < TRAIN_PAIRS; i++) {
        const uint32_t *at = d->tokens + 60 * i;
        d->pairs[i] = (joust_pair_row){.prompt = at,
                                       .n_prompt = 1 + 4 * i,
                                       .chosen = at + 20,
                                       .n_chosen = i == 2 ? 1 : 3 + 5 * i % 7,
                                       .rejected = at + 40,
                                       .n_rejected = 2 + i,
                                       .ref_chosen = -8 - (double)i,
                                       .ref_rejected = -7,
                                       .margin = 0.5 * i - 0.4};
    }
    for (uint32_t i = 0; i < TRAIN_ROWS; i++) {
        const uint32_t *at = d->tokens + 50 * i;
        const joust_target targets[] = {
            {.position = 6 + i, .token = 6, .weight = 4, .n_among = 2, .among = labels},
            {.position = 3, .token = at[3], .weight = 1},
            {.position = 3, .token = 5, .weight = 0.5f, .n_among = 2, .among = labels},
            {.position = 9, .token = 7, .weight = 1.5f}};
        memcpy(d->targets[i], targets, sizeof(targets));
        for (uint32_t k = 0; k < 8; k++) {
            d->old[i][k] = -2.5f - 0.3f * (float)k;
            d->ref[i][k] = -3.5f + 0.2f * (float)k;
            d->advantages[i][k] = 1.5 - 0.9 * i + 0.1 * k;
        }
        d->answers[i] = (joust_policy_row){.prompt = at,
                                           .n_prompt = 2 + i,
                                           .response = at + 10,
                                           .n_response = i == 1 ? 1 : 4 + i,
                                           .old_logps = d->old[i],
                                           .ref_logps = d->ref[i],
                                           .advantages = d->advantages[i]};
        d->rows[i] =
            (joust_sft_row){.tokens = at, .n = 9 + i, .targets = d->targets[i], .n_targets = 4};
    }
}

joust_status train_data_step(joust_trainer *t, const train_data *d, joust_step_report *ret,
                             joust_error *err)
{
    if (t->params.loss == JOUST_LOSS_POLICY)
        return joust_trainer_step_policy(t, d->answers, TRAIN_ROWS, ret, err);
    return t->params.loss == JOUST_LOSS_SFT
               ? joust_trainer_step_rows(t, d->rows, TRAIN_ROWS, ret, err)
               : joust_trainer_step_pairs(t, d->pairs, TRAIN_PAIRS, ret, err);
}
