/* GBNF, the grammar notation of llama.cpp's users, to a network of nodes. A part that is repeated a counted number of times
 * becomes a rule of its own, so that counts nest without multiplying. */
#include <string.h>

#include "gbnf_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/text.h"

#define MAX_DEPTH      64u
#define MAX_REPEAT     65536u
#define MAX_RANGES     1024u
#define MAX_NAME_BYTES 200u
#define LAST_CHARACTER 0x10ffffu

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
}

static size_t name_length(const joust_gbnf_parser *p)
{
    size_t n = 0;
    while (p->at + n < p->n && is_name(p->text[p->at + n]))
        n++;
    return n;
}

/* ---- characters ------------------------------------------------------------------------------ */

typedef struct range {
    uint32_t low, high;
} range;

static joust_status read_hex(joust_gbnf_parser *p, int digits, uint32_t *ret)
{
    uint32_t value = 0;
    for (int i = 0; i < digits; i++, p->at++) {
        const char c = p->at < p->n ? p->text[p->at] : 0;
        const uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                               : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                               : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                      : 16;
        if (digit == 16)
            return joust_gbnf_refuse(
                p, JOUST_INVALID,
                "expected a hexadecimal digit: \\x takes 2, \\u takes 4, \\U takes 8");
        value = value << 4 | digit;
    }
    if (value > LAST_CHARACTER || (value >= 0xd800 && value <= 0xdfff))
        return joust_gbnf_refuse(p, JOUST_INVALID, "no character has this number");
    *ret = value;
    return JOUST_OK;
}

/* A character at p->at of well-formed UTF-8, or an escape. */
static joust_status read_character(joust_gbnf_parser *p, uint32_t *ret)
{
    static const char from[] = "nrt\\\"[]", to[] = "\n\r\t\\\"[]";
    const uint8_t first = (uint8_t)p->text[p->at++];
    if (first == '\\') {
        const char c = p->at < p->n ? p->text[p->at] : 0;
        if (c == 'x' || c == 'u' || c == 'U') {
            p->at++;
            return read_hex(p, c == 'x' ? 2 : c == 'u' ? 4 : 8, ret);
        }
        if (!c || !strchr(from, c))
            return joust_gbnf_refuse(
                p, JOUST_UNSUPPORTED,
                "unknown escape: write \\n \\r \\t \\\\ \\\" \\[ \\] \\xHH \\uHHHH or "
                "\\UHHHHHHHH");
        *ret = (uint8_t)to[strchr(from, c) - from];
        p->at++;
        return JOUST_OK;
    }
    uint32_t value = first < 0x80   ? first
                     : first < 0xe0 ? first & 0x1fu
                     : first < 0xf0 ? first & 0x0fu
                                    : first & 0x07u;
    while (p->at < p->n && ((uint8_t)p->text[p->at] & 0xc0) == 0x80)
        value = value << 6 | ((uint8_t)p->text[p->at++] & 0x3fu);
    *ret = value;
    return JOUST_OK;
}

static unsigned encode(uint32_t c, uint8_t to[4])
{
    if (c < 0x80) {
        to[0] = (uint8_t)c;
        return 1;
    }
    const unsigned n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (unsigned i = n; i-- > 1; c >>= 6)
        to[i] = (uint8_t)(0x80 | (c & 0x3f));
    to[0] = (uint8_t)(c | (n == 2 ? 0xc0 : n == 3 ? 0xe0 : 0xf0));
    return n;
}

typedef struct alternatives {
    joust_gbnf_part all;
    bool begun;
} alternatives;

static joust_status add_alternative(joust_gbnf_parser *p, alternatives *a, joust_gbnf_part one)
{
    joust_status st = JOUST_OK;
    if (a->begun)
        st = joust_gbnf_either(p, a->all, one, &a->all);
    else
        a->all = one;
    a->begun = true;
    return st;
}

