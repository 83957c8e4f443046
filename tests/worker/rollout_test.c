/* A rollout's records don't depend on what else is in the batch. */
#include "check.h"

#include <string.h>

#include "proto/base/alloc.h"
#include "proto/codec.h"
#include "worker/rollout.h"
#include "worker/tiny.h"

#define N_UNITS 9u

typedef struct bench {
    joust_job job;
    joust_plan plan;
    const joust_stage *stage;
    joust_engine *engine;
    joust_model *model;
    joust_tokenizer *tokenizer;
    joust_lease_unit units[N_UNITS];
    uint32_t base; /* index of the batch's first unit */
    joust_buf records[N_UNITS];
    size_t ends[JOUST_MAX_GROUP + 1]; /* of the last unit's records */
    uint32_t n_done, n_failed;
    char why[1024];
} bench;

static joust_status done(void *context, uint32_t unit, joust_unit_result *result, joust_error *ret)
{
    bench *b = context;
    joust_error err;
    (void)ret;
    b->n_done++;
    assert_int_equal(result->id.unit.position, b->units[b->base + unit].unit.position);
    assert_int_equal(result->n_trajectories, b->stage->samples);
    for (uint32_t i = 0; i < result->n_trajectories; i++) {
        assert_int_equal(result->trajectories[i].sample, i);
        check_ok(joust_trajectory_validate(&result->trajectories[i], &err));
        check_ok(
            joust_trajectory_encode(&result->trajectories[i], &b->records[b->base + unit], &err));
        b->ends[i + 1] = b->records[b->base + unit].n;
    }
    joust_unit_result_fini(result);
    return JOUST_OK;
}

static joust_status failed(void *context, uint32_t unit, const joust_error *why, joust_error *err)
{
    bench *b = context;
    (void)unit;
    (void)err;
    b->n_failed++;
    memcpy(b->why, why->text, sizeof(b->why));
    return JOUST_OK;
}

/* Generates all units in batches of n and gives the digest of all records. */
static joust_digest digest_in_batches(bench *b, uint32_t n)
{
    joust_error err;
    joust_rollout r = {.engine = b->engine,
                       .model = b->model,
                       .tokenizer = b->tokenizer,
                       .job = &b->job,
                       .stage = b->stage,
                       .done = done,
                       .failed = failed,
                       .context = b};
    joust_hasher h;
    joust_hasher_init(&h);
    for (uint32_t i = 0; i < N_UNITS; i += n) {
        b->base = i;
        check_ok(joust_rollout_run(&r, b->units + i, N_UNITS - i < n ? N_UNITS - i : n, &err));
    }
    for (uint32_t i = 0; i < N_UNITS; i++) {
        joust_hasher_field(&h, b->records[i].data, b->records[i].n);
        joust_buf_clear(&b->records[i]);
    }
    return joust_hasher_end(&h);
}

static int setup(void **state)
{
    joust_error err;
    bench *b = joust_calloc(1, sizeof(*b));
    char dir[512];
    joust_model_ref ref = {.lineage = "policy", .version = 3};
    tiny_job_make(&b->job, &b->plan);
    b->stage = tiny_stage(&b->job, &b->plan, JOUST_STAGE_GENERATE, NULL);
    tiny_dir("rollout", dir);
    tiny_folder_write(dir, true, 1);
    check_ok(joust_engine_create(&(joust_engine_options){.n_threads = 2}, &b->engine, &err));
    check_ok(joust_model_load(dir, &b->model, &err));
    check_ok(joust_tokenizer_load(dir, &b->tokenizer, &err));
    for (uint32_t i = 0; i < N_UNITS; i++)
        b->units[i] = tiny_generate_unit(b->stage, i, &ref);
    *state = b;
    return 0;
}

static int teardown(void **state)
{
    bench *b = *state;
    for (uint32_t i = 0; i < N_UNITS; i++) {
        joust_lease_unit_fini(&b->units[i]);
        joust_buf_fini(&b->records[i]);
    }
    joust_tokenizer_free(&b->tokenizer);
    joust_model_free(&b->model);
    joust_engine_free(&b->engine);
    joust_job_fini(&b->job);
    joust_free(b);
    return 0;
}

static void any_grouping_gives_the_same_records(void **state)
{
    bench *b = *state;
    joust_digest one = digest_in_batches(b, 1);
    for (uint32_t n = 2; n <= N_UNITS; n += 3) {
        joust_digest many = digest_in_batches(b, n);
        if (!joust_digest_equal(&one, &many))
            fail_msg("batches of %u give other records than batches of 1", n);
    }
    b->job.seed++;
    joust_digest other = digest_in_batches(b, 1);
    b->job.seed--;
    assert_false(joust_digest_equal(&one, &other));
}

