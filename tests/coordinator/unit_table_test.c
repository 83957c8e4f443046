/* Walks every cell of the unit table. */
#include "check.h"

#include "coordinator/unit_table.h"

#define FOR_ALL_CELLS(s, e)                                                                        \
    for (joust_unit_state s = 0; s < JOUST_UNIT_STATES; s++)                                       \
        for (joust_unit_event e = 0; e < JOUST_UNIT_EVENTS; e++)

static bool from_peer(joust_unit_event e)
{
    return e >= JOUST_UNIT_HOLDING;
}

static void every_event_of_a_peer_is_answered(void **state)
{
    (void)state;
    FOR_ALL_CELLS(s, e)
    {
        joust_unit_cell cell = joust_unit_look_up(s, e);
        assert_true(cell.next < JOUST_UNIT_STATES && cell.answer < JOUST_ANSWERS);
        if (from_peer(e) && s != JOUST_UNIT_FAILED)
            assert_int_not_equal(cell.answer, JOUST_ANSWER_BUG);
        /* Only what a peer holds by right goes without an answer of its own. */
        if (from_peer(e) && cell.answer == JOUST_ANSWER_NONE)
            assert_int_equal(cell.next, JOUST_UNIT_LEASED);
    }
}

static void done_and_failed_are_final(void **state)
{
    (void)state;
    FOR_ALL_CELLS(s, e)
    {
        joust_unit_cell cell = joust_unit_look_up(s, e);
        if (s == JOUST_UNIT_DONE || s == JOUST_UNIT_FAILED)
            assert_int_equal(cell.next, s);
        if (cell.answer == JOUST_ANSWER_BUG)
            assert_int_equal(cell.next, s);
    }
}

/* A unit's records are written on the way to DONE and at no other time, but for training progress. */
static void done_is_reached_by_writing(void **state)
{
    (void)state;
    FOR_ALL_CELLS(s, e)
    {
        joust_unit_cell cell = joust_unit_look_up(s, e);
        bool finishes = s != JOUST_UNIT_DONE && cell.next == JOUST_UNIT_DONE;
        bool writes = cell.answer == JOUST_ANSWER_WRITE;
        assert_int_equal(writes, finishes || (writes && e == JOUST_UNIT_PROGRESS));
        if (finishes)
            assert_int_equal(e, JOUST_UNIT_RESULT);
    }
}

static void everything_has_a_name(void **state)
{
    (void)state;
    FOR_ALL_CELLS(s, e)
    {
        assert_string_not_equal(joust_unit_state_name(s), "unknown");
        assert_string_not_equal(joust_unit_event_name(e), "unknown");
    }
    for (joust_unit_answer a = 0; a < JOUST_ANSWERS; a++)
        assert_string_not_equal(joust_unit_answer_name(a), "unknown");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_event_of_a_peer_is_answered),
                                       cmocka_unit_test(done_and_failed_are_final),
                                       cmocka_unit_test(done_is_reached_by_writing),
                                       cmocka_unit_test(everything_has_a_name)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
