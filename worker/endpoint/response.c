/* Answers of servers, taken apart. */
#include <math.h> /* isfinite alone */
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/text.h"
#include "worker/endpoint/response_internal.h"

#define LIMIT_BASE     ((size_t)1 << 20)
#define LIMIT_TOKEN    ((size_t)2048) /* of JSON a token with its log-prob and the likeliest's */
#define LIMIT_ANSWER   ((size_t)256 << 20)
#define MAX_PROMPT_IDS JOUST_MAX_TOKENS
#define MAX_LOGP       1e-3 /* rounding may lift a log-prob a little above 0 */
#define ID_PREFIX      "token_id:"

size_t joust_endpoint_answer_limit(uint32_t n, uint32_t max_tokens)
{
    size_t tokens = (size_t)n * max_tokens;
    return tokens > (LIMIT_ANSWER - LIMIT_BASE) / LIMIT_TOKEN ? LIMIT_ANSWER
                                                              : LIMIT_BASE + tokens * LIMIT_TOKEN;
}

void joust_endpoint_answer_fini(joust_endpoint_answer *a)
{
    for (uint32_t i = 0; a->choices && i < a->n; i++) {
        joust_free(a->choices[i].text);
        joust_free(a->choices[i].tokens);
        joust_free(a->choices[i].logps);
    }
    joust_free(a->choices);
    joust_free(a->prompt_tokens);
    *a = (joust_endpoint_answer){0};
}

joust_status joust_response_load(const void *body, size_t n_bytes, json_t **ret, joust_error *err)
{
    json_error_t problem;
    json_t *root = json_loadb(body, n_bytes, JSON_REJECT_DUPLICATES, &problem);
    if (!root && n_bytes == 0)
        return joust_fail(err, JOUST_MALFORMED, "the answer isn't JSON: its body is empty");
    if (!root)
        return joust_fail(err, JOUST_MALFORMED, "the answer isn't JSON: byte %d: %.200s",
                          problem.position, problem.text);
    if (!json_is_object(root)) {
        json_decref(root);
        return joust_fail(err, JOUST_MALFORMED, "the answer isn't a JSON object");
    }
    *ret = root;
    return JOUST_OK;
}

/* ---- numbers ---- */

bool joust_response_id(const json_t *value, uint32_t *ret)
{
    if (!json_is_integer(value) || json_integer_value(value) < 0 ||
        json_integer_value(value) > INT32_MAX)
        return false;
    *ret = (uint32_t)json_integer_value(value);
    return true;
}

bool joust_response_written_id(const char *text, uint32_t *ret)
{
    uint64_t id;
    if (!text || strncmp(text, ID_PREFIX, strlen(ID_PREFIX)) != 0 ||
        !joust_parse_u64(text + strlen(ID_PREFIX), &id) || id > INT32_MAX)
        return false;
    *ret = (uint32_t)id;
    return true;
}

joust_status joust_response_logp(const json_t *value, size_t at, float *ret, joust_error *err)
{
    if (!json_is_number(value))
        return joust_fail(err, JOUST_NOT_FINITE, "token %zu has no log-prob", at);
    double logp = json_number_value(value);
    if (!isfinite(logp) || !isfinite((float)logp))
        return joust_fail(err, JOUST_NOT_FINITE, "the log-prob of token %zu isn't finite", at);
    if (logp > MAX_LOGP)
        return joust_fail(err, JOUST_MALFORMED, "the log-prob of token %zu is %g", at, logp);
    *ret = logp > 0 ? 0 : (float)logp;
    return JOUST_OK;
}

uint64_t joust_response_count(const json_t *object, const char *name, uint64_t most)
{
    const json_t *value = json_object_get(object, name);
    if (!json_is_integer(value) || json_integer_value(value) <= 0)
        return 0;
    uint64_t n = (uint64_t)json_integer_value(value);
    return n < most ? n : most;
}

/* ---- one choice ---- */

/* Where a choice keeps its ids and log-probs; either may be missing. */
typedef struct token_source {
    const json_t *ids;     /* token_ids: [...] */
    const json_t *content; /* logprobs.content: [{id, logprob}] (chat, llama.cpp) */
    const json_t *tokens;  /* logprobs.tokens: ["token_id:7"] */
    const json_t *logps;   /* logprobs.token_logprobs: [...] */
    size_t n;              /* log-probs */
} token_source;

