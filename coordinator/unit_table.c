#include "coordinator/unit_table.h"

#include <assert.h>

#define CELL(state, reply)                                                                         \
    {                                                                                              \
        JOUST_UNIT_##state, JOUST_ANSWER_##reply                                                   \
    }

/* clang-format off */
static const joust_unit_cell table[JOUST_UNIT_STATES][JOUST_UNIT_EVENTS] = {
    [JOUST_UNIT_WAITING] = {
        [JOUST_UNIT_READY]    = CELL(QUEUED,  NONE),
        [JOUST_UNIT_LEASE]    = CELL(WAITING, BUG),
        [JOUST_UNIT_RELEASE]  = CELL(WAITING, BUG),
        [JOUST_UNIT_GIVE_UP]  = CELL(WAITING, BUG),
        [JOUST_UNIT_HOLDING]  = CELL(WAITING, REVOKE), /* its inputs vanished with an unsynced batch */
        [JOUST_UNIT_PROGRESS] = CELL(WAITING, REFUSE),
        [JOUST_UNIT_RESULT]   = CELL(WAITING, REFUSE),
        [JOUST_UNIT_FAILURE]  = CELL(WAITING, REVOKE)},
    [JOUST_UNIT_QUEUED] = {
        [JOUST_UNIT_READY]    = CELL(QUEUED,  BUG),
        [JOUST_UNIT_LEASE]    = CELL(LEASED,  NONE),
        [JOUST_UNIT_RELEASE]  = CELL(QUEUED,  BUG),
        [JOUST_UNIT_GIVE_UP]  = CELL(QUEUED,  BUG),
        [JOUST_UNIT_HOLDING]  = CELL(LEASED,  NONE),   /* adopted */
        [JOUST_UNIT_PROGRESS] = CELL(QUEUED,  WRITE),  /* the same bytes from whoever makes them */
        [JOUST_UNIT_RESULT]   = CELL(DONE,    WRITE),  /* late, and as good as any */
        [JOUST_UNIT_FAILURE]  = CELL(QUEUED,  REVOKE)},
    [JOUST_UNIT_LEASED] = {
        [JOUST_UNIT_READY]    = CELL(LEASED,  BUG),
        [JOUST_UNIT_LEASE]    = CELL(LEASED,  BUG),
        [JOUST_UNIT_RELEASE]  = CELL(QUEUED,  NONE),
        [JOUST_UNIT_GIVE_UP]  = CELL(FAILED,  NONE),
        [JOUST_UNIT_HOLDING]  = CELL(LEASED,  NONE),   /* renewed, if it is the holder's; else REVOKE */
        [JOUST_UNIT_PROGRESS] = CELL(LEASED,  WRITE),
        [JOUST_UNIT_RESULT]   = CELL(DONE,    WRITE),
        [JOUST_UNIT_FAILURE]  = CELL(LEASED,  REVOKE)}, /* then RELEASE or GIVE_UP */
    [JOUST_UNIT_DONE] = {
        [JOUST_UNIT_READY]    = CELL(DONE,    BUG),
        [JOUST_UNIT_LEASE]    = CELL(DONE,    BUG),
        [JOUST_UNIT_RELEASE]  = CELL(DONE,    BUG),
        [JOUST_UNIT_GIVE_UP]  = CELL(DONE,    BUG),
        [JOUST_UNIT_HOLDING]  = CELL(DONE,    REVOKE),
        [JOUST_UNIT_PROGRESS] = CELL(DONE,    ACK),
        [JOUST_UNIT_RESULT]   = CELL(DONE,    CHECK),
        [JOUST_UNIT_FAILURE]  = CELL(DONE,    REVOKE)},
    /* The job has failed with it: nothing is asked of its units any more. */
    [JOUST_UNIT_FAILED] = {
        [JOUST_UNIT_READY]    = CELL(FAILED,  BUG),
        [JOUST_UNIT_LEASE]    = CELL(FAILED,  BUG),
        [JOUST_UNIT_RELEASE]  = CELL(FAILED,  BUG),
        [JOUST_UNIT_GIVE_UP]  = CELL(FAILED,  BUG),
        [JOUST_UNIT_HOLDING]  = CELL(FAILED,  BUG),
        [JOUST_UNIT_PROGRESS] = CELL(FAILED,  BUG),
        [JOUST_UNIT_RESULT]   = CELL(FAILED,  BUG),
        [JOUST_UNIT_FAILURE]  = CELL(FAILED,  BUG)},
};
/* clang-format on */

joust_unit_cell joust_unit_look_up(joust_unit_state state, joust_unit_event event)
{
    assert(state < JOUST_UNIT_STATES && event < JOUST_UNIT_EVENTS);
    return table[state][event];
}

const char *joust_unit_state_name(joust_unit_state state)
{
    static const char *const names[JOUST_UNIT_STATES] = {"waiting", "queued", "leased", "done",
                                                         "failed"};
    return state < JOUST_UNIT_STATES ? names[state] : "unknown";
}

const char *joust_unit_event_name(joust_unit_event event)
{
    static const char *const names[JOUST_UNIT_EVENTS] = {
        "ready", "lease", "release", "give up", "holding", "progress", "result", "failure"};
    return event < JOUST_UNIT_EVENTS ? names[event] : "unknown";
}

const char *joust_unit_answer_name(joust_unit_answer answer)
{
    static const char *const names[JOUST_ANSWERS] = {"bug",   "none",   "write", "ack",
                                                     "check", "revoke", "refuse"};
    return answer < JOUST_ANSWERS ? names[answer] : "unknown";
}
