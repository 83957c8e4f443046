/* Records as JSON objects, the same bytes for the same record: fixed order of fields, shortest decimals that
 * read back to the same number, no spaces. Used by export, list and show. Appended to a buffer; running out of memory
 * shows in joust_buf_status. Thread: any. */
#ifndef JOUST_STORAGE_JSON_H
#define JOUST_STORAGE_JSON_H

#include "proto/base/bytes.h"
#include "storage/keys.h"

/* Building blocks: a member is written with its comma before it, unless it opens the object or array. */
void joust_json_open(joust_buf *to, char bracket); /* '{' or '[' */
void joust_json_close(joust_buf *to, char bracket);
void joust_json_key(joust_buf *to, const char *key); /* "" in an array: the comma alone */
void joust_json_add_text(joust_buf *to, const char *key, const char *value); /* NULL: null */
void joust_json_add_number(joust_buf *to, const char *key, double value);
void joust_json_add_optional(joust_buf *to, const char *key, bool has_value, double value);
void joust_json_add_count(joust_buf *to, const char *key, uint64_t value);
void joust_json_add_bool(joust_buf *to, const char *key, bool value);
void joust_json_add_digest(joust_buf *to, const char *key, const joust_digest *value);
void joust_json_add_tokens(joust_buf *to, const char *key, const uint32_t *tokens, uint32_t n);
void joust_json_add_id(joust_buf *to, const char *key, const joust_record_id *id);
void joust_json_add_model(joust_buf *to, const char *key, const joust_model_ref *model);
void joust_json_add_metric(joust_buf *to, const char *key, const joust_metric *metric);

/* Members of a record, without the braces around them: more can be added before and behind. */
void joust_trajectory_json(joust_buf *to, const joust_trajectory *r);
void joust_verdict_json(joust_buf *to, const joust_verdict *r);
void joust_pair_json(joust_buf *to, const joust_pair *r);
void joust_stage_summary_json(joust_buf *to, const joust_stage_summary *r);
void joust_promotion_json(joust_buf *to, const joust_promotion *r);
void joust_provenance_json(joust_buf *to, const joust_provenance *r);

/* Ids of records and of what they refer to. */
joust_record_id joust_trajectory_id(const joust_trajectory *r);
joust_record_id joust_verdict_id(const joust_verdict *r);
joust_record_id joust_pair_id(const joust_pair *r);
joust_record_id joust_trajectory_ref_id(const joust_trajectory_ref *r);
/* The trajectory a verdict is about. */
joust_record_id joust_verdict_subject_id(const joust_verdict *r);

#endif
