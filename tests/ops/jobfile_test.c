/* The job file: every kind of problem with its exact line, overrides, stages, paths, defaults. Models and training:
 * jobfile_models_test.c. */
#include "ops/jobfile_fixture.h"

#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "ops/job_keys.h"
#include "proto/base/file.h"
#include "proto/plan.h"

static void the_reference_job_is_read_whole(void **state)
{
    (void)state;
    joust_jobfile file;
    assert_int_equal(parse(JOB, NULL, "", &file), JOUST_OK);
    const joust_job *job = &file.job;
    assert_string_equal(job->name, "self-rewarding");
    assert_int_equal(job->seed, 7);
    assert_int_equal(job->rounds, 4);
    assert_int_equal(job->n_models, 1);
    assert_string_equal(job->models[0].name, "policy");
    assert_string_equal(job->models[0].path, "base");
    assert_false(job->models[0].init);
    assert_int_equal(job->n_sets, 3);
    assert_string_equal(job->sets[0].name, "prompts");
    assert_int_equal(job->sets[0].per_round, 500);
    assert_int_equal(job->sets[0].order, JOUST_ORDER_SHUFFLE);
    assert_string_equal(job->sets[1].path, "validation.jsonl");
    assert_string_equal(job->promote.prompts, job->sets[1].name);
    assert_string_equal(job->evaluate.prompts, job->sets[2].name);
    assert_true(job->promote.on && job->promote.gate && job->evaluate.on);
    assert_true(job->evaluate.against_base && !job->evaluate.against_previous);
    assert_int_equal(job->evaluate.sampling.max_tokens, 26); /* as in rollout */
    assert_true(job->rollout.sampling.temperature == 0.8f);
    assert_int_equal(job->n_judges, 2);
    assert_int_equal(job->judges[0].kind, JOUST_JUDGE_YES_NO);
    assert_int_equal(job->judges[0].role, JOUST_ROLE_REWARD);
    assert_int_equal(job->judges[0].n_labels, 2);
    assert_string_equal(job->judges[0].labels[1], "no");
    assert_string_equal(job->judges[0].template_text,
                        "{prompt_tokens}{response_tokens}<eos><judge>");
    assert_int_equal(job->judges[1].rule, JOUST_RULE_STEPS_AND_NUMBER);
    assert_int_equal(job->judges[1].role, JOUST_ROLE_EVALUATE);
    assert_true(job->pairs.min_chosen == 1.5 && job->pairs.max_rejected == 0);
    assert_true(job->has_train && job->train.learning_rate == 1e-4);
    assert_string_equal(job->train.model, "policy");
    joust_jobfile_fini(&file);
}

static void a_wrong_key_names_the_nearest(void **state)
{
    (void)state;
    refused_line(12, "train: {loss: dpo, sft_wieght: 2.0}",
                 "j.yaml:12:20: train.sft_wieght: unknown key; did you mean 'sft_weight'?\n");
    refused_line(2, "sed: 7", "j.yaml:2:1: sed: unknown key; did you mean 'seed'?\n");
    refused_line(2, "learning_rate: 1",
                 "j.yaml:2:1: learning_rate: unknown key here; did you mean "
                 "'train.learning_rate'?\n");
    refused_line(12, "train: {xyzzyxyzzy: 1, loss: dpo}",
                 "j.yaml:12:9: train.xyzzyxyzzy: unknown key; known here: loss, model, data, "
                 "data_order, beta, forced_tokens, sft_weight, learning_rate, "
                 "min_learning_rate_ratio, schedule, "
                 "warmup_steps, batch_size, max_steps, save_every, reference, reference_model, "
                 "unpaired, threshold, adam_beta1, "
                 "adam_beta2, adam_eps, weight_decay, clip, label_smoothing, gamma, ld_alpha, "
                 "desirable_weight, undesirable_weight, discopop_tau, reward_scale, "
                 "reference_sync_steps, reference_mixup, gradient_checkpointing, command, nodes, "
                 "gpus, deadline_ms, lora, epsilon, epsilon_high, max_ratio, kl_weight, kl, "
                 "entropy_weight, dynamic_sampling, importance_cap, critic, mix\n");
    refused_line(9, "  - {name: self, kind: yes-no, modle: policy}",
                 "j.yaml:9:32: judges[0].modle: unknown key; did you mean 'model'?\n");
}

