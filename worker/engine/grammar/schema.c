/* JSON schemas to GBNF: a rule for each schema in it, and one for each that a $ref names. What a keyword asks for is either
 * met by every text or refused by name. */
#include "schema_internal.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "grammar_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/text.h"
#include "schema_types_internal.h"
#include "worker/engine/grammar/grammar.h"

#define MAX_DEPTH        64u
#define MAX_REFS         4096u
#define MAX_ALTERNATIVES 256u
#define MAX_COUNT        65536
#define MAX_INTEGER      9999999999999999 /* 16 digits */
#define MAX_GBNF_BYTES   (4u << 20)

/* White space is bounded: a model can't go on with it for ever. */
static const char shared_rules[] =
    "ws ::= ( \" \" | \"\\n\"{1,2} [ \\t]{0,20} )?\n"
    "hex ::= [0-9a-fA-F]\n"
    "code ::= \"000\" [1-9a-fA-F] | \"00\" [1-9a-fA-F] hex | \"0\" [1-9a-fA-F] hex{2} | "
    "[1-9a-cA-CeEfF] hex{3} | [dD] ( [0-7] hex{2} | [89abAB] hex{2} \"\\\\u\" [dD] [c-fC-F] hex{2} "
    ")\n"
    "char ::= [^\"\\\\\\x00-\\x1f] | \"\\\\\" ( [\"\\\\/bfnrt] | \"u\" code )\n"
    "string ::= \"\\\"\" char* \"\\\"\"\n"
    "integer ::= \"-\"? ( \"0\" | [1-9] [0-9]{0,15} )\n"
    "number ::= integer ( \".\" [0-9]{1,16} )? ( [eE] [-+]? [0-9]{1,2} )?\n"
    "boolean ::= \"true\" | \"false\"\n"
    "null ::= \"null\"\n"
    "pair ::= string \":\" ws value\n"
    "object ::= \"{\" ws ( pair ( \",\" ws pair )* ws )? \"}\"\n"
    "array ::= \"[\" ws ( value ( \",\" ws value )* ws )? \"]\"\n"
    "value ::= object | array | string | number | boolean | null\n";

typedef struct reference {
    const char *pointer; /* view of the document */
    const json_t *target;
} reference;

typedef struct compiler {
    const json_t *root;
    joust_buf rules;
    uint32_t n_schemas, depth;
    reference refs[MAX_REFS];
    uint32_t n_refs;
    char place[512];
    joust_error *err;
} compiler;

static joust_status refuse(const compiler *c, joust_status st, const char *format, ...)
    JOUST_PRINTF(3, 4);

static joust_status refuse(const compiler *c, joust_status st, const char *format, ...)
{
    char what[256];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof(what), format, args);
    va_end(args);
    return joust_fail(c->err, st, "%s: %s", c->place, what);
}

/* "/name" behind the place; the length before, for leave. */
static size_t enter(compiler *c, const char *name)
{
    const size_t n = strlen(c->place);
    snprintf(c->place + n, sizeof(c->place) - n, "/%.100s", name);
    return n;
}

static size_t enter_index(compiler *c, const char *name, size_t index)
{
    char both[80];
    snprintf(both, sizeof(both), "%s/%zu", name, index);
    return enter(c, both);
}

static void leave(compiler *c, size_t n)
{
    c->place[n] = 0;
}

static joust_status add_value(const compiler *c, const json_t *value, joust_buf *to)
{
    joust_buf text = {0};
    joust_schema_value(&text, value);
    joust_status st = joust_buf_status(&text, c->err);
    if (st == JOUST_OK)
        joust_schema_literal(to, (const char *)text.data, text.n);
    joust_buf_fini(&text);
    return st;
}

/* A count that is there, or *ret stays. */
static joust_status read_count(const compiler *c, const json_t *schema, const char *key, long *ret)
{
    const json_t *v = json_object_get(schema, key);
    if (v &&
        (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > MAX_COUNT))
        return refuse(c, JOUST_INVALID, "%s: expected a whole number from 0 to %d", key, MAX_COUNT);
    if (v)
        *ret = (long)json_integer_value(v);
    return JOUST_OK;
}

