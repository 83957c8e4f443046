/* Grammars against llama.cpp's own decisions; what is refused; masks that offer no dead end; JSON schemas, whose texts are read
 * by jansson and checked. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tests/check.h"

#include <jansson.h>
#include <math.h>
#include <pcre2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files_fixture.h"
#include "proto/base/alloc.h"
#include "proto/base/bytes.h"
#include "tests/oom.h"
#include "worker/engine/masks/grammar.h"
#include "worker/engine/masks/mask.h"
#include "worker/engine/masks/pushdown_internal.h"
#include "worker/engine/masks/schema_internal.h"

static const char *verdict(joust_pushdown *p, const char *text)
{
    joust_error err = {0};
    uint32_t set;
    check_ok(joust_pushdown_start(p, &set, &err));
    for (; *text && set != JOUST_NO_SET; text++)
        check_ok(joust_pushdown_step(p, set, (uint8_t)*text, &set, &err));
    return set == JOUST_NO_SET ? "dead" : joust_pushdown_accepts(p, set) ? "yes" : "prefix";
}

static void check_texts(const char *grammar, const json_t *texts)
{
    joust_error err = {0};
    joust_grammar *g = NULL;
    joust_pushdown *p = NULL;
    json_t *entry;
    size_t i;
    check_ok(joust_grammar_compile(grammar, NULL, &g, &err));
    check_ok(joust_pushdown_create(g, &p, &err));
    json_array_foreach(texts, i, entry)
    {
        const char *text = json_string_value(json_array_get(entry, 0)),
                   *expected = json_string_value(json_array_get(entry, 1)), *got = verdict(p, text);
        if (strcmp(got, expected) != 0)
            fail_msg("%s: '%s': %s, expected %s", grammar, text, got, expected);
    }
    joust_pushdown_free(&p);
    joust_grammar_free(&g);
}

static void test_reference(void **state)
{
    (void)state;
    json_error_t why;
    json_t *root =
               json_load_file(JOUST_SOURCE_DIR "/tests/engine/files/grammar_golden.json", 0, &why),
           *entry;
    size_t i, n_texts = 0, n_refused = 0;
    assert_non_null(root);
    json_array_foreach(root, i, entry)
    {
        const char *grammar = json_string_value(json_object_get(entry, "grammar"));
        const json_t *texts = json_object_get(entry, "texts");
        joust_error err = {0};
        if (json_is_array(texts))
            check_texts(grammar, texts);
        else if (joust_grammar_check(grammar, "f", &err) == JOUST_OK)
            fail_msg("%s: not refused", grammar);
        n_texts += json_array_size(texts);
        n_refused += json_is_null(texts);
    }
    assert_true(n_texts > 1000 && n_refused > 10);
    json_decref(root);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *grammar, *says;
        joust_status status;
    } cases[] = {
        {"", "f:1:1: no rule is called root", JOUST_INVALID},
        {"root ::= \"a\"\nx ::= y", "2:7: rule 'y' is not defined", JOUST_INVALID},
        {"root ::= e\ne ::= e \"+\" t | t\nt ::= [0-9]", "2:1: rule 'e' may begin with itself",
         JOUST_UNSUPPORTED},
        {"root ::= a\na ::= \" \"? b\nb ::= a \"x\"", "may begin with itself", JOUST_UNSUPPORTED},
        {"root ::= \"a\" root", "1:1: no text of root ever ends", JOUST_INVALID},
        {"root ::= \"a\n", "1:12: \" is not closed", JOUST_INVALID},
        {"root ::= [a", "[ is not closed", JOUST_INVALID},
        {"root ::= []", "a class without any character", JOUST_INVALID},
        {"root ::= [\\x00]", "a class without any character", JOUST_INVALID},
        {"root ::= [b-a]", "from a larger", JOUST_INVALID},
        {"root ::= \"\\x00\"", "U+0000", JOUST_UNSUPPORTED},
        {"root ::= \"\\ud800\"", "no character", JOUST_INVALID},
        {"root ::= \"\\q\"", "unknown escape", JOUST_UNSUPPORTED},
        {"root ::= (\"a\"", "1:10: ( is not closed", JOUST_INVALID},
        {"root ::= \"a\")", "expected a text", JOUST_INVALID},
        {"root ::= \"a\"\n | \"b\"", "2:2: an alternative on a new line", JOUST_INVALID},
        {"root ::= \"a\"{3,2}", "expected {m}", JOUST_INVALID},
        {"root ::= \"a\"{,2}", "expected {m}", JOUST_INVALID},
        {"root ::= \"a\"{99999}", "at most 65536", JOUST_TOO_LARGE},
        {"root ::= x{60000} x{60000} x{60000}\nx ::= \"a\"", "too large", JOUST_TOO_LARGE},
        {"root ::= * \"a\"", "nothing stands before", JOUST_INVALID},
        {"root ::= <think>", "tokens in a grammar", JOUST_UNSUPPORTED},
        {"root ::= a_b", "letters, digits and -", JOUST_INVALID},
        {"root ::= 'a'", "double quotes", JOUST_INVALID},
        {"root = \"a\"", "expected ::=", JOUST_INVALID},
        {"root ::= \"a\"\nroot ::= \"b\"", "2:1: a rule of this name", JOUST_INVALID},
        {"root ::= \"\xff\"", "1:11: not UTF-8", JOUST_INVALID}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        joust_error err = {0};
        joust_status st = joust_grammar_check(cases[i].grammar, "f", &err);
        if (st != cases[i].status || !strstr(err.text, cases[i].says))
            fail_msg("%s: %s: %s", cases[i].grammar, joust_status_name(st), err.text);
    }
    char deep[1024] = "root ::= ";
    joust_error err = {0};
    memset(deep + 9, '(', 200);
    check_status(JOUST_TOO_LARGE, joust_grammar_check(deep, "f", &err));
}

/* Loops of nothing end; counts nest; right recursion stays flat, and ambiguity adds. */
static void test_bounds(void **state)
{
    (void)state;
    static const char *const grammars[] = {
        "root ::= (\"a\"? | \"\")* \"b\"", "root ::= ((\"a\"{0,99}){0,99}){0,99} \"b\"",
        "root ::= \"a\" root | \"b\"",
        "root ::= \"a\" root root | \"a\" root \"c\"? | \"a\"? \"b\"",
        "root ::= (\"a\" | \"aa\" | \"aaa\")* \"b\""};
    for (size_t i = 0; i < sizeof(grammars) / sizeof(*grammars); i++) {
        joust_error err = {0};
        joust_grammar *g = NULL;
        joust_pushdown *p = NULL;
        uint32_t set;
        check_ok(joust_grammar_compile(grammars[i], NULL, &g, &err));
        check_ok(joust_pushdown_create(g, &p, &err));
        check_ok(joust_pushdown_start(p, &set, &err));
        for (int k = 0; k < 400; k++) {
            check_ok(joust_pushdown_step(p, set, 'a', &set, &err));
            assert_true(set != JOUST_NO_SET);
        }
        const uint64_t n_bytes = joust_pushdown_bytes(p);
        if (i != 1 && i != 3 && n_bytes > 4096)
            fail_msg("%s: %llu bytes", grammars[i], (unsigned long long)n_bytes);
        check_ok(joust_pushdown_step(p, set, 'b', &set, &err));
        assert_true(set != JOUST_NO_SET);
        joust_pushdown_free(&p);
        joust_grammar_free(&g);
    }
}

