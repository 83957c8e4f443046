#include "worker/answer.h"

#include <string.h>

#include "proto/base/alloc.h"
#include "worker/engine/hidden.h"

joust_status joust_answer_make(const joust_train_row_pair *row, joust_answer *ret, joust_error *err)
{
    const uint32_t n = row->n_prompt_tokens + row->n_chosen;
    joust_answer a = {.tokens = joust_calloc(n, sizeof(*a.tokens)),
                      .numbers = joust_calloc(row->n_chosen, sizeof(*a.numbers)),
                      .n = n,
                      .first = row->n_prompt_tokens};
    if (!a.tokens || !a.numbers) {
        joust_answer_fini(&a);
        return joust_fail(err, JOUST_NOMEM, "train: %u tokens", n);
    }
    memcpy(a.tokens, row->prompt_tokens, row->n_prompt_tokens * sizeof(*a.tokens));
    memcpy(a.tokens + a.first, row->chosen, row->n_chosen * sizeof(*a.tokens));
    *ret = a;
    return JOUST_OK;
}

void joust_answer_fini(joust_answer *a)
{
    joust_free(a->tokens);
    joust_free(a->numbers);
    *a = (joust_answer){0};
}

joust_status joust_answers_score(joust_engine *engine, joust_model *model,
                                 const joust_answer *answers, uint32_t n, joust_error *err)
{
    if (n == 0)
        return JOUST_OK;
    joust_score_request *requests = joust_calloc(n, sizeof(*requests));
    if (!requests)
        return joust_fail(err, JOUST_NOMEM, "train: %u answers", n);
    for (uint32_t i = 0; i < n; i++)
        requests[i] = (joust_score_request){.tokens = answers[i].tokens,
                                            .n = answers[i].n,
                                            .first = answers[i].first,
                                            .ret_logps = answers[i].numbers};
    joust_status st = joust_score(engine, model, requests, n, NULL, NULL, err);
    joust_free(requests);
    return st;
}

/* What stands before response token i was read up to the token before it. */
joust_status joust_answers_values(joust_engine *engine, joust_model *critic,
                                  const joust_answer *answers, uint32_t n, joust_error *err)
{
    if (n == 0)
        return JOUST_OK;
    joust_hidden_request *requests = joust_calloc(n, sizeof(*requests));
    if (!requests)
        return joust_fail(err, JOUST_NOMEM, "train: %u answers", n);
    for (uint32_t i = 0; i < n; i++)
        requests[i] = (joust_hidden_request){.tokens = answers[i].tokens,
                                             .n = answers[i].n - 1,
                                             .first = answers[i].first - 1,
                                             .ret_scores = answers[i].numbers};
    joust_status st = joust_hidden(engine, critic, requests, n, NULL, NULL, err);
    joust_free(requests);
    return st;
}
