/* Cuts a chat template into lexemes, as Jinja's lexer does with trim_blocks and lstrip_blocks: a line break after a
 * block or comment is dropped, blanks between a line's begin and a block or comment as well; "-" takes all white
 * space on its side, "+" keeps it. */
#include <stdlib.h>
#include <string.h>

#include "chat_internal.h"
#include "proto/base/alloc.h"
#include "unicode_internal.h"

typedef struct lexer {
    chat_arena *arena;
    const char *name, *text;
    size_t n, at;
    uint32_t line;
    bool line_begins; /* what was read last ended a line */
    chat_lexemes *to;
    joust_error *err;
} lexer;

static joust_status fail(lexer *l, joust_status st, const char *what)
{
    return joust_chat_refuse(l->name, l->line, l->err, st, "%s", what);
}

static joust_status add(lexer *l, chat_lexeme lexeme)
{
    chat_lexemes *to = l->to;
    if (to->n == to->capacity) {
        size_t capacity = to->capacity ? to->capacity * 2 : 256;
        void *items = joust_realloc_array(to->items, capacity, sizeof(*to->items));
        if (!items)
            return fail(l, JOUST_NOMEM, "out of memory");
        to->items = items;
        to->capacity = capacity;
    }
    lexeme.line = l->line;
    to->items[to->n++] = lexeme;
    return JOUST_OK;
}

static bool starts(const lexer *l, const char *what)
{
    size_t n = strlen(what);
    return l->n - l->at >= n && memcmp(l->text + l->at, what, n) == 0;
}

/* Moves on to byte `to`, counting lines. */
static void advance(lexer *l, size_t to)
{
    for (; l->at < to; l->at++)
        l->line += l->text[l->at] == '\n';
    l->line_begins = to > 0 && l->text[to - 1] == '\n';
}

static size_t white_end(const lexer *l, size_t at)
{
    uint32_t code;
    while (at < l->n) {
        size_t length = joust_utf8_next((const uint8_t *)l->text + at, l->n - at, &code);
        if (!joust_chat_is_white(code))
            break;
        at += length;
    }
    return at;
}

static size_t white_begin(const lexer *l, size_t begin, size_t end)
{
    uint32_t code;
    while (end > begin) {
        size_t length = joust_utf8_previous((const uint8_t *)l->text + begin, end - begin, &code);
        if (!joust_chat_is_white(code))
            break;
        end -= length;
    }
    return end;
}

/* Where text before a tag ends: sign is what stands in the tag after its brace. */
static size_t text_end(const lexer *l, size_t begin, size_t end, char sign, bool print)
{
    if (sign == '-')
        return white_begin(l, begin, end);
    if (sign == '+' || print)
        return end;
    size_t line = end;
    while (line > begin && l->text[line - 1] != '\n')
        line--;
    if (line == begin && !l->line_begins)
        return end;
    return white_begin(l, line, end) == line ? line : end;
}

static joust_status add_data(lexer *l, size_t begin, size_t end)
{
    if (begin == end)
        return JOUST_OK;
    return add(l, (chat_lexeme){.kind = CHAT_DATA, .text = l->text + begin, .n = end - begin});
}

/* The end of a block or comment whose closing brace ends at byte `end`: the line break after it goes too. */
static size_t trimmed(const lexer *l, size_t end, char sign)
{
    if (sign == '-')
        return white_end(l, end);
    if (sign != '+' && end < l->n && l->text[end] == '\n')
        return end + 1;
    return end;
}

static joust_status skip_comment(lexer *l)
{
    size_t begin = l->at + 2;
    if (begin < l->n && (l->text[begin] == '-' || l->text[begin] == '+'))
        begin++;
    size_t at = begin;
    while (at + 1 < l->n && !(l->text[at] == '#' && l->text[at + 1] == '}'))
        at++;
    if (at + 1 >= l->n)
        return fail(l, JOUST_MALFORMED, "a comment {# is not closed");
    char sign = at > begin ? l->text[at - 1] : 0;
    advance(l, trimmed(l, at + 2, sign));
    return JOUST_OK;
}

