/* A judge whose model is served by others: its questions are texts, or token ids by the job's tokenizer, and its servers say what the labels are worth. */
#include <stdio.h>
#include <string.h>

#include "judge/judging_internal.h"
#include "proto/base/alloc.h"

typedef struct task { /* a unit */
    joust_unit_result result;
    uint32_t n_left; /* questions to come */
    bool over;       /* it was handed over, or has failed */
} task;

typedef struct question {
    uint32_t unit, verdict;
    char *text; /* or NULL: */
    joust_tokens ids;
} question;

typedef struct asking {
    const joust_judging *judging;
    joust_endpoint *endpoint;
    const joust_lease_unit *const *units;
    const joust_judging_calls *calls;
    task *tasks; /* (n) */
    uint32_t n;
    question *questions; /* (n_questions) */
    joust_endpoint_request *requests;
    uint32_t n_questions;
    uint64_t answers_before;                       /* of the endpoint, before this run */
    joust_endpoint_label labels[JOUST_MAX_LABELS]; /* by ids, where questions are */
} asking;

static joust_verdict *verdict_of(asking *a, uint32_t request)
{
    const question *q = &a->questions[request];
    return &a->tasks[q->unit].result.verdicts[q->verdict];
}

/* ---- ends of units ---- */

static joust_status finish(asking *a, uint32_t unit, joust_error *err)
{
    task *t = &a->tasks[unit];
    t->over = true;
    joust_status st = joust_judging_close(a->judging, a->units[unit], &t->result, err);
    return st == JOUST_OK ? a->calls->done(a->calls->context, unit, &t->result, err) : st;
}

static joust_status fail(asking *a, uint32_t unit, const joust_error *why, joust_error *err)
{
    joust_error told = *why;
    a->tasks[unit].over = true;
    if (told.status == JOUST_UNREACHABLE) /* an outage is no fault of the unit's */
        told.status = JOUST_TIMEOUT;
    return a->calls->failed(a->calls->context, unit, &told, err);
}

/* A question of the unit is answered, or never will be. */
static joust_status count_down(asking *a, uint32_t unit, joust_error *err)
{
    return --a->tasks[unit].n_left == 0 ? finish(a, unit, err) : JOUST_OK;
}

/* ---- answers ---- */

static joust_status add_served(asking *a, uint32_t request, const joust_endpoint_scores *scores,
                               const joust_endpoint_report *report, joust_error *err)
{
    const question *q = &a->questions[request];
    joust_provenance *p = &a->tasks[q->unit].result.provenance;
    joust_served *s = &p->served[p->n_served];
    *s = (joust_served){.url = joust_strdup(report->url),
                        .sample = q->verdict,
                        .tries = report->tries,
                        .latency_us = report->latency_us,
                        .prompt_tokens = scores->usage_prompt,
                        .tokens = scores->usage_completion,
                        .fingerprint = report->fingerprint};
    if (!s->url)
        return joust_fail(err, JOUST_NOMEM, "judge: out of memory");
    p->n_served++;
    p->n_tokens += scores->usage_completion;
    return JOUST_OK;
}

static joust_status scored(void *context, uint32_t request, const joust_endpoint_scores *scores,
                           const joust_endpoint_report *report, joust_error *err)
{
    asking *a = context;
    const uint32_t unit = a->questions[request].unit;
    joust_verdict *v = verdict_of(a, request);
    if (a->tasks[unit].over)
        return JOUST_OK;
    joust_status st = joust_judging_add_labels(a->judging, v, err);
    if (st == JOUST_OK)
        st = add_served(a, request, scores, report, err);
    if (st != JOUST_OK)
        return st;
    memcpy(v->label_logps, scores->logps, v->n_labels * sizeof(*v->label_logps));
    joust_judging_set_residual(v);
    v->fingerprint = report->fingerprint;
    v->n_prompt_tokens = (uint32_t)scores->usage_prompt;
    v->n_tokens = (uint32_t)scores->usage_completion;
    return count_down(a, unit, err);
}

/* An answer is never expected: questions have labels. */
static joust_status answered(void *context, uint32_t request, joust_endpoint_answer *answer,
                             const joust_endpoint_report *report, joust_error *err)
{
    (void)context;
    (void)request;
    (void)answer;
    (void)report;
    return joust_fail(err, JOUST_BUG, "judge: an answer to a question with labels");
}

