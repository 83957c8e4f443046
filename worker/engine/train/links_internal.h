/* Preference losses as functions of two log-ratios: value and slopes, in double, without libm.
 * Formulas: KERNELS.md, "Losses". Pure; thread: any. */
#ifndef JOUST_WORKER_ENGINE_TRAIN_LINKS_INTERNAL_H
#define JOUST_WORKER_ENGINE_TRAIN_LINKS_INTERNAL_H

#include "worker/engine/train/train.h"

/* Sums over a pair's response tokens; of losses on scores the scores. n 0: the pair lacks that answer. */
typedef struct joust_pair_logps {
    double chosen, rejected; /* ld_alpha's weights in */
    double plain_chosen;     /* without them */
    double ref_chosen, ref_rejected;
    uint32_t n_chosen, n_rejected;
    double margin;   /* of the pair's rewards */
    double baseline; /* KTO's, at least 0 */
    double sft_mean; /* rows of the step / chosen tokens of the step */
} joust_pair_logps;

typedef struct joust_pair_slopes {
    double loss;
    double chosen, rejected; /* d loss / d the weighted sums */
    double plain_chosen;     /* d loss / d plain_chosen */
    double chosen_reward, rejected_reward;
} joust_pair_slopes;

/* The mix of settings->loss, its terms and sft_weight. */
joust_pair_slopes joust_pair_objective(const joust_train_settings *settings,
                                       const joust_pair_logps *pair);

#endif
