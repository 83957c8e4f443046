#include "storage/blobs.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/codec.h"
#include "proto/manifest.h"

struct joust_blobs {
    char *dir; /* STORE/blobs */
};

void joust_blobs_close(joust_blobs **blobs)
{
    if (!blobs || !*blobs)
        return;
    joust_free((*blobs)->dir);
    joust_free(*blobs);
    *blobs = NULL;
}

/* DIR/aa (folder) or DIR/aa/<digest>; owned. NULL when out of memory. */
static char *blob_path(const joust_blobs *blobs, const joust_digest *digest, bool folder)
{
    char hex[JOUST_DIGEST_HEX];
    joust_buf path = {0};
    joust_digest_hex(digest, hex);
    joust_buf_format(&path, "%s/%.2s", blobs->dir, hex);
    if (!folder)
        joust_buf_format(&path, "/%s", hex);
    char *text = joust_buf_take_text(&path);
    joust_buf_fini(&path);
    return text;
}

/* One blob ------------------------------------------------------------------------------------- */

bool joust_blobs_has(joust_blobs *blobs, const joust_digest *digest)
{
    char *path = blob_path(blobs, digest, false);
    bool there = path && joust_file_exists(path);
    joust_free(path);
    return there;
}

/* Makes DIR/aa, durably when it is new. */
static joust_status make_folder(const joust_blobs *blobs, const joust_digest *digest,
                                joust_error *err)
{
    char *folder = blob_path(blobs, digest, true);
    joust_status st = JOUST_OK;
    if (!folder)
        st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", blobs->dir);
    else if (!joust_dir_exists(folder) && (st = joust_dir_make(folder, err)) == JOUST_OK)
        st = joust_dir_sync(blobs->dir, err);
    joust_free(folder);
    return st;
}

joust_status joust_blobs_put(joust_blobs *blobs, const joust_digest *digest, const void *data,
                             size_t n, joust_error *err)
{
    char hex[JOUST_DIGEST_HEX];
    if (n > JOUST_MAX_BLOB_BYTES)
        return joust_fail(err, JOUST_TOO_LARGE, "blob %s: %zu bytes, at most %u",
                          joust_digest_hex(digest, hex), n, JOUST_MAX_BLOB_BYTES);
    joust_digest actual = joust_digest_of(data, n);
    if (!joust_digest_equal(&actual, digest))
        return joust_fail(err, JOUST_MALFORMED, "blob %s: the data has another digest",
                          joust_digest_hex(digest, hex));
    if (joust_blobs_has(blobs, digest))
        return JOUST_OK;
    joust_status st = make_folder(blobs, digest, err);
    if (st != JOUST_OK)
        return st;
    char *path = blob_path(blobs, digest, false);
    st = path ? joust_file_write(path, data, n, err)
              : joust_fail(err, JOUST_NOMEM, "%s: out of memory", blobs->dir);
    joust_free(path);
    return st;
}

joust_status joust_blobs_get(joust_blobs *blobs, const joust_digest *digest, joust_buf *to,
                             joust_error *err)
{
    char *path = blob_path(blobs, digest, false);
    if (!path)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", blobs->dir);
    joust_status st = joust_file_read(path, JOUST_MAX_BLOB_BYTES, to, err);
    if (st == JOUST_OK) {
        joust_digest actual = joust_digest_of(to->data, to->n);
        if (!joust_digest_equal(&actual, digest))
            st =
                joust_fail(err, JOUST_CORRUPT,
                           "%s: its content has another digest than its name; remove the file, and "
                           "resume the job where it can be made or fetched again",
                           path);
    }
    joust_free(path);
    return st;
}

/* Manifests ------------------------------------------------------------------------------------ */

