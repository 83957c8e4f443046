/* Values of chat templates: Python's, as far as templates see them. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "chat_internal.h"
#include "proto/base/alloc.h"
#include "unicode_internal.h"

struct chat_block {
    struct chat_block *next;
    size_t n, used;
    _Alignas(16) uint8_t bytes[];
};

void *joust_chat_alloc(chat_arena *a, size_t n)
{
    n = (n + 15) & ~(size_t)15;
    struct chat_block *block = a->blocks;
    if (!block || block->n - block->used < n) {
        size_t size = n > 16384 ? n : 32768;
        a->over = size > a->max_bytes || a->n_bytes > a->max_bytes - size;
        if (a->over)
            return NULL;
        block = joust_malloc(sizeof(*block) + size);
        if (!block)
            return NULL;
        *block = (struct chat_block){.next = a->blocks, .n = size};
        a->blocks = block;
        a->n_bytes += size;
    }
    void *at = block->bytes + block->used;
    block->used += n;
    return memset(at, 0, n);
}

void joust_chat_arena_fini(chat_arena *a)
{
    while (a->blocks) {
        struct chat_block *next = a->blocks->next;
        joust_free(a->blocks);
        a->blocks = next;
    }
    a->n_bytes = 0;
}

joust_status joust_chat_fail(chat_run *r, joust_status st, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    return joust_chat_refuse(r->chat->name, r->line, r->err, st, "%s", text);
}

joust_status joust_chat_step(chat_run *r, uint64_t n)
{
    r->n_steps += n;
    if (r->n_steps <= JOUST_CHAT_MAX_STEPS)
        return JOUST_OK;
    return joust_chat_fail(r, JOUST_TOO_LARGE, "the rendering takes more than %u steps",
                           JOUST_CHAT_MAX_STEPS);
}

joust_status joust_chat_nomem(chat_run *r)
{
    if (r->arena.over)
        return joust_chat_fail(r, JOUST_TOO_LARGE, "the rendering needs more than %u bytes",
                               JOUST_CHAT_MAX_RUN_BYTES);
    return joust_chat_fail(r, JOUST_NOMEM, "out of memory");
}

joust_status joust_chat_deeper(chat_run *r)
{
    if (++r->nesting <= 4 * JOUST_CHAT_MAX_NESTING)
        return JOUST_OK;
    r->nesting--;
    return joust_chat_fail(r, JOUST_TOO_LARGE, "nested deeper than %u", 4 * JOUST_CHAT_MAX_NESTING);
}

const char *joust_chat_kind_name(const chat_value *v)
{
    static const char *const names[] = {[CHAT_UNDEFINED] = "an undefined value",
                                        [CHAT_NONE] = "none",
                                        [CHAT_BOOLEAN] = "a boolean",
                                        [CHAT_WHOLE] = "an integer",
                                        [CHAT_REAL] = "a float",
                                        [CHAT_STR] = "a string",
                                        [CHAT_SEQUENCE] = "a sequence",
                                        [CHAT_MAPPING] = "a mapping",
                                        [CHAT_NAMESPACE] = "a namespace",
                                        [CHAT_LOOP] = "a loop",
                                        [CHAT_MACRO_VALUE] = "a macro",
                                        [CHAT_FUNCTION] = "a function",
                                        [CHAT_METHOD] = "a method"};
    return names[v->kind];
}

chat_value joust_chat_text(const char *text)
{
    chat_value v = {.kind = CHAT_STR, .trusted = true};
    v.as.text.bytes = (const uint8_t *)text;
    v.as.text.n = strlen(text);
    return v;
}

chat_value joust_chat_whole(int64_t whole)
{
    return (chat_value){.kind = CHAT_WHOLE, .as.whole = whole};
}

chat_value joust_chat_boolean(bool boolean)
{
    return (chat_value){.kind = CHAT_BOOLEAN, .as.boolean = boolean};
}

chat_value joust_chat_sub(const chat_value *text, size_t begin, size_t end)
{
    chat_value v = *text;
    v.as.text.bytes += begin;
    if (v.as.text.trust)
        v.as.text.trust += begin;
    v.as.text.n = end - begin;
    return v;
}

bool joust_chat_is_text(const chat_value *v, const char *text)
{
    size_t n = strlen(text);
    return v->kind == CHAT_STR && v->as.text.n == n && memcmp(v->as.text.bytes, text, n) == 0;
}

void joust_chat_output_fini(chat_output *o)
{
    joust_buf_fini(&o->bytes);
    joust_buf_fini(&o->trust);
}

void joust_chat_output_bytes(chat_output *o, const void *bytes, size_t n, bool trusted)
{
    if (n == 0)
        return;
    joust_buf_add(&o->bytes, bytes, n);
    uint8_t *flags = joust_buf_grow(&o->trust, n);
    if (flags)
        memset(flags, trusted, n);
}

void joust_chat_output_add(chat_output *o, const chat_value *text)
{
    if (!text->as.text.trust) {
        joust_chat_output_bytes(o, text->as.text.bytes, text->as.text.n, text->trusted);
        return;
    }
    joust_buf_add(&o->bytes, text->as.text.bytes, text->as.text.n);
    joust_buf_add(&o->trust, text->as.text.trust, text->as.text.n);
}

static joust_status text_of(chat_run *r, const chat_output *o, chat_value *ret)
{
    size_t n = o->bytes.n;
    if (!joust_buf_ok(&o->bytes) || !joust_buf_ok(&o->trust))
        return joust_chat_fail(r, JOUST_NOMEM, "out of memory");
    if (n > JOUST_CHAT_MAX_OUTPUT_BYTES)
        return joust_chat_fail(r, JOUST_TOO_LARGE, "a text of more than %u bytes",
                               JOUST_CHAT_MAX_OUTPUT_BYTES);
    joust_status st = joust_chat_step(r, n / 32);
    if (st != JOUST_OK)
        return st;
    uint8_t *bytes = joust_chat_alloc(&r->arena, 2 * n + 1);
    if (!bytes)
        return joust_chat_nomem(r);
    if (n) {
        memcpy(bytes, o->bytes.data, n);
        memcpy(bytes + n, o->trust.data, n);
    }
    *ret = (chat_value){.kind = CHAT_STR};
    ret->as.text.bytes = bytes;
    ret->as.text.trust = bytes + n;
    ret->as.text.n = n;
    return JOUST_OK;
}

joust_status joust_chat_finish(chat_run *r, joust_status st, chat_output *o, chat_value *ret)
{
    if (st == JOUST_OK)
        st = text_of(r, o, ret);
    joust_chat_output_fini(o);
    return st;
}

bool joust_chat_truth(const chat_value *v)
{
    switch (v->kind) {
    case CHAT_UNDEFINED:
    case CHAT_NONE:
        return false;
    case CHAT_BOOLEAN:
        return v->as.boolean;
    case CHAT_WHOLE:
        return v->as.whole != 0;
    case CHAT_REAL:
        return v->as.real != 0;
    case CHAT_STR:
        return v->as.text.n > 0;
    case CHAT_SEQUENCE:
        return v->as.sequence->form == CHAT_FORM_GENERATOR || v->as.sequence->n > 0;
    case CHAT_MAPPING:
        return v->as.mapping->n > 0;
    default:
        return true;
    }
}

static bool is_number(const chat_value *v)
{
    return v->kind == CHAT_BOOLEAN || v->kind == CHAT_WHOLE || v->kind == CHAT_REAL;
}

static double real_of(const chat_value *v)
{
    return v->kind == CHAT_REAL    ? v->as.real
           : v->kind == CHAT_WHOLE ? (double)v->as.whole
                                   : (double)v->as.boolean;
}

static int64_t whole_of(const chat_value *v)
{
    return v->kind == CHAT_WHOLE ? v->as.whole : v->as.boolean;
}

static int order_numbers(const chat_value *a, const chat_value *b)
{
    if (a->kind == CHAT_REAL || b->kind == CHAT_REAL) {
        double x = real_of(a), y = real_of(b);
        return (x > y) - (x < y);
    }
    int64_t x = whole_of(a), y = whole_of(b);
    return (x > y) - (x < y);
}

static int order_texts(const chat_value *a, const chat_value *b)
{
    size_t n = a->as.text.n < b->as.text.n ? a->as.text.n : b->as.text.n;
    int order = n ? memcmp(a->as.text.bytes, b->as.text.bytes, n) : 0;
    if (order == 0)
        order = (a->as.text.n > b->as.text.n) - (a->as.text.n < b->as.text.n);
    return (order > 0) - (order < 0);
}

static joust_status equal_items(chat_run *r, const chat_value *a, const chat_value *b, size_t n,
                                bool *ret)
{
    joust_status st = JOUST_OK;
    for (size_t i = 0; st == JOUST_OK && *ret && i < n; i++)
        st = joust_chat_equal(r, &a[i], &b[i], ret);
    return st;
}

static joust_status equal_mappings(chat_run *r, const chat_mapping *a, const chat_mapping *b,
                                   bool *ret)
{
    joust_status st = JOUST_OK;
    *ret = a->n == b->n;
    for (size_t i = 0; st == JOUST_OK && *ret && i < a->n; i++) {
        const chat_value *other = NULL;
        st = joust_chat_get(r, b, &a->keys[i], &other);
        *ret = other != NULL;
        if (st == JOUST_OK && other)
            st = joust_chat_equal(r, &a->values[i], other, ret);
    }
    return st;
}

joust_status joust_chat_equal(chat_run *r, const chat_value *a, const chat_value *b, bool *ret)
{
    joust_status st = joust_chat_step(r, 1);
    if (st == JOUST_OK)
        st = joust_chat_deeper(r);
    if (st != JOUST_OK)
        return st;
    *ret = false;
    if (is_number(a) && is_number(b)) {
        *ret = order_numbers(a, b) == 0;
    } else if (a->kind == b->kind) {
        switch (a->kind) {
        case CHAT_UNDEFINED:
        case CHAT_NONE:
            *ret = true;
            break;
        case CHAT_STR:
            *ret = order_texts(a, b) == 0;
            break;
        case CHAT_SEQUENCE:
            if (a->as.sequence->form > CHAT_FORM_TUPLE || b->as.sequence->form > CHAT_FORM_TUPLE) {
                *ret = a->as.sequence == b->as.sequence;
                break;
            }
            *ret = a->as.sequence->form == b->as.sequence->form &&
                   a->as.sequence->n == b->as.sequence->n;
            if (*ret)
                st = equal_items(r, a->as.sequence->items, b->as.sequence->items, a->as.sequence->n,
                                 ret);
            break;
        case CHAT_MAPPING:
            st = equal_mappings(r, a->as.mapping, b->as.mapping, ret);
            break;
        case CHAT_FUNCTION:
            *ret = a->as.function == b->as.function;
            break;
        default:
            *ret = a->as.mapping == b->as.mapping; /* the same object */
            break;
        }
    }
    r->nesting--;
    return st;
}

