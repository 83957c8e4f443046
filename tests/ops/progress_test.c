/* The progress line and the lines of finished stages, from status snapshots. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "ops/progress.h"

static void take(joust_progress_view *view, const char *json, int64_t now_ms, const char *expected)
{
    joust_buf lines = {0};
    joust_error err;
    assert_int_equal(joust_progress_take(view, json, strlen(json), now_ms, &lines, &err), JOUST_OK);
    assert_string_equal(lines.n ? (const char *)lines.data : "", expected);
    joust_buf_fini(&lines);
}

static void line_is(const joust_progress_view *view, int64_t now_ms, uint32_t width,
                    const char *expected)
{
    joust_buf line = {0};
    joust_progress_line(view, now_ms, width, &line);
    assert_string_equal((const char *)line.data, expected);
    joust_buf_fini(&line);
}

#define SNAPSHOT(round, stages)                                                                    \
    "{\"why\":\"the reason\",\"core\":{\"phase\":\"running\",\"round\":" #round                    \
    ",\"rounds\":4,\"stages\":[" stages "]}}"
#define STAGE(name, state, units, done)                                                            \
    "{\"name\":\"" name "\",\"state\":\"" state "\",\"units\":" #units ",\"done\":" #done "}"

#define LEASED(name, units)                                                                        \
    "{\"name\":\"" name "\",\"state\":\"open\",\"units\":" #units ",\"done\":0,\"leased\":1}"

static void a_stage_shows_rate_and_time_left(void **state)
{
    (void)state;
    joust_progress_view view = {0};
    line_is(&view, 0, 80, "waiting for the coordinator");
    take(&view, SNAPSHOT(1, STAGE("generate", "open", 500, 100)), 1000, "");
    line_is(&view, 1000, 80, "round 1/4 · generate 100/500");
    take(&view, SNAPSHOT(1, STAGE("generate", "open", 500, 300)), 6000, "");
    line_is(&view, 6000, 80, "round 1/4 · generate 300/500 · 40.0/s · 0:05 left");
    line_is(&view, 6000, 12, "round 1/4 · ");
}

static void a_finished_stage_is_told_once(void **state)
{
    (void)state;
    joust_progress_view view = {0};
    take(&view, SNAPSHOT(1, LEASED("generate", 500) "," STAGE("train", "waiting", 1, 0)), 1000, "");
    const char *after =
        SNAPSHOT(1, STAGE("generate", "complete", 500, 500) "," STAGE("train", "waiting", 1, 0));
    take(&view, after, 11000, "round 1/4 · generate 500/500 in 10.0 s (50.0/s)\n");
    take(&view, after, 12000, "");
    line_is(&view, 12000, 80, "round 1/4 · the reason"); /* nothing is under way: why */
}

static void a_round_that_ended_between_two_snapshots_is_told(void **state)
{
    (void)state;
    joust_progress_view view = {0};
    take(&view, SNAPSHOT(1, LEASED("train", 1)), 1000, "");
    take(&view, SNAPSHOT(2, STAGE("generate", "waiting", 5, 0)), 3000,
         "round 1/4 · train 1/1 in 2.0 s (0.5/s)\n");
    take(&view, SNAPSHOT(3, STAGE("generate", "skipped", 5, 0)), 4000,
         "round 2/4 · generate 5/5\nround 3/4 · generate skipped\n");
}

static void a_stage_without_work_yet_has_not_begun(void **state)
{
    (void)state;
    joust_progress_view view = {0};
    take(&view, SNAPSHOT(1, STAGE("judge", "open", 5, 0)), 1000, "");
    line_is(&view, 9000, 80, "round 1/4 · the reason");
    take(&view, SNAPSHOT(1, LEASED("judge", 5)), 10000, "");
    take(&view, SNAPSHOT(1, STAGE("judge", "complete", 5, 5)), 15000,
         "round 1/4 · judge 5/5 in 5.0 s (1.0/s)\n");
}

static void training_counts_steps(void **state)
{
    (void)state;
    joust_progress_view view = {0};
    take(&view,
         SNAPSHOT(1, "{\"name\":\"train\",\"state\":\"open\",\"units\":1,\"done\":0,"
                     "\"durable_step\":10,\"max_steps\":40}"),
         1000, "");
    line_is(&view, 1000, 80, "round 1/4 · train 10/40");
    take(&view,
         SNAPSHOT(1, "{\"name\":\"train\",\"state\":\"complete\",\"units\":1,\"done\":1,"
                     "\"durable_step\":40,\"max_steps\":40}"),
         4000,
         "round 1/4 · train 40/40 (10.0/s)\n"); /* 30 steps in 3 s: when it began wasn't seen */
}

