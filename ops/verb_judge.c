/* joust judge: one role, for whoever places processes by hand; `joust launch` starts it too. */
#include "judge/judge.h"
#include "ops/role_options.h"
#include "ops/verbs.h"

int joust_verb_judge(int argc, char **argv)
{
    const joust_role_usage usage = {
        .verb = "judge",
        .synopsis = "joust judge --connect ENDPOINT --name NAME [--threads N] [--cache DIR]",
        .about = "Judges for one coordinator, until it says goodbye.\n"
                 "Exit status: 0 over or ended by a signal, 1 failed, 3 no coordinator."};
    joust_role_start start;
    joust_error err;
    int status = joust_role_parse(&usage, argc, argv, &start);
    if (status >= 0)
        return status;
    joust_status st = joust_judge_run(&start.options, &err);
    return joust_role_end(&usage, &start, st, &err);
}
