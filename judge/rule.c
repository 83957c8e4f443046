#include "judge/kind.h"

static joust_rule_result apply(const joust_case *c, const char *response)
{
    const char *reference = c->unit->prompt.reference;
    switch (c->judge->rule) {
    case JOUST_RULE_FINAL_NUMBER:
        return joust_rule_final_number(response, reference);
    case JOUST_RULE_STEPS_AND_NUMBER:
        return joust_rule_steps_and_number(response, reference);
    case JOUST_RULE_EXACT:
        return joust_rule_exact(response, reference);
    case JOUST_RULE_REGEX:
        return joust_rule_pattern_match(c->pattern, response);
    case JOUST_RULE_NONE:
        break;
    }
    return JOUST_RULE_NO_REFERENCE;
}

static joust_status conclude_one(const joust_case *c, joust_verdict *v, joust_error *err)
{
    switch (apply(c, joust_case_sample(c, v->sample)->text)) {
    case JOUST_RULE_TRUE:
        return joust_verdict_accept(v, JOUST_OUTCOME_OK, 1, err);
    case JOUST_RULE_FALSE:
        return joust_verdict_accept(v, JOUST_OUTCOME_OK, 0, err);
    case JOUST_RULE_LIMIT:
        return joust_verdict_reject(v, JOUST_OUTCOME_UNPARSABLE,
                                    "the pattern reached its match limit", err);
    case JOUST_RULE_NO_REFERENCE:
        break;
    }
    return joust_verdict_reject(v, JOUST_OUTCOME_SKIPPED,
                                "the prompt has no reference that this rule can compare with", err);
}

static joust_status conclude(const joust_case *c, joust_verdict *verdicts, uint32_t n,
                             joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < n && st == JOUST_OK; i++)
        st = conclude_one(c, &verdicts[i], err);
    return st;
}

const joust_kind joust_kind_rule = {
    .name = "rule", .count = joust_count_each, .list = joust_list_each, .conclude = conclude};