/* Characters low .. high whose encodings are as long, cut into sequences of ranges of bytes. */
static joust_status add_range(joust_gbnf_parser *p, alternatives *a, uint32_t low, uint32_t high)
{
    joust_status st = JOUST_OK;
    while (st == JOUST_OK && low <= high) {
        uint8_t from[4], to[4];
        uint32_t last = high;
        const unsigned n = encode(low, from);
        for (unsigned i = 1; i < n; i++) { /* what one sequence of ranges gives, from low on */
            const uint32_t tail = (1u << (6 * i)) - 1;
            if ((low & ~tail) == (last & ~tail))
                break;
            if (low & tail) {
                last = low | tail;
                break;
            }
            if ((last & tail) != tail)
                last = (last & ~tail) - 1;
        }
        (void)encode(last, to);
        joust_gbnf_part one;
        st = joust_gbnf_empty(p, &one);
        for (unsigned i = 0; st == JOUST_OK && i < n; i++)
            st = joust_gbnf_then_bytes(p, &one, from[i], to[i]);
        if (st == JOUST_OK)
            st = add_alternative(p, a, one);
        low = last + 1;
    }
    return st;
}

static joust_status add_ranges(joust_gbnf_parser *p, const range *ranges, uint32_t n,
                               joust_gbnf_part *ret)
{
    static const uint32_t bounds[] = {1, 0x80, 0x800, 0xd800, 0xe000, 0x10000, LAST_CHARACTER + 1};
    alternatives a = {.begun = false};
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < n; i++)
        for (int k = 0; st == JOUST_OK && k < 6; k++) {
            const uint32_t low = ranges[i].low > bounds[k] ? ranges[i].low : bounds[k],
                           high =
                               ranges[i].high < bounds[k + 1] ? ranges[i].high : bounds[k + 1] - 1;
            if (low <= high && bounds[k] != 0xd800)
                st = add_range(p, &a, low, high);
        }
    if (st == JOUST_OK && !a.begun)
        st = joust_gbnf_refuse(p, JOUST_INVALID,
                               "a class without any character (U+0000 is in none)");
    *ret = a.all;
    return st;
}

/* Sorts ranges and joins those that touch; then what is between them, if negated. */
static uint32_t tidy(range *r, uint32_t n, bool negated)
{
    uint32_t kept = 0, next = 0;
    for (uint32_t i = 1; i < n; i++)
        for (uint32_t k = i; k > 0 && r[k].low < r[k - 1].low; k--) {
            const range other = r[k];
            r[k] = r[k - 1];
            r[k - 1] = other;
        }
    for (uint32_t i = 0; i < n; i++) {
        if (kept && r[i].low <= r[kept - 1].high + 1)
            r[kept - 1].high = r[i].high > r[kept - 1].high ? r[i].high : r[kept - 1].high;
        else
            r[kept++] = r[i];
    }
    if (!negated)
        return kept;
    uint32_t n_between = 0;
    for (uint32_t i = 0; i < kept; i++) {
        const range x = r[i];
        if (x.low > next)
            r[n_between++] = (range){next, x.low - 1};
        next = x.high + 1;
    }
    if (next <= LAST_CHARACTER)
        r[n_between++] = (range){next, LAST_CHARACTER};
    return n_between;
}

/* Behind '['. */
static joust_status read_class(joust_gbnf_parser *p, joust_gbnf_part *ret)
{
    range ranges[MAX_RANGES + 1];
    uint32_t n = 0;
    joust_status st = JOUST_OK;
    const bool negated = p->at < p->n && p->text[p->at] == '^';
    p->at += negated;
    for (;;) {
        uint32_t low = 0, high = 0;
        if (p->at >= p->n || p->text[p->at] == '\n')
            return joust_gbnf_refuse(p, JOUST_INVALID,
                                     "[ is not closed: write ], or \\n for a newline");
        if (p->text[p->at] == ']')
            break;
        if (n == MAX_RANGES)
            return joust_gbnf_refuse(p, JOUST_TOO_LARGE, "more than 1024 ranges in a class");
        st = read_character(p, &low);
        high = low;
        if (st == JOUST_OK && p->at + 1 < p->n && p->text[p->at] == '-' &&
            p->text[p->at + 1] != ']') {
            p->at++;
            st = read_character(p, &high);
            if (st == JOUST_OK && high < low)
                st = joust_gbnf_refuse(p, JOUST_INVALID,
                                       "a range from a larger to a smaller character");
        }
        if (st != JOUST_OK)
            return st;
        ranges[n++] = (range){low, high};
    }
    if (n == 0)
        return joust_gbnf_refuse(p, JOUST_INVALID,
                                 "a class without any character: write . for all of them");
    n = tidy(ranges, n, negated);
    st = add_ranges(p, ranges, n, ret);
    p->at++;
    return st;
}

