/* A real job in folders of its own: prompt files, a store that holds them, blobs, a plan; and the records that honest
 * peers would send for it. Stages: generate (3 samples), judge, pair, train. */
#ifndef JOUST_TESTS_COORDINATOR_SAMPLE_STORE_H
#define JOUST_TESTS_COORDINATOR_SAMPLE_STORE_H

#include "coordinator/lease_units.h"
#include "storage/blobs.h"
#include "storage/store.h"

enum { SAMPLE_GENERATE, SAMPLE_JUDGE, SAMPLE_PAIR, SAMPLE_TRAIN };
enum { SAMPLE_SAMPLES = 3, SAMPLE_PROMPTS = 7, SAMPLE_PER_ROUND = 4 };

typedef struct sample_store {
    char *dir; /* everything is below it; removed at the end */
    joust_job job;
    joust_plan plan;
    uint64_t n_prompts[JOUST_MAX_SETS];
    joust_store *store;
    joust_blobs *blobs;
    uint64_t epoch;
    joust_lease_sources sources;
    joust_model_ref policy; /* version 0 */
} sample_store;

/* Writes dir/policy, dir/prompts.jsonl and dir/test.jsonl and fills a job that reads them; nothing is opened yet. order:
 * of the prompts. */
void sample_store_prepare(sample_store *s, joust_order order);
/* The same, then digests the inputs, opens the store below dir/store and imports them. */
void sample_store_open(sample_store *s, joust_order order);
void sample_store_close(sample_store *s);

/* What a unit of the first round asks for; the caller frees with joust_unit_result_fini. */
joust_unit_result sample_group(sample_store *s, uint32_t round, uint64_t position);
joust_unit_result sample_verdicts(sample_store *s, uint32_t round, uint64_t position);
/* A model of two steps whose chunks are in the blobs. */
joust_unit_result sample_model(sample_store *s, uint32_t round);

/* Puts into one batch and commits it. */
void sample_put_result(sample_store *s, const joust_unit_result *r);
/* A pair of the first two answers at a position whose group is stored. index: among the position's pairs. */
void sample_put_pair(sample_store *s, uint32_t round, uint64_t position, uint32_t index);

#endif
