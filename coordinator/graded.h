/* A prompt's group of answers with what the reward judges said of it, and the reward of each answer: what pairs and
 * advantages are made of. Thread: one at a time. */
#ifndef JOUST_COORDINATOR_GRADED_H
#define JOUST_COORDINATOR_GRADED_H

#include "coordinator/recent.h"
#include "coordinator/rewards.h"
#include "proto/plan.h"
#include "storage/store.h"

/* Where groups and verdicts are found; all borrowed. */
typedef struct joust_graded_sources {
    joust_store *store;
    const joust_job *job;
    const joust_plan *plan;
    const joust_recent *recent; /* what need not be read back; may be NULL */
} joust_graded_sources;

/* What the reward judges said about a prompt's groups, in key order: one run of verdicts a JUDGE stage. */
typedef struct joust_said {
    joust_verdict *verdicts;
    bool lent; /* the array is ours, what its verdicts point to is a view of the recent units */
    uint32_t n;
} joust_said;

/* pair: a PAIR stage's unit. ret views sources->recent until that is changed. Errors: of the store, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_said_read(const joust_graded_sources *sources,
                                            const joust_unit_key *pair, joust_said *ret,
                                            joust_error *err);
void joust_said_fini(joust_said *said);

typedef struct joust_graded {
    joust_trajectory *trajectories; /* (n) by sample */
    bool lent;                      /* they are a view of the recent units */
    const char **texts;             /* (n) views */
    joust_reward *rewards;          /* (n) */
    uint32_t n;
} joust_graded;

/* The group that GENERATE stage `generate` made for the prompt of `pair`, with its rewards by `said`. Errors: of the store,
 * JOUST_INVALID (a verdict about no sample of it), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_graded_read(const joust_graded_sources *sources,
                                              const joust_unit_key *pair, uint32_t generate,
                                              const joust_said *said, joust_graded *ret,
                                              joust_error *err);
void joust_graded_fini(joust_graded *group);

/* All groups of a PAIR stage's round, by position; group: a view during the call. Errors: as of joust_graded_read; fn's. */
typedef joust_status joust_graded_fn(void *context, uint64_t position, const joust_graded *group,
                                     joust_error *err);
JOUST_MUST_USE joust_status joust_graded_each(const joust_graded_sources *sources, uint32_t round,
                                              uint32_t pair, joust_graded_fn *fn, void *context,
                                              joust_error *err);

/* What a policy loss takes of an answer. */
typedef struct joust_credit {
    bool used; /* it has a reward, and tokens */
    double advantage;
} joust_credit;

/* Advantages of the PAIR stage's kind among the answers that have a reward; *ret (n) is the caller's to free. *ret_decided: the rewards
 * differ. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_graded_credit(const joust_graded *group, const joust_stage *pair,
                                                joust_credit **ret, bool *ret_decided,
                                                joust_error *err);

#endif
