#include "unicode_internal.h"

#include "proto/base/text.h"

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
