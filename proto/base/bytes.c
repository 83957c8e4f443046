#include "proto/base/bytes.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"

void joust_buf_fini(joust_buf *b)
{
    joust_free(b->data);
    memset(b, 0, sizeof(*b));
}

void joust_buf_clear(joust_buf *b)
{
    b->n = 0;
    b->failed = false;
    if (b->data)
        b->data[0] = 0;
}

joust_status joust_buf_status(const joust_buf *b, joust_error *err)
{
    return b->failed ? joust_fail(err, JOUST_NOMEM, "out of memory") : JOUST_OK;
}

uint8_t *joust_buf_grow(joust_buf *b, size_t n)
{
    if (b->failed)
        return NULL;
    if (n > SIZE_MAX / 2 - b->n - 1) {
        b->failed = true;
        return NULL;
    }
    size_t need = b->n + n + 1;
    if (need > b->capacity) {
        size_t capacity = b->capacity ? b->capacity : 64;
        while (capacity < need)
            capacity *= 2;
        uint8_t *data = joust_realloc(b->data, capacity);
        if (!data) {
            b->failed = true;
            return NULL;
        }
        b->data = data;
        b->capacity = capacity;
    }
    uint8_t *at = b->data + b->n;
    b->n += n;
    b->data[b->n] = 0;
    return at;
}

void joust_buf_add(joust_buf *b, const void *data, size_t n)
{
    uint8_t *at = joust_buf_grow(b, n);
    if (at && n)
        memcpy(at, data, n);
}

void joust_buf_text(joust_buf *b, const char *s)
{
    joust_buf_add(b, s, strlen(s));
}

void joust_buf_vformat(joust_buf *b, const char *format, va_list args)
{
    va_list again;
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    if (n < 0) {
        b->failed = true;
    } else {
        uint8_t *at = joust_buf_grow(b, (size_t)n);
        if (at)
            vsnprintf((char *)at, (size_t)n + 1, format, again);
    }
    va_end(again);
}

void joust_buf_format(joust_buf *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    joust_buf_vformat(b, format, args);
    va_end(args);
}

void joust_buf_u8(joust_buf *b, uint8_t v)
{
    joust_buf_add(b, &v, 1);
}

void joust_buf_be16(joust_buf *b, uint16_t v)
{
    uint8_t bytes[2];
    joust_put_be16(bytes, v);
    joust_buf_add(b, bytes, sizeof(bytes));
}

void joust_buf_be32(joust_buf *b, uint32_t v)
{
    uint8_t bytes[4];
    joust_put_be32(bytes, v);
    joust_buf_add(b, bytes, sizeof(bytes));
}

void joust_buf_be64(joust_buf *b, uint64_t v)
{
    uint8_t bytes[8];
    joust_put_be64(bytes, v);
    joust_buf_add(b, bytes, sizeof(bytes));
}

uint8_t *joust_buf_take(joust_buf *b, size_t *ret_n)
{
    if (!b->data)
        joust_buf_grow(b, 0);
    if (b->failed) {
        joust_buf_fini(b);
        return NULL;
    }
    uint8_t *data = b->data;
    if (ret_n)
        *ret_n = b->n;
    memset(b, 0, sizeof(*b));
    return data;
}

char *joust_buf_take_text(joust_buf *b)
{
    return (char *)joust_buf_take(b, NULL);
}

joust_reader joust_reader_over(const void *data, size_t n)
{
    return (joust_reader){.data = data, .n = n};
}

const uint8_t *joust_read_bytes(joust_reader *r, size_t n)
{
    if (r->failed || n > r->n - r->at) {
        r->failed = true;
        return NULL;
    }
    const uint8_t *at = r->data + r->at;
    r->at += n;
    return at;
}

uint8_t joust_read_u8(joust_reader *r)
{
    const uint8_t *at = joust_read_bytes(r, 1);
    return at ? at[0] : 0;
}

uint16_t joust_read_be16(joust_reader *r)
{
    const uint8_t *at = joust_read_bytes(r, 2);
    return at ? joust_get_be16(at) : 0;
}

uint32_t joust_read_be32(joust_reader *r)
{
    const uint8_t *at = joust_read_bytes(r, 4);
    return at ? joust_get_be32(at) : 0;
}

uint64_t joust_read_be64(joust_reader *r)
{
    const uint8_t *at = joust_read_bytes(r, 8);
    return at ? joust_get_be64(at) : 0;
}

void joust_put_be16(uint8_t *to, uint16_t v)
{
    to[0] = (uint8_t)(v >> 8);
    to[1] = (uint8_t)v;
}

void joust_put_be32(uint8_t *to, uint32_t v)
{
    joust_put_be16(to, (uint16_t)(v >> 16));
    joust_put_be16(to + 2, (uint16_t)v);
}

void joust_put_be64(uint8_t *to, uint64_t v)
{
    joust_put_be32(to, (uint32_t)(v >> 32));
    joust_put_be32(to + 4, (uint32_t)v);
}

uint16_t joust_get_be16(const uint8_t *from)
{
    return (uint16_t)((uint16_t)from[0] << 8 | from[1]);
}

uint32_t joust_get_be32(const uint8_t *from)
{
    return (uint32_t)joust_get_be16(from) << 16 | joust_get_be16(from + 2);
}

uint64_t joust_get_be64(const uint8_t *from)
{
    return (uint64_t)joust_get_be32(from) << 32 | joust_get_be32(from + 4);
}

uint32_t joust_read_le32(joust_reader *r)
{
    const uint8_t *b = joust_read_bytes(r, 4);
    return b ? (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24
             : 0;
}
