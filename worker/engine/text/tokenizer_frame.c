/* tokenizer.json's post_processor: the special tokens that stand around a text of its own. What it does to offsets and to
 * pairs of texts is of no account here. */
#include <string.h>

#include "tokenizer_internal.h"

#define MAX_DEPTH 8u

typedef struct frame {
    joust_tokenizer *t;
    joust_error *err;
} frame;

static joust_status add(frame *f, joust_tokens *to, const json_t *id, const char *place)
{
    json_int_t value = json_integer_value(id);
    size_t n;
    if (!json_is_integer(id) || value < 0 || value >= JOUST_MAX_TOKEN_ID ||
        !joust_vocabulary_piece(&f->t->vocabulary, (uint32_t)value, &n))
        return joust_fail(f->err, JOUST_INVALID, "%s: an id that is not in the vocabulary", place);
    if (to->n == JOUST_MAX_FRAME_TOKENS)
        return joust_fail(f->err, JOUST_TOO_LARGE, "%s: more than %u tokens", place,
                          JOUST_MAX_FRAME_TOKENS);
    uint32_t token = (uint32_t)value;
    return joust_tokens_add(to, &token, 1, f->err);
}

/* {"SpecialToken": {"id": name}}: the ids that special_tokens has for that name. */
static joust_status add_named(frame *f, joust_tokens *to, const json_t *names, const json_t *token)
{
    static const char place[] = "post_processor.special_tokens";
    const char *name = json_string_value(json_object_get(token, "id"));
    const json_t *ids = name ? json_object_get(json_object_get(names, name), "ids") : NULL;
    joust_status st = JOUST_OK;
    if (!json_is_array(ids) || json_array_size(ids) == 0)
        return joust_fail(f->err, JOUST_INVALID, "%s: no ids of '%.60s'", place,
                          name ? name : "(none)");
    for (size_t i = 0; st == JOUST_OK && i < json_array_size(ids); i++)
        st = add(f, to, json_array_get(ids, i), place);
    return st;
}

static joust_status read_template(frame *f, const json_t *json)
{
    const json_t *list = json_object_get(json, "single"),
                 *names = json_object_get(json, "special_tokens");
    joust_status st = JOUST_OK;
    uint32_t n_texts = 0;
    if (!json_is_array(list))
        return joust_fail(f->err, JOUST_INVALID, "post_processor.single: expected a list, found %s",
                          joust_json_kind(list));
    for (size_t i = 0; st == JOUST_OK && i < json_array_size(list); i++) {
        const json_t *piece = json_array_get(list, i);
        const json_t *token = json_object_get(piece, "SpecialToken"),
                     *text = json_object_get(piece, "Sequence");
        const char *which = json_string_value(json_object_get(text, "id"));
        if (token && !text)
            st = add_named(f, n_texts ? &f->t->after : &f->t->before, names, token);
        else if (!token && which && strcmp(which, "A") == 0)
            n_texts++;
        else
            st =
                joust_fail(f->err, JOUST_INVALID,
                           "post_processor.single[%zu]: expected a SpecialToken, or Sequence A", i);
    }
    if (st == JOUST_OK && n_texts != 1)
        st = joust_fail(f->err, JOUST_UNSUPPORTED,
                        "post_processor.single: Sequence A %u times; only once is supported",
                        n_texts);
    return st;
}

/* BertProcessing, RobertaProcessing: "cls": [text, id] before, "sep": [text, id] after. */
static joust_status read_pair(frame *f, const json_t *json)
{
    const json_t *first = json_object_get(json, "cls"), *last = json_object_get(json, "sep");
    joust_status st = add(f, &f->t->before, json_array_get(first, 1), "post_processor.cls");
    return st == JOUST_OK ? add(f, &f->t->after, json_array_get(last, 1), "post_processor.sep")
                          : st;
}

static joust_status read_one(joust_tokenizer *t, const json_t *json, const char *type,
                             joust_error *err)
{
    frame f = {.t = t, .err = err};
    if (t->before.n > 0 || t->after.n > 0) /* the ecosystem's own lists differ by kind, or fail */
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "post_processor: more than one that adds tokens is not supported");
    return strcmp(type, "TemplateProcessing") == 0 ? read_template(&f, json) : read_pair(&f, json);
}

static joust_status read_any(joust_tokenizer *t, const json_t *json, uint32_t depth,
                             joust_error *err)
{
    const char *type = NULL;
    joust_status st = JOUST_OK;
    if (!json || json_is_null(json))
        return JOUST_OK;
    if (!json_is_object(json))
        return joust_fail(err, JOUST_INVALID, "post_processor: expected an object, found %s",
                          joust_json_kind(json));
    st = joust_json_text(json, "post_processor", "type", &type, err);
    if (st != JOUST_OK || (type && strcmp(type, "ByteLevel") == 0)) /* it moves offsets only */
        return st;
    if (type && (strcmp(type, "TemplateProcessing") == 0 || strcmp(type, "BertProcessing") == 0 ||
                 strcmp(type, "RobertaProcessing") == 0))
        return read_one(t, json, type, err);
    if (!type || strcmp(type, "Sequence") != 0)
        return joust_fail(
            err, JOUST_UNSUPPORTED,
            "post_processor: '%.40s' is not supported; TemplateProcessing, ByteLevel, "
            "BertProcessing, RobertaProcessing and Sequence are",
            type ? type : "(no type)");
    const json_t *list = json_object_get(json, "processors");
    if (!json_is_array(list) || depth == MAX_DEPTH)
        return joust_fail(err, JOUST_INVALID,
                          "post_processor.processors: expected a list, at most %u deep", MAX_DEPTH);
    for (size_t i = 0; st == JOUST_OK && i < json_array_size(list); i++)
        st = read_any(t, json_array_get(list, i), depth + 1, err);
    return st;
}

joust_status joust_tokenizer_read_frame(joust_tokenizer *t, const json_t *component,
                                        joust_error *err)
{
    return read_any(t, component, 0, err);
}
