/* From a pattern to a nondeterministic automaton by fragments (Thompson 1968). */
#include "automaton_internal.h"

#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/text.h"

#define MAX_PATTERN_BYTES 4096u
#define MAX_NODES         8192u
#define MAX_DEPTH         64u
#define MAX_REPEAT        256u
#define MAX_WORK          (1u << 20) /* atoms read, those of repetitions again */

typedef struct parser {
    const char *pattern;
    size_t at, n;
    uint32_t depth, work;
    joust_node *nodes;
    uint32_t n_nodes;
    joust_error *err;
} parser;

/* A part of the automaton: entered at start, left from end (a JOUST_NODE_GO that leads nowhere yet). */
typedef struct fragment {
    uint32_t start, end;
} fragment;

static joust_status fail(const parser *p, joust_status st, const char *what)
{
    return joust_fail(p->err, st, "byte %zu: %s", p->at, what);
}

static joust_status add(parser *p, joust_node n, uint32_t *ret)
{
    if (p->n_nodes == MAX_NODES)
        return fail(p, JOUST_TOO_LARGE, "the pattern is too large: repeat less");
    p->nodes[p->n_nodes] = n;
    *ret = p->n_nodes++;
    return JOUST_OK;
}

static joust_status empty(parser *p, fragment *ret)
{
    uint32_t at = 0;
    joust_status st = add(p, (joust_node){.kind = JOUST_NODE_GO, .to = JOUST_NO_NODE}, &at);
    *ret = (fragment){at, at};
    return st;
}

/* low .. high behind f. */
static joust_status then_bytes(parser *p, fragment *f, uint8_t low, uint8_t high)
{
    uint32_t bytes = 0, end = 0;
    joust_status st = add(p, (joust_node){.kind = JOUST_NODE_GO, .to = JOUST_NO_NODE}, &end);
    if (st == JOUST_OK)
        st = add(p, (joust_node){.kind = JOUST_NODE_BYTES, .low = low, .high = high, .to = end},
                 &bytes);
    if (st != JOUST_OK)
        return st;
    p->nodes[f->end].to = bytes;
    f->end = end;
    return JOUST_OK;
}

static void append(parser *p, fragment *f, fragment next)
{
    p->nodes[f->end].to = next.start;
    f->end = next.end;
}

static joust_status either(parser *p, fragment a, fragment b, fragment *ret)
{
    uint32_t start = 0, end = 0;
    joust_status st =
        add(p, (joust_node){.kind = JOUST_NODE_SPLIT, .to = a.start, .other = b.start}, &start);
    if (st == JOUST_OK)
        st = add(p, (joust_node){.kind = JOUST_NODE_GO, .to = JOUST_NO_NODE}, &end);
    if (st != JOUST_OK)
        return st;
    p->nodes[a.end].to = p->nodes[b.end].to = end;
    *ret = (fragment){start, end};
    return JOUST_OK;
}

/* f any number of times, once at least if `once`. */
static joust_status loop(parser *p, fragment f, bool once, fragment *ret)
{
    uint32_t split = 0, end = 0;
    joust_status st = add(p, (joust_node){.kind = JOUST_NODE_GO, .to = JOUST_NO_NODE}, &end);
    if (st == JOUST_OK)
        st = add(p, (joust_node){.kind = JOUST_NODE_SPLIT, .to = f.start, .other = end}, &split);
    if (st != JOUST_OK)
        return st;
    p->nodes[f.end].to = split;
    *ret = (fragment){once ? f.start : split, end};
    return JOUST_OK;
}

/* ---- characters ------------------------------------------------------------------------------ */

/* ASCII characters, and whether every other one is in too. */
typedef struct set {
    bool ascii[128], beyond;
} set;

static const uint8_t multibyte[][8] = {/* well-formed UTF-8 beyond ASCII: pairs of low, high */
                                       {0xc2, 0xdf, 0x80, 0xbf},
                                       {0xe0, 0xe0, 0xa0, 0xbf, 0x80, 0xbf},
                                       {0xe1, 0xec, 0x80, 0xbf, 0x80, 0xbf},
                                       {0xed, 0xed, 0x80, 0x9f, 0x80, 0xbf},
                                       {0xee, 0xef, 0x80, 0xbf, 0x80, 0xbf},
                                       {0xf0, 0xf0, 0x90, 0xbf, 0x80, 0xbf, 0x80, 0xbf},
                                       {0xf1, 0xf3, 0x80, 0xbf, 0x80, 0xbf, 0x80, 0xbf},
                                       {0xf4, 0xf4, 0x80, 0x8f, 0x80, 0xbf, 0x80, 0xbf}};

