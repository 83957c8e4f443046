/* A peer's session under any order of events: credit is never exceeded, epochs never fall, GONE is
 * for ever, and what it wants to send always encodes. Each input byte is one event. */
#include <string.h>

#include "fuzz/fuzz.h"
#include "proto/base/alloc.h"
#include "proto/codec.h"
#include "proto/session.h"

enum { CREDIT = 3 };

static void receive(joust_session *s, uint8_t byte, int64_t now)
{
    static char text[] = "text";
    joust_error err;
    joust_unit_id id = {.unit = {.position = byte % 4}, .lease = byte % 7};
    joust_message m = {.type = (joust_message_type)(1 + byte % 21), .epoch = byte / 64};
    switch (m.type) {
    case JOUST_MSG_HELLO_ACK:
        m.u.hello_ack.epoch = m.epoch;
        m.u.hello_ack.heartbeat_ms = byte % 3 * 500;
        break;
    case JOUST_MSG_ERROR:
    case JOUST_MSG_GOODBYE:
        m.u.text = (joust_msg_text){.code = -(byte % 70), .text = text};
        break;
    case JOUST_MSG_REVOKE:
    case JOUST_MSG_RESULT_ACK:
        m.u.units = (joust_msg_units){.n = 1, .units = &id};
        break;
    default:
        break;
    }
    joust_status st = joust_session_receive(s, &m, now, &err);
    fuzz_require(st == JOUST_OK || st == JOUST_STALE || st == JOUST_INVALID ||
                 st == JOUST_CONFLICT);
}

static void work(joust_session *s, uint8_t byte)
{
    joust_error err;
    joust_lease_unit unit = {.unit = {.position = byte % 8}, .lease = byte};
    joust_unit_result result = {.id = {.unit = unit.unit}};
    switch (byte % 4) {
    case 0:
        fuzz_require(joust_session_accept(s, &unit, &err) != JOUST_NOMEM);
        break;
    case 1:
        if (joust_session_finish(s, &result, &err) != JOUST_OK)
            joust_unit_result_fini(&result);
        break;
    case 2:
        fuzz_require(joust_session_fail(s, &unit.unit, JOUST_IO, "no", &err) != JOUST_NOMEM);
        break;
    default:
        joust_session_progress(s, &unit.unit, byte);
        break;
    }
}

static void send_due(joust_session *s, int64_t now, bool blocked)
{
    joust_error err;
    joust_message m;
    for (int i = 0; joust_session_next(s, now, &m) == JOUST_OK; i++) {
        joust_buf bytes = {0};
        fuzz_require(i < 10000); /* it comes to rest */
        fuzz_require(joust_message_encode(&m, &bytes, &err) == JOUST_OK);
        joust_buf_fini(&bytes);
        if (blocked)
            break;
        joust_session_sent(s, now);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    joust_error err;
    joust_session *s;
    joust_session_options o = {.role = JOUST_PEER_JUDGE,
                               .name = "judge",
                               .credit = CREDIT,
                               .heartbeat_ms = 1000,
                               .grace_ms = 20000};
    int64_t live = joust_alloc_live(), now = 0;
    uint64_t epoch = 0;
    bool gone = false;
    fuzz_require(joust_session_create(&o, now, &s, &err) == JOUST_OK);
    for (size_t i = 0; i + 1 < n; i += 2) {
        switch (data[i] % 8) {
        case 0:
            joust_session_link(s, data[i + 1] % 2, now);
            break;
        case 1:
            now += data[i + 1] * 50;
            break;
        case 2:
            send_due(s, now, data[i + 1] % 4 == 0);
            break;
        case 3:
            if (data[i + 1] == 255)
                joust_session_drain(s, now);
            break;
        case 4:
        case 5:
            work(s, data[i + 1]);
            break;
        default:
            receive(s, data[i + 1], now);
            break;
        }
        fuzz_require(joust_session_held(s) <= CREDIT);
        fuzz_require(joust_session_epoch(s) >= epoch);
        epoch = joust_session_epoch(s);
        fuzz_require(!gone || joust_session_get_state(s) == JOUST_SESSION_GONE);
        gone = joust_session_get_state(s) == JOUST_SESSION_GONE;
        fuzz_require(!gone == (joust_session_reason(s, NULL) == JOUST_OK));
    }
    joust_session_free(&s);
    fuzz_require(joust_alloc_live() == live);
    return 0;
}
