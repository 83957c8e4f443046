/* Rows of a TRAIN stage: passes of permutations, the same whatever the windows they are read in. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "coordinator/sample_store.h"
#include "coordinator/training_rows.h"
#include "proto/base/alloc.h"

enum { PAIRS = 5, PASSES = 3 };

static const joust_unit_key unit = {1, SAMPLE_TRAIN, 0};

/* Groups at four positions, and pairs: two of position 0, one of each other. Ordinals follow (position, index). */
static void open_pairs(sample_store *s, joust_training_rows **ret)
{
    joust_error err;
    sample_store_open(s, JOUST_ORDER_FILE);
    for (uint32_t position = SAMPLE_PER_ROUND; position-- > 0;) { /* arrival is no order */
        joust_unit_result group = sample_group(s, 1, position);
        sample_put_result(s, &group);
        joust_unit_result_fini(&group);
        sample_put_pair(s, 1, position, 0);
    }
    sample_put_pair(s, 1, 0, 1);
    check_ok(joust_training_rows_open(s->store, &s->job, &s->plan, &unit, ret, &err));
    assert_int_equal(joust_training_rows_count(*ret), PAIRS);
}

static void close_pairs(sample_store *s, joust_training_rows **rows)
{
    joust_training_rows_close(rows);
    assert_null(*rows);
    sample_store_close(s);
}

static void free_rows(joust_msg_rows *rows)
{
    joust_message m = {.type = JOUST_MSG_ROWS, .u.rows = *rows};
    joust_message_fini(&m);
}

/* Ordinals of rows first .. first + n - 1, read `window` at a time. */
static void read_ordinals(joust_training_rows *rows, uint64_t first, uint32_t n, uint32_t window,
                          uint64_t *ret)
{
    joust_error err;
    for (uint32_t have = 0; have < n;) {
        joust_msg_rows got = {0};
        uint32_t ask = n - have < window ? n - have : window;
        check_ok(joust_training_rows_get(rows, first + have, ask, &got, &err));
        assert_int_equal(got.first, first + have);
        assert_int_equal(got.n, ask); /* small rows: all that was asked for */
        for (uint32_t i = 0; i < got.n; i++)
            ret[have + i] = got.rows[i].ordinal;
        have += got.n;
        free_rows(&got);
    }
}

static void passes_are_keyed_permutations(void **state)
{
    sample_store s;
    joust_training_rows *rows;
    uint64_t got[PASSES * PAIRS];
    (void)state;
    open_pairs(&s, &rows);
    read_ordinals(rows, 0, PASSES * PAIRS, PASSES * PAIRS, got);
    for (uint32_t pass = 0; pass < PASSES; pass++) {
        uint32_t order[PAIRS];
        joust_stream stream =
            joust_stream_open(&(joust_stream_name){.job_seed = s.job.seed,
                                                   .stage = SAMPLE_TRAIN,
                                                   .round = 1,
                                                   .prompt = pass,
                                                   .purpose = JOUST_PURPOSE_SHUFFLE});
        for (uint32_t i = 0; i < PAIRS; i++)
            order[i] = i;
        joust_stream_shuffle(&stream, order, PAIRS);
        for (uint32_t i = 0; i < PAIRS; i++)
            assert_int_equal(got[pass * PAIRS + i], order[i]);
    }
    close_pairs(&s, &rows);
}

static void windows_change_nothing(void **state)
{
    sample_store s;
    joust_training_rows *rows;
    uint64_t whole[PASSES * PAIRS], parts[PASSES * PAIRS];
    (void)state;
    open_pairs(&s, &rows);
    read_ordinals(rows, 0, PASSES * PAIRS, PASSES * PAIRS, whole);
    for (uint32_t window = 1; window <= PAIRS + 2; window++) {
        read_ordinals(rows, 0, PASSES * PAIRS, window, parts);
        assert_memory_equal(whole, parts, sizeof whole);
    }
    for (uint32_t first = PASSES * PAIRS;
         first-- > 0;) { /* backwards, as a restarted trainer may */
        read_ordinals(rows, first, 1, 1, parts);
        assert_int_equal(parts[0], whole[first]);
    }
    close_pairs(&s, &rows);
}

