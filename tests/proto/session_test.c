/* The peer's session: its table cell by cell, and its life with made-up coordinators and clocks. */
#include "check.h"

#include <string.h>

#include "proto/base/alloc.h"
#include "proto/codec.h"
#include "proto/session.h"

enum { HEARTBEAT = 1000, GRACE = 60000 };

static joust_session *new_session(uint32_t credit, int64_t now)
{
    joust_error err = {0};
    joust_session *s = NULL;
    joust_session_options o = {.role = JOUST_PEER_WORKER,
                               .name = "worker-0",
                               .host = "here",
                               .numeric_class = "cpu-f32-1",
                               .instance = 77,
                               .credit = credit,
                               .threads = 2,
                               .can_train = true,
                               .heartbeat_ms = HEARTBEAT,
                               .grace_ms = GRACE};
    check_ok(joust_session_create(&o, now, &s, &err));
    return s;
}

static joust_message ack_of(uint64_t epoch)
{
    return (joust_message){
        .type = JOUST_MSG_HELLO_ACK,
        .epoch = epoch,
        .u.hello_ack = {
            .epoch = epoch, .job_digest = {{1}}, .heartbeat_ms = HEARTBEAT, .grace_ms = GRACE}};
}

static joust_message heartbeat_of(uint64_t epoch)
{
    return (joust_message){.type = JOUST_MSG_HEARTBEAT, .epoch = epoch};
}

static joust_message text_of(joust_message_type type, uint64_t epoch, joust_status code)
{
    static char why[] = "why";
    return (joust_message){.type = type, .epoch = epoch, .u.text = {.code = code, .text = why}};
}

/* The next message must be of this type; it counts as sent. */
static joust_message expect(joust_session *s, int64_t now, joust_message_type type)
{
    joust_message m = {0};
    if (joust_session_next(s, now, &m) != JOUST_OK)
        fail_msg("nothing to send, expected %s", joust_message_name(type));
    assert_string_equal(joust_message_name(m.type), joust_message_name(type));
    joust_session_sent(s, now);
    return m;
}

static void expect_nothing(joust_session *s, int64_t now)
{
    joust_message m;
    if (joust_session_next(s, now, &m) != JOUST_AGAIN)
        fail_msg("%s is to be sent, expected nothing", joust_message_name(m.type));
}

static joust_session *ready_session(uint32_t credit)
{
    joust_error err = {0};
    joust_session *s = new_session(credit, 0);
    joust_session_link(s, true, 0);
    expect(s, 0, JOUST_MSG_HELLO);
    joust_message ack = ack_of(5);
    check_ok(joust_session_receive(s, &ack, 1, &err));
    assert_int_equal(joust_session_get_state(s), JOUST_SESSION_READY);
    return s;
}

static joust_unit_key key_of(uint64_t position)
{
    return (joust_unit_key){.round = 1, .stage = 2, .position = position};
}

static joust_status accept_unit(joust_session *s, uint64_t position, uint64_t lease)
{
    joust_error err;
    joust_lease_unit u = {.unit = key_of(position), .lease = lease, .attempt = 1};
    return joust_session_accept(s, &u, &err);
}

static void finish_unit(joust_session *s, uint64_t position)
{
    joust_error err = {0};
    joust_unit_result r = {.id = {.unit = key_of(position)}, .n_trajectories = 1};
    r.trajectories = joust_calloc(1, sizeof(*r.trajectories));
    check_ok(joust_session_finish(s, &r, &err));
    assert_null(r.trajectories);
}

static joust_status send_units(joust_session *s, joust_message_type type, uint64_t position,
                               uint64_t lease, int64_t now)
{
    joust_error err;
    joust_unit_id id = {.unit = key_of(position), .lease = lease};
    joust_message m = {.type = type, .epoch = 5, .u.units = {.n = 1, .units = &id}};
    return joust_session_receive(s, &m, now, &err);
}

/* ---------------------------------------------------------------------------------------- table */