static joust_status order_items(chat_run *r, const chat_sequence *a, const chat_sequence *b,
                                int *ret)
{
    joust_status st = JOUST_OK;
    *ret = 0;
    for (size_t i = 0; st == JOUST_OK && *ret == 0 && i < a->n && i < b->n; i++) {
        bool same = false;
        st = joust_chat_equal(r, &a->items[i], &b->items[i], &same);
        if (st == JOUST_OK && !same) /* no order for what is equal but has none */
            st = joust_chat_order(r, &a->items[i], &b->items[i], ret);
    }
    if (*ret == 0)
        *ret = (a->n > b->n) - (a->n < b->n);
    return st;
}

joust_status joust_chat_order(chat_run *r, const chat_value *a, const chat_value *b, int *ret)
{
    joust_status st = joust_chat_step(r, 1);
    if (st != JOUST_OK)
        return st;
    if (is_number(a) && is_number(b)) {
        *ret = order_numbers(a, b);
    } else if (a->kind == CHAT_STR && b->kind == CHAT_STR) {
        *ret = order_texts(a, b); /* UTF-8 sorts as code points do */
    } else if (a->kind == CHAT_SEQUENCE && b->kind == CHAT_SEQUENCE &&
               a->as.sequence->form == b->as.sequence->form &&
               a->as.sequence->form <= CHAT_FORM_TUPLE) {
        st = joust_chat_deeper(r);
        if (st != JOUST_OK)
            return st;
        st = order_items(r, a->as.sequence, b->as.sequence, ret);
        r->nesting--;
    } else {
        return joust_chat_fail(r, JOUST_INVALID, "%s and %s have no order", joust_chat_kind_name(a),
                               joust_chat_kind_name(b));
    }
    return st;
}

