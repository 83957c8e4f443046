/* A trainer of others' making, for tests of train.command: it reads what it is given (worker/external.h), takes steps that
 * move each weight a little, keeps checkpoints of its own, and writes the next version; or misbehaves.
 *   toy_trainer [--steps N] [--step-ms MS] [--save-every N] [--die-once FILE] [MODE]
 * MODE: never-ends, dies (at 90 % of its steps), nothing (exits with 0, writes no result), nan (a weight), shape (other
 * shapes), nan-loss, half (a cut file). --die-once: ends by itself after the first checkpoint, unless FILE is there. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "proto/base/file.h"
#include "worker/engine/model.h"

typedef struct options {
    uint32_t steps, step_ms, save_every;
    const char *die_once, *mode;
} options;

static const char *var(const char *name)
{
    const char *value = getenv(name);
    if (value)
        return value;
    fprintf(stderr, "toy_trainer: %s isn't set\n", name);
    exit(2);
}

static bool is(const options *o, const char *mode)
{
    return o->mode && strcmp(o->mode, mode) == 0;
}

/* The pairs must be there, as many as are said. */
static void check_pairs(void)
{
    unsigned long n = strtoul(var("JOUST_N_PAIRS"), NULL, 10), lines = 0;
    char *line = NULL;
    size_t size = 0;
    FILE *f = fopen(var("JOUST_PAIRS"), "r");
    while (f && getline(&line, &size, f) > 0)
        if (strstr(line, "\"prompt_tokens\":[") && strstr(line, "\"chosen\":\"") &&
            strstr(line, "\"rejected_tokens\":["))
            lines++;
    free(line);
    if (f)
        fclose(f);
    if (lines != n || n == 0) {
        fprintf(stderr, "toy_trainer: %lu pairs, not %lu\n", lines, n);
        exit(2);
    }
}

static uint32_t resumed_step(void)
{
    char path[4096];
    unsigned step = 0;
    if (!*var("JOUST_RESUME"))
        return 0;
    snprintf(path, sizeof(path), "%s/step", var("JOUST_RESUME"));
    FILE *f = fopen(path, "r");
    if (!f || fscanf(f, "%u", &step) != 1)
        exit(2);
    fclose(f);
    printf("goes on after step %u\n", step);
    return step;
}

static void save_checkpoint(uint32_t step)
{
    char path[4096];
    snprintf(path, sizeof(path), "%s/checkpoint-%u", var("JOUST_STATE"), step);
    mkdir(path, 0700);
    snprintf(path, sizeof(path), "%s/checkpoint-%u/step", var("JOUST_STATE"), step);
    FILE *f = fopen(path, "w");
    if (!f || fprintf(f, "%u\n", step) < 0 || fclose(f) != 0)
        exit(2);
    printf("{\"checkpoint\": \"checkpoint-%u\"}\n", step);
}

static void take_steps(const options *o)
{
    const struct timespec pause = {.tv_sec = o->step_ms / 1000,
                                   .tv_nsec = (long)(o->step_ms % 1000) * 1000000};
    for (uint32_t step = resumed_step() + 1; step <= o->steps; step++) {
        nanosleep(&pause, NULL);
        printf("{\"loss\": %s, \"grad_norm\": %s, \"learning_rate\": 1e-05, "
               "\"rewards/accuracies\": 0.5, "
               "\"step\": %u}\n",
               is(o, "nan-loss") && step == 3 ? "NaN" : "0.6931", step == 1 ? "Infinity" : "1.5",
               step);
        if (o->save_every && step % o->save_every == 0)
            save_checkpoint(step);
        fflush(stdout);
        if (is(o, "dies") && step * 10 >= o->steps * 9)
            abort();
        if (o->die_once && step == o->save_every && access(o->die_once, F_OK) != 0) {
            close(open(o->die_once, O_CREAT | O_WRONLY, 0600));
            sleep(2); /* the checkpoint is taken meanwhile */
            exit(1);
        }
    }
}

static int write_result(const options *o)
{
    joust_error err;
    joust_model *model = NULL;
    const char *output = var("JOUST_OUTPUT");
    uint64_t n;
    joust_status st = joust_model_load(var("JOUST_BASE"), &model, &err);
    if (st == JOUST_OK && is(o, "shape")) {
        joust_model_config config = *joust_model_get_config(model);
        config.d_ff *= 2;
        joust_model_free(&model);
        st = joust_model_init(&config, 1, &model, &err);
    }
    if (st == JOUST_OK) {
        float *w = joust_model_weights(model, &n);
        for (uint64_t i = 0; i < n; i++)
            w[i] *= 1 + 1e-3f * (float)(i % 7);
        if (is(o, "nan"))
            memset(&w[n / 2], 0xff, sizeof(*w));
        joust_model_changed(model);
        st = joust_model_save(model, var("JOUST_BASE"), output, &err);
    }
    joust_model_free(&model);
    if (st != JOUST_OK)
        fprintf(stderr, "toy_trainer: %s\n", err.text);
    return st == JOUST_OK ? 0 : 1;
}

int main(int argc, char **argv)
{
    options o = {.steps = 10, .step_ms = 1};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--steps"))
            o.steps = (uint32_t)strtoul(value, NULL, 10), i++;
        else if (!strcmp(argv[i], "--step-ms"))
            o.step_ms = (uint32_t)strtoul(value, NULL, 10), i++;
        else if (!strcmp(argv[i], "--save-every"))
            o.save_every = (uint32_t)strtoul(value, NULL, 10), i++;
        else if (!strcmp(argv[i], "--die-once"))
            o.die_once = value, i++;
        else
            o.mode = argv[i];
    }
    check_pairs();
    printf("pairs %s, rendezvous %s:%s\n", var("JOUST_N_PAIRS"), var("MASTER_ADDR"),
           var("MASTER_PORT"));
    take_steps(&o);
    while (is(&o, "never-ends"))
        pause();
    if (is(&o, "nothing"))
        return 0;
    int status = write_result(&o);
    if (status == 0 && is(&o, "half")) {
        char path[4096];
        snprintf(path, sizeof(path), "%s/model.safetensors", var("JOUST_OUTPUT"));
        status = truncate(path, 1000) == 0 ? 0 : 1;
    }
    return status;
}
