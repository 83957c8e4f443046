/* Which server is asked next: affinity, load, rests, and waits between tries. */
#include "check.h"

#include "worker/endpoint/pool.h"

#define N 4u

static const char *const urls[N] = {"http://a/v1", "http://b/v1", "http://c/v1", "http://d/v1"};

static joust_endpoint_pool *pool_of(uint32_t n, uint32_t concurrency)
{
    joust_error err;
    joust_endpoint_pool *pool = NULL;
    check_ok(joust_endpoint_pool_create(urls, n, concurrency, 3, 100, &pool, &err));
    for (uint32_t i = 0; i < n; i++)
        joust_endpoint_pool_set_ready(pool, i, true);
    return pool;
}

static uint32_t pick(joust_endpoint_pool *pool, uint64_t key, int64_t now)
{
    int64_t at;
    return joust_endpoint_pool_pick(pool, key, JOUST_NO_SERVER, now, &at);
}

static void fail_at(joust_endpoint_pool *pool, uint32_t server, int64_t now)
{
    joust_endpoint_pool_begin(pool, server);
    joust_endpoint_pool_end(pool, server, JOUST_ENDPOINT_FAILED, 0, now);
}

static void a_key_stays_at_its_server(void **state)
{
    (void)state;
    uint32_t hits[N] = {0}, moved = 0;
    joust_endpoint_pool *pool = pool_of(N, 8), *fewer = pool_of(N - 1, 8);
    for (uint64_t key = 0; key < 4000; key++) {
        uint32_t server = pick(pool, key, 0);
        assert_int_equal(pick(pool, key, 5), server);
        hits[server]++;
        moved += server < N - 1 && pick(fewer, key, 0) != server;
    }
    for (uint32_t i = 0; i < N; i++)
        assert_in_range(hits[i], 800, 1200);
    assert_int_equal(moved, 0); /* a server less moves its own keys alone */
    joust_endpoint_pool_free(&pool);
    joust_endpoint_pool_free(&fewer);
}

static void a_busy_server_gives_way(void **state)
{
    (void)state;
    joust_endpoint_pool *pool = pool_of(2, 8);
    uint32_t first = pick(pool, 1, 0);
    for (uint32_t i = 0; i < 5; i++) {
        assert_int_equal(pick(pool, 1, 0), first);
        joust_endpoint_pool_begin(pool, first);
    }
    assert_int_equal(pick(pool, 1, 0), 1 - first);
    for (uint32_t i = 0; i < 8; i++)
        joust_endpoint_pool_begin(pool, 1 - first);
    for (uint32_t i = 5; i < 8; i++)
        joust_endpoint_pool_begin(pool, first);
    assert_int_equal(pick(pool, 1, 0), JOUST_NO_SERVER);
    joust_endpoint_pool_end(pool, first, JOUST_ENDPOINT_ANSWERED, 0, 0);
    assert_int_equal(pick(pool, 1, 0), first);
    joust_endpoint_pool_free(&pool);
}

static void a_server_that_fails_rests_and_is_tried(void **state)
{
    (void)state;
    int64_t at;
    joust_endpoint_pool *pool = pool_of(1, 8);
    fail_at(pool, 0, 10);
    fail_at(pool, 0, 10);
    assert_int_equal(joust_endpoint_pool_breaker(pool, 0), JOUST_BREAKER_CLOSED);
    fail_at(pool, 0, 10);
    assert_int_equal(joust_endpoint_pool_breaker(pool, 0), JOUST_BREAKER_OPEN);
    assert_int_equal(joust_endpoint_pool_pick(pool, 1, JOUST_NO_SERVER, 109, &at), JOUST_NO_SERVER);
    assert_int_equal(at, 110);
    assert_int_equal(pick(pool, 1, 110), 0);
    joust_endpoint_pool_begin(pool, 0);
    assert_int_equal(joust_endpoint_pool_breaker(pool, 0), JOUST_BREAKER_HALF_OPEN);
    assert_int_equal(pick(pool, 2, 110), JOUST_NO_SERVER); /* one at a time */
    joust_endpoint_pool_end(pool, 0, JOUST_ENDPOINT_FAILED, 0, 120);
    assert_int_equal(pick(pool, 1, 319), JOUST_NO_SERVER); /* twice as long */
    assert_int_equal(pick(pool, 1, 320), 0);
    joust_endpoint_pool_begin(pool, 0);
    joust_endpoint_pool_end(pool, 0, JOUST_ENDPOINT_ANSWERED, 0, 330);
    assert_int_equal(joust_endpoint_pool_breaker(pool, 0), JOUST_BREAKER_CLOSED);
    fail_at(pool, 0, 340);
    assert_int_equal(pick(pool, 1, 340), 0); /* failures in a row count */
    joust_endpoint_pool_free(&pool);
}

