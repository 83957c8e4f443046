#include "ops/bench_load.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/codec.h"

#define POOL          (1u << 16) /* numbers; more for long responses */
#define PROMPT_TOKENS 48u
#define PROMPT_BYTES  200u
#define TEXT_A_TOKEN  4u
#define VOCABULARY    16000u
#define STEP          131u /* between the places in the pool of neighbouring samples */

/* Pool ----------------------------------------------------------------------------------------- */

static joust_status fill_pool(joust_bench_load *load, uint32_t n, joust_error *err)
{
    load->tokens = joust_calloc(n, sizeof(*load->tokens));
    load->logps = joust_calloc(n, sizeof(*load->logps));
    load->text = joust_calloc(n, TEXT_A_TOKEN);
    if (!load->tokens || !load->logps || !load->text)
        return joust_fail(err, JOUST_NOMEM, "bench: out of memory");
    joust_stream_name name = {.job_seed = 1, .purpose = JOUST_PURPOSE_TEST};
    joust_stream stream = joust_stream_open(&name);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t block[4];
        joust_stream_block(&stream, i, block);
        load->tokens[i] = block[0] % VOCABULARY;
        load->logps[i] = -(float)(block[1] >> 8) / (float)(1u << 22);
        for (uint32_t k = 0; k < TEXT_A_TOKEN; k++)
            load->text[TEXT_A_TOKEN * i + k] = (char)('a' + (block[2] >> (5 * k)) % 26);
    }
    load->n_pool = n;
    return JOUST_OK;
}

static joust_model_ref some_model(void)
{
    joust_model_ref model = {.lineage = "policy"};
    memset(&model.manifest, 1, sizeof(model.manifest));
    memset(&model.weights, 2, sizeof(model.weights));
    return model;
}

static joust_status make_trajectory(const joust_bench_load *load, const joust_lease_unit *unit,
                                    uint32_t sample, joust_trajectory *ret, joust_error *err)
{
    uint32_t n = load->n_tokens;
    uint64_t index = unit->unit.position * unit->samples + sample;
    uint32_t at = (uint32_t)(index * STEP % (load->n_pool - n - PROMPT_TOKENS));
    *ret = (joust_trajectory){.key = unit->unit,
                              .sample = sample,
                              .prompt = unit->prompt.digest,
                              .prompt_occurrence = unit->prompt.occurrence,
                              .policy = unit->model,
                              .n_prompt_tokens = PROMPT_TOKENS,
                              .n_tokens = n,
                              .finish = JOUST_FINISH_LENGTH};
    ret->prompt_tokens = joust_memdup(load->tokens + at, PROMPT_TOKENS * sizeof(uint32_t));
    ret->tokens = joust_memdup(load->tokens + at + PROMPT_TOKENS, n * sizeof(uint32_t));
    ret->raw_logps = joust_memdup(load->logps + at, n * sizeof(float));
    ret->logps = joust_memdup(load->logps + at + 1, n * sizeof(float));
    ret->text = joust_strndup(load->text + (size_t)TEXT_A_TOKEN * at, (size_t)TEXT_A_TOKEN * n);
    return ret->prompt_tokens && ret->tokens && ret->raw_logps && ret->logps && ret->text
               ? JOUST_OK
               : joust_fail(err, JOUST_NOMEM, "bench: out of memory");
}

/* A middling unit, for sizes. */
static joust_lease_unit some_unit(uint32_t samples)
{
    joust_lease_unit unit = {.unit = {.round = 2, .position = JOUST_BENCH_ROUND_GROUPS / 2},
                             .model = some_model(),
                             .samples = samples,
                             .n_trajectories = samples};
    memset(&unit.prompt.digest, 3, sizeof(unit.prompt.digest));
    return unit;
}

static joust_status add_trajectory(const joust_bench_load *load, uint32_t sample, joust_buf *to,
                                   joust_error *err)
{
    joust_trajectory t = {0};
    joust_lease_unit unit = some_unit(8);
    joust_status st = make_trajectory(load, &unit, sample, &t, err);
    t.sampling = (joust_sampling){.temperature = 0.8f, .top_p = 1, .max_tokens = load->n_tokens};
    t.stream = joust_stream_open(&(joust_stream_name){.job_seed = 7, .sample = sample});
    if (st == JOUST_OK)
        st = joust_trajectory_encode(&t, to, err);
    joust_trajectory_fini(&t);
    return st;
}