/* ---- masks ----------------------------------------------------------------------------------- */

enum { N_VOCAB = 320, FIRST_PIECE = 258, END = 257 };

static const char *const pieces[] = {"{\"",
                                     "\":",
                                     "\",",
                                     "\"}",
                                     "}}",
                                     "[[",
                                     "],",
                                     "true",
                                     "null",
                                     "1,",
                                     ",\"",
                                     "0.5",
                                     "é\"",
                                     "aé",
                                     "ab",
                                     "abab",
                                     "+(",
                                     "))",
                                     "12",
                                     "中",
                                     "中a",
                                     "\\\"",
                                     "]}",
                                     "false",
                                     " a",
                                     ": ",
                                     "aaaaaaa",
                                     "aaaaaaaaaa",
                                     "aaaaaaaaaaaaaaaaaaaa",
                                     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
                                     "aaaa\",\"",
                                     "aaaaaaaaa\"]",
                                     "aaaaaaaaaaaaaaaaaa\",\"a",
                                     "aaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"",
                                     "\"}]}"};

static size_t put_character(char *to, unsigned c)
{
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    to[0] = (char)(0xc0 | c >> 6);
    to[1] = (char)(0x80 | (c & 0x3f));
    return 2;
}

/* A text as GPT-2's byte-level vocabularies spell it. */
static void spell(const uint8_t *text, size_t n, char *to)
{
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        const unsigned b = text[i];
        at += put_character(to + at, b <= ' '    ? 256 + b
                                     : b < 0x7f  ? b
                                     : b < 0xa1  ? 256 + 33 + b - 0x7f
                                     : b == 0xad ? 256 + 67
                                                 : b);
    }
    to[at] = 0;
}