/* A row is its pair's two answers, token by token. */
static void rows_are_the_pairs(void **state)
{
    joust_error err;
    sample_store s;
    joust_training_rows *rows;
    joust_msg_rows got = {0};
    (void)state;
    open_pairs(&s, &rows);
    check_ok(joust_training_rows_get(rows, 0, PAIRS, &got, &err));
    for (uint32_t i = 0; i < PAIRS; i++) {
        const joust_train_row_pair *row = &got.rows[i];
        uint64_t position = row->ordinal < 2 ? 0 : row->ordinal - 1;
        uint32_t loser = row->ordinal == 1 ? 2 : 1;
        joust_unit_result group = sample_group(&s, 1, position);
        const joust_trajectory *chosen = &group.trajectories[0],
                               *rejected = &group.trajectories[loser];
        assert_int_equal(row->n_prompt_tokens, 3);
        assert_memory_equal(row->prompt_tokens, chosen->prompt_tokens, 12);
        assert_int_equal(row->n_chosen, chosen->n_tokens);
        assert_memory_equal(row->chosen, chosen->tokens, 4 * row->n_chosen);
        assert_memory_equal(row->chosen_logps, chosen->raw_logps, 4 * row->n_chosen);
        assert_int_equal(row->n_rejected, rejected->n_tokens);
        assert_memory_equal(row->rejected, rejected->tokens, 4 * row->n_rejected);
        assert_memory_equal(row->rejected_logps, rejected->raw_logps, 4 * row->n_rejected);
        joust_unit_result_fini(&group);
    }
    free_rows(&got);
    close_pairs(&s, &rows);
}

static void what_cannot_be_read(void **state)
{
    joust_error err;
    sample_store s;
    joust_training_rows *rows = NULL;
    joust_msg_rows got = {0};
    joust_unit_key other = {1, SAMPLE_PAIR, 0}, none = {1, 99, 0}, later = {2, SAMPLE_TRAIN, 0};
    (void)state;
    sample_store_open(&s, JOUST_ORDER_FILE);
    check_status(JOUST_INVALID,
                 joust_training_rows_open(s.store, &s.job, &s.plan, &other, &rows, &err));
    check_status(JOUST_INVALID,
                 joust_training_rows_open(s.store, &s.job, &s.plan, &none, &rows, &err));
    check_status(JOUST_NOT_FOUND,
                 joust_training_rows_open(s.store, &s.job, &s.plan, &later, &rows, &err));
    assert_non_null(strstr(err.text, "round 2 has nothing to train on"));
    assert_null(rows);
    sample_put_pair(&s, 1, 0, 0); /* its answers were never written */
    check_ok(joust_training_rows_open(s.store, &s.job, &s.plan, &unit, &rows, &err));
    check_status(JOUST_INVALID, joust_training_rows_get(rows, 0, 0, &got, &err));
    check_status(JOUST_INVALID, joust_training_rows_get(rows, 0, JOUST_MAX_UNITS + 1, &got, &err));
    check_status(JOUST_NOT_FOUND, joust_training_rows_get(rows, 0, 1, &got, &err));
    assert_int_equal(got.n, 0);
    assert_null(got.rows);
    close_pairs(&s, &rows);
}

/* Groups at all positions with their verdicts; those at `even` have equal rewards. */
static void open_groups(sample_store *s, uint64_t even, joust_advantage advantage, bool dynamic,
                        joust_training_rows **ret)
{
    joust_error err;
    sample_store_open(s, JOUST_ORDER_FILE);
    s->plan.stages[SAMPLE_PAIR].advantage = advantage;
    s->plan.stages[SAMPLE_PAIR].dynamic_sampling = dynamic;
    for (uint64_t position = 0; position < SAMPLE_PER_ROUND; position++) {
        joust_unit_result group = sample_group(s, 1, position);
        joust_unit_result verdicts = sample_verdicts(s, 1, position);
        for (uint32_t i = 0; i < SAMPLE_SAMPLES && position == even; i++)
            verdicts.verdicts[i].value = 7;
        sample_put_result(s, &group);
        sample_put_result(s, &verdicts);
        joust_unit_result_fini(&group);
        joust_unit_result_fini(&verdicts);
    }
    check_ok(joust_training_rows_open(s->store, &s->job, &s->plan, &unit, ret, &err));
}

