/* Command line of one verb: options, positional arguments, --help. */
#ifndef JOUST_OPS_CLI_H
#define JOUST_OPS_CLI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "proto/base/status.h"

/* Exit statuses of the program. */
enum {
    JOUST_EXIT_OK = 0,
    JOUST_EXIT_FAILED = 1,      /* the job, or what was asked for, failed */
    JOUST_EXIT_USAGE = 2,       /* bad usage or job file */
    JOUST_EXIT_UNREACHABLE = 3, /* a coordinator or store could not be reached */
    JOUST_EXIT_INTERRUPTED = 130
};

typedef enum joust_option_kind {
    JOUST_OPTION_FLAG,   /* bool */
    JOUST_OPTION_TEXT,   /* const char *, view of argv */
    JOUST_OPTION_U32,    /* uint32_t */
    JOUST_OPTION_U64,    /* uint64_t */
    JOUST_OPTION_DOUBLE, /* double */
    JOUST_OPTION_LIST    /* joust_text_list: may be given several times */
} joust_option_kind;

typedef struct joust_text_list {
    const char *items[64];
    uint32_t n;
} joust_text_list;

typedef struct joust_option {
    const char *name; /* "--store" */
    joust_option_kind kind;
    void *to;
    const char *value; /* "DIR"; NULL for flags */
    const char *help;
} joust_option;

typedef struct joust_usage {
    const char *verb;     /* "pairs list" */
    const char *synopsis; /* "joust pairs list --store DIR [--round N] [--json]" */
    const char *about;    /* a sentence or two */
    const joust_option *options;
    size_t n_options;
    int min_positional, max_positional;
} joust_usage;

/* Parses argv[1..]; "--name value" and "--name=value", "--" ends options. --help prints the page on standard output.
 * Returns -1 to go on, else the exit status to leave with (0 after --help, 2 after an error, which is printed with the
 * nearest known option). positional: views of argv, at most max_positional. */
int joust_cli_parse(const joust_usage *usage, int argc, char **argv, const char **positional,
                    int *ret_n_positional);
/* Prints "joust VERB: text" on standard error and returns the exit status that goes with err->status. */
int joust_cli_fail(const char *verb, const joust_error *err);

#endif