static joust_status or_bytes(parser *p, fragment *f, bool *begun, const uint8_t *pairs, size_t n)
{
    fragment one;
    joust_status st = empty(p, &one);
    for (size_t i = 0; st == JOUST_OK && i < n && pairs[i]; i += 2)
        st = then_bytes(p, &one, pairs[i], pairs[i + 1]);
    if (st == JOUST_OK && *begun)
        st = either(p, *f, one, f);
    else
        *f = one;
    *begun = true;
    return st;
}

static joust_status one_of(parser *p, const set *s, fragment *ret)
{
    bool begun = false;
    joust_status st = JOUST_OK;
    for (unsigned low = 1; st == JOUST_OK && low < 128; low++) {
        unsigned high = low;
        if (!s->ascii[low])
            continue;
        while (high + 1 < 128 && s->ascii[high + 1])
            high++;
        st = or_bytes(p, ret, &begun, (const uint8_t[]){(uint8_t)low, (uint8_t)high}, 2);
        low = high;
    }
    for (size_t i = 0; st == JOUST_OK && s->beyond && i < sizeof(multibyte) / 8; i++)
        st = or_bytes(p, ret, &begun, multibyte[i], 8);
    if (st == JOUST_OK && !begun)
        st = fail(p, JOUST_INVALID, "a class without any character");
    return st;
}

