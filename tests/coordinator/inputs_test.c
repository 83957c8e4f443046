/* What a job reads from outside: digested without a byte written, then taken in once. */
#include "check.h"

#include <stdio.h>
#include <string.h>

#include "coordinator/inputs.h"
#include "coordinator/sample_store.h"
#include "coordinator/scratch.h"
#include "proto/manifest.h"
#include "storage/tables.h"

static joust_status digest(sample_store *s, joust_error *err)
{
    return joust_inputs_digest(&s->job, s->n_prompts, err);
}

static void rewrite(const char *dir, const char *name, const char *words)
{
    joust_free(scratch_write(dir, name, words, strlen(words)));
}

static void check_says(const joust_error *err, const char *part)
{
    if (!strstr(err->text, part))
        fail_msg("says '%s', not '%s'", err->text, part);
}

/* Training data of its own beside the prompts. */
static void add_data(sample_store *s)
{
    s->job.train.data = scratch_write(s->dir, "rows.jsonl", "{\"text\": \"a\"}\n", 14);
}

static void digests_follow_the_bytes(void **state)
{
    joust_error err;
    sample_store s;
    joust_digest model, set, data;
    (void)state;
    sample_store_prepare(&s, JOUST_ORDER_FILE);
    add_data(&s);
    check_ok(digest(&s, &err));
    model = s.job.models[0].content;
    set = s.job.sets[0].content;
    data = s.job.train.data_content;
    assert_false(joust_digest_is_zero(&model));
    assert_false(joust_digest_is_zero(&data));
    assert_int_equal(s.n_prompts[0], SAMPLE_PROMPTS);
    assert_int_equal(s.n_prompts[1], 2);
    rewrite(s.job.models[0].path, "README.md", "beside the model");
    rewrite(s.job.models[0].path, "weights.bin", "no file of it either");
    check_ok(digest(&s, &err));
    assert_memory_equal(&model, &s.job.models[0].content, sizeof model);
    rewrite(s.job.models[0].path, "model.safetensors", "other weights");
    rewrite(s.dir, "prompts.jsonl", "{\"prompt\": \"another\"}\n");
    rewrite(s.dir, "rows.jsonl", "{\"text\": \"b\"}\n");
    check_ok(digest(&s, &err));
    assert_memory_not_equal(&model, &s.job.models[0].content, sizeof model);
    assert_memory_not_equal(&set, &s.job.sets[0].content, sizeof set);
    assert_memory_not_equal(&data, &s.job.train.data_content, sizeof data);
    assert_int_equal(s.n_prompts[0], 1);
    char *store = joust_path_join(s.dir, "store");
    assert_false(joust_dir_exists(store)); /* nothing was written */
    joust_free(store);
    sample_store_close(&s);
}

/* A model that is yet to be drawn is its configuration; weights that lie there are not its own. */
static void init_needs_no_weights(void **state)
{
    joust_error err;
    sample_store s;
    (void)state;
    sample_store_prepare(&s, JOUST_ORDER_FILE);
    s.job.models[0].init = true;
    check_ok(digest(&s, &err));
    joust_digest with = s.job.models[0].content;
    char *weights = joust_path_join(s.job.models[0].path, "model.safetensors");
    assert_int_equal(remove(weights), 0);
    check_ok(digest(&s, &err));
    assert_memory_equal(&with, &s.job.models[0].content, sizeof with);
    s.job.models[0].init = false;
    check_status(JOUST_NOT_FOUND, digest(&s, &err));
    check_says(&err, "models.policy");
    check_says(&err, "no model.safetensors in it (to draw new weights, say init: SEED)");
    joust_free(weights);
    sample_store_close(&s);
}

/* Without dir/name the digest fails, and says both. */
static void without(sample_store *s, const char *dir, const char *name, const char *first,
                    const char *second)
{
    joust_error err = {0};
    char *path = joust_path_join(dir, name);
    assert_int_equal(remove(path), 0);
    check_status(JOUST_NOT_FOUND, digest(s, &err));
    check_says(&err, first);
    check_says(&err, second);
    joust_free(path);
}

static void what_is_missing_is_named(void **state)
{
    sample_store s;
    (void)state;
    sample_store_prepare(&s, JOUST_ORDER_FILE);
    add_data(&s);
    without(&s, s.dir, "rows.jsonl", "train.data", "rows.jsonl");
    without(&s, s.dir, "test.jsonl", "test.jsonl", "can't open");
    without(&s, s.job.models[0].path, "config.json", "models.policy", "no config.json in it");
    sample_store_close(&s);
}

static void a_bad_line_is_named(void **state)
{
    joust_error err;
    sample_store s;
    (void)state;
    sample_store_prepare(&s, JOUST_ORDER_FILE);
    rewrite(s.dir, "test.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": 1}\n");
    check_status(JOUST_INVALID, digest(&s, &err));
    check_says(&err, "test.jsonl:2: key 'prompt'");
    sample_store_close(&s);
}