/* The two of `least` and `most`; most -1: none. */
static joust_status read_bounds(const compiler *c, const json_t *schema, const char *least,
                                const char *most, long *ret_least, long *ret_most)
{
    *ret_least = 0;
    *ret_most = -1;
    joust_status st = read_count(c, schema, least, ret_least);
    if (st == JOUST_OK)
        st = read_count(c, schema, most, ret_most);
    if (st == JOUST_OK && *ret_most >= 0 && *ret_most < *ret_least)
        st = refuse(c, JOUST_INVALID, "%s is below %s", most, least);
    return st;
}

static void add_bounds(joust_buf *to, long least, long most)
{
    if (most < 0)
        joust_buf_format(to, "{%ld,}", least);
    else
        joust_buf_format(to, "{%ld,%ld}", least, most);
}

/* ---- one type -------------------------------------------------------------------------------- */

static joust_status add_schema(compiler *c, const json_t *schema, joust_buf *to);

static joust_status add_string(compiler *c, const json_t *schema, joust_buf *to)
{
    const json_t *pattern = json_object_get(schema, "pattern");
    long least, most;
    joust_status st = read_bounds(c, schema, "minLength", "maxLength", &least, &most);
    if (st != JOUST_OK)
        return st;
    if (!pattern) {
        joust_buf_text(to, "\"\\\"\" char");
        add_bounds(to, least, most);
        joust_buf_text(to, " \"\\\"\"");
        return JOUST_OK;
    }
    if (least > 0 || most >= 0)
        return refuse(c, JOUST_UNSUPPORTED,
                      "pattern with minLength or maxLength: count in the pattern, ^.{2,5}$");
    if (!json_is_string(pattern))
        return refuse(c, JOUST_INVALID, "pattern: expected a string");
    char name[32];
    snprintf(name, sizeof(name), "p%u", c->n_schemas++);
    st = joust_schema_pattern(json_string_value(pattern), name, &c->rules, c->err);
    joust_buf_text(to, name);
    return st == JOUST_OK ? st : joust_blame(c->err, st, "%s: pattern", c->place);
}

static joust_status add_array(compiler *c, const json_t *schema, joust_buf *to)
{
    const json_t *items = json_object_get(schema, "items");
    joust_buf item = {0};
    long least, most;
    joust_status st = read_bounds(c, schema, "minItems", "maxItems", &least, &most);
    if (st != JOUST_OK)
        return st;
    if (most == 0) {
        joust_buf_text(to, "\"[\" ws \"]\"");
        return JOUST_OK;
    }
    const size_t n = enter(c, "items");
    if (items)
        st = add_schema(c, items, &item);
    else
        joust_buf_text(&item, "value");
    leave(c, n);
    if (st == JOUST_OK)
        st = joust_buf_status(&item, c->err);
    if (st == JOUST_OK) {
        joust_buf_format(to, "\"[\" ws ( %s ( \",\" ws %s )", (const char *)item.data,
                         (const char *)item.data);
        add_bounds(to, least > 0 ? least - 1 : 0, most > 0 ? most - 1 : -1);
        joust_buf_format(to, " ws )%s \"]\"", least > 0 ? "" : "?");
    }
    joust_buf_fini(&item);
    return st;
}

static bool is_required(const json_t *schema, const char *name)
{
    const json_t *list = json_object_get(schema, "required");
    json_t *item;
    size_t i;
    json_array_foreach(list, i, item) if (strcmp(json_string_value(item), name) == 0) return true;
    return false;
}

