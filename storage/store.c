#include "storage/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/base/log.h"
#include "storage/job_diff.h"
#include "store_internal.h"

/* Small values of the family `job` ------------------------------------------------------------- */

static void batch_put_number(joust_db_batch *batch, joust_job_field field, uint64_t value)
{
    uint8_t bytes[8];
    joust_key key = joust_key_job(field);
    joust_put_be64(bytes, value);
    joust_db_batch_put(batch, JOUST_FAMILY_JOB, &key, (joust_span){bytes, sizeof(bytes)});
}

static joust_status get_number(joust_store *store, joust_job_field field, uint64_t *ret,
                               joust_error *err)
{
    joust_buf value = {0};
    joust_key key = joust_key_job(field);
    joust_status st = joust_db_get(store->db, JOUST_FAMILY_JOB, &key, &value, err);
    if (st == JOUST_OK && value.n != 8)
        st = joust_fail(err, JOUST_CORRUPT, "%s: a number of the family job has %zu bytes, not 8",
                        store->dir, value.n);
    if (st == JOUST_OK)
        *ret = joust_get_be64(value.data);
    joust_buf_fini(&value);
    return st;
}

/* Opening -------------------------------------------------------------------------------------- */

static joust_status load_format(joust_store *store, bool *ret_is_new, joust_error *err)
{
    uint64_t format = 0;
    joust_status st = get_number(store, JOUST_JOB_FORMAT, &format, err);
    *ret_is_new = st == JOUST_NOT_FOUND;
    if (st != JOUST_OK && st != JOUST_NOT_FOUND)
        return st;
    if (st == JOUST_OK && format != JOUST_STORE_FORMAT)
        return joust_fail(err, JOUST_VERSION,
                          "%s: the store has format %" PRIu64
                          ", this joust writes format %u; use the "
                          "joust that made it, or give another --store",
                          store->dir, format, JOUST_STORE_FORMAT);
    return JOUST_OK;
}

/* The job as recorded: its identity digest and its decoded encoding. */
static joust_status load_job(joust_store *store, joust_buf *encoding, joust_error *err)
{
    joust_key key = joust_key_job(JOUST_JOB_DIGEST);
    joust_status st = joust_db_get(store->db, JOUST_FAMILY_JOB, &key, encoding, err);
    if (st != JOUST_OK)
        return joust_blame(err, st, "%s", store->dir);
    if (encoding->n != JOUST_DIGEST_BYTES)
        return joust_fail(err, JOUST_CORRUPT, "%s: the job's digest has %zu bytes", store->dir,
                          encoding->n);
    memcpy(store->job_digest.bytes, encoding->data, JOUST_DIGEST_BYTES);
    key = joust_key_job(JOUST_JOB_ENCODING);
    st = joust_db_get(store->db, JOUST_FAMILY_JOB, &key, encoding, err);
    if (st == JOUST_OK)
        st = joust_job_decode(encoding->data, encoding->n, &store->job, err);
    return st == JOUST_OK ? st : joust_blame(err, st, "%s: the recorded job", store->dir);
}

/* Keys of the newest two snapshots, and the last event. */
static joust_status load_log(joust_store *store, joust_error *err)
{
    joust_key last;
    joust_error none;
    joust_status st = joust_db_last_key(store->db, JOUST_FAMILY_EVENTS, &last, &none);
    if (st == JOUST_OK)
        atomic_store(&store->last_event, joust_key_get_sequence((joust_span){last.bytes, last.n}));
    else if (st != JOUST_NOT_FOUND)
        return joust_fail(err, st, "%s", none.text);
    joust_key_range all = joust_range_all();
    joust_db_scan *scan;
    st = joust_db_scan_open(store->db, JOUST_FAMILY_SNAPSHOTS, &all, &scan, err);
    if (st != JOUST_OK)
        return st;
    joust_span key, payload;
    store->n_snapshots = 0;
    /* a damaged one counts: it is there, and the one before it must be kept */
    while ((st = joust_db_scan_next(scan, &key, &payload, &none)) == JOUST_OK ||
           (st == JOUST_CORRUPT && key.n == 8)) {
        store->snapshots[1] = store->snapshots[0];
        store->snapshots[0] = joust_key_get_sequence(key);
        if (store->n_snapshots < 2)
            store->n_snapshots++;
        key.n = 0;
    }
    joust_db_scan_close(&scan);
    return st == JOUST_END ? JOUST_OK : joust_fail(err, st, "%s", none.text);
}

