#include "check.h"

#include <string.h>

#include "proto/base/alloc.h"
#include "proto/codec.h"
#include "proto/manifest.h"
#include "worker/fake_upstream.h"

static const struct fake_blob *find(const fake_upstream *f, const joust_digest *digest)
{
    for (uint32_t i = 0; i < f->n_blobs; i++)
        if (joust_digest_equal(&f->blobs[i].digest, digest))
            return &f->blobs[i];
    return NULL;
}

static void add_blob(fake_upstream *f, const void *data, uint32_t n)
{
    joust_digest digest = joust_digest_of(data, n);
    if (find(f, &digest))
        return;
    assert_true(f->n_blobs < FAKE_MAX_BLOBS);
    f->blobs[f->n_blobs++] = (struct fake_blob){digest, joust_memdup(data, n), n};
}

static joust_message *answer(fake_upstream *f, joust_message_type type)
{
    assert_true(f->n_answers < FAKE_MAX_ANSWERS);
    joust_message *m = &f->answers[f->n_answers++];
    *m = (joust_message){.type = type};
    return m;
}

static void answer_chunk(fake_upstream *f, const joust_digest *digest)
{
    const struct fake_blob *b = find(f, digest);
    joust_message *m = answer(f, JOUST_MSG_CHUNK);
    m->u.chunk.digest = *digest;
    if (!b)
        return;
    m->u.chunk.data = joust_memdup(b->data, b->n);
    m->u.chunk.n = b->n;
    if (f->corrupt)
        m->u.chunk.data[0] ^= 1;
}

static void answer_missing(fake_upstream *f, const joust_msg_digests *asked)
{
    joust_message *m = answer(f, JOUST_MSG_CHUNK_MISSING);
    m->u.digests.digests = joust_calloc(asked->n, sizeof(joust_digest));
    for (uint32_t i = 0; i < asked->n; i++)
        if (!find(f, &asked->digests[i]))
            m->u.digests.digests[m->u.digests.n++] = asked->digests[i];
}

static void answer_put(fake_upstream *f, const joust_msg_chunk *chunk)
{
    joust_digest is = joust_digest_of(chunk->data, chunk->n);
    assert_true(joust_digest_equal(&is, &chunk->digest));
    add_blob(f, chunk->data, chunk->n);
    f->n_puts++;
    joust_message *m = answer(f, JOUST_MSG_CHUNK_ACK);
    m->u.digests.digests = joust_memdup(&chunk->digest, sizeof(chunk->digest));
    m->u.digests.n = 1;
}

/* Row i: pass i / n goes through the pairs from pair (pass mod n) on, round and round. */
static joust_train_row_pair row(const fake_upstream *f, uint64_t i)
{
    uint64_t ordinal = (i % f->n_pairs + i / f->n_pairs) % f->n_pairs;
    const joust_train_row_pair *p = &f->pairs[ordinal];
    joust_train_row_pair r = *p;
    r.ordinal = f->first_ordinal + ordinal * (f->ordinal_step ? f->ordinal_step : 1);
    r.prompt_tokens = joust_memdup(p->prompt_tokens, p->n_prompt_tokens * sizeof(uint32_t));
    r.chosen = joust_memdup(p->chosen, p->n_chosen * sizeof(uint32_t));
    r.rejected = joust_memdup(p->rejected, p->n_rejected * sizeof(uint32_t));
    r.chosen_logps = joust_memdup(p->chosen_logps, p->n_chosen * sizeof(float));
    r.rejected_logps = joust_memdup(p->rejected_logps, p->n_rejected * sizeof(float));
    return r;
}

static void answer_rows(fake_upstream *f, const joust_msg_rows_get *get)
{
    joust_message *m = answer(f, JOUST_MSG_ROWS);
    uint32_t n = f->rows_at_most && f->rows_at_most < get->n ? f->rows_at_most : get->n;
    m->u.rows = (joust_msg_rows){.id = get->id, .first = get->first, .n = n};
    m->u.rows.rows = joust_calloc(n, sizeof(*m->u.rows.rows));
    for (uint32_t i = 0; i < n; i++)
        m->u.rows.rows[i] = row(f, get->first + i);
}

