#include "proto/cache.h"

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/transfer.h"

typedef struct folder {
    joust_digest manifest;
    char *dir;
    uint64_t n_bytes, used; /* used: serial number of the last fetch */
} folder;

struct joust_cache {
    char *dir;
    uint64_t max_bytes, serial;
    folder *folders;
    uint32_t n;
};

joust_status joust_cache_create(const char *dir, uint64_t max_bytes, joust_cache **ret,
                                joust_error *err)
{
    joust_status st = joust_dir_remove(dir, err);
    if (st == JOUST_OK)
        st = joust_dir_make(dir, err);
    if (st != JOUST_OK)
        return st;
    joust_cache *c = joust_calloc(1, sizeof(*c));
    char *copy = joust_strdup(dir);
    if (!c || !copy) {
        joust_free(c);
        joust_free(copy);
        return joust_fail(err, JOUST_NOMEM, "cache: out of memory");
    }
    c->dir = copy;
    c->max_bytes = max_bytes;
    *ret = c;
    return JOUST_OK;
}

void joust_cache_free(joust_cache **cache)
{
    joust_cache *c = *cache;
    if (!c)
        return;
    for (uint32_t i = 0; i < c->n; i++)
        joust_free(c->folders[i].dir);
    joust_free(c->folders);
    joust_free(c->dir);
    joust_free(c);
    *cache = NULL;
}

static folder *find(joust_cache *c, const joust_digest *manifest)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (joust_digest_equal(&c->folders[i].manifest, manifest))
            return &c->folders[i];
    return NULL;
}

/* Removes folders, longest unused first, until the rest fits; the newest always stays. */
static joust_status evict(joust_cache *c, joust_error *err)
{
    for (;;) {
        uint64_t total = 0;
        uint32_t oldest = 0;
        for (uint32_t i = 0; i < c->n; i++) {
            total += c->folders[i].n_bytes;
            if (c->folders[i].used < c->folders[oldest].used)
                oldest = i;
        }
        if (total <= c->max_bytes || c->n < 2)
            return JOUST_OK;
        joust_status st = joust_dir_remove(c->folders[oldest].dir, err);
        if (st != JOUST_OK)
            return st;
        joust_free(c->folders[oldest].dir);
        c->folders[oldest] = c->folders[--c->n];
    }
}

static joust_status remember(joust_cache *c, const joust_digest *manifest, uint64_t n_bytes,
                             char **dir, joust_error *err)
{
    folder *grown = joust_realloc_array(c->folders, c->n + 1, sizeof(*grown));
    if (!grown)
        return joust_fail(err, JOUST_NOMEM, "cache: out of memory");
    c->folders = grown;
    c->folders[c->n++] = (folder){*manifest, *dir, n_bytes, ++c->serial};
    *dir = NULL;
    return JOUST_OK;
}

static joust_status fetch_folder(joust_cache *c, const joust_upstream *up,
                                 const joust_digest *manifest, joust_error *err)
{
    char hex[JOUST_DIGEST_HEX];
    uint64_t n_bytes = 0;
    const char **near = joust_calloc(c->n, sizeof(*near));
    if (!near)
        return joust_fail(err, JOUST_NOMEM, "cache: out of memory");
    for (uint32_t i = 0; i < c->n; i++)
        near[i] = c->folders[i].dir;
    char *part = NULL, *dir = joust_path_join(c->dir, joust_digest_hex(manifest, hex));
    joust_status st = dir ? joust_cache_scratch(c, "incoming", &part, err)
                          : joust_fail(err, JOUST_NOMEM, "cache: out of memory");
    if (st == JOUST_OK)
        st = joust_fetch_dir(up, manifest, part, dir, near, c->n, &n_bytes, err);
    if (st == JOUST_OK)
        st = remember(c, manifest, n_bytes, &dir, err);
    joust_free(near);
    joust_free(part);
    joust_free(dir);
    return st;
}

joust_status joust_cache_fetch(joust_cache *cache, const joust_upstream *up,
                               const joust_digest *manifest, const char **ret_dir, joust_error *err)
{
    folder *f = find(cache, manifest);
    if (!f) {
        joust_status st = fetch_folder(cache, up, manifest, err);
        if (st == JOUST_OK)
            st = evict(cache, err);
        if (st != JOUST_OK)
            return st;
        f = find(cache, manifest);
    }
    f->used = ++cache->serial;
    *ret_dir = f->dir;
    return JOUST_OK;
}

joust_status joust_cache_scratch(const joust_cache *cache, const char *name, char **ret,
                                 joust_error *err)
{
    char *path = joust_path_join(cache->dir, name);
    joust_status st =
        path ? joust_dir_remove(path, err) : joust_fail(err, JOUST_NOMEM, "cache: out of memory");
    if (st != JOUST_OK) {
        joust_free(path);
        return st;
    }
    *ret = path;
    return JOUST_OK;
}
