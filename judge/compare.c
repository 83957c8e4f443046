#include "judge/kind.h"
#include "proto/base/math.h"

enum { FIRST, SECOND, TIE };

static const char *const slots[] = {"prompt", "first", "second", "reference"};

static uint64_t count(const joust_job_judge *judge, uint32_t n)
{
    uint64_t pairs = (uint64_t)n * (n - (n > 0)) / 2;
    return judge->both_orders ? 2 * pairs : pairs;
}

static void list(const joust_case *c, joust_verdict *verdicts)
{
    uint32_t n = c->unit->n_trajectories, orders = c->judge->both_orders ? 2 : 1;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t j = i + 1; j < n; j++)
            for (uint32_t order = 0; order < orders; order++) {
                verdicts->sample = i;
                verdicts->other = j;
                verdicts->order = order;
                verdicts++;
            }
}

static uint32_t fill(const joust_case *c, const joust_verdict *v, joust_slot *to)
{
    const char *subject = joust_case_sample(c, v->sample)->text;
    const char *other = joust_case_sample(c, v->other)->text;
    uint32_t n = 0;
    to[n++] = (joust_slot){.name = "prompt", .text = c->unit->prompt.text};
    to[n++] = (joust_slot){.name = "first", .text = v->order == 0 ? subject : other};
    to[n++] = (joust_slot){.name = "second", .text = v->order == 0 ? other : subject};
    if (c->unit->prompt.reference)
        to[n++] = (joust_slot){.name = "reference", .text = c->unit->prompt.reference};
    return n;
}

static double subject_logp(const joust_verdict *v)
{
    return v->label_logps[v->order == 0 ? FIRST : SECOND];
}

static double other_logp(const joust_verdict *v)
{
    return v->label_logps[v->order == 0 ? SECOND : FIRST];
}

/* Neither is ahead, or the tie label is ahead of both. */
static bool is_tie(const joust_verdict *v)
{
    double subject = subject_logp(v), other = other_logp(v);
    return subject == other ||
           (v->n_labels > TIE && v->label_logps[TIE] > subject && v->label_logps[TIE] > other);
}

/* P(subject better): the subject's share of the labels' probability, a tie counting half. */
static double preference(const joust_verdict *v)
{
    double subject = subject_logp(v), other = other_logp(v);
    if (subject == other)
        return 0.5;
    double all = joust_log_add(subject, other);
    if (v->n_labels <= TIE)
        return joust_exp(subject - all);
    all = joust_log_add(all, v->label_logps[TIE]);
    return joust_exp(subject - all) + 0.5 * joust_exp(v->label_logps[TIE] - all);
}

static joust_status conclude_one(joust_verdict *v, joust_error *err)
{
    return joust_verdict_accept(v, is_tie(v) ? JOUST_OUTCOME_TIE : JOUST_OUTCOME_OK, preference(v),
                                err);
}

/* The two orders of one pair name different answers. */
static bool orders_disagree(const joust_verdict *a, const joust_verdict *b)
{
    return a->outcome == JOUST_OUTCOME_OK && b->outcome == JOUST_OUTCOME_OK &&
           (a->value > 0.5) != (b->value > 0.5);
}

static joust_status conclude(const joust_case *c, joust_verdict *verdicts, uint32_t n,
                             joust_error *err)
{
    for (uint32_t i = 0; i < n; i++) {
        joust_status st = verdicts[i].outcome ? JOUST_OK : conclude_one(&verdicts[i], err);
        if (st != JOUST_OK)
            return st;
    }
    for (uint32_t i = 0; c->judge->both_orders && i + 1 < n; i += 2) {
        if (!orders_disagree(&verdicts[i], &verdicts[i + 1]))
            continue;
        for (uint32_t order = 0; order < 2; order++) {
            joust_status st = joust_verdict_reject(&verdicts[i + order], JOUST_OUTCOME_DISAGREE,
                                                   "the two orders name different answers", err);
            if (st != JOUST_OK)
                return st;
        }
    }
    return JOUST_OK;
}

const joust_kind joust_kind_compare = {
    .name = "compare",
    .slots = slots,
    .n_slots = sizeof(slots) / sizeof(slots[0]),
    .count = count,
    .list = list,
    .fill = fill,
    .conclude = conclude,
};