static bool is_word(int c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static void add_kind(set *s, char kind)
{
    const char plain = (char)(kind | 0x20); /* of either case */
    set of = {.beyond = false};
    for (int c = 1; c < 128; c++)
        of.ascii[c] = plain == 'd'   ? c >= '0' && c <= '9'
                      : plain == 'w' ? is_word(c)
                                     : c == ' ' || (c >= '\t' && c <= '\r');
    const bool negated = kind >= 'A' && kind <= 'Z';
    for (int c = 1; c < 128; c++)
        s->ascii[c] |= of.ascii[c] != negated;
    s->beyond |= negated;
}

static int hex_of(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* What follows a backslash: a character, or (then *ret is 0) a kind of them added to s. */
static joust_status read_escape(parser *p, set *s, uint8_t *ret)
{
    static const char from[] = "nrt", to[] = "\n\r\t";
    const char c = p->at < p->n ? p->pattern[p->at] : 0;
    *ret = 0;
    if (c && strchr("dwsDWS", c)) {
        add_kind(s, c);
    } else if (c && strchr(from, c)) {
        *ret = (uint8_t)to[strchr(from, c) - from];
    } else if (c == 'x') {
        const int high = p->at + 2 < p->n ? hex_of(p->pattern[p->at + 1]) : -1,
                  low = high >= 0 ? hex_of(p->pattern[p->at + 2]) : -1;
        if (low < 0 || high > 7 || high + low == 0)
            return fail(p, JOUST_INVALID, "\\x takes two hexadecimal digits, 01 to 7f");
        *ret = (uint8_t)(16 * high + low);
        p->at += 2;
    } else if (c > ' ' && c < 0x7f && (c == '_' || !is_word(c))) {
        *ret = (uint8_t)c;
    } else {
        return fail(p, JOUST_UNSUPPORTED, "this escape is not supported");
    }
    p->at++;
    return JOUST_OK;
}

/* A character of a class at p->at; *ret 0: a kind, added to s. */
static joust_status read_member(parser *p, set *s, uint8_t *ret)
{
    const uint8_t c = (uint8_t)p->pattern[p->at];
    if (c >= 0x80)
        return fail(p, JOUST_UNSUPPORTED,
                    "only ASCII characters in a class; write (a|b) for others");
    p->at++;
    if (c == '\\')
        return read_escape(p, s, ret);
    *ret = c;
    return JOUST_OK;
}

/* Behind '['. */
static joust_status read_class(parser *p, fragment *ret)
{
    set s = {.beyond = false};
    joust_status st = JOUST_OK;
    const bool negated = p->at < p->n && p->pattern[p->at] == '^';
    p->at += negated;
    for (bool first = true; st == JOUST_OK; first = false) {
        uint8_t low = 0, high = 0;
        if (p->at >= p->n)
            return fail(p, JOUST_INVALID, "[ is not closed");
        if (p->pattern[p->at] == ']' && !first)
            break;
        st = read_member(p, &s, &low);
        high = low;
        if (st == JOUST_OK && low && p->at + 1 < p->n && p->pattern[p->at] == '-' &&
            p->pattern[p->at + 1] != ']') {
            p->at++;
            st = read_member(p, &s, &high);
            if (st == JOUST_OK && high < low)
                st = fail(p, JOUST_INVALID, "a range from a larger to a smaller character");
        }
        for (unsigned c = low; st == JOUST_OK && low && c <= high; c++)
            s.ascii[c] = true;
    }
    if (st != JOUST_OK)
        return st;
    p->at++;
    for (int c = 1; negated && c < 128; c++)
        s.ascii[c] = !s.ascii[c];
    s.beyond = s.beyond != negated;
    return one_of(p, &s, ret);
}

/* ---- grammar --------------------------------------------------------------------------------- */

static joust_status read_choice(parser *p, fragment *ret);

/* Behind '('. */
static joust_status read_group(parser *p, fragment *ret)
{
    if (p->at < p->n && p->pattern[p->at] == '?') {
        if (p->at + 1 >= p->n || p->pattern[p->at + 1] != ':')
            return fail(p, JOUST_UNSUPPORTED, "only (?: of the groups that begin with (? is");
        p->at += 2;
    }
    if (++p->depth > MAX_DEPTH)
        return fail(p, JOUST_TOO_LARGE, "groups are nested too deeply");
    joust_status st = read_choice(p, ret);
    p->depth--;
    if (st == JOUST_OK && (p->at >= p->n || p->pattern[p->at] != ')'))
        st = fail(p, JOUST_INVALID, "( is not closed");
    p->at++;
    return st;
}

static joust_status read_literal(parser *p, fragment *ret)
{
    joust_status st = empty(p, ret);
    do {
        const uint8_t byte = (uint8_t)p->pattern[p->at++];
        if (st == JOUST_OK)
            st = then_bytes(p, ret, byte, byte);
    } while (p->at < p->n && ((uint8_t)p->pattern[p->at] & 0xc0) == 0x80);
    return st;
}

static joust_status read_atom(parser *p, fragment *ret)
{
    const char c = p->pattern[p->at];
    set s = {.beyond = false};
    uint8_t literal;
    if (++p->work > MAX_WORK)
        return fail(p, JOUST_TOO_LARGE, "the pattern is too large: repeat less");
    if (strchr("*+?{", c))
        return fail(p, JOUST_INVALID, "nothing stands before this repetition");
    if (c == '^' || c == '$')
        return fail(p, JOUST_UNSUPPORTED,
                    "the pattern is of the whole response: leave ^ and $ out");
    if (c != '(' && c != '[' && c != '.' && c != '\\')
        return read_literal(p, ret);
    p->at++;
    if (c == '(')
        return read_group(p, ret);
    if (c == '[')
        return read_class(p, ret);
    if (c == '.') {
        for (int i = 1; i < 128; i++)
            s.ascii[i] = i != '\n';
        s.beyond = true;
        return one_of(p, &s, ret);
    }
    joust_status st = read_escape(p, &s, &literal);
    if (st == JOUST_OK && literal)
        s.ascii[literal] = true;
    return st == JOUST_OK ? one_of(p, &s, ret) : st;
}

/* A repetition at p->at, if there is one: *ret_most JOUST_NO_NODE: without end. */
static joust_status read_times(parser *p, uint32_t *ret_least, uint32_t *ret_most)
{
    const char c = p->at < p->n ? p->pattern[p->at] : 0;
    uint32_t times[2] = {0, 0};
    *ret_least = c == '*' || c == '?' ? 0 : 1;
    *ret_most = c == '*' || c == '+' ? JOUST_NO_NODE : 1;
    p->at += c == '*' || c == '+' || c == '?';
    if (c != '{')
        return JOUST_OK;
    bool comma = false, digits[2] = {false, false};
    for (p->at++; p->at < p->n && p->pattern[p->at] != '}'; p->at++) {
        const char d = p->pattern[p->at];
        if (d == ',' && !comma && digits[0]) {
            comma = true;
            continue;
        }
        if (d < '0' || d > '9')
            return fail(p, JOUST_INVALID, "expected {m}, {m,} or {m,n}");
        digits[comma] = true;
        times[comma] = 10 * times[comma] + (uint32_t)(d - '0');
        if (times[comma] > MAX_REPEAT)
            return fail(p, JOUST_TOO_LARGE, "at most 256 repetitions can be counted");
    }
    *ret_least = times[0];
    *ret_most = !comma ? times[0] : digits[1] ? times[1] : JOUST_NO_NODE;
    if (p->at >= p->n || !digits[0] || *ret_most < *ret_least)
        return fail(p, JOUST_INVALID, "expected {m}, {m,} or {m,n}");
    p->at++;
    return JOUST_OK;
}

static joust_status read_repeated(parser *p, fragment *ret)
{
    const size_t from = p->at;
    fragment one = {0, 0}, all;
    uint32_t least = 1, most = 1;
    joust_status st = read_atom(p, &one);
    if (st == JOUST_OK)
        st = read_times(p, &least, &most);
    if (st != JOUST_OK || (least == 1 && most == 1)) {
        *ret = one;
        return st;
    }
    const size_t behind = p->at;
    if (behind < p->n && strchr("*+?{", p->pattern[behind]))
        return fail(p, JOUST_UNSUPPORTED, "a repetition of a repetition; put it in a group");
    st = empty(p, &all);
    for (uint32_t i = 0; st == JOUST_OK && i < least; i++) {
        p->at = from;
        st = i ? read_atom(p, &one) : JOUST_OK;
        if (st == JOUST_OK)
            append(p, &all, one);
    }
    if (st == JOUST_OK && most == JOUST_NO_NODE) {
        fragment more;
        p->at = from;
        st = read_atom(p, &one);
        if (st == JOUST_OK)
            st = loop(p, one, false, &more);
        if (st == JOUST_OK)
            append(p, &all, more);
    }
    for (uint32_t i = least; st == JOUST_OK && most != JOUST_NO_NODE && i < most; i++) {
        fragment nothing, maybe;
        p->at = from;
        st = read_atom(p, &one);
        if (st == JOUST_OK)
            st = empty(p, &nothing);
        if (st == JOUST_OK)
            st = either(p, one, nothing, &maybe);
        if (st == JOUST_OK)
            append(p, &all, maybe);
    }
    p->at = behind;
    *ret = all;
    return st;
}

static joust_status read_choice(parser *p, fragment *ret)
{
    bool begun = false;
    for (;;) {
        fragment all = {0, 0}, one = {0, 0};
        joust_status st = empty(p, &all);
        while (st == JOUST_OK && p->at < p->n && p->pattern[p->at] != '|' &&
               p->pattern[p->at] != ')') {
            st = read_repeated(p, &one);
            if (st == JOUST_OK)
                append(p, &all, one);
        }
        if (st == JOUST_OK && begun)
            st = either(p, *ret, all, ret);
        else
            *ret = all;
        if (st != JOUST_OK || p->at >= p->n || p->pattern[p->at] != '|')
            return st;
        begun = true;
        p->at++;
    }
}

joust_status joust_automaton_compile(const char *pattern, joust_automaton **ret, joust_error *err)
{
    parser p = {.pattern = pattern, .n = strlen(pattern), .err = err};
    size_t bad;
    fragment all;
    uint32_t match = 0;
    if (p.n == 0 || p.n > MAX_PATTERN_BYTES)
        return joust_fail(err, JOUST_INVALID, "expected 1 to %u bytes", MAX_PATTERN_BYTES);
    if (!joust_text_is_utf8(pattern, p.n, &bad))
        return joust_fail(err, JOUST_INVALID, "byte %zu is not UTF-8", bad);
    joust_automaton *a = joust_calloc(1, sizeof(*a));
    p.nodes = joust_calloc(MAX_NODES, sizeof(*p.nodes));
    joust_status st = a && p.nodes ? read_choice(&p, &all)
                                   : joust_fail(err, JOUST_NOMEM, "pattern: out of memory");
    if (st == JOUST_OK && p.at < p.n)
        st = fail(&p, JOUST_INVALID, ") closes nothing");
    if (st == JOUST_OK)
        st = add(&p, (joust_node){.kind = JOUST_NODE_MATCH}, &match);
    if (st == JOUST_OK) {
        p.nodes[all.end].to = match;
        st = joust_automaton_build(a, p.nodes, p.n_nodes, all.start, err);
    }
    joust_free(p.nodes);
    if (st == JOUST_OK)
        *ret = a;
    else
        joust_automaton_free(&a);
    return st;
}
