/* The job file: every kind of problem with its exact line, aliases, overrides, defaults. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ops/job_keys.h"
#include "ops/jobfile.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/plan.h"

/* The job of the reference: what every test below changes a little. */
static const char JOB[] = "name: self-rewarding\n"
                          "seed: 7\n"
                          "rounds: 4\n"
                          "models:\n"
                          "  policy: {path: base}\n"
                          "prompts:  {file: problems.jsonl, per_round: 500, order: shuffle}\n"
                          "rollout:  {samples: 8, temperature: 0.8, top_p: 1.0, max_tokens: 26}\n"
                          "judges:\n"
                          "  - {name: self, kind: yes-no, model: policy}\n"
                          "  - {name: exact, kind: rule, rule: steps-and-number, role: evaluate}\n"
                          "pairs:    {build: best-worst, min_chosen: 1.5, max_rejected: 0.0}\n"
                          "train:    {loss: dpo, beta: 0.1, learning_rate: 1e-4}\n"
                          "promote:  {prompts: validation.jsonl, judge: exact}\n"
                          "evaluate: {prompts: test.jsonl, judge: exact, against: [base]}\n";

static joust_text_list list_of(const char *const *sets)
{
    joust_text_list list = {0};
    for (; sets && sets[list.n]; list.n++)
        list.items[list.n] = sets[list.n];
    return list;
}

/* Parses text; the lines that are printed must be exactly `expected` ("" for none). */
static joust_status parse(const char *text, const char *const *sets, const char *expected,
                          joust_jobfile *ret)
{
    joust_problems problems = {0};
    joust_text_list list = list_of(sets);
    joust_error err;
    joust_status st =
        joust_jobfile_parse(text, strlen(text), "j.yaml", NULL, &list, ret, &problems, &err);
    joust_buf lines = {0};
    joust_buf_text(&lines, "");
    joust_problems_print(&problems, &lines);
    assert_string_equal(lines.n ? (const char *)lines.data : "", expected);
    assert_int_equal(st, problems.n_errors ? JOUST_INVALID : JOUST_OK);
    joust_buf_fini(&lines);
    joust_problems_fini(&problems);
    return st;
}

/* JOB with its line `number` (from 1) replaced; the caller frees. */
static char *with_line(uint32_t number, const char *line)
{
    joust_buf text = {0};
    uint32_t n = 1;
    for (const char *s = JOB; *s; n++) {
        size_t length = strcspn(s, "\n") + 1;
        if (n == number)
            joust_buf_format(&text, "%s\n", line);
        else
            joust_buf_add(&text, s, length);
        s += length;
    }
    return joust_buf_take_text(&text);
}

static void refused_line(uint32_t number, const char *line, const char *expected)
{
    joust_jobfile jobfile;
    char *text = with_line(number, line);
    assert_int_equal(parse(text, NULL, expected, &jobfile), JOUST_INVALID);
    joust_free(text);
}

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

static void names_of_the_ecosystem_are_accepted_and_reported(void **state)
{
    (void)state;
    joust_jobfile file;
    char *text = with_line(7, "num_generations: 6\nmax_prompt_length: 5\n"
                              "rollout: {max_completion_length: 9}");
    char *both = joust_malloc(strlen(text) + 64);
    strcpy(both, text);
    assert_int_equal(
        parse(both, NULL,
              "j.yaml:7:1: warning: num_generations is rollout.samples here\n"
              "j.yaml:8:1: warning: max_prompt_length is rollout.max_prompt_tokens here\n"
              "j.yaml:9:11: warning: max_completion_length is rollout.max_tokens here\n",
              &file),
        JOUST_OK);
    assert_int_equal(file.job.rollout.samples, 6);
    assert_int_equal(file.job.rollout.sampling.max_tokens, 9);
    joust_jobfile_fini(&file);
    joust_free(both);
    joust_free(text);
    text = with_line(12, "train: {loss_type: sigmoid, lr_scheduler_type: cosine}");
    assert_int_equal(parse(text, NULL,
                           "j.yaml:12:9: warning: loss_type is train.loss here\n"
                           "j.yaml:12:20: warning: train.loss: 'sigmoid' is 'dpo' here\n"
                           "j.yaml:12:29: warning: lr_scheduler_type is train.schedule here\n",
                           &file),
                     JOUST_OK);
    assert_int_equal(file.job.train.loss, JOUST_LOSS_DPO);
    assert_int_equal(file.job.train.schedule, JOUST_SCHEDULE_COSINE);
    joust_jobfile_fini(&file);
    joust_free(text);
    refused_line(7, "rollout: {samples: 4, num_generations: 6}",
                 "j.yaml:7:23: warning: num_generations is rollout.samples here\n"
                 "j.yaml:7:23: num_generations: given twice, as samples in line 7\n");
}

