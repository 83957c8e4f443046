/* The sole user of RocksDB. Its types don't leave this file. */
#include "storage/db.h"

#include <errno.h>
#include <rocksdb/c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"

#define VALUE_FORMAT 1u
#define HEADER_BYTES 9u /* format, checksum */

/* Bounds of its memory and files; fit for a laptop, enough for a coordinator that fills the disk's bandwidth. A writer
 * reads little, and mostly what it has just written. */
#define WRITER_CACHE_BYTES  ((size_t)2 << 20)
#define VIEW_CACHE_BYTES    ((size_t)64 << 20)
#define WRITE_BUFFERS_BYTES ((size_t)128 << 20) /* of all families together */
#define WRITE_BUFFER_BYTES  ((size_t)16 << 20)  /* of one family */
#define WRITE_BUFFERS       2                   /* of one family: one fills while one is written */
#define ARENA_BLOCK_BYTES                                                                          \
    ((size_t)4 << 20) /* of a write buffer: goes back when freed, see alloc.h */
#define WAL_BYTES        ((uint64_t)256 << 20)
#define BLOCK_BYTES      ((size_t)16 << 10)
#define MAX_OPEN_FILES   1000
#define INFO_LOG_BYTES   ((size_t)4 << 20)
#define INFO_LOGS        3u
#define SYNC_EVERY_BYTES ((uint64_t)1 << 20)
#define OPEN_TRIES       5 /* of a view while its writer replaces files */

#define N_COLUMNS (JOUST_FAMILY_N + 1) /* RocksDB wants its "default" too; it stays empty */

struct joust_db {
    joust_db_mode mode;
    char *path;
    char *scratch; /* READ: private folder for RocksDB's log */
    rocksdb_t *rocks;
    rocksdb_options_t *options;            /* of the database and most families */
    rocksdb_options_t *provenance_options; /* with the merge operator */
    rocksdb_block_based_table_options_t *tables;
    rocksdb_cache_t *cache;
    rocksdb_column_family_handle_t *columns[N_COLUMNS]; /* by family; then "default" */
    rocksdb_writeoptions_t *write_synced, *write_lazy;
    rocksdb_readoptions_t *read_one;
};

struct joust_db_batch {
    joust_db *db;
    rocksdb_writebatch_t *rocks;
};

struct joust_db_scan {
    joust_db *db;
    joust_family family;
    joust_key before; /* RocksDB keeps a pointer to the bound */
    rocksdb_readoptions_t *read;
    rocksdb_iterator_t *rocks;
    bool started;
};

/* Errors --------------------------------------------------------------------------------------- */

/* Turns RocksDB's text (freed here) into a status and a line. */
static joust_status rocks_fail(joust_error *err, char *text, const char *path, const char *doing)
{
    joust_status st = JOUST_IO;
    const char *remedy = "";
    if (strstr(text, "No space left") || strstr(text, "Disk quota exceeded") ||
        strstr(text, "NoSpace")) {
        st = JOUST_DISK_FULL;
        remedy = "; free some space and start the same command again: nothing acknowledged is lost";
    } else if (strstr(text, "lock hold by current process") || strstr(text, "While lock file")) {
        st = JOUST_LOCKED;
        remedy = "; another coordinator has this store open: stop it, or give another --store";
    } else if (strstr(text, "Column family not found")) {
        st = JOUST_NOT_FOUND;
        remedy = "; the store is being made, or was cut off in that: the same launch goes on";
    } else if (strstr(text, "Column famil")) {
        st = JOUST_VERSION;
        remedy =
            "; another version of joust made this store: use that one, or give another --store";
    } else if (strncmp(text, "Corruption", 10) == 0) {
        st = JOUST_CORRUPT;
        remedy = "; restore the folder from a copy, or run the job again with another --store: the "
                 "result is the same";
    } else if (strstr(text, "does not exist") || strstr(text, "No such file or directory")) {
        st = JOUST_NOT_FOUND;
    }
    joust_fail(err, st, "%s: %s: %.700s%s", path, doing, text, remedy);
    rocksdb_free(text);
    return st;
}

