/* joust generate: a model goes on with a text. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "ops/cli.h"
#include "ops/local_model.h"
#include "ops/verbs.h"
#include "proto/base/file.h"
#include "proto/base/text.h"
#include "proto/job.h"
#include "proto/records.h"
#include "worker/engine/generate.h"
#include "worker/engine/grammar/grammar.h"
#include "worker/engine/masks/mask.h"
#include "worker/engine/text/stop.h"

typedef struct arguments {
    const char *model, *prompt, *messages, *response_prefix, *grammar, *json_schema;
    double temperature, top_p, min_p, repetition_penalty;
    uint32_t top_k, max_tokens, min_tokens;
    joust_local_place place;
    joust_text_list stop;
    uint64_t seed;
    bool no_bos, json, render;
} arguments;

/* What is printed when the text is whole. */
typedef struct output {
    const arguments *args;
    const joust_tokens *prompt;
    joust_stop stop;
    joust_mask *mask; /* or NULL */
    joust_buf text;
} output;

static void add_ids(joust_buf *to, const char *key, const uint32_t *ids, uint32_t n)
{
    joust_buf_format(to, "\"%s\":[", key);
    for (uint32_t i = 0; i < n; i++)
        joust_buf_format(to, "%s%u", i ? "," : "", ids[i]);
    joust_buf_text(to, "],");
}

static void add_logps(joust_buf *to, const char *key, const float *logps, uint32_t n,
                      const char *end)
{
    joust_buf_format(to, "\"%s\":[", key);
    for (uint32_t i = 0; i < n; i++) {
        joust_buf_text(to, i ? "," : "");
        joust_json_float(to, logps[i]);
    }
    joust_buf_text(to, end);
}

static void add_json(output *o, const joust_generated *result, const joust_buf *text)
{
    joust_buf_text(&o->text, "{\"text\":");
    joust_json_string(&o->text, text->data, text->n);
    joust_buf_format(&o->text, ",\"finish\":\"%s\",", joust_finish_name(result->finish));
    add_ids(&o->text, "prompt_tokens", o->prompt->ids, o->prompt->n);
    add_ids(&o->text, "tokens", result->tokens, result->n);
    add_logps(&o->text, "raw_logps", result->raw_logps, result->n, "],");
    add_logps(&o->text, "logps", result->logps, result->n, "]}");
}

static joust_status take_result(void *context, uint32_t request, uint32_t sample,
                                const joust_generated *result, joust_error *err)
{
    (void)request;
    (void)sample;
    output *o = context;
    joust_buf text = {0};
    joust_status st =
        joust_stop_text(&o->stop, result->tokens, result->n, result->finish, &text, err);
    if (st == JOUST_OK && o->args->json)
        add_json(o, result, &text);
    else if (st == JOUST_OK)
        joust_buf_add(&o->text, text.data, text.n);
    joust_buf_fini(&text);
    return st == JOUST_OK ? joust_buf_status(&o->text, err) : st;
}

static joust_status guide(void *context, uint32_t request, uint32_t sample, const uint32_t *tokens,
                          uint32_t n, float *logits, uint32_t n_vocab, joust_error *err)
{
    const output *o = context;
    return joust_mask_guide(o->mask, request, sample, tokens, n, logits, n_vocab, err);
}

static joust_status watch(void *context, uint32_t request, uint32_t sample, const uint32_t *tokens,
                          uint32_t n, joust_finish *ret_finish, joust_error *err)
{
    output *o = context;
    return joust_stop_watch(&o->stop, request, sample, tokens, n, ret_finish, err);
}

/* The mask of --grammar or --json-schema; o->mask NULL: there is none. */
static joust_status read_mask(const joust_local_model *m, const arguments *args, uint32_t n_forced,
                              output *o, joust_error *err)
{
    const char *path = args->grammar ? args->grammar : args->json_schema;
    joust_buf text = {0};
    if (!path)
        return JOUST_OK;
    joust_status st = joust_file_read(path, JOUST_MAX_GRAMMAR_BYTES, &text, err);
    if (st == JOUST_OK && memchr(text.data, 0, text.n))
        st = joust_fail(err, JOUST_INVALID, "%s: a NUL byte in it: not text", path);
    if (st == JOUST_OK) {
        const char *content = (const char *)text.data;
        const joust_mask_rule rule = {.grammar = args->grammar ? content : NULL,
                                      .json_schema = args->grammar ? NULL : content,
                                      .n_forced = n_forced};
        st = args->grammar ? joust_grammar_check(content, path, err)
                           : joust_schema_check(content, path, err);
        if (st == JOUST_OK) {
            st = joust_mask_create(m->tokenizer, joust_model_get_config(m->model), &rule, &o->mask,
                                   err);
            if (st != JOUST_OK)
                st = joust_blame(err, st, "%s", path);
        }
    }
    joust_buf_fini(&text);
    return st;
}

