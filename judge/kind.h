/* Judge kinds behind one interface. A kind says which verdicts it owes about a group, how each is
 * asked of a model (if it asks one), and what the answers amount to. Everything here is a pure
 * function of the job, the group and the answers; models and batches are judge/bench's business.
 *
 *   list      which verdicts: sample, other and order of each, in key order
 *   fill      the template's slots for one of them (kinds that ask)
 *   conclude  outcome, value and text of all of them, from label_logps or from the texts
 *
 * A verdict that can't be had gets a typed outcome and no value; it never becomes a zero. */
#ifndef JOUST_JUDGE_KIND_H
#define JOUST_JUDGE_KIND_H

#include "judge/rules.h"
#include "proto/messages.h"
#include "worker/engine/text/tokenizer.h"

#define JOUST_JUDGE_MAX_SLOTS    5u
#define JOUST_JUDGE_MAX_VERDICTS 8192u /* about one group by one judge */

/* A group before its judge. Everything is borrowed. */
typedef struct joust_case {
    uint64_t seed; /* of the job */
    const joust_job_judge *judge;
    const joust_lease_unit *unit;
    const joust_rule_pattern *pattern; /* rule: regex */
} joust_case;

typedef struct joust_kind {
    const char *name;         /* as in verdicts: "yes-no" */
    const char *const *slots; /* that its template may use; NULL: it asks no model */
    uint32_t n_slots;
    /* Number of verdicts about a group of n. */
    uint64_t (*count)(const joust_job_judge *judge, uint32_t n);
    /* Sets sample, other and order of count() zeroed verdicts. */
    void (*list)(const joust_case *c, joust_verdict *verdicts);
    /* Fills up to JOUST_JUDGE_MAX_SLOTS slots with views of the case; returns how many. */
    uint32_t (*fill)(const joust_case *c, const joust_verdict *verdict, joust_slot *slots);
    /* Sets outcome, value and text. Verdicts that have an outcome already (asking failed) keep it.
     * Errors: JOUST_NOMEM. */
    joust_status (*conclude)(const joust_case *c, joust_verdict *verdicts, uint32_t n,
                             joust_error *err);
} joust_kind;

/* Value = log p(yes) - log p(no) at the last position of the rendered template. */
extern const joust_kind joust_kind_yes_no;
/* Every unordered pair of the group, in both orders unless the job says otherwise: value =
 * P(subject better), by the labels' probabilities, a tie counting half. One verdict an order, so
 * that their mean is the average over orders; orders that name different answers make both verdicts
 * JOUST_OUTCOME_DISAGREE, without a value. */
extern const joust_kind joust_kind_compare;
/* Value 1 or 0 by judge/rules.h. */
extern const joust_kind joust_kind_rule;
/* Control: value = 5 times a standard normal of the stream (job seed, stage, round, position,
 * sample). */
extern const joust_kind joust_kind_random;

/* The kind of a judge; NULL if there is none. */
const joust_kind *joust_kind_of(joust_judge_kind kind);

/* count and list of the kinds that owe one verdict a sample. */
uint64_t joust_count_each(const joust_job_judge *judge, uint32_t n);
void joust_list_each(const joust_case *c, joust_verdict *verdicts);
/* Views shared by the kinds. */
const joust_trajectory *joust_case_sample(const joust_case *c, uint32_t sample);
/* Response tokens without the end token. */
joust_slot joust_slot_response_tokens(const joust_trajectory *t);
/* Sets an outcome without a value and its reason. Errors: JOUST_NOMEM. */
joust_status joust_verdict_reject(joust_verdict *v, joust_outcome outcome, const char *why,
                                  joust_error *err);
/* Sets OK or TIE with a value. Errors: JOUST_NOMEM. */
joust_status joust_verdict_accept(joust_verdict *v, joust_outcome outcome, double value,
                                  joust_error *err);

#endif
