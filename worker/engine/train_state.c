/* The whole state of a trainer as one file; numbers big-endian, floats little-endian:
 *    0  "JOUSTTRN"
 *    8  version, u32
 *   12  steps done, u32
 *   16  n_weights, u64
 *   24  digest of the shape (tensors' names and dimensions)
 *   56  digest of the settings
 *   88  weights, m, v, and the reference's weights where it moves: n_weights float32 each
 *  end  xxh3-64 of all before it */
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "trainer_internal.h"

#define MAGIC        "JOUSTTRN"
#define VERSION      1u
#define HEADER_BYTES 88u
#define END_BYTES    8u

static void hash_double(joust_hasher *h, double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof(bits));
    joust_hasher_u64(h, bits);
}

/* An adapter's scale is part of its shape. */
static joust_digest shape_digest(const joust_trainer *t)
{
    joust_hasher h;
    joust_hasher_init(&h);
    for (uint32_t i = 0; i < t->trained.n_tensors; i++) {
        const joust_tensor *tensor = &t->trained.tensors[i];
        joust_hasher_field(&h, tensor->name, strlen(tensor->name));
        joust_hasher_u64(&h, tensor->dims[0]);
        joust_hasher_u64(&h, tensor->dims[1]);
    }
    if (t->model->lora)
        hash_double(&h, (double)t->model->lora->scale);
    return joust_hasher_end(&h);
}

static void hash_objective(joust_hasher *h, const joust_train_settings *p)
{
    const joust_objective *o = &p->objective;
    const double numbers[] = {
        o->label_smoothing,    o->gamma,        o->ld_alpha,     o->desirable_weight,
        o->undesirable_weight, o->discopop_tau, o->reward_scale, o->reference_mixup};
    joust_hasher_u64(h, p->no_reference);
    joust_hasher_u64(h, o->reference_sync_steps);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        hash_double(h, numbers[i]);
    for (uint32_t i = 0; i < JOUST_N_LOSSES; i++)
        hash_double(h, o->mix[i]);
}

static void hash_policy(joust_hasher *h, const joust_policy_settings *p)
{
    const double numbers[] = {p->surrogate,      p->importance,  p->aggregation, p->epsilon_low,
                              p->epsilon_high,   p->max_ratio,   p->kl,          p->kl_weight,
                              p->entropy_weight, p->sampler_cap, p->max_tokens};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        hash_double(h, numbers[i]);
}

static joust_digest settings_digest(const joust_train_settings *p)
{
    const double numbers[] = {
        p->beta,       p->sft_weight, p->learning_rate, p->min_learning_rate_ratio,
        p->adam_beta1, p->adam_beta2, p->adam_eps,      p->weight_decay,
        p->clip};
    joust_hasher h;
    joust_hasher_init(&h);
    joust_hasher_u64(&h, p->loss);
    joust_hasher_u64(&h, p->schedule);
    joust_hasher_u64(&h, p->warmup_steps);
    joust_hasher_u64(&h, p->max_steps);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
        hash_double(&h, numbers[i]);
    if (p->no_reference || !joust_objective_is_neutral(&p->objective))
        hash_objective(&h, p);
    if (p->loss == JOUST_LOSS_POLICY)
        hash_policy(&h, &p->policy);
    return joust_hasher_end(&h);
}

/* What the file holds, n_weights floats each, in its order. */
typedef struct blocks {
    float *at[4];
    uint32_t n;
} blocks;

static blocks blocks_of(const joust_trainer *t)
{
    blocks b = {{t->trained.weights, t->m, t->v}, 3};
    if (t->params.objective.reference_sync_steps && t->reference)
        b.at[b.n++] = t->reference->weights;
    return b;
}

static uint64_t file_bytes(const joust_trainer *t)
{
    return HEADER_BYTES + blocks_of(t).n * t->trained.n * sizeof(float) + END_BYTES;
}

joust_status joust_trainer_save(const joust_trainer *t, const char *path, joust_error *err)
{
    const uint64_t n = file_bytes(t), n_block = t->trained.n * sizeof(float);
    uint8_t *file = joust_malloc(n);
    if (!file)
        return joust_fail(err, JOUST_NOMEM, "%s: no memory for a training state of %llu bytes",
                          path, (unsigned long long)n);
    const joust_digest shape = shape_digest(t), settings = settings_digest(&t->params);
    memcpy(file, MAGIC, 8);
    joust_put_be32(file + 8, VERSION);
    joust_put_be32(file + 12, t->n_steps);
    joust_put_be64(file + 16, t->trained.n);
    memcpy(file + 24, shape.bytes, JOUST_DIGEST_BYTES);
    memcpy(file + 56, settings.bytes, JOUST_DIGEST_BYTES);
    const blocks b = blocks_of(t);
    for (uint32_t i = 0; i < b.n; i++)
        memcpy(file + HEADER_BYTES + i * n_block, b.at[i], n_block);
    joust_put_be64(file + n - END_BYTES, joust_checksum(file, n - END_BYTES));
    joust_status st = joust_file_write(path, file, n, err);
    joust_free(file);
    return st;
}

static joust_status file_check(const joust_trainer *t, const char *path, const joust_buf *file,
                               joust_error *err)
{
    if (file->n < HEADER_BYTES + END_BYTES || memcmp(file->data, MAGIC, 8) != 0)
        return joust_fail(err, JOUST_CORRUPT, "%s: not a training state", path);
    if (joust_get_be32(file->data + 8) != VERSION)
        return joust_fail(err, JOUST_CONFLICT,
                          "%s: training state of version %u, this program reads %u", path,
                          joust_get_be32(file->data + 8), VERSION);
    if (joust_get_be64(file->data + file->n - END_BYTES) !=
        joust_checksum(file->data, file->n - END_BYTES))
        return joust_fail(err, JOUST_CORRUPT,
                          "%s: the checksum doesn't match: the file is damaged or cut off", path);
    const joust_digest shape = shape_digest(t), settings = settings_digest(&t->params);
    if (memcmp(file->data + 24, shape.bytes, JOUST_DIGEST_BYTES) != 0 || file->n != file_bytes(t))
        return joust_fail(err, JOUST_CONFLICT, "%s: training state of a model of another shape",
                          path);
    if (memcmp(file->data + 56, settings.bytes, JOUST_DIGEST_BYTES) != 0)
        return joust_fail(err, JOUST_CONFLICT, "%s: training state of other training settings",
                          path);
    return JOUST_OK;
}

joust_status joust_trainer_restore(joust_trainer *t, const char *path, joust_error *err)
{
    joust_buf file = {0};
    joust_status st = joust_file_read(path, file_bytes(t), &file, err);
    if (st == JOUST_TOO_LARGE)
        st =
            joust_fail(err, JOUST_CONFLICT, "%s: larger than a training state of this model", path);
    if (!st)
        st = file_check(t, path, &file, err);
    if (!st) {
        const uint64_t n_block = t->trained.n * sizeof(float);
        t->n_steps = joust_get_be32(file.data + 12);
        const blocks b = blocks_of(t);
        for (uint32_t i = 0; i < b.n; i++)
            memcpy(b.at[i], file.data + HEADER_BYTES + i * n_block, n_block);
        joust_model_trained_changed(t->model);
        if (t->reference)
            joust_model_changed(t->reference);
    }
    joust_buf_fini(&file);
    return st;
}