/* Brings a fresh session into the state. */
static joust_session *session_in(joust_session_state state)
{
    if (state == JOUST_SESSION_DISCONNECTED)
        return new_session(2, 0);
    if (state == JOUST_SESSION_HELLO_SENT) {
        joust_session *s = new_session(2, 0);
        joust_session_link(s, true, 0);
        return s;
    }
    joust_session *s = ready_session(2);
    if (state == JOUST_SESSION_DRAINING || state == JOUST_SESSION_GONE)
        joust_session_drain(s, 2);
    if (state == JOUST_SESSION_DRAINING)
        return s;
    if (state == JOUST_SESSION_GONE) {
        expect(s, 3, JOUST_MSG_CREDIT);
        expect(s, 3, JOUST_MSG_GOODBYE);
    }
    return s;
}

/* Makes the event happen; the status that the peer would see. now is 10 unless time is the event.
 */
static joust_status cause(joust_session *s, joust_session_event event)
{
    joust_error err;
    joust_message m;
    uint64_t epoch = joust_session_epoch(s);
    switch (event) {
    case JOUST_SESSION_EV_LINK_UP:
    case JOUST_SESSION_EV_LINK_DOWN:
        joust_session_link(s, event == JOUST_SESSION_EV_LINK_UP, 10);
        return JOUST_OK;
    case JOUST_SESSION_EV_DRAIN:
        joust_session_drain(s, 10);
        return JOUST_OK;
    case JOUST_SESSION_EV_HELLO_ACK:
        m = ack_of(5);
        break;
    case JOUST_SESSION_EV_MESSAGE:
        m = heartbeat_of(epoch);
        break;
    case JOUST_SESSION_EV_LOWER_EPOCH:
        m = heartbeat_of(epoch - 1);
        break;
    case JOUST_SESSION_EV_STRANGER:
        m = heartbeat_of(epoch + 1);
        break;
    case JOUST_SESSION_EV_REFUSED:
        m = text_of(JOUST_MSG_ERROR, epoch, JOUST_DENIED);
        break;
    case JOUST_SESSION_EV_GOODBYE:
        m = text_of(JOUST_MSG_GOODBYE, epoch, JOUST_END);
        break;
    case JOUST_SESSION_EV_SILENCE:
        return joust_session_next(s, 10 + 3 * HEARTBEAT, &m);
    case JOUST_SESSION_EV_GRACE_OVER:
        return joust_session_next(s, 10 + GRACE, &m);
    default: /* EMPTY: nothing is held, and what was due has been sent */
        if (joust_session_next(s, 10, &m) == JOUST_OK)
            joust_session_sent(s, 10);
        return joust_session_next(s, 10, &m);
    }
    return joust_session_receive(s, &m, 10, &err);
}

static bool is_message(joust_session_event event)
{
    return event >= JOUST_SESSION_EV_HELLO_ACK && event <= JOUST_SESSION_EV_GOODBYE;
}

/* Below no epoch there is none, before the first HELLO_ACK none is current, and silence comes
 * before the grace is over. */
static bool can_happen(const joust_session *s, joust_session_event event)
{
    if (event == JOUST_SESSION_EV_LOWER_EPOCH || event == JOUST_SESSION_EV_MESSAGE)
        return joust_session_hellos(s) > 0;
    return event != JOUST_SESSION_EV_GRACE_OVER || joust_session_get_state(s) < JOUST_SESSION_READY;
}

/* Every cell: a legal event leads where the table says, an illegal one is answered with an error
 * and changes nothing. */
