/* Stop strings: a response ends when its decoded text holds one. */
#ifndef JOUST_WORKER_ENGINE_TEXT_STOP_H
#define JOUST_WORKER_ENGINE_TEXT_STOP_H

#include "proto/base/settings.h"
#include "worker/engine/text/tokenizer.h"

typedef struct joust_stop {
    const joust_tokenizer *tokenizer;
    const char *const *texts; /* (n) none empty */
    uint32_t n;
    uint32_t n_forced; /* first tokens of a response, whose text isn't looked at */
} joust_stop;

/* A joust_watch_fn over a joust_stop: ends a response whose text holds a stop string. A text that runs
 * over several tokens is found at the last of them, which stays in the response. Looked at are the last
 * (longest text + 32) tokens, decoded as they are, special tokens left out. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_stop_watch(void *stop, uint32_t request, uint32_t sample,
                                             const uint32_t *tokens, uint32_t n,
                                             joust_finish *ret_finish, joust_error *err);
/* Bytes of text before the first stop string that begins at byte `from` or later; n without one. */
size_t joust_stop_cut(const joust_stop *s, const char *text, size_t n, size_t from);
/* A response's text: special tokens left out, cut before the stop string if finish is STOP_STRING,
 * without the end token if it is STOP. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_stop_text(const joust_stop *s, const uint32_t *tokens, uint32_t n,
                                            joust_finish finish, joust_buf *to, joust_error *err);

#endif
