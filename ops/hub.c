#include "ops/hub.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/base/alloc.h"
#include "proto/base/file.h"

#define MAX_PART      96u /* characters of an owner, a name or a revision: what the hub allows */
#define MAX_REF_BYTES 128u

typedef struct hub_id {
    char owner[MAX_PART + 1], name[MAX_PART + 1], revision[MAX_PART + 1];
} hub_id;

/* Letters, digits, '-', '_' and '.'; no leading '.' or '-', so no way out of the cache. */
static bool is_part(const char *text, size_t n)
{
    if (n == 0 || n > MAX_PART || text[0] == '.' || text[0] == '-')
        return false;
    for (size_t i = 0; i < n; i++) {
        char c = text[i];
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!plain && c != '-' && c != '_' && c != '.')
            return false;
    }
    return true;
}

static bool parse(const char *text, hub_id *ret)
{
    size_t n_owner = strcspn(text, "/");
    if (text[n_owner] != '/' || !is_part(text, n_owner))
        return false;
    const char *name = text + n_owner + 1;
    size_t n_name = strcspn(name, "@");
    const char *revision = name[n_name] ? name + n_name + 1 : "main";
    if (!is_part(name, n_name) || !is_part(revision, strlen(revision)))
        return false;
    snprintf(ret->owner, sizeof(ret->owner), "%.*s", (int)n_owner, text);
    snprintf(ret->name, sizeof(ret->name), "%.*s", (int)n_name, name);
    snprintf(ret->revision, sizeof(ret->revision), "%s", revision);
    return true;
}

bool joust_hub_is_id(const char *text)
{
    hub_id id;
    return parse(text, &id);
}

static const char *setting(const char *name)
{
    const char *value = getenv(name);
    return value && *value ? value : NULL;
}

/* The folder that hub libraries keep snapshots in. Owned. */
static joust_status cache_dir(char **ret, joust_error *err)
{
    static const struct {
        const char *variable, *below;
    } places[] = {{"HF_HUB_CACHE", ""},
                  {"HUGGINGFACE_HUB_CACHE", ""},
                  {"HF_HOME", "hub"},
                  {"XDG_CACHE_HOME", "huggingface/hub"},
                  {"HOME", ".cache/huggingface/hub"}};
    for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
        const char *base = setting(places[i].variable);
        if (!base)
            continue;
        *ret = *places[i].below ? joust_path_join(base, places[i].below) : joust_strdup(base);
        return *ret ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "hub cache: out of memory");
    }
    return joust_fail(err, JOUST_NOT_FOUND,
                      "no Hugging Face cache: neither HF_HUB_CACHE nor HF_HOME nor HOME is set");
}

/* The commit that the cache has for a branch or tag; a revision without a ref is a commit itself. */
static joust_status read_ref(const char *repository, const hub_id *id, char commit[MAX_PART + 1],
                             joust_error *err)
{
    char name[MAX_PART + 8];
    joust_buf text = {0};
    snprintf(name, sizeof(name), "refs/%s", id->revision);
    char *path = joust_path_join(repository, name);
    if (!path)
        return joust_fail(err, JOUST_NOMEM, "hub cache: out of memory");
    joust_status st = JOUST_OK;
    snprintf(commit, MAX_PART + 1, "%s", id->revision);
    if (joust_file_exists(path)) {
        st = joust_file_read(path, MAX_REF_BYTES, &text, err);
        size_t n = st == JOUST_OK ? text.n : 0;
        while (n > 0 && (text.data[n - 1] == '\n' || text.data[n - 1] == '\r'))
            n--;
        if (st == JOUST_OK && !is_part((const char *)text.data, n))
            st = joust_fail(err, JOUST_CORRUPT, "%s: no commit in it; fetch the model again", path);
        if (st == JOUST_OK)
            snprintf(commit, MAX_PART + 1, "%.*s", (int)n, (const char *)text.data);
    }
    joust_buf_fini(&text);
    joust_free(path);
    return st;
}

static joust_status find_snapshot(const char *cache, const char *text, const hub_id *id,
                                  char **ret_dir, joust_error *err)
{
    char folder[2 * MAX_PART + 16], snapshot[MAX_PART + 16], commit[MAX_PART + 1];
    snprintf(folder, sizeof(folder), "models--%s--%s", id->owner, id->name);
    char *repository = joust_path_join(cache, folder), *dir = NULL;
    joust_status st = repository ? read_ref(repository, id, commit, err)
                                 : joust_fail(err, JOUST_NOMEM, "hub cache: out of memory");
    if (st == JOUST_OK) {
        snprintf(snapshot, sizeof(snapshot), "snapshots/%s", commit);
        dir = joust_path_join(repository, snapshot);
        if (!dir)
            st = joust_fail(err, JOUST_NOMEM, "hub cache: out of memory");
        else if (!joust_dir_exists(dir))
            st = joust_fail(
                err, JOUST_NOT_FOUND,
                "%s is not in the Hugging Face cache %s at revision %s; Joust downloads nothing: "
                "fetch it first (hf download %s/%s), or point HF_HUB_CACHE to where it is",
                text, cache, id->revision, id->owner, id->name);
    }
    joust_free(repository);
    if (st == JOUST_OK)
        *ret_dir = dir;
    else
        joust_free(dir);
    return st;
}

joust_status joust_hub_find(const char *text, char **ret_dir, joust_error *err)
{
    hub_id id;
    char *cache = NULL;
    if (!parse(text, &id))
        return joust_fail(err, JOUST_INVALID, "%.200s: no folder, and no hub id (owner/name)",
                          text);
    joust_status st = cache_dir(&cache, err);
    if (st == JOUST_OK)
        st = find_snapshot(cache, text, &id, ret_dir, err);
    joust_free(cache);
    return st;
}

joust_status joust_hub_resolve(const char *text, char **ret_dir, joust_error *err)
{
    if (joust_dir_exists(text) || !joust_hub_is_id(text)) {
        *ret_dir = joust_strdup(text);
        return *ret_dir ? JOUST_OK : joust_fail(err, JOUST_NOMEM, "out of memory");
    }
    joust_status st = joust_hub_find(text, ret_dir, err);
    return st == JOUST_NOT_FOUND ? joust_blame(err, st, "%s: no folder", text) : st;
}