#define LOSSES                                                                                     \
    "dpo, sft, hinge, ipo, robust, exo_pair, nca_pair, bco_pair, sppo_hard, apo_zero, apo_down, "  \
    "discopop, sigmoid_norm, simpo, orpo, kto, dno, rebel, sppo_soft, reinforce, rloo, grpo, "     \
    "dr_grpo, dapo, gspo, cispo, ppo, rwr, bradley_terry, bradley_terry_margin, margin"

static void a_wrong_type_says_what_was_expected(void **state)
{
    (void)state;
    refused_line(3, "rounds: four",
                 "j.yaml:3:9: rounds: expected a whole number from 1 to 1000000; found four\n");
    refused_line(3, "rounds: \"4\"",
                 "j.yaml:3:9: rounds: expected a whole number from 1 to 1000000; found the text "
                 "\"4\"; quotes make text: leave them out\n");
    refused_line(3, "rounds: 4.0",
                 "j.yaml:3:9: rounds: expected a whole number from 1 to 1000000; found 4.0\n");
    refused_line(3, "rounds:",
                 "j.yaml:3:8: rounds: expected a whole number from 1 to 1000000; found nothing\n");
    refused_line(3, "rounds: [4]",
                 "j.yaml:3:9: rounds: expected a whole number from 1 to 1000000; found a list\n");
    refused_line(1, "name: 12",
                 "j.yaml:1:7: name: expected text; found 12; quote it to make it "
                 "text\n");
    refused_line(12, "train: {loss: [dpo]}",
                 "j.yaml:12:15: train.loss: expected one of " LOSSES "; found a list\n");
    refused_line(12, "train: 5",
                 "j.yaml:12:8: train: expected a mapping of keys; found a whole "
                 "number\n");
    refused_line(9, "  - self", "j.yaml:9:5: judges[0]: expected a mapping of keys; found text\n");
    refused_line(14, "evaluate: {prompts: t.jsonl, judge: exact, against: base}",
                 "j.yaml:14:53: evaluate.against: expected a list of base, previous; found base\n");
    refused_line(9, "  - {name: self, kind: yes-no, model: policy, both_orders: yes}",
                 "j.yaml:9:60: judges[0].both_orders: expected true or false; found yes\n");
    refused_line(9, "  - {name: self, kind: yes-no, model: policy, labels: [1, no]}",
                 "j.yaml:9:56: judges[0].labels[0]: expected text; found 1; quote it to make it "
                 "text\n");
}

static void a_wrong_range_or_choice_says_what_was_expected(void **state)
{
    (void)state;
    refused_line(12, "train: {beta: 0}",
                 "j.yaml:12:15: train.beta: expected a number above 0, at most 1000; found 0\n");
    refused_line(12, "train: {beta: .nan}",
                 "j.yaml:12:15: train.beta: expected a number above 0, at most 1000; found .nan\n");
    refused_line(2, "seed: -1", "j.yaml:2:7: seed: expected a whole number, 0 or more; found -1\n");
    refused_line(2, "seed: 18446744073709551616",
                 "j.yaml:2:7: seed: expected a whole number, 0 or more; found "
                 "18446744073709551616\n");
    refused_line(12, "train: {loss: dop}",
                 "j.yaml:12:15: train.loss: expected one of " LOSSES "; found dop; did you mean "
                 "'dpo'?\n");
    refused_line(11, "pairs: {min_margin: -.inf}",
                 "j.yaml:11:21: pairs.min_margin: expected a number of at least 0; found -.inf\n");
    refused_line(1, "name: ../x",
                 "j.yaml:1:7: name: expected 1 to 127 letters, digits, '_', '-' or "
                 "'.', not starting with '.'; found \"../x\"\n");
}

static void a_problem_is_one_line_whatever_the_file_says(void **state)
{
    (void)state;
    refused_line(
        3, "rounds: \"a\\nb\\tc\"",
        "j.yaml:3:9: rounds: expected a whole number from 1 to 1000000; found the text \"a b "
        "c\"; quotes make text: leave them out\n");
}