static joust_status load_epoch(joust_store *store, joust_error *err)
{
    uint64_t epoch;
    joust_status st = get_number(store, JOUST_JOB_EPOCH, &epoch, err);
    if (st == JOUST_OK)
        atomic_store(&store->epoch, epoch);
    return st;
}

static joust_status record_encoding(joust_store *store, const joust_buf *encoding, bool is_new,
                                    joust_error *err)
{
    joust_db_batch *batch;
    joust_status st = joust_db_batch_create(store->db, &batch, err);
    if (st != JOUST_OK)
        return st;
    joust_key key = joust_key_job(JOUST_JOB_ENCODING);
    joust_db_batch_put(batch, JOUST_FAMILY_JOB, &key, (joust_span){encoding->data, encoding->n});
    if (is_new) {
        key = joust_key_job(JOUST_JOB_DIGEST);
        joust_db_batch_put(batch, JOUST_FAMILY_JOB, &key,
                           (joust_span){store->job_digest.bytes, JOUST_DIGEST_BYTES});
        batch_put_number(batch, JOUST_JOB_FORMAT, JOUST_STORE_FORMAT);
        batch_put_number(batch, JOUST_JOB_EPOCH, 0);
    }
    st = joust_db_commit(store->db, batch, true, err);
    joust_db_batch_free(&batch);
    return st;
}

/* Whether job may go on in this store. */
static joust_status check_identity(const joust_store *store, const joust_job *job,
                                   const joust_digest *digest, joust_error *err)
{
    if (!joust_digest_equal(&store->job_digest, digest)) {
        joust_status st = joust_job_compare(&store->job, job, err);
        if (st == JOUST_OK) /* equal fields under another digest: another encoding */
            st = joust_fail(err, JOUST_CONFLICT, "the job's digest differs");
        return joust_blame(
            err, st,
            "%s: this store belongs to another job; go back to the recorded value, or "
            "give another --store",
            store->dir);
    }
    if (job->rounds < store->job.rounds)
        return joust_fail(err, JOUST_CONFLICT,
                          "%s: rounds is %" PRIu32 " in the job recorded here, and %" PRIu32
                          " in the job given: it may only grow",
                          store->dir, store->job.rounds, job->rounds);
    return JOUST_OK;
}

/* Makes the recorded job the given one. */
static joust_status adopt_job(joust_store *store, const joust_job *job, bool is_new,
                              joust_error *err)
{
    joust_buf recorded = {0}, encoding = {0};
    joust_digest digest;
    joust_status st = joust_job_digest(job, &digest, err);
    if (st == JOUST_OK)
        st = joust_job_encode(job, false, &encoding, err);
    if (st == JOUST_OK && is_new)
        store->job_digest = digest;
    else if (st == JOUST_OK && (st = load_job(store, &recorded, err)) == JOUST_OK)
        st = check_identity(store, job, &digest, err);
    bool same = encoding.n == recorded.n &&
                (encoding.n == 0 || memcmp(encoding.data, recorded.data, encoding.n) == 0);
    if (st == JOUST_OK && !same) {
        joust_job_fini(&store->job);
        st = joust_job_decode(encoding.data, encoding.n, &store->job, err);
        if (st == JOUST_OK)
            st = record_encoding(store, &encoding, is_new, err);
    }
    joust_buf_fini(&recorded);
    joust_buf_fini(&encoding);
    return st;
}

static joust_status store_open(const char *dir, joust_db_mode mode, joust_store **ret,
                               joust_error *err)
{
    joust_store *store = joust_calloc(1, sizeof(*store));
    char *path = joust_path_join(dir, "db");
    joust_status st = JOUST_OK;
    if (!store || !path || !(store->dir = joust_strdup(dir)))
        st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", dir);
    else
        st = joust_db_open(path, mode, &store->db, err);
    joust_free(path);
    if (st != JOUST_OK) {
        joust_store_close(&store);
        return st;
    }
    store->mode = mode;
    *ret = store;
    return JOUST_OK;
}

/* Whether a coordinator began a store in dir. */
static bool has_database(const char *dir)
{
    struct stat info;
    char *path = joust_path_join(dir, "db/CURRENT");
    const bool has = path && stat(path, &info) == 0;
    joust_free(path);
    return has;
}

