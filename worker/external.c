#include "worker/external.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#include "proto/base/alloc.h"
#include "proto/base/clock.h"
#include "proto/base/file.h"
#include "proto/base/log.h"
#include "proto/base/text.h"
#include "worker/child.h"
#include "worker/engine/lora.h"
#include "worker/trainer_internal.h"

#define TURN_MS   20
#define END_MS    6000 /* for all of it to end, its guard included */
#define MAX_VARS  48u
#define ROWS      64u /* fetched at a time */
#define MAX_STEPS 10000000u

typedef struct run {
    const joust_training *t;
    const joust_lease_unit *unit;
    const joust_job_train *params;
    joust_unit_result *result;
    char *dir; /* all its files; absolute */
    char *base, *reference, *pairs, *output, *state, *resume, *log;
    joust_child *child;
    char *vars[MAX_VARS + 1];
    uint32_t n_vars;
    size_t steps_capacity;
    uint32_t n_told; /* steps so far, those of attempts before included */
    char last[256];  /* line that isn't a step */
} run;

static void run_fini(run *r)
{
    joust_child_free(&r->child, END_MS);
    for (uint32_t i = 0; i < r->n_vars; i++)
        joust_free(r->vars[i]);
    char *const texts[] = {r->dir,    r->base,  r->reference, r->pairs,
                           r->output, r->state, r->resume,    r->log};
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++)
        joust_free(texts[i]);
}

/* ---- what it gets: files ---- */

static joust_status join(run *r, const char *name, char **ret, joust_error *err)
{
    *ret = joust_path_join(r->dir, name);
    return *ret ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "train: out of memory");
}

/* The folder of a version under that name. */
static joust_status give_folder(run *r, const joust_digest *manifest, const char *name, char **ret,
                                joust_error *err)
{
    const char *dir = NULL;
    joust_status st = joust_cache_fetch(r->t->cache, r->t->up, manifest, &dir, err);
    if (st == JOUST_OK)
        st = join(r, name, ret, err);
    return st == JOUST_OK ? joust_dir_link(dir, *ret, err) : st;
}

static void add_text(const char *name, const char *text, size_t n, joust_buf *to)
{
    joust_buf_format(to, "\"%s\":", name);
    joust_json_string(to, text ? text : "", n);
    joust_buf_text(to, ",");
}

/* Whether the text reads as these ids. */
static bool reads_as(const joust_tokenizer *t, const joust_buf *text, const uint32_t *ids,
                     uint32_t n)
{
    joust_tokens again = {0};
    joust_error ignored;
    const bool same = joust_tokenizer_encode(t, text->n ? (const char *)text->data : "", text->n,
                                             true, &again, &ignored) == JOUST_OK &&
                      again.n == n && memcmp(again.ids, ids, n * sizeof(*ids)) == 0;
    joust_tokens_fini(&again);
    return same;
}

/* Special tokens, and each run of others between them, decoded by itself: a tokenizer that puts a blank before each run
 * takes it away at the start of a text alone. */
static joust_status decode_runs(const joust_tokenizer *t, const uint32_t *ids, uint32_t n,
                                joust_buf *to, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0, first = 0; st == JOUST_OK && i <= n; i++) {
        joust_buf one = {0};
        if (i < n)
            st = joust_tokenizer_decode(t, ids + i, 1, true, &one, err);
        const bool special = i == n || one.n == 0;
        joust_buf_fini(&one);
        if (st == JOUST_OK && special && i > first)
            st = joust_tokenizer_decode(t, ids + first, i - first, false, to, err);
        if (st == JOUST_OK && special && i < n)
            st = joust_tokenizer_decode(t, ids + i, 1, false, to, err);
        first = special ? i + 1 : first;
    }
    return st;
}

