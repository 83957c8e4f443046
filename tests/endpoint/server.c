/* loopback servers as a process, for system tests:
 *   endpoint_server --model NAME [--servers N] [--owner vllm] [--seed N] [--log FILE] [--slow-ms MS] [--answer-ms MS]
 *                   [--key-env NAME] [--strange N] [--port PORT] FAULT=PERCENT ...
 * Prints the URLs, one a line, and serves until it is killed. --strange: the last N servers have other weights. --port: of the
 * first one, else any. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "endpoint/loopback.h"

static bool set_fault(loopback_options *o, const char *word)
{
    const char *equals = strchr(word, '=');
    for (int f = 0; equals && f < LOOPBACK_FAULTS; f++) {
        const char *name = loopback_fault_name((loopback_fault)f);
        if (strlen(name) == (size_t)(equals - word) && strncmp(name, word, strlen(name)) == 0) {
            o->percent[f] = (uint32_t)strtoul(equals + 1, NULL, 10);
            return true;
        }
    }
    return false;
}

int main(int argc, char **argv)
{
    loopback_options o = {.model = "test", .owner = "vllm", .slow_ms = 1000};
    uint32_t n = 1, strange = 0;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        bool taken = true;
        if (set_fault(&o, argv[i]))
            continue;
        if (!strcmp(argv[i], "--model"))
            o.model = value;
        else if (!strcmp(argv[i], "--owner"))
            o.owner = value;
        else if (!strcmp(argv[i], "--key-env"))
            o.key = getenv(value);
        else if (!strcmp(argv[i], "--log"))
            o.log = value;
        else if (!strcmp(argv[i], "--seed"))
            o.seed = strtoull(value, NULL, 10);
        else if (!strcmp(argv[i], "--servers"))
            n = (uint32_t)strtoul(value, NULL, 10);
        else if (!strcmp(argv[i], "--slow-ms"))
            o.slow_ms = (uint32_t)strtoul(value, NULL, 10);
        else if (!strcmp(argv[i], "--answer-ms"))
            o.answer_ms = (uint32_t)strtoul(value, NULL, 10);
        else if (!strcmp(argv[i], "--port"))
            o.port = (uint16_t)strtoul(value, NULL, 10);
        else if (!strcmp(argv[i], "--strange"))
            strange = (uint32_t)strtoul(value, NULL, 10);
        else
            taken = false;
        if (!taken) {
            fprintf(stderr, "endpoint_server: %s?\n", argv[i]);
            return 2;
        }
        i++;
    }
    signal(SIGPIPE, SIG_IGN);
    for (uint32_t i = 0; i < n; i++) {
        o.seed++;
        o.weights = i + strange >= n;
        loopback *s = loopback_start(&o);
        if (!s)
            return 1;
        o.port = 0;
        printf("http://127.0.0.1:%u/v1\n", loopback_port(s));
    }
    fflush(stdout);
    for (;;)
        pause();
}
