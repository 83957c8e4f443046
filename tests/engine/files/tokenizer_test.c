/* Tokenizers against what Hugging Face's library makes of the same files, and every way a file can be wrong. */
#include "tests/check.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files_fixture.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "worker/engine/text/tokenizer.h"

static joust_tokenizer *parse(const char *json)
{
    joust_error err = {0};
    joust_tokenizer *t = NULL;
    check_ok(joust_tokenizer_parse(json, strlen(json), "test.json", &t, &err));
    return t;
}

static void check_case(const joust_tokenizer *t, const char *name, const json_t *c)
{
    joust_error err = {0};
    joust_tokens tokens = {0};
    joust_buf text = {0};
    const json_t *in = json_array_get(c, 0), *ids = json_array_get(c, 2),
                 *out = json_array_get(c, 3);
    bool special = json_is_true(json_array_get(c, 1));
    check_ok(joust_tokenizer_encode(t, json_string_value(in), json_string_length(in), special,
                                    &tokens, &err));
    bool same = tokens.n == json_array_size(ids);
    for (uint32_t i = 0; same && i < tokens.n; i++)
        same = tokens.ids[i] == json_integer_value(json_array_get(ids, i));
    if (!same)
        fail_msg("%s: '%s' (special %d): other tokens", name, json_string_value(in), special);
    check_ok(joust_tokenizer_decode(t, tokens.ids, tokens.n, true, &text, &err));
    if (text.n != json_string_length(out) ||
        (text.n && memcmp(text.data, json_string_value(out), text.n) != 0))
        fail_msg("%s: '%s' (special %d): decodes to '%s', expected '%s'", name,
                 json_string_value(in), special, (const char *)text.data, json_string_value(out));
    joust_buf_fini(&text);
    joust_tokens_fini(&tokens);
}

static json_t *load_golden(void)
{
    json_error_t problem;
    json_t *golden =
        json_load_file(JOUST_SOURCE_DIR "/tests/engine/files/tokenizer_golden.json", 0, &problem);
    assert_non_null(golden);
    return golden;
}

static char *setup_text(const json_t *golden, const json_t *setup)
{
    const char *model = json_string_value(json_object_get(setup, "model"));
    json_t *whole = json_deep_copy(json_object_get(setup, "components"));
    json_object_set(whole, "model", json_object_get(json_object_get(golden, "models"), model));
    char *text = json_dumps(whole, JSON_COMPACT);
    json_decref(whole);
    assert_non_null(text);
    return text;
}

static void test_golden(void **state)
{
    (void)state;
    json_t *golden = load_golden(), *setup;
    size_t i, k, n_cases = 0;
    json_array_foreach(json_object_get(golden, "setups"), i, setup)
    {
        const char *name = json_string_value(json_object_get(setup, "name"));
        char *text = setup_text(golden, setup);
        joust_tokenizer *t = parse(text);
        json_t *c;
        json_array_foreach(json_object_get(setup, "cases"), k, c)
        {
            check_case(t, name, c);
            n_cases++;
        }
        joust_tokenizer_free(&t);
        free(text);
    }
    assert_true(n_cases > 1000);
    json_decref(golden);
}

/* Words as the main job has them: text can't forge a special token, whichever way it is written. */
static const char words[] = "{\"added_tokens\":[{\"id\":0,\"content\":\"<unk>\",\"special\":true},"
                            "{\"id\":1,\"content\":\"<eos>\",\"special\":true}],"
                            "\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"},"
                            "\"model\":{\"type\":\"WordLevel\",\"unk_token\":\"<unk>\",\"vocab\":"
                            "{\"<unk>\":0,\"<eos>\":1,\"yes\":2,\"no\":3}}}";

