/* The table of keys itself: data, and nothing else. */
#include "ops/job_keys.h"

#include <math.h>
#include <stddef.h>

#define COUNT(array) ((uint32_t)(sizeof(array) / sizeof((array)[0])))
#define KEYS(array)  .keys = array, .n_keys = COUNT(array)

/* Shorthand of the tables below: AT(member of the section's struct). */
#define JOB(member)   offsetof(joust_job_draft, job.member)
#define DRAFT(member) offsetof(joust_job_draft, member)

static const joust_choice ORDERS[] = {
    {"file", JOUST_ORDER_FILE, false}, {"shuffle", JOUST_ORDER_SHUFFLE, false}, {NULL, 0, false}};
static const joust_choice JUDGE_KINDS[] = {{"yes-no", JOUST_JUDGE_YES_NO, false},
                                           {"compare", JOUST_JUDGE_COMPARE, false},
                                           {"rule", JOUST_JUDGE_RULE, false},
                                           {"random", JOUST_JUDGE_RANDOM, false},
                                           {NULL, 0, false}};
static const joust_choice RULES[] = {{"final-number", JOUST_RULE_FINAL_NUMBER, false},
                                     {"steps-and-number", JOUST_RULE_STEPS_AND_NUMBER, false},
                                     {"exact", JOUST_RULE_EXACT, false},
                                     {"regex", JOUST_RULE_REGEX, false},
                                     {NULL, 0, false}};
static const joust_choice ROLES[] = {{"reward", JOUST_ROLE_REWARD, false},
                                     {"evaluate", JOUST_ROLE_EVALUATE, false},
                                     {NULL, 0, false}};
static const joust_choice PICKS[] = {{"round-start", JOUST_PICK_ROUND_START, false},
                                     {"latest", JOUST_PICK_LATEST, false},
                                     {"initial", JOUST_PICK_INITIAL, false},
                                     {NULL, 0, false}};
static const joust_choice REFERENCES[] = {{"round-start", JOUST_PICK_ROUND_START, false},
                                          {"initial", JOUST_PICK_INITIAL, false},
                                          {NULL, 0, false}};
static const joust_choice COMBINES[] = {{"mean", JOUST_COMBINE_MEAN, false},
                                        {"min", JOUST_COMBINE_MIN, false},
                                        {"max", JOUST_COMBINE_MAX, false},
                                        {NULL, 0, false}};
static const joust_choice SHAPINGS[] = {{"none", 0, false}, {NULL, 0, false}};
static const joust_choice LOSSES[] = {{"dpo", JOUST_LOSS_DPO, false},
                                      {"sft", JOUST_LOSS_SFT, false},
                                      {"sigmoid", JOUST_LOSS_DPO, true},
                                      {NULL, 0, false}};
static const joust_choice SCHEDULES[] = {{"constant", JOUST_SCHEDULE_CONSTANT, false},
                                         {"linear", JOUST_SCHEDULE_LINEAR, false},
                                         {"cosine", JOUST_SCHEDULE_COSINE, false},
                                         {NULL, 0, false}};
static const joust_choice GATES[] = {{"best", 1, false}, {"nothing", 0, false}, {NULL, 0, false}};
static const joust_choice AGAINST[] = {{"base", JOUST_AGAINST_BASE, false},
                                       {"previous", JOUST_AGAINST_PREVIOUS, false},
                                       {NULL, 0, false}};
static const joust_choice DEVICES[] = {{"auto", 0, false}, {"cpu", 1, false}, {NULL, 0, false}};

#define AT(member) offsetof(joust_job_model, member)
static const joust_key MODEL_KEYS[] = {
    {.name = "path",
     .kind = JOUST_KEY_FOLDER,
     .offset = AT(path),
     .required = true,
     .help = "folder with config.json, model.safetensors and tokenizer.json"},
    {.name = "init",
     .kind = JOUST_KEY_U64,
     .offset = AT(init_seed),
     .present = AT(init),
     .help = "draw the weights from this seed; the folder then has no model.safetensors"},
};
#undef AT
static const joust_section MODEL = {.name = "models",
                                    KEYS(MODEL_KEYS),
                                    .size = sizeof(joust_job_model),
                                    .name_offset = offsetof(joust_job_model, name)};

