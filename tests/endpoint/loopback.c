#include "endpoint/loopback.h"
#include "endpoint/request.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <jansson.h>
#include <math.h>
#include <microhttpd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct loopback {
    loopback_options o;
    struct MHD_Daemon *daemon;
    atomic_uint percent[LOOPBACK_FAULTS];
    atomic_ullong weights, n_asked, n_connections;
    atomic_uint under_way, widest;
    int log;
};

/* One request. */
typedef struct exchange {
    loopback *s;
    http_request request;
    bool asks;  /* for answers, not for models */
    bool whole; /* a good answer is on its way */
} exchange;

const char *loopback_fault_name(loopback_fault fault)
{
    static const char *const names[LOOPBACK_FAULTS] = {"slow",      "cut",    "busy",  "error",
                                                       "malformed", "half",   "count", "nan",
                                                       "model",     "denied", "bare",  "positive"};
    return names[fault];
}

static void note(const loopback *s, const char *what, const char *id)
{
    char line[160];
    struct timespec now;
    if (s->log < 0)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    int n = snprintf(line, sizeof(line), "%lld %s %s\n",
                     (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000, what, id);
    if (write(s->log, line, (size_t)n) != n)
        abort();
}

static void pause_ms(uint32_t ms)
{
    struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

/* SplitMix64. */
static uint64_t mix(uint64_t x)
{
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

/* The fault of the n-th request, or LOOPBACK_FAULTS. */
static loopback_fault draw(const loopback *s, uint64_t n)
{
    for (uint32_t f = 0; f < LOOPBACK_FAULTS; f++)
        if (mix(mix(s->o.seed + 1000 * n) + f) % 100 < s->percent[f])
            return (loopback_fault)f;
    return LOOPBACK_FAULTS;
}

/* ---- answers ---- */

static const char *prompt_of(const json_t *body, bool chat)
{
    const json_t *messages = json_object_get(body, "messages");
    const char *text =
        chat ? json_string_value(json_object_get(
                   json_array_get(messages, json_array_size(messages) - 1), "content"))
             : json_string_value(json_object_get(body, "prompt"));
    return text ? text : "";
}

static long long sum_of(const char *text)
{
    long long sum = 0;
    while (*text) {
        char *end = (char *)(uintptr_t)text;
        if (*text >= '0' && *text <= '9')
            sum += (long long)(strtoull(text, &end, 10) % 1000000);
        text = end == text ? text + 1 : end;
    }
    return sum;
}

/* Of a conversation, what was said before its last message. */
static long long sum_before(const json_t *body)
{
    const json_t *messages = json_object_get(body, "messages");
    long long sum = 0;
    for (size_t i = 0; i + 1 < json_array_size(messages); i++) {
        const char *text =
            json_string_value(json_object_get(json_array_get(messages, i), "content"));
        sum += text ? sum_of(text) : 0;
    }
    return sum;
}

/* Whether the text holds one of the stop strings, before the first of which it then ends; asked as `transformers serve` is,
 * behind it. */
static bool stops(const json_t *body, char *text)
{
    const json_t *list = json_object_get(body, "stop");
    char *first = NULL;
    size_t kept = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *stop = json_string_value(json_array_get(list, i));
        char *at = strstr(text, stop);
        if (!at || (first && at >= first))
            continue;
        first = at;
        kept = json_object_get(body, "generation_config") ? strlen(stop) : 0;
    }
    if (first)
        first[kept] = '\0';
    return first != NULL;
}

static void write_answer(char to[256], const char *prompt, long long before, uint64_t seed,
                         uint64_t index, double temperature, uint64_t weights)
{
    uint64_t r = temperature > 0 ? mix(seed * 128 + index) : 0;
    long long sum = before + sum_of(prompt) + (long long)(r % 3 == 1);
    snprintf(to, 256, "Step %llu: I add all the numbers%s. #### %lld",
             (unsigned long long)(r % 1000), weights ? " twice" : "", sum);
}

/* A log-prob a byte, by the weights. */
static double logp_of(uint64_t weights, unsigned char byte)
{
    return -0.01 - (double)(mix(weights * 256 + byte) % 1000) / 1000;
}

static json_t *logprobs_of(const loopback *s, const char *text, size_t n, bool content)
{
    json_t *tokens = json_array(), *logps = json_array(), *list = json_array();
    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)text[i];
        char token[2] = {text[i], 0};
        json_array_append_new(tokens, json_string(token));
        json_array_append_new(logps, json_real(logp_of(s->weights, byte)));
        json_array_append_new(list, json_pack("{s:s,s:i,s:f}", "token", token, "id", (int)byte,
                                              "logprob", logp_of(s->weights, byte)));
    }
    return content ? json_pack("{s:o}", "content", (json_decref(tokens), json_decref(logps), list))
                   : json_pack("{s:o,s:o}", "tokens", (json_decref(list), tokens), "token_logprobs",
                               logps);
}

