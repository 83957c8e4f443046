/* Writing a model's folder: weights, whole or in shards, config.json, and what the source has beside them. */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "config_internal.h"
#include "proto/base/alloc.h"
#include "proto/base/file.h"
#include "proto/base/text.h"
#include "safetensors_internal.h"
#include "worker/engine/lora.h"
#include "worker/engine/model_internal.h"
#include "worker/engine/text/json_internal.h"
#include "worker/engine/text/tokenizer_internal.h"

#define CONFIG_FILE      "config.json"
#define MAX_COPIED_BYTES (64u << 20)
#define SHARD_BYTES      UINT64_C(5000000000) /* as transformers' "5GB" */

/* Copies one file where it exists. */
static joust_status copy_file(const char *from_dir, const char *to_dir, const char *name,
                              joust_error *err)
{
    joust_buf bytes = {0};
    joust_status st = JOUST_OK;
    char *from = joust_path_join(from_dir, name), *to = joust_path_join(to_dir, name);
    if (!from || !to)
        st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", to_dir);
    else if (joust_file_exists(from)) {
        st = joust_file_read(from, MAX_COPIED_BYTES, &bytes, err);
        if (st == JOUST_OK)
            st = joust_file_write(to, bytes.data, bytes.n, err);
    }
    joust_buf_fini(&bytes);
    joust_free(from);
    joust_free(to);
    return st;
}

static joust_status copy_companions(const char *from, const char *to, joust_error *err)
{
    static const char *const names[] = {"tokenizer.json",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "merges.txt",
                                        "tokenizer.model",
                                        "chat_template.jinja",
                                        "chat_template.json",
                                        "generation_config.json"};
    joust_status st = JOUST_OK;
    for (size_t i = 0; st == JOUST_OK && i < sizeof(names) / sizeof(*names); i++)
        st = copy_file(from, to, names[i], err);
    return st;
}

/* tokenizer.json of a source that has GPT-2's vocab.json and merges.txt alone. */
static joust_status convert_tokenizer(const char *from, const char *to, joust_error *err)
{
    joust_buf text = {0};
    char *have = joust_path_join(from, "tokenizer.json"),
         *merges = joust_path_join(from, "merges.txt"),
         *path = joust_path_join(to, "tokenizer.json");
    joust_status st = JOUST_OK;
    if (!have || !merges || !path)
        st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", to);
    else if (!joust_file_exists(have) && joust_file_exists(merges)) {
        st = joust_tokenizer_read_merges(from, &text, err);
        if (st == JOUST_OK)
            st = joust_file_write(path, text.data, text.n, err);
        else if (
            st ==
            JOUST_UNSUPPORTED) /* the engine can't use it either: the files are copied as they are */
            st = JOUST_OK;
    }
    joust_buf_fini(&text);
    joust_free(have);
    joust_free(merges);
    joust_free(path);
    return st;
}

/* config.json with the keys of the source's that the engine doesn't read. */
static joust_status save_config(const joust_model_config *config, const char *source,
                                const char *dtype, const char *dir, joust_error *err)
{
    joust_buf text = {0};
    json_t *keys = NULL;
    char *from = source ? joust_path_join(source, CONFIG_FILE) : NULL,
         *to = joust_path_join(dir, CONFIG_FILE);
    joust_status st = JOUST_OK;
    if ((source && !from) || !to)
        st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", dir);
    if (st == JOUST_OK && from && joust_file_exists(from))
        st = joust_json_read(from, JOUST_MAX_CONFIG_BYTES, &keys, err);
    if (st == JOUST_OK)
        st = joust_model_config_format(config, keys, dtype, &text, err);
    if (st == JOUST_OK)
        st = joust_file_write(to, text.data, text.n, err);
    json_decref(keys);
    joust_buf_fini(&text);
    joust_free(from);
    joust_free(to);
    return st;
}