static void a_prompt_without_room_gives_empty_trajectories(void **state)
{
    bench *b = *state;
    joust_lease_unit *u = &b->units[0];
    char *kept = u->prompt.text;
    char text[200] = "";
    for (int i = 0; i < 60; i++)
        strcat(text, "a ");
    u->prompt.text = text;
    joust_error err;
    joust_rollout r = {.engine = b->engine,
                       .model = b->model,
                       .tokenizer = b->tokenizer,
                       .job = &b->job,
                       .stage = b->stage,
                       .done = done,
                       .failed = failed,
                       .context = b};
    b->n_done = b->base = 0;
    check_ok(joust_rollout_run(&r, u, 1, &err));
    u->prompt.text = kept;
    assert_int_equal(b->n_done, 1);
    joust_trajectory t = {0};
    check_ok(joust_trajectory_decode(b->records[0].data, b->records[0].n / 4, &t, &err));
    assert_int_equal(t.n_tokens, 0);
    assert_int_equal(t.n_prompt_tokens, 62);
    assert_int_equal(t.finish, JOUST_FINISH_LENGTH);
    joust_trajectory_fini(&t);
    joust_buf_clear(&b->records[0]);
}

static void an_unreadable_prompt_fails_alone(void **state)
{
    bench *b = *state;
    joust_lease_unit *u = &b->units[1];
    char *kept = u->prompt.text;
    char bad[] = "a \xff";
    joust_error err;
    joust_rollout r = {.engine = b->engine,
                       .model = b->model,
                       .tokenizer = b->tokenizer,
                       .job = &b->job,
                       .stage = b->stage,
                       .done = done,
                       .failed = failed,
                       .context = b};
    u->prompt.text = bad;
    b->n_done = b->n_failed = b->base = 0;
    check_ok(joust_rollout_run(&r, b->units, 3, &err));
    u->prompt.text = kept;
    assert_int_equal(b->n_done, 2);
    assert_int_equal(b->n_failed, 1);
    assert_non_null(strstr(b->why, "prompt 1 of the stage"));
    for (uint32_t i = 0; i < N_UNITS; i++)
        joust_buf_clear(&b->records[i]);
}

/* One unit's records under the job's present settings; freed by the caller. */
static joust_trajectory *records_of(bench *b, uint32_t unit, uint32_t *ret_n)
{
    joust_error err;
    joust_rollout r = {.engine = b->engine,
                       .model = b->model,
                       .tokenizer = b->tokenizer,
                       .job = &b->job,
                       .stage = b->stage,
                       .done = done,
                       .failed = failed,
                       .context = b};
    b->base = unit;
    b->n_done = 0;
    check_ok(joust_rollout_run(&r, &b->units[unit], 1, &err));
    assert_int_equal(b->n_done, 1);
    *ret_n = b->stage->samples;
    joust_trajectory *all = joust_calloc(*ret_n, sizeof(*all));
    for (uint32_t i = 0; i < *ret_n; i++)
        check_ok(joust_trajectory_decode(b->records[unit].data + b->ends[i],
                                         b->ends[i + 1] - b->ends[i], &all[i], &err));
    joust_buf_clear(&b->records[unit]);
    return all;
}

static void records_free(joust_trajectory *all, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        joust_trajectory_fini(&all[i]);
    joust_free(all);
}

/* A letter that plain responses hold ends them; the texts are those of before, cut there. */
static void a_stop_string_ends_the_text_before_it(void **state)
{
    bench *b = *state;
    uint32_t n;
    joust_trajectory *plain = records_of(b, 2, &n);
    const char *longest = plain[0].text;
    for (uint32_t i = 0; i < n; i++)
        longest = strlen(plain[i].text) > strlen(longest) ? plain[i].text : longest;
    assert_true(strlen(longest) > 2);
    char stop[3] = {longest[1], longest[2], 0}; /* runs over two tokens where one is a letter */
    b->job.rollout.stop[0] = stop;
    b->job.rollout.n_stop = 1;
    joust_trajectory *cut = records_of(b, 2, &n);
    uint32_t n_cut = 0;
    for (uint32_t i = 0; i < n; i++) {
        const char *at = strstr(plain[i].text, stop);
        size_t length = at ? (size_t)(at - plain[i].text) : strlen(plain[i].text);
        assert_int_equal(strlen(cut[i].text), length);
        assert_memory_equal(cut[i].text, plain[i].text, length);
        assert_int_equal(cut[i].finish, at ? JOUST_FINISH_STOP_STRING : plain[i].finish);
        assert_true(cut[i].n_tokens <= plain[i].n_tokens);
        assert_memory_equal(cut[i].tokens, plain[i].tokens, cut[i].n_tokens * sizeof(uint32_t));
        assert_memory_equal(cut[i].logps, plain[i].logps, cut[i].n_tokens * sizeof(float));
        n_cut += at != NULL;
    }
    assert_true(n_cut > 0);
    b->job.rollout.n_stop = 0;
    b->job.rollout.stop[0] = NULL;
    records_free(plain, n);
    records_free(cut, n);
}

