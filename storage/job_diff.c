#include "storage/job_diff.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/text.h"

enum { MAX_NAMED = 8, MAX_LIST = 720 }; /* what an error has room for */

/* The comparison so far: the block we are in ("train", "judges[1]") and what differed. */
typedef struct diff {
    char block[160];
    char recorded[96], given[96];
    char list[MAX_LIST];
    size_t n_list;
    uint32_t n_named, n;
} diff;

/* Enters a block of the job file. */
static void enter(diff *d, const char *format, ...) JOUST_PRINTF(2, 3);
static void enter(diff *d, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(d->block, sizeof(d->block), format, args);
    va_end(args);
}

static void found(diff *d, const char *key)
{
    char text[512];
    int n = snprintf(text, sizeof(text),
                     d->n ? "; %s%s%s: %s recorded, %s given"
                          : "%s%s%s is %s in the job recorded here, and %s in "
                            "the job given",
                     d->block, *d->block && *key ? "." : "", key, d->recorded, d->given);
    size_t room = sizeof(d->list) - d->n_list;
    if (d->n == d->n_named && d->n_named < MAX_NAMED && n > 0 && (size_t)n < room) {
        memcpy(d->list + d->n_list, text, (size_t)n + 1);
        d->n_list += (size_t)n;
        d->n_named++;
    }
    d->n++;
}

static void differ_number(diff *d, const char *key, uint64_t recorded, uint64_t given)
{
    if (recorded == given)
        return;
    snprintf(d->recorded, sizeof(d->recorded), "%" PRIu64, recorded);
    snprintf(d->given, sizeof(d->given), "%" PRIu64, given);
    found(d, key);
}

static void differ_bool(diff *d, const char *key, bool recorded, bool given)
{
    if (recorded == given)
        return;
    snprintf(d->recorded, sizeof(d->recorded), "%s", recorded ? "true" : "false");
    snprintf(d->given, sizeof(d->given), "%s", given ? "true" : "false");
    found(d, key);
}

static void write_real(char *to, size_t size, double v)
{
    joust_buf text = {0};
    if (v != v || v - v != 0)
        snprintf(to, size, "%s", v > 0 ? ".inf" : v < 0 ? "-.inf" : ".nan");
    else
        joust_json_double(&text, v);
    if (text.data)
        snprintf(to, size, "%s", (const char *)text.data);
    joust_buf_fini(&text);
}

static void differ_real(diff *d, const char *key, double recorded, double given)
{
    if (memcmp(&recorded, &given, sizeof(given)) == 0)
        return;
    write_real(d->recorded, sizeof(d->recorded), recorded);
    write_real(d->given, sizeof(d->given), given);
    found(d, key);
}

static void differ_text(diff *d, const char *key, const char *recorded, const char *given)
{
    if (recorded == given || (recorded && given && strcmp(recorded, given) == 0))
        return;
    snprintf(d->recorded, sizeof(d->recorded), recorded ? "\"%.80s\"" : "nothing%s",
             recorded ? recorded : "");
    snprintf(d->given, sizeof(d->given), given ? "\"%.80s\"" : "nothing%s", given ? given : "");
    found(d, key);
}

static void differ_texts(diff *d, const char *key, char *const *recorded, uint32_t n_recorded,
                         char *const *given, uint32_t n_given)
{
    char number[96];
    snprintf(number, sizeof(number), "%s: number of entries", key);
    differ_number(d, number, n_recorded, n_given);
    for (uint32_t i = 0; i < n_recorded && n_recorded == n_given; i++)
        differ_text(d, key, recorded[i], given[i]);
}

static void differ_content(diff *d, const char *key, const joust_digest *recorded,
                           const joust_digest *given)
{
    char hex[JOUST_DIGEST_HEX];
    if (joust_digest_equal(recorded, given))
        return;
    snprintf(d->recorded, sizeof(d->recorded), "content %.16s…", joust_digest_hex(recorded, hex));
    snprintf(d->given, sizeof(d->given), "content %.16s…", joust_digest_hex(given, hex));
    found(d, key);
}

