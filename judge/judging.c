#include "judge/judging_internal.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/math.h"

/* Questions scored at once: bounds the memory of a batch, not its result. */
#define MAX_QUESTIONS 512u

/* A verdict's rendered prompt, waiting for the log-probabilities of the labels. */
typedef struct question {
    joust_verdict *verdict;
    joust_tokens tokens;
} question;

typedef struct batch {
    const joust_judging *judging;
    joust_engine *engine;
    joust_model *model;
    joust_step_fn *step;
    void *context;
    uint32_t n;
    question questions[MAX_QUESTIONS];
} batch;

/* A label that the model can't tell from the unknown word, or from another label, would give a value that says nothing. */
static joust_status check_label(const joust_judging *j, uint32_t i, joust_error *err)
{
    const joust_tokens *label = &j->labels[i];
    const char *name = j->judge->name, *text = j->judge->labels[i];
    for (uint32_t k = 0; k < label->n; k++) {
        if (label->ids[k] == joust_tokenizer_unknown(j->tokenizer))
            return joust_fail(err, JOUST_INVALID,
                              "judge '%s': label '%s' is not in the vocabulary of its model: it "
                              "reads as the unknown token; choose a word that the model knows",
                              name, text);
    }
    for (uint32_t k = 0; k < i; k++) {
        const joust_tokens *other = &j->labels[k];
        if (other->n == label->n && !memcmp(other->ids, label->ids, label->n * sizeof(*label->ids)))
            return joust_fail(err, JOUST_INVALID,
                              "judge '%s': labels '%s' and '%s' are the same tokens to its model",
                              name, j->judge->labels[k], text);
    }
    return JOUST_OK;
}

static joust_status compile_labels(joust_judging *j, joust_error *err)
{
    for (uint32_t i = 0; i < j->judge->n_labels; i++) {
        const char *label = j->judge->labels[i];
        joust_status st =
            joust_tokenizer_encode(j->tokenizer, label, strlen(label), true, &j->labels[i], err);
        if (st != JOUST_OK)
            return joust_blame(err, st, "judge '%s', label '%s'", j->judge->name, label);
        if (j->labels[i].n == 0)
            return joust_fail(err, JOUST_INVALID, "judge '%s': label %u has no token: '%s'",
                              j->judge->name, i, label);
        st = check_label(j, i, err);
        if (st != JOUST_OK)
            return st;
        if (j->labels[i].n > j->longest_label)
            j->longest_label = j->labels[i].n;
    }
    return JOUST_OK;
}

/* Labels that are put to servers, as text. */
static joust_status check_texts(const joust_judging *j, joust_error *err)
{
    for (uint32_t i = 0; i < j->judge->n_labels; i++) {
        const char *label = j->judge->labels[i];
        if (!*label)
            return joust_fail(err, JOUST_INVALID, "judge '%s': label %u is empty", j->judge->name,
                              i);
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(label, j->judge->labels[k]) == 0)
                return joust_fail(err, JOUST_INVALID, "judge '%s': label '%s' is there twice",
                                  j->judge->name, label);
    }
    return JOUST_OK;
}

/* Of servers that list the likeliest first tokens of an answer, labels are asked for that are one. */
static joust_status check_first_tokens(const joust_judging *j, joust_error *err)
{
    const joust_job_endpoint *e = &j->job->models[j->stage->model].endpoint;
    for (uint32_t i = 0; e->scoring == JOUST_SCORING_TOP && i < j->judge->n_labels; i++)
        if (j->labels[i].n != 1)
            return joust_fail(err, JOUST_INVALID,
                              "judge '%s': label '%s' is %u tokens to its model, and scoring: top "
                              "asks for the first alone: choose another, or say scoring: echo",
                              j->judge->name, j->judge->labels[i], j->labels[i].n);
    return JOUST_OK;
}

static joust_status compile(joust_judging *j, joust_error *err)
{
    if (j->judge->rule == JOUST_RULE_REGEX && j->judge->kind == JOUST_JUDGE_RULE) {
        joust_status st = joust_rule_pattern_compile(j->judge->pattern ? j->judge->pattern : "",
                                                     &j->pattern, err);
        return st == JOUST_OK ? st : joust_blame(err, st, "judge '%s'", j->judge->name);
    }
    if (!j->kind->slots)
        return JOUST_OK;
    uint32_t least = 2, most = j->judge->kind == JOUST_JUDGE_COMPARE ? 3 : JOUST_MAX_LABELS;
    const bool served = joust_stage_is_served(j->job, j->stage);
    if (!(j->tokenizer || served) || !j->judge->template_text)
        return joust_fail(err, JOUST_INVALID, "judge '%s': kind %s needs a model and a template",
                          j->judge->name, j->kind->name);
    if (j->judge->n_labels < least || j->judge->n_labels > most)
        return joust_fail(err, JOUST_INVALID, "judge '%s': %u labels; kind %s takes %u to %u",
                          j->judge->name, j->judge->n_labels, j->kind->name, least, most);
    joust_status st = joust_template_compile(j->tokenizer, j->judge->template_text, j->kind->slots,
                                             j->kind->n_slots, &j->template, err);
    if (st != JOUST_OK)
        return joust_blame(err, st, "judge '%s'", j->judge->name);
    if (!j->tokenizer)
        return check_texts(j, err);
    st = compile_labels(j, err);
    return st == JOUST_OK && served ? check_first_tokens(j, err) : st;
}