/* All bytes, <s> and </s>, then tokens that cross rules and characters. fallback: spelled as SentencePiece's are. */
static joust_tokenizer *make_tokenizer(bool fallback)
{
    static const char pattern[] = "{\"added_tokens\":[{\"id\":256,\"content\":\"<s>\",\"special\":"
                                  "true},{\"id\":257,\"content\":"
                                  "\"</"
                                  "s>\",\"special\":true}],%s,\"model\":{\"type\":\"BPE\",\"byte_"
                                  "fallback\":%s,\"merges\":[]}}";
    static const char levels[] = "\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":"
                                 "\"ByteLevel\",\"add_prefix_space\":false}";
    static const char falls[] =
        "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{"
        "\"String\":"
        "\"▁\"},\"content\":\" "
        "\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\","
        "\"content\":\" \",\"start\":1,\"stop\":0}]}";
    char text[2048], spelled[64];
    joust_error err = {0};
    joust_tokenizer *t = NULL;
    snprintf(text, sizeof(text), pattern, fallback ? falls : levels, fallback ? "true" : "false");
    json_t *root = json_loads(text, 0, NULL), *vocab = json_object();
    assert_non_null(root);
    for (unsigned id = 0; id < FIRST_PIECE + sizeof(pieces) / sizeof(*pieces); id++) {
        const char *piece = id >= FIRST_PIECE ? pieces[id - FIRST_PIECE] : "";
        const uint8_t byte = (uint8_t)id;
        if (id == 256 || id == END)
            snprintf(spelled, sizeof(spelled), id == END ? "</s>" : "<s>");
        else if (fallback && id < 256)
            snprintf(spelled, sizeof(spelled), "<0x%02X>", id);
        else if (fallback)
            snprintf(spelled, sizeof(spelled), "%s%s", *piece == ' ' ? "▁" : "",
                     piece + (*piece == ' '));
        else if (id < 256)
            spell(&byte, 1, spelled);
        else
            spell((const uint8_t *)piece, strlen(piece), spelled);
        json_object_set_new(vocab, spelled, json_integer(id));
    }
    json_object_set_new(json_object_get(root, "model"), "vocab", vocab);
    char *file = json_dumps(root, 0);
    check_ok(joust_tokenizer_parse(file, strlen(file), "t", &t, &err));
    free(file);
    json_decref(root);
    return t;
}

static const joust_model_config config = {
    .vocab_size = N_VOCAB, .n_end_tokens = 1, .end_tokens = {END}};

/* Draws a response of at most `most` tokens; its text, or NULL if they cut it. No way may be a dead end, and the end stands
 * open exactly where `accepts` says. */
static char *draw(const joust_tokenizer *t, joust_mask *mask, unsigned *random, unsigned most,
                  joust_pushdown *twin)
{
    joust_error err = {0};
    uint32_t tokens[1024], n = 0;
    joust_buf text = {0};
    assert_true(most <= 1024);
    for (; n < most; n++) {
        float logits[N_VOCAB] = {0};
        uint32_t allowed[N_VOCAB], n_allowed = 0;
        check_ok(joust_mask_guide(mask, 0, 0, tokens, n, logits, N_VOCAB, &err));
        for (uint32_t i = 0; i < N_VOCAB; i++)
            if (logits[i] == 0)
                allowed[n_allowed++] = i;
        if (n_allowed == 0)
            fail_msg("a dead end after %u tokens", n);
        joust_buf_clear(&text);
        check_ok(joust_tokenizer_decode(t, tokens, n, true, &text, &err));
        if (twin && (!n || !memchr(text.data, 0xef, text.n))) /* no U+FFFD: whole characters */
            assert_int_equal(logits[END] == 0,
                             strcmp(verdict(twin, n ? (char *)text.data : ""), "yes") == 0);
        *random = *random * 1664525u + 1013904223u;
        tokens[n] = allowed[(*random >> 8) % n_allowed];
        if (logits[END] == 0 && (*random >> 28) < 6)
            tokens[n] = END;
        if (tokens[n] == END)
            break;
    }
    char *whole = n < most ? joust_buf_take_text(&text) : NULL;
    if (n < most && !whole)
        whole = joust_strdup("");
    joust_buf_fini(&text);
    return whole;
}