/* PEFT's names too; without the section a job has no adapter and its identity is what it was. */
static void an_adapter_is_asked_for_by_pefts_names(void **state)
{
    (void)state;
    joust_jobfile file;
    char *text = with_line(12, "train: {lora: {r: 4, lora_alpha: 12, target_modules: [up_proj, "
                               "q_proj], use_rslora: true}}");
    assert_int_equal(parse(text, NULL,
                           "j.yaml:12:16: warning: r is lora.rank here\n"
                           "j.yaml:12:22: warning: lora_alpha is lora.alpha here\n"
                           "j.yaml:12:38: warning: target_modules is lora.targets here\n"
                           "j.yaml:12:73: warning: use_rslora is lora.rslora here\n",
                           &file),
                     JOUST_OK);
    const joust_job_train *t = &file.job.train;
    assert_true(t->has_lora && t->lora.rank == 4 && t->lora.alpha == 12 && t->lora.rslora);
    assert_int_equal(t->lora.targets, JOUST_LORA_UP | JOUST_LORA_Q);
    joust_jobfile_fini(&file);
    joust_free(text);
    text = with_line(12, "train: {lora: {}}");
    assert_int_equal(parse(text, NULL, "", &file), JOUST_OK);
    assert_true(file.job.train.has_lora && file.job.train.lora.rank == 8);
    assert_int_equal(file.job.train.lora.targets, JOUST_LORA_Q | JOUST_LORA_V);
    joust_jobfile_fini(&file);
    joust_free(text);
    refused_line(12, "train: {lora: {dropout: 0.1}}",
                 "j.yaml:12:25: train.lora.dropout: isn't supported: a step's gradient would no "
                 "longer be a function of its rows; leave it out\n");
    refused_line(
        12, "train: {lora: {rank: 0}}",
        "j.yaml:12:22: train.lora.rank: expected a whole number from 1 to 1024; found 0\n");
    refused_line(12, "train: {lora: {targets: []}}",
                 "j.yaml:12:25: train.lora.targets: name at least one of q_proj, k_proj, v_proj, "
                 "o_proj, gate_proj, up_proj, down_proj\n");
}

/* Rewards of a judge that asks yes or no are log-odds; what comparisons and rules give lies from 0 to 1. */
static void win_rates_follow_the_judges(void **state)
{
    (void)state;
    joust_job_judge judges[2] = {{.role = JOUST_ROLE_REWARD}, {.role = JOUST_ROLE_EVALUATE}};
    const joust_job job = {.n_judges = 2, .judges = judges};
    const joust_job_train train = {.loss = JOUST_LOSS_SPPO_SOFT};
    for (uint32_t kind = JOUST_JUDGE_YES_NO; kind <= JOUST_JUDGE_RANDOM; kind++) {
        judges[0].kind = (joust_judge_kind)kind;
        judges[1].kind = kind == JOUST_JUDGE_YES_NO ? JOUST_JUDGE_RULE : JOUST_JUDGE_YES_NO;
        assert_true(joust_job_train_settings(&job, &train).rewards_are_rates ==
                    (kind == JOUST_JUDGE_COMPARE || kind == JOUST_JUDGE_RULE));
    }
}

