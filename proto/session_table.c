/* What a session does with each event in each state; PROTOCOL.md shows this table. */
#include "proto/session.h"

#define NEXT(state)  ((signed char)(JOUST_SESSION_##state + 1))
#define ON(event)    [JOUST_SESSION_EV_##event]
#define STATE(state) [JOUST_SESSION_##state]

/* clang-format off */
static const signed char next_state[JOUST_SESSION_STATE_N][JOUST_SESSION_EVENT_N] = { /* 0: illegal here */
    STATE(DISCONNECTED) = {ON(LINK_UP) = NEXT(HELLO_SENT), ON(LINK_DOWN) = NEXT(DISCONNECTED),
                           ON(GRACE_OVER) = NEXT(GONE), ON(DRAIN) = NEXT(GONE),
                           ON(LOWER_EPOCH) = NEXT(DISCONNECTED)},
    STATE(HELLO_SENT) = {ON(LINK_UP) = NEXT(HELLO_SENT), ON(LINK_DOWN) = NEXT(DISCONNECTED),
                         ON(HELLO_ACK) = NEXT(READY), ON(LOWER_EPOCH) = NEXT(HELLO_SENT),
                         ON(STRANGER) = NEXT(HELLO_SENT), ON(REFUSED) = NEXT(GONE),
                         ON(GOODBYE) = NEXT(GONE), ON(SILENCE) = NEXT(HELLO_SENT),
                         ON(GRACE_OVER) = NEXT(GONE), ON(DRAIN) = NEXT(GONE)},
    STATE(READY) = {ON(LINK_UP) = NEXT(HELLO_SENT), ON(LINK_DOWN) = NEXT(DISCONNECTED),
                    ON(HELLO_ACK) = NEXT(READY), ON(MESSAGE) = NEXT(READY),
                    ON(LOWER_EPOCH) = NEXT(READY), ON(STRANGER) = NEXT(HELLO_SENT),
                    ON(REFUSED) = NEXT(GONE), ON(GOODBYE) = NEXT(GONE),
                    ON(SILENCE) = NEXT(HELLO_SENT), ON(DRAIN) = NEXT(DRAINING)},
    STATE(DRAINING) = {ON(LINK_UP) = NEXT(DRAINING), ON(LINK_DOWN) = NEXT(GONE),
                       ON(HELLO_ACK) = NEXT(DRAINING), ON(MESSAGE) = NEXT(DRAINING),
                       ON(LOWER_EPOCH) = NEXT(DRAINING), ON(STRANGER) = NEXT(GONE),
                       ON(REFUSED) = NEXT(GONE), ON(GOODBYE) = NEXT(GONE), ON(SILENCE) = NEXT(GONE),
                       ON(GRACE_OVER) = NEXT(GONE), ON(DRAIN) = NEXT(DRAINING),
                       ON(EMPTY) = NEXT(GONE)},
    STATE(GONE) = {ON(LINK_UP) = NEXT(GONE), ON(LINK_DOWN) = NEXT(GONE), ON(DRAIN) = NEXT(GONE)},
};
/* clang-format on */

joust_session_state joust_session_table(joust_session_state state, joust_session_event event)
{
    int next = next_state[state][event];
    return next ? (joust_session_state)(next - 1) : JOUST_SESSION_STATE_N;
}

const char *joust_session_state_name(joust_session_state state)
{
    static const char *const names[] = {
#define X(name, text) #name,
        JOUST_SESSION_STATES(X)
#undef X
    };
    return state < JOUST_SESSION_STATE_N ? names[state] : "UNKNOWN";
}

const char *joust_session_event_name(joust_session_event event)
{
    static const char *const names[] = {
#define X(name, text) #name,
        JOUST_SESSION_EVENTS(X)
#undef X
    };
    return event < JOUST_SESSION_EVENT_N ? names[event] : "UNKNOWN";
}
