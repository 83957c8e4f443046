/* A job's wire bytes, as a peer takes them from HELLO_ACK: decode, validate, digest, identity. */
#include <string.h>

#include "fuzz/fuzz.h"
#include "proto/base/alloc.h"
#include "proto/job.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    joust_error err;
    joust_job job;
    char key[128];
    int64_t live = joust_alloc_live();
    if (joust_job_decode(data, n, &job, &err) == JOUST_OK) {
        joust_digest digest, again;
        joust_buf identity = {0};
        joust_status st = joust_job_validate(&job, key, &err);
        fuzz_require(st == JOUST_OK || st == JOUST_INVALID);
        fuzz_require(memchr(key, 0, sizeof(key)) != NULL);
        fuzz_require(joust_job_digest(&job, &digest, &err) == JOUST_OK);
        fuzz_require(joust_job_encode(&job, true, &identity, &err) == JOUST_OK);
        joust_job_fini(&job);
        /* an identity is a job, and its identity is itself */
        fuzz_require(joust_job_decode(identity.data, identity.n, &job, &err) == JOUST_OK);
        fuzz_require(joust_job_digest(&job, &again, &err) == JOUST_OK);
        fuzz_require(joust_digest_equal(&digest, &again));
        joust_buf_fini(&identity);
        joust_job_fini(&job);
    }
    fuzz_require(joust_alloc_live() == live);
    return 0;
}
