#include "ops/bench_process.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/log.h"

#define SAMPLE_NS 10000000

/* Board ---------------------------------------------------------------------------------------- */

joust_status joust_bench_board_create(joust_bench_board **ret, joust_error *err)
{
    void *at = mmap(NULL, sizeof(joust_bench_board), PROT_READ | PROT_WRITE,
                    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return joust_fail(err, JOUST_NOMEM, "bench: no shared memory: %s", strerror(errno));
    *ret = at; /* zeroed by the system */
    return JOUST_OK;
}

void joust_bench_board_free(joust_bench_board **board)
{
    if (*board)
        munmap(*board, sizeof(**board));
    *board = NULL;
}

void joust_bench_board_clear(joust_bench_board *board)
{
    atomic_store(&board->begin_ns, 0);
    atomic_store(&board->end_ns, 0);
    atomic_store(&board->trajectories, 0);
    atomic_store(&board->verdicts, 0);
    atomic_store(&board->pairs, 0);
    atomic_store(&board->commits, 0);
    atomic_store(&board->n_trips, 0);
}

void joust_bench_note_begin(joust_bench_board *board)
{
    int64_t none = 0;
    if (atomic_load(&board->begin_ns) == 0)
        atomic_compare_exchange_strong(&board->begin_ns, &none, joust_clock_ns());
}

void joust_bench_note_end(joust_bench_board *board)
{
    int64_t now = joust_clock_ns(), before = atomic_load(&board->end_ns);
    while (before < now && !atomic_compare_exchange_weak(&board->end_ns, &before, now)) {
    }
}

void joust_bench_note_trip(joust_bench_board *board, int64_t ns)
{
    uint32_t i = atomic_fetch_add(&board->n_trips, 1);
    if (i < JOUST_BENCH_TRIPS)
        board->trips_ns[i] = ns;
}

/* Processes ------------------------------------------------------------------------------------ */

/* In the child. Doesn't return. */
static void become(const char *name, joust_bench_main *body, void *arg, pid_t parent)
{
    joust_error err = {0};
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent)
        _exit(126);           /* the parent is gone already */
    prctl(PR_SET_NAME, name); /* for ps and profilers; cut to 15 bytes */
    joust_log_set_role(name);
    joust_log_set_level(JOUST_LOG_WARN);
    joust_status st = body(arg, &err);
    if (st != JOUST_OK)
        fprintf(stderr, "joust bench: %s: %s\n", name, err.text);
    _exit(st == JOUST_OK ? 0 : 1);
}

joust_status joust_bench_start(joust_bench_process *process, const char *name,
                               joust_bench_main *body, void *arg, joust_error *err)
{
    pid_t parent = getpid();
    fflush(NULL); /* what is buffered is written once */
    pid_t pid = fork();
    if (pid == 0)
        become(name, body, arg, parent);
    if (pid < 0)
        return joust_fail(err, JOUST_IO, "bench: no new process: %s", strerror(errno));
    *process = (joust_bench_process){.name = name, .pid = pid};
    return JOUST_OK;
}

static double microseconds(struct timeval t)
{
    return (double)t.tv_sec * 1e6 + (double)t.tv_usec;
}

static void sample(joust_bench_process *p)
{
    int64_t now = joust_clock_ns();
    if (now < p->samples.next_ns)
        return;
    p->samples.next_ns = now + SAMPLE_NS;
    if (!joust_grow(&p->samples.pages, p->samples.n, &p->samples.capacity,
                    sizeof(*p->samples.pages)))
        return;
    char path[64];
    snprintf(path, sizeof(path), "/proc/%ld/statm", (long)p->pid);
    FILE *f = fopen(path, "re");
    unsigned long size, resident;
    if (f && fscanf(f, "%lu %lu", &size, &resident) == 2 && resident)
        p->samples.pages[p->samples.n++] = (uint32_t)resident;
    if (f)
        fclose(f);
}

/* After fifths of five of its life. */
static joust_bench_resident resident_at(const joust_bench_process *p, uint32_t fifths)
{
    uint32_t to = (uint32_t)((uint64_t)p->samples.n * fifths / 5), from = to - p->samples.n / 10;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), sum = 0, peak = 0;
    for (uint32_t i = 0; i < to; i++) {
        peak = p->samples.pages[i] > peak ? p->samples.pages[i] : peak;
        sum += i >= from ? p->samples.pages[i] : 0;
    }
    return (joust_bench_resident){.mean_bytes =
                                      from < to ? (double)(sum * page) / (double)(to - from) : 0,
                                  .peak_bytes = peak * page};
}

static void samples_finish(joust_bench_process *p)
{
    p->fifth = resident_at(p, 1);
    p->end = resident_at(p, 5);
    joust_free(p->samples.pages);
    p->samples.pages = NULL;
    p->samples.n = 0;
    p->samples.capacity = 0;
}

/* Waits for one; false if it failed. */
static bool reap(joust_bench_process *p, int options)
{
    struct rusage usage;
    int status = 0;
    pid_t pid;
    do
        pid = wait4(p->pid, &status, options, &usage);
    while (pid < 0 && errno == EINTR);
    if (pid == 0)
        return true;
    p->pid = 0;
    samples_finish(p);
    if (pid < 0)
        return false;
    p->cpu_us = microseconds(usage.ru_utime) + microseconds(usage.ru_stime);
    p->peak_bytes = (uint64_t)usage.ru_maxrss * 1024;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void joust_bench_kill(joust_bench_process *processes, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (processes[i].pid > 0)
            kill(processes[i].pid, SIGKILL);
    for (uint32_t i = 0; i < n; i++)
        if (processes[i].pid > 0)
            reap(&processes[i], 0);
}

joust_status joust_bench_wait(joust_bench_process *processes, uint32_t n, joust_error *err)
{
    for (bool running = true; running;) {
        running = false;
        for (uint32_t i = 0; i < n; i++) {
            if (processes[i].pid > 0 && !reap(&processes[i], WNOHANG)) {
                joust_bench_kill(processes, n);
                return joust_fail(err, JOUST_PEER_LOST, "the process %s failed: see above",
                                  processes[i].name);
            }
            running = running || processes[i].pid > 0;
            if (processes[i].pid > 0)
                sample(&processes[i]);
        }
        if (running)
            usleep(2000);
    }
    return JOUST_OK;
}