static json_t *ids_of(const char *text, size_t n)
{
    json_t *ids = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(ids, json_integer((unsigned char)text[i]));
    return ids;
}

/* ---- scoring ---- */

static const char *const words[] = {" yes", " no", "yes", "no",    "Yes",    "No", "A",
                                    "B",    "C",   " 8",  "first", "second", "tie"};
#define WORDS (sizeof(words) / sizeof(*words))
#define OTHER 300.0 /* of all that is no word */

static uint64_t hash_of(const char *text, size_t n)
{
    uint64_t h = 7;
    for (size_t i = 0; i < n; i++)
        h = mix(h * 257 + (unsigned char)text[i]);
    return h;
}

/* What words[i] is worth behind the first n bytes of the prompt. */
static double word_logp(const loopback *s, const char *prompt, size_t n, size_t i)
{
    uint64_t h = hash_of(prompt, n) + s->weights;
    const char *mark = NULL;
    double all = OTHER, mine = 0;
    for (const char *at = prompt; (at = strstr(at, "#### ")) && at < prompt + n; at++)
        mark = at;
    bool odd = mark && strtoull(mark + 5, NULL, 10) % 2 == 1;
    for (size_t k = 0; k < WORDS; k++) {
        bool favoured = strstr(words[k], odd ? "yes" : "no") != NULL;
        double w = (double)(100 + mix(h * 64 + k) % 400) * (mark && favoured ? 20 : 1);
        all += w;
        mine = k == i ? w : mine;
    }
    return log(mine / all);
}

/* {"tokens": [...], "token_logprobs": [null, ...]} of the prompt and a token that is drawn behind it. */
static json_t *echo_of(const loopback *s, const char *prompt)
{
    size_t n = strlen(prompt), before = n, word = WORDS;
    json_t *tokens = json_array(), *logps = json_array();
    for (size_t i = 0; i < WORDS; i++)
        if (n - before < strlen(words[i]) && n >= strlen(words[i]) &&
            strcmp(prompt + n - strlen(words[i]), words[i]) == 0) {
            word = i;
            before = n - strlen(words[i]);
        }
    for (size_t i = 0; i < before; i++) {
        char token[2] = {(unsigned char)prompt[i] < 0x80 ? prompt[i] : '?', 0};
        json_array_append_new(tokens, json_string(token));
        json_array_append_new(logps, i ? json_real(logp_of(s->weights, (unsigned char)prompt[i]))
                                       : json_null());
    }
    if (word < WORDS) {
        json_array_append_new(tokens, json_string(words[word]));
        json_array_append_new(logps, json_real(word_logp(s, prompt, before, word)));
    }
    json_array_append_new(tokens, json_string("."));
    json_array_append_new(logps, json_real(-0.5));
    return json_pack("{s:o,s:o}", "tokens", tokens, "token_logprobs", logps);
}

/* The likeliest first tokens, as the endpoint's kind writes them. */
static json_t *top_of(const loopback *s, const char *prompt, size_t most, bool content)
{
    json_t *list = json_array(), *map = json_object();
    for (size_t i = 0; i < WORDS && i < most; i++) {
        double logp = word_logp(s, prompt, strlen(prompt), i);
        json_array_append_new(list, json_pack("{s:s,s:f}", "token", words[i], "logprob", logp));
        json_object_set_new(map, words[i], json_real(logp));
    }
    if (content)
        return json_pack("{s:[{s:s,s:f,s:o}]}", "content", "token", "?", "logprob", -3.0,
                         "top_logprobs", (json_decref(map), list));
    return json_pack("{s:[s],s:[f],s:[o]}", "tokens", "?", "token_logprobs", -3.0, "top_logprobs",
                     (json_decref(list), map));
}