static void test_table(void **state)
{
    (void)state;
    uint32_t legal = 0;
    for (int from = 0; from < JOUST_SESSION_STATE_N; from++) {
        for (int event = 0; event < JOUST_SESSION_EVENT_N; event++) {
            joust_session *s = session_in((joust_session_state)from);
            assert_int_equal(joust_session_get_state(s), from);
            joust_session_state to =
                joust_session_table((joust_session_state)from, (joust_session_event)event);
            if (!can_happen(s, (joust_session_event)event)) {
                joust_session_free(&s);
                continue;
            }
            joust_status st = cause(s, (joust_session_event)event);
            joust_session_state expected =
                to == JOUST_SESSION_STATE_N ? (joust_session_state)from : to;
            if (joust_session_get_state(s) != expected)
                fail_msg("%s on %s: now %s, expected %s",
                         joust_session_event_name((joust_session_event)event),
                         joust_session_state_name((joust_session_state)from),
                         joust_session_state_name(joust_session_get_state(s)),
                         joust_session_state_name(expected));
            if (is_message((joust_session_event)event) && to == JOUST_SESSION_STATE_N)
                assert_int_equal(st, JOUST_INVALID);
            legal += to != JOUST_SESSION_STATE_N;
            joust_session_free(&s);
        }
    }
    assert_true(legal >= 33);
}

/* ----------------------------------------------------------------------------------------- life */

static void test_hello_until_answered(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_session *s = new_session(2, 0);
    expect_nothing(s, 0);
    joust_session_link(s, true, 5);
    joust_message m;
    check_ok(joust_session_next(s, 5, &m)); /* not sent: offered again */
    m = expect(s, 6, JOUST_MSG_HELLO);
    assert_int_equal(m.u.hello.credit, 2);
    assert_int_equal(m.u.hello.instance, 77);
    assert_string_equal(m.u.hello.numeric_class, "cpu-f32-1");
    expect_nothing(s, 7);
    assert_int_equal(joust_session_wake_at(s), 6 + HEARTBEAT);
    expect(s, 6 + HEARTBEAT, JOUST_MSG_HELLO);
    joust_message ack = ack_of(5);
    check_ok(joust_session_receive(s, &ack, 1100, &err));
    assert_int_equal(joust_session_hellos(s), 1);
    assert_int_equal(joust_session_epoch(s), 5);
    expect_nothing(s, 1101);
    joust_session_free(&s);
}

static void test_credit_and_results(void **state)
{
    (void)state;
    joust_session *s = ready_session(2);
    assert_int_equal(accept_unit(s, 1, 10), JOUST_OK);
    assert_int_equal(accept_unit(s, 2, 11), JOUST_OK);
    assert_int_equal(accept_unit(s, 3, 12), JOUST_FULL);
    joust_message m = expect(s, 2, JOUST_MSG_FAILED);
    assert_int_equal(m.u.failed.code, JOUST_FULL);
    assert_int_equal(m.u.failed.id.lease, 12);

    finish_unit(s, 1);
    m = expect(s, 2, JOUST_MSG_RESULT);
    assert_int_equal(m.u.result.units[0].id.lease, 10);
    expect_nothing(s, 2);
    /* sent isn't durable: it still counts against credit */
    assert_int_equal(joust_session_held(s), 2);
    assert_int_equal(accept_unit(s, 3, 13), JOUST_FULL);
    expect(s, 2, JOUST_MSG_FAILED);
    assert_int_equal(send_units(s, JOUST_MSG_RESULT_ACK, 1, 10, 3), JOUST_OK);
    assert_int_equal(joust_session_held(s), 1);
    assert_int_equal(accept_unit(s, 3, 14), JOUST_OK);
    /* an acknowledgement of what is still being computed releases nothing */
    assert_int_equal(send_units(s, JOUST_MSG_RESULT_ACK, 3, 14, 3), JOUST_OK);
    assert_int_equal(joust_session_held(s), 2);
    joust_session_free(&s);
}

