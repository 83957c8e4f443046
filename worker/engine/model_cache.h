/* Loaded models with their tokenizers, by the digest of what was loaded: a rollout's policy, a
 * judge's model and a reference stay in memory from one batch to the next, within a bound. Thread:
 * the engine's. */
#ifndef JOUST_WORKER_ENGINE_MODEL_CACHE_H
#define JOUST_WORKER_ENGINE_MODEL_CACHE_H

#include "worker/engine/model.h"
#include "worker/engine/text/chat.h"
#include "worker/engine/text/tokenizer.h"

typedef struct joust_model_cache joust_model_cache;

typedef struct joust_resident { /* views: valid until max_models other models were asked for */
    joust_model *model;
    const joust_tokenizer *tokenizer;
    const joust_chat *chat;         /* or NULL, and then */
    const joust_error *why_no_chat; /* there is no chat template, or what of it can't be used */
} joust_resident;

/* max_models >= 1. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_model_cache_create(uint32_t max_models, joust_model_cache **ret,
                                                     joust_error *err);
void joust_model_cache_free(joust_model_cache **cache);
/* From now on models are loaded with this chat template in the place of their own; borrowed; NULL: their own. */
void joust_model_cache_use_chat(joust_model_cache *cache, const char *chat_template);
void joust_model_cache_clear(joust_model_cache *cache); /* no model stays resident */
/* Where the files of a model are: *ret_dir is read before the next call. */
typedef joust_status joust_folder_fn(void *context, const joust_digest *key, const char **ret_dir,
                                     joust_error *err);
/* The model of this key: resident, or loaded with its tokenizer from the folder that `folder`
 * names, in place of the model longest unused if there is no room. Errors: those of folder and of
 * loading. */
JOUST_MUST_USE joust_status joust_model_cache_get(joust_model_cache *cache, const joust_digest *key,
                                                  joust_folder_fn *folder, void *context,
                                                  joust_resident *ret, joust_error *err);

#endif
