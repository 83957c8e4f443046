/* The core one event at a time: what it answers to peers that behave and to those that don't. The simulation
 * (tests/sim) covers the rest. */
#include "check.h"

#include <stdlib.h>
#include <string.h>

#include "coordinator/core.h"
#include "coordinator/sample_job.h"
#include "proto/base/alloc.h"

enum {
    WORKER = 11,
    OTHER = 12,
    JUDGE = 13,
    GROUPS = 4,
    GENERATE = 0,
    JUDGING = 1,
    PAIRING = 2,
    TRAIN = 3
};

typedef struct rig {
    sample_job sample;
    joust_core *core;
    joust_actions out; /* of the last step */
    int64_t now_ms;
} rig;

static const uint64_t n_prompts[3] = {100, 20, 20};

static void open_core(rig *r, const joust_core_options *options)
{
    joust_error err;
    check_ok(joust_plan_compile(&r->sample.job, &r->sample.plan, &err));
    check_ok(
        joust_core_create(&r->sample.job, &r->sample.plan, n_prompts, options, &r->core, &err));
}

static void step(rig *r, joust_core_event event)
{
    joust_error err;
    if (!event.epoch && event.kind != JOUST_EVENT_START)
        event.epoch = joust_core_epoch(r->core);
    joust_actions_clear(&r->out);
    check_ok(joust_core_step(r->core, &event, r->now_ms, &r->out, &err));
}

static void open_rig(rig *r, uint32_t rounds, const joust_core_options *options)
{
    *r = (rig){0};
    sample_job_init(&r->sample, rounds, GROUPS);
    open_core(r, options);
    step(r, (joust_core_event){.kind = JOUST_EVENT_START});
}

static void close_rig(rig *r)
{
    joust_core_free(&r->core);
    joust_actions_fini(&r->out);
}

static uint32_t count(const rig *r, joust_action_kind kind)
{
    uint32_t n = 0;
    for (size_t i = 0; i < r->out.n; i++)
        n += r->out.items[i].kind == kind;
    return n;
}

static const joust_action *find(const rig *r, joust_action_kind kind)
{
    for (size_t i = 0; i < r->out.n; i++) {
        if (r->out.items[i].kind == kind)
            return &r->out.items[i];
    }
    fail_msg("no %s among %zu actions", joust_action_name(kind), r->out.n);
    return NULL;
}

static joust_core_event hello_of(uint64_t peer, uint32_t credit)
{
    static const char *const names[] = {"worker-0", "worker-1", "judge-0"};
    return (joust_core_event){
        .kind = JOUST_EVENT_HELLO,
        .peer = peer,
        .u.hello = {.version = JOUST_PROTOCOL_VERSION,
                    .role = peer == JUDGE ? JOUST_PEER_JUDGE : JOUST_PEER_WORKER,
                    .name = names[peer - WORKER],
                    .numeric_class = "cpu-1",
                    .instance = peer,
                    .can_train = true,
                    .credit = credit}};
}

static void hello(rig *r, uint64_t peer, uint32_t credit)
{
    step(r, hello_of(peer, credit));
    assert_int_equal(count(r, JOUST_ACTION_HELLO_ACK), 1);
}

static joust_core_event result_of(uint32_t round, uint32_t stage, uint64_t position, uint64_t peer)
{
    joust_core_event event = {.kind = JOUST_EVENT_RESULT, .peer = peer};
    event.u.result.id.unit = (joust_unit_key){round, stage, position};
    event.u.result.n_trajectories = 2;
    event.u.result.version = stage == TRAIN ? round : 0;
    return event;
}

static void result(rig *r, uint32_t round, uint32_t stage, uint64_t position, uint64_t peer)
{
    step(r, result_of(round, stage, position, peer));
}

static void local_done(rig *r, uint32_t round, uint64_t position, uint64_t n_pairs)
{
    step(r,
         (joust_core_event){.kind = JOUST_EVENT_LOCAL_DONE,
                            .u.local = {.unit = {round, PAIRING, position}, .n_pairs = n_pairs}});
}