/* What a question without an answer makes of its verdict; 0: its unit fails. */
static joust_outcome outcome_of(const asking *a, joust_status status)
{
    const bool others = joust_endpoint_answers(a->endpoint) > a->answers_before;
    switch (status) {
    case JOUST_INVALID:
    case JOUST_DENIED:
        return JOUST_OUTCOME_REFUSED;
    case JOUST_MALFORMED:
        return others ? JOUST_OUTCOME_UNPARSABLE : (joust_outcome)0;
    case JOUST_TIMEOUT:
        return others ? JOUST_OUTCOME_TIMEOUT : (joust_outcome)0;
    case JOUST_UNREACHABLE:
        return others ? JOUST_OUTCOME_TRANSPORT : (joust_outcome)0;
    default:
        return (joust_outcome)0;
    }
}

static joust_status failed(void *context, uint32_t request, const joust_error *why,
                           joust_error *err)
{
    asking *a = context;
    const uint32_t unit = a->questions[request].unit;
    const joust_outcome outcome = outcome_of(a, why->status);
    if (a->tasks[unit].over)
        return JOUST_OK;
    if (!outcome)
        return fail(a, unit, why, err);
    joust_status st = joust_verdict_reject(verdict_of(a, request), outcome, why->text, err);
    return st == JOUST_OK ? count_down(a, unit, err) : st;
}

static bool wanted(void *context, uint32_t request)
{
    const asking *a = context;
    const uint32_t unit = a->questions[request].unit;
    return !a->tasks[unit].over && (!a->calls->wanted || a->calls->wanted(a->calls->context, unit));
}

static joust_status step(void *context, uint64_t n_answered, joust_error *err)
{
    const asking *a = context;
    return a->calls->step ? a->calls->step(a->calls->context, n_answered, err) : JOUST_OK;
}

/* ---- questions ---- */

static joust_status take_text(joust_buf *text, question *q, joust_verdict *v, joust_error *err)
{
    q->text = joust_buf_take_text(text);
    if (!q->text)
        return joust_fail(err, JOUST_NOMEM, "judge: a question");
    v->rendered = joust_digest_of(q->text, strlen(q->text));
    return JOUST_OK;
}

/* The question, or the verdict's outcome if it can't be asked: then *ret_asked is false. */
static joust_status render(const asking *a, const joust_case *c, joust_verdict *v, question *q,
                           bool *ret_asked, joust_error *err)
{
    const joust_judging *j = a->judging;
    joust_slot slots[JOUST_JUDGE_MAX_SLOTS];
    joust_buf text = {0};
    joust_error why;
    const uint32_t n_slots = j->kind->fill(c, v, slots);
    joust_status st = j->tokenizer
                          ? joust_template_render(j->template, slots, n_slots, &q->ids, &why)
                          : joust_template_render_text(j->template, slots, n_slots, &text, &why);
    *ret_asked = st == JOUST_OK && (text.n > 0 || q->ids.n > 0);
    if (st == JOUST_INVALID)
        st = joust_verdict_reject(v, JOUST_OUTCOME_SKIPPED, why.text, err);
    else if (st != JOUST_OK)
        joust_fail(err, st, "%s", why.text);
    else if (!*ret_asked)
        st = joust_verdict_reject(v, JOUST_OUTCOME_SKIPPED, "the rendered template is empty", err);
    else if (j->tokenizer)
        v->rendered = joust_judging_digest(&q->ids);
    else
        st = take_text(&text, q, v, err);
    if (!*ret_asked)
        joust_tokens_fini(&q->ids);
    joust_buf_fini(&text);
    return st;
}

static joust_stream stream_of(const asking *a, const joust_verdict *v)
{
    return joust_stream_open(&(joust_stream_name){.job_seed = a->judging->job->seed,
                                                  .stage = v->key.stage,
                                                  .round = v->key.round,
                                                  .prompt = v->key.position,
                                                  .sample = v->sample,
                                                  .purpose = JOUST_PURPOSE_JUDGE});
}

