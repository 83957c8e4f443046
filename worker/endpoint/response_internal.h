/* What response.c (answers) and score.c (log-probs of labels) share. */
#ifndef JOUST_WORKER_ENDPOINT_RESPONSE_INTERNAL_H
#define JOUST_WORKER_ENDPOINT_RESPONSE_INTERNAL_H

#include <jansson.h>

#include "worker/endpoint/wire.h"

/* A JSON object, owned. Errors: JOUST_MALFORMED. */
JOUST_MUST_USE joust_status joust_response_load(const void *body, size_t n_bytes, json_t **ret,
                                                joust_error *err);
/* That the endpoint's model answers, by n choices. Errors: JOUST_STALE, JOUST_MALFORMED. */
JOUST_MUST_USE joust_status joust_response_check(const json_t *root, const joust_job_endpoint *e,
                                                 uint32_t n, joust_error *err);
/* A log-prob, of token `at`. Errors: JOUST_NOT_FINITE, JOUST_MALFORMED. */
JOUST_MUST_USE joust_status joust_response_logp(const json_t *value, size_t at, float *ret,
                                                joust_error *err);
/* A token's id, as a number or written "token_id:7"; false: it is none. text may be NULL. */
bool joust_response_id(const json_t *value, uint32_t *ret);
bool joust_response_written_id(const char *text, uint32_t *ret);
/* A number of tokens that a server says, at most `most`; 0: it says none. */
uint64_t joust_response_count(const json_t *object, const char *name, uint64_t most);

#endif
