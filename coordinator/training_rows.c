#include "coordinator/training_rows.h"

#include <string.h>

#include "coordinator/graded.h"
#include "proto/base/alloc.h"
#include "storage/tables.h"

#define MESSAGE_BYTES (4u << 20) /* a message of rows stops growing here */

/* An answer that a policy loss trains on. */
typedef struct answer {
    uint64_t position;
    uint32_t sample;
    double advantage;
} answer;

struct joust_training_rows {
    joust_store *store;
    const joust_job *job;
    const joust_plan *plan;
    joust_unit_key unit; /* of the TRAIN stage */
    uint32_t pair_stage;
    joust_pair_place *places; /* (n) of pairs, by ordinal; or: */
    answer *answers;          /* (n) of groups, one after the other */
    uint32_t n_groups;
    uint32_t *groups;      /* (n_groups) first answer of each */
    uint32_t *group_order; /* (n_groups) of `pass` */
    uint64_t n;
    uint64_t pass;   /* that `order` is of */
    uint32_t *order; /* (n) indices of places or answers */
};

/* Whether answers are labelled one by one: KTO's, which compares each with one of another prompt. */
static bool labelled(const joust_training_rows *r)
{
    return r->plan->stages[r->pair_stage].advantage == JOUST_ADVANTAGE_LABEL;
}

/* A group's answers stay together: what an optimiser step compares should be in it. */
static void shuffle_groups(joust_training_rows *r, joust_stream *stream)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < r->n_groups; i++)
        r->group_order[i] = i;
    joust_stream_shuffle(stream, r->group_order, r->n_groups);
    for (uint32_t i = 0; i < r->n_groups; i++) {
        uint32_t group = r->group_order[i];
        uint32_t end = group + 1 < r->n_groups ? r->groups[group + 1] : (uint32_t)r->n;
        for (uint32_t k = r->groups[group]; k < end; k++)
            r->order[n++] = k;
    }
}

static void shuffle_pass(joust_training_rows *r, uint64_t pass)
{
    joust_stream stream = joust_stream_open(&(joust_stream_name){.job_seed = r->job->seed,
                                                                 .stage = r->unit.stage,
                                                                 .round = r->unit.round,
                                                                 .prompt = pass,
                                                                 .purpose = JOUST_PURPOSE_SHUFFLE});
    r->pass = pass;
    if (r->answers && !labelled(r)) {
        shuffle_groups(r, &stream);
        return;
    }
    for (uint32_t i = 0; i < r->n; i++)
        r->order[i] = i;
    joust_stream_shuffle(&stream, r->order, (uint32_t)r->n);
}

/* Rows of a PAIR stage that makes pairs. */
static joust_status list_pairs(joust_training_rows *r, joust_error *err)
{
    joust_status st =
        joust_store_list_pairs(r->store, r->unit.round, r->pair_stage, &r->places, &r->n, err);
    if (st == JOUST_OK && r->n > UINT32_MAX)
        st = joust_fail(err, JOUST_TOO_LARGE, "round %u: more than %u pairs", r->unit.round,
                        UINT32_MAX);
    return st;
}

/* A list of answers that grows. */
typedef struct listing {
    joust_training_rows *rows;
    size_t capacity, group_capacity;
} listing;

/* Adds the answers of one group that have a part in training. */
static joust_status add_answers(listing *l, uint64_t position, const joust_graded *group,
                                const joust_credit *credit, joust_error *err)
{
    joust_training_rows *r = l->rows;
    uint64_t first = r->n;
    for (uint32_t i = 0; i < group->n; i++) {
        if (!credit[i].used)
            continue;
        if (r->n == UINT32_MAX || !joust_grow(&r->answers, r->n, &l->capacity, sizeof(answer)))
            return joust_fail(err, JOUST_NOMEM, "training rows: more than %llu answers",
                              (unsigned long long)r->n);
        r->answers[r->n++] = (answer){position, i, credit[i].advantage};
    }
    if (r->n == first)
        return JOUST_OK;
    if (!joust_grow(&r->groups, r->n_groups, &l->group_capacity, sizeof(*r->groups)))
        return joust_fail(err, JOUST_NOMEM, "training rows: more than %u groups", r->n_groups);
    r->groups[r->n_groups++] = (uint32_t)first;
    return JOUST_OK;
}

