#include "judge/kind.h"

#define SPREAD 5.0 /* standard deviation: the scale of a yes-no judge's log-odds */

static joust_status conclude(const joust_case *c, joust_verdict *verdicts, uint32_t n,
                             joust_error *err)
{
    joust_status st = JOUST_OK;
    for (uint32_t i = 0; i < n && st == JOUST_OK; i++) {
        joust_stream_name name = {.job_seed = c->seed,
                                  .stage = c->unit->unit.stage,
                                  .round = c->unit->unit.round,
                                  .prompt = c->unit->unit.position,
                                  .sample = verdicts[i].sample,
                                  .purpose = JOUST_PURPOSE_JUDGE};
        joust_stream stream = joust_stream_open(&name);
        st = joust_verdict_accept(&verdicts[i], JOUST_OUTCOME_OK,
                                  SPREAD * joust_stream_normal(&stream, 0), err);
    }
    return st;
}

const joust_kind joust_kind_random = {
    .name = "random", .count = joust_count_each, .list = joust_list_each, .conclude = conclude};
