/* The engine's side of tests/evidence/batch_invariance.sh: one request of 4,096 tokens in every
 * company, order, memory and number of threads; its bits, and what each costs. Of tests/gpu/run too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/digest.h"
#include "worker/engine/generate.h"

#define TOKENS    4096u
#define PROMPT    600u
#define STRANGERS 64u
#define SAMPLES   2u

typedef struct run {
    joust_model *model;
    uint32_t *tokens;
    joust_stream streams[STRANGERS + 1][SAMPLES];
    joust_generate_request requests[STRANGERS + 1]; /* the one, then strangers */
    uint32_t of[STRANGERS + 1];                     /* a batch's request -> number */
    joust_digest digests[SAMPLES];
    uint32_t response[TOKENS], n_response;
    float logps[TOKENS];
    uint64_t n_tokens;
} run;

static void die_on(joust_status st, const joust_error *err)
{
    if (st) {
        fprintf(stderr, "invariance: %s\n", err->text);
        exit(1);
    }
}

static joust_status keep(void *context, uint32_t request, uint32_t sample, const joust_generated *g,
                         joust_error *err)
{
    run *r = context;
    (void)err;
    r->n_tokens += g->n;
    if (r->of[request] != 0)
        return JOUST_OK;
    joust_hasher h;
    joust_hasher_init(&h);
    joust_hasher_field(&h, g->tokens, g->n * sizeof(*g->tokens));
    joust_hasher_field(&h, g->raw_logps, g->n * sizeof(*g->raw_logps));
    joust_hasher_field(&h, g->logps, g->n * sizeof(*g->logps));
    r->digests[sample] = joust_hasher_end(&h);
    if (sample == 0) {
        r->n_response = g->n;
        memcpy(r->response, g->tokens, g->n * sizeof(*g->tokens));
        memcpy(r->logps, g->raw_logps, g->n * sizeof(*g->raw_logps));
    }
    return JOUST_OK;
}

static long resident_bytes(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_maxrss * 1024;
}

static const char *device, *precision; /* of the command line; NULL: the CPU's */

static joust_engine *engine_make(uint32_t n_threads, uint64_t cache_bytes)
{
    joust_error err = {0};
    joust_engine *e;
    joust_engine_options o = {.n_threads = n_threads, .cache_bytes = cache_bytes};
    die_on(joust_engine_options_device(&o, device, precision, &err), &err);
    die_on(joust_engine_create(&o, &e, &err), &err);
    return e;
}

/* One line: the digest of the one request's samples, and tokens a second of all. */
static void go(run *r, joust_engine *e, const char *name, uint32_t n, bool backwards)
{
    joust_error err = {0};
    joust_generate_request batch[STRANGERS + 1];
    for (uint32_t i = 0; i < n; i++) {
        r->of[i] = backwards ? n - 1 - i : i;
        batch[i] = r->requests[r->of[i]];
    }
    r->n_tokens = 0;
    const joust_cache_stats before = joust_engine_cache_stats(e);
    const int64_t since = joust_clock_ns();
    die_on(joust_generate(e, r->model, batch, n, keep, NULL, r, &err), &err);
    const double seconds = (double)(joust_clock_ns() - since) * 1e-9;
    const joust_cache_stats after = joust_engine_cache_stats(e);
    char hex[2][JOUST_DIGEST_HEX];
    printf("%-22s %.12s %.12s %7.0f tokens/s  computed %7llu  shared %7llu  given up %5llu  pages "
           "%6.1f MiB\n",
           name, joust_digest_hex(&r->digests[0], hex[0]), joust_digest_hex(&r->digests[1], hex[1]),
           (double)r->n_tokens / seconds,
           (unsigned long long)(after.n_computed_tokens - before.n_computed_tokens),
           (unsigned long long)(after.n_shared_tokens - before.n_shared_tokens),
           (unsigned long long)(after.n_preempted - before.n_preempted),
           (double)after.n_peak_bytes / (1 << 20));
    fflush(stdout);
}

