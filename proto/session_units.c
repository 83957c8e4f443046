/* The units that a peer holds: under credit from their lease until the acknowledgement. */
#include <stdio.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/session_internal.h"

joust_held *joust_session_find(const joust_session *s, const joust_unit_key *unit)
{
    for (uint32_t i = 0; i < s->n_held; i++)
        if (joust_unit_key_equal(&s->units[i].id.unit, unit))
            return &s->units[i];
    return NULL;
}

void joust_session_release(joust_session *s, joust_held *h)
{
    joust_unit_result_fini(&h->result);
    *h = s->units[--s->n_held];
    memset(&s->units[s->n_held], 0, sizeof(*h));
    s->offered = JOUST_OFFER_NONE; /* a view given before may be of what has moved */
}

static joust_status add_failure(joust_session *s, const joust_unit_id *id, joust_status code,
                                const char *text, joust_error *err)
{
    if (s->n_failed >= 4 * JOUST_MAX_UNITS)
        return joust_fail(err, JOUST_FULL, "session: too many failures wait to be sent");
    if (!joust_grow(&s->failed, s->n_failed, &s->failed_capacity, sizeof(*s->failed)))
        return joust_fail(err, JOUST_NOMEM, "session: out of memory");
    joust_failure *f = &s->failed[s->n_failed++];
    *f = (joust_failure){.id = *id, .code = code};
    snprintf(f->text, sizeof(f->text), "%s", text ? text : "");
    return JOUST_OK;
}

joust_status joust_session_accept(joust_session *s, const joust_lease_unit *unit, joust_error *err)
{
    joust_unit_id id = {.unit = unit->unit, .lease = unit->lease, .attempt = unit->attempt};
    joust_held *h = joust_session_find(s, &unit->unit);
    if (h) {
        h->id = id;
        h->result.id = id;
        h->sent = false;
        return joust_fail(err, JOUST_EXISTS, "unit is held already");
    }
    if (s->state == JOUST_SESSION_READY && s->n_held < s->options.credit) {
        s->units[s->n_held++] = (joust_held){.id = id};
        return JOUST_OK;
    }
    joust_status st = add_failure(s, &id, JOUST_FULL, "beyond this peer's credit", err);
    return st == JOUST_OK ? joust_fail(err, JOUST_FULL, "unit is beyond the credit") : st;
}

void joust_session_progress(joust_session *s, const joust_unit_key *unit, uint64_t done)
{
    joust_held *h = joust_session_find(s, unit);
    if (h && done > h->done)
        h->done = done;
}

joust_status joust_session_finish(joust_session *s, joust_unit_result *result, joust_error *err)
{
    joust_held *h = joust_session_find(s, &result->id.unit);
    if (!h || h->finished)
        return joust_fail(err, JOUST_NOT_FOUND, "result of a unit that isn't being computed");
    h->result = *result;
    h->result.id = h->id;
    h->result.provenance.lease = h->id.lease;
    h->result.provenance.attempt = h->id.attempt;
    h->finished = true;
    h->sent = false;
    memset(result, 0, sizeof(*result));
    return JOUST_OK;
}

joust_status joust_session_fail(joust_session *s, const joust_unit_key *unit, joust_status code,
                                const char *text, joust_error *err)
{
    joust_held *h = joust_session_find(s, unit);
    if (!h)
        return joust_fail(err, JOUST_NOT_FOUND, "failure of a unit that isn't held");
    joust_status st = add_failure(s, &h->id, code, text, err);
    if (st == JOUST_OK)
        joust_session_release(s, h);
    return st;
}

joust_status joust_session_lease(const joust_session *s, const joust_unit_key *unit,
                                 joust_unit_id *ret)
{
    const joust_held *h = joust_session_find(s, unit);
    if (!h)
        return JOUST_NOT_FOUND;
    *ret = h->id;
    return JOUST_OK;
}