static void test_masks(void **state)
{
    (void)state;
    static const char *const grammars[] = {
        "root ::= \"a\"* \"b\"",
        "root ::= [a-é]{1,4} \"中\"?",
        "root ::= \"é\" | \"中\" root | \"\"",
        "root ::= \"(\" root \")\" | \"ab\" | dead\ndead ::= \"a\" dead",
        "root ::= [^a]+ \"a\"",
        "root ::= e\ne ::= t (\"+\" t)*\nt ::= \"(\" e \")\" | \"12\"+",
        "root ::= \" \"? (\"ab\" | \" a\")+"};
    unsigned random = 7, n_ended = 0;
    for (int fallback = 0; fallback < 2; fallback++) {
        joust_tokenizer *t = make_tokenizer(fallback);
        for (size_t i = 0; i < sizeof(grammars) / sizeof(*grammars); i++) {
            joust_error err = {0};
            joust_mask *mask = NULL;
            joust_grammar *g = NULL;
            joust_pushdown *p = NULL;
            check_ok(joust_mask_create(t, &config, &(joust_mask_rule){.grammar = grammars[i]},
                                       &mask, &err));
            check_ok(joust_grammar_compile(grammars[i], NULL, &g, &err));
            check_ok(joust_pushdown_create(g, &p, &err));
            for (int k = 0; k < 60; k++) {
                char *text = draw(t, mask, &random, 40, p);
                if (text && strcmp(verdict(p, text), "yes") != 0)
                    fail_msg("%s: '%s'", grammars[i], text);
                n_ended += text != NULL;
                joust_free(text);
            }
            joust_pushdown_free(&p);
            joust_grammar_free(&g);
            joust_mask_free(&mask);
        }
        joust_tokenizer_free(&t);
    }
    assert_true(n_ended > 400);
}

/* The set behind a token's own bytes. */
static uint32_t behind(joust_pushdown *p, uint32_t set, uint32_t token)
{
    const uint8_t byte = (uint8_t)token;
    const char *text = token < 256 ? (const char *)&byte : pieces[token - FIRST_PIECE];
    joust_error err = {0};
    for (size_t n = token < 256 ? 1 : strlen(text), i = 0; i < n && set != JOUST_NO_SET; i++)
        check_ok(joust_pushdown_step(p, set, (uint8_t)text[i], &set, &err));
    return set;
}

/* Every token of every step is allowed where the recogniser itself goes on with its bytes, however masks are put together; the
 * samples take turns, and one is begun again with other tokens. */
static void check_every_token(const joust_tokenizer *t, const joust_mask_rule *rule,
                              const char *gbnf)
{
    enum { N_SAMPLES = 3, N_STEPS = 150 };
    joust_error err = {0};
    joust_mask *mask = NULL;
    joust_grammar *g = NULL;
    joust_pushdown *p = NULL;
    uint32_t tokens[N_SAMPLES][N_STEPS], n[N_SAMPLES] = {0}, sets[N_SAMPLES], random = 5;
    check_ok(joust_mask_create(t, &config, rule, &mask, &err));
    check_ok(joust_grammar_compile(gbnf, NULL, &g, &err));
    check_ok(joust_pushdown_create(g, &p, &err));
    for (int step = 0; step < 3 * N_STEPS; step++) {
        const int k = step % N_SAMPLES;
        float logits[N_VOCAB] = {0};
        uint32_t allowed[N_VOCAB], n_allowed = 0;
        if (n[k] == 0)
            check_ok(joust_pushdown_start(p, &sets[k], &err));
        check_ok(joust_mask_guide(mask, 0, (uint32_t)k, tokens[k], n[k], logits, N_VOCAB, &err));
        for (uint32_t i = 0; i < FIRST_PIECE + sizeof(pieces) / sizeof(*pieces); i++) {
            const bool goes_on = i == END   ? joust_pushdown_accepts(p, sets[k])
                                 : i == 256 ? false
                                            : behind(p, sets[k], i) != JOUST_NO_SET;
            if (goes_on != (logits[i] == 0))
                fail_msg("%s: token %u after %u: %d", gbnf, i, n[k], goes_on);
            if (goes_on)
                allowed[n_allowed++] = i;
        }
        random = random * 1664525u + 1013904223u;
        const uint32_t token = allowed[(random >> 8) % n_allowed];
        tokens[k][n[k]++] = token;
        if (token == END || n[k] == N_STEPS)
            n[k] = 0;
        else
            sets[k] = behind(p, sets[k], token);
    }
    joust_pushdown_free(&p);
    joust_grammar_free(&g);
    joust_mask_free(&mask);
}

