#include "ops/credit_view.h"

#include <inttypes.h>
#include <stdio.h>

#include "coordinator/graded.h"
#include "proto/base/alloc.h"
#include "storage/export.h"
#include "storage/json.h"
#include "storage/lineage.h"

enum { MAX_USES = 1000, SHOWN_USES = 20 };

struct joust_credit_view {
    joust_store *store;
    joust_plan *plan;
    /* The group read last. */
    bool has_group, decided;
    joust_unit_key group; /* of its GENERATE stage */
    uint32_t pair_stage;
    joust_graded graded;
    joust_credit *credit;
};

static uint32_t policy_stage_of(const joust_plan *plan, uint32_t generate)
{
    for (uint32_t i = 0; i < plan->n_stages; i++)
        if (plan->stages[i].kind == JOUST_STAGE_PAIR && plan->stages[i].advantage &&
            plan->stages[i].of == generate)
            return i;
    return JOUST_NONE;
}

joust_status joust_credit_view_open(joust_store *store, joust_credit_view **ret, joust_error *err)
{
    joust_plan *plan = NULL;
    bool any = false;
    joust_status st = joust_plan_create(joust_store_job(store), &plan, err);
    if (st != JOUST_OK)
        return st;
    for (uint32_t i = 0; i < plan->n_stages; i++)
        any |= policy_stage_of(plan, i) != JOUST_NONE;
    joust_credit_view *v = any ? joust_calloc(1, sizeof(*v)) : NULL;
    *ret = v;
    if (v) {
        v->store = store;
        v->plan = plan;
        return JOUST_OK;
    }
    joust_free(plan);
    return any ? joust_fail(err, JOUST_NOMEM, "credit: out of memory") : JOUST_OK;
}

static void forget_group(joust_credit_view *v)
{
    if (v->has_group)
        joust_graded_fini(&v->graded);
    joust_free(v->credit);
    v->credit = NULL;
    v->has_group = false;
}

void joust_credit_view_close(joust_credit_view **view)
{
    joust_credit_view *v = *view;
    if (!v)
        return;
    forget_group(v);
    joust_free(v->plan);
    joust_free(v);
    *view = NULL;
}

/* The group of a GENERATE unit, with what the PAIR stage made of it. */
static joust_status read_group(joust_credit_view *v, const joust_unit_key *unit, joust_error *err)
{
    const joust_graded_sources sources = {
        .store = v->store, .job = joust_store_job(v->store), .plan = v->plan};
    const joust_unit_key pair = {
        .round = unit->round, .stage = v->pair_stage, .position = unit->position};
    joust_said said;
    joust_status st = joust_said_read(&sources, &pair, &said, err);
    if (st != JOUST_OK)
        return st;
    st = joust_graded_read(&sources, &pair, unit->stage, &said, &v->graded, err);
    joust_said_fini(&said);
    if (st != JOUST_OK)
        return st;
    v->has_group = true;
    v->group = *unit;
    return joust_graded_credit(&v->graded, &v->plan->stages[v->pair_stage], &v->credit, &v->decided,
                               err);
}

joust_status joust_credit_view_get(joust_credit_view *v, const joust_trajectory *answer,
                                   joust_answer_credit *ret, joust_error *err)
{
    const joust_unit_key *unit = &answer->key;
    joust_answer_credit got = {.pair_stage = unit->stage < v->plan->n_stages
                                                 ? policy_stage_of(v->plan, unit->stage)
                                                 : JOUST_NONE};
    joust_status st = JOUST_OK;
    if (got.pair_stage != JOUST_NONE && !(v->has_group && joust_unit_key_equal(&v->group, unit))) {
        forget_group(v);
        v->pair_stage = got.pair_stage;
        st = read_group(v, unit, err);
    }
    if (st != JOUST_OK)
        return st;
    if (got.pair_stage != JOUST_NONE && answer->sample < v->graded.n) {
        const joust_stage *pair = &v->plan->stages[got.pair_stage];
        const joust_reward *reward = &v->graded.rewards[answer->sample];
        const joust_credit *credit = &v->credit[answer->sample];
        got.has_reward = reward->has;
        got.reward = reward->value;
        got.has_advantage = credit->used && (v->decided || !pair->dynamic_sampling) &&
                            pair->advantage != JOUST_ADVANTAGE_REWARD;
        got.advantage = credit->advantage;
    }
    *ret = got;
    return JOUST_OK;
}

/* Tokens that were given or left without a choice have no credit, unless the job says so. What a mask forced isn't known here. */
static double credit_of(const joust_credit_view *v, const joust_trajectory *t,
                        const joust_answer_credit *got, uint32_t token)
{
    bool all = false;
    for (uint32_t i = 0; i < v->plan->n_stages; i++)
        all |= v->plan->stages[i].kind == JOUST_STAGE_TRAIN &&
               v->plan->stages[i].pairs == got->pair_stage &&
               v->plan->stages[i].train.forced_tokens;
    return token < t->n_forced && !all ? 0 : got->advantage;
}