static joust_status trajectory_bytes(const joust_bench_load *load, uint32_t *ret, joust_error *err)
{
    joust_buf bytes = {0};
    joust_status st = add_trajectory(load, 3, &bytes, err);
    *ret = (uint32_t)bytes.n;
    joust_buf_fini(&bytes);
    return st;
}

joust_status joust_bench_bytes(const joust_bench_load *load, size_t n, joust_buf *to,
                               joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && to->n < n; i++)
        st = add_trajectory(load, i % JOUST_MAX_GROUP, to, err);
    return st;
}

/* Sizes grow by a straight line with the tokens; two of them give it. */
static joust_status choose_tokens(joust_bench_load *load, uint32_t bytes, joust_error *err)
{
    uint32_t few, many;
    const uint32_t low = 32, high = 1056;
    load->n_tokens = low;
    joust_status st = trajectory_bytes(load, &few, err);
    load->n_tokens = high;
    if (st == JOUST_OK)
        st = trajectory_bytes(load, &many, err);
    if (st != JOUST_OK)
        return st;
    double n = low + ((double)bytes - few) * (high - low) / (many - few);
    if (n < 1 || n > POOL / 2)
        return joust_fail(err, JOUST_INVALID,
                          "--bytes %u: a trajectory can have about %u to %u bytes", bytes,
                          few - low * (many - few) / (high - low),
                          few + (POOL / 2 - low) / (high - low) * (many - few));
    load->n_tokens = (uint32_t)(n + 0.5);
    return JOUST_OK;
}

joust_status joust_bench_load_create(uint32_t bytes, joust_bench_load **ret, joust_error *err)
{
    joust_bench_load *load = joust_calloc(1, sizeof(*load));
    if (!load)
        return joust_fail(err, JOUST_NOMEM, "bench: out of memory");
    joust_status st = fill_pool(load, POOL, err);
    if (st == JOUST_OK)
        st = choose_tokens(load, bytes, err);
    if (st != JOUST_OK) {
        joust_bench_load_free(&load);
        return st;
    }
    *ret = load;
    return JOUST_OK;
}

void joust_bench_load_free(joust_bench_load **load)
{
    if (!*load)
        return;
    joust_free((*load)->tokens);
    joust_free((*load)->logps);
    joust_free((*load)->text);
    joust_free(*load);
    *load = NULL;
}

/* Answers -------------------------------------------------------------------------------------- */

static joust_status answer_generate(const joust_bench_load *load, const joust_job *job,
                                    const joust_stage *stage, const joust_lease_unit *unit,
                                    joust_unit_result *ret, joust_error *err)
{
    ret->trajectories = joust_calloc(unit->samples, sizeof(*ret->trajectories));
    if (!ret->trajectories)
        return joust_fail(err, JOUST_NOMEM, "bench: out of memory");
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < unit->samples; i++) {
        joust_trajectory *t = &ret->trajectories[ret->n_trajectories++];
        st = make_trajectory(load, unit, i, t, err);
        t->sampling = stage->sampling;
        t->stream = joust_plan_sample_stream(job, &unit->unit, i);
    }
    return st;
}

/* A yes-no judge's; the log-odds differ from sample to sample, so that every group is decided. */
static joust_status make_verdict(const joust_lease_unit *unit, uint32_t of_stage, uint32_t sample,
                                 joust_verdict *ret, joust_error *err)
{
    double odds = (double)((sample * 5 + unit->unit.position) % unit->n_trajectories) - 1.25;
    *ret = (joust_verdict){.key = unit->unit,
                           .of_stage = of_stage,
                           .sample = sample,
                           .other = JOUST_NONE,
                           .judge = "self",
                           .kind = "yes-no",
                           .outcome = JOUST_OUTCOME_OK,
                           .has_value = true,
                           .value = odds,
                           .n_labels = 2,
                           .residual = 0.001,
                           .model = unit->model,
                           .rendered = unit->prompt.digest,
                           .template_digest = unit->prompt.digest,
                           .n_prompt_tokens = PROMPT_TOKENS};
    ret->label_logps = joust_calloc(2, sizeof(*ret->label_logps));
    ret->text = joust_strdup("");
    if (!ret->label_logps || !ret->text)
        return joust_fail(err, JOUST_NOMEM, "bench: out of memory");
    ret->label_logps[0] = -1 + odds / 2;
    ret->label_logps[1] = -1 - odds / 2;
    return JOUST_OK;
}

