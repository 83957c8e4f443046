/* Chat templates: how a model's authors write a conversation as one text. A bounded subset of Jinja, as chat templates
 * of the Llama, Mistral, Qwen and SmolLM families use it, with the settings of the ecosystem (trim_blocks,
 * lstrip_blocks, plain JSON in tojson). Output equals Jinja's byte for byte; what is outside the subset is refused,
 * with the line of the template. KERNELS.md, "Chat templates", lists the subset and the bounds.
 * Thread: a compiled template is immutable; any thread may render it. */
#ifndef JOUST_WORKER_ENGINE_TEXT_CHAT_H
#define JOUST_WORKER_ENGINE_TEXT_CHAT_H

#include <stdbool.h>

#include "proto/base/bytes.h"
#include "proto/base/digest.h"
#include "worker/engine/text/tokenizer.h"

typedef struct joust_chat joust_chat;

/* Reads the chat template of a model's folder, and the texts of its special tokens (bos_token, eos_token, …): from
 * chat_template.jinja, chat_template.json or tokenizer_config.json, the first that has one; of a list of named
 * templates the one called "default". Errors: JOUST_NOT_FOUND (the folder has none), JOUST_UNSUPPORTED and
 * JOUST_MALFORMED "file, line n: …", JOUST_TOO_LARGE. */
JOUST_MUST_USE joust_status joust_chat_load(const char *dir, joust_chat **ret, joust_error *err);
/* The same where a template matters to conversations alone: if the folder has none that can be used, it is OK, *ret stays
 * as it was and *ret_why says why. given: a template's text in the place of the folder's (rollout.chat_template), with the
 * folder's special tokens; NULL: the folder's. Errors: those whose scope is the process. */
JOUST_MUST_USE joust_status joust_chat_load_if_any(const char *dir, const char *given,
                                                   joust_chat **ret, joust_error *ret_why,
                                                   joust_error *err);
/* The same from a template's text and, unless it is NULL, the JSON of a tokenizer_config.json that gives the special
 * tokens. name stands for the template in errors. Borrows everything. */
JOUST_MUST_USE joust_status joust_chat_compile(const char *text, size_t n, const char *tokens_json,
                                               const char *name, joust_chat **ret,
                                               joust_error *err);
void joust_chat_free(joust_chat **chat);
joust_digest
joust_chat_digest(const joust_chat *chat); /* of the template's and special tokens' texts */

/* A conversation is JSON: a list of messages, [{"role": "user", "content": "…"}, …], or an object
 *   {"messages": […], "tools": […], "documents": […], "chat_template_kwargs": {…}}
 * whose other members are passed over. Members of chat_template_kwargs are variables of the template. */

/* Appends the conversation as text; generate: with the words that begin the model's answer.
 * Errors: JOUST_MALFORMED (the JSON), JOUST_INVALID (the template raised an error, or asks what Jinja refuses),
 * JOUST_UNSUPPORTED (outside the subset), JOUST_TOO_LARGE (a bound). to is untouched then. */
JOUST_MUST_USE joust_status joust_chat_render(const joust_chat *chat, const char *conversation,
                                              size_t n, bool generate, joust_buf *to,
                                              joust_error *err);
/* The same as token ids: those that the ecosystem's tokenizer gives for the text, but for one thing: a special token
 * counts only where every byte of it stems from the template or the model's own files, so that what a message says
 * can't forge one. */
JOUST_MUST_USE joust_status joust_chat_encode(const joust_chat *chat, const joust_tokenizer *t,
                                              const char *conversation, size_t n, bool generate,
                                              joust_tokens *to, joust_error *err);

#endif
