/* The job file's models and their training: names of the ecosystem, adapters, references, other trainers, servers. */
#include "ops/jobfile_fixture.h"

#include "proto/plan.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_of_the_ecosystem_are_accepted_and_reported),
        cmocka_unit_test(an_adapter_is_asked_for_by_pefts_names),
        cmocka_unit_test(win_rates_follow_the_judges),
        cmocka_unit_test(single_answers_and_other_references_are_read),
        cmocka_unit_test(other_trainers_are_read),
        cmocka_unit_test(recomputed_activations_are_not_identity),
        cmocka_unit_test(servers_of_our_own_are_read_and_checked),
        cmocka_unit_test(judges_of_served_models_are_read_and_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
