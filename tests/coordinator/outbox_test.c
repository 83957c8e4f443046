#include "check.h"

#include <stdio.h>

#include "coordinator/outbox.h"
#include "proto/base/alloc.h"

static void push(joust_outbox *outbox, uint64_t sequence, const char *text)
{
    joust_actions list = {0};
    joust_error err;
    joust_actions_add(&list, JOUST_ACTION_WARN);
    joust_actions_set_text(&list, "%s", text);
    check_ok(joust_outbox_push(outbox, &list, sequence, &err));
    assert_int_equal(list.n, 0); /* taken */
}

static void expect(joust_outbox *outbox, const char *text)
{
    joust_actions list = {0};
    assert_true(joust_outbox_pop(outbox, &list));
    assert_string_equal(joust_action_text(&list, &list.items[0]), text);
    joust_actions_fini(&list);
}

static void expect_nothing(joust_outbox *outbox)
{
    joust_actions list = {0};
    assert_false(joust_outbox_pop(outbox, &list));
}

static void nothing_leaves_before_its_commit(void **state)
{
    joust_outbox *outbox;
    joust_error err;
    (void)state;
    check_ok(joust_outbox_create(&outbox, &err));
    push(outbox, 0, "free"); /* nothing pending: at once */
    expect(outbox, "free");
    push(outbox, 1, "one");
    push(outbox, 0, "after one");
    push(outbox, 2, "two");
    push(outbox, 2, "two again");
    push(outbox, 3, "three");
    expect_nothing(outbox);
    joust_outbox_committed(outbox, 1);
    expect(outbox, "one");
    expect(outbox, "after one");
    expect_nothing(outbox);
    joust_outbox_committed(outbox, 3);
    expect(outbox, "two");
    expect(outbox, "two again");
    expect(outbox, "three");
    expect_nothing(outbox);
    push(outbox, 0, "free again");
    expect(outbox, "free again");
    assert_int_equal(joust_outbox_depth(outbox), 0);
    joust_outbox_free(&outbox);
    assert_null(outbox);
}

static void batches_go_up(void **state)
{
    joust_outbox *outbox;
    joust_actions list = {0};
    joust_error err;
    (void)state;
    check_ok(joust_outbox_create(&outbox, &err));
    push(outbox, 5, "five");
    check_status(JOUST_BUG, joust_outbox_push(outbox, &list, 4, &err));
    joust_outbox_committed(outbox, 5);
    joust_outbox_committed(outbox, 2); /* late news changes nothing */
    assert_int_equal(joust_outbox_durable(outbox), 5);
    expect(outbox, "five");
    joust_outbox_free(&outbox);
}

/* A ring that wraps and grows keeps the order, and what was never released is freed. */
static void order_survives_growth(void **state)
{
    joust_outbox *outbox;
    joust_error err;
    char text[16];
    int64_t live = joust_alloc_live();
    uint64_t next = 1;
    (void)state;
    check_ok(joust_outbox_create(&outbox, &err));
    for (uint64_t i = 1; i <= 500; i++) {
        snprintf(text, sizeof text, "%u", (unsigned)i);
        push(outbox, i, text);
        joust_outbox_committed(outbox, i / 2);
        joust_actions list = {0};
        while (joust_outbox_pop(outbox, &list)) {
            snprintf(text, sizeof text, "%u", (unsigned)next++);
            assert_string_equal(joust_action_text(&list, &list.items[0]), text);
        }
        joust_actions_fini(&list);
    }
    assert_int_equal(next, 251);
    assert_int_equal(joust_outbox_depth(outbox), 250);
    joust_outbox_free(&outbox);
    assert_int_equal(joust_alloc_live(), live);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(nothing_leaves_before_its_commit),
                                       cmocka_unit_test(batches_go_up),
                                       cmocka_unit_test(order_survives_growth)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
