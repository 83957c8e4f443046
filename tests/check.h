/* cmocka with a few words of our own. Included first in every test. */
#ifndef JOUST_TESTS_CHECK_H
#define JOUST_TESTS_CHECK_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "proto/base/status.h"

/* The call must give this status; prints the error's text if it doesn't. */
#define check_status(expected, call)                                                               \
    do {                                                                                           \
        joust_status check_got = (call);                                                           \
        if (check_got != (expected))                                                               \
            fail_msg("%s: %s, expected %s: %s", #call, joust_status_name(check_got),               \
                     joust_status_name(expected), err.text);                                       \
    } while (0)
#define check_ok(call) check_status(JOUST_OK, call)

#endif