static bool has_text(const chat_value *in, const chat_value *what)
{
    size_t n = what->as.text.n;
    for (size_t i = 0; i + n <= in->as.text.n; i++) {
        if (n == 0 || memcmp(in->as.text.bytes + i, what->as.text.bytes, n) == 0)
            return true;
    }
    return false;
}

joust_status joust_chat_contains(chat_run *r, const chat_value *in, const chat_value *what,
                                 bool *ret)
{
    joust_status st = JOUST_OK;
    *ret = false;
    if (in->kind == CHAT_STR && what->kind == CHAT_STR) {
        *ret = has_text(in, what);
        return joust_chat_step(r, in->as.text.n / 16);
    }
    if (in->kind == CHAT_MAPPING) {
        const chat_value *found = NULL;
        st = joust_chat_get(r, in->as.mapping, what, &found);
        *ret = found != NULL;
        return st;
    }
    if (in->kind == CHAT_UNDEFINED)
        return JOUST_OK;
    if (in->kind != CHAT_SEQUENCE)
        return joust_chat_fail(r, JOUST_INVALID, "'in': %s can't be in %s",
                               joust_chat_kind_name(what), joust_chat_kind_name(in));
    const chat_sequence *items = NULL;
    st = joust_chat_walk(r, in, &items);
    for (size_t i = 0; st == JOUST_OK && !*ret && i < items->n; i++)
        st = joust_chat_equal(r, &items->items[i], what, ret);
    return st;
}