static uint64_t ordinal_of(const joust_credit_view *v, const joust_trajectory *t)
{
    return t->key.position * v->plan->stages[t->key.stage].samples + t->sample;
}

/* PPO: its critic makes the advantages, a token each. */
static bool is_of_critic(const joust_credit_view *v, const joust_answer_credit *got)
{
    return v->plan->stages[got->pair_stage].advantage == JOUST_ADVANTAGE_REWARD;
}

/* ---- text ------------------------------------------------------------------------------------ */

/* What PPO's critic gave each token. */
static joust_status print_tokens_credit(const joust_credit_view *v, const joust_trajectory *t,
                                        const joust_answer_credit *got, joust_error *err)
{
    joust_token_credit credit = {0};
    joust_status st = joust_lineage_get_credit(v->store, v->plan, t->key.round, got->pair_stage,
                                               ordinal_of(v, t), &credit, err);
    if (st != JOUST_OK)
        return st;
    if (credit.n != t->n_tokens || credit.n == 0)
        printf("; ppo's critic told no advantages of it: it wasn't trained on, or before they were "
               "recorded\n");
    else
        printf("\ntoken by token: log-prob of the model; of the distribution drawn from; ppo's "
               "advantage; return\n");
    for (uint32_t i = 0; credit.n == t->n_tokens && i < credit.n; i++)
        printf("  %5" PRIu32 " %8" PRIu32 " %10.5f %10.5f %10.5f %10.5f%s\n", i, t->tokens[i],
               (double)t->raw_logps[i], (double)t->logps[i], (double)credit.advantages[i],
               (double)credit.returns[i], i < t->n_forced ? "  given" : "");
    joust_free(credit.advantages);
    joust_free(credit.returns);
    return JOUST_OK;
}

static void print_credit(const joust_credit_view *v, const joust_trajectory *t,
                         const joust_answer_credit *got)
{
    const joust_job_rollout *how = &joust_store_job(v->store)->rollout;
    printf("\ncredit\nreward ");
    printf(got->has_reward ? "%.6g" : "none", got->reward);
    if (is_of_critic(v, got))
        return;
    if (!got->has_advantage) {
        printf(", not trained on\n");
        return;
    }
    if (v->plan->stages[got->pair_stage].advantage == JOUST_ADVANTAGE_LABEL) {
        printf(", %s\n", got->advantage > 0 ? "desirable" : "undesirable");
        return;
    }
    printf(", advantage %.6g\n", got->advantage);
    if (how->regex || how->n_choices || how->grammar || how->json_schema)
        printf("(tokens that the job's mask left no choice for have none)\n");
    printf("token by token: log-prob of the model; of the distribution drawn from; credit\n");
    for (uint32_t i = 0; i < t->n_tokens; i++)
        printf("  %5" PRIu32 " %8" PRIu32 " %10.5f %10.5f %10.5f%s\n", i, t->tokens[i],
               (double)t->raw_logps[i], (double)t->logps[i], credit_of(v, t, got, i),
               i < t->n_forced ? "  given" : "");
}

/* The steps that used the answer, at most MAX_USES of them; *ret (owned) and how many there are. */
static joust_status find_uses(const joust_credit_view *v, const joust_trajectory *t,
                              const joust_answer_credit *got, joust_use **ret, uint32_t *ret_n,
                              joust_error *err)
{
    joust_use *uses = joust_calloc(MAX_USES, sizeof(*uses));
    if (!uses)
        return joust_fail(err, JOUST_NOMEM, "credit: out of memory");
    joust_status st = joust_lineage_get_row_uses(v->store, v->plan, t->key.round, got->pair_stage,
                                                 ordinal_of(v, t), MAX_USES, uses, ret_n, err);
    if (st == JOUST_OK)
        *ret = uses;
    else
        joust_free(uses);
    return st;
}

static joust_status print_uses(const joust_credit_view *v, const joust_trajectory *t,
                               const joust_answer_credit *got, joust_error *err)
{
    joust_use *uses = NULL;
    uint32_t n = 0;
    joust_status st = find_uses(v, t, got, &uses, &n, err);
    if (st != JOUST_OK)
        return st;
    printf("\ntrained on in %" PRIu32 " step%s%s", n, n == 1 ? "" : "s", n ? ":" : "");
    for (uint32_t i = 0; i < n && i < SHOWN_USES; i++)
        printf(" %s %" PRIu32, v->plan->stages[uses[i].stage].name, uses[i].step);
    printf(n > SHOWN_USES ? " …\n" : "\n");
    joust_free(uses);
    return JOUST_OK;
}

joust_status joust_credit_explain(joust_store *store, const joust_trajectory *answer,
                                  joust_error *err)
{
    joust_credit_view *v = NULL;
    joust_answer_credit got;
    joust_status st = joust_credit_view_open(store, &v, err);
    if (st != JOUST_OK || !v)
        return st;
    st = joust_credit_view_get(v, answer, &got, err);
    if (st == JOUST_OK && got.pair_stage != JOUST_NONE) {
        print_credit(v, answer, &got);
        if (is_of_critic(v, &got))
            st = print_tokens_credit(v, answer, &got, err);
        if (st == JOUST_OK)
            st = print_uses(v, answer, &got, err);
    }
    joust_credit_view_close(&v);
    return st;
}

