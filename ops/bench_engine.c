#include "ops/bench_engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ops/cli.h"
#include "proto/base/clock.h"
#include "worker/engine/bounds.h"

#define MAX_REPEAT    101u
#define BOUND_SECONDS 0.15 /* a measurement of a bound; one before and one after each figure */

typedef enum figure { GENERATE, DECODE, TRAIN, N_FIGURES } figure;

static const char *const NAMES[N_FIGURES] = {"generate", "decode", "train"};

/* The Llama shapes of the llama2.c models, head tied. */
typedef struct shape {
    const char *name;
    uint32_t n_layers, d_model, n_heads, d_ff;
} shape;

static const shape SHAPES[] = {{"15m", 6, 288, 6, 768}, {"110m", 12, 768, 12, 2048}};
#define N_SHAPES (sizeof(SHAPES) / sizeof(*SHAPES))

typedef struct wish {
    joust_bench_engine_size size;
    uint32_t threads, repeat;
    const char *model, *save, *shape, *precision;
    joust_text_list figures;
    bool json;
} wish;

/* A figure's repetitions: tokens/s, those of the bound, their ratio; and the ratio of tokens a
 * processor second, which other programs disturb less and idle threads don't lower. */
typedef struct series {
    double rate[MAX_REPEAT], bound[MAX_REPEAT], share[MAX_REPEAT], processor_share[MAX_REPEAT];
} series;

/* A stretch of time and the processor time that the program got in it. */
typedef struct stretch {
    int64_t ns;
    clock_t processor;
} stretch;

static bool wants(const wish *w, figure f)
{
    for (uint32_t i = 0; i < w->figures.n; i++)
        if (strcmp(w->figures.items[i], NAMES[f]) == 0)
            return true;
    return w->figures.n == 0;
}

static joust_status check(const wish *w, joust_error *err)
{
    const joust_bench_engine_size *s = &w->size;
    const struct {
        const char *name;
        uint32_t value, most;
    } limits[] = {{"--prompts", s->prompts, 4096},
                  {"--samples", s->samples, 4096},
                  {"--pairs", s->pairs, 4096},
                  {"--prompt-tokens", s->prompt_tokens, 1 << 20},
                  {"--repeat", w->repeat, MAX_REPEAT}};
    for (size_t i = 0; i < sizeof(limits) / sizeof(*limits); i++)
        if (limits[i].value < 1 || limits[i].value > limits[i].most)
            return joust_fail(err, JOUST_INVALID, "%s: from 1 to %u", limits[i].name,
                              limits[i].most);
    if (s->tokens < 2 || s->tokens > 1 << 20)
        return joust_fail(err, JOUST_INVALID, "--tokens: from 2 to %u", 1 << 20);
    for (uint32_t i = 0; i < w->figures.n; i++) {
        bool known = false;
        for (uint32_t f = 0; f < N_FIGURES; f++)
            known = known || strcmp(w->figures.items[i], NAMES[f]) == 0;
        if (!known)
            return joust_fail(err, JOUST_INVALID, "--figure %s: generate, decode or train",
                              w->figures.items[i]);
    }
    for (size_t i = 0; w->shape && i <= N_SHAPES; i++) {
        if (i == N_SHAPES)
            return joust_fail(err, JOUST_INVALID, "--shape %s: 15m or 110m", w->shape);
        if (strcmp(w->shape, SHAPES[i].name) == 0)
            break;
    }
    return JOUST_OK;
}

static joust_model_config config_of(const shape *s)
{
    return (joust_model_config){.architecture = "LlamaForCausalLM",
                                .n_layers = s->n_layers,
                                .d_model = s->d_model,
                                .n_heads = s->n_heads,
                                .n_kv_heads = s->n_heads,
                                .d_head = s->d_model / s->n_heads,
                                .d_ff = s->d_ff,
                                .vocab_size = 32000,
                                .context = 1024,
                                .norm_eps = 1e-5f,
                                .rope_theta = 1e4f,
                                .tied = true,
                                .bos_token = UINT32_MAX};
}

/* ---- measuring ------------------------------------------------------------------------------- */

static stretch stretch_begin(void)
{
    return (stretch){joust_clock_ns(), clock()};
}

static double processors_used(stretch since)
{
    const double processor = (double)(clock() - since.processor) / CLOCKS_PER_SEC;
    return processor * 1e9 / (double)(joust_clock_ns() - since.ns);
}