static token_source find_tokens(const json_t *choice)
{
    const json_t *logprobs = json_object_get(choice, "logprobs");
    token_source s = {.ids = json_object_get(choice, "token_ids"),
                      .content = json_object_get(logprobs, "content"),
                      .tokens = json_object_get(logprobs, "tokens"),
                      .logps = json_object_get(logprobs, "token_logprobs")};
    if (json_is_array(s.content))
        s.n = json_array_size(s.content);
    else if (json_is_array(s.logps))
        s.n = json_array_size(s.logps);
    return s;
}

static bool get_token(const token_source *s, size_t i, uint32_t *ret)
{
    if (json_is_array(s->ids))
        return json_array_size(s->ids) == s->n && joust_response_id(json_array_get(s->ids, i), ret);
    if (json_is_array(s->content))
        return joust_response_id(json_object_get(json_array_get(s->content, i), "id"), ret) ||
               joust_response_written_id(
                   json_string_value(json_object_get(json_array_get(s->content, i), "token")), ret);
    return joust_response_written_id(json_string_value(json_array_get(s->tokens, i)), ret);
}

static const json_t *logp_value(const token_source *s, size_t i)
{
    return json_is_array(s->content) ? json_object_get(json_array_get(s->content, i), "logprob")
                                     : json_array_get(s->logps, i);
}

/* Ids and log-probs go together: without ids of all tokens neither is kept, but the log-probs are
 * checked all the same. */
static joust_status parse_tokens(const json_t *choice, uint32_t max_tokens,
                                 joust_endpoint_choice *to, joust_error *err)
{
    token_source s = find_tokens(choice);
    if (s.n > max_tokens || (json_is_array(s.ids) && json_array_size(s.ids) > max_tokens))
        return joust_fail(err, JOUST_TOO_LARGE, "more than %u tokens", max_tokens);
    if (s.n == 0)
        return JOUST_OK;
    to->tokens = joust_calloc(s.n, sizeof(*to->tokens));
    to->logps = joust_calloc(s.n, sizeof(*to->logps));
    if (!to->tokens || !to->logps)
        return joust_fail(err, JOUST_NOMEM, "answer: %zu tokens", s.n);
    bool known = true;
    for (size_t i = 0; i < s.n; i++) {
        joust_status st = joust_response_logp(logp_value(&s, i), i, &to->logps[i], err);
        if (st != JOUST_OK)
            return st;
        known = known && get_token(&s, i, &to->tokens[i]);
    }
    to->n_tokens = known ? (uint32_t)s.n : 0;
    to->n_logps = (uint32_t)s.n;
    return JOUST_OK;
}

static joust_status parse_finish(const json_t *choice, joust_finish *ret, joust_error *err)
{
    static const struct {
        const char *name;
        joust_finish finish;
    } known[] = {{"stop", JOUST_FINISH_STOP},
                 {"length", JOUST_FINISH_LENGTH},
                 {"eos", JOUST_FINISH_STOP},
                 {"tool_calls", JOUST_FINISH_STOP},
                 {"content_filter", JOUST_FINISH_ABORTED}};
    const char *reason = json_string_value(json_object_get(choice, "finish_reason"));
    const json_t *stop = json_object_get(choice, "stop_reason");
    const json_t *matched = json_object_get(choice, "matched_stop");
    if (!reason)
        return joust_fail(err, JOUST_MALFORMED, "a choice without finish_reason: it was cut short");
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        if (strcmp(reason, known[i].name) != 0)
            continue;
        *ret = known[i].finish;
        if (*ret == JOUST_FINISH_STOP && (json_is_string(stop) || json_is_string(matched)))
            *ret = JOUST_FINISH_STOP_STRING;
        return JOUST_OK;
    }
    return joust_fail(err, JOUST_MALFORMED, "finish_reason '%.40s' is unknown", reason);
}

