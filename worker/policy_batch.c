#include "worker/policy_batch.h"

#include <string.h>

#include "proto/base/alloc.h"
#include "worker/engine/generate.h"
#include "worker/engine/lora.h"
#include "worker/trainer_internal.h"

/* One answer as the engine scores it. */
typedef struct sequence {
    uint32_t *tokens; /* prompt, then response */
    float *logps;     /* of the response */
    uint32_t n, first;
} sequence;

struct joust_policy_batch {
    joust_policy_source from;
    const joust_job_train *params;
    joust_model *loaded; /* the reference, once it was needed */
    uint32_t n;          /* sequences in use */
    sequence *sequences; /* (batch_size) answers that the reference scores */
    joust_score_request *requests;
    joust_policy_row *rows; /* (batch_size) */
    size_t n_advantages;    /* room */
    double *advantages;     /* of the batch's tokens, row by row */
};

joust_status joust_policy_batch_open(const joust_policy_source *source, joust_policy_batch **ret,
                                     joust_error *err)
{
    const joust_job_train *params = &source->training->stage->train;
    joust_policy_batch *b = joust_calloc(1, sizeof(*b));
    if (!b)
        return joust_fail(err, JOUST_NOMEM, "train: out of memory");
    *b = (joust_policy_batch){.from = *source, .params = params};
    b->sequences = joust_calloc(params->batch_size, sizeof(*b->sequences));
    b->requests = joust_calloc(params->batch_size, sizeof(*b->requests));
    b->rows = joust_calloc(params->batch_size, sizeof(*b->rows));
    if (!b->sequences || !b->requests || !b->rows) {
        joust_policy_batch_close(&b);
        return joust_fail(err, JOUST_NOMEM, "train: a batch of %u", params->batch_size);
    }
    *ret = b;
    return JOUST_OK;
}

static void sequence_fini(sequence *s)
{
    joust_free(s->tokens);
    joust_free(s->logps);
    *s = (sequence){0};
}

static void let_go(joust_policy_batch *b)
{
    while (b->n > 0)
        sequence_fini(&b->sequences[--b->n]);
}

void joust_policy_batch_close(joust_policy_batch **batch)
{
    joust_policy_batch *b = *batch;
    if (!b)
        return;
    let_go(b);
    joust_free(b->sequences);
    joust_free(b->requests);
    joust_free(b->rows);
    joust_free(b->advantages);
    joust_model_free(&b->loaded);
    joust_free(b);
    *batch = NULL;
}

static joust_status sequence_make(const joust_train_row_pair *row, sequence *ret, joust_error *err)
{
    uint32_t n = row->n_prompt_tokens + row->n_chosen;
    *ret = (sequence){.tokens = joust_calloc(n, sizeof(*ret->tokens)),
                      .logps = joust_calloc(row->n_chosen, sizeof(*ret->logps)),
                      .n = n,
                      .first = row->n_prompt_tokens};
    if (!ret->tokens || !ret->logps) {
        sequence_fini(ret);
        return joust_fail(err, JOUST_NOMEM, "train: %u tokens", n);
    }
    memcpy(ret->tokens, row->prompt_tokens, row->n_prompt_tokens * sizeof(*ret->tokens));
    memcpy(ret->tokens + row->n_prompt_tokens, row->chosen, row->n_chosen * sizeof(*ret->tokens));
    return JOUST_OK;
}

/* An answer without tokens has nothing to train; the coordinator sends none. */
static joust_status check_row(const joust_train_row_pair *row, uint64_t index, joust_error *err)
{
    if (row->n_chosen > 0 && row->n_rejected == 0)
        return JOUST_OK;
    return joust_fail(err, JOUST_MALFORMED, "row %llu: an answer of %u tokens beside one of %u",
                      (unsigned long long)index, row->n_chosen, row->n_rejected);
}

/* Comparison ----------------------------------------------------------------------------------- */

static joust_status compare_row(joust_trainer *trainer, const joust_train_row_pair *row,
                                double *max_gap, joust_error *err)
{
    sequence s;
    joust_status st = sequence_make(row, &s, err);
    if (st == JOUST_OK)
        st = joust_trainer_logps(trainer, s.tokens, s.n, s.first, s.logps, err);
    if (st == JOUST_OK)
        st = joust_logp_gap(row->chosen_logps, s.logps, row->n_chosen, max_gap, err);
    sequence_fini(&s);
    return st;
}

joust_status joust_policy_batch_survey(joust_policy_batch *b, joust_trainer *trainer, uint64_t n,
                                       joust_policy_survey *ret, joust_error *err)
{
    const joust_upstream *up = b->from.training->up;
    joust_policy_survey s = {0};
    joust_status st = JOUST_OK;
    for (uint64_t i = 0; st == JOUST_OK && i < n; i++) {
        st = joust_pair_feed_need(b->from.feed, i, 1, err);
        if (st != JOUST_OK)
            break;
        const joust_train_row_pair *row = joust_pair_feed_row(b->from.feed, i);
        const uint32_t tokens = row->n_prompt_tokens + row->n_chosen;
        s.row_tokens = tokens > s.row_tokens ? tokens : s.row_tokens;
        s.row_answers = row->n_chosen > s.row_answers ? row->n_chosen : s.row_answers;
        st = check_row(row, i, err);
        if (st == JOUST_OK && row->chosen_policy == b->from.unit->model.version) {
            st = compare_row(trainer, row, &s.max_gap, err);
            s.n_compared += row->n_chosen;
        }
        if (st == JOUST_OK)
            st = up->check(up->context, i, err);
    }
    *ret = s;
    return st;
}

