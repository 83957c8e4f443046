/* Hub ids ("Qwen/Qwen2.5-0.5B"), resolved in this machine's Hugging Face cache. Nothing is ever downloaded. Thread: any. */
#ifndef JOUST_OPS_HUB_H
#define JOUST_OPS_HUB_H

#include <stdbool.h>

#include "proto/base/status.h"

/* Whether text has the form of a hub id: "owner/name", or "owner/name@revision" (a branch, a tag or a commit). */
bool joust_hub_is_id(const char *text);
/* The folder of the id's snapshot: in HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME/huggingface/hub, else
 * ~/.cache/huggingface/hub; revision main by default. Returns owned. Errors: JOUST_INVALID (no id), JOUST_NOT_FOUND with
 * what to do about it, JOUST_CORRUPT (the cache's ref is no commit), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_hub_find(const char *id, char **ret_dir, joust_error *err);
/* A model's folder as people name it: the folder itself where it is there, else an id's snapshot. Returns owned.
 * Errors: those of joust_hub_find. */
JOUST_MUST_USE joust_status joust_hub_resolve(const char *text, char **ret_dir, joust_error *err);

#endif
