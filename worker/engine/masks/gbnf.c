/* GBNF, the grammar notation of llama.cpp's users, to a network of nodes. A part that is repeated a counted number of times
 * becomes a rule of its own, so that counts nest without multiplying. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "grammar_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/digest.h"
#include "proto/base/text.h"

#define MAX_DEPTH      64u
#define MAX_REPEAT     65536u
#define MAX_RANGES     1024u
#define MAX_NAME_BYTES 200u
#define N_SLOTS        (2 * JOUST_GRAMMAR_MAX_RULES)
#define NO_END         UINT32_MAX
#define LAST_CHARACTER 0x10ffffu

typedef struct parser {
    const char *text;
    size_t at, n;
    joust_grammar *g;
    uint32_t depth, room_nodes, room_rules;
    uint32_t *slots; /* (N_SLOTS) rule + 1 by its name's hash, or 0 */
    joust_error *err;
} parser;

/* Entered at start, left from end: a JOUST_GRAMMAR_GO that leads nowhere yet. */
typedef struct fragment {
    uint32_t start, end;
} fragment;

joust_status joust_gbnf_fail(const char *text, size_t at, joust_error *err, joust_status st,
                             const char *format, ...)
{
    char what[256];
    uint32_t line = 1, column = 1;
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    for (size_t i = 0; i < at; i++) {
        if (text[i] == '\n') {
            line++;
            column = 1;
        } else {
            column += ((uint8_t)text[i] & 0xc0) != 0x80;
        }
    }
    return joust_fail(err, st, "%u:%u: %s", line, column, what);
}

static joust_status fail_at(const parser *p, size_t at, joust_status st, const char *what)
{
    return joust_gbnf_fail(p->text, at, p->err, st, "%s", what);
}

static joust_status fail(const parser *p, joust_status st, const char *what)
{
    return fail_at(p, p->at, st, what);
}

/* ---- network --------------------------------------------------------------------------------- */

static joust_status add(parser *p, joust_grammar_node n, uint32_t *ret)
{
    joust_grammar *g = p->g;
    if (g->n_nodes == JOUST_GRAMMAR_MAX_NODES)
        return fail(p, JOUST_TOO_LARGE, "the grammar is too large: repeat less");
    if (g->n_nodes == p->room_nodes) {
        const uint32_t room = p->room_nodes ? 2 * p->room_nodes : 256;
        joust_grammar_node *nodes = joust_realloc_array(g->nodes, room, sizeof(*nodes));
        if (!nodes)
            return joust_fail(p->err, JOUST_NOMEM, "grammar: out of memory");
        g->nodes = nodes;
        p->room_nodes = room;
    }
    g->nodes[g->n_nodes] = n;
    *ret = g->n_nodes++;
    return JOUST_OK;
}

static joust_status empty(parser *p, fragment *ret)
{
    uint32_t at = 0;
    joust_status st = add(p, (joust_grammar_node){.kind = JOUST_GRAMMAR_GO}, &at);
    *ret = (fragment){at, at};
    return st;
}

static void append(parser *p, fragment *f, fragment next)
{
    p->g->nodes[f->end].to = next.start;
    f->end = next.end;
}

/* A node that goes on to a new end. */
static joust_status one_node(parser *p, joust_grammar_node n, fragment *ret)
{
    fragment f = {0, 0};
    joust_status st = add(p, (joust_grammar_node){.kind = JOUST_GRAMMAR_GO}, &f.end);
    n.to = f.end;
    if (st == JOUST_OK)
        st = add(p, n, &f.start);
    *ret = f;
    return st;
}

static joust_status then_bytes(parser *p, fragment *f, uint8_t low, uint8_t high)
{
    fragment next;
    joust_status st = one_node(
        p, (joust_grammar_node){.kind = JOUST_GRAMMAR_BYTES, .low = low, .high = high}, &next);
    if (st == JOUST_OK)
        append(p, f, next);
    return st;
}

static joust_status call(parser *p, uint32_t rule, fragment *ret)
{
    return one_node(p, (joust_grammar_node){.kind = JOUST_GRAMMAR_CALL, .other = rule}, ret);
}

