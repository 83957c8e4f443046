/* Where samples' responses stand in an automaton, so that a step walks the tokens drawn since the last one and not all of them.
 * What is remembered decides nothing: it is used only where it is of the same tokens. Thread: one at a time. */
#ifndef JOUST_WORKER_ENGINE_MASKS_WALKED_INTERNAL_H
#define JOUST_WORKER_ENGINE_MASKS_WALKED_INTERNAL_H

#include <stdint.h>

enum { JOUST_WALKED_SLOTS = 256 };

typedef struct joust_walked_slot {
    uint32_t *tokens; /* (n) that led to state; owned */
    uint32_t n, room, state;
} joust_walked_slot;

/* Zeroed at first. */
typedef struct joust_walked {
    joust_walked_slot slots[JOUST_WALKED_SLOTS];
} joust_walked;

/* How many of a sample's n tokens are known to lead to *ret_state; 0: none. */
uint32_t joust_walked_find(const joust_walked *w, uint32_t request, uint32_t sample,
                           const uint32_t *tokens, uint32_t n, uint32_t *ret_state);
/* Remembers; without memory it doesn't. */
void joust_walked_put(joust_walked *w, uint32_t request, uint32_t sample, const uint32_t *tokens,
                      uint32_t n, uint32_t state);
/* Forgets all: states have other meanings from here on. */
void joust_walked_clear(joust_walked *w);
void joust_walked_fini(joust_walked *w);

#endif
