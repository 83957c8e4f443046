#include "losses_internal.h"

#include <math.h> /* isfinite */

#include "links_internal.h"
#include "proto/base/math.h"

/* ---- checks ---------------------------------------------------------------------------------- */

static joust_status tokens_check(const joust_model_config *c, uint32_t name, const char *what,
                                 const uint32_t *tokens, uint32_t n, joust_error *err)
{
    joust_status st = joust_model_check_tokens(c, what, tokens, n, err);
    return st ? joust_blame(err, st, "training row %u", name) : JOUST_OK;
}

static joust_status length_check(const joust_model_config *c, uint32_t name, uint64_t n,
                                 joust_error *err)
{
    if (n <= c->context)
        return JOUST_OK;
    return joust_fail(err, JOUST_INVALID, "training row %u: %llu tokens, the context is %u", name,
                      (unsigned long long)n, c->context);
}

joust_status joust_answer_check(const joust_model_config *c, uint32_t name, const uint32_t *prompt,
                                uint32_t n_prompt, const char *what, const uint32_t *response,
                                uint32_t n_response, joust_error *err)
{
    joust_status st = length_check(c, name, (uint64_t)n_prompt + n_response, err);
    if (!st)
        st = tokens_check(c, name, "prompt token", prompt, n_prompt, err);
    return st ? st : tokens_check(c, name, what, response, n_response, err);
}

joust_status joust_pair_row_check(const joust_model_config *c, const joust_pair_row *row,
                                  uint32_t name, joust_error *err)
{
    if (row->n_prompt == 0 || (row->n_chosen == 0 && row->n_rejected == 0))
        return joust_fail(
            err, JOUST_INVALID,
            "training row %u: the prompt, and one of chosen and rejected, must not be empty", name);
    if (!isfinite(row->ref_chosen) || !isfinite(row->ref_rejected) || !isfinite(row->margin))
        return joust_fail(
            err, JOUST_INVALID,
            "training row %u: a reference log-probability or the margin is not finite", name);
    joust_status st = joust_answer_check(c, name, row->prompt, row->n_prompt, "chosen token",
                                         row->chosen, row->n_chosen, err);
    return st ? st
              : joust_answer_check(c, name, row->prompt, row->n_prompt, "rejected token",
                                   row->rejected, row->n_rejected, err);
}

static joust_status target_check(const joust_model_config *c, const joust_sft_row *row,
                                 const joust_target *target, uint32_t name, joust_error *err)
{
    if (target->position == 0 || target->position > row->n)
        return joust_fail(err, JOUST_INVALID,
                          "training row %u: target position %u, must be from 1 to %u", name,
                          target->position, row->n);
    if (!isfinite(target->weight))
        return joust_fail(err, JOUST_INVALID,
                          "training row %u: the weight at position %u is not finite", name,
                          target->position);
    joust_status st = tokens_check(c, name, "target token", &target->token, 1, err);
    if (!st)
        st = tokens_check(c, name, "among token", target->among, target->n_among, err);
    bool found = target->n_among == 0;
    for (uint32_t i = 0; i < target->n_among; i++)
        found = found || target->among[i] == target->token;
    if (!st && !found)
        st = joust_fail(err, JOUST_INVALID,
                        "training row %u: target %u at position %u is not among its own tokens",
                        name, target->token, target->position);
    return st;
}

joust_status joust_sft_row_check(const joust_model_config *c, const joust_sft_row *row,
                                 uint32_t name, joust_error *err)
{
    if (row->n == 0 || row->n_targets == 0)
        return joust_fail(err, JOUST_INVALID,
                          "training row %u: tokens and targets must not be empty", name);
    joust_status st = length_check(c, name, row->n, err);
    if (!st)
        st = tokens_check(c, name, "row token", row->tokens, row->n, err);
    for (uint32_t i = 0; i < row->n_targets && !st; i++)
        st = target_check(c, row, &row->targets[i], name, err);
    return st;
}

/* ---- preference pairs ------------------------------------------------------------------------ */

static uint32_t wanted_of(uint32_t first, uint32_t i)
{
    return i == 0 ? 0 : first + i - 1;
}

/* Wants the logits that predict tokens of a branch: after the stem for the first, then after each
 * but the last. Row of the stem's end is wanted already, as number 0. Returns the number for the
 * branch's second token. */
static uint32_t branch_want(joust_tape *t, uint32_t part)
{
    uint32_t first = t->n_wanted;
    for (uint32_t i = 0; i < t->parts[part].n; i++)
        joust_tape_want(t, t->first_row[part] + i);
    return first;
}