/* Everything of a round up to training; the peers are there. */
static void make_pairs(rig *r, uint32_t round, uint64_t pairs_each)
{
    for (uint64_t i = 0; i < GROUPS; i++)
        result(r, round, GENERATE, i, WORKER);
    for (uint64_t i = 0; i < GROUPS; i++)
        result(r, round, JUDGING, i, JUDGE);
    for (uint64_t i = 0; i < GROUPS; i++)
        local_done(r, round, i, pairs_each);
}

static void a_round_goes_its_way(void **state)
{
    rig r;
    (void)state;
    open_rig(&r, 2, NULL);
    hello(&r, WORKER, 2);
    assert_int_equal(count(&r, JOUST_ACTION_LEASE), 2); /* as much as its credit */
    hello(&r, JUDGE, 8);
    assert_int_equal(count(&r, JOUST_ACTION_LEASE), 0); /* nothing to judge yet */
    result(&r, 1, GENERATE, 0, WORKER);
    assert_int_equal(count(&r, JOUST_ACTION_WRITE), 1);
    assert_true(find(&r, JOUST_ACTION_WRITE)->records);
    assert_int_equal(count(&r, JOUST_ACTION_ACK), 1);
    assert_int_equal(count(&r, JOUST_ACTION_LEASE), 2); /* the next rollout and the first judging */
    result(&r, 1, JUDGING, 0, JUDGE);
    assert_int_equal(find(&r, JOUST_ACTION_RUN_LOCAL)->id.unit.stage, PAIRING);
    for (uint64_t i = 1; i < GROUPS; i++)
        result(&r, 1, GENERATE, i, WORKER);
    assert_int_equal(find(&r, JOUST_ACTION_STAGE_DONE)->id.unit.stage, GENERATE);
    assert_true(find(&r, JOUST_ACTION_WRITE)->snapshot);
    for (uint64_t i = 1; i < GROUPS; i++)
        result(&r, 1, JUDGING, i, JUDGE);
    for (uint64_t i = 0; i < GROUPS; i++)
        local_done(&r, 1, i, i == 0);
    const joust_action *lease = find(&r, JOUST_ACTION_LEASE);
    assert_int_equal(lease->id.unit.stage, TRAIN);
    assert_int_equal(lease->u.lease.n_rows, 1);
    assert_int_equal(lease->u.lease.out_version, 1);
    assert_int_equal(lease->u.lease.model_version, 0);
    result(&r, 1, TRAIN, 0, WORKER);
    assert_int_equal(count(&r, JOUST_ACTION_ROUND_DONE), 1);
    assert_int_equal(find(&r, JOUST_ACTION_LEASE)->u.lease.model_version, 1);
    make_pairs(&r, 2, 1);
    result(&r, 2, TRAIN, 0, WORKER);
    assert_int_equal(find(&r, JOUST_ACTION_JOB_DONE)->status, JOUST_OK);
    assert_int_equal(count(&r, JOUST_ACTION_GOODBYE), 2);
    assert_int_equal(joust_core_get_phase(r.core), JOUST_CORE_COMPLETE);
    close_rig(&r);
}

static void results_are_taken_once(void **state)
{
    rig r;
    (void)state;
    open_rig(&r, 2, NULL);
    hello(&r, WORKER, 2);
    hello(&r, OTHER, 2);
    result(&r, 1, GENERATE, 0, OTHER); /* leased to the first: as good from anyone */
    assert_int_equal(count(&r, JOUST_ACTION_WRITE), 1);
    assert_int_equal(find(&r, JOUST_ACTION_REVOKE)->peer, WORKER);
    assert_int_equal(find(&r, JOUST_ACTION_ACK)->peer, OTHER);
    joust_core_event again = result_of(1, GENERATE, 0, WORKER);
    again.u.result.content.bytes[5] = 77;
    step(&r, again);
    assert_int_equal(count(&r, JOUST_ACTION_WRITE), 0);
    assert_int_equal(find(&r, JOUST_ACTION_CHECK_SAME)->content.bytes[5], 77);
    step(&r,
         (joust_core_event){.kind = JOUST_EVENT_PEER_BAD, .peer = WORKER, .text = "other bytes"});
    assert_string_equal(joust_action_text(&r.out, find(&r, JOUST_ACTION_GOODBYE)), "other bytes");
    step(&r, hello_of(WORKER, 2)); /* the same process is not let in again */
    assert_int_equal(find(&r, JOUST_ACTION_GOODBYE)->status, JOUST_DENIED);
    close_rig(&r);
}

