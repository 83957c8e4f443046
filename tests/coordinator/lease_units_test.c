/* Which prompt stands at a position, and which model a version is. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "coordinator/sample_store.h"
#include "proto/base/alloc.h"

/* Line of the file at a position; the file's line i says "NAME i?". */
static uint32_t line_at(sample_store *s, uint32_t round, uint64_t position)
{
    joust_error err;
    joust_prompt prompt;
    joust_unit_key unit = {round, SAMPLE_GENERATE, position};
    unsigned line;
    check_ok(joust_lease_prompt(&s->sources, &unit, &prompt, &err));
    assert_int_equal(sscanf(prompt.text, "prompts.jsonl %u?", &line), 1);
    joust_prompt_fini(&prompt);
    return line;
}

/* Rounds walk on through the file and around its end. */
static void file_order_walks_on(void **state)
{
    sample_store s;
    (void)state;
    sample_store_open(&s, JOUST_ORDER_FILE);
    for (uint32_t round = 1; round <= 5; round++) {
        for (uint32_t i = 0; i < SAMPLE_PER_ROUND; i++)
            assert_int_equal(line_at(&s, round, i),
                             ((round - 1) * SAMPLE_PER_ROUND + i) % SAMPLE_PROMPTS);
    }
    sample_store_close(&s);
}

/* Without per_round each round has the whole file from its beginning. */
static void whole_file_each_round(void **state)
{
    sample_store s;
    (void)state;
    sample_store_open(&s, JOUST_ORDER_FILE);
    s.job.sets[0].per_round = 0;
    for (uint32_t round = 1; round <= 2; round++) {
        for (uint32_t i = 0; i < SAMPLE_PROMPTS; i++)
            assert_int_equal(line_at(&s, round, i), i);
    }
    sample_store_close(&s);
}

/* A pass shuffled is every prompt once; passes differ; the plan says the same. */
static void shuffle_is_a_permutation_a_pass(void **state)
{
    sample_store s;
    uint32_t lines[2][SAMPLE_PROMPTS], expected[SAMPLE_PROMPTS];
    (void)state;
    sample_store_open(&s, JOUST_ORDER_SHUFFLE);
    for (uint32_t i = 0; i < 2 * SAMPLE_PROMPTS; i++)
        lines[i / SAMPLE_PROMPTS][i % SAMPLE_PROMPTS] =
            line_at(&s, 1 + i / SAMPLE_PER_ROUND, i % SAMPLE_PER_ROUND);
    for (uint32_t pass = 0; pass < 2; pass++) {
        uint32_t seen = 0;
        joust_plan_order(&s.job, 0, pass, expected, SAMPLE_PROMPTS);
        assert_memory_equal(lines[pass], expected, sizeof expected);
        for (uint32_t i = 0; i < SAMPLE_PROMPTS; i++)
            seen |= 1u << lines[pass][i];
        assert_int_equal(seen, (1u << SAMPLE_PROMPTS) - 1);
    }
    assert_memory_not_equal(lines[0], lines[1], sizeof lines[0]);
    sample_store_close(&s);
}

/* Going back to an earlier pass, as a coordinator that was restarted does, gives the same prompts. */
static void order_of_asking_changes_nothing(void **state)
{
    sample_store s;
    uint32_t forward[5][SAMPLE_PER_ROUND];
    (void)state;
    sample_store_open(&s, JOUST_ORDER_SHUFFLE);
    for (uint32_t round = 1; round <= 5; round++) {
        for (uint32_t i = 0; i < SAMPLE_PER_ROUND; i++)
            forward[round - 1][i] = line_at(&s, round, i);
    }
    for (uint32_t round = 5; round >= 1; round--) {
        for (uint32_t i = SAMPLE_PER_ROUND; i-- > 0;)
            assert_int_equal(line_at(&s, round, i), forward[round - 1][i]);
    }
    sample_store_close(&s);
}

static void versions_of_a_model(void **state)
{
    joust_error err;
    sample_store s;
    joust_model_ref ref;
    (void)state;
    sample_store_open(&s, JOUST_ORDER_FILE);
    check_ok(joust_lease_model(&s.sources, 0, 0, &ref, &err));
    assert_string_equal(ref.lineage, "policy");
    assert_memory_equal(&ref.manifest, &s.job.models[0].content, sizeof ref.manifest);
    check_status(JOUST_NOT_FOUND, joust_lease_model(&s.sources, 0, 1, &ref, &err));
    joust_unit_result trained = sample_model(&s, 1);
    sample_put_result(&s, &trained);
    check_ok(joust_lease_model(&s.sources, 0, 1, &ref, &err));
    assert_int_equal(ref.version, 1);
    check_ok(joust_lease_model(&s.sources, 0, 0, &ref, &err));
    assert_int_equal(ref.version, 0);
    joust_unit_result_fini(&trained);
    sample_store_close(&s);
}

/* A lineage that is to be drawn has a folder and no weights until it is. */
static void a_model_to_be_drawn(void **state)
{
    joust_error err;
    sample_store s;
    joust_model_ref ref;
    static char name[] = "drawn", path[] = "/nowhere";
    joust_job_model drawn = {.name = name, .path = path, .init = true};
    (void)state;
    sample_store_open(&s, JOUST_ORDER_FILE);
    joust_job job = s.job;
    drawn.content = joust_digest_of("config", 6);
    job.models = &drawn;
    s.sources.job = &job;
    check_ok(joust_lease_model(&s.sources, 0, 0, &ref, &err));
    assert_string_equal(ref.lineage, "drawn");
    assert_memory_equal(&ref.manifest, &drawn.content, sizeof ref.manifest);
    assert_true(joust_digest_is_zero(&ref.weights));
    drawn.init = false;
    check_status(JOUST_NOT_FOUND, joust_lease_model(&s.sources, 0, 0, &ref, &err));
    sample_store_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(file_order_walks_on),
                                       cmocka_unit_test(whole_file_each_round),
                                       cmocka_unit_test(shuffle_is_a_permutation_a_pass),
                                       cmocka_unit_test(order_of_asking_changes_nothing),
                                       cmocka_unit_test(versions_of_a_model),
                                       cmocka_unit_test(a_model_to_be_drawn)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
