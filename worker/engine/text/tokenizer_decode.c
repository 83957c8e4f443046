/* The steps of decoders: they rewrite the list of token texts, which is then joined. */
#include <string.h>

#include "proto/base/text.h"
#include "tokenizer_internal.h"
#include "unicode_internal.h"

typedef struct view {
    const uint8_t *text;
    size_t n;
} view;

static view piece_of(const joust_pieces *in, size_t i)
{
    return (view){in->text.data + in->items[i].begin, in->items[i].end - in->items[i].begin};
}

/* Letters become bytes; a token with a letter outside the table stays as it is. */
static void add_unspelled(joust_buf *to, view piece)
{
    size_t begin = to->n;
    for (size_t at = 0; at < piece.n;) {
        uint32_t code;
        at += joust_utf8_next(piece.text + at, piece.n - at, &code);
        int byte = joust_letter_byte(code);
        if (byte < 0) {
            to->n = begin;
            joust_buf_add(to, piece.text, piece.n);
            return;
        }
        joust_buf_u8(to, (uint8_t)byte);
    }
}

static joust_status unbytes(const joust_pieces *in, bool raw, joust_pieces *to, joust_error *err)
{
    joust_buf bytes = {0};
    for (size_t i = 0; i < in->n; i++)
        add_unspelled(&bytes, piece_of(in, i));
    joust_status st = joust_buf_status(&bytes, err);
    if (st == JOUST_OK) {
        if (raw)
            joust_buf_add(&to->text, bytes.data, bytes.n);
        else
            joust_utf8_add_lossy(&to->text, bytes.data, bytes.n);
        st = joust_pieces_end(to, 0, JOUST_PLACE_START, err);
    }
    joust_buf_fini(&bytes);
    return st;
}

static int hex_value(uint8_t c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

static int fallback_byte(view piece)
{
    if (piece.n != 6 || memcmp(piece.text, "<0x", 3) != 0 || piece.text[5] != '>')
        return -1;
    int high = hex_value(piece.text[3]), low = hex_value(piece.text[4]);
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* A run of bytes that isn't UTF-8 as a whole becomes one U+FFFD a byte. */
static joust_status end_run(joust_buf *run, bool raw, joust_pieces *to, joust_error *err)
{
    size_t begin = to->text.n;
    bool whole = raw || joust_text_is_utf8(run->data, run->n, NULL);
    if (whole)
        joust_buf_add(&to->text, run->data, run->n);
    for (size_t i = 0; !whole && i < run->n; i++)
        joust_buf_text(&to->text, "\xef\xbf\xbd");
    joust_buf_clear(run);
    return joust_pieces_end(to, begin, JOUST_PLACE_SEGMENT, err);
}

static joust_status byte_fallback(const joust_pieces *in, bool raw, joust_pieces *to,
                                  joust_error *err)
{
    joust_status st = JOUST_OK;
    joust_buf run = {0};
    for (size_t i = 0; st == JOUST_OK && i < in->n; i++) {
        view piece = piece_of(in, i);
        int byte = fallback_byte(piece);
        if (byte >= 0) {
            joust_buf_u8(&run, (uint8_t)byte);
            st = joust_buf_status(&run, err);
            continue;
        }
        if (run.n > 0)
            st = end_run(&run, raw, to, err);
        if (st == JOUST_OK)
            st = joust_pieces_add(to, piece.text, piece.n, JOUST_PLACE_SEGMENT, err);
    }
    if (st == JOUST_OK && run.n > 0)
        st = end_run(&run, raw, to, err);
    joust_buf_fini(&run);
    return st;
}

static joust_status strip(const joust_step *step, bool inside, view piece, joust_pieces *to,
                          joust_error *err)
{
    size_t n = step->n_text;
    for (uint32_t k = 0; !inside && k < step->n_left && piece.n >= n; k++) {
        if (memcmp(piece.text, step->text, n) != 0)
            break;
        piece.text += n;
        piece.n -= n;
    }
    for (uint32_t k = 0; k < step->n_right && piece.n >= n; k++) {
        if (memcmp(piece.text + piece.n - n, step->text, n) != 0)
            break;
        piece.n -= n;
    }
    return joust_pieces_add(to, piece.text, piece.n, JOUST_PLACE_SEGMENT, err);
}

static joust_status unmetaspace(const joust_step *step, view piece, bool first, joust_pieces *to,
                                joust_error *err)
{
    size_t begin = to->text.n, n = step->n_text;
    for (size_t at = 0; at < piece.n;) {
        if (piece.n - at >= n && memcmp(piece.text + at, step->text, n) == 0) {
            if (!first || step->scheme == JOUST_PREFIX_NEVER)
                joust_buf_u8(&to->text, ' ');
            at += n;
        } else {
            joust_buf_u8(&to->text, piece.text[at++]);
        }
    }
    return joust_pieces_end(to, begin, JOUST_PLACE_SEGMENT, err);
}

joust_status joust_step_decode(const joust_step *step, const joust_tokenizer_scratch *s,
                               const joust_pieces *in, joust_pieces *to, joust_error *err)
{
    if (step->kind == JOUST_STEP_UNBYTES)
        return unbytes(in, s->raw, to, err);
    if (step->kind == JOUST_STEP_BYTE_FALLBACK)
        return byte_fallback(in, s->raw, to, err);
    if (step->kind == JOUST_STEP_FUSE)
        return joust_pieces_add(to, in->text.data, in->text.n, JOUST_PLACE_START, err);
    joust_status st = JOUST_OK;
    for (size_t i = 0; st == JOUST_OK && i < in->n; i++) {
        if (step->kind == JOUST_STEP_STRIP)
            st = strip(step, s->inside && step->whole, piece_of(in, i), to, err);
        else
            st = unmetaspace(step, piece_of(in, i), i == 0 && !s->inside, to, err);
    }
    return st;
}
