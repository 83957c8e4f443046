#include "ops/yaml_tree.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#include "proto/base/alloc.h"
#include "proto/base/text.h"

enum { MAX_ANCHORS = 64 };

typedef struct anchor {
    char *name;
    const joust_yaml_node *node;
} anchor;

typedef struct reader {
    yaml_parser_t parser;
    const uint8_t *data;
    size_t n;
    uint32_t origin;
    uint32_t n_nodes, n_anchors;
    anchor anchors[MAX_ANCHORS];
    joust_yaml_node *dropped; /* values of repeated keys: an anchor in them may still be named */
    joust_problems *problems;
    joust_error *err;
} reader;

const char *joust_yaml_kind_name(joust_yaml_kind kind)
{
    static const char *const names[] = {"nothing", "true or false", "a whole number", "a number",
                                        "text",    "a list",        "a mapping"};
    return names[kind];
}

void joust_yaml_free(joust_yaml_node **node)
{
    joust_yaml_node *n = *node;
    if (!n)
        return;
    for (uint32_t i = 0; i < n->n; i++) {
        joust_free(n->entries[i].key);
        joust_yaml_free(&n->entries[i].value);
    }
    joust_free(n->entries);
    joust_free(n->text);
    joust_free(n);
    *node = NULL;
}

joust_yaml_entry *joust_yaml_find(const joust_yaml_node *node, const char *key)
{
    if (!node || node->kind != JOUST_YAML_MAP)
        return NULL;
    for (uint32_t i = 0; i < node->n; i++)
        if (strcmp(node->entries[i].key, key) == 0)
            return &node->entries[i];
    return NULL;
}

joust_status joust_yaml_append(joust_yaml_node *to, const char *key, joust_place place,
                               joust_yaml_node **value, joust_error *err)
{
    if (!joust_grow(&to->entries, to->n, &to->capacity, sizeof(*to->entries)))
        return joust_fail(err, JOUST_NOMEM, "yaml: out of memory");
    char *copy = key ? joust_strdup(key) : NULL;
    if (key && !copy)
        return joust_fail(err, JOUST_NOMEM, "yaml: out of memory");
    to->entries[to->n++] = (joust_yaml_entry){.key = copy, .key_place = place, .value = *value};
    *value = NULL;
    return JOUST_OK;
}

joust_yaml_node *joust_yaml_map(joust_place place)
{
    joust_yaml_node *node = joust_calloc(1, sizeof(*node));
    if (node) {
        node->kind = JOUST_YAML_MAP;
        node->place = place;
    }
    return node;
}

/* ---- scalars of the core schema ---- */

static bool is_among(const char *text, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(text, words[i]) == 0)
            return true;
    return false;
}

/* [-+]? [0-9]+, 0o[0-7]+ or 0x[0-9a-fA-F]+, within 64 bits. */
static bool read_integer(const char *text, joust_yaml_node *node)
{
    int base = 10;
    const char *digits = text;
    if (strncmp(text, "0o", 2) == 0 || strncmp(text, "0x", 2) == 0) {
        base = text[1] == 'o' ? 8 : 16;
        digits = text + 2;
    } else if (*text == '-' || *text == '+') {
        digits = text + 1;
    }
    const char *allowed = base == 8    ? "01234567"
                          : base == 10 ? "0123456789"
                                       : "0123456789abcdefABCDEF";
    if (!*digits || digits[strspn(digits, allowed)])
        return false;
    uint64_t v = 0;
    for (const char *d = digits; *d; d++) {
        uint64_t digit = *d <= '9' ? (uint64_t)(*d - '0') : (uint64_t)((*d | 32) - 'a' + 10);
        if (v > (UINT64_MAX - digit) / (uint64_t)base)
            return false;
        v = v * (uint64_t)base + digit;
    }
    node->negative = *text == '-' && v;
    node->magnitude = v;
    node->real = node->negative ? -(double)v : (double)v;
    return true;
}

