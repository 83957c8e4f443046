#include "proto/base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/base/alloc.h"

joust_status joust_status_of_errno(int number)
{
    switch (number) {
    case ENOENT:
    case ENOTDIR:
        return JOUST_NOT_FOUND;
    case ENOSPC:
    case EDQUOT:
        return JOUST_DISK_FULL;
    case ENOMEM:
        return JOUST_NOMEM;
    case EACCES:
    case EPERM:
    case EROFS:
        return JOUST_DENIED;
    default:
        return JOUST_IO;
    }
}

static joust_status fail_errno(joust_error *err, const char *what, const char *path)
{
    int number = errno;
    return joust_fail(err, joust_status_of_errno(number), "%s: %s: %s", path, what,
                      strerror(number));
}

joust_status joust_file_open(const char *path, int *ret, uint64_t *ret_bytes, joust_error *err)
{
    struct stat info;
    joust_status st = JOUST_OK;
    int fd =
        open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC); /* a FIFO's other end isn't waited for */
    if (fd < 0)
        return fail_errno(err, "can't open", path);
    if (fstat(fd, &info) != 0)
        st = fail_errno(err, "can't stat", path);
    else if (!S_ISREG(info.st_mode))
        st = joust_fail(err, JOUST_INVALID, "%s: not a regular file", path);
    if (st != JOUST_OK) {
        close(fd);
        return st;
    }
    *ret = fd;
    *ret_bytes = (uint64_t)info.st_size;
    return JOUST_OK;
}

joust_status joust_file_read(const char *path, uint64_t max_bytes, joust_buf *to, joust_error *err)
{
    uint64_t size;
    int fd;
    joust_buf_clear(to);
    joust_status st = joust_file_open(path, &fd, &size, err);
    if (st != JOUST_OK)
        return st;
    for (;;) {
        size_t step = to->n == 0 && size > 0 && size <= max_bytes ? (size_t)size + 1 : 65536;
        if (to->n > max_bytes || size > max_bytes) {
            st = joust_fail(err, JOUST_TOO_LARGE, "%s: larger than %llu bytes", path,
                            (unsigned long long)max_bytes);
            goto undo_open;
        }
        size_t had = to->n;
        uint8_t *at = joust_buf_grow(to, step);
        if (!at) {
            st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", path);
            goto undo_open;
        }
        ssize_t n = read(fd, at, step);
        to->n = had + (n > 0 ? (size_t)n : 0);
        to->data[to->n] = 0;
        if (n < 0 && errno != EINTR) {
            st = fail_errno(err, "can't read", path);
            goto undo_open;
        }
        if (n == 0)
            break;
    }
undo_open:
    close(fd);
    if (st != JOUST_OK)
        joust_buf_clear(to);
    return st;
}

static joust_status write_all(int fd, const uint8_t *data, uint64_t n, const char *path,
                              joust_error *err)
{
    while (n > 0) {
        ssize_t done = write(fd, data, n > (1u << 30) ? 1u << 30 : (size_t)n);
        if (done < 0) {
            if (errno == EINTR)
                continue;
            return fail_errno(err, "can't write", path);
        }
        data += done;
        n -= (uint64_t)done;
    }
    return JOUST_OK;
}

/* Length of the folder part of path, without the slash; 0 if there is none. */
static size_t folder_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) : 0;
}

struct joust_file_writer {
    int fd;
    joust_status failed; /* of an add */
    char *path, *temporary, *folder;
};

static void writer_free(joust_file_writer **writer)
{
    joust_file_writer *w = *writer;
    joust_free(w->path);
    joust_free(w->temporary);
    joust_free(w->folder);
    joust_free(w);
    *writer = NULL;
}

/* Names a file beside path that no other thread or process uses, and path's folder. */
static bool writer_name(joust_file_writer *w, const char *path)
{
    static _Thread_local unsigned serial;
    size_t length = folder_length(path), room = strlen(path) + 64;
    w->path = joust_strdup(path);
    w->folder = length ? joust_strndup(path, length) : joust_strdup(path[0] == '/' ? "/" : ".");
    w->temporary = joust_malloc(room);
    if (!w->path || !w->folder || !w->temporary)
        return false;
    snprintf(w->temporary, room, "%s.%ld-%u-%p.tmp", path, (long)getpid(), serial++,
             (void *)&serial);
    return true;
}