static void what_is_missing_is_told(void **state)
{
    (void)state;
    refused_line(10, "  - {kind: rule, rule: exact}",
                 "j.yaml:10:5: judges[1].name: missing (how other keys and the tables call it)\n");
    refused_line(1, "",
                 "j.yaml:2:1: name: missing (of the job; its store is store/NAME unless "
                 "--store says otherwise)\n");
    joust_jobfile file;
    assert_int_equal(parse("", NULL,
                           "j.yaml:1:1: expected a mapping of keys (name: ..., models: ...); found "
                           "nothing\n",
                           &file),
                     JOUST_INVALID);
    assert_int_equal(parse("- a\n", NULL,
                           "j.yaml:1:1: expected a mapping of keys (name: ..., models: ...); found "
                           "a list\n",
                           &file),
                     JOUST_INVALID);
}

static void what_no_single_key_shows_is_told_at_its_key(void **state)
{
    (void)state;
    refused_line(9, "  - {name: self, kind: yes-no, model: polcy}",
                 "j.yaml:9:39: judges[0].model: 'polcy' isn't one of models: policy; did you mean "
                 "'policy'?\n");
    refused_line(9, "  - {name: self, kind: yes-no, model: elsewhere}",
                 "j.yaml:9:39: judges[0].model: 'elsewhere' isn't one of models: policy\n");
    refused_line(
        13, "promote: {prompts: v.jsonl, judge: exat}",
        "j.yaml:13:36: promote.judge: 'exat' isn't one of judges: self, exact; did you mean "
        "'exact'?\n");
    refused_line(10, "  - {name: exact, kind: rule, role: evaluate}",
                 "j.yaml:10:5: judges[1].rule: missing: final-number, steps-and-number, exact or "
                 "regex\n");
}

static void all_problems_are_reported_in_the_files_order(void **state)
{
    (void)state;
    joust_jobfile file;
    assert_int_equal(
        parse("name: x\n"
              "rounds: 0\n"
              "train: {beta: x}\n"
              "models: {p: {pth: a}}\n"
              "name: y\n",
              NULL,
              "j.yaml:2:9: rounds: expected a whole number from 1 to 1000000; found "
              "0\n"
              "j.yaml:3:15: train.beta: expected a number above 0, at most 1000; found "
              "x\n"
              "j.yaml:4:13: models.p.path: missing (folder with config.json, "
              "model.safetensors and tokenizer.json, or a hub id in the local cache: "
              "Qwen/Qwen2.5-0.5B)\n"
              "j.yaml:4:14: models.p.pth: unknown key; did you mean 'path'?\n"
              "j.yaml:5:1: name: given twice; first in line 1\n",
              &file),
        JOUST_INVALID);
}

static void more_problems_than_are_kept_are_counted(void **state)
{
    (void)state;
    joust_buf text = {0};
    joust_buf_text(&text, "name: x\nmodels: {p: {path: a}}\n");
    for (int i = 0; i < 150; i++)
        joust_buf_format(&text, "unknown_%d: 1\n", i);
    joust_problems problems = {0};
    joust_jobfile file;
    joust_error err;
    assert_int_equal(
        joust_jobfile_parse(text.data, text.n, "j.yaml", NULL, NULL, &file, &problems, &err),
        JOUST_INVALID);
    assert_string_equal(err.text, "j.yaml: 150 problems");
    joust_buf lines = {0};
    joust_problems_print(&problems, &lines);
    assert_non_null(strstr((const char *)lines.data, "\nj.yaml: 50 more\n"));
    joust_buf_fini(&lines);
    joust_buf_fini(&text);
    joust_problems_fini(&problems);
}

static void overrides_reach_every_key(void **state)
{
    (void)state;
    joust_jobfile file;
    assert_int_equal(parse(JOB,
                           SETS("rounds=2", "train.beta=0.5", "judges.self.model=other",
                                "judges[1].rule=exact", "models.other={path: x, init: 3}",
                                "cluster.workers=3", "evaluate.against=[base, previous]"),
                           "", &file),
                     JOUST_OK);
    assert_int_equal(file.job.rounds, 2);
    assert_true(file.job.train.beta == 0.5);
    assert_string_equal(file.job.judges[0].model, "other");
    assert_int_equal(file.job.judges[1].rule, JOUST_RULE_EXACT);
    assert_int_equal(file.job.n_models, 2);
    assert_true(file.job.models[1].init && file.job.models[1].init_seed == 3);
    assert_int_equal(file.job.cluster.workers, 3);
    assert_true(file.job.evaluate.against_previous);
    joust_jobfile_fini(&file);
    /* The canonical key is overridden by an alias, and the other way round. */
    assert_int_equal(parse(JOB, SETS("num_generations=5"),
                           "--set num_generations: warning: num_generations is rollout.samples "
                           "here\n",
                           &file),
                     JOUST_OK);
    assert_int_equal(file.job.rollout.samples, 5);
    joust_jobfile_fini(&file);
    char *text = with_line(7, "num_generations: 6");
    assert_int_equal(parse(text, SETS("rollout.samples=5"),
                           "j.yaml:7:1: warning: num_generations is rollout.samples here\n", &file),
                     JOUST_OK);
    assert_int_equal(file.job.rollout.samples, 5);
    joust_jobfile_fini(&file);
    joust_free(text);
}