/* Removes what a folder has of an earlier, other form of the weights. */
static joust_status remove_file(const char *dir, const char *name, joust_error *err)
{
    char *path = joust_path_join(dir, name);
    joust_status st = JOUST_OK;
    if (!path)
        return joust_fail(err, JOUST_NOMEM, "%s: out of memory", dir);
    if (unlink(path) != 0 && errno != ENOENT)
        st = joust_fail(err, joust_status_of_errno(errno), "%s: can't remove: %s", path,
                        strerror(errno));
    joust_free(path);
    return st;
}

static joust_status save_file(const char *dir, const char *name, const joust_tensor *tensors,
                              uint32_t n, joust_dtype dtype, joust_error *err)
{
    char *path = joust_path_join(dir, name);
    joust_status st = path ? joust_safetensors_write(path, tensors, n, dtype, err)
                           : joust_fail(err, JOUST_NOMEM, "%s: out of memory", dir);
    joust_free(path);
    return st;
}

/* Tensors from `first` that fit a shard, one at least; returns the end. */
static uint32_t shard_end(const joust_tensor *tensors, uint32_t n, uint32_t first,
                          uint64_t max_elements)
{
    uint64_t elements = tensors[first].n;
    uint32_t end = first + 1;
    while (end < n && elements + tensors[end].n <= max_elements)
        elements += tensors[end++].n;
    return end;
}

static uint32_t shards_count(const joust_tensor *tensors, uint32_t n, uint64_t max_elements)
{
    uint32_t n_shards = 0;
    for (uint32_t first = 0; first < n; first = shard_end(tensors, n, first, max_elements))
        n_shards++;
    return n_shards;
}

static void shard_name(char name[64], uint32_t i, uint32_t n)
{
    snprintf(name, 64, "model-%05u-of-%05u.safetensors", i + 1, n);
}

/* The index last: a folder without it has no shards yet. */
static joust_status save_index(const char *dir, const joust_tensor *tensors, uint32_t n,
                               uint64_t max_elements, joust_dtype dtype, joust_error *err)
{
    joust_buf text = {0};
    uint64_t n_elements = 0;
    const uint32_t n_shards = shards_count(tensors, n, max_elements);
    for (uint32_t i = 0; i < n; i++)
        n_elements += tensors[i].n;
    joust_buf_format(&text, "{\n  \"metadata\": {\"total_size\": %llu},\n  \"weight_map\": {",
                     (unsigned long long)(n_elements * joust_dtype_bytes(dtype)));
    for (uint32_t first = 0, shard = 0; first < n; shard++) {
        char name[64];
        uint32_t end = shard_end(tensors, n, first, max_elements);
        shard_name(name, shard, n_shards);
        for (; first < end; first++)
            joust_buf_format(&text, "%s\n    \"%s\": \"%s\"", first ? "," : "", tensors[first].name,
                             name);
    }
    joust_buf_text(&text, "\n  }\n}\n");
    joust_status st = joust_buf_status(&text, err);
    char *path = joust_path_join(dir, JOUST_INDEX_FILE);
    if (st == JOUST_OK && !path)
        st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", dir);
    if (st == JOUST_OK)
        st = joust_file_write(path, text.data, text.n, err);
    joust_free(path);
    joust_buf_fini(&text);
    return st;
}

static joust_status save_weights(const joust_model *model, const char *dir, joust_dtype dtype,
                                 uint64_t max_shard_bytes, joust_error *err)
{
    uint32_t n;
    const joust_tensor *tensors = joust_model_tensors(model, &n);
    const uint64_t max_elements = max_shard_bytes / joust_dtype_bytes(dtype);
    const uint32_t n_shards = shards_count(tensors, n, max_elements);
    joust_status st = JOUST_OK;
    if (n_shards == 1) {
        st = save_file(dir, JOUST_WEIGHTS_FILE, tensors, n, dtype, err);
        return st == JOUST_OK ? remove_file(dir, JOUST_INDEX_FILE, err) : st;
    }
    for (uint32_t first = 0, shard = 0; st == JOUST_OK && first < n; shard++) {
        char name[64];
        uint32_t end = shard_end(tensors, n, first, max_elements);
        shard_name(name, shard, n_shards);
        st = save_file(dir, name, tensors + first, end - first, dtype, err);
        first = end;
    }
    if (st == JOUST_OK)
        st = save_index(dir, tensors, n, max_elements, dtype, err);
    return st == JOUST_OK ? remove_file(dir, JOUST_WEIGHTS_FILE, err) : st;
}

