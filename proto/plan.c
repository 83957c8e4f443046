#include "proto/plan.h"

#include "proto/base/alloc.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Compilation state: what the declared stages so far have left for those that follow. */
typedef struct compiler {
    const joust_job *job;
    joust_plan *plan;
    joust_error *err;
    joust_status status;                       /* the first problem; later calls do nothing */
    uint32_t n_of[JOUST_DECLARED_PROMOTE + 1]; /* declared stages of a kind so far */
    uint32_t generated, generated_rejected;    /* the newest rollouts */
    uint32_t paired;                           /* the newest PAIR stage */
    bool pair_used;                            /* a TRAIN stage takes what it makes */
    bool judged;                               /* the newest rollouts have judges */
} compiler;

bool joust_stage_runs(const joust_stage *stage, uint32_t round)
{
    return stage->first_round <= round && round <= stage->last_round;
}

bool joust_stage_is_served(const joust_job *job, const joust_stage *stage)
{
    if (stage->kind == JOUST_STAGE_GENERATE)
        return job->models[stage->model].has_endpoint;
    return stage->kind == JOUST_STAGE_JUDGE && stage->model != JOUST_NONE &&
           joust_job_judge_asks(&job->judges[stage->judge]) &&
           joust_job_model_is_remote(&job->models[stage->model]);
}

uint32_t joust_stage_requests(const joust_job *job, const joust_stage *stage)
{
    const joust_job_endpoint *e = &job->models[stage->model].endpoint;
    const uint64_t n = stage->samples;
    if (stage->kind == JOUST_STAGE_GENERATE)
        return joust_job_endpoint_requests(e, stage->samples);
    const joust_job_judge *judge = &job->judges[stage->judge];
    uint64_t questions = n;
    if (judge->kind == JOUST_JUDGE_COMPARE)
        questions = n * (n - (n > 0)) / 2 * (judge->both_orders ? 2 : 1);
    if (e->mode == JOUST_ENDPOINT_COMPLETIONS && e->scoring != JOUST_SCORING_TOP)
        questions *= judge->n_labels;
    return questions > UINT32_MAX ? UINT32_MAX : questions ? (uint32_t)questions : 1;
}

bool joust_stage_rewards(const joust_job *job, const joust_stage *judge, const joust_stage *pair)
{
    return judge->kind == JOUST_STAGE_JUDGE && judge->index < pair->index &&
           judge->judge < job->n_judges && job->judges[judge->judge].role != JOUST_ROLE_EVALUATE &&
           (judge->of == pair->of || judge->of == pair->of_rejected);
}

const char *joust_stage_kind_name(joust_stage_kind kind)
{
    switch (kind) {
    case JOUST_STAGE_INIT:
        return "init";
    case JOUST_STAGE_GENERATE:
        return "generate";
    case JOUST_STAGE_JUDGE:
        return "judge";
    case JOUST_STAGE_PAIR:
        return "pair";
    case JOUST_STAGE_TRAIN:
        return "train";
    case JOUST_STAGE_MEASURE:
        return "measure";
    case JOUST_STAGE_PROMOTE:
        return "promote";
    }
    return "unknown";
}

/* Keeps the first problem only. */
static void give_up(compiler *c, joust_status status, const char *format, ...) JOUST_PRINTF(3, 4);
static void give_up(compiler *c, joust_status status, const char *format, ...)
{
    char text[512];
    va_list args;
    if (c->status != JOUST_OK)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    c->status = joust_fail(c->err, status, "%s", text);
}

