#include "proto/base/settings.h"

#include <math.h> /* isfinite */
#include <stddef.h>
#include <stdio.h>

static const joust_loss_traits TRAITS[JOUST_N_LOSSES] = {
    [JOUST_LOSS_DPO] = {"dpo", .of_pairs = true, .keys = JOUST_TAKES_LABEL_SMOOTHING},
    [JOUST_LOSS_SFT] = {"sft", .per_token = true, .reference_free = true},
    [JOUST_LOSS_HINGE] = {"hinge", .of_pairs = true},
    [JOUST_LOSS_IPO] = {"ipo", .of_pairs = true, .per_token = true},
    [JOUST_LOSS_ROBUST] = {"robust", .of_pairs = true, .keys = JOUST_TAKES_LABEL_SMOOTHING},
    [JOUST_LOSS_EXO_PAIR] = {"exo_pair", .of_pairs = true, .keys = JOUST_TAKES_LABEL_SMOOTHING},
    [JOUST_LOSS_NCA_PAIR] = {"nca_pair", .of_pairs = true},
    [JOUST_LOSS_BCO_PAIR] = {"bco_pair", .of_pairs = true},
    [JOUST_LOSS_SPPO_HARD] = {"sppo_hard", .of_pairs = true},
    [JOUST_LOSS_APO_ZERO] = {"apo_zero", .of_pairs = true},
    [JOUST_LOSS_APO_DOWN] = {"apo_down", .of_pairs = true},
    [JOUST_LOSS_DISCOPOP] = {"discopop", .of_pairs = true, .keys = JOUST_TAKES_DISCOPOP_TAU},
    [JOUST_LOSS_SIGMOID_NORM] = {"sigmoid_norm", .of_pairs = true, .per_token = true},
    [JOUST_LOSS_SIMPO] = {"simpo", .of_pairs = true, .per_token = true, .reference_free = true,
                          .keys = JOUST_TAKES_LABEL_SMOOTHING | JOUST_TAKES_GAMMA},
    [JOUST_LOSS_ORPO] = {"orpo", .of_pairs = true, .per_token = true, .reference_free = true},
    [JOUST_LOSS_KTO] = {"kto", .of_pairs = true, .by_example = true,
                        .keys = JOUST_TAKES_KTO_WEIGHTS},
    [JOUST_LOSS_DNO] = {"dno", .of_pairs = true, .keys = JOUST_TAKES_REWARD_SCALE},
    [JOUST_LOSS_REBEL] = {"rebel", .of_pairs = true, .keys = JOUST_TAKES_REWARD_SCALE},
    [JOUST_LOSS_POLICY] = {"policy"},
    [JOUST_LOSS_BRADLEY_TERRY] = {"bradley_terry", .of_pairs = true, .of_scores = true,
                                  .reference_free = true},
    [JOUST_LOSS_BRADLEY_TERRY_MARGIN] = {"bradley_terry_margin", .of_pairs = true,
                                         .of_scores = true, .reference_free = true,
                                         .keys = JOUST_TAKES_REWARD_SCALE},
    [JOUST_LOSS_MARGIN] = {"margin", .of_pairs = true, .of_scores = true, .reference_free = true,
                           .keys = JOUST_TAKES_REWARD_SCALE},
    [JOUST_LOSS_VALUE] = {"value", .of_scores = true, .reference_free = true},
    [JOUST_LOSS_SPPO_SOFT] = {"sppo_soft", .of_pairs = true, .keys = JOUST_TAKES_REWARD_SCALE},
};

static const joust_policy_traits POLICIES[] = {
    {"reinforce", JOUST_SURROGATE_PLAIN, JOUST_IMPORTANCE_TOKEN, JOUST_AGGREGATE_ROWS,
     JOUST_ADVANTAGE_CENTRED},
    {"rloo", JOUST_SURROGATE_PLAIN, JOUST_IMPORTANCE_TOKEN, JOUST_AGGREGATE_ROWS,
     JOUST_ADVANTAGE_LEAVE_ONE_OUT},
    {"grpo", JOUST_SURROGATE_CLIPPED, JOUST_IMPORTANCE_TOKEN, JOUST_AGGREGATE_ROWS,
     JOUST_ADVANTAGE_STANDARDISED},
    {"dr_grpo", JOUST_SURROGATE_CLIPPED, JOUST_IMPORTANCE_TOKEN, JOUST_AGGREGATE_CONSTANT,
     JOUST_ADVANTAGE_CENTRED},
    {"dapo", JOUST_SURROGATE_CLIPPED, JOUST_IMPORTANCE_TOKEN, JOUST_AGGREGATE_TOKENS,
     JOUST_ADVANTAGE_STANDARDISED},
    {"gspo", JOUST_SURROGATE_CLIPPED, JOUST_IMPORTANCE_SEQUENCE, JOUST_AGGREGATE_ROWS,
     JOUST_ADVANTAGE_STANDARDISED},
    {"cispo", JOUST_SURROGATE_TRUNCATED, JOUST_IMPORTANCE_TOKEN, JOUST_AGGREGATE_TOKENS,
     JOUST_ADVANTAGE_STANDARDISED},
    {"ppo", JOUST_SURROGATE_CLIPPED, JOUST_IMPORTANCE_TOKEN, JOUST_AGGREGATE_TOKENS,
     JOUST_ADVANTAGE_REWARD},
    {"rwr", JOUST_SURROGATE_PLAIN, JOUST_IMPORTANCE_TOKEN, JOUST_AGGREGATE_ROWS,
     JOUST_ADVANTAGE_SHARE},
};

