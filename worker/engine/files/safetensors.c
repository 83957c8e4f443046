#include "safetensors_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/base/text.h"
#include "worker/engine/text/json_internal.h"

#define MAX_NAME_BYTES 255u
#define CHUNK_BYTES    (1u << 20)
#define ALIGNMENT      8u

/* Those that can be read stand in the order of joust_dtype. */
static const struct {
    const char *name;
    joust_dtype dtype;
    unsigned n_bytes;
} dtypes[] = {{"F32", JOUST_DTYPE_F32, 4},      {"F16", JOUST_DTYPE_F16, 2},
              {"BF16", JOUST_DTYPE_BF16, 2},    {"F64", JOUST_DTYPE_OTHER, 8},
              {"I64", JOUST_DTYPE_OTHER, 8},    {"I32", JOUST_DTYPE_OTHER, 4},
              {"I16", JOUST_DTYPE_OTHER, 2},    {"I8", JOUST_DTYPE_OTHER, 1},
              {"U64", JOUST_DTYPE_OTHER, 8},    {"U32", JOUST_DTYPE_OTHER, 4},
              {"U16", JOUST_DTYPE_OTHER, 2},    {"U8", JOUST_DTYPE_OTHER, 1},
              {"BOOL", JOUST_DTYPE_OTHER, 1},   {"F8_E4M3", JOUST_DTYPE_OTHER, 1},
              {"F8_E5M2", JOUST_DTYPE_OTHER, 1}};

/* Places of errors: "file: tensor". */
typedef struct parsing {
    const char *file, *tensor;
    uint64_t n_data;
    joust_error *err;
} parsing;

static joust_status malformed(const parsing *p, const char *what)
{
    return joust_fail(p->err, JOUST_MALFORMED, "%s: tensor %s: %s", p->file, p->tensor, what);
}

static joust_status parse_dtype(const parsing *p, const json_t *json, joust_safetensor *t,
                                unsigned *ret_bytes)
{
    const char *name = json_string_value(json);
    for (size_t i = 0; name && i < sizeof(dtypes) / sizeof(*dtypes); i++) {
        if (strcmp(name, dtypes[i].name) != 0)
            continue;
        t->dtype = dtypes[i].dtype;
        snprintf(t->dtype_name, sizeof(t->dtype_name), "%s", name);
        *ret_bytes = dtypes[i].n_bytes;
        return JOUST_OK;
    }
    return malformed(p, "unknown dtype");
}

static joust_status parse_shape(const parsing *p, const json_t *json, joust_safetensor *t)
{
    if (!json_is_array(json) || json_array_size(json) > JOUST_SAFETENSORS_MAX_DIMS)
        return malformed(p, "shape: expected a list of at most 8 sizes");
    t->n_dims = (uint32_t)json_array_size(json);
    t->n = 1;
    for (uint32_t i = 0; i < t->n_dims; i++) {
        const json_t *size = json_array_get(json, i);
        json_int_t value = json_integer_value(size);
        if (!json_is_integer(size) || value < 0)
            return malformed(p, "shape: expected sizes of 0 or more");
        t->dims[i] = (uint64_t)value;
        if (t->dims[i] != 0 && t->n > UINT64_MAX / 8 / t->dims[i])
            return malformed(p, "shape: more elements than any file holds");
        t->n *= t->dims[i];
    }
    return JOUST_OK;
}

static joust_status parse_offsets(const parsing *p, const json_t *json, joust_safetensor *t,
                                  unsigned n_bytes)
{
    const json_t *first = json_array_get(json, 0), *last = json_array_get(json, 1);
    json_int_t begin = json_integer_value(first), end = json_integer_value(last);
    if (!json_is_array(json) || json_array_size(json) != 2 || !json_is_integer(first) ||
        !json_is_integer(last) || begin < 0 || end < begin)
        return malformed(p, "data_offsets: expected [begin, end]");
    t->begin = (uint64_t)begin;
    t->end = (uint64_t)end;
    if (t->end > p->n_data)
        return joust_fail(p->err, JOUST_MALFORMED,
                          "%s: tensor %s: ends at byte %" PRIu64
                          " of the data, the file has %" PRIu64 "; it is truncated",
                          p->file, p->tensor, t->end, p->n_data);
    if (t->end - t->begin != t->n * n_bytes)
        return malformed(p, "data_offsets don't agree with shape and dtype");
    return JOUST_OK;
}

