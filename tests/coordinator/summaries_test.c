/* Figures of finished stages: those of the records, whether they are counted as groups come or read back after a restart. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "coordinator/coordinator_internal.h"
#include "coordinator/sample_store.h"
#include "proto/base/alloc.h"
#include "proto/base/log.h"
#include "storage/metrics.h"
#include "storage/tables.h"

typedef struct rig {
    sample_store s;
    joust_coordinator c;
} rig;

static void open_rig(rig *r)
{
    joust_error err;
    memset(r, 0, sizeof *r);
    sample_store_open(&r->s, JOUST_ORDER_FILE);
    r->c.job = &r->s.job;
    r->c.plan = r->s.plan;
    r->c.store = r->s.store;
    check_ok(joust_core_create(&r->s.job, &r->s.plan, r->s.n_prompts, NULL, &r->c.core, &err));
    check_ok(joust_loop_create(&r->c.loop, &err));
    check_ok(joust_committer_create(r->c.loop, r->s.store, r->s.epoch, NULL, NULL, &r->c.committer,
                                    &err));
}

static void close_rig(rig *r)
{
    joust_committer_free(&r->c.committer);
    joust_loop_free(&r->c.loop);
    joust_core_free(&r->c.core);
    sample_store_close(&r->s);
}

/* Summarises and reads what was written; the caller frees with joust_stage_summary_fini. */
static joust_stage_summary summarise(rig *r, uint32_t stage)
{
    joust_error err;
    joust_stage_summary summary;
    joust_batch *batch = joust_committer_batch(r->c.committer);
    check_ok(joust_coordinator_summarise(&r->c, 1, stage, &err));
    assert_int_equal(joust_batch_records(batch), 1);
    check_ok(joust_store_commit(r->s.store, batch, false, &err));
    check_ok(joust_store_get_stage_summary(r->s.store, 1, stage, &summary, &err));
    return summary;
}

static void check_metric(const joust_stage_summary *summary, const char *name, double value)
{
    for (uint32_t i = 0; i < summary->n_metrics; i++) {
        if (strcmp(summary->metrics[i].name, name) != 0)
            continue;
        if (summary->metrics[i].value != value)
            fail_msg("%s is %.17g, expected %.17g", name, summary->metrics[i].value, value);
        return;
    }
    fail_msg("no %s in the summary", name);
}

/* Groups of 3 answers of 2, 3 and 4 tokens; the last group's texts are all alike, and one answer was cut. counted: this
 * process saw them come. */
static void put_groups(rig *r, bool counted)
{
    for (uint32_t position = 0; position < SAMPLE_PER_ROUND; position++) {
        joust_unit_result group = sample_group(&r->s, 1, position);
        if (position == 0)
            group.trajectories[2].finish = JOUST_FINISH_LENGTH;
        for (uint32_t i = 0; position == 3 && i < SAMPLE_SAMPLES; i++)
            memset(group.trajectories[i].text, 'a', strlen(group.trajectories[i].text));
        sample_put_result(&r->s, &group);
        if (counted)
            joust_coordinator_count(&r->c, &group);
        joust_unit_result_fini(&group);
    }
}

static void check_groups(const joust_stage_summary *summary)
{
    check_metric(summary, JOUST_METRIC_GROUPS, SAMPLE_PER_ROUND);
    check_metric(summary, JOUST_METRIC_TRAJECTORIES, SAMPLE_PER_ROUND * SAMPLE_SAMPLES);
    check_metric(summary, JOUST_METRIC_MEAN_TOKENS, 3);
    check_metric(summary, JOUST_METRIC_STOPPED, 11.0 / 12);
    check_metric(summary, JOUST_METRIC_IDENTICAL_GROUPS, 1);
}

static void groups_read_back(void **state)
{
    rig r;
    (void)state;
    open_rig(&r);
    put_groups(&r, false);
    joust_stage_summary summary = summarise(&r, SAMPLE_GENERATE);
    check_groups(&summary);
    joust_stage_summary_fini(&summary);
    close_rig(&r);
}

static void groups_counted_as_they_come(void **state)
{
    rig r;
    (void)state;
    open_rig(&r);
    put_groups(&r, true);
    joust_stage_summary summary = summarise(&r, SAMPLE_GENERATE);
    check_groups(&summary);
    joust_stage_summary_fini(&summary);
    close_rig(&r);
}