static joust_status add_group(void *context, uint64_t position, const joust_graded *group,
                              joust_error *err)
{
    listing *l = context;
    const joust_stage *pair = &l->rows->plan->stages[l->rows->pair_stage];
    bool decided = false;
    joust_credit *credit = NULL;
    joust_status st = joust_graded_credit(group, pair, &credit, &decided, err);
    if (st == JOUST_OK && (decided || !pair->dynamic_sampling))
        st = add_answers(l, position, group, credit, err);
    joust_free(credit);
    return st;
}

/* Rows of a PAIR stage that makes advantages: from groups and verdicts, as that stage itself counted them. */
static joust_status list_answers(joust_training_rows *r, joust_error *err)
{
    const joust_graded_sources sources = {r->store, r->job, r->plan, NULL};
    listing l = {.rows = r};
    joust_status st = joust_graded_each(&sources, r->unit.round, r->pair_stage, add_group, &l, err);
    if (st == JOUST_OK && r->n_groups &&
        !(r->group_order = joust_calloc(r->n_groups, sizeof(*r->group_order))))
        st = joust_fail(err, JOUST_NOMEM, "training rows: %u groups", r->n_groups);
    return st;
}

joust_status joust_training_rows_open(joust_store *store, const joust_job *job,
                                      const joust_plan *plan, const joust_unit_key *unit,
                                      joust_training_rows **ret, joust_error *err)
{
    if (unit->stage >= plan->n_stages || plan->stages[unit->stage].kind != JOUST_STAGE_TRAIN ||
        plan->stages[unit->stage].pairs == JOUST_NONE)
        return joust_fail(err, JOUST_INVALID, "stage %u trains on no pairs", unit->stage);
    joust_training_rows *r = joust_calloc(1, sizeof(*r));
    if (!r)
        return joust_fail(err, JOUST_NOMEM, "training rows: out of memory");
    *r = (joust_training_rows){.store = store,
                               .job = job,
                               .plan = plan,
                               .unit = *unit,
                               .pair_stage = plan->stages[unit->stage].pairs};
    joust_status st =
        plan->stages[r->pair_stage].advantage ? list_answers(r, err) : list_pairs(r, err);
    if (st == JOUST_OK && r->n == 0)
        st = joust_fail(err, JOUST_NOT_FOUND, "round %u has nothing to train on", unit->round);
    if (st == JOUST_OK && !(r->order = joust_calloc(r->n, sizeof(*r->order))))
        st = joust_fail(err, JOUST_NOMEM, "training rows: %llu of them", (unsigned long long)r->n);
    if (st != JOUST_OK) {
        joust_training_rows_close(&r);
        return st;
    }
    shuffle_pass(r, 0);
    *ret = r;
    return JOUST_OK;
}

void joust_training_rows_close(joust_training_rows **rows)
{
    if (!*rows)
        return;
    joust_free((*rows)->places);
    joust_free((*rows)->answers);
    joust_free((*rows)->groups);
    joust_free((*rows)->group_order);
    joust_free((*rows)->order);
    joust_free(*rows);
    *rows = NULL;
}

const joust_unit_key *joust_training_rows_unit(const joust_training_rows *r)
{
    return &r->unit;
}

uint64_t joust_training_rows_count(const joust_training_rows *r)
{
    return r->n;
}

/* Moves a trajectory's tokens and log-probs out of it. */
static void take_response(joust_trajectory *from, uint32_t **tokens, float **logps, uint32_t *n,
                          uint64_t *policy)
{
    *tokens = from->tokens;
    *logps = from->raw_logps;
    *n = from->n_tokens;
    *policy = from->policy.version;
    from->tokens = NULL;
    from->raw_logps = NULL;
    from->n_tokens = 0;
}

static joust_status get_trajectory(joust_store *store, const joust_trajectory_ref *ref,
                                   joust_trajectory *ret, joust_error *err)
{
    joust_unit_key unit = {.round = ref->round, .stage = ref->stage, .position = ref->position};
    return joust_store_get_trajectory(store, &unit, ref->sample, ret, err);
}

/* An answer travels as the chosen one of a pair without another, its advantage as the margin; one with the label -1 as the
 * rejected one. */
