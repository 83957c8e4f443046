#include "ops/role_options.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "ops/cli.h"
#include "proto/base/file.h"
#include "proto/base/log.h"

#define DEFAULT_CREDIT   64u
#define DEFAULT_CACHE_MB 4096u

/* Asks the system for SIGTERM when the parent dies; the parent may be gone already. */
static bool follow_parent(uint32_t parent)
{
    return prctl(PR_SET_PDEATHSIG, SIGTERM) == 0 && getppid() == (pid_t)parent;
}

/* A folder of this user's for this name at this coordinator: the same after a restart, no other
 * process's meanwhile. */
static joust_status default_cache(joust_role_start *s, joust_error *err)
{
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char hex[JOUST_DIGEST_HEX];
    joust_hasher h;
    joust_hasher_init(&h);
    joust_hasher_field(&h, s->options.endpoint, strlen(s->options.endpoint));
    joust_hasher_field(&h, s->options.name, strlen(s->options.name));
    joust_digest place = joust_hasher_end(&h);
    joust_digest_hex(&place, hex);
    int n;
    if (base && base[0] == '/')
        n = snprintf(s->cache, sizeof(s->cache), "%s/joust/%.16s", base, hex);
    else if (home && home[0] == '/')
        n = snprintf(s->cache, sizeof(s->cache), "%s/.cache/joust/%.16s", home, hex);
    else
        return joust_fail(err, JOUST_INVALID, "no home folder: say where with --cache DIR");
    return n < (int)sizeof(s->cache) ? JOUST_OK
                                     : joust_fail(err, JOUST_INVALID, "home folder: path too long");
}

/* --cache DIR holds one folder a name, since a role empties its own. */
static joust_status place_cache(joust_role_start *s, const char *dir, joust_error *err)
{
    if (!dir)
        return default_cache(s, err);
    int n = snprintf(s->cache, sizeof(s->cache), "%s/%s", dir, s->options.name);
    return n < (int)sizeof(s->cache) ? JOUST_OK
                                     : joust_fail(err, JOUST_INVALID, "--cache: path too long");
}

static bool is_plain_name(const char *name)
{
    return name[0] && name[0] != '.' && !strchr(name, '/') && strlen(name) < 64;
}

static joust_status check(joust_role_start *s, const char *level, const char *curve,
                          const char *cache, joust_error *err)
{
    if (!s->options.endpoint || !s->options.name)
        return joust_fail(err, JOUST_INVALID, "--connect and --name are required");
    if (!is_plain_name(s->options.name))
        return joust_fail(err, JOUST_INVALID, "--name: a word of at most 63 bytes without '/'");
    if (s->options.credit == 0 || s->options.credit > JOUST_MAX_UNITS)
        return joust_fail(err, JOUST_INVALID, "--credit: 1 to %u", JOUST_MAX_UNITS);
    if (!joust_log_set_level_name(level))
        return joust_fail(err, JOUST_INVALID, "--log-level: error, warn, info, debug or trace");
    joust_status st = place_cache(s, cache, err);
    if (st == JOUST_OK && curve) {
        st = joust_curve_read(curve, false, &s->curve, err);
        s->options.curve = &s->curve;
    }
    return st;
}

int joust_role_parse(const joust_role_usage *usage, int argc, char **argv, joust_role_start *ret)
{
    uint32_t parent = 0, cache_mb = DEFAULT_CACHE_MB;
    const char *level = "info", *curve = NULL, *cache = NULL;
    bool no_train = false;
    *ret = (joust_role_start){.options = {.credit = DEFAULT_CREDIT, .signals = true}};
    joust_role_options *o = &ret->options;
    const joust_option options[] = {
        {"--connect", JOUST_OPTION_TEXT, &o->endpoint, "ENDPOINT",
         "the coordinator: ipc:///PATH or tcp://ADDRESS:PORT"},
        {"--name", JOUST_OPTION_TEXT, &o->name, "NAME", "unique in the job"},
        {"--threads", JOUST_OPTION_U32, &o->threads, "N",
         "that compute; default: the processors this process may use"},
        {"--kv-memory", JOUST_OPTION_U32, &o->kv_memory_mb, "MB",
         "key-value memory at most, MiB; default 256, or a quarter of the GPU's"},
        {"--device", JOUST_OPTION_TEXT, &o->device, "DEVICE", "cpu (default), cuda or cuda:N"},
        {"--precision", JOUST_OPTION_TEXT, &o->precision, "P",
         "of weights: f32 (default), or bf16 (a GPU's default)"},
        {"--credit", JOUST_OPTION_U32, &o->credit, "N", "units of work held at once; default 64"},
        {"--cache", JOUST_OPTION_TEXT, &cache, "DIR",
         "fetched models go to DIR/NAME, which is emptied; default: the user's cache folder"},
        {"--cache-mb", JOUST_OPTION_U32, &cache_mb, "N", "kept there at most; default 4096"},
        {"--grace-ms", JOUST_OPTION_U32, &o->grace_ms, "N",
         "without a coordinator, until the job says otherwise; default 900000"},
        {"--curve", JOUST_OPTION_TEXT, &curve, "FILE", "keys of an encrypted link"},
        {"--logs", JOUST_OPTION_TEXT, &o->logs, "DIR",
         "output of servers and trainers that it starts; default CACHE/NAME.logs"},
        {"--parent-pid", JOUST_OPTION_U32, &parent, "PID", "end when this parent process ends"},
        {"--log-level", JOUST_OPTION_TEXT, &level, "LEVEL", "error, warn, info, debug or trace"},
        {"--no-train", JOUST_OPTION_FLAG, &no_train, NULL, "generate only"},
        {"--memory", JOUST_OPTION_U32, &o->memory_mb, "MB",
         "resident memory at most, MiB: keys and gradients shrink; default: no bound"}};
    const joust_usage page = {.verb = usage->verb,
                              .synopsis = usage->synopsis,
                              .about = usage->about,
                              .options = options,
                              .n_options =
                                  sizeof(options) / sizeof(*options) - (usage->can_train ? 0 : 2)};
    int n = 0;
    int status = joust_cli_parse(&page, argc, argv, NULL, &n);
    if (status >= 0)
        return status;
    joust_error err;
    joust_status st = check(ret, level, curve, cache, &err);
    if (st == JOUST_OK && parent > 0 && !follow_parent(parent))
        st = joust_fail(&err, JOUST_PEER_LOST, "the parent process %u is gone", parent);
    if (st != JOUST_OK)
        return joust_cli_fail(usage->verb, &err);
    o->cache = ret->cache;
    o->cache_bytes = (uint64_t)cache_mb << 20;
    if (usage->can_train)
        *usage->can_train = !no_train;
    joust_log_set_role(o->name);
    return -1;
}

int joust_role_end(const joust_role_usage *usage, const joust_role_start *start, joust_status st,
                   const joust_error *err)
{
    joust_error ignored;
    if (joust_dir_remove(start->cache, &ignored) != JOUST_OK)
        joust_log_warn(usage->verb, "%s", ignored.text);
    return st == JOUST_OK ? JOUST_EXIT_OK : joust_cli_fail(usage->verb, err);
}