static void expect_refusal(rig *r, joust_core_event event)
{
    step(r, event);
    assert_int_equal(count(r, JOUST_ACTION_WRITE), 0);
    assert_int_equal(find(r, JOUST_ACTION_ERROR)->status, JOUST_INVALID);
    assert_int_equal(count(r, JOUST_ACTION_REVOKE), 1);
}

static void results_that_make_no_sense_are_refused(void **state)
{
    rig r;
    (void)state;
    open_rig(&r, 2, NULL);
    hello(&r, WORKER, 1);
    hello(&r, JUDGE, 1);
    expect_refusal(&r, result_of(1, JUDGING, 0, JUDGE));   /* nothing to judge yet */
    expect_refusal(&r, result_of(2, GENERATE, 0, WORKER)); /* a later round */
    expect_refusal(&r, result_of(1, GENERATE, 99, WORKER));
    expect_refusal(&r, result_of(1, 4000, 0, WORKER));
    expect_refusal(&r, result_of(0, GENERATE, 0, WORKER)); /* the baseline has no such stage */
    expect_refusal(&r, result_of(1, PAIRING, 0, WORKER));  /* is computed here */
    expect_refusal(&r, result_of(1, GENERATE, 1, JUDGE));  /* not a judge's work */
    joust_core_event few = result_of(1, GENERATE, 1, WORKER);
    few.u.result.n_trajectories = 1;
    expect_refusal(&r, few);
    close_rig(&r);
}

static void strangers_are_asked_for_hello(void **state)
{
    rig r;
    (void)state;
    open_rig(&r, 2, NULL);
    result(&r, 1, GENERATE, 0, WORKER);
    assert_int_equal(find(&r, JOUST_ACTION_ERROR)->status, JOUST_STALE);
    hello(&r, WORKER, 1);
    joust_core_event event = {.kind = JOUST_EVENT_HELLO};
    event = hello_of(OTHER, 1);
    event.u.hello.version = 99;
    step(&r, event);
    assert_int_equal(find(&r, JOUST_ACTION_GOODBYE)->status, JOUST_VERSION);
    event = hello_of(OTHER, 1);
    event.u.hello.other_job = true;
    event.epoch = 9; /* of that other job: no reason to step down */
    step(&r, event);
    assert_int_equal(find(&r, JOUST_ACTION_GOODBYE)->status, JOUST_DENIED);
    event = hello_of(OTHER, 1);
    event.u.hello.numeric_class = "cuda-1";
    step(&r, event);
    assert_non_null(strstr(joust_action_text(&r.out, find(&r, JOUST_ACTION_GOODBYE)), "cuda-1"));
    event.u.hello.numeric_class = ""; /* no engine, no class */
    step(&r, event);
    assert_int_equal(count(&r, JOUST_ACTION_HELLO_ACK), 1);
    close_rig(&r);
}

static void the_first_worker_sets_the_class(void **state)
{
    rig r;
    (void)state;
    open_rig(&r, 2, NULL);
    joust_core_event event = hello_of(JUDGE, 1);
    event.u.hello.numeric_class = "cpu-bf16-1";
    step(&r, event); /* before any worker: it may wait, and sets nothing */
    assert_int_equal(count(&r, JOUST_ACTION_HELLO_ACK), 1);
    assert_int_equal(count(&r, JOUST_ACTION_WRITE), 0);
    event = hello_of(WORKER, 1);
    event.u.hello.numeric_class = "cpu-f32-1";
    step(&r, event);
    assert_int_equal(count(&r, JOUST_ACTION_HELLO_ACK), 1);
    const joust_action *bye = find(&r, JOUST_ACTION_GOODBYE);
    assert_int_equal(bye->peer, JUDGE);
    assert_int_equal(bye->status, JOUST_CONFLICT);
    assert_non_null(strstr(joust_action_text(&r.out, bye), "judge-0 computes in class cpu-bf16-1"));
    assert_non_null(strstr(joust_action_text(&r.out, bye), "cpu-f32-1"));
    assert_int_equal(joust_core_peers(r.core), 1);
    close_rig(&r);
}

