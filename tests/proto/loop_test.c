/* The loop and actors: order of timers, removal in mid-turn, signals, sockets, works and what they
 * tell. */
#include "check.h"

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/loop.h"

typedef struct trace {
    joust_loop *loop;
    char text[64];
} trace;

typedef struct mark {
    trace *trace;
    char letter;
} mark;

static void note(trace *t, char letter)
{
    size_t n = strlen(t->text);
    assert_true(n + 1 < sizeof(t->text));
    t->text[n] = letter;
}

static void on_timer(void *arg)
{
    mark *m = arg;
    note(m->trace, m->letter);
    if (m->letter == 'z')
        joust_loop_stop(m->trace->loop);
}

static joust_loop *new_loop(void)
{
    joust_error err = {0};
    joust_loop *loop = NULL;
    check_ok(joust_loop_create(&loop, &err));
    return loop;
}

static void add_timer(trace *t, int64_t delay, mark *m, uint64_t *id)
{
    joust_error err = {0};
    m->trace = t;
    check_ok(joust_loop_add_timer(t->loop, delay, on_timer, m, id, &err));
}

/* Whoever rings before another wasn't due after it. When each is due is known to within the time that adding it took: a stall
 * there may put them in another order. */
static void test_timers(void **state)
{
    (void)state;
    joust_error err = {0};
    trace t = {.loop = new_loop()};
    mark m[20];
    int64_t least[20], most[20]; /* ms: when each is due */
    uint64_t cancelled;
    for (int i = 0; i < 20; i++) {
        m[i].letter = (char)('A' + i);
        least[i] = joust_clock_ms() + 20 - i;
        add_timer(&t, 20 - i, &m[i], i == 3 ? &cancelled : NULL);
        most[i] = joust_clock_ms() + 20 - i;
    }
    joust_loop_cancel_timer(t.loop, cancelled);
    joust_loop_cancel_timer(t.loop, 12345);
    while (strlen(t.text) < 19) { /* a timer that stops the loop, as often as it takes */
        add_timer(&t, 30, &(mark){.letter = 'z'}, NULL);
        check_ok(joust_loop_run(t.loop, &err));
        t.text[strlen(t.text) - 1] = 0;
    }
    assert_int_equal(strlen(t.text), 19);
    assert_null(strchr(t.text, 'D'));
    for (int k = 0; k < 19; k++) {
        const int one = t.text[k] - 'A';
        assert_ptr_equal(strchr(t.text, t.text[k]), t.text + k); /* once each */
        for (int later = k + 1; later < 19; later++)
            assert_true(least[one] <= most[t.text[later] - 'A']);
    }
    joust_loop_free(&t.loop);
}

/* Timers that are due at once ring in the order added. */
static void test_timers_together(void **state)
{
    (void)state;
    joust_error err = {0};
    trace t = {.loop = new_loop()};
    mark m[8];
    for (int i = 0; i < 8; i++) {
        m[i].letter = (char)(i == 7 ? 'z' : 'A' + i);
        add_timer(&t, 0, &m[i], NULL);
    }
    check_ok(joust_loop_run(t.loop, &err));
    assert_string_equal(t.text, "ABCDEFGz");
    joust_loop_free(&t.loop);
}

typedef struct again {
    joust_loop *loop;
    int runs;
} again;

static void on_again(void *arg)
{
    joust_error err = {0};
    again *a = arg;
    a->runs++;
    check_ok(joust_loop_add_timer(a->loop, 0, on_again, a, NULL, &err));
}

/* A timer that renews itself with no delay runs once a turn: others get theirs. */
static void test_timer_does_not_starve(void **state)
{
    (void)state;
    joust_error err = {0};
    again a = {.loop = new_loop()};
    check_ok(joust_loop_add_timer(a.loop, 0, on_again, &a, NULL, &err));
    for (int i = 1; i <= 5; i++) {
        check_ok(joust_loop_turn(a.loop, 0, &err));
        assert_int_equal(a.runs, i);
    }
    joust_loop_free(&a.loop);
}

typedef struct pipes {
    joust_loop *loop;
    int fd[2][2];
    int calls[2];
} pipes;

static void on_first(void *arg, uint32_t events)
{
    joust_error err = {0};
    pipes *p = arg;
    assert_int_equal(events, JOUST_READABLE);
    p->calls[0]++;
    joust_loop_remove_fd(p->loop, p->fd[1][0]); /* ready too, but gone from now on */
    for (int i = 0; i < 40; i++)                /* and the arrays move */
        check_ok(joust_loop_add_fd(p->loop, p->fd[0][0], on_first, p, &err));
    joust_loop_remove_fd(p->loop, p->fd[0][0]);
}

