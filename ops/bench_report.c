#include "ops/bench_report.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "proto/base/bytes.h"
#include "proto/base/text.h"

double joust_bench_allowance(const joust_bench_run *puts, const joust_bench_run *router)
{
    double given = fmax(puts->given, router->given);
    double shared = given * 1e6 / (puts->all_cpu_us + router->all_cpu_us);
    return fmin(shared, fmin(puts->rate, router->rate));
}

/* Figures -------------------------------------------------------------------------------------- */

static double real_rate(const joust_bench_round *r)
{
    return r->real.rate;
}

static double raw_rate(const joust_bench_round *r)
{
    return r->raw.rate;
}

static double ratio(const joust_bench_round *r)
{
    return r->real.rate / r->raw.rate;
}

static double puts_rate(const joust_bench_round *r)
{
    return r->puts.rate;
}

/* Records: a trajectory, its verdict, and its share of the group's pair. */
static double puts_records(const joust_bench_round *r)
{
    const joust_bench_run *p = &r->puts;
    return p->rate * (double)(p->trajectories + p->verdicts + p->pairs) / (double)p->trajectories;
}

static double router_rate(const joust_bench_round *r)
{
    return r->router.rate;
}

/* Messages that carry a group: its result and verdict in, its case out. Tasks and acknowledgements share messages. */
static double router_messages(const joust_bench_round *r)
{
    return r->router.rate * 3 * (double)r->router.pairs / (double)r->router.trajectories;
}

static double allowance(const joust_bench_round *r)
{
    return joust_bench_allowance(&r->puts, &r->router);
}

static double raw_share(const joust_bench_round *r)
{
    return r->raw.rate / allowance(r);
}

static double real_cpu(const joust_bench_round *r)
{
    return r->real.cpu_us;
}

static double raw_cpu(const joust_bench_round *r)
{
    return r->raw.cpu_us;
}

static double real_all_cpu(const joust_bench_round *r)
{
    return r->real.all_cpu_us;
}

static double raw_all_cpu(const joust_bench_round *r)
{
    return r->raw.all_cpu_us;
}

static double real_p50(const joust_bench_round *r)
{
    return r->real_single.p50_us;
}

static double real_p99(const joust_bench_round *r)
{
    return r->real_single.p99_us;
}

static double raw_p50(const joust_bench_round *r)
{
    return r->raw_single.p50_us;
}

static double raw_p99(const joust_bench_round *r)
{
    return r->raw_single.p99_us;
}

static double peak(const joust_bench_round *r)
{
    return (double)r->real.peak_bytes / (1 << 20);
}

static const struct figure {
    const char *key, *text;
    int decimals;
    double (*of)(const joust_bench_round *);
} FIGURES[] = {{"durable_per_s", "joust: durable trajectories/s", 0, real_rate},
               {"raw_durable_per_s", "raw pipeline: durable trajectories/s", 0, raw_rate},
               {"ratio", "joust / raw", 2, ratio},
               {"puts_trajectories_per_s", "synced puts alone: trajectories/s", 0, puts_rate},
               {"puts_per_s", "  records/s", 0, puts_records},
               {"router_trajectories_per_s", "ROUTER alone: trajectories/s", 0, router_rate},
               {"router_messages_per_s", "  messages of a group/s", 0, router_messages},
               {"allowance_per_s", "what the two allow: trajectories/s", 0, allowance},
               {"raw_share", "raw / allowance", 2, raw_share},
               {"cpu_us", "joust: coordinator's CPU us/trajectory", 1, real_cpu},
               {"raw_cpu_us", "raw router's CPU us/trajectory", 1, raw_cpu},
               {"all_cpu_us", "joust: all processes' CPU us/trajectory", 1, real_all_cpu},
               {"raw_all_cpu_us", "raw: all processes' CPU us/trajectory", 1, raw_all_cpu},
               {"round_trip_p50_us", "joust: round trip at window 1, p50 us", 0, real_p50},
               {"round_trip_p99_us", "  p99 us", 0, real_p99},
               {"raw_round_trip_p50_us", "raw: round trip at window 1, p50 us", 0, raw_p50},
               {"raw_round_trip_p99_us", "  p99 us", 0, raw_p99},
               {"peak_mib", "joust: coordinator's peak resident MiB", 1, peak}};

