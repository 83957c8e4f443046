/* The durable half of the core as bytes: events of the log and snapshots. All numbers big-endian; texts are a 16-bit
 * length and bytes.
 *
 * Event:    kind (1), then STARTED epoch (8) | CLASS text | UNIT_DONE unit (16), pairs (8), promoted (1)
 *           | PROGRESS unit (16), step (4), manifest (32) | JOB_FAILED text
 * Snapshot: "JSC1", stages (4), lineages (4), epoch (8), events (8), pairs (8), round (4), over (1: all rounds were,
 *           so no stage follows), class text, failure text,
 *           per lineage: start (8), best (8), best's round (4), has best (1)
 *           per stage that runs: flags (1), pairs (8), version (8), resume step (4), resume (32), units (8), bitmap of
 *           done units, unit 0 in the lowest bit of the first byte */
#include <string.h>

#include "coordinator/core_internal.h"
#include "proto/base/alloc.h"

#define MAGIC 0x4a534331u

enum { FLAG_RUNS = 1, FLAG_OPEN = 2, FLAG_COMPLETE = 4, FLAG_SKIPPED = 8 };

static void put_text(joust_buf *to, const char *text)
{
    size_t n = strlen(text);
    joust_buf_be16(to, (uint16_t)n);
    joust_buf_add(to, text, n);
}

/* into: n bytes of room, always ended by NUL. */
static void get_text(joust_reader *r, char *into, size_t n)
{
    size_t length = joust_read_be16(r);
    const uint8_t *text = length < n ? joust_read_bytes(r, length) : NULL;
    memset(into, 0, n);
    if (text)
        memcpy(into, text, length);
    else
        r->failed = r->failed || length > 0;
}

static void put_digest(joust_buf *to, const joust_digest *digest)
{
    joust_buf_add(to, digest->bytes, sizeof digest->bytes);
}

static void get_digest(joust_reader *r, joust_digest *ret)
{
    const uint8_t *bytes = joust_read_bytes(r, sizeof ret->bytes);
    if (bytes)
        memcpy(ret->bytes, bytes, sizeof ret->bytes);
}

static void put_unit(joust_buf *to, const joust_unit_key *unit)
{
    joust_buf_be32(to, unit->round);
    joust_buf_be32(to, unit->stage);
    joust_buf_be64(to, unit->position);
}

static joust_unit_key get_unit(joust_reader *r)
{
    joust_unit_key unit = {.round = joust_read_be32(r)};
    unit.stage = joust_read_be32(r);
    unit.position = joust_read_be64(r);
    return unit;
}

void joust_fold_encode(const joust_fold *fold, joust_buf *to)
{
    joust_buf_u8(to, (uint8_t)fold->kind);
    switch (fold->kind) {
    case JOUST_FOLD_STARTED:
        joust_buf_be64(to, fold->epoch);
        break;
    case JOUST_FOLD_CLASS:
    case JOUST_FOLD_JOB_FAILED:
        put_text(to, fold->text);
        break;
    case JOUST_FOLD_UNIT_DONE:
        put_unit(to, &fold->unit);
        joust_buf_be64(to, fold->n_pairs);
        joust_buf_u8(to, fold->promoted);
        break;
    case JOUST_FOLD_PROGRESS:
        put_unit(to, &fold->unit);
        joust_buf_be32(to, fold->step);
        put_digest(to, &fold->digest);
        break;
    }
}

joust_status joust_fold_decode(const void *data, size_t n, joust_fold *ret, joust_error *err)
{
    joust_reader r = joust_reader_over(data, n);
    joust_fold fold = {.kind = (joust_fold_kind)joust_read_u8(&r)};
    switch (fold.kind) {
    case JOUST_FOLD_STARTED:
        fold.epoch = joust_read_be64(&r);
        break;
    case JOUST_FOLD_CLASS:
    case JOUST_FOLD_JOB_FAILED:
        get_text(&r, fold.text, sizeof fold.text);
        break;
    case JOUST_FOLD_UNIT_DONE:
        fold.unit = get_unit(&r);
        fold.n_pairs = joust_read_be64(&r);
        fold.promoted = joust_read_u8(&r) != 0;
        break;
    case JOUST_FOLD_PROGRESS:
        fold.unit = get_unit(&r);
        fold.step = joust_read_be32(&r);
        get_digest(&r, &fold.digest);
        break;
    default:
        return joust_fail(err, JOUST_CORRUPT, "event of unknown kind %u", (unsigned)fold.kind);
    }
    if (r.failed || joust_read_left(&r))
        return joust_fail(err, JOUST_CORRUPT, "event of kind %u has %zu bytes, which don't fit it",
                          (unsigned)fold.kind, n);
    *ret = fold;
    return JOUST_OK;
}

joust_status joust_core_replay(joust_core *core, const void *event, size_t n, joust_error *err)
{
    joust_fold fold;
    joust_status st = joust_fold_decode(event, n, &fold, err);
    return st == JOUST_OK ? joust_core_fold(core, &fold, NULL, err) : st;
}

static void encode_run(const joust_stage_run *run, joust_buf *to)
{
    unsigned flags = (run->runs ? FLAG_RUNS : 0u) | (run->open ? FLAG_OPEN : 0u) |
                     (run->complete ? FLAG_COMPLETE : 0u) | (run->skipped ? FLAG_SKIPPED : 0u);
    joust_buf_u8(to, (uint8_t)flags);
    if (!run->runs)
        return;
    joust_buf_be64(to, run->n_pairs);
    joust_buf_be64(to, run->version);
    joust_buf_be32(to, run->resume_step);
    put_digest(to, &run->resume);
    joust_buf_be64(to, run->n);
    for (uint64_t i = 0; i < run->n; i += 8) {
        unsigned byte = 0;
        for (uint64_t j = i; j < i + 8 && j < run->n; j++)
            byte |= (run->units[j].state == JOUST_UNIT_DONE ? 1u : 0u) << (j - i);
        joust_buf_u8(to, (uint8_t)byte);
    }
}