/* Appends a stage that runs from first_round on, every reference to others open. */
static joust_stage *add_stage(compiler *c, joust_stage_kind kind, uint32_t first_round)
{
    if (c->plan->n_stages == JOUST_MAX_STAGES)
        give_up(c, JOUST_TOO_LARGE, "stages: the job compiles to too many stages");
    if (c->status != JOUST_OK)
        return &c->plan->stages[0]; /* some place to write to; the plan isn't returned */
    joust_stage *stage = &c->plan->stages[c->plan->n_stages];
    *stage = (joust_stage){.index = c->plan->n_stages++,
                           .kind = kind,
                           .first_round = first_round,
                           .last_round = UINT32_MAX,
                           .model = JOUST_NONE,
                           .version = JOUST_PICK_LATEST,
                           .set = JOUST_NONE,
                           .of = JOUST_NONE,
                           .of_rejected = JOUST_NONE,
                           .of_sampled = JOUST_NONE,
                           .judge = JOUST_NONE,
                           .judge_sampled = JOUST_NONE,
                           .judged_by = JOUST_NONE,
                           .pairs = JOUST_NONE,
                           .reference_model = JOUST_NONE,
                           .partner = JOUST_NONE};
    return stage;
}

/* "base" or, for the second and later of its kind, "base.2"; then ".suffix" if there is one. */
static void name_stage(const compiler *c, joust_stage *stage, joust_declared declared,
                       const char *base, const char *suffix)
{
    char ordinal[16] = "";
    if (c->n_of[declared] > 1)
        snprintf(ordinal, sizeof ordinal, ".%u", (unsigned)c->n_of[declared]);
    snprintf(stage->name, sizeof stage->name, "%s%s%s%.40s", base, ordinal, *suffix ? "." : "",
             suffix);
}

static uint32_t find_model(compiler *c, const char *name, const char *key)
{
    uint32_t model = name ? joust_job_find_model(c->job, name) : 0;
    if (model == JOUST_NONE || model >= c->job->n_models) {
        give_up(c, JOUST_INVALID, "%s names no model of the job's models:", key);
        return 0;
    }
    return model;
}

static uint32_t find_judge(compiler *c, const char *name, const char *key)
{
    uint32_t judge = name ? joust_job_find_judge(c->job, name) : JOUST_NONE;
    if (judge == JOUST_NONE)
        give_up(c, JOUST_INVALID, "%s names no judge of the job's judges:", key);
    return judge == JOUST_NONE ? 0 : judge;
}

/* Lists that are compared between rounds have to be the same each time. */
static uint32_t find_fixed_set(compiler *c, const char *name, const char *key)
{
    uint32_t set = name ? joust_job_find_set(c->job, name) : JOUST_NONE;
    if (set == JOUST_NONE) {
        give_up(c, JOUST_INVALID, "%s names no prompts of the job", key);
        return 0;
    }
    if (c->job->sets[set].per_round)
        give_up(c, JOUST_INVALID,
                "%s: rounds are compared on these prompts, so per_round must be absent", key);
    return set;
}

/* The policy: the lineage that is trained. */
static uint32_t policy_model(compiler *c)
{
    return find_model(c, c->job->has_train ? c->job->train.model : NULL, "train.model");
}

static uint32_t add_generate(compiler *c, uint32_t first_round, uint32_t model,
                             joust_version_pick version, uint32_t set, uint32_t samples,
                             joust_sampling sampling)
{
    joust_stage *stage = add_stage(c, JOUST_STAGE_GENERATE, first_round);
    stage->model = model;
    stage->version = version;
    stage->set = set;
    stage->samples = samples;
    stage->sampling = sampling;
    stage->sampling.stop = joust_stop_strings_id(c->job);
    return stage->index;
}

static uint32_t add_judge(compiler *c, uint32_t first_round, uint32_t of, uint32_t judge)
{
    joust_stage *stage = add_stage(c, JOUST_STAGE_JUDGE, first_round);
    if (c->status != JOUST_OK)
        return 0;
    const joust_job_judge *by = &c->job->judges[judge];
    stage->of = of;
    stage->judge = judge;
    stage->samples = c->plan->stages[of].samples;
    if (by->model)
        stage->model = find_model(c, by->model, "judges[].model");
    stage->version = by->version ? by->version : JOUST_PICK_ROUND_START;
    return stage->index;
}

