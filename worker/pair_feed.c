#include "worker/pair_feed.h"

#include <assert.h>
#include <string.h>

#include "proto/base/alloc.h"

struct joust_pair_feed {
    const joust_upstream *up;
    joust_unit_id id;
    uint64_t n_ordinals, end;
    joust_message *parts; /* ROWS messages, each following the one before */
    uint32_t n_parts;
};

joust_status joust_pair_feed_open(const joust_upstream *up, const joust_lease_unit *unit,
                                  uint64_t n_ordinals, uint64_t end, joust_pair_feed **ret,
                                  joust_error *err)
{
    joust_pair_feed *f = joust_calloc(1, sizeof(*f));
    if (!f)
        return joust_fail(err, JOUST_NOMEM, "pairs: out of memory");
    f->up = up;
    f->id = (joust_unit_id){unit->unit, unit->lease, unit->attempt};
    f->n_ordinals = n_ordinals;
    f->end = end;
    *ret = f;
    return JOUST_OK;
}

static uint64_t part_end(const joust_message *m)
{
    return m->u.rows.first + m->u.rows.n;
}

/* Lets go of the parts that end before row `first`. */
static void drop_before(joust_pair_feed *f, uint64_t first)
{
    uint32_t n = 0;
    while (n < f->n_parts && part_end(&f->parts[n]) <= first)
        joust_message_fini(&f->parts[n++]);
    f->n_parts -= n;
    if (n > 0 && f->n_parts > 0)
        memmove(f->parts, f->parts + n, f->n_parts * sizeof(*f->parts));
}

void joust_pair_feed_close(joust_pair_feed **feed)
{
    joust_pair_feed *f = *feed;
    if (!f)
        return;
    drop_before(f, UINT64_MAX);
    joust_free(f->parts);
    joust_free(f);
    *feed = NULL;
}

static joust_status ask(joust_pair_feed *f, uint64_t first, uint32_t n, joust_error *err)
{
    joust_message m = {.type = JOUST_MSG_ROWS_GET, .u.rows_get = {f->id, first, n}};
    return f->up->send(f->up->context, &m, err);
}

static joust_status check_rows(const joust_pair_feed *f, const joust_msg_rows *rows, uint32_t asked,
                               joust_error *err)
{
    if (rows->n == 0 || rows->n > asked)
        return joust_fail(err, JOUST_MALFORMED, "%u rows came where %u were asked for", rows->n,
                          asked);
    for (uint32_t i = 0; i < rows->n; i++) {
        const joust_train_row_pair *r = &rows->rows[i];
        if (r->ordinal >= f->n_ordinals || r->n_prompt_tokens == 0 ||
            (r->n_chosen == 0 && r->n_rejected == 0))
            return joust_fail(err, JOUST_MALFORMED,
                              "row %llu: number %llu of %llu with %u prompt, %u chosen and %u "
                              "rejected tokens can't be trained on",
                              (unsigned long long)(rows->first + i), (unsigned long long)r->ordinal,
                              (unsigned long long)f->n_ordinals, r->n_prompt_tokens, r->n_chosen,
                              r->n_rejected);
    }
    return JOUST_OK;
}

/* One more part, beginning at row `first`, of at most n rows. */
static joust_status get_part(joust_pair_feed *f, uint64_t first, uint32_t n, joust_error *err)
{
    joust_message *grown = joust_realloc_array(f->parts, f->n_parts + 1, sizeof(*grown));
    if (!grown)
        return joust_fail(err, JOUST_NOMEM, "pairs: out of memory");
    f->parts = grown;
    joust_status st = ask(f, first, n, err);
    while (st == JOUST_OK) {
        joust_message m = {0};
        st = f->up->receive(f->up->context, &m, err);
        if (st == JOUST_AGAIN) {
            st = ask(f, first, n, err);
            continue;
        }
        bool ours = st == JOUST_OK && m.type == JOUST_MSG_ROWS &&
                    joust_unit_key_equal(&m.u.rows.id.unit, &f->id.unit) && m.u.rows.first == first;
        if (ours) {
            st = check_rows(f, &m.u.rows, n, err);
            if (st == JOUST_OK) {
                f->parts[f->n_parts++] = m;
                return JOUST_OK;
            }
        }
        joust_message_fini(&m);
    }
    return st;
}

joust_status joust_pair_feed_need(joust_pair_feed *feed, uint64_t first, uint32_t n,
                                  joust_error *err)
{
    assert(first + n <= feed->end);
    if (feed->n_parts > 0 && feed->parts[0].u.rows.first > first)
        drop_before(feed, UINT64_MAX);
    drop_before(feed, first);
    for (;;) {
        uint64_t have = feed->n_parts > 0 ? part_end(&feed->parts[feed->n_parts - 1]) : first;
        if (have >= first + n)
            return JOUST_OK;
        uint64_t left = feed->end - have;
        uint32_t ask_for = left < JOUST_PAIR_FEED_AHEAD ? (uint32_t)left : JOUST_PAIR_FEED_AHEAD;
        joust_status st = get_part(feed, have, ask_for, err);
        if (st != JOUST_OK)
            return st;
    }
}

const joust_train_row_pair *joust_pair_feed_row(const joust_pair_feed *feed, uint64_t i)
{
    uint32_t part = 0;
    while (part < feed->n_parts && part_end(&feed->parts[part]) <= i)
        part++;
    assert(part < feed->n_parts && feed->parts[part].u.rows.first <= i);
    return &feed->parts[part].u.rows.rows[i - feed->parts[part].u.rows.first];
}
