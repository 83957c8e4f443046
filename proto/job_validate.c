/* What no single key of a job shows: references between its parts. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "proto/base/text.h"
#include "proto/job.h"

typedef struct check {
    const joust_job *job;
    char *key; /* 128 bytes, or NULL */
    joust_error *err;
} check;

static void set_key(const check *c, const char *format, ...) JOUST_PRINTF(2, 3);

/* Names the key that is looked at: what fails next is blamed on it. */
static void set_key(const check *c, const char *format, ...)
{
    va_list args;
    if (!c->key)
        return;
    va_start(args, format);
    vsnprintf(c->key, 128, format, args);
    va_end(args);
}

#define REFUSE(c, ...) return joust_fail((c)->err, JOUST_INVALID, __VA_ARGS__)

/* "'polisy' isn't one of models: policy, base; did you mean 'policy'?" */
static joust_status refuse_name(const check *c, const char *name, const char *of,
                                const char *const *names, uint32_t n)
{
    char list[512] = "";
    size_t at = 0;
    const char *nearest = joust_text_nearest(name ? name : "", names, n);
    for (uint32_t i = 0; i < n && at < sizeof(list); i++)
        at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", i ? ", " : "", names[i]);
    REFUSE(c, "'%s' isn't one of %s: %s%s%s%s", name ? name : "", of, n ? list : "there are none",
           nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'?" : "");
}

static joust_status refuse_model(const check *c, const char *name)
{
    const char *names[JOUST_MAX_MODELS];
    uint32_t n = 0;
    for (; n < c->job->n_models && n < JOUST_MAX_MODELS; n++)
        names[n] = c->job->models[n].name ? c->job->models[n].name : "";
    return refuse_name(c, name, "models", names, n);
}

static joust_status refuse_judge(const check *c, const char *name)
{
    const char *names[JOUST_MAX_JUDGES];
    uint32_t n = 0;
    for (; n < c->job->n_judges && n < JOUST_MAX_JUDGES; n++)
        names[n] = c->job->judges[n].name ? c->job->judges[n].name : "";
    return refuse_name(c, name, "judges", names, n);
}

/* http://host… or https://host…, ASCII, without a user, a query or a slash at the end. */
static bool is_base_url(const char *url)
{
    static const char *const schemes[] = {"http://", "https://"};
    size_t n = strlen(url);
    for (int i = 0; i < 2; i++) {
        size_t at = strlen(schemes[i]);
        if (strncmp(url, schemes[i], at) != 0)
            continue;
        for (size_t k = at; k < n; k++)
            if (url[k] <= ' ' || url[k] >= 0x7f || strchr("@?#\\", url[k]))
                return false;
        return n > at && url[at] != '/' && url[n - 1] != '/' && n <= JOUST_MAX_URL_BYTES;
    }
    return false;
}

/* Whether the job's answers come from this model, not its judges' verdicts alone. */
static bool generates(const joust_job *job, const joust_job_model *m)
{
    const uint32_t policy = job->has_train ? joust_job_find_model(job, job->train.model) : 0;
    return m == &job->models[policy == JOUST_NONE ? 0 : policy] ||
           (job->pairs.rejected_model && strcmp(job->pairs.rejected_model, m->name) == 0);
}

static joust_status check_endpoint(const check *c, const joust_job_model *m)
{
    const joust_job_endpoint *e = &m->endpoint;
    if (!m->has_serve && (m->path || m->init))
        REFUSE(c,
               "either path or endpoint: a served model has no folder here; with serve: {command: "
               "...} beside path Joust starts the servers");
    set_key(c, "rollout.response_prefix");
    if (c->job->rollout.response_prefix && generates(c->job, m))
        REFUSE(c, "isn't supported with a model served by an endpoint");
    set_key(c, "models.%.60s.endpoint.urls", m->name);
    if (e->n_urls == 0 || e->n_urls > JOUST_MAX_URLS)
        REFUSE(c, "expected 1 … %u URLs, there are %u", JOUST_MAX_URLS, e->n_urls);
    for (uint32_t i = 0; i < e->n_urls; i++) {
        if (!is_base_url(e->urls[i]))
            REFUSE(c,
                   "'%.100s' isn't http://HOST[:PORT]/v1 or https://…, without user, query or "
                   "slash at its end (keys come from api_key_env)",
                   strchr(e->urls[i], '@') ? "a URL with '@'" : e->urls[i]);
        for (uint32_t k = 0; k < i; k++)
            if (!strcmp(e->urls[i], e->urls[k]))
                REFUSE(c, "'%.100s' is there twice", e->urls[i]);
    }
    set_key(c, "models.%.60s.endpoint.model", m->name);
    if (!e->model || !*e->model)
        REFUSE(c, "missing: as the servers call it");
    set_key(c, "models.%.60s.endpoint.api_key_env", m->name);
    if (e->api_key_env && (!*e->api_key_env || strchr(e->api_key_env, '=')))
        REFUSE(c, "expected the name of an environment variable");
    set_key(c, "models.%.60s.endpoint.system", m->name);
    if (e->system && e->mode != JOUST_ENDPOINT_CHAT)
        REFUSE(c, "only mode: chat has a system message");
    set_key(c, "models.%.60s.endpoint.scoring", m->name);
    if ((uint32_t)e->scoring > JOUST_SCORING_TOP)
        REFUSE(c, "expected auto, echo or top");
    if (e->scoring == JOUST_SCORING_ECHO && e->mode == JOUST_ENDPOINT_CHAT)
        REFUSE(c, "mode: chat has no echo; leave it out, or say top");
    set_key(c, "models.%.60s.endpoint.ca_file", m->name);
    if (e->ca_file && strncmp(e->urls[0], "https:", 6) != 0)
        REFUSE(c, "the URLs are http: there is no certificate to check");
    set_key(c, "models.%.60s.endpoint", m->name);
    if (!e->samples_per_request || !e->concurrency || !e->connect_ms || !e->timeout_ms ||
        !e->deadline_ms || !e->breaker_failures || !e->breaker_ms)
        REFUSE(c, "samples_per_request, concurrency, times and breaker_failures are 1 or above");
    return JOUST_OK;
}

static bool is_one_of(const char *text, const char *const *names)
{
    while (*names && strcmp(text, *names))
        names++;
    return *names != NULL;
}

static joust_status check_serve(const check *c, const joust_job_model *m)
{
    static const char *const publish[] = {JOUST_PUBLISH_RESTART, JOUST_PUBLISH_VLLM,
                                          JOUST_PUBLISH_SGLANG, NULL};
    static const char *const sleep[] = {JOUST_SLEEP_NONE, JOUST_SLEEP_STOP, JOUST_PUBLISH_VLLM,
                                        JOUST_PUBLISH_SGLANG, NULL};
    const joust_job_serve *s = &m->serve;
    set_key(c, "models.%.60s.serve.command", m->name);
    if (!s->command || !strstr(s->command, "{model}") || !strstr(s->command, "{port}"))
        REFUSE(c, "it names no {model} (the folder to serve) or no {port}");
    set_key(c, "models.%.60s.serve.replicas", m->name);
    if (s->replicas == 0 || s->replicas > JOUST_MAX_URLS || s->replicas != m->endpoint.n_urls)
        REFUSE(c, "expected 1 … %u", JOUST_MAX_URLS);
    set_key(c, "models.%.60s.serve.port", m->name);
    if (s->port + s->replicas > 65536)
        REFUSE(c, "%u servers have no room between it and 65535", s->replicas);
    set_key(c, "models.%.60s.serve.ready", m->name);
    if (!s->ready || !*s->ready)
        REFUSE(c, "expected /PATH, or a part of a line");
    set_key(c, "models.%.60s.serve.publish", m->name);
    if (!s->publish || (*s->publish != '/' && !is_one_of(s->publish, publish)))
        REFUSE(c, "expected restart, vllm, sglang or /PATH");
    set_key(c, "models.%.60s.serve.sleep", m->name);
    if (!s->sleep || !is_one_of(s->sleep, sleep))
        REFUSE(c, "expected none, stop, vllm or sglang");
    if (is_one_of(s->sleep, sleep + 2) && strcmp(s->sleep, s->publish) != 0)
        REFUSE(c, "a server that wakes up has to be given weights by publish: %s", s->sleep);
    set_key(c, "models.%.60s.serve.deadline_ms", m->name);
    if (s->deadline_ms == 0)
        REFUSE(c, "must be 1 or above");
    set_key(c, "models.%.60s.serve.tolerance", m->name);
    if (!(s->tolerance > 0))
        REFUSE(c, "must be above 0");
    set_key(c, "models.%.60s.serve.endpoint.logprobs", m->name);
    if (!m->endpoint.logprobs)
        REFUSE(c, "servers are proved by their log-probs: leave it out");
    return JOUST_OK;
}

/* A job's model that is served by others alone; false if there is none of that name. */
static bool is_served(const joust_job *job, const char *name)
{
    uint32_t i = joust_job_find_model(job, name);
    return i != JOUST_NONE && joust_job_model_is_remote(&job->models[i]);
}

static const joust_job_endpoint *served_endpoint(const joust_job *job, const char *name)
{
    return &job->models[joust_job_find_model(job, name)].endpoint;
}

static joust_status check_models(const check *c)
{
    const joust_job *job = c->job;
    set_key(c, "models");
    if (job->n_models == 0 || job->n_models > JOUST_MAX_MODELS)
        REFUSE(c, "expected 1 … %u models, there are %u", JOUST_MAX_MODELS, job->n_models);
    for (uint32_t i = 0; i < job->n_models; i++) {
        const joust_job_model *m = &job->models[i];
        set_key(c, "models.%.100s", m->name);
        if (strlen(m->name) >= JOUST_MAX_NAME_BYTES)
            REFUSE(c, "a name has at most %u bytes", JOUST_MAX_NAME_BYTES - 1);
        if (joust_job_find_model(job, m->name) != i)
            REFUSE(c, "a model of this name was declared before");
        if (m->has_serve && m->serve.replicas == 0)
            REFUSE(c, "either endpoint (servers that run already), or serve (servers that Joust "
                      "starts; how they are asked stands under serve.endpoint)");
        joust_status st = m->has_endpoint ? check_endpoint(c, m) : JOUST_OK;
        if (st == JOUST_OK && m->has_serve)
            st = check_serve(c, m);
        if (st != JOUST_OK)
            return st;
        set_key(c, "models.%.100s", m->name);
        if (!joust_job_model_is_remote(m) && !m->path)
            REFUSE(c, "no path; add path: DIR, or endpoint: {urls: [...], model: ...}");
        set_key(c, "models.%.100s.scalar_head", m->name);
        if (m->scalar_head && m->has_endpoint)
            REFUSE(c, "a served model has no scalar head");
    }
    return JOUST_OK;
}

static joust_status check_sets(const check *c)
{
    const joust_job *job = c->job;
    set_key(c, "prompts");
    if (job->n_sets > JOUST_MAX_SETS)
        REFUSE(c, "more than %u files of prompts", JOUST_MAX_SETS);
    if (job->has_prompts && job->n_sets == 0)
        REFUSE(c, "no file of prompts; add prompts: {file: FILE.jsonl}");
    for (uint32_t i = 0; i < job->n_sets; i++) {
        if (joust_job_find_set(job, job->sets[i].name) != i)
            REFUSE(c, "two files of prompts are called '%s'", job->sets[i].name);
        if (!job->sets[i].path)
            REFUSE(c, "'%s' has no file", job->sets[i].name);
    }
    return JOUST_OK;
}

static joust_status check_judge(const check *c, uint32_t i)
{
    const joust_job_judge *j = &c->job->judges[i];
    const bool asks_model = joust_job_judge_asks(j);
    set_key(c, "judges[%u].name", i);
    if (j->name && strlen(j->name) >= JOUST_MAX_NAME_BYTES)
        REFUSE(c, "a name has at most %u bytes", JOUST_MAX_NAME_BYTES - 1);
    if (joust_job_find_judge(c->job, j->name) != i)
        REFUSE(c, "a judge called '%s' was declared before", j->name);
    set_key(c, "judges[%u].model", i);
    if (asks_model && !j->model)
        REFUSE(c, "judge '%s' needs a model; name one of models:", j->name);
    if (j->model && joust_job_find_model(c->job, j->model) == JOUST_NONE)
        return refuse_model(c, j->model);
    set_key(c, "judges[%u].labels", i);
    if (j->kind == JOUST_JUDGE_YES_NO && j->n_labels != 2)
        REFUSE(c, "expected 2 labels (yes, no), there are %u", j->n_labels);
    if (j->kind == JOUST_JUDGE_COMPARE && j->n_labels != 2 && j->n_labels != 3)
        REFUSE(c, "expected 2 or 3 labels (first, second, tie), there are %u", j->n_labels);
    set_key(c, "judges[%u].template", i);
    if (asks_model && !j->template_text)
        REFUSE(c, "judge '%s' needs a template", j->name);
    if (asks_model && is_served(c->job, j->model) && strstr(j->template_text, "_tokens}"))
        REFUSE(
            c,
            "'%s' is served by an endpoint and asked by text: write a template with {prompt} and "
            "{response} instead of token ids",
            j->model);
    set_key(c, "models.%.60s.endpoint.logprobs", j->model ? j->model : "");
    if (asks_model && is_served(c->job, j->model) && !served_endpoint(c->job, j->model)->logprobs)
        REFUSE(c, "judge '%s' asks it for log-probs: leave it out", j->name);
    set_key(c, "judges[%u].rule", i);
    if (j->kind == JOUST_JUDGE_RULE && j->rule == JOUST_RULE_NONE)
        REFUSE(c, "missing: final-number, steps-and-number, exact or regex");
    set_key(c, "judges[%u].pattern", i);
    if (j->rule == JOUST_RULE_REGEX && !j->pattern)
        REFUSE(c, "missing: rule regex needs a pattern");
    return JOUST_OK;
}

/* Whether the job's judge of that name sets answers against each other instead of giving each its own value. */
static bool compares(const joust_job *job, const char *name)
{
    uint32_t i = joust_job_find_judge(job, name);
    return i != JOUST_NONE && job->judges[i].kind == JOUST_JUDGE_COMPARE;
}

static bool has_reward_judge(const joust_job *job)
{
    for (uint32_t i = 0; i < job->n_judges; i++)
        if (job->judges[i].role == JOUST_ROLE_REWARD)
            return true;
    return false;
}

/* What only the built-in engine does, beside response_prefix, which check_endpoint refuses. */
static joust_status check_served_rollout(const check *c)
{
    const joust_job_rollout *r = &c->job->rollout;
    const struct {
        const char *key;
        bool set;
    } ours[] = {{"min_tokens", r->sampling.min_tokens > 0},
                {"repetition_penalty", r->sampling.repetition_penalty > 0},
                {"stop", r->n_stop > 0},
                {"long_prompts", r->long_prompts != JOUST_LONG_PROMPTS_REFUSE},
                {"max_prompt_tokens", r->max_prompt_tokens > 0},
                {"choices", r->n_choices > 0},
                {"regex", r->regex != NULL}};
    for (uint32_t i = 0; i < c->job->n_models; i++)
        for (size_t k = 0;
             c->job->models[i].has_endpoint && generates(c->job, &c->job->models[i]) &&
             k < sizeof(ours) / sizeof(*ours);
             k++) {
            set_key(c, "rollout.%s", ours[k].key);
            if (ours[k].set)
                REFUSE(c, "the built-in engine's alone; '%s' is served by an endpoint%s",
                       c->job->models[i].name,
                       strcmp(ours[k].key, "stop") == 0 ? ": name stop strings there" : "");
        }
    return JOUST_OK;
}

static joust_status check_rollout(const check *c)
{
    const joust_job_rollout *r = &c->job->rollout;
    set_key(c, "rollout.samples");
    if (r->samples == 0 || r->samples > JOUST_MAX_GROUP)
        REFUSE(c, "expected 1 … %u, not %u", JOUST_MAX_GROUP, r->samples);
    for (uint32_t i = 0; i < c->job->n_judges && r->samples < 2; i++) {
        const joust_job_judge *j = &c->job->judges[i];
        if (j->role == JOUST_ROLE_REWARD && j->kind == JOUST_JUDGE_COMPARE)
            REFUSE(c, "judge '%s' compares answers: it needs 2 samples or more", j->name);
    }
    set_key(c, "rollout.max_tokens");
    if (r->sampling.max_tokens == 0 || r->sampling.max_tokens > JOUST_MAX_TOKENS)
        REFUSE(c, "expected 1 … %u, not %u", JOUST_MAX_TOKENS, r->sampling.max_tokens);
    set_key(c, "rollout.min_tokens");
    if (r->sampling.min_tokens > r->sampling.max_tokens)
        REFUSE(c, "%u, but max_tokens is %u", r->sampling.min_tokens, r->sampling.max_tokens);
    set_key(c, "rollout.stop");
    if (r->n_stop > JOUST_MAX_STOP_STRINGS)
        REFUSE(c, "%u texts, at most %u are allowed", r->n_stop, JOUST_MAX_STOP_STRINGS);
    for (uint32_t i = 0; i < r->n_stop; i++)
        if (!r->stop[i] || !r->stop[i][0])
            REFUSE(c, "an empty text would stop every response before its first token");
    set_key(c, "rollout.regex");
    if (r->regex && r->n_choices)
        REFUSE(c, "either choices or regex");
    set_key(c, "rollout.long_prompts");
    if (r->long_prompts != JOUST_LONG_PROMPTS_REFUSE && r->long_prompts != JOUST_LONG_PROMPTS_CUT)
        REFUSE(c, "expected refuse or cut");
    return check_served_rollout(c);
}

/* Floors that no reward can reach: rules give 0 or 1, comparisons the share of those won. */
static joust_status check_bounds(const check *c)
{
    static const char why[] = "no pair can be: the job's reward judges give 0 to 1";
    const joust_job_pairs *p = &c->job->pairs;
    for (uint32_t i = 0; i < c->job->n_judges; i++) {
        const joust_job_judge *j = &c->job->judges[i];
        if (j->role == JOUST_ROLE_REWARD && j->kind != JOUST_JUDGE_RULE &&
            j->kind != JOUST_JUDGE_COMPARE)
            return JOUST_OK;
    }
    set_key(c, "pairs.min_chosen");
    if (p->min_chosen > 1)
        REFUSE(c, "%g: %s", p->min_chosen, why);
    set_key(c, "pairs.max_rejected");
    if (p->max_rejected < 0)
        REFUSE(c, "%g: %s", p->max_rejected, why);
    set_key(c, "pairs.min_margin");
    if (p->min_margin > 1)
        REFUSE(c, "%g: %s", p->min_margin, why);
    return JOUST_OK;
}

static joust_status check_pairs(const check *c)
{
    const joust_job_pairs *p = &c->job->pairs;
    set_key(c, "pairs.build");
    if (!p->build || strcmp(p->build, "best-worst") != 0)
        REFUSE(c, "'%s' isn't known; expected best-worst", p->build ? p->build : "");
    set_key(c, "pairs.min_margin");
    if (!(p->min_margin >= 0))
        REFUSE(c, "must be 0 or above");
    set_key(c, "pairs.rejected_model");
    if (p->rejected_model && joust_job_find_model(c->job, p->rejected_model) == JOUST_NONE)
        return refuse_model(c, p->rejected_model);
    set_key(c, "rollout.temperature");
    if (c->job->rollout.sampling.temperature <= 0 && !p->rejected_model)
        REFUSE(c, "0 gives the same answer each time: there is nothing to choose from; above 0");
    return check_bounds(c);
}

/* What the loss takes. at: as below. */
static joust_status check_objective(const check *c, const joust_job_train *t, const char *at)
{
    const joust_train_settings settings = joust_job_train_settings(c->job, t);
    const char *key = "";
    joust_status st = joust_objective_check(&settings, &key, c->err);
    set_key(c, "%s.%s", at, key);
    if (st != JOUST_OK)
        return st;
    set_key(c, "%s.lora", at);
    if (joust_loss_traits_of(settings.loss)->of_scores && t->has_lora)
        REFUSE(c, "an adapter beside a scalar head isn't supported; leave it out");
    set_key(c, "%s.batch_size", at);
    if (t->loss == JOUST_LOSS_KTO && t->batch_size < 2)
        REFUSE(c, "kto compares answers with those of other prompts: it needs 2 or more");
    return JOUST_OK;
}

static joust_status check_external(const check *c, const joust_job_train *t, const char *at)
{
    if (!t->has_external)
        return JOUST_OK;
    set_key(c, "%s.command", at);
    if (!t->external.command || !*t->external.command)
        REFUSE(c, "it is empty");
    if (t->external.nodes == 0 || t->external.deadline_ms == 0)
        REFUSE(c, "nodes and deadline_ms are 1 or above");
    set_key(c, "%s.loss", at);
    if (joust_policy_traits_of(t->loss))
        REFUSE(c, "a policy loss isn't given to a train.command yet: it gets pairs");
    set_key(c, "%s.lora", at);
    if (t->has_lora)
        REFUSE(c, "not with train.command: what it gives back is whole checkpoints");
    return JOUST_OK;
}

static joust_status check_lora(const check *c, const joust_job_train *t, const char *at)
{
    const char *key = "";
    if (!t->has_lora)
        return JOUST_OK;
    joust_status st = joust_lora_check(&t->lora, &key, c->err);
    set_key(c, "%s.lora.%s", at, key);
    if (st != JOUST_OK)
        return st;
    set_key(c, "%s.lora.dropout", at);
    if (t->lora_dropout != 0)
        REFUSE(c, "isn't supported: a step's gradient would no longer be a function of its rows; "
                  "leave it out");
    set_key(c, "%s.reference_sync_steps", at);
    if (t->objective.reference_sync_steps)
        REFUSE(c, "not with lora: a moving reference has no adapter to move");
    return JOUST_OK;
}

/* PPO's critic. at: as below. */
static joust_status check_critic(const check *c, const joust_job_train *t, const char *at)
{
    const joust_job *job = c->job;
    const joust_job_critic *k = &t->critic;
    set_key(c, "%s.critic", at);
    if (t->loss != JOUST_LOSS_PPO && t->has_critic)
        REFUSE(c, "is of the loss ppo; leave it out");
    if (t->loss != JOUST_LOSS_PPO)
        return JOUST_OK;
    set_key(c, "%s.critic.model", at);
    const uint32_t model = joust_job_find_model(job, k->model);
    if (model == JOUST_NONE)
        return refuse_model(c, k->model);
    if (strcmp(k->model, t->model) == 0)
        REFUSE(c, "'%s' is the policy; a critic is a model of its own, with a scalar head",
               k->model);
    if (job->models[model].has_endpoint)
        REFUSE(c, "'%s' is served; the critic is trained and asked by the built-in engine",
               k->model);
    if (!(k->gamma >= 0 && k->gamma <= 1 && k->lambda >= 0 && k->lambda <= 1 &&
          k->value_clip >= 0 && k->learning_rate >= 0))
        REFUSE(c, "gamma and lambda are 0 to 1, value_clip and learning_rate 0 or above");
    set_key(c, "%s.dynamic_sampling", at);
    if (t->policy.dynamic_sampling)
        REFUSE(c, "ppo takes no advantage from a group: every answer has a part");
    set_key(c, "%s.reference", at);
    if (k->kl_in_reward && t->policy.kl_weight > 0 && t->reference == JOUST_PICK_ROUND_START)
        REFUSE(c, "in the reward the divergence from the round's own start is 0 at every token: "
                  "reference: initial");
    set_key(c, "%s.kl", at);
    if (k->kl_in_reward && t->policy.kl == JOUST_KL_K2)
        REFUSE(c, "in the reward it is the log-ratio (k1); with critic: {kl_in_reward: false} it "
                  "is a term of the loss");
    return JOUST_OK;
}

/* The keys of policy losses: theirs alone. at: as below. */
static joust_status check_policy(const check *c, const joust_job_train *t, const char *at)
{
    const joust_job_policy *p = &t->policy, usual = joust_job_policy_default();
    const struct {
        const char *name;
        double value, usual;
    } keys[] = {{"epsilon", p->epsilon, usual.epsilon},
                {"epsilon_high", p->epsilon_high, usual.epsilon_high},
                {"max_ratio", p->max_ratio, usual.max_ratio},
                {"kl_weight", p->kl_weight, usual.kl_weight},
                {"entropy_weight", p->entropy_weight, usual.entropy_weight},
                {"kl", p->kl, usual.kl},
                {"dynamic_sampling", p->dynamic_sampling, usual.dynamic_sampling},
                {"importance_cap", p->importance_cap, usual.importance_cap}};
    const joust_policy_traits *traits = joust_policy_traits_of(t->loss);
    for (size_t i = 0; !traits && i < sizeof(keys) / sizeof(*keys); i++) {
        set_key(c, "%s.%s", at, keys[i].name);
        if (memcmp(&keys[i].value, &keys[i].usual, sizeof(keys[i].value)) != 0)
            REFUSE(c, "is of policy losses (grpo, rloo, …); leave it out");
    }
    if (!traits)
        return JOUST_OK;
    set_key(c, "%s.kl_weight", at);
    if (p->kl_weight > 0 && t->reference == JOUST_PICK_NONE)
        REFUSE(c, "needs a reference; %s.reference is none", at);
    const char *answers = c->job->has_train ? c->job->train.model : c->job->models[0].name;
    set_key(c, "%s.model", at);
    if (strcmp(t->model, answers) != 0)
        REFUSE(c, "%s trains the model that answers, which is '%s'", traits->name, answers);
    set_key(c, "pairs.rejected_model");
    if (c->job->pairs.rejected_model)
        REFUSE(c, "%s trains on the policy's own answers alone", traits->name);
    set_key(c, "rollout.samples");
    if (c->job->rollout.samples < 2 && t->loss != JOUST_LOSS_PPO)
        REFUSE(c, "%s compares a prompt's samples: it needs 2 or more", traits->name);
    set_key(c, "%s.importance_cap", at);
    if (p->importance_cap > 0 && !c->job->models[joust_job_find_model(c->job, t->model)].has_serve)
        REFUSE(c, "weighs what servers drew, and '%s' has no serve: leave it out", t->model);
    return JOUST_OK;
}

/* at: "train", or "stages[2].train". */
static joust_status check_train(const check *c, const joust_job_train *t, const char *at)
{
    const joust_job *job = c->job;
    set_key(c, "%s.model", at);
    if (!t->model || joust_job_find_model(job, t->model) == JOUST_NONE)
        return refuse_model(c, t->model);
    if (is_served(job, t->model))
        REFUSE(c,
               "'%s' is served by an endpoint: the built-in trainer has no weights of it; leave "
               "train: out and export the pairs, or name a model with a path",
               t->model);
    set_key(c, "%s.lora", at);
    if (t->has_lora && job->models[joust_job_find_model(job, t->model)].has_serve)
        REFUSE(c,
               "'%s' is served from whole checkpoints; an adapter can't be given to its servers "
               "yet: leave lora out, or serve",
               t->model);
    set_key(c, "%s.batch_size", at);
    if (t->batch_size == 0)
        REFUSE(c, "must be 1 or above");
    set_key(c, "%s.max_steps", at);
    if (t->max_steps == 0)
        REFUSE(c, "must be 1 or above");
    set_key(c, "%s.loss", at);
    const joust_loss_traits *loss = joust_loss_traits_of(t->loss);
    const joust_policy_traits *policy = joust_policy_traits_of(t->loss);
    if (t->loss == JOUST_LOSS_POLICY || t->loss == JOUST_LOSS_VALUE)
        REFUSE(c, "number %d is no loss of a job", (int)t->loss);
    if (t->data && (policy || (loss && loss->of_pairs)))
        REFUSE(c,
               "%s trains on the round's answers, not on a file; use loss: sft or leave data out",
               policy ? policy->name : loss->name);
    joust_status st = check_objective(c, t, at);
    if (st == JOUST_OK)
        st = check_external(c, t, at);
    if (st == JOUST_OK)
        st = check_lora(c, t, at);
    if (st == JOUST_OK)
        st = check_policy(c, t, at);
    if (st == JOUST_OK)
        st = check_critic(c, t, at);
    if (st != JOUST_OK || t->data)
        return st;
    set_key(c, "%s", at);
    if (!job->has_prompts)
        REFUSE(c, "needs pairs, but the job has no prompts; add prompts: or %s.data", at);
    set_key(c, "judges");
    if (!has_reward_judge(job))
        REFUSE(c, "training on pairs needs a judge with role: reward");
    set_key(c, "pairs.rejected_model");
    if (is_served(job, job->pairs.rejected_model))
        REFUSE(c,
               "'%s' is served by an endpoint, whose answers may have no token ids; training on "
               "them isn't supported yet",
               job->pairs.rejected_model);
    set_key(c, "rollout.samples");
    if (job->rollout.samples < 2 && !job->pairs.rejected_model && t->loss != JOUST_LOSS_PPO)
        REFUSE(c, "a pair needs 2 samples of a prompt or more");
    return check_pairs(c);
}

static joust_status check_measure(const check *c, const char *at, const char *prompts,
                                  const char *judge)
{
    set_key(c, "%s.prompts", at);
    if (joust_job_find_set(c->job, prompts) == JOUST_NONE)
        REFUSE(c, "missing; name a file of prompts");
    set_key(c, "%s.judge", at);
    if (joust_job_find_judge(c->job, judge) == JOUST_NONE)
        return refuse_judge(c, judge);
    if (compares(c->job, judge))
        REFUSE(c, "'%s' compares answers; measuring needs a judge of each (yes-no, rule)", judge);
    return JOUST_OK;
}

static joust_status check_evaluate(const check *c)
{
    const joust_job_evaluate *e = &c->job->evaluate;
    joust_status st = check_measure(c, "evaluate", e->prompts, e->judge);
    if (st != JOUST_OK)
        return st;
    set_key(c, "evaluate.judged_by");
    if (e->judged_by && joust_job_find_judge(c->job, e->judged_by) == JOUST_NONE)
        return refuse_judge(c, e->judged_by);
    if (e->judged_by && compares(c->job, e->judged_by))
        REFUSE(c, "'%s' compares answers; only a judge of each is measured", e->judged_by);
    set_key(c, "evaluate.samples");
    if (e->samples > JOUST_MAX_GROUP)
        REFUSE(c, "at most %u, not %u", JOUST_MAX_GROUP, e->samples);
    if (e->judged_by && e->samples == 0)
        REFUSE(c, "judged_by is measured on sampled answers: 1 or more are needed");
    return JOUST_OK;
}

/* PPO's critic is of the round's start, and what it looks at is the policy that answered then. */
static joust_status check_one_ppo(const check *c)
{
    const joust_job *job = c->job;
    for (uint32_t i = 0; i < job->n_stages; i++) {
        const joust_job_train *t = job->stages[i].has_train ? &job->stages[i].train : &job->train;
        if (job->stages[i].kind != JOUST_DECLARED_TRAIN || t->loss != JOUST_LOSS_PPO)
            continue;
        for (uint32_t k = 0; k < job->n_stages; k++) {
            const joust_job_train *other =
                job->stages[k].has_train ? &job->stages[k].train : &job->train;
            set_key(c, "stages[%u]", k);
            if (k != i && job->stages[k].kind == JOUST_DECLARED_TRAIN &&
                (strcmp(other->model, t->model) == 0 || strcmp(other->model, t->critic.model) == 0))
                REFUSE(c, "beside ppo nothing else trains '%s' in a round", other->model);
        }
    }
    return JOUST_OK;
}

/* What each declared stage needs of those before it. */
static joust_status check_stages(const check *c)
{
    const joust_job *job = c->job;
    bool seen[JOUST_DECLARED_PROMOTE + 1] = {false};
    set_key(c, "stages");
    if (job->n_stages > JOUST_MAX_STAGES)
        REFUSE(c, "more than %u stages", JOUST_MAX_STAGES);
    for (uint32_t i = 0; i < job->n_stages; i++) {
        const joust_job_stage *s = &job->stages[i];
        char at[64];
        set_key(c, "stages[%u]", i);
        snprintf(at, sizeof(at), "stages[%u].train", i);
        if (s->kind == JOUST_DECLARED_GENERATE && !job->has_prompts)
            REFUSE(c, "generate needs prompts:");
        if (s->kind == JOUST_DECLARED_JUDGE && !seen[JOUST_DECLARED_GENERATE])
            REFUSE(c, "judge needs a generate before it");
        if (s->kind == JOUST_DECLARED_PAIR && !seen[JOUST_DECLARED_JUDGE])
            REFUSE(c, "pair needs a judge before it");
        if (s->kind == JOUST_DECLARED_EVALUATE && !job->evaluate.on)
            REFUSE(c, "evaluate needs evaluate:");
        if (s->kind == JOUST_DECLARED_PROMOTE && !job->promote.on)
            REFUSE(c, "promote needs promote:");
        if (s->kind == JOUST_DECLARED_TRAIN && !s->has_train && !job->has_train)
            REFUSE(c, "train needs train:");
        if (s->kind == JOUST_DECLARED_TRAIN) {
            const joust_job_train *t = s->has_train ? &s->train : &job->train;
            if (!t->data && !seen[JOUST_DECLARED_PAIR])
                REFUSE(c, "train needs a pair before it, or data: FILE");
            joust_status st = check_train(c, t, s->has_train ? at : "train");
            if (st != JOUST_OK)
                return st;
        }
        seen[s->kind] = true;
    }
    return check_one_ppo(c);
}

/* The checks, numbered: those of the whole job around one of each judge. */
enum { N_BEFORE = 3, N_AFTER = 5 };

static joust_status check_name(const check *c)
{
    const char *name = c->job->name;
    set_key(c, "name");
    if (!name || !*name || strlen(name) >= JOUST_MAX_NAME_BYTES)
        REFUSE(c, "expected 1 … %u bytes", JOUST_MAX_NAME_BYTES - 1);
    set_key(c, "judges");
    if (c->job->n_judges > JOUST_MAX_JUDGES)
        REFUSE(c, "more than %u judges", JOUST_MAX_JUDGES);
    return JOUST_OK;
}

static joust_status check_part(const check *c, uint32_t part)
{
    const joust_job *job = c->job;
    if (part >= N_BEFORE && part < N_BEFORE + job->n_judges)
        return check_judge(c, part - N_BEFORE);
    switch (part < N_BEFORE ? part : part - job->n_judges) {
    case 0:
        return check_name(c);
    case 1:
        return check_models(c);
    case 2:
        return check_sets(c);
    case N_BEFORE:
        return job->has_prompts ? check_rollout(c) : JOUST_OK;
    case N_BEFORE + 1:
        return job->has_train && job->n_stages == 0 ? check_train(c, &job->train, "train")
                                                    : JOUST_OK;
    case N_BEFORE + 2:
        return job->promote.on
                   ? check_measure(c, "promote", job->promote.prompts, job->promote.judge)
                   : JOUST_OK;
    case N_BEFORE + 3:
        return job->evaluate.on ? check_evaluate(c) : JOUST_OK;
    default:
        return check_stages(c);
    }
}

joust_status joust_job_validate(const joust_job *job, char ret_key[128], joust_error *err)
{
    const check c = {.job = job, .key = ret_key, .err = err};
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < N_BEFORE + job->n_judges + N_AFTER; i++)
        st = check_part(&c, i);
    if (st == JOUST_OK && ret_key)
        ret_key[0] = '\0';
    return st;
}

joust_status joust_job_validate_all(const joust_job *job, joust_job_problem_fn *report,
                                    void *context, joust_error *err)
{
    char key[128];
    joust_error why = {0};
    const check c = {.job = job, .key = key, .err = &why};
    for (uint32_t i = 0; i < N_BEFORE + job->n_judges + N_AFTER; i++) {
        joust_status st = check_part(&c, i);
        if (st == JOUST_INVALID)
            report(context, key, why.text);
        else if (st != JOUST_OK)
            return joust_fail(err, st, "%s", why.text);
    }
    return JOUST_OK;
}