/* Whether nothing is in it but what a launch that was cut off leaves, before there is a database. */
static bool has_only_ours(const char *path)
{
    static const char *const ours[] = {".", "..", "launch.lock", "logs", "cache", "db"};
    bool only = true;
    DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT;
    for (const struct dirent *entry; only && (entry = readdir(dir)) != NULL;) {
        size_t i = 0;
        while (i < sizeof(ours) / sizeof(*ours) && strcmp(entry->d_name, ours[i]) != 0)
            i++;
        only = i < sizeof(ours) / sizeof(*ours);
    }
    closedir(dir);
    return only;
}

joust_status joust_store_check_place(const char *dir, joust_error *err)
{
    if (has_database(dir) || has_only_ours(dir))
        return JOUST_OK;
    return joust_fail(err, JOUST_EXISTS,
                      "%s: has files in it and is no store: name a new or an empty folder", dir);
}

joust_status joust_store_open(const char *dir, const joust_job *job, joust_store **ret,
                              joust_error *err)
{
    joust_store *store;
    bool is_new = false;
    joust_status st = joust_store_check_place(dir, err);
    if (st == JOUST_OK)
        st = joust_dir_make(dir, err);
    if (st == JOUST_OK)
        st = store_open(dir, JOUST_DB_WRITE, &store, err);
    if (st != JOUST_OK)
        return st;
    if ((st = load_format(store, &is_new, err)) != JOUST_OK ||
        (st = adopt_job(store, job, is_new, err)) != JOUST_OK ||
        (st = load_epoch(store, err)) != JOUST_OK || (st = load_log(store, err)) != JOUST_OK ||
        (is_new && (st = joust_dir_sync(dir, err)) != JOUST_OK)) {
        joust_store_close(&store);
        return st;
    }
    *ret = store;
    return JOUST_OK;
}

joust_status joust_store_open_read(const char *dir, joust_store **ret, joust_error *err)
{
    joust_store *store;
    bool is_new = false;
    joust_buf encoding = {0};
    joust_status st = store_open(dir, JOUST_DB_READ, &store, err);
    if (st != JOUST_OK)
        return st;
    st = load_format(store, &is_new, err);
    if (st == JOUST_OK && is_new)
        st = joust_fail(err, JOUST_NOT_FOUND, "%s: no job was recorded in this store yet", dir);
    if (st == JOUST_OK && (st = load_job(store, &encoding, err)) == JOUST_OK &&
        (st = load_epoch(store, err)) == JOUST_OK)
        st = load_log(store, err);
    joust_buf_fini(&encoding);
    if (st != JOUST_OK) {
        joust_store_close(&store);
        return st;
    }
    *ret = store;
    return JOUST_OK;
}

int64_t joust_store_holder(const char *dir)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    char *path = joust_path_join(dir, "db/LOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    int64_t holder = -1;
    joust_free(path);
    if (fd < 0)
        return holder;
    if (fcntl(fd, F_GETLK, &lock) == 0)
        holder = lock.l_type == F_UNLCK ? 0 : lock.l_pid;
    close(fd);
    return holder;
}

void joust_store_close(joust_store **store)
{
    if (!store || !*store)
        return;
    joust_db_close(&(*store)->db);
    joust_job_fini(&(*store)->job);
    joust_free((*store)->dir);
    joust_free(*store);
    *store = NULL;
}

joust_status joust_store_refresh(joust_store *store, joust_error *err)
{
    if (store->mode != JOUST_DB_READ)
        return joust_fail(err, JOUST_INVALID, "%s: only a reader's view moves on", store->dir);
    joust_status st = joust_db_refresh(store->db, err);
    if (st == JOUST_OK && (st = load_epoch(store, err)) == JOUST_OK)
        st = load_log(store, err);
    return st;
}

const joust_job *joust_store_job(const joust_store *store)
{
    return &store->job;
}

const char *joust_store_dir(const joust_store *store)
{
    return store->dir;
}

/* Epochs and batches --------------------------------------------------------------------------- */

static joust_status must_write(const joust_store *store, joust_error *err)
{
    return store->mode == JOUST_DB_WRITE
               ? JOUST_OK
               : joust_fail(err, JOUST_DENIED, "%s: opened for reading", store->dir);
}

