/* Answers that are asked for their log-probs alone. */
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/math.h"
#include "worker/endpoint/response_internal.h"

#define MAX_GENERATED 1u /* tokens that a server draws behind what it was given */

static const json_t *first_choice(const json_t *root)
{
    return json_array_get(json_object_get(root, "choices"), 0);
}

static void add_usage(const json_t *root, joust_endpoint_scores *to)
{
    const json_t *usage = json_object_get(root, "usage");
    to->usage_prompt += joust_response_count(usage, "prompt_tokens", JOUST_MAX_TOKENS);
    to->usage_completion += joust_response_count(usage, "completion_tokens", MAX_GENERATED);
}

/* ---- echo ---- */

/* The tokens of a prompt with the label at its end. */
typedef struct echoed {
    const json_t *texts, *logps;
    size_t n;
} echoed;

static joust_status find_echo(const json_t *root, echoed *ret, joust_error *err)
{
    const json_t *logprobs = json_object_get(first_choice(root), "logprobs");
    echoed e = {.texts = json_object_get(logprobs, "tokens"),
                .logps = json_object_get(logprobs, "token_logprobs")};
    e.n = json_array_size(e.logps);
    /* Of the answer alone there are no more than were drawn. */
    if (e.n <= MAX_GENERATED || json_array_size(e.texts) != e.n)
        return joust_fail(err, JOUST_UNSUPPORTED, "it gives no log-probs of the prompt");
    *ret = e;
    return JOUST_OK;
}

/* Where the label begins among the first n tokens if it ends them; SIZE_MAX: it doesn't, or not at a token's edge. Some servers
 * (vLLM) write a token of SentencePiece's without the blank that it begins with: a label's first blank is then in no token, for it
 * stood in the text, and no token ends or begins with it. One that was nothing but a blank has no text, and counts. */
static size_t label_start(const echoed *e, size_t n, const char *label)
{
    size_t left = strlen(label);
    while (left > 0 && n > 0) {
        const char *text = json_string_value(json_array_get(e->texts, --n));
        size_t bytes = text ? strlen(text) : 0;
        const bool whole = left == 1 && label[0] == ' ' && label[1] != '\0';
        if (whole && bytes > 0 && text[bytes - 1] != ' ')
            return n + 1;
        if (!text || bytes > left || memcmp(label + left - bytes, text, bytes) != 0)
            return SIZE_MAX;
        left -= bytes;
    }
    return left == 0 ? n : SIZE_MAX;
}

/* The label's tokens [first, end): before those that were drawn, of which the server says how many. A drawn token that is
 * written like the label must not pass for it. */
static bool find_label(const json_t *root, const echoed *e, const char *label, size_t *ret_first,
                       size_t *ret_end)
{
    const json_t *said = json_object_get(json_object_get(root, "usage"), "completion_tokens");
    const json_int_t drawn = json_is_integer(said) ? json_integer_value(said) : MAX_GENERATED;
    if (drawn < 0 || drawn > (json_int_t)MAX_GENERATED)
        return false;
    *ret_end = e->n - (size_t)drawn;
    *ret_first = label_start(e, *ret_end, label);
    return *ret_first != SIZE_MAX;
}

static joust_status read_echo(const json_t *root, const char *label, double *ret, joust_error *err)
{
    echoed e = {0};
    size_t first, end;
    joust_status st = find_echo(root, &e, err);
    if (st != JOUST_OK)
        return st;
    if (!find_label(root, &e, label, &first, &end))
        return joust_fail(err, JOUST_INVALID,
                          "label '%.60s' isn't tokens of its own behind the prompt: let labels, or "
                          "what follows the template's last slot, begin with a blank or a new line",
                          label);
    *ret = 0;
    for (size_t i = first; st == JOUST_OK && i < end; i++) {
        float logp = 0;
        st = joust_response_logp(json_array_get(e.logps, i), i, &logp, err);
        *ret += (double)logp;
    }
    return st;
}

joust_status joust_endpoint_parse_echo(const void *body, size_t n_bytes,
                                       const joust_job_endpoint *endpoint, const char *label,
                                       uint32_t index, joust_endpoint_scores *ret, joust_error *err)
{
    json_t *root;
    double logp = 0;
    joust_status st = joust_response_load(body, n_bytes, &root, err);
    if (st != JOUST_OK)
        return st;
    st = joust_response_check(root, endpoint, 1, err);
    if (st == JOUST_OK)
        st = read_echo(root, label, &logp, err);
    if (st == JOUST_OK) {
        ret->logps[index] = logp;
        add_usage(root, ret);
    }
    json_decref(root);
    return st;
}