static void what_is_imported_is_there(void **state)
{
    joust_error err;
    sample_store s;
    joust_prompt prompt;
    joust_manifest manifest;
    uint64_t n;
    (void)state;
    sample_store_open(&s, JOUST_ORDER_FILE);
    for (uint32_t set = 0; set < 2; set++) {
        check_ok(joust_store_count_prompts(s.store, set, &n, &err));
        assert_int_equal(n, s.n_prompts[set]);
    }
    check_ok(joust_store_get_prompt(s.store, 0, 5, &prompt, &err));
    assert_string_equal(prompt.text, "prompts.jsonl 5?");
    assert_string_equal(prompt.reference, "5");
    joust_prompt_fini(&prompt);
    check_ok(joust_blobs_verify(s.blobs, &s.job.models[0].content, &err));
    check_ok(joust_blobs_get_manifest(s.blobs, &s.job.models[0].content, &manifest, &err));
    joust_digest weights = joust_manifest_weights(&manifest);
    assert_memory_equal(&weights, &s.policy.weights, sizeof weights);
    assert_false(joust_digest_is_zero(&weights));
    joust_manifest_fini(&manifest);
    sample_store_close(&s);
}

/* Of the weights alone: neither the tokenizer nor the order in which files are listed is in it. */
static void weights_have_a_digest_of_their_own(void **state)
{
    joust_digest a = joust_digest_of("a", 1), b = joust_digest_of("b", 1);
    joust_manifest_file one[] = {{.name = "config.json", .digest = a},
                                 {.name = "model.safetensors", .digest = b}};
    joust_manifest_file other[] = {{.name = "config.json", .digest = b},
                                   {.name = "model.safetensors", .digest = b}};
    joust_manifest_file renamed[] = {{.name = "weights.safetensors", .digest = b}};
    joust_digest first = joust_manifest_weights(&(joust_manifest){.n_files = 2, .files = one});
    joust_digest second = joust_manifest_weights(&(joust_manifest){.n_files = 2, .files = other});
    joust_digest third = joust_manifest_weights(&(joust_manifest){.n_files = 1, .files = renamed});
    joust_digest none = joust_manifest_weights(&(joust_manifest){.n_files = 1, .files = one});
    (void)state;
    assert_memory_equal(&first, &second, sizeof first);
    assert_memory_not_equal(&first, &third, sizeof first);
    assert_true(joust_digest_is_zero(&none));
}

/* The second import writes nothing: it works after the source files are gone but for the model's. */
static void importing_twice_is_one_import(void **state)
{
    joust_error err;
    sample_store s;
    uint64_t n;
    (void)state;
    sample_store_open(&s, JOUST_ORDER_FILE);
    assert_int_equal(remove(s.job.sets[0].path), 0);
    assert_int_equal(remove(s.job.sets[1].path), 0);
    check_ok(joust_inputs_import(&s.job, s.n_prompts, s.store, s.blobs, s.epoch, &err));
    check_ok(joust_store_count_prompts(s.store, 0, &n, &err));
    assert_int_equal(n, SAMPLE_PROMPTS);
    sample_store_close(&s);
}

/* Between the digest and the import. */
static void a_changed_file_is_refused(void **state)
{
    joust_error err;
    sample_store s;
    joust_store *store;
    joust_blobs *blobs;
    uint64_t epoch;
    (void)state;
    sample_store_prepare(&s, JOUST_ORDER_FILE);
    check_ok(digest(&s, &err));
    char *dir = joust_path_join(s.dir, "store");
    check_ok(joust_store_open(dir, &s.job, &store, &err));
    check_ok(joust_blobs_open(dir, true, &blobs, &err));
    check_ok(joust_store_begin_epoch(store, &epoch, &err));
    rewrite(s.dir, "prompts.jsonl", "{\"prompt\": \"another\"}\n");
    check_status(JOUST_CONFLICT,
                 joust_inputs_import(&s.job, s.n_prompts, store, blobs, epoch, &err));
    check_says(&err, "prompts.jsonl: changed while the job was starting");
    joust_blobs_close(&blobs);
    joust_store_close(&store);
    joust_free(dir);
    sample_store_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(digests_follow_the_bytes),
                                       cmocka_unit_test(init_needs_no_weights),
                                       cmocka_unit_test(what_is_missing_is_named),
                                       cmocka_unit_test(a_bad_line_is_named),
                                       cmocka_unit_test(what_is_imported_is_there),
                                       cmocka_unit_test(weights_have_a_digest_of_their_own),
                                       cmocka_unit_test(importing_twice_is_one_import),
                                       cmocka_unit_test(a_changed_file_is_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
