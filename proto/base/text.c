#include "proto/base/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

size_t joust_text_distance(const char *a, const char *b)
{
    enum { LIMIT = 64 };
    size_t n = strlen(a), m = strlen(b);
    if (n >= LIMIT || m >= LIMIT)
        return LIMIT;
    size_t row[3][LIMIT + 1]; /* two rows back, one row back, this row */
    for (size_t j = 0; j <= m; j++)
        row[1][j] = j;
    for (size_t i = 1; i <= n; i++) {
        row[2][0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = row[1][j - 1] + (a[i - 1] != b[j - 1]);
            if (row[1][j] + 1 < best)
                best = row[1][j] + 1;
            if (row[2][j - 1] + 1 < best)
                best = row[2][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                row[0][j - 2] + 1 < best)
                best = row[0][j - 2] + 1;
            row[2][j] = best;
        }
        memcpy(row[0], row[1], sizeof(row[0]));
        memcpy(row[1], row[2], sizeof(row[1]));
    }
    return row[1][m];
}

const char *joust_text_nearest(const char *word, const char *const *candidates, size_t n)
{
    const char *best = NULL;
    size_t best_distance = strlen(word) / 3 + 2;
    for (size_t i = 0; i < n; i++) {
        size_t distance = joust_text_distance(word, candidates[i]);
        if (distance < best_distance) {
            best = candidates[i];
            best_distance = distance;
        }
    }
    return best;
}

size_t joust_utf8_length(const uint8_t *s, size_t n, size_t *ret_bad)
{
    uint8_t first = s[0], low = 0x80, high = 0xbf;
    size_t length;
    *ret_bad = 1;
    if (first < 0x80)
        return 1;
    if (first >= 0xc2 && first <= 0xdf)
        length = 2;
    else if (first >= 0xe0 && first <= 0xef)
        length = 3;
    else if (first >= 0xf0 && first <= 0xf4)
        length = 4;
    else
        return 0;
    if (first == 0xe0)
        low = 0xa0;
    else if (first == 0xed)
        high = 0x9f;
    else if (first == 0xf0)
        low = 0x90;
    else if (first == 0xf4)
        high = 0x8f;
    for (size_t i = 1; i < length; i++) {
        if (i >= n || s[i] < low || s[i] > high) {
            *ret_bad = i;
            return 0;
        }
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

/* Whether the next eight bytes are ASCII. */
static bool is_ascii(const uint8_t *s)
{
    uint64_t eight;
    memcpy(&eight, s, sizeof(eight));
    return (eight & 0x8080808080808080u) == 0;
}

bool joust_text_is_utf8(const void *data, size_t n, size_t *ret_bad)
{
    const uint8_t *s = data;
    for (size_t i = 0; i < n;) {
        if (n - i >= 8 && is_ascii(s + i)) {
            i += 8;
            continue;
        }
        size_t bad, length = joust_utf8_length(s + i, n - i, &bad);
        if (!length) {
            if (ret_bad)
                *ret_bad = i;
            return false;
        }
        i += length;
    }
    return true;
}

void joust_json_string(joust_buf *to, const void *text, size_t n)
{
    const uint8_t *s = text;
    joust_buf_u8(to, '"');
    for (size_t i = 0; i < n;) {
        size_t bad, length = joust_utf8_length(s + i, n - i, &bad);
        if (!length) {
            joust_buf_text(to, "\xef\xbf\xbd");
            i++;
            continue;
        }
        if (s[i] == '"' || s[i] == '\\') {
            joust_buf_u8(to, '\\');
            joust_buf_u8(to, s[i]);
        } else if (s[i] == '\n') {
            joust_buf_text(to, "\\n");
        } else if (s[i] == '\t') {
            joust_buf_text(to, "\\t");
        } else if (s[i] < 0x20 || s[i] == 0x7f) {
            joust_buf_format(to, "\\u%04x", s[i]);
        } else {
            joust_buf_add(to, s + i, length);
        }
        i += length;
    }
    joust_buf_u8(to, '"');
}

void joust_json_double(joust_buf *to, double v)
{
    if (!isfinite(v)) {
        joust_buf_text(to, "null");
        return;
    }
    char text[40];
    if (v > -1e15 && v < 1e15 && v == (double)(int64_t)v && !(v == 0 && signbit(v))) {
        joust_buf_format(to, "%lld", (long long)v); /* 2000, not 2e+03 */
        return;
    }
    for (int digits = 1; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    joust_buf_text(to, text);
}

void joust_json_float(joust_buf *to, float v)
{
    if (!isfinite(v)) {
        joust_buf_text(to, "null");
        return;
    }
    char text[40];
    if (v > -1e7f && v < 1e7f && v == (float)(int32_t)v && !(v == 0 && signbit(v))) {
        joust_buf_format(to, "%d", (int)v);
        return;
    }
    for (int digits = 1; digits <= 9; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, (double)v);
        if (strtof(text, NULL) == v)
            break;
    }
    joust_buf_text(to, text);
}

bool joust_text_ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

bool joust_parse_u64(const char *text, uint64_t *ret)
{
    uint64_t v = 0;
    if (!*text)
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return false;
        uint64_t digit = (uint64_t)(*text - '0');
        if (v > (UINT64_MAX - digit) / 10)
            return false;
        v = v * 10 + digit;
    }
    *ret = v;
    return true;
}

bool joust_parse_double(const char *text, double *ret)
{
    if (!*text || strspn(text, "+-.0123456789eE") != strlen(text))
        return false;
    char *end;
    double v = strtod(text, &end);
    if (*end || !isfinite(v))
        return false;
    *ret = v;
    return true;
}