/* Every answer once a pass, groups whole, with the advantage that its reward of 1.5 - sample gives it. */
static void answers_come_group_by_group(void **state)
{
    enum { ROWS = SAMPLE_PER_ROUND * SAMPLE_SAMPLES };
    joust_error err;
    sample_store s;
    joust_training_rows *rows;
    uint64_t whole[PASSES * ROWS], parts[PASSES * ROWS];
    bool differs = false;
    (void)state;
    open_groups(&s, SAMPLE_PER_ROUND, JOUST_ADVANTAGE_CENTRED, false, &rows);
    assert_int_equal(joust_training_rows_count(rows), ROWS);
    read_ordinals(rows, 0, PASSES * ROWS, PASSES * ROWS, whole);
    for (uint32_t pass = 0; pass < PASSES; pass++) {
        bool seen[SAMPLE_PER_ROUND] = {0};
        for (uint32_t i = 0; i < ROWS; i++) {
            uint64_t got = whole[pass * ROWS + i], position = got / SAMPLE_SAMPLES;
            assert_int_equal(got % SAMPLE_SAMPLES, i % SAMPLE_SAMPLES);
            if (i % SAMPLE_SAMPLES == 0) {
                assert_false(seen[position]);
                seen[position] = true;
            }
            assert_int_equal(position, whole[pass * ROWS + i / SAMPLE_SAMPLES * SAMPLE_SAMPLES] /
                                           SAMPLE_SAMPLES);
            differs |= got != whole[i];
        }
    }
    assert_true(differs); /* passes are not the same */
    for (uint32_t window = 1; window < ROWS; window += 2) {
        read_ordinals(rows, 0, PASSES * ROWS, window, parts);
        assert_memory_equal(whole, parts, sizeof whole);
    }
    for (uint64_t i = 0; i < ROWS; i++) {
        joust_msg_rows got = {0};
        check_ok(joust_training_rows_get(rows, i, 1, &got, &err));
        const joust_train_row_pair *row = &got.rows[0];
        uint64_t sample = row->ordinal % SAMPLE_SAMPLES;
        joust_unit_result group = sample_group(&s, 1, row->ordinal / SAMPLE_SAMPLES);
        const joust_trajectory *t = &group.trajectories[sample];
        assert_true(row->margin == 1 - (double)sample);
        assert_int_equal(row->n_rejected, 0);
        assert_int_equal(row->n_chosen, t->n_tokens);
        assert_memory_equal(row->chosen, t->tokens, 4 * t->n_tokens);
        assert_memory_equal(row->chosen_logps, t->raw_logps, 4 * t->n_tokens);
        joust_unit_result_fini(&group);
        free_rows(&got);
    }
    close_pairs(&s, &rows);
}

/* Steps stay full: where an even group would stand the next one does. */
static void dynamic_sampling_leaves_even_groups_out(void **state)
{
    sample_store s;
    joust_training_rows *rows;
    uint64_t got[2 * SAMPLE_SAMPLES * SAMPLE_PER_ROUND];
    (void)state;
    for (uint32_t dynamic = 0; dynamic < 2; dynamic++) {
        uint32_t n = SAMPLE_SAMPLES * (SAMPLE_PER_ROUND - dynamic);
        open_groups(&s, 1, JOUST_ADVANTAGE_STANDARDISED, dynamic, &rows);
        assert_int_equal(joust_training_rows_count(rows), n);
        read_ordinals(rows, 0, 2 * n, 2 * n, got);
        for (uint32_t i = 0; i < 2 * n; i++)
            assert_true(!dynamic || got[i] / SAMPLE_SAMPLES != 1);
        for (uint32_t pass = 0; pass < 2; pass++) {
            bool seen[SAMPLE_SAMPLES * SAMPLE_PER_ROUND] = {false};
            for (uint32_t i = pass * n; i < (pass + 1) * n; i++) {
                assert_false(seen[got[i]]);
                seen[got[i]] = true;
            }
        }
        close_pairs(&s, &rows);
    }
}

