/* A YAML document as a tree whose nodes know their place. Scalars are typed as in YAML 1.2's core schema:
 * `5e-7` is a number, `yes` is text, and what is quoted is always text. Bounded: bytes, depth, nodes and
 * aliases; tags, complex keys and a second document are refused. Thread: any; no shared state. */
#ifndef JOUST_OPS_YAML_TREE_H
#define JOUST_OPS_YAML_TREE_H

#include <stdbool.h>
#include <stdint.h>

#include "ops/problems.h"
#include "proto/base/status.h"

#define JOUST_MAX_YAML_BYTES (1u << 20)
#define JOUST_MAX_YAML_DEPTH 16u
#define JOUST_MAX_YAML_NODES 20000u /* those that aliases copy included */

typedef enum joust_yaml_kind {
    JOUST_YAML_NULL,
    JOUST_YAML_BOOL,
    JOUST_YAML_INTEGER, /* within 64 bits; larger ones are JOUST_YAML_REAL */
    JOUST_YAML_REAL,
    JOUST_YAML_TEXT,
    JOUST_YAML_LIST,
    JOUST_YAML_MAP
} joust_yaml_kind;

typedef struct joust_yaml_node joust_yaml_node;

typedef struct joust_yaml_entry {
    char *key; /* NULL in a list */
    joust_place key_place;
    joust_yaml_node *value;
} joust_yaml_entry;

struct joust_yaml_node {
    joust_yaml_kind kind;
    joust_place place;
    bool quoted;
    bool truth;         /* BOOL */
    bool negative;      /* INTEGER: minus `magnitude` */
    uint64_t magnitude; /* INTEGER */
    double real;        /* INTEGER and REAL; may be infinite or NaN, as `.inf` and `.nan` say */
    char *text;         /* scalars: as written, without quotes */
    uint32_t n;
    size_t capacity;
    joust_yaml_entry *entries; /* LIST and MAP: (n), in the file's order, keys unique */
};

/* Parses data (n bytes) whole. Problems of the text itself go to problems, with origin in their places.
 * Returns owned; free with joust_yaml_free. An empty document gives a NULL node.
 * Errors: JOUST_INVALID if problems got an error that leaves no tree; JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_yaml_parse(const void *data, size_t n, uint32_t origin,
                                             joust_problems *problems, joust_yaml_node **ret,
                                             joust_error *err);
void joust_yaml_free(joust_yaml_node **node);
/* The entry of a map by its key, or NULL; NULL if node is no map. View of node. */
joust_yaml_entry *joust_yaml_find(const joust_yaml_node *node, const char *key);
/* Appends to a list (key NULL) or a map; takes *value. Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_yaml_append(joust_yaml_node *to, const char *key,
                                              joust_place place, joust_yaml_node **value,
                                              joust_error *err);
/* An empty map. NULL when out of memory. */
joust_yaml_node *joust_yaml_map(joust_place place);
/* "a number", "text", … as an error says it. */
const char *joust_yaml_kind_name(joust_yaml_kind kind);

#endif