/* Asks for the log-probabilities of a branch's tokens. */
static joust_status branch_ask(joust_tape *t, uint32_t first, const uint32_t *tokens, uint32_t n,
                               joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < n && !st; i++)
        st = joust_tape_ask(t, wanted_of(first, i), tokens[i], err);
    return st;
}

/* Two sums in one pass: tokens from `shared` on weigh alpha in the first, 1 in the second. */
static void response_logp(const joust_tape *t, uint32_t first, const uint32_t *tokens,
                          const uint8_t *forced, uint32_t n, uint32_t shared, double alpha,
                          double *ret, double *ret_plain)
{
    *ret = *ret_plain = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (forced && forced[i])
            continue;
        const double logp = (double)joust_tape_logp(t, wanted_of(first, i), tokens[i]);
        *ret += i < shared ? logp : alpha * logp;
        *ret_plain += logp;
    }
}

static void response_pull(joust_tape *t, uint32_t first, const uint32_t *tokens,
                          const uint8_t *forced, uint32_t n, uint32_t shared, double factor,
                          double tail_factor)
{
    for (uint32_t i = 0; i < n; i++)
        if (!forced || !forced[i])
            joust_tape_pull(t, wanted_of(first, i), tokens[i],
                            (float)(i < shared ? factor : tail_factor));
}

/* Where the logits of a pair's responses are among the wanted rows: of the second token on. */
typedef struct pair_wanted {
    uint32_t chosen, rejected;
} pair_wanted;

static joust_status pair_forward(joust_tape *t, const joust_pair_row *row, pair_wanted *ret,
                                 joust_error *err)
{
    /* The last token of a response predicts nothing. */
    const joust_tape_part parts[] = {{row->prompt, row->n_prompt},
                                     {row->chosen, row->n_chosen ? row->n_chosen - 1 : 0},
                                     {row->rejected, row->n_rejected ? row->n_rejected - 1 : 0}};
    joust_status st = joust_tape_begin(t, parts, 3, err);
    if (st)
        return st;
    joust_tape_want(t, row->n_prompt - 1);
    ret->chosen = branch_want(t, 1);
    ret->rejected = branch_want(t, 2);
    st = branch_ask(t, ret->chosen, row->chosen, row->n_chosen, err);
    if (!st)
        st = branch_ask(t, ret->rejected, row->rejected, row->n_rejected, err);
    return st ? st : joust_tape_forward(t, err);
}

joust_status joust_pair_row_logps(joust_tape *t, const joust_pair_row *row, float *ret_chosen,
                                  float *ret_rejected, joust_error *err)
{
    pair_wanted at;
    joust_status st = pair_forward(t, row, &at, err);
    for (uint32_t i = 0; i < row->n_chosen && !st; i++)
        ret_chosen[i] = joust_tape_logp(t, wanted_of(at.chosen, i), row->chosen[i]);
    for (uint32_t i = 0; i < row->n_rejected && !st; i++)
        ret_rejected[i] = joust_tape_logp(t, wanted_of(at.rejected, i), row->rejected[i]);
    return st;
}

uint32_t joust_pair_shared(uint32_t n_chosen, uint32_t n_rejected)
{
    return n_chosen < n_rejected ? n_chosen : n_rejected;
}

uint32_t joust_response_weighed(const uint8_t *forced, uint32_t n)
{
    uint32_t n_weighed = 0;
    for (uint32_t i = 0; i < n; i++)
        n_weighed += !forced || !forced[i];
    return n_weighed;
}

double joust_response_sum(const float *logps, const uint8_t *forced, uint32_t n, uint32_t shared,
                          double alpha)
{
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        if (!forced || !forced[i])
            sum += i < shared ? (double)logps[i] : alpha * (double)logps[i];
    return sum;
}