/* The prompt keeps its special tokens as text, so that whoever encodes it again gets the same ids. */
static joust_status add_prompt(const joust_tokenizer *t, const joust_train_row_pair *p,
                               joust_buf *to, joust_error *err)
{
    joust_buf text = {0}, runs = {0};
    joust_status st =
        joust_tokenizer_decode(t, p->prompt_tokens, p->n_prompt_tokens, false, &text, err);
    bool same = st == JOUST_OK && reads_as(t, &text, p->prompt_tokens, p->n_prompt_tokens);
    if (st == JOUST_OK && !same)
        st = decode_runs(t, p->prompt_tokens, p->n_prompt_tokens, &runs, err);
    const bool better =
        st == JOUST_OK && !same && reads_as(t, &runs, p->prompt_tokens, p->n_prompt_tokens);
    add_text("prompt", (const char *)(better ? runs : text).data, (better ? runs : text).n, to);
    joust_buf_fini(&text);
    joust_buf_fini(&runs);
    return st;
}

/* The answer's text as it goes on behind the prompt, its first blank included. */
static joust_status add_answer(const joust_tokenizer *t, const joust_train_row_pair *p,
                               const char *name, const uint32_t *ids, uint32_t n, joust_buf *to,
                               joust_error *err)
{
    joust_buf before = {0}, whole = {0};
    const uint32_t n_prompt = p->n_prompt_tokens;
    uint32_t *both = joust_calloc((size_t)n_prompt + n, sizeof(*both));
    if (!both)
        return joust_fail(err, JOUST_NOMEM, "train: %u tokens", n_prompt + n);
    memcpy(both, p->prompt_tokens, n_prompt * sizeof(*both));
    if (n)
        memcpy(both + n_prompt, ids, n * sizeof(*both));
    joust_status st = joust_tokenizer_decode(t, both, n_prompt, true, &before, err);
    if (st == JOUST_OK)
        st = joust_tokenizer_decode(t, both, n_prompt + n, true, &whole, err);
    const bool goes_on = st == JOUST_OK && whole.n >= before.n &&
                         (before.n == 0 || memcmp(whole.data, before.data, before.n) == 0);
    if (st == JOUST_OK && !goes_on) { /* a character that the prompt's end cuts in two */
        joust_buf_clear(&whole);
        joust_buf_clear(&before);
        st = joust_tokenizer_decode(t, ids, n, true, &whole, err);
    }
    if (st == JOUST_OK)
        add_text(name, whole.n ? (const char *)whole.data + before.n : "", whole.n - before.n, to);
    joust_free(both);
    joust_buf_fini(&before);
    joust_buf_fini(&whole);
    return st;
}

static void add_ids(const char *name, const uint32_t *ids, uint32_t n, joust_buf *to)
{
    joust_buf_format(to, "\"%s\":[", name);
    for (uint32_t i = 0; i < n; i++)
        joust_buf_format(to, "%s%u", i ? "," : "", ids[i]);
    joust_buf_text(to, "],");
}

static joust_status add_pair(const joust_tokenizer *t, const joust_train_row_pair *p, joust_buf *to,
                             joust_error *err)
{
    joust_buf_text(to, "{");
    joust_status st = add_prompt(t, p, to, err);
    if (st == JOUST_OK)
        st = add_answer(t, p, "chosen", p->chosen, p->n_chosen, to, err);
    if (st == JOUST_OK)
        st = add_answer(t, p, "rejected", p->rejected, p->n_rejected, to, err);
    add_ids("prompt_tokens", p->prompt_tokens, p->n_prompt_tokens, to);
    add_ids("chosen_tokens", p->chosen, p->n_chosen, to);
    add_ids("rejected_tokens", p->rejected, p->n_rejected, to);
    joust_buf_text(to, "\"margin\":");
    joust_json_double(to, p->margin);
    joust_buf_text(to, "}\n");
    return st == JOUST_OK ? joust_buf_status(to, err) : st;
}

static joust_status write_pairs(run *r, const joust_tokenizer *tokenizer, joust_file_writer *to,
                                joust_error *err)
{
    joust_pair_feed *feed = NULL;
    joust_buf text = {0};
    uint64_t n = r->unit->n_rows;
    joust_status st = joust_pair_feed_open(r->t->up, r->unit, n, n, &feed, err);
    for (uint64_t first = 0; st == JOUST_OK && first < n; first += ROWS) {
        uint32_t some = n - first < ROWS ? (uint32_t)(n - first) : ROWS;
        st = joust_pair_feed_need(feed, first, some, err);
        joust_buf_clear(&text);
        for (uint32_t i = 0; st == JOUST_OK && i < some; i++)
            st = add_pair(tokenizer, joust_pair_feed_row(feed, first + i), &text, err);
        if (st == JOUST_OK)
            st = joust_file_writer_add(to, text.data, text.n, err);
    }
    joust_buf_fini(&text);
    joust_pair_feed_close(&feed);
    return st;
}