static void test_special_cannot_be_forged(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_tokenizer *t = parse(words);
    joust_tokens tokens = {0};
    check_ok(joust_tokenizer_encode(t, "yes <eos> no", 12, false, &tokens, &err));
    assert_int_equal(tokens.n, 3);
    assert_int_equal(tokens.ids[1], 0);
    tokens.n = 0;
    check_ok(joust_tokenizer_encode(t, "yes<eos>no", 10, true, &tokens, &err));
    assert_int_equal(tokens.n, 3);
    assert_int_equal(tokens.ids[1], 1);
    uint32_t id = 9;
    assert_true(joust_tokenizer_find(t, "no", &id));
    assert_int_equal(id, 3);
    assert_false(joust_tokenizer_find(t, "maybe", &id));
    assert_int_equal(joust_tokenizer_size(t), 4);
    joust_digest digest = joust_digest_of(words, strlen(words)), own = joust_tokenizer_digest(t);
    assert_true(joust_digest_equal(&digest, &own));
    joust_tokens_fini(&tokens);
    joust_tokenizer_free(&t);
}

static void test_bad_text(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_tokens tokens = {0};
    joust_tokenizer *t = parse("{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0}},"
                               "\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"}}");
    check_status(JOUST_INVALID, joust_tokenizer_encode(t, "a b\"c a", 7, false, &tokens, &err));
    check_text(&err, "\"b\\\"c\" is not in the vocabulary");
    assert_int_equal(tokens.n, 0); /* nothing of a failed call stays */
    check_status(JOUST_INVALID, joust_tokenizer_encode(t, "a \xff", 3, false, &tokens, &err));
    check_text(&err, "byte 2");
    uint32_t beyond[] = {0, 77};
    joust_buf text = {0};
    check_ok(joust_tokenizer_decode(t, beyond, 2, true, &text, &err)); /* padded vocabularies */
    assert_string_equal((const char *)text.data, "a");
    joust_buf_fini(&text);
    joust_tokens_fini(&tokens);
    joust_tokenizer_free(&t);
}

