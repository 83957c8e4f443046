/* Statistics with the same bits everywhere: sums in index order, double precision, no libm but sqrt.
 * Thread: any. */
#ifndef JOUST_PROTO_BASE_STATS_H
#define JOUST_PROTO_BASE_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "proto/base/settings.h"

typedef struct joust_interval {
    double mean, low, high; /* 95 % */
    uint64_t n;
} joust_interval;

double joust_mean(const double *x, size_t n);               /* 0 for n = 0 */
double joust_standard_deviation(const double *x, size_t n); /* n - 1 in the denominator; 0 for n < 2 */
/* Share k / n with Wilson's 95 % interval; {0,0,1,0} for n = 0. */
joust_interval joust_wilson(uint64_t k, uint64_t n);
/* Mean of paired differences with its normal 95 % interval, from the counts of the values of d in
 * {-1, 0, +1}; exact integers, so any order of arrival gives the same bits. */
joust_interval joust_paired_difference(uint64_t n_minus, uint64_t n_zero, uint64_t n_plus);
/* Area under the ROC curve of scores for binary labels; ties count half. NaN if a class is empty.
 * Sorts a copy; O(n log n). Returns -1 when out of memory. */
double joust_auc(const double *scores, const uint8_t *labels, size_t n);

/* Advantages of a group's n rewards into ret (n). A group of one, and one whose rewards are equal, has none: all 0.
 * JOUST_ADVANTAGE_REWARD: the rewards themselves. Returns whether any differs from 0 (what dynamic sampling keeps), for that
 * kind whether there is any. JOUST_ADVANTAGE_SHARE: weights whose mean is 1, by `beta` (above 0); all 1
 * where rewards are equal. Returns whether they differ. JOUST_ADVANTAGE_LABEL: 1 where a reward is above `beta`, else -1; returns whether
 * there is any. */
bool joust_advantages(joust_advantage kind, double beta, const double *rewards, uint32_t n,
                      double *ret);

#endif
