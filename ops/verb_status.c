/* joust status: one screen about a job, from its coordinator's status socket or from its store. */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "coordinator/recovery.h"
#include "ops/cli.h"
#include "ops/status_client.h"
#include "ops/verbs.h"
#include "storage/store.h"

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static long long number_of(const json_t *object, const char *key)
{
    return (long long)json_integer_value(json_object_get(object, key));
}

/* The widest value of the key, and no less than `least`. */
static int width_of(const json_t *list, const char *key, int least)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        int n = (int)strlen(text_of(json_array_get(list, i), key));
        least = n > least ? n : least;
    }
    return least;
}

static void print_stages(const json_t *stages)
{
    size_t n = json_array_size(stages);
    int width = width_of(stages, "name", 24);
    if (n)
        printf("\n%-*s %-9s %17s %7s %7s\n", width, "stage", "state", "done", "leased", "queued");
    for (size_t i = 0; i < n; i++) {
        const json_t *stage = json_array_get(stages, i);
        bool steps = json_object_get(stage, "max_steps") != NULL;
        bool complete = !strcmp(text_of(stage, "state"), "complete");
        long long total = number_of(stage, steps ? "max_steps" : "units");
        char done[48];
        snprintf(done, sizeof(done), "%lld/%lld",
                 steps && complete ? total : number_of(stage, steps ? "durable_step" : "done"),
                 total);
        printf("%-*s %-9s %17s %7lld %7lld\n", width, text_of(stage, "name"),
               text_of(stage, "state"), done, number_of(stage, "leased"),
               number_of(stage, "queued"));
    }
}

static void print_peers(const json_t *peers)
{
    size_t n = json_array_size(peers);
    int width = width_of(peers, "name", 24);
    if (n)
        printf("\n%-*s %-7s %11s %13s %9s\n", width, "peer", "role", "outstanding", "oldest lease",
               "silent");
    for (size_t i = 0; i < n; i++) {
        const json_t *peer = json_array_get(peers, i);
        char held[32];
        snprintf(held, sizeof(held), "%lld/%lld", number_of(peer, "outstanding"),
                 number_of(peer, "credit"));
        printf("%-*s %-7s %11s %11.1f s %7.1f s%s\n", width, text_of(peer, "name"),
               text_of(peer, "role"), held, (double)number_of(peer, "oldest_lease_ms") / 1000,
               (double)number_of(peer, "silent_ms") / 1000,
               json_is_true(json_object_get(peer, "quarantined")) ? " quarantined" : "");
    }
}

/* Servers that peers ask, and why those that get no requests don't. */
static void print_servers(const json_t *servers)
{
    const size_t n = json_array_size(servers);
    const int model = width_of(servers, "model", 12), url = width_of(servers, "url", 28);
    if (n)
        printf("\n%-*s %-*s %-12s %-14s %9s %9s %9s\n", model, "model", url, "server", "peer",
               "state", "in flight", "answers", "failures");
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_array_get(servers, i);
        printf("%-*s %-*s %-12s %-14s %9lld %9lld %9lld\n", model, text_of(s, "model"), url,
               text_of(s, "url"), text_of(s, "peer"), text_of(s, "state"),
               number_of(s, "in_flight"), number_of(s, "answers"), number_of(s, "failures"));
        if (*text_of(s, "probe"))
            printf("  probe: %s\n", text_of(s, "probe"));
        if (*text_of(s, "last_error"))
            printf("  last error: %s\n", text_of(s, "last_error"));
    }
}

static void print_heading(const json_t *root, const json_t *core)
{
    const char *name = text_of(json_object_get(root, "job"), "name");
    const char *phase = text_of(core, "phase");
    long long round = number_of(core, "round"), rounds = number_of(core, "rounds");
    if (!strcmp(phase, "running") && json_is_false(json_object_get(root, "running")))
        phase = "not running";
    if (json_array_size(json_object_get(core, "stages")) == 0) /* all rounds are over */
        printf("%s is %s after round %lld\n%s\n", name, phase, rounds, text_of(root, "why"));
    else
        printf("%s is %s, round %lld of %lld\n%s\n", name, phase, round, rounds,
               text_of(root, "why"));
}

static void print_screen(const json_t *root)
{
    const json_t *core = json_object_get(root, "core");
    print_heading(root, core);
    print_stages(json_object_get(core, "stages"));
    print_peers(json_object_get(core, "peers"));
    print_servers(json_object_get(root, "servers"));
}