static joust_status corrupt(joust_error *err, joust_family family, joust_span key, const char *why)
{
    char text[JOUST_KEY_TEXT];
    return joust_fail(err, JOUST_CORRUPT, "%s: %s", joust_key_text(family, key, text), why);
}

/* Values --------------------------------------------------------------------------------------- */

/* Checksum over family, key and payload: a value that landed under another key is found too. */
static uint64_t value_sum(joust_family family, joust_span key, joust_span payload)
{
    uint64_t seed = XXH3_64bits_withSeed(key.data, key.n, (uint64_t)family);
    return XXH3_64bits_withSeed(payload.data, payload.n, seed);
}

static joust_status value_open(joust_family family, joust_span key, joust_span value,
                               joust_span *ret, joust_error *err)
{
    if (value.n < HEADER_BYTES)
        return corrupt(err, family, key, "the value is cut short");
    if (value.data[0] != VALUE_FORMAT)
        return corrupt(err, family, key, "the value has an unknown format");
    joust_span payload = {value.data + HEADER_BYTES, value.n - HEADER_BYTES};
    if (joust_get_be64(value.data + 1) != value_sum(family, key, payload))
        return corrupt(err, family, key, "the checksum doesn't match");
    *ret = payload;
    return JOUST_OK;
}

/* The first write wins: a merge operator that keeps what is there, else the oldest operand. The copy is RocksDB's,
 * which ends the process when it runs out of memory and calls a failed merge corruption: so this does the former. */

static char *keep(const char *value, size_t n, unsigned char *success, size_t *ret_n)
{
    char *copy = malloc(n ? n : 1);
    if (!copy)
        abort();
    memcpy(copy, value, n);
    *success = 1;
    *ret_n = n;
    return copy;
}

static char *first_full(void *state, const char *key, size_t n_key, const char *existing,
                        size_t n_existing, const char *const *operands, const size_t *n_operands,
                        int n, unsigned char *success, size_t *ret_n)
{
    (void)state, (void)key, (void)n_key, (void)n;
    return existing ? keep(existing, n_existing, success, ret_n)
                    : keep(operands[0], n_operands[0], success, ret_n);
}

static char *first_partial(void *state, const char *key, size_t n_key, const char *const *operands,
                           const size_t *n_operands, int n, unsigned char *success, size_t *ret_n)
{
    (void)state, (void)key, (void)n_key, (void)n;
    return keep(operands[0], n_operands[0], success, ret_n);
}

static void first_delete(void *state, const char *value, size_t n)
{
    (void)state, (void)n;
    free((void *)(uintptr_t)value);
}

static const char *first_name(void *state)
{
    (void)state;
    return "joust.first";
}

static void first_destroy(void *state)
{
    (void)state;
}

/* Opening -------------------------------------------------------------------------------------- */

enum { COMPRESSIONS = 3 };
static const int compressions[COMPRESSIONS] = {rocksdb_lz4_compression, rocksdb_snappy_compression,
                                               rocksdb_no_compression};

