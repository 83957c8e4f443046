#include "proto/transfer.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h> /* link */

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/codec.h"
#include "proto/manifest.h"

/* ---- requests under way --------------------------------------------------------------------- */

/* One chunk that is asked for or sent, and where it belongs. */
typedef struct piece {
    joust_digest digest;
    const joust_manifest_file *file; /* NULL: the manifest itself, or a lone blob */
    uint32_t chunk;
} piece;

/* Moves pieces one way, a window at a time. `next` gives the next piece that has to travel
 * (JOUST_END: none is left), `ask` makes its request, `take` handles its answer. */
typedef struct mover {
    const joust_upstream *up;
    void *context;
    joust_message_type answer;
    joust_status (*next)(void *context, piece *ret, joust_error *err);
    joust_status (*ask)(void *context, const piece *p, joust_message *ret, joust_error *err);
    joust_status (*take)(void *context, const piece *p, const joust_message *m, joust_error *err);
    piece under_way[JOUST_TRANSFER_WINDOW];
    uint32_t n;
    uint64_t moved;
} mover;

static joust_status ask(mover *m, const piece *p, joust_error *err)
{
    joust_message request = {0};
    joust_status st = m->ask(m->context, p, &request, err);
    if (st == JOUST_OK)
        st = m->up->send(m->up->context, &request, err);
    joust_message_fini(&request);
    return st;
}

static joust_status ask_all_again(mover *m, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < m->n && st == JOUST_OK; i++)
        st = ask(m, &m->under_way[i], err);
    return st;
}

static const joust_digest *digest_of(const joust_message *m)
{
    if (m->type == JOUST_MSG_CHUNK)
        return &m->u.chunk.digest;
    if (m->type == JOUST_MSG_CHUNK_ACK && m->u.digests.n == 1)
        return &m->u.digests.digests[0];
    return NULL;
}

/* Gives an answer to the piece it belongs to; answers to nothing (repeats) are passed over. */
static joust_status take(mover *m, const joust_message *answer, joust_error *err)
{
    const joust_digest *digest = answer->type == m->answer ? digest_of(answer) : NULL;
    for (uint32_t i = 0; digest && i < m->n; i++) {
        if (!joust_digest_equal(&m->under_way[i].digest, digest))
            continue;
        piece p = m->under_way[i];
        m->under_way[i] = m->under_way[--m->n];
        m->moved++;
        joust_status st = m->take(m->context, &p, answer, err);
        return st != JOUST_OK ? st : m->up->check(m->up->context, m->moved, err);
    }
    return JOUST_OK;
}

static joust_status move_all(mover *m, joust_error *err)
{
    bool more = true;
    for (;;) {
        joust_status st;
        while (more && m->n < JOUST_TRANSFER_WINDOW) {
            st = m->next(m->context, &m->under_way[m->n], err);
            more = st != JOUST_END;
            if (more && st == JOUST_OK)
                st = ask(m, &m->under_way[m->n++], err);
            if (more && st != JOUST_OK)
                return st;
        }
        if (m->n == 0)
            return JOUST_OK;
        joust_message answer = {0};
        st = m->up->receive(m->up->context, &answer, err);
        if (st == JOUST_AGAIN)
            st = ask_all_again(m, err);
        else if (st == JOUST_OK)
            st = take(m, &answer, err);
        joust_message_fini(&answer);
        if (st != JOUST_OK)
            return st;
    }
}

/* A walk over all chunks of a manifest, each digest as often as it stands there. */
typedef struct walk {
    const joust_manifest *manifest;
    uint32_t file, chunk;
} walk;

static joust_status walk_next(walk *w, piece *ret)
{
    while (w->file < w->manifest->n_files) {
        const joust_manifest_file *file = &w->manifest->files[w->file];
        if (w->chunk < file->n_chunks) {
            *ret = (piece){file->chunks[w->chunk], file, w->chunk};
            w->chunk++;
            return JOUST_OK;
        }
        w->file++;
        w->chunk = 0;
    }
    return JOUST_END;
}

static joust_status one_digest(joust_message_type type, const joust_digest *digest,
                               joust_message *ret, joust_error *err)
{
    joust_digest *copy = joust_memdup(digest, sizeof(*digest));
    if (!copy)
        return joust_fail(err, JOUST_NOMEM, "request: out of memory");
    ret->type = type;
    ret->u.digests = (joust_msg_digests){1, copy};
    return JOUST_OK;
}

/* ---- fetching ------------------------------------------------------------------------------- */

