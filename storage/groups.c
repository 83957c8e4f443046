/* Reading several records at once (storage/tables.h). */
#include "proto/base/alloc.h"
#include "storage/tables.h"
#include "store_internal.h"

/* Ends a walk that collected records: JOUST_END is success. */
static joust_status walk_end(joust_status st, const joust_error *why, joust_error *err)
{
    return st == JOUST_END ? JOUST_OK : joust_fail(err, st, "%s", why->text);
}

/* Makes room for one more of `size` bytes in a block that doubles. */
static bool room(void **block, uint64_t n, uint64_t *capacity, size_t size)
{
    if (n < *capacity)
        return true;
    uint64_t grown = *capacity ? *capacity * 2 : 8;
    void *bigger = joust_realloc_array(*block, grown, size);
    if (!bigger)
        return false;
    *block = bigger;
    *capacity = grown;
    return true;
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

/* Decodes the next record of a scan to a place of its size. */
typedef joust_status next_record(joust_cursor *cursor, void *to, joust_error *err);

static joust_status next_trajectory(joust_cursor *cursor, void *to, joust_error *err)
{
    return joust_cursor_next_trajectory(cursor, to, err);
}

static joust_status next_verdict(joust_cursor *cursor, void *to, joust_error *err)
{
    return joust_cursor_next_verdict(cursor, to, err);
}

/* All records of a unit, each of `size` bytes, in a block. What was decoded before a failure is in the block too: the
 * caller, who knows its type, frees it. */
static joust_status collect(joust_store *store, joust_family family, const joust_unit_key *unit,
                            next_record *next, size_t size, void **ret_block, uint32_t *ret_n,
                            joust_error *err)
{
    *ret_block = NULL;
    *ret_n = 0;
    joust_key_range range = joust_range_unit(unit);
    joust_cursor *cursor;
    joust_status st = joust_cursor_open(store, family, &range, &cursor, err);
    if (st != JOUST_OK)
        return st;
    uint64_t n = 0, capacity = 0;
    joust_error why = {0};
    for (;; n++) {
        if (!room(ret_block, n, &capacity, size))
            st = joust_fail(&why, JOUST_NOMEM, "%s: out of memory", joust_family_name(family));
        else
            st = next(cursor, (char *)*ret_block + n * size, &why);
        if (st != JOUST_OK)
            break;
    }
    joust_cursor_close(&cursor);
    *ret_n = (uint32_t)n;
    return walk_end(st, &why, err);
}

joust_status joust_store_get_group(joust_store *store, const joust_unit_key *unit,
                                   joust_trajectory **ret, uint32_t *ret_n, joust_error *err)
{
    void *block;
    uint32_t n;
    joust_status st = collect(store, JOUST_FAMILY_TRAJECTORIES, unit, next_trajectory,
                              sizeof(joust_trajectory), &block, &n, err);
    if (st != JOUST_OK || n == 0) {
        joust_trajectories_free(block, n);
        block = NULL;
    }
    if (st == JOUST_OK) {
        *ret = block;
        *ret_n = n;
    }
    return st;
}

joust_status joust_store_get_verdicts(joust_store *store, const joust_unit_key *unit,
                                      joust_verdict **ret, uint32_t *ret_n, joust_error *err)
{
    void *block;
    uint32_t n;
    joust_status st = collect(store, JOUST_FAMILY_VERDICTS, unit, next_verdict,
                              sizeof(joust_verdict), &block, &n, err);
    if (st != JOUST_OK || n == 0) {
        joust_verdicts_free(block, n);
        block = NULL;
    }
    if (st == JOUST_OK) {
        *ret = block;
        *ret_n = n;
    }
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
    void *block = NULL;
    uint64_t n = 0, capacity = 0;
    joust_error why = {0};
    joust_span key, payload;
    while ((st = joust_db_scan_next(scan, &key, &payload, &why)) == JOUST_OK) {
        joust_unit_key unit;
        if (key.n != 20 || !joust_key_get_unit(key, &unit)) {
            st = joust_fail(&why, JOUST_CORRUPT, "pairs: a key of %zu bytes", key.n);
            break;
        }
        if (!room(&block, n, &capacity, sizeof(joust_pair_place))) {
            st = joust_fail(&why, JOUST_NOMEM, "pairs: out of memory");
            break;
        }
        ((joust_pair_place *)block)[n++] =
            (joust_pair_place){unit.position, joust_get_be32(key.data + 16)};
    }
    joust_db_scan_close(&scan);
    st = walk_end(st, &why, err);
    if (st != JOUST_OK) {
        joust_free(block);
        return st;
    }
    *ret = block;
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