/* Of a file's text. */
static void differ_file(diff *d, const char *key, const char *recorded, const char *given)
{
    if (!recorded || !given) {
        differ_bool(d, key, recorded != NULL, given != NULL);
        return;
    }
    const joust_digest a = joust_digest_of(recorded, strlen(recorded)),
                       b = joust_digest_of(given, strlen(given));
    differ_content(d, key, &a, &b);
}

/* names[value - 1] is how the job file spells it. */
static void differ_word(diff *d, const char *key, int recorded, int given, const char *const *names,
                        int n)
{
    if (recorded == given)
        return;
    snprintf(d->recorded, sizeof(d->recorded), "%s",
             recorded > 0 && recorded <= n ? names[recorded - 1] : "nothing");
    snprintf(d->given, sizeof(d->given), "%s",
             given > 0 && given <= n ? names[given - 1] : "nothing");
    found(d, key);
}

static const char *const order_names[] = {"file", "shuffle"};
static const char *const long_names[] = {"cut"};
static const char *const kind_names[] = {"yes-no", "compare", "rule", "random"};
static const char *const rule_names[] = {"final-number", "steps-and-number", "exact", "regex"};
static const char *const role_names[] = {"reward", "evaluate"};
static const char *const pick_names[] = {"round-start", "latest", "initial", "none"};
static const char *const combine_names[] = {"mean", "min", "max"};
static const char *const schedule_names[] = {"constant", "linear", "cosine"};
static const char *const stage_names[] = {"generate", "judge",    "pair",
                                          "train",    "evaluate", "promote"};
#define WORDS(names) names, (int)(sizeof(names) / sizeof(*(names)))

static void differ_sampling(diff *d, const joust_sampling *a, const joust_sampling *b)
{
    differ_real(d, "temperature", (double)a->temperature, (double)b->temperature);
    differ_real(d, "top_p", (double)a->top_p, (double)b->top_p);
    differ_real(d, "min_p", (double)a->min_p, (double)b->min_p);
    differ_number(d, "top_k", a->top_k, b->top_k);
    differ_number(d, "max_tokens", a->max_tokens, b->max_tokens);
    differ_number(d, "min_tokens", a->min_tokens, b->min_tokens);
    differ_real(d, "repetition_penalty", (double)a->repetition_penalty,
                (double)b->repetition_penalty);
}

static void differ_models(diff *d, const joust_job *a, const joust_job *b)
{
    enter(d, "models");
    differ_number(d, "number of entries", a->n_models, b->n_models);
    for (uint32_t i = 0; i < a->n_models && a->n_models == b->n_models; i++) {
        const joust_job_model *x = &a->models[i], *y = &b->models[i];
        enter(d, "models[%" PRIu32 "]", i);
        differ_text(d, "name", x->name, y->name);
        enter(d, "models.%s", x->name);
        differ_content(d, "path", &x->content, &y->content);
        differ_bool(d, "init", x->init, y->init);
        differ_number(d, "init", x->init_seed, y->init_seed);
        differ_bool(d, "scalar_head", x->scalar_head, y->scalar_head);
        differ_bool(d, "serve", x->has_serve, y->has_serve);
        if (x->has_serve && y->has_serve)
            differ_number(d, "serve.endpoint.samples_per_request", x->serve.samples_per_request,
                          y->serve.samples_per_request);
    }
}

static void differ_sets(diff *d, const joust_job *a, const joust_job *b)
{
    enter(d, "prompts");
    differ_number(d, "number of files", a->n_sets, b->n_sets);
    for (uint32_t i = 0; i < a->n_sets && a->n_sets == b->n_sets; i++) {
        const joust_job_set *x = &a->sets[i], *y = &b->sets[i];
        enter(d, "%s", x->name);
        differ_text(d, "name", x->name, y->name);
        differ_content(d, "file", &x->content, &y->content);
        differ_number(d, "per_round", x->per_round, y->per_round);
        differ_word(d, "order", (int)x->order, (int)y->order, WORDS(order_names));
    }
}

