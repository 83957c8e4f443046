/* Validation of records, jobs, and manifests of real files. */
#include "check.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/codec.h"
#include "proto/manifest.h"

static void test_prompt(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_prompt p = {.text = (char[]){"2+2?"}, .weight = 1};
    p.digest = joust_prompt_digest(NULL, p.text, NULL);
    check_ok(joust_prompt_validate(&p, &err));
    p.weight = NAN;
    check_status(JOUST_NOT_FINITE, joust_prompt_validate(&p, &err));
    p.weight = -1;
    check_status(JOUST_INVALID, joust_prompt_validate(&p, &err));
    p.weight = 1;
    p.reference = (char[]){"4"};
    check_status(JOUST_INVALID, joust_prompt_validate(&p, &err));
    assert_non_null(strstr(err.text, "prompt.digest"));
    p.text = (char[]){"\xff"};
    check_status(JOUST_INVALID, joust_prompt_validate(&p, &err));
}

static joust_trajectory good_trajectory(uint32_t *tokens, float *logps)
{
    static char text[] = "x";
    joust_trajectory t = {.n_prompt_tokens = 2,
                          .n_tokens = 2,
                          .prompt_tokens = tokens,
                          .tokens = tokens,
                          .raw_logps = logps,
                          .logps = logps,
                          .sampling = {.temperature = 1, .top_p = 1},
                          .finish = JOUST_FINISH_STOP,
                          .text = text};
    strcpy(t.policy.lineage, "policy");
    return t;
}

static void test_trajectory(void **state)
{
    (void)state;
    joust_error err = {0};
    uint32_t tokens[2] = {1, 2};
    float logps[2] = {-1, -2};
    joust_trajectory t = good_trajectory(tokens, logps), bad = t;
    check_ok(joust_trajectory_validate(&t, &err));
    logps[1] = INFINITY;
    check_status(JOUST_NOT_FINITE, joust_trajectory_validate(&t, &err));
    assert_non_null(strstr(err.text, "raw_logps: not finite at token 1"));
    logps[1] = -1;
    bad.finish = (joust_finish)0;
    check_status(JOUST_INVALID, joust_trajectory_validate(&bad, &err));
    bad = t;
    bad.policy.lineage[0] = 0;
    check_status(JOUST_INVALID, joust_trajectory_validate(&bad, &err));
    bad = t;
    bad.n_tokens = 0;
    check_status(JOUST_INVALID, joust_trajectory_validate(&bad, &err));
    bad = t;
    bad.sampling.top_p = 2;
    check_status(JOUST_INVALID, joust_trajectory_validate(&bad, &err));
    assert_string_equal(joust_finish_name(JOUST_FINISH_LENGTH), "length");
    assert_string_equal(joust_finish_name((joust_finish)77), "unknown");
}

static void test_verdict_and_pair(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_verdict v = {.other = JOUST_NONE,
                       .outcome = JOUST_OUTCOME_OK,
                       .has_value = true,
                       .value = 1,
                       .judge = "self",
                       .kind = "yes-no",
                       .text = (char[]){""}};
    check_ok(joust_verdict_validate(&v, &err));
    v.outcome = JOUST_OUTCOME_UNPARSABLE; /* a failed verdict is never a number */
    check_status(JOUST_INVALID, joust_verdict_validate(&v, &err));
    v.outcome = (joust_outcome)10;
    check_status(JOUST_INVALID, joust_verdict_validate(&v, &err));
    v.outcome = JOUST_OUTCOME_OK;
    v.other = v.sample;
    check_status(JOUST_INVALID, joust_verdict_validate(&v, &err));
    assert_string_equal(joust_outcome_name(JOUST_OUTCOME_TIE), "tie");

    joust_pair p = {
        .chosen_reward = 2, .rejected_reward = 0.5, .margin = 1.5, .rule = "best-worst"};
    strcpy(p.policy.lineage, "policy");
    p.rejected.sample = 1;
    check_ok(joust_pair_validate(&p, &err));
    p.rejected.sample = 0;
    check_status(JOUST_INVALID, joust_pair_validate(&p, &err));
    p.rejected.sample = 1;
    p.margin = 1;
    check_status(JOUST_INVALID, joust_pair_validate(&p, &err));
    p.rejected_reward = 2;
    p.margin = 0;
    check_status(JOUST_INVALID, joust_pair_validate(&p, &err));
}

/* ------------------------------------------------------------------------------------------ job */