static void a_class_that_the_job_does_not_ask_for_is_refused(void **state)
{
    static const char *const other[] = {"cpu-f32-1", "cuda-sm90-bf16-1"};
    rig r;
    joust_error err;
    (void)state;
    open_rig(&r, 2, &(joust_core_options){.device = "cpu", .precision = "bf16"});
    for (size_t i = 0; i < 2; i++) {
        joust_core_event event = hello_of(WORKER, 1);
        event.u.hello.numeric_class = other[i];
        step(&r, event);
        assert_int_equal(find(&r, JOUST_ACTION_GOODBYE)->status, JOUST_CONFLICT);
        assert_int_equal(count(&r, JOUST_ACTION_HELLO_ACK), 0);
    }
    joust_core_event event = hello_of(WORKER, 1);
    event.u.hello.numeric_class = "cpu-bf16-1";
    step(&r, event);
    assert_int_equal(count(&r, JOUST_ACTION_HELLO_ACK), 1);
    check_ok(joust_core_check_class(r.core, &err));
    joust_buf bytes = {0};
    check_ok(joust_core_encode(r.core, &bytes, &err));
    joust_core_free(&r.core);
    open_core(&r, &(joust_core_options){.device = "cpu", .precision = "f32"});
    check_ok(joust_core_decode(r.core, bytes.data, bytes.n, &err));
    check_status(JOUST_CONFLICT, joust_core_check_class(r.core, &err));
    assert_non_null(strstr(err.text, "class cpu-bf16-1"));
    assert_non_null(strstr(err.text, "(cpu, f32)"));
    joust_buf_fini(&bytes);
    close_rig(&r);
}

static void a_newer_coordinator_ends_this_one(void **state)
{
    rig r;
    (void)state;
    open_rig(&r, 2, NULL);
    hello(&r, WORKER, 1);
    joust_core_event event = result_of(1, GENERATE, 0, WORKER);
    event.epoch = 5;
    step(&r, event);
    assert_int_equal(count(&r, JOUST_ACTION_FENCED), 1);
    assert_int_equal(count(&r, JOUST_ACTION_WRITE), 0);
    assert_int_equal(joust_core_get_phase(r.core), JOUST_CORE_SUPERSEDED);
    result(&r, 1, GENERATE, 0, WORKER);
    assert_int_equal(r.out.n, 0);
    close_rig(&r);
}

static void leases_run_out_and_silence_ends_peers(void **state)
{
    const joust_core_options options = {.lease_ms = 100, .peer_timeout_ms = 250};
    joust_progress progress = {.unit = {1, GENERATE, 0}, .done = 1};
    joust_core_event beat = {.kind = JOUST_EVENT_HEARTBEAT,
                             .peer = WORKER,
                             .u.heartbeat = {.n_progress = 1, .progress = &progress}};
    joust_core_event tick = {.kind = JOUST_EVENT_TICK};
    rig r;
    (void)state;
    open_rig(&r, 2, &options);
    hello(&r, WORKER, 2);
    r.now_ms = 90;
    step(&r, beat); /* moves on, and lists unit 0 alone */
    r.now_ms = 110;
    step(&r, tick);
    assert_int_equal(find(&r, JOUST_ACTION_REVOKE)->id.unit.position, 1);
    assert_int_equal(find(&r, JOUST_ACTION_LEASE)->id.unit.position, 1); /* it is alone: again */
    r.now_ms = 180;
    step(&r, beat); /* no progress since: nothing is renewed */
    r.now_ms = 195;
    step(&r, tick);
    assert_int_equal(find(&r, JOUST_ACTION_REVOKE)->id.unit.position, 0);
    r.now_ms = 440;
    step(&r, tick);
    assert_non_null(strstr(joust_action_text(&r.out, find(&r, JOUST_ACTION_WARN)), "worker-0"));
    assert_int_equal(joust_core_peers(r.core), 0);
    assert_int_equal(joust_core_leases(r.core), 0);
    close_rig(&r);
}

