/* RocksDB by hand, for the benchmark's raw pipeline: one WriteBatch fills while a thread of its own syncs another. */
#ifndef JOUST_OPS_BENCH_DISK_H
#define JOUST_OPS_BENCH_DISK_H

#include <stdbool.h>
#include <stdint.h>

#include "proto/base/status.h"

typedef struct joust_bench_disk joust_bench_disk;

/* Makes a database in dir. Errors: JOUST_IO, JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_bench_disk_open(const char *dir, joust_bench_disk **ret,
                                                  joust_error *err);
void joust_bench_disk_close(joust_bench_disk **disk); /* waits for the commit under way */
/* Into the batch that fills. key: (table, group, index). */
void joust_bench_disk_put(joust_bench_disk *disk, uint8_t table, uint64_t group, uint32_t index,
                          const void *data, uint32_t n);
bool joust_bench_disk_busy(const joust_bench_disk *disk); /* a commit is under way */
/* Hands the batch to the commit thread; only while it isn't busy. */
void joust_bench_disk_commit(joust_bench_disk *disk);
int joust_bench_disk_fd(const joust_bench_disk *disk); /* readable once the commit is synced */
/* Ends the commit that the descriptor announced (waits for it). Errors: JOUST_IO. */
JOUST_MUST_USE joust_status joust_bench_disk_collect(joust_bench_disk *disk, joust_error *err);

#endif