static joust_job good_job(void)
{
    joust_error err = {0};
    joust_job job;
    check_ok(joust_job_init(&job, &err));
    job.n_models = job.n_sets = job.n_judges = 1;
    job.models = joust_calloc(1, sizeof(*job.models));
    job.models[0] = (joust_job_model){.name = joust_strdup("policy"), .path = joust_strdup("m")};
    job.sets = joust_calloc(1, sizeof(*job.sets));
    job.sets[0] = (joust_job_set){
        .name = joust_strdup("prompts"), .path = joust_strdup("p"), .order = JOUST_ORDER_FILE};
    job.judges = joust_calloc(1, sizeof(*job.judges));
    job.judges[0] = (joust_job_judge){.name = joust_strdup("exact"),
                                      .kind = JOUST_JUDGE_RULE,
                                      .rule = JOUST_RULE_EXACT,
                                      .role = JOUST_ROLE_REWARD};
    job.has_prompts = job.has_train = true;
    return job;
}

static void require_bad(const joust_job *job, const char *key)
{
    joust_error err = {0};
    char found[128];
    check_status(JOUST_INVALID, joust_job_validate(job, found, &err));
    assert_string_equal(found, key);
}

static void test_job_validate(void **state)
{
    (void)state;
    joust_error err = {0};
    char key[128];
    joust_job job = good_job();
    check_ok(joust_job_validate(&job, key, &err));
    assert_string_equal(key, "");
    job.judges[0].kind = JOUST_JUDGE_YES_NO;
    require_bad(&job, "judges[0].model");
    job.judges[0].model = joust_strdup("nobody");
    require_bad(&job, "judges[0].model");
    joust_free(job.judges[0].model);
    job.judges[0].model = joust_strdup("policy");
    require_bad(&job, "judges[0].labels");
    job.judges[0].kind = JOUST_JUDGE_RULE;
    job.judges[0].role = JOUST_ROLE_EVALUATE;
    require_bad(&job, "judges");
    job.judges[0].role = JOUST_ROLE_REWARD;
    job.judges[0].rule = JOUST_RULE_REGEX;
    require_bad(&job, "judges[0].pattern");
    job.judges[0].rule = JOUST_RULE_EXACT;
    job.rollout.samples = 1;
    require_bad(&job, "rollout.samples");
    job.rollout.samples = 8;
    job.train.batch_size = 0;
    require_bad(&job, "train.batch_size");
    job.train.batch_size = 1;
    job.promote.on = true;
    require_bad(&job, "promote.prompts");
    job.promote.prompts = joust_strdup("prompts");
    require_bad(&job, "promote.judge");
    job.promote.judge = joust_strdup("exact");
    check_ok(joust_job_validate(&job, key, &err));
    /* a judge that compares has nothing to say about one answer alone */
    job.judges[0].kind = JOUST_JUDGE_COMPARE;
    job.judges[0].n_labels = 2;
    job.judges[0].template_text = joust_strdup("{first}{second}");
    require_bad(&job, "promote.judge");
    job.promote.on = false;
    check_ok(joust_job_validate(&job, key, &err));
    job.rollout.samples = 1;
    require_bad(&job, "rollout.samples");
    job.rollout.samples = 8;
    job.judges[0].kind = JOUST_JUDGE_RULE;
    job.stages = joust_calloc(1, sizeof(*job.stages));
    job.n_stages = 1;
    job.stages[0].kind = JOUST_DECLARED_PAIR;
    require_bad(&job, "stages[0]");
    joust_job_fini(&job);
    assert_null(job.name);
}

static void test_job_identity(void **state)
{
    (void)state;
    joust_error err = {0};
    joust_job job = good_job(), copy;
    joust_digest before, after;
    joust_buf bytes = {0};
    check_ok(joust_job_digest(&job, &before, &err));
    check_ok(joust_job_encode(&job, false, &bytes, &err));
    check_ok(joust_job_decode(bytes.data, bytes.n, &copy, &err));
    assert_string_equal(copy.name, "job");
    assert_string_equal(copy.models[0].path, "m");
    assert_int_equal(copy.cluster.grace_ms, 900000);
    assert_true(isinf(copy.pairs.min_chosen));
    /* what may change on resume */
    copy.name[0] = 'J';
    copy.rounds = 99;
    copy.models[0].path[0] = 'x';
    copy.sets[0].path[0] = 'y';
    copy.cluster.workers = 7;
    check_ok(joust_job_digest(&copy, &after, &err));
    assert_true(joust_digest_equal(&before, &after));
    /* what may not */
    copy.seed++;
    check_ok(joust_job_digest(&copy, &after, &err));
    assert_false(joust_digest_equal(&before, &after));
    assert_int_equal(joust_job_find_model(&job, "policy"), 0);
    assert_int_equal(joust_job_find_judge(&job, "nobody"), JOUST_NONE);
    assert_int_equal(joust_job_find_set(&job, NULL), JOUST_NONE);
    joust_buf_fini(&bytes);
    joust_job_fini(&job);
    joust_job_fini(&copy);
}

/* ------------------------------------------------------------------------------------ manifests */

static void write_file(const char *dir, const char *name, const void *data, size_t n)
{
    joust_error err = {0};
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    check_ok(joust_file_write(path, data, n, &err));
}

