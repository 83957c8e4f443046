#include "ops/bench_engine.h"

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "worker/engine/generate.h"
#include "worker/engine/train/train.h"

struct joust_bench_engine_work {
    joust_engine *engine;
    joust_model *model;
    joust_bench_engine_size size;
    uint64_t layer_parameters, head_parameters; /* of matrices */
    uint32_t *tokens;                           /* random ids that everything is cut from */
    joust_generate_request *requests;           /* (prompts) */
    joust_stream *streams;                      /* (prompts, samples) */
    joust_pair_row *pairs;                      /* (pairs) */
    joust_trainer *trainer;
};

static void parameters_count(joust_bench_engine_work *w)
{
    const joust_model_config *c = joust_model_get_config(w->model);
    uint32_t n;
    const joust_tensor *tensors = joust_model_tensors(w->model, &n);
    w->head_parameters = (uint64_t)c->vocab_size * c->d_model;
    for (uint32_t i = 0; i < n; i++)
        w->layer_parameters += tensors[i].n_dims == 2 ? tensors[i].n : 0;
    w->layer_parameters -= w->head_parameters * (c->tied ? 1 : 2); /* embedding and head */
}

static uint64_t random_tokens(const joust_bench_engine_size *s)
{
    return (uint64_t)(s->prompts + s->pairs) + s->prompt_tokens + 2 * (uint64_t)s->tokens;
}

static void requests_fill(joust_bench_engine_work *w)
{
    const joust_bench_engine_size *s = &w->size;
    for (uint32_t i = 0; i < s->prompts; i++) {
        joust_stream *streams = w->streams + (size_t)i * s->samples;
        for (uint32_t k = 0; k < s->samples; k++) {
            joust_stream_name name = {.job_seed = i, .sample = k, .purpose = JOUST_PURPOSE_SAMPLE};
            streams[k] = joust_stream_open(&name);
        }
        w->requests[i] = (joust_generate_request){
            .prompt = w->tokens + i,
            .n_prompt = s->prompt_tokens,
            .n_samples = s->samples,
            .streams = streams,
            .sampling = {.temperature = 1, .top_p = 1, .max_tokens = s->tokens},
            .ignore_end = true};
    }
    for (uint32_t i = 0; i < s->pairs; i++) {
        const uint32_t *prompt = w->tokens + i, *chosen = prompt + s->prompt_tokens;
        w->pairs[i] = (joust_pair_row){.prompt = prompt,
                                       .n_prompt = s->prompt_tokens,
                                       .chosen = chosen,
                                       .n_chosen = s->tokens,
                                       .rejected = chosen + s->tokens,
                                       .n_rejected = s->tokens};
    }
}

static joust_status inputs_make(joust_bench_engine_work *w, joust_error *err)
{
    const joust_bench_engine_size *s = &w->size;
    const uint64_t n = random_tokens(s);
    w->tokens = joust_calloc(n, sizeof(*w->tokens));
    w->requests = joust_calloc(s->prompts, sizeof(*w->requests));
    w->streams = joust_calloc((size_t)s->prompts * s->samples, sizeof(*w->streams));
    w->pairs = joust_calloc(s->pairs, sizeof(*w->pairs));
    if (!w->tokens || !w->requests || !w->streams || !w->pairs)
        return joust_fail(err, JOUST_NOMEM, "bench: out of memory");
    const joust_stream_name name = {.job_seed = 1, .purpose = JOUST_PURPOSE_TEST};
    const joust_stream stream = joust_stream_open(&name);
    for (uint64_t i = 0; i < n; i++)
        w->tokens[i] =
            (uint32_t)joust_stream_below(&stream, i, joust_model_get_config(w->model)->vocab_size);
    requests_fill(w);
    return JOUST_OK;
}

