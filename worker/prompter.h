/* How a job's prompts become tokens for one model: by rollout.template; without one (or with "{prompt}" alone, the default) a
 * conversation by the model's chat template, and a plain prompt as it stands, between the special tokens that its
 * tokenizer's post-processor adds (where that leaves nothing: the model's bos). One user message put to a model without
 * any chat template counts as plain. Thread: any one at a time. */
#ifndef JOUST_WORKER_PROMPTER_H
#define JOUST_WORKER_PROMPTER_H

#include "proto/job.h"
#include "proto/records.h"
#include "worker/engine/model.h"
#include "worker/engine/text/chat.h"
#include "worker/engine/text/tokenizer.h"

typedef struct joust_prompter joust_prompter;

/* chat is NULL for a model without a chat template; why_no_chat then says so (or why its template can't be used), and is
 * what a conversation fails with. Borrows all until it is freed. Errors: JOUST_INVALID (rollout.template). */
JOUST_MUST_USE joust_status joust_prompter_create(const joust_job *job, const joust_tokenizer *t,
                                                  const joust_model_config *config,
                                                  const joust_chat *chat,
                                                  const joust_error *why_no_chat,
                                                  joust_prompter **ret, joust_error *err);
void joust_prompter_free(joust_prompter **p);
/* Appends the prompt's tokens. Errors: JOUST_INVALID, whatever about the prompt is wrong: no token results, the chat
 * template refuses it, or there is a template with nothing but {prompt} to put a longer conversation in. */
JOUST_MUST_USE joust_status joust_prompter_render(const joust_prompter *p,
                                                  const joust_prompt *prompt, joust_tokens *to,
                                                  joust_error *err);
/* How many tokens at a prompt's start stay when it is cut: those of the post-processor, or the model's bos. */
uint32_t joust_prompter_fixed_start(const joust_prompter *p, const joust_tokens *prompt);
/* Most tokens that a prompt may have: what max_prompt_tokens says, and all but what the response begins with, and one. */
uint32_t joust_prompter_limit(const joust_job_rollout *how, uint32_t context, uint32_t n_forced);
/* Cuts a prompt that is longer, if the job says so: its last tokens stay, and those of its fixed start, as many as leave room
 * for max_tokens. Returns how many are left out. */
uint32_t joust_prompter_cut(const joust_prompter *p, const joust_job_rollout *how, uint32_t context,
                            uint32_t n_forced, uint32_t max_tokens, joust_tokens *prompt);

/* Whether such a prompt can be put to the servers of an endpoint, which have no prompter: a conversation goes as its messages, in
 * mode: chat. Errors: JOUST_INVALID, with the key that mends it. */
JOUST_MUST_USE joust_status joust_prompt_check_served(const joust_job *job,
                                                      const joust_job_endpoint *settings,
                                                      const joust_prompt *prompt, joust_error *err);

#endif
