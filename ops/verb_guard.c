/* joust guard COMMAND: what a worker starts a program of others under (worker/guard.h). */
#include <stdio.h>

#include "ops/cli.h"
#include "ops/verbs.h"
#include "worker/guard.h"

int joust_verb_guard(int argc, char **argv)
{
    if (argc == 2)
        return joust_guard_main(argv[1]);
    fprintf(stderr, "joust guard: it is started by a worker\n");
    return JOUST_EXIT_USAGE;
}