static joust_status either(parser *p, fragment a, fragment b, fragment *ret)
{
    fragment f = {0, 0};
    joust_status st =
        add(p, (joust_grammar_node){.kind = JOUST_GRAMMAR_SPLIT, .to = a.start, .other = b.start},
            &f.start);
    if (st == JOUST_OK)
        st = add(p, (joust_grammar_node){.kind = JOUST_GRAMMAR_GO}, &f.end);
    if (st != JOUST_OK)
        return st;
    p->g->nodes[a.end].to = p->g->nodes[b.end].to = f.end;
    *ret = f;
    return JOUST_OK;
}

/* f any number of times, once at least if `once`. */
static joust_status loop(parser *p, fragment f, bool once, fragment *ret)
{
    uint32_t split = 0, end = 0;
    joust_status st = add(p, (joust_grammar_node){.kind = JOUST_GRAMMAR_GO}, &end);
    if (st == JOUST_OK)
        st = add(p, (joust_grammar_node){.kind = JOUST_GRAMMAR_SPLIT, .to = f.start, .other = end},
                 &split);
    if (st != JOUST_OK)
        return st;
    p->g->nodes[f.end].to = split;
    *ret = (fragment){once ? f.start : split, end};
    return JOUST_OK;
}

static joust_status maybe(parser *p, fragment f, fragment *ret)
{
    fragment nothing;
    joust_status st = empty(p, &nothing);
    return st == JOUST_OK ? either(p, f, nothing, ret) : st;
}

/* ---- rules ----------------------------------------------------------------------------------- */

static joust_status add_rule(parser *p, const char *name, size_t n, size_t at, uint32_t *ret)
{
    joust_grammar *g = p->g;
    if (g->n_rules == JOUST_GRAMMAR_MAX_RULES)
        return fail_at(p, at, JOUST_TOO_LARGE, "the grammar has too many rules");
    if (g->n_rules == p->room_rules) {
        const uint32_t room = p->room_rules ? 2 * p->room_rules : 64;
        joust_grammar_rule *rules = joust_realloc_array(g->rules, room, sizeof(*rules));
        if (!rules)
            return joust_fail(p->err, JOUST_NOMEM, "grammar: out of memory");
        g->rules = rules;
        p->room_rules = room;
    }
    joust_grammar_rule r = {.name = joust_strndup(name, n), .at = at};
    if (!r.name)
        return joust_fail(p->err, JOUST_NOMEM, "grammar: out of memory");
    g->rules[g->n_rules] = r;
    *ret = g->n_rules++;
    return JOUST_OK;
}

static joust_status rule_of(parser *p, const char *name, size_t n, uint32_t *ret)
{
    uint32_t slot = (uint32_t)joust_checksum(name, n) % N_SLOTS;
    for (; p->slots[slot]; slot = (slot + 1) % N_SLOTS) {
        *ret = p->slots[slot] - 1;
        if (strncmp(p->g->rules[*ret].name, name, n) == 0 && !p->g->rules[*ret].name[n])
            return JOUST_OK;
    }
    joust_status st = add_rule(p, name, n, p->at, ret);
    if (st == JOUST_OK)
        p->slots[slot] = *ret + 1;
    return st;
}

static void define(parser *p, uint32_t rule, fragment f)
{
    p->g->nodes[f.end].to = 0; /* the end */
    p->g->rules[rule].start = f.start;
    p->g->rules[rule].defined = true;
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-';
}

static size_t name_length(const parser *p)
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

static joust_status read_hex(parser *p, int digits, uint32_t *ret)
{
    uint32_t value = 0;
    for (int i = 0; i < digits; i++, p->at++) {
        const char c = p->at < p->n ? p->text[p->at] : 0;
        const uint32_t digit = c >= '0' && c <= '9'   ? (uint32_t)(c - '0')
                               : c >= 'a' && c <= 'f' ? (uint32_t)(c - 'a' + 10)
                               : c >= 'A' && c <= 'F' ? (uint32_t)(c - 'A' + 10)
                                                      : 16;
        if (digit == 16)
            return fail(p, JOUST_INVALID,
                        "expected a hexadecimal digit: \\x takes 2, \\u takes 4, \\U takes 8");
        value = value << 4 | digit;
    }
    if (value > LAST_CHARACTER || (value >= 0xd800 && value <= 0xdfff))
        return fail(p, JOUST_INVALID, "no character has this number");
    *ret = value;
    return JOUST_OK;
}

