#include "ops/pair_view.h"

#include <inttypes.h>
#include <math.h> /* isfinite */
#include <stdio.h>

#include "coordinator/graded.h"
#include "proto/base/alloc.h"
#include "storage/json.h"

enum { MAX_USES = 1000, SHOWN_USES = 20 };

/* What a pair was chosen from. */
typedef struct origin {
    const joust_pair *pair;
    const joust_job *job;
    joust_said said;
    joust_graded groups[2]; /* of chosen; of rejected where that is another */
    uint32_t n_groups;
} origin;

static void origin_fini(origin *o)
{
    for (uint32_t i = 0; i < o->n_groups; i++)
        joust_graded_fini(&o->groups[i]);
    joust_said_fini(&o->said);
}

static joust_status origin_read(joust_store *store, const joust_plan *plan, const joust_pair *pair,
                                origin *ret, joust_error *err)
{
    const joust_graded_sources sources = {
        .store = store, .job = joust_store_job(store), .plan = plan};
    const uint32_t stages[] = {pair->chosen.stage, pair->rejected.stage};
    const uint32_t n = stages[0] == stages[1] ? 1 : 2;
    origin o = {.pair = pair, .job = sources.job};
    joust_status st = joust_said_read(&sources, &pair->key, &o.said, err);
    while (st == JOUST_OK && o.n_groups < n) {
        st = joust_graded_read(&sources, &pair->key, stages[o.n_groups], &o.said,
                               &o.groups[o.n_groups], err);
        o.n_groups += st == JOUST_OK;
    }
    if (st == JOUST_OK)
        *ret = o;
    else
        origin_fini(&o);
    return st;
}

static double logp_of(const joust_trajectory *t)
{
    double sum = 0;
    for (uint32_t i = 0; i < t->n_tokens; i++)
        sum += (double)t->raw_logps[i];
    return sum;
}

static bool is_of(const joust_trajectory *t, const joust_trajectory_ref *ref)
{
    return t->key.stage == ref->stage && t->sample == ref->sample;
}

static const char *role_of(const joust_pair *pair, const joust_trajectory *t)
{
    return is_of(t, &pair->chosen) ? "chosen" : is_of(t, &pair->rejected) ? "rejected" : "";
}

static bool is_about(const joust_verdict *v, const joust_trajectory *t)
{
    return v->of_stage == t->key.stage && (v->sample == t->sample || v->other == t->sample);
}

static const char *combine_name(joust_combine combine)
{
    return combine == JOUST_COMBINE_MIN   ? "least"
           : combine == JOUST_COMBINE_MAX ? "greatest"
                                          : "mean";
}

/* ---- text ------------------------------------------------------------------------------------ */

static void print_rule(const origin *o)
{
    const joust_job_pairs *rule = &o->job->pairs;
    printf("\nrule\n%s: the greatest reward of the group against the least, ties to the lowest "
           "sample; a reward is the %s over the reward judges",
           o->pair->rule, combine_name(o->job->combine));
    printf("; margin above %.6g", rule->min_margin);
    if (isfinite(rule->min_chosen))
        printf(", chosen at least %.6g", rule->min_chosen);
    if (isfinite(rule->max_rejected))
        printf(", rejected at most %.6g", rule->max_rejected);
    printf(": %.6g - %.6g = %.6g\n", o->pair->chosen_reward, o->pair->rejected_reward,
           o->pair->margin);
}

static void print_sample(const origin *o, const joust_trajectory *t, const joust_reward *reward)
{
    char id[JOUST_RECORD_ID_TEXT];
    const joust_record_id name = joust_trajectory_id(t);
    printf("  %-18s %-9s ", joust_record_id_text(&name, id), role_of(o->pair, t));
    if (reward->has)
        printf("%10.6g", reward->value);
    else
        printf("%10s", "-");
    printf(" %7" PRIu32 " %-11s %10.4f ", t->n_tokens, joust_finish_name(t->finish), logp_of(t));
    for (uint32_t i = 0; i < o->said.n; i++) {
        const joust_verdict *v = &o->said.verdicts[i];
        if (!is_about(v, t))
            continue;
        printf(" %s", v->judge);
        if (v->other != JOUST_NONE)
            printf("(%" PRIu32 ":%" PRIu32 ")", v->sample, v->other);
        if (v->has_value)
            printf("=%.6g", v->value);
        else
            printf("=%s", joust_outcome_name(v->outcome));
    }
    printf("\n");
}