static void differ_judge(diff *d, const joust_job_judge *x, const joust_job_judge *y)
{
    differ_text(d, "name", x->name, y->name);
    differ_word(d, "kind", (int)x->kind, (int)y->kind, WORDS(kind_names));
    differ_word(d, "role", (int)x->role, (int)y->role, WORDS(role_names));
    differ_text(d, "model", x->model, y->model);
    differ_word(d, "version", (int)x->version, (int)y->version, WORDS(pick_names));
    differ_word(d, "rule", (int)x->rule, (int)y->rule, WORDS(rule_names));
    differ_text(d, "pattern", x->pattern, y->pattern);
    differ_text(d, "template", x->template_text, y->template_text);
    differ_texts(d, "labels", x->labels, x->n_labels, y->labels, y->n_labels);
    differ_bool(d, "both_orders", x->both_orders, y->both_orders);
}

static void differ_judges(diff *d, const joust_job *a, const joust_job *b)
{
    enter(d, "judges");
    differ_number(d, "number of entries", a->n_judges, b->n_judges);
    for (uint32_t i = 0; i < a->n_judges && a->n_judges == b->n_judges; i++) {
        enter(d, "judges[%" PRIu32 "]", i);
        differ_judge(d, &a->judges[i], &b->judges[i]);
    }
}

static const char *loss_name(joust_loss loss)
{
    const joust_loss_traits *known = joust_loss_traits_of(loss);
    const joust_policy_traits *policy = joust_policy_traits_of(loss);
    return known ? known->name : policy ? policy->name : "unknown";
}

static void differ_objective(diff *d, const joust_objective *x, const joust_objective *y)
{
    for (uint32_t i = 1; i < JOUST_N_LOSSES; i++) {
        char key[64];
        snprintf(key, sizeof(key), "mix.%s", loss_name((joust_loss)i));
        differ_real(d, key, x->mix[i], y->mix[i]);
    }
    differ_real(d, "label_smoothing", x->label_smoothing, y->label_smoothing);
    differ_real(d, "gamma", x->gamma, y->gamma);
    differ_real(d, "ld_alpha", x->ld_alpha, y->ld_alpha);
    differ_real(d, "desirable_weight", x->desirable_weight, y->desirable_weight);
    differ_real(d, "undesirable_weight", x->undesirable_weight, y->undesirable_weight);
    differ_real(d, "discopop_tau", x->discopop_tau, y->discopop_tau);
    differ_real(d, "reward_scale", x->reward_scale, y->reward_scale);
    differ_number(d, "reference_sync_steps", x->reference_sync_steps, y->reference_sync_steps);
    differ_real(d, "reference_mixup", x->reference_mixup, y->reference_mixup);
}

static void differ_policy(diff *d, const joust_job_policy *x, const joust_job_policy *y)
{
    static const char *const names[] = {"k1", "k2", "k3"};
    differ_real(d, "epsilon", x->epsilon, y->epsilon);
    differ_real(d, "epsilon_high", x->epsilon_high, y->epsilon_high);
    differ_real(d, "max_ratio", x->max_ratio, y->max_ratio);
    differ_real(d, "kl_weight", x->kl_weight, y->kl_weight);
    differ_real(d, "entropy_weight", x->entropy_weight, y->entropy_weight);
    differ_word(d, "kl", (int)x->kl, (int)y->kl, WORDS(names));
    differ_bool(d, "dynamic_sampling", x->dynamic_sampling, y->dynamic_sampling);
    differ_real(d, "importance_cap", x->importance_cap, y->importance_cap);
}

static void differ_critic(diff *d, const joust_job_critic *x, const joust_job_critic *y)
{
    differ_text(d, "critic.model", x->model, y->model);
    differ_real(d, "critic.gamma", x->gamma, y->gamma);
    differ_real(d, "critic.lambda", x->lambda, y->lambda);
    differ_real(d, "critic.value_clip", x->value_clip, y->value_clip);
    differ_real(d, "critic.learning_rate", x->learning_rate, y->learning_rate);
    differ_bool(d, "critic.kl_in_reward", x->kl_in_reward, y->kl_in_reward);
    differ_bool(d, "critic.whiten", x->whiten, y->whiten);
}