/* A character at p->at of well-formed UTF-8, or an escape. */
static joust_status read_character(parser *p, uint32_t *ret)
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
            return fail(p, JOUST_UNSUPPORTED,
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
    fragment all;
    bool begun;
} alternatives;

static joust_status add_alternative(parser *p, alternatives *a, fragment one)
{
    joust_status st = JOUST_OK;
    if (a->begun)
        st = either(p, a->all, one, &a->all);
    else
        a->all = one;
    a->begun = true;
    return st;
}

/* Characters low .. high whose encodings are as long, cut into sequences of ranges of bytes. */
static joust_status add_range(parser *p, alternatives *a, uint32_t low, uint32_t high)
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
        fragment one;
        st = empty(p, &one);
        for (unsigned i = 0; st == JOUST_OK && i < n; i++)
            st = then_bytes(p, &one, from[i], to[i]);
        if (st == JOUST_OK)
            st = add_alternative(p, a, one);
        low = last + 1;
    }
    return st;
}

static joust_status add_ranges(parser *p, const range *ranges, uint32_t n, fragment *ret)
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
        st = fail(p, JOUST_INVALID, "a class without any character (U+0000 is in none)");
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
static joust_status read_class(parser *p, fragment *ret)
{
    range ranges[MAX_RANGES + 1];
    uint32_t n = 0;
    joust_status st = JOUST_OK;
    const bool negated = p->at < p->n && p->text[p->at] == '^';
    p->at += negated;
    for (;;) {
        uint32_t low = 0, high = 0;
        if (p->at >= p->n || p->text[p->at] == '\n')
            return fail(p, JOUST_INVALID, "[ is not closed: write ], or \\n for a newline");
        if (p->text[p->at] == ']')
            break;
        if (n == MAX_RANGES)
            return fail(p, JOUST_TOO_LARGE, "more than 1024 ranges in a class");
        st = read_character(p, &low);
        high = low;
        if (st == JOUST_OK && p->at + 1 < p->n && p->text[p->at] == '-' &&
            p->text[p->at + 1] != ']') {
            p->at++;
            st = read_character(p, &high);
            if (st == JOUST_OK && high < low)
                st = fail(p, JOUST_INVALID, "a range from a larger to a smaller character");
        }
        if (st != JOUST_OK)
            return st;
        ranges[n++] = (range){low, high};
    }
    if (n == 0)
        return fail(p, JOUST_INVALID, "a class without any character: write . for all of them");
    n = tidy(ranges, n, negated);
    st = add_ranges(p, ranges, n, ret);
    p->at++;
    return st;
}

/* Behind '"'. */
static joust_status read_literal(parser *p, fragment *ret)
{
    joust_status st = empty(p, ret);
    while (st == JOUST_OK) {
        uint32_t c = 0;
        uint8_t bytes[4];
        if (p->at >= p->n || p->text[p->at] == '\n')
            return fail(p, JOUST_INVALID, "\" is not closed: write \", or \\n for a newline");
        if (p->text[p->at] == '"')
            break;
        st = read_character(p, &c);
        if (st == JOUST_OK && c == 0)
            st = fail(p, JOUST_UNSUPPORTED, "no response holds U+0000");
        const unsigned n = encode(c, bytes);
        for (unsigned i = 0; st == JOUST_OK && i < n; i++)
            st = then_bytes(p, ret, bytes[i], bytes[i]);
    }
    p->at++;
    return st;
}

/* ---- grammar --------------------------------------------------------------------------------- */

static void skip_space(parser *p, bool newlines)
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

static joust_status read_choice(parser *p, bool nested, fragment *ret);

/* Behind '('. */
static joust_status read_group(parser *p, fragment *ret)
{
    const size_t at = p->at - 1;
    if (++p->depth > MAX_DEPTH)
        return fail(p, JOUST_TOO_LARGE, "groups are nested too deeply: give parts rules");
    skip_space(p, true);
    joust_status st = read_choice(p, true, ret);
    p->depth--;
    if (st == JOUST_OK && (p->at >= p->n || p->text[p->at] != ')'))
        st = p->at < p->n ? fail(p, JOUST_INVALID, "expected ) or |")
                          : fail_at(p, at, JOUST_INVALID, "( is not closed");
    p->at++;
    return st;
}