#define AT(member) offsetof(joust_job_set, member)
static const joust_key PROMPTS_KEYS[] = {
    {.name = "file",
     .kind = JOUST_KEY_FILE,
     .offset = AT(path),
     .required = true,
     .help = "JSONL: prompt, optional reference, id, weight"},
    {.name = "per_round",
     .kind = JOUST_KEY_U32,
     .offset = AT(per_round),
     .low = 0,
     .high = 1e9,
     .help = "prompts a round, walking through the file; 0: all of them, every round"},
    {.name = "order",
     .kind = JOUST_KEY_CHOICE,
     .offset = AT(order),
     .choices = ORDERS,
     .help = "as in the file, or one permutation a pass drawn from the seed"},
};
#undef AT
static const joust_section PROMPTS = {.name = "prompts", KEYS(PROMPTS_KEYS)};

#define AT(member) offsetof(joust_job_rollout, member)
static const joust_key ROLLOUT_KEYS[] = {
    {.name = "samples",
     .kind = JOUST_KEY_U32,
     .offset = AT(samples),
     .low = 1,
     .high = JOUST_MAX_GROUP,
     .help = "answers a prompt: the size of a group"},
    {.name = "temperature",
     .kind = JOUST_KEY_FLOAT,
     .offset = AT(sampling.temperature),
     .low = 0,
     .high = 100,
     .help = "0: greedy, ties to the lowest token id"},
    {.name = "top_p",
     .kind = JOUST_KEY_FLOAT,
     .offset = AT(sampling.top_p),
     .low = 0,
     .high = 1,
     .low_open = true,
     .help = "least probable tokens beyond this share are cut; 1: off"},
    {.name = "min_p",
     .kind = JOUST_KEY_FLOAT,
     .offset = AT(sampling.min_p),
     .low = 0,
     .high = 1,
     .help = "tokens below this share of the likeliest are cut; 0: off"},
    {.name = "top_k",
     .kind = JOUST_KEY_U32,
     .offset = AT(sampling.top_k),
     .low = 0,
     .high = UINT32_MAX,
     .help = "tokens kept at most; 0: off"},
    {.name = "max_tokens",
     .kind = JOUST_KEY_U32,
     .offset = AT(sampling.max_tokens),
     .low = 1,
     .high = JOUST_MAX_TOKENS,
     .help = "response tokens at most"},
    {.name = "template",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(template_text),
     .help = "how a prompt becomes tokens; {prompt} is the slot"},
};
#undef AT
static const joust_section ROLLOUT = {.name = "rollout", KEYS(ROLLOUT_KEYS)};

#define AT(member) offsetof(joust_job_judge, member)
static const joust_key JUDGE_KEYS[] = {
    {.name = "name",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(name),
     .required = true,
     .help = "how other keys and the tables call it"},
    {.name = "kind",
     .kind = JOUST_KEY_CHOICE,
     .offset = AT(kind),
     .choices = JUDGE_KINDS,
     .required = true,
     .help = "and its values: yes-no: log p(yes) - log p(no), in nats; compare: share of "
             "comparisons won, 0 to 1; rule: 1 or 0; random: a control"},
    {.name = "model",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(model),
     .help = "yes-no, compare: a name under models:"},
    {.name = "version",
     .kind = JOUST_KEY_CHOICE,
     .offset = AT(version),
     .choices = PICKS,
     .help = "which version of the model judges; round-start by default"},
    {.name = "rule",
     .kind = JOUST_KEY_CHOICE,
     .offset = AT(rule),
     .choices = RULES,
     .help =
         "what must equal the reference's: final-number: the last number, behind #### if there is "
         "one; steps-and-number: every a+b=c too; exact: the text; regex: pattern matches"},
    {.name = "pattern",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(pattern),
     .help = "rule regex: a PCRE2 pattern, to be found anywhere in the answer"},
    {.name = "template",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(template_text),
     .help = "yes-no: {prompt_tokens}{response_tokens}<eos><judge> by default; compare: of "
             "{prompt}, {first}, {second}"},
    {.name = "labels",
     .kind = JOUST_KEY_TEXTS,
     .offset = AT(labels),
     .count_offset = AT(n_labels),
     .max_items = JOUST_MAX_LABELS,
     .help =
         "tokens; yes-no: [yes, no] by default; compare: [first, second] or [first, second, tie]"},
    {.name = "both_orders",
     .kind = JOUST_KEY_BOOL,
     .offset = AT(both_orders),
     .help = "compare: ask in both orders and average; true by default"},
    {.name = "role",
     .kind = JOUST_KEY_CHOICE,
     .offset = AT(role),
     .choices = ROLES,
     .help = "reward (default): its verdicts make pairs; evaluate: it only measures"},
};
#undef AT

