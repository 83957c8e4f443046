/* One judge at work: a JUDGE stage's judge, with its template and labels compiled for a tokenizer,
 * turns leased units into verdicts, a batch of units at a time. What is in a batch doesn't change a
 * verdict. Thread: one at a time. */
#ifndef JOUST_JUDGE_JUDGING_H
#define JOUST_JUDGE_JUDGING_H

#include "judge/kind.h"
#include "proto/plan.h"
#include "worker/engine/generate.h"

typedef struct joust_judging joust_judging;
typedef struct joust_endpoint joust_endpoint; /* worker/endpoint/endpoint.h */

/* Compiles the judge of `stage` (a JUDGE stage of the job's plan). Keeps job and tokenizer until
 * freed; tokenizer is NULL for kinds that ask no model, and where the model is served by others and asked by text. Errors: JOUST_INVALID (template, labels or
 * pattern, named by the judge), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_judging_create(const joust_job *job, const joust_stage *stage,
                                                 const joust_tokenizer *tokenizer,
                                                 joust_judging **ret, joust_error *err);
void joust_judging_free(joust_judging **judging);
/* Whether the stage's judge asks a model, so that units name one. */
bool joust_judging_asks(const joust_job *job, const joust_stage *stage);

/* Verdicts about units[0 .. n-1], all of this stage and asked of the same model: results[i] gets
 * n_verdicts and verdicts (owned by the caller, in key order); its other fields are left alone.
 * engine and model are NULL for kinds that ask none; step and context as in joust_score. Errors:
 * JOUST_TOO_LARGE (a group with too many verdicts), JOUST_NOMEM, and those of joust_score; no
 * result is set then. */
JOUST_MUST_USE joust_status joust_judging_run(joust_judging *judging, joust_engine *engine,
                                              joust_model *model,
                                              const joust_lease_unit *const *units, uint32_t n,
                                              joust_unit_result *results, joust_step_fn *step,
                                              void *context, joust_error *err);

/* The same by servers: each unit ends in one call of done or failed, as soon as it can, in any order. A question that they
 * refuse, withhold, can't be read in, or that gets no answer by its deadline while they answer others, is a verdict with
 * that outcome and without a value; where they answer nothing, or none can be asked, the unit fails. */
typedef struct joust_judging_calls {
    /* result: takes (zeroed): verdicts, and in its provenance n_tokens and served, an entry a verdict that was asked, whose
     * sample is the verdict's place. A status other than OK ends the run with it, as in all of these. */
    joust_status (*done)(void *context, uint32_t unit, joust_unit_result *result, joust_error *err);
    joust_status (*failed)(void *context, uint32_t unit, const joust_error *why, joust_error *err);
    bool (*wanted)(void *context, uint32_t unit);                               /* may be NULL */
    joust_status (*step)(void *context, uint64_t n_answered, joust_error *err); /* may be NULL */
    void *context;
} joust_judging_calls;

/* endpoint scores labels (joust_endpoint_score_labels), by token ids if this was created with a tokenizer. Errors: those of joust_endpoint_run, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_judging_ask(joust_judging *judging, joust_endpoint *endpoint,
                                              const joust_lease_unit *const *units, uint32_t n,
                                              const joust_judging_calls *calls, joust_error *err);

#endif
