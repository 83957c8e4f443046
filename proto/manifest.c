#include "proto/manifest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/base/text.h"

static joust_status fail_errno(joust_error *err, const char *path, const char *what)
{
    int number = errno;
    return joust_fail(err, joust_status_of_errno(number), "%s: %s: %s", path, what,
                      strerror(number));
}

static joust_status open_file(const char *dir, const char *name, int flags, int *ret,
                              joust_error *err)
{
    char *path = joust_path_join(dir, name);
    if (!path)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", name);
    joust_status st = JOUST_OK;
    int fd = open(path, flags | O_CLOEXEC, 0666);
    if (fd < 0)
        st = fail_errno(err, path, "can't open");
    else
        *ret = fd;
    joust_free(path);
    return st;
}

/* Reads n bytes at offset. *ret_n is less only at the end of the file. */
static joust_status read_at(int fd, const char *name, uint64_t offset, uint8_t *to, size_t n,
                            size_t *ret_n, joust_error *err)
{
    size_t got = 0;
    while (got < n) {
        ssize_t step = pread(fd, to + got, n - got, (off_t)(offset + got));
        if (step < 0 && errno == EINTR)
            continue;
        if (step < 0)
            return fail_errno(err, name, "can't read");
        if (step == 0)
            break;
        got += (size_t)step;
    }
    *ret_n = got;
    return JOUST_OK;
}

/* ----------------------------------------------------------------------------------------- make */

static joust_status add_chunk(joust_manifest_file *f, const uint8_t *data, size_t n,
                              joust_error *err)
{
    if (f->n_chunks == JOUST_MAX_FILE_CHUNKS)
        return joust_fail(err, JOUST_TOO_LARGE, "%s: larger than %u chunks of %u bytes", f->name,
                          JOUST_MAX_FILE_CHUNKS, JOUST_CHUNK_BYTES);
    if ((f->n_chunks & (f->n_chunks - 1)) == 0) { /* full at 0 and at each power of two */
        uint32_t room = f->n_chunks ? 2 * f->n_chunks : 1;
        joust_digest *chunks = joust_realloc_array(f->chunks, room, sizeof(*chunks));
        if (!chunks)
            return joust_fail(err, JOUST_NOMEM, "%s: out of memory", f->name);
        f->chunks = chunks;
    }
    f->chunks[f->n_chunks++] = joust_digest_of(data, n);
    f->n_bytes += n;
    return JOUST_OK;
}

/* Fills f (its name is set) from an open file; what it holds on failure is the caller's to free. */
static joust_status read_chunks(int fd, joust_manifest_file *f, uint8_t *scratch, joust_error *err)
{
    joust_hasher whole;
    size_t n = JOUST_CHUNK_BYTES;
    joust_hasher_init(&whole);
    while (n == JOUST_CHUNK_BYTES) {
        joust_status st = read_at(fd, f->name, f->n_bytes, scratch, JOUST_CHUNK_BYTES, &n, err);
        if (st == JOUST_OK && n > 0)
            st = add_chunk(f, scratch, n, err);
        if (st != JOUST_OK)
            return st;
        joust_hasher_add(&whole, scratch, n);
    }
    f->digest = joust_hasher_end(&whole);
    return JOUST_OK;
}

static joust_status read_file(const char *dir, const char *name, joust_manifest_file *f,
                              joust_error *err)
{
    int fd = -1;
    if (strlen(name) >= sizeof(f->name))
        return joust_fail(err, JOUST_INVALID, "%s: name longer than %zu bytes", name,
                          sizeof(f->name) - 1);
    snprintf(f->name, sizeof(f->name), "%s", name);
    joust_status st = open_file(dir, name, O_RDONLY, &fd, err);
    if (st != JOUST_OK)
        return st;
    uint8_t *scratch = joust_malloc(JOUST_CHUNK_BYTES);
    st = scratch ? read_chunks(fd, f, scratch, err)
                 : joust_fail(err, JOUST_NOMEM, "%s: out of memory", name);
    joust_free(scratch);
    close(fd);
    return st;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const joust_manifest_file *)a)->name, ((const joust_manifest_file *)b)->name);
}

static bool is_regular(DIR *dir, const char *name)
{
    struct stat info;
    return fstatat(dirfd(dir), name, &info, 0) == 0 && S_ISREG(info.st_mode);
}