static void test_every_token(void **state)
{
    (void)state;
    static const char *const grammars[] = {
        "root ::= \"[\" ( \"\\\"\" [^\"]{1,60} \"\\\"\" \",\"? ){2,40} \"]\"?",
        "root ::= [a-b]{50} (\"\\\"\" | \"a\"{0,9}) root?",
        "root ::= ( x{30} | x{25,70} \"中\" )+\nx ::= \"a\"? | \"é\"",
        "root ::= \"a\"{0,100} | ( \"aa\"{0,40} \"\\\"\" root )",
        "root ::= \"a\" root \"\\\"\"{0,2} | \"{\" \"a\"{3,33} \"}\""};
    static const char *const nested[] = {
        "{\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\","
        "\"maxLength\":50},\"ab\":{\"type\":\"array\",\"items\":{\"$ref\":\"#/$defs/t\"}}},"
        "\"required\":[\"a\"]}},\"$ref\":\"#/$defs/t\"}",
        "{\"type\":\"array\",\"items\":{\"type\":\"string\",\"minLength\":30,\"maxLength\":70},"
        "\"minItems\":2,\"maxItems\":30}"};
    joust_tokenizer *t = make_tokenizer(false);
    for (size_t i = 0; i < sizeof(grammars) / sizeof(*grammars); i++)
        check_every_token(t, &(joust_mask_rule){.grammar = grammars[i]}, grammars[i]);
    for (size_t i = 0; i < sizeof(nested) / sizeof(*nested); i++) {
        char *gbnf = NULL;
        joust_error err = {0};
        check_ok(joust_schema_gbnf(nested[i], &gbnf, &err));
        check_every_token(t, &(joust_mask_rule){.json_schema = nested[i]}, gbnf);
        joust_free(gbnf);
    }
    check_every_token(
        t, &(joust_mask_rule){.regex = "\"(a|é){2,40}\"(,\"a*\"|]}?)*"},
        "root ::= \"\\\"\" [aé]{2,40} \"\\\"\" ( \",\\\"\" \"a\"* \"\\\"\" | \"]\" \"}\"? )*");
    joust_tokenizer_free(&t);
}

/* What a vocabulary can't spell is no way on, and tokens that were forced are looked past. */
static void test_vocabulary(void **state)
{
    (void)state;
    static const char few[] =
        "{\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":false},\"added_tokens\":[{\"id\":3,\"content\":\"</"
        "s>\",\"special\":true}],"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}}";
    const joust_model_config small = {.vocab_size = 4, .n_end_tokens = 1, .end_tokens = {3}};
    joust_error err = {0};
    joust_tokenizer *t = NULL;
    joust_mask *mask = NULL;
    check_ok(joust_tokenizer_parse(few, strlen(few), "t", &t, &err));
    check_ok(joust_mask_create(
        t, &small, &(joust_mask_rule){.grammar = "root ::= \"ab\" | \"bx\"", .n_forced = 1}, &mask,
        &err));
    static const struct {
        uint32_t tokens[3], n;
        unsigned allowed;
    } cases[] = {
        {{1}, 1, 1 << 0 | 1 << 2}, {{1, 0}, 2, 1 << 1}, {{1, 2}, 2, 1 << 3}, {{1, 2, 3}, 3, 0}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        float logits[4] = {0};
        unsigned got = 0;
        check_ok(joust_mask_guide(mask, 0, 0, cases[i].tokens, cases[i].n, logits, 4, &err));
        for (unsigned k = 0; k < 4; k++)
            got |= (unsigned)(logits[k] == 0) << k;
        assert_int_equal(got, cases[i].allowed);
    }
    joust_mask_free(&mask);
    check_status(JOUST_INVALID,
                 joust_mask_create(t, &small, &(joust_mask_rule){.grammar = "root ::= \"bx\""},
                                   &mask, &err));
    check_text(&err, "in the model's tokens");
    joust_tokenizer_free(&t);
}

/* ---- schemas --------------------------------------------------------------------------------- */

static bool fits(const json_t *root, const json_t *schema, json_t *value);

static bool fits_type(const char *type, const json_t *v)
{
    return strcmp(type, "object") == 0    ? json_is_object(v)
           : strcmp(type, "array") == 0   ? json_is_array(v)
           : strcmp(type, "string") == 0  ? json_is_string(v)
           : strcmp(type, "number") == 0  ? json_is_number(v)
           : strcmp(type, "integer") == 0 ? json_is_integer(v)
           : strcmp(type, "boolean") == 0 ? json_is_boolean(v)
                                          : json_is_null(v);
}

