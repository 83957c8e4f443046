/* Every key of the job file, once: name, type, range, help. The table drives reading (ops/job_fill.h),
 * the reference that `joust validate --keys` prints, and the JSON Schema for editors. */
#ifndef JOUST_OPS_JOB_KEYS_H
#define JOUST_OPS_JOB_KEYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/bytes.h"
#include "proto/job.h"

#define JOUST_MAX_SECTION_KEYS 64u
#define JOUST_MAX_CHOICES      64u /* among which the nearest is looked for */

/* A job as its file says it: what has no place of its own in joust_job stands beside it until
 * joust_jobfile_read puts it there. Field for field what the keys fill; the job comes first. */
typedef struct joust_job_draft {
    joust_job job;
    joust_job_set prompts;                    /* prompts: */
    char *promote_prompts, *evaluate_prompts; /* paths */
    int not_worse_than;                       /* 1: best, 0: nothing */
    int shaping;                              /* only one choice so far */
    int device;                               /* cluster.device: 2: cuda, 3: cuda:each */
    int precision;                            /* cluster.precision: 1: f32, 2: bf16 */
    uint32_t against;                         /* bits of joust_against */
    char *status_endpoint;
    char *notify_command;
} joust_job_draft;

enum joust_against { JOUST_AGAINST_BASE = 1, JOUST_AGAINST_PREVIOUS = 2 };

typedef enum joust_key_kind {
    JOUST_KEY_U32,
    JOUST_KEY_U64,
    JOUST_KEY_DOUBLE,
    JOUST_KEY_FLOAT,
    JOUST_KEY_BOOL,
    JOUST_KEY_TEXT,    /* char *, owned */
    JOUST_KEY_FILE,    /* char *, absolute path of a file that must exist */
    JOUST_KEY_CONTENT, /* char *, owned: the text of a file that must exist, of at most JOUST_MAX_GRAMMAR_BYTES */
    JOUST_KEY_FOLDER,  /* char *, absolute path of a folder that must exist */
    JOUST_KEY_CHOICE,  /* an enum or int */
    JOUST_KEY_CHOICES, /* list of choices: uint32_t, bits or'ed */
    JOUST_KEY_TEXTS,   /* list of texts: char *[max_items] in place, count at count_offset */
    JOUST_KEY_SECTION, /* a mapping; its keys' offsets count from `offset` */
    JOUST_KEY_LIST,  /* list of sections: array at offset (owned), uint32_t count at count_offset */
    JOUST_KEY_MAP,   /* the same from a mapping whose keys are the elements' names */
    JOUST_KEY_STAGES /* list of stage names, or {train: {…}} */
} joust_key_kind;

typedef struct joust_choice {
    const char *name; /* NULL ends the list */
    int value;
    bool synonym; /* accepted, reported by the canonical name (the first of this value) */
} joust_choice;

typedef struct joust_section joust_section;

typedef struct joust_key {
    const char *name;
    joust_key_kind kind;
    const char *help;
    size_t offset;
    size_t present; /* offset of a bool that is set when the key is given; 0: none */
    size_t count_offset;
    uint32_t max_items;
    bool required;
    const char *unless; /* required: but not where the section has this key */
    double low, high; /* numbers: the range; both 0: any */
    bool low_open;    /* low itself is outside */
    const joust_choice *choices;
    const joust_section *section;
} joust_key;

struct joust_section {
    const char *name; /* "train"; NULL for the whole file */
    const joust_key *keys;
    uint32_t n_keys;
    size_t size;                         /* of an element of a list or map */
    size_t name_offset;                  /* map: where the element's name goes */
    void (*set_defaults)(void *element); /* list or map: after zeroing; NULL: zero is right */
};

/* A name of the ecosystem (TRL's) for one of our keys. key NULL: known, but without effect here: why. */
typedef struct joust_key_alias {
    const char *name, *section, *key, *why;
} joust_key_alias;

const joust_section *joust_job_section(void); /* the whole file, over joust_job_draft */
const joust_key *joust_section_find(const joust_section *section, const char *name);
const joust_key_alias *joust_aliases(uint32_t *ret_n);
/* The alias of that name in the section (NULL: in whichever, as at the file's top level). */
const joust_key_alias *joust_alias_find(const char *section, const char *name);
/* "train.learning_rate" of a key of that name in any section, or NULL; to: at least 128 bytes. */
const char *joust_key_whereabouts(const char *name, char to[128]);
/* What a value of key must be: "a whole number from 1 to 4096", "one of dpo, sft". */
void joust_key_expectation(const joust_key *key, joust_buf *to);
/* The declared stages' names, in the order of joust_declared; n in *ret_n. */
const char *const *joust_stage_names(uint32_t *ret_n);

/* Appends the reference of all keys as text, or the JSON Schema (draft 2020-12). Both end with a newline.
 * Errors: JOUST_NOMEM. */
JOUST_MUST_USE joust_status joust_job_keys_print(joust_buf *to, joust_error *err);
JOUST_MUST_USE joust_status joust_job_schema_print(joust_buf *to, joust_error *err);

#endif