const joust_policy_traits *joust_policy_traits_of(joust_loss loss)
{
    bool named = loss >= JOUST_LOSS_REINFORCE && loss <= JOUST_LOSS_RWR;
    return named ? &POLICIES[loss - JOUST_LOSS_REINFORCE] : NULL;
}

joust_objective joust_objective_neutral(void)
{
    return (joust_objective){.gamma = 0.5,
                             .ld_alpha = 1,
                             .desirable_weight = 1,
                             .undesirable_weight = 1,
                             .discopop_tau = 0.05,
                             .reward_scale = 1,
                             .reference_mixup = 0.6};
}

static bool same(double a, double b)
{
    return a == b;
}

bool joust_objective_is_neutral(const joust_objective *o)
{
    const joust_objective neutral = joust_objective_neutral();
    for (uint32_t i = 0; i < JOUST_N_LOSSES; i++)
        if (o->mix[i] != 0)
            return false;
    return same(o->label_smoothing, neutral.label_smoothing) && same(o->gamma, neutral.gamma) &&
           same(o->ld_alpha, neutral.ld_alpha) &&
           same(o->desirable_weight, neutral.desirable_weight) &&
           same(o->undesirable_weight, neutral.undesirable_weight) &&
           same(o->discopop_tau, neutral.discopop_tau) &&
           same(o->reward_scale, neutral.reward_scale) && o->reference_sync_steps == 0 &&
           same(o->reference_mixup, neutral.reference_mixup);
}

const joust_loss_traits *joust_loss_traits_of(joust_loss loss)
{
    return (uint32_t)loss < JOUST_N_LOSSES && TRAITS[loss].name ? &TRAITS[loss] : NULL;
}

double joust_loss_weight(joust_loss main, const joust_objective *objective, joust_loss loss)
{
    return objective->mix[loss] == 0 && loss == main ? 1 : objective->mix[loss];
}

bool joust_needs_live_reference(const joust_train_settings *s)
{
    return s->objective.reference_sync_steps > 0 ||
           joust_loss_weight(s->loss, &s->objective, JOUST_LOSS_KTO) > 0;
}

/* The keys of all losses in the mix, or'ed; whether any of them compares with a reference. */
static uint32_t keys_of(const joust_train_settings *s, bool *ret_reference)
{
    uint32_t keys = 0;
    *ret_reference = false;
    for (uint32_t i = 1; i < JOUST_N_LOSSES; i++)
        if (joust_loss_weight(s->loss, &s->objective, (joust_loss)i) != 0) {
            keys |= TRAITS[i].keys;
            *ret_reference = *ret_reference || !TRAITS[i].reference_free;
        }
    return keys;
}

/* Numbers within their ranges, and none given that no loss takes. */
static joust_status numbers_check(const joust_train_settings *s, uint32_t keys, bool of_pairs,
                                  const char *loss, const char **ret_key, joust_error *err)
{
    const joust_objective *o = &s->objective, neutral = joust_objective_neutral();
    const struct {
        const char *name;
        double value, neutral, low, high;
        uint32_t key; /* that a loss in use must take; 0: any loss on pairs */
    } numbers[] = {
        {"label_smoothing", o->label_smoothing, neutral.label_smoothing, 0, 0.5,
         JOUST_TAKES_LABEL_SMOOTHING},
        {"gamma", o->gamma, neutral.gamma, 0, 1e6, JOUST_TAKES_GAMMA},
        {"ld_alpha", o->ld_alpha, neutral.ld_alpha, 0, 1, 0},
        {"desirable_weight", o->desirable_weight, neutral.desirable_weight, 0, 1e6,
         JOUST_TAKES_KTO_WEIGHTS},
        {"undesirable_weight", o->undesirable_weight, neutral.undesirable_weight, 0, 1e6,
         JOUST_TAKES_KTO_WEIGHTS},
        {"discopop_tau", o->discopop_tau, neutral.discopop_tau, 1e-9, 1e6,
         JOUST_TAKES_DISCOPOP_TAU},
        {"reward_scale", o->reward_scale, neutral.reward_scale, 0, 1e6, JOUST_TAKES_REWARD_SCALE},
        {"reference_mixup", o->reference_mixup, neutral.reference_mixup, 0, 1, 0},
    };
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
        *ret_key = numbers[i].name;
        if (!(numbers[i].value >= numbers[i].low && numbers[i].value <= numbers[i].high))
            return joust_fail(err, JOUST_INVALID, "is %g, expected %g to %g", numbers[i].value,
                              numbers[i].low, numbers[i].high);
        bool taken = numbers[i].key ? (keys & numbers[i].key) != 0 : of_pairs;
        if (!taken && !same(numbers[i].value, numbers[i].neutral))
            return joust_fail(err, JOUST_INVALID, "has no effect on %s; leave it out", loss);
    }
    *ret_key = "label_smoothing";
    if (o->label_smoothing >= 0.5)
        return joust_fail(err, JOUST_INVALID, "must be below 0.5");
    if (joust_loss_weight(s->loss, o, JOUST_LOSS_EXO_PAIR) > 0 && o->label_smoothing == 0)
        return joust_fail(err, JOUST_INVALID, "exo_pair needs one above 0");
    return JOUST_OK;
}

