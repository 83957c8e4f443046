#include "proto/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *joust_status_name(joust_status status)
{
    switch (status) {
#define X(name, value, text)                                                                       \
    case name:                                                                                     \
        return #name;
        JOUST_STATUS_MAP(X)
#undef X
    }
    return "JOUST_UNKNOWN";
}

const char *joust_status_text(joust_status status)
{
    switch (status) {
#define X(name, value, text)                                                                       \
    case name:                                                                                     \
        return text;
        JOUST_STATUS_MAP(X)
#undef X
    }
    return "unknown status";
}

joust_scope joust_status_scope(joust_status status)
{
    if (status > -20)
        return JOUST_SCOPE_NONE;
    if (status > -40)
        return JOUST_SCOPE_MESSAGE;
    if (status > -60)
        return JOUST_SCOPE_PEER;
    return JOUST_SCOPE_PROCESS;
}

joust_status joust_fail(joust_error *err, joust_status status, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        err->status = status;
        vsnprintf(err->text, sizeof(err->text), format, args);
        va_end(args);
    }
    return status;
}

joust_status joust_blame(joust_error *err, joust_status status, const char *format, ...)
{
    if (!err)
        return status;
    char below[sizeof(err->text)];
    memcpy(below, err->text, sizeof(below));
    va_list args;
    va_start(args, format);
    int n = vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    size_t used = n < 0 ? 0 : (size_t)n;
    if (used + 2 >= sizeof(err->text))
        return err->status;
    size_t room = sizeof(err->text) - used - 3, length = strnlen(below, sizeof(below));
    memcpy(err->text + used, ": ", 2);
    memcpy(err->text + used + 2, below, length < room ? length : room);
    err->text[used + 2 + (length < room ? length : room)] = '\0';
    return err->status;
}