static joust_status answer_judge(const joust_stage *stage, const joust_lease_unit *unit,
                                 joust_unit_result *ret, joust_error *err)
{
    ret->verdicts = joust_calloc(unit->n_trajectories, sizeof(*ret->verdicts));
    if (!ret->verdicts)
        return joust_fail(err, JOUST_NOMEM, "bench: out of memory");
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < unit->n_trajectories; i++)
        st = make_verdict(unit, stage->of, i, &ret->verdicts[ret->n_verdicts++], err);
    return st;
}

joust_status joust_bench_answer(const joust_bench_load *load, const joust_job *job,
                                const joust_plan *plan, const joust_lease_unit *unit,
                                joust_unit_result *ret, joust_error *err)
{
    joust_unit_result r = {.id = {unit->unit, unit->lease, unit->attempt},
                           .provenance = {.peer = "null", .host = "bench"}};
    const joust_stage *stage =
        unit->unit.stage < plan->n_stages ? &plan->stages[unit->unit.stage] : NULL;
    joust_status st;
    if (stage && stage->kind == JOUST_STAGE_GENERATE)
        st = answer_generate(load, job, stage, unit, &r, err);
    else if (stage && stage->kind == JOUST_STAGE_JUDGE)
        st = answer_judge(stage, unit, &r, err);
    else
        st = joust_fail(err, JOUST_UNSUPPORTED, "stage %u isn't the benchmark's", unit->unit.stage);
    if (st == JOUST_OK)
        *ret = r;
    else
        joust_unit_result_fini(&r);
    return st;
}

joust_status joust_bench_measure(const joust_bench_load *load, uint32_t samples,
                                 joust_bench_sizes *ret, joust_error *err)
{
    joust_bench_sizes sizes = {.prompt = PROMPT_BYTES + 150};
    joust_buf bytes = {0};
    joust_verdict verdict = {0};
    joust_lease_unit unit = some_unit(samples);
    joust_status st = trajectory_bytes(load, &sizes.trajectory, err);
    if (st == JOUST_OK)
        st = make_verdict(&unit, 0, samples / 2, &verdict, err);
    if (st == JOUST_OK)
        st = joust_verdict_encode(&verdict, &bytes, err);
    sizes.verdict = (uint32_t)bytes.n;
    joust_buf_clear(&bytes);
    joust_pair pair = {.key = unit.unit, .rule = "best-worst", .policy = unit.model, .margin = 1};
    if (st == JOUST_OK)
        st = joust_pair_encode(&pair, &bytes, err);
    sizes.pair = (uint32_t)bytes.n;
    joust_verdict_fini(&verdict);
    joust_buf_fini(&bytes);
    if (st == JOUST_OK)
        *ret = sizes;
    return st;
}

/* Job ------------------------------------------------------------------------------------------ */

static uint64_t round_groups(const joust_bench_options *o)
{
    uint64_t groups = (o->trajectories + o->samples - 1) / o->samples;
    return groups < JOUST_BENCH_ROUND_GROUPS ? groups : JOUST_BENCH_ROUND_GROUPS;
}

uint64_t joust_bench_groups(const joust_bench_options *o)
{
    uint64_t round = round_groups(o), groups = (o->trajectories + o->samples - 1) / o->samples;
    return (groups + round - 1) / round * round;
}

static joust_status write_below(const char *dir, const char *name, const void *data, size_t n,
                                char **ret_path, joust_error *err)
{
    char *path = joust_path_join(dir, name);
    joust_status st =
        path ? joust_file_write(path, data, n, err) : joust_fail(err, JOUST_NOMEM, "bench: memory");
    if (st == JOUST_OK && ret_path)
        *ret_path = path;
    else
        joust_free(path);
    return st;
}

