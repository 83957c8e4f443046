/* The table of keys: the whole file, its short sections, aliases. */
#include "ops/job_table_internal.h"

static const joust_choice GATES[] = {{"best", 1, false}, {"nothing", 0, false}, {NULL, 0, false}};
static const joust_choice AGAINST[] = {{"base", JOUST_AGAINST_BASE, false},
                                       {"previous", JOUST_AGAINST_PREVIOUS, false},
                                       {NULL, 0, false}};
static const joust_choice DEVICES[] = {{"auto", 0, false},
                                       {"cpu", 1, false},
                                       {"cuda", 2, false},
                                       {"cuda:each", 3, false},
                                       {NULL, 0, false}};
static const joust_choice PRECISIONS[] = {
    {"auto", 0, false}, {"f32", 1, false}, {"bf16", 2, false}, {NULL, 0, false}};

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
    {.name = "kv_memory_mb",
     .kind = JOUST_KEY_U32,
     .offset = JOB(cluster.kv_memory_mb),
     .low = 0,
     .high = 1 << 24,
     .help = "MiB of key-value memory a process; 0: 256"},
    {.name = "memory_mb",
     .kind = JOUST_KEY_U32,
     .offset = JOB(cluster.memory_mb),
     .low = 0,
     .high = 1 << 24,
     .help = "MiB of resident memory a worker at most; 0: no bound"},
    {.name = "device",
     .kind = JOUST_KEY_CHOICE,
     .offset = DRAFT(device),
     .choices = DEVICES,
     .help =
         "what the built-in engine computes on; cuda:each: worker and judge number i have GPU i"},
    {.name = "precision",
     .kind = JOUST_KEY_CHOICE,
     .offset = DRAFT(precision),
     .choices = PRECISIONS,
     .help = "of its weights: f32, or bf16, half the bytes; auto: f32 on a CPU, bf16 on a GPU"},
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
     .section = &joust_models_section,
     .count_offset = JOB(n_models),
     .max_items = JOUST_MAX_MODELS,
     .required = true,
     .help = "name: {path: ...}; the first is the one trained unless train.model says otherwise"},
    {.name = "prompts",
     .kind = JOUST_KEY_SECTION,
     .offset = DRAFT(prompts),
     .section = &joust_prompts_section,
     .present = JOB(has_prompts),
     .help = "what is asked"},
    {.name = "rollout",
     .kind = JOUST_KEY_SECTION,
     .offset = JOB(rollout),
     .section = &joust_rollout_section,
     .help = "how answers are sampled"},
    {.name = "judges",
     .kind = JOUST_KEY_LIST,
     .offset = JOB(judges),
     .section = &joust_judges_section,
     .count_offset = JOB(n_judges),
     .max_items = JOUST_MAX_JUDGES,
     .help = "who judges, and how"},
    {.name = "rewards",
     .kind = JOUST_KEY_SECTION,
     .section = &joust_rewards_section,
     .help = "what is made of verdicts"},
    {.name = "pairs",
     .kind = JOUST_KEY_SECTION,
     .offset = JOB(pairs),
     .section = &joust_pairs_section,
     .help = "which answers become preference pairs"},
    {.name = "train",
     .kind = JOUST_KEY_SECTION,
     .offset = JOB(train),
     .section = &joust_train_section,
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
     .section = &joust_train_section,
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
    "has no effect: rows are never cut; one that leaves no room in the model's context is an "     \
    "error"
static const joust_key_alias ALIASES[] = {
    {"num_generations", "rollout", "samples", NULL},
    {"max_completion_length", "rollout", "max_tokens", NULL},
    {"max_new_tokens", "rollout", "max_tokens", NULL},
    {"max_prompt_length", "rollout", "max_prompt_tokens", NULL},
    {"max_length", "train", NULL, NEVER_CUT},
    {"loss_type", "train", "loss", NULL},
    {"rpo_alpha", "train", "sft_weight", NULL},
    {"cpo_alpha", "train", "sft_weight", NULL},
    {"simpo_gamma", "train", "gamma", NULL},
    {"ref_model_sync_steps", "train", "reference_sync_steps", NULL},
    {"ref_model_mixup_alpha", "train", "reference_mixup", NULL},
    {"loss_weights", "train", NULL, "has no effect: write mix: {dpo: 0.8, sft: 1.0}"},
    {"per_device_train_batch_size", "train", "batch_size", NULL},
    {"lr_scheduler_type", "train", "schedule", NULL},
    {"min_lr_rate", "train", "min_learning_rate_ratio", NULL},
    {"adam_epsilon", "train", "adam_eps", NULL},
    {"max_grad_norm", "train", "clip", NULL},
    {"save_steps", "train", "save_every", NULL},
    {"peft_config", "train", "lora", NULL},
    {"r", "lora", "rank", NULL},
    {"lora_r", "lora", "rank", NULL},
    {"lora_alpha", "lora", "alpha", NULL},
    {"target_modules", "lora", "targets", NULL},
    {"lora_target_modules", "lora", "targets", NULL},
    {"use_rslora", "lora", "rslora", NULL},
    {"lora_dropout", "lora", "dropout", NULL},
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