static void single_answers_and_other_references_are_read(void **state)
{
    (void)state;
    joust_jobfile file;
    char *text = with_line(
        12, "train: {loss: kto, unpaired: true, threshold: -0.5, reference_model: policy}");
    assert_int_equal(parse(text, NULL, "", &file), JOUST_OK);
    joust_plan *plan = NULL;
    joust_error err;
    assert_int_equal(joust_plan_create(&file.job, &plan, &err), JOUST_OK);
    uint32_t n = 0;
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const joust_stage *s = &plan->stages[i];
        if (s->kind != JOUST_STAGE_TRAIN)
            continue;
        const joust_stage *group = &plan->stages[s->pairs];
        assert_true(group->advantage == JOUST_ADVANTAGE_LABEL && group->beta == -0.5);
        assert_true(s->train.reference == JOUST_PICK_INITIAL && s->reference_model == 0);
        n++;
    }
    assert_int_equal(n, 1);
    joust_free(plan);
    joust_jobfile_fini(&file);
    joust_free(text);
    refused_line(12, "train: {unpaired: true}",
                 "j.yaml:12:19: train.unpaired: is of the loss kto; leave it out\n");
    refused_line(12, "train: {loss: kto, threshold: 1}",
                 "j.yaml:12:31: train.threshold: has no effect without unpaired: true\n");
    refused_line(12, "train: {reference_model: policie}",
                 "j.yaml:12:26: train.reference_model: 'policie' isn't one of models: policy; did "
                 "you mean 'policy'?\n");
    refused_line(12, "train: {loss: simpo, reference_model: policy}",
                 "j.yaml:12:39: train.reference_model: has no effect: the loss has no reference "
                 "here\n");
}

/* A program of others gets the adapter's settings, and one node. */
static void other_trainers_are_read(void **state)
{
    (void)state;
    joust_jobfile file;
    char *text = with_line(12, "train: {command: run it, nodes: 1, lora: {rank: 4}}");
    assert_int_equal(parse(text, NULL, "", &file), JOUST_OK);
    assert_true(file.job.train.has_external && file.job.train.has_lora);
    joust_jobfile_fini(&file);
    joust_free(text);
    refused_line(12, "train: {command: run it, nodes: 2}",
                 "j.yaml:12:33: train.nodes: a train.command is started on one node, its worker's, "
                 "so nodes is 1: a program that spans 2 starts itself on the others (srun, "
                 "torchrun, mpirun)\n");
}

/* It changes no bit: a job is the same with and without, and may change it on resume. */
static void recomputed_activations_are_not_identity(void **state)
{
    (void)state;
    joust_jobfile with, without;
    joust_error err;
    joust_digest digests[2];
    char *text = with_line(12, "train: {gradient_checkpointing: true}"),
         *other = with_line(12, "train: {batch_size: 16}");
    assert_int_equal(parse(text, NULL, "", &with), JOUST_OK);
    assert_int_equal(parse(other, NULL, "", &without), JOUST_OK);
    assert_true(joust_job_train_settings(&with.job, &with.job.train).recompute);
    assert_false(joust_job_train_settings(&without.job, &without.job.train).recompute);
    assert_int_equal(joust_job_digest(&with.job, &digests[0], &err), JOUST_OK);
    assert_int_equal(joust_job_digest(&without.job, &digests[1], &err), JOUST_OK);
    assert_true(joust_digest_equal(&digests[0], &digests[1]));
    with.job.train.has_lora = true; /* which is */
    assert_int_equal(joust_job_digest(&with.job, &digests[0], &err), JOUST_OK);
    assert_false(joust_digest_equal(&digests[0], &digests[1]));
    joust_jobfile_fini(&with);
    joust_jobfile_fini(&without);
    joust_free(text);
    joust_free(other);
}

#define SETS(...) ((const char *const[]){__VA_ARGS__, NULL})

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

#define SERVE(rest) "  policy: {path: base, serve: {command: 'x {model} {port}'" rest "}}"

