/* A line of a prompt file: what is accepted is a valid prompt whose digest is of its content; what isn't is told why. */
#include <string.h>

#include "coordinator/prompt_file.h"
#include "fuzz/fuzz.h"
#include "proto/base/alloc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    joust_error err = {0};
    joust_prompt p, again;
    int64_t live = joust_alloc_live();
    joust_status st = joust_prompt_parse(data, n, &p, &err);
    if (st != JOUST_OK) {
        fuzz_require(st == JOUST_MALFORMED || st == JOUST_INVALID || st == JOUST_NOT_FINITE ||
                     st == JOUST_UNSUPPORTED || st == JOUST_TOO_LARGE);
        fuzz_require(err.text[0] != '\0');
    } else {
        joust_digest digest = joust_prompt_digest_of(&p);
        fuzz_require(joust_digest_equal(&p.digest, &digest));
        fuzz_require(p.occurrence == 0);
        fuzz_require(joust_prompt_validate(&p, &err) == JOUST_OK);
        fuzz_require(joust_prompt_parse(data, n, &again, &err) == JOUST_OK);
        fuzz_require(joust_digest_equal(&p.digest, &again.digest) && p.weight == again.weight);
        joust_prompt_fini(&again);
        joust_prompt_fini(&p);
    }
    fuzz_require(joust_alloc_live() == live);
    return 0;
}