static joust_sampling greedy_of(joust_sampling sampling)
{
    sampling.temperature = 0;
    sampling.top_p = 1;
    sampling.min_p = 0;
    sampling.top_k = 0;
    sampling.min_tokens = 0;
    sampling.repetition_penalty = 0;
    return sampling;
}

static void compile_init(compiler *c)
{
    for (uint32_t i = 0; i < c->job->n_models; i++) {
        if (!joust_job_model_is_made(&c->job->models[i]))
            continue;
        joust_stage *stage = add_stage(c, JOUST_STAGE_INIT, 0);
        stage->last_round = 0;
        stage->model = i;
        stage->version = JOUST_PICK_INITIAL;
        snprintf(stage->name, sizeof stage->name, "init.%.40s", c->job->models[i].name);
    }
}

static void compile_generate(compiler *c)
{
    const joust_job *job = c->job;
    if (!job->has_prompts || !job->n_sets) {
        give_up(c, JOUST_INVALID, "stages: generate needs prompts:");
        return;
    }
    uint32_t chosen = add_generate(c, 1, policy_model(c), JOUST_PICK_LATEST, 0,
                                   job->rollout.samples, job->rollout.sampling);
    name_stage(c, &c->plan->stages[chosen], JOUST_DECLARED_GENERATE, "generate", "");
    c->generated = c->generated_rejected = chosen;
    c->judged = false;
    if (!job->pairs.rejected_model)
        return;
    uint32_t model = find_model(c, job->pairs.rejected_model, "pairs.rejected_model");
    joust_version_pick pick =
        job->pairs.rejected_version ? job->pairs.rejected_version : JOUST_PICK_INITIAL;
    uint32_t rejected =
        add_generate(c, 1, model, pick, 0, job->rollout.samples, job->rollout.sampling);
    name_stage(c, &c->plan->stages[rejected], JOUST_DECLARED_GENERATE, "generate", "rejected");
    c->generated_rejected = rejected;
}

static void compile_judge(compiler *c)
{
    if (c->generated == JOUST_NONE) {
        give_up(c, JOUST_INVALID, "stages: judge needs a generate stage before it");
        return;
    }
    for (uint32_t i = 0; i < c->job->n_judges; i++) {
        const joust_job_judge *judge = &c->job->judges[i];
        if (judge->role == JOUST_ROLE_EVALUATE)
            continue;
        uint32_t stage = add_judge(c, 1, c->generated, i);
        name_stage(c, &c->plan->stages[stage], JOUST_DECLARED_JUDGE, "judge", judge->name);
        c->judged = true;
        if (c->generated_rejected == c->generated)
            continue;
        stage = add_judge(c, 1, c->generated_rejected, i);
        name_stage(c, &c->plan->stages[stage], JOUST_DECLARED_JUDGE, "judge.rejected", judge->name);
    }
    if (!c->judged)
        give_up(c, JOUST_INVALID, "stages: judge needs a judge whose role isn't evaluate");
}

static void compile_pair(compiler *c)
{
    if (!c->judged) {
        give_up(c, JOUST_INVALID, "stages: pair needs a judge stage before it");
        return;
    }
    joust_stage *stage = add_stage(c, JOUST_STAGE_PAIR, 1);
    stage->of = c->generated;
    stage->of_rejected = c->generated_rejected;
    name_stage(c, stage, JOUST_DECLARED_PAIR, "pair", "");
    c->paired = stage->index;
    c->pair_used = false;
}