static joust_status give_pairs(run *r, joust_error *err)
{
    joust_tokenizer *tokenizer = NULL;
    joust_file_writer *to = NULL;
    if (r->unit->n_rows == 0)
        return joust_fail(err, JOUST_INVALID, "no pair to train on");
    joust_status st = join(r, "pairs.jsonl", &r->pairs, err);
    if (st == JOUST_OK)
        st = joust_tokenizer_load(r->base, &tokenizer, err);
    if (st == JOUST_OK)
        st = joust_file_writer_open(r->pairs, &to, err);
    if (st == JOUST_OK) {
        st = write_pairs(r, tokenizer, to, err);
        if (st == JOUST_OK)
            st = joust_file_writer_commit(&to, err);
        else
            joust_file_writer_abort(&to);
    }
    joust_tokenizer_free(&tokenizer);
    return st;
}

static joust_status give_data(run *r, joust_error *err)
{
    const char *slash = strrchr(r->params->data, '/');
    char *folder = NULL;
    joust_status st = give_folder(r, &r->unit->data, "data", &folder, err);
    if (st == JOUST_OK &&
        !(r->pairs = joust_path_join(folder, slash ? slash + 1 : r->params->data)))
        st = joust_fail(err, JOUST_NOMEM, "train: out of memory");
    joust_free(folder);
    return st;
}

static joust_status give_files(run *r, joust_error *err)
{
    joust_status st = give_folder(r, &r->unit->model.manifest, "base", &r->base, err);
    if (st == JOUST_OK && r->params->reference != JOUST_PICK_NONE && !r->params->data)
        st = give_folder(r, &r->unit->reference.manifest, "reference", &r->reference, err);
    if (st == JOUST_OK)
        st = r->params->data ? give_data(r, err) : give_pairs(r, err);
    if (st == JOUST_OK)
        st = join(r, "output", &r->output, err);
    if (st == JOUST_OK)
        st = joust_dir_make(r->output, err);
    if (st == JOUST_OK)
        st = join(r, "state", &r->state, err);
    if (st == JOUST_OK)
        st = joust_dir_make(r->state, err);
    if (st == JOUST_OK && r->unit->resume_step)
        st = give_folder(r, &r->unit->resume, "resume", &r->resume, err);
    r->n_told = r->unit->resume_step;
    return st;
}

/* ---- what it gets: variables ---- */

static void set_var(run *r, const char *name, const char *value)
{
    joust_buf text = {0};
    joust_buf_format(&text, "%s=", name);
    joust_buf_text(&text, value ? value : "");
    if (r->n_vars < MAX_VARS)
        r->vars[r->n_vars++] = joust_buf_take_text(&text); /* NULL: give_variables sees it */
    joust_buf_fini(&text);
}

static void set_number(run *r, const char *name, uint64_t value)
{
    char text[32];
    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    set_var(r, name, text);
}

static void set_real(run *r, const char *name, double value)
{
    char text[32];
    snprintf(text, sizeof(text), "%.17g", value);
    set_var(r, name, text);
}

static const char *schedule_name(joust_schedule schedule)
{
    switch (schedule) {
    case JOUST_SCHEDULE_CONSTANT:
        return "constant";
    case JOUST_SCHEDULE_LINEAR:
        return "linear";
    case JOUST_SCHEDULE_COSINE:
        return "cosine";
    }
    return "";
}

static void give_optimiser(run *r)
{
    const joust_job_train *p = r->params;
    set_real(r, "JOUST_LEARNING_RATE", p->learning_rate);
    set_real(r, "JOUST_MIN_LEARNING_RATE_RATIO", p->min_learning_rate_ratio);
    set_var(r, "JOUST_SCHEDULE", schedule_name(p->schedule));
    set_number(r, "JOUST_WARMUP_STEPS", p->warmup_steps);
    set_number(r, "JOUST_MAX_STEPS", p->max_steps);
    set_number(r, "JOUST_BATCH_SIZE", p->batch_size);
    set_real(r, "JOUST_WEIGHT_DECAY", p->weight_decay);
    set_real(r, "JOUST_CLIP", p->clip);
    set_real(r, "JOUST_ADAM_BETA1", p->adam_beta1);
    set_real(r, "JOUST_ADAM_BETA2", p->adam_beta2);
    set_real(r, "JOUST_ADAM_EPS", p->adam_eps);
    set_number(r, "JOUST_GRADIENT_CHECKPOINTING", p->has_recompute && p->recompute);
}