static bool is_over(const joust_core *core)
{
    return core->round > core->job->rounds;
}

joust_status joust_core_encode(const joust_core *core, joust_buf *to, joust_error *err)
{
    joust_buf_be32(to, MAGIC);
    joust_buf_be32(to, core->plan->n_stages);
    joust_buf_be32(to, core->job->n_models);
    joust_buf_be64(to, core->epoch);
    joust_buf_be64(to, core->n_events);
    joust_buf_be64(to, core->n_pairs);
    joust_buf_be32(to, core->round);
    joust_buf_u8(to, is_over(core));
    put_text(to, core->numeric_class);
    put_text(to, core->failure);
    for (uint32_t i = 0; i < core->job->n_models; i++) {
        joust_buf_be64(to, core->lineages[i].start);
        joust_buf_be64(to, core->lineages[i].best);
        joust_buf_be32(to, core->lineages[i].best_round);
        joust_buf_u8(to, core->lineages[i].has_best);
    }
    for (uint32_t i = 0; i < core->plan->n_stages && !is_over(core); i++)
        encode_run(&core->runs[i], to);
    return joust_buf_status(to, err);
}

/* Reads a stage's part; units that were done are DONE, all others WAITING. */
static joust_status decode_run(joust_core *core, uint32_t stage, joust_reader *r, joust_error *err)
{
    joust_stage_run *run = &core->runs[stage];
    unsigned flags = joust_read_u8(r);
    if (((flags & FLAG_RUNS) != 0) != run->runs)
        return joust_fail(err, JOUST_CORRUPT,
                          "snapshot: stage %s of round %u %s, but not by this job's plan",
                          core->plan->stages[stage].name, core->round,
                          flags & FLAG_RUNS ? "runs" : "doesn't run");
    if (!run->runs)
        return JOUST_OK;
    run->open = (flags & FLAG_OPEN) != 0;
    run->complete = (flags & FLAG_COMPLETE) != 0;
    run->skipped = (flags & FLAG_SKIPPED) != 0;
    run->n_pairs = joust_read_be64(r);
    run->version = joust_read_be64(r);
    run->resume_step = joust_read_be32(r);
    get_digest(r, &run->resume);
    uint64_t n = joust_read_be64(r);
    const uint8_t *bits = n == run->n ? joust_read_bytes(r, (size_t)((n + 7) / 8)) : NULL;
    if (!bits)
        return joust_fail(
            err, JOUST_CORRUPT, "snapshot: stage %s has %llu units, the job gives %llu",
            core->plan->stages[stage].name, (unsigned long long)n, (unsigned long long)run->n);
    for (uint64_t i = 0; i < n; i++) {
        if (bits[i / 8] >> (i % 8) & 1) {
            run->units[i].state = JOUST_UNIT_DONE;
            run->n_done++;
        }
    }
    return JOUST_OK;
}

static joust_status decode_head(joust_core *core, joust_reader *r, bool *ret_over, joust_error *err)
{
    uint32_t magic = joust_read_be32(r), n_stages = joust_read_be32(r),
             n_models = joust_read_be32(r);
    if (magic != MAGIC || n_stages != core->plan->n_stages || n_models != core->job->n_models)
        return joust_fail(err, JOUST_CORRUPT,
                          "snapshot: not of this job, or damaged (%u stages and %u models in it, "
                          "%u and %u in the job)",
                          n_stages, n_models, core->plan->n_stages, core->job->n_models);
    core->epoch = joust_read_be64(r);
    core->n_events = joust_read_be64(r);
    core->n_pairs = joust_read_be64(r);
    core->round = joust_read_be32(r);
    *ret_over = joust_read_u8(r) != 0;
    get_text(r, core->numeric_class, sizeof core->numeric_class);
    get_text(r, core->failure, sizeof core->failure);
    for (uint32_t i = 0; i < core->job->n_models; i++) {
        core->lineages[i].start = joust_read_be64(r);
        core->lineages[i].best = joust_read_be64(r);
        core->lineages[i].best_round = joust_read_be32(r);
        core->lineages[i].has_best = joust_read_u8(r) != 0;
    }
    if (r->failed)
        return joust_fail(err, JOUST_CORRUPT, "snapshot: cut short in its head");
    return JOUST_OK;
}

joust_status joust_core_decode(joust_core *core, const void *data, size_t n, joust_error *err)
{
    joust_reader r = joust_reader_over(data, n);
    bool over = false;
    joust_status st = decode_head(core, &r, &over, err);
    if (st != JOUST_OK)
        return st;
    if (over && !joust_read_left(&r))
        return joust_core_begin_round(core, NULL, err); /* the job may have grown since */
    if (over || is_over(core))
        return joust_fail(err, JOUST_CORRUPT, "snapshot: in round %u of a job of %u rounds",
                          core->round, core->job->rounds);
    st = joust_core_make_runs(core, err);
    for (uint32_t i = 0; st == JOUST_OK && i < core->plan->n_stages; i++)
        st = decode_run(core, i, &r, err);
    if (st != JOUST_OK)
        return st;
    if (r.failed || joust_read_left(&r))
        return joust_fail(err, JOUST_CORRUPT, "snapshot: cut short or followed by %zu bytes",
                          joust_read_left(&r));
    for (uint32_t i = 0; i < core->plan->n_stages; i++) {
        if (core->runs[i].open && !core->runs[i].skipped)
            joust_core_open_units(core, i);
    }
    return JOUST_OK;
}
