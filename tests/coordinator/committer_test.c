/* Group commit: batches become durable in order, one at a time, and a failure is told. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "coordinator/committer.h"
#include "coordinator/sample_store.h"

typedef struct rig {
    sample_store s;
    joust_loop *loop;
    joust_committer *committer;
    uint64_t event; /* of the last one appended */
    /* told by the committer */
    uint32_t n_done;
    uint64_t sequences[16];
    joust_status status;
    joust_error err;
    uint32_t
        appends_left; /* events that the next calls of done append, as incoming results would */
} rig;

static void append(rig *r)
{
    joust_error err;
    check_ok(joust_batch_append_event(joust_committer_batch(r->committer), ++r->event, "event", 5,
                                      &err));
}

static void done(void *arg, uint64_t sequence, joust_status status, const joust_error *err)
{
    rig *r = arg;
    r->sequences[r->n_done++] = sequence;
    r->status = status;
    if (status != JOUST_OK) {
        r->err = *err;
        return;
    }
    /* durable before it is told */
    assert_true(joust_store_last_event(r->s.store) >= sequence);
    if (r->appends_left) {
        r->appends_left--;
        append(r);
    }
}

static void open_rig(rig *r)
{
    joust_error err;
    *r = (rig){.n_done = 0};
    sample_store_open(&r->s, JOUST_ORDER_FILE);
    check_ok(joust_loop_create(&r->loop, &err));
    check_ok(joust_committer_create(r->loop, r->s.store, r->s.epoch, done, r, &r->committer, &err));
}

static void close_rig(rig *r)
{
    joust_committer_free(&r->committer);
    assert_null(r->committer);
    joust_loop_free(&r->loop);
    sample_store_close(&r->s);
}

static void flush(rig *r)
{
    joust_error err;
    check_ok(joust_committer_flush(r->committer, &err));
}

/* Turns the loop until so many commits were told. */
static void await(rig *r, uint32_t n)
{
    joust_error err;
    for (int i = 0; i < 100 && r->n_done < n; i++)
        check_ok(joust_loop_turn(r->loop, 100, &err));
    assert_int_equal(r->n_done, n);
}

static void nothing_to_write_is_no_commit(void **state)
{
    rig r;
    (void)state;
    open_rig(&r);
    assert_true(joust_committer_idle(r.committer));
    assert_int_equal(joust_committer_sequence(r.committer), 1);
    flush(&r);
    assert_true(joust_committer_idle(r.committer));
    assert_int_equal(joust_committer_sequence(r.committer), 1);
    assert_int_equal(joust_committer_stats(r.committer).commits, 0);
    close_rig(&r);
}

static void many_puts_are_one_commit(void **state)
{
    rig r;
    (void)state;
    open_rig(&r);
    for (int i = 0; i < 5; i++)
        append(&r);
    assert_false(joust_committer_idle(r.committer));
    assert_int_equal(joust_store_last_event(r.s.store), 0); /* not before the flush */
    flush(&r);
    await(&r, 1);
    assert_int_equal(r.sequences[0], 1);
    assert_int_equal(joust_store_last_event(r.s.store), 5);
    assert_true(joust_committer_idle(r.committer));
    joust_commit_stats stats = joust_committer_stats(r.committer);
    assert_int_equal(stats.commits, 1);
    assert_int_equal(stats.records, 5);
    assert_true(stats.bytes > 0 && stats.worst_us >= stats.last_us && stats.total_us >= 0);
    close_rig(&r);
}

/* While one batch is with the disk the next fills; it follows by itself, and those that fill meanwhile follow it. */
static void batches_follow_in_order(void **state)
{
    rig r;
    (void)state;
    open_rig(&r);
    append(&r);
    flush(&r);
    assert_int_equal(joust_committer_sequence(r.committer), 2);
    append(&r);
    flush(&r); /* one is under way: waits */
    assert_int_equal(joust_committer_sequence(r.committer), 2);
    assert_false(joust_committer_idle(r.committer));
    r.appends_left = 3;
    await(&r, 4);
    for (uint32_t i = 0; i < r.n_done; i++)
        assert_int_equal(r.sequences[i], i + 1);
    assert_int_equal(joust_store_last_event(r.s.store), r.event);
    assert_true(joust_committer_idle(r.committer));
    assert_int_equal(joust_committer_stats(r.committer).commits, 4);
    close_rig(&r);
}

/* A newer coordinator has begun: its predecessor's batch is refused, nothing of it is written, and nothing follows. */
static void a_failure_is_told(void **state)
{
    joust_error err;
    uint64_t epoch;
    rig r;
    (void)state;
    open_rig(&r);
    append(&r);
    flush(&r);
    await(&r, 1);
    check_ok(joust_store_begin_epoch(r.s.store, &epoch, &err));
    append(&r);
    flush(&r);
    append(&r);
    await(&r, 2);
    assert_int_equal(r.sequences[1], 2);
    assert_int_equal(r.status, JOUST_FENCED);
    assert_true(r.err.text[0] != '\0');
    for (int i = 0; i < 3; i++)
        check_ok(joust_loop_turn(r.loop, 0, &err));
    assert_int_equal(r.n_done, 2);
    assert_int_equal(joust_store_last_event(r.s.store), 1);
    close_rig(&r);
}

/* Freeing waits for the commit under way, which nobody is told of any more. */
static void free_waits(void **state)
{
    rig r;
    (void)state;
    open_rig(&r);
    append(&r);
    flush(&r);
    joust_committer_free(&r.committer);
    assert_int_equal(joust_store_last_event(r.s.store), 1);
    assert_int_equal(r.n_done, 0);
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_to_write_is_no_commit), cmocka_unit_test(many_puts_are_one_commit),
        cmocka_unit_test(batches_follow_in_order), cmocka_unit_test(a_failure_is_told),
        cmocka_unit_test(free_waits)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