static void differ_train(diff *d, const joust_job_train *x, const joust_job_train *y)
{
    differ_text(d, "loss", loss_name(x->loss), loss_name(y->loss));
    differ_text(d, "model", x->model, y->model);
    differ_bool(d, "data", x->data != NULL, y->data != NULL);
    differ_content(d, "data", &x->data_content, &y->data_content);
    differ_word(d, "data_order", (int)x->data_order, (int)y->data_order, WORDS(order_names));
    differ_real(d, "beta", x->beta, y->beta);
    differ_real(d, "sft_weight", x->sft_weight, y->sft_weight);
    differ_real(d, "learning_rate", x->learning_rate, y->learning_rate);
    differ_real(d, "min_learning_rate_ratio", x->min_learning_rate_ratio,
                y->min_learning_rate_ratio);
    differ_word(d, "schedule", (int)x->schedule, (int)y->schedule, WORDS(schedule_names));
    differ_real(d, "adam_beta1", x->adam_beta1, y->adam_beta1);
    differ_real(d, "adam_beta2", x->adam_beta2, y->adam_beta2);
    differ_real(d, "adam_eps", x->adam_eps, y->adam_eps);
    differ_real(d, "weight_decay", x->weight_decay, y->weight_decay);
    differ_real(d, "clip", x->clip, y->clip);
    differ_number(d, "warmup_steps", x->warmup_steps, y->warmup_steps);
    differ_number(d, "batch_size", x->batch_size, y->batch_size);
    differ_number(d, "max_steps", x->max_steps, y->max_steps);
    differ_number(d, "save_every", x->save_every, y->save_every);
    differ_word(d, "reference", (int)x->reference, (int)y->reference, WORDS(pick_names));
    if (x->loss == y->loss) /* else the other loss brings its own */
        differ_objective(d, &x->objective, &y->objective);
    differ_bool(d, "forced_tokens", x->forced_tokens, y->forced_tokens);
    differ_text(d, "reference_model", x->reference_model, y->reference_model);
    differ_bool(d, "unpaired", x->unpaired, y->unpaired);
    differ_real(d, "threshold", x->threshold, y->threshold);
    differ_policy(d, &x->policy, &y->policy);
    if (x->has_critic && y->has_critic)
        differ_critic(d, &x->critic, &y->critic);
    differ_text(d, "command", x->external.command, y->external.command);
    differ_bool(d, "lora", x->has_lora, y->has_lora);
    if (x->has_lora && y->has_lora) {
        differ_number(d, "lora.rank", x->lora.rank, y->lora.rank);
        differ_real(d, "lora.alpha", x->lora.alpha, y->lora.alpha);
        differ_number(d, "lora.targets", x->lora.targets, y->lora.targets);
        differ_bool(d, "lora.rslora", x->lora.rslora, y->lora.rslora);
    }
}

static void differ_stages(diff *d, const joust_job *a, const joust_job *b)
{
    enter(d, "stages");
    differ_number(d, "number of entries", a->n_stages, b->n_stages);
    for (uint32_t i = 0; i < a->n_stages && a->n_stages == b->n_stages; i++) {
        const joust_job_stage *x = &a->stages[i], *y = &b->stages[i];
        enter(d, "stages[%" PRIu32 "]", i);
        differ_word(d, "", (int)x->kind, (int)y->kind, WORDS(stage_names));
        differ_bool(d, "own settings", x->has_train, y->has_train);
        if (x->has_train && y->has_train)
            differ_train(d, &x->train, &y->train);
    }
}

static void differ_pairs(diff *d, const joust_job_pairs *x, const joust_job_pairs *y)
{
    enter(d, "pairs");
    differ_text(d, "build", x->build, y->build);
    differ_real(d, "min_chosen", x->min_chosen, y->min_chosen);
    differ_real(d, "max_rejected", x->max_rejected, y->max_rejected);
    differ_real(d, "min_margin", x->min_margin, y->min_margin);
    differ_text(d, "rejected_model", x->rejected_model, y->rejected_model);
    differ_word(d, "rejected_version", (int)x->rejected_version, (int)y->rejected_version,
                WORDS(pick_names));
}