/* NULL: it is no request for scores. */
static json_t *scores_of(const loopback *s, const json_t *body, bool chat)
{
    const char *prompt = prompt_of(body, chat);
    const json_t *top = json_object_get(body, chat ? "top_logprobs" : "logprobs");
    if (s->o.no_logprobs || json_integer_value(json_object_get(body, "max_tokens")) != 1)
        return NULL;
    if (json_is_true(json_object_get(body, "echo")))
        return echo_of(s, prompt);
    return json_integer_value(top) > 1 ? top_of(s, prompt, (size_t)json_integer_value(top),
                                                chat || !strcmp(s->o.owner, "llamacpp"))
                                       : NULL;
}

static json_t *choice_of(const loopback *s, const json_t *body, bool chat, int index, bool bare)
{
    char text[256];
    const char *prompt = prompt_of(body, chat);
    size_t limit = (size_t)json_integer_value(json_object_get(body, "max_tokens"));
    write_answer(text, prompt, chat ? sum_before(body) : 0,
                 (uint64_t)json_integer_value(json_object_get(body, "seed")), (uint64_t)index,
                 json_number_value(json_object_get(body, "temperature")), s->weights);
    const bool stopped = stops(body, text);
    size_t n = strlen(text);
    bool cut = n > limit;
    if (cut)
        text[n = limit] = '\0';
    json_t *choice =
        json_pack("{s:i,s:s}", "index", index, "finish_reason", cut ? "length" : "stop");
    if (stopped && !cut)
        json_object_set_new(choice, "stop_reason", json_string("a stop string"));
    if (chat)
        json_object_set_new(choice, "message",
                            json_pack("{s:s,s:s}", "role", "assistant", "content", text));
    else
        json_object_set_new(choice, "text", json_string(text));
    json_t *scores = bare ? NULL : scores_of(s, body, chat);
    if (scores)
        json_object_set_new(choice, "logprobs", scores);
    else if (json_object_get(body, "logprobs") && !s->o.no_logprobs && !bare)
        json_object_set_new(choice, "logprobs",
                            logprobs_of(s, text, n, chat || !strcmp(s->o.owner, "llamacpp")));
    if (json_is_true(json_object_get(body, "return_token_ids"))) {
        json_object_set_new(choice, "token_ids", ids_of(text, n));
        json_object_set_new(choice, "prompt_token_ids", ids_of(prompt, strlen(prompt)));
    }
    return choice;
}

static char *answer(const loopback *s, const char *request, bool chat, loopback_fault fault)
{
    json_t *body = json_loads(request, 0, NULL);
    const json_t *asked = json_object_get(body, "n");
    int n = asked ? (int)json_integer_value(asked) : 1;
    uint64_t prompt_tokens = strlen(prompt_of(body, chat));
    json_t *choices = json_array();
    bool scored = json_integer_value(json_object_get(body, "max_tokens")) == 1;
    n += fault == LOOPBACK_COUNT ? (n > 1 ? -1 : 1) : 0;
    for (int i = 0; i < n; i++)
        json_array_append_new(choices, choice_of(s, body, chat, i, fault == LOOPBACK_BARE));
    json_t *reply = json_pack("{s:s,s:s,s:o,s:{s:I,s:I}}", "object", "text_completion", "model",
                              fault == LOOPBACK_MODEL ? "another-model" : s->o.model, "choices",
                              choices, "usage", "prompt_tokens", (json_int_t)prompt_tokens,
                              "completion_tokens", (json_int_t)(scored ? n : 10 * n));
    char *text = json_dumps(reply, JSON_COMPACT);
    json_decref(reply);
    json_decref(body);
    return text;
}

/* Puts NaN where the first log-prob is. */
static void spoil_logp(char *text)
{
    char *at = strstr(text, "-0.");
    if (!at)
        at = strstr(text, "-1.");
    if (at)
        memcpy(at, "NaN", 3);
}

/* Takes the sign from all log-probs. */
static void spoil_signs(char *text)
{
    for (char *at = text; (at = strchr(at, '-')); at++)
        *at = at[1] >= '0' && at[1] <= '9' ? ' ' : '-';
}

/* ---- HTTP ---- */

typedef struct half_body {
    char *text;
    size_t n;
} half_body;

