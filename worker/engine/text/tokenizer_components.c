/* tokenizer.json's normalizers, pre-tokenizers and decoders, translated into steps. */
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "tokenizer_internal.h"
#include "unicode_internal.h"

/* GPT-2's words, as its ByteLevel pre-tokenizer has them. */
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
/* ASCII punctuation and Unicode's P as the ecosystem's tokenizers have it: by the tables of an early version, which lack
 * what the first brackets list and had two characters more. */
#define PUNCTUATION_PATTERN                                                                        \
    "(?!["                                                                                         \
    "\\x{61d}\\x{9fd}\\x{a76}\\x{c77}\\x{c84}\\x{1b7d}-\\x{1b7e}\\x{2e43}-\\x{2e4f}"               \
    "\\x{2e52}-\\x{2e5d}\\x{10ead}\\x{10f55}-\\x{10f59}\\x{10f86}-\\x{10f89}"                      \
    "\\x{1144b}-\\x{1144f}\\x{1145a}-\\x{1145b}\\x{1145d}\\x{11660}-\\x{1166c}"                    \
    "\\x{116b9}\\x{1183b}\\x{11944}-\\x{11946}\\x{119e2}\\x{11a3f}-\\x{11a46}"                     \
    "\\x{11a9a}-\\x{11a9c}\\x{11a9e}-\\x{11aa2}\\x{11c41}-\\x{11c45}"                              \
    "\\x{11c70}-\\x{11c71}\\x{11ef7}-\\x{11ef8}\\x{11fff}\\x{12ff1}-\\x{12ff2}"                    \
    "\\x{16e97}-\\x{16e9a}\\x{16fe2}\\x{1e95e}-\\x{1e95f}"                                         \
    "])[\\p{P}$+<=>^`|~\\x{166d}\\x{111c9}]"

#define MAX_STEP_TEXT 256u

typedef struct component {
    joust_steps *to;
    joust_steps_role role;
    const json_t *json;
    const char *place; /* "pre_tokenizer.pretokenizers[1]" */
    const char *type;
} component;

static joust_status unsupported(const component *c, const char *what, joust_error *err)
{
    return joust_fail(err, JOUST_UNSUPPORTED, "%s: %s %s is not supported", c->place, c->type,
                      what);
}

static joust_status add_step(const component *c, joust_step_kind kind, joust_step **ret,
                             joust_error *err)
{
    if (c->to->n == JOUST_MAX_STEPS)
        return joust_fail(err, JOUST_TOO_LARGE, "%s: more than %u steps", c->place,
                          JOUST_MAX_STEPS);
    *ret = &c->to->items[c->to->n++];
    (*ret)->kind = kind;
    return JOUST_OK;
}

static joust_status set_text(const component *c, joust_step *step, const char *text,
                             joust_error *err)
{
    size_t n = strlen(text);
    if (n > MAX_STEP_TEXT)
        return joust_fail(err, JOUST_TOO_LARGE, "%s: text longer than %u bytes", c->place,
                          MAX_STEP_TEXT);
    step->text = joust_strdup(text);
    step->n_text = n;
    return step->text ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "%s: out of memory", c->place);
}

static joust_status set_regex(const component *c, joust_step *step, const char *pattern,
                              bool literal, joust_error *err)
{
    joust_status st = joust_regex_compile(pattern, strlen(pattern), literal, &step->regex, err);
    return st == JOUST_OK ? st : joust_blame(err, st, "%s", c->place);
}

/* A text member that must be there. */
static joust_status need_text(const component *c, const char *key, const char **ret,
                              joust_error *err)
{
    joust_status st = joust_json_text(c->json, c->place, key, ret, err);
    if (st == JOUST_OK && !*ret)
        st = joust_fail(err, JOUST_INVALID, "%s.%s: missing", c->place, key);
    return st;
}

