#include "regex_internal.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/bytes.h"

enum {
    MAX_PATTERN_BYTES = 4096,
    MATCH_LIMIT = 2000000, /* steps of one search */
    HEAP_LIMIT_KIB = 65536
};

struct joust_regex {
    pcre2_code *code;
};

struct joust_regex_scratch {
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

static void *allocate(size_t n, void *context)
{
    (void)context;
    return joust_malloc(n);
}

static void release(void *block, void *context)
{
    (void)context;
    joust_free(block);
}

/* PCRE2 copies the functions into what it makes with the context, so that the context needn't outlive it. */
static pcre2_general_context *memory_create(joust_error *err)
{
    pcre2_general_context *memory = pcre2_general_context_create(allocate, release, NULL);
    if (!memory)
        joust_fail(err, JOUST_NOMEM, "regular expression: out of memory");
    return memory;
}

static joust_status compile(joust_regex *r, const char *pattern, size_t n, bool literal,
                            pcre2_compile_context *context, joust_error *err)
{
    uint32_t options = PCRE2_UTF;
    options |= literal ? PCRE2_LITERAL : PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
    int number;
    PCRE2_SIZE at;
    r->code = pcre2_compile((PCRE2_SPTR)pattern, n, options, &number, &at, context);
    if (r->code) {
        /* Without executable memory searches are interpreted: slower, the same matches. */
        (void)pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE);
        return JOUST_OK;
    }
    PCRE2_UCHAR text[160];
    pcre2_get_error_message(number, text, sizeof(text));
    joust_status st = number == PCRE2_ERROR_NOMEMORY || number == PCRE2_ERROR_HEAP_FAILED
                          ? JOUST_NOMEM
                          : JOUST_INVALID;
    return joust_fail(err, st, "regular expression, byte %zu: %s", (size_t)at, (const char *)text);
}

/* Oniguruma's \w. */
#define ONIGURUMA_WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

/* What stands for \c in a pattern; NULL: the same, "": nothing can. */
static const char *translate_escape(char c, bool in_class)
{
    switch (c) {
    case 's':
        return "\\p{White_Space}";
    case 'S':
        return "\\P{White_Space}";
    case 'w':
        return in_class ? ONIGURUMA_WORD : "[" ONIGURUMA_WORD "]";
    case 'W':
        return in_class ? "" : "[^" ONIGURUMA_WORD "]";
    case 'h': /* a hexadecimal digit there, a blank here */
    case 'H':
    case 'K':
        return "";
    default:
        return NULL;
    }
}

/* A pattern of Oniguruma as one of PCRE2. */
static joust_status translate(const char *pattern, size_t n, joust_buf *to, joust_error *err)
{
    bool in_class = false;
    size_t class_begin = 0;
    for (size_t i = 0; i < n; i++) {
        char c = pattern[i];
        if (c == '\\' && i + 1 < n) {
            const char *other = translate_escape(pattern[i + 1], in_class);
            if (other && !*other)
                return joust_fail(err, JOUST_UNSUPPORTED, "regular expression, byte %zu: \\%c%s", i,
                                  pattern[i + 1], in_class ? " in brackets" : "");
            if (other)
                joust_buf_text(to, other);
            else
                joust_buf_add(to, pattern + i, 2);
            i++;
            continue;
        }
        if (in_class && c == '&' && i + 1 < n && pattern[i + 1] == '&')
            return joust_fail(err, JOUST_UNSUPPORTED,
                              "regular expression, byte %zu: intersections of classes (&&)", i);
        if (in_class && c == '[' && !(i + 1 < n && pattern[i + 1] == ':'))
            return joust_fail(err, JOUST_UNSUPPORTED,
                              "regular expression, byte %zu: a class within a class", i);
        if (!in_class && c == '[') {
            in_class = true;
            class_begin = i + 1 < n && pattern[i + 1] == '^' ? i + 2 : i + 1;
        } else if (in_class && c == '[') { /* [:name:] */
            const char *end = memchr(pattern + i, ']', n - i);
            size_t length = end ? (size_t)(end - pattern) + 1 - i : n - i;
            joust_buf_add(to, pattern + i, length);
            i += length - 1;
            continue;
        } else if (in_class && c == ']' && i > class_begin) {
            in_class = false;
        }
        joust_buf_u8(to, (uint8_t)c);
    }
    return joust_buf_status(to, err);
}

