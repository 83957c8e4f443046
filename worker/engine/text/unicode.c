#include "unicode_internal.h"

#include <utf8proc.h>

#include "proto/base/alloc.h"
#include "proto/base/text.h"

#define MAX_MARKS 1024u /* in a row: sorting them takes quadratic time */

size_t joust_utf8_next(const uint8_t *text, size_t n, uint32_t *ret)
{
    uint8_t first = text[0];
    size_t length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (length > n)
        length = n;
    uint32_t code = length == 1 ? first : first & (0x7fu >> length);
    for (size_t i = 1; i < length; i++)
        code = code << 6 | (text[i] & 0x3fu);
    *ret = code;
    return length;
}

size_t joust_utf8_previous(const uint8_t *text, size_t n, uint32_t *ret)
{
    size_t length = 1;
    while (length < n && length < 4 && (text[n - length] & 0xc0) == 0x80)
        length++;
    return joust_utf8_next(text + n - length, length, ret);
}

void joust_utf8_add(joust_buf *to, uint32_t code)
{
    uint8_t bytes[4];
    size_t n = code < 0x80 ? 1 : code < 0x800 ? 2 : code < 0x10000 ? 3 : 4;
    for (size_t i = n; i-- > 1; code >>= 6)
        bytes[i] = (uint8_t)(0x80 | (code & 0x3f));
    static const uint8_t lead[5] = {0, 0, 0xc0, 0xe0, 0xf0};
    bytes[0] = (uint8_t)(lead[n] | code);
    joust_buf_add(to, bytes, n);
}

void joust_utf8_add_lossy(joust_buf *to, const uint8_t *bytes, size_t n)
{
    for (size_t i = 0; i < n;) {
        size_t bad, length = joust_utf8_length(bytes + i, n - i, &bad);
        if (length)
            joust_buf_add(to, bytes + i, length);
        else
            joust_buf_text(to, "\xef\xbf\xbd");
        i += length ? length : bad;
    }
}

bool joust_is_white(uint32_t code)
{
    return (code >= 0x09 && code <= 0x0d) || code == 0x20 || code == 0x85 || code == 0xa0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

/* The ecosystem's tokenizers normalize by the tables of Unicode 9: marks of later versions have no combining class there
 * and aren't stripped, other characters no decomposition. Models have seen what those tables give, so they are followed
 * here. Source: the `tokenizers` package asked for each assigned code point (tests/evidence/text_tokenizers.py). */
static const struct code_range {
    uint32_t first, last;
} later_marks[] = {{0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
                   {0xafa, 0xaff},     {0xb55, 0xb55},     {0xc04, 0xc04},     {0xc3c, 0xc3c},
                   {0xd00, 0xd00},     {0xd3b, 0xd3c},     {0xd81, 0xd81},     {0xeba, 0xeba},
                   {0x1715, 0x1715},   {0x180f, 0x180f},   {0x1abf, 0x1ace},   {0x1cf7, 0x1cf7},
                   {0x1df6, 0x1dfa},   {0xa82c, 0xa82c},   {0xa8ff, 0xa8ff},   {0x10d24, 0x10d27},
                   {0x10eab, 0x10eac}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85}, {0x11070, 0x11070},
                   {0x11073, 0x11074}, {0x110c2, 0x110c2}, {0x11145, 0x11146}, {0x111c9, 0x111c9},
                   {0x111ce, 0x111cf}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x1182c, 0x1183a},
                   {0x11930, 0x11935}, {0x11937, 0x11938}, {0x1193b, 0x1193e}, {0x11940, 0x11940},
                   {0x11942, 0x11943}, {0x119d1, 0x119d7}, {0x119da, 0x119e0}, {0x119e4, 0x119e4},
                   {0x11a01, 0x11a0a}, {0x11a33, 0x11a39}, {0x11a3b, 0x11a3e}, {0x11a47, 0x11a47},
                   {0x11a51, 0x11a5b}, {0x11a8a, 0x11a99}, {0x11d31, 0x11d36}, {0x11d3a, 0x11d3a},
                   {0x11d3c, 0x11d3d}, {0x11d3f, 0x11d45}, {0x11d47, 0x11d47}, {0x11d8a, 0x11d8e},
                   {0x11d90, 0x11d91}, {0x11d93, 0x11d97}, {0x11ef3, 0x11ef6}, {0x16f4f, 0x16f4f},
                   {0x16f7f, 0x16f87}, {0x16fe4, 0x16fe4}, {0x16ff0, 0x16ff1}, {0x1cf00, 0x1cf2d},
                   {0x1cf30, 0x1cf46}, {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}},
  later_letters[] = {{0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},   {0xab69, 0xab69},
                     {0x10781, 0x10785}, {0x10787, 0x107b0}, {0x107b2, 0x107ba},
                     {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9}};

static bool is_in(const struct code_range *ranges, size_t n, uint32_t code)
{
    size_t low = 0;
    while (low < n) {
        size_t middle = low + (n - low) / 2;
        if (code > ranges[middle].last)
            low = middle + 1;
        else
            n = middle;
    }
    return low < n + 1 && ranges[low].first <= code && code <= ranges[low].last;
}

