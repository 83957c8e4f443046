#include <string.h>

#include "proto/base/text.h"
#include "schema_internal.h"

void joust_schema_literal(joust_buf *to, const char *text, size_t n)
{
    joust_buf_text(to, "\"");
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '"' || text[i] == '\\')
            joust_buf_text(to, "\\");
        joust_buf_u8(to, (uint8_t)text[i]);
    }
    joust_buf_text(to, "\"");
}

void joust_schema_value(joust_buf *to, const json_t *value)
{
    const char *key;
    json_t *item;
    size_t i;
    bool begun = false;
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        joust_buf_text(to, "{");
        json_object_foreach((json_t *)(uintptr_t)value, key, item)
        {
            joust_buf_text(to, begun ? "," : "");
            joust_json_string(to, key, strlen(key));
            joust_buf_text(to, ":");
            joust_schema_value(to, item);
            begun = true;
        }
        joust_buf_text(to, "}");
        break;
    case JSON_ARRAY:
        joust_buf_text(to, "[");
        json_array_foreach(value, i, item)
        {
            joust_buf_text(to, i ? "," : "");
            joust_schema_value(to, item);
        }
        joust_buf_text(to, "]");
        break;
    case JSON_STRING:
        joust_json_string(to, json_string_value(value), json_string_length(value));
        break;
    case JSON_INTEGER:
        joust_buf_format(to, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        break;
    case JSON_REAL:
        joust_json_double(to, json_real_value(value));
        break;
    default:
        joust_buf_text(to, json_is_true(value) ? "true" : json_is_false(value) ? "false" : "null");
    }
}