static void servers_of_our_own_are_read_and_checked(void **state)
{
    (void)state;
    joust_jobfile file;
    char *text = with_line(
        5,
        SERVE(", replicas: 2, port: 8000, gpus: 1, publish: vllm, sleep: vllm, "
              "deadline_ms: 5, tolerance: 0.5, ready: /x, model: m, endpoint: {concurrency: 3}"));
    assert_int_equal(parse(text, NULL, "", &file), JOUST_OK);
    const joust_job_model *m = &file.job.models[0];
    assert_true(m->has_serve && m->has_endpoint && !joust_job_model_is_remote(m));
    assert_string_equal(m->serve.command, "x {model} {port}");
    assert_string_equal(m->serve.publish, "vllm");
    assert_string_equal(m->serve.ready, "/x");
    assert_true(m->serve.replicas == 2 && m->serve.gpus == 1 && m->serve.deadline_ms == 5);
    assert_string_equal(m->endpoint.model, "m");
    assert_int_equal(m->endpoint.concurrency, 3);
    assert_int_equal(m->endpoint.n_urls, 2);
    assert_string_equal(m->endpoint.urls[1], "http://127.0.0.1:8001/v1");
    joust_digest ours, plain;
    joust_error err;
    assert_int_equal(joust_job_digest(&file.job, &ours, &err), JOUST_OK);
    joust_jobfile_fini(&file);
    joust_free(text);
    /* How they are started may change on resume; that there are any may not. */
    text = with_line(5, SERVE(""));
    assert_int_equal(parse(text, NULL, "", &file), JOUST_OK);
    assert_string_equal(file.job.models[0].serve.publish, "restart");
    assert_string_equal(file.job.models[0].endpoint.model, "policy");
    assert_int_equal(joust_job_digest(&file.job, &plain, &err), JOUST_OK);
    assert_memory_equal(&ours, &plain, sizeof(ours));
    joust_jobfile_fini(&file);
    joust_free(text);
    assert_int_equal(parse(JOB, NULL, "", &file), JOUST_OK);
    assert_int_equal(joust_job_digest(&file.job, &plain, &err), JOUST_OK);
    assert_memory_not_equal(&ours, &plain, sizeof(ours));
    joust_jobfile_fini(&file);

    refused_line(5, "  policy: {path: base, serve: {command: serve it}}",
                 "j.yaml:5:41: models.policy.serve.command: it names no {model} (the folder to "
                 "serve) or no {port}\n");
    refused_line(5, "  policy: {serve: {command: 'x {model} {port}'}}",
                 "j.yaml:5:11: models.policy.path: missing (folder with config.json, "
                 "model.safetensors and tokenizer.json, or a hub id in the local cache: "
                 "Qwen/Qwen2.5-0.5B)\n");
    refused_line(5, SERVE(", publish: reload"),
                 "j.yaml:5:70: models.policy.serve.publish: expected restart, vllm, sglang or "
                 "/PATH\n");
    refused_line(5, SERVE(", sleep: sglang"),
                 "j.yaml:5:68: models.policy.serve.sleep: a server that wakes up has to be given "
                 "weights by publish: sglang\n");
    refused_line(5, SERVE(", port: 65535, replicas: 2"),
                 "j.yaml:5:67: models.policy.serve.port: 2 servers have no room between it and "
                 "65535\n");
    refused_line(5, SERVE(", endpoint: {logprobs: false}"),
                 "j.yaml:5:82: models.policy.serve.endpoint.logprobs: servers are proved by their "
                 "log-probs: leave it out\n");
    refused_line(5, SERVE(", endpoint: {server: transformers}"),
                 "j.yaml:5:80: models.policy.serve.endpoint.server: `transformers serve` gives no "
                 "token ids with log-probs, so its weights can't be proved nor its answers trained "
                 "on: serve by vLLM, SGLang or llama.cpp, or leave serve out\n");
    refused_line(5,
                 "  policy: {path: base, serve: {command: 'x {model} {port}'}, endpoint: {urls: "
                 "['http://a/v1'], model: m}}",
                 "j.yaml:5:11: models.policy: either endpoint (servers that run already), or serve "
                 "(servers that Joust starts; how they are asked stands under serve.endpoint)\n");
}

static void refused(const char *text, const char *expected)
{
    joust_jobfile jobfile;
    assert_int_equal(parse(text, NULL, expected, &jobfile), JOUST_INVALID);
}

/* A judge whose model others serve, beside a policy of our own. */
#define JUDGED(endpoint, judge, more)                                                              \
    "name: x\n"                                                                                    \
    "models:\n"                                                                                    \
    "  policy: {path: base}\n"                                                                     \
    "  critic: {endpoint: {urls: ['https://a/v1'], model: m" endpoint "}}\n"                       \
    "prompts: {file: p.jsonl}\n"                                                                   \
    "judges: [{name: j, kind: yes-no, model: critic" judge "}]\n" more
#define TEXT_TEMPLATE ", template: '{prompt} {response}'"