static void what_peers_hold_is_adopted(void **state)
{
    const joust_unit_key held[] = {{1, GENERATE, 3}, {1, JUDGING, 0}, {7, 7, 7}, {1, GENERATE, 2}};
    joust_core_event event = hello_of(WORKER, 1);
    rig r;
    (void)state;
    open_rig(&r, 2, NULL);
    event.u.hello.holding = held;
    event.u.hello.n_holding = 4;
    step(&r, event);
    assert_int_equal(count(&r, JOUST_ACTION_REVOKE),
                     3); /* not a judge; no such unit; beyond credit */
    assert_int_equal(count(&r, JOUST_ACTION_LEASE), 0);
    assert_int_equal(joust_core_unit(r.core, &held[0]), JOUST_UNIT_LEASED);
    joust_core_event lost = hello_of(WORKER, 1); /* the same process, empty-handed */
    step(&r, lost);
    assert_int_equal(find(&r, JOUST_ACTION_LEASE)->id.unit.position, 0);
    assert_int_equal(joust_core_unit(r.core, &held[0]), JOUST_UNIT_QUEUED);
    close_rig(&r);
}

static void rollouts_wait_for_judges(void **state)
{
    const joust_core_options options = {.max_pending_groups = 2};
    joust_buf why = {0};
    rig r;
    (void)state;
    open_rig(&r, 2, &options);
    hello(&r, WORKER, 4);
    assert_int_equal(count(&r, JOUST_ACTION_LEASE), 2);
    result(&r, 1, GENERATE, 0, WORKER);
    result(&r, 1, GENERATE, 1, WORKER);
    assert_int_equal(count(&r, JOUST_ACTION_LEASE), 0);
    joust_core_why(r.core, 0, &why);
    assert_non_null(strstr((char *)why.data, "2 groups wait for a judge (0 connected)"));
    joust_buf_fini(&why);
    hello(&r, JUDGE, 1);
    result(&r, 1, JUDGING, 0, JUDGE);
    assert_int_equal(count(&r, JOUST_ACTION_LEASE), 2); /* another rollout, the next judging */
    close_rig(&r);
}

static void report_failure(rig *r, uint64_t peer, uint64_t position, joust_status code)
{
    static char text[] = "no memory for it";
    r->now_ms += 20000; /* past any pause after a failure */
    step(r, (joust_core_event){.kind = JOUST_EVENT_CREDIT, .peer = peer, .u.credit = {4}});
    step(r, (joust_core_event){
                .kind = JOUST_EVENT_FAILED,
                .peer = peer,
                .u.failed = {.id = {.unit = {1, GENERATE, position}}, .code = code, .text = text}});
}

static void a_unit_that_always_fails_fails_the_job(void **state)
{
    rig r;
    (void)state;
    open_rig(&r, 2, NULL);
    hello(&r, WORKER, 4);
    report_failure(&r, WORKER, 2, JOUST_AGAIN); /* doesn't count */
    for (int i = 0; i < 3; i++) {
        assert_int_equal(joust_core_get_phase(r.core), JOUST_CORE_RUNNING);
        report_failure(&r, WORKER, 2, JOUST_NOMEM);
    }
    assert_int_equal(joust_core_get_phase(r.core), JOUST_CORE_JOB_FAILED);
    const char *why = joust_action_text(&r.out, find(&r, JOUST_ACTION_JOB_DONE));
    assert_non_null(strstr(why, "group 2 of generate in round 1"));
    assert_non_null(strstr(why, "no memory for it"));
    close_rig(&r);
}

static void a_reason_is_told_whole(void **state)
{
    static char text[3000];
    joust_core_event failed = {
        .kind = JOUST_EVENT_FAILED,
        .peer = WORKER,
        .u.failed = {.id = {.unit = {1, GENERATE, 2}}, .code = JOUST_AGAIN, .text = text}};
    rig r;
    (void)state;
    open_rig(&r, 2, NULL);
    hello(&r, WORKER, 4);
    memset(text, 'a', 800);
    memcpy(text + 797, "end", 3);
    step(&r, failed);
    const char *told = joust_action_text(&r.out, find(&r, JOUST_ACTION_WARN));
    assert_non_null(strstr(told, "aaend"));
    assert_null(strstr(told, "failure 0"));          /* it doesn't count */
    for (size_t i = 0; i + 3 < sizeof(text); i += 3) /* in no word, and of three bytes each */
        memcpy(text + i, "\xe2\x82\xac", 3);
    failed.u.failed.code = JOUST_NOMEM;
    failed.u.failed.id.unit.position = 3;
    step(&r, failed);
    told = joust_action_text(&r.out, find(&r, JOUST_ACTION_WARN));
    size_t n = strlen(told);
    assert_true(n > 1000 && n < 1024);
    assert_non_null(strstr(told, ", failure 1 of 3: \xe2\x82\xac"));
    assert_string_equal(told + n - 6, "\xe2\x82\xac\xe2\x80\xa6");
    close_rig(&r);
}

