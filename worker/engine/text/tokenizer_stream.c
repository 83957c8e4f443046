/* Decoding token by token. Until the first byte is out, the tokens so far are decoded as the text's begin, where a
 * decoder may strip; from then on each token by itself. Bytes are given out once they form characters. */
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/text.h"
#include "tokenizer_internal.h"

#define MAX_STRIPPED                                                                               \
    8u /* tokens that may vanish at the begin are decoded again with each that follows */

struct joust_decoding {
    const joust_tokenizer *tokenizer;
    bool skip_special;
    joust_tokenizer_scratch scratch;
    joust_tokens begin; /* while nothing is out */
    joust_buf held;     /* bytes of a character that isn't whole */
};

/* Whether each token's text follows from it alone, but for what is stripped at the begin. */
static joust_status check(const joust_steps *decoder, joust_error *err)
{
    bool joined = false;
    for (uint32_t i = 0; i < decoder->n; i++) {
        const joust_step *step = &decoder->items[i];
        bool joins = step->kind == JOUST_STEP_UNBYTES || step->kind == JOUST_STEP_FUSE ||
                     step->kind == JOUST_STEP_BYTE_FALLBACK;
        bool strips = step->kind == JOUST_STEP_STRIP && step->whole && step->n_right == 0 &&
                      step->n_left <= MAX_STRIPPED;
        if (joined && !joins && !strips)
            return joust_fail(err, JOUST_UNSUPPORTED,
                              "tokenizer: its decoder must see the whole text (step %u)", i + 1);
        joined |= joins;
    }
    return JOUST_OK;
}

joust_status joust_decoding_create(const joust_tokenizer *t, bool skip_special,
                                   joust_decoding **ret, joust_error *err)
{
    joust_status st = check(&t->decoder, err);
    if (st != JOUST_OK)
        return st;
    joust_decoding *d = joust_calloc(1, sizeof(*d));
    if (!d)
        return joust_fail(err, JOUST_NOMEM, "decoding: out of memory");
    d->tokenizer = t;
    d->skip_special = skip_special;
    d->scratch.raw = true;
    st = joust_regex_scratch_create(&d->scratch.regex, err);
    if (st == JOUST_OK)
        *ret = d;
    else
        joust_decoding_free(&d);
    return st;
}

void joust_decoding_free(joust_decoding **d)
{
    if (!*d)
        return;
    joust_tokenizer_scratch_fini(&(*d)->scratch);
    joust_tokens_fini(&(*d)->begin);
    joust_buf_fini(&(*d)->held);
    joust_free(*d);
    *d = NULL;
}

/* Gives out what is whole, or can't become so. */
static void give_out(joust_decoding *d, joust_buf *to)
{
    joust_buf *held = &d->held;
    size_t at = 0, bad;
    while (at < held->n) {
        size_t length = joust_utf8_length(held->data + at, held->n - at, &bad);
        bool begins = held->data[at] >= 0xc2 && held->data[at] <= 0xf4;
        if (length == 0 && begins &&
            bad == held->n - at) /* all that is there is a character's begin */
            break;
        if (length)
            joust_buf_add(to, held->data + at, length);
        else
            joust_buf_text(to, "\xef\xbf\xbd");
        at += length ? length : bad;
    }
    if (at > 0)
        memmove(held->data, held->data + at, held->n - at);
    held->n -= at;
}

joust_status joust_decoding_add(joust_decoding *d, uint32_t id, joust_buf *to, joust_error *err)
{
    size_t before = d->held.n;
    const uint32_t *ids = &id;
    uint32_t n = 1;
    joust_status st = JOUST_OK;
    if (!d->scratch.inside) {
        st = joust_tokens_add(&d->begin, &id, 1, err);
        ids = d->begin.ids;
        n = d->begin.n;
    }
    if (st == JOUST_OK)
        st = joust_tokenizer_decode_in(d->tokenizer, &d->scratch, ids, n, d->skip_special, &d->held,
                                       err);
    if (st != JOUST_OK)
        return st;
    if (!d->scratch.inside && d->held.n == before) { /* skipped, or stripped */
        size_t length;
        bool gone = !joust_vocabulary_piece(&d->tokenizer->vocabulary, id, &length) ||
                    (d->skip_special && d->tokenizer->special[id]);
        d->begin.n -= gone;
        return JOUST_OK;
    }
    d->scratch.inside = true;
    give_out(d, to);
    return joust_buf_status(to, err);
}

joust_status joust_decoding_end(joust_decoding *d, joust_buf *to, joust_error *err)
{
    joust_utf8_add_lossy(to, d->held.data, d->held.n);
    joust_buf_clear(&d->held);
    d->begin.n = 0;
    d->scratch.inside = false;
    return joust_buf_status(to, err);
}