/* "pattern": {"String": "…"} or {"Regex": "…"} */
static joust_status read_pattern(const component *c, joust_step *step, joust_error *err)
{
    const json_t *pattern = json_object_get(c->json, "pattern");
    const char *literal = json_string_value(json_object_get(pattern, "String"));
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    if (!literal && !regex)
        return joust_fail(err, JOUST_INVALID,
                          "%s.pattern: expected {\"String\": …} or {\"Regex\": …}", c->place);
    return set_regex(c, step, literal ? literal : regex, literal != NULL, err);
}

static joust_status read_behavior(const component *c, const char *by_default,
                                  joust_split_behavior *ret, joust_error *err)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    const char *name;
    joust_status st = joust_json_text(c->json, c->place, "behavior", &name, err);
    if (st != JOUST_OK)
        return st;
    if (!name)
        name = by_default;
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        if (strcmp(names[i], name) == 0) {
            *ret = (joust_split_behavior)i;
            return JOUST_OK;
        }
    }
    return joust_fail(err, JOUST_UNSUPPORTED, "%s.behavior: '%.40s' is not supported", c->place,
                      name);
}

static joust_status add_split(const component *c, const char *pattern,
                              joust_split_behavior behavior, bool invert, joust_error *err)
{
    joust_step *step = NULL;
    joust_status st = add_step(c, JOUST_STEP_SPLIT, &step, err);
    if (st != JOUST_OK)
        return st;
    step->behavior = behavior;
    step->invert = invert;
    return pattern ? set_regex(c, step, pattern, false, err) : read_pattern(c, step, err);
}

static joust_status add_byte_level(const component *c, joust_error *err)
{
    bool space = true, words = true;
    joust_step *step = NULL;
    joust_status st = joust_json_bool(c->json, c->place, "add_prefix_space", true, &space, err);
    if (st == JOUST_OK)
        st = joust_json_bool(c->json, c->place, "use_regex", true, &words, err);
    if (st != JOUST_OK)
        return st;
    if (c->role == JOUST_STEPS_NORMALIZER)
        space = words = false;
    if (space)
        st = add_step(c, JOUST_STEP_SPACE_FIRST, &step, err);
    if (st == JOUST_OK && space)
        st = set_text(c, step, " ", err);
    if (st == JOUST_OK && words)
        st = add_split(c, GPT2_PATTERN, JOUST_SPLIT_ISOLATED, false, err);
    return st == JOUST_OK ? add_step(c, JOUST_STEP_BYTES, &step, err) : st;
}

/* replacement, and prepend_scheme or, before it, add_prefix_space. */
static joust_status add_metaspace(const component *c, joust_step_kind kind, joust_error *err)
{
    const char *replacement, *scheme;
    bool prefix = true, cut = true;
    joust_step *step = NULL;
    joust_status st = joust_json_text(c->json, c->place, "replacement", &replacement, err);
    if (st == JOUST_OK)
        st = joust_json_text(c->json, c->place, "prepend_scheme", &scheme, err);
    if (st == JOUST_OK)
        st = joust_json_bool(c->json, c->place, "add_prefix_space", true, &prefix, err);
    if (st == JOUST_OK)
        st = joust_json_bool(c->json, c->place, "split", true, &cut, err);
    if (st == JOUST_OK)
        st = add_step(c, kind, &step, err);
    if (st != JOUST_OK)
        return st;
    if (!replacement)
        replacement = "\xe2\x96\x81";
    if (!scheme)
        scheme = prefix ? "always" : "never";
    uint32_t code;
    if (!*replacement || joust_utf8_next((const uint8_t *)replacement, strlen(replacement),
                                         &code) != strlen(replacement))
        return joust_fail(err, JOUST_INVALID, "%s.replacement: expected one character", c->place);
    if (strcmp(scheme, "always") == 0)
        step->scheme = JOUST_PREFIX_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        step->scheme = JOUST_PREFIX_FIRST;
    else if (strcmp(scheme, "never") != 0)
        return unsupported(c, "with this prepend_scheme", err);
    step->behavior = JOUST_SPLIT_MERGED_WITH_NEXT;
    st = set_text(c, step, replacement, err);
    if (st == JOUST_OK && cut && kind == JOUST_STEP_METASPACE)
        st = set_regex(c, step, replacement, true, err);
    return st;
}