static void test_lease_again(void **state)
{
    (void)state;
    joust_session *s = ready_session(2);
    assert_int_equal(accept_unit(s, 1, 10), JOUST_OK);
    assert_int_equal(accept_unit(s, 1, 20), JOUST_EXISTS); /* the newer lease */
    assert_int_equal(joust_session_held(s), 1);
    joust_unit_id id;
    joust_unit_key key = key_of(1);
    assert_int_equal(joust_session_lease(s, &key, &id), JOUST_OK);
    assert_int_equal(id.lease, 20);
    finish_unit(s, 1);
    expect(s, 2, JOUST_MSG_RESULT);
    expect_nothing(s, 2);
    assert_int_equal(accept_unit(s, 1, 30),
                     JOUST_EXISTS); /* the result was lost: again, under this lease */
    joust_message m = expect(s, 2, JOUST_MSG_RESULT);
    assert_int_equal(m.u.result.units[0].id.lease, 30);
    /* REVOKE of an older lease changes nothing, of this one drops the unit */
    assert_int_equal(send_units(s, JOUST_MSG_REVOKE, 1, 10, 3), JOUST_OK);
    assert_int_equal(joust_session_held(s), 1);
    assert_int_equal(send_units(s, JOUST_MSG_REVOKE, 1, 30, 3), JOUST_OK);
    assert_int_equal(joust_session_held(s), 0);
    joust_error err;
    joust_unit_result r = {.id = {.unit = key}};
    assert_int_equal(joust_session_finish(s, &r, &err), JOUST_NOT_FOUND);
    /* the coordinator knows of no lease, or adopted the unit under one that the peer hasn't heard
     * of */
    assert_int_equal(accept_unit(s, 1, 40), JOUST_OK);
    assert_int_equal(accept_unit(s, 2, 41), JOUST_OK);
    assert_int_equal(send_units(s, JOUST_MSG_REVOKE, 1, 0, 4), JOUST_OK);
    assert_int_equal(send_units(s, JOUST_MSG_REVOKE, 2, 50, 4), JOUST_OK);
    assert_int_equal(joust_session_held(s), 0);
    joust_session_free(&s);
}

static void test_coordinator_restarts(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_session *s = ready_session(4);
    assert_int_equal(accept_unit(s, 1, 10), JOUST_OK);
    assert_int_equal(accept_unit(s, 2, 11), JOUST_OK);
    finish_unit(s, 1);
    expect(s, 2, JOUST_MSG_RESULT);
    joust_session_link(s, false, 3); /* before the acknowledgement */
    expect_nothing(s, 4);
    finish_unit(s, 2); /* work goes on without a coordinator */
    joust_session_link(s, true, 5000);
    joust_message m = expect(s, 5000, JOUST_MSG_HELLO);
    assert_int_equal(m.epoch, 5);
    assert_int_equal(m.u.hello.n_holding, 2);
    assert_int_equal(m.u.hello.holding[0].position, 1);
    joust_message old = ack_of(4);
    check_status(JOUST_STALE, joust_session_receive(s, &old, 5001, &err));
    joust_message ack = ack_of(6);
    check_ok(joust_session_receive(s, &ack, 5002, &err));
    expect(s, 5002, JOUST_MSG_RESULT); /* both again */
    m = expect(s, 5002, JOUST_MSG_RESULT);
    assert_int_equal(m.epoch, 6);
    expect_nothing(s, 5002);
    joust_message late = heartbeat_of(5);
    check_status(JOUST_STALE, joust_session_receive(s, &late, 5003, &err));
    ack = ack_of(7);
    ack.u.hello_ack.job_digest.bytes[0] = 9;
    check_status(JOUST_CONFLICT, joust_session_receive(s, &ack, 5004, &err));
    assert_int_equal(joust_session_epoch(s), 6);
    joust_session_free(&s);
}

static void test_new_coordinator_unannounced(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_session *s = ready_session(1);
    joust_message m = heartbeat_of(9);
    check_status(JOUST_INVALID, joust_session_receive(s, &m, 2, &err));
    assert_int_equal(joust_session_get_state(s), JOUST_SESSION_HELLO_SENT);
    expect(s, 2, JOUST_MSG_HELLO);
    m = ack_of(9);
    check_ok(joust_session_receive(s, &m, 3, &err));
    assert_int_equal(joust_session_epoch(s), 9);
    joust_session_free(&s);
}