static bool fits_object(const json_t *root, const json_t *schema, json_t *value)
{
    json_t *properties = json_object_get(schema, "properties"), *item;
    const char *key;
    size_t i;
    json_array_foreach(json_object_get(schema, "required"), i,
                       item) if (!json_object_get(value, json_string_value(item))) return false;
    json_object_foreach(value, key, item)
    {
        const json_t *property = json_object_get(properties, key);
        if (property ? !fits(root, property, item)
                     : json_is_false(json_object_get(schema, "additionalProperties")))
            return false;
    }
    return true;
}

static bool fits_array(const json_t *root, const json_t *schema, json_t *value)
{
    const json_t *least = json_object_get(schema, "minItems"),
                 *most = json_object_get(schema, "maxItems"),
                 *items = json_object_get(schema, "items");
    const json_int_t n = (json_int_t)json_array_size(value);
    json_t *item;
    size_t i;
    if ((least && n < json_integer_value(least)) || (most && n > json_integer_value(most)))
        return false;
    json_array_foreach(value, i, item) if (items && !fits(root, items, item)) return false;
    return true;
}

static bool fits_string(const json_t *schema, const json_t *value)
{
    const json_t *least = json_object_get(schema, "minLength"),
                 *most = json_object_get(schema, "maxLength");
    const char *text = json_string_value(value),
               *pattern = json_string_value(json_object_get(schema, "pattern"));
    json_int_t n = 0;
    for (const char *c = text; *c; c++)
        n += ((uint8_t)*c & 0xc0) != 0x80;
    if ((least && n < json_integer_value(least)) || (most && n > json_integer_value(most)))
        return false;
    if (!pattern)
        return true;
    int number;
    PCRE2_SIZE at;
    pcre2_code *code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                     PCRE2_UTF | PCRE2_DOLLAR_ENDONLY, &number, &at, NULL);
    pcre2_match_data *data = pcre2_match_data_create(1, NULL);
    const bool found = pcre2_match(code, (PCRE2_SPTR)text, strlen(text), 0, 0, data, NULL) >= 0;
    pcre2_match_data_free(data);
    pcre2_code_free(code);
    return found;
}

static unsigned n_fitting(const json_t *root, const json_t *list, json_t *value, bool equal)
{
    json_t *item;
    size_t i;
    unsigned n = 0;
    json_array_foreach(list, i, item) n +=
        equal ? json_equal(item, value) != 0 : fits(root, item, value);
    return n;
}

/* The few keywords, read as the specification says and by none of the engine's code. */
static bool fits(const json_t *root, const json_t *schema, json_t *value)
{
    const char *ref = json_string_value(json_object_get(schema, "$ref"));
    json_t *type = json_object_get(schema, "type"), *item;
    size_t i;
    if (ref)
        return fits(
            root,
            strcmp(ref, "#") == 0 ? root : json_object_get(json_object_get(root, "$defs"), ref + 8),
            value);
    bool typed = !type || (json_is_string(type) && fits_type(json_string_value(type), value));
    json_array_foreach(type, i, item) typed |= fits_type(json_string_value(item), value);
    if (!typed)
        return false;
    const json_t *any = json_object_get(schema, "anyOf"), *one = json_object_get(schema, "oneOf"),
                 *list = json_object_get(schema, "enum"),
                 *constant = json_object_get(schema, "const");
    if ((any && !n_fitting(root, any, value, false)) ||
        (one && n_fitting(root, one, value, false) != 1) ||
        (list && !n_fitting(root, list, value, true)) || (constant && !json_equal(constant, value)))
        return false;
    return json_is_object(value)   ? fits_object(root, schema, value)
           : json_is_array(value)  ? fits_array(root, schema, value)
           : json_is_string(value) ? fits_string(schema, value)
                                   : true;
}