joust_status joust_chat_sequence(chat_run *r, chat_sequence_form form, size_t room, chat_value *ret)
{
    chat_sequence *s = joust_chat_alloc(&r->arena, sizeof(*s));
    chat_value *items = room ? joust_chat_alloc(&r->arena, room * sizeof(*items)) : NULL;
    if (!s || (room && !items))
        return joust_chat_nomem(r);
    *s = (chat_sequence){.form = form, .items = items, .capacity = room};
    *ret = (chat_value){.kind = CHAT_SEQUENCE, .as.sequence = s};
    return JOUST_OK;
}

joust_status joust_chat_push(chat_run *r, chat_value *sequence, const chat_value *item)
{
    chat_sequence *s = sequence->as.sequence;
    joust_status st = joust_chat_step(r, 1);
    if (st != JOUST_OK)
        return st;
    if (s->n == s->capacity) {
        size_t capacity = s->capacity ? 2 * s->capacity : 8;
        chat_value *items = joust_chat_alloc(&r->arena, capacity * sizeof(*items));
        if (!items)
            return joust_chat_nomem(r);
        if (s->n)
            memcpy(items, s->items, s->n * sizeof(*items));
        s->items = items;
        s->capacity = capacity;
    }
    s->items[s->n++] = *item;
    return JOUST_OK;
}

joust_status joust_chat_mapping(chat_run *r, chat_value *ret)
{
    chat_mapping *m = joust_chat_alloc(&r->arena, sizeof(*m));
    if (!m)
        return joust_chat_nomem(r);
    *ret = (chat_value){.kind = CHAT_MAPPING, .as.mapping = m};
    return JOUST_OK;
}

joust_status joust_chat_get(chat_run *r, const chat_mapping *m, const chat_value *key,
                            const chat_value **ret)
{
    joust_status st = joust_chat_step(r, 1 + m->n / 8);
    *ret = NULL;
    if (key->kind == CHAT_MAPPING ||
        (key->kind == CHAT_SEQUENCE && key->as.sequence->form == CHAT_FORM_LIST))
        return joust_chat_fail(r, JOUST_INVALID, "%s can't be a key", joust_chat_kind_name(key));
    for (size_t i = 0; st == JOUST_OK && i < m->n; i++) {
        bool same = false;
        if (key->kind == CHAT_STR && m->keys[i].kind == CHAT_STR)
            same = order_texts(key, &m->keys[i]) == 0;
        else
            st = joust_chat_equal(r, &m->keys[i], key, &same);
        if (same) {
            *ret = &m->values[i];
            break;
        }
    }
    return st;
}