joust_status joust_judging_create(const joust_job *job, const joust_stage *stage,
                                  const joust_tokenizer *tokenizer, joust_judging **ret,
                                  joust_error *err)
{
    assert(stage->kind == JOUST_STAGE_JUDGE && stage->judge < job->n_judges);
    joust_judging *j = joust_calloc(1, sizeof(*j));
    if (!j)
        return joust_fail(err, JOUST_NOMEM, "judge: out of memory");
    j->job = job;
    j->stage = stage;
    j->judge = &job->judges[stage->judge];
    j->kind = joust_kind_of(j->judge->kind);
    j->tokenizer = tokenizer;
    joust_status st = j->kind ? compile(j, err)
                              : joust_fail(err, JOUST_UNSUPPORTED, "judge '%s': unknown kind %d",
                                           j->judge->name, (int)j->judge->kind);
    if (st != JOUST_OK) {
        joust_judging_free(&j);
        return st;
    }
    *ret = j;
    return JOUST_OK;
}

void joust_judging_free(joust_judging **judging)
{
    joust_judging *j = *judging;
    if (!j)
        return;
    for (uint32_t i = 0; i < JOUST_MAX_LABELS; i++)
        joust_tokens_fini(&j->labels[i]);
    joust_template_free(&j->template);
    joust_rule_pattern_free(&j->pattern);
    joust_free(j);
    *judging = NULL;
}

bool joust_judging_asks(const joust_job *job, const joust_stage *stage)
{
    const joust_kind *kind = joust_kind_of(job->judges[stage->judge].kind);
    return kind && kind->slots;
}

joust_digest joust_judging_digest(const joust_tokens *t)
{
    joust_hasher h;
    joust_hasher_init(&h);
    for (uint32_t i = 0; i < t->n; i++) {
        uint8_t bytes[4];
        joust_put_be32(bytes, t->ids[i]);
        joust_hasher_add(&h, bytes, sizeof(bytes));
    }
    return joust_hasher_end(&h);
}

void joust_judging_set_residual(joust_verdict *v)
{
    double covered = 0;
    for (uint32_t i = 0; i < v->n_labels; i++)
        covered += joust_exp(v->label_logps[i]);
    v->residual = covered < 1 ? 1 - covered : 0;
}

joust_status joust_judging_add_labels(const joust_judging *j, joust_verdict *v, joust_error *err)
{
    v->label_logps = joust_calloc(j->judge->n_labels, sizeof(*v->label_logps));
    if (!v->label_logps)
        return joust_fail(err, JOUST_NOMEM, "judge: labels");
    v->n_labels = j->judge->n_labels;
    return JOUST_OK;
}

/* logps: (n_labels, longest_label) */
static void answer(const joust_judging *j, joust_verdict *v, const float *logps)
{
    for (uint32_t i = 0; i < j->judge->n_labels; i++, logps += j->longest_label) {
        v->label_logps[i] = 0;
        for (uint32_t k = 0; k < j->labels[i].n; k++)
            v->label_logps[i] += logps[k];
    }
    joust_judging_set_residual(v);
}

/* Requests of one question: labels of single tokens are one request, others one each (forced
 * likelihood; its text, question and label, is made in texts). */
static joust_status request(const joust_judging *j, const question *q, const uint32_t *next,
                            joust_tokens *texts, float *logps, joust_score_request *to,
                            joust_error *err)
{
    uint32_t n_labels = j->judge->n_labels;
    joust_status st = JOUST_OK;
    if (j->longest_label == 1) {
        *to = (joust_score_request){.tokens = q->tokens.ids,
                                    .n = q->tokens.n,
                                    .first = q->tokens.n,
                                    .next = next,
                                    .n_next = n_labels,
                                    .ret_next_logps = logps};
        return JOUST_OK;
    }
    for (uint32_t i = 0; i < n_labels && st == JOUST_OK; i++) {
        st = joust_tokens_add(&texts[i], q->tokens.ids, q->tokens.n, err);
        if (st == JOUST_OK)
            st = joust_tokens_add(&texts[i], j->labels[i].ids, j->labels[i].n, err);
        to[i] = (joust_score_request){.tokens = texts[i].ids,
                                      .n = texts[i].n,
                                      .first = q->tokens.n,
                                      .ret_logps = logps + (size_t)i * j->longest_label};
    }
    return st;
}

