/* Units that were just written are found again, decoded, within a bound; nothing leaks and nothing is freed twice. */
#include "check.h"
#include "coordinator/recent.h"
#include "proto/base/alloc.h"

/* A GENERATE result of two trajectories at a position; a JUDGE one of two verdicts where stage is 1. */
static joust_unit_result result_at(uint32_t stage, uint64_t position)
{
    joust_unit_result r = {.id = {.unit = {.round = 1, .stage = stage, .position = position}}};
    if (stage == 0) {
        r.n_trajectories = 2;
        r.trajectories = joust_calloc(2, sizeof(*r.trajectories));
        for (uint32_t i = 0; i < 2; i++) {
            r.trajectories[i].sample = i;
            r.trajectories[i].n_tokens = 4;
            r.trajectories[i].tokens = joust_calloc(4, sizeof(uint32_t));
            r.trajectories[i].text = joust_strdup("an answer");
        }
    } else {
        r.n_verdicts = 2;
        r.verdicts = joust_calloc(2, sizeof(*r.verdicts));
        for (uint32_t i = 0; i < 2; i++) {
            r.verdicts[i].sample = i;
            r.verdicts[i].text = joust_strdup("");
        }
    }
    return r;
}

/* Whether the result was taken. */
static bool keep(joust_recent *recent, uint32_t stage, uint64_t position)
{
    joust_unit_result r = result_at(stage, position);
    joust_recent_keep(recent, &r);
    bool taken = r.n_trajectories == 0 && r.n_verdicts == 0;
    joust_unit_result_fini(&r);
    return taken;
}

static const joust_recent_unit *find(const joust_recent *recent, uint32_t stage, uint64_t position)
{
    return joust_recent_find(recent, &(joust_unit_key){1, stage, position});
}

static void finds_what_was_kept(void **state)
{
    (void)state;
    int64_t live = joust_alloc_live();
    joust_error err;
    joust_recent *recent;
    assert_int_equal(joust_recent_create(1 << 20, &recent, &err), JOUST_OK);
    for (uint64_t p = 0; p < 100; p++) {
        assert_true(keep(recent, 0, p));
        assert_true(keep(recent, 1, p));
    }
    for (uint64_t p = 0; p < 100; p++) {
        assert_int_equal(find(recent, 0, p)->n_trajectories, 2);
        assert_string_equal(find(recent, 0, p)->trajectories[1].text, "an answer");
        assert_int_equal(find(recent, 1, p)->n_verdicts, 2);
        assert_int_equal(find(recent, 1, p)->key.position, p);
    }
    assert_null(find(recent, 2, 0));
    assert_null(joust_recent_find(recent, &(joust_unit_key){2, 0, 0}));
    joust_recent_drop(recent, &(joust_unit_key){1, 0, 50});
    joust_recent_drop(recent, &(joust_unit_key){1, 0, 50});
    assert_null(find(recent, 0, 50));
    assert_non_null(find(recent, 1, 50));
    assert_true(keep(recent, 1, 51)); /* again: the newer stays */
    assert_non_null(find(recent, 1, 51));
    joust_recent_free(&recent);
    assert_null(recent);
    assert_int_equal(joust_alloc_live(), live);
}

static void the_oldest_leave_first(void **state)
{
    (void)state;
    int64_t live = joust_alloc_live();
    joust_error err;
    joust_recent *recent;
    assert_int_equal(joust_recent_create(16 << 10, &recent, &err), JOUST_OK);
    for (uint64_t p = 0; p < 1000; p++)
        assert_true(keep(recent, 0, p));
    uint64_t first = 0;
    while (!find(recent, 0, first))
        first++;
    assert_true(first > 900 && first < 999); /* some are here, bounded */
    for (uint64_t p = first; p < 1000; p++)
        assert_non_null(find(recent, 0, p));
    assert_true(joust_alloc_live() - live < 6 * 100);
    joust_recent_free(&recent);
    assert_int_equal(joust_alloc_live(), live);
}

static void what_does_not_fit_stays_the_callers(void **state)
{
    (void)state;
    int64_t live = joust_alloc_live();
    joust_error err;
    joust_recent *recent;
    assert_int_equal(joust_recent_create(64, &recent, &err), JOUST_OK);
    assert_false(keep(recent, 0, 1));
    assert_null(find(recent, 0, 1));
    joust_recent_free(&recent);
    assert_int_equal(joust_recent_create(1 << 20, &recent, &err), JOUST_OK);
    joust_unit_result r = result_at(0, 1);
    joust_alloc_fail_at(1);
    joust_recent_keep(recent, &r);
    joust_alloc_fail_at(0);
    assert_int_equal(r.n_trajectories, 2);
    joust_unit_result_fini(&r);
    assert_null(find(recent, 0, 1));
    joust_recent_free(&recent);
    assert_int_equal(joust_alloc_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(finds_what_was_kept),
                                       cmocka_unit_test(the_oldest_leave_first),
                                       cmocka_unit_test(what_does_not_fit_stays_the_callers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