/* What is asked for was recorded, and never without its chunks: asking again doesn't help. */
static joust_status check_there(const joust_msg_chunk *chunk, joust_error *err)
{
    char hex[JOUST_DIGEST_HEX];
    return chunk->n ? JOUST_OK
                    : joust_fail(err, JOUST_CONFLICT,
                                 "the coordinator's store has lost chunk %.16s…: restore its blobs "
                                 "from a copy, or begin again with another --store",
                                 joust_digest_hex(&chunk->digest, hex));
}

static joust_status check_chunk(const joust_msg_chunk *chunk, joust_error *err)
{
    char hex[JOUST_DIGEST_HEX];
    joust_status st = check_there(chunk, err);
    if (st != JOUST_OK)
        return st;
    joust_digest is = joust_digest_of(chunk->data, chunk->n);
    if (!joust_digest_equal(&is, &chunk->digest))
        return joust_fail(err, JOUST_CORRUPT, "chunk %s arrived with other bytes",
                          joust_digest_hex(&chunk->digest, hex));
    return JOUST_OK;
}

typedef struct blob_get {
    joust_digest digest;
    bool asked;
    joust_buf *to;
} blob_get;

static joust_status blob_next(void *context, piece *ret, joust_error *err)
{
    (void)err;
    blob_get *g = context;
    if (g->asked)
        return JOUST_END;
    g->asked = true;
    *ret = (piece){.digest = g->digest};
    return JOUST_OK;
}

static joust_status get_ask(void *context, const piece *p, joust_message *ret, joust_error *err)
{
    (void)context;
    return one_digest(JOUST_MSG_CHUNK_GET, &p->digest, ret, err);
}

static joust_status blob_take(void *context, const piece *p, const joust_message *m,
                              joust_error *err)
{
    (void)p;
    blob_get *g = context;
    joust_status st = check_chunk(&m->u.chunk, err);
    if (st != JOUST_OK)
        return st;
    joust_buf_add(g->to, m->u.chunk.data, m->u.chunk.n);
    return joust_buf_status(g->to, err);
}

joust_status joust_fetch_blob(const joust_upstream *up, const joust_digest *digest, joust_buf *to,
                              joust_error *err)
{
    joust_buf_clear(to);
    blob_get get = {.digest = *digest, .to = to};
    mover m = {.up = up,
               .context = &get,
               .answer = JOUST_MSG_CHUNK,
               .next = blob_next,
               .ask = get_ask,
               .take = blob_take};
    return move_all(&m, err);
}

typedef struct dir_get {
    walk walk;
    const char *dir;
    bool *there; /* (n_files) which files are there already */
} dir_get;

/* Takes a file from a folder that has it. */
static bool take_near(const joust_manifest_file *file, const char *near, const char *part)
{
    joust_error ignored;
    char *from = joust_path_join(near, file->name), *to = joust_path_join(part, file->name);
    const bool taken = from && to && joust_file_exists(from) &&
                       joust_manifest_check_file(near, file, &ignored) == JOUST_OK &&
                       link(from, to) == 0;
    joust_free(from);
    joust_free(to);
    return taken;
}

static joust_status dir_next(void *context, piece *ret, joust_error *err)
{
    (void)err;
    dir_get *g = context;
    joust_status st;
    do
        st = walk_next(&g->walk, ret);
    while (st == JOUST_OK && g->there[ret->file - g->walk.manifest->files]);
    return st;
}

static joust_status dir_take(void *context, const piece *p, const joust_message *m,
                             joust_error *err)
{
    dir_get *g = context;
    joust_status st = check_there(&m->u.chunk, err);
    if (st != JOUST_OK)
        return joust_blame(err, st, "%s", p->file->name);
    /* compares the bytes with the digest that was asked for */
    return joust_manifest_write_chunk(g->dir, p->file, p->chunk, m->u.chunk.data, m->u.chunk.n,
                                      err);
}

static joust_status fetch_files(const joust_upstream *up, const joust_manifest *manifest,
                                const char *part, const char *dir, const char *const *near,
                                uint32_t n_near, joust_error *err)
{
    joust_status st = joust_dir_make(part, err);
    if (st != JOUST_OK)
        return st;
    dir_get get = {.walk = {.manifest = manifest},
                   .dir = part,
                   .there = joust_calloc(manifest->n_files, sizeof(*get.there))};
    if (!get.there)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", part);
    for (uint32_t i = 0; i < manifest->n_files; i++)
        for (uint32_t k = 0; k < n_near && !get.there[i]; k++)
            get.there[i] = take_near(&manifest->files[i], near[k], part);
    mover m = {.up = up,
               .context = &get,
               .answer = JOUST_MSG_CHUNK,
               .next = dir_next,
               .ask = get_ask,
               .take = dir_take};
    st = move_all(&m, err);
    joust_free(get.there);
    if (st == JOUST_OK)
        st = joust_manifest_publish(part, manifest, dir, err);
    return st;
}