static void an_unfit_server_rests_at_once(void **state)
{
    (void)state;
    joust_endpoint_pool *pool = pool_of(1, 8);
    joust_endpoint_pool_begin(pool, 0);
    joust_endpoint_pool_begin(pool, 0);
    joust_endpoint_pool_end(pool, 0, JOUST_ENDPOINT_UNFIT, 0, 0);
    assert_int_equal(joust_endpoint_pool_breaker(pool, 0), JOUST_BREAKER_OPEN);
    joust_endpoint_pool_end(pool, 0, JOUST_ENDPOINT_ANSWERED, 0, 1); /* asked before */
    assert_int_equal(joust_endpoint_pool_breaker(pool, 0), JOUST_BREAKER_OPEN);
    joust_endpoint_pool_free(&pool);
}

static void a_server_is_left_alone_as_long_as_it_asks(void **state)
{
    (void)state;
    joust_endpoint_pool *pool = pool_of(1, 8);
    joust_endpoint_pool_begin(pool, 0);
    joust_endpoint_pool_end(pool, 0, JOUST_ENDPOINT_BUSY, 3000, 0);
    assert_int_equal(joust_endpoint_pool_breaker(pool, 0), JOUST_BREAKER_CLOSED);
    assert_int_equal(pick(pool, 1, 2999), JOUST_NO_SERVER);
    assert_int_equal(pick(pool, 1, 3000), 0);
    joust_endpoint_pool_begin(pool, 0);
    joust_endpoint_pool_end(pool, 0, JOUST_ENDPOINT_BUSY, 86400000,
                            3000); /* a day: a minute at most */
    assert_int_equal(pick(pool, 1, 3000 + JOUST_ENDPOINT_MAX_REST_MS), 0);
    joust_endpoint_pool_free(&pool);
}

static void the_server_that_just_failed_is_avoided(void **state)
{
    (void)state;
    int64_t at;
    joust_endpoint_pool *pool = pool_of(2, 1), *alone = pool_of(1, 1);
    uint32_t first = pick(pool, 7, 0);
    assert_int_equal(joust_endpoint_pool_pick(pool, 7, first, 0, &at), 1 - first);
    joust_endpoint_pool_begin(pool, 1 - first);
    assert_int_equal(joust_endpoint_pool_pick(pool, 7, first, 0, &at), first);
    assert_int_equal(joust_endpoint_pool_pick(alone, 7, 0, 0, &at), 0);
    joust_endpoint_pool_free(&pool);
    joust_endpoint_pool_free(&alone);
}

static void waits_grow_and_repeat_exactly(void **state)
{
    (void)state;
    joust_stream a = {.key = {1, 2}}, b = {.key = {3, 4}};
    uint32_t differ = 0;
    for (uint32_t tries = 1; tries < 40; tries++) {
        int64_t most = tries < 10 ? 100 << (tries - 1) : 30000;
        int64_t wait = joust_endpoint_backoff(&a, tries, 0);
        most = most < 30000 ? most : 30000;
        assert_in_range(wait, most / 2, most);
        assert_int_equal(joust_endpoint_backoff(&a, tries, 0), wait);
        differ += joust_endpoint_backoff(&b, tries, 0) != wait;
        assert_int_equal(joust_endpoint_backoff(&a, tries, 40000), 40000);
    }
    assert_in_range(differ, 30, 39);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_key_stays_at_its_server),
        cmocka_unit_test(a_busy_server_gives_way),
        cmocka_unit_test(a_server_that_fails_rests_and_is_tried),
        cmocka_unit_test(an_unfit_server_rests_at_once),
        cmocka_unit_test(a_server_is_left_alone_as_long_as_it_asks),
        cmocka_unit_test(the_server_that_just_failed_is_avoided),
        cmocka_unit_test(waits_grow_and_repeat_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