/* A coordinator that has lost sight of the peer says so: it introduces itself again and keeps what
 * it holds. */
static void test_forgotten(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_session *s = ready_session(1);
    assert_int_equal(accept_unit(s, 1, 10), JOUST_OK);
    joust_message m = text_of(JOUST_MSG_ERROR, 5, JOUST_MALFORMED); /* of one message alone */
    check_ok(joust_session_receive(s, &m, 2, &err));
    assert_int_equal(joust_session_get_state(s), JOUST_SESSION_READY);
    m = text_of(JOUST_MSG_ERROR, 5, JOUST_STALE);
    check_ok(joust_session_receive(s, &m, 2, &err));
    m = expect(s, 2, JOUST_MSG_HELLO);
    assert_int_equal(m.u.hello.n_holding, 1);
    joust_session_free(&s);
}

static void test_sent_away(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_session *s = ready_session(1);
    joust_message m = text_of(JOUST_MSG_GOODBYE, 5, JOUST_DENIED);
    check_ok(joust_session_receive(s, &m, 2, &err));
    assert_int_equal(joust_session_reason(s, NULL), JOUST_DENIED);
    joust_session_free(&s);
    s = ready_session(1);
    m = text_of(JOUST_MSG_GOODBYE, 5, JOUST_OK);
    check_ok(joust_session_receive(s, &m, 2, &err));
    assert_int_equal(joust_session_reason(s, NULL), JOUST_END);
    joust_session_free(&s);
}

static void test_heartbeats(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_session *s = ready_session(2);
    joust_unit_key key = key_of(1);
    assert_int_equal(accept_unit(s, 1, 10), JOUST_OK);
    expect_nothing(s, 500);
    joust_session_progress(s, &key, 33);
    joust_message m = expect(s, 1001, JOUST_MSG_HEARTBEAT);
    assert_int_equal(m.u.heartbeat.sequence, 1);
    assert_int_equal(m.u.heartbeat.n_progress, 1);
    assert_int_equal(m.u.heartbeat.progress[0].done, 33);
    joust_message beat = heartbeat_of(5);
    check_ok(joust_session_receive(s, &beat, 1500, &err));
    m = expect(s, 2001, JOUST_MSG_HEARTBEAT);
    assert_int_equal(m.u.heartbeat.sequence, 2);
    assert_int_equal(m.u.heartbeat.n_progress, 0); /* no progress since */
    /* silence: heard last at 1500 */
    expect(s, 3001, JOUST_MSG_HEARTBEAT);
    expect(s, 4001, JOUST_MSG_HEARTBEAT);
    expect(s, 4500, JOUST_MSG_HELLO);
    assert_int_equal(joust_session_get_state(s), JOUST_SESSION_HELLO_SENT);
    assert_int_equal(joust_session_held(s), 1);
    joust_session_free(&s);
}

static void test_grace(void **state)
{
    (void)state;
    const char *why;
    joust_session *s = ready_session(1);
    joust_session_link(s, false, 10);
    expect_nothing(s, GRACE);
    assert_int_equal(joust_session_reason(s, NULL), JOUST_OK);
    expect_nothing(s, 1 + GRACE); /* heard last at 1 */
    assert_int_equal(joust_session_get_state(s), JOUST_SESSION_GONE);
    assert_int_equal(joust_session_reason(s, &why), JOUST_TIMEOUT);
    assert_non_null(strstr(why, "grace"));
    joust_session_free(&s);
}

