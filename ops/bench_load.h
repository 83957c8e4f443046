/* What a benchmark's null workers and judges answer: records that pass every check of the coordinator, of a given size.
 * Arrays are cut from a pool of random numbers, so that nothing compresses as a real run's would not. */
#ifndef JOUST_OPS_BENCH_LOAD_H
#define JOUST_OPS_BENCH_LOAD_H

#include "ops/bench.h"
#include "proto/base/bytes.h"
#include "proto/messages.h"
#include "proto/plan.h"

#define JOUST_BENCH_ROUND_GROUPS 2048u /* groups a round, at most */

typedef struct joust_bench_load {
    uint32_t n_pool, n_tokens; /* n_tokens: of a response */
    uint32_t *tokens;          /* (n_pool) */
    float *logps;              /* (n_pool) */
    char *text;                /* (4 * n_pool) letters */
} joust_bench_load;

/* Chooses the number of tokens so that an encoded trajectory has about `bytes`. Errors: JOUST_INVALID (bytes too few
 * or too many), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_bench_load_create(uint32_t bytes, joust_bench_load **ret,
                                                    joust_error *err);
void joust_bench_load_free(joust_bench_load **load);

/* The job: generate, judge, pair, in rounds of at most JOUST_BENCH_ROUND_GROUPS groups. Writes its model folder and its
 * prompts below options->dir. *ret is owned (joust_job_fini). */
JOUST_MUST_USE joust_status joust_bench_job(const joust_bench_options *options,
                                            const joust_bench_load *load, joust_job *ret,
                                            joust_error *err);
uint64_t joust_bench_groups(const joust_bench_options *options); /* of all rounds */

/* *ret is owned (joust_unit_result_fini): the answer to a GENERATE or JUDGE unit. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_bench_answer(const joust_bench_load *load, const joust_job *job,
                                               const joust_plan *plan, const joust_lease_unit *unit,
                                               joust_unit_result *ret, joust_error *err);
/* Encoded sizes of what such answers hold. */
JOUST_MUST_USE joust_status joust_bench_measure(const joust_bench_load *load, uint32_t samples,
                                                joust_bench_sizes *ret, joust_error *err);
/* At least n bytes of encoded trajectories, one after the other: what the pipeline by hand carries. */
JOUST_MUST_USE joust_status joust_bench_bytes(const joust_bench_load *load, size_t n, joust_buf *to,
                                              joust_error *err);

#endif