static void test_refused(void **state)
{
    (void)state;
#define MODEL                                                                                      \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
    static const struct {
        const char *json, *says;
        joust_status status;
    } cases[] = {
        {"", "test.json", JOUST_MALFORMED},
        {"{\n\"model\": }", "test.json:2:", JOUST_MALFORMED},
        {"[]", "expected an object", JOUST_MALFORMED},
        {"{}", "model: expected an object, found nothing", JOUST_INVALID},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "'Unigram'", JOUST_UNSUPPORTED},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}", "'WordPiece'", JOUST_UNSUPPORTED},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{}}}", "model.vocab: empty", JOUST_INVALID},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0,\"b\":0}}}", "id 0 is that of 'a'",
         JOUST_INVALID},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":-1}}}", "'a': not an id",
         JOUST_INVALID},
        {"{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":99999999}}}", "'a': not an id",
         JOUST_INVALID},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0}}}", "model.merges: expected a list",
         JOUST_INVALID},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a c\"]}}",
         "merges[0]: 'a' + 'c': the right part is not in the vocabulary", JOUST_INVALID},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}}",
         "the result is not in the vocabulary", JOUST_INVALID},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[7]}}", "model.merges[0]",
         JOUST_INVALID},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}",
         "model.dropout", JOUST_UNSUPPORTED},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":"
         "\"</w>\"}}",
         "model.end_of_word_suffix", JOUST_UNSUPPORTED},
        {"{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"?\"}}",
         "model.unk_token: '?'", JOUST_INVALID},
        {"{" MODEL ",\"normalizer\":{\"type\":\"Nmt\"}}", "normalizer: Nmt", JOUST_UNSUPPORTED},
        {"{" MODEL
         ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Precompiled\"}]}}",
         "normalizer.normalizers[0]: Precompiled", JOUST_UNSUPPORTED},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"}}}",
         "pre_tokenizer: regular expression, byte 1", JOUST_INVALID},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a&&b]\"}}}",
         "intersections", JOUST_UNSUPPORTED},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a[b]]\"}}}",
         "a class within a class", JOUST_UNSUPPORTED},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"\\\\h\"}}}",
         "byte 0: \\h", JOUST_UNSUPPORTED},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{}}}",
         "pre_tokenizer.pattern", JOUST_INVALID},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},"
         "\"behavior\":\"Sideways\"}}",
         "'Sideways'", JOUST_UNSUPPORTED},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}}", "BertPreTokenizer",
         JOUST_UNSUPPORTED},
        {"{" MODEL ",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}}",
         "expected one character", JOUST_INVALID},
        {"{" MODEL ",\"decoder\":{\"type\":\"WordPiece\"}}", "decoder: WordPiece",
         JOUST_UNSUPPORTED},
        {"{" MODEL ",\"decoder\":7}", "decoder: expected an object, found an integer",
         JOUST_INVALID},
        {"{" MODEL ",\"post_processor\":{\"type\":\"Odd\"}}", "post_processor: 'Odd'",
         JOUST_UNSUPPORTED},
        {"{" MODEL ",\"post_processor\":[]}", "post_processor: expected an object", JOUST_INVALID},
        {"{" MODEL ",\"post_processor\":{\"type\":\"BertProcessing\",\"sep\":[\"a\",9],"
         "\"cls\":[\"a\",0]}}",
         "post_processor.sep: an id that is not in the vocabulary", JOUST_INVALID},
        {"{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
         "[{\"SpecialToken\":{\"id\":\"x\"}},{\"Sequence\":{\"id\":\"A\"}}],"
         "\"special_tokens\":{}}}",
         "post_processor.special_tokens: no ids of 'x'", JOUST_INVALID},
        {"{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":"
         "[{\"Sequence\":{\"id\":\"B\"}}]}}",
         "post_processor.single[0]: expected a SpecialToken, or Sequence A", JOUST_INVALID},
        {"{" MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}}",
         "Sequence A 0 times", JOUST_UNSUPPORTED},
        {"{" MODEL ",\"post_processor\":{\"type\":\"Sequence\",\"processors\":["
         "{\"type\":\"BertProcessing\",\"sep\":[\"a\",0],\"cls\":[\"a\",0]},"
         "{\"type\":\"RobertaProcessing\",\"sep\":[\"a\",0],\"cls\":[\"a\",0]}]}}",
         "more than one that adds tokens", JOUST_UNSUPPORTED},
        {"{" MODEL ",\"post_processor\":{\"type\":\"Sequence\"}}",
         "post_processor.processors: expected a list", JOUST_INVALID},
        {"{" MODEL ",\"added_tokens\":{}}", "added_tokens: expected a list", JOUST_INVALID},
        {"{" MODEL ",\"added_tokens\":[{\"id\":5}]}", "added_tokens[0]: id and content",
         JOUST_INVALID},
        {"{" MODEL ",\"added_tokens\":[{\"id\":0,\"content\":\"x\"}]}", "id 0 is that of 'a'",
         JOUST_INVALID},
        {"{" MODEL ",\"added_tokens\":[{\"id\":5,\"content\":\"a\"}]}", "has id 0 already",
         JOUST_INVALID},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        joust_error err = {0};
        joust_tokenizer *t = NULL;
        joust_status st =
            joust_tokenizer_parse(cases[i].json, strlen(cases[i].json), "test.json", &t, &err);
        if (st != cases[i].status)
            fail_msg("case %zu: %s: %s", i, joust_status_name(st), err.text);
        assert_null(t);
        check_text(&err, "test.json");
        check_text(&err, cases[i].says);
    }
    joust_error err = {0};
    joust_tokenizer *t = NULL;
    check_status(JOUST_NOT_FOUND, joust_tokenizer_load("/nowhere", &t, &err));
    check_text(&err, "/nowhere/tokenizer.json");
}

