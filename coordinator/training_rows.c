#include "coordinator/training_rows.h"

#include <string.h>

#include "proto/base/alloc.h"
#include "storage/tables.h"

#define MESSAGE_BYTES (4u << 20) /* a message of rows stops growing here */

struct joust_training_rows {
    joust_store *store;
    const joust_job *job;
    joust_unit_key unit; /* of the TRAIN stage */
    uint32_t pair_stage;
    joust_pair_place *places; /* by ordinal */
    uint64_t n;
    uint64_t pass;   /* that `order` is of */
    uint32_t *order; /* (n) ordinals */
};

static void shuffle_pass(joust_training_rows *r, uint64_t pass)
{
    joust_stream stream = joust_stream_open(&(joust_stream_name){.job_seed = r->job->seed,
                                                                 .stage = r->unit.stage,
                                                                 .round = r->unit.round,
                                                                 .prompt = pass,
                                                                 .purpose = JOUST_PURPOSE_SHUFFLE});
    for (uint32_t i = 0; i < r->n; i++)
        r->order[i] = i;
    joust_stream_shuffle(&stream, r->order, (uint32_t)r->n);
    r->pass = pass;
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
    *r = (joust_training_rows){
        .store = store, .job = job, .unit = *unit, .pair_stage = plan->stages[unit->stage].pairs};
    joust_status st =
        joust_store_list_pairs(store, unit->round, r->pair_stage, &r->places, &r->n, err);
    if (st == JOUST_OK && r->n == 0)
        st = joust_fail(err, JOUST_NOT_FOUND, "round %u has no pairs", unit->round);
    if (st == JOUST_OK && r->n > UINT32_MAX)
        st = joust_fail(err, JOUST_TOO_LARGE, "round %u: more than %u pairs", unit->round,
                        UINT32_MAX);
    if (st == JOUST_OK && !(r->order = joust_calloc(r->n, sizeof(*r->order))))
        st = joust_fail(err, JOUST_NOMEM, "training rows: %llu pairs", (unsigned long long)r->n);
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
    joust_free((*rows)->order);
    joust_free(*rows);
    *rows = NULL;
}

const joust_unit_key *joust_training_rows_unit(const joust_training_rows *r)
{
    return &r->unit;
}

uint64_t joust_training_rows_pairs(const joust_training_rows *r)
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

static joust_status get_row(joust_training_rows *r, uint64_t ordinal, joust_train_row_pair *ret,
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
        st = get_row(r, r->order[row % r->n], &rows[have], err);
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
