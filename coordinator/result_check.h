/* Whether a result is what its unit asked for: bytes from a peer are never trusted into the store. Pure but for the
 * store's prompts and blobs. Thread: one at a time. */
#ifndef JOUST_COORDINATOR_RESULT_CHECK_H
#define JOUST_COORDINATOR_RESULT_CHECK_H

#include "coordinator/lease_units.h"
#include "storage/blobs.h"

/* policy: what the unit's lease named (zero lineage where the stage asks no model). Fills *ret_content (may be NULL)
 * with the digest of the unit's canonical records. For INIT and TRAIN it fills result->model's weights digest from the manifest.
 * Errors: JOUST_INVALID, JOUST_STALE (another policy), JOUST_NOT_FOUND (a chunk that was never sent): the peer is at fault. */
JOUST_MUST_USE joust_status joust_result_check(joust_lease_sources *sources, joust_blobs *blobs,
                                               const joust_model_ref *policy,
                                               joust_unit_result *result, joust_digest *ret_content,
                                               joust_error *err);
/* The digest alone, of a result that is to be compared with what is recorded: nothing about it is checked but its model's
 * chunks and steps. Errors: as check. */
JOUST_MUST_USE joust_status joust_result_digest(joust_lease_sources *sources, joust_blobs *blobs,
                                                joust_unit_result *result,
                                                joust_digest *ret_content, joust_error *err);
/* The same digest of what the store holds for a unit that is done. Errors: of the store. */
JOUST_MUST_USE joust_status joust_result_stored(joust_lease_sources *sources,
                                                const joust_unit_key *unit, uint64_t version,
                                                joust_digest *ret_content, joust_error *err);
/* Puts a checked result's records and provenance. */
JOUST_MUST_USE joust_status joust_result_put(joust_batch *batch, const joust_unit_result *result,
                                             joust_error *err);

#endif