static joust_status parse_text(const json_t *choice, joust_endpoint_mode mode, char **ret,
                               joust_error *err)
{
    const json_t *message = json_object_get(choice, "message");
    const json_t *text = mode == JOUST_ENDPOINT_CHAT ? json_object_get(message, "content")
                                                     : json_object_get(choice, "text");
    bool empty = mode == JOUST_ENDPOINT_CHAT && json_is_object(message) && json_is_null(text);
    if (!json_is_string(text) && !empty)
        return joust_fail(err, JOUST_MALFORMED, "a choice without text");
    if (!empty && json_string_length(text) > JOUST_MAX_TEXT_BYTES)
        return joust_fail(err, JOUST_TOO_LARGE, "a text of %zu bytes", json_string_length(text));
    *ret = joust_strdup(empty ? "" : json_string_value(text));
    return *ret ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "answer: text");
}

static joust_status parse_choice(const json_t *choice, const joust_job_endpoint *e,
                                 uint32_t max_tokens, joust_endpoint_answer *to, joust_error *err)
{
    uint32_t index = 0;
    const json_t *given = json_object_get(choice, "index");
    if (!json_is_object(choice) || (given && !joust_response_id(given, &index)) ||
        (!given && to->n > 1))
        return joust_fail(err, JOUST_MALFORMED, "a choice without a usable index");
    if (index >= to->n || to->choices[index].text)
        return joust_fail(err, JOUST_MALFORMED, "choice %u of %u, or twice", index, to->n);
    joust_endpoint_choice *c = &to->choices[index];
    joust_status st = parse_text(choice, e->mode, &c->text, err);
    if (st == JOUST_OK)
        st = parse_finish(choice, &c->finish, err);
    if (st == JOUST_OK)
        st = parse_tokens(choice, max_tokens, c, err);
    return st == JOUST_OK ? st : joust_blame(err, st, "choice %u", index);
}

/* ---- the whole ---- */

/* vLLM gives them with each choice (completions) or once (chat). */
static joust_status parse_prompt_ids(const json_t *root, const json_t *choices,
                                     joust_endpoint_answer *to, joust_error *err)
{
    const json_t *ids = json_object_get(root, "prompt_token_ids");
    if (!json_is_array(ids))
        ids = json_object_get(json_array_get(choices, 0), "prompt_token_ids");
    size_t n = json_array_size(ids);
    if (n == 0)
        return JOUST_OK;
    if (n > MAX_PROMPT_IDS)
        return joust_fail(err, JOUST_TOO_LARGE, "a prompt of %zu tokens", n);
    to->prompt_tokens = joust_calloc(n, sizeof(*to->prompt_tokens));
    if (!to->prompt_tokens)
        return joust_fail(err, JOUST_NOMEM, "answer: %zu tokens", n);
    for (size_t i = 0; i < n; i++)
        if (!joust_response_id(json_array_get(ids, i), &to->prompt_tokens[i]))
            return joust_fail(err, JOUST_MALFORMED, "prompt_token_ids: no id at %zu", i);
    to->n_prompt_tokens = (uint32_t)n;
    return JOUST_OK;
}

/* "gpt-x-2024-08-06" answers for "gpt-x", "x@main" for "x": a dated name, or a revision, of the same model. */
static bool is_model(const char *name, const char *model)
{
    size_t n = strlen(model);
    return strncmp(name, model, n) == 0 &&
           (name[n] == '\0' || name[n] == '@' ||
            (name[n] == '-' && name[n + 1] >= '0' && name[n + 1] <= '9'));
}

joust_status joust_response_check(const json_t *root, const joust_job_endpoint *e, uint32_t n,
                                  joust_error *err)
{
    const char *model = json_string_value(json_object_get(root, "model"));
    const json_t *choices = json_object_get(root, "choices");
    if (model && !is_model(model, e->model))
        return joust_fail(err, JOUST_STALE, "model '%.100s' answers, expected '%.100s'", model,
                          e->model);
    if (!json_is_array(choices) || json_array_size(choices) != n)
        return joust_fail(err, JOUST_MALFORMED, "%zu choices, expected %u",
                          json_array_size(choices), n);
    return JOUST_OK;
}