static joust_status get_answer(joust_training_rows *r, uint64_t index, joust_train_row_pair *ret,
                               joust_error *err)
{
    const answer *a = &r->answers[index];
    const joust_stage *generate = &r->plan->stages[r->plan->stages[r->pair_stage].of];
    joust_unit_key unit = {
        .round = r->unit.round, .stage = generate->index, .position = a->position};
    joust_trajectory t;
    joust_status st = joust_store_get_trajectory(r->store, &unit, a->sample, &t, err);
    if (st != JOUST_OK)
        return st;
    *ret = (joust_train_row_pair){.ordinal = a->position * generate->samples + a->sample,
                                  .n_prompt_tokens = t.n_prompt_tokens,
                                  .prompt_tokens = t.prompt_tokens,
                                  .margin = a->advantage};
    t.prompt_tokens = NULL;
    if (labelled(r) && a->advantage < 0)
        take_response(&t, &ret->rejected, &ret->rejected_logps, &ret->n_rejected,
                      &ret->rejected_policy);
    else
        take_response(&t, &ret->chosen, &ret->chosen_logps, &ret->n_chosen, &ret->chosen_policy);
    joust_trajectory_fini(&t);
    return JOUST_OK;
}

static joust_status get_pair(joust_training_rows *r, uint64_t ordinal, joust_train_row_pair *ret,
                             joust_error *err)
{
    joust_pair_place place = r->places[ordinal];
    joust_unit_key unit = {
        .round = r->unit.round, .stage = r->pair_stage, .position = place.position};
    joust_pair pair;
    joust_status st = joust_store_get_pair(r->store, &unit, place.index, &pair, err);
    if (st != JOUST_OK)
        return st;
    joust_trajectory chosen, rejected;
    st = get_trajectory(r->store, &pair.chosen, &chosen, err);
    if (st != JOUST_OK)
        return st;
    st = get_trajectory(r->store, &pair.rejected, &rejected, err);
    if (st == JOUST_OK) {
        *ret = (joust_train_row_pair){.ordinal = ordinal,
                                      .n_prompt_tokens = chosen.n_prompt_tokens,
                                      .prompt_tokens = chosen.prompt_tokens,
                                      .margin = pair.margin};
        chosen.prompt_tokens = NULL;
        take_response(&chosen, &ret->chosen, &ret->chosen_logps, &ret->n_chosen,
                      &ret->chosen_policy);
        take_response(&rejected, &ret->rejected, &ret->rejected_logps, &ret->n_rejected,
                      &ret->rejected_policy);
        joust_trajectory_fini(&rejected);
    }
    joust_trajectory_fini(&chosen);
    return st;
}

joust_status joust_training_rows_get(joust_training_rows *r, uint64_t first, uint32_t n,
                                     joust_msg_rows *ret, joust_error *err)
{
    if (n == 0 || n > JOUST_MAX_UNITS)
        return joust_fail(err, JOUST_INVALID, "rows: %u asked for, expected 1 to %u", n,
                          JOUST_MAX_UNITS);
    joust_train_row_pair *rows = joust_calloc(n, sizeof(*rows));
    if (!rows)
        return joust_fail(err, JOUST_NOMEM, "rows: out of memory");
    joust_status st = JOUST_OK;
    uint64_t bytes = 0;
    uint32_t have = 0;
    while (have < n && (have == 0 || bytes < MESSAGE_BYTES)) {
        uint64_t row = first + have;
        if (row / r->n != r->pass)
            shuffle_pass(r, row / r->n);
        uint32_t at = r->order[row % r->n];
        st = r->answers ? get_answer(r, at, &rows[have], err) : get_pair(r, at, &rows[have], err);
        if (st != JOUST_OK)
            break;
        const joust_train_row_pair *got = &rows[have++];
        bytes += 4u * got->n_prompt_tokens + 8ull * (got->n_chosen + got->n_rejected);
    }
    ret->first = first;
    ret->n = have;
    ret->rows = rows;
    if (st != JOUST_OK) {
        joust_message m = {.type = JOUST_MSG_ROWS, .u.rows = *ret};
        joust_message_fini(&m);
        *ret = (joust_msg_rows){0};
    }
    return st;
}