static bool not_hidden(void *arg, const char *name)
{
    (void)arg;
    return strcmp(name, "left-out") != 0;
}

static void test_manifest(void **state)
{
    (void)state;
    joust_error err = {0};
    char top[] = "/tmp/joust-manifest-XXXXXX", dir[64], part[128], copy[64];
    assert_non_null(mkdtemp(top));
    snprintf(dir, sizeof(dir), "%s/dir", top);
    snprintf(part, sizeof(part), "%s/part", top);
    snprintf(copy, sizeof(copy), "%s/copy", top);
    check_ok(joust_dir_make(dir, &err));
    check_ok(joust_dir_make(part, &err));
    size_t n = 2 * JOUST_CHUNK_BYTES + 17;
    uint8_t *big = joust_calloc(n, 1);
    for (size_t i = 0; i < n; i++)
        big[i] = (uint8_t)(i * 31 >> 7);
    write_file(dir, "weights", big, n);
    write_file(dir, "config", "{}", 2);
    write_file(dir, "empty", "", 0);
    write_file(dir, "exact", big, JOUST_CHUNK_BYTES);
    write_file(dir, "left-out", "x", 1);

    joust_manifest m, again;
    joust_digest a, b;
    joust_buf chunk = {0};
    check_ok(joust_manifest_of_dir(dir, not_hidden, NULL, &m, &err));
    check_ok(joust_manifest_validate(&m, &err));
    assert_int_equal(m.n_files, 4);
    assert_string_equal(m.files[0].name, "config");
    assert_int_equal(joust_manifest_bytes(&m), n + 2 + JOUST_CHUNK_BYTES);
    assert_int_equal(joust_manifest_chunks(&m), 3 + 1 + 0 + 1);
    joust_digest whole = joust_digest_of(big, n);
    assert_true(joust_digest_equal(&joust_manifest_find(&m, "weights")->digest, &whole));

    /* chunk by chunk, backwards, into another folder */
    for (uint32_t f = 0; f < m.n_files; f++) {
        for (uint32_t i = m.files[f].n_chunks; i-- > 0;) {
            check_ok(joust_manifest_read_chunk(dir, &m.files[f], i, &chunk, &err));
            check_ok(joust_manifest_write_chunk(part, &m.files[f], i, chunk.data, chunk.n, &err));
        }
    }
    chunk.data[0] ^= 1;
    check_status(JOUST_CORRUPT,
                 joust_manifest_write_chunk(part, &m.files[3], 0, chunk.data, chunk.n, &err));
    check_ok(joust_manifest_publish(part, &m, copy, &err));
    assert_false(joust_dir_exists(part));
    check_ok(joust_manifest_of_dir(copy, NULL, NULL, &again, &err));
    check_ok(joust_manifest_digest(&m, &a, &err));
    check_ok(joust_manifest_digest(&again, &b, &err));
    assert_true(joust_digest_equal(&a, &b));
    check_ok(joust_manifest_check_dir(copy, &m, &err));
    big[n - 1] ^= 1;
    write_file(copy, "weights", big, n);
    check_status(JOUST_CORRUPT, joust_manifest_check_dir(copy, &m, &err));
    assert_non_null(strstr(err.text, "weights: chunk 2"));
    write_file(copy, "weights", big, n - 1);
    check_status(JOUST_CORRUPT, joust_manifest_check_dir(copy, &m, &err));
    check_status(JOUST_CORRUPT, joust_manifest_publish(copy, &m, part, &err));
    joust_manifest_fini(&again);

    m.files[1].name[0] = '.';
    check_status(JOUST_INVALID, joust_manifest_validate(&m, &err));
    strcpy(m.files[1].name, "a/b");
    check_status(JOUST_INVALID, joust_manifest_validate(&m, &err));
    strcpy(m.files[1].name, "aa"); /* after "config" */
    check_status(JOUST_INVALID, joust_manifest_validate(&m, &err));
    joust_manifest_fini(&m);
    check_status(JOUST_NOT_FOUND, joust_manifest_of_dir(part, NULL, NULL, &m, &err));

    snprintf(part, sizeof(part), "%s/config", dir);
    check_ok(joust_manifest_of_file(part, &m, &err));
    assert_string_equal(m.files[0].name, "config");
    joust_manifest_fini(&m);
    check_status(JOUST_INVALID, joust_manifest_of_file(dir, &m, &err));
    joust_buf_fini(&chunk);
    joust_free(big);
    check_ok(joust_dir_remove(top, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_prompt),           cmocka_unit_test(test_trajectory),
        cmocka_unit_test(test_verdict_and_pair), cmocka_unit_test(test_job_validate),
        cmocka_unit_test(test_job_identity),     cmocka_unit_test(test_manifest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
