/* Real tokenizers: GPT-2's with the cases of another implementation, a 2 MB tokenizer.json, llama2.c's against a plain
 * rendering of its own rule. Skipped with a line where the data is absent. */
#include "tests/check.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "files_fixture.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/base/random.h"
#include "proto/base/text.h"
#include "worker/engine/files/llama2c.h"
#include "worker/engine/text/tokenizer.h"

/* encoder.json and vocab.bpe as a tokenizer.json. */
static joust_tokenizer *load_gpt2(const char *encoder_path, const char *merges_path)
{
    joust_error err = {0};
    joust_buf encoder = unpack(encoder_path), merges = {0}, json = {0};
    check_ok(joust_file_read(merges_path, 1u << 24, &merges, &err));
    check_ok(joust_tokenizer_convert_merges(encoder.data, encoder.n, merges.data, merges.n, &json,
                                            &err));
    joust_tokenizer *t = NULL;
    check_ok(joust_tokenizer_parse(json.data, json.n, "gpt2", &t, &err));
    joust_buf_fini(&encoder);
    joust_buf_fini(&merges);
    joust_buf_fini(&json);
    return t;
}

static void check_line(const joust_tokenizer *t, const char *text, size_t n, const char *line)
{
    joust_error err = {0};
    joust_tokens tokens = {0};
    joust_buf back = {0};
    check_ok(joust_tokenizer_encode(t, text, n, false, &tokens, &err));
    for (uint32_t i = 0; i < tokens.n; i++) {
        char *end;
        unsigned long expected = strtoul(line, &end, 10);
        if (end == line || expected != tokens.ids[i])
            fail_msg("'%.*s': token %u is %u, expected %lu", (int)n, text, i, tokens.ids[i],
                     expected);
        line = end;
    }
    assert_int_equal(strspn(line, " "), strcspn(line, "\n"));
    check_ok(joust_tokenizer_decode(t, tokens.ids, tokens.n, false, &back, &err));
    assert_int_equal(back.n, n);
    assert_true(n == 0 || memcmp(back.data, text, n) == 0);
    joust_buf_fini(&back);
    joust_tokens_fini(&tokens);
}

static void test_gpt2_cases(void **state)
{
    (void)state;
    static const char mark[] = "\n__ggml_vocab_test__\n";
    char *encoder = shared_data("tok-gpt2/encoder.json.gz");
    char *merges = shared_data("tok-gpt2/vocab.bpe");
    char *in_path = shared_data("tok-gpt2/cases.inp"),
         *out_path = shared_data("tok-gpt2/cases.out");
    if (encoder && merges && in_path && out_path) {
        joust_error err = {0};
        joust_buf in = {0}, out = {0};
        joust_tokenizer *t = load_gpt2(encoder, merges);
        check_ok(joust_file_read(in_path, 1u << 20, &in, &err));
        check_ok(joust_file_read(out_path, 1u << 20, &out, &err));
        const char *text = (const char *)in.data, *line = (const char *)out.data;
        unsigned n_cases = 0;
        for (const char *end; (end = strstr(text, mark)); text = end + strlen(mark)) {
            check_line(t, text, (size_t)(end - text), line);
            line += strcspn(line, "\n");
            line += *line == '\n';
            n_cases++;
        }
        assert_true(n_cases > 20);
        joust_buf_fini(&in);
        joust_buf_fini(&out);
        joust_tokenizer_free(&t);
    }
    joust_free(encoder);
    joust_free(merges);
    joust_free(in_path);
    joust_free(out_path);
}

static void check_round_trip(const joust_tokenizer *t, const char *text, size_t n)
{
    joust_error err = {0};
    joust_tokens tokens = {0};
    joust_buf back = {0};
    check_ok(joust_tokenizer_encode(t, text, n, true, &tokens, &err));
    check_ok(joust_tokenizer_decode(t, tokens.ids, tokens.n, false, &back, &err));
    if (back.n != n || (n && memcmp(back.data, text, n) != 0))
        fail_msg("'%.*s' comes back as '%s'", (int)n, text, (const char *)back.data);
    joust_buf_fini(&back);
    joust_tokens_fini(&tokens);
}

static void test_phi2_round_trip(void **state)
{
    (void)state;
    char *path = shared_data("tok-hf-json/phi-2.tokenizer.json.gz");
    if (!path)
        return;
    joust_error err = {0};
    joust_tokenizer *t = NULL;
    joust_buf json = unpack(path);
    check_ok(joust_tokenizer_parse(json.data, json.n, path, &t, &err));
    assert_int_equal(joust_tokenizer_size(t), 50295);
    /* its vocabulary itself is text of every sort */
    for (size_t at = 0; at < json.n && at < 400000; at += 997) {
        size_t begin = at, n = 300;
        while ((json.data[begin] & 0xc0) == 0x80)
            begin++;
        while ((json.data[begin + n] & 0xc0) == 0x80)
            n++;
        check_round_trip(t, (const char *)json.data + begin, n);
    }
    check_round_trip(t, "  def f():\n        return 1<|endoftext|>", 40);
    joust_tokenizer_free(&t);
    joust_buf_fini(&json);
    joust_free(path);
}

