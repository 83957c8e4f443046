/* Records with random content, made by the tables of record types: whatever a record gains, the
 * tests cover. */
#ifndef JOUST_TESTS_PROTO_FILL_H
#define JOUST_TESTS_PROTO_FILL_H

#include "proto/base/random.h"
#include "proto/codec_internal.h"

typedef struct fill_source {
    joust_stream stream;
    uint64_t index;
} fill_source;

fill_source fill_source_open(uint64_t seed);
uint64_t fill_number(fill_source *s, uint64_t below);
/* Fills the zeroed record: within its limits, arrays of at most 5 elements. Owned:
 * joust_record_fini. */
void fill_record(fill_source *s, const joust_record_type *type, void *record);

/* Every record and message type there is, with its name. */
typedef struct fill_type {
    const char *name;
    const joust_record_type *type;
} fill_type;

extern const fill_type fill_types[];
extern const size_t fill_n_types;

#endif