static joust_status write_prompts(const joust_bench_load *load, const char *dir, uint64_t n,
                                  char **ret_path, joust_error *err)
{
    joust_buf lines = {0};
    for (uint64_t i = 0; i < n; i++) {
        const char *text = load->text + i * 7 % (TEXT_A_TOKEN * load->n_pool - PROMPT_BYTES);
        joust_buf_format(&lines, "{\"prompt\": \"%.*s\", \"id\": \"%llu\"}\n", (int)PROMPT_BYTES,
                         text, (unsigned long long)i);
    }
    joust_status st = joust_buf_status(&lines, err);
    if (st == JOUST_OK)
        st = write_below(dir, "prompts.jsonl", lines.data, lines.n, ret_path, err);
    joust_buf_fini(&lines);
    return st;
}

/* A folder that passes for a checkpoint: nobody loads it. */
static joust_status write_model(const char *dir, char **ret_path, joust_error *err)
{
    char *path = joust_path_join(dir, "model");
    joust_status st =
        path ? joust_dir_make(path, err) : joust_fail(err, JOUST_NOMEM, "bench: memory");
    if (st == JOUST_OK)
        st = write_below(path, "config.json", "{}\n", 3, NULL, err);
    if (st == JOUST_OK)
        st = write_below(path, "model.safetensors", "\2\0\0\0\0\0\0\0{}", 10, NULL, err);
    if (st == JOUST_OK)
        *ret_path = path;
    else
        joust_free(path);
    return st;
}

static joust_status fill_lists(joust_job *job, uint64_t groups, joust_error *err)
{
    job->models = joust_calloc(1, sizeof(*job->models));
    job->sets = joust_calloc(1, sizeof(*job->sets));
    job->judges = joust_calloc(1, sizeof(*job->judges));
    if (!job->models || !job->sets || !job->judges)
        return joust_fail(err, JOUST_NOMEM, "bench: out of memory");
    job->n_models = job->n_sets = job->n_judges = 1;
    job->models[0].name = joust_strdup("policy");
    job->sets[0] = (joust_job_set){.name = joust_strdup("prompts"),
                                   .per_round = (uint32_t)groups,
                                   .order = JOUST_ORDER_SHUFFLE};
    job->judges[0] =
        (joust_job_judge){.name = joust_strdup("self"),
                          .kind = JOUST_JUDGE_YES_NO,
                          .role = JOUST_ROLE_REWARD,
                          .model = joust_strdup("policy"),
                          .version = JOUST_PICK_ROUND_START,
                          .template_text = joust_strdup("{prompt_tokens}{response_tokens}"),
                          .n_labels = 2,
                          .labels = {joust_strdup("yes"), joust_strdup("no")}};
    const joust_job_judge *j = &job->judges[0];
    return job->models[0].name && job->sets[0].name && j->name && j->model && j->template_text &&
                   j->labels[0] && j->labels[1]
               ? JOUST_OK
               : joust_fail(err, JOUST_NOMEM, "bench: out of memory");
}

joust_status joust_bench_job(const joust_bench_options *options, const joust_bench_load *load,
                             joust_job *ret, joust_error *err)
{
    joust_job job;
    uint64_t groups = round_groups(options);
    joust_status st = joust_job_init(&job, err);
    if (st != JOUST_OK)
        return st;
    job.seed = 7;
    job.rounds = (uint32_t)(joust_bench_groups(options) / groups);
    job.has_prompts = true;
    job.rollout.samples = options->samples;
    job.rollout.sampling =
        (joust_sampling){.temperature = 0.8f, .top_p = 1, .max_tokens = load->n_tokens};
    st = fill_lists(&job, groups, err);
    if (st == JOUST_OK)
        st = write_model(options->dir, &job.models[0].path, err);
    if (st == JOUST_OK)
        st = write_prompts(load, options->dir, groups, &job.sets[0].path, err);
    if (st == JOUST_OK)
        st = joust_job_validate(&job, NULL, err);
    if (st == JOUST_OK)
        *ret = job;
    else
        joust_job_fini(&job);
    return st;
}
