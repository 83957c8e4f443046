/* Settings of sampling and training: plain terms that the engine, the records and the job file share.
 * Numbers of enumerations are stored: never renumber. */
#ifndef JOUST_PROTO_BASE_SETTINGS_H
#define JOUST_PROTO_BASE_SETTINGS_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"

/* How tokens are drawn. temperature 0 = greedy, ties to the lowest token id. */
typedef struct joust_sampling {
    float temperature, top_p, min_p; /* top_p 1 and min_p 0: off */
    uint32_t top_k;                  /* 0: off */
    uint32_t max_tokens;
    uint32_t min_tokens;      /* no end before so many response tokens; 0: off */
    float repetition_penalty; /* over tokens of prompt and response; 0: off, as is 1 */
    uint64_t
        stop; /* which stop strings: joust_stop_strings_id; 0: none. The engine doesn't look at it */
} joust_sampling;

typedef enum joust_finish {
    JOUST_FINISH_STOP = 1,   /* an end token, which is the last of tokens */
    JOUST_FINISH_LENGTH = 2, /* max_tokens or the model's context reached */
    JOUST_FINISH_STOP_STRING = 3,
    JOUST_FINISH_ABORTED = 4
} joust_finish;

/* What training minimises; formulas in worker/engine/KERNELS.md. Names are TRL's where it has the loss. */
typedef enum joust_loss {
    JOUST_LOSS_DPO = 1,
    JOUST_LOSS_SFT = 2,
    JOUST_LOSS_HINGE = 3,
    JOUST_LOSS_IPO = 4,
    JOUST_LOSS_ROBUST = 5,
    JOUST_LOSS_EXO_PAIR = 6,
    JOUST_LOSS_NCA_PAIR = 7,
    JOUST_LOSS_BCO_PAIR = 8,
    JOUST_LOSS_SPPO_HARD = 9,
    JOUST_LOSS_APO_ZERO = 10,
    JOUST_LOSS_APO_DOWN = 11,
    JOUST_LOSS_DISCOPOP = 12,
    JOUST_LOSS_SIGMOID_NORM = 13,
    JOUST_LOSS_SIMPO = 14,
    JOUST_LOSS_ORPO = 15,
    JOUST_LOSS_KTO = 16,
    JOUST_LOSS_DNO = 17,
    JOUST_LOSS_REBEL = 18,
    JOUST_LOSS_POLICY = 19, /* policy gradients, by joust_policy_settings */
    /* of a scalar head */
    JOUST_LOSS_BRADLEY_TERRY = 20,
    JOUST_LOSS_BRADLEY_TERRY_MARGIN = 21,
    JOUST_LOSS_MARGIN = 22,
    JOUST_LOSS_VALUE = 23, /* of every token, by joust_policy_settings.value_clip */
    JOUST_LOSS_SPPO_SOFT = 24, /* on pairs */
    /* What a job calls by name: settings of JOUST_LOSS_POLICY, which is what the engine gets. */
    JOUST_LOSS_REINFORCE = 40,
    JOUST_LOSS_RLOO = 41,
    JOUST_LOSS_GRPO = 42,
    JOUST_LOSS_DR_GRPO = 43,
    JOUST_LOSS_DAPO = 44,
    JOUST_LOSS_GSPO = 45,
    JOUST_LOSS_CISPO = 46,
    JOUST_LOSS_PPO = 47, /* with a critic, which JOUST_LOSS_VALUE trains beside it */
    JOUST_LOSS_RWR = 48
} joust_loss;
#define JOUST_N_LOSSES 25u /* one more than the last that the engine knows */

typedef enum joust_schedule {
    JOUST_SCHEDULE_CONSTANT = 1,
    JOUST_SCHEDULE_LINEAR = 2,
    JOUST_SCHEDULE_COSINE = 3
} joust_schedule;

/* What only some losses take; the neutral value changes nothing. */
typedef struct joust_objective {
    double label_smoothing;                      /* share of flipped labels; 0 */
    double gamma;                                /* SimPO's target margin; 0.5 */
    double ld_alpha;                             /* weight of tokens beyond the shorter answer; 1 */
    double desirable_weight, undesirable_weight; /* KTO; 1 */
    double discopop_tau;                         /* 0.05 */
    double reward_scale;           /* DNO, REBEL, SPPO: target = this times the pair's margin; 1 */
    double mix[JOUST_N_LOSSES];    /* weight of each loss; `loss` itself: 1 where 0 */
    uint32_t reference_sync_steps; /* the reference moves after every so many steps; 0: never */
    double reference_mixup;        /* by this share of the way to the policy; 0.6 */
} joust_objective;

typedef enum joust_surrogate {
    JOUST_SURROGATE_CLIPPED =
        1, /* PPO, GRPO: the lesser of ratio and clipped ratio times advantage */
    JOUST_SURROGATE_TRUNCATED =
        2, /* CISPO: a constant min(ratio, 1 + epsilon_high) times advantage times logp */
    JOUST_SURROGATE_PLAIN = 3 /* REINFORCE, RLOO: advantage times logp */
} joust_surrogate;
typedef enum joust_importance {
    JOUST_IMPORTANCE_TOKEN = 1,
    JOUST_IMPORTANCE_SEQUENCE = 2 /* GSPO: e^(mean log-ratio) for each token of the answer */
} joust_importance;
typedef enum joust_aggregation {
    JOUST_AGGREGATE_ROWS = 1,    /* GRPO: mean over answers of their tokens' mean */
    JOUST_AGGREGATE_TOKENS = 2,  /* DAPO: mean over the step's tokens */
    JOUST_AGGREGATE_CONSTANT = 3 /* Dr. GRPO: sum / (answers * max_tokens) */
} joust_aggregation;
typedef enum joust_kl { JOUST_KL_K1 = 1, JOUST_KL_K2 = 2, JOUST_KL_K3 = 3 } joust_kl;
typedef enum joust_advantage {
    JOUST_ADVANTAGE_CENTRED = 1,       /* reward - mean of the group */
    JOUST_ADVANTAGE_STANDARDISED = 2,  /* that / (deviation + 1e-4) */
    JOUST_ADVANTAGE_LEAVE_ONE_OUT = 3, /* reward - mean of the others */
    JOUST_ADVANTAGE_REWARD = 4, /* the reward itself: what PPO's critic makes advantages of */
    JOUST_ADVANTAGE_LABEL = 6, /* 1 where the reward is above a threshold, else -1: unpaired KTO */
    JOUST_ADVANTAGE_SHARE = 5 /* n e^(reward / beta) / the group's sum of that: reward-weighted SFT */
} joust_advantage;

