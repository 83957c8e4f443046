/* The table of keys: models:, and those that are served. */
#include "ops/job_table_internal.h"

static const joust_choice ENDPOINT_MODES[] = {{"completions", JOUST_ENDPOINT_COMPLETIONS, false},
                                              {"chat", JOUST_ENDPOINT_CHAT, false},
                                              {NULL, 0, false}};
static const joust_choice ENDPOINT_SERVERS[] = {
    {"auto", JOUST_SERVER_AUTO, false},     {"vllm", JOUST_SERVER_VLLM, false},
    {"sglang", JOUST_SERVER_SGLANG, false}, {"llama.cpp", JOUST_SERVER_LLAMA_CPP, false},
    {"openai", JOUST_SERVER_OPENAI, false}, {NULL, 0, false}};

#define AT(member) offsetof(joust_job_endpoint, member)
static const joust_key ENDPOINT_KEYS[] = {
    {.name = "urls",
     .kind = JOUST_KEY_TEXTS,
     .offset = AT(urls),
     .count_offset = AT(n_urls),
     .max_items = JOUST_MAX_URLS,
     .required = true,
     .help = "servers of the same model, each with its /v1: http://127.0.0.1:8000/v1"},
    {.name = "model",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(model),
     .required = true,
     .help = "as the servers call it"},
    {.name = "mode",
     .kind = JOUST_KEY_CHOICE,
     .offset = AT(mode),
     .choices = ENDPOINT_MODES,
     .help = "completions: the prompt in rollout.template; chat: that as the user's message"},
    {.name = "system",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(system),
     .help = "chat: system message"},
    {.name = "api_key_env",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(api_key_env),
     .help = "name of the environment variable, on the workers, that holds the key"},
    {.name = "samples_per_request",
     .kind = JOUST_KEY_U32,
     .offset = AT(samples_per_request),
     .low = 1,
     .high = 128,
     .help = "n of a request at most; above 1 the samples of a request share its seed"},
    {.name = "server",
     .kind = JOUST_KEY_CHOICE,
     .offset = AT(server),
     .choices = ENDPOINT_SERVERS,
     .help = "whose extensions they speak; auto: as their list of models says"},
    {.name = "logprobs",
     .kind = JOUST_KEY_BOOL,
     .offset = AT(logprobs),
     .help = "ask for log-probs and token ids; recorded where both are given"},
    {.name = "probe",
     .kind = JOUST_KEY_BOOL,
     .offset = AT(probe),
     .help = "compare what the servers answer to a fixed text, each round and when one comes back"},
    {.name = "concurrency",
     .kind = JOUST_KEY_U32,
     .offset = AT(concurrency),
     .low = 1,
     .high = 4096,
     .help = "requests under way at once, a URL and a worker"},
    {.name = "connect_ms",
     .kind = JOUST_KEY_U32,
     .offset = AT(connect_ms),
     .low = 1,
     .high = 600000,
     .help = "to connect"},
    {.name = "timeout_ms",
     .kind = JOUST_KEY_U32,
     .offset = AT(timeout_ms),
     .low = 1,
     .high = 86400000,
     .help = "of one try, as a whole"},
    {.name = "deadline_ms",
     .kind = JOUST_KEY_U32,
     .offset = AT(deadline_ms),
     .low = 1,
     .high = 604800000,
     .help = "of a request with all its tries; then its unit fails"},
    {.name = "breaker_failures",
     .kind = JOUST_KEY_U32,
     .offset = AT(breaker_failures),
     .low = 1,
     .high = 1000,
     .help = "failures in a row after which a URL rests"},
    {.name = "breaker_ms",
     .kind = JOUST_KEY_U32,
     .offset = AT(breaker_ms),
     .low = 1,
     .high = 60000,
     .help =
         "its first rest; each that follows without an answer is twice as long, up to a minute"},
    {.name = "max_requests",
     .kind = JOUST_KEY_U64,
     .offset = AT(max_requests),
     .help = "of the whole job, those asked again included; then it stops; 0: any"},
    {.name = "max_tokens",
     .kind = JOUST_KEY_U64,
     .offset = AT(max_tokens),
     .help = "answered, as the servers count, in the whole job; then it stops; 0: any"},
};
#undef AT
#define OF_OTHERS 4u /* of the keys: what is said of servers that Joust doesn't start */
static const joust_section ENDPOINT = {.name = "endpoint", KEYS(ENDPOINT_KEYS)};
static const joust_section ASKED = {.name = "endpoint",
                                    .keys = ENDPOINT_KEYS + OF_OTHERS,
                                    .n_keys = COUNT(ENDPOINT_KEYS) - OF_OTHERS};

