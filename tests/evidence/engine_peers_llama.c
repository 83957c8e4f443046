/* Generation with llama.cpp, for engine_peers.sh: each prompt is computed once and its samples share it, then all samples step
 * together, drawn by llama.cpp's own sampler at temperature 1. Prints tokens/s, prompts included, the best of two ways to keep
 * the key-value cache.
 *
 *   engine_peers_llama MODEL.gguf THREADS PROMPTS SAMPLES PROMPT_TOKENS TOKENS */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "llama.h"

typedef struct wish {
    int threads, prompts, samples, prompt_tokens, tokens;
} wish;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    fprintf(stderr, "engine_peers_llama: %s\n", what);
    exit(1);
}

static void batch_add(struct llama_batch *b, llama_token token, int position, int sequence, bool logits)
{
    b->token[b->n_tokens] = token;
    b->pos[b->n_tokens] = position;
    b->n_seq_id[b->n_tokens] = 1;
    b->seq_id[b->n_tokens][0] = sequence;
    b->logits[b->n_tokens++] = logits;
}

static llama_token random_token(unsigned i)
{
    return (llama_token)((i * 2654435761u >> 7) % 32000u);
}

/* All of it once; returns seconds. */
static double generate(struct llama_context *context, struct llama_sampler *sampler, const wish *w)
{
    const int n = w->prompts * w->samples, room = n > w->prompt_tokens ? n : w->prompt_tokens;
    struct llama_batch batch = llama_batch_init(room, 0, 1);
    llama_token *last = calloc((size_t)n, sizeof(*last));
    llama_memory_t memory = llama_get_memory(context);
    llama_memory_clear(memory, true);
    const double begin = now();
    for (int p = 0; p < w->prompts; p++) {
        const int first = p * w->samples;
        batch.n_tokens = 0;
        for (int i = 0; i < w->prompt_tokens; i++)
            batch_add(&batch, random_token((unsigned)(p + i)), i, first, i + 1 == w->prompt_tokens);
        if (llama_decode(context, batch))
            die("a prompt can't be computed");
        for (int s = 0; s < w->samples; s++) {
            if (s)
                llama_memory_seq_cp(memory, first, first + s, -1, -1);
            last[first + s] = llama_sampler_sample(sampler, context, -1);
        }
    }
    for (int i = 1; i < w->tokens; i++) {
        batch.n_tokens = 0;
        for (int s = 0; s < n; s++)
            batch_add(&batch, last[s], w->prompt_tokens + i - 1, s, true);
        if (llama_decode(context, batch))
            die("a step can't be computed");
        for (int s = 0; s < n; s++)
            last[s] = llama_sampler_sample(sampler, context, s);
    }
    const double seconds = now() - begin;
    llama_batch_free(batch);
    free(last);
    return seconds;
}

static void no_log(enum ggml_log_level level, const char *text, void *context)
{
    (void)context;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

int main(int argc, char **argv)
{
    if (argc != 7)
        die("usage: MODEL.gguf THREADS PROMPTS SAMPLES PROMPT_TOKENS TOKENS");
    const wish w = {atoi(argv[2]), atoi(argv[3]), atoi(argv[4]), atoi(argv[5]), atoi(argv[6])};
    const int n = w.prompts * w.samples, length = (w.prompt_tokens + w.tokens + 31) / 32 * 32;
    llama_log_set(no_log, NULL);
    llama_backend_init();
    struct llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model)
        die("the model can't be read");
    double best = 0;
    for (int unified = 0; unified < 2; unified++) {
        struct llama_context_params params = llama_context_default_params();
        params.n_ctx = (uint32_t)(n * length);
        params.n_batch = params.n_ubatch = (uint32_t)(n > 512 ? n : 512);
        params.n_seq_max = (uint32_t)n;
        params.n_threads = params.n_threads_batch = w.threads;
        params.kv_unified = unified;
        params.type_k = params.type_v = GGML_TYPE_F32;
        params.no_perf = true;
        struct llama_context *context = llama_init_from_model(model, params);
        if (!context)
            die("no context");
        struct llama_sampler *sampler = llama_sampler_init_dist(7);
        generate(context, sampler, &w); /* warm */
        const double rate = (double)n * w.tokens / generate(context, sampler, &w);
        best = rate > best ? rate : best;
        llama_sampler_free(sampler);
        llama_free(context);
    }
    printf("%.2f\n", best);
    llama_model_free(model);
    return 0;
}