/* A PAIR stage makes what the TRAIN stages that follow it take: pairs, or advantages. */
static void use_group(compiler *c, joust_stage *pair, const joust_job_train *train)
{
    const joust_policy_traits *traits = joust_policy_traits_of(train->loss);
    joust_advantage advantage = traits            ? traits->advantage
                                : train->unpaired ? JOUST_ADVANTAGE_LABEL
                                                  : 0;
    bool dynamic = traits && train->policy.dynamic_sampling;
    const double beta = advantage == JOUST_ADVANTAGE_SHARE   ? train->beta
                        : advantage == JOUST_ADVANTAGE_LABEL ? train->threshold
                                                             : 0;
    const bool same_beta = !(pair->beta < beta || pair->beta > beta);
    if (c->pair_used &&
        (pair->advantage != advantage || !same_beta || pair->dynamic_sampling != dynamic))
        give_up(
            c, JOUST_INVALID,
            "stages: two train stages take different things of one pair stage: pairs, or groups "
            "with other advantages; put a pair stage before each");
    c->pair_used = true;
    pair->advantage = advantage;
    pair->beta = beta;
    pair->dynamic_sampling = dynamic;
    if (advantage)
        name_stage(c, pair, JOUST_DECLARED_PAIR, "group", "");
}

/* PPO's critic, on the same answers, by what it and the policy were as the round began: in any order with the policy's
 * own training, or beside it. */
static void add_critic(compiler *c, joust_stage *policy)
{
    const uint32_t critic = find_model(c, policy->train.critic.model, "train.critic.model");
    joust_stage *stage = add_stage(c, JOUST_STAGE_TRAIN, 1);
    if (c->status != JOUST_OK)
        return;
    policy->partner = critic;
    stage->train = policy->train;
    stage->train.loss = JOUST_LOSS_VALUE;
    stage->train.model = policy->train.critic.model;
    stage->train.has_lora = false;
    stage->train.sft_weight = 0;
    if (stage->train.critic.learning_rate > 0)
        stage->train.learning_rate = stage->train.critic.learning_rate;
    stage->model = critic;
    stage->partner = stage->reference_model = policy->model;
    stage->pairs = policy->pairs;
    name_stage(c, stage, JOUST_DECLARED_TRAIN, "train", "critic");
}

static void compile_train(compiler *c, const joust_job_train *train)
{
    joust_stage *stage = add_stage(c, JOUST_STAGE_TRAIN, 1);
    stage->train = *train;
    stage->model = stage->reference_model = find_model(c, train->model, "train.model");
    if (train->reference_model) {
        stage->reference_model = find_model(c, train->reference_model, "train.reference_model");
        stage->train.reference = JOUST_PICK_INITIAL;
    }
    name_stage(c, stage, JOUST_DECLARED_TRAIN, "train", "");
    if (train->data)
        return;
    stage->pairs = c->paired;
    if (c->paired == JOUST_NONE)
        give_up(c, JOUST_INVALID, "stages: train needs a pair stage before it, or data:");
    else
        use_group(c, &c->plan->stages[c->paired], train);
    if (train->loss == JOUST_LOSS_PPO)
        add_critic(c, stage);
}

static void compile_evaluate(compiler *c)
{
    const joust_job_evaluate *evaluate = &c->job->evaluate;
    uint32_t model = policy_model(c);
    uint32_t set = find_fixed_set(c, evaluate->prompts, "evaluate.prompts");
    uint32_t judge = find_judge(c, evaluate->judge, "evaluate.judge");
    if (c->status != JOUST_OK)
        return;
    uint32_t greedy =
        add_generate(c, 0, model, JOUST_PICK_LATEST, set, 1, greedy_of(evaluate->sampling));
    uint32_t sampled = JOUST_NONE, judged = JOUST_NONE, judged_by = JOUST_NONE;
    joust_stage *stages = c->plan->stages;
    name_stage(c, &stages[greedy], JOUST_DECLARED_EVALUATE, "evaluate", "greedy");
    uint32_t greedy_judged = add_judge(c, 0, greedy, judge);
    name_stage(c, &stages[greedy_judged], JOUST_DECLARED_EVALUATE, "evaluate", "greedy.judge");
    if (evaluate->samples) {
        sampled = add_generate(c, 0, model, JOUST_PICK_LATEST, set, evaluate->samples,
                               evaluate->sampling);
        name_stage(c, &stages[sampled], JOUST_DECLARED_EVALUATE, "evaluate", "sampled");
        judged = add_judge(c, 0, sampled, judge);
        name_stage(c, &stages[judged], JOUST_DECLARED_EVALUATE, "evaluate", "sampled.judge");
    }
    if (evaluate->samples && evaluate->judged_by) {
        uint32_t tested = find_judge(c, evaluate->judged_by, "evaluate.judged_by");
        judged_by = add_judge(c, 0, sampled, tested);
        name_stage(c, &stages[judged_by], JOUST_DECLARED_EVALUATE, "evaluate", "sampled.judged_by");
    }
    joust_stage *measure = add_stage(c, JOUST_STAGE_MEASURE, 0);
    measure->model = model;
    measure->of = greedy;
    measure->of_sampled = sampled;
    measure->judge = greedy_judged;
    measure->judge_sampled = judged;
    measure->judged_by = judged_by;
    name_stage(c, measure, JOUST_DECLARED_EVALUATE, "evaluate", "");
}

