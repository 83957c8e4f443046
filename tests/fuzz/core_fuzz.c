/* Snapshots and events of the coordinator's core, as they come from disk (tests/fuzz/core.h): refused as corrupt, or
 * a state whose bytes give the same state again, from which the coordinator starts. */
#include <string.h>

#include "fuzz/core.h"
#include "fuzz/fuzz.h"
#include "proto/base/alloc.h"

/* Equal states give equal bytes, and the bytes give the state. */
static void require_round_trip(const joust_core *core)
{
    joust_error err;
    sample_job sample;
    joust_core *copy = fuzz_core_create(&sample);
    joust_buf bytes = {0}, again = {0};
    fuzz_require(joust_core_encode(core, &bytes, &err) == JOUST_OK);
    fuzz_require(joust_core_decode(copy, bytes.data, bytes.n, &err) == JOUST_OK);
    fuzz_require(joust_core_encode(copy, &again, &err) == JOUST_OK);
    fuzz_require(bytes.n == again.n && memcmp(bytes.data, again.data, again.n) == 0);
    joust_buf_fini(&bytes);
    joust_buf_fini(&again);
    joust_core_free(&copy);
}

static joust_status read_all(joust_core *core, joust_reader *r, joust_error *err)
{
    size_t n = joust_read_be32(r);
    const uint8_t *bytes = joust_read_bytes(r, n);
    joust_status st = n && bytes ? joust_core_decode(core, bytes, n, err) : JOUST_OK;
    while (st == JOUST_OK && !r->failed && joust_read_left(r)) {
        n = joust_read_be16(r);
        bytes = joust_read_bytes(r, n);
        if (bytes)
            st = joust_core_replay(core, bytes, n, err);
    }
    return st;
}

/* The process takes over: whatever the state was, it goes on, or is refused where no epoch is left for it. */
static void start(joust_core *core)
{
    const joust_core_event first = {.kind = JOUST_EVENT_START}, next = {.kind = JOUST_EVENT_TICK};
    joust_error err;
    joust_actions out = {0};
    joust_buf text = {0};
    joust_status st = joust_core_step(core, &first, 0, &out, &err);
    fuzz_require(st == JOUST_OK || (st == JOUST_FENCED && joust_core_epoch(core) == UINT64_MAX));
    if (st == JOUST_OK)
        fuzz_require(joust_core_step(core, &next, 1000, &out, &err) == JOUST_OK);
    joust_core_why(core, 5000, &text);
    joust_core_status(core, 5000, NULL, &text);
    fuzz_require(joust_buf_status(&text, &err) == JOUST_OK && text.n > 0);
    joust_buf_fini(&text);
    joust_actions_fini(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    joust_error err = {0};
    sample_job sample;
    int64_t live = joust_alloc_live();
    joust_core *core = fuzz_core_create(&sample);
    joust_reader reader = joust_reader_over(data, n);
    joust_status st = read_all(core, &reader, &err);
    if (st == JOUST_OK) {
        require_round_trip(core);
        start(core);
    } else {
        fuzz_require(st == JOUST_CORRUPT && err.text[0] != '\0');
    }
    joust_core_free(&core);
    fuzz_require(joust_alloc_live() == live);
    return 0;
}
