/* Grammars and JSON schemas of responses: what a job file's are checked by before anything runs. Thread: any. */
#ifndef JOUST_WORKER_ENGINE_GRAMMAR_GRAMMAR_H
#define JOUST_WORKER_ENGINE_GRAMMAR_GRAMMAR_H

#include "proto/base/status.h"

/* Whether text is GBNF that masks can follow: lines `name ::= alternative | alternative`, of "texts" and [classes] with llama.cpp's
 * escapes, `.`, names, groups ( ), and * + ? {m} {m,} {m,n}; # begins a comment; `root` stands for whole responses. Errors:
 * JOUST_INVALID, JOUST_UNSUPPORTED (left recursion, tokens), JOUST_TOO_LARGE begin with "name:line:column: ", of the file that text is from; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_grammar_check(const char *text, const char *name,
                                                joust_error *err);
/* Whether text is a JSON schema that masks can follow (README.md lists its keywords). Errors: JOUST_INVALID, JOUST_UNSUPPORTED,
 * JOUST_TOO_LARGE begin with "name:line:column: " where it isn't JSON, else with the place in the schema, "name: #/properties/a: "; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_schema_check(const char *text, const char *name,
                                               joust_error *err);

#endif
