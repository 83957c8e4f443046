#include "coordinator/recent.h"

#include <string.h>

#include "proto/base/alloc.h"

#define BUCKETS 4096u /* chains stay short: a unit takes some kilobytes of the bound */

typedef struct node {
    joust_recent_unit unit;
    uint64_t bytes;
    struct node *chain;         /* of its bucket */
    struct node *older, *newer; /* by age */
} node;

struct joust_recent {
    uint64_t max_bytes, bytes;
    node *oldest, *newest;
    node *dropped; /* by chain; freed by the next keep */
    node *buckets[BUCKETS];
};

joust_status joust_recent_create(uint64_t max_bytes, joust_recent **ret, joust_error *err)
{
    joust_recent *recent = joust_calloc(1, sizeof(*recent));
    if (!recent)
        return joust_fail(err, JOUST_NOMEM, "recent units: out of memory");
    recent->max_bytes = max_bytes;
    *ret = recent;
    return JOUST_OK;
}

static uint32_t bucket_of(const joust_unit_key *key)
{
    uint64_t mixed = (key->position ^ (uint64_t)key->stage << 40 ^ (uint64_t)key->round << 50) *
                     0x9e3779b97f4a7c15u;
    return (uint32_t)(mixed >> 52); /* 12 bits */
}

/* The link that points to the unit's node, or to the NULL at the end of its chain. */
static node **find_link(joust_recent *recent, const joust_unit_key *key)
{
    node **link = &recent->buckets[bucket_of(key)];
    while (*link && !joust_unit_key_equal(&(*link)->unit.key, key))
        link = &(*link)->chain;
    return link;
}

static void node_free(node *gone)
{
    for (uint32_t i = 0; i < gone->unit.n_trajectories; i++)
        joust_trajectory_fini(&gone->unit.trajectories[i]);
    for (uint32_t i = 0; i < gone->unit.n_verdicts; i++)
        joust_verdict_fini(&gone->unit.verdicts[i]);
    joust_free(gone->unit.trajectories);
    joust_free(gone->unit.verdicts);
    joust_free(gone);
}

void joust_recent_drop(joust_recent *recent, const joust_unit_key *unit)
{
    node **link = find_link(recent, unit), *gone = *link;
    if (!gone)
        return;
    *link = gone->chain;
    *(gone->older ? &gone->older->newer : &recent->oldest) = gone->newer;
    *(gone->newer ? &gone->newer->older : &recent->newest) = gone->older;
    recent->bytes -= gone->bytes;
    gone->chain = recent->dropped;
    recent->dropped = gone;
}

static void free_dropped(joust_recent *recent)
{
    while (recent->dropped) {
        node *gone = recent->dropped;
        recent->dropped = gone->chain;
        node_free(gone);
    }
}

void joust_recent_free(joust_recent **recent)
{
    if (!*recent)
        return;
    while ((*recent)->oldest)
        joust_recent_drop(*recent, &(*recent)->oldest->unit.key);
    free_dropped(*recent);
    joust_free(*recent);
    *recent = NULL;
}

/* About what the unit takes, the allocator's own included. */
static uint64_t bytes_of(const joust_unit_result *r)
{
    uint64_t bytes = sizeof(node);
    for (uint32_t i = 0; i < r->n_trajectories; i++) {
        const joust_trajectory *t = &r->trajectories[i];
        bytes +=
            sizeof(*t) + 4ull * t->n_prompt_tokens + 12ull * t->n_tokens + strlen(t->text) + 96;
    }
    for (uint32_t i = 0; i < r->n_verdicts; i++) {
        const joust_verdict *v = &r->verdicts[i];
        bytes += sizeof(*v) + 8ull * v->n_labels + strlen(v->text) + 48;
    }
    return bytes;
}

void joust_recent_keep(joust_recent *recent, joust_unit_result *result)
{
    const joust_unit_key *key = &result->id.unit;
    uint64_t bytes = bytes_of(result);
    if (bytes > recent->max_bytes || (!result->n_trajectories && !result->n_verdicts))
        return;
    node *added = joust_calloc(1, sizeof(*added));
    if (!added)
        return;
    joust_recent_drop(recent, key);
    while (recent->bytes + bytes > recent->max_bytes)
        joust_recent_drop(recent, &recent->oldest->unit.key);
    free_dropped(recent);
    *added = (node){.unit = {.key = *key,
                             .n_trajectories = result->n_trajectories,
                             .n_verdicts = result->n_verdicts,
                             .trajectories = result->trajectories,
                             .verdicts = result->verdicts},
                    .bytes = bytes,
                    .older = recent->newest};
    result->n_trajectories = result->n_verdicts = 0;
    result->trajectories = NULL;
    result->verdicts = NULL;
    *find_link(recent, key) = added;
    *(added->older ? &added->older->newer : &recent->oldest) = added;
    recent->newest = added;
    recent->bytes += bytes;
}

const joust_recent_unit *joust_recent_find(const joust_recent *recent, const joust_unit_key *unit)
{
    const node *n = recent->buckets[bucket_of(unit)];
    while (n && !joust_unit_key_equal(&n->unit.key, unit))
        n = n->chain;
    return n ? &n->unit : NULL;
}