/* Behind '"'. */
static joust_status read_literal(joust_gbnf_parser *p, joust_gbnf_part *ret)
{
    joust_status st = joust_gbnf_empty(p, ret);
    while (st == JOUST_OK) {
        uint32_t c = 0;
        uint8_t bytes[4];
        if (p->at >= p->n || p->text[p->at] == '\n')
            return joust_gbnf_refuse(p, JOUST_INVALID,
                                     "\" is not closed: write \", or \\n for a newline");
        if (p->text[p->at] == '"')
            break;
        st = read_character(p, &c);
        if (st == JOUST_OK && c == 0)
            st = joust_gbnf_refuse(p, JOUST_UNSUPPORTED, "no response holds U+0000");
        const unsigned n = encode(c, bytes);
        for (unsigned i = 0; st == JOUST_OK && i < n; i++)
            st = joust_gbnf_then_bytes(p, ret, bytes[i], bytes[i]);
    }
    p->at++;
    return st;
}

/* ---- grammar --------------------------------------------------------------------------------- */

static void skip_space(joust_gbnf_parser *p, bool newlines)
{
    while (p->at < p->n) {
        const char c = p->text[p->at];
        if (c == '#')
            while (p->at < p->n && p->text[p->at] != '\n')
                p->at++;
        else if (c == ' ' || c == '\t' || c == '\r' || (newlines && c == '\n'))
            p->at++;
        else
            return;
    }
}

static joust_status read_choice(joust_gbnf_parser *p, bool nested, joust_gbnf_part *ret);

/* Behind '('. */
static joust_status read_group(joust_gbnf_parser *p, joust_gbnf_part *ret)
{
    const size_t at = p->at - 1;
    if (++p->depth > MAX_DEPTH)
        return joust_gbnf_refuse(p, JOUST_TOO_LARGE,
                                 "groups are nested too deeply: give parts rules");
    skip_space(p, true);
    joust_status st = read_choice(p, true, ret);
    p->depth--;
    if (st == JOUST_OK && (p->at >= p->n || p->text[p->at] != ')'))
        st = p->at < p->n ? joust_gbnf_refuse(p, JOUST_INVALID, "expected ) or |")
                          : joust_gbnf_refuse_at(p, at, JOUST_INVALID, "( is not closed");
    p->at++;
    return st;
}

static joust_status read_name(joust_gbnf_parser *p, joust_gbnf_part *ret)
{
    const size_t n = name_length(p);
    uint32_t rule = 0;
    if (n > MAX_NAME_BYTES)
        return joust_gbnf_refuse(p, JOUST_TOO_LARGE, "a rule's name has at most 200 letters");
    joust_status st = joust_gbnf_rule_of(p, p->text + p->at, n, &rule);
    p->at += n;
    return st == JOUST_OK ? joust_gbnf_call(p, rule, ret) : st;
}

static bool starts_atom(const joust_gbnf_parser *p)
{
    const char c = p->at < p->n ? p->text[p->at] : 0;
    return c && (is_name(c) || strchr("\"[.(<!_'", c));
}