static void compile_promote(compiler *c)
{
    const joust_job_promote *promote = &c->job->promote;
    uint32_t model = policy_model(c);
    uint32_t set = find_fixed_set(c, promote->prompts, "promote.prompts");
    uint32_t judge = find_judge(c, promote->judge, "promote.judge");
    if (c->status != JOUST_OK)
        return;
    /* The gate asks as training does, but greedily. */
    joust_sampling sampling = greedy_of(c->job->rollout.sampling);
    uint32_t greedy = add_generate(c, 0, model, JOUST_PICK_LATEST, set, 1, sampling);
    joust_stage *stages = c->plan->stages;
    name_stage(c, &stages[greedy], JOUST_DECLARED_PROMOTE, "promote", "greedy");
    uint32_t judged = add_judge(c, 0, greedy, judge);
    name_stage(c, &stages[judged], JOUST_DECLARED_PROMOTE, "promote", "greedy.judge");
    joust_stage *decide = add_stage(c, JOUST_STAGE_PROMOTE, 0);
    decide->model = model;
    decide->of = greedy;
    decide->judge = judged;
    name_stage(c, decide, JOUST_DECLARED_PROMOTE, "promote", "");
}

static void compile_declared(compiler *c, joust_declared declared, const joust_job_train *train)
{
    if (c->status != JOUST_OK)
        return;
    if (declared < JOUST_DECLARED_GENERATE || declared > JOUST_DECLARED_PROMOTE) {
        give_up(c, JOUST_INVALID, "stages: a stage of no known kind");
        return;
    }
    c->n_of[declared]++;
    switch (declared) {
    case JOUST_DECLARED_GENERATE:
        compile_generate(c);
        break;
    case JOUST_DECLARED_JUDGE:
        compile_judge(c);
        break;
    case JOUST_DECLARED_PAIR:
        compile_pair(c);
        break;
    case JOUST_DECLARED_TRAIN:
        compile_train(c, train);
        break;
    case JOUST_DECLARED_EVALUATE:
        compile_evaluate(c);
        break;
    case JOUST_DECLARED_PROMOTE:
        compile_promote(c);
        break;
    }
}

static void compile_default(compiler *c)
{
    const joust_job *job = c->job;
    bool rewarded = false;
    for (uint32_t i = 0; i < job->n_judges; i++)
        rewarded |= job->judges[i].role != JOUST_ROLE_EVALUATE;
    if (job->has_prompts)
        compile_declared(c, JOUST_DECLARED_GENERATE, NULL);
    if (job->has_prompts && rewarded) {
        compile_declared(c, JOUST_DECLARED_JUDGE, NULL);
        compile_declared(c, JOUST_DECLARED_PAIR, NULL);
    }
    if (job->has_train)
        compile_declared(c, JOUST_DECLARED_TRAIN, &job->train);
    if (job->evaluate.on)
        compile_declared(c, JOUST_DECLARED_EVALUATE, NULL);
    if (job->promote.on)
        compile_declared(c, JOUST_DECLARED_PROMOTE, NULL);
}