/* Whether the server says that it read another token than it was given at place i, of which it may say nothing. */
static bool reads_otherwise(const json_t *ids, const json_t *text, size_t i, uint32_t given,
                            uint32_t *ret)
{
    if (json_is_array(ids))
        return joust_response_id(json_array_get(ids, i), ret) && *ret != given;
    return joust_response_written_id(json_string_value(text), ret) && *ret != given;
}

/* That it read what it was given: as many tokens, and these. */
static joust_status check_read(const json_t *root, const echoed *e, const joust_endpoint_ask *ask,
                               joust_error *err)
{
    const json_t *said = json_object_get(json_object_get(root, "usage"), "completion_tokens");
    const json_t *ids = json_object_get(first_choice(root), "prompt_token_ids");
    const size_t n = (size_t)ask->n_ids + ask->n_label_ids;
    const size_t drawn = e->n < n ? SIZE_MAX : e->n - n;
    if (drawn > MAX_GENERATED ||
        (json_is_integer(said) && json_integer_value(said) != (json_int_t)drawn) ||
        (json_is_array(ids) && json_array_size(ids) != n))
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "it was given %zu token ids and answers of %zu: it adds tokens of its "
                          "own, or doesn't take ids",
                          n, json_is_array(ids) ? json_array_size(ids) : e->n);
    for (size_t i = 0; i < n; i++) {
        const uint32_t given = i < ask->n_ids ? ask->ids[i] : ask->label_ids[i - ask->n_ids];
        uint32_t read = 0;
        if (reads_otherwise(ids, json_array_get(e->texts, i), i, given, &read))
            return joust_fail(err, JOUST_UNSUPPORTED,
                              "it was given token %u at place %zu and read %u", given, i, read);
    }
    return JOUST_OK;
}

static joust_status read_echo_ids(const json_t *root, const joust_endpoint_ask *ask, double *ret,
                                  joust_error *err)
{
    echoed e = {0};
    joust_status st = find_echo(root, &e, err);
    if (st == JOUST_OK)
        st = check_read(root, &e, ask, err);
    *ret = 0;
    for (size_t i = ask->n_ids; st == JOUST_OK && i < (size_t)ask->n_ids + ask->n_label_ids; i++) {
        float logp = 0;
        st = joust_response_logp(json_array_get(e.logps, i), i, &logp, err);
        *ret += (double)logp;
    }
    return st;
}

joust_status joust_endpoint_parse_echo_ids(const void *body, size_t n_bytes,
                                           const joust_endpoint_ask *ask, uint32_t index,
                                           joust_endpoint_scores *ret, joust_error *err)
{
    json_t *root;
    double logp = 0;
    joust_status st = joust_response_load(body, n_bytes, &root, err);
    if (st != JOUST_OK)
        return st;
    st = joust_response_check(root, ask->endpoint, 1, err);
    if (st == JOUST_OK)
        st = read_echo_ids(root, ask, &logp, err);
    if (st == JOUST_OK) {
        ret->logps[index] = logp;
        add_usage(root, ret);
    }
    json_decref(root);
    return st;
}

/* ---- the likeliest first tokens ---- */

/* OpenAI's servers write this in the place of a log-prob that they don't name. */
#define NOT_NAMED (-9999.0F)

/* Labels, by their text or by their ids. */
typedef struct sought {
    const char *const *texts;
    const joust_endpoint_label *labels; /* or NULL */
    uint32_t n;
} sought;

static const char *label_text(const sought *s, uint32_t i)
{
    return s->labels ? s->labels[i].text : s->texts[i];
}

/* Adds what the token is worth to the labels that are it, or are written like it. */
static joust_status add_token(const char *text, const json_t *id, const json_t *value,
                              const sought *s, double *logps, bool *found, joust_error *err)
{
    float logp = 0;
    uint32_t number = 0;
    joust_status st = joust_response_logp(value, 0, &logp, err);
    if (st == JOUST_OK && s->labels && !joust_response_id(id, &number) &&
        !joust_response_written_id(text, &number))
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "its likeliest tokens have no ids, by which labels are known where "
                          "endpoint.tokenizer is given");
    for (uint32_t i = 0; st == JOUST_OK && i < s->n; i++) {
        const bool same =
            s->labels ? s->labels[i].ids[0] == number : strcmp(s->texts[i], text) == 0;
        if (!same || logp <= NOT_NAMED)
            continue;
        logps[i] = found[i] ? joust_log_add(logps[i], (double)logp) : (double)logp;
        found[i] = true;
    }
    return st;
}

/* [{"token": "yes", "logprob": -0.1}, ...] (chat, llama.cpp) */
static joust_status read_list(const json_t *list, const sought *s, double *logps, bool *found,
                              joust_error *err)
{
    joust_status st = JOUST_OK;
    for (size_t i = 0; st == JOUST_OK && i < json_array_size(list); i++) {
        const json_t *entry = json_array_get(list, i);
        const char *text = json_string_value(json_object_get(entry, "token"));
        st = text ? add_token(text, json_object_get(entry, "id"), json_object_get(entry, "logprob"),
                              s, logps, found, err)
                  : joust_fail(err, JOUST_MALFORMED, "a likely token without text");
    }
    return st;
}

