/* Responses chosen from a list: a trie over token sequences, to be asked before each draw. */
#ifndef JOUST_WORKER_ENGINE_MASKS_TRIE_H
#define JOUST_WORKER_ENGINE_MASKS_TRIE_H

#include "worker/engine/generate.h"

typedef struct joust_trie joust_trie;

/* Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_trie_create(joust_trie **ret, joust_error *err);
void joust_trie_free(joust_trie **trie);
/* Allows a sequence (n >= 1), with the end token that closes it. One that is there changes nothing.
 * Errors: JOUST_INVALID (n is 0), JOUST_NOMEM; nothing is added then, or a beginning of it. */
JOUST_MUST_USE joust_status joust_trie_add(joust_trie *trie, const uint32_t *tokens, uint32_t n,
                                           joust_error *err);
/* A joust_guide_fn; context is the trie: forbids every token that doesn't go on to a sequence of it.
 * After anything else, and after the end of a sequence, nothing is allowed. Thread: any. */
joust_guide_fn joust_trie_guide;

#endif