static joust_status mix_check(const joust_train_settings *s, bool of_pairs, joust_error *err)
{
    const double *mix = s->objective.mix;
    double others = 0, total = 0; /* others: of what counts pairs */
    for (uint32_t i = 0; i < JOUST_N_LOSSES; i++) {
        if (!(mix[i] >= 0 && mix[i] <= 1e6))
            return joust_fail(err, JOUST_INVALID, "a weight is %g, expected 0 to 1e6", mix[i]);
        total += mix[i];
        if (mix[i] > 0 && TRAITS[i].of_scores)
            return joust_fail(err, JOUST_INVALID, "%s is of a scalar head: it can't be mixed",
                              TRAITS[i].name);
        others += i == JOUST_LOSS_KTO ? 0 : mix[i];
    }
    if (total > 0 && !of_pairs)
        return joust_fail(err, JOUST_INVALID, "is of losses on pairs; sft stands alone");
    if (total > 0 && TRAITS[s->loss].of_scores)
        return joust_fail(err, JOUST_INVALID, "%s is of a scalar head: it can't be mixed",
                          TRAITS[s->loss].name);
    if (s->loss == JOUST_LOSS_KTO ? others > 0 : mix[JOUST_LOSS_KTO] > 0)
        return joust_fail(err, JOUST_INVALID, "kto counts answers, not pairs: it can't be mixed");
    return JOUST_OK;
}

joust_status joust_objective_check(const joust_train_settings *s, const char **ret_key,
                                   joust_error *err)
{
    const joust_loss_traits *traits = joust_loss_traits_of(s->loss);
    *ret_key = "loss";
    if (!traits)
        return joust_fail(err, JOUST_INVALID, "unknown loss %d", (int)s->loss);
    bool of_reference;
    const uint32_t keys = keys_of(s, &of_reference);
    char loss[64] = "a policy loss";
    if (s->loss != JOUST_LOSS_POLICY)
        snprintf(loss, sizeof(loss), "the loss %s", traits->name);
    joust_status st =
        numbers_check(s, keys, traits->of_pairs && !traits->of_scores, loss, ret_key, err);
    if (st)
        return st;
    *ret_key = "mix";
    st = mix_check(s, traits->of_pairs, err);
    if (st)
        return st;
    *ret_key = "sft_weight";
    if (traits->of_scores && s->sft_weight != 0)
        return joust_fail(err, JOUST_INVALID, "has no effect on %s; leave it out", loss);
    *ret_key = "reference";
    if (s->no_reference && s->loss == JOUST_LOSS_KTO)
        return joust_fail(err, JOUST_INVALID, "kto needs a reference");
    *ret_key = "reference_sync_steps";
    if (s->objective.reference_sync_steps > 0 &&
        (s->no_reference || !of_reference || !traits->of_pairs))
        return joust_fail(err, JOUST_INVALID, "has no effect: %s has no reference here", loss);
    *ret_key = "";
    return JOUST_OK;
}

joust_status joust_lora_check(const joust_lora_settings *s, const char **ret_key, joust_error *err)
{
    *ret_key = "rank";
    if (s->rank == 0 || s->rank > JOUST_LORA_MAX_RANK)
        return joust_fail(err, JOUST_INVALID, "must be from 1 to %u, not %u", JOUST_LORA_MAX_RANK,
                          s->rank);
    *ret_key = "targets";
    if (s->targets == 0 || s->targets > JOUST_LORA_ALL)
        return joust_fail(err, JOUST_INVALID,
                          "name at least one of q_proj, k_proj, v_proj, o_proj, gate_proj, "
                          "up_proj, down_proj");
    *ret_key = "alpha";
    if (!(s->alpha > 0) || !isfinite(s->alpha))
        return joust_fail(err, JOUST_INVALID, "must be a number above 0");
    return JOUST_OK;
}