static joust_status parse_tensor(const parsing *p, const json_t *json, joust_safetensor *t)
{
    unsigned n_bytes = 0;
    if (!json_is_object(json))
        return malformed(p, "expected an object");
    joust_status st = parse_dtype(p, json_object_get(json, "dtype"), t, &n_bytes);
    if (st == JOUST_OK)
        st = parse_shape(p, json_object_get(json, "shape"), t);
    return st == JOUST_OK ? parse_offsets(p, json_object_get(json, "data_offsets"), t, n_bytes)
                          : st;
}

static int by_begin(const void *left, const void *right)
{
    const joust_safetensor *a = left, *b = right;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    if (a->end != b->end)
        return a->end < b->end ? -1 : 1;
    return strcmp(a->name, b->name);
}

/* Each byte of the data belongs to exactly one tensor. */
static joust_status check_tiling(joust_safetensors *s, parsing *p)
{
    uint64_t at = 0;
    qsort(s->items, s->n, sizeof(*s->items), by_begin);
    for (uint32_t i = 0; i < s->n; i++) {
        p->tensor = s->items[i].name;
        if (s->items[i].begin != at)
            return malformed(p, s->items[i].begin < at ? "overlaps the tensor before it"
                                                       : "leaves a hole before it");
        at = s->items[i].end;
    }
    if (at != p->n_data)
        return joust_fail(p->err, JOUST_MALFORMED,
                          "%s: %" PRIu64 " bytes at the end belong to no tensor", p->file,
                          p->n_data - at);
    return JOUST_OK;
}

static joust_status parse_tensors(joust_safetensors *s, const json_t *document, parsing *p)
{
    const char *name;
    json_t *value;
    s->items = joust_calloc(json_object_size(document), sizeof(*s->items));
    if (!s->items)
        return joust_fail(p->err, JOUST_NOMEM, "%s: out of memory", p->file);
    json_object_foreach((json_t *)document, name, value)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        p->tensor = name;
        if (strlen(name) > MAX_NAME_BYTES)
            return joust_fail(p->err, JOUST_TOO_LARGE, "%s: a tensor's name of %zu bytes", p->file,
                              strlen(name));
        joust_safetensor *t = &s->items[s->n];
        t->name = joust_strdup(name);
        if (!t->name)
            return joust_fail(p->err, JOUST_NOMEM, "%s: out of memory", p->file);
        s->n++;
        joust_status st = parse_tensor(p, value, t);
        if (st != JOUST_OK)
            return st;
    }
    return check_tiling(s, p);
}

joust_status joust_safetensors_parse(const void *header, uint64_t n, uint64_t n_data,
                                     const char *name, joust_safetensors *ret, joust_error *err)
{
    json_t *document = NULL;
    joust_safetensors s = {.fd = -1};
    parsing p = {.file = name, .tensor = "", .n_data = n_data, .err = err};
    joust_status st = joust_json_parse(header, (size_t)n, name, &document, err);
    if (st != JOUST_OK)
        return st;
    s.path = joust_strdup(name);
    st = s.path ? parse_tensors(&s, document, &p)
                : joust_fail(err, JOUST_NOMEM, "%s: out of memory", name);
    json_decref(document);
    if (st == JOUST_OK)
        *ret = s;
    else
        joust_safetensors_close(&s);
    return st;
}

static joust_status read_at(int fd, const char *path, uint64_t at, void *to, size_t n,
                            joust_error *err)
{
    uint8_t *bytes = to;
    while (n > 0) {
        ssize_t done = pread(fd, bytes, n, (off_t)at);
        if (done < 0 && errno == EINTR)
            continue;
        if (done < 0)
            return joust_fail(err, JOUST_IO, "%s: can't read: %s", path, strerror(errno));
        if (done == 0)
            return joust_fail(err, JOUST_CORRUPT, "%s: ends at byte %" PRIu64 ", too early", path,
                              at);
        bytes += done;
        at += (uint64_t)done;
        n -= (size_t)done;
    }
    return JOUST_OK;
}