static void set_judge_defaults(void *element)
{
    joust_job_judge *judge = element;
    judge->role = JOUST_ROLE_REWARD;
    judge->version = JOUST_PICK_ROUND_START;
    judge->both_orders = true;
}

static const joust_section JUDGE = {.name = "judges",
                                    KEYS(JUDGE_KEYS),
                                    .size = sizeof(joust_job_judge),
                                    .set_defaults = set_judge_defaults};

static const joust_key REWARDS_KEYS[] = {
    {.name = "combine",
     .kind = JOUST_KEY_CHOICE,
     .offset = JOB(combine),
     .choices = COMBINES,
     .help = "of several reward judges"},
    {.name = "shaping",
     .kind = JOUST_KEY_CHOICE,
     .offset = DRAFT(shaping),
     .choices = SHAPINGS,
     .help = "what changes a reward before pairs are built"},
};
static const joust_section REWARDS = {.name = "rewards", KEYS(REWARDS_KEYS)};

static const joust_choice BUILDS[] = {{"best-worst", 1, false}, {NULL, 0, false}};
#define AT(member) offsetof(joust_job_pairs, member)
static const joust_key PAIRS_KEYS[] = {
    {.name = "build",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(build),
     .choices = BUILDS,
     .help = "best-worst: the highest reward of a group against the lowest"},
    {.name = "min_chosen",
     .kind = JOUST_KEY_DOUBLE,
     .offset = AT(min_chosen),
     .help = "least reward of a chosen answer, in the units of the judge; absent: any"},
    {.name = "max_rejected",
     .kind = JOUST_KEY_DOUBLE,
     .offset = AT(max_rejected),
     .help = "greatest reward of a rejected answer; absent: any"},
    {.name = "min_margin",
     .kind = JOUST_KEY_DOUBLE,
     .offset = AT(min_margin),
     .low = 0,
     .high = HUGE_VAL,
     .help = "the rewards must differ by more"},
    {.name = "rejected_model",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(rejected_model),
     .help = "the rejected answer comes from this model's samples instead"},
    {.name = "rejected_version",
     .kind = JOUST_KEY_CHOICE,
     .offset = AT(rejected_version),
     .choices = PICKS,
     .help = "which version of rejected_model"},
};
#undef AT
static const joust_section PAIRS = {.name = "pairs", KEYS(PAIRS_KEYS)};

