/* What is wrong with a job file: every problem with its place, printed in the file's order.
 * Thread: one at a time. */
#ifndef JOUST_OPS_PROBLEMS_H
#define JOUST_OPS_PROBLEMS_H

#include <stdbool.h>
#include <stdint.h>

#include "ops/cli.h"
#include "proto/base/bytes.h"

#define JOUST_MAX_PROBLEMS 100u /* those beyond are counted, not kept */

/* A place: in the job file (origin 0), or in the origin-th `--set` (line and column unused). Lines and
 * columns count from 1, columns in characters. */
typedef struct joust_place {
    uint32_t origin, line, column;
} joust_place;

typedef struct joust_problem {
    joust_place place;
    bool warning;
    char *text; /* owned */
} joust_problem;

/* Zero-initialise, set file and sets (kept until fini), release with joust_problems_fini. */
typedef struct joust_problems {
    const char *file;            /* as the user wrote it */
    const joust_text_list *sets; /* "key=value" each; may be NULL */
    uint32_t n, n_errors, n_warnings;
    joust_problem items[JOUST_MAX_PROBLEMS];
} joust_problems;

/* One that is there already, text and place, isn't added again. */
void joust_problem_add(joust_problems *problems, joust_place place, const char *format, ...)
    JOUST_PRINTF(3, 4);
void joust_warning_add(joust_problems *problems, joust_place place, const char *format, ...)
    JOUST_PRINTF(3, 4);
/* Appends one line each, sorted by place: "FILE:LINE:COLUMN: text", "FILE:LINE:COLUMN: warning: text" or
 * "--set KEY: text". */
void joust_problems_print(joust_problems *problems, joust_buf *to);
void joust_problems_fini(joust_problems *problems);

#endif
