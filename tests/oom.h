/* Loops over failing allocations. */
#ifndef JOUST_TESTS_OOM_H
#define JOUST_TESTS_OOM_H

#include "tests/check.h"

#include "proto/base/alloc.h"

/* Calls body with the first allocation and all after it failing, then those from the second on …, until it succeeds; every
 * failure must be JOUST_NOMEM and leave no block behind. What body makes, it frees. Returns how often body was called.
 * (jansson's own allocations don't fail: it can't tell them from bad JSON.) */
typedef joust_status oom_body(void *context, joust_error *err);
static inline int64_t check_oom(oom_body *body, void *context)
{
    joust_error err = {0};
    joust_status st = JOUST_NOMEM;
    int64_t n = 0;
    const int64_t live = joust_alloc_live();
    while (st != JOUST_OK) {
        joust_alloc_fail_at(++n);
        st = body(context, &err);
        joust_alloc_fail_at(0);
        if (st != JOUST_OK && st != JOUST_NOMEM)
            fail_msg("allocation %lld failing: %s: %s", (long long)n, joust_status_name(st),
                     err.text);
        if (joust_alloc_live() != live)
            fail_msg("allocation %lld failing left %lld blocks", (long long)n,
                     (long long)(joust_alloc_live() - live));
        assert_true(n < 10000);
    }
    return n;
}

#endif