static bool is_later_mark(uint32_t code)
{
    size_t n = sizeof(later_marks) / sizeof(*later_marks);
    return code >= later_marks[0].first && code <= later_marks[n - 1].last &&
           is_in(later_marks, n, code);
}

static bool is_later(uint32_t code)
{
    size_t n = sizeof(later_letters) / sizeof(*later_letters);
    return is_later_mark(code) ||
           (code >= later_letters[0].first && code <= later_letters[n - 1].last &&
            is_in(later_letters, n, code));
}

/* The forms leave characters below this one as they are, and nothing before one changes them. */
static uint32_t first_unstable(joust_normal_form form)
{
    return form == JOUST_FORM_NFC ? 0x300 : form == JOUST_FORM_NFD ? 0xc0 : 0xa0;
}

static bool is_stable(const uint8_t *text, size_t n, joust_normal_form form)
{
    uint32_t code, first = first_unstable(form);
    for (size_t at = 0; at < n;) {
        at += joust_utf8_next(text + at, n - at, &code);
        if (code >= first)
            return false;
    }
    return true;
}

static bool has_long_run(const uint8_t *text, size_t n)
{
    uint32_t code;
    size_t run = 0;
    for (size_t at = 0; at < n && run <= MAX_MARKS;) {
        at += joust_utf8_next(text + at, n - at, &code);
        run = utf8proc_get_property((utf8proc_int32_t)code)->combining_class ? run + 1 : 0;
    }
    return run > MAX_MARKS;
}

static joust_status normalize_known(const uint8_t *text, size_t n, joust_normal_form form,
                                    joust_buf *to, joust_error *err)
{
    bool compose = form == JOUST_FORM_NFC || form == JOUST_FORM_NFKC;
    int options = compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
    if (form == JOUST_FORM_NFKC || form == JOUST_FORM_NFKD)
        options |= UTF8PROC_COMPAT;
    options |= UTF8PROC_STABLE;
    if (has_long_run(text, n))
        return joust_fail(err, JOUST_TOO_LARGE, "text: more than %u combining marks in a row",
                          MAX_MARKS);
    utf8proc_ssize_t room =
        utf8proc_decompose(text, (utf8proc_ssize_t)n, NULL, 0, (utf8proc_option_t)options);
    utf8proc_int32_t *codes = room > 0 ? joust_calloc((size_t)room + 1, sizeof(*codes)) : NULL;
    if (room < 0 || (room > 0 && !codes))
        return joust_fail(err, room < 0 ? JOUST_INVALID : JOUST_NOMEM, "text: can't be normalized");
    utf8proc_ssize_t length =
        utf8proc_decompose(text, (utf8proc_ssize_t)n, codes, room, (utf8proc_option_t)options);
    if (length >= 0 && compose)
        length = utf8proc_normalize_utf32(codes, length, (utf8proc_option_t)options);
    for (utf8proc_ssize_t i = 0; i < length; i++)
        joust_utf8_add(to, (uint32_t)codes[i]);
    joust_free(codes);
    if (length < 0)
        return joust_fail(err, JOUST_INVALID, "text: can't be normalized");
    return joust_buf_status(to, err);
}

joust_status joust_unicode_normalize(const uint8_t *text, size_t n, joust_normal_form form,
                                     joust_buf *to, joust_error *err)
{
    size_t begin = 0;
    joust_status st = JOUST_OK;
    if (is_stable(text, n, form)) {
        joust_buf_add(to, text, n);
        return joust_buf_status(to, err);
    }
    for (size_t at = 0; st == JOUST_OK && at < n;) {
        uint32_t code;
        size_t length = joust_utf8_next(text + at, n - at, &code);
        if (is_later(code)) { /* a character that nothing is sorted or composed across */
            if (at > begin)
                st = normalize_known(text + begin, at - begin, form, to, err);
            joust_buf_add(to, text + at, length);
            begin = at + length;
        }
        at += length;
    }
    if (st == JOUST_OK && begin < n)
        st = normalize_known(text + begin, n - begin, form, to, err);
    return st == JOUST_OK ? joust_buf_status(to, err) : st;
}

void joust_unicode_lower(const uint8_t *text, size_t n, joust_buf *to)
{
    uint32_t code;
    for (size_t at = 0; at < n;) {
        at += joust_utf8_next(text + at, n - at, &code);
        if (code == 0x130) /* the one letter whose lower case is two characters */
            joust_buf_text(to, "i\xcc\x87");
        else
            joust_utf8_add(to, (uint32_t)utf8proc_tolower((utf8proc_int32_t)code));
    }
}

void joust_unicode_unmark(const uint8_t *text, size_t n, joust_buf *to)
{
    uint32_t code;
    for (size_t at = 0; at < n;) {
        size_t length = joust_utf8_next(text + at, n - at, &code);
        utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)code);
        bool mark = category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
                    category == UTF8PROC_CATEGORY_ME;
        bool was_mark = code == 0x1cf2 || code == 0x1cf3; /* by the tables of Unicode 9 */
        if (!was_mark && (!mark || is_later_mark(code)))
            joust_buf_add(to, text + at, length);
        at += length;
    }
}
