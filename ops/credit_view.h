/* What a policy loss made of an answer: its reward, its advantage in its group, the credit of each token, and the training
 * steps that used it. Computed from what is recorded, as training does. PPO's advantages are its critic's: they aren't recorded,
 * and a reward is all that is shown. Thread: one. */
#ifndef JOUST_OPS_CREDIT_VIEW_H
#define JOUST_OPS_CREDIT_VIEW_H

#include "proto/plan.h"
#include "storage/store.h"
#include "storage/tables.h"

typedef struct joust_credit_view joust_credit_view;

/* store is kept. *ret is NULL where no policy loss trains on any answer of the job. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_credit_view_open(joust_store *store, joust_credit_view **ret,
                                                   joust_error *err);
void joust_credit_view_close(joust_credit_view **view);

typedef struct joust_answer_credit {
    uint32_t pair_stage; /* that made it; JOUST_NONE: no policy loss trains on the answer */
    bool has_reward, has_advantage; /* without an advantage it isn't trained on, or by PPO */
    double reward, advantage;
} joust_answer_credit;
/* Fast for answers in key order: a group is read once. Errors: of the store. */
JOUST_MUST_USE joust_status joust_credit_view_get(joust_credit_view *view,
                                                  const joust_trajectory *answer,
                                                  joust_answer_credit *ret, joust_error *err);
/* Adds `reward` and `advantage` (or null) to the JSON object that `to` ends with. Errors: of the store. */
JOUST_MUST_USE joust_status joust_credit_add_json(joust_credit_view *view,
                                                  const joust_trajectory *answer, joust_buf *to,
                                                  joust_error *err);

/* line: the answer as joust_export_one has it; the callee may change it. */
typedef joust_status joust_credit_line_fn(void *context, const joust_trajectory *answer,
                                          joust_buf *line, joust_error *err);
/* All answers of a range, in key order. Errors: of the store; fn's. */
JOUST_MUST_USE joust_status joust_credit_each_json(joust_store *store, const joust_key_range *range,
                                                   bool provenance, joust_credit_line_fn *fn,
                                                   void *context, joust_error *err);

/* Prints what a policy loss made of the answer, token by token, and its steps; nothing where none trains on it. Errors: of
 * the store. */
JOUST_MUST_USE joust_status joust_credit_explain(joust_store *store, const joust_trajectory *answer,
                                                 joust_error *err);
/* The same as members of the JSON object that `to` ends with: reward, advantage, credit (a number a token), steps. */
JOUST_MUST_USE joust_status joust_credit_explain_json(joust_store *store, const joust_record_id *id,
                                                      joust_buf *to, joust_error *err);

#endif