static void print_groups(const origin *o)
{
    for (uint32_t g = 0; g < o->n_groups; g++) {
        const joust_graded *group = &o->groups[g];
        printf("\ngroup%s: %" PRIu32 " samples\n  %-18s %-9s %10s %7s %-11s %10s  %s\n",
               o->n_groups == 1 ? ""
               : g == 0         ? " of the chosen"
                                : " of the rejected",
               group->n, "sample", "", "reward", "tokens", "finish", "logp", "verdicts");
        for (uint32_t i = 0; i < group->n; i++)
            print_sample(o, &group->trajectories[i], &group->rewards[i]);
    }
}

static void print_tokens(const char *what, const joust_trajectory *t)
{
    printf("\n%s, token by token: log-prob of the model; of the distribution drawn from\n", what);
    for (uint32_t i = 0; i < t->n_tokens; i++)
        printf("  %5" PRIu32 " %8" PRIu32 " %10.5f %10.5f%s\n", i, t->tokens[i],
               (double)t->raw_logps[i], (double)t->logps[i], i < t->n_forced ? "  given" : "");
}

static joust_status print_uses(joust_store *store, const joust_plan *plan, const joust_pair *pair,
                               joust_error *err)
{
    joust_use uses[SHOWN_USES];
    uint32_t n;
    joust_status st = joust_lineage_get_uses(store, plan, pair, SHOWN_USES, uses, &n, err);
    if (st == JOUST_OK)
        printf("\ntrained on in %" PRIu32 " step%s%s\n", n, n == 1 ? "" : "s",
               n > SHOWN_USES ? ", the first of which are" : "");
    for (uint32_t i = 0; st == JOUST_OK && i < n && i < SHOWN_USES; i++) {
        joust_train_step step;
        st = joust_store_get_train_step(store, uses[i].round, uses[i].stage, uses[i].step, &step,
                                        err);
        if (st != JOUST_OK)
            break;
        printf("  round %" PRIu32 ", stage %" PRIu32 " (%s), step %" PRIu32
               ": loss %.6g, gradient norm %.6g, learning rate %.6g\n",
               uses[i].round, uses[i].stage, plan->stages[uses[i].stage].name, uses[i].step,
               step.loss, step.gradient_norm, step.learning_rate);
        joust_train_step_fini(&step);
    }
    return st;
}

joust_status joust_pair_explain(joust_store *store, const joust_plan *plan,
                                const joust_lineage *lineage, joust_error *err)
{
    origin o;
    joust_status st = origin_read(store, plan, &lineage->pair, &o, err);
    if (st != JOUST_OK)
        return st;
    print_rule(&o);
    print_groups(&o);
    origin_fini(&o);
    print_tokens("chosen", &lineage->chosen);
    print_tokens("rejected", &lineage->rejected);
    return print_uses(store, plan, &lineage->pair, err);
}

/* ---- JSON ------------------------------------------------------------------------------------ */

static void add_logps(joust_buf *to, const char *key, const float *values, uint32_t n)
{
    joust_json_key(to, key);
    joust_json_open(to, '[');
    for (uint32_t i = 0; i < n; i++)
        joust_json_add_number(to, "", (double)values[i]);
    joust_json_close(to, ']');
}