static void overrides_go_through_the_same_checks(void **state)
{
    (void)state;
    joust_jobfile file;
    assert_int_equal(
        parse(JOB,
              SETS("rounds=-3", "rouds=2", "train.beta=", "judges.nobody.model=x", "judges[7]=x",
                   "seed.x=1", "nonsense", "a..b=1", "train={beta: [}", "name=\"a b\""),
              "--set rounds: expected a whole number from 1 to 1000000; found -3\n"
              "--set rouds: unknown key; did you mean 'rounds'?\n"
              "--set train.beta: expected a value after '='\n"
              "--set judges.nobody.model: no element 'nobody' in this list of 2\n"
              "--set judges[7]: no element '7' in this list of 2\n"
              "--set seed.x: nothing can be below a single value ('x')\n"
              "--set nonsense: expected key=value, as in train.beta=0.2\n"
              "--set a..b: expected key=value, as in train.beta=0.2\n"
              "--set train: not YAML: did not find expected node content while parsing a flow "
              "node\n"
              "--set name: expected 1 to 127 letters, digits, '_', '-' or '.', not starting with "
              "'.'; found \"a b\"\n",
              &file),
        JOUST_INVALID);
}

static void stages_may_have_settings_of_their_own(void **state)
{
    (void)state;
    static const char text[] = "name: base\n"
                               "models: {policy: {path: m, init: 1}}\n"
                               "train: {loss: sft, data: a.jsonl, batch_size: 32}\n"
                               "stages:\n"
                               "  - train\n"
                               "  - {train: {data: b.jsonl, max_steps: 7}}\n";
    joust_jobfile file;
    assert_int_equal(parse(text, NULL, "", &file), JOUST_OK);
    assert_int_equal(file.job.n_stages, 2);
    assert_false(file.job.stages[0].has_train);
    const joust_job_train *own = &file.job.stages[1].train;
    assert_true(file.job.stages[1].has_train);
    assert_string_equal(own->data, "b.jsonl");
    assert_int_equal(own->max_steps, 7);
    assert_int_equal(own->batch_size, 32); /* of train: */
    assert_string_equal(own->model, "policy");
    assert_string_equal(file.job.train.data, "a.jsonl");
    joust_jobfile_fini(&file);
    static const char wrong[] = "name: base\n"
                                "models: {policy: {path: m}}\n"
                                "stages: [judg, {judge: {}}, {train: {bta: 1}}, 3]\n";
    assert_int_equal(
        parse(wrong, NULL,
              "j.yaml:3:10: stages[0]: expected a stage (generate, judge, pair, train, "
              "evaluate, promote, or {train: {...}}); found judg; did you mean judge\n"
              "j.yaml:3:17: stages[1]: only train has settings of its own; write judge "
              "alone\n"
              "j.yaml:3:38: stages[2].train.bta: unknown key; did you mean 'beta'?\n"
              "j.yaml:3:48: stages[3]: expected a stage (generate, judge, pair, train, "
              "evaluate, promote, or {train: {...}}); found 3\n",
              &file),
        JOUST_INVALID);
}

/* ---- files ---- */