#define AT(member) offsetof(joust_job_train, member)
static const joust_key TRAIN_KEYS[] = {
    {.name = "loss",
     .kind = JOUST_KEY_CHOICE,
     .offset = AT(loss),
     .choices = LOSSES,
     .help = "dpo: on the round's pairs; sft: on the rows of data"},
    {.name = "model",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(model),
     .help = "name under models: that is trained"},
    {.name = "data",
     .kind = JOUST_KEY_FILE,
     .offset = AT(data),
     .help = "sft: JSONL of rows with targets and weights"},
    {.name = "data_order",
     .kind = JOUST_KEY_CHOICE,
     .offset = AT(data_order),
     .choices = ORDERS,
     .help = "order of the rows"},
    {.name = "beta",
     .kind = JOUST_KEY_DOUBLE,
     .offset = AT(beta),
     .low = 0,
     .high = 1000,
     .low_open = true,
     .help = "dpo: how strongly the reference holds"},
    {.name = "sft_weight",
     .kind = JOUST_KEY_DOUBLE,
     .offset = AT(sft_weight),
     .low = 0,
     .high = 1e6,
     .help = "dpo: weight of the mean token loss on the chosen answer"},
    {.name = "learning_rate",
     .kind = JOUST_KEY_DOUBLE,
     .offset = AT(learning_rate),
     .low = 0,
     .high = 10,
     .low_open = true,
     .help = "at its peak"},
    {.name = "min_learning_rate_ratio",
     .kind = JOUST_KEY_DOUBLE,
     .offset = AT(min_learning_rate_ratio),
     .low = 0,
     .high = 1,
     .help = "final rate / peak rate"},
    {.name = "schedule",
     .kind = JOUST_KEY_CHOICE,
     .offset = AT(schedule),
     .choices = SCHEDULES,
     .help = "from the peak to the final rate"},
    {.name = "warmup_steps",
     .kind = JOUST_KEY_U32,
     .offset = AT(warmup_steps),
     .low = 0,
     .high = 1e9,
     .help = "steps from 0 to the peak"},
    {.name = "batch_size",
     .kind = JOUST_KEY_U32,
     .offset = AT(batch_size),
     .low = 1,
     .high = 65536,
     .help = "pairs or rows a step"},
    {.name = "max_steps",
     .kind = JOUST_KEY_U32,
     .offset = AT(max_steps),
     .low = 1,
     .high = 1e9,
     .help = "optimiser steps of the stage"},
    {.name = "save_every",
     .kind = JOUST_KEY_U32,
     .offset = AT(save_every),
     .low = 0,
     .high = 1e9,
     .help = "durable training state every so many steps; 0: about every tenth of them"},
    {.name = "reference",
     .kind = JOUST_KEY_CHOICE,
     .offset = AT(reference),
     .choices = REFERENCES,
     .help = "dpo: the reference policy"},
    {.name = "adam_beta1",
     .kind = JOUST_KEY_DOUBLE,
     .offset = AT(adam_beta1),
     .low = 0,
     .high = 0.999999,
     .help = "AdamW"},
    {.name = "adam_beta2",
     .kind = JOUST_KEY_DOUBLE,
     .offset = AT(adam_beta2),
     .low = 0,
     .high = 0.99999999,
     .help = "AdamW"},
    {.name = "adam_eps",
     .kind = JOUST_KEY_DOUBLE,
     .offset = AT(adam_eps),
     .low = 0,
     .high = 1,
     .low_open = true,
     .help = "AdamW"},
    {.name = "weight_decay",
     .kind = JOUST_KEY_DOUBLE,
     .offset = AT(weight_decay),
     .low = 0,
     .high = 10,
     .help = "AdamW"},
    {.name = "clip",
     .kind = JOUST_KEY_DOUBLE,
     .offset = AT(clip),
     .low = 0,
     .high = 1e9,
     .help = "largest norm of a step's gradient; 0: off"},
};
#undef AT
static const joust_section TRAIN = {.name = "train", KEYS(TRAIN_KEYS)};

static const joust_key PROMOTE_KEYS[] = {
    {.name = "prompts",
     .kind = JOUST_KEY_FILE,
     .offset = DRAFT(promote_prompts),
     .required = true,
     .help = "validation prompts (JSONL)"},
    {.name = "judge",
     .kind = JOUST_KEY_TEXT,
     .offset = JOB(promote.judge),
     .required = true,
     .help = "name under judges: that measures"},
    {.name = "not_worse_than",
     .kind = JOUST_KEY_CHOICE,
     .offset = DRAFT(not_worse_than),
     .choices = GATES,
     .help = "best: a round worse than the best so far, beyond the interval, is not promoted"},
};
static const joust_section PROMOTE = {.name = "promote", KEYS(PROMOTE_KEYS)};

