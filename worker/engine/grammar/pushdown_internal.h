/* Recognises the texts of a grammar byte by byte. What may follow a text is a set of places, each a node of the grammar with
 * what follows its rule, itself such a set: a stack whose tails are shared by all that have the same, so that ambiguity adds
 * and never multiplies. Equal sets are one set, known by a number, and a set's ways on are kept: a step is a look-up.
 * Thread: one at a time. */
#ifndef JOUST_WORKER_ENGINE_GRAMMAR_PUSHDOWN_INTERNAL_H
#define JOUST_WORKER_ENGINE_GRAMMAR_PUSHDOWN_INTERNAL_H

#include "grammar_internal.h"

#define JOUST_PUSHDOWN_KINDS 5
#define JOUST_NO_SET         UINT32_MAX /* no text that goes on so is one of the grammar's */

typedef struct joust_pushdown joust_pushdown;

/* Keeps g, which must outlive it. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_pushdown_create(const joust_grammar *g, joust_pushdown **ret,
                                                  joust_error *err);
void joust_pushdown_free(joust_pushdown **p);
/* Forgets all sets. */
void joust_pushdown_reset(joust_pushdown *p);
uint64_t joust_pushdown_bytes(const joust_pushdown *p); /* that its sets take */
/* Before any byte. Errors: as a step's. */
JOUST_MUST_USE joust_status joust_pushdown_start(joust_pushdown *p, uint32_t *ret,
                                                 joust_error *err);
/* The set behind a byte, or JOUST_NO_SET. Errors: JOUST_TOO_LARGE (a set of too many places, or all of them together: reset it
 * and try again), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_pushdown_step(joust_pushdown *p, uint32_t set, uint8_t byte,
                                                uint32_t *ret, joust_error *err);
/* Whether the text so far is one of the grammar's. */
bool joust_pushdown_accepts(const joust_pushdown *p, uint32_t set);
/* Parts a set, so that sets which differ in what they lead to far away have a part in common: what `look` bytes reach is what they
 * reach from *ret_top, and, wherever *ret_top accepts, from *ret_below too. In *ret_top a counted repetition of which more than
 * `look` texts are left stands as its beginning. *ret_below JOUST_NO_SET: nothing follows; *ret_top JOUST_NO_SET: can't be
 * parted. Errors: as a step's. */
JOUST_MUST_USE joust_status joust_pushdown_part(joust_pushdown *p, uint32_t set, uint32_t look,
                                                uint32_t *ret_top, uint32_t *ret_below,
                                                joust_error *err);
/* Room for what the caller keeps with a set: `kind` below JOUST_PUSHDOWN_KINDS, NULL at first; freed with the set by joust_free. It counts
 * n_bytes in joust_pushdown_bytes once it is put there. */
void *joust_pushdown_kept(const joust_pushdown *p, uint32_t set, int kind);
void joust_pushdown_keep(joust_pushdown *p, uint32_t set, int kind, void *block, size_t n_bytes);

#endif