static joust_status fetch_manifest(const joust_upstream *up, const joust_digest *digest,
                                   joust_manifest *ret, joust_error *err)
{
    char hex[JOUST_DIGEST_HEX];
    joust_buf bytes = {0};
    joust_status st = joust_fetch_blob(up, digest, &bytes, err);
    if (st == JOUST_OK)
        st = joust_manifest_decode(bytes.data, bytes.n, ret, err);
    joust_buf_fini(&bytes);
    if (st != JOUST_OK)
        return joust_blame(err, st, "manifest %s", joust_digest_hex(digest, hex));
    st = joust_manifest_validate(ret, err);
    if (st != JOUST_OK)
        joust_manifest_fini(ret);
    return st;
}

joust_status joust_fetch_dir(const joust_upstream *up, const joust_digest *digest, const char *part,
                             const char *dir, const char *const *near, uint32_t n_near,
                             uint64_t *ret_bytes, joust_error *err)
{
    joust_manifest manifest = {0};
    joust_status st = fetch_manifest(up, digest, &manifest, err);
    if (st != JOUST_OK)
        return st;
    uint64_t n_bytes = joust_manifest_bytes(&manifest);
    st = fetch_files(up, &manifest, part, dir, near, n_near, err);
    joust_manifest_fini(&manifest);
    if (st == JOUST_OK)
        *ret_bytes = n_bytes;
    return st;
}

/* ---- uploading ------------------------------------------------------------------------------ */

/* The chunks that the coordinator lacks, and the walk along them. */
typedef struct dir_put {
    const char *dir;
    piece *missing;
    size_t n, capacity, at;
} dir_put;

static joust_status add_missing(dir_put *put, const piece *p, joust_error *err)
{
    if (!joust_grow(&put->missing, put->n, &put->capacity, sizeof(*put->missing)))
        return joust_fail(err, JOUST_NOMEM, "upload: out of memory");
    put->missing[put->n++] = *p;
    return JOUST_OK;
}

static bool contains(const joust_msg_digests *set, const joust_digest *digest)
{
    for (uint32_t i = 0; i < set->n; i++)
        if (joust_digest_equal(&set->digests[i], digest))
            return true;
    return false;
}

/* A digest of nothing that is stored. Asked about together with the chunks of query `serial`, it is
 * surely missing, and so marks the answer as that query's and no late one of another. */
static joust_digest query_marker(uint64_t serial)
{
    joust_hasher h;
    joust_hasher_init(&h);
    joust_hasher_field(&h, "chunk query", 11);
    joust_hasher_u64(&h, serial);
    return joust_hasher_end(&h);
}

static joust_status send_query(const joust_upstream *up, const piece *pieces, uint32_t n,
                               const joust_digest *marker, joust_error *err)
{
    joust_digest *digests = joust_calloc((size_t)n + 1, sizeof(*digests));
    if (!digests)
        return joust_fail(err, JOUST_NOMEM, "query: out of memory");
    for (uint32_t i = 0; i < n; i++)
        digests[i] = pieces[i].digest;
    digests[n] = *marker;
    joust_message request = {.type = JOUST_MSG_CHUNK_QUERY, .u.digests = {n + 1, digests}};
    joust_status st = up->send(up->context, &request, err);
    joust_message_fini(&request);
    return st;
}

static joust_status query(const joust_upstream *up, const piece *pieces, uint32_t n,
                          uint64_t serial, joust_message *ret, joust_error *err)
{
    joust_digest marker = query_marker(serial);
    joust_status st = send_query(up, pieces, n, &marker, err);
    while (st == JOUST_OK) {
        joust_message answer = {0};
        st = up->receive(up->context, &answer, err);
        if (st == JOUST_AGAIN) {
            st = send_query(up, pieces, n, &marker, err);
        } else if (st == JOUST_OK && answer.type == JOUST_MSG_CHUNK_MISSING &&
                   contains(&answer.u.digests, &marker)) {
            *ret = answer;
            return JOUST_OK;
        } else {
            joust_message_fini(&answer);
        }
    }
    return st;
}

