/* A regular expression of JSON strings: its automaton over bytes as rules over characters, written as JSON escapes them. */
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "schema_internal.h"
#include "worker/engine/masks/automaton_internal.h"

#define MAX_GBNF_BYTES (4u << 20)
#define ANYTHING       "(.|\\n)*"

typedef struct writer {
    const joust_automaton *a;
    const char *prefix;
    joust_buf *to;
    bool begun;      /* the rule has an alternative */
    bool *named;     /* (n_states) states between characters: those that rules name */
    uint32_t *stack; /* (n_states) of them, those without a rule yet */
    uint32_t n_stack;
} writer;

static void begin_alternative(writer *w)
{
    joust_buf_text(w->to, w->begun ? " | " : "");
    w->begun = true;
}

static void add_state(writer *w, uint32_t state)
{
    if (!w->named[state])
        w->stack[w->n_stack++] = state;
    w->named[state] = true;
    joust_buf_format(w->to, " %s-%u", w->prefix, state);
}

static void add_characters(writer *w, uint32_t low, uint32_t high, uint32_t state)
{
    begin_alternative(w);
    joust_buf_format(w->to, "[\\U%08x-\\U%08x]", low, high);
    add_state(w, state);
}

/* A character below U+0080 that JSON strings hold only escaped. */
static void add_escaped(writer *w, uint8_t c, uint32_t state)
{
    static const char named[] = "\b\f\n\r\t\"\\", letters[] = "bfnrt";
    const char *at = strchr(named, c);
    begin_alternative(w);
    if (!at)
        joust_buf_format(w->to, "\"\\\\u00%02x\"", c);
    else if (at - named < 5)
        joust_buf_format(w->to, "\"\\\\%c\"", letters[at - named]);
    else
        joust_buf_format(w->to, "\"\\\\\\%c\"", c);
    add_state(w, state);
}

/* The last byte from `from` on, up to `last`, that leads where it does. */
static unsigned run_end(const joust_automaton *a, uint32_t state, unsigned from, unsigned last)
{
    const uint32_t to = joust_automaton_step(a, state, (uint8_t)from);
    while (from < last && joust_automaton_step(a, state, (uint8_t)(from + 1)) == to)
        from++;
    return from;
}

/* The characters whose first bits are low .. high and that n_left bytes complete, from a state behind the bytes before. */
static void add_multibyte(writer *w, uint32_t state, unsigned n_left, uint32_t low, uint32_t high)
{
    if (n_left == 0) {
        add_characters(w, low, high, state);
        return;
    }
    for (unsigned first = 0x80; first <= 0xbf && w->to->n < MAX_GBNF_BYTES; first++) {
        const unsigned last = run_end(w->a, state, first, 0xbf);
        const uint32_t to = joust_automaton_step(w->a, state, (uint8_t)first);
        const bool all = first == 0x80 && last == 0xbf;
        if (to != JOUST_DEAD && all)
            add_multibyte(w, to, n_left - 1, low << 6, high << 6 | 0x3f);
        for (uint32_t base = low; to != JOUST_DEAD && !all && base <= high; base++)
            add_multibyte(w, to, n_left - 1, base << 6 | (first & 0x3f), base << 6 | (last & 0x3f));
        first = last;
    }
}

static void add_rule(writer *w, uint32_t state)
{
    static const struct {
        uint8_t first, last, mask;
    } leads[] = {{0xc2, 0xdf, 0x1f}, {0xe0, 0xef, 0x0f}, {0xf0, 0xf4, 0x07}};
    joust_buf_format(w->to, "%s-%u ::= ", w->prefix, state);
    w->begun = false;
    for (unsigned c = 1; c < 0x80; c++) {
        const uint32_t to = joust_automaton_step(w->a, state, (uint8_t)c);
        const bool escaped = c < 0x20 || c == '"' || c == '\\';
        unsigned last = escaped ? c : run_end(w->a, state, c, 0x7f);
        for (unsigned k = c + 1; k <= last; k++)
            if (k == '"' || k == '\\')
                last = k - 1;
        if (to != JOUST_DEAD && escaped)
            add_escaped(w, (uint8_t)c, to);
        else if (to != JOUST_DEAD)
            add_characters(w, c, last, to);
        c = last;
    }
    for (unsigned n = 0; n < 3; n++)
        for (unsigned first = leads[n].first; first <= leads[n].last; first++) {
            const unsigned last = run_end(w->a, state, first, leads[n].last);
            const uint32_t to = joust_automaton_step(w->a, state, (uint8_t)first);
            if (to != JOUST_DEAD)
                add_multibyte(w, to, n + 1, first & leads[n].mask, last & leads[n].mask);
            first = last;
        }
    if (w->a->accepts[state]) {
        begin_alternative(w);
        joust_buf_text(w->to, "\"\\\"\"");
    }
    joust_buf_text(w->to, "\n");
}