/* What normalizers make of a text, seen through a vocabulary that lacks every character: the error quotes the first. */
static void check_normalized(const char *normalizer, const char *text, const char *expected)
{
    joust_error err = {0};
    joust_tokens tokens = {0};
    joust_tokenizer *t = NULL;
    joust_buf json = {0};
    joust_buf_format(&json,
                     "{\"normalizer\":%s,\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"%s\":0}}}",
                     normalizer, expected);
    check_ok(joust_tokenizer_parse(json.data, json.n, "t", &t, &err));
    joust_status st = joust_tokenizer_encode(t, text, strlen(text), false, &tokens, &err);
    if (st != JOUST_OK)
        fail_msg("%s: '%s' isn't '%s': %s", normalizer, text, expected, err.text);
    assert_int_equal(tokens.n, 1);
    joust_tokens_fini(&tokens);
    joust_tokenizer_free(&t);
    joust_buf_fini(&json);
}

static void test_normalizers(void **state)
{
    (void)state;
    check_normalized("{\"type\":\"NFC\"}", "e\u0301\u1112\u1161\u11ab", "\u00e9\ud55c");
    check_normalized("{\"type\":\"NFC\"}", "a\u0323\u0307 a\u0307\u0323",
                     "\u1ea1\u0307 \u1ea1\u0307");
    check_normalized("{\"type\":\"NFD\"}", "\u00e9\ud55c", "e\u0301\u1112\u1161\u11ab");
    check_normalized("{\"type\":\"NFKC\"}", "\ufb01\u00b2\u00bd", "fi21\u20442");
    check_normalized("{\"type\":\"NFKD\"}", "\u00c5\ufb01", "A\u030afi");
    check_normalized("{\"type\":\"Lowercase\"}", "A\u00c9\u0130\u03a3", "a\u00e9i\u0307\u03c3");
    check_normalized("{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFD\"},"
                     "{\"type\":\"StripAccents\"}]}",
                     "\u00e9\u0308a", "ea");
    /* marks of Unicode 11 and later neither sort nor go, as in the ecosystem's tokenizers */
    check_normalized("{\"type\":\"NFC\"}", "a\u082c\U000119e0", "a\u082c\U000119e0");
    check_normalized("{\"type\":\"StripAccents\"}", "a\u0301\u0898", "a\u0898");
}

static void check_streamed(const joust_tokenizer *t, const uint32_t *ids, uint32_t n,
                           const char *const *steps, const char *end)
{
    joust_error err = {0};
    joust_decoding *d = NULL;
    joust_buf text = {0}, whole = {0};
    check_ok(joust_decoding_create(t, true, &d, &err));
    for (uint32_t i = 0; i < n; i++) {
        size_t before = text.n;
        check_ok(joust_decoding_add(d, ids[i], &text, &err));
        size_t length = strlen(steps[i]);
        if (text.n - before != length ||
            (length && memcmp(text.data + before, steps[i], length) != 0))
            fail_msg("token %u adds '%.*s', not '%s'", i, (int)(text.n - before),
                     (char *)text.data + before, steps[i]);
    }
    size_t before = text.n;
    check_ok(joust_decoding_end(d, &text, &err));
    assert_int_equal(text.n - before, strlen(end));
    check_ok(joust_tokenizer_decode(t, ids, n, true, &whole, &err));
    assert_int_equal(text.n, whole.n);
    assert_memory_equal(text.data, whole.data, whole.n);
    joust_decoding_free(&d);
    joust_buf_fini(&text);
    joust_buf_fini(&whole);
}

