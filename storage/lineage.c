#include "storage/lineage.h"

#include <inttypes.h>
#include <string.h>

#include "proto/base/alloc.h"

joust_status joust_lineage_get_verdicts(joust_store *store, const joust_plan *plan,
                                        const joust_unit_key *pair_unit, joust_verdict **ret,
                                        uint32_t *ret_n, joust_error *err)
{
    if (pair_unit->stage >= plan->n_stages ||
        plan->stages[pair_unit->stage].kind != JOUST_STAGE_PAIR)
        return joust_fail(err, JOUST_INVALID, "stage %" PRIu32 " of the job pairs nothing",
                          pair_unit->stage);
    joust_verdict *all = NULL;
    uint32_t n_all = 0;
    for (uint32_t s = 0; s < plan->n_stages; s++) {
        if (!joust_stage_rewards(joust_store_job(store), &plan->stages[s],
                                 &plan->stages[pair_unit->stage]))
            continue;
        joust_unit_key unit = {pair_unit->round, s, pair_unit->position};
        joust_verdict *some, *grown;
        uint32_t n_some;
        joust_status st = joust_store_get_verdicts(store, &unit, &some, &n_some, err);
        if (st == JOUST_OK && n_some == 0)
            continue;
        grown = st == JOUST_OK ? joust_realloc_array(all, n_all + n_some, sizeof(*all)) : NULL;
        if (!grown) {
            if (st == JOUST_OK) {
                joust_verdicts_free(some, n_some);
                st = joust_fail(err, JOUST_NOMEM, "verdicts: out of memory");
            }
            joust_verdicts_free(all, n_all);
            return st;
        }
        all = grown;
        memcpy(all + n_all, some, n_some * sizeof(*some));
        n_all += n_some;
        joust_free(some); /* its records moved */
    }
    *ret = all;
    *ret_n = n_all;
    return JOUST_OK;
}

static joust_status load_ref(joust_store *store, const joust_trajectory_ref *ref,
                             joust_trajectory *ret, joust_error *err)
{
    joust_unit_key unit = {ref->round, ref->stage, ref->position};
    return joust_store_get_trajectory(store, &unit, ref->sample, ret, err);
}

joust_status joust_lineage_load(joust_store *store, const joust_plan *plan, const joust_pair *pair,
                                joust_lineage *ret, joust_error *err)
{
    joust_lineage l = {.pair = *pair};
    joust_status st =
        joust_store_find_prompt(store, &pair->prompt, pair->prompt_occurrence, &l.prompt, err);
    if (st == JOUST_OK)
        st = load_ref(store, &pair->chosen, &l.chosen, err);
    if (st == JOUST_OK)
        st = load_ref(store, &pair->rejected, &l.rejected, err);
    if (st == JOUST_OK)
        st = joust_lineage_get_verdicts(store, plan, &pair->key, &l.verdicts, &l.n_verdicts, err);
    if (st != JOUST_OK) {
        joust_lineage_fini(&l);
        return st;
    }
    *ret = l;
    return JOUST_OK;
}

void joust_lineage_fini(joust_lineage *lineage)
{
    joust_prompt_fini(&lineage->prompt);
    joust_trajectory_fini(&lineage->chosen);
    joust_trajectory_fini(&lineage->rejected);
    joust_verdicts_free(lineage->verdicts, lineage->n_verdicts);
    memset(lineage, 0, sizeof(*lineage));
}

static bool is_about(const joust_verdict *v, const joust_trajectory_ref *ref)
{
    return v->of_stage == ref->stage && (v->sample == ref->sample || v->other == ref->sample);
}

bool joust_lineage_concerns(const joust_lineage *lineage, const joust_verdict *verdict)
{
    return is_about(verdict, &lineage->pair.chosen) || is_about(verdict, &lineage->pair.rejected);
}

/* Place of the pair among its stage's pairs in key order: what training calls its row. */
static joust_status pair_ordinal(joust_store *store, const joust_pair *pair, uint64_t *ret,
                                 joust_error *err)
{
    joust_key_range range = joust_range_stage(pair->key.round, pair->key.stage);
    range.before = joust_key_pair(&pair->key, pair->index);
    return joust_store_count(store, JOUST_FAMILY_PAIRS, &range, ret, err);
}

static uint32_t count_row(const joust_train_step *step, uint64_t ordinal)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < step->n_rows; i++)
        n += step->rows[i] == ordinal;
    return n;
}

