#include "ops/bench_disk.h"

#include <errno.h>
#include <pthread.h>
#include <rocksdb/c.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/bytes.h"

struct joust_bench_disk {
    rocksdb_t *rocks;
    rocksdb_options_t *options;
    rocksdb_writeoptions_t *synced;
    rocksdb_writebatch_t *filling, *committing;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
    bool due, ending; /* under mutex */
    bool busy;        /* owner's */
    int fd;
    char *text; /* why the last commit failed; read after it is announced */
};

static void *commit_thread(void *arg)
{
    joust_bench_disk *d = arg;
    uint64_t one = 1;
    pthread_mutex_lock(&d->mutex);
    for (;;) {
        while (!d->due && !d->ending)
            pthread_cond_wait(&d->wake, &d->mutex);
        if (!d->due)
            break;
        d->due = false;
        pthread_mutex_unlock(&d->mutex);
        rocksdb_write(d->rocks, d->synced, d->committing, &d->text);
        rocksdb_writebatch_clear(d->committing);
        while (write(d->fd, &one, sizeof(one)) < 0 && errno == EINTR) {
        }
        pthread_mutex_lock(&d->mutex);
    }
    pthread_mutex_unlock(&d->mutex);
    return NULL;
}

joust_status joust_bench_disk_open(const char *dir, joust_bench_disk **ret, joust_error *err)
{
    joust_bench_disk *d = joust_calloc(1, sizeof(*d));
    if (!d)
        return joust_fail(err, JOUST_NOMEM, "bench: out of memory");
    char *text = NULL;
    d->options = rocksdb_options_create(); /* RocksDB's own defaults, and a second thread behind */
    rocksdb_options_set_create_if_missing(d->options, 1);
    rocksdb_options_set_max_background_jobs(d->options, 2);
    d->rocks = rocksdb_open(d->options, dir, &text);
    d->fd = eventfd(0, EFD_CLOEXEC);
    if (text || d->fd < 0) {
        joust_status st = joust_fail(err, JOUST_IO, "%s: %s", dir, text ? text : strerror(errno));
        rocksdb_free(text);
        rocksdb_options_destroy(d->options);
        joust_free(d);
        return st;
    }
    d->synced = rocksdb_writeoptions_create();
    rocksdb_writeoptions_set_sync(d->synced, 1);
    d->filling = rocksdb_writebatch_create();
    d->committing = rocksdb_writebatch_create();
    pthread_mutex_init(&d->mutex, NULL);
    pthread_cond_init(&d->wake, NULL);
    if (pthread_create(&d->thread, NULL, commit_thread, d) != 0)
        return joust_fail(err, JOUST_IO, "bench: no new thread"); /* the process ends */
    *ret = d;
    return JOUST_OK;
}

void joust_bench_disk_close(joust_bench_disk **disk)
{
    joust_bench_disk *d = *disk;
    if (!d)
        return;
    pthread_mutex_lock(&d->mutex);
    d->ending = true;
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->mutex);
    pthread_join(d->thread, NULL);
    pthread_cond_destroy(&d->wake);
    pthread_mutex_destroy(&d->mutex);
    rocksdb_writebatch_destroy(d->filling);
    rocksdb_writebatch_destroy(d->committing);
    rocksdb_close(d->rocks);
    rocksdb_writeoptions_destroy(d->synced);
    rocksdb_options_destroy(d->options);
    close(d->fd);
    joust_free(d);
    *disk = NULL;
}

void joust_bench_disk_put(joust_bench_disk *d, uint8_t table, uint64_t group, uint32_t index,
                          const void *data, uint32_t n)
{
    uint8_t key[13] = {table};
    joust_put_be64(key + 1, group);
    joust_put_be32(key + 9, index);
    rocksdb_writebatch_put(d->filling, (const char *)key, sizeof(key), data, n);
}

bool joust_bench_disk_busy(const joust_bench_disk *d)
{
    return d->busy;
}

void joust_bench_disk_commit(joust_bench_disk *d)
{
    rocksdb_writebatch_t *full = d->filling;
    pthread_mutex_lock(&d->mutex);
    d->filling = d->committing;
    d->committing = full;
    d->due = d->busy = true;
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->mutex);
}

int joust_bench_disk_fd(const joust_bench_disk *d)
{
    return d->fd;
}

joust_status joust_bench_disk_collect(joust_bench_disk *d, joust_error *err)
{
    uint64_t n;
    while (read(d->fd, &n, sizeof(n)) < 0)
        if (errno != EINTR)
            return joust_fail(err, JOUST_IO, "bench: eventfd: %s", strerror(errno));
    d->busy = false;
    return d->text ? joust_fail(err, JOUST_IO, "bench: commit: %s", d->text) : JOUST_OK;
}
