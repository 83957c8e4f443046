/* joust worker: one role, for whoever places processes by hand; `joust launch` starts it too. */
#include "ops/role_options.h"
#include "ops/verbs.h"
#include "worker/worker.h"

int joust_verb_worker(int argc, char **argv)
{
    bool can_train = true;
    const joust_role_usage usage = {
        .verb = "worker",
        .synopsis = "joust worker --connect ENDPOINT --name NAME [--threads N] [--cache DIR]",
        .about = "Generates and trains for one coordinator, until it says goodbye.\n"
                 "Exit status: 0 over or ended by a signal, 1 failed, 3 no coordinator.",
        .can_train = &can_train};
    joust_role_start start;
    joust_error err;
    int status = joust_role_parse(&usage, argc, argv, &start);
    if (status >= 0)
        return status;
    joust_status st = joust_worker_run(&start.options, can_train, &err);
    return joust_role_end(&usage, &start, st, &err);
}