/* ---- JSON ------------------------------------------------------------------------------------ */

joust_status joust_credit_add_json(joust_credit_view *v, const joust_trajectory *answer,
                                   joust_buf *to, joust_error *err)
{
    joust_answer_credit got;
    joust_status st = joust_credit_view_get(v, answer, &got, err);
    if (st != JOUST_OK || !joust_buf_ok(to) || to->n == 0)
        return st;
    to->n--; /* the closing brace */
    joust_json_add_optional(to, "reward", got.has_reward, got.reward);
    joust_json_add_optional(to, "advantage", got.has_advantage, got.advantage);
    joust_json_close(to, '}');
    return JOUST_OK;
}

joust_status joust_credit_each_json(joust_store *store, const joust_key_range *range,
                                    bool provenance, joust_credit_line_fn *fn, void *context,
                                    joust_error *err)
{
    joust_cursor *cursor;
    joust_status st = joust_cursor_open(store, JOUST_FAMILY_TRAJECTORIES, range, &cursor, err);
    if (st != JOUST_OK)
        return st;
    joust_trajectory t;
    while ((st = joust_cursor_next_trajectory(cursor, &t, err)) == JOUST_OK) {
        const joust_record_id id = joust_trajectory_id(&t);
        joust_buf line = {0};
        st = joust_export_one(store, JOUST_FAMILY_TRAJECTORIES, &id, provenance, &line, err);
        if (st == JOUST_OK)
            st = fn(context, &t, &line, err);
        joust_buf_fini(&line);
        joust_trajectory_fini(&t);
        if (st != JOUST_OK)
            break;
    }
    joust_cursor_close(&cursor);
    return st == JOUST_END ? JOUST_OK : st;
}

static joust_status add_uses(joust_buf *to, const joust_credit_view *v, const joust_trajectory *t,
                             const joust_answer_credit *got, joust_error *err)
{
    joust_use *uses = NULL;
    uint32_t n = 0;
    joust_status st = find_uses(v, t, got, &uses, &n, err);
    if (st != JOUST_OK)
        return st;
    joust_json_add_count(to, "n_steps", n);
    joust_json_key(to, "steps");
    joust_json_open(to, '[');
    for (uint32_t i = 0; i < n && i < MAX_USES; i++) {
        joust_json_key(to, "");
        joust_json_open(to, '{');
        joust_json_add_text(to, "name", v->plan->stages[uses[i].stage].name);
        joust_json_add_count(to, "stage", uses[i].stage);
        joust_json_add_count(to, "step", uses[i].step);
        joust_json_close(to, '}');
    }
    joust_json_close(to, ']');
    joust_free(uses);
    return JOUST_OK;
}

static joust_status explain_json(joust_credit_view *v, const joust_trajectory *t, joust_buf *to,
                                 joust_error *err)
{
    joust_answer_credit got;
    joust_status st = joust_credit_view_get(v, t, &got, err);
    if (st != JOUST_OK || got.pair_stage == JOUST_NONE)
        return st;
    st = joust_credit_add_json(v, t, to, err);
    if (st != JOUST_OK || !joust_buf_ok(to) || to->n == 0)
        return st;
    to->n--;
    joust_token_credit tokens = {0};
    if (is_of_critic(v, &got))
        st = joust_lineage_get_credit(v->store, v->plan, t->key.round, got.pair_stage,
                                      ordinal_of(v, t), &tokens, err);
    if (st != JOUST_OK)
        return st;
    joust_json_key(to, "credit");
    joust_json_open(to, '[');
    for (uint32_t i = 0; got.has_advantage && i < t->n_tokens; i++)
        joust_json_add_number(to, "", credit_of(v, t, &got, i));
    for (uint32_t i = 0; i < tokens.n; i++)
        joust_json_add_number(to, "", (double)tokens.advantages[i]);
    joust_json_close(to, ']');
    if (is_of_critic(v, &got)) {
        joust_json_key(to, "returns");
        joust_json_open(to, '[');
        for (uint32_t i = 0; i < tokens.n; i++)
            joust_json_add_number(to, "", (double)tokens.returns[i]);
        joust_json_close(to, ']');
    }
    joust_free(tokens.advantages);
    joust_free(tokens.returns);
    st = add_uses(to, v, t, &got, err);
    joust_json_close(to, '}');
    return st;
}

joust_status joust_credit_explain_json(joust_store *store, const joust_record_id *id, joust_buf *to,
                                       joust_error *err)
{
    joust_credit_view *v = NULL;
    joust_trajectory t;
    joust_status st = joust_credit_view_open(store, &v, err);
    if (st != JOUST_OK || !v)
        return st;
    st = joust_store_get_trajectory(store, &id->unit, id->index, &t, err);
    if (st == JOUST_OK) {
        st = explain_json(v, &t, to, err);
        joust_trajectory_fini(&t);
    }
    joust_credit_view_close(&v);
    return st;
}