static joust_status check_object(const compiler *c, const json_t *schema)
{
    const json_t *properties = json_object_get(schema, "properties"),
                 *required = json_object_get(schema, "required"),
                 *additional = json_object_get(schema, "additionalProperties");
    json_t *item;
    size_t i;
    if (properties && !json_is_object(properties))
        return refuse(c, JOUST_INVALID, "properties: expected an object");
    if (additional && !json_is_false(additional))
        return refuse(c, JOUST_UNSUPPORTED,
                      "additionalProperties: false alone is known, and what is taken where "
                      "properties are named");
    if (required && !json_is_array(required))
        return refuse(c, JOUST_INVALID, "required: expected a list");
    json_array_foreach(required, i, item)
    {
        if (!json_is_string(item))
            return refuse(c, JOUST_INVALID, "required/%zu: expected a string", i);
        if (!json_object_get(properties, json_string_value(item)))
            return refuse(c, JOUST_INVALID, "required/%zu: '%.80s' isn't one of properties", i,
                          json_string_value(item));
    }
    return JOUST_OK;
}

/* "key": value */
static joust_status add_property(compiler *c, const char *key, const json_t *schema, joust_buf *to)
{
    joust_buf name = {0};
    joust_json_string(&name, key, strlen(key));
    joust_status st = joust_buf_status(&name, c->err);
    if (st == JOUST_OK)
        joust_schema_literal(to, (const char *)name.data, name.n);
    joust_buf_fini(&name);
    joust_buf_text(to, " \":\" ws ");
    const size_t n = enter(c, "properties"), n_key = enter(c, key);
    if (st == JOUST_OK)
        st = add_schema(c, schema, to);
    leave(c, n_key);
    leave(c, n);
    return st;
}

/* Properties in their order. Rules o<id>-<i>: from property i on where one stands before; f<id>-<i>: where none does. */
static joust_status add_object(compiler *c, const json_t *schema, joust_buf *to)
{
    json_t *properties = json_object_get(schema, "properties"), *property;
    const uint32_t id = c->n_schemas++;
    const char *key;
    joust_buf pair = {0};
    unsigned i = 0;
    joust_status st = check_object(c, schema);
    if (st != JOUST_OK)
        return st;
    if (!json_object_size(properties)) {
        joust_buf_text(to, json_object_get(schema, "additionalProperties") || properties
                               ? "\"{\" ws \"}\""
                               : "object");
        return JOUST_OK;
    }
    json_object_foreach(properties, key, property)
    {
        joust_buf_clear(&pair);
        st = add_property(c, key, property, &pair);
        if (st == JOUST_OK)
            st = joust_buf_status(&pair, c->err);
        if (st != JOUST_OK)
            break;
        const bool needed = is_required(schema, key);
        joust_buf_format(&c->rules, "m%u-%u ::= %s\n", id, i, (const char *)pair.data);
        joust_buf_format(&c->rules, "o%u-%u ::= ( \",\" ws m%u-%u )%s o%u-%u\n", id, i, id, i,
                         needed ? "" : "?", id, i + 1);
        joust_buf_format(&c->rules, "f%u-%u ::= m%u-%u o%u-%u ws", id, i, id, i, id, i + 1);
        if (needed)
            joust_buf_text(&c->rules, "\n");
        else
            joust_buf_format(&c->rules, " | f%u-%u\n", id, i + 1);
        i++;
    }
    joust_buf_fini(&pair);
    joust_buf_format(&c->rules, "o%u-%u ::= \"\"\nf%u-%u ::= \"\"\n", id, i, id, i);
    joust_buf_format(to, "\"{\" ws f%u-0 \"}\"", id);
    return st;
}

static joust_status read_bound(const compiler *c, const json_t *schema, const char *key,
                               int64_t *ret)
{
    const json_t *v = json_object_get(schema, key);
    if (v && (!json_is_integer(v) || json_integer_value(v) > MAX_INTEGER ||
              json_integer_value(v) < -MAX_INTEGER))
        return refuse(c, JOUST_INVALID, "%s: expected a whole number of at most 16 digits", key);
    if (v)
        *ret = json_integer_value(v);
    return JOUST_OK;
}