joust_status joust_bench_engine_work_create(joust_engine *engine, joust_model *model,
                                            const joust_bench_engine_size *size, bool trains,
                                            joust_bench_engine_work **ret, joust_error *err)
{
    const joust_train_settings settings = {.loss = JOUST_LOSS_DPO,
                                           .objective = joust_objective_neutral(),
                                           .beta = 0.1,
                                           .learning_rate = 1e-6,
                                           .schedule = JOUST_SCHEDULE_CONSTANT,
                                           .adam_beta1 = 0.9,
                                           .adam_beta2 = 0.999,
                                           .adam_eps = 1e-8,
                                           .clip = 1};
    if ((uint64_t)size->prompt_tokens + size->tokens > joust_model_get_config(model)->context)
        return joust_fail(
            err, JOUST_INVALID, "bench: %u + %u tokens don't fit the model's context of %u",
            size->prompt_tokens, size->tokens, joust_model_get_config(model)->context);
    joust_bench_engine_work *w = joust_calloc(1, sizeof(*w));
    if (!w)
        return joust_fail(err, JOUST_NOMEM, "bench: out of memory");
    w->engine = engine;
    w->model = model;
    w->size = *size;
    parameters_count(w);
    joust_status st = inputs_make(w, err);
    if (!st && trains)
        st = joust_trainer_create(engine, model, &settings, &w->trainer, err);
    if (st) {
        joust_bench_engine_work_free(&w);
        return st;
    }
    *ret = w;
    return JOUST_OK;
}

void joust_bench_engine_work_free(joust_bench_engine_work **work)
{
    joust_bench_engine_work *w = *work;
    *work = NULL;
    if (!w)
        return;
    joust_trainer_free(&w->trainer);
    joust_free(w->tokens);
    joust_free(w->requests);
    joust_free(w->streams);
    joust_free(w->pairs);
    joust_free(w);
}

static joust_status count_tokens(void *context, uint32_t request, uint32_t sample,
                                 const joust_generated *result, joust_error *err)
{
    (void)request;
    (void)sample;
    (void)err;
    *(uint64_t *)context += result->n;
    return JOUST_OK;
}

static joust_status generate(joust_bench_engine_work *w, const joust_generate_request *requests,
                             uint32_t n, joust_bench_engine_run *ret, joust_error *err)
{
    joust_bench_engine_run run = {0};
    const int64_t begin = joust_clock_ns();
    joust_status st =
        joust_generate(w->engine, w->model, requests, n, count_tokens, NULL, &run.tokens, err);
    run.seconds = (double)(joust_clock_ns() - begin) * 1e-9;
    for (uint32_t i = 0; i < n; i++) { /* the last token of a sample is drawn and not computed */
        const joust_generate_request *r = &requests[i];
        const uint64_t drawn = (uint64_t)r->n_samples * (r->sampling.max_tokens - 1);
        run.flop +=
            2 * (r->n_prompt + drawn) * w->layer_parameters + 2 * (1 + drawn) * w->head_parameters;
    }
    *ret = run;
    return st;
}

joust_status joust_bench_engine_generate(joust_bench_engine_work *w, joust_bench_engine_run *ret,
                                         joust_error *err)
{
    return generate(w, w->requests, w->size.prompts, ret, err);
}

joust_status joust_bench_engine_decode(joust_bench_engine_work *w, joust_bench_engine_run *ret,
                                       joust_error *err)
{
    joust_generate_request alone = w->requests[0];
    alone.n_prompt = 1;
    alone.n_samples = 1;
    return generate(w, &alone, 1, ret, err);
}

joust_status joust_bench_engine_train(joust_bench_engine_work *w, joust_bench_engine_run *ret,
                                      joust_error *err)
{
    const joust_bench_engine_size *s = &w->size;
    const uint64_t rows = (uint64_t)s->pairs * (s->prompt_tokens + 2 * (uint64_t)s->tokens);
    const uint64_t wanted = 2 * (uint64_t)s->pairs * s->tokens;
    joust_step_report report;
    const int64_t begin = joust_clock_ns();
    joust_status st = joust_trainer_step_pairs(w->trainer, w->pairs, s->pairs, &report, err);
    *ret = (joust_bench_engine_run){
        .tokens = rows,
        .flop = 6 * (rows * w->layer_parameters + wanted * w->head_parameters),
        .seconds = (double)(joust_clock_ns() - begin) * 1e-9};
    return st;
}
