#include "worker/engine/train/policy_gradient.h"

#include "proto/base/math.h"
#include "worker/engine/train/train.h"

joust_status joust_policy_settings_check(const joust_policy_settings *p, joust_error *err)
{
    const struct {
        const char *name;
        double value, low, high;
    } numbers[] = {
        {"surrogate", p->surrogate, JOUST_SURROGATE_CLIPPED, JOUST_SURROGATE_PLAIN},
        {"importance", p->importance, JOUST_IMPORTANCE_TOKEN, JOUST_IMPORTANCE_SEQUENCE},
        {"aggregation", p->aggregation, JOUST_AGGREGATE_ROWS, JOUST_AGGREGATE_CONSTANT},
        {"kl", p->kl, JOUST_KL_K1, JOUST_KL_K3},
        {"epsilon_low", p->epsilon_low, 0, 1},
        {"epsilon_high", p->epsilon_high, 0, 1e6},
        {"max_ratio", p->max_ratio, 0, 1e6},
        {"kl_weight", p->kl_weight, 0, 1e6},
        {"entropy_weight", p->entropy_weight, -1e6, 1e6},
        {"sampler_cap", p->sampler_cap, 0, 1e6},
        {"value_clip", p->value_clip, 0, 1e6},
        {"max_tokens", p->max_tokens, p->aggregation == JOUST_AGGREGATE_CONSTANT, UINT32_MAX},
    };
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        if (!(numbers[i].value >= numbers[i].low && numbers[i].value <= numbers[i].high))
            return joust_fail(err, JOUST_INVALID, "train: policy %s is %g, expected %g to %g",
                              numbers[i].name, numbers[i].value, numbers[i].low, numbers[i].high);
    return JOUST_OK;
}

joust_policy_shares joust_policy_shares_of(const joust_policy_settings *p, uint32_t n_tokens,
                                           uint32_t n_rows, uint64_t n_all)
{
    if (n_tokens == 0)
        return (joust_policy_shares){0};
    joust_policy_shares shares = {.of_step = 1.0 / (double)n_all};
    switch (p->aggregation) {
    case JOUST_AGGREGATE_ROWS:
        shares.of_row = 1.0 / ((double)n_rows * n_tokens);
        break;
    case JOUST_AGGREGATE_TOKENS:
        shares.of_row = shares.of_step;
        break;
    case JOUST_AGGREGATE_CONSTANT:
        shares.of_row = 1.0 / ((double)n_rows * p->max_tokens);
        break;
    }
    return shares;
}

/* A token's surrogate by its ratio: value, slope by the log-ratio, slope by the log-prob where it is no ratio. */
typedef struct surrogate {
    double value, by_log_ratio, by_logp;
    bool clipped;
} surrogate;

static surrogate clipped_surrogate(const joust_policy_settings *p, double ratio, double advantage)
{
    double low = 1 - p->epsilon_low, high = 1 + p->epsilon_high;
    const bool capped = p->max_ratio > 0 && ratio > p->max_ratio;
    const double free = (capped ? p->max_ratio : ratio) * advantage;
    const double held = (ratio < low ? low : ratio > high ? high : ratio) * advantage;
    if (held < free) /* only where the clip holds the ratio */
        return (surrogate){.value = -held, .clipped = true};
    return (surrogate){.value = -free, .by_log_ratio = capped ? 0 : -free, .clipped = capped};
}

static surrogate surrogate_of(const joust_policy_settings *p, double ratio, double logp,
                              double advantage)
{
    const double high = 1 + p->epsilon_high;
    if (p->surrogate == JOUST_SURROGATE_CLIPPED)
        return clipped_surrogate(p, ratio, advantage);
    double weight = 1;
    if (p->surrogate == JOUST_SURROGATE_TRUNCATED)
        weight = ratio < high ? ratio : high;
    return (surrogate){.value = -weight * advantage * logp,
                       .by_logp = -weight * advantage,
                       .clipped = p->surrogate == JOUST_SURROGATE_TRUNCATED && ratio > high};
}

/* An estimate of KL(policy || reference) from one token; d = logp - ref. */
static double kl_of(joust_kl kind, double d, double *ret_slope)
{
    const double e = kind == JOUST_KL_K3 ? joust_exp(-d) : 0;
    *ret_slope = kind == JOUST_KL_K1 ? 1 : kind == JOUST_KL_K2 ? d : 1 - e;
    return kind == JOUST_KL_K1 ? d : kind == JOUST_KL_K2 ? d * d / 2 : e + d - 1;
}

