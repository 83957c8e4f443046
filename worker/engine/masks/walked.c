#include "walked_internal.h"

#include <string.h>

#include "proto/base/alloc.h"

static uint32_t slot_of(uint32_t request, uint32_t sample)
{
    return (request * 2654435761u ^ sample * 2246822519u) >> 24;
}

uint32_t joust_walked_find(const joust_walked *w, uint32_t request, uint32_t sample,
                           const uint32_t *tokens, uint32_t n, uint32_t *ret_state)
{
    const joust_walked_slot *s = &w->slots[slot_of(request, sample)];
    if (s->n == 0 || s->n > n || memcmp(s->tokens, tokens, s->n * sizeof(*tokens)) != 0)
        return 0;
    *ret_state = s->state;
    return s->n;
}

void joust_walked_put(joust_walked *w, uint32_t request, uint32_t sample, const uint32_t *tokens,
                      uint32_t n, uint32_t state)
{
    joust_walked_slot *s = &w->slots[slot_of(request, sample)];
    if (n > s->room) {
        const uint32_t room = n + n / 2 + 64;
        uint32_t *to = joust_realloc_array(s->tokens, room, sizeof(*to));
        if (!to)
            return;
        s->tokens = to;
        s->room = room;
    }
    if (n > 0)
        memcpy(s->tokens, tokens, n * sizeof(*tokens));
    s->n = n;
    s->state = state;
}

void joust_walked_clear(joust_walked *w)
{
    for (int i = 0; i < JOUST_WALKED_SLOTS; i++)
        w->slots[i].n = 0;
}

void joust_walked_fini(joust_walked *w)
{
    for (int i = 0; i < JOUST_WALKED_SLOTS; i++)
        joust_free(w->slots[i].tokens);
    *w = (joust_walked){0};
}
