/* The plan: a job's declared stages compiled to a flat list of primitive stages, the same list on every
 * process. A stage's index here is the `stage` of every key; it never depends on the number of rounds.
 *
 * Round 0 is the baseline: only stages with `baseline` run in it (initialise weights, generate for
 * evaluation, judge, measure, and promote: which records the first best). Rounds 1 … job.rounds run the others in
 * list order, each stage starting when the stages it reads are complete, except that a JUDGE
 * stage takes a group as soon as the group is durable, and a PAIR stage pairs a group as soon as its last
 * verdict is.
 *
 * Default list for a job with prompts, judges and train:
 *   generate · judge (one a reward judge) · pair · train (ppo: and train.critic, which needs nothing of it) ·
 *   evaluate = generate greedy + generate sampled + judge each by `judge` (+ sampled by judged_by) + measure ·
 *   promote  = generate greedy on the gate's set + judge + promote */
#ifndef JOUST_PROTO_PLAN_H
#define JOUST_PROTO_PLAN_H

#include "proto/job.h"

typedef struct joust_stage {
    uint32_t index;
    joust_stage_kind kind;
    char name[64];          /* "generate", "judge.self", "evaluate.greedy", … */
    uint32_t first_round;   /* 0 or 1 */
    uint32_t last_round;    /* UINT32_MAX, or 0 for baseline-only stages (INIT) */
    uint32_t model;         /* lineage index, or JOUST_NONE */
    joust_version_pick version;
    uint32_t set;           /* GENERATE: prompt set */
    uint32_t samples;
    joust_sampling sampling;
    uint32_t of;            /* JUDGE: generate stage; PAIR: generate stage of chosen; MEASURE, PROMOTE: greedy stage */
    uint32_t of_rejected;   /* PAIR: generate stage of rejected (may equal of) */
    uint32_t of_sampled;    /* MEASURE: sampled generate stage, or JOUST_NONE */
    uint32_t judge;         /* JUDGE: judge index; MEASURE, PROMOTE: the JUDGE stage of the greedy answers */
    uint32_t judge_sampled; /* MEASURE: JUDGE stage of the sampled answers by the external judge, or JOUST_NONE */
    uint32_t judged_by;     /* MEASURE: JUDGE stage of the sampled answers by the judge under test, or JOUST_NONE */
    joust_job_train train;  /* TRAIN: borrowed strings, owned by the job */
    uint32_t pairs;         /* TRAIN: PAIR stage, or JOUST_NONE for a data file */
    uint32_t reference_model; /* TRAIN: the lineage that train.reference is a version of */
    uint32_t partner;       /* TRAIN of PPO: lineage of the critic, or of the policy where the critic is trained; else JOUST_NONE */
    joust_advantage advantage; /* PAIR: it makes no pairs but advantages of this kind, for a TRAIN stage's policy loss; 0: pairs */
    double beta;               /* with that: of JOUST_ADVANTAGE_SHARE; of _LABEL the threshold */
    bool dynamic_sampling;     /* with that: groups without an advantage are left out */
} joust_stage;

typedef struct joust_plan {
    uint32_t n_stages;
    joust_stage stages[JOUST_MAX_STAGES];
} joust_plan;

/* Compiles job (borrowed: must outlive the plan). Errors: JOUST_INVALID, JOUST_TOO_LARGE. */
JOUST_MUST_USE joust_status joust_plan_compile(const joust_job *job, joust_plan *ret, joust_error *err);
/* The same on the heap, since a plan is too large for a stack; owned (joust_free). Errors: JOUST_NOMEM too. */
JOUST_MUST_USE joust_status joust_plan_create(const joust_job *job, joust_plan **ret, joust_error *err);
/* Whether the stage runs in that round. */
bool joust_stage_runs(const joust_stage *stage, uint32_t round);
/* Whether its answers come from servers: a GENERATE stage of a served model, a JUDGE stage that asks a model which has no
 * folder here. */
bool joust_stage_is_served(const joust_job *job, const joust_stage *stage);
/* Requests that a unit of such a stage takes at most, tries apart. */
uint32_t joust_stage_requests(const joust_job *job, const joust_stage *stage);
/* Whether a JUDGE stage rewards the rollouts that a PAIR stage pairs. */
bool joust_stage_rewards(const joust_job *job, const joust_stage *judge, const joust_stage *pair);
const char *joust_stage_kind_name(joust_stage_kind kind); /* "generate" … "unknown" */
/* The version number that a TRAIN stage gives its result in `round`: rounds and stages in order, so it is monotone and a
 * function of the plan alone. INIT makes version 0 of its lineage. */
uint64_t joust_plan_out_version(const joust_plan *plan, uint32_t round, uint32_t stage);
/* Number of positions (groups) of a GENERATE stage in a round, given the set's number of prompts. */
uint64_t joust_plan_positions(const joust_job *job, const joust_stage *stage, uint64_t n_prompts);
/* Where the prompt at `position` in `round` (1-based; 0 for the baseline) stands: sets with per_round walk through the
 * file, round after round, pass after pass; the others start at 0 each round. The walk is in pass joust_plan_pass, at place
 * joust_plan_line (0-based, below n_prompts) of it: for FILE that is the line number in the set's file, for SHUFFLE
 * the line number is lines[place] of joust_plan_order for that pass. */
uint64_t joust_plan_line(const joust_job_set *set, uint64_t n_prompts, uint32_t round, uint64_t position);
uint64_t joust_plan_pass(const joust_job_set *set, uint64_t n_prompts, uint32_t round, uint64_t position);
/* The permutation that SHUFFLE uses in pass number `pass`: lines[0 .. n-1]. Errors: none. */
void joust_plan_order(const joust_job *job, uint32_t set, uint64_t pass, uint32_t *lines, uint32_t n);
/* Random stream of one sample: keyed by (seed, stage, round, position, sample). */
joust_stream joust_plan_sample_stream(const joust_job *job, const joust_unit_key *key, uint32_t sample);

#endif