static joust_status add_integer(const compiler *c, const json_t *schema, joust_buf *to)
{
    int64_t low = -MAX_INTEGER, high = MAX_INTEGER;
    joust_status st = read_bound(c, schema, "minimum", &low);
    if (st == JOUST_OK)
        st = read_bound(c, schema, "maximum", &high);
    if (st == JOUST_OK && low > high)
        st = refuse(c, JOUST_INVALID, "maximum is below minimum");
    if (st != JOUST_OK)
        return st;
    if (json_object_get(schema, "minimum") || json_object_get(schema, "maximum"))
        joust_schema_range(low, high, to);
    else
        joust_buf_text(to, "integer");
    return JOUST_OK;
}

static joust_status add_type(compiler *c, const json_t *schema, unsigned type, joust_buf *to)
{
    switch (type) {
    case JOUST_SCHEMA_OBJECT:
        return add_object(c, schema, to);
    case JOUST_SCHEMA_ARRAY:
        return add_array(c, schema, to);
    case JOUST_SCHEMA_STRING:
        return add_string(c, schema, to);
    case JOUST_SCHEMA_NUMBER:
        if (json_object_get(schema, "minimum") || json_object_get(schema, "maximum"))
            return refuse(c, JOUST_UNSUPPORTED,
                          "minimum, maximum: of integers alone: say type integer");
        joust_buf_text(to, "number");
        return JOUST_OK;
    case JOUST_SCHEMA_INTEGER:
        return add_integer(c, schema, to);
    case JOUST_SCHEMA_BOOLEAN:
        joust_buf_text(to, "boolean");
        return JOUST_OK;
    default:
        joust_buf_text(to, "null");
        return JOUST_OK;
    }
}

/* ---- a schema -------------------------------------------------------------------------------- */

static joust_status add_types(compiler *c, const json_t *schema, unsigned types, joust_buf *to)
{
    joust_status st = JOUST_OK;
    bool begun = false;
    if (types == JOUST_SCHEMA_ALL && !joust_schema_shapes(schema)) {
        joust_buf_text(to, "value");
        return JOUST_OK;
    }
    for (unsigned type = 1; st == JOUST_OK && type < JOUST_SCHEMA_ALL; type <<= 1) {
        if (!(types & type) || (type == JOUST_SCHEMA_INTEGER && types & JOUST_SCHEMA_NUMBER))
            continue;
        joust_buf_text(to, begun ? " | " : "");
        st = add_type(c, schema, type, to);
        begun = true;
    }
    return st;
}

static joust_status add_listed(compiler *c, const json_t *schema, unsigned types, joust_buf *to)
{
    json_t *constant = json_object_get(schema, "const"), *list = json_object_get(schema, "enum"),
           *item;
    size_t i;
    bool begun = false;
    joust_status st = JOUST_OK;
    if (constant && !list) {
        if (!(joust_schema_type_of(constant) & types))
            return refuse(c, JOUST_INVALID, "const: isn't of the type");
        return add_value(c, constant, to);
    }
    if (constant || !json_is_array(list))
        return refuse(c, JOUST_INVALID,
                      constant ? "const beside enum: leave one out" : "enum: expected a list");
    json_array_foreach(list, i, item)
    {
        if (st != JOUST_OK || !(joust_schema_type_of(item) & types))
            continue;
        joust_buf_text(to, begun ? " | " : "");
        st = add_value(c, item, to);
        begun = true;
    }
    if (st == JOUST_OK && !begun)
        st = refuse(c, JOUST_INVALID, "enum: no value is of the type");
    return st;
}