static void a_rate_follows_from_the_time_shown(void **state)
{
    (void)state;
    joust_progress_view view = {0};
    take(&view, SNAPSHOT(1, LEASED("generate", 20)), 1000, "");
    take(&view, SNAPSHOT(1, STAGE("generate", "complete", 20, 20)), 2040,
         "round 1/4 · generate 20/20 in 1.0 s (20.0/s)\n");
    take(&view, SNAPSHOT(2, LEASED("generate", 20)), 3000, "");
    take(&view, SNAPSHOT(2, STAGE("generate", "complete", 20, 20)), 3020,
         "round 2/4 · generate 20/20\n"); /* no time to speak of */
}

static void the_last_round_is_told(void **state)
{
    (void)state;
    joust_progress_view view = {0};
    take(&view, SNAPSHOT(4, LEASED("train", 1)), 1000, "");
    take(&view, SNAPSHOT(4, ""), 3000, "round 4/4 · train 1/1 in 2.0 s (0.5/s)\n");
    take(&view, SNAPSHOT(4, ""), 4000, "");
}

static void a_narrow_line_shortens_names_first(void **state)
{
    (void)state;
    joust_progress_view view = {0};
    take(&view,
         SNAPSHOT(1, STAGE("evaluate.sampled.judged_by", "open", 2000,
                           100) "," STAGE("promote.greedy.judge", "open", 2000, 20)),
         1000, "");
    take(&view,
         SNAPSHOT(1, STAGE("evaluate.sampled.judged_by", "open", 2000,
                           300) "," STAGE("promote.greedy.judge", "open", 2000, 20)),
         6000, "");
    line_is(
        &view, 6000, 100,
        "round 1/4 · evaluate.sampled.judged_by 300/2000 · promote.greedy.judge 20/2000 · 40.0/s "
        "· 0:43 left");
    line_is(&view, 6000, 84,
            "round 1/4 · evaluate.sampl… 300/2000 · promote.greedy… 20/2000 · 40.0/s · 0:43 left");
    line_is(&view, 6000, 60, "round 1/4 · evaluat… 300/2000 · 40.0/s · 0:43 left");
}

#define WAITING                                                                                    \
    "{\"why\":\"round 1 of 4, generate: 0 of 500 done; 500 queued, and no worker is connected: "   \
    "start one\",\"core\":{\"phase\":\"running\",\"round\":1,\"rounds\":4,\"stages\":[" STAGE(     \
        "generate", "open", 500, 0) "]}}"

static void what_is_waited_for_keeps_its_remedy(void **state)
{
    (void)state;
    joust_progress_view view = {0};
    take(&view, WAITING, 1000, "");
    line_is(
        &view, 1000, 100,
        "round 1/4 · generate: 0 of 500 done; 500 queued, and no worker is connected: start one");
    line_is(&view, 1000, 70,
            "round 1/4 · generate: … queued, and no worker is connected: start one");
    line_is(&view, 1000, 40, "round 1/4 · generate: … start one");
}

static void a_stage_that_stands_still_says_why(void **state)
{
    (void)state;
    joust_progress_view view = {0};
    take(&view, SNAPSHOT(1, STAGE("generate", "open", 5, 3)), 1000, "");
    take(&view, SNAPSHOT(1, STAGE("generate", "open", 5, 3)), 20000, "");
    line_is(&view, 20999, 80, "round 1/4 · generate 3/5");
    line_is(&view, 21000, 80, "round 1/4 · the reason");
    take(&view, SNAPSHOT(1, STAGE("generate", "open", 5, 4)), 22000, "");
    line_is(&view, 22000, 80, "round 1/4 · generate 4/5 · 0.0/s · 0:21 left");
}

static void what_is_no_snapshot_changes_nothing(void **state)
{
    (void)state;
    static const char *const texts[] = {"",
                                        "{",
                                        "[]",
                                        "{\"core\":{\"round\":1}}",
                                        "{\"core\":{\"stages\":[]}}",
                                        "{\"core\":{\"round\":\"1\",\"stages\":[]}}"};
    joust_progress_view view = {0};
    joust_buf lines = {0};
    joust_error err;
    take(&view, SNAPSHOT(1, STAGE("generate", "open", 5, 1)), 1000, "");
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
        assert_int_equal(joust_progress_take(&view, texts[i], strlen(texts[i]), 2000, &lines, &err),
                         JOUST_MALFORMED);
    assert_int_equal(lines.n, 0);
    line_is(&view, 1000, 80, "round 1/4 · generate 1/5");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stage_shows_rate_and_time_left),
        cmocka_unit_test(a_finished_stage_is_told_once),
        cmocka_unit_test(a_round_that_ended_between_two_snapshots_is_told),
        cmocka_unit_test(a_stage_without_work_yet_has_not_begun),
        cmocka_unit_test(training_counts_steps),
        cmocka_unit_test(a_rate_follows_from_the_time_shown),
        cmocka_unit_test(the_last_round_is_told),
        cmocka_unit_test(a_narrow_line_shortens_names_first),
        cmocka_unit_test(what_is_waited_for_keeps_its_remedy),
        cmocka_unit_test(a_stage_that_stands_still_says_why),
        cmocka_unit_test(what_is_no_snapshot_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
