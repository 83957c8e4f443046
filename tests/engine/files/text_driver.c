/* What tests/evidence compares with the ecosystem's own programs: reads lines of JSON, writes a line of JSON for each.
 *   text_driver encode TOKENIZER_JSON         line: a text; answer: {"ids": …, "text": decoded, "streamed": decoded,
 *                                             "framed": ids with what the post-processor adds}
 *   text_driver chat TEMPLATE TOKENS_JSON     line: a conversation with "add_generation_prompt"; answer: a text */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/file.h"
#include "proto/base/text.h"
#include "worker/engine/text/chat.h"
#include "worker/engine/text/tokenizer.h"

static void write_error(const joust_error *err)
{
    joust_buf line = {0};
    joust_buf_text(&line, "{\"error\":");
    joust_json_string(&line, err->text, strlen(err->text));
    printf("%s}\n", (const char *)line.data);
    joust_buf_fini(&line);
}

static void write_text(joust_buf *line, const char *key, const joust_buf *text)
{
    joust_buf_format(line, ",\"%s\":", key);
    joust_json_string(line, text->data, text->n);
}

static void write_ids(joust_buf *line, const char *key, const joust_tokens *ids)
{
    joust_buf_format(line, "%s\"%s\":[", line->n ? "," : "{", key);
    for (uint32_t i = 0; i < ids->n; i++)
        joust_buf_format(line, "%s%u", i ? "," : "", ids->ids[i]);
    joust_buf_text(line, "]");
}

static void encode(const joust_tokenizer *t, const char *text, size_t n)
{
    joust_tokens ids = {0}, framed = {0};
    joust_buf line = {0}, decoded = {0}, streamed = {0};
    joust_error err = {0};
    joust_decoding *decoding = NULL;
    joust_status st = joust_tokenizer_encode(t, text, n, true, &ids, &err);
    if (st == JOUST_OK)
        st = joust_tokenizer_encode_framed(t, text, n, true, &framed, &err);
    if (st == JOUST_OK)
        st = joust_tokenizer_decode(t, ids.ids, ids.n, false, &decoded, &err);
    if (st == JOUST_OK)
        st = joust_decoding_create(t, false, &decoding, &err);
    for (uint32_t i = 0; st == JOUST_OK && i < ids.n; i++)
        st = joust_decoding_add(decoding, ids.ids[i], &streamed, &err);
    if (st == JOUST_OK)
        st = joust_decoding_end(decoding, &streamed, &err);
    joust_decoding_free(&decoding);
    if (st != JOUST_OK) {
        write_error(&err);
    } else {
        write_ids(&line, "ids", &ids);
        write_ids(&line, "framed", &framed);
        write_text(&line, "text", &decoded);
        write_text(&line, "streamed", &streamed);
        printf("%s}\n", (const char *)line.data);
    }
    joust_tokens_fini(&ids);
    joust_tokens_fini(&framed);
    joust_buf_fini(&line);
    joust_buf_fini(&decoded);
    joust_buf_fini(&streamed);
}

static void render(const joust_chat *chat, const json_t *json, const char *line, size_t n)
{
    joust_buf text = {0}, out = {0};
    joust_error err = {0};
    bool generate = json_is_true(json_object_get(json, "add_generation_prompt"));
    if (joust_chat_render(chat, line, n, generate, &text, &err) == JOUST_OK) {
        joust_json_string(&out, text.data, text.n);
        printf("%s\n", (const char *)out.data);
    } else {
        write_error(&err);
    }
    joust_buf_fini(&text);
    joust_buf_fini(&out);
}

static void answer(const joust_tokenizer *t, const joust_chat *chat)
{
    char *line = NULL;
    size_t room = 0;
    ssize_t n;
    while ((n = getline(&line, &room, stdin)) > 0) {
        json_t *json = json_loadb(line, (size_t)n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
        if (t && json_is_string(json))
            encode(t, json_string_value(json), json_string_length(json));
        else if (chat && json)
            render(chat, json, line, (size_t)n);
        else
            printf("{\"error\":\"this line is no JSON of the kind expected\"}\n");
        json_decref(json);
    }
    free(line);
}

int main(int argc, char **argv)
{
    joust_tokenizer *t = NULL;
    joust_chat *chat = NULL;
    joust_buf text = {0}, tokens = {0};
    joust_error err = {0};
    joust_status st = JOUST_INVALID;
    if (argc > 2)
        st = joust_file_read(argv[2], 64u << 20, &text, &err);
    if (st == JOUST_OK && argc == 3 && strcmp(argv[1], "encode") == 0) {
        st = joust_tokenizer_parse(text.data, text.n, argv[2], &t, &err);
    } else if (st == JOUST_OK && argc == 4 && strcmp(argv[1], "chat") == 0) {
        st = joust_file_read(argv[3], 1u << 20, &tokens, &err);
        if (st == JOUST_OK)
            st = joust_chat_compile((const char *)text.data, text.n, (const char *)tokens.data,
                                    argv[2], &chat, &err);
    } else if (st == JOUST_OK) {
        st = joust_fail(&err, JOUST_INVALID, "usage: text_driver encode FILE | chat FILE TOKENS");
    }
    if (st == JOUST_OK)
        answer(t, chat);
    else
        fprintf(stderr, "text_driver: %s\n", err.text);
    joust_chat_free(&chat);
    joust_tokenizer_free(&t);
    joust_buf_fini(&text);
    joust_buf_fini(&tokens);
    return st == JOUST_OK ? 0 : 1;
}