static const joust_key EVALUATE_KEYS[] = {
    {.name = "prompts",
     .kind = JOUST_KEY_FILE,
     .offset = DRAFT(evaluate_prompts),
     .required = true,
     .help = "test prompts (JSONL); nothing in a round looks at them"},
    {.name = "judge",
     .kind = JOUST_KEY_TEXT,
     .offset = JOB(evaluate.judge),
     .required = true,
     .help = "name under judges: that measures"},
    {.name = "judged_by",
     .kind = JOUST_KEY_TEXT,
     .offset = JOB(evaluate.judged_by),
     .help = "judge whose own accuracy on the sampled answers is measured"},
    {.name = "samples",
     .kind = JOUST_KEY_U32,
     .offset = JOB(evaluate.samples),
     .low = 0,
     .high = JOUST_MAX_GROUP,
     .help = "sampled answers a prompt beside the greedy one"},
    {.name = "temperature",
     .kind = JOUST_KEY_FLOAT,
     .offset = JOB(evaluate.sampling.temperature),
     .low = 0,
     .high = 100,
     .help = "of the sampled answers"},
    {.name = "max_tokens",
     .kind = JOUST_KEY_U32,
     .offset = JOB(evaluate.sampling.max_tokens),
     .low = 0,
     .high = JOUST_MAX_TOKENS,
     .help = "response tokens at most; 0: as in rollout"},
    {.name = "against",
     .kind = JOUST_KEY_CHOICES,
     .offset = DRAFT(against),
     .choices = AGAINST,
     .help = "whose answers the win rate is against"},
};
static const joust_section EVALUATE = {.name = "evaluate", KEYS(EVALUATE_KEYS)};

static const joust_key CLUSTER_KEYS[] = {
    {.name = "workers",
     .kind = JOUST_KEY_U32,
     .offset = JOB(cluster.workers),
     .low = 1,
     .high = 1024,
     .help = "processes that generate and train"},
    {.name = "judges",
     .kind = JOUST_KEY_U32,
     .offset = JOB(cluster.judges),
     .low = 0,
     .high = 1024,
     .help = "processes that judge"},
    {.name = "threads",
     .kind = JOUST_KEY_U32,
     .offset = JOB(cluster.threads),
     .low = 0,
     .high = 1024,
     .help = "threads a process; 0: cores / processes"},
    {.name = "device",
     .kind = JOUST_KEY_CHOICE,
     .offset = DRAFT(device),
     .choices = DEVICES,
     .help = "what the built-in engine computes on"},
    {.name = "heartbeat_ms",
     .kind = JOUST_KEY_U32,
     .offset = JOB(cluster.heartbeat_ms),
     .low = 10,
     .high = 3600000,
     .help = "a peer silent for several of them is given up"},
    {.name = "lease_ms",
     .kind = JOUST_KEY_U32,
     .offset = JOB(cluster.lease_ms),
     .low = 100,
     .high = 86400000,
     .help = "a lease without progress for so long is given to another peer"},
    {.name = "grace_ms",
     .kind = JOUST_KEY_U32,
     .offset = JOB(cluster.grace_ms),
     .low = 100,
     .high = 604800000,
     .help = "a worker without a coordinator for so long ends"},
};
static const joust_section CLUSTER = {.name = "cluster", KEYS(CLUSTER_KEYS)};

static const joust_key STATUS_KEYS[] = {
    {.name = "endpoint",
     .kind = JOUST_KEY_TEXT,
     .offset = DRAFT(status_endpoint),
     .help = "where the status socket listens (ipc:// or tcp:// on loopback)"},
};
static const joust_section STATUS = {.name = "status", KEYS(STATUS_KEYS)};

static const joust_key NOTIFY_KEYS[] = {
    {.name = "command",
     .kind = JOUST_KEY_TEXT,
     .offset = DRAFT(notify_command),
     .help = "shell command run when a launch ends; JOUST_JOB, JOUST_STORE, JOUST_EXIT are set"},
};
static const joust_section NOTIFY = {.name = "notify", KEYS(NOTIFY_KEYS)};

