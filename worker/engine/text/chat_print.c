/* Values as text: str, repr and json.dumps of Python. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "chat_internal.h"
#include "unicode_internal.h"

void joust_chat_add_real(joust_buf *to, double v)
{
    char text[40];
    if (v != v || v - v != 0) {
        joust_buf_text(to, v != v ? "nan" : v > 0 ? "inf" : "-inf");
        return;
    }
    for (int digits = 0; digits < 17; digits++) { /* the shortest that reads back */
        snprintf(text, sizeof(text), "%.*e", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    char *e = strchr(text, 'e');
    int exponent = atoi(e + 1), n = 0;
    char digits[24];
    for (char *at = text; at < e; at++) {
        if (*at >= '0' && *at <= '9')
            digits[n++] = *at;
    }
    if (text[0] == '-')
        joust_buf_u8(to, '-');
    if (exponent < -4 || exponent >= 16) {
        joust_buf_format(to, "%c%s%.*s", digits[0], n > 1 ? "." : "", n - 1, digits + 1);
        joust_buf_format(to, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    int point = exponent + 1; /* digits before it */
    if (point <= 0)
        joust_buf_text(to, "0.");
    for (int i = point; i < 0; i++)
        joust_buf_u8(to, '0');
    for (int i = 0; i < n || i < point; i++) {
        joust_buf_u8(to, i < n ? (uint8_t)digits[i] : '0');
        if (i + 1 == point)
            joust_buf_u8(to, '.');
    }
    if (point >= n)
        joust_buf_u8(to, '0');
}

static void add_text(chat_output *to, const char *text)
{
    joust_chat_output_bytes(to, text, strlen(text), false);
}

/* Python's str.isprintable for one character. */
static bool is_printable(uint32_t code)
{
    if (code == ' ')
        return true;
    switch (utf8proc_category((utf8proc_int32_t)code)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
        return false;
    default:
        return true;
    }
}

static void repr_text(const chat_value *v, chat_output *to)
{
    const uint8_t *bytes = v->as.text.bytes;
    size_t n = v->as.text.n;
    bool twice = n && memchr(bytes, '\'', n) && !memchr(bytes, '"', n);
    char quote = twice ? '"' : '\'';
    joust_chat_output_bytes(to, &quote, 1, false);
    for (size_t at = 0; at < n;) {
        uint32_t code;
        char escape[12] = "";
        size_t length = joust_utf8_next(bytes + at, n - at, &code);
        if (code == (uint32_t)quote || code == '\\')
            snprintf(escape, sizeof(escape), "\\%c", (int)code);
        else if (code == '\n' || code == '\r' || code == '\t')
            snprintf(escape, sizeof(escape), "\\%c", code == '\n' ? 'n' : code == '\r' ? 'r' : 't');
        else if (!is_printable(code))
            snprintf(escape, sizeof(escape),
                     code < 0x100     ? "\\x%02x"
                     : code < 0x10000 ? "\\u%04x"
                                      : "\\U%08x",
                     code);
        chat_value one = joust_chat_sub(v, at, at + length);
        if (escape[0])
            add_text(to, escape);
        else
            joust_chat_output_add(to, &one);
        at += length;
    }
    joust_chat_output_bytes(to, &quote, 1, false);
}

static joust_status repr_sequence(chat_run *r, const chat_sequence *s, chat_output *to)
{
    bool tuple = s->form == CHAT_FORM_TUPLE;
    joust_status st = JOUST_OK;
    add_text(to, tuple ? "(" : "[");
    for (size_t i = 0; st == JOUST_OK && i < s->n; i++) {
        add_text(to, i ? ", " : "");
        st = joust_chat_repr(r, &s->items[i], to);
    }
    add_text(to, tuple ? s->n == 1 ? ",)" : ")" : "]");
    return st;
}

static joust_status repr_mapping(chat_run *r, const chat_mapping *m, chat_output *to)
{
    joust_status st = JOUST_OK;
    add_text(to, "{");
    for (size_t i = 0; st == JOUST_OK && i < m->n; i++) {
        add_text(to, i ? ", " : "");
        st = joust_chat_repr(r, &m->keys[i], to);
        add_text(to, ": ");
        if (st == JOUST_OK)
            st = joust_chat_repr(r, &m->values[i], to);
    }
    add_text(to, "}");
    return st;
}

static bool add_scalar(const chat_value *v, chat_output *to)
{
    joust_buf text = {0};
    switch (v->kind) {
    case CHAT_NONE:
        joust_buf_text(&text, "None");
        break;
    case CHAT_BOOLEAN:
        joust_buf_text(&text, v->as.boolean ? "True" : "False");
        break;
    case CHAT_WHOLE:
        joust_buf_format(&text, "%lld", (long long)v->as.whole);
        break;
    case CHAT_REAL:
        joust_chat_add_real(&text, v->as.real);
        break;
    default:
        return false;
    }
    to->bytes.failed |= !joust_buf_ok(&text);
    joust_chat_output_bytes(to, text.data, text.n, false);
    joust_buf_fini(&text);
    return true;
}

/* A text that grows beyond what may be printed is stopped while it grows. */
static joust_status check_size(chat_run *r, const chat_output *to)
{
    if (to->bytes.n > JOUST_CHAT_MAX_OUTPUT_BYTES)
        return joust_chat_fail(r, JOUST_TOO_LARGE, "a text of more than %u bytes",
                               JOUST_CHAT_MAX_OUTPUT_BYTES);
    return joust_chat_step(r, 1);
}

joust_status joust_chat_repr(chat_run *r, const chat_value *v, chat_output *to)
{
    if (v->kind == CHAT_STR) {
        repr_text(v, to);
        return check_size(r, to);
    }
    if (v->kind == CHAT_UNDEFINED) {
        add_text(to, "Undefined");
        return check_size(r, to);
    }
    if (add_scalar(v, to))
        return check_size(r, to);
    bool sequence = v->kind == CHAT_SEQUENCE && v->as.sequence->form <= CHAT_FORM_TUPLE;
    if (!sequence && v->kind != CHAT_MAPPING)
        return joust_chat_fail(r, JOUST_UNSUPPORTED, "printing %s", joust_chat_kind_name(v));
    joust_status st = joust_chat_deeper(r);
    if (st != JOUST_OK)
        return st;
    st = sequence ? repr_sequence(r, v->as.sequence, to) : repr_mapping(r, v->as.mapping, to);
    r->nesting--;
    return st == JOUST_OK ? check_size(r, to) : st;
}

joust_status joust_chat_print(chat_run *r, const chat_value *v, chat_output *to)
{
    if (v->kind == CHAT_UNDEFINED)
        return JOUST_OK;
    if (v->kind != CHAT_STR)
        return joust_chat_repr(r, v, to);
    joust_chat_output_add(to, v);
    return check_size(r, to);
}

joust_status joust_chat_string(chat_run *r, const chat_value *v, chat_value *ret)
{
    if (v->kind == CHAT_STR) {
        *ret = *v;
        return JOUST_OK;
    }
    chat_output text = {0};
    joust_status st = joust_chat_print(r, v, &text);
    return joust_chat_finish(r, st, &text, ret);
}

static void add_hex(chat_output *to, uint32_t unit)
{
    char escape[16];
    snprintf(escape, sizeof(escape), "\\u%04x", unit);
    add_text(to, escape);
}

static void json_text(const chat_value *v, bool ascii, chat_output *to)
{
    static const char from[] = "\"\\\n\r\t\f\b", into[] = "\"\\nrtfb";
    const uint8_t *bytes = v->as.text.bytes;
    add_text(to, "\"");
    for (size_t at = 0; at < v->as.text.n;) {
        uint32_t code;
        size_t length = joust_utf8_next(bytes + at, v->as.text.n - at, &code);
        const char *known = code && code < 0x80 ? strchr(from, (int)code) : NULL;
        chat_value one = joust_chat_sub(v, at, at + length);
        if (known) {
            char escape[3] = {'\\', into[known - from], 0};
            add_text(to, escape);
        } else if (code < 0x20 || (ascii && code >= 0x7f && code < 0x10000)) {
            add_hex(to, code);
        } else if (ascii && code >= 0x10000) {
            add_hex(to, 0xd800 + ((code - 0x10000) >> 10));
            add_hex(to, 0xdc00 + ((code - 0x10000) & 0x3ff));
        } else {
            joust_chat_output_add(to, &one);
        }
        at += length;
    }
    add_text(to, "\"");
}

static joust_status json_value(chat_run *r, const chat_value *v, const chat_json_form *form,
                               uint32_t level, chat_output *to);

static void json_line(const chat_json_form *form, uint32_t level, chat_output *to)
{
    if (!form->indented)
        return;
    add_text(to, "\n");
    for (uint32_t i = 0; i < level; i++)
        joust_chat_output_add(to, form->indent);
}

static void json_separator(const chat_json_form *form, chat_output *to)
{
    if (form->item_separator)
        joust_chat_output_add(to, form->item_separator);
    else
        add_text(to, form->indented ? "," : ", ");
}

/* A key that isn't text is written as one. */
static joust_status json_key(chat_run *r, const chat_value *key, const chat_json_form *form,
                             chat_output *to)
{
    if (key->kind == CHAT_STR) {
        json_text(key, form->ascii, to);
        return JOUST_OK;
    }
    if (key->kind > CHAT_REAL || key->kind == CHAT_UNDEFINED)
        return joust_chat_fail(r, JOUST_INVALID, "tojson: %s as a key", joust_chat_kind_name(key));
    add_text(to, "\"");
    joust_status st = json_value(r, key, form, 0, to);
    add_text(to, "\"");
    return st;
}

/* Indices of a mapping's entries by key, where the form asks for it. */
static joust_status key_order(chat_run *r, const chat_mapping *m, bool sorted, size_t **ret)
{
    joust_status st = JOUST_OK;
    size_t *order = joust_chat_alloc(&r->arena, (m->n + 1) * sizeof(*order));
    if (!order)
        return joust_chat_nomem(r);
    for (size_t i = 0; st == JOUST_OK && i < m->n; i++) {
        size_t at = i;
        for (int after = 1; sorted && st == JOUST_OK && at > 0; at--) {
            st = joust_chat_order(r, &m->keys[order[at - 1]], &m->keys[i], &after);
            if (after <= 0)
                break;
            order[at] = order[at - 1];
        }
        order[at] = i;
    }
    *ret = order;
    return st;
}

static joust_status json_mapping(chat_run *r, const chat_mapping *m, const chat_json_form *form,
                                 uint32_t level, chat_output *to)
{
    size_t *order = NULL;
    joust_status st = key_order(r, m, form->sorted, &order);
    add_text(to, "{");
    for (size_t i = 0; st == JOUST_OK && i < m->n; i++) {
        if (i)
            json_separator(form, to);
        json_line(form, level + 1, to);
        st = json_key(r, &m->keys[order[i]], form, to);
        if (form->key_separator)
            joust_chat_output_add(to, form->key_separator);
        else
            add_text(to, ": ");
        if (st == JOUST_OK)
            st = json_value(r, &m->values[order[i]], form, level + 1, to);
    }
    if (m->n)
        json_line(form, level, to);
    add_text(to, "}");
    return st;
}

static joust_status json_sequence(chat_run *r, const chat_sequence *s, const chat_json_form *form,
                                  uint32_t level, chat_output *to)
{
    joust_status st = JOUST_OK;
    add_text(to, "[");
    for (size_t i = 0; st == JOUST_OK && i < s->n; i++) {
        if (i)
            json_separator(form, to);
        json_line(form, level + 1, to);
        st = json_value(r, &s->items[i], form, level + 1, to);
    }
    if (s->n)
        json_line(form, level, to);
    add_text(to, "]");
    return st;
}

static joust_status json_value(chat_run *r, const chat_value *v, const chat_json_form *form,
                               uint32_t level, chat_output *to)
{
    joust_status st = check_size(r, to);
    if (st == JOUST_OK)
        st = joust_chat_deeper(r);
    if (st != JOUST_OK)
        return st;
    if (v->kind == CHAT_STR)
        json_text(v, form->ascii, to);
    else if (v->kind == CHAT_NONE)
        add_text(to, "null");
    else if (v->kind == CHAT_BOOLEAN)
        add_text(to, v->as.boolean ? "true" : "false");
    else if (v->kind == CHAT_WHOLE || v->kind == CHAT_REAL)
        (void)add_scalar(v, to);
    else if (v->kind == CHAT_MAPPING)
        st = json_mapping(r, v->as.mapping, form, level, to);
    else if (v->kind == CHAT_SEQUENCE && v->as.sequence->form <= CHAT_FORM_TUPLE)
        st = json_sequence(r, v->as.sequence, form, level, to);
    else
        st = joust_chat_fail(r, JOUST_INVALID, "tojson: %s can't be written as JSON",
                             joust_chat_kind_name(v));
    r->nesting--;
    return st;
}

joust_status joust_chat_to_json(chat_run *r, const chat_value *v, const chat_json_form *form,
                                chat_output *to)
{
    return json_value(r, v, form, 0, to);
}

static joust_status from_text(chat_run *r, const char *text, size_t n, chat_value *ret)
{
    uint8_t *copy = joust_chat_alloc(&r->arena, n + 1);
    if (!copy)
        return joust_chat_nomem(r);
    if (n)
        memcpy(copy, text, n);
    *ret = (chat_value){.kind = CHAT_STR};
    ret->as.text.bytes = copy;
    ret->as.text.n = n;
    return JOUST_OK;
}

static joust_status from_object(chat_run *r, const json_t *json, chat_value *ret)
{
    joust_status st = joust_chat_mapping(r, ret);
    json_t *object = (json_t *)(uintptr_t)json; /* the iterators of jansson want no const */
    for (void *at = json_object_iter(object); st == JOUST_OK && at;
         at = json_object_iter_next(object, at)) {
        chat_value key, value = {0};
        const char *name = json_object_iter_key(at);
        st = from_text(r, name, strlen(name), &key);
        if (st == JOUST_OK)
            st = joust_chat_from_json(r, json_object_iter_value(at), &value);
        if (st == JOUST_OK)
            st = joust_chat_put(r, ret->as.mapping, &key, &value);
    }
    return st;
}

static joust_status from_array(chat_run *r, const json_t *json, chat_value *ret)
{
    size_t n = json_array_size(json);
    joust_status st = joust_chat_sequence(r, CHAT_FORM_LIST, n, ret);
    for (size_t i = 0; st == JOUST_OK && i < n; i++) {
        chat_value item = {0};
        st = joust_chat_from_json(r, json_array_get(json, i), &item);
        if (st == JOUST_OK)
            st = joust_chat_push(r, ret, &item);
    }
    return st;
}

joust_status joust_chat_from_json(chat_run *r, const json_t *json, chat_value *ret)
{
    joust_status st = joust_chat_step(r, 1);
    if (st == JOUST_OK)
        st = joust_chat_deeper(r);
    if (st != JOUST_OK)
        return st;
    *ret = (chat_value){.kind = CHAT_NONE};
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        st = from_object(r, json, ret);
        break;
    case JSON_ARRAY:
        st = from_array(r, json, ret);
        break;
    case JSON_STRING:
        st = from_text(r, json_string_value(json), json_string_length(json), ret);
        break;
    case JSON_INTEGER:
        *ret = joust_chat_whole(json_integer_value(json));
        break;
    case JSON_REAL:
        *ret = (chat_value){.kind = CHAT_REAL, .as.real = json_real_value(json)};
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        *ret = joust_chat_boolean(json_is_true(json));
        break;
    case JSON_NULL:
        break;
    }
    r->nesting--;
    return st;
}
