/* Reading JSON with errors that name the place. Wraps jansson for the engine's file formats.
 * Thread: any. json_t values are borrowed views of the document they came from. */
#ifndef JOUST_WORKER_ENGINE_TEXT_JSON_INTERNAL_H
#define JOUST_WORKER_ENGINE_TEXT_JSON_INTERNAL_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "proto/base/bytes.h"
#include "proto/base/status.h"

/* The document, owned by the caller (json_decref). Duplicate keys are refused; the top must be an object.
 * Errors: JOUST_MALFORMED "name:line:column: …" ("name: column …" if it is all one line), JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_json_parse(const void *data, size_t n, const char *name,
                                             json_t **ret, joust_error *err);
/* The same from a file of at most max_bytes. */
JOUST_MUST_USE joust_status joust_json_read(const char *path, uint64_t max_bytes, json_t **ret,
                                            joust_error *err);

/* Members of an object. An absent or null member gives the default; another type is JOUST_INVALID:
 * "place.key: expected …". place is what errors call the object. */
JOUST_MUST_USE joust_status joust_json_bool(const json_t *object, const char *place,
                                            const char *key, bool by_default, bool *ret,
                                            joust_error *err);
/* view of the document; NULL by default */
JOUST_MUST_USE joust_status joust_json_text(const json_t *object, const char *place,
                                            const char *key, const char **ret, joust_error *err);
JOUST_MUST_USE joust_status joust_json_u32(const json_t *object, const char *place, const char *key,
                                           uint32_t by_default, uint32_t *ret, joust_error *err);
/* any finite number */
JOUST_MUST_USE joust_status joust_json_number(const json_t *object, const char *place,
                                              const char *key, double by_default, double *ret,
                                              joust_error *err);
/* Whether the member is there and not null. */
bool joust_json_has(const json_t *object, const char *key);
/* "a string", "an object" … for messages. */
const char *joust_json_kind(const json_t *value);

#endif
