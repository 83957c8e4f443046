/* joust validate JOB: problems as file:line:column, or what the job will do. Writes nothing. */
#include <stdio.h>
#include <string.h>

#include "ops/cli.h"
#include "ops/job_keys.h"
#include "ops/jobfile.h"
#include "ops/preflight.h"
#include "ops/verbs.h"
#include "proto/base/alloc.h"
#include "proto/plan.h"

/* Lines of a file, a last one without a newline included. */
static joust_status count_lines(const char *path, uint64_t *ret, joust_error *err)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return joust_fail(err, JOUST_NOT_FOUND, "%s: can't be opened", path);
    char chunk[16384];
    uint64_t lines = 0;
    size_t n;
    char last = '\n';
    while ((n = fread(chunk, 1, sizeof(chunk), file)) > 0) {
        for (size_t i = 0; i < n; i++)
            lines += chunk[i] == '\n';
        last = chunk[n - 1];
    }
    bool bad = ferror(file);
    fclose(file);
    if (bad)
        return joust_fail(err, JOUST_IO, "%s: can't be read", path);
    *ret = lines + (last != '\n');
    return JOUST_OK;
}

static void print_stages(const joust_plan *plan, const char *title, bool baseline)
{
    printf("%s", title);
    const char *separator = "";
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const joust_stage *stage = &plan->stages[i];
        if (baseline ? stage->first_round == 0 : stage->last_round != 0) {
            printf("%s%s", separator, stage->name);
            separator = " · ";
        }
    }
    printf("%s\n", *separator ? "" : "nothing");
}

static void print_model(const joust_job_model *model)
{
    if (model->has_serve)
        printf("model     %s: %s, served by %u server%s a worker\n", model->name, model->path,
               model->serve.replicas, model->serve.replicas == 1 ? "" : "s");
    else if (!model->has_endpoint)
        printf("model     %s: %s%s%s\n", model->name, model->path,
               model->init ? " (weights are drawn)" : "",
               model->scalar_head ? " (with a scalar head of zeros)" : "");
    else
        printf("model     %s: %s, served by %u URL%s\n", model->name, model->endpoint.model,
               model->endpoint.n_urls, model->endpoint.n_urls == 1 ? "" : "s");
}

static joust_status print_summary(const joust_job *job, joust_error *err)
{
    joust_plan *plan = NULL;
    joust_status st = joust_plan_create(job, &plan, err);
    uint64_t lines[JOUST_MAX_SETS] = {0};
    for (uint32_t i = 0; !st && i < job->n_sets; i++)
        st = count_lines(job->sets[i].path, &lines[i], err);
    if (st)
        goto out;
    printf("OK: %s, seed %llu, %u round%s\n", job->name, (unsigned long long)job->seed, job->rounds,
           job->rounds == 1 ? "" : "s");
    for (uint32_t i = 0; i < job->n_models; i++)
        print_model(&job->models[i]);
    for (uint32_t i = 0; i < job->n_sets; i++) {
        const joust_job_set *set = &job->sets[i];
        printf("set       %s: %llu lines, %llu a round\n", set->name, (unsigned long long)lines[i],
               (unsigned long long)(set->per_round ? set->per_round : lines[i]));
    }
    for (uint32_t i = 0; i < job->n_judges; i++)
        printf("judge     %s: %s\n", job->judges[i].name,
               job->judges[i].role == JOUST_ROLE_REWARD ? "rewards" : "measures");
    print_stages(plan, "baseline  ", true);
    print_stages(plan, "a round   ", false);
out:
    joust_free(plan);
    return st;
}

static int print_text(joust_status (*print)(joust_buf *, joust_error *))
{
    joust_buf text = {0};
    joust_error err;
    joust_status st = print(&text, &err);
    if (!st)
        fwrite(text.data, 1, text.n, stdout);
    joust_buf_fini(&text);
    return st ? joust_cli_fail("validate", &err) : JOUST_EXIT_OK;
}

int joust_verb_validate(int argc, char **argv)
{
    joust_text_list sets = {0};
    bool keys = false, schema = false;
    const joust_option options[] = {
        {"--set", JOUST_OPTION_LIST, &sets, "KEY=VALUE", "override a key, as in train.beta=0.2"},
        {"--keys", JOUST_OPTION_FLAG, &keys, NULL, "print every key with its range and default"},
        {"--schema", JOUST_OPTION_FLAG, &schema, NULL, "print the JSON Schema of job files"}};
    const joust_usage usage = {
        .verb = "validate",
        .synopsis = "joust validate JOB.yaml [--set KEY=VALUE] | --keys | --schema",
        .about = "Checks a job file and the files that it names, and says what the job will do.\n"
                 "Every problem is a line FILE:LINE:COLUMN: what was expected; exit status 2.",
        .options = options,
        .n_options = sizeof(options) / sizeof(options[0]),
        .max_positional = 1};
    const char *path[1];
    int n_paths;
    int status = joust_cli_parse(&usage, argc, argv, path, &n_paths);
    if (status >= 0)
        return status;
    if (keys || schema)
        return print_text(schema ? joust_job_schema_print : joust_job_keys_print);
    if (n_paths == 0) {
        fprintf(stderr, "joust validate: which job file? usage: %s\n", usage.synopsis);
        return JOUST_EXIT_USAGE;
    }
    joust_jobfile jobfile;
    status = joust_jobfile_open("validate", path[0], &sets, &jobfile);
    if (status >= 0)
        return status;
#ifdef JOUST_HAVE_PREFLIGHT
    status = joust_preflight_or_exit("validate", &jobfile, path[0], &sets, NULL);
    if (status >= 0) {
        joust_jobfile_fini(&jobfile);
        return status;
    }
#endif
    joust_error err;
    joust_status st = print_summary(&jobfile.job, &err);
    joust_jobfile_fini(&jobfile);
    return st ? joust_cli_fail("validate", &err) : JOUST_EXIT_OK;
}
