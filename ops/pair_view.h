/* A preference pair explains itself: the rule that chose it, every sample of its groups with reward and verdicts, its
 * answers token by token, and the training steps that used it. Thread: one. */
#ifndef JOUST_OPS_PAIR_VIEW_H
#define JOUST_OPS_PAIR_VIEW_H

#include "proto/plan.h"
#include "storage/lineage.h"

/* Prints all that on standard output, behind what `joust pairs show` says of the pair itself. Errors: of the store. */
JOUST_MUST_USE joust_status joust_pair_explain(joust_store *store, const joust_plan *plan,
                                               const joust_lineage *lineage, joust_error *err);
/* The same as members of the JSON object that `to` ends with: its closing brace is taken off and set again. */
JOUST_MUST_USE joust_status joust_pair_explain_json(joust_store *store, const joust_record_id *id,
                                                    joust_buf *to, joust_error *err);

#endif