static void test_refused(void **state)
{
    (void)state;
    joust_error err = {0};
    const char *why;
    joust_session *s = new_session(1, 0);
    joust_session_link(s, true, 0);
    joust_message small = text_of(JOUST_MSG_ERROR, 0, JOUST_MALFORMED);
    check_status(JOUST_INVALID, joust_session_receive(s, &small, 1, &err));
    joust_message m = text_of(JOUST_MSG_ERROR, 0, JOUST_VERSION);
    check_ok(joust_session_receive(s, &m, 1, &err));
    assert_int_equal(joust_session_reason(s, &why), JOUST_VERSION);
    assert_string_equal(why, "why");
    joust_session_refuse(s, JOUST_DENIED, "late", 2);
    assert_int_equal(joust_session_reason(s, NULL), JOUST_VERSION);
    joust_message not_ours = {.type = JOUST_MSG_HELLO};
    check_status(JOUST_INVALID, joust_session_receive(s, &not_ours, 1, &err));
    joust_session_free(&s);
}

static void test_drain(void **state)
{
    (void)state;
    joust_session *s = ready_session(2);
    assert_int_equal(accept_unit(s, 1, 10), JOUST_OK);
    joust_session_drain(s, 2);
    joust_message m = expect(s, 2, JOUST_MSG_CREDIT);
    assert_int_equal(m.u.credit.credit, 0);
    assert_int_equal(accept_unit(s, 2, 11), JOUST_FULL);
    expect(s, 2, JOUST_MSG_FAILED);
    expect_nothing(s, 2);
    finish_unit(s, 1);
    expect(s, 3, JOUST_MSG_RESULT);
    assert_int_equal(send_units(s, JOUST_MSG_RESULT_ACK, 1, 10, 4), JOUST_OK);
    expect(s, 4, JOUST_MSG_GOODBYE);
    assert_int_equal(joust_session_get_state(s), JOUST_SESSION_GONE);
    assert_int_equal(joust_session_reason(s, NULL), JOUST_END);
    expect_nothing(s, 5);
    joust_session_free(&s);
}

static void test_fail(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_session *s = ready_session(1);
    joust_unit_key key = key_of(1);
    check_status(JOUST_NOT_FOUND, joust_session_fail(s, &key, JOUST_IO, "disk", &err));
    assert_int_equal(accept_unit(s, 1, 10), JOUST_OK);
    check_ok(joust_session_fail(s, &key, JOUST_CORRUPT, "a chunk", &err));
    assert_int_equal(joust_session_held(s), 0);
    joust_message m = expect(s, 2, JOUST_MSG_FAILED);
    assert_string_equal(m.u.failed.text, "a chunk");
    assert_int_equal(m.u.failed.id.lease, 10);
    expect_nothing(s, 2);
    joust_session_free(&s);
}

static void test_options(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_session *s;
    joust_session_options o = {.name = "w", .credit = 0, .heartbeat_ms = 1, .grace_ms = 1};
    check_status(JOUST_INVALID, joust_session_create(&o, 0, &s, &err));
    o.credit = JOUST_MAX_UNITS + 1;
    check_status(JOUST_INVALID, joust_session_create(&o, 0, &s, &err));
    o.credit = 1;
    o.name = "";
    check_status(JOUST_INVALID, joust_session_create(&o, 0, &s, &err));
    o.name = "w";
    int64_t live = joust_alloc_live();
    for (int64_t n = 1;; n++) {
        joust_alloc_fail_at(n);
        joust_status st = joust_session_create(&o, 0, &s, &err);
        joust_alloc_fail_at(0);
        if (st == JOUST_OK)
            break;
        assert_int_equal(st, JOUST_NOMEM);
        assert_int_equal(joust_alloc_live(), live);
    }
    joust_session_free(&s);
    assert_int_equal(joust_alloc_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_hello_until_answered),
        cmocka_unit_test(test_credit_and_results),
        cmocka_unit_test(test_lease_again),
        cmocka_unit_test(test_coordinator_restarts),
        cmocka_unit_test(test_new_coordinator_unannounced),
        cmocka_unit_test(test_forgotten),
        cmocka_unit_test(test_sent_away),
        cmocka_unit_test(test_heartbeats),
        cmocka_unit_test(test_grace),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_fail),
        cmocka_unit_test(test_options),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
