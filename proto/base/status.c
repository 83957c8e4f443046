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

void joust_text_ellipsis(char *text, size_t room, int needed)
{
    static const char dots[] = "\xe2\x80\xa6";
    if (needed < 0 || (size_t)needed < room || room < sizeof(dots))
        return;
    size_t at = room - sizeof(dots);
    while (at > 0 && ((unsigned char)text[at] & 0xc0) == 0x80) /* inside a character */
        at--;
    memcpy(text + at, dots, sizeof(dots));
}

joust_status joust_fail(joust_error *err, joust_status status, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        err->status = status;
        int n = vsnprintf(err->text, sizeof(err->text), format, args);
        va_end(args);
        joust_text_ellipsis(err->text, sizeof(err->text), n);
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
    joust_text_ellipsis(err->text, sizeof(err->text), n);
    size_t used = n < 0 ? 0 : (size_t)n;
    if (used + 2 >= sizeof(err->text))
        return err->status;
    n = snprintf(err->text + used, sizeof(err->text) - used, ": %s", below);
    joust_text_ellipsis(err->text + used, sizeof(err->text) - used, n);
    return err->status;
}
