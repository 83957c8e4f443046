#include "coordinator/inputs.h"

#include <stdio.h>
#include <string.h>

#include "coordinator/prompt_file.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/base/text.h"
#include "proto/codec.h"
#include "proto/manifest.h"
#include "storage/tables.h"

#define IMPORT_BATCH_BYTES (4u << 20)

/* A checkpoint's files: configuration, tokenizer and weights; not the README beside them. */
static bool is_model_file(void *arg, const char *name)
{
    const joust_job_model *model = arg;
    if (joust_text_ends_with(name, ".safetensors") ||
        joust_text_ends_with(name, ".safetensors.index.json"))
        return !model->init;
    return joust_text_ends_with(name, ".json") || joust_text_ends_with(name, ".jinja") ||
           !strcmp(name, "merges.txt");
}

/* What joust_tokenizer_load reads. */
static bool is_tokenizer_file(void *arg, const char *name)
{
    const bool *is_whole = arg;
    if (*is_whole)
        return !strcmp(name, "tokenizer.json");
    return !strcmp(name, "vocab.json") || !strcmp(name, "merges.txt") ||
           !strcmp(name, "tokenizer_config.json");
}

/* The files of a tokenizer, or no file: *ret is owned. */
static joust_status list_tokenizer(const char *dir, joust_manifest *ret, joust_error *err)
{
    *ret = (joust_manifest){0};
    if (!dir)
        return JOUST_OK;
    char *path = joust_path_join(dir, "tokenizer.json");
    if (!path)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", dir);
    bool is_whole = joust_file_exists(path);
    joust_free(path);
    joust_status st = joust_manifest_of_dir(dir, is_tokenizer_file, &is_whole, ret, err);
    return st == JOUST_NOT_FOUND ? joust_fail(err, st, "%s: no tokenizer.json in it", dir) : st;
}

/* Puts a file of one chunk before the others. */
static joust_status add_first_file(joust_manifest *to, const char *name, const joust_buf *text,
                                   joust_error *err)
{
    const joust_digest digest = joust_digest_of(text->data, text->n);
    joust_digest *chunk = joust_memdup(&digest, sizeof(digest));
    joust_manifest_file *files = joust_calloc(to->n_files + 1, sizeof(*files));
    if (!chunk || !files) {
        joust_free(chunk);
        joust_free(files);
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", name);
    }
    files[0] =
        (joust_manifest_file){.n_bytes = text->n, .digest = digest, .n_chunks = 1, .chunks = chunk};
    snprintf(files[0].name, sizeof(files[0].name), "%s", name);
    for (uint32_t i = 0; i < to->n_files; i++)
        files[i + 1] = to->files[i];
    joust_free(to->files);
    to->files = files;
    to->n_files++;
    return JOUST_OK;
}

/* A served model's manifest: endpoint.json, the text, that says what decides its answers, and the files of the tokenizer by
 * which judges put their questions, all of which sort behind it. *ret is owned. */
static joust_status describe_endpoint(const joust_job_model *model, joust_buf *text,
                                      joust_manifest *ret, joust_error *err)
{
    joust_manifest m;
    joust_job_endpoint_describe(&model->endpoint, text);
    joust_status st = joust_buf_status(text, err);
    if (st != JOUST_OK)
        return st;
    st = list_tokenizer(model->endpoint.tokenizer, &m, err);
    if (st != JOUST_OK)
        return joust_blame(err, st, "models.%s.endpoint.tokenizer", model->name);
    st = add_first_file(&m, "endpoint.json", text, err);
    if (st == JOUST_OK)
        *ret = m;
    else
        joust_manifest_fini(&m);
    return st;
}