joust_status joust_store_begin_epoch(joust_store *store, uint64_t *ret_epoch, joust_error *err)
{
    joust_db_batch *batch;
    joust_status st = must_write(store, err);
    if (st != JOUST_OK || (st = joust_db_batch_create(store->db, &batch, err)) != JOUST_OK)
        return st;
    uint64_t epoch = atomic_load(&store->epoch) + 1;
    batch_put_number(batch, JOUST_JOB_EPOCH, epoch);
    st = joust_db_commit(store->db, batch, true, err);
    joust_db_batch_free(&batch);
    if (st != JOUST_OK)
        return st;
    atomic_store(&store->epoch, epoch);
    *ret_epoch = epoch;
    return JOUST_OK;
}

uint64_t joust_store_epoch(const joust_store *store)
{
    return atomic_load(&store->epoch);
}

joust_status joust_batch_create(joust_store *store, uint64_t epoch, joust_batch **ret,
                                joust_error *err)
{
    joust_status st = must_write(store, err);
    if (st != JOUST_OK)
        return st;
    joust_batch *batch = joust_calloc(1, sizeof(*batch));
    if (!batch)
        return joust_fail(err, JOUST_NOMEM, "batch: out of memory");
    st = joust_db_batch_create(store->db, &batch->db, err);
    if (st != JOUST_OK) {
        joust_free(batch);
        return st;
    }
    batch->store = store;
    batch->epoch = epoch;
    *ret = batch;
    return JOUST_OK;
}

void joust_batch_free(joust_batch **batch)
{
    if (!batch || !*batch)
        return;
    joust_db_batch_free(&(*batch)->db);
    joust_buf_fini(&(*batch)->scratch);
    joust_free(*batch);
    *batch = NULL;
}

void joust_batch_clear(joust_batch *batch)
{
    joust_db_batch_clear(batch->db);
    batch->n_events = 0;
    batch->has_snapshot = false;
}

size_t joust_batch_bytes(const joust_batch *batch)
{
    return joust_db_batch_bytes(batch->db);
}

uint32_t joust_batch_records(const joust_batch *batch)
{
    return joust_db_batch_records(batch->db);
}

joust_status joust_batch_append_event(joust_batch *batch, uint64_t sequence, const void *data,
                                      size_t n, joust_error *err)
{
    if (n > JOUST_MAX_EVENT_BYTES)
        return joust_fail(err, JOUST_TOO_LARGE, "event %" PRIu64 ": %zu bytes, at most %u",
                          sequence, n, JOUST_MAX_EVENT_BYTES);
    if (sequence == 0 || (batch->n_events > 0 && sequence != batch->first_event + batch->n_events))
        return joust_fail(err, JOUST_INVALID, "event %" PRIu64 " doesn't follow event %" PRIu64,
                          sequence, batch->n_events ? batch->first_event + batch->n_events - 1 : 0);
    joust_key key = joust_key_sequence(sequence);
    joust_db_batch_put(batch->db, JOUST_FAMILY_EVENTS, &key, (joust_span){data, n});
    if (batch->n_events++ == 0)
        batch->first_event = sequence;
    return JOUST_OK;
}

joust_status joust_batch_put_snapshot(joust_batch *batch, uint64_t sequence, const void *data,
                                      size_t n, joust_error *err)
{
    if (n > JOUST_MAX_SNAPSHOT_BYTES)
        return joust_fail(err, JOUST_TOO_LARGE, "snapshot %" PRIu64 ": %zu bytes, at most %u",
                          sequence, n, JOUST_MAX_SNAPSHOT_BYTES);
    joust_key key = joust_key_sequence(sequence);
    joust_db_batch_put(batch->db, JOUST_FAMILY_SNAPSHOTS, &key, (joust_span){data, n});
    batch->has_snapshot = true;
    batch->snapshot = sequence;
    return JOUST_OK;
}

static joust_status check_commit(const joust_store *store, const joust_batch *batch,
                                 joust_error *err)
{
    uint64_t epoch = atomic_load(&store->epoch), last = atomic_load(&store->last_event);
    if (batch->epoch < epoch)
        return joust_fail(err, JOUST_FENCED,
                          "%s: coordinator epoch %" PRIu64 " was superseded by epoch %" PRIu64
                          "; this coordinator must end",
                          store->dir, batch->epoch, epoch);
    if (batch->epoch > epoch)
        return joust_fail(err, JOUST_INVALID, "%s: epoch %" PRIu64 " never began", store->dir,
                          batch->epoch);
    if (batch->n_events > 0 && batch->first_event != last + 1)
        return joust_fail(err, JOUST_INVALID,
                          "%s: event %" PRIu64 " doesn't follow the last one stored, %" PRIu64,
                          store->dir, batch->first_event, last);
    if (!batch->has_snapshot)
        return JOUST_OK;
    if (batch->snapshot > last + batch->n_events ||
        (store->n_snapshots > 0 && batch->snapshot < store->snapshots[0]))
        return joust_fail(err, JOUST_INVALID,
                          "%s: a snapshot at event %" PRIu64 " lies outside of the log", store->dir,
                          batch->snapshot);
    return JOUST_OK;
}

