#include "ops/preflight.h"

#include <stdio.h>
#include <string.h>

#include "coordinator/prompt_file.h"
#include "judge/judging.h"
#include "ops/cli.h"
#include "ops/local_model.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/plan.h"
#include "worker/engine/model.h"
#include "worker/engine/tokenizer.h"
#include "worker/prompter.h"

/* A model of the job, as far as it is needed to check what is put to it. */
typedef struct checked_model {
    joust_tokenizer *tokenizer;
    joust_model_config config;
    joust_chat *chat; /* or NULL, and why */
    joust_error why_no_chat;
} checked_model;

typedef struct preflight {
    const joust_job *job;
    joust_plan plan;
    checked_model models[JOUST_MAX_MODELS];
} preflight;

static joust_status check_files(const joust_job_model *model, checked_model *ret, joust_error *err)
{
    char *config = joust_path_join(model->path, "config.json");
    if (!config)
        return joust_fail(err, JOUST_NOMEM, "out of memory");
    joust_status st = joust_model_config_read(config, &ret->config, err);
    joust_free(config);
    if (st == JOUST_OK)
        st = joust_model_config_read_stops(model->path, &ret->config, err);
    if (st == JOUST_OK && ret->config.scalar_head)
        st =
            joust_fail(err, JOUST_UNSUPPORTED,
                       "%s: %s has a scalar head: nothing of a job can generate, judge or train by "
                       "it yet; name a ...ForCausalLM",
                       model->path, ret->config.architecture);
    if (st == JOUST_OK && !model->init)
        st = joust_model_check(model->path, err);
    if (st == JOUST_OK)
        st = joust_tokenizer_load(model->path, &ret->tokenizer, err);
    if (st == JOUST_OK)
        st = joust_local_model_check(model->path, ret->tokenizer, &ret->config, err);
    if (st == JOUST_OK)
        st = joust_chat_load_if_any(model->path, &ret->chat, &ret->why_no_chat, err);
    return st;
}

static joust_status check_models(preflight *p, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < p->job->n_models; i++) {
        const joust_job_model *model = &p->job->models[i];
        if (joust_job_model_is_remote(model))
            continue;
        st = check_files(model, &p->models[i], err);
        if (st != JOUST_OK)
            st = joust_blame(err, st, "models.%s", model->name);
    }
    return st;
}

static joust_status check_judges(preflight *p, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < p->plan.n_stages; i++) {
        const joust_stage *stage = &p->plan.stages[i];
        joust_judging *judging = NULL;
        if (stage->kind != JOUST_STAGE_JUDGE)
            continue;
        st = joust_judging_create(
            p->job, stage, stage->model == JOUST_NONE ? NULL : p->models[stage->model].tokenizer,
            &judging, err);
        joust_judging_free(&judging);
    }
    return st;
}

/* The prompts of one GENERATE stage. */
typedef struct prompt_check {
    const checked_model *model;
    joust_prompter *prompter;
    size_t n_around; /* bytes of the template */
    const char *path;
} prompt_check;

static joust_status check_prompt(void *user, uint64_t line, const joust_prompt *prompt,
                                 joust_error *err)
{
    const prompt_check *c = user;
    joust_tokens tokens = {0};
    /* A token is a byte of text at least. */
    if (!prompt->messages && strlen(prompt->text) + c->n_around < c->model->config.context)
        return JOUST_OK;
    joust_status st = joust_prompter_render(c->prompter, prompt, &tokens, err);
    if (st == JOUST_OK && tokens.n >= c->model->config.context)
        st = joust_fail(err, JOUST_TOO_LARGE,
                        "the prompt has %u tokens, and the model's context is %u; shorten it or "
                        "leave it out",
                        tokens.n, c->model->config.context);
    joust_tokens_fini(&tokens);
    return st == JOUST_OK ? st
                          : joust_blame(err, st, "%s:%llu", c->path, (unsigned long long)line + 1);
}

static joust_status check_prompts(preflight *p, const joust_stage *stage, joust_error *err)
{
    const char *text = p->job->rollout.template_text ? p->job->rollout.template_text : "{prompt}";
    prompt_check check = {.model = &p->models[stage->model], .path = p->job->sets[stage->set].path};
    const joust_token_frame frame = joust_tokenizer_frame(check.model->tokenizer);
    check.n_around = strlen(text) + frame.n_before + frame.n_after;
    uint64_t lines;
    joust_digest content;
    joust_status st =
        joust_prompter_create(p->job, check.model->tokenizer, &check.model->config,
                              check.model->chat, &check.model->why_no_chat, &check.prompter, err);
    if (st != JOUST_OK)
        return st;
    st = joust_prompt_file_read(check.path, check_prompt, &check, &lines, &content, err);
    joust_prompter_free(&check.prompter);
    return st;
}

static joust_status check_served_prompt(void *user, uint64_t line, const joust_prompt *prompt,
                                        joust_error *err)
{
    const char *path = user;
    if (joust_prompt_is_plain(prompt))
        return JOUST_OK;
    return joust_fail(err, JOUST_INVALID,
                      "%s:%llu: a conversation of more than one user message can't be put to a "
                      "served model yet; write it as one 'prompt'",
                      path, (unsigned long long)line + 1);
}

static joust_status check_served_prompts(const preflight *p, const joust_stage *stage,
                                         joust_error *err)
{
    uint64_t lines;
    joust_digest content;
    char *path = p->job->sets[stage->set].path;
    return joust_prompt_file_read(path, check_served_prompt, path, &lines, &content, err);
}

/* Stages that answer the same prompts by the same model are looked at once. */
static bool seen_before(const joust_plan *plan, uint32_t stage)
{
    for (uint32_t i = 0; i < stage; i++)
        if (plan->stages[i].kind == JOUST_STAGE_GENERATE &&
            plan->stages[i].set == plan->stages[stage].set &&
            plan->stages[i].model == plan->stages[stage].model)
            return true;
    return false;
}

joust_status joust_preflight(const joust_job *job, joust_error *err)
{
    preflight *p = joust_calloc(1, sizeof(*p));
    if (!p)
        return joust_fail(err, JOUST_NOMEM, "out of memory");
    p->job = job;
    joust_status st = joust_plan_compile(job, &p->plan, err);
    if (st == JOUST_OK)
        st = check_models(p, err);
    if (st == JOUST_OK)
        st = check_judges(p, err);
    for (uint32_t i = 0; st == JOUST_OK && i < p->plan.n_stages; i++)
        if (p->plan.stages[i].kind == JOUST_STAGE_GENERATE && !seen_before(&p->plan, i))
            st = joust_job_model_is_remote(&job->models[p->plan.stages[i].model])
                     ? check_served_prompts(p, &p->plan.stages[i], err)
                     : check_prompts(p, &p->plan.stages[i], err);
    for (uint32_t i = 0; i < JOUST_MAX_MODELS; i++) {
        joust_tokenizer_free(&p->models[i].tokenizer);
        joust_chat_free(&p->models[i].chat);
    }
    joust_free(p);
    return st;
}

int joust_preflight_or_exit(const char *verb, const joust_job *job, const char *store)
{
    joust_error err;
    char *database = store ? joust_path_join(store, "db") : NULL;
    bool begun = database && joust_dir_exists(database);
    joust_free(database);
    joust_status st = begun ? JOUST_OK : joust_preflight(job, &err);
    if (st == JOUST_OK)
        return -1;
    int status = joust_cli_fail(verb, &err);
    /* A file that is absent or isn't what it should be is the job file's problem. */
    return joust_status_scope(st) == JOUST_SCOPE_PROCESS ? status : JOUST_EXIT_USAGE;
}