/* [-+]? ( \.[0-9]+ | [0-9]+ (\.[0-9]*)? ) ([eE][-+]?[0-9]+)?, .inf or .nan */
static bool read_real(const char *text, double *ret)
{
    static const char *const infinities[] = {".inf", ".Inf", ".INF"};
    static const char *const nans[] = {".nan", ".NaN", ".NAN"};
    const char *s = text + (*text == '-' || *text == '+');
    if (is_among(s, infinities, 3)) {
        *ret = *text == '-' ? -HUGE_VAL : HUGE_VAL;
        return true;
    }
    if (is_among(text, nans, 3)) {
        *ret = NAN;
        return true;
    }
    size_t whole = strspn(s, "0123456789");
    s += whole;
    size_t fraction = 0;
    if (*s == '.') {
        fraction = strspn(s + 1, "0123456789");
        s += 1 + fraction;
    }
    if (!whole && !fraction)
        return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        s += *s == '-' || *s == '+';
        size_t exponent = strspn(s, "0123456789");
        if (!exponent)
            return false;
        s += exponent;
    }
    if (*s)
        return false;
    *ret = strtod(text, NULL);
    return true;
}

static void type_scalar(joust_yaml_node *node)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL"};
    static const char *const truths[] = {"true", "True", "TRUE"};
    static const char *const lies[] = {"false", "False", "FALSE"};
    node->kind = JOUST_YAML_TEXT;
    if (node->quoted)
        return;
    if (is_among(node->text, nulls, 5)) {
        node->kind = JOUST_YAML_NULL;
    } else if (is_among(node->text, truths, 3) || is_among(node->text, lies, 3)) {
        node->kind = JOUST_YAML_BOOL;
        node->truth = is_among(node->text, truths, 3);
    } else if (read_integer(node->text, node)) {
        node->kind = JOUST_YAML_INTEGER;
    } else if (read_real(node->text, &node->real)) {
        node->kind = JOUST_YAML_REAL;
    }
}

/* ---- building the tree ---- */

static joust_place place_of(const reader *r, const yaml_mark_t *mark)
{
    return (joust_place){.origin = r->origin,
                         .line = (uint32_t)mark->line + 1,
                         .column = (uint32_t)mark->column + 1};
}

static joust_place place_of_offset(const reader *r, size_t offset)
{
    joust_place place = {.origin = r->origin, .line = 1, .column = 1};
    for (size_t i = 0; i < offset && i < r->n; i++) {
        if (r->data[i] == '\n') {
            place.line++;
            place.column = 1;
        } else if ((r->data[i] & 0xc0) != 0x80) {
            place.column++;
        }
    }
    return place;
}

static bool is_tab_at(const reader *r, const yaml_mark_t *mark)
{
    size_t i = 0;
    for (size_t line = 0; line < mark->line && i < r->n; i++)
        line += r->data[i] == '\n';
    for (size_t column = 0; i < r->n; i++) {
        if ((r->data[i] & 0xc0) == 0x80)
            continue;
        if (column++ == mark->column)
            return r->data[i] == '\t';
    }
    return false;
}

/* Adds the problem and gives the status that ends the parse. */
static joust_status refuse(reader *r, joust_place place, const char *text)
{
    joust_problem_add(r->problems, place, "%s", text);
    return joust_fail(r->err, JOUST_INVALID, "%s:%u:%u: %s", r->problems->file, place.line,
                      place.column, text);
}

/* The parser's own complaint. */
static joust_status refuse_syntax(reader *r)
{
    const yaml_parser_t *p = &r->parser;
    if (p->error == YAML_MEMORY_ERROR)
        return joust_fail(r->err, JOUST_NOMEM, "yaml: out of memory");
    if (p->error == YAML_READER_ERROR)
        return refuse(r, place_of_offset(r, p->problem_offset),
                      "a control character, or bytes that are not UTF-8: job files are plain text");
    if (is_tab_at(r, &p->problem_mark))
        return refuse(r, place_of(r, &p->problem_mark),
                      "a tab: YAML indents by spaces only; replace it");
    char text[256];
    snprintf(text, sizeof(text), "not YAML: %s%s%s", p->problem ? p->problem : "it can't be read",
             p->context ? " " : "", p->context ? p->context : "");
    return refuse(r, place_of(r, &p->problem_mark), text);
}

static joust_status next_event(reader *r, yaml_event_t *ret)
{
    return yaml_parser_parse(&r->parser, ret) ? JOUST_OK : refuse_syntax(r);
}

static joust_status node_create(reader *r, joust_yaml_kind kind, joust_place place,
                                joust_yaml_node **ret)
{
    if (r->n_nodes == JOUST_MAX_YAML_NODES)
        return refuse(r, place, "more than 20000 values, those that aliases repeat included");
    joust_yaml_node *node = joust_yaml_map(place);
    if (!node)
        return joust_fail(r->err, JOUST_NOMEM, "yaml: out of memory");
    r->n_nodes++;
    node->kind = kind;
    *ret = node;
    return JOUST_OK;
}