static joust_status add_replace(const component *c, joust_error *err)
{
    const char *content = NULL;
    joust_step *step = NULL;
    joust_status st = need_text(c, "content", &content, err);
    if (st == JOUST_OK)
        st = add_step(c, JOUST_STEP_REPLACE, &step, err);
    if (st == JOUST_OK)
        st = set_text(c, step, content, err);
    return st == JOUST_OK ? read_pattern(c, step, err) : st;
}

static joust_status read_normalizer(const component *c, joust_error *err)
{
    joust_step *step = NULL;
    joust_status st;
    if (strcmp(c->type, "Replace") == 0)
        return add_replace(c, err);
    if (strcmp(c->type, "ByteLevel") == 0)
        return add_byte_level(c, err);
    if (strcmp(c->type, "Prepend") == 0) {
        const char *text = NULL;
        st = need_text(c, "prepend", &text, err);
        if (st == JOUST_OK)
            st = add_step(c, JOUST_STEP_PREPEND, &step, err);
        return st == JOUST_OK ? set_text(c, step, text, err) : st;
    }
    if (strcmp(c->type, "Strip") == 0) {
        st = add_step(c, JOUST_STEP_TRIM, &step, err);
        if (st == JOUST_OK)
            st = joust_json_bool(c->json, c->place, "strip_left", true, &step->left, err);
        if (st == JOUST_OK)
            st = joust_json_bool(c->json, c->place, "strip_right", true, &step->right, err);
        return st;
    }
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"}; /* by joust_normal_form */
    for (size_t i = 0; i < sizeof(forms) / sizeof(*forms); i++) {
        if (strcmp(c->type, forms[i]) != 0)
            continue;
        st = add_step(c, JOUST_STEP_COMPOSE, &step, err);
        if (st == JOUST_OK)
            step->form = (joust_normal_form)i;
        return st;
    }
    if (strcmp(c->type, "Lowercase") == 0)
        return add_step(c, JOUST_STEP_LOWER, &step, err);
    if (strcmp(c->type, "StripAccents") == 0)
        return add_step(c, JOUST_STEP_UNMARK, &step, err);
    return unsupported(c, "as a normalizer", err);
}

static joust_status read_pre_tokenizer(const component *c, joust_error *err)
{
    joust_split_behavior behavior = JOUST_SPLIT_ISOLATED;
    bool flag = false;
    joust_status st;
    if (strcmp(c->type, "ByteLevel") == 0)
        return add_byte_level(c, err);
    if (strcmp(c->type, "Metaspace") == 0)
        return add_metaspace(c, JOUST_STEP_METASPACE, err);
    if (strcmp(c->type, "Whitespace") == 0)
        return add_split(c, "[" JOUST_WORD_CLASS "]+|[^" JOUST_WORD_CLASS "\\s]+",
                         JOUST_SPLIT_REMOVED, true, err);
    if (strcmp(c->type, "WhitespaceSplit") == 0)
        return add_split(c, "\\s+", JOUST_SPLIT_REMOVED, false, err);
    if (strcmp(c->type, "Digits") == 0) {
        st = joust_json_bool(c->json, c->place, "individual_digits", false, &flag, err);
        if (st != JOUST_OK)
            return st;
        return add_split(c, flag ? "\\p{N}" : "\\p{N}+", JOUST_SPLIT_ISOLATED, false, err);
    }
    if (strcmp(c->type, "Punctuation") == 0) {
        st = read_behavior(c, "Isolated", &behavior, err);
        return st == JOUST_OK ? add_split(c, PUNCTUATION_PATTERN, behavior, false, err) : st;
    }
    if (strcmp(c->type, "Split") == 0) {
        st = read_behavior(c, "Isolated", &behavior, err);
        if (st == JOUST_OK)
            st = joust_json_bool(c->json, c->place, "invert", false, &flag, err);
        return st == JOUST_OK ? add_split(c, NULL, behavior, flag, err) : st;
    }
    return unsupported(c, "as a pre-tokenizer", err);
}

