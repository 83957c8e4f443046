/* First byte: which record type (tests/proto/fill.c). The rest: its bytes. What decodes is
 * canonical, and validating whatever decodes is safe. */
#include <string.h>

#include "fuzz/fuzz.h"
#include "proto/base/alloc.h"
#include "proto/codec.h"
#include "proto/fill.h"

static void validate(const joust_record_type *type, const void *record)
{
    joust_error err;
    joust_status st = JOUST_OK;
    if (type == &joust_prompt_type)
        st = joust_prompt_validate(record, &err);
    else if (type == &joust_trajectory_type)
        st = joust_trajectory_validate(record, &err);
    else if (type == &joust_verdict_type)
        st = joust_verdict_validate(record, &err);
    else if (type == &joust_pair_type)
        st = joust_pair_validate(record, &err);
    else if (type == &joust_manifest_type)
        st = joust_manifest_validate(record, &err);
    fuzz_require(st == JOUST_OK || st == JOUST_INVALID || st == JOUST_NOT_FINITE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    joust_error err;
    if (n == 0)
        return 0;
    const joust_record_type *type = fill_types[data[0] % fill_n_types].type;
    int64_t live = joust_alloc_live();
    void *record = joust_calloc(1, type->size);
    if (record && joust_record_decode(type, data + 1, n - 1, record, &err) == JOUST_OK) {
        joust_buf again = {0};
        fuzz_require(joust_record_encode(type, record, &again, &err) == JOUST_OK);
        fuzz_require(again.n == n - 1 && memcmp(again.data, data + 1, n - 1) == 0);
        validate(type, record);
        joust_buf_fini(&again);
        joust_record_fini(type, record);
    }
    joust_free(record);
    fuzz_require(joust_alloc_live() == live);
    return 0;
}