/* A process that was started in mid-stage has seen some of the groups only. */
static void groups_counted_in_part(void **state)
{
    rig r;
    (void)state;
    open_rig(&r);
    put_groups(&r, false);
    joust_unit_result seen = sample_group(&r.s, 1, 0);
    joust_coordinator_count(&r.c, &seen);
    joust_stage_summary summary = summarise(&r, SAMPLE_GENERATE);
    check_groups(&summary);
    joust_stage_summary_fini(&summary);
    joust_unit_result_fini(&seen);
    close_rig(&r);
}

/* Values 1.5, 0.5 and -0.5, once without the last. */
static void verdicts(void **state)
{
    rig r;
    (void)state;
    open_rig(&r);
    for (uint32_t position = 0; position < SAMPLE_PER_ROUND; position++) {
        joust_unit_result judged = sample_verdicts(&r.s, 1, position);
        if (position == 1) {
            judged.verdicts[2].has_value = false;
            judged.verdicts[2].outcome = JOUST_OUTCOME_TIMEOUT;
        }
        sample_put_result(&r.s, &judged);
        joust_unit_result_fini(&judged);
    }
    joust_stage_summary summary = summarise(&r, SAMPLE_JUDGE);
    check_metric(&summary, JOUST_METRIC_GROUPS, SAMPLE_PER_ROUND);
    check_metric(&summary, JOUST_METRIC_VERDICTS, 12);
    check_metric(&summary, JOUST_METRIC_FAILED_VERDICTS, 1);
    check_metric(&summary, JOUST_METRIC_MEAN_VALUE, 6.5 / 11); /* a failed one is no zero */
    joust_stage_summary_fini(&summary);
    close_rig(&r);
}

/* Margins 1 and 2 at one position, 1 at another; two positions gave none. */
static void pairs(void **state)
{
    rig r;
    (void)state;
    open_rig(&r);
    sample_put_pair(&r.s, 1, 0, 0);
    sample_put_pair(&r.s, 1, 0, 1);
    sample_put_pair(&r.s, 1, 2, 0);
    joust_stage_summary summary = summarise(&r, SAMPLE_PAIR);
    check_metric(&summary, JOUST_METRIC_GROUPS, SAMPLE_PER_ROUND);
    check_metric(&summary, JOUST_METRIC_PAIRS, 3);
    check_metric(&summary, JOUST_METRIC_UNDECIDED_GROUPS, 2);
    check_metric(&summary, JOUST_METRIC_MEAN_MARGIN, 4.0 / 3);
    check_metric(&summary, JOUST_METRIC_MEAN_CHOSEN, 1.5);
    check_metric(&summary, JOUST_METRIC_MEAN_REJECTED, 0.5 / 3);
    joust_stage_summary_fini(&summary);
    close_rig(&r);
}

static void a_stage_without_records(void **state)
{
    rig r;
    (void)state;
    open_rig(&r);
    joust_stage_summary summary = summarise(&r, SAMPLE_PAIR);
    check_metric(&summary, JOUST_METRIC_PAIRS, 0);
    check_metric(&summary, JOUST_METRIC_UNDECIDED_GROUPS, SAMPLE_PER_ROUND);
    check_metric(&summary, JOUST_METRIC_MEAN_MARGIN, 0);
    joust_stage_summary_fini(&summary);
    close_rig(&r);
}

/* What is there stays as it is, and training's figures come with its result. */
static void once_only(void **state)
{
    joust_error err;
    rig r;
    (void)state;
    open_rig(&r);
    sample_put_pair(&r.s, 1, 0, 0);
    joust_stage_summary summary = summarise(&r, SAMPLE_PAIR);
    joust_stage_summary_fini(&summary);
    sample_put_pair(&r.s, 1, 1, 0);
    check_ok(joust_coordinator_summarise(&r.c, 1, SAMPLE_PAIR, &err));
    check_ok(joust_coordinator_summarise(&r.c, 1, SAMPLE_TRAIN, &err));
    assert_int_equal(joust_batch_records(joust_committer_batch(r.c.committer)), 0);
    close_rig(&r);
}

/* ---- what is said of stages that gave little ---- */

/* Lines of the log from here on go to a file. */
static FILE *catch_log(void)
{
    FILE *file = tmpfile();
    assert_non_null(file);
    joust_log_set_fd(fileno(file));
    return file;
}

