/* Prompt files: JSONL, one object a line:
 *   {"prompt": "…", "reference": "…", "id": "…", "weight": 1}
 * `prompt` (or `question`, or `messages`) is required, the rest is optional; `answer` is taken for `reference`. A
 * conversation is a list of messages under `messages` or `prompt`, with `tools`, `documents` and `chat_template_kwargs`
 * beside it; its text, for readers and judges, is "role: content", paragraph by paragraph (of one user message: its
 * content). Other keys are passed over, so that data sets can be used as they are. */
#ifndef JOUST_COORDINATOR_PROMPT_FILE_H
#define JOUST_COORDINATOR_PROMPT_FILE_H

#include "proto/records.h"

#define JOUST_MAX_PROMPT_LINE_BYTES (16u << 20)

/* Parses one line (n bytes, no newline). occurrence is left 0. Errors: JOUST_MALFORMED, JOUST_INVALID, JOUST_TOO_LARGE;
 * err says what, the caller adds file and line. *ret is owned (joust_prompt_fini). */
JOUST_MUST_USE joust_status joust_prompt_parse(const void *line, size_t n, joust_prompt *ret,
                                               joust_error *err);

/* Calls see for each prompt of the file in order (line from 0; empty lines are errors, a last newline is none), with its
 * occurrence number filled in. The prompt is owned by the caller of see and freed after it.
 * Errors: "file:line: …"; those of see are passed on. */
typedef joust_status joust_prompt_see(void *user, uint64_t line, const joust_prompt *prompt,
                                      joust_error *err);
JOUST_MUST_USE joust_status joust_prompt_file_read(const char *path, joust_prompt_see *see,
                                                   void *user, uint64_t *ret_lines,
                                                   joust_digest *ret_content, joust_error *err);

#endif