static void scored(run *r)
{
    joust_error err = {0};
    static uint32_t all[TOKENS];
    static float logps[TOKENS];
    memcpy(all, r->requests[0].prompt, PROMPT * sizeof(*all));
    memcpy(all + PROMPT, r->response, r->n_response * sizeof(*all));
    joust_score_request score = {
        .tokens = all, .n = PROMPT + r->n_response, .first = PROMPT, .ret_logps = logps};
    joust_engine *e = engine_make(2, 0);
    const int64_t since = joust_clock_ns();
    die_on(joust_score(e, r->model, &score, 1, NULL, NULL, &err), &err);
    printf("%-22s %s %26.0f tokens/s\n", "scored at once",
           memcmp(logps, r->logps, r->n_response * sizeof(*logps)) ? "DIFFERENT" : "equal bits",
           (double)score.n / ((double)(joust_clock_ns() - since) * 1e-9));
    joust_engine_free(&e);
}

static void setup(run *r)
{
    const joust_model_config config = {.architecture = "LlamaForCausalLM",
                                       .n_layers = 3,
                                       .d_model = 96,
                                       .n_heads = 4,
                                       .n_kv_heads = 4,
                                       .d_head = 24,
                                       .d_ff = 192,
                                       .vocab_size = 512,
                                       .context = TOKENS,
                                       .norm_eps = 1e-5f,
                                       .rope_theta = 1e4f,
                                       .bos_token = UINT32_MAX};
    joust_error err = {0};
    die_on(joust_model_init(&config, 1, &r->model, &err), &err);
    r->tokens = joust_calloc(2 * TOKENS, sizeof(*r->tokens));
    joust_stream_name name = {.purpose = JOUST_PURPOSE_TEST};
    joust_stream stream = joust_stream_open(&name);
    for (uint32_t i = 0; i < 2 * TOKENS; i++)
        r->tokens[i] = (uint32_t)joust_stream_below(&stream, i, config.vocab_size);
    for (uint32_t i = 0; i <= STRANGERS; i++) {
        for (uint32_t k = 0; k < SAMPLES; k++) {
            joust_stream_name of = {.job_seed = i, .sample = k, .purpose = JOUST_PURPOSE_SAMPLE};
            r->streams[i][k] = joust_stream_open(&of);
        }
        bool alike = i % 4 == 3; /* begins like the one */
        r->requests[i] = (joust_generate_request){
            .prompt = r->tokens + (alike ? 0 : i * 37),
            .n_prompt = i == 0 ? PROMPT : 20 + i * 13 % 900,
            .n_samples = i == 0 ? SAMPLES : 1,
            .streams = r->streams[i],
            .sampling = {.temperature = 0.9f,
                         .top_p = 0.95f,
                         .top_k = 200,
                         .max_tokens = i == 0 ? TOKENS - PROMPT : 50 + i * 29 % 400,
                         .repetition_penalty = i % 2 ? 0 : 1.05f},
            .ignore_end = true};
    }
}

/* Pages for two such sequences and little more, so that somebody always gives way. */
static void tight(run *r)
{
    const long before = resident_bytes();
    const uint64_t budget = (uint64_t)14 << 20;
    joust_engine *e = engine_make(2, budget);
    go(r, e, "14 MiB, 64 strangers", STRANGERS + 1, false);
    joust_cache_stats stats = joust_engine_cache_stats(e);
    printf("%-22s pages at most %.1f MiB %s; resident memory grew by %.1f MiB at its highest\n",
           "budget of 14 MiB", (double)stats.n_peak_bytes / (1 << 20),
           stats.n_peak_bytes <= budget ? "(kept)" : "(BROKEN)",
           (double)(resident_bytes() - before) / (1 << 20));
    joust_engine_free(&e);
}

int main(int argc, char **argv) /* [DEVICE [PRECISION]] */
{
    static run r;
    device = argc > 1 ? argv[1] : NULL;
    precision = argc > 2 ? argv[2] : NULL;
    setup(&r);
    tight(&r); /* first: the process's highest resident memory only grows */
    joust_engine *e = engine_make(2, 0);
    go(&r, e, "alone", 1, false);
    scored(&r);
    go(&r, e, "after a prefix hit", 1, false);
    joust_engine_cache_drop(e);
    go(&r, e, "64 strangers", STRANGERS + 1, false);
    joust_engine_cache_drop(e);
    go(&r, e, "another order", STRANGERS + 1, true);
    joust_engine_free(&e);
    for (uint32_t n_threads = 1; n_threads <= 3; n_threads += 2) {
        char name[32];
        snprintf(name, sizeof(name), "%u thread%s", n_threads, n_threads > 1 ? "s" : "");
        e = engine_make(n_threads, 0);
        go(&r, e, name, STRANGERS + 1, false);
        joust_engine_free(&e);
    }
    joust_model_free(&r.model);
    joust_free(r.tokens);
    return 0;
}