static void give_lora(run *r)
{
    const joust_lora_settings none = {0}, *lora = r->params->has_lora ? &r->params->lora : &none;
    joust_buf names = {0};
    for (uint32_t bit = 1; bit <= JOUST_LORA_DOWN; bit <<= 1)
        if (lora->targets & bit)
            joust_buf_format(&names, "%s%s", names.n ? "," : "", joust_lora_target_name(bit));
    char *text = joust_buf_take_text(&names);
    joust_buf_fini(&names);
    set_number(r, "JOUST_LORA_RANK", lora->rank);
    set_real(r, "JOUST_LORA_ALPHA", lora->alpha);
    if (text)
        set_var(r, "JOUST_LORA_TARGETS", text);
    else
        r->vars[r->n_vars++] = NULL; /* give_variables sees it */
    set_number(r, "JOUST_LORA_RSLORA", lora->rslora);
    joust_free(text);
}

static joust_status give_variables(run *r, joust_error *err)
{
    const joust_job_train *p = r->params;
    const joust_loss_traits *loss = joust_loss_traits_of(p->loss);
    uint16_t port = 0;
    char *gpus = NULL;
    joust_status st = joust_gpus_choose(p->external.gpus, 0, &gpus, err);
    if (st != JOUST_OK)
        return joust_blame(err, st, "train.gpus");
    if (!joust_port_find(0, &port)) {
        joust_free(gpus);
        return joust_fail(err, JOUST_IO, "train: no port is free");
    }
    if (gpus)
        r->vars[r->n_vars++] = gpus;
    set_var(r, "JOUST_BASE", r->base);
    set_var(r, "JOUST_REFERENCE", r->reference);
    set_var(r, "JOUST_PAIRS", p->data ? NULL : r->pairs);
    set_var(r, "JOUST_DATA", p->data ? r->pairs : NULL);
    set_number(r, "JOUST_N_PAIRS", p->data ? 0 : r->unit->n_rows);
    set_var(r, "JOUST_OUTPUT", r->output);
    set_var(r, "JOUST_STATE", r->state);
    set_var(r, "JOUST_RESUME", r->resume);
    set_number(r, "JOUST_ROUND", r->unit->unit.round);
    set_number(r, "JOUST_STAGE", r->unit->unit.stage);
    set_number(r, "JOUST_VERSION", r->unit->out_version);
    set_number(r, "JOUST_SEED", r->t->job->seed);
    set_var(r, "JOUST_LOSS", loss ? loss->name : "");
    set_real(r, "JOUST_BETA", p->beta);
    set_real(r, "JOUST_SFT_WEIGHT", p->sft_weight);
    set_real(r, "JOUST_LABEL_SMOOTHING", p->objective.label_smoothing);
    give_optimiser(r);
    give_lora(r);
    set_number(r, "JOUST_NODES", p->external.nodes);
    set_number(r, "JOUST_GPUS", p->external.gpus);
    set_var(r, "MASTER_ADDR", "127.0.0.1");
    set_number(r, "MASTER_PORT", port);
    for (uint32_t i = 0; i < r->n_vars; i++)
        if (!r->vars[i])
            return joust_fail(err, JOUST_NOMEM, "train: out of memory");
    return JOUST_OK;
}

/* ---- what it says ---- */

