/* Keys of the store: pure functions between positions and bytes. Numbers are big-endian and of fixed
 * width, so that bytes sort as positions do. Byte by byte: storage/LAYOUT.md. Thread: any. */
#ifndef JOUST_STORAGE_KEYS_H
#define JOUST_STORAGE_KEYS_H

#include "proto/base/bytes.h"
#include "proto/records.h"

/* Column families. The number goes into every checksum: never renumber. */
/* clang-format off */
#define JOUST_FAMILY_MAP(X)                     \
    X(JOUST_FAMILY_JOB,          0, "job")          \
    X(JOUST_FAMILY_PROMPTS,      1, "prompts")      \
    X(JOUST_FAMILY_TRAJECTORIES, 2, "trajectories") \
    X(JOUST_FAMILY_VERDICTS,     3, "verdicts")     \
    X(JOUST_FAMILY_PAIRS,        4, "pairs")        \
    X(JOUST_FAMILY_ROUNDS,       5, "rounds")       \
    X(JOUST_FAMILY_MODELS,       6, "models")       \
    X(JOUST_FAMILY_PROVENANCE,   7, "provenance")   \
    X(JOUST_FAMILY_EVENTS,       8, "events")       \
    X(JOUST_FAMILY_SNAPSHOTS,    9, "snapshots")
/* clang-format on */

typedef enum joust_family {
#define X(name, number, text) name = number,
    JOUST_FAMILY_MAP(X)
#undef X
        JOUST_FAMILY_N
} joust_family;

const char *joust_family_name(joust_family family); /* "job" … ; never NULL */

#define JOUST_MAX_KEY_BYTES 160u

typedef struct joust_key {
    uint8_t bytes[JOUST_MAX_KEY_BYTES];
    uint32_t n;
} joust_key;

typedef enum joust_job_field { /* stored in keys: never renumber */
                               JOUST_JOB_FORMAT = 1,
                               JOUST_JOB_DIGEST = 2,
                               JOUST_JOB_ENCODING = 3,
                               JOUST_JOB_EPOCH = 4
} joust_job_field;

typedef enum joust_round_field { /* stored in keys: never renumber */
                                 JOUST_ROUND_SUMMARY = 1,
                                 JOUST_ROUND_STEP = 2,
                                 JOUST_ROUND_PROMOTION = 3
} joust_round_field;

joust_key joust_key_job(joust_job_field field);
joust_key joust_key_prompt_line(uint32_t set, uint64_t line);
joust_key joust_key_prompt_id(const joust_digest *digest, uint32_t occurrence);
joust_key joust_key_unit(const joust_unit_key *unit);
joust_key joust_key_lease(const joust_unit_key *unit, uint64_t lease);
joust_key joust_key_trajectory(const joust_unit_key *unit, uint32_t sample);
joust_key joust_key_verdict(const joust_unit_key *unit, uint32_t sample, uint32_t other,
                            uint32_t order, uint32_t vote);
joust_key joust_key_pair(const joust_unit_key *unit, uint32_t index);
joust_key joust_key_round(joust_round_field field, uint32_t round, uint32_t stage, uint32_t step);
joust_key joust_key_model(const char *lineage, uint64_t version);
joust_key joust_key_sequence(uint64_t sequence); /* of events and snapshots */

/* Whether these are the bytes of key. */
bool joust_key_equal(const joust_key *key, joust_span bytes);

/* Keys that share their leading numbers: first <= key < before (before.n = 0: no end). */
typedef struct joust_key_range {
    joust_key first, before;
} joust_key_range;

joust_key_range joust_range_all(void);
/* The keys that begin with these bytes. */
joust_key_range joust_range_prefix(const joust_key *prefix);
joust_key_range joust_range_round(uint32_t round);
joust_key_range joust_range_stage(uint32_t round, uint32_t stage);
/* n positions of a stage from `first` on. */
joust_key_range joust_range_positions(uint32_t round, uint32_t stage, uint64_t first, uint64_t n);
joust_key_range joust_range_unit(const joust_unit_key *unit);
/* Of the family `prompts`: the lines of a set. */
joust_key_range joust_range_prompts(uint32_t set);
/* Of the family `rounds`: one field of every round, or of one. */
joust_key_range joust_range_round_field(joust_round_field field);
joust_key_range joust_range_round_field_of(joust_round_field field, uint32_t round);
/* Sequences from `first` on. */
joust_key_range joust_range_sequence(uint64_t first);

/* The unit that the key of a trajectory, verdict, pair or provenance begins with. False if it is too short. */
bool joust_key_get_unit(joust_span key, joust_unit_key *ret);
/* The number a key of events or snapshots holds; 0 if it isn't one. */
uint64_t joust_key_get_sequence(joust_span key);
/* Family and key as a person reads them: "trajectories r3.s1.p120.2"; odd keys as hex. Returns to. */
#define JOUST_KEY_TEXT 420
const char *joust_key_text(joust_family family, joust_span key, char to[JOUST_KEY_TEXT]);

/* The id of a trajectory, verdict or pair as people write it: r3.s1.p120.2 is round 3, stage 1,
 * position 120, sample (or pair index) 2; a verdict adds "-5" if it compared with sample 5, and ".o1.v0" for
 * order and vote unless both are 0. */
typedef struct joust_record_id {
    joust_unit_key unit;
    uint32_t index; /* sample or pair index */
    uint32_t other; /* or JOUST_NONE */
    uint32_t order, vote;
} joust_record_id;

#define JOUST_RECORD_ID_TEXT 128
const char *joust_record_id_text(const joust_record_id *id, char to[JOUST_RECORD_ID_TEXT]);
/* Errors: JOUST_INVALID with the form expected. */
JOUST_MUST_USE joust_status joust_record_id_parse(const char *text, joust_record_id *ret,
                                                  joust_error *err);

#endif