static joust_status find_missing(const joust_upstream *up, const joust_manifest *manifest,
                                 dir_put *put, joust_error *err)
{
    enum { BATCH = 256 };
    walk w = {.manifest = manifest};
    piece pieces[BATCH];
    for (uint64_t serial = 0;; serial++) {
        uint32_t n = 0;
        while (n < BATCH && walk_next(&w, &pieces[n]) == JOUST_OK)
            n++;
        if (n == 0)
            return JOUST_OK;
        joust_message answer = {0};
        joust_status st = query(up, pieces, n, serial, &answer, err);
        for (uint32_t i = 0; i < n && st == JOUST_OK; i++)
            if (contains(&answer.u.digests, &pieces[i].digest))
                st = add_missing(put, &pieces[i], err);
        joust_message_fini(&answer);
        if (st != JOUST_OK)
            return st;
    }
}

static joust_status put_next(void *context, piece *ret, joust_error *err)
{
    (void)err;
    dir_put *put = context;
    if (put->at == put->n)
        return JOUST_END;
    *ret = put->missing[put->at++];
    return JOUST_OK;
}

static joust_status chunk_message(const joust_digest *digest, joust_buf *bytes, joust_message *ret,
                                  joust_error *err)
{
    size_t n = 0;
    uint8_t *data = joust_buf_take(bytes, &n);
    if (!data)
        return joust_fail(err, JOUST_NOMEM, "chunk: out of memory");
    ret->type = JOUST_MSG_CHUNK_PUT;
    ret->u.chunk = (joust_msg_chunk){*digest, (uint32_t)n, data};
    return JOUST_OK;
}

static joust_status put_ask(void *context, const piece *p, joust_message *ret, joust_error *err)
{
    dir_put *put = context;
    joust_buf bytes = {0};
    joust_status st = joust_manifest_read_chunk(put->dir, p->file, p->chunk, &bytes, err);
    if (st == JOUST_OK)
        st = chunk_message(&p->digest, &bytes, ret, err);
    joust_buf_fini(&bytes);
    return st;
}

static joust_status put_take(void *context, const piece *p, const joust_message *m,
                             joust_error *err)
{
    (void)context;
    (void)p;
    (void)m;
    (void)err;
    return JOUST_OK;
}

static joust_status put_chunks(const joust_upstream *up, const char *dir,
                               const joust_manifest *manifest, joust_error *err)
{
    dir_put put = {.dir = dir};
    joust_status st = find_missing(up, manifest, &put, err);
    if (st == JOUST_OK) {
        mover m = {.up = up,
                   .context = &put,
                   .answer = JOUST_MSG_CHUNK_ACK,
                   .next = put_next,
                   .ask = put_ask,
                   .take = put_take};
        st = move_all(&m, err);
    }
    joust_free(put.missing);
    return st;
}

typedef struct blob_put {
    joust_digest digest;
    joust_span bytes;
    bool asked;
} blob_put;

static joust_status blob_put_next(void *context, piece *ret, joust_error *err)
{
    (void)err;
    blob_put *put = context;
    if (put->asked)
        return JOUST_END;
    put->asked = true;
    *ret = (piece){.digest = put->digest};
    return JOUST_OK;
}

static joust_status blob_put_ask(void *context, const piece *p, joust_message *ret,
                                 joust_error *err)
{
    blob_put *put = context;
    joust_buf bytes = {0};
    joust_buf_add(&bytes, put->bytes.data, put->bytes.n);
    joust_status st = chunk_message(&p->digest, &bytes, ret, err);
    joust_buf_fini(&bytes);
    return st;
}

static joust_status put_manifest(const joust_upstream *up, const joust_manifest *manifest,
                                 joust_digest *ret, joust_error *err)
{
    joust_buf bytes = {0};
    joust_status st = joust_manifest_encode(manifest, &bytes, err);
    if (st == JOUST_OK) {
        blob_put put = {.digest = joust_digest_of(bytes.data, bytes.n),
                        .bytes = {bytes.data, bytes.n}};
        mover m = {.up = up,
                   .context = &put,
                   .answer = JOUST_MSG_CHUNK_ACK,
                   .next = blob_put_next,
                   .ask = blob_put_ask,
                   .take = put_take};
        st = move_all(&m, err);
        if (st == JOUST_OK)
            *ret = put.digest;
    }
    joust_buf_fini(&bytes);
    return st;
}

joust_status joust_upload_dir(const joust_upstream *up, const char *dir, joust_digest *ret_manifest,
                              joust_error *err)
{
    joust_manifest manifest = {0};
    joust_status st = joust_manifest_of_dir(dir, NULL, NULL, &manifest, err);
    if (st == JOUST_OK)
        st = put_chunks(up, dir, &manifest, err);
    if (st == JOUST_OK)
        st = put_manifest(up, &manifest, ret_manifest, err);
    joust_manifest_fini(&manifest);
    return st;
}