static joust_status read_atom(joust_gbnf_parser *p, joust_gbnf_part *ret)
{
    static const range all = {1, LAST_CHARACTER};
    const char c = p->text[p->at];
    if (is_name(c))
        return read_name(p, ret);
    if (c == '<' || c == '!')
        return joust_gbnf_refuse(
            p, JOUST_UNSUPPORTED,
            "tokens in a grammar (<...>) aren't known here: write their text in quotes");
    if (c == '_')
        return joust_gbnf_refuse(p, JOUST_INVALID, "a rule's name has letters, digits and -, no _");
    if (c == '\'')
        return joust_gbnf_refuse(p, JOUST_INVALID, "a text stands in double quotes");
    p->at++;
    if (c == '"')
        return read_literal(p, ret);
    if (c == '[')
        return read_class(p, ret);
    return c == '(' ? read_group(p, ret) : add_ranges(p, &all, 1, ret);
}

static joust_status read_count(joust_gbnf_parser *p, uint32_t *ret, bool *ret_there)
{
    *ret = 0;
    *ret_there = false;
    skip_space(p, true);
    while (p->at < p->n && p->text[p->at] >= '0' && p->text[p->at] <= '9') {
        *ret = 10 * *ret + (uint32_t)(p->text[p->at++] - '0');
        *ret_there = true;
        if (*ret > MAX_REPEAT)
            return joust_gbnf_refuse(p, JOUST_TOO_LARGE,
                                     "at most 65536 repetitions can be counted");
    }
    skip_space(p, true);
    return JOUST_OK;
}

/* Behind '{'; *ret_most JOUST_GBNF_NO_END: without end. */
static joust_status read_times(joust_gbnf_parser *p, uint32_t *ret_least, uint32_t *ret_most)
{
    bool least = false, most = false;
    joust_status st = read_count(p, ret_least, &least);
    *ret_most = *ret_least;
    if (st == JOUST_OK && p->at < p->n && p->text[p->at] == ',') {
        p->at++;
        st = read_count(p, ret_most, &most);
        if (!most)
            *ret_most = JOUST_GBNF_NO_END;
    }
    if (st != JOUST_OK)
        return st;
    if (!least || p->at >= p->n || p->text[p->at] != '}' || *ret_most < *ret_least)
        return joust_gbnf_refuse(p, JOUST_INVALID, "expected {m}, {m,} or {m,n} with m at most n");
    p->at++;
    return JOUST_OK;
}

static joust_status read_counted(joust_gbnf_parser *p, size_t from, joust_gbnf_part one,
                                 joust_gbnf_part *ret)
{
    uint32_t least = 0, most = 0, rule = 0;
    joust_status st = read_times(p, &least, &most);
    if (st != JOUST_OK)
        return st;
    if (least <= 1 && most == JOUST_GBNF_NO_END)
        return joust_gbnf_loop(p, one, least == 1, ret);
    if (least == 1 && most == 1) {
        *ret = one;
        return JOUST_OK;
    }
    if (least == 0 && most == 1)
        return joust_gbnf_maybe(p, one, ret);
    st = joust_gbnf_add_rule(p, "", 0, from, &rule);
    if (st != JOUST_OK)
        return st;
    joust_gbnf_define(p, rule, one);
    return joust_gbnf_repeat(p, rule, least, most, ret);
}

static joust_status read_repeated(joust_gbnf_parser *p, bool nested, joust_gbnf_part *ret)
{
    const size_t from = p->at;
    joust_gbnf_part f = {0, 0};
    joust_status st = read_atom(p, &f);
    for (;;) {
        if (st != JOUST_OK)
            return st;
        skip_space(p, nested);
        const char c = p->at < p->n ? p->text[p->at] : 0;
        if (!c || !strchr("*+?{", c)) {
            *ret = f;
            return JOUST_OK;
        }
        p->at++;
        st = c == '{'   ? read_counted(p, from, f, &f)
             : c == '?' ? joust_gbnf_maybe(p, f, &f)
                        : joust_gbnf_loop(p, f, c == '+', &f);
    }
}