static joust_status node_copy(reader *r, const joust_yaml_node *from, joust_yaml_node **ret)
{
    joust_yaml_node *node;
    joust_status st = node_create(r, from->kind, from->place, &node);
    if (st)
        return st;
    joust_place place = node->place;
    *node = *from;
    node->place = place;
    node->entries = NULL;
    node->n = 0;
    node->capacity = 0;
    node->text = from->text ? joust_strdup(from->text) : NULL;
    if (from->text && !node->text)
        st = joust_fail(r->err, JOUST_NOMEM, "yaml: out of memory");
    for (uint32_t i = 0; !st && i < from->n; i++) {
        const joust_yaml_entry *entry = &from->entries[i];
        joust_yaml_node *value = NULL;
        st = node_copy(r, entry->value, &value);
        if (!st)
            st = joust_yaml_append(node, entry->key, entry->key_place, &value, r->err);
        joust_yaml_free(&value);
    }
    if (st)
        joust_yaml_free(&node);
    else
        *ret = node;
    return st;
}

static joust_status read_alias(reader *r, const yaml_event_t *event, joust_yaml_node **ret)
{
    const char *name = (const char *)event->data.alias.anchor;
    for (uint32_t i = 0; i < r->n_anchors; i++)
        if (strcmp(r->anchors[i].name, name) == 0)
            return node_copy(r, r->anchors[i].node, ret);
    return refuse(r, place_of(r, &event->start_mark),
                  "an alias (*name) of an anchor (&name) that isn't complete before it");
}

static joust_status remember_anchor(reader *r, const yaml_char_t *name, const joust_yaml_node *node)
{
    if (!name)
        return JOUST_OK;
    if (r->n_anchors == MAX_ANCHORS)
        return refuse(r, node->place, "more than 64 anchors");
    char *copy = joust_strdup((const char *)name);
    if (!copy)
        return joust_fail(r->err, JOUST_NOMEM, "yaml: out of memory");
    r->anchors[r->n_anchors++] = (anchor){.name = copy, .node = node};
    return JOUST_OK;
}

static const char no_tags[] = "a tag (!): types follow from how a value is written";

static joust_status read_scalar(reader *r, const yaml_event_t *event, joust_yaml_node **ret)
{
    joust_place place = place_of(r, &event->start_mark);
    const char *value = (const char *)event->data.scalar.value;
    if (event->data.scalar.tag)
        return refuse(r, place, no_tags);
    if (strlen(value) != event->data.scalar.length)
        return refuse(r, place, "a NUL character in text");
    joust_yaml_node *node;
    joust_status st = node_create(r, JOUST_YAML_TEXT, place, &node);
    if (st)
        return st;
    node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    node->text = joust_strdup(value);
    if (!node->text) {
        joust_yaml_free(&node);
        return joust_fail(r->err, JOUST_NOMEM, "yaml: out of memory");
    }
    type_scalar(node);
    *ret = node;
    return JOUST_OK;
}

static joust_status read_node(reader *r, yaml_event_t *event, uint32_t depth,
                              joust_yaml_node **ret);

static joust_status read_items(reader *r, joust_yaml_node *list, uint32_t depth)
{
    for (;;) {
        yaml_event_t event;
        joust_status st = next_event(r, &event);
        if (st)
            return st;
        if (event.type == YAML_SEQUENCE_END_EVENT) {
            yaml_event_delete(&event);
            return JOUST_OK;
        }
        joust_yaml_node *value = NULL;
        st = read_node(r, &event, depth + 1, &value);
        yaml_event_delete(&event);
        if (!st)
            st = joust_yaml_append(list, NULL, value->place, &value, r->err);
        joust_yaml_free(&value);
        if (st)
            return st;
    }
}

/* The value that follows a key. A repeated key is a problem; what follows it is read and dropped. */
static joust_status read_value(reader *r, joust_yaml_node *map, const yaml_event_t *key,
                               uint32_t depth)
{
    joust_place place = place_of(r, &key->start_mark);
    if (key->type != YAML_SCALAR_EVENT)
        return refuse(r, place, "a key must be a word");
    if (key->data.scalar.tag)
        return refuse(r, place, no_tags);
    const char *name = (const char *)key->data.scalar.value;
    if (strlen(name) != key->data.scalar.length)
        return refuse(r, place, "a key holds a NUL character");
    yaml_event_t event;
    joust_status st = next_event(r, &event);
    if (st)
        return st;
    joust_yaml_node *value = NULL;
    st = read_node(r, &event, depth + 1, &value);
    yaml_event_delete(&event);
    if (st)
        return st;
    const joust_yaml_entry *before = joust_yaml_find(map, name);
    if (before) {
        joust_problem_add(r->problems, place, "%s: given twice; first in line %u", name,
                          before->key_place.line);
        st = joust_yaml_append(r->dropped, NULL, place, &value, r->err);
    } else {
        st = joust_yaml_append(map, name, place, &value, r->err);
    }
    joust_yaml_free(&value);
    return st;
}

