#include "links_internal.h"

#include "proto/base/math.h"

/* What a link sees: log-ratios (or log-probabilities) as its traits ask for. */
typedef struct point {
    const joust_train_settings *p;
    double chosen, rejected;
    double margin, baseline;
    bool has_chosen, has_rejected;
} point;

/* Value and slopes by the two log-ratios. */
typedef struct slopes {
    double loss, chosen, rejected;
} slopes;

typedef slopes link_fn(const point *x);

/* A loss of the difference alone: d is its slope by it. */
static slopes of_difference(double loss, double d)
{
    return (slopes){loss, d, -d};
}

/* -(1 - e) log sigmoid(z) - e log sigmoid(-z), z = beta difference + shift. */
static slopes smoothed(double chosen, double rejected, double beta, double shift, double e)
{
    const double z = beta * chosen - beta * rejected + shift;
    const double loss = (1 - e) * -joust_log_sigmoid(z) + e * -joust_log_sigmoid(-z);
    return of_difference(loss, -(beta * ((1 - e) * joust_sigmoid(-z) - e * joust_sigmoid(z))));
}

static slopes dpo(const point *x)
{
    return smoothed(x->chosen, x->rejected, x->p->beta, 0, x->p->objective.label_smoothing);
}

static slopes simpo(const point *x)
{
    return smoothed(x->chosen, x->rejected, x->p->beta, -x->p->objective.gamma,
                    x->p->objective.label_smoothing);
}

static slopes hinge(const point *x)
{
    const double left = 1 - x->p->beta * (x->chosen - x->rejected);
    return left > 0 ? of_difference(left, -x->p->beta) : of_difference(0, 0);
}

static slopes ipo(const point *x)
{
    const double off = x->chosen - x->rejected - 1 / (2 * x->p->beta);
    return of_difference(off * off, 2 * off);
}

static slopes robust(const point *x)
{
    const double beta = x->p->beta, e = x->p->objective.label_smoothing;
    const double z = beta * (x->chosen - x->rejected);
    const double loss = (1 - e) * -joust_log_sigmoid(z) - e * -joust_log_sigmoid(-z);
    const double d = -beta * ((1 - e) * joust_sigmoid(-z) + e * joust_sigmoid(z));
    return of_difference(loss / (1 - 2 * e), d / (1 - 2 * e));
}

/* KL of (sigmoid z, sigmoid -z) from (1 - e, e). */
static slopes exo_pair(const point *x)
{
    const double beta = x->p->beta, e = x->p->objective.label_smoothing;
    const double z = beta * (x->chosen - x->rejected);
    const double w = joust_sigmoid(z), l = joust_sigmoid(-z);
    const double a = joust_log_sigmoid(z) - joust_log(1 - e);
    const double b = joust_log_sigmoid(-z) - joust_log(e);
    return of_difference(w * a + l * b, beta * w * l * (a - b));
}

static slopes nca_pair(const point *x)
{
    const double beta = x->p->beta, c = beta * x->chosen, r = beta * x->rejected;
    return (slopes){
        -joust_log_sigmoid(c) - 0.5 * joust_log_sigmoid(-c) - 0.5 * joust_log_sigmoid(-r),
        beta * (0.5 * joust_sigmoid(c) - joust_sigmoid(-c)), beta * 0.5 * joust_sigmoid(r)};
}

static slopes bco_pair(const point *x)
{
    const double beta = x->p->beta, c = beta * x->chosen, r = beta * x->rejected;
    return (slopes){-joust_log_sigmoid(c) - joust_log_sigmoid(-r), -beta * joust_sigmoid(-c),
                    beta * joust_sigmoid(r)};
}

static slopes sppo_hard(const point *x)
{
    const double half = 0.5 / x->p->beta, c = x->chosen - half, r = x->rejected + half;
    return (slopes){c * c + r * r, 2 * c, 2 * r};
}

/* By how much the probability that the chosen one wins is above 1/2. */
static double lead(const point *x)
{
    const double margin = x->p->objective.reward_scale * x->margin;
    if (!x->p->rewards_are_rates)
        return joust_sigmoid(margin) - 0.5;
    return 0.5 * (margin < -1 ? -1 : margin > 1 ? 1 : margin);
}

