#include "storage/job_diff.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/text.h"

/* The comparison so far: the block we are in ("train", "judges[1]") and what differed first. */
typedef struct diff {
    char block[160];
    char key[320];
    char recorded[96], given[96];
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

static bool found(diff *d, const char *key)
{
    snprintf(d->key, sizeof(d->key), "%s%s%s", d->block, *d->block && *key ? "." : "", key);
    return true;
}

static bool differ_number(diff *d, const char *key, uint64_t recorded, uint64_t given)
{
    if (recorded == given)
        return false;
    snprintf(d->recorded, sizeof(d->recorded), "%" PRIu64, recorded);
    snprintf(d->given, sizeof(d->given), "%" PRIu64, given);
    return found(d, key);
}

static bool differ_bool(diff *d, const char *key, bool recorded, bool given)
{
    if (recorded == given)
        return false;
    snprintf(d->recorded, sizeof(d->recorded), "%s", recorded ? "true" : "false");
    snprintf(d->given, sizeof(d->given), "%s", given ? "true" : "false");
    return found(d, key);
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

static bool differ_real(diff *d, const char *key, double recorded, double given)
{
    if (memcmp(&recorded, &given, sizeof(given)) == 0)
        return false;
    write_real(d->recorded, sizeof(d->recorded), recorded);
    write_real(d->given, sizeof(d->given), given);
    return found(d, key);
}

static bool differ_text(diff *d, const char *key, const char *recorded, const char *given)
{
    if (recorded == given || (recorded && given && strcmp(recorded, given) == 0))
        return false;
    snprintf(d->recorded, sizeof(d->recorded), recorded ? "\"%.80s\"" : "nothing%s",
             recorded ? recorded : "");
    snprintf(d->given, sizeof(d->given), given ? "\"%.80s\"" : "nothing%s", given ? given : "");
    return found(d, key);
}

static bool differ_content(diff *d, const char *key, const joust_digest *recorded,
                           const joust_digest *given)
{
    char hex[JOUST_DIGEST_HEX];
    if (joust_digest_equal(recorded, given))
        return false;
    snprintf(d->recorded, sizeof(d->recorded), "content %.16s…", joust_digest_hex(recorded, hex));
    snprintf(d->given, sizeof(d->given), "content %.16s…", joust_digest_hex(given, hex));
    return found(d, key);
}

/* names[value - 1] is how the job file spells it. */
static bool differ_word(diff *d, const char *key, int recorded, int given, const char *const *names,
                        int n)
{
    if (recorded == given)
        return false;
    snprintf(d->recorded, sizeof(d->recorded), "%s",
             recorded > 0 && recorded <= n ? names[recorded - 1] : "nothing");
    snprintf(d->given, sizeof(d->given), "%s",
             given > 0 && given <= n ? names[given - 1] : "nothing");
    return found(d, key);
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

static bool differ_sampling(diff *d, const joust_sampling *a, const joust_sampling *b)
{
    return differ_real(d, "temperature", (double)a->temperature, (double)b->temperature) ||
           differ_real(d, "top_p", (double)a->top_p, (double)b->top_p) ||
           differ_real(d, "min_p", (double)a->min_p, (double)b->min_p) ||
           differ_number(d, "top_k", a->top_k, b->top_k) ||
           differ_number(d, "max_tokens", a->max_tokens, b->max_tokens) ||
           differ_number(d, "min_tokens", a->min_tokens, b->min_tokens) ||
           differ_real(d, "repetition_penalty", (double)a->repetition_penalty,
                       (double)b->repetition_penalty);
}

static bool differ_models(diff *d, const joust_job *a, const joust_job *b)
{
    enter(d, "models");
    if (differ_number(d, "number of entries", a->n_models, b->n_models))
        return true;
    for (uint32_t i = 0; i < a->n_models; i++) {
        const joust_job_model *x = &a->models[i], *y = &b->models[i];
        enter(d, "models[%" PRIu32 "]", i);
        if (differ_text(d, "name", x->name, y->name))
            return true;
        enter(d, "models.%s", x->name);
        if (differ_content(d, "path", &x->content, &y->content) ||
            differ_bool(d, "init", x->init, y->init) ||
            differ_number(d, "init", x->init_seed, y->init_seed))
            return true;
    }
    return false;
}

static bool differ_sets(diff *d, const joust_job *a, const joust_job *b)
{
    enter(d, "prompts");
    if (differ_number(d, "number of files", a->n_sets, b->n_sets))
        return true;
    for (uint32_t i = 0; i < a->n_sets; i++) {
        const joust_job_set *x = &a->sets[i], *y = &b->sets[i];
        enter(d, "%s", x->name);
        if (differ_text(d, "name", x->name, y->name) ||
            differ_content(d, "file", &x->content, &y->content) ||
            differ_number(d, "per_round", x->per_round, y->per_round) ||
            differ_word(d, "order", (int)x->order, (int)y->order, WORDS(order_names)))
            return true;
    }
    return false;
}

static bool differ_judge(diff *d, const joust_job_judge *x, const joust_job_judge *y)
{
    if (differ_text(d, "name", x->name, y->name) ||
        differ_word(d, "kind", (int)x->kind, (int)y->kind, WORDS(kind_names)) ||
        differ_word(d, "role", (int)x->role, (int)y->role, WORDS(role_names)) ||
        differ_text(d, "model", x->model, y->model) ||
        differ_word(d, "version", (int)x->version, (int)y->version, WORDS(pick_names)) ||
        differ_word(d, "rule", (int)x->rule, (int)y->rule, WORDS(rule_names)) ||
        differ_text(d, "pattern", x->pattern, y->pattern) ||
        differ_text(d, "template", x->template_text, y->template_text) ||
        differ_number(d, "labels: number of entries", x->n_labels, y->n_labels))
        return true;
    for (uint32_t i = 0; i < x->n_labels; i++)
        if (differ_text(d, "labels", x->labels[i], y->labels[i]))
            return true;
    return differ_bool(d, "both_orders", x->both_orders, y->both_orders);
}

static bool differ_judges(diff *d, const joust_job *a, const joust_job *b)
{
    enter(d, "judges");
    if (differ_number(d, "number of entries", a->n_judges, b->n_judges))
        return true;
    for (uint32_t i = 0; i < a->n_judges; i++) {
        enter(d, "judges[%" PRIu32 "]", i);
        if (differ_judge(d, &a->judges[i], &b->judges[i]))
            return true;
    }
    return false;
}

static const char *loss_name(joust_loss loss)
{
    const joust_loss_traits *known = joust_loss_traits_of(loss);
    const joust_policy_traits *policy = joust_policy_traits_of(loss);
    return known ? known->name : policy ? policy->name : "unknown";
}

static bool differ_objective(diff *d, const joust_objective *x, const joust_objective *y)
{
    for (uint32_t i = 1; i < JOUST_N_LOSSES; i++) {
        char key[64];
        snprintf(key, sizeof(key), "mix.%s", loss_name((joust_loss)i));
        if (differ_real(d, key, x->mix[i], y->mix[i]))
            return true;
    }
    return differ_real(d, "label_smoothing", x->label_smoothing, y->label_smoothing) ||
           differ_real(d, "gamma", x->gamma, y->gamma) ||
           differ_real(d, "ld_alpha", x->ld_alpha, y->ld_alpha) ||
           differ_real(d, "desirable_weight", x->desirable_weight, y->desirable_weight) ||
           differ_real(d, "undesirable_weight", x->undesirable_weight, y->undesirable_weight) ||
           differ_real(d, "discopop_tau", x->discopop_tau, y->discopop_tau) ||
           differ_real(d, "reward_scale", x->reward_scale, y->reward_scale) ||
           differ_number(d, "reference_sync_steps", x->reference_sync_steps,
                         y->reference_sync_steps) ||
           differ_real(d, "reference_mixup", x->reference_mixup, y->reference_mixup);
}

static bool differ_policy(diff *d, const joust_job_policy *x, const joust_job_policy *y)
{
    static const char *const names[] = {"k1", "k2", "k3"};
    return differ_real(d, "epsilon", x->epsilon, y->epsilon) ||
           differ_real(d, "epsilon_high", x->epsilon_high, y->epsilon_high) ||
           differ_real(d, "max_ratio", x->max_ratio, y->max_ratio) ||
           differ_real(d, "kl_weight", x->kl_weight, y->kl_weight) ||
           differ_real(d, "entropy_weight", x->entropy_weight, y->entropy_weight) ||
           differ_word(d, "kl", (int)x->kl, (int)y->kl, WORDS(names)) ||
           differ_bool(d, "dynamic_sampling", x->dynamic_sampling, y->dynamic_sampling);
}

static bool differ_train(diff *d, const joust_job_train *x, const joust_job_train *y)
{
    return differ_text(d, "loss", loss_name(x->loss), loss_name(y->loss)) ||
           differ_text(d, "model", x->model, y->model) ||
           differ_bool(d, "data", x->data != NULL, y->data != NULL) ||
           differ_content(d, "data", &x->data_content, &y->data_content) ||
           differ_word(d, "order", (int)x->data_order, (int)y->data_order, WORDS(order_names)) ||
           differ_real(d, "beta", x->beta, y->beta) ||
           differ_real(d, "sft_weight", x->sft_weight, y->sft_weight) ||
           differ_real(d, "learning_rate", x->learning_rate, y->learning_rate) ||
           differ_real(d, "min_learning_rate_ratio", x->min_learning_rate_ratio,
                       y->min_learning_rate_ratio) ||
           differ_word(d, "schedule", (int)x->schedule, (int)y->schedule, WORDS(schedule_names)) ||
           differ_real(d, "adam_beta1", x->adam_beta1, y->adam_beta1) ||
           differ_real(d, "adam_beta2", x->adam_beta2, y->adam_beta2) ||
           differ_real(d, "adam_eps", x->adam_eps, y->adam_eps) ||
           differ_real(d, "weight_decay", x->weight_decay, y->weight_decay) ||
           differ_real(d, "clip", x->clip, y->clip) ||
           differ_number(d, "warmup_steps", x->warmup_steps, y->warmup_steps) ||
           differ_number(d, "batch_size", x->batch_size, y->batch_size) ||
           differ_number(d, "max_steps", x->max_steps, y->max_steps) ||
           differ_number(d, "save_every", x->save_every, y->save_every) ||
           differ_word(d, "reference", (int)x->reference, (int)y->reference, WORDS(pick_names)) ||
           differ_objective(d, &x->objective, &y->objective) ||
           differ_policy(d, &x->policy, &y->policy);
}

static bool differ_stages(diff *d, const joust_job *a, const joust_job *b)
{
    enter(d, "stages");
    if (differ_number(d, "number of entries", a->n_stages, b->n_stages))
        return true;
    for (uint32_t i = 0; i < a->n_stages; i++) {
        const joust_job_stage *x = &a->stages[i], *y = &b->stages[i];
        enter(d, "stages[%" PRIu32 "]", i);
        if (differ_word(d, "", (int)x->kind, (int)y->kind, WORDS(stage_names)) ||
            differ_bool(d, "own settings", x->has_train, y->has_train) ||
            (x->has_train && differ_train(d, &x->train, &y->train)))
            return true;
    }
    return false;
}

static bool differ_pairs(diff *d, const joust_job_pairs *x, const joust_job_pairs *y)
{
    enter(d, "pairs");
    return differ_text(d, "build", x->build, y->build) ||
           differ_real(d, "min_chosen", x->min_chosen, y->min_chosen) ||
           differ_real(d, "max_rejected", x->max_rejected, y->max_rejected) ||
           differ_real(d, "min_margin", x->min_margin, y->min_margin) ||
           differ_text(d, "rejected_model", x->rejected_model, y->rejected_model) ||
           differ_word(d, "rejected_version", (int)x->rejected_version, (int)y->rejected_version,
                       WORDS(pick_names));
}

static bool differ_promote(diff *d, const joust_job_promote *x, const joust_job_promote *y)
{
    enter(d, "promote");
    return differ_bool(d, "", x->on, y->on) || differ_text(d, "prompts", x->prompts, y->prompts) ||
           differ_text(d, "judge", x->judge, y->judge) ||
           differ_bool(d, "not_worse_than", x->gate, y->gate);
}

static bool differ_evaluate(diff *d, const joust_job_evaluate *x, const joust_job_evaluate *y)
{
    enter(d, "evaluate");
    return differ_bool(d, "", x->on, y->on) || differ_text(d, "prompts", x->prompts, y->prompts) ||
           differ_text(d, "judge", x->judge, y->judge) ||
           differ_text(d, "judged_by", x->judged_by, y->judged_by) ||
           differ_number(d, "samples", x->samples, y->samples) ||
           differ_sampling(d, &x->sampling, &y->sampling) ||
           differ_bool(d, "against base", x->against_base, y->against_base) ||
           differ_bool(d, "against previous", x->against_previous, y->against_previous);
}

static bool differ_stop(diff *d, const joust_job_rollout *x, const joust_job_rollout *y)
{
    if (differ_number(d, "stop", x->n_stop, y->n_stop))
        return true;
    for (uint32_t i = 0; i < x->n_stop; i++)
        if (differ_text(d, "stop", x->stop[i], y->stop[i]))
            return true;
    return false;
}

static bool differ_rollout(diff *d, const joust_job_rollout *x, const joust_job_rollout *y)
{
    enter(d, "rollout");
    return differ_number(d, "samples", x->samples, y->samples) ||
           differ_sampling(d, &x->sampling, &y->sampling) ||
           differ_text(d, "template", x->template_text, y->template_text) ||
           differ_text(d, "response_prefix", x->response_prefix, y->response_prefix) ||
           differ_stop(d, x, y) ||
           differ_word(d, "long_prompts", (int)x->long_prompts, (int)y->long_prompts,
                       WORDS(long_names)) ||
           differ_number(d, "max_prompt_tokens", x->max_prompt_tokens, y->max_prompt_tokens);
}

static bool differ_top(diff *d, const joust_job *a, const joust_job *b)
{
    enter(d, "%s", "");
    return differ_number(d, "seed", a->seed, b->seed) ||
           differ_bool(d, "prompts", a->has_prompts, b->has_prompts) ||
           differ_bool(d, "train", a->has_train, b->has_train) ||
           differ_word(d, "rewards.combine", (int)a->combine, (int)b->combine,
                       WORDS(combine_names));
}

static bool differ_train_block(diff *d, const joust_job *a, const joust_job *b)
{
    enter(d, "train");
    return a->has_train && differ_train(d, &a->train, &b->train);
}

joust_status joust_job_compare(const joust_job *recorded, const joust_job *given, joust_error *err)
{
    diff d = {.key = ""};
    if (differ_top(&d, recorded, given) || differ_models(&d, recorded, given) ||
        differ_sets(&d, recorded, given) ||
        differ_rollout(&d, &recorded->rollout, &given->rollout) ||
        differ_judges(&d, recorded, given) || differ_pairs(&d, &recorded->pairs, &given->pairs) ||
        differ_train_block(&d, recorded, given) || differ_stages(&d, recorded, given) ||
        differ_promote(&d, &recorded->promote, &given->promote) ||
        differ_evaluate(&d, &recorded->evaluate, &given->evaluate))
        return joust_fail(err, JOUST_CONFLICT,
                          "%s is %s in the job recorded here, and %s in the job given", d.key,
                          d.recorded, d.given);
    return JOUST_OK;
}