/* Asks the model all questions at hand. */
static joust_status score(const batch *b, joust_error *err)
{
    const joust_judging *j = b->judging;
    const uint32_t n_labels = j->judge->n_labels, each = j->longest_label == 1 ? 1 : n_labels;
    const uint32_t n = b->n * each;
    const size_t stride = (size_t)n_labels * j->longest_label;
    joust_status st = JOUST_OK;
    joust_score_request *requests = joust_calloc(n, sizeof(*requests));
    joust_tokens *texts = joust_calloc(n, sizeof(*texts));
    float *logps = joust_calloc(b->n * stride, sizeof(*logps));
    uint32_t next[JOUST_MAX_LABELS];
    if (!requests || !texts || !logps)
        st = joust_fail(err, JOUST_NOMEM, "judge: %u questions", b->n);
    for (uint32_t i = 0; i < n_labels; i++)
        next[i] = j->labels[i].ids[0];
    for (uint32_t i = 0; i < b->n && st == JOUST_OK; i++)
        st = request(j, &b->questions[i], next, texts + i * each, logps + i * stride,
                     requests + i * each, err);
    if (st == JOUST_OK)
        st = joust_score(b->engine, b->model, requests, n, b->step, b->context, err);
    for (uint32_t i = 0; i < b->n && st == JOUST_OK; i++)
        answer(j, b->questions[i].verdict, logps + i * stride);
    for (uint32_t i = 0; texts && i < n; i++)
        joust_tokens_fini(&texts[i]);
    joust_free(logps);
    joust_free(texts);
    joust_free(requests);
    return st;
}

/* Asks the model all questions at hand and empties the batch. */
static joust_status flush(batch *b, joust_error *err)
{
    joust_status st = b->n > 0 ? score(b, err) : JOUST_OK;
    for (uint32_t i = 0; i < b->n; i++)
        joust_tokens_fini(&b->questions[i].tokens);
    b->n = 0;
    return st;
}

/* Why the rendered tokens can't be asked, as an outcome; 0 if they can. */
static joust_outcome obstacle(const batch *b, const joust_tokens *t, char *why, size_t n_why)
{
    const joust_model_config *config = joust_model_get_config(b->model);
    uint32_t longest = b->judging->longest_label;
    if (t->n == 0) {
        snprintf(why, n_why, "the rendered template is empty");
        return JOUST_OUTCOME_SKIPPED;
    }
    if (t->n > config->context || longest - 1 > config->context - t->n) {
        snprintf(why, n_why, "the rendered prompt of %u tokens leaves no room in a context of %u",
                 t->n, config->context);
        return JOUST_OUTCOME_TRUNCATED;
    }
    for (uint32_t i = 0; i < t->n; i++)
        if (t->ids[i] >= config->vocab_size) {
            snprintf(why, n_why, "token %u is outside the judge's vocabulary of %u", t->ids[i],
                     config->vocab_size);
            return JOUST_OUTCOME_SKIPPED;
        }
    return (joust_outcome)0;
}

/* Renders one verdict's question into the batch, or gives the verdict its outcome if it can't be
 * asked. */
static joust_status pose(batch *b, const joust_case *c, joust_verdict *v, joust_error *err)
{
    const joust_judging *j = b->judging;
    joust_slot slots[JOUST_JUDGE_MAX_SLOTS];
    joust_tokens tokens = {0};
    joust_error reason = {0};
    char why[256];
    uint32_t n_slots = j->kind->fill(c, v, slots);
    joust_status st = joust_template_render(j->template, slots, n_slots, &tokens, &reason);
    if (st == JOUST_INVALID) { /* the case lacks a slot, or the judge's vocabulary a word of it */
        joust_tokens_fini(&tokens);
        return joust_verdict_reject(v, JOUST_OUTCOME_SKIPPED, reason.text, err);
    }
    if (st != JOUST_OK) {
        joust_tokens_fini(&tokens);
        return joust_fail(err, st, "%s", reason.text);
    }
    v->rendered = joust_judging_digest(&tokens);
    v->n_prompt_tokens = tokens.n;
    joust_outcome outcome = obstacle(b, &tokens, why, sizeof(why));
    if (outcome) {
        joust_tokens_fini(&tokens);
        return joust_verdict_reject(v, outcome, why, err);
    }
    st = joust_judging_add_labels(j, v, err);
    if (st != JOUST_OK) {
        joust_tokens_fini(&tokens);
        return st;
    }
    b->questions[b->n++] = (question){v, tokens};
    return b->n == MAX_QUESTIONS ? flush(b, err) : JOUST_OK;
}

