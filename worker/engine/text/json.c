#include "json_internal.h"

#include <math.h>
#include <string.h>

#include "proto/base/file.h"

joust_status joust_json_parse(const void *data, size_t n, const char *name, json_t **ret,
                              joust_error *err)
{
    json_error_t problem;
    json_t *document = json_loadb(data, n, JSON_REJECT_DUPLICATES, &problem);
    if (!document) {
        /* jansson says nothing where an allocation of its own failed */
        if (!problem.text[0] || json_error_code(&problem) == json_error_out_of_memory)
            return joust_fail(err, JOUST_NOMEM, "%s: out of memory", name);
        if (!memchr(data, '\n', n)) /* a line of a larger file, whose number name says */
            return joust_fail(err, JOUST_MALFORMED, "%s: column %d: %s", name, problem.column,
                              problem.text);
        return joust_fail(err, JOUST_MALFORMED, "%s:%d:%d: %s", name, problem.line, problem.column,
                          problem.text);
    }
    if (!json_is_object(document)) {
        joust_status st = joust_fail(err, JOUST_MALFORMED, "%s: expected an object, found %s", name,
                                     joust_json_kind(document));
        json_decref(document);
        return st;
    }
    *ret = document;
    return JOUST_OK;
}

joust_status joust_json_read(const char *path, uint64_t max_bytes, json_t **ret, joust_error *err)
{
    joust_buf text = {0};
    joust_status st = joust_file_read(path, max_bytes, &text, err);
    if (st == JOUST_OK)
        st = joust_json_parse(text.data, text.n, path, ret, err);
    joust_buf_fini(&text);
    return st;
}

const char *joust_json_kind(const json_t *value)
{
    if (!value)
        return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    case JSON_NULL:
        return "null";
    }
    return "something else";
}

bool joust_json_has(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);
    return value && !json_is_null(value);
}

static joust_status expected(const char *what, const json_t *value, const char *place,
                             const char *key, joust_error *err)
{
    return joust_fail(err, JOUST_INVALID, "%s.%s: expected %s, found %s", place, key, what,
                      joust_json_kind(value));
}

joust_status joust_json_bool(const json_t *object, const char *place, const char *key,
                             bool by_default, bool *ret, joust_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value && !json_is_null(value) && !json_is_boolean(value))
        return expected("true or false", value, place, key, err);
    *ret = json_is_boolean(value) ? json_is_true(value) : by_default;
    return JOUST_OK;
}

joust_status joust_json_text(const json_t *object, const char *place, const char *key,
                             const char **ret, joust_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (value && !json_is_null(value) && !json_is_string(value))
        return expected("a string", value, place, key, err);
    *ret = json_is_string(value) ? json_string_value(value) : NULL;
    return JOUST_OK;
}

joust_status joust_json_u32(const json_t *object, const char *place, const char *key,
                            uint32_t by_default, uint32_t *ret, joust_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (!value || json_is_null(value)) {
        *ret = by_default;
        return JOUST_OK;
    }
    if (!json_is_integer(value))
        return expected("an integer", value, place, key, err);
    json_int_t number = json_integer_value(value);
    if (number < 0 || number >= (json_int_t)UINT32_MAX)
        return joust_fail(err, JOUST_INVALID, "%s.%s: %" JSON_INTEGER_FORMAT " is out of range",
                          place, key, number);
    *ret = (uint32_t)number;
    return JOUST_OK;
}

joust_status joust_json_number(const json_t *object, const char *place, const char *key,
                               double by_default, double *ret, joust_error *err)
{
    const json_t *value = json_object_get(object, key);
    if (!value || json_is_null(value)) {
        *ret = by_default;
        return JOUST_OK;
    }
    if (!json_is_number(value))
        return expected("a number", value, place, key, err);
    double number = json_number_value(value);
    if (!isfinite(number))
        return joust_fail(err, JOUST_INVALID, "%s.%s: not a finite number", place, key);
    *ret = number;
    return JOUST_OK;
}
