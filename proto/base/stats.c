#include "proto/base/stats.h"

#include <math.h>
#include <stdlib.h>

#include "proto/base/alloc.h"
#include "proto/base/math.h"

#define Z95 1.959963984540054

double joust_mean(const double *x, size_t n)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += x[i];
    return n ? sum / (double)n : 0;
}

double joust_standard_deviation(const double *x, size_t n)
{
    if (n < 2)
        return 0;
    double mean = joust_mean(x, n), sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (x[i] - mean) * (x[i] - mean);
    return sqrt(sum / (double)(n - 1));
}

joust_interval joust_wilson(uint64_t k, uint64_t n)
{
    if (n == 0)
        return (joust_interval){.mean = 0, .low = 0, .high = 1, .n = 0};
    double size = (double)n, p = (double)k / size, z2 = Z95 * Z95;
    double centre = (p + z2 / (2 * size)) / (1 + z2 / size);
    double half = Z95 / (1 + z2 / size) * sqrt(p * (1 - p) / size + z2 / (4 * size * size));
    double low = centre - half, high = centre + half;
    return (joust_interval){
        .mean = p, .low = low < 0 ? 0 : low, .high = high > 1 ? 1 : high, .n = n};
}

joust_interval joust_paired_difference(uint64_t n_minus, uint64_t n_zero, uint64_t n_plus)
{
    uint64_t n = n_minus + n_zero + n_plus;
    if (n == 0)
        return (joust_interval){.mean = 0, .low = -1, .high = 1, .n = 0};
    double size = (double)n, mean = ((double)n_plus - (double)n_minus) / size;
    double square = (double)(n_plus + n_minus) / size;
    double half = n > 1 ? Z95 * sqrt((square - mean * mean) / (size - 1)) : 1;
    return (joust_interval){.mean = mean, .low = mean - half, .high = mean + half, .n = n};
}

typedef struct scored {
    double score;
    uint8_t label;
} scored;

static int by_score(const void *a, const void *b)
{
    double x = ((const scored *)a)->score, y = ((const scored *)b)->score;
    return (x > y) - (x < y);
}

double joust_auc(const double *scores, const uint8_t *labels, size_t n)
{
    scored *items = joust_calloc(n, sizeof(*items));
    if (!items)
        return -1;
    for (size_t i = 0; i < n; i++)
        items[i] = (scored){.score = scores[i], .label = labels[i] != 0};
    qsort(items, n, sizeof(*items), by_score);
    /* Twice the number of (positive above negative) pairs, ties once: integers, exact. */
    uint64_t twice = 0, negatives_below = 0, positives = 0, negatives = 0;
    for (size_t i = 0; i < n;) {
        uint64_t p = 0, q = 0;
        double score = items[i].score;
        for (; i < n && items[i].score == score; i++)
            *(items[i].label ? &p : &q) += 1;
        twice += p * (2 * negatives_below + q);
        negatives_below += q;
        positives += p;
        negatives += q;
    }
    joust_free(items);
    if (!positives || !negatives)
        return NAN;
    return (double)twice / 2 / (double)positives / (double)negatives;
}

#define STD_FLOOR 1e-4 /* added to a group's deviation, as TRL does */

/* Weights n e^(reward / beta) / the sum of that; the sum in order. Returns whether rewards differ. */
static bool shares(double beta, const double *rewards, uint32_t n, double *ret)
{
    double most = n > 0 ? rewards[0] : 0, sum = 0;
    bool any = false;
    for (uint32_t i = 0; i < n; i++) {
        any = any || rewards[i] != rewards[0];
        most = rewards[i] > most ? rewards[i] : most;
    }
    for (uint32_t i = 0; i < n; i++)
        sum += ret[i] = joust_exp((rewards[i] - most) / beta);
    for (uint32_t i = 0; i < n; i++)
        ret[i] = any ? n * ret[i] / sum : 1;
    return any;
}

bool joust_advantages(joust_advantage kind, double beta, const double *rewards, uint32_t n,
                      double *ret)
{
    if (kind == JOUST_ADVANTAGE_SHARE)
        return shares(beta, rewards, n, ret);
    double mean = 0, squares = 0;
    bool any = false;
    if (kind == JOUST_ADVANTAGE_REWARD) {
        for (uint32_t i = 0; i < n; i++)
            ret[i] = rewards[i];
        return n > 0;
    }
    if (kind == JOUST_ADVANTAGE_LABEL) {
        for (uint32_t i = 0; i < n; i++)
            ret[i] = rewards[i] > beta ? 1 : -1;
        return n > 0;
    }
    for (uint32_t i = 0; i < n; i++)
        mean += rewards[i] / n;
    for (uint32_t i = 0; i < n; i++) {
        any = any || rewards[i] != rewards[0];
        squares += (rewards[i] - mean) * (rewards[i] - mean);
    }
    double factor = any; /* equal rewards: exactly 0, whatever rounding made of the mean */
    if (any && kind == JOUST_ADVANTAGE_LEAVE_ONE_OUT)
        factor = n / (n - 1.0);
    if (any && kind == JOUST_ADVANTAGE_STANDARDISED)
        factor = 1 / (sqrt(squares / (n - 1.0)) + STD_FLOOR);
    for (uint32_t i = 0; i < n; i++)
        ret[i] = factor * (rewards[i] - mean);
    return any;
}