static joust_status read_pairs(reader *r, joust_yaml_node *map, uint32_t depth)
{
    for (;;) {
        yaml_event_t event;
        joust_status st = next_event(r, &event);
        if (st)
            return st;
        bool end = event.type == YAML_MAPPING_END_EVENT;
        if (!end)
            st = read_value(r, map, &event, depth);
        yaml_event_delete(&event);
        if (st || end)
            return st;
    }
}

static joust_status read_node(reader *r, yaml_event_t *event, uint32_t depth, joust_yaml_node **ret)
{
    joust_place place = place_of(r, &event->start_mark);
    if (depth > JOUST_MAX_YAML_DEPTH)
        return refuse(r, place, "nested deeper than 16 levels");
    joust_yaml_node *node = NULL;
    const yaml_char_t *name = NULL;
    joust_status st;
    if (event->type == YAML_ALIAS_EVENT)
        return read_alias(r, event, ret);
    if (event->type == YAML_SCALAR_EVENT) {
        name = event->data.scalar.anchor;
        st = read_scalar(r, event, &node);
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        name = event->data.sequence_start.anchor;
        if (event->data.sequence_start.tag)
            return refuse(r, place, no_tags);
        st = node_create(r, JOUST_YAML_LIST, place, &node);
        if (!st)
            st = read_items(r, node, depth);
    } else {
        name = event->data.mapping_start.anchor;
        if (event->data.mapping_start.tag)
            return refuse(r, place, no_tags);
        st = node_create(r, JOUST_YAML_MAP, place, &node);
        if (!st)
            st = read_pairs(r, node, depth);
    }
    if (!st)
        st = remember_anchor(r, name, node);
    if (st)
        joust_yaml_free(&node);
    else
        *ret = node;
    return st;
}

/* Reads events up to the end of the stream; at most one document, whose root is *ret. */
static joust_status read_stream(reader *r, joust_yaml_node **ret)
{
    for (;;) {
        yaml_event_t event;
        joust_status st = next_event(r, &event);
        if (st)
            return st;
        bool end = event.type == YAML_STREAM_END_EVENT;
        if (event.type == YAML_DOCUMENT_START_EVENT && *ret)
            st = refuse(r, place_of(r, &event.start_mark), "a second document: a job is one");
        else if (event.type == YAML_SCALAR_EVENT || event.type == YAML_ALIAS_EVENT ||
                 event.type == YAML_SEQUENCE_START_EVENT || event.type == YAML_MAPPING_START_EVENT)
            st = read_node(r, &event, 1, ret);
        yaml_event_delete(&event);
        if (st || end)
            return st;
    }
}

joust_status joust_yaml_parse(const void *data, size_t n, uint32_t origin, joust_problems *problems,
                              joust_yaml_node **ret, joust_error *err)
{
    reader r = {.data = data, .n = n, .origin = origin, .problems = problems, .err = err};
    if (n > JOUST_MAX_YAML_BYTES)
        return refuse(&r, (joust_place){origin, 1, 1}, "larger than 1 MiB");
    size_t bad;
    if (!joust_text_is_utf8(data, n, &bad))
        return refuse(&r, place_of_offset(&r, bad), "bytes that are not UTF-8");
    r.dropped = joust_yaml_map((joust_place){origin, 1, 1});
    if (!r.dropped || !yaml_parser_initialize(&r.parser)) {
        joust_yaml_free(&r.dropped);
        return joust_fail(err, JOUST_NOMEM, "yaml: out of memory");
    }
    yaml_parser_set_input_string(&r.parser, data, n);
    yaml_parser_set_encoding(&r.parser, YAML_UTF8_ENCODING);
    joust_yaml_node *root = NULL;
    joust_status st = read_stream(&r, &root);
    if (st)
        joust_yaml_free(&root);
    else
        *ret = root;
    for (uint32_t i = 0; i < r.n_anchors; i++)
        joust_free(r.anchors[i].name);
    joust_yaml_free(&r.dropped);
    yaml_parser_delete(&r.parser);
    return st;
}