/* {"yes": -0.1, ...} */
static joust_status read_map(const json_t *map, const sought *s, double *logps, bool *found,
                             joust_error *err)
{
    joust_status st = JOUST_OK;
    for (void *at = json_object_iter((json_t *)(uintptr_t)map); st == JOUST_OK && at;
         at = json_object_iter_next((json_t *)(uintptr_t)map, at))
        st = add_token(json_object_iter_key(at), NULL, json_object_iter_value(at), s, logps, found,
                       err);
    return st;
}

static joust_status read_top(const json_t *root, const sought *s, double *logps, bool *found,
                             joust_error *err)
{
    const json_t *choice = first_choice(root), *logprobs = json_object_get(choice, "logprobs");
    const json_t *content = json_array_get(json_object_get(logprobs, "content"), 0);
    const json_t *list = json_object_get(content, "top_logprobs");
    const json_t *map = json_array_get(json_object_get(logprobs, "top_logprobs"), 0);
    const char *finish = json_string_value(json_object_get(choice, "finish_reason"));
    if (finish && strcmp(finish, "content_filter") == 0)
        return joust_fail(err, JOUST_DENIED, "a filter of the server withheld the answer");
    if (json_array_size(list) > 0)
        return read_list(list, s, logps, found, err);
    if (json_object_size(map) > 0)
        return read_map(map, s, logps, found, err);
    return joust_fail(err, JOUST_UNSUPPORTED,
                      "it gives no log-probs of its answers' first tokens (top_logprobs)");
}

/* A token that is a NUL byte may be a key, which the parser doesn't take: it becomes a private character, and no label
 * has either. Owned; NULL: out of memory. */
static char *without_nul_keys(const char *body, size_t n)
{
    char *copy = joust_malloc(n ? n : 1); /* what no body at all is a copy of isn't NULL either */
    if (copy && n)
        memcpy(copy, body, n);
    for (size_t i = 0; copy && i + 1 < n; i++) {
        if (copy[i] != '\\')
            continue;
        if (n - i >= 6 && memcmp(copy + i, "\\u0000", 6) == 0)
            copy[i + 2] = 'e';
        i++; /* what a backslash stands before is no escape itself */
    }
    return copy;
}

static joust_status parse_top(const void *body, size_t n_bytes, const joust_job_endpoint *endpoint,
                              const sought *s, joust_endpoint_scores *ret, joust_error *err)
{
    json_t *root;
    double logps[JOUST_MAX_LABELS] = {0};
    bool found[JOUST_MAX_LABELS] = {false};
    char *text = without_nul_keys(body, n_bytes);
    if (!text)
        return joust_fail(err, JOUST_NOMEM, "endpoint: out of memory");
    joust_status st = joust_response_load(text, n_bytes, &root, err);
    joust_free(text);
    if (st != JOUST_OK)
        return st;
    st = joust_response_check(root, endpoint, 1, err);
    if (st == JOUST_OK)
        st = read_top(root, s, logps, found, err);
    for (uint32_t i = 0; st == JOUST_OK && i < s->n; i++)
        if (!found[i])
            st =
                joust_fail(err, JOUST_INVALID,
                           "label '%.60s' isn't among the likeliest first tokens of the answer, as "
                           "it is written: raise top_logprobs, or choose labels of one token that "
                           "the template calls for",
                           label_text(s, i));
    if (st == JOUST_OK) {
        memcpy(ret->logps, logps, s->n * sizeof(*logps));
        add_usage(root, ret);
    }
    json_decref(root);
    return st;
}

joust_status joust_endpoint_parse_top(const void *body, size_t n_bytes,
                                      const joust_job_endpoint *endpoint, const char *const *labels,
                                      uint32_t n, joust_endpoint_scores *ret, joust_error *err)
{
    return parse_top(body, n_bytes, endpoint, &(sought){.texts = labels, .n = n}, ret, err);
}

joust_status joust_endpoint_parse_top_ids(const void *body, size_t n_bytes,
                                          const joust_job_endpoint *endpoint,
                                          const joust_endpoint_label *labels, uint32_t n,
                                          joust_endpoint_scores *ret, joust_error *err)
{
    for (uint32_t i = 0; i < n; i++)
        if (labels[i].n != 1)
            return joust_fail(err, JOUST_INVALID,
                              "label '%.60s' is %u tokens, and the likeliest first tokens say "
                              "nothing of the others: choose labels of one token, or say "
                              "endpoint.scoring: echo",
                              labels[i].text, labels[i].n);
    return parse_top(body, n_bytes, endpoint, &(sought){.labels = labels, .n = n}, ret, err);
}