static joust_status add_files(DIR *open_dir, const char *dir, joust_manifest_filter filter,
                              void *arg, joust_manifest *m, joust_error *err)
{
    const struct dirent *entry;
    while ((entry = readdir(open_dir))) {
        const char *name = entry->d_name;
        if (name[0] == '.' || !is_regular(open_dir, name) || (filter && !filter(arg, name)))
            continue;
        if (m->n_files == JOUST_MAX_MANIFEST_FILES)
            return joust_fail(err, JOUST_TOO_LARGE, "%s: more than %u files", dir,
                              JOUST_MAX_MANIFEST_FILES);
        joust_manifest_file *files =
            joust_realloc_array(m->files, m->n_files + 1, sizeof(*m->files));
        if (!files)
            return joust_fail(err, JOUST_NOMEM, "%s: out of memory", dir);
        m->files = files;
        memset(&files[m->n_files], 0, sizeof(*files));
        joust_status st = read_file(dir, name, &files[m->n_files++], err);
        if (st != JOUST_OK)
            return st;
    }
    return JOUST_OK;
}

joust_status joust_manifest_of_dir(const char *dir, joust_manifest_filter filter, void *arg,
                                   joust_manifest *ret, joust_error *err)
{
    joust_manifest m = {0};
    DIR *open_dir = opendir(dir);
    if (!open_dir)
        return fail_errno(err, dir, "can't open folder");
    joust_status st = add_files(open_dir, dir, filter, arg, &m, err);
    closedir(open_dir);
    if (st == JOUST_OK && m.n_files == 0)
        st = joust_fail(err, JOUST_NOT_FOUND, "%s: no file in it", dir);
    if (st != JOUST_OK) {
        joust_manifest_fini(&m);
        return st;
    }
    qsort(m.files, m.n_files, sizeof(*m.files), by_name);
    *ret = m;
    return JOUST_OK;
}

joust_status joust_manifest_of_file(const char *path, joust_manifest *ret, joust_error *err)
{
    const char *slash = strrchr(path, '/');
    joust_manifest m = {.files = joust_calloc(1, sizeof(*m.files)), .n_files = 1};
    char *dir = slash ? joust_strndup(path, (size_t)(slash - path) + 1) : joust_strdup("");
    joust_status st = JOUST_OK;
    if (!m.files || !dir) {
        m.n_files = m.files ? 1 : 0;
        st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", path);
    } else if (joust_dir_exists(path)) {
        st = joust_fail(err, JOUST_INVALID, "%s: a folder, expected a file", path);
    } else {
        st = read_file(dir, slash ? slash + 1 : path, &m.files[0], err);
    }
    joust_free(dir);
    if (st == JOUST_OK)
        *ret = m;
    else
        joust_manifest_fini(&m);
    return st;
}

/* ---------------------------------------------------------------------------------------- sizes */

uint64_t joust_manifest_bytes(const joust_manifest *m)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < m->n_files; i++)
        n += m->files[i].n_bytes;
    return n;
}

uint64_t joust_manifest_chunks(const joust_manifest *m)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < m->n_files; i++)
        n += m->files[i].n_chunks;
    return n;
}

uint32_t joust_manifest_chunk_bytes(const joust_manifest_file *file, uint32_t chunk)
{
    uint64_t start = (uint64_t)chunk * JOUST_CHUNK_BYTES;
    uint64_t left = start < file->n_bytes ? file->n_bytes - start : 0;
    return left < JOUST_CHUNK_BYTES ? (uint32_t)left : JOUST_CHUNK_BYTES;
}

joust_digest joust_manifest_weights(const joust_manifest *m)
{
    joust_hasher hasher;
    joust_hasher_init(&hasher);
    uint32_t n = 0;
    for (uint32_t i = 0; i < m->n_files; i++) {
        const joust_manifest_file *file = &m->files[i];
        if (!joust_text_ends_with(file->name, ".safetensors"))
            continue;
        joust_hasher_field(&hasher, file->name, strlen(file->name));
        joust_hasher_add(&hasher, file->digest.bytes, sizeof(file->digest.bytes));
        n++;
    }
    return n ? joust_hasher_end(&hasher) : (joust_digest){0};
}

const joust_manifest_file *joust_manifest_find(const joust_manifest *m, const char *name)
{
    for (uint32_t i = 0; i < m->n_files; i++)
        if (!strcmp(m->files[i].name, name))
            return &m->files[i];
    return NULL;
}

/* ---------------------------------------------------------------------------------------- check */

joust_status joust_manifest_check_file(const char *dir, const joust_manifest_file *file,
                                       joust_error *err)
{
    joust_manifest_file found = {0};
    joust_status st = read_file(dir, file->name, &found, err);
    if (st == JOUST_OK && found.n_bytes != file->n_bytes)
        st = joust_fail(err, JOUST_CORRUPT, "%s/%s: %llu bytes, its manifest says %llu", dir,
                        file->name, (unsigned long long)found.n_bytes,
                        (unsigned long long)file->n_bytes);
    for (uint32_t i = 0; st == JOUST_OK && i < file->n_chunks; i++)
        if (i >= found.n_chunks || !joust_digest_equal(&found.chunks[i], &file->chunks[i]))
            st = joust_fail(err, JOUST_CORRUPT, "%s/%s: chunk %u isn't what its manifest says", dir,
                            file->name, i);
    if (st == JOUST_OK && !joust_digest_equal(&found.digest, &file->digest))
        st = joust_fail(err, JOUST_CORRUPT, "%s/%s: not the file that its manifest names", dir,
                        file->name);
    joust_free(found.chunks);
    return st;
}