/* However often: a slow machine isn't sent away, and its units aren't charged. */
static void a_full_peer_stays(void **state)
{
    rig r;
    (void)state;
    open_rig(&r, 2, NULL);
    hello(&r, WORKER, 4);
    for (int i = 0; i < 20; i++) {
        report_failure(&r, WORKER, 2, JOUST_FULL);
        assert_int_equal(find(&r, JOUST_ACTION_REVOKE)->peer, WORKER);
        assert_int_equal(count(&r, JOUST_ACTION_GOODBYE) + count(&r, JOUST_ACTION_LEASE), 0);
    }
    assert_int_equal(joust_core_get_phase(r.core), JOUST_CORE_RUNNING);
    r.now_ms += 100 << 7;
    step(&r, (joust_core_event){.kind = JOUST_EVENT_CREDIT, .peer = WORKER, .u.credit = {4}});
    assert_int_equal(find(&r, JOUST_ACTION_LEASE)->peer, WORKER);
    result(&r, 1, GENERATE, 2, WORKER);
    close_rig(&r);
}

static void a_failed_unit_goes_to_another(void **state)
{
    rig r;
    (void)state;
    open_rig(&r, 2, NULL);
    hello(&r, WORKER, 4);
    hello(&r, OTHER, 4);
    report_failure(&r, WORKER, 0, JOUST_NOMEM);
    assert_int_equal(find(&r, JOUST_ACTION_LEASE)->peer, OTHER);
    report_failure(&r, OTHER, 0, JOUST_NOMEM); /* both have failed it: either may try again */
    step(&r, (joust_core_event){.kind = JOUST_EVENT_TICK});
    r.now_ms += 1000;
    step(&r, (joust_core_event){.kind = JOUST_EVENT_CREDIT, .peer = WORKER, .u.credit = {4}});
    assert_int_equal(joust_core_leases(r.core), 4);
    close_rig(&r);
}

static void a_job_without_pairs_fails_in_words(void **state)
{
    rig r;
    (void)state;
    open_rig(&r, 2, NULL);
    hello(&r, WORKER, 8);
    hello(&r, JUDGE, 8);
    make_pairs(&r, 1, 0);
    assert_non_null(strstr(joust_action_text(&r.out, find(&r, JOUST_ACTION_WARN)), "no group"));
    assert_int_equal(joust_core_round(r.core), 2); /* it goes on */
    make_pairs(&r, 2, 0);
    const joust_action *done = find(&r, JOUST_ACTION_JOB_DONE);
    assert_int_not_equal(done->status, JOUST_OK);
    assert_non_null(strstr(joust_action_text(&r.out, done),
                           "a round without a single decided group has nothing to train on"));
    close_rig(&r);
}

static void rounds_may_grow_on_resume(void **state)
{
    joust_buf snapshot = {0};
    joust_error err;
    rig r;
    (void)state;
    open_rig(&r, 1, NULL);
    hello(&r, WORKER, 8);
    hello(&r, JUDGE, 8);
    make_pairs(&r, 1, 1);
    result(&r, 1, TRAIN, 0, WORKER);
    assert_int_equal(joust_core_get_phase(r.core), JOUST_CORE_COMPLETE);
    check_ok(joust_core_encode(r.core, &snapshot, &err));
    joust_core_free(&r.core);
    r.sample.job.rounds = 2;
    open_core(&r, NULL);
    check_ok(joust_core_decode(r.core, snapshot.data, snapshot.n, &err));
    step(&r, (joust_core_event){.kind = JOUST_EVENT_START});
    assert_int_equal(joust_core_epoch(r.core), 2);
    assert_int_equal(joust_core_get_phase(r.core), JOUST_CORE_RUNNING);
    hello(&r, WORKER, 1);
    assert_int_equal(find(&r, JOUST_ACTION_LEASE)->id.unit.round, 2);
    assert_int_equal(find(&r, JOUST_ACTION_LEASE)->u.lease.model_version, 1);
    joust_buf_fini(&snapshot);
    close_rig(&r);
}