static joust_status read_decoder(const component *c, joust_error *err)
{
    joust_step *step = NULL;
    if (strcmp(c->type, "ByteLevel") == 0)
        return add_step(c, JOUST_STEP_UNBYTES, &step, err);
    if (strcmp(c->type, "ByteFallback") == 0)
        return add_step(c, JOUST_STEP_BYTE_FALLBACK, &step, err);
    if (strcmp(c->type, "Fuse") == 0)
        return add_step(c, JOUST_STEP_FUSE, &step, err);
    if (strcmp(c->type, "Replace") == 0)
        return add_replace(c, err);
    if (strcmp(c->type, "Metaspace") == 0)
        return add_metaspace(c, JOUST_STEP_UNMETASPACE, err);
    if (strcmp(c->type, "Strip") == 0) {
        const char *content = NULL;
        joust_status st = need_text(c, "content", &content, err);
        if (st == JOUST_OK && !*content)
            st = joust_fail(err, JOUST_INVALID, "%s.content: empty", c->place);
        if (st == JOUST_OK)
            st = add_step(c, JOUST_STEP_STRIP, &step, err);
        if (st == JOUST_OK)
            st = set_text(c, step, content, err);
        if (st == JOUST_OK)
            st = joust_json_u32(c->json, c->place, "start", 0, &step->n_left, err);
        if (st == JOUST_OK)
            st = joust_json_u32(c->json, c->place, "stop", 0, &step->n_right, err);
        if (st == JOUST_OK && c->to->n > 1) {
            joust_step_kind before = c->to->items[c->to->n - 2].kind;
            step->whole = before == JOUST_STEP_FUSE || before == JOUST_STEP_UNBYTES;
        }
        return st;
    }
    return unsupported(c, "as a decoder", err);
}

static joust_status read_component(joust_steps *to, joust_steps_role role, const json_t *json,
                                   const char *place, joust_error *err);

static joust_status read_sequence(const component *c, joust_error *err)
{
    static const char *const keys[] = {"normalizers", "pretokenizers", "decoders"};
    const json_t *list = json_object_get(c->json, keys[c->role]);
    joust_status st = JOUST_OK;
    if (!json_is_array(list))
        return joust_fail(err, JOUST_INVALID, "%s.%s: expected a list, found %s", c->place,
                          keys[c->role], joust_json_kind(list));
    for (size_t i = 0; st == JOUST_OK && i < json_array_size(list); i++) {
        char place[256];
        snprintf(place, sizeof(place), "%.200s.%s[%zu]", c->place, keys[c->role], i);
        st = read_component(c->to, c->role, json_array_get(list, i), place, err);
    }
    return st;
}

static joust_status read_component(joust_steps *to, joust_steps_role role, const json_t *json,
                                   const char *place, joust_error *err)
{
    component c = {.to = to, .role = role, .json = json, .place = place};
    if (!json_is_object(json))
        return joust_fail(err, JOUST_INVALID, "%s: expected an object, found %s", place,
                          joust_json_kind(json));
    joust_status st = need_text(&c, "type", &c.type, err);
    if (st != JOUST_OK)
        return st;
    if (strcmp(c.type, "Sequence") == 0)
        return read_sequence(&c, err);
    if (role == JOUST_STEPS_NORMALIZER)
        return read_normalizer(&c, err);
    return role == JOUST_STEPS_PRE_TOKENIZER ? read_pre_tokenizer(&c, err) : read_decoder(&c, err);
}

joust_status joust_steps_read(joust_steps *to, joust_steps_role role, const json_t *json,
                              joust_error *err)
{
    static const char *const names[] = {"normalizer", "pre_tokenizer", "decoder"};
    if (!json || json_is_null(json))
        return JOUST_OK;
    return read_component(to, role, json, names[role], err);
}