static rocksdb_options_t *options_make(const joust_db *db, int compression)
{
    rocksdb_options_t *o = rocksdb_options_create();
    bool write = db->mode == JOUST_DB_WRITE;
    rocksdb_options_set_create_if_missing(o, write);
    rocksdb_options_set_create_missing_column_families(o, write);
    rocksdb_options_set_paranoid_checks(o, 1);
    rocksdb_options_set_write_buffer_size(o, WRITE_BUFFER_BYTES);
    rocksdb_options_set_db_write_buffer_size(o, WRITE_BUFFERS_BYTES);
    rocksdb_options_set_arena_block_size(o, ARENA_BLOCK_BYTES);
    rocksdb_options_set_max_write_buffer_number(o, WRITE_BUFFERS);
    rocksdb_options_set_max_total_wal_size(o, WAL_BYTES);
    /* a torn last record is a write nobody was told of; damage before it is an error, never a silent loss */
    rocksdb_options_set_wal_recovery_mode(o, rocksdb_tolerate_corrupted_tail_records_recovery);
    /* a view must keep the files it may need, a writer opens them as it goes */
    rocksdb_options_set_max_open_files(o, write ? MAX_OPEN_FILES : -1);
    rocksdb_options_set_max_background_jobs(o, 2);
    rocksdb_options_set_bytes_per_sync(o, SYNC_EVERY_BYTES);
    rocksdb_options_set_level_compaction_dynamic_level_bytes(o, 1);
    rocksdb_options_set_compression(o, compression);
    rocksdb_options_set_max_log_file_size(o, INFO_LOG_BYTES);
    rocksdb_options_set_keep_log_file_num(o, INFO_LOGS);
    rocksdb_options_set_stats_dump_period_sec(o, 0);
    rocksdb_options_set_block_based_table_factory(o, db->tables);
    return o;
}

static void db_make_options(joust_db *db, int compression)
{
    db->cache = rocksdb_cache_create_lru(db->mode == JOUST_DB_WRITE ? WRITER_CACHE_BYTES
                                                                    : VIEW_CACHE_BYTES);
    db->tables = rocksdb_block_based_options_create();
    rocksdb_block_based_options_set_block_cache(db->tables, db->cache);
    rocksdb_block_based_options_set_block_size(db->tables, BLOCK_BYTES);
    rocksdb_block_based_options_set_cache_index_and_filter_blocks(db->tables, 1);
    rocksdb_block_based_options_set_filter_policy(db->tables,
                                                  rocksdb_filterpolicy_create_bloom_full(10));
    db->options = options_make(db, compression);
    db->provenance_options = options_make(db, compression);
    rocksdb_options_set_merge_operator(db->provenance_options,
                                       rocksdb_mergeoperator_create(NULL, first_destroy, first_full,
                                                                    first_partial, first_delete,
                                                                    first_name));
    db->write_synced = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(db->write_synced, 1);
    db->write_lazy = rocksdb_writeoptions_create();
    db->read_one = rocksdb_readoptions_create();
}

static void db_free_options(joust_db *db)
{
    rocksdb_readoptions_destroy(db->read_one);
    rocksdb_writeoptions_destroy(db->write_lazy);
    rocksdb_writeoptions_destroy(db->write_synced);
    rocksdb_options_destroy(db->provenance_options);
    rocksdb_options_destroy(db->options);
    rocksdb_block_based_options_destroy(db->tables);
    rocksdb_cache_destroy(db->cache);
}

static char *db_open_rocks(joust_db *db)
{
    const char *names[N_COLUMNS];
    const rocksdb_options_t *options[N_COLUMNS];
    for (int i = 0; i < N_COLUMNS; i++) {
        names[i] = i < JOUST_FAMILY_N ? joust_family_name((joust_family)i) : "default";
        options[i] = i == JOUST_FAMILY_PROVENANCE ? db->provenance_options : db->options;
    }
    char *text = NULL;
    db->rocks = db->mode == JOUST_DB_WRITE
                    ? rocksdb_open_column_families(db->options, db->path, N_COLUMNS, names, options,
                                                   db->columns, &text)
                    : rocksdb_open_as_secondary_column_families(db->options, db->path, db->scratch,
                                                                N_COLUMNS, names, options,
                                                                db->columns, &text);
    return text;
}

/* Opens with the best compression that this build of RocksDB has; a view tries again when files moved. */
static joust_status db_open_any(joust_db *db, joust_error *err)
{
    int tries = 0;
    for (int c = 0;;) {
        db_make_options(db, compressions[c]);
        char *text = db_open_rocks(db);
        if (!text)
            return JOUST_OK;
        db_free_options(db);
        if (strstr(text, "not linked with the binary") && c + 1 < COMPRESSIONS) {
            c++;
            rocksdb_free(text);
        } else if (db->mode == JOUST_DB_READ && strstr(text, "No such file") &&
                   ++tries < OPEN_TRIES) {
            rocksdb_free(text);
        } else {
            return rocks_fail(err, text, db->path, "can't open the database");
        }
    }
}