static void damaged_snapshots_are_refused(void **state)
{
    joust_buf snapshot = {0};
    joust_error err;
    rig r, s;
    (void)state;
    open_rig(&r, 2, NULL);
    hello(&r, WORKER, 8);
    result(&r, 1, GENERATE, 0, WORKER);
    check_ok(joust_core_encode(r.core, &snapshot, &err));
    for (size_t n = 0; n < snapshot.n; n++) {
        s = (rig){0};
        sample_job_init(&s.sample, 2, GROUPS);
        open_core(&s, NULL);
        check_status(JOUST_CORRUPT, joust_core_decode(s.core, snapshot.data, n, &err));
        close_rig(&s);
    }
    s = (rig){0};
    sample_job_init(&s.sample, 2, GROUPS + 1); /* another job */
    open_core(&s, NULL);
    check_status(JOUST_CORRUPT, joust_core_decode(s.core, snapshot.data, snapshot.n, &err));
    close_rig(&s);
    check_status(JOUST_CORRUPT, joust_core_replay(r.core, "\x09", 1, &err));
    check_status(JOUST_CORRUPT, joust_core_replay(r.core, "\x01", 1, &err));
    joust_buf_fini(&snapshot);
    close_rig(&r);
}

/* The state of round 30 takes no more than that of round 3. */
static void memory_doesnt_grow_with_rounds(void **state)
{
    int64_t blocks = 0;
    rig r;
    (void)state;
    open_rig(&r, 30, NULL);
    hello(&r, WORKER, 8);
    hello(&r, JUDGE, 8);
    for (uint32_t round = 1; round < 30; round++) {
        make_pairs(&r, round, 1);
        result(&r, round, TRAIN, 0, WORKER);
        if (round == 3)
            blocks = joust_alloc_live();
    }
    assert_int_equal(joust_alloc_live(), blocks);
    close_rig(&r);
    assert_int_equal(joust_alloc_live(), 0);
}

static void stop_is_resumable(void **state)
{
    joust_buf status = {0};
    rig r;
    (void)state;
    open_rig(&r, 2, NULL);
    hello(&r, WORKER, 1);
    step(&r, (joust_core_event){.kind = JOUST_EVENT_STOP});
    assert_int_equal(find(&r, JOUST_ACTION_GOODBYE)->status, JOUST_INTERRUPTED);
    assert_int_equal(joust_core_get_phase(r.core), JOUST_CORE_STOPPED);
    result(&r, 1, GENERATE, 0, WORKER);
    assert_int_equal(count(&r, JOUST_ACTION_WRITE), 0);
    joust_core_status(r.core, 5, NULL, &status);
    assert_non_null(strstr((char *)status.data, "\"phase\":\"stopped\""));
    assert_non_null(strstr((char *)status.data, "\"name\":\"worker-0\""));
    joust_buf_fini(&status);
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_round_goes_its_way),
        cmocka_unit_test(results_are_taken_once),
        cmocka_unit_test(results_that_make_no_sense_are_refused),
        cmocka_unit_test(strangers_are_asked_for_hello),
        cmocka_unit_test(the_first_worker_sets_the_class),
        cmocka_unit_test(a_class_that_the_job_does_not_ask_for_is_refused),
        cmocka_unit_test(a_newer_coordinator_ends_this_one),
        cmocka_unit_test(leases_run_out_and_silence_ends_peers),
        cmocka_unit_test(what_peers_hold_is_adopted),
        cmocka_unit_test(rollouts_wait_for_judges),
        cmocka_unit_test(a_unit_that_always_fails_fails_the_job),
        cmocka_unit_test(a_reason_is_told_whole),
        cmocka_unit_test(a_full_peer_stays),
        cmocka_unit_test(a_failed_unit_goes_to_another),
        cmocka_unit_test(a_job_without_pairs_fails_in_words),
        cmocka_unit_test(rounds_may_grow_on_resume),
        cmocka_unit_test(damaged_snapshots_are_refused),
        cmocka_unit_test(memory_doesnt_grow_with_rounds),
        cmocka_unit_test(stop_is_resumable)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
