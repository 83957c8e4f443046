/* GPT-2's older form of a tokenizer, vocab.json and merges.txt, read as the tokenizer.json that says the same. */
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/base/text.h"
#include "tokenizer_internal.h"

/* Lines of merges.txt as JSON strings; "#version: …" and empty lines say nothing. */
static void add_merges(joust_buf *to, const char *merges, size_t n)
{
    const char *comma = "";
    for (size_t at = 0; at < n;) {
        const char *line = merges + at, *end = memchr(line, '\n', n - at);
        size_t length = end ? (size_t)(end - line) : n - at;
        at += length + 1;
        if (length > 0 && line[length - 1] == '\r')
            length--;
        if (length == 0 || (line == merges && line[0] == '#'))
            continue;
        joust_buf_text(to, comma);
        joust_json_string(to, line, length);
        comma = ",";
    }
}

static void add_tokens(joust_buf *to, const json_t *vocabulary)
{
    static const char end[] = "<|endoftext|>";
    const json_t *id = json_object_get(vocabulary, end);
    if (json_is_integer(id))
        joust_buf_format(to,
                         "{\"id\":%lld,\"content\":\"%s\",\"special\":true,\"normalized\":false}",
                         (long long)json_integer_value(id), end);
}

joust_status joust_tokenizer_convert_merges(const void *vocabulary, size_t n_vocabulary,
                                            const void *merges, size_t n_merges, joust_buf *to,
                                            joust_error *err)
{
    json_t *parsed = NULL;
    size_t bad;
    joust_status st = joust_json_parse(vocabulary, n_vocabulary, "vocab.json", &parsed, err);
    if (st == JOUST_OK && !joust_text_is_utf8(merges, n_merges, &bad))
        st = joust_fail(err, JOUST_MALFORMED, "merges.txt: byte %zu is not UTF-8", bad);
    if (st == JOUST_OK) {
        joust_buf_text(to, "{\"version\":\"1.0\",\"added_tokens\":[");
        add_tokens(to, parsed);
        joust_buf_text(to, "],\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"ByteLevel\","
                           "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":true},"
                           "\"post_processor\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
                           "\"trim_offsets\":false,\"use_regex\":true},"
                           "\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true,"
                           "\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":\"BPE\","
                           "\"vocab\":");
        joust_buf_add(to, vocabulary, n_vocabulary);
        joust_buf_text(to, ",\"merges\":[");
        add_merges(to, merges, n_merges);
        joust_buf_text(to, "]}}");
        st = joust_buf_status(to, err);
    }
    json_decref(parsed);
    return st;
}

/* Other models that come in this form cut words by other rules than GPT-2. */
static joust_status check_class(const char *dir, joust_error *err)
{
    json_t *config = NULL;
    char *path = joust_path_join(dir, "tokenizer_config.json");
    joust_status st = JOUST_OK;
    if (!path)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", dir);
    if (joust_file_exists(path))
        st = joust_json_read(path, JOUST_MAX_TOKENIZER_BYTES, &config, err);
    const char *name = json_string_value(json_object_get(config, "tokenizer_class"));
    if (st == JOUST_OK && name && strcmp(name, "GPT2Tokenizer") != 0 &&
        strcmp(name, "GPT2TokenizerFast") != 0)
        st = joust_fail(err, JOUST_UNSUPPORTED,
                        "%s: tokenizer_class '%.60s' in vocab.json and merges.txt is not "
                        "supported; save the tokenizer as tokenizer.json",
                        path, name);
    json_decref(config);
    joust_free(path);
    return st;
}

joust_status joust_tokenizer_read_merges(const char *dir, joust_buf *to, joust_error *err)
{
    joust_buf vocabulary = {0}, merges = {0};
    char *from = joust_path_join(dir, "vocab.json"), *order = joust_path_join(dir, "merges.txt");
    joust_status st = from && order ? check_class(dir, err)
                                    : joust_fail(err, JOUST_NOMEM, "%s: out of memory", dir);
    if (st == JOUST_OK)
        st = joust_file_read(from, JOUST_MAX_TOKENIZER_BYTES, &vocabulary, err);
    if (st == JOUST_OK)
        st = joust_file_read(order, JOUST_MAX_TOKENIZER_BYTES, &merges, err);
    if (st == JOUST_OK) {
        st = joust_tokenizer_convert_merges(vocabulary.data, vocabulary.n, merges.data, merges.n,
                                            to, err);
        if (st != JOUST_OK)
            st = joust_blame(err, st, "%s", dir);
    }
    joust_buf_fini(&vocabulary);
    joust_buf_fini(&merges);
    joust_free(from);
    joust_free(order);
    return st;
}