joust_status joust_regex_compile(const char *pattern, size_t n, bool literal, joust_regex **ret,
                                 joust_error *err)
{
    if (n == 0)
        return joust_fail(err, JOUST_INVALID, "regular expression: empty");
    if (n > MAX_PATTERN_BYTES)
        return joust_fail(err, JOUST_TOO_LARGE, "regular expression: longer than %d bytes",
                          MAX_PATTERN_BYTES);
    joust_buf translated = {0};
    joust_status st = literal ? JOUST_OK : translate(pattern, n, &translated, err);
    if (st == JOUST_OK && !literal) {
        pattern = (const char *)translated.data;
        n = translated.n;
    }
    pcre2_general_context *memory = st == JOUST_OK ? memory_create(err) : NULL;
    if (!memory) {
        joust_buf_fini(&translated);
        return st == JOUST_OK ? JOUST_NOMEM : st;
    }
    joust_regex *r = joust_calloc(1, sizeof(*r));
    pcre2_compile_context *context = pcre2_compile_context_create(memory);
    if (!r || !context) {
        st = joust_fail(err, JOUST_NOMEM, "regular expression: out of memory");
        goto out;
    }
    st = compile(r, pattern, n, literal, context, err);
    if (st != JOUST_OK)
        goto out;
    *ret = r;
    r = NULL;
out:
    joust_free(r);
    joust_buf_fini(&translated);
    pcre2_compile_context_free(context);
    pcre2_general_context_free(memory);
    return st;
}

void joust_regex_free(joust_regex **r)
{
    if (!*r)
        return;
    pcre2_code_free((*r)->code);
    joust_free(*r);
    *r = NULL;
}

joust_status joust_regex_scratch_create(joust_regex_scratch **ret, joust_error *err)
{
    pcre2_general_context *memory = memory_create(err);
    if (!memory)
        return JOUST_NOMEM;
    joust_regex_scratch *s = joust_calloc(1, sizeof(*s));
    if (s) {
        s->match = pcre2_match_data_create(1, memory);
        s->limits = pcre2_match_context_create(memory);
    }
    pcre2_general_context_free(memory);
    if (!s || !s->match || !s->limits) {
        joust_regex_scratch_free(&s);
        return joust_fail(err, JOUST_NOMEM, "regular expression: out of memory");
    }
    pcre2_set_match_limit(s->limits, MATCH_LIMIT);
    pcre2_set_heap_limit(s->limits, HEAP_LIMIT_KIB);
    *ret = s;
    return JOUST_OK;
}

void joust_regex_scratch_free(joust_regex_scratch **s)
{
    if (!*s)
        return;
    pcre2_match_data_free((*s)->match);
    pcre2_match_context_free((*s)->limits);
    joust_free(*s);
    *s = NULL;
}

joust_status joust_regex_find(const joust_regex *r, joust_regex_scratch *scratch,
                              const uint8_t *text, size_t n, size_t from, size_t *ret_begin,
                              size_t *ret_end, joust_error *err)
{
    uint32_t options = PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY;
    int found = pcre2_match(r->code, text, n, from, options, scratch->match, scratch->limits);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(r->code, text, n, from, options | PCRE2_NO_JIT, scratch->match,
                            scratch->limits);
    if (found == PCRE2_ERROR_NOMATCH)
        return JOUST_END;
    if (found < 0) {
        PCRE2_UCHAR why[160];
        pcre2_get_error_message(found, why, sizeof(why));
        return joust_fail(err, found == PCRE2_ERROR_NOMEMORY ? JOUST_NOMEM : JOUST_TOO_LARGE,
                          "regular expression: the search at byte %zu was given up: %s", from,
                          (const char *)why);
    }
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(scratch->match);
    /* \K in a lookahead can put the begin behind the end, or before `from`: no match for our purpose. */
    if (bounds[0] >= bounds[1] || bounds[0] < from)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "regular expression: \\K moves the match's begin");
    *ret_begin = bounds[0];
    *ret_end = bounds[1];
    return JOUST_OK;
}