static void on_second(void *arg, uint32_t events)
{
    (void)events;
    ((pipes *)arg)->calls[1]++;
}

static void test_removal_in_mid_turn(void **state)
{
    (void)state;
    joust_error err = {0};
    pipes p = {.loop = new_loop()};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(pipe(p.fd[i]), 0);
        assert_int_equal(write(p.fd[i][1], "x", 1), 1);
        check_ok(joust_loop_add_fd(p.loop, p.fd[i][0], i ? on_second : on_first, &p, &err));
    }
    check_ok(joust_loop_turn(p.loop, 0, &err));
    check_ok(joust_loop_turn(p.loop, 0, &err));
    assert_int_equal(p.calls[0], 1);
    assert_int_equal(p.calls[1], 0);
    for (int i = 0; i < 4; i++)
        close(p.fd[i / 2][i % 2]);
    joust_loop_free(&p.loop);
}

static void on_signal(void *arg, int number)
{
    note(arg, number == SIGTERM ? 't' : number == SIGINT ? 'i' : 'c');
}

static void test_signals(void **state)
{
    (void)state;
    joust_error err = {0};
    trace t = {.loop = new_loop()};
    check_ok(joust_loop_add_signals(t.loop, on_signal, &t, &err));
    check_status(JOUST_BUG, joust_loop_add_signals(t.loop, on_signal, &t, &err));
    raise(SIGTERM);
    check_ok(joust_loop_turn(t.loop, -1, &err));
    raise(SIGINT);
    check_ok(joust_loop_turn(t.loop, -1, &err));
    assert_string_equal(t.text, "ti");
    joust_loop_free(&t.loop);
    sigset_t mask;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    assert_false(sigismember(&mask, SIGTERM));
}

typedef struct echo {
    joust_loop *loop;
    joust_socket *router, *dealer;
    uint32_t received, links, wanted;
} echo;

static void on_router(void *arg, uint32_t events)
{
    joust_error err = {0};
    echo *e = arg;
    joust_message m;
    joust_peer_id from = {0};
    assert_true(events & JOUST_READABLE);
    for (uint32_t i = 0; i < JOUST_LOOP_BATCH; i++) {
        if (joust_socket_recv(e->router, &from, &m, &err) != JOUST_OK)
            break;
        check_ok(joust_socket_send(e->router, &from, &m, &err));
        joust_message_fini(&m);
    }
}

static void on_dealer(void *arg, uint32_t events)
{
    joust_error err = {0};
    echo *e = arg;
    joust_message m = {.type = JOUST_MSG_CREDIT};
    if (events & JOUST_WRITABLE) {
        for (uint32_t i = 0; i < e->wanted; i++)
            check_ok(joust_socket_send(e->dealer, NULL, &m, &err));
        joust_loop_want(e->loop, e->dealer, JOUST_READABLE);
    }
    while (joust_socket_recv(e->dealer, NULL, &m, &err) == JOUST_OK)
        if (++e->received == e->wanted)
            joust_loop_stop(e->loop);
}

static void on_link(void *arg, joust_link_event event)
{
    assert_int_equal(event, JOUST_LINK_UP);
    ((echo *)arg)->links++;
}

/* More messages than a callback takes at once come through, none by a second wake-up. */
static void test_sockets(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_context *context;
    joust_peer_id id;
    echo e = {.loop = new_loop(), .wanted = 300};
    check_ok(joust_context_create(&context, &err));
    check_ok(joust_peer_id_make("w", 1, &id, &err));
    joust_socket_options router = {.kind = JOUST_SOCKET_ROUTER, .endpoint = "tcp://127.0.0.1:*"};
    check_ok(joust_socket_open(context, &router, &e.router, &err));
    joust_socket_options dealer = {.kind = JOUST_SOCKET_DEALER,
                                   .endpoint = joust_socket_endpoint(e.router),
                                   .id = &id,
                                   .monitor = true};
    check_ok(joust_socket_open(context, &dealer, &e.dealer, &err));
    check_ok(joust_loop_add_socket(e.loop, e.router, on_router, &e, &err));
    check_ok(joust_loop_add_socket(e.loop, e.dealer, on_dealer, &e, &err));
    check_ok(joust_loop_add_links(e.loop, e.dealer, on_link, &e, &err));
    check_status(JOUST_BUG, joust_loop_add_links(e.loop, e.router, on_link, &e, &err));
    joust_loop_want(e.loop, e.dealer, JOUST_READABLE | JOUST_WRITABLE);
    check_ok(joust_loop_run(e.loop, &err));
    assert_int_equal(e.received, 300);
    assert_int_equal(e.links, 1);
    joust_loop_free(&e.loop);
    joust_socket_close(&e.dealer);
    joust_socket_close(&e.router);
    joust_context_free(&context);
}