static joust_status scratch_make(char **ret, joust_error *err)
{
    const char *base = getenv("TMPDIR");
    char *path = joust_path_join(base && *base ? base : "/tmp", "joust-view-XXXXXX");
    if (!path)
        return joust_fail(err, JOUST_NOMEM, "store: out of memory");
    if (!mkdtemp(path)) {
        joust_fail(err, joust_status_of_errno(errno), "%s: can't make a private folder: %s", path,
                   strerror(errno));
        joust_free(path);
        return err ? err->status : JOUST_IO;
    }
    *ret = path;
    return JOUST_OK;
}

/* RocksDB writes its log there, and keeps it open: the names go at once, so that nothing stays of a reader that is ended. */
static void scratch_drop(joust_db *db)
{
    if (db->scratch && joust_dir_remove(db->scratch, NULL) != JOUST_OK) {
        /* an empty folder under the temporary one may stay; nothing depends on it */
    }
    joust_free(db->scratch);
    db->scratch = NULL;
}

static void db_free(joust_db *db)
{
    scratch_drop(db);
    joust_free(db->path);
    joust_free(db);
}

static joust_status must_be_there(const char *path, joust_error *err)
{
    char *current = joust_path_join(path, "CURRENT");
    joust_status st = !current ? joust_fail(err, JOUST_NOMEM, "%s: out of memory", path)
                      : joust_file_exists(current)
                          ? JOUST_OK
                          : joust_fail(err, JOUST_NOT_FOUND, "%s: there is no store here", path);
    joust_free(current);
    return st;
}

joust_status joust_db_open(const char *path, joust_db_mode mode, joust_db **ret, joust_error *err)
{
    joust_status st = mode == JOUST_DB_READ ? must_be_there(path, err) : JOUST_OK;
    if (st != JOUST_OK)
        return st;
    joust_db *db = joust_calloc(1, sizeof(*db));
    if (!db || !(db->path = joust_strdup(path))) {
        st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", path);
        goto undo_db;
    }
    db->mode = mode;
    st = mode == JOUST_DB_WRITE ? joust_dir_make(path, err) : scratch_make(&db->scratch, err);
    if (st == JOUST_OK)
        st = db_open_any(db, err);
    if (st != JOUST_OK)
        goto undo_db;
    scratch_drop(db);
    *ret = db;
    return JOUST_OK;
undo_db:
    if (db)
        db_free(db);
    return st;
}

void joust_db_close(joust_db **db)
{
    if (!db || !*db)
        return;
    for (int i = 0; i < N_COLUMNS; i++)
        rocksdb_column_family_handle_destroy((*db)->columns[i]);
    rocksdb_close((*db)->rocks);
    db_free_options(*db);
    db_free(*db);
    *db = NULL;
}

joust_status joust_db_refresh(joust_db *db, joust_error *err)
{
    char *text = NULL;
    rocksdb_try_catch_up_with_primary(db->rocks, &text);
    return text ? rocks_fail(err, text, db->path, "can't catch up with the writer") : JOUST_OK;
}

/* Reading -------------------------------------------------------------------------------------- */

static joust_span key_span(const joust_key *key)
{
    return (joust_span){key->bytes, key->n};
}

static joust_status pin(joust_db *db, joust_family family, const joust_key *key,
                        rocksdb_pinnableslice_t **ret, joust_error *err)
{
    char *text = NULL, name[JOUST_KEY_TEXT];
    rocksdb_pinnableslice_t *slice = rocksdb_get_pinned_cf(
        db->rocks, db->read_one, db->columns[family], (const char *)key->bytes, key->n, &text);
    if (text)
        return rocks_fail(err, text, db->path, joust_key_text(family, key_span(key), name));
    if (!slice)
        return joust_fail(err, JOUST_NOT_FOUND, "%s is not in the store",
                          joust_key_text(family, key_span(key), name));
    *ret = slice;
    return JOUST_OK;
}