static joust_status parse_root(const json_t *root, const joust_job_endpoint *e, uint32_t n,
                               uint32_t max_tokens, joust_endpoint_answer *to, joust_error *err)
{
    const json_t *choices = json_object_get(root, "choices");
    const json_t *usage = json_object_get(root, "usage");
    joust_status st = joust_response_check(root, e, n, err);
    if (st != JOUST_OK)
        return st;
    to->choices = joust_calloc(n, sizeof(*to->choices));
    if (!to->choices)
        return joust_fail(err, JOUST_NOMEM, "answer: %u choices", n);
    to->n = n;
    for (uint32_t i = 0; st == JOUST_OK && i < n; i++)
        st = parse_choice(json_array_get(choices, i), e, max_tokens, to, err);
    if (st == JOUST_OK)
        st = parse_prompt_ids(root, choices, to, err);
    /* What a server says of itself is believed within what it can have done. */
    to->usage_prompt = joust_response_count(usage, "prompt_tokens", JOUST_MAX_TOKENS);
    to->usage_completion =
        joust_response_count(usage, "completion_tokens", (uint64_t)n * max_tokens);
    return st;
}

joust_status joust_endpoint_parse(const void *body, size_t n_bytes, const joust_job_endpoint *e,
                                  uint32_t n, uint32_t max_tokens, joust_endpoint_answer *ret,
                                  joust_error *err)
{
    json_t *root;
    joust_endpoint_answer answer = {0};
    joust_status st = joust_response_load(body, n_bytes, &root, err);
    if (st != JOUST_OK)
        return st;
    st = parse_root(root, e, n, max_tokens, &answer, err);
    json_decref(root);
    if (st == JOUST_OK)
        *ret = answer;
    else
        joust_endpoint_answer_fini(&answer);
    return st;
}

/* ---- errors, models ---- */

/* Without spaces at its ends; nothing, where there is nothing else. */
static void copy_line(const char *text, size_t n, char to[256])
{
    size_t at = 0;
    for (size_t i = 0; i < n && at < 200; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c > 0x20 || at > 0)
            to[at++] = c >= 0x20 && c < 0x7f ? (char)c : ' ';
    }
    while (at > 0 && to[at - 1] == ' ')
        at--;
    to[at] = '\0';
}

void joust_endpoint_error_text(const void *body, size_t n_bytes, char to[256])
{
    json_t *root = json_loadb(body, n_bytes, 0, NULL);
    const json_t *error = json_object_get(root, "error");
    const char *text = json_string_value(error);
    if (!text)
        text = json_string_value(json_object_get(error, "message"));
    if (!text)
        text = json_string_value(json_object_get(root, "message"));
    if (!text)
        text = json_string_value(json_object_get(root, "detail"));
    copy_line(text ? text : body, text ? strlen(text) : n_bytes, to);
    json_decref(root);
    if (!*to)
        snprintf(to, 256, "%s", n_bytes ? "no text that can be read" : "an empty body");
}

joust_status joust_endpoint_parse_models(const void *body, size_t n_bytes, const char *model,
                                         joust_endpoint_server *ret_server, bool *ret_listed,
                                         joust_error *err)
{
    static const struct {
        const char *owner;
        joust_endpoint_server server;
    } known[] = {{"vllm", JOUST_SERVER_VLLM},
                 {"sglang", JOUST_SERVER_SGLANG},
                 {"llamacpp", JOUST_SERVER_LLAMA_CPP}};
    json_t *root;
    joust_status st = joust_response_load(body, n_bytes, &root, err);
    if (st != JOUST_OK)
        return st;
    const json_t *data = json_object_get(root, "data");
    joust_endpoint_server server = JOUST_SERVER_OPENAI;
    bool listed = false;
    if (!json_is_array(data))
        st = joust_fail(err, JOUST_MALFORMED, "the list of models has no data: [...]");
    for (size_t i = 0; st == JOUST_OK && i < json_array_size(data); i++) {
        const json_t *entry = json_array_get(data, i);
        const char *id = json_string_value(json_object_get(entry, "id"));
        const char *owner = json_string_value(json_object_get(entry, "owned_by"));
        listed = listed || (id && strcmp(id, model) == 0);
        for (size_t k = 0; owner && k < sizeof(known) / sizeof(*known); k++)
            if (strcmp(owner, known[k].owner) == 0)
                server = known[k].server;
    }
    json_decref(root);
    if (st != JOUST_OK)
        return st;
    *ret_server = server;
    *ret_listed = listed;
    return JOUST_OK;
}