static joust_status read_choice(joust_gbnf_parser *p, bool nested, joust_gbnf_part *ret)
{
    alternatives a = {.begun = false};
    for (;;) {
        joust_gbnf_part all = {0, 0}, one = {0, 0};
        joust_status st = joust_gbnf_empty(p, &all);
        if (p->at < p->n && strchr("*+?{", p->text[p->at]))
            return joust_gbnf_refuse(p, JOUST_INVALID, "nothing stands before this repetition");
        while (st == JOUST_OK && starts_atom(p)) {
            st = read_repeated(p, nested, &one);
            if (st == JOUST_OK)
                joust_gbnf_append(p, &all, one);
        }
        if (st == JOUST_OK)
            st = add_alternative(p, &a, all);
        *ret = a.all;
        if (st != JOUST_OK || p->at >= p->n || p->text[p->at] != '|')
            return st;
        p->at++;
        skip_space(p, true);
    }
}

static joust_status read_rule(joust_gbnf_parser *p)
{
    const size_t n = name_length(p), at = p->at;
    uint32_t rule = 0;
    joust_gbnf_part f;
    if (n == 0 && p->text[p->at] == '|')
        return joust_gbnf_refuse(
            p, JOUST_INVALID,
            "an alternative on a new line: end the line before with |, or put ( ) around");
    if (n == 0)
        return joust_gbnf_refuse(p, JOUST_INVALID,
                                 "expected a rule: name ::= ..., the name of letters, digits, -");
    if (n > MAX_NAME_BYTES)
        return joust_gbnf_refuse(p, JOUST_TOO_LARGE, "a rule's name has at most 200 letters");
    joust_status st = joust_gbnf_rule_of(p, p->text + at, n, &rule);
    if (st != JOUST_OK)
        return st;
    if (p->g->rules[rule].defined)
        return joust_gbnf_refuse(p, JOUST_INVALID,
                                 "a rule of this name is above: join them with |");
    p->at += n;
    skip_space(p, false);
    if (p->at + 3 > p->n || strncmp(p->text + p->at, "::=", 3) != 0)
        return joust_gbnf_refuse(p, JOUST_INVALID, "expected ::= behind the rule's name");
    p->at += 3;
    skip_space(p, true);
    st = read_choice(p, false, &f);
    if (st != JOUST_OK)
        return st;
    if (p->at < p->n && p->text[p->at] != '\n')
        return joust_gbnf_refuse(p, JOUST_INVALID,
                                 "expected a text, class, name or group, |, or a new line");
    p->g->rules[rule].at = at;
    joust_gbnf_define(p, rule, f);
    return JOUST_OK;
}

static joust_status check_rules(joust_grammar *g, const char *text, joust_error *err)
{
    g->root = JOUST_NO_RULE;
    for (uint32_t i = 0; i < g->n_rules; i++) {
        const joust_grammar_rule *r = &g->rules[i];
        if (strcmp(r->name, "root") == 0)
            g->root = i;
        if (!r->defined)
            return joust_gbnf_fail(text, r->at, err, JOUST_INVALID,
                                   "rule '%s' is not defined: add a line %s ::= ...", r->name,
                                   r->name);
    }
    if (g->root == JOUST_NO_RULE)
        return joust_gbnf_fail(text, 0, err, JOUST_INVALID,
                               "no rule is called root: add root ::= ..., of whole responses");
    return JOUST_OK;
}

joust_status joust_gbnf_read(joust_grammar *g, const char *text, joust_error *err)
{
    joust_gbnf_parser p = {.text = text, .n = strlen(text), .g = g, .err = err};
    uint32_t end;
    size_t bad;
    if (!joust_text_is_utf8(text, p.n, &bad))
        return joust_gbnf_refuse_at(&p, bad, JOUST_INVALID, "not UTF-8");
    p.slots = joust_calloc(JOUST_GBNF_SLOTS, sizeof(*p.slots));
    joust_status st =
        p.slots ? joust_gbnf_add(&p, (joust_grammar_node){.kind = JOUST_GRAMMAR_END}, &end)
                : joust_fail(err, JOUST_NOMEM, "grammar: out of memory");
    for (skip_space(&p, true); st == JOUST_OK && p.at < p.n; skip_space(&p, true))
        st = read_rule(&p);
    joust_free(p.slots);
    return st == JOUST_OK ? check_rules(g, text, err) : st;
}