static joust_status add_any(compiler *c, const json_t *schema, const char *key, joust_buf *to)
{
    json_t *list = json_object_get(schema, key), *item;
    size_t i;
    joust_status st = JOUST_OK;
    if (!json_is_array(list) || json_array_size(list) == 0)
        return refuse(c, JOUST_INVALID, "%s: expected a list of schemas", key);
    if (json_array_size(list) > MAX_ALTERNATIVES)
        return refuse(c, JOUST_TOO_LARGE, "%s: more than %u schemas", key, MAX_ALTERNATIVES);
    if (strcmp(key, "allOf") == 0 && json_array_size(list) > 1)
        return refuse(c, JOUST_UNSUPPORTED, "allOf: of one schema alone; write them as one");
    json_array_foreach(list, i, item)
    {
        for (size_t k = 0; k < i && strcmp(key, "oneOf") == 0; k++)
            if (!joust_schema_disjoint(c->root, json_array_get(list, k), item, 0))
                return refuse(c, JOUST_UNSUPPORTED,
                              "oneOf: a value may fit entries %zu and %zu: write anyOf", k, i);
        const size_t n = enter_index(c, key, i);
        joust_buf_text(to, i ? " | " : "");
        st = add_schema(c, item, to);
        leave(c, n);
        if (st != JOUST_OK)
            return st;
    }
    return st;
}

static joust_status add_ref(compiler *c, const json_t *schema, joust_buf *to)
{
    const char *pointer = json_string_value(json_object_get(schema, "$ref"));
    uint32_t i = 0;
    if (!pointer)
        return refuse(c, JOUST_INVALID, "$ref: expected a string");
    const json_t *target = joust_schema_target(c->root, pointer);
    if (!target)
        return refuse(c, JOUST_INVALID,
                      "$ref: '%.80s' isn't there; one in the file itself is written #/$defs/NAME",
                      pointer);
    while (i < c->n_refs && c->refs[i].target != target)
        i++;
    if (i == MAX_REFS)
        return refuse(c, JOUST_TOO_LARGE, "$ref: more than %u are named", MAX_REFS);
    if (i == c->n_refs)
        c->refs[c->n_refs++] = (reference){pointer, target};
    joust_buf_format(to, "r%u", i);
    return JOUST_OK;
}

/* The body of a schema's rule. */
static joust_status add_body(compiler *c, const json_t *schema, joust_buf *to)
{
    unsigned types = JOUST_SCHEMA_ALL;
    const char *problem = NULL, *whole = NULL;
    if (json_is_false(schema))
        return refuse(c, JOUST_INVALID, "false: no value fits");
    if (!json_is_true(schema) && !json_is_object(schema))
        return refuse(c, JOUST_INVALID, "expected a schema: an object, or true");
    if (json_is_true(schema) || json_object_size(schema) == 0) {
        joust_buf_text(to, "value");
        return JOUST_OK;
    }
    if (!joust_schema_keys(schema, &whole, &problem))
        return whole ? refuse(c, JOUST_UNSUPPORTED, "%.80s: not known beside %s: leave it out",
                              problem, whole)
                     : refuse(c, JOUST_UNSUPPORTED,
                              "%.80s: this keyword is not known: leave it out", problem);
    if (!joust_schema_types(schema, &types, &problem))
        return refuse(c, JOUST_INVALID,
                      "type: '%.80s' is none; expected object, array, string, "
                      "number, integer, boolean, null or a list of them",
                      problem);
    if (whole && strcmp(whole, "$ref") == 0)
        return add_ref(c, schema, to);
    if (whole && (strcmp(whole, "enum") == 0 || strcmp(whole, "const") == 0))
        return add_listed(c, schema, types, to);
    return whole ? add_any(c, schema, whole, to) : add_types(c, schema, types, to);
}

/* Appends the name of a schema's rule, which it makes. */
static joust_status add_schema(compiler *c, const json_t *schema, joust_buf *to)
{
    joust_buf body = {0};
    const uint32_t id = c->n_schemas++;
    if (++c->depth > MAX_DEPTH)
        return refuse(c, JOUST_TOO_LARGE, "schemas are nested too deeply: name some under $defs");
    joust_status st = add_body(c, schema, &body);
    c->depth--;
    if (st == JOUST_OK)
        st = joust_buf_status(&body, c->err);
    if (st == JOUST_OK && c->rules.n + body.n > MAX_GBNF_BYTES)
        st = refuse(c, JOUST_TOO_LARGE, "the schema is too large");
    if (st == JOUST_OK) {
        joust_buf_format(&c->rules, "s%u ::= %s\n", id, (const char *)body.data);
        joust_buf_format(to, "s%u", id);
    }
    joust_buf_fini(&body);
    return st;
}