static slopes sppo_soft(const point *x)
{
    const double target = lead(x) / x->p->beta, c = x->chosen - target, r = x->rejected + target;
    return (slopes){c * c + r * r, 2 * c, 2 * r};
}

/* d sigmoid(z) / dz. */
static double bell(double z)
{
    return joust_sigmoid(z) * joust_sigmoid(-z);
}

static slopes apo_zero(const point *x)
{
    const double beta = x->p->beta, c = beta * x->chosen, r = beta * x->rejected;
    return (slopes){joust_sigmoid(-c) + joust_sigmoid(r), -beta * bell(c), beta * bell(r)};
}

static slopes apo_down(const point *x)
{
    const double beta = x->p->beta, c = beta * x->chosen;
    const double z = beta * (x->chosen - x->rejected);
    return (slopes){joust_sigmoid(c) + joust_sigmoid(-z), beta * (bell(c) - bell(z)),
                    beta * bell(z)};
}

static slopes discopop(const point *x)
{
    const double beta = x->p->beta, tau = x->p->objective.discopop_tau;
    const double z = beta * (x->chosen - x->rejected), m = joust_sigmoid(z / tau);
    const double logistic = -joust_log_sigmoid(z), exponential = joust_exp(-z);
    const double d = -joust_sigmoid(-z) * (1 - m) - exponential * m +
                     (exponential - logistic) * bell(z / tau) / tau;
    return of_difference(logistic * (1 - m) + exponential * m, beta * d);
}

/* 1 - e^x for x < 0. */
static double complement(double x)
{
    return x > -1e-5 ? -x * (1 + x * (0.5 + x / 6)) : 1 - joust_exp(x);
}

/* Odds of mean probability; an answer that is certain counts as e^-1e-7. */
static slopes orpo(const point *x)
{
    const double c = x->chosen < -1e-7 ? x->chosen : -1e-7;
    const double r = x->rejected < -1e-7 ? x->rejected : -1e-7;
    const double odds = c - r - (joust_log(complement(c)) - joust_log(complement(r)));
    const double pull = x->p->beta * joust_sigmoid(-odds);
    return (slopes){-x->chosen - x->p->beta * joust_log_sigmoid(odds), -1 - pull / complement(c),
                    pull / complement(r)};
}

static slopes kto(const point *x)
{
    const double beta = x->p->beta, up = x->p->objective.desirable_weight,
                 down = x->p->objective.undesirable_weight;
    const double c = beta * (x->chosen - x->baseline), r = beta * (x->baseline - x->rejected);
    slopes y = {0};
    if (x->has_chosen) {
        y.loss += up * joust_sigmoid(-c);
        y.chosen = -up * beta * bell(c);
    }
    if (x->has_rejected) {
        y.loss += down * joust_sigmoid(-r);
        y.rejected = down * beta * bell(r);
    }
    return y;
}

/* Cross-entropy with the probability that the rewards give the preference. */
static slopes dno(const point *x)
{
    return smoothed(x->chosen, x->rejected, x->p->beta, 0,
                    joust_sigmoid(-x->p->objective.reward_scale * x->margin));
}

static slopes rebel(const point *x)
{
    const double off =
        x->p->beta * (x->chosen - x->rejected) - x->p->objective.reward_scale * x->margin;
    return of_difference(off * off, 2 * x->p->beta * off);
}

/* On scores: the probability of Bradley and Terry that the chosen one wins. */
static slopes bradley_terry(const point *x)
{
    return smoothed(x->chosen, x->rejected, 1, 0, 0);
}

static slopes bradley_terry_margin(const point *x)
{
    return smoothed(x->chosen, x->rejected, 1, -x->p->objective.reward_scale * x->margin, 0);
}

static slopes margin(const point *x)
{
    const double left = x->p->objective.reward_scale * x->margin - (x->chosen - x->rejected);
    return left > 0 ? of_difference(left, -1) : of_difference(0, 0);
}