static joust_status read_header(int fd, const char *path, uint64_t n_file, joust_safetensors *ret,
                                joust_error *err)
{
    uint8_t size[8];
    uint64_t n = 0;
    if (n_file < sizeof(size))
        return joust_fail(err, JOUST_MALFORMED, "%s: %" PRIu64 " bytes are no safetensors file",
                          path, n_file);
    joust_status st = read_at(fd, path, 0, size, sizeof(size), err);
    if (st != JOUST_OK)
        return st;
    for (int i = 8; i-- > 0;)
        n = n << 8 | size[i];
    if (n > JOUST_SAFETENSORS_MAX_HEADER)
        return joust_fail(err, JOUST_MALFORMED,
                          "%s: a header of %" PRIu64 " bytes: no safetensors file", path, n);
    if (n > n_file - sizeof(size))
        return joust_fail(err, JOUST_MALFORMED,
                          "%s: truncated: the header has %" PRIu64 " bytes, the file %" PRIu64,
                          path, n, n_file);
    char *header = joust_malloc((size_t)n + 1);
    if (!header)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", path);
    st = read_at(fd, path, sizeof(size), header, (size_t)n, err);
    if (st == JOUST_OK)
        st = joust_safetensors_parse(header, n, n_file - sizeof(size) - n, path, ret, err);
    joust_free(header);
    if (st == JOUST_OK)
        ret->data = sizeof(size) + n;
    return st;
}

joust_status joust_safetensors_open(const char *path, joust_safetensors *ret, joust_error *err)
{
    uint64_t size;
    int fd;
    joust_status st = joust_file_open(path, &fd, &size, err);
    if (st != JOUST_OK)
        return st;
    st = read_header(fd, path, size, ret, err);
    if (st == JOUST_OK)
        ret->fd = fd;
    else
        close(fd);
    return st;
}

void joust_safetensors_close(joust_safetensors *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        joust_free(s->items[i].name);
    joust_free(s->items);
    joust_free(s->path);
    if (s->fd >= 0)
        close(s->fd);
    *s = (joust_safetensors){.fd = -1};
}

static uint32_t f16_bits(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 0x1f;
    uint32_t fraction = half & 0x3ff;
    if (exponent == 0x1f)
        return sign | 0x7f800000u | fraction << 13;
    if (exponent == 0 && fraction == 0)
        return sign;
    if (exponent == 0) { /* subnormal: becomes normal in f32 */
        for (exponent = 1; !(fraction & 0x400); exponent--)
            fraction <<= 1;
        fraction &= 0x3ff;
    }
    return sign | (exponent + 127 - 15) << 23 | fraction << 13;
}

static void widen(joust_dtype dtype, const uint8_t *bytes, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t half = (uint16_t)(bytes[2 * i] | bytes[2 * i + 1] << 8);
        uint32_t bits = dtype == JOUST_DTYPE_BF16 ? (uint32_t)half << 16 : f16_bits(half);
        memcpy(&to[i], &bits, sizeof(bits));
    }
}

/* F16 and BF16. */
static joust_status read_halves(const joust_safetensors *s, const joust_safetensor *t, float *to,
                                joust_error *err)
{
    joust_status st = JOUST_OK;
    const size_t step = CHUNK_BYTES / 2;
    uint8_t *chunk = joust_malloc(CHUNK_BYTES);
    if (!chunk)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", s->path);
    for (uint64_t done = 0; st == JOUST_OK && done < t->n; done += step) {
        size_t n = t->n - done < step ? (size_t)(t->n - done) : step;
        st = read_at(s->fd, s->path, s->data + t->begin + done * 2, chunk, n * 2, err);
        if (st == JOUST_OK)
            widen(t->dtype, chunk, n, to + done);
    }
    joust_free(chunk);
    return st;
}

joust_status joust_safetensors_read(const joust_safetensors *s, const joust_safetensor *tensor,
                                    float *to, joust_error *err)
{
    if (tensor->dtype == JOUST_DTYPE_OTHER)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "%s: tensor %s: dtype %s is not supported; F32, F16 and BF16 are",
                          s->path, tensor->name, tensor->dtype_name);
    joust_status st =
        tensor->dtype == JOUST_DTYPE_F32 /* as it lies in memory (model.c's assertion) */
            ? read_at(s->fd, s->path, s->data + tensor->begin, to, tensor->n * sizeof(float), err)
            : read_halves(s, tensor, to, err);
    return st == JOUST_OK ? st : joust_blame(err, st, "tensor %s", tensor->name);
}

unsigned joust_dtype_bytes(joust_dtype dtype)
{
    return dtype == JOUST_DTYPE_F32 ? 4 : 2;
}

