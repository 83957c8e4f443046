/* The steps of normalizers and pre-tokenizers, and the lists of pieces that they work on. */
#include <string.h>

#include "proto/base/alloc.h"
#include "tokenizer_internal.h"
#include "unicode_internal.h"

void joust_pieces_fini(joust_pieces *p)
{
    joust_buf_fini(&p->text);
    joust_free(p->items);
    memset(p, 0, sizeof(*p));
}

void joust_pieces_clear(joust_pieces *p)
{
    joust_buf_clear(&p->text);
    p->n = 0;
}

static joust_status append(joust_pieces *p, joust_piece piece, joust_error *err)
{
    if (p->n == p->capacity) {
        size_t capacity = p->capacity ? p->capacity * 2 : 64;
        void *items = joust_realloc_array(p->items, capacity, sizeof(*p->items));
        if (!items)
            return joust_fail(err, JOUST_NOMEM, "%zu pieces of text: out of memory", capacity);
        p->items = items;
        p->capacity = capacity;
    }
    p->items[p->n++] = piece;
    return JOUST_OK;
}

joust_status joust_pieces_end(joust_pieces *p, size_t begin, joust_place place, joust_error *err)
{
    if (!joust_buf_ok(&p->text))
        return joust_buf_status(&p->text, err);
    if (begin == p->text.n)
        return JOUST_OK;
    return append(p, (joust_piece){.begin = begin, .end = p->text.n, .place = place}, err);
}

joust_status joust_pieces_add(joust_pieces *p, const void *text, size_t n, joust_place place,
                              joust_error *err)
{
    size_t begin = p->text.n;
    joust_buf_add(&p->text, text, n);
    return joust_pieces_end(p, begin, place, err);
}

void joust_steps_fini(joust_steps *s)
{
    for (uint32_t i = 0; i < s->n; i++) {
        joust_regex_free(&s->items[i].regex);
        joust_free(s->items[i].text);
    }
    memset(s, 0, sizeof(*s));
}

/* GPT-2's table: printable Latin-1 letters stand for themselves, the other 68 bytes for U+0100 and up. */
static bool stands_for_itself(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) ||
           (byte >= 0xae && byte <= 0xff);
}

uint32_t joust_byte_letter(uint8_t byte)
{
    if (stands_for_itself(byte))
        return byte;
    if (byte <= 0x20)
        return 0x100u + byte;
    return byte == 0xad ? 0x143 : 0x121u + byte - 0x7f;
}

int joust_letter_byte(uint32_t letter)
{
    if (letter < 0x100)
        return stands_for_itself(letter) ? (int)letter : -1;
    if (letter <= 0x120)
        return (int)letter - 0x100;
    if (letter <= 0x142)
        return (int)letter - 0x121 + 0x7f;
    return letter == 0x143 ? 0xad : -1;
}

static joust_status replace(const joust_step *step, const uint8_t *text, size_t n,
                            joust_regex_scratch *regex, joust_buf *to, joust_error *err)
{
    size_t at = 0, begin, end;
    joust_status st;
    while ((st = joust_regex_find(step->regex, regex, text, n, at, &begin, &end, err)) ==
           JOUST_OK) {
        joust_buf_add(to, text + at, begin - at);
        joust_buf_add(to, step->text, step->n_text);
        at = end;
    }
    joust_buf_add(to, text + at, n - at);
    return st == JOUST_END ? joust_buf_status(to, err) : st;
}

static void trim(const joust_step *step, const uint8_t *text, size_t n, joust_buf *to)
{
    uint32_t code;
    while (step->left && n > 0) {
        size_t length = joust_utf8_next(text, n, &code);
        if (!joust_is_white(code))
            break;
        text += length;
        n -= length;
    }
    while (step->right && n > 0) {
        size_t length = joust_utf8_previous(text, n, &code);
        if (!joust_is_white(code))
            break;
        n -= length;
    }
    joust_buf_add(to, text, n);
}

/* A run of text between cuts, or the text of a match. */
typedef struct range {
    size_t begin, end;
    bool match;
} range;

/* Folds the ranges in arrays of cuts as the behavior says; they arrive in order, alternating or not. */
typedef struct splitter {
    const joust_step *step;
    const uint8_t *text;
    joust_place place;
    joust_pieces *to;
    range held; /* the last range, which the next one may still be joined to */
    bool holding, previous_match;
} splitter;

static joust_status flush(splitter *s, joust_error *err)
{
    if (!s->holding)
        return JOUST_OK;
    s->holding = false;
    joust_place place = s->held.begin == 0 ? s->place : JOUST_PLACE_SEGMENT;
    return joust_pieces_add(s->to, s->text + s->held.begin, s->held.end - s->held.begin, place,
                            err);
}

static bool joins(const splitter *s, const range *r)
{
    if (!s->holding)
        return false;
    switch (s->step->behavior) {
    case JOUST_SPLIT_MERGED_WITH_PREVIOUS:
        return r->match && !s->previous_match;
    case JOUST_SPLIT_MERGED_WITH_NEXT:
        return !r->match && s->previous_match;
    case JOUST_SPLIT_CONTIGUOUS:
        return r->match == s->previous_match;
    case JOUST_SPLIT_REMOVED:
    case JOUST_SPLIT_ISOLATED:
        break;
    }
    return false;
}