/* One file as it is: another name of the same bytes, or a copy where the file system has no such names. */
static joust_status take_file(const char *from, const char *to, joust_error *err)
{
    if (link(from, to) == 0)
        return JOUST_OK;
    joust_file_writer *writer = NULL;
    FILE *file = fopen(from, "rb");
    if (!file)
        return joust_fail(err, joust_status_of_errno(errno), "%s: %s", from, strerror(errno));
    joust_status st = joust_file_writer_open(to, &writer, err);
    uint8_t bytes[1u << 14];
    size_t n;
    while (st == JOUST_OK && (n = fread(bytes, 1, sizeof(bytes), file)) > 0)
        st = joust_file_writer_add(writer, bytes, n, err);
    if (st == JOUST_OK && ferror(file))
        st = joust_fail(err, JOUST_IO, "%s: can't read", from);
    fclose(file);
    if (st == JOUST_OK)
        return joust_file_writer_commit(&writer, err);
    joust_file_writer_abort(&writer);
    return st;
}

/* Every file of source but its adapter: the base's weights and what stands beside them are frozen. */
static joust_status take_base(const char *source, const char *dir, joust_error *err)
{
    struct dirent *entry;
    joust_status st = JOUST_OK;
    DIR *files = opendir(source);
    if (!files)
        return joust_fail(err, joust_status_of_errno(errno), "%s: %s", source, strerror(errno));
    while (st == JOUST_OK && (entry = readdir(files)) != NULL) {
        struct stat info;
        if (entry->d_name[0] == '.' || strcmp(entry->d_name, JOUST_ADAPTER_CONFIG_FILE) == 0 ||
            strcmp(entry->d_name, JOUST_ADAPTER_WEIGHTS_FILE) == 0)
            continue;
        char *from = joust_path_join(source, entry->d_name),
             *to = joust_path_join(dir, entry->d_name);
        if (!from || !to)
            st = joust_fail(err, JOUST_NOMEM, "%s: out of memory", dir);
        else if (stat(from, &info) == 0 && S_ISREG(info.st_mode))
            st = take_file(from, to, err);
        joust_free(from);
        joust_free(to);
    }
    closedir(files);
    return st;
}

static joust_status save_adapted(const joust_model *model, const char *source, const char *dir,
                                 joust_error *err)
{
    joust_status st = joust_dir_make(dir, err);
    if (st == JOUST_OK)
        st = source ? take_base(source, dir, err)
                    : joust_model_export(model, NULL, JOUST_DTYPE_F32, 0, dir, err);
    return st == JOUST_OK ? joust_model_adapter_save(model, NULL, dir, err) : st;
}

joust_status joust_model_export(const joust_model *model, const char *source, joust_dtype dtype,
                                uint64_t max_shard_bytes, const char *dir, joust_error *err)
{
    static const char *const names[] = {"float32", "float16", "bfloat16"};
    joust_status st = joust_model_check_host(model, err);
    if (st == JOUST_OK)
        st = joust_dir_make(dir, err);
    if (st == JOUST_OK && source)
        st = copy_companions(source, dir, err);
    if (st == JOUST_OK && source)
        st = convert_tokenizer(source, dir, err);
    if (st == JOUST_OK)
        st = save_config(joust_model_get_config(model), source, names[dtype], dir, err);
    if (st == JOUST_OK)
        st = save_weights(model, dir, dtype, max_shard_bytes ? max_shard_bytes : SHARD_BYTES, err);
    return st;
}

joust_status joust_model_save(const joust_model *model, const char *source, const char *dir,
                              joust_error *err)
{
    return joust_model_adapter(model)
               ? save_adapted(model, source, dir, err)
               : joust_model_export(model, source, JOUST_DTYPE_F32, 0, dir, err);
}
