/* Inside a judge at work: judging.c (questions, and answers by the engine), asking.c (answers by servers). */
#ifndef JOUST_JUDGE_JUDGING_INTERNAL_H
#define JOUST_JUDGE_JUDGING_INTERNAL_H

#include "judge/judging.h"
#include "worker/endpoint/endpoint.h"

struct joust_judging {
    const joust_job *job;
    const joust_stage *stage;
    const joust_job_judge *judge;
    const joust_kind *kind;
    joust_rule_pattern *pattern;
    const joust_tokenizer *tokenizer; /* NULL: no model is asked, or servers are, by text */
    joust_template *template;         /* NULL: no model is asked */
    joust_tokens labels[JOUST_MAX_LABELS];
    uint32_t longest_label;
};

/* View of the job and the unit. */
joust_case joust_judging_case(const joust_judging *j, const joust_lease_unit *unit);
/* The unit's verdicts with everything that doesn't depend on an answer. */
JOUST_MUST_USE joust_status joust_judging_open(const joust_judging *j, const joust_lease_unit *unit,
                                               joust_unit_result *ret, joust_error *err);
/* Outcomes and values of a unit's verdicts, once each has its labels' log-probs or its outcome. */
JOUST_MUST_USE joust_status joust_judging_close(const joust_judging *j,
                                                const joust_lease_unit *unit, joust_unit_result *r,
                                                joust_error *err);
void joust_judging_drop(joust_unit_result *r); /* frees the verdicts */
/* Places for the log-probs of the judge's labels. */
JOUST_MUST_USE joust_status joust_judging_add_labels(const joust_judging *j, joust_verdict *v,
                                                     joust_error *err);
/* What a question is known by in its verdict. */
joust_digest joust_judging_digest(const joust_tokens *question);
/* What the labels leave, once the verdict has their log-probs. */
void joust_judging_set_residual(joust_verdict *v);

#endif
