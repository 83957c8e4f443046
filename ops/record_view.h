/* Records on a terminal: what `joust pairs|trajectories|verdicts list|show|stats` prints. Writes to standard
 * output; errors of it show at the end (ferror). Thread: one. */
#ifndef JOUST_OPS_RECORD_VIEW_H
#define JOUST_OPS_RECORD_VIEW_H

#include "storage/keys.h"
#include "storage/store.h"

/* Opens the store that `--store` named (NULL: it wasn't given) for reading. Returns -1 and *ret to go on, else the exit
 * status to leave with: the error has been printed as `joust verb: …`. */
int joust_view_open(const char *verb, const char *dir, joust_store **ret);

/* One line a record in key order, under a heading; at most `limit` (0: all). */
JOUST_MUST_USE joust_status joust_view_list(joust_store *store, joust_family family,
                                            const joust_key_range *range, uint64_t limit,
                                            joust_error *err);
/* One record in full: texts, rewards, verdicts, policy, and for a pair what joust_pair_explain adds. */
JOUST_MUST_USE joust_status joust_view_show(joust_store *store, joust_family family,
                                            const joust_record_id *id, joust_error *err);
/* Counts and means by round and stage, as a table or as JSON Lines. */
JOUST_MUST_USE joust_status joust_view_stats(joust_store *store, joust_family family,
                                             const joust_key_range *range, bool json,
                                             joust_error *err);

#endif
