/* The table of keys as text for people, and as a JSON Schema for editors. */
#include <math.h>
#include <string.h>

#include "ops/job_fill.h"
#include "ops/job_keys.h"
#include "proto/base/alloc.h"
#include "proto/base/text.h"

typedef struct writer {
    joust_buf *to;
    int indent;
} writer;

static void line(writer *w, const char *text)
{
    joust_buf_format(w->to, "\n%*s%s", 2 * w->indent, "", text);
}

static void string(writer *w, const char *text)
{
    joust_json_string(w->to, text, strlen(text));
}

/* ---- defaults, read from a draft at the key's offset ---- */

static const char *choice_name(const joust_choice *choices, int value)
{
    for (const joust_choice *c = choices; c->name; c++)
        if (c->value == value)
            return c->name;
    return NULL;
}

static void add_choice_list(const joust_choice *choices, uint32_t bits, joust_buf *to)
{
    const char *separator = "";
    joust_buf_text(to, "[");
    for (const joust_choice *c = choices; c->name; c++)
        if (bits & (uint32_t)c->value) {
            joust_buf_format(to, "%s\"%s\"", separator, c->name);
            separator = ", ";
        }
    joust_buf_text(to, "]");
}

/* Appends the key's default in base as JSON; false (and nothing) if it has none that JSON can say. */
static bool add_default(const joust_key *key, const void *base, joust_buf *to)
{
    const void *at = (const char *)base + key->offset;
    if (key->required || key->present)
        return false;
    switch (key->kind) {
    case JOUST_KEY_U32:
        joust_buf_format(to, "%u", *(const uint32_t *)at);
        return true;
    case JOUST_KEY_U64:
        joust_buf_format(to, "%llu", (unsigned long long)*(const uint64_t *)at);
        return true;
    case JOUST_KEY_DOUBLE:
        if (!isfinite(*(const double *)at))
            return false;
        joust_json_double(to, *(const double *)at);
        return true;
    case JOUST_KEY_FLOAT:
        joust_json_float(to, *(const float *)at);
        return true;
    case JOUST_KEY_BOOL:
        joust_buf_text(to, *(const bool *)at ? "true" : "false");
        return true;
    case JOUST_KEY_TEXT: {
        const char *text = *(char *const *)at;
        if (text)
            joust_json_string(to, text, strlen(text));
        return text;
    }
    case JOUST_KEY_CHOICE: {
        const char *name = choice_name(key->choices, *(const int *)at);
        if (name)
            joust_json_string(to, name, strlen(name));
        return name;
    }
    case JOUST_KEY_CHOICES:
        add_choice_list(key->choices, *(const uint32_t *)at, to);
        return true;
    default:
        return false;
    }
}

/* ---- JSON Schema ---- */

static void add_section(writer *w, const joust_section *section, const void *base);

static void add_enum(writer *w, const joust_choice *choices)
{
    const char *separator = "";
    joust_buf_text(w->to, "\"enum\": [");
    for (const joust_choice *c = choices; c->name; c++)
        if (!c->synonym) {
            joust_buf_format(w->to, "%s\"%s\"", separator, c->name);
            separator = ", ";
        }
    joust_buf_text(w->to, "]");
}

static void add_bound(writer *w, const char *name, double v)
{
    joust_buf_format(w->to, ", \"%s\": ", name);
    joust_json_double(w->to, v);
}

static void add_number(writer *w, const joust_key *key)
{
    bool whole = key->kind == JOUST_KEY_U32 || key->kind == JOUST_KEY_U64;
    joust_buf_format(w->to, "\"type\": \"%s\"", whole ? "integer" : "number");
    bool any = key->low == 0 && key->high == 0;
    if (whole && any)
        joust_buf_text(w->to, ", \"minimum\": 0");
    if (any)
        return;
    add_bound(w, key->low_open ? "exclusiveMinimum" : "minimum", key->low);
    if (isfinite(key->high))
        add_bound(w, "maximum", key->high);
}

static void add_stages(writer *w, const joust_key *key)
{
    uint32_t n;
    const char *const *names = joust_stage_names(&n);
    joust_buf_format(w->to, "\"type\": \"array\", \"maxItems\": %u, \"items\": {\"anyOf\": [",
                     key->max_items);
    joust_buf_text(w->to, "{\"enum\": [");
    for (uint32_t i = 0; i < n; i++)
        joust_buf_format(w->to, "%s\"%s\"", i ? ", " : "", names[i]);
    joust_buf_text(w->to, "]},");
    line(w, "{\"type\": \"object\", \"additionalProperties\": false, \"required\": [\"train\"], "
            "\"properties\": {\"train\": {");
    add_section(w, key->section, NULL); /* its defaults are the settings of train: */
    joust_buf_text(w->to, "}}}]}");
}

