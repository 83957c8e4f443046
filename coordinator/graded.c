#include "coordinator/graded.h"

#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/stats.h"
#include "storage/lineage.h"
#include "storage/tables.h"

void joust_graded_fini(joust_graded *s)
{
    if (!s->lent)
        joust_trajectories_free(s->trajectories, s->n);
    joust_free(s->texts);
    joust_free(s->rewards);
    memset(s, 0, sizeof(*s));
}

/* A JUDGE stage that scores this generate stage for this PAIR stage. */
static bool scores(const joust_graded_sources *c, uint32_t judge, uint32_t generate, uint32_t pair)
{
    const joust_stage *stage = &c->plan->stages[judge];
    return stage->of == generate && joust_stage_rewards(c->job, stage, &c->plan->stages[pair]);
}

void joust_said_fini(joust_said *all)
{
    if (all->lent)
        joust_free(all->verdicts);
    else
        joust_verdicts_free(all->verdicts, all->n);
    *all = (joust_said){0};
}

/* Adds the run of one JUDGE stage if it is recent. *ret_found says so. */
static joust_status add_recent(const joust_recent *recent, const joust_unit_key *judge,
                               joust_said *all, bool *ret_found, joust_error *err)
{
    const joust_recent_unit *unit = joust_recent_find(recent, judge);
    *ret_found = unit && unit->n_verdicts;
    if (!*ret_found)
        return JOUST_OK;
    joust_verdict *grown =
        joust_realloc_array(all->verdicts, all->n + unit->n_verdicts, sizeof(*grown));
    if (!grown)
        return joust_fail(err, JOUST_NOMEM, "pairing: out of memory");
    memcpy(grown + all->n, unit->verdicts, unit->n_verdicts * sizeof(*grown));
    all->verdicts = grown;
    all->n += unit->n_verdicts;
    return JOUST_OK;
}

/* All that the PAIR unit considers: from the recent units if every run is there, else from the store. */
joust_status joust_said_read(const joust_graded_sources *c, const joust_unit_key *pair,
                             joust_said *ret, joust_error *err)
{
    joust_said all = {.lent = true};
    bool found = c->recent != NULL;
    joust_status st = JOUST_OK;
    for (uint32_t j = 0; st == JOUST_OK && found && j < pair->stage; j++) {
        joust_unit_key judge = {.round = pair->round, .stage = j, .position = pair->position};
        if (joust_stage_rewards(c->job, &c->plan->stages[j], &c->plan->stages[pair->stage]))
            st = add_recent(c->recent, &judge, &all, &found, err);
    }
    if (st != JOUST_OK || !found)
        joust_said_fini(&all);
    if (st == JOUST_OK && !found)
        st = joust_lineage_get_verdicts(c->store, c->plan, pair, &all.verdicts, &all.n, err);
    if (st == JOUST_OK)
        *ret = all;
    return st;
}

/* The run of one JUDGE stage. View. */
static joust_said said_by(const joust_said *all, uint32_t judge)
{
    joust_said run = {0};
    for (uint32_t i = 0; i < all->n; i++) {
        if (all->verdicts[i].key.stage != judge)
            continue;
        if (!run.n++)
            run.verdicts = &all->verdicts[i];
    }
    return run;
}

static joust_status read_group(const joust_graded_sources *c, const joust_unit_key *unit,
                               joust_graded *to, joust_error *err)
{
    const joust_recent_unit *recent = c->recent ? joust_recent_find(c->recent, unit) : NULL;
    if (!recent)
        return joust_store_get_group(c->store, unit, &to->trajectories, &to->n, err);
    to->trajectories = recent->trajectories;
    to->n = recent->n_trajectories;
    to->lent = true;
    return JOUST_OK;
}

joust_status joust_graded_read(const joust_graded_sources *c, const joust_unit_key *pair,
                               uint32_t generate, const joust_said *all, joust_graded *ret,
                               joust_error *err)
{
    joust_graded s = {0};
    joust_unit_key unit = {.round = pair->round, .stage = generate, .position = pair->position};
    joust_status st = read_group(c, &unit, &s, err);
    if (st != JOUST_OK)
        return st;
    uint32_t n_judges = 0;
    for (uint32_t j = 0; j < pair->stage; j++)
        n_judges += scores(c, j, generate, pair->stage);
    joust_reward *by_judge = joust_calloc((size_t)n_judges * s.n, sizeof(*by_judge));
    s.texts = joust_calloc(s.n, sizeof(*s.texts));
    s.rewards = joust_calloc(s.n, sizeof(*s.rewards));
    if (!by_judge || !s.texts || !s.rewards)
        st = joust_fail(err, JOUST_NOMEM, "pairing: out of memory");
    for (uint32_t i = 0; st == JOUST_OK && i < s.n; i++)
        s.texts[i] = s.trajectories[i].text;
    uint32_t k = 0;
    for (uint32_t j = 0; st == JOUST_OK && j < pair->stage; j++) {
        if (!scores(c, j, generate, pair->stage))
            continue;
        joust_said run = said_by(all, j);
        st = joust_rewards_score(run.verdicts, run.n, s.n, by_judge + (size_t)k++ * s.n, err);
    }
    if (st == JOUST_OK)
        joust_rewards_combine(c->job->combine, by_judge, n_judges, s.n, s.rewards);
    joust_free(by_judge);
    if (st == JOUST_OK)
        *ret = s;
    else
        joust_graded_fini(&s);
    return st;
}

joust_status joust_graded_each(const joust_graded_sources *c, uint32_t round, uint32_t pair,
                               joust_graded_fn *fn, void *context, joust_error *err)
{
    const joust_stage *generate = &c->plan->stages[c->plan->stages[pair].of];
    uint64_t n_prompts;
    joust_status st = joust_store_count_prompts(c->store, generate->set, &n_prompts, err);
    uint64_t n = st == JOUST_OK ? joust_plan_positions(c->job, generate, n_prompts) : 0;
    for (uint64_t i = 0; st == JOUST_OK && i < n; i++) {
        joust_unit_key unit = {.round = round, .stage = pair, .position = i};
        joust_graded group = {0};
        joust_said said;
        st = joust_said_read(c, &unit, &said, err);
        if (st != JOUST_OK)
            break;
        st = joust_graded_read(c, &unit, generate->index, &said, &group, err);
        joust_said_fini(&said);
        if (st == JOUST_OK)
            st = fn(context, i, &group, err);
        joust_graded_fini(&group);
    }
    return st;
}

joust_status joust_graded_credit(const joust_graded *group, const joust_stage *pair,
                                 joust_credit **ret, bool *ret_decided, joust_error *err)
{
    joust_credit *credit = joust_calloc(group->n, sizeof(*credit));
    double *rewards = joust_calloc(2 * (size_t)group->n, sizeof(*rewards));
    if (!credit || !rewards) {
        joust_free(credit);
        joust_free(rewards);
        return joust_fail(err, JOUST_NOMEM, "advantages of %u answers", group->n);
    }
    double *advantages = rewards + group->n;
    uint32_t n = 0;
    for (uint32_t i = 0; i < group->n; i++) {
        if (group->rewards[i].has)
            rewards[n++] = group->rewards[i].value;
    }
    *ret_decided = joust_advantages(pair->advantage, pair->beta, rewards, n, advantages);
    n = 0;
    for (uint32_t i = 0; i < group->n; i++) {
        bool has = group->rewards[i].has;
        credit[i] = (joust_credit){.used = has && group->trajectories[i].n_tokens > 0,
                                   .advantage = has ? advantages[n++] : 0};
    }
    joust_free(rewards);
    *ret = credit;
    return JOUST_OK;
}