/* What the machine allows now: FLOP/s, or plain reads of the weights a second. */
static joust_status bound_measure(joust_engine *e, joust_model *m, figure f, double *ret,
                                  joust_error *err)
{
    double seconds = 1;
    joust_status st = JOUST_OK;
    if (f == DECODE)
        st = joust_bound_read(e, m, BOUND_SECONDS, &seconds, err);
    *ret = f == DECODE ? 1 / seconds : joust_bound_multiply(e, BOUND_SECONDS);
    return st;
}

static joust_status work_do(joust_bench_engine_work *work, figure f, joust_bench_engine_run *ret,
                            joust_error *err)
{
    switch (f) {
    case GENERATE:
        return joust_bench_engine_generate(work, ret, err);
    case DECODE:
        return joust_bench_engine_decode(work, ret, err);
    default:
        return joust_bench_engine_train(work, ret, err);
    }
}

/* The mean of two measurements around a repetition, and of the processors they got. */
typedef struct bound {
    double allowed, processors;
} bound;

static joust_status bound_add(joust_engine *e, joust_model *m, figure f, bound *to,
                              joust_error *err)
{
    double allowed;
    const stretch since = stretch_begin();
    joust_status st = bound_measure(e, m, f, &allowed, err);
    if (!st) {
        to->allowed += allowed / 2;
        to->processors += processors_used(since) / 2;
    }
    return st;
}

