#include "ops/device_probe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "worker/engine/engine.h"

static joust_status open_device(const char *device, const char *precision, joust_error *err)
{
    joust_engine_options options = {.n_threads = 1};
    joust_engine *engine = NULL;
    joust_status st = joust_engine_options_device(&options, device, precision, err);
    if (st == JOUST_OK)
        st = joust_engine_create(&options, &engine, err);
    joust_engine_free(&engine);
    return st;
}

static joust_status open_all(const char *device, const char *precision, uint32_t n,
                             joust_error *err)
{
    if (strcmp(device, "cuda:each") != 0)
        return open_device(device, precision, err);
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < n && st == JOUST_OK; i++) {
        char one[32];
        snprintf(one, sizeof(one), "cuda:%u", i);
        st = open_device(one, precision, err);
    }
    return st;
}

/* In the child: what it finds goes into the pipe whole. Doesn't return. */
static void look(const char *device, const char *precision, uint32_t n, int to)
{
    joust_error found = {.status = JOUST_OK};
    joust_status st = open_all(device, precision, n, &found);
    found.status = st;
    const char *from = (const char *)&found;
    for (size_t done = 0; done < sizeof(found);) {
        const ssize_t k = write(to, from + done, sizeof(found) - done);
        if (k < 0 && errno != EINTR)
            break;
        done += k > 0 ? (size_t)k : 0;
    }
    _exit(0);
}

static size_t read_whole(int from, void *to, size_t n)
{
    size_t done = 0;
    while (done < n) {
        const ssize_t k = read(from, (char *)to + done, n - done);
        if (k == 0 || (k < 0 && errno != EINTR))
            break;
        done += k > 0 ? (size_t)k : 0;
    }
    return done;
}

joust_status joust_device_probe(const char *device, const char *precision, uint32_t n,
                                joust_error *err)
{
    int ends[2], how = 0;
    joust_error found;
    if (pipe(ends) != 0)
        return joust_fail(err, JOUST_IO, "no pipe: %s", strerror(errno));
    fflush(NULL);
    const pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        look(device, precision, n, ends[1]);
    }
    close(ends[1]);
    const size_t got = child > 0 ? read_whole(ends[0], &found, sizeof(found)) : 0;
    close(ends[0]);
    if (child < 0)
        return joust_fail(err, JOUST_IO, "no new process: %s", strerror(errno));
    while (waitpid(child, &how, 0) < 0 && errno == EINTR)
        continue;
    if (got != sizeof(found))
        return joust_fail(err, JOUST_UNSUPPORTED,
                          "--device %s: opening it ended the process (%s %d); is its driver whole?",
                          device, WIFSIGNALED(how) ? "signal" : "status",
                          WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
    found.text[sizeof(found.text) - 1] = '\0';
    return found.status == JOUST_OK ? JOUST_OK : joust_fail(err, found.status, "%s", found.text);
}
