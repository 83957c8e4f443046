/* tokenizer.json: model, vocabulary, merges, added tokens. What is not supported is refused by name;
 * truncation and padding are left to those that call the tokenizer. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "tokenizer_internal.h"

static joust_status read_vocabulary(joust_tokenizer *t, const json_t *model, joust_error *err)
{
    json_t *list = json_object_get(model, "vocab");
    if (!json_is_object(list))
        return joust_fail(err, JOUST_INVALID, "model.vocab: expected an object, found %s",
                          joust_json_kind(list));
    const char *text;
    json_t *value;
    json_object_foreach(list, text, value)
    {
        json_int_t id = json_integer_value(value);
        if (!json_is_integer(value) || id < 0 || id >= JOUST_MAX_TOKEN_ID)
            return joust_fail(err, JOUST_INVALID, "model.vocab: '%.60s': not an id below %u", text,
                              JOUST_MAX_TOKEN_ID);
        joust_status st =
            joust_vocabulary_add(&t->vocabulary, text, strlen(text), (uint32_t)id, err);
        if (st != JOUST_OK)
            return joust_blame(err, st, "model.vocab: '%.60s'", text);
    }
    if (t->vocabulary.n_used == 0)
        return joust_fail(err, JOUST_INVALID, "model.vocab: empty");
    return JOUST_OK;
}

/* A merge is "left right" or ["left", "right"]; views of it. */
static bool split_merge(const json_t *merge, const char **left, size_t *n_left, const char **right,
                        size_t *n_right)
{
    if (json_is_array(merge) && json_array_size(merge) == 2) {
        const json_t *a = json_array_get(merge, 0), *b = json_array_get(merge, 1);
        *left = json_string_value(a);
        *right = json_string_value(b);
        *n_left = json_string_length(a);
        *n_right = json_string_length(b);
        return *left && *right;
    }
    const char *text = json_string_value(merge);
    const char *space = text ? strchr(text, ' ') : NULL;
    if (!space || strlen(text) != json_string_length(merge))
        return false;
    *left = text;
    *n_left = (size_t)(space - text);
    *right = space + 1;
    *n_right = strlen(space + 1);
    return true;
}

static joust_status read_merge(joust_tokenizer *t, const json_t *json, uint32_t rank,
                               joust_buf *whole, joust_error *err)
{
    const char *left, *right;
    size_t n_left, n_right;
    if (!split_merge(json, &left, &n_left, &right, &n_right))
        return joust_fail(err, JOUST_INVALID,
                          "model.merges[%u]: expected \"left right\" or [\"left\", \"right\"]",
                          rank);
    joust_buf_clear(whole);
    joust_buf_add(whole, left, n_left);
    joust_buf_add(whole, right, n_right);
    if (!joust_buf_ok(whole))
        return joust_buf_status(whole, err);
    joust_merge merge = {.rank = rank,
                         .left = joust_vocabulary_find(&t->vocabulary, left, n_left),
                         .right = joust_vocabulary_find(&t->vocabulary, right, n_right),
                         .id = joust_vocabulary_find(&t->vocabulary, whole->data, whole->n)};
    if (merge.left == JOUST_NO_TOKEN || merge.right == JOUST_NO_TOKEN || merge.id == JOUST_NO_TOKEN)
        return joust_fail(err, JOUST_INVALID,
                          "model.merges[%u]: '%.*s' + '%.40s': %s is not in the vocabulary", rank,
                          (int)(n_left < 40 ? n_left : 40), left, right,
                          merge.left == JOUST_NO_TOKEN    ? "the left part"
                          : merge.right == JOUST_NO_TOKEN ? "the right part"
                                                          : "the result");
    joust_merges_add(&t->merges, &merge);
    return JOUST_OK;
}

static joust_status read_merges(joust_tokenizer *t, const json_t *model, joust_error *err)
{
    const json_t *list = json_object_get(model, "merges");
    if (!json_is_array(list))
        return joust_fail(err, JOUST_INVALID, "model.merges: expected a list, found %s",
                          joust_json_kind(list));
    joust_buf whole = {0};
    joust_status st = joust_merges_init(&t->merges, json_array_size(list), err);
    for (size_t i = 0; st == JOUST_OK && i < json_array_size(list); i++)
        st = read_merge(t, json_array_get(list, i), (uint32_t)i, &whole, err);
    joust_buf_fini(&whole);
    return st;
}

static void find_fallback_bytes(joust_tokenizer *t)
{
    for (unsigned byte = 0; byte < 256; byte++) {
        char text[8];
        snprintf(text, sizeof(text), "<0x%02X>", byte);
        t->bytes[byte] = joust_vocabulary_find(&t->vocabulary, text, 6);
    }
}