static void a_response_begins_with_its_prefix(void **state)
{
    bench *b = *state;
    uint32_t n;
    joust_error err;
    char prefix[] = "b a";
    joust_tokens forced = {0};
    joust_trajectory *plain = records_of(b, 3, &n);
    records_free(plain, n);
    check_ok(joust_tokenizer_encode(b->tokenizer, prefix, strlen(prefix), true, &forced, &err));
    b->job.rollout.response_prefix = prefix;
    joust_trajectory *with = records_of(b, 3, &n);
    b->job.rollout.response_prefix = NULL;
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(with[i].n_forced, forced.n);
        assert_true(with[i].n_tokens > forced.n);
        assert_memory_equal(with[i].tokens, forced.ids, forced.n * sizeof(uint32_t));
        for (uint32_t k = 0; k < forced.n; k++)
            assert_true(with[i].logps[k] == 0 && with[i].raw_logps[k] < 0);
        /* as training computes them */
        uint32_t all[128];
        float scored[64];
        uint32_t n_all = with[i].n_prompt_tokens + with[i].n_tokens;
        memcpy(all, with[i].prompt_tokens, with[i].n_prompt_tokens * sizeof(*all));
        memcpy(all + with[i].n_prompt_tokens, with[i].tokens, with[i].n_tokens * sizeof(*all));
        joust_score_request score = {
            .tokens = all, .n = n_all, .first = with[i].n_prompt_tokens, .ret_logps = scored};
        check_ok(joust_score(b->engine, b->model, &score, 1, NULL, NULL, &err));
        assert_memory_equal(scored, with[i].raw_logps, with[i].n_tokens * sizeof(float));
    }
    joust_tokens_fini(&forced);
    records_free(with, n);
}

/* Every response that ends is one of the choices, or matches the expression; what is drawn is drawn as before. */
static void a_mask_leaves_what_it_allows(void **state)
{
    bench *b = *state;
    char one[] = "a b", other[] = "b", pattern[] = "(a|b)( (a|b)){1,2}";
    uint32_t n, n_ended = 0;
    b->job.rollout.choices[0] = one;
    b->job.rollout.choices[1] = other;
    b->job.rollout.n_choices = 2;
    joust_trajectory *chosen = records_of(b, 4, &n);
    b->job.rollout.n_choices = 0;
    b->job.rollout.choices[0] = b->job.rollout.choices[1] = NULL;
    b->job.rollout.regex = pattern;
    joust_trajectory *matched = records_of(b, 4, &n);
    b->job.rollout.regex = NULL;
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(chosen[i].finish, JOUST_FINISH_STOP);
        if (strcmp(chosen[i].text, one) != 0 && strcmp(chosen[i].text, other) != 0)
            fail_msg("'%s' is no choice", chosen[i].text);
        const size_t length = strlen(matched[i].text);
        n_ended += matched[i].finish == JOUST_FINISH_STOP;
        if (matched[i].finish != JOUST_FINISH_STOP || (length != 3 && length != 5) ||
            strspn(matched[i].text, "ab ") != length || matched[i].text[1] != ' ')
            fail_msg("'%s' doesn't match", matched[i].text);
    }
    assert_true(n_ended > 0);
    records_free(chosen, n);
    records_free(matched, n);
}

static void a_long_prompt_is_cut_or_refused_as_the_job_says(void **state)
{
    bench *b = *state;
    joust_lease_unit *u = &b->units[0];
    char *kept = u->prompt.text, text[200] = "";
    uint32_t n;
    for (int i = 0; i < 60; i++)
        strcat(text, i < 30 ? "a " : "b ");
    u->prompt.text = text;
    b->job.rollout.max_prompt_tokens = 20;
    joust_trajectory *refused = records_of(b, 0, &n);
    b->job.rollout.long_prompts = JOUST_LONG_PROMPTS_CUT;
    joust_trajectory *cut = records_of(b, 0, &n);
    b->job.rollout.long_prompts = JOUST_LONG_PROMPTS_REFUSE;
    b->job.rollout.max_prompt_tokens = 0;
    u->prompt.text = kept;
    for (uint32_t i = 0; i < n; i++) {
        assert_true(refused[i].n_tokens == 0 && refused[i].n_cut == 0);
        assert_int_equal(refused[i].n_prompt_tokens, 62);
        assert_int_equal(cut[i].n_prompt_tokens, 20);
        assert_int_equal(cut[i].n_cut, 42);
        assert_true(cut[i].n_tokens > 0);
        assert_memory_equal(cut[i].prompt_tokens + 1, refused[i].prompt_tokens + 43,
                            19 * sizeof(uint32_t));
    }
    records_free(refused, n);
    records_free(cut, n);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_grouping_gives_the_same_records),
        cmocka_unit_test(a_prompt_without_room_gives_empty_trajectories),
        cmocka_unit_test(an_unreadable_prompt_fails_alone),
        cmocka_unit_test(a_stop_string_ends_the_text_before_it),
        cmocka_unit_test(a_response_begins_with_its_prefix),
        cmocka_unit_test(a_mask_leaves_what_it_allows),
        cmocka_unit_test(a_long_prompt_is_cut_or_refused_as_the_job_says),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