static joust_status read_name(parser *p, fragment *ret)
{
    const size_t n = name_length(p);
    uint32_t rule = 0;
    if (n > MAX_NAME_BYTES)
        return fail(p, JOUST_TOO_LARGE, "a rule's name has at most 200 letters");
    joust_status st = rule_of(p, p->text + p->at, n, &rule);
    p->at += n;
    return st == JOUST_OK ? call(p, rule, ret) : st;
}

static bool starts_atom(const parser *p)
{
    const char c = p->at < p->n ? p->text[p->at] : 0;
    return c && (is_name(c) || strchr("\"[.(<!_'", c));
}

static joust_status read_atom(parser *p, fragment *ret)
{
    static const range all = {1, LAST_CHARACTER};
    const char c = p->text[p->at];
    if (is_name(c))
        return read_name(p, ret);
    if (c == '<' || c == '!')
        return fail(p, JOUST_UNSUPPORTED,
                    "tokens in a grammar (<...>) aren't known here: write their text in quotes");
    if (c == '_')
        return fail(p, JOUST_INVALID, "a rule's name has letters, digits and -, no _");
    if (c == '\'')
        return fail(p, JOUST_INVALID, "a text stands in double quotes");
    p->at++;
    if (c == '"')
        return read_literal(p, ret);
    if (c == '[')
        return read_class(p, ret);
    return c == '(' ? read_group(p, ret) : add_ranges(p, &all, 1, ret);
}

static joust_status read_count(parser *p, uint32_t *ret, bool *ret_there)
{
    *ret = 0;
    *ret_there = false;
    skip_space(p, true);
    while (p->at < p->n && p->text[p->at] >= '0' && p->text[p->at] <= '9') {
        *ret = 10 * *ret + (uint32_t)(p->text[p->at++] - '0');
        *ret_there = true;
        if (*ret > MAX_REPEAT)
            return fail(p, JOUST_TOO_LARGE, "at most 65536 repetitions can be counted");
    }
    skip_space(p, true);
    return JOUST_OK;
}

/* Behind '{'; *ret_most NO_END: without end. */
static joust_status read_times(parser *p, uint32_t *ret_least, uint32_t *ret_most)
{
    bool least = false, most = false;
    joust_status st = read_count(p, ret_least, &least);
    *ret_most = *ret_least;
    if (st == JOUST_OK && p->at < p->n && p->text[p->at] == ',') {
        p->at++;
        st = read_count(p, ret_most, &most);
        if (!most)
            *ret_most = NO_END;
    }
    if (st != JOUST_OK)
        return st;
    if (!least || p->at >= p->n || p->text[p->at] != '}' || *ret_most < *ret_least)
        return fail(p, JOUST_INVALID, "expected {m}, {m,} or {m,n} with m at most n");
    p->at++;
    return JOUST_OK;
}

/* A node of a repetition, of which `left` texts are to come or may. */
static void count(parser *p, uint32_t node, uint32_t head, uint32_t left)
{
    p->g->nodes[node].head = head;
    p->g->nodes[node].left = left;
}

/* `least` to `most` texts of a rule, in a row. */
static joust_status repeat(parser *p, uint32_t rule, uint32_t least, uint32_t most, fragment *ret)
{
    fragment one = {0, 0}, out = {0, 0};
    joust_status st = empty(p, ret);
    if (st == JOUST_OK)
        st = empty(p, &out);
    uint32_t head = 0;
    for (uint32_t i = 0; st == JOUST_OK && i < least; i++) {
        st = call(p, rule, &one);
        if (st != JOUST_OK)
            break;
        append(p, ret, one);
        head = i ? head : one.start;
        count(p, one.start, head, least - i);
    }
    if (st == JOUST_OK && most == NO_END) {
        st = call(p, rule, &one);
        if (st == JOUST_OK)
            st = loop(p, one, false, &one);
        if (st == JOUST_OK)
            append(p, ret, one);
        most = least;
    }
    for (uint32_t i = least; st == JOUST_OK && i < most;
         i++) { /* every one of them may be the end */
        uint32_t split = 0;
        st = call(p, rule, &one);
        if (st == JOUST_OK)
            st = add(p,
                     (joust_grammar_node){
                         .kind = JOUST_GRAMMAR_SPLIT, .to = one.start, .other = out.start},
                     &split);
        if (st == JOUST_OK) {
            append(p, ret, (fragment){split, one.end});
            head = i > least ? head : split;
            count(p, split, head, most - i);
        }
    }
    if (st == JOUST_OK)
        append(p, ret, out);
    return st;
}