/* blobs: where it is put, or NULL. */
static joust_status take_in_endpoint(const joust_job_model *model, joust_blobs *blobs,
                                     joust_digest *ret, joust_error *err)
{
    joust_buf text = {0};
    joust_manifest manifest = {0};
    const char *dir = model->endpoint.tokenizer ? model->endpoint.tokenizer : ".";
    joust_status st = describe_endpoint(model, &text, &manifest, err);
    if (st == JOUST_OK && blobs) /* then it is no file that the folder lacks */
        st = joust_blobs_put(blobs, &manifest.files[0].digest, text.data, text.n, err);
    if (st == JOUST_OK)
        st = blobs ? joust_blobs_put_files(blobs, dir, &manifest, ret, err)
                   : joust_manifest_digest(&manifest, ret, err);
    joust_manifest_fini(&manifest);
    joust_buf_fini(&text);
    return st;
}

static joust_status digest_model(joust_job_model *model, joust_error *err)
{
    joust_manifest manifest;
    if (joust_job_model_is_remote(model))
        return take_in_endpoint(model, NULL, &model->content, err);
    joust_status st = joust_manifest_of_dir(model->path, is_model_file, model, &manifest, err);
    if (st == JOUST_OK) {
        if (!joust_manifest_find(&manifest, "config.json"))
            st = joust_fail(err, JOUST_NOT_FOUND, "%s: no config.json in it", model->path);
        else if (!model->init && !joust_manifest_find(&manifest, "model.safetensors") &&
                 !joust_manifest_find(&manifest, "model.safetensors.index.json"))
            st = joust_fail(err, JOUST_NOT_FOUND,
                            "%s: no model.safetensors in it (to draw new weights, say init: SEED)",
                            model->path);
        else
            st = joust_manifest_digest(&manifest, &model->content, err);
        joust_manifest_fini(&manifest);
    }
    return st == JOUST_OK ? st : joust_blame(err, st, "models.%s", model->name);
}

static joust_status digest_data(joust_job_train *train, joust_error *err)
{
    if (!train->data)
        return JOUST_OK;
    joust_manifest manifest;
    joust_status st = joust_manifest_of_file(train->data, &manifest, err);
    if (st == JOUST_OK) {
        st = joust_manifest_digest(&manifest, &train->data_content, err);
        joust_manifest_fini(&manifest);
    }
    return st == JOUST_OK ? st : joust_blame(err, st, "train.data");
}

joust_status joust_inputs_digest(joust_job *job, uint64_t *ret_n_prompts, joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; st == JOUST_OK && i < job->n_models; i++)
        st = digest_model(&job->models[i], err);
    for (uint32_t i = 0; st == JOUST_OK && i < job->n_sets; i++)
        st = joust_prompt_file_read(job->sets[i].path, NULL, NULL, &ret_n_prompts[i],
                                    &job->sets[i].content, err);
    if (st == JOUST_OK && job->has_train)
        st = digest_data(&job->train, err);
    for (uint32_t i = 0; st == JOUST_OK && i < job->n_stages; i++)
        if (job->stages[i].has_train)
            st = digest_data(&job->stages[i].train, err);
    return st;
}

/* The manifest of what an input holds: from the blobs where all of it is there, else from its files, which are taken
 * in. model: whose folder `path` is; NULL: path is one file. */
static joust_status take_in(joust_blobs *blobs, const joust_digest *content, const char *path,
                            const joust_job_model *model, joust_manifest *ret, joust_error *err)
{
    bool complete;
    if (joust_blobs_complete(blobs, content, &complete, NULL, NULL) == JOUST_OK && complete)
        return joust_blobs_get_manifest(blobs, content, ret, err);
    joust_status st =
        model ? joust_manifest_of_dir(path, is_model_file, (void *)(uintptr_t)model, ret, err)
              : joust_manifest_of_file(path, ret, err);
    if (st != JOUST_OK)
        return st;
    joust_digest digest;
    char *dir = model ? joust_strdup(path) : joust_path_parent(path);
    st = dir ? joust_blobs_put_files(blobs, dir, ret, &digest, err)
             : joust_fail(err, JOUST_NOMEM, "%s: out of memory", path);
    joust_free(dir);
    if (st != JOUST_OK)
        joust_manifest_fini(ret);
    return st;
}