/* Puts the verdict's question at the end of the list, if there is one. */
static joust_status pose(asking *a, uint32_t unit, uint32_t verdict, const joust_case *c,
                         joust_error *err)
{
    joust_verdict *v = &a->tasks[unit].result.verdicts[verdict];
    question *q = &a->questions[a->n_questions];
    joust_endpoint_request *r = &a->requests[a->n_questions];
    bool asked;
    joust_status st = render(a, c, v, q, &asked, err);
    if (st != JOUST_OK || !asked) {
        joust_tokens_fini(&q->ids);
        return st;
    }
    q->unit = unit;
    q->verdict = verdict;
    *r = (joust_endpoint_request){.prompt = q->text,
                                  .ids = q->ids.ids,
                                  .n_ids = q->ids.n,
                                  .label_ids = q->text ? NULL : a->labels,
                                  .labels = (const char *const *)a->judging->judge->labels,
                                  .n_labels = a->judging->judge->n_labels,
                                  .stream = stream_of(a, v),
                                  /* A group's questions begin alike. */
                                  .key = joust_checksum(&v->key, sizeof(v->key))};
    snprintf(r->id, sizeof(r->id), "r%u.s%u.p%llu.%u", v->key.round, v->key.stage,
             (unsigned long long)v->key.position, verdict);
    a->n_questions++;
    a->tasks[unit].n_left++;
    return JOUST_OK;
}

static joust_status pose_unit(asking *a, uint32_t unit, joust_error *err)
{
    task *t = &a->tasks[unit];
    const joust_case c = joust_judging_case(a->judging, a->units[unit]);
    joust_status st = JOUST_OK;
    t->result.provenance.served =
        joust_calloc(t->result.n_verdicts, sizeof(*t->result.provenance.served));
    if (!t->result.provenance.served)
        return joust_fail(err, JOUST_NOMEM, "judge: %u verdicts", t->result.n_verdicts);
    for (uint32_t i = 0; st == JOUST_OK && i < t->result.n_verdicts; i++)
        st = pose(a, unit, i, &c, err);
    return st == JOUST_OK && t->n_left == 0 ? finish(a, unit, err) : st;
}

/* Verdicts of all units, and room for their questions. */
static joust_status open_units(asking *a, joust_error *err)
{
    size_t n_verdicts = 0;
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < a->n; i++) {
        st = joust_judging_open(a->judging, a->units[i], &a->tasks[i].result, err);
        if (st == JOUST_OK && a->tasks[i].result.n_verdicts > JOUST_MAX_GROUP)
            st =
                joust_fail(err, JOUST_TOO_LARGE,
                           "judge '%s': %u questions about a group, of which servers are asked %u "
                           "at most: lower rollout.samples",
                           a->judging->judge->name, a->tasks[i].result.n_verdicts, JOUST_MAX_GROUP);
        n_verdicts += a->tasks[i].result.n_verdicts;
    }
    if (st != JOUST_OK)
        return st;
    a->questions = joust_calloc(n_verdicts, sizeof(*a->questions));
    a->requests = joust_calloc(n_verdicts, sizeof(*a->requests));
    if (!a->questions || !a->requests)
        return joust_fail(err, JOUST_NOMEM, "judge: %zu questions", n_verdicts);
    for (uint32_t i = 0; st == JOUST_OK && i < a->n; i++)
        st = pose_unit(a, i, err);
    return st;
}

joust_status joust_judging_ask(joust_judging *judging, joust_endpoint *endpoint,
                               const joust_lease_unit *const *units, uint32_t n,
                               const joust_judging_calls *calls, joust_error *err)
{
    asking a = {.judging = judging,
                .endpoint = endpoint,
                .units = units,
                .calls = calls,
                .n = n,
                .answers_before = joust_endpoint_answers(endpoint)};
    const joust_endpoint_calls asked = {.answered = answered,
                                        .scored = scored,
                                        .failed = failed,
                                        .wanted = wanted,
                                        .step = step,
                                        .context = &a};
    for (uint32_t i = 0; judging->tokenizer && i < judging->judge->n_labels; i++)
        a.labels[i] = (joust_endpoint_label){judging->judge->labels[i], judging->labels[i].ids,
                                             judging->labels[i].n};
    a.tasks = joust_calloc(n, sizeof(*a.tasks));
    joust_status st = a.tasks ? open_units(&a, err) : joust_fail(err, JOUST_NOMEM, "judge: tasks");
    if (st == JOUST_OK && a.n_questions > 0) {
        if (judging->tokenizer)
            joust_endpoint_score_ids(endpoint, &a.labels[1], &a.labels[0]);
        joust_endpoint_begin_round(endpoint, units[0]->unit.round + 1);
        st = joust_endpoint_run(endpoint, a.requests, a.n_questions, &asked, err);
    }
    for (uint32_t i = 0; i < a.n_questions; i++) {
        joust_free(a.questions[i].text);
        joust_tokens_fini(&a.questions[i].ids);
    }
    for (uint32_t i = 0; a.tasks && i < n; i++)
        joust_unit_result_fini(&a.tasks[i].result);
    joust_free(a.questions);
    joust_free(a.requests);
    joust_free(a.tasks);
    return st;
}
