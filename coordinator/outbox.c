#include "coordinator/outbox.h"

#include "proto/base/alloc.h"

typedef struct parcel {
    uint64_t sequence; /* leaves once this batch is durable */
    joust_actions actions;
} parcel;

/* A ring that grows: items[(head + i) % capacity], i < n. */
struct joust_outbox {
    parcel *items;
    size_t head, n, capacity;
    uint64_t durable, newest;
};

joust_status joust_outbox_create(joust_outbox **ret, joust_error *err)
{
    joust_outbox *outbox = joust_calloc(1, sizeof(*outbox));
    if (!outbox)
        return joust_fail(err, JOUST_NOMEM, "outbox: out of memory");
    *ret = outbox;
    return JOUST_OK;
}

void joust_outbox_free(joust_outbox **outbox)
{
    joust_outbox *o = *outbox;
    if (!o)
        return;
    for (size_t i = 0; i < o->n; i++)
        joust_actions_fini(&o->items[(o->head + i) % o->capacity].actions);
    joust_free(o->items);
    joust_free(o);
    *outbox = NULL;
}

static joust_status make_room(joust_outbox *o, joust_error *err)
{
    if (o->n < o->capacity)
        return JOUST_OK;
    size_t capacity = o->capacity ? o->capacity * 2 : 64;
    parcel *items = joust_calloc(capacity, sizeof(*items));
    if (!items)
        return joust_fail(err, JOUST_NOMEM, "outbox: %zu steps", capacity);
    for (size_t i = 0; i < o->n; i++)
        items[i] = o->items[(o->head + i) % o->capacity];
    joust_free(o->items);
    o->items = items;
    o->head = 0;
    o->capacity = capacity;
    return JOUST_OK;
}

joust_status joust_outbox_push(joust_outbox *outbox, joust_actions *actions, uint64_t sequence,
                               joust_error *err)
{
    if (sequence && sequence < outbox->newest)
        return joust_fail(err, JOUST_BUG, "outbox: batch %llu after batch %llu",
                          (unsigned long long)sequence, (unsigned long long)outbox->newest);
    joust_status st = joust_actions_status(actions, err);
    if (st == JOUST_OK)
        st = make_room(outbox, err);
    if (st != JOUST_OK)
        return st;
    if (sequence)
        outbox->newest = sequence;
    parcel *last = &outbox->items[(outbox->head + outbox->n++) % outbox->capacity];
    /* A step that wrote nothing waits for the batches before it. */
    *last = (parcel){.sequence = outbox->newest, .actions = *actions};
    *actions = (joust_actions){0};
    return JOUST_OK;
}

void joust_outbox_committed(joust_outbox *outbox, uint64_t sequence)
{
    if (sequence > outbox->durable)
        outbox->durable = sequence;
}

bool joust_outbox_pop(joust_outbox *outbox, joust_actions *ret)
{
    if (!outbox->n || outbox->items[outbox->head].sequence > outbox->durable)
        return false;
    joust_actions_fini(ret);
    *ret = outbox->items[outbox->head].actions;
    outbox->head = (outbox->head + 1) % outbox->capacity;
    outbox->n--;
    return true;
}

size_t joust_outbox_depth(const joust_outbox *outbox)
{
    return outbox->n;
}

uint64_t joust_outbox_durable(const joust_outbox *outbox)
{
    return outbox->durable;
}