static void check_log(FILE *file, const char *expected)
{
    char text[2048];
    joust_log_set_fd(2);
    rewind(file);
    text[fread(text, 1, sizeof(text) - 1, file)] = '\0';
    fclose(file);
    if (expected ? !strstr(text, expected) : *text)
        fail_msg("the log says: %s", text);
}

/* All verdicts of the stage but `good` are failed: at position 0 truncated, elsewhere contradicting. */
static void put_verdicts(rig *r, uint32_t good)
{
    for (uint32_t position = 0, n = 0; position < SAMPLE_PER_ROUND; position++) {
        joust_unit_result judged = sample_verdicts(&r->s, 1, position);
        for (uint32_t i = 0; i < judged.n_verdicts; i++, n++) {
            joust_verdict *v = &judged.verdicts[i];
            if (n >= SAMPLE_PER_ROUND * SAMPLE_SAMPLES - good)
                continue;
            v->has_value = false;
            v->outcome = position ? JOUST_OUTCOME_DISAGREE : JOUST_OUTCOME_TRUNCATED;
        }
        sample_put_result(&r->s, &judged);
        joust_unit_result_fini(&judged);
    }
}

static void most_verdicts_failed(void **state)
{
    rig r;
    (void)state;
    open_rig(&r);
    put_verdicts(&r, 5);
    FILE *log = catch_log();
    joust_stage_summary summary = summarise(&r, SAMPLE_JUDGE);
    check_log(log, "round 1 judge.self: 12 verdicts, 4 disagree, 3 truncated");
    joust_stage_summary_fini(&summary);
    close_rig(&r);
}

static void half_of_the_verdicts_failed(void **state)
{
    rig r;
    (void)state;
    open_rig(&r);
    put_verdicts(&r, 6);
    FILE *log = catch_log();
    joust_stage_summary summary = summarise(&r, SAMPLE_JUDGE);
    check_log(log, NULL);
    joust_stage_summary_fini(&summary);
    close_rig(&r);
}

static void count_pairing(rig *r, joust_pairing_outcome outcome, double chosen, double rejected)
{
    const joust_unit_key unit = {.round = 1, .stage = SAMPLE_PAIR};
    const joust_pairing pairing = {
        .outcome = outcome, .chosen_reward = chosen, .rejected_reward = rejected};
    joust_coordinator_count_pairing(&r->c, &unit, &pairing);
}

static void no_reward_reaches_the_floor(void **state)
{
    rig r;
    (void)state;
    open_rig(&r);
    r.s.job.pairs.min_chosen = 1.5;
    r.s.job.pairs.max_rejected = -0.5;
    count_pairing(&r, JOUST_PAIRING_CHOSEN_FLOOR, 0.5, 0);
    count_pairing(&r, JOUST_PAIRING_CHOSEN_FLOOR, 1, 0.25);
    count_pairing(&r, JOUST_PAIRING_NO_REWARD, 0, 0);
    FILE *log = catch_log();
    joust_stage_summary summary = summarise(&r, SAMPLE_PAIR);
    check_log(log,
              "round 1 pair: 3 of 3 groups gave no pair: 1 without a reward, 2 below "
              "pairs.min_chosen; no reward reached pairs.min_chosen 1.5; the largest was 1; no "
              "reward was as low as pairs.max_rejected -0.5; the smallest was 0");
    joust_stage_summary_fini(&summary);
    close_rig(&r);
}

/* Counts of another round, or of a stage that gave enough, say nothing. */
static void enough_pairs(void **state)
{
    rig r;
    (void)state;
    open_rig(&r);
    count_pairing(&r, JOUST_PAIRING_DECIDED, 2, 0);
    count_pairing(&r, JOUST_PAIRING_CHOSEN_FLOOR, 1, 0);
    FILE *log = catch_log();
    joust_stage_summary summary = summarise(&r, SAMPLE_PAIR);
    check_log(log, NULL);
    joust_stage_summary_fini(&summary);
    close_rig(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(groups_read_back),
                                       cmocka_unit_test(groups_counted_as_they_come),
                                       cmocka_unit_test(groups_counted_in_part),
                                       cmocka_unit_test(verdicts),
                                       cmocka_unit_test(pairs),
                                       cmocka_unit_test(a_stage_without_records),
                                       cmocka_unit_test(once_only),
                                       cmocka_unit_test(most_verdicts_failed),
                                       cmocka_unit_test(half_of_the_verdicts_failed),
                                       cmocka_unit_test(no_reward_reaches_the_floor),
                                       cmocka_unit_test(enough_pairs)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