/* One repetition of a figure between two measurements of its bound. */
static joust_status figure_measure(joust_engine *e, joust_model *m, joust_bench_engine_work *work,
                                   figure f, uint32_t repetition, series *to, joust_error *err)
{
    joust_bench_engine_run run;
    bound b = {0};
    joust_status st = bound_add(e, m, f, &b, err);
    const stretch since = stretch_begin();
    if (!st)
        st = work_do(work, f, &run, err);
    const double processors = processors_used(since);
    if (!st)
        st = bound_add(e, m, f, &b, err);
    if (st)
        return st;
    /* of FLOP/s: as many tokens as their multiply-adds allow; of reads: a token each */
    const double rate = (double)run.tokens / run.seconds;
    const double most = f == DECODE ? b.allowed : b.allowed * (double)run.tokens / (double)run.flop;
    to->rate[repetition] = rate;
    to->bound[repetition] = most;
    to->share[repetition] = rate / most;
    to->processor_share[repetition] = rate / processors / (most / b.processors);
    return JOUST_OK;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, uint32_t n)
{
    qsort(x, n, sizeof(*x), ascending);
    return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

static void print(const wish *w, const char *name, figure f, series *s)
{
    const double rate = median(s->rate, w->repeat), allowed = median(s->bound, w->repeat),
                 share = median(s->share, w->repeat);
    const char *of = f == DECODE ? "read" : "multiply";
    const double least = s->share[0], most = s->share[w->repeat - 1]; /* sorted by median() */
    const char *form =
        w->json ? "{\"model\":\"%s\",\"figure\":\"%s\",\"tokens_per_s\":%.2f,\"bound\":\"%s\","
                  "\"bound_tokens_per_s\":%.2f,\"share\":%.3f,\"share_least\":%.3f,"
                  "\"share_most\":%.3f,\"processor_share\":%.3f}\n"
                : "%-10s %-9s %10.1f tokens/s   %-8s bound %10.1f   share %.2f (%.2f to %.2f)   "
                  "of processor time %.2f\n";
    printf(form, name, NAMES[f], rate, of, allowed, share, least, most,
           median(s->processor_share, w->repeat));
    fflush(stdout);
}

static joust_status model_measure(const wish *w, joust_engine *e, joust_model *m, const char *name,
                                  joust_error *err)
{
    joust_bench_engine_work *work;
    static series all[N_FIGURES]; /* too large for a stack */
    joust_status st = joust_bench_engine_work_create(e, m, &w->size, wants(w, TRAIN), &work, err);
    if (st)
        return st;
    for (uint32_t f = 0; f < N_FIGURES && !st; f++) { /* packs weights, takes memory */
        joust_bench_engine_run warm;
        st = wants(w, (figure)f) ? work_do(work, (figure)f, &warm, err) : JOUST_OK;
    }
    for (uint32_t i = 0; i < w->repeat && !st; i++)
        for (uint32_t f = 0; f < N_FIGURES && !st; f++)
            if (wants(w, (figure)f))
                st = figure_measure(e, m, work, (figure)f, i, &all[f], err);
    for (uint32_t f = 0; f < N_FIGURES && !st; f++)
        if (wants(w, (figure)f))
            print(w, name, (figure)f, &all[f]);
    joust_bench_engine_work_free(&work);
    return st;
}

/* ---- the verb -------------------------------------------------------------------------------- */

static joust_status shape_measure(const wish *w, joust_engine *e, const shape *s, joust_error *err)
{
    joust_model *m = NULL;
    const joust_model_config config = config_of(s);
    joust_status st =
        w->model ? joust_model_load(w->model, &m, err) : joust_model_init(&config, 1, &m, err);
    if (!st && w->save)
        st = joust_model_save(m, NULL, w->save, err);
    else if (!st)
        st = model_measure(w, e, m, w->model ? w->model : s->name, err);
    joust_model_free(&m);
    return st;
}

static joust_status run(const wish *w, joust_error *err)
{
    joust_engine_options options = {.n_threads = w->threads};
    joust_engine *e;
    joust_status st = joust_engine_options_device(&options, NULL, w->precision, err);
    if (!st)
        st = joust_engine_create(&options, &e, err);
    if (st)
        return st;
    if (!w->json && !w->save)
        printf("engine %s, %s, %u threads; %u x %u samples, prompts of %u tokens, answers of %u, "
               "%u pairs a step; medians of %u\n",
               joust_engine_numeric_class(e), joust_engine_isa_name(e), joust_engine_threads(e),
               w->size.prompts, w->size.samples, w->size.prompt_tokens, w->size.tokens,
               w->size.pairs, w->repeat);
    fflush(stdout);
    for (size_t i = 0; i < (w->model ? 1 : N_SHAPES) && !st; i++)
        if (w->model || !w->shape || strcmp(w->shape, SHAPES[i].name) == 0)
            st = shape_measure(w, e, &SHAPES[i], err);
    joust_engine_free(&e);
    return st;
}

int joust_bench_engine(int argc, char **argv)
{
    wish w = {.size = {.prompts = 8, .samples = 8, .prompt_tokens = 32, .tokens = 64, .pairs = 8},
              .repeat = 5};
    const joust_option options[] = {
        {"--threads", JOUST_OPTION_U32, &w.threads, "N", "(the processors this process may use)"},
        {"--precision", JOUST_OPTION_TEXT, &w.precision, "P", "of weights: f32 (default) or bf16"},
        {"--model", JOUST_OPTION_TEXT, &w.model, "DIR", "a checkpoint instead of the two shapes"},
        {"--shape", JOUST_OPTION_TEXT, &w.shape, "NAME", "15m or 110m alone"},
        {"--figure", JOUST_OPTION_LIST, &w.figures, "NAME", "generate, decode or train alone"},
        {"--prompts", JOUST_OPTION_U32, &w.size.prompts, "N", "of generation (8)"},
        {"--samples", JOUST_OPTION_U32, &w.size.samples, "N", "answers to each prompt (8)"},
        {"--prompt-tokens", JOUST_OPTION_U32, &w.size.prompt_tokens, "N", "of a prompt (32)"},
        {"--tokens", JOUST_OPTION_U32, &w.size.tokens, "N", "of an answer (64)"},
        {"--pairs", JOUST_OPTION_U32, &w.size.pairs, "N", "of a training step (8)"},
        {"--repeat", JOUST_OPTION_U32, &w.repeat, "N", "repetitions (5)"},
        {"--save", JOUST_OPTION_TEXT, &w.save, "DIR",
         "only write the shape's random weights as a Hugging Face folder; needs --shape"},
        {"--json", JOUST_OPTION_FLAG, &w.json, NULL, "an object a line instead of the table"}};
    const joust_usage usage = {
        .verb = "bench engine",
        .synopsis = "joust bench engine [--model DIR | --shape NAME] [--figure NAME] [--threads N]",
        .about = "Runs the engine on random weights and prints tokens/s of generation, of one "
                 "sequence alone (decode)\nand of DPO steps, each with the share it is of its "
                 "bound: the multiply-adds that registers alone\nallow, or plain reads of the "
                 "weights, measured before and after each repetition.",
        .options = options,
        .n_options = sizeof(options) / sizeof(*options)};
    int status = joust_cli_parse(&usage, argc, argv, NULL, NULL);
    if (status >= 0)
        return status;
    joust_error err;
    joust_status st = check(&w, &err);
    if (!st && w.save && !w.shape)
        st = joust_fail(&err, JOUST_INVALID, "--save: needs --shape");
    if (st) {
        joust_cli_fail("bench engine", &err);
        return JOUST_EXIT_USAGE;
    }
    st = run(&w, &err);
    return st ? joust_cli_fail("bench engine", &err) : JOUST_EXIT_OK;
}
