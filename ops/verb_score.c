/* joust score: how likely a model finds a response. */
#include <stdio.h>
#include <string.h>

#include "ops/cli.h"
#include "ops/local_model.h"
#include "ops/verbs.h"
#include "proto/base/alloc.h"
#include "proto/base/text.h"
#include "worker/engine/generate.h"
#include "worker/engine/hidden.h"

typedef struct arguments {
    const char *model, *prompt, *response;
    joust_local_place place;
    bool no_bos, json;
} arguments;

static void add_json(joust_buf *to, const joust_tokens *tokens, uint32_t first, const float *logps,
                     double sum)
{
    joust_buf_text(to, "{\"logp\":");
    joust_json_double(to, sum);
    joust_buf_format(to, ",\"n_tokens\":%u,\"tokens\":[", tokens->n - first);
    for (uint32_t i = first; i < tokens->n; i++)
        joust_buf_format(to, "%s%u", i > first ? "," : "", tokens->ids[i]);
    joust_buf_text(to, "],\"token_logps\":[");
    for (uint32_t i = first; i < tokens->n; i++) {
        joust_buf_text(to, i > first ? "," : "");
        joust_json_float(to, logps[i - first]);
    }
    joust_buf_text(to, "]}\n");
}

static void report(const arguments *args, const joust_tokens *tokens, uint32_t first,
                   const float *logps, joust_buf *to)
{
    double sum = 0;
    uint32_t n = tokens->n - first;
    for (uint32_t i = 0; i < n; i++)
        sum += logps[i];
    if (args->json)
        add_json(to, tokens, first, logps, sum);
    else
        joust_buf_format(to, "logp %.6f nats over %u tokens, %.6f a token\n", sum, n, sum / n);
}

/* What a reward model makes of prompt and response. */
static joust_status score_whole(const joust_local_model *m, const arguments *args,
                                const joust_tokens *tokens, joust_buf *to, joust_error *err)
{
    float value = 0;
    const joust_hidden_request request = {
        .tokens = tokens->ids, .n = tokens->n, .ret_score = &value};
    joust_status st = joust_hidden(m->engine, m->model, &request, 1, NULL, NULL, err);
    if (st != JOUST_OK)
        return st;
    joust_buf_text(to, args->json ? "{\"score\":" : "score ");
    joust_json_float(to, value);
    joust_buf_format(to, args->json ? ",\"n_tokens\":%u}\n" : " after %u tokens\n", tokens->n);
    return joust_buf_status(to, err);
}

static joust_status score_tokens(const joust_local_model *m, const arguments *args,
                                 const joust_tokens *tokens, uint32_t first, joust_buf *to,
                                 joust_error *err)
{
    float *logps = joust_calloc(tokens->n - first, sizeof(*logps));
    if (!logps)
        return joust_fail(err, JOUST_NOMEM, "out of memory");
    joust_score_request request = {
        .tokens = tokens->ids, .n = tokens->n, .first = first, .ret_logps = logps};
    joust_status st = joust_score(m->engine, m->model, &request, 1, NULL, NULL, err);
    if (st == JOUST_OK) {
        report(args, tokens, first, logps, to);
        st = joust_buf_status(to, err);
    }
    joust_free(logps);
    return st;
}

/* The response follows the prompt as one text would; tokens don't reach across the seam. */
static joust_status score(const joust_local_model *m, const arguments *args, joust_buf *to,
                          joust_error *err)
{
    joust_tokens tokens = {0};
    joust_template *response = NULL;
    static const char *const slots[] = {"prompt_tokens", "response"};
    joust_status st = joust_local_model_prompt(m, args->prompt, !args->no_bos, &tokens, err);
    uint32_t first = tokens.n;
    if (st == JOUST_OK)
        st = joust_template_compile(m->tokenizer, "{prompt_tokens}{response}", slots, 2, &response,
                                    err);
    if (st == JOUST_OK) {
        joust_tokens whole = {0};
        joust_slot filled[] = {{.name = "prompt_tokens", .tokens = tokens.ids, .n_tokens = first},
                               {.name = "response", .text = args->response}};
        st = joust_template_render(response, filled, 2, &whole, err);
        joust_tokens_fini(&tokens);
        tokens = whole;
    }
    if (st == JOUST_OK && tokens.n == first)
        st = joust_fail(err, JOUST_INVALID, "--response: no tokens in it");
    if (st == JOUST_OK && joust_model_get_config(m->model)->scalar_head)
        st = score_whole(m, args, &tokens, to, err);
    else if (st == JOUST_OK)
        st = score_tokens(m, args, &tokens, first, to, err);
    joust_template_free(&response);
    joust_tokens_fini(&tokens);
    return st;
}

int joust_verb_score(int argc, char **argv)
{
    arguments args = {.prompt = ""};
    const joust_option options[] = {
        {"--model", JOUST_OPTION_TEXT, &args.model, "DIR",
         "folder of the model, or a hub id in the local cache"},
        {"--prompt", JOUST_OPTION_TEXT, &args.prompt, "TEXT",
         "what stands before; none by default"},
        {"--response", JOUST_OPTION_TEXT, &args.response, "TEXT", "what is scored"},
        JOUST_LOCAL_PLACE_OPTIONS(&args.place),
        {"--no-bos", JOUST_OPTION_FLAG, &args.no_bos, NULL,
         "add none of the tokenizer's special tokens (bos)"},
        {"--json", JOUST_OPTION_FLAG, &args.json, NULL, "with tokens and their log-probabilities"}};
    const joust_usage usage = {
        .verb = "score",
        .synopsis = "joust score --model DIR [--prompt TEXT] --response TEXT [--json]",
        .about =
            "Prints the log-probability, in nats, that the model gives the response after the\n"
            "prompt; of a reward model (a scalar head), its score after the last token. Special\n"
            "tokens are recognised in the prompt, not in the response.",
        .options = options,
        .n_options = sizeof(options) / sizeof(*options)};
    int status = joust_cli_parse(&usage, argc, argv, NULL, NULL);
    if (status >= 0)
        return status;
    joust_error err = {0};
    joust_local_model model = {0};
    joust_buf text = {0};
    joust_status st = JOUST_OK;
    if (!args.model || !args.response)
        st = joust_fail(&err, JOUST_INVALID, "%s is missing",
                        args.model ? "--response TEXT" : "--model DIR");
    if (st == JOUST_OK)
        st = joust_local_model_open(args.model, &args.place, &model, &err);
    if (st == JOUST_OK)
        st = score(&model, &args, &text, &err);
    if (st == JOUST_OK && (fwrite(text.data, 1, text.n, stdout) != text.n || fflush(stdout) != 0))
        st = joust_fail(&err, JOUST_IO, "standard output: can't write");
    joust_buf_fini(&text);
    joust_local_model_close(&model);
    return st == JOUST_OK ? JOUST_EXIT_OK : joust_cli_fail("score", &err);
}