static joust_status read_bpe(joust_tokenizer *t, const json_t *model, joust_error *err)
{
    double dropout;
    joust_status st = joust_json_bool(model, "model", "fuse_unk", false, &t->fuse_unknown, err);
    if (st == JOUST_OK)
        st = joust_json_bool(model, "model", "byte_fallback", false, &t->byte_fallback, err);
    if (st == JOUST_OK)
        st = joust_json_bool(model, "model", "ignore_merges", false, &t->ignore_merges, err);
    if (st == JOUST_OK)
        st = joust_json_number(model, "model", "dropout", 0, &dropout, err);
    if (st == JOUST_OK && dropout > 0)
        st = joust_fail(err, JOUST_UNSUPPORTED, "model.dropout: only null or 0 is supported");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (size_t i = 0; st == JOUST_OK && i < 2; i++) {
        const char *affix = NULL;
        st = joust_json_text(model, "model", affixes[i], &affix, err);
        if (st == JOUST_OK && affix && *affix)
            st = joust_fail(err, JOUST_UNSUPPORTED, "model.%s: only null or \"\" is supported",
                            affixes[i]);
    }
    if (st == JOUST_OK)
        st = read_merges(t, model, err);
    find_fallback_bytes(t);
    t->cache = st == JOUST_OK ? joust_calloc(1, sizeof(*t->cache)) : NULL;
    if (st == JOUST_OK && !t->cache)
        st = joust_fail(err, JOUST_NOMEM, "model: out of memory");
    if (t->cache)
        atomic_flag_clear(&t->cache->taken);
    return st;
}

static joust_status read_model(joust_tokenizer *t, const json_t *document, joust_error *err)
{
    const json_t *model = json_object_get(document, "model");
    const char *type, *unknown;
    if (!json_is_object(model))
        return joust_fail(err, JOUST_INVALID, "model: expected an object, found %s",
                          joust_json_kind(model));
    joust_status st = joust_json_text(model, "model", "type", &type, err);
    if (st == JOUST_OK)
        st = joust_json_text(model, "model", "unk_token", &unknown, err);
    if (st != JOUST_OK)
        return st;
    if (!type) /* files of old have none */
        type = json_object_get(model, "merges") ? "BPE" : "";
    if (strcmp(type, "BPE") != 0 && strcmp(type, "WordLevel") != 0)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "model.type: '%.40s' is not supported; BPE and WordLevel are", type);
    st = read_vocabulary(t, model, err);
    if (st != JOUST_OK)
        return st;
    t->unknown = JOUST_NO_TOKEN;
    if (unknown) {
        t->unknown = joust_vocabulary_find(&t->vocabulary, unknown, strlen(unknown));
        if (t->unknown == JOUST_NO_TOKEN && strcmp(type, "BPE") == 0)
            return joust_fail(err, JOUST_INVALID, "model.unk_token: '%.60s' is not in model.vocab",
                              unknown);
    }
    if (strcmp(type, "WordLevel") == 0) {
        t->model = JOUST_TOKENIZER_WORD_LEVEL;
        return JOUST_OK;
    }
    t->model = JOUST_TOKENIZER_BPE;
    return read_bpe(t, model, err);
}

/* What an added token with "normalized" looks like in normalized text. */
static joust_status normalize(const joust_tokenizer *t, joust_buf *text, joust_error *err)
{
    joust_tokenizer_scratch s = {0};
    joust_status st = joust_regex_scratch_create(&s.regex, err);
    if (st == JOUST_OK)
        st = joust_pieces_add(&s.pieces, text->data, text->n, JOUST_PLACE_START, err);
    if (st == JOUST_OK)
        st = joust_steps_run(&t->normalizer, &s, err);
    if (st == JOUST_OK) {
        joust_buf before = *text;
        *text = s.pieces.text;
        s.pieces.text = before;
    }
    joust_tokenizer_scratch_fini(&s);
    return st;
}

static joust_status read_flags(joust_added *a, const json_t *json, const char *place,
                               joust_error *err)
{
    joust_status st = joust_json_bool(json, place, "special", false, &a->special, err);
    if (st == JOUST_OK)
        st = joust_json_bool(json, place, "single_word", false, &a->single_word, err);
    if (st == JOUST_OK)
        st = joust_json_bool(json, place, "lstrip", false, &a->left, err);
    if (st == JOUST_OK)
        st = joust_json_bool(json, place, "rstrip", false, &a->right, err);
    if (st == JOUST_OK)
        st = joust_json_bool(json, place, "normalized", !a->special, &a->normalized, err);
    return st;
}

/* The caller has counted the entry: what it holds is freed with the tokenizer. */
static joust_status read_added(joust_tokenizer *t, joust_added *a, const json_t *json,
                               const char *place, joust_error *err)
{
    const char *content = NULL;
    joust_status st = joust_json_u32(json, place, "id", JOUST_NO_TOKEN, &a->id, err);
    if (st == JOUST_OK)
        st = joust_json_text(json, place, "content", &content, err);
    if (st == JOUST_OK)
        st = read_flags(a, json, place, err);
    if (st != JOUST_OK)
        return st;
    if (a->id == JOUST_NO_TOKEN || !content || !*content)
        return joust_fail(err, JOUST_INVALID, "%s: id and content are needed", place);
    uint32_t held = joust_vocabulary_find(&t->vocabulary, content, strlen(content));
    if (held != a->id) {
        st = joust_vocabulary_add(&t->vocabulary, content, strlen(content), a->id, err);
        if (st != JOUST_OK)
            return joust_blame(err, st, "%s: '%.60s'", place, content);
    }
    joust_buf_text(&a->text, content);
    st = joust_buf_status(&a->text, err);
    if (st == JOUST_OK && a->normalized && t->normalizer.n > 0)
        st = normalize(t, &a->text, err);
    return st;
}