/* 8 bytes of length and the header, padded with spaces so that the data is aligned. */
static void build_header(joust_buf *to, const joust_tensor *tensors, uint32_t n, joust_dtype dtype)
{
    uint64_t at = 0, length;
    static const uint8_t room[8];
    joust_buf_add(to, room, sizeof(room));
    joust_buf_text(to, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (uint32_t i = 0; i < n; i++) {
        const joust_tensor *t = &tensors[i];
        const uint64_t end = at + joust_dtype_bytes(dtype) * t->n;
        joust_buf_text(to, ",");
        joust_json_string(to, t->name, strlen(t->name));
        joust_buf_format(to, ":{\"dtype\":\"%s\",\"shape\":[", dtypes[dtype].name);
        for (uint32_t k = 0; k < t->n_dims; k++)
            joust_buf_format(to, "%s%u", k ? "," : "", t->dims[k]);
        joust_buf_format(to, "],\"data_offsets\":[%" PRIu64 ",%" PRIu64 "]}", at, end);
        at = end;
    }
    joust_buf_text(to, "}");
    while (joust_buf_ok(to) && to->n % ALIGNMENT != 0)
        joust_buf_u8(to, ' ');
    length = to->n - sizeof(room);
    for (unsigned i = 0; joust_buf_ok(to) && i < sizeof(room); i++, length >>= 8)
        to->data[i] = (uint8_t)length;
}

/* The upper 32 - n bits of x, to nearest, ties to even. */
static uint32_t round_off(uint32_t x, unsigned n)
{
    return (x + ((1u << (n - 1)) - 1) + (x >> n & 1)) >> n;
}

/* Of a finite value; 0x7c00 (infinity) where it is too large. */
static uint16_t narrow_f16(uint32_t bits)
{
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    const uint32_t exponent = bits >> 23 & 0xff, fraction = bits & 0x7fffff;
    if (exponent < 127 - 25) /* below half of the least subnormal */
        return sign;
    if (exponent < 127 - 14) /* subnormal */
        return (uint16_t)(sign | round_off(fraction | 0x800000, 13 + 127 - 14 - exponent));
    const uint32_t half = round_off((exponent - (127 - 15)) << 23 | fraction, 13);
    return (uint16_t)(sign | (half < 0x7c00 ? half : 0x7c00));
}

static uint16_t narrow(joust_dtype dtype, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return dtype == JOUST_DTYPE_BF16 ? (uint16_t)round_off(bits, 16) : narrow_f16(bits);
}

static bool is_infinite(joust_dtype dtype, uint16_t half)
{
    const uint16_t exponent = dtype == JOUST_DTYPE_BF16 ? 0x7f80 : 0x7c00;
    return (half & exponent) == exponent;
}

static joust_status write_halves(joust_file_writer *w, const char *path, const joust_tensor *t,
                                 joust_dtype dtype, uint8_t *chunk, joust_error *err)
{
    joust_status st = JOUST_OK;
    const size_t step = CHUNK_BYTES / 2;
    for (uint64_t done = 0; st == JOUST_OK && done < t->n; done += step) {
        size_t n = t->n - done < step ? (size_t)(t->n - done) : step;
        for (size_t i = 0; i < n; i++) {
            uint16_t half = narrow(dtype, t->data[done + i]);
            if (is_infinite(dtype, half))
                return joust_fail(err, JOUST_INVALID,
                                  "%s: tensor %s: element %" PRIu64 " is %g, which %s can't hold; "
                                  "write bf16 or f32",
                                  path, t->name, done + i, (double)t->data[done + i],
                                  dtypes[dtype].name);
            chunk[2 * i] = (uint8_t)half;
            chunk[2 * i + 1] = (uint8_t)(half >> 8);
        }
        st = joust_file_writer_add(w, chunk, 2 * n, err);
    }
    return st;
}

joust_status joust_safetensors_write(const char *path, const joust_tensor *tensors, uint32_t n,
                                     joust_dtype dtype, joust_error *err)
{
    joust_buf header = {0};
    joust_file_writer *w = NULL;
    uint8_t *chunk = dtype == JOUST_DTYPE_F32 ? NULL : joust_malloc(CHUNK_BYTES);
    build_header(&header, tensors, n, dtype);
    joust_status st = joust_buf_status(&header, err);
    if (st == JOUST_OK && dtype != JOUST_DTYPE_F32 && !chunk)
        st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", path);
    if (st == JOUST_OK)
        st = joust_file_writer_open(path, &w, err);
    if (st == JOUST_OK)
        st = joust_file_writer_add(w, header.data, header.n, err);
    for (uint32_t i = 0; st == JOUST_OK && i < n; i++)
        st = chunk ? write_halves(w, path, &tensors[i], dtype, chunk, err)
                   : joust_file_writer_add(w, tensors[i].data, tensors[i].n * sizeof(float), err);
    if (st == JOUST_OK)
        st = joust_file_writer_commit(&w, err);
    joust_file_writer_abort(&w);
    joust_buf_fini(&header);
    joust_free(chunk);
    return st;
}