static joust_status add_range(splitter *s, size_t begin, size_t end, bool match, joust_error *err)
{
    range r = {.begin = begin, .end = end, .match = match != s->step->invert};
    if (begin == end)
        return JOUST_OK;
    joust_status st = JOUST_OK;
    if (joins(s, &r)) {
        s->held.end = r.end;
    } else {
        st = flush(s, err);
        if (!(s->step->behavior == JOUST_SPLIT_REMOVED && r.match)) {
            s->held = r;
            s->holding = true;
        }
    }
    s->previous_match = r.match;
    return st;
}

static joust_status split(const joust_step *step, const uint8_t *text, size_t n, joust_place place,
                          joust_regex_scratch *regex, joust_pieces *to, joust_error *err)
{
    splitter s = {.step = step, .text = text, .place = place, .to = to};
    size_t at = 0, begin, end;
    joust_status st;
    while ((st = joust_regex_find(step->regex, regex, text, n, at, &begin, &end, err)) ==
           JOUST_OK) {
        st = add_range(&s, at, begin, false, err);
        if (st == JOUST_OK)
            st = add_range(&s, begin, end, true, err);
        if (st != JOUST_OK)
            return st;
        at = end;
    }
    if (st != JOUST_END)
        return st;
    st = add_range(&s, at, n, false, err);
    return st == JOUST_OK ? flush(&s, err) : st;
}

static void spell_bytes(const uint8_t *text, size_t n, joust_buf *to)
{
    for (size_t i = 0; i < n; i++)
        joust_utf8_add(to, joust_byte_letter(text[i]));
}

static bool begins_with(const uint8_t *text, size_t n, const char *what, size_t n_what)
{
    return n >= n_what && memcmp(text, what, n_what) == 0;
}

/* step->behavior and regex belong to the split, which is after each replaced space. */
static joust_status metaspace(const joust_step *step, const uint8_t *text, size_t n,
                              joust_place place, joust_regex_scratch *regex, joust_pieces *to,
                              joust_error *err)
{
    joust_buf spelled = {0};
    bool prefix = step->scheme == JOUST_PREFIX_ALWAYS
                      ? place != JOUST_PLACE_INSIDE
                      : step->scheme == JOUST_PREFIX_FIRST && place == JOUST_PLACE_START;
    if (prefix && text[0] != ' ' && !begins_with(text, n, step->text, step->n_text))
        joust_buf_add(&spelled, step->text, step->n_text);
    for (size_t i = 0; i < n; i++) {
        if (text[i] == ' ')
            joust_buf_add(&spelled, step->text, step->n_text);
        else
            joust_buf_u8(&spelled, text[i]);
    }
    joust_status st = joust_buf_status(&spelled, err);
    if (st == JOUST_OK && step->regex)
        st = split(step, spelled.data, spelled.n, place, regex, to, err);
    else if (st == JOUST_OK)
        st = joust_pieces_add(to, spelled.data, spelled.n, place, err);
    joust_buf_fini(&spelled);
    return st;
}

static joust_status encode_piece(const joust_step *step, const uint8_t *text, size_t n,
                                 joust_place place, joust_regex_scratch *regex, joust_pieces *to,
                                 joust_error *err)
{
    joust_status st = JOUST_OK;
    size_t begin = to->text.n;
    switch (step->kind) {
    case JOUST_STEP_SPLIT:
        return split(step, text, n, place, regex, to, err);
    case JOUST_STEP_METASPACE:
        return metaspace(step, text, n, place, regex, to, err);
    case JOUST_STEP_PREPEND:
    case JOUST_STEP_SPACE_FIRST:
        if (place != JOUST_PLACE_INSIDE &&
            !(step->kind == JOUST_STEP_SPACE_FIRST && text[0] == ' '))
            joust_buf_add(&to->text, step->text, step->n_text);
        joust_buf_add(&to->text, text, n);
        break;
    case JOUST_STEP_REPLACE:
        st = replace(step, text, n, regex, &to->text, err);
        break;
    case JOUST_STEP_TRIM:
        trim(step, text, n, &to->text);
        break;
    case JOUST_STEP_COMPOSE:
        st = joust_unicode_normalize(text, n, step->form, &to->text, err);
        break;
    case JOUST_STEP_LOWER:
        joust_unicode_lower(text, n, &to->text);
        break;
    case JOUST_STEP_UNMARK:
        joust_unicode_unmark(text, n, &to->text);
        break;
    case JOUST_STEP_BYTES:
        spell_bytes(text, n, &to->text);
        break;
    default:
        return joust_fail(err, JOUST_BUG, "tokenizer: unknown step %d", (int)step->kind);
    }
    return st == JOUST_OK ? joust_pieces_end(to, begin, place, err) : st;
}

joust_status joust_steps_run(const joust_steps *steps, joust_tokenizer_scratch *s, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < steps->n; i++) {
        const joust_step *step = &steps->items[i];
        const joust_pieces *in = &s->pieces;
        joust_pieces_clear(&s->other);
        if (step->kind >= JOUST_STEP_UNBYTES)
            st = joust_step_decode(step, s, in, &s->other, err);
        for (size_t k = 0; st == JOUST_OK && step->kind < JOUST_STEP_UNBYTES && k < in->n; k++)
            st = encode_piece(step, in->text.data + in->items[k].begin,
                              in->items[k].end - in->items[k].begin, in->items[k].place, s->regex,
                              &s->other, err);
        joust_pieces before = s->pieces;
        s->pieces = s->other;
        s->other = before;
    }
    return st;
}
