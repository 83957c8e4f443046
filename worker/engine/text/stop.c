#include "worker/engine/text/stop.h"

#include <string.h>

#define MORE_TOKENS 32u /* that may add no byte: parts of a character, special tokens */

size_t joust_stop_cut(const joust_stop *s, const char *text, size_t n, size_t from)
{
    size_t first = n;
    for (uint32_t i = 0; i < s->n; i++) {
        const size_t length = strlen(s->texts[i]);
        for (size_t at = from; at + length <= first; at++)
            if (memcmp(text + at, s->texts[i], length) == 0) {
                first = at;
                break;
            }
    }
    return first;
}

joust_status joust_stop_watch(void *stop, uint32_t request, uint32_t sample, const uint32_t *tokens,
                              uint32_t n, joust_finish *ret_finish, joust_error *err)
{
    (void)request;
    (void)sample;
    const joust_stop *s = stop;
    size_t longest = 0;
    for (uint32_t i = 0; i < s->n; i++)
        longest = strlen(s->texts[i]) > longest ? strlen(s->texts[i]) : longest;
    uint32_t first = s->n_forced < n ? s->n_forced : n;
    if (n - first > longest + MORE_TOKENS)
        first = n - (uint32_t)longest - MORE_TOKENS;
    joust_buf text = {0};
    joust_status st =
        joust_tokenizer_decode(s->tokenizer, tokens + first, n - first, true, &text, err);
    if (!st && joust_stop_cut(s, (const char *)text.data, text.n, 0) < text.n)
        *ret_finish = JOUST_FINISH_STOP_STRING;
    joust_buf_fini(&text);
    return st;
}

joust_status joust_stop_text(const joust_stop *s, const uint32_t *tokens, uint32_t n,
                             joust_finish finish, joust_buf *to, joust_error *err)
{
    if (finish == JOUST_FINISH_STOP && n > 0)
        n--;
    const size_t before = to->n;
    joust_status st = joust_tokenizer_decode(s->tokenizer, tokens, n, true, to, err);
    if (st || finish != JOUST_FINISH_STOP_STRING)
        return st;
    joust_buf forced = {0};
    st = joust_tokenizer_decode(s->tokenizer, tokens, s->n_forced, true, &forced, err);
    size_t n_text = to->n - before, from = forced.n < n_text ? forced.n : n_text;
    if (!st && n_text > 0) { /* a buffer's bytes are followed by a NUL */
        to->n = before + joust_stop_cut(s, (const char *)to->data + before, n_text, from);
        to->data[to->n] = 0;
    }
    joust_buf_fini(&forced);
    return st;
}