static double old_of(const joust_policy_tokens *x, uint32_t i)
{
    return x->old_logps ? (double)x->old_logps[i] : x->logps[i];
}

static bool counts(const uint8_t *forced, uint32_t i)
{
    return !forced || !forced[i];
}

double joust_sampler_weight(const joust_policy_settings *p, const joust_policy_tokens *x,
                            uint32_t i)
{
    if (!x->sampler_logps || p->sampler_cap == 0)
        return 1;
    double log_weight = 0;
    if (p->importance == JOUST_IMPORTANCE_TOKEN)
        log_weight = old_of(x, i) - (double)x->sampler_logps[i];
    for (uint32_t k = 0; p->importance == JOUST_IMPORTANCE_SEQUENCE && k < x->n; k++)
        log_weight += counts(x->forced, k) ? old_of(x, k) - (double)x->sampler_logps[k] : 0;
    const double weight = joust_exp(log_weight);
    return weight < p->sampler_cap ? weight : p->sampler_cap;
}

/* The answer's log-ratio: the mean over the n tokens that count. */
static double mean_log_ratio(const joust_policy_tokens *x, uint32_t n)
{
    double log_ratio = 0;
    for (uint32_t i = 0; i < x->n; i++)
        log_ratio += counts(x->forced, i) ? (x->logps[i] - old_of(x, i)) / n : 0;
    return log_ratio;
}

joust_policy_report joust_policy_objective(const joust_policy_settings *p,
                                           const joust_policy_tokens *x, double share,
                                           double *slopes)
{
    joust_policy_report y = {0};
    const bool whole = p->importance == JOUST_IMPORTANCE_SEQUENCE;
    const uint32_t n = joust_response_weighed(x->forced, x->n);
    const double log_ratio = whole ? mean_log_ratio(x, n) : 0,
                 whole_weight = whole ? joust_sampler_weight(p, x, 0) : 1;
    double by_sequence = 0; /* slope by the mean log-ratio */
    for (uint32_t i = 0; i < x->n; i++) {
        slopes[i] = 0;
        if (!counts(x->forced, i))
            continue;
        const double ratio = joust_exp(whole ? log_ratio : x->logps[i] - old_of(x, i));
        const double weight = share * (whole ? whole_weight : joust_sampler_weight(p, x, i));
        const surrogate s = surrogate_of(p, ratio, x->logps[i], x->advantages[i]);
        slopes[i] = weight * s.by_logp;
        *(whole ? &by_sequence : &slopes[i]) += weight * s.by_log_ratio;
        y.loss += weight * s.value;
        y.ratio += ratio;
        y.n_clipped += s.clipped;
        if (!x->ref_logps || p->kl_weight == 0)
            continue;
        double slope;
        const double kl = kl_of(p->kl, x->logps[i] - (double)x->ref_logps[i], &slope);
        y.kl += kl;
        y.loss += share * p->kl_weight * kl;
        slopes[i] += share * p->kl_weight * slope;
    }
    for (uint32_t i = 0; whole && i < x->n; i++)
        slopes[i] += counts(x->forced, i) ? by_sequence / n : 0;
    return y;
}

joust_value_report joust_value_objective(const joust_policy_settings *p,
                                         const joust_value_tokens *x, double share, double *slopes)
{
    joust_value_report y = {0};
    for (uint32_t i = 0; i < x->n; i++) {
        slopes[i] = 0;
        if (!counts(x->forced, i))
            continue;
        const double off = x->values[i] - x->returns[i];
        double held = off;
        if (p->value_clip > 0 && x->old_values) {
            const double low = (double)x->old_values[i] - p->value_clip,
                         high = (double)x->old_values[i] + p->value_clip, v = x->values[i];
            held = (v < low ? low : v > high ? high : v) - x->returns[i];
        }
        const bool clipped = held * held > off * off;
        slopes[i] = clipped ? 0 : share * off;
        y.loss += share * (clipped ? held * held : off * off) / 2;
        y.n_clipped += clipped;
    }
    return y;
}

void joust_gae(const double *rewards, const float *values, uint32_t n, double gamma, double lambda,
               double *ret_advantages, double *ret_returns)
{
    double next_value = 0, next = 0;
    for (uint32_t i = n; i-- > 0;) {
        const double value = (double)values[i];
        next = rewards[i] + gamma * next_value - value + gamma * lambda * next;
        next_value = value;
        ret_advantages[i] = next;
        ret_returns[i] = next + value;
    }
}