static void add_sample(joust_buf *to, const origin *o, const joust_trajectory *t,
                       const joust_reward *reward)
{
    joust_record_id id = joust_trajectory_id(t);
    const char *role = role_of(o->pair, t);
    joust_json_key(to, "");
    joust_json_open(to, '{');
    joust_json_add_id(to, "id", &id);
    joust_json_add_count(to, "sample", t->sample);
    joust_json_add_text(to, "role", *role ? role : NULL);
    joust_json_add_optional(to, "reward", reward->has, reward->value);
    joust_json_add_text(to, "finish", joust_finish_name(t->finish));
    joust_json_add_text(to, "response", t->text);
    add_logps(to, "raw_logps", t->raw_logps, t->n_tokens);
    add_logps(to, "logps", t->logps, t->n_tokens);
    joust_json_key(to, "verdicts");
    joust_json_open(to, '[');
    for (uint32_t i = 0; i < o->said.n; i++) {
        if (!is_about(&o->said.verdicts[i], t))
            continue;
        joust_json_key(to, "");
        joust_json_open(to, '{');
        joust_verdict_json(to, &o->said.verdicts[i]);
        joust_json_close(to, '}');
    }
    joust_json_close(to, ']');
    joust_json_close(to, '}');
}

static void add_origin(joust_buf *to, const origin *o)
{
    const joust_job_pairs *rule = &o->job->pairs;
    joust_json_key(to, "chosen_by");
    joust_json_open(to, '{');
    joust_json_add_text(to, "rule", o->pair->rule);
    joust_json_add_text(to, "combine", combine_name(o->job->combine));
    joust_json_add_number(to, "min_margin", rule->min_margin);
    joust_json_add_optional(to, "min_chosen", isfinite(rule->min_chosen), rule->min_chosen);
    joust_json_add_optional(to, "max_rejected", isfinite(rule->max_rejected), rule->max_rejected);
    joust_json_close(to, '}');
    joust_json_key(to, "group");
    joust_json_open(to, '[');
    for (uint32_t g = 0; g < o->n_groups; g++)
        for (uint32_t i = 0; i < o->groups[g].n; i++)
            add_sample(to, o, &o->groups[g].trajectories[i], &o->groups[g].rewards[i]);
    joust_json_close(to, ']');
}

static joust_status add_uses(joust_buf *to, joust_store *store, const joust_plan *plan,
                             const joust_pair *pair, joust_error *err)
{
    joust_use *uses = joust_calloc(MAX_USES, sizeof(*uses));
    uint32_t n = 0;
    joust_status st = uses ? joust_lineage_get_uses(store, plan, pair, MAX_USES, uses, &n, err)
                           : joust_fail(err, JOUST_NOMEM, "pairs show: out of memory");
    joust_json_add_count(to, "n_steps", n);
    joust_json_key(to, "steps");
    joust_json_open(to, '[');
    for (uint32_t i = 0; st == JOUST_OK && i < n && i < MAX_USES; i++) {
        joust_train_step step;
        st = joust_store_get_train_step(store, uses[i].round, uses[i].stage, uses[i].step, &step,
                                        err);
        if (st != JOUST_OK)
            break;
        joust_json_key(to, "");
        joust_json_open(to, '{');
        joust_json_add_count(to, "round", step.round);
        joust_json_add_count(to, "stage", step.stage);
        joust_json_add_count(to, "step", step.step);
        joust_json_add_number(to, "loss", step.loss);
        joust_json_add_number(to, "gradient_norm", step.gradient_norm);
        joust_json_add_number(to, "learning_rate", step.learning_rate);
        joust_json_close(to, '}');
        joust_train_step_fini(&step);
    }
    joust_json_close(to, ']');
    joust_free(uses);
    return st;
}

joust_status joust_pair_explain_json(joust_store *store, const joust_record_id *id, joust_buf *to,
                                     joust_error *err)
{
    joust_plan *plan = NULL;
    joust_pair pair;
    origin o;
    joust_status st = joust_plan_create(joust_store_job(store), &plan, err);
    if (st == JOUST_OK)
        st = joust_store_get_pair(store, &id->unit, id->index, &pair, err);
    if (st == JOUST_OK)
        st = origin_read(store, plan, &pair, &o, err);
    if (st == JOUST_OK && joust_buf_ok(to) && to->n > 0) {
        to->n--;
        add_origin(to, &o);
        origin_fini(&o);
        st = add_uses(to, store, plan, &pair, err);
        joust_json_close(to, '}');
    }
    joust_free(plan);
    return st;
}