joust_status joust_file_writer_open(const char *path, joust_file_writer **ret, joust_error *err)
{
    joust_file_writer *w = joust_calloc(1, sizeof(*w));
    if (!w || !writer_name(w, path)) {
        if (w)
            writer_free(&w);
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", path);
    }
    w->fd = open(w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (w->fd < 0) {
        joust_status st = fail_errno(err, "can't create", w->temporary);
        writer_free(&w);
        return st;
    }
    *ret = w;
    return JOUST_OK;
}

joust_status joust_file_writer_add(joust_file_writer *w, const void *data, uint64_t n,
                                   joust_error *err)
{
    w->failed = write_all(w->fd, data, n, w->path, err);
    return w->failed;
}

joust_status joust_file_writer_commit(joust_file_writer **writer, joust_error *err)
{
    joust_file_writer *w = *writer;
    joust_status st = w->failed;
    if (st != JOUST_OK)
        joust_fail(err, st, "%s: can't write", w->path);
    else if (fsync(w->fd) != 0)
        st = fail_errno(err, "can't sync", w->path);
    if (close(w->fd) != 0 && st == JOUST_OK)
        st = fail_errno(err, "can't close", w->path);
    if (st == JOUST_OK && rename(w->temporary, w->path) != 0)
        st = fail_errno(err, "can't rename to", w->path);
    if (st == JOUST_OK)
        st = joust_dir_sync(w->folder, err);
    else
        unlink(w->temporary);
    writer_free(writer);
    return st;
}

void joust_file_writer_abort(joust_file_writer **writer)
{
    if (!*writer)
        return;
    close((*writer)->fd);
    unlink((*writer)->temporary);
    writer_free(writer);
}

joust_status joust_file_write(const char *path, const void *data, uint64_t n, joust_error *err)
{
    joust_file_writer *w;
    joust_status st = joust_file_writer_open(path, &w, err);
    if (st != JOUST_OK)
        return st;
    st = joust_file_writer_add(w, data, n, err);
    if (st == JOUST_OK)
        return joust_file_writer_commit(&w, err);
    joust_file_writer_abort(&w);
    return st;
}

joust_status joust_dir_sync(const char *path, joust_error *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(err, "can't open folder", path);
    joust_status st = JOUST_OK;
    if (fsync(fd) != 0)
        st = fail_errno(err, "can't sync folder", path);
    close(fd);
    return st;
}

joust_status joust_dir_make(const char *path, joust_error *err)
{
    char part[4096];
    size_t n = strlen(path);
    if (n == 0 || n >= sizeof(part))
        return joust_fail(err, JOUST_INVALID, "'%.200s': not a usable folder name", path);
    for (size_t i = 1; i <= n; i++) {
        if (path[i] != '/' && path[i] != '\0')
            continue;
        memcpy(part, path, i);
        part[i] = '\0';
        if (mkdir(part, 0777) != 0 && errno != EEXIST)
            return fail_errno(err, "can't make folder", part);
    }
    if (!joust_dir_exists(path))
        return joust_fail(err, JOUST_EXISTS, "%s: exists and is not a folder", path);
    return JOUST_OK;
}

static joust_status remove_below(int parent, const char *name, const char *path, joust_error *err)
{
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? JOUST_OK : fail_errno(err, "can't open folder", path);
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return fail_errno(err, "can't read folder", path);
    }
    joust_status st = JOUST_OK;
    struct dirent *entry;
    while (st == JOUST_OK && (entry = readdir(dir))) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        if (unlinkat(fd, entry->d_name, 0) == 0 || errno == ENOENT)
            continue;
        if (errno == EISDIR || errno == EPERM)
            st = remove_below(fd, entry->d_name, path, err);
        else
            st = fail_errno(err, "can't remove an entry", path);
    }
    closedir(dir);
    if (st == JOUST_OK && unlinkat(parent, name, AT_REMOVEDIR) != 0 && errno != ENOENT)
        st = fail_errno(err, "can't remove folder", path);
    return st;
}

joust_status joust_dir_remove(const char *path, joust_error *err)
{
    return remove_below(AT_FDCWD, path, path, err);
}

bool joust_file_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISREG(info.st_mode);
}

bool joust_dir_exists(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

bool joust_dir_is_empty(const char *path)
{
    bool empty = true;
    DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT;
    for (const struct dirent *entry; empty && (entry = readdir(dir)) != NULL;)
        empty = !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
    closedir(dir);
    return empty;
}

char *joust_path_join(const char *a, const char *b)
{
    if (!a || !*a || b[0] == '/')
        return joust_strdup(b);
    size_t n = strlen(a), m = strlen(b);
    size_t slash = a[n - 1] != '/';
    char *path = joust_malloc(n + slash + m + 1);
    if (path) {
        memcpy(path, a, n);
        if (slash)
            path[n] = '/';
        memcpy(path + n + slash, b, m + 1);
    }
    return path;
}

char *joust_path_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return joust_strdup(".");
    return slash == path ? joust_strdup("/") : joust_strndup(path, (size_t)(slash - path));
}

static joust_status link_file(const char *from, const char *to, const char *name, joust_error *err)
{
    char *source = joust_path_join(from, name), *target = joust_path_join(to, name);
    joust_status st = JOUST_OK;
    if (!source || !target)
        st = joust_fail(err, JOUST_NOMEM, "link: out of memory");
    else if (link(source, target) != 0)
        st = joust_fail(err, joust_status_of_errno(errno), "%s: %s", target, strerror(errno));
    joust_free(source);
    joust_free(target);
    return st;
}

joust_status joust_dir_link(const char *from, const char *to, joust_error *err)
{
    joust_status st = joust_dir_remove(to, err);
    if (st == JOUST_OK)
        st = joust_dir_make(to, err);
    if (st != JOUST_OK)
        return st;
    DIR *dir = opendir(from);
    if (!dir)
        return joust_fail(err, joust_status_of_errno(errno), "%s: %s", from, strerror(errno));
    for (struct dirent *e; st == JOUST_OK && (e = readdir(dir));)
        if (e->d_name[0] != '.')
            st = link_file(from, to, e->d_name, err);
    closedir(dir);
    return st;
}

joust_status joust_path_absolute(char **path, joust_error *err)
{
    char absolute[PATH_MAX];
    if (!realpath(*path, absolute))
        return joust_fail(err, joust_status_of_errno(errno), "%s: %s", *path, strerror(errno));
    char *copy = joust_strdup(absolute);
    if (!copy)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", *path);
    joust_free(*path);
    *path = copy;
    return JOUST_OK;
}
