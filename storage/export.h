/* Records as JSON Lines, for people, for TRL and LLaMA-Factory, and for comparing runs: without provenance the
 * bytes are a pure function of the canonical records, in key order. Memory: one record and what it refers to, whatever the store.
 *
 * A pair's line: prompt, chosen, rejected (text, as trainers read it); then its id, rule, rewards and margin,
 * policy, both trajectories' ids and digests, the verdicts about them, and the token ids of all three. A trajectory's or
 * verdict's line holds every field of the record. With provenance, a last member `provenance` says where
 * it was made; it is not canonical. Thread: any. */
#ifndef JOUST_STORAGE_EXPORT_H
#define JOUST_STORAGE_EXPORT_H

#include "storage/keys.h"
#include "storage/store.h"

typedef struct joust_export_options {
    bool one_round;
    uint32_t round; /* if one_round */
    bool provenance;
} joust_export_options;

/* Takes the next bytes of the output. */
typedef joust_status joust_sink(void *user, const void *data, size_t n, joust_error *err);

/* family: PAIRS, TRAJECTORIES or VERDICTS. ret_n (may be NULL): lines written.
 * Errors: JOUST_CORRUPT or JOUST_NOT_FOUND naming the key; what the sink returned; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_export(joust_store *store, joust_family family,
                                         const joust_export_options *options, joust_sink *sink,
                                         void *user, uint64_t *ret_n, joust_error *err);

/* One record as such a line, without the newline, appended to `to`. */
JOUST_MUST_USE joust_status joust_export_one(joust_store *store, joust_family family,
                                             const joust_record_id *id, bool provenance,
                                             joust_buf *to, joust_error *err);

#endif
