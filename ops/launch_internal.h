/* What a launch starts: the command line of each role, and where its processes meet and write. launch_commands.c makes these,
 * launch.c runs them. */
#ifndef JOUST_OPS_LAUNCH_INTERNAL_H
#define JOUST_OPS_LAUNCH_INTERNAL_H

#include "ops/launch.h"
#include "ops/status_client.h"

#define JOUST_LAUNCH_ARGUMENTS (20 + 2 * 64) /* a role's own and every --set */

/* Where logs, copies of weights and sockets lie. The sockets' folder is short, since the path of an ipc socket has about 100
 * bytes, and the same for the same store, so that nothing is left behind by launches that were killed. */
typedef struct joust_launch_places {
    char private_dir[80];
    char work[128], status[JOUST_MAX_ENDPOINT_BYTES]; /* endpoints */
    char *logs, *cache;
} joust_launch_places;

/* Errors: JOUST_NOMEM, JOUST_INVALID; *ret is the caller's to free whatever happens. */
JOUST_MUST_USE joust_status joust_launch_places_choose(const joust_launch_options *options,
                                                       joust_launch_places *ret, joust_error *err);
void joust_launch_places_fini(joust_launch_places *places);

/* The arguments of one role's process; views of the options and the places. */
typedef struct joust_launch_command {
    char name[32];
    char texts[8][64]; /* numbers and names made for it */
    uint32_t n_texts, n;
    const char *argv[JOUST_LAUNCH_ARGUMENTS + 1];
} joust_launch_command;
typedef joust_status joust_launch_command_fn(void *arg, const joust_launch_command *c,
                                             joust_error *err);
/* Calls fn for the coordinator, each worker and each judge. Errors: those of fn. */
JOUST_MUST_USE joust_status joust_launch_each_command(const joust_launch_options *options,
                                                      const joust_launch_places *places,
                                                      joust_launch_command_fn *fn, void *arg,
                                                      joust_error *err);

#endif