#define AT(member) offsetof(joust_job_model, member)
static const joust_key SERVE_KEYS[] = {
    {.name = "command",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(serve.command),
     .required = true,
     .help = "starts one server, for /bin/sh; {model} is the checkpoint's folder, {port} its port; "
             "also {name}, "
             "{replica}, {version}"},
    {.name = "replicas",
     .kind = JOUST_KEY_U32,
     .offset = AT(serve.replicas),
     .low = 1,
     .high = JOUST_MAX_URLS,
     .help = "servers that each worker starts on its node"},
    {.name = "gpus",
     .kind = JOUST_KEY_U32,
     .offset = AT(serve.gpus),
     .low = 0,
     .high = 64,
     .help = "of each server, out of the worker's CUDA_VISIBLE_DEVICES; 0: left as it is"},
    {.name = "port",
     .kind = JOUST_KEY_U32,
     .offset = AT(serve.port),
     .low = 0,
     .high = 65535,
     .help = "of the first server, then upwards, those in use left out; 0: any"},
    {.name = "ready",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(serve.ready),
     .help = "when it is ready: /PATH answers 200, or a part of a line that it prints; default "
             "/health"},
    {.name = "publish",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(serve.publish),
     .help =
         "how it gets new weights: restart, vllm, sglang (their own calls), or /PATH that takes "
         "{\"model_path\": DIR}; default restart"},
    {.name = "sleep",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(serve.sleep),
     .help = "while its worker trains: none, stop, vllm, sglang (their own calls); default none"},
    {.name = "deadline_ms",
     .kind = JOUST_KEY_U32,
     .offset = AT(serve.deadline_ms),
     .low = 1,
     .high = 86400000,
     .help = "until a server is ready, and of each call that publishes or wakes it"},
    {.name = "tolerance",
     .kind = JOUST_KEY_DOUBLE,
     .offset = AT(serve.tolerance),
     .low = 0,
     .high = 100,
     .low_open = true,
     .help = "nats by which its log-probs may differ from the built-in engine's, on average over a "
             "probe's answer"},
    {.name = "model",
     .kind = JOUST_KEY_TEXT,
     .offset = AT(endpoint.model),
     .help = "as the server calls it; default the name under models:"},
    {.name = "endpoint",
     .kind = JOUST_KEY_SECTION,
     .offset = AT(endpoint),
     .section = &ASKED,
     .help = "how they are asked"},
};
#undef AT
static const joust_section SERVE = {.name = "serve", KEYS(SERVE_KEYS)};

#define AT(member) offsetof(joust_job_model, member)
static const joust_key MODEL_KEYS[] = {
    {.name = "path",
     .kind = JOUST_KEY_FOLDER,
     .offset = AT(path),
     .required = true,
     .unless = "endpoint",
     .help = "folder with config.json, model.safetensors and tokenizer.json, or a hub id in the "
             "local cache: Qwen/Qwen2.5-0.5B"},
    {.name = "init",
     .kind = JOUST_KEY_U64,
     .offset = AT(init_seed),
     .present = AT(init),
     .help = "draw the weights from this seed; the folder then has no model.safetensors"},
    {.name = "scalar_head",
     .kind = JOUST_KEY_BOOL,
     .offset = AT(scalar_head),
     .help =
         "version 0 has a scalar head of zeros in the place of the language head: a critic or a "
         "reward model that begins as this one"},
    {.name = "endpoint",
     .kind = JOUST_KEY_SECTION,
     .offset = AT(endpoint),
     .present = AT(has_endpoint),
     .section = &ENDPOINT,
     .help = "OpenAI-compatible servers (vLLM, SGLang, llama.cpp) instead of a path"},
    {.name = "serve",
     .kind = JOUST_KEY_SECTION,
     .present = AT(has_serve),
     .section = &SERVE,
     .help =
         "such servers of the path's model that Joust starts, and keeps in step with its training"},
};
#undef AT

static void set_model_defaults(void *element)
{
    joust_job_model *model = element;
    joust_job_endpoint_init(&model->endpoint);
    joust_job_serve_init(&model->serve);
}

const joust_section joust_models_section = {.name = "models",
                                            KEYS(MODEL_KEYS),
                                            .set_defaults = set_model_defaults,
                                            .size = sizeof(joust_job_model),
                                            .name_offset = offsetof(joust_job_model, name)};