static size_t word_end(const lexer *l, size_t at, const char *word)
{
    size_t n = strlen(word), begin = white_end(l, at);
    if (l->n - begin < n || memcmp(l->text + begin, word, n) != 0)
        return 0;
    return white_end(l, begin + n);
}

/* "{% raw %}" at l->at: byte after it, or 0. close: also takes a sign and a line break of an end tag. */
static size_t tag_end(const lexer *l, size_t at, const char *word, bool close)
{
    if (l->n - at < 2 || l->text[at] != '{' || l->text[at + 1] != '%')
        return 0;
    at += 2;
    if (at < l->n && (l->text[at] == '-' || l->text[at] == '+'))
        at++;
    at = word_end(l, at, word);
    if (!at || at >= l->n)
        return 0;
    char sign = l->text[at] == '-' || (close && l->text[at] == '+') ? l->text[at++] : 0;
    if (l->n - at < 2 || l->text[at] != '%' || l->text[at + 1] != '}')
        return 0;
    if (close)
        return trimmed(l, at + 2, sign);
    return sign == '-' ? white_end(l, at + 2) : at + 2;
}

/* Everything to {% endraw %} as it stands. */
static joust_status read_raw(lexer *l, size_t begin)
{
    advance(l, begin);
    for (size_t at = begin; at < l->n; at++) {
        size_t end = tag_end(l, at, "endraw", true);
        if (!end)
            continue;
        joust_status st = add_data(l, begin, text_end(l, begin, at, l->text[at + 2], false));
        advance(l, end);
        return st;
    }
    return fail(l, JOUST_MALFORMED, "{% raw %} is not closed");
}