/* Whether a | stands outside groups and classes. */
static bool has_choice(const char *s, size_t n)
{
    bool in_class = false;
    unsigned depth = 0;
    for (size_t i = 0; i < n; i++) {
        if (s[i] == '\\')
            i++;
        else if (in_class)
            in_class = s[i] != ']';
        else if (s[i] == '[')
            in_class = true;
        else if (s[i] == '(')
            depth++;
        else if (s[i] == ')' && depth > 0)
            depth--;
        else if (s[i] == '|' && depth == 0)
            return true;
    }
    return false;
}

/* Refuses it by its own bytes, before it is put into a larger one. */
static joust_status check_body(const char *body, size_t n, joust_error *err)
{
    joust_automaton *a = NULL;
    char *copy = n ? joust_strndup(body, n) : NULL;
    joust_status st = JOUST_OK;
    if (copy)
        st = joust_automaton_compile(copy, &a, err);
    else if (n)
        st = joust_fail(err, JOUST_NOMEM, "pattern: out of memory");
    joust_automaton_free(&a);
    joust_free(copy);
    return st;
}

/* A pattern to be found anywhere as one of the whole text. */
static joust_status make_whole(const char *pattern, joust_buf *to, joust_error *err)
{
    const size_t length = strlen(pattern);
    const bool begins = pattern[0] == '^';
    size_t n_slashes = 0;
    while (n_slashes + 1 < length && pattern[length - 2 - n_slashes] == '\\')
        n_slashes++;
    const bool ends = length > begins && pattern[length - 1] == '$' && n_slashes % 2 == 0;
    const char *body = pattern + begins;
    const size_t n = length - begins - ends;
    if ((begins || ends) && has_choice(body, n))
        return joust_fail(err, JOUST_UNSUPPORTED, "^ and $ beside |: write ^(a|b)$");
    joust_status st = check_body(body, n, err);
    if (st != JOUST_OK)
        return st;
    joust_buf_text(to, begins ? "" : ANYTHING);
    joust_buf_text(to, "(?:");
    joust_buf_add(to, body, n);
    joust_buf_text(to, ")");
    joust_buf_text(to, ends ? "" : ANYTHING);
    return joust_buf_status(to, err);
}

joust_status joust_schema_pattern(const char *pattern, const char *prefix, joust_buf *to,
                                  joust_error *err)
{
    joust_automaton *a = NULL;
    joust_buf whole = {0};
    joust_status st = make_whole(pattern, &whole, err);
    if (st == JOUST_OK)
        st = joust_automaton_compile((const char *)whole.data, &a, err);
    joust_buf_fini(&whole);
    if (st != JOUST_OK)
        return st;
    writer w = {.a = a, .prefix = prefix, .to = to};
    w.named = joust_calloc(a->n_states, sizeof(*w.named));
    w.stack = joust_calloc(a->n_states, sizeof(*w.stack));
    if (w.named && w.stack) {
        joust_buf_format(to, "%s ::= \"\\\"\"", prefix);
        add_state(&w, 0);
        joust_buf_text(to, "\n");
        while (w.n_stack > 0 && to->n < MAX_GBNF_BYTES)
            add_rule(&w, w.stack[--w.n_stack]);
        st = to->n < MAX_GBNF_BYTES
                 ? joust_buf_status(to, err)
                 : joust_fail(err, JOUST_TOO_LARGE, "the pattern is too large: make it simpler");
    } else {
        st = joust_fail(err, JOUST_NOMEM, "pattern: out of memory");
    }
    joust_free(w.named);
    joust_free(w.stack);
    joust_automaton_free(&a);
    return st;
}
