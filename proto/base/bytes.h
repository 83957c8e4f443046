/* Growable byte and text buffer, bounded reader, big-endian numbers. */
#ifndef JOUST_PROTO_BASE_BYTES_H
#define JOUST_PROTO_BASE_BYTES_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

/* A view of bytes owned by somebody else. */
typedef struct joust_span {
    const uint8_t *data;
    size_t n;
} joust_span;

/* Growable buffer; zero-initialise, release with joust_buf_fini. Once an append runs out of memory,
 * `failed` stays set and later appends do nothing: check joust_buf_ok once at the end. data is always
 * followed by a NUL byte (not counted in n) once anything was appended. */
typedef struct joust_buf {
    uint8_t *data;
    size_t n, capacity;
    bool failed;
} joust_buf;

void joust_buf_fini(joust_buf *b);  /* frees and zeroes */
void joust_buf_clear(joust_buf *b); /* n = 0, keeps the memory, clears failed */
static inline bool joust_buf_ok(const joust_buf *b)
{
    return !b->failed;
}
/* JOUST_OK, or JOUST_NOMEM with err filled. */
joust_status joust_buf_status(const joust_buf *b, joust_error *err);
void joust_buf_add(joust_buf *b, const void *data, size_t n);
/* Room for n more bytes, appended uninitialised; NULL when out of memory. View, valid until the next append. */
uint8_t *joust_buf_grow(joust_buf *b, size_t n);
void joust_buf_text(joust_buf *b, const char *s);
void joust_buf_format(joust_buf *b, const char *format, ...) JOUST_PRINTF(2, 3);
void joust_buf_vformat(joust_buf *b, const char *format, va_list args);
void joust_buf_u8(joust_buf *b, uint8_t v);
void joust_buf_be16(joust_buf *b, uint16_t v);
void joust_buf_be32(joust_buf *b, uint32_t v);
void joust_buf_be64(joust_buf *b, uint64_t v);
/* Takes the block (free with joust_free) and leaves b empty; NULL if failed. */
uint8_t *joust_buf_take(joust_buf *b, size_t *ret_n);
char *joust_buf_take_text(joust_buf *b);

/* Reader over a span: reads past the end give 0 / NULL and set `failed`; check once at the end. */
typedef struct joust_reader {
    const uint8_t *data;
    size_t n, at;
    bool failed;
} joust_reader;

joust_reader joust_reader_over(const void *data, size_t n);
uint8_t joust_read_u8(joust_reader *r);
uint16_t joust_read_be16(joust_reader *r);
uint32_t joust_read_be32(joust_reader *r);
uint64_t joust_read_be64(joust_reader *r);
uint32_t joust_read_le32(joust_reader *r);
const uint8_t *joust_read_bytes(joust_reader *r, size_t n); /* view, or NULL */
static inline size_t joust_read_left(const joust_reader *r)
{
    return r->failed ? 0 : r->n - r->at;
}

void joust_put_be16(uint8_t *to, uint16_t v);
void joust_put_be32(uint8_t *to, uint32_t v);
void joust_put_be64(uint8_t *to, uint64_t v);
uint16_t joust_get_be16(const uint8_t *from);
uint32_t joust_get_be32(const uint8_t *from);
uint64_t joust_get_be64(const uint8_t *from);

#endif
