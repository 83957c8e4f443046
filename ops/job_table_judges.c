/* The table of keys: judges:, rewards: and pairs:. */
#include "ops/job_table_internal.h"

const joust_choice joust_judge_kind_choices[] = {{"yes-no", JOUST_JUDGE_YES_NO, false},
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
static const joust_choice COMBINES[] = {{"mean", JOUST_COMBINE_MEAN, false},
                                        {"min", JOUST_COMBINE_MIN, false},
                                        {"max", JOUST_COMBINE_MAX, false},
                                        {NULL, 0, false}};
static const joust_choice SHAPINGS[] = {{"none", 0, false}, {NULL, 0, false}};

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
     .choices = joust_judge_kind_choices,
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

const joust_section joust_judges_section = {.name = "judges",
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
const joust_section joust_rewards_section = {.name = "rewards", KEYS(REWARDS_KEYS)};

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
const joust_section joust_pairs_section = {.name = "pairs", KEYS(PAIRS_KEYS)};
