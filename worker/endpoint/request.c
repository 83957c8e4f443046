/* Bodies of requests. */
#include <string.h>

#include "proto/base/text.h"
#include "worker/endpoint/wire.h"

uint32_t joust_endpoint_top(const joust_job_endpoint *e)
{
    return e->top_logprobs ? e->top_logprobs : JOUST_TOP_LOGPROBS;
}

static void add_text(joust_buf *to, const char *name, const char *text)
{
    joust_buf_format(to, ",\"%s\":", name);
    joust_json_string(to, text, strlen(text));
}

static void add_float(joust_buf *to, const char *name, float value)
{
    joust_buf_format(to, ",\"%s\":", name);
    joust_json_float(to, value);
}

static void add_prompt(const joust_endpoint_ask *ask, joust_buf *to)
{
    const joust_job_endpoint *e = ask->endpoint;
    if (!ask->prompt) {
        joust_buf_text(to, ",\"prompt\":[");
        for (uint32_t i = 0; i < ask->n_ids; i++)
            joust_buf_format(to, "%s%u", i ? "," : "", ask->ids[i]);
        joust_buf_text(to, "]");
        return;
    }
    if (e->mode == JOUST_ENDPOINT_COMPLETIONS && ask->label) {
        joust_buf both = {0};
        joust_buf_text(&both, ask->prompt);
        joust_buf_text(&both, ask->label);
        joust_buf_text(to, ",\"prompt\":");
        joust_json_string(to, joust_buf_ok(&both) ? (const char *)both.data : "", both.n);
        to->failed = to->failed || both.failed;
        joust_buf_fini(&both);
        return;
    }
    if (e->mode == JOUST_ENDPOINT_COMPLETIONS) {
        add_text(to, "prompt", ask->prompt);
        return;
    }
    joust_buf_text(to, ",\"messages\":[");
    if (e->system) {
        joust_buf_text(to, "{\"role\":\"system\",\"content\":");
        joust_json_string(to, e->system, strlen(e->system));
        joust_buf_text(to, "},");
    }
    joust_buf_text(to, "{\"role\":\"user\",\"content\":");
    joust_json_string(to, ask->prompt, strlen(ask->prompt));
    joust_buf_text(to, "}]");
}

static joust_status add_sampling(const joust_endpoint_ask *ask, joust_buf *to, joust_error *err)
{
    const joust_sampling *s = ask->sampling;
    bool extended = ask->server != JOUST_SERVER_OPENAI;
    bool penalty = s->repetition_penalty > 0 && s->repetition_penalty != 1;
    if (!extended && (s->top_k || s->min_p > 0 || penalty || s->min_tokens))
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "the server isn't known to take top_k, min_p, min_tokens and "
                          "repetition_penalty: leave them out, or say endpoint.server: vllm, "
                          "sglang or llama.cpp");
    if (s->min_tokens && ask->server == JOUST_SERVER_LLAMA_CPP)
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "llama.cpp doesn't take min_tokens: leave it out");
    joust_buf_format(to, ",\"n\":%u,\"seed\":%llu,\"max_tokens\":%u", ask->n,
                     (unsigned long long)ask->seed, s->max_tokens);
    add_float(to, "temperature", s->temperature);
    add_float(to, "top_p", s->top_p);
    if (s->min_p > 0)
        add_float(to, "min_p", s->min_p);
    if (s->top_k)
        joust_buf_format(to, ",\"top_k\":%u", s->top_k);
    else if (ask->server == JOUST_SERVER_LLAMA_CPP) /* its default cuts */
        joust_buf_text(to, ",\"top_k\":0");
    if (ask->server == JOUST_SERVER_LLAMA_CPP && !(s->min_p > 0))
        joust_buf_text(to, ",\"min_p\":0");
    if (s->min_tokens)
        joust_buf_format(to, ",\"min_tokens\":%u", s->min_tokens);
    if (penalty)
        add_float(to,
                  ask->server == JOUST_SERVER_LLAMA_CPP ? "repeat_penalty" : "repetition_penalty",
                  s->repetition_penalty);
    return JOUST_OK;
}

static void add_logprobs(const joust_endpoint_ask *ask, joust_buf *to)
{
    if (ask->label) {
        joust_buf_text(to, ",\"logprobs\":1,\"echo\":true");
        return;
    }
    if (ask->top) {
        joust_buf_format(to,
                         ask->endpoint->mode == JOUST_ENDPOINT_CHAT
                             ? ",\"logprobs\":true,\"top_logprobs\":%u"
                             : ",\"logprobs\":%u",
                         ask->top);
        return;
    }
    if (ask->endpoint->mode == JOUST_ENDPOINT_CHAT)
        joust_buf_text(to, ",\"logprobs\":true,\"top_logprobs\":1");
    else
        joust_buf_text(to, ",\"logprobs\":1");
    if (ask->server == JOUST_SERVER_VLLM)
        joust_buf_text(to, ",\"return_token_ids\":true");
}

joust_status joust_endpoint_body(const joust_endpoint_ask *ask, joust_buf *to, joust_error *err)
{
    const joust_job_endpoint *e = ask->endpoint;
    joust_buf_text(to, "{\"model\":");
    joust_json_string(to, e->model, strlen(e->model));
    add_prompt(ask, to);
    joust_status st = add_sampling(ask, to, err);
    if (st != JOUST_OK)
        return st;
    uint32_t n_stop = ask->rollout ? ask->rollout->n_stop : 0;
    for (uint32_t i = 0; i < n_stop; i++) {
        joust_buf_text(to, i ? "," : ",\"stop\":[");
        joust_json_string(to, ask->rollout->stop[i], strlen(ask->rollout->stop[i]));
    }
    joust_buf_text(to, n_stop ? "]" : "");
    if (e->logprobs)
        add_logprobs(ask, to);
    joust_buf_text(to, ",\"stream\":false}");
    return joust_buf_status(to, err);
}