static void judges_of_served_models_are_read_and_checked(void **state)
{
    (void)state;
    joust_jobfile file;
    /* What only the built-in engine does in rollouts is the policy's business. */
    const char *text = JUDGED(", scoring: top, top_logprobs: 5, ca_file: a.pem", TEXT_TEMPLATE,
                              "rollout: {stop: [x], min_tokens: 2, response_prefix: y}\n");
    assert_int_equal(parse(text, NULL, "", &file), JOUST_OK);
    const joust_job_endpoint *e = &file.job.models[1].endpoint;
    assert_int_equal(e->scoring, JOUST_SCORING_TOP);
    assert_int_equal(e->top_logprobs, 5);
    assert_non_null(strstr(e->ca_file, "a.pem"));
    joust_jobfile_fini(&file);

    refused(JUDGED("", "", ""),
            "j.yaml:6:10: judges[0].template: 'critic' is served by an endpoint "
            "and asked by text: write a template with {prompt} and {response} "
            "instead of token ids, or name models.critic.endpoint.tokenizer\n");
    assert_int_equal(parse(JUDGED(", tokenizer: base", "", ""), NULL, "", &file), JOUST_OK);
    assert_non_null(strstr(file.job.models[1].endpoint.tokenizer, "base"));
    joust_jobfile_fini(&file);
    refused(JUDGED(", mode: chat, tokenizer: base", TEXT_TEMPLATE, ""),
            "j.yaml:4:80: models.critic.endpoint.tokenizer: mode: chat takes no token ids; leave "
            "one of them out\n");
    refused(JUDGED(", server: transformers, samples_per_request: 2", TEXT_TEMPLATE, ""),
            "j.yaml:4:65: models.critic.endpoint.server: `transformers serve` gives no log-probs, "
            "which judge 'j' asks for: serve its model by vLLM, SGLang or llama.cpp, or give it a "
            "path\n"
            "j.yaml:4:100: models.critic.endpoint.samples_per_request: `transformers serve` gives "
            "one answer a request: leave it out\n");
    refused(JUDGED(", mode: chat, scoring: echo", TEXT_TEMPLATE, ""),
            "j.yaml:4:78: models.critic.endpoint.scoring: mode: chat has no echo; leave it out, or "
            "say top\n");
    refused(JUDGED(", logprobs: false", TEXT_TEMPLATE, ""),
            "j.yaml:4:67: models.critic.endpoint.logprobs: judge 'j' asks it for log-probs: leave "
            "it out\n");
    refused("name: x\nmodels: {policy: {endpoint: {urls: ['http://a/v1'], model: m, ca_file: a}}}\n"
            "prompts: {file: p.jsonl}\njudges: [{name: j, kind: random}]\n",
            "j.yaml:2:72: models.policy.endpoint.ca_file: the URLs are http: there is no "
            "certificate to check\n");
    refused(JUDGED(", api_key_env: sk-12", TEXT_TEMPLATE, ""),
            "j.yaml:4:70: models.critic.endpoint.api_key_env: expected the name of an environment "
            "variable, not the key itself: letters, digits and _ (what was given isn't shown)\n");
    refused(JUDGED("", ", template: '{prompt}?'", ""),
            "j.yaml:6:59: judges[0].template: judge 'j' would see no answer: {response} or "
            "{response_tokens} isn't in it\n");
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
        cmocka_unit_test(names_of_the_ecosystem_are_accepted_and_reported),
        cmocka_unit_test(an_adapter_is_asked_for_by_pefts_names),
        cmocka_unit_test(win_rates_follow_the_judges),
        cmocka_unit_test(single_answers_and_other_references_are_read),
        cmocka_unit_test(other_trainers_are_read),
        cmocka_unit_test(recomputed_activations_are_not_identity),
        cmocka_unit_test(overrides_reach_every_key),
        cmocka_unit_test(overrides_go_through_the_same_checks),
        cmocka_unit_test(stages_may_have_settings_of_their_own),
        cmocka_unit_test(paths_are_relative_to_the_job_file_and_must_exist),
        cmocka_unit_test(servers_of_our_own_are_read_and_checked),
        cmocka_unit_test(judges_of_served_models_are_read_and_checked),
        cmocka_unit_test(the_committed_schema_is_current),
        cmocka_unit_test(running_out_of_memory_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