joust_status joust_manifest_check_dir(const char *dir, const joust_manifest *m, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < m->n_files && st == JOUST_OK; i++)
        st = joust_manifest_check_file(dir, &m->files[i], err);
    return st;
}

/* --------------------------------------------------------------------------------------- chunks */

static joust_status check_chunk(const joust_manifest_file *file, uint32_t chunk, const void *data,
                                size_t n, joust_error *err)
{
    if (chunk >= file->n_chunks || n != joust_manifest_chunk_bytes(file, chunk))
        return joust_fail(err, JOUST_CORRUPT, "%s: chunk %u of %zu bytes isn't in its manifest",
                          file->name, chunk, n);
    joust_digest digest = joust_digest_of(data, n);
    if (!joust_digest_equal(&digest, &file->chunks[chunk]))
        return joust_fail(err, JOUST_CORRUPT, "%s: chunk %u isn't what its manifest says",
                          file->name, chunk);
    return JOUST_OK;
}

joust_status joust_manifest_read_chunk(const char *dir, const joust_manifest_file *file,
                                       uint32_t chunk, joust_buf *to, joust_error *err)
{
    int fd = -1;
    size_t n = joust_manifest_chunk_bytes(file, chunk), got = 0;
    joust_status st = open_file(dir, file->name, O_RDONLY, &fd, err);
    if (st != JOUST_OK)
        return st;
    joust_buf_clear(to);
    uint8_t *at = joust_buf_grow(to, n);
    st = at ? read_at(fd, file->name, (uint64_t)chunk * JOUST_CHUNK_BYTES, at, n, &got, err)
            : joust_fail(err, JOUST_NOMEM, "%s: out of memory", file->name);
    close(fd);
    if (st == JOUST_OK)
        st = check_chunk(file, chunk, at, got, err);
    if (st != JOUST_OK)
        joust_buf_clear(to);
    return st;
}

joust_status joust_manifest_write_chunk(const char *dir, const joust_manifest_file *file,
                                        uint32_t chunk, const void *data, size_t n,
                                        joust_error *err)
{
    int fd = -1;
    const uint8_t *from = data;
    uint64_t at = (uint64_t)chunk * JOUST_CHUNK_BYTES;
    joust_status st = check_chunk(file, chunk, data, n, err);
    if (st == JOUST_OK)
        st = open_file(dir, file->name, O_WRONLY | O_CREAT, &fd, err);
    if (st != JOUST_OK)
        return st;
    while (n > 0 && st == JOUST_OK) {
        ssize_t step = pwrite(fd, from, n, (off_t)at);
        if (step < 0 && errno != EINTR)
            st = fail_errno(err, file->name, "can't write");
        if (step > 0) {
            from += step;
            at += (uint64_t)step;
            n -= (size_t)step;
        }
    }
    if (close(fd) != 0 && st == JOUST_OK)
        st = fail_errno(err, file->name, "can't close");
    return st;
}

/* Empty files have no chunk that would have made them. Syncs every file. */
static joust_status settle_file(const char *dir, const joust_manifest_file *file, joust_error *err)
{
    int fd = -1;
    joust_status st = open_file(dir, file->name, O_WRONLY | O_CREAT, &fd, err);
    if (st != JOUST_OK)
        return st;
    if (fsync(fd) != 0)
        st = fail_errno(err, file->name, "can't sync");
    close(fd);
    return st == JOUST_OK ? joust_manifest_check_file(dir, file, err) : st;
}

joust_status joust_manifest_publish(const char *from, const joust_manifest *m, const char *to,
                                    joust_error *err)
{
    joust_status st = joust_manifest_validate(m, err);
    for (uint32_t i = 0; i < m->n_files && st == JOUST_OK; i++)
        st = settle_file(from, &m->files[i], err);
    if (st == JOUST_OK)
        st = joust_dir_sync(from, err);
    if (st != JOUST_OK)
        return st;
    if (joust_dir_exists(to) || joust_file_exists(to))
        return joust_fail(err, JOUST_EXISTS, "%s: exists already", to);
    if (rename(from, to) != 0)
        return fail_errno(err, to, "can't rename to");
    const char *slash = strrchr(to, '/');
    char *parent = slash ? joust_strndup(to, (size_t)(slash - to) + 1) : joust_strdup(".");
    if (!parent)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", to);
    st = joust_dir_sync(parent, err);
    joust_free(parent);
    return st;
}