joust_status joust_db_get(joust_db *db, joust_family family, const joust_key *key, joust_buf *to,
                          joust_error *err)
{
    rocksdb_pinnableslice_t *slice = NULL;
    joust_status st = pin(db, family, key, &slice, err);
    if (st != JOUST_OK)
        return st;
    joust_span value, payload;
    value.data = (const uint8_t *)rocksdb_pinnableslice_value(slice, &value.n);
    st = value_open(family, key_span(key), value, &payload, err);
    if (st == JOUST_OK) {
        joust_buf_clear(to);
        joust_buf_add(to, payload.data, payload.n);
        st = joust_buf_status(to, err);
    }
    rocksdb_pinnableslice_destroy(slice);
    return st;
}

joust_status joust_db_scan_open(joust_db *db, joust_family family, const joust_key_range *range,
                                joust_db_scan **ret, joust_error *err)
{
    joust_db_scan *scan = joust_calloc(1, sizeof(*scan));
    if (!scan)
        return joust_fail(err, JOUST_NOMEM, "scan of %s: out of memory", joust_family_name(family));
    scan->db = db;
    scan->family = family;
    scan->before = range->before;
    scan->read = rocksdb_readoptions_create();
    rocksdb_readoptions_set_fill_cache(scan->read, 0);
    if (scan->before.n)
        rocksdb_readoptions_set_iterate_upper_bound(scan->read, (const char *)scan->before.bytes,
                                                    scan->before.n);
    scan->rocks = rocksdb_create_iterator_cf(db->rocks, scan->read, db->columns[family]);
    rocksdb_iter_seek(scan->rocks, (const char *)range->first.bytes, range->first.n);
    *ret = scan;
    return JOUST_OK;
}

/* Moves to the next record; JOUST_END behind the last. */
static joust_status scan_step(joust_db_scan *scan, joust_span *ret_key, joust_error *err)
{
    if (scan->started)
        rocksdb_iter_next(scan->rocks);
    scan->started = true;
    if (!rocksdb_iter_valid(scan->rocks)) {
        char *text = NULL;
        rocksdb_iter_get_error(scan->rocks, &text);
        scan->started = false; /* not valid: a further call ends here again */
        return text ? rocks_fail(err, text, scan->db->path, joust_family_name(scan->family))
                    : joust_fail(err, JOUST_END, "%s: no more records",
                                 joust_family_name(scan->family));
    }
    ret_key->data = (const uint8_t *)rocksdb_iter_key(scan->rocks, &ret_key->n);
    return JOUST_OK;
}

joust_status joust_db_scan_next(joust_db_scan *scan, joust_span *ret_key, joust_span *ret_payload,
                                joust_error *err)
{
    joust_status st = scan_step(scan, ret_key, err);
    if (st != JOUST_OK)
        return st;
    joust_span value;
    value.data = (const uint8_t *)rocksdb_iter_value(scan->rocks, &value.n);
    return value_open(scan->family, *ret_key, value, ret_payload, err);
}

void joust_db_scan_close(joust_db_scan **scan)
{
    if (!scan || !*scan)
        return;
    rocksdb_iter_destroy((*scan)->rocks);
    rocksdb_readoptions_destroy((*scan)->read);
    joust_free(*scan);
    *scan = NULL;
}

joust_status joust_db_last_key(joust_db *db, joust_family family, joust_key *ret, joust_error *err)
{
    joust_key_range all = joust_range_all();
    joust_db_scan *scan;
    joust_status st = joust_db_scan_open(db, family, &all, &scan, err);
    if (st != JOUST_OK)
        return st;
    rocksdb_iter_seek_to_last(scan->rocks);
    joust_span key;
    st = scan_step(scan, &key, err);
    if (st == JOUST_END)
        st = joust_fail(err, JOUST_NOT_FOUND, "%s: no records", joust_family_name(family));
    else if (st == JOUST_OK && key.n > JOUST_MAX_KEY_BYTES)
        st = corrupt(err, family, key, "the key is too long");
    if (st == JOUST_OK) {
        memcpy(ret->bytes, key.data, key.n);
        ret->n = (uint32_t)key.n;
    }
    joust_db_scan_close(&scan);
    return st;
}