static joust_status generate(const joust_local_model *m, const arguments *args, output *o,
                             joust_error *err)
{
    joust_tokens prompt = {0}, forced = {0};
    joust_stream_name name = {.job_seed = args->seed, .purpose = JOUST_PURPOSE_SAMPLE};
    joust_stream stream = joust_stream_open(&name);
    joust_status st = args->messages
                          ? joust_local_model_messages(m, args->messages, &prompt, NULL, err)
                          : joust_local_model_prompt(m, args->prompt, !args->no_bos, &prompt, err);
    if (st == JOUST_OK && args->response_prefix)
        st = joust_tokenizer_encode(m->tokenizer, args->response_prefix,
                                    strlen(args->response_prefix), true, &forced, err);
    if (st == JOUST_OK)
        st = read_mask(m, args, forced.n, o, err);
    if (st == JOUST_OK) {
        o->stop = (joust_stop){.tokenizer = m->tokenizer,
                               .texts = args->stop.items,
                               .n = args->stop.n,
                               .n_forced = forced.n};
        joust_generate_request request = {
            .prompt = prompt.ids,
            .n_prompt = prompt.n,
            .forced = forced.ids,
            .n_forced = forced.n,
            .guide = o->mask ? guide : NULL,
            .watch = args->stop.n ? watch : NULL,
            .context = o,
            .n_samples = 1,
            .streams = &stream,
            .sampling = {.temperature = (float)args->temperature,
                         .top_p = (float)args->top_p,
                         .min_p = (float)args->min_p,
                         .top_k = args->top_k,
                         .max_tokens = args->max_tokens,
                         .min_tokens = args->min_tokens,
                         .repetition_penalty = (float)args->repetition_penalty}};
        o->prompt = &prompt;
        st = joust_generate(m->engine, m->model, &request, 1, take_result, NULL, o, err);
    }
    joust_mask_free(&o->mask);
    joust_tokens_fini(&forced);
    joust_tokens_fini(&prompt);
    return st;
}

static joust_status check(const arguments *a, joust_error *err)
{
    if (!a->model)
        return joust_fail(err, JOUST_INVALID, "--model DIR is missing");
    if (a->messages && *a->prompt)
        return joust_fail(err, JOUST_INVALID, "--prompt and --messages: give one of them");
    if (a->render && !a->messages)
        return joust_fail(err, JOUST_INVALID, "--render: --messages FILE is missing");
    if (a->grammar && a->json_schema)
        return joust_fail(err, JOUST_INVALID, "--grammar and --json-schema: give one of them");
    if (a->temperature < 0)
        return joust_fail(err, JOUST_INVALID, "--temperature: expected 0 (greedy) or more");
    if (!(a->top_p > 0 && a->top_p <= 1))
        return joust_fail(err, JOUST_INVALID, "--top-p: expected a number above 0, at most 1");
    if (!(a->min_p >= 0 && a->min_p <= 1))
        return joust_fail(err, JOUST_INVALID, "--min-p: expected a number from 0 to 1");
    if (a->max_tokens == 0)
        return joust_fail(err, JOUST_INVALID, "--max-tokens: expected at least 1");
    if (a->min_tokens > a->max_tokens)
        return joust_fail(err, JOUST_INVALID, "--min-tokens: %u, but --max-tokens is %u",
                          a->min_tokens, a->max_tokens);
    if (!(a->repetition_penalty >= 0))
        return joust_fail(err, JOUST_INVALID, "--repetition-penalty: expected 0 (off) or more");
    for (uint32_t i = 0; i < a->stop.n; i++)
        if (!a->stop.items[i][0])
            return joust_fail(err, JOUST_INVALID, "--stop: expected a text");
    return JOUST_OK;
}

