/* A scalar head in training: scores of a pair's answers, values of an answer's tokens. Forward pass, loss, gradient with
 * respect to the head's one output. */
#include <math.h> /* isfinite */

#include "links_internal.h"
#include "losses_internal.h"
#include "proto/base/alloc.h"

static double output(const joust_tape *t, uint32_t i)
{
    return (double)joust_tape_logit(t, i, 0);
}

static void output_pull(joust_tape *t, uint32_t i, double slope)
{
    joust_tape_add(t, i, 0, (float)slope);
}

/* ---- pairs ----------------------------------------------------------------------------------- */

/* Where the two scores are among the wanted rows: after each answer's last token, or the prompt's. */
typedef struct scores_wanted {
    uint32_t chosen, rejected;
} scores_wanted;

static joust_status scores_forward(joust_tape *t, const joust_pair_row *row, scores_wanted *ret,
                                   joust_error *err)
{
    const joust_tape_part parts[] = {{row->prompt, row->n_prompt},
                                     {row->chosen, row->n_chosen},
                                     {row->rejected, row->n_rejected}};
    joust_status st = joust_tape_begin(t, parts, 3, err);
    if (st)
        return st;
    const uint32_t prompt = row->n_prompt - 1, chosen = prompt + row->n_chosen,
                   rejected = row->n_rejected ? chosen + row->n_rejected : prompt;
    *ret = (scores_wanted){.rejected = chosen < rejected};
    ret->chosen = !ret->rejected;
    for (uint32_t i = 0; i < 2 && !st; i++)
        st = joust_tape_ask(t, joust_tape_want(t, i == ret->rejected ? rejected : chosen), 0, err);
    return st ? st : joust_tape_forward(t, err);
}

joust_status joust_scores_row_loss(joust_tape *t, const joust_pair_row *row,
                                   const joust_pair_step *step, joust_row_report *ret,
                                   joust_error *err)
{
    scores_wanted at;
    joust_status st = scores_forward(t, row, &at, err);
    if (st)
        return st;
    const joust_pair_logps pair = {.chosen = output(t, at.chosen),
                                   .rejected = output(t, at.rejected),
                                   .n_chosen = row->n_chosen,
                                   .n_rejected = row->n_rejected,
                                   .margin = row->margin};
    const joust_pair_slopes y = joust_pair_objective(step->settings, &pair);
    *ret = (joust_row_report){
        .loss = y.loss, .chosen_reward = y.chosen_reward, .rejected_reward = y.rejected_reward};
    output_pull(t, at.chosen, step->share * y.chosen);
    output_pull(t, at.rejected, step->share * y.rejected);
    return JOUST_OK;
}

/* ---- values ---------------------------------------------------------------------------------- */

joust_status joust_value_row_check(const joust_model_config *c, const joust_value_row *row,
                                   uint32_t name, joust_error *err)
{
    if (row->n_prompt == 0 || row->n_response == 0)
        return joust_fail(err, JOUST_INVALID,
                          "training row %u: prompt and response must not be empty", name);
    for (uint32_t i = 0; i < row->n_response && row->returns; i++)
        if (!isfinite(row->returns[i]) || (row->old_values && !isfinite(row->old_values[i])))
            return joust_fail(err, JOUST_INVALID,
                              "training row %u: response token %u: a value or return is not finite",
                              name, i);
    return joust_answer_check(c, name, row->prompt, row->n_prompt, "response token", row->response,
                              row->n_response, err);
}

joust_status joust_value_row_values(joust_tape *t, const joust_value_row *row, double *ret,
                                    joust_error *err)
{
    const joust_tape_part parts[] = {{row->prompt, row->n_prompt},
                                     {row->response, row->n_response - 1}};
    joust_status st = joust_tape_begin(t, parts, 2, err);
    if (st)
        return st;
    for (uint32_t i = 0; i < row->n_response && !st; i++)
        st = joust_tape_ask(t, joust_tape_want(t, row->n_prompt - 1 + i), 0, err);
    if (!st)
        st = joust_tape_forward(t, err);
    for (uint32_t i = 0; i < row->n_response && !st; i++)
        ret[i] = output(t, i);
    return st;
}

joust_status joust_value_row_loss(joust_tape *t, const joust_value_row *row,
                                  const joust_policy_settings *p, double share,
                                  joust_row_report *ret, joust_error *err)
{
    double *values = joust_calloc(2 * (size_t)row->n_response, sizeof(*values));
    if (!values)
        return joust_fail(err, JOUST_NOMEM, "training: no memory for %u tokens", row->n_response);
    double *slopes = values + row->n_response;
    joust_status st = joust_value_row_values(t, row, values, err);
    if (!st) {
        const joust_value_tokens tokens = {.n = row->n_response,
                                           .values = values,
                                           .old_values = row->old_values,
                                           .returns = row->returns,
                                           .forced = row->forced};
        const joust_value_report y = joust_value_objective(p, &tokens, share, slopes);
        *ret = (joust_row_report){.loss = y.loss, .n_clipped = y.n_clipped};
        for (uint32_t i = 0; i < row->n_response; i++)
            output_pull(t, i, slopes[i]);
    }
    joust_free(values);
    return st;
}