joust_status joust_store_commit(joust_store *store, joust_batch *batch, bool sync, joust_error *err)
{
    joust_status st = check_commit(store, batch, err);
    if (st != JOUST_OK)
        return st;
    bool newer =
        batch->has_snapshot && (store->n_snapshots == 0 || batch->snapshot > store->snapshots[0]);
    if (newer && store->n_snapshots > 0) {
        joust_key first = joust_key_sequence(0), before = joust_key_sequence(store->snapshots[0]);
        joust_db_batch_remove(batch->db, JOUST_FAMILY_SNAPSHOTS, &first, &before);
    }
    st = joust_db_commit(store->db, batch->db, sync, err);
    if (st != JOUST_OK)
        return st;
    if (newer) {
        store->snapshots[1] = store->snapshots[0];
        store->snapshots[0] = batch->snapshot;
        if (store->n_snapshots < 2)
            store->n_snapshots++;
    }
    atomic_fetch_add(&store->last_event, batch->n_events);
    joust_batch_clear(batch);
    return JOUST_OK;
}

/* Event log ------------------------------------------------------------------------------------ */

uint64_t joust_store_last_event(const joust_store *store)
{
    return atomic_load(&store->last_event);
}

joust_status joust_store_replay(joust_store *store, uint64_t after, joust_event_see *see,
                                void *user, joust_error *err)
{
    joust_key_range range = joust_range_sequence(after + 1);
    joust_db_scan *scan;
    uint64_t last = joust_store_last_event(store), expected = after + 1;
    if (after > last)
        return joust_fail(err, JOUST_CORRUPT,
                          "%s: the event log ends at %" PRIu64 ", before %" PRIu64, store->dir,
                          last, after);
    joust_status st = joust_db_scan_open(store->db, JOUST_FAMILY_EVENTS, &range, &scan, err);
    if (st != JOUST_OK)
        return st;
    joust_span key, payload;
    joust_error end = {0};
    while (expected <= last && (st = joust_db_scan_next(scan, &key, &payload, &end)) == JOUST_OK) {
        if (joust_key_get_sequence(key) != expected) {
            st = joust_fail(&end, JOUST_CORRUPT, "%s: event %" PRIu64 " is missing", store->dir,
                            expected);
            break;
        }
        st = see(user, expected, payload.data, payload.n, &end);
        if (st != JOUST_OK)
            break;
        expected++;
    }
    joust_db_scan_close(&scan);
    if (st == JOUST_END)
        st = joust_fail(&end, JOUST_CORRUPT, "%s: event %" PRIu64 " is missing", store->dir,
                        expected);
    if (st != JOUST_OK && err)
        *err = end;
    return st;
}

joust_status joust_store_get_snapshot(joust_store *store, uint64_t *ret_sequence, joust_buf *to,
                                      joust_error *err)
{
    if (store->n_snapshots == 0)
        return joust_fail(err, JOUST_NOT_FOUND, "%s: no snapshot", store->dir);
    joust_status st = JOUST_CORRUPT;
    for (uint32_t i = 0; i < store->n_snapshots; i++) {
        joust_error why;
        joust_key key = joust_key_sequence(store->snapshots[i]);
        st = joust_db_get(store->db, JOUST_FAMILY_SNAPSHOTS, &key, to, &why);
        if (st == JOUST_OK) {
            *ret_sequence = store->snapshots[i];
            return JOUST_OK;
        }
        if (st != JOUST_CORRUPT)
            return joust_fail(err, st, "%s", why.text);
        joust_log_warn("store", "snapshot %" PRIu64 " is damaged: %s", store->snapshots[i],
                       why.text);
    }
    return joust_fail(err, st, "%s: no snapshot is whole; events from the first can be replayed",
                      store->dir);
}
