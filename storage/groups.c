/* Reading several records at once (storage/tables.h). */
#include "proto/base/alloc.h"
#include "storage/tables.h"
#include "store_internal.h"

/* Ends a walk that collected records: JOUST_END is success. */
static joust_status walk_end(joust_status st, const joust_error *why, joust_error *err)
{
    return st == JOUST_END ? JOUST_OK : joust_fail(err, st, "%s", why->text);
}

void joust_trajectories_free(joust_trajectory *records, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        joust_trajectory_fini(&records[i]);
    joust_free(records);
}

void joust_verdicts_free(joust_verdict *records, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        joust_verdict_fini(&records[i]);
    joust_free(records);
}

/* Records of one type, of `size` bytes each. */
typedef struct record_kind {
    joust_family family;
    size_t size;
    joust_status (*next)(joust_cursor *cursor, void *to, joust_error *err);
    void (*free)(void *records, uint32_t n);
} record_kind;

static joust_status next_trajectory(joust_cursor *cursor, void *to, joust_error *err)
{
    return joust_cursor_next_trajectory(cursor, to, err);
}

static joust_status next_verdict(joust_cursor *cursor, void *to, joust_error *err)
{
    return joust_cursor_next_verdict(cursor, to, err);
}

static void free_trajectories(void *records, uint32_t n)
{
    joust_trajectories_free(records, n);
}

static void free_verdicts(void *records, uint32_t n)
{
    joust_verdicts_free(records, n);
}

/* All records of a unit in a block, or NULL if there is none. */
static joust_status collect(joust_store *store, const record_kind *kind, const joust_unit_key *unit,
                            void **ret, uint32_t *ret_n, joust_error *err)
{
    joust_key_range range = joust_range_unit(unit);
    joust_cursor *cursor;
    joust_status st = joust_cursor_open(store, kind->family, &range, &cursor, err);
    if (st != JOUST_OK)
        return st;
    void *block = NULL;
    size_t n = 0, capacity = 0;
    joust_error why = {0};
    for (;; n++) {
        if (!joust_grow(&block, n, &capacity, kind->size))
            st =
                joust_fail(&why, JOUST_NOMEM, "%s: out of memory", joust_family_name(kind->family));
        else
            st = kind->next(cursor, (char *)block + n * kind->size, &why);
        if (st != JOUST_OK)
            break;
    }
    joust_cursor_close(&cursor);
    st = walk_end(st, &why, err);
    if (st != JOUST_OK || n == 0) {
        kind->free(block, (uint32_t)n);
        block = NULL;
    }
    if (st == JOUST_OK) {
        *ret = block;
        *ret_n = (uint32_t)n;
    }
    return st;
}

joust_status joust_store_get_group(joust_store *store, const joust_unit_key *unit,
                                   joust_trajectory **ret, uint32_t *ret_n, joust_error *err)
{
    static const record_kind kind = {JOUST_FAMILY_TRAJECTORIES, sizeof(joust_trajectory),
                                     next_trajectory, free_trajectories};
    void *block;
    joust_status st = collect(store, &kind, unit, &block, ret_n, err);
    if (st == JOUST_OK)
        *ret = block;
    return st;
}

joust_status joust_store_get_verdicts(joust_store *store, const joust_unit_key *unit,
                                      joust_verdict **ret, uint32_t *ret_n, joust_error *err)
{
    static const record_kind kind = {JOUST_FAMILY_VERDICTS, sizeof(joust_verdict), next_verdict,
                                     free_verdicts};
    void *block;
    joust_status st = collect(store, &kind, unit, &block, ret_n, err);
    if (st == JOUST_OK)
        *ret = block;
    return st;
}

joust_status joust_store_list_pairs(joust_store *store, uint32_t round, uint32_t stage,
                                    joust_pair_place **ret, uint64_t *ret_n, joust_error *err)
{
    joust_key_range range = joust_range_stage(round, stage);
    joust_db_scan *scan;
    joust_status st = joust_db_scan_open(store->db, JOUST_FAMILY_PAIRS, &range, &scan, err);
    if (st != JOUST_OK)
        return st;
    joust_pair_place *places = NULL;
    size_t n = 0, capacity = 0;
    joust_error why = {0};
    joust_span key, payload;
    while ((st = joust_db_scan_next(scan, &key, &payload, &why)) == JOUST_OK) {
        joust_unit_key unit;
        if (key.n != 20 || !joust_key_get_unit(key, &unit)) {
            st = joust_fail(&why, JOUST_CORRUPT, "pairs: a key of %zu bytes", key.n);
            break;
        }
        if (!joust_grow(&places, n, &capacity, sizeof(*places))) {
            st = joust_fail(&why, JOUST_NOMEM, "pairs: out of memory");
            break;
        }
        places[n++] = (joust_pair_place){unit.position, joust_get_be32(key.data + 16)};
    }
    joust_db_scan_close(&scan);
    st = walk_end(st, &why, err);
    if (st != JOUST_OK) {
        joust_free(places);
        return st;
    }
    *ret = places;
    *ret_n = n;
    return JOUST_OK;
}

joust_status joust_store_count(joust_store *store, joust_family family,
                               const joust_key_range *range, uint64_t *ret, joust_error *err)
{
    return joust_db_count(store->db, family, range, ret, err);
}

joust_status joust_store_count_prompts(joust_store *store, uint32_t set, uint64_t *ret,
                                       joust_error *err)
{
    joust_key_range range = joust_range_prompts(set);
    return joust_db_count(store->db, JOUST_FAMILY_PROMPTS, &range, ret, err);
}