joust_status joust_blobs_get_manifest(joust_blobs *blobs, const joust_digest *digest,
                                      joust_manifest *ret, joust_error *err)
{
    joust_buf bytes = {0};
    char hex[JOUST_DIGEST_HEX];
    joust_manifest m;
    joust_status st = joust_blobs_get(blobs, digest, &bytes, err);
    if (st == JOUST_OK) {
        st = joust_manifest_decode(bytes.data, bytes.n, &m, err);
        if (st == JOUST_OK && (st = joust_manifest_validate(&m, err)) != JOUST_OK)
            joust_manifest_fini(&m);
        if (st != JOUST_OK && st != JOUST_NOMEM) {
            joust_blame(err, st, "blob %s is not a manifest", joust_digest_hex(digest, hex));
            st = JOUST_CORRUPT;
            if (err)
                err->status = st;
        }
    }
    joust_buf_fini(&bytes);
    if (st == JOUST_OK)
        *ret = m;
    return st;
}

joust_status joust_blobs_complete(joust_blobs *blobs, const joust_digest *manifest, bool *ret,
                                  joust_digest *ret_missing, joust_error *err)
{
    joust_manifest m;
    bool whole = true;
    if (!joust_blobs_has(blobs, manifest)) {
        if (ret_missing)
            *ret_missing = *manifest;
        *ret = false;
        return JOUST_OK;
    }
    joust_status st = joust_blobs_get_manifest(blobs, manifest, &m, err);
    if (st != JOUST_OK)
        return st;
    for (uint32_t f = 0; f < m.n_files && whole; f++)
        for (uint32_t c = 0; c < m.files[f].n_chunks && whole; c++) {
            whole = joust_blobs_has(blobs, &m.files[f].chunks[c]);
            if (!whole && ret_missing)
                *ret_missing = m.files[f].chunks[c];
        }
    joust_manifest_fini(&m);
    *ret = whole;
    return JOUST_OK;
}

/* Reads a file's chunks in order; where `dir` is given, writes them to its file there. */
static joust_status walk_file(joust_blobs *blobs, const joust_manifest_file *file, const char *dir,
                              joust_buf *chunk, joust_error *err)
{
    joust_hasher whole;
    joust_hasher_init(&whole);
    uint64_t n_bytes = 0;
    for (uint32_t c = 0; c < file->n_chunks; c++) {
        joust_status st = joust_blobs_get(blobs, &file->chunks[c], chunk, err);
        if (st == JOUST_OK && chunk->n != joust_manifest_chunk_bytes(file, c))
            st = joust_fail(err, JOUST_CORRUPT, "chunk %" PRIu32 " has %zu bytes", c, chunk->n);
        if (st == JOUST_OK && dir)
            st = joust_manifest_write_chunk(dir, file, c, chunk->data, chunk->n, err);
        if (st != JOUST_OK)
            return joust_blame(err, st, "file %s", file->name);
        joust_hasher_add(&whole, chunk->data, chunk->n);
        n_bytes += chunk->n;
    }
    joust_digest actual = joust_hasher_end(&whole);
    if (n_bytes != file->n_bytes || !joust_digest_equal(&actual, &file->digest))
        return joust_fail(err, JOUST_CORRUPT, "file %s: its chunks make up another file",
                          file->name);
    return JOUST_OK;
}

static joust_status walk_files(joust_blobs *blobs, const joust_manifest *m, const char *dir,
                               joust_error *err)
{
    joust_buf chunk = {0};
    joust_status st = JOUST_OK;
    for (uint32_t f = 0; f < m->n_files && st == JOUST_OK; f++)
        st = walk_file(blobs, &m->files[f], dir, &chunk, err);
    joust_buf_fini(&chunk);
    return st;
}

joust_status joust_blobs_verify(joust_blobs *blobs, const joust_digest *manifest, joust_error *err)
{
    joust_manifest m;
    joust_status st = joust_blobs_get_manifest(blobs, manifest, &m, err);
    if (st != JOUST_OK)
        return st;
    st = walk_files(blobs, &m, NULL, err);
    joust_manifest_fini(&m);
    return st;
}

