/* Typed tables of a store: prompts, trajectories, verdicts, pairs, rounds, models, provenance.
 *
 * joust_batch_put_X    encodes into the batch. Repeats are harmless: the same key gets the same bytes.
 * joust_store_check_X  is asked before a re-delivered record is put: *ret_present says whether the key is
 *                      taken, by the same bytes; JOUST_CONFLICT names the key if by others.
 * joust_store_get_X    decodes into *ret (initialised by the call; the caller frees with the record's _fini).
 *                      Errors: JOUST_NOT_FOUND; JOUST_CORRUPT names the key.
 * joust_cursor_next_X  decodes the next record of a scan, in key order; JOUST_END after the last. After JOUST_CORRUPT the
 *                      next call goes on behind the bad record.
 * Memory: what comes back is owned by the caller. Thread: as storage/store.h says. */
#ifndef JOUST_STORAGE_TABLES_H
#define JOUST_STORAGE_TABLES_H

#include "storage/keys.h"
#include "storage/store.h"

/* Writing -------------------------------------------------------------------------------------- */

/* set: index in the job's sets; line: 0-based in the set's file. */
JOUST_MUST_USE joust_status joust_batch_put_prompt(joust_batch *batch, uint32_t set, uint64_t line,
                                                   const joust_prompt *prompt, joust_error *err);
JOUST_MUST_USE joust_status joust_batch_put_trajectory(joust_batch *batch,
                                                       const joust_trajectory *record,
                                                       joust_error *err);
JOUST_MUST_USE joust_status joust_batch_put_verdict(joust_batch *batch, const joust_verdict *record,
                                                    joust_error *err);
JOUST_MUST_USE joust_status joust_batch_put_pair(joust_batch *batch, const joust_pair *record,
                                                 joust_error *err);
JOUST_MUST_USE joust_status joust_batch_put_stage_summary(joust_batch *batch,
                                                          const joust_stage_summary *record,
                                                          joust_error *err);
JOUST_MUST_USE joust_status joust_batch_put_train_step(joust_batch *batch,
                                                       const joust_train_step *record,
                                                       joust_error *err);
JOUST_MUST_USE joust_status joust_batch_put_promotion(joust_batch *batch,
                                                      const joust_promotion *record,
                                                      joust_error *err);
JOUST_MUST_USE joust_status joust_batch_put_model_version(joust_batch *batch,
                                                          const joust_model_version *record,
                                                          joust_error *err);
/* Of a unit's result. The first that is committed stays. */
JOUST_MUST_USE joust_status joust_batch_put_provenance(joust_batch *batch,
                                                       const joust_unit_key *unit,
                                                       const joust_provenance *record,
                                                       joust_error *err);

/* That a unit of a served model was given out, under which lease; written before it leaves. What is given out
 * twice is asked twice. */
JOUST_MUST_USE joust_status joust_batch_put_lease(joust_batch *batch, const joust_unit_key *unit,
                                                  const joust_provenance *record,
                                                  joust_error *err);

/* Repeats -------------------------------------------------------------------------------------- */

JOUST_MUST_USE joust_status joust_store_check_trajectory(joust_store *store,
                                                         const joust_trajectory *record,
                                                         bool *ret_present, joust_error *err);
JOUST_MUST_USE joust_status joust_store_check_verdict(joust_store *store,
                                                      const joust_verdict *record,
                                                      bool *ret_present, joust_error *err);
JOUST_MUST_USE joust_status joust_store_check_model_version(joust_store *store,
                                                            const joust_model_version *record,
                                                            bool *ret_present, joust_error *err);

/* Reading one ---------------------------------------------------------------------------------- */

JOUST_MUST_USE joust_status joust_store_get_prompt(joust_store *store, uint32_t set, uint64_t line,
                                                   joust_prompt *ret, joust_error *err);
/* By id, whatever set it came from. */
JOUST_MUST_USE joust_status joust_store_find_prompt(joust_store *store, const joust_digest *digest,
                                                    uint32_t occurrence, joust_prompt *ret,
                                                    joust_error *err);
JOUST_MUST_USE joust_status joust_store_get_trajectory(joust_store *store,
                                                       const joust_unit_key *unit, uint32_t sample,
                                                       joust_trajectory *ret, joust_error *err);
JOUST_MUST_USE joust_status joust_store_get_verdict(joust_store *store, const joust_record_id *id,
                                                    joust_verdict *ret, joust_error *err);
JOUST_MUST_USE joust_status joust_store_get_pair(joust_store *store, const joust_unit_key *unit,
                                                 uint32_t index, joust_pair *ret, joust_error *err);
JOUST_MUST_USE joust_status joust_store_get_stage_summary(joust_store *store, uint32_t round,
                                                          uint32_t stage, joust_stage_summary *ret,
                                                          joust_error *err);
JOUST_MUST_USE joust_status joust_store_get_train_step(joust_store *store, uint32_t round,
                                                       uint32_t stage, uint32_t step,
                                                       joust_train_step *ret, joust_error *err);
JOUST_MUST_USE joust_status joust_store_get_promotion(joust_store *store, uint32_t round,
                                                      uint32_t stage, joust_promotion *ret,
                                                      joust_error *err);