/* What describes a value of key, without its braces. */
static void add_type(writer *w, const joust_key *key, const void *base)
{
    const char *inner = base ? (const char *)base + key->offset : NULL;
    switch (key->kind) {
    case JOUST_KEY_U32:
    case JOUST_KEY_U64:
    case JOUST_KEY_DOUBLE:
    case JOUST_KEY_FLOAT:
        add_number(w, key);
        break;
    case JOUST_KEY_BOOL:
        joust_buf_text(w->to, "\"type\": \"boolean\"");
        break;
    case JOUST_KEY_TEXT:
    case JOUST_KEY_FILE:
    case JOUST_KEY_CONTENT:
    case JOUST_KEY_FOLDER:
        if (key->choices)
            add_enum(w, key->choices);
        else
            joust_buf_text(w->to, "\"type\": \"string\"");
        break;
    case JOUST_KEY_CHOICE:
        add_enum(w, key->choices);
        break;
    case JOUST_KEY_CHOICES:
        joust_buf_text(w->to, "\"type\": \"array\", \"items\": {");
        add_enum(w, key->choices);
        joust_buf_text(w->to, "}");
        break;
    case JOUST_KEY_TEXTS:
        joust_buf_format(w->to,
                         "\"type\": \"array\", \"maxItems\": %u, \"items\": {\"type\": "
                         "\"string\"}",
                         key->max_items);
        break;
    case JOUST_KEY_SECTION:
        add_section(w, key->section, inner);
        break;
    case JOUST_KEY_LIST:
        joust_buf_format(w->to, "\"type\": \"array\", \"maxItems\": %u, \"items\": {",
                         key->max_items);
        add_section(w, key->section, NULL);
        joust_buf_text(w->to, "}");
        break;
    case JOUST_KEY_MAP:
        joust_buf_format(w->to,
                         "\"type\": \"object\", \"maxProperties\": %u, "
                         "\"additionalProperties\": {",
                         key->max_items);
        add_section(w, key->section, NULL);
        joust_buf_text(w->to, "}");
        break;
    case JOUST_KEY_STAGES:
        add_stages(w, key);
        break;
    }
}

static void add_required(writer *w, const joust_section *section)
{
    const char *separator = "\"required\": [";
    for (uint32_t i = 0; i < section->n_keys; i++)
        if (section->keys[i].required && !section->keys[i].unless) {
            joust_buf_format(w->to, "%s\"%s\"", separator, section->keys[i].name);
            separator = ", ";
        }
    if (*separator == ',')
        joust_buf_text(w->to, "], ");
}

/* base: an element with its defaults, or NULL: defaults aren't told. */
static void add_section(writer *w, const joust_section *section, const void *base)
{
    joust_buf_text(w->to, "\"type\": \"object\", \"additionalProperties\": false, ");
    add_required(w, section);
    joust_buf_text(w->to, "\"properties\": {");
    w->indent++;
    for (uint32_t i = 0; i < section->n_keys; i++) {
        const joust_key *key = &section->keys[i];
        line(w, "");
        string(w, key->name);
        joust_buf_text(w->to, ": {\"description\": ");
        string(w, key->help);
        joust_buf_text(w->to, ", ");
        add_type(w, key, base);
        joust_buf value = {0};
        if (base && add_default(key, base, &value) && joust_buf_ok(&value))
            joust_buf_format(w->to, ", \"default\": %s", (char *)value.data);
        joust_buf_fini(&value);
        joust_buf_text(w->to, i + 1 < section->n_keys ? "}," : "}");
    }
    w->indent--;
    line(w, "}");
}

joust_status joust_job_schema_print(joust_buf *to, joust_error *err)
{
    joust_job_draft defaults;
    joust_status st = joust_job_draft_init(&defaults, err);
    if (st)
        return st;
    writer w = {.to = to};
    joust_buf_text(to, "{\"$schema\": \"https://json-schema.org/draft/2020-12/schema\", "
                       "\"title\": \"Joust job file\", ");
    add_section(&w, joust_job_section(), &defaults);
    joust_buf_text(to, "}\n");
    joust_job_draft_fini(&defaults);
    return joust_buf_status(to, err);
}

/* ---- reference for people ---- */

static void print_key(const joust_key *key, const void *base, int indent, joust_buf *to)
{
    joust_buf expected = {0}, value = {0};
    joust_key_expectation(key, &expected);
    bool has_default = base && add_default(key, base, &value);
    if (joust_buf_ok(&expected) && joust_buf_ok(&value))
        joust_buf_format(to, "%*s%s: %s%s%s%s%s\n%*s%s\n", indent, "", key->name,
                         (char *)expected.data, key->required ? key->unless ? "; required, or " : "; required" : "",
                         key->required && key->unless ? key->unless : "",
                         has_default ? "; default " : "", has_default ? (char *)value.data : "",
                         indent + 4, "", key->help);
    joust_buf_fini(&expected);
    joust_buf_fini(&value);
}

/* A key, and those of the section that it holds. */
static void print_keys(const joust_key *key, const void *base, int indent, joust_buf *to)
{
    print_key(key, base, indent, to);
    if (!key->section || key->kind == JOUST_KEY_STAGES)
        return;
    const char *within =
        base && key->kind == JOUST_KEY_SECTION ? (const char *)base + key->offset : NULL;
    for (uint32_t i = 0; i < key->section->n_keys; i++) {
        const joust_key *child = &key->section->keys[i];
        char *element = NULL; /* of a list or map: for the defaults of a section in it */
        if (!within && key->section->set_defaults && child->kind == JOUST_KEY_SECTION)
            element = joust_calloc(1, key->section->size);
        if (element)
            key->section->set_defaults(element);
        print_keys(child, element ? element : within, indent + 2, to);
        joust_free(element);
    }
}

joust_status joust_job_keys_print(joust_buf *to, joust_error *err)
{
    joust_job_draft defaults;
    joust_status st = joust_job_draft_init(&defaults, err);
    if (st)
        return st;
    const joust_section *whole = joust_job_section();
    for (uint32_t i = 0; i < whole->n_keys; i++)
        print_keys(&whole->keys[i], &defaults, 0, to);
    uint32_t n;
    const joust_key_alias *aliases = joust_aliases(&n);
    joust_buf_text(to, "\nNames of the ecosystem, accepted and reported by the canonical name:\n");
    for (uint32_t i = 0; i < n; i++)
        if (aliases[i].key)
            joust_buf_format(to, "  %s: %s.%s\n", aliases[i].name, aliases[i].section,
                             aliases[i].key);
    joust_job_draft_fini(&defaults);
    return joust_buf_status(to, err);
}
