#include "worker/engine/model_cache.h"

#include "proto/base/alloc.h"

typedef struct entry {
    joust_digest key;
    joust_model *model;
    joust_tokenizer *tokenizer;
    joust_chat *chat;
    joust_error why_no_chat;
    uint64_t used; /* serial number of the last use; 0: free */
} entry;

struct joust_model_cache {
    uint32_t n;
    uint64_t serial;
    const char *chat_template;
    entry entries[];
};

joust_status joust_model_cache_create(uint32_t max_models, joust_model_cache **ret,
                                      joust_error *err)
{
    joust_model_cache *c = joust_calloc(1, sizeof(*c) + max_models * sizeof(c->entries[0]));
    if (!c)
        return joust_fail(err, JOUST_NOMEM, "model cache: out of memory");
    c->n = max_models;
    *ret = c;
    return JOUST_OK;
}

static void clear(entry *e)
{
    joust_model_free(&e->model);
    joust_tokenizer_free(&e->tokenizer);
    joust_chat_free(&e->chat);
    *e = (entry){0};
}

void joust_model_cache_use_chat(joust_model_cache *c, const char *chat_template)
{
    c->chat_template = chat_template;
}

void joust_model_cache_clear(joust_model_cache *c)
{
    for (uint32_t i = 0; i < c->n; i++)
        clear(&c->entries[i]);
}

void joust_model_cache_free(joust_model_cache **cache)
{
    joust_model_cache *c = *cache;
    if (!c)
        return;
    joust_model_cache_clear(c);
    joust_free(c);
    *cache = NULL;
}

static void use(joust_model_cache *c, entry *e, joust_resident *ret)
{
    e->used = ++c->serial;
    *ret = (joust_resident){e->model, e->tokenizer, e->chat, &e->why_no_chat};
}

static entry *find(joust_model_cache *c, const joust_digest *key)
{
    for (uint32_t i = 0; i < c->n; i++)
        if (c->entries[i].used > 0 && joust_digest_equal(&c->entries[i].key, key))
            return &c->entries[i];
    return NULL;
}

static entry *longest_unused(joust_model_cache *c)
{
    entry *e = &c->entries[0];
    for (uint32_t i = 1; i < c->n; i++)
        if (c->entries[i].used < e->used)
            e = &c->entries[i];
    return e;
}

joust_status joust_model_cache_get(joust_model_cache *cache, const joust_digest *key,
                                   joust_folder_fn *folder, void *context, joust_resident *ret,
                                   joust_error *err)
{
    const char *dir = NULL;
    entry *e = find(cache, key);
    if (e) {
        use(cache, e, ret);
        return JOUST_OK;
    }
    joust_status st = folder(context, key, &dir, err);
    if (st != JOUST_OK)
        return st;
    e = longest_unused(cache);
    clear(e);
    st = joust_model_load(dir, &e->model, err);
    if (st == JOUST_OK)
        st = joust_tokenizer_load(dir, &e->tokenizer, err);
    if (st == JOUST_OK)
        st = joust_chat_load_if_any(dir, cache->chat_template, &e->chat, &e->why_no_chat, err);
    if (st != JOUST_OK) {
        clear(e);
        return st;
    }
    e->key = *key;
    use(cache, e, ret);
    return JOUST_OK;
}