JOUST_MUST_USE joust_status joust_store_get_model_version(joust_store *store, const char *lineage,
                                                          uint64_t version,
                                                          joust_model_version *ret,
                                                          joust_error *err);
JOUST_MUST_USE joust_status joust_store_get_provenance(joust_store *store,
                                                       const joust_unit_key *unit,
                                                       joust_provenance *ret, joust_error *err);

/* Reading groups ------------------------------------------------------------------------------- */

/* All trajectories of a group, by sample; n = 0 and NULL if there are none. Free with joust_trajectories_free. */
JOUST_MUST_USE joust_status joust_store_get_group(joust_store *store, const joust_unit_key *unit,
                                                  joust_trajectory **ret, uint32_t *ret_n,
                                                  joust_error *err);
void joust_trajectories_free(joust_trajectory *records, uint32_t n);
/* All verdicts that a JUDGE unit gave, in key order. Free with joust_verdicts_free. */
JOUST_MUST_USE joust_status joust_store_get_verdicts(joust_store *store, const joust_unit_key *unit,
                                                     joust_verdict **ret, uint32_t *ret_n,
                                                     joust_error *err);
void joust_verdicts_free(joust_verdict *records, uint32_t n);

/* Where the pairs of a PAIR stage are, in key order: ret[ordinal]. Owned (joust_free); 16 bytes a pair. */
typedef struct joust_pair_place {
    uint64_t position;
    uint32_t index;
} joust_pair_place;
JOUST_MUST_USE joust_status joust_store_list_pairs(joust_store *store, uint32_t round,
                                                   uint32_t stage, joust_pair_place **ret,
                                                   uint64_t *ret_n, joust_error *err);
/* Number of records of a family in a range, by walking keys. */
JOUST_MUST_USE joust_status joust_store_count(joust_store *store, joust_family family,
                                              const joust_key_range *range, uint64_t *ret,
                                              joust_error *err);
/* Units of a stage of a served model: how often they were given out. */
typedef struct joust_lease_count {
    uint64_t leases; /* units given out, each time counted */
    uint64_t units;  /* that were given out once or more */
    uint64_t open;   /* of them, those without a result */
    uint64_t requests, tries, tokens; /* that the results tell of */
    joust_digest fingerprint;   /* of the server's model, in the latest result with one; or zero */
    double fingerprint_wall_ms; /* of that result */
} joust_lease_count;
JOUST_MUST_USE joust_status joust_store_count_leases(joust_store *store, uint32_t round,
                                                     uint32_t stage, joust_lease_count *ret,
                                                     joust_error *err);
/* Whether the unit was given out before. */
JOUST_MUST_USE joust_status joust_store_has_lease(joust_store *store, const joust_unit_key *unit,
                                                  bool *ret, joust_error *err);
/* Number of prompts stored of a set. */
JOUST_MUST_USE joust_status joust_store_count_prompts(joust_store *store, uint32_t set,
                                                      uint64_t *ret, joust_error *err);

/* Scans ---------------------------------------------------------------------------------------- */

typedef struct joust_cursor joust_cursor;

/* Opens a scan of the records in range (storage/keys.h makes ranges) on a consistent view. Close before the store. */
JOUST_MUST_USE joust_status joust_cursor_open(joust_store *store, joust_family family,
                                              const joust_key_range *range, joust_cursor **ret,
                                              joust_error *err);
void joust_cursor_close(joust_cursor **cursor);
/* Key of the record that the last call decoded or found bad; view until the next call. */
joust_span joust_cursor_key(const joust_cursor *cursor);

/* Next record undecoded, its checksum verified: see joust_cursor_key. */
JOUST_MUST_USE joust_status joust_cursor_next(joust_cursor *cursor, joust_error *err);
JOUST_MUST_USE joust_status joust_cursor_next_prompt(joust_cursor *cursor, joust_prompt *ret,
                                                     joust_error *err);
JOUST_MUST_USE joust_status joust_cursor_next_trajectory(joust_cursor *cursor,
                                                         joust_trajectory *ret, joust_error *err);
JOUST_MUST_USE joust_status joust_cursor_next_verdict(joust_cursor *cursor, joust_verdict *ret,
                                                      joust_error *err);
JOUST_MUST_USE joust_status joust_cursor_next_pair(joust_cursor *cursor, joust_pair *ret,
                                                   joust_error *err);
JOUST_MUST_USE joust_status joust_cursor_next_stage_summary(joust_cursor *cursor,
                                                            joust_stage_summary *ret,
                                                            joust_error *err);
JOUST_MUST_USE joust_status joust_cursor_next_train_step(joust_cursor *cursor,
                                                         joust_train_step *ret, joust_error *err);
JOUST_MUST_USE joust_status joust_cursor_next_promotion(joust_cursor *cursor, joust_promotion *ret,
                                                        joust_error *err);
JOUST_MUST_USE joust_status joust_cursor_next_model_version(joust_cursor *cursor,
                                                            joust_model_version *ret,
                                                            joust_error *err);
/* ret_unit: the unit whose provenance it is. Leases are passed over. */
JOUST_MUST_USE joust_status joust_cursor_next_provenance(joust_cursor *cursor,
                                                         joust_unit_key *ret_unit,
                                                         joust_provenance *ret, joust_error *err);

#endif