joust_status joust_chat_put(chat_run *r, chat_mapping *m, const chat_value *key,
                            const chat_value *value)
{
    const chat_value *held = NULL;
    joust_status st = joust_chat_get(r, m, key, &held);
    if (st != JOUST_OK)
        return st;
    if (held) {
        m->values[held - m->values] = *value;
        return JOUST_OK;
    }
    if (m->n == m->capacity) {
        size_t capacity = m->capacity ? 2 * m->capacity : 4;
        chat_value *both = joust_chat_alloc(&r->arena, 2 * capacity * sizeof(*both));
        if (!both)
            return joust_chat_nomem(r);
        if (m->n) {
            memcpy(both, m->keys, m->n * sizeof(*both));
            memcpy(both + capacity, m->values, m->n * sizeof(*both));
        }
        m->keys = both;
        m->values = both + capacity;
        m->capacity = capacity;
    }
    m->keys[m->n] = *key;
    m->values[m->n++] = *value;
    return JOUST_OK;
}

const chat_value *joust_chat_find(const chat_mapping *m, const char *name)
{
    for (size_t i = 0; i < m->n; i++) {
        if (joust_chat_is_text(&m->keys[i], name))
            return &m->values[i];
    }
    return NULL;
}

size_t joust_chat_count(const chat_value *text)
{
    size_t n = 0;
    for (size_t i = 0; i < text->as.text.n; i++)
        n += (text->as.text.bytes[i] & 0xc0) != 0x80;
    return n;
}

static joust_status walk_text(chat_run *r, const chat_value *v, const chat_sequence **ret)
{
    chat_value list;
    joust_status st = joust_chat_sequence(r, CHAT_FORM_LIST, joust_chat_count(v), &list);
    for (size_t at = 0; st == JOUST_OK && at < v->as.text.n;) {
        uint32_t code;
        size_t length = joust_utf8_next(v->as.text.bytes + at, v->as.text.n - at, &code);
        chat_value one = joust_chat_sub(v, at, at + length);
        st = joust_chat_push(r, &list, &one);
        at += length;
    }
    if (st == JOUST_OK)
        *ret = list.as.sequence;
    return st;
}

joust_status joust_chat_walk(chat_run *r, const chat_value *v, const chat_sequence **ret)
{
    chat_sequence *s = NULL;
    chat_value list;
    joust_status st;
    if (v->kind == CHAT_STR)
        return walk_text(r, v, ret);
    if (v->kind == CHAT_SEQUENCE && !v->as.sequence->walked) {
        *ret = v->as.sequence;
        v->as.sequence->walked = v->as.sequence->form == CHAT_FORM_GENERATOR;
        return joust_chat_step(r, 1);
    }
    if (v->kind != CHAT_SEQUENCE && v->kind != CHAT_MAPPING && v->kind != CHAT_UNDEFINED)
        return joust_chat_fail(r, JOUST_INVALID, "%s can't be iterated", joust_chat_kind_name(v));
    st = joust_chat_sequence(r, CHAT_FORM_LIST, 0, &list);
    if (st != JOUST_OK)
        return st;
    s = list.as.sequence;
    if (v->kind == CHAT_MAPPING) {
        s->items = v->as.mapping->keys;
        s->n = s->capacity = v->as.mapping->n;
    }
    *ret = s;
    return JOUST_OK;
}

joust_status joust_chat_length(chat_run *r, const chat_value *v, int64_t *ret)
{
    if (v->kind == CHAT_UNDEFINED)
        *ret = 0;
    else if (v->kind == CHAT_STR)
        *ret = (int64_t)joust_chat_count(v);
    else if (v->kind == CHAT_MAPPING)
        *ret = (int64_t)v->as.mapping->n;
    else if (v->kind == CHAT_SEQUENCE && v->as.sequence->form != CHAT_FORM_GENERATOR)
        *ret = (int64_t)v->as.sequence->n;
    else
        return joust_chat_fail(r, JOUST_INVALID, "%s has no length", joust_chat_kind_name(v));
    return joust_chat_step(r, 1 + (v->kind == CHAT_STR ? v->as.text.n / 32 : 0));
}