int joust_verb_generate(int argc, char **argv)
{
    arguments args = {.prompt = "", .temperature = 1, .top_p = 1, .max_tokens = 128};
    const joust_option options[] = {
        {"--model", JOUST_OPTION_TEXT, &args.model, "DIR",
         "folder of the model, or a hub id in the local cache"},
        {"--prompt", JOUST_OPTION_TEXT, &args.prompt, "TEXT",
         "text to go on with; none by default"},
        {"--messages", JOUST_OPTION_TEXT, &args.messages, "FILE",
         "JSON: a list of messages, or {messages, tools, …}; the chat template renders it"},
        {"--render", JOUST_OPTION_FLAG, &args.render, NULL,
         "print the conversation as the chat template renders it, and no more"},
        {"--temperature", JOUST_OPTION_DOUBLE, &args.temperature, "T", "0: greedy; 1 by default"},
        {"--top-p", JOUST_OPTION_DOUBLE, &args.top_p, "P", "nucleus sampling; off by default"},
        {"--top-k", JOUST_OPTION_U32, &args.top_k, "K", "the K likeliest tokens; off by default"},
        {"--min-p", JOUST_OPTION_DOUBLE, &args.min_p, "P",
         "share of the likeliest; off by default"},
        {"--max-tokens", JOUST_OPTION_U32, &args.max_tokens, "N",
         "at most N tokens; 128 by default"},
        {"--min-tokens", JOUST_OPTION_U32, &args.min_tokens, "N",
         "no end before N tokens; 0 by default"},
        {"--repetition-penalty", JOUST_OPTION_DOUBLE, &args.repetition_penalty, "R",
         "on tokens of prompt and response; off by default"},
        {"--stop", JOUST_OPTION_LIST, &args.stop, "TEXT",
         "ends before TEXT; may be given several times"},
        {"--response-prefix", JOUST_OPTION_TEXT, &args.response_prefix, "TEXT",
         "what the answer begins with"},
        {"--grammar", JOUST_OPTION_TEXT, &args.grammar, "FILE",
         "GBNF: the answer is a text of its root"},
        {"--json-schema", JOUST_OPTION_TEXT, &args.json_schema, "FILE",
         "the answer is JSON that fits the schema"},
        {"--seed", JOUST_OPTION_U64, &args.seed, "S", "of the random stream; 0 by default"},
        JOUST_LOCAL_PLACE_OPTIONS(&args.place),
        {"--no-bos", JOUST_OPTION_FLAG, &args.no_bos, NULL,
         "add none of the tokenizer's special tokens (bos)"},
        {"--json", JOUST_OPTION_FLAG, &args.json, NULL,
         "text, tokens and log-probabilities as JSON"}};
    const joust_usage usage = {
        .verb = "generate",
        .synopsis = "joust generate --model DIR [--prompt TEXT | --messages FILE] [--temperature "
                    "T] [--max-tokens N] "
                    "[--seed S] [--json]",
        .about =
            "Prints how the model goes on with the text. Special tokens written in the prompt\n"
            "(<bos>) are recognised. The same arguments give the same text everywhere.",
        .options = options,
        .n_options = sizeof(options) / sizeof(*options)};
    int status = joust_cli_parse(&usage, argc, argv, NULL, NULL);
    if (status >= 0)
        return status;
    joust_error err = {0};
    joust_local_model model = {0};
    joust_status st = check(&args, &err);
    if (st == JOUST_OK)
        st = joust_local_model_open(args.model, &args.place, &model, &err);
    output out = {.args = &args};
    if (st == JOUST_OK)
        st = args.render ? joust_local_model_messages(&model, args.messages, NULL, &out.text, &err)
                         : generate(&model, &args, &out, &err);
    if (st == JOUST_OK) {
        joust_buf_text(&out.text, "\n");
        fwrite(out.text.data, 1, out.text.n, stdout);
        if (!joust_buf_ok(&out.text) || fflush(stdout) != 0)
            st = joust_fail(&err, JOUST_IO, "standard output: can't write");
    }
    joust_buf_fini(&out.text);
    joust_local_model_close(&model);
    return st == JOUST_OK ? JOUST_EXIT_OK : joust_cli_fail("generate", &err);
}