static void test_streaming(void **state)
{
    (void)state;
    joust_tokenizer *t =
        parse("{\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"vocab\":{"
              "\"a\":0,\"\u0120b\":1,\"\u00f0\u0141\":2,\"\u013b\":3,\"\u0124\":4,\"\u00ff\":5},"
              "\"merges\":[]},\"added_tokens\":[{\"id\":6,\"content\":\"<s>\",\"special\":true}]}");
    check_streamed(t, (const uint32_t[]){6, 0, 2, 3, 4, 1}, 6,
                   (const char *const[]){"", "a", "", "", "\U0001f642", " b"}, "");
    check_streamed(t, (const uint32_t[]){2, 0, 5, 2, 3}, 5,
                   (const char *const[]){"", "\ufffda", "\ufffd", "", ""}, "\ufffd");
    joust_tokenizer_free(&t);
    t = parse("{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"
              "{\"String\":"
              "\"\u2581\"},\"content\":\" "
              "\"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\","
              "\"content\":\" "
              "\",\"start\":1,\"stop\":0}]},\"model\":{\"type\":\"BPE\",\"vocab\":{\"\u2581\":0,"
              "\"\u2581a\":1,\"<0xC3>\":2,\"<0xA9>\":3},\"merges\":[]}}");
    check_streamed(t, (const uint32_t[]){0, 0, 1, 2, 3, 1}, 6,
                   (const char *const[]){"", " ", " a", "", "\u00e9", " a"}, "");
    joust_tokenizer_free(&t);
    t = parse("{\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0,\"b\":1}}}");
    check_streamed(t, (const uint32_t[]){0, 1, 0}, 3, (const char *const[]){"a", " b", " a"}, "");
    joust_tokenizer_free(&t);
    joust_error err = {0};
    joust_decoding *d = NULL;
    t = parse("{\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Fuse\"},{\"type\":"
              "\"Replace\","
              "\"pattern\":{\"String\":\"ab\"},\"content\":\"c\"}]},\"model\":{\"type\":"
              "\"WordLevel\",\"vocab\":"
              "{\"a\":0}}}");
    check_status(JOUST_UNSUPPORTED, joust_decoding_create(t, true, &d, &err));
    joust_tokenizer_free(&t);
}

/* A cached word has the ids of its first encoding, in other places too. */
static void test_cached_words(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_tokens tokens = {0};
    joust_tokenizer *t =
        parse("{\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"},\"model\":{\"type\":\"BPE\","
              "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"c\":3},\"merges\":[\"a b\"]}}");
    static const uint32_t expected[] = {2, 0, 2, 1, 3, 2, 0, 2, 1, 3, 2};
    check_ok(joust_tokenizer_encode(t, "ab aab bc ab aab bc ab", 22, false, &tokens, &err));
    assert_int_equal(tokens.n, 11);
    assert_memory_equal(tokens.ids, expected, sizeof(expected));
    joust_tokens_fini(&tokens);
    joust_tokenizer_free(&t);
}

/* A word of a million characters: merging in quadratic time would not end before the test's time limit. */
static void test_long_word(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_tokens tokens = {0};
    joust_tokenizer *t =
        parse("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"aa\":1,\"aaaa\":2},"
              "\"merges\":[\"a a\",\"aa aa\"]}}");
    size_t n = 1000003;
    char *text = joust_malloc(n);
    memset(text, 'a', n);
    check_ok(joust_tokenizer_encode(t, text, n, true, &tokens, &err));
    assert_int_equal(tokens.n, n / 4 + 2); /* 3 over: aa, a */
    assert_int_equal(tokens.ids[0], 2);
    assert_int_equal(tokens.ids[tokens.n - 1], 0);
    joust_free(text);
    joust_tokens_fini(&tokens);
    joust_tokenizer_free(&t);
}

#define TEMPLATE(before, after)                                                                    \
    "{\"type\":\"TemplateProcessing\",\"single\":[" before "{\"Sequence\":{\"id\":\"A\"}}" after   \
    "],\"special_tokens\":{\"<s>\":{\"ids\":[2]},\"</s>\":{\"ids\":[3,0]}}}"
#define BEGIN "{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}}"
#define END   "{\"SpecialToken\":{\"id\":\"</s>\",\"type_id\":0}}"

