/* Bytes that the coordinator's core reads from disk, as one input of a fuzzer:
 *   length (4, big-endian; 0: none) and bytes of a snapshot, then events to replay, each length (2) and bytes. */
#ifndef JOUST_TESTS_FUZZ_CORE_H
#define JOUST_TESTS_FUZZ_CORE_H

#include <stdlib.h>

#include "coordinator/core.h"
#include "coordinator/sample_job.h"

/* Two rounds of a job that has every kind of stage but INIT; s stays where it is. */
static inline joust_core *fuzz_core_create(sample_job *s)
{
    static const uint64_t n_prompts[3] = {9, 3, 5};
    joust_error err;
    joust_core *core = NULL;
    sample_job_init(s, 2, 4);
    sample_job_evaluate(s);
    sample_job_promote(s);
    if (joust_plan_compile(&s->job, &s->plan, &err) != JOUST_OK ||
        joust_core_create(&s->job, &s->plan, n_prompts, NULL, &core, &err) != JOUST_OK)
        abort();
    return core;
}

#endif