/* The same token as it is written, for text whose special tokens are found before normalization. */
static joust_status add_trusted(joust_tokenizer *t, const joust_added *a, joust_error *err)
{
    size_t n = 0;
    const uint8_t *content = joust_vocabulary_piece(&t->vocabulary, a->id, &n);
    joust_added *copy = &t->added[t->n_added++];
    *copy = *a;
    copy->text = (joust_buf){0};
    copy->normalized = false;
    copy->trusted_only = true;
    joust_buf_add(&copy->text, content, n);
    t->begins[content[0]] = true;
    return joust_buf_status(&copy->text, err);
}

static int by_text(const void *left, const void *right)
{
    const joust_added *a = left, *b = right;
    size_t n = a->text.n < b->text.n ? a->text.n : b->text.n;
    int order = n ? memcmp(a->text.data, b->text.data, n) : 0;
    if (order == 0)
        order = (a->text.n > b->text.n) - (a->text.n < b->text.n);
    return order ? order : (a->id > b->id) - (a->id < b->id);
}

static joust_status read_all_added(joust_tokenizer *t, const json_t *document, joust_error *err)
{
    const json_t *list = json_object_get(document, "added_tokens");
    size_t n = json_array_size(list);
    bool words = false;
    if (list && !json_is_null(list) && !json_is_array(list))
        return joust_fail(err, JOUST_INVALID, "added_tokens: expected a list, found %s",
                          joust_json_kind(list));
    t->added = joust_calloc(2 * n, sizeof(*t->added));
    if (!t->added)
        return joust_fail(err, JOUST_NOMEM, "added_tokens: out of memory");
    for (size_t i = 0; i < n; i++) {
        char place[40];
        snprintf(place, sizeof(place), "added_tokens[%zu]", i);
        joust_added *a = &t->added[t->n_added++];
        joust_status st = read_added(t, a, json_array_get(list, i), place, err);
        if (st != JOUST_OK)
            return st;
        words |= a->single_word;
        if (a->text.n > 0)
            t->begins[a->text.data[0]] = true;
        st = a->special && a->normalized ? add_trusted(t, a, err) : JOUST_OK;
        if (st != JOUST_OK)
            return st;
    }
    qsort(t->added, t->n_added, sizeof(*t->added), by_text);
    return words ? joust_regex_compile("[" JOUST_WORD_CLASS "]", strlen("[" JOUST_WORD_CLASS "]"),
                                       false, &t->word, err)
                 : JOUST_OK;
}

static joust_status mark_special(joust_tokenizer *t, joust_error *err)
{
    t->special = joust_calloc(t->vocabulary.size, 1);
    if (!t->special)
        return joust_fail(err, JOUST_NOMEM, "vocabulary: out of memory");
    for (uint32_t i = 0; i < t->n_added; i++)
        t->special[t->added[i].id] |= t->added[i].special;
    return JOUST_OK;
}

static joust_status read_document(joust_tokenizer *t, const json_t *document, joust_error *err)
{
    joust_status st = read_model(t, document, err);
    if (st == JOUST_OK)
        st = joust_steps_read(&t->normalizer, JOUST_STEPS_NORMALIZER,
                              json_object_get(document, "normalizer"), err);
    if (st == JOUST_OK)
        st = joust_steps_read(&t->pre_tokenizer, JOUST_STEPS_PRE_TOKENIZER,
                              json_object_get(document, "pre_tokenizer"), err);
    if (st == JOUST_OK)
        st = joust_steps_read(&t->decoder, JOUST_STEPS_DECODER,
                              json_object_get(document, "decoder"), err);
    if (st == JOUST_OK)
        st = read_all_added(t, document, err);
    if (st == JOUST_OK)
        st = mark_special(t, err);
    return st == JOUST_OK
               ? joust_tokenizer_read_frame(t, json_object_get(document, "post_processor"), err)
               : st;
}

joust_status joust_tokenizer_read(joust_tokenizer *t, const void *json, size_t n, const char *name,
                                  joust_error *err)
{
    json_t *document = NULL;
    if (n > JOUST_MAX_TOKENIZER_BYTES)
        return joust_fail(err, JOUST_TOO_LARGE, "%s: more than %u bytes", name,
                          JOUST_MAX_TOKENIZER_BYTES);
    joust_status st = joust_json_parse(json, n, name, &document, err);
    if (st != JOUST_OK)
        return st;
    st = read_document(t, document, err);
    json_decref(document);
    return st == JOUST_OK ? st : joust_blame(err, st, "%s", name);
}