joust_case joust_judging_case(const joust_judging *j, const joust_lease_unit *unit)
{
    return (joust_case){
        .seed = j->job->seed, .judge = j->judge, .unit = unit, .pattern = j->pattern};
}

joust_status joust_judging_open(const joust_judging *j, const joust_lease_unit *unit,
                                joust_unit_result *ret, joust_error *err)
{
    joust_case c = joust_judging_case(j, unit);
    uint64_t n = j->kind->count(j->judge, unit->n_trajectories);
    if (n > JOUST_JUDGE_MAX_VERDICTS)
        return joust_fail(err, JOUST_TOO_LARGE,
                          "judge '%s': %llu verdicts about a group of %u; at most %u: lower "
                          "rollout.samples or use another kind",
                          j->judge->name, (unsigned long long)n, unit->n_trajectories,
                          JOUST_JUDGE_MAX_VERDICTS);
    ret->verdicts = joust_calloc((size_t)n, sizeof(*ret->verdicts));
    if (!ret->verdicts)
        return joust_fail(err, JOUST_NOMEM, "judge: %llu verdicts", (unsigned long long)n);
    ret->n_verdicts = (uint32_t)n;
    j->kind->list(&c, ret->verdicts);
    for (uint32_t i = 0; i < n; i++) {
        joust_verdict *v = &ret->verdicts[i];
        v->key = unit->unit;
        v->of_stage = j->stage->of;
        snprintf(v->judge, sizeof(v->judge), "%s", j->judge->name);
        snprintf(v->kind, sizeof(v->kind), "%s", j->kind->name);
        if (j->template) {
            v->model = unit->model;
            v->template_digest = joust_template_digest(j->template);
        }
    }
    return JOUST_OK;
}

void joust_judging_drop(joust_unit_result *r)
{
    for (uint32_t i = 0; i < r->n_verdicts; i++)
        joust_verdict_fini(&r->verdicts[i]);
    joust_free(r->verdicts);
    r->verdicts = NULL;
    r->n_verdicts = 0;
}

static joust_status pose_all(batch *b, const joust_lease_unit *unit, joust_unit_result *r,
                             joust_error *err)
{
    joust_case c = joust_judging_case(b->judging, unit);
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < r->n_verdicts && st == JOUST_OK; i++)
        st = pose(b, &c, &r->verdicts[i], err);
    return st;
}

/* Log-probabilities that are no numbers can't be weighed. */
static joust_status refuse_not_finite(joust_unit_result *r, joust_error *err)
{
    for (uint32_t i = 0; i < r->n_verdicts; i++) {
        joust_verdict *v = &r->verdicts[i];
        bool finite = true;
        for (uint32_t k = 0; k < v->n_labels; k++)
            finite = finite && isfinite(v->label_logps[k]);
        if (finite)
            continue;
        v->n_labels = 0;
        joust_free(v->label_logps);
        v->label_logps = NULL;
        v->residual = 0;
        joust_status st = joust_verdict_reject(v, JOUST_OUTCOME_UNPARSABLE,
                                               "a label's log-probability is not finite", err);
        if (st != JOUST_OK)
            return st;
    }
    return JOUST_OK;
}

joust_status joust_judging_close(const joust_judging *j, const joust_lease_unit *unit,
                                 joust_unit_result *r, joust_error *err)
{
    const joust_case c = joust_judging_case(j, unit);
    joust_status st = refuse_not_finite(r, err);
    return st == JOUST_OK ? j->kind->conclude(&c, r->verdicts, r->n_verdicts, err) : st;
}

joust_status joust_judging_run(joust_judging *judging, joust_engine *engine, joust_model *model,
                               const joust_lease_unit *const *units, uint32_t n,
                               joust_unit_result *results, joust_step_fn *step, void *context,
                               joust_error *err)
{
    joust_status st = JOUST_OK;
    uint32_t n_open = 0;
    batch *b = joust_calloc(1, sizeof(*b));
    if (!b)
        return joust_fail(err, JOUST_NOMEM, "judge: batch");
    *b = (batch){
        .judging = judging, .engine = engine, .model = model, .step = step, .context = context};
    for (uint32_t i = 0; i < n && st == JOUST_OK; i++) {
        st = joust_judging_open(judging, units[i], &results[i], err);
        n_open += st == JOUST_OK;
        if (st == JOUST_OK && judging->template)
            st = pose_all(b, units[i], &results[i], err);
    }
    if (st == JOUST_OK)
        st = flush(b, err);
    for (uint32_t i = 0; i < n && st == JOUST_OK; i++)
        st = joust_judging_close(judging, units[i], &results[i], err);
    if (st != JOUST_OK) {
        for (uint32_t i = 0; i < b->n; i++)
            joust_tokens_fini(&b->questions[i].tokens);
        for (uint32_t i = 0; i < n_open; i++)
            joust_judging_drop(&results[i]);
    }
    joust_free(b);
    return st;
}