joust_status joust_lineage_get_uses(joust_store *store, const joust_plan *plan,
                                    const joust_pair *pair, uint32_t max, joust_use *ret,
                                    uint32_t *ret_n, joust_error *err)
{
    uint64_t ordinal;
    joust_status st = pair_ordinal(store, pair, &ordinal, err);
    return st == JOUST_OK
               ? joust_lineage_get_row_uses(store, plan, pair->key.round, pair->key.stage, ordinal,
                                            max, ret, ret_n, err)
               : st;
}

joust_status joust_lineage_get_row_uses(joust_store *store, const joust_plan *plan, uint32_t round,
                                        uint32_t pair_stage, uint64_t ordinal, uint32_t max,
                                        joust_use *ret, uint32_t *ret_n, joust_error *err)
{
    uint32_t n = 0;
    joust_key_range range = joust_range_round_field_of(JOUST_ROUND_STEP, round);
    joust_cursor *cursor;
    joust_status st = joust_cursor_open(store, JOUST_FAMILY_ROUNDS, &range, &cursor, err);
    if (st != JOUST_OK)
        return st;
    joust_train_step step;
    joust_error why;
    while ((st = joust_cursor_next_train_step(cursor, &step, &why)) == JOUST_OK) {
        bool uses = step.stage < plan->n_stages &&
                    plan->stages[step.stage].kind == JOUST_STAGE_TRAIN &&
                    plan->stages[step.stage].pairs == pair_stage && count_row(&step, ordinal);
        if (uses && n < max)
            ret[n] = (joust_use){step.round, step.stage, step.step};
        n += uses;
        joust_train_step_fini(&step);
    }
    joust_cursor_close(&cursor);
    if (st != JOUST_END)
        return joust_fail(err, st, "%s", why.text);
    *ret_n = n;
    return JOUST_OK;
}

/* Takes the row's part of what the step tells; *ret stays empty where it tells nothing of it. */
static joust_status take_credit(const joust_train_step *step, uint64_t ordinal,
                                joust_token_credit *ret, joust_error *err)
{
    size_t at = 0;
    uint32_t i = 0;
    for (; i < step->n_credited && i < step->n_rows && step->rows[i] != ordinal; i++)
        at += step->credited[i];
    if (i >= step->n_credited || i >= step->n_rows)
        return JOUST_OK;
    const uint32_t n = step->credited[i];
    if (at > step->n_credit || n > step->n_credit - at)
        return joust_fail(err, JOUST_CORRUPT, "training step %u: credit of %u tokens, and %u rows",
                          step->step, step->n_credit, step->n_credited);
    float *advantages = joust_calloc(n ? n : 1, sizeof(*advantages)),
          *returns = joust_calloc(n ? n : 1, sizeof(*returns));
    if (!advantages || !returns) {
        joust_free(advantages);
        joust_free(returns);
        return joust_fail(err, JOUST_NOMEM, "credit of %u tokens", n);
    }
    memcpy(advantages, step->advantages + at, n * sizeof(*advantages));
    memcpy(returns, step->returns + at, n * sizeof(*returns));
    *ret = (joust_token_credit){.n = n, .advantages = advantages, .returns = returns};
    return JOUST_OK;
}

joust_status joust_lineage_get_credit(joust_store *store, const joust_plan *plan, uint32_t round,
                                      uint32_t pair_stage, uint64_t ordinal,
                                      joust_token_credit *ret, joust_error *err)
{
    joust_key_range range = joust_range_round_field_of(JOUST_ROUND_STEP, round);
    joust_token_credit got = {0};
    joust_cursor *cursor;
    joust_status st = joust_cursor_open(store, JOUST_FAMILY_ROUNDS, &range, &cursor, err);
    if (st != JOUST_OK)
        return st;
    joust_train_step step;
    while (got.n == 0 && (st = joust_cursor_next_train_step(cursor, &step, err)) == JOUST_OK) {
        if (step.stage < plan->n_stages && plan->stages[step.stage].kind == JOUST_STAGE_TRAIN &&
            plan->stages[step.stage].pairs == pair_stage)
            st = take_credit(&step, ordinal, &got, err);
        joust_train_step_fini(&step);
        if (st != JOUST_OK)
            break;
    }
    joust_cursor_close(&cursor);
    if (st != JOUST_OK && st != JOUST_END)
        return st;
    *ret = got;
    return JOUST_OK;
}