static joust_status add_step(run *r, const joust_train_step *given, joust_error *err)
{
    joust_unit_result *result = r->result;
    if (r->n_told >= MAX_STEPS)
        return joust_fail(err, JOUST_TOO_LARGE, "more than %u lines with a loss", MAX_STEPS);
    if (!joust_grow(&result->steps, result->n_steps, &r->steps_capacity, sizeof(*result->steps)))
        return joust_fail(err, JOUST_NOMEM, "train: more than %u steps", result->n_steps);
    joust_train_step *step = &result->steps[result->n_steps++];
    *step = *given;
    step->round = r->unit->unit.round;
    step->stage = r->unit->unit.stage;
    step->step = r->n_told++;
    joust_log_info("train", "step %u loss %.6g gradient_norm %.4g learning_rate %.4g accuracy %.4g",
                   step->step, step->loss, step->gradient_norm, step->learning_rate,
                   step->accuracy);
    return JOUST_OK;
}

static joust_status keep_checkpoint(run *r, const char *name, joust_error *err)
{
    joust_unit_result *result = r->result;
    char *dir = joust_path_join(r->state, name);
    joust_status st = dir ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "train: out of memory");
    if (st == JOUST_OK && !joust_dir_exists(dir))
        st = joust_fail(err, JOUST_INVALID,
                        "it says that %s is a checkpoint: there is no such folder", dir);
    if (st == JOUST_OK && r->n_told > r->unit->resume_step)
        st = joust_progress_publish(r->t, r->unit, dir, r->n_told, result->steps, result->n_steps,
                                    err);
    joust_free(dir);
    if (st != JOUST_OK)
        return st;
    for (uint32_t i = 0; i < result->n_steps; i++)
        joust_train_step_fini(&result->steps[i]);
    result->n_steps = 0;
    joust_log_info("train", "checkpoint %s is durable, after step %u", name, r->n_told);
    return JOUST_OK;
}

static joust_status take_line(run *r, const char *line, joust_error *err)
{
    joust_train_step step = {0};
    char name[128];
    switch (joust_trainer_line_read(line, &step, name)) {
    case JOUST_LINE_STEP:
        return add_step(r, &step, err);
    case JOUST_LINE_CHECKPOINT:
        return keep_checkpoint(r, name, err);
    case JOUST_LINE_NOT_FINITE:
        return joust_fail(err, JOUST_NOT_FINITE, "its loss isn't finite after step %u: %s",
                          r->n_told, line);
    case JOUST_LINE_BAD_NAME:
        return joust_fail(err, JOUST_INVALID, "a checkpoint's name is a word: %s", line);
    case JOUST_LINE_TEXT:
        if (*line)
            snprintf(r->last, sizeof(r->last), "%.250s", line);
        return JOUST_OK;
    }
    return JOUST_OK;
}

static joust_status take_lines(run *r, bool last, joust_error *err)
{
    joust_status st = JOUST_OK;
    const char *line;
    while (st == JOUST_OK && (line = joust_child_line(r->child, last)))
        st = take_line(r, line, err);
    return st;
}

/* ---- running ---- */

static joust_status start(run *r, joust_error *err)
{
    joust_child_options o = {.command = r->params->external.command,
                             .environment = (const char *const *)r->vars,
                             .log_path = r->log,
                             .program = r->t->program};
    joust_status st = joust_dir_make(r->t->logs, err);
    if (st == JOUST_OK)
        st = joust_child_start(&o, &r->child, err);
    if (st == JOUST_OK)
        joust_log_info("train", "round %u: train.command starts on %llu pairs%s; its output: %s",
                       r->unit->unit.round, (unsigned long long)r->unit->n_rows,
                       r->resume ? ", from its own checkpoint" : "", r->log);
    return st;
}

/* Until it ends. While it runs within its deadline its lease goes on. */
static joust_status watch(run *r, joust_error *err)
{
    const struct timespec turn = {.tv_nsec = TURN_MS * 1000000};
    int64_t end = joust_clock_ms() + r->params->external.deadline_ms;
    int status = 0;
    joust_status st = JOUST_OK;
    for (uint64_t n = 1; st == JOUST_OK; n++) {
        bool over = joust_child_ended(r->child, &status);
        st = take_lines(r, over, err);
        if (st != JOUST_OK || over)
            break;
        if (joust_clock_ms() >= end)
            st = joust_fail(err, JOUST_INVALID, "it hasn't ended after %.1f s (deadline_ms)",
                            (double)r->params->external.deadline_ms / 1000);
        if (st == JOUST_OK)
            st = r->t->up->check(r->t->up->context, n, err);
        nanosleep(&turn, NULL);
    }
    if (st == JOUST_OK && status)
        st = joust_fail(err, JOUST_INVALID, "it ended with status %d; its last words: %.200s",
                        status, r->last[0] ? r->last : "none");
    return st;
}