typedef struct joust_policy_settings {
    joust_surrogate surrogate;
    joust_importance importance;
    joust_aggregation aggregation;
    double epsilon_low, epsilon_high; /* the ratio is clipped to 1 - low … 1 + high */
    double max_ratio;                 /* of a negative advantage's ratio; 0: none */
    joust_kl kl;
    double kl_weight, entropy_weight; /* 0: off */
    double sampler_cap;  /* of the weight of an external sampler's tokens; 0: no weights */
    uint32_t max_tokens; /* AGGREGATE_CONSTANT */
    double value_clip;   /* JOUST_LOSS_VALUE: how far a value may go from the old one; 0: no clip */
} joust_policy_settings;

/* What a policy loss's name says. */
typedef struct joust_policy_traits {
    const char *name;
    joust_surrogate surrogate;
    joust_importance importance;
    joust_aggregation aggregation;
    joust_advantage advantage; /* of a group's rewards */
} joust_policy_traits;
/* NULL for what is none of JOUST_LOSS_REINFORCE … JOUST_LOSS_RWR. */
const joust_policy_traits *joust_policy_traits_of(joust_loss loss);

/* How a loss reads a pair. Bits of joust_loss_traits.keys name what of joust_objective it takes. */
enum joust_objective_key {
    JOUST_TAKES_LABEL_SMOOTHING = 1,
    JOUST_TAKES_GAMMA = 2,
    JOUST_TAKES_KTO_WEIGHTS = 4,
    JOUST_TAKES_DISCOPOP_TAU = 8,
    JOUST_TAKES_REWARD_SCALE = 16
};
typedef struct joust_loss_traits {
    const char *name;
    bool of_pairs;       /* not sft alone */
    bool of_scores;      /* of a scalar head's scores, not of log-probabilities */
    bool per_token;      /* log-ratios are divided by the number of response tokens */
    bool reference_free; /* log-probabilities stand for log-ratios */
    bool by_example;     /* each answer counts by itself, the mean is over answers */
    uint32_t keys;
} joust_loss_traits;

joust_objective joust_objective_neutral(void);
bool joust_objective_is_neutral(const joust_objective *objective);
/* NULL for a number that is no loss. */
const joust_loss_traits *joust_loss_traits_of(joust_loss loss);
/* Weight of a loss in the mix. */
double joust_loss_weight(joust_loss main, const joust_objective *objective, joust_loss loss);

/* Matrices of a layer that may have a low-rank adapter. Bits; stored: never renumber. */
enum joust_lora_target {
    JOUST_LORA_Q = 1,
    JOUST_LORA_K = 2,
    JOUST_LORA_V = 4,
    JOUST_LORA_O = 8,
    JOUST_LORA_GATE = 16,
    JOUST_LORA_UP = 32,
    JOUST_LORA_DOWN = 64
};
#define JOUST_LORA_ALL      127u
#define JOUST_LORA_MAX_RANK 1024u

/* LoRA (Hu et al. 2021): a matrix W of the targets stays, and s B A, of this rank, is trained beside it. */
typedef struct joust_lora_settings {
    uint32_t rank;
    uint32_t targets; /* bits of joust_lora_target */
    double alpha;     /* s = alpha / rank */
    bool rslora;      /* s = alpha / sqrt(rank) (Kalajdzievski 2023) */
} joust_lora_settings;

/* What a trainer needs to know; see worker/engine/train/train.h for the formulas. */
typedef struct joust_train_settings {
    joust_loss loss;
    double beta, sft_weight; /* of losses on pairs */
    bool no_reference;       /* the reference's log-probabilities are 0 */
    bool rewards_are_rates;  /* SPPO_SOFT: rewards are win rates, 0 to 1; else log-odds */
    joust_objective objective;
    joust_policy_settings policy;                  /* JOUST_LOSS_POLICY */
    double learning_rate, min_learning_rate_ratio; /* peak; final / peak */
    joust_schedule schedule;
    uint32_t warmup_steps, max_steps;
    double adam_beta1, adam_beta2, adam_eps, weight_decay;
    double clip;    /* of the gradient's norm; 0: off */
    bool recompute; /* activations for the backward pass; changes no bit */
} joust_train_settings;

/* Whether the losses take what they are given. *ret_key: the key's name in a job file. Errors: JOUST_INVALID. */
JOUST_MUST_USE joust_status joust_objective_check(const joust_train_settings *settings,
                                                  const char **ret_key, joust_error *err);
/* Ranges and targets. *ret_key: the key's name in a job file. Errors: JOUST_INVALID. */
JOUST_MUST_USE joust_status joust_lora_check(const joust_lora_settings *settings,
                                             const char **ret_key, joust_error *err);
/* Whether the reference is needed at every step, not only before the first. */
bool joust_needs_live_reference(const joust_train_settings *settings);

#endif
