/* The truth the kernels are compared with: a plain forward pass in double, one position at a time, written from the
 * formulas and sharing no code with the engine. */
#ifndef JOUST_TESTS_ENGINE_COMPUTE_REFERENCE_H
#define JOUST_TESTS_ENGINE_COMPUTE_REFERENCE_H

#include "worker/engine/model.h"
#include "worker/engine/train/train.h"

/* logits (n, vocab_size) after each of n tokens; weights is a block laid out as the model's, in double. */
void reference_logits(const joust_model *m, const double *weights, const uint32_t *tokens,
                      uint32_t n, double *logits);
/* log softmax over the vocabulary. */
double reference_logp(const double *logits, uint32_t vocab_size, uint32_t token);
/* Means over rows, as train.h states them. Of pairs: dpo is written out here; other losses are the engine's functions of
 * log-probabilities (losses_test compares those with PyTorch) of log-probabilities from here. */
double reference_pairs_loss(const joust_model *m, const double *weights, const joust_pair_row *rows,
                            uint32_t n, const joust_train_settings *settings, double baseline);
/* KTO's baseline before it is held at 0: the mean of policy minus reference log-probs of answers after other prompts. */
double reference_baseline(const joust_model *m, const double *weights, const double *reference,
                          const joust_pair_row *rows, uint32_t n);
/* Rows with old_logps; the objective of an answer's tokens is the engine's, entropy and shares are written out here. */
double reference_policy_loss(const joust_model *m, const double *weights,
                             const joust_policy_row *rows, uint32_t n,
                             const joust_policy_settings *settings);
double reference_rows_loss(const joust_model *m, const double *weights, const joust_sft_row *rows,
                           uint32_t n);

#endif