static ssize_t read_half(void *arg, uint64_t at, char *to, size_t max)
{
    half_body *b = arg;
    size_t left = b->n / 2 > at ? b->n / 2 - (size_t)at : 0;
    if (left == 0)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    memcpy(to, b->text + at, left < max ? left : max);
    return (ssize_t)(left < max ? left : max);
}

static void free_half(void *arg)
{
    half_body *b = arg;
    free(b->text);
    free(b);
}

static enum MHD_Result reply(struct MHD_Connection *c, unsigned status, char *text,
                             const char *retry_after)
{
    struct MHD_Response *r =
        MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE);
    if (retry_after)
        MHD_add_response_header(r, "Retry-After", retry_after);
    MHD_add_response_header(r, "Content-Type", "application/json");
    enum MHD_Result queued = MHD_queue_response(c, status, r);
    MHD_destroy_response(r);
    return queued;
}

static enum MHD_Result reply_half(struct MHD_Connection *c, char *text)
{
    half_body *b = malloc(sizeof(*b));
    *b = (half_body){text, strlen(text)};
    struct MHD_Response *r = MHD_create_response_from_callback(b->n, 1024, read_half, b, free_half);
    enum MHD_Result queued = MHD_queue_response(c, 200, r);
    MHD_destroy_response(r);
    return queued;
}

static enum MHD_Result reply_models(const loopback *s, struct MHD_Connection *c)
{
    if (s->o.no_list)
        return reply(c, 500, strdup("Internal Server Error"), NULL);
    json_t *list =
        json_pack("{s:s,s:[{s:s,s:s,s:s}]}", "object", "list", "data", "id",
                  s->o.lists ? s->o.lists : s->o.model, "object", "model", "owned_by", s->o.owner);
    char *text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    return reply(c, 200, text, NULL);
}

static enum MHD_Result reply_answer(exchange *x, struct MHD_Connection *c, bool chat)
{
    loopback *s = x->s;
    loopback_fault fault = draw(s, ++s->n_asked);
    if (s->o.good_probes && strcmp(x->request.id, "probe") == 0)
        fault = LOOPBACK_FAULTS;
    note(s, "ask", x->request.id);
    unsigned now = ++s->under_way;
    if (now > s->widest)
        s->widest = now;
    pause_ms(s->o.answer_ms + (fault == LOOPBACK_SLOW ? s->o.slow_ms : 0));
    --s->under_way;
    if (fault != LOOPBACK_FAULTS)
        note(s, loopback_fault_name(fault), x->request.id);
    if (fault == LOOPBACK_CUT)
        return MHD_NO;
    if (fault == LOOPBACK_BUSY)
        return reply(c, 429, strdup("{\"error\":{\"message\":\"too much to do\"}}"),
                     s->o.retry_after ? s->o.retry_after : "1");
    if (fault == LOOPBACK_ERROR)
        return reply(c, 500, strdup("{\"error\":{\"message\":\"out of order\"}}"), NULL);
    if (fault == LOOPBACK_DENIED)
        return reply(c, 401, strdup("{\"error\":{\"message\":\"who are you?\"}}"), NULL);
    char *text = answer(s, x->request.body, chat, fault);
    if (fault == LOOPBACK_MALFORMED)
        text[strlen(text) / 3] = '\0';
    if (fault == LOOPBACK_NAN)
        spoil_logp(text);
    if (fault == LOOPBACK_POSITIVE)
        spoil_signs(text);
    if (fault == LOOPBACK_HALF)
        return reply_half(c, text);
    x->whole = fault == LOOPBACK_FAULTS; /* nobody may have waited for a slow one */
    return reply(c, 200, text, NULL);
}

static bool may_ask(const loopback *s, struct MHD_Connection *c)
{
    char expected[256];
    const char *given = MHD_lookup_connection_value(c, MHD_HEADER_KIND, "Authorization");
    snprintf(expected, sizeof(expected), "Bearer %s", s->o.key ? s->o.key : "");
    return !s->o.key || (given && strcmp(given, expected) == 0);
}