static joust_status put_manifest(joust_blobs *blobs, const joust_manifest *m,
                                 joust_digest *ret_digest, joust_error *err)
{
    joust_buf bytes = {0};
    joust_status st = joust_manifest_encode(m, &bytes, err);
    if (st == JOUST_OK) {
        joust_digest digest = joust_digest_of(bytes.data, bytes.n);
        st = joust_blobs_put(blobs, &digest, bytes.data, bytes.n, err);
        if (st == JOUST_OK)
            *ret_digest = digest;
    }
    joust_buf_fini(&bytes);
    return st;
}

joust_status joust_blobs_put_files(joust_blobs *blobs, const char *dir, const joust_manifest *m,
                                   joust_digest *ret_manifest, joust_error *err)
{
    joust_buf chunk = {0};
    joust_status st = JOUST_OK;
    for (uint32_t f = 0; f < m->n_files && st == JOUST_OK; f++)
        for (uint32_t c = 0; c < m->files[f].n_chunks && st == JOUST_OK; c++) {
            if (joust_blobs_has(blobs, &m->files[f].chunks[c]))
                continue;
            st = joust_manifest_read_chunk(dir, &m->files[f], c, &chunk, err);
            if (st == JOUST_OK)
                st = joust_blobs_put(blobs, &m->files[f].chunks[c], chunk.data, chunk.n, err);
        }
    joust_buf_fini(&chunk);
    return st == JOUST_OK ? put_manifest(blobs, m, ret_manifest, err) : st;
}

joust_status joust_blobs_import(joust_blobs *blobs, const char *path, joust_digest *ret_manifest,
                                joust_error *err)
{
    joust_manifest m;
    bool is_dir = joust_dir_exists(path);
    joust_status st = is_dir ? joust_manifest_of_dir(path, NULL, NULL, &m, err)
                             : joust_manifest_of_file(path, &m, err);
    if (st != JOUST_OK)
        return st;
    char *dir = is_dir ? joust_strdup(path) : joust_path_parent(path);
    st = dir ? joust_blobs_put_files(blobs, dir, &m, ret_manifest, err)
             : joust_fail(err, JOUST_NOMEM, "%s: out of memory", path);
    joust_free(dir);
    joust_manifest_fini(&m);
    return st;
}

joust_status joust_blobs_export(joust_blobs *blobs, const joust_digest *manifest, const char *dir,
                                joust_error *err)
{
    joust_manifest m;
    joust_status st = joust_blobs_get_manifest(blobs, manifest, &m, err);
    if (st != JOUST_OK)
        return st;
    joust_buf name = {0};
    if (joust_dir_exists(dir)) {
        joust_error why;
        if (joust_manifest_check_dir(dir, &m, &why) != JOUST_OK)
            st = joust_fail(err, JOUST_EXISTS, "%s holds something else: %s", dir, why.text);
        goto out;
    }
    joust_buf_format(&name, "%s.tmp-%ld", dir, (long)getpid());
    if ((st = joust_buf_status(&name, err)) != JOUST_OK)
        goto out;
    const char *half = (const char *)name.data;
    if ((st = joust_dir_remove(half, err)) == JOUST_OK &&
        (st = joust_dir_make(half, err)) == JOUST_OK) {
        st = walk_files(blobs, &m, half, err);
        if (st == JOUST_OK)
            st = joust_manifest_publish(half, &m, dir, err);
        if (st != JOUST_OK && joust_dir_remove(half, NULL) != JOUST_OK) {
            /* the half-written folder stays beside dir; the next export removes it */
        }
    }
out:
    joust_buf_fini(&name);
    joust_manifest_fini(&m);
    return st;
}

/* Every file ----------------------------------------------------------------------------------- */

typedef joust_status name_see(void *user, const char *folder, const char *name, joust_error *err);