void fake_upstream_add_steps(fake_upstream *f, const joust_train_step *steps, uint32_t n)
{
    joust_error err;
    for (uint32_t i = 0; i < n; i++) {
        joust_buf bytes = {0};
        check_ok(joust_train_step_encode(&steps[i], &bytes, &err));
        assert_true(steps[i].step < FAKE_MAX_STEPS);
        f->steps[steps[i].step] = joust_digest_of(bytes.data, bytes.n);
        if (steps[i].step + 1 > f->n_steps)
            f->n_steps = steps[i].step + 1;
        joust_buf_fini(&bytes);
    }
}

static void answer_progress(fake_upstream *f, const joust_msg_train_progress *p)
{
    assert_non_null(find(f, &p->state));
    f->step = p->step;
    f->state = p->state;
    fake_upstream_add_steps(f, p->steps, p->n_steps);
    joust_message *m = answer(f, JOUST_MSG_PROGRESS_ACK);
    m->u.progress_ack = (joust_msg_progress_ack){.id = p->id, .step = p->step};
}

static joust_status send(void *context, joust_message *m, joust_error *err)
{
    fake_upstream *f = context;
    (void)err;
    f->n_requests++;
    if (f->lose_every && f->n_requests % f->lose_every == 0) {
        f->n_lost++;
        f->n_lost_pending++;
    } else if (m->type == JOUST_MSG_CHUNK_GET) {
        answer_chunk(f, &m->u.digests.digests[0]);
    } else if (m->type == JOUST_MSG_CHUNK_QUERY) {
        answer_missing(f, &m->u.digests);
    } else if (m->type == JOUST_MSG_CHUNK_PUT) {
        answer_put(f, &m->u.chunk);
    } else if (m->type == JOUST_MSG_ROWS_GET) {
        answer_rows(f, &m->u.rows_get);
    } else if (m->type == JOUST_MSG_TRAIN_PROGRESS) {
        answer_progress(f, &m->u.progress);
    } else {
        fail_msg("unexpected %s", joust_message_name(m->type));
    }
    joust_message_fini(m);
    return JOUST_OK;
}

static joust_status receive(void *context, joust_message *ret, joust_error *err)
{
    fake_upstream *f = context;
    if (f->n_answers == 0 && f->n_lost_pending > 0) {
        f->n_lost_pending = 0;
        return joust_fail(err, JOUST_AGAIN, "lost");
    }
    if (f->n_answers == 0)
        fail_msg("waits for an answer that nobody owes");
    *ret = f->answers[0];
    f->n_answers--;
    memmove(f->answers, f->answers + 1, f->n_answers * sizeof(*f->answers));
    return JOUST_OK;
}

static joust_status check(void *context, uint64_t done, joust_error *err)
{
    fake_upstream *f = context;
    (void)done;
    if (++f->n_checks > f->interrupt_after && f->interrupt_after)
        return joust_fail(err, JOUST_INTERRUPTED, "stopped by the test");
    return JOUST_OK;
}

void fake_upstream_init(fake_upstream *f)
{
    memset(f, 0, sizeof(*f));
    f->up = (joust_upstream){f, send, receive, check};
}

void fake_upstream_fini(fake_upstream *f)
{
    for (uint32_t i = 0; i < f->n_blobs; i++)
        joust_free(f->blobs[i].data);
    for (uint32_t i = 0; i < f->n_answers; i++)
        joust_message_fini(&f->answers[i]);
    memset(f, 0, sizeof(*f));
}

joust_digest fake_upstream_import(fake_upstream *f, const char *dir)
{
    joust_error err;
    joust_manifest m = {0};
    joust_buf bytes = {0};
    check_ok(joust_manifest_of_dir(dir, NULL, NULL, &m, &err));
    for (uint32_t i = 0; i < m.n_files; i++)
        for (uint32_t k = 0; k < m.files[i].n_chunks; k++) {
            check_ok(joust_manifest_read_chunk(dir, &m.files[i], k, &bytes, &err));
            add_blob(f, bytes.data, (uint32_t)bytes.n);
        }
    joust_buf_clear(&bytes);
    check_ok(joust_manifest_encode(&m, &bytes, &err));
    add_blob(f, bytes.data, (uint32_t)bytes.n);
    joust_digest digest = joust_digest_of(bytes.data, bytes.n);
    joust_buf_fini(&bytes);
    joust_manifest_fini(&m);
    return digest;
}
