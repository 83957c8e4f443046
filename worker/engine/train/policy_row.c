/* Policy gradients of one answer: forward pass, loss, gradient with respect to the logits. */
#include <math.h> /* isfinite */

#include "losses_internal.h"
#include "proto/base/alloc.h"

joust_status joust_policy_row_check(const joust_model_config *c, const joust_policy_row *row,
                                    const joust_policy_settings *p, uint32_t name, joust_error *err)
{
    if (row->n_prompt == 0 || row->n_response == 0)
        return joust_fail(err, JOUST_INVALID,
                          "training row %u: prompt and response must not be empty", name);
    if (p->kl_weight > 0 && !row->ref_logps)
        return joust_fail(err, JOUST_INVALID,
                          "training row %u: no log-probabilities of the reference", name);
    const float *const logps[] = {row->old_logps, row->ref_logps, row->sampler_logps};
    for (uint32_t i = 0; i < row->n_response; i++) {
        bool good = isfinite(row->advantages[i]);
        for (uint32_t k = 0; k < 3; k++)
            good = good && (!logps[k] || isfinite(logps[k][i]));
        if (!good)
            return joust_fail(
                err, JOUST_INVALID,
                "training row %u: response token %u: a log-probability or the advantage is not "
                "finite",
                name, i);
    }
    return joust_answer_check(c, name, row->prompt, row->n_prompt, "response token", row->response,
                              row->n_response, err);
}

/* The stem is prompt and response without its last token; the row after token i - 1 predicts token i. */
static joust_status answer_forward(joust_tape *t, const joust_policy_row *row, joust_error *err)
{
    const joust_tape_part parts[] = {{row->prompt, row->n_prompt},
                                     {row->response, row->n_response - 1}};
    joust_status st = joust_tape_begin(t, parts, 2, err);
    if (st)
        return st;
    for (uint32_t i = 0; i < row->n_response && !st; i++)
        st = joust_tape_ask(t, joust_tape_want(t, row->n_prompt - 1 + i), row->response[i], err);
    return st ? st : joust_tape_forward(t, err);
}

joust_status joust_policy_row_loss(joust_tape *t, const joust_policy_row *row,
                                   const joust_policy_settings *p, joust_policy_shares shares,
                                   joust_row_report *ret, joust_error *err)
{
    joust_status st = answer_forward(t, row, err);
    if (st)
        return st;
    double *logps = joust_calloc(2 * (size_t)row->n_response, sizeof(*logps));
    if (!logps)
        return joust_fail(err, JOUST_NOMEM, "training: no memory for %u tokens", row->n_response);
    double *slopes = logps + row->n_response;
    for (uint32_t i = 0; i < row->n_response; i++)
        logps[i] = (double)joust_tape_logp(t, i, row->response[i]);
    const joust_policy_tokens tokens = {.n = row->n_response,
                                        .logps = logps,
                                        .old_logps = row->old_logps,
                                        .ref_logps = row->ref_logps,
                                        .sampler_logps = row->sampler_logps,
                                        .advantages = row->advantages,
                                        .forced = row->forced};
    const joust_policy_report y = joust_policy_objective(p, &tokens, shares.of_row, slopes);
    *ret =
        (joust_row_report){.loss = y.loss, .kl = y.kl, .ratio = y.ratio, .n_clipped = y.n_clipped};
    for (uint32_t i = 0; i < row->n_response && !st; i++) {
        double entropy = 0;
        joust_tape_pull(t, i, row->response[i], (float)slopes[i]);
        if (p->entropy_weight != 0 && !(row->forced && row->forced[i]))
            st = joust_tape_entropy(t, i, -p->entropy_weight * shares.of_step, &entropy, err);
        ret->entropy += entropy;
    }
    ret->loss -= p->entropy_weight * shares.of_step * ret->entropy;
    joust_free(logps);
    return st;
}