/* Calls see for every name in the folders 00 … ff. */
static joust_status each_name(joust_blobs *blobs, name_see *see, void *user, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (unsigned i = 0; i < 256 && st == JOUST_OK; i++) {
        char two[4];
        snprintf(two, sizeof(two), "%02x", i);
        char *folder = joust_path_join(blobs->dir, two);
        if (!folder)
            return joust_fail(err, JOUST_NOMEM, "%s: out of memory", blobs->dir);
        DIR *names = opendir(folder);
        const struct dirent *entry;
        if (!names && errno != ENOENT)
            st = joust_fail(err, JOUST_IO, "%s: can't be read: %s", folder, strerror(errno));
        while (names && st == JOUST_OK && (entry = readdir(names)))
            if (entry->d_name[0] != '.')
                st = see(user, folder, entry->d_name, err);
        if (names)
            closedir(names);
        joust_free(folder);
    }
    return st;
}

static bool is_temporary(const char *name)
{
    size_t n = strlen(name);
    return n > 4 && strcmp(name + n - 4, ".tmp") == 0;
}

/* A writer that was killed leaves its temporary file; there is no other writer now. */
static joust_status remove_temporary(void *user, const char *folder, const char *name,
                                     joust_error *err)
{
    (void)user, (void)err;
    if (!is_temporary(name))
        return JOUST_OK;
    char *path = joust_path_join(folder, name);
    if (path)
        (void)remove(path); /* if it can't go now it goes another time */
    joust_free(path);
    return JOUST_OK;
}

typedef struct blob_walk {
    joust_blobs *blobs;
    joust_blob_see *see;
    void *user;
    joust_buf bytes;
} blob_walk;

/* What is wrong with the file, without its path in front. */
static const char *without_path(const char *wrong, const char *path)
{
    size_t n = strlen(path);
    return strncmp(wrong, path, n) == 0 && strncmp(wrong + n, ": ", 2) == 0 ? wrong + n + 2 : wrong;
}

static joust_status walk_blob(void *user, const char *folder, const char *name, joust_error *err)
{
    blob_walk *w = user;
    joust_digest digest;
    joust_error why;
    if (is_temporary(name))
        return JOUST_OK;
    char *path = joust_path_join(folder, name);
    if (!path)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", folder);
    joust_status st = joust_digest_parse(name, &digest, &why);
    if (st != JOUST_OK)
        st = joust_fail(&why, JOUST_CORRUPT, "its name is no digest");
    else
        st = joust_blobs_get(w->blobs, &digest, &w->bytes, &why);
    if (st == JOUST_NOMEM)
        joust_fail(err, st, "%s", why.text);
    else
        st = w->see(w->user, path, st == JOUST_OK ? NULL : without_path(why.text, path), err);
    joust_free(path);
    return st;
}

joust_status joust_blobs_walk(joust_blobs *blobs, joust_blob_see *see, void *user, joust_error *err)
{
    blob_walk w = {.blobs = blobs, .see = see, .user = user};
    joust_status st = each_name(blobs, walk_blob, &w, err);
    joust_buf_fini(&w.bytes);
    return st;
}

joust_status joust_blobs_open(const char *store_dir, bool create, joust_blobs **ret,
                              joust_error *err)
{
    joust_status st = JOUST_OK;
    joust_blobs *blobs = joust_calloc(1, sizeof(*blobs));
    if (!blobs || !(blobs->dir = joust_path_join(store_dir, "blobs")))
        st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", store_dir);
    else if (!create && !joust_dir_exists(blobs->dir))
        st = joust_fail(err, JOUST_NOT_FOUND, "%s: there is no folder of blobs", blobs->dir);
    else if (create && (st = joust_dir_make(blobs->dir, err)) == JOUST_OK)
        st = each_name(blobs, remove_temporary, NULL, err);
    if (st != JOUST_OK) {
        joust_blobs_close(&blobs);
        return st;
    }
    *ret = blobs;
    return JOUST_OK;
}