enum { N_FIGURES = sizeof(FIGURES) / sizeof(FIGURES[0]) };

typedef struct spread {
    double median, least, greatest;
} spread;

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static spread spread_of(const struct figure *f, const joust_bench_round *rounds, uint32_t n)
{
    double values[JOUST_BENCH_REPETITIONS];
    for (uint32_t i = 0; i < n; i++)
        values[i] = f->of(&rounds[i]);
    qsort(values, n, sizeof(values[0]), by_size);
    return (spread){.median = (values[(n - 1) / 2] + values[n / 2]) / 2,
                    .least = values[0],
                    .greatest = values[n - 1]};
}

/* Printing ------------------------------------------------------------------------------------- */

static double load_average(void)
{
    double load = 0;
    return getloadavg(&load, 1) == 1 ? load : 0;
}

void joust_bench_print(const joust_bench_options *o, const joust_bench_sizes *sizes,
                       const joust_bench_round *rounds, uint32_t n)
{
    printf("%ld processors, load %.1f; %llu trajectories of %u bytes (verdict %u, pair %u) in "
           "groups of %u; %u workers, %u judges, window %u groups; %u repetitions, interleaved\n\n",
           sysconf(_SC_NPROCESSORS_ONLN), load_average(),
           (unsigned long long)rounds[0].real.trajectories, sizes->trajectory, sizes->verdict,
           sizes->pair, o->samples, o->workers, o->judges, o->window, n);
    printf("%-42s %10s   %s\n", "", "median", "(least - greatest)");
    for (int i = 0; i < N_FIGURES; i++) {
        const struct figure *f = &FIGURES[i];
        spread s = spread_of(f, rounds, n);
        printf("%-42s %10.*f   (%.*f - %.*f)\n", f->text, f->decimals, s.median, f->decimals,
               s.least, f->decimals, s.greatest);
    }
}

void joust_bench_print_json(const joust_bench_options *o, const joust_bench_sizes *sizes,
                            const joust_bench_round *rounds, uint32_t n)
{
    joust_buf line = {0};
    const joust_bench_run *first = &rounds[0].real;
    joust_buf_format(&line, "{\"processors\":%ld,\"load\":", sysconf(_SC_NPROCESSORS_ONLN));
    joust_json_double(&line, load_average());
    joust_buf_format(&line,
                     ",\"trajectories\":%llu,\"verdicts\":%llu,\"pairs\":%llu,\"bytes\":%u,"
                     "\"workers\":%u,\"judges\":%u,\"samples\":%u,\"window\":%u,\"repetitions\":%u",
                     (unsigned long long)first->trajectories, (unsigned long long)first->verdicts,
                     (unsigned long long)first->pairs, sizes->trajectory, o->workers, o->judges,
                     o->samples, o->window, n);
    for (int i = 0; i < N_FIGURES; i++) {
        spread s = spread_of(&FIGURES[i], rounds, n);
        joust_buf_format(&line, ",\"%s\":{\"median\":", FIGURES[i].key);
        joust_json_double(&line, s.median);
        joust_buf_text(&line, ",\"min\":");
        joust_json_double(&line, s.least);
        joust_buf_text(&line, ",\"max\":");
        joust_json_double(&line, s.greatest);
        joust_buf_text(&line, "}");
    }
    joust_buf_text(&line, "}\n");
    if (joust_buf_ok(&line))
        fwrite(line.data, 1, line.n, stdout);
    joust_buf_fini(&line);
}