/* The snapshot of a coordinator at `connect`, or at the endpoint that it left in the store. Where no process has the store
 * open, nobody who answers there is its coordinator: the folder may be a copy. */
static joust_status ask(const char *store, const char *connect, uint32_t timeout_ms, joust_buf *to,
                        joust_error *err)
{
    joust_buf endpoint = {0};
    joust_status st = JOUST_OK;
    if (store && joust_store_holder(store) == 0)
        return joust_fail(err, JOUST_UNREACHABLE, "%s: no coordinator has it open", store);
    if (store)
        st = joust_status_endpoint(store, &endpoint, err);
    else
        joust_buf_text(&endpoint, connect);
    if (!st)
        st = joust_buf_status(&endpoint, err);
    if (!st)
        st = joust_status_fetch((const char *)endpoint.data, timeout_ms, to, err);
    joust_buf_fini(&endpoint);
    return st;
}

/* What the store says, where no coordinator answers. *ret_ended: nothing is left to resume. *ret_mute: a coordinator runs
 * it that has no status socket, so that nobody was to answer. */
static joust_status read_store(const char *store, joust_buf *to, bool *ret_ended, bool *ret_mute,
                               joust_error *err)
{
    joust_buf endpoint = {0};
    joust_core_phase phase = JOUST_CORE_RUNNING;
    joust_error why;
    joust_status st = joust_recovery_status(store, to, &phase, &why);
    *ret_ended = phase != JOUST_CORE_RUNNING;
    *ret_mute = joust_store_holder(store) > 0 &&
                joust_status_endpoint(store, &endpoint, NULL) == JOUST_UNREACHABLE;
    joust_buf_fini(&endpoint);
    if (st)
        joust_fail(err, st == JOUST_NOT_FOUND ? JOUST_UNREACHABLE : st, "%s", why.text);
    return st == JOUST_NOT_FOUND ? JOUST_UNREACHABLE : st;
}

/* Also says whether the job failed, by the exit status. */
static int show(const joust_buf *snapshot, bool json)
{
    json_error_t why;
    json_t *root = json_loadb((const char *)snapshot->data, snapshot->n, 0, &why);
    if (!json_is_object(root)) {
        fprintf(stderr, "joust status: the answer isn't a snapshot: %s\n", why.text);
        json_decref(root);
        return JOUST_EXIT_FAILED;
    }
    bool failed = !strcmp(text_of(json_object_get(root, "core"), "phase"), "failed");
    if (!json)
        print_screen(root);
    else if (printf("%s\n", (const char *)snapshot->data) < 0)
        failed = true;
    json_decref(root);
    return failed ? JOUST_EXIT_FAILED : JOUST_EXIT_OK;
}

int joust_verb_status(int argc, char **argv)
{
    const char *store = NULL, *connect = NULL;
    uint32_t timeout_ms = 2000;
    bool json = false, ended = true, mute = false;
    const joust_option options[] = {
        {"--store", JOUST_OPTION_TEXT, &store, "DIR", "of the job"},
        {"--connect", JOUST_OPTION_TEXT, &connect, "ENDPOINT", "or its status socket"},
        {"--timeout-ms", JOUST_OPTION_U32, &timeout_ms, "N", "how long an answer may take (2000)"},
        {"--json", JOUST_OPTION_FLAG, &json, NULL, "the snapshot as it came"}};
    const joust_usage usage = {
        .verb = "status",
        .synopsis = "joust status --store DIR | --connect ENDPOINT [--json]",
        .about = "Shows where a job is and what it waits for: by its "
                 "coordinator, or, if none answers, by "
                 "its store.\nExit status: 0 it runs or is complete, 1 it failed, "
                 "3 nobody runs it, and it has not ended.",
        .options = options,
        .n_options = sizeof(options) / sizeof(options[0])};
    int status = joust_cli_parse(&usage, argc, argv, NULL, NULL);
    if (status >= 0)
        return status;
    if (!store == !connect) {
        fprintf(stderr, "joust status: one of --store and --connect; usage: %s\n", usage.synopsis);
        return JOUST_EXIT_USAGE;
    }
    joust_buf snapshot = {0};
    joust_error err;
    joust_status st = ask(store, connect, timeout_ms, &snapshot, &err);
    if (st && store)
        st = read_store(store, &snapshot, &ended, &mute, &err);
    status = st ? joust_cli_fail("status", &err) : show(&snapshot, json);
    if (status == JOUST_EXIT_OK && !ended && !mute)
        status = JOUST_EXIT_UNREACHABLE;
    joust_buf_fini(&snapshot);
    return status;
}