/* Batches -------------------------------------------------------------------------------------- */

/* Whether the reference itself drew the answer: then its log-probs came with it. */
static bool drew(const joust_policy_batch *b, const joust_train_row_pair *row)
{
    return row->chosen_policy == b->from.unit->reference.version;
}

static joust_status load_reference(joust_policy_batch *b, joust_error *err)
{
    return b->loaded || b->from.reference_is_base
               ? JOUST_OK
               : joust_training_load(b->from.training, &b->from.unit->reference, &b->loaded, err);
}

/* Log-probs under the reference, of the rows that it did not draw. */
static joust_status score_batch(joust_policy_batch *b, joust_error *err)
{
    const joust_training *t = b->from.training;
    if (b->n == 0)
        return JOUST_OK;
    joust_status st = load_reference(b, err);
    if (st != JOUST_OK)
        return st;
    for (uint32_t i = 0; i < b->n; i++)
        b->requests[i] = (joust_score_request){.tokens = b->sequences[i].tokens,
                                               .n = b->sequences[i].n,
                                               .first = b->sequences[i].first,
                                               .ret_logps = b->sequences[i].logps};
    joust_model *reference = b->from.reference_is_base ? b->from.model : b->loaded;
    joust_model_adapter_switch(reference, !b->from.reference_is_base);
    st = joust_score(t->engine, reference, b->requests, b->n, NULL, NULL, err);
    joust_model_adapter_switch(reference, true);
    return st;
}

static joust_status make_room(joust_policy_batch *b, uint64_t first, uint32_t n, joust_error *err)
{
    size_t n_tokens = 0;
    for (uint32_t i = 0; i < n; i++)
        n_tokens += joust_pair_feed_row(b->from.feed, first + i)->n_chosen;
    if (n_tokens <= b->n_advantages)
        return JOUST_OK;
    double *grown = joust_realloc_array(b->advantages, n_tokens, sizeof(*grown));
    if (!grown)
        return joust_fail(err, JOUST_NOMEM, "train: a batch of %zu tokens", n_tokens);
    b->advantages = grown;
    b->n_advantages = n_tokens;
    return JOUST_OK;
}

static joust_status fill_row(joust_policy_batch *b, const joust_train_row_pair *row,
                             double *advantages, joust_policy_row *ret, joust_error *err)
{
    uint8_t *forced = joust_calloc((size_t)row->n_chosen + 1, 1);
    joust_status st = forced ? joust_forced_find(b->from.training->forced, row->chosen,
                                                 row->n_chosen, forced, err)
                             : joust_fail(err, JOUST_NOMEM, "train: %u tokens", row->n_chosen);
    for (uint32_t i = 0; st == JOUST_OK && i < row->n_chosen; i++)
        advantages[i] = forced[i] ? 0 : row->margin;
    joust_free(forced);
    if (st != JOUST_OK)
        return st;
    *ret = (joust_policy_row){.prompt = row->prompt_tokens,
                              .response = row->chosen,
                              .n_prompt = row->n_prompt_tokens,
                              .n_response = row->n_chosen,
                              .old_logps = row->chosen_logps,
                              .advantages = advantages};
    if (b->params->policy.kl_weight <= 0)
        return JOUST_OK;
    ret->ref_logps = row->chosen_logps;
    if (drew(b, row))
        return JOUST_OK;
    st = sequence_make(row, &b->sequences[b->n], err);
    if (st == JOUST_OK)
        ret->ref_logps = b->sequences[b->n++].logps;
    return st;
}

joust_status joust_policy_batch_get(joust_policy_batch *b, uint64_t first, uint32_t n,
                                    const joust_policy_row **ret_rows, uint64_t *ret_ordinals,
                                    joust_error *err)
{
    let_go(b);
    joust_status st = joust_pair_feed_need(b->from.feed, first, n, err);
    if (st == JOUST_OK)
        st = make_room(b, first, n, err);
    double *advantages = b->advantages;
    for (uint32_t i = 0; st == JOUST_OK && i < n; i++) {
        const joust_train_row_pair *row = joust_pair_feed_row(b->from.feed, first + i);
        st = check_row(row, first + i, err);
        if (st == JOUST_OK)
            st = fill_row(b, row, advantages, &b->rows[i], err);
        advantages += row->n_chosen;
        ret_ordinals[i] = row->ordinal;
    }
    if (st == JOUST_OK)
        st = score_batch(b, err);
    *ret_rows = b->rows;
    return st;
}