static const char *const schemas[] = {
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\",\"maxLength\":6},\"n\":{"
    "\"type\":\"integer\"},"
    "\"x\":{\"type\":\"number\"},\"ok\":{\"type\":\"boolean\"}},\"required\":[\"n\",\"ok\"],"
    "\"additionalProperties\":false}",
    "{\"type\":\"array\",\"items\":{\"enum\":[\"a\",1,null,2.5,\"q\\\"\\\\é\",{\"b\":[1,true]}]},"
    "\"minItems\":2,\"maxItems\":4}",
    "{\"type\":\"array\",\"items\":{\"type\":[\"integer\",\"null\"]},\"maxItems\":0}",
    "{\"$defs\":{\"tree\":{\"type\":\"object\",\"properties\":{\"v\":{\"type\":\"integer\"},"
    "\"kids\":{\"type\":\"array\","
    "\"items\":{\"$ref\":\"#/$defs/"
    "tree\"},\"maxItems\":2}},\"required\":[\"v\"],\"additionalProperties\":false}},"
    "\"$ref\":\"#/$defs/tree\"}",
    "{\"anyOf\":[{\"type\":\"string\",\"minLength\":2,\"maxLength\":3},{\"type\":\"boolean\"},{"
    "\"const\":{\"z\":null}}]}",
    "{\"oneOf\":[{\"type\":\"object\",\"properties\":{\"kind\":{\"const\":\"a\"},\"n\":{\"type\":"
    "\"integer\"}},\"required\":[\"kind\"],"
    "\"additionalProperties\":false},{\"type\":\"object\",\"properties\":{\"kind\":{\"enum\":["
    "\"b\",\"c\"]}},\"required\":[\"kind\"],"
    "\"additionalProperties\":false},{\"type\":\"null\"}]}",
    "{\"type\":\"string\",\"pattern\":\"^[a-c]{1,3}\\\\.(é|\\\\\\\\|\\\"|中)+$\"}",
    "{\"type\":\"string\",\"pattern\":\"b[^a]\"}",
    "{\"type\":[\"integer\",\"array\"],\"items\":{\"type\":\"number\"},\"minItems\":1,\"maxItems\":"
    "3}",
    "{\"type\":\"object\",\"properties\":{\"a\\\"b\":{\"type\":\"null\"},\"é\":{\"const\":\"x\"}},"
    "\"additionalProperties\":false}",
    "{\"title\":\"any\",\"allOf\":[{}]}"};

static void test_schemas(void **state)
{
    (void)state;
    joust_tokenizer *t = make_tokenizer(false);
    unsigned random = 3;
    for (size_t i = 0; i < sizeof(schemas) / sizeof(*schemas); i++) {
        joust_error err = {0};
        joust_mask *mask = NULL;
        json_t *schema = json_loads(schemas[i], 0, NULL);
        unsigned n_ended = 0;
        assert_non_null(schema);
        check_ok(joust_schema_check(schemas[i], "f", &err));
        check_ok(joust_mask_create(t, &config, &(joust_mask_rule){.json_schema = schemas[i]}, &mask,
                                   &err));
        for (int k = 0; k < 150; k++) {
            char *text = draw(t, mask, &random, 400, NULL);
            json_t *value = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
            if (text && (!value || !fits(schema, schema, value)))
                fail_msg("%s: %s", schemas[i], text);
            n_ended += text != NULL;
            json_decref(value);
            joust_free(text);
        }
        if (n_ended < 50)
            fail_msg("%s: %u responses ended", schemas[i], n_ended);
        joust_mask_free(&mask);
        json_decref(schema);
    }
    joust_tokenizer_free(&t);
}

