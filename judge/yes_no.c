#include "judge/kind.h"

enum { YES, NO };

static const char *const slots[] = {"prompt_tokens", "response_tokens", "prompt", "response",
                                    "reference"};

static uint32_t fill(const joust_case *c, const joust_verdict *verdict, joust_slot *to)
{
    const joust_trajectory *t = joust_case_sample(c, verdict->sample);
    uint32_t n = 0;
    to[n++] = (joust_slot){
        .name = "prompt_tokens", .tokens = t->prompt_tokens, .n_tokens = t->n_prompt_tokens};
    to[n++] = joust_slot_response_tokens(t);
    to[n++] = (joust_slot){.name = "prompt", .text = c->unit->prompt.text};
    to[n++] = (joust_slot){.name = "response", .text = t->text};
    if (c->unit->prompt.reference)
        to[n++] = (joust_slot){.name = "reference", .text = c->unit->prompt.reference};
    return n;
}

static joust_status conclude(const joust_case *c, joust_verdict *verdicts, uint32_t n,
                             joust_error *err)
{
    (void)c;
    for (uint32_t i = 0; i < n; i++) {
        joust_verdict *v = &verdicts[i];
        if (v->outcome)
            continue;
        double odds = v->label_logps[YES] - v->label_logps[NO];
        joust_status st = joust_verdict_accept(v, JOUST_OUTCOME_OK, odds, err);
        if (st != JOUST_OK)
            return st;
    }
    return JOUST_OK;
}

const joust_kind joust_kind_yes_no = {
    .name = "yes-no",
    .slots = slots,
    .n_slots = sizeof(slots) / sizeof(slots[0]),
    .count = joust_count_each,
    .list = joust_list_each,
    .fill = fill,
    .conclude = conclude,
};