joust_status joust_pair_row_loss(joust_tape *t, const joust_pair_row *row,
                                 const joust_pair_step *step, joust_row_report *ret,
                                 joust_error *err)
{
    pair_wanted at;
    joust_status st = pair_forward(t, row, &at, err);
    if (st)
        return st;
    const double alpha = step->settings->objective.ld_alpha;
    const uint32_t shared = joust_pair_shared(row->n_chosen, row->n_rejected);
    joust_pair_logps pair = {.ref_chosen = row->ref_chosen,
                             .ref_rejected = row->ref_rejected,
                             .n_chosen = joust_response_weighed(row->chosen_forced, row->n_chosen),
                             .n_rejected =
                                 joust_response_weighed(row->rejected_forced, row->n_rejected),
                             .margin = row->margin,
                             .baseline = step->baseline,
                             .sft_mean = step->sft_mean};
    double unused;
    response_logp(t, at.chosen, row->chosen, row->chosen_forced, row->n_chosen, shared, alpha,
                  &pair.chosen, &pair.plain_chosen);
    response_logp(t, at.rejected, row->rejected, row->rejected_forced, row->n_rejected, shared,
                  alpha, &pair.rejected, &unused);
    const joust_pair_slopes y = joust_pair_objective(step->settings, &pair);
    *ret = (joust_row_report){
        .loss = y.loss, .chosen_reward = y.chosen_reward, .rejected_reward = y.rejected_reward};
    response_pull(t, at.chosen, row->chosen, row->chosen_forced, row->n_chosen, shared,
                  step->share * (y.chosen + y.plain_chosen),
                  step->share * (alpha * y.chosen + y.plain_chosen));
    response_pull(t, at.rejected, row->rejected, row->rejected_forced, row->n_rejected, shared,
                  step->share * y.rejected, step->share * (alpha * y.rejected));
    return JOUST_OK;
}

/* ---- supervised rows ------------------------------------------------------------------------- */

/* -log p(token) among the target's own tokens, and its gradient: double, in the order of `among`.
 * */
static double among_loss(joust_tape *t, uint32_t i, const joust_target *target, double factor)
{
    double largest = (double)joust_tape_logit(t, i, target->among[0]), sum = 0;
    for (uint32_t k = 1; k < target->n_among; k++)
        if ((double)joust_tape_logit(t, i, target->among[k]) > largest)
            largest = (double)joust_tape_logit(t, i, target->among[k]);
    for (uint32_t k = 0; k < target->n_among; k++)
        sum += joust_exp((double)joust_tape_logit(t, i, target->among[k]) - largest);
    for (uint32_t k = 0; k < target->n_among; k++)
        joust_tape_add(
            t, i, target->among[k],
            (float)(factor *
                    (joust_exp((double)joust_tape_logit(t, i, target->among[k]) - largest) / sum)));
    joust_tape_add(t, i, target->token, -(float)factor);
    return largest + joust_log(sum) - (double)joust_tape_logit(t, i, target->token);
}

/* Asks for what the targets compare. */
static joust_status targets_ask(joust_tape *t, const joust_sft_row *row, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < row->n_targets && !st; i++) {
        const joust_target *target = &row->targets[i];
        const uint32_t wanted = joust_tape_find(t, target->position - 1);
        st = joust_tape_ask(t, wanted, target->token, err);
        for (uint32_t k = 0; k < target->n_among && !st; k++)
            st = joust_tape_ask(t, wanted, target->among[k], err);
    }
    return st;
}

/* Wants the rows before all targets' positions; a pass a row where targets don't rise. */
static void wanted_list(joust_tape *t, const joust_sft_row *row)
{
    for (uint32_t position = 0;;) { /* the last one listed */
        uint32_t next = UINT32_MAX;
        for (uint32_t i = 0; i < row->n_targets && next != position + 1; i++)
            if (row->targets[i].position > position && row->targets[i].position < next)
                next = row->targets[i].position;
        if (next == UINT32_MAX)
            return;
        joust_tape_want(t, next - 1);
        position = next;
    }
}

joust_status joust_sft_row_loss(joust_tape *t, const joust_sft_row *row, double share,
                                joust_row_report *ret, joust_error *err)
{
    joust_tape_part part = {row->tokens, 0}; /* up to the last position that predicts something */
    for (uint32_t i = 0; i < row->n_targets; i++)
        if (row->targets[i].position > part.n)
            part.n = row->targets[i].position;
    joust_status st = joust_tape_begin(t, &part, 1, err);
    if (st)
        return st;
    wanted_list(t, row);
    st = targets_ask(t, row, err);
    if (!st)
        st = joust_tape_forward(t, err);
    if (st)
        return st;
    double loss = 0;
    for (uint32_t i = 0; i < row->n_targets; i++) {
        const joust_target *target = &row->targets[i];
        uint32_t wanted = joust_tape_find(t, target->position - 1);
        const double factor = share * (double)target->weight;
        if (target->n_among) {
            loss += (double)target->weight * among_loss(t, wanted, target, factor);
        } else {
            loss -= (double)target->weight * (double)joust_tape_logp(t, wanted, target->token);
            joust_tape_pull(t, wanted, target->token, (float)-factor);
        }
    }
    *ret = (joust_row_report){.loss = loss};
    return JOUST_OK;
}