/* Answers by themselves: one whose reward of 1.5 - sample is above the threshold is the chosen one of a row, another the
 * rejected one; each once a pass, in an order of their own. */
static void labelled_answers_come_one_by_one(void **state)
{
    enum { ROWS = SAMPLE_PER_ROUND * SAMPLE_SAMPLES };
    joust_error err;
    sample_store s;
    joust_training_rows *rows;
    bool seen[ROWS] = {false}, apart = false;
    (void)state;
    open_groups(&s, SAMPLE_PER_ROUND, JOUST_ADVANTAGE_LABEL, false, &rows);
    joust_training_rows_close(&rows);
    s.plan.stages[SAMPLE_PAIR].beta = 0.5; /* the reward of sample 1: not above it */
    check_ok(joust_training_rows_open(s.store, &s.job, &s.plan, &unit, &rows, &err));
    assert_int_equal(joust_training_rows_count(rows), ROWS);
    for (uint64_t i = 0; i < ROWS; i++) {
        joust_msg_rows got = {0};
        check_ok(joust_training_rows_get(rows, i, 1, &got, &err));
        const joust_train_row_pair *row = &got.rows[0];
        const uint64_t sample = row->ordinal % SAMPLE_SAMPLES;
        joust_unit_result group = sample_group(&s, 1, row->ordinal / SAMPLE_SAMPLES);
        const joust_trajectory *t = &group.trajectories[sample];
        assert_false(seen[row->ordinal]);
        seen[row->ordinal] = true;
        apart |= sample != i % SAMPLE_SAMPLES;
        assert_int_equal(row->n_chosen, sample == 0 ? t->n_tokens : 0);
        assert_int_equal(row->n_rejected, sample == 0 ? 0 : t->n_tokens);
        assert_memory_equal(sample == 0 ? row->chosen : row->rejected, t->tokens, 4 * t->n_tokens);
        joust_unit_result_fini(&group);
        free_rows(&got);
    }
    assert_true(apart);
    close_pairs(&s, &rows);
}

/* A message stops growing at some megabytes, and a row larger than that still travels. */
static void large_rows_come_in_parts(void **state)
{
    joust_error err;
    sample_store s;
    joust_training_rows *rows;
    joust_msg_rows got = {0};
    const uint32_t n = 400000;
    (void)state;
    sample_store_open(&s, JOUST_ORDER_FILE);
    for (uint32_t position = 0; position < 3; position++) {
        joust_unit_result group = sample_group(&s, 1, position);
        joust_trajectory *t = &group.trajectories[0];
        t->tokens = joust_realloc_array(t->tokens, n, sizeof(*t->tokens));
        t->logps = joust_realloc_array(t->logps, n, sizeof(*t->logps));
        t->raw_logps = joust_realloc_array(t->raw_logps, n, sizeof(*t->raw_logps));
        assert_true(t->tokens && t->logps && t->raw_logps);
        memset(t->tokens, 1, n * sizeof(*t->tokens));
        memset(t->logps, 0, n * sizeof(*t->logps));
        memset(t->raw_logps, 0, n * sizeof(*t->raw_logps));
        t->n_tokens = n;
        sample_put_result(&s, &group);
        joust_unit_result_fini(&group);
        sample_put_pair(&s, 1, position, 0);
    }
    check_ok(joust_training_rows_open(s.store, &s.job, &s.plan, &unit, &rows, &err));
    check_ok(joust_training_rows_get(rows, 0, 3, &got, &err));
    assert_true(got.n >= 1 && got.n < 3);
    assert_int_equal(got.rows[0].n_chosen, n);
    free_rows(&got);
    close_pairs(&s, &rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(passes_are_keyed_permutations),
                                       cmocka_unit_test(windows_change_nothing),
                                       cmocka_unit_test(rows_are_the_pairs),
                                       cmocka_unit_test(what_cannot_be_read),
                                       cmocka_unit_test(answers_come_group_by_group),
                                       cmocka_unit_test(dynamic_sampling_leaves_even_groups_out),
                                       cmocka_unit_test(labelled_answers_come_one_by_one),
                                       cmocka_unit_test(large_rows_come_in_parts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