static void paths_are_relative_to_the_job_file_and_must_exist(void **state)
{
    (void)state;
    char folder[] = "/tmp/joust-jobfile-XXXXXX";
    assert_non_null(mkdtemp(folder));
    joust_error err;
    char *path = joust_path_join(folder, "j.yaml");
    char *model = joust_path_join(folder, "m");
    static const char text[] = "name: x\nmodels: {p: {path: m}}\nprompts: {file: none.jsonl}\n";
    assert_int_equal(joust_dir_make(model, &err), JOUST_OK);
    assert_int_equal(joust_file_write(path, text, sizeof(text) - 1, &err), JOUST_OK);
    joust_problems problems = {0};
    joust_jobfile file;
    assert_int_equal(joust_jobfile_read(path, NULL, &file, &problems, &err), JOUST_INVALID);
    joust_buf lines = {0}, expected = {0};
    joust_problems_print(&problems, &lines);
    joust_buf_format(&expected,
                     "%s:3:17: prompts.file: no file %s/none.jsonl (paths are relative to the job "
                     "file)\n",
                     path, folder);
    assert_string_equal((const char *)lines.data, (const char *)expected.data);
    joust_problems_fini(&problems);
    joust_buf_fini(&lines);
    joust_buf_fini(&expected);

    joust_text_list sets = list_of(SETS("prompts.file=j.yaml"));
    problems = (joust_problems){0};
    assert_int_equal(joust_jobfile_read(path, &sets, &file, &problems, &err), JOUST_OK);
    assert_string_equal(file.job.models[0].path, model);
    assert_string_equal(file.job.sets[0].path, path);
    joust_problems_fini(&problems);
    joust_jobfile_fini(&file);

    problems = (joust_problems){0};
    assert_int_equal(joust_jobfile_read("/nonexistent/j.yaml", NULL, &file, &problems, &err),
                     JOUST_NOT_FOUND);
    joust_problems_fini(&problems);
    assert_int_equal(joust_dir_remove(folder, &err), JOUST_OK);
    joust_free(path);
    joust_free(model);
}

static void the_committed_schema_is_current(void **state)
{
    (void)state;
    joust_buf schema = {0}, committed = {0};
    joust_error err;
    assert_int_equal(joust_job_schema_print(&schema, &err), JOUST_OK);
    assert_int_equal(
        joust_file_read(JOUST_SOURCE_DIR "/ops/job.schema.json", 1u << 20, &committed, &err),
        JOUST_OK);
    /* `joust validate --schema > ops/job.schema.json` after a change of the table */
    assert_string_equal((const char *)schema.data, (const char *)committed.data);
    joust_buf_fini(&schema);
    joust_buf_fini(&committed);
}

static void running_out_of_memory_leaves_nothing(void **state)
{
    (void)state;
    char *text = with_line(7, "num_generations: 6\nstages: [generate, judge, pair, {train: {}}]");
    joust_text_list sets = list_of(SETS("judges.self.labels=[yes, no]", "train.beta=1"));
    int64_t live = joust_alloc_live();
    for (int64_t n = 1;; n++) {
        joust_problems problems = {0};
        joust_jobfile file;
        joust_error err;
        joust_alloc_fail_at(n);
        joust_status st =
            joust_jobfile_parse(text, strlen(text), "j.yaml", NULL, &sets, &file, &problems, &err);
        joust_alloc_fail_at(0);
        bool complete = st == JOUST_OK && problems.items[0].text;
        joust_problems_fini(&problems);
        if (st == JOUST_OK)
            joust_jobfile_fini(&file);
        assert_int_equal(joust_alloc_live(), live);
        if (complete)
            break;
        assert_true(st == JOUST_OK || st == JOUST_NOMEM || st == JOUST_INVALID);
        assert_true(n < 2000);
    }
    joust_free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference_job_is_read_whole),
        cmocka_unit_test(a_wrong_key_names_the_nearest),
        cmocka_unit_test(a_wrong_type_says_what_was_expected),
        cmocka_unit_test(a_wrong_range_or_choice_says_what_was_expected),
        cmocka_unit_test(a_problem_is_one_line_whatever_the_file_says),
        cmocka_unit_test(what_is_missing_is_told),
        cmocka_unit_test(what_no_single_key_shows_is_told_at_its_key),
        cmocka_unit_test(all_problems_are_reported_in_the_files_order),
        cmocka_unit_test(more_problems_than_are_kept_are_counted),
        cmocka_unit_test(overrides_reach_every_key),
        cmocka_unit_test(overrides_go_through_the_same_checks),
        cmocka_unit_test(stages_may_have_settings_of_their_own),
        cmocka_unit_test(paths_are_relative_to_the_job_file_and_must_exist),
        cmocka_unit_test(the_committed_schema_is_current),
        cmocka_unit_test(running_out_of_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