static joust_status import_model(const joust_job_model *model, joust_store *store,
                                 joust_blobs *blobs, joust_batch *batch, joust_error *err)
{
    joust_model_version version = {.parent = 0};
    snprintf(version.model.lineage, sizeof(version.model.lineage), "%s", model->name);
    version.model.manifest = model->content;

    joust_manifest manifest;
    joust_digest content;
    joust_status st = joust_job_model_is_remote(model)
                          ? take_in_endpoint(model, blobs, &content, err)
                          : take_in(blobs, &model->content, model->path, model, &manifest, err);
    if (st != JOUST_OK)
        return st;
    if (!joust_job_model_is_remote(model)) {
        version.model.weights = joust_manifest_weights(&manifest);
        joust_manifest_fini(&manifest);
    }
    if (joust_job_model_is_made(model))
        return JOUST_OK;
    bool present;
    st = joust_store_check_model_version(store, &version, &present, err);
    if (st == JOUST_OK && !present)
        st = joust_batch_put_model_version(batch, &version, err);
    return st;
}

static joust_status import_data(const joust_job_train *train, joust_blobs *blobs, joust_error *err)
{
    if (!train->data)
        return JOUST_OK;
    joust_manifest manifest;
    joust_status st = take_in(blobs, &train->data_content, train->data, NULL, &manifest, err);
    if (st == JOUST_OK)
        joust_manifest_fini(&manifest);
    return st;
}

typedef struct prompt_import {
    joust_store *store;
    joust_batch *batch;
    uint32_t set;
} prompt_import;

static joust_status import_prompt(void *user, uint64_t line, const joust_prompt *prompt,
                                  joust_error *err)
{
    prompt_import *import = user;
    joust_status st = joust_batch_put_prompt(import->batch, import->set, line, prompt, err);
    if (st == JOUST_OK && joust_batch_bytes(import->batch) > IMPORT_BATCH_BYTES)
        st = joust_store_commit(import->store, import->batch, false, err);
    return st;
}

static joust_status import_set(const joust_job *job, uint32_t set, uint64_t n_prompts,
                               joust_store *store, joust_batch *batch, joust_error *err)
{
    uint64_t stored, lines;
    joust_digest content;
    joust_status st = joust_store_count_prompts(store, set, &stored, err);
    if (st != JOUST_OK || stored == n_prompts)
        return st;
    prompt_import import = {.store = store, .batch = batch, .set = set};
    const joust_job_set *from = &job->sets[set];
    st = joust_prompt_file_read(from->path, import_prompt, &import, &lines, &content, err);
    if (st == JOUST_OK && !joust_digest_equal(&content, &from->content))
        st = joust_fail(err, JOUST_CONFLICT, "%s: changed while the job was starting; start again",
                        from->path);
    return st;
}

joust_status joust_inputs_import(const joust_job *job, const uint64_t *n_prompts,
                                 joust_store *store, joust_blobs *blobs, uint64_t epoch,
                                 joust_error *err)
{
    joust_batch *batch;
    joust_status st = joust_batch_create(store, epoch, &batch, err);
    if (st != JOUST_OK)
        return st;
    for (uint32_t i = 0; st == JOUST_OK && i < job->n_models; i++)
        st = import_model(&job->models[i], store, blobs, batch, err);
    if (st == JOUST_OK && job->has_train)
        st = import_data(&job->train, blobs, err);
    for (uint32_t i = 0; st == JOUST_OK && i < job->n_stages; i++)
        if (job->stages[i].has_train)
            st = import_data(&job->stages[i].train, blobs, err);
    for (uint32_t i = 0; st == JOUST_OK && i < job->n_sets; i++)
        st = import_set(job, i, n_prompts[i], store, batch, err);
    if (st == JOUST_OK && joust_batch_records(batch))
        st = joust_store_commit(store, batch, true, err);
    joust_batch_free(&batch);
    return st;
}
