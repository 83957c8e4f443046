/* Provenance: what was leased and how it came, beside a unit's result in one family. */
#include "storage/tables.h"
#include "store_internal.h"

/* Leases stand behind their unit's result. */
static bool is_lease(joust_span key)
{
    return key.n == 24;
}

joust_status joust_cursor_next_provenance(joust_cursor *cursor, joust_unit_key *ret_unit,
                                          joust_provenance *ret, joust_error *err)
{
    joust_status st;
    while ((st = joust_cursor_next_lease(cursor, ret, err)) == JOUST_OK &&
           is_lease(joust_cursor_key(cursor)))
        joust_provenance_fini(ret);
    if (st == JOUST_OK && !joust_key_get_unit(joust_cursor_key(cursor), ret_unit))
        st = joust_fail(err, JOUST_CORRUPT, "provenance: a key of %zu bytes",
                        joust_cursor_key(cursor).n);
    return st;
}

/* The unit that a count is at: its result sorts before its leases. */
typedef struct lease_run {
    joust_unit_key unit;
    bool begun, done;
    uint64_t n;
} lease_run;

static void end_lease_run(const lease_run *run, joust_lease_count *count)
{
    count->leases += run->n;
    count->units += run->n > 0;
    count->open += run->n > 0 && !run->done;
}

static void add_served(const joust_provenance *r, joust_lease_count *count)
{
    count->requests += r->n_served;
    count->tokens += r->n_tokens;
    for (uint32_t i = 0; i < r->n_served; i++)
        count->tries += r->served[i].tries;
    const double wall_ms = (double)r->started_wall_ms + (double)r->duration_us / 1000;
    if (r->n_served == 0 || joust_digest_is_zero(&r->served[r->n_served - 1].fingerprint) ||
        wall_ms < count->fingerprint_wall_ms)
        return;
    count->fingerprint = r->served[r->n_served - 1].fingerprint;
    count->fingerprint_wall_ms = wall_ms;
}

joust_status joust_store_count_leases(joust_store *store, uint32_t round, uint32_t stage,
                                      joust_lease_count *ret, joust_error *err)
{
    joust_key_range range = joust_range_stage(round, stage);
    joust_lease_count count = {0};
    lease_run run = {.begun = false};
    joust_provenance r;
    joust_cursor *cursor;
    joust_status st = joust_cursor_open(store, JOUST_FAMILY_PROVENANCE, &range, &cursor, err);
    if (st != JOUST_OK)
        return st;
    while ((st = joust_cursor_next_lease(cursor, &r, err)) == JOUST_OK) {
        joust_unit_key unit = {0};
        bool lease = is_lease(joust_cursor_key(cursor)),
             known = joust_key_get_unit(joust_cursor_key(cursor), &unit);
        if (known && (!run.begun || !joust_unit_key_equal(&unit, &run.unit))) {
            end_lease_run(&run, &count);
            run = (lease_run){.unit = unit, .begun = true};
        }
        run.n += lease;
        run.done = run.done || !lease;
        if (!lease)
            add_served(&r, &count);
        joust_provenance_fini(&r);
    }
    joust_cursor_close(&cursor);
    if (st != JOUST_END)
        return st;
    end_lease_run(&run, &count);
    *ret = count;
    return JOUST_OK;
}

joust_status joust_store_has_lease(joust_store *store, const joust_unit_key *unit, bool *ret,
                                   joust_error *err)
{
    joust_key_range range = joust_range_unit(unit);
    joust_cursor *cursor;
    bool found = false;
    joust_status st = joust_cursor_open(store, JOUST_FAMILY_PROVENANCE, &range, &cursor, err);
    if (st != JOUST_OK)
        return st;
    while (!found && (st = joust_cursor_next(cursor, err)) == JOUST_OK)
        found = is_lease(joust_cursor_key(cursor));
    joust_cursor_close(&cursor);
    if (st != JOUST_OK && st != JOUST_END)
        return st;
    *ret = found;
    return JOUST_OK;
}