joust_status joust_db_count(joust_db *db, joust_family family, const joust_key_range *range,
                            uint64_t *ret, joust_error *err)
{
    joust_db_scan *scan;
    joust_status st = joust_db_scan_open(db, family, range, &scan, err);
    if (st != JOUST_OK)
        return st;
    uint64_t n = 0;
    joust_span key;
    joust_error end = {0};
    while ((st = scan_step(scan, &key, &end)) == JOUST_OK)
        n++;
    joust_db_scan_close(&scan);
    if (st != JOUST_END) {
        if (err)
            *err = end;
        return st;
    }
    *ret = n;
    return JOUST_OK;
}

/* Writing -------------------------------------------------------------------------------------- */

joust_status joust_db_batch_create(joust_db *db, joust_db_batch **ret, joust_error *err)
{
    joust_db_batch *batch = joust_calloc(1, sizeof(*batch));
    if (!batch)
        return joust_fail(err, JOUST_NOMEM, "batch: out of memory");
    batch->db = db;
    batch->rocks = rocksdb_writebatch_create();
    *ret = batch;
    return JOUST_OK;
}

void joust_db_batch_free(joust_db_batch **batch)
{
    if (!batch || !*batch)
        return;
    rocksdb_writebatch_destroy((*batch)->rocks);
    joust_free(*batch);
    *batch = NULL;
}

void joust_db_batch_clear(joust_db_batch *batch)
{
    rocksdb_writebatch_clear(batch->rocks);
}

typedef void batch_putv(rocksdb_writebatch_t *, rocksdb_column_family_handle_t *, int,
                        const char *const *, const size_t *, int, const char *const *,
                        const size_t *);

static void batch_add(joust_db_batch *batch, batch_putv *putv, joust_family family,
                      const joust_key *key, joust_span payload)
{
    uint8_t header[HEADER_BYTES] = {VALUE_FORMAT};
    joust_put_be64(header + 1, value_sum(family, key_span(key), payload));
    const char *keys[] = {(const char *)key->bytes};
    const char *values[] = {(const char *)header, (const char *)payload.data};
    putv(batch->rocks, batch->db->columns[family], 1, keys, (size_t[]){key->n}, 2, values,
         (size_t[]){HEADER_BYTES, payload.n});
}

void joust_db_batch_put(joust_db_batch *batch, joust_family family, const joust_key *key,
                        joust_span payload)
{
    batch_add(batch, rocksdb_writebatch_putv_cf, family, key, payload);
}

void joust_db_batch_put_first(joust_db_batch *batch, joust_family family, const joust_key *key,
                              joust_span payload)
{
    batch_add(batch, rocksdb_writebatch_mergev_cf, family, key, payload);
}

void joust_db_batch_remove(joust_db_batch *batch, joust_family family, const joust_key *first,
                           const joust_key *before)
{
    rocksdb_writebatch_delete_range_cf(batch->rocks, batch->db->columns[family],
                                       (const char *)first->bytes, first->n,
                                       (const char *)before->bytes, before->n);
}

size_t joust_db_batch_bytes(const joust_db_batch *batch)
{
    size_t n;
    (void)rocksdb_writebatch_data(batch->rocks, &n);
    return n;
}

uint32_t joust_db_batch_records(const joust_db_batch *batch)
{
    return (uint32_t)rocksdb_writebatch_count(batch->rocks);
}

joust_status joust_db_commit(joust_db *db, joust_db_batch *batch, bool sync, joust_error *err)
{
    char *text = NULL;
    rocksdb_write(db->rocks, sync ? db->write_synced : db->write_lazy, batch->rocks, &text);
    return text ? rocks_fail(err, text, db->path, "can't commit") : JOUST_OK;
}
