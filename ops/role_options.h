/* The command line that `joust worker` and `joust judge` share. */
#ifndef JOUST_OPS_ROLE_OPTIONS_H
#define JOUST_OPS_ROLE_OPTIONS_H

#include <stdbool.h>

#include "proto/peer.h"

typedef struct joust_role_usage {
    const char *verb;     /* "worker" */
    const char *synopsis; /* "joust worker --connect ENDPOINT --name NAME …" */
    const char *about;
    bool *can_train; /* NULL: the role has no --no-train */
} joust_role_usage;

/* What a role runs as: options, and the memory they point to. */
typedef struct joust_role_start {
    joust_role_options options;
    joust_curve curve;
    char cache[4096];
} joust_role_start;

/* Parses the command line, sets the log up, and ties the process's life to its parent's if asked.
 * Returns -1 to go on, else the exit status to leave with. */
int joust_role_parse(const joust_role_usage *usage, int argc, char **argv, joust_role_start *ret);
/* After the role has ended with st: removes the cache folder, prints the error if there is one, and
 * returns the exit status. */
int joust_role_end(const joust_role_usage *usage, const joust_role_start *start, joust_status st,
                   const joust_error *err);

#endif