/* --------------------------------------------------------------------------------------- actors */

typedef struct job {
    joust_actor *actor;
    joust_loop *loop;
    uint64_t input, output;
    uint32_t tells, told;
    joust_status tell_status;
    uint64_t *order; /* of done */
    bool last;
} job;

static void work_sum(void *arg)
{
    job *j = arg;
    for (uint64_t i = 1; i <= j->input; i++)
        j->output += i;
}

static void done_sum(void *arg)
{
    job *j = arg;
    assert_int_equal(j->output, j->input * (j->input + 1) / 2);
    *j->order = *j->order * 10 + j->input;
    if (j->last)
        joust_loop_stop(j->loop);
}

static void test_actor(void **state)
{
    (void)state;
    joust_error err = {0};
    int64_t live = joust_alloc_live();
    joust_loop *loop = new_loop();
    joust_actor *actor;
    uint64_t order = 0;
    check_ok(joust_actor_create("sums", 4, &actor, &err));
    check_ok(joust_loop_add_actor(loop, actor, &err));
    job jobs[5] = {0};
    for (uint64_t i = 0; i < 5; i++) {
        jobs[i] = (job){.loop = loop, .input = i + 1, .order = &order, .last = i == 3};
        check_status(i < 4 ? JOUST_OK : JOUST_FULL,
                     joust_actor_post(actor, work_sum, done_sum, &jobs[i], &err));
    }
    assert_int_equal(joust_actor_pending(actor), 4);
    check_ok(joust_loop_run(loop, &err));
    assert_int_equal(order, 1234);
    assert_int_equal(joust_actor_pending(actor), 0);
    check_ok(
        joust_actor_post(actor, work_sum, NULL, &jobs[4], &err)); /* runs before free returns */
    joust_loop_remove_actor(loop, actor);
    joust_actor_free(&actor);
    assert_null(actor);
    assert_int_equal(jobs[4].output, 15);
    joust_loop_free(&loop);
    assert_int_equal(joust_alloc_live(), live);
}

static void on_told(void *arg)
{
    ((job *)arg)->told++;
}

static void work_tell(void *arg)
{
    joust_error err;
    job *j = arg;
    for (uint32_t i = 0; i < j->tells && j->tell_status == JOUST_OK; i++)
        j->tell_status = joust_actor_tell(j->actor, on_told, j, &err);
}

static void done_tell(void *arg)
{
    joust_loop_stop(((job *)arg)->loop);
}

static void test_actor_tells(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_loop *loop = new_loop();
    joust_actor *actor;
    check_ok(joust_actor_create("teller", 2, &actor, &err));
    check_ok(joust_loop_add_actor(loop, actor, &err));
    job j = {.actor = actor, .loop = loop, .tells = 100};
    check_ok(joust_actor_post(actor, work_tell, done_tell, &j, &err));
    check_ok(joust_loop_run(loop, &err));
    assert_int_equal(j.tell_status, JOUST_OK);
    assert_int_equal(j.told, 100);
    /* nobody collects: tell waits at its bound until it is stopped, and free still runs what was
     * told */
    j.told = 0;
    check_ok(joust_actor_post(actor, work_tell, NULL, &j, &err));
    joust_loop_remove_actor(loop, actor);
    assert_false(joust_actor_stopping(actor));
    joust_actor_free(&actor);
    assert_int_equal(j.tell_status, JOUST_INTERRUPTED);
    assert_int_equal(j.told, 2);
    joust_loop_free(&loop);
}

static void work_wait(void *arg)
{
    while (!joust_actor_stopping(((job *)arg)->actor))
        ;
}

static void test_actor_stops(void **state)
{
    (void)state;
    joust_error err = {0};
    job j = {0};
    check_ok(joust_actor_create("waiter", 1, &j.actor, &err));
    check_ok(joust_actor_post(j.actor, work_wait, NULL, &j, &err));
    joust_actor_stop(j.actor);
    joust_actor_free(&j.actor);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_timers),
        cmocka_unit_test(test_timers_together),
        cmocka_unit_test(test_timer_does_not_starve),
        cmocka_unit_test(test_removal_in_mid_turn),
        cmocka_unit_test(test_signals),
        cmocka_unit_test(test_sockets),
        cmocka_unit_test(test_actor),
        cmocka_unit_test(test_actor_tells),
        cmocka_unit_test(test_actor_stops),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
