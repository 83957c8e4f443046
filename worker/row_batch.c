#include "worker/row_batch.h"

#include <string.h>

#include "proto/base/alloc.h"

struct joust_row_batch {
    joust_rows *rows;
    uint64_t n_rows;
    joust_stream_name name; /* of a pass's permutation: prompt = pass */
    uint32_t *order;        /* (n_rows) of `pass`; NULL: file order */
    uint64_t pass;
    uint32_t n, capacity;
    joust_sft_row *copies; /* (capacity) each with its own block */
    uint64_t *lines;       /* (capacity) */
};

joust_status joust_row_batch_open(joust_rows *rows, joust_order order, uint64_t seed,
                                  const joust_unit_key *unit, joust_row_batch **ret,
                                  joust_error *err)
{
    uint64_t n = joust_rows_count(rows);
    if (n == 0)
        return joust_fail(err, JOUST_INVALID, "the training data has no rows");
    if (order == JOUST_ORDER_SHUFFLE && n > UINT32_MAX)
        return joust_fail(err, JOUST_INVALID,
                          "%llu rows are too many to shuffle: use data_order: file",
                          (unsigned long long)n);
    joust_row_batch *b = joust_calloc(1, sizeof(*b));
    if (!b)
        return joust_fail(err, JOUST_NOMEM, "rows: out of memory");
    b->rows = rows;
    b->n_rows = n;
    b->pass = UINT64_MAX;
    b->name = (joust_stream_name){.job_seed = seed,
                                  .stage = unit->stage,
                                  .round = unit->round,
                                  .purpose = JOUST_PURPOSE_SHUFFLE};
    if (order == JOUST_ORDER_SHUFFLE) {
        b->order = joust_calloc((size_t)n, sizeof(*b->order));
        if (!b->order) {
            joust_free(b);
            return joust_fail(err, JOUST_NOMEM, "rows: the order of %llu rows",
                              (unsigned long long)n);
        }
    }
    *ret = b;
    return JOUST_OK;
}

static void let_go(joust_row_batch *b)
{
    for (uint32_t i = 0; i < b->n; i++)
        joust_free((void *)b->copies[i].targets); /* the head of the row's block */
    b->n = 0;
}

void joust_row_batch_close(joust_row_batch **batch)
{
    joust_row_batch *b = *batch;
    if (!b)
        return;
    let_go(b);
    joust_free(b->copies);
    joust_free(b->lines);
    joust_free(b->order);
    joust_free(b);
    *batch = NULL;
}

static uint64_t line_of(joust_row_batch *b, uint64_t i)
{
    uint64_t pass = i / b->n_rows, at = i % b->n_rows;
    if (!b->order)
        return at;
    if (pass != b->pass) {
        for (uint32_t k = 0; k < b->n_rows; k++)
            b->order[k] = k;
        b->name.prompt = pass;
        joust_stream stream = joust_stream_open(&b->name);
        joust_stream_shuffle(&stream, b->order, (uint32_t)b->n_rows);
        b->pass = pass;
    }
    return b->order[at];
}

/* A row and all it points to in one block: targets, then tokens, then each target's `among`. */
static joust_status copy_row(const joust_sft_row *row, joust_sft_row *ret, joust_error *err)
{
    size_t n_targets = row->n_targets, n_ids = row->n;
    for (uint32_t i = 0; i < row->n_targets; i++)
        n_ids += row->targets[i].n_among;
    uint8_t *block = joust_calloc(1, n_targets * sizeof(joust_target) + n_ids * sizeof(uint32_t));
    if (!block)
        return joust_fail(err, JOUST_NOMEM, "rows: out of memory");
    joust_target *targets = (joust_target *)(void *)block;
    uint32_t *ids = (uint32_t *)(void *)(block + n_targets * sizeof(joust_target));
    *ret = (joust_sft_row){ids, row->n, targets, row->n_targets};
    if (row->n > 0)
        memcpy(ids, row->tokens, row->n * sizeof(*ids));
    ids += row->n;
    for (uint32_t i = 0; i < row->n_targets; i++) {
        targets[i] = row->targets[i];
        targets[i].among = targets[i].n_among > 0 ? ids : NULL;
        if (targets[i].n_among > 0)
            memcpy(ids, row->targets[i].among, targets[i].n_among * sizeof(*ids));
        ids += targets[i].n_among;
    }
    return JOUST_OK;
}

static joust_status make_room(joust_row_batch *b, uint32_t n, joust_error *err)
{
    if (n <= b->capacity)
        return JOUST_OK;
    joust_sft_row *copies = joust_realloc_array(b->copies, n, sizeof(*copies));
    if (copies)
        b->copies = copies;
    uint64_t *lines = joust_realloc_array(b->lines, n, sizeof(*lines));
    if (lines)
        b->lines = lines;
    if (!copies || !lines)
        return joust_fail(err, JOUST_NOMEM, "rows: a batch of %u", n);
    b->capacity = n;
    return JOUST_OK;
}

joust_status joust_row_batch_get(joust_row_batch *batch, uint64_t first, uint32_t n,
                                 const joust_sft_row **ret_rows, const uint64_t **ret_lines,
                                 joust_error *err)
{
    let_go(batch);
    joust_status st = make_room(batch, n, err);
    for (uint32_t i = 0; i < n && st == JOUST_OK; i++) {
        joust_sft_row view;
        batch->lines[i] = line_of(batch, first + i);
        st = joust_rows_get(batch->rows, batch->lines[i], &view, err);
        if (st == JOUST_OK)
            st = copy_row(&view, &batch->copies[i], err);
        if (st == JOUST_OK)
            batch->n++;
    }
    if (st != JOUST_OK)
        return st;
    *ret_rows = batch->copies;
    *ret_lines = batch->lines;
    return JOUST_OK;
}