static link_fn *const LINKS[JOUST_N_LOSSES] = {[JOUST_LOSS_DPO] = dpo,
                                               [JOUST_LOSS_HINGE] = hinge,
                                               [JOUST_LOSS_IPO] = ipo,
                                               [JOUST_LOSS_ROBUST] = robust,
                                               [JOUST_LOSS_EXO_PAIR] = exo_pair,
                                               [JOUST_LOSS_NCA_PAIR] = nca_pair,
                                               [JOUST_LOSS_BCO_PAIR] = bco_pair,
                                               [JOUST_LOSS_SPPO_HARD] = sppo_hard,
                                               [JOUST_LOSS_APO_ZERO] = apo_zero,
                                               [JOUST_LOSS_APO_DOWN] = apo_down,
                                               [JOUST_LOSS_DISCOPOP] = discopop,
                                               [JOUST_LOSS_SIGMOID_NORM] = dpo,
                                               [JOUST_LOSS_SIMPO] = simpo,
                                               [JOUST_LOSS_ORPO] = orpo,
                                               [JOUST_LOSS_KTO] = kto,
                                               [JOUST_LOSS_DNO] = dno,
                                               [JOUST_LOSS_REBEL] = rebel,
                                               [JOUST_LOSS_BRADLEY_TERRY] = bradley_terry,
                                               [JOUST_LOSS_MARGIN] = margin,
                                               [JOUST_LOSS_BRADLEY_TERRY_MARGIN] =
                                                   bradley_terry_margin,
                                               [JOUST_LOSS_SPPO_SOFT] = sppo_soft};

/* sft of a mix: TRL's, the mean over all chosen tokens of the step. */
static void add_sft(double weight, const joust_pair_logps *pair, joust_pair_slopes *to)
{
    to->loss += weight * -pair->plain_chosen * pair->sft_mean;
    to->plain_chosen -= weight * pair->sft_mean;
}

static point point_of(const joust_train_settings *p, const joust_loss_traits *traits,
                      const joust_pair_logps *pair, double ret_scale[2])
{
    const bool plain = traits->reference_free || p->no_reference;
    ret_scale[0] = traits->per_token && pair->n_chosen ? pair->n_chosen : 1;
    ret_scale[1] = traits->per_token && pair->n_rejected ? pair->n_rejected : 1;
    return (point){.p = p,
                   .chosen = (pair->chosen - (plain ? 0 : pair->ref_chosen)) / ret_scale[0],
                   .rejected = (pair->rejected - (plain ? 0 : pair->ref_rejected)) / ret_scale[1],
                   .margin = pair->margin,
                   .baseline = pair->baseline,
                   .has_chosen = pair->n_chosen > 0,
                   .has_rejected = pair->n_rejected > 0};
}

joust_pair_slopes joust_pair_objective(const joust_train_settings *p, const joust_pair_logps *pair)
{
    joust_pair_slopes y = {0};
    for (uint32_t i = 1; i < JOUST_N_LOSSES; i++) {
        const joust_loss loss = (joust_loss)i;
        const double weight = joust_loss_weight(p->loss, &p->objective, loss);
        if (loss == JOUST_LOSS_SFT && weight != 0)
            add_sft(weight, pair, &y);
        if (!LINKS[i] || weight == 0)
            continue;
        double scale[2];
        const point x = point_of(p, joust_loss_traits_of(loss), pair, scale);
        const slopes s = LINKS[i](&x);
        y.loss += weight * s.loss;
        y.chosen += weight * s.chosen / scale[0];
        y.rejected += weight * s.rejected / scale[1];
        if (loss == p->loss) {
            const double beta = joust_loss_traits_of(loss)->of_scores ? 1 : p->beta;
            y.chosen_reward = beta * x.chosen;
            y.rejected_reward = beta * x.rejected;
        }
    }
    if (p->sft_weight != 0 && pair->n_chosen) {
        y.loss -= p->sft_weight * pair->plain_chosen / pair->n_chosen;
        y.plain_chosen -= p->sft_weight / pair->n_chosen;
    }
    return y;
}