static bool is_name_start(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static joust_status read_name(lexer *l)
{
    size_t begin = l->at, end = begin;
    while (end < l->n && (is_name_start(l->text[end]) || is_digit(l->text[end])))
        end++;
    char *name = joust_chat_alloc(l->arena, end - begin + 1);
    if (!name)
        return fail(l, JOUST_NOMEM, "out of memory");
    memcpy(name, l->text + begin, end - begin);
    advance(l, end);
    return add(l, (chat_lexeme){.kind = CHAT_NAME, .text = name, .n = end - begin});
}

static joust_status read_number(lexer *l)
{
    char digits[64];
    size_t n = 0, end = l->at;
    bool real = false;
    for (; end < l->n; end++) {
        char c = l->text[end];
        bool exponent =
            (c == 'e' || c == 'E') && n > 0 && end + 1 < l->n &&
            (is_digit(l->text[end + 1]) || ((l->text[end + 1] == '-' || l->text[end + 1] == '+') &&
                                            end + 2 < l->n && is_digit(l->text[end + 2])));
        bool point = c == '.' && !real && end + 1 < l->n && is_digit(l->text[end + 1]);
        bool sign =
            (c == '-' || c == '+') && n > 0 && (digits[n - 1] == 'e' || digits[n - 1] == 'E');
        if (!is_digit(c) && c != '_' && !exponent && !point && !sign)
            break;
        real |= exponent || point;
        if (c == '_')
            continue;
        if (n + 1 == sizeof(digits))
            return fail(l, JOUST_UNSUPPORTED, "a number of more than 60 digits");
        digits[n++] = c;
    }
    digits[n] = 0;
    advance(l, end);
    if (real)
        return add(l, (chat_lexeme){.kind = CHAT_FLOAT, .real = strtod(digits, NULL)});
    if (n > 18)
        return fail(l, JOUST_UNSUPPORTED, "an integer of more than 18 digits");
    if (end < l->n && is_name_start(l->text[end]))
        return fail(l, JOUST_UNSUPPORTED, "a number that isn't decimal");
    return add(l, (chat_lexeme){.kind = CHAT_INTEGER, .integer = strtoll(digits, NULL, 10)});
}

/* Digits of \x, \u, \U and \ooo; false if there are too few. */
static bool read_code(const char **at, const char *end, int n_digits, int base, uint32_t *ret)
{
    uint32_t code = 0;
    int n = 0;
    for (; n < n_digits && *at < end; n++, ++*at) {
        char c = **at;
        int digit = is_digit(c)            ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : 99;
        if (digit >= base)
            break;
        code = code * (uint32_t)base + (uint32_t)digit;
    }
    *ret = code;
    return base == 8 ? n > 0 : n == n_digits;
}

static joust_status add_escape(lexer *l, joust_buf *to, const char **at, const char *end)
{
    static const char from[] = "\\'\"abfnrtv", into[] = "\\'\"\a\b\f\n\r\t\v";
    char c = *(*at)++;
    const char *simple = strchr(from, c);
    uint32_t code;
    if (c == '\n')
        return JOUST_OK;
    if (c && simple) {
        joust_buf_u8(to, (uint8_t)into[simple - from]);
        return JOUST_OK;
    }
    bool whole = true;
    if (c == 'x' || c == 'u' || c == 'U') {
        whole = read_code(at, end, c == 'x' ? 2 : c == 'u' ? 4 : 8, 16, &code);
    } else if (c >= '0' && c <= '7') {
        --*at;
        whole = read_code(at, end, 3, 8, &code);
    } else if (c == 'N') {
        return fail(l, JOUST_UNSUPPORTED, "\\N{…} in a string");
    } else { /* Python keeps an unknown escape as it is */
        joust_buf_u8(to, '\\');
        --*at;
        return JOUST_OK;
    }
    if (!whole || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
        return fail(l, JOUST_MALFORMED, "a string has a bad \\ escape");
    joust_utf8_add(to, code);
    return JOUST_OK;
}

static joust_status read_string(lexer *l)
{
    char quote = l->text[l->at];
    size_t end = l->at + 1;
    while (end < l->n && l->text[end] != quote)
        end += l->text[end] == '\\' ? 2 : 1;
    if (end >= l->n)
        return fail(l, JOUST_MALFORMED, "a string is not closed");
    joust_buf text = {0};
    joust_status st = JOUST_OK;
    const char *stop = l->text + end;
    for (const char *at = l->text + l->at + 1; st == JOUST_OK && at < stop;) {
        if (*at != '\\') {
            joust_buf_u8(&text, (uint8_t)*at++);
            continue;
        }
        at++;
        st = add_escape(l, &text, &at, stop);
    }
    char *kept = st == JOUST_OK ? joust_chat_alloc(l->arena, text.n + 1) : NULL;
    if (st == JOUST_OK && (!kept || !joust_buf_ok(&text)))
        st = fail(l, JOUST_NOMEM, "out of memory");
    if (st == JOUST_OK) {
        if (text.n)
            memcpy(kept, text.data, text.n);
        st = add(l, (chat_lexeme){.kind = CHAT_STRING, .text = kept, .n = text.n});
        advance(l, end + 1);
    }
    joust_buf_fini(&text);
    return st;
}

static joust_status read_operator(lexer *l, const char **ret)
{
    static const char *const operators[] = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "*",
                                            "/",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                            ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    for (size_t i = 0; i < sizeof(operators) / sizeof(*operators); i++) {
        if (!starts(l, operators[i]))
            continue;
        *ret = operators[i];
        joust_status st = add(
            l,
            (chat_lexeme){.kind = CHAT_OPERATOR, .text = operators[i], .n = strlen(operators[i])});
        advance(l, l->at + strlen(operators[i]));
        return st;
    }
    uint8_t c = (uint8_t)l->text[l->at];
    return joust_chat_refuse(l->name, l->line, l->err,
                             c < 0x80 ? JOUST_MALFORMED : JOUST_UNSUPPORTED,
                             "an unexpected character '%.*s'", c < 0x80 ? 1 : 4, l->text + l->at);
}

/* Whether the tag's end stands here; *ret_end: byte after it and what it drops. */
static bool at_tag_end(const lexer *l, bool print, size_t *ret_end)
{
    const char *close = print ? "}}" : "%}";
    size_t at = l->at;
    char sign = 0;
    if (l->text[at] == '-' || (!print && l->text[at] == '+'))
        sign = l->text[at++];
    if (l->n - at < 2 || memcmp(l->text + at, close, 2) != 0)
        return false;
    if (print)
        *ret_end = sign == '-' ? white_end(l, at + 2) : at + 2;
    else
        *ret_end = trimmed(l, at + 2, sign);
    return true;
}

/* What stands between the braces of a tag. */
static joust_status read_tag(lexer *l, bool print)
{
    char open[JOUST_CHAT_MAX_NESTING];
    size_t n_open = 0, end;
    joust_status st = JOUST_OK;
    while (st == JOUST_OK) {
        const char *operator= NULL;
        advance(l, white_end(l, l->at));
        if (l->at >= l->n)
            return fail(l, JOUST_MALFORMED, print ? "{{ is not closed" : "{% is not closed");
        if (n_open == 0 && at_tag_end(l, print, &end)) {
            st = add(l, (chat_lexeme){.kind = print ? CHAT_PRINT_END : CHAT_BLOCK_END});
            advance(l, end);
            return st;
        }
        char c = l->text[l->at];
        if (is_name_start(c))
            st = read_name(l);
        else if (is_digit(c))
            st = read_number(l);
        else if (c == '"' || c == '\'')
            st = read_string(l);
        else
            st = read_operator(l, &operator);
        if (st != JOUST_OK || !operator)
            continue;
        c = *operator;
        if (c == '(' || c == '[' || c == '{') {
            if (n_open == sizeof(open))
                return fail(l, JOUST_UNSUPPORTED, "brackets are nested too deeply");
            open[n_open++] = c == '(' ? ')' : c == '[' ? ']' : '}';
        } else if (c == ')' || c == ']' || c == '}') {
            if (n_open == 0 || open[--n_open] != c)
                return fail(l, JOUST_MALFORMED, "a closing bracket without its opening one");
        }
    }
    return st;
}

/* Text to the next tag, and that tag. */
static joust_status read_piece(lexer *l)
{
    size_t begin = l->at, at = begin;
    while (at < l->n &&
           !(l->text[at] == '{' && at + 1 < l->n &&
             (l->text[at + 1] == '{' || l->text[at + 1] == '%' || l->text[at + 1] == '#')))
        at++;
    bool print = at < l->n && l->text[at + 1] == '{';
    size_t end = at;
    if (at < l->n)
        end = text_end(l, begin, at, at + 2 < l->n ? l->text[at + 2] : 0, print);
    joust_status st = add_data(l, begin, end);
    if (st != JOUST_OK || at >= l->n) {
        advance(l, at);
        return st;
    }
    size_t raw = tag_end(l, at, "raw", false);
    advance(l, at);
    if (raw)
        return read_raw(l, raw);
    if (l->text[at + 1] == '#')
        return skip_comment(l);
    st = add(l, (chat_lexeme){.kind = print ? CHAT_PRINT_BEGIN : CHAT_BLOCK_BEGIN});
    at += 2;
    if (at < l->n && (l->text[at] == '-' || l->text[at] == '+'))
        at++;
    advance(l, at);
    return st == JOUST_OK ? read_tag(l, print) : st;
}

joust_status joust_chat_lex(chat_arena *arena, const char *name, const char *text, size_t n,
                            chat_lexemes *ret, joust_error *err)
{
    lexer l = {.arena = arena,
               .name = name,
               .text = text,
               .n = n,
               .line = 1,
               .line_begins = true,
               .to = ret,
               .err = err};
    joust_status st = JOUST_OK;
    while (st == JOUST_OK && l.at < l.n)
        st = read_piece(&l);
    return st == JOUST_OK ? add(&l, (chat_lexeme){.kind = CHAT_EOF}) : st;
}