/* The document's own rule is r0, as of a $ref to it. */
static joust_status compile(compiler *c)
{
    joust_buf name = {0};
    joust_status st = JOUST_OK;
    joust_buf_text(&c->rules, shared_rules);
    joust_buf_text(&c->rules, "root ::= r0\n");
    c->refs[c->n_refs++] = (reference){"#", c->root};
    for (uint32_t i = 0; st == JOUST_OK && i < c->n_refs; i++) {
        joust_buf_clear(&name);
        snprintf(c->place, sizeof(c->place), "%.200s", c->refs[i].pointer);
        st = add_schema(c, c->refs[i].target, &name);
        if (st == JOUST_OK)
            st = joust_buf_status(&name, c->err);
        if (st == JOUST_OK)
            joust_buf_format(&c->rules, "r%u ::= %s\n", i, (const char *)name.data);
    }
    joust_buf_fini(&name);
    return st == JOUST_OK ? joust_buf_status(&c->rules, c->err) : st;
}

joust_status joust_schema_gbnf(const char *schema, char **ret, joust_error *err)
{
    json_error_t problem;
    compiler *c = joust_calloc(1, sizeof(*c));
    if (!c)
        return joust_fail(err, JOUST_NOMEM, "schema: out of memory");
    c->err = err;
    json_t *root = json_loads(schema, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &problem);
    joust_status st = root ? JOUST_OK
                           : joust_fail(err, JOUST_INVALID, "%d:%d: not JSON: %s", problem.line,
                                        problem.column, problem.text);
    c->root = root;
    if (st == JOUST_OK)
        st = compile(c);
    if (st == JOUST_OK && !(*ret = joust_buf_take_text(&c->rules)))
        st = joust_fail(err, JOUST_NOMEM, "schema: out of memory");
    joust_buf_fini(&c->rules);
    json_decref(root);
    joust_free(c);
    return st;
}

/* The file's name before the place in it. */
static joust_status name_file(joust_status st, const char *name, const joust_error *why,
                              joust_error *err)
{
    const bool placed = why->text[0] >= '0' && why->text[0] <= '9';
    return st == JOUST_OK ? st : joust_fail(err, st, "%s:%s%s", name, placed ? "" : " ", why->text);
}

joust_status joust_grammar_check(const char *text, const char *name, joust_error *err)
{
    joust_grammar *g = NULL;
    joust_error why = {0};
    joust_status st = joust_grammar_compile(text, NULL, &g, &why);
    joust_grammar_free(&g);
    return name_file(st, name, &why, err);
}

joust_status joust_schema_check(const char *text, const char *name, joust_error *err)
{
    char *gbnf = NULL;
    joust_error why = {0};
    joust_grammar *g = NULL;
    joust_status st = joust_schema_gbnf(text, &gbnf, &why);
    if (st != JOUST_OK)
        return name_file(st, name, &why, err);
    st = joust_grammar_compile(gbnf, NULL, &g, &why);
    joust_grammar_free(&g);
    joust_free(gbnf);
    if (st == JOUST_UNSUPPORTED)
        st = joust_fail(&why, st, "#: a $ref leads back to its own schema with nothing between");
    else if (st == JOUST_INVALID)
        st = joust_fail(&why, st,
                        "#: every value holds another of its own schema, without end: give a $ref "
                        "another way (anyOf with null, an optional property)");
    else if (st == JOUST_TOO_LARGE)
        st = joust_fail(&why, st, "#: the schema is too large: count less");
    return name_file(st, name, &why, err);
}
