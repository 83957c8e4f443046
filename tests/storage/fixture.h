/* A small job and its records, as a run of it would have made them; and scratch folders for tests. */
#ifndef JOUST_TESTS_STORAGE_FIXTURE_H
#define JOUST_TESTS_STORAGE_FIXTURE_H

#include "proto/job.h"
#include "proto/records.h"
#include "storage/store.h"

/* Stages that the job's plan has. */
enum { STAGE_GENERATE, STAGE_JUDGE, STAGE_PAIR, STAGE_TRAIN };
enum { SAMPLES = 3 };

/* Fails the test with the error's text unless st is JOUST_OK. */
#define ok(st, err) fixture_ok((st), (err), __FILE__, __LINE__)
void fixture_ok(joust_status st, const joust_error *err, const char *file, int line);

/* A folder of our own below the temporary one; view of a static text, new with each call. Removed by scratch_remove. */
const char *scratch_make(void);
void scratch_remove(const char *dir);

/* A job with one policy, one yes-no judge, pairs and training; free with joust_job_fini. */
void make_job(joust_job *job);

/* Records of round `round` at a position; free with the record's _fini. */
void make_prompt(joust_prompt *r, uint64_t line);
void make_trajectory(joust_trajectory *r, uint32_t round, uint64_t position, uint32_t sample);
void make_verdict(joust_verdict *r, uint32_t round, uint64_t position, uint32_t sample);
/* Best of the group against its worst, by the verdicts of make_verdict. */
void make_pair(joust_pair *r, uint32_t round, uint64_t position);
void make_step(joust_train_step *r, uint32_t round, uint32_t step);
void make_provenance(joust_provenance *r, uint32_t attempt);

/* Commits `rounds` whole rounds of n_prompts groups as epoch `epoch`, one batch and one event a group. */
void fill_store(joust_store *store, uint64_t epoch, uint32_t rounds, uint64_t n_prompts);

#endif