static joust_status read_counted(parser *p, size_t from, fragment one, fragment *ret)
{
    uint32_t least = 0, most = 0, rule = 0;
    joust_status st = read_times(p, &least, &most);
    if (st != JOUST_OK)
        return st;
    if (least <= 1 && most == NO_END)
        return loop(p, one, least == 1, ret);
    if (least == 1 && most == 1) {
        *ret = one;
        return JOUST_OK;
    }
    if (least == 0 && most == 1)
        return maybe(p, one, ret);
    st = add_rule(p, "", 0, from, &rule);
    if (st != JOUST_OK)
        return st;
    define(p, rule, one);
    return repeat(p, rule, least, most, ret);
}

static joust_status read_repeated(parser *p, bool nested, fragment *ret)
{
    const size_t from = p->at;
    fragment f = {0, 0};
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
             : c == '?' ? maybe(p, f, &f)
                        : loop(p, f, c == '+', &f);
    }
}

static joust_status read_choice(parser *p, bool nested, fragment *ret)
{
    alternatives a = {.begun = false};
    for (;;) {
        fragment all = {0, 0}, one = {0, 0};
        joust_status st = empty(p, &all);
        if (p->at < p->n && strchr("*+?{", p->text[p->at]))
            return fail(p, JOUST_INVALID, "nothing stands before this repetition");
        while (st == JOUST_OK && starts_atom(p)) {
            st = read_repeated(p, nested, &one);
            if (st == JOUST_OK)
                append(p, &all, one);
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

static joust_status read_rule(parser *p)
{
    const size_t n = name_length(p), at = p->at;
    uint32_t rule = 0;
    fragment f;
    if (n == 0 && p->text[p->at] == '|')
        return fail(p, JOUST_INVALID,
                    "an alternative on a new line: end the line before with |, or put ( ) around");
    if (n == 0)
        return fail(p, JOUST_INVALID,
                    "expected a rule: name ::= ..., the name of letters, digits, -");
    if (n > MAX_NAME_BYTES)
        return fail(p, JOUST_TOO_LARGE, "a rule's name has at most 200 letters");
    joust_status st = rule_of(p, p->text + at, n, &rule);
    if (st != JOUST_OK)
        return st;
    if (p->g->rules[rule].defined)
        return fail(p, JOUST_INVALID, "a rule of this name is above: join them with |");
    p->at += n;
    skip_space(p, false);
    if (p->at + 3 > p->n || strncmp(p->text + p->at, "::=", 3) != 0)
        return fail(p, JOUST_INVALID, "expected ::= behind the rule's name");
    p->at += 3;
    skip_space(p, true);
    st = read_choice(p, false, &f);
    if (st != JOUST_OK)
        return st;
    if (p->at < p->n && p->text[p->at] != '\n')
        return fail(p, JOUST_INVALID, "expected a text, class, name or group, |, or a new line");
    p->g->rules[rule].at = at;
    define(p, rule, f);
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
    parser p = {.text = text, .n = strlen(text), .g = g, .err = err};
    uint32_t end;
    size_t bad;
    if (!joust_text_is_utf8(text, p.n, &bad))
        return fail_at(&p, bad, JOUST_INVALID, "not UTF-8");
    p.slots = joust_calloc(N_SLOTS, sizeof(*p.slots));
    joust_status st = p.slots ? add(&p, (joust_grammar_node){.kind = JOUST_GRAMMAR_END}, &end)
                              : joust_fail(err, JOUST_NOMEM, "grammar: out of memory");
    for (skip_space(&p, true); st == JOUST_OK && p.at < p.n; skip_space(&p, true))
        st = read_rule(&p);
    joust_free(p.slots);
    return st == JOUST_OK ? check_rules(g, text, err) : st;
}
