/* One answer after its prompt, as the engine computes it, and a number for each of its tokens. Thread: the compute thread. */
#ifndef JOUST_WORKER_ANSWER_H
#define JOUST_WORKER_ANSWER_H

#include "proto/messages.h"
#include "worker/engine/generate.h"

typedef struct joust_answer {
    uint32_t *tokens; /* (n) prompt, then response */
    float *numbers;   /* (n - first), of the response */
    uint32_t n, first;
} joust_answer;

/* Of the row's chosen answer, which isn't empty. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_answer_make(const joust_train_row_pair *row, joust_answer *ret,
                                              joust_error *err);
void joust_answer_fini(joust_answer *answer);
/* numbers = log-probs under the model. Errors: those of joust_score. */
JOUST_MUST_USE joust_status joust_answers_score(joust_engine *engine, joust_model *model,
                                                const joust_answer *answers, uint32_t n,
                                                joust_error *err);
/* numbers = a critic's values before each token. Errors: those of joust_hidden. */
JOUST_MUST_USE joust_status joust_answers_values(joust_engine *engine, joust_model *critic,
                                                 const joust_answer *answers, uint32_t n,
                                                 joust_error *err);

#endif