/* llama2.c's own rule, in its plain quadratic form, over its own pieces. */
typedef struct plain {
    char **pieces;
    float *scores;
    uint32_t n;
} plain;

static uint32_t plain_find(const plain *p, const char *text, size_t n)
{
    for (uint32_t i = 0; i < p->n; i++) {
        if (strlen(p->pieces[i]) == n && memcmp(p->pieces[i], text, n) == 0)
            return i;
    }
    return UINT32_MAX;
}

static uint32_t plain_start(const plain *p, const char *text, uint32_t *ids)
{
    uint32_t n = 0;
    if (*text)
        ids[n++] = plain_find(p, " ", 1);
    while (*text) {
        size_t length = 1;
        while ((text[length] & 0xc0) == 0x80)
            length++;
        uint32_t id = plain_find(p, text, length);
        if (id != UINT32_MAX) {
            ids[n++] = id;
        } else {
            for (size_t i = 0; i < length; i++)
                ids[n++] = (uint8_t)text[i] + 3u;
        }
        text += length;
    }
    return n;
}

static uint32_t plain_encode(const plain *p, const char *text, uint32_t *ids)
{
    uint32_t n = plain_start(p, text, ids);
    for (;;) {
        float best = -1e10f;
        uint32_t at = 0, id = UINT32_MAX;
        for (uint32_t i = 0; i + 1 < n; i++) {
            char both[256];
            int length =
                snprintf(both, sizeof(both), "%s%s", p->pieces[ids[i]], p->pieces[ids[i + 1]]);
            uint32_t found = plain_find(p, both, (size_t)length);
            if (found != UINT32_MAX && p->scores[found] > best) {
                best = p->scores[found];
                at = i;
                id = found;
            }
        }
        if (id == UINT32_MAX)
            return n;
        ids[at] = id;
        memmove(ids + at + 1, ids + at + 2, (n - at - 2) * sizeof(*ids));
        n--;
    }
}

static plain plain_load(const joust_buf *file, uint32_t n)
{
    plain p = {.pieces = calloc(n, sizeof(char *)), .scores = calloc(n, sizeof(float)), .n = n};
    size_t at = 4;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t length;
        memcpy(&p.scores[i], file->data + at, 4);
        memcpy(&length, file->data + at + 4, 4);
        p.pieces[i] = strndup((const char *)file->data + at + 8, length);
        at += 8 + length;
    }
    return p;
}

static void random_text(const joust_stream *stream, uint64_t *at, char *to)
{
    static const char *const bits[] = {"a",    "e",  "t",    "th", " ",   " ",   "Lily",
                                       "ball", "!",  "I'm",  "\n", "1",   "Z",   "\t",
                                       "é",    "日", "🦙", "  ", "<s>", "said"};
    size_t n_bits = joust_stream_below(stream, (*at)++, 25);
    *to = '\0';
    for (size_t i = 0; i < n_bits; i++)
        strcat(to, bits[joust_stream_below(stream, (*at)++, sizeof(bits) / sizeof(*bits))]);
}

static void test_llama2c_encodes_the_same(void **state)
{
    (void)state;
    char *path = shared_data("ckpt-stories260K/tok512.bin");
    if (!path)
        return;
    joust_error err = {0};
    joust_buf file = {0}, json = {0};
    joust_tokenizer *t = NULL;
    check_ok(joust_file_read(path, 1u << 20, &file, &err));
    check_ok(joust_llama2c_tokenizer(path, 512, &json, &err));
    check_ok(joust_tokenizer_parse(json.data, json.n, "tok512", &t, &err));
    assert_int_equal(joust_tokenizer_size(t), 512);
    plain p = plain_load(&file, 512);
    joust_stream_name name = {.job_seed = 7, .purpose = JOUST_PURPOSE_TEST};
    joust_stream stream = joust_stream_open(&name);
    uint64_t drawn = 0;
    for (int i = 0; i < 400; i++) {
        char text[256];
        uint32_t expected[600];
        joust_tokens tokens = {0};
        random_text(&stream, &drawn, text);
        uint32_t n = plain_encode(&p, text, expected);
        check_ok(joust_tokenizer_encode(t, text, strlen(text), false, &tokens, &err));
        if (tokens.n != n || (n && memcmp(tokens.ids, expected, n * sizeof(*expected)) != 0))
            fail_msg("'%s' is encoded otherwise", text);
        joust_tokens_fini(&tokens);
    }
    for (uint32_t i = 0; i < p.n; i++)
        free(p.pieces[i]);
    free(p.pieces);
    free(p.scores);
    joust_buf_fini(&file);
    joust_buf_fini(&json);
    joust_tokenizer_free(&t);
    joust_free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gpt2_cases),
        cmocka_unit_test(test_phi2_round_trip),
        cmocka_unit_test(test_llama2c_encodes_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
