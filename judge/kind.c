#include "judge/kind.h"

#include "proto/base/alloc.h"

const joust_kind *joust_kind_of(joust_judge_kind kind)
{
    switch (kind) {
    case JOUST_JUDGE_YES_NO:
        return &joust_kind_yes_no;
    case JOUST_JUDGE_COMPARE:
        return &joust_kind_compare;
    case JOUST_JUDGE_RULE:
        return &joust_kind_rule;
    case JOUST_JUDGE_RANDOM:
        return &joust_kind_random;
    }
    return NULL;
}

uint64_t joust_count_each(const joust_job_judge *judge, uint32_t n)
{
    (void)judge;
    return n;
}

void joust_list_each(const joust_case *c, joust_verdict *verdicts)
{
    for (uint32_t i = 0; i < c->unit->n_trajectories; i++) {
        verdicts[i].sample = i;
        verdicts[i].other = JOUST_NONE;
    }
}

const joust_trajectory *joust_case_sample(const joust_case *c, uint32_t sample)
{
    return &c->unit->trajectories[sample];
}

joust_slot joust_slot_response_tokens(const joust_trajectory *t)
{
    uint32_t end = t->finish == JOUST_FINISH_STOP && t->n_tokens > 0 ? 1 : 0;
    return (joust_slot){
        .name = "response_tokens", .tokens = t->tokens, .n_tokens = t->n_tokens - end};
}

static joust_status set_text(joust_verdict *v, const char *text, joust_error *err)
{
    char *copy = joust_strdup(text);
    if (!copy)
        return joust_fail(err, JOUST_NOMEM, "verdict: out of memory");
    joust_free(v->text);
    v->text = copy;
    return JOUST_OK;
}

joust_status joust_verdict_reject(joust_verdict *v, joust_outcome outcome, const char *why,
                                  joust_error *err)
{
    v->outcome = outcome;
    v->has_value = false;
    v->value = 0;
    return set_text(v, why, err);
}

joust_status joust_verdict_accept(joust_verdict *v, joust_outcome outcome, double value,
                                  joust_error *err)
{
    v->outcome = outcome;
    v->has_value = true;
    v->value = value;
    return v->text ? JOUST_OK : set_text(v, "", err);
}