/* ---- its result ---- */

static joust_status same_shapes(const joust_model *made, const char *base, joust_error *err)
{
    joust_model_config was;
    const joust_model_config *is = joust_model_get_config(made);
    char *path = joust_path_join(base, "config.json");
    joust_status st = path ? joust_model_config_read(path, &was, err)
                           : joust_fail(err, JOUST_NOMEM, "train: out of memory");
    joust_free(path);
    if (st != JOUST_OK)
        return st;
    const struct {
        const char *name;
        uint32_t was, is;
    } sizes[] = {{"num_hidden_layers", was.n_layers, is->n_layers},
                 {"hidden_size", was.d_model, is->d_model},
                 {"num_attention_heads", was.n_heads, is->n_heads},
                 {"num_key_value_heads", was.n_kv_heads, is->n_kv_heads},
                 {"head_dim", was.d_head, is->d_head},
                 {"intermediate_size", was.d_ff, is->d_ff},
                 {"vocab_size", was.vocab_size, is->vocab_size},
                 {"tie_word_embeddings", was.tied, is->tied},
                 {"a scalar head", was.scalar_head, is->scalar_head}};
    if (was.family != is->family)
        return joust_fail(err, JOUST_INVALID, "its result is a %s, the base a %s", is->architecture,
                          was.architecture);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
        if (sizes[i].was != sizes[i].is)
            return joust_fail(err, JOUST_INVALID, "its result has %s %u, the base %u",
                              sizes[i].name, sizes[i].is, sizes[i].was);
    return JOUST_OK;
}

static joust_status take_result(run *r, joust_error *err)
{
    joust_model *model = NULL;
    joust_error why;
    joust_status st = joust_model_load(r->output, &model, &why);
    if (st == JOUST_NOMEM || st == JOUST_NOT_FINITE)
        return joust_fail(err, st, "%s", why.text);
    if (st != JOUST_OK) /* its fault, not the disk's */
        return joust_fail(err, JOUST_INVALID,
                          "it ended with status 0, but without a whole result: %.300s", why.text);
    st = same_shapes(model, r->base, err);
    if (st == JOUST_OK)
        st = joust_version_publish(r->t, r->unit, model, r->n_told, r->result, err);
    joust_model_free(&model);
    return st;
}

static joust_status prepare(run *r, joust_error *err)
{
    char file[192];
    joust_status st = joust_cache_scratch(r->t->cache, "external", &r->dir, err);
    snprintf(file, sizeof(file), "%.63s-train-%.63s.log", r->t->worker, r->unit->model.lineage);
    if (st == JOUST_OK)
        st = joust_dir_make(r->dir, err);
    if (st == JOUST_OK)
        st = joust_path_absolute(&r->dir, err);
    if (st == JOUST_OK && !(r->log = joust_path_join(r->t->logs, file)))
        st = joust_fail(err, JOUST_NOMEM, "train: out of memory");
    if (st == JOUST_OK)
        st = give_files(r, err);
    return st == JOUST_OK ? give_variables(r, err) : st;
}

joust_status joust_external_run(const joust_training *t, const joust_lease_unit *unit,
                                joust_unit_result *ret, joust_error *err)
{
    joust_unit_result result = {.id = {unit->unit, unit->lease, unit->attempt}};
    run r = {.t = t, .unit = unit, .params = &t->stage->train, .result = &result};
    joust_status st = prepare(&r, err);
    if (st == JOUST_OK)
        st = start(&r, err);
    if (st == JOUST_OK)
        st = watch(&r, err);
    if (st == JOUST_OK)
        st = take_result(&r, err);
    if (r.child && st != JOUST_OK && st != JOUST_INTERRUPTED)
        st = joust_blame(err, st, "train.command (output in %s)", strrchr(r.log, '/') + 1);
    run_fini(&r);
    if (st != JOUST_OK) {
        joust_unit_result_fini(&result);
        return st;
    }
    *ret = result;
    return JOUST_OK;
}
