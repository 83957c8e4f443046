#include "check.h"

#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "worker/tiny.h"

static const char tokenizer_json[] =
    "{\"version\":\"1.0\",\"added_tokens\":["
    "{\"id\":0,\"content\":\"<pad>\",\"special\":true},{\"id\":1,\"content\":\"<bos>\",\"special\":"
    "true},{\"id\":2,\"content\":\"<eos>\",\"special\":true},{\"id\":3,\"content\":\"<ans>\","
    "\"special\":true},{\"id\":4,\"content\":\"<judge>\",\"special\":true}],"
    "\"normalizer\":null,\"pre_tokenizer\":{\"type\":\"WhitespaceSplit\"},\"post_processor\":null,"
    "\"decoder\":null,\"model\":{\"type\":\"WordLevel\",\"vocab\":{\"<pad>\":0,\"<bos>\":1,\"<eos>"
    "\":"
    "2,\"<ans>\":3,\"<judge>\":4,\"yes\":5,\"no\":6,\"first\":7,\"second\":8,\"tie\":9,\"a\":10,"
    "\"b\":"
    "11,\"c\":12,\"d\":13,\"####\":14,\"1\":15,\"2\":16,\"3\":17,\"4\":18,\"5\":19,\"e\":20,\"f\":"
    "21,"
    "\"g\":22,\"<unk>\":23},\"unk_token\":\"<unk>\"}}";

static const char config_json[] =
    "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":16,"
    "\"intermediate_size\":32,\"num_hidden_layers\":2,\"num_attention_heads\":2,"
    "\"num_key_value_heads\":1,\"vocab_size\":24,\"max_position_embeddings\":48,"
    "\"rms_norm_eps\":1e-5,\"rope_theta\":10000.0,\"tie_word_embeddings\":false,"
    "\"hidden_act\":\"silu\",\"bos_token_id\":1,\"eos_token_id\":2}";

void tiny_dir(const char *name, char ret[512])
{
    joust_error err;
    snprintf(ret, 512, "%s/tiny/%s", JOUST_BINARY_DIR, name);
    check_ok(joust_dir_remove(ret, &err));
    check_ok(joust_dir_make(ret, &err));
}

static void write_file(const char *dir, const char *name, const char *text)
{
    joust_error err;
    char path[600];
    snprintf(path, sizeof(path), "%s/%s", dir, name);
    check_ok(joust_file_write(path, text, strlen(text), &err));
}

void tiny_folder_write(const char *dir, bool weights, uint64_t seed)
{
    joust_error err;
    joust_model_config config;
    joust_model *model = NULL;
    char path[600];
    write_file(dir, "config.json", config_json);
    write_file(dir, "tokenizer.json", tokenizer_json);
    if (!weights)
        return;
    snprintf(path, sizeof(path), "%s/config.json", dir);
    check_ok(joust_model_config_read(path, &config, &err));
    check_ok(joust_model_init(&config, seed, &model, &err));
    check_ok(joust_model_save(model, NULL, dir, &err));
    joust_model_free(&model);
}

static joust_job_judge judge_of(const char *name, joust_judge_kind kind, const char *template,
                                const char *const *labels, uint32_t n_labels)
{
    joust_job_judge j = {.name = joust_strdup(name),
                         .kind = kind,
                         .role = JOUST_ROLE_REWARD,
                         .version = JOUST_PICK_ROUND_START,
                         .n_labels = n_labels,
                         .both_orders = true};
    for (uint32_t i = 0; i < n_labels; i++)
        j.labels[i] = joust_strdup(labels[i]);
    if (template) {
        j.template_text = joust_strdup(template);
        j.model = joust_strdup("policy");
    }
    return j;
}

static void set_text(char **to, const char *text)
{
    joust_free(*to);
    *to = joust_strdup(text);
}

void tiny_job_make(joust_job *job, joust_plan *plan)
{
    static const char *const yes_no[] = {"yes", "no"};
    static const char *const order[] = {"first", "second", "tie"};
    joust_error err;
    check_ok(joust_job_init(job, &err));
    set_text(&job->name, "tiny");
    set_text(&job->rollout.template_text, "<bos>{prompt}<ans>");
    job->seed = 7;
    job->rounds = 1;
    job->n_models = job->n_sets = 1;
    job->models = joust_calloc(1, sizeof(*job->models));
    job->models[0].name = joust_strdup("policy");
    job->models[0].path = joust_strdup("/nowhere/policy");
    job->models[0].init_seed = 5;
    job->sets = joust_calloc(1, sizeof(*job->sets));
    job->sets[0] = (joust_job_set){.name = joust_strdup("prompts"),
                                   .path = joust_strdup("/nowhere/prompts.jsonl"),
                                   .order = JOUST_ORDER_FILE};
    job->has_prompts = job->has_train = true;
    job->rollout.samples = 4;
    job->rollout.sampling = (joust_sampling){.temperature = 1, .top_p = 1, .max_tokens = 8};
    job->n_judges = 4;
    job->judges = joust_calloc(4, sizeof(*job->judges));
    job->judges[0] = judge_of("self", JOUST_JUDGE_YES_NO,
                              "{prompt_tokens}{response_tokens}<eos><judge>", yes_no, 2);
    job->judges[1] = judge_of("pair", JOUST_JUDGE_COMPARE,
                              "<bos>{prompt}<ans>{first}<eos>{second}<judge>", order, 3);
    job->judges[2] = judge_of("number", JOUST_JUDGE_RULE, NULL, NULL, 0);
    job->judges[2].rule = JOUST_RULE_FINAL_NUMBER;
    job->judges[3] = judge_of("dice", JOUST_JUDGE_RANDOM, NULL, NULL, 0);
    job->train.loss = JOUST_LOSS_DPO;
    job->train.batch_size = 4;
    job->train.max_steps = 6;
    job->train.save_every = 2;
    job->train.reference = JOUST_PICK_ROUND_START;
    job->train.beta = 0.1;
    job->train.sft_weight = 0.5;
    job->train.learning_rate = 1e-3;
    check_ok(joust_plan_compile(job, plan, &err));
}

const joust_stage *tiny_stage(const joust_job *job, const joust_plan *plan, joust_stage_kind kind,
                              const char *judge)
{
    for (uint32_t i = 0; i < plan->n_stages; i++) {
        const joust_stage *s = &plan->stages[i];
        if (s->kind == kind && (!judge || strcmp(job->judges[s->judge].name, judge) == 0))
            return s;
    }
    fail_msg("no such stage");
    return NULL;
}

joust_lease_unit tiny_generate_unit(const joust_stage *stage, uint64_t position,
                                    const joust_model_ref *model)
{
    char text[16];
    snprintf(text, sizeof(text), "%c %c b", 'a' + (char)(position % 7), 'a' + (char)(position / 7));
    joust_lease_unit u = {.unit = {.round = 1, .stage = stage->index, .position = position},
                          .lease = 100 + position,
                          .deadline_ms = 60000,
                          .model = *model,
                          .samples = stage->samples};
    u.prompt.text = joust_strdup(text);
    u.prompt.reference = joust_strdup("#### 3");
    u.prompt.weight = 1;
    u.prompt.digest = joust_prompt_digest(NULL, text, "#### 3");
    return u;
}