joust_status joust_plan_compile(const joust_job *job, joust_plan *ret, joust_error *err)
{
    compiler c = {.job = job,
                  .plan = ret,
                  .err = err,
                  .generated = JOUST_NONE,
                  .generated_rejected = JOUST_NONE,
                  .paired = JOUST_NONE};
    memset(ret, 0, sizeof(*ret));
    compile_init(&c);
    for (uint32_t i = 0; i < job->n_stages; i++) {
        const joust_job_stage *stage = &job->stages[i];
        compile_declared(&c, stage->kind, stage->has_train ? &stage->train : &job->train);
    }
    if (!job->n_stages)
        compile_default(&c);
    if (c.status == JOUST_OK && !ret->n_stages)
        give_up(&c, JOUST_INVALID, "the job declares nothing to do: give it prompts: or train:");
    if (c.status != JOUST_OK)
        memset(ret, 0, sizeof(*ret));
    return c.status;
}

uint64_t joust_plan_out_version(const joust_plan *plan, uint32_t round, uint32_t stage)
{
    uint64_t before = 0, a_round = 0;
    if (plan->stages[stage].kind != JOUST_STAGE_TRAIN || !round)
        return 0;
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        if (plan->stages[i].kind != JOUST_STAGE_TRAIN)
            continue;
        a_round++;
        before += i < stage;
    }
    return (round - 1) * a_round + before + 1;
}

uint64_t joust_plan_positions(const joust_job *job, const joust_stage *stage, uint64_t n_prompts)
{
    if (stage->kind != JOUST_STAGE_GENERATE || stage->set >= job->n_sets)
        return 0;
    uint32_t per_round = job->sets[stage->set].per_round;
    return n_prompts && per_round ? per_round : n_prompts;
}

/* How many prompts of the set were walked over before this one. */
static uint64_t walked(const joust_job_set *set, uint32_t round, uint64_t position)
{
    return set->per_round && round ? (uint64_t)(round - 1) * set->per_round + position : position;
}

uint64_t joust_plan_line(const joust_job_set *set, uint64_t n_prompts, uint32_t round,
                         uint64_t position)
{
    return n_prompts ? walked(set, round, position) % n_prompts : 0;
}

uint64_t joust_plan_pass(const joust_job_set *set, uint64_t n_prompts, uint32_t round,
                         uint64_t position)
{
    return n_prompts ? walked(set, round, position) / n_prompts : 0;
}

void joust_plan_order(const joust_job *job, uint32_t set, uint64_t pass, uint32_t *lines,
                      uint32_t n)
{
    joust_stream stream = joust_stream_open(&(joust_stream_name){
        .job_seed = job->seed, .stage = set, .prompt = pass, .purpose = JOUST_PURPOSE_SHUFFLE});
    for (uint32_t i = 0; i < n; i++)
        lines[i] = i;
    joust_stream_shuffle(&stream, lines, n);
}

joust_stream joust_plan_sample_stream(const joust_job *job, const joust_unit_key *key,
                                      uint32_t sample)
{
    return joust_stream_open(&(joust_stream_name){.job_seed = job->seed,
                                                  .stage = key->stage,
                                                  .round = key->round,
                                                  .prompt = key->position,
                                                  .sample = sample,
                                                  .purpose = JOUST_PURPOSE_SAMPLE});
}

joust_status joust_plan_create(const joust_job *job, joust_plan **ret, joust_error *err)
{
    joust_plan *plan = joust_calloc(1, sizeof(*plan));
    joust_status st = plan ? joust_plan_compile(job, plan, err)
                           : joust_fail(err, JOUST_NOMEM, "plan: out of memory");
    if (st == JOUST_OK)
        *ret = plan;
    else
        joust_free(plan);
    return st;
}
