/* Status codes and error texts.
 *
 * Every call that can fail returns a joust_status: JOUST_OK (0) or a negative code. Codes are grouped
 * by what the caller gives up, so that policy is a range test (joust_status_scope):
 *   -1..-19   nothing: try again, or later
 *   -20..-39  the message or input: it is refused, the peer and the process live on
 *   -40..-59  the peer or the request as a whole
 *   -60..-79  the process: it can't go on safely
 * The reason in words goes into an optional last argument `joust_error *err`. Output arguments
 * (ret_...) are set only on success. The first function that decides an error fills `err`. */
#ifndef JOUST_PROTO_BASE_STATUS_H
#define JOUST_PROTO_BASE_STATUS_H

#include <stddef.h>

#define JOUST_MUST_USE __attribute__((warn_unused_result))
#define JOUST_PRINTF(format_index, args_index)                                                     \
    __attribute__((format(printf, format_index, args_index)))

/* clang-format off */
#define JOUST_STATUS_MAP(X)                                          \
    X(JOUST_OK,            0,  "ok")                                 \
    X(JOUST_AGAIN,        -1,  "not now, try again")                 \
    X(JOUST_TIMEOUT,      -2,  "timed out")                          \
    X(JOUST_FULL,         -3,  "no room")                            \
    X(JOUST_NOT_FOUND,    -4,  "not found")                          \
    X(JOUST_END,          -5,  "end")                                \
    X(JOUST_INTERRUPTED,  -6,  "interrupted")                        \
    X(JOUST_INVALID,      -20, "invalid")                            \
    X(JOUST_MALFORMED,    -21, "malformed")                          \
    X(JOUST_STALE,        -22, "stale")                              \
    X(JOUST_UNSUPPORTED,  -23, "not supported")                      \
    X(JOUST_TOO_LARGE,    -24, "too large")                          \
    X(JOUST_NOT_FINITE,   -25, "not finite")                         \
    X(JOUST_CONFLICT,     -26, "conflicts with what is recorded")    \
    X(JOUST_EXISTS,       -27, "exists already")                     \
    X(JOUST_UNREACHABLE,  -40, "could not reach")                    \
    X(JOUST_VERSION,      -41, "another version")                    \
    X(JOUST_DENIED,       -42, "refused")                            \
    X(JOUST_PEER_LOST,    -43, "peer lost")                          \
    X(JOUST_FENCED,       -44, "superseded by a newer coordinator")  \
    X(JOUST_LOCKED,       -45, "held by another process")            \
    X(JOUST_NOMEM,        -60, "out of memory")                      \
    X(JOUST_IO,           -61, "input/output error")                 \
    X(JOUST_DISK_FULL,    -62, "disk full")                          \
    X(JOUST_CORRUPT,      -63, "corrupt")                            \
    X(JOUST_BUG,          -64, "internal error")
/* clang-format on */

typedef enum joust_status {
#define X(name, value, text) name = value,
    JOUST_STATUS_MAP(X)
#undef X
} joust_status;

typedef enum joust_scope {
    JOUST_SCOPE_NONE,    /* nothing is given up */
    JOUST_SCOPE_MESSAGE, /* this input is refused */
    JOUST_SCOPE_PEER,    /* the peer or request is given up */
    JOUST_SCOPE_PROCESS  /* the process can't go on */
} joust_scope;

typedef struct joust_error {
    joust_status status;
    char text[1024]; /* one line, no newline at the end; says the place and the remedy */
} joust_error;

/* Name ("JOUST_STALE") and text ("stale") of a code; never NULL. */
const char *joust_status_name(joust_status status);
const char *joust_status_text(joust_status status);
joust_scope joust_status_scope(joust_status status);

/* Ends a text that was cut to its room by "…", behind a whole character of UTF-8; needed: what snprintf returned. */
void joust_text_ellipsis(char *text, size_t room, int needed);

/* Fills err (may be NULL) and returns status, so that `return joust_fail(err, JOUST_X, ...)` reads well. */
joust_status joust_fail(joust_error *err, joust_status status, const char *format, ...)
    JOUST_PRINTF(3, 4);

/* Puts "text: " before what err says already (err may be NULL); returns err's status, or status if
 * err is NULL. Adds the place to an error from below: joust_blame(err, st, "%s", path). */
joust_status joust_blame(joust_error *err, joust_status status, const char *format, ...)
    JOUST_PRINTF(3, 4);

#endif
