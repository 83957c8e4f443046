#include "masks_fixture.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/bytes.h"
#include "tests/check.h"

const char *verdict(joust_pushdown *p, const char *text)
{
    joust_error err = {0};
    uint32_t set;
    check_ok(joust_pushdown_start(p, &set, &err));
    for (; *text && set != JOUST_NO_SET; text++)
        check_ok(joust_pushdown_step(p, set, (uint8_t)*text, &set, &err));
    return set == JOUST_NO_SET ? "dead" : joust_pushdown_accepts(p, set) ? "yes" : "prefix";
}

const char *const pieces[N_PIECES] = {"{\"",
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

joust_tokenizer *make_tokenizer(bool fallback)
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
    for (unsigned id = 0; id < FIRST_PIECE + N_PIECES; id++) {
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

const joust_model_config config = {.vocab_size = N_VOCAB, .n_end_tokens = 1, .end_tokens = {END}};

char *draw(const joust_tokenizer *t, joust_mask *mask, unsigned *random, unsigned most,
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