/* What each post-processor puts around "a b", as the tokenizers package does. */
static void test_post_processors(void **state)
{
    (void)state;
    static const struct {
        const char *json;
        uint32_t n, ids[8];
    } cases[] = {{"null", 2, {0, 1}},
                 {"{\"type\":\"ByteLevel\",\"trim_offsets\":true}", 2, {0, 1}},
                 {TEMPLATE(BEGIN ",", ""), 3, {2, 0, 1}},
                 {TEMPLATE(BEGIN ",", "," END), 5, {2, 0, 1, 3, 0}},
                 {"{\"type\":\"RobertaProcessing\",\"sep\":[\"</s>\",3],\"cls\":[\"<s>\",2]}",
                  4,
                  {2, 0, 1, 3}},
                 {"{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"}," TEMPLATE(
                      BEGIN ",", "," END) "]}",
                  5,
                  {2, 0, 1, 3, 0}}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        joust_error err = {0};
        joust_tokens tokens = {0};
        char json[1024];
        snprintf(json, sizeof(json),
                 "{\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"},\"post_processor\":%s,"
                 "\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"a\":0,\"b\":1,\"<s>\":2,"
                 "\"</s>\":3}}}",
                 cases[i].json);
        joust_tokenizer *t = parse(json);
        check_ok(joust_tokenizer_encode_framed(t, "a b", 3, false, &tokens, &err));
        if (tokens.n != cases[i].n ||
            memcmp(tokens.ids, cases[i].ids, tokens.n * sizeof(*tokens.ids)) != 0)
            fail_msg("case %zu: other tokens (%u)", i, tokens.n);
        joust_token_frame frame = joust_tokenizer_frame(t);
        assert_int_equal(frame.n_before + frame.n_after + 2, tokens.n);
        joust_tokens_fini(&tokens);
        joust_tokenizer_free(&t);
    }
}

static joust_status whole_life(void *context, joust_error *err)
{
    const char *json = context, *text = "Anna has<m> 13 \xe6\x97\xa5 </s>  stickers";
    joust_tokenizer *t = NULL;
    joust_tokens tokens = {0};
    joust_buf out = {0};
    joust_status st = joust_tokenizer_parse(json, strlen(json), "test.json", &t, err);
    if (st == JOUST_OK)
        st = joust_tokenizer_encode_framed(t, text, strlen(text), true, &tokens, err);
    if (st == JOUST_OK)
        st = joust_tokenizer_decode(t, tokens.ids, tokens.n, false, &out, err);
    joust_buf_fini(&out);
    joust_tokens_fini(&tokens);
    joust_tokenizer_free(&t);
    return st;
}

static void test_out_of_memory(void **state)
{
    (void)state;
    static const char *const small[] = {
        "{\"added_tokens\":[{\"id\":3,\"content\":\"<m>\",\"single_word\":true,\"lstrip\":true,"
        "\"normalized\":true}],\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[0-9]"
        "\"},"
        "\"content\":\"N\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\"},"
        "\"post_processor\":" TEMPLATE(
            BEGIN ",",
            "," END) ","
                     "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"unk_"
                     "token\":\"?\","
                     "\"vocab\":{\"?\":0,\"a\":1,\"nn\":2,\"n\":4},\"merges\":[\"n n\"]}}",
        "{\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"_\"},"
        "\"pre_tokenizer\":{\"type\":\"Metaspace\"},\"decoder\":{\"type\":\"Sequence\","
        "\"decoders\":["
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\"_\"},\"content\":\" \"},"
        "{\"type\":\"ByteFallback\"},{\"type\":\"Strip\",\"content\":\" \",\"start\":1},"
        "{\"type\":\"Metaspace\"},{\"type\":\"Fuse\"}]},\"model\":{\"type\":\"BPE\","
        "\"byte_fallback\":true,\"fuse_unk\":true,\"unk_token\":\"?\",\"vocab\":{\"?\":0,\"a\":1,"
        "\"<0xE6>\":2,\"<0x97>\":3,\"<0xA5>\":4},\"merges\":[]}}"};
    for (size_t i = 0; i < 2; i++) {
        char copy[1024];
        snprintf(copy, sizeof(copy), "%s", small[i]);
        check_oom(whole_life, copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),        cmocka_unit_test(test_special_cannot_be_forged),
        cmocka_unit_test(test_bad_text),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_normalizers),   cmocka_unit_test(test_streaming),
        cmocka_unit_test(test_cached_words),  cmocka_unit_test(test_long_word),
        cmocka_unit_test(test_out_of_memory), cmocka_unit_test(test_post_processors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