static void differ_promote(diff *d, const joust_job_promote *x, const joust_job_promote *y)
{
    enter(d, "promote");
    differ_bool(d, "", x->on, y->on);
    if (x->on != y->on)
        return;
    differ_text(d, "prompts", x->prompts, y->prompts);
    differ_text(d, "judge", x->judge, y->judge);
    differ_bool(d, "not_worse_than", x->gate, y->gate);
}

static void differ_evaluate(diff *d, const joust_job_evaluate *x, const joust_job_evaluate *y)
{
    enter(d, "evaluate");
    differ_bool(d, "", x->on, y->on);
    if (x->on != y->on)
        return;
    differ_text(d, "prompts", x->prompts, y->prompts);
    differ_text(d, "judge", x->judge, y->judge);
    differ_text(d, "judged_by", x->judged_by, y->judged_by);
    differ_number(d, "samples", x->samples, y->samples);
    differ_sampling(d, &x->sampling, &y->sampling);
    differ_bool(d, "against base", x->against_base, y->against_base);
    differ_bool(d, "against previous", x->against_previous, y->against_previous);
}

static void differ_rollout(diff *d, const joust_job_rollout *x, const joust_job_rollout *y)
{
    enter(d, "rollout");
    differ_number(d, "samples", x->samples, y->samples);
    differ_sampling(d, &x->sampling, &y->sampling);
    differ_text(d, "template", x->template_text, y->template_text);
    differ_text(d, "response_prefix", x->response_prefix, y->response_prefix);
    differ_texts(d, "stop", x->stop, x->n_stop, y->stop, y->n_stop);
    differ_texts(d, "choices", x->choices, x->n_choices, y->choices, y->n_choices);
    differ_text(d, "regex", x->regex, y->regex);
    differ_text(d, "chat_template", x->chat_template, y->chat_template);
    differ_file(d, "grammar", x->grammar, y->grammar);
    differ_file(d, "json_schema", x->json_schema, y->json_schema);
    differ_word(d, "long_prompts", (int)x->long_prompts, (int)y->long_prompts, WORDS(long_names));
    differ_number(d, "max_prompt_tokens", x->max_prompt_tokens, y->max_prompt_tokens);
}

static void differ_top(diff *d, const joust_job *a, const joust_job *b)
{
    enter(d, "%s", "");
    differ_number(d, "seed", a->seed, b->seed);
    differ_bool(d, "prompts", a->has_prompts, b->has_prompts);
    differ_bool(d, "train", a->has_train, b->has_train);
    differ_word(d, "rewards.combine", (int)a->combine, (int)b->combine, WORDS(combine_names));
}

static void differ_train_block(diff *d, const joust_job *a, const joust_job *b)
{
    enter(d, "train");
    if (a->has_train == b->has_train)
        differ_train(d, &a->train, &b->train);
}

joust_status joust_job_compare(const joust_job *recorded, const joust_job *given, joust_error *err)
{
    diff d = {.list = ""};
    differ_top(&d, recorded, given);
    differ_models(&d, recorded, given);
    differ_sets(&d, recorded, given);
    differ_rollout(&d, &recorded->rollout, &given->rollout);
    differ_judges(&d, recorded, given);
    differ_pairs(&d, &recorded->pairs, &given->pairs);
    differ_train_block(&d, recorded, given);
    differ_stages(&d, recorded, given);
    differ_promote(&d, &recorded->promote, &given->promote);
    differ_evaluate(&d, &recorded->evaluate, &given->evaluate);
    if (!d.n)
        return JOUST_OK;
    char more[32] = "";
    if (d.n > d.n_named)
        snprintf(more, sizeof(more), "; and %" PRIu32 " more", d.n - d.n_named);
    return joust_fail(err, JOUST_CONFLICT, "%s%s", d.list, more);
}
