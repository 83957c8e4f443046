/* What a trainer says of rows without a step: log-probs and values by the pass that training computes. */
#include "proto/base/alloc.h"
#include "trainer_internal.h"

joust_status joust_trainer_values(joust_trainer *t, const joust_value_row *row, float *ret_values,
                                  joust_error *err)
{
    joust_value_row alone = *row;
    alone.old_values = NULL;
    alone.returns = NULL;
    joust_status st = joust_trainer_check_scalar(&t->model->config, JOUST_LOSS_VALUE, err);
    if (!st)
        st = joust_value_row_check(&t->model->config, &alone, 0, err);
    if (!st)
        st = joust_trainer_make_tapes(t, 1, err);
    if (st)
        return st;
    double *values = joust_calloc(row->n_response, sizeof(*values));
    if (!values)
        return joust_fail(err, JOUST_NOMEM, "values: no memory for %u tokens", row->n_response);
    st = joust_value_row_values(t->tapes[0], &alone, values, err);
    for (uint32_t i = 0; i < row->n_response && !st; i++)
        ret_values[i] = (float)values[i];
    joust_free(values);
    return st;
}

joust_status joust_trainer_logps(joust_trainer *t, const uint32_t *tokens, uint32_t n,
                                 uint32_t first, float *ret_logps, joust_error *err)
{
    const joust_model_config *c = &t->model->config;
    if (n < 2 || n > c->context || first < 1 || first >= n)
        return joust_fail(err, JOUST_INVALID,
                          "training log-probs: tokens %u to %u of a context of %u", first, n,
                          c->context);
    joust_status st = joust_model_check_language(c, "log-probabilities", err);
    if (!st)
        st = joust_model_check_tokens(c, "token", tokens, n, err);
    if (st)
        return joust_blame(err, st, "training log-probs");
    st = joust_trainer_make_tapes(t, 1, err);
    const joust_tape_part part = {tokens, n - 1};
    if (!st)
        st = joust_tape_begin(t->tapes[0], &part, 1, err);
    if (st)
        return st;
    for (uint32_t i = first; i < n && !st; i++)
        st = joust_tape_ask(t->tapes[0], joust_tape_want(t->tapes[0], i - 1), tokens[i], err);
    if (!st)
        st = joust_tape_forward(t->tapes[0], err);
    for (uint32_t i = first; i < n && !st; i++)
        ret_logps[i - first] = joust_tape_logp(t->tapes[0], i - first, tokens[i]);
    return st;
}

joust_status joust_trainer_pair_logps(joust_trainer *t, const joust_pair_row *row,
                                      float *ret_chosen, float *ret_rejected, joust_error *err)
{
    joust_status st = joust_model_check_language(&t->model->config, "log-probabilities", err);
    if (!st)
        st = joust_pair_row_check(&t->model->config, row, 0, err);
    if (!st)
        st = joust_trainer_make_tapes(t, 1, err);
    if (!st)
        st = joust_pair_row_logps(t->tapes[0], row, ret_chosen, ret_rejected, err);
    return st;
}