static enum MHD_Result dispatch(exchange *x, struct MHD_Connection *c, const char *path)
{
    bool chat = strcmp(path, "/v1/chat/completions") == 0;
    if (!may_ask(x->s, c))
        return reply(c, 401, strdup("{\"error\":{\"message\":\"who are you?\"}}"), NULL);
    if (strcmp(path, "/v1/models") == 0)
        return reply_models(x->s, c);
    if (!chat && strcmp(path, "/v1/completions") != 0)
        return reply(c, 404, strdup("{\"detail\":\"Not Found\"}"), NULL);
    x->asks = true;
    if (!x->request.body)
        return reply(c, 400, strdup("{\"error\":{\"message\":\"no body\"}}"), NULL);
    if (strstr(x->request.body, "\"echo\":true") && strcmp(x->s->o.owner, "vllm") != 0 &&
        strcmp(x->s->o.owner, "sglang") != 0)
        return reply(c, 400, strdup("{\"error\":{\"message\":\"no echo here\"}}"), NULL);
    if (strstr(x->request.body, "REFUSE ME"))
        return reply(c, 400, strdup("{\"error\":{\"message\":\"prompt refused\"}}"), NULL);
    return reply_answer(x, c, chat);
}

static enum MHD_Result handle(void *arg, struct MHD_Connection *c, const char *path,
                              const char *method, const char *version, const char *data, size_t *n,
                              void **state)
{
    exchange *x = *state;
    (void)method;
    (void)version;
    if (!x) {
        x = calloc(1, sizeof(*x));
        x->s = arg;
        request_begin(&x->request, c);
        *state = x;
        return MHD_YES;
    }
    if (*n == 0)
        return dispatch(x, c, path);
    return request_add(&x->request, data, n);
}

static void completed(void *arg, struct MHD_Connection *c, void **state,
                      enum MHD_RequestTerminationCode how)
{
    exchange *x = *state;
    (void)arg;
    (void)c;
    if (!x)
        return;
    if (x->asks && x->whole)
        note(x->s, how == MHD_REQUEST_TERMINATED_COMPLETED_OK ? "ok" : "unread", x->request.id);
    request_fini(&x->request);
    free(x);
}

static void connected(void *arg, struct MHD_Connection *c, void **state,
                      enum MHD_ConnectionNotificationCode how)
{
    loopback *s = arg;
    (void)c;
    (void)state;
    s->n_connections += how == MHD_CONNECTION_NOTIFY_STARTED;
}

uint64_t loopback_connections(const loopback *s)
{
    return s->n_connections;
}

loopback *loopback_start(const loopback_options *options)
{
    loopback *s = calloc(1, sizeof(*s));
    struct sockaddr_in at = {.sin_family = AF_INET,
                             .sin_port = htons(options->port),
                             .sin_addr = {htonl(INADDR_LOOPBACK)}};
    s->o = *options;
    s->weights = options->weights;
    for (int f = 0; f < LOOPBACK_FAULTS; f++)
        s->percent[f] = options->percent[f];
    s->log = options->log ? open(options->log, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    unsigned how = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD;
    /* Without TLS the list of its options is ended before them. */
    s->daemon = MHD_start_daemon(
        options->tls_key ? how | MHD_USE_TLS : how, options->port, NULL, NULL, handle, s,
        MHD_OPTION_SOCK_ADDR, &at, MHD_OPTION_NOTIFY_COMPLETED, completed, NULL,
        MHD_OPTION_NOTIFY_CONNECTION, connected, s,
        options->tls_key ? MHD_OPTION_HTTPS_MEM_KEY : MHD_OPTION_END, options->tls_key,
        MHD_OPTION_HTTPS_MEM_CERT, options->tls_certificate, MHD_OPTION_END);
    if (s->daemon)
        return s;
    free(s);
    return NULL;
}

void loopback_stop(loopback *s)
{
    if (!s)
        return;
    MHD_stop_daemon(s->daemon);
    if (s->log >= 0)
        close(s->log);
    free(s);
}

uint16_t loopback_port(const loopback *s)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(s->daemon, MHD_DAEMON_INFO_BIND_PORT);
    return info ? info->port : 0;
}

uint64_t loopback_asked(const loopback *s)
{
    return s->n_asked;
}

uint32_t loopback_widest(const loopback *s)
{
    return s->widest;
}

void loopback_set_percent(loopback *s, loopback_fault fault, uint32_t percent)
{
    s->percent[fault] = percent;
}

void loopback_set_weights(loopback *s, uint64_t weights)
{
    s->weights = weights;
}