static void test_schema_texts(void **state)
{
    (void)state;
    static const struct {
        int schema;
        const char *text, *verdict;
    } cases[] = {
        {0, "{\"n\":1,\"ok\":true}", "yes"},
        {0, "{\"name\":\"\\u00e9\\n中\",\"n\":-3, \"x\": 1.5e-3 ,\"ok\":false}", "dead"},
        {0, "{\n  \"name\": \"\\u00e9\\n中\",\n  \"n\": -3,\n  \"x\": 1.5e-3,\n  \"ok\": false\n}",
         "yes"},
        {0, "{\"ok\":true", "dead"}, /* in their order */
        {0, "{\"n\":01", "dead"},
        {0, "{\"n\":1,\"ok\":true,\"more\"", "dead"},
        {0, "{\"name\":\"1234567", "dead"},
        {0, "{\"name\":\"\\ud83d\\ude00\\ud83d", "prefix"},
        {0, "{\"name\":\"\\ud83da", "dead"},
        {0, "{\"name\":\"\\u0000", "dead"},
        {1, "[\"q\\\"\\\\é\",{\"b\":[1,true]}]", "yes"},
        {1, "[1]", "dead"},
        {3, "{\"v\":1,\"kids\":[{\"v\":2,\"kids\":[]},{\"v\":3}]}", "yes"},
        {6, "\"abc.\\\"\\\\é\"", "yes"},
        {6, "\"abcd", "dead"},
        {7, "\"\\nxb\\n\"", "yes"},
        {10, "[{\"a\": [1, {}]}, null]", "yes"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        joust_error err = {0};
        char *gbnf = NULL;
        joust_grammar *g = NULL;
        joust_pushdown *p = NULL;
        check_ok(joust_schema_gbnf(schemas[cases[i].schema], &gbnf, &err));
        check_ok(joust_grammar_compile(gbnf, NULL, &g, &err));
        check_ok(joust_pushdown_create(g, &p, &err));
        const char *got = verdict(p, cases[i].text);
        if (strcmp(got, cases[i].verdict) != 0)
            fail_msg("schema %d: %s: %s, expected %s", cases[i].schema, cases[i].text, got,
                     cases[i].verdict);
        joust_pushdown_free(&p);
        joust_grammar_free(&g);
        joust_free(gbnf);
    }
}

static void test_schemas_refused(void **state)
{
    (void)state;
    static const struct {
        const char *schema, *says;
    } cases[] = {
        {"{\"type\":", "f:1:8: not JSON"},
        {"[]", "f: #: expected a schema"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"format\":\"date\"}}}",
         "#/properties/a: format: this keyword is not known"},
        {"{\"type\":\"integer\",\"minimum\":3}", "#: minimum: this keyword is not known"},
        {"{\"type\":\"text\"}", "type: 'text' is none"},
        {"{\"anyOf\":[{}],\"type\":\"string\"}", "type: not known beside anyOf"},
        {"{\"type\":\"object\",\"properties\":{},\"additionalProperties\":true}",
         "additionalProperties: false alone"},
        {"{\"type\":\"object\",\"required\":[\"a\"]}", "required/0: 'a' isn't one of properties"},
        {"{\"$ref\":\"other.json#/a\"}", "$ref: 'other.json#/a' isn't there"},
        {"{\"$defs\":{\"a\":{\"$ref\":\"#/$defs/a\"}},\"$ref\":\"#/$defs/a\"}",
         "leads back to its own"},
        {"{\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "without end"},
        {"{\"oneOf\":[{\"type\":\"integer\"},{\"type\":\"number\"}]}", "may fit entries 0 and 1"},
        {"{\"enum\":[]}", "enum: no value"},
        {"{\"enum\":[1],\"type\":\"string\"}", "enum: no value is of the type"},
        {"{\"items\":{\"minLength\":3,\"maxLength\":2}}", "#/items: maxLength is below minLength"},
        {"{\"maxItems\":-1}", "maxItems: expected a whole number"},
        {"{\"pattern\":\"(a\"}", "#: pattern: byte 2: ( is not closed"},
        {"{\"pattern\":\"^a|b\"}", "^ and $ beside |"},
        {"{\"pattern\":\"a\",\"maxLength\":3}", "pattern with minLength or maxLength"},
        {"{\"properties\":{\"a\":false}}", "#/properties/a: false: no value fits"},
        {"{\"allOf\":[{},{}]}", "allOf: of one schema alone"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        joust_error err = {0};
        if (joust_schema_check(cases[i].schema, "f", &err) == JOUST_OK ||
            !strstr(err.text, cases[i].says))
            fail_msg("%s: %s", cases[i].schema, err.text);
    }
}

/* ---- memory ---------------------------------------------------------------------------------- */

static joust_status whole_life(void *context, joust_error *err)
{
    joust_mask *mask = NULL;
    float logits[N_VOCAB] = {0};
    uint8_t forced[2];
    static const uint32_t tokens[] = {'[', '1'};
    joust_status st = joust_mask_create(
        context, &config,
        &(joust_mask_rule){.json_schema = "{\"items\":{\"pattern\":\"^a\"},\"minItems\":1}"}, &mask,
        err);
    if (st == JOUST_OK)
        st = joust_mask_guide(mask, 0, 0, tokens, 1, logits, N_VOCAB, err);
    if (st == JOUST_OK)
        st = joust_mask_forced(mask, tokens, 1, forced, err);
    joust_mask_free(&mask);
    return st;
}

static void test_out_of_memory(void **state)
{
    (void)state;
    joust_tokenizer *t = make_tokenizer(false);
    check_oom(whole_life, t);
    joust_tokenizer_free(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),       cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bounds),          cmocka_unit_test(test_masks),
        cmocka_unit_test(test_every_token),     cmocka_unit_test(test_vocabulary),
        cmocka_unit_test(test_schemas),         cmocka_unit_test(test_schema_texts),
        cmocka_unit_test(test_schemas_refused), cmocka_unit_test(test_out_of_memory)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