static const joust_key JOB_KEYS[] = {
    {.name = "name",
     .kind = JOUST_KEY_TEXT,
     .offset = JOB(name),
     .required = true,
     .help = "of the job; its store is store/NAME unless --store says otherwise"},
    {.name = "seed",
     .kind = JOUST_KEY_U64,
     .offset = JOB(seed),
     .help = "all that is random follows from it"},
    {.name = "rounds",
     .kind = JOUST_KEY_U32,
     .offset = JOB(rounds),
     .low = 1,
     .high = 1000000,
     .help = "may grow when a job is resumed"},
    {.name = "models",
     .kind = JOUST_KEY_MAP,
     .offset = JOB(models),
     .section = &MODEL,
     .count_offset = JOB(n_models),
     .max_items = JOUST_MAX_MODELS,
     .required = true,
     .help = "name: {path: ...}; the first is the one trained unless train.model says otherwise"},
    {.name = "prompts",
     .kind = JOUST_KEY_SECTION,
     .offset = DRAFT(prompts),
     .section = &PROMPTS,
     .present = JOB(has_prompts),
     .help = "what is asked"},
    {.name = "rollout",
     .kind = JOUST_KEY_SECTION,
     .offset = JOB(rollout),
     .section = &ROLLOUT,
     .help = "how answers are sampled"},
    {.name = "judges",
     .kind = JOUST_KEY_LIST,
     .offset = JOB(judges),
     .section = &JUDGE,
     .count_offset = JOB(n_judges),
     .max_items = JOUST_MAX_JUDGES,
     .help = "who judges, and how"},
    {.name = "rewards",
     .kind = JOUST_KEY_SECTION,
     .section = &REWARDS,
     .help = "what is made of verdicts"},
    {.name = "pairs",
     .kind = JOUST_KEY_SECTION,
     .offset = JOB(pairs),
     .section = &PAIRS,
     .help = "which answers become preference pairs"},
    {.name = "train",
     .kind = JOUST_KEY_SECTION,
     .offset = JOB(train),
     .section = &TRAIN,
     .present = JOB(has_train),
     .help = "how the policy is trained on them"},
    {.name = "promote",
     .kind = JOUST_KEY_SECTION,
     .section = &PROMOTE,
     .present = JOB(promote.on),
     .help = "which rounds' policies the next round starts from"},
    {.name = "evaluate",
     .kind = JOUST_KEY_SECTION,
     .section = &EVALUATE,
     .present = JOB(evaluate.on),
     .help = "figures for the table of rounds"},
    {.name = "stages",
     .kind = JOUST_KEY_STAGES,
     .offset = JOB(stages),
     .count_offset = JOB(n_stages),
     .max_items = JOUST_MAX_STAGES,
     .section = &TRAIN,
     .help = "a round's stages in order, where the default list doesn't fit; {train: {...}} has "
             "its own settings on top of train:"},
    {.name = "cluster",
     .kind = JOUST_KEY_SECTION,
     .section = &CLUSTER,
     .help = "processes and their patience; never part of the result"},
    {.name = "status", .kind = JOUST_KEY_SECTION, .section = &STATUS, .help = "the status socket"},
    {.name = "notify",
     .kind = JOUST_KEY_SECTION,
     .section = &NOTIFY,
     .help = "who is told when a launch ends"},
};
static const joust_section WHOLE_JOB = {KEYS(JOB_KEYS), .size = sizeof(joust_job_draft)};

#define NEVER_CUT                                                                                  \
    "has no effect: prompts are never cut; one that leaves no room in the model's context is an "  \
    "error"
static const joust_key_alias ALIASES[] = {
    {"num_generations", "rollout", "samples", NULL},
    {"max_completion_length", "rollout", "max_tokens", NULL},
    {"max_new_tokens", "rollout", "max_tokens", NULL},
    {"max_prompt_length", "rollout", NULL, NEVER_CUT},
    {"max_length", "train", NULL, NEVER_CUT},
    {"loss_type", "train", "loss", NULL},
    {"rpo_alpha", "train", "sft_weight", NULL},
    {"per_device_train_batch_size", "train", "batch_size", NULL},
    {"lr_scheduler_type", "train", "schedule", NULL},
    {"min_lr_rate", "train", "min_learning_rate_ratio", NULL},
    {"adam_epsilon", "train", "adam_eps", NULL},
    {"max_grad_norm", "train", "clip", NULL},
    {"save_steps", "train", "save_every", NULL},
};

static const char *const STAGE_NAMES[] = {"generate", "judge",    "pair",
                                          "train",    "evaluate", "promote"};

const joust_section *joust_job_section(void)
{
    return &WHOLE_JOB;
}

const char *const *joust_stage_names(uint32_t *ret_n)
{
    *ret_n = COUNT(STAGE_NAMES);
    return STAGE_NAMES;
}

const joust_key_alias *joust_aliases(uint32_t *ret_n)
{
    *ret_n = COUNT(ALIASES);
    return ALIASES;
}
