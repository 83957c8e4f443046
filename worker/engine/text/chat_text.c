/* What filters and methods of chat templates do to texts. Characters keep whom they stem from. */
#include <string.h>
#include <utf8proc.h>

#include "chat_internal.h"
#include "unicode_internal.h"

/* Python's str.isspace. */
bool joust_chat_is_white(uint32_t code)
{
    return joust_is_white(code) || (code >= 0x1c && code <= 0x1f);
}

/* Whether the character at bytes[0..n) is to be stripped. */
static bool is_stripped(const uint8_t *bytes, size_t n, uint32_t code, const chat_value *characters)
{
    if (!characters)
        return joust_chat_is_white(code);
    for (size_t at = 0; at < characters->as.text.n;) {
        uint32_t other;
        const uint8_t *set = characters->as.text.bytes + at;
        size_t length = joust_utf8_next(set, characters->as.text.n - at, &other);
        if (length == n && memcmp(set, bytes, n) == 0)
            return true;
        at += length;
    }
    return false;
}

chat_value joust_chat_strip(const chat_value *text, const chat_value *characters, bool left,
                            bool right)
{
    const uint8_t *bytes = text->as.text.bytes;
    size_t begin = 0, end = text->as.text.n;
    uint32_t code;
    while (left && begin < end) {
        size_t length = joust_utf8_next(bytes + begin, end - begin, &code);
        if (!is_stripped(bytes + begin, length, code, characters))
            break;
        begin += length;
    }
    while (right && begin < end) {
        size_t length = joust_utf8_previous(bytes + begin, end - begin, &code);
        if (!is_stripped(bytes + end - length, length, code, characters))
            break;
        end -= length;
    }
    return joust_chat_sub(text, begin, end);
}

/* Letters whose other case is several letters, or depends on their neighbours. */
static bool is_special_case(uint32_t code, bool upper)
{
    if (!upper)
        return code == 0x130 || code == 0x3a3;
    return code == 0xdf || code == 0x149 || code == 0x1f0 || code == 0x390 || code == 0x3b0 ||
           code == 0x587 || (code >= 0x1e96 && code <= 0x1e9a) ||
           (code >= 0x1f50 && code <= 0x1f56) || (code >= 0x1f80 && code <= 0x1ffc) ||
           (code >= 0xfb00 && code <= 0xfb17);
}

joust_status joust_chat_recase(chat_run *r, const chat_value *text, chat_case how, chat_output *to)
{
    const uint8_t *bytes = text->as.text.bytes;
    for (size_t at = 0; at < text->as.text.n;) {
        uint32_t code;
        size_t length = joust_utf8_next(bytes + at, text->as.text.n - at, &code);
        bool upper = how == CHAT_CASE_UPPER || (how == CHAT_CASE_CAPITAL && at == 0);
        chat_value one = joust_chat_sub(text, at, at + length);
        if (is_special_case(code, upper))
            return joust_chat_fail(r, JOUST_UNSUPPORTED, "the %s case of U+%04X",
                                   upper ? "upper" : "lower", code);
        uint32_t other = (uint32_t)(!upper                   ? utf8proc_tolower((int32_t)code)
                                    : how == CHAT_CASE_UPPER ? utf8proc_toupper((int32_t)code)
                                                             : utf8proc_totitle((int32_t)code));
        if (other == code) {
            joust_chat_output_add(to, &one);
        } else {
            joust_buf letter = {0};
            joust_utf8_add(&letter, other);
            to->bytes.failed |= !joust_buf_ok(&letter);
            joust_chat_output_bytes(to, letter.data, letter.n,
                                    one.as.text.trust ? one.as.text.trust[0] : one.trusted);
            joust_buf_fini(&letter);
        }
        at += length;
    }
    return joust_chat_step(r, text->as.text.n);
}

joust_status joust_chat_recased(chat_run *r, const chat_value *text, const char *how,
                                chat_value *ret)
{
    chat_output out = {0};
    joust_status st = joust_chat_recase(r, text,
                                        how[0] == 'u'   ? CHAT_CASE_UPPER
                                        : how[0] == 'l' ? CHAT_CASE_LOWER
                                                        : CHAT_CASE_CAPITAL,
                                        &out);
    return joust_chat_finish(r, st, &out, ret);
}

static bool found_at(const chat_value *text, size_t at, const chat_value *what)
{
    size_t n = what->as.text.n;
    return text->as.text.n - at >= n &&
           (n == 0 || memcmp(text->as.text.bytes + at, what->as.text.bytes, n) == 0);
}

joust_status joust_chat_replace(chat_run *r, const chat_value *text, const chat_value *before,
                                const chat_value *after, int64_t most, chat_value *ret)
{
    chat_output out = {0};
    size_t at = 0, n = text->as.text.n;
    joust_status st = joust_chat_step(r, n);
    if (before->as.text.n == 0)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "a replacement of nothing");
    while (st == JOUST_OK && at < n) {
        if (most != 0 && found_at(text, at, before)) {
            st = joust_chat_print(r, after, &out);
            at += before->as.text.n;
            most--;
            continue;
        }
        chat_value one = joust_chat_sub(text, at, at + 1);
        joust_chat_output_add(&out, &one);
        at++;
    }
    return joust_chat_finish(r, st, &out, ret);
}

/* Bytes of the line break at text[at], or 0: Python's str.splitlines. */
static size_t line_break(const chat_value *text, size_t at)
{
    const uint8_t *bytes = text->as.text.bytes + at;
    size_t n = text->as.text.n - at;
    uint32_t code;
    size_t length = joust_utf8_next(bytes, n, &code);
    if (code == '\r')
        return n > 1 && bytes[1] == '\n' ? 2 : 1;
    bool ends = (code >= 0x0a && code <= 0x0c) || (code >= 0x1c && code <= 0x1e) || code == 0x85 ||
                code == 0x2028 || code == 0x2029;
    return ends ? length : 0;
}

joust_status joust_chat_lines(chat_run *r, const chat_value *text, bool keep_ends, chat_value *ret)
{
    joust_status st = joust_chat_sequence(r, CHAT_FORM_LIST, 0, ret);
    size_t begin = 0, n = text->as.text.n;
    for (size_t at = 0; st == JOUST_OK && at < n;) {
        uint32_t code;
        size_t broken = line_break(text, at);
        at += broken ? broken : joust_utf8_next(text->as.text.bytes + at, n - at, &code);
        if (!broken && at < n)
            continue;
        chat_value line = joust_chat_sub(text, begin, keep_ends || !broken ? at : at - broken);
        st = joust_chat_push(r, ret, &line);
        begin = at;
    }
    return st == JOUST_OK ? joust_chat_step(r, n) : st;
}
