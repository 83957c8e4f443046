#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launch_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/digest.h"
#include "proto/base/file.h"

static void argue(joust_launch_command *c, const char *argument)
{
    if (c->n < JOUST_LAUNCH_ARGUMENTS)
        c->argv[c->n++] = argument;
    c->argv[c->n] = NULL;
}

static void argue_number(joust_launch_command *c, const char *option, uint32_t number)
{
    char *text = c->texts[c->n_texts++];
    snprintf(text, sizeof(c->texts[0]), "%u", number);
    argue(c, option);
    argue(c, text);
}

static void coordinator_command(const joust_launch_options *options,
                                const joust_launch_places *places, joust_launch_command *c)
{
    *c = (joust_launch_command){.name = "coordinator"};
    argue(c, "joust");
    argue(c, "coordinator");
    argue(c, options->job_path);
    argue(c, "--store");
    argue(c, options->store);
    argue(c, "--listen");
    argue(c, places->work);
    argue(c, "--status");
    argue(c, places->status);
    const bool on_cpu = !options->device || strcmp(options->device, "cpu") == 0;
    argue(c, "--device");
    argue(c, on_cpu ? "cpu" : "cuda");
    argue(c, "--precision");
    argue(c, options->precision ? options->precision : on_cpu ? "f32" : "bf16");
    for (uint32_t i = 0; options->sets && i < options->sets->n; i++) {
        argue(c, "--set");
        argue(c, options->sets->items[i]);
    }
}

static void argue_gpu(joust_launch_command *c, uint32_t number)
{
    char *text = c->texts[c->n_texts++];
    snprintf(text, sizeof(c->texts[0]), "cuda:%u", number);
    argue(c, text);
}

static void peer_command(const joust_launch_options *options, const joust_launch_places *places,
                         const char *role, uint32_t number, joust_launch_command *c)
{
    const bool worker = strcmp(role, "worker") == 0;
    *c = (joust_launch_command){.n_texts = 0};
    snprintf(c->name, sizeof(c->name), "%s-%u", role, number);
    argue(c, "joust");
    argue(c, role);
    argue(c, "--connect");
    argue(c, places->work);
    argue(c, "--name");
    argue(c, c->name);
    argue_number(c, "--threads", worker ? options->worker_threads : options->judge_threads);
    if (options->kv_memory_mb)
        argue_number(c, "--kv-memory", options->kv_memory_mb);
    if (options->memory_mb && worker)
        argue_number(c, "--memory", options->memory_mb);
    if (options->device) {
        argue(c, "--device");
        if (strcmp(options->device, "cuda:each") == 0)
            argue_gpu(c, number);
        else
            argue(c, options->device);
    }
    if (options->precision) {
        argue(c, "--precision");
        argue(c, options->precision);
    }
    argue(c, "--cache");
    argue(c, places->cache);
    if (worker) {
        argue(c, "--logs");
        argue(c, places->logs);
    }
}

joust_status joust_launch_each_command(const joust_launch_options *options,
                                       const joust_launch_places *places,
                                       joust_launch_command_fn *fn, void *arg, joust_error *err)
{
    joust_launch_command c;
    coordinator_command(options, places, &c);
    joust_status st = fn(arg, &c, err);
    for (uint32_t i = 0; !st && i < options->workers; i++) {
        peer_command(options, places, "worker", i, &c);
        st = fn(arg, &c, err);
    }
    for (uint32_t i = 0; !st && i < options->judges; i++) {
        peer_command(options, places, "judge", i, &c);
        st = fn(arg, &c, err);
    }
    return st;
}

/* BASE/joust-UID-STORE; another number behind it where somebody else has taken the name. */
static void choose_private_dir(joust_launch_places *p, const char *base, const char *store)
{
    struct stat info;
    unsigned taken = 0;
    do {
        int n = snprintf(p->private_dir, sizeof(p->private_dir), "%s/joust-%u-%.12s", base,
                         (unsigned)geteuid(), store);
        if (taken)
            snprintf(p->private_dir + n, sizeof(p->private_dir) - (size_t)n, "-%u", taken);
    } while (lstat(p->private_dir, &info) == 0 && info.st_uid != geteuid() && ++taken < 100);
}

joust_status joust_launch_places_choose(const joust_launch_options *options, joust_launch_places *p,
                                        joust_error *err)
{
    p->logs = joust_path_join(options->store, "logs");
    p->cache = joust_path_join(options->store, "cache");
    if (!p->logs || !p->cache)
        return joust_fail(err, JOUST_NOMEM, "launch: out of memory");
    char absolute[PATH_MAX];
    if (!realpath(options->store, absolute))
        snprintf(absolute, sizeof(absolute), "%s", options->store);
    joust_digest digest = joust_digest_of(absolute, strlen(absolute));
    char hex[JOUST_DIGEST_HEX];
    joust_digest_hex(&digest, hex);
    const char *base = getenv("XDG_RUNTIME_DIR");
    if (!base || strlen(base) > 40 || access(base, W_OK) != 0)
        base = "/tmp";
    choose_private_dir(p, base, hex);
    snprintf(p->work, sizeof(p->work), "ipc://%s/work", p->private_dir);
    const char *given = options->jobfile->status_endpoint;
    int n = given ? snprintf(p->status, sizeof(p->status), "%s", given)
                  : snprintf(p->status, sizeof(p->status), "ipc://%s/status", p->private_dir);
    if (n < 0 || (size_t)n >= sizeof(p->status))
        return joust_fail(err, JOUST_INVALID, "status.endpoint: longer than %u bytes",
                          JOUST_MAX_ENDPOINT_BYTES - 1);
    return JOUST_OK;
}

void joust_launch_places_fini(joust_launch_places *p)
{
    joust_free(p->logs);
    joust_free(p->cache);
    *p = (joust_launch_places){0};
}

static joust_status print_command(void *arg, const joust_launch_command *c, joust_error *err)
{
    joust_buf *to = arg;
    for (uint32_t i = 0; i < c->n; i++)
        joust_buf_format(to, "%s%s", i ? " " : "", c->argv[i]);
    joust_buf_text(to, "\n");
    return joust_buf_status(to, err);
}

joust_status joust_launch_print(const joust_launch_options *options, joust_buf *to,
                                joust_error *err)
{
    joust_launch_places places = {0};
    joust_status st = joust_launch_places_choose(options, &places, err);
    if (!st)
        st = joust_launch_each_command(options, &places, print_command, to, err);
    joust_launch_places_fini(&places);
    return st;
}
